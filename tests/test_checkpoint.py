"""Training that survives: whatever ends it, and when, the same call goes on and ends with the bits of an uninterrupted run."""

from __future__ import annotations

import errno
import math
import os
import random
import re
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS
from fuzz.kill_resume import LONGER, RUNS, digest, interrupted_run, table, train, weights
from helpers import assert_same_bits, each_backend, python, sealed
from penstock.files import model
from penstock.runner import Trainer
from penstock.training import checkpoint as module
from penstock.training import loop as running
from penstock.training.mean import RunningMean

Array = np.ndarray[Any, Any]

posix = pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
# Numba compiles these in seconds; the others are for CI.
QUICK = ("cosine", "weights", "plateau")
EVERY_RUN = [
    pytest.param(name, backend, marks=() if backend == "cpp" or name in QUICK else pytest.mark.slow)
    for backend in BACKENDS
    for name in RUNS
]


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of files are written here, and none has to outlive a power cut. Child processes wait."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class StopError(Exception):
    """What cuts a training short here."""


def counting(real: Any, stops: list[int], *, after: bool = False) -> Callable[..., Any]:
    """A function that raises in its calls of these numbers, before or after its work."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        stop = calls in stops
        if stop and not after:
            raise StopError
        result = real(*arguments, **options)
        if stop:
            raise StopError
        return result

    return call


def ended(name: str, backend: str, **arguments: Any) -> tuple[Any, int]:
    """The flow of a run that is repeated until nothing cuts it short, and how often something did."""
    for stops in range(1000):
        try:
            return train(name, backend, **arguments), stops
        except StopError:
            pass
    raise AssertionError("the run does not end")


def small(**arguments: Any) -> Any:
    """A flow and the arguments of a short fit."""
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, **arguments)
    return flow, {"epochs": 6, "batch_size": 50, "rng": 1, "progress": False}


def stopped_at(path: Path, epoch: int, flow: Any, x: Array, **arguments: Any) -> None:
    """Leave the checkpoint of a run that a callback cuts short."""

    def stop(state: Any) -> None:
        if state.epoch == epoch:
            raise StopError

    with pytest.raises(StopError):
        flow.fit(x, checkpoint=path, callbacks=stop, **arguments)


# -- the same bits ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "backend"), EVERY_RUN)
def test_a_run_that_is_cut_short_anywhere_ends_with_the_same_bits(
    name: str, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Half of its epochs, where what it is about happens in them.
    again = "context in float64, robust"
    longer = 1 if name in (again, "constant with patience", "weights", "no running mean") else 0.5
    expected = train(name, backend, longer=longer)
    assert bool(expected.history.restarted) == (name == again)
    source = random.Random(name)
    places: dict[str, tuple[Any, str]] = {
        "before a call of the engine": (Trainer, "run"),
        "after a call of the engine": (Trainer, "run"),
        "in validation": (running, "mean_loss"),
        "in the running mean": (RunningMean, "add"),
        "in a write": (module.Checkpoint, "write"),
    }
    met = 0
    for place, (owner, attribute) in places.items():
        path = tmp_path / place
        stops = sorted(source.sample(range(1, 60), 6))
        with monkeypatch.context() as patch:
            after = place.startswith("after")
            patch.setattr(owner, attribute, counting(getattr(owner, attribute), stops, after=after))
            every = source.choice((20, 50, 150))
            flow, cut = ended(name, backend, longer=longer, checkpoint=path, checkpoint_every=every)
        met += cut
        assert digest(flow) == digest(expected), (place, stops, every)
        assert path.read_bytes() == expected.to_bytes(), place
    assert met >= 6
    stops = sorted(source.sample(range(1, 20), 3))
    called = counting(lambda state: None, stops)
    flow, cut = ended(name, backend, longer=longer, checkpoint=tmp_path / "called", callbacks=called)
    assert cut > 0
    assert digest(flow) == digest(expected)


@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_is_cut_short_as_it_begins_again_ends_with_the_same_bits(
    after: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, backend, path = "context in float64, robust", BACKENDS[0], tmp_path / "m"
    expected = train(name, backend)
    begin = running.Training._begin_again
    monkeypatch.setattr(running.Training, "_begin_again", counting(begin, [1, 2], after=after))
    flow, cut = ended(name, backend, checkpoint=path)
    assert cut == 2
    assert digest(flow) == digest(expected)
    assert path.read_bytes() == expected.to_bytes()


@posix
@pytest.mark.parametrize("name", ["cosine", "context, frozen"])
def test_a_killed_process_is_resumed_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """A few kills; ``tests/fuzz/kill_resume.py`` is for many."""
    backend = BACKENDS[0]
    result, _, _ = interrupted_run(name, backend, tmp_path / "checkpoint", 2, random.Random(1))
    assert result == digest(train(name, backend, longer=LONGER[backend]))


CTRL_C = """if True:
    import os, random, signal, sys, threading, warnings
    from fuzz.kill_resume import digest, train, RUNS, COMMON, ROWS, table
    name, backend, path, again = sys.argv[1:]
    warnings.simplefilter("ignore")
    expected, source, count, epochs = digest(train(name, backend)), random.Random(name), 0, []
    build, dtype, own = RUNS[name]
    flow, x = build(dtype, backend), table(1, ROWS, 3)
    for _ in range(300):
        if again == "anew":
            flow = build(dtype, backend)
        timer = threading.Timer(source.uniform(0.001, 0.05), os.kill, (os.getpid(), signal.SIGINT))
        try:  # that the signal comes too early or too late is no part of the test
            timer.start()
            flow.fit(x, **{**COMMON, **own}, checkpoint=path, checkpoint_every=40)
            count += len(flow.history) > 0 and flow.history.stopped == "interrupted"
            timer.cancel()
        except KeyboardInterrupt:  # before the first step
            pass
        while timer.is_alive():
            try:
                timer.join()
            except KeyboardInterrupt:
                pass
        if flow.history.stopped in ("completed", "patience"):
            break
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one that is on its way comes to nothing
    print(flow.history.stopped, count, digest(flow) == expected)
