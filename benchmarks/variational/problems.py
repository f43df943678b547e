"""Densities that flows are trained towards, in numbers that every library builds them of, and what a worker answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LAYERS, HIDDEN, BINS = 6, 64, 8  # spline couplings with two hidden layers of this width


@dataclass(frozen=True)
class Mixture:
    """A mixture of normals, of one or more components, in units of its standard deviations; its integral is 1."""

    weights: list[float]
    means: list[list[float]]
    precisions: list[list[list[float]]]

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return len(self.means[0])

    @cached_property
    def constants(self) -> list[float]:
        """The logarithm of the weight of each component times the constant of its density."""
        roots = [np.linalg.slogdet(np.array(p))[1] for p in self.precisions]
        return [
            float(np.log(w) + 0.5 * (r - self.dim * np.log(2 * np.pi)))
            for w, r in zip(self.weights, roots, strict=True)
        ]

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """The density and its gradient, in NumPy."""
        logs, slopes = [], []
        for constant, mean, precision in zip(self.constants, self.means, self.precisions, strict=True):
            away = x - np.array(mean)
            slope = -away @ np.array(precision)
            slopes.append(slope)
            logs.append(constant + 0.5 * (away * slope).sum(axis=1))
        if len(logs) == 1:
            return logs[0], slopes[0]
        log_p = np.logaddexp.reduce(logs)
        return log_p, sum(np.exp(one - log_p)[:, None] * slope for one, slope in zip(logs, slopes, strict=True))


def gauss10() -> Mixture:
    """A normal in ten dimensions, with correlations up to about 0.8, and variances of 1."""
    rng = np.random.default_rng(10)
    root = rng.normal(size=(10, 10)) / np.sqrt(10) + np.eye(10)
    covariance = root @ root.T
    width = np.sqrt(np.diag(covariance))
    return Mixture([1.0], [[0.0] * 10], [np.linalg.inv(covariance / np.outer(width, width)).tolist()])


def two_modes() -> Mixture:
    """Two normals in the plane, about ten of their widths apart, with masses 0.3 and 0.7; in units of the whole."""
    weights, means = [0.3, 0.7], np.array([[-6.0, 2.0], [5.0, -3.0]])
    roots = [np.array([[0.6, 0.0], [0.4, 0.5]]), np.array([[1.0, 0.0], [-0.6, 0.8]])]
    centre = np.average(means, axis=0, weights=weights)
    spread = np.average(
        [np.diag(r @ r.T) + (m - centre) ** 2 for r, m in zip(roots, means, strict=True)], axis=0, weights=weights
    )
    width = np.sqrt(spread)
    precisions = [np.linalg.inv(r @ r.T) * np.outer(width, width) for r in roots]
    return Mixture(weights, ((means - centre) / width).tolist(), [p.tolist() for p in precisions])


PROBLEMS: dict[str, Callable[[], Mixture]] = {"gauss10": gauss10, "two_modes": two_modes}


@dataclass(frozen=True)
class Work:
    """What is asked of a worker."""

    problem: str
    estimator: str
    steps: int
    batch: int
    rate: float
    seed: int
    threads: int
    draws: int  # that measure the result


@dataclass(frozen=True)
class Answer:
    """What it answers: seconds of training and of compiling, the lower bound with its error, the mass of the first mode."""

    seconds: float
    compiling: float
    elbo: float
    error: float
    mass: float
    versions: dict[str, str]


def measured(log_weights: Array, x: Array, seconds: float, compiling: float, versions: dict[str, str]) -> Answer:
    """The answer of draws and their importance weights."""
    error = float(log_weights.std() / np.sqrt(len(log_weights)))
    return Answer(seconds, compiling, float(log_weights.mean()), error, float((x[:, 0] < 0).mean()), versions)


def serve(train: Callable[[Work, Mixture], Answer]) -> None:
    """Answer one request, from stdin to stdout."""
    work = Work(**json.load(sys.stdin))
    print(json.dumps(asdict(train(work, PROBLEMS[work.problem]()))))
