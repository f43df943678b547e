"""The C++ header over the C library. That it computes the same bits is in test_c.py."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from test_c import CXX, HERE, LIBRARY, MODELS, compiled, include

pytestmark = pytest.mark.skipif(
    LIBRARY is None or CXX is None,
    reason="there is no C library in this build" if LIBRARY is None else "there is no C++ compiler",
)
# The one in use, and others that are installed here.
COMPILERS = dict.fromkeys(path for path in (CXX, *map(shutil.which, ("g++", "clang++", "clang++-19"))) if path)
STANDARDS = ("c++17", "c++20")


@pytest.mark.parametrize("standard", STANDARDS)
def test_the_header_does_what_it_says(standard: str, tmp_path: Path) -> None:
    program = compiled(HERE / "c" / "objects.cpp", tmp_path / "objects", f"-std={standard}")
    subprocess.run([program, MODELS], check=True)


@pytest.mark.parametrize("standard", STANDARDS)
@pytest.mark.parametrize("compiler", COMPILERS, ids=lambda path: Path(path).name)
def test_the_header_is_clean(compiler: str, standard: str, tmp_path: Path) -> None:
    """Twice in a file, all of it in use, with every warning an error."""
    source = tmp_path / "header.cpp"
    source.write_text(f'#include "penstock/penstock.hpp"\n#include "{HERE / "c" / "objects.cpp"}"\n')
    strict = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Wold-style-cast", "-Werror")
    command = [compiler, f"-std={standard}", *strict, f"-I{include()}", "-fsyntax-only", str(source)]
    subprocess.run(command, check=True)
