"""The standard normal distribution function and its inverse, in float64, as accurate in the lower tail as in the middle."""

from __future__ import annotations

import math

import numpy as np

from penstock._typing import Array

ROOT_HALF = math.sqrt(0.5)


def cdf(z: Array) -> Array:
    """``Phi(z) = erfc(-z / sqrt(2)) / 2`` by the C library's ``erfc``, whose relative accuracy holds down to the smallest
    number.
    """
    flat = (z.astype(np.float64) * -ROOT_HALF).ravel()
    return np.array([0.5 * math.erfc(number) for number in flat.tolist()]).reshape(z.shape)


def quantile(u: Array) -> Array:
    """The inverse of ``cdf`` for numbers in [0, 1]: -inf at 0 and inf at 1.

    Algorithm AS 241 of Wichura, "The percentage points of the normal distribution" (1988), as Python's ``statistics`` has
    it: to about one part in 10^16.
    """
    from statistics import NormalDist  # its own imports take longer than ours

    inside = NormalDist().inv_cdf
    ends = {0.0: -math.inf, 1.0: math.inf}
    flat = u.astype(np.float64).ravel().tolist()
    return np.array([inside(number) if 0.0 < number < 1.0 else ends[number] for number in flat]).reshape(u.shape)
