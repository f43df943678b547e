"""The C library as CMake builds and installs it, without Python; what it exports and what it needs."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from helpers import ROOT
from penstock.cli import config

LINUX = platform.system() == "Linux"
COMPILER = shutil.which(os.environ.get("CC", "cc"))
CMAKE = shutil.which("cmake")
HEADER = ROOT / "cpp" / "include" / "penstock" / "penstock.h"
EXPORTS = ROOT / "cpp" / "c_api" / "exports.map"

pytestmark = pytest.mark.skipif(not HEADER.exists(), reason="needs the source tree")


def run(*command: object, **options: object) -> str:
    """What a command prints; it has to succeed."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return str(done.stdout)


# --- the library of the package ---------------------------------------------------------------------------------------


def library() -> Path:
    """The shared library beside the extension."""
    try:
        return Path(config.installation()["libs"].split()[0].strip("'"))
    except ImportError as error:
        pytest.skip(str(error))


def declared() -> set[str]:
    """The functions of the header."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    return set(re.findall(r"^PENSTOCK_API [\w *]*?(\w+)\(", text, flags=re.M))


def scripted() -> dict[str, set[str]]:
    """The symbols of each node of the version script."""
    text = re.sub(r"/\*.*?\*/", "", EXPORTS.read_text(), flags=re.S)
    nodes = re.findall(r"(\w+) \{(.*?)\};", text, re.S)
    return {name: set(re.findall(r"(\w+);", body)) for name, body in nodes}


def test_the_version_script_is_the_header() -> None:
    assert scripted() == {"PENSTOCK_0": declared(), "PENSTOCK_PRIVATE": {"penstock_private"}}


def test_versions_agree() -> None:
    import tomllib

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    numbers = re.findall(r"#define PENSTOCK_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", HEADER.read_text())
    assert ".".join(numbers) == version
    assert re.search(rf"^project\(penstock VERSION {re.escape(version)} ", (ROOT / "CMakeLists.txt").read_text(), re.M)
    abi = re.search(r"#define PENSTOCK_ABI (\d+)", HEADER.read_text())
    assert abi is not None
    assert f"PENSTOCK_{abi[1]}" in scripted()
    assert f"SOVERSION {abi[1]} " in (ROOT / "cmake" / "libraries.cmake").read_text()


@pytest.mark.skipif(not LINUX, reason="ELF")
def test_the_library_exports_the_header_and_one_symbol_more() -> None:
    lines = run("nm", "-D", "--defined-only", "--with-symbol-versions", library()).splitlines()
    found: dict[str, set[str]] = {}
    for line in lines:
        kind, symbol = line.split()[-2:]
        assert kind in "TA", line  # nothing weak, and nothing unique, which would never be unloaded
        if kind == "T":
            name, _, node = symbol.partition("@@")
            found.setdefault(node, set()).add(name)
    assert found == scripted()


@pytest.mark.skipif(not LINUX, reason="ELF")
def test_the_library_needs_the_c_library_alone() -> None:
    path = library()
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", run("readelf", "-dW", path)))
    loader = ("ld-linux-x86-64", "ld-linux-aarch64")
    assert {re.sub(r"\.so.*", "", name) for name in needed} <= {"libc", "libm", "libpthread", *loader}
    undefined = run("nm", "-D", "--undefined-only", path)
    # Code that runs when a thread ends keeps a library in the process.
    assert "__cxa_thread_atexit" not in undefined


@pytest.mark.skipif(not LINUX, reason="ELF")
def test_the_extension_takes_one_symbol_of_the_library() -> None:
    from penstock import _core

    undefined = run("nm", "-D", "--undefined-only", "--with-symbol-versions", _core.__file__)
    assert re.findall(r"U (\S*penstock\S*)", undefined) == ["penstock_private@PENSTOCK_PRIVATE"]
    assert "libpenstock.so.0" in run("readelf", "-dW", _core.__file__)


@pytest.mark.skipif(not LINUX, reason="ELF")
def test_the_extension_refuses_the_library_of_another_build(tmp_path: Path) -> None:
    from helpers import python
    from penstock import _core

    path = library()
    other = bytearray(path.read_bytes())
    package = Path(ps.__file__).parent
    shutil.copytree(package, tmp_path / "penstock", ignore=shutil.ignore_patterns("__pycache__", "*.so*"))
    shutil.copy(_core.__file__, tmp_path / "penstock")
    [(at, digest)] = [(m.start(), m[0]) for m in re.finditer(rb"(?<![0-9a-f])[0-9a-f]{64}(?=\0)", other)]
    for text, fine in ((digest, True), (digest[::-1], False)):
        other[at : at + 64] = text
        (tmp_path / "penstock" / path.name).write_bytes(other)
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from penstock import _core; print(_core.__file__)"
        done = python(code, check=False)
        assert (done.returncode == 0) == fine, done.stderr
        if fine:
            assert str(tmp_path) in done.stdout
        else:
            assert "ImportError: the library libpenstock" in done.stderr
            assert "of another build" in done.stderr


# --- installed with CMake ---------------------------------------------------------------------------------------------

needs_cmake = pytest.mark.skipif(CMAKE is None or COMPILER is None, reason="there is no CMake, or no C compiler")
FEWEST = "avx2" if platform.machine() in ("x86_64", "AMD64") else "neon"
# Kernels that are not optimised compile several times as fast, and compute the same bits.
QUICKLY = ("-DCMAKE_BUILD_TYPE=Debug", f"-DPENSTOCK_ISAS={FEWEST}", "-DCMAKE_DISABLE_FIND_PACKAGE_Python=ON")


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where CMake has installed a debug build: the one below ``PENSTOCK_BUILD``, or its own."""
    folder = tmp_path_factory.mktemp("installed")
    named = os.environ.get("PENSTOCK_BUILD")
    build = Path(named, "debug") if named else folder / "build"
    if not named:
        run("cmake", "-S", ROOT, "-B", build, *QUICKLY)
        run("cmake", "--build", build, "--parallel", 2)
    run("cmake", "--install", build, "--prefix", folder / "first")
    (folder / "first").rename(folder / "prefix")  # nothing of it may know where it was
    return folder / "prefix"


