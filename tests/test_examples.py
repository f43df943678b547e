"""The examples run, short, and leave their pictures."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT

SHORT = {
    "two_moons": ["--simulations", "400", "--epochs", "1", "--draws", "100", "--check", "40"],
    "photo_z": ["--epochs", "1"],
    "photo_z_calibration": ["--epochs", "2", "--train", "6000"],
    "eight_schools": ["--epochs", "2", "--draws", "2000"],
    "neutron_stars": ["--epochs", "1", "--draws", "2000"],
    "ramachandran": ["--epochs", "1"],
    "cities": ["--epochs", "1"],
}
PICTURES = {
    "eight_schools": "eight-schools.png",
    "neutron_stars": "neutron-stars.png",
    "ramachandran": "ramachandran.png",
    "cities": "cities.png",
    "two_moons": "two-moons.png",
    "photo_z": "photo-z.png",
    "photo_z_calibration": "photo-z-calibration.png",
}


def test_every_example_has_a_short_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SHORT) == set(PICTURES)


def test_the_job_from_a_simulator_to_a_checked_posterior_is_short() -> None:
    tree = ast.parse((ROOT / "examples" / "two_moons.py").read_text())
    [job] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "job"]
    assert "check" in ast.unparse(job)
    assert len(ast.unparse(job).splitlines()) <= 12


@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs_and_draws(name: str, tmp_path: Path) -> None:
    script = ROOT / "examples" / f"{name}.py"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, str(script), "-o", str(tmp_path), *SHORT[name]],
        capture_output=True,
        text=True,
        timeout=300,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    assert "nan" not in done.stdout
    assert (tmp_path / PICTURES[name]).stat().st_size > 10_000
