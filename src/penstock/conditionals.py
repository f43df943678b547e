"""The density of the columns of a flow that are left when others are known.

``p(rest | given) = p(rest, given) / p(given)``. With C the smallest closed set that holds the given columns (``restricted.py``)
and H what it holds besides them: p(given) is the density of C, integrated over H, which may be empty; draws are those of H,
by the inverse of its distribution function, and of the other columns as the flow maps fresh latents, those of C fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from penstock import _normal, _validate
from penstock._typing import Array, Rng, RowsLike
from penstock.columns import called, worded
from penstock.marginals import OneDimension, Proposed, at, below
from penstock.montecarlo import Importance, MonteCarlo
from penstock.quadrature import Panels
from penstock.sections import Evidence, Joint, Section, Weighted
from penstock.verbs import _shaped

TOGETHER = 4096  # draws together, each with its own panels along the second hidden column


class Conditional(OneDimension):
    """The other columns of a flow where some are known: what ``flow.conditional(given)`` gives.

    It is of the flow as it was when the view was made, and computes in float64.

    Attributes
    ----------
    method : {"exact", "quadrature", "importance"}
        How the density of what is given was found.
    given : dict
        Values by name or position of the column.
    log_evidence : float
        The log-density of what is given, ``log p(given)``.
    error : float
        Estimated error of ``log_evidence``, and so of every ``log_prob``: 0 if exact, at most the tolerance for quadrature, a
        standard error for importance sampling.
    ess, pareto_k : float
        Effective sample size and shape of the tail of importance weights, as in :func:`importance`; NaN without.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf_ar(2, layers=2, hidden=(8,), mixing="none", rng=0)
    >>> second = flow.conditional({0: 1.0})
    >>> second
    Conditional of column 1 given 0=1: exact
    >>> second.log_prob([[0.0]]).round(4)
    array([-0.9189])
    >>> second.sample(3, rng=0).shape, second.quantile(0.5).round(4)
    ((3, 1), array([0.]))
    """

    def __init__(
        self,
        flow: MonteCarlo,
        closed: tuple[MonteCarlo, Sequence[int]],
        given: Mapping[int, float],
        *,
        context: Array | None,
        tolerance: float,
        proposed: Proposed | None = None,
    ) -> None:
        self._flow, self._context, self._tolerance, self._proposed = flow, context, tolerance, proposed
        self._closed, self._members = closed[0], tuple(closed[1])  # the flow of C, and its columns
        self._known = dict(given)
        self._hidden = tuple(i for i in self._members if i not in self._known)
        self._rest = tuple(i for i in range(flow.dim) if i not in self._known)
        self.dim = len(self._rest)
        self._names = tuple(flow._columns[i] for i in self._rest) if flow._columns else ()
        self.method = "exact" if not self._hidden else "quadrature" if proposed is None else "importance"
        evidence = self._evidence()
        self.log_evidence, self.error, self.ess, self.pareto_k = (float(value) for value in evidence)
        if not np.isfinite(self.log_evidence):
            shown = ", ".join(f"{called(i, flow._columns)}: {value:g}" for i, value in self._known.items())
            raise ValueError(
                f"given must be values at which the flow has a density, got {{{shown}}}, where log p is {self.log_evidence:g}: "
                "outside a support, or too far out"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        state = self._flow, (self._closed, self._members), self._known, self._context, self._tolerance, self._proposed
        return _conditional, state

    def __repr__(self) -> str:
        names = self._flow._columns
        values = ", ".join(f"{names[i] if names else i}={value:g}" for i, value in self._known.items())
        how = self.method if self.method == "exact" else f"{self.method} over {worded(self._hidden, names)}"
        return f"Conditional of {worded(self._rest, names)} given {values}: {how}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of draws; densities are float64."""
        return self._flow.dtype

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns that are left, or None."""
        return self._names or None

    @property
    def given(self) -> dict[str | int, float]:
        """What is known, by name if the columns have one."""
        names = self._flow._columns
        return {names[i] if names else i: value for i, value in self._known.items()}

    @property
    def importance(self) -> Importance:
        """Draws of the proposal for the hidden columns, weighted by ``p(given, hidden) / q(hidden)``: as of :func:`importance`.

        Raises
        ------
        ValueError
            Without a proposal.
        """
        if self._proposed is None:
            raise ValueError(f"there are no weights: the method is {self.method!r}")
        weights = self._weighted().log_weights(self._values(self._members))
        return Importance(self._proposed[0], weights, self.log_evidence, self.error, self.ess, self.pareto_k)

    def log_prob(self, X: RowsLike) -> Any:
        """The log-density of rows of the columns that are left, given the others: ``log p(x, given) - log p(given)``.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim), or a table

        Returns
        -------
        float64 scalar or array of one number a row
            NaN for a row that holds NaN, -inf for one outside a support. :attr:`error` is that of each.
        """
        rows, shape = self._rows(X, "X")
        return _shaped(self._joint.log_prob(self._full(rows)) - self.log_evidence, shape)

    def sample(
        self, n: float | tuple[int, ...] | None = None, *, rng: Rng = None, key: int | None = None, first: int = 0
    ) -> Array:
        """Draw rows of the columns that are left, given the others.

        Parameters
        ----------
        n, rng, key, first
            As for ``Flow.sample``: with one seed, draw ``i`` is the same however many are drawn.

        Returns
        -------
        array in the dtype of the flow
            Exact, where the method is; else up to the tolerance of the quadrature.

        Raises
        ------
        ValueError
            Where the method is importance sampling, which has weighted draws alone.
        """
        if self.method == "importance":
            raise ValueError(
                "importance sampling gives no draws but weighted ones: conditional.importance has those of the hidden "
                f"{worded(self._hidden, self._flow._columns)} and their log_weights"
            )
        wanted = _validate.draws(n, name="n")
        count = int(np.prod(wanted, dtype=np.int64))
        seed = _validate.key(rng, key)
        start = _validate.number_of_first(first, count, 1 << 56, name="first")
        return self._draws(count, seed, start).reshape(*wanted, self.dim)

    def sample_and_log_prob(
        self, n: float | tuple[int, ...] | None = None, *, rng: Rng = None, key: int | None = None, first: int = 0
    ) -> tuple[Array, Any]:
        """Draw rows, with their log-density."""
        x = self.sample(n, rng=rng, key=key, first=first)
        return x, self.log_prob(x)

    # --- inside -------------------------------------------------------------------------------------------------

    @cached_property
    def _joint(self) -> Joint:
        return Joint(self._flow, self._context)

    @cached_property
    def _section(self) -> Section:
        """Integrals of the flow of C over the hidden columns."""
        joint = Joint(self._closed, self._context)
        return Section(joint, *self._positions(), self._tolerance)

    @cached_property
    def _panels(self) -> Panels:
        """The density along the first hidden column, any second one integrated out."""
        return self._section.panels(self._values(self._members)[None])

    def _positions(self) -> tuple[list[int], list[int]]:
        """The known and the hidden columns, as columns of the flow of C."""
        known = [place for place, column in enumerate(self._members) if column in self._known]
        return known, [place for place, column in enumerate(self._members) if column not in self._known]

    def _values(self, columns: Sequence[int]) -> Array:
        """What is given, in the order of some columns."""
        return np.array([self._known[i] for i in columns if i in self._known], np.float64)

    def _weighted(self) -> Weighted:
        assert self._proposed is not None
        return Weighted(Joint(self._closed, self._context), *self._positions(), *self._proposed)

    def _evidence(self) -> Sequence[float]:
        """The log-density of what is given, its error, and what weights tell."""
        row = self._values(self._members)[None]
        if not self._hidden:
            return float(Joint(self._closed, self._context).log_prob(row)[0]), 0.0, np.nan, np.nan
        integrals = self._section if self._proposed is None else self._weighted()
        evidence: Evidence = integrals.evidence(row)
        return [float(values[0]) for values in evidence]

    def _full(self, rows: Array) -> Array:
        """Rows of all columns."""
        full = np.zeros((len(rows), self._flow.dim))
        full[:, list(self._rest)] = rows
        for i, value in self._known.items():
            full[:, i] = value
        return full

    def _draws(self, n: int, key: int, first: int) -> Array:
        """Draws of the columns that are left, (n, dim)."""
        joint, slots = self._joint, self._joint.slots()
        x = joint.draws(n, key, first)
        z, _ = joint.runner.transform(joint.packed, False, x)
        for i, value in self._known.items():
            x[:, i] = value
        if self._hidden:
            w = self._hidden_draws(_normal.cdf(z)[:, [slots[i] for i in self._hidden]])
            for j, i in enumerate(self._hidden):
                x[:, i] = self._section.lines[j].x(w[:, j])[0]
        # The latents of C follow from its columns, whatever the others are.
        own, _ = joint.runner.transform(joint.packed, False, x)
        members = [slots[i] for i in self._members]
        z[:, members] = own[:, members]
        runner = self._flow._runner()
        packed = self._flow._snapshot.pack(runner)
        rows, _ = runner.transform(packed, True, z, self._context)
        return np.take(rows, self._rest, axis=1)

    def _hidden_draws(self, shares: Array) -> Array:
        """Places w of the hidden columns for uniform numbers, (n, hidden): each given those before it."""
        panels = self._panels
        w = np.zeros(shares.shape)
        w[:, 0] = _open(panels.quantile(np.zeros(len(shares), np.int64), shares[:, 0]))
        if shares.shape[1] == 1:
            return w
        x = self._section.lines[0].x(w[:, 0])[0]
        known = self._values(self._members)
        for start in range(0, len(w), TOGETHER):
            part = slice(start, start + TOGETHER)
            rows = np.concatenate([np.tile(known, (len(x[part]), 1)), x[part, None]], axis=1)
            along = self._section.panels(rows, skip=1)
            w[part, 1] = _open(along.quantile(np.arange(len(rows)), shares[part, 1]))
        return w

    def _latent(self, rows: Array) -> Array:
        """The latent of the one column that is left, in an exact conditional."""
        joint = self._joint
        z: Array = joint.runner.transform(joint.packed, False, self._full(rows))[0]
        return z[:, joint.slots()[self._rest[0]]]

    def _below(self, x: Array) -> Array:
        if self.method == "exact":
            column = self._rest[0]
            line = self._joint.line(column)
            share = (x >= line.hi).astype(np.float64)
            inside = (x > line.lo) & (x < line.hi)
            share[inside] = _normal.cdf(self._latent(x[inside, None])[:, None])[:, 0]
            return share
        self._need_panels()
        return below(self._panels, self._section.lines[0], x)

    def _at(self, u: Array) -> Array:
        if self.method != "exact":
            self._need_panels()
            return at(self._panels, self._section.lines[0], u)
        joint, column = self._joint, self._rest[0]
        # The latents of what is given are those of any row that has it.
        z = np.repeat(joint.runner.transform(joint.packed, False, self._anywhere())[0], len(u), axis=0)
        z[:, joint.slots()[column]] = _normal.quantile(u)
        x: Array = joint.runner.transform(joint.packed, True, z)[0][:, column]
        line = joint.line(column)
        return np.where(u == 0, line.lo, np.where(u == 1, line.hi, x))

    def _anywhere(self) -> Array:
        """A row with what is given."""
        row = self._joint.draws(1, 0)
        for i, value in self._known.items():
            row[:, i] = value
        return row

    def _need_panels(self) -> None:
        if self.method == "importance":
            raise ValueError(
                "probabilities and quantiles need an exact density or quadrature; this is importance sampling"
            )


def _open(w: Array) -> Array:
    """Places strictly inside (-1, 1)."""
    return np.clip(w, np.nextafter(-1, 0), np.nextafter(1, 0))


def _conditional(
    flow: MonteCarlo,
    closed: tuple[MonteCarlo, Sequence[int]],
    given: Mapping[int, float],
    context: Array | None,
    tolerance: float,
    proposed: Proposed | None,
) -> Conditional:
    """A view from its pickle."""
    return Conditional(flow, closed, given, context=context, tolerance=tolerance, proposed=proposed)
