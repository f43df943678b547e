"""Proposals of supports: what the values of a table look like. Nothing uses them but whoever asks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from penstock import _validate, columns
from penstock._typing import RowsLike
from penstock.columns import called
from penstock.support import Interval, Periodic

NEAR = 6.0  # robust standard deviations from the median, within which an end matters
DECADES = 100.0  # the largest value by the least, from which on a column is positive whatever its scale
BOUNDS = ((0.0, 1.0), (-1.0, 1.0))
EDGE = 0.1  # part of an interval at each end, in which some values must lie
TURNS = (
    (-math.pi, math.pi, "[-pi, pi]"), (0.0, 2 * math.pi, "[0, 2 pi]"), (-180.0, 180.0, "[-180, 180]"),
    (0.0, 360.0, "[0, 360]"),
)  # fmt: skip
TURN_EDGE = 0.05  # the same of a turn


def infer_support(X: RowsLike) -> list[str | Interval | Periodic] | dict[str, str | Interval | Periodic]:
    """Propose a support for every column of a table, and print why. Nothing else uses it: whether it is right is yours to say.

    A column is proposed as periodic if it fills a turn, [-pi, pi], [0, 2 pi], [-180, 180] or [0, 360], to a twentieth at both
    ends; as an interval if it fills [0, 1] or [-1, 1] to a tenth at both ends, closed where it has values at an end; and as
    positive if all its values are above 0, and 0 lies within 6 robust standard deviations of its median or its values span a
    factor of 100.

    Parameters
    ----------
    X : array of shape (rows, dim), or a table
        Missing values are ignored.

    Returns
    -------
    list or dict
        What ``support=``, or of a context ``context_support=``, takes: in the order of the columns, by name if they have names.

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
    found: list[str | Interval | Periodic] = []
    for j, column in enumerate(values.T):
        support, reason = _proposal(column[np.isfinite(column)].astype(np.float64))
        found.append(support)
        label = table.names[j] if table.names else f"column {called(j, ())}"
        print(f"{label}: {support}, since {reason}")
    return dict(zip(table.names, found, strict=True)) if table.names else found


def _proposal(x: Any) -> tuple[str | Interval | Periodic, str]:
    """The support of one column, and why."""
    if len(x) == 0:
        return "real", "it has no values"
    least, most = float(x.min()), float(x.max())
    for lo, hi, turn in TURNS:
        edge = TURN_EDGE * (hi - lo)
        if lo <= least < lo + edge and hi - edge < most <= hi:
            return Periodic(lo, hi), f"all {len(x)} values lie within {turn}, a turn, and near both ends"
    for lo, hi in BOUNDS:
        edge = EDGE * (hi - lo)
        if lo <= least < lo + edge and hi - edge < most <= hi:
            closed = (
                "both" if lo == least and hi == most else "lo" if lo == least else "hi" if hi == most else "neither"
            )
            box = Interval(lo, hi, closed=closed)
            return box, f"all {len(x)} values lie {box}, and near both ends"
    if least < 0:
        return "real", "it has values on both sides of 0" if most > 0 else "it has values below 0"
    if least == 0:
        count = int((x == 0).sum())
        return "real", f"no value is below 0, but {count} of {len(x)} are 0, which 'positive' excludes"
    q25, median, q75 = np.quantile(x, [0.25, 0.5, 0.75])
    if median <= NEAR * (q75 - q25) / 1.349 or most >= DECADES * least:
        return "positive", f"all {len(x)} values are above 0, the least {least:.3g}"
    return "real", f"0 lies far below its values, {least:.3g} to {most:.3g}"
