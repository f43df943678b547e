"""What penstock takes besides time at work: import, installed size, memory of ``fit``, start of the Numba backend."""

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
for name in ("safetensors", "threadpoolctl", "tqdm"):
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
flow = ps.realnvp(16, layers=8, hidden=(64, 64), rng=0)
flow.fit(x, batch_size=100_000, epochs=3)
done = True
watcher.join()
print(json.dumps({"above_import": peak - start, "backend": flow.backend}))
"""

FIRST_CALL = """
import json, time
import numpy as np
import penstock as ps
flow = ps.realnvp(16, layers=8, hidden=(64, 64), rng=0, backend="numba")
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


def write_rows(path: Path) -> None:
    """A million rows of 16 random numbers."""
    import numpy as np

    rng = np.random.default_rng(0)
    with path.open("wb") as file:
        for _ in range(10):
            file.write(rng.standard_normal((100_000, 16), dtype=np.float32).tobytes())


def numba_start() -> dict[str, Any]:
    """First calls of the Numba backend with an empty disk cache, and with a filled one."""
    with tempfile.TemporaryDirectory() as folder:
        cold = child(FIRST_CALL, NUMBA_CACHE_DIR=folder, XDG_CACHE_HOME=folder, PENSTOCK_BACKEND="numba")
        cached = child(FIRST_CALL, NUMBA_CACHE_DIR=folder, XDG_CACHE_HOME=folder, PENSTOCK_BACKEND="numba")
    print(f"Numba: first log_prob cold {cold['log_prob']:.1f} s, cached {cached['log_prob']:.2f} s", flush=True)
    return {"cold": cold, "cached": cached}


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
