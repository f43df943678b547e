"""The safetensors container: named arrays and a few strings. It knows nothing of what they mean.

It is written here rather than by the safetensors package, so that the same arrays always give the same bytes and lie in the
order they were given; every safetensors reader understands it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from penstock._typing import Array

# What the safetensors package itself accepts at most.
HEADER_MAX = 100_000_000
ALIGNMENT = 64  # of the first number in the file

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Entry(NamedTuple):
    """One tensor of the header; positions count from the end of the header."""

    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


class Container:
    """The header of a file, checked, and its numbers.

    Attributes
    ----------
    metadata : dict of str
    entries : dict of Entry
        In the order in which they lie in the file.
    """

    def __init__(self, metadata: dict[str, str], entries: dict[str, Entry], data: bytes) -> None:
        self.metadata = metadata
        self.entries = entries
        self._data = data

    def tensor(self, name: str) -> Array:
        """A copy of one tensor, in native byte order."""
        code, shape, start, stop = self.entries[name]
        native: Array = np.frombuffer(self._data[start:stop], DTYPES[code]).reshape(shape).astype(DTYPES[code].type)
        return native


def write(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file that holds the tensors in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    chunks: list[bytes] = []
    start = 0
    for name, tensor in tensors.items():
        array = tensor.astype(tensor.dtype.newbyteorder("<"))
        chunks.append(array.tobytes())
        stop = start + len(chunks[-1])
        header[name] = {"dtype": CODES[array.dtype], "shape": list(array.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def read(file: BinaryIO, size: int) -> Container:
    """The contents of a file of ``size`` bytes; ValueError says what is wrong with it."""
    header, room = _header(file, size)
    metadata = header.pop("__metadata__", {})
    strings = isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    need(strings, "its metadata must be an object of strings")
    entries = _in_order({name: _entry(name, entry) for name, entry in header.items()}, room)
    data = file.read(room)
    need(len(data) == room, f"truncated: {room} bytes of numbers expected, {len(data)} found")
    return Container(metadata, entries, data)


def need(condition: bool, message: str) -> None:
    """Raise ValueError unless the condition holds."""
    if not condition:
        raise ValueError(message)


def some(names: Sequence[str]) -> str:
    """The first of many names."""
    return ", ".join(name[:80] for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def parse(text: str | bytes, what: str) -> Any:
    """Parsed JSON; names that stand twice and numbers that JSON does not have are errors."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        need(len(names) == len(pairs), f"{what} names something twice")
        return names

    def constant(name: str) -> Any:
        raise ValueError(f"{what} holds {name}")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} is no valid JSON: {error}") from None


def whole(value: Any) -> bool:
    """Whether ``value`` is an int, of at least zero, that fits 63 bits."""
    return type(value) is int and 0 <= value < 2**63


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header, and how many bytes follow it."""
    need(size >= 10, f"not a penstock file, or truncated: {size} bytes")
    length = int.from_bytes(file.read(8), "little")
    start = file.read(1)
    need(start == b"{" and length <= HEADER_MAX, "not a penstock file: no safetensors header")
    need(length <= size - 8, f"truncated: a header of {length} bytes in a file of {size}")
    header = parse(start + file.read(length - 1), "the header")
    need(isinstance(header, dict), "not a penstock file: its header is no JSON object")
    return header, size - 8 - length


def _entry(name: str, entry: Any) -> Entry:
    ok = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    need(ok, f"tensor {name[:80]} has a malformed entry in the header")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    known = isinstance(code, str) and code in DTYPES
    need(known, f"tensor {name[:80]} has dtype {code!s:.20}; this format has {', '.join(DTYPES)}")
    need(
        isinstance(shape, list) and len(shape) <= 8 and all(map(whole, shape))
        and isinstance(offsets, list) and len(offsets) == 2 and all(map(whole, offsets)),
        f"tensor {name[:80]} has a malformed shape or position",
    )  # fmt: skip
    return Entry(code, tuple(shape), offsets[0], offsets[1])


def _in_order(entries: Mapping[str, Entry], room: int) -> dict[str, Entry]:
    """The tensors by position. They must fill the rest of the file, without gap or overlap."""
    position = 0
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    for name, (code, shape, start, stop) in ordered.items():
        fits = stop - start == math.prod(shape) * DTYPES[code].itemsize
        need(fits, f"tensor {name[:80]} has a size that is not that of its shape")
        need(start == position, f"tensor {name[:80]} does not start where the one before it ends")
        position = stop
    need(position <= room, f"truncated: {position} bytes of numbers expected, {room} found")
    need(position == room, f"{room - position} bytes follow after the last tensor")
    return ordered
