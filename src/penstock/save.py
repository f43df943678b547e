"""The file of a flow: a safetensors container that holds named parameters, buffers, the plan table and one JSON spec.

Nothing is built from a file before all of it was checked, and nothing in it can name more than the
layers, transforms, numbers and words that the registries know. No file is ever a pickle.

The container is written here rather than by the safetensors package, so that the same flow always
gives the same bytes; every safetensors reader understands it.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from penstock import _backend
from penstock._files import replacing
from penstock._typing import Array
from penstock.base import StandardNormal
from penstock.conditioners import MLP
from penstock.layers import LAYERS
from penstock.plan import Plan, compile_plan
from penstock.spec import FlowSpec
from penstock.state import Snapshot, named
from penstock.transforms import TRANSFORMS

FORMAT = "penstock"
FORMAT_VERSION = 1
# What the safetensors package itself accepts at most.
HEADER_MAX = 100_000_000

DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}

BASE_TYPES: dict[str, type] = {StandardNormal.name: StandardNormal}
CONDITIONER_TYPES: dict[str, type] = {"MLP": MLP}
# The fields of a layer that hold a spec of their own.
NESTED: dict[str, dict[str, type]] = {"transform": TRANSFORMS, "conditioner": CONDITIONER_TYPES}


class Contents(NamedTuple):
    """What a file holds, checked."""

    spec: FlowSpec
    plan: Plan
    snapshot: Snapshot


# --- writing ------------------------------------------------------------------------------------------------------


def to_bytes(spec: FlowSpec, plan: Plan, snapshot: Snapshot) -> bytes:
    """The bytes of the file."""
    record = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": _backend.package_version(),
        "dtype": plan.dtype.name,
        "context_dim": plan.context_dim,
        "base": _encode(spec.base, spec.base.name),
        "layers": [_encode(layer, type(layer).__name__) for layer in spec.layers],
    }
    if spec.embedding is not None:
        record |= {"embedding": _encode(spec.embedding, "MLP"), "embedding_dim": spec.embedding_dim}
    starts = np.cumsum([shape[0] for _, shape in _buffers(plan)])[:-1]
    tensors = {
        "plan": plan.table,
        **dict(zip([name for name, _ in _buffers(plan)], np.split(snapshot.buffers, starts), strict=True)),
        **named(plan, snapshot.params),
        "initialised": np.array([snapshot.initialised], dtype=np.uint8),
    }
    # Widest numbers first, so that each tensor is aligned to its own size.
    order = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    header: dict[str, Any] = {"__metadata__": {"spec": json.dumps(record, separators=(",", ":"), allow_nan=False)}}
    chunks: list[bytes] = []
    start = 0
    for name in order:
        array = tensors[name].astype(tensors[name].dtype.newbyteorder("<"))
        chunks.append(array.tobytes())
        stop = start + len(chunks[-1])
        header[name] = {"dtype": CODES[array.dtype], "shape": list(array.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def _buffers(plan: Plan) -> list[tuple[str, tuple[int]]]:
    """Names and shapes of the buffers, in their order."""
    names = [("standardize", plan.dim)] + ([("context", plan.context_dim)] if plan.context_dim else [])
    return [(f"{name}.{part}", (n,)) for name, n in names for part in ("loc", "scale")]


def _encode(spec: Any, name: str) -> dict[str, Any]:
    """A spec as JSON: its registered name and its fields."""
    record: dict[str, Any] = {"type": name}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if isinstance(value, np.generic):
            value = value.item()
        if field.name in NESTED:
            if value is None:
                continue
            kinds = NESTED[field.name]
            value = _encode(value, next(key for key, cls in kinds.items() if cls is type(value)))
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isinf(value):
            value = "inf"  # JSON has no infinity
        record[field.name] = value
    return record


def save(path: str, data: bytes) -> None:
    """Put ``data`` at ``path`` at once and for good."""
    with replacing(path) as file:
        file.write(data)


# --- reading ------------------------------------------------------------------------------------------------------


def load(path: str) -> Contents:
    """The checked contents of a file."""
    with open(path, "rb") as file:
        return _guarded(file, os.fstat(file.fileno()).st_size, repr(path))


def from_bytes(data: memoryview) -> Contents:
    """The checked contents of the bytes of a file."""
    return _guarded(io.BytesIO(data), len(data), "data")


def _guarded(file: BinaryIO, size: int, source: str) -> Contents:
    """Read; whatever is wrong becomes a ValueError that names the file."""
    try:
        return _read(file, size)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"cannot load {source}: {error}") from error


def _read(file: BinaryIO, size: int) -> Contents:
    header, room = _header(file, size)
    metadata = header.pop("__metadata__", None)
    found = isinstance(metadata, dict) and isinstance(metadata.get("spec"), str)
    _need(found, "not a penstock file: no spec in its metadata")
    assert isinstance(metadata, dict)
    spec = _json(metadata["spec"], "the spec")
    _need(isinstance(spec, dict) and spec.get("format") == FORMAT, "not a penstock file: the spec is of another format")
    version = spec.get("format_version")
    _need(type(version) is int and version >= 1, f"format version {version!r} is not a number of at least 1")
    _need(
        version <= FORMAT_VERSION,
        f"written by a newer penstock ({spec.get('library_version')!s:.40}) in format {version}; "
        f"this one reads up to format {FORMAT_VERSION}",
    )
    entries = {name: _entry(name, entry) for name, entry in header.items()}
    _layout(entries, room)
    flow_spec, plan = _build(spec, entries, size)
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        "plan": ("I64", plan.table.shape),
        **{name: ("F64", shape) for name, shape in _buffers(plan)},
        **{t.name: (CODES[plan.dtype.newbyteorder("<")], t.shape) for t in plan.tensors},
        "initialised": ("U8", (1,)),
    }
    missing, surplus = sorted(expected.keys() - entries.keys()), sorted(entries.keys() - expected.keys())
    _need(not missing, f"tensors are missing: {_some(missing)}")
    _need(not surplus, f"tensors that the spec does not have: {_some(surplus)}")
    for name, (code, shape) in expected.items():
        got = entries[name]
        _need(
            (got.code, got.shape) == (code, shape),
            f"tensor {name} must be {code} of shape {shape}, got {got.code} of shape {got.shape}",
        )
    data = file.read(room)
    _need(len(data) == room, f"truncated: {room} bytes of numbers expected, {len(data)} found")

    def tensor(name: str) -> Array:
        code, shape, start, stop = entries[name]
        array = np.frombuffer(data[start:stop], DTYPES[code]).reshape(shape)
        native: Array = array.astype(DTYPES[code].type)
        return native

    _need(bool((tensor("plan") == plan.table).all()), "its plan table does not belong to its spec")
    flag = int(tensor("initialised")[0])
    _need(flag in (0, 1), f"initialised must be 0 or 1, got {flag}")
    buffers = {name: tensor(name) for name, _ in _buffers(plan)}
    numbers = {t.name: tensor(t.name) for t in plan.tensors}
    for name, array in {**buffers, **numbers}.items():
        _need(bool(np.isfinite(array).all()), f"tensor {name} holds NaN or infinity")
        _need(not name.endswith(".scale") or bool((array > 0).all()), f"tensor {name} must be positive")
    for t in plan.tensors:
        if t.mask is not None:
            _need(not numbers[t.name][~t.mask].any(), f"tensor {t.name} holds numbers where its mask has none")
    flat = [array.ravel() for array in numbers.values()]
    params = np.concatenate(flat) if flat else np.zeros(0, plan.dtype)
    snapshot = Snapshot(params, np.concatenate(list(buffers.values())), bool(flag))
    return Contents(flow_spec, plan, snapshot)


class Entry(NamedTuple):
    """One tensor of the header."""

    code: str
    shape: tuple[int, ...]
    start: int
    stop: int


def _need(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _some(names: Sequence[str]) -> str:
    return ", ".join(name[:80] for name in names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    """The JSON header, and how many bytes follow it."""
    _need(size >= 10, f"not a penstock file, or truncated: {size} bytes")
    length = int.from_bytes(file.read(8), "little")
    start = file.read(1)
    _need(start == b"{" and length <= HEADER_MAX, "not a penstock file: no safetensors header")
    _need(length <= size - 8, f"truncated: a header of {length} bytes in a file of {size}")
    header = _json(start + file.read(length - 1), "the header")
    _need(isinstance(header, dict), "not a penstock file: its header is no JSON object")
    return header, size - 8 - length


def _json(text: str | bytes, what: str) -> Any:
    """Parsed JSON; names that stand twice and numbers that JSON does not have are errors."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        _need(len(names) == len(pairs), f"{what} names something twice")
        return names

    def constant(name: str) -> Any:
        raise ValueError(f"{what} holds {name}")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=constant)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} is no valid JSON: {error}") from None


