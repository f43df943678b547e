"""Regions that should hold a share of the rows, and the share that they hold: intervals, highest-density regions, TARP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.diagnostics import drawing
from penstock.diagnostics.ranks import COMMON, DRAWS, TIES, differences, probabilities, ranked
from penstock.diagnostics.statistics import (
    LEVEL,
    bonferroni,
    distance_to_uniform,
    kolmogorov,
    listed,
    mean_with_error,
    pm,
    share_with_error,
    shown_p,
)
from penstock.diagnostics.subject import BLOCK, Model, Subject, around, number

LEVELS = (0.5, 0.68, 0.9, 0.95)
TARP_COMMON = 1000  # draws that all rows share


@dataclass(frozen=True)
class Coverage:
    """How many rows lie in regions that should hold a share of them.

    Attributes
    ----------
    of : str
        What the regions are.
    columns : tuple of str
        Of intervals, which each column has; one word for regions of all columns together.
    levels : array of shape (levels,)
        The shares that they should hold.
    observed, error : arrays of shape (levels, columns)
        Those that they hold, and standard errors.
    values : array of shape (rows, columns)
        The level from which on a region holds the row: uniform, if the model is right.
    distance, p_values : arrays of shape (columns,)
        The largest difference between observed and expected share over all levels, and the probability of so large a one by
        chance.
    spread, spread_error : arrays of shape (columns,)
        12 times the variance of ``values``.
    size : float
        The effective number of rows.
    weight : array of shape (rows,), or None
    """

    of: str
    columns: tuple[str, ...]
    levels: Array
    observed: Array
    error: Array
    values: Array
    distance: Array
    p_values: Array
    spread: Array
    spread_error: Array
    size: float
    weight: Array | None = None

    @property
    def p_value(self) -> float:
        """Of all columns together (Bonferroni)."""
        return bonferroni(self.p_values)

    @property
    def passed(self) -> bool:
        """Whether chance may well have left it so: the p-value is at least 0.01."""
        return self.p_value >= LEVEL

    def at(self, level: float) -> tuple[Array, Array]:
        """The share of rows in regions of a level, and its standard error, one for each of ``columns``."""
        return share_with_error(self.values <= _validate.fraction(level, name="level"), self.weight, self.size)

    def fault(self, j: int = 0) -> str:
        """What is wrong, in words: whether regions hold too few rows or too many."""
        if self.of.startswith("TARP"):
            share, error = self.at(0.9)
            off = (share[j] - 0.9) / error[j]
            return "of another shape" if abs(off) < 3 else "too narrow or out of place" if off < 0 else "too wide"
        off = mean_with_error(self.values[:, j], self.weight, self.size)[0] - 0.5
        return "too narrow" if off > 0 else "too wide"

    def __str__(self) -> str:
        worst = int(np.argmax(self.distance))
        k = int(np.argmin(abs(self.levels - 0.9)))
        where = f" of {self.columns[worst]}" if len(self.columns) > 1 else ""
        share = (
            f"{self.of}: those of {100 * self.levels[k]:.3g} %{where} hold "
            f"{pm(self.observed[k, worst], self.error[k, worst], percent=True)} of the rows"
        )
        if self.passed:
            return f"{share}: calibrated as far as {self.size:.0f} rows tell ({shown_p(self.p_value)})"
        failing = np.flatnonzero(self.p_values * len(self.columns) < LEVEL).tolist()
        words = [f"{self.columns[j]} {self.fault(j)}" if len(self.columns) > 1 else self.fault(j) for j in failing]
        return f"{share}: {listed(words)} ({shown_p(self.p_value)})"

    def plot(self, ax: Any = None) -> Any:
        """The share of rows in regions of each level, less the level, with the band of 95 % of one curve; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        differences(ax, self.values, self.columns, self.weight, self.size)
        if len(self.columns) == 1:
            k = slice(None)
            ax.errorbar(
                self.levels[k], self.observed[k, 0] - self.levels[k], self.error[k, 0], fmt="o", ms=4,
                color=drawing.LINES[0], lw=1,
            )  # fmt: skip
        ax.set(xlabel="level of the region", ylabel="share of rows in it, less the level")
        return ax


