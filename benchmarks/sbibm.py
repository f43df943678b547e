"""Posteriors of the sbi benchmark: C2ST against reference draws, expected coverage, and minutes.

python benchmarks/sbibm.py run --data FOLDER --tasks slcp two_moons --simulations 10000 100000 --seeds 0 1
python benchmarks/sbibm.py run --observations 0 --tasks slcp --set ensemble=4 patience=40 --recipe nsf_ar --recipe-set layers=3
python benchmarks/sbibm.py run --observations 0 --tasks slcp --simulations 10000 --embedding 64 --set embedding_dim=16
python benchmarks/sbibm.py report

Needs scikit-learn and SciPy. FOLDER holds an .npz for each task, with ``observation`` (m, c) and ``reference_posterior``
(m, 10 000, dim), which is public data of the benchmark. Without observations only what fresh simulations tell is measured: their
negative log-likelihood, and how many lie in regions that should hold 50, 68, 90 and 95 % of them.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from penstock.recipes import RECIPES

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
from sbibm_tasks import BUDGETS, FLOOR, TASKS, Array, Task  # noqa: E402

LEVELS = (0.5, 0.68, 0.9, 0.95)


def c2st(reference: Array, draws: Array, jobs: int = 1) -> float:
    """How often a classifier tells two sets of draws apart, as the paper of the benchmark defines it; 0.5: it cannot."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, std = reference.mean(axis=0), reference.std(axis=0)
    both = np.concatenate([(reference - mean) / std, (draws - mean) / std])
    label = np.repeat([0, 1], [len(reference), len(draws)])
    width = 10 * reference.shape[1]
    classifier = MLPClassifier((width, width), activation="relu", solver="adam", max_iter=10_000, random_state=1)
    folds = KFold(5, shuffle=True, random_state=1)
    scores = cross_val_score(classifier, both, label, cv=folds, scoring="accuracy", n_jobs=jobs)
    return float(scores.mean())


def coverage(posterior: Any, theta: Array, x: Array, draws: int) -> dict[str, Any]:
    """Expected coverage of regions of highest density, with standard errors."""
    found = ps.diagnostics.hdr_coverage(posterior, theta, x, levels=LEVELS, draws=draws, rng=0)
    return {"observed": found.observed[:, 0].tolist(), "error": found.error[:, 0].tolist(), "p_value": found.p_value}


def trained(task: Task, method: str, simulations: int, seed: int, options: dict[str, Any]) -> tuple[Any, float]:
    """A posterior or likelihood from simulations of a seed, and the minutes that it took."""
    theta = task.prior.sample(simulations, np.random.default_rng([seed, 0]))
    x = task.simulate(theta, np.random.default_rng([seed, 1]))
    start = time.perf_counter()
    infer = ps.npe if method == "npe" else ps.nle
    model = infer(theta, x, prior=task.prior, rng=seed, progress=False, **options)
    return model, (time.perf_counter() - start) / 60


def run(name: str, simulations: int, seed: int, given: argparse.Namespace, options: dict[str, Any]) -> dict[str, Any]:
    """Train once, and measure."""
    task = TASKS[name]
    model, minutes = trained(task, given.method, simulations, seed, options)
    result: dict[str, Any] = {"task": name, "method": given.method, "simulations": simulations, "seed": seed}
    result |= {"options": given.words, "minutes": minutes, "c2st": {}}
    print(f"{name}, {simulations} simulations, seed {seed}: {minutes:.2f} min; {model.history}", flush=True)
    fresh = np.random.default_rng([seed, 2])
    theta = task.prior.sample(given.fresh, fresh)
    x = task.simulate(theta, fresh)
    if given.method == "npe":
        start = time.perf_counter()
        result["nll"] = -float(np.mean(model.log_prob(theta, x)))
        result["coverage"] = coverage(model, theta, x, given.draws)
        shares = ", ".join(f"{100 * share:.1f}" for share in result["coverage"]["observed"])
        seconds = time.perf_counter() - start
        print(f"  nll {result['nll']:.3f}; regions of 50, 68, 90, 95 % hold {shares} % ({seconds:.0f} s)", flush=True)
    else:
        result["nll"] = -float(np.mean(model.log_likelihood(theta, x)))
        print(f"  nll {result['nll']:.3f}", flush=True)
    for number in range(given.observations):
        with np.load(given.data / f"{name}.npz") as table:
            observed, reference = table["observation"][number], table["reference_posterior"][number]
        start = time.perf_counter()
        reference = reference[: given.compare].astype(np.float64)
        draws = model.sample(len(reference), observed.astype(np.float64), rng=seed).astype(np.float64)
        seconds = time.perf_counter() - start
        outside = float(np.mean(task.prior.log_prob(draws) == -np.inf))
        result["c2st"][str(number)] = c2st(reference, draws, given.jobs)
        print(
            f"  observation {number}: C2ST {result['c2st'][str(number)]:.3f}, {100 * outside:.2f} % outside the prior, "
            f"drawn in {seconds:.1f} s",
            flush=True,
        )
    return result


