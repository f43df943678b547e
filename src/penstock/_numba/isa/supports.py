"""Bijections of columns whose support is not the whole line, in float64, and what each row adds to log_det through them.

To the line, of a circle to angles, and of a box to [-1, 1].

    half-line   t = (x - lo) / s,  w = 1 - e^-t       u = t + log w = log(e^t - 1)    log_det = -log w
                x = lo + s log(1 + e^u)                                               log_det = log sigmoid(u)
                below hi: the same of -x and -u
    interval    r = (x - lo) / h,  q = (hi - x) / h   u = log r - log q               log_det = -log r - log q
                x = lo + h sigmoid(u)                                                 log_det = log sigmoid(u) sigmoid(-u)
    circle      h = 2 pi / (hi - lo)                  u = h (x - lo) - pi by whole turns into [-pi, pi], at both ends -pi
                x = mid + u / h by whole turns, in [lo, hi)
    box         t = (x - m) / s,  V = t / (1 + t^2)^1/2    u = 2 (V - V_lo) / W - 1   log_det = -3/2 log(1 + t^2)
                V = V_lo + W (u + 1) / 2,  t = V / (1 - V^2)^1/2,  x = m + s t        log_det = 3/2 log(1 + t^2)
                V_lo and V_hi of the ends,  W = V_hi - V_lo; far out 1 - |V| in the place of V

What every row adds, log s, log h of an interval, log 1 / h of a circle or log(s W / 2), is where log_det begins (ends.py).
Outside a support, the ends that do not belong to it included, the density is zero: log_det is -inf, and the image the
middle. On a circle any number is an angle. Columns that come in groups: groups.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import fma, lanes, load, select, splat, sqrt, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.math import FAR, ROUND, absolute, clamp, exp, expm1, log, log1p, sigmoid
from penstock._numba.core.plan import (
    COLUMN,
    FIRST,
    HI,
    LAST,
    LEAST,
    LO,
    LOWER,
    LOWER_GAP,
    MAP,
    MAPPED_SIZE,
    MIDDLE,
    MIRRORED,
    MOST,
    NUMBERS_SIZE,
    SCALE,
    UNIT,
    UPPER,
    UPPER_GAP,
)
from penstock._numba.core.pointers import beyond
from penstock._numba.isa.doubles import SHOWN, SINGLES, SMALLEST_NORMAL, limit, normal
from penstock._numba.isa.groups import (
    groups_cotangents_in,
    groups_cotangents_out,
    groups_in,
    groups_log_det,
    groups_out,
)

LOGIT, BOX, WRAP = (codes.COLUMN_MAPS.index(name) for name in ("logit", "box", "wrap"))
PI = 3.14159265358979323846


@jit
def below(c: Any, x: Any) -> Any:
    """The part of a half-line or an interval that lies below x, in its scale."""
    return normal((x - c[LO]) / c[SCALE])


@jit
def above(c: Any, x: Any) -> Any:
    """And above."""
    return normal((c[HI] - x) / c[SCALE])


@jit
def hypotenuse(t: Any) -> Any:
    """sqrt(1 + t^2)."""
    a = absolute(t)
    near = select(a > FAR[1], FAR[1], a)
    return select(a > FAR[1], a, sqrt(fma(near, near, 1.0)))


@jit
def rest(c: Any, way: Any) -> Any:
    """A way along a circle without its whole turns; of a long one no digit may be left."""
    turn = c[HI] - c[LO]
    turns = (way / turn + ROUND[1]) - ROUND[1]
    return clamp(fma(turns, -turn, way), -0.5 * turn, 0.5 * turn)


@jit
def angle(c: Any, x: Any) -> Any:
    """u(x) of a circle: counted from lo, so that lo and hi are one place to the last bit."""
    way = rest(c, x - c[LO])
    return clamp(way / c[SCALE] + select(way < 0.0, splat(x, PI), -PI), -PI, PI)


@jit
def within_box(c: Any, t: Any) -> Any:
    """u(x) of a box."""
    part, a, root = 2.0 / (c[UPPER] - c[LOWER]), absolute(t), hypotenuse(t)
    V, gap = t / root, 1.0 / (root * (root + a))  # 1 - |V|
    rise = select(t < -1.0, gap - c[LOWER_GAP], V - c[LOWER])
    fall = select(t > 1.0, gap - c[UPPER_GAP], c[UPPER] - V)
    return clamp(select(rise < fall, rise * part - 1.0, 1.0 - fall * part), -1.0, 1.0)


@jit
def from_box(c: Any, u: Any) -> Any:
    """t(u) of a box."""
    w, half = clamp(u, -1.0, 1.0), 0.5 * (c[UPPER] - c[LOWER])
    fall, rise = (1.0 - w) * half, (w + 1.0) * half
    V = select(w > 0.0, c[UPPER] - fall, c[LOWER] + rise)
    gap = select(w > 0.0, c[UPPER_GAP] + fall, c[LOWER_GAP] + rise)  # 1 - |V| where it is small
    square = select(absolute(V) > 0.5, gap * (2.0 - gap), 1.0 - V * V)
    return V / sqrt(square)


@jit
def to_line(of: Any, c: Any, item: int, x: Any, middle: float) -> Any:
    """u(x), and what the row adds to log_det, of rows of float or (item 1) of double.

    ``middle`` is the image of what lies outside.
    """
    if of[MAP] == WRAP:
        u, log_slope = angle(c, x), splat(x, 0.0)
    elif of[MAP] == BOX:
        t = (x - c[MIDDLE]) / c[UNIT]
        u, log_slope = within_box(c, t), -3.0 * log(hypotenuse(t))
    elif of[MAP] == LOGIT:
        log_r, log_q = log(below(c, x)), log(above(c, x))
        u, log_slope = log_r - log_q, -(log_r + log_q)
    else:
        mirrored = of[MIRRORED] != 0
        t = above(c, x) if mirrored else below(c, x)
        log_w = log(-expm1(-t))
        u, log_slope = -(t + log_w) if mirrored else t + log_w, -log_w
    first, last = c[FIRST + item], c[LAST + item]
    # a comparison with NaN is false
    u, log_slope = select(x >= first, u, x), select(x >= first, log_slope, x)
    u, log_slope = select(x < first, middle, u), select(x < first, -np.inf, log_slope)
    return select(x > last, middle, u), select(x > last, -np.inf, log_slope)


@jit
def to_line_backward(of: Any, c: Any, item: int, x: Any) -> Any:
    """du/dx, and the derivative of log du/dx; zero outside."""
    if of[MAP] == WRAP:
        slope, bend = splat(x, 1.0 / c[SCALE]), splat(x, 0.0)
    elif of[MAP] == BOX:
        t = (x - c[MIDDLE]) / c[UNIT]
        root = hypotenuse(t)
        slope, bend = 1.0 / (c[SCALE] * root * root * root), -3.0 * (t / root) / (c[UNIT] * root)
    elif of[MAP] == LOGIT:
        r, q = below(c, x), above(c, x)
        slope, bend = 1.0 / (c[SCALE] * r * q), (1.0 / q - 1.0 / r) / c[SCALE]
    else:
        mirrored = of[MIRRORED] != 0
        t = above(c, x) if mirrored else below(c, x)
        w = -expm1(-t)
        slope = 1.0 / (c[SCALE] * w)
        bend = (1.0 - w if mirrored else w - 1.0) * slope
    first, last = c[FIRST + item], c[LAST + item]
    slope, bend = select(x < first, 0.0, slope), select(x < first, 0.0, bend)
    return select(x > last, 0.0, slope), select(x > last, 0.0, bend)


@jit
def from_line(of: Any, c: Any, u: Any) -> Any:
    """x(u), what rounding of x counts against, its distance from the nearer end or in a box the lesser of dx/du and
    1 / |d log(du/dx) / dx|, and what the row adds to log_det.
    """
    if of[MAP] == WRAP:
        nothing = splat(u, 0.0)
        return c[MIDDLE] + rest(c, u * c[SCALE]), nothing, nothing
    if of[MAP] == BOX:
        t = from_box(c, u)
        root = hypotenuse(t)
        x = select(u <= -1.0, c[LO], select(u >= 1.0, c[HI], c[MIDDLE] + c[UNIT] * t))
        # rounding shows in u, and far from m more in log du/dx
        in_u, in_slope = c[SCALE] * root, c[UNIT] / (3.0 * absolute(t))
        return x, select(in_slope < in_u, in_slope, in_u) * root * root, 3.0 * log(root)
    e = exp(-absolute(u))
    l = log1p(e)  # noqa: E741
    if of[MAP] == LOGIT:
        distance = c[SCALE] * (e / (1.0 + e))
        return select(u < 0.0, c[LO] + distance, c[HI] - distance), distance, -absolute(u) - (l + l)
    mirrored = of[MIRRORED] != 0
    v = -u if mirrored else u
    distance = c[SCALE] * (select(v > 0.0, v, 0.0) + l)
    x = c[HI] - distance if mirrored else c[LO] + distance
    return x, distance, select(v < 0.0, v, 0.0) - l


@jit
def from_line_backward(of: Any, c: Any, u: Any) -> Any:
    """dx/du, and the derivative of log dx/du."""
    if of[MAP] == WRAP:
        return splat(u, c[SCALE]), splat(u, 0.0)
    if of[MAP] == BOX:
        t = from_box(c, u)
        root = hypotenuse(t)
        return c[SCALE] * root * root * root, 1.5 * (c[UPPER] - c[LOWER]) * (t * root)
    up, down = sigmoid(u), sigmoid(-u)
    if of[MAP] == LOGIT:
        return c[SCALE] * (up * down), down - up
    mirrored = of[MIRRORED] != 0
    return c[SCALE] * (down if mirrored else up), -up if mirrored else down


@jit
def movement(of: Any, c: Any, x: float, now: float, measure: float, shown: float) -> float:
    """Above 0 where storing x as ``now`` has moved it by a part, ``shown``, that the density shows."""
    if of[MAP] == WRAP:
        return 0.0
    if of[MAP] == BOX:
        return abs(now - x) - shown * measure
    rise, fall = now - c[LO], c[HI] - now
    nearer = fall if of[MIRRORED] != 0 or (of[MAP] == LOGIT and fall < rise) else rise
    # distances below normal numbers are themselves rounded
    return abs(nearer - measure) + SMALLEST_NORMAL - shown * measure


@jit
def mapped_in(
    dim: int, slots: Any, plan: Any, packed: Any, item: int, x: Any, index: Any, rows: int, state: Any, log_det: Any,
    numbers: Any,
) -> None:  # fmt: skip
    """The mapped columns of rows into the state, in the place of what stands there; ``numbers`` is scratch of float64."""
    for i in range(plan.n_alone):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column = of[COLUMN]
        loc, inverse, at = packed.loc[column], packed.inverse[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = x[index[min(r, rows - 1)] * dim + column]
        for r in range(0, padded, lanes(numbers)):
            u, log_slope = to_line(of, c, item, load(numbers, r), loc)
            store(numbers, r, (u - loc) * inverse)
            store(log_det, r, load(log_det, r) + log_slope)
        for r in range(rows):
            state[at + r] = limit(numbers[r], state)
    if plan.n_alone < plan.n_mapped:
        groups_in(dim, slots, plan, packed, x, index, rows, state, log_det, numbers)


@jit
def mapped_out(
    dim: int, slots: Any, plan: Any, packed: Any, state: Any, index: Any, rows: int, out: Any, coarse: Any, numbers: Any,
    stored: Any,
) -> None:  # fmt: skip
    """The mapped columns of the state into rows, inside the supports.

    ``coarse`` is set for rows that rounding has moved by so much that their density shows it.
    """
    shown = SHOWN[0] if lanes(state) == SINGLES else SHOWN[1]
    for r in range(rows):
        coarse[r] = 0.0
    for i in range(plan.n_alone):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column = of[COLUMN]
        loc, scale, at = packed.loc[column], packed.scale[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = state[at + min(r, rows - 1)]
        for r in range(0, padded, lanes(numbers)):
            v, measure, _ = from_line(of, c, loc + scale * load(numbers, r))
            store(stored, r, v)
            store(numbers, r, measure)
        for r in range(rows):
            place, x = index[r] * dim + column, stored[r]
            if of[MAP] == WRAP:
                out[place] = limit(x, state)
                if out[place] < c[LEAST] or out[place] > c[MOST]:  # the end of a turn begins one
                    out[place] = c[LEAST]
            else:
                out[place] = c[LEAST] if x < c[LEAST] else c[MOST] if x > c[MOST] else x
            if movement(of, c, x, out[place], numbers[r], shown) > 0:
                coarse[r] = 1.0
    if plan.n_alone < plan.n_mapped:
        groups_out(dim, slots, plan, packed, state, index, rows, out, coarse, numbers, stored)


@jit
def mapped_log_det(slots: Any, plan: Any, packed: Any, state: Any, rows: int, log_det: Any, numbers: Any) -> None:
    """What the rows of the state add to log_det on their way out."""
    for i in range(plan.n_alone):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column = of[COLUMN]
        loc, scale, at = packed.loc[column], packed.scale[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = state[at + min(r, rows - 1)]
        for r in range(0, padded, lanes(numbers)):
            _, _, log_slope = from_line(of, c, loc + scale * load(numbers, r))
            store(log_det, r, load(log_det, r) + log_slope)
    if plan.n_alone < plan.n_mapped:
        groups_log_det(slots, plan, packed, state, rows, log_det, numbers)


@jit
def mapped_cotangents_in(
    dim: int, slots: Any, plan: Any, packed: Any, with_out: bool, d_out: Any, state: Any, d_log_det: Any, index: Any,
    rows: int, d_state: Any, numbers: Any, bends: Any,
) -> None:  # fmt: skip
    """The way back of mapped_out, from cotangents of rows, or none, and of log_det."""
    for i in range(plan.n_alone):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column = of[COLUMN]
        loc, scale, at = packed.loc[column], packed.scale[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = state[at + min(r, rows - 1)]
        for r in range(0, padded, lanes(numbers)):
            slope, bend = from_line_backward(of, c, loc + scale * load(numbers, r))
            store(numbers, r, slope)
            store(bends, r, bend)
        for r in range(padded):
            row = min(r, rows - 1)
            d = np.float64(d_out[index[row] * dim + column]) if with_out else 0.0
            d_state[at + r] = limit((d * numbers[r] + np.float64(d_log_det[r]) * bends[r]) * scale, d_state)
    if plan.n_alone < plan.n_mapped:
        groups_cotangents_in(
            dim, slots, plan, packed, with_out, d_out, state, d_log_det, index, rows, d_state, numbers, bends
        )  # fmt: skip


@jit
def mapped_cotangents_out(
    dim: int, slots: Any, plan: Any, packed: Any, item: int, x: Any, d_state: Any, d_log_det: Any, index: Any, rows: int,
    d_in: Any, numbers: Any, bends: Any,
) -> None:  # fmt: skip
    """The way back of mapped_in, from cotangents of the state and of log_det; it reads the rows again."""
    for i in range(plan.n_alone):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column = of[COLUMN]
        inverse, at = packed.inverse[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = x[index[min(r, rows - 1)] * dim + column]
        for r in range(0, padded, lanes(numbers)):
            slope, bend = to_line_backward(of, c, item, load(numbers, r))
            store(numbers, r, slope)
            store(bends, r, bend)
        for r in range(rows):
            d_u = np.float64(d_state[at + r]) * inverse
            d = d_u * numbers[r] + np.float64(d_log_det[r]) * bends[r]
            d_in[index[r] * dim + column] = limit(d, d_state)
    if plan.n_alone < plan.n_mapped:
        groups_cotangents_out(
            dim, slots, plan, packed, x, d_state, d_log_det, index, rows, d_in, numbers, bends
        )  # fmt: skip
