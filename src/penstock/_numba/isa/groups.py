"""Bijections of groups of columns, in float64, and what each row adds to log_det through them.

A member of a group has the bijection of an interval, of which the members before it move one end, E.

    ordered     rising: above L = E, the member before, or lo where it is the first; below hi
                falling, where there is hi alone: below H = E, the member before, or hi
      no ends   first: u = x                              log_det = 0
      one end   t = (x - L) / s or (H - x) / s            the half-line of supports.py
      both      r = x - L,  q = hi - x,  p = hi - L       the interval
    simplex     r = x,  q = H - x,  p = H                 the interval; H = E is what the members before it leave of 1
    half-line   w = 1 - e^-t,  u = t + log w              log_det = -log w         du/dE = -du/dx
    interval    u = log r - log q                         log_det = log p - log r - log q
                x = L + p sigmoid(u)                      log_det = log p + log sigmoid(u) sigmoid(-u)

What every row adds, log s of a half-line, is where log_det begins (ends.py). Outside a group, its ends and rows with equal
members included, the density is zero: see supports.py. On the way out E is made of the numbers as they are stored, so that the
density is that of the row which is stored; each leaves room for those behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import lanes, load, select, splat, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.math import absolute, clamp, exp, expm1, log, log1p, sigmoid
from penstock._numba.core.plan import (
    COLUMN,
    HALF_LINE,
    HI,
    INTERVAL,
    LEAST,
    LO,
    MAP,
    MAPPED_SIZE,
    MIRRORED,
    MOST,
    NUMBERS_SIZE,
    OPENS,
    ROOM,
    SCALE,
    SHAPE,
)
from penstock._numba.core.pointers import beyond
from penstock._numba.isa.doubles import SHOWN, SINGLES, SMALLEST_NORMAL, gathered, limit, normal, widened

SIMPLEX = codes.COLUMN_MAPS.index("simplex")


@jit
def opening(of: Any, c: Any) -> float:
    """E of the first member."""
    return c[HI] if of[MIRRORED] != 0 else c[LO]


@jit
def lower_end(of: Any, c: Any, end: Any) -> Any:
    """The lower end of a member."""
    return splat(end, c[LO]) if of[MIRRORED] != 0 else end


@jit
def upper_end(of: Any, c: Any, end: Any) -> Any:
    """And the upper one."""
    return end if of[MIRRORED] != 0 else splat(end, c[HI])


@jit
def moved(of: Any, end: Any, x: Any) -> Any:
    """E of the next member."""
    return end - x if of[MAP] == SIMPLEX else x


@jit
def moved_within(of: Any, c: Any, end: Any, x: Any) -> Any:
    """The same of a row that is given: behind a member that lies outside nothing is within."""
    none = -np.inf if of[MIRRORED] != 0 else np.inf
    found = moved(of, end, x)
    found = select(x <= lower_end(of, c, end), none, found)
    return select(x >= upper_end(of, c, end), none, found)


@jit
def member_to_line(of: Any, c: Any, end: Any, x: Any, middle: float) -> Any:
    """u(x), and what the row adds to log_det; ``middle`` is the image of what lies outside."""
    low, high = lower_end(of, c, end), upper_end(of, c, end)
    if of[SHAPE] == INTERVAL:
        log_r, log_q = log(normal(x - low)), log(normal(high - x))
        u, log_slope = log_r - log_q, log(normal(high - low)) - log_r - log_q
    elif of[SHAPE] == HALF_LINE:
        mirrored = of[MIRRORED] != 0
        t = normal((high - x if mirrored else x - low) / c[SCALE])
        log_w = log(-expm1(-t))
        u, log_slope = -(t + log_w) if mirrored else t + log_w, -log_w
    else:
        u, log_slope = x, splat(x, 0.0)
    # a comparison with NaN is false
    u, log_slope = select(x > low, u, x), select(x > low, log_slope, x + end)
    u, log_slope = select(x < high, u, x), select(x < high, log_slope, x + end)
    u, log_slope = select(x <= low, middle, u), select(x <= low, -np.inf, log_slope)
    return select(x >= high, middle, u), select(x >= high, -np.inf, log_slope)


@jit
def reciprocal(x: Any) -> Any:
    """1 / x, kept so far from the largest number that sums of a few stay numbers."""
    return 1.0 / select(x < 2.0**-900, 2.0**-900, x)


@jit
def bounded(d: Any) -> Any:
    """The same of a cotangent."""
    return clamp(d, -(2.0**1020), 2.0**1020)


@jit
def member_to_line_backward(of: Any, c: Any, end: Any, x: Any) -> Any:
    """du/dx, du/dE, and the derivatives of log du/dx; zero outside."""
    low, high = lower_end(of, c, end), upper_end(of, c, end)
    mirrored, zero = of[MIRRORED] != 0, splat(x, 0.0)
    if of[SHAPE] == INTERVAL:
        r, q, p = reciprocal(x - low), reciprocal(high - x), reciprocal(high - low)
        slope, bend = r + q, q - r
        end_slope, end_bend = -q if mirrored else -r, p - q if mirrored else r - p
    elif of[SHAPE] == HALF_LINE:
        t = normal((high - x if mirrored else x - low) / c[SCALE])
        w = -expm1(-t)
        slope = reciprocal(c[SCALE] * w)
        bend = (1.0 - w if mirrored else w - 1.0) * slope
        end_slope, end_bend = -slope, -bend
    else:
        slope, end_slope, bend, end_bend = splat(x, 1.0), zero, zero, zero
    slope, end_slope = select(x <= low, zero, slope), select(x <= low, zero, end_slope)
    bend, end_bend = select(x <= low, zero, bend), select(x <= low, zero, end_bend)
    slope, end_slope = select(x >= high, zero, slope), select(x >= high, zero, end_slope)
    return slope, end_slope, select(x >= high, zero, bend), select(x >= high, zero, end_bend)


@jit
def member_from_line(of: Any, c: Any, end: Any, u: Any) -> Any:
    """x(u), its distance from the nearer end, which rounding of x counts against, and what the row adds to log_det."""
    low, high, zero = lower_end(of, c, end), upper_end(of, c, end), splat(u, 0.0)
    if of[SHAPE] != INTERVAL and of[SHAPE] != HALF_LINE:
        return u, zero, zero
    e = exp(-absolute(u))
    l = log1p(e)  # noqa: E741
    if of[SHAPE] == INTERVAL:
        p = normal(high - low)
        distance = p * (e / (1.0 + e))
        return select(u < 0.0, low + distance, high - distance), distance, log(p) - absolute(u) - (l + l)
    mirrored = of[MIRRORED] != 0
    v = -u if mirrored else u
    distance = c[SCALE] * (select(v > 0.0, v, 0.0) + l)
    return high - distance if mirrored else low + distance, distance, select(v < 0.0, v, 0.0) - l


@jit
def member_from_line_backward(of: Any, c: Any, end: Any, u: Any) -> Any:
    """dx/du, dx/dE, and the derivatives of log dx/du."""
    up, down, mirrored, one = sigmoid(u), sigmoid(-u), of[MIRRORED] != 0, splat(u, 1.0)
    if of[SHAPE] == INTERVAL:
        p = normal(upper_end(of, c, end) - lower_end(of, c, end))
        inverse = reciprocal(p)
        return p * (up * down), up if mirrored else down, down - up, inverse if mirrored else -inverse
    zero = splat(u, 0.0)
    if of[SHAPE] == HALF_LINE:
        return c[SCALE] * (down if mirrored else up), one, -up if mirrored else down, zero
    return one, zero, zero, zero


@jit
def rounded(x: float, tile: Any) -> float:
    """x as a number of the tile's type."""
    return np.float64(np.float32(x)) if lanes(tile) == SINGLES else x


