"""Runs plans: cuts a batch into chunks and slices, lends workspaces, hands them to the entries on the pool, and adds up
gradients in an order that depends on the batch alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock._numba.core.plan import MAX_SLICES, PAD, TILE
from penstock._numba.engine import adam as _adam
from penstock._numba.engine.plan import Layout
from penstock._numba.engine.pool import Job, Stopped, num_threads, parallel
from penstock._numba.engine.rows import (
    NO_CONTEXT,
    NO_THETA,
    ROWS_OF_CONTEXT,
    ROWS_OF_THETA,
    SHARED_CONTEXT,
    SHARED_THETA,
    evaluate_rows,
    share_rows,
    sum_context,
    vjp_rows,
)

Array = np.ndarray[Any, Any]
Rows = Callable[[int, int, Array], None]  # fills a (rows, dim) float64 array with rows [first, last)

CHUNK_TILES = 32  # of one call of an entry at most
CHUNK_FLOPS = 5e8  # and about so much work, so that an interrupt is noticed soon
FLOPS_WORTH_A_THREAD = 1e6

_compiled: set[tuple[Any, bool]] = set()  # entries that have run, by dtype and whether they train


def tiles_of(rows: int) -> int:
    """How many tiles hold so many rows."""
    return -(-rows // TILE)


def slices_of(rows: int) -> list[tuple[int, int]]:
    """The slices of a batch, as ranges of rows: they depend on its size alone."""
    tiles = tiles_of(rows)
    n = min(MAX_SLICES, tiles)
    return [(s * tiles // n * TILE, min(rows, (s + 1) * tiles // n * TILE)) for s in range(n)]


def quiet() -> np.errstate:
    """Overflow and NaN are results here, not news."""
    return np.errstate(all="ignore")


def combine(parts: Array) -> Array:
    """The sum over the first axis by a fixed binary tree; ``parts`` is used up."""
    stride = 1
    with quiet():
        while stride < len(parts):
            for i in range(0, len(parts) - stride, 2 * stride):
                parts[i] += parts[i + stride]
            stride *= 2
    return parts[0]


def _aligned(n: int, dtype: Any) -> Array:
    memory = np.zeros(n + 64, dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize
    return memory[start : start + n]


@dataclass(frozen=True)
class Packed:
    """An immutable snapshot of a flow's numbers."""

    params: Array
    loc: Array
    scale: Array
    inverse: Array
    log_scale: float
    context_loc: Array
    context_inverse: Array


