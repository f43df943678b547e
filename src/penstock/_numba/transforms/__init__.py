"""The one list of transforms among the twins. Append only: the position is the code in plan tables and files."""

from __future__ import annotations

from penstock._numba.transforms import additive, affine, circular_rational_quadratic, rational_quadratic

TRANSFORMS = (affine, additive, rational_quadratic, circular_rational_quadratic)
