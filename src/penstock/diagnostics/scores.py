"""Scores of draws: the continuous ranked probability score of each column, and the energy score of all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.diagnostics import drawing
from penstock.diagnostics.statistics import mean_with_error, pm, special
from penstock.diagnostics.subject import Model, Subject, around, number

LAGS = 8  # pairs of draws for the spread: each with those so many places further
Z = 3.0  # standard errors from 1 that speak against a model


@dataclass(frozen=True)
class Score:
    """A proper score of draws, in units of the data, beside what the model itself expects it to be.

    Attributes
    ----------
    of : str
    columns : tuple of str
        One word for all together.
    value, error : arrays of shape (columns,)
        The mean over rows, lower is better, and its standard error.
    expected : array of shape (columns,)
        What it would be, were the model right.
    ratio, ratio_error : arrays of shape (columns,)
        ``value / expected``: 1 if the model is right; above, it is too narrow or out of place; below, it is too wide.
    rows : int
    """

    of: str
    columns: tuple[str, ...]
    value: Array
    error: Array
    expected: Array
    ratio: Array
    ratio_error: Array
    rows: int

    @property
    def p_value(self) -> float:
        """Of the ratio that is farthest from 1, of all columns together (Bonferroni)."""
        z = float(np.max(abs(self.ratio - 1) / self.ratio_error))
        return float(min(1.0, len(self.columns) * 2 * special().ndtr(-z)))

    @property
    def passed(self) -> bool:
        """Whether all ratios are within three standard errors of 1, or as many columns leave by chance."""
        return self.p_value >= 0.01

    def __str__(self) -> str:
        j = int(np.argmax(abs(self.ratio - 1) / self.ratio_error))
        where = f" of {self.columns[j]}" if len(self.columns) > 1 else ""
        found = f"{self.of}{where} {pm(self.value[j], self.error[j])}, {pm(self.ratio[j], self.ratio_error[j])} times"
        if self.passed:
            return f"{found} what the model expects: in accord"
        return f"{found} what the model expects: {'too narrow or out of place' if self.ratio[j] > 1 else 'too wide'}"

    def plot(self, ax: Any = None) -> Any:
        """The ratio of each column to what the model expects; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        places = np.arange(len(self.columns))
        ax.axhline(1, color=drawing.DATA, lw=0.8)
        ax.errorbar(places, self.ratio, 2 * self.ratio_error, fmt="o", ms=4, color=drawing.MODEL)
        ax.set_xticks(places, self.columns, rotation=45 if max(map(len, self.columns)) * len(places) > 24 else 0)
        ax.set(ylabel=f"{self.of} / expected, ± 2 s.e.", xlim=(-0.6, len(places) - 0.4))
        return ax


def crps(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    draws: float = 100,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> Score:
    """The continuous ranked probability score of each column, from draws: a mean absolute error of densities.

    ``E|x' - x| - E|x' - x''| / 2`` for the row x and draws x', x'' of the model, in the fair form, whose mean does not depend on
    the number of draws. On circles distances are along the circle.

    Parameters
    ----------
    model, X, context, sample_weight, rng
        As for :func:`pit`. Every row has draws of its own, also where there is no context.
    draws : int, default 100
        For each row, at least 2.

    Returns
    -------
    Score

    References
    ----------
    Gneiting, Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation" (2007), eq. 21; Ferro, "Fair scores for
    ensemble forecasts" (2014), for the fair form; Grimit, Gneiting, Berrocal, Johnson, "The continuous ranked probability
    score for circular variables" (2006).

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(2000, 1))
    >>> found = ps.diagnostics.crps(ps.nsf_ar(1, rng=0), X, rng=0)  # 1 / sqrt(pi) = 0.564 for the standard normal
    >>> bool(abs(found.value[0] - 0.564) < 4 * found.error[0])
    True
    """
    subject = Subject(model, X, context, sample_weight=sample_weight, rng=rng)
    return crps_of(subject, number(draws, name="draws"))


def crps_of(subject: Subject, n: int) -> Score:
    """``crps`` of what is checked already."""
    first, second = np.zeros((2, *subject.X.shape))
    for part in subject.blocks(n):
        x = subject.draws(n, part)
        first[part] = abs(around(x - subject.X[part, None], subject.periods)).mean(axis=1)
        for j, period in enumerate(subject.periods):
            second[part, j] = _spread(x[..., j]) if np.isinf(period) else _lagged(x[..., j : j + 1], period)
    return _score("CRPS", subject.names, first, second, subject)


def energy_score(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    draws: float = 100,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> Score:
    """The energy score, the CRPS of all columns together: ``E|x' - x| - E|x' - x''| / 2`` with Euclidean distances.

    Each column counts in units of its standard deviation among the rows.

    Parameters
    ----------
    model, X, context, draws, sample_weight, rng
        As for :func:`crps`.

    Returns
    -------
    Score

    References
    ----------
    Gneiting, Raftery, "Strictly Proper Scoring Rules, Prediction, and Estimation" (2007), eq. 22.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(2000, 3))
    >>> ps.diagnostics.energy_score(ps.realnvp(3, rng=0), X, rng=0).passed
    True
    """
    subject = Subject(model, X, context, sample_weight=sample_weight, rng=rng)
    n = number(draws, name="draws")
    scale = subject.X.std(axis=0)
    scale[scale == 0] = 1.0
    first, second = np.zeros((2, subject.rows, 1))
    for part in subject.blocks(n):
        x = subject.draws(n, part)
        own = around(x - subject.X[part, None], subject.periods) / scale
        first[part, 0] = np.sqrt((own**2).sum(axis=2)).mean(axis=1)
        second[part, 0] = _lagged(x, subject.periods, scale)
    return _score("energy score", ("all columns",), first, second, subject)


def _score(of: str, names: tuple[str, ...], first: Array, second: Array, subject: Subject) -> Score:
    """The score of each row, and what the model expects: half the mean distance of its draws."""
    value, error = mean_with_error(first - second / 2, subject.weight)
    expected = mean_with_error(second / 2, subject.weight)[0]
    ratio = value / expected
    # By the delta method, the covariance of both with it.
    ratio_error = mean_with_error((first - second / 2 - ratio * second / 2) / expected, subject.weight)[1]
    return Score(of, names, value, error, expected, ratio, ratio_error, subject.rows)


def _spread(x: Array) -> Array:
    """The mean distance of two different draws of each row, from (rows, n), by their order."""
    n = x.shape[1]
    weights = 2 * np.arange(n) - (n - 1)
    found: Array = np.sort(x, axis=1) @ weights * (2 / (n * (n - 1)))
    return found


def _lagged(x: Array, periods: Any, scale: Any = 1.0) -> Array:
    """The same of draws (rows, n, d), from those that are some places apart."""
    n = x.shape[1]
    lags = range(1, min(LAGS, n - 1) + 1)
    total = [
        np.sqrt(((around(x - np.roll(x, lag, axis=1), np.broadcast_to(periods, x.shape[2:])) / scale) ** 2).sum(axis=2))
        for lag in lags
    ]
    found: Array = np.mean([part.mean(axis=1) for part in total], axis=0)
    return found
