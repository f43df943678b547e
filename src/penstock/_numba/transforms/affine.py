# Affine:  y = e^s x + t                 theta = (r, t),  s = r q,  q = 1 / sqrt(1 + (r / B)^2),  B = options[0]
#   forward    y = e^s x + t             log_det = s,  slope = e^s
#   inverse    x = (y - t) e^-s          log_det = -s
#   backward   dx = e^s dy,              ds = e^s x dy + dlog_det,  dr = q^3 ds,  dt = dy
#   r is clamped to 10^9 B, so that its square stays finite; beyond, dr = 0

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import fma, select, splat, sqrt
from penstock._numba.core.math import absolute, clamp, exp
from penstock._numba.core.theta import read, write


@jit
def log_scale(theta: Any, at: int, options: Any) -> Any:
    """s and q."""
    B = options[0]
    r = clamp(read(theta, at, 0), -1e9 * B, 1e9 * B)  # so that the square stays finite
    u = r * (1.0 / B)
    q = 1.0 / sqrt(fma(u, u, splat(u, 1.0)))
    return r * q, q


@jit
def forward(x: Any, theta: Any, at: int, options: Any) -> Any:
    """y, log_det, slope."""
    s, _ = log_scale(theta, at, options)
    slope = exp(s)
    y = fma(slope, x, read(theta, at, 1))
    log_det = s
    return y, log_det, slope


@jit
def inverse(y: Any, theta: Any, at: int, options: Any) -> Any:
    """x, log_det."""
    s, _ = log_scale(theta, at, options)
    x = (y - read(theta, at, 1)) * exp(-s)
    return x, -s


@jit
def backward(x: Any, theta: Any, at: int, options: Any, dy: Any, dlog_det: Any, dtheta: Any, dat: int) -> Any:
    """dx; dtheta is overwritten."""
    s, q = log_scale(theta, at, options)
    dx = exp(s) * dy
    ds = fma(dx, x, dlog_det)
    r = read(theta, at, 0)
    write(dtheta, dat, 0, select(absolute(r) > 1e9 * options[0], splat(r, 0.0), q * q * q * ds))
    write(dtheta, dat, 1, dy)
    return dx
