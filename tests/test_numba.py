"""The Numba twin by itself: what it compiles and where it keeps it, its elementary functions, and its side of the protocol."""

from __future__ import annotations

import _thread
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
import tables
from helpers import assert_same_bits

pytest.importorskip("numba")

import numba

from penstock._numba import Engine, Trainer, row_order
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


# -- the protocol ---------------------------------------------------------------------------------


def made(make: Any, dtype: str = "float64", seed: int = 0) -> tuple[Engine, Any, Array]:
    """An engine of a table, packed random parameters, and the parameters."""
    engine = Engine(make.write())
    params = (0.3 * np.random.default_rng(seed).standard_normal(engine.n_params)).astype(dtype)
    scales = np.random.default_rng(seed + 1).uniform(0.5, 2.0, engine.n_buffers)
    return engine, engine.pack(params, scales), params


def evaluated(engine: Engine, packed: Any, x: Array, index: Any = None, context: Any = None, thetas: Any = None,
              to_data: bool = False, base: bool = False) -> tuple[Array, Array]:  # fmt: skip
    """Whole flow in one direction."""
    rows = len(x) if index is None else len(index)
    out, log_det = np.zeros((rows, engine.dim)), np.zeros(rows)
    engine.evaluate(packed, to_data, 0, engine.n_steps, x, index, context, thetas, base, out, log_det)
    return out, log_det


@pytest.fixture(scope="module")
def everything() -> tuple[Engine, Any, Array]:
    """All that engines compute in one flow."""
    return made(tables.everything())


def thetas_of(engine: Engine, rows: int, seed: int = 3) -> list[Array]:
    """The first external theta by row, others shared."""
    rng = np.random.default_rng(seed)
    return [0.3 * rng.standard_normal((rows, n) if i == 0 else (n,)) for i, n in enumerate(engine.externals)]