def assignments(words: list[str]) -> dict[str, Any]:
    """``name=value`` words, values as Python writes them, or plain words."""
    found: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def report(results: list[dict[str, Any]]) -> str:
    """A line for each task, budget, method and choice of options."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for one in results:
        groups.setdefault((one["task"], one["simulations"], one["method"], one["options"]), []).append(one)
    lines = [
        "| task | simulations | method | C2ST (s.e.) | bar | published NPE | met | minutes | fifth of published | nll | "
        "coverage of 50, 68, 90, 95 % |",
        "|---" * 11 + "|",
    ]
    order = list(TASKS)
    for key in sorted(groups, key=lambda key: (order.index(key[0]), key[1], *map(str, key[2:]))):
        name, simulations, method, options = key
        runs = groups[key]
        words = [name, f"{simulations}", method + (f" {options}" if options else "")]
        scores = np.array([list(one["c2st"].values()) for one in runs if one["c2st"]])
        known = simulations in BUDGETS
        task = TASKS[name]
        if scores.size:
            mean, error = (
                scores.mean(),
                scores.mean(axis=0).std(ddof=1) / np.sqrt(scores.shape[1]) if scores.shape[1] > 1 else 0,
            )
            words.append(f"{mean:.3f} ({error:.3f})")
        else:
            mean = np.nan
            words.append("")
        words += (
            [f"{task.bar(simulations):.3f}", f"{task.published[BUDGETS.index(simulations)]:.3f}"] if known else ["", ""]
        )
        words.append(
            ("yes" if mean <= FLOOR or mean < task.bar(simulations) else "no") if known and mean == mean else ""
        )
        words.append(f"{np.mean([one['minutes'] for one in runs]):.2f}")
        words.append(f"{task.minutes[BUDGETS.index(simulations)] / 5:.2f}" if known else "")
        words.append(f"{np.mean([one['nll'] for one in runs]):.3f}")
        words.append(covered(runs))
        lines.append("| " + " | ".join(words) + " |")
    return "\n".join(lines)


def covered(runs: list[dict[str, Any]]) -> str:
    """Shares in per cent, an asterisk where one is off by more than 2 and two standard errors."""
    every = [one["coverage"] for one in runs if "coverage" in one]
    if not every:
        return ""
    share = np.mean([one["observed"] for one in every], axis=0)
    error = np.sqrt(np.mean(np.square([one["error"] for one in every]), axis=0) / len(every))
    off = np.abs(share - LEVELS) > 0.02 + 2 * error
    return ", ".join(f"{100 * value:.1f}{'*' if wrong else ''}" for value, wrong in zip(share, off, strict=True))


def boxed(recipe: Callable[..., ps.Flow], task: Task) -> Callable[..., ps.Flow]:
    """A recipe whose flows have the supports of the prior as they are."""
    return lambda *dims, support=None, **options: recipe(*dims, support=task.prior.support, **options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("--data", type=Path, help="folder of observations and reference draws")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--simulations", nargs="+", type=int, default=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--observations", type=int, default=5, help="how many of those in the files; 0 needs no files")
    parser.add_argument("--method", choices=("npe", "nle"), default="npe")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="arguments of ps.npe, ps.nle and fit"
    )
    parser.add_argument("--recipe", choices=RECIPES)
    parser.add_argument("--recipe-set", nargs="+", default=[], metavar="NAME=VALUE", help="arguments of the recipe")
    parser.add_argument(
        "--embedding",
        nargs="*",
        type=int,
        metavar="WIDTH",
        help="hidden layers of the network that reads x; nothing: no network",
    )
    parser.add_argument(
        "--boxes", action="store_true", help="keep the boxes of priors, which npe makes lines by a logit"
    )
    parser.add_argument("--fresh", type=int, default=5000, help="simulations for coverage")
    parser.add_argument("--draws", type=int, default=500, help="for each of them")
    parser.add_argument(
        "--compare", type=int, default=10_000, help="draws for C2ST; scores of fewer are no C2ST of the paper"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes for C2ST")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "sbibm.json")
    given = parser.parse_args()
    words = [*given.set, *([f"recipe={given.recipe}"] if given.recipe else []), *given.recipe_set]
    if given.embedding is not None:
        words.append(f"embedding={tuple(given.embedding) or None}")
    given.words = " ".join([*words, *(["boxes"] if given.boxes else [])])
    if given.verb == "run" and given.observations and given.data is None:
        parser.error("--data is needed for observations; --observations 0 goes without")
    return given


def main() -> None:
    """Run what is asked for, one after the other, and keep each result; or print the table of all."""
    given = arguments()
    results = json.loads(given.output.read_text()) if given.output.exists() else []
    if given.verb == "run":
        options = assignments(given.set)
        if given.embedding is not None:
            options["embedding"] = ps.MLP(tuple(given.embedding)) if given.embedding else None
        recipe = partial(RECIPES[given.recipe or "nsf_ar"], **assignments(given.recipe_set))
        for name in given.tasks:
            if given.boxes:
                options["recipe"] = boxed(recipe, TASKS[name])
            elif given.recipe or given.recipe_set:
                options["recipe"] = recipe
            for simulations in given.simulations:
                for seed in given.seeds:
                    found = run(name, simulations, seed, given, options)
                    same = ("task", "method", "simulations", "seed", "options")
                    results = [one for one in results if any(one[key] != found[key] for key in same)] + [found]
                    given.output.write_text(json.dumps(results, indent=1) + "\n")
    print(report(results))


if __name__ == "__main__":
    main()
