"""Specs of elementwise bijections. ``TRANSFORMS`` is the only list; its order is the code in a plan."""

from __future__ import annotations

from typing import Protocol

from penstock.transforms.additive import Additive
from penstock.transforms.affine import Affine
from penstock.transforms.rational_quadratic import RationalQuadratic


class Transform(Protocol):
    """What plan and recipes need to know of a transform."""

    @property
    def name(self) -> str:
        """The name it has in every room."""
        ...

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the numbers a conditioner emits for one element."""
        ...

    @property
    def options(self) -> tuple[float, ...]:
        """The constants that the kernels read."""
        ...


# Append only: the position of a transform is its code in plan tables and files.
TRANSFORMS: dict[str, type] = {cls.name: cls for cls in (Affine, Additive, RationalQuadratic)}

__all__ = ["TRANSFORMS", "Additive", "Affine", "RationalQuadratic", "Transform"]
