"""The checks of groups of columns in a plan table, in which a member names the member before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.engine.record import Record, fail
from penstock.plan_table import NONE

Array = np.ndarray[Any, Any]

ORDERED, SIMPLEX = (codes.COLUMN_MAPS.index(name) for name in ("ordered", "simplex"))


def in_group(column: Record) -> bool:
    """Whether a column is a member of a group."""
    return column["map"] in (ORDERED, SIMPLEX)


def check_member(column: Record) -> None:
    """Open ends, none of a simplex, and a scale for each half-line.

    These are all members of an ordered group that has not both ends, but for the first one where it has none.
    """
    first, simplex = column["group"] == NONE, column["map"] == SIMPLEX
    column.within("kind", 0, 0)
    column.within("closed", 0, 0)
    if simplex:
        column.within("ends", 0, 0)
    without = simplex or column["ends"] == codes.LOWER | codes.UPPER or (first and column["ends"] == 0)
    column.within("n_buffers", *[0 if without else 1] * 2)


def check_groups(columns: Sequence[Record], reals: Array) -> None:
    """COLUMNS, of which each has been checked by itself."""
    after: dict[int, int] = {}  # the member behind each

    def end(column: Record, field: str) -> float | None:
        return None if column[field] == NONE else float(reals[column[field]])

    for column in columns:
        before = column["group"]
        column.need(in_group(column) or before == NONE, "group", "is not of its map")
        if not in_group(column):
            continue
        check_member(column)
        if before == NONE:
            continue
        other = columns[before]
        same = all(other[field] == column[field] for field in ("side", "map", "ends"))
        same = same and all(end(other, field) == end(column, field) for field in ("lo", "hi"))
        column.need(same, "group", "names a column of another group")
        column.need(before not in after, "group", "names a column that another one follows")
        after[before] = column.number
    met, members = 0, [column for column in columns if in_group(column)]
    for column in members:
        place = column.number if column["group"] == NONE else NONE
        while place != NONE:
            met, place = met + 1, after.get(place, NONE)
    if met != len(members):
        fail("COLUMNS: a group without a first column")
