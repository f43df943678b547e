"""The two ends of a flow: the columns of the data into the state and out of it, and the base density.

    columns, in     u = (x - loc) / scale      log_det = -sum log scale      du = scale dx
    columns, out    x = loc + scale u          log_det =  sum log scale      dx = du / scale
    base, normal    log p(z) = -|z|^2 / 2 - dim log(2 pi) / 2                dz = -z dlog_p
    base, uniform   log p(z) = -dim log(hi - lo), or -inf outside            dz = 0
    others          bases.py

Columns are mapped in float64. What they add to log_det whatever a row holds is where the sum of each row begins. Where the
support of a column is not the whole line, a bijection (supports.py) stands between the data and x, and adds what depends on the
row. At an end within a flow columns are copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.conditioners.inputs import (
    first_wanted,
    gather_features,
    gather_shared_theta,
    scatter_gradient,
    shares_theta,
)
from penstock._numba.conditioners.mlp import mlp_backward, mlp_forward
from penstock._numba.core.jit import call, jit
from penstock._numba.core.lanes import accumulate, accumulate_product, lanes, load, select, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.philox import normals, uniforms
from penstock._numba.core.plan import (
    BACKWARD,
    BLOCK_BACKWARD,
    BLOCK_CIRCLE,
    BLOCK_CONSTANT,
    BLOCK_DENSITY,
    BLOCK_DIMS,
    BLOCK_DRAW,
    BLOCK_DRAW_BACKWARD,
    BLOCK_HI,
    BLOCK_KIND,
    BLOCK_LEAST,
    BLOCK_LO,
    BLOCK_MOST,
    BLOCK_N,
    BLOCK_NUMBERS,
    BLOCK_SIZE,
    BLOCK_STEP,
    BLOCK_WIDTH,
    FORWARD,
    GAUSSIAN_MIXTURE,
    GRAD,
    N_THETA,
    N_U,
    STANDARD_NORMAL,
    UNIFORM,
    step_of,
)
from penstock._numba.core.pointers import beyond
from penstock._numba.core.rowsum import sum_rows
from penstock._numba.core.tile import IGNORE
from penstock._numba.isa.bases import HALF_LOG_2PI
from penstock._numba.isa.supports import limit
from penstock._numba.layers.elementwise import gather_theta


@jit
def vectors(rows: int, array: Any) -> int:
    """How many vectors hold so many rows."""
    return (rows + lanes(array) - 1) // lanes(array)


@jit
def fill(area: Any, n: int, value: Any) -> None:
    """The same value n times."""
    for i in range(n):
        area[i] = value


@jit
def pad_rows(features: int, rows: int, tile: Any) -> None:
    """Lanes beyond the last row up to a whole vector repeat that row, so that they stay as harmless as it is."""
    for f in range(features):
        for r in range(rows, vectors(rows, tile) * lanes(tile)):
            tile[f * TILE + r] = tile[f * TILE + rows - 1]


@jit
def begin_log_det(packed: Any, through: Any, log_det: Any) -> None:
    """Where log_det begins."""
    start = packed.log_scale if through.to_data else -packed.log_scale
    fill(log_det, TILE, start if through.columns else 0.0)


@jit
def columns_in(dim: int, slots: Any, packed: Any, data: bool, x: Any, index: Any, rows: int, state: Any) -> None:
    """Rows of x, float64, into the state; ``data``: whether they are those of the data."""
    for r in range(rows):
        for d in range(dim):
            v = x[index[r] * dim + d]
            if data:
                v = (v - packed.loc[d]) * packed.inverse[d]
            state[slots[d] * TILE + r] = limit(v, state)
    pad_rows(dim, rows, state)


@jit
def columns_out(dim: int, slots: Any, packed: Any, data: bool, state: Any, index: Any, rows: int, out: Any) -> None:
    """The state into rows of out."""
    for r in range(rows):
        for d in range(dim):
            u = state[slots[d] * TILE + r]
            if data:
                out[index[r] * dim + d] = packed.loc[d] + packed.scale[d] * u
            else:
                out[index[r] * dim + d] = u


@jit
def cotangents_in(
    dim: int, slots: Any, packed: Any, data: bool, d_out: Any, index: Any, rows: int, d_state: Any
) -> None:
    """Cotangents of what columns_out wrote into those of the state."""
    for r in range(rows):
        for i in range(dim):
            v = d_out[index[r] * dim + i]
            d_state[slots[i] * TILE + r] = v * packed.scale[i] if data else v
    pad_rows(dim, rows, d_state)


@jit
def cotangents_out(
    dim: int, slots: Any, packed: Any, data: bool, d_state: Any, index: Any, rows: int, d_in: Any
) -> None:
    """Cotangents of the state into those of what columns_in read."""
    for r in range(rows):
        for i in range(dim):
            v = d_state[slots[i] * TILE + r]
            d_in[index[r] * dim + i] = v * packed.inverse[i] if data else v


@jit
def features_in(n: int, array: Any, shared: Any, index: Any, rows: int, tile: Any) -> None:
    """(rows, n) into (n, tile) as they are; of a column that is shared, the first row serves all."""
    for r in range(rows):
        for i in range(n):
            tile[i * TILE + r] = array[i if shared[i] != 0 else index[r] * n + i]
    pad_rows(n, rows, tile)


@jit
def features_out(n: int, tile: Any, index: Any, rows: int, array: Any) -> None:
    """And back."""
    for r in range(rows):
        for i in range(n):
            array[index[r] * n + i] = tile[i * TILE + r]


@jit
def block_of(plan: Any, i: int) -> Any:
    """Block i of the base: its row, its numbers, its slots."""
    block = beyond(plan.base, i * BLOCK_SIZE)
    return block, beyond(plan.base_numbers, block[BLOCK_NUMBERS]), beyond(plan.slots, block[BLOCK_DIMS])


def free_forward(step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool) -> None:
    """Numbers of a block that are free, the same for every row, into the kept store."""
    gather_theta(step, packed.params, n_vectors, tile.theta, tile.kept)


def free_backward(step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any) -> None:
    """Sums over rows of their gradient, which stands in gradient.theta."""
    if gradient.of_params != IGNORE:
        for i in range(step[N_THETA]):
            gradient.params[step[GRAD] + i] += sum_rows(gradient.theta, i * TILE, tile.rows, gradient.partial)


def network_forward(step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool) -> None:
    """Those of a network of the context, which runs here."""
    if shares_theta(step, tile):
        gather_shared_theta(step, n_vectors, tile)
        return
    gather_features(step, plan.slots, n_vectors, tile)
    mlp_forward(step, plan.linear, packed.params, -1, n_vectors, keep, tile)


def network_backward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """Its way back."""
    if shares_theta(step, tile):
        return
    first = first_wanted(step, gradient)
    du = mlp_backward(step, plan.linear, packed.params, n_vectors, first, tile, gradient)
    if first < step[N_U]:
        scatter_gradient(step, plan.slots, n_vectors, du, tile, gradient)


@jit
def bring_numbers(plan: Any, packed: Any, block: Any, keep: bool, tile: Any) -> None:
    """What a block has learned, or a network's output that runs here, into the kept store. keep: for its own way back."""
    if block[BLOCK_STEP] >= 0:
        step = step_of(plan, block[BLOCK_STEP])
        call(step[FORWARD], (step, plan, packed, False, vectors(tile.rows, tile.state), tile, keep))


