"""Specs of supports that several columns share: rising columns, and parts of a whole.

A group is triangular: each of its columns is a line between ends that the columns before it move. In a list of supports that
stand for columns, a group stands in the place of each of its own.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from penstock import columns
from penstock.columns import Names, checked

LINE = "line"
FACTOR = 4096.0  # a box is measured in units up to so many times its width, which has to be a number


def check_order(lo: float, hi: float) -> None:
    """Raise unless two ends are in order and not too far apart."""
    if not (lo < hi and math.isfinite(FACTOR * (hi - lo)) and math.isfinite(lo + hi)):
        raise ValueError(f"lo must be below hi, and their difference finite, got lo={lo:g} and hi={hi:g}")


def finite_end(value: Any, name: str) -> float:
    """One end as a number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or None, got {value!r}") from None
    if not math.isfinite(number) or isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be a finite number, or None where there is no end, got {value!r}")
    return number + 0.0  # without the sign of zero


@dataclass(frozen=True)
class Ordered:
    """Columns that rise strictly, each above the one before: what :func:`ordered` makes.

    Parameters
    ----------
    columns : sequence of int or str
        In rising order. In ``flow.spec`` they are positions.
    lo, hi : float or None
        Ends that the first column lies above and the last one below, if there are any.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two columns, one comes twice, or the ends are not in order.

    Examples
    --------
    >>> import penstock as ps
    >>> str(ps.Ordered((2, 0), lo=0))
    'ordered 2 < 0, above 0'
    """

    columns: tuple[int | str, ...]
    lo: float | None = None
    hi: float | None = None

    name: ClassVar[str] = "ordered"
    kind: ClassVar[str] = LINE
    map: ClassVar[str] = "ordered"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.columns))
        for end in ("lo", "hi"):
            value = getattr(self, end)
            object.__setattr__(self, end, None if value is None else finite_end(value, end))
        if self.lo is not None and self.hi is not None:
            check_order(self.lo, self.hi)

    def __str__(self) -> str:
        return self.described()

    def described(self, names: Names = ()) -> str:
        """What it says of its columns, by these names of all columns of the flow."""
        lo, hi = ("" if end is None else f"{end:g}" for end in (self.lo, self.hi))
        where = f", within ({lo}, {hi})" if lo and hi else f", above {lo}" if lo else f", below {hi}" if hi else ""
        return f"ordered {' < '.join(_called(self.columns, names))}{where}"

    @property
    def falls(self) -> bool:
        """Whether its columns are mapped from the last, which is below an end, to the first."""
        return self.lo is None and self.hi is not None

    @property
    def chain(self) -> tuple[int, ...]:
        """Positions of its columns, each behind those that move its ends."""
        found: tuple[int, ...] = self.columns[:: -1 if self.falls else 1]  # type: ignore[assignment]
        return found

    def number_names(self, column: int) -> tuple[str, ...]:
        """The numbers of its own that a column has: the scale of a half-line."""
        free = self.lo is None and self.hi is None and column == self.chain[0]
        return () if free or (self.lo is not None and self.hi is not None) else ("s",)

    @property
    def opening(self) -> float:
        """The end of the first column in the chain that the others move; infinite where there is none."""
        return float(self.interval(None)[self.falls])

    def interval(self, end: Any) -> tuple[Any, Any]:
        """Both ends of a column, one of which is that."""
        lo, hi = -math.inf if self.lo is None else self.lo, math.inf if self.hi is None else self.hi
        if end is not None:
            lo, hi = (lo, end) if self.falls else (end, hi)
        return lo, hi

    def moved(self, end: Any, x: Any) -> Any:
        """That end of the next column in the chain, behind one that holds x."""
        return x

    def needs(self, column: int) -> tuple[int, ...]:
        """Positions of the columns that move the end of one, in turn."""
        place = self.chain.index(column)
        return self.chain[max(place - 1, 0) : place]


