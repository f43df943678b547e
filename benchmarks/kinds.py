"""What supports cost: log_prob of 1e5 rows of `nsf` with eight real columns, eight boxes and eight circles, in turns.

python benchmarks/kinds.py [--rounds 15]
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

import penstock as ps

DIM, ROWS = 8, 100_000


def main() -> None:
    """Time them and print ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    source = np.random.default_rng(0)
    supports = {
        "real": None, "positive": "positive", "logit": ps.interval(0, 1, map="logit"), "box": (0, 1), "circle": ps.periodic(0, 1),
    }  # fmt: skip
    rows = source.uniform(0.01, 0.99, (ROWS, DIM)).astype(np.float32)
    calls = {}
    for name, support in supports.items():
        flow = ps.nsf(DIM, support=support, rng=0)
        flow.params = flow.params + 0.1 * source.standard_normal(flow.n_params).astype(np.float32)
        calls[f"log_prob of {name}"] = lambda flow=flow: flow.log_prob(rows)
    theta = source.standard_normal((DIM, 32)).astype(np.float32)
    for spline in (ps.RationalQuadratic(), ps.BoxRationalQuadratic(), ps.CircularRationalQuadratic()):
        own = theta[:, : len(spline.theta_names)]
        calls[spline.name] = lambda spline=spline, own=own: ps.ops.forward(spline, rows, own)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - start)
    median = {name: statistics.median(readings) for name, readings in seconds.items()}
    for name, value in median.items():
        first = median["log_prob of real" if name.startswith("log_prob") else "rational_quadratic"]
        print(f"{name:30} {1e3 * value:8.2f} ms   {value / first:.3f}")


if __name__ == "__main__":
    main()
