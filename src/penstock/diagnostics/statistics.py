"""Numbers with their standard errors: weighted means and shares, the distance of Kolmogorov, tests, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock._typing import Array

LEVEL = 0.01  # of a test whose p-value speaks against a model
GROUPS = 20  # of a jackknife


def special() -> Any:
    """SciPy's special functions, among them the distributions of test statistics."""
    try:
        from scipy import special
    except ImportError:
        raise ImportError("the tests of penstock.diagnostics need SciPy: pip install 'penstock[diagnostics]'") from None
    return special


def effective_size(weight: Array | None, rows: int) -> float:
    """How many rows of equal weight have the same error: ``(sum w)^2 / sum w^2``."""
    return float(rows) if weight is None else float(weight.sum() ** 2 / (weight**2).sum())


def mean(values: Array, weight: Array | None) -> Array:
    """The mean over the first axis."""
    found: Array = np.average(values, axis=0, weights=weight)
    return found


def mean_with_error(values: Array, weight: Array | None, size: float | None = None) -> tuple[Array, Array]:
    """The mean over the first axis, and its standard error: the standard deviation over the root of the effective size."""
    size = effective_size(weight, len(values)) if size is None else size
    middle = mean(values, weight)
    variance = mean((values - middle) ** 2, weight) * (size / max(size - 1, 1.0))
    return middle, np.sqrt(variance / size)


def share_with_error(hits: Array, weight: Array | None, size: float) -> tuple[Array, Array]:
    """The share of hits over the first axis, and the standard deviation of the rate after them under a uniform prior.

    With the effective size n and share p it is ``sqrt(r (1 - r) / (n + 3))``, ``r = (n p + 1) / (n + 2)``, which is not 0 where
    all or none are hits.
    """
    share = mean(hits.astype(np.float64), weight)
    rate = (size * share + 1) / (size + 2)
    return share, np.sqrt(rate * (1 - rate) / (size + 3))


def steps(values: Array, weight: Array | None) -> tuple[Array, Array]:
    """Values in rising order, and the distribution function behind each, of which the last is 1."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(np.ones(len(values)) if weight is None else weight[order])
    return values[order], total / total[-1]


def distance_to_uniform(u: Array, weight: Array | None) -> float:
    """The largest difference between the distribution function of ``u`` and that of uniform numbers (Kolmogorov)."""
    at, above = steps(u, weight)
    below = np.concatenate([[0.0], above[:-1]])
    return float(np.maximum(above - at, at - below).max())


def kolmogorov(distance: float, size: float) -> float:
    """The probability of so large a distance, or a larger one, by chance, with the correction for small samples of Stephens.

    References
    ----------
    Stephens, "Use of the Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables" (1970).
    """
    root = math.sqrt(size)
    return float(special().kolmogorov((root + 0.12 + 0.11 / root) * distance))


def kolmogorov_band(size: float, level: float = 0.95) -> float:
    """The distance that a sample of this size does not exceed with this probability."""
    root = math.sqrt(size)
    return float(special().kolmogi(1 - level)) / (root + 0.12 + 0.11 / root)


def bonferroni(p_values: Array) -> float:
    """The p-value of the smallest of several."""
    return float(min(1.0, np.min(p_values) * np.size(p_values)))


def jackknife(estimate: Callable[[Array], Array], rows: int, order: Array) -> tuple[Array, Array]:
    """An estimate from all rows, and its standard error by leaving out one of 20 groups of them at a time.

    ``estimate`` takes numbers of rows; ``order`` are all of them, shuffled.

    References
    ----------
    Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), section 11.5.
    """
    groups = np.array_split(order, min(GROUPS, rows))
    parts = np.array([estimate(np.concatenate([*groups[:i], *groups[i + 1 :]])) for i in range(len(groups))])
    spread = ((parts - parts.mean(axis=0)) ** 2).sum(axis=0)
    return estimate(order), np.sqrt(spread * (len(groups) - 1) / len(groups))


# --- words --------------------------------------------------------------------------------------------------------


def pm(value: float, error: float, percent: bool = False) -> str:
    """A number with its error, to the second digit of the error.

    Examples
    --------
    >>> from penstock.diagnostics.statistics import pm
    >>> pm(0.82934, 0.00821), pm(0.82934, 0.00821, percent=True)
    ('0.829 ± 0.008', '82.9 ± 0.8 %')
    """
    if percent:
        value, error = 100 * value, 100 * error
    finite = error > 0 and math.isfinite(error)
    digits = min(max(0, -math.floor(math.log10(error))), 9) if finite else 3
    return f"{value:.{digits}f} ± {error:.{digits}f}{' %' if percent else ''}"


def shown_p(p: float) -> str:
    """A p-value in words."""
    return "p < 1e-9" if p < 1e-9 else f"p = {p:.2g}"


def listed(words: list[str], most: int = 4) -> str:
    """Some words in a row, the first of them where they are many."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more
