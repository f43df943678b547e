"""What only a GPU can show of the CUDA backend: bits beside the processor's at sizes that tests do not have, round trips with
other libraries, forks, threads, times. ``.ci/gpu_gate.sh`` runs it, part by part; with emulated devices
(``PENSTOCK_CUDA_EMULATE=1``) the same commands run at tiny sizes, and times are those of the imitation, which is said of them.

    python cuda_gate.py device                    # one line: name, compute capability
    python cuda_gate.py bits | fork | threads | torch | cupy | once | large
    python cuda_gate.py times --out times.json    # events, median of 30, three inputs in turns, poisoned outputs
    python cuda_gate.py peers --out peers.json    # the same Real NVP in torch.compile and JAX, the same clock
    python cuda_gate.py report FOLDER             # a table, and benchmarks/results/cuda_<card>.json

A part that cannot run ends with status 77 and says why.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import importlib.metadata
import json
import os
import re
import statistics
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

HERE = Path(__file__).resolve().parent
EMULATED = os.environ.get("PENSTOCK_CUDA_EMULATE") == "1"
SKIPPED = 77
WORDS = "times of the processor's imitation, not of a GPU"
CHUNKS = ("128", "1024", "")  # rows of a launch, and with them the grid; the last one is the backend's own
Array = np.ndarray[Any, Any]


def size(of_gpu: int, emulated: int) -> int:
    """Rows, or repetitions: as few as will do where nothing is timed."""
    return emulated if EMULATED else of_gpu


REPEATS = size(30, 3)


def skip(why: str) -> int:
    """Say that a part cannot run."""
    print(f"skipped: {why}")
    return SKIPPED


def module() -> Any:
    """The module with the device."""
    return importlib.import_module("penstock._cuda_emulated" if EMULATED else "penstock_cuda13._cuda")


def flows(backend: str) -> dict[str, ps.Flow]:
    """The same flows as in ``tasks.py``: relu networks, float32, and parameters that are not those of the start."""
    made = {
        "D16": ps.realnvp(16, layers=8, hidden=(64, 64), activation="relu", mixing="none", rng=0, backend=backend),
        "NSF8": ps.nsf(8, layers=5, hidden=(64, 64), activation="relu", mixing="random", rng=0, backend=backend),
        "NSF_AR8": ps.nsf_ar(8, layers=5, hidden=(64, 64), activation="relu", mixing="reverse", rng=0, backend=backend),
        "MAF64": ps.maf(64, layers=5, hidden=(128, 128), activation="relu", mixing="reverse", rng=0, backend=backend),
    }
    for flow in made.values():
        flow.params = flow.params + 0.02 * np.random.default_rng(0).standard_normal(flow.n_params)
    return made


def rows(n: int, dim: int, seed: int = 0) -> Array:
    """Normal, in float32."""
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def same(one: Any, other: Any) -> bool:
    """Bit for bit."""
    a, b = np.asarray(one), np.asarray(other)
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def wrong(what: list[str]) -> int:
    """The exit status that goes with these complaints."""
    print("\n".join(what) if what else "as it should be")
    return 1 if what else 0


# --- bits --------------------------------------------------------------------------------------------------------


def bits() -> int:
    """Every verb beside the processor's, twice, with three grids."""
    here, there = flows("cpp"), flows("cuda")
    found = []
    for name, flow in here.items():
        for n in (1, 130) if EMULATED else (1, 257, 100_003 if flow.dim < 64 else 20_011):
            x = rows(n, flow.dim)

            def ask(own: ps.Flow, x: Array = x, n: int = n) -> list[Any]:
                z, log_det = own.to_latent(x)
                log_prob, d_x = own.log_prob_and_grad(x)
                return [own.log_prob(x), z, log_det, own.sample(n, rng=7), *own.loss_and_grad(x), log_prob, d_x]

            expected = ask(flow)
            for chunk in CHUNKS:
                os.environ["PENSTOCK_CUDA_CHUNK"] = chunk
                for turn in (1, 2):
                    for k, (a, b) in enumerate(zip(ask(there[name]), expected, strict=True)):
                        if not same(a, b):
                            found.append(f"{name}, {n} rows, chunk {chunk or 'own'}, turn {turn}: result {k} differs")
    os.environ["PENSTOCK_CUDA_CHUNK"] = ""
    table = rows(size(20_000, 600), 16)
    trained = []
    for backend in ("cpp", "cuda"):
        flow = flows(backend)["D16"]
        flow.fit(table, epochs=1, batch_size=256, progress=False, rng=0)
        trained.append(flow.params)
    if not same(*trained):
        found.append("D16: parameters after an epoch differ")
    return wrong(found)


