"""Laws of living with others: threads of the caller, fork, Ctrl-C in a long call, and what an import brings."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, BY_NAME, built, points
from helpers import (
    assert_same_bits,
    each_backend,
    each_engine_case,
    engine_evaluate,
    engine_of,
    packed_of,
    python,
    python_json,
)
from penstock import _backend

Array = np.ndarray[Any, Any]

compiled = pytest.mark.skipif("cpp" not in BACKENDS, reason="the compiled backend is not installed")

# -- threads of the caller's --------------------------------------------------------------------


@each_engine_case
def test_many_python_threads_may_call_one_flow_at_once(case: Any, backend: str) -> None:
    flow = built(case, backend, "float32")
    sizes = [1, 64, 130, 500, 1500]
    inputs = [points(case, n, flow, n) for n in sizes]
    expected = [
        (flow.log_prob(x), flow.log_prob_and_grad(x)[1], flow.loss_and_grad(x)[2], flow.sample(len(x), rng=3))
        for x in inputs
    ]
    failures: list[str] = []
    start = threading.Barrier(8)

    def work(me: int) -> None:
        start.wait()
        for turn in range(10):
            i = (me + turn) % len(sizes)
            x = inputs[i]
            got = (flow.log_prob(x), flow.log_prob_and_grad(x)[1], flow.loss_and_grad(x)[2], flow.sample(len(x), rng=3))
            for one, two in zip(got, expected[i], strict=True):
                if np.asarray(one).tobytes() != np.asarray(two).tobytes():
                    failures.append(f"thread {me}, turn {turn}, {sizes[i]} rows")

    before = ps.num_threads()
    ps.set_num_threads(3)
    try:
        threads = [threading.Thread(target=work, args=(me,), daemon=True) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in threads), "deadlock"
    finally:
        ps.set_num_threads(before)
    assert not failures


@each_backend
def test_parameters_replaced_during_an_evaluation_are_all_old_or_all_new(backend: str) -> None:
    flow = built(BY_NAME["realnvp_wide"], backend, "float32").copy()
    x = points(BY_NAME["realnvp_wide"], 600, flow)
    old, new = flow.params.copy(), (flow.params * 0.5).astype(np.float32)
    allowed = set()
    for params in (old, new):
        flow.params = params
        allowed.add(flow.log_prob(x).tobytes())
    assert len(allowed) == 2
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            flow.params = old
            flow.params = new

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        seen = {flow.log_prob(x).tobytes() for _ in range(40)}
    finally:
        stop.set()
        thread.join(60)
    assert seen <= allowed


@each_backend
def test_training_two_flows_at_once_gives_what_each_gives_alone(backend: str) -> None:
    case = BY_NAME["mixed_layers"]
    flow = built(case, backend, "float32")
    x = points(case, 400, flow)
    alone = [flow.copy().fit(x, epochs=2, batch_size=90, rng=seed).params for seed in range(3)]
    together: dict[int, Array] = {}

    def train(seed: int) -> None:
        together[seed] = flow.copy().fit(x, epochs=2, batch_size=90, rng=seed).params

    threads = [threading.Thread(target=train, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    for seed, params in enumerate(alone):
        assert_same_bits(together[seed], params)


@pytest.mark.parametrize("value", ["1", "3"])
@pytest.mark.parametrize("variable", ["PENSTOCK_NUM_THREADS", "OMP_NUM_THREADS"])
def test_the_environment_sets_the_number_of_threads(variable: str, value: str) -> None:
    env = {"PENSTOCK_NUM_THREADS": "", "OMP_NUM_THREADS": "", variable: value}
    assert python("import penstock as ps; print(ps.num_threads())", env=env).stdout.strip() == value


def test_by_default_the_threads_are_the_processors_one_may_use() -> None:
    code = "import os, penstock as ps; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); print(ps.num_threads())"
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("this system has no affinity")
    assert python(code, env={"PENSTOCK_NUM_THREADS": "", "OMP_NUM_THREADS": ""}).stdout.strip() == "1"


QUOTAS: dict[str, tuple[dict[str, str], int | None]] = {
    "none": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
    "no control groups": ({}, None),
    "half a processor more": ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 3),
    "less than one": ({"/proc/self/cgroup": "0::/a\n", "/sys/fs/cgroup/a/cpu.max": "5000 100000\n"}, 1),
    "of a parent": (
        {
            "/proc/self/cgroup": "0::/a/b\n",
            "/sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
            "/sys/fs/cgroup/a/cpu.max": "200000 100000\n",
        },
        2,
    ),
    "the host's path in a container": (
        {"/proc/self/cgroup": "0::/host/pod/1\n", "/sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4,
    ),
    "version 1": (
        {
            "/proc/self/cgroup": "7:memory:/m\n4:cpu,cpuacct:/job\n0::/\n",
            "/sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "150000\n",
            "/sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        },
        2,
    ),
    "version 1 without a limit": (
        {
            "/proc/self/cgroup": "4:cpu,cpuacct:/\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        None,
    ),
    "both versions": (
        {
            "/proc/self/cgroup": "4:cpu,cpuacct:/job\n0::/unit\n",
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "800000\n",
            "/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/unified/unit/cpu.max": "500000 100000\n",
        },
        5,
    ),
}  # fmt: skip


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="control groups are of Linux")
@pytest.mark.parametrize("name", QUOTAS)
def test_the_quota_of_a_container_bounds_the_threads(name: str, tmp_path: Path) -> None:
    files, expected = QUOTAS[name]
    for path, text in files.items():
        target = tmp_path / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    assert _backend.cgroup_quota(str(tmp_path)) == expected


def test_threadpoolctl_sees_and_limits_the_pool() -> None:
    code = """if True:
        import threadpoolctl
        import penstock as ps
        flow = ps.realnvp(2, layers=2)
        flow.sample(10)
        ps.set_num_threads(3)
        infos = [i for i in threadpoolctl.threadpool_info() if "penstock" in str(i).lower()]
        assert len(infos) == 1 and infos[0]["num_threads"] == 3, threadpoolctl.threadpool_info()
        with threadpoolctl.threadpool_limits(1):
            print(ps.num_threads())
        print(ps.num_threads())
    """
    assert python(code).stdout.split() == ["1", "3"]


def test_the_pool_works_where_threadpoolctl_is_not_installed() -> None:
    code = """if True:
        import importlib.util, sys
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, package=None: None if name == "threadpoolctl" else real(name, package)
        import penstock as ps
        print(ps.realnvp(2, layers=2).sample(10, rng=0).shape, "threadpoolctl" in sys.modules)
    """
    assert python(code).stdout.strip() == "(10, 2) False"


def test_numpy_a_progress_bar_and_a_reader_of_frames_are_all_that_is_required() -> None:
    from importlib.metadata import requires

    hard = [line for line in requires("penstock") or () if "extra ==" not in line]
    assert sorted(line.split(">")[0] for line in hard) == ["narwhals", "numpy", "tqdm"]


# -- processes ----------------------------------------------------------------------------------

FORK = """if True:
    import os, sys, warnings
    import numpy as np
    import penstock as ps
    backend = sys.argv[1]
    flow = ps.realnvp(16, layers=4, hidden=(64, 64), rng=0, backend=backend)
    x = np.random.default_rng(0).standard_normal((3000, 16)).astype("float32")
    ps.set_num_threads(3)
    expected = flow.log_prob(x).tobytes()
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of threads before a fork
    status = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                same = flow.log_prob(x).tobytes() == expected
                trained = flow.copy().fit(x, epochs=1, batch_size=500)
                grandchild = os.fork()
                if grandchild == 0:
                    os._exit(0 if flow.log_prob(x).tobytes() == expected else 3)
                code = 0 if same and os.waitpid(grandchild, 0)[1] == 0 else 2
            finally:
                os._exit(code)
        status.append(os.waitpid(child, 0)[1])
        assert flow.log_prob(x).tobytes() == expected
    print(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@each_backend
def test_a_forked_child_computes_the_same_and_the_parent_goes_on(backend: str) -> None:
    assert python(FORK, backend).stdout.strip() == "[0, 0, 0]"


INTERRUPT = """if True:
    import json, os, signal, sys, threading
    import numpy as np
    import penstock as ps
    backend, verb = sys.argv[1:]
    flow = ps.realnvp(16, layers=8, hidden=(256, 256), rng=0, backend=backend)
    x = np.broadcast_to(np.zeros(16, "float32"), (5_000_000, 16))
    small = x[:2000]
    calls = {
        "log_prob": lambda x: flow.log_prob(x),
        "loss_and_grad": lambda x: flow.loss_and_grad(x),
        "sample": lambda x: flow.sample(len(x), rng=0),
    }
    call = calls[verb]
    call(small)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        call(x)
        outcome = "finished"
    except KeyboardInterrupt:
        outcome = "interrupted"
    # The flow works as before.
    print(json.dumps([outcome, flow.log_prob(small).shape[0]]))
"""


VERBS = ("log_prob", "loss_and_grad", "sample")


@pytest.mark.parametrize(
    ("backend", "verb"),
    [
        pytest.param(backend, verb, marks=pytest.mark.slow if backend == "numba" and verb != "log_prob" else ())
        for backend in BACKENDS
        for verb in VERBS
    ],
)
def test_ctrl_c_ends_a_long_call(backend: str, verb: str) -> None:
    """Five million rows take minutes on one processor, and many seconds on the largest machine of today."""
    assert python_json(INTERRUPT, backend, verb, timeout=120) == ["interrupted", 2000]


AGAIN = """
import json, signal
import numpy as np, penstock as ps
x = np.random.default_rng(0).normal(size=(200_000, 16)).astype(np.float32)
small = ps.realnvp(16, layers=4, rng=0, backend="cpp")
wide = ps.realnvp(64, layers=2, hidden=(512, 512), rng=0, backend="cpp")
z = np.ones((64, 64), np.float32)
with ps.threads(1):
    expected = small.loss_and_grad(x)[2]
    calls = []
    signal.signal(signal.SIGALRM, lambda *_: calls.append(wide.log_prob_vjp(z, np.ones(64))))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    while not calls:
        got = small.loss_and_grad(x)[2]
print(json.dumps(bool((got == expected).all())))
"""


@compiled
def test_a_signal_handler_may_call_in_again() -> None:
    """The poll in the middle of a call runs it, while the outer call's tiles are in use."""
    assert python_json(AGAIN) is True


LEFT_RUNNING = """
import threading, time
import numpy as np, penstock as ps
flow, x = ps.realnvp(16, rng=0, backend={backend!r}), np.ones(({rows}, 16), np.float32)
def forever():
    while True:
        flow.log_prob(x)
flow.log_prob(x)
threading.Thread(target=forever, daemon=True).start()
time.sleep(0.1)
"""


@pytest.mark.parametrize("rows", [2, 100_000])
@each_backend
def test_the_interpreter_ends_while_a_daemon_thread_computes(backend: str, rows: int) -> None:
    python(LEFT_RUNNING.format(backend=backend, rows=rows))


@each_backend
def test_a_number_of_threads_within_a_block_is_of_one_python_thread(backend: str) -> None:
    assert engine_of(ps.realnvp(2, backend=backend)) is not None  # loads the backend
    module = _backend.choose(backend).load()
    inside, seen = threading.Event(), []

    def other() -> None:
        inside.wait(10)
        seen.append(module.num_threads())
        with ps.threads(2):
            seen.append(module.num_threads())

    before = module.num_threads()
    thread = threading.Thread(target=other)
    thread.start()
    with ps.threads(7):
        inside.set()
        thread.join(10)
        assert module.num_threads() == 7
    assert seen == [before, 2]
    assert module.num_threads() == before


@compiled
def test_numbers_packed_for_another_plan_are_refused() -> None:
    small, large = (ps.realnvp(4, layers=n, hidden=(8,), rng=0, backend="cpp") for n in (1, 2))
    x, out = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="packed must come from an engine of the same plan"):
        engine_evaluate(large, False, x, log_det=out, packed=packed_of(small))


