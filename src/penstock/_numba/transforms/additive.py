# Additive:  y = x + t                   theta = (t)
#   forward    y = x + t                 log_det = 0,  slope = 1
#   inverse    x = y - t                 log_det = 0
#   backward   dx = dy,                  dt = dy

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import splat
from penstock._numba.core.theta import read, write


@jit
def forward(x: Any, theta: Any, at: int, options: Any) -> Any:
    """y, log_det, slope."""
    y = x + read(theta, at, 0)
    return y, splat(x, 0.0), splat(x, 1.0)


@jit
def inverse(y: Any, theta: Any, at: int, options: Any) -> Any:
    """x, log_det."""
    x = y - read(theta, at, 0)
    return x, splat(y, 0.0)


@jit
def backward(x: Any, theta: Any, at: int, options: Any, dy: Any, dlog_det: Any, dtheta: Any, dat: int) -> Any:
    """dx; dtheta is overwritten."""
    write(dtheta, dat, 0, dy)
    return dy
