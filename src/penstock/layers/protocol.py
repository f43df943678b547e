"""What a layer is to the flow, and what the compiler of plans is to a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from penstock.conditioners import MLP
from penstock.transforms import Transform


def lines(kinds: Sequence[str]) -> tuple[int, ...]:
    """The dimensions that are lines."""
    return tuple(i for i, kind in enumerate(kinds) if kind == "line")


class Builder(Protocol):
    """What a layer needs of the compiler of plans: it adds the steps of a flow in turn, from latent to data."""

    dim: int
    context_dim: int

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each dimension where the next step acts: "line", "circle" or "box"."""
        ...

    def permutation_step(self, order: tuple[int, ...]) -> None:
        """Reorder the dimensions: ``x[i] = z[order[i]]``."""
        ...

    def transform_step(
        self,
        kind: str,
        a: Sequence[int],
        b: Sequence[int],
        transform: Transform,
        conditioner: MLP | None,
        explicit: str,
    ) -> None:
        """Transform the dimensions ``b``, each by the transform of its kind, with theta that is free, or a function of the
        dimensions ``a`` and the context.
        """
        ...

    def lu_step(self, order: Sequence[int], signs: Sequence[int], explicit: str) -> None:
        """``y = P L U x + b`` on the line dimensions."""
        ...


class Layer(Protocol):
    """What plan and flow need to know of a layer."""

    @property
    def transform(self) -> Transform | None:
        """The elementwise bijection that its user chose, if it has one."""
        ...

    @property
    def conditioner(self) -> MLP | None:
        """The network that gives theta, if there is one."""
        ...

    def resolve(self, dim: int, n_lines: int, rng: np.random.Generator) -> Layer:
        """The same layer for a width, of which ``n_lines`` dimensions are lines, with every random choice made and every index
        checked.
        """
        ...

    @property
    def lines_only(self) -> bool:
        """Whether it acts on the line dimensions alone, and is left out where there are none."""
        ...

    def compile(self, builder: Builder) -> None:
        """Add this layer's step to a plan."""
        ...
