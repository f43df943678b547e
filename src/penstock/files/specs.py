"""Specs as JSON and back. Nothing in a file can name more than the layers, transforms and words that the registries know."""

from __future__ import annotations

import functools
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any

import numpy as np

from penstock.base import BASES, BLOCKS
from penstock.conditioners import MLP
from penstock.files.safetensors import need, some, whole
from penstock.groups import GROUPS, is_by_column
from penstock.layers import LAYERS
from penstock.spec import FlowSpec
from penstock.support import SUPPORTS, Real, Support, kinds
from penstock.transforms import TRANSFORMS

CONDITIONER_TYPES: dict[str, type] = {"MLP": MLP}
# The fields of a layer that hold a spec of their own.
NESTED: dict[str, dict[str, type]] = {"transform": TRANSFORMS, "conditioner": CONDITIONER_TYPES}
KEYS = {"dtype", "conditioner_dtype", "context_dim", "base", "layers", "embedding", "embedding_dim", "support"} | {
    "context_support"
}


def encode(spec: FlowSpec) -> dict[str, Any]:
    """A spec as JSON."""
    record = {
        "dtype": spec.dtype,
        "context_dim": spec.context_dim,
        "base": _encode(spec.base, spec.base.name),
        "layers": [_encode(layer, type(layer).__name__) for layer in spec.layers],
    }
    if spec.embedding is not None:
        record |= {"embedding": _encode(spec.embedding, "MLP"), "embedding_dim": spec.embedding_dim}
    if spec.support:
        record["support"] = [_encode(support, support.name) for support in spec.support]
    if spec.context_support:
        record["context_support"] = [_encode(support, support.name) for support in spec.context_support]
    return record


def _encode(spec: Any, name: str) -> dict[str, Any]:
    """A spec by its registered name and its fields."""
    record: dict[str, Any] = {"type": name}
    for field in fields(spec):
        value = getattr(spec, field.name)
        if value is None:
            continue
        if isinstance(value, np.generic):
            value = value.item()
        if field.name in NESTED:
            kinds = NESTED[field.name]
            value = _encode(value, next(key for key, cls in kinds.items() if cls is type(value)))
        elif field.name == "parts":
            value = [_encode(part, part.name) for part in value]
        elif isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isinf(value):
            value = "inf"  # JSON has no infinity
        record[field.name] = value
    return record


def decode(record: Mapping[str, Any], table_size: int, size: int) -> FlowSpec:
    """The spec of a file of ``size`` bytes with a plan of ``table_size`` numbers; it must have room for what it claims."""
    surplus = sorted(record.keys() - KEYS)
    need(not surplus, f"the spec has entries that this version does not know: {some(surplus)}")
    dtype = record.get("dtype")
    need(dtype in ("float32", "float64"), f"dtype must be float32 or float64, got {dtype!s:.40}")
    assert isinstance(dtype, str)
    conditioners = record.get("conditioner_dtype", dtype)
    need(conditioners == dtype, f"conditioners are in {conditioners!s:.40}, which this version does not compute")
    context_dim = record.get("context_dim")
    need(whole(context_dim), f"context_dim must be an integer of at least 0, got {context_dim!s:.40}")
    assert isinstance(context_dim, int)
    # Each of these has numbers in the file.
    need(context_dim <= size, f"context_dim is larger than the file: {context_dim!s:.40}")
    records = record.get("layers")
    need(isinstance(records, list), "the spec has no list of layers")
    assert isinstance(records, list)
    reader = _Reader(size)
    embedding, embedding_dim = None, record.get("embedding_dim", 0)
    if "embedding" in record:
        embedding = reader.read(record["embedding"], "embedding", CONDITIONER_TYPES)
    fits = whole(embedding_dim) and embedding_dim <= size and (embedding_dim > 0) == (embedding is not None)
    need(fits, f"embedding_dim does not fit, got {embedding_dim!s:.40}")
    need(embedding is None or context_dim > 0, "it has an embedding, but no context")
    base = reader.read(record.get("base"), "base", BASES)
    # The plan has at least one entry a dimension for each step and the two ends; more is not worth compiling.
    fits = (len(records) + 2) * base.dim <= table_size
    need(fits, f"{len(records)} layers of {base.dim} dimensions do not fit its plan of {table_size} numbers")
    support, given = (
        _support(reader, record[name], n, name) if name in record else ()
        for name, n in (("support", base.dim), ("context_support", context_dim))
    )
    n_lines = kinds(support, base.dim).count("line")
    layers = []
    for number, layer_record in enumerate(records):
        layer = reader.read(layer_record, f"layers[{number}]", LAYERS)
        # Everything random was resolved before the file was written.
        settled = layer.resolve(base.dim, n_lines, np.random.default_rng(0))
        need(settled == layer, f"layers[{number}] is not resolved")
        need(n_lines > 0 or not layer.lines_only, f"layers[{number}] has no line to act on")
        layers.append(layer)
    return FlowSpec(base, tuple(layers), context_dim, dtype, embedding, embedding_dim, support, given)


