"""What an ensemble of four costs beside one of its members, in turns: many rows, 64 rows on two threads, one row.

python benchmarks/ensembles.py [--rounds 15] [--members 4] [--flow nsf]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import penstock as ps

DIM = 6
# Rows, threads (None: all), calls in one reading, and what the ratio is to stay below with four members.
TASKS = {
    "1e5 rows": (100_000, None, 1, 4.05),
    "1e5 rows, one thread": (100_000, 1, 1, 4.05),
    "64 rows, two threads": (64, 2, 200, 2.5),
    "one row": (1, None, 2000, 3.0),
    "one row, one thread": (1, 1, 2000, 3.0),
}


def pair(recipe: str, members: int) -> tuple[ps.Flow, ps.Ensemble]:
    """An ensemble whose members have random parameters, and the first of them."""
    flows = list(ps.Ensemble(lambda rng: getattr(ps, recipe)(DIM, rng=rng), members, rng=0).members)
    source = np.random.default_rng(0)
    for flow in flows:
        flow.params = flow.params + 0.1 * source.standard_normal(flow.n_params).astype(np.float32)
    return flows[0], ps.Ensemble(flows)


def seconds_of(call: Callable[[], Any], count: int) -> float:
    """Time of one of so many calls."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def called(own: Any, verb: str, x: Any, n: int) -> Callable[[], Any]:
    """The call that is timed."""
    return (lambda: own.sample(n, rng=0)) if verb == "sample" else (lambda: getattr(own, verb)(x))


def main() -> None:
    """Time them and print ratios; those of neighbours in time, of which the median counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--flow", nargs="*", default=["nsf", "nsf_ar", "realnvp"])
    arguments = parser.parse_args()
    for recipe in arguments.flow:
        flow, ensemble = pair(recipe, arguments.members)
        rows = np.random.default_rng(1).standard_normal((100_000, DIM)).astype(np.float32)
        for verb in ("log_prob", "log_prob_and_grad", "sample"):
            for name, (n, threads, count, bar) in TASKS.items():
                x = rows[:n]
                with ps.threads(threads or ps.num_threads()):
                    calls = [called(own, verb, x, n) for own in (flow, ensemble)]
                    readings = [tuple(seconds_of(call, count) for call in calls) for _ in range(arguments.rounds + 1)][
                        1:
                    ]
                ratio = statistics.median(many / one for one, many in readings)
                one, many = (1e6 * statistics.median(own) for own in zip(*readings, strict=True))
                wanted = f"   bar {bar}" if verb == "log_prob" and arguments.members == 4 else ""
                print(
                    f"{recipe:8} {verb:18} {name:22} {one:10.1f} us {many:10.1f} us   {ratio:.3f}{wanted}", flush=True
                )


if __name__ == "__main__":
    main()
