"""What the engine asks of the kernels: tiles in and out, and the walk through a plan's steps, there and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.conditioners.inputs import copy_features, start_shared
from penstock._numba.conditioners.mlp import mlp_backward, mlp_forward
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import accumulate_product, lanes, load, store
from penstock._numba.core.plan import (
    COUPLING,
    ELEMENTWISE,
    EXPLICIT_TO_DATA,
    INPUT,
    KIND,
    LU_LINEAR,
    N_CONTEXT,
    N_LINEAR,
    N_THETA,
    N_U,
    THETA,
    TILE,
)
from penstock._numba.layers.coupling import coupling_backward, coupling_forward
from penstock._numba.layers.elementwise import elementwise_backward, elementwise_forward
from penstock._numba.layers.lu_linear import lu_backward, lu_forward

HALF_LOG_2PI = 0.91893853320467274178


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
def narrow(v: float, state: Any) -> float:
    """v within the range of the state's numbers; what is finite stays so when it is rounded to them."""
    most = 3.4028234663852886e38
    if state.itemsize == 4 and abs(v) > most and abs(v) < np.inf:
        return most if v > 0 else -most
    return v


@jit
def load_tile(slots: Any, packed: Any, standardize: bool, x: Any, index: Any, rows: int, state: Any) -> None:
    """Rows of x, float64, into the state by slots, the standardisation applied before they are narrowed."""
    for r in range(rows):
        for d in range(slots.size):
            v = x[index[r], d]
            if standardize:
                v = (v - packed.loc[d]) * packed.inverse[d]
            state[slots[d] * TILE + r] = narrow(v, state)
    pad_rows(slots.size, rows, state)


@jit
def store_tile(slots: Any, packed: Any, standardize: bool, state: Any, index: Any, rows: int, out: Any) -> None:
    """The state into rows of out."""
    for r in range(rows):
        for d in range(slots.size):
            u = state[slots[d] * TILE + r]
            if standardize:
                out[index[r], d] = packed.loc[d] + packed.scale[d] * u
            else:
                out[index[r], d] = u


@jit
def load_cotangents(slots: Any, packed: Any, standardize: bool, d: Any, index: Any, rows: int, gradient: Any) -> None:
    """Cotangents cross the standardisation by its scale alone: latent side = data side * scale."""
    for r in range(rows):
        for i in range(slots.size):
            v = d[index[r], i]
            gradient[slots[i] * TILE + r] = v * packed.scale[i] if standardize else v
    pad_rows(slots.size, rows, gradient)


@jit
def store_cotangents(slots: Any, packed: Any, standardize: bool, gradient: Any, index: Any, rows: int, d: Any) -> None:
    """And back: data side = latent side / scale."""
    for r in range(rows):
        for i in range(slots.size):
            v = gradient[slots[i] * TILE + r]
            d[index[r], i] = v * packed.inverse[i] if standardize else v


@jit
def load_context(
    plan: Any, packed: Any, context: Any, shared: bool, index: Any, rows: int, keep: bool, kept: Any, own: Any
) -> Any:
    """What conditioners read of the context, (n_context, tile): its rows, float64, standardised, and through the embedding.

    Rows lie where the embedding reads them, or else in ``own``, where conditioners do.
    """
    embedding, dim = plan.steps[-1], context.shape[1]
    embedded = embedding[N_LINEAR] > 0
    to, at = (kept, embedding[INPUT]) if embedded else (own, 0)
    for r in range(rows):
        for i in range(dim):
            v = (context[0 if shared else index[r], i] - packed.context_loc[i]) * packed.context_inverse[i]
            to[at + i * TILE + r] = narrow(v, to)
    pad_rows(dim, rows, to[at:])
    if not embedded:
        return own
    mlp_forward(embedding, plan.linear, packed.params, kept, -1, vectors(rows, kept), keep, kept)
    return kept[embedding[THETA] : embedding[THETA] + embedding[N_THETA] * TILE]