PROGRAM = """
#include <stdio.h>
#include <penstock/penstock.h>

int main(int n, char **arguments) {
  double x[2] = {0.25, -0.5}, log_p = 0;
  penstock_flow *flow;
  if (n != 2 || penstock_load(arguments[1], &flow) != PENSTOCK_OK) {
    fprintf(stderr, "%s\\n", penstock_last_error());
    return 1;
  }
  if (penstock_dim(flow) != 2 || penstock_log_prob_f64(flow, 1, x, 2, NULL, 0, &log_p) != PENSTOCK_OK) {
    return 1;
  }
  penstock_free(flow);
  printf("%s %a", penstock_version(), log_p);
  return 0;
}
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A model, and what the program has to say."""
    path = tmp_path_factory.mktemp("model") / "flow.safetensors"
    flow = ps.nsf(2, layers=2, hidden=(8,), dtype="float64", rng=3)
    flow.params = flow.params + np.random.default_rng(3).standard_normal(flow.n_params)
    flow.save(path)
    version = re.search(r"VERSION (\S+)", (ROOT / "CMakeLists.txt").read_text().split("project(")[1])
    assert version is not None
    return path, f"{version[1]} {float(flow.log_prob([0.25, -0.5])).hex()}"


def says(program: Path, model: tuple[Path, str]) -> None:
    """Run the program, and hold its bits against Python's; Numba's may be others."""
    version, number = run(program, model[0], env={}).split()
    expected = model[1].split()
    assert version == expected[0]
    if ps.nsf(2, rng=0).backend == "cpp":
        assert float.fromhex(number) == float.fromhex(expected[1])
    else:
        assert float.fromhex(number) == pytest.approx(float.fromhex(expected[1]), rel=1e-12)


def project(folder: Path, *lines: str, languages: str = "C") -> Path:
    """A project with the program."""
    folder.mkdir(exist_ok=True)
    (folder / "program.c").write_text(PROGRAM)
    begin = ["cmake_minimum_required(VERSION 3.18)", f"project(host LANGUAGES {languages})"]
    (folder / "CMakeLists.txt").write_text("\n".join([*begin, *lines]) + "\n")
    return folder


@pytest.mark.slow
@needs_cmake
def test_what_is_installed(prefix: Path) -> None:
    files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    folder = "lib" if (prefix / "lib" / "pkgconfig").is_dir() else "lib64"
    expected = {f"include/penstock/{path.name}" for path in HEADER.parent.iterdir()}
    expected |= {f"{folder}/libpenstock.a", f"{folder}/pkgconfig/penstock.pc"}
    expected |= {f"{folder}/cmake/penstock/penstockConfig{word}.cmake" for word in ("", "Version")}
    if LINUX:
        real = (prefix / folder / "libpenstock.so").resolve().name
        assert re.fullmatch(r"libpenstock\.so\.\d+\.\d+\.\d+", real), real
        expected |= {f"{folder}/{name}" for name in ("libpenstock.so", "libpenstock.so.0", real)}
        assert "SONAME" in run("readelf", "-dW", prefix / folder / real)
        assert "[libpenstock.so.0]" in run("readelf", "-dW", prefix / folder / real)
    assert files == expected
    for path in prefix.rglob("*"):
        if path.suffix in (".cmake", ".pc"):
            assert str(ROOT) not in path.read_text()
            assert str(prefix.parent) not in path.read_text()


