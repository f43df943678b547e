"""AArch64: the library, built by a cross compiler and run by an emulator, gives the bits of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from c_cases import GRAD_CONTEXT, LOG_PROB, LOG_PROB_AND_GRAD, ROWS, TO_DATA, TO_LATENT, VALUES, Calls, far
from cases import BACKENDS
from helpers import HERE, ROOT

TRIPLET = "aarch64-linux-gnu"
TOOLS = (f"{TRIPLET}-gcc", f"{TRIPLET}-g++", "qemu-aarch64", "cmake")
MISSING = [name for name in TOOLS if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"there is no {', '.join(MISSING)}"),
    pytest.mark.skipif(platform.machine() in ("aarch64", "arm64"), reason="this machine is one itself"),
    pytest.mark.skipif("cpp" not in BACKENDS, reason="the bits are those of the compiled backend"),
]


@pytest.fixture(scope="module")
def agree(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The program of ``tests/c/agree.c``, statically linked, and how it is run."""
    build = tmp_path_factory.mktemp("aarch64")
    settings = [
        "-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={TRIPLET}-g++",
        "-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O2",
    ]  # fmt: skip
    subprocess.run(["cmake", "-S", ROOT, "-B", build, *settings], check=True)
    subprocess.run(
        ["cmake", "--build", build, "--parallel", str(os.cpu_count()), "--target", "penstock_static"], check=True
    )
    program = build / "agree"
    command = [f"{TRIPLET}-gcc", "-std=c99", "-O1", f"-I{ROOT / 'cpp' / 'include'}", HERE / "c" / "agree.c"]
    command += [build / "libpenstock.a", "-static", "-lstdc++", "-lm", "-pthread", "-o", program]
    subprocess.run(command, check=True)
    return ["qemu-aarch64", str(program)]


N = 70  # more than a tile


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_processors_give_the_same_bits(dtype: str, tmp_path: Path, agree: list[str]) -> None:
    source = np.random.default_rng(5)
    flows = [
        ps.realnvp(3, layers=2, hidden=(9,), context_dim=2, dtype=dtype, rng=1),
        ps.nsf(2, layers=2, hidden=(8, 8), support={0: "positive"}, dtype=dtype, rng=2),
        ps.nsf_ar(3, layers=2, hidden=(10,), dtype=dtype, rng=3),
    ]
    calls = Calls(tmp_path)
    for k, flow in enumerate(flows):
        flow.params = flow._plan.clear_masked((flow.params + source.standard_normal(flow.n_params)).astype(dtype))
        calls.add_model(flow)
        context = source.standard_normal((N, 2)).astype(dtype) if flow.context_dim else None
        x = np.abs(source.standard_normal((N, flow.dim))).astype(dtype)
        for rows in (x, far(x), x[:1]):
            given = None if context is None else context[: len(rows)]
            grads = VALUES | ROWS | (0 if context is None else GRAD_CONTEXT)
            calls.rows(LOG_PROB, rows, given, wanted=VALUES, label=f"flow {k}")
            calls.rows(LOG_PROB_AND_GRAD, rows, given, wanted=grads, label=f"flow {k}")
            calls.rows(TO_LATENT, rows, given, wanted=VALUES | ROWS, label=f"flow {k}")
            calls.rows(TO_DATA, rows, given, wanted=VALUES | ROWS, label=f"flow {k}")
        calls.sample(N, context, dtype, seed=4, first=7, first_context=0, label=f"flow {k}")
    calls.write()
    subprocess.run([*agree, str(tmp_path)], check=True)
    assert calls.compare() > 5_000
