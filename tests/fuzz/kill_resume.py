"""Kills trainings at random moments, resumes them, and compares the bits of their ends with those of runs never cut short.

``python tests/fuzz/kill_resume.py --seed 1 --kills 100`` prints how many resumed to the same bits; the exit status is 1 if one
did not. Each run is a process of its own, killed (SIGKILL) once or several times, and then left to end. Kills count that left a
checkpoint to resume; those before the first write happen too. Runs take turns through
schedules, precisions and backends, with and without validation rows, weights, context, running mean, ActNorm and frozen
parameters.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

import penstock as ps  # noqa: E402
from cases import BACKENDS  # noqa: E402

Array = np.ndarray[Any, Any]

ROWS = 1200
COMMON: dict[str, Any] = {"epochs": 60, "batch_size": 40, "rng": 5, "progress": False, "learning_rate": 3e-3}
SECONDS = {"cpp": 1.5, "numba": 4.0}  # after which nearly all of them have ended
LONGER = {"cpp": 8, "numba": 1}  # so many times the epochs, for runs of about a second
TIMES = {"seconds", "rows_per_second"}  # of a history; they are in no file


def table(seed: int, rows: int, columns: int) -> Array:
    """Rows that are no Gaussian."""
    source = np.random.default_rng(seed)
    x = source.standard_normal((rows, columns))
    x[:, -1] += x[:, 0] ** 2
    return x


def weights(seed: int) -> Array:
    """Weights of which a few are zero, in a row: with a small batch, one that weighs nothing."""
    w = np.random.default_rng(seed).uniform(0.5, 2, ROWS)
    w[::3] = 0
    return w


def _glow(dtype: str, backend: str) -> Any:
    return ps.glow(3, layers=2, hidden=(16,), dtype=dtype, rng=3, backend=backend)


def _nsf(dtype: str, backend: str) -> Any:
    return ps.nsf_ar(3, layers=2, hidden=(16,), dtype=dtype, rng=3, backend=backend)


def _given(dtype: str, backend: str) -> Any:
    layers = [ps.ActNorm(), ps.Coupling(), ps.Permutation(), ps.Coupling()]
    return ps.Flow(
        ps.StandardNormal(3), layers, 2, dtype, rng=3, embedding=ps.MLP((8,)), embedding_dim=3, backend=backend
    )


def _fitted(dtype: str, backend: str) -> Any:
    return _nsf(dtype, backend).fit(table(9, 300, 3), epochs=3, batch_size=50, rng=1, progress=False)


def own(columns: int = 3) -> dict[str, Any]:
    """Validation rows of one's own."""
    return {"validation": table(2, 300, columns)}


# How the flow is built, its precision, and what fit is given beside the table and COMMON.
RUNS: dict[str, tuple[Callable[[str, str], Any], str, dict[str, Any]]] = {
    "cosine": (_nsf, "float32", {}),
    "cosine without validation": (_glow, "float64", {"validation": 0}),
    "one cycle, decay": (_glow, "float32", {"schedule": "onecycle", "weight_decay": 0.1}),
    "constant, own validation": (_nsf, "float64", {"schedule": "constant", **own()}),
    "constant with patience": (_glow, "float32", {"schedule": "constant", "patience": 25, "learning_rate": 1e-2}),
    "plateau": (_nsf, "float32", {"schedule": "plateau", "patience": 6, "learning_rate": 2e-2, "epochs": 200}),
    "weights": (_glow, "float32", {"sample_weight": weights(4), "batch_size": 3, "epochs": 6}),
    "weights without validation": (_nsf, "float32", {"sample_weight": weights(5), "validation": None}),
    "context, frozen": (_given, "float32", {"context": table(6, ROWS, 2), "freeze": ["layers.1", "embedding.0"]}),
    # Begins again, with weight decay.
    "context in float64, robust": (_given, "float64", {"context": table(6, ROWS, 2), "standardize": "robust"}),
    "no running mean": (_glow, "float32", {"epochs": 8, "batch_size": 20}),
    "a later fit": (_fitted, "float32", {"learning_rate": 1e-2}),
}


def train(name: str, backend: str, *, longer: float = 1, **arguments: Any) -> Any:
    """The flow of a run after its training, of so many times its epochs."""
    build, dtype, own = RUNS[name]
    arguments["epochs"] = round(longer * {**COMMON, **own}["epochs"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build(dtype, backend).fit(table(1, ROWS, 3), **{**COMMON, **own, **arguments})


def digest(flow: Any) -> str:
    """A hash of all bits of a flow and of its history."""
    history = {name: value for name, value in vars(flow.history).items() if name not in TIMES}
    return hashlib.sha256(flow.to_bytes() + repr(history).encode()).hexdigest()[:16]


def child(name: str, backend: str, path: str, every: int) -> None:
    """One process of a run."""
    print("begins", flush=True)
    flow = train(name, backend, longer=LONGER[backend], checkpoint=path, checkpoint_every=every)
    print(digest(flow), flush=True)


def start(name: str, backend: str, path: Path, every: int) -> subprocess.Popen[str]:
    """A process that is about to train."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), *filter(None, sys.path)])}
    command = [sys.executable, str(HERE / "kill_resume.py"), "--child", name, backend, str(path), str(every)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    return process


def interrupted_run(
    name: str, backend: str, path: Path, kills: int, source: random.Random, sign: int = signal.SIGKILL
) -> tuple[str, int, int]:
    """Kill a run so many times, then let it end: its hash, kills that met it, and files that lay there to be resumed."""
    every, met, found, longest = source.choice((50, 400, 2000)), 0, 0, SECONDS[backend]
    for _ in range(kills):
        process, began = start(name, backend, path, every), time.monotonic()
        time.sleep(source.uniform(0, longest))
        process.send_signal(sign)
        process.communicate()
        if process.returncode != -sign:  # it had ended before
            longest = 0.7 * (time.monotonic() - began)
            path.unlink(missing_ok=True)
            continue
        met += 1
        found += path.exists() and b"training.record" in path.read_bytes()
    process = start(name, backend, path, every)
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{name}: the process ended with {process.returncode}")
    return out.strip(), met, found


def main() -> int:
    """Kill and resume until there are enough kills."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        name, backend, path, every = arguments.child
        child(name, backend, path, int(every))
        return 0
    source, turn = random.Random(arguments.seed), 0
    kills = found = resumed = 0
    failed = False
    expected: dict[tuple[str, str], str] = {}
    while found < arguments.kills:
        name, backend = list(RUNS)[turn % len(RUNS)], BACKENDS[turn // len(RUNS) % len(BACKENDS)]
        turn += 1
        if (name, backend) not in expected:
            expected[name, backend] = digest(train(name, backend, longer=LONGER[backend]))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "checkpoint"
            wanted = min(source.randint(1, 4), arguments.kills - found)
            result, met, resumable = interrupted_run(name, backend, path, wanted, source)
            left = sorted(set(os.listdir(folder)) - {"checkpoint"})
        fine = result == expected[name, backend]
        kills, found, resumed = kills + met, found + resumable, resumed + (resumable if fine else 0)
        failed = failed or not fine
        note = f", left behind: {', '.join(left)}" if left else ""
        print(
            f"{name} on {backend}: {met} kills, {resumable} with a checkpoint, {'the same bits' if fine else 'OTHER BITS'}{note}",
            flush=True,
        )
    print(
        f"{kills} kills in {turn} runs, {found} of them with a checkpoint to resume: {resumed} resumed to the same bits"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
