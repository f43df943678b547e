"""Columns, and pairs of them, against draws of the model: location, width, distances of distributions, correlations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.diagnostics import drawing
from penstock.diagnostics.statistics import (
    GROUPS,
    LEVEL,
    bonferroni,
    effective_size,
    kolmogorov,
    listed,
    mean,
    mean_with_error,
    pm,
    shown_p,
    special,
    steps,
)
from penstock.diagnostics.subject import Model, Subject, number

DRAWS = 20_000
GRID = 40  # bins of a picture


@dataclass(frozen=True)
class Marginals:
    """Each column of the rows against the same column of draws.

    Attributes
    ----------
    columns : tuple of str
    shift, shift_error : arrays of shape (dim,)
        Mean of the draws less that of the rows, in standard deviations of the rows, and the standard error. NaN on circles, like
        the next.
    width, width_error : arrays of shape (dim,)
        Standard deviation of the draws over that of the rows.
    distance, distance_error : arrays of shape (dim,)
        The largest difference of the distribution functions (Kolmogorov, Smirnov), and the standard error of the difference
        there.
    cramer : array of shape (dim,)
        The mean square of their difference over rows and draws (Cramer, von Mises), times 6, so that it lies between 0 and 2.
    energy, energy_error : arrays of shape (dim,)
        ``2 int (F - G)^2 dx``, the energy distance, in standard deviations, and its standard error by the jackknife.
    p_values : array of shape (dim,)
        Of so large a ``distance`` by chance.
    outside : array of shape (dim,)
        Share of the draws that lie below or above all rows.
    sizes : pair of float
        Effective number of rows, and number of draws.
    rows, draws : arrays
        What was compared, for the picture.
    weight : array of shape (rows,), or None
    """

    columns: tuple[str, ...]
    shift: Array
    shift_error: Array
    width: Array
    width_error: Array
    distance: Array
    distance_error: Array
    cramer: Array
    energy: Array
    energy_error: Array
    p_values: Array
    outside: Array
    sizes: tuple[float, float]
    rows: Array
    draws: Array
    weight: Array | None = None

    @property
    def p_value(self) -> float:
        """Of all columns together (Bonferroni)."""
        return bonferroni(self.p_values)

    @property
    def passed(self) -> bool:
        """Whether chance may well have left it so: the p-value is at least 0.01."""
        return self.p_value >= LEVEL

    def faults(self) -> list[str]:
        """What is wrong with each column that fails, in words."""
        found = []
        for j in np.flatnonzero(self.p_values * len(self.columns) < LEVEL):
            words = []
            if abs(self.width[j] - 1) > 3 * self.width_error[j]:
                words.append(f"{100 * abs(self.width[j] - 1):.1f} % too {'wide' if self.width[j] > 1 else 'narrow'}")
            if abs(self.shift[j]) > 3 * self.shift_error[j]:
                words.append(f"{abs(self.shift[j]):.3f} sigma too {'high' if self.shift[j] > 0 else 'low'}")
            found.append(f"{self.columns[j]} {' and '.join(words) or 'of another shape'}")
        return found

    def __str__(self) -> str:
        j = int(np.argmax(self.distance))
        far = f"largest distance {pm(self.distance[j], self.distance_error[j])} in {self.columns[j]}"
        if self.passed:
            return f"marginals: draws agree with the rows ({far}, {shown_p(self.p_value)})"
        return f"marginals: draws differ from the rows ({far}, {shown_p(self.p_value)}): {listed(self.faults())}"

    def plot(self, ax: Any = None, *, column: int | None = None) -> Any:
        """Histograms of one column, of rows and of draws; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.
        column : int, optional
            By default the one that differs most.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        j = int(np.argmax(self.distance)) if column is None else column
        x, y = self.rows[:, j], self.draws[:, j]
        low, high = np.quantile(x, [0.002, 0.998])
        margin = 0.06 * (high - low) or 1.0
        edges = np.linspace(
            max(low - margin, min(x.min(), y.min())), min(high + margin, max(x.max(), y.max())), GRID + 1
        )
        # As densities of all, those beyond the edges included.
        for values, weight, style in (
            (
                x,
                self.weight,
                {"histtype": "stepfilled", "facecolor": "0.8", "edgecolor": drawing.DATA, "label": "rows"},
            ),
            (y, None, {"histtype": "step", "edgecolor": drawing.MODEL, "lw": 1.4, "label": "model"}),
        ):
            each = np.ones(len(values)) if weight is None else weight
            ax.hist(values, edges, weights=each / (each.sum() * (edges[1] - edges[0])), **style)
        ax.set(xlabel=self.columns[j], xlim=(edges[0], edges[-1]), yticks=[])
        ax.set_ylim(0, 1.02 * ax.get_ylim()[1])
        return ax


