"""The way back, and sums over rows that depend on the batch alone: slices of a batch, and a fixed tree over them.

A batch of up to 4096 rows has at most 16 slices, a larger one a slice for each 256 rows, and no more than 64. The gradients
of neighbours are added as soon as both are there, so that there are never more than 16 at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._numba.core.jit import entry, jit
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import N_LINEAR, step_of
from penstock._numba.core.pointers import pointer, pointers
from penstock._numba.core.rowsum import sum_rows
from penstock._numba.core.tile import ACCUMULATE, CONTEXT_PART, IGNORE, NO_CONTEXT
from penstock._numba.engine.calls import Calls, Context
from penstock._numba.engine.far_rows import mend_gradients, mend_values
from penstock._numba.engine.walk import cut_gradient, walk_backward, walk_forward
from penstock._numba.isa.ends import features_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock._numba.engine.packed import Packed
    from penstock._numba.engine.pool import Stop
    from penstock._numba.engine.workspace import Workspace

Array = np.ndarray[Any, Any]

ROWS_OF_FEW_SLICES = 4096  # up to here at most FEW_SLICES
FEW_SLICES, MOST_SLICES = 16, 64
ROWS_OF_A_SLICE = 256
SLICES_AT_ONCE = 8  # of a batch with more than FEW_SLICES: so many gradients, and a few sums of earlier ones


@jit
def counted_rows(first: int, last: int, weighted: bool, weight: Any, index: Any) -> int:
    """Fill index with the rows of a tile, those of weight zero left out; how many they are."""
    n = 0
    for r in range(first, last):
        if not weighted or weight[r] != 0:
            index[n] = r
            n += 1
    return n


@jit
def add_loss(weight: Any, tile: Any, index: Any, numbers: Any, partial: Any, sums: Any) -> None:
    """Sums over a tile's rows of -w log p and of w."""
    for r in range(tile.rows):
        numbers[r] = -weight[index[r]] * tile.log_det[r]
    sums[0] += sum_rows(numbers, 0, tile.rows, partial)
    for r in range(tile.rows):
        numbers[r] = weight[index[r]]
    sums[1] += sum_rows(numbers, 0, tile.rows, partial)


@entry
def vjp_rows(
    plan: Any, packed: Any, through: Any, source: Any, rows: int, loss: bool, want_params: bool, want_context: bool,
    weight: Any, d_out: Any, d_log_det: Any, out: Any, log_det: Any, d_context: Any, d_theta: Any, params_gradient: Any,
    theta_gradient: Any, sums: Any, space: Any,
) -> None:  # fmt: skip
    """Cotangents of rows: overwrites out (that of x), log_det (forward), d_context and d_theta.

    Adds to the gradient of parameters, and to theta_gradient those of every external theta. With ``loss``, d_log_det is minus
    the weight, rows of weight zero are left out, and sums gets the sums over rows of -w log p and of w.
    """
    plan, packed, source, space = pointers(plan), pointers(packed), pointers(source), pointers(space)
    d_out, out, log_det, d_context, d_theta = (
        pointer(d_out), pointer(out), pointer(log_det), pointer(d_context), pointer(d_theta)
    )  # fmt: skip
    weight, d_log_det, index = pointer(weight), pointer(d_log_det), space.index
    embedded = want_params and step_of(plan, plan.n_steps)[N_LINEAR] > 0
    back_to_context = source.context_kind != NO_CONTEXT and (want_context or embedded)
    gradient = cut_gradient(
        space, pointer(params_gradient), ACCUMULATE if want_params else IGNORE, ACCUMULATE if back_to_context else IGNORE
    )  # fmt: skip
    for first in range(0, rows, TILE):
        n = counted_rows(first, min(first + TILE, rows), loss, weight, index)
        if n == 0:
            continue
        tile = walk_forward(plan, packed, through, source, n, space)
        for r in range(n):
            no_image = space.outside[r] != 0 and not through.base
            log_det[index[r]] = np.nan if no_image else tile.log_det[r]
        for r in range(TILE):
            i = index[min(r, n - 1)]
            space.d_value[r] = -weight[i] if loss else d_log_det[i]
        if loss:
            add_loss(weight, tile, index, space.numbers, space.double_partial, sums)
        walk_backward(
            plan, packed, through, source, tile, gradient, not loss, d_out, out, want_context, d_context, space
        )  # fmt: skip
        features_out(plan.n_external, space.d_external, index, n, d_theta)
        for i in range(plan.n_external):
            theta_gradient[i] += sum_rows(space.d_external, i * TILE, n, space.double_partial)


