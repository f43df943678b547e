"""Adaptive Gauss-Legendre quadrature of many densities at once, given by their logarithms, with the error of each integral.

On a panel the density is a Legendre series through its values at 15 nodes of Gauss, and the last of its coefficients give the
error: splines have kinks in the density, at which coefficients fall like 1 / k^2 and two rules for the same integral may agree
by chance. A kink between an end of a panel and its outermost node is in none of them, and so the series is held against the
density at the ends. A peak that is narrower than the distance of nodes would be missed by all of that: on each panel the
logarithms are continued as straight lines into the gaps, and what could hide there counts as an error, too, relative to the
largest value anywhere. Thus panels are halved towards a peak from afar, where all that can be seen of it is the slope of log p.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from penstock._typing import Array

N = 15
NODES, WEIGHTS = (array.astype(np.float64) for array in np.polynomial.legendre.leggauss(N))
# Values at the nodes to coefficients of the Legendre series through them.
TO_LEGENDRE = (np.polynomial.legendre.legvander(NODES, N - 1) * WEIGHTS[:, None]).T * (np.arange(N) + 0.5)[:, None]
# Where a density is evaluated: at the nodes, and so close to the ends of a panel that nothing matters beyond.
CLOSE = 1e-5
POINTS = np.concatenate([[-1 + CLOSE], NODES, [1 - CLOSE]])
AT_ENDS = np.polynomial.legendre.legvander(POINTS[[0, -1]], N - 1) @ TO_LEGENDRE
GAP = 1 + NODES[0]
# The error of an integral over part of a panel with one kink is at most so much of the sum of the last three coefficients
# (found by trying all places of the kink and of the end), and no more where they fall faster than there.
KINK = 0.5
SMOOTH = 10.0
ROUNDING = 1e-13  # of values of a density, relative

ROUNDS = 60  # halvings of a panel
TOGETHER = 1 << 16  # quantiles
HALVINGS = 60  # and of a bracket
MOST_PANELS = 3000  # of one integral
HIDDEN = 1.0  # nats by which a peak between nodes has to stand out


class LogDensity(Protocol):
    """What is integrated over (-1, 1): the logarithm of a density for each integral."""

    def __call__(self, number: Array, w: Array, floor: Array) -> tuple[Array, Array | None]:
        """Logarithms at ``w`` of shape (panels, points), of the integrals ``number`` (panels,), and those of their errors.

        ``floor`` (panels,) is the logarithm of an error that does not matter.
        """
        ...


class Panels(NamedTuple):
    """Integrals over (-1, 1), and the panels that they consist of, sorted by integral and place.

    Attributes
    ----------
    log_integral, error : arrays of shape (n,)
        Logarithms, and the error of each: relative to the integral, so that it is one of its logarithm, too. 0 where the
        density is 0 everywhere.
    converged : array of bool of shape (n,)
        Whether the error is within the tolerance.
    first : array of int of shape (n + 1,)
        Number of the first panel of each integral.
    a, b : arrays of shape (panels,)
        Ends of the panels.
    legendre : array of shape (panels, N)
        The density on each panel as a Legendre series in (-1, 1), in units of its integral over all panels.
    """

    log_integral: Array
    error: Array
    converged: Array
    first: Array
    a: Array
    b: Array
    legendre: Array

    def _sums(self) -> Array:
        """The share of the mass before each panel, of its own integral; 1 before the next."""
        sums: Array = np.cumsum(self.legendre[:, 0] * (self.b - self.a))
        return np.concatenate([[0.0], sums])

    def cdf(self, number: Array, w: Array) -> Array:
        """The share of the mass below ``w`` (m,) of the integrals ``number`` (m,)."""
        panel = self._find(number, w, self.a)
        sums = self._sums()
        s = np.clip(2 * (w - self.a[panel]) / (self.b[panel] - self.a[panel]) - 1, -1.0, 1.0)
        share: Array = np.clip(sums[panel] - sums[self.first[number]] + self._within(panel, s)[0], 0.0, 1.0)
        return share

    def quantile(self, number: Array, u: Array) -> Array:
        """The ``w`` (m,) below which the shares ``u`` (m,) of the mass lie, of the integrals ``number`` (m,)."""
        if len(u) > TOGETHER:
            parts = range(0, len(u), TOGETHER)
            return np.concatenate([self.quantile(number[i : i + TOGETHER], u[i : i + TOGETHER]) for i in parts])
        sums = self._sums()
        before = sums[:-1] - np.repeat(sums[self.first[:-1]], np.diff(self.first))
        panel = self._find(number, u, before)
        left = u - before[panel]
        s, low, high = np.zeros(len(u)), np.full(len(u), -1.0), np.ones(len(u))
        open_ = np.arange(len(u))
        for _ in range(HALVINGS):  # Newton's steps, or bisection where they would leave what brackets the place
            old, own = s[open_], panel[open_]
            mass, density = self._within(own, old)
            excess = mass - left[open_]
            low[open_], high[open_] = np.where(excess < 0, old, low[open_]), np.where(excess < 0, high[open_], old)
            with np.errstate(all="ignore"):
                step = old - excess / density
            good = (step > low[open_]) & (step < high[open_])
            s[open_] = np.where(good, step, 0.5 * (low[open_] + high[open_]))
            open_ = open_[np.abs(s[open_] - old) > 1e-14]
            if len(open_) == 0:
                break
        place: Array = self.a[panel] + 0.5 * (self.b[panel] - self.a[panel]) * (1 + s)
        return place

    def _find(self, number: Array, values: Array, starts: Array) -> Array:
        """The last panel of each integral that starts below a value."""
        low, high = self.first[number], self.first[number + 1] - 1
        while (low < high).any():
            middle = (low + high + 1) // 2
            below = starts[middle] <= values
            low, high = np.where(below, middle, low), np.where(below, high, middle - 1)
        return low

    def _within(self, panel: Array, s: Array) -> tuple[Array, Array]:
        """The mass on a panel from its start to ``s`` in (-1, 1), and its derivative."""
        # The integral of P_k from -1 is (P_{k+1} - P_{k-1}) / (2k + 1).
        p = np.polynomial.legendre.legvander(s, N)
        integral = np.concatenate([(s + 1)[:, None], (p[:, 2:] - p[:, : N - 1]) / (2 * np.arange(1, N) + 1)], axis=1)
        half, series = 0.5 * (self.b - self.a)[panel], self.legendre[panel]
        return half * (series * integral).sum(axis=1), half * (series * p[:, :N]).sum(axis=1)


class _Pool:
    """The panels so far, and what is known of each.

    ``peak`` is the largest logarithm; integral and errors are in units of it. ``hidden`` is the logarithm of what may hide.
    """

    names = ("number", "a", "b", "logs", "peak", "integral", "error", "inner", "hidden")

    def __init__(self) -> None:
        self.number = np.zeros(0, np.int64)
        self.a, self.b, self.peak, self.integral, self.error, self.inner, self.hidden = (np.zeros(0) for _ in range(7))
        self.logs = np.zeros((0, len(POINTS)))

    def add(self, **found: Array) -> None:
        for name in self.names:
            setattr(self, name, np.concatenate([getattr(self, name), found[name]]))

    def keep(self, which: Array) -> None:
        for name in self.names:
            setattr(self, name, getattr(self, name)[which])

    def units(self, top: Array) -> Array:
        """What the unit of each panel is in units of exp(top)."""
        with np.errstate(invalid="ignore", over="ignore", under="ignore"):
            weight: Array = np.where(self.peak > -np.inf, np.exp(self.peak - top[self.number]), 0.0)
        return weight

    def errors(self, top: Array) -> Array:
        """The error of each panel, in units of exp(top)."""
        with np.errstate(invalid="ignore", under="ignore"):
            hidden = np.where(self.hidden > -np.inf, np.exp(np.minimum(self.hidden - top[self.number], 600.0)), 0.0)
        error: Array = self.units(top) * self.error + hidden
        return error

    def totals(self, top: Array) -> tuple[Array, Array, Array]:
        """Integrals, their errors, and those of the density itself, in units of exp(top)."""
        weight, n = self.units(top), len(top)
        return tuple(  # type: ignore[return-value]
            np.bincount(self.number, part, minlength=n)
            for part in (weight * self.integral, self.errors(top), weight * self.inner)
        )


def integrate(log_f: LogDensity, n: int, edges: Array, tolerance: float, floor: Array) -> Panels:
    """Integrate n densities over (-1, 1), each to a relative error.

    Parameters
    ----------
    log_f : callable
    n : int
        Number of integrals.
    edges : array
        Ends of the first panels, from -1 to 1.
    tolerance : float
        Relative error at which an integral is done.
    floor : array of shape (n,)
        Logarithms of absolute errors that do not matter; -inf where every one does.
    """
    pool = _Pool()
    number = np.repeat(np.arange(n), len(edges) - 1)
    a, b = np.tile(edges[:-1], n), np.tile(edges[1:], n)
    top = np.full(n, -np.inf)
    stuck = np.zeros(n, bool)
    for _ in range(ROUNDS):
        _measure(pool, log_f, number, a, b, np.maximum(top, floor)[number])
        # Of the panels that there are: the one that had a larger value may have been halved, and its halves miss the place.
        top = np.full(n, -np.inf)
        np.maximum.at(top, pool.number, pool.peak)
        total, error, inner = pool.totals(top)
        # Halving panels does nothing about the error of the density itself.
        allowed = np.maximum(tolerance * total, _in_units(floor, top)) - inner
        count = np.bincount(pool.number, minlength=n)
        stuck |= ~(allowed > 0) & (inner > 0)
        splits = (error > allowed)[pool.number] & (pool.errors(top) > 0.5 * (allowed / count)[pool.number])
        splits = (splits | _uneven(pool, top, allowed)) & ~stuck[pool.number]
        middle = 0.5 * (pool.a + pool.b)
        stuck[pool.number[splits & ((middle <= pool.a) | (middle >= pool.b))]] = True
        stuck |= count + np.bincount(pool.number[splits], minlength=n) > MOST_PANELS
        splits &= ~stuck[pool.number]
        if not splits.any():
            break
        number = np.tile(pool.number[splits], 2)
        a, b = np.concatenate([pool.a[splits], middle[splits]]), np.concatenate([middle[splits], pool.b[splits]])
        pool.keep(~splits)
    return _finished(pool, top, tolerance, floor)


def _uneven(pool: _Pool, top: Array, allowed: Array) -> Array:
    """Panels beside one that is less than a third as wide, where the density at its end would matter if it went on.

    What made that one narrow may lie on both sides of the end, and be seen by no node on the other one.
    """
    uneven = np.zeros(len(pool.a), bool)
    order = np.lexsort((pool.a, pool.number))
    beside = pool.number[order[1:]] == pool.number[order[:-1]]
    left, right = order[:-1][beside], order[1:][beside]
    width = pool.b - pool.a
    for wide, narrow, edge in ((left, right, 0), (right, left, -1)):
        with np.errstate(all="ignore"):
            mass = np.exp(pool.logs[narrow, edge] - top[pool.number[narrow]]) * width[wide]
            uneven[wide] |= (width[wide] > 3 * width[narrow]) & (mass > allowed[pool.number[wide]])
    return uneven


def _in_units(floor: Array, top: Array) -> Array:
    """An error that does not matter, in units of exp(top)."""
    with np.errstate(invalid="ignore", under="ignore"):
        units: Array = np.where(floor > -np.inf, np.exp(np.minimum(floor - np.maximum(top, -1e300), 600.0)), 0.0)
    return units


def _measure(pool: _Pool, log_f: LogDensity, number: Array, a: Array, b: Array, floor: Array) -> None:
    """Evaluate panels, and put them into the pool."""
    half = 0.5 * (b - a)
    logs, inner = log_f(number, (a + half)[:, None] + half[:, None] * POINTS, floor)
    peak = logs.max(axis=1)
    unit = np.where(peak > -np.inf, peak, 0.0)[:, None]
    with np.errstate(all="ignore"):
        every = np.exp(logs - unit)
        f = every[:, 1:-1]
        size = np.abs(f @ TO_LEGENDRE.T)
        last, before = size[:, -3:].sum(axis=1), size[:, -9:-6].sum(axis=1)
        # Of a smooth density the coefficients fall by far more than those of a kink.
        falling = np.where(before > 0, np.minimum(1.0, SMOOTH * last / before), 1.0)
        beside = np.abs(every[:, [0, -1]] - f @ AT_ENDS.T).sum(axis=1)
        error = KINK * last * falling + GAP * beside + ROUNDING * (f @ WEIGHTS)
        blur = np.zeros(len(f)) if inner is None else np.exp(inner - unit)[:, 1:-1] @ WEIGHTS
        hidden = _hidden(logs, peak) + np.log(half)
    pool.add(
        number=number, a=a, b=b, logs=logs, peak=peak, integral=(f @ WEIGHTS) * half, error=error * half, inner=blur * half,
        hidden=hidden,
    )  # fmt: skip


def _hidden(logs: Array, peak: Array) -> Array:
    """The logarithm of what a peak between the points may hold, if log p is concave there, on (-1, 1)."""
    gaps = np.diff(POINTS)
    slope = np.diff(logs, axis=1) / gaps
    before, after, gap = slope[:, :-2], slope[:, 2:], gaps[1:-1]
    # Where the lines from either side meet, in the gap between.
    way = np.clip((logs[:, 2:-1] - after * gap - logs[:, 1:-2]) / (before - after), 0.0, gap)
    height = np.where((before > 0) & (after < 0), logs[:, 1:-2] + before * way, -np.inf)
    # And in the outermost gaps, where there is a line on one side alone.
    ends = np.stack([logs[:, 1] - slope[:, 1] * gaps[0], logs[:, -2] + slope[:, -2] * gaps[-1]], axis=1)
    rising = np.stack([slope[:, 1] < 0, slope[:, -2] > 0], axis=1)
    met = np.stack([slope[:, 0] >= slope[:, 1], slope[:, -1] <= slope[:, -2]], axis=1)
    heights = np.concatenate([height, np.where(rising & met, ends, -np.inf)], axis=1)
    width = np.concatenate([gap, gaps[[0, -1]]])
    mass = np.where(heights - peak[:, None] > HIDDEN, heights + np.log(width), -np.inf)
    found: Array = np.logaddexp.reduce(mass, axis=1)
    return found


def _finished(pool: _Pool, top: Array, tolerance: float, floor: Array) -> Panels:
    pool.keep(np.lexsort((pool.a, pool.number)))
    total, error, inner = pool.totals(top)
    weight, error = pool.units(top), error + inner
    first = np.searchsorted(pool.number, np.arange(len(top) + 1))
    with np.errstate(all="ignore"):
        log_integral = np.where(total > 0, top + np.log(total), np.where(np.isnan(total), np.nan, -np.inf))
        relative = np.where(total > 0, error / total, np.where(np.isnan(total), np.nan, 0.0))
        converged = (relative <= tolerance) | (error <= _in_units(floor, top))
        f = np.exp(pool.logs[:, 1:-1] - np.where(pool.peak > -np.inf, pool.peak, 0.0)[:, None])
        scale = np.where(total[pool.number] > 0, weight / total[pool.number], 0.0)
    return Panels(log_integral, relative, converged, first, pool.a, pool.b, (f @ TO_LEGENDRE.T) * scale[:, None])
