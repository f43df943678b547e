"""Gaussian mixtures and kernel estimates of scikit-learn, tuned by the validation rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import sklearn
from fitting import Array, Fitted, serve
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

SIZES = (8, 16, 32, 64, 128, 256)
STARTS = 2  # of each size and seed, from the better of which it goes on
FLOORS = (1e-6, 1e-5, 1e-4)  # added to the variances; the first one while the size is chosen
BANDWIDTHS = 0.02 * 2 ** np.arange(0, 6.1, 0.5)


def mixture(train: Array, validation: Array, seed: int) -> Fitted:
    """Full covariances; size, floor of the variances, and start chosen by validation."""
    tried: dict[str, float] = {}
    best: tuple[float, Any] = (-np.inf, None)

    def attempt(size: int, floor: float, start: int) -> None:
        nonlocal best
        model = GaussianMixture(size, random_state=seed * STARTS + start, reg_covar=floor, max_iter=200)
        value = float(model.fit(train).score(validation))
        tried[f"{size}, {floor:g}, {start}"] = value
        if value > best[0]:
            best = (value, model)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mixture short of convergence is judged like the others
        for size in SIZES:
            for start in range(STARTS):
                attempt(size, FLOORS[0], start)
        size, start = best[1].n_components, best[1].random_state - seed * STARTS
        for floor in FLOORS[1:]:
            attempt(size, floor, start)
    chosen = best[1]
    about = {"components": chosen.n_components, "floor": chosen.reg_covar, "tried": tried}
    return Fitted(chosen.score_samples, best[0], about=about)


def kernel(train: Array, validation: Array, seed: int) -> Fitted:
    """Normal kernels of the shape of the data's covariance on all training rows; the bandwidth chosen by validation."""
    del seed  # nothing is random
    root = np.linalg.cholesky(np.cov(train.T))
    log_det = float(np.log(np.diag(root)).sum())
    whitened = np.linalg.solve(root, train.T).T
    tried: dict[str, float] = {}

    def score(rows: Array, bandwidth: float) -> Array:
        model = KernelDensity(bandwidth=bandwidth, rtol=1e-4).fit(whitened)
        return np.array(model.score_samples(np.linalg.solve(root, rows.T).T)) - log_det

    for bandwidth in BANDWIDTHS:
        tried[f"{bandwidth:.3g}"] = float(score(validation[:2000], bandwidth).mean())
    bandwidth = float(BANDWIDTHS[np.argmax(list(tried.values()))])
    about = {"bandwidth": bandwidth, "tried": tried}
    return Fitted(lambda rows: score(rows, bandwidth), max(tried.values()), about=about)


MODELS = {"mixture": mixture, "kernel estimate": kernel}

if __name__ == "__main__":
    serve(MODELS, lambda: {"scikit-learn": sklearn.__version__})