@jit
def base_draw(plan: Any, packed: Any, source: Any, first: int, words: Any, tile: Any) -> None:
    """Draws from the base, each of a context row and a number of its own; ``words`` is scratch."""
    context_row, draw = beyond(source.context_row, first), beyond(source.draw, first)
    seed, rows, state, mixture = source.seed, tile.rows, tile.state, first
    given = source.components_apart > 0
    normals(seed, context_row, draw, rows, plan.n_normals, words, state)
    for i in range(plan.n_base):
        block, numbers, dims = block_of(plan, i)
        if block[BLOCK_KIND] == UNIFORM:
            uniforms(
                seed, context_row, draw, rows, block[BLOCK_N], dims, numbers[BLOCK_LO], numbers[BLOCK_WIDTH],
                numbers[BLOCK_LEAST], numbers[BLOCK_MOST], words, state,
            )  # fmt: skip
        elif block[BLOCK_DRAW] != 0:
            bring_numbers(plan, packed, block, False, tile)
            n = vectors(rows, state)
            is_given, components = given and block[BLOCK_KIND] == GAUSSIAN_MIXTURE, beyond(source.components, mixture)
            weights = beyond(source.log_weight, first)
            call(
                block[BLOCK_DRAW],
                (block, plan, n, tile, i, seed, context_row, draw, words, is_given, components, weights),
            )
            mixture += source.components_apart if is_given else 0


