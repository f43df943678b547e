"""Specs of supports: where the numbers of a column may lie.

A column is of one of three kinds. That of a *line* has a bijection to the real line, which is the identity where its support is
the line itself. A *circle* and a *box* stay what they are: the base is uniform on them, and every layer maps them to themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from penstock import _validate, columns
from penstock.columns import Names, checked
from penstock.groups import (
    FACTOR,
    GROUPS,
    LINE,
    Group,
    Ordered,
    Simplex,
    check_order,
    check_room,
    divided,
    finite_end,
    has_groups,
    is_by_column,
)

CIRCLE, BOX = "circle", "box"
LINEAR = FACTOR  # scales of a box, in which its map is linear up to 1e-8
# The numbers of its own that a column has, which the first fit sets, by its map.
NUMBERS: dict[str, tuple[str, ...]] = {"positive": ("s",), "box": ("m", "s"), "logit": ()}
CLOSED = {"neither": (False, False), "lo": (True, False), "hi": (False, True), "both": (True, True)}


@dataclass(frozen=True)
class Real:
    """The whole line, which is the support of a column unless another one is given.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.nsf(2, support=["real", "positive"], rng=0).spec.support[0]
    Real()
    """

    name: ClassVar[str] = "real"
    kind: ClassVar[str] = LINE

    def __str__(self) -> str:
        return "real"


@dataclass(frozen=True)
class Interval:
    """An interval, of which either end may be absent: what :func:`interval` and ``"positive"`` make.

    Parameters
    ----------
    lo, hi : float or None
        The ends. None: there is none on that side.
    map : {"positive", "logit", "box"}, optional
        A half-line has ``"positive"``, the bijection ``u = log(exp(y / s) - 1)`` of the distance ``y`` from its end to the
        line. One with two ends has ``"box"``, and stays an interval, or on request ``"logit"``, the bijection
        ``u = log((x - lo) / (hi - x))`` to the line.
    closed : {"both", "neither", "lo", "hi"}, optional
        Which ends of a box belong to it, by default both. Those of the others never do: their density is zero there.

    Raises
    ------
    ValueError
        If there are no ends, they are not in order, or map or closed does not fit them.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.Interval(0, None)
    Interval(lo=0.0, hi=None, map='positive', closed='neither')
    """

    lo: float | None = None
    hi: float | None = None
    map: str | None = None
    closed: str | None = None

    name: ClassVar[str] = "interval"

    def __post_init__(self) -> None:
        for end in ("lo", "hi"):
            value = getattr(self, end)
            object.__setattr__(self, end, None if value is None else finite_end(value, end))
        if self.lo is None and self.hi is None:
            raise ValueError('an interval without ends is the whole line: write support="real"')
        two = self.lo is not None and self.hi is not None
        maps = ("box", "logit") if two else ("positive",)
        if self.map is None:
            object.__setattr__(self, "map", maps[0])
        elif self.map not in maps:
            ends = "two ends" if two else "one end"
            raise ValueError(f"an interval with {ends} has map {' or '.join(map(repr, maps))}, got {self.map!r}")
        if self.lo is not None and self.hi is not None:
            check_order(self.lo, self.hi)
        if self.closed is None:
            object.__setattr__(self, "closed", "both" if self.map == "box" else "neither")
        _validate.choice(self.closed, tuple(CLOSED), name="closed")
        if self.closed != "neither" and self.map != "box":
            raise ValueError(
                f"the ends of an interval with map={self.map!r} do not belong to it, as their density is zero; "
                f"got closed={self.closed!r}"
            )

    def __str__(self) -> str:
        if self.lo == 0 and self.hi is None:
            return "positive"
        lo, hi = ("" if end is None else f"{end:g}" for end in (self.lo, self.hi))
        if self.hi is None or self.lo is None:
            return f"above {lo}" if self.hi is None else f"below {hi}"
        left, right = CLOSED[str(self.closed)]
        return f"within {'[' if left else '('}{lo}, {hi}{']' if right else ')'}"

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends, infinite where there is none."""
        return -math.inf if self.lo is None else self.lo, math.inf if self.hi is None else self.hi

    @property
    def kind(self) -> str:
        """``"box"`` where the column stays an interval, ``"line"`` where it is mapped to one."""
        return BOX if self.map == "box" else LINE