@jit
def next_up(x: float, tile: Any) -> float:
    """The number of the tile's type next to one, upwards."""
    if lanes(tile) == SINGLES:
        return np.float64(np.nextafter(np.float32(x), np.float32(np.inf)))
    return np.nextafter(x, np.inf)


@jit
def next_down(x: float, tile: Any) -> float:
    """And downwards."""
    return -next_up(-x, tile)


@jit
def stored_member(of: Any, c: Any, end: float, x: float, tile: Any) -> float:
    """x of one row as it is stored, strictly within, with room for the members behind; NaN passes."""
    now, mirrored = rounded(limit(x, tile), tile), of[MIRRORED] != 0
    if of[MAP] == SIMPLEX:
        most = rounded(end - c[ROOM], tile)
        if end - most < c[ROOM]:
            most = next_down(most, tile)
        if now > most:
            now = most
    elif of[OPENS] == 0 and mirrored and now >= end:
        now = next_down(rounded(end, tile), tile)
    elif of[OPENS] == 0 and not mirrored and now <= end:
        now = next_up(rounded(end, tile), tile)
    return c[LEAST] if now < c[LEAST] else c[MOST] if now > c[MOST] else now


@jit
def stored_members(of: Any, c: Any, end: Any, x: Any, tile: Any, r: int, numbers: Any, ends: Any) -> Any:
    """The same of a vector of rows from r on; ``numbers`` and ``ends`` are scratch."""
    store(numbers, r, x)
    store(ends, 0, end)
    for i in range(lanes(numbers)):
        numbers[r + i] = stored_member(of, c, ends[i], numbers[r + i], tile)
    return load(numbers, r)


