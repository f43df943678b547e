"""Calls of the C library beside the same calls from Python: one row, many rows, loading, many host threads, and its size.

python benchmarks/c_calls.py [--rounds 7] [--threads 2] [--engine BUILD]

Needs a C++ compiler, and an installation with the library (``penstock config``). Rounds alternate between the languages; the
figures are medians of ratios within a round. With ``--engine``, a build folder of ``cmake -S . -B BUILD``, the engine's own call
of one row is timed, too, in a program that has the static library.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from penstock.cli.config import installation

HERE = Path(__file__).resolve().parent
ROWS = 100_000
MODELS: dict[str, Callable[[], ps.Flow]] = {
    "affine D16": lambda: ps.realnvp(16, hidden=(64, 64), rng=0),
    "nsf D8": lambda: ps.nsf(8, rng=0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", type=Path, help="build folder that has libpenstock.a")
    parser.add_argument("--output", type=Path, help="write all rounds to this file, as JSON")
    given = parser.parse_args()
    ps.set_num_threads(given.threads)
    library = Path(installation()["libdir"]) / "libpenstock.so.0"
    print(f"library {library.stat().st_size / 1e6:.2f} MB; needs {needed(library)}")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        program = compiled(Path(folder), given.engine)
        for name, make in MODELS.items():
            results[name] = compared(make(), program, Path(folder), given.rounds, given.threads)
            print(f"\n{name}, {(Path(folder) / 'model.safetensors').stat().st_size / 1e3:.0f} kB")
            report(results[name])
    if given.output:
        given.output.write_text(json.dumps(results, indent=1) + "\n")


def needed(library: Path) -> str:
    """Shared libraries that it asks for."""
    lines = subprocess.run(["objdump", "-p", library], check=True, capture_output=True, text=True).stdout.splitlines()
    return ", ".join(line.split()[1] for line in lines if "NEEDED" in line)


def compiled(folder: Path, engine: Path | None) -> Path:
    """The program in C++, against the shared library or, with the inside of the engine, the static one."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or sys.exit("there is no C++ compiler")
    found = installation()
    source = ["-std=c++20", "-O2", f"-I{found['includedir']}", str(HERE / "c_calls.cpp"), "-o", str(folder / "c_calls")]
    if engine is None:
        linked = [f"{found['libdir']}/libpenstock.so.0", f"-Wl,-rpath,{found['libdir']}"]
    else:
        linked = ["-DBARE", "-DPENSTOCK_X86", f"-I{HERE.parent / 'cpp'}", str(engine / "libpenstock.a")]
    subprocess.run([compiler, *source, *linked, "-pthread"], check=True)
    return folder / "c_calls"


def least(body: Callable[[], object]) -> float:
    """Seconds a call, as the program measures them."""
    n = 1
    while True:
        start = time.perf_counter()
        for _ in range(n):
            body()
        if time.perf_counter() - start > 0.02:
            break
        n *= 2
    best = np.inf
    for _ in range(9):
        start = time.perf_counter()
        for _ in range(n):
            body()
        best = min(best, (time.perf_counter() - start) / n)
    return float(best)


def compared(flow: ps.Flow, program: Path, folder: Path, rounds: int, threads: int) -> list[dict[str, float]]:
    """Seconds of both languages, a round each."""
    path = folder / "model.safetensors"
    flow.save(path)
    x = flow.sample(ROWS, rng=0)
    row = x[:1].copy()
    found = []
    for _ in range(rounds):
        words = subprocess.run(
            [program, path, str(ROWS), str(threads)], check=True, capture_output=True, text=True
        ).stdout
        times = {name: float(value) for name, value in (line.split() for line in words.splitlines())}
        times["python_one_row"] = least(lambda: flow.log_prob(row))
        times["python_rows"] = least(lambda: flow.log_prob(x))
        found.append(times)
    return found


def report(rounds: list[dict[str, float]]) -> None:
    def median(of: Callable[[dict[str, float]], float]) -> float:
        return float(np.median([of(one) for one in rounds]))

    print(f"one row, C      {1e6 * median(lambda t: t['one_row']):.3f} us")
    print(f"one row, Python {1e6 * median(lambda t: t['python_one_row']):.3f} us")
    print(f"C over Python, one row      {median(lambda t: t['one_row'] / t['python_one_row']):.3f}")
    if "bare_row" in rounds[0]:
        print(f"C over the bare engine call {1e6 * median(lambda t: t['one_row'] - t['bare_row']):+.3f} us")
    print(f"C over Python, {ROWS} rows  {median(lambda t: t['rows'] / t['python_rows']):.3f}")
    print(f"load            {1e3 * median(lambda t: t['load']):.3f} ms")
    print(f"32 host threads over 2, rows a second {median(lambda t: t['crowd_32'] / t['crowd_2']):.3f}")
    print(f"2 host threads over 1, rows a second  {median(lambda t: t['crowd_2'] / t['crowd_1']):.3f}")


if __name__ == "__main__":
    main()
