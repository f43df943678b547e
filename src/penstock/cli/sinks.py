"""Tables into files, for the command line: written a chunk at a time, and in place only when complete.

Chunks go through ordinary writes, not through a mapping: on a full disk those raise, where a mapping kills.
"""

from __future__ import annotations

import csv
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
from penstock.cli import digits
from penstock.cli.columnar import library
from penstock.cli.tables import FITS, HDF5, TEXT, is_stream, suffix

# Appends rows: arrays of shape (rows, columns) beside each other, with all columns between them.
Write = Callable[..., None]
Columns = Sequence[tuple[str, np.dtype[Any]]]
LIBRARIES = {".parquet": "pyarrow.parquet", **dict.fromkeys(HDF5, "h5py"), **dict.fromkeys(FITS, "astropy.io.fits")}


def check_library(path: str) -> None:
    """Raise ImportError if what writes such tables is not installed."""
    kind = suffix(path)
    if kind in LIBRARIES:
        library(LIBRARIES[kind], path)


@contextmanager
def table_file(path: str, columns: Columns, *, name: str, flat: bool = False) -> Iterator[Write]:
    """A function that appends rows to the table at ``path``, which appears when the block ends well.

    Parameters
    ----------
    path : str
        Its ending says what it becomes; a stream gets lines of .csv as they come, and ``-`` is standard output.
    columns : sequence of (str, dtype)
        Names and types. An array, in .npy and .npz, has no names and the one type that holds all.
    name : str
        Of the array in an .npz file, the dataset in an HDF5 file, the extension of a FITS file.
    flat : bool, default False
        One number a row, and so, in .npy and .npz, an array of one dimension.
    """
    kind = suffix(path)
    if is_stream(path):
        if kind not in TEXT:
            raise ValueError(f"{path!r} is no ordinary file, and such a one can be written as .csv only")
        with _stream(path) as stream:
            yield text_rows(stream, columns, kind)
            stream.flush()
        return
    check_library(path)
    dtype = np.result_type(*(dtype for _, dtype in columns))
    tail = () if flat else (len(columns),)
    with replacing(path) as file:
        if kind in TEXT:
            yield text_rows(file, columns, kind)
        elif kind == ".npy":
            with _npy(file, dtype, tail) as write:
                yield write
        elif kind == ".npz":
            # The archive needs the size of its member first, which only the end of the rows tells.
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.realpath(path))) as whole:
                with _npy(whole, dtype, tail) as write:
                    yield write
                _pack(whole, file, name)
        else:
            writer = _parquet if kind == ".parquet" else _hdf5 if kind in HDF5 else _fits
            with writer(file, columns, name) as write:
                yield write


def _stream(path: str) -> AbstractContextManager[BinaryIO]:
    """A pipe or device, open for writing."""
    if path != "-":
        return open(path, "wb")
    sys.stdout.flush()
    return nullcontext(sys.stdout.buffer)


def text_rows(file: BinaryIO, columns: Columns, kind: str, *, header: bool = True) -> Write:
    """A function that appends lines, behind one with the names of the columns."""
    separator = "\t" if kind == ".tsv" else ","
    if header:
        file.write(_text_header([name for name, _ in columns], separator))

    def write(*blocks: Array) -> None:
        file.write(digits.lines([_table(block) for block in blocks], separator.encode()))

    return write


def _text_header(names: Sequence[str], separator: str) -> bytes:
    header = io.StringIO()
    # What a reader could take for a comment is quoted, too.
    commented = names[0].lstrip().startswith("#")
    dialect = csv.writer(
        header, delimiter=separator, lineterminator="\n", quoting=csv.QUOTE_ALL if commented else csv.QUOTE_MINIMAL
    )
    dialect.writerow(names)
    return header.getvalue().encode()


def _table(block: Array) -> Array:
    return block[:, None] if block.ndim == 1 else block


