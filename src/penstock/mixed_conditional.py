"""The density of the columns of an ensemble that are left when others are known: that of each member, by what it says of these.

``p(rest | given) = sum_k v_k p_k(rest | given)`` with ``v_k = w_k p_k(given) / sum_l w_l p_l(given)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array, Rng, RowsLike
from penstock.conditionals import Conditional
from penstock.marginals import OneDimension
from penstock.mixture import chances
from penstock.montecarlo import Importance
from penstock.quantiles import bisected
from penstock.verbs import _shaped
from penstock.weights import summary

METHODS = ("exact", "quadrature", "importance")


class MixedConditional(OneDimension):
    """The other columns of an ensemble where some are known: what ``ensemble.conditional(given)`` gives.

    It is of the ensemble as it was when the view was made, and computes in float64.

    Attributes
    ----------
    members : tuple of Conditional
        Those of the members that have a weight.
    weights : float64 array of shape (members,)
        What the members count here: their weights times their densities of what is given.
    method : {"exact", "quadrature", "importance"}
        How the density of what is given was found: the last of these that a member has needed.
    given : dict
        Values by name or position of the column.
    log_evidence : float
        The log-density of what is given, ``log sum_k w_k p_k(given)``.
    error : float
        Estimated error of ``log_evidence``: the mean of those of the members, by their weights.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf_ar(2, layers=2, hidden=(8,), mixing="none", rng=0)
    >>> second = ps.Ensemble(flow, 3, rng=0).conditional({0: 1.0})
    >>> second.log_prob([[0.0]]).round(4)
    array([-0.9189])
    >>> second.sample(3, rng=0).shape, second.weights.round(3).tolist()
    ((3, 1), [0.333, 0.333, 0.333])
    """

    def __init__(self, members: Sequence[Conditional], weights: Array) -> None:
        self.members = tuple(members)
        terms = np.log(weights) + [own.log_evidence for own in members]
        self.log_evidence = float(np.logaddexp.reduce(terms))
        self.weights = np.exp(terms - self.log_evidence)
        self.weights /= self.weights.sum()
        self.error = float(self.weights @ [own.error for own in members])
        self.dim, self._names = members[0].dim, members[0]._names
        self.given, self._steps = members[0].given, members[0]._steps
        self.method = max((own.method for own in members), key=METHODS.index)
        self._prior = weights

    def __reduce__(self) -> tuple[Any, ...]:
        return MixedConditional, (self.members, self._prior)

    def __repr__(self) -> str:
        return f"{self.members[0]!r}, of {len(self.members)} members"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of draws; densities are float64."""
        return self.members[0].dtype

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns that are left, or None."""
        return self._names or None

    @cached_property
    def importance(self) -> Importance:
        """Draws of the proposal for the hidden columns, weighted by the density of the mixture, as ``Conditional.importance``.

        Their weights are ``sum_k w_k p_k(given, hidden) / q(hidden)``, of draws that all members share.

        Raises
        ------
        ValueError
            Without a proposal, and where members differ in which columns are hidden, and so have draws of their own.
        """
        weighted = [own for own in self.members if own.method == "importance"]
        if not weighted:
            raise ValueError(f"there are no weights: the method is {self.method!r}")
        each = [own.importance for own in weighted]
        if len(each) < len(self.members) or any(own._hidden != weighted[0]._hidden for own in weighted):
            raise ValueError(
                "members hide columns of their own here, and have no draws in common: those of conditional.members have theirs"
            )
        terms = np.stack([own.log_weights for own in each]) + np.log(self._prior)[:, None]
        log_weights = np.logaddexp.reduce(terms, axis=0)
        return Importance(each[0].samples, log_weights, *summary(log_weights))

    @property
    def ess(self) -> float:
        """Effective sample size of the importance weights; where members have draws of their own, the least; NaN without."""
        return self._told[0]

    @property
    def pareto_k(self) -> float:
        """Shape of the tail of the importance weights; where members have draws of their own, the greatest; NaN without."""
        return self._told[1]

    @cached_property
    def _told(self) -> tuple[float, float]:
        if self.method != "importance":
            return math.nan, math.nan
        try:
            return self.importance.ess, self.importance.pareto_k
        except ValueError:
            weighted = [own for own in self.members if own.method == "importance"]
            return min(own.ess for own in weighted), max(own.pareto_k for own in weighted)

    def log_prob(self, X: RowsLike) -> Any:
        """The log-density of rows of the columns that are left, given the others, as :meth:`Conditional.log_prob`."""
        rows, shape = self._rows(X, "X")
        with np.errstate(all="ignore"):
            terms = np.stack([own.log_prob(rows) for own in self.members]) + np.log(self.weights)[:, None]
            return _shaped(np.logaddexp.reduce(terms, axis=0), shape)

    def sample(
        self,
        n: float | tuple[int, ...] | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        first: int = 0,
        raw: bool = False,
    ) -> Array:
        """Draw rows of the columns that are left, given the others, as :meth:`Conditional.sample`: each is that of a member."""
        for own in self.members:
            own._need_draws()
        wanted = _validate.draws(n, name="n")
        count = int(np.prod(wanted, dtype=np.int64))
        seed = _validate.key(rng, key)
        start = _validate.number_of_first(first, count, 1 << 56, name="first")
        ends = np.cumsum(self.weights)
        ends[-1] = 1.0
        chosen = np.searchsorted(ends, chances(seed, start, count), side="right")
        x = np.zeros((count, self.dim), self.dtype)
        for k, own in enumerate(self.members):
            mine = chosen == k
            if mine.any():
                x[mine] = own.sample(count, key=seed, first=start, raw=raw)[mine]
        return x.reshape(*wanted, self.dim)

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

    def _below(self, x: Array) -> Array:
        total: Array = self.weights @ np.stack([own._below(x) for own in self.members])
        return total

    def _at(self, u: Array) -> Array:
        ends = np.stack([own._at(u) for own in self.members])
        return bisected(self._below, ends.min(axis=0), ends.max(axis=0), u)
