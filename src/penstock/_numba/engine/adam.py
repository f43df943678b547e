"""Kingma, Ba, "Adam" (2015), algorithm 1; decoupled decay as in Loshchilov, Hutter (2019).

In float64 throughout, where the compiled core works in the numbers of the plan with one rounding of each product and sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import entry, jit

LEAST_MOMENT = 1e-30  # decay alone would never bring a moment from here to 0, and denormals are slow


@jit
def flushed(moment: float) -> float:
    """A moment, or 0 if it is negligible."""
    return 0.0 if abs(moment) < LEAST_MOMENT else moment


@entry
def adam(
    params: Any, gradient: Any, scale: float, m: Any, v: Any, decays: Any, frozen: Any, step: int, learning_rate: float,
    beta1: float, beta2: float, epsilon: float, weight_decay: float, decoupled: bool,
) -> None:  # fmt: skip
    """One step in place, with gradient scale * gradient. Decay touches what ``decays`` marks, nothing what ``frozen`` does."""
    correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
    for i in range(params.size):
        if frozen[i]:
            continue
        p, g = np.float64(params[i]), scale * np.float64(gradient[i])
        rate = weight_decay if decays[i] else 0.0
        if not decoupled:
            g = g + rate * p
        mean = flushed(beta1 * m[i] + (1.0 - beta1) * g)
        square = flushed(beta2 * v[i] + (1.0 - beta2) * (g * g))
        m[i] = mean
        v[i] = square
        denominator = np.sqrt(square / correction2) + epsilon
        change = learning_rate / correction1 * mean / denominator
        if decoupled:
            change = change + learning_rate * rate * p  # added to the change, so that small rates do not vanish
        params[i] = p - change
