"""The programs of examples/embed, each built by its own CMake file and run against an answer that is known."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from helpers import ROOT
from penstock.cli.config import installation

EMBED = ROOT / "examples" / "embed"


@dataclass
class Example:
    """A folder: a script that writes the model, and a program that CMake builds of the languages' compilers and that takes it."""

    folder: str
    script: list[str]
    program: str
    arguments: list[str]  # behind the model
    check: Callable[[str], None]  # of what is printed; a program that checks itself ends with 1
    compiler: tuple[str, str] = ("CXX", "c++")  # as the environment may name it, and its name
    # Environments and arguments that change nothing: the same is printed, and the same files are left.
    again: list[tuple[dict[str, str], list[str]]] = field(default_factory=list)


def words(line: str) -> dict[str, float]:
    """The numbers of a line, by the words before them."""
    return {name: float(number) for name, number in re.findall(r"(\w+) (-?[\d.]+(?:e[-+]\d+)?)", line)}


def integral_of_one(printed: str) -> None:
    """Within four of its errors, which is small for so few calls."""
    last = words(printed.splitlines()[-1])
    assert last["calls"] == 200_000
    assert abs(last["integral"] - 1) < 4 * last["error"]
    assert last["error"] < 0.002


def weights_of_mean_one(printed: str) -> None:
    """Within four errors, as the program checks; the flow is close to what it was trained for."""
    found = words(printed)
    assert found["events"] == 20_000
    assert abs(found["mean_weight"] - 1) < 4 * found["error"]
    assert found["effective"] > 0.8
    assert math.isfinite(found["microseconds"])


def moments_of_the_target(printed: str) -> None:
    """Ten moments each, within five errors, which are small; and a good part of what is proposed is accepted."""
    independence, langevin = printed.split("Langevin steps")
    for part, acceptance, error in ((independence, 0.55, 0.01), (langevin, 0.5, 0.05)):
        assert float(re.findall(r"acceptance ([\d.]+)", part)[0]) > acceptance
        found = re.findall(r"E \S+ +(-?[\d.]+) \+- ([\d.]+) +truth +(-?[\d.]+)", part)
        assert len(found) == 10
        for mean, own, truth in (map(float, numbers) for numbers in found):
            assert own < error
            assert abs(mean - truth) < 5 * own


def stationary_law(printed: str) -> None:
    """Means within a tenth of a standard deviation, variances within a tenth, in each quarter of the cells."""
    rows = [[float(number) for number in line.split()] for line in printed.splitlines()[1:]]
    assert [row[0] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        (mean_t, mean_q), (law_t, law_q) = row[1:5:2], row[2:5:2]
        deviation = math.sqrt(row[6])
        assert abs(mean_t - law_t) < 0.1 * deviation
        assert abs(mean_q - law_q) < 0.1 * deviation
        for found, law in zip(row[5::2], row[6::2], strict=True):
            assert abs(found / law - 1) < 0.1


def bits_of_python(printed: str) -> None:
    """As the program compares them."""
    assert printed.endswith("the same bits as Python's\n")


EXAMPLES = [
    Example(
        "cpp_integrator",
        ["make_model.py"],
        "integrate",
        ["200000", "1", "2"],
        integral_of_one,
        again=[({}, ["200000", "1", "1"])],  # threads
    ),
    Example("cpp_event_loop", ["train.py"], "event_loop", ["20000", "1"], weights_of_mean_one),
    Example("c_sampler", ["train.py"], "sampler", [], moments_of_the_target, ("CC", "cc")),
    Example(
        "fortran_model",
        ["train.py"],
        "model",
        ["2000", "300", "100", "state.bin"],
        stationary_law,
        ("FC", "gfortran"),
        [
            ({"OMP_NUM_THREADS": threads}, ["2000", "300", block, "state.bin"])
            for threads, block in (("1", "100"), ("4", "100"), ("1", "37"), ("4", "37"))
        ],
    ),
    Example("rust", ["train.py"], "flow", [], bits_of_python, ("RUSTC", "rustc")),
]


def missing(example: Example) -> str:
    """What the example cannot be built without here."""
    variable, usual = example.compiler
    compiler = os.environ.get(variable, usual)
    for tool in ("cmake", compiler.split()[0]):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    try:
        installation()
    except ImportError as error:
        return str(error)
    return ""


def ran(program: Path, model: Path, arguments: list[str], folder: Path, variables: dict[str, str]) -> str:
    """What the program prints, run in a new folder."""
    folder.mkdir()
    environment = {**os.environ, **variables}
    run = subprocess.run([program, model, *arguments], capture_output=True, text=True, cwd=folder, env=environment)
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stderr
    return run.stdout


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.folder)
def test_an_embedded_flow_gives_the_answer(example: Example, tmp_path: Path) -> None:
    if without := missing(example):
        pytest.skip(without)
    source, build, model = EMBED / example.folder, tmp_path / "build", tmp_path / "model.safetensors"
    script, *options = example.script
    subprocess.run([sys.executable, source / script, *options, model], check=True)
    found = f"-Dpenstock_DIR={installation()['cmakedir']}"
    subprocess.run(["cmake", "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release", found], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    folder = tmp_path / "first"
    printed = ran(build / example.program, model, example.arguments, folder, {})
    example.check(printed)
    assert set(files_of(folder)) == {name for name in example.arguments if name.endswith(".bin")}
    for k, (variables, arguments) in enumerate(example.again):
        other = tmp_path / str(k)
        assert ran(build / example.program, model, arguments, other, variables) == printed
        assert files_of(other) == files_of(folder)
