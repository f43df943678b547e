"""How tests start ranks: where ``mpirun`` is, and in what environment. Who imports it is skipped where there is none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

import penstock as ps
from helpers import door

door("mpi4py")

# Of a wheel it lies beside the interpreter.
MPIRUN = shutil.which("mpirun", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
if MPIRUN is None:
    if os.environ.get("PENSTOCK_DOORS") == "1":
        raise RuntimeError("there is no mpirun")
    pytest.skip("there is no mpirun", allow_module_level=True)


def command(n: int, *words: str | Path) -> list[str]:
    """What runs Python with these arguments on n ranks."""
    return [str(MPIRUN), "-n", str(n), sys.executable, *map(str, words)]


def environment() -> dict[str, str]:
    """For ranks: the package that is tested, and a thread each."""
    path = os.pathsep.join([str(Path(ps.__file__).parent.parent), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PENSTOCK_NUM_THREADS": "1"}
