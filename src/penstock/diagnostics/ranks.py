"""Where rows lie among the draws of a model: probability integral transforms, and simulation-based calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.diagnostics import drawing
from penstock.diagnostics.statistics import (
    LEVEL,
    bonferroni,
    distance_to_uniform,
    kolmogorov,
    kolmogorov_band,
    listed,
    mean_with_error,
    pm,
    shown_p,
    special,
    steps,
)
from penstock.diagnostics.subject import Model, Subject, number

DRAWS = 200  # for each context
COMMON = 20_000  # that all rows share, where there is no context
TIES = 2  # purpose of random numbers

Quantity = Callable[[Array, Array | None], ArrayLike]


@dataclass(frozen=True)
class PIT:
    """The probability below each row, column by column: uniform, if the model is right.

    Attributes
    ----------
    values : float64 array of shape (rows, dim)
    columns : tuple of str
    mean, mean_error : arrays of shape (dim,)
        1/2 if the model is right; above where the model lies too low.
    spread, spread_error : arrays of shape (dim,)
        12 times the variance: 1 if the model is right, above where it is too narrow, below where it is too wide. NaN on circles,
        where neither this nor the mean has a meaning.
    distance : array of shape (dim,)
        The largest difference between the distribution function of the values and that of uniform numbers.
    p_values : array of shape (dim,)
        Of so large a distance by chance.
    size : float
        The effective number of rows, which errors are of.
    weight : array of shape (rows,), or None
    """

    values: Array
    columns: tuple[str, ...]
    mean: Array
    mean_error: Array
    spread: Array
    spread_error: Array
    distance: Array
    p_values: Array
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

    def faults(self) -> list[str]:
        """What is wrong with each column that fails, in words."""
        found = []
        for j in np.flatnonzero(self.p_values * len(self.columns) < LEVEL):
            words = []
            if abs(self.spread[j] - 1) > 3 * self.spread_error[j]:
                words.append("too narrow" if self.spread[j] > 1 else "too wide")
            if abs(self.mean[j] - 0.5) > 3 * self.mean_error[j]:
                words.append("too low" if self.mean[j] > 0.5 else "too high")
            found.append(f"{self.columns[j]} {' and '.join(words) or 'of another shape'}")
        return found

    def __str__(self) -> str:
        if self.passed:
            return f"PIT: uniform as far as {self.size:.0f} rows tell ({shown_p(self.p_value)})"
        worst = int(np.argmax(self.distance))
        return (
            f"PIT: not uniform ({shown_p(self.p_value)}): {listed(self.faults())}; {self.columns[worst]} has mean "
            f"{pm(self.mean[worst], self.mean_error[worst])} (right: 0.5), 12 x variance "
            f"{pm(self.spread[worst], self.spread_error[worst])} (right: 1)"
        )

    def plot(self, ax: Any = None) -> Any:
        """A histogram for one column, distribution functions less the uniform one for several; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        if len(self.columns) == 1:
            bins = int(min(25, max(5, self.size // 40)))
            error = math.sqrt((bins - 1) / self.size)
            ax.axhspan(1 - 2 * error, 1 + 2 * error, color=drawing.BAND, lw=0, label="2 standard errors")
            ax.hist(
                self.values[:, 0], bins, range=(0, 1), weights=self.weight, density=True, histtype="step", lw=1.5,
                color=drawing.MODEL,
            )  # fmt: skip
            ax.axhline(1, color=drawing.DATA, lw=0.8)
            ax.set(xlabel=f"probability below the row ({self.columns[0]})", ylabel="density", xlim=(0, 1))
            ax.set_ylim(bottom=0)
        else:
            differences(ax, self.values, self.columns, self.weight, self.size)
            ax.set(xlabel="probability below the row", ylabel="distribution function less uniform")
        return ax


def differences(ax: Any, values: Array, names: tuple[str, ...], weight: Array | None, size: float) -> None:
    """Distribution functions less the uniform one, and the band in which all of one stays with a probability of 95 %."""
    band = kolmogorov_band(size)
    ax.axhspan(-band, band, color=drawing.BAND, lw=0)
    ax.axhline(0, color=drawing.DATA, lw=0.8)
    far = [distance_to_uniform(values[:, j], weight) for j in range(len(names))]
    named = set(np.argsort(far)[::-1][: drawing.SHOWN].tolist())
    colours = iter(drawing.LINES)
    for j, name in enumerate(names):
        style: dict[str, Any] = {"color": "0.7", "lw": 0.6}
        if j in named:
            style = {"color": next(colours), "lw": 1.3, "label": name}
        drawing.difference_of_steps(ax, *steps(values[:, j], weight), **style)
    limit = max(1.15 * max(far, default=0), 1.6 * band)
    ax.set(xlim=(0, 1), ylim=(-limit, limit * (1.7 if len(named) > 1 else 1)))
    drawing.legend(ax, len(named), loc="upper center")


def pit(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    draws: float | None = None,
    sample_weight: ArrayLike | None = None,
    rng: Rng = None,
) -> PIT:
    """The probability that a model puts below each row, column by column (PIT).

    ``u = (k + v) / (n + 1)`` with k of n draws below the row and v uniform: uniform numbers, if model and rows have the same
    distribution, for every n. A model of one dimension with a ``cdf`` is asked for it. On a circle it is counted from the lower
    end of the period.

    Parameters
    ----------
    model : Flow, Ensemble, what ``flow.given(context)`` gives, or anything with log_prob and sample
        ``log_prob(X, context)`` and ``sample(n, context, rng=)``, as those of a ``Flow``.
    X : array of shape (rows, dim), or a table
        Rows that the model was not trained on.
    context : array of shape (rows, c) or (c,), or a table, optional
        For a model with a context.
    draws : int, optional
        For each context, by default 200; without contexts, that all rows share, by default 20 000.
    sample_weight : array of shape (rows,), optional
        Weights of the rows, at least 0.
    rng : seed or numpy Generator, optional

    Returns
    -------
    PIT

    Raises
    ------
    ValueError, TypeError
        When shapes, columns or contexts do not fit the model.

    References
    ----------
    Gneiting, Balabdaoui, Raftery, "Probabilistic forecasts, calibration and sharpness" (2007), section 3.1.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(2000, 2))
    >>> flow = ps.realnvp(2, rng=0)  # a fresh flow is the standard normal
    >>> print(ps.diagnostics.pit(flow, X, rng=0))
    PIT: uniform as far as 1818 rows tell (p = 0.2...)
    """
    subject = Subject(model, X, context, sample_weight=sample_weight, rng=rng)
    return pit_of(subject, None if draws is None else number(draws, name="draws"))


def pit_of(subject: Subject, draws: int | None = None) -> PIT:
    """``pit`` of what is checked already."""
    values, size = probabilities(subject, draws)
    weight = subject.weight
    middle, middle_error = mean_with_error(values, weight, size)
    spread, spread_error = mean_with_error(12 * (values - middle) ** 2, weight, size)
    middle[np.isfinite(subject.periods)] = spread[np.isfinite(subject.periods)] = np.nan
    distance = np.array([distance_to_uniform(values[:, j], weight) for j in range(subject.dim)])
    p_values = np.array([kolmogorov(d, size) for d in distance])
    return PIT(
        values, subject.names, middle, middle_error, spread, spread_error, distance, p_values, size, weight
    )  # fmt: skip


def probabilities(subject: Subject, draws: int | None) -> tuple[Array, float]:
    """The probability below each row, (rows, dim), and the effective number of rows: draws that all share have errors, too."""
    chance = subject.generator(TIES).random((subject.rows, subject.dim))
    if draws is None and subject.dim == 1 and hasattr(subject.model, "cdf"):
        given = () if subject.contexts is None else (subject.contexts,)
        arguments = given or subject._fixed
        return np.clip(subject.model.cdf(subject.noised(), *arguments), 0.0, 1.0)[:, None], subject.size
    if not subject.conditional:
        x = np.sort(subject.common(draws or COMMON), axis=0)
        ends = [
            np.array([np.searchsorted(x[:, j], subject.X[:, j], side) for j in range(subject.dim)]).T
            for side in ("left", "right")
        ]
        values = (ends[0] + chance * (ends[1] - ends[0] + 1)) / (len(x) + 1)
        return values, 1 / (1 / subject.size + 1 / len(x))
    n = draws or DRAWS
    values = np.zeros((subject.rows, subject.dim))
    for part in subject.blocks(n):
        values[part] = ranked(subject.draws(n, part), subject.X[part, None], chance[part])
    return values, subject.size


def ranked(draws: Array, own: Array, chance: Array) -> Array:
    """The share of draws (m, n, ...) below numbers (m, 1, ...), ties and the step in between broken by uniform numbers."""
    below, ties = (draws < own).sum(axis=1), (draws == own).sum(axis=1)
    found: Array = (below + chance * (ties + 1)) / (draws.shape[1] + 1)
    return found


# --- simulation-based calibration ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class SBC:
    """Ranks of rows among draws for the same context, which are uniform on 0 ... draws if the model is right.

    Attributes
    ----------
    ranks : int array of shape (rows, quantities)
    draws : int
        Among which each row is ranked.
    quantities : tuple of str
        What is ranked: the columns, the log-density of the model, and what was asked for.
    counts : int array of shape (bins, quantities)
        Rows by their rank, in bins of equal width.
    chi2, p_values : arrays of shape (quantities,)
        Sum over bins of ``(counts - expected)^2 / expected``, and the probability of so large a one by chance, with ``bins - 1``
        degrees of freedom.
    mean, mean_error : arrays of shape (quantities,)
        Of the rank over the number of draws: 1/2 if the model is right.
    """

    ranks: Array
    draws: int
    quantities: tuple[str, ...]
    counts: Array
    chi2: Array
    p_values: Array
    mean: Array
    mean_error: Array

    @property
    def p_value(self) -> float:
        """Of all quantities together (Bonferroni)."""
        return bonferroni(self.p_values)

    @property
    def passed(self) -> bool:
        """Whether chance may well have left it so: the p-value is at least 0.01."""
        return self.p_value >= LEVEL

    def __str__(self) -> str:
        rows, bins = len(self.ranks), len(self.counts)
        if self.passed:
            return f"SBC: ranks are uniform as far as {rows} rows tell ({shown_p(self.p_value)})"
        worst = int(np.argmax(self.chi2))
        failing = [self.quantities[k] for k in np.flatnonzero(self.p_values * len(self.quantities) < LEVEL)]
        middle, ends = bins // 4, self.counts[:, worst]
        inner = ends[middle : bins - middle].mean() if bins > 2 * middle else math.nan
        outer = np.concatenate([ends[:middle], ends[bins - middle :]]).mean() if middle else math.nan
        shape = "more at both ends: too narrow" if outer > inner else "more in the middle: too wide"
        tilt = abs(self.mean[worst] - 0.5) > 4 * self.mean_error[worst]
        shape = f"mean {pm(self.mean[worst], self.mean_error[worst])} (right: 0.5)" if tilt else shape
        return (
            f"SBC: ranks are not uniform ({shown_p(self.p_value)}): {listed(failing)}; {self.quantities[worst]} has "
            f"chi2/df {self.chi2[worst] / (bins - 1):.1f}, {shape}"
        )

    def plot(self, ax: Any = None) -> Any:
        """Distribution functions of the ranks less the uniform one, with the band of 95 % of one; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        # In the middle of its step, a rank is a number between 0 and 1.
        values = (self.ranks + 0.5) / (self.draws + 1)
        differences(ax, values, self.quantities, None, len(values))
        ax.set(xlabel=f"rank among {self.draws} draws, scaled to 1", ylabel="distribution function less uniform")
        return ax


def sbc(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    draws: float = 99,
    bins: int | None = None,
    quantities: Mapping[str, Quantity] | None = None,
    rng: Rng = None,
) -> SBC:
    """Simulation-based calibration: the ranks of true parameters among draws of the posterior, and a test that they are uniform.

    ``X`` are parameters drawn from the prior and ``context`` what was simulated with them. Ranked are each parameter and the
    log-density of the model, which depends on the context and so notices what parameters by themselves do not, for one a model
    that gives back the prior.

    Parameters
    ----------
    model, X, context, rng
        As for :func:`pit`. Every row has draws of its own, also where there is no context.
    draws : int, default 99
        For each row, at least 2.
    bins : int, optional
        Of the test, a divisor of ``draws + 1``: by default the largest up to 20 that leaves 20 rows for each.
    quantities : mapping of str to function, optional
        More to rank: a function of rows (k, dim) and their contexts (k, c), or None, that gives k numbers.

    Returns
    -------
    SBC

    Raises
    ------
    ValueError
        For fewer than 40 rows, and for ``bins`` that is no divisor.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari, Gelman, "Validating Bayesian Inference Algorithms with Simulation-Based Calibration"
    (2018), algorithm 1; Modrak, Moon, Kim, Burkner, Huurre, Faltejskova, Gelman, Vehtari, "Simulation-Based Calibration Checking
    for Bayesian Computation: The Choice of Test Quantities Shapes Sensitivity" (2023), section 3, for the log-density and ties.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(1000, 1))
    >>> found = ps.diagnostics.sbc(ps.nsf_ar(1, rng=0), X, rng=0)
    >>> found.quantities, found.passed
    (('x0', 'log_prob'), True)
    """
    subject = Subject(model, X, context, rng=rng, fewest=40)
    n = number(draws, name="draws")
    bins = _bins(n, subject.rows, bins)
    more: dict[str, Quantity] = {}
    for name, function in (quantities or {}).items():
        more[str(name)] = _validate.function(function, name=f"quantities[{name!r}]")
    names = (*subject.names, "log_prob", *more)
    chance = subject.generator(TIES).random((subject.rows, len(names)))
    own = np.zeros((subject.rows, len(names)))
    own[:, : subject.dim], own[:, subject.dim] = subject.X, subject.log_prob()
    for k, function in enumerate(more.values(), subject.dim + 1):
        own[:, k] = _validate.as_shaped(
            function(subject.X, subject.contexts),
            (subject.rows,),
            np.dtype(np.float64),
            name=f"quantities[{names[k]!r}]",
        )
    ranks = np.zeros(own.shape, np.int64)
    for part in subject.blocks(n):
        x = subject.draws(n, part)
        values = np.concatenate([x, np.zeros((*x.shape[:2], len(names) - subject.dim))], axis=2)
        values[..., subject.dim] = subject.log_prob_of_draws(
            subject.draws(n, part, raw=True) if subject.raw else x, part
        )
        given = None if subject.contexts is None else np.repeat(subject.contexts[part], n, axis=0)
        for k, function in enumerate(more.values(), subject.dim + 1):
            found = function(x.reshape(-1, subject.dim), given)
            values[..., k] = np.reshape(found, x.shape[:2])
        below, ties = (values < own[part, None]).sum(axis=1), (values == own[part, None]).sum(axis=1)
        ranks[part] = below + (chance[part] * (ties + 1)).astype(np.int64)
    counts = np.array([np.bincount(rank * bins // (n + 1), minlength=bins) for rank in ranks.T]).T
    expected = subject.rows / bins
    chi2 = ((counts - expected) ** 2 / expected).sum(axis=0)
    middle, error = mean_with_error(ranks / n, None)
    return SBC(ranks, n, names, counts, chi2, special().chdtrc(bins - 1, chi2), middle, error)


def _bins(n: int, rows: int, bins: Any) -> int:
    if bins is None:
        return max([b for b in range(2, min(20, rows // 20) + 1) if (n + 1) % b == 0], default=n + 1)
    number_of_bins = _validate.positive_int(bins, name="bins")
    if number_of_bins < 2 or (n + 1) % number_of_bins:
        raise ValueError(f"bins must be a divisor of draws + 1 = {n + 1} and at least 2, got {bins}")
    return number_of_bins