@jit
def store_context(
    plan: Any, packed: Any, want_params: bool, want_context: bool, tile: Any, index: Any, d_context: Any
) -> None:
    """The way back of tile.d_context: parameters of the embedding, and rows of d_context."""
    embedding, dim = plan.steps[-1], d_context.shape[1]
    d, at = tile.d_context, 0
    if embedding[N_LINEAR] > 0:
        n = vectors(tile.rows, tile.state)
        copy_features(embedding[N_THETA], n, tile.d_context, 0, tile.d_theta, 0)
        first = 0 if want_context else embedding[N_U]
        at = mlp_backward(embedding, plan.linear, packed.params, n, want_params, first, tile)
        d = tile.d_hidden
    if want_context:
        for r in range(tile.rows):
            for i in range(dim):
                d_context[index[r], i] = d[at + i * TILE + r] * packed.context_inverse[i]


@jit
def share(plan: Any, packed: Any, context: Any, kept: Any, starts: Any) -> None:
    """Tile.starts from the first row of a tile's context."""
    for k in range(len(plan.steps) - 1):
        if plan.steps[k][N_CONTEXT] > 0:
            start_shared(plan.steps[k], plan.linear, packed.params, context, kept, starts)


@jit
def load_columns(array: Any, shared: bool, index: Any, rows: int, tile: Any) -> None:
    """Columns of a (rows, n) array into (n, tile); a shared row serves all."""
    for r in range(rows):
        for i in range(array.shape[1]):
            tile[i * TILE + r] = array[0 if shared else index[r], i]
    pad_rows(array.shape[1], rows, tile)


@jit
def store_columns(tile: Any, index: Any, rows: int, array: Any) -> None:
    """And back."""
    for r in range(rows):
        for i in range(array.shape[1]):
            array[index[r], i] = tile[i * TILE + r]


@jit
def forward(plan: Any, packed: Any, through: Any, tile: Any) -> None:
    """The steps of a pass in its direction."""
    first, last, to_data, keep = through
    n = vectors(tile.rows, tile.state)
    for i in range(last - first):
        step = plan.steps[first + i if to_data else last - 1 - i]
        inverse = to_data != (step[EXPLICIT_TO_DATA] != 0)
        if step[KIND] == COUPLING:
            coupling_forward(step, plan.slots, plan.options, plan.linear, packed.params, inverse, n, tile, keep)
        elif step[KIND] == ELEMENTWISE:
            elementwise_forward(step, plan.slots, plan.options, packed.params, inverse, n, tile, keep)
        elif step[KIND] == LU_LINEAR:
            lu_forward(step, plan.slots, packed.params, inverse, n, tile)


@jit
def backward(plan: Any, packed: Any, through: Any, want_params: bool, tile: Any) -> None:
    """The way back: tile.gradient from the cotangents of what came out to those of what went in."""
    first, last, to_data, _ = through
    n = vectors(tile.rows, tile.state)
    for i in range(last - first - 1, -1, -1):
        step = plan.steps[first + i if to_data else last - 1 - i]
        inverse = to_data != (step[EXPLICIT_TO_DATA] != 0)
        if step[KIND] == COUPLING:
            coupling_backward(step, plan.slots, plan.options, plan.linear, packed.params, inverse, n, tile, want_params)
        elif step[KIND] == ELEMENTWISE:
            elementwise_backward(step, plan.slots, plan.options, inverse, n, tile, want_params)
        elif step[KIND] == LU_LINEAR:
            lu_backward(step, plan.slots, packed.params, inverse, n, tile, want_params)


@jit
def base(dim: int, state: Any, rows: int, sign: float, log_det: Any, squares: Any) -> None:
    """log_det = sign log_det + log p(state): -|z|^2 / 2 - dim log(2 pi) / 2, summed over dimensions in order, in float64."""
    squares[:] = 0.0
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