def _whole(value: Any) -> bool:
    """Whether ``value`` is an int, of at least zero, that fits 63 bits."""
    return type(value) is int and 0 <= value < 2**63


def _entry(name: str, entry: Any) -> Entry:
    ok = isinstance(entry, dict) and entry.keys() == {"dtype", "shape", "data_offsets"}
    _need(ok, f"tensor {name[:80]} has a malformed entry in the header")
    code, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    known = isinstance(code, str) and code in DTYPES
    _need(known, f"tensor {name[:80]} has dtype {code!s:.20}; this format has {', '.join(DTYPES)}")
    _need(
        isinstance(shape, list) and len(shape) <= 8 and all(map(_whole, shape))
        and isinstance(offsets, list) and len(offsets) == 2 and all(map(_whole, offsets)),
        f"tensor {name[:80]} has a malformed shape or position",
    )  # fmt: skip
    return Entry(code, tuple(shape), offsets[0], offsets[1])


def _layout(entries: Mapping[str, Entry], room: int) -> None:
    """The tensors must fill the rest of the file, without gap or overlap."""
    position = 0
    for name, (code, shape, start, stop) in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        fits = stop - start == math.prod(shape) * DTYPES[code].itemsize
        _need(fits, f"tensor {name[:80]} has a size that is not that of its shape")
        _need(start == position, f"tensor {name[:80]} does not start where the one before it ends")
        position = stop
    _need(position <= room, f"truncated: {position} bytes of numbers expected, {room} found")
    _need(position == room, f"{room - position} bytes follow after the last tensor")


