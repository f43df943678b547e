"""Types that annotations share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

Array: TypeAlias = np.ndarray[Any, Any]


class ArrowStream(Protocol):
    """A table that speaks Arrow: a DataFrame of pandas or polars, a table of pyarrow, a relation of DuckDB."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The table as a capsule."""
        ...


class Communicator(Protocol):
    """A communicator of mpi4py."""

    @property
    def rank(self) -> int:
        """The number of this process."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...


# numpy.typing and numpy.random cost more to import than penstock itself, so that only type checkers see what these are.
DTypeLike: TypeAlias = "npt.DTypeLike"
"""What NumPy reads as a dtype."""

ArrayLike: TypeAlias = "npt.ArrayLike"
"""What NumPy reads as an array of numbers."""

RowsLike: TypeAlias = "npt.ArrayLike | Mapping[str, npt.ArrayLike] | ArrowStream"
"""Rows: an array, or a table with names of columns (DataFrame, structured array, Series, mapping of columns)."""

Rng: TypeAlias = "int | Sequence[int] | np.random.SeedSequence | np.random.BitGenerator | np.random.Generator | None"
"""What ``numpy.random.default_rng`` takes."""
