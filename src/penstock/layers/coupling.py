"""Spec of the coupling layer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from penstock._validate import choice, index_list
from penstock.conditioners import MLP
from penstock.layers.protocol import Builder
from penstock.transforms import Affine, Transform

SPLITS = ("half", "half_swapped", "alternating", "alternating_swapped", "random")


@dataclass(frozen=True)
class Coupling:
    """Leave the dimensions ``A`` as they are and transform ``B`` with parameters computed from ``A`` and the context.

    ``y_A = x_A`` and ``y_B = g(x_B; h(x_A, c))``, so that ``log|det dy/dx|`` is the sum of ``log g'`` over ``B``.

    Parameters
    ----------
    transform : Transform, default Affine()
        The elementwise bijection of the dimensions in ``B``; on circles and boxes it is the spline of their kind.
    conditioner : MLP, default MLP()
        The network that maps the context, if the flow has one, and ``x_A`` to the parameters of the transform.
    split : str or sequence of int, default "half"
        ``"half"`` (A is the first half, rounded down), ``"alternating"`` (A is every even index), either
        with ``"_swapped"`` for A and B exchanged, ``"random"`` (drawn when the flow is built), or the
        indices of A.
    explicit : {"to_latent", "to_data"}, default "to_latent"
        The direction in which the transform's own formula runs.

    References
    ----------
    Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP" (2017), eqs. 4-5.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.StandardNormal(3), [ps.Coupling(ps.Affine(), ps.MLP((32,)), split=(0, 2))], rng=0)
    >>> flow.spec.layers[0].split
    (0, 2)
    """

    transform: Transform = field(default_factory=Affine)
    conditioner: MLP = field(default_factory=MLP)
    split: str | tuple[int, ...] = "half"
    explicit: str = "to_latent"

    lines_only: ClassVar[bool] = False

    def __post_init__(self) -> None:
        choice(self.explicit, ("to_latent", "to_data"), name="explicit")
        if isinstance(self.split, str):
            choice(self.split, SPLITS, name="split")
        else:
            object.__setattr__(self, "split", index_list(self.split, name="split"))

    def resolve(self, dim: int, n_lines: int, rng: np.random.Generator) -> Coupling:
        """The same layer for a given width, with every random choice made and every index checked."""
        if dim < 2:
            raise ValueError(f"a coupling splits its dimensions and needs dim >= 2, got dim={dim}; use Elementwise")
        if self.split == "random":
            return replace(self, split=tuple(sorted(int(i) for i in rng.permutation(dim)[: dim // 2])))
        self.split_sets(dim)
        return self

    def split_sets(self, dim: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The index sets ``(A, B)``, each sorted, but for an A that was given: its order is that of the network's inputs."""
        if isinstance(self.split, str):
            first = range(dim // 2) if self.split.startswith("half") else range(0, dim, 2)
            a = tuple(first)
        else:
            a = self.split
            if not a or len(a) == dim or max(a) >= dim or len(set(a)) != len(a):
                raise ValueError(f"split must name some but not all of the indices 0..{dim - 1}, each once, got {a}")
        taken = set(a)
        b = tuple(i for i in range(dim) if i not in taken)
        return (b, a) if isinstance(self.split, str) and self.split.endswith("_swapped") else (a, b)

    def compile(self, builder: Builder) -> None:
        """Add this layer's step to a plan."""
        a, b = self.split_sets(builder.dim)
        builder.transform_step("coupling", a, b, self.transform, self.conditioner, self.explicit)
