"""Both engines below the shell: protocol 2, on plan tables written by hand."""

from __future__ import annotations

import importlib
import threading
from typing import Any

import numpy as np
import pytest

import tables
from cases import BACKENDS
from helpers import assert_same_bits

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    """The module of a backend."""
    return importlib.import_module({"cpp": "penstock._core", "numba": "penstock._numba"}[request.param])


class Flow:
    """An engine of a table, with packed random parameters."""

    def __init__(self, backend: Any, table: Any, dtype: str = "float64", seed: int = 0) -> None:
        self.backend, self.table, self.dtype = backend, table, dtype
        self.engine = backend.Engine(table.write())
        self.n_steps = len(table.steps)
        self.params = (0.3 * np.random.default_rng(seed).standard_normal(self.engine.n_params)).astype(dtype)
        self.scales = np.random.default_rng(seed + 1).uniform(0.5, 2.0, self.engine.n_buffers)
        self.packed = self.engine.pack(self.params, self.scales)

    def evaluate(
        self, x: Array, index: Any = None, context: Any = None, thetas: Any = None, *, to_data: bool = False,
        base: bool = False, first: int = 0, last: int | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Rows and log_det, by default of the whole flow towards the latent side."""
        rows = len(x) if index is None else len(index)
        out, log_det = np.zeros((rows, self.engine.dim), self.dtype), np.zeros(rows, self.dtype)
        last = self.n_steps if last is None else last
        self.engine.evaluate(self.packed, to_data, first, last, x, index, context, thetas, base, out, log_det)
        return out, log_det

    def vjp(
        self, x: Array, context: Any = None, thetas: Any = None, *, to_data: bool = False, base: bool = False,
        d_out: Any = None, d_log_det: Any = None, log_det: Any = None, d_x: Any = None, d_params: Any = None,
        d_context: Any = None, d_thetas: Any = None, last: int | None = None,
    ) -> None:  # fmt: skip
        """Into the arrays that are given."""
        last = self.n_steps if last is None else last
        self.engine.vjp(
            self.packed, to_data, 0, last, x, context, thetas, base, d_out, d_log_det, log_det, d_x, d_params, d_context,
            d_thetas,
        )  # fmt: skip

    def thetas(self, rows: int, seed: int = 3) -> list[Array]:
        """The first external theta by row, others shared."""
        rng = np.random.default_rng(seed)
        return [0.3 * rng.standard_normal((rows, n) if i == 0 else (n,)) for i, n in enumerate(self.engine.externals)]

    def externals(self) -> list[int]:
        """Numbers of the steps that read them."""
        return [k for k, step in enumerate(self.table.steps) if self.is_external(step)]

    def is_external(self, step: Any) -> bool:
        """Whether the part of a step takes theta from outside."""
        return step["n_parts"] > 0 and self.table.parts[step["part"]].get("external", -1) >= 0

    def trainer(self, params: Array | None = None, *, decay: float = 0.0, **settings: Any) -> Any:
        """A trainer with the usual settings."""
        start = self.params if params is None else params
        scales = np.ones(self.engine.n_buffers)
        return self.backend.Trainer(self.engine, start, scales, 0.9, 0.999, 1e-8, decay, True, 1e9, **settings)


def trained(
    trainer: Any, x: Array, weight: Any = None, *, exponent: int = 0, scale: float | None = None, n: int = 4,
    rate: float = 1e-2,
) -> tuple[int, Array, Array]:  # fmt: skip
    """Some steps; how many were done, losses and norms."""
    losses, norms = np.zeros(n), np.zeros(n)
    done = trainer.run(
        x, None, weight, exponent, len(x) if scale is None else scale, 1, 1, len(x), 0, len(x) // n, np.full(n, rate), losses,
        norms,
    )  # fmt: skip
    return done, losses, norms


def params_of(trainer: Any, flow: Flow) -> Array:
    """The present ones."""
    out = np.zeros_like(flow.params)
    trainer.get_params(out)
    return out


@pytest.fixture(scope="module")
def everything(backend: Any) -> Flow:
    """All that engines compute in one flow."""
    return Flow(backend, tables.everything())


def small_table(dtype: str = "float32") -> Any:
    """A flow that trains."""
    maker = tables.Maker(3, 0, dtype)
    maker.coupling()
    maker.elementwise()
    return maker.finish()


@pytest.fixture(scope="module")
def small(backend: Any) -> Flow:
    """In float32."""
    return Flow(backend, small_table(), "float32")


# -- external theta -------------------------------------------------------------------------------


@pytest.mark.parametrize("to_data", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_gradients_of_every_external_theta_are_those_of_differences(
    everything: Flow, to_data: bool, shared: bool
) -> None:
    """A theta whose step is walked before others on the way back keeps its gradient (both orders, and an embedding)."""
    rng, rows, h = np.random.default_rng(5), 5, 1e-4
    x, c, thetas = rng.standard_normal((rows, 3)), rng.standard_normal((1 if shared else rows, 2)), everything.thetas(5)
    d_out, d_log_det, log_det = rng.standard_normal((rows, 3)), rng.standard_normal(rows), np.full(rows, np.nan)
    d_thetas = [np.zeros_like(theta) for theta in thetas]
    everything.vjp(
        x, c, thetas, to_data=to_data, d_out=d_out, d_log_det=d_log_det, log_det=log_det, d_x=np.zeros((rows, 3)),
        d_params=np.zeros(everything.engine.n_params), d_context=np.zeros(c.shape), d_thetas=d_thetas,
    )  # fmt: skip

    def value(thetas: list[Array]) -> float:
        out, log_det = everything.evaluate(x, None, c, thetas, to_data=to_data)
        return float((out * d_out).sum() + log_det @ d_log_det)

    for i, theta in enumerate(thetas):
        expected = np.zeros(theta.size)
        for j in range(theta.size):
            for weight, step in ((1, -2), (-8, -1), (8, 1), (-1, 2)):
                moved = [t.copy() for t in thetas]
                moved[i].flat[j] += step * h
                expected[j] += weight * value(moved) / (12 * h)
        np.testing.assert_allclose(d_thetas[i].ravel(), expected, rtol=1e-7, atol=1e-7)
    assert_same_bits(log_det, everything.evaluate(x, None, c, thetas, to_data=to_data)[1])


def test_an_external_theta_may_be_absent_where_its_step_is_not_run(everything: Flow) -> None:
    x, c, thetas = np.zeros((4, 3)), np.zeros((1, 2)), everything.thetas(4)
    first, second = everything.externals()
    assert list(everything.engine.externals) == [3, 6]
    everything.evaluate(x, None, c, [None, thetas[1]], first=second, last=second + 1)
    everything.evaluate(x, None, c, None, last=first)
    with pytest.raises(ValueError, match=rf"thetas\[0\] must be given: step {first} reads it"):
        everything.evaluate(x, None, c, [None, thetas[1]], first=first, last=second)
    with pytest.raises(ValueError, match="thetas must have 2 entries"):
        everything.evaluate(x, None, c, [None], last=first)
    with pytest.raises(ValueError, match=r"d_thetas\[1\] must be None where thetas\[1\] is None"):
        everything.vjp(x, c, [thetas[0], None], d_out=x, d_thetas=thetas, last=first)
    d_thetas = [np.full_like(thetas[0], 7.0), np.full_like(thetas[1], 7.0)]
    everything.vjp(x, c, thetas, d_out=x, d_thetas=d_thetas, last=first)
    assert (d_thetas[0] == 0).all()
    assert (d_thetas[1] == 7).all()


def test_what_has_no_theta_to_give_refuses_a_plan_that_reads_one(everything: Flow) -> None:
    engine = everything.engine
    with pytest.raises(ValueError, match="sample needs a plan without external theta"):
        engine.sample(everything.packed, 1, 0, 0, np.zeros(2), np.zeros((3, 3)), None)
    with pytest.raises(ValueError, match="loss_and_grad needs a plan without external theta"):
        engine.loss_and_grad(everything.packed, np.zeros((3, 3)), np.zeros(2), None, np.zeros(engine.n_params))
    with pytest.raises(ValueError, match="Trainer needs a plan without external theta"):
        everything.trainer()


# -- rows, contexts, packed numbers ---------------------------------------------------------------


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize("to_data", [False, True])
def test_vjp_gives_the_log_det_of_evaluate(everything: Flow, to_data: bool, base: bool) -> None:
    rng = np.random.default_rng(6)
    x, c, thetas = rng.standard_normal((70, 3)), rng.standard_normal((1, 2)), everything.thetas(70)
    log_det = np.zeros(70)
    everything.vjp(x, c, thetas, to_data=to_data, base=base, log_det=log_det)
    assert_same_bits(log_det, everything.evaluate(x, None, c, thetas, to_data=to_data, base=base)[1])


def test_rows_are_chosen_by_an_index(everything: Flow) -> None:
    rng = np.random.default_rng(7)
    x, c, index, thetas = rng.standard_normal((40, 3)), rng.standard_normal((8, 2)), rng.integers(0, 40, 150), None
    thetas = everything.thetas(150)
    want = everything.evaluate(x[index], None, c[index // 5], thetas)
    for got, expected in zip(everything.evaluate(x, index, c, thetas), want, strict=True):
        assert_same_bits(got, expected)
    for wrong in (np.array([40]), np.array([-1]), np.array([0], np.int32), np.zeros((1, 1), np.int64)):
        out = np.full((1, 3), 7.0)
        with pytest.raises(ValueError, match="index must"):
            everything.engine.evaluate(everything.packed, False, 0, 1, x, wrong, c, None, False, out, None)
        assert (out == 7).all()


def test_numbers_of_another_plan_are_refused(backend: Any, everything: Flow) -> None:
    """Also of a plan with as many parameters, dimensions and packed numbers."""
    other = Flow(backend, tables.everything("float32"), "float32")
    with pytest.raises(ValueError, match="same plan"):
        everything.engine.evaluate(
            other.packed, False, 0, 1, np.zeros((1, 3)), None, np.zeros(2), None, False, np.zeros((1, 3)), None
        )
    flows = []
    for transform in ("affine", "additive"):
        maker = tables.Maker(2, 0)
        maker.elementwise(transform)
        flows.append(Flow(backend, maker.finish()))
    same = [Flow(backend, tables.Maker(dim, 3 - dim).finish()) for dim in (1, 2)]
    for one, two in (flows, same):
        with pytest.raises(ValueError, match="same plan"):
            one.engine.evaluate(
                two.packed, False, 0, 1, np.zeros((1, one.engine.dim)), None, None, None, False, None, np.zeros(1)
            )


def test_a_context_that_rows_share_has_the_sum_of_their_gradients(backend: Any) -> None:
    maker = tables.Maker(2, 5)
    maker.coupling()
    flow = Flow(backend, maker.finish())
    rng = np.random.default_rng(0)
    for rows, contexts in ((1, 1), (70, 1), (70, 7), (4000, 1), (4000, 3), (6000, 5), (6000, 3000)):
        rows -= rows % contexts
        x, c = rng.standard_normal((rows, 2)), rng.standard_normal((contexts, 5))
        shared, by_row = np.zeros(c.shape), np.zeros((rows, 5))
        ones = np.ones(rows)
        flow.vjp(x, c, base=True, d_log_det=ones, d_context=shared if contexts < rows else (shared := by_row))
        flow.vjp(x, np.repeat(c, rows // contexts, axis=0), base=True, d_log_det=ones, d_context=by_row)
        want = by_row.reshape(contexts, -1, 5).sum(axis=1)
        np.testing.assert_allclose(shared.reshape(want.shape), want, rtol=1e-11, atol=1e-11)


# -- weights --------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [-160, -1000, 120, 1000, -1074])
def test_losses_know_no_scale_of_the_weights(small: Flow, power: int) -> None:
    x = np.random.default_rng(1).standard_normal((100, 3))
    w = np.ones(100)
    w[:50] = 0.5 if power > -1074 else 1.0
    want, got = np.zeros(small.engine.n_params), np.zeros(small.engine.n_params)
    with np.errstate(all="raise"):
        loss, total = small.engine.loss_and_grad(small.packed, x, None, w, want)
        scaled = small.engine.loss_and_grad(small.packed, x, None, np.ldexp(w, power), got)
    assert total == w.sum()
    if power > -1000:
        assert scaled == (loss * 2.0**power, total * 2.0**power)
        assert_same_bits(got, want * 2.0**power)
        assert got.any()
    else:
        np.testing.assert_allclose(scaled[0], loss * 2.0**power, rtol=1e-3, atol=3 * 5e-324)


def test_training_knows_no_scale_of_the_weights(small: Flow) -> None:
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((256, 3)), rng.uniform(0.5, 1.0, 256)
    ends = []
    for power in (0, -900, 900):
        trainer = small.trainer()
        with np.errstate(all="raise"):
            done, losses, norms = trained(trainer, x, np.ldexp(w, power), exponent=-power, scale=256 / w.sum())
        assert done == 4
        ends.append((params_of(trainer, small), losses, norms))
    for other in ends[1:]:
        for got, want in zip(other, ends[0], strict=True):
            assert_same_bits(got, want)


def test_a_batch_without_weight_takes_no_step_and_is_done(backend: Any, small: Flow) -> None:
    x = np.random.default_rng(2).standard_normal((256, 3))
    positions = np.zeros(64, np.int64)
    backend.row_order(1, 1, 256, 64, positions)
    backend.row_order(1, 0, 256, positions, positions)
    w = np.ones(256)
    w[positions] = 0.0
    trainer = small.trainer()
    done, losses, norms = trained(trainer, x, w)
    assert done == 4
    assert np.isnan(losses).tolist() == [False, True, False, False]
    assert (norms == 0).tolist() == [False, True, False, False]
    assert trainer.step == 3


def test_batches_lie_within_the_rows_of_an_epoch(small: Flow) -> None:
    x, one = np.zeros((100, 3)), np.zeros(1)
    for n_train, first_step, batch in (
        (101, 0, 10), (0, 0, 10), (90, 0, 91), (90, 0, 2**62), (90, 0, 0), (90, 9, 10), (90, -1, 10), (90, 2**61, 10),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"n_train|first_step|batch_size"):
            small.trainer().run(x, None, None, 0, 1.0, 1, 1, n_train, first_step, batch, one, one.copy(), one.copy())


def test_positions_lie_within_the_rows(backend: Any) -> None:
    every, some = np.zeros(100, np.int64), np.zeros(7, np.int64)
    backend.row_order(3, 2, 100, 0, every)
    assert sorted(every) == list(range(100))
    at = np.array([99, 0, 5, 5, 98, 1, 2])
    backend.row_order(3, 2, 100, at, some)
    assert some.tolist() == every[at].tolist()
    for wrong in (at + 1, at - 1, -1, 94, np.zeros(6, np.int64), at.astype(np.int32)):
        with pytest.raises(ValueError, match="positions"):
            backend.row_order(3, 2, 100, wrong, some)


# -- the trainer ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["argument", "table"])
def test_frozen_parameters_stay_to_the_bit(backend: Any, how: str) -> None:
    table = small_table()
    if how == "table":
        table.ranges[1]["flags"] |= tables.FROZEN
    flow = Flow(backend, table, "float32")
    first, count = table.ranges[1]["offset"], table.ranges[1]["count"]
    frozen = np.array([[first, count]]) if how == "argument" else None
    x = np.random.default_rng(3).standard_normal((256, 3))
    trainer, free = flow.trainer(decay=0.1, frozen=frozen), flow.trainer(decay=0.1)
    _, _, norms = trained(trainer, x, n=1)
    inside = slice(first, first + count)
    moved = params_of(trainer, flow) != flow.params
    assert not moved[inside].any()
    assert np.delete(moved, np.arange(first, first + count)).all()
    m, v = np.ones_like(flow.params), np.ones_like(flow.params)
    assert trainer.get_state(m, v) == 1
    assert not m[inside].any()
    assert not v[inside].any()
    assert np.delete(m, np.arange(first, first + count)).any()
    trainer.set_state(np.ones_like(m), np.ones_like(v), 5)
    trainer.get_state(m, v)
    assert not m[inside].any()
    if how == "argument":
        assert norms[0] < trained(free, x, n=1)[2][0]


def test_any_runs_of_parameters_can_be_frozen(small: Flow) -> None:
    n, x = small.engine.n_params, np.random.default_rng(3).standard_normal((256, 3))
    _, _, grad = None, None, np.zeros(n)
    batch = np.zeros(256, np.int64)
    small.backend.row_order(1, 1, 256, 0, batch)
    small.engine.loss_and_grad(small.engine.pack(small.params, np.ones(small.engine.n_buffers)), x, None, None, grad)
    for runs in ([[0, n]], [[0, 1]], [[n - 1, 1]], [[5, 3], [1, 2], [6, 20]], [[3, 0]], np.zeros((0, 2))):
        runs = np.array(runs, np.int64)
        free = np.ones(n, bool)
        for first, count in runs:
            free[first : first + count] = False
        trainer = small.trainer(frozen=runs)
        _, _, norms = trained(trainer, x, n=1)
        assert ((params_of(trainer, small) != small.params) <= free).all()
        assert (params_of(trainer, small) != small.params)[free & (np.abs(grad) > 1e-3)].all()
        np.testing.assert_allclose(norms[0], np.linalg.norm(grad[free]), rtol=1e-4)
    for wrong in ([[0, n + 1]], [[-1, 1]], [[n, 1]], [[0, -1]], [[2**62, 2**62]]):
        with pytest.raises(ValueError, match="frozen"):
            small.trainer(frozen=np.array(wrong))


def test_the_state_of_a_trainer_can_be_put_elsewhere(small: Flow) -> None:
    x = np.random.default_rng(3).standard_normal((256, 3))
    one = small.trainer()
    trained(one, x)
    other = small.trainer(params_of(one, small))
    m, v = np.zeros_like(small.params), np.zeros_like(small.params)
    other.set_state(m, v, one.get_state(m, v))
    assert other.step == 4
    for trainer in (one, other):
        trained(trainer, x)
    assert_same_bits(params_of(other, small), params_of(one, small))


def test_two_calls_at_once_are_refused(small: Flow) -> None:
    """One waits for the other's first numbers: they were written while it ran."""
    trainer, refused = small.trainer(), []
    steps = 2000  # long beside the time that one thread keeps the interpreter
    x = np.random.default_rng(3).standard_normal((64 * steps, 3))
    losses, norms = np.full(steps, -1.0), np.zeros(steps)
    error: list[BaseException] = []

    def long() -> None:
        try:
            trainer.run(x, None, None, 0, 1.0, 1, 1, len(x), 0, 64, np.full(steps, 1e-9), losses, norms)
        except BaseException as e:
            error.append(e)

    calls = [
        lambda: trained(trainer, x[:4000]),
        trainer.packed,
        lambda: trainer.set_params(small.params),
        lambda: trainer.get_params(np.zeros_like(small.params)),
        lambda: trainer.get_state(np.zeros_like(small.params), np.zeros_like(small.params)),
        lambda: trainer.set_state(small.params, small.params, 0),
    ]
    for call in calls:
        for _ in range(200):
            losses[:] = -1
            thread = threading.Thread(target=long)
            thread.start()
            while losses[0] == -1 and thread.is_alive():
                pass
            try:
                call()
            except RuntimeError as e:
                assert "at work in another call" in str(e)  # noqa: PT017
                refused.append(call)
            thread.join()
            if refused and refused[-1] is call:
                break
    assert not error
    assert refused == calls
    trainer.packed()


# -- draws and arithmetic -------------------------------------------------------------------------


def test_draws_have_counters_of_their_own_beyond_32_bits(small: Flow) -> None:
    def drawn(context_row: int, first: int, n: int = 1) -> Array:
        out = np.zeros((n, 3), np.float32)
        small.engine.sample(small.packed, 5, context_row, first, None, out, None)
        return out

    seen = {drawn(c, d).tobytes() for c in (0, 1, 2**32, 2**40 - 1) for d in (0, 1, 2**32, 2**32 + 1, 2**56 - 1)}
    assert len(seen) == 20
    across = drawn(0, 2**32 - 2, 4)
    assert_same_bits(across, np.concatenate([drawn(0, 2**32 - 2 + i) for i in range(4)]))
    for context_row, first in ((0, -1), (-1, 0), (0, 2**56), (2**40, 0), (0, 2**56 - 3)):
        with pytest.raises(ValueError, match=r"first_draw|context_row"):
            drawn(context_row, first, 4)


def test_moments_reach_zero_and_decay_does_not_vanish(small: Flow) -> None:
    params, engine = small.params, small.engine
    m, v = np.full_like(params, 1e-20), np.full_like(params, 1e-20)
    moved = params.copy()
    decays = np.zeros(len(params), np.bool_)
    for piece in small.table.ranges:
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


def test_the_error_state_of_numpy_changes_nothing(small: Flow) -> None:
    """Overflow, underflow and NaN are results here, whatever the caller wants to hear of."""
    engine, params = small.engine, small.params
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
            engine.evaluate(packed, False, 0, small.n_steps, x, None, None, None, True, out, log_det)
            engine.sample(packed, 1, 0, 0, None, out, log_det)
            d_params = np.zeros(engine.n_params)
            engine.vjp(
                packed, False, 0, small.n_steps, x, None, None, True, np.full_like(out, 1e-44), np.full(300, 1e-44, np.float32),
                log_det, d_x, d_params, None, None,
            )  # fmt: skip
            for w in (1e-320, 1e300):
                engine.loss_and_grad(packed, x, None, np.full(300, w), d_params)
        for start in (np.full_like(params, 1e-44), np.full_like(params, 1e30)):
            trainer = small.trainer(start)
            trained(trainer, x, np.full(300, 1e-310), exponent=1000)
            trained(trainer, x, rate=1e30)
