"""Times penstock and its peers in turns and writes the raw readings as JSON. ``README.md`` says how to run and to read.

python benchmarks/run.py --peer-python-torch .venv-torch/bin/python --peer-python-jax .venv-jax/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import footprint
from tasks import AUTOREGRESSIVE, FLOWS, LU_LAYERS, LU_TASKS, SPLINES, SPLINES_DOUBLE, TASKS, WITHOUT_SPLINES

HERE = Path(__file__).resolve().parent


class Peer:
    """A library in a process of its own, which sleeps unless it is asked."""

    def __init__(self, name: str, python: str, script: str, threads: int, **environment: str) -> None:
        self.name = name
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "BENCH_THREADS": str(threads), **environment}
        self.process = subprocess.Popen(
            [python, str(HERE / "peers" / script)], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, **order: Any) -> dict[str, Any]:
        """One order and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with status {self.process.wait()}; its own message stands above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def peak_program(folder: str, isa: str) -> str:
    """The FMA peak of an instruction set, compiled now."""
    flags = {"avx512": ["-DBYTES=64", "-mavx512f"], "avx2": ["-DBYTES=32", "-mavx2", "-mfma"]}
    program = f"{folder}/peak"
    compiler = os.environ.get("CXX", "c++")
    command = [compiler, "-O3", "-pthread", *flags[isa], str(HERE / "fma_peak.cpp"), "-o", program]
    subprocess.run(command, check=True)
    return program


def in_turns(peers: list[Peer], flow: str, task: str, threads: int, rounds: int, peak: str | None) -> dict[str, Any]:
    """Readings of every peer, one after the other, round by round; the FMA peak takes its turn too."""
    out: dict[str, Any] = {}
    ready = []
    for peer in peers:
        answer = peer.ask(do="prepare", flow=flow, task=task, threads=threads)
        out[peer.name] = {"seconds": [], **answer}
        if "error" not in answer:
            ready.append(peer)
    peaks = []
    for _ in range(rounds):
        for peer in ready:
            answer = peer.ask(do="time", inner={**TASKS, **LU_TASKS}[task].inner)
            out[peer.name]["seconds"].append(answer["seconds"])
        if peak is not None:
            done = subprocess.run([peak, str(threads)], capture_output=True, text=True, check=True)
            peaks.append(float(done.stdout))
    for peer in ready:
        out[peer.name]["median"] = statistics.median(out[peer.name]["seconds"])
    if peaks:
        out["fma_peak_gflops"] = peaks
    line = ", ".join(f"{peer.name} {1e3 * out[peer.name]['median']:.4g} ms" for peer in ready)
    print(
        f"{flow} {task}, {threads} threads: {line}" + (f", peak {max(peaks):.4g} GFLOP/s" if peaks else ""), flush=True
    )
    return out


def machine() -> dict[str, Any]:
    """Where this was measured, and how busy it was."""
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return {
        "processor": model,
        "usable_processors": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "system": platform.platform(),
    }


