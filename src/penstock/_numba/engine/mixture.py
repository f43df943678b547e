"""A mixture of flows: log-densities of all members and of their weighted mean in one call, and draws of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._numba.core.jit import entry
from penstock._numba.core.layout import TILE
from penstock._numba.core.philox import STREAM_MEMBER, philox
from penstock._numba.engine.evaluate import CONTEXT_ROWS_MAX, DRAWS_MAX, evaluate_rows
from penstock._numba.isa.mixtures import mix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock._numba.engine.engine import Engine
    from penstock._numba.engine.packed import Packed
    from penstock._numba.engine.workspace import Workspace

Array = np.ndarray[Any, Any]


@entry
def chances(seed: Any, context_row: Any, first: Any, each: int, rows: int, out: Any) -> None:
    """Numbers in [0, 1) that choose the members of draws, of 53 bits."""
    zero = np.uint64(0)
    for r in range(rows):
        words = philox(seed, first + np.uint64(r % each), context_row + np.uint64(r // each), zero, STREAM_MEMBER)
        out[r] = np.float64((words[0] << np.uint64(21)) | (words[1] >> np.uint64(11))) * 2.0**-53


class Mixture:
    """A plan, its numbers and a weight with its logarithm for each member; weights are at least 0, and some are above it."""

    def __init__(
        self,
        engines: Sequence[Engine],
        packed: Sequence[Packed],
        weights: Sequence[float],
        log_weights: Sequence[float],
    ) -> None:
        first = engines[0]
        for engine, numbers in zip(engines, packed, strict=True):
            if (engine.dim, engine.layout.context_dim) != (first.dim, first.layout.context_dim):
                raise ValueError("engines must agree in dimensions")
            if engine.layout.dtype != first.layout.dtype:
                raise ValueError("engines must agree in dtype")
            engine.need_packed(numbers)
            engine.need_no_external("a mixture")
        if not (min(weights) >= 0 and max(weights) > 0) or len(weights) != len(engines):
            raise ValueError("weights must be at least 0, with a positive sum, one for each member")
        self.engines, self.packed = list(engines), list(packed)
        self.weights, self.log_weights = np.array(weights, np.float64), np.array(log_weights, np.float64)

    def evaluate(
        self, x: Array, context: Array | None, log_prob: Array | None, each: Array | None, shares: Array | None
    ) -> None:
        """log p of rows, and of all members, (members, rows) in float64, log p_k and the shares."""
        n, rows = len(self.engines), len(x)
        self.engines[0].need("log_prob", log_prob, (rows,), np.float64)
        self.engines[0].need("each", each, (n, rows), np.float64, only=True)
        self.engines[0].need("shares", shares, (n, rows), np.float64, only=True)
        numbers = [k for k in range(n) if each is not None or self.weights[k] > 0]
        values = np.zeros((len(numbers), max(1, -(-rows // TILE)) * TILE))
        for i, k in enumerate(numbers):
            engine = self.engines[k]
            engine.evaluate(
                self.packed[k], False, 0, engine.n_steps, x, None, context, None, True, None, values[i, :rows]
            )
        if each is not None:
            each[:] = values[:, :rows]
        log_p = np.zeros(values.shape[1])
        mix(values.reshape(-1), values.shape[1], len(numbers), self.log_weights[numbers], rows, log_p)
        if shares is not None:
            shares[:] = 0
            shares[numbers] = values[:, :rows]
        if log_prob is not None:
            with np.errstate(all="ignore"):
                log_prob[:] = log_p[:rows]

    def sample(self, seed: int, context_row: int, first_draw: int, context: Array | None, out: Array) -> None:
        """Fresh draws; each is that of one member, by the same number, which follows from the number and the seed."""
        first, rows = self.engines[0], len(out)
        first.need("out", out, (rows, first.dim), only=True)
        given = first.context_of(self.packed[0], context, rows)
        each = given.block if len(given.rows) > 1 else max(rows, 1)
        for name, start, count, most in (
            ("first_draw", first_draw, each, DRAWS_MAX),
            ("context_row", context_row, max(len(given.rows), 1), CONTEXT_ROWS_MAX),
        ):
            if not 0 <= start <= most - count:
                raise ValueError(f"{name} must be at least 0, and numbers must stay below {most}, got {start}")
        chance = np.zeros(rows)
        chances(np.uint64(seed), np.uint64(context_row), np.uint64(first_draw), each, rows, chance)
        numbers = np.flatnonzero(self.weights > 0)
        ends = np.cumsum(self.weights[numbers])
        ends[-1] = 1.0
        chosen = numbers[np.searchsorted(ends, chance, side="right")]
        for k in numbers:
            self._draw(int(k), np.flatnonzero(chosen == k), (seed, context_row, first_draw, each), context, out)

    def _draw(self, k: int, mine: Array, numbers: tuple[int, int, int, int], context: Array | None, out: Array) -> None:
        """The draws of one member, into their rows."""
        engine, packed = self.engines[k], self.packed[k]
        seed, context_row, first_draw, each = numbers
        through = engine.through(True, 0, engine.n_steps, False, False)
        given, theta = engine.context_of(packed, context, len(out)), engine.theta(None, through, len(mine))
        plan = engine.plan(False)

        def chunk(begin: int, end: int, space: Workspace) -> None:
            rows = mine[begin:end]
            given.fill(rows, space)
            number = np.resize(rows, space.counters.shape[1])
            space.counters[0], space.counters[1] = context_row + number // each, first_draw + number % each
            source = engine.source(space, given, theta, out.itemsize, np.uint64(seed))
            evaluate_rows(plan, packed.view, through, source, end - begin, space.out, space.log_det, space.space)
            out[rows] = space.out[: end - begin]

        engine.chunks(len(mine), chunk)
