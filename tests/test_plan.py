"""Plan tables: what the checkers of the backends demand, what engines refuse by its name, and the codes of C++."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tables
from cases import BACKENDS, CASES, bare, built
from penstock import plan_table
from penstock.plan_table import ENTRY_SIZE, FIELDS, HEADER_SIZE, NONE, TAGS, Table

Array = np.ndarray[Any, Any]
ROOT = Path(__file__).resolve().parents[1]

MODULES = {"cpp": "penstock._core", "numba": "penstock._numba"}


@pytest.fixture(params=[backend for backend in BACKENDS if backend in MODULES])
def engines(request: pytest.FixtureRequest) -> Any:
    """The module of a backend."""
    return importlib.import_module(MODULES[request.param])


def refused(engines: Any, table: Array, match: str) -> None:
    """Checker and engine give the same reason."""
    with pytest.raises(ValueError, match=match):
        engines.check_table(table)
    with pytest.raises(ValueError, match=match):
        engines.Engine(table)


# -- what tables can say --------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(tables.PRESENT))
def test_what_engines_compute_passes(engines: Any, name: str) -> None:
    table = tables.PRESENT[name]()
    engines.check_table(table.write())
    engine = engines.Engine(table.write())
    assert engine.n_params == table.flow["n_params"]
    assert engine.dim == table.flow["dim"]


@pytest.mark.parametrize("name", list(tables.FUTURE))
def test_what_is_to_come_passes_the_checker_and_is_refused_by_its_name(engines: Any, name: str) -> None:
    make, part = tables.FUTURE[name]
    engines.check_table(make().write())
    with pytest.raises(ValueError, match=f"^this engine does not compute ({part})"):
        engines.Engine(make().write())


@pytest.mark.parametrize(
    ("column", "changes", "message"),
    [
        (0, {"ends": 0, "lo": NONE}, "COLUMNS 0: ends are not those of its map"),
        (0, {"ends": 3, "hi": 1}, "COLUMNS 0: ends are not those of its map"),
        (2, {"ends": 1, "hi": NONE}, "COLUMNS 2: ends are not those of its map"),
        (0, {"n_buffers": 0}, "COLUMNS 0: n_buffers"),
        (2, {"n_buffers": 1, "buffers": 10}, "COLUMNS 2: n_buffers"),
        (0, {"kind": 2, "ends": 3, "hi": 1}, "COLUMNS 0: kind"),
        (2, {"lo": 2, "hi": 1}, "COLUMNS 2: hi is not above lo"),
        (2, {"hi": 1}, "COLUMNS 2: hi is not above lo"),
        (2, {"hi": 3}, "COLUMNS 2: hi is not finite"),
        (2, {"lo": 4, "hi": 5}, "COLUMNS 2: hi is not above lo"),
        (0, {"lo": 6}, "COLUMNS 0: lo is not finite"),
    ],
)
def test_a_support_needs_its_ends(engines: Any, column: int, changes: dict[str, int], message: str) -> None:
    table = tables.supported()
    table.reals[3:3] = [float("inf"), -1e308, 1e308, float("nan")]
    for part in table.parts:
        part["options"] += 4
    engines.check_table(table.write())
    table.columns[column] |= changes
    refused(engines, table.write(), f"^plan table: {message}")


# In the table ``grouped``: see there.
GROUPS_BROKEN: list[tuple[int, dict[str, int], str]] = [
    (0, {"group": 1}, "COLUMNS 0: group is not of its map"),
    (9, {"group": 1}, "COLUMNS 9: group is not of its map"),
    (1, {"group": 11}, "COLUMNS 1: group is 11, expected -1 to 10"),
    (1, {"group": 0}, "COLUMNS 1: group names a column of another group"),
    (1, {"group": 9}, "COLUMNS 1: group names a column of another group"),
    (1, {"group": 5}, "COLUMNS 1: group names a column of another group"),
    (1, {"group": 4}, "COLUMNS 1: group names a column of another group"),
    (3, {"group": 2}, "COLUMNS 3: group names a column of another group"),
    (1, {"group": 1}, "COLUMNS: a group without a first column"),
    (4, {"group": 3}, "COLUMNS: a group without a first column"),
    (2, {"group": 1, "n_buffers": 1}, "COLUMNS: a group without a first column"),
    (4, {"group": 4}, "COLUMNS 4: group names a column that another one follows"),
    (6, {"group": NONE}, ""),
    (6, {"lo": 3}, "COLUMNS 6: hi is not above lo"),
    (6, {"lo": 9}, "COLUMNS 6: group names a column of another group"),
    (6, {"closed": 1}, "COLUMNS 6: closed is 1, not 0"),
    (6, {"ends": 2, "lo": NONE}, "COLUMNS 6: n_buffers is 0, not 1"),
    (6, {"n_buffers": 1}, "COLUMNS 6: n_buffers is 1, not 0"),
    (2, {"n_buffers": 1}, "COLUMNS 2: n_buffers is 1, not 0"),
    (1, {"n_buffers": 0}, "COLUMNS 1: n_buffers is 0, not 1"),
    (8, {"n_buffers": 0}, "COLUMNS 8: n_buffers is 0, not 1"),
    (3, {"n_buffers": 1}, "COLUMNS 3: n_buffers is 1, not 0"),
    (3, {"ends": 1, "lo": 0}, "COLUMNS 3: ends is 1, not 0"),
    (4, {"features": 1}, "COLUMNS 4: features is 1, not 0"),
    (4, {"kind": 1, "ends": 3, "lo": 0, "hi": 1}, "COLUMNS 4: map is not of its kind"),
]


@pytest.mark.parametrize(("column", "changes", "message"), GROUPS_BROKEN)
def test_a_group_names_the_columns_before(engines: Any, column: int, changes: dict[str, int], message: str) -> None:
    table = tables.grouped()
    at = table.put_reals([0.5])
    changes = {key: at if (key, value) == ("lo", 9) else value for key, value in changes.items()}
    table.columns[column] |= changes
    if message:
        refused(engines, table.write(), f"^plan table: {message}")
    else:  # two groups of one
        engines.Engine(table.write())


# In the table ``kinded``: columns line, circle, box, line, circle; networks of a coupling, which reads a line and a circle, and
# of an autoregressive step, which reads circle, box, line, circle; blocks normal, uniform of circles, uniform of boxes.
KINDS_BROKEN: list[tuple[str, int, dict[str, int], str]] = [
    ("COLUMNS", 1, {"map": 0}, "COLUMNS 1: map is not of its kind"),
    ("COLUMNS", 1, {"map": 3}, "COLUMNS 1: map is not of its kind"),
    ("COLUMNS", 1, {"kind": 0}, "COLUMNS 1: map is not of its kind"),
    ("COLUMNS", 1, {"kind": 2}, "COLUMNS 1: map is not of its kind"),
    ("COLUMNS", 1, {"map": 2}, "COLUMNS 1: kind is 1, not 0"),
    ("COLUMNS", 1, {"features": 0}, "COLUMNS 1: features is 0, not 1"),
    ("COLUMNS", 1, {"closed": 1}, "COLUMNS 1: closed is 1, not 0"),
    ("COLUMNS", 1, {"n_buffers": 2, "buffers": 0}, "COLUMNS 1: n_buffers is 2, not 0"),
    ("COLUMNS", 1, {"ends": 1, "hi": NONE}, "COLUMNS 1: ends must be both"),
    ("COLUMNS", 2, {"map": 0}, "COLUMNS 2: map is not of its kind"),
    ("COLUMNS", 2, {"map": 4}, "COLUMNS 2: map is not of its kind"),
    ("COLUMNS", 2, {"kind": 0}, "COLUMNS 2: map is not of its kind"),
    ("COLUMNS", 2, {"kind": 1}, "COLUMNS 2: map is not of its kind"),
    ("COLUMNS", 2, {"map": 2}, "COLUMNS 2: kind is 2, not 0"),
    ("COLUMNS", 2, {"features": 1}, "COLUMNS 2: features is 1, not 0"),
    ("COLUMNS", 2, {"n_buffers": 1}, "COLUMNS 2: n_buffers is 1, not 2"),
    ("COLUMNS", 2, {"n_buffers": 0}, "COLUMNS 2: n_buffers is 0, not 2"),
    ("COLUMNS", 2, {"ends": 1, "hi": NONE, "closed": 0}, "COLUMNS 2: ends must be both"),
    ("COLUMNS", 0, {"map": 4}, "COLUMNS 0: map is not of its kind"),
    ("COLUMNS", 0, {"map": 3}, "COLUMNS 0: map is not of its kind"),
    ("COLUMNS", 0, {"features": 1}, "COLUMNS 0: features is 1, not 0"),
    ("COLUMNS", 5, {"features": 1}, "COLUMNS 5: features is 1, not 0"),
    ("NETWORKS", 0, {"n_in": 4}, "NETWORKS 0: n_in is 4, not 5"),
    ("NETWORKS", 1, {"n_in": 6}, "NETWORKS 1: n_in is 6, not 8"),
    ("BASE", 1, {"source": 0}, "BASE 1: source is not one that its kind may have"),
    ("BASE", 1, {"n_options": 1}, "BASE 1: n_options is 1, not 2"),
    ("BASE", 1, {"n_options": 0}, "BASE 1: n_options is 0, not 2"),
    ("BASE", 1, {"n_params": 2}, "BASE 1: n_params is 2, not 0"),
    ("BASE", 2, {"kind": 0}, "BASE 2: n_options is 2, not 0"),
]


# In the table ``conditioned``: columns 2 to 6 of the context are half-line, circle, line, box, interval; the embedding reads six
# features.
CONTEXTS_BROKEN: list[tuple[str, int, dict[str, int], str]] = [
    ("COLUMNS", 2, {"n_buffers": 0}, "COLUMNS 2: n_buffers is 0, not 1"),
    ("COLUMNS", 2, {"ends": 0, "hi": NONE}, "COLUMNS 2: ends are not those of its map"),
    ("COLUMNS", 3, {"features": 0}, "COLUMNS 3: features is 0, not 1"),
    ("COLUMNS", 3, {"map": 0}, "COLUMNS 3: map is not of its kind"),
    ("COLUMNS", 4, {"features": 1}, "COLUMNS 4: features is 1, not 0"),
    ("COLUMNS", 5, {"kind": 0}, "COLUMNS 5: map is not of its kind"),
    ("COLUMNS", 5, {"n_buffers": 1}, "COLUMNS 5: n_buffers is 1, not 2"),
    ("COLUMNS", 6, {"hi": 0}, "COLUMNS 6: hi is not above lo"),
    ("NETWORKS", 1, {"n_in": 5}, "NETWORKS 1: n_in is 5, not 6"),
    ("NETWORKS", 1, {"n_context": 5}, "NETWORKS 1: n_context is 5, expected 0 or 6"),
]


@pytest.mark.parametrize(("section", "number", "changes", "message"), CONTEXTS_BROKEN)
def test_a_column_of_the_context_needs_the_same(
    engines: Any, section: str, number: int, changes: dict[str, int], message: str
) -> None:
    table = tables.conditioned()
    getattr(table, section.lower())[number] |= changes
    refused(engines, table.write(), f"^plan table: {message}")


@pytest.mark.parametrize(("section", "number", "changes", "message"), KINDS_BROKEN)
def test_a_kind_needs_its_map_and_its_features(
    engines: Any, section: str, number: int, changes: dict[str, int], message: str
) -> None:
    table = tables.kinded()
    getattr(table, section.lower())[number] |= changes
    refused(engines, table.write(), f"^plan table: {message}")


@pytest.mark.parametrize("ends", [(1.0, 1.0), (2.0, -2.0), (float("nan"), 1.0), (0.0, float("inf")), (-1e308, 1e308)])
def test_the_ends_of_kinds_and_of_a_uniform_base_are_in_order(engines: Any, ends: tuple[float, float]) -> None:
    for section, number, field, message in (
        ("columns", 1, "lo", "COLUMNS 1: (lo is not finite|hi is not finite|hi is not above lo)"),
        ("columns", 2, "lo", "COLUMNS 2: (lo is not finite|hi is not finite|hi is not above lo)"),
        ("base", 1, "options", "BASE 1: options are not two ends in order"),
    ):
        table = tables.kinded()
        at = getattr(table, section)[number][field]
        table.reals[at : at + 2] = ends
        refused(engines, table.write(), f"^plan table: {message}")


def test_both_features_of_a_circle_have_its_degree(engines: Any) -> None:
    """The first dimension in the order of the autoregressive step is a circle, and the highest degree is that of the fourth."""
    first, last = tables.kinded().linears[2:4]
    for at, value, message in (
        (first["in_degrees"] + 2, 0, "LINEARS 2: in_degrees are not those of its source"),
        (first["in_degrees"] + 3, 2, "LINEARS 2: in_degrees are not those of its source"),
        (first["in_degrees"] + 7, 5, "LINEARS 2: in_degrees are not those of its source"),
        (first["out_degrees"] + 5, 5, "LINEARS 2: out_degrees must lie within 0 to 4"),
        (last["out_degrees"], 1, "LINEARS 3: out_degrees are not those of theta"),
    ):
        table = tables.kinded()
        table.ints[at] = value
        refused(engines, table.write(), f"^plan table: {message}")


# Under a base on the line a flow cannot have circles.
FLOWS = [case for case in CASES if "circular" not in case.name]


@pytest.mark.parametrize("case", FLOWS, ids=lambda case: case.name)
def test_the_compiler_of_specs_writes_what_engines_compute(engines: Any, case: Any) -> None:
    table = bare(built(case, engines.name, "float32"))._plan.table
    engines.check_table(table)
    engines.Engine(table)


def test_a_table_is_read_as_it_was_written() -> None:
    table = tables.everything()
    again = plan_table.read(table.write())
    assert np.array_equal(again.write(), table.write())


# -- broken tables --------------------------------------------------------------------------------

HIGH = 2**62
LOW = -(2**63)


def _set(section: str, number: int, **fields: int) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        records = table.flow if section == "FLOW" else getattr(table, section.lower())[number]
        assert set(fields) <= set(FIELDS[section])
        records |= fields

    return change


def _int(section: str, number: int, field: str, value: int, at: int = 0) -> Callable[[Table], None]:
    """Another value in a list of integers."""

    def change(table: Table) -> None:
        table.ints[getattr(table, section.lower())[number][field] + at] = value

    return change


def _real(section: str, number: int, field: str, value: float) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        table.reals[getattr(table, section.lower())[number][field]] = value

    return change


def _slot(row: int, i: int, value: int) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        table.boundary[row] = [*table.boundary[row]]
        table.boundary[row][i] = value  # type: ignore[index]

    return change


def _less(section: str) -> Callable[[Table], None]:
    return lambda table: getattr(table, section.lower()).pop()


def _more(section: str) -> Callable[[Table], None]:
    def change(table: Table) -> None:
        records = getattr(table, section.lower())
        records.append(records[-1])

    return change


# In the table ``everything``: steps 0 affine, 1 permutation, 2 coupling, 3 LU, 4 external, 5 autoregressive, 6 of the
# context, 7 external, 8 columns; parts of steps 0, 2, 4, 5, 6, 7; networks of steps 2, 5, 6 and the embedding; linear
# layers 0-2, 3-5, 6-7, 8-9.
CODES = [
    ("COLUMNS", "kind"), ("COLUMNS", "map"), ("COLUMNS", "features"), ("BASE", "kind"), ("BASE", "source"),
    ("STEPS", "kind"), ("STEPS", "explicit"), ("PARTS", "transform"), ("PARTS", "source"), ("NETWORKS", "role"),
    ("LINEARS", "activation_before"), ("LINEARS", "activation"), ("LINEARS", "skip"),
]  # fmt: skip
# Section, number, field, another value, and what the message names instead of the field, if anything.
FIELDS_BROKEN: list[tuple[str, int, str, int, str]] = [
    *((section, 0, field, value, "") for section, field in CODES for value in (-1, 99, HIGH, LOW)),
    ("FLOW", 0, "dim", 0, "FLOW 0: dim|BOUNDARY"),
    ("FLOW", 0, "dim", 2**24 + 1, "FLOW 0: dim|BOUNDARY"),
    ("FLOW", 0, "context_dim", -1, ""),
    ("FLOW", 0, "context_dim", 2**20 + 1, ""),
    ("FLOW", 0, "context_dim", 1, "COLUMNS: 5 records, expected 4"),
    ("FLOW", 0, "n_params", 2**40, ""),
    ("FLOW", 0, "n_params", 10, "STEPS 2: n_params goes beyond"),
    ("FLOW", 0, "n_buffers", 2**40, ""),
    ("FLOW", 0, "n_buffers", 11, "COLUMNS: buffers"),
    ("FLOW", 0, "n_buffers", 9, "COLUMNS 4: scale"),
    ("FLOW", 0, "dtype", 2, ""),
    ("FLOW", 0, "conditioner_dtype", 4, ""),
    ("FLOW", 0, "embedding", 4, ""),
    ("FLOW", 0, "embedding", 2, "NETWORKS 0: n_context|FLOW 0: embedding"),
    ("FLOW", 0, "embedding", NONE, "NETWORKS 0: n_context"),
    ("COLUMNS", 3, "side", 0, ""),
    ("COLUMNS", 0, "ends", 4, ""),
    ("COLUMNS", 0, "ends", 1, "COLUMNS 0: lo"),
    ("COLUMNS", 0, "lo", 0, ""),
    ("COLUMNS", 0, "hi", 0, ""),
    ("COLUMNS", 0, "closed", 1, ""),
    ("COLUMNS", 0, "kind", 1, "COLUMNS 0: ends must be both"),
    ("COLUMNS", 0, "kind", 2, "COLUMNS 0: ends must be both"),
    ("COLUMNS", 0, "lattice", HIGH, ""),
    ("COLUMNS", 0, "group", 5, ""),
    ("COLUMNS", 0, "loc", 10, ""),
    ("COLUMNS", 0, "loc", NONE, "COLUMNS 0: scale"),
    ("COLUMNS", 0, "loc", 3, "COLUMNS: buffers are claimed twice"),
    ("COLUMNS", 0, "buffers", -1, ""),
    ("COLUMNS", 0, "n_buffers", 11, ""),
    ("COLUMNS", 0, "n_buffers", 1, "COLUMNS: buffers are claimed twice"),
    ("BASE", 0, "n_dims", 2, "BASE: blocks must hold every dimension"),
    ("BASE", 0, "n_dims", 4, ""),
    ("BASE", 0, "dims", HIGH, ""),
    ("BASE", 0, "source", 0, ""),
    ("BASE", 0, "source", 2, "BASE 0: source cannot be external"),
    ("BASE", 0, "n_options", 1, "BASE 0: (options|n_options)"),
    ("BASE", 0, "options", LOW, ""),
    ("BASE", 0, "n_params", 1, ""),
    ("BASE", 0, "network", 0, ""),
    ("STEPS", 0, "kind", 3, ""),
    ("STEPS", 8, "kind", 0, ""),
    ("STEPS", 0, "params", 1, ""),
    ("STEPS", 2, "n_params", 5, ""),
    ("STEPS", 0, "n_b", 0, ""),
    ("STEPS", 0, "n_b", 4, ""),
    ("STEPS", 0, "n_b", 2, "PARTS 0: n_members"),
    ("STEPS", 0, "b", HIGH, ""),
    ("STEPS", 0, "b", -1, ""),
    ("STEPS", 0, "n_a", -1, ""),
    ("STEPS", 0, "n_a", 1, "STEPS 0: (b|n_a)"),
    ("STEPS", 2, "n_a", 0, ""),
    ("STEPS", 2, "a", HIGH, ""),
    ("STEPS", 0, "n_parts", 0, ""),
    ("STEPS", 0, "n_parts", 7, ""),
    ("STEPS", 0, "n_parts", 2, "PARTS 1"),
    ("STEPS", 0, "part", 1, ""),
    ("STEPS", 0, "network", 0, ""),
    ("STEPS", 0, "kind", 2, "STEPS 0: n_a"),
    ("STEPS", 2, "network", NONE, ""),
    ("STEPS", 2, "network", 1, ""),
    ("STEPS", 0, "order", 1, ""),
    ("STEPS", 0, "signs", 1, ""),
    ("STEPS", 1, "explicit", 1, ""),
    ("STEPS", 1, "part", 1, ""),
    ("STEPS", 1, "n_parts", 1, ""),
    ("STEPS", 1, "network", 0, ""),
    ("STEPS", 1, "n_params", 1, ""),
    ("STEPS", 8, "n_b", 3, ""),
    ("STEPS", 3, "order", HIGH, ""),
    ("STEPS", 3, "signs", HIGH, ""),
    ("STEPS", 3, "n_parts", 1, ""),
    ("STEPS", 3, "network", 0, ""),
    ("STEPS", 3, "n_params", 11, ""),
    ("STEPS", 3, "n_b", 2, "STEPS 3: (order|n_params)"),
    ("STEPS", 5, "kind", 2, "STEPS 5: n_a"),
    ("PARTS", 0, "transform", 5, ""),
    ("PARTS", 0, "n_theta", 3, ""),
    ("PARTS", 0, "n_options", 0, ""),
    ("PARTS", 0, "options", HIGH, ""),
    ("PARTS", 0, "n_members", 2, "STEPS 0: b|PARTS 0: (theta|n_params)"),
    ("PARTS", 0, "n_members", 0, ""),
    ("PARTS", 0, "members", HIGH, ""),
    ("PARTS", 0, "theta", HIGH, ""),
    ("PARTS", 0, "source", 3, ""),
    ("PARTS", 0, "source", 2, "PARTS 0: (params|n_params)"),
    ("PARTS", 0, "params", 1, "STEPS 0: params"),
    ("PARTS", 0, "n_params", 5, ""),
    ("PARTS", 0, "external", 0, ""),
    ("PARTS", 1, "params", 6, ""),
    ("PARTS", 1, "source", 0, "PARTS 1: n_params"),
    ("PARTS", 2, "external", 1, ""),
    ("PARTS", 5, "external", 2, ""),
    ("PARTS", 5, "external", 0, "PARTS: theta of external array 0"),
    ("PARTS", 3, "source", 2, "PARTS 3: (source|external)"),
    ("NETWORKS", 0, "role", 1, ""),
    ("NETWORKS", 3, "role", 0, ""),
    ("NETWORKS", 0, "masked", 1, ""),
    ("NETWORKS", 1, "masked", 0, ""),
    ("NETWORKS", 0, "n_context", 2, ""),
    ("NETWORKS", 3, "n_context", 0, "NETWORKS 3: n_in"),
    ("NETWORKS", 0, "n_in", 4, ""),
    ("NETWORKS", 0, "n_out", 21, ""),
    ("NETWORKS", 0, "n_linears", 0, ""),
    ("NETWORKS", 0, "n_linears", 2, "LINEARS 1: n_out"),
    ("NETWORKS", 0, "n_linears", 99, ""),
    ("NETWORKS", 1, "linear", 0, ""),
    ("NETWORKS", 0, "params", 0, ""),
    ("NETWORKS", 0, "n_params", 5, ""),
    ("NETWORKS", 3, "n_out", 2**20 + 1, ""),
    ("LINEARS", 0, "n_in", 0, ""),
    ("LINEARS", 0, "n_in", 2**20 + 1, ""),
    ("LINEARS", 0, "n_in", 4, ""),
    ("LINEARS", 0, "n_out", 2**20 + 1, ""),
    ("LINEARS", 0, "n_out", 4, "LINEARS 1: n_in"),
    ("LINEARS", 2, "n_out", 2**24 + 1, ""),
    ("LINEARS", 2, "n_out", 21, ""),
    ("LINEARS", 0, "weight", 7, "NETWORKS 0: params"),
    ("LINEARS", 0, "weight", LOW, "NETWORKS 0: params|LINEARS 0: weight"),
    ("LINEARS", 0, "bias", -2, ""),
    ("LINEARS", 0, "bias", 6, "NETWORKS 0: params"),
    ("LINEARS", 0, "bias", NONE, "NETWORKS 0: (params|n_params)"),
    ("LINEARS", 0, "source", 0, ""),
    ("LINEARS", 1, "source", 1, ""),
    ("LINEARS", 1, "source", -4, ""),
    ("LINEARS", 0, "source", -3, "LINEARS 0: n_in"),
    ("LINEARS", 2, "activation", 1, ""),
    ("LINEARS", 1, "skip", 0, "LINEARS 1: skip_source"),
    ("LINEARS", 1, "skip_source", 1, ""),
    ("LINEARS", 2, "skip", 1, "LINEARS 2: skip_source"),
    ("LINEARS", 2, "skip_source", 1, ""),
    ("LINEARS", 2, "gate", 1, ""),
    ("LINEARS", 1, "gate", 1, ""),
    ("LINEARS", 0, "in_degrees", 0, ""),
    ("LINEARS", 0, "out_degrees", 0, ""),
    ("LINEARS", 3, "in_degrees", NONE, ""),
    ("LINEARS", 3, "in_degrees", 0, ""),
    ("LINEARS", 3, "out_degrees", HIGH, ""),
    ("LINEARS", 5, "out_degrees", 0, ""),
    ("RANGES", 0, "offset", 1, ""),
    ("RANGES", 1, "count", -1, ""),
    ("RANGES", 1, "count", HIGH, ""),
    ("RANGES", 1, "count", 3, "RANGES 2: offset"),
    ("RANGES", 0, "flags", 4, ""),
]
# What is wrong with a list or a whole section, and what the message says.
LISTS_BROKEN: dict[str, tuple[Callable[[Table], Any], str]] = {
    "a slot twice": (_slot(3, 0, 1), "BOUNDARY 3"),
    "no slot": (_slot(3, 0, 3), "BOUNDARY 3"),
    "a slot below zero": (_slot(3, 0, LOW), "BOUNDARY 3"),
    "no steps": (lambda table: table.steps.clear(), "STEPS: no records"),
    "a boundary less": (_less("BOUNDARY"), "BOUNDARY: 9 records"),
    "a column less": (_less("COLUMNS"), "COLUMNS: 4 records"),
    "a part less": (_less("PARTS"), "STEPS 7: (part|n_parts)"),
    "a part more": (_more("PARTS"), "PARTS: 7 records"),
    "a network less": (_less("NETWORKS"), "FLOW 0: embedding"),
    "a network more": (_more("NETWORKS"), "NETWORKS: 5 records"),
    "a linear less": (_less("LINEARS"), "NETWORKS 3: n_linears"),
    "a linear more": (_more("LINEARS"), "LINEARS: 11 records"),
    "a range less": (_less("RANGES"), "RANGES: they end at"),
    "a range more": (_more("RANGES"), "RANGES [0-9]+: offset"),
    "a block less": (_less("BASE"), "BASE: blocks"),
    "a block more": (_more("BASE"), "BASE: blocks"),
    "no dimension": (_int("BASE", 0, "dims", 3), "BASE: blocks"),
    "a slot of B twice": (_int("STEPS", 0, "b", 1), "STEPS 0: b"),
    "a slot of B and A": (_int("STEPS", 2, "b", 0), "STEPS 2: b"),
    "no slot of A": (_int("STEPS", 2, "a", HIGH), "STEPS 2: b"),
    "a row of an LU layer twice": (_int("STEPS", 3, "order", 0), "STEPS 3: order"),
    "a sign of 0": (_int("STEPS", 3, "signs", 0), "STEPS 3: signs"),
    "a sign of 2": (_int("STEPS", 3, "signs", 2), "STEPS 3: signs"),
    "the least sign": (_int("STEPS", 3, "signs", LOW), "STEPS 3: signs"),
    "a member twice": (_int("PARTS", 0, "members", 1), "PARTS 0: members|STEPS 0: b"),
    "no member": (_int("PARTS", 0, "members", 3), "PARTS 0: members"),
    "theta twice": (_int("PARTS", 0, "theta", 2), "PARTS 0: theta"),
    "theta beyond its source": (_int("PARTS", 0, "theta", 6), "PARTS 0: theta"),
    "theta below zero": (_int("PARTS", 0, "theta", LOW), "PARTS 0: theta"),
    "theta of a network twice": (_int("PARTS", 1, "theta", 11), "STEPS 2: network"),
    "theta of a network beyond it": (_int("PARTS", 1, "theta", HIGH), "STEPS 2: network|PARTS 1: theta"),
    "external theta twice": (_int("PARTS", 2, "theta", 1), "PARTS: theta of external array 0"),
    "a gap in external theta": (_int("PARTS", 5, "theta", 7), "PARTS: theta of external array 1"),
    "bins": (_real("PARTS", 1, "options", 5.0), "PARTS 1: n_theta"),
    "a bin": (_real("PARTS", 1, "options", 1.0), "PARTS 1: options"),
    "too many bins": (_real("PARTS", 1, "options", 65.0), "PARTS 1: options"),
    "half a bin": (_real("PARTS", 1, "options", 4.5), "PARTS 1: options"),
    "bins that are no number": (_real("PARTS", 1, "options", float("nan")), "PARTS 1: options"),
    "endless bins": (_real("PARTS", 1, "options", float("inf")), "PARTS 1: options"),
    "degrees of the input": (_int("LINEARS", 3, "in_degrees", 1), "LINEARS 3: in_degrees"),
    "a degree of a hidden unit": (_int("LINEARS", 3, "out_degrees", 3), "LINEARS 3: out_degrees"),
    "a degree below zero": (_int("LINEARS", 3, "out_degrees", LOW), "LINEARS 3: out_degrees"),
    "degrees of theta": (_int("LINEARS", 5, "out_degrees", 1), "LINEARS 5: out_degrees"),
    "a skip to lower degrees": (_int("LINEARS", 4, "out_degrees", 0, at=3), "LINEARS [45]: (skip_source|in_degrees)"),
    "widths before any sum": (
        lambda table: [linear.update(n_out=2**24) for linear in table.linears[3:5]],
        "LINEARS 3: n_out",
    ),
    "weights without end": (
        lambda table: table.linears[2].update(n_out=2**24, n_in=2**20),
        "LINEARS [0-9]: n_(in|out)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("section", "number", "field", "value", "message"),
    FIELDS_BROKEN,
    ids=[f"{section}-{number}-{field}={value}" for section, number, field, value, _ in FIELDS_BROKEN],
)
def test_a_field_out_of_place_is_refused(
    engines: Any, section: str, number: int, field: str, value: int, message: str
) -> None:
    table = tables.everything()
    _set(section, number, **{field: value})(table)
    if section == "FLOW" and field == "dim":  # which the writer needs to write boundaries
        words = tables.everything().write()
        words[at(words, "FLOW")] = value
    else:
        words = table.write()
    refused(engines, words, f"^plan table: ({message or f'{section} {number}: {field}'})")


@pytest.mark.parametrize("name", list(LISTS_BROKEN))
def test_a_list_out_of_place_is_refused(engines: Any, name: str) -> None:
    change, message = LISTS_BROKEN[name]
    table = tables.everything()
    change(table)
    refused(engines, table.write(), f"^plan table: ({message})")


@pytest.mark.parametrize("section", [name for name in FIELDS if FIELDS[name]])
def test_every_field_is_bounded(engines: Any, section: str) -> None:
    """No field may be as large, or as small, as a number can be; neither in the first record nor in the last."""
    n_records = 1 if section == "FLOW" else len(getattr(tables.everything(), section.lower()))
    for number in {0, n_records - 1}:
        for i in range(len(FIELDS[section])):
            for value in (HIGH, LOW, 2**63 - 1):
                words = tables.everything().write()
                words[at(words, section, number) + i] = value
                with pytest.raises(ValueError, match=r"^plan table: "):
                    engines.check_table(words)


def verdict(check: Callable[[Array], Any], words: Array) -> str:
    """What is at fault; nothing if all is well."""
    try:
        check(words)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend alone")
def test_the_backends_give_the_same_verdicts() -> None:
    """Of tables in which one to three words were replaced by strange or by other ones."""
    one, other = (importlib.import_module(MODULES[backend]) for backend in ("cpp", "numba"))
    draw = np.random.default_rng(5)
    strange = [0, 1, -1, 2, -2, -3, 64, 2**20, 2**24, 2**40, HIGH, 2**63 - 1, LOW]
    seeds = [make().write() for make, _ in tables.FUTURE.values()]
    seeds += [make().write() for make in tables.PRESENT.values()]
    passed = 0
    for _ in range(2000):
        words = seeds[draw.integers(len(seeds))].copy()
        for i in draw.integers(words.size, size=draw.integers(1, 4)):
            words[i] = draw.choice(strange) if draw.random() < 0.5 else words[draw.integers(words.size)]
        found = verdict(one.check_table, words)
        again = verdict(other.check_table, words)
        assert (found == "") == (again == ""), (found, again)
        if not found:
            passed += 1
            computed, computed_again = verdict(one.Engine, words), verdict(other.Engine, words)
            assert computed == computed_again
    assert passed > 20


# -- header, directory, sections ------------------------------------------------------------------


def at(words: Array, section: str, number: int = 0) -> int:
    """Where a record begins."""
    entry = HEADER_SIZE + ENTRY_SIZE * (TAGS[section] - 1)
    return int(words[entry + 2] + number * words[entry + 4])


ENTRY = HEADER_SIZE + ENTRY_SIZE * (TAGS["STEPS"] - 1)
WORDS_BROKEN = [
    (0, 1, "this is none"),
    (1, 1, "version 1, this build reads version 2"),
    (1, 3, "version 3, this build reads version 2"),
    (2, 0, "revision is 0"),
    (3, 100, "its header says length 100"),
    (4, -1, "-1 sections"),
    (4, 10**6, "1000000 sections"),
    (4, 10, "BOUNDARY|REALS|[A-Z]+ does not follow"),
    (5, 1, "a reserved word of the header"),
    (6, 1, "a reserved word of the header"),
    (7, 1, "a reserved word of the header"),
    (ENTRY, 99, "section 99 is required and unknown to this build"),
    (ENTRY, TAGS["BASE"], "BASE comes twice"),
    (ENTRY, HIGH, f"section {HIGH} is required and unknown to this build"),
    (ENTRY, LOW, f"section {LOW} is required and unknown to this build"),
    (ENTRY + 1, 0, "STEPS must be required"),
    (ENTRY + 1, 2, "STEPS: required must be 0 or 1"),
    (ENTRY + 2, 8, "STEPS does not follow"),
    (ENTRY + 2, LOW, "STEPS does not follow"),
    (ENTRY + 3, -1, "STEPS: -1 records"),
    (ENTRY + 3, HIGH, f"STEPS: {HIGH} records"),
    (ENTRY + 3, 7, "PARTS does not follow"),
    (ENTRY + 4, 0, "STEPS: 9 records of 0 words"),
    (ENTRY + 4, 4097, "STEPS: 9 records of 4097 words"),
    (ENTRY + 4, 12, "STEPS: a record has 12 words|PARTS does not follow"),
    (ENTRY + 5, 1, "STEPS: required must be 0 or 1, and the reserved word 0"),
]


@pytest.mark.parametrize(("word", "value", "message"), WORDS_BROKEN)
def test_a_broken_header_or_directory_is_refused(engines: Any, word: int, value: int, message: str) -> None:
    words = tables.everything().write()
    words[word] = value
    refused(engines, words, f"^plan table: ({message})")


def test_truncated_tables_are_refused(engines: Any) -> None:
    words = tables.everything().write()
    for n in range(len(words)):
        cut = words[:n].copy()
        refused(engines, cut, "^plan table: ")
        if n > 3:
            cut[3] = n
            refused(engines, cut, "^plan table: ")


def test_numbers_behind_the_last_section_are_refused(engines: Any) -> None:
    words = np.append(tables.everything().write(), 0)
    words[3] += 1
    refused(engines, words, "^plan table: sections end at")


@pytest.mark.parametrize("table", [[1, 2], np.zeros((2, 30), np.int64), np.zeros(60), np.zeros(60, np.int32)])
def test_other_arrays_are_refused(engines: Any, table: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        engines.check_table(table)


def test_an_unknown_section_is_ignored_unless_it_is_required(engines: Any) -> None:
    optional = tables.everything().write(extra=[(12, 0, [[1, 2, 3], [4, 5, 6]]), (99, 0, [])])
    engines.check_table(optional)
    engines.Engine(optional)
    required = tables.everything().write(extra=[(12, 1, [[1, 2, 3]])])
    refused(engines, required, "^plan table: section 12 is required and unknown to this build")
    twice = tables.everything().write(extra=[(12, 0, [[1]]), (12, 0, [[1]])])
    refused(engines, twice, "^plan table: section 12 comes twice")


@pytest.mark.parametrize("section", list(FIELDS))
def test_every_known_section_must_be_there(engines: Any, section: str) -> None:
    words = tables.everything().write()
    entry = HEADER_SIZE + ENTRY_SIZE * (TAGS[section] - 1)
    words[entry : entry + 2] = 50, 0
    words[entry + 4] = min(words[entry + 4], 4096)
    refused(engines, words, f"^plan table: {section} is missing")


@pytest.mark.parametrize("section", [name for name in FIELDS if FIELDS[name]])
def test_words_beyond_the_known_fields_are_zero(engines: Any, section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = tables.everything().write()
    for i in range(len(FIELDS[section]), plan_table.RECORD_SIZES[section]):
        changed = words.copy()
        changed[at(words, section) + i] = 1
        refused(engines, changed, f"^plan table: {section}.*unknown fields")
    # longer records are those of a later revision that says nothing new here
    monkeypatch.setitem(plan_table.RECORD_SIZES, section, plan_table.RECORD_SIZES[section] + 5)
    longer = tables.everything().write()
    assert longer.size > words.size
    engines.check_table(longer)
    engines.Engine(longer)


def test_any_revision_is_read(engines: Any) -> None:
    words = tables.everything().write()
    words[2] = 1000
    engines.Engine(words)


def test_a_snapshot_of_another_table_is_refused(engines: Any) -> None:
    first, second = tables.Maker(3), tables.Maker(3)
    first.elementwise("additive")
    second.part("additive", range(3))
    second.step("elementwise", (0, 2, 1), 1, 0)
    one, other = (engines.Engine(maker.finish().write()) for maker in (first, second))
    assert (one.n_params, one.n_buffers) == (other.n_params, other.n_buffers)
    packed = other.pack(np.zeros(3), np.ones(6))
    with pytest.raises(ValueError, match="same plan"):
        one.sample(packed, 0, 0, 0, None, np.zeros((1, 3)), None)


@pytest.mark.skipif("cpp" not in BACKENDS, reason="the other engines have no masks")
def test_masks_take_no_more_memory_than_a_table_is_long() -> None:
    """5000 layers that share lists of degrees: a table of a megabyte whose masks would take 160."""
    maker = tables.Maker(2000)
    theta = [j for j in range(2000) for _ in range(2)]
    inputs = list(range(1, 2000))
    start, degrees = maker.n_params, maker.table.put([0])
    number = maker.network(
        "conditioner", 1999, [{"n_out": 1}] * 5000 + [{"n_out": 4000}], [inputs, *[[0]] * 5000, theta]
    )
    for linear in maker.table.linears[1:-1]:
        linear |= {"in_degrees": degrees, "out_degrees": degrees}
    maker.part("affine", range(2000), "network")
    maker.step("autoregressive", range(2000), 1, start, network=number)
    table = maker.finish().write()
    engines = importlib.import_module(MODULES["cpp"])
    engines.check_table(table)
    with pytest.raises(ValueError, match="this engine does not compute masks of this size"):
        engines.Engine(table)


# -- codes ----------------------------------------------------------------------------------------


def test_the_codes_of_cpp_are_those_of_python() -> None:
    done = subprocess.run([sys.executable, ROOT / "cpp/core/codes.py"], capture_output=True, text=True, check=True)
    assert done.stdout == (ROOT / "cpp/core/codes.hpp").read_text()
