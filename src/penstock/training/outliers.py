"""Absurd values: how a first fit finds and survives a few of them, and what it says."""

from __future__ import annotations

import numpy as np

from penstock._typing import Array
from penstock._warn import OutlierWarning, warn
from penstock.columns import Names, called
from penstock.training.moments import quantiles
from penstock.training.rows import Rows, sides
from penstock.training.supports import Line

EXTREME = 1e3  # scales from the location, beyond which a value cannot be meant
PART = 1e-3  # of the rows: where more of them are so far, they are meant, or a code for what is missing
ROWS = 20  # fewer rows do not tell
ABSURD = EXTREME**2  # nats a row, to which rows that are meant do not come in the mean
FAR = f"more than {EXTREME:g} robust standard deviations (interquartile range / 1.349) from the median"


def survive(rows: Rows, sample: Rows, loc: Array, scale: Array, ends: Array, name: str, names: Names) -> None:
    """Measure columns by quartiles, in ``loc`` and ``scale``, that a few absurd values have spoilt, and warn of them.

    ``ends`` are the least and the largest value of each column. Rows beyond ``EXTREME`` are then left out by ``far_rows``.
    """
    middle, robust = quantiles(sample)
    with np.errstate(all="ignore"):
        spoilt = np.flatnonzero((robust > 0) & (np.abs(ends - middle).max(axis=0) > EXTREME * robust))
    counted = len(rows) if rows.weight is None else int(np.count_nonzero(rows.weight))
    if counted < ROWS:
        return
    left_out, kept = [], []
    for j in spoilt:
        far = far_rows(Rows(rows.x[:, j : j + 1], None, rows.weight), np.array([middle[j], robust[j]]))
        mapped = " (as its support maps it)" if isinstance(rows.x, Line) and rows.x.maps(int(j)) else ""
        words = f"column {called(j, names)}{mapped}: {_described(rows.x[far, j], far, counted, middle[j], robust[j])}"
        if len(far) <= max(1, PART * counted):
            loc[j], scale[j] = middle[j], robust[j]
            left_out.append(words)
        else:
            kept.append(words + _code(rows.x[far, j]))
    if left_out:
        warn(
            f"{name} has values {FAR}. {_several(left_out)}. Such rows are left out of this fit, and the column is standardised "
            "by median and interquartile range. Correct or drop them; if they are real, take the logarithm of the column, or "
            'standardize="robust", which keeps every row',
            OutlierWarning,
            about=name,
        )
    if kept:
        warn(
            f"{name} has values {FAR}. {_several(kept)}. They spoil scale and training; drop them, or take the logarithm of a "
            "column with such tails",
            OutlierWarning,
            about=name,
        )


def far_rows(rows: Rows, buffers: Array) -> Array:
    """Numbers of the rows that count, of which a value or one of its context lies more than ``EXTREME`` scales out.

    Columns of which nothing was measured, with location 0 and scale 1, do not tell.
    """
    found = []
    for part in rows.chunks(rows.x.shape[1]):
        far = np.zeros(part.stop - part.start, bool)
        data, given = sides(rows.x, rows.context, buffers)
        for array, loc_and_scale in ((rows.x, data), (rows.context, given)):
            if array is not None:
                loc, scale = np.split(loc_and_scale, 2)
                scale = np.where((loc == 0) & (scale == 1), np.inf, scale)
                with np.errstate(all="ignore"):
                    far |= (np.abs(array[part].astype(np.float64) - loc) > EXTREME * scale).any(axis=1)
        if rows.weight is not None:
            far &= rows.weight[part] != 0
        found.append(part.start + np.flatnonzero(far))
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def far_held_out(rows: Rows, buffers: Array) -> Array:
    """Numbers of the validation rows of one's own that are so far out; none where they are many, since those are meant."""
    far = far_rows(rows, buffers)
    return far[:0] if len(far) > max(1, PART * len(rows)) else far