@jit
def member_movement(of: Any, c: Any, end: Any, u: Any, now: Any, distance: Any, shown: float) -> Any:
    """Above 0 where storing x as ``now`` has moved it by a part, ``shown``, of that distance."""
    if of[SHAPE] != INTERVAL and of[SHAPE] != HALF_LINE:
        return splat(u, 0.0)
    rise, fall = now - lower_end(of, c, end), upper_end(of, c, end) - now
    found = fall if of[MIRRORED] != 0 else rise
    found = select(u < 0.0, rise, fall) if of[SHAPE] == INTERVAL else found
    return absolute(found - distance) + SMALLEST_NORMAL - shown * distance


# Groups stand behind the columns that are mapped by themselves, the members of each in the order of their ends.


@jit
def groups_in(
    dim: int, slots: Any, plan: Any, packed: Any, x: Any, index: Any, rows: int, state: Any, log_det: Any, numbers: Any
) -> None:
    """The members of rows into the state, in the place of what stands there; ``numbers`` is scratch of float64."""
    for r in range(0, rows, lanes(numbers)):
        end = splat(numbers, 0.0)
        for i in range(plan.n_alone, plan.n_mapped):
            of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
            column = of[COLUMN]
            loc, at = packed.loc[column], slots[column] * TILE
            own = gathered(dim, column, x, index, rows, r, numbers)
            if of[OPENS] != 0:
                end = splat(numbers, opening(of, c))
            u, log_slope = member_to_line(of, c, end, own, loc)
            store(numbers, r, (u - loc) * packed.inverse[column])
            store(log_det, r, load(log_det, r) + log_slope)
            for j in range(r, min(r + lanes(numbers), rows)):
                state[at + j] = limit(numbers[j], state)
            end = moved_within(of, c, end, own)


@jit
def groups_out(
    dim: int, slots: Any, plan: Any, packed: Any, state: Any, index: Any, rows: int, out: Any, coarse: Any, numbers: Any,
    ends: Any,
) -> None:  # fmt: skip
    """The members of the state into rows, within the groups.

    ``coarse`` is set for rows that rounding has moved by so much that their density shows it.
    """
    shown = SHOWN[0] if lanes(state) == SINGLES else SHOWN[1]
    for r in range(0, rows, lanes(numbers)):
        end = splat(numbers, 0.0)
        for i in range(plan.n_alone, plan.n_mapped):
            of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
            column = of[COLUMN]
            if of[OPENS] != 0:
                end = splat(numbers, opening(of, c))
            u = packed.loc[column] + packed.scale[column] * widened(state, slots[column] * TILE, rows, r, numbers)
            x, distance, _ = member_from_line(of, c, end, u)
            now = stored_members(of, c, end, x, state, r, numbers, ends)
            for j in range(r, min(r + lanes(numbers), rows)):
                out[index[j] * dim + column] = numbers[j]
            store(numbers, r, member_movement(of, c, end, u, now, distance, shown))
            for j in range(r, min(r + lanes(numbers), rows)):
                if numbers[j] > 0:
                    coarse[j] = 1.0
            end = moved(of, end, now)


@jit
def groups_log_det(slots: Any, plan: Any, packed: Any, state: Any, rows: int, log_det: Any, numbers: Any) -> None:
    """What the rows of the state add to log_det on their way out."""
    room = lanes(
        numbers
    )  # rows are taken from the front; behind them is scratch, and before them too once they are done
    for r in range(0, rows, room):
        end = splat(numbers, 0.0)
        other = beyond(numbers, 0 if r > 0 else room)
        for i in range(plan.n_alone, plan.n_mapped):
            of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
            column = of[COLUMN]
            if of[OPENS] != 0:
                end = splat(numbers, opening(of, c))
            u = packed.loc[column] + packed.scale[column] * widened(state, slots[column] * TILE, rows, r, numbers)
            x, _, log_slope = member_from_line(of, c, end, u)
            store(log_det, r, load(log_det, r) + log_slope)
            end = moved(of, end, stored_members(of, c, end, x, state, r, numbers, other))


@jit
def opening_of(plan: Any, i: int) -> int:
    """The number of the first member of the group of a member."""
    while beyond(plan.mapped, i * MAPPED_SIZE)[OPENS] == 0:
        i -= 1
    return i