def _build(spec: dict[str, Any], entries: Mapping[str, Entry], size: int) -> tuple[FlowSpec, Plan]:
    """The spec of a file and its plan, once it is clear that the file has room for what they claim."""
    dtype = spec.get("dtype")
    _need(dtype in ("float32", "float64"), f"dtype must be float32 or float64, got {dtype!s:.40}")
    context_dim = spec.get("context_dim")
    _need(_whole(context_dim), f"context_dim must be an integer of at least 0, got {context_dim!s:.40}")
    assert isinstance(context_dim, int)
    # Each of these has numbers in the file.
    _need(context_dim <= size, f"context_dim is absurd: {context_dim!s:.40}")
    records = spec.get("layers")
    _need(isinstance(records, list), "the spec has no list of layers")
    decode = _decoder(size)
    embedding, embedding_dim = None, spec.get("embedding_dim", 0)
    if "embedding" in spec:
        embedding = decode(spec["embedding"], "embedding", CONDITIONER_TYPES)
    fits = _whole(embedding_dim) and embedding_dim <= size and (embedding_dim > 0) == (embedding is not None)
    _need(fits, f"embedding_dim does not fit, got {embedding_dim!s:.40}")
    _need(embedding is None or context_dim > 0, "it has an embedding, but no context")
    base = decode(spec.get("base"), "base", BASE_TYPES)
    table = entries.get("plan")
    _need(table is not None, "tensors are missing: plan")
    assert table is not None
    assert isinstance(records, list)
    # The plan has at least one entry a dimension for each step and the two ends; more is not worth compiling.
    room = math.prod(table.shape)
    fits = (len(records) + 2) * base.dim <= room
    _need(fits, f"{len(records)} layers of {base.dim} dimensions do not fit its plan of {room} numbers")
    layers = []
    for number, record in enumerate(records):
        layer = decode(record, f"layers[{number}]", LAYERS)
        # Everything random was resolved before the file was written.
        settled = layer.resolve(base.dim, np.random.default_rng(0))
        _need(settled == layer, f"layers[{number}] is not resolved")
        layers.append(layer)
    assert isinstance(dtype, str)
    flow_spec = FlowSpec(base, tuple(layers), context_dim, dtype, embedding, embedding_dim)
    return flow_spec, compile_plan(flow_spec)


def _decoder(largest: int) -> Callable[[Any, str, dict[str, type]], Any]:
    """A function from JSON to specs. It refuses integers above ``largest``: nothing in a file outnumbers its bytes."""

    def plain(value: Any, where: str) -> Any:
        if isinstance(value, (bool, str, float)):
            return value
        if isinstance(value, int):
            _need(abs(value) <= largest, f"{where} is absurd: {value!s:.40}")
            return value
        integers = isinstance(value, list) and all(type(item) is int for item in value)
        _need(integers, f"{where} must be a number, a word or a list of integers")
        return tuple(plain(item, where) for item in value)

    def decode(record: Any, where: str, kinds: dict[str, type]) -> Any:
        _need(isinstance(record, dict), f"{where} must be a JSON object")
        kind = record.get("type")
        found = isinstance(kind, str) and kind in kinds
        _need(found, f"{where} has type {kind!s:.40}, which this version does not know; it knows {', '.join(kinds)}")
        known = {field.name: field for field in fields(kinds[kind])}
        surplus = sorted(record.keys() - known.keys() - {"type"})
        _need(not surplus, f"{where} ({kind}) has options that this version does not know: {_some(surplus)}")
        values = {}
        for name, field in known.items():
            if name not in record:
                has_default = field.default is not MISSING or field.default_factory is not MISSING
                _need(has_default, f"{where} ({kind}) lacks {name}")
                continue
            value = record[name]
            if name in NESTED:
                values[name] = decode(value, f"{where}.{name}", NESTED[name])
            elif field.type == "float" and value == "inf":
                values[name] = math.inf
            else:
                values[name] = plain(value, f"{where}.{name}")
                _need(_fits(str(field.type), values[name]), f"{where}.{name} must be {field.type}, got {value!s:.40}")
        return kinds[kind](**values)

    return decode


def _fits(annotation: str, value: Any) -> bool:
    """Whether a JSON value has the type that a field is annotated with."""
    if type(value) is tuple:
        return "tuple" in annotation
    if type(value) is int and annotation == "float":
        return True
    return type(value).__name__ in annotation.replace("tuple[int, ...]", "").split(" | ")
