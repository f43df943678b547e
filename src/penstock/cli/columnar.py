"""Tables of typed columns: Parquet, HDF5 and FITS, each read by its own library, which is imported when such a file is.

Only the chosen columns are read, a chunk at a time. Where a value is missing there is NaN.
"""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock.cli.tables import Missing, Table, chosen, chunk_rows

EXTRAS = {"pyarrow": "parquet", "h5py": "hdf5", "astropy": "fits"}


def library(name: str, path: str) -> Any:
    """A module of an optional package, or an error that says what to install."""
    package = name.split(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"{path}: {package} is not installed, and reads and writes such files: "
            f"pip install {package}, or pip install 'penstock[{EXTRAS[package]}]'"
        ) from None


# Reads a column from an open file, rows ``first`` to ``last``.
Reader = Callable[[Any, int, int], Array]


class Column(NamedTuple):
    """A column of a file: its name, and either how it is read or what it holds instead of numbers."""

    name: str
    read: Reader | None
    kind: str = ""


class _ColumnsTable(Table):
    """Columns that are read by themselves, from a file that is open in each pass alone."""

    def __init__(self, path: str, n_rows: int, columns: Sequence[Column], missing: Missing | None) -> None:
        super().__init__(path, n_rows, len(columns), [column.name for column in columns], missing)
        self._columns = columns

    def _chunks(self, columns: Sequence[int], first: int, last: int | None) -> Iterator[Array]:
        assert self.n_rows is not None
        size, readers = chunk_rows(len(columns)), [self._reader(i) for i in columns]
        end = self.n_rows if last is None else last
        with self._open() as file:
            for begin in range(first, end, size):
                yield _beside([read(file, begin, min(begin + size, end)) for read in readers])

    def _open(self) -> Any:
        raise NotImplementedError

    def _reader(self, index: int) -> Reader:
        name, read, kind = self._columns[index]
        if read is None:
            raise ValueError(f"{self.path}, column {name!r}: must hold numbers, got {kind}")
        return read


def _beside(columns: Sequence[Array]) -> Array:
    """Columns as one array: float32 if all are of no higher precision, otherwise float64."""
    narrow = all(column.dtype.kind == "f" and column.dtype.itemsize <= 4 for column in columns)
    rows = np.empty((len(columns[0]), len(columns)), np.float32 if narrow else np.float64)
    for place, column in enumerate(columns):
        rows[:, place] = column
    return rows


# --- Parquet --------------------------------------------------------------------------------------------------------------


class ParquetTable(Table):
    """A Parquet file: its columns of numbers and truth values; nulls are missing."""

    def __init__(self, path: str, missing: Missing | None = None) -> None:
        self._arrow = library("pyarrow", path)
        parquet = library("pyarrow.parquet", path)
        open(path, "rb").close()  # for an error of the system
        try:
            with parquet.ParquetFile(path, memory_map=True) as file:
                self._schema, count = file.schema_arrow, file.metadata.num_rows
        except self._arrow.ArrowException as error:
            raise ValueError(f"{path} is no Parquet file, or damaged: {error}") from None
        self._open = partial(parquet.ParquetFile, path, memory_map=True)
        super().__init__(path, count, len(self._schema.names), self._schema.names, missing)

    def _chunks(self, columns: Sequence[int], first: int, last: int | None) -> Iterator[Array]:
        schema = self._schema
        names = [schema.names[i] for i in columns]
        for i, name in zip(columns, names, strict=True):
            if schema.names.count(name) > 1:
                raise ValueError(
                    f"{self.path} has {schema.names.count(name)} columns {name!r}, of which none can be read"
                )
            if not self._holds_numbers(schema.field(i).type):
                raise ValueError(f"{self.path}, column {name!r}: must hold numbers, got {schema.field(i).type}")
        try:
            with self._open() as file:
                groups, at = _groups(file.metadata, first, last)
                for batch in file.iter_batches(chunk_rows(len(columns)), groups, names):
                    part = batch.slice(max(first - at, 0), None if last is None else max(last - max(first, at), 0))
                    at += batch.num_rows
                    if part.num_rows:
                        yield _beside([self._values(part.column(part.schema.get_field_index(name))) for name in names])
        except self._arrow.ArrowException as error:
            raise ValueError(f"{self.path}: {error}") from None

    def _holds_numbers(self, kind: Any) -> bool:
        types = self._arrow.types
        if types.is_dictionary(kind):
            kind = kind.value_type
        tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
        return any(test(kind) for test in tests)

    def _values(self, array: Any) -> Array:
        """Numbers of a column, NaN where they are null. Its own conversion to NumPy would import pandas."""
        types = self._arrow.types
        if types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if types.is_null(array.type) or not len(array):
            return np.full(len(array), np.nan)
        if types.is_decimal(array.type):
            array = array.cast(self._arrow.float64(), safe=False)
        filled, data = array.buffers()
        if types.is_boolean(array.type):
            values = _bits(data, array)
        else:
            kind = array.type.to_pandas_dtype()
            values = np.frombuffer(data, kind, len(array), array.offset * np.dtype(kind).itemsize)
        if array.null_count:
            return np.where(_bits(filled, array), values, np.nan)
        return values


