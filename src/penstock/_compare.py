"""What the demo's flow is held against: tuned classical densities, and a classifier that tells real from sampled rows.

Needs scikit-learn, so ``demo`` imports it only where that is installed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KernelDensity
from threadpoolctl import threadpool_limits

from penstock._typing import Array

MIXTURE_SIZES = (4, 8, 16, 32, 64, 128)
BANDWIDTHS = (0.04, 0.06, 0.09, 0.13, 0.19, 0.28, 0.4)
FOLDS = 5
ALONE = {"blas": 1, "openmp": 1}  # tables this small gain nothing from threads, which then wait for each other


@dataclass(frozen=True)
class Rival:
    """Another density on the same rows.

    Attributes
    ----------
    name : str
    log_prob : array of shape (test rows,)
        In the units of the table.
    sampled : array of shape (test rows, dim)
        As many draws as there are test rows.
    """

    name: str
    log_prob: Array
    sampled: Array


def rivals(train: Array, validation: Array, test: Array, seed: int) -> list[Rival]:
    """Fit a Gaussian mixture and a kernel density estimate, each tuned on the validation rows."""

    def mixture(size: float, rows: Array) -> Any:
        return GaussianMixture(int(size), random_state=seed).fit(rows)

    def kernel(bandwidth: float, rows: Array) -> Any:
        return KernelDensity(bandwidth=bandwidth).fit(rows)

    # The kernel takes the shape of the data's covariance: magnitudes are too correlated for an isotropic one.
    # A mixture finds shapes by itself; columns of one size are enough.
    widths, shape = np.diag(train.std(axis=0, dtype=np.float64)), np.linalg.cholesky(np.cov(train.T))
    parts = (train, validation, test)
    size, best_mixture, mixture_scores, back = _tuned(mixture, MIXTURE_SIZES, parts, widths)
    mixture_rows = back(best_mixture.sample(len(test))[0])
    bandwidth, best_kernel, kernel_scores, back = _tuned(kernel, BANDWIDTHS, parts, shape)
    kernel_rows = back(best_kernel.sample(len(test), random_state=seed))
    return [
        Rival(f"Gaussian mixture, {size:g} components", mixture_scores, mixture_rows),
        Rival(f"kernel estimate, bandwidth {bandwidth:g}", kernel_scores, kernel_rows),
    ]


def _tuned(
    make: Callable[[float, Array], Any], options: Sequence[float], parts: Sequence[Array], root: Array
) -> tuple[float, Any, Array, Callable[[Array], Array]]:
    """Fit to ``u = root^-1 (x - mean)``, and keep the option that is best on the validation rows.

    Returns the option, its model of ``u``, its log-densities of the test rows ``x``, and the way from ``u`` to ``x``.
    """
    mean = parts[0].mean(axis=0, dtype=np.float64)
    train, validation, test = (np.linalg.solve(root, (part - mean).T).T for part in parts)
    with warnings.catch_warnings(), threadpool_limits(ALONE):
        warnings.simplefilter("ignore")  # a mixture short of convergence is judged like the others
        models = [make(option, train) for option in options]
    best = int(np.argmax([model.score_samples(validation).mean() for model in models]))
    scores = models[best].score_samples(test) - np.log(np.diag(root)).sum()
    return options[best], models[best], scores, lambda u: mean + u @ root.T


def two_sample(real: Array, sampled: Array, seed: int) -> tuple[float, float]:
    """How often a classifier tells real galaxies from sampled ones, and the standard error of that.

    The classifier is judged on rows that it was not trained on. Half right is what guessing gets.

    Parameters
    ----------
    real, sampled : arrays of shape (rows, 7)
        Redshift and the magnitudes u g r i z y. Of the longer one the first rows are taken, so that both are as long.
    seed : int
        Of the folds.

    Returns
    -------
    accuracy, error : float
    """
    n = min(len(real), len(sampled))
    rows, label = np.concatenate([real[:n], sampled[:n]]), np.repeat([0, 1], n)
    # Trees cut along the axes, and the magnitudes of one galaxy are nearly equal: colours make the test sharper.
    features = np.column_stack([rows[:, 0], rows[:, 4], rows[:, 1:6] - rows[:, 2:7]])
    trees = HistGradientBoostingClassifier(max_iter=60, learning_rate=0.1, max_leaf_nodes=8, random_state=seed)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    with threadpool_limits(ALONE):
        right = cross_val_predict(trees, features, label, cv=folds) == label
    accuracy = float(right.mean())
    return accuracy, float(np.sqrt(accuracy * (1 - accuracy) / len(right)))