@jit
def normal_log_density(n: int, dims: Any, z: Any, rows: int, log_p: Any, squares: Any) -> None:
    """log_p += log p(z) of normal dimensions, summed over them in order, in float64."""
    fill(squares, TILE, 0.0)
    for d in range(n):
        for lane in range(0, vectors(rows, z) * lanes(z), lanes(z)):
            v = load(z, dims[d] * TILE + lane)
            accumulate_product(squares, lane, v, v)
    for r in range(rows):
        log_p[r] = log_p[r] - 0.5 * squares[r] - n * HALF_LOG_2PI


@jit
def uniform_log_density(block: Any, numbers: Any, dims: Any, z: Any, rows: int, log_p: Any) -> None:
    """The same of uniform ones. On a circle nothing lies outside."""
    outside = 0.0 if block[BLOCK_CIRCLE] != 0 else -np.inf
    for d in range(block[BLOCK_N]):
        for lane in range(0, vectors(rows, z) * lanes(z), lanes(z)):
            v = load(z, dims[d] * TILE + lane)
            inside = select(v > numbers[BLOCK_HI], outside, v - v)  # NaN passes
            accumulate(log_p, lane, select(v < numbers[BLOCK_LO], outside, inside))
    for r in range(rows):
        log_p[r] = log_p[r] + numbers[BLOCK_CONSTANT]


@jit
def base_log_density(plan: Any, packed: Any, tile: Any, log_p: Any, squares: Any) -> None:
    """log_p += log p(z), block after block."""
    for i in range(plan.n_base):
        block, numbers, dims = block_of(plan, i)
        if block[BLOCK_KIND] == STANDARD_NORMAL:
            normal_log_density(block[BLOCK_N], dims, tile.state, tile.rows, log_p, squares)
        elif block[BLOCK_KIND] == UNIFORM:
            uniform_log_density(block, numbers, dims, tile.state, tile.rows, log_p)
        else:
            bring_numbers(plan, packed, block, False, tile)
            call(block[BLOCK_DENSITY], (block, plan, vectors(tile.rows, tile.state), tile, log_p))


@jit
def learned_block_backward(plan: Any, packed: Any, block: Any, d_log_p: Any, tile: Any, gradient: Any) -> None:
    """The way back of a block whose numbers are learned, or which has heavy tails."""
    n = vectors(tile.rows, tile.state)
    bring_numbers(plan, packed, block, True, tile)
    call(block[BLOCK_BACKWARD], (block, plan, n, tile, d_log_p, gradient))
    if block[BLOCK_STEP] >= 0:
        step = step_of(plan, block[BLOCK_STEP])
        call(step[BACKWARD], (step, plan, packed, False, n, tile, gradient))


@jit
def base_backward(plan: Any, packed: Any, d_log_p: Any, tile: Any, gradient: Any) -> None:
    """dz += d log p / dz d_log_p, and gradients of what is learned. The density of uniform dimensions is flat."""
    z, d_z, rows = tile.state, gradient.state, tile.rows
    for i in range(plan.n_base):
        block, _, dims = block_of(plan, i)
        if block[BLOCK_KIND] == STANDARD_NORMAL:
            for d in range(block[BLOCK_N]):
                for lane in range(0, vectors(rows, z) * lanes(z), lanes(z)):
                    at = dims[d] * TILE + lane
                    store(d_z, at, load(d_z, at) - load(z, at) * load(d_log_p, lane))
        elif block[BLOCK_KIND] != UNIFORM:
            learned_block_backward(plan, packed, block, d_log_p, tile, gradient)


@jit
def base_draw_backward(plan: Any, packed: Any, source: Any, first: int, words: Any, tile: Any, gradient: Any) -> None:
    """The way back of base_draw, from the cotangents of the state and, in gradient.log_det, of the weights of components."""
    context_row, draw = beyond(source.context_row, first), beyond(source.draw, first)
    n, mixture, given = vectors(tile.rows, tile.state), first, source.components_apart > 0
    for i in range(plan.n_base):
        block, _, _ = block_of(plan, i)
        if block[BLOCK_DRAW_BACKWARD] != 0:
            bring_numbers(plan, packed, block, True, tile)
            is_given, components = given and block[BLOCK_KIND] == GAUSSIAN_MIXTURE, beyond(source.components, mixture)
            call(
                block[BLOCK_DRAW_BACKWARD],
                (block, plan, n, tile, i, source.seed, context_row, draw, words, is_given, components, gradient),
            )
            mixture += source.components_apart if is_given else 0
            if block[BLOCK_STEP] >= 0:
                step = step_of(plan, block[BLOCK_STEP])
                call(step[BACKWARD], (step, plan, packed, False, n, tile, gradient))
