"""How ``backend="cuda"`` is chosen and refused: names, what is installed, versions, devices. Needs no device."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest

import penstock as ps
from cases import BACKENDS
from helpers import ROOT, python
from penstock import _backend

# What stands for the module of the other distribution.
STAND_IN = """
version = {version!r}
name = "cuda"
def unavailable(device):
    return "" if device < 2 else f"there is no device {{device}} here: there are 2, counted from 0"
def device_name(device): return f"card {{device}}"
def device(): return 0
def set_device(device): pass
def set_num_threads(n): pass
def set_local_num_threads(n): pass
"""
CLEAN = {"PENSTOCK_BACKEND": "", "PENSTOCK_ISA": "", "PENSTOCK_CUDA_EMULATE": ""}
BUILD = """if True:
    import sys
    sys.path.insert(0, sys.argv[1])
    import penstock as ps
    flow = ps.realnvp(2, rng=0, backend=sys.argv[2])
    print(flow.backend, "|", repr(flow._backend), "|", flow._backend.described())
    print("_cuda" in str(sorted(sys.modules)))
"""


@pytest.fixture
def distribution(tmp_path: Path) -> Path:
    """A folder with a stand-in for the module, of the version of the package."""
    package = tmp_path / "penstock_cuda13"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "_cuda.py").write_text(STAND_IN.format(version=_backend.package_version()))
    return tmp_path


def told(folder: Path, name: str = "cuda", **env: str) -> str:
    """The last line of an attempt to make a flow."""
    done = python(BUILD, str(folder), name, env={**CLEAN, **env}, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr.strip().splitlines()[-1]


def made(folder: Path, name: str = "cuda", **env: str) -> list[str]:
    """What a flow says of its backend."""
    lines = python(BUILD, str(folder), name, env={**CLEAN, **env}).stdout.splitlines()
    return [part.strip() for part in lines[0].split("|")]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", "backend must be one of 'auto', 'cpp', 'numba', 'cuda', got 'gpu'"),
        ("cuda:", "backend must be 'cuda:' and the number of a device, counted from 0, got 'cuda:'"),
        ("cuda:x", "got 'cuda:x'"),
        ("cuda:-1", "got 'cuda:-1'"),
        ("cuda:\u0661", "the number of a device"),
        ("CUDA", "got 'CUDA'"),
        ("cuda0", "got 'cuda0'"),
        (0, "got 0"),
        (None, "got None"),
    ],
    ids=lambda value: "" if isinstance(value, str) and " " in value else repr(value),
)
def test_names_that_are_none_are_refused(name: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ps.realnvp(2, backend=name)
    with pytest.raises(ValueError, match=words):
        ps.realnvp(2, rng=0).to(name)


def test_the_variable_is_named_where_its_value_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_BACKEND", "cuda:y")
    with pytest.raises(ValueError, match="PENSTOCK_BACKEND must be 'cuda:' and the number"):
        ps.realnvp(2)


@pytest.mark.skipif(importlib.util.find_spec("penstock_cuda13") is not None, reason="the module is installed")
def test_what_is_missing_is_told(tmp_path: Path) -> None:
    words = "the module for NVIDIA GPUs is not installed; pip install penstock-cuda13"
    assert told(tmp_path) == f"ImportError: backend='cuda': {words}"
    assert told(tmp_path, "cuda:1") == f"ImportError: backend='cuda:1': {words}"
    assert told(tmp_path, "auto", PENSTOCK_BACKEND="cuda") == f"ImportError: PENSTOCK_BACKEND=cuda: {words}"


def test_a_module_that_is_installed_is_taken_by_name_alone(distribution: Path) -> None:
    assert made(distribution) == ["cuda", "cuda (card 0)", "the cuda backend on card 0"]
    assert made(distribution, "cuda:1") == ["cuda:1", "cuda:1 (card 1)", "the cuda:1 backend on card 1"]
    assert made(distribution, "cuda:0")[0] == "cuda"
    assert made(distribution, "auto", PENSTOCK_BACKEND="cuda:1")[0] == "cuda:1"
    assert made(distribution, BACKENDS[0], PENSTOCK_BACKEND="cuda")[0] == BACKENDS[0]
    lines = python(BUILD, str(distribution), "auto", env=CLEAN).stdout.splitlines()
    assert lines[0].split()[0] in ("cpp", "numba")
    assert lines[1] == "False"  # not even imported


def test_a_device_that_is_not_there_is_an_error(distribution: Path) -> None:
    words = "there is no device 2 here: there are 2, counted from 0"
    assert told(distribution, "cuda:2") == f"ImportError: backend='cuda:2': {words}"
    module = distribution / "penstock_cuda13" / "_cuda.py"
    module.write_text(module.read_text() + "\ndef unavailable(device): return 'no NVIDIA driver or GPU here'\n")
    assert told(distribution) == "ImportError: backend='cuda': no NVIDIA driver or GPU here"


def test_a_module_of_another_version_is_refused(distribution: Path) -> None:
    (distribution / "penstock_cuda13" / "_cuda.py").write_text(STAND_IN.format(version="0.0.0.stale"))
    code = "import penstock._backend as b; b.package_version = lambda: '9.9.9'\n" + BUILD.replace("if True:", "if 1:")
    done = python(code, str(distribution), "cuda", env=CLEAN, check=False)
    assert done.stderr.strip().splitlines()[-1] == (
        "ImportError: backend='cuda': penstock_cuda13._cuda is of penstock 0.0.0.stale, but the package is 9.9.9: "
        "pip install penstock-cuda13==9.9.9"
    )


def test_a_broken_module_raises_and_nothing_falls_back(distribution: Path) -> None:
    (distribution / "penstock_cuda13" / "_cuda.py").write_text("raise ImportError('undefined symbol: frobnicate')\n")
    assert "frobnicate" in told(distribution)


@pytest.mark.skipif(
    importlib.util.find_spec("penstock._cuda_emulated") is not None, reason="this build has emulated devices"
)
def test_emulated_devices_that_are_missing_are_an_error(distribution: Path) -> None:
    assert told(distribution, PENSTOCK_CUDA_EMULATE="1") == (
        "ImportError: backend='cuda': PENSTOCK_CUDA_EMULATE=1 asks for emulated devices, which this build has not"
    )


@pytest.mark.skipif(
    importlib.util.find_spec("penstock._cuda_emulated") is None, reason="this build has no emulated devices"
)
def test_emulated_devices_are_used_where_they_are_asked_for_alone(distribution: Path) -> None:
    own = ["cuda", "cuda (emulated H100)", "the cuda backend on emulated H100"]
    assert made(distribution, PENSTOCK_CUDA_EMULATE="1") == own
    assert made(distribution, "auto", PENSTOCK_CUDA_EMULATE="1")[0] in ("cpp", "numba")
    for other in ("", "0", "yes"):
        assert made(distribution, PENSTOCK_CUDA_EMULATE=other)[1] == "cuda (card 0)"
    words = "there is no device 2 here: there are 2, counted from 0"
    assert told(distribution, "cuda:2", PENSTOCK_CUDA_EMULATE="1").endswith(words)
    alone = {"PENSTOCK_CUDA_EMULATE": "1", "PENSTOCK_CUDA_EMULATE_DEVICES": "1"}
    assert told(distribution, "cuda:1", **alone).endswith("there is no device 1 here: there is one, number 0")
    none = {**alone, "PENSTOCK_CUDA_EMULATE_DEVICES": "0"}
    assert told(distribution, **none) == "ImportError: backend='cuda': no NVIDIA driver or GPU here"


def test_the_command_line_takes_the_name(distribution: Path) -> None:
    from penstock.cli.args import parser

    found = parser().parse_args(["sample", "model", "-n", "3", "-o", "x.csv", "--backend", "cuda:1"])
    assert found.backend == "cuda:1"
    with pytest.raises(SystemExit):
        parser().parse_args(["sample", "model", "-n", "3", "-o", "x.csv", "--backend", "cuda:x"])


# --- the other distribution -------------------------------------------------------------------------------------

source = pytest.mark.skipif(not (ROOT / "cuda" / "pyproject.toml").is_file(), reason="needs the source tree")


@source
def test_the_other_distribution_is_of_the_same_version_and_needs_this_one() -> None:
    import tomllib

    core, other = (tomllib.loads((ROOT / place / "pyproject.toml").read_text())["project"] for place in ("", "cuda"))
    assert other["name"] == _backend.DISTRIBUTION
    assert other["version"] == core["version"]
    assert other["dependencies"] == [f"penstock=={core['version']}"]
    for name in ("requires-python", "authors"):
        assert other[name] == core[name]
    assert (ROOT / "cuda" / "src" / _backend.CUDA / "__init__.py").is_file()


@source
def test_a_wheel_of_the_core_has_nothing_of_it_unless_asked() -> None:
    import tomllib

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["scikit-build"]
    assert settings["wheel"]["packages"] == ["src/penstock"]
    assert "define" not in settings.get("cmake", {})
    emulated = [own for own in settings["overrides"] if "PENSTOCK_CUDA_EMULATE" in own["if"]["env"]]
    assert [own["cmake"]["define"] for own in emulated] == [{"PENSTOCK_CUDA_EMULATE": "ON"}]
    text = (ROOT / "CMakeLists.txt").read_text()
    assert "set(PENSTOCK_CUDA OFF CACHE" in text
    assert 'for tests" OFF)' in text


def test_the_tests_that_need_a_device_say_so() -> None:
    """Where the emulated module is built, they run: what skips them all would pass in silence."""
    import devices

    if os.environ.get("PENSTOCK_CUDA_EMULATE") == "1":
        assert devices.MODULE == "penstock._cuda_emulated"
