"""The entries: a range of rows through a range of steps, tile by tile, on one thread.

Rows come in chunks, copied from the caller's arrays: x in float64, so that one compiled version serves every input.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import entry, jit
from penstock._numba.core.philox import normals
from penstock._numba.core.plan import N_LINEAR, TILE, Packed, Pass, Plan, Tile
from penstock._numba.core.rowsum import sum_rows
from penstock._numba.engine.kernels import (
    backward,
    base,
    base_backward,
    forward,
    load_columns,
    load_context,
    load_cotangents,
    load_tile,
    share,
    store_columns,
    store_context,
    store_cotangents,
    store_tile,
)

NO_THETA, ROWS_OF_THETA, SHARED_THETA = range(3)
NO_CONTEXT, ROWS_OF_CONTEXT, SHARED_CONTEXT = range(3)


@entry
def share_rows(
    steps: Any, linear: Any, boundary: Any, slots: Any, options: Any, params: Any, context_loc: Any, context_inverse: Any,
    context: Any, starts: Any, work: Any, sizes: Any, index: Any,
) -> None:  # fmt: skip
    """Tile.starts from the first row of context, float64."""
    plan = Plan(boundary.shape[1], steps, linear, boundary, slots, options)
    packed = Packed(params, context_loc, context_loc, context_loc, 0.0, context_loc, context_inverse)
    kept, own = work[sizes[1] : sizes[2]], work[sizes[3] : sizes[4]]
    tile_context = load_context(plan, packed, context, True, index, 1, False, kept, own)
    share(plan, packed, tile_context, kept, starts)


@entry
def sum_context(by_row: Any, block: int, sums: Any, column: Any, partial: Any) -> None:
    """Add to row j of sums the sum over rows [j block, (j + 1) block), in float64; ``column`` is scratch, block numbers."""
    for j in range(sums.shape[0]):
        for i in range(sums.shape[1]):
            for r in range(block):
                column[r] = by_row[j * block + r, i]
            sums[j, i] += sum_rows(column, 0, block, partial)


@entry
def evaluate_rows(
    steps: Any, linear: Any, boundary: Any, slots: Any, options: Any,
    params: Any, loc: Any, scale: Any, inverse: Any, log_scale: float, context_loc: Any, context_inverse: Any,
    first: int, last: int, to_data: int, with_base: int, standardize: int, theta_kind: int, context_kind: int,
    sampling: int, seed: Any, context_row: Any, draw: Any,
    x: Any, context: Any, starts: Any, theta: Any, out: Any, log_det: Any,
    work: Any, sizes: Any, doubles: Any, words: Any, index: Any,
) -> None:  # fmt: skip
    """Rows of x, or fresh draws of the counters context_row and draw, into out and log_det (float64), or log p with a base."""
    dim = boundary.shape[1]
    plan = Plan(dim, steps, linear, boundary, slots, options)
    packed = Packed(params, loc, scale, inverse, log_scale, context_loc, context_inverse)
    through = Pass(first, last, to_data != 0, False)
    state, kept = work[sizes[0] : sizes[1]], work[sizes[1] : sizes[2]]
    tile_theta, own_context = work[sizes[2] : sizes[3]], work[sizes[3] : sizes[4]]
    nothing = work[:0]
    tile_log_det, squares, density = doubles[:TILE], doubles[TILE : 2 * TILE], doubles[2 * TILE : 3 * TILE]
    before, after = (first, last) if to_data else (last, first)
    rows = out.shape[0]
    for row in range(0, rows, TILE):
        n = min(TILE, rows - row)
        for r in range(n):
            index[r] = row + r
        if sampling:
            normals(seed, context_row[row:], draw[row:], n, dim, words, state)
        else:
            load_tile(boundary[before], packed, standardize and not to_data, x, index, n, state)
        if theta_kind != NO_THETA:
            load_columns(theta, theta_kind == SHARED_THETA, index, n, tile_theta)
        if with_base and to_data:
            density[:] = 0.0
            base(dim, state, n, 0.0, density, squares)
        tile_context = nothing
        if context_kind == ROWS_OF_CONTEXT:
            tile_context = load_context(plan, packed, context, False, index, n, False, kept, own_context)
        tile_log_det[:] = (log_scale if to_data else -log_scale) if standardize else 0.0
        tile = Tile(
            n, state, tile_log_det, tile_theta, tile_context, starts, kept, state, state, state, nothing, state, state,
            state, state,
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
    params: Any, loc: Any, scale: Any, inverse: Any, log_scale: float, context_loc: Any, context_inverse: Any,
    first: int, last: int, to_data: int, with_base: int, standardize: int, theta_kind: int, context_kind: int,
    loss: int, want_params: int, want_context: int,
    x: Any, weight: Any, context: Any, starts: Any, theta: Any, d_out: Any, d_log_det: Any,
    d_x: Any, d_context: Any, d_theta: Any, params_gradient: Any, theta_gradient: Any, sums: Any,
    work: Any, sizes: Any, doubles: Any, index: Any,
) -> None:  # fmt: skip
    """Cotangents of rows: overwrites d_x, d_context and d_theta, adds to the gradients of parameters and of a shared theta.

    With ``loss``, d_log_det is minus the weight, rows of weight zero are left out, and sums gets the sums over rows of
    -w log p and of w.
    """
    dim = boundary.shape[1]
    plan = Plan(dim, steps, linear, boundary, slots, options)
    packed = Packed(params, loc, scale, inverse, log_scale, context_loc, context_inverse)
    through = Pass(first, last, to_data != 0, True)
    state, kept = work[sizes[0] : sizes[1]], work[sizes[1] : sizes[2]]
    tile_theta, own_context = work[sizes[2] : sizes[3]], work[sizes[3] : sizes[4]]
    gradient, bar = work[sizes[4] : sizes[5]], work[sizes[5] : sizes[6]]
    log_det_bar, partial = work[sizes[6] : sizes[7]], work[sizes[7] : sizes[8]]
    tile_d_theta, d_hidden = work[sizes[8] : sizes[9]], work[sizes[9] : sizes[10]]
    transposed, tile_d_context = work[sizes[10] : sizes[11]], work[sizes[11] : sizes[12]]
    nothing = work[:0]
    embedded = want_params != 0 and steps[-1, N_LINEAR] > 0
    back_to_context = context_kind != NO_CONTEXT and (want_context != 0 or embedded)
    if not back_to_context:
        tile_d_context = nothing
    # a shared context is needed row by row where a gradient reads it
    by_row = context_kind == ROWS_OF_CONTEXT or (
        context_kind == SHARED_CONTEXT and (want_params != 0 or back_to_context)
    )
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
        tile_context = nothing
        if by_row:
            shared = context_kind == SHARED_CONTEXT
            tile_context = load_context(plan, packed, context, shared, index, n, True, kept, own_context)
        tile_log_det[:] = -log_scale if standardize else 0.0  # only the loss reads it
        tile = Tile(
            n, state, tile_log_det, tile_theta, tile_context, starts, kept,
            gradient, log_det_bar, tile_d_theta, tile_d_context, d_hidden, transposed, partial, params_gradient,
        )  # fmt: skip
        tile_d_context[:] = 0
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
        if back_to_context:
            store_context(plan, packed, want_params != 0, want_context != 0, tile, index, d_context)
        if with_base and to_data:
            base_backward(dim, state, bar, n, gradient)
        store_cotangents(boundary[before], packed, standardize and not to_data, gradient, index, n, d_x)
        if theta_kind == ROWS_OF_THETA:
            store_columns(tile_d_theta, index, n, d_theta)
        elif theta_kind == SHARED_THETA:
            for i in range(theta.shape[1]):
                theta_gradient[i] += sum_rows(tile_d_theta, i * TILE, n, partial)
