"""The choice of a model: the better recipe wins, time is kept, and the table says what it should."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest

import penstock as ps
from penstock.training import TrainingError
from penstock.trials import Candidate, Run, Trials, compared

Array = np.ndarray[Any, Any]

SOURCE = np.random.default_rng(0)
ROWS = SOURCE.normal(size=(900, 2))
ROWS[:, 1] = np.sin(3 * ROWS[:, 0]) + 0.1 * ROWS[:, 1]


def wavy(rng: Any) -> ps.Flow:
    """A flow that can follow the rows."""
    return ps.nsf_ar(2, layers=2, hidden=(8,), rng=rng)


def rigid(rng: Any) -> ps.Flow:
    """A flow that hardly can: its couplings shift by two units."""
    return ps.nice(2, layers=1, hidden=(2,), rng=rng)


QUICK: dict[str, Any] = {"seconds": None, "epochs": 8, "recipes": [rigid, wavy], "ensemble": 1, "rng": 3}


def test_the_better_recipe_wins_by_far() -> None:
    found = ps.select(ROWS, **QUICK)
    best, other, refit = found.table
    assert (best.what, other.what, refit.what) == ("wavy", "rigid", "wavy")
    assert (best.difference, best.error, best.note, refit.note) == (0, 0, "best", "the best, on all rows")
    assert other.difference < -5 * other.error < 0
    assert other.difference == pytest.approx(other.log_prob - best.log_prob)
    assert (best.rows, refit.rows, found.held_out) == (810, 900, 90)
    assert math.isnan(refit.log_prob)
    assert found.refitted
    assert not any(row.cut_short for row in found.table)
    page = str(found)
    for words in ("wavy, found in", "90 rows that no fit has seen", f"{other.difference:+.4f} ± {other.error:.4f}"):
        assert words in page


def test_without_a_clock_the_outcome_is_the_same_bit_for_bit() -> None:
    one, other = (ps.select(ROWS, **QUICK | {"ensemble": 2}) for _ in range(2))
    tables = [
        [(row.what, row.log_prob, row.error) for row in found.table if not math.isnan(row.log_prob)]
        for found in (one, other)
    ]
    assert tables[0] == tables[1]
    assert {what for what, *_ in tables[0]} == {"wavy", "rigid", "2 x wavy"}
    assert np.array_equal(one.best.log_prob(ROWS), other.best.log_prob(ROWS))
    another = ps.select(ROWS, **QUICK | {"rng": 4})
    assert not np.array_equal(one.best.log_prob(ROWS), another.best.log_prob(ROWS))


def test_an_ensemble_that_is_best_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = Trials.scores
    monkeypatch.setattr(Trials, "scores", lambda self, model: scores(self, model) + 9 * isinstance(model, ps.Ensemble))
    found = ps.select(ROWS, **QUICK | {"ensemble": 3, "epochs": 1})
    assert [found.table[k].what for k in (0, -1)] == ["3 x wavy", "3 x wavy"]
    assert isinstance(found.best, ps.Ensemble)
    assert (found.best.n, found.best.fitted, len({tuple(own.params) for own in found.best.members})) == (3, True, 3)


def test_no_fit_sees_the_rows_of_the_comparison() -> None:
    seen: list[Array] = []

    class Watched(ps.Flow):
        def fit(self, X: Any, *args: Any, **options: Any) -> Any:
            seen.append(X)
            return super().fit(X, *args, **options)

        def log_prob(self, X: Any, *args: Any, **options: Any) -> Any:
            seen.append(X)
            return super().log_prob(X, *args, **options)

    def watched(rng: Any) -> ps.Flow:
        return Watched(ps.StandardNormal(2), wavy(rng).spec.layers, rng=rng)

    ps.select(ROWS, **QUICK | {"recipes": [watched]})
    train, held_out, every = ({tuple(row) for row in part} for part in seen)
    assert (len(train), len(held_out), train & held_out) == (810, 90, set())
    assert every == train | held_out == {tuple(row) for row in ROWS}


@pytest.mark.parametrize(
    ("weight", "mean", "error"),
    [
        # d = 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14, error sqrt(14 / 3 / 2)
        (None, 3.0, math.sqrt(7 / 3)),
        # weights 1, 1, 2: mean 15/4; n = 16 / 6; squares (121 + 49 + 2 * 81) / 16 / 4; over n - 1 = 5/3
        ([1.0, 1.0, 2.0], 3.75, math.sqrt(332 / 64 * 3 / 5)),
        ([2.0, 2.0, 4.0], 3.75, math.sqrt(332 / 64 * 3 / 5)),  # only ratios count
    ],
)
def test_paired_differences_by_hand(weight: Any, mean: float, error: float) -> None:
    first, second = np.array([1.0, 0.0, -4.0]), np.array([0.0, -2.0, -10.0])
    found = compared(first, second, None if weight is None else np.array(weight))
    assert found == pytest.approx((mean, error))


def test_rows_that_both_call_impossible_are_no_difference() -> None:
    first, second = np.array([-np.inf, 0.0]), np.array([-np.inf, -1.0])
    assert compared(first, second, None) == pytest.approx((0.5, 0.5))
    assert compared(second, np.array([-2.0, 0.0]), None)[0] == -np.inf


def test_the_budget_is_kept() -> None:
    begun = time.perf_counter()
    found = ps.select(
        np.tile(ROWS, (60, 1)) + 0.01 * SOURCE.normal(size=(54000, 2)), seconds=1.0, recipes=[rigid, wavy], rng=0
    )
    taken = time.perf_counter() - begun
    assert found.seconds == pytest.approx(taken, abs=0.2)
    assert 0.2 < taken < 4
    assert any(row.cut_short for row in found.table)
    assert "* cut short" in str(found)
    assert found.table[0].what.endswith("wavy")


@pytest.mark.parametrize(("seconds", "plan"), [(1e9, (50, 900, False)), (1.0, (10, 900, True)), (0.05, (1, 450, True))])
def test_shares_of_time_become_passes_or_rows(seconds: float, plan: Any) -> None:
    from penstock.training.rows import Rows

    own = Candidate("wavy", wavy, 0)
    trials = Trials(Rows(ROWS), Rows(ROWS), ((), ()), "", None, 0, {}, 50, True, rates={"wavy": 1e-4})
    assert trials.planned(own, seconds, 900) == plan


def test_supports_contexts_names_weights_and_lattices_pass_through() -> None:
    a, b = SOURCE.normal(size=(2, 600))
    X = {"a": np.exp(a), "b": np.round(4 * b) / 4}
    C = {"c": a + 0.1 * b}
    weight = np.r_[np.zeros(100), np.ones(500)]
    found = ps.select(
        X, C, seconds=None, epochs=2, recipes=["nsf", "maf"], support={"a": "positive", "b": "real"}, sample_weight=weight,
        dequantize={"b": 0.25}, ensemble=2, rng=0,
    )  # fmt: skip
    best = found.best
    assert (best.columns, best.context_columns, best.lattice) == (("a", "b"), ("c",), {"b": 0.25})
    assert found.held_out == 50
    assert {row.rows for row in found.table} == {450, 500}
    sample = best.sample(50, {"c": 0.0}, rng=0)
    assert (np.array(sample)[..., 0] > 0).all()
    again = ps.select(X, C, seconds=None, epochs=1, recipes=["nsf"], validation={"a": X["a"][:80], "b": X["b"][:80]},
                      validation_context={"c": C["c"][:80]}, dequantize="auto", ensemble=1, rng=0)  # fmt: skip
    assert (again.held_out, [row.rows for row in again.table]) == (80, [600, 680])


def test_a_candidate_that_fails_is_a_row_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Any, *_: Any, **__: Any) -> None:
        raise TrainingError("the loss is NaN")

    class Failing(ps.Flow):
        fit = failing  # type: ignore[assignment]

    def broken(rng: Any) -> ps.Flow:
        return Failing(ps.StandardNormal(2), [ps.Coupling()], rng=rng)

    found = ps.select(ROWS, **QUICK | {"recipes": [broken, wavy], "epochs": 1})
    assert (found.table[0].what, found.table[-2].note) == ("wavy", "failed: the loss is NaN")
    with pytest.raises(TrainingError, match="the loss is NaN"):
        ps.select(ROWS, **QUICK | {"recipes": [broken]})


def test_warnings_are_those_of_what_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ps.select(ROWS, **QUICK)
    with pytest.warns(ps.DataWarning, match="column 0") as caught:
        ps.select(np.c_[np.zeros(900), ROWS[:, 1]], **QUICK | {"epochs": 1})
    assert len({str(own.message) for own in caught}) == len(caught)
    assert all(own.filename == __file__ for own in caught)
    assert told.refitted


def test_an_interrupt_returns_the_best_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    run, n = Trials.run, [0]

    def interrupted(self: Trials, *given: Any) -> Run:
        n[0] += 1
        if n[0] == 2:
            raise KeyboardInterrupt
        return run(self, *given)

    monkeypatch.setattr(Trials, "run", interrupted)
    with pytest.warns(ps.TrainingWarning, match="interrupted"):
        found = ps.select(ROWS, **QUICK | {"epochs": 1})
    assert ([row.what for row in found.table], found.refitted) == (["rigid"], False)
    n[0] = 1
    with pytest.raises(KeyboardInterrupt):
        ps.select(ROWS, **QUICK | {"epochs": 1})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"seconds": 0}, ValueError, "seconds must be a positive"),
        ({"seconds": "long"}, TypeError, "seconds must be a number"),
        ({"recipes": []}, ValueError, "recipes must name at least one"),
        ({"recipes": "nsf"}, TypeError, "recipes must be a sequence or a mapping"),
        ({"recipes": ["nfs"]}, ValueError, "recipes must be one of .*'nsf'.* got 'nfs'"),
        ({"recipes": [3]}, TypeError, "recipe 0 must be a name, an unfitted Flow"),
        (
            {"recipes": {"other": lambda rng: ps.nsf(3, rng=rng)}},
            ValueError,
            "other has 3 dimensions .* X has 2 columns",
        ),
        ({"recipes": {"other": lambda rng: 1}}, TypeError, "other must give a Flow, got int"),
        ({"recipes": ["nsf", wavy], "support": {0: "positive"}}, ValueError, "wavy has another support than nsf"),
        ({"support": "positive"}, ValueError, "support is for recipes that are given by name"),
        ({"validation": 0}, ValueError, "validation must be a fraction above 0"),
        ({"validation": None}, ValueError, "validation must be a fraction above 0"),
        ({"checkpoint": "x"}, TypeError, "no argument 'checkpoint'"),
        ({"learning_rate": -1}, ValueError, "learning_rate must be"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"ensemble": 0}, ValueError, "ensemble must be at least 1"),
        ({"X": np.where(ROWS > 2, np.nan, ROWS)}, ValueError, "X must be finite"),
        ({"context": ROWS[:5]}, ValueError, "context"),
        ({"X": ROWS[:1]}, ValueError, "at least 2"),
    ],
)
def test_bad_input_is_named(change: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        ps.select(**{"X": ROWS} | QUICK | change)
