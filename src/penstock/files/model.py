"""The file of a flow: a safetensors container of its plan table, buffers and parameters, and one JSON spec.

Nothing is built from a file before all of it was checked, and no file is ever a pickle. Format 2 is written, formats 1 and 2
are read. ``docs/file-format.md`` is the contract.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, BinaryIO, TypeVar

import numpy as np

from penstock import _backend, plan_table
from penstock._files import replacing
from penstock._typing import Array
from penstock.files import safetensors, specs
from penstock.files.safetensors import CODES, Container, need, some
from penstock.history import History
from penstock.lattice import Lattice
from penstock.plan import Plan, compile_plan
from penstock.spec import FlowSpec
from penstock.state import Snapshot, named
from penstock.support import Interval, number_names

FORMAT = "penstock"
FORMAT_VERSION = 2
HASH_SIZE = 32
# Tensors of the optimiser in a checkpoint; those of other prefixes belong to files of several flows.
TRAINING, MEMBER = "training.", "member."
METADATA = {"spec", "history", "provenance"}
# Left out of the file, so that the same training gives the same bytes.
TIMES = ("seconds", "rows_per_second")
# Left out where there is nothing to say: what only ``fit_to_target`` notes.
TARGETS = ("elbo", "elbo_error", "ess", "pareto_k", "start")


class FileFormatError(ValueError):
    """A file, or bytes, that are no flow of penstock: of another kind, truncated, damaged, or from a newer version.

    Examples
    --------
    >>> import penstock as ps
    >>> try:
    ...     ps.from_bytes(b"something else")
    ... except ps.FileFormatError as error:
    ...     print(str(error)[:16])
    cannot load data
    """


@dataclass(frozen=True)
class Contents:
    """What a file holds, checked.

    Attributes
    ----------
    spec : FlowSpec
    plan : Plan
        Compiled from the spec.
    snapshot : Snapshot
    columns, context_columns : tuple of str
        Names of the dimensions and of the conditioning variables; empty where they have none.
    history : History or None
    training : dict of arrays
        State of an optimiser by name, without its prefix; empty but in a checkpoint.
    format_version : int
        Of the file that it was read from.
    missing : tuple of str, or None
        Numbers and words that stood for no value in the table of the fit; None where nobody has said.
    lattice : Lattice or None
        Of the columns that were trained with noise.
    """

    spec: FlowSpec
    plan: Plan
    snapshot: Snapshot
    columns: tuple[str, ...] = ()
    context_columns: tuple[str, ...] = ()
    history: History | None = None
    training: Mapping[str, Array] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    missing: tuple[str, ...] | None = None
    lattice: Lattice | None = None


# --- writing ------------------------------------------------------------------------------------------------------


def to_bytes(contents: Contents) -> bytes:
    """The bytes of the file, in the present format."""
    metadata = {"spec": dumped(head() | specs.encode(contents.spec))}
    if contents.history is not None and len(contents.history):
        metadata["history"] = dumped(history_record(contents.history))
    metadata["provenance"] = dumped(provenance(contents.missing))
    tensors = numbers_of(contents) | words_of(contents) | {"initialised": flag(contents.snapshot)}
    return sealed(tensors, metadata)


def head() -> dict[str, Any]:
    """What every spec begins with."""
    return {"format": FORMAT, "format_version": FORMAT_VERSION, "library_version": _backend.package_version()}


def history_record(history: History) -> dict[str, Any]:
    """A history for JSON."""
    kept = {key: value for key, value in asdict(history).items() if key not in TIMES and (value or key not in TARGETS)}
    record: dict[str, Any] = _without_nan(kept)
    return record


def provenance(missing: tuple[str, ...] | None) -> dict[str, Any]:
    """Where a file comes from."""
    origin: dict[str, Any] = {"library": "penstock", "version": _backend.package_version()}
    return origin if missing is None else origin | {"missing": list(missing)}


def numbers_of(contents: Contents) -> dict[str, Array]:
    """The tensors of the numbers of a flow. Their order is part of the format: a reader without JSON follows the plan table."""
    buffers = _buffers(contents.plan)
    starts = np.cumsum([shape[0] for _, shape in buffers])[:-1]
    return {
        "plan": contents.plan.table,
        **dict(zip([name for name, _ in buffers], np.split(contents.snapshot.buffers, starts), strict=True)),
        **named(contents.plan, contents.snapshot.params),
        **{TRAINING + name: array for name, array in contents.training.items()},
    }


def words_of(contents: Contents) -> dict[str, Array]:
    """The tensors of what columns are called, and of their lattices."""
    names = {"columns": contents.columns, "context_columns": contents.context_columns}
    tensors = {name: _encoded(words) for name, words in names.items() if words}
    if contents.lattice is not None:
        tensors["lattice"] = np.stack([contents.lattice.steps, contents.lattice.origins])
    return tensors


def flag(snapshot: Snapshot) -> Array:
    """Whether a flow is fitted."""
    return np.array([snapshot.initialised], dtype=np.uint8)


def sealed(tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a file of these tensors, with its hash."""
    data = safetensors.write({**tensors, "hash": np.zeros(HASH_SIZE, dtype=np.uint8)}, metadata)
    return data[:-HASH_SIZE] + content_hash(data)


