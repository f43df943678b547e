"""The frozen description of a flow: its base, layers, embedding and number type, with every random choice made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate
from penstock.base import BASES, AnyBase, blocks
from penstock.conditioners import MLP
from penstock.layers import LAYERS, Elementwise, Layer, Permutation
from penstock.support import Support, kinds
from penstock.transforms import TRANSFORMS, CircularRationalQuadratic


@dataclass(frozen=True)
class FlowSpec:
    """The frozen description of a flow, enough to build another: ``ps.Flow(spec.base, spec.layers, dtype=spec.dtype)``.

    Attributes
    ----------
    base : StandardNormal, Normal, Uniform, StudentT, GaussianMixture or Product
    layers : tuple of layers, from latent to data
        With every random choice made.
    context_dim : int
    dtype : str
    embedding : MLP or None
    embedding_dim : int
        0 without an embedding.
    support : tuple of Real, Interval, Periodic, Ordered and Simplex
        One for each column, the last two in the place of each of their columns; empty where all are real.
    context_support : tuple of Real, Interval and Periodic
        One for each conditioning variable; empty where all are real.

    Examples
    --------
    >>> import penstock as ps
    >>> spec = ps.realnvp(2, layers=2, rng=0).spec
    >>> twin = ps.Flow(spec.base, spec.layers, dtype="float64")
    >>> twin.spec.layers == spec.layers
    True
    """

    base: AnyBase
    layers: tuple[Layer, ...]
    context_dim: int = 0
    dtype: str = "float32"
    embedding: MLP | None = None
    embedding_dim: int = 0
    support: tuple[Support, ...] = ()
    context_support: tuple[Support, ...] = ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each column: "line", "circle" or "box"."""
        return kinds(self.support, self.base.dim)

    @property
    def context_kinds(self) -> tuple[str, ...]:
        """The kind of each conditioning variable."""
        return kinds(self.context_support, self.context_dim)

    def __str__(self) -> str:
        lines = "".join(f"\n    {layer}," for layer in self.layers)
        embedding = f"\n  embedding={self.embedding}, embedding_dim={self.embedding_dim}," if self.embedding else ""
        support = "".join(
            f"\n  {name}=({', '.join(map(str, given))},),"
            for name, given in (("support", self.support), ("context_support", self.context_support))
            if given
        )
        return (
            f"FlowSpec(\n  base={self.base},\n  layers=({lines}\n  ),\n"
            f"  context_dim={self.context_dim}, dtype={self.dtype!r},{embedding}{support}\n)"
        )


def circular_layers(spec: FlowSpec) -> list[int]:
    """Numbers of the layers whose transform wraps around a circle, in a flow of lines alone."""
    layers = enumerate(spec.layers if set(spec.kinds) == {"line"} else ())
    return [number for number, layer in layers if isinstance(layer.transform, CircularRationalQuadratic)]


def latent_kinds(spec: FlowSpec) -> tuple[str, ...]:
    """The kinds of the dimensions on the latent side. Permutations alone move them: an LU layer mixes lines among each other."""
    found = spec.kinds
    for layer in reversed(spec.layers):
        if isinstance(layer, Permutation):
            order = tuple(range(len(found)))[::-1] if isinstance(layer.order, str) else layer.order
            before = list(found)
            for i, place in enumerate(order):
                before[place] = found[i]
            found = tuple(before)
    return found


def resolved_spec(
    base: AnyBase,
    layers: Iterable[Layer],
    context_dim: int,
    dtype: Any,
    embedding: MLP | None,
    embedding_dim: int | None,
    rng: np.random.Generator,
    support: tuple[Support, ...] = (),
    context_support: tuple[Support, ...] = (),
) -> FlowSpec:
    """The spec of a flow as ``ps.Flow`` takes its parts, each checked, with every random choice made by ``rng``."""
    _validate.instance(base, BASES.values(), name="base")
    given = _validate.sequence(layers, name="layers")
    for i, layer in enumerate(given):
        _check_layer(layer, f"layers[{i}]")
    context_dim = _validate.count(context_dim, name="context_dim")
    given_base = any(part.conditioner is not None for part, _ in blocks(base))
    if given_base and not context_dim:
        raise ValueError("the base has a conditioner, which reads the context, and context_dim is 0")
    if context_dim and not given_base and all(layer.conditioner is None for layer in given):
        raise ValueError(f"context_dim={context_dim}, but no layer has a conditioner, which would read the context")
    width = _embedding_width(embedding, embedding_dim, context_dim)
    number_type = _validate.float_dtype(dtype)
    n_lines = kinds(support, base.dim).count("line")
    given = tuple(layer for layer in given if n_lines or not layer.lines_only)
    given_base = given_base and n_lines > 0
    if context_dim and not given_base and all(layer.conditioner is None for layer in given):
        raise ValueError(f"context_dim={context_dim}, but no layer that acts on circles or boxes reads the context")
    settled = tuple(layer.resolve(base.dim, n_lines, rng) for layer in given)
    spec = FlowSpec(base, settled, context_dim, number_type.name, embedding, width, support, context_support)
    circular = circular_layers(spec)
    if circular:
        raise ValueError(
            f"layers[{circular[0]}] wraps around a circle, and the base {base} lies on the whole line: the map would not be "
            "a bijection. penstock.ops has the transform by itself"
        )
    return spec


def _check_layer(layer: Any, name: str) -> None:
    _validate.instance(layer, LAYERS.values(), name=name)
    parts = vars(layer)
    if "transform" in parts:
        _validate.instance(layer.transform, TRANSFORMS.values(), name=f"{name}.transform")
    if "conditioner" in parts and not (isinstance(layer, Elementwise) and layer.conditioner is None):
        _validate.instance(layer.conditioner, (MLP,), name=f"{name}.conditioner")


def _embedding_width(embedding: Any, embedding_dim: Any, context_dim: int) -> int:
    """How many numbers the embedding gives; 0 without one."""
    if embedding is None:
        if embedding_dim is not None:
            raise ValueError(f"embedding_dim={embedding_dim} needs an embedding")
        return 0
    _validate.instance(embedding, (MLP,), name="embedding")
    if context_dim == 0:
        raise ValueError("an embedding needs a context, and context_dim is 0")
    if embedding_dim is None:
        return int(embedding.hidden[-1]) if embedding.hidden else context_dim
    return _validate.positive_int(embedding_dim, name="embedding_dim")
