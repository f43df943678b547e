"""Promises of ``fit``: one commit at its end, failures that change nothing, weights in any unit, warnings that are true."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, fresh, points, rng, standardisation
from helpers import assert_same_bits, each_backend, each_dtype, python, python_json

Array = np.ndarray[Any, Any]

CASE = BY_NAME["mixed_layers"]
SMALL = ps.Coupling(ps.Affine(), ps.MLP((8,)))


def state_of(flow: Any) -> tuple[bytes, bool, str]:
    """Everything that a fit changes."""
    return flow.to_bytes(), flow.initialised, repr(vars(flow.history))


def gaussian(rows: int, key: str, dim: int = 3) -> Array:
    return rng(key).standard_normal((rows, dim))


# -- one commit ---------------------------------------------------------------------------------


@each_backend
def test_until_fit_ends_the_flow_is_as_it_was(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [ps.ActNorm(), SMALL], rng=0, backend=backend)
    x = 100 + gaussian(300, "until the end")
    before, seen = state_of(flow), []

    def watch(state: Any) -> None:
        seen.append(state_of(flow) == before)
        assert state.flow is not flow
        assert state.flow.initialised
        assert len(state.flow.history) == state.epoch
        assert state.flow.history.stopped == ""

    flow.fit(x, epochs=3, batch_size=50, callbacks=watch, rng=0)
    assert seen == [True] * 3
    assert state_of(flow) != before
    assert flow.history.stopped == "completed"


@each_backend
def test_nothing_that_a_callback_does_to_its_flow_touches_the_training(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [ps.ActNorm(), SMALL], rng=0, backend=backend)
    x = gaussian(300, "callback")
    plain = flow.copy().fit(x, epochs=4, batch_size=50, rng=0)

    def assign(state: Any) -> None:
        state.flow.params = np.zeros(flow.n_params)

    def reset(state: Any) -> None:
        assert (state.flow.params != 0).any()  # of its own, whatever another callback did
        state.flow.reset()
        state.flow.fit(x, epochs=1, batch_size=50)

    flow.fit(x, epochs=4, batch_size=50, rng=0, callbacks=[assign, reset])
    assert_same_bits(flow.params, plain.params)
    assert_same_bits(np.array(flow._snapshot.buffers), np.array(plain._snapshot.buffers))
    assert flow.history.validation_loss == plain.history.validation_loss


@each_backend
def test_a_second_fit_meanwhile_is_refused_and_the_first_goes_on(backend: str) -> None:
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, backend=backend)
    x = gaussian(300, "second fit")
    plain = flow.copy().fit(x, epochs=3, batch_size=50, rng=0)
    errors: list[BaseException] = []

    def again() -> None:
        try:
            flow.fit(x, epochs=1)
        except RuntimeError as error:
            errors.append(error)

    def inside(state: Any) -> None:
        again()
        thread = threading.Thread(target=again)
        thread.start()
        thread.join()
        state.flow.fit(x, epochs=1, validation=0)  # a copy is a flow by itself

    flow.fit(x, epochs=3, batch_size=50, rng=0, callbacks=inside)
    assert len(errors) == 6
    assert all("another fit of this flow is running" in str(error) for error in errors)
    assert_same_bits(flow.params, plain.params)
    flow.fit(x, epochs=1, validation=0)  # and the lock is free again


@each_backend
@pytest.mark.parametrize("validation", [0, 0.2])
def test_an_error_in_a_callback_passes_through_with_the_best_flow_and_the_history(
    backend: str, validation: float
) -> None:
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, backend=backend)
    flow.fit(gaussian(100, "earlier"), epochs=1, rng=0)
    before, x = state_of(flow), gaussian(300, "callback error")
    kept: list[tuple[float, Array]] = []

    def fail(state: Any) -> None:
        kept.append((state.validation_loss, state.flow.params.copy()))
        if state.epoch == 3:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        flow.fit(x, epochs=5, batch_size=50, callbacks=fail, validation=validation, rng=0)
    assert state_of(flow) == before
    error: Any = caught.value
    assert error.history.stopped == "failed"
    assert len(error.history) == 3
    best = min(kept, key=lambda pair: pair[0])[1] if validation else kept[-1][1]
    assert_same_bits(error.best.params, best)
    assert error.best.initialised
    assert error.best.history is error.history
    flow.fit(x, epochs=1, validation=0)


@each_backend
def test_an_error_in_the_first_epoch_or_in_the_arguments_has_no_best_flow(backend: str) -> None:
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, backend=backend)
    x = gaussian(100, "no best")
    for arguments in ({"learning_rate": 1e39, "warmup": 0}, {"epochs": 0}, {"standardize": "x"}):
        with pytest.raises(Exception, match=r"learning rate|epochs|standardize") as caught:
            flow.fit(x, rng=0, **arguments)
        error: Any = caught.value
        assert error.best is None
        assert error.history.stopped == "failed"
        assert len(error.history) == 0


def test_an_error_that_takes_no_attributes_passes_through() -> None:
    class SlottedError(Exception):
        def __setattr__(self, name: str, value: Any) -> None:
            if not name.startswith("__"):
                raise AttributeError(name)
            super().__setattr__(name, value)

    def fail(state: Any) -> None:
        raise SlottedError("mine")

    with pytest.raises(SlottedError, match="mine"):
        ps.realnvp(3, layers=2, hidden=(8,), rng=0).fit(gaussian(100, "slots"), epochs=1, callbacks=fail)


@each_backend
def test_a_later_fit_that_validates_no_better_keeps_what_it_began_with(backend: str, tmp_path: Path) -> None:
    x, own = gaussian(2000, "refit"), gaussian(500, "refit validation")
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, backend=backend).fit(x, validation=own, epochs=20, rng=0)
    before, score = flow.copy(), flow.score(own)
    arguments: dict[str, Any] = {"validation": own, "batch_size": 100, "rng": 0}
    with pytest.warns(UserWarning, match="no epoch validated better than the starting parameters") as caught:
        flow.fit(x, learning_rate=10.0, epochs=5, checkpoint=tmp_path / "m", **arguments)
    assert [warning.filename for warning in caught] == [__file__]
    history = flow.history
    assert_same_bits(flow.params, before.params)
    assert_same_bits(standardisation(flow), standardisation(before))
    assert history.best_epoch == 0
    assert history.start_loss == history.best_loss == pytest.approx(-score, rel=1e-12)
    assert min(history.validation_loss) > history.start_loss
    assert history.stopped == "completed"
    assert "at the start" in repr(history)
    assert_same_bits(ps.load(tmp_path / "m", backend=backend).params, flow.params)
    # A start that is worse has no part in it, and no first fit has one.
    other = flow.copy()
    other.params = flow.params + np.float32(0.3)
    other.fit(x, epochs=20, **arguments)
    assert other.history.best_epoch is not None
    assert other.history.best_epoch > 0
    assert other.history.start_loss > other.history.best_loss
    assert np.isnan(flow.copy().reset(0).fit(x, epochs=1, **arguments).history.start_loss)
    # Without validation rows nothing compares them.
    assert flow.copy().fit(x, epochs=1, validation=0, rng=0).history.best_epoch is None


# -- frozen parameters --------------------------------------------------------------------------


@each_backend
@each_dtype
def test_frozen_parameters_keep_their_bits_and_the_others_learn(backend: str, dtype: str) -> None:
    layers = [ps.ActNorm(), SMALL, ps.LULinear(), SMALL, ps.ActNorm()]
    flow = ps.Flow(
        ps.StandardNormal(3), layers, 2, dtype, rng=0, embedding=ps.MLP((8,)), embedding_dim=4, backend=backend
    )
    flow.params = 0.1 * rng("frozen").standard_normal(flow.n_params)
    before = {name: value.copy() for name, value in flow.named_params().items()}
    x, c = 5 + gaussian(1200, "frozen rows"), gaussian(1200, "frozen context", 2)
    freeze = ("layers.0", "layers.1.conditioner.0.weight", "layers.2", "embedding")
    flow.fit(
        x, context=c, freeze=freeze, weight_decay=0.5, epochs=30, batch_size=60, learning_rate=1e-2, rng=0
    )  # fmt: skip
    assert flow.history.step[-1] >= 500  # enough for the running mean to take part
    frozen = set()
    for name, value in flow.named_params().items():
        if any(name == part or name.startswith(part + ".") for part in freeze):
            frozen.add(name)
            assert_same_bits(value, before[name])
        else:
            assert (value != before[name]).any(), name
    assert {"layers.0.theta", "layers.2.lu", "embedding.0.weight", "embedding.1.bias"} <= frozen


@each_backend
def test_a_step_with_frozen_parameters_is_that_of_the_others_alone(backend: str) -> None:
    """The norm that is clipped is that of the parameters that train."""
    flow = ps.Flow(ps.StandardNormal(3), [SMALL, ps.Elementwise()], dtype="float64", rng=0, backend=backend)
    flow.params = 0.3 * rng("frozen step").standard_normal(flow.n_params)
    x, before = 3 * gaussian(64, "frozen step rows"), flow.params.copy()
    _, total, grad = flow.loss_and_grad(x)
    trains = np.concatenate([np.full(v.size, n.startswith("layers.1")) for n, v in flow.named_params().items()])
    grad = np.where(trains, grad / total, 0)
    assert np.linalg.norm(grad) > 1e-3
    flow.fit(
        x, freeze="layers.0", validation=0, epochs=1, batch_size=64, learning_rate=1e-3, schedule="constant", warmup=0,
        clip_norm=1e-9, standardize=False, rng=0,
    )  # fmt: skip
    clipped = grad * (1e-9 / np.linalg.norm(grad))
    expected = before - 1e-3 * clipped / (np.abs(clipped) + 1e-8)
    np.testing.assert_allclose(flow.params, expected, rtol=1e-9, atol=1e-13)


def test_names_that_freeze_nothing_are_refused_with_those_there_are() -> None:
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0)
    x = gaussian(50, "names")
    for freeze, message in (
        ("layer.0", "no parameters 'layer.0'.*layers.0, layers.1"),
        (["layers.1", "layers.1.theta"], "no parameters 'layers.1.theta'.*layers.1.conditioner"),
        ("embedding", "no parameters 'embedding'"),
        ("layers.", "no parameters 'layers.'"),
        ("layers", "leaves none to train"),
    ):
        with pytest.raises(ValueError, match=f"freeze.*{message}"):
            flow.fit(x, freeze=freeze)
    with pytest.raises(TypeError, match=r"freeze\[1\] must be a string"):
        flow.fit(x, freeze=["layers.0", 1])


# -- when it goes wrong -------------------------------------------------------------------------


@each_backend
@each_dtype
def test_a_loss_that_is_not_finite_stops_with_the_step_and_changes_nothing(backend: str, dtype: str) -> None:
    flow = fresh(CASE, backend, dtype)
    x = points(CASE, 500, flow)
    top = float(np.finfo(dtype).max)
    x[123] = top / 8  # finite, but its square is not
    before = state_of(flow)
    with pytest.raises(ps.TrainingError, match=r"step \d+.*X\[123") as caught:
        flow.fit(x, epochs=20, batch_size=50, validation=0, rng=0, standardize="robust")  # which keeps every row
    assert state_of(flow) == before
    assert caught.value.history.stopped == "failed"


@each_backend
@pytest.mark.parametrize("validation", [0, 0.2])
@pytest.mark.parametrize("batch_size", [20, 200])  # several steps an epoch, and one
@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("learning_rate", [1e30, 1e39])
def test_a_rate_that_blows_up_leaves_the_flow_as_it_was(
    backend: str, learning_rate: float, epochs: int, batch_size: int, validation: float
) -> None:
    flow = ps.realnvp(3, layers=4, hidden=(8,), rng=0, backend=backend)
    x = rng("blown up").standard_normal((200, 3))
    before = state_of(flow)
    with pytest.raises(ps.TrainingError, match="learning rate") as caught:
        flow.fit(
            x, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, validation=validation,
            schedule="constant", warmup=0, rng=0,
        )  # fmt: skip
    assert state_of(flow) == before
    assert caught.value.best is None
    assert caught.value.history.stopped == "failed"


@each_backend
def test_rows_that_change_during_training_are_blamed_and_the_error_has_the_last_good_flow(backend: str) -> None:
    flow = fresh(CASE, backend, "float32")
    x = points(CASE, 200, flow)
    ends: list[Array] = []
    before = state_of(flow)

    def spoil(state: Any) -> None:
        ends.append(state.flow.params.copy())
        if state.epoch == 3:
            x[:] = np.nan  # read where it lies

    with pytest.raises(ps.TrainingError, match=r"X\[\d+, \d\] = nan.*something has changed the array") as caught:
        flow.fit(x, epochs=9, batch_size=50, validation=0, callbacks=spoil, rng=0)
    assert state_of(flow) == before
    assert len(ends) == 3
    # The rows that could tell whether the newest parameters are good are gone.
    assert caught.value.best.params.tobytes() in {end.tobytes() for end in ends[1:]}


@each_backend
@pytest.mark.filterwarnings("ignore::penstock.OutlierWarning")
@pytest.mark.parametrize("validation", [0, 0.2])
def test_a_first_fit_that_failed_has_not_happened(backend: str, validation: float) -> None:
    flow = ps.Flow(ps.StandardNormal(2), [ps.ActNorm(), SMALL], rng=0, backend=backend)
    x = rng("not happened").standard_normal((300, 2))
    x[7] = 1e25
    before, buffers = flow.params.copy(), np.array(flow._snapshot.buffers)

    def fail(state: Any) -> None:
        raise KeyError("mine")

    for arguments, error in (
        ({"learning_rate": 1e39, "warmup": 0}, ps.TrainingError),
        ({"callbacks": fail}, KeyError),
    ):
        with pytest.raises(error):
            flow.fit(x, epochs=2, batch_size=50, validation=validation, rng=0, **arguments)
        assert not flow.initialised
        assert_same_bits(flow.params, before)
        assert_same_bits(np.array(flow._snapshot.buffers), buffers)
    flow.fit(np.delete(x, 7, 0), epochs=2, batch_size=50, standardize="robust", rng=0)
    assert flow.initialised
    assert (np.split(np.array(flow._snapshot.buffers), 2)[1] < 2).all()


INTERRUPTED = """if True:
    import json, os, signal, sys, threading, warnings
    import numpy as np
    import penstock as ps
    flow = ps.realnvp(16, layers=8, hidden=(64, 64), rng=0, backend=sys.argv[1])
    x = np.random.default_rng(0).standard_normal((20000, 16)).astype("float32")
    x, held_out = x[:500], x[500:2500]  # so few that it soon overfits, and the held-out loss rises
    before = flow.params.copy()
    seen, timer = [], []

    def watch(state):
        seen.append(state.validation_loss)
        if state.validation_loss > min(seen) + 0.5 and len(timer) == 0:
            # From another thread and later, so that it arrives inside a step.
            timer.append(threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)))
            timer[0].start()

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow.fit(
            x, epochs=100000, batch_size=250, callbacks=watch, validation=held_out, schedule="constant", warmup=0, rng=0
        )
    print(json.dumps({
        "stopped": flow.history.stopped, "epochs": len(flow.history), "best": flow.history.best_epoch,
        "best_loss": min(flow.history.validation_loss), "kept_loss": -flow.score(held_out),
        "argmin": int(np.argmin(flow.history.validation_loss)) + 1, "changed": bool((flow.params != before).any()),
        "finite": bool(np.isfinite(flow.params).all()), "warned": [str(w.message) for w in caught],
    }))