"""


@posix
@each_backend
@pytest.mark.parametrize("again", ["anew", "with the same flow"])
@pytest.mark.parametrize("name", ["cosine", "weights"])
def test_ctrl_c_at_any_moment_is_resumed_to_the_same_bits(name: str, again: str, backend: str, tmp_path: Path) -> None:
    if backend == "numba" and name == "weights":
        pytest.skip("the other one is enough where every line of Python may be interrupted")
    out = python(CTRL_C, name, backend, str(tmp_path / "checkpoint"), again).stdout.split()
    assert out[0] in ("completed", "patience")
    assert int(out[1]) > 0
    assert out[2] == "True"


@each_backend
def test_an_interruption_in_the_midst_of_a_call_counts_the_steps_that_were_taken(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches that weigh nothing take no step, and the last loss may have been computed without its step."""
    expected = train("weights", backend)
    real, source, positions = Trainer.run, random.Random(3), []

    def run(self: Any, *rows: Any, losses: Any, norms: Any, learning_rates: Any, **options: Any) -> int:
        if source.random() < 0.8:
            return real(self, *rows, losses=losses, norms=norms, learning_rates=learning_rates, **options)
        done = source.randrange(len(losses) + 1)
        real(
            self, *rows, losses=losses[:done], norms=norms[:done], learning_rates=learning_rates[:done], **options
        )  # fmt: skip
        if done < len(losses) and source.random() < 0.5:  # a loss whose step was not taken
            losses[done], norms[done] = 1.0, 1.0
        positions.append(options["first_step"] + done)
        raise StopError

    monkeypatch.setattr(Trainer, "run", run)
    flow, cut = ended("weights", backend, checkpoint=tmp_path / "c")
    assert cut >= 5
    assert digest(flow) == digest(expected)
    assert len(set(positions)) > 3


