"""Tables into files, for the command line: written a chunk at a time, and in place only when complete.

Chunks go through ordinary writes, not through a mapping: on a full disk those raise, where a mapping kills.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, BinaryIO

import numpy as np

from penstock._files import replacing
from penstock._typing import Array
from penstock.cli.tables import is_stream, suffix

Write = Callable[[Array], None]


@contextmanager
def table_file(
    path: str, dtype: np.dtype[Any], columns: Sequence[str], *, name: str, flat: bool = False
) -> Iterator[Write]:
    """A function that appends rows to the table at ``path``, which appears when the block ends well.

    Parameters
    ----------
    path : str
        Ends in .npy, .npz or .csv, or is a stream, which gets lines of .csv as they come; ``-`` is standard output.
    dtype : numpy dtype
    columns : sequence of str
        The header of a .csv file; how many there are is the width of the others.
    name : str
        Of the array in an .npz file.
    flat : bool, default False
        One number a row, and so an array of one dimension.
    """
    kind = suffix(path)
    tail = () if flat else (len(columns),)
    if is_stream(path):
        if kind != ".csv":
            raise ValueError(f"{path!r} is no ordinary file, and such a one can be written as .csv only")
        with _stream(path) as stream:
            yield _csv(stream, dtype, columns)
            stream.flush()
        return
    with replacing(path) as file:
        if kind == ".csv":
            yield _csv(file, dtype, columns)
        elif kind == ".npy":
            with _npy(file, dtype, tail) as write:
                yield write
        else:
            # The archive needs the size of its member first, which only the end of the rows tells.
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))) as whole:
                with _npy(whole, dtype, tail) as write:
                    yield write
                _pack(whole, file, name)


def _stream(path: str) -> AbstractContextManager[BinaryIO]:
    """A pipe or device, open for writing."""
    if path != "-":
        return open(path, "wb")
    sys.stdout.flush()
    return nullcontext(sys.stdout.buffer)


def _csv(file: BinaryIO, dtype: np.dtype[Any], columns: Sequence[str]) -> Write:
    # As many digits as bring every number back.
    digits = "%.9g" if dtype.itemsize == 4 else "%.17g"
    file.write((",".join(columns) + "\n").encode())

    def write(rows: Array) -> None:
        text = io.StringIO()
        np.savetxt(text, rows, digits, delimiter=",")
        file.write(text.getvalue().encode())

    return write


@contextmanager
def _npy(file: BinaryIO, dtype: np.dtype[Any], tail: tuple[int, ...]) -> Iterator[Write]:
    """The header is written twice: at the end the number of rows is known. NumPy leaves room for that."""
    count = 0

    def header() -> None:
        record = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count, *tail)}
        np.lib.format.write_array_header_1_0(file, record)

    def write(rows: Array) -> None:
        nonlocal count
        file.write(rows.data)
        count += len(rows)

    header()
    start = file.tell()
    yield write
    file.seek(0)
    header()
    if file.tell() != start:
        raise RuntimeError("the header of a .npy file has grown over its numbers")


def _pack(whole: BinaryIO, file: BinaryIO, name: str) -> None:
    """One member, without a date, so that the same rows give the same bytes."""
    whole.seek(0)
    with (
        zipfile.ZipFile(file, "w") as archive,
        archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as out,
    ):
        shutil.copyfileobj(whole, out, 1 << 20)
