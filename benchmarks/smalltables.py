"""How the budget of ``fit`` was chosen for small tables: batches, epochs, schedules and weight decay, single flows and mixtures;
and, on these and three larger ones, the network that reads a context.

python benchmarks/smalltables.py run --data DIR [--variants NAME ...] [--tables NAME ...] [--members 2]
python benchmarks/smalltables.py report

Tables that no comparison uses, and simulations of its own (seed 4242); the last rows of each table are scored, never trained on.
``run`` keeps what it has in ``results/smalltables.json`` and goes on from there. ``report`` prints, in Markdown, the mean
log-likelihood of single members, that of their mixture, CPU seconds a member (one thread), and, for posteriors, the coverage of
their 50, 68, 90 and 95 % highest-density regions by the mixture.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from sbibm_tasks import slcp

HERE = Path(__file__).resolve().parent
LEVELS = (0.5, 0.68, 0.9, 0.95)
Array = np.ndarray[Any, Any]
Table = tuple[Array, Array | None, Array, Array | None]  # rows and context to fit, and to score

# Arguments of fit, and of the recipe. The first is the default of 0.1.0, whose batches were of 256 rows and more.
OLD: dict[str, Any] = {"epochs": 200, "batch_size": 256, "weight_decay": 0.0}
PLATEAU: dict[str, Any] = {"batch_size": 256, "schedule": "plateau", "patience": 40, "epochs": 200}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "0.1.0": (OLD, {}),
    "no embedding": ({}, {}),
    **{f"256 rows, {n} epochs": (OLD | {"epochs": n}, {}) for n in (60, 100)},
    **{f"{rows} rows, {n} epochs": (OLD | {"batch_size": rows, "epochs": n}, {}) for rows in (64, 128) for n in (30, 50, 100)},
    **{f"64 rows, 100 epochs, decay {d}": (OLD | {"batch_size": 64, "epochs": 100, "weight_decay": d}, {}) for d in (0.1, 0.3)},
    **{f"256 rows, 200 epochs, decay {d}": (OLD | {"weight_decay": d}, {}) for d in (0.1, 1.0)},
    **{f"plateau, decay {d}": (PLATEAU | {"weight_decay": d}, {}) for d in (0.1, 0.3)},
    **{f"plateau, decay 0.1, {w}": (PLATEAU | {"weight_decay": 0.1}, o) for w, o in (
        ("silu", {"activation": "silu"}), ("relu", {"activation": "relu"}), ("128 units", {"hidden": (128, 128)}),
        ("3 layers", {"layers": 3}),
    )},
}  # fmt: skip
# These chose the budget, while no network read the context before conditioners did.
VARIANTS = {name: (fit, {"embedding": None} | recipe) for name, (fit, recipe) in VARIANTS.items()}
NETWORKS = (((64,), 8), ((64,), 16), ((128,), 16), ((128,), 32), ((128,), 64), ((64, 64), 16), ((128, 128), 32))
VARIANTS |= {
    f"{'x'.join(map(str, widths))} to {out}": ({}, {"embedding": ps.MLP(widths), "embedding_dim": out})
    for widths, out in NETWORKS
}
VARIANTS["128 to 32, tanh"] = ({}, {"embedding": ps.MLP((128,), "tanh"), "embedding_dim": 32})
VARIANTS["no embedding, relu"] = ({}, {"embedding": None, "activation": "relu"})


def _slcp(data: Path, rng: np.random.Generator, rows: int = 10_000) -> Table:
    theta = rng.uniform(-3, 3, (rows + 3000, 5))
    x = slcp(theta, rng)
    return theta[:rows], x[:rows], theta[rows:], x[rows:]


def _glm(data: Path, rng: np.random.Generator) -> Table:
    """Ten coefficients of a Bernoulli regression on a stimulus and nine of its delays, given the sufficient statistics."""
    stimulus = np.random.default_rng(1).standard_normal(100)
    design = np.stack([np.ones(100), *(np.r_[np.zeros(j), stimulus[: 100 - j]] for j in range(9))], axis=1)
    root = np.eye(9) - np.eye(9, k=-1)
    smooth = root @ root + np.diag(np.sqrt(np.arange(9) / 9))
    theta = np.concatenate(
        [
            rng.normal(0, np.sqrt(2), (13_000, 1)),
            rng.multivariate_normal(np.zeros(9), np.linalg.inv(smooth.T @ smooth), 13_000),
        ],
        axis=1,
    )
    x = (rng.random((13_000, 100)) < 1 / (1 + np.exp(-theta @ design.T))) @ design
    return theta[:10_000], x[:10_000], theta[10_000:], x[10_000:]


def _split(x: Array, held_out: int, rng: np.random.Generator, context: Array | None = None) -> Table:
    order = rng.permutation(len(x))
    test, train = order[:held_out], order[held_out:]
    given = (None, None) if context is None else (context[train], context[test])
    return x[train], given[0], x[test], given[1]


def _sky(data: Path, rng: np.random.Generator) -> Table:
    return _split(np.load(data / "sky_sdss/sdss.npz")["data"], 2000, rng)


def _redshift(data: Path, rng: np.random.Generator) -> Table:
    table = np.load(data / "sky_sdss/sdss.npz")
    columns = list(table["columns"])
    z = np.arcsinh(100 * table["data"][:, columns.index("redshift")])[:, None]
    return _split(z, 2000, rng, table["data"][:, [columns.index(band) for band in "ugriz"]])


def _protein(data: Path, rng: np.random.Generator) -> Table:
    x = np.load(data / "uci_tables/protein.npz")["data"].astype(float)
    return _split(x[rng.permutation(len(x))[:12_000]], 2000, rng)


def _concrete(data: Path, rng: np.random.Generator) -> Table:
    x = np.load(data / "uci_tables/concrete.npz")["data"].astype(float)
    return _split(x[:, 8:], 250, rng, x[:, :8])


def _zjets(data: Path, rng: np.random.Generator) -> Table:
    momenta = np.load(data / "hep_zjets/zjets_mlm.npz")["lepton_p4"][:, :, 1:]
    return _split(np.arcsinh(momenta.reshape(len(momenta), 6) / 20), 2000, rng)


def _target(data: Path, rng: np.random.Generator) -> Table:
    """The last column of the protein table given the nine others."""
    x = np.load(data / "uci_tables/protein.npz")["data"].astype(float)
    return _split(x[:, 9:], 3000, rng, x[:, :9])


def _power(data: Path, rng: np.random.Generator) -> Table:
    """One of six columns given the others."""
    x = np.load(data / "uci_power/power.npz")["train"].astype(float)
    return _split(x[:, :1], 10_000, rng, x[:, 1:])


TABLES: dict[str, Callable[[Path, np.random.Generator], Table]] = {
    "slcp": _slcp, "glm": _glm, "sky": _sky, "redshift": _redshift, "protein": _protein, "concrete": _concrete, "zjets": _zjets,
    "target": _target, "power": _power, "slcp 1e5": partial(_slcp, rows=100_000),
}  # fmt: skip


def mixture(members: Array) -> Array:
    """Log of the mean density of members (rows of ``members``)."""
    most = members.max(axis=0)
    return np.asarray(most + np.log(np.exp(members - most).mean(axis=0)))


def one(variant: str, name: str, data: Path, members: int) -> dict[str, Any]:
    """Fit the members of a variant and score the held-out rows."""
    rows, given, test, test_given = TABLES[name](data, np.random.default_rng(4242))
    fit, recipe = VARIANTS[variant]
    flows, seconds, stopped = [], [], []
    for seed in range(members):
        flow = ps.nsf_ar(rows.shape[1], context_dim=0 if given is None else given.shape[1], rng=seed, **recipe)
        start = time.process_time()
        flow.fit(rows, context=given, rng=seed, progress=False, **fit)
        seconds.append(time.process_time() - start)
        flows.append(flow)
        stopped.append([flow.history.best_epoch, len(flow.history)])
    scores = np.array([flow.log_prob(test, context=test_given) for flow in flows], float)
    result = {
        "single": float(scores.mean()), "mixture": float(mixture(scores).mean()), "seconds": float(np.mean(seconds)),
        "best and last epoch": stopped,
    }  # fmt: skip
    if test_given is not None and rows.shape[1] > 1:
        given_rows, n = test_given[:400], 200 // members
        draws = np.concatenate([flow.sample(n, context=given_rows, rng=7 + i) for i, flow in enumerate(flows)], axis=1)
        flat, repeated = draws.reshape(-1, draws.shape[-1]), np.repeat(given_rows, draws.shape[1], axis=0)
        of_draws = mixture(np.array([flow.log_prob(flat, context=repeated) for flow in flows], float))
        rank = (of_draws.reshape(len(given_rows), -1) > mixture(scores)[:400, None]).mean(axis=1)
        result["coverage"] = [float((rank < level).mean()) for level in LEVELS]
    return result


def report(results: list[dict[str, Any]]) -> str:
    """The results as a Markdown table."""
    tables = [name for name in TABLES if any(result["table"] == name for result in results)]
    lines = ["| | " + " | ".join(tables) + " |", "|---|" + "---|" * len(tables)]
    for variant in VARIANTS:
        cells = []
        for table in tables:
            found = [result for result in results if (result["variant"], result["table"]) == (variant, table)]
            cells.append("")
            for r in found:
                coverage = ", " + " ".join(f"{100 * c:.0f}" for c in r["coverage"]) + " %" if "coverage" in r else ""
                cells[-1] = f"{r['single']:.2f}, {r['mixture']:.2f}, {r['seconds']:.1f} s{coverage}"
        if any(cells):
            lines.append(f"| {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "smalltables.json")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--data", type=Path, required=True, metavar="DIR")
    run.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    run.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    run.add_argument("--members", type=int, default=2)
    verbs.add_parser("report")
    given = parser.parse_args()
    results = json.loads(given.output.read_text()) if given.output.exists() else []
    if given.verb == "run":
        ps.set_num_threads(1)
        warnings.simplefilter("ignore", ps.PenstockWarning)
        for variant in given.variants:
            for table in given.tables:
                key = {"variant": variant, "table": table}
                if not any(key.items() <= result.items() for result in results):
                    results.append(key | one(variant, table, given.data, given.members))
                    given.output.write_text(json.dumps(results, indent=0) + "\n")
    print(report(results))


if __name__ == "__main__":
    main()