def test_a_flow_of_an_interrupted_fit_goes_on_after_an_error_of_the_next_one(tmp_path: Path) -> None:
    x, path = table(1, 300, 3), tmp_path / "m"
    expected, arguments = small()
    arguments["validation"] = 0
    expected.fit(x, **arguments)
    flow, _ = small()

    def interrupt(state: Any) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.warns(ps.TrainingWarning, match="interrupted"):
        flow.fit(x, checkpoint=path, callbacks=interrupt, **arguments)
    left = flow.params.copy()
    for epoch in (4, 5):  # by then the file holds later parameters than the flow
        stopped_at(path, epoch, flow, x, **arguments)
        assert_same_bits(flow.params, left)
        assert ps.load(str(path)).params.tobytes() != left.tobytes()
    assert digest(flow.fit(x, checkpoint=path, **arguments)) == digest(expected)


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt, SystemExit, MemoryError, GeneratorExit])
@pytest.mark.parametrize("validation", [0, 0.2])
def test_whatever_is_raised_the_file_has_every_step_that_was_taken(
    validation: float, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, arguments = small()
    path, real = tmp_path / "m", running.Training._advance

    def advance(self: Any, count: int) -> int:
        if (self.state.epoch, self.state.first) == (2, 3):
            raise error
        return real(self, 1)

    monkeypatch.setattr(running.Training, "_advance", advance)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            flow.fit(table(1, 300, 3), **arguments, validation=validation, checkpoint=path)
    except error:
        pass
    contents = model.load(str(path))
    state = module._record(contents)["state"]
    per_epoch = 6 if validation == 0 else 4
    assert (state["epoch"], state["first"], state["step"], state["closed"]) == (2, 3, per_epoch + 3, 1)
    assert contents.history is not None
    assert contents.history.stopped == ("interrupted" if error is KeyboardInterrupt else "failed")


def test_checkpoints_come_every_so_many_steps_and_at_the_best_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow, arguments = small()
    written: list[tuple[int, int]] = []
    real = module.Checkpoint.write

    def write(self: Any, snapshot: Any, moment: Any) -> None:
        written.append((moment.state.epoch, moment.state.first))
        real(self, snapshot, moment)

    monkeypatch.setattr(module.Checkpoint, "write", write)
    x = table(1, 300, 3)
    plain = flow.copy().fit(x, **arguments, validation=0)
    flow.fit(x, **arguments, validation=0, checkpoint=tmp_path / "m", checkpoint_every=4)  # 6 steps an epoch
    inside = [(1, 4), (2, 2), (2, 6), (3, 4), (4, 2), (4, 6), (5, 4), (6, 2), (6, 6)]
    assert written == sorted(inside + [(epoch, 6) for epoch in range(1, 7)])
    assert flow.to_bytes() == plain.to_bytes()


# -- what the file is ---------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("validation", [0, 0.2])
def test_a_checkpoint_is_the_best_flow_so_far(backend: str, validation: float, tmp_path: Path) -> None:
    flow, arguments = small(backend=backend)
    path, x, best = tmp_path / "m", table(1, 300, 3), {}

    def watch(state: Any) -> None:
        kept = ps.load(path, backend=backend)
        losses = state.flow.history.validation_loss
        best[state.epoch] = state.flow.params
        assert kept.history.epoch == list(range(1, (int(np.argmin(losses)) + 1 if validation else state.epoch) + 1))
        assert_same_bits(kept.params, best[kept.history.best_epoch or state.epoch])
        assert (kept.initialised, kept.history.stopped) == (True, "")
        assert np.isfinite(kept.log_prob(x)).all()

    flow.fit(x, **arguments, validation=validation, checkpoint=path, callbacks=watch)
    assert path.read_bytes() == flow.to_bytes()
    assert model.load(str(path)).training == {}


@pytest.mark.parametrize("validation", [0, 0.2])
def test_a_checkpoint_of_the_first_epoch_is_a_usable_flow(validation: float, tmp_path: Path) -> None:
    flow, arguments = small()
    path, x = tmp_path / "m", 5 + table(1, 3000, 3)
    real = module.Checkpoint.write
    seen = []

    def write(self: Any, snapshot: Any, moment: Any) -> None:
        real(self, snapshot, moment)
        if moment.state.closed == 0:
            kept = ps.load(path)
            assert_same_bits(kept.params, moment.params)
            seen.append(kept.score(x))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Checkpoint, "write", write)
        flow.fit(x, **arguments, validation=validation, checkpoint=path, checkpoint_every=10)
    assert len(seen) >= 4
    assert np.isfinite(seen).all()
    assert seen[-1] > seen[0]


def test_parameters_that_are_not_usable_are_not_what_a_checkpoint_offers(tmp_path: Path) -> None:
    flow, arguments = small()
    path, x = tmp_path / "m", table(1, 300, 3)
    arguments |= {"validation": 0, "learning_rate": 1e39, "schedule": "constant", "warmup": 0, "batch_size": 300}
    errors = []
    for _ in range(2):  # and a run that failed by itself fails again where it did
        with pytest.raises(ps.TrainingError) as caught:
            flow.fit(x, **arguments, checkpoint=path, checkpoint_every=1)
        errors.append(str(caught.value))
        kept = ps.load(path)
        assert np.isfinite(kept.log_prob(x)).all()
        assert_same_bits(kept.params, flow.params)
        assert kept.initialised
    assert errors[0] == errors[1]


