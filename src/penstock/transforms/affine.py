"""Spec of the affine transform, the documented example of how a transform is added."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from penstock._validate import number_from

# Below about 1e-39 the reciprocal overflows in float32; a bound of this size already leaves nothing but shifts.
SCALE_BOUND_MIN = 1e-6


@dataclass(frozen=True)
class Affine:
    """The elementwise map ``y = exp(s) x + t`` with a bounded log-scale.

    The raw parameter ``r`` gives ``s = r / sqrt(1 + (r / scale_bound)**2)``: smooth, slope one at
    zero, and strictly inside ``(-scale_bound, scale_bound)``. Unlike a tanh, its derivative falls
    only as ``r**-3``, so a saturated scale still learns; and it needs nothing but a square root and
    a division, which round the same way on every machine.

    Parameters
    ----------
    scale_bound : float, default 3.0
        Largest absolute log-scale, at least 1e-6; ``float("inf")`` leaves it free.

    References
    ----------
    Dinh, Sohl-Dickstein, Bengio, "Density estimation using Real NVP" (2017), eq. 7.

    Examples
    --------
    >>> import penstock as ps
    >>> y, log_det = ps.ops.forward(ps.Affine(), [1.0, 2.0], [[0.0, 10.0], [0.0, 20.0]])
    >>> y.tolist(), float(log_det)
    ([11.0, 22.0], 0.0)
    """

    scale_bound: float = 3.0

    name: ClassVar[str] = "affine"

    def __post_init__(self) -> None:
        number_from(self.scale_bound, SCALE_BOUND_MIN, name="scale_bound")

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the numbers a conditioner emits for one element."""
        return ("raw_log_scale", "shift")

    @property
    def options(self) -> tuple[float, ...]:
        """The constants that the kernels read, in the order they read them."""
        return (float(self.scale_bound),)
