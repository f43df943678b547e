"""Columns of the context whose support is not the whole line, in float64.

They pass the bijections of supports.py, and of a circle conditioners read cosine and sine.

    in      v = (u(x) - loc) / scale          of a circle cos u, sin u
    back    dx = dv u' / scale                of a circle dx = (cos u dsin - sin u dcos) u'

A context outside its support has no density given it: NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import lanes, load, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.math import sincos
from penstock._numba.core.plan import COLUMN, MAP, MAPPED_SIZE, NUMBERS_SIZE, SCALE
from penstock._numba.core.pointers import beyond
from penstock._numba.isa.doubles import limit
from penstock._numba.isa.supports import WRAP, to_line, to_line_backward


@jit
def gather_context(plan: Any, column: int, context: Any, shared: bool, index: Any, rows: int, numbers: Any) -> int:
    """A column of the rows of context into ``numbers``, up to a whole vector; how many."""
    padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
    for r in range(padded):
        row = 0 if shared else index[min(r, rows - 1)]
        numbers[r] = context[row * plan.context_dim + column]
    return padded


@jit
def mapped_context_in(
    plan: Any, packed: Any, context: Any, shared: bool, index: Any, rows: int, tile: Any, numbers: Any, sines: Any
) -> None:
    """The mapped columns into features of a tile, in the place of what stands there; the last two are scratch of float64."""
    for i in range(plan.n_context_mapped):
        of, c = beyond(plan.context_mapped, i * MAPPED_SIZE), beyond(packed.context_mapped, i * NUMBERS_SIZE)
        column = of[COLUMN]
        loc, inverse = packed.context_loc[column], packed.context_inverse[column]
        to = plan.context_slots[column] * TILE
        padded = gather_context(plan, column, context, shared, index, rows, numbers)
        for r in range(0, padded, lanes(numbers)):
            u, _ = to_line(of, c, 1, load(numbers, r), np.nan)
            sine, cosine = sincos(u)
            if of[MAP] == WRAP:
                store(numbers, r, cosine)
                store(sines, r, sine)
            else:
                store(numbers, r, (u - loc) * inverse)
        for r in range(rows):
            tile[to + r] = limit(numbers[r], tile)
            if of[MAP] == WRAP:
                tile[to + TILE + r] = sines[r]


@jit
def mapped_context_backward(
    plan: Any, packed: Any, context: Any, shared: bool, index: Any, rows: int, d_tile: Any, d_context: Any, numbers: Any,
    sines: Any,
) -> None:  # fmt: skip
    """Their way back, from cotangents of features into rows."""
    for i in range(plan.n_context_mapped):
        of, c = beyond(plan.context_mapped, i * MAPPED_SIZE), beyond(packed.context_mapped, i * NUMBERS_SIZE)
        column = of[COLUMN]
        inverse, at = packed.context_inverse[column], plan.context_slots[column] * TILE
        padded = gather_context(plan, column, context, shared, index, rows, numbers)
        for r in range(0, padded, lanes(numbers)):
            x = load(numbers, r)
            slope, _ = to_line_backward(of, c, 1, x)
            u, _ = to_line(of, c, 1, x, np.nan)
            sine, cosine = sincos(u)
            store(numbers, r, cosine if of[MAP] == WRAP else slope)
            store(sines, r, sine)
        for r in range(rows):
            d, slope = np.float64(d_tile[at + r]), numbers[r]
            if of[MAP] == WRAP:
                d, slope = numbers[r] * np.float64(d_tile[at + TILE + r]) - sines[r] * d, 1.0 / c[SCALE]
            else:
                d = d * inverse
            d_context[index[r] * plan.context_dim + column] = limit(d * slope, d_tile)
