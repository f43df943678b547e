"""What README and the guides print runs as printed, and what they promise is what CI calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, CASES, Case, built, latents, points
from helpers import ROOT, assert_close, both_dtypes, python, row_size

README = ROOT / "README.md"
FORMAT = ROOT / "docs" / "file-format.md"
TRAINING = ROOT / "docs" / "training.md"
GUIDE = ROOT / "docs" / "guide.md"


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language in a Markdown file."""
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.M | re.S)


PRINTED = blocks(README, "python") + blocks(GUIDE, "python")
# One process for all, which imports once: each block has names and a folder of its own.
RUN = """if True:
    import contextlib, io, json, os, sys, traceback, warnings
    import penstock
    # Whether the tail of some weights is heavy is a matter of the last bits, which are those of the processor.
    warnings.filterwarnings("ignore", category=penstock.TargetWarning)
    found = []
    for block, folder in json.loads(sys.argv[1]):
        os.chdir(folder)
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
                exec(compile(block, "block.py", "exec"), {"__name__": "__main__"})
        except BaseException:
            said.write(traceback.format_exc())
        found.append(said.getvalue())
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each block wrote to standard error, its traceback included."""
    calls = [(block, str(tmp_path_factory.mktemp("block"))) for block in PRINTED]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN, json.dumps(calls)], capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(ps.__file__).parent.parent)},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    found: list[str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("number", range(len(PRINTED)))
def test_the_python_of_readme_and_guide_runs_as_printed(number: int, said: list[str]) -> None:
    assert said[number] == "", PRINTED[number]


def test_the_python_of_the_page_on_training_runs_as_printed(tmp_path: Path) -> None:
    code = "\n".join(blocks(TRAINING, "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(ps.__file__).parent.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert ps.load(tmp_path / "model.safetensors").initialised


def test_the_readme_has_python_to_run() -> None:
    assert blocks(README, "python")


# The other cases meet the reader's evaluator as the reference of all backends.
READ = [
    case
    for case in CASES
    if case.kind == "transform" or case.name in ("mixed_layers", "embedding", "nsf_ar_given", "nsf")
]


@pytest.mark.parametrize("case", READ, ids=lambda case: case.name)
@both_dtypes
def test_the_reader_in_the_file_formats_description_agrees(case: Case, dtype: str, tmp_path: Path) -> None:
    [code] = blocks(FORMAT, "python")
    reader: dict[str, Any] = {}
    exec(code, reader)
    flow = built(case, BACKENDS[0], dtype)
    flow.save(tmp_path / "flow.safetensors")
    spec, tensors = reader["read"](tmp_path / "flow.safetensors")
    x, z = points(case, 100, flow), latents(case, 100, flow.dim, dtype)
    context = flow.context if case.conditional else None
    for rows, name in ((x, "to_latent"), (z, "to_data")):
        want, want_log_det = reader[name](spec, tensors, rows.astype(np.float64), context)
        out, log_det = getattr(flow, name)(rows)
        size = np.maximum(row_size(want), row_size(rows))
        assert_close(out, want, case.ulps, dtype, scale=size)
        assert_close(log_det, want_log_det, case.ulps, dtype, scale=size[:, 0])
    want = reader["log_prob"](spec, tensors, x.astype(np.float64), context)
    assert_close(flow.log_prob(x), want, case.ulps, dtype, scale=row_size(x)[:, 0])


def test_ci_calls_the_test_command_of_the_readme_verbatim() -> None:
    commands = [line for block in blocks(README, "sh") for line in block.splitlines() if "pytest" in line]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()
    assert commands[0].startswith("python3 -m venv .venv && .venv/bin/pip install '.[test]' && ")


def test_the_readme_is_short() -> None:
    text = README.read_text()
    assert len(text.split()) < 970
    assert text.count("![") == 1


def test_every_public_name_in_readme_and_guide_exists() -> None:
    text = README.read_text() + GUIDE.read_text()
    for name in set(re.findall(r"\bps\.(\w+)", text)):
        assert hasattr(ps, name), f"ps.{name}"
    flow = ps.realnvp(2)
    # Of a flow that was never fitted: history is then an empty record.
    for name in set(re.findall(r"\bflow\.(\w+)", text)) - {"py"}:
        assert hasattr(flow, name), f"flow.{name}"


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    pages = (README, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", ROOT / "cpp" / "README.md")
    for path in (*pages, *ROOT.glob("docs/*.md")):
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)  # code has brackets of its own
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
            if not re.match(r"\w+:", target):
                assert (path.parent / target).exists(), f"{path.name} -> {target}"


def test_the_figures_of_the_readme_are_those_of_the_results() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_info_names_version_and_engine() -> None:
    out = python("import sys; from penstock.cli import main; sys.exit(main(['info']))").stdout
    assert ps.__version__ in out
    assert "backend: " in out
    assert "backend: none" not in out


def test_the_package_is_the_command() -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "info"], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert ps.__version__ in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "paint"], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "paint" in done.stderr


def test_info_tells_about_a_file_and_refuses_a_bad_one(tmp_path: Path) -> None:
    path = tmp_path / "flow.safetensors"
    ps.realnvp(3, rng=0).save(path)
    code = "import sys; from penstock.cli import main; sys.exit(main(['info', sys.argv[1]]))"
    assert "dim 3" in python(code, str(path)).stdout
    path.write_bytes(b"nothing")
    done = python(code, str(path), check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "flow.safetensors" in done.stderr
