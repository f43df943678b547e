"""Until the engines speak protocol 2 and runner.py has these methods: what training asks of a Runner, over protocol 1."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock.plan import Plan, Runner

Array = np.ndarray[Any, Any]


class TrainingRunner(Runner):
    """A runner with the methods of training."""

    def __init__(self, plan: Plan, backend: Any, engine: Any) -> None:
        super().__init__(plan, engine)
        self._backend = backend

    def log_prob(  # type: ignore[override]
        self, packed: Any, x: Array, context: Array | None = None, *, index: Any = None, dtype: Any = None
    ) -> Array:
        """The log-density of the rows of an index."""
        if index is not None:
            x, context = x[index], None if context is None else context[index]
        return super().log_prob(packed, x, context, dtype=dtype)

    def transform(  # type: ignore[override]
        self, packed: Any, to_data: bool, x: Array, context: Array | None = None, *, first: int, last: int
    ) -> tuple[Array, Array]:
        """A range of steps."""
        out, log_det = np.empty(x.shape, self._dtype), np.empty(len(x), self._dtype)
        self._evaluate(packed, to_data, first, last, x, context, None, False, out, log_det)
        return out, log_det

    def row_order(self, seed: int, epoch: int, n: int, positions: Array | range) -> Array:
        """What stands at some positions of the order of an epoch."""
        if isinstance(positions, range):
            out = np.empty(len(positions), np.int64)
            self._backend.row_order(seed, epoch, n, positions.start, out)
            return out
        every = np.empty(n, np.int64)
        self._backend.row_order(seed, epoch, n, 0, every)
        return every[positions]

    def trainer(
        self,
        params: Array,
        buffers: Array,
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        clip_norm: float,
        frozen: Array | None,
    ) -> Trainer:
        """A trainer that begins at these numbers."""
        engine = self._backend.Trainer(self.engine, params, buffers, *betas, epsilon, weight_decay, True, clip_norm)
        return Trainer(self, engine, frozen, params.copy())


class Trainer:
    """The engine's trainer."""

    def __init__(self, runner: TrainingRunner, engine: Any, frozen: Array | None, start: Array) -> None:
        self._runner, self._engine, self._frozen, self._start = runner, engine, frozen, start

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self._engine.step)

    def packed(self) -> Any:
        """The present parameters, packed."""
        return self._engine.packed()

    def params(self, out: Array) -> Array:
        """The present parameters, into ``out``."""
        self._engine.get_params(out)
        return out

    def run(
        self,
        x: Array,
        context: Array | None,
        weight: Array | None,
        *,
        weight_exponent: int,
        weight_scale: float,
        seed: int,
        epoch: int,
        n_train: int,
        first_step: int,
        batch_size: int,
        learning_rates: Array,
    ) -> tuple[int, Array, Array]:
        """Steps done before one whose loss or gradient was not finite, the losses of batches and norms of gradients."""
        n = len(learning_rates)
        losses, norms = np.empty(n), np.empty(n)
        scaled = None if weight is None else np.ldexp(weight.astype(np.float64), weight_exponent)
        done, most = 0, n if self._frozen is None else 1
        while done < n:
            part = slice(done, min(done + most, n))
            taken = self._engine.run(
                x, context, scaled, weight_scale, seed, epoch, n_train, first_step + done, batch_size,
                learning_rates[part], losses[part], norms[part],
            )  # fmt: skip
            done += taken
            if self._frozen is not None and taken:
                now = self.params(self._start.copy())
                for first, count in self._frozen:
                    now[first : first + count] = self._start[first : first + count]
                self._engine.set_params(now)
            if done == part.stop:
                continue
            positions = range((first_step + done) * batch_size, (first_step + done + 1) * batch_size)
            rows = self._runner.row_order(seed, 0, len(x), self._runner.row_order(seed, epoch, n_train, positions))
            if scaled is None or scaled[rows].sum() != 0:
                break
            losses[done], norms[done] = np.nan, 0.0
            done += 1
        return done, losses, norms
