"""The one walk of a tile: rows come from a source, go through the steps, and stay in the tile for a sink.

Evaluation stores them, the gradient goes back with them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock._numba.core.jit import jit
from penstock._numba.core.layout import TILE
from penstock._numba.core.philox import normals
from penstock._numba.core.plan import Tile
from penstock._numba.core.pointers import beyond, nothing
from penstock._numba.isa.ends import base, load_columns, load_numbers
from penstock._numba.isa.kernels import forward, load_context

NO_THETA, ROWS_OF_THETA, SHARED_THETA = range(3)
NO_CONTEXT, ROWS_OF_CONTEXT, SHARED_CONTEXT = range(3)


class Source(NamedTuple):
    """Where a tile gets its rows: a chunk of an array, or draws by their numbers."""

    x: Any  # (rows, dim) float64
    sampling: bool
    seed: Any
    context_row: Any  # numbers of the rows' contexts and draws
    draw: Any
    context_kind: int
    context: Any  # (rows, context_dim) float64, or the first row alone of a shared one
    starts: Any  # of a shared context: see Tile
    by_row: bool  # whether a shared context is needed row by row all the same, because a gradient reads it
    external: Any  # (rows, n_external) external theta, or the first row alone
    external_shared: Any  # (n_external): 1 where the first row serves all


class Space(NamedTuple):
    """The arrays of a workspace: those of a tile, and what the entries need beside them."""

    state: Any
    kept: Any
    theta: Any
    context: Any
    gradient: Any
    bar: Any
    log_det_bar: Any
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
    d_hidden_half: int


@jit
def cut(space: Any, rows: int, context: Any, starts: Any, d_context: Any, params_gradient: Any) -> Any:
    """A tile of a workspace."""
    return Tile(
        rows, space.state, space.log_det, space.theta, context, starts, space.kept, space.gradient, space.log_det_bar,
        space.d_theta, space.d_external, d_context, space.d_hidden, space.d_hidden_half, space.transposed, space.partial,
        params_gradient,
    )  # fmt: skip


@jit
def fill(area: Any, n: int, value: Any) -> None:
    """The same value n times."""
    for i in range(n):
        area[i] = value


@jit
def walk(
    plan: Any, packed: Any, through: Any, source: Any, rows: int, d_context: Any, params_gradient: Any, space: Any
) -> Any:
    """The tile once the rows of ``space.index`` went through the steps.

    tile.log_det holds their log-determinant, or log p if the base is asked for.
    """
    dim, index, state, log_det, numbers = plan.dim, space.index, space.state, space.log_det, space.numbers
    shared = source.context_kind == SHARED_CONTEXT
    if source.sampling:
        context_row, draw = beyond(source.context_row, index[0]), beyond(source.draw, index[0])
        normals(source.seed, context_row, draw, rows, dim, space.words, state)
    else:
        slots = beyond(plan.boundary, dim * (through.first if through.to_data else through.last))
        load_columns(dim, slots, packed, through.standardises and not through.to_data, source.x, index, rows, state)
    load_numbers(plan.n_external, source.external, source.external_shared, index, rows, space.theta)
    if through.base and through.to_data:
        fill(numbers, rows, 0.0)
        base(dim, state, rows, 0.0, numbers, space.squares)
    context = nothing(state)
    starts = source.starts if shared else context
    if source.context_kind == ROWS_OF_CONTEXT or (shared and source.by_row):
        tile = cut(space, rows, space.context, starts, d_context, params_gradient)
        context = load_context(plan, packed, source.context, shared, index, tile, through.keep)
    start = packed.log_scale if through.to_data else -packed.log_scale
    fill(log_det, TILE, start if through.standardises else 0.0)
    tile = cut(space, rows, context, starts, d_context, params_gradient)
    forward(plan, packed, through, tile)
    if through.base and through.to_data:
        for r in range(rows):
            log_det[r] = numbers[r] - log_det[r]
    elif through.base:
        base(dim, state, rows, 1.0, log_det, space.squares)
    return tile
