"""The one list of transforms among the twins. Append only: the position is the code in plan tables and files."""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

from penstock._numba.transforms import (
    additive,
    affine,
    box_rational_quadratic,
    circular_rational_quadratic,
    rational_quadratic,
)


class Transform(NamedTuple):
    """A twin, its numbers of theta a dimension, some fixed and some for each of options[0] bins, and of options."""

    twin: ModuleType
    fixed: int
    a_bin: int
    n_options: int

    @property
    def name(self) -> str:
        """The name of the file."""
        return self.twin.__name__.rpartition(".")[2]


TRANSFORMS = (
    Transform(affine, 2, 0, 1),
    Transform(additive, 1, 0, 0),
    Transform(rational_quadratic, -1, 3, 6),
    Transform(circular_rational_quadratic, 1, 3, 6),
    Transform(box_rational_quadratic, 1, 3, 6),
)