def test_a_finished_run_leaves_a_plain_model_and_the_next_call_begins_anew(tmp_path: Path) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()
    first = flow.copy().fit(x, **arguments, checkpoint=path)
    assert path.read_bytes() == first.to_bytes()
    assert b"training." not in path.read_bytes()
    # Another call: nothing that would be refused is left.
    second = flow.copy().fit(x[:200], **{**arguments, "epochs": 2, "rng": 9}, checkpoint=path)
    assert path.read_bytes() == second.to_bytes()
    for stopped, how in (
        ("callback", {"callbacks": lambda state: state.epoch == 2}),
        ("patience", {"schedule": "constant", "patience": 1, "learning_rate": 10.0, "epochs": 90}),
    ):
        third = flow.copy().fit(x, **{**arguments, **how}, checkpoint=path)
        assert third.history.stopped == stopped
        assert path.read_bytes() == third.to_bytes()


def test_resume_false_begins_anew(tmp_path: Path) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()
    stopped_at(path, 3, flow, x, **arguments)
    epochs: list[int] = []
    again = flow.copy().fit(
        x, **arguments, checkpoint=path, resume=False, callbacks=lambda state: epochs.append(state.epoch)
    )
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert path.read_bytes() == again.to_bytes() == flow.copy().fit(x, **arguments).to_bytes()


def test_the_same_moment_gives_the_same_bytes(tmp_path: Path) -> None:
    x = table(1, 300, 3)
    data = []
    for name in ("a", "b"):
        flow, arguments = small()
        stopped_at(tmp_path / name, 3, flow, x, **arguments)
        data.append((tmp_path / name).read_bytes())
    assert data[0] == data[1]


@pytest.mark.parametrize("validation", [0, 0.1])
def test_what_the_state_adds_to_the_file_is_as_documented(validation: float, tmp_path: Path) -> None:
    flow = ps.realnvp(3, layers=2, hidden=(128, 128), rng=0)
    x = table(1, 1100, 3)
    sizes: list[int] = []
    path = tmp_path / "m"
    warnings.simplefilter("ignore")  # few rows
    flow.fit(
        x, epochs=2, batch_size=2, validation=validation, rng=0, checkpoint=path, checkpoint_every=1000,
        callbacks=lambda state: sizes.append(path.stat().st_size),
    )  # fmt: skip
    params = 4 * flow.n_params
    # Parameters, two moments, and the running mean in float64 and the start, or the ends of two epochs.
    assert max(sizes) - len(flow.to_bytes()) == pytest.approx((6 if validation else 5) * params, rel=0.1)


# -- the seed -----------------------------------------------------------------------------------


def test_without_a_seed_the_run_keeps_its_own(tmp_path: Path) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()
    del arguments["rng"]
    seen: list[Array] = []
    stopped_at(path, 4, flow, x, **arguments)
    resumed = flow.copy().fit(x, **arguments, checkpoint=path, callbacks=lambda state: seen.append(state.flow.params))
    del seen[:]
    stopped_at(path, 4, flow, x, **arguments)
    other = flow.copy().fit(x, **arguments, checkpoint=path)
    assert (resumed.params != other.params).any()  # another run, with a seed of its own
    # A Generator in the same state is the same seed, and another one is refused.
    stopped_at(path, 4, flow, x, **arguments, rng=np.random.default_rng(7))
    with pytest.raises(ValueError, match="rng is another one"):
        flow.fit(x, **arguments, checkpoint=path, rng=8)
    one = flow.copy().fit(x, **arguments, checkpoint=path)
    two = flow.copy().fit(x, **arguments, rng=np.random.default_rng(7))
    assert one.to_bytes() == two.to_bytes()


# -- what is refused ----------------------------------------------------------------------------


def changed(array: Array) -> Array:
    """The same table, but for its last row."""
    other = array.copy()
    other[-1] += 1
    return other


