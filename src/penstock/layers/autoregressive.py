"""Spec of the autoregressive layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from penstock._validate import choice, index_list
from penstock.conditioners import MLP
from penstock.layers.protocol import Builder
from penstock.transforms import Affine, Transform


@dataclass(frozen=True)
class Autoregressive:
    """Transform every dimension with parameters computed from those before it, ``y_i = g(x_i; h(x_<i))``.

    The network is masked: hidden units have degrees, and a unit reads only what has no higher one. In one direction all
    ``x`` are known and the network runs once; in the other the dimensions come one by one, and each hidden unit is
    evaluated as soon as what it reads is known. So each unit is evaluated once in either direction, the arithmetic is the
    same, and so are the bits of every unit; the two directions cost nearly the same.

    Parameters
    ----------
    transform : Transform, default Affine()
        The elementwise bijection ``g``; on circles and boxes it is the spline of their kind.
    conditioner : MLP, default MLP()
        The network ``h``, to be masked. Hidden layers may be wider or narrower than the number of dimensions; one narrower
        leaves some dimensions without units of their own degree. With ``hidden=()`` theta is linear in the dimensions before.
    order : {"identity", "reverse", "random"} or sequence of int, default "identity"
        The order of the dimensions: the first to be independent of all others is ``order[0]``. ``"random"`` is drawn when
        the flow is built.
    explicit : {"to_latent", "to_data"}, default "to_latent"
        The direction in which the transform's own formula runs and all inputs of the network are known at once:
        ``"to_latent"`` for masked autoregressive flows, ``"to_data"`` for inverse autoregressive ones.

    References
    ----------
    Germain, Gregor, Murray, Larochelle, "MADE: Masked Autoencoder for Distribution Estimation" (2015);
    Papamakarios, Pavlakou, Murray, "Masked Autoregressive Flow for Density Estimation" (2017), section 3;
    Kingma et al., "Improved Variational Inference with Inverse Autoregressive Flow" (2016).

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.StandardNormal(3), [ps.Autoregressive(ps.RationalQuadratic(), ps.MLP((32,)))], rng=0)
    >>> flow.sample(5, rng=0).shape
    (5, 3)
    """

    transform: Transform = field(default_factory=Affine)
    conditioner: MLP = field(default_factory=MLP)
    order: str | tuple[int, ...] = "identity"
    explicit: str = "to_latent"

    lines_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        choice(self.explicit, ("to_latent", "to_data"), name="explicit")
        if isinstance(self.order, str):
            choice(self.order, ("identity", "reverse", "random"), name="order")
        else:
            object.__setattr__(self, "order", index_list(self.order, name="order"))

    def resolve(self, dim: int, n_lines: int, rng: np.random.Generator) -> Autoregressive:
        """The same layer for a given width, with every random choice made and every index checked."""
        if self.order == "random":
            return replace(self, order=tuple(int(i) for i in rng.permutation(dim)))
        if not isinstance(self.order, str) and sorted(self.order) != list(range(dim)):
            raise ValueError(f"order must hold each of 0..{dim - 1} once, got {self.order}")
        return self

    def dimensions(self, dim: int) -> tuple[int, ...]:
        """All dimensions, in the layer's order."""
        if isinstance(self.order, str):
            return tuple(range(dim))[:: -1 if self.order == "reverse" else 1]
        return self.order

    def compile(self, builder: Builder) -> None:
        """Add this layer's step to a plan."""
        order = self.dimensions(builder.dim)
        builder.transform_step("autoregressive", (), order, self.transform, self.conditioner, self.explicit)