# -- importing ----------------------------------------------------------------------------------

HEAVY = (
    "numba",
    "llvmlite",
    "matplotlib",
    "sklearn",
    "scipy",
    "tqdm",
    "safetensors",
    "threadpoolctl",
    "torch",
    "jax",
    "pandas",
)


def test_importing_penstock_imports_nothing_heavy() -> None:
    code = f"import sys, penstock; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert python(code).stdout.strip() == "[]"


@pytest.mark.skipif("cpp" not in BACKENDS, reason="the compiled backend is not installed")
def test_the_compiled_backend_works_without_importing_numba() -> None:
    code = """if True:
        import sys
        import penstock as ps
        flow = ps.realnvp(3)
        flow.fit(flow.sample(50), epochs=1)
        print("numba" in sys.modules, flow._backend.name)
    """
    assert python(code, env={"PENSTOCK_BACKEND": "cpp"}).stdout.split() == ["False", "cpp"]


def test_importing_touches_no_file_and_starts_no_thread(tmp_path: Any) -> None:
    code = """if True:
        import os, threading
        import penstock
        print(threading.active_count(), len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1)
    """
    # NumPy's BLAS may start threads of its own; with one BLAS thread every other is ours.
    out = python(code, env={"OPENBLAS_NUM_THREADS": "1"}).stdout.split()
    assert out == ["1", "1"]