X = table(1, 600, 3)
GIVEN = table(2, 600, 2)
WEIGHT = weights(3)[:600]
OWN = (table(4, 100, 3), table(5, 100, 2))
CALL: dict[str, Any] = {
    "context": GIVEN, "sample_weight": WEIGHT, "validation": OWN[0], "validation_context": OWN[1], "epochs": 6,
    "batch_size": 50, "schedule": "constant", "patience": 20, "rng": 1, "freeze": "layers.0",
}  # fmt: skip
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("other rows", {"X": changed(X)}, "the values of X are others"),
    ("more rows", {"X": np.r_[X, X], "context": np.r_[GIVEN, GIVEN], "sample_weight": np.r_[WEIGHT, WEIGHT]},
     r"X was float64 of shape \(600, 3\) and is float64 of shape \(1200, 3\)"),
    ("in float32", {"X": X.astype("float32")}, r"X was float64 of shape \(600, 3\) and is float32 of shape"),
    ("other context", {"context": changed(GIVEN)}, "the values of context are others"),
    ("other weights", {"sample_weight": changed(WEIGHT)}, "the values of sample_weight are others"),
    ("no weights", {"sample_weight": None}, "sample_weight was float64 of shape .* and is none"),
    ("other validation rows", {"validation": changed(OWN[0])}, "the values of validation are others"),
    ("other validation context", {"validation_context": changed(OWN[1])}, "the values of validation_context are"),
    ("validation weights", {"validation_weight": np.ones(100)}, "validation_weight was none and is float64"),
    ("a fraction", {"validation": 0.1, "validation_context": None}, "validation was float64 of shape .* and is 60 of the rows"),
    ("epochs", {"epochs": 7}, "epochs was 6 and is 7"),
    ("batch_size", {"batch_size": 60}, "batch_size was 50 and is 60"),
    ("learning_rate", {"learning_rate": 1e-3}, "learning_rate was 0.003 and is 0.001"),
    ("schedule", {"schedule": "plateau"}, "schedule was 'constant' and is 'plateau'"),
    ("warmup", {"warmup": 0}, "warmup was .* steps and is 0 steps"),
    ("weight_decay", {"weight_decay": 0.1}, "weight_decay was None and is 0.1"),
    ("clip_norm", {"clip_norm": None}, "clip_norm was 1.0 and is inf"),
    ("patience", {"patience": 30}, "patience was 20 and is 30"),
    ("standardize", {"standardize": "robust"}, "standardize was True and is 'robust'"),
    ("freeze", {"freeze": ()}, r"freeze was \['layers.0'\] and is \[\]"),
    ("rng", {"rng": 2}, "rng is another one"),
]  # fmt: skip


