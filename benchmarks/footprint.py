"""What penstock takes besides time at work: import, installed size, memory of ``fit``, ``score`` of a large file, Numba."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

IMPORT = """
import json, sys, time
a = time.perf_counter()
import numpy
b = time.perf_counter()
import penstock
c = time.perf_counter()
heavy = ("numba", "matplotlib", "sklearn", "tqdm", "safetensors", "scipy")
print(json.dumps({"numpy": b - a, "penstock": c - b, "heavy": [m for m in heavy if m in sys.modules]}))
"""

SIZE = """
import importlib.metadata as metadata, json, os
import penstock
sizes = {}
for name in ("tqdm", "narwhals"):
    files = metadata.files(name) or []
    sizes[name] = sum(os.path.getsize(f.locate()) for f in files if f.suffix != ".pyc" and os.path.exists(f.locate()))
top = os.path.dirname(penstock.__file__)
sizes["penstock"] = sum(
    os.path.getsize(os.path.join(folder, name))
    for folder, _, names in os.walk(top)
    for name in names
    if "__pycache__" not in folder
)
print(json.dumps(sizes))
"""

# RssAnon counts what the process allocated; pages of the mapped file do not count.
MEMORY = """
import json, sys, threading, time
import numpy as np
import penstock as ps

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

start = peak = anonymous()
done = False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)

x = np.memmap(sys.argv[1], np.float32, "r", shape=(1_000_000, 16))
watcher = threading.Thread(target=watch)
watcher.start()
flow = ps.realnvp(16, layers=8, hidden=(64, 64), activation="relu", mixing="random", rng=0)
flow.fit(x, batch_size=100_000, epochs=3)
done = True
watcher.join()
print(json.dumps({"above_import": peak - start, "backend": flow.backend}))
"""

# Scores a file by the command line, and the same rows by log_prob in memory, in turns. The median of the ratios within
# a turn is what counts; memory is the peak of the command alone, before anything else is in the process.
SCORE = """
import contextlib, io, json, os, statistics, sys, threading, time
import numpy as np
import penstock as ps
from penstock.cli import main

def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("RssAnon"))

data, model, out, turns = sys.argv[1:]

def score():
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["score", model, data, "-o", out, "-q"]) == 0
    return time.perf_counter() - began

start = peak = anonymous()
done = False

def watch():
    global peak
    while not done:
        peak = max(peak, anonymous())
        time.sleep(0.002)

watcher = threading.Thread(target=watch)
watcher.start()
score()
done = True
watcher.join()
x = np.load(data)
flow = ps.load(model)
flow.log_prob(x[:1000])
command, memory = [], []
for _ in range(int(turns)):
    command.append(score())
    began = time.perf_counter()
    log_prob = flow.log_prob(x)
    memory.append(time.perf_counter() - began)
assert np.load(out).tobytes() == log_prob.tobytes()
print(json.dumps({
    "rows": len(x), "anonymous": peak, "above_import": peak - start, "seconds": command, "seconds_in_memory": memory,
    "rows_per_second": len(x) / statistics.median(command), "in_memory": len(x) / statistics.median(memory),
    "ratio": statistics.median(a / b for a, b in zip(command, memory)),
}))
"""

FIRST_CALL = """
import json, time
import numpy as np
import penstock as ps
flow = ps.realnvp(16, layers=8, hidden=(64, 64), activation="relu", mixing="random", rng=0, backend="numba")
x = np.zeros((1000, 16), np.float32)
a = time.perf_counter()
flow.log_prob(x)
b = time.perf_counter()
flow.fit(x + np.random.default_rng(0).standard_normal(x.shape).astype(np.float32), epochs=1)
c = time.perf_counter()
print(json.dumps({"log_prob": b - a, "fit": c - b}))
"""


def child(code: str, *arguments: str, **environment: str) -> dict[str, Any]:
    """The JSON that a fresh interpreter prints last."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measure() -> dict[str, Any]:
    """Import, size and memory."""
    child(IMPORT)
    readings = [child(IMPORT) for _ in range(15)]
    out: dict[str, Any] = {
        "import_numpy": statistics.median(r["numpy"] for r in readings),
        "import_penstock_after_numpy": statistics.median(r["penstock"] for r in readings),
        "imported_heavy_modules": readings[0]["heavy"],
        "installed_bytes": child(SIZE),
    }
    print(
        f"import: NumPy {1e3 * out['import_numpy']:.0f} ms, penstock {1e3 * out['import_penstock_after_numpy']:.0f} ms more"
    )
    print("installed: " + ", ".join(f"{k} {v / 1e6:.2f} MB" for k, v in out["installed_bytes"].items()))
    if os.path.exists("/proc/self/status"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.f4"
            path.write_bytes(b"")
            write_rows(path)
            out["fit_memory"] = child(MEMORY, str(path))
        print(
            f"fit on 1e6 x 16 rows from a memmap: {out['fit_memory']['above_import'] / 1e6:.0f} MB above the import",
            flush=True,
        )
    return out


def write_rows(path: Path, rows: int = 1_000_000, dim: int = 16, header: bytes = b"") -> None:
    """Random numbers in float32, a part at a time, after a header if any."""
    import numpy as np

    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(header)
        for first in range(0, rows, 100_000):
            file.write(rng.standard_normal((min(100_000, rows - first), dim), dtype=np.float32).tobytes())


def score(rows: int = 20_000_000, dim: int = 7, turns: int = 5) -> dict[str, Any]:
    """``penstock score`` of a file: its anonymous memory, and its rows a second against ``log_prob`` in memory."""
    import io

    import numpy as np

    import penstock as ps

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})
    with tempfile.TemporaryDirectory() as folder:
        data, model = Path(folder) / "rows.npy", Path(folder) / "model.safetensors"
        write_rows(data, rows, dim, header.getvalue())
        ps.realnvp(dim, layers=8, hidden=(64, 64), activation="relu", mixing="random", rng=0).save(model)
        out = child(SCORE, str(data), str(model), str(Path(folder) / "log_prob.npy"), str(turns))
    print(
        f"score of {rows:.3g} x {dim} rows: {out['anonymous'] / 1e6:.0f} MB anonymous, "
        f"{out['above_import'] / 1e6:.0f} MB above the import; {out['rows_per_second']:.3g} rows/s, "
        f"{out['in_memory']:.3g} by log_prob in memory, time over time {out['ratio']:.3f}",
        flush=True,
    )
    return out


def numba_start() -> dict[str, Any]:
    """First calls of the Numba backend with an empty disk cache, and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        cold = child(FIRST_CALL, NUMBA_CACHE_DIR=folder, XDG_CACHE_HOME=folder, PENSTOCK_BACKEND="numba")
        cached = child(FIRST_CALL, NUMBA_CACHE_DIR=folder, XDG_CACHE_HOME=folder, PENSTOCK_BACKEND="numba")
    print(f"Numba: first log_prob cold {cold['log_prob']:.1f} s, cached {cached['log_prob']:.2f} s", flush=True)
    return {"cold": cold, "cached": cached}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
