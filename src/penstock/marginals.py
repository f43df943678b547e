"""The density of some columns of a flow, the others integrated out by quadrature or by importance sampling; and one dimension."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.columns import worded
from penstock.lattice import Lattice
from penstock.montecarlo import MonteCarlo
from penstock.quantiles import shortest
from penstock.sections import Along, Evidence, Joint, Section, Weighted
from penstock.verbs import _shaped

# Draws of a proposal, and their log-densities.
Proposed = tuple[Array, Array]


class OneDimension:
    """Probabilities and quantiles of a view that has one column."""

    dim: int
    _names: tuple[str, ...]
    _steps: Lattice | None

    @property
    def lattice(self) -> dict[int | str, float] | None:
        """Steps of the columns that have a lattice, as ``Flow.lattice``."""
        own = self._steps
        return None if own is None else {self._names[j] if self._names else j: float(own.steps[j]) for j in own.columns}

    def cdf(self, x: RowsLike) -> Any:
        """The distribution function of the one column, as ``Flow.cdf``.

        Parameters
        ----------
        x : array of shape (1,), (rows, 1) or (m, n, 1), or a table

        Returns
        -------
        float64 scalar or array of one number a row
            NaN where x is.
        """
        rows, shape = self._rows(x, "x", "cdf")
        u = np.full(len(rows), np.nan)
        asked = ~np.isnan(rows[:, 0])
        u[asked] = self._below(rows[asked, 0])
        return _shaped(u, shape)

    def quantile(self, u: ArrayLike) -> Array:
        """The inverse of ``cdf``, as ``Flow.quantile``.

        Parameters
        ----------
        u : a number in [0, 1], or an array of them of shape (rows,) or (m, n)

        Returns
        -------
        float64 array of shape (1,), (rows, 1) or (m, n, 1)
            The ends of the support at 0 and 1.
        """
        self._need_one_dimension("quantile")
        shares = _validate.as_probabilities(u, name="u")
        return self._at(shares.reshape(-1)).reshape(*shares.shape, 1)

    def interval(self, level: float, *, shortest: bool = False) -> Array:
        """An interval of a share ``level`` of the mass, as ``Flow.interval``.

        Returns
        -------
        float64 array of shape (2,)
        """
        self._need_one_dimension("interval")
        level = _validate.fraction(level, name="level")
        if shortest:
            return _shortest(self, level)
        return self._at(np.array([(1 - level) / 2, (1 + level) / 2]))

    def _need_one_dimension(self, verb: str) -> None:
        if self.dim != 1:
            raise ValueError(f"{verb} needs one column, and here are {self.dim}")

    def _rows(self, x: Any, name: str, verb: str = "") -> tuple[Array, tuple[int, ...]]:
        """Rows through the front door, in float64, and the shape of a result."""
        if verb:
            self._need_one_dimension(verb)
        named = columns.matched(x, self._names, self.dim, name=name).values
        rows, shape = _validate.as_batch(named, self.dim, name=name)
        return rows.astype(np.float64), shape

    def _below(self, x: Array) -> Array:
        """The share of the mass below numbers, (n,), none of them NaN."""
        raise NotImplementedError

    def _at(self, u: Array) -> Array:
        """The numbers below which shares, (n,), lie."""
        raise NotImplementedError


def _shortest(view: OneDimension, level: float) -> Array:
    found: Array = shortest(lambda u: view._at(u.reshape(-1)).reshape(u.shape), level, 1)[0]
    return found


class Marginal(OneDimension):
    """Some columns of a flow, where these are no flow by themselves: what ``flow.marginal(columns)`` then gives.

    The density is integrated over the hidden columns, numerically and in float64; :meth:`estimate` tells the error of each
    row. Draws are exact: those of the flow, without the hidden columns. It is of the flow as it was when the view was made.

    Attributes
    ----------
    method : {"quadrature", "importance"}
    hidden : tuple of str or int
        The columns that are integrated out: of a smaller flow, if that can be had exactly.
    tolerance : float
        Of quadrature: largest error of ``log_prob``; a row for which that is not reached raises RuntimeError.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf(2, layers=2, hidden=(8,), rng=0)
    >>> first = flow.marginal(0)
    >>> first
    Marginal of column 0: quadrature over column 1
    >>> first.log_prob([[0.0], [1.0]]).round(4)
    array([-0.9189, -1.4189])
    >>> first.cdf([[1.0]]).round(4)
    array([0.8413])
    """

    def __init__(
        self,
        flow: MonteCarlo,
        columns: Sequence[int],
        *,
        context: Array | None,
        tolerance: float,
        proposed: Proposed | None = None,
    ) -> None:
        self._flow, self._kept, self._context = flow, tuple(columns), context
        self._missing = tuple(i for i in range(flow.dim) if i not in self._kept)
        self._proposed = proposed
        self.tolerance = tolerance
        self.method = "quadrature" if proposed is None else "importance"
        self.dim = len(self._kept)
        self._names = tuple(flow._columns[i] for i in self._kept) if flow._columns else ()
        self._steps = None if flow._lattice is None else flow._lattice.of(self._kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return _marginal, (self._flow, self._kept, self._context, self.tolerance, self._proposed)

    def __repr__(self) -> str:
        how = f"{self.method} over {worded(self._missing, self._flow._columns)}"
        return f"Marginal of {worded(self._kept, self._flow._columns)}: {how}"

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of draws; densities are float64."""
        return self._flow.dtype

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns, or None."""
        return self._names or None

    @property
    def hidden(self) -> tuple[str | int, ...]:
        """The columns that are integrated out, by name if they have one."""
        return tuple(self._flow._columns[i] for i in self._missing) if self._flow._columns else self._missing

    @cached_property
    def _integrals(self) -> Section | Weighted:
        joint = Joint(self._flow, self._context)
        if self._proposed is None:
            return Section(joint, self._kept, self._missing, self.tolerance)
        return Weighted(joint, self._kept, self._missing, *self._proposed)

    def estimate(self, X: RowsLike) -> Evidence:
        """The log-density of rows, with its error, and the effective sample size where draws have weights.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim), or a table

        Returns
        -------
        named tuple (log_prob, error, ess, pareto_k)
            Float64, each of the shape of a result of ``log_prob``; ``ess`` and ``pareto_k`` are NaN for quadrature.

        Raises
        ------
        RuntimeError
            Where quadrature does not reach its tolerance.

        Warns
        -----
        TargetWarning
            Where ``pareto_k`` of importance weights is above 0.7.

        Examples
        --------
        >>> import penstock as ps
        >>> found = ps.nsf(2, layers=2, hidden=(8,), rng=0).marginal(0).estimate([[0.0]])
        >>> bool(abs(found.log_prob[0] + 0.918938533) < 1e-4), bool(found.error[0] <= 1e-4)
        (True, True)
        """
        rows, shape = self._rows(X, "X")
        return Evidence(*(_shaped(values, shape) for values in self._integrals.evidence(rows)))

    def log_prob(self, X: RowsLike) -> Any:
        """The log-density of rows, in float64: :meth:`estimate` without the error.

        A row that holds NaN has NaN, one outside the support of a column -inf.
        """
        return self.estimate(X).log_prob

    def sample(
        self,
        n: float | tuple[int, ...] | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        first: int = 0,
        raw: bool = False,
    ) -> Array:
        """Draw rows: the columns of those that ``Flow.sample`` draws."""
        x = self._flow.sample(n, self._context, rng=rng, key=key, first=first, raw=raw)
        return np.take(x, self._kept, axis=-1)

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

    @cached_property
    def _along(self) -> Along:
        """The density along the one column."""
        if self._proposed is not None or len(self._missing) > 1:
            raise ValueError(
                "cdf, quantile and interval integrate over the column itself, too, and quadrature takes two columns in all: "
                f"there is {worded(self._missing, self._flow._columns)} besides. Draws are exact: "
                "np.quantile(marginal.sample(n), u)"
            )
        section = Section(Joint(self._flow, self._context), (), (*self._kept, *self._missing), self.tolerance)
        return section.along(np.zeros((1, 0)))

    def _below(self, x: Array) -> Array:
        return self._along.below(np.zeros(len(x), np.int64), x)

    def _at(self, u: Array) -> Array:
        return self._along.at(np.zeros(len(u), np.int64), u)


def _marginal(
    flow: MonteCarlo, kept: Sequence[int], context: Array | None, tolerance: float, proposed: Proposed | None
) -> Marginal:
    """A view from its pickle."""
    return Marginal(flow, kept, context=context, tolerance=tolerance, proposed=proposed)