@dataclass(frozen=True)
class Context:
    """The context of a call: row r of the batch has row ``r // block`` of ``rows``, or all of them the only one."""

    kind: int
    rows: Array  # (m, context_dim)
    block: int
    starts: Array  # Tile.starts of a shared one, otherwise empty

    def fill(self, begin: int, end: int, space: Workspace) -> None:
        """Bring the rows of context of rows [begin, end) of the batch."""
        if self.kind == SHARED_CONTEXT:
            space.context[0] = self.rows[0]
        elif self.kind == ROWS_OF_CONTEXT:
            space.context[: end - begin] = self.rows[np.arange(begin, end) // self.block]


class Workspace:
    """What one thread needs to evaluate a plan, or to walk it there and back."""

    def __init__(self, layout: Layout, chunk: int, training: bool) -> None:
        dtype, dim = layout.dtype, layout.dim
        features = [dim, 0, layout.n_external, layout.n_context]
        if training:
            widest = -(-max(layout.widest, layout.widest_theta) // PAD) * PAD
            features += [dim, 1, 1, 1, widest, 2 * widest, widest, layout.n_context]
        sizes = [f * TILE for f in features]
        sizes[1] = layout.n_training_kept if training else layout.n_kept
        self.sizes = np.cumsum([0, *sizes]).astype(np.int64)
        self.work = _aligned(int(self.sizes[-1]), dtype)
        self.doubles = np.zeros(4 * TILE)
        self.words = np.zeros(4 * TILE, np.uint32)
        self.index = np.zeros(TILE, np.int64)
        self.x = np.zeros((chunk, dim))
        self.context = np.zeros((chunk, layout.context_dim))
        self.counters = np.zeros((2, chunk + TILE), np.uint64)
        self.theta = np.zeros((chunk if layout.n_external else 1, layout.n_external), dtype)
        self.out = np.zeros((chunk, dim), dtype)
        self.log_det = np.zeros(chunk)
        self.weight = np.zeros(chunk)
        if training:
            self.d_out = np.zeros((chunk, dim), dtype)
            self.d_log_det = np.zeros(chunk, dtype)
            self.d_theta = np.zeros_like(self.theta)
            self.d_context = np.zeros((chunk, layout.context_dim), dtype)


class Engine:
    """A checked plan and the calls that run it. Sizes are checked here, as a contract with the rooms above."""

    def __init__(self, table: Array) -> None:
        self._layout = layout = Layout(table)
        self.n_params, self.n_buffers, self.dim = layout.n_params, layout.n_buffers, layout.dim
        self._dtype = layout.dtype
        self._chunk = TILE * int(np.clip(CHUNK_FLOPS / (TILE * layout.flops), 1, CHUNK_TILES))
        self._training_chunk = TILE * int(np.clip(CHUNK_FLOPS / (3 * TILE * layout.flops), 1, CHUNK_TILES))
        self._spaces: tuple[list[Workspace], list[Workspace]] = ([], [])
        self._nothing = np.zeros(0, layout.dtype)

    def pack(self, params: Array, buffers: Array) -> Packed:
        """A snapshot of parameters and buffers."""
        self._need("params", params, (self.n_params,))
        if np.shape(buffers) != (self.n_buffers,) or buffers.dtype != np.float64:
            raise ValueError(f"buffers must be float64 of shape ({self.n_buffers},)")
        return self._packed(np.array(params), buffers)

    def _packed(self, params: Array, buffers: Array) -> Packed:
        loc, scale = np.zeros(self.dim), np.ones(self.dim)
        if self._layout.standardize >= 0:
            at = self._layout.buffers
            loc[:], scale[:] = buffers[at : at + self.dim], buffers[at + self.dim : at + 2 * self.dim]
        context_loc, context_scale = np.split(buffers[self.n_buffers - 2 * self._layout.context_dim :].copy(), 2)
        with quiet():
            log_scale = float(np.sum(np.log(scale)))
            return Packed(params, loc, scale, 1.0 / scale, log_scale, context_loc, 1.0 / context_scale)

    def evaluate(
        self, packed: Packed, to_data: bool, first: int, last: int, x: Array, context: Array | None, theta: Array | None,
        base: bool, out: Array | None, log_det: Array | None,
    ) -> None:  # fmt: skip
        """The steps [first, last) in one direction; with ``base``, log_det receives log p."""
        rows = self._rows(x)
        kind = self._range(first, last, theta, base, rows)
        given = self._shared(packed, self._context(context, rows), rows)
        self._need("out", out, (rows, self.dim))
        self._need("log_det", log_det, (rows,), np.float64)

        def chunk(begin: int, end: int, space: Workspace) -> None:
            space.x[: end - begin] = x[begin:end]
            self._theta(kind, theta, begin, end, space)
            given.fill(begin, end, space)
            self._evaluate(packed, to_data, first, last, base, kind, given, None, end - begin, space)
            if out is not None:
                out[begin:end] = space.out[: end - begin]
            if log_det is not None:
                with quiet():
                    log_det[begin:end] = space.log_det[: end - begin]

        self._chunks(rows, chunk)

    def sample(
        self, packed: Packed, seed: int, context_row: int, first_draw: int, context: Array | None, out: Array,
        log_prob: Array | None,
    ) -> None:  # fmt: skip
        """Fresh draws, and log p of each if asked for. Draw r is number first_draw + r % n of context row context_row + r // n,
        where the context has rows for n draws each.
        """
        rows = len(out)
        self._range(0, self._layout.n_steps, None, True, rows)
        given = self._shared(packed, self._context(context, rows), rows)
        draws = given.block if given.kind == ROWS_OF_CONTEXT else max(rows, 1)
        self._need("out", out, (rows, self.dim))
        self._need("log_prob", log_prob, (rows,), np.float64)

        def chunk(begin: int, end: int, space: Workspace) -> None:
            given.fill(begin, end, space)
            number = np.arange(begin, begin + space.counters.shape[1])
            space.counters[0], space.counters[1] = context_row + number // draws, first_draw + number % draws
            self._evaluate(
                packed, True, 0, self._layout.n_steps, log_prob is not None, NO_THETA, given, np.uint64(seed),
                end - begin, space,
            )  # fmt: skip
            out[begin:end] = space.out[: end - begin]
            if log_prob is not None:
                with quiet():
                    log_prob[begin:end] = space.log_det[: end - begin]

        self._chunks(rows, chunk)

    def vjp(
        self, packed: Packed, to_data: bool, first: int, last: int, x: Array, context: Array | None, theta: Array | None,
        base: bool, d_out: Array | None, d_log_det: Array | None, d_x: Array | None, d_params: Array | None,
        d_context: Array | None, d_theta: Array | None,
    ) -> None:  # fmt: skip
        """Cotangents of ``evaluate``: from those of out and log_det to those of x, parameters and theta."""
        rows = self._rows(x)
        kind = self._range(first, last, theta, base, rows)
        given = self._shared(packed, self._context(context, rows), rows)
        self._need("d_out", d_out, (rows, self.dim))
        self._need("d_log_det", d_log_det, (rows,))
        self._need("d_x", d_x, (rows, self.dim))
        self._need("d_params", d_params, (self.n_params,), np.float64, only=True)
        by_row = None
        if d_context is not None:
            if context is None:
                raise ValueError("d_context must be None where context is None")
            own = context.ndim == 2 and len(context) == rows
            self._need("d_context", d_context, context.shape, *([] if own else [np.float64]), only=not own)
            by_row = d_context if own else np.zeros((rows, self._layout.context_dim), self._dtype)
        if d_theta is not None:
            if theta is None:
                raise ValueError("d_theta must be None where theta is None")
            self._need("d_theta", d_theta, theta.shape, *([np.float64] if kind == SHARED_THETA else []), only=True)

        def chunk(begin: int, end: int, space: Workspace, gradients: tuple[Array, Array], sums: Array) -> None:
            n = end - begin
            space.x[:n] = x[begin:end]
            self._theta(kind, theta, begin, end, space)
            space.d_out[:n] = 0 if d_out is None else d_out[begin:end]
            space.d_log_det[:n] = 0 if d_log_det is None else d_log_det[begin:end]
            given.fill(begin, end, space)
            self._vjp(
                packed, to_data, first, last, base, kind, given, False, d_params is not None, by_row is not None, n,
                space, *gradients, sums,
            )  # fmt: skip
            if by_row is not None:
                by_row[begin:end] = space.d_context[:n]
            if d_x is not None:
                d_x[begin:end] = space.out[:n]
            if d_theta is not None and kind == ROWS_OF_THETA:
                d_theta[begin:end] = space.d_theta[:n]

        params_gradient, theta_gradient, _ = self._slices(rows, chunk, d_params is not None)
        with quiet():
            if d_params is not None:
                d_params += params_gradient[self._layout.index]
            if d_theta is not None and kind == SHARED_THETA:
                d_theta += theta_gradient
        if d_context is not None and by_row is not None and by_row is not d_context and rows:
            block = rows // given.rows.shape[0]
            sum_context(by_row, block, d_context.reshape(-1, self._layout.context_dim), np.zeros(block), np.zeros(16))

    def loss_and_grad(
        self, packed: Packed, x: Array, context: Array | None, weight: Array | None, d_params: Array
    ) -> tuple[float, float]:
        """Sums over rows of -w log p and of w; the gradient of the first is added to ``d_params``."""
        rows = self._rows(x)
        self._range(0, self._layout.n_steps, None, True, rows)
        given = self._shared(packed, self._context(context, rows), rows)
        self._need("d_params", d_params, (self.n_params,), np.float64, only=True)
        if weight is not None and np.shape(weight) != (rows,):
            raise ValueError(f"weight must have shape ({rows},), got {np.shape(weight)}")

        def fill(begin: int, end: int, space: Workspace) -> None:
            space.x[: end - begin] = x[begin:end]
            given.fill(begin, end, space)
            space.weight[: end - begin] = 1.0 if weight is None else weight[begin:end]

        gradient, sums = self.batch_gradient(packed, rows, given.kind, given.starts, fill)
        with quiet():
            d_params += gradient[self._layout.index]
        return float(sums[0]), float(sums[1])

    def adam(
        self, params: Array, grad: Array, m: Array, v: Array, step: int, learning_rate: float, beta1: float,
        beta2: float, epsilon: float, weight_decay: float, decoupled: bool,
    ) -> None:  # fmt: skip
        """One step in place."""
        for name, array in (("params", params), ("m", m), ("v", v)):
            self._need(name, array, (self.n_params,))
        self._need("grad", grad, (self.n_params,), np.float64, only=True)
        arrays = [np.require(a, self._dtype, ["C", "A", "W"]) for a in (params, m, v)]
        _adam.adam(
            arrays[0], np.array(grad), 1.0, arrays[1], arrays[2], self._layout.decay, int(step), float(learning_rate),
            float(beta1), float(beta2), float(epsilon), float(weight_decay), int(decoupled),
        )  # fmt: skip
        for mine, given in zip(arrays, (params, m, v), strict=True):
            if mine is not given:
                given[...] = mine

    # what Trainer shares

    def batch_gradient(
        self, packed: Packed, rows: int, context_kind: int, starts: Array | None,
        fill: Callable[[int, int, Workspace], None],
    ) -> tuple[Array, Array]:  # fmt: skip
        """Padded gradient of the loss of a batch, and the sums of -w log p and of w.

        ``fill`` brings rows, their context and their weights.
        """
        n_steps = self._layout.n_steps
        given = Context(context_kind, self._nothing, 1, self._nothing if starts is None else starts)

        def chunk(begin: int, end: int, space: Workspace, gradients: tuple[Array, Array], sums: Array) -> None:
            fill(begin, end, space)
            self._vjp(
                packed,
                False,
                0,
                n_steps,
                True,
                NO_THETA,
                given,
                True,
                True,
                False,
                end - begin,
                space,
                *gradients,
                sums,
            )

        gradient, _, sums = self._slices(rows, chunk, True)
        return gradient, sums

    # chunks and slices

    def _chunks(self, rows: int, chunk: Callable[[int, int, Workspace], None]) -> None:
        threads = self._threads(rows, self._layout.flops)
        size = min(self._chunk, TILE * max(1, -(-tiles_of(rows) // (4 * threads)))) if threads > 1 else self._chunk

        def job(i: int, stopped: Stopped) -> None:
            with self._space(False) as space:
                chunk(i * size, min(rows, (i + 1) * size), space)

        self._share(job, -(-rows // size), threads, False)

    def _slices(self, rows: int, chunk: Callable[..., None], want_params: bool) -> tuple[Array, Array, Array]:
        slices = slices_of(rows)
        n = max(len(slices), 1)
        params_gradients = np.zeros((n, self._layout.n_gradient if want_params else 0), self._dtype)
        theta_gradients = np.zeros((n, self._layout.n_external), self._dtype)
        sums = np.zeros((n, 2))

        def job(s: int, stopped: Stopped) -> None:
            begin, end = slices[s]
            with self._space(True) as space:
                for at in range(begin, end, self._training_chunk):
                    if stopped():
                        return
                    gradients = params_gradients[s], theta_gradients[s]
                    chunk(at, min(end, at + self._training_chunk), space, gradients, sums[s])

        self._share(job, len(slices), self._threads(rows, 3 * self._layout.flops), True)
        return combine(params_gradients), combine(theta_gradients), combine(sums)

    def _share(self, job: Job, n_jobs: int, threads: int, training: bool) -> None:
        first = 0
        if n_jobs and (self._dtype, training) not in _compiled:
            # the calling thread compiles, because it alone can be interrupted while it does
            job(0, lambda: False)
            _compiled.add((self._dtype, training))
            first = 1
        parallel(lambda i, stopped: job(first + i, stopped), n_jobs - first, threads)

    def _threads(self, rows: int, flops: int) -> int:
        return int(np.clip(rows * flops / FLOPS_WORTH_A_THREAD, 1, num_threads()))

    def _space(self, training: bool) -> _Lent:
        return _Lent(self, training)

    # calls of the entries

    def _evaluate(
        self, packed: Packed, to_data: bool, first: int, last: int, base: bool, kind: int, given: Context,
        seed: Any, n: int, space: Workspace,
    ) -> None:  # fmt: skip
        layout = self._layout
        evaluate_rows(
            layout.steps, layout.linear, layout.boundary, layout.slots, layout.options,
            packed.params, packed.loc, packed.scale, packed.inverse, packed.log_scale,
            packed.context_loc, packed.context_inverse,
            int(first), int(last), int(to_data), int(base), int(first <= layout.standardize < last), kind, given.kind,
            int(seed is not None), np.uint64(0) if seed is None else seed, space.counters[0], space.counters[1],
            space.x[:n], space.context, given.starts, space.theta, space.out[:n], space.log_det,
            space.work, space.sizes, space.doubles, space.words, space.index,
        )  # fmt: skip

    def _vjp(
        self, packed: Packed, to_data: bool, first: int, last: int, base: bool, kind: int, given: Context, loss: bool,
        want_params: bool, want_context: bool, n: int, space: Workspace, params_gradient: Array, theta_gradient: Array,
        sums: Array,
    ) -> None:  # fmt: skip
        layout = self._layout
        vjp_rows(
            layout.training_steps, layout.training_linear, layout.boundary, layout.slots, layout.options,
            packed.params, packed.loc, packed.scale, packed.inverse, packed.log_scale,
            packed.context_loc, packed.context_inverse,
            int(first), int(last), int(to_data), int(base), int(first <= layout.standardize < last), kind, given.kind,
            int(loss), int(want_params), int(want_context),
            space.x[:n], space.weight, space.context, given.starts, space.theta, space.d_out, space.d_log_det,
            space.out, space.d_context, space.d_theta, params_gradient, theta_gradient, sums,
            space.work, space.sizes, space.doubles, space.index,
        )  # fmt: skip

    # the contract

    def _rows(self, x: Array) -> int:
        if x.ndim != 2 or x.shape[1] != self.dim or x.dtype.kind != "f" or x.itemsize not in (4, 8):
            raise ValueError(f"x must be float32 or float64 of shape (rows, {self.dim}), got {x.dtype} of {x.shape}")
        return len(x)

    def _context(self, context: Array | None, rows: int) -> Context:
        """Rows of context, (m, context_dim), one for each rows / m rows in turn; or (context_dim,), one for all."""
        n = self._layout.context_dim
        if context is None and n == 0:
            return Context(NO_CONTEXT, np.zeros((0, 0)), 1, self._nothing)
        if n == 0:
            raise ValueError("context must be None: this plan has no context")
        array = np.atleast_2d(np.zeros(0) if context is None else context)
        if array.ndim != 2 or array.shape[1] != n or array.dtype.kind != "f" or array.itemsize not in (4, 8):
            raise ValueError(f"context must be float32 or float64 of shape ({n},) or (m, {n})")
        m = len(array)
        if rows % m if m else rows:
            raise ValueError(f"context must have a number of rows that divides {rows}, got {m}")
        return Context(SHARED_CONTEXT if m == 1 else ROWS_OF_CONTEXT, array, rows // max(m, 1), self._nothing)

    def _shared(self, packed: Packed, given: Context, rows: int) -> Context:
        """The same with the starts of a context that rows share."""
        if given.kind != SHARED_CONTEXT:
            return given
        layout = self._layout
        starts = np.zeros(max(layout.n_starts, 1), self._dtype)
        with self._space(False) as space:
            space.context[0] = given.rows[0]
            share_rows(
                layout.steps, layout.linear, layout.boundary, layout.slots, layout.options, packed.params,
                packed.context_loc, packed.context_inverse, space.context, starts, space.work, space.sizes, space.index,
            )  # fmt: skip
        return Context(given.kind, given.rows, given.block, starts)

    def _range(self, first: int, last: int, theta: Array | None, base: bool, rows: int) -> int:
        if not 0 <= first <= last <= self._layout.n_steps:
            raise ValueError(f"first and last must be within 0..{self._layout.n_steps}, got {first} and {last}")
        if base and first != 0:
            raise ValueError(f"first must be 0 with base, got {first}")
        n = self._layout.n_external
        if theta is None:
            if n and self._external(first, last):
                raise ValueError("theta must be given: the range has a step with external theta")
            return NO_THETA
        if theta.dtype != self._dtype or theta.shape not in ((rows, n), (n,)) or not n:
            raise ValueError(
                f"theta must be {self._dtype} of shape ({rows}, {n}) or ({n},), got {theta.dtype} of {theta.shape}"
            )
        return ROWS_OF_THETA if theta.ndim == 2 else SHARED_THETA

    def _external(self, first: int, last: int) -> bool:
        return bool(np.any(self._layout.external[first:last]))

    def _theta(self, kind: int, theta: Array | None, begin: int, end: int, space: Workspace) -> None:
        if kind == ROWS_OF_THETA and theta is not None:
            space.theta[: end - begin] = theta[begin:end]
        elif kind == SHARED_THETA and theta is not None:
            space.theta[0] = theta

    def _need(self, name: str, array: Array | None, shape: tuple[int, ...], *also: Any, only: bool = False) -> None:
        """An array that is lent, or None, must have this shape and the plan's dtype, or (``only``) one of ``also``."""
        if array is None:
            return
        kinds = [np.dtype(t) for t in also] if only and also else [self._dtype, *map(np.dtype, also)]
        if array.shape != shape or array.dtype not in kinds:
            wanted = " or ".join(str(k) for k in kinds)
            raise ValueError(f"{name} must be {wanted} of shape {shape}, got {array.dtype} of {array.shape}")


class _Lent:
    """A workspace for the length of a with-block. Taking from and adding to a list are atomic."""

    def __init__(self, engine: Engine, training: bool) -> None:
        self.engine, self.training = engine, training

    def __enter__(self) -> Workspace:
        engine = self.engine
        try:
            self.space = engine._spaces[self.training].pop()
        except IndexError:
            chunk = engine._training_chunk if self.training else engine._chunk
            self.space = Workspace(engine._layout, chunk, self.training)
        return self.space

    def __exit__(self, *error: object) -> None:
        self.engine._spaces[self.training].append(self.space)
