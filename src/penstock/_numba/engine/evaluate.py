"""Evaluation and sampling: chunks of rows through the steps, on the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._numba.core.jit import entry
from penstock._numba.core.layout import TILE
from penstock._numba.core.pointers import beyond, pointer, pointers
from penstock._numba.engine.calls import Calls, Context
from penstock._numba.engine.far_rows import mend_values
from penstock._numba.engine.walk import walk_forward
from penstock._numba.isa.ends import columns_out
from penstock._numba.isa.supports import mapped_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock._numba.engine.packed import Packed
    from penstock._numba.engine.workspace import Workspace

Array = np.ndarray[Any, Any]

DRAWS_MAX, CONTEXT_ROWS_MAX = 2**56, 2**40  # numbers that have counters of their own


@entry
def evaluate_rows(
    plan: Any, packed: Any, through: Any, source: Any, rows: int, out: Any, log_det: Any, space: Any
) -> None:
    """Rows of a source into out and log_det (float64), or log p with a base.

    That of a row outside a support is -inf, and it has no image; that of a draw which rounding moves is NaN, to be found again.
    """
    plan, packed, source, space = pointers(plan), pointers(packed), pointers(source), pointers(space)
    out, log_det = pointer(out), pointer(log_det)
    dim = plan.dim
    slots = beyond(plan.boundary, dim * (through.last if through.to_data else through.first))
    for first in range(0, rows, TILE):
        n = min(TILE, rows - first)
        for r in range(n):
            space.index[r] = first + r
        tile = walk_forward(plan, packed, through, source, n, space)
        columns_out(dim, slots, packed, through.columns and through.to_data, tile.state, space.index, n, out)
        if through.columns and through.to_data:
            mapped_out(
                dim, slots, plan, packed, tile.state, space.index, n, out, space.coarse, space.squares, space.double_partial
            )  # fmt: skip
        for r in range(n):
            log_det[first + r] = tile.log_det[r]
            if through.base and source.sampling and through.columns and plan.n_mapped > 0 and space.coarse[r] != 0:
                log_det[first + r] = np.nan
            if space.outside[r] != 0 and not through.base:
                log_det[first + r] = np.nan
                for d in range(dim):
                    out[(first + r) * dim + d] = np.nan


def evaluate(
    engine: Calls, packed: Packed, to_data: bool, first: int, last: int, x: Array, index: Array | None,
    context: Array | None, thetas: Sequence[Array | None] | None, base: bool, out: Array | None, log_det: Array | None,
) -> None:  # fmt: skip
    """The steps [first, last) in one direction; with ``base``, log_det receives log p.

    Row r of the batch is ``x[index[r]]``, with the row of context that belongs to row ``index[r]`` of x.
    """
    engine.need_packed(packed)
    n_rows = engine.need_rows(x)
    rows = engine.need_index(index, n_rows)
    through = engine.through(to_data, first, last, base, False)
    theta = engine.theta(thetas, through, rows)
    given = engine.context_of(packed, context, n_rows)
    engine.need("out", out, (rows, engine.dim))
    engine.need("log_det", log_det, (rows,), np.float64)
    plan = engine.plan(False)

    def chunk(begin: int, end: int, space: Workspace) -> None:
        chosen: Any = slice(begin, end) if index is None else index[begin:end]
        space.x[: end - begin] = x[chosen]
        theta.fill(begin, end, space)
        given.fill(np.arange(begin, end) if index is None else chosen, space)
        source = engine.source(space, given, theta, x.itemsize)
        evaluate_rows(plan, packed.view, through, source, end - begin, space.out, space.log_det, space.space)
        if out is not None:
            out[begin:end] = space.out[: end - begin]
        if log_det is not None:
            with np.errstate(all="ignore"):
                log_det[begin:end] = space.log_det[: end - begin]

    engine.chunks(rows, chunk)
    if log_det is not None:
        mend_values(packed, through, given, x, index, log_det)


def draws_of_each(given: Context, rows: int, first_draw: int, context_row: int) -> int:
    """How many draws a row of context has, where their numbers are such as there are."""
    draws = given.block if len(given.rows) > 1 else max(rows, 1)
    for name, start, count, most in (
        ("first_draw", first_draw, draws, DRAWS_MAX),
        ("context_row", context_row, max(len(given.rows), 1), CONTEXT_ROWS_MAX),
    ):
        if not 0 <= start <= most - count:
            raise ValueError(f"{name} must be at least 0, and numbers must stay below {most}, got {start}")
    return draws


def sample(
    engine: Calls, packed: Packed, seed: int, context_row: int, first_draw: int, context: Array | None, out: Array,
    log_prob: Array | None,
) -> None:  # fmt: skip
    """Fresh draws, and log p of each if asked for.

    Draw r is number ``first_draw + r % n`` of context row ``context_row + r // n``, where the context has rows for n draws
    each.
    """
    engine.need_packed(packed)
    engine.need_no_external("sample")
    rows = len(out)
    engine.need("out", out, (rows, engine.dim))
    engine.need("log_prob", log_prob, (rows,), np.float64)
    through = engine.through(True, 0, engine.n_steps, log_prob is not None, False)
    given = engine.context_of(packed, context, rows)
    draws = draws_of_each(given, rows, first_draw, context_row)
    plan, theta = engine.plan(False), engine.theta(None, through, rows)

    def chunk(begin: int, end: int, space: Workspace) -> None:
        given.fill(np.arange(begin, end), space)
        number = np.arange(begin, begin + space.counters.shape[1])
        space.counters[0], space.counters[1] = context_row + number // draws, first_draw + number % draws
        source = engine.source(space, given, theta, out.itemsize, np.uint64(seed))
        evaluate_rows(plan, packed.view, through, source, end - begin, space.out, space.log_det, space.space)
        out[begin:end] = space.out[: end - begin]
        if log_prob is not None:
            with np.errstate(all="ignore"):
                log_prob[begin:end] = space.log_det[: end - begin]

    engine.chunks(rows, chunk)
    if log_prob is not None and len(engine.layout.ends.mapped):
        # where rounding has moved a row within its support, the density is that of the row as it is stored
        again = np.flatnonzero(np.isnan(log_prob))
        if len(again):
            found = np.zeros(len(again), log_prob.dtype)
            evaluate(engine, packed, False, 0, engine.n_steps, out, again, context, None, True, None, found)
            log_prob[again] = found
