"""The distribution of the latent side, dimension by dimension: the base on lines, uniform on circles and boxes. In float64."""

from __future__ import annotations

import math

import numpy as np

from penstock._typing import Array
from penstock.spec import FlowSpec, latent_kinds

ENDS = {"circle": math.pi, "box": 1.0}  # of the interval [-end, end] that latents of a kind fill


def cdf(spec: FlowSpec, z: Array, *, upper: bool = False) -> Array:
    """The distribution function of each dimension at latents ``z``, (rows, dim); ``upper`` gives 1 minus it, without
    cancellation. NaN passes.
    """
    found = spec.base.cdf(z, upper=upper)
    for i, kind in enumerate(latent_kinds(spec)):
        if kind in ENDS:
            part = 0.5 * (z[..., i].astype(np.float64) / ENDS[kind])
            found[..., i] = np.clip(0.5 - part if upper else 0.5 + part, 0.0, 1.0)
    return found


def quantile(spec: FlowSpec, u: Array, *, upper: bool = False) -> Array:
    """The inverse of ``cdf``, ``upper`` or not, for numbers in [0, 1] of shape (..., dim); infinite at the ends of a line."""
    found = spec.base.quantile(u, upper=upper)
    for i, kind in enumerate(latent_kinds(spec)):
        if kind in ENDS:
            part = (2 * u[..., i] - 1) * ENDS[kind]
            found[..., i] = -part if upper else part
    return found
