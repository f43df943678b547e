"""Columns with a support: whether rows lie within, the numbers of its own that a support has, and the coordinate in which columns
are measured.

Logarithms and exponentials here are made of operations that round alike on every processor, as NumPy's own are not: the numbers
that a fit begins with decide all of its bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.columns import SHOWN, Names, called
from penstock.groups import LINE, Group, Ordered, Simplex
from penstock.lattice import Lattice, outside
from penstock.plan import Plan
from penstock.support import CLOSED, LINEAR, Interval, Periodic, Real, Support, kinds, n_numbers
from penstock.training.moments import QUARTILES
from penstock.training.rows import Rows

TERMS = 14  # of the series below
QUANTILES = 300  # of a column, from which s is found
TIE = 2e-3  # nats a row, by which a candidate may be less likely than the best and yet be taken for its larger s
HALF = 0.125  # of a box, the part that the half of the rows around the median takes at least
DOUBLINGS = range(-10, 31)  # exponents of two of the candidates for s, in units of the median


def log(x: Array) -> Array:
    """The logarithm of positive numbers."""
    m, e = np.frexp(x)
    low = m < math.sqrt(0.5)
    m, e = np.where(low, 2 * m, m), e - low
    s = (m - 1) / (m + 1)
    t, total = s * s, np.zeros_like(s)
    for k in range(TERMS, 0, -1):
        total = (total + 1 / (2 * k + 1)) * t
    result: Array = e * math.log(2.0) + 2 * s * (1 + total)
    return result


def one_minus_exp(t: Array) -> Array:
    """1 - exp(-t) for t of at least 0."""
    n = np.minimum(np.round(t / math.log(2.0)), 1100)
    r = np.clip(n * 6.93147180369123816490e-01 - t + n * 1.90821492927058770002e-10, -0.35, 0.35)
    total = np.zeros_like(r)
    for k in range(TERMS, 0, -1):
        total = (total + 1) * r / k
    power = np.ldexp(np.ones_like(r), -n.astype(np.int64))
    result: Array = (1 - power) - power * total
    return result


def sigmoid_of(t: Any) -> Any:
    """The image of a box, before it is brought to [-1, 1]."""
    return t / np.sqrt(1 + t * t)


def inside(x: Array, support: Interval) -> Array:
    """Whether numbers lie within; NaN does not."""
    lo, hi = support.ends
    left, right = CLOSED[str(support.closed)]
    result: Array = (x >= lo if left else x > lo) & (x <= hi if right else x < hi)
    return result


def image(x: Array, support: Interval | Periodic, numbers: Sequence[float]) -> Array:
    """The image of a column in float64, by the numbers of its support; NaN where it is outside."""
    if isinstance(support, Periodic):
        turns = (x - (0.5 * support.lo + 0.5 * support.hi)) / (support.hi - support.lo)
        angle: Array = 2 * math.pi * (turns - np.round(turns))
        return angle
    lo, hi = support.ends
    with np.errstate(all="ignore"):
        x = np.where(inside(x, support), x, np.nan)
        if support.map == "box":
            m, s = numbers
            low, high = (sigmoid_of((end - m) / s) for end in (lo, hi))
            u: Array = 2 * (sigmoid_of((x - m) / s) - low) / (high - low) - 1
            return u
        if support.map == "logit":
            result: Array = log((x - lo) / (hi - lo)) - log((hi - x) / (hi - lo))
            return result
        t = (x - lo if support.hi is None else hi - x) / numbers[0]
        u = t + log(one_minus_exp(t))
        return u if support.hi is None else -u


def member_ends(group: Group, j: int, column: Callable[[int], Array]) -> tuple[Any, Any]:
    """Both ends of a column of a group, in float64, from those before it."""
    end: Any = group.opening
    for i in group.needs(j):
        end = group.moved(end, column(i).astype(np.float64))
    return group.interval(end)


def member_image(group: Group, j: int, column: Callable[[int], Array], numbers: Sequence[float]) -> Array:
    """The image of a column of a group in float64; NaN where it is not between its ends."""
    lo, hi = member_ends(group, j, column)
    x = column(j).astype(np.float64)
    with np.errstate(all="ignore"):
        x = np.where((x > lo) & (x < hi), x, np.nan)
        if numbers:
            falls = isinstance(group, Ordered) and group.falls
            t = (hi - x if falls else x - lo) / numbers[0]
            u: Array = t + log(one_minus_exp(t))
            return -u if falls else u
        bounded = isinstance(group, Simplex) or group.lo is not None
        return log(x - lo) - log(hi - x) if bounded else x


class Line:
    """A table whose columns are seen in their unconstrained coordinates, in float64, as far as they are looked at.

    It is indexed as an array of shape (rows, dim) is: rows by an index, and then columns by a slice or a number.
    """

    def __init__(self, x: Array, support: Sequence[Support], numbers: Sequence[Sequence[float]]) -> None:
        self._x, self._support, self._numbers = x, support, numbers
        self.shape = x.shape

    def __len__(self) -> int:
        return len(self._x)

    def astype(self, dtype: Any) -> Array:
        """All of it as an array."""
        array: Array = self[:].astype(dtype)
        return array

    def given(self, row: int, column: int) -> Any:
        """A number as it was given."""
        return self._x[row, column]

    def maps(self, column: int) -> bool:
        """Whether a column has a coordinate of its own."""
        own = self._support[column]
        if isinstance(own, Ordered) and own.lo is own.hi is None:
            return column != own.chain[0]
        return not isinstance(own, Real)

    @property
    def standardised(self) -> Array:
        """Whether each column is a line, whose location and scale are measured."""
        return np.array([own.kind == LINE for own in self._support])

    def __getitem__(self, index: Any) -> Any:
        rows, some = index if isinstance(index, tuple) else (index, slice(None))
        x = self._x[rows, some] if isinstance(some, slice) else self._x[rows][..., some : some + 1]
        x = x.astype(np.float64)
        numbers = range(self.shape[1])[some] if isinstance(some, slice) else (some,)
        whole = self._x[rows] if any(isinstance(self._support[j], Group) for j in numbers) else x
        for place, j in enumerate(numbers):
            own = self._support[j]
            if isinstance(own, Group):
                x[..., place] = member_image(own, j, lambda i: whole[..., i], self._numbers[j])
            elif not isinstance(own, Real):
                x[..., place] = image(x[..., place], own, self._numbers[j])
        return x if isinstance(some, slice) else x[..., 0]


def on_line(rows: Rows, buffers: Array, support: Sequence[Support], context_support: Sequence[Support] = ()) -> Rows:
    """Rows and their context as the standardisation sees them. The last of ``buffers`` are the numbers of supports."""
    if not support and not context_support:
        return rows
    numbers = numbers_of((*support, *context_support), buffers)
    x: Any = Line(rows.x, support, numbers[: len(support)]) if support else rows.x
    context: Any = rows.context
    if context_support:
        context = Line(context, context_support, numbers[len(support) :])
    return Rows(x, context, rows.weight)


def numbers_of(support: Sequence[Support], buffers: Array) -> list[list[float]]:
    """The numbers that the support of each column has of its own, from the buffers of a flow or from their end."""
    counts = [n_numbers(own, j) for j, own in enumerate(support)]
    last = iter(buffers[len(buffers) - sum(counts) :].tolist())
    return [[next(last) for _ in range(count)] for count in counts]


def lines_alone(
    buffers: Array, plan: Plan, support: Sequence[Support], context_support: Sequence[Support] = ()
) -> Array:
    """The buffers with location 0 and scale 1 for columns that are circles or boxes, which no data standardise."""
    for first, n, own in ((0, plan.dim, support), (2 * plan.dim, plan.context_dim, context_support)):
        for j, kind in enumerate(kinds(own, len(own))):
            if kind != LINE:
                buffers[first + j], buffers[first + n + j] = 0.0, 1.0
    return buffers


def check_inside(
    rows: Rows, support: Sequence[Support], names: Names, *, name: str, lattice: Lattice | None = None
) -> None:
    """Raise if a row that counts lies outside the support of a column, or on its ends; on a lattice, if its cell lies outside."""
    for j, own in enumerate(support):
        if isinstance(own, Group) and j == min(own.chain):
            _check_group(rows, own, names, name, lattice)
        if not isinstance(own, Interval):
            continue
        lo, hi = own.ends
        step = 0.0 if lattice is None else float(lattice.steps[j])
        for part in rows.chunks(1):
            column = rows.x[part, j]
            if step:
                wide = column.astype(np.float64)
                outside = (wide - step / 2 < lo) | (wide + step / 2 > hi)
            else:
                outside = ~inside(column, own) & ~np.isnan(column)
            if not outside.any():
                continue
            if rows.weight is not None:
                outside &= rows.weight[part] != 0
            found = np.flatnonzero(outside)
            if len(found):
                i = int(found[0])
                value = column[i]
                ends = " (an end does not belong to its support)" if value in (lo, hi) else ""
                ends = f", half a step of {step:g} from what lies outside" if step and lo < value < hi else ends
                raise ValueError(
                    f"{name} must lie within the supports of the flow, but row {part.start + i}, column {called(j, names)}, "
                    f"which is {own}, holds {value}{ends}"
                )


def _check_group(rows: Rows, group: Group, names: Names, name: str, lattice: Lattice | None) -> None:
    """Raise if a row that counts lies outside a group, or its cell where columns have lattices."""
    members = [int(j) for j in group.columns]
    steps = np.zeros(len(members)) if lattice is None else lattice.steps[members]
    for part in rows.chunks(len(members)):
        x = np.stack([rows.x[part, j].astype(np.float64) for j in members], axis=1)
        out = outside(x, steps, group) if steps.any() else _outside(x, group)
        if rows.weight is not None:
            out &= rows.weight[part] != 0
        found = np.flatnonzero(out)
        if len(found):
            i = part.start + int(found[0])
            held = [f"column {called(j, names)} holds {rows.x[i, j]}" for j in members[:SHOWN]]
            raise ValueError(
                f"{name} must lie within the supports of the flow, but row {i} is not {group.described(names)}: "
                + ", ".join(held)
            )


def _outside(x: Array, group: Group) -> Array:
    """Whether rows, in the order of a group, lie outside it."""
    out = np.zeros(len(x), bool)
    end: Any = group.opening
    for j in group.chain:
        own = x[:, group.columns.index(j)]
        lo, hi = group.interval(end)
        out |= (own <= lo) | (own >= hi)
        end = group.moved(end, own)
    return out


def measured(sample: Rows, support: Sequence[Support], context_support: Sequence[Support] = ()) -> Array:
    """The numbers of all supports, in the order of the columns and then of the conditioning variables, from a sample of the
    rows: ``s`` of every half-line, also of those that begin at another column, ``m`` and ``s`` of every box.

    ``s`` of a half-line, of powers of two times the median of the distances from the end, is the one under which the image
    of the sample is likeliest as a normal (Box, Cox, "An analysis of transformations", 1964): the coordinate that is closest to
    what the flow begins with. Of those that are as likely, up to TIE, it is the largest. Exponential tails give an s about the
    size of the data, where the map is linear and keeps them; heavier ones give one far beyond the data, where the map is a
    logarithm, so that rows farther out than any of the sample meet no exponential tail.

    Tried with `nsf(1)` on 8000 rows against s of 1/16, 1/2, 1, 2, 16 and 10^6 medians, by the loss of log-likelihood to the
    truth: within 1e-3 nats of the best of these for exponential, gamma, chi-square, half-normal, lognormal (over 6 decades) and
    Pareto columns, where the worst of them lose from 0.02 nats to hundreds.

    A box has the median as ``m``. Its ``s`` is so large that it stays as it is, as long as the half of the rows around the
    median takes an eighth of it; if they take less it is halved until they do, or until it is the robust standard deviation,
    so that a narrow column in a wide box has most of the room.
    """
    if sample.weight is not None:
        sample = sample.take(sample.weight != 0)
    found = _numbers(sample, support)
    if context_support and sample.context is not None:
        found += _numbers(Rows(sample.context, None, sample.weight), context_support)
    return np.array(found, np.float64)


def _numbers(sample: Rows, support: Sequence[Support]) -> list[float]:
    found: list[float] = []
    for j, own in enumerate(support):
        if not n_numbers(own, j):
            continue
        w = None if sample.weight is None else np.abs(sample.scaled_weights())
        x = sample.x[:, j].astype(np.float64)
        if isinstance(own, Group):
            lo, hi = member_ends(own, j, lambda i: sample.x[:, i])
            found.append(half_line_scale(hi - x if isinstance(own, Ordered) and own.falls else x - lo, w))
            continue
        assert isinstance(own, Interval)
        if own.map == "box":
            found += box_numbers(x, *own.ends, w)
        else:
            found.append(half_line_scale(x - own.lo if own.lo is not None else own.ends[1] - x, w))
    return found


def quantiles(x: Array, weight: Array | None) -> Array:
    """Quantiles of a column that are rows, none of them between others: a few absurd values count for nothing."""
    order = np.argsort(x, kind="stable")
    mass = np.cumsum(np.ones(len(x)) if weight is None else weight[order])
    found: Array = x[order][np.searchsorted(mass, (np.arange(QUANTILES) + 0.5) / QUANTILES * mass[-1])]
    return found


def box_numbers(x: Array, lo: float, hi: float, weight: Array | None = None) -> list[float]:
    """Median and scale of a box: see ``measured``."""
    x = quantiles(x, weight)
    m, spread = float(x[QUANTILES // 2]), float(x[3 * QUANTILES // 4] - x[QUANTILES // 4])
    s = LINEAR * (hi - lo)
    least = max(spread / QUARTILES, (hi - lo) * 2.0**-50)
    while spread > 0 and s > 2 * least:
        low, left, right, high = (sigmoid_of(t / s) for t in (lo - m, -spread / 2, spread / 2, hi - m))
        if right - left >= HALF * (high - low):
            break
        s /= 2
    return [m, s]


def half_line_scale(y: Array, weight: Array | None = None) -> float:
    """The scale of the distances of rows from their end: see ``measured``."""
    y = quantiles(y, weight)
    median = float(y[QUANTILES // 2])
    if not (0 < median < math.inf) or y[0] == y[-1]:
        return median if 0 < median < math.inf else 1.0
    found = [(-math.inf, median)]
    with np.errstate(all="ignore"):
        for doubling in DOUBLINGS:
            s = median * 2.0**doubling
            t = y / s
            log_w = log(one_minus_exp(t))
            u = t + log_w
            spread = float(((u - u.mean()) ** 2).mean())
            if s < math.inf and spread > 0:
                found.append((-0.5 * math.log(spread) - float(log_w.mean()) - math.log(s), s))
    best = max(likelihood for likelihood, _ in found)
    return next(s for likelihood, s in reversed(found) if likelihood >= best - TIE)