@dataclass(frozen=True)
class Simplex:
    """Positive columns whose sum is below 1: what :func:`simplex` makes.

    Parameters
    ----------
    columns : sequence of int or str
        In ``flow.spec`` they are positions.

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two columns, or one comes twice.

    Examples
    --------
    >>> import penstock as ps
    >>> str(ps.Simplex((0, 1, 2)))
    'simplex 0 + 1 + 2 < 1'
    """

    columns: tuple[int | str, ...]

    name: ClassVar[str] = "simplex"
    kind: ClassVar[str] = LINE
    map: ClassVar[str] = "simplex"
    lo: ClassVar[None] = None
    hi: ClassVar[None] = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", _columns(self.columns))

    def __str__(self) -> str:
        return self.described()

    def described(self, names: Names = ()) -> str:
        """What it says of its columns, by these names of all columns of the flow."""
        return f"simplex {' + '.join(_called(self.columns, names))} < 1"

    @property
    def chain(self) -> tuple[int, ...]:
        """Positions of its columns, each behind those that move its ends."""
        return self.columns  # type: ignore[return-value]

    def number_names(self, column: int) -> tuple[str, ...]:
        """No column has numbers of its own."""
        return ()

    @property
    def opening(self) -> float:
        """The end of the first column in the chain that the others move."""
        return 1.0

    def interval(self, end: Any) -> tuple[Any, Any]:
        """Both ends of a column, one of which is what those before it leave of 1."""
        return 0.0, end

    def moved(self, end: Any, x: Any) -> Any:
        """That end of the next column in the chain, behind one that holds x."""
        return end - x

    def needs(self, column: int) -> tuple[int, ...]:
        """Positions of the columns that move the end of one, in turn."""
        return self.chain[: self.chain.index(column)]


Group = Ordered | Simplex
GROUPS: dict[str, type] = {Ordered.name: Ordered, Simplex.name: Simplex}


