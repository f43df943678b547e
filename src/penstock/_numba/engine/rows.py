"""The entries: a range of rows through a range of steps, tile by tile, on one thread.

Rows come in chunks, copied from the caller's arrays: x in float64, so that one compiled version serves every input.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import entry, jit
from penstock._numba.core.philox import normals
from penstock._numba.core.plan import TILE, Packed, Pass, Plan, Tile
from penstock._numba.core.rowsum import sum_rows
from penstock._numba.engine.kernels import (
    backward,
    base,
    base_backward,
    forward,
    load_columns,
    load_cotangents,
    load_tile,
    store_columns,
    store_cotangents,
    store_tile,
)

NO_THETA, ROWS_OF_THETA, SHARED_THETA = range(3)


@entry
def evaluate_rows(
    steps: Any, linear: Any, boundary: Any, slots: Any, options: Any,
    params: Any, loc: Any, scale: Any, inverse: Any, log_scale: float,
    first: int, last: int, to_data: int, with_base: int, standardize: int, theta_kind: int,
    sampling: int, seed: Any, context_row: Any, draw: Any,
    x: Any, theta: Any, out: Any, log_det: Any,
    work: Any, sizes: Any, doubles: Any, words: Any, index: Any,
) -> None:  # fmt: skip
    """Rows of x, or fresh draws, into out and log_det (float64), or log p with a base."""
    dim = boundary.shape[1]
    plan = Plan(dim, steps, linear, boundary, slots, options)
    packed = Packed(params, loc, scale, inverse, log_scale)
    through = Pass(first, last, to_data != 0, False)
    state, kept = work[sizes[0] : sizes[1]], work[sizes[1] : sizes[2]]
    tile_theta = work[sizes[2] : sizes[3]]
    tile_log_det, squares, density = doubles[:TILE], doubles[TILE : 2 * TILE], doubles[2 * TILE : 3 * TILE]
    before, after = (first, last) if to_data else (last, first)
    rows = out.shape[0]
    for row in range(0, rows, TILE):
        n = min(TILE, rows - row)
        for r in range(n):
            index[r] = row + r
        if sampling:
            normals(seed, context_row, draw + np.uint64(row), n, dim, words, state)
        else:
            load_tile(boundary[before], packed, standardize and not to_data, x, index, n, state)
        if theta_kind != NO_THETA:
            load_columns(theta, theta_kind == SHARED_THETA, index, n, tile_theta)
        if with_base and to_data:
            density[:] = 0.0
            base(dim, state, n, 0.0, density, squares)
        tile_log_det[:] = (log_scale if to_data else -log_scale) if standardize else 0.0
        tile = Tile(
            n, state, tile_log_det, tile_theta, kept, state, state, state, state, state, state, state
        )  # fmt: skip
        forward(plan, packed, through, tile)
        store_tile(boundary[after], packed, standardize and to_data, state, index, n, out)
        if with_base and not to_data:
            base(dim, state, n, 1.0, tile_log_det, squares)
        for r in range(n):
            log_det[row + r] = density[r] - tile_log_det[r] if with_base and to_data else tile_log_det[r]


@jit
def counted_rows(first: int, last: int, weighted: bool, weight: Any, index: Any) -> int:
    """Fill index with the rows of a tile, those of weight zero left out; how many they are."""
    n = 0
    for r in range(first, last):
        if not weighted or weight[r] != 0:
            index[n] = r
            n += 1
    return n


@entry
def vjp_rows(
    steps: Any, linear: Any, boundary: Any, slots: Any, options: Any,
    params: Any, loc: Any, scale: Any, inverse: Any, log_scale: float,
    first: int, last: int, to_data: int, with_base: int, standardize: int, theta_kind: int,
    loss: int, want_params: int,
    x: Any, weight: Any, theta: Any, d_out: Any, d_log_det: Any,
    d_x: Any, d_theta: Any, params_gradient: Any, theta_gradient: Any, sums: Any,
    work: Any, sizes: Any, doubles: Any, index: Any,
) -> None:  # fmt: skip
    """Cotangents of rows: overwrites d_x and d_theta, adds to the gradients of parameters and of a shared theta.

    With ``loss``, d_log_det is minus the weight, rows of weight zero are left out, and sums gets the sums over rows of
    -w log p and of w.
    """
    dim = boundary.shape[1]
    plan = Plan(dim, steps, linear, boundary, slots, options)
    packed = Packed(params, loc, scale, inverse, log_scale)
    through = Pass(first, last, to_data != 0, True)
    state, kept = work[sizes[0] : sizes[1]], work[sizes[1] : sizes[2]]
    tile_theta, gradient = work[sizes[2] : sizes[3]], work[sizes[3] : sizes[4]]
    bar, log_det_bar, partial = work[sizes[4] : sizes[5]], work[sizes[5] : sizes[6]], work[sizes[6] : sizes[7]]
    tile_d_theta, d_hidden = work[sizes[7] : sizes[8]], work[sizes[8] : sizes[9]]
    transposed = work[sizes[9] : sizes[10]]
    tile_log_det, squares, losses = doubles[:TILE], doubles[TILE : 2 * TILE], doubles[2 * TILE : 3 * TILE]
    double_partial = doubles[3 * TILE :]
    before, after = (first, last) if to_data else (last, first)
    rows = x.shape[0]
    for row in range(0, rows, TILE):
        n = counted_rows(row, min(row + TILE, rows), loss != 0, weight, index)
        if n == 0:
            continue
        load_tile(boundary[before], packed, standardize and not to_data, x, index, n, state)
        if theta_kind != NO_THETA:
            load_columns(theta, theta_kind == SHARED_THETA, index, n, tile_theta)
        tile_log_det[:] = -log_scale if standardize else 0.0  # only the loss reads it
        tile = Tile(
            n, state, tile_log_det, tile_theta, kept,
            gradient, log_det_bar, tile_d_theta, d_hidden, transposed, partial, params_gradient,
        )  # fmt: skip
        forward(plan, packed, through, tile)
        for r in range(TILE):
            i = index[min(r, n - 1)]
            bar[r] = -weight[i] if loss else d_log_det[i]
            log_det_bar[r] = -bar[r] if with_base and to_data else bar[r]
        if loss:
            gradient[:] = 0
            base(dim, state, n, 1.0, tile_log_det, squares)
            for r in range(n):
                losses[r] = -weight[index[r]] * tile_log_det[r]
            sums[0] += sum_rows(losses, 0, n, double_partial)
            for r in range(n):
                losses[r] = weight[index[r]]
            sums[1] += sum_rows(losses, 0, n, double_partial)
        else:
            load_cotangents(boundary[after], packed, standardize and to_data, d_out, index, n, gradient)
        if with_base and not to_data:
            base_backward(dim, state, bar, n, gradient)
        backward(plan, packed, through, want_params != 0, tile)
        if with_base and to_data:
            base_backward(dim, state, bar, n, gradient)
        store_cotangents(boundary[before], packed, standardize and not to_data, gradient, index, n, d_x)
        if theta_kind == ROWS_OF_THETA:
            store_columns(tile_d_theta, index, n, d_theta)
        elif theta_kind == SHARED_THETA:
            for i in range(theta.shape[1]):
                theta_gradient[i] += sum_rows(tile_d_theta, i * TILE, n, partial)
