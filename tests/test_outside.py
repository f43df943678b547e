"""The first programs of docs/outside.md, in C, C++ and Fortran, print what they are said to print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from helpers import ROOT
from test_c import COMPILER, CXX, FORTRAN, LIBRARY, compiled, compiled_fortran

PAGE = (ROOT / "docs" / "outside.md").read_text()
SOURCES = {"c": (COMPILER, "program.c"), "cpp": (CXX, "program.cpp"), "fortran": (FORTRAN, "program.f90")}


def block(language: str) -> str:
    """The first one of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the block in Python has left its model."""
    folder = tmp_path_factory.mktemp("outside")
    environment = {**os.environ, "PYTHONPATH": str(Path(ps.__file__).parent.parent)}
    subprocess.run(
        [sys.executable, "-c", block("python")], check=True, cwd=folder, env=environment, capture_output=True
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("language", SOURCES)
def test_the_first_program_prints_the_first_row(language: str, folder: Path) -> None:
    compiler, name = SOURCES[language]
    if LIBRARY is None or compiler is None:
        pytest.skip("there is no C library in this build" if LIBRARY is None else f"there is no compiler of {language}")
    source = folder / name
    source.write_text(block(language))
    program = (compiled_fortran if language == "fortran" else compiled)(source, folder / language)
    printed = subprocess.run([program], check=True, cwd=folder, capture_output=True, text=True).stdout
    x, log_p = ps.load(folder / "banana.safetensors").sample_and_log_prob(1000, rng=1)
    np.testing.assert_allclose([float(word) for word in printed.split()], [*x[0], log_p[0]], rtol=1e-5)
