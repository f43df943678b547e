"""Spec of the elementwise layer: a transform on every dimension, its parameters free or a function of the context."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from penstock._validate import choice
from penstock.conditioners import MLP
from penstock.layers.protocol import Builder, lines
from penstock.transforms import Additive, Affine, Transform


@dataclass(frozen=True)
class Elementwise:
    """Transform every dimension by itself, with parameters that are trained directly or depend on the context alone.

    ``y_i = g(x_i; theta_i)`` with ``theta`` free, or ``theta = h(c)`` of the context.

    Parameters
    ----------
    transform : Transform, default Affine()
        The elementwise bijection. A spline acts on every dimension as that of its kind, an affine or additive map on the line
        dimensions alone.
    conditioner : MLP, optional
        The network that maps the context to the parameters of the transform; the flow then needs a context.
        Without one the parameters are trained directly.
    explicit : {"to_latent", "to_data"}, default "to_latent"
        The direction in which the transform's own formula runs.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.StandardNormal(1), [ps.Elementwise(ps.RationalQuadratic(bins=4))], rng=0)
    >>> flow.n_free
    11
    """

    transform: Transform = field(default_factory=Affine)
    conditioner: MLP | None = None
    explicit: str = "to_latent"

    def __post_init__(self) -> None:
        choice(self.explicit, ("to_latent", "to_data"), name="explicit")

    @property
    def lines_only(self) -> bool:
        """Whether it acts on the line dimensions alone."""
        return isinstance(self.transform, (Affine, Additive))

    def resolve(self, dim: int, n_lines: int, rng: np.random.Generator) -> Elementwise:
        """The same layer: it has nothing random and fits any width."""
        return self

    def compile(self, builder: Builder) -> None:
        """Add this layer's step to a plan."""
        if self.conditioner is not None and builder.context_dim == 0:
            raise ValueError("an Elementwise layer with a conditioner reads the context, and context_dim is 0")
        some = lines(builder.kinds) if self.lines_only else tuple(range(builder.dim))
        builder.transform_step("elementwise", (), some, self.transform, self.conditioner, self.explicit)