"""


@each_backend
def test_ctrl_c_ends_training_and_keeps_the_best_parameters(backend: str) -> None:
    result = python_json(INTERRUPTED, backend)
    assert result["stopped"] == "interrupted"
    assert 2 <= result["epochs"] < 1000
    assert result["best"] == result["argmin"]
    assert result["kept_loss"] == pytest.approx(result["best_loss"], rel=1e-12)
    assert result["changed"]
    assert result["finite"]
    assert any("interrupted" in message for message in result["warned"])


@pytest.mark.parametrize("stream", ["None", "object()", "closed", "broken", "full"])
def test_a_standard_error_that_cannot_be_written_to_costs_nothing_but_the_bar(stream: str) -> None:
    code = f"""if True:
        import io, sys
        import numpy as np, penstock as ps
        class Broken:
            def isatty(self): return True
            def write(self, text): raise BrokenPipeError(32, "gone")
            def flush(self): raise BrokenPipeError(32, "gone")
        class Full(Broken):
            encoding = "ascii"
            n = 0
            def write(self, text):
                self.n += 1
                if self.n > 3: raise OSError(28, "no space left")
            def flush(self): pass
        closed = io.StringIO(); closed.close()
        broken, full = Broken(), Full()
        flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0)
        x = np.random.default_rng(0).standard_normal((200, 2))
        plain = flow.copy().fit(x, epochs=3, batch_size=20, rng=0, progress=False).params
        real = sys.stderr
        for progress in (None, True):
            sys.stderr = {stream}
            try:
                flow.copy().fit(x, epochs=3, batch_size=20, rng=0, progress=progress)
                own = flow.copy().fit(x, epochs=3, batch_size=20, rng=0, progress=progress).params
            finally:
                sys.stderr = real
            assert own.tobytes() == plain.tobytes()
    """
    assert python(code).stderr == ""


@each_backend
def test_the_error_state_of_numpy_is_no_part_of_training_and_is_kept_for_callbacks(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [ps.ActNorm(), SMALL], rng=0, backend=backend)
    x = 1e-30 * gaussian(600, "error state")
    weight = 1e-305 * rng("error state weights").uniform(1, 2, 600)
    arguments: dict[str, Any] = {"sample_weight": weight, "epochs": 50, "batch_size": 50, "rng": 0}
    plain = flow.copy().fit(x, **arguments)
    states = []
    with np.errstate(all="raise"):
        trained = flow.copy().fit(x, **arguments, callbacks=lambda state: states.append(np.geterr()))
        assert np.geterr()["under"] == "raise"
        failing = flow.copy()
        with pytest.raises(ps.TrainingError):
            failing.fit(x, learning_rate=1e39, warmup=0, rng=0)
        flow.params = np.full(flow.n_params, 1e-60)
        flow.log_prob_vjp(x[:5], np.full(5, 1e-60))
    assert all(state["under"] == "raise" for state in states)
    assert len(states) == len(plain.history)
    assert_same_bits(trained.params, plain.params)


def test_a_fit_leaves_nothing_to_the_garbage_collector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is part of a cycle keeps its optimiser and gradients until a collection, however often one fits."""
    from penstock.training import loop

    runs: list[weakref.ref[Any]] = []
    real = loop.Training.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        real(self, *args, **kwargs)
        runs.append(weakref.ref(self))

    monkeypatch.setattr(loop.Training, "__init__", init)
    flow, x = ps.nsf(2, layers=2, hidden=8, rng=0), np.random.default_rng(0).standard_normal((300, 2))
    gc.collect()
    gc.disable()
    try:
        flow.fit(x, epochs=2, rng=0, validation=0)
        flow.fit(x, epochs=2, rng=0, validation=x[:50], sample_weight=np.ones(300))
        flow.fit(x, epochs=2, rng=0, checkpoint=tmp_path / "m", callbacks=lambda state: None)
        assert [run() for run in runs] == [None] * 3
    finally:
        gc.enable()