def _support(reader: _Reader, records: Any, dim: int, name: str) -> tuple[Support, ...]:
    """The supports of the columns, or of the context, where not all are real."""
    known = SUPPORTS if name == "support" else {key: kind for key, kind in SUPPORTS.items() if key not in GROUPS}
    need(isinstance(records, list) and len(records) == dim, f"{name} must be a list of {dim}")
    support = tuple(reader.read(record, f"{name}[{i}]", known) for i, record in enumerate(records))
    need(is_by_column(support, dim), f"{name} has a group that does not stand in the places of its columns")
    need(not all(isinstance(own, Real) for own in support), f"{name} is that of every flow, which is not written")
    return support


class _Reader:
    """From JSON to specs. It refuses integers above ``largest``: nothing in a file outnumbers its bytes."""

    def __init__(self, largest: int) -> None:
        self.largest = largest

    def read(self, record: Any, where: str, kinds: dict[str, type]) -> Any:
        """A spec of one of the kinds."""
        need(isinstance(record, dict), f"{where} must be a JSON object")
        kind = record.get("type")
        found = isinstance(kind, str) and kind in kinds
        need(found, f"{where} has type {kind!s:.40}, which this version does not know; it knows {', '.join(kinds)}")
        known = {field.name: field for field in fields(kinds[kind])}
        surplus = sorted(record.keys() - known.keys() - {"type"})
        need(not surplus, f"{where} ({kind}) has options that this version does not know: {some(surplus)}")
        values = {}
        for name, field in known.items():
            if name not in record:
                has_default = field.default is not MISSING or field.default_factory is not MISSING
                need(has_default, f"{where} ({kind}) lacks {name}")
            elif name == "parts":
                need(isinstance(record[name], list), f"{where}.parts must be a list")
                values[name] = tuple(
                    self.read(part, f"{where}.parts[{i}]", BLOCKS) for i, part in enumerate(record[name])
                )
            elif name in NESTED:
                values[name] = self.read(record[name], f"{where}.{name}", NESTED[name])
            else:
                values[name] = self._value(record[name], f"{where}.{name}", _types(kinds[kind])[name])
        return kinds[kind](**values)

    def _value(self, value: Any, where: str, allowed: tuple[type, ...]) -> Any:
        if value == "inf" and float in allowed:
            return math.inf
        value = self._plain(value, where)
        names = " or ".join(kind.__name__ for kind in allowed)
        fits = type(value) in allowed or (type(value) is int and float in allowed)
        need(fits, f"{where} must be {names}, got {value!s:.40}")
        return value

    def _plain(self, value: Any, where: str) -> Any:
        if isinstance(value, (bool, str, float)):
            return value
        if isinstance(value, int):
            need(abs(value) <= self.largest, f"{where} is larger than the file: {value!s:.40}")
            return value
        numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
        need(numbers, f"{where} must be a number, a word or a list of numbers")
        return tuple(self._plain(item, where) for item in value)


@functools.cache
def _types(kind: type) -> dict[str, tuple[type, ...]]:
    """The types that the fields of a spec may have, without their parameters."""
    hints = typing.get_type_hints(kind)
    return {field.name: _alternatives(hints[field.name]) for field in fields(kind)}


def _alternatives(hint: Any) -> tuple[type, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return tuple(kind for part in typing.get_args(hint) for kind in _alternatives(part))
    return (typing.get_origin(hint) or hint,)
