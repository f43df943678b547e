"""Spec of ActNorm: a free affine map that starts by normalising what it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock.layers.protocol import Builder, lines
from penstock.transforms import Affine

AFFINE = Affine(scale_bound=float("inf"))


@dataclass(frozen=True)
class ActNorm:
    """``z = exp(s) x + t`` of each line dimension, with ``s, t`` set at the first ``fit`` so that ``z`` has mean 0, std 1.

    It is the elementwise affine layer with a free log-scale and a data-dependent start; constant
    columns keep ``s = 0``.

    References
    ----------
    Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions" (2018), section 3.1.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.StandardNormal(2), [ps.ActNorm(), ps.Coupling()], rng=0)
    >>> flow.n_free - ps.Flow(ps.StandardNormal(2), [ps.Coupling()], rng=0).n_free
    4
    """

    transform: ClassVar[None] = None  # it is not the user's to choose
    conditioner: ClassVar[None] = None
    lines_only: ClassVar[bool] = True

    def resolve(self, dim: int, n_lines: int, rng: np.random.Generator) -> ActNorm:
        """The same layer: it has nothing random and fits any width."""
        return self

    def compile(self, builder: Builder) -> None:
        """Add this layer's step to a plan."""
        builder.transform_step("elementwise", (), lines(builder.kinds), AFFINE, None, "to_latent")
