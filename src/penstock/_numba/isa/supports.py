"""Bijections of columns whose support is not the whole line, in float64, and what each row adds to log_det through them.

What every row adds, log s or log h, is where log_det begins (ends.py).

    half-line   t = (x - lo) / s,  w = 1 - e^-t       u = t + log w = log(e^t - 1)    log_det = -log w
                x = lo + s log(1 + e^u)                                               log_det = log sigmoid(u)
                below hi: the same of -x and -u
    interval    r = (x - lo) / h,  q = (hi - x) / h   u = log r - log q               log_det = -log r - log q
                x = lo + h sigmoid(u)                                                 log_det = log sigmoid(u) sigmoid(-u)

Outside a support, its ends included, the density is zero: log_det is -inf, and the image the middle of the line.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import BYTES, lanes, load, select, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.math import absolute, clamp, exp, expm1, log, log1p, sigmoid
from penstock._numba.core.plan import MAPPED_SIZE, NUMBERS_SIZE
from penstock._numba.core.pointers import beyond

LOGIT = codes.COLUMN_MAPS.index("logit")
SMALLEST_NORMAL = 2.2250738585072014e-308
SINGLES = BYTES // 4  # lanes of float32
SHOWN = (64 * 2.0**-23, 64 * 2.0**-52)  # parts of a distance from an end, above which rounding shows in the density


@jit
def limit(v: float, tile: Any) -> float:
    """v within the range of the tile's numbers; what is finite stays so when it is rounded to them."""
    most = 3.4028234663852886e38
    if lanes(tile) == SINGLES and abs(v) > most and abs(v) < np.inf:
        return most if v > 0 else -most
    return v


@jit
def normal(x: Any) -> Any:
    """At least the smallest normal number, as the logarithm needs it; NaN passes."""
    return select(x < SMALLEST_NORMAL, SMALLEST_NORMAL, x)


@jit
def below(c: Any, x: Any) -> Any:
    """The part of a half-line or an interval that lies below x, in its scale."""
    return normal((x - c[0]) / c[2])


@jit
def above(c: Any, x: Any) -> Any:
    """And above."""
    return normal((c[1] - x) / c[2])


@jit
def to_line(kind: int, mirrored: bool, c: Any, x: Any, middle: float) -> Any:
    """u(x), and what the row adds to log_det; ``middle`` is the image of what lies outside."""
    if kind == LOGIT:
        log_r, log_q = log(below(c, x)), log(above(c, x))
        u, log_slope = log_r - log_q, -(log_r + log_q)
    else:
        t = above(c, x) if mirrored else below(c, x)
        log_w = log(-expm1(-t))
        u, log_slope = -(t + log_w) if mirrored else t + log_w, -log_w
    # a comparison with NaN is false
    u, log_slope = select(x > c[0], u, x), select(x > c[0], log_slope, x)
    u, log_slope = select(x < c[1], u, x), select(x < c[1], log_slope, x)
    u, log_slope = select(x <= c[0], middle, u), select(x <= c[0], -np.inf, log_slope)
    return select(x >= c[1], middle, u), select(x >= c[1], -np.inf, log_slope)


@jit
def to_line_backward(kind: int, mirrored: bool, c: Any, x: Any) -> Any:
    """du/dx, and the derivative of log du/dx; zero outside."""
    if kind == LOGIT:
        r, q = below(c, x), above(c, x)
        slope, bend = 1.0 / (c[2] * r * q), (1.0 / q - 1.0 / r) / c[2]
    else:
        t = above(c, x) if mirrored else below(c, x)
        w = -expm1(-t)
        slope = 1.0 / (c[2] * w)
        bend = (1.0 - w if mirrored else w - 1.0) * slope
    slope, bend = select(x <= c[0], 0.0, slope), select(x <= c[0], 0.0, bend)
    return select(x >= c[1], 0.0, slope), select(x >= c[1], 0.0, bend)


@jit
def from_line(kind: int, mirrored: bool, c: Any, u: Any) -> Any:
    """x(u), its distance from the nearer end, and what the row adds to log_det."""
    e = exp(-absolute(u))
    l = log1p(e)  # noqa: E741
    if kind == LOGIT:
        distance = c[2] * (e / (1.0 + e))
        return select(u < 0.0, c[0] + distance, c[1] - distance), distance, -absolute(u) - (l + l)
    v = -u if mirrored else u
    distance = c[2] * (select(v > 0.0, v, 0.0) + l)
    x = c[1] - distance if mirrored else c[0] + distance
    return x, distance, select(v < 0.0, v, 0.0) - l


@jit
def from_line_backward(kind: int, mirrored: bool, c: Any, u: Any) -> Any:
    """dx/du, and the derivative of log dx/du."""
    up, down = sigmoid(u), sigmoid(-u)
    if kind == LOGIT:
        return c[2] * (up * down), down - up
    return c[2] * (down if mirrored else up), -up if mirrored else down


