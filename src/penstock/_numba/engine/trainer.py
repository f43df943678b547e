"""Adam over mini-batches gathered by row number."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from penstock._numba.engine import adam as _adam
from penstock._numba.engine.engine import Array, Engine, Packed, Workspace, quiet
from penstock._numba.engine.order import order
from penstock._numba.engine.rows import NO_CONTEXT, ROWS_OF_CONTEXT


def row_order(seed: int, epoch: int, n: int, first: int, out: Array) -> None:
    """``out[j] = P(first + j)`` with the keyed permutation of seed, epoch and n."""
    if n < 0 or first < 0 or first + len(out) > n:
        raise ValueError(f"first must name positions within the {n} rows")
    order(np.uint64(seed), np.uint64(epoch), int(n), np.arange(first, first + len(out)), out)


class Trainer:
    """Owns its parameters. A step that is not finite is not taken, and an interrupted one never half taken."""

    def __init__(
        self, engine: Engine, params: Array, buffers: Array, beta1: float, beta2: float, epsilon: float,
        weight_decay: float, decoupled: bool, clip_norm: float,
    ) -> None:  # fmt: skip
        self._engine, self._layout = engine, engine._layout
        self._settings = float(beta1), float(beta2), float(epsilon), float(weight_decay), int(decoupled)
        self._clip_norm = float(clip_norm)
        packed = engine.pack(params, buffers)
        self._standard = packed
        zero = np.zeros_like(packed.params)
        self._state = packed, zero, zero.copy(), 0  # parameters, Adam's moments, steps: replaced together

    @property
    def step(self) -> int:
        """Adam steps so far."""
        return self._state[3]

    def packed(self) -> Packed:
        """A snapshot of the present parameters."""
        return self._state[0]

    def get_params(self, out: Array) -> None:
        """Copy the present parameters into ``out``."""
        self._engine._need("out", out, (self._engine.n_params,))
        out[...] = self._state[0].params

    def set_params(self, params: Array) -> None:
        """Replace the parameters; moments and step count stay."""
        self._engine._need("params", params, (self._engine.n_params,))
        self._state = self._with(np.array(params)), *self._state[1:]

    def _with(self, params: Array) -> Packed:
        s = self._standard
        return Packed(params, s.loc, s.scale, s.inverse, s.log_scale, s.context_loc, s.context_inverse)

    def run(
        self, x: Array, context: Array | None, weight: Array | None, weight_scale: float, seed: int, epoch: int, n_train: int,
        first_step: int, batch_size: int, learning_rates: Array, losses: Array, norms: Array,
    ) -> int:  # fmt: skip
        """Mini-batches first_step .. of an epoch; how many steps were taken before one was not finite."""
        n_rows = self._engine._rows(x)
        self._engine._context(context, n_rows)
        if context is not None and np.shape(context) != (n_rows, self._layout.context_dim):
            raise ValueError(f"context must have shape ({n_rows}, {self._layout.context_dim})")
        if weight is not None and np.shape(weight) != (n_rows,):
            raise ValueError(f"weight must have shape ({n_rows},), got {np.shape(weight)}")
        if not 0 < n_train <= n_rows:
            raise ValueError(f"n_train must be within 1..{n_rows}, got {n_train}")
        for name, array in (("learning_rates", learning_rates), ("losses", losses), ("norms", norms)):
            if array.shape != learning_rates.shape or array.ndim != 1 or array.dtype != np.float64:
                raise ValueError(f"{name} must be float64 of shape {learning_rates.shape}")
        steps = len(learning_rates)
        if batch_size < 1 or first_step < 0 or (steps and (first_step + steps - 1) * batch_size >= n_train):
            raise ValueError(f"first_step and batch_size must stay within the {n_train} rows of an epoch")
        for i, learning_rate in enumerate(learning_rates):
            begin = (first_step + i) * batch_size
            rows = min(batch_size, n_train - begin)

            def fill(first: int, last: int, space: Workspace, begin: int = begin) -> None:
                index = np.arange(begin + first, begin + last)
                order(np.uint64(seed), np.uint64(epoch), int(n_train), index, index)
                order(np.uint64(seed), np.uint64(0), n_rows, index, index)
                space.x[: last - first] = x[index]
                if context is not None:
                    space.context[: last - first] = context[index]
                space.weight[: last - first] = 1.0 if weight is None else weight[index]

            packed, m, v, step = self._state
            kind = NO_CONTEXT if context is None else ROWS_OF_CONTEXT
            gradient, sums = self._engine.batch_gradient(packed, rows, kind, None, fill)
            scale = weight_scale / rows
            gradient = gradient[self._layout.index]
            norm = math.sqrt(_sum_squares(gradient)) * scale
            loss, weights = sums.tolist()
            losses[i], norms[i] = loss / weights if weights else math.nan, norm
            if not (math.isfinite(losses[i]) and math.isfinite(norm)):
                return i
            if norm > self._clip_norm:
                scale *= self._clip_norm / norm
            params, m, v = packed.params.copy(), m.copy(), v.copy()
            _adam.adam(
                params, gradient, scale, m, v, self._layout.decay, step + 1, float(learning_rate), *self._settings
            )
            self._state = self._with(params), m, v, step + 1
        return len(learning_rates)


def _sum_squares(x: Any) -> float:
    with quiet():
        return float(np.sum(np.square(x, dtype=np.float64)))
