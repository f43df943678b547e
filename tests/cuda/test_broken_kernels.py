"""Kernels that nvcc made, broken on purpose: the tests of the CUDA backend see it, or the translator of PTX refuses.

They need a build folder whose emulated device has the kernels from nvcc (PENSTOCK_CUDA_PTX), and the package
of the same sources: ``PENSTOCK_BUILD`` names the folder above ``ptx``, as .ci/ptx.sh leaves it. Its files are put back.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import emulated
import pytest

ROOT = Path(__file__).parents[2]
TRAINING = "test_training_has_the_bits_of_the_core and realnvp_rectified and 12"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    named = os.environ.get("PENSTOCK_BUILD")
    folder = Path(named or "") / "ptx"
    if named is None or not (folder / "ptx" / "device_sums.ptx").exists():
        pytest.skip("PENSTOCK_BUILD names no folder of builds with kernels that nvcc made; .ci/ptx.sh makes one")
    made = Build(folder, tmp_path_factory.mktemp("site"))
    yield made
    made.put_back()


class Build:
    """A build folder, and a package with its module."""

    def __init__(self, folder: Path, site: Path) -> None:
        self.folder, self.site = folder, site
        self.texts = {name: self.ptx(name).read_text() for name in ("device_sums", "device_affine")}
        shutil.copytree(package(), site / "penstock", ignore=shutil.ignore_patterns("__pycache__", "_cuda_emulated*"))

    def ptx(self, name: str) -> Path:
        """The PTX of a variant."""
        return self.folder / "ptx" / f"{name}.ptx"

    def put_back(self) -> None:
        """Let the PTX be as nvcc made it."""
        for name, text in self.texts.items():
            if self.ptx(name).read_text() != text:
                self.ptx(name).write_text(text)

    def tested(self) -> subprocess.CompletedProcess[str]:
        """Train a flow on a module whose kernels are those of the PTX that is there."""
        command = ["cmake", "--build", self.folder, "--target", "_cuda_emulated"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
        for module in self.folder.glob("_cuda_emulated*.so"):
            shutil.copy(module, self.site / "penstock")
        pytest_of = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        environment = {**os.environ, "PYTHONPATH": str(self.site), "PENSTOCK_CUDA_EMULATE": "1"}
        command = [*pytest_of, "tests/test_cuda.py", "-k", TRAINING]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def package() -> Path:
    """Where the package lies that is tested."""
    import penstock

    return Path(penstock.__file__).parent


def within(text: str, function: str, having: str, change: Callable[[str], str]) -> str:
    """PTX with a change in the first function of such a name that has such an instruction."""
    for begin in re.finditer(rf"^\.(?:visible \.entry|func)[^\n]*{function}\w*\([^)]*\)[^;{{]*\{{", text, re.M):
        end = text.index("\n}\n", begin.end())
        body = text[begin.end() : end]
        if re.search(having, body):
            assert change(body) != body
            return text[: begin.end()] + change(body) + text[end:]
    raise AssertionError(function)


def without_barrier(number: int) -> Callable[[str], str]:
    """Take out a barrier of a function."""

    def change(body: str) -> str:
        at = [match.span() for match in re.finditer(r"\tbar\.sync \t0;\n", body)]
        return body[: at[number][0]] + body[at[number][1] :]

    return change


def other(pattern: str, replacement: Callable[[re.Match[str]], str], number: int) -> Callable[[str], str]:
    """Change one instruction of a function."""

    def change(body: str) -> str:
        match = list(re.finditer(pattern, body))[number]
        return body[: match.start()] + replacement(match) + body[match.end() :]

    return change


def every(pattern: str, replacement: Callable[[re.Match[str]], str]) -> Callable[[str], str]:
    """Change all such instructions of a function: which of its widths a flow takes is not said."""
    return lambda body: re.sub(pattern, replacement, body)


def test_the_kernels_as_they_are(build: Build) -> None:
    build.put_back()
    done = build.tested()
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


BARRIER, COPY = r"bar\.sync", r"cp\.async\.ca\.shared\.global \t?\[%\w+\], \[%\w+\], 4;"
FMA = r"fma\.rn\.f32 \t(%f\d+), (%f\d+), (%f\d+), (%f\d+);"
LOAD = r"(ld\.shared\.(?:v\d\.)?[fb]32 \t[^\[]*\[%\w+\+)(\d+)\]"
SUMS, PRODUCT = ("device_sums", r"\d\dlinear_sumsIfE"), ("device_affine", "(?:kernel_train|block_product)If")
BREAKS: dict[str, tuple[tuple[str, str], str, Callable[[str], str]]] = {
    "sums: no barrier before rows are brought": (SUMS, BARRIER, without_barrier(0)),
    "sums: no barrier behind rows that were brought": (SUMS, BARRIER, without_barrier(1)),
    "sums: another displacement": (SUMS, LOAD, other(LOAD, lambda m: f"{m[1]}{int(m[2]) + 16}]", 0)),
    "sums: another factor": (SUMS, FMA, other(FMA, lambda m: f"fma.rn.f32 {m[1]}, {m[2]}, {m[2]}, {m[4]};", 0)),
    "squares: no barrier": (("device_sums", r"\dsquaresIfE"), BARRIER, without_barrier(0)),
    "Adam: two roundings": (
        ("device_sums", "adam_stepIfE"), FMA,
        every(FMA, lambda m: f"{{ .reg .f32 p; mul.rn.f32 p, {m[2]}, {m[3]}; add.rn.f32 {m[1]}, p, {m[4]}; }}"),
    ),
    "products: no barrier behind weights that were brought": (
        PRODUCT, COPY, every(r"(wait_group \t?0;(?:(?!bar\.sync|wait_group)[\s\S])*)\tbar\.sync \t0;\n", lambda m: m[1])
    ),
    "products: other weights": (PRODUCT, COPY, every(LOAD, lambda m: f"{m[1]}{int(m[2]) + 16}]")),
    "products: nobody waits for weights": (PRODUCT, COPY, every(r"wait_group (\t?)1;", lambda m: f"wait_group {m[1]}2;")),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_kernel_is_seen(build: Build, name: str) -> None:
    (variant, function), having, change = BREAKS[name]
    build.put_back()
    build.ptx(variant).write_text(within(build.texts[variant], function, having, change))
    done = build.tested()
    assert done.returncode in (1, -signal.SIGABRT), done.stdout + done.stderr
    assert "1 failed" in done.stdout or "penstock::simt: " in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_kernels_whose_products_may_fuse_with_sums_are_refused(tmp_path: Path) -> None:
    definitions = (
        "-DPENSTOCK_CUDA_EMULATED=0",
        "-DPENSTOCK_DEVICE",
        "-DPENSTOCK_DEVICE_ROWS=128",
        "-DPENSTOCK_ISA=device_sums",
    )
    flags = ("--expt-relaxed-constexpr", "-diag-suppress", "1675")
    source = ROOT / "cpp" / "cuda" / "sums.cu"
    for exact, refused in ((emulated.EXACT, False), ([*emulated.EXACT[1:], "-fmad=true"], True)):
        done = emulated.translated(emulated.made_ptx(source, tmp_path, *definitions, *flags, exact=exact))
        assert (done.returncode == 1) == refused, done.stderr
        assert ("without .rn it may be contracted" in done.stderr) == refused
