"""The words of plan table 2: sections, records, codes, and the writer and reader of the table. It knows nothing of specs.

This file is the one home of every code of the table. ``cpp/core/codes.hpp`` is generated from it (``cpp/core/codes.py``), the
Numba twin imports it, and ``docs/file-format.md`` explains it.

A table is one array of int64. It begins with a header of 8 words::

    0 magic    1 version    2 revision    3 length of the table    4 number of sections    5-7 zero

and a directory with one record of 6 words a section::

    0 tag    1 required (1 or 0)    2 offset    3 number of records    4 words a record    5 zero

Sections follow in the order of the directory, without gaps. An unknown section is an error if it is required and is ignored
otherwise. Records of a section may be longer than the reader knows if the words beyond are zero. Every word that has no
meaning in a record is zero. ``REALS`` holds float64 bit patterns; everything else is a plain integer. *At* fields are
positions in ``INTS`` or ``REALS`` where a list begins; NONE stands for what is absent.

``version`` is that of this layout. ``revision`` is raised whenever the compiler of specs emits other tables for the same
spec; no reader depends on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from penstock._typing import Array

MAGIC = 0x504E53544B
VERSION = 2
REVISION = 1
HEADER_SIZE = 8
ENTRY_SIZE = 6

# Lists of codes: the code of a name is its position. Append only.
DTYPES = ("float32", "float64", "float16", "bfloat16")
SIDES = ("data", "context")
COLUMN_KINDS = ("line", "circle", "box")
COLUMN_MAPS = ("identity", "positive", "logit", "box", "wrap", "ordered", "simplex")
FEATURES = ("identity", "cos_sin")
BASES = ("standard_normal", "normal", "uniform", "student_t", "gaussian_mixture")
DIRECTIONS = ("to_latent", "to_data")
STEP_KINDS = ("permutation", "elementwise", "coupling", "columns", "lu_linear", "autoregressive")
SOURCES = ("free", "network", "external", "fixed")
ROLES = ("conditioner", "embedding", "base")
ACTIVATIONS = ("none", "relu", "tanh", "silu", "gelu", "leaky_relu", "sigmoid", "elu", "softplus")
SKIPS = ("none", "after_activation", "before_activation")

# Bits.
LOWER, UPPER = 1, 2  # ends of a column: the finite ones, and the closed ones
DECAYS, FROZEN = 1, 2  # flags of a range of parameters

# In the place of an index.
NONE = -1
# In the place of a linear layer of a network whose output is read.
INPUT = -2  # the network's whole input: the context, then what it reads of the rows
CONTEXT = -3  # the context alone

# Sections: the tag of a name is its position plus one, and the fields of its records come in this order. Append only.
FIELDS: dict[str, tuple[str, ...]] = {
    "FLOW": ("dim", "context_dim", "n_params", "n_buffers", "dtype", "conditioner_dtype", "embedding"),
    "COLUMNS": (
        "side", "kind", "map", "features", "ends", "closed", "lo", "hi", "lattice", "group", "loc", "scale", "buffers",
        "n_buffers",
    ),
    "BASE": ("kind", "dims", "n_dims", "options", "n_options", "source", "params", "n_params", "network"),
    "STEPS": (
        "kind", "explicit", "params", "n_params", "a", "n_a", "b", "n_b", "part", "n_parts", "network", "order", "signs",
    ),
    "PARTS": (
        "transform", "n_theta", "options", "n_options", "members", "n_members", "source", "theta", "params", "n_params",
        "external",
    ),
    "NETWORKS": ("role", "linear", "n_linears", "n_in", "n_out", "n_context", "masked", "params", "n_params"),
    "LINEARS": (
        "n_in", "n_out", "weight", "bias", "source", "activation_before", "activation", "skip", "skip_source", "gate",
        "in_degrees", "out_degrees",
    ),
    "BOUNDARY": (),
    "RANGES": ("offset", "count", "flags"),
    "INTS": (),
    "REALS": (),
}  # fmt: skip
# Words a record; those beyond the fields are zero. Of BOUNDARY it is dim.
RECORD_SIZES = {
    "FLOW": 12, "COLUMNS": 20, "BASE": 12, "STEPS": 20, "PARTS": 16, "NETWORKS": 16, "LINEARS": 20, "BOUNDARY": 0,
    "RANGES": 4, "INTS": 1, "REALS": 1,
}  # fmt: skip
TAGS = {name: tag for tag, name in enumerate(FIELDS, 1)}

Record = dict[str, int]


@dataclass
class Table:
    """The sections of a table as records by field name.

    Attributes
    ----------
    flow : dict
    columns, base, steps, parts, networks, linears, ranges : list of dict
        A field that a record does not name is zero.
    boundary : list of sequence of int
        ``n_steps + 1`` rows: the slot of each dimension between two steps.
    ints, reals : list
        Where the lists lie that records point to.
    """

    flow: Record = field(default_factory=dict)
    columns: list[Record] = field(default_factory=list)
    base: list[Record] = field(default_factory=list)
    steps: list[Record] = field(default_factory=list)
    parts: list[Record] = field(default_factory=list)
    networks: list[Record] = field(default_factory=list)
    linears: list[Record] = field(default_factory=list)
    boundary: list[Sequence[int]] = field(default_factory=list)
    ranges: list[Record] = field(default_factory=list)
    ints: list[int] = field(default_factory=list)
    reals: list[float] = field(default_factory=list)

    def put(self, values: Sequence[int]) -> int:
        """Append a list of integers; where it begins."""
        self.ints.extend(int(value) for value in values)
        return len(self.ints) - len(values)

    def put_reals(self, values: Sequence[float]) -> int:
        """Append a list of float64 numbers; where it begins."""
        self.reals.extend(float(value) for value in values)
        return len(self.reals) - len(values)

    def write(self, extra: Sequence[tuple[int, int, Sequence[Sequence[int]]]] = ()) -> Array:
        """The table as one array of int64.

        Parameters
        ----------
        extra : sequence of (tag, required, records)
            Sections that this version does not name.
        """
        sections: list[tuple[int, int, int, list[int]]] = []
        for name, tag in TAGS.items():
            size = RECORD_SIZES[name]
            if name == "BOUNDARY":
                size = self.flow["dim"]
                words = [int(slot) for row in self.boundary for slot in row]
            elif name == "INTS":
                words = list(self.ints)
            elif name == "REALS":
                words = np.array(self.reals, np.float64).view(np.int64).tolist()
            else:
                value = getattr(self, name.lower())
                records = [value] if name == "FLOW" else value
                words = [word for record in records for word in _record(name, record)]
            sections.append((tag, 1, size, words))
        for tag, required, rows in extra:
            sections.append((tag, required, len(rows[0]) if rows else 1, [int(word) for row in rows for word in row]))
        offset = HEADER_SIZE + ENTRY_SIZE * len(sections)
        directory: list[int] = []
        for tag, required, size, words in sections:
            directory += [tag, required, offset, len(words) // size, size, 0]
            offset += len(words)
        header = [MAGIC, VERSION, REVISION, offset, len(sections), 0, 0, 0]
        return np.array([*header, *directory, *(word for *_, words in sections for word in words)], dtype=np.int64)


def _record(name: str, record: Mapping[str, int]) -> list[int]:
    fields = FIELDS[name]
    unknown = record.keys() - set(fields)
    if unknown:
        raise ValueError(f"{name} has no field {sorted(unknown)}")
    return [int(record.get(key, 0)) for key in fields] + [0] * (RECORD_SIZES[name] - len(fields))


def read(array: Array) -> Table:
    """The records of a table that was checked, or that this library wrote."""
    table = Table()
    for entry in range(int(array[4])):
        at = HEADER_SIZE + ENTRY_SIZE * entry
        tag, _, offset, count, size, _ = (int(word) for word in array[at : at + ENTRY_SIZE])
        if not 0 < tag <= len(FIELDS):
            continue
        name = list(FIELDS)[tag - 1]
        rows = array[offset : offset + count * size].reshape(count, size)
        if name == "BOUNDARY":
            table.boundary = list(rows.tolist())
        elif name == "INTS":
            table.ints = rows.ravel().tolist()
        elif name == "REALS":
            table.reals = rows.ravel().view(np.float64).tolist()
        else:
            records = [dict(zip(FIELDS[name], row, strict=False)) for row in rows.tolist()]
            setattr(table, name.lower(), records[0] if name == "FLOW" else records)
    return table


# The codes of a field, for printing.
_WORDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("FLOW", "dtype"): DTYPES, ("FLOW", "conditioner_dtype"): DTYPES, ("COLUMNS", "side"): SIDES,
    ("COLUMNS", "kind"): COLUMN_KINDS, ("COLUMNS", "map"): COLUMN_MAPS, ("COLUMNS", "features"): FEATURES,
    ("BASE", "kind"): BASES, ("BASE", "source"): SOURCES, ("STEPS", "kind"): STEP_KINDS,
    ("STEPS", "explicit"): DIRECTIONS, ("PARTS", "source"): SOURCES, ("NETWORKS", "role"): ROLES,
    ("LINEARS", "activation"): ACTIVATIONS, ("LINEARS", "activation_before"): ACTIVATIONS, ("LINEARS", "skip"): SKIPS,
}  # fmt: skip


def describe(array: Array) -> str:
    """A table in words, for people: a line a record, the codes by name, absent fields left out."""
    table = read(array)
    lines = [f"plan table {array[1]}, revision {array[2]}, {len(array)} words"]
    for name in ("FLOW", "COLUMNS", "BASE", "STEPS", "PARTS", "NETWORKS", "LINEARS", "RANGES"):
        value = getattr(table, name.lower())
        for number, record in enumerate([value] if name == "FLOW" else value):
            words = []
            for key, word in record.items():
                codes = _WORDS.get((name, key))
                if codes is not None:
                    words.append(f"{key}={codes[word]}" if 0 <= word < len(codes) else f"{key}={word}?")
                elif word not in (0, NONE):
                    words.append(f"{key}={word}")
            lines.append(f"{name} {number}: " + " ".join(words))
    lines += [f"BOUNDARY {number}: {list(row)}" for number, row in enumerate(table.boundary)]
    return "\n".join([*lines, f"INTS: {table.ints}", f"REALS: {table.reals}"])