def main() -> None:
    """The whole programme, or the groups that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python-torch", metavar="PYTHON", help="interpreter of an environment that has torch")
    parser.add_argument("--peer-python-jax", metavar="PYTHON", help="interpreter of an environment that has jax")
    parser.add_argument("--peer-python-nflows", metavar="PYTHON", help="interpreter of an environment that has nflows")
    parser.add_argument("--peer-python-zuko", metavar="PYTHON", help="interpreter of an environment that has zuko")
    parser.add_argument(
        "--peer-python-flowjax", metavar="PYTHON", help="interpreter of an environment that has flowjax"
    )
    parser.add_argument(
        "--peer-python-madspace", metavar="PYTHON", help="interpreter of an environment that has madspace"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--flows", nargs="+", choices=FLOWS, default=list(FLOWS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    groups = ("tasks", "lu", "autoregressive", "splines", "share", "threads", "numba", "footprint", "score")
    parser.add_argument("--groups", nargs="+", choices=groups, default=list(groups))
    parser.add_argument("--output", type=Path, default=HERE / "results" / "latest.json")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    if load > 0.5:
        print(
            f"note: the machine is busy (load {load:.2f}); only ratios within one round mean anything", file=sys.stderr
        )

    results: dict[str, Any] = {"machine": machine(), "threads": given.threads, "rounds": given.rounds}
    peers = [Peer("penstock", sys.executable, "penstock_.py", given.threads)]
    if given.peer_python_jax:
        peers.append(Peer("jax", given.peer_python_jax, "jax_.py", given.threads))
    if given.peer_python_torch:
        peers.append(Peer("torch_compiled", given.peer_python_torch, "torch_.py", given.threads, BENCH_COMPILED="1"))
        peers.append(Peer("torch_eager", given.peer_python_torch, "torch_.py", given.threads))
    results["versions"] = {peer.name: peer.ask(do="versions")["versions"] for peer in peers}
    isa = results["versions"]["penstock"]["isa"]

    with tempfile.TemporaryDirectory() as folder:
        peak = peak_program(folder, isa) if isa in ("avx2", "avx512") else None
        if "tasks" in given.groups:
            results["tasks"] = {
                flow: {
                    task: in_turns(
                        peers, flow, task, given.threads, given.rounds, peak if task in ("log_prob", "sample") else None
                    )
                    for task in given.tasks
                }
                for flow in given.flows
            }
        if "lu" in given.groups:
            rivals = [peer for peer in peers if peer.name == "torch_eager"]
            if given.peer_python_nflows:
                rivals.append(Peer("nflows", given.peer_python_nflows, "nflows_.py", given.threads))
                results["versions"]["nflows"] = rivals[-1].ask(do="versions")["versions"]
            results["lu"] = {
                layer: {
                    task: in_turns([peers[0], *rivals], layer, task, given.threads, given.rounds, None)
                    for task in LU_TASKS
                }
                for layer in LU_LAYERS
            }
            results["glow"] = glow(peers[0], given.threads, given.rounds)
        if "autoregressive" in given.groups:
            results["autoregressive"] = {
                flow: autoregressive(peers[0], flow, given.threads, given.rounds) for flow in AUTOREGRESSIVE
            }
        if "splines" in given.groups:
            results["splines"], versions = splines(peers[0], given)
            results["versions"].update(versions)
        if "share" in given.groups:
            results["share"] = spline_share(peers[0], given)
        if "threads" in given.groups:
            results["scaling"] = scaling(peers[0], given.flows, given.rounds)
        if "numba" in given.groups:
            rivals = [peer for peer in peers if peer.name == "torch_eager"]
            numba = Peer("penstock_numba", sys.executable, "penstock_.py", given.threads, BENCH_BACKEND="numba")
            results["numba"] = {
                "D16 log_prob": in_turns([numba, *rivals], "D16", "log_prob", given.threads, given.rounds, None),
                **footprint.numba_start(),
            }
            numba.close()
    for peer in peers:
        peer.close()
    if "footprint" in given.groups:
        results["footprint"] = footprint.measure()
    if "score" in given.groups:
        results["score"] = footprint.score()
    given.output.parent.mkdir(parents=True, exist_ok=True)
    if given.output.exists():  # groups that were not measured now keep their last results
        before = json.loads(given.output.read_text())
        if "tasks" in results:
            flows = {**before.get("tasks", {}), **results["tasks"]}
            results["tasks"] = {
                name: {**before.get("tasks", {}).get(name, {}), **tasks} for name, tasks in flows.items()
            }
        results["versions"] = {**before.get("versions", {}), **results["versions"]}
        if set(given.groups) == {"footprint"}:  # no turns were taken: machine, threads and rounds are those of before
            results = {"footprint": results["footprint"]}
        results = {**before, **results}
    given.output.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {given.output}")


def scaling(penstock: Peer, flows: list[str], rounds: int) -> dict[str, Any]:
    """log_prob of 1e5 rows with one thread and with two, in turns."""
    out: dict[str, Any] = {}
    for flow in flows:
        seconds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(rounds):
            for threads, readings in seconds.items():
                penstock.ask(do="prepare", flow=flow, task="log_prob", threads=threads)
                readings.append(penstock.ask(do="time", inner=1)["seconds"])
        one, two = (statistics.median(readings) for readings in seconds.values())
        out[flow] = {"one": seconds[1], "two": seconds[2], "ratio": one / two}
        print(f"{flow} log_prob: two threads over one {one / two:.3f}", flush=True)
    return out


def spline_share(penstock: Peer, given: argparse.Namespace) -> dict[str, Any]:
    """What splines take of a log_prob: all, less the networks, whose own wider rows are counted as those of the flow."""
    seconds: dict[str, list[float]] = {"NSF8": [], **{flow: [] for flow in WITHOUT_SPLINES}}
    for _ in range(given.rounds):
        for flow, readings in seconds.items():
            penstock.ask(do="prepare", flow=flow, task="log_prob", threads=given.threads)
            readings.append(penstock.ask(do="time", inner=1)["seconds"])
    median = {flow: statistics.median(readings) for flow, readings in seconds.items()}
    network = median["NET8"] - median["NET8_rows"] + median["NSF8_rows"]
    share = 1 - network / median["NSF8"]
    print(f"share of the splines in log_prob of NSF8: {share:.3f}", flush=True)
    return {**seconds, "share": share}


def splines(penstock: Peer, given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Spline flows beside those of other libraries, and without the splines."""
    rivals = {
        name: Peer(name, python, f"{name}_.py", given.threads)
        for name in ("flowjax", "zuko", "madspace")
        if (python := getattr(given, f"peer_python_{name}"))
    }
    several = [penstock, *(peer for name, peer in rivals.items() if name != "madspace")]
    out: dict[str, Any] = {
        flow: {
            task: in_turns(several, flow, task, given.threads, given.rounds, None)
            for task in ("log_prob", "sample", "step_256", "one_row")
        }
        for flow in SPLINES
    }
    for flow in SPLINES_DOUBLE:
        double = [penstock, *(peer for name, peer in rivals.items() if name == "madspace")]
        out[flow] = {
            task: in_turns(double, flow, task, given.threads, given.rounds, None) for task in ("log_prob", "sample")
        }
    versions = {name: peer.ask(do="versions")["versions"] for name, peer in rivals.items()}
    for peer in rivals.values():
        peer.close()
    return out, versions


