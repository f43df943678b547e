"""The density of a flow along one or two of its columns, the others known: integrals by quadrature or by importance sampling.

Everything is computed in float64, along the coordinate w in (-1, 1) of ``coordinates.py``. The ends of a column of a group are
moved by what is known of the group, and of two columns the second one is integrated between ends that the first one moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock import latent
from penstock._typing import Array
from penstock._warn import TargetWarning, warn
from penstock.coordinates import Line
from penstock.plan_table import read
from penstock.quadrature import Panels, integrate
from penstock.support import Real
from penstock.weights import RELIABLE, summary

DRAWS = 4096  # which tell where a column lies
ROWS = 1 << 16  # evaluated together
TOGETHER = (1024, 16)  # integrals together, over one and over two columns
INNER = 0.25  # tolerance of the inner integrals, of that of the outer ones
TOLERANCES = (1e-4, 1e-3)  # over one and over two columns, which take about 1e3 and 1e6 evaluations a row
UNIMPORTANT = 5.0  # nats below the largest value of the outer density, where an inner error counts no more


class Evidence(NamedTuple):
    """Log-densities of rows with the error of each.

    Attributes
    ----------
    log_prob : float64 scalar or array of one for each row
    error : the same
        Estimated error of ``log_prob``: at most the tolerance for quadrature, a standard error for importance sampling.
    ess, pareto_k : the same
        Effective sample size of the weights and the shape of their tail, as in :func:`importance`; NaN without weights.
    """

    log_prob: Any
    error: Any
    ess: Any
    pareto_k: Any


class Joint:
    """The density of all columns of a flow as it is now, in float64, at one context if it has one.

    Attributes
    ----------
    dim : int
    flow : Flow
    side : latent.Side
        The distribution of the latents.
    """

    def __init__(self, flow: Any, context: Array | None) -> None:
        self.flow, self.dim = flow, flow.dim
        self.runner, packed = flow._in_double()
        self.packed = packed if context is None else self.runner.with_context(packed, context)
        self.side = latent.side(flow._spec, flow._plan, flow._snapshot, flow._backend, context)

    def log_prob(self, x: Array) -> Array:
        """The log-density of rows, (rows, dim)."""
        parts = [self.runner.log_prob(self.packed, x[i : i + ROWS]) for i in range(0, len(x), ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def draws(self, n: int, key: int, first: int = 0) -> Array:
        """Draws, (n, dim)."""
        x: Array = self.runner.sample(self.packed, n, key, numbers=(first, 0))[0]
        return x

    def line(self, column: int, known: Sequence[int]) -> Line:
        """The coordinates of a column where others are known."""
        support = self.flow._spec.support
        return Line(support[column] if support else Real(), column, known)

    def slots(self) -> list[int]:
        """The place of each column on the latent side."""
        return list(read(self.runner.plan.table).boundary[-1])


class Along(NamedTuple):
    """Densities along a column, each at values of the known ones, and between ends that follow from these.

    Attributes
    ----------
    panels : Panels
    line : Line
    ends : two arrays of shape (n,)
    """

    panels: Panels
    line: Line
    ends: tuple[Array, Array]

    def below(self, number: Array, x: Array) -> Array:
        """The share of the mass below ``x`` (m,) of the densities ``number`` (m,)."""
        lo, hi = (end[number] for end in self.ends)
        share = (x >= hi).astype(np.float64)
        inside = (x > lo) & (x < hi)
        w = self.line.w(x[inside], lo[inside], hi[inside])
        share[inside] = self.panels.cdf(number[inside], np.clip(w, -1.0, 1.0))
        return share

    def at(self, number: Array, u: Array) -> Array:
        """The numbers below which shares ``u`` (m,) of the densities ``number`` (m,) lie; the ends for 0 and 1."""
        lo, hi = (end[number] for end in self.ends)
        w = np.clip(self.panels.quantile(number, u), np.nextafter(-1, 0), np.nextafter(1, 0))
        return np.where(u == 0, lo, np.where(u == 1, hi, self.line.x(w, lo, hi)[0]))


class Section:
    """Integrals of a joint density over one or two hidden columns, at rows of the known ones.

    Parameters
    ----------
    joint : Joint
    known, hidden : sequences of int
        Columns; together all, each once.
    tolerance : float
        Relative error of an integral.
    """

    def __init__(self, joint: Joint, known: Sequence[int], hidden: Sequence[int], tolerance: float) -> None:
        self._joint, self._known, self._hidden = joint, list(known), list(hidden)
        self._tolerance = tolerance
        before = [[*known, *hidden[:place]] for place in range(len(hidden))]
        self._lines = [joint.line(column, some) for column, some in zip(hidden, before, strict=True)]
        draws = joint.draws(DRAWS, 0)
        self._edges = [
            line.settle(draws[:, column], draws[:, some])
            for line, column, some in zip(self._lines, hidden, before, strict=True)
        ]

    def evidence(self, rows: Array) -> Evidence:
        """The density of the known columns, (rows, known), the hidden ones integrated out."""
        values, errors = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        asked = np.flatnonzero(~np.isnan(rows).any(axis=1))
        size = TOGETHER[len(self._hidden) - 1]
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            panels = self.along(rows[part]).panels
            values[part], errors[part] = panels.log_integral, panels.error
        none = np.full(len(rows), np.nan)
        return Evidence(values, errors, none, none)

    def along(self, rows: Array, *, skip: int = 0) -> Along:
        """The density along the first hidden column at each row of the known ones, or along a later one at those before, too.

        Raises
        ------
        RuntimeError
            Where the quadrature does not converge.
        """
        floor = np.full(len(rows), -np.inf)
        found = integrate(
            self._integrand(rows, skip, self._tolerance), len(rows), self._edges[skip], self._tolerance, floor,
        )  # fmt: skip
        self._check(found, self._tolerance)
        return Along(found, self._lines[skip], self._lines[skip].ends(rows))

    def _integrand(self, rows: Array, place: int, tolerance: float) -> Any:
        """What is integrated along the hidden column number ``place``, those before it known."""
        line, column, known = self._lines[place], self._hidden[place], self._known + self._hidden[:place]
        ends = line.ends(rows)

        def log_f(number: Array, w: Array, floor: Array) -> tuple[Array, Array | None]:
            x, slope = line.x(w, *(end[number][:, None] for end in ends))
            full = np.zeros((w.size, self._joint.dim))
            full[:, known] = np.repeat(rows[number], w.shape[1], axis=0)
            full[:, column] = x.ravel()
            if place == len(self._hidden) - 1:
                return _plus(self._joint.log_prob(full).reshape(w.shape), slope), None
            inner = INNER * tolerance
            negligible = np.repeat(floor, w.shape[1]) - slope.ravel() - UNIMPORTANT + np.log(inner)
            found = integrate(
                self._integrand(full[:, [*known, column]], place + 1, inner), len(full), self._edges[place + 1], inner,
                negligible,
            )  # fmt: skip
            # Where they are too large, the outer integral does not converge.
            with np.errstate(divide="ignore"):
                errors = found.log_integral + np.log(found.error)
            return _plus(found.log_integral.reshape(w.shape), slope), _plus(errors.reshape(w.shape), slope)

        return log_f

    def _check(self, found: Panels, tolerance: float) -> None:
        if found.converged.all():
            return
        worst = float(np.nan_to_num(found.error[~found.converged], nan=np.inf).max())
        raise RuntimeError(
            f"the quadrature over {len(self._hidden)} column{'s'[: len(self._hidden) > 1]} did not converge for "
            f"{int((~found.converged).sum())} of {len(found.converged)} integrals: relative error {worst:.1g}, tolerance "
            f"{tolerance:.1g}. A larger tolerance=, or proposal= (importance sampling), may do"
        )


def _plus(logs: Array, slope: Array) -> Array:
    """The sum, -inf where the density is 0 whatever the slope, which may overflow there."""
    with np.errstate(invalid="ignore"):
        return np.where(logs == -np.inf, -np.inf, logs + slope)


class Weighted:
    """The same integrals by draws of a proposal for the hidden columns, with ``w = p(known, y) / q(y)``.

    Parameters
    ----------
    joint : Joint
    known, hidden : sequences of int
    draws : float64 array of shape (n, hidden)
    log_q : float64 array of shape (n,)
    """

    def __init__(self, joint: Joint, known: Sequence[int], hidden: Sequence[int], draws: Array, log_q: Array) -> None:
        self._joint, self._known, self._hidden = joint, list(known), list(hidden)
        self._draws, self._log_q = draws, log_q

    def log_weights(self, row: Array) -> Array:
        """The logarithms of the weights of the draws at one row of the known columns."""
        full = np.zeros((len(self._draws), self._joint.dim))
        full[:, self._known], full[:, self._hidden] = row, self._draws
        log_p = self._joint.log_prob(full)
        return np.where(log_p == -np.inf, -np.inf, log_p - self._log_q)

    def evidence(self, rows: Array) -> Evidence:
        """The density of the known columns, (rows, known), as the mean weight; a warning where it is not to be trusted."""
        told = np.full((4, len(rows)), np.nan)
        for i, row in enumerate(rows):
            if not np.isnan(row).any():
                told[:, i] = summary(self.log_weights(row))
        log_prob, error, ess, pareto_k = told
        heavy = int((pareto_k > RELIABLE).sum())
        if heavy:
            warn(
                f"the importance weights have a heavy tail for {heavy} of {len(rows)} rows, pareto_k up to "
                f"{np.nanmax(pareto_k):.2f} (reliable up to {RELIABLE}): the proposal is narrower than the hidden columns given "
                "the others, and value and error are not to be trusted",
                TargetWarning,
            )
        return Evidence(log_prob, error, ess, pareto_k)
