"""The distribution of the latent side, dimension by dimension: the base on lines, uniform on circles and boxes. In float64."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.base import Uniform, blocks
from penstock.plan import BASE, Plan
from penstock.spec import FlowSpec, latent_kinds

ENDS = {"circle": math.pi, "box": 1.0}  # of the interval [-end, end] that latents of a kind fill


def cdf(spec: FlowSpec, plan: Plan, params: Array, z: Array, *, upper: bool = False) -> Array:
    """The distribution function of each dimension at latents ``z``, (rows, dim); ``upper`` gives 1 minus it, without
    cancellation. NaN passes.

    Raises
    ------
    ValueError
        If the base is a mixture, or depends on the context.
    """
    found = np.full(z.shape, np.nan)
    for base, slots, numbers in _parts(spec, plan, params):
        found[..., slots] = base.cdf(z[..., slots], numbers, upper=upper)
    return found


def quantile(spec: FlowSpec, plan: Plan, params: Array, u: Array, *, upper: bool = False) -> Array:
    """The inverse of ``cdf``, ``upper`` or not, for numbers in [0, 1] of shape (..., dim); infinite at the ends of a line."""
    found = np.full(u.shape, np.nan)
    for base, slots, numbers in _parts(spec, plan, params):
        found[..., slots] = base.quantile(u[..., slots], numbers, upper=upper)
    return found


def _parts(spec: FlowSpec, plan: Plan, params: Array) -> Iterator[tuple[Any, list[int], Array]]:
    """The blocks of the base, their slots and their numbers."""
    kinds = latent_kinds(spec)
    for number, (base, dims) in enumerate(blocks(spec.base)):
        places = [i for i, slot in enumerate(dims) if kinds[slot] == "line"]
        if not places:
            continue
        if base.conditioner is not None:
            raise ValueError(
                "the base depends on the context by a network of its own: cdf, quantile and prior_transform need another one"
            )
        tensors = plan.tensors_of(BASE - number)
        numbers = params[tensors[0].offset : tensors[-1].stop] if tensors else np.array(base.fixed(places))
        yield base, [dims[i] for i in places], numbers
    for kind, end in ENDS.items():
        slots = [slot for slot, own in enumerate(kinds) if own == kind]
        if slots:
            yield Uniform(len(slots), -end, end), slots, np.zeros(0)
