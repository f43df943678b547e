"""Coordinates along a column where others are known: which numbers it may hold, and a w in (-1, 1) for each of them.

The ends of a column by itself are those of its support; those of a column of a group are moved by the columns of the group that
are known. An open end has no density, and is sent to infinity: ``v = x``, ``log(e^t - 1)`` with ``t = (x - lo) / s``, the mirror
image of that below hi, or ``log(x - lo) - log(hi - x)``, and ``v = centre + width w / (1 - w^2)``. At the ends of a box, and
where a circle is cut open, the density is finite, and w reaches them: ``x = centre + width sinh v`` with v linear in w, so that
a narrow column in a wide box keeps its resolution.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from penstock._typing import Array
from penstock.groups import LINE, Group, Ordered
from penstock.support import Support, ends_of

PANELS = np.array([0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])  # quantiles between which the first panels lie
LEAST = 2.0**-50  # width of a column, of that of its box
FAR = 0.9  # quantile of the distance from an only end, below which v is a logarithm of it

Ends = tuple[Array, Array]


class Line:
    """Coordinates of a column: x of the data, v on the line or a part of it, w in (-1, 1).

    Parameters
    ----------
    support : support
        Of the column.
    column : int
    known : sequence of int
        The columns of which values are known, in the order in which :meth:`ends` has them.
    """

    def __init__(self, support: Support, column: int, known: Sequence[int]) -> None:
        self._support, self._known = support, list(known)
        self._column = column
        self._open = support.kind == LINE
        lo, hi = self.ends(np.zeros((1, len(self._known))))
        self._bounded = bool(np.isfinite(lo[0])), bool(np.isfinite(hi[0]))
        self._centre, self._width, self._scale = 0.0, 1.0, 1.0

    def ends(self, rows: Array) -> Ends:
        """Both ends at each row of the known columns, (rows, known). Where these are in no support, any two."""
        own, n = self._support, len(rows)
        if not isinstance(own, Group):
            return tuple(np.full(n, end) for end in ends_of(own))  # type: ignore[return-value]
        if isinstance(own, Ordered):
            place = own.columns.index(self._column)
            below, above = self._nearest(own.columns[:place][::-1]), self._nearest(own.columns[place + 1 :])
            lo = np.full(n, -math.inf if own.lo is None else own.lo) if below is None else _finite(rows[:, below])
            hi = np.full(n, math.inf if own.hi is None else own.hi) if above is None else _finite(rows[:, above])
        else:
            members = [place for place, i in enumerate(self._known) if i in own.columns]
            lo, hi = np.zeros(n), 1.0 - _finite(rows[:, members]).sum(axis=1)
        room = lo < hi
        return np.where(room, lo, 0.0), np.where(room, hi, 1.0)

    def _nearest(self, members: Sequence[int | str]) -> int | None:
        """Where the first of some columns that is known stands among the known ones."""
        return next((self._known.index(int(i)) for i in members if i in self._known), None)

    def settle(self, x: Array, rows: Array) -> Array:
        """Choose w by draws of the column, (n,), and of the known ones; ends of the first panels, from -1 to 1."""
        lo, hi = self.ends(rows)
        if sum(self._bounded) == 1:
            self._scale = float(np.quantile(x - lo if self._bounded[0] else hi - x, FAR))
        v = self._to_line(x, lo, hi) if self._open else x
        low, self._centre, high = (float(q) for q in np.quantile(v, [0.16, 0.5, 0.84]))
        least = np.finfo(np.float64).tiny if self._open else LEAST * float(hi[0] - lo[0])
        self._width = max(high - low, least)
        w = np.unique(np.quantile(self.w(x, lo, hi), PANELS))
        return np.concatenate([[-1.0], w[(w > -1) & (w < 1)], [1.0]])

    def _to_line(self, x: Array, lo: Array, hi: Array) -> Array:
        if not any(self._bounded):
            return x
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if all(self._bounded):
                both: Array = np.log(x - lo) - np.log(hi - x)
                return both
            t = (x - lo if self._bounded[0] else hi - x) / self._scale
            v: Array = t + np.log(-np.expm1(-t))
        return v if self._bounded[0] else -v

    def _from_line(self, v: Array, lo: Array, hi: Array) -> tuple[Array, Array]:
        """x, and ``log dx/dv``."""
        if not any(self._bounded):
            return v, np.zeros(v.shape)
        if all(self._bounded):
            small = np.exp(-np.abs(v))
            way = (hi - lo) * (small / (1 + small))  # from the nearer end
            return np.where(v < 0, lo + way, hi - way), np.log(hi - lo) - np.abs(v) - 2 * np.log1p(small)
        v = v if self._bounded[0] else -v
        way = self._scale * np.logaddexp(0.0, v)
        return lo + way if self._bounded[0] else hi - way, np.log(self._scale) - np.logaddexp(0.0, -v)

    def _reach(self, lo: Array, hi: Array) -> Ends:
        """The v of both ends that w reaches."""
        return np.arcsinh((lo - self._centre) / self._width), np.arcsinh((hi - self._centre) / self._width)

    def w(self, x: Array, lo: Array, hi: Array) -> Array:
        """The coordinate of numbers between the ends."""
        if not self._open:
            first, last = self._reach(lo, hi)
            w: Array = 2 * (np.arcsinh((x - self._centre) / self._width) - first) / (last - first) - 1
            return w
        # The root of t w^2 + w - t = 0 without cancellation.
        t = (self._to_line(x, lo, hi) - self._centre) / self._width
        with np.errstate(invalid="ignore", over="ignore"):
            return np.where(np.abs(t) < 1e150, 2 * t / (1 + np.sqrt(1 + 4 * t * t)), np.sign(t))

    def x(self, w: Array, lo: Array, hi: Array) -> tuple[Array, Array]:
        """Numbers of the data, and ``log dx/dw``."""
        if not self._open:
            first, last = self._reach(lo, hi)
            v = first + 0.5 * (last - first) * (1 + w)
            x = np.clip(self._centre + self._width * np.sinh(v), lo, hi)
            return x, np.log(0.5 * self._width * (last - first)) + np.log(np.cosh(v))
        with np.errstate(divide="ignore", over="ignore"):
            rest = (1 - w) * (1 + w)
            x, slope = self._from_line(self._centre + self._width * w / rest, lo, hi)
            return x, slope + np.log(self._width) + np.log1p(w * w) - 2 * np.log(rest)


def _finite(x: Array) -> Array:
    """Numbers, with NaN in the place of infinite ones."""
    return np.where(np.isfinite(x), x, np.nan)