def once() -> int:
    """257 rows forward and one epoch of training: what a checker of memory looks at."""
    x = rows(257, 16)
    flow = flows("cuda")["D16"]
    value = flow.log_prob(x)
    flow.sample(257, rng=0)
    flow.fit(x, epochs=1, batch_size=128, validation=0, progress=False, rng=0)
    flows("cuda")["NSF8"].log_prob_and_grad(rows(257, 8))
    flows("cuda")["NSF_AR8"].sample(33, rng=0)
    return wrong([] if np.isfinite(value).all() else ["a density is not finite"])


def large() -> int:
    """Calls whose kernels fill a device: what a profiler looks at."""
    n = size(1_000_000, 390)
    for name in ("D16", "NSF8"):
        flow = flows("cuda")[name]
        x, result = There(rows(n, flow.dim)), There(np.full(n, np.nan, np.float32))
        flow.log_prob(x, out=result)
        if np.isnan(result.numpy()).any():
            return wrong([f"{name}: a density is not a number"])
    batch = size(4096, 64)
    steps(flows("cuda")["D16"], batch, few=1, many=2, repeats=1)
    return wrong([])


def fork() -> int:
    """A child of a process that has used the device gets one clear error, and its parent goes on."""
    flow, x = flows("cuda")["D16"], rows(300, 16)
    before = flow.log_prob(x)
    child = os.fork()
    if child == 0:
        try:
            flow.log_prob(x)
        except RuntimeError as error:
            os._exit(0 if "fork" in str(error) else 3)
        os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    found = [] if status == 0 else [f"the child ended with {status}: 2 is no error, 3 one without the word fork"]
    return wrong(found + ([] if same(flow.log_prob(x), before) else ["the parent computes something else"]))


def threads() -> int:
    """Two threads with a stream each, at the same time."""
    here, there = flows("cpp"), flows("cuda")
    found: list[str] = []

    def work(name: str, seed: int) -> None:
        for turn in range(size(20, 2)):
            x = rows(size(5000, 300), here[name].dim, seed + turn)
            if not same(there[name].log_prob(x), here[name].log_prob(x)):
                found.append(f"{name}, turn {turn}: bits differ")
            if not same(there[name].sample(100, rng=turn), here[name].sample(100, rng=turn)):
                found.append(f"{name}, turn {turn}: draws differ")

    both = [threading.Thread(target=work, args=own) for own in (("D16", 0), ("NSF8", 100))]
    for own in both:
        own.start()
    for own in both:
        own.join()
    return wrong(found)


# --- other libraries ---------------------------------------------------------------------------------------------


def with_torch() -> int:
    """Tensors in, results taken as tensors, on a stream that is not the default one."""
    try:
        import torch
    except ImportError as error:
        return skip(str(error))
    if not torch.cuda.is_available():
        return skip("torch finds no GPU")
    here, there = flows("cpp")["D16"], flows("cuda")["D16"]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        x = torch.randn(100_003, 16, device="cuda")
        value = torch.from_dlpack(there.log_prob(x, stream=stream.cuda_stream))
        drawn = torch.from_dlpack(there.sample_and_log_prob(1000, rng=3, stream=stream.cuda_stream)[0])
        shifted = value + 1  # in the order of the stream
    stream.synchronize()
    found = []
    expected = here.log_prob(x.cpu().numpy())
    if not same(value.cpu().numpy(), expected):
        found.append("log_prob: bits differ")
    if not same(shifted.cpu().numpy(), expected + np.float32(1)):
        found.append("what torch computes behind it differs")
    if not same(drawn.cpu().numpy(), here.sample_and_log_prob(1000, rng=3)[0]):
        found.append("draws differ")
    return wrong(found)


