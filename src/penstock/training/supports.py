"""Columns with a support: whether rows lie within, the scale s of a half-line, and the coordinate in which columns are measured.

Logarithms and exponentials here are made of operations that round alike on every processor, as NumPy's own are not: the numbers
that a fit begins with decide all of its bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.columns import Names, called
from penstock.lattice import Lattice
from penstock.support import Interval, Support
from penstock.training.rows import Rows

TERMS = 14  # of the series below
QUANTILES = 300  # of a column, from which s is found
TIE = 2e-3  # nats a row, by which a candidate may be less likely than the best and yet be taken for its larger s
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


def to_line(x: Array, support: Interval, s: float) -> Array:
    """The image of a column in float64, NaN where it is outside."""
    lo, hi = support.ends
    with np.errstate(all="ignore"):
        x = np.where((x > lo) & (x < hi), x, np.nan)
        if support.map == "logit":
            result: Array = log((x - lo) / (hi - lo)) - log((hi - x) / (hi - lo))
            return result
        t = (x - lo if support.hi is None else hi - x) / s
        u = t + log(one_minus_exp(t))
        return u if support.hi is None else -u


class Line:
    """A table whose columns are seen in their unconstrained coordinates, in float64, as far as they are looked at.

    It is indexed as an array of shape (rows, dim) is: rows by an index, and then columns by a slice or a number.
    """

    def __init__(self, x: Array, support: Sequence[Support], scales: Sequence[float]) -> None:
        self._x, self._support, self._scales = x, support, scales
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
        return isinstance(self._support[column], Interval)

    def __getitem__(self, index: Any) -> Any:
        rows, some = index if isinstance(index, tuple) else (index, slice(None))
        x = self._x[rows, some] if isinstance(some, slice) else self._x[rows][..., some : some + 1]
        x = x.astype(np.float64)
        numbers = range(self.shape[1])[some] if isinstance(some, slice) else (some,)
        for place, j in enumerate(numbers):
            own = self._support[j]
            if isinstance(own, Interval):
                x[..., place] = to_line(x[..., place], own, self._scales[j])
        return x if isinstance(some, slice) else x[..., 0]


def on_line(rows: Rows, support: Sequence[Support], buffers: Array) -> Rows:
    """Rows as the standardisation sees them; the context stays as it is. The last of ``buffers`` are ``s`` of each half-line."""
    if not support:
        return rows
    line: Any = Line(rows.x, support, scales_of(support, buffers))
    return Rows(line, rows.context, rows.weight)


def scales_of(support: Sequence[Support], buffers: Array) -> list[float]:
    """``s`` of every column, 1 for those that have none, from the buffers of a flow or from their end."""
    halves = [isinstance(own, Interval) and own.map == "positive" for own in support]
    last = iter(buffers[len(buffers) - sum(halves) :].tolist())
    return [next(last) if half else 1.0 for half in halves]


def check_inside(
    rows: Rows, support: Sequence[Support], names: Names, *, name: str, lattice: Lattice | None = None
) -> None:
    """Raise if a row that counts lies outside the support of a column, or on its ends; on a lattice, if its cell lies outside."""
    for j, own in enumerate(support):
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
                outside = (column <= lo) | (column >= hi)
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


def measured_scales(sample: Rows, support: Sequence[Support]) -> Array:
    """``s`` of every half-line, from a sample of the rows.

    Of powers of two times the median of the distances from the end, it is the one under which the image of the sample is
    likeliest as a normal (Box, Cox, "An analysis of transformations", 1964): the coordinate that is closest to what the flow
    begins with. Of those that are as likely, up to TIE, it is the largest. Exponential tails give an s about the size of the
    data, where the map is linear and keeps them; heavier ones give one far beyond the data, where the map is a logarithm, so
    that rows farther out than any of the sample meet no exponential tail.

    Tried with `nsf(1)` on 8000 rows against s of 1/16, 1/2, 1, 2, 16 and 10^6 medians, by the loss of log-likelihood to the
    truth: within 1e-3 nats of the best of these for exponential, gamma, chi-square, half-normal, lognormal (over 6 decades) and
    Pareto columns, where the worst of them lose from 0.02 nats to hundreds.
    """
    if sample.weight is not None:
        sample = sample.take(sample.weight != 0)
    found = []
    for j, own in enumerate(support):
        if isinstance(own, Interval) and own.map == "positive":
            x = sample.x[:, j].astype(np.float64)
            w = None if sample.weight is None else np.abs(sample.scaled_weights())
            found.append(half_line_scale(x - own.lo if own.lo is not None else own.ends[1] - x, w))
    return np.array(found, np.float64)


def half_line_scale(y: Array, weight: Array | None = None) -> float:
    """The scale of the distances of rows from their end: see ``measured_scales``."""
    order = np.argsort(y, kind="stable")
    mass = np.cumsum(np.ones(len(y)) if weight is None else weight[order])
    # Rows that are among the data, none of them between others: a few absurd values count for nothing.
    places = np.searchsorted(mass, (np.arange(QUANTILES) + 0.5) / QUANTILES * mass[-1])
    y = y[order][places]
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
