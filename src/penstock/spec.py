"""The frozen description of a flow: its base, layers, embedding and number type, with every random choice made."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.base import StandardNormal
from penstock.conditioners import MLP
from penstock.layers import Layer
from penstock.transforms import CircularRationalQuadratic


@dataclass(frozen=True)
class FlowSpec:
    """The frozen description of a flow, enough to build another: ``ps.Flow(spec.base, spec.layers, dtype=spec.dtype)``.

    Attributes
    ----------
    base : StandardNormal
    layers : tuple of layers, from latent to data
        With every random choice made.
    context_dim : int
    dtype : str
    embedding : MLP or None
    embedding_dim : int
        0 without an embedding.
    """

    base: StandardNormal
    layers: tuple[Layer, ...]
    context_dim: int = 0
    dtype: str = "float32"
    embedding: MLP | None = None
    embedding_dim: int = 0

    def __str__(self) -> str:
        lines = "".join(f"\n    {layer}," for layer in self.layers)
        embedding = f"\n  embedding={self.embedding}, embedding_dim={self.embedding_dim}," if self.embedding else ""
        return (
            f"FlowSpec(\n  base={self.base},\n  layers=({lines}\n  ),\n"
            f"  context_dim={self.context_dim}, dtype={self.dtype!r},{embedding}\n)"
        )


def circular_layers(spec: FlowSpec) -> list[int]:
    """Numbers of the layers whose transform wraps around a circle."""
    transforms = [getattr(layer, "transform", None) for layer in spec.layers]
    return [number for number, transform in enumerate(transforms) if isinstance(transform, CircularRationalQuadratic)]
