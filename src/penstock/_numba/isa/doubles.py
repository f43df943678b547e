"""Columns of a tile's rows in float64, in which their bijections are computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import BYTES, lanes, load, select

SMALLEST_NORMAL = 2.2250738585072014e-308
SINGLES = BYTES // 4  # lanes of float32
SHOWN = (
    64 * 2.0**-23,
    64 * 2.0**-52,
)  # parts of a distance by which rounding moves a row visibly: its density shows it


@jit
def limit(v: float, tile: Any) -> float:
    """v within the range of the tile's numbers; what is finite stays so when it is rounded to them."""
    most = 3.4028234663852886e38
    if lanes(tile) == SINGLES and abs(v) > most and abs(v) < np.inf:
        return most if v > 0 else -most
    return v


@jit
def normal(x: Any) -> Any:
    """At least the smallest normal number, as the logarithm needs it; NaN passes."""
    return select(x < SMALLEST_NORMAL, SMALLEST_NORMAL, x)


@jit
def gathered(dim: int, column: int, x: Any, index: Any, rows: int, r: int, numbers: Any) -> Any:
    """A vector of rows of a column from row r on; what goes beyond the last row repeats it. ``numbers`` is scratch."""
    for i in range(r, r + lanes(numbers)):
        numbers[i] = x[index[min(i, rows - 1)] * dim + column]
    return load(numbers, r)


@jit
def widened(state: Any, at: int, rows: int, r: int, numbers: Any) -> Any:
    """The same of a feature of the state."""
    for i in range(r, r + lanes(numbers)):
        numbers[i] = state[at + min(i, rows - 1)]
    return load(numbers, r)
