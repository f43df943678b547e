"""How long a million rows of five columns take to be read and written as tables, alone and in whole commands.

    python benchmarks/tables.py [--rows N] [--repeats N]

Prints wall and processor seconds of the fastest of some repeats: on a shared machine the latter say more.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import penstock as ps
from penstock.cli.sinks import table_file
from penstock.cli.tables import read_table

NAMES = "abcde"
COMMAND = "import sys; from penstock.cli import main; sys.exit(main(sys.argv[1:]))"


def fastest(work: Callable[[], object], repeats: int, who: int = resource.RUSAGE_SELF) -> tuple[float, float]:
    """Wall and processor seconds of the fastest of some runs, of this process or of its children."""
    readings = []
    for _ in range(repeats):
        before, began = resource.getrusage(who), time.perf_counter()
        work()
        wall, after = time.perf_counter() - began, resource.getrusage(who)
        readings.append((wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))
    return min(readings)


def write(path: Path, rows: np.ndarray) -> None:
    """A table, a chunk at a time, as the command line writes it."""
    with table_file(str(path), [(name, rows.dtype) for name in NAMES], name="rows") as append:
        for first in range(0, len(rows), 1 << 17):
            append(rows[first : first + (1 << 17)])


def read(path: Path, columns: int) -> int:
    """Go through a table, a chunk at a time."""
    return sum(len(chunk) for chunk in read_table(str(path)).chunks(range(columns)))


def command(*words: object) -> None:
    """A whole command, in a process of its own."""
    subprocess.run([sys.executable, "-c", COMMAND, *map(str, words), "-q"], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows, repeats = np.random.default_rng(0).normal(size=(options.rows, 5)), options.repeats
    kinds = [".csv", ".npy", *([".parquet"] if importlib.util.find_spec("pyarrow") else [])]
    print(
        f"{options.rows} rows of 5 columns, {os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}: wall s, processor s"
    )

    def tell(what: str, seconds: tuple[float, float]) -> None:
        print(f"{what:32s} {seconds[0]:6.2f} {seconds[1]:6.2f}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for dtype in (np.float64, np.float32):
            table = rows.astype(dtype)
            for kind in kinds:
                path = Path(folder, f"{np.dtype(dtype)}{kind}")
                tell(f"write {path.name}", fastest(lambda: write(path, table), repeats))  # noqa: B023
                tell(f"read {path.name}", fastest(lambda: read(path, 5), repeats))  # noqa: B023
        tell("read 2 of 5, float64.csv", fastest(lambda: read(Path(folder, "float64.csv"), 2), repeats))
        model = Path(folder, "model")
        ps.nsf(5, rng=0).fit(rows[:10_000], epochs=1, rng=0).save(model)
        children = resource.RUSAGE_CHILDREN
        for kind in kinds:
            path, out = Path(folder, f"float64{kind}"), Path(folder, f"out{kind}")
            tell(f"penstock score {path.name}", fastest(lambda: command("score", model, path), repeats, children))  # noqa: B023
            tell(
                f"penstock sample -o {out.name}",
                fastest(lambda: command("sample", model, "-n", options.rows, "-o", out), repeats, children),  # noqa: B023
            )


if __name__ == "__main__":
    main()
