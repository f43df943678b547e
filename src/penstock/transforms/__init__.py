"""Specs of elementwise bijections. ``TRANSFORMS`` is the only list; its order is the code in a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

from penstock.transforms.additive import Additive
from penstock.transforms.affine import Affine
from penstock.transforms.box_rational_quadratic import BoxRationalQuadratic
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
_ALL = (Affine, Additive, RationalQuadratic, CircularRationalQuadratic, BoxRationalQuadratic)
TRANSFORMS: dict[str, type] = {cls.name: cls for cls in _ALL}

# The splines of dimensions that are no lines, and what each of them does in a flow to the numbers of its kind.
BY_KIND: dict[str, RationalQuadratic] = {"circle": CircularRationalQuadratic(), "box": BoxRationalQuadratic()}


def of_kind(transform: Transform, kind: str) -> Transform:
    """The transform that a layer with a given one applies to a dimension of a kind: "line", "circle" or "box".

    On the line it is the given one; a circle and a box have the spline that maps them to themselves, with the bins and the
    minima of the given one where that is a spline, too.

    Raises
    ------
    ValueError
        If the transform belongs to another kind.
    """
    own = BY_KIND.get(kind)
    if isinstance(transform, (CircularRationalQuadratic, BoxRationalQuadratic)):
        if type(transform) is not type(own) or transform.bound != own.bound:
            raise ValueError(
                f"{transform} does not map a dimension of kind {kind!r} to itself: circles have numbers within [-pi, pi], boxes "
                "within [-1, 1], by ps.periodic and ps.interval"
            )
        return transform
    if own is None:
        return transform
    return replace(own, **_shape(transform)) if isinstance(transform, RationalQuadratic) else own


def _shape(spline: Any) -> dict[str, Any]:
    """What splines of every kind have in common."""
    return {name: getattr(spline, name) for name in ("bins", "bin_width_min", "bin_height_min", "slope_min")}


__all__ = [
    "TRANSFORMS", "Additive", "Affine", "BoxRationalQuadratic", "CircularRationalQuadratic", "RationalQuadratic",
    "Transform", "of_kind",
]  # fmt: skip
