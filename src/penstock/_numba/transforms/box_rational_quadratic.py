# Rational-quadratic spline on a box:  y = g(x) on [-B, B]         theta = (u_0 .. u_K-1, v_0 .. v_K-1, t_0 .. t_K)
#   forward    i = clamp(x),  y = clamp(g(i)),        log_det = log slope,  slope = g'(i)
#   inverse    o = clamp(y),  x = clamp(g^-1(o)),     log_det = -log slope
#   backward   as rational_quadratic, with dt_0 and dt_K; beyond the box as at its nearer end
#   g          as rational_quadratic, but that both ends of the box have slopes d_0 and d_K of their own, as the other knots have
#   clamp(x)   to [-B, B]
#   options    K, B, m_w, m_h, m_d, c
# Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019), eqs. 4-8; nothing outside ties the slopes at the ends.

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import fma, select, splat
from penstock._numba.core.math import clamp, log
from penstock._numba.core.theta import write
from penstock._numba.transforms.rational_quadratic import BOX, axis, measure, pull, root, search, spread


@jit
def find(number: Any, is_y: bool, theta: Any, at: int, options: Any) -> Any:
    """Both axes, and the bin that a number lies in."""
    u = axis(theta, at, 0, options, options[2])
    v = axis(theta, at, int(options[0]), options, options[3])
    return u, v, search(number, is_y, BOX, theta, at, options, u, v)


@jit
def forward(x: Any, theta: Any, at: int, options: Any) -> Any:
    """y, log_det, slope."""
    B = options[1]
    i = clamp(x, -B, B)
    _, _, bin = find(i, False, theta, at, options)
    _, bin_x, bin_w, bin_y, bin_h, _, _, _, _, _ = bin
    _, _, _, _, N, over_D, _, slope = measure(bin, (i - bin_x) / bin_w)
    y = clamp(fma(bin_h, N * over_D, bin_y), -B, B)  # the last knot may lie a rounding beyond B
    log_det = log(slope) + over_D * 0.0  # a logarithm does not pass NaN
    return y, log_det, slope


@jit
def inverse(y: Any, theta: Any, at: int, options: Any) -> Any:
    """x, log_det."""
    B = options[1]
    o = clamp(y, -B, B)
    _, _, bin = find(o, True, theta, at, options)
    _, bin_x, bin_w, _, _, _, _, _, _, _ = bin
    xi, _, _, _, _, over_D, _, slope = measure(bin, root(bin, o))
    x = clamp(fma(bin_w, xi, bin_x), -B, B)
    return x, -log(slope) + over_D * 0.0


@jit
def backward(x: Any, theta: Any, at: int, options: Any, dy: Any, dlog_det: Any, dtheta: Any, dat: int) -> Any:
    """dx; dtheta is overwritten."""
    K = int(options[0])
    B = options[1]
    i = clamp(x, -B, B)
    u, v, bin = find(i, False, theta, at, options)
    k, bin_x, bin_w, bin_y, bin_h, _, _, _, _, _ = bin
    dx, dw, dh, dd, de = pull(bin, measure(bin, (i - bin_x) / bin_w), dy, dlog_det)
    spread(theta, at, u, k, bin_x + B, bin_w, -dx, dw, 0, K, dtheta, dat)
    spread(theta, at, v, k, bin_y + B, bin_h, dy, dh, K, K, dtheta, dat)
    next_k = k + 1.0
    for j in range(K + 1):
        number = splat(k, j)
        write(dtheta, dat, 2 * K + j, select(number != next_k, select(number != k, 0.0, dd), de))
    return dx
