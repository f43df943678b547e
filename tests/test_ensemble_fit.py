"""The fit of ensembles: members side by side have the bits of members one by one, whatever interrupts or resumes them."""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from helpers import INTERRUPTIBLE, assert_same_bits, each_backend_numba_in_ci, python
from penstock.training.stacking import mixture_weights

Array = np.ndarray[Any, Any]

ROWS = np.random.default_rng(0).normal(size=(900, 2)).astype(np.float32)
ROWS[:, 1] += ROWS[:, 0] ** 2
GIVEN = np.random.default_rng(1).normal(size=(900, 1))
SHORT: Any = {"epochs": 2, "rng": 5}


def recipe(rng: Any, backend: str = "auto", **more: Any) -> ps.Flow:
    """A small flow, with a permutation."""
    return ps.nsf(2, layers=3, hidden=(6,), mixing="random", rng=rng, backend=backend, **more)


def children(rng: int, n: int) -> list[int]:
    """The seeds of members, as the documentation has them."""
    return [int(word) for word in np.random.SeedSequence(ps.key(rng)).generate_state(n, "uint64")]


def assert_same_members(one: ps.Ensemble, other: ps.Ensemble) -> None:
    """The same parameters and standardisation, and the same weights."""
    for a, b in zip(one.members, other.members, strict=True):
        assert_same_bits(a.params, b.params)
        assert_same_bits(a.loc, b.loc)
    assert_same_bits(one.weights, other.weights)


def counts(k: int) -> Array:
    """How often the bootstrap of a member takes each row."""
    drawn = np.random.default_rng(children(5, 3)[k]).integers(900, size=900)
    return np.bincount(drawn, minlength=900).astype(float)


# Arguments of a fit of the ensemble, and how they differ in that of one member by itself.
FITS: dict[str, tuple[dict[str, Any], Callable[[int], dict[str, Any]]]] = {
    "defaults": ({}, lambda k: {}),
    "options": ({"batch_size": 100, "schedule": "plateau", "learning_rate": 1e-2, "clip_norm": 0.5}, lambda k: {}),
    "weights": ({"sample_weight": np.arange(900.0)}, lambda k: {}),
    "no validation": ({"validation": 0}, lambda k: {}),
    "validation rows": ({"validation": ROWS[:80]}, lambda k: {}),
    "lattice": ({"dequantize": [0.125, None], "X": np.round(ROWS * 8) / 8}, lambda k: {}),
    "a table": ({"X": {"a": ROWS[:, 0], "b": ROWS[:, 1]}}, lambda k: {}),
    "bootstrap": ({"bootstrap": True}, lambda k: {"sample_weight": counts(k)}),
    "weighted bootstrap": (
        {"bootstrap": True, "sample_weight": np.arange(900.0)},
        lambda k: {"sample_weight": counts(k) * np.arange(900.0)},
    ),
}


@pytest.mark.filterwarnings("ignore::penstock.DataWarning")
@pytest.mark.parametrize("case", FITS)
def test_members_side_by_side_have_the_bits_of_members_one_by_one(case: str) -> None:
    options, change = FITS[case]
    found = []
    for threads in (1, 2, 5):
        with ps.threads(threads):
            found.append(ps.Ensemble(recipe, 3, rng=0).fit(**{"X": ROWS, **SHORT, **options}))
    ensemble = found[0]
    for other in found[1:]:
        assert_same_members(other, ensemble)
    alone = {key: value for key, value in options.items() if key != "bootstrap"}
    for k, (start, seed) in enumerate(zip(children(0, 3), children(5, 3), strict=True)):
        member = recipe(start).fit(**{"X": ROWS, **alone, **change(k), "epochs": 2, "rng": seed})
        own = ensemble.members[k]
        assert_same_bits(own.params, member.params)
        assert (own.columns, own.lattice) == (member.columns, member.lattice)
        assert own.history.validation_loss == member.history.validation_loss
    if case != "validation rows":
        assert ensemble.weights.tolist() == [1 / 3] * 3
        assert np.isnan(ensemble.history.validation_loss)
    assert ensemble.history.stopped == "completed"