def far_rows_of_later_fit(
    rows: Rows, buffers: Array, names: Names, context_names: Names, *, numbers: Array | None = None, counted: int = 0
) -> Array:
    """Numbers of the rows of a later fit that a few absurd values have spoilt, by the standardisation that it keeps; it warns.

    Columns in which many are so far do not tell: they are meant. The rows may be those alone that are far out, of a table of
    which they have ``numbers`` and in which ``counted`` rows count.
    """
    data, given = sides(rows.x, rows.context, buffers)
    every = far_rows(rows, buffers)
    some = rows.take(every)
    if numbers is None:
        counted = len(rows) if rows.weight is None else int(np.count_nonzero(rows.weight))
    found = [every[:0]]
    for name, columns, whole, array, loc_and_scale in (
        ("X", names, rows.x, some.x, data), ("context", context_names, rows.context, some.context, given),
    ):  # fmt: skip
        told = []
        for j, (loc, scale) in enumerate(np.reshape(loc_and_scale, (2, -1)).T):
            assert array is not None
            far = far_rows(Rows(array[:, j : j + 1]), np.array([loc, scale]))
            values = array[far, j]
            if 0 < len(far) <= max(1, PART * counted) and np.isfinite(values).all():
                mapped = " (as its support maps it)" if isinstance(whole, Line) and whole.maps(j) else ""
                where = every[far] if numbers is None else numbers[every[far]]
                words = _described(values, where, counted, loc, scale)
                told.append(f"column {called(j, columns)}{mapped}: {words}")
                found.append(every[far])
        if told:
            warn(
                f"{name} has values more than {EXTREME:g} scales of the first fit from its location. {_several(told)}. They have "
                "made the loss absurd, and such rows are left out of this fit; correct or drop them, or take the logarithm of "
                "the column and begin anew with flow.reset()",
                OutlierWarning,
                about=name,
            )
    return np.unique(np.concatenate(found))


def warn_kept(sample: Rows, name: str, names: Names) -> None:
    """Warn of absurd values in a sample, where all rows are kept whatever they hold."""
    if sample.weight is not None:
        sample = sample.take(sample.weight != 0)
    if len(sample) < ROWS:
        return
    loc, scale = quantiles(sample)
    found = []
    for j in np.flatnonzero(scale > 0):
        far = far_rows(Rows(sample.x[:, j : j + 1]), np.array([loc[j], scale[j]]))
        if len(far):
            value = sample.x[far[np.argmax(np.abs(sample.x[far, j] - loc[j]))], j]
            found.append(
                f"column {called(j, names)}: {len(far)} of {len(sample)} rows of a sample, such as {value:g} where the median is "
                f"{loc[j]:.6g}"
            )
    if found:
        warn(
            f"{name} has values {FAR}. {_several(found)}. Training may fail on them; drop them, or take the logarithm of the "
            "column",
            OutlierWarning,
            about=name,
        )


def warn_held_out(far: int, n: int, first: int) -> None:
    """Warn of so many of n validation rows of one's own that are left out; number ``first`` is one of them."""
    warn(
        f"validation: {far} of {n} rows, such as row {first}, lie more than {EXTREME:g} scales of the training "
        "rows out, and are left out, since they alone would choose the epoch; correct or drop them",
        OutlierWarning,
    )


def _described(values: Array, far: Array, n: int, loc: float, scale: float) -> str:
    """How many values of a column are absurd, and where the farthest is."""
    with np.errstate(all="ignore"):
        distance = np.abs(values.astype(np.float64) - loc) / scale
    i = int(np.argmax(distance))
    return (
        f"{len(far)} of {n} values, the farthest {values[i]:g} in row {far[i]}, {distance[i]:.3g} away from {loc:.6g}"
    )


def _code(values: Array) -> str:
    """What to say of absurd values that are mostly the same."""
    different, counts = np.unique(values, return_counts=True)
    if counts.max() <= max(1, len(values) // 2):
        return ""
    return f" ({counts.max()} of them are {different[np.argmax(counts)]:g}, perhaps a code for what is missing)"


def _several(found: list[str]) -> str:
    return "; ".join(found[:5]) + ("; ..." if len(found) > 5 else "")
