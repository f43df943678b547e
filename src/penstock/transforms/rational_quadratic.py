"""Spec of the rational-quadratic spline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from penstock._validate import number_from, positive_int

BINS_MAX = 64
# Smaller ones would let squares of slopes leave the range of float32.
MINIMUM = 1e-6


@dataclass(frozen=True)
class RationalQuadratic:
    """The elementwise map ``y = g(x)`` with ``g`` a monotone spline on ``[-bound, bound]``, and ``y = x`` outside.

    In each of ``bins`` intervals ``g`` is a quotient of two quadratics that passes through the interval's ends
    with given slopes, so that value and slope are continuous everywhere: with ``t`` from 0 to 1 across a bin of slope ``s``
    between knots of slopes ``d0`` and ``d1``, and ``u = t (1 - t)``, ``y`` rises from ``y0`` to ``y1`` by
    ``(y1 - y0) (s t**2 + d0 u) / (s + (d0 + d1 - 2 s) u)``. Widths and heights of the bins
    come from softmaxes of ``bins`` numbers each, slopes at the inner knots from softplus; at the two ends the
    slope is one. Theta zero is the identity.

    Parameters
    ----------
    bins : int, default 8
        Number of intervals, 2 to 64.
    bound : float, default 5.0
        Half the width of the box; outside of it nothing is moved.
    bin_width_min, bin_height_min : float, default 1e-3
        Least width and height of a bin, as fractions of the box; each at least 1e-6 and below ``1 / bins``.
    slope_min : float, default 1e-3
        Least slope at a knot, 1e-6 to 0.5.

    References
    ----------
    Durkan, Bekasov, Murray, Papamakarios, "Neural Spline Flows" (2019), section 3.1 and eqs. 4-8; the rational
    quadratics are those of Gregory, Delbourgo (1982).

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> spline = ps.RationalQuadratic(bins=4, bound=3.0)
    >>> y, log_det = ps.ops.forward(spline, [1.0, 7.0], np.zeros((2, len(spline.theta_names))))
    >>> y.round(6).tolist()
    [1.0, 7.0]
    """

    bins: int = 8
    bound: float = 5.0
    bin_width_min: float = 1e-3
    bin_height_min: float = 1e-3
    slope_min: float = 1e-3

    name: ClassVar[str] = "rational_quadratic"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bins", positive_int(self.bins, name="bins"))
        if not 2 <= self.bins <= BINS_MAX:
            raise ValueError(f"bins must lie between 2 and {BINS_MAX}, got {self.bins}")
        number_from(self.bound, MINIMUM, name="bound")
        if self.bound > 1 / MINIMUM:
            raise ValueError(f"bound must be at most {1 / MINIMUM:g}, got {self.bound}")
        for name, most in (
            ("bin_width_min", 1 / self.bins),
            ("bin_height_min", 1 / self.bins),
            ("slope_min", 0.5),
        ):
            value = number_from(getattr(self, name), MINIMUM, name=name)
            if value >= most:
                raise ValueError(f"{name} must be below {most:g}, got {value}")

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the numbers a conditioner emits for one element."""
        return (*self._bin_names, *(f"raw_slope_{j}" for j in range(1, self.bins)))

    @property
    def _bin_names(self) -> tuple[str, ...]:
        return tuple(f"raw_{what}_{j}" for what in ("width", "height") for j in range(self.bins))

    @property
    def options(self) -> tuple[float, ...]:
        """The constants that the kernels read, in the order they read them."""
        # The last one makes the slope of a raw number of zero one: softplus(c) = 1 - slope_min.
        c = math.log(math.expm1(1 - self.slope_min))
        return tuple(map(float, (self.bins, self.bound, self.bin_width_min, self.bin_height_min, self.slope_min, c)))