def _coverage(subject: Subject, of: str, names: tuple[str, ...], values: Array, size: float, levels: Any) -> Coverage:
    """The shares of rows at each level, from the levels that first hold them."""
    asked = np.array([_validate.fraction(level, name="levels") for level in _validate.sequence(levels, name="levels")])
    weight = subject.weight
    found = [share_with_error(values <= level, weight, size) for level in asked]
    distance = np.array([distance_to_uniform(column, weight) for column in values.T])
    middle = mean_with_error(values, weight, size)[0]
    spread, spread_error = mean_with_error(12 * (values - middle) ** 2, weight, size)
    return Coverage(
        of, names, asked, np.array([share for share, _ in found]), np.array([error for _, error in found]), values, distance,
        np.array([kolmogorov(d, size) for d in distance]), spread, spread_error, size, weight,
    )  # fmt: skip


def quantile_coverage(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    draws: float | None = None,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> Coverage:
    """How many rows lie within the central interval of each column that should hold a share of them.

    That of level a reaches from the quantile ``(1 - a) / 2`` to ``(1 + a) / 2``; a row lies in it where its PIT u (:func:`pit`)
    has ``|2 u - 1| <= a``.

    Parameters
    ----------
    model, X, context, draws, sample_weight, rng
        As for :func:`pit`.
    levels : sequence of float, default (0.5, 0.68, 0.9, 0.95)

    Returns
    -------
    Coverage

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = 1.2 * np.random.default_rng(0).normal(size=(4000, 1))  # wider than the flow by a fifth
    >>> print(ps.diagnostics.quantile_coverage(ps.nsf_ar(1, rng=0), X))  # 2 Phi(1.645 / 1.2) - 1 = 83 %
    central intervals: those of 90 % hold 83... ± 0.6 % of the rows: too narrow (p < 1e-9)
    """
    subject = Subject(model, X, context, sample_weight=sample_weight, rng=rng)
    u, size = probabilities(subject, None if draws is None else number(draws, name="draws"))
    return _coverage(subject, "central intervals", subject.names, abs(2 * u - 1), size, levels)


def hdr_coverage(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    levels: Sequence[float] = LEVELS,
    draws: float | None = None,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> Coverage:
    """Expected coverage of highest-density regions: how many rows lie in those that should hold a share of them.

    A row lies in the region of level a where at most a share a of the model's draws, for the context of the row, has a higher
    density than the row. All columns count together.

    Parameters
    ----------
    model, X, context, draws, sample_weight, rng
        As for :func:`pit`. Rows outside the support of a flow, whose density is 0, lie in no region.
    levels : sequence of float, default (0.5, 0.68, 0.9, 0.95)

    Returns
    -------
    Coverage

    References
    ----------
    Hermans, Delaunoy, Rozet, Wehenkel, Begy, Louppe, "A Trust Crisis In Simulation-Based Inference? Your Posterior Approximations
    Can Be Unfaithful" (2022), section 2; Deistler, Goncalves, Macke, "Truncated proposals for scalable and hassle-free
    simulation-based inference" (2022), appendix, for ranks of log-densities.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(2000, 2))
    >>> found = ps.diagnostics.hdr_coverage(ps.realnvp(2, rng=0), X, rng=0)
    >>> found.observed.shape, found.passed
    ((4, 1), True)
    """
    subject = Subject(model, X, context, sample_weight=sample_weight, rng=rng)
    return hdr_of(subject, None if draws is None else number(draws, name="draws"), levels)


def hdr_of(subject: Subject, draws: int | None = None, levels: Sequence[float] = LEVELS) -> Coverage:
    """``hdr_coverage`` of what is checked already."""
    values, size = density_levels(subject, draws)
    return _coverage(subject, "highest-density regions", ("all columns",), values[:, None], size, levels)


def density_levels(subject: Subject, draws: int | None) -> tuple[Array, float]:
    """The share of draws whose density is above that of each row, (rows,), and the effective number of rows."""
    own, chance = subject.log_prob(), subject.generator(TIES).random(subject.rows)
    if not subject.conditional:
        other = np.sort(-subject.log_prob_of_draws(subject.common(draws or COMMON, raw=True)))
        ends = [np.searchsorted(other, -own, side) for side in ("left", "right")]
        values = (ends[0] + chance * (ends[1] - ends[0] + 1)) / (len(other) + 1)
        return np.where(own == -np.inf, 1.0, values), 1 / (1 / subject.size + 1 / len(other))
    n = draws or DRAWS
    values = np.zeros(subject.rows)
    for part in subject.blocks(n):
        other = subject.log_prob_of_draws(subject.draws(n, part, raw=True), part)
        values[part] = ranked(-other, -own[part, None], chance[part])
    return np.where(own == -np.inf, 1.0, values), subject.size


def tarp(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    references: ArrayLike | None = None,
    levels: Sequence[float] = LEVELS,
    draws: float | None = None,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> Coverage:
    """Tests of accuracy with random points (TARP): coverage of the balls around reference points that reach to the row.

    The share f of draws that lie nearer to a reference point than the row does is uniform, if the model is right, wherever the
    points are; over points that depend on the context the converse holds, too. Needs draws alone, no densities. Distances are in
    units of the standard deviation of each column of X, along the circle where a column is one.

    Parameters
    ----------
    model, X, context, sample_weight, rng
        As for :func:`pit`.
    references : array of shape (rows, dim) or (dim,), optional
        By default another row for each, chosen at random.
    levels : sequence of float, default (0.5, 0.68, 0.9, 0.95)
    draws : int, optional
        For each context, by default 200; without contexts, that all rows share, by default 1000.

    Returns
    -------
    Coverage

    References
    ----------
    Lemos, Coogan, Hezaveh, Perreault-Levasseur, "Sampling-Based Accuracy Testing of Posterior Estimators for General Inference"
    (2023), theorem 3 and algorithm 2.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(2000, 2))
    >>> ps.diagnostics.tarp(ps.realnvp(2, rng=0), X, rng=0).passed
    True
    """
    subject = Subject(model, X, context, sample_weight=sample_weight, rng=rng)
    return tarp_of(subject, references, None if draws is None else number(draws, name="draws"), levels)


def tarp_of(
    subject: Subject, references: Any = None, draws: int | None = None, levels: Sequence[float] = LEVELS
) -> Coverage:
    """``tarp`` of what is checked already."""
    rows, dim = subject.X.shape
    scale = subject.X.std(axis=0)
    scale[scale == 0] = 1.0
    points = _references(subject, references)
    chance = subject.generator(TIES).random((rows, 1))
    n = draws or (DRAWS if subject.conditional else TARP_COMMON)
    values = np.zeros((rows, 1))
    size = max(1, BLOCK // (n * dim))
    for first in range(0, rows, size):
        part = slice(first, min(first + size, rows))
        x = subject.draws(n, part) if subject.conditional else subject.common(n)[None]
        at = points[part]
        own = _distance(subject.X[part] - at, scale, subject.periods)
        other = _distance(x - at[:, None], scale, subject.periods)
        values[part, 0] = ranked(other, own[:, None], chance[part, 0])
    effective = subject.size if subject.conditional else 1 / (1 / subject.size + 1 / n)
    return _coverage(subject, "TARP regions", ("all columns",), values, effective, levels)


def _references(subject: Subject, references: Any) -> Array:
    """A reference point for each row: what was given, or another row."""
    rows, dim = subject.X.shape
    if references is None:
        shift = subject.generator(3).integers(1, rows, size=rows)
        found: Array = subject.X[(np.arange(rows) + shift) % rows]
        return found
    given = _validate.reals(references, name="references")
    if given.shape not in ((rows, dim), (dim,)):
        raise ValueError(f"references must have shape ({rows}, {dim}) or ({dim},), got {given.shape}")
    _validate.all_finite(given, name="references")
    return np.broadcast_to(given, (rows, dim))


def _distance(difference: Array, scale: Array, periods: Array) -> Array:
    """Euclidean lengths of differences, (..., dim), the shorter way around on circles."""
    found: Array = np.sqrt(((around(difference, periods) / scale) ** 2).sum(axis=-1))
    return found
