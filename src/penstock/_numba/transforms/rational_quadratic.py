# Rational-quadratic spline:  y = g(x) on [-B, B], y = x outside    theta = (u_0 .. u_K-1, v_0 .. v_K-1, t_1 .. t_K-1)
#   forward    y = y_k + h N / D,                                    log_det = log slope,  slope = (s / D)^2 E
#   inverse    xi = 2 s Y / (b + R), where b < 0 (R - b) / 2 a,      x = x_k + w xi,  log_det = -log slope
#   backward   dx = dxi / w,  du_j = w'_j (G_j - M),  dv_j likewise from dy_k and dh,  dt_j = dd_j sigmoid(t_j + c)
#   knots      x_0 = -B,  x_j+1 = x_j + w_j,  w_j = 2 B m_w + w'_j,  w'_j = 2 B (1 - K m_w) e^u_j / sum_i e^u_i
#              y_j and h_j from v and m_h;  d_j = m_d + softplus(t_j + c), at most 10^6;  t_0 = t_K = 0, where d = 1
#   bin k      w = w_k,  h = h_k,  s = h / w,  xi = (x - x_k) / w,  q = xi (1 - xi),  p = 1 - 2 q,  d = d_k,  e = d_k+1
#              N = xi (s xi + d (1 - xi)),  D = s p + (d + e) q,  E = e xi^2 + 2 s q + d (1 - xi)^2
#              Y = y - y_k,  T = d + e - 2 s,  a = h (s - d) + Y T,  b = h d - Y T,  R = sqrt(b^2 + 4 a s Y)
#   gradients  dxi = dy h s E / D^2 + dlog_det ((2 e xi + 2 s (1 - 2 xi) - 2 d (1 - xi)) / E - 2 T (1 - 2 xi) / D)
#              ds = dy h (xi^2 - p N / D) / D + dlog_det (2 / s + 2 q / E - 2 p / D)
#              dd = dy h q (1 - N / D) / D + dlog_det ((1 - xi)^2 / E - 2 q / D)
#              de = -dy h q N / D^2 + dlog_det (xi^2 / E - 2 q / D)
#              dy_k = dy,  dh = dy N / D + ds / w,  dx_k = -dxi / w,  dw = -(dxi xi + ds s) / w
#              G_j = dx_k for j < k, dw for j = k, 0 beyond;  M = sum_j w'_j G_j / (2 B (1 - K m_w))
#   options    K, B, m_w, m_h, m_d, c
# Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019), eqs. 4-8.

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import fma, select, splat, sqrt
from penstock._numba.core.math import absolute, clamp, exp, exp2, log, sigmoid
from penstock._numba.core.theta import read, write

LINE, CIRCLE, BOX = range(3)  # what becomes of the ends: slope 1, one slope, two slopes
STEEPEST = 1e6
LOG2_E = 1.44269504088896340736


@jit
def power(u: Any, top: Any) -> Any:
    """e^(u - top)."""
    return exp2((u - top) * LOG2_E)


@jit
def axis(theta: Any, at: int, first: int, options: Any, m: Any) -> Any:
    """Of K numbers u: the largest, and scale, least and free; w'_j = scale e^(u_j - top), and w_j = w'_j + least."""
    K = int(options[0])
    top = read(theta, at, first)
    for j in range(1, K):
        u = read(theta, at, first + j)
        top = select(u > top, u, top)
    total = splat(top, 0.0)
    for j in range(K):
        total = total + power(read(theta, at, first + j), top)
    least = 2.0 * options[1] * m
    free = 2.0 * options[1] * (1.0 - options[0] * m)
    return top, splat(top, free) / total, least, free


@jit
def knot_slope(t: Any, options: Any) -> Any:
    """d at a number t + c."""
    d = select(t < 0.0, 0.0, t) + log(1.0 + exp(-absolute(t)))
    return select(t > STEEPEST, STEEPEST, d) + options[4]


@jit
def knot_slope_derivative(t: Any) -> Any:
    """The derivative of d at a number t + c."""
    return select(t > STEEPEST, 0.0, sigmoid(t))


