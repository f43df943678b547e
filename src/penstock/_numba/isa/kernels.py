"""What the engine asks of the kernels: the walk through a plan's steps, there and back, and the context on its way to them."""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.activations import ACTIVATIONS
from penstock._numba.conditioners.inputs import copy_features, make_step_part
from penstock._numba.conditioners.mlp import mlp_backward, mlp_forward
from penstock._numba.core.jit import call, jit, kernel
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import (
    ACTIVATE,
    ACTIVATION,
    AUTOREGRESSIVE,
    BACKWARD,
    BLOCK_BACKWARD,
    BLOCK_DENSITY,
    BLOCK_DRAW,
    BLOCK_DRAW_BACKWARD,
    BLOCK_KIND,
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
    NUMBERS_OF_BASE,
    RUN_BACKWARD,
    RUN_FORWARD,
    RUN_TRANSFORM,
    SCALE_BY_DERIVATIVE,
    STANDARD_NORMAL,
    THETA,
    UNIFORM,
    step_of,
)
from penstock._numba.core.pointers import beyond
from penstock._numba.core.tile import KERNEL_TYPES
from penstock._numba.isa.bases import learned_backward, learned_draw, learned_draw_backward, learned_log_density
from penstock._numba.isa.contexts import mapped_context_backward, mapped_context_in
from penstock._numba.isa.ends import (
    free_backward,
    free_forward,
    network_backward,
    network_forward,
    pad_rows,
    vectors,
)
from penstock._numba.isa.supports import limit
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
    mlp_forward(step, plan.linear, packed.params, -1, n_vectors, keep, tile)


def embedding_backward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """Its way back, from gradient.context to the beginning of gradient.hidden."""
    copy_features(step[N_THETA], n_vectors, gradient.context, 0, gradient.theta, 0)
    at = mlp_backward(step, plan.linear, packed.params, n_vectors, 0, tile, gradient)
    copy_features(step[N_U], n_vectors, gradient.hidden, at, gradient.hidden, 0)


LAYERS = {
    ELEMENTWISE: (elementwise_forward, elementwise_backward),
    COUPLING: (coupling_forward, coupling_backward),
    LU_LINEAR: (lu_forward, lu_backward),
    AUTOREGRESSIVE: (autoregressive_forward, autoregressive_backward),
}


def kernels_of(step: Any) -> Any:
    """Those of a row of steps, there and back; None where there is nothing to do."""
    if step[KIND] in LAYERS:
        return LAYERS[step[KIND]]
    if step[KIND] == NUMBERS_OF_BASE:
        return (network_forward, network_backward) if step[N_LINEAR] > 0 else (free_forward, free_backward)
    return (embedding_forward, embedding_backward) if step[N_LINEAR] > 0 else None


def prepare(steps: Any, runs: Any, base: Any, dtype: Any, backwards: bool) -> None:
    """Put the addresses of the kernels that a plan needs into its steps, its runs and the blocks of its base."""
    kinds = KERNEL_TYPES[dtype.name]
    for row in steps:
        found = kernels_of(row)
        if found is None:
            continue
        forward, backward = found
        row[FORWARD] = kernel(forward, kinds.forward)
        if backwards:
            row[BACKWARD] = kernel(backward, kinds.backward)
        if row[N_LINEAR] > 0:
            activate_all, scale_by_derivative = ACTIVATIONS[row[ACTIVATION]]
            row[ACTIVATE] = kernel(activate_all, kinds.activate)
            if backwards:
                row[SCALE_BY_DERIVATIVE] = kernel(scale_by_derivative, kinds.scale)
    for run in runs:
        run[RUN_FORWARD] = kernel(TRANSFORM_FORWARDS[run[RUN_TRANSFORM]], kinds.transform_forward)
        if backwards:
            run[RUN_BACKWARD] = kernel(TRANSFORM_BACKWARDS[run[RUN_TRANSFORM]], kinds.transform_backward)
    for block in base:
        if block[BLOCK_KIND] not in (STANDARD_NORMAL, UNIFORM):
            block[BLOCK_DENSITY] = kernel(learned_log_density, kinds.base_density)
            block[BLOCK_DRAW] = kernel(learned_draw, kinds.base_draw)
            if backwards:
                block[BLOCK_BACKWARD] = kernel(learned_backward, kinds.base_backward)