def conditional(**arguments: Any) -> Any:
    """The flow of CALL."""
    options = {"layers": 2, "hidden": (8,), "context_dim": 2, "rng": 0, **arguments}
    return ps.realnvp(3, **options)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a call."""
    path: Path = tmp_path_factory.mktemp("begun") / "m"
    stopped_at(path, 3, conditional(), X, **CALL)
    return path


@pytest.mark.parametrize(("name", "change", "words"), REFUSED, ids=[name for name, *_ in REFUSED])
def test_another_call_is_refused_and_told_what_differs(
    name: str, change: dict[str, Any], words: str, begun: Path
) -> None:
    flow, before = conditional(), begun.read_bytes()
    arguments = {"X": X, **CALL, **change}
    with pytest.raises(ValueError, match=words) as caught:
        flow.fit(arguments.pop("X"), **arguments, checkpoint=begun)
    text = str(caught.value)
    assert text.startswith(f"the checkpoint {str(begun)!r} holds the run of another call")
    assert "resume=False" in text
    assert len(re.findall(" was | are others| is another one", text)) == {"a fraction": 2, "more rows": 3}.get(
        name, 1
    ), text
    assert begun.read_bytes() == before
    assert not flow.initialised


@pytest.mark.parametrize(
    ("flow", "words"),
    [
        (lambda: conditional(rng=1), "layer|begins with other parameters"),
        (lambda: conditional(dtype="float64"), "dtype was float32 and is float64"),
        (lambda: conditional(layers=3), r"number of layers was \d and is \d"),
        (lambda: conditional(hidden=(9,)), r"layer \d was .*hidden=\(8,\).* and is .*hidden=\(9,\)"),
        (lambda: conditional(embedding=ps.MLP((4,))), "embedding was"),
        (lambda: conditional().fit(X, epochs=1, context=GIVEN), "begins with other parameters.*rng=seed"),
    ],
    ids=["seed", "dtype", "layers", "hidden", "embedding", "fitted"],
)
def test_another_flow_is_refused_and_told_what_differs(flow: Any, words: str, begun: Path) -> None:
    before = begun.read_bytes()
    with pytest.raises(ValueError, match=words):
        flow().fit(X, **CALL, checkpoint=begun)
    assert begun.read_bytes() == before


def test_the_names_of_columns_are_part_of_the_call(begun: Path, tmp_path: Path) -> None:
    flow = conditional()
    flow._columns = ("a", "b", "c")
    with pytest.raises(ValueError, match="columns was none and is 'a', 'b', 'c'"):
        flow.fit(X, **CALL, checkpoint=begun)


@pytest.mark.skipif(len(BACKENDS) < 2, reason="needs two backends")
def test_another_backend_which_would_give_other_bits_is_refused(begun: Path) -> None:
    other = next(name for name in BACKENDS if name != conditional().backend)
    with pytest.raises(ValueError, match=r"backend was \w+ and is \w+"):
        conditional(backend=other).fit(X, **CALL, checkpoint=begun)


def test_the_same_call_in_other_words_is_no_other_call(begun: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(begun.read_bytes())
    words = {**CALL, "freeze": ["layers.0"], "warmup": 7, "batch_size": np.int64(50), "clip_norm": 1}  # 0.1 of 72
    swapped = X.astype(X.dtype.newbyteorder())
    one = conditional().fit(np.asfortranarray(swapped), **words, checkpoint=path)
    assert one.to_bytes() == conditional().fit(X, **CALL).to_bytes()


def test_a_flow_that_was_loaded_from_the_checkpoint_goes_on_with_its_run(begun: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(begun.read_bytes())
    flow = ps.load(path)
    assert flow.fit(X, **CALL, checkpoint=path) is flow
    assert flow.to_bytes() == conditional().fit(X, **CALL).to_bytes()


def test_a_file_of_something_else_is_not_replaced_unless_asked_for(tmp_path: Path) -> None:
    flow, arguments = small()
    path, x = tmp_path / "table.csv", table(1, 300, 3)
    path.write_text("1,2,3\n" * 20)
    with pytest.raises(ValueError, match="not a penstock file") as caught:
        flow.fit(x, **arguments, checkpoint=path)
    assert "resume=False" in caught.value.__notes__[0]
    assert path.read_text() == "1,2,3\n" * 20
    flow.fit(x, **arguments, checkpoint=path, resume=False)
    assert ps.load(path).initialised
    path.write_bytes(b"")  # as mktemp leaves it
    flow.reset(0).fit(x, **arguments, checkpoint=path)
    assert ps.load(path).initialised


def _damaged(data: bytes, change: Callable[[dict[str, Any], dict[str, Array]], None]) -> bytes:
    """A file whose training state was changed, with the hash that belongs to it."""
    contents = model.from_bytes(memoryview(data))
    tensors = dict(contents.training)
    record = module._record(contents)
    change(record, tensors)
    tensors["record"] = np.frombuffer(module.json.dumps(record).encode(), np.uint8)
    return sealed(model.to_bytes(module.replace(contents, training=tensors)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record, tensors: tensors.pop("m"), "'m'"),
        (lambda record, tensors: tensors.update(v=tensors["v"][1:]), r"training\.v must be float32 of shape"),
        (lambda record, tensors: tensors.update(params=tensors["params"].astype("f8")), r"training\.params must be"),
        (lambda record, tensors: record["state"].update(epoch=99), "position does not lie in the run"),
        (lambda record, tensors: record["state"].update(closed=0), "position does not lie in the run"),
        (lambda record, tensors: record["state"].update(first=-1), "first must be an integer"),
        (lambda record, tensors: record["state"].pop("step"), "'step'"),
        (lambda record, tensors: record["state"].update(best={"loss": "x", "epoch": 1}), "convert"),
        (lambda record, tensors: record["state"]["best"].update(epoch=50), "best epoch does not lie"),
        (lambda record, tensors: record.update(version=2), "version 2, and this penstock resumes version 1"),
        (lambda record, tensors: record.update(seed="1"), "record lacks"),
        (lambda record, tensors: record.pop("facts"), "record lacks"),
    ],
)
def test_a_training_state_that_does_not_fit_is_refused(change: Any, words: str, begun: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(_damaged(begun.read_bytes(), change))
    before = path.read_bytes()
    with pytest.raises(ValueError, match=words):
        conditional().fit(X, **CALL, checkpoint=path)
    assert path.read_bytes() == before
    assert ps.load(path).initialised  # the model in it is fine


def test_arguments_are_checked() -> None:
    flow, arguments = small()
    x = table(1, 300, 3)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1, got 0"):
        flow.fit(x, **arguments, checkpoint="m", checkpoint_every=0)
    with pytest.raises(ValueError, match="checkpoint_every was given, but no checkpoint"):
        flow.fit(x, **arguments, checkpoint_every=5)
    with pytest.raises(TypeError, match="resume must be True or False, got 'no'"):
        flow.fit(x, **arguments, checkpoint="m", resume="no")


# -- what a resumed run tells -------------------------------------------------------------------


def test_callbacks_are_told_of_an_epoch_until_they_have_returned(tmp_path: Path) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()
    told: list[tuple[int, int, float, bytes, int]] = []

    def record(state: Any) -> None:
        told.append(
            (state.epoch, state.step, state.train_loss, state.flow.params.tobytes(), len(state.flow.history))
        )  # fmt: skip

    flow.copy().fit(x, **arguments, callbacks=record)
    whole, told[:] = list(told), []
    with pytest.raises(StopError):
        flow.fit(x, **arguments, checkpoint=path, callbacks=[record, counting(lambda state: None, [3])])
    assert told == whole[:3]
    told.clear()
    flow.fit(x, **arguments, checkpoint=path, callbacks=record)
    assert told == whole[2:]


def test_a_callback_that_would_have_stopped_the_run_stops_the_resumed_one(tmp_path: Path) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()
    stop: Any = lambda state: state.epoch == 4  # noqa: E731
    expected = flow.copy().fit(x, **arguments, callbacks=stop)
    with pytest.raises(StopError):
        flow.copy().fit(x, **arguments, checkpoint=path, callbacks=[counting(lambda state: None, [4]), stop])
    resumed = flow.copy().fit(x, **arguments, checkpoint=path, callbacks=stop)
    assert digest(resumed) == digest(expected)
    assert resumed.history.stopped == "callback"


def test_the_history_of_a_resumed_run_is_whole_but_for_the_times_before(tmp_path: Path) -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()
    plain = flow.copy().fit(x, **arguments)
    stopped_at(path, 3, flow, x, **arguments)
    history = flow.fit(x, **arguments, checkpoint=path).history
    for name in ("epoch", "step", "train_loss", "validation_loss", "learning_rate", "best_epoch", "stopped"):
        assert getattr(history, name) == getattr(plain.history, name)
    assert np.isnan(history.seconds).tolist() == [True] * 3 + [False] * 3
    assert np.isnan(history.rows_per_second).tolist() == [True] * 3 + [False] * 3
    assert min(history.rows_per_second[3:]) > 0
    history.plot()
    ps.load(path).history.plot()
    plt.close("all")


def test_infinite_losses_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()
    real = running.mean_loss

    def sometimes(*given: Any) -> float:
        loss = real(*given)
        return math.inf if int(1e6 * loss) % 2 else loss

    monkeypatch.setattr(running, "mean_loss", sometimes)
    expected = flow.copy().fit(x, **arguments)
    finite = np.isfinite(expected.history.validation_loss)
    assert finite.any()
    assert not finite.all()
    for epoch in (2, 4):
        stopped_at(path, epoch, flow, x, **arguments)
        resumed = flow.copy().fit(x, **arguments, checkpoint=path)
        assert digest(resumed) == digest(expected)


# -- when the file cannot be written ------------------------------------------------------------


def test_an_error_says_that_its_checkpoint_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()

    def fail(state: Any) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "no space left")

        monkeypatch.setattr(module.Checkpoint, "write", full)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        flow.fit(x, **arguments, checkpoint=path, callbacks=fail)
    assert "no space left" in caught.value.__notes__[0]
    monkeypatch.undo()
    flow, arguments = small()
    path.unlink()

    def interrupt(state: Any) -> None:
        monkeypatch.setattr(module.Checkpoint, "write", counting(module.Checkpoint.write, [1]))
        raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="could not be brought up to date"):
        flow.fit(x, **arguments, checkpoint=path, callbacks=interrupt)
    assert flow.history.stopped == "interrupted"


def test_ctrl_c_says_where_the_run_goes_on(tmp_path: Path) -> None:
    path, x = tmp_path / "m", table(1, 300, 3)
    flow, arguments = small()

    def interrupt(state: Any) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match=re.escape(f"The same call goes on from {str(path)!r}")):
        flow.fit(x, **arguments, checkpoint=path, callbacks=interrupt)
    assert_same_bits(ps.load(path).params, flow.params)
    assert ps.load(path).history.stopped == "interrupted"
    flow.fit(x, **arguments, checkpoint=path)
    assert flow.to_bytes() == small()[0].fit(x, **arguments).to_bytes()


def test_fit_leaves_the_handlers_of_signals_alone(tmp_path: Path) -> None:
    flow, arguments = small()
    numbers = [number for number in signal.valid_signals() if signal.getsignal(number) is not None]
    before = [signal.getsignal(number) for number in numbers]
    seen: list[Any] = []
    flow.fit(
        table(1, 300, 3), **arguments, checkpoint=tmp_path / "m",
        callbacks=lambda state: seen.append([signal.getsignal(number) for number in numbers]),
    )  # fmt: skip
    assert all(handlers == before for handlers in seen)


@pytest.mark.filterwarnings("ignore::penstock.OutlierWarning")
@pytest.mark.parametrize("own", [False, True])
def test_what_a_first_fit_leaves_out_is_left_out_after_a_resume(own: bool, tmp_path: Path) -> None:
    x, held_out = np.array(table(40, 600, 2)), np.array(table(41, 100, 2))
    x[17, 1], held_out[3, 0] = 1e20, 1e15
    arguments: dict[str, Any] = {"epochs": 4, "batch_size": 100, "rng": 0, **({"validation": held_out} if own else {})}

    def stop(state: ps.TrainingState) -> None:
        if state.epoch == 2:
            raise KeyError

    start = ps.nsf(2, layers=2, hidden=(8,), rng=0, backend=BACKENDS[0])
    with pytest.raises(KeyError):
        start.copy().fit(x, **arguments, callbacks=stop, checkpoint=tmp_path / "m")
    one = start.copy().fit(x, **arguments, checkpoint=tmp_path / "m")
    assert one.to_bytes() == start.copy().fit(x, **arguments).to_bytes()


@pytest.mark.filterwarnings("ignore::penstock.PenstockWarning")
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("when", [1, 2, 3])
def test_what_a_later_fit_leaves_out_is_left_out_after_a_resume(
    when: int, dtype: str, own: bool, tmp_path: Path
) -> None:
    x, held_out = np.array(table(42, 600, 2)), np.array(table(43, 100, 2))
    start = ps.nsf(2, layers=2, hidden=(8,), rng=0, dtype=dtype, backend=BACKENDS[0]).fit(x, epochs=2, rng=0)
    x[17, 1], held_out[3, 0] = 1e20, 1e15
    x[:3, 0] = 2e3  # so many are meant, in a later fit
    arguments: dict[str, Any] = {"epochs": 4, "batch_size": 100, "rng": 0, **({"validation": held_out} if own else {})}

    def stop(state: ps.TrainingState) -> None:
        if state.epoch == when:
            raise KeyError

    with pytest.raises(KeyError):
        start.copy().fit(x, **arguments, callbacks=stop, checkpoint=tmp_path / "m")
    assert b'"left_out":"later"' in (tmp_path / "m").read_bytes()
    one = start.copy().fit(x, **arguments, checkpoint=tmp_path / "m")
    assert one.to_bytes() == start.copy().fit(x, **arguments).to_bytes()


@pytest.mark.filterwarnings("ignore::penstock.PenstockWarning")
def test_a_first_fit_goes_on_as_such_with_the_flow_that_its_interruption_left(tmp_path: Path) -> None:
    x = np.array(table(44, 600, 2))
    x[17, 1] = 1e20
    arguments: dict[str, Any] = {"epochs": 4, "batch_size": 100, "rng": 0}

    def stop(state: ps.TrainingState) -> None:
        if state.epoch == 2:
            raise KeyboardInterrupt

    flow = ps.nsf(2, layers=2, hidden=(8,), rng=0, backend=BACKENDS[0])
    whole = flow.copy().fit(x, **arguments)
    flow.fit(x, **arguments, callbacks=stop, checkpoint=tmp_path / "m")
    assert flow.fitted
    assert flow.history.stopped == "interrupted"
    assert flow.fit(x, **arguments, checkpoint=tmp_path / "m").to_bytes() == whole.to_bytes()
