"""Spec of the elementwise layer: a transform with free parameters on every dimension."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from penstock._validate import choice
from penstock.transforms import Affine, Transform

if TYPE_CHECKING:
    from penstock.plan import PlanBuilder


@dataclass(frozen=True)
class Elementwise:
    """Transform every dimension by itself, with parameters that are trained directly.

    Parameters
    ----------
    transform : Transform, default Affine()
        The elementwise bijection.
    explicit : {"to_latent", "to_data"}, default "to_latent"
        The direction in which the transform's own formula runs.
    """

    transform: Transform = field(default_factory=Affine)
    explicit: str = "to_latent"

    def __post_init__(self) -> None:
        choice(self.explicit, ("to_latent", "to_data"), name="explicit")

    def resolve(self, dim: int, rng: np.random.Generator) -> Elementwise:
        """The same layer: it has nothing random and fits any width."""
        return self

    def compile(self, builder: PlanBuilder) -> None:
        """Add this layer's step to a plan."""
        builder.transform_step("elementwise", (), tuple(range(builder.dim)), self.transform, None, self.explicit)
