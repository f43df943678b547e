"""Decodes plan table 2; what it says follows ``penstock/plan_table.py``.

A table that passes the checks may still ask for what this engine does not compute: see layout.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.engine.check import DIM_MAX, Checker
from penstock._numba.engine.record import fail
from penstock.plan_table import FIELDS, Table

Array = np.ndarray[Any, Any]

RECORD_SIZE_MAX = 4096


def sections(table: Any) -> dict[str, Array]:
    """The records of each known section, (count, size), once header and directory were checked."""
    if not isinstance(table, np.ndarray) or table.dtype != np.int64 or table.ndim != 1:
        raise ValueError("table must be a one-dimensional array of int64")
    size = table.size
    if size < codes.HEADER_SIZE or table[0] != codes.MAGIC:
        fail("this is none")
    if table[1] != codes.VERSION:
        fail(f"version {table[1]}, this build reads version {codes.VERSION}")
    _, _, revision, length, n_sections, *reserved = table[: codes.HEADER_SIZE].tolist()
    if revision < 1:
        fail(f"revision is {revision}, expected at least 1")
    if length != size:
        fail(f"its header says length {length}, it has {size}")
    if any(reserved):
        fail("a reserved word of the header is not 0")
    if not 0 <= n_sections <= (size - codes.HEADER_SIZE) // codes.ENTRY_SIZE:
        fail(f"{n_sections} sections do not fit into it")
    names = list(FIELDS)
    found: dict[str, Array] = {}
    seen: set[int] = set()
    used = codes.HEADER_SIZE + codes.ENTRY_SIZE * n_sections
    for entry in range(n_sections):
        at = codes.HEADER_SIZE + codes.ENTRY_SIZE * entry
        tag, required, offset, count, words, reserved_word = table[at : at + codes.ENTRY_SIZE].tolist()
        name = names[tag - 1] if 1 <= tag <= len(names) else ""
        called = name or f"section {tag}"
        if tag in seen:
            fail(f"{called} comes twice")
        seen.add(tag)
        if required not in (0, 1) or reserved_word != 0:
            fail(f"{called}: required must be 0 or 1, and the reserved word 0")
        most = DIM_MAX if name == "BOUNDARY" else RECORD_SIZE_MAX
        if not (1 <= words <= most and 0 <= count <= size):
            fail(f"{called}: {count} records of {words} words")
        if offset != used or count * words > size - used:
            fail(f"{called} does not follow the section before it, or ends beyond the table")
        used += count * words
        if not name:
            if required:
                fail(f"section {tag} is required and unknown to this build")
            continue
        if not required:
            fail(f"{name} must be required")
        known = len(FIELDS[name])
        if words < known or (name in ("INTS", "REALS") and words != 1):
            fail(f"{name}: a record has {words} words, expected {max(known, 1)}")
        found[name] = table[offset : offset + count * words].reshape(count, words)
        strange = np.flatnonzero(found[name][:, known:].any(axis=1))
        if known and strange.size:
            fail(f"{name} {strange[0]}: unknown fields are not 0")
    if used != size:
        fail(f"sections end at {used}, the table at {size}")
    for name in names:
        if name not in found:
            fail(f"{name} is missing")
    return found


def check_table(table: Any) -> None:
    """Raise ValueError, with section, record and field, unless this is a valid plan table of version 2."""
    Checker(sections(table)).check()


def decode(table: Any) -> Table:
    """The records of a table, checked."""
    check_table(table)
    return codes.read(table)
