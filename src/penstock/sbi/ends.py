"""The ends of priors: which columns a flow takes as lines, and parameters on the ends of these, brought just within."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock.groups import LINE
from penstock.sbi.priors import Prior
from penstock.support import Interval, Support

# Of the distance between two ends, how near to one parameters are told apart. It is a few steps of a float32 at 1 (1.2e-7), in
# which flows compute; a uniform prior has one draw in a million there, whose logit is -14. A single step of the number itself
# may be 5e-324 at 0, and one such row, of logit -744, sets the scale of the whole column.
MARGIN = 1e-6
MANY = 0.01  # share of rows that near to an end, as on a grid, from which a line would have a second mode there
TINY = float(np.finfo(np.float32).tiny)


class Ends(NamedTuple):
    """How far the columns of a flow go, each of shape (dim,): infinite where nothing is to be moved."""

    low: Array
    high: Array


def mixed(supports: Sequence[Support], theta: Array) -> tuple[Support, ...]:
    """Supports with lines in the place of boxes, whose columns an LU layer can mix.

    Posteriors are correlated: on three of four tasks of the sbi benchmark with such priors, those of slcp by 0.1 nats, that is
    worth more than a density that is free at the ends (``benchmarks/NOTES.md``). A column with many rows on an end, such as a
    grid that includes it, stays a box.
    """
    found = list(supports)
    for j, one in enumerate(supports):
        if isinstance(one, Interval) and one.map == "box":
            lo, hi = one.ends
            room = MARGIN * (hi - lo)
            if np.mean((theta[:, j] <= lo + room) | (theta[:, j] >= hi - room)) <= MANY:
                found[j] = Interval(lo, hi, map="logit")
    return tuple(found)


def open_ends(supports: Sequence[Support], dtype: np.dtype[Any], theta: Array | None = None) -> Ends:
    """How far parameters of a flow of these supports go: by ``MARGIN``, and by a step of its dtype, within ends that are open.

    Half-lines have no width; they count where rows are given, from which they take their median distance to the end.
    """
    low, high = np.full(len(supports), -np.inf), np.full(len(supports), np.inf)
    for j, one in enumerate(supports):
        if not isinstance(one, Interval) or one.kind != LINE:
            continue
        lo, hi = one.ends
        width = hi - lo
        if np.isinf(width):
            if theta is None:
                continue
            width = float(np.median(theta[:, j].astype(np.float64) - lo if one.hi is None else hi - theta[:, j]))
        step = float(np.finfo(dtype).eps) * max(abs(end) for end in (lo, hi) if np.isfinite(end))
        room = max(min(max(MARGIN * width, step), width / 4), TINY)
        low[j], high[j] = lo + room, hi - room
    return Ends(low, high)


def within(theta: Array, ends: Ends, prior: Prior) -> Array:
    """Parameters, (..., dim), those beyond the ends that the prior accepts brought to them; the others as they are."""
    if not len(ends.low):  # all columns are real
        return theta
    beyond = ((theta < ends.low) | (theta > ends.high)).any(axis=-1)
    if not beyond.any():
        return theta
    found: Array = theta.astype(np.float64)
    rows = found[beyond]
    inside = prior.log_prob(rows) > -np.inf
    found[beyond] = np.where(inside[:, None], np.clip(rows, ends.low, ends.high), rows)
    return found
