"""Compilers and the emulated device, for the tests of kernels: PTX to a library, and a launch of one of its kernels."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COMPILER = shutil.which("g++") or shutil.which("c++") or shutil.which("clang++")
MACHINE = ["-march=x86-64-v3", "-mfma"] if platform.machine() in ("x86_64", "AMD64") else []
FLAGS = [
    "-std=c++20",
    "-O1",
    "-ffp-contract=off",
    "-fPIC",
    "-shared",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
    *MACHINE,
]
NVCC = ["-std=c++20", "-arch=compute_90", "-ptx", "-O3"]
EXACT = [
    "-fmad=false",
    "--prec-div=true",
    "--prec-sqrt=true",
    "-ftz=false",
]  # one rounding an operation, denormals kept


def made_ptx(source: Path, folder: Path, *more: str, exact: Sequence[str] = EXACT) -> Path:
    """What nvcc makes of a file."""
    ptx = folder / (source.stem + ".ptx")
    includes = [f"-I{ROOT / 'cpp'}", f"-I{HERE}"]
    subprocess.run(["nvcc", *NVCC, *exact, *includes, *more, source, "-o", ptx], check=True)
    return ptx


def translated(ptx: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A run of the translator."""
    return subprocess.run([sys.executable, HERE / "ptx_on_host.py", ptx, *flags], text=True, capture_output=True)


def as_cpp(ptx: Path) -> Path:
    """PTX in C++."""
    cpp = ptx.with_suffix(".ptx.cpp")
    done = translated(ptx, "--output", str(cpp))
    assert done.returncode == 0, done.stderr
    return cpp


class Library:
    """Kernels that run here."""

    def __init__(self, folder: Path, *sources: Path, flags: Sequence[str] = ()) -> None:
        assert COMPILER is not None
        out = folder / "kernels.so"
        includes = [f"-I{ROOT / 'cpp'}", f"-I{HERE}"]
        sources = (*sources, HERE / "launch.cpp", ROOT / "cpp" / "cuda" / "simt.cpp")
        subprocess.run([COMPILER, *FLAGS, *includes, *flags, *sources, "-o", out], check=True)
        self.load(out)

    def load(self, path: Path) -> None:
        """Takes a library that is there."""
        self.path = path
        self.dll = ctypes.CDLL(str(path))

    @classmethod
    def of(cls, path: Path) -> Library:
        """A library that is there."""
        library = cls.__new__(cls)
        library.load(path)
        return library

    def number(self, name: str) -> int:
        """A constant of the library."""
        return ctypes.c_int64.in_dll(self.dll, name).value

    def launch(
        self, kernel: str, *parameters: Any, blocks: int = 1, threads: int = 1, shared: int = 0, seed: int = 0
    ) -> None:
        """Runs a kernel on parameters: arrays by their address, integers of 32 bits, or numbers of ctypes."""
        given = [
            ctypes.c_void_p(p.ctypes.data)
            if isinstance(p, np.ndarray)
            else ctypes.c_int32(p)
            if isinstance(p, int)
            else p
            for p in parameters
        ]
        fields = [(f"p{i}", type(p)) for i, p in enumerate(given)]
        of = type("Parameters", (ctypes.Structure,), {"_fields_": fields})(*given)
        function = ctypes.cast(getattr(self.dll, kernel), ctypes.c_void_p)
        self.dll.launch(
            function, ctypes.byref(of), ctypes.c_int64(blocks), threads, ctypes.c_int64(shared), ctypes.c_uint64(seed)
        )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same bits, up to those of NaN."""
    return a.dtype == b.dtype and a.shape == b.shape and differences(a, b) == 0


def differences(a: np.ndarray, b: np.ndarray) -> int:
    """In how many numbers two arrays differ."""
    integers = np.dtype(f"u{a.dtype.itemsize}")
    different = a.view(integers) != b.view(integers)
    if a.dtype.kind == "f":
        different &= ~(np.isnan(a) & np.isnan(b))
    return int(different.sum())
