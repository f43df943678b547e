"""Specs of base distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from penstock._validate import positive_int


@dataclass(frozen=True)
class StandardNormal:
    """The standard normal density in ``dim`` dimensions, ``log p(z) = -|z|^2 / 2 - dim log(2 pi) / 2``.

    Parameters
    ----------
    dim : int
        Number of dimensions.

    Examples
    --------
    >>> import penstock as ps
    >>> round(float(ps.ops.log_prob(ps.StandardNormal(2), [0.0, 0.0])), 4)
    -1.8379
    """

    dim: int

    name: ClassVar[str] = "standard_normal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dim", positive_int(self.dim, name="dim"))
