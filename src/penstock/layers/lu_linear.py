"""Spec of the LU layer: a dense linear map with a cheap determinant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock._validate import choice, index_list, sequence
from penstock.layers.protocol import Builder, lines


@dataclass(frozen=True)
class LULinear:
    """``y = W x + b`` with ``W = P L U``: it mixes all line dimensions, and ``log|det W|`` is a sum over a diagonal.

    ``P`` is a fixed permutation, ``L`` unit lower triangular, and ``U`` upper triangular with the diagonal
    ``sign_i exp(M_ii)``. The parameters are one matrix ``M`` of shape (n, n) for n line dimensions, with ``L`` below its
    diagonal, ``U`` above it and the logarithms on it, and ``b`` of shape (n,). All of them start at zero, so that a fresh layer
    is ``P``.

    Parameters
    ----------
    order : {"random", "identity"} or sequence of int, default "random"
        The permutation: output ``j`` takes row ``order[j]`` of ``L U x``. ``"random"`` is drawn when the flow is built.
    signs : "positive" or sequence of int, default "positive"
        The signs of the diagonal of ``U``, 1 or -1 each.
    explicit : {"to_latent", "to_data"}, default "to_latent"
        The direction in which ``W`` is multiplied; the other one solves with its triangles, at the same cost.

    References
    ----------
    Kingma, Dhariwal, "Glow: Generative Flow with Invertible 1x1 Convolutions" (2018), section 3.2.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.StandardNormal(3), [ps.LULinear(order="identity")], rng=0)
    >>> {name: array.shape for name, array in flow.named_params().items()}
    {'layers.0.lu': (3, 3), 'layers.0.bias': (3,)}
    """

    order: str | tuple[int, ...] = "random"
    signs: str | tuple[int, ...] = "positive"
    explicit: str = "to_latent"

    transform: ClassVar[None] = None
    conditioner: ClassVar[None] = None
    lines_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        choice(self.explicit, ("to_latent", "to_data"), name="explicit")
        if isinstance(self.order, str):
            choice(self.order, ("random", "identity"), name="order")
        else:
            object.__setattr__(self, "order", index_list(self.order, name="order"))
        if isinstance(self.signs, str):
            choice(self.signs, ("positive",), name="signs")
        else:
            signs = sequence(self.signs, name="signs")
            if any(sign not in (1, -1) for sign in signs):
                raise ValueError(f"signs must hold 1 and -1 only, got {signs}")
            object.__setattr__(self, "signs", tuple(int(sign) for sign in signs))

    def resolve(self, dim: int, n_lines: int, rng: np.random.Generator) -> LULinear:
        """The same layer with its order spelt out, checked against the number of line dimensions."""
        order = tuple(int(i) for i in rng.permutation(n_lines)) if self.order == "random" else self.order
        if not isinstance(order, str) and sorted(order) != list(range(n_lines)):
            raise ValueError(f"order must hold each of 0..{n_lines - 1} once, got {order}")
        if not isinstance(self.signs, str) and len(self.signs) != n_lines:
            raise ValueError(f"signs must hold one sign for each of {n_lines} dimensions, got {len(self.signs)}")
        return LULinear(order, self.signs, self.explicit)

    def compile(self, builder: Builder) -> None:
        """Add this layer's step to a plan."""
        n_lines = len(lines(builder.kinds))
        order = tuple(range(n_lines)) if isinstance(self.order, str) else self.order
        signs = (1,) * n_lines if isinstance(self.signs, str) else self.signs
        builder.lu_step(order, signs, self.explicit)
