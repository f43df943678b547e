"""The Numba twin by itself: what it compiles and where it keeps it, its elementary functions, and its side of the protocol."""

from __future__ import annotations

import _thread
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
import tables
from cases import assign
from helpers import assert_same_bits

pytest.importorskip("numba")

import numba

from penstock._numba import Engine
from penstock._numba.core import lanes, math
from penstock._numba.core.pointers import pointer
from penstock._numba.engine.evaluate import evaluate_rows
from penstock._numba.engine.gradient import Tree, combine, slices_of
from penstock._numba.engine.pool import Stop, parallel

Array = np.ndarray[Any, Any]

PACKAGE = Path(ps.__file__).resolve().parent


def python(code: str, **environment: str) -> Any:
    """What a new process prints as JSON."""
    known = {**os.environ, **environment}
    done = subprocess.run([sys.executable, "-c", code], env=known, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


# -- what is compiled, and where it is kept -------------------------------------------------------


COMPILED = """
import json, numpy as np, penstock as ps
flow = ps.Flow(ps.StandardNormal(2), [ps.Coupling(ps.Additive(), ps.MLP((4,), "tanh"))], backend="numba", rng=0)
flow.log_prob(np.zeros((3, 2)))
from penstock._numba.core.jit import _kernels
print(json.dumps(sorted(kernel.__name__ for kernel in _kernels)))
"""


def test_what_a_plan_does_not_use_is_not_compiled() -> None:
    assert python(COMPILED) == ["additive_forward", "coupling_forward", "tanh_activate_all"]


# An entry and a kernel that compile fast.
USED = """
import json, numpy as np
from penstock._numba import row_order
from penstock._numba.conditioners.activations import scale_by_kept
from penstock._numba.core.jit import cache_folder, kernel
from penstock._numba.core.tile import KERNEL_TYPES
row_order(1, 1, 3, 0, np.zeros(3, np.int64))
kernel(scale_by_kept, KERNEL_TYPES["float32"].scale)
print(json.dumps(cache_folder({user!r})))
"""


def compiled_files(folder: Path) -> list[Path]:
    """What Numba has left below a folder."""
    return [path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc")]


def test_compiled_code_lies_in_the_users_cache_and_never_in_the_package(tmp_path: Path) -> None:
    code = USED.format(user="")
    folder = Path(python(code, NUMBA_CACHE_DIR="", HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / "cache")))
    assert tmp_path in folder.parents
    assert len(compiled_files(folder)) == 4  # an index and the code of each
    assert not compiled_files(PACKAGE)


def test_numba_cache_dir_is_followed(tmp_path: Path) -> None:
    folder = Path(python(USED.format(user=str(tmp_path)), NUMBA_CACHE_DIR=str(tmp_path)))
    assert tmp_path in folder.parents
    assert compiled_files(folder)


@pytest.mark.parametrize("ending", ["", "\nraise ValueError"])
def test_a_cache_that_nobody_else_can_use_ends_with_the_process(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").write_text("")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    nowhere = str(tmp_path / "file")
    environment = {"NUMBA_CACHE_DIR": "", "HOME": nowhere, "XDG_CACHE_HOME": nowhere, "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", USED.format(user="") + ending],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert Path(json.loads(done.stdout.splitlines()[-1])).parent == temporary
    assert list(temporary.iterdir()) == []


# -- elementary functions -------------------------------------------------------------------------


@numba.njit(error_model="numpy")
def apply(function: Any, x: Any, out: Any) -> None:
    """A function of lanes on whole vectors."""
    n, x, out = x.size, pointer(x), pointer(out)
    for i in range(0, n, lanes.lanes(x)):
        lanes.store(out, i, function(lanes.load(x, i)))


FUNCTIONS = {
    "exp": (-80.0, 80.0),
    "exp2": (-120.0, 120.0),
    "log": (1e-30, 1e30),
    "tanh": (-25.0, 25.0),
    "sigmoid": (-80.0, 80.0),
}
EXACT = {
    "exp": np.exp,
    "exp2": np.exp2,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_elementary_functions_keep_the_ulps_that_they_state(name: str, dtype: str) -> None:
    if dtype == "float64" and np.finfo(np.longdouble).nmant < 63:
        pytest.skip("nothing here is more exact than float64")
    stated = re.search(r"([\d.]+) / ([\d.]+) ulp", getattr(math, name).__doc__)
    assert stated
    lo, hi = FUNCTIONS[name]
    rng = np.random.default_rng(1)
    x = np.exp(rng.uniform(np.log(lo), np.log(hi), 1 << 16)) if lo > 0 else rng.uniform(lo, hi, 1 << 16)
    x = np.concatenate([x, x * 1e-3, x * 1e-6] if lo < 0 else [x, 1 + 1e-3 * rng.uniform(-1, 1, 1 << 16)])
    x = x[: len(x) // 64 * 64].astype(dtype)
    out = np.zeros_like(x)
    apply(getattr(math, name), x, out)
    exact = EXACT[name](x.astype(np.longdouble))
    error = np.abs(out.astype(np.longdouble) - exact) / np.spacing(np.abs(exact).astype(dtype)).astype(np.longdouble)
    assert error.max() <= float(stated[1 if dtype == "float32" else 2]), x[np.argmax(error)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_elementary_functions_pass_nan(name: str, dtype: str) -> None:
    if name == "log":
        return  # which is why splines add nothing to their log_det: see their kernels
    out = np.zeros(64, dtype)
    apply(getattr(math, name), np.full(64, np.nan, dtype), out)
    assert np.isnan(out).all()


@numba.njit(error_model="numpy")
def apply_sincos(x: Any, sine: Any, cosine: Any) -> None:
    """sincos on whole vectors."""
    n, x, sine, cosine = x.size, pointer(x), pointer(sine), pointer(cosine)
    for i in range(0, n, lanes.lanes(x)):
        s, c = math.sincos(lanes.load(x, i))
        lanes.store(sine, i, s)
        lanes.store(cosine, i, c)


def sincos(x: Array) -> tuple[Array, Array]:
    """sin and cos of a multiple of 64 numbers."""
    sine, cosine = np.zeros_like(x), np.zeros_like(x)
    apply_sincos(x, sine, cosine)
    return sine, cosine


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sine_and_cosine_keep_the_error_that_they_state(dtype: str) -> None:
    if dtype == "float64" and np.finfo(np.longdouble).nmant < 63:
        pytest.skip("nothing here is more exact than float64")
    stated = re.search(r"absolute error ([\de.-]+) / ([\de.-]+) up to \|x\| = (\d+)", str(math.sincos.__doc__))
    assert stated
    most = float(stated[3])
    # every quarter of a turn, and what lies around its ends
    quarters = np.arange(-10, 11) * (np.pi / 4)
    around = (quarters + np.array([[0.0], [1e-3], [-1e-3], [1e-7], [-1e-7]])).ravel()
    x = np.concatenate([np.random.default_rng(1).uniform(-most, most, (1 << 16) - 105), around[np.abs(around) <= most]])
    x = np.resize(x, 1 << 16).astype(dtype)
    for found, exact in zip(sincos(x), (np.sin, np.cos), strict=True):
        error = np.abs(found.astype(np.longdouble) - exact(x.astype(np.longdouble)))
        assert error.max() <= float(stated[1 if dtype == "float32" else 2]), x[np.argmax(error)]
        assert np.abs(found).max() <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sine_and_cosine_of_what_is_no_angle_of_a_circle(dtype: str) -> None:
    largest = np.finfo(dtype).max
    x = np.resize(np.array([1e3, -1e6, 1e12, -1e30, largest, -largest, 0.0, -0.0]), 64).astype(dtype)
    for found in sincos(x):
        assert np.abs(found).max() <= 1.01
    assert_same_bits(sincos(np.zeros(64, dtype))[1], np.ones(64, dtype))
    for found in sincos(np.full(64, np.nan, dtype)):
        assert np.isnan(found).all()


# -- slices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", range(1, 65))
def test_a_sum_in_rounds_is_that_of_the_tree(n: int) -> None:
    parts = np.random.default_rng(n).standard_normal((n, 3)).astype(np.float32)
    tree = Tree()
    for first in range(0, n, 8):
        tree.add(combine(parts[first : first + 8].copy()))
        assert len(tree.parts) <= 4
    assert_same_bits(tree.total(), combine(parts.copy()))


@pytest.mark.parametrize(
    ("rows", "n"), [(0, 0), (1, 1), (64, 1), (65, 2), (1024, 16), (4096, 16), (4097, 17), (16384, 64), (10**6, 64)]
)
def test_slices_depend_on_the_size_of_a_batch_alone(rows: int, n: int) -> None:
    slices = slices_of(rows)
    assert len(slices) == n
    assert [a for a, _ in slices] == [0, *(b for _, b in slices[:-1])][:n]
    assert not n or (slices[-1][1] == rows and all(a % 64 == 0 and a < b for a, b in slices))


# -- calls ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def everything() -> tuple[Engine, Any]:
    """All that engines compute in one flow, and packed random parameters."""
    engine = Engine(tables.everything().write())
    params = 0.3 * np.random.default_rng(0).standard_normal(engine.n_params)
    return engine, engine.pack(params, np.random.default_rng(1).uniform(0.5, 2.0, engine.n_buffers))


def evaluated(engine: Engine, packed: Any, x: Array, context: Any, thetas: Any) -> tuple[Array, Array]:
    """The whole flow towards the latent side."""
    out, log_det = np.zeros((len(x), engine.dim)), np.zeros(len(x))
    engine.evaluate(packed, False, 0, engine.n_steps, x, None, context, thetas, False, out, log_det)
    return out, log_det


def test_a_context_that_many_rows_share_takes_no_memory_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = tables.Maker(2, 50)
    maker.coupling()
    engine = Engine(maker.finish().write())
    packed = engine.pack(0.1 * np.ones(engine.n_params), np.ones(engine.n_buffers))
    rng, largest = np.random.default_rng(0), []
    zeros = np.zeros
    x, c = rng.standard_normal((20_000, 2)), rng.standard_normal((4, 50))
    monkeypatch.setattr(np, "zeros", lambda *args, **kw: [a := zeros(*args, **kw), largest.append(a.size)][0])
    d_context = zeros(c.shape)
    engine.vjp(
        packed, False, 0, engine.n_steps, x, c, None, True, None, np.ones(20_000), None, None, None, d_context, None
    )  # fmt: skip
    assert max(largest) < 20_000 * 50 / 4
    by_row = zeros((20_000, 50))
    engine.vjp(
        packed, False, 0, engine.n_steps, x, np.repeat(c, 5000, axis=0), None, True, None, np.ones(20_000), None, None,
        None, by_row, None,
    )  # fmt: skip
    np.testing.assert_allclose(d_context, by_row.reshape(4, 5000, 50).sum(axis=1), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "support",
    [ps.interval(1, None), ps.interval(None, 1), ps.interval(1, 2, map="logit"), ps.interval(0, 1, map="logit")],
)
def test_only_draws_that_rounding_has_moved_are_evaluated_again(support: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those near an end that is far from zero, and not the rows of later tiles beside them."""
    flow = ps.Flow(ps.StandardNormal(1), [], support=support, dtype="float32", backend="numba")
    buffers = np.array(flow._snapshot.buffers)
    buffers[0] = 4.0 if support.ends[1] == 1 else -4.0
    assign(flow, buffers=buffers)
    twin: Any = sys.modules["penstock._numba.engine.evaluate"]
    again, evaluate = [], twin.evaluate

    def noted(*arguments: Any) -> None:
        again.extend(arguments[6])
        evaluate(*arguments)

    monkeypatch.setattr(twin, "evaluate", noted)
    flow.sample_and_log_prob(4000, rng=0)
    real = ps.Flow(ps.StandardNormal(1), [], dtype="float32", backend="numba")
    exact = flow.astype("float64").to_data(real.sample(4000, rng=0))[0][:, 0]
    distance = np.abs(exact - 1)
    moved = np.abs(np.abs(exact.astype(np.float32).astype(np.float64) - 1) - distance)
    wanted = moved > 64 * np.finfo("float32").eps * distance
    assert 20 < wanted.sum() < 2000
    assert abs(len(again) - wanted.sum()) < 0.1 * wanted.sum()


# -- interrupts -----------------------------------------------------------------------------------


def test_a_call_that_was_given_up_leaves_the_kernels_soon(everything: Any) -> None:
    """Kernels look at the flag between steps and between linear layers: a tile of a large flow takes seconds."""
    engine, packed = everything
    rng = np.random.default_rng(4)
    x = rng.standard_normal((64, 3))
    with engine.lend(False) as space:
        space.x[:64] = x
        space.stop = np.ones(1, np.int64)
        given = engine.context(np.zeros((64, 2)), 64)
        through = engine.through(False, 0, engine.n_steps - 1, False, False)  # all but the columns
        theta = engine.theta([np.zeros(n) for n in engine.externals], through, 64)
        evaluate_rows(
            engine.plan(False), packed.view, through, engine.source(space, given, theta, 8), 64, space.out, space.log_det,
            space.space,
        )  # fmt: skip
        order = np.argsort(engine.layout.boundary[-1])[engine.layout.boundary[0]]
        assert_same_bits(space.out[:64], x[:, order])


def test_the_main_thread_only_waits_while_long_jobs_run(monkeypatch: pytest.MonkeyPatch, everything: Any) -> None:
    engine, packed = everything
    x, c, threads = np.random.default_rng(4).standard_normal((300, 3)), np.zeros((300, 2)), []
    arguments = x, c, [np.zeros(n) for n in engine.externals]
    want = evaluated(engine, packed, *arguments)  # compiles, on this thread
    lend = engine.lend
    monkeypatch.setattr("penstock._numba.engine.calls.LONG_FLOPS", 0.0)
    monkeypatch.setattr(engine, "lend", lambda kind: [threads.append(threading.current_thread()), lend(kind)][1])
    for got, expected in zip(evaluated(engine, packed, *arguments), want, strict=True):
        assert_same_bits(got, expected)
    assert threads
    assert threading.main_thread() not in threads


def test_an_interrupt_reaches_the_jobs_of_a_call() -> None:
    seen: list[Stop] = []

    def job(i: int, stop: Stop) -> None:
        _thread.interrupt_main()
        limit = time.monotonic() + 60
        while not stop() and time.monotonic() < limit:
            pass
        seen.append(stop)

    # a suite that a script starts in the background ignores the signal
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            parallel(job, 1, 1, long=True)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [int(stop.flag[0]) for stop in seen] == [1]
    done: list[int] = []
    parallel(lambda i, stop: done.append(i), 5, 1, long=True)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_an_error_in_a_job_that_the_caller_waits_for_is_raised() -> None:
    def job(i: int, stop: Stop) -> None:
        raise ArithmeticError(i)

    with pytest.raises(ArithmeticError):
        parallel(job, 3, 1, long=True)
