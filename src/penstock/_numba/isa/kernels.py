"""What the engine asks of the kernels: the walk through a plan's steps, there and back, and the context on its way to them."""

from __future__ import annotations

from typing import Any

import numba

from penstock._numba.conditioners.inputs import copy_features, start_shared
from penstock._numba.conditioners.mlp import mlp_backward, mlp_forward
from penstock._numba.core.jit import call, jit, kernel
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import (
    AUTOREGRESSIVE,
    BACKWARD,
    COUPLING,
    ELEMENTWISE,
    EXPLICIT_TO_DATA,
    FORWARD,
    INPUT,
    KIND,
    LU_LINEAR,
    N_CONTEXT,
    N_LINEAR,
    N_THETA,
    N_U,
    THETA,
    TRANSFORM,
    TRANSFORM_BACKWARD,
    TRANSFORM_FORWARD,
)
from penstock._numba.isa.ends import limit, pad_rows, vectors
from penstock._numba.layers.autoregressive import autoregressive_backward, autoregressive_forward
from penstock._numba.layers.coupling import coupling_backward, coupling_forward
from penstock._numba.layers.elementwise import (
    TRANSFORM_BACKWARDS,
    TRANSFORM_FORWARDS,
    elementwise_backward,
    elementwise_forward,
)
from penstock._numba.layers.lu_linear import lu_backward, lu_forward


def embedding_forward(step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool) -> None:
    """The network between the context and what conditioners read of it."""
    mlp_forward(step, plan.linear, packed.params, tile.kept, -1, n_vectors, keep, tile.kept)


def embedding_backward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, want_params: bool
) -> None:
    """Its way back, from tile.d_context to the beginning of tile.d_hidden."""
    copy_features(step[N_THETA], n_vectors, tile.d_context, 0, tile.d_theta, 0)
    at = mlp_backward(step, plan.linear, packed.params, n_vectors, want_params, 0, tile)
    copy_features(step[N_U], n_vectors, tile.d_hidden, at, tile.d_hidden, 0)


LAYERS = {
    ELEMENTWISE: (elementwise_forward, elementwise_backward),
    COUPLING: (coupling_forward, coupling_backward),
    LU_LINEAR: (lu_forward, lu_backward),
    AUTOREGRESSIVE: (autoregressive_forward, autoregressive_backward),
}


def prepare(steps: Any, plan: Any, packed: Any, tile: Any, backwards: bool) -> None:
    """Put the addresses of the kernels that a plan needs into its steps; arguments are samples of what kernels get."""
    step, flag, number = numba.typeof(steps[0]), numba.boolean, numba.int64
    plan, packed, tile = numba.typeof(plan), numba.typeof(packed), numba.typeof(tile)
    of_layer = step, plan, packed, flag, number, tile, flag
    of_transform = step, plan, number, number, flag, number, tile
    for row in steps:
        if row[KIND] in LAYERS:
            forward, backward = LAYERS[row[KIND]]
        elif row[N_LINEAR] > 0:
            forward, backward = embedding_forward, embedding_backward
        else:
            continue
        row[FORWARD] = kernel(forward, *of_layer)
        transforms = row[KIND] in LAYERS and row[KIND] != LU_LINEAR
        if transforms:
            row[TRANSFORM_FORWARD] = kernel(TRANSFORM_FORWARDS[row[TRANSFORM]], *of_transform, flag)
        if backwards:
            row[BACKWARD] = kernel(backward, *of_layer)
            if transforms:
                row[TRANSFORM_BACKWARD] = kernel(TRANSFORM_BACKWARDS[row[TRANSFORM]], *of_transform)


@jit
def load_context(plan: Any, packed: Any, context: Any, shared: bool, index: Any, tile: Any, keep: bool) -> Any:
    """What conditioners read of the context, (n_context, tile): its rows, float64, standardised, and through the embedding.

    Rows lie where the embedding reads them, or else in tile.context, where conditioners do.
    """
    embedding, dim = plan.steps[-1], context.shape[1]
    embedded = embedding[N_LINEAR] > 0
    to, at = (tile.kept, embedding[INPUT]) if embedded else (tile.context, 0)
    for r in range(tile.rows):
        for i in range(dim):
            v = (context[0 if shared else index[r], i] - packed.context_loc[i]) * packed.context_inverse[i]
            to[at + i * TILE + r] = limit(v, to)
    pad_rows(dim, tile.rows, to[at:])
    if not embedded:
        return tile.context
    call(embedding[FORWARD], (embedding, plan, packed, False, vectors(tile.rows, to), tile, keep))
    return tile.kept[embedding[THETA] : embedding[THETA] + embedding[N_THETA] * TILE]


@jit
def store_context(
    plan: Any, packed: Any, want_params: bool, want_context: bool, tile: Any, index: Any, d_context: Any
) -> None:
    """The way back of tile.d_context: parameters of the embedding, and rows of d_context."""
    embedding, d = plan.steps[-1], tile.d_context
    if embedding[N_LINEAR] > 0:
        n = vectors(tile.rows, tile.state)
        call(embedding[BACKWARD], (embedding, plan, packed, False, n, tile, want_params))
        d = tile.d_hidden
    if want_context:
        for r in range(tile.rows):
            for i in range(d_context.shape[1]):
                d_context[index[r], i] = d[i * TILE + r] * packed.context_inverse[i]


@jit
def share(plan: Any, packed: Any, context: Any, kept: Any, starts: Any) -> None:
    """Tile.starts from the first row of a tile's context."""
    for k in range(len(plan.steps) - 1):
        if plan.steps[k][N_CONTEXT] > 0:
            start_shared(plan.steps[k], plan.linear, packed.params, context, kept, starts)


@jit
def forward(plan: Any, packed: Any, through: Any, tile: Any) -> None:
    """The steps of a pass in its direction."""
    n = vectors(tile.rows, tile.state)
    for i in range(through.last - through.first):
        step = plan.steps[through.first + i if through.to_data else through.last - 1 - i]
        inverse = through.to_data != (step[EXPLICIT_TO_DATA] != 0)
        if step[FORWARD] != 0:
            call(step[FORWARD], (step, plan, packed, inverse, n, tile, through.keep))


@jit
def backward(plan: Any, packed: Any, through: Any, want_params: bool, tile: Any) -> None:
    """The way back: tile.gradient from the cotangents of what came out to those of what went in."""
    n = vectors(tile.rows, tile.state)
    for i in range(through.last - through.first - 1, -1, -1):
        step = plan.steps[through.first + i if through.to_data else through.last - 1 - i]
        inverse = through.to_data != (step[EXPLICIT_TO_DATA] != 0)
        if step[BACKWARD] != 0:
            call(step[BACKWARD], (step, plan, packed, inverse, n, tile, want_params))
