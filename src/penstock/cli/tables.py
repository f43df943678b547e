"""Tables from files, for the command line: ``.npy`` stays where it is, ``.csv`` streams, ``.npz`` is read whole.

A table gives its rows in chunks, or as arrays. What is no ordinary file, a pipe or standard input, holds lines of ``.csv`` and
can be read once. Nothing here knows a flow.
"""

from __future__ import annotations

import csv
import io
import itertools
import os
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

import numpy as np

from penstock._typing import Array

SUFFIXES = (".npy", ".npz", ".csv")
CHUNK = 1 << 20  # numbers in a chunk: enough rows to keep every thread busy, and a few megabytes


def chunk_rows(columns: int) -> int:
    """Rows in a chunk of so many columns, in whole tiles."""
    return max(1, CHUNK // max(columns, 1) // 4096) * 4096


class Table:
    """A file of rows.

    Attributes
    ----------
    path : str
    n_rows : int or None
        None where only reading to the end will tell.
    n_columns : int
    names : tuple of str
        Of the columns; empty in a file without a header.
    """

    def __init__(self, path: str, n_rows: int | None, n_columns: int, names: tuple[str, ...] = ()) -> None:
        self.path, self.n_rows, self.n_columns, self.names = path, n_rows, n_columns, names

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

    def chunks(self, columns: Sequence[int]) -> Iterator[Array]:
        """The rows in order, a chunk at a time, with these columns."""
        every = list(columns) == list(range(self.n_columns))
        for rows in self._chunks():
            yield rows if every else rows.take(columns, axis=1)

    def _chunks(self) -> Iterator[Array]:
        raise NotImplementedError

    def arrays(self, *columns: Sequence[int]) -> list[Array]:
        """All rows of each of some lists of columns, in one pass over the file."""
        together = [column for listed in columns for column in listed]
        rows = np.concatenate([np.zeros((0, len(together))), *self.chunks(together)])
        return np.split(rows, np.cumsum([len(listed) for listed in columns])[:-1], axis=1)

    def array(self, columns: Sequence[int]) -> Array:
        """All rows of these columns."""
        return self.arrays(columns)[0]


class ArrayTable(Table):
    """An array of a ``.npy`` file, mapped, or of an ``.npz`` file, in memory."""

    def __init__(self, path: str, array: Array) -> None:
        self.mapped = array if isinstance(array, np.memmap) and array.flags.c_contiguous else None
        self.rows: Array = array[:, None] if array.ndim == 1 else array
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{path} must hold real numbers, got dtype {array.dtype}")
        if self.rows.ndim != 2:
            raise ValueError(f"{path} must hold an array of shape (rows, columns), got {array.shape}")
        super().__init__(path, *self.rows.shape)

    def _chunks(self) -> Iterator[Array]:
        assert self.n_rows is not None
        size = chunk_rows(self.n_columns)
        for first in range(0, self.n_rows, size):
            yield self._window(first, min(first + size, self.n_rows))

    def _window(self, first: int, last: int) -> Array:
        if self.mapped is None:
            return self.rows[first:last]
        # A mapping of its own: when the chunk goes, its pages do.
        offset = self.mapped.offset + first * self.rows.strides[0]
        return np.memmap(self.path, self.mapped.dtype, "r", offset, (last - first, self.n_columns))

    def arrays(self, *columns: Sequence[int]) -> list[Array]:
        """All rows of each of some lists of columns."""
        return [self._array(listed) for listed in columns]

    def _array(self, columns: Sequence[int]) -> Array:
        """All rows of these columns; where they do not lie evenly, a copy, which of a mapped file is a mapped file."""
        if not columns:
            return self.rows[:, :0]
        steps = {b - a for a, b in itertools.pairwise(columns)} or {1}
        if len(steps) == 1 and min(steps) > 0:
            return self.rows[:, columns[0] : columns[-1] + 1 : min(steps)]
        if self.mapped is None:
            return self.rows.take(columns, axis=1)
        with tempfile.TemporaryFile() as file:  # without a name: it goes when the mapping does
            for rows in self.chunks(columns):
                file.write(rows.tobytes())
            file.flush()
            return np.memmap(file, self.rows.dtype, "r", 0, (len(self.rows), len(columns)))


class CsvTable(Table):
    """Lines of numbers with commas between them; a first line without any number is a header."""

    def __init__(self, path: str) -> None:
        file, self._once = self._open(path), is_stream(path)
        try:
            read = list(_until_filled(file))
        finally:
            if not self._once:  # it is opened anew for each pass, and a stream goes on after what was looked at
                file.close()
        if not read:
            raise ValueError(f"{_called(path)} is empty")
        self._rest: Iterable[str] | None = itertools.chain(read, file) if self._once else None
        fields = [field.strip() for field in _fields(read[-1])]
        header = not any(map(_is_number, fields))
        super().__init__(_called(path), None, len(fields), tuple(fields) if header else ())

    @staticmethod
    def _open(path: str) -> TextIO:
        if path == "-":
            if sys.stdin is None:
                raise ValueError("there is no standard input")
            return io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig", errors="replace")
        return open(path, encoding="utf-8-sig", errors="replace")

    def _lines(self) -> AbstractContextManager[Iterable[str]]:
        if not self._once:
            return self._open(self.path)
        lines, self._rest = self._rest, None
        if lines is None:
            raise RuntimeError(f"{self.path} can be read once only")
        return nullcontext(lines)

    def _chunks(self) -> Iterator[Array]:
        size = chunk_rows(self.n_columns)
        header = bool(self.names)
        with self._lines() as source:
            file = iter(source)
            number = 1
            while lines := list(itertools.islice(file, size)):
                place = next((i for i, line in enumerate(lines) if line.strip()), None)
                if header and place is not None:
                    lines[place] = ""  # still a line, so that those below keep their numbers
                    header = False
                filled = [line for line in lines if line.strip()]
                if filled:
                    yield self._parse(filled, lines, number)
                number += len(lines)

    def _parse(self, filled: list[str], lines: list[str], number: int) -> Array:
        try:
            rows = np.loadtxt(filled, np.float64, comments=None, delimiter=",", quotechar='"', ndmin=2)
        except ValueError as error:
            self._blame(lines, number)
            raise ValueError(f"{self.path}: {error}") from None
        if rows.shape != (len(filled), self.n_columns):
            self._blame(lines, number)
            raise ValueError(f"{self.path}: {len(filled)} lines from line {number} on are not one row each")
        return rows

    def _blame(self, lines: list[str], number: int) -> None:
        """Raise with the place of the first thing that is wrong; ``number`` is that of the first line."""
        for line_number, line in enumerate(lines, number):
            if not line.strip():
                continue
            fields = _fields(line)
            if len(fields) != self.n_columns:
                raise ValueError(
                    f"{self.path}, line {line_number}: expected {self.n_columns} columns, as in the first line, "
                    f"got {len(fields)}"
                )
            for j, field in enumerate(fields):
                if not _is_number(field):
                    column = repr(self.names[j]) if self.names else f"{j} (the first is 0)"
                    raise ValueError(f"{self.path}, line {line_number}, column {column}: {field!r} is not a number")


def _until_filled(lines: Iterable[str]) -> Iterator[str]:
    """Lines up to the first one that is not blank; none if there is no such line."""
    blank: list[str] = []
    for line in lines:
        if line.strip():
            yield from [*blank, line]
            return
        blank.append(line)


def _fields(line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error:  # a NUL, or a field of more than a hundred thousand characters
        return [line]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def read_table(path: str, *, key: str | None = None) -> Table:
    """Open a table; ``key`` names an array of an ``.npz`` file that holds several."""
    kind = suffix(path)
    if kind != ".csv" and is_stream(path):
        raise ValueError(f"{path} is no ordinary file, and of such only lines of .csv can be read")
    if key is not None and kind != ".npz":
        raise ValueError(f"--key names an array of an .npz file, got {path}")
    if kind == ".csv":
        return CsvTable(path)
    try:
        if kind == ".npy":
            return ArrayTable(path, _mapped(path))
        with open(path, "rb") as file, np.lib.npyio.NpzFile(file) as archive:
            return ArrayTable(path, archive[_key(path, archive.files, key)])
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


def _key(path: str, names: Sequence[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key in names:
        return str(key)
    held = f"it holds {', '.join(names) or 'nothing'}"
    if key is None:
        raise ValueError(f"{path} must hold one array, or --key say which; {held}")
    raise ValueError(f"--key: {path} has no array {key!r}; {held}")


def suffix(path: str) -> str:
    """The kind of table that a file is, by its name; a stream without one of these names is a ``.csv``."""
    kind = os.path.splitext(path)[1].lower()
    if kind in SUFFIXES:
        return kind
    if is_stream(path):
        return ".csv"
    raise ValueError(f"{path!r} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")


def is_stream(path: str) -> bool:
    """Whether this is ``-``, which stands for standard input or output, a pipe, or a device."""
    ordinary = os.path.isfile(path) or os.path.isdir(path)
    return path == "-" or path.startswith(("/dev/std", "/dev/fd/")) or (os.path.exists(path) and not ordinary)


def _called(path: str) -> str:
    """How messages name a table."""
    return "standard input" if path == "-" else path