def with_cupy() -> int:
    """The same with CuPy."""
    try:
        import cupy
    except ImportError as error:
        return skip(str(error))
    try:
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return skip("CuPy finds no GPU")
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return skip(str(error))
    here, there = flows("cpp")["D16"], flows("cuda")["D16"]
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.asarray(rows(100_003, 16))
        value = cupy.asarray(there.log_prob(x, stream=stream.ptr))
        out = cupy.full(len(x), cupy.nan, cupy.float32)
        there.log_prob(x, out=out, stream=stream.ptr)
    stream.synchronize()
    expected = here.log_prob(cupy.asnumpy(x))
    return wrong(
        [f"{k}: bits differ" for k, own in (("result", value), ("out", out)) if not same(cupy.asnumpy(own), expected)]
    )


# --- the clock ---------------------------------------------------------------------------------------------------


class Driver:
    """Events and pinned memory of CUDA's driver, by its own interface, in the context that the module uses."""

    def __init__(self) -> None:
        self.cuda = ctypes.CDLL("libcuda.so.1")
        self("cuInit", 0)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self("cuDeviceGet", ctypes.byref(device), 0)
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)

    def __call__(self, name: str, *arguments: Any) -> None:
        status = getattr(self.cuda, name)(*arguments)
        if status:
            raise RuntimeError(f"{name} gives {status}")

    def event(self) -> ctypes.c_void_p:
        own = ctypes.c_void_p()
        self("cuEventCreate", ctypes.byref(own), 0)
        return own

    def record(self, event: ctypes.c_void_p, stream: int) -> None:
        self("cuEventRecord", event, ctypes.c_void_p(stream))

    def between(self, first: ctypes.c_void_p, last: ctypes.c_void_p) -> float:
        self("cuEventSynchronize", last)
        milliseconds = ctypes.c_float()
        self("cuEventElapsedTime", ctypes.byref(milliseconds), first, last)
        return milliseconds.value / 1e3


class Clock:
    """Seconds on a stream, by events; of the imitation, seconds until it is done."""

    def __init__(self, stream: int, wait: Callable[[], None]) -> None:
        self.stream, self.wait = stream, wait
        self.driver = None if EMULATED else Driver()
        if self.driver is not None:
            self.first, self.last = self.driver.event(), self.driver.event()

    def __call__(self, work: Callable[[], Any]) -> tuple[float, float]:
        """By events, and until the host knows that it is done."""
        self.wait()
        begin = time.perf_counter()
        if self.driver is None:
            work()
            self.wait()
            return (time.perf_counter() - begin,) * 2
        self.driver.record(self.first, self.stream)
        work()
        self.driver.record(self.last, self.stream)
        seconds = self.driver.between(self.first, self.last)
        return seconds, time.perf_counter() - begin


class There:
    """Numbers in the memory of the device."""

    def __init__(self, numbers: Array) -> None:
        self.shape, self.dtype, self.nbytes = numbers.shape, numbers.dtype, numbers.nbytes
        self.address = module().allocate(numbers.nbytes)
        self.put(numbers)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            module().release(self.address)

    def put(self, numbers: Array) -> None:
        module().copy(self.address, numbers.ctypes.data, self.nbytes)
        module().synchronise()

    def numpy(self) -> Array:
        found = np.empty(self.shape, self.dtype)
        module().synchronise()
        module().copy(found.ctypes.data, self.address, self.nbytes)
        return found

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3, "shape": self.shape, "strides": None, "typestr": self.dtype.str, "stream": None,
            "data": (self.address, False),
        }  # fmt: skip


def reading(samples: list[tuple[float, float]], n: int, **more: Any) -> dict[str, Any]:
    """The median and what surrounds it."""
    by_events = sorted(s for s, _ in samples)
    return {
        "seconds": statistics.median(by_events),
        "least": by_events[0],
        "most": by_events[-1],
        "host_seconds": statistics.median(h for _, h in samples),
        "readings": len(samples),
        "rows": n,
        **more,
    }


