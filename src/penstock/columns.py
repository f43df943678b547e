"""Columns with names: what a DataFrame, a structured array, a Series or a mapping holds, as numbers in the order of a flow.

Arrays and lists without names pass through untouched. narwhals is imported only when something arrives that is neither, and
pyarrow only for what nothing but ``__arrow_c_stream__`` describes. A missing value becomes NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from penstock._typing import Array

Names = tuple[str, ...]

# One of these on its class makes an object a table or a column; arrays of other libraries have none of them.
MARKS = (
    "__arrow_c_stream__",
    "__arrow_c_array__",
    "__narwhals_dataframe__",
    "__narwhals_lazyframe__",
    "__narwhals_series__",
    "columns",
    "iloc",
    "colnames",
)
SHOWN = 10  # names in a message


class Table(NamedTuple):
    """Numbers that came with names.

    Attributes
    ----------
    values : array of shape (rows, n), or (n,) for one row
    names : tuple of str
        Of the columns; empty where they have none.
    library : str
        What it was a table of: "pandas", "polars", "pyarrow", or "" for none of them.
    """

    values: Any
    names: Names = ()
    library: str = ""


# --- names --------------------------------------------------------------------------------------------------------


def checked(names: Any, count: int, *, name: str) -> Names:
    """``names`` as a tuple of so many different strings; None, or none at all, for no names."""
    if names is None:
        return ()
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{name} must be a sequence of strings, got {names!r}")
    strings = tuple(names)
    for i, string in enumerate(strings):
        if not isinstance(string, str):
            raise TypeError(f"{name}[{i}] must be a string, got {string!r}")
    if strings and len(strings) != count:
        raise ValueError(f"{name} must be {count} name{_s(count)}, got {len(strings)}: {listed(strings)}")
    _check_different(strings, name)
    return tuple(map(str, strings))


def _check_different(names: Sequence[str], name: str) -> None:
    for string in names:
        if not string or "\0" in string or not _is_text(string):
            raise ValueError(f"{name} has a column without a name, or with one that no file can hold: {string!r}")
    if len(set(names)) < len(names):
        doubled = {string: names.count(string) for string in names if names.count(string) > 1}
        which = ", ".join(f"{string!r} {count} times" for string, count in list(doubled.items())[:SHOWN])
        raise ValueError(f"{name} has columns of the same name: {which}")


def _is_text(string: str) -> bool:
    """Whether a string has a form in UTF-8: half of a surrogate pair has none."""
    try:
        string.encode()
    except UnicodeEncodeError:
        return False
    return True


def called(column: SupportsIndex, names: Names) -> str:
    """How a message names a column: by its name, or else by its number."""
    return repr(names[column]) if names else str(column)


def places(asked: Any, known: Names, count: int, *, name: str) -> tuple[int, ...]:
    """The positions of columns that are asked for by name or by position, in the order asked for; one by itself is one, too."""
    if isinstance(asked, str) or not isinstance(asked, Iterable):
        asked = (asked,)
    found = tuple(_place(column, known, count, name) for column in asked)
    if not found:
        raise ValueError(f"{name} must be one column or several, got none")
    if len(set(found)) < len(found):
        raise ValueError(f"{name} has a column twice: {', '.join(called(i, known) for i in found)}")
    return found


def _place(column: Any, known: Names, count: int, name: str) -> int:
    if isinstance(column, str):
        if column in known:
            return known.index(column)
        have = f"its columns are {listed(known)}" if known else "its columns have no names: give positions"
        raise ValueError(f"{name} names {column!r}, which the flow has not; {have}")
    if isinstance(column, SupportsIndex) and not isinstance(column, bool) and 0 <= column.__index__() < count:
        return column.__index__()
    kinds = "names or positions of columns" if known else "positions of columns"
    raise ValueError(f"{name} must be {kinds}, 0 to {count - 1}, got {column!r}")


def worded(places: Sequence[int], names: Names) -> str:
    """Columns in words, ``columns 'a', 'b'``."""
    return f"column{_s(len(places))} {', '.join(called(i, names) for i in places)}"


def listed(words: Iterable[str]) -> str:
    """The first of some names, in quotes."""
    every = list(words)
    return ", ".join(map(repr, every[:SHOWN])) + (", ..." if len(every) > SHOWN else "")


def _s(count: int) -> str:
    return "" if count == 1 else "s"


# --- matching -----------------------------------------------------------------------------------------------------


def matched(values: Any, known: Names, count: int, *, name: str, attribute: str = "columns", cure: str = "") -> Table:
    """What a user gave, ready for the front door, its columns in the order of the flow; with the names that they had.

    Parameters
    ----------
    values : anything
    known : tuple of str
        The columns of the flow; empty for one without names, which takes them as they come.
    count : int
        How many columns there should be.
    name, attribute, cure : str
        For messages: the argument, the attribute of the flow that holds ``known``, and what else may help.
    """
    if values is None or count == 0 or (type(values) is np.ndarray and values.dtype.names is None):
        return Table(values)
    table = read(values, known, count, name=name)
    if not table.names:
        return table
    _check_different(table.names, name)
    if not known:
        if len(table.names) != count:
            raise ValueError(
                f"{name} must have {count} column{_s(count)}, got {len(table.names)}: {listed(table.names)}"
            )
        return table
    if table.names == known:
        return table
    lacking = [label for label in known if label not in table.names]
    unknown = [label for label in table.names if label not in known]
    if lacking or unknown:
        parts = [f"lacks {listed(lacking)}"] if lacking else []
        parts += [f"has {listed(unknown)}, which the flow does not know"] if unknown else []
        select = f"; {name}[list(flow.{attribute})] chooses them" if not lacking else ""
        raise ValueError(
            f"the columns of {name} are not those of the flow ({listed(known)}): {name} {' and '.join(parts)}{select}{cure}"
        )
    place = {label: i for i, label in enumerate(table.names)}
    return table._replace(values=table.values[..., [place[label] for label in known]])


# --- reading ------------------------------------------------------------------------------------------------------


def read(values: Any, known: Names, count: int, *, name: str) -> Table:
    """The numbers of what may be a table, and the names that its columns have."""
    if isinstance(values, (np.ndarray, np.void)):
        return _structured(values, name) if values.dtype.names else Table(values)
    if isinstance(values, (list, tuple)):
        return Table(values)
    if isinstance(values, Mapping):
        return _columns({_label(key): column for key, column in values.items()}, name)
    if not any(hasattr(type(values), mark) for mark in MARKS):
        # Such as a data set of h5py, which tells its fields here.
        return _structured(np.asarray(values), name) if _has_fields(values) else Table(values)
    if hasattr(values, "colnames") and hasattr(values, "as_array"):  # a table of astropy, with masks that asarray drops
        return _structured(values.as_array(), name)
    return _frame(values, known, count, name)


def plain(values: Any, *, name: str) -> Any:
    """The numbers of what may be a table or a column, by position: for arguments whose columns have no names."""
    if isinstance(values, (np.ndarray, list, tuple, int, float)) and not _has_fields(values):
        return values
    return read(values, (), 0, name=name).values


def _has_fields(values: Any) -> bool:
    return bool(getattr(getattr(values, "dtype", None), "names", None))


def _structured(array: Any, name: str) -> Table:
    """The fields of a structured array, of one record too."""
    mask = getattr(array, "mask", None)
    columns = {}
    for label in array.dtype.names:
        column = np.asarray(array[label])
        if mask is not None and np.any(mask[label]):
            column = np.where(mask[label], np.nan, numbers(column, label, name))
        columns[label] = column
    return _columns(columns, name)


def _columns(columns: Mapping[str, Any], name: str, library: str = "") -> Table:
    """Columns of the same length side by side."""
    arrays = [numbers(np.asarray(plain(column, name=name)), label, name) for label, column in columns.items()]
    if not arrays:
        raise ValueError(f"{name} has no columns")
    for label, array in zip(columns, arrays, strict=True):
        if array.shape != arrays[0].shape:
            first = next(iter(columns))
            raise ValueError(
                f"the columns of {name} differ in length: {first!r} has shape {arrays[0].shape}, {label!r} {array.shape}"
            )
    dtype = np.result_type(*arrays)
    return Table(np.stack(arrays, axis=-1, dtype=dtype), tuple(columns), library)


def _frame(values: Any, known: Names, count: int, name: str) -> Table:
    """A DataFrame or a Series of some library."""
    import narwhals.stable.v2 as nw

    _check_labels(values, name)
    native = nw.from_native(values, pass_through=True, allow_series=True)
    if isinstance(native, nw.LazyFrame):
        native = native.collect()
    if isinstance(native, nw.Series):
        return _series(values, native, known, count, name)
    if not isinstance(native, nw.DataFrame):
        if not any(hasattr(values, mark) for mark in MARKS[:2]):  # an array that has columns of its own
            return Table(values)
        arrow = _arrow(values, name)
        _check_labels(arrow, name)
        native = nw.from_native(arrow, eager_only=True)
    library = native.implementation.value
    positions = _positions(native.columns)
    schema = set(native.schema.values())
    table = None
    if len(schema) == 1 and schema <= {nw.Float32(), nw.Float64()}:
        array = native.to_numpy()  # a view where it is one block; objects where pandas holds columns of pyarrow
        if array.dtype.kind == "f":
            table = Table(array, tuple(map(_label, native.columns)), library)
    if table is None:
        entries = {_label(label): native[:, i].to_numpy() for i, label in enumerate(native.columns)}
        table = _columns(entries, name, library)
    if positions is None:
        return table
    ordered = table.values if positions == sorted(positions) else table.values[:, np.argsort(positions)]
    return Table(ordered, (), library)


def _check_labels(values: Any, name: str) -> None:
    """Columns of the same name, which pandas and pyarrow allow and narwhals does not."""
    labels = (
        values.columns
        if hasattr(values, "iloc") and hasattr(values, "columns")
        else getattr(values, "column_names", ())
    )
    _check_different([_label(label) for label in labels], name)


def _positions(labels: Sequence[Any]) -> list[int] | None:
    """The labels of a DataFrame whose columns never had a name: numbers from 0, in any order."""
    if labels and all(isinstance(label, (int, np.integer)) for label in labels):
        positions = [int(label) for label in labels]
        return positions if sorted(positions) == list(range(len(positions))) else None
    return None


def _series(values: Any, series: Any, known: Names, count: int, name: str) -> Table:
    """A Series: the one column of a flow of one dimension, or a row whose index names its columns."""
    library = series.implementation.value
    index = getattr(values, "index", None)
    labels = list(index) if index is not None and not callable(index) and len(index) == len(values) else []
    named = bool(labels) and all(isinstance(label, str) for label in labels)
    if named and count and (count > 1 or tuple(labels) == known):
        _check_different(labels, name)
        return _columns(dict(zip(labels, series.to_numpy(), strict=True)), name, library)
    label = series.name if isinstance(series.name, str) else ""
    column = numbers(series.to_numpy(), label, name)
    return Table(column[:, None], (label,) if label else (), library) if count == 1 else Table(column, (), library)


def _arrow(values: Any, name: str) -> Any:
    """What is no DataFrame that narwhals knows, as a table of pyarrow."""
    try:
        import pyarrow
    except ImportError:
        raise TypeError(f"{name} is a {type(values).__name__}, which pyarrow can read: pip install pyarrow") from None
    try:
        return pyarrow.table(values)
    except (TypeError, ValueError, pyarrow.ArrowException) as error:
        raise TypeError(f"{name} is a {type(values).__name__}, which cannot be read as a table: {error}") from None


def _label(label: Any) -> str:
    return label if isinstance(label, str) else str(label)


# --- numbers ------------------------------------------------------------------------------------------------------


def numbers(column: Array, label: str, name: str) -> Array:
    """The entries of a column as floats, NaN for those that are missing; what is no number is an error that names it."""
    kind = column.dtype.kind
    if kind == "f" and column.dtype.itemsize in (4, 8):
        return column.astype(column.dtype.newbyteorder("="), copy=False)
    if kind == "f" and column.dtype.itemsize == 2:
        return column.astype(np.float32)
    if kind in "biuf":
        with np.errstate(all="ignore"):
            return column.astype(np.float64)
    where = f"{name} column {label!r}" if label else name
    if kind == "O":
        flat = np.array([_number(entry, i, where) for i, entry in enumerate(column.ravel())], np.float64)
        return flat.reshape(column.shape)
    what = {"M": "dates", "m": "durations", "c": "complex numbers", "U": "text", "S": "text"}.get(kind, "other things")
    example = f", such as {column.flat[0]!s:.40}" if column.size else ""
    raise TypeError(f"{where} must hold real numbers, but holds {what} ({column.dtype}){example}")


def _number(entry: Any, i: int, where: str) -> float:
    if entry is None or type(entry).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return float("nan")
    if not isinstance(entry, (str, bytes)):
        try:
            return float(entry)
        except (TypeError, ValueError, OverflowError):
            pass
    what = "text" if isinstance(entry, (str, bytes)) else type(entry).__name__
    raise TypeError(f"{where} must hold real numbers, but row {i} holds {what}: {str(entry)!r:.40}")
