"""What ``penstock config`` prints is all that a program in C needs of an installed package."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import penstock as ps
from penstock.cli import config, main

COMPILER = shutil.which(os.environ.get("CC", "cc"))


def missing() -> str:
    """Why there is nothing to link; empty where there is."""
    try:
        config.installation()
    except ImportError as error:
        return str(error)
    return "" if COMPILER else "there is no C compiler"


needs_library = pytest.mark.skipif(bool(missing()), reason=missing())
PROGRAM = """
#include <stdio.h>
#include <penstock/penstock.h>
int main(void) { printf("%s %d", penstock_version(), penstock_abi()); return 0; }
"""


def told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What the command prints."""
    assert main(["config", *words]) == 0
    return capsys.readouterr().out.rstrip("\n")


def pretend(monkeypatch: pytest.MonkeyPatch, origin: Path | None) -> None:
    """As if the extension lay there, or nowhere."""
    found = None if origin is None else SimpleNamespace(origin=str(origin))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)


def installed_at(folder: Path) -> Path:
    """A folder with everything that is looked for, and the place of its extension."""
    for path in (config.LIBRARY, "include/penstock/penstock.h", "cmake/penstockConfig.cmake"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).touch()
    return folder / "_core.so"


def test_the_pure_package_says_that_there_is_no_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, None)
    assert main(["config", "--libs"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "pure-Python" in captured.err
    assert "no C library" in captured.err


@pytest.mark.parametrize("lost", [config.LIBRARY, "include/penstock/penstock.h", "cmake"])
def test_what_is_missing_is_named(
    lost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, installed_at(tmp_path))
    path = tmp_path / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert main(["config"]) == 1
    assert str(path) in capsys.readouterr().err


def test_words_come_in_the_order_asked_for_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder"
    pretend(monkeypatch, installed_at(folder))
    assert told(capsys, "--libdir", "--includedir") == f"{folder} {folder / 'include'}"
    assert told(capsys, "--cmakedir") == str(folder / "cmake")
    assert told(capsys, "--fortran") == str(folder / "include" / "penstock" / "penstock.f90")
    assert told(capsys, "--libs", "--cflags") == (
        f"'{folder / config.LIBRARY}' '-Wl,-rpath,{folder}' '-I{folder / 'include'}'"
    )
    everything = dict(line.split(": ", 1) for line in told(capsys).splitlines())
    assert list(everything) == list(config.TOLD)
    assert everything["libdir"] == str(folder)


@needs_library
def test_a_program_needs_no_more_than_what_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert COMPILER is not None
    source = tmp_path / "program.c"
    source.write_text(PROGRAM)
    words = f"{COMPILER} {source} -o {tmp_path / 'program'} {told(capsys, '--cflags', '--libs')}"
    subprocess.run(words, shell=True, check=True)
    done = subprocess.run([tmp_path / "program"], check=True, capture_output=True, text=True, env={})
    assert done.stdout == f"{ps.__version__} 0"


@needs_library
@pytest.mark.skipif(shutil.which("cmake") is None, reason="there is no CMake")
def test_cmake_finds_the_package(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "program.c").write_text(PROGRAM)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.18)\nproject(program LANGUAGES C)\nfind_package(penstock 0.2 REQUIRED)\n"
        "add_executable(program program.c)\ntarget_link_libraries(program PRIVATE penstock::penstock)\n"
    )
    build = tmp_path / "build"
    subprocess.run(["cmake", "-S", tmp_path, "-B", build, f"-Dpenstock_DIR={told(capsys, '--cmakedir')}"], check=True)
    subprocess.run(["cmake", "--build", build], check=True)
    done = subprocess.run([build / "program"], check=True, capture_output=True, text=True, env={})
    assert done.stdout == f"{ps.__version__} 0"


@needs_library
def test_the_source_of_the_fortran_module_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(told(capsys, "--fortran"))
    assert "module penstock" in source.read_text()
    compiler = shutil.which("gfortran")
    if compiler is None:
        pytest.skip("there is no gfortran")
    subprocess.run([compiler, "-c", source, "-J", tmp_path, "-o", tmp_path / "module.o"], check=True)
    assert (tmp_path / "penstock.mod").exists()