@each_backend_numba_in_ci
def test_a_context_goes_with_its_rows_on_every_backend(backend: str) -> None:
    ensemble = ps.Ensemble(functools.partial(recipe, context_dim=1, backend=backend), 2, rng=0).fit(
        ROWS, GIVEN, **SHORT
    )
    start, seed = children(0, 2)[1], children(5, 2)[1]
    member = recipe(start, context_dim=1, backend=backend).fit(ROWS, GIVEN, epochs=2, rng=seed)
    assert_same_bits(ensemble.members[1].params, member.params)


def test_a_bootstrap_puts_no_row_on_both_sides_of_the_split() -> None:
    """A member sees a row in training or in validation, however often it was drawn."""
    from penstock.training.shares import Shares

    plain, seen = Shares._share_out, []

    def watched(self: Any, rows: Any, held_out: Any) -> None:
        plain(self, rows, held_out)
        parts = []
        for part in (self.train_part, self.validation):
            index = part.index(part.first, part.last)
            parts.append(set(index[rows.weight[index] > 0].tolist()))
        seen.append(parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shares, "_share_out", watched)
        ps.Ensemble(recipe, 3, rng=0).fit(ROWS, bootstrap=True, **SHORT)
    assert len(seen) == 3
    for train, validate in seen:
        assert train
        assert validate
        assert not train & validate
    drawn = [counts(k) for k in range(3)]
    assert sorted(len(train | validate) for train, validate in seen) == sorted(int((own > 0).sum()) for own in drawn)
    assert all(0.6 < (own > 0).mean() < 0.67 and own.sum() == 900 for own in drawn)


def test_weights_are_those_that_fit_the_validation_rows_best() -> None:
    held_out, weight = ROWS[:200], np.linspace(0, 2, 200)
    ensemble = ps.Ensemble(recipe, 3, rng=0).fit(
        ROWS[200:], validation=held_out, validation_weight=weight, epochs=3, rng=1
    )

    def score(weights: Array) -> float:
        twin = ensemble.copy()
        twin.weights = weights
        return twin.score(held_out, sample_weight=weight)

    assert score(ensemble.weights) == pytest.approx(-ensemble.history.validation_loss, rel=1e-6)
    n_rows = weight.sum() ** 2 / (weight**2).sum()

    def objective(weights: Array) -> float:
        """That of stacking, per row: each member is worth two rows more."""
        return score(weights) + 2 * float(np.log(weights / weights.sum()).sum()) / n_rows

    best = objective(ensemble.weights)
    for k in range(3):
        for step in (1e-2, -1e-2):
            moved = np.maximum(ensemble.weights + step * (np.arange(3) == k), 1e-9)
            assert objective(moved) <= best + 1e-9
    # By hand, where the derivative is 0: p_0 = (1, 3) and p_1 = (3, 1), v the weight of p_1, and a (5, 4) of row weights that
    # are worth 81 / 41 rows.
    shares = np.array([[0.25, 0.75], [0.75, 0.25]])
    for given in (np.array([5.0, 4.0]), np.array([3.0, 1.0]), np.array([3e-300, 1e-300])):
        u, v = mixture_weights(shares, given)
        a, b = given / given.max() * (given / given.max()).sum() / ((given / given.max()) ** 2).sum()
        assert u + v == pytest.approx(1)
        assert 2 * a / (1 + 2 * v) - 2 * b / (3 - 2 * v) + 2 / v - 2 / u == pytest.approx(0, abs=1e-6)
    # Rows that only one member has seen, in shares that are as far apart as can be: it is no more than the rows tell.
    for n in (3, 300):
        one = np.array([np.ones(n), np.full(n, 1e-300)])
        assert mixture_weights(one, None).tolist() == pytest.approx([(n + 2) / (n + 4), 2 / (n + 4)])
    lost = np.concatenate([shares, [[0.0, 0.0], [np.nan, 0.0]]], axis=0).T.reshape(2, 4) * 0 + np.nan
    assert mixture_weights(lost, None).tolist() == [0.5, 0.5]


