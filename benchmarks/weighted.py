"""A fit on rows of a proposal, with weights over thirty decades, against the target that the weights aim at.

python benchmarks/weighted.py [--recipe nsf_ar] [--rows 100000] [--epochs N] [--seed N]

Four columns given one, of which the last lies within an interval. The target is a map of four normal numbers ``e`` that is
triangular, so that its density is known; the proposal draws seven of ten rows with an ``e`` that is wider and elsewhere. The
weight of a row is the ratio of the two densities, and its effective sample size is at least three tenths of the rows. What is
reported is the mean of ``log p - log q`` over fresh rows of the target, in nats, with its standard error: of a flow that was
fitted with the weights, and of one without.
"""

from __future__ import annotations

import argparse
import math
import time
from typing import Any, NamedTuple

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]

COLUMNS = ("a", "b", "c", "part")
SHARE, CENTRE, WIDTH = 0.3, 1.0, 2.5  # of the target among the proposals; of the others
INTERVAL = (-2.0, 3.0)


class Sample(NamedTuple):
    """Rows, their context, their weights, and their log-density under the target."""

    x: Array
    context: Array
    weight: Array
    log_p: Array


def sample(n: int, rng: np.random.Generator, *, share: float) -> Sample:
    """Rows of which this share is drawn from the target, and the rest from elsewhere."""
    context = rng.uniform(-1, 1, (n, 1))
    e = rng.standard_normal((n, 4))
    other = rng.random(n) >= share
    e[other] = CENTRE + WIDTH * e[other]
    log_target = -0.5 * (e * e).sum(axis=1)
    log_other = -0.5 * (((e - CENTRE) / WIDTH) ** 2).sum(axis=1) - 4 * math.log(WIDTH)
    weight = 1 / (share + (1 - share) * np.exp(log_other - log_target))
    x, log_det = to_data(e, context[:, 0])
    return Sample(x, context, weight, log_target - 2 * math.log(2 * math.pi) - log_det)


def to_data(e: Array, c: Array) -> tuple[Array, Array]:
    """The columns that normal numbers stand for, and the logarithm of the determinant of that map."""
    lo, hi = INTERVAL
    a = 3 * e[:, 0] + 2 * c
    b = 0.15 * a * a + (0.6 + 0.3 * c) * e[:, 1]
    width = 0.4 + 0.2 * np.tanh(b)
    third = np.sin(a) + width * e[:, 2]
    part = 1 / (1 + np.exp(-(np.tanh(third + c) + 0.8 * e[:, 3])))
    x = np.stack([a, b, third, lo + (hi - lo) * part], axis=1)
    log_det = (
        math.log(3) + np.log(0.6 + 0.3 * c) + np.log(width) + math.log(0.8 * (hi - lo)) + np.log(part * (1 - part))
    )
    return x, log_det


def main() -> None:
    """Fit with and without weights, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=("nsf", "nsf_ar"), default="nsf_ar")
    parser.add_argument("--rows", type=int, default=100_000, help="of the proposal, and fresh ones of the target")
    parser.add_argument("--epochs", type=int, help="passes over the rows; by default as many as fit thinks best")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    train, test = sample(given.rows, rng, share=SHARE), sample(given.rows, rng, share=1.0)
    size = train.weight.sum() ** 2 / (train.weight**2).sum()
    decades = math.log10(train.weight.max() / train.weight.min())
    print(f"{given.rows} rows, weights over {decades:.1f} decades, worth {size:.0f} rows of equal weight")
    for name, weight in (("weighted", train.weight), ("unweighted", None)):
        support = ["real", "real", "real", ps.interval(*INTERVAL)]
        flow = getattr(ps, given.recipe)(4, context_dim=1, support=support, rng=given.seed)
        flow.columns = COLUMNS
        start = time.perf_counter()
        flow.fit(train.x, train.context, sample_weight=weight, epochs=given.epochs, rng=given.seed)
        seconds = time.perf_counter() - start
        lost = test.log_p - flow.log_prob(test.x, test.context)
        print(
            f"{name:10s} mean(log p - log q) {lost.mean():.4f} +- {lost.std() / math.sqrt(len(lost)):.4f} nats, "
            f"{flow.history}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
