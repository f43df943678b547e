"""One record of a plan table, whose fields are read with a check, and lists of integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def fail(what: str) -> None:
    """Refuse the table."""
    raise ValueError(f"plan table: {what}")


class Record:
    """One record, whose fields are read with a check."""

    def __init__(self, section: str, number: int, fields: dict[str, int]) -> None:
        self.section, self.number, self.fields = section, number, fields

    def __getitem__(self, field: str) -> int:
        return self.fields[field]

    def need(self, fine: bool, field: str, what: str) -> None:
        """``field`` is at fault unless ``fine``."""
        if not fine:
            fail(f"{self.section} {self.number}: {field} {what}")

    def within(self, field: str, lo: int, hi: int) -> int:
        """A field from ``lo`` to ``hi``, both included."""
        value = self.fields[field]
        self.need(
            lo <= value <= hi, field, f"is {value}, expected {lo} to {hi}" if lo < hi else f"is {value}, not {lo}"
        )
        return value

    def code(self, field: str, names: Sequence[object]) -> int:
        """A code of a list."""
        return self.within(field, 0, len(names) - 1)

    def span(self, field: str, count: int, size: int, what: str) -> int:
        """Where ``count`` of ``size`` things begin."""
        at = self.fields[field]
        self.need(0 <= at <= size and count <= size - at, field, f"lies outside {what}")
        return at

    def ints(self, ints: Array, field: str, count: int) -> Array:
        """A list of integers."""
        at = self.span(field, count, ints.size, "INTS")
        return ints[at : at + count]


def covers(starts: Iterable[int], counts: Iterable[int], size: int) -> bool:
    """Whether ranges fill [0, size) without overlap, in any order. Empty ones may lie anywhere."""
    used = 0
    for start, count in sorted(zip(starts, counts, strict=True)):
        if count and start != used:
            return False
        used += count
    return used == size


def is_permutation(values: Array, n: int) -> bool:
    """Whether values are 0 .. n - 1 in some order."""
    return values.size == n and bool(np.all((values >= 0) & (values < n))) and np.unique(values).size == n