def prepare_draws_backward(base: Any, dtype: Any) -> None:
    """And those of the way back of draws, which few need."""
    for block in base:
        if block[BLOCK_KIND] not in (STANDARD_NORMAL, UNIFORM):
            block[BLOCK_DRAW_BACKWARD] = kernel(learned_draw_backward, KERNEL_TYPES[dtype.name].base_draw_backward)


@jit
def context_in(
    plan: Any, packed: Any, context: Any, shared: bool, index: Any, tile: Any, keep: bool, numbers: Any, sines: Any
) -> Any:
    """What conditioners read of the context, (n_context, tile): its rows, float64, mapped, standardised, and through the
    embedding.

    ``numbers`` and ``sines`` are scratch of float64. Rows lie where the embedding reads them, or else in tile.context, where
    conditioners do.
    """
    embedding, dim = step_of(plan, plan.n_steps), plan.context_dim
    embedded = embedding[N_LINEAR] > 0
    to = beyond(tile.kept, embedding[INPUT]) if embedded else tile.context
    for r in range(tile.rows):
        for i in range(dim):
            row = 0 if shared else index[r]
            v = (context[row * dim + i] - packed.context_loc[i]) * packed.context_inverse[i]
            to[plan.context_slots[i] * TILE + r] = limit(v, to)
    if plan.n_context_mapped > 0:
        mapped_context_in(plan, packed, context, shared, index, tile.rows, to, numbers, sines)
    pad_rows(step_of(plan, plan.n_steps)[N_U], tile.rows, to)
    if not embedded:
        return to
    call(embedding[FORWARD], (embedding, plan, packed, False, vectors(tile.rows, to), tile, keep))
    return beyond(tile.kept, embedding[THETA])


@jit
def make_context_part(plan: Any, packed: Any, context: Any, tile: Any, part: Any) -> None:
    """What a shared context contributes to each conditioner, from the first row of a tile."""
    for k in range(plan.n_all_steps):
        step = step_of(plan, k)
        if step[N_CONTEXT] > 0:
            make_step_part(step, plan.linear, packed.params, context, tile, part)


@jit
def context_backward(
    plan: Any, packed: Any, context: Any, shared: bool, tile: Any, gradient: Any, want_context: bool, index: Any,
    d_context: Any, numbers: Any, sines: Any,
) -> None:  # fmt: skip
    """The way back of gradient.context: parameters of the embedding, and rows of d_context; scratch as for the bijections."""
    embedding, d, dim = step_of(plan, plan.n_steps), gradient.context, plan.context_dim
    if embedding[N_LINEAR] > 0:
        call(embedding[BACKWARD], (embedding, plan, packed, False, vectors(tile.rows, tile.state), tile, gradient))
        d = gradient.hidden
    if want_context:
        for r in range(tile.rows):
            for i in range(dim):
                d_context[index[r] * dim + i] = d[plan.context_slots[i] * TILE + r] * packed.context_inverse[i]
        if plan.n_context_mapped > 0:
            mapped_context_backward(plan, packed, context, shared, index, tile.rows, d, d_context, numbers, sines)


@jit
def step_in(plan: Any, through: Any, i: int) -> Any:
    """Step number i of a pass."""
    return step_of(plan, through.first + i if through.to_data else through.last - 1 - i)


@jit
def is_inverse(step: Any, through: Any) -> bool:
    """Whether a pass goes through a step against its explicit direction."""
    return through.to_data != (step[EXPLICIT_TO_DATA] != 0)


@jit
def forward(plan: Any, packed: Any, through: Any, tile: Any) -> None:
    """The steps of a pass in its direction."""
    n = vectors(tile.rows, tile.state)
    for i in range(through.last - through.first):
        step = step_in(plan, through, i)
        if step[FORWARD] != 0 and tile.stop[0] == 0:
            call(step[FORWARD], (step, plan, packed, is_inverse(step, through), n, tile, through.keep))


@jit
def backward(plan: Any, packed: Any, through: Any, tile: Any, gradient: Any) -> None:
    """The way back: gradient.state from the cotangents of what came out to those of what went in."""
    n = vectors(tile.rows, tile.state)
    for i in range(through.last - through.first - 1, -1, -1):
        step = step_in(plan, through, i)
        if step[BACKWARD] != 0 and tile.stop[0] == 0:
            call(step[BACKWARD], (step, plan, packed, is_inverse(step, through), n, tile, gradient))
