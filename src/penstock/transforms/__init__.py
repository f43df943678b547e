"""Specs of elementwise bijections. ``TRANSFORMS`` is the only list; its order is the code in a plan."""

from __future__ import annotations

from typing import Protocol

from penstock.transforms.additive import Additive
from penstock.transforms.affine import Affine
from penstock.transforms.circular_rational_quadratic import CircularRationalQuadratic
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
_ALL = (Affine, Additive, RationalQuadratic, CircularRationalQuadratic)
TRANSFORMS: dict[str, type] = {cls.name: cls for cls in _ALL}

__all__ = ["TRANSFORMS", "Additive", "Affine", "CircularRationalQuadratic", "RationalQuadratic", "Transform"]