@pytest.mark.filterwarnings("ignore::penstock.DataWarning")
@pytest.mark.parametrize("column", ["data", "context"])
def test_an_absurd_validation_row_that_members_leave_out_has_no_say_in_weights(column: str) -> None:
    held_out, given, weight = ROWS[:50].copy(), GIVEN[:50].copy(), np.ones(50)
    (held_out if column == "data" else given)[0] = 1e12
    found = []
    for more in ({}, {"validation_weight": weight * (np.arange(50) > 0)}):
        ensemble = ps.Ensemble(functools.partial(recipe, context_dim=1), 3, rng=0)
        found.append(
            ensemble.fit(ROWS[50:], GIVEN[50:], validation=held_out, validation_context=given, **SHORT, **more)
        )
    assert_same_members(*found)
    assert found[0].history.validation_loss == found[1].history.validation_loss < 10


@pytest.mark.filterwarnings("ignore::penstock.DataWarning")
def test_a_bootstrap_has_the_lattice_of_the_whole_table() -> None:
    x = np.stack([10.0 * np.random.default_rng(0).integers(1, 4, 400), np.random.default_rng(1).normal(size=400)], 1)
    x[5, 0] = 1  # without it the step is 10
    told: dict[int | None, Any] = {}
    ensemble = ps.Ensemble(recipe, 6, rng=0).fit(
        x, epochs=1, rng=1, bootstrap=True, dequantize="auto",
        callbacks=lambda state: told.__setitem__(state.member, state.flow.lattice),
    )  # fmt: skip
    assert told == dict.fromkeys(range(6), recipe(0).fit(x, epochs=1, rng=1, dequantize="auto").lattice)
    assert told[0] == ensemble.lattice == {0: 1.0}
    assert ensemble.fit(x, epochs=1, rng=2, dequantize="auto").lattice == {0: 1.0}
    with pytest.raises(ValueError, match="which has 0 1; a later one"):
        ensemble.fit(x, epochs=1, rng=2, dequantize={1: 0.5})


def test_callbacks_are_called_in_the_callers_thread_with_the_number_of_the_member() -> None:
    seen: list[tuple[Any, int, bool]] = []

    def watch(state: ps.TrainingState) -> bool:
        seen.append((state.member, state.epoch, threading.current_thread() is threading.main_thread()))
        assert isinstance(state.flow, ps.Flow)
        return state.member == 1

    ensemble = ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=3, rng=1, callbacks=watch)
    assert sorted(seen) == [
        (0, 1, True),
        (0, 2, True),
        (0, 3, True),
        (1, 1, True),
        (2, 1, True),
        (2, 2, True),
        (2, 3, True),
    ]
    assert [own.stopped for own in ensemble.history] == ["completed", "callback", "completed"]
    assert ensemble.history.stopped == "completed, callback"


def test_no_more_threads_compute_than_there_are() -> None:
    busy, most, lock = 0, 0, threading.Lock()
    from penstock.runner import Trainer

    plain = Trainer.run

    def run(self: Any, *arguments: Any, **more: Any) -> int:
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy * ps.num_threads())
        time.sleep(0.002)
        try:
            return plain(self, *arguments, **more)
        finally:
            with lock:
                busy -= 1

    for threads in (1, 2, 3, 7):
        most = 0
        with pytest.MonkeyPatch.context() as patch, ps.threads(threads):
            patch.setattr(Trainer, "run", run)
            ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=1, rng=1)
            assert ps.num_threads() == threads
        assert 1 <= most <= threads


class MineError(Exception):
    """Somebody's own."""