@jit
def knot_number(theta: Any, at: int, K: int, ends: int, j: int) -> Any:
    """t_j. On a circle the first knot is the last one, too."""
    if ends == CIRCLE:
        return read(theta, at, 2 * K + j % K)
    if ends == BOX:
        return read(theta, at, 2 * K + j)
    first = read(theta, at, 0)
    return splat(first, 0.0) if j in (0, K) else read(theta, at, 2 * K + j - 1)


@jit
def search(number: Any, is_y: bool, ends: int, theta: Any, at: int, options: Any, u: Any, v: Any) -> Any:
    """The bin that a number lies in: k, x, w, y, h, s, d, e, and the numbers of d and e."""
    K = int(options[0])
    u_top, u_scale, u_least, _ = u
    v_top, v_scale, v_least, _ = v
    x = splat(number, -options[1])
    y = x
    t = knot_number(theta, at, K, ends, 1)
    w = fma(u_scale, power(read(theta, at, 0), u_top), u_least)
    h = fma(v_scale, power(read(theta, at, K), v_top), v_least)
    k, bin_x, bin_w, bin_y, bin_h = splat(number, 0.0), x, w, y, h
    t_left, t_right = knot_number(theta, at, K, ends, 0), t
    for j in range(1, K):
        x = x + w
        y = y + h
        w = fma(u_scale, power(read(theta, at, j), u_top), u_least)
        h = fma(v_scale, power(read(theta, at, K + j), v_top), v_least)
        passed = number >= (y if is_y else x)
        k = select(passed, k + 1.0, k)
        bin_x = select(passed, x, bin_x)
        bin_w = select(passed, w, bin_w)
        bin_y = select(passed, y, bin_y)
        bin_h = select(passed, h, bin_h)
        t_left = select(passed, t, t_left)
        t = knot_number(theta, at, K, ends, j + 1)
        t_right = select(passed, t, t_right)
    t_left = t_left + options[5]
    t_right = t_right + options[5]
    d, e = knot_slope(t_left, options), knot_slope(t_right, options)
    return k, bin_x, bin_w, bin_y, bin_h, bin_h / bin_w, d, e, t_left, t_right


@jit
def measure(bin: Any, xi: Any) -> Any:
    """xi, 1 - xi, q, p, N, 1 / D, E, slope."""
    _, _, _, _, _, s, d, e, _, _ = bin
    xi = clamp(xi, 0.0, 1.0)  # the last bin may end a rounding before B
    rest = 1.0 - xi
    q = xi * rest
    p = 1.0 - (q + q)
    N = xi * fma(s, xi, d * rest)
    over_D = 1.0 / fma(s, p, (d + e) * q)
    E = fma(e * xi, xi, fma(d * rest, rest, (s + s) * q))
    r = s * over_D
    return xi, rest, q, p, N, over_D, E, r * r * E


@jit
def root(bin: Any, y: Any) -> Any:
    """xi at a y of the bin."""
    _, _, _, bin_y, bin_h, s, d, e, _, _ = bin
    rise = y - bin_y
    Y = select(rise > bin_h, bin_h, rise)
    T = d + e - (s + s)
    a = fma(bin_h, s - d, Y * T)
    b = fma(bin_h, d, -(Y * T))
    square = fma(b, b, 4.0 * a * (s * Y))
    R = sqrt(select(square < 0.0, 0.0, square))
    steep = b < 0.0  # each form of the root where it cancels nothing
    return select(steep, R - b, (s + s) * Y) / select(steep, a + a, b + R)


@jit
def pull(bin: Any, at: Any, dy: Any, dlog_det: Any) -> Any:
    """Gradients of what a bin is made of, dw, dh, dd, de, and before them dx, that of xi over w."""
    _, _, bin_w, _, bin_h, s, d, e, t_d, t_e = bin
    xi, rest, q, p, N, over_D, E, _ = at
    over_E, over_w = 1.0 / E, 1.0 / bin_w
    ratio, rise = N * over_D, dy * bin_h * over_D
    T, turn = d + e - 2.0 * s, rest - xi  # 1 - 2 xi
    dlog_E, dlog_D = dlog_det * over_E, 2.0 * dlog_det * over_D
    dxi = fma(rise, s * E * over_D, dlog_E * 2.0 * (e * xi + s * turn - d * rest) - dlog_D * T * turn)
    ds = fma(rise, xi * xi - p * ratio, 2.0 * dlog_det / s + 2.0 * dlog_E * q - dlog_D * p)
    dw = -((dxi * xi + ds * s) * over_w)
    dh = fma(dy, ratio, ds * over_w)
    dd = fma(rise, q * (1.0 - ratio), dlog_E * (rest * rest) - dlog_D * q) * knot_slope_derivative(t_d)
    de = (dlog_E * (xi * xi) - dlog_D * q - rise * q * ratio) * knot_slope_derivative(t_e)
    return dxi * over_w, dw, dh, dd, de


