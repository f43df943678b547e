"""The gate on machine code reads loops, names and resources, knows how many blocks fit, and tells what got worse."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "sass_gate.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree")

MANGLED = "_ZN8penstock13device_affine15kernel_evaluateIfEEvNS_4cuda8EvaluateIT_EE"
LOG = f"""
ptxas info    : Compiling entry function '{MANGLED}' for 'sm_90'
ptxas info    : Function properties for {MANGLED}
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 100 registers, used 1 barriers, 48 bytes cumulative stack size
ptxas info    : Function properties for _ZN8penstock13device_affine9load_rowsEv
    8 bytes stack frame, 2 bytes spill stores, 2 bytes spill loads
"""


def line(words: str) -> str:
    return f"        /*00a0*/              {words} ;"


def machine_code() -> str:
    """A loop of 32 products into 16 numbers, with one in it that brings weights and does not multiply."""
    products = [line(f"FFMA R{40 + i % 16}, R1, R2, R{40 + i % 16}") for i in range(32)]
    lines = [
        f'\t.section\t.text.{MANGLED},"ax",@progbits',
        line("LDC R1, c[0x0][0x28]"),
        ".L_x_1:",
        *products[:16],
        ".L_x_2:",
        line("LDG.E R9, desc[UR4][R2.64]"),
        line("@!P0 BRA `(.L_x_2)"),
        *products[16:],
        *[line("LDS.128 R4, [R3]")] * 4,
        line("@P1 BRA `(.L_x_1)"),
        line("@P2 BRA `(.L_x_3)"),
        line("CALL.REL.NOINC `(f)"),
        ".L_x_3:",
        line("EXIT"),
    ]
    return "\n" + "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def gate() -> Any:
    spec = importlib.util.spec_from_file_location("sass_gate", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sass_gate"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_a_kernel_is_read(gate: Any) -> None:
    found = gate.kernels(machine_code(), LOG)
    own = found["evaluate float32"]
    assert (own["registers"], own["spill_bytes"], own["stack_bytes"], own["barriers"]) == (100, 16, 48, 1)
    assert (own["calls"], own["code_bytes"]) == (1, 16 * 43)
    loop = own["loops"]["4"]
    assert (loop["fma"], loop["instructions"], loop["all_instructions"], loop["loops_within"]) == (32, 37, 39, 1)
    assert (loop["lds"], loop["ldg"], loop["share"]) == (4, 1, round(32 / 37, 4))


@pytest.mark.parametrize(("fma", "loads"), [("FFMA", 1), ("DFMA", 2)])
@pytest.mark.parametrize("strip", [4, 8, 16])
@pytest.mark.parametrize("inputs", [1, 4])
def test_strips_are_told_by_products_where_sums_change_their_registers(
    gate: Any, fma: str, loads: int, strip: int, inputs: int
) -> None:
    n = 4 * strip
    products = [line(f"{fma} R{40 + i % n + n * (i // n % 2)}, R1, R2, R{40 + i % n}") for i in range(inputs * n)]
    rows = [line("LD.E.128 R4, desc[UR4][R2.64]")] * (inputs * loads)
    code = ["", *rows, *products, line("@P1 BRA `(.L_x_1)")]
    lines, labels = gate.instructions("\n".join([".L_x_1:", *code]))
    assert [loop["strip"] for loop in gate.product_loops(lines, labels, fma)] == [str(strip)]


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        (MANGLED, "evaluate float32"),
        ("_ZN8penstock11device_sums18kernel_linear_sumsIdEEvNS_4cuda10LinearSumsIT_EE", "linear_sums float64"),
        ("_ZN8penstock11device_sums13kernel_decideENS_4cuda6DecideE", "decide"),
        ("_ZN8penstock11device_sums9load_rowsIffEEv", ""),
    ],
)
def test_names_of_kernels_are_read(gate: Any, symbol: str, name: str) -> None:
    assert gate.kernel_name(symbol) == name


@pytest.mark.parametrize(
    ("registers", "threads", "shared", "card", "blocks"),  # as cuda_occupancy.h has them
    [(168, 128, 0, "H100", 3), (168, 128, 102400, "H100", 2), (24, 32, 0, "H100", 32), (255, 64, 16396, "RTX 4090", 4)],
)
def test_blocks_on_a_multiprocessor(
    gate: Any, registers: int, threads: int, shared: int, card: str, blocks: int
) -> None:
    assert gate.blocks_at_once(registers, threads, shared, card) == blocks


def test_what_got_worse_is_told(gate: Any) -> None:
    met = {"registers": 100, "spill_bytes": 0, "stack_bytes": 0, "loops": {"16": {"share": 0.9}, "4": {"share": 0.7}}}
    now = {"device_affine": {"evaluate float32": met}}
    record = {"kernels": copy.deepcopy(now), "unmet": gate.unmet(now)}
    assert record["unmet"] == {"device_affine evaluate float32": {"share of strips of 4": 0.7}}
    assert gate.complaints(now, record) == []

    def told(**changes: Any) -> list[str]:
        worse = copy.deepcopy(now)
        own = worse["device_affine"]["evaluate float32"]
        own["loops"].update(changes.pop("loops", {}))
        own.update(changes)
        return [text.partition(": ")[2] for text in gate.complaints(worse, record)]

    assert told(registers=104) == []
    assert told(registers=105) == ["registers is 105, and was 100"]
    assert told(registers=169) == ["registers is 169, and the bar is 168"]
    assert told(spill_bytes=4) == ["spill_bytes is 4, and the bar is 0"]
    assert told(loops={"16": {"share": 0.885}}) == []
    assert told(loops={"16": {"share": 0.875}}) == ["share of strips of 16 is 0.875, and was 0.9"]
    assert told(loops={"16": {"share": 0.8}}) == ["share of strips of 16 is 0.8, and the bar is 0.87"]
    assert told(loops={"4": {"share": 0.69}}) == ["share of strips of 4 is 0.69, and was 0.7 (bar: 0.75)"]
    assert told(loops={"4": {"share": 0.8}}) == []
    lost = copy.deepcopy(now)
    del lost["device_affine"]["evaluate float32"]["loops"]["16"]
    assert [text.partition(": ")[2] for text in gate.complaints(lost, record)] == ["share of strips of 16 is gone"]


def test_flags_are_those_of_the_build(gate: Any) -> None:
    made = {build.name: build.options for build in gate.builds("sm_90")}
    assert {"device_affine", "device_every", "device_sums"} <= made.keys()
    for name, options in made.items():
        assert "-fmad=false" in options
        assert {f"-DPENSTOCK_ISA={name}", "-DPENSTOCK_CUDA_EMULATED=0", "-arch=sm_90"} <= set(options)
        assert any(option.startswith("-DPENSTOCK_PARTS=(") for option in options) == (
            name not in ("device_every", "device_sums")
        )
