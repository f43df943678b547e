"""Activations and their derivatives on the lane type.

relu        x < 0 ? 0 : x           leaky_relu  x < 0 ? 0.01 x : x
tanh        tanh x                  silu        x sigmoid(x)               gelu   x Phi(x)
"""

from __future__ import annotations

from typing import Any

from penstock._numba.core import math
from penstock._numba.core.jit import dispatch, jit
from penstock._numba.core.lanes import fma, lanes, load, select, splat, store
from penstock._numba.core.plan import RELU

sigmoid, normal_cdf, tanh_of = math.sigmoid, math.normal_cdf, math.tanh


@jit
def relu(x: Any) -> Any:
    """y and dy/dx."""
    return select(x < 0.0, 0.0, x), select(x <= 0.0, 0.0, splat(x, 1.0))


@jit
def tanh(x: Any) -> Any:
    """y and dy/dx."""
    y = tanh_of(x)
    return y, 1.0 - y * y


@jit
def silu(x: Any) -> Any:
    """y and dy/dx."""
    s = sigmoid(x)
    y = x * s
    return y, fma(y, 1.0 - s, s)


@jit
def gelu(x: Any) -> Any:
    """y and dy/dx."""
    p, density = normal_cdf(x)
    return x * p, fma(x, density, p)


@jit
def leaky_relu(x: Any) -> Any:
    """y and dy/dx."""
    return select(x < 0.0, 0.01 * x, x), select(x <= 0.0, 0.01, splat(x, 1.0))


@jit
def relu_derivative(y: Any) -> Any:
    """dy/dx from y."""
    return select(y <= 0.0, 0.0, splat(y, 1.0))


@jit
def tanh_derivative(y: Any) -> Any:
    """dy/dx from y."""
    return 1.0 - y * y


@jit
def leaky_relu_derivative(y: Any) -> Any:
    """dy/dx from y."""
    return select(y <= 0.0, 0.01, splat(y, 1.0))


def _activate_all(activate: Any) -> Any:
    @jit
    def activate_all(n: int, area: Any, h: int, skip: int, derivative: int) -> None:
        for i in range(0, n, lanes(area)):
            y, d = activate(load(area, h + i))
            if skip >= 0:
                y = load(area, skip + i) + y
            store(area, h + i, y)
            if derivative >= 0:
                store(area, derivative + i, d)

    return activate_all


def _scale_by_output(derivative_of_output: Any) -> Any:
    @jit
    def scale(n: int, d: Any, at: int, area: Any, output: int, scaled: Any, to: int) -> None:
        for i in range(0, n, lanes(area)):
            store(scaled, to + i, load(d, at + i) * derivative_of_output(load(area, output + i)))

    return scale


@jit
def _scale_by_kept(n: int, d: Any, at: int, area: Any, derivative: int, scaled: Any, to: int) -> None:
    for i in range(0, n, lanes(area)):
        store(scaled, to + i, load(d, at + i) * load(area, derivative + i))


# activate_all(kind, n, area, h, skip, derivative): in place on n numbers of an area, h = act(h), plus skip; derivative
# kept. Positions below zero mean: none.
activate_all = dispatch([_activate_all(f) for f in (relu, tanh, silu, gelu, leaky_relu)], RELU)

# scale_by_derivative(kind, n, d, at, area, source, scaled, to): scaled = d act'(x), the source being the kept derivative for
# silu, gelu and KEPT_DERIVATIVE, and otherwise the activation.
scale_by_derivative = dispatch(
    [_scale_by_output(f) for f in (relu_derivative, tanh_derivative)]
    + [_scale_by_kept, _scale_by_kept]
    + [_scale_by_output(leaky_relu_derivative), _scale_by_kept],
    RELU,
)