def _groups(metadata: Any, first: int, last: int | None) -> tuple[list[int], int]:
    """The groups of rows that hold rows ``first`` to ``last - 1``, and the number of the first row in them."""
    ends = np.cumsum([0] + [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
    end = int(ends[-1]) if last is None else last
    found = [i for i in range(metadata.num_row_groups) if ends[i] < end and ends[i + 1] > first]
    return found, int(ends[found[0]]) if found else first


def _bits(buffer: Any, array: Any) -> Array:
    bits = np.unpackbits(np.frombuffer(buffer, dtype=np.uint8), bitorder="little")
    return bits[array.offset : array.offset + len(array)].view(bool)


# --- HDF5 -----------------------------------------------------------------------------------------------------------------


class HDF5Table(_ColumnsTable):
    """A dataset of an HDF5 file, of one or two axes or compound, or a group of datasets of one axis and equal length."""

    def __init__(self, path: str, key: str | None = None, missing: Missing | None = None) -> None:
        self._h5py = library("h5py", path)
        open(path, "rb").close()  # for an error of the system
        self.source = path
        with self._open() as file:
            if key is None:
                key = chosen(path, "table", _datasets(self._h5py, file), None)
            elif key not in file:
                chosen(path, "dataset or group", _datasets(self._h5py, file), key)
            group = isinstance(file[key], self._h5py.Group)
            count, columns = _of_group(self._h5py, path, file[key]) if group else _of_dataset(path, file[key])
        super().__init__(path, count, columns, missing)
        if not any(column.name for column in columns):
            self.names, self.unnamed = (), ()

    def _open(self) -> Any:
        try:
            return self._h5py.File(self.source, "r")
        except OSError as error:
            raise ValueError(f"{self.source} is no HDF5 file, or damaged: {error}") from None


def _datasets(h5py: Any, group: Any) -> list[str]:
    """Names of what may be a table in a group: groups of columns, and the datasets that are in none."""
    items = {name: group[name] for name in group}
    flat = [item for item in items.values() if isinstance(item, h5py.Dataset) and item.ndim == 1]
    plain = [item for item in flat if item.dtype.names is None]
    own = group.name or "/"
    together = len(plain) > 1 and len({len(item) for item in plain}) == 1
    found = [own] if together else []
    for item in items.values():
        if isinstance(item, h5py.Group):
            found += _datasets(h5py, item)
        elif item.ndim in (1, 2) and not (together and any(item == other for other in plain)):
            found.append(item.name)
    return found


def _of_group(h5py: Any, path: str, group: Any) -> tuple[int, list[Column]]:
    members = {name: group[name] for name in group}
    flat = {name: item for name, item in members.items() if isinstance(item, h5py.Dataset) and item.ndim == 1}
    lengths = {name: len(item) for name, item in flat.items()}
    if not flat or len(set(lengths.values())) > 1:
        has = ", ".join(f"{name}: {length}" for name, length in lengths.items()) or "none"
        raise ValueError(f"{path}: the group {group.name} must hold datasets of one axis and equal length, got {has}")
    columns = []
    for name, item in flat.items():
        columns += _named(name, item, _of_dataset(path, item)[1])
    return next(iter(lengths.values())), columns


def _named(name: str, item: Any, columns: list[Column]) -> list[Column]:
    return columns if item.dtype.names else [column._replace(name=name) for column in columns]


def _of_dataset(path: str, dataset: Any) -> tuple[int, list[Column]]:
    if dataset.ndim not in (1, 2) or (dataset.dtype.names and dataset.ndim != 1):
        raise ValueError(f"{path}: the dataset {dataset.name} must have shape (rows, columns), got {dataset.shape}")
    if dataset.dtype.names is None:
        good = dataset.dtype.kind in "biuf"
        count = 1 if dataset.ndim == 1 else dataset.shape[1]
        return len(dataset), [
            Column("", _slices(dataset.name, None, (i,) * (dataset.ndim - 1)) if good else None, str(dataset.dtype))
            for i in range(count)
        ]
    columns = []
    for name in dataset.dtype.names:
        columns += _parts(name, dataset.dtype[name], partial(_slices, dataset.name, name))
    return len(dataset), columns


def _parts(name: str, dtype: np.dtype[Any], reader: Callable[[tuple[int, ...]], Any]) -> list[Column]:
    """A field as columns: itself, or where it holds arrays ``name[0]``, ``name[1]`` and so on."""
    base, shape = dtype.base, dtype.shape
    if base.kind not in "biuf" or math.prod(shape) > 1000:
        return [Column(name, None, str(dtype))]
    if math.prod(shape) == 1:
        return [Column(name, reader((0,) * len(shape)))]
    return [Column(f"{name}{''.join(f'[{i}]' for i in place)}", reader(place)) for place in np.ndindex(*shape)]


def _slices(key: str, field: str | None, place: tuple[int, ...]) -> Reader:
    def read(file: Any, first: int, last: int) -> Array:
        if field is None:
            return np.asarray(file[key][(slice(first, last), *place)])
        return _at(np.asarray(file[key].fields(field)[first:last]), place)

    return read


def _at(values: Array, place: tuple[int, ...]) -> Array:
    """In each row, the number at a place."""
    index: tuple[Any, ...] = (slice(None), *place)
    return np.asarray(values[index])


# --- FITS -----------------------------------------------------------------------------------------------------------------


class FITSTable(_ColumnsTable):
    """A table in an extension of a FITS file; integers that stand for no value are missing."""

    def __init__(self, path: str, key: str | None = None, missing: Missing | None = None) -> None:
        self._fits, self.source = library("astropy.io.fits", path), path
        with self._open() as file:
            kinds = self._fits.BinTableHDU, self._fits.TableHDU
            tables = {hdu.name or str(number): number for number, hdu in enumerate(file) if isinstance(hdu, kinds)}
            if key is not None and key.isdecimal() and int(key) in tables.values():
                number = int(key)
            else:
                number = tables[chosen(path, "table", list(tables), key)]
            hdu = file[number]
            columns: list[Column] = []
            for column in hdu.columns:
                if re.search("[PQ]", str(column.format)):
                    columns.append(Column(column.name, None, "arrays of varying length"))
                    continue
                read = partial(_cells, number, column.name, column.null)
                columns += _parts(column.name, hdu.columns.dtype[column.name], read)
            count = int(hdu.header["NAXIS2"])
        super().__init__(path, count, columns, missing)

    def _open(self) -> Any:
        try:
            return self._fits.open(self.source, mode="readonly", memmap=True)
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f"{self.source} is no FITS file, or damaged: {error}") from None


def _cells(number: int, name: str, null: Any, place: tuple[int, ...]) -> Reader:
    def read(file: Any, first: int, last: int) -> Array:
        values = np.asarray(file[number].data[first:last].field(name))
        values = values if values.ndim == 1 else _at(values, place)
        if null is not None and values.dtype.kind in "iu":
            return np.where(values == int(null), np.nan, values)
        return values

    return read
