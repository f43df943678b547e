"""Specs of layers. ``LAYERS`` is the only list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from penstock.layers.actnorm import ActNorm
from penstock.layers.autoregressive import Autoregressive
from penstock.layers.coupling import Coupling
from penstock.layers.elementwise import Elementwise
from penstock.layers.lu_linear import LULinear
from penstock.layers.permutation import Permutation

if TYPE_CHECKING:
    from penstock.plan import PlanBuilder


class Layer(Protocol):
    """What plan and flow need to know of a layer."""

    def resolve(self, dim: int, rng: np.random.Generator) -> Layer:
        """The same layer for a given width, with every random choice made and every index checked."""
        ...

    def compile(self, builder: PlanBuilder) -> None:
        """Add this layer's step to a plan."""
        ...


LAYERS: dict[str, type] = {
    cls.__name__: cls for cls in (Coupling, Elementwise, Permutation, ActNorm, LULinear, Autoregressive)
}

__all__ = ["LAYERS", "ActNorm", "Autoregressive", "Coupling", "Elementwise", "LULinear", "Layer", "Permutation"]
