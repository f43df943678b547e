"""What the calls of an engine share: the context and external theta of a batch, chunks, workspaces, entries on the pool.

Sizes are checked here, as a contract with the rooms above.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from penstock._numba.core.jit import entry
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import Plan
from penstock._numba.core.pointers import pointer, pointers
from penstock._numba.core.tile import CONTEXT_PART, CONTEXT_ROWS, CONTEXT_ROWS_AND_PART, NO_CONTEXT, Pass
from penstock._numba.engine.layout import Layout
from penstock._numba.engine.packed import Packed
from penstock._numba.engine.pool import NEVER, Job, Stop, num_threads, parallel
from penstock._numba.engine.walk import Source, cut_tile
from penstock._numba.engine.workspace import Workspace
from penstock._numba.isa.kernels import context_in, make_context_part, prepare, prepare_draws_backward

Array = np.ndarray[Any, Any]

CHUNK_TILES = 32  # of one call of an entry at most
CHUNK_FLOPS = 5e8  # and about so much work, so that an interrupt is noticed soon
LONG_FLOPS = 5e8  # of a tile from which on the main thread only waits for others
FLOPS_WORTH_A_THREAD = 1e6

_compiled: set[tuple[Any, bool]] = set()  # entries that have run, by dtype and whether they train


@dataclass(frozen=True)
class Context:
    """The context of a call: row r of x has row ``r // block`` of ``rows``, or all of them the only one."""

    kind: int
    rows: Array  # (m, context_dim)
    block: int
    part: Array  # what a shared one contributes to each conditioner, otherwise empty

    def fill(self, numbers: Array, space: Workspace) -> None:
        """Bring the context of rows of x by their numbers."""
        if self.kind == CONTEXT_PART:
            space.context[0] = self.rows[0]
        elif self.kind == CONTEXT_ROWS:
            space.context[: len(numbers)] = self.rows[numbers // self.block]

    def seen(self, by_row: bool) -> int:
        """What conditioners see, if a gradient needs the context of each row, or not."""
        return CONTEXT_ROWS_AND_PART if by_row and self.kind == CONTEXT_PART else self.kind


class Theta:
    """External theta of a call: one array after the other in a row of the workspace, shared ones in its first row."""

    def __init__(self, arrays: list[Array | None], sizes: list[int]) -> None:
        self.arrays = arrays
        ends = np.cumsum([0, *sizes]).tolist()
        self.columns = [slice(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]
        self.shared = np.zeros(ends[-1], np.int64)
        for columns, array in zip(self.columns, arrays, strict=True):
            self.shared[columns] = array is None or array.ndim == 1

    def fill(self, begin: int, end: int, space: Workspace) -> None:
        """Bring theta of rows [begin, end) of the batch."""
        for columns, array in zip(self.columns, self.arrays, strict=True):
            if array is None:
                space.theta[0, columns] = 0
            elif array.ndim == 1:
                space.theta[0, columns] = array
            else:
                space.theta[: end - begin, columns] = array[begin:end]

    def need_gradients(self, d_thetas: Sequence[Array | None] | None, engine: Calls) -> None:
        """Gradients must have the shapes of what they are of; (n,) ones are float64."""
        if d_thetas is None:
            return
        if len(d_thetas) != len(self.arrays):
            raise ValueError(f"d_thetas must have {len(self.arrays)} entries, got {len(d_thetas)}")
        for i, (d, array) in enumerate(zip(d_thetas, self.arrays, strict=True)):
            if d is not None and array is None:
                raise ValueError(f"d_thetas[{i}] must be None where thetas[{i}] is None")
            if d is not None and array is not None:
                shared = array.ndim == 1
                engine.need(f"d_thetas[{i}]", d, array.shape, *([np.float64] if shared else []), only=shared)

    def take(self, d_thetas: Sequence[Array | None] | None, begin: int, end: int, space: Workspace) -> None:
        """Hand out the gradients of theta of rows [begin, end)."""
        for columns, d in zip(self.columns, d_thetas or (), strict=False):
            if d is not None and d.ndim == 2:
                d[begin:end] = space.d_theta[: end - begin, columns]

    def add(self, d_thetas: Sequence[Array | None] | None, sums: Array) -> None:
        """And those of shared theta, once they are summed over all rows."""
        for columns, d in zip(self.columns, d_thetas or (), strict=False):
            if d is not None and d.ndim == 1:
                d += sums[columns]


@entry
def context_part_rows(plan: Any, packed: Any, context: Any, part: Any, stop: Any, space: Any) -> None:
    """What the first row of context, float64, contributes to each conditioner."""
    plan, packed, space, part = pointers(plan), pointers(packed), pointers(space), pointer(part)
    tile = cut_tile(space, pointer(stop), 1, CONTEXT_ROWS, space.context, part)
    tile_context = context_in(
        plan, packed, pointer(context), True, space.index, tile, False, space.squares, space.double_partial
    )
    make_context_part(plan, packed, tile_context, tile, part)


class Calls:
    """A checked plan and what its calls share."""

    def __init__(self, table: Array) -> None:
        self.layout = layout = Layout(table)
        self.n_params, self.n_buffers, self.dim = layout.n_params, layout.n_buffers, layout.dim
        self.n_steps, self.externals = layout.n_steps, layout.externals
        self.flops = float(layout.flops)
        self.chunk = TILE * int(np.clip(CHUNK_FLOPS / (TILE * layout.flops), 1, CHUNK_TILES))
        self.training_chunk = TILE * int(np.clip(CHUNK_FLOPS / (3 * TILE * layout.flops), 1, CHUNK_TILES))
        self._spaces: tuple[list[Workspace], list[Workspace]] = ([], [])
        self._plans: dict[bool, Plan] = {}
        self._draws_backward = False
        self._nothing, self._no_numbers = np.zeros(0, layout.dtype), np.zeros((1, 0))
        self._no_weights = np.zeros(0)

    def plan(self, training: bool) -> Plan:
        """The plan with the kernels that it needs, which are compiled when they are first asked for."""
        if training not in self._plans:
            layout = self.layout
            steps, runs = (layout.training_steps if training else layout.steps).copy(), layout.runs.copy()
            linear = layout.training_linear if training else layout.linear
            base = layout.ends.base.copy()
            prepare(steps, runs, base, layout.dtype, training)
            self._plans[training] = Plan(
                self.dim, layout.context_dim, self.n_steps, layout.n_external, layout.n_context, steps, runs, linear,
                layout.boundary, layout.slots, layout.options, len(layout.ends.mapped), layout.ends.n_alone,
                layout.ends.mapped, len(layout.ends.context_mapped), layout.ends.context_mapped, layout.ends.context_slots,
                len(base), base, layout.ends.base_numbers, layout.ends.n_normals, len(steps),
            )  # fmt: skip
        return self._plans[training]

    def plan_of_draws(self) -> Plan:
        """The one of training, with the way back of draws."""
        plan = self.plan(True)
        if not self._draws_backward:
            prepare_draws_backward(plan.base, self.layout.dtype)
            self._draws_backward = True
        return plan

    def source(
        self, space: Workspace, given: Context, theta: Theta, itemsize: int, seed: np.uint64 | None = None,
        by_row: bool = False, components: Array | None = None, log_weight: Array | None = None,
    ) -> Source:  # fmt: skip
        """A chunk, of rows of numbers of so many bytes, as the walk of its tiles reads it."""
        return Source(
            space.x, int(itemsize > 4), seed is not None, np.uint64(0) if seed is None else seed, space.counters[0],
            space.counters[1], self._no_numbers if components is None else components,
            0 if components is None else components.shape[1], self._no_weights if log_weight is None else log_weight,
            space.stop, given.seen(by_row), space.context, given.part, space.theta, theta.shared,
        )  # fmt: skip

    def chunks(self, rows: int, chunk: Callable[[int, int, Workspace], None]) -> None:
        """``chunk(begin, end, workspace)`` for all rows, on the pool."""
        threads = self.threads(rows, self.layout.flops)
        tiles = -(-rows // TILE)
        size = min(self.chunk, TILE * max(1, -(-tiles // (4 * threads)))) if threads > 1 else self.chunk

        def job(i: int, stop: Stop) -> None:
            with self.lend(False) as space:
                space.stop = stop.flag
                chunk(i * size, min(rows, (i + 1) * size), space)

        self.share(job, -(-rows // size), threads, False, lambda space: chunk(0, 0, space))

    def share(self, job: Job, n_jobs: int, threads: int, training: bool, nothing: Callable[[Workspace], None]) -> None:
        """Jobs on the pool. ``nothing`` runs the entry with no rows."""
        if n_jobs and (self.layout.dtype, training) not in _compiled:
            # the calling thread compiles, because it alone can be interrupted while it does
            with self.lend(training) as space:
                nothing(space)
            _compiled.add((self.layout.dtype, training))
        tile_flops = TILE * self.layout.flops * (3 if training else 1)
        parallel(job, n_jobs, threads, long=tile_flops > LONG_FLOPS)

    def threads(self, rows: int, flops: int) -> int:
        """How many threads so many rows are worth."""
        return int(np.clip(rows * flops / FLOPS_WORTH_A_THREAD, 1, num_threads()))

    @contextmanager
    def lend(self, training: bool) -> Iterator[Workspace]:
        """A workspace for the length of a with-block. Taking from and adding to a list are atomic."""
        spaces = self._spaces[training]
        try:
            space = spaces.pop()
        except IndexError:
            space = Workspace(self.layout, self.training_chunk if training else self.chunk, training)
        try:
            yield space
        finally:
            spaces.append(space)

    # the contract

    def need(self, name: str, array: Array | None, shape: tuple[int, ...], *also: Any, only: bool = False) -> None:
        """An array that is lent, or None, must have this shape and the plan's dtype, or (``only``) one of ``also``."""
        if array is None:
            return
        dtype = self.layout.dtype
        kinds = [np.dtype(t) for t in also] if only and also else [dtype, *map(np.dtype, also)]
        if array.shape != shape or array.dtype not in kinds:
            wanted = " or ".join(str(k) for k in kinds)
            raise ValueError(f"{name} must be {wanted} of shape {shape}, got {array.dtype} of {array.shape}")

    def need_packed(self, packed: Packed) -> None:
        """Numbers of another plan have other places."""
        if packed.digest != self.layout.digest:
            raise ValueError("packed must be what this engine, or another of the same plan, has packed")

    def need_no_external(self, verb: str) -> None:
        """What has no argument for external theta cannot run such a plan."""
        if self.externals:
            raise ValueError(f"{verb} needs a plan without external theta")

    def need_rows(self, x: Array) -> int:
        """Rows of x."""
        if x.ndim != 2 or x.shape[1] != self.dim or x.dtype.kind != "f" or x.itemsize not in (4, 8):
            raise ValueError(f"x must be float32 or float64 of shape (rows, {self.dim}), got {x.dtype} of {x.shape}")
        return len(x)

    def need_index(self, index: Array | None, rows: int) -> int:
        """Rows of a batch that an index chooses."""
        if index is None:
            return rows
        if index.ndim != 1 or index.dtype != np.int64:
            raise ValueError(f"index must be int64 of shape (rows,), got {index.dtype} of {index.shape}")
        if index.size and not (index.min() >= 0 and index.max() < rows):
            raise ValueError(f"index must lie within the {rows} rows of x")
        return len(index)

    def need_weight(self, weight: Array | None, rows: int) -> None:
        """Weights, one a row."""
        if weight is None:
            return
        if weight.shape != (rows,) or weight.dtype.kind != "f" or weight.itemsize not in (4, 8):
            raise ValueError(
                f"weight must be float32 or float64 of shape ({rows},), got {weight.dtype} of {weight.shape}"
            )

    def through(self, to_data: bool, first: int, last: int, base: bool, keep: bool) -> Pass:
        """Steps in one direction. The columns are the last step; an empty range beside it does not hold it."""
        if not 0 <= first <= last <= self.n_steps:
            raise ValueError(f"first and last must be within 0..{self.n_steps}, got {first} and {last}")
        if base and first != 0:
            raise ValueError(f"first must be 0 with base, got {first}")
        return Pass(int(first), int(last), bool(to_data), keep, first < last == self.n_steps, bool(base))

    def theta(self, thetas: Sequence[Array | None] | None, through: Pass, rows: int) -> Theta:
        """External theta: an entry for each of the plan, None where its step is not run."""
        arrays = [None] * len(self.externals) if thetas is None else list(thetas)
        if len(arrays) != len(self.externals):
            raise ValueError(f"thetas must have {len(self.externals)} entries, got {len(arrays)}")
        steps = [k for k, n in enumerate(self.layout.external) if n]
        for i, (n, k, array) in enumerate(zip(self.externals, steps, arrays, strict=True)):
            if array is None:
                if through.first <= k < through.last:
                    raise ValueError(f"thetas[{i}] must be given: step {k} reads it")
            elif array.dtype != self.layout.dtype or array.shape not in ((rows, n), (n,)):
                raise ValueError(
                    f"thetas[{i}] must be {self.layout.dtype} of shape ({rows}, {n}) or ({n},), "
                    f"got {array.dtype} of {array.shape}"
                )
        return Theta(arrays, self.externals)

    def context_of(self, packed: Packed, context: Array | None, rows: int) -> Context:
        """The context of a call: that of ``packed``, or the one that is passed, with the part of it that rows share."""
        if packed.given is None:
            return self.shared(packed, self.context(context, rows), rows)
        if context is not None:
            raise ValueError("context must be None: packed has one of its own")
        given: Context = packed.given
        return replace(given, block=max(rows, 1))

    def context(self, context: Array | None, rows: int) -> Context:
        """Rows of context, (m, context_dim), one for each rows / m rows in turn; or (context_dim,), one for all."""
        n = self.layout.context_dim
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
        kind = CONTEXT_PART if m == 1 else CONTEXT_ROWS
        return Context(kind, array, max(rows // max(m, 1), 1), self._nothing)

    def shared(self, packed: Packed, given: Context, rows: int) -> Context:
        """The same with the part of a context that rows share."""
        if given.kind != CONTEXT_PART:
            return given
        part = np.zeros(max(self.layout.context_part_size, 1), self.layout.dtype)
        plan = self.plan(False)
        with self.lend(False) as space:
            given.fill(np.zeros(1, np.int64), space)
            space.space.index[0] = 0
            context_part_rows(plan, packed.view, space.context, part, NEVER.flag, space.space)
        return replace(given, part=part)