def autoregressive(penstock: Peer, flow: str, threads: int, rounds: int) -> dict[str, Any]:
    """log_prob, the parallel direction, and sample, the sequential one, of 1e5 rows, in turns."""
    seconds: dict[str, list[float]] = {"log_prob": [], "sample": []}
    for _ in range(rounds):
        for task, readings in seconds.items():
            penstock.ask(do="prepare", flow=flow, task=task, threads=threads)
            readings.append(penstock.ask(do="time", inner=1)["seconds"])
    parallel, sequential = (statistics.median(readings) for readings in seconds.values())
    print(f"{flow}: sample over log_prob {sequential / parallel:.3f}", flush=True)
    return {**seconds, "ratio": sequential / parallel}


def glow(penstock: Peer, threads: int, rounds: int) -> dict[str, Any]:
    """log_prob of 1e5 rows through the D16 flow of ``realnvp`` and through ``glow`` of the same size, in turns."""
    seconds: dict[str, list[float]] = {"realnvp": [], "glow": []}
    for _ in range(rounds):
        for recipe, readings in seconds.items():
            penstock.ask(
                do="prepare", flow="D16" if recipe == "realnvp" else "glow16", task="log_prob", threads=threads
            )
            readings.append(penstock.ask(do="time", inner=1)["seconds"])
    plain, mixed = (statistics.median(readings) for readings in seconds.values())
    print(f"glow over realnvp, D16 log_prob: {mixed / plain:.3f}", flush=True)
    return {**seconds, "ratio": mixed / plain}


if __name__ == "__main__":
    main()