@dataclass(frozen=True)
class Periodic:
    """A circle: numbers that differ by the period ``hi - lo`` are the same. What :func:`periodic` makes.

    Parameters
    ----------
    lo, hi : float
        Where a turn begins and ends: what a flow returns lies within ``[lo, hi)``, what it is given may lie anywhere.

    Raises
    ------
    ValueError
        If they are not finite and in order.

    Examples
    --------
    >>> import penstock as ps
    >>> str(ps.Periodic(-180, 180))
    'periodic over [-180, 180)'
    """

    lo: float
    hi: float

    name: ClassVar[str] = "periodic"
    kind: ClassVar[str] = CIRCLE

    def __post_init__(self) -> None:
        for end in ("lo", "hi"):
            object.__setattr__(self, end, finite_end(getattr(self, end), end))
        check_order(self.lo, self.hi)

    def __str__(self) -> str:
        return f"periodic over [{self.lo:g}, {self.hi:g})"


Support = Real | Interval | Periodic | Ordered | Simplex
SUPPORTS: dict[str, type] = {Real.name: Real, Interval.name: Interval, Periodic.name: Periodic, **GROUPS}


def ends_of(support: Support) -> tuple[float, float]:
    """Both ends, infinite where there is none."""
    return (
        (support.lo, support.hi) if isinstance(support, Periodic) else getattr(support, "ends", (-math.inf, math.inf))
    )


def kinds(support: Sequence[Support], dim: int) -> tuple[str, ...]:
    """The kind of each column: "line", "circle" or "box"."""
    return tuple(own.kind for own in support) if support else (LINE,) * dim


def number_names(support: Support, column: int) -> tuple[str, ...]:
    """Names of the numbers of its own that a column has."""
    if isinstance(support, Group):
        return support.number_names(column)
    return NUMBERS[str(support.map)] if isinstance(support, Interval) else ()


def n_numbers(support: Support, column: int) -> int:
    """How many they are."""
    return len(number_names(support, column))


def default_numbers(support: Sequence[Support]) -> list[float]:
    """What they are before any fit: a half-line in the unit of the data, a box as good as linear."""
    numbers: list[float] = []
    for column, own in enumerate(support):
        if isinstance(own, Interval) and own.map == "box":
            lo, hi = own.ends
            numbers += [0.5 * lo + 0.5 * hi, LINEAR * (hi - lo)]
        else:
            numbers += [1.0] * n_numbers(own, column)
    return numbers


def interval(lo: float | None, hi: float | None, map: str | None = None, closed: str | None = None) -> Interval:
    """The support of a column that lies between two ends, or on one side of one.

    With two ends the column is a box: the base is uniform on it, splines map it to itself, and its density may be anything
    at the ends. With one end it is mapped to the line, and so it is on request with two: the density is then zero there.

    Parameters
    ----------
    lo, hi : float or None
        The ends. None: no end on that side.
    map : {"positive", "box", "logit"}, optional
        With one end it is always ``"positive"``; with two it is ``"box"``, or ``"logit"`` on request.
    closed : {"both", "neither", "lo", "hi"}, optional
        Which ends belong to a box, by default both; what is stored lies strictly within the others.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If there are no ends, they are not in order, or map or closed does not fit them.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.interval(0, 1)
    Interval(lo=0.0, hi=1.0, map='box', closed='both')
    >>> flow = ps.nsf(2, support={0: ps.interval(None, 3.5)}, rng=0)
    >>> bool((flow.sample(1000, rng=0)[:, 0] < 3.5).all())
    True
    """
    return Interval(lo, hi, map, closed)


def periodic(lo: float, hi: float) -> Periodic:
    """The support of a column that is an angle, a phase or a time of the day: ``hi`` is ``lo``.

    The base is uniform on the circle, circular splines map it to itself, and conditioners see the cosine and the sine of the
    angle, so that nothing in the flow knows where the seam is.

    Parameters
    ----------
    lo, hi : float
        Where a turn begins and ends: what a flow returns lies within ``[lo, hi)``, what it is given may lie anywhere.

    Returns
    -------
    Periodic

    Raises
    ------
    ValueError
        If they are not finite and in order.

    References
    ----------
    Rezende, Papamakarios, Racaniere et al., "Normalizing Flows on Tori and Spheres" (2020).

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf_ar(2, support=ps.periodic(-180, 180), rng=0)
    >>> bool(flow.log_prob([10.0, 170.0]) == flow.log_prob([370.0, -190.0]))
    True
    """
    return Periodic(lo, hi)


# --- what a user gives --------------------------------------------------------------------------------------------


def resolved_context(support: Any, context_dim: int) -> tuple[tuple[Support, ...], Names]:
    """``context_support`` as a flow takes it, in the same way. What is given has no density, so that groups say nothing of it."""
    name = "context_support"
    if support is not None and not context_dim and support != ():
        raise ValueError(f"{name} needs a context, and context_dim is 0")
    if has_groups(support) or isinstance(support, Group):
        raise ValueError(f"{name}: conditioning variables are in no groups; give each a support of its own")
    return resolved(support, context_dim, name)