@jit
def spread(
    theta: Any, at: int, u: Any, k: Any, before: Any, own: Any, d_before: Any, d_own: Any, first: int, K: int,
    dtheta: Any, dat: int,
) -> None:  # fmt: skip
    """The gradients of K numbers from those of where bin k begins and of how wide it is."""
    top, scale, least, free = u
    M = fma(d_before, before - k * least, d_own * (own - least)) / free
    for j in range(K):
        number = splat(k, j)
        G = select(number < k, d_before, select(number > k, 0.0, d_own))
        write(dtheta, dat, first + j, scale * power(read(theta, at, first + j), top) * (G - M))


@jit
def forward(x: Any, theta: Any, at: int, options: Any) -> Any:
    """y, log_det, slope."""
    B = options[1]
    inner = clamp(x, -B, B)
    u = axis(theta, at, 0, options, options[2])
    v = axis(theta, at, int(options[0]), options, options[3])
    bin = search(inner, False, LINE, theta, at, options, u, v)
    _, bin_x, bin_w, bin_y, bin_h, _, _, _, _, _ = bin
    _, _, _, _, N, over_D, _, slope = measure(bin, (inner - bin_x) / bin_w)
    inside = absolute(x) <= B
    nothing = over_D * 0.0  # NaN where theta is
    y = select(inside, fma(bin_h, N * over_D, bin_y), x + nothing)
    log_det = select(inside, log(slope), 0.0) + nothing  # a logarithm does not pass NaN
    return y, log_det, select(inside, slope, 1.0 + nothing)


@jit
def inverse(y: Any, theta: Any, at: int, options: Any) -> Any:
    """x, log_det."""
    B = options[1]
    inner = clamp(y, -B, B)
    u = axis(theta, at, 0, options, options[2])
    v = axis(theta, at, int(options[0]), options, options[3])
    bin = search(inner, True, LINE, theta, at, options, u, v)
    _, bin_x, bin_w, _, _, _, _, _, _, _ = bin
    xi, _, _, _, _, over_D, _, slope = measure(bin, root(bin, inner))
    inside = absolute(y) <= B
    nothing = over_D * 0.0
    x = select(inside, fma(bin_w, xi, bin_x), y + nothing)
    return x, select(inside, -log(slope), 0.0) + nothing


@jit
def backward(x: Any, theta: Any, at: int, options: Any, dy: Any, dlog_det: Any, dtheta: Any, dat: int) -> Any:
    """dx; dtheta is overwritten."""
    K = int(options[0])
    B = options[1]
    inner = clamp(x, -B, B)
    u = axis(theta, at, 0, options, options[2])
    v = axis(theta, at, K, options, options[3])
    bin = search(inner, False, LINE, theta, at, options, u, v)
    k, bin_x, bin_w, bin_y, bin_h, _, _, _, _, _ = bin
    place = measure(bin, (inner - bin_x) / bin_w)
    inside = absolute(x) <= B
    dy_inside = select(inside, dy, 0.0)
    dx, dw, dh, dd, de = pull(bin, place, dy_inside, select(inside, dlog_det, 0.0))
    spread(theta, at, u, k, bin_x + B, bin_w, -dx, dw, 0, K, dtheta, dat)
    spread(theta, at, v, k, bin_y + B, bin_h, dy_inside, dh, K, K, dtheta, dat)
    next_k = k + 1.0
    for j in range(1, K):
        number = splat(k, j)
        write(dtheta, dat, 2 * K + j - 1, select(number != next_k, select(number != k, 0.0, dd), de))
    return select(inside, dx, dy)
