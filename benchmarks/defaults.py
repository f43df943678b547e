"""How the defaults of ``fit`` and of the affine recipes were chosen: one thing changed at a time, judged by validation rows.

python benchmarks/defaults.py run --data DIR [--variants NAME ...]
python benchmarks/defaults.py report

The tables are those of ``densities/tables.py`` that no comparison uses; test rows are never scored. ``run`` keeps what it
has in ``results/defaults.json`` and goes on from there. ``report`` prints, in Markdown, how much better or worse than
the base each variant validates, in thousandths of a nat a row, mean over the same seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "densities"))

import penstock as ps  # noqa: E402
from penstock.training import mean, options  # noqa: E402
from tables import TABLES, TUNING, load  # noqa: E402

BASE = "base"
# Where the study began, stated in full, so that no later change of a default moves it.
BEGINNING: dict[str, dict[str, Any]] = {
    "recipe": {"activation": "relu"},
    "fit": {"learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.02, "clip_norm": 10.0, "weight_decay": 0.0},
    "constants": {"STEPS": 8000, "EPOCHS": 200, "PART": 0.05},
}
MIXING = {"realnvp": "random", "nsf": "random", "glow": "lu", "maf": "reverse", "nsf_ar": "reverse"}
# Words of a variant's name, and what each changes: options of the recipe, arguments of fit, constants of penstock.training.
CHANGES: dict[str, dict[str, Any]] = {
    **{word: {"recipe": {"activation": word}} for word in ("silu", "tanh", "gelu", "relu")},
    **{word: {"make": word} for word in ("glow", "nsf", "maf", "nsf_ar")},
    **{f"mixing {word}": {"recipe": {"mixing": word}} for word in ("none", "reverse", "random", "lu")},
    **{f"bound {value:g}": {"recipe": {"scale_bound": value}} for value in (1.0, 1.5, 2.0, 3.0, 5.0, 8.0)},
    **{f"layers {value}": {"recipe": {"layers": value}} for value in (5, 8, 12, 16)},
    **{f"hidden {value}": {"recipe": {"hidden": (value, value)}} for value in (32, 64, 96, 128)},
    "residual": {"recipe": {"residual": True}},
    **{f"rate {value:g}": {"fit": {"learning_rate": value}} for value in (5e-4, 1e-3, 2e-3, 3e-3, 5e-3)},
    "onecycle": {"fit": {"schedule": "onecycle", "warmup": 0.3}},
    "plateau": {"fit": {"schedule": "plateau"}},
    **{f"warm-up {value:g}": {"fit": {"warmup": value}} for value in (0.02, 0.1)},
    **{f"batch {value}": {"fit": {"batch_size": value}} for value in (128, 256, 512, 1024)},
    **{f"steps {value}": {"constants": {"STEPS": value, "EPOCHS": value // 40}} for value in (4000, 16000)},
    "longer": {"constants": {"STEPS": 16000}},
    **{f"clip {value:g}": {"fit": {"clip_norm": value}} for value in (1.0, 3.0, 10.0, 100.0)},
    **{f"decay {value:g}": {"fit": {"weight_decay": value}} for value in (0.01, 0.1, 0.3, 1.0)},
    **{f"mean {value:g}": {"constants": {"PART": value}} for value in (0.02, 0.05, 0.1, 0.2)},
    "no mean": {"constants": {"STEPS_MIN": 10**9}},
    "robust": {"fit": {"standardize": "robust"}},
}


def changes(name: str) -> dict[str, Any]:
    """What a variant changes, by the words of its name: ``"tanh, mixing lu"``."""
    out: dict[str, Any] = {kind: dict(values) for kind, values in BEGINNING.items()} | {"make": "realnvp"}
    for word in name.split(", ") if name != BASE else []:
        for kind, value in CHANGES[word].items():
            out[kind] = value if kind == "make" else out[kind] | value
    out["recipe"] = {"mixing": MIXING[out["make"]], **out["recipe"]}
    return out


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "defaults.json")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--data", type=Path, required=True, metavar="DIR")
    run.add_argument("--tables", nargs="+", choices=TABLES, default=list(TUNING))
    run.add_argument("--variants", nargs="+", metavar="WORD, WORD", default=[BASE])
    run.add_argument("--seeds", type=int, default=2)
    verbs.add_parser("report")
    given = parser.parse_args()
    results = json.loads(given.output.read_text()) if given.output.exists() else []
    if given.verb == "run":
        for variant in given.variants:
            changes(variant)  # a word that is not known is an error now, not later
        for variant in given.variants:
            for table in given.tables:
                for seed in range(given.seeds):
                    key = {"variant": variant, "table": table, "seed": seed}
                    if not any(key.items() <= result.items() for result in results):
                        results.append(key | one(changes(variant), load(table, given.data)[:2], seed))
                        given.output.write_text(json.dumps(results, indent=0) + "\n")
            print(report(results).splitlines()[-1], flush=True)
    print(report(results))


def one(variant: dict[str, Any], parts: Any, seed: int) -> dict[str, Any]:
    """Fit one flow; its best validation likelihood, and the seconds it took."""
    train, validation = parts
    recipe = getattr(ps, variant["make"])
    flow = recipe(train.shape[1], rng=seed, **variant["recipe"])
    changed = [
        (options if hasattr(options, name) else mean, name, value) for name, value in variant["constants"].items()
    ]
    constants = [(module, name, getattr(module, name)) for module, name, _ in changed]
    start = time.perf_counter()
    try:
        for change in changed:
            setattr(*change)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            flow.fit(train, validation=validation, rng=seed, progress=False, **variant["fit"])
    except ps.TrainingError as error:
        return {"validation": float("-inf"), "seconds": 0.0, "failed": str(error)}
    finally:
        for constant in constants:
            setattr(*constant)
    losses = flow.history.validation_loss
    gap = flow.history.train_loss[-1] - losses[-1]
    seconds = round(time.perf_counter() - start, 2)
    return {"validation": -min(losses), "last": -losses[-1], "train_minus": -gap, "seconds": seconds}


def report(results: list[dict[str, Any]]) -> str:
    """Differences from the base in Markdown."""
    tables = list(dict.fromkeys(result["table"] for result in results))
    variants = list(dict.fromkeys(result["variant"] for result in results))
    got = {(result["variant"], result["table"], result["seed"]): result for result in results}
    lines = ["| | " + " | ".join(tables) + " | mean | seeds | time |", "|---|" + "---|" * (len(tables) + 3)]
    for variant in variants:
        own = [table for table in tables if any(key[:2] == (variant, table) for key in got)]
        seeds = [seed for seed in range(10) if all((variant, table, seed) in got for table in own)]
        if not seeds:
            continue

        def mean(name: str, table: str, what: str, seeds: list[int] = seeds) -> float:
            return float(np.mean([got[name, table, seed][what] for seed in seeds]))

        value = {table: mean(variant, table, "validation") for table in own}
        if variant == BASE:
            lines.append(f"| {BASE} | " + " | ".join(f"{v:.3f}" for v in value.values()) + f" | | {len(seeds)} | 1 |")
            continue
        change = {table: 1e3 * (value[table] - mean(BASE, table, "validation")) for table in own}
        seconds = [sum(mean(name, table, "seconds") for table in own) for name in (variant, BASE)]
        cells = " | ".join(f"{change[table]:+.0f}" if table in change else "" for table in tables)
        average = f"{np.mean(list(change.values())):+.0f}" if own == tables else ""
        lines.append(f"| {variant} | {cells} | {average} | {len(seeds)} | {seconds[0] / seconds[1]:.2g} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