@pytest.mark.parametrize("to_data", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_of_every_external_theta_are_those_of_differences(
    everything: Any, to_data: bool, shared: bool
) -> None:
    """A theta whose step is walked before others on the way back keeps its gradient (both orders, and an embedding)."""
    engine, packed, _ = everything
    rng, rows, h = np.random.default_rng(5), 5, 1e-4
    x, c = rng.standard_normal((rows, 3)), rng.standard_normal((1 if shared else rows, 2))
    thetas = thetas_of(engine, rows)
    d_out, d_log_det = rng.standard_normal((rows, 3)), rng.standard_normal(rows)
    d_thetas = [np.zeros_like(theta) for theta in thetas]
    d_x, d_params, d_context = np.zeros((rows, 3)), np.zeros(engine.n_params), np.zeros(c.shape)
    log_det = np.full(rows, np.nan)
    engine.vjp(
        packed, to_data, 0, engine.n_steps, x, c, thetas, False, d_out, d_log_det, log_det, d_x, d_params, d_context, d_thetas
    )  # fmt: skip

    def value(thetas: list[Array]) -> float:
        out, log_det = evaluated(engine, packed, x, None, c, thetas, to_data)
        return float((out * d_out).sum() + log_det @ d_log_det)

    for i, theta in enumerate(thetas):
        expected = np.zeros(theta.size)
        for j in range(theta.size):
            for weight, step in ((1, -2), (-8, -1), (8, 1), (-1, 2)):
                moved = [t.copy() for t in thetas]
                moved[i].flat[j] += step * h
                expected[j] += weight * value(moved) / (12 * h)
        np.testing.assert_allclose(d_thetas[i].ravel(), expected, rtol=1e-7, atol=1e-7)
    assert_same_bits(log_det, evaluated(engine, packed, x, None, c, thetas, to_data)[1])


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("to_data", [False, True])
def test_vjp_gives_the_log_det_of_evaluate(everything: Any, to_data: bool, base: bool) -> None:
    engine, packed, _ = everything
    rng = np.random.default_rng(6)
    x, c, thetas = rng.standard_normal((70, 3)), rng.standard_normal((1, 2)), thetas_of(engine, 70)
    want = evaluated(engine, packed, x, None, c, thetas, to_data, base)[1]
    log_det = np.zeros(70)
    engine.vjp(
        packed, to_data, 0, engine.n_steps, x, c, thetas, base, None, None, log_det, None, None, None, None
    )  # fmt: skip
    assert_same_bits(log_det, want)


def test_rows_are_chosen_by_an_index(everything: Any) -> None:
    engine, packed, _ = everything
    rng = np.random.default_rng(7)
    x, c = rng.standard_normal((40, 3)), rng.standard_normal((8, 2))
    index = rng.integers(0, 40, 150)
    thetas = thetas_of(engine, 150)
    want = evaluated(engine, packed, x[index], None, c[index // 5], thetas)
    for got, expected in zip(evaluated(engine, packed, x, index, c, thetas), want, strict=True):
        assert_same_bits(got, expected)
    for wrong in (np.array([40]), np.array([-1]), np.array([0], np.int32), np.zeros((1, 1), np.int64)):
        out = np.full((1, 3), 7.0)
        with pytest.raises(ValueError, match="index must"):
            engine.evaluate(packed, False, 0, 1, x, wrong, c, thetas_of(engine, 1), False, out, None)
        assert (out == 7).all()


def test_an_external_theta_may_be_absent_where_its_step_is_not_run(everything: Any) -> None:
    engine, packed, _ = everything
    x, c, thetas = np.zeros((4, 3)), np.zeros((1, 2)), thetas_of(engine, 4)
    steps = [k for k, n in enumerate(engine.layout.external) if n]
    first, second = steps
    assert engine.externals == [3, 6]
    out = np.zeros((4, 3))
    engine.evaluate(packed, False, second, second + 1, x, None, c, [None, thetas[1]], False, out, None)
    engine.evaluate(packed, False, 0, first, x, None, c, None, False, out, None)
    with pytest.raises(ValueError, match=rf"thetas\[0\] must be given: step {first} reads it"):
        engine.evaluate(packed, False, first, second, x, None, c, [None, thetas[1]], False, out, None)
    with pytest.raises(ValueError, match="thetas must have 2 entries"):
        engine.evaluate(packed, False, 0, first, x, None, c, [None], False, out, None)
    d_thetas = [np.full_like(thetas[0], 7.0), np.full_like(thetas[1], 7.0)]
    engine.vjp(packed, False, 0, first, x, c, thetas, False, x, None, None, None, None, None, d_thetas)
    assert (d_thetas[0] == 0).all()
    assert (d_thetas[1] == 7).all()


def test_what_has_no_theta_to_give_refuses_a_plan_that_reads_one(everything: Any) -> None:
    engine, packed, params = everything
    with pytest.raises(ValueError, match="sample needs a plan without external theta"):
        engine.sample(packed, 1, 0, 0, np.zeros(2), np.zeros((3, 3)), None)
    with pytest.raises(ValueError, match="loss_and_grad needs a plan without external theta"):
        engine.loss_and_grad(packed, np.zeros((3, 3)), np.zeros(2), None, np.zeros(engine.n_params))
    with pytest.raises(ValueError, match="Trainer needs a plan without external theta"):
        Trainer(engine, params, np.ones(engine.n_buffers), 0.9, 0.999, 1e-8, 0.0, True, 1.0)


def test_numbers_of_another_plan_are_refused(everything: Any) -> None:
    engine, _, _ = everything
    _, other, _ = made(tables.everything("float32"), "float32")
    with pytest.raises(ValueError, match="same plan"):
        evaluated(engine, other, np.zeros((1, 3)), None, np.zeros(2), thetas_of(engine, 1))


def test_a_context_that_many_rows_share_takes_no_memory_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = tables.Maker(2, 50)
    maker.coupling()
    engine, packed, _ = made(maker.finish())
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


def affine(dtype: str = "float32", dim: int = 3) -> Any:
    """A small flow that trains."""
    maker = tables.Maker(dim, 0, dtype)
    maker.coupling()
    maker.elementwise()
    return maker.finish()


@pytest.mark.parametrize("power", [-160, -1000, 120, 1000, -1074])
def test_losses_know_no_scale_of_the_weights(power: int) -> None:
    engine, packed, _ = made(affine(), "float32")
    x = np.random.default_rng(1).standard_normal((100, 3))
    w = np.ones(100)
    w[:50] = 0.5 if power > -1074 else 1.0
    want, got = np.zeros(engine.n_params), np.zeros(engine.n_params)
    with np.errstate(all="raise"):
        loss, total = engine.loss_and_grad(packed, x, None, w, want)
        scaled = engine.loss_and_grad(packed, x, None, np.ldexp(w, power), got)
    assert total == w.sum()
    if power > -1000:
        assert scaled == (loss * 2.0**power, total * 2.0**power)
        assert_same_bits(got, want * 2.0**power)
        assert got.any()
    else:
        np.testing.assert_allclose(scaled[0], loss * 2.0**power, rtol=1e-3, atol=3 * 5e-324)


def trainer_of(engine: Engine, params: Array, *, decay: float = 0.0, **settings: Any) -> Trainer:
    """With the usual settings."""
    return Trainer(engine, params, np.ones(engine.n_buffers), 0.9, 0.999, 1e-8, decay, True, 1e9, **settings)


def ran(trainer: Trainer, x: Array, weight: Any = None, *, exponent: int = 0, scale: float | None = None, n: int = 4,
        rate: float = 1e-2) -> tuple[int, Array, Array]:  # fmt: skip
    """Some steps; how many, losses and norms."""
    losses, norms = np.zeros(n), np.zeros(n)
    done = trainer.run(
        x, None, weight, exponent, len(x) if scale is None else scale, 1, 1, len(x), 0, len(x) // n, np.full(n, rate), losses,
        norms,
    )  # fmt: skip
    return done, losses, norms


def params_of(trainer: Trainer) -> Array:
    """The present ones."""
    out = np.zeros_like(trainer.packed().params)
    trainer.get_params(out)
    return out


def test_training_knows_no_scale_of_the_weights() -> None:
    engine, _, params = made(affine(), "float32")
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((256, 3)), rng.uniform(0.5, 1.0, 256)
    ends = []
    for power in (0, -900, 900):
        trainer = trainer_of(engine, params)
        with np.errstate(all="raise"):
            done, losses, norms = ran(trainer, x, np.ldexp(w, power), exponent=-power, scale=256 / w.sum())
        assert done == 4
        ends.append((params_of(trainer), losses, norms))
    for other in ends[1:]:
        for got, want in zip(other, ends[0], strict=True):
            assert_same_bits(got, want)


def test_a_batch_without_weight_takes_no_step_and_is_done() -> None:
    engine, _, params = made(affine(), "float32")
    x = np.random.default_rng(2).standard_normal((256, 3))
    positions = np.zeros(64, np.int64)
    row_order(1, 1, 256, 64, positions)
    row_order(1, 0, 256, positions, positions)
    w = np.ones(256)
    w[positions] = 0.0
    trainer = trainer_of(engine, params)
    done, losses, norms = ran(trainer, x, w)
    assert done == 4
    assert np.isnan(losses).tolist() == [False, True, False, False]
    assert (norms == 0).tolist() == [False, True, False, False]
    assert trainer.step == 3


@pytest.mark.parametrize("how", ["argument", "table"])
def test_frozen_parameters_stay_to_the_bit(how: str) -> None:
    table = affine()
    if how == "table":
        table.ranges[1]["flags"] |= tables.FROZEN
    engine, _, params = made(table, "float32")
    first, second = table.ranges[1]["offset"], table.ranges[1]["count"]
    frozen = np.array([[first, second]]) if how == "argument" else None
    x = np.random.default_rng(3).standard_normal((256, 3))
    trainer, free = trainer_of(engine, params, decay=0.1, frozen=frozen), trainer_of(engine, params, decay=0.1)
    _, _, norms = ran(trainer, x, n=1)
    inside = slice(first, first + second)
    assert_same_bits(params_of(trainer)[inside], params[inside])
    m, v = np.ones_like(params), np.ones_like(params)
    assert trainer.get_state(m, v) == 1
    assert not m[inside].any()
    assert not v[inside].any()
    assert np.delete(m, np.arange(first, first + second)).any()
    trainer.set_state(np.ones_like(m), np.ones_like(v), 5)
    trainer.get_state(m, v)
    assert not m[inside].any()
    if how == "argument":
        assert norms[0] < ran(free, x, n=1)[2][0]


def test_the_state_of_a_trainer_can_be_put_elsewhere() -> None:
    engine, _, params = made(affine(), "float32")
    x = np.random.default_rng(3).standard_normal((256, 3))
    one = trainer_of(engine, params)
    ran(one, x)
    other = trainer_of(engine, params_of(one))
    m, v = np.zeros_like(params), np.zeros_like(params)
    other.set_state(m, v, one.get_state(m, v))
    assert other.step == 4
    for trainer in (one, other):
        ran(trainer, x)
    assert_same_bits(params_of(other), params_of(one))


def test_two_calls_at_once_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, _, params = made(affine(), "float32")
    trainer, errors = trainer_of(engine, params), []
    x = np.random.default_rng(3).standard_normal((256, 3))

    def other() -> None:
        for call in (lambda: ran(trainer, x), trainer.packed, lambda: trainer.set_params(params)):
            with pytest.raises(RuntimeError, match="at work in another call"):
                call()
            errors.append(1)

    step = trainer._step

    def during(*args: Any) -> bool:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return step(*args)

    monkeypatch.setattr(trainer, "_step", during)
    ran(trainer, x, n=1)
    assert len(errors) == 3
    trainer.packed()


def test_moments_reach_zero_and_decay_does_not_vanish() -> None:
    table = affine()
    engine, _, params = made(table, "float32")
    m, v = np.full_like(params, 1e-20), np.full_like(params, 1e-20)
    moved = params.copy()
    decays = np.zeros(len(params), np.bool_)
    for piece in table.ranges:
        decays[piece["offset"] : piece["offset"] + piece["count"]] = piece["flags"] & tables.DECAYS
    for step in range(1, 1001):
        engine.adam(moved, np.zeros(len(params)), m, v, step, 1e-7, 0.9, 0.97, 1e-8, 1e-2, True)
    assert not m.any()
    assert not v.any()
    # a decay of 1e-9 a step is below half an ulp of any parameter: only the sum with the step could move one
    assert (np.abs(moved[decays]) <= np.abs(params[decays])).all()
    moved = params.copy()
    for step in range(1, 1001):
        engine.adam(moved, np.full(len(params), 1e-3), m, v, step, 1e-5, 0.9, 0.97, 1e-8, 5e-3, True)
    undecayed = params.copy()
    m[:], v[:] = 0, 0
    for step in range(1, 1001):
        engine.adam(undecayed, np.full(len(params), 1e-3), m, v, step, 1e-5, 0.9, 0.97, 1e-8, 0.0, True)
    pull = (undecayed - moved)[decays] / params[decays]
    assert np.median(pull) == pytest.approx(5e-5, rel=0.3)


def test_draws_have_counters_of_their_own_beyond_32_bits() -> None:
    engine, packed, _ = made(affine(), "float32")

    def drawn(context_row: int, first: int, n: int = 1) -> Array:
        out = np.zeros((n, 3), np.float32)
        engine.sample(packed, 5, context_row, first, None, out, None)
        return out

    seen = {drawn(c, d).tobytes() for c in (0, 1, 2**32, 2**40 - 1) for d in (0, 1, 2**32, 2**32 + 1, 2**56 - 1)}
    assert len(seen) == 20
    across = drawn(0, 2**32 - 2, 4)
    assert_same_bits(across, np.concatenate([drawn(0, 2**32 - 2 + i) for i in range(4)]))
    for context_row, first in ((0, -1), (-1, 0), (0, 2**56), (2**40, 0), (0, 2**56 - 3)):
        with pytest.raises(ValueError, match=r"first_draw|context_row"):
            drawn(context_row, first, 4)


def test_the_error_state_of_numpy_changes_nothing() -> None:
    """Overflow, underflow and NaN are results here, whatever the caller wants to hear of."""
    engine, _, params = made(affine(), "float32")
    x = np.random.default_rng(3).standard_normal((300, 3))
    x[::3] *= 1e-30
    x[1::3] *= 1e30
    out, log_det, d_x = (np.zeros(shape, np.float32) for shape in ((300, 3), (300,), (300, 3)))
    with np.errstate(all="raise"):
        tiny = engine.pack(np.full_like(params, 1e-42), np.full(engine.n_buffers, 1e-300))
        for packed in (
            tiny,
            engine.pack(params, np.ones(engine.n_buffers)),
            engine.pack(params * 1e30, np.ones(engine.n_buffers)),
        ):
            engine.evaluate(packed, False, 0, engine.n_steps, x, None, None, None, True, out, log_det)
            engine.sample(packed, 1, 0, 0, None, out, log_det)
            d_params = np.zeros(engine.n_params)
            engine.vjp(
                packed, False, 0, engine.n_steps, x, None, None, True, np.full_like(out, 1e-44), np.full(300, 1e-44, np.float32),
                log_det, d_x, d_params, None, None,
            )  # fmt: skip
            for w in (1e-320, 1e300):
                engine.loss_and_grad(packed, x, None, np.full(300, w), d_params)
        for start in (np.full_like(params, 1e-44), np.full_like(params, 1e30)):
            trainer = trainer_of(engine, start)
            ran(trainer, x, np.full(300, 1e-310), exponent=1000)
            ran(trainer, x, rate=1e30)


# -- interrupts -----------------------------------------------------------------------------------


def test_a_call_that_was_given_up_leaves_the_kernels_soon(everything: Any) -> None:
    """Kernels look at the flag between steps and between linear layers: a tile of a large flow takes seconds."""
    engine, packed, _ = everything
    rng = np.random.default_rng(4)
    x = rng.standard_normal((64, 3))
    with engine.lend(False) as space:
        space.x[:64] = x
        space.stop = np.ones(1, np.int64)
        given = engine.context(np.zeros((64, 2)), 64)
        through = engine.through(False, 0, engine.n_steps - 1, False, False)  # all but the columns
        theta = engine.theta([np.zeros(n) for n in engine.externals], through, 64)
        evaluate_rows(
            engine.plan(False), packed.view, through, engine.source(space, given, theta), 64, space.out, space.log_det,
            space.space,
        )  # fmt: skip
        order = np.argsort(engine.layout.boundary[-1])[engine.layout.boundary[0]]
        assert_same_bits(space.out[:64], x[:, order])


def test_the_main_thread_only_waits_while_long_jobs_run(monkeypatch: pytest.MonkeyPatch, everything: Any) -> None:
    engine, packed, _ = everything
    x, c, threads = np.random.default_rng(4).standard_normal((300, 3)), np.zeros((300, 2)), []
    arguments = x, None, c, [np.zeros(n) for n in engine.externals]
    want = evaluated(engine, packed, *arguments)  # compiles, on this thread
    lend = engine.lend
    monkeypatch.setattr("penstock._numba.engine.engine.LONG_FLOPS", 0.0)
    monkeypatch.setattr(engine, "lend", lambda kind: [threads.append(threading.current_thread()), lend(kind)][1])
    for got, expected in zip(evaluated(engine, packed, *arguments), want, strict=True):
        assert_same_bits(got, expected)
    assert threads
    assert threading.main_thread() not in threads


def test_an_interrupt_reaches_the_jobs_of_a_call() -> None:
    seen: list[Stop] = []

    def job(i: int, stop: Stop) -> None:
        _thread.interrupt_main()
        while not stop():
            pass
        seen.append(stop)

    with pytest.raises(KeyboardInterrupt):
        parallel(job, 1, 1, long=True)
    assert [int(stop.flag[0]) for stop in seen] == [1]
    done: list[int] = []
    parallel(lambda i, stop: done.append(i), 5, 1, long=True)
    assert sorted(done) == [0, 1, 2, 3, 4]


def test_an_error_in_a_job_that_the_caller_waits_for_is_raised() -> None:
    def job(i: int, stop: Stop) -> None:
        raise ArithmeticError(i)

    with pytest.raises(ArithmeticError):
        parallel(job, 3, 1, long=True)
