"""Spec of the rational-quadratic spline of a box onto itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from penstock.transforms.rational_quadratic import RationalQuadratic


@dataclass(frozen=True)
class BoxRationalQuadratic(RationalQuadratic):
    """The elementwise map ``y = g(x)`` of the box ``[-bound, bound]`` onto itself.

    ``g`` is the spline of :class:`RationalQuadratic`, but its slopes at the two ends of the box are trained, too, so that a
    density may be anything there. Numbers beyond the box are taken for its end. Theta zero is the identity.

    Parameters
    ----------
    bins : int, default 8
        Number of intervals, 2 to 64.
    bound : float, default 1.0
        Half the width of the box.
    bin_width_min, bin_height_min, slope_min : float, default 1e-3
        As for :class:`RationalQuadratic`.

    References
    ----------
    Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019), section 3.1 and eqs. 4-8.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> box = ps.BoxRationalQuadratic(bins=4)
    >>> y, log_det = ps.ops.forward(box, [0.5], np.zeros((1, len(box.theta_names))))
    >>> y.round(6).tolist()
    [0.5]
    """

    bound: float = 1.0

    name: ClassVar[str] = "box_rational_quadratic"

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the numbers a conditioner emits for one element."""
        return (*self._bin_names, *(f"raw_slope_{j}" for j in range(self.bins + 1)))