def marginals(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    draws: float | None = None,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> Marginals:
    """Compare each column of the rows with that of draws: location, width, and distances of the distributions.

    Parameters
    ----------
    model, X, context, sample_weight, rng
        As for :func:`pit`. With a context there is one draw for each row, given its context: rows and draws then have contexts in
        common, and the p-values are on the safe side.
    draws : int, optional
        Without contexts, by default 20 000.

    Returns
    -------
    Marginals

    References
    ----------
    Szekely, Rizzo, "Energy statistics: A class of statistics based on distances" (2013); Anderson, "On the distribution of the
    two-sample Cramer-von Mises criterion" (1962).

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(4000, 2)) + [0.0, 0.5]
    >>> found = ps.diagnostics.marginals(ps.realnvp(2, rng=0), X, rng=0)
    >>> bool(abs(found.shift[1] + 0.5) < 4 * found.shift_error[1]), found.faults()
    (True, ['x1 0.50... sigma too low'])
    """
    return marginals_of(Subject(model, X, context, sample_weight=sample_weight, rng=rng), _count(draws))


def _count(draws: float | None) -> int:
    return DRAWS if draws is None else number(draws, name="draws")


def compared(subject: Subject, draws: int = DRAWS) -> tuple[Array, Array | None]:
    """Draws to be held against the rows, with their weights: one for each row, which has that row's, or so many."""
    return (subject.paired(), subject.weight) if subject.conditional else (subject.common(draws), None)


def marginals_of(subject: Subject, draws: int = DRAWS) -> Marginals:
    """``marginals`` of what is checked already."""
    y, own = compared(subject, draws)
    sizes = subject.size, effective_size(own, len(y))
    both = (subject.X, subject.weight, sizes[0]), (y, own, sizes[1])
    middle, error = zip(*(mean_with_error(values, w, size) for values, w, size in both), strict=True)
    tiny = np.finfo(float).tiny
    sigma, other = (np.maximum(e * np.sqrt(size), tiny) for e, size in zip(error, sizes, strict=True))
    shift, shift_error = (middle[1] - middle[0]) / sigma, np.hypot(*error) / sigma
    width = other / sigma
    # Of a standard deviation s, by the fourth moment: var(s) / s^2 = (kurtosis - 1) / (4 n).
    relative = [
        (mean(((values - m) / scale) ** 4, w) - 1) / (4 * size)
        for (values, w, size), m, scale in zip(both, middle, (sigma, other), strict=True)
    ]
    width_error = width * np.sqrt(np.maximum(relative[0] + relative[1], 0.0))
    circles = np.isfinite(subject.periods)
    shift[circles] = width[circles] = np.nan  # an angle has no such thing
    order = [subject.generator(k).permutation(len(values)) for k, values in ((4, subject.X), (5, y))]
    found = []
    for j in range(subject.dim):
        columns = [(subject.X[:, j] / sigma[j], subject.weight), (y[:, j] / sigma[j], own)]
        found.append((*_distances(columns, sizes), *_energy(columns, order)))
    distance, distance_error, cramer, p_values, energy, energy_error = (
        np.array(values) for values in zip(*found, strict=True)
    )
    outside = ((y < subject.X.min(axis=0)) | (y > subject.X.max(axis=0))).mean(axis=0)
    return Marginals(
        subject.names, shift, shift_error, width, width_error, distance, distance_error, cramer, energy, energy_error, p_values,
        outside, sizes, subject.X, y, subject.weight,
    )  # fmt: skip


def _functions(columns: list[tuple[Array, Array | None]]) -> tuple[Array, list[Array]]:
    """All numbers of two samples in rising order, and both distribution functions there."""
    every = np.sort(np.concatenate([values for values, _ in columns]))
    heights = []
    for values, weight in columns:
        at, above = steps(values, weight)
        heights.append(np.concatenate([[0.0], above])[np.searchsorted(at, every, "right")])
    return every, heights


def _distances(
    columns: list[tuple[Array, Array | None]], sizes: tuple[float, float]
) -> tuple[float, float, float, float]:
    """The distance of Kolmogorov with its error, that of Cramer and von Mises, and the p-value of the first."""
    _, (own, other) = _functions(columns)
    k = int(np.argmax(abs(own - other)))
    distance = float(abs(own - other)[k])
    error = float(np.sqrt(own[k] * (1 - own[k]) / sizes[0] + other[k] * (1 - other[k]) / sizes[1]))
    size = 1 / (1 / sizes[0] + 1 / sizes[1])
    return distance, error, float(6 * ((own - other) ** 2).mean()), kolmogorov(distance, size)


def _energy(columns: list[tuple[Array, Array | None]], order: list[Array]) -> tuple[float, float]:
    """The energy distance, and its error by the jackknife: without one of 20 groups of the rows, or of the draws, at a time.

    One sorting serves for all: what a group adds to its distribution function is a sum along the others' order, too.
    """
    every = np.concatenate([values for values, _ in columns])
    place = np.argsort(every, kind="stable")
    gaps = np.diff(every[place])
    # Which sample and which of its groups each number belongs to, and what it weighs.
    weight = np.concatenate([np.ones(len(x)) if w is None else w for x, w in columns])[place]
    group = np.concatenate([np.argsort(own) * GROUPS // len(own) for own in order])[place]
    side = place >= len(columns[0][0])
    sums = [np.cumsum(np.where(side == k, weight, 0.0)) for k in (False, True)]

    def distance(own: list[Array]) -> float:
        return float(2 * (gaps * (own[0] / own[0][-1] - own[1] / own[1][-1])[:-1] ** 2).sum())

    variance = 0.0
    for k in (0, 1):
        parts = []
        for g in range(GROUPS):
            rest = sums[k] - np.cumsum(np.where((side == bool(k)) & (group == g), weight, 0.0))
            parts.append(distance([rest, sums[1]] if k == 0 else [sums[0], rest]))
        variance += float(np.var(parts)) * (GROUPS - 1)
    return distance(sums), float(np.sqrt(variance))


# --- pairs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pairs:
    """Rank correlations of columns, of the rows and of draws.

    Attributes
    ----------
    features : tuple of str
        The columns; a circle is there by its cosine and its sine.
    observed, model : arrays of shape (features, features)
    difference, error : arrays of shape (features, features)
        Of the correlations of draws and rows, by Fisher's transform ``atanh r``, and its standard error.
    p_values : array of shape (features, features)
        Of so large differences by chance.
    """

    features: tuple[str, ...]
    observed: Array
    model: Array
    difference: Array
    error: Array
    p_values: Array

    @property
    def p_value(self) -> float:
        """Of all pairs together (Bonferroni)."""
        above = self.p_values[np.triu_indices(len(self.features), 1)]
        return bonferroni(above) if len(above) else 1.0

    @property
    def passed(self) -> bool:
        """Whether chance may well have left it so: the p-value is at least 0.01."""
        return self.p_value >= LEVEL

    def worst(self) -> tuple[int, int]:
        """The pair that differs most, by its error."""
        off = np.triu(abs(self.difference) / self.error, 1)
        i, j = np.unravel_index(int(np.argmax(off)), off.shape)
        return int(i), int(j)

    def __str__(self) -> str:
        if len(self.features) < 2:
            return "pairs: there is one column"
        i, j = self.worst()
        slope = 1 - self.observed[i, j] ** 2
        words = (
            f"{self.features[i]} and {self.features[j]} have correlation {self.model[i, j]:.3f} in the model and "
            f"{pm(self.observed[i, j], self.error[i, j] * slope)} in the rows"
        )
        state = "agree" if self.passed else "differ"
        return f"pairs: correlations {state} ({shown_p(self.p_value)}); {'at most' if self.passed else 'most'}: {words}"

    def plot(self, ax: Any = None) -> Any:
        """The differences of the correlations, in standard errors; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        z = self.difference / self.error
        np.fill_diagonal(z, np.nan)
        limit = max(4.0, float(np.nanmax(abs(z), initial=0.0)))
        image = ax.imshow(z, cmap="PuOr", vmin=-limit, vmax=limit)
        places = np.arange(len(self.features))
        ax.set_xticks(places, self.features, rotation=90 if max(map(len, self.features)) > 2 else 0)
        ax.set_yticks(places, self.features)
        ax.figure.colorbar(image, ax=ax, label="draws less rows, in standard errors", shrink=0.85)
        return ax


def pairs(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    draws: float | None = None,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> Pairs:
    """Compare the rank correlations of columns, of rows and of draws.

    Parameters
    ----------
    model, X, context, draws, sample_weight, rng
        As for :func:`marginals`.

    Returns
    -------
    Pairs

    References
    ----------
    Fieller, Hartley, Pearson, "Tests for rank correlation coefficients" (1957), for the variance 1.06 / (n - 3) of atanh r.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=4000)
    >>> found = ps.diagnostics.pairs(ps.realnvp(2, rng=0), X, rng=0)
    >>> found.passed, bool(abs(found.observed[0, 1] - 0.483) < 0.04)  # 6 / pi asin(r / 2)
    (False, True)
    """
    return pairs_of(Subject(model, X, context, sample_weight=sample_weight, rng=rng), _count(draws))


def pairs_of(subject: Subject, draws: int = DRAWS) -> Pairs:
    """``pairs`` of what is checked already."""
    y, own = compared(subject, draws)
    names: list[str] = []
    columns: list[list[Array]] = [[], []]
    for j, name in enumerate(subject.names):
        period = subject.periods[j]
        names += [name] if np.isinf(period) else [f"cos {name}", f"sin {name}"]
        for k, (values, weight) in enumerate(((subject.X[:, j], subject.weight), (y[:, j], own))):
            turn = 2 * np.pi * values / period
            columns[k] += [
                _ranks(part, weight) for part in ([values] if np.isinf(period) else [np.cos(turn), np.sin(turn)])
            ]
    sizes = subject.size, effective_size(own, len(y))
    r = [_correlations(np.array(side), w) for side, w in zip(columns, (subject.weight, own), strict=True)]
    clipped = [np.clip(np.where(np.eye(len(names)), 0, each), -1 + 1e-12, 1 - 1e-12) for each in r]
    difference = np.arctanh(clipped[1]) - np.arctanh(clipped[0])
    error = np.full(difference.shape, np.sqrt(sum(1.06 / max(size - 3, 1) for size in sizes)))
    p_values = 2 * special().ndtr(-abs(difference) / error)
    return Pairs(tuple(names), r[0], r[1], difference, error, p_values)


def _ranks(values: Array, weight: Array | None) -> Array:
    """Places in the order, which ties share."""
    at, above = steps(values, weight)
    heights = np.concatenate([[0.0], above])
    found: Array = 0.5 * (heights[np.searchsorted(at, values, "left")] + heights[np.searchsorted(at, values, "right")])
    return found


def _correlations(columns: Array, weight: Array | None) -> Array:
    covariance = np.atleast_2d(np.cov(columns, aweights=weight))
    scale = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
    found: Array = covariance / np.outer(scale, scale)
    return found