def resolved(support: Any, dim: int, name: str = "support") -> tuple[tuple[Support, ...], Names]:
    """``support`` as a flow takes it: a support for each column, or none if all are real; and the names that it gives them."""
    names: Names = ()
    if support is None or (isinstance(support, tuple) and not support):  # as that of a spec
        return (), names
    if isinstance(support, Mapping):
        every, names = _mapped(support, dim, name)
    elif has_groups(support) and not (isinstance(support, (list, tuple)) and is_by_column(support, dim)):
        every, names = _with_groups(support, dim)
    elif _is_one(support):
        every = [one(support, name)] * dim
    else:
        given = _validate.sequence(support, name=name)
        if len(given) != dim:
            raise ValueError(f"{name} must be one for all columns, or {dim} of them, got {len(given)}")
        every = [value if isinstance(value, Group) else one(value, f"{name}[{i}]") for i, value in enumerate(given)]
    if all(isinstance(support, Real) for support in every):
        return (), names
    return tuple(every), names


def _mapped(support: Mapping[Any, Any], dim: int, name: str) -> tuple[list[Support], Names]:
    """Supports by position, the others real; or by name, which then are the names of the columns."""
    if all(isinstance(key, (int, np.integer)) and not isinstance(key, bool) for key in support):
        every: list[Support] = [Real()] * dim
        for key, value in support.items():
            if not 0 <= key < dim:
                raise ValueError(f"{name} names column {key} of a flow whose columns are 0 to {dim - 1}")
            every[int(key)] = one(value, f"{name}[{key}]")
        return every, ()
    if not all(isinstance(key, str) for key in support):
        raise TypeError(f"the keys of {name} must be all names or all positions of columns")
    if len(support) != dim:
        raise ValueError(
            f"{name} by name must name every column of the flow, in its order: {dim}, got {len(support)} "
            f"({columns.listed(support)}). Those without ends are 'real'; by position, {{0: 'positive'}}, the others need "
            "not be named"
        )
    return [one(value, f"{name}[{key!r}]") for key, value in support.items()], checked(tuple(support), dim, name=name)


def _with_groups(support: Any, dim: int) -> tuple[list[Support], Names]:
    """Groups, and a mapping of the columns by themselves; the others are real."""
    alone, groups, names = divided(support, dim)
    every: list[Support] = [Real()] * dim
    for place, label, value in alone:
        every[place] = one(value, label)
    for group in groups:
        for place in group.chain:
            every[place] = group
    return every, names


def _is_one(support: Any) -> bool:
    """Whether this is one support, for all columns; a tuple of two ends is."""
    ends = isinstance(support, tuple) and len(support) == 2 and all(_is_end(end) for end in support)
    return isinstance(support, (str, Real, Interval, Periodic)) or ends


def _is_end(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))


def one(support: Any, name: str) -> Support:
    """The support of one column."""
    if isinstance(support, (Real, Interval, Periodic)):
        return support
    if isinstance(support, tuple) and len(support) == 2 and all(_is_end(end) for end in support):
        return Interval(*support)
    if support == "real":
        return Real()
    if support == "positive":
        return Interval(0.0, None)
    if support in ("periodic", "interval", "box", "circle"):
        raise ValueError(
            f"{name}: a support of kind {support!r} needs its ends: ps.interval(lo, hi) or ps.periodic(lo, hi)"
        )
    if isinstance(support, Group) or (isinstance(support, str) and support in GROUPS):
        raise ValueError(
            f"{name}: {support!s} is a support of several columns: give ps.ordered(columns) or ps.simplex(columns) alone, "
            "or in a list beside a mapping of the other columns"
        )
    raise ValueError(
        f"{name} must be 'real', 'positive', ps.interval(lo, hi) or (lo, hi), or ps.periodic(lo, hi), got {support!r}"
    )


def check_dtype(support: Sequence[Support], dtype: np.dtype[Any]) -> None:
    """Raise if there is no number of a type strictly between two ends: a flow could store no row."""
    for i, own in enumerate(support):
        if isinstance(own, Group):
            check_room(own, dtype, f"support[{i}]")
        elif not isinstance(own, Real) and own.lo is not None and own.hi is not None:
            lo, hi = dtype.type(own.lo), dtype.type(own.hi)
            if not np.nextafter(lo, hi) < hi:
                raise ValueError(f"support[{i}]: there is no {dtype.name} strictly between {own.lo!r} and {own.hi!r}")


SupportLike = str | Support | tuple[float | None, float | None] | Iterable[Any] | Mapping[Any, Any]