@pytest.mark.slow
@needs_cmake
@pytest.mark.parametrize("target", ["penstock::penstock", "penstock::static"])
def test_a_c_project_finds_the_package(target: str, prefix: Path, model: tuple[Path, str], tmp_path: Path) -> None:
    lines = (
        "find_package(penstock 0.2 REQUIRED)",
        "find_package(penstock 0.2 REQUIRED)",  # as two parts of a project do
        "add_executable(program program.c)",
        f"target_link_libraries(program PRIVATE {target})",
    )
    folder = project(tmp_path / "project", *lines)
    run("cmake", "-S", folder, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run("cmake", "--build", tmp_path / "build")
    says(tmp_path / "build" / "program", model)


@pytest.mark.slow
@needs_cmake
@pytest.mark.parametrize(
    ("version", "fits"), [("0.2", True), ("0.2.0", True), ("0.1", False), ("0.3", False), ("1", False)]
)
def test_another_minor_version_is_not_found(version: str, fits: bool, prefix: Path, tmp_path: Path) -> None:
    folder = project(tmp_path / "project", f"find_package(penstock {version} REQUIRED)")
    words = ["cmake", "-S", folder, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode == 0) == fits, done.stderr


@pytest.mark.slow
@needs_cmake
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="there is no pkg-config")
@pytest.mark.parametrize("static", [False, True])
def test_pkg_config_finds_the_package(static: bool, prefix: Path, model: tuple[Path, str], tmp_path: Path) -> None:
    if static and not LINUX:
        pytest.skip("programs are not static here")
    [file] = prefix.rglob("penstock.pc")
    env = {**os.environ, "PKG_CONFIG_PATH": str(file.parent)}
    flags = run("pkg-config", "--cflags", "--libs", *(["--static"] if static else []), "penstock", env=env).split()
    (tmp_path / "program.c").write_text(PROGRAM)
    how = ["-static"] if static else [f"-Wl,-rpath,{file.parents[1]}"]
    run(COMPILER, tmp_path / "program.c", *how, *flags, "-o", tmp_path / "program")
    says(tmp_path / "program", model)


PARENT = (
    "set(CMAKE_CXX_STANDARD 14)",
    "get_cmake_property(before VARIABLES)",
    "foreach(name ${before})",
    '  set("before_${name}" "${${name}}")',
    "endforeach()",
    "add_subdirectory(${PENSTOCK} penstock)",
    "foreach(name ${before})",
    '  if(name MATCHES "^CMAKE_(CXX|C|BUILD|POSITION|VISIBILITY|INSTALL|MODULE)"',
    '     AND NOT "${${name}}" STREQUAL "${before_${name}}")',
    '    message(FATAL_ERROR "${name} was \\"${before_${name}}\\" and is \\"${${name}}\\"")',
    "  endif()",
    "endforeach()",
    "if(TARGET _core)",
    '  message(FATAL_ERROR "a Python module")',
    "endif()",
    "enable_testing()",
    "add_executable(program program.c)",
    "target_link_libraries(program PRIVATE penstock::penstock)",
    "install(TARGETS program)",
)


@pytest.mark.slow
@needs_cmake
def test_a_part_of_a_c_project_leaves_it_alone(model: tuple[Path, str], tmp_path: Path) -> None:
    folder, build = project(tmp_path / "project", *PARENT), tmp_path / "build"
    run("cmake", "-S", folder, "-B", build, f"-DPENSTOCK={ROOT}", "-DSKBUILD=2", *QUICKLY)
    run("cmake", "--build", build, "--parallel", 2, "--target", "program")
    says(build / "program", model)
    assert "Total Tests: 0" in run("ctest", "--test-dir", build, "-N")
    run("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    assert [path.name for path in (tmp_path / "prefix").rglob("*") if path.is_file()] == ["program"]


@pytest.mark.slow
@needs_cmake
@pytest.mark.parametrize("isas", ["sse9", "avx2;sse9"])
def test_an_unknown_instruction_set_is_named(isas: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ["cmake", "-S", ROOT, "-B", tmp_path, f"-DPENSTOCK_ISAS={isas}"], capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "there is no sse9 for this processor" in " ".join(done.stderr.split())
