"""The density of the columns of a flow that are left when others are known.

``p(rest | given) = p(rest, given) / p(given)``. With C the smallest closed set that holds the given columns (``restricted.py``)
and H what it holds besides them: p(given) is the density of C, integrated over H, which may be empty; draws are those of H,
by the inverse of its distribution function, and of the other columns as the flow maps fresh latents, those of C fixed. The
latents are independent, but for those of a mixture: there they are drawn given the ones of C, which weigh the components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from penstock import _validate, latent
from penstock._typing import Array, Rng, RowsLike
from penstock.columns import called, worded
from penstock.marginals import OneDimension, Proposed
from penstock.montecarlo import Importance, MonteCarlo
from penstock.sections import Along, Evidence, Joint, Section, Weighted
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
        self._steps = None if flow._lattice is None else flow._lattice.of(self._rest)
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
        self,
        n: float | tuple[int, ...] | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        first: int = 0,
        raw: bool = False,
    ) -> Array:
        """Draw rows of the columns that are left, given the others.

        Parameters
        ----------
        n, rng, key, first, raw
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
        self._need_draws()
        wanted = _validate.draws(n, name="n")
        count = int(np.prod(wanted, dtype=np.int64))
        seed = _validate.key(rng, key)
        start = _validate.number_of_first(first, count, 1 << 56, name="first")
        rows = self._draws(count, seed, start)
        if self._flow._lattice is not None and not raw:
            self._flow._lattice.round(rows)
        return np.take(rows, self._rest, axis=1).reshape(*wanted, self.dim)

    def sample_and_log_prob(
        self,
        n: float | tuple[int, ...] | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        first: int = 0,
        raw: bool = False,
    ) -> tuple[Array, Any]:
        """Draw rows, with their log-density."""
        x = self.sample(n, rng=rng, key=key, first=first, raw=raw)
        return x, self.log_prob(x)

    # --- inside -------------------------------------------------------------------------------------------------

    @cached_property
    def _joint(self) -> Joint:
        return Joint(self._flow, self._context)

    @cached_property
    def _inner(self) -> Joint:
        """The density of C."""
        return Joint(self._closed, self._context)

    @cached_property
    def _section(self) -> Section:
        """Integrals of it over the hidden columns."""
        return Section(self._inner, *self._positions(), self._tolerance)

    @cached_property
    def _along(self) -> Along:
        """The density along the first hidden column, any second one integrated out."""
        return self._section.along(self._values(self._members)[None])

    def _positions(self) -> tuple[list[int], list[int]]:
        """The known and the hidden columns, as columns of the flow of C."""
        known = [place for place, column in enumerate(self._members) if column in self._known]
        return known, [place for place, column in enumerate(self._members) if column not in self._known]

    def _values(self, columns: Sequence[int]) -> Array:
        """What is given, in the order of some columns."""
        return np.array([self._known[i] for i in columns if i in self._known], np.float64)

    def _weighted(self) -> Weighted:
        assert self._proposed is not None
        return Weighted(self._inner, *self._positions(), *self._proposed)

    def _evidence(self) -> Sequence[float]:
        """The log-density of what is given, its error, and what weights tell."""
        row = self._values(self._members)[None]
        if not self._hidden:
            return float(self._inner.log_prob(row)[0]), 0.0, np.nan, np.nan
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
        """Draws of all columns where some are known, (n, columns of the flow)."""
        joint, slots = self._joint, self._joint.slots()
        z, _ = joint.runner.transform(joint.packed, False, joint.draws(n, key, first))
        members = [slots[i] for i in self._members]
        x = np.zeros((n, len(members)))
        for place, i in enumerate(self._members):
            x[:, place] = self._known.get(i, 0.0)
        if self._hidden:
            shares = latent.cdf(joint.side, z, given=members)
            self._put_hidden(x, shares[:, [slots[i] for i in self._hidden]])
        z = latent.redrawn(joint.side, z, self._latents_of(x), members)
        runner = self._flow._runner()
        packed = self._flow._snapshot.pack(runner)
        rows: Array = runner.transform(packed, True, z, self._context)[0]
        return rows

    def _put_hidden(self, x: Array, shares: Array) -> None:
        """Put the hidden columns for uniform numbers, (n, hidden), into rows of C: each given those before it."""
        shares = np.clip(shares, latent.SMALLEST, 1 - latent.SMALLEST)
        known, hidden = self._positions()
        x[:, hidden[0]] = self._along.at(np.zeros(len(x), np.int64), shares[:, 0])
        for start in range(0, len(x), TOGETHER) if len(hidden) > 1 else ():
            part = slice(start, start + TOGETHER)
            along = self._section.along(x[part][:, [*known, hidden[0]]], skip=1)
            x[part, hidden[1]] = along.at(np.arange(len(x[part])), shares[part, 1])

    def _latents_of(self, x: Array) -> Array:
        """The latents of C, which follow from its columns, (rows, C), in the places that they have among those of all."""
        inner, slots = self._inner, self._joint.slots()
        own, _ = inner.runner.transform(inner.packed, False, x)
        z = np.zeros((len(x), self._flow.dim))
        z[:, [slots[i] for i in self._members]] = own[:, inner.slots()]
        return z

    # --- one column ---------------------------------------------------------------------------------------------

    def _ends(self) -> tuple[float, float]:
        """Those of the one column that is left, given the others."""
        known = list(self._known)
        lo, hi = self._joint.line(self._rest[0], known).ends(self._values(known)[None])
        return float(lo[0]), float(hi[0])

    def _latents(self, rows: Array) -> Array:
        z: Array = self._joint.runner.transform(self._joint.packed, False, self._full(rows))[0]
        return z

    def _seam(self) -> float | None:
        """On a circle, the latent of its lower end; else None."""
        column = self._rest[0]
        if self._flow._spec.kinds[column] != "circle":
            return None
        z = self._latents(np.array([[self._ends()[0]]]))
        return float(z[0, self._joint.slots()[column]])

    def _below(self, x: Array) -> Array:
        self._need_shares()
        if self.method != "exact":
            return self._along.below(np.zeros(len(x), np.int64), x)
        (lo, hi), seam, slots = self._ends(), self._seam(), self._joint.slots()
        share = (x >= hi).astype(np.float64)
        inside = (x > lo) & (x < hi)
        z, slot = self._latents(x[inside, None]), slots[self._rest[0]]
        if seam is not None:
            share[inside] = latent.turn(z[:, slot], np.array(seam))
        else:
            given = [slots[i] for i in self._members]
            share[inside] = latent.cdf(self._joint.side, z, given=given, upper=not self._flow._rises())[:, slot]
        return share

    def _at(self, u: Array) -> Array:
        self._need_shares()
        if self.method != "exact":
            return self._along.at(np.zeros(len(u), np.int64), u)
        joint, column, seam, (lo, hi) = self._joint, self._rest[0], self._seam(), self._ends()
        slots = joint.slots()
        z = np.repeat(self._latents_of(self._values(self._members)[None]), len(u), axis=0)
        if seam is not None:
            z[:, slots[column]] = latent.turned(u, np.array(seam))
        else:
            shares, given = np.repeat(u[:, None], self._flow.dim, axis=1), [slots[i] for i in self._members]
            z = latent.quantile(joint.side, shares, z=z, given=given, upper=not self._flow._rises())
        x: Array = joint.runner.transform(joint.packed, True, z)[0][:, column]
        return np.where(u == 0, lo, np.where(u == 1, hi, x))

    def _need_draws(self) -> None:
        if self.method == "importance":
            raise ValueError(
                "importance sampling gives no draws but weighted ones: conditional.importance has those of the hidden "
                f"{worded(self._hidden, self._flow._columns)} and their log_weights"
            )

    def _need_shares(self) -> None:
        if self.method == "importance":
            raise ValueError(
                "probabilities and quantiles need an exact density or quadrature; this is importance sampling"
            )


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
