"""Spec of the additive transform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Additive:
    """The elementwise map ``y = x + t``; it keeps volumes, so its log_det is zero.

    References
    ----------
    Dinh, Krueger, Bengio, "NICE: Non-linear Independent Components Estimation" (2015), section 3.2.

    Examples
    --------
    >>> import penstock as ps
    >>> y, log_det = ps.ops.forward(ps.Additive(), [1.0, 2.0], [[10.0], [20.0]])
    >>> y.tolist(), float(log_det)
    ([11.0, 22.0], 0.0)
    """

    name: ClassVar[str] = "additive"

    @property
    def theta_names(self) -> tuple[str, ...]:
        """Names of the numbers a conditioner emits for one element."""
        return ("shift",)

    @property
    def options(self) -> tuple[float, ...]:
        """The constants that the kernels read: none."""
        return ()