FAILURES: dict[str, tuple[dict[str, Any], type[BaseException], bool]] = {
    "a callback": ({"callbacks": "raise"}, MineError, True),
    "no such option": ({"speed": 3}, TypeError, False),
    "an option": ({"epochs": -3}, ValueError, False),
    "rows": ({"X": ROWS[:, :1]}, ValueError, False),
    "NaN": ({"X": np.where(ROWS > 2.5, np.nan, ROWS)}, ValueError, False),
    "bootstrap": ({"bootstrap": 3}, TypeError, False),
    "divergence": ({"learning_rate": 1e30, "clip_norm": None}, ps.TrainingError, False),
    "a warning": ({"X": np.column_stack([ROWS[:, 0], np.ones(900)])}, ps.DataWarning, False),
}


@pytest.mark.parametrize("case", FAILURES)
def test_an_error_leaves_the_ensemble_as_it_was(case: str) -> None:
    options, kind, has_best = FAILURES[case]
    ensemble = ps.Ensemble(recipe, 3, rng=0)
    before = ensemble.to_bytes()

    def fail(state: ps.TrainingState) -> None:
        if state.member == 2 and state.epoch == 3:
            raise MineError

    given: dict[str, Any] = {"X": ROWS, "epochs": 200, "rng": 1, **options}
    if "callbacks" in given:
        given["callbacks"] = fail
    with pytest.raises(kind) as caught:
        ensemble.fit(**given)
    assert ensemble.to_bytes() == before
    assert not ensemble.fitted
    assert threading.active_count() == 1 or not [
        t for t in threading.enumerate() if t.name.startswith("penstock-member")
    ]
    if case == "bootstrap":
        return
    error: Any = caught.value
    assert [own.stopped for own in error.history] == ["failed"] * 3
    if has_best:
        assert isinstance(error.best, ps.Ensemble)
        assert error.best.fitted
        assert error.best.members[2].history.epoch == [1, 2, 3]
    elif case != "divergence":
        assert error.best is None
    assert not np.isnan(ensemble.fit(ROWS, epochs=1, rng=1).log_prob(ROWS[:3])).any()


def test_a_second_fit_meanwhile_is_refused_and_a_later_one_is_a_warm_start() -> None:
    ensemble = ps.Ensemble(recipe, 2, rng=0)

    def again(state: ps.TrainingState) -> None:
        ensemble.fit(ROWS, epochs=1)

    with pytest.raises(RuntimeError, match="another fit of this ensemble"):
        ensemble.fit(ROWS, epochs=2, callbacks=again)
    ensemble.fit(ROWS, **SHORT)
    warm = [member.fit(ROWS, epochs=1, rng=seed) for member, seed in zip(ensemble.members, children(6, 2), strict=True)]
    ensemble.fit(ROWS, epochs=1, rng=6)
    for member, other in zip(ensemble.members, warm, strict=True):
        assert_same_bits(member.params, other.params)
    with pytest.raises(ValueError, match=r"columns|names"):
        ps.Ensemble(recipe, 2, rng=0).fit({"a": ROWS[:, 0], "b": ROWS[:, 1]}, **SHORT).fit(
            {"a": GIVEN[:, 0], "c": GIVEN[:, 0]}
        )


def test_warnings_point_at_the_caller_and_name_the_member() -> None:
    constant = np.column_stack([ROWS[:, 0], np.ones(900)])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ps.Ensemble(recipe, 2, rng=0).fit(constant, epochs=1, rng=0)
    own = [w for w in told if issubclass(w.category, ps.DataWarning)]
    assert {w.filename for w in own} == {__file__}
    assert {str(w.message)[-26:] for w in own} == {"(member 0 of the ensemble)", "(member 1 of the ensemble)"}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(2):
            ps.Ensemble(recipe, 2, rng=0).fit(constant, epochs=1, rng=0)
    assert len([w for w in told if "constant" in str(w.message)]) == 1