@entry
def sum_context(by_row: Any, first_row: int, block: int, sums: Any) -> None:
    """Add rows to the sums of their blocks; row 0 is number ``first_row`` of the batch."""
    for r in range(by_row.shape[0]):
        for i in range(by_row.shape[1]):
            sums[(first_row + r) // block, i] += by_row[r, i]


def slices_of(rows: int) -> list[tuple[int, int]]:
    """The slices of a batch, as ranges of rows: they depend on its size alone."""
    tiles = -(-rows // TILE)
    n = min(FEW_SLICES, tiles) if rows <= ROWS_OF_FEW_SLICES else min(MOST_SLICES, -(-rows // ROWS_OF_A_SLICE))
    return [(s * tiles // n * TILE, min(rows, (s + 1) * tiles // n * TILE)) for s in range(n)]


def combine(parts: Array) -> Array:
    """The sum over the first axis by a fixed binary tree; ``parts`` is used up."""
    stride = 1
    with np.errstate(all="ignore"):
        while stride < len(parts):
            for i in range(0, len(parts) - stride, 2 * stride):
                parts[i] += parts[i + stride]
            stride *= 2
    return parts[0]


class Tree:
    """The sum of gradients that come one after the other, from ``first`` on, with the very additions of ``combine`` over all."""

    def __init__(self, first: int = 0) -> None:
        self.next = first
        self.parts: list[tuple[int, int, Array]] = []  # sums of so many neighbours from one on

    def add(self, part: Array) -> None:
        """The next one; it is used up."""
        first, n = self.next, 1
        self.next += 1
        with np.errstate(all="ignore"):
            while self.parts and self.parts[-1][1] == n and self.parts[-1][0] % (2 * n) == 0:
                first, n, sum_before = self.parts.pop()
                sum_before += part
                part, n = sum_before, 2 * n
        self.parts.append((first, n, part))

    def nodes(self) -> list[Array]:
        """What the tree makes of those that came alone."""
        return [part for _, _, part in self.parts]

    def total(self) -> Array:
        """Of all that came."""
        with np.errstate(all="ignore"):
            while len(self.parts) > 1:
                *_, part = self.parts.pop()
                self.parts[-1][2][...] += part
        return self.parts[0][2]


def sum_slices(
    engine: Calls, rows: int, chunk: Callable[[int, int, int, Workspace, Array], None], want_params: bool
) -> Array:
    """The padded gradient of all slices of a batch; ``chunk(s, begin, end, ...)`` adds that of rows of slice s."""
    return tree_of(engine, rows, 0, max(len(slices_of(rows)), 1), chunk, want_params).total()


def tree_of(
    engine: Calls, rows: int, first: int, last: int, chunk: Callable[[int, int, int, Workspace, Array], None],
    want_params: bool,
) -> Tree:  # fmt: skip
    """The padded gradients of slices ``first`` to ``last - 1`` of a batch, as far as they add up."""
    slices, layout = slices_of(rows), engine.layout
    at_once = FEW_SLICES if len(slices) <= FEW_SLICES else SLICES_AT_ONCE
    tree = Tree(first)
    for at in range(first, last, at_once):
        some = slices[at : min(at + at_once, last)]
        gradients = np.zeros((max(len(some), 1), layout.n_gradient if want_params else 0), layout.dtype)

        def job(i: int, stop: Stop, first: int = at, gradients: Array = gradients) -> None:
            begin, end = slices[first + i]
            with engine.lend(True) as space:
                space.stop = stop.flag
                for at in range(begin, end, engine.training_chunk):
                    if stop():
                        return
                    chunk(first + i, at, min(end, at + engine.training_chunk), space, gradients[i])

        def nothing(space: Workspace, gradients: Array = gradients) -> None:
            chunk(0, 0, 0, space, gradients[0])

        engine.share(job, len(some), engine.threads(rows, 3 * layout.flops), True, nothing)
        for gradient in gradients:
            tree.add(gradient)
    return tree


def vjp(
    engine: Calls, packed: Packed, to_data: bool, first: int, last: int, x: Array, context: Array | None,
    thetas: Sequence[Array | None] | None, base: bool, d_out: Array | None, d_log_det: Array | None,
    log_det: Array | None, d_x: Array | None, d_params: Array | None, d_context: Array | None,
    d_thetas: Sequence[Array | None] | None, *, scaled: bool = False,
) -> None:  # fmt: skip
    """Cotangents of ``evaluate``: from those of out and log_det to those of x, parameters, context and theta.

    ``log_det`` receives what evaluate gives for it. Gradients that are sums over rows are added to, in float64; others are
    overwritten. ``scaled`` is for calls from here, with cotangents scaled down for rows that are far out.
    """
    engine.need_packed(packed)
    rows, layout = engine.need_rows(x), engine.layout
    through = engine.through(to_data, first, last, base, True)
    theta = engine.theta(thetas, through, rows)
    given = engine.context_of(packed, context, rows)
    engine.need("d_out", d_out, (rows, engine.dim))
    engine.need("d_log_det", d_log_det, (rows,))
    engine.need("log_det", log_det, (rows,), np.float64)
    engine.need("d_x", d_x, (rows, engine.dim))
    engine.need("d_params", d_params, (engine.n_params,), np.float64, only=True)
    own = context is not None and context.ndim == 2 and len(context) == rows
    if d_context is not None:
        if context is None:
            raise ValueError("d_context must be None where context is None")
        engine.need("d_context", d_context, context.shape, *([] if own else [np.float64]), only=not own)
    theta.need_gradients(d_thetas, engine)
    plan, slices = engine.plan(True), slices_of(rows)
    want_context = d_context is not None
    by_row = d_params is not None or want_context  # gradients read the context of each row, even if all share one
    theta_sums = np.zeros((max(len(slices), 1), layout.n_external))
    # of a slice, the sums for each row of the context that it reads
    blocks = [(begin // given.block, (end - 1) // given.block + 1) for begin, end in slices]
    context_sums = [np.zeros((b - a, layout.context_dim)) if want_context and not own else None for a, b in blocks]

    def chunk(s: int, begin: int, end: int, space: Workspace, params_gradient: Array) -> None:
        n = end - begin
        space.x[:n] = x[begin:end]
        theta.fill(begin, end, space)
        space.d_out[:n] = 0 if d_out is None else d_out[begin:end]
        space.d_log_det[:n] = 0 if d_log_det is None else d_log_det[begin:end]
        given.fill(np.arange(begin, end), space)
        source = engine.source(space, given, theta, x.itemsize, by_row=by_row)
        vjp_rows(
            plan, packed.view, through, source, n, False, d_params is not None, want_context, space.weight,
            space.d_out, space.d_log_det, space.out, space.log_det, space.d_context, space.d_theta, params_gradient,
            theta_sums[s], space.sums, space.space,
        )  # fmt: skip
        with np.errstate(all="ignore"):
            if log_det is not None:
                log_det[begin:end] = space.log_det[:n]
        if d_x is not None:
            d_x[begin:end] = space.out[:n]
        theta.take(d_thetas, begin, end, space)
        sums = context_sums[s]
        if sums is not None:
            sum_context(space.d_context[:n], begin - blocks[s][0] * given.block, given.block, sums)
        elif d_context is not None:
            d_context[begin:end] = space.d_context[:n]

    gradient = sum_slices(engine, rows, chunk, d_params is not None)
    with np.errstate(all="ignore"):
        if d_params is not None:
            d_params += gradient[layout.index]
        theta.add(d_thetas, combine(theta_sums))
        if d_context is not None:
            sums_of_context = d_context.reshape(-1, layout.context_dim)
            for (a, b), sums in zip(blocks, context_sums, strict=True):
                if sums is not None:
                    sums_of_context[a:b] += sums
    if log_det is not None:
        mend_values(packed, through, given, x, None, log_det)

    def again(numbers: Array, some_out: Array | None, some_log_det: Array | None) -> tuple[Array, Array | None]:
        some_x, of_x = np.asarray(x[numbers]), np.empty((len(numbers), engine.dim), layout.dtype)
        some_context = context if context is None or given.kind == CONTEXT_PART else context[numbers // given.block]
        some_thetas = thetas and [theta if theta is None or theta.ndim == 1 else theta[numbers] for theta in thetas]
        of_context = (
            np.empty((len(numbers), layout.context_dim), layout.dtype) if own and d_context is not None else None
        )
        if of_context is not None and some_context is not None:
            some_context = some_context.reshape(len(numbers), -1)
        vjp(
            engine, packed, to_data, first, last, some_x, some_context, some_thetas, base, some_out, some_log_det, None, of_x,
            None, of_context, None, scaled=True,
        )  # fmt: skip
        return of_x, of_context

    if not scaled:
        mend_gradients(packed, through, given, x, d_out, d_log_det, d_x, d_context if own else None, again)


def loss_and_grad(
    engine: Calls, packed: Packed, x: Array, context: Array | None, weight: Array | None, d_params: Array
) -> tuple[float, float]:
    """Sums over rows of -w log p and of w; the gradient of the first is added to ``d_params``."""
    engine.need_packed(packed)
    rows = engine.need_rows(x)
    engine.need_no_external("loss_and_grad")
    given = engine.context_of(packed, context, rows)
    engine.need("d_params", d_params, (engine.n_params,), np.float64, only=True)
    engine.need_weight(weight, rows)
    exponent = 0
    if weight is not None and rows:
        # weights may be any multiple of others: scaled to about 1 before anything is narrowed
        largest = float(np.max(np.abs(weight)))
        exponent = int(np.frexp(largest)[1]) if np.isfinite(largest) else 0

    def fill(begin: int, end: int, space: Workspace) -> None:
        space.x[: end - begin] = x[begin:end]
        given.fill(np.arange(begin, end), space)
        fill_weight(space, None if weight is None else weight[begin:end], end - begin, -exponent)

    gradient, sums = batch_gradient(engine, packed, x.itemsize, rows, given, fill)
    with np.errstate(all="ignore"):
        d_params += np.ldexp(gradient[engine.layout.index].astype(np.float64), exponent)
        loss, total = np.ldexp(sums, exponent).tolist()
    return loss, total


def fill_weight(space: Workspace, weight: Array | None, rows: int, exponent: int) -> None:
    """Weights times 2^exponent into a workspace, in float64; 1 where there are none."""
    with np.errstate(all="ignore"):
        space.weight[:rows] = 1.0 if weight is None else np.ldexp(weight.astype(np.float64), exponent)


def batch_gradient(
    engine: Calls, packed: Packed, itemsize: int, rows: int, given: Context,
    fill: Callable[[int, int, Workspace], None],
) -> tuple[Array, Array]:  # fmt: skip
    """Padded gradient of the loss of a batch, and the sums of -w log p and of w.

    ``fill`` brings rows, of numbers of ``itemsize`` bytes, their context and their weights.
    """
    tree, sums = slices_gradient(engine, packed, itemsize, rows, 0, max(len(slices_of(rows)), 1), given, fill)
    return tree.total(), combine(sums)


def slices_gradient(
    engine: Calls, packed: Packed, itemsize: int, rows: int, first: int, last: int, given: Context,
    fill: Callable[[int, int, Workspace], None],
) -> tuple[Tree, Array]:  # fmt: skip
    """Those of slices ``first`` to ``last - 1`` alone, as far as they add up, and the sums of each slice of the batch."""
    layout = engine.layout
    through, plan = engine.through(False, 0, engine.n_steps, True, True), engine.plan(True)
    given, theta = engine.shared(packed, given, rows), engine.theta(None, through, rows)
    sums = np.zeros((max(len(slices_of(rows)), 1), 2))
    theta_sums = np.zeros(layout.n_external)

    def chunk(s: int, begin: int, end: int, space: Workspace, params_gradient: Array) -> None:
        fill(begin, end, space)
        source = engine.source(space, given, theta, itemsize, by_row=True)
        vjp_rows(
            plan, packed.view, through, source, end - begin, True, True, False, space.weight, space.d_out,
            space.d_log_det, space.out, space.log_det, space.d_context, space.d_theta, params_gradient, theta_sums,
            sums[s], space.space,
        )  # fmt: skip

    return tree_of(engine, rows, first, last, chunk, True), sums