def times(out: Path) -> int:
    """All that the table has."""
    own = module()
    stream = own.Stream()
    handle = stream.handle
    there, here = flows("cuda"), flows("cpp")
    found: dict[str, Any] = {}
    bad = []

    def wait() -> None:
        own.set_stream(handle)
        own.synchronise()
        own.set_stream(0)

    clock = Clock(handle, wait)
    for name, counts in {
        "D16": [size(n, m) for n, m in ((1000, 130), (10_000, 260), (1_000_000, 390))],
        "NSF8": [size(n, m) for n, m in ((1000, 130), (10_000, 260), (1_000_000, 390))],
        "MAF64": [size(1_000_000, 130)],
    }.items():
        for n in counts:
            given = [rows(n, there[name].dim, seed) for seed in range(3)]
            inputs, result = [There(x) for x in given], There(np.full(n, np.nan, np.float32))
            poison = np.full(n, np.nan, np.float32)
            samples = []
            for k in range(REPEATS + 3):
                result.put(poison)
                samples.append(clock(partial(there[name].log_prob, inputs[k % 3], out=result, stream=handle)))
                some = result.numpy()
                if not same(some[:257], here[name].log_prob(given[k % 3][:257])) or np.isnan(some).any():
                    bad.append(f"{name}, {n} rows: what was timed is wrong")
            found[f"log_prob {name} {n}"] = reading(samples[3:], n, flops_a_row=there[name]._runner().engine.flops)
    for name, n in (("NSF_AR8", size(1_000_000, 130)), ("MAF64", size(100_000, 66)), ("D16", size(1_000_000, 390))):
        result = There(np.full((n, there[name].dim), np.nan, np.float32))
        poison = np.full((n, there[name].dim), np.nan, np.float32)
        samples = []
        for k in range(REPEATS + 3):
            result.put(poison)
            samples.append(clock(partial(there[name].sample, n, rng=k, out=result, stream=handle)))
        some = result.numpy()
        if not same(some[:64], here[name].sample(64, rng=REPEATS + 2)) or np.isnan(some).any():
            bad.append(f"{name}, {n} draws: what was timed is wrong")
        found[f"sample {name} {n}"] = reading(samples[3:], n)
    for batch in (size(256, 64), size(4096, 192)):
        found[f"step D16 {batch}"] = steps(there["D16"], batch, size(20, 2), size(120, 6), REPEATS + 2)
    found["numpy D16"], found["pcie"] = from_numpy(there["D16"]), bandwidth(clock)
    out.write_text(json.dumps({"emulated": EMULATED, "times": found}, indent=1) + "\n")
    print(table(found))
    return wrong(sorted(set(bad)))


def steps(flow: ps.Flow, batch: int, few: int, many: int, repeats: int) -> dict[str, Any]:
    """A training step: the difference of many and of few, so that what begins and ends a run is not in it."""
    table = rows(batch * many, flow.dim)
    runner = flow._runner()
    snapshot = flow._snapshot
    samples = []
    for k in range(repeats):
        spent = []
        for n in (few, many):
            trainer = runner.trainer(
                snapshot.params, snapshot.buffers, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0, clip_norm=10.0, frozen=None
            )  # fmt: skip
            losses, norms = np.empty(n), np.empty(n)
            begin = time.perf_counter()
            done = trainer.run(
                table, None, None, weight_exponent=0, weight_scale=1.0, seed=k, epoch=0, n_train=len(table), first_step=0,
                batch_size=batch, learning_rates=np.full(n, 1e-5), losses=losses, norms=norms,
            )  # fmt: skip
            spent.append(time.perf_counter() - begin)
            assert done == n, (done, n)
            assert np.isfinite(losses).all()
        samples.append(((spent[1] - spent[0]) / (many - few),) * 2)
    return reading(samples[2:] or samples, batch, by="the host's clock, a difference of runs")


def from_numpy(flow: ps.Flow) -> dict[str, Any]:
    """Arrays of the host in and out, all of the way."""
    n = size(10_000_000, 2000)
    x = rows(n, flow.dim)
    samples = []
    out = np.full(n, np.nan, np.float32)
    for _ in range(size(5, 2)):
        out[:] = np.nan
        begin = time.perf_counter()
        flow.log_prob(x, out=out)
        samples.append((time.perf_counter() - begin,) * 2)
        assert not np.isnan(out).any()
    return reading(samples, n, bytes=x.nbytes + out.nbytes, by="the host's clock")


