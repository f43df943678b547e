"""An engine of protocol 1 behind protocol 2, until the compiled one speaks it. To be deleted then."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._typing import Array


class Backend:
    """A backend of protocol 1."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def Engine(self, table: Array) -> Any:  # noqa: N802
        """As protocol 2 has it."""
        return Engine(self._backend.Engine(table))

    def row_order(self, seed: int, epoch: int, n: int, positions: Any, out: Array) -> None:
        """As protocol 2 has it."""
        if isinstance(positions, int):
            self._backend.row_order(seed, epoch, n, positions, out)
            return
        every = np.zeros(n, np.int64)
        self._backend.row_order(seed, epoch, n, 0, every)
        out[:] = every[positions]

    def Trainer(self, engine: Any, params: Array, buffers: Array, *options: Any) -> Any:  # noqa: N802
        """As protocol 2 has it."""
        frozen = options[-1]
        trainer = self._backend.Trainer(engine.inner, params, buffers, *options[:-1])
        return Trainer(self, trainer, frozen, params.copy())


class Engine:
    """An engine of protocol 1."""

    def __init__(self, inner: Any) -> None:
        self.__dict__["inner"] = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def evaluate(
        self, packed: Any, to_data: bool, first: int, last: int, x: Array, index: Any, context: Any, thetas: Any,
        base: bool, out: Any, log_det: Any,
    ) -> None:  # fmt: skip
        """As protocol 2 has it."""
        if index is not None:
            if len(index) and (index.min() < 0 or index.max() >= len(x)):
                raise ValueError("index out of range")
            if context is not None and context.ndim == 2:
                context = context[index // (len(x) // len(context))]
            x = x[index]
        theta = None if thetas is None else thetas[0]
        self.inner.evaluate(packed, to_data, first, last, x, context, theta, base, out, log_det)

    def vjp(
        self, packed: Any, to_data: bool, first: int, last: int, x: Array, context: Any, thetas: Any, base: bool,
        d_out: Any, d_log_det: Any, log_det: Any, d_x: Any, d_params: Any, d_context: Any, d_thetas: Any,
    ) -> None:  # fmt: skip
        """As protocol 2 has it."""
        theta, d_theta = (None if arrays is None else arrays[0] for arrays in (thetas, d_thetas))
        if log_det is not None:
            self.inner.evaluate(packed, to_data, first, last, x, context, theta, base, None, log_det)
        self.inner.vjp(
            packed, to_data, first, last, x, context, theta, base, d_out, d_log_det, d_x, d_params, d_context, d_theta
        )


class Trainer:
    """A trainer of protocol 1."""

    def __init__(self, backend: Backend, inner: Any, frozen: Array | None, start: Array) -> None:
        self._backend, self._inner, self._frozen, self._start = backend, inner, frozen, start

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(
        self, x: Array, context: Any, weight: Any, weight_exponent: int, weight_scale: float, seed: int, epoch: int,
        n_train: int, first_step: int, batch_size: int, rates: Array, losses: Array, norms: Array,
    ) -> int:  # fmt: skip
        """As protocol 2 has it."""
        n = len(rates)
        scaled = None if weight is None else np.ldexp(weight.astype(np.float64), weight_exponent)
        done, most = 0, n if self._frozen is None else 1
        while done < n:
            part = slice(done, min(done + most, n))
            taken = self._inner.run(
                x, context, scaled, weight_scale, seed, epoch, n_train, first_step + done, batch_size, rates[part],
                losses[part], norms[part],
            )  # fmt: skip
            done += taken
            if self._frozen is not None and taken:
                now = self._start.copy()
                self._inner.get_params(now)
                for first, count in self._frozen:
                    now[first : first + count] = self._start[first : first + count]
                self._inner.set_params(now)
            if done == part.stop:
                continue
            inner, rows = np.zeros(batch_size, np.int64), np.zeros(batch_size, np.int64)
            self._backend.row_order(seed, epoch, n_train, (first_step + done) * batch_size, inner)
            self._backend.row_order(seed, 0, len(x), inner, rows)
            if scaled is None or scaled[rows].sum() != 0:
                break
            losses[done], norms[done] = np.nan, 0.0
            done += 1
        return done
