"""What training on several ranks costs: pieces measured by two ranks on one machine, and what follows from them for a network.

python benchmarks/scaling.py [--output FILE] [--seconds 3]

needs mpi4py and ``mpirun``, and an idle machine with two processors. Measured, with one thread a rank: steps of one and of two
ranks, and of a fit without ``comm``; the parts of a step (gradients of slices, their sum, Adam); transfers over loopback; how
long steps differ from each other. Computed, by ``step_time`` below: weak and strong scaling to 64 ranks, the batch from which on
ranks pay, draws to disk, and what stragglers cost.
"""

from __future__ import annotations

import argparse
import json
import math
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

LATENCY, BANDWIDTH = 2e-6, 100e9 / 8  # of the network: seconds a message, bytes a second
RANKS = (1, 2, 4, 8, 16, 32, 64)
BATCHES = (256, 1024, 4096, 16_384, 65_536)
FLOWS: dict[str, Callable[[], ps.Flow]] = {
    "D8": lambda: ps.nsf(8, layers=6, hidden=(64, 64), rng=0),
    "D16": lambda: ps.realnvp(16, layers=8, hidden=(64, 64), rng=0),
    "D64": lambda: ps.realnvp(64, layers=8, hidden=(64, 64), rng=0),
    "D6x256": lambda: ps.nsf(6, layers=6, hidden=(256, 256), rng=0),
}
FIGURES = (("D16", 4096), ("D64", 16_384))
ROWS = 1 << 17


# --- what ranks measure -----------------------------------------------------------------------------------------


def repeated(call: Callable[[], object], seconds: float, least: int = 5) -> list[float]:
    """Seconds of calls, for so long."""
    call()
    found: list[float] = []
    end = time.perf_counter() + seconds
    while len(found) < least or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return found


def table(dim: int) -> Any:
    """Rows to train on, the same on all ranks."""
    return np.random.default_rng(0).normal(size=(ROWS, dim)).astype(np.float32)


def fitted(flow: ps.Flow, x: Any, batch: int, epochs: int, comm: Any) -> float:
    """Seconds of a fit."""
    if comm is not None:
        comm.Barrier()
    began = time.perf_counter()
    flow.fit(x, batch_size=batch, epochs=epochs, validation=0, rng=0, comm=comm, progress=False)
    return time.perf_counter() - began