@contextmanager
def _npy(file: BinaryIO, dtype: np.dtype[Any], tail: tuple[int, ...]) -> Iterator[Write]:
    """The header is written twice: at the end the number of rows is known. NumPy leaves room for that."""
    count = 0

    def write(*blocks: Array) -> None:
        nonlocal count
        file.write(npy_rows(blocks, dtype))
        count += len(blocks[0])

    start = file.write(npy_header(dtype, (0, *tail)))
    yield write
    file.seek(0)
    if file.write(npy_header(dtype, (count, *tail))) != start:
        raise RuntimeError("the header of a .npy file has grown over its numbers")


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What stands in a .npy file before the numbers."""
    file = io.BytesIO()
    record = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, record)
    return file.getvalue()


def npy_rows(blocks: Sequence[Array], dtype: np.dtype[Any]) -> memoryview:
    """Rows as a .npy file has them."""
    rows = blocks[0] if len(blocks) == 1 else np.concatenate([_table(block) for block in blocks], axis=1)
    return np.ascontiguousarray(rows, dtype).data


def _pack(whole: BinaryIO, file: BinaryIO, name: str) -> None:
    """One member, without a date, so that the same rows give the same bytes."""
    whole.seek(0)
    with (
        zipfile.ZipFile(file, "w") as archive,
        archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as out,
    ):
        shutil.copyfileobj(whole, out, 1 << 20)


def _records(blocks: Sequence[Array], dtype: np.dtype[Any]) -> Array:
    """Rows as records."""
    single = (column for block in blocks for column in _table(block).T)
    records = np.empty(len(blocks[0]), dtype)
    for name, column in zip(dtype.names or (), single, strict=True):
        records[name] = column
    return records


@contextmanager
def _parquet(file: BinaryIO, columns: Columns, name: str) -> Iterator[Write]:
    arrow, parquet = library("pyarrow", ""), library("pyarrow.parquet", "")
    schema = arrow.schema([(name, arrow.from_numpy_dtype(dtype)) for name, dtype in columns])
    with parquet.ParquetWriter(file, schema) as writer:

        def write(*blocks: Array) -> None:
            data = [np.ascontiguousarray(column) for block in blocks for column in _table(block).T]
            # Other ways from NumPy would import pandas.
            arrays = [
                arrow.Array.from_buffers(field.type, len(column), [None, arrow.py_buffer(column)])
                for field, column in zip(schema, data, strict=True)
            ]
            writer.write_batch(arrow.RecordBatch.from_arrays(arrays, schema=schema))

        yield write


@contextmanager
def _hdf5(file: BinaryIO, columns: Columns, name: str) -> Iterator[Write]:
    """One compound dataset."""
    dtype, calm = np.dtype(list(columns)), _Calm(file)
    with library("h5py", "").File(calm, "w") as archive:
        dataset = archive.create_dataset(name, (0,), dtype, maxshape=(None,), chunks=(4096,))

        def write(*blocks: Array) -> None:
            first = len(dataset)
            dataset.resize(first + len(blocks[0]), axis=0)
            dataset[first:] = _records(blocks, dtype)
            calm.check()

        yield write
    calm.check()


class _Calm:
    """A file that never fails where the HDF5 library sees it, which would crash at exit: :meth:`check` raises what was wrong."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raise the first error, a signal's included. Nothing was written since."""
        if self._error is not None:
            raise self._error

    def _try(self, work: Callable[[], int], otherwise: int) -> int:
        if self._error is None:
            try:
                return work()
            except BaseException as error:
                self._error = error
        return otherwise

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._try(lambda: self._file.seek(offset, whence), offset)

    def tell(self) -> int:
        return self._try(self._file.tell, 0)

    def read(self, size: int = -1) -> bytes:
        buffer = bytearray(max(size, 0))
        return bytes(buffer[: self.readinto(buffer)])

    def readinto(self, buffer: Any) -> int:
        return self._try(lambda: self._file.readinto(buffer), len(buffer))  # type: ignore[attr-defined]

    def write(self, data: Any) -> int:
        return self._try(lambda: self._file.write(data), len(data))

    def truncate(self, size: int | None = None) -> int:
        return self._try(lambda: self._file.truncate(size), size or 0)

    def flush(self) -> int:
        return self._try(lambda: self._file.flush() or 0, 0)


@contextmanager
def _fits(file: BinaryIO, columns: Columns, name: str) -> Iterator[Write]:
    """One binary table. As in .npy, the header is written again when the number of rows is known: its size is the same."""
    fits = library("astropy.io.fits", "")
    dtype = np.dtype([(column, kind.newbyteorder(">")) for column, kind in columns])
    table = fits.BinTableHDU(np.zeros(0, dtype), name=name)
    count = 0
    file.write(fits.PrimaryHDU().header.tostring().encode())
    start = file.tell()

    def header() -> bytes:
        table.header["NAXIS2"] = count
        return bytes(table.header.tostring().encode())

    first = header()
    file.write(first)

    def write(*blocks: Array) -> None:
        nonlocal count
        file.write(_records(blocks, dtype).tobytes())
        count += len(blocks[0])

    yield write
    file.write(bytes(-file.tell() % 2880))
    last = header()
    if len(last) != len(first):
        raise RuntimeError("the header of a FITS file has grown over its numbers")
    file.seek(start)
    file.write(last)
