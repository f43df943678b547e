"""Held-out log-likelihoods of penstock's flows and of other densities on real tables, under one protocol.

python benchmarks/quality.py run --data DIR --tables galaxies --peer-python-zuko .venv-torch/bin/python [--test]
python benchmarks/quality.py report

``run`` fits every model that is asked for, seed by seed, each in a process of its own, and keeps what came of it in
``--scores`` (a folder that is not committed), so that a longer table can be put together run by run. Test rows
are scored only with ``--test``; without it, validation rows are all that any model sees. It then writes ``results/quality.json``:
mean log-likelihoods, paired differences on the same test rows, and times. ``report`` prints that as Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DENSITIES = HERE / "densities"
RESULTS = HERE / "results"
sys.path.insert(0, str(DENSITIES))

from tables import PROTOCOL, TABLES, circles, load  # noqa: E402

Array = np.ndarray[Any, Any]

FAMILIES = {"penstock": "penstock_.py", "classical": "classical.py", "zuko": "zuko_.py", "flowjax": "flowjax_.py"}


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "quality.json")
    parser.add_argument("--scores", type=Path, default=RESULTS / "quality-scores")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder that holds the tables")
    run.add_argument("--tables", nargs="+", choices=TABLES, default=list(PROTOCOL))
    run.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    run.add_argument("--models", nargs="+", metavar="NAME", help="(default: all of the families)")
    run.add_argument("--seeds", type=int, default=3)
    run.add_argument("--threads", type=int, default=2)
    run.add_argument("--test", action="store_true", help="score test rows, too")
    run.add_argument("--again", action="store_true", help="also fit what has been fitted before")
    for family in FAMILIES:
        if family != "penstock":
            own = {"default": sys.executable} if family == "classical" else {}
            run.add_argument(f"--peer-python-{family}", metavar="PYTHON", help=f"that has what {family} needs", **own)
    verbs.add_parser("report")
    given = parser.parse_args()
    if given.verb == "run":
        fit_all(given)
        summarise(given.scores, given.output)
    else:
        print(report(json.loads(given.output.read_text())))


# --- run --------------------------------------------------------------------------------------------------------


def fit_all(given: argparse.Namespace) -> None:
    """Fit each model that is asked for, seeds outermost, so that models which are compared run close together."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": str(given.threads), "PENSTOCK_NUM_THREADS": str(given.threads),
        "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={str(given.threads > 1).lower()}",
    }  # fmt: skip
    pythons = {family: getattr(given, f"peer_python_{family}", None) for family in FAMILIES} | {
        "penstock": sys.executable
    }
    commands = []
    for family in given.families:
        if pythons[family] is None:
            print(f"{family}: left out, --peer-python-{family} is not given")
        else:
            commands.append([pythons[family], str(DENSITIES / FAMILIES[family])])
    for table in given.tables:
        parts = dict(zip(("train", "validation", "test"), load(table, given.data), strict=True))
        if not given.test:
            del parts["test"]
        folder = given.scores / table
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as temporary:
            path = f"{temporary}/parts.npz"
            np.savez(path, circles=circles(table, given.data), **parts)
            work = [
                (command, name)
                for command in commands
                for name in models_of(command, path, environment)
                if given.models is None or name in given.models
            ]
            for seed in range(given.seeds):
                for command, name in work:
                    output = folder / f"{name}-{seed}.npz"
                    if output.exists() and not given.again and (not given.test or "test" in np.load(output)):
                        continue
                    print(f"{table}, {name}, seed {seed}: ", end="", flush=True)
                    subprocess.run(
                        [*command, path, name, str(seed), f"{temporary}/out.npz"], env=environment, check=True
                    )
                    with np.load(f"{temporary}/out.npz") as out:
                        about = json.loads(str(out["about"])) | machine(given.threads)
                        np.savez(output, **{**dict(out), "about": json.dumps(about)})


def models_of(command: list[str], table: str, environment: dict[str, str]) -> list[str]:
    """The models of one library that fit a table."""
    return subprocess.run(
        [*command, table], env=environment, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.splitlines()


def machine(threads: int) -> dict[str, Any]:
    """Where a model was fitted."""
    return {"threads": threads, "load": round(os.getloadavg()[0], 2), "machine": platform.machine()}


# --- results ----------------------------------------------------------------------------------------------------


def summarise(scores: Path, output: Path) -> None:
    """Put all that has been fitted into one JSON file."""
    results: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "tables": {}}
    for table in TABLES:
        fitted: dict[str, list[Any]] = {}
        for path in sorted((scores / table).glob("*.npz")):
            fitted.setdefault(path.stem.rsplit("-", 1)[0], []).append(dict(np.load(path)))
        if fitted:
            target = best_peer(fitted)
            models = {name: summary(runs, fitted.get(target)) for name, runs in fitted.items()}
            test = {name: mean for name, runs in fitted.items() if (mean := mean_score(runs)) is not None}
            ours = [name for name in test if name.startswith("penstock")]
            paired = {
                own: {other: difference(test[own], test[other]) for other in test if other != own} for own in ours
            }
            rows = len(next(iter(test.values()))) if test else 0
            results["tables"][table] = {"test_rows": rows, "target": target, "models": models, "paired": paired}
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {output}")


