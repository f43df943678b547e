"""The examples run, short, and leave their pictures."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from helpers import ROOT, python_json

SHORT = {
    "two_moons": ["--simulations", "400", "--epochs", "1", "--draws", "100", "--check", "40"],
    "photo_z": ["--epochs", "1"],
    "photo_z_calibration": ["--epochs", "2", "--train", "6000"],
    "overconfidence": ["--simulations", "400", "--epochs", "1", "--check", "40"],
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
    "overconfidence": "overconfidence.png",
    "photo_z_calibration": "photo-z-calibration.png",
}


def test_every_example_has_a_short_run() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(SHORT) == set(PICTURES)


# One process for all: what they import takes longer than they run. Each writes into a folder of its own.
RUN = """if True:
    import contextlib, io, json, runpy, sys, traceback
    found = {}
    for script, arguments in json.loads(sys.argv[1]):
        out, sys.argv = io.StringIO(), [script, *arguments]
        try:
            with contextlib.redirect_stdout(out):
                runpy.run_path(script, run_name="__main__")
            error = ""
        except SystemExit as end:
            error = "" if not end.code else str(end.code)
        except BaseException:
            error = traceback.format_exc()
        found[script] = [out.getvalue(), error]
    print(json.dumps(found))
"""


def path_of(name: str) -> Path:
    return ROOT / "examples" / f"{name}.py"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of the pictures, and what each example printed and which error ended it."""
    folder = tmp_path_factory.mktemp("pictures")
    calls = [(str(path_of(name)), ["-o", str(folder / name), *short]) for name, short in SHORT.items()]
    for name in SHORT:
        (folder / name).mkdir()
    return folder, python_json(RUN, json.dumps(calls))


def test_the_job_from_a_simulator_to_a_checked_posterior_is_short() -> None:
    tree = ast.parse((ROOT / "examples" / "two_moons.py").read_text())
    [job] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "job"]
    assert "check" in ast.unparse(job)
    assert len(ast.unparse(job).splitlines()) <= 12


@pytest.mark.parametrize("name", SHORT)
def test_an_example_runs_and_draws(name: str, ran: tuple[Path, Any]) -> None:
    folder, found = ran
    out, error = found[str(path_of(name))]
    assert error == ""
    assert out
    assert "nan" not in out
    assert (folder / name / PICTURES[name]).stat().st_size > 10_000