def _columns(given: Any) -> tuple[int | str, ...]:
    """Columns of a group: two or more different ones, all names or all positions."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"columns of a group must be a sequence of positions or names, got {given!r}")
    found = tuple(_column(column) for column in given)
    if len({type(column) for column in found}) > 1:
        raise TypeError(f"columns of a group must be all names or all positions, got {found!r}")
    if len(found) < 2:
        raise ValueError(f"a group needs two columns or more, got {found!r}")
    if len(set(found)) < len(found):
        raise ValueError(f"columns of a group must be different ones, got {found!r}")
    return found


def _column(column: Any) -> int | str:
    if isinstance(column, str):
        return column
    try:
        number = operator.index(column)
    except TypeError:
        number = -1
    if number < 0 or isinstance(column, (bool, np.bool_)):
        raise TypeError(f"a column of a group must be a position, from 0 on, or a name, got {column!r}")
    return number


def _called(members: Iterable[int | str], names: Names) -> list[str]:
    return [names[column] if names and isinstance(column, int) else str(column) for column in members]


def ordered(columns: Iterable[int] | Iterable[str], lo: float | None = None, hi: float | None = None) -> Ordered:
    """The support of columns that rise strictly, such as order statistics, quantiles, or masses by size.

    The first is mapped to the line as a column of its own with these ends is, each other as one that lies above the column
    before it; with ``hi`` alone the last is the first, and each other lies below the one behind it.

    Parameters
    ----------
    columns : sequence of int or str
        Two or more, in rising order, by position or by name.
    lo, hi : float, optional
        The first column lies above ``lo``, the last one below ``hi``.

    Returns
    -------
    Ordered

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two columns, one comes twice, or the ends are not in order.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf(3, support=[{1: "positive"}, ps.ordered([2, 0])], rng=0)
    >>> x = flow.sample(1000, rng=0)
    >>> bool((x[:, 2] < x[:, 0]).all())
    True
    >>> float(flow.log_prob([1.0, 1.0, 2.0]))
    -inf
    """
    return Ordered(columns, lo, hi)  # type: ignore[arg-type]


def simplex(columns: Iterable[int] | Iterable[str]) -> Simplex:
    """The support of positive columns whose sum is below 1: parts of a whole, but for the last one.

    What they leave of 1 is no column: the flow has as many dimensions as there are columns, and the density is with respect to
    them. Each is mapped to the line by the part that it takes of what those before it leave.

    Parameters
    ----------
    columns : sequence of int or str
        Two or more, by position or by name.

    Returns
    -------
    Simplex

    Raises
    ------
    TypeError, ValueError
        If there are fewer than two columns, or one comes twice.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf(3, support=ps.simplex([0, 1, 2]), rng=0)
    >>> x = flow.sample(1000, rng=0)
    >>> bool((x > 0).all() and (x.sum(axis=1) < 1).all())
    True
    """
    return Simplex(columns)  # type: ignore[arg-type]


# --- what a user gives --------------------------------------------------------------------------------------------


def has_groups(support: Any) -> bool:
    """Whether this is a group, or a list with one or with a mapping."""
    if isinstance(support, Group):
        return True
    some = isinstance(support, (list, tuple))
    return some and any(isinstance(entry, (Group, Mapping)) for entry in support)


def is_by_column(support: Sequence[Any], dim: int) -> bool:
    """Whether each entry is that of a column, a group in the place of each of its own, as in a spec."""
    if len(support) != dim or any(isinstance(entry, Mapping) for entry in support):
        return False
    groups = [(i, entry) for i, entry in enumerate(support) if isinstance(entry, Group)]
    return all(
        i in group.columns and all(isinstance(j, int) and j < dim and support[j] == group for j in group.columns)
        for i, group in groups
    )


def divided(support: Any, dim: int) -> tuple[list[tuple[int, str, Any]], list[Group], Names]:
    """What a list of groups and at most one mapping says: position, label and value of columns by themselves; the groups, by
    position; and the names that it gives to the columns.
    """
    entries = (support,) if isinstance(support, Group) else tuple(support)
    mappings = [entry for entry in entries if isinstance(entry, Mapping)]
    groups = [entry for entry in entries if isinstance(entry, Group)]
    for i, entry in enumerate(entries):
        if not isinstance(entry, (Mapping, Group)):
            raise TypeError(
                f"support[{i}]: a list with groups holds groups, and one mapping of the other columns, got {entry!r}"
            )
    if len(mappings) > 1:
        raise TypeError(f"support must have one mapping beside its groups, got {len(mappings)}")
    alone: Mapping[Any, Any] = mappings[0] if mappings else {}
    named = {
        isinstance(key, str) for entry in entries for key in (entry if isinstance(entry, Mapping) else entry.columns)
    }
    if len(named) > 1 or not all(
        isinstance(key, (str, int, np.integer)) and not isinstance(key, bool) for key in alone
    ):
        raise TypeError("columns of support must be all names or all positions, in the mapping and in the groups")
    names = _names(entries, alone, dim) if named == {True} else ()
    places: dict[Any, int] = {name: i for i, name in enumerate(names or range(dim))}
    _check_places(alone, groups, places, names)
    found = [(places[key], f"support[{key!r}]", value) for key, value in alone.items()]
    by_place = [replace(group, columns=tuple(places[column] for column in group.columns)) for group in groups]
    taken = {column for group in by_place for column in group.columns}
    return [entry for entry in found if entry[0] not in taken], by_place, names


def _names(entries: Sequence[Any], alone: Mapping[Any, Any], dim: int) -> Names:
    """The names of all columns, in the order in which the mapping has them, or in which they come."""
    order = dict.fromkeys(alone) if len(alone) == dim else {}
    for entry in entries if not order else ():
        order |= dict.fromkeys(entry if isinstance(entry, Mapping) else entry.columns)
    if len(order) != dim:
        raise ValueError(
            f"support by name must name every column of the flow, in its order: {dim}, got {len(order)} "
            f"({columns.listed(map(str, order))}). The mapping may name those of groups too, as 'real'"
        )
    return checked(tuple(order), dim, name="support")


def _check_places(alone: Mapping[Any, Any], groups: Sequence[Group], places: Mapping[Any, int], names: Names) -> None:
    """Raise if there is no such column, or one is in two places."""
    for key in (*alone, *(column for group in groups for column in group.columns)):
        if key not in places:
            known = columns.listed(names) if names else f"0 to {len(places) - 1}"
            raise ValueError(f"support names column {key!r} of a flow whose columns are {known}")
    met: set[Any] = set()
    for group in groups:
        for column in group.columns:
            twice = column in met or (column in alone and not (names and _is_real(alone[column])))
            if twice:
                raise ValueError(f"column {column!r} is in two places of support")
            met.add(column)


def _is_real(value: Any) -> bool:
    """Whether a support by itself is that of the whole line, which names a column of a group."""
    return (isinstance(value, str) and value == "real") or getattr(value, "name", "") == "real"


def check_room(group: Group, dtype: np.dtype[Any], where: str) -> None:
    """Raise if there are not as many numbers of a type between two ends as there are columns."""
    if group.lo is None or group.hi is None:
        return
    number, hi = dtype.type(group.lo), dtype.type(group.hi)
    for _ in group.columns:
        number = np.nextafter(number, hi)
    if not number < hi:
        raise ValueError(
            f"{where}: there are no {len(group.columns)} numbers of {dtype.name} strictly between {group.lo!r} and {group.hi!r}"
        )
