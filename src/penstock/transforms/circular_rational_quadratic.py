"""Spec of the rational-quadratic spline on a circle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from penstock.transforms.rational_quadratic import RationalQuadratic


@dataclass(frozen=True)
class CircularRationalQuadratic(RationalQuadratic):
    """The elementwise map ``y = wrap(g(wrap(x)) + r)`` of a circle onto itself.

    ``g`` is the spline of :class:`RationalQuadratic`, but its slopes at the two ends of the box are one trained
    number, so that it is smooth across the seam; ``r`` turns the circle. ``wrap`` takes whole turns
    of ``2 bound`` away. Theta zero is the identity. In a flow it is the transform of columns with the support
    :func:`periodic`, whose angles lie in ``[-pi, pi]``, and of no others.

    Parameters
    ----------
    bins : int, default 8
        Number of intervals, 2 to 64.
    bound : float, default pi
        Half the circumference: numbers lie in ``[-bound, bound]``, whose ends are the same point.
    bin_width_min, bin_height_min, slope_min : float, default 1e-3
        As for :class:`RationalQuadratic`.

    References
    ----------
    Rezende, Papamakarios, Racaniere et al., "Normalizing Flows on Tori and Spheres" (2020), section 2.1.3.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> circle = ps.CircularRationalQuadratic(bins=4)
    >>> y, log_det = ps.ops.forward(circle, [1.0 + 2 * np.pi], np.zeros((1, len(circle.theta_names))))
    >>> y.round(6).tolist()
    [1.0]
    """

    bound: float = math.pi

    name: ClassVar[str] = "circular_rational_quadratic"

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the numbers a conditioner emits for one element."""
        return (*self._bin_names, *(f"raw_slope_{j}" for j in range(self.bins)), "rotation")
