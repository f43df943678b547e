"""PTX that nvcc makes, on the emulated device, against the same source as the host's compiler has it: the same bits."""

from __future__ import annotations

import ctypes
import re
import shutil
from pathlib import Path
from typing import Any

import emulated
import numpy as np
import pytest

HERE = Path(__file__).parent
LIST = emulated.ROOT / "cpp" / "transforms" / "list.hpp"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(emulated.COMPILER is None, reason="no C++ compiler"),
]
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")

SPECIAL = (
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    np.inf,
    -np.inf,
    np.nan,
    1e-40,
    -5e-324,
    3.4e38,
    -1e300,
    2.0**31,
    -(2.0**31),
    2.0**63,
)


def built(source: str, folder: Path, *definitions: str) -> emulated.Library:
    """A file's kernels, ptx_NAME by way of nvcc and host_NAME without."""
    ptx = emulated.made_ptx(HERE / source, folder, *definitions)
    host = folder / f"{source}.host.cpp"
    host.write_text(f'#include "{HERE / source}"\n')
    flags = [*definitions, "-fwrapv", "-Wno-psabi", "-Wno-unused-function"]
    return emulated.Library(folder, emulated.as_cpp(ptx), host, flags=flags)


class Both:
    """Runs a kernel either way, from the same arrays, and compares all of them."""

    def __init__(self, library: emulated.Library) -> None:
        self.library = library

    def same(self, name: str, *parameters: Any, shared: int = 0, seed: int = 0, **grid: int) -> list[np.ndarray]:
        own = self.library.number(f"ptx_{name}_shared_bytes")
        results = []
        for kind in ("ptx", "host"):
            given = [p.copy() if isinstance(p, np.ndarray) else p for p in parameters]
            of_kind = shared + (own if kind == "ptx" else 0)
            self.library.launch(f"{kind}_{name}", *given, shared=of_kind, seed=seed, **grid)
            results.append([p for p in given if isinstance(p, np.ndarray)])
        for k, (a, b) in enumerate(zip(*results, strict=True)):
            assert emulated.same_bits(a, b), (name, k, emulated.differences(a, b), a.size)
        return results[0]


