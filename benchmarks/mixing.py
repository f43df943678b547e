"""What exact marginals and conditionals cost: likelihood of ``nsf_ar`` with one order in all layers, and with LU.

python benchmarks/mixing.py run [--seeds 3]
python benchmarks/mixing.py report

The table is the galaxies of the demo, under the protocol of ``densities/tables.py``; both flows have the default ``fit``.
``run`` writes ``results/mixing.json``: mean log-likelihoods of test rows and their paired difference. ``report`` prints that.
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
from penstock.demo import NOT_DETECTED, galaxies  # noqa: E402
from tables import split  # noqa: E402

Array = np.ndarray[Any, Any]

MIXINGS = ("lu", "none")


def main() -> None:
    """Run or report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "mixing.json")
    verbs = parser.add_subparsers(dest="verb", required=True)
    run = verbs.add_parser("run")
    run.add_argument("--seeds", type=int, default=3)
    verbs.add_parser("report")
    given = parser.parse_args()
    if given.verb == "run":
        given.output.write_text(json.dumps(measured(given.seeds), indent=1) + "\n")
    else:
        print(report(json.loads(given.output.read_text())))


def measured(seeds: int) -> dict[str, Any]:
    """Test likelihoods, by seed, and paired differences of their means over seeds."""
    x = galaxies().astype(np.float64)
    train, validation, test = split(x[(x != NOT_DETECTED).all(axis=1)])
    scores: dict[str, list[Array]] = {mixing: [] for mixing in MIXINGS}
    for seed in range(seeds):
        for mixing in MIXINGS:
            flow = ps.nsf_ar(x.shape[1], mixing=mixing, rng=seed)
            flow.fit(train, validation=validation, rng=seed, progress=False)
            scores[mixing].append(flow.log_prob(test).astype(np.float64))
            print(f"mixing={mixing!r}, seed {seed}: {scores[mixing][-1].mean():.4f}", flush=True)
    change = np.mean(scores["none"], axis=0) - np.mean(scores["lu"], axis=0)
    return {
        "penstock": ps.__version__,
        "test_rows": len(test),
        "test": {mixing: [float(score.mean()) for score in own] for mixing, own in scores.items()},
        "change": float(change.mean()),
        "change_error": float(change.std() / np.sqrt(len(change))),
    }


def report(results: dict[str, Any]) -> str:
    """The numbers in Markdown."""
    lines = ["| mixing | test log-likelihood, nats a row (seeds) |", "|---|---|"]
    for mixing, values in results["test"].items():
        lines.append(f"| {mixing} | {np.mean(values):.3f} ({', '.join(f'{value:.3f}' for value in values)}) |")
    lines += ["", f"none minus lu, paired: {results['change']:+.3f} ± {results['change_error']:.3f}"]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