def step_of(make: Callable[[], ps.Flow], batch: int, seconds: float, comm: Any) -> dict[str, float]:
    """Seconds a step: the difference of a longer and a shorter fit, so that what a fit costs by itself is not in it.

    The median of rounds in turns, with and without ``comm`` where this rank is alone.
    """
    x = table(make().dim)
    x = x[: len(x) // batch * batch]
    size = 1 if comm is None else comm.size
    steps = len(x) // batch
    kinds: dict[str, Any] = {"comm": comm} | ({"plain": None} if size == 1 else {})
    part = x if size == 1 else x[len(x) * comm.rank // size : len(x) * (comm.rank + 1) // size]
    found: dict[str, list[float]] = {kind: [] for kind in kinds}
    whole = fitted(make(), part, batch, 1, comm)
    more = 1 + max(1, math.ceil(seconds / 7 / whole))
    if comm is not None:
        more = comm.bcast(more)
    for _ in range(7):
        for kind, own in kinds.items():
            short, long = fitted(make(), part, batch, 1, own), fitted(make(), part, batch, 1 + more, own)
            found[kind].append((long - short) / (more * steps))
    return {kind: float(np.median(times)) for kind, times in found.items()}


def trainer_of(flow: ps.Flow) -> Any:
    """What makes the steps of a fit."""
    return flow._runner().trainer(
        flow.params.copy(), flow._snapshot.buffers, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0, clip_norm=1.0,
        frozen=None,
    )  # fmt: skip


def pieces_of(make: Callable[[], ps.Flow], seconds: float) -> dict[str, Any]:
    """The parts of a step of one rank: gradients by rows, Adam and packing, numbers of a gradient."""
    flow = make()
    x = table(flow.dim)
    trainer = trainer_of(flow)
    told: dict[str, Any] = {"numbers": trainer.n_gradient, "rows": {}}
    order = np.random.default_rng(1).permutation(ROWS)
    for batch in (1024, 4096, 16_384):
        starts = flow._runner().slices(batch)
        n = len(starts) - 1
        losses, weights = np.zeros(n), np.zeros(n)

        def part(batch: int = batch, n: int = n, losses: Any = losses, weights: Any = weights) -> Any:
            return trainer.part(
                x, None, None, weight_exponent=0, index=order[:batch], batch_size=batch, slices=range(n), losses=losses,
                weights=weights,
            )  # fmt: skip

        times = repeated(part, seconds / 3)
        told["rows"][batch] = float(np.median(times))
        told["jitter"] = float(np.std(np.sort(times)[: int(0.98 * len(times))]) / np.median(times))
    nodes = part().copy()
    told["adam"] = float(np.median(repeated(lambda: trainer.finish(nodes[0], 1.0, 1.0, 4096, 1.0, 1e-9), seconds / 3)))
    other = np.zeros_like(nodes[0])
    told["add"] = float(np.median(repeated(lambda: np.add(nodes[0], other, out=other), 0.2)))
    return told


def transfers(comm: Any, sizes: list[int], seconds: float) -> dict[str, Any]:
    """Seconds of a meeting, and of sums of gradients of so many numbers, over loopback."""
    from penstock.training.ranks import Ranks, Sums

    ranks = Ranks(comm)
    told: dict[str, Any] = {}

    def meeting() -> None:
        ranks.meet([1.0])

    def timed(call: Callable[[], object]) -> float:
        comm.Barrier()
        began = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - began) / times

    times = 200
    told["meeting"] = float(np.median([timed(meeting) for _ in range(20)]))
    told["sum"] = {}
    for n in sizes:
        sums, nodes = (
            Sums(ranks, n, np.float32, lambda rank: range(8 * rank, 8 * rank + 8)),
            np.ones((1, n), np.float32),
        )
        times = max(3, int(seconds / 20 / (4e-9 * n + 2e-5)))
        told["sum"][n] = float(np.median([timed(lambda sums=sums, nodes=nodes: sums.of(nodes)) for _ in range(9)]))
    return told


def measure(what: str, out: str, seconds: float) -> None:
    """In a rank."""
    from mpi4py import MPI

    comm = MPI.COMM_WORLD
    found: dict[str, Any]
    if what == "steps":
        found = {f"{name} {batch}": step_of(FLOWS[name], batch, seconds, comm) for name, batch in FIGURES}
    else:
        sizes = [trainer_of(make()).n_gradient for make in FLOWS.values()]
        found = transfers(comm, sizes, seconds)
    if comm.rank == 0:
        Path(out).write_text(json.dumps(found))


def by_ranks(n: int, what: str, seconds: float) -> Any:
    """What n ranks measure, each on one thread."""
    mpirun = shutil.which("mpirun", path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]))
    if mpirun is None:
        raise SystemExit("there is no mpirun: pip install mpich mpi4py")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out.json")
        words = [
            mpirun,
            "-n",
            str(n),
            sys.executable,
            __file__,
            "--rank",
            what,
            "--output",
            out,
            "--seconds",
            str(seconds),
        ]
        subprocess.run(words, check=True, env={**os.environ, "PENSTOCK_NUM_THREADS": "1"})
        return json.loads(Path(out).read_text())


def draws(seconds: float) -> dict[str, float]:
    """Draws a second of one thread, and bytes a second to disk, of D8 in float32."""
    flow, n = FLOWS["D8"](), 1 << 18
    with ps.threads(1):
        rate = n / float(np.median(repeated(lambda: flow.sample(n, rng=0), seconds)))
    rows = flow.sample(n, rng=0)
    with tempfile.NamedTemporaryFile(dir=".") as file:

        def write() -> None:
            file.seek(0)
            for _ in range(8):
                file.write(rows.data)
            file.flush()
            os.fsync(file.fileno())

        disk = 8 * rows.nbytes / float(np.median(repeated(write, seconds)))
    return {"draws": rate, "disk": disk}