def best_peer(fitted: dict[str, list[dict[str, Array]]]) -> str:
    """The flow of another library that validates best: the likelihood which the others' times are told to."""
    best = {
        name: float(np.mean([run["curve"].max() for run in runs]))
        for name, runs in fitted.items()
        if not name.startswith("penstock") and all(len(run["curve"]) for run in runs)
    }
    return max(best, key=lambda name: best[name], default="")


def summary(runs: list[dict[str, Array]], target: list[dict[str, Array]] | None) -> dict[str, Any]:
    """What the seeds of one model gave."""
    abouts = [json.loads(str(run["about"])) for run in runs]
    out = {
        "validation": [about["validation"] for about in abouts],
        "seconds": [about["total"] for about in abouts],
        "epochs": [len(run["curve"]) for run in runs],
        "about": abouts[0],
    }
    score = mean_score(runs)
    if score is not None:
        out |= {"test": [float(run["test"].mean()) for run in runs], "mean": float(score.mean()), "error": error(score)}
    if target is not None and all(len(run["curve"]) for run in runs):
        out["reach"] = [reach(run, float(goal["curve"].max())) for run, goal in zip(runs, target, strict=False)]
    return out


def mean_score(runs: list[dict[str, Array]]) -> Array | None:
    """The log-density of each test row, averaged over seeds."""
    return np.mean([run["test"] for run in runs], axis=0) if all("test" in run for run in runs) else None


def difference(ours: Array, other: Array) -> list[float]:
    """Mean paired difference and its standard error."""
    return [float((ours - other).mean()), error(ours - other)]


def error(values: Array) -> float:
    """Standard error of the mean."""
    return float(values.std() / np.sqrt(len(values)))


def reach(run: dict[str, Array], goal: float) -> float | None:
    """Seconds of training until the validation likelihood was at least ``goal``."""
    there = np.flatnonzero(run["curve"] >= goal)
    return float(run["seconds"][there[0]]) if len(there) else None


# --- report -----------------------------------------------------------------------------------------------------


def report(results: dict[str, Any]) -> str:
    """The tables in Markdown."""
    lines = []
    tables = results["tables"]
    names = sorted({name for table in tables.values() for name in table["models"]}, key=order)
    scored = [table for table in tables if tables[table]["test_rows"]]
    if scored:
        lines += [
            "Test log-likelihood, nats a row, mean over seeds ± standard error over rows (seeds, and their spread):",
            "",
        ]
        lines += grid(names, scored, lambda name, table: likelihood(tables[table]["models"].get(name)))
        for own in sorted({own for table in scored for own in tables[table]["paired"]}, key=order):
            lines += ["", f"{own} minus the other, paired row by row, ± standard error:", ""]
            lines += grid(
                [name for name in names if name != own],
                scored,
                lambda name, table, own=own: pair(tables[table]["paired"].get(own, {}).get(name)),
            )
    lines += ["", "Best validation log-likelihood, mean over seeds:", ""]
    lines += grid(names, list(tables), lambda name, table: validation(tables[table]["models"].get(name)))
    lines += [
        "",
        "Seconds of training, and (of them, until the best validation likelihood that the best peer reached with that seed):",
        "",
    ]
    lines += grid(names, list(tables), lambda name, table: seconds(tables[table]["models"].get(name)))
    lines += ["| best peer | " + " | ".join(tables[table]["target"] for table in tables) + " |"]
    return "\n".join(lines)


def order(name: str) -> tuple[int, str]:
    """penstock first."""
    return (0 if name.startswith("penstock") else 1, name)


def grid(names: list[str], tables: list[str], cell: Any) -> list[str]:
    """Models down, tables across; models without any entry are left out."""
    rows = {name: [cell(name, table) for table in tables] for name in names}
    return [
        "| | " + " | ".join(tables) + " |",
        "|---|" + "---|" * len(tables),
        *(f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items() if any(cells)),
    ]


def likelihood(model: dict[str, Any] | None) -> str:
    """One cell of test likelihoods."""
    if model is None or "test" not in model:
        return ""
    return f"{model['mean']:.3f} ± {model['error']:.3f} ({len(model['test'])}, {np.std(model['test']):.3f})"


def pair(values: list[float] | None) -> str:
    """One cell of differences."""
    return "" if values is None else f"{values[0]:+.3f} ± {values[1]:.3f}"


def validation(model: dict[str, Any] | None) -> str:
    """One cell of validation likelihoods."""
    return "" if model is None else f"{np.mean(model['validation']):.3f}"


def seconds(model: dict[str, Any] | None) -> str:
    """One cell of times; medians."""
    if model is None:
        return ""
    reached = model.get("reach", [])
    told = "" if not reached else " (never)" if None in reached else f" ({np.median(reached):.3g})"
    return f"{np.median(model['seconds']):.3g}{told}"


if __name__ == "__main__":
    main()