def numbers(n: int, dtype: str, seed: int = 0, scale: float = 4.0) -> np.ndarray:
    """Random numbers, some of them special."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n) * scale
    every = rng.random(n)
    x = np.where(every < 0.2, x * 10.0 ** rng.uniform(-12, 12, n), x)
    x[::17] = np.resize(SPECIAL, len(x[::17]))
    with np.errstate(over="ignore"):
        return x.astype(dtype)


# -- the language --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(built("language.cu", tmp_path_factory.mktemp("language")))


class Mixed(ctypes.Structure):
    _fields_ = (
        ("a", ctypes.c_double), ("numbers", ctypes.c_int * 5), ("letter", ctypes.c_char), ("pair", ctypes.c_short * 2),
        ("f", ctypes.c_float),
    )  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize("seed", [0, 5])
def test_calls_and_tables(language: Both, seed: int) -> None:
    x = numbers(96, "f4")
    mixed = Mixed(1.5, (1, -2, 3, -4, 5), b"\xf0", (7, -9), 2.5)
    for n in (-3, 12345):
        (_, out) = language.same(
            "calls", x, np.zeros(96), mixed, n, ctypes.c_uint8(200), blocks=3, threads=32, seed=seed
        )
        assert len(np.unique(out)) > 60


@needs_nvcc
def test_local_arrays(language: Both) -> None:
    index = np.random.default_rng(1).integers(0, 1000, 97, dtype="i4")
    _, out, sums = language.same("locals", index, np.zeros(64, "i4"), np.zeros(64), 97, blocks=2, threads=32)
    assert len(np.unique(out)) == len(np.unique(sums)) == 64


@needs_nvcc
def test_branches(language: Both) -> None:
    index = np.arange(40 * 32, dtype="i4") % 40 - 10
    _, _, out = language.same("branches", index, numbers(40 * 32, "f4"), np.zeros(40 * 32, "f4"), blocks=40, threads=32)
    assert len(np.unique(out)) > 200


@needs_nvcc
def test_integers(language: Both) -> None:
    n = 2048
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 1 << 64, (2, n), dtype="u8")
    special = np.array(
        [0, 1, 2, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 32, (1 << 32) - 1, 0x80000000, 127, 128, 255], "u8"
    )
    x[:144], y[:144] = (a.ravel() for a in np.meshgrid(special, special))
    x[144:400] >>= rng.integers(0, 64, 256, dtype="u8")
    y[300:600] >>= rng.integers(0, 64, 300, dtype="u8")
    *_, out = language.same("integers", x, y, np.zeros((12, n), "u8"), n, blocks=n // 64, threads=64)
    assert all(len(np.unique(row)) > n // 2 for row in out)


@needs_nvcc
@pytest.mark.parametrize(("name", "dtype"), [("singles", "f4"), ("doubles_of", "f8")])
def test_floats(language: Both, name: str, dtype: str) -> None:
    n = 4096
    x, y, z = (numbers(n, dtype, seed, scale) for seed, scale in ((3, 1), (4, 1e3), (5, 1e-3)))
    with np.errstate(over="ignore"):
        special = np.array(SPECIAL).astype(dtype)
    m = len(special)
    x[: m * m], y[: m * m] = (a.ravel() for a in np.meshgrid(special, special))
    z[: m * m] = np.resize(special[::-1], m * m)
    arrays = (np.zeros((12, n), dtype), np.zeros((12, n), "u8"))
    *_, out, _ = language.same(name, x, y, z, *arrays, n, blocks=n // 64, threads=64)
    assert all(len(np.unique(row)) > 100 for row in out)


@needs_nvcc
@pytest.mark.parametrize("seed", [0, 1, 2, 3])
@pytest.mark.parametrize("threads", [8, 64])
def test_shared_memory_barriers_and_copies(language: Both, threads: int, seed: int) -> None:
    x = np.random.default_rng(6).normal(size=(3, 7, 4 * threads)).astype("f4")
    out = language.same(
        "shared_sums", x, np.zeros((3, threads), "f4"), 7, blocks=3, threads=threads, shared=32 * threads, seed=seed
    )[1]
    assert np.isfinite(out).all()


# -- the gate ------------------------------------------------------------------------------------


@needs_nvcc
@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("-fmad=true", "without .rn it may be contracted"),
        ("--prec-div=false", "does not round to nearest"),
        ("--prec-sqrt=false", "an approximation"),
        ("-ftz=true", "flushes denormals to zero"),
        ("-use_fast_math", "flushes denormals to zero"),
    ],
)
def test_other_flags_of_the_compiler_are_refused(flag: str, why: str, tmp_path: Path) -> None:
    others = [] if flag == "-use_fast_math" else [f for f in emulated.EXACT if f.split("=")[0] != flag.split("=")[0]]
    ptx = emulated.made_ptx(HERE / "language.cu", tmp_path, flag, exact=others)
    done = emulated.translated(ptx)
    assert done.returncode == 1
    assert why in done.stderr


# -- the headers of the core ---------------------------------------------------------------------


def transforms() -> list[tuple[str, int, int]]:
    """Names and numbers of theta, from the list."""
    rows = re.findall(r"X\((\w+), (-?\d+), (\d+), \d+\)", LIST.read_text())
    assert len(rows) >= 5
    return [(name, int(fixed), int(per_bin)) for name, fixed, per_bin in rows]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(
        built("transforms.cu", tmp_path_factory.mktemp("core"), "-DPENSTOCK_ISA=thread", "-DPENSTOCK_LANE_BYTES=16")
    )


@needs_nvcc
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize(("name", "fixed", "per_bin"), transforms())
def test_transforms(core: Both, name: str, fixed: int, per_bin: int, dtype: str) -> None:
    rng = np.random.default_rng(7)
    rows = 192
    for bins in (2, 3, 8, 20) if per_bin else (0,):
        n_theta = fixed + per_bin * bins
        x = rng.uniform(-4, 4, rows).astype(dtype)
        x[::16] = np.resize([3, -3, 0, -0.0, 1e30, np.nan, np.inf, 2.9999999], 12)
        theta = rng.uniform(-3, 3, (n_theta, rows)).astype(dtype)
        theta[:, ::24] *= 30
        theta[-1, 5] = np.nan
        options = np.array([bins if per_bin else 3, 3, 0.001, 0.001, 0.001, 0.5, 0, 0], dtype)
        gradients = rng.normal(size=(2, rows)).astype(dtype)
        out, d_theta = core.same(
            f"{name}_{'float' if dtype == 'f4' else 'double'}", x, *gradients, theta, options, np.zeros((6, rows), dtype),
            np.zeros((n_theta, rows), dtype), rows, n_theta, blocks=rows // 32, threads=32,
            shared=n_theta * 32 * x.itemsize,
        )[-2:]  # fmt: skip
        assert len(np.unique(out[0])) > rows // 2
        assert np.isfinite(d_theta).mean() > 0.9


@needs_nvcc
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_elementary_functions_and_draws(core: Both, dtype: str) -> None:
    rows = 4096
    x = numbers(rows, dtype, 8, 6.0)
    draws = np.random.default_rng(9).integers(0, 1 << 64, (2, rows), dtype="u8")
    out = core.same(
        f"elementary_{'float' if dtype == 'f4' else 'double'}", x, np.zeros((16, rows), dtype), ctypes.c_uint64(12345), draws,
        rows, blocks=rows // 64, threads=64,
    )[1]  # fmt: skip
    assert all(len(np.unique(row)) > rows // 8 for row in out)
