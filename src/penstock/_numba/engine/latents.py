"""Draws of the base alone, with components of mixtures that may be given, and their way back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import BLOCK_COMPONENTS, BLOCK_KIND, GAUSSIAN_MIXTURE
from penstock._numba.engine.calls import Calls
from penstock._numba.engine.evaluate import draws_of_each, evaluate_rows
from penstock._numba.engine.gradient import slices_of, sum_slices, vjp_rows

if TYPE_CHECKING:
    from penstock._numba.engine.packed import Packed
    from penstock._numba.engine.workspace import Workspace

Array = np.ndarray[Any, Any]


def latents(
    engine: Calls, packed: Packed, seed: int, context_row: int, first_draw: int, context: Array | None,
    components: Array | None, out: Array, log_weight: Array | None,
) -> None:  # fmt: skip
    """Draws as ``sample`` has them, before any step; ``log_weight`` gets what given components weigh, log w over mixtures."""
    engine.need_packed(packed)
    rows = len(out)
    engine.need("out", out, (rows, engine.dim))
    engine.need("log_weight", log_weight, (rows,), np.float64, only=True)
    need_components(engine, components, rows)
    through = engine.through(True, 0, 0, False, False)
    given = engine.context_of(packed, context, rows)
    draws = draws_of_each(given, rows, first_draw, context_row)
    plan, theta = engine.plan(False), engine.theta(None, through, rows)

    def chunk(begin: int, end: int, space: Workspace) -> None:
        given.fill(np.arange(begin, end), space)
        number = np.arange(begin, begin + space.counters.shape[1])
        space.counters[0], space.counters[1] = context_row + number // draws, first_draw + number % draws
        weight = np.zeros(end - begin + TILE)
        source = engine.source(
            space,
            given,
            theta,
            out.itemsize,
            np.uint64(seed),
            components=padded(components, begin, end),
            log_weight=weight,
        )
        evaluate_rows(plan, packed.view, through, source, end - begin, space.out, space.log_det, space.space)
        out[begin:end] = space.out[: end - begin]
        if log_weight is not None:
            log_weight[begin:end] = weight[: end - begin]

    engine.chunks(rows, chunk)


def latents_vjp(
    engine: Calls, packed: Packed, seed: int, context_row: int, first_draw: int, context: Array | None,
    components: Array | None, d_out: Array, d_log_weight: Array | None, d_params: Array,
) -> None:  # fmt: skip
    """The way back of ``latents``: adds to ``d_params`` from cotangents of draws and of ``log_weight``."""
    engine.need_packed(packed)
    rows, layout = len(d_out), engine.layout
    engine.need("d_out", d_out, (rows, engine.dim))
    engine.need("d_log_weight", d_log_weight, (rows,))
    engine.need("d_params", d_params, (engine.n_params,), np.float64, only=True)
    need_components(engine, components, rows)
    through = engine.through(True, 0, 0, False, True)
    given = engine.context_of(packed, context, rows)
    draws = draws_of_each(given, rows, first_draw, context_row)
    plan, theta = engine.plan_of_draws(), engine.theta(None, through, rows)
    sums = np.zeros((max(len(slices_of(rows)), 1), layout.n_external))

    def chunk(s: int, begin: int, end: int, space: Workspace, params_gradient: Array) -> None:
        n = end - begin
        space.d_out[:n] = d_out[begin:end]
        space.d_log_det[:n] = 0 if d_log_weight is None else d_log_weight[begin:end]
        given.fill(np.arange(begin, end), space)
        number = np.arange(begin, begin + space.counters.shape[1])
        space.counters[0], space.counters[1] = context_row + number // draws, first_draw + number % draws
        source = engine.source(
            space, given, theta, d_out.itemsize, np.uint64(seed), by_row=True, components=padded(components, begin, end),
            log_weight=np.zeros(n + TILE),
        )  # fmt: skip
        vjp_rows(
            plan, packed.view, through, source, n, False, True, False, space.weight, space.d_out, space.d_log_det, space.out,
            space.log_det, space.d_context, space.d_theta, params_gradient, sums[s], space.sums, space.space,
        )  # fmt: skip

    gradient = sum_slices(engine, rows, chunk, True)
    with np.errstate(all="ignore"):
        d_params += gradient[layout.index]


def padded(components: Array | None, begin: int, end: int) -> Array | None:
    """The components of some rows as kernels read them, whole tiles of float64."""
    if components is None:
        return None
    chosen = np.zeros((max(len(components), 1), end - begin + TILE))
    chosen[: len(components), : end - begin] = components[:, begin:end]
    return chosen


def need_components(engine: Calls, components: Array | None, rows: int) -> None:
    """Components, (mixtures, rows), that each mixture has."""
    if components is None:
        return
    blocks = engine.layout.ends.base
    counts = blocks[blocks[:, BLOCK_KIND] == GAUSSIAN_MIXTURE, BLOCK_COMPONENTS]
    if components.shape != (len(counts), rows) or components.dtype != np.int64:
        raise ValueError(
            f"components must be int64 of shape ({len(counts)}, {rows}), got {components.dtype} of {components.shape}"
        )
    for own, count in zip(components, counts, strict=True):
        if rows and not (own.min() >= 0 and own.max() < count):
            raise ValueError(f"components must lie within the {count} of each mixture")
