"""Specs of layers. ``LAYERS`` is the only list."""

from __future__ import annotations

from penstock.layers.actnorm import ActNorm
from penstock.layers.autoregressive import Autoregressive
from penstock.layers.coupling import Coupling
from penstock.layers.elementwise import Elementwise
from penstock.layers.lu_linear import LULinear
from penstock.layers.permutation import Permutation
from penstock.layers.protocol import Builder, Layer

LAYERS: dict[str, type] = {
    cls.__name__: cls for cls in (Coupling, Elementwise, Permutation, ActNorm, LULinear, Autoregressive)
}

__all__ = [
    "LAYERS", "ActNorm", "Autoregressive", "Builder", "Coupling", "Elementwise", "LULinear", "Layer", "Permutation",
]  # fmt: skip
