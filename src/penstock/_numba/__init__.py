"""The Numba room: the twins of cpp/, behind the same protocol as the compiled extension.

The same algorithm with the same names, file for file, for machines without the extension and for readers.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _version

from penstock._numba.engine.engine import Engine
from penstock._numba.engine.gradient import slices_of
from penstock._numba.engine.mixture import Mixture
from penstock._numba.engine.order import row_order
from penstock._numba.engine.packed import Packed
from penstock._numba.engine.pool import num_threads, set_local_num_threads, set_num_threads
from penstock._numba.engine.table import check_table
from penstock._numba.engine.trainer import Trainer
from penstock._numba.transforms import TRANSFORMS

name = "numba"
try:
    version = _version("penstock")
except PackageNotFoundError:  # run from a source tree
    version = "0+unknown"


def transform_names() -> list[str]:
    """The transforms of this room, by code."""
    return [transform.name for transform in TRANSFORMS]


def isa() -> str:
    """The instruction set in use: whatever Numba finds."""
    return "numba"


def isas() -> list[str]:
    """The instruction sets that can be forced here."""
    return ["numba"]


def usable() -> str:
    """Why this room cannot run here: nothing keeps it."""
    return ""


def slices(rows: int) -> list[int]:
    """The first rows of the slices of a batch, and its end."""
    return [first for first, _ in slices_of(rows)] + [rows]


__all__ = [
    "Engine", "Mixture", "Packed", "Trainer", "check_table", "isa", "isas", "name", "num_threads", "row_order",
    "set_local_num_threads", "set_num_threads", "slices", "transform_names", "usable", "version",
]  # fmt: skip
