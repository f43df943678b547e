"""What ``penstock config`` prints: where the C library of this installation is, as compilers and CMake take it."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

LIBRARY = "libpenstock.0.dylib" if sys.platform == "darwin" else "libpenstock.so.0"
TOLD = {
    "cflags": "what compiles a program in C or C++",
    "libs": "what links it, with the place of the library in the program",
    "includedir": "the folder that holds penstock/penstock.h",
    "libdir": "the folder that holds the library",
    "cmakedir": "the folder for penstock_DIR, with which CMake's find_package(penstock) finds it",
    "fortran": "the source of the Fortran module, to be compiled with the program",
}


def installation() -> dict[str, str]:
    """The words for each name in ``TOLD``. They follow the extension, which may lie apart from the Python files."""
    spec = importlib.util.find_spec("penstock._core")
    if spec is None or not spec.origin:
        raise ImportError(
            "this installation is the pure-Python one, which has no C library; install a wheel with the compiled core"
        )
    folder = Path(spec.origin).parent
    library, include, cmake = folder / LIBRARY, folder / "include", folder / "cmake"
    for path in (library, include / "penstock" / "penstock.h", cmake):
        if not path.exists():
            raise ImportError(f"this installation has no C library: {path} is missing; install a wheel, or with CMake")
    return {
        "cflags": shlex.quote(f"-I{include}"),
        "libs": f"{shlex.quote(str(library))} {shlex.quote(f'-Wl,-rpath,{folder}')}",
        "includedir": str(include),
        "libdir": str(folder),
        "cmakedir": str(cmake),
        "fortran": str(include / "penstock" / "penstock.f90"),
    }


def config(names: Sequence[str]) -> int:
    """Print what goes by these names on one line; everything, a line each, where there are none."""
    words = installation()
    if names:
        print(" ".join(words[name] for name in names))
    else:
        for name, told in words.items():
            print(f"{name}: {told}")
    return 0
