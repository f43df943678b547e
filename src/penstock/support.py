"""Specs of supports: where the numbers of a column may lie. Every column that is not real has a bijection to the line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from penstock import _validate, columns
from penstock._typing import RowsLike
from penstock.columns import Names, called, checked

# What is to come, by the words with which somebody may ask for it.
TO_COME = ("box", "circle", "ordered", "periodic", "simplex")


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

    def __str__(self) -> str:
        return "real"


@dataclass(frozen=True)
class Interval:
    """An open interval, of which either end may be absent: what :func:`interval` and ``"positive"`` make.

    Parameters
    ----------
    lo, hi : float or None
        The ends. None: there is none on that side.
    map : {"positive", "logit"}, optional
        The bijection to the line. A half-line has ``"positive"``, ``u = log(exp(y / s) - 1)`` of the distance ``y`` from its
        end; one with two ends has ``"logit"``, ``u = log((x - lo) / (hi - x))``, which has to be asked for.

    Raises
    ------
    ValueError
        If there are no ends, they are not in order, or the map does not fit them.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.Interval(0, None)
    Interval(lo=0.0, hi=None, map='positive')
    """

    lo: float | None = None
    hi: float | None = None
    map: str | None = None

    name: ClassVar[str] = "interval"

    def __post_init__(self) -> None:
        for end in ("lo", "hi"):
            value = getattr(self, end)
            object.__setattr__(self, end, None if value is None else _end(value, end))
        if self.lo is None and self.hi is None:
            raise ValueError('an interval without ends is the whole line: write support="real"')
        if self.lo is None or self.hi is None:
            if self.map not in (None, "positive"):
                raise ValueError(f"an interval with one end has map='positive', got {self.map!r}")
            object.__setattr__(self, "map", "positive")
            return
        if not (self.lo < self.hi and math.isfinite(self.hi - self.lo)):
            raise ValueError(f"lo must be below hi, and their difference finite, got lo={self.lo:g} and hi={self.hi:g}")
        if self.map is None:
            raise ValueError(
                f"an interval with two ends needs map='logit', whose density is zero at both ends. Boxes, whose density may "
                f"be anything there, are to come; got lo={self.lo:g} and hi={self.hi:g}"
            )
        if self.map != "logit":
            raise ValueError(f"an interval with two ends has map='logit', got {self.map!r}")

    def __str__(self) -> str:
        if self.lo == 0 and self.hi is None:
            return "positive"
        lo, hi = ("" if end is None else f"{end:g}" for end in (self.lo, self.hi))
        return f"above {lo}" if self.hi is None else f"below {hi}" if self.lo is None else f"within ({lo}, {hi})"

    @property
    def ends(self) -> tuple[float, float]:
        """Both ends, infinite where there is none."""
        return -math.inf if self.lo is None else self.lo, math.inf if self.hi is None else self.hi


Support = Real | Interval
SUPPORTS: dict[str, type] = {Real.name: Real, Interval.name: Interval}


def _end(value: Any, name: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number or None, got {value!r}") from None
    if not math.isfinite(number) or isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be a finite number, or None where there is no end, got {value!r}")
    return number + 0.0  # without the sign of zero


def interval(lo: float | None, hi: float | None, map: str | None = None) -> Interval:
    """The support of a column that lies strictly between two ends, or on one side of one.

    Parameters
    ----------
    lo, hi : float or None
        The ends, which belong to it no more than infinity does; their density is zero. None: no end on that side.
    map : {"positive", "logit"}, optional
        The bijection to the line. With one end it is always ``"positive"``; with two it has to be ``"logit"``.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If there are no ends, they are not in order, or the map does not fit them.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.interval(0, 1, map="logit")
    Interval(lo=0.0, hi=1.0, map='logit')
    >>> flow = ps.nsf(2, support={0: ps.interval(None, 3.5)}, rng=0)
    >>> bool((flow.sample(1000, rng=0)[:, 0] < 3.5).all())
    True
    """
    return Interval(lo, hi, map)


# --- what a user gives --------------------------------------------------------------------------------------------


def resolved(support: Any, dim: int) -> tuple[tuple[Support, ...], Names]:
    """``support`` as a flow takes it: a support for each column, or none if all are real; and the names that it gives them."""
    names: Names = ()
    if support is None or (isinstance(support, tuple) and not support):  # as that of a spec
        return (), names
    if isinstance(support, Mapping):
        every, names = _mapped(support, dim)
    elif _is_one(support):
        every = [one(support, "support")] * dim
    else:
        given = _validate.sequence(support, name="support")
        if len(given) != dim:
            raise ValueError(f"support must be one for all columns, or {dim} of them, got {len(given)}")
        every = [one(value, f"support[{i}]") for i, value in enumerate(given)]
    if all(isinstance(support, Real) for support in every):
        return (), names
    return tuple(every), names


def _mapped(support: Mapping[Any, Any], dim: int) -> tuple[list[Support], Names]:
    """Supports by position, the others real; or by name, which then are the names of the columns."""
    if all(isinstance(key, (int, np.integer)) and not isinstance(key, bool) for key in support):
        every: list[Support] = [Real()] * dim
        for key, value in support.items():
            if not 0 <= key < dim:
                raise ValueError(f"support names column {key} of a flow whose columns are 0 to {dim - 1}")
            every[int(key)] = one(value, f"support[{key}]")
        return every, ()
    if not all(isinstance(key, str) for key in support):
        raise TypeError("the keys of support must be all names or all positions of columns")
    if len(support) != dim:
        raise ValueError(
            f"support by name must name every column of the flow, in its order: {dim}, got {len(support)} "
            f"({columns.listed(support)}). Those without ends are 'real'; by position, {{0: 'positive'}}, the others need "
            "not be named"
        )
    return [one(value, f"support[{key!r}]") for key, value in support.items()], checked(
        tuple(support), dim, name="support"
    )


def _is_one(support: Any) -> bool:
    """Whether this is one support, for all columns; a tuple of two ends is."""
    ends = isinstance(support, tuple) and len(support) == 2 and all(_is_end(end) for end in support)
    return isinstance(support, (str, Real, Interval)) or ends


def _is_end(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))


def one(support: Any, name: str) -> Support:
    """The support of one column."""
    if isinstance(support, (Real, Interval)):
        return support
    if isinstance(support, tuple) and len(support) == 2 and all(_is_end(end) for end in support):
        return Interval(*support)
    if support == "real":
        return Real()
    if support == "positive":
        return Interval(0.0, None)
    if isinstance(support, str) and support in TO_COME:
        raise ValueError(
            f"{name}: supports of kind {support!r} are to come; there are 'real', 'positive' and ps.interval"
        )
    raise ValueError(f"{name} must be 'real', 'positive', ps.interval(lo, hi) or (lo, hi), got {support!r}")


def check_dtype(support: Sequence[Support], dtype: np.dtype[Any]) -> None:
    """Raise if there is no number of a type strictly between two ends: a flow could store no row."""
    for i, own in enumerate(support):
        if isinstance(own, Interval) and own.lo is not None and own.hi is not None:
            lo, hi = dtype.type(own.lo), dtype.type(own.hi)
            if not np.nextafter(lo, hi) < hi:
                raise ValueError(f"support[{i}]: there is no {dtype.name} strictly between {own.lo!r} and {own.hi!r}")


# --- proposals ----------------------------------------------------------------------------------------------------

NEAR = 6.0  # robust standard deviations from the median, within which an end matters
DECADES = 100.0  # the largest value by the least, from which on a column is positive whatever its scale
BOUNDS = ((0.0, 1.0), (-1.0, 1.0))
EDGE = 0.1  # part of an interval at each end, in which some values must lie


def infer_support(X: RowsLike) -> list[str | Interval] | dict[str, str | Interval]:
    """Propose a support for every column of a table, and print why. Nothing else uses it: whether it is right is yours to say.

    A column is proposed as positive if all its values are above 0, and 0 lies within 6 robust standard deviations of its
    median or its values span a factor of 100; and as an interval with ``map="logit"`` if it fills (0, 1) or (-1, 1), ends
    excluded.

    Parameters
    ----------
    X : array of shape (rows, dim), or a table
        Missing values are ignored.

    Returns
    -------
    list or dict
        What ``support=`` takes: in the order of the columns, by name if they have names.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> source = np.random.default_rng(0)
    >>> X = {"mass": source.gamma(2.0, size=500), "age": source.normal(size=500)}
    >>> support = ps.infer_support(X)
    mass: positive, since all 500 values are above 0, the least 0.106
    age: real, since it has values on both sides of 0
    >>> support
    {'mass': 'positive', 'age': 'real'}
    """
    table = columns.read(X, (), 0, name="X")
    values = _validate.reals(table.values, name="X")
    if values.ndim != 2:
        raise ValueError(f"X must have shape (rows, dim), got {values.shape}")
    found: list[str | Interval] = []
    for j, column in enumerate(values.T):
        support, reason = _proposal(column[np.isfinite(column)].astype(np.float64))
        found.append(support)
        label = table.names[j] if table.names else f"column {called(j, ())}"
        print(f"{label}: {support}, since {reason}")
    return dict(zip(table.names, found, strict=True)) if table.names else found


def _proposal(x: Any) -> tuple[str | Interval, str]:
    """The support of one column, and why."""
    if len(x) == 0:
        return "real", "it has no values"
    least, most = float(x.min()), float(x.max())
    for lo, hi in BOUNDS:
        edge = EDGE * (hi - lo)
        if lo <= least < lo + edge and hi - edge < most <= hi:
            if lo < least and most < hi:
                return Interval(lo, hi, "logit"), f"all {len(x)} values lie within ({lo:g}, {hi:g}), and near both ends"
            return "real", f"it fills [{lo:g}, {hi:g}], but has values at an end, which no support has yet"
    if least < 0:
        return "real", "it has values on both sides of 0" if most > 0 else "it has values below 0"
    if least == 0:
        count = int((x == 0).sum())
        return "real", f"no value is below 0, but {count} of {len(x)} are 0, which 'positive' excludes"
    q25, median, q75 = np.quantile(x, [0.25, 0.5, 0.75])
    if median <= NEAR * (q75 - q25) / 1.349 or most >= DECADES * least:
        return "positive", f"all {len(x)} values are above 0, the least {least:.3g}"
    return "real", f"0 lies far below its values, {least:.3g} to {most:.3g}"


SupportLike = str | Support | tuple[float | None, float | None] | Iterable[Any] | Mapping[Any, Any]
