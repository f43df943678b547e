"""Gaussian mixtures and kernel estimates of scikit-learn, and von Mises kernels for angles, tuned by the validation rows."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import scipy
import sklearn
from fitting import Array, CircleModel, Fitted, angles, log_slope, serve
from scipy.special import i0e
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity

SIZES = (8, 16, 32, 64, 128, 256)
STARTS = 2  # of each size and seed, from the better of which it goes on
FLOORS = (1e-6, 1e-5, 1e-4)  # added to the variances; the first one while the size is chosen
BANDWIDTHS = 0.02 * 2 ** np.arange(0, 6.1, 0.5)
KAPPAS = 2 ** np.arange(0, 12.1, 0.5)  # concentrations of von Mises kernels that are tried for all angles alike
FACTOR = 2**0.5  # and then by how much each angle's own is changed
CHUNK = 256  # rows whose kernels are computed at once


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


def von_mises(train: Array, validation: Array, seed: int, circles: Array) -> Fitted:
    """Products of von Mises kernels on all training rows, the concentration of each angle chosen by validation.

    It begins with the best one for all angles alike, and changes one angle at a time until nothing gets better.
    """
    del seed  # nothing is random
    points, held_out = angles(train, circles), angles(validation, circles)
    slope = log_slope(circles)
    tried: dict[str, float] = {}

    def value(kappa: Array) -> float:
        name = ", ".join(f"{number:.4g}" for number in kappa)
        if name not in tried:
            tried[name] = float(log_kernels(points, held_out, kappa).mean()) + slope
        return tried[name]

    kappa = max((np.full(train.shape[1], common) for common in KAPPAS), key=value)
    common = value(kappa)
    while True:
        before = value(kappa)
        for angle in range(len(kappa)):
            factors = np.where(np.arange(len(kappa)) == angle, FACTOR, 1.0)
            kappa = max((kappa, kappa * factors, kappa / factors), key=value)
        if value(kappa) == before:
            break
    about = {"kappa": list(kappa), "common": common, "tried": tried}
    return Fitted(lambda rows: log_kernels(points, angles(rows, circles), kappa) + slope, value(kappa), about=about)


def log_kernels(points: Array, rows: Array, kappa: Array) -> Array:
    """A number a row: the log of the mean over ``points`` of prod_j exp(kappa_j cos(row_j - point_j)) / (2 pi I0(kappa_j))."""
    double = np.concatenate([kappa, kappa])
    centres = np.concatenate([np.cos(points), np.sin(points)], axis=1).T
    out = np.empty(len(rows))
    for first in range(0, len(rows), CHUNK):
        some = rows[first : first + CHUNK]
        logs = (np.concatenate([np.cos(some), np.sin(some)], axis=1) * double) @ centres
        most = logs.max(axis=1, keepdims=True)
        np.exp(np.subtract(logs, most, out=logs), out=logs)
        out[first : first + CHUNK] = np.log(logs.mean(axis=1)) + most[:, 0]
    return out - float((np.log(2 * np.pi * i0e(kappa)) + kappa).sum())


MODELS = {"mixture": mixture, "kernel estimate": kernel}
CIRCLES: dict[str, CircleModel] = {"von Mises kernel estimate": von_mises}

if __name__ == "__main__":
    serve(MODELS, lambda: {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__}, all_circles=CIRCLES)