def bandwidth(clock: Clock) -> dict[str, Any]:
    """Between pinned memory and the device, a direction at a time, and as NumPy's memory goes."""
    n = size(256 << 20, 1 << 16)
    there = There(np.zeros(n, np.uint8))
    pageable = np.zeros(n, np.uint8)
    found: dict[str, Any] = {"bytes": n}
    best = min(clock(lambda: module().copy(there.address, pageable.ctypes.data, n))[1] for _ in range(size(10, 2)))
    found["pageable_to_device"] = n / best
    if clock.driver is not None:
        pinned = ctypes.c_void_p()
        clock.driver("cuMemHostAlloc", ctypes.byref(pinned), ctypes.c_size_t(n), 0)
        address, stream = ctypes.c_uint64(there.address), ctypes.c_void_p(clock.stream)
        for name, call, ends in (
            ("to_device", "cuMemcpyHtoDAsync_v2", (address, pinned)),
            ("to_host", "cuMemcpyDtoHAsync_v2", (pinned, address)),
        ):
            copy = partial(clock.driver, call, *ends, ctypes.c_size_t(n), stream)
            found[name] = n / min(clock(copy)[0] for _ in range(10))
        clock.driver("cuMemFreeHost", pinned)
    return found


# --- beside others -----------------------------------------------------------------------------------------------


def peers(out: Path) -> int:
    """The Real NVP of ``peers/`` on the GPU, compiled, at both precisions of products: the same sizes, events, median."""
    sys.path[:0] = [str(HERE), str(HERE / "peers")]
    from tasks import FLOWS

    flow = FLOWS["D16"]
    counts = (1000, 10_000, 1_000_000)
    found: dict[str, Any] = {}
    notes = []
    try:
        import torch

        if not torch.cuda.is_available():
            raise ImportError("torch finds no GPU")
        from torch_ import RealNVP

        for precision in ("highest", "high"):
            torch.set_float32_matmul_precision(precision)
            torch._dynamo.reset()
            model = RealNVP(flow).cuda()
            density = torch.compile(model.log_prob, mode="max-autotune-no-cudagraphs", dynamic=False)
            for n in counts:
                inputs = [torch.randn(n, flow.dim, device="cuda") for _ in range(3)]
                with torch.no_grad():
                    found[f"torch.compile {precision} log_prob D16 {n}"] = torch_times(
                        torch, partial(of_turn, density, inputs), n
                    )
            optimiser = torch.optim.Adam(model.parameters(), 1e-5, fused=True)
            for n in (256, 4096):
                inputs = [torch.randn(n, flow.dim, device="cuda") for _ in range(3)]
                loss = torch.compile(partial(mean_loss, model), dynamic=False)
                step = partial(adam_step, loss, optimiser)
                found[f"torch.compile {precision} step D16 {n}"] = torch_times(torch, partial(of_turn, step, inputs), n)
    except ImportError as error:
        notes.append(f"torch: {error}")
    try:
        import jax

        if jax.default_backend() != "gpu":
            raise ImportError("JAX finds no GPU")
        import jax_

        for precision in ("highest", "default"):
            with jax.default_matmul_precision(precision):
                params = jax_.initial(flow)
                density_jax = jax.jit(jax_.log_prob)
                for n in counts:
                    given = [jax.random.normal(jax.random.key(k), (n, flow.dim)) for k in range(3)]
                    samples = []
                    for k in range(REPEATS + 3):
                        begin = time.perf_counter()
                        density_jax(params, given[k % 3]).block_until_ready()
                        samples.append((time.perf_counter() - begin,) * 2)
                    found[f"jax {precision} log_prob D16 {n}"] = reading(samples[3:], n, by="the host's clock")
    except (ImportError, RuntimeError) as error:
        notes.append(f"jax: {error}")
    out.write_text(json.dumps({"peers": found, "notes": notes, "versions": versions()}, indent=1) + "\n")
    print("\n".join([table(found), *notes]))
    return 0 if found else skip("; ".join(notes))


def of_turn(work: Callable[[Any], Any], inputs: list[Any], k: int) -> None:
    """On the inputs in turns."""
    work(inputs[k % 3])


def mean_loss(model: Any, x: Any) -> Any:
    """What a step makes smaller."""
    return -model.log_prob(x).mean()


def adam_step(loss: Callable[[Any], Any], optimiser: Any, x: Any) -> None:
    """Loss, gradient and Adam."""
    optimiser.zero_grad(set_to_none=True)
    loss(x).backward()
    optimiser.step()


def torch_times(torch: Any, work: Callable[[int], Any], n: int) -> dict[str, Any]:
    """As those of penstock."""
    samples = []
    for k in range(REPEATS + 5):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin = time.perf_counter()
        first.record()
        work(k)
        last.record()
        torch.cuda.synchronize()
        samples.append((first.elapsed_time(last) / 1e3, time.perf_counter() - begin))
    return reading(samples[5:], n)