@jit
def mapped_in(
    dim: int, slots: Any, plan: Any, packed: Any, x: Any, index: Any, rows: int, state: Any, log_det: Any,
    numbers: Any,
) -> None:  # fmt: skip
    """The mapped columns of rows into the state, in the place of what stands there; ``numbers`` is scratch of float64."""
    for i in range(plan.n_mapped):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column, kind, mirrored = of[0], of[1], of[2] != 0
        loc, inverse, at = packed.loc[column], packed.inverse[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = x[index[min(r, rows - 1)] * dim + column]
        for r in range(0, padded, lanes(numbers)):
            u, log_slope = to_line(kind, mirrored, c, load(numbers, r), loc)
            store(numbers, r, (u - loc) * inverse)
            store(log_det, r, load(log_det, r) + log_slope)
        for r in range(rows):
            state[at + r] = limit(numbers[r], state)


@jit
def mapped_out(
    dim: int, slots: Any, plan: Any, packed: Any, state: Any, index: Any, rows: int, out: Any, coarse: Any, numbers: Any,
    stored: Any,
) -> None:  # fmt: skip
    """The mapped columns of the state into rows, strictly inside the supports.

    ``coarse`` is set for rows whose distance from an end rounding has changed by a part that their density shows.
    """
    for r in range(rows):
        coarse[r] = 0.0
    for i in range(plan.n_mapped):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column, kind, mirrored = of[0], of[1], of[2] != 0
        loc, scale, at = packed.loc[column], packed.scale[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = state[at + min(r, rows - 1)]
        for r in range(0, padded, lanes(numbers)):
            v, distance, _ = from_line(kind, mirrored, c, loc + scale * load(numbers, r))
            store(stored, r, clamp(v, c[3], c[4]))
            store(numbers, r, distance)
        for r in range(rows):
            place = index[r] * dim + column
            out[place] = stored[r]
            rise, fall = out[place] - c[0], c[1] - out[place]
            shown = SHOWN[0] if lanes(state) == SINGLES else SHOWN[1]
            nearer = fall if mirrored or (kind == LOGIT and fall < rise) else rise
            # distances below normal numbers are themselves rounded
            if abs(nearer - numbers[r]) + SMALLEST_NORMAL - shown * numbers[r] > 0:
                coarse[r] = 1.0


@jit
def mapped_log_det(slots: Any, plan: Any, packed: Any, state: Any, rows: int, log_det: Any, numbers: Any) -> None:
    """What the rows of the state add to log_det on their way out."""
    for i in range(plan.n_mapped):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column, kind, mirrored = of[0], of[1], of[2] != 0
        loc, scale, at = packed.loc[column], packed.scale[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = state[at + min(r, rows - 1)]
        for r in range(0, padded, lanes(numbers)):
            _, _, log_slope = from_line(kind, mirrored, c, loc + scale * load(numbers, r))
            store(log_det, r, load(log_det, r) + log_slope)


@jit
def mapped_cotangents_in(
    dim: int, slots: Any, plan: Any, packed: Any, with_out: bool, d_out: Any, state: Any, d_log_det: Any, index: Any,
    rows: int, d_state: Any, numbers: Any, bends: Any,
) -> None:  # fmt: skip
    """The way back of mapped_out, from cotangents of rows, or none, and of log_det."""
    for i in range(plan.n_mapped):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column, kind, mirrored = of[0], of[1], of[2] != 0
        loc, scale, at = packed.loc[column], packed.scale[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = state[at + min(r, rows - 1)]
        for r in range(0, padded, lanes(numbers)):
            slope, bend = from_line_backward(kind, mirrored, c, loc + scale * load(numbers, r))
            store(numbers, r, slope)
            store(bends, r, bend)
        for r in range(padded):
            row = min(r, rows - 1)
            d = np.float64(d_out[index[row] * dim + column]) if with_out else 0.0
            d_state[at + r] = limit((d * numbers[r] + np.float64(d_log_det[r]) * bends[r]) * scale, d_state)


@jit
def mapped_cotangents_out(
    dim: int, slots: Any, plan: Any, packed: Any, x: Any, d_state: Any, d_log_det: Any, index: Any, rows: int,
    d_in: Any, numbers: Any, bends: Any,
) -> None:  # fmt: skip
    """The way back of mapped_in, from cotangents of the state and of log_det; it reads the rows again."""
    for i in range(plan.n_mapped):
        of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
        column, kind, mirrored = of[0], of[1], of[2] != 0
        inverse, at = packed.inverse[column], slots[column] * TILE
        padded = (rows + lanes(numbers) - 1) // lanes(numbers) * lanes(numbers)
        for r in range(padded):
            numbers[r] = x[index[min(r, rows - 1)] * dim + column]
        for r in range(0, padded, lanes(numbers)):
            slope, bend = to_line_backward(kind, mirrored, c, load(numbers, r))
            store(numbers, r, slope)
            store(bends, r, bend)
        for r in range(rows):
            d_u = np.float64(d_state[at + r]) * inverse
            d = d_u * numbers[r] + np.float64(d_log_det[r]) * bends[r]
            d_in[index[r] * dim + column] = limit(d, d_state)
