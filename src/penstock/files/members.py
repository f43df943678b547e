"""Files of several flows: a mixture. The tensors of each lie behind a prefix, and what all have in common stands once.

A file of one flow is read here, too. ``docs/file-format.md`` is the contract.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from penstock._typing import Array
from penstock.files import model, safetensors, specs
from penstock.files.model import MEMBER, Contents
from penstock.files.safetensors import Container, Entry, need
from penstock.support import Support

SHARED = ("columns", "context_columns", "lattice")
MOST = 1 << 12  # members


@dataclass(frozen=True)
class Several:
    """What a file of several flows holds, checked.

    Attributes
    ----------
    members : tuple of Contents
        Alike in what :func:`differences` names.
    weights : float64 array of shape (members,)
        At least 0; their sum is 1.
    validation_loss : float
        Of the mixture, on rows that all members were validated on; NaN without.
    """

    members: tuple[Contents, ...]
    weights: Array
    validation_loss: float = math.nan


def check_number(n: int) -> None:
    """Raise where there are more members than a file may hold."""
    if n > MOST:
        raise ValueError(f"an ensemble has {MOST} members at most, got {n}")


def differences(first: Contents, other: Contents) -> list[str]:
    """In what two flows differ that cannot be members of one ensemble, in words."""
    a, b = first.spec, other.spec
    parts: list[tuple[str, Any, Any]] = [
        ("dim", a.base.dim, b.base.dim),
        ("context_dim", a.context_dim, b.context_dim),
        ("dtype", a.dtype, b.dtype),
        ("support", _named(a.support), _named(b.support)),
        ("context_support", _named(a.context_support), _named(b.context_support)),
        ("columns", first.columns, other.columns),
        ("context_columns", first.context_columns, other.context_columns),
        ("lattice", _steps(first), _steps(other)),
    ]
    return [f"{name} {mine!s:.80} and {its!s:.80}" for name, mine, its in parts if mine != its]


def _named(support: Sequence[Support]) -> str:
    return ", ".join(map(str, support)) or "real"


def _steps(contents: Contents) -> Any:
    lattice = contents.lattice
    return None if lattice is None else (lattice.steps.tolist(), lattice.origins.tolist())


# --- writing ------------------------------------------------------------------------------------------------------


def to_bytes(several: Several) -> bytes:
    """The bytes of the file, in the present format; raises where no file holds so many."""
    check_number(len(several.members))
    members, first = several.members, several.members[0]
    metadata = {"spec": model.dumped(model.head() | {"members": [specs.encode(own.spec) for own in members]})}
    if any(own.history for own in members):
        histories = [model.history_record(own.history) if own.history else {} for own in members]
        loss = {} if math.isnan(several.validation_loss) else {"validation_loss": several.validation_loss}
        metadata["history"] = model.dumped({"members": histories} | loss)
    metadata["provenance"] = model.dumped(model.provenance(first.missing))
    tensors: dict[str, Array] = {}
    for k, own in enumerate(members):
        for name, array in (model.numbers_of(own) | {"initialised": model.flag(own.snapshot)}).items():
            tensors[f"{MEMBER}{k}.{name}"] = array
    return model.sealed(tensors | model.words_of(first) | {"weights": several.weights}, metadata)


# --- reading ------------------------------------------------------------------------------------------------------


def load(path: str) -> Contents | Several:
    """The checked contents of a file."""
    with open(path, "rb") as file:
        return model.guarded(_read, file, os.fstat(file.fileno()).st_size, repr(path))


def from_bytes(data: memoryview) -> Contents | Several:
    """The checked contents of the bytes of a file."""
    return model.guarded(_read, io.BytesIO(data), len(data), "data")


def _read(file: BinaryIO, size: int) -> Contents | Several:
    container, record, version = model.opened(file, size)
    if "members" not in record:
        return model.contents_of(container, record, version, size)
    records = record.pop("members")
    fits = isinstance(records, list) and 0 < len(records) <= MOST and all(isinstance(own, dict) for own in records)
    need(fits, "members of its spec must be a list of the specs of flows")
    need(not record, f"its spec has entries that this version does not know: {safetensors.some(sorted(record))}")
    parts = _parted(container, len(records))
    histories, loss = _histories(container, len(records))
    members: list[Contents] = []
    for k, own in enumerate(records):
        metadata = {key: text for key, text in container.metadata.items() if key == "provenance"}
        metadata |= {"history": model.dumped(histories[k])} if histories[k] else {}
        try:
            members.append(model.contents_of(_View(container, metadata, parts[k], k), own, version, size))
        except ValueError as error:
            raise ValueError(f"member {k}: {error}") from error
        told = differences(members[0], members[k])
        need(not told, f"members 0 and {k} do not belong together: they have {'; '.join(told)}")
    return Several(tuple(members), _weights(container, len(members)), loss)


class _View(Container):
    """The tensors of one member, and those that all share, by the names that they have in a file of one flow."""

    def __init__(self, whole: Container, metadata: dict[str, str], entries: dict[str, Entry], number: int) -> None:
        self._whole, self._prefix = whole, f"{MEMBER}{number}."
        self.metadata, self.entries = metadata, entries

    def tensor(self, name: str) -> Array:
        return self._whole.tensor(name if name in SHARED else self._prefix + name)


def _parted(container: Container, n: int) -> list[dict[str, Entry]]:
    """The tensors of each member, in the order of the file, with those that all share behind them."""
    parts: list[dict[str, Entry]] = [{} for _ in range(n)]
    shared, reached = {}, 0
    for name, entry in container.entries.items():
        if name in SHARED:
            shared[name] = entry
        if name in (*SHARED, "weights", "hash"):
            continue
        number, dot, own = name.removeprefix(MEMBER).partition(".")
        fits = name.startswith(MEMBER) and dot and number.isdecimal() and number == str(int(number)) and int(number) < n
        need(bool(fits), f"tensors that its {n} members do not have: {name[:80]}")
        need(int(number) >= reached, "its members are not in the order of the format")
        reached = int(number)
        need(own not in SHARED, f"tensor {name} belongs to all members and stands once, without a prefix")
        parts[reached][own] = entry
    return [part | shared for part in parts]


def _histories(container: Container, n: int) -> tuple[list[dict[str, Any]], float]:
    """The records of the training of each member, empty where there is none, and the validation loss of the mixture."""
    if "history" not in container.metadata:
        return [{}] * n, math.nan
    record = safetensors.parse(container.metadata["history"], "the history")
    told = record.get("members") if isinstance(record, dict) else None
    fits = isinstance(told, list) and len(told) == n and all(isinstance(own, dict) for own in told)
    need(fits, f"the history must have that of each of its {n} members")
    loss = record.get("validation_loss", math.nan)
    need(type(loss) in (int, float), "validation_loss of the history must be float")
    assert isinstance(told, list)
    return told, float(loss)


def _weights(container: Container, n: int) -> Array:
    entry = container.entries.get("weights")
    need(entry is not None, "tensors are missing: weights")
    assert entry is not None
    fits = (entry.code, entry.shape) == ("F64", (n,))
    need(fits, f"tensor weights must be F64 of shape ({n},), got {entry.code} of shape {entry.shape}")
    weights = container.tensor("weights")
    fits = bool(np.isfinite(weights).all() and (weights >= 0).all() and abs(weights.sum() - 1) < 1e-9)
    need(fits, "tensor weights must hold numbers of at least 0 whose sum is 1")
    return weights
