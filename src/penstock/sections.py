"""The density of a flow along one or two of its columns, the others known: integrals by quadrature or by importance sampling.

Everything is computed in float64. A column is integrated in the coordinate u of its bijection and standardisation, in which
no support has an end, and there over w in (-1, 1), u = centre + width w / (1 - w^2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock._warn import TargetWarning, warn
from penstock.plan_table import COLUMN_KINDS, read
from penstock.quadrature import Panels, integrate
from penstock.restricted import ends
from penstock.runner import Runner
from penstock.support import Interval
from penstock.weights import RELIABLE, summary

DRAWS = 4096  # which tell where a column lies
PANELS = np.array([0.001, 0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98, 0.999])  # quantiles between which the first panels lie
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
    """

    def __init__(self, flow: Any, context: Array | None) -> None:
        self.flow, self.dim = flow, flow.dim
        self.runner, packed = flow._in_double()
        self.packed = packed if context is None else self.runner.with_context(packed, context)
        self._spec = replace(flow._spec, dtype="float64")
        self._buffers = flow._snapshot

    def log_prob(self, x: Array) -> Array:
        """The log-density of rows, (rows, dim)."""
        parts = [self.runner.log_prob(self.packed, x[i : i + ROWS]) for i in range(0, len(x), ROWS)]
        return np.concatenate(parts) if parts else np.zeros(0)

    def draws(self, n: int, key: int, first: int = 0) -> Array:
        """Draws, (n, dim)."""
        x: Array = self.runner.sample(self.packed, n, key, numbers=(first, 0))[0]
        return x

    def line(self, column: int) -> Line:
        """The coordinates of a column, which has to lie on a line or a part of it."""
        kind = COLUMN_KINDS[read(self.runner.plan.table).columns[column]["kind"]]
        if kind != "line":
            raise ValueError(f"integrals and probabilities along a column that lies on a {kind} are to come")
        support = self._spec.support[column] if self._spec.support else None
        limits = support.ends if isinstance(support, Interval) else (-np.inf, np.inf)
        _, plan, snapshot = ends(self._spec, self.runner.plan, self._buffers, [column])
        runner = Runner(plan, self.flow._backend)
        return Line(runner, runner.pack(snapshot.params, snapshot.buffers), limits)

    def slots(self) -> list[int]:
        """The place of each column on the latent side."""
        return list(read(self.runner.plan.table).boundary[-1])


class Line:
    """Coordinates of a column: x of the data, u on the line, w in (-1, 1).

    Attributes
    ----------
    lo, hi : float
        Ends of the support.
    """

    def __init__(self, runner: Runner, packed: Any, limits: tuple[float, float]) -> None:
        self._runner, self._packed = runner, packed
        self.lo, self.hi = limits
        self._centre, self._width = 0.0, 1.0

    def settle(self, x: Array) -> Array:
        """Choose w by draws of the column, and return ends of panels, from -1 to 1."""
        u = self._to_latent(x)
        low, self._centre, high = (float(q) for q in np.quantile(u, [0.16, 0.5, 0.84]))
        self._width = max(high - low, np.finfo(np.float64).tiny)
        w = np.unique(self._w(np.quantile(u, PANELS)))
        return np.concatenate([[-1.0], w[(w > -1) & (w < 1)], [1.0]])

    def _to_latent(self, x: Array) -> Array:
        u: Array = self._runner.transform(self._packed, False, x.reshape(-1, 1))[0][:, 0]
        return u

    def _w(self, u: Array) -> Array:
        # The root of t w^2 + w - t = 0 without cancellation.
        t = (u - self._centre) / self._width
        w: Array = 2 * t / (1 + np.sqrt(1 + 4 * t * t))
        return w

    def w(self, x: Array) -> Array:
        """The coordinate of numbers inside the support."""
        return self._w(self._to_latent(x))

    def u(self, w: Array) -> Array:
        """The coordinate on the line; infinite at -1 and 1."""
        with np.errstate(divide="ignore"):
            u: Array = self._centre + self._width * w / ((1 - w) * (1 + w))
        return u

    def x(self, w: Array) -> tuple[Array, Array]:
        """Numbers of the data, and ``log |dx/dw|``, of the shape of w."""
        x, log_det = self._runner.transform(self._packed, True, self.u(w).reshape(-1, 1))
        slope = np.log(self._width) + np.log1p(w * w) - 2 * np.log((1 - w) * (1 + w))
        return x.reshape(w.shape), log_det.reshape(w.shape) + slope


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
        self.lines = [joint.line(column) for column in hidden]
        draws = joint.draws(DRAWS, 0)
        self._edges = [line.settle(draws[:, column]) for line, column in zip(self.lines, hidden, strict=True)]

    def evidence(self, rows: Array) -> Evidence:
        """The density of the known columns, (rows, known), the hidden ones integrated out."""
        values, errors = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        asked = np.flatnonzero(~np.isnan(rows).any(axis=1))
        size = TOGETHER[len(self._hidden) - 1]
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            panels = self.panels(rows[part])
            values[part], errors[part] = panels.log_integral, panels.error
        none = np.full(len(rows), np.nan)
        return Evidence(values, errors, none, none)

    def panels(self, rows: Array, *, skip: int = 0) -> Panels:
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
        return found

    def _integrand(self, rows: Array, place: int, tolerance: float) -> Any:
        """What is integrated along the hidden column number ``place``, those before it known."""
        line, column, known = self.lines[place], self._hidden[place], self._known + self._hidden[:place]

        def log_f(number: Array, w: Array, floor: Array) -> tuple[Array, Array | None]:
            x, slope = line.x(w)
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
            self._check(found, inner)
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
