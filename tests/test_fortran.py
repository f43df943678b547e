"""The Fortran module over the C library. That it computes the same bits is in test_c.py."""

from __future__ import annotations

import re
import resource
import subprocess
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from c_cases import GRAD_CONTEXT, LOG_PROB_AND_GRAD, ROWS, TO_DATA, TO_LATENT, VALUES, Calls
from helpers import ROOT
from test_c import FORTRAN, HERE, LIBRARY, MODELS, compiled_fortran, include

needs_fortran = pytest.mark.skipif(
    LIBRARY is None or FORTRAN is None,
    reason="there is no C library in this build" if LIBRARY is None else "there is no Fortran compiler",
)
LENIENT = ("-Wno-compare-reals", "-Wno-function-elimination")  # the checks compare bits
SOURCE = ROOT / "cpp" / "include" / "penstock" / "penstock.f90"


@needs_fortran
def test_the_module_does_what_it_says(tmp_path: Path) -> None:
    program = compiled_fortran(HERE / "c" / "objects.f90", tmp_path / "objects", *LENIENT)
    ran = subprocess.run([program, MODELS], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    ended = subprocess.run([program, MODELS, "end"], capture_output=True, text=True)
    assert ended.returncode != 0
    assert not ended.stdout
    assert ended.stderr.startswith("penstock: ")
    assert "nothing.safetensors" in ended.stderr.splitlines()[0]


@needs_fortran
def test_the_end_of_a_scope_frees(tmp_path: Path) -> None:
    program = compiled_fortran(HERE / "c" / "objects.f90", tmp_path / "objects", *LENIENT)
    little = 32 * 2**20  # a few models; 3000 would need several times that
    limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (little, little))  # noqa: E731
    ran = subprocess.run([program, MODELS, "many"], capture_output=True, text=True, preexec_fn=limit)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@needs_fortran
def test_the_module_copies_no_array(tmp_path: Path) -> None:
    """-fcheck=array-temps tells of each one on standard error."""
    calls = Calls(tmp_path)
    flow = ps.nsf(3, layers=2, hidden=(8,), context_dim=2, rng=0, backend="cpp")
    x = np.random.default_rng(0).normal(size=(9, 3))
    context = x[:, :2].copy()
    calls.add_model(flow)
    for given in (context, context[0]):
        calls.rows(LOG_PROB_AND_GRAD, x, given, wanted=VALUES | ROWS | GRAD_CONTEXT, label="", pad=2, out_pad=1)
        calls.rows(TO_LATENT, x, given, wanted=VALUES | ROWS, label="", out_pad=1)
        calls.rows(TO_DATA, x, given, wanted=ROWS, label="", pad=1)
        calls.sample(9, given, "float32", seed=1, first=0, first_context=0, label="", out_pad=1)
    calls.write()
    program = compiled_fortran(HERE / "c" / "agree.f90", tmp_path / "agree")
    ran = subprocess.run([program, tmp_path], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    calls.compare()


@needs_fortran
@pytest.mark.parametrize("flags", [("-std=f2008",), ("-std=f2018", "-O3", "-fopenmp")], ids=" ".join)
def test_the_module_is_clean(flags: tuple[str, ...], tmp_path: Path) -> None:
    strict = ("-Wall", "-Wextra", "-pedantic", "-Werror", f"-J{tmp_path}", "-c", "-o", tmp_path / "o")
    subprocess.run([str(FORTRAN), *flags, *strict, include() / "penstock" / "penstock.f90"], check=True)


def test_procedures_of_real32_are_those_of_real64() -> None:
    _, wide, narrow = re.split(r"  ! --- real(?:64|32) -+\n", SOURCE.read_text())
    wide = wide.replace("_64", "_32").replace("real64", "real32").replace("bits = 64", "bits = 32")
    assert wide.strip() == narrow.removesuffix("end module penstock\n").strip()


def test_the_module_binds_all_of_the_header() -> None:
    source, header = SOURCE.read_text(), SOURCE.with_name("penstock.h").read_text()
    declared = set(re.findall(r"PENSTOCK_API [^;(]*?(penstock_\w+)\(", header))
    assert len(declared) > 30
    assert set(re.findall(r"bind\(c, name='(penstock_\w+)'\)", source)) == declared - {"penstock_abi"}
    statuses = re.findall(r"(PENSTOCK_(?:OK|ERROR_\w+)) = (\d+)", header)
    assert re.findall(r"(penstock_(?:ok|error_\w+)) = (\d+)", source) == [
        (name.lower(), number) for name, number in statuses
    ]
