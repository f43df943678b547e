"""Activations and their derivatives on the lane type.

relu        x < 0 ? 0 : x           leaky_relu  x < 0 ? 0.01 x : x
tanh        tanh x                  silu        x sigmoid(x)               gelu   x Phi(x)
"""

from __future__ import annotations

from typing import Any

from penstock._numba.core import math
from penstock._numba.core.jit import jit, specialise
from penstock._numba.core.lanes import fma, lanes, load, select, splat, store
from penstock._numba.core.plan import GELU, LEAKY_RELU, RELU, SILU, TANH

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


# In the templates of kernels below these are those of an activation.
activate = derivative_of_output = None


def activate_all(n: int, area: Any, h: int, skip: int, derivative: int) -> None:
    """In place on n numbers of an area: h = act(h), plus skip; the derivative kept. Positions below zero mean: none."""
    for i in range(0, n, lanes(area)):
        y, d = activate(load(area, h + i))
        if skip >= 0:
            y = load(area, skip + i) + y
        store(area, h + i, y)
        if derivative >= 0:
            store(area, derivative + i, d)


def scale_by_output(n: int, d: Any, at: int, area: Any, output: int, scaled: Any, to: int) -> None:
    """scaled = d act'(x), had from the activation."""
    for i in range(0, n, lanes(area)):
        store(scaled, to + i, load(d, at + i) * derivative_of_output(load(area, output + i)))


def scale_by_kept(n: int, d: Any, at: int, area: Any, derivative: int, scaled: Any, to: int) -> None:
    """The same from a kept derivative."""
    for i in range(0, n, lanes(area)):
        store(scaled, to + i, load(d, at + i) * load(area, derivative + i))


# Kernels by the activation's code: activate_all, and scale_by_output or scale_by_kept.
ACTIVATIONS = {
    code: (
        specialise(activate_all, f"{f.__name__}_activate_all", activate=f),
        scale_by_kept
        if of_output is None
        else specialise(scale_by_output, f"{f.__name__}_scale_by_output", derivative_of_output=of_output),
    )
    for code, f, of_output in (
        (RELU, relu, relu_derivative),
        (TANH, tanh, tanh_derivative),
        (SILU, silu, None),
        (GELU, gelu, None),
        (LEAKY_RELU, leaky_relu, leaky_relu_derivative),
    )
}
