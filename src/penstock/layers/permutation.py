"""Spec of the permutation layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock._validate import choice, index_list
from penstock.layers.protocol import Builder


@dataclass(frozen=True)
class Permutation:
    """Reorder the dimensions: ``x[i] = z[order[i]]``. In the engine it is index arithmetic and copies nothing.

    Parameters
    ----------
    order : {"reverse", "random"} or sequence of int, default "reverse"
        ``"random"`` is drawn when the flow is built.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.StandardNormal(3), [ps.Permutation("reverse")], rng=0)
    >>> flow.to_data([0.0, 1.0, 2.0])[0].tolist()
    [2.0, 1.0, 0.0]
    """

    order: str | tuple[int, ...] = "reverse"

    transform: ClassVar[None] = None
    conditioner: ClassVar[None] = None
    lines_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if isinstance(self.order, str):
            choice(self.order, ("reverse", "random"), name="order")
        else:
            object.__setattr__(self, "order", index_list(self.order, name="order"))

    def resolve(self, dim: int, n_lines: int, rng: np.random.Generator) -> Permutation:
        """The same layer with its order spelt out and checked."""
        if self.order == "reverse":
            return self
        order = tuple(int(i) for i in rng.permutation(dim)) if self.order == "random" else self.order
        if sorted(order) != list(range(dim)):
            raise ValueError(f"order must hold each of 0..{dim - 1} once, got {order}")
        return Permutation(order)

    def compile(self, builder: Builder) -> None:
        """Rename the slots of a plan."""
        builder.permutation_step(
            tuple(reversed(range(builder.dim))) if self.order == "reverse" else tuple(map(int, self.order))
        )
