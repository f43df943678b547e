"""The posterior of a neutron-star merger with its edges declared: held-out likelihood, and what lies outside.

python benchmarks/gw170817.py run --data DIR [--seeds 3]
python benchmarks/gw170817.py report
python benchmarks/gw170817.py edges --data DIR [--seeds 2]

The protocol is that of ``quality.py``, whose published figures of other libraries ``report`` sets beside. The flows see the
columns m1 - m2, m2, Lambda1 and Lambda2, all positive; the map to the original columns has determinant 1, so that likelihoods in
the standardised units of these differ by a constant. Each recipe, and an ensemble of four, is trained with
``support="positive"`` and without, with the default ``fit``. ``run`` writes ``results/gw170817.json``; outside means that a
draw has a column that is not positive. ``edges`` compares other declarations of the same edges, on validation rows alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
sys.path.insert(0, str(HERE / "densities"))

import penstock as ps  # noqa: E402
from tables import TABLES, raw  # noqa: E402

Array = np.ndarray[Any, Any]

RECIPES: dict[str, Any] = {
    "nsf": ps.nsf,
    "nsf_ar": ps.nsf_ar,
    "nsf_ar ensemble": lambda dim, support, rng: ps.Ensemble(
        lambda rng: ps.nsf_ar(dim, support=support, rng=rng), 4, rng=rng
    ),
}
SUPPORTS = {"positive": "positive", "none": None}
DRAWS = 1_000_000
# The prior of both deformabilities ends at 5000; m1 - m2 of these masses stays below 3.
EDGES: dict[str, Any] = {
    "all positive": "positive",
    "deformabilities in boxes": ["positive", "positive", (0, 5000), (0, 5000)],
    "difference of masses in a box": [(0, 3), "positive", "positive", "positive"],
    "both": [(0, 3), "positive", (0, 5000), (0, 5000)],
}


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "gw170817.json")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder that holds the tables")
    run.add_argument("--seeds", type=int, default=3)
    edges_ = verbs.add_parser("edges")
    edges_.add_argument("--data", type=Path, required=True, metavar="DIR")
    edges_.add_argument("--seeds", type=int, default=2)
    report_ = verbs.add_parser("report")
    report_.add_argument("--quality", type=Path, default=RESULTS / "quality.json")
    given = parser.parse_args()
    if given.verb == "run":
        given.output.write_text(json.dumps(measured(given.data, given.seeds), indent=1) + "\n")
    elif given.verb == "edges":
        edges(given.data, given.seeds)
    else:
        print(report(json.loads(given.output.read_text()), json.loads(given.quality.read_text())))


def with_edges(x: Array) -> Array:
    """(m1, m2, Lambda1, Lambda2) as columns that are positive by themselves."""
    return np.column_stack([x[:, 0] - x[:, 1], x[:, 1:]])


def measured(data: Path, seeds: int) -> dict[str, Any]:
    """Likelihoods of test rows by seed, and draws outside, of each recipe with and without supports."""
    x = TABLES["gw170817"](data).astype(np.float64)
    # An open end: a row on it would be refused by ``fit``. This table has none.
    assert (with_edges(x) > 0).all()
    parts = raw(x)
    constant = float(np.log(parts[0].std(axis=0)).sum())
    train, validation, test = (with_edges(part) for part in parts)
    scores: dict[str, list[Array]] = {}
    models: dict[str, Any] = {}
    for seed in range(seeds):
        for recipe, make in RECIPES.items():
            for name, support in SUPPORTS.items():
                flow = make(4, support=support, rng=seed)
                flow.fit(train, validation=validation, rng=seed, progress=False)
                score = flow.log_prob(test).astype(np.float64) + constant
                drawn = flow.sample(DRAWS, rng=seed)
                own = models.setdefault(f"{recipe}, {name}", {"test": [], "outside": []})
                own["test"].append(float(score.mean()))
                own["outside"].append(int((~(drawn > 0).all(axis=1)).sum()))
                scores.setdefault(f"{recipe}, {name}", []).append(score)
                print(f"{recipe}, {name}, seed {seed}: {score.mean():.4f}, outside {own['outside'][-1]}", flush=True)
    for name, own in scores.items():
        mean = np.mean(own, axis=0)
        models[name] |= {"mean": float(mean.mean()), "error": float(mean.std() / np.sqrt(len(mean)))}
    return {"penstock": ps.__version__, "test_rows": len(test), "draws": DRAWS, "models": models}


def edges(data: Path, seeds: int) -> None:
    """Print likelihoods of validation rows, which ``fit`` stops by, of ``nsf`` with each declaration."""
    parts = raw(TABLES["gw170817"](data).astype(np.float64))
    constant = float(np.log(parts[0].std(axis=0)).sum())
    train, validation = (with_edges(part) for part in parts[:2])
    for name, support in EDGES.items():
        scores = []
        for seed in range(11, 11 + seeds):
            flow = ps.nsf(4, support=support, rng=seed)
            flow.fit(train, validation=validation, rng=seed, progress=False)
            scores.append(float(flow.log_prob(validation).astype(np.float64).mean()) + constant)
        print(f"{name}: {', '.join(f'{score:.4f}' for score in scores)}", flush=True)


def report(results: dict[str, Any], quality: dict[str, Any]) -> str:
    """The numbers in Markdown, with those of the other libraries on the same test rows."""
    draws = results["draws"]
    lines = [
        "| model | test log-likelihood, nats a row, ± over rows (seeds) | draws outside, of 10⁶, by seed | mass outside |",
        "|---|---|---|---|",
    ]
    for name, own in results["models"].items():
        seeds = ", ".join(f"{value:.3f}" for value in own["test"])
        outside = ", ".join(map(str, own["outside"]))
        share = np.mean(own["outside"]) / draws
        lines.append(f"| {name} | {own['mean']:.3f} ± {own['error']:.3f} ({seeds}) | {outside} | {100 * share:.3f} % |")
    others = quality["tables"]["gw170817"]
    assert others["test_rows"] == results["test_rows"]
    rows = {name: model for name, model in others["models"].items() if "mean" in model}
    for name, model in sorted(rows.items(), key=lambda item: -item[1]["mean"]):
        lines.append(f"| {name} | {model['mean']:.3f} ± {model['error']:.3f} | | |")
    best = max(model["mean"] for name, model in rows.items() if not name.startswith("penstock"))
    ahead = ", ".join(f"{name}: {own['mean'] - best:+.3f}" for name, own in results["models"].items())
    return "\n".join([*lines, "", f"Ahead of the best of the others: {ahead}"])


if __name__ == "__main__":
    main()
