"""Where an unnormalised density lies and how wide it is, from its gradient alone: a Gaussian that matches its scores.

Batch and match: draws of the present Gaussian, the gradients of log p there, and the Gaussian between the old one and the
one whose own scores are these, in closed form. No learning rate, and no care for units: a Gaussian target of any correlation
is met in a few rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock.targets import LogDensity, evaluated

ROUNDS, BATCH = 100, 64
DENSE = 128  # dimensions up to which correlations are kept: a round costs dim^3
CLIMBED = 1024  # dimensions up to which a mode is looked for: a step costs dim^2
# Steps to the mode, and lengths that are tried together along the direction of each.
STEPS, LENGTHS = 200, 0.5 ** np.arange(-2, 22)
JUDGED = 8  # batches that tell the better of two


class Pilot(NamedTuple):
    """What was found.

    Attributes
    ----------
    loc, scale : float64 arrays of shape (dim,)
        Means and standard deviations, marginal ones as long as correlations were kept.
    evaluations : int
        Rows at which the target was asked.
    root : float64 array of shape (dim, dim), or None
        A root of the covariance, ``root root^T``, where correlations were kept.
    """

    loc: Array
    scale: Array
    evaluations: int
    root: Array | None


def pilot(
    log_density: LogDensity, draw: Callable[[int, int], Array], dim: int, widest: Array | None = None
) -> Pilot | None:
    """Fit a Gaussian to a target, from the standard normal and from a mode; None where the target is finite nowhere near 0.

    Of the two fits the one with the higher lower bound counts: a mode is reached from far away, where the other one gets
    stuck, and it may be a spike far from the bulk of the mass.

    Parameters
    ----------
    log_density : callable
    draw : callable
        ``draw(first, n)`` gives standard normal rows by number.
    dim : int
    widest : array of shape (dim,), optional
        Standard deviations that are not exceeded, such as that of a uniform angle.
    """
    asked = 0

    def counted(x: Array) -> tuple[Array, Array]:
        nonlocal asked
        asked += len(x)
        log_p, slope = evaluated(log_density, x, gradient=True)
        assert slope is not None
        good = np.isfinite(log_p) & np.isfinite(slope).all(axis=1)
        return np.where(good, log_p, -math.inf), slope  # the arrays may be the target's own

    kind = _Dense if dim <= DENSE else _Diagonal
    starts = [kind(np.zeros(dim), np.eye(dim) if dim <= DENSE else np.ones(dim))]
    if dim <= CLIMBED:
        loc, inverse = climbed(counted, dim)
        starts.append(kind.of(loc, inverse))
    best, bound = None, -math.inf
    for state in starts:
        reached = matched(counted, draw, state, dim, widest)
        if reached > bound or best is None:
            best, bound = state, reached
    assert best is not None
    loc, scale = best.loc, best.scale()
    usable = bound > -math.inf and bool(np.isfinite(loc).all() and np.isfinite(scale).all() and (scale > 0).all())
    return Pilot(loc, scale, asked, getattr(best, "root", None)) if usable else None


def matched(
    target: Callable[[Array], tuple[Array, Array]], draw: Any, state: Any, dim: int, widest: Array | None = None
) -> float:
    """Match a Gaussian to the scores of a target; its lower bound ``E[log p] + entropy``, of the part of its draws that count.

    With the mean ``m`` and covariance ``S`` of the present Gaussian, draws ``x`` with mean ``x'`` and covariance ``C``, their
    gradients with mean ``g'`` and covariance ``G``, and ``l = BATCH dim / (t + 1)`` in round t from 0:
    ``U = l G + l / (1 + l) g' g'^T``, ``V = S + l C + l / (1 + l) (m - x')(m - x')^T``, and the new Gaussian has
    ``S = 2 V (1 + (1 + 4 U V)^(1/2))^-1`` and ``m = (m + l (S g' + x')) / (1 + l)``. Rows whose density or gradient is not
    finite are left out; where nearly all are, the Gaussian halves its width instead.

    References
    ----------
    Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei, Saul, "Batch and match: black-box variational inference with a
    score-based divergence" (2024), algorithm 1.
    """
    for turn in range(ROUNDS):
        x = state.rows(draw(turn * BATCH, BATCH).astype(np.float64))
        log_p, slope = target(x)
        good = log_p > -math.inf
        if good.sum() < 2 or not state.match(x[good], slope[good], BATCH * dim / (turn + 1)):
            state.shrink()
        if widest is not None:
            state.narrow(widest)
    n = JUDGED * BATCH
    log_p, _ = target(state.rows(draw(ROUNDS * BATCH, n).astype(np.float64)))
    good = log_p > -math.inf
    # One that puts much of its mass where p is 0 is the worse for it.
    lost = n * math.log(n / max(int(good.sum()), 1))
    return float(log_p[good].mean()) + state.log_volume() - lost if good.any() else -math.inf


def climbed(target: Callable[[Array], tuple[Array, Array]], dim: int) -> tuple[Array, Array]:
    """Walk from 0 to a mode by BFGS, the best of some step lengths at a time: the place, and its inverse Hessian.

    References
    ----------
    Nocedal, Wright, "Numerical Optimization" (2006), equation 6.17.
    """
    x, plain = np.zeros(dim), True
    (log_p,), (slope,) = target(x[None])
    inverse = learned = np.eye(dim)
    for _ in range(STEPS):
        if not math.isfinite(log_p):
            break
        if plain:  # units of the dimensions, which may lie decades apart
            inverse = np.diag(1 / np.maximum(_curvature(target, x), np.abs(slope) * 1e-3 + 1e-300))
        rows = x + LENGTHS[:, None] * (inverse @ slope)
        values, slopes = target(rows)
        k = int(np.argmax(values))
        if not values[k] - log_p > 1e-9 * dim:
            if plain:
                break
            plain, learned = True, inverse
            continue
        step, fall = rows[k] - x, slope - slopes[k]
        x, log_p, slope = rows[k], values[k], slopes[k]
        product = float(step @ fall)
        if product > 0:
            side = np.eye(dim) - np.outer(step, fall) / product
            inverse = side @ inverse @ side.T + np.outer(step, step) / product
            plain = not bool(np.isfinite(inverse).all())
    return x, learned if plain else inverse


def _curvature(target: Callable[[Array], tuple[Array, Array]], x: Array) -> Array:
    """Second derivatives along each dimension, without their signs, by central differences of the gradient."""
    h = 1e-5 * (1 + np.abs(x))
    _, slopes = target(np.concatenate([x + np.diag(h), x - np.diag(h)]))
    above, below = np.diag(slopes[: len(x)]), np.diag(slopes[len(x) :])
    second: Array = np.nan_to_num(np.abs(above - below) / (2 * h), posinf=0.0)
    return second


class _Dense:
    """A Gaussian with a covariance."""

    def __init__(self, loc: Array, root: Array) -> None:
        self.loc, self.root = loc, root

    @classmethod
    def of(cls, loc: Array, covariance: Array) -> _Dense:
        """With this covariance."""
        w, q = np.linalg.eigh(covariance)
        return cls(loc, q * np.sqrt(np.maximum(w, w[-1] * 1e-30)))

    def log_volume(self) -> float:
        """The logarithm of the determinant of the root of the covariance."""
        return float(np.linalg.slogdet(self.root)[1])

    def rows(self, z: Array) -> Array:
        """Draws from standard normal ones."""
        x: Array = self.loc + z @ self.root.T
        return x

    def scale(self) -> Array:
        """Standard deviations."""
        spread: Array = np.sqrt((self.root**2).sum(axis=1))
        return spread

    def shrink(self) -> None:
        """Halve the width."""
        self.root = self.root / 2

    def narrow(self, widest: Array) -> None:
        """Bring dimensions that are wider down to these standard deviations."""
        self.root = self.root * np.minimum(1, widest / np.maximum(self.scale(), 1e-300))[:, None]

    def match(self, x: Array, slope: Array, rate: float) -> bool:
        """Take a step, unless it leads out of what can be represented."""
        mean, push, part = x.mean(axis=0), slope.mean(axis=0), rate / (1 + rate)
        dx, dg = (x - mean) / len(x) ** 0.5, (slope - push) / len(x) ** 0.5
        away = self.loc - mean
        u = rate * dg.T @ dg + part * np.outer(push, push)
        v = self.root @ self.root.T + rate * dx.T @ dx + part * np.outer(away, away)
        if not (np.isfinite(u).all() and np.isfinite(v).all()):
            return False
        # With V = R R^T the matrix under the root is similar to the symmetric 1 + 4 R^T U R. R = D Q sqrt(w), where D has
        # the widths, so that units do not count.
        width = np.sqrt(np.diag(v))
        if not width.all():
            return False
        w, q = np.linalg.eigh(v / np.outer(width, width))
        root = width[:, None] * q * np.sqrt(np.maximum(w, 0.0))
        inner = root.T @ u @ root
        if not np.isfinite(inner).all():
            return False
        w, q = np.linalg.eigh(inner)
        root = root @ (q * np.sqrt(2 / (1 + np.sqrt(1 + 4 * np.maximum(w, 0.0)))))
        loc = (self.loc + rate * (root @ (root.T @ push) + mean)) / (1 + rate)
        if not (np.isfinite(root).all() and np.isfinite(loc).all()):
            return False
        self.loc, self.root = loc, root
        return True


class _Diagonal:
    """A Gaussian of independent dimensions."""

    def __init__(self, loc: Array, spread: Array) -> None:
        self.loc, self._spread = loc, spread

    @classmethod
    def of(cls, loc: Array, covariance: Array) -> _Diagonal:
        """With the diagonal of this covariance."""
        return cls(loc, np.sqrt(np.diag(covariance)))

    def log_volume(self) -> float:
        """The logarithm of the product of the standard deviations."""
        return math.fsum(map(math.log, self._spread.tolist()))

    def rows(self, z: Array) -> Array:
        """Draws from standard normal ones."""
        x: Array = self.loc + z * self._spread
        return x

    def scale(self) -> Array:
        """Standard deviations."""
        return self._spread

    def shrink(self) -> None:
        """Halve the width."""
        self._spread = self._spread / 2

    def narrow(self, widest: Array) -> None:
        """Bring dimensions that are wider down to these standard deviations."""
        self._spread = np.minimum(self._spread, widest)

    def match(self, x: Array, slope: Array, rate: float) -> bool:
        """Take a step, unless it leads out of what can be represented."""
        mean, push, part = x.mean(axis=0), slope.mean(axis=0), rate / (1 + rate)
        u = rate * slope.var(axis=0) + part * push**2
        v = self._spread**2 + rate * x.var(axis=0) + part * (self.loc - mean) ** 2
        variance = 2 * v / (1 + np.sqrt(1 + 4 * u * v))
        loc = (self.loc + rate * (variance * push + mean)) / (1 + rate)
        if not (np.isfinite(variance).all() and (variance > 0).all() and np.isfinite(loc).all()):
            return False
        self.loc, self._spread = loc, np.sqrt(variance)
        return True
