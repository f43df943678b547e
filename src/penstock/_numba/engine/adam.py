"""Kingma, Ba, "Adam" (2015), algorithm 1; decoupled decay as in Loshchilov, Hutter (2019)."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import entry


@entry
def adam(
    params: Any, gradient: Any, scale: float, m: Any, v: Any, decay: Any, step: int, learning_rate: float,
    beta1: float, beta2: float, epsilon: float, weight_decay: float, decoupled: int,
) -> None:  # fmt: skip
    """One step in place, with gradient scale * gradient; ``decay`` marks the numbers that weight decay touches."""
    correction1, correction2 = 1.0 - beta1**step, 1.0 - beta2**step
    for i in range(params.size):
        p, g = np.float64(params[i]), scale * np.float64(gradient[i])
        rate = weight_decay if decay[i] else 0.0
        if decoupled:
            p = p * (1.0 - learning_rate * rate)
        else:
            g = g + rate * p
        mean = beta1 * m[i] + (1.0 - beta1) * g
        square = beta2 * v[i] + (1.0 - beta2) * (g * g)
        m[i] = mean
        v[i] = square
        denominator = np.sqrt(square / correction2) + epsilon
        params[i] = p - learning_rate / correction1 * mean / denominator