def test_one_bar_shows_all_members(capsys: pytest.CaptureFixture[str]) -> None:
    ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=2, rng=0, progress=True)
    err = capsys.readouterr().err
    assert "100%" in err
    assert "member" in err
    assert err.count("100%") == 1 or "\r" in err


# -- interrupt and resume ---------------------------------------------------------------------------------------

CTRL_C = (
    INTERRUPTIBLE
    + """
import os, sys, threading, time, warnings
import numpy as np
import penstock as ps
X = np.random.default_rng(0).normal(size=(4000, 2))
ensemble = ps.Ensemble(lambda rng: ps.nsf(2, layers=2, hidden=(16,), rng=rng), 3, rng=0)
seen = set()
def watch(state):
    seen.add(state.member)
    if seen == {0, 1, 2}:
        seen.add("sent")
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
warnings.simplefilter("ignore")
ps.set_num_threads(int(sys.argv[1]))
began = time.time()
ensemble.fit(X, epochs=10**6, schedule="constant", rng=0, callbacks=watch)
print(ensemble.history.stopped, ensemble.fitted, min(len(own) for own in ensemble.history) > 0, time.time() - began < 30)
print(np.isfinite(ensemble.log_prob(X[:10])).all(), [t.name for t in threading.enumerate()] == ["MainThread"])
early = ps.Ensemble(lambda rng: ps.nsf(2, layers=2, hidden=(16,), rng=rng), 3, rng=0)
def first(state):
    raise KeyboardInterrupt
early.fit(X, epochs=50, rng=0, callbacks=first) if sys.argv[1] == "3" else None
"""
)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_ctrl_c_stops_all_members_and_each_keeps_what_it_has(threads: str) -> None:
    done = python(CTRL_C, threads, check=False)
    assert done.stdout.split() == ["interrupted", "True", "True", "True", "True", "True"], done.stderr


def stopped_at(member: int, epoch: int) -> Callable[[ps.TrainingState], None]:
    """A callback that ends a run as a power cut would, but for what is in the checkpoint by then."""

    def stop(state: ps.TrainingState) -> None:
        if state.member == member and state.epoch == epoch:
            raise MineError

    return stop


RESUMES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bootstrap": {"bootstrap": True},
    "validation rows": {"validation": ROWS[:90]},
    "no validation": {"validation": None},
    "a table": {"X": {"a": ROWS[:, 0], "b": ROWS[:, 1]}},
    "steps": {"checkpoint_every": 3},
}


