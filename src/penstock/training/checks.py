"""What a first fit says of its rows, from a sample of them: columns that have no density, and rows that repeat others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from penstock._typing import Array
from penstock._warn import DiscreteWarning, OutlierWarning, RepeatedRowsWarning, warn
from penstock.columns import Names, called
from penstock.training.moments import quantiles
from penstock.training.outliers import EXTREME
from penstock.training.rows import Rows

ROWS = 100  # fewer of them tell nothing
VALUES = 100  # a column that takes at most so many,
ROWS_PER_VALUE = 10  # each of them so often in the mean, is discrete
POINT = 0.05  # part of the rows that agree in one value
GRID = 1e-5  # parts of its range, by more than which the values of a rounded column differ
COMMON = 0.01  # part of the rows that may agree in a value of a column by chance
REPEATED = 0.05  # part of the rows that repeat another one
PAIRS = 5  # of equal rows in a sample: fewer are chance


def warn_of_rows(sample: Rows, line: Rows, n_rows: int, names: Names, context_names: Names = ()) -> None:
    """Warn of what a sample says of the ``n_rows`` rows that it was drawn from. Context may be discrete as it likes.

    ``line`` is the same sample as the standardisation sees it.
    """
    if sample.weight is not None:
        sample, line = sample.take(sample.weight != 0), line.take(sample.weight != 0)
    if len(sample) >= ROWS:
        warn_discrete(sample.x, names)
        warn_repeated(sample, n_rows)
        warn_sentinels(sample, line.x[:], names, context_names)


def warn_discrete(x: Array, names: Names) -> None:
    """Warn of columns that take few values, or one of them often."""
    few, often = [], []
    for j, column in enumerate(x.T):
        values, counts = np.unique(column, return_counts=True)
        if 1 < len(values) <= min(VALUES, len(x) // ROWS_PER_VALUE):
            few.append(f"column {called(j, names)} takes only {len(values)} values in {len(x)} rows")
        elif len(values) > 1 and counts.max() >= POINT * len(x):
            most, share = values[np.argmax(counts)], counts.max() / len(x)
            often.append(f"column {called(j, names)} is {most:g} in {100 * share:.2g} % of the rows")
    if few:
        warn(
            f"X: {_several(few)}. Values that repeat have no density: the log-density grows with training, and says little of "
            "the rows. dequantize='auto' adds noise as wide as the steps while it trains; or make such a column a context, which "
            "may be discrete",
            DiscreteWarning,
        )
    if often:
        warn(
            f"X: {_several(often)}. A value that repeats has no density, and the flow puts a spike there. If it stands for what "
            "is missing or out of range, drop those rows (on the command line with --missing), or make a context of whether it "
            "is so",
            DiscreteWarning,
        )


def warn_sentinels(sample: Rows, line: Array, names: Names, context_names: Names) -> None:
    """Warn of columns with a value at one end that repeats and lies beyond the range of all others.

    Such a value is a number that stands for none, 99 or -999, more often than it is meant. Columns of the data in which it is
    common, or absurdly far out in the coordinate ``line`` that is standardised, have been told.
    """
    found = [
        f"column {called(j, names)} is {words}" for j, words in _sentinels(sample.x) if not _told(sample.x, line, j)
    ]
    if found:
        warn(
            f"X: {_several(found)}. If that stands for what is missing, the flow puts a spike there, and all other values are "
            "squeezed together: drop those rows (on the command line with --missing)",
            OutlierWarning,
            about="X",
        )
    given = sample.context
    found = [] if given is None else [f"column {called(j, context_names)} is {words}" for j, words in _sentinels(given)]
    if found:
        warn(
            f"context: {_several(found)}. If that stands for what is missing, its size squeezes all other values together: drop "
            "those rows (on the command line with --missing), or put an ordinary value there and whether it is missing into a "
            "further column",
            OutlierWarning,
            about="context",
        )


def _sentinels(array: Array) -> Iterator[tuple[int, str]]:
    """Columns with such values, and what to say of each of them."""
    for j, column in enumerate(array.T):
        values, counts = np.unique(column, return_counts=True)
        low, high = counts[0] >= PAIRS, counts[-1] >= PAIRS
        rest = values[int(low) : len(values) - int(high)]
        if len(rest) < VALUES:
            continue
        for end, away in ((0, rest[0] - values[0]), (-1, values[-1] - rest[-1])):  # nothing, where it does not repeat
            if away > rest[-1] - rest[0]:
                yield j, f"{values[end]:g} in {100 * counts[end] / len(column):.2g} % of the rows, beyond all others"


def _told(x: Array, line: Array, j: int) -> bool:
    """Whether other warnings tell of the values at the ends of a column."""
    (loc,), (scale,) = quantiles(Rows(line[:, j : j + 1]))
    far = np.abs(line[:, j : j + 1].astype(np.float64) - loc).max() > EXTREME * scale
    _, counts = np.unique(x[:, j], return_counts=True)
    return bool(far or counts.max() >= POINT * len(x))


def _several(found: list[str]) -> str:
    return "; ".join(found[:5]) + ("; ..." if len(found) > 5 else "")


def warn_repeated(sample: Rows, n_rows: int) -> None:
    """Warn of rows that repeat others, but for those that agree by chance, since all their values are rounded or common."""
    rows = sample.x if sample.context is None else np.concatenate([sample.x, sample.context], axis=1)
    telling = np.zeros(len(rows), bool)
    for column in rows.T:
        values, where, counts = np.unique(column.astype(np.float64), return_inverse=True, return_counts=True)
        gaps = np.diff(values)
        if len(gaps) and gaps.min() <= GRID * gaps.sum():
            telling |= counts[where] <= COMMON * len(rows)
    if not telling.any():
        return
    order = np.lexsort(rows.T)
    ordered = rows[order]
    same = (ordered[1:] == ordered[:-1]).all(axis=1) & telling[order[1:]]
    # A pair of the table is in a sample with the square of a row's chance.
    chance = len(rows) / n_rows
    pairs = int(same.sum())
    share = min(pairs / chance / len(rows), 1.0)
    if pairs >= PAIRS and share >= REPEATED:
        first = order[1:][same][0]
        warn(
            f"X: about {100 * share:.3g} % of the {n_rows} rows repeat another one, such as {_row(sample.x[first])}. Rows that "
            "are in the training and in the validation part hide overfitting, and repeated ones have no density. Keep each "
            "once, with its count as sample_weight (numpy.unique(X, axis=0, return_counts=True))",
            RepeatedRowsWarning,
        )


def _row(row: Array) -> str:
    return "[" + ", ".join(f"{value:.6g}" for value in row[:6]) + (", ...]" if len(row) > 6 else "]")
