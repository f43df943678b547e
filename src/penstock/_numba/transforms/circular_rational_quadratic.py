# Rational-quadratic spline on a circle:  y = wrap(g(wrap(x)) + r)   theta = (u_0 .. u_K-1, v_0 .. v_K-1, t_0 .. t_K-1, r)
#   forward    i = wrap(x),  y = wrap(g(i) + r),      log_det = log slope,  slope = g'(i)
#   inverse    o = wrap(y - r),  x = g^-1(o),         log_det = -log slope
#   backward   as rational_quadratic, with dt_0 from both ends of the box;  dr = dy
#   g          as rational_quadratic, but that both ends of the box have the slope d_0 = d_K = m_d + softplus(t_0 + c)
#   wrap(x)    x - 2 B round(x / 2 B), clamped to [-B, B]
#   options    K, B, m_w, m_h, m_d, c
# Rezende, Papamakarios, Racaniere et al., "Normalizing Flows on Tori and Spheres" (2020), section 2.1.3.

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import constant, fma, select, splat
from penstock._numba.core.math import ROUND, clamp, log
from penstock._numba.core.theta import read, write
from penstock._numba.transforms.rational_quadratic import CIRCLE, axis, measure, pull, root, search, spread


@jit
def wrap(x: Any, options: Any) -> Any:
    """x on the circle."""
    B = options[1]
    turns, rounder = x * (1.0 / (2.0 * B)), constant(x, ROUND)
    # beyond the digits of a number there is no angle left in it, and any will do
    return clamp(fma(splat(x, -2.0 * B), (turns + rounder) - rounder, x), -B, B)


@jit
def find(number: Any, is_y: bool, theta: Any, at: int, options: Any) -> Any:
    """Both axes, and the bin that a number lies in."""
    u = axis(theta, at, 0, options, options[2])
    v = axis(theta, at, int(options[0]), options, options[3])
    return u, v, search(number, is_y, CIRCLE, theta, at, options, u, v)


@jit
def forward(x: Any, theta: Any, at: int, options: Any) -> Any:
    """y, log_det, slope."""
    i = wrap(x, options)
    _, _, bin = find(i, False, theta, at, options)
    _, bin_x, bin_w, bin_y, bin_h, _, _, _, _, _ = bin
    _, _, _, _, N, over_D, _, slope = measure(bin, (i - bin_x) / bin_w)
    y = wrap(fma(bin_h, N * over_D, bin_y) + read(theta, at, 3 * int(options[0])), options)
    log_det = log(slope) + over_D * 0.0  # a logarithm does not pass NaN
    return y, log_det, slope


@jit
def inverse(y: Any, theta: Any, at: int, options: Any) -> Any:
    """x, log_det."""
    o = wrap(y - read(theta, at, 3 * int(options[0])), options)
    _, _, bin = find(o, True, theta, at, options)
    _, bin_x, bin_w, _, _, _, _, _, _, _ = bin
    xi, _, _, _, _, over_D, _, slope = measure(bin, root(bin, o))
    x = fma(bin_w, xi, bin_x)
    return x, -log(slope) + over_D * 0.0


@jit
def backward(x: Any, theta: Any, at: int, options: Any, dy: Any, dlog_det: Any, dtheta: Any, dat: int) -> Any:
    """dx; dtheta is overwritten."""
    K = int(options[0])
    i, B = wrap(x, options), options[1]
    u, v, bin = find(i, False, theta, at, options)
    k, bin_x, bin_w, bin_y, bin_h, _, _, _, _, _ = bin
    dx, dw, dh, dd, de = pull(bin, measure(bin, (i - bin_x) / bin_w), dy, dlog_det)
    spread(theta, at, u, k, bin_x + B, bin_w, -dx, dw, 0, K, dtheta, dat)
    spread(theta, at, v, k, bin_y + B, bin_h, dy, dh, K, K, dtheta, dat)
    next_k = select(k + 1.0 >= options[0], 0.0, k + 1.0)
    for j in range(K):
        number = splat(k, j)
        write(dtheta, dat, 2 * K + j, select(number != next_k, select(number != k, 0.0, dd), de))
    write(dtheta, dat, 3 * K, dy)
    return dx