def content_hash(data: bytes) -> bytes:
    """BLAKE2b-256 over all bytes of a file but its last 32, which hold it."""
    return hashlib.blake2b(memoryview(data)[:-HASH_SIZE], digest_size=HASH_SIZE).digest()


def check_replaceable(path: str) -> None:
    """Raise unless ``path`` is free, an empty file, or a model: a table of the same name would be lost."""
    if not os.path.isfile(path) or os.path.getsize(path) == 0:
        return
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(length) if length <= safetensors.HEADER_MAX else b""
    if len(header) != length or not (header.startswith(b"{") and b'"__metadata__"' in header and b'"spec"' in header):
        raise FileFormatError(
            f"cannot write {path!r}: a file that is no model of penstock stands there, and would be lost; remove it first, or "
            "choose another name"
        )


def save(path: str, data: bytes, *, anything: bool = False) -> None:
    """Put ``data`` at ``path`` at once and for good. It replaces a model, and no other file unless ``anything`` may go."""
    if not anything:
        check_replaceable(path)
    with replacing(path) as file:
        file.write(data)


def dumped(record: Any) -> str:
    """JSON, as short as it can be."""
    return json.dumps(record, separators=(",", ":"), allow_nan=False)


def _without_nan(value: Any) -> Any:
    """The same with null in the place of numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return value


def _buffers(plan: Plan) -> list[tuple[str, tuple[int]]]:
    """Names and shapes of the buffers, in their order."""
    parts = [("standardize", plan.dim)] + ([("context", plan.context_dim)] if plan.context_dim else [])
    buffers = [(f"{name}.{part}", (n,)) for name, n in parts for part in ("loc", "scale")]
    return buffers + [("support.numbers", (len(plan.support_numbers),))] * bool(plan.support_numbers)


def _encoded(names: tuple[str, ...]) -> Array:
    """Names as UTF-8, each with a NUL behind it."""
    return np.frombuffer("".join(name + "\0" for name in names).encode(), np.uint8)


# --- reading ------------------------------------------------------------------------------------------------------


def load(path: str) -> Contents:
    """The checked contents of a file of one flow."""
    with open(path, "rb") as file:
        return guarded(_read, file, os.fstat(file.fileno()).st_size, repr(path))


def from_bytes(data: memoryview) -> Contents:
    """The checked contents of the bytes of a file of one flow."""
    return guarded(_read, io.BytesIO(data), len(data), "data")


T = TypeVar("T")


def guarded(read: Callable[[BinaryIO, int], T], file: BinaryIO, size: int, source: str) -> T:
    """Read; whatever is wrong becomes a FileFormatError that names the file."""
    try:
        return read(file, size)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise FileFormatError(f"cannot load {source}: {error}") from error


def _read(file: BinaryIO, size: int) -> Contents:
    container, record, version = opened(file, size)
    return contents_of(container, record, version, size)


def opened(file: BinaryIO, size: int) -> tuple[Container, dict[str, Any], int]:
    """The container of a file, known to be one of this format and undamaged; the rest of its spec, and its version."""
    container = safetensors.read(file, size)
    need("spec" in container.metadata, "not a penstock file: no spec in its metadata")
    record = safetensors.parse(container.metadata["spec"], "the spec")
    fits = isinstance(record, dict) and record.pop("format", None) == FORMAT
    need(fits, "not a penstock file: the spec is of another format")
    version, library = record.pop("format_version", None), record.pop("library_version", "")
    need(type(version) is int and version >= 1, f"format version {version!r} is not a number of at least 1")
    need(
        version <= FORMAT_VERSION,
        f"written by a newer penstock ({library!s:.40}) in format {version}; "
        f"this one reads up to format {FORMAT_VERSION}",
    )
    need(isinstance(library, str), "library_version must be a string")
    if version >= 2:
        _check_hash(file, container)
    surplus = sorted(container.metadata.keys() - METADATA)
    need(not surplus, f"metadata that this version does not know: {some(surplus)}")
    return container, record, version


def contents_of(container: Container, record: dict[str, Any], version: int, size: int) -> Contents:
    """The checked contents of a container that has the tensors of one flow, of the given spec."""
    _check_prefixes(container, version)
    table_entry = container.entries.get("plan")
    need(table_entry is not None, "tensors are missing: plan")
    assert table_entry is not None
    spec = specs.decode(record, math.prod(table_entry.shape), size)
    plan = compile_plan(spec)
    _check_table(container, plan)
    _check_tensors(container, plan, version)
    snapshot = _snapshot(container, plan)
    _check_supports(spec, snapshot.buffers[len(snapshot.buffers) - len(plan.support_numbers) :].tolist())
    columns, context_columns = (
        _names(container, name, n) for name, n in (("columns", plan.dim), ("context_columns", plan.context_dim))
    )
    return Contents(
        spec, plan, snapshot, columns, context_columns, _history(container),
        {
            name.removeprefix(TRAINING): container.tensor(name) for name in container.entries if name.startswith(TRAINING)
        },
        version, _missing(container), _lattice(container, plan),
    )  # fmt: skip


def _check_hash(file: BinaryIO, container: Container) -> None:
    last = list(container.entries)[-1:]
    entry = container.entries.get("hash")
    fits = last == ["hash"] and entry is not None and (entry.code, entry.shape) == ("U8", (HASH_SIZE,))
    need(fits, "its last tensor is not the hash of its contents")
    file.seek(0)
    data = file.read()
    damaged = data[-HASH_SIZE:] != content_hash(data)
    need(not damaged, "the hash of its contents does not match them: the file is damaged")


def _check_prefixes(container: Container, version: int) -> None:
    """Refuse by name what belongs to files of several flows."""
    members = [name for name in container.entries if name.startswith(MEMBER)]
    need(not members, f"it holds several flows ({some(members)}), and this version reads files of one")
    training = [name for name in container.entries if name.startswith(TRAINING)]
    need(version >= 2 or not training, f"tensors that the spec does not have: {some(training)}")


def _check_table(container: Container, plan: Plan) -> None:
    """A table of this version and revision must be that of the spec; any other one is not used."""
    entry = container.entries["plan"]
    fits = entry.code == "I64" and len(entry.shape) == 1 and entry.shape[0] > plan_table.HEADER_SIZE
    need(fits, f"tensor plan must be I64 of one axis, got {entry.code} of shape {entry.shape}")
    table = container.tensor("plan")
    need(int(table[0]) == plan_table.MAGIC, "tensor plan holds no plan table")
    if (int(table[1]), int(table[2])) == (plan_table.VERSION, plan_table.REVISION):
        same = table.shape == plan.table.shape and bool((table == plan.table).all())
        need(same, "its plan table does not belong to its spec")


def _check_tensors(container: Container, plan: Plan, version: int) -> None:
    """Names, types, shapes and order of all tensors but the plan."""
    number_type = CODES[plan.dtype.newbyteorder("<")]
    expected: dict[str, tuple[str, tuple[int, ...]]] = {
        **{name: ("F64", shape) for name, shape in _buffers(plan)},
        **{t.name: (number_type, t.shape) for t in plan.tensors},
        "initialised": ("U8", (1,)),
    }
    optional = {"columns", "context_columns", "lattice", "hash"} if version >= 2 else set()
    found = {name for name in container.entries if not name.startswith(TRAINING)} - {"plan"}
    missing, surplus = sorted(expected.keys() - found), sorted(found - expected.keys() - optional)
    need(not missing, f"tensors are missing: {some(missing)}")
    need(not surplus, f"tensors that the spec does not have: {some(surplus)}")
    for name, (code, shape) in expected.items():
        got = container.entries[name]
        need(
            (got.code, got.shape) == (code, shape),
            f"tensor {name} must be {code} of shape {shape}, got {got.code} of shape {got.shape}",
        )
    if version >= 2:
        head = ["plan", *expected][: len(expected)]  # all but initialised
        need(list(container.entries)[: len(head)] == head, "its tensors are not in the order of the format")


def _check_supports(spec: FlowSpec, numbers: list[float]) -> None:
    """The numbers that supports have of their own are ones that a fit may have set."""
    rest = iter(numbers)
    for i, own in enumerate(spec.support):
        for name, value in zip(number_names(own, i), rest, strict=False):
            fits = value > 0 if name == "s" else isinstance(own, Interval) and own.ends[0] <= value <= own.ends[1]
            need(fits, f"tensor support.numbers: {name} of column {i} cannot be {value}")


def _snapshot(container: Container, plan: Plan) -> Snapshot:
    """The numbers of the flow, once they are known to be ones that a flow may have."""
    flag = int(container.tensor("initialised")[0])
    need(flag in (0, 1), f"initialised must be 0 or 1, got {flag}")
    buffers = {name: container.tensor(name) for name, _ in _buffers(plan)}
    numbers = {t.name: container.tensor(t.name) for t in plan.tensors}
    for name, array in {**buffers, **numbers}.items():
        need(bool(np.isfinite(array).all()), f"tensor {name} holds NaN or infinity")
        need(not name.endswith(".scale") or bool((array > 0).all()), f"tensor {name} must be positive")
    for t in plan.tensors:
        if t.mask is not None:
            need(not numbers[t.name][~t.mask].any(), f"tensor {t.name} holds numbers where its mask has none")
    flat = [array.ravel() for array in numbers.values()]
    params = np.concatenate(flat) if flat else np.zeros(0, plan.dtype)
    return Snapshot(params, np.concatenate(list(buffers.values())), bool(flag))


def _names(container: Container, name: str, count: int) -> tuple[str, ...]:
    """Names of columns, one for each."""
    entry = container.entries.get(name)
    if entry is None:
        return ()
    need(entry.code == "U8" and len(entry.shape) == 1, f"tensor {name} must be U8 of one axis")
    data = container.tensor(name).tobytes()
    try:
        names = tuple(data.decode().split("\0")[:-1])
    except UnicodeDecodeError as error:
        raise ValueError(f"tensor {name} is no valid UTF-8: {error}") from None
    fits = data.endswith(b"\0") and len(names) == count and len(set(names)) == count and all(names)
    need(fits, f"tensor {name} must hold {count} different names, each with a NUL behind it")
    return names


def _lattice(container: Container, plan: Plan) -> Lattice | None:
    """The lattices of columns, if there are any."""
    entry = container.entries.get("lattice")
    if entry is None:
        return None
    fits = entry.code == "F64" and entry.shape == (2, plan.dim)
    need(fits, f"tensor lattice must be F64 of shape (2, {plan.dim}), got {entry.code} of shape {entry.shape}")
    steps, origins = container.tensor("lattice")
    need(
        bool(np.isfinite(steps).all() and (steps >= 0).all() and steps.any()),
        "tensor lattice must hold steps of at least 0",
    )
    within = (origins >= 0) & ((origins < steps) | (origins == 0))
    need(bool(within.all()), "the origins in tensor lattice must be at least 0 and below the steps")
    return Lattice(steps, origins)


def _missing(container: Container) -> tuple[str, ...] | None:
    """What stood for no value in the table of the fit, if the file says."""
    if "provenance" not in container.metadata:
        return None
    record = safetensors.parse(container.metadata["provenance"], "the provenance")
    need(isinstance(record, dict), "the provenance must be a JSON object")
    words = record.get("missing")
    fits = words is None or (isinstance(words, list) and all(isinstance(word, str) for word in words))
    need(fits, "missing of the provenance must be a list of strings")
    return None if words is None else tuple(words)


_HISTORY: dict[str, Callable[[Any], bool]] = {
    "list[int]": lambda value: isinstance(value, list) and all(type(item) is int for item in value),
    "list[float]": lambda value: (
        isinstance(value, list) and all(item is None or type(item) in (int, float) for item in value)
    ),
    "int | None": lambda value: value is None or type(value) is int,
    "str": lambda value: isinstance(value, str),
}


def _history(container: Container) -> History | None:
    """The record of training, if the file has one. What this version does not know of it is left out."""
    if "history" not in container.metadata:
        return None
    record = safetensors.parse(container.metadata["history"], "the history")
    need(isinstance(record, dict), "the history must be a JSON object")
    values = {}
    for part in fields(History):
        if part.name not in record:
            continue
        value = record[part.name]
        check = _HISTORY.get(str(part.type))
        need(check is None or check(value), f"{part.name} of the history must be {part.type}")
        if part.type == "list[float]":
            value = [math.nan if item is None else float(item) for item in value]
        values[part.name] = value
    epochs = len(values.get("epoch", ()))
    return History(**{name: [math.nan] * epochs for name in TIMES} | values)
