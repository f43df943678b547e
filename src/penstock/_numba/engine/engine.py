"""An engine: a checked plan and the calls that run it, each in a file of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.engine import adam as _adam
from penstock._numba.engine import evaluate as _evaluate
from penstock._numba.engine import gradient as _gradient
from penstock._numba.engine import latents as _latents
from penstock._numba.engine.calls import Calls
from penstock._numba.engine.packed import Packed

Array = np.ndarray[Any, Any]


class Engine(Calls):
    """A checked plan and the calls that run it."""

    evaluate = _evaluate.evaluate
    sample = _evaluate.sample
    latents = _latents.latents
    latents_vjp = _latents.latents_vjp
    vjp = _gradient.vjp
    loss_and_grad = _gradient.loss_and_grad

    def pack(self, params: Array, buffers: Array) -> Packed:
        """A snapshot of parameters and buffers."""
        self.need("params", params, (self.n_params,))
        if np.shape(buffers) != (self.n_buffers,) or buffers.dtype != np.float64:
            raise ValueError(f"buffers must be float64 of shape ({self.n_buffers},)")
        return Packed(self.layout, np.array(params), buffers)

    def with_context(self, packed: Packed, context: Array) -> Packed:
        """The same numbers for calls that all have this context, of shape (context_dim,), and pass none."""
        self.need_packed(packed)
        given = self.context(np.array(context, np.float64), 1)
        return packed.with_context(self.shared(packed, given, 1))

    def adam(
        self, params: Array, grad: Array, m: Array, v: Array, step: int, learning_rate: float, beta1: float,
        beta2: float, epsilon: float, weight_decay: float, decoupled: bool,
    ) -> None:  # fmt: skip
        """One step in place."""
        for name, array in (("params", params), ("m", m), ("v", v)):
            self.need(name, array, (self.n_params,))
        self.need("grad", grad, (self.n_params,), np.float64, only=True)
        arrays = [np.require(a, self.layout.dtype, ["C", "A", "W"]) for a in (params, m, v)]
        _adam.adam(
            arrays[0], np.array(grad), 1.0, arrays[1], arrays[2], self.layout.decay, np.zeros_like(self.layout.frozen),
            int(step), float(learning_rate), float(beta1), float(beta2), float(epsilon), float(weight_decay),
            bool(decoupled),
        )  # fmt: skip
        for mine, given in zip(arrays, (params, m, v), strict=True):
            if mine is not given:
                given[...] = mine
