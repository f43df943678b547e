"""Specs of base distributions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from penstock import _normal
from penstock._typing import Array
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

    def cdf(self, z: Array, *, upper: bool = False) -> Array:
        """The distribution function of each dimension at ``z``, (rows, dim), in float64; ``upper`` gives 1 minus it, without
        cancellation.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> ps.StandardNormal(1).cdf(np.array([[0.0], [-1.0]])).round(4).tolist()
        [[0.5], [0.1587]]
        """
        return _normal.cdf(-z if upper else z)

    def quantile(self, u: Array, *, upper: bool = False) -> Array:
        """The inverse of ``cdf``, ``upper`` or not, for numbers in [0, 1]; infinite at the ends.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> ps.StandardNormal(1).quantile(np.array([[0.5], [1.0]])).tolist()
        [[0.0], [inf]]
        """
        z = _normal.quantile(u)
        return -z if upper else z
