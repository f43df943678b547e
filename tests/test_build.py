"""Flags of the environment cannot make wrong numbers: they are undone, and where they are not, the compiler refuses."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMPILER = os.environ.get("CXX") or shutil.which("c++")

needs_a_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


@needs_a_compiler
@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ("", False),
        ("-ffast-math", True),
        ("-Ofast", True),
        ("-ffinite-math-only", True),
        ("-frounding-math", True),
        ("-ffast-math -fno-fast-math", False),
    ],
)
def test_the_kernels_refuse_another_arithmetic(flags: str, refused: bool, tmp_path: Path) -> None:
    source = tmp_path / "source.cpp"
    source.write_text('#include "core/scalar.hpp"\n')
    command = [
        str(COMPILER),
        "-std=c++20",
        "-fsyntax-only",
        f"-I{ROOT / 'cpp'}",
        "-DPENSTOCK_ISA=any",
        *flags.split(),
        source,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode != 0) == refused, done.stderr
    assert ("flag changes the arithmetic" in done.stderr) == refused


@pytest.mark.slow
@needs_a_compiler
@pytest.mark.skipif(shutil.which("cmake") is None, reason="no CMake")
def test_a_build_under_hostile_flags_computes_the_right_numbers(tmp_path: Path) -> None:
    flags = "-Ofast -mno-fma -frounding-math -ffp-contract=fast"
    environment = {**os.environ, "CXXFLAGS": flags, "LDFLAGS": "-ffast-math"}
    settings = ["-DPENSTOCK_MODULE=OFF", "-DPENSTOCK_TESTS=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    subprocess.run(["cmake", "-S", ROOT, "-B", tmp_path, *settings], check=True, env=environment)
    targets = ["test_dispatch", "test_math"] if os.uname().machine == "x86_64" else ["test_dispatch"]
    subprocess.run(["cmake", "--build", tmp_path, "--target", *targets], check=True, env=environment)
    for target in targets:
        program = tmp_path / "tests" / "cpp" / target
        subprocess.run([program], check=True)
        symbols = subprocess.run(["nm", program], check=True, capture_output=True, text=True).stdout
        assert "set_fast_math" not in symbols  # what -ffast-math adds to a program: denormals become zero everywhere
