"""The one walk of a tile: the context is brought, a source fills it, the steps go forward, the base is asked; in training the
way back follows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from penstock._numba.core.jit import jit
from penstock._numba.core.layout import TILE
from penstock._numba.core.pointers import beyond
from penstock._numba.core.tile import CONTEXT_ROWS_AND_PART, IGNORE, Tile, TileGradient, has_rows
from penstock._numba.isa.ends import (
    base_backward,
    base_draw,
    base_draw_backward,
    base_log_density,
    begin_log_det,
    columns_in,
    cotangents_in,
    cotangents_out,
    features_in,
    fill,
    pad_rows,
)
from penstock._numba.isa.kernels import backward, context_backward, context_in, forward
from penstock._numba.isa.supports import (
    mapped_cotangents_in,
    mapped_cotangents_out,
    mapped_in,
    mapped_log_det,
)


class Source(NamedTuple):
    """Where a tile gets its rows: a chunk of an array, or draws by their numbers."""

    x: Any  # (rows, dim) float64
    item: int  # 0 if they were float32, and 1
    sampling: bool
    seed: Any
    context_row: Any  # numbers of the rows' contexts and draws
    draw: Any
    components: Any  # (mixtures, components_apart) float64: those of draws, and
    components_apart: int  # 0 where they are drawn too
    log_weight: Any  # of given components, added to
    stop: Any  # see Tile
    context_kind: int
    context: Any  # (rows, context_dim) float64, or the first row alone of a shared one
    context_part: Any  # of a shared context
    external: Any  # (rows, n_external) external theta, or the first row alone
    external_shared: Any  # (n_external): 1 where the first row serves all


class Space(NamedTuple):
    """The arrays of a workspace: those of a tile and its gradient, and what the entries need beside them."""

    state: Any
    kept: Any
    theta: Any
    context: Any
    d_state: Any
    d_value: Any  # (tile): cotangent of log_det, or of log p
    d_log_det: Any
    partial: Any
    d_theta: Any
    d_external: Any
    d_hidden: Any
    transposed: Any
    d_context: Any
    log_det: Any  # float64
    squares: Any
    numbers: Any  # the density of the latents where the walk begins with them; losses; weights
    double_partial: Any
    words: Any
    index: Any  # of the tile's rows in the chunk
    outside: Any  # (tile): whether a row lies outside the support of a column,
    coarse: Any  # (tile): and whether rounding has moved one that was written (isa/supports.py)
    d_hidden_half: int


@jit
def cut_tile(space: Any, stop: Any, rows: int, context_kind: int, context: Any, context_part: Any) -> Any:
    """A tile of a workspace."""
    return Tile(
        rows, stop, space.state, space.log_det, space.theta, context_kind, context, context_part, space.kept
    )  # fmt: skip


@jit
def cut_gradient(space: Any, params: Any, of_params: int, of_context: int) -> Any:
    """Its way back."""
    return TileGradient(
        space.d_state, space.d_log_det, space.d_theta, space.d_external, space.d_context, space.d_hidden,
        space.d_hidden_half, space.transposed, space.partial, params, of_params, of_context,
    )  # fmt: skip


@jit
def walk_forward(plan: Any, packed: Any, through: Any, source: Any, rows: int, space: Any) -> Any:
    """The tile once the rows of ``space.index`` went through the steps.

    tile.log_det holds their log-determinant, or log p if the base is asked for.
    """
    dim, index, state, log_det, log_p = plan.dim, space.index, space.state, space.log_det, space.numbers
    begin_log_det(packed, through, log_det)
    features_in(plan.n_external, source.external, source.external_shared, index, rows, space.theta)
    tile = cut_tile(space, source.stop, rows, source.context_kind, space.context, source.context_part)
    if has_rows(source.context_kind):
        shared = source.context_kind == CONTEXT_ROWS_AND_PART
        context = context_in(
            plan, packed, source.context, shared, index, tile, through.keep, space.squares, space.double_partial
        )  # fmt: skip
        tile = cut_tile(space, source.stop, rows, source.context_kind, context, source.context_part)
    if source.sampling:
        base_draw(plan, packed, source, index[0], space.words, tile)
    else:
        slots = beyond(plan.boundary, dim * (through.first if through.to_data else through.last))
        columns_in(dim, slots, packed, through.columns and not through.to_data, source.x, index, rows, state)
        if through.columns and not through.to_data:
            mapped_in(dim, slots, plan, packed, source.item, source.x, index, rows, state, log_det, space.squares)
            pad_rows(dim, rows, state)
    for r in range(rows):
        space.outside[r] = log_det[r] == -np.inf
    if through.base and through.to_data:
        fill(log_p, rows, 0.0)
        base_log_density(plan, packed, tile, log_p, space.squares)
    forward(plan, packed, through, tile)
    if through.columns and through.to_data:
        slots = beyond(plan.boundary, dim * through.last)
        mapped_log_det(slots, plan, packed, state, rows, log_det, space.squares)
    if through.base and through.to_data:
        for r in range(rows):
            log_det[r] = log_p[r] - log_det[r]
    elif through.base:
        base_log_density(plan, packed, tile, log_det, space.squares)
    return tile


@jit
def walk_backward(
    plan: Any, packed: Any, through: Any, source: Any, tile: Any, gradient: Any, with_out: bool, d_out: Any, d_x: Any,
    want_context: bool, d_context: Any, space: Any,
) -> None:  # fmt: skip
    """The way back, from cotangents of what walk_forward left in the state, zero unless ``with_out``, and in tile.log_det.

    The latter, ``space.d_value``, become zero where a row lies outside a support. Overwrites d_x and, if wanted, d_context;
    gradients of parameters and the context as the intents of ``gradient`` say.
    """
    index, d_value = space.index, space.d_value
    dim, rows, before, after = plan.dim, tile.rows, through.last, through.first
    if through.to_data:
        before, after = after, before
    for r in range(TILE):
        if space.outside[min(r, rows - 1)] != 0:
            d_value[r] = 0
        gradient.log_det[r] = -d_value[r] if through.base and through.to_data else d_value[r]
    slots = beyond(plan.boundary, dim * after)
    if with_out:
        cotangents_in(dim, slots, packed, through.columns and through.to_data, d_out, index, rows, gradient.state)
    else:
        fill(gradient.state, dim * TILE, 0)
    if through.columns and through.to_data:
        mapped_cotangents_in(
            dim, slots, plan, packed, with_out, d_out, tile.state, gradient.log_det, index, rows, gradient.state,
            space.squares, space.double_partial,
        )  # fmt: skip
    for r in range(TILE):
        if space.outside[min(r, rows - 1)] != 0:
            for d in range(dim):
                gradient.state[d * TILE + r] = 0
    if gradient.of_context != IGNORE:
        fill(gradient.context, plan.n_context * TILE, 0)
    fill(gradient.external, plan.n_external * TILE, 0)
    if through.base and not through.to_data:
        base_backward(plan, packed, d_value, tile, gradient)
    backward(plan, packed, through, tile, gradient)
    if source.sampling:
        base_draw_backward(plan, packed, source, index[0], space.words, tile, gradient)
    if through.base and through.to_data:
        base_backward(plan, packed, d_value, tile, gradient)
    if gradient.of_context != IGNORE:
        shared = source.context_kind == CONTEXT_ROWS_AND_PART
        context_backward(
            plan, packed, source.context, shared, tile, gradient, want_context, index, d_context, space.squares,
            space.double_partial,
        )  # fmt: skip
    slots = beyond(plan.boundary, dim * before)
    cotangents_out(dim, slots, packed, through.columns and not through.to_data, gradient.state, index, rows, d_x)
    if through.columns and not through.to_data:
        mapped_cotangents_out(
            dim, slots, plan, packed, source.item, source.x, gradient.state, gradient.log_det, index, rows, d_x, space.squares,
            space.double_partial,
        )  # fmt: skip
