"""Tables from files, for the command line: one interface over every kind of file, and which kind is which.

A table gives chosen columns of its rows in chunks, or as arrays; columns that are not chosen are not parsed. Nothing here
knows a flow.
"""

from __future__ import annotations

import itertools
import os
import re
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from penstock._typing import Array

TEXT = (".csv", ".tsv", ".txt", ".dat")
HDF5 = (".h5", ".hdf5")
FITS = (".fits", ".fit")
READ = (*TEXT, ".npy", ".npz", ".parquet", *HDF5, *FITS)
WRITTEN = (".csv", ".tsv", ".npy", ".npz", ".parquet", *HDF5, ".fits")
CHUNK = 1 << 20  # numbers in a chunk: enough rows to keep every thread busy, and a few megabytes
INDEX = re.compile(r"Unnamed: \d+|__index_level_\d+__")  # what pandas calls a column without a name


def chunk_rows(columns: int) -> int:
    """Rows in a chunk of so many columns, in whole tiles."""
    return max(1, CHUNK // max(columns, 1) // 4096) * 4096


@dataclass(frozen=True)
class Missing:
    """Which cells are no values, and what becomes of them.

    Attributes
    ----------
    values : tuple of float
        Numbers that stand for no value.
    words : tuple of str
        Texts that do, in files of text.
    given : bool
        Whether ``--missing`` was. Then these, blank cells and NaN are read as NaN, and :meth:`Table.arrays` drops their rows;
        otherwise a blank cell is an error.
    nan : bool
        Whether NaN may be read where ``--missing`` was not given.
    """

    values: tuple[float, ...] = ()
    words: tuple[str, ...] = ()
    given: bool = False
    nan: bool = True

    def mark(self, rows: Array) -> Array:
        """Rows with NaN in place of these values."""
        if not self.values:
            return rows
        found = np.isin(rows, self.values)
        return np.where(found, np.nan, rows) if found.any() else rows


class Table:
    """A file of rows.

    Attributes
    ----------
    path : str
    n_rows : int or None
        None where only reading to the end will tell.
    n_columns : int
    names : tuple of str
        Of the columns; empty in a file that has none.
    unnamed : tuple of int
        Columns without a name in a file where others have one, as indices of pandas: no data unless asked for.
    dropped : int
        Rows that :meth:`arrays` has left out, because values are missing in them.
    """

    def __init__(
        self,
        path: str,
        n_rows: int | None,
        n_columns: int,
        names: Sequence[str] = (),
        missing: Missing | None = None,
    ) -> None:
        self.path, self.n_rows, self.n_columns, self.missing = path, n_rows, n_columns, missing or Missing()
        self.names = tuple(name or f"Unnamed: {i}" for i, name in enumerate(names))
        self.unnamed = tuple(i for i, name in enumerate(self.names) if INDEX.fullmatch(name))
        self.dropped = 0

    def has(self, text: str) -> bool:
        """Whether ``text`` names a column or is the index of one."""
        return text in self.names or (text.isdecimal() and int(text) < self.n_columns)

    def index(self, text: str, *, option: str) -> int:
        """The index of a column from its name or its index; a name goes first."""
        if not self.has(text):
            raise ValueError(f"{option}: {self.path} has no column {text!r}; it has {self.describe()}")
        if self.names.count(text) > 1:
            raise ValueError(f"{option}: {self.path} has {self.names.count(text)} columns {text!r}; give an index")
        return self.names.index(text) if text in self.names else int(text)

    def describe(self, columns: Sequence[int] | None = None) -> str:
        """The columns in words."""
        chosen = range(self.n_columns) if columns is None else columns
        words = [self.names[i] if self.names else str(i) for i in chosen]
        shown = words if len(words) <= 20 else [*words[:19], "...", words[-1]]
        return f"{len(words)} column{'' if len(words) == 1 else 's'} ({', '.join(shown)})"

    def column(self, index: int) -> str:
        """A column in words."""
        return f"column {self.names[index]!r}" if self.names else f"column {index} (the first is 0)"

    def chunks(self, columns: Sequence[int], first: int = 0, last: int | None = None) -> Iterator[Array]:
        """These columns of the rows in order, in chunks whose size depends on how many they are, and on no kind of file.

        Where values are missing there is NaN. Only rows ``first`` to ``last - 1`` are read, where the number of all is known.
        """
        for rows in _evenly(self._chunks(list(columns), first, last), chunk_rows(len(columns))):
            marked = self.missing.mark(rows)
            if not (self.missing.nan or self.missing.given) and np.isnan(marked).any():
                row, column = np.argwhere(np.isnan(marked))[0]
                raise ValueError(
                    f"{self.path}, row {first + row}, {self.column(columns[column])}: is NaN; --missing nan drops such rows"
                )
            yield marked
            first += len(rows)
        if last is not None and first != last:
            raise ValueError(f"{self.path} has changed while it was read: there is no row {first}")

    def _chunks(self, columns: Sequence[int], first: int, last: int | None) -> Iterator[Array]:
        """These columns of the rows in order, in chunks of any size."""
        raise NotImplementedError

    def arrays(self, *columns: Sequence[int], first: int = 0, last: int | None = None) -> list[Array]:
        """All rows of each of some lists of columns, in one pass over the file, without those where values are missing.

        Or of rows ``first`` to ``last - 1`` alone.
        """
        together = [column for listed in columns for column in listed]
        rows = self._together(self._filled(self.chunks(together, first, last)), len(together))
        return np.split(rows, np.cumsum([len(listed) for listed in columns])[:-1], axis=1)

    def _filled(self, chunks: Iterable[Array]) -> Iterator[Array]:
        """Chunks of the rows in which nothing is missing."""
        for rows in chunks:
            empty = np.isnan(rows).any(axis=1) if self.missing.given else np.zeros(0, dtype=bool)
            self.dropped += int(empty.sum())
            yield rows[~empty] if empty.any() else rows

    def _together(self, chunks: Iterable[Array], columns: int) -> Array:
        parts = list(chunks)
        return np.concatenate(parts) if parts else np.zeros((0, columns))

    def array(self, columns: Sequence[int], first: int = 0, last: int | None = None) -> Array:
        """All rows of these columns, or rows ``first`` to ``last - 1``."""
        return self.arrays(columns, first=first, last=last)[0]


def _evenly(parts: Iterable[Array], size: int) -> Iterator[Array]:
    """The same rows in parts of ``size`` rows, but for the last."""
    held: list[Array] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(part)
        if count < size:
            continue
        rows = np.concatenate(held) if len(held) > 1 else part
        last = count // size * size
        yield from (rows[first : first + size] for first in range(0, last, size))
        held, count = ([rows[last:]] if count > last else []), count - last
    if held:
        yield np.concatenate(held) if len(held) > 1 else held[0]


def ahead(chunks: Iterator[Array]) -> Iterator[Array]:
    """The same chunks, each made by another thread while the one before it is in use."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = pool.submit(next, chunks, None)
            yield chunk


class ArrayTable(Table):
    """An array of a ``.npy`` file, mapped, or of an ``.npz`` file, in memory."""

    def __init__(self, path: str, array: Array, missing: Missing | None = None) -> None:
        self.mapped = array if isinstance(array, np.memmap) and array.flags.c_contiguous else None
        self.source = path
        self.rows: Array = array[:, None] if array.ndim == 1 else array
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{path} must hold real numbers, got dtype {array.dtype}")
        if self.rows.ndim != 2:
            raise ValueError(f"{path} must hold an array of shape (rows, columns), got {array.shape}")
        super().__init__(path, len(self.rows), self.rows.shape[1], (), missing)

    def _chunks(self, columns: Sequence[int], first: int, last: int | None) -> Iterator[Array]:
        size, end = chunk_rows(len(columns)), len(self.rows) if last is None else last
        every = list(columns) == list(range(self.n_columns))
        for begin in range(first, end, size):
            rows = self._window(begin, min(begin + size, end))
            yield rows if every else rows.take(columns, axis=1)

    def _window(self, first: int, last: int) -> Array:
        if self.mapped is None:
            return self.rows[first:last]
        # A mapping of its own: when the chunk goes, its pages do.
        offset = self.mapped.offset + first * self.rows.strides[0]
        return np.memmap(self.source, self.mapped.dtype, "r", offset, (last - first, self.n_columns))

    def arrays(self, *columns: Sequence[int], first: int = 0, last: int | None = None) -> list[Array]:
        """All rows of each of some lists of columns, without those where values are missing; or of some rows alone."""
        if self.missing.given:
            return super().arrays(*columns, first=first, last=last)
        return [self._array(listed, first, last) for listed in columns]

    def _array(self, columns: Sequence[int], first: int, last: int | None) -> Array:
        """Rows of these columns; where they do not lie evenly, a copy, which of a mapped file is a mapped file."""
        if not columns:
            return self.rows[first:last, :0]
        steps = {b - a for a, b in itertools.pairwise(columns)} or {1}
        if len(steps) == 1 and min(steps) > 0:
            return self.rows[first:last, columns[0] : columns[-1] + 1 : min(steps)]
        if self.mapped is None:
            return self.rows[first:last].take(columns, axis=1)
        return self._together(self.chunks(columns, first, last), len(columns))

    def _together(self, chunks: Iterable[Array], columns: int) -> Array:
        if self.mapped is None:
            return super()._together(chunks, columns)
        dtype, count = self.rows.dtype, 0
        if self.missing.values and dtype.kind != "f":
            dtype = np.dtype(np.float64)
        with tempfile.TemporaryFile() as file:  # without a name: it goes when the mapping does
            for rows in chunks:
                file.write(rows.astype(dtype, copy=False).tobytes())
                count += len(rows)
            file.flush()
            if not count:
                return np.zeros((0, columns), dtype)
            return np.memmap(file, dtype, "r", 0, (count, columns))


def read_table(
    path: str,
    *,
    key: str | None = None,
    missing: Missing | None = None,
    header: bool | None = None,
    expected: Sequence[str] = (),
) -> Table:
    """Open a table.

    Parameters
    ----------
    path : str
    key : str, optional
        Which array of an ``.npz`` file, dataset or group of an HDF5 file, or extension of a FITS file.
    missing : Missing, optional
    header : bool, optional
        Whether the first line of a file of text names the columns; otherwise it is told from the line.
    expected : sequence of str
        Names that a first line which has them all is sure to be a header for.
    """
    kind = suffix(path)
    if kind not in TEXT and is_stream(path):
        raise ValueError(f"{path} is no ordinary file, and of such only lines of .csv can be read")
    if key is not None and kind not in (".npz", *HDF5, *FITS):
        raise ValueError(f"--key names an array of an .npz file, or a table of an HDF5 or FITS file, got {path}")
    if kind in TEXT:
        from penstock.cli.text import TextTable

        return TextTable(path, missing, header=header, expected=expected)
    if kind in (".npy", ".npz"):
        return _array_table(path, kind, key, missing)
    from penstock.cli import columnar

    reader = columnar.HDF5Table if kind in HDF5 else columnar.FITSTable if kind in FITS else None
    return columnar.ParquetTable(path, missing) if reader is None else reader(path, key, missing)


def _array_table(path: str, kind: str, key: str | None, missing: Missing | None) -> ArrayTable:
    try:
        if kind == ".npy":
            return ArrayTable(path, _mapped(path), missing)
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as archive:
            return ArrayTable(path, archive[chosen(path, "array", archive.files, key)], missing)
    except (EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is no {kind} file, or truncated: {error}") from None
    except ValueError as error:
        raise ValueError(str(error) if path in str(error) else f"{path}: {error}") from None


def _mapped(path: str) -> Array:
    try:
        mapped: Array = np.lib.format.open_memmap(path, mode="r")
        return mapped
    except ValueError:
        # There is nothing to map in a file without rows.
        with open(path, "rb") as file:
            array: Array = np.lib.format.read_array(file)
        if array.size:
            raise
        return array


def chosen(path: str, what: str, names: Sequence[str], key: str | None) -> str:
    """The one of several ``names`` in a file that ``--key`` chooses; it may stay out where there is one."""
    if key is None and len(names) == 1:
        return names[0]
    if key in names:
        return str(key)
    shown = names if len(names) <= 20 else [*names[:19], "...", names[-1]]
    held = f"it holds {', '.join(shown) or 'none'}"
    if key is None:
        raise ValueError(f"{path} must hold one {what}, or --key say which; {held}")
    raise ValueError(f"--key: {path} has no {what} {key!r}; {held}")


def suffix(path: str) -> str:
    """The kind of table that a file is, by its name; a stream without one of these names is a ``.csv``."""
    kind = os.path.splitext(path)[1].lower()
    if kind in READ:
        return kind
    if is_stream(path):
        return ".csv"
    raise ValueError(f"{path!r} must end in {', '.join(READ[:-1])} or {READ[-1]}")


def is_stream(path: str) -> bool:
    """Whether this is ``-``, which stands for standard input or output, a pipe, or a device."""
    ordinary = os.path.isfile(path) or os.path.isdir(path)
    return path == "-" or path.startswith(("/dev/std", "/dev/fd/")) or (os.path.exists(path) and not ordinary)