# --- what comes of it --------------------------------------------------------------------------------------------


def table(found: dict[str, Any]) -> str:
    """Lines of it."""
    lines = [
        f"| {WORDS if EMULATED else 'what, rows'} | median | least–most | rows a second | host |",
        "|---|---|---|---|---|",
    ]
    for name, own in found.items():
        if "seconds" in own:
            lines.append(
                f"| {name} | {pretty(own['seconds'])} | {pretty(own['least'])}–{pretty(own['most'])} | "
                f"{own['rows'] / own['seconds']:.3g} | {pretty(own['host_seconds'])} |"
            )
        else:
            lines += [
                f"| {name}, {key} | {value / 1e9:.2f} GB/s | | | |" for key, value in own.items() if key != "bytes"
            ]
    return "\n".join(lines)


def pretty(seconds: float) -> str:
    """With a unit."""
    return (
        f"{1e6 * seconds:.1f} µs"
        if seconds < 1e-3
        else f"{1e3 * seconds:.2f} ms"
        if seconds < 1
        else f"{seconds:.2f} s"
    )


def versions() -> dict[str, str]:
    """Of what is installed."""
    found = {}
    for name in ("penstock", "penstock-cuda13", "numpy", "torch", "jax", "cupy-cuda13x"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def report(folder: Path) -> int:
    """One table of all parts, and the results of a card."""
    parts = [line.split("\t") for line in (folder / "steps.tsv").read_text().splitlines()]
    card = module().device_name(0)
    results: dict[str, Any] = {
        "card": card,
        "emulated": EMULATED,
        "versions": versions(),
        "time": time.strftime("%Y-%m-%d"),
    }
    results["parts"] = [dict(zip(("part", "status", "seconds", "note"), part, strict=True)) for part in parts]
    for name in ("times", "peers"):
        if (folder / f"{name}.json").is_file():
            results |= json.loads((folder / f"{name}.json").read_text())
    if (folder / "ncu.csv").is_file():
        results["ncu"] = profile((folder / "ncu.csv").read_text())
    if "times" in results:
        print(table({**results["times"], **results.get("peers", {})}) + "\n")
    for kernel, own in results.get("ncu", {}).items():
        print(f"{kernel}: " + ", ".join(f"{name} {value}" for name, value in own.items()))
    print(f"{'part':24}{'status':10}{'s':>6}  note")
    for name, status, seconds, note in parts:
        print(f"{name:24}{status:10}{seconds:>6}  {note}")
    # What an imitation says is no result.
    place = folder if EMULATED else HERE / "results"
    path = place / f"cuda_{re.sub(r'[^a-z0-9]+', '_', card.lower()).strip('_')}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\n{card}: written to {path}" + (f"; {WORDS}" if EMULATED else ""))
    return 1 if any(status == "FAILED" for _, status, _, _ in parts) else 0


def profile(text: str) -> dict[str, dict[str, str]]:
    """What ncu says of each kernel, by its first launch."""
    import csv

    lines = [line for line in text.splitlines() if line.startswith('"')]
    found: dict[str, dict[str, str]] = {}
    launches: dict[str, str] = {}
    for row in csv.DictReader(lines):
        kernel = row["Kernel Name"]
        if launches.setdefault(kernel, row["ID"]) == row["ID"]:
            found.setdefault(kernel, {})[row["Metric Name"]] = f"{row['Metric Value']} {row['Metric Unit']}".strip()
    return found


def device() -> int:
    """Whether there is one."""
    own = module()
    why = own.unavailable(0)
    print(why or own.device_name(0))
    return 1 if why else 0


def main() -> int:
    """As the first lines have it."""
    parts: dict[str, Callable[[], int]] = {
        "device": device, "bits": bits, "once": once, "large": large, "fork": fork, "threads": threads,
        "torch": with_torch, "cupy": with_cupy,
    }  # fmt: skip
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=[*parts, "times", "peers", "report"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.part == "report":
        return report(args.folder)
    if args.part in ("times", "peers"):
        return {"times": times, "peers": peers}[args.part](args.out)
    return parts[args.part]()


if __name__ == "__main__":
    sys.exit(main())
