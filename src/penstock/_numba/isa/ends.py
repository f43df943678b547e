"""The two ends of a flow: columns, by which rows come into a tile and leave it, and the base density.

All of it in float64, up to the numbers of the tile. Columns are lines with a standardisation, x = loc + scale u; the base is
a standard normal. The twin has the arithmetic of cpp/isa/ends.hpp one number at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import BYTES, accumulate_product, lanes, load, store
from penstock._numba.core.layout import TILE

HALF_LOG_2PI = 0.91893853320467274178
SINGLES = BYTES // 4  # lanes of float32


@jit
def vectors(rows: int, array: Any) -> int:
    """How many vectors hold so many rows."""
    return (rows + lanes(array) - 1) // lanes(array)


@jit
def pad_rows(features: int, rows: int, tile: Any) -> None:
    """Lanes beyond the last row up to a whole vector repeat that row, so that they stay as harmless as it is."""
    for f in range(features):
        for r in range(rows, vectors(rows, tile) * lanes(tile)):
            tile[f * TILE + r] = tile[f * TILE + rows - 1]


@jit
def limit(v: float, tile: Any) -> float:
    """v within the range of the tile's numbers; what is finite stays so when it is rounded to them."""
    most = 3.4028234663852886e38
    if lanes(tile) == SINGLES and abs(v) > most and abs(v) < np.inf:
        return most if v > 0 else -most
    return v


@jit
def load_columns(
    dim: int, slots: Any, packed: Any, standardises: bool, x: Any, index: Any, rows: int, state: Any
) -> None:
    """Rows of x, float64, into the state by slots, the standardisation applied before they are narrowed."""
    for r in range(rows):
        for d in range(dim):
            v = x[index[r] * dim + d]
            if standardises:
                v = (v - packed.loc[d]) * packed.inverse[d]
            state[slots[d] * TILE + r] = limit(v, state)
    pad_rows(dim, rows, state)


@jit
def store_columns(
    dim: int, slots: Any, packed: Any, standardises: bool, state: Any, index: Any, rows: int, out: Any
) -> None:
    """The state into rows of out."""
    for r in range(rows):
        for d in range(dim):
            u = state[slots[d] * TILE + r]
            if standardises:
                out[index[r] * dim + d] = packed.loc[d] + packed.scale[d] * u
            else:
                out[index[r] * dim + d] = u


@jit
def load_cotangents(
    dim: int, slots: Any, packed: Any, standardises: bool, d: Any, index: Any, rows: int, gradient: Any
) -> None:
    """Cotangents cross the standardisation by its scale alone: latent side = data side * scale."""
    for r in range(rows):
        for i in range(dim):
            v = d[index[r] * dim + i]
            gradient[slots[i] * TILE + r] = v * packed.scale[i] if standardises else v
    pad_rows(dim, rows, gradient)


@jit
def store_cotangents(
    dim: int, slots: Any, packed: Any, standardises: bool, gradient: Any, index: Any, rows: int, d: Any
) -> None:
    """And back: data side = latent side / scale."""
    for r in range(rows):
        for i in range(dim):
            v = gradient[slots[i] * TILE + r]
            d[index[r] * dim + i] = v * packed.inverse[i] if standardises else v


@jit
def load_numbers(n: int, array: Any, shared: Any, index: Any, rows: int, tile: Any) -> None:
    """(rows, n) into (n, tile) as they are; of a column that is shared, the first row serves all."""
    for r in range(rows):
        for i in range(n):
            tile[i * TILE + r] = array[i if shared[i] != 0 else index[r] * n + i]
    pad_rows(n, rows, tile)


@jit
def store_numbers(n: int, tile: Any, index: Any, rows: int, array: Any) -> None:
    """And back."""
    for r in range(rows):
        for i in range(n):
            array[index[r] * n + i] = tile[i * TILE + r]


@jit
def base(dim: int, state: Any, rows: int, sign: float, log_det: Any, squares: Any) -> None:
    """log_det = sign log_det + log p(state): -|z|^2 / 2 - dim log(2 pi) / 2, summed over dimensions in order, in float64."""
    for r in range(TILE):
        squares[r] = 0.0
    for d in range(dim):
        for lane in range(0, vectors(rows, state) * lanes(state), lanes(state)):
            z = load(state, d * TILE + lane)
            accumulate_product(squares, lane, z, z)
    for r in range(rows):
        log_det[r] = sign * log_det[r] - 0.5 * squares[r] - dim * HALF_LOG_2PI


@jit
def base_backward(dim: int, state: Any, bar: Any, rows: int, gradient: Any) -> None:
    """The base's part of the cotangents of the state."""
    for d in range(dim):
        for lane in range(0, vectors(rows, state) * lanes(state), lanes(state)):
            at = d * TILE + lane
            store(gradient, at, load(gradient, at) - load(state, at) * load(bar, lane))