@pytest.mark.parametrize("case", RESUMES)
def test_a_checkpoint_resumes_with_the_same_bits(case: str, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    options: dict[str, Any] = {"X": ROWS, "epochs": 4, "rng": 7, **RESUMES[case]}
    whole = ps.Ensemble(recipe, 3, rng=0).fit(
        **{key: value for key, value in options.items() if key != "checkpoint_every"}
    )
    # The first member has ended when the last one fails, and so has perhaps another; on a busy machine the last one may have
    # ended before, and then it is the first that fails.
    member, epoch = 0, 2
    for _ in range(2):
        with pytest.raises(MineError):
            ps.Ensemble(recipe, 3, rng=0).fit(**options, checkpoint=path, callbacks=stopped_at(member, epoch))
        held = ps.load(path)
        assert isinstance(held, ps.Ensemble)
        member, epoch = (2 if len(held.history[2]) < 4 else 0), 4
    resumed = ps.Ensemble(recipe, 3, rng=0).fit(**options, checkpoint=path)
    assert_same_members(resumed, whole)
    assert [own.validation_loss for own in resumed.history] == [own.validation_loss for own in whole.history]
    assert path.read_bytes() == resumed.to_bytes() == whole.to_bytes()
    assert [other.name for other in tmp_path.iterdir()] == [path.name]


def test_a_member_that_has_ended_stays_in_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    over: list[int] = []

    def watch(state: ps.TrainingState) -> bool:
        if state.member == 0:
            over.append(state.epoch)
        elif over and state.epoch > 2:
            raise MineError
        return state.member == 0

    for _ in range(2):
        with pytest.raises(MineError):
            ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=300, rng=7, checkpoint=path, callbacks=watch)
        held = ps.load(path)
        assert isinstance(held, ps.Ensemble)
        assert held.fitted
        assert held.history[0].stopped == "callback"
    assert over == [1]


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"

    def stop(**options: Any) -> None:
        with pytest.raises(MineError):
            ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=3, checkpoint=path, callbacks=stopped_at(1, 2), **options)

    stop(rng=1)
    for options, n, words in (
        ({"rng": 2}, 3, "rng is another one"),
        ({"rng": 1, "epochs": 5}, 3, "epochs was 3 and is 5"),
        ({"rng": 1, "bootstrap": True}, 3, r"another call: bootstrap was False and is True\. "),
        ({"rng": 1}, 2, "run of 3 members, and this ensemble has 2"),
    ):
        with pytest.raises(ValueError, match=words):
            ps.Ensemble(recipe, n, rng=0).fit(ROWS, **{"epochs": 3, **options}, checkpoint=path)
    with pytest.raises(ValueError, match="holds the run of an ensemble, and this is one flow") as caught:
        recipe(0).fit(ROWS, epochs=3, checkpoint=path)
    assert "resume=False replaces it" in caught.value.__notes__[0]
    # Without a seed the run goes on with its own.
    found = ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=3, checkpoint=path)
    assert_same_members(found, ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=3, rng=1))
    with pytest.raises(ValueError, match="holds an ensemble, and this is one flow"):
        recipe(0).fit(ROWS, epochs=3, checkpoint=path)
    path.unlink()
    stop(rng=1, bootstrap=True)
    with pytest.raises(ValueError, match=r"another call: bootstrap was True and is False\. "):
        ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=3, rng=1, checkpoint=path)
    one = tmp_path / "one.safetensors"
    with pytest.raises(MineError):
        recipe(0).fit(ROWS, epochs=3, checkpoint=one, callbacks=stopped_at(None, 2))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="the run of one flow"):
        ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=3, checkpoint=one)
    ps.Ensemble(recipe, 3, rng=0).fit(ROWS, epochs=1, checkpoint=one, resume=False)
    assert ps.load(one).n == 3  # type: ignore[union-attr]


def test_the_history_tells_of_all_members(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib").use("agg")
    ensemble = ps.Ensemble(recipe, 2, rng=0)
    assert repr(ensemble.history) == "EnsembleHistory(no epoch completed)"
    with pytest.raises(ValueError, match="nothing to plot"):
        ensemble.history.plot()
    ensemble.fit(ROWS[100:], epochs=2, rng=0, validation=ROWS[:100])
    text = repr(ensemble.history)
    assert text.startswith("EnsembleHistory(2 members, 2 epochs, best validation losses ")
    assert f"validation loss of the ensemble {ensemble.history.validation_loss:.4g}" in text
    assert ensemble.history._repr_html_().count("<tr>") == 3
    assert "last fit: EnsembleHistory" in ensemble._repr_html_()
    assert len(ensemble.history.plot().lines) >= 6
    assert ps.from_bytes(ensemble.to_bytes()).history.validation_loss == ensemble.history.validation_loss
    assert len(ensemble) == len(ensemble.history) == 2


@pytest.mark.parametrize(("options", "epochs"), [({}, 60), ({"batch_size": 450}, 60), ({"epochs": 30}, 30)])
def test_a_member_trains_fewer_epochs_than_one_flow_does(options: Any, epochs: int) -> None:
    x = np.random.default_rng(0).standard_normal((500, 2))
    ensemble = ps.Ensemble(recipe, 2, rng=0).fit(x, rng=0, callbacks=lambda state: True, **options)
    # A tenth of the run is warm-up, so that the rate after one epoch says how long the run would be.
    assert [3e-3 / own.learning_rate[0] * 10 for own in ensemble.history] == [pytest.approx(epochs, rel=0.02)] * 2
