"""Draws and densities by dask on two processes, beside two processes of plain Python: rates, memory a worker, overhead a task.

python benchmarks/dask_draws.py --folder SCRATCH --rows 1e8

Draws of a flow of eight dimensions in float32 go to files, one .npy a chunk, 32 bytes a draw; each turn removes its own
before the next. Dask and plain processes take turns, and each process computes on one thread. The overhead of a task is
what ``log_prob`` of ``--tasks`` chunks of 1e5 rows, which lie on a worker, takes there beyond the same calls in one plain
process, per chunk; beside it stands what dask takes by itself for as many chunks of a function that only sleeps as long.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import time
from pathlib import Path
from typing import Any

DIM, SEED, ROWS_A_TASK = 8, 7, 100_000


def model() -> bytes:
    """The flow of the other benchmarks, with eight couplings."""
    import penstock as ps

    return ps.realnvp(DIM, layers=8, hidden=(64, 64), activation="relu", mixing="random", rng=0).to_bytes()


def plain_draws(data: bytes, folder: str, firsts: range, chunk: int, rows: int, queue: Any) -> None:
    """One plain process: some chunks of the sample, a file each. Tells its seconds and its largest memory."""
    import numpy as np

    import penstock as ps

    flow = ps.from_bytes(data)
    ps.set_num_threads(1)
    flow.sample(1)
    begin = time.perf_counter()
    for first in firsts:
        np.save(f"{folder}/{first}.npy", flow.sample(min(chunk, rows - first), rng=SEED, first=first))
    queue.put((time.perf_counter() - begin, peak()))


def plain_densities(data: bytes, tasks: int, queue: Any) -> None:
    """One plain process: the seconds of the calls that tasks make."""
    import numpy as np

    import penstock as ps

    flow = ps.from_bytes(data)
    ps.set_num_threads(1)
    chunks = [np.ones((ROWS_A_TASK, DIM), np.float32) for _ in range(tasks)]
    flow.log_prob(chunks[0])
    begin = time.perf_counter()
    found = [flow.log_prob(chunk) for chunk in chunks]
    queue.put(time.perf_counter() - begin)
    del found


def peak() -> int:
    """The largest resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_processes(function: Any, arguments: list[tuple[Any, ...]]) -> list[Any]:
    """What some processes put into their queue."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=function, args=(*own, queue)) for own in arguments]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    return found


def dask_draws(client: Any, flow: Any, folder: Path, rows: int, chunk: int) -> float:
    """The same draws by the workers of a cluster, a file each chunk: seconds."""
    import dask.array as da

    import penstock as ps

    begin = time.perf_counter()
    da.to_npy_stack(folder, ps.dask.sample(flow, rows, chunks=chunk, rng=SEED))
    return time.perf_counter() - begin


def dask_densities(client: Any, flow: Any, tasks: int) -> float:
    """``log_prob`` of chunks that lie on the workers, where the results stay: seconds."""
    import dask.array as da
    import numpy as np
    from dask.distributed import wait

    import penstock as ps

    X = da.ones((tasks * ROWS_A_TASK, DIM), dtype=np.float32, chunks=(ROWS_A_TASK, DIM)).persist()
    wait(X)
    begin = time.perf_counter()
    wait(ps.dask.log_prob(flow, X).persist())
    return time.perf_counter() - begin


def asleep(x: Any, seconds: float) -> Any:
    """A function of a chunk that does nothing for a while."""
    time.sleep(seconds)
    return x[:, 0].copy()


def dask_sleepers(client: Any, tasks: int, seconds: float) -> float:
    """A function of chunks that only sleeps: seconds beyond its sleep."""
    import dask.array as da
    import numpy as np
    from dask.distributed import wait

    X = da.ones((tasks * ROWS_A_TASK, DIM), dtype=np.float32, chunks=(ROWS_A_TASK, DIM)).persist()
    wait(X)
    begin = time.perf_counter()
    wait(X.map_blocks(asleep, seconds, drop_axis=1, dtype=np.float32, meta=np.zeros(0, np.float32)).persist())
    return time.perf_counter() - begin - tasks * seconds


def measure(folder: Path, rows: int, chunk: int, tasks: int, turns: int) -> dict[str, Any]:
    """Medians over turns; memory is the largest of any worker in any turn."""
    from dask.distributed import Client, LocalCluster

    import penstock as ps

    data = model()
    flow = ps.from_bytes(data)
    found: dict[str, list[float]] = {"plain": [], "dask": [], "overhead": [], "sleepers": []}
    memory: dict[str, int] = {"plain": 0, "dask": 0}
    firsts = range(0, rows, chunk)
    for turn in range(turns):
        own = folder / f"draws-{turn}"
        own.mkdir()
        halves = in_processes(plain_draws, [(data, str(own), firsts[k::2], chunk, rows) for k in range(2)])
        shutil.rmtree(own)
        found["plain"].append(max(seconds for seconds, _ in halves))
        memory["plain"] = max(memory["plain"], *(size for _, size in halves))
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            dask_densities(client, flow, 4)  # workers import and compile nothing later
            found["dask"].append(dask_draws(client, flow, own, rows, chunk))
            memory["dask"] = max(memory["dask"], *client.run(peak).values())
            shutil.rmtree(own)
        with (
            LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            dask_densities(client, flow, 4)
            seconds = in_processes(plain_densities, [(data, tasks)])[0]
            found["overhead"].append((dask_densities(client, flow, tasks) - seconds) / tasks)
            found["sleepers"].append(dask_sleepers(client, tasks, seconds / tasks) / tasks)
    plain, by_dask, overhead, sleepers = (statistics.median(found[name]) for name in found)
    return {
        "rows": rows,
        "chunk": chunk,
        "rows_per_second": {"plain": rows / plain, "dask": rows / by_dask},
        "rate_ratio": plain / by_dask,
        "memory": memory,
        "overhead_a_task": overhead,
        "of_dask_itself": sleepers,
        "readings": found,
    }


def main() -> None:
    """Read the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the draws go")
    parser.add_argument("--rows", type=float, default=1e8)
    parser.add_argument("--chunk", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=200, help="of 1e5 rows, for the overhead")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, help="a JSON file of the results")
    arguments = parser.parse_args()
    found = measure(arguments.folder, int(arguments.rows), arguments.chunk, arguments.tasks, arguments.turns)
    memory = found["memory"]
    print(
        f"{found['rows']:.3g} draws of {DIM} float32 columns to files, two processes: dask "
        f"{found['rows_per_second']['dask']:.3g} rows/s, plain {found['rows_per_second']['plain']:.3g}, ratio "
        f"{found['rate_ratio']:.3f}; memory a process: dask {memory['dask'] / 1e6:.0f} MB, plain {memory['plain'] / 1e6:.0f} MB; "
        f"overhead a task of {ROWS_A_TASK} rows {1e3 * found['overhead_a_task']:.2f} ms, of dask itself "
        f"{1e3 * found['of_dask_itself']:.2f} ms"
    )
    if arguments.output:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