# --- what follows -----------------------------------------------------------------------------------------------


def slices(batch: int) -> int:
    """Of a batch, as the engine cuts it."""
    return min(16, -(-batch // 64)) if batch <= 4096 else min(64, -(-batch // 256))


def step_time(pieces: Any, meeting: float, ranks: int, batch: int, slow: float = 1.0) -> float:
    """Seconds of a step.

    ``compute``: a rank with the most slices has ``ceil(S / R) / S`` of the rows, at the seconds a row that large batches take,
    ``slow`` times as long. ``adam``: norm, Adam and packing, on every rank. ``send``: the meeting takes ``log2 R`` messages; each
    rank then sends ``(R - 1) / R`` of its nodes in ``R - 1`` messages that are on the way together, adds up as many pieces as
    there are nodes, and gathers the sum in ``log2 R`` messages.
    """
    s = slices(batch)
    most = -(-s // ranks)
    a_row = pieces["rows"]["16384"] / 16_384
    compute = slow * a_row * batch * most / s
    if ranks == 1:
        return compute + pieces["adam"]
    nodes = 1 if most & (most - 1) == 0 and s % ranks == 0 else 2
    share, size = (ranks - 1) / ranks, 4 * pieces["numbers"]
    rounds = math.ceil(math.log2(ranks))
    send = meeting + rounds * LATENCY
    send += LATENCY + (ranks - 1) * 0.2e-6 + nodes * share * size / BANDWIDTH
    send += pieces["add"] * nodes
    send += rounds * LATENCY + share * size / BANDWIDTH
    return compute + pieces["adam"] + send


def stragglers(pieces: Any, meeting: float, ranks: int, batch: int, steps: int = 2000) -> tuple[float, float]:
    """How much longer steps take on the mean: each rank's time varies as it did here; and with one rank 1.3 times slower."""
    rng = np.random.default_rng(0)
    alone = step_time(pieces, meeting, ranks, batch)
    s = slices(batch)
    compute = pieces["rows"]["16384"] / 16_384 * batch * -(-s // ranks) / s
    spread = math.sqrt(math.log1p(pieces["jitter"] ** 2))
    times = compute * np.exp(spread * rng.normal(size=(steps, ranks)) - spread**2 / 2)
    waits = float(times.max(axis=1).mean()) - compute
    times[:, 0] *= 1.3
    return (alone + waits) / alone, (alone + float(times.max(axis=1).mean()) - compute) / alone


def tables(found: Any) -> str:
    """What was measured and what follows, in Markdown."""
    lines = ["Measured: two ranks of one thread on one machine, transfers in shared memory.", ""]
    lines += ["| steps | one rank, ms | two ranks, ms | ratio | one rank / without comm |", "|---|---|---|---|---|"]
    for name in found["one"]:
        one, two = found["one"][name], found["two"][name]
        lines.append(
            f"| {name} | {1e3 * one['comm']:.3f} | {1e3 * two['comm']:.3f} | {one['comm'] / two['comm']:.3f} | "
            f"{one['comm'] / one['plain']:.3f} |"
        )
    lines += ["", "| flow | gradient, kB | 16 384 rows, ms | Adam, ms | sum of two ranks, ms | meeting, µs | jitter |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for name, own in found["pieces"].items():
        lines.append(
            f"| {name} | {4e-3 * own['numbers']:.0f} | {1e3 * own['rows']['16384']:.1f} | {1e3 * own['adam']:.3f} | "
            f"{1e3 * found['transfers']['sum'][str(own['numbers'])]:.3f} | {1e6 * found['transfers']['meeting']:.1f} | "
            f"{100 * own['jitter']:.1f} % |"
        )
    meeting = found["transfers"]["meeting"]
    lines += ["", f"Computed: {BANDWIDTH * 8 / 1e9:.0f} Gbit/s, {1e6 * LATENCY:.0f} µs, one thread a rank.", ""]
    lines += ["Strong scaling, one batch of 16 384 rows: how many times faster than one rank.", ""]
    lines += ["| flow | " + " | ".join(str(r) for r in RANKS) + " |", "|---|" + "---|" * len(RANKS)]
    for name, own in found["pieces"].items():
        one = step_time(own, meeting, 1, 16_384)
        lines.append(
            f"| {name} | " + " | ".join(f"{one / step_time(own, meeting, r, 16_384):.1f}" for r in RANKS) + " |"
        )
    lines += ["", "Weak scaling, 1024 rows a rank: part of the speed of one rank with 1024 rows.", ""]
    lines += ["| flow | " + " | ".join(str(r) for r in RANKS) + " |", "|---|" + "---|" * len(RANKS)]
    for name, own in found["pieces"].items():
        one = step_time(own, meeting, 1, 1024)
        lines.append(
            f"| {name} | " + " | ".join(f"{one / step_time(own, meeting, r, 1024 * r):.2f}" for r in RANKS) + " |"
        )
    lines += ["", "The smallest batch with half of the ideal speed, of these: 64 times a power of two.", ""]
    lines += ["| flow | " + " | ".join(str(r) for r in RANKS[1:]) + " |", "|---|" + "---|" * (len(RANKS) - 1)]
    for name, own in found["pieces"].items():
        lines.append(f"| {name} | " + " | ".join(break_even(own, meeting, r) for r in RANKS[1:]) + " |")
    lines += [
        "",
        "Stragglers, 16 384 rows: times as long by the jitter of steps here; with one rank 1.3 times slower.",
        "",
    ]
    lines += ["| flow | " + " | ".join(str(r) for r in RANKS[1:]) + " |", "|---|" + "---|" * (len(RANKS) - 1)]
    for name, own in found["pieces"].items():
        cells = [stragglers(own, meeting, r, 16_384) for r in RANKS[1:]]
        lines.append(f"| {name} | " + " | ".join(f"{a:.2f}; {b:.2f}" for a, b in cells) + " |")
    rate, disk = found["draws"]["draws"], found["draws"]["disk"]
    workers = 100
    compute, write = 1e10 / (workers * rate), 1e10 * 32 / (workers * disk)
    lines += [
        "",
        f"10^10 draws of D8 in float32 (320 GB) on {workers} workers of one thread: {compute:.0f} s of drawing at {rate:.3g} "
        f"rows/s each, {write:.0f} s of writing at {disk / 1e6:.0f} MB/s each, or {1e10 * 32 / BANDWIDTH:.0f} s where one file "
        f"server takes {BANDWIDTH * 8 / 1e9:.0f} Gbit/s.",
    ]
    return "\n".join(lines) + "\n"


def break_even(pieces: Any, meeting: float, ranks: int) -> str:
    """The smallest batch by which ranks reach half of their ideal speed."""
    for power in range(15):
        batch = 64 << power
        if slices(batch) >= ranks:
            one, many = (step_time(pieces, meeting, r, batch) for r in (1, ranks))
            if one / many >= ranks / 2:
                return str(batch)
    return "none"


def main() -> None:
    """Measure, compute, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", help="a JSON file of what was measured")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measurement")
    parser.add_argument("--from", dest="source", help="measured before: a file of --output")
    parser.add_argument("--rank", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank:
        return measure(given.rank, given.output, given.seconds)
    if given.source:
        found = json.loads(Path(given.source).read_text())
    else:
        with ps.threads(1):
            pieces = {name: pieces_of(make, given.seconds) for name, make in FLOWS.items()}
        found = {
            "one": by_ranks(1, "steps", given.seconds),
            "two": by_ranks(2, "steps", given.seconds),
            "transfers": by_ranks(2, "transfers", given.seconds),
            "pieces": pieces,
            "draws": draws(given.seconds),
        }
        found = json.loads(json.dumps(found))
        if given.output:
            Path(given.output).write_text(json.dumps(found, indent=1) + "\n")
    print(tables(found))
    return None


if __name__ == "__main__":
    main()