@jit
def with_end(of: Any, d: Any, d_end: Any) -> Any:
    """The cotangent of x of a member, from its own and that of E behind it."""
    return bounded(d) - d_end if of[MAP] == SIMPLEX else bounded(d) + d_end


@jit
def end_before(of: Any, own: Any, d_end: Any) -> Any:
    """That of E before it, from those of the member's image and of log_det."""
    if of[OPENS] != 0:
        return splat(own, 0.0)
    return bounded(d_end + bounded(own) if of[MAP] == SIMPLEX else own)


@jit
def groups_cotangents_in(
    dim: int, slots: Any, plan: Any, packed: Any, with_out: bool, d_out: Any, state: Any, d_log_det: Any, index: Any,
    rows: int, d_state: Any, numbers: Any, ends: Any,
) -> None:  # fmt: skip
    """The way back of groups_out, from cotangents of rows, or none, and of log_det.

    It goes from the last member to the first, some at a time, since E of each has to be found from the first on.
    """
    room = TILE // lanes(numbers) - 1  # one place is scratch
    for r in range(0, rows, lanes(numbers)):
        d_value, d_end = widened(d_log_det, 0, rows, r, numbers), splat(numbers, 0.0)
        last = plan.n_mapped
        while last > plan.n_alone:
            first = max(last - room, plan.n_alone)
            end = splat(numbers, 0.0)
            for i in range(opening_of(plan, first), last):
                of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
                column = of[COLUMN]
                if of[OPENS] != 0:
                    end = splat(numbers, opening(of, c))
                if i >= first:
                    store(ends, (i - first + 1) * lanes(numbers), end)
                u = packed.loc[column] + packed.scale[column] * widened(state, slots[column] * TILE, rows, r, numbers)
                x, _, _ = member_from_line(of, c, end, u)
                end = moved(of, end, stored_members(of, c, end, x, state, r, numbers, ends))
            for i in range(last - 1, first - 1, -1):
                of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
                column = of[COLUMN]
                scale, at = packed.scale[column], slots[column] * TILE
                u = packed.loc[column] + scale * widened(state, at, rows, r, numbers)
                slope, end_slope, bend, end_bend = member_from_line_backward(
                    of, c, load(ends, (i - first + 1) * lanes(numbers)), u
                )
                d = gathered(dim, column, d_out, index, rows, r, numbers) if with_out else splat(numbers, 0.0)
                d = with_end(of, d, d_end)
                store(numbers, r, (d * slope + d_value * bend) * scale)
                for j in range(r, r + lanes(numbers)):
                    d_state[at + j] = limit(numbers[j], d_state)
                d_end = end_before(of, d * end_slope + d_value * end_bend, d_end)
            last = first


@jit
def groups_cotangents_out(
    dim: int, slots: Any, plan: Any, packed: Any, x: Any, d_state: Any, d_log_det: Any, index: Any, rows: int, d_in: Any,
    numbers: Any, ends: Any,
) -> None:  # fmt: skip
    """The way back of groups_in, from cotangents of the state and of log_det; it reads the rows again."""
    room = TILE // lanes(numbers)
    for r in range(0, rows, lanes(numbers)):
        d_value, d_end = widened(d_log_det, 0, rows, r, numbers), splat(numbers, 0.0)
        last = plan.n_mapped
        while last > plan.n_alone:
            first = max(last - room, plan.n_alone)
            end = splat(numbers, 0.0)
            for i in range(opening_of(plan, first), last):
                of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
                if of[OPENS] != 0:
                    end = splat(numbers, opening(of, c))
                if i >= first:
                    store(ends, (i - first) * lanes(numbers), end)
                end = moved_within(of, c, end, gathered(dim, of[COLUMN], x, index, rows, r, numbers))
            for i in range(last - 1, first - 1, -1):
                of, c = beyond(plan.mapped, i * MAPPED_SIZE), beyond(packed.mapped, i * NUMBERS_SIZE)
                column = of[COLUMN]
                own = gathered(dim, column, x, index, rows, r, numbers)
                slope, end_slope, bend, end_bend = member_to_line_backward(
                    of, c, load(ends, (i - first) * lanes(numbers)), own
                )
                d_u = widened(d_state, slots[column] * TILE, rows, r, numbers) * packed.inverse[column]
                store(numbers, r, with_end(of, d_u * slope + d_value * bend, d_end))
                for j in range(r, min(r + lanes(numbers), rows)):
                    d_in[index[j] * dim + column] = limit(numbers[j], d_state)
                d_end = end_before(of, d_u * end_slope + d_value * end_bend, d_end)
            last = first
