"""Rows into a DataFrame: of pandas, polars or pyarrow, whichever is asked for or installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from penstock import _validate
from penstock._typing import Array

LIBRARIES = ("pandas", "polars", "pyarrow")


def chosen(asked: str | None, fitted_on: str) -> str:
    """The library of a DataFrame: the one that was asked for, that of the data, or the first that is installed."""
    if asked is not None:
        library = _validate.choice(asked, LIBRARIES, name="library")
        if find_spec(library) is None:
            raise ImportError(f"library={library!r} is not installed: pip install {library}")
        return library
    for library in (fitted_on, *LIBRARIES):
        if library in LIBRARIES and find_spec(library) is not None:
            return library
    raise ImportError(f"a table needs one of {', '.join(LIBRARIES)}: pip install pandas")


def frame(
    rows: Array, names: tuple[str, ...], context: Array | None, context_names: tuple[str, ...], library: str
) -> Any:
    """Rows, and the context of each behind them, as a table."""
    names = names or tuple(f"x{i}" for i in range(rows.shape[1]))
    columns = dict(zip(names, rows.T, strict=True))
    if context is not None:
        given = context_names or tuple(f"c{i}" for i in range(context.shape[1]))
        for label, column in zip(given, context.T, strict=True):
            while label in columns:
                label = f"context_{label}"
            columns[label] = column
    if library == "pandas":
        import pandas

        return pandas.DataFrame(columns, copy=True)
    # Both want a column in one piece.
    whole = {label: column.copy() for label, column in columns.items()}
    if library == "polars":
        import polars

        return polars.DataFrame(whole)
    import pyarrow

    return pyarrow.table(whole)
