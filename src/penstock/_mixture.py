"""Mixtures of k normals in one dimension, one for each row: distribution function and quantiles, in float64.

One of several dimensions is such a mixture, too, where others are given, or left out.

The numbers of a mixture in n dimensions are logarithms of weights (k), means (k, n) and logarithms of scales (k, n), in turn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock import _normal
from penstock._typing import Array

STEPS = 200  # of a root


def parts(numbers: Array, k: int) -> tuple[Array, Array, Array]:
    """Logarithms of weights, (..., k), means and log-scales, (..., k, n)."""
    size = (numbers.shape[-1] - k) // 2
    logit, mean, log_scale = np.split(numbers.astype(np.float64), [k, k + size], axis=-1)
    shape = (*numbers.shape[:-1], k, size // k)
    return logit, mean.reshape(shape), log_scale.reshape(shape)


def of_rows(numbers: Array, k: int) -> tuple[Array, Array, Array]:
    """Weights, means and log-scales of mixtures in one dimension, (rows or 1, k)."""
    logit, mean, log_scale = parts(np.atleast_2d(numbers), k)
    return weights(logit), mean[..., 0], log_scale[..., 0]


def one(numbers: Array, k: int, place: int, before: Sequence[int], z: Array) -> Array:
    """The numbers of one dimension by itself, others known, ``z`` (rows, before): their densities weigh the components."""
    logit, mean, log_scale = parts(numbers, k)
    with np.errstate(over="ignore"):
        for j, i in enumerate(before):
            logit = logit + log_density((z[:, j, None] - mean[..., i]) * np.exp(-log_scale[..., i]), log_scale[..., i])
    return np.concatenate(np.broadcast_arrays(logit, mean[..., place], log_scale[..., place]), axis=-1)


def weights(logits: Array) -> Array:
    """Their softmax along the last axis."""
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found: Array = shares / shares.sum(axis=-1, keepdims=True)
    return found


def log_density(t: Array, log_scale: Array) -> Array:
    """That of a normal at the standardised ``t``, but for a constant."""
    return -0.5 * t * t - log_scale


def cdf(z: Array, weight: Array, mean: Array, log_scale: Array, *, upper: bool = False) -> Array:
    """The distribution function at ``z`` (rows,) of components (rows or 1, k); ``upper`` gives 1 minus it."""
    t = (z[:, None] - mean) * np.exp(-log_scale)
    found: Array = (weight * _normal.cdf(-t if upper else t)).sum(axis=1) / weight.sum(axis=1)
    return found


def quantile(u: Array, weight: Array, mean: Array, log_scale: Array, *, upper: bool = False) -> Array:
    """The inverse of ``cdf`` for ``u`` (rows,): Newton's steps on its logarithm, in a bracket that the components give,
    and bisection where they do not halve each other.
    """
    shape = (len(u), weight.shape[-1])
    weight, mean, log_scale = (np.broadcast_to(part, shape) for part in (weight, mean, log_scale))
    own = _normal.quantile(u)[:, None]
    each = mean + np.exp(log_scale) * (-own if upper else own)  # the root lies between these
    low, high = each.min(axis=1), each.max(axis=1)
    z: Array = low.copy()
    last = np.full(len(u), np.inf)
    open_ = np.flatnonzero(low < high)
    z[open_] = np.clip((weight * each)[open_].sum(axis=1), low[open_], high[open_])
    for _ in range(STEPS):
        if len(open_) == 0:
            break
        old, parts = z[open_], (weight[open_], mean[open_], log_scale[open_])
        share = cdf(old, *parts, upper=upper)
        t = (old[:, None] - parts[1]) * np.exp(-parts[2])
        slope = (parts[0] * np.exp(log_density(t, parts[2]))).sum(axis=1) / np.sqrt(2 * np.pi)
        below = (share < u[open_]) != upper  # the root lies above
        low[open_], high[open_] = np.where(below, old, low[open_]), np.where(below, high[open_], old)
        with np.errstate(all="ignore"):
            step = np.log(share / u[open_]) * share / slope
        new = old + step if upper else old - step
        middle = 0.5 * low[open_] + 0.5 * high[open_]
        good = (new >= low[open_]) & (new <= high[open_]) & (np.abs(new - old) <= 0.5 * last[open_])
        z[open_] = np.where(good, new, middle)
        last[open_] = np.abs(z[open_] - old)
        done = (np.abs(z[open_] - old) <= 4e-16 * np.abs(old)) | (low[open_] >= high[open_]) | (middle <= low[open_])
        open_ = open_[~done & (share != u[open_])]
    return z
