"""Location and scale of columns: by mean and standard deviation, or by quartiles. In chunks, for tables larger than memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock._typing import Array
from penstock.training.rows import Rows

QUARTILES = 1.3489795003921634  # interquartile range of a standard normal


def moments(rows: Rows) -> tuple[Array, Array]:
    """Mean and standard deviation of every column of x in two float64 passes; a constant column has exactly 0.

    Weights count by their absolute value, and rows of weight 0 not at all.
    """
    mean, std, _ = extremes(rows)
    return mean, std


def extremes(rows: Rows) -> tuple[Array, Array, Array]:
    """Mean and standard deviation of every column of x, and its least and largest value, (2, dim)."""
    dim = rows.x.shape[1]
    total, low, high = np.zeros(dim), np.full(dim, np.inf), np.full(dim, -np.inf)
    mass = 0.0
    for x, w in _weighted(rows):
        total += (x * w).sum(axis=0)
        mass += float(w.sum())
        if len(x):
            np.minimum(low, x.min(axis=0), out=low)
            np.maximum(high, x.max(axis=0), out=high)
    mean = total / mass
    squares, rest = np.zeros(dim), np.zeros(dim)
    # The squares of a very narrow column would underflow: a power of two, which rounds nothing, widens it.
    _, exponent = np.frexp(np.where(high > low, high - low, 1.0))
    widened = np.where(exponent < -400, -exponent, 0)
    for x, w in _weighted(rows):
        x -= mean
        if widened.any():
            np.ldexp(x, widened, out=x)
        rest += (x * w).sum(axis=0)
        x *= x
        squares += (x * w).sum(axis=0)
    std = np.ldexp(np.sqrt(np.maximum(squares - rest * rest / mass, 0.0) / mass), -widened)
    # Rounding alone may give a constant column a tiny spread.
    return mean, np.where(low == high, 0.0, std), np.stack([low, high])


def _weighted(rows: Rows) -> Iterator[tuple[Array, Array]]:
    """Chunks of x in float64 with their scaled weights as a column."""
    for part in rows.chunks(rows.x.shape[1]):
        x = rows.x[part].astype(np.float64, order="C")  # sums over rows then round alike, however x lies in memory
        if rows.weight is None:
            yield x, np.ones((len(x), 1))
        else:
            w = np.abs(rows.scaled_weights(part))
            yield x[w != 0], w[w != 0][:, None]


def quantiles(rows: Rows) -> tuple[Array, Array]:
    """Median and robust standard deviation of every column of x of a sample.

    The scale is the interquartile range over that of a normal. Where half of the values agree it is
    the 2.5 to 97.5 % range, and where nearly all do, the standard deviation.
    """
    if rows.weight is not None:  # rows of weight 0 may hold anything
        rows = rows.take(rows.weight != 0)
    x = rows.x
    w = np.ones(len(x)) if rows.weight is None else np.abs(rows.scaled_weights())
    levels = np.array([0.5, 0.25, 0.75, 0.025, 0.975])
    loc, scale = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        column = x[:, j].astype(np.float64)
        order = np.argsort(column, kind="stable")
        mass = np.cumsum(w[order])
        middle = (mass - 0.5 * w[order]) / mass[-1]
        median, q25, q75, low, high = np.interp(levels, middle, column[order])
        loc[j] = median
        scale[j] = (q75 - q25) / QUARTILES or (high - low) / 3.919927969080108
    return loc, np.where(scale > 0, scale, moments(rows)[1])
