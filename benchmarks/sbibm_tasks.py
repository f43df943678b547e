"""Six tasks of the sbi benchmark: priors, simulators, what its paper reports, and what is asked of penstock.

Lueckmann, Boelts, Greenberg, Goncalves, Macke, "Benchmarking Simulation-Based Inference" (2021), appendix on tasks. A simulator
takes parameters, a row for each simulation, and a generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]
BUDGETS = (10_000, 100_000)
FLOOR = 0.510  # from which on a score counts as met


@dataclass(frozen=True)
class Task:
    """A prior, a simulator, published scores and minutes for the two budgets, and the scores to reach.

    ``also`` is what else has to be beaten: the published NLE and REJ-ABC.
    """

    prior: Any
    simulate: Callable[[Array, np.random.Generator], Array]
    published: tuple[float, float]
    minutes: tuple[float, float]
    bars: tuple[float, float]
    also: tuple[float, float] = (np.inf, np.inf)

    def bar(self, simulations: int) -> float:
        """What a mean C2ST has to be below."""
        k = BUDGETS.index(simulations)
        return max(FLOOR, min(self.published[k], self.bars[k], self.also[k]))


def gaussian(theta: Array, rng: np.random.Generator) -> Array:
    """A normal around the parameters, of variance 0.1."""
    return rng.normal(theta, np.sqrt(0.1))


def gaussian_mixture(theta: Array, rng: np.random.Generator) -> Array:
    """A normal around the parameters, of standard deviation 1 or 0.1 with equal chance."""
    width = np.where(rng.uniform(size=(len(theta), 1)) < 0.5, 1.0, 0.1)
    return theta + width * rng.standard_normal(theta.shape)


def two_moons(theta: Array, rng: np.random.Generator) -> Array:
    """A point of a crescent, moved by the parameters."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(0.1, 0.01, len(theta))
    moon = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
    first, second = theta.T
    return moon + np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)


def slcp(theta: Array, rng: np.random.Generator) -> Array:
    """Four draws of a normal in the plane, whose covariance the parameters give in a roundabout way."""
    first, second, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    noise = rng.standard_normal((len(theta), 4, 2))
    # The Cholesky factor of [[s1^2, rho s1 s2], [rho s1 s2, s2^2]] + 1e-6 I.
    a = np.sqrt(first**2 + 1e-6)
    b = rho * first * second / a
    c = np.sqrt(second**2 + 1e-6 - b**2)
    x = theta[:, None, 0] + a[:, None] * noise[..., 0]
    y = theta[:, None, 1] + b[:, None] * noise[..., 0] + c[:, None] * noise[..., 1]
    return np.stack([x, y], axis=-1).reshape(len(theta), 8)


def design() -> Array:
    """The design matrix of the linear model, (100, 10): ones, and white noise delayed by 0 to 8 steps."""
    stimulus = np.random.RandomState(42).randn(100).astype(np.float32).astype(np.float64)
    columns = [np.ones(100)] + [np.concatenate([np.zeros(lag), stimulus[: 100 - lag]]) for lag in range(9)]
    return np.stack(columns, axis=1)


DESIGN = design()


def bernoulli_glm(theta: Array, rng: np.random.Generator) -> Array:
    """Spikes of a neuron, as their sufficient statistics ``X' y``: their count, and sums of the stimulus at each lag."""
    out = np.zeros(theta.shape)
    for first in range(0, len(theta), 4096):  # 100 steps a simulation
        part = slice(first, first + 4096)
        rate = 1 / (1 + np.exp(-theta[part] @ DESIGN.T))
        out[part] = (rng.uniform(size=rate.shape) < rate) @ DESIGN
    return out


def smooth_prior() -> ps.sbi.Normal:
    """A normal that is smooth over lags: second differences of the filter have unit precision."""
    difference = np.eye(9) - np.eye(9, k=-1)
    f = difference @ difference + np.diag(np.sqrt(np.arange(9) / 9))
    precision = np.zeros((10, 10))
    precision[0, 0], precision[1:, 1:] = 0.5, f.T @ f
    return ps.sbi.Normal(np.zeros(10), cov=np.linalg.inv(precision))


TASKS = {
    "two_moons": Task(
        ps.sbi.BoxUniform(-1, 1, dim=2), two_moons, (0.606, 0.542), (6.20, 24.53), (0.53, 0.52), (0.713, 0.664)
    ),
    "gaussian_mixture": Task(  # published: the rerun, with a component for each row
        ps.sbi.BoxUniform(-10, 10, dim=2), gaussian_mixture, (0.615, 0.548), (5.18, 18.16), (0.60, 0.54), (0.723, 0.690)
    ),
    "gaussian_linear": Task(
        ps.sbi.Normal(0, np.sqrt(0.1), dim=10), gaussian, (0.552, 0.506), (3.36, 24.91), (0.54, 0.51), (0.555, 0.515)
    ),
    "gaussian_linear_uniform": Task(
        ps.sbi.BoxUniform(-1, 1, dim=10), gaussian, (0.553, 0.509), (5.59, 34.25), (0.54, 0.51), (0.548, 0.506)
    ),
    "slcp": Task(ps.sbi.BoxUniform(-3, 3, dim=5), slcp, (0.901, 0.831), (7.85, 60.36), (0.82, 0.72)),
    "bernoulli_glm": Task(smooth_prior(), bernoulli_glm, (0.678, 0.559), (10.32, 68.74), (0.62, 0.545)),
}  # fmt: skip
