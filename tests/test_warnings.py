"""What the library warns of, and how: classes that stay, once a place, with column, row and cure; and fits that survive it."""

from __future__ import annotations

import importlib
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, rng
from helpers import assert_same_bits, each_backend, python

Array = np.ndarray[Any, Any]

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 200, "rng": 0, "learning_rate": 1e-6}


def gaussian(rows: int, key: str, dim: int = 2) -> Array:
    return rng("warnings", key).standard_normal((rows, dim))


def small(dim: int = 2, context_dim: int = 0, backend: str = BACKENDS[0]) -> ps.Flow:
    return ps.realnvp(dim, context_dim=context_dim, layers=2, hidden=(4,), rng=0, backend=backend)


@contextmanager
def told(category: type[Warning], *words: str) -> Iterator[list[Any]]:
    """A block that warns of these things, in this order, and of nothing else."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught
    assert [warning.category for warning in caught] == [category] * len(words), [str(w.message) for w in caught]
    for warning, word in zip(caught, words, strict=True):
        assert word in str(warning.message)
        assert warning.filename == __file__


# -- classes ------------------------------------------------------------------------------------


def test_warnings_and_errors_are_of_stable_classes(tmp_path: Any) -> None:
    for name in ("Data", "Model", "Training"):
        assert issubclass(getattr(ps, f"{name}Warning"), ps.PenstockWarning)
    for name in ("Outlier", "Discrete", "RepeatedRows", "Refit"):
        assert issubclass(getattr(ps, f"{name}Warning"), ps.DataWarning)
    assert issubclass(ps.PenstockWarning, UserWarning)
    assert issubclass(ps.FileFormatError, ValueError)
    assert issubclass(ps.TrainingError, RuntimeError)
    (tmp_path / "flow").write_bytes(b"no flow")
    for read in (lambda: ps.load(tmp_path / "flow"), lambda: ps.from_bytes(b"no flow")):
        with pytest.raises(ps.FileFormatError) as caught:
            read()
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(FileNotFoundError):
        ps.load(tmp_path / "none")
    with told(ps.ModelWarning, "a Gaussian"):
        ps.realnvp(1)
    with told(ps.DataWarning, "column 1 of X is constant"):
        small().fit(np.stack([gaussian(300, "classes", 1)[:, 0], np.ones(300)], axis=1), **QUICK)
    with told(ps.TrainingWarning, "more than ten times the training rows"):
        ps.nsf(2, layers=2, hidden=(32,), rng=0).fit(gaussian(5, "classes"), validation=0, **QUICK)


def test_no_warning_of_the_package_is_of_a_builtin_class() -> None:
    import ast
    from pathlib import Path

    classes = {name for name in ps.__all__ if name.endswith("Warning")}
    found = []
    for path in Path(ps.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("warn", "warnings.warn"):
                found.append(path.name)
                assert ast.unparse(node.func) == "warn", path
                assert ast.unparse(node.args[-1]) in classes, f"{path}:{node.lineno}"
    assert len(found) >= 10


# -- once a place -------------------------------------------------------------------------------

SEARCH = """if True:
    import sys, warnings
    import numpy as np, penstock as ps
    rng = np.random.default_rng(0)
    flow = ps.realnvp(2, layers=2, hidden=(4,), rng=0)
    def table():
        x = rng.standard_normal((300, 2))
        x[rng.integers(300), 1] = 10.0 ** rng.uniform(6, 20)
        return x
    arguments = dict(epochs=1, batch_size=100, validation=0)
    for number in range(10):
        flow.copy().fit(table(), **arguments)
    def own(x):
        return flow.copy().fit(x, **arguments)
    for number in range(10):
        own(table())
    flow.copy().fit(table(), **arguments)
    if len(sys.argv) > 1:
        warnings.simplefilter(sys.argv[1], ps.OutlierWarning)
        for number in range(3):
            own(table())
"""


@pytest.mark.parametrize(("then", "expected"), [((), 3), (("always",), 6), (("ignore",), 3), (("default",), 4)])
def test_a_loop_warns_once_for_each_line_whatever_the_numbers(then: tuple[str, ...], expected: int) -> None:
    done = python(SEARCH, *then)
    assert done.stderr.count("OutlierWarning: X has values") == expected, done.stderr


def test_different_warnings_of_one_line_are_all_said() -> None:
    code = """if True:
        import numpy as np, penstock as ps
        rng = np.random.default_rng(0)
        x, c = rng.standard_normal((2, 600, 2))
        x[:, 1], x[7, 0], c[9, 1] = rng.integers(0, 3, 600), 1e10, 1e10
        for number in range(4):
            ps.realnvp(2, context_dim=2, layers=2, hidden=(4,)).fit(x + number, c, epochs=1)
    """
    err = python(code).stderr
    assert [
        err.count(f"Warning: {words}") for words in ("X has values", "context has values", "X: column 1 takes")
    ] == [1] * 3


def test_warnings_that_are_errors_are_raised_each_time() -> None:
    x = gaussian(300, "errors")
    x[5, 0] = 1e9
    with warnings.catch_warnings():
        warnings.simplefilter("error", ps.PenstockWarning)
        for _ in range(3):
            flow = small()
            with pytest.raises(ps.OutlierWarning):
                flow.fit(x, **QUICK)
            assert not flow.fitted
    with told(ps.OutlierWarning, *["column 0: 1 of 300"] * 3):
        for _ in range(3):
            small().fit(x, **QUICK)


# -- absurd values ------------------------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("value", [1e4, -1e6, 1e20, 1e300])
@pytest.mark.parametrize("validated", [True, False])
def test_the_default_survives_one_absurd_value(backend: str, value: float, validated: bool) -> None:
    x = gaussian(6000, "absurd")
    spoilt = x.copy()
    spoilt[17, 1] = value
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 250, "rng": 0, "validation": 0.1 if validated else 0}
    start = ps.nsf(2, layers=2, hidden=(16,), rng=0, backend=backend)
    good = start.copy().fit(np.delete(x, 17, 0), **arguments)
    with told(ps.OutlierWarning, "column 1: 1 of 6000 values"):
        flow = start.copy().fit(spoilt, **arguments)
    rest = np.delete(x, 17, 0)
    assert flow.score(rest) > good.score(rest) - 0.02
    assert (np.abs(flow.loc) < 0.1).all()
    assert (np.abs(flow.scale - 1) < 0.1).all()
    samples = flow.sample(20_000, rng=0)
    assert (np.abs(samples) < 7).mean() > 0.999
    assert_same_bits(flow.scale[:1], start.copy().fit(x, **arguments).scale[:1])  # the other column is measured as ever


def test_the_warning_names_row_column_distance_and_cure() -> None:
    x = gaussian(400, "names")
    x[123, 0] = 1e7
    table = dict(zip(("mag", "z"), x.T, strict=True))
    with told(ps.OutlierWarning, "X has values more than 1000 robust standard deviations") as caught:
        small().fit(table, **QUICK)
    message = str(caught[0].message)
    for word in (
        "column 'mag': 1 of 400 values, the farthest 1e+07 in row 123",
        "left out of this fit",
        "drop",
        "logarithm",
        'standardize="robust"',
    ):
        assert word in message
    with told(ps.OutlierWarning, "context has values more than 1000"):
        small(2, 2).fit(x[:, [1, 1]] + gaussian(400, "beside"), {"age": x[:, 0], "mass": x[:, 1]}, **QUICK)


def test_rows_that_are_left_out_are_as_rows_of_weight_zero() -> None:
    x = gaussian(500, "weight")
    x[[3, 77], [0, 1]] = 1e8, -1e12
    weight = np.ones(500)
    weight[[3, 77]] = 0
    with told(ps.OutlierWarning, "; column 1: 1 of 500 values"):
        flow = small().fit(x, **QUICK)
    # Both columns are measured by quartiles of the sample, in which the two rows stand or do not.
    given = small().fit(x, sample_weight=weight, **QUICK)  # silent: rows that do not count are not looked at
    x[9, 0] = 1e9
    weight[3] = 1
    weight[9] = 0
    with told(ps.OutlierWarning, "column 0: 1 of 498 values"):
        small().fit(x, sample_weight=weight, **QUICK)
    x[9, 0] = 0
    np.testing.assert_allclose(flow.loc, given.loc, atol=0.1)
    np.testing.assert_allclose(flow.history.train_loss, given.history.train_loss, rtol=0.05)


def test_a_table_with_ordinary_tails_is_measured_as_ever() -> None:
    source = rng("warnings", "tails")
    for x in (
        source.standard_normal((5000, 2)), source.exponential(size=(5000, 2)), source.lognormal(0, 1.5, (5000, 2)),
        source.standard_t(3, (5000, 2)), np.where(source.random((5000, 2)) < 0.02, 30.0, 1.0) * source.standard_normal((5000, 2)),
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("error", ps.OutlierWarning)
            flow = small().fit(x, **QUICK)
        np.testing.assert_allclose(flow.loc, x.mean(axis=0), rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(flow.scale, x.std(axis=0), rtol=1e-12)


def test_few_rows_do_not_tell_what_is_absurd() -> None:
    x = gaussian(25, "few")
    x[3, 0] = 1e6
    with told(ps.OutlierWarning, "column 0: 1 of 25 values"):
        small().fit(x, **{**QUICK, "batch_size": 10})
    small().fit(x[:19], **{**QUICK, "batch_size": 10})  # silent


def test_a_code_for_what_is_missing_is_no_single_value() -> None:
    x = gaussian(2000, "code")
    x[::50, 0] = -9999.0
    with told(ps.OutlierWarning, "40 of them are -9999, perhaps a code for what is missing") as caught:
        flow = small().fit(x, **QUICK)
    assert "left out" not in str(caught[0].message)
    np.testing.assert_allclose(flow.scale, x.std(axis=0), rtol=1e-12)


@pytest.mark.parametrize("how", [False, "robust"])
def test_other_standardisations_keep_every_row_and_say_so(how: Any) -> None:
    x = gaussian(500, "others")
    x[3, 0] = 1e5
    with told(ps.OutlierWarning, "column 0: 1 of 450 rows of a sample, such as 100000"):
        small().fit(x, standardize=how, clip_norm=1.0, **{**QUICK, "rng": 3})


@each_backend
def test_absurd_validation_rows_of_ones_own_do_not_choose_the_epoch(backend: str) -> None:
    x, own = gaussian(1000, "own"), gaussian(300, "own validation")
    arguments: dict[str, Any] = {"epochs": 4, "batch_size": 100, "rng": 0}
    good = small(backend=backend).fit(x, validation=np.delete(own, 4, 0), **arguments)
    own[4, 1] = 1e15
    with told(ps.OutlierWarning, "validation: 1 of 300 rows, such as row 4"):
        flow = small(backend=backend).fit(x, validation=own, **arguments)
    assert_same_bits(flow.params, good.params)
    np.testing.assert_allclose(flow.history.validation_loss, good.history.validation_loss, rtol=1e-6)


# -- other rows ---------------------------------------------------------------------------------


def test_a_refit_on_other_rows_is_told_by_name_and_a_reset_is_silent() -> None:
    x = gaussian(1000, "refit")
    flow = small().fit({"mag": x[:, 0], "z": x[:, 1]}, **QUICK)
    with told(ps.RefitWarning, "column 'z' of X has moved since the first fit"):
        flow.copy().fit({"z": x[:, 1] + 4, "mag": x[:, 0]}, **QUICK)
    with told(ps.RefitWarning, "columns 'mag', 'z' of X have moved"):
        flow.copy().fit(5 * x, **QUICK)
    flow.copy().fit(x[:200] * 1.5 + 1, **QUICK)  # silent
    with told(ps.RefitWarning, "flow.reset() first begins anew"):
        flow.copy().fit(x + np.array([0, 10]), **QUICK)
    flow.reset().fit(x + np.array([0, 10]), **QUICK)  # silent


def test_a_refit_looks_at_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock.training import checks, outliers, scale

    run = importlib.import_module("penstock.training.loop")
    seen: list[int] = []
    true = scale.warn_moved

    def watch(sample: Any, *rest: Any) -> None:
        seen.append(len(sample))
        true(sample, *rest)

    x = gaussian(30_000, "few")
    flow = small().fit(x, **{**QUICK, "batch_size": 4096})
    monkeypatch.setattr(run, "warn_moved", watch)
    monkeypatch.setattr(run, "standardisation", lambda *rest: pytest.fail("a refit measures nothing"))
    monkeypatch.setattr(outliers, "far_rows", lambda *rest: pytest.fail("a refit measures nothing"))
    monkeypatch.setattr(checks, "warn_of_rows", lambda *rest: pytest.fail("a refit measures nothing"))
    flow.fit(x, **{**QUICK, "batch_size": 4096})
    assert seen == [256]


# -- rows without a density ---------------------------------------------------------------------


def test_discrete_columns_are_named_and_those_of_a_context_are_not() -> None:
    source = rng("warnings", "discrete")
    x = gaussian(3000, "discrete", 3)
    x[:, 1] = source.integers(0, 7, 3000)
    with told(ps.DiscreteWarning, "column 'n' takes only 7 values in 2700 rows") as caught:
        small(3).fit(dict(zip(("a", "n", "b"), x.T, strict=True)), **QUICK)
    assert "dequantize='auto' adds noise" in str(caught[0].message)
    small(2, 1).fit(x[:, [0, 2]], x[:, 1:2], **QUICK)  # silent
    x[:, 1] = np.where(source.random(3000) < 0.2, 99.0, x[:, 0] ** 2)
    with told(ps.DiscreteWarning, "column 1 is 99 in 19 % of the rows"):
        small(3).fit(x, **QUICK)
    for silent in (x[:, [0, 2]].round(2), x[:, [0, 2]].astype(np.float32), source.poisson(400, (3000, 2)) / 1.0):
        small().fit(silent, **QUICK)
    small().fit(source.integers(0, 3, (60, 2)), **QUICK)  # silent: too few rows to tell


def test_repeated_rows_are_told_with_their_share() -> None:
    source = rng("warnings", "repeated")
    x = gaussian(4000, "repeated")
    half = np.concatenate([x, x[:2000]])
    for rows, dim in ((half, 2), (half[:, :1], 1), (half.astype(np.float32), 2)):
        with told(ps.RepeatedRowsWarning, "of the 6000 rows repeat another one") as caught:
            small_or_spline(dim).fit(rows, validation=0, **QUICK)
        assert "about 33.3 %" in str(caught[0].message)
        assert "sample_weight" in str(caught[0].message)
    many = np.repeat(gaussian(40_000, "repeated many"), 2, axis=0)
    with told(ps.RepeatedRowsWarning, "repeat another one") as caught:  # a sample of an eighth sees few of the pairs
        small().fit(many, validation=0, **{**QUICK, "batch_size": 4096})
    share = float(str(caught[0].message).split("about ")[1].split(" %")[0])
    assert 35 < share < 65
    # Rows that agree by chance: rounded ones, ones of common values, contexts that are drawn for several rows each.
    small_or_spline(1).fit(x[:, :1].round(2), **QUICK)
    small(2, 2).fit(gaussian(4000, "of contexts"), np.repeat(x[:1000], 4, axis=0), **QUICK)
    zeros = np.where(source.random((4000, 2)) < 0.04, 0.0, x)
    small().fit(zeros, **QUICK)
    with told(ps.DiscreteWarning, "column 0 is 0 in 3"):
        small().fit(np.where(source.random((4000, 2)) < 0.3, 0.0, x), **QUICK)
    few = np.concatenate([x, x[:100]])
    small().fit(few, **QUICK)  # silent: 2 % of them


def small_or_spline(dim: int) -> ps.Flow:
    """One dimension has nothing to couple."""
    return small(dim) if dim > 1 else ps.nsf(1, layers=2, hidden=(4,), rng=0, backend=BACKENDS[0])


def test_a_sentinel_in_the_context_is_told_by_name() -> None:
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((1000, 1)), rng.standard_normal((1000, 2))
    c[::50, 1] = 99.0
    flow = ps.nsf(1, context_dim=2, layers=2, hidden=8, rng=0)
    flow.context_columns = ["u", "g"]
    with pytest.warns(ps.OutlierWarning, match=r"context: column 'g' is 99 in 2 % of the rows, beyond all.*--missing"):
        flow.fit(x, c, epochs=1, rng=0)
    c[::50, 1] = 3.9  # at the end, but no further out than others
    c[:, 0] = rng.integers(0, 3, 1000)  # a context may be discrete
    flow.reset(0).fit(x, c, epochs=1, rng=0)


# -- absurd values in a later fit ---------------------------------------------------------------


@each_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize(("row", "value"), [(0, 1e30), (300, 1e200), (8, 1e30), (13, 1e200)])  # the last two validate
def test_a_later_fit_survives_an_absurd_value_as_the_first_does(
    backend: str, dtype: str, validated: bool, row: int, value: float
) -> None:
    x = gaussian(1200, "absurd later")
    flow = ps.nsf(2, layers=2, hidden=(8,), rng=0, dtype=dtype, backend=backend).fit(x, epochs=3, rng=0)
    spoilt = x.copy()
    spoilt[row, 1] = value
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 100, "rng": 1, "validation": 0.2 if validated else 0}
    with told(ps.OutlierWarning, "X has values more than 1000 scales of the first fit from its location") as caught:
        warnings.simplefilter("ignore", ps.TrainingWarning)  # that it began with better parameters
        later = flow.copy().fit(spoilt, **arguments)
    assert f"column 1: 1 of 1200 values, the farthest {value:g} in row {row}" in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.TrainingWarning)
        good = flow.copy().fit(x, **arguments)
    assert abs(later.score(x) - good.score(x)) < 0.02
    if validated:
        assert abs(later.history.validation_loss[-1] - good.history.validation_loss[-1]) < 0.05
        assert abs(later.history.start_loss - good.history.start_loss) < 0.05
    assert (np.abs(later.sample(5000, rng=0)) < 7).all()


def test_what_a_later_fit_leaves_out_is_of_weight_zero_from_then_on() -> None:
    x = gaussian(1000, "later weight")
    flow = small().fit({"mag": x[:, 0], "z": x[:, 1]}, **QUICK)
    x[[3, 500], [0, 1]] = -1e25, 1e22
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 1000, "rng": 0, "validation": gaussian(100, "their own")}
    with told(ps.OutlierWarning, "column 'mag': 1 of 1000 values, the farthest -1e+25 in row 3") as caught:
        warnings.simplefilter("ignore", ps.TrainingWarning)
        later = flow.copy().fit(x, **arguments)
    assert "; column 'z': 1 of 1000 values, the farthest 1e+22 in row 500" in str(caught[0].message)
    # One batch an epoch: not one of its steps has seen the two rows.
    weight = np.ones(1000)
    weight[[3, 500]] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.TrainingWarning)
        assert_same_bits(later.params, flow.copy().fit(x, sample_weight=weight, **arguments).params)


def test_what_was_best_before_a_later_fit_looked_is_judged_anew() -> None:
    x, own = gaussian(1000, "anew"), gaussian(100, "their own")
    flow = ps.nsf(2, layers=2, hidden=(8,), rng=0).fit(x, epochs=30, rng=0)
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 200, "rng": 0, "learning_rate": 3e-2}
    with pytest.warns(ps.TrainingWarning, match="validated better than the starting parameters"):
        good = flow.copy().fit(x, validation=own, **arguments)
    x[3, 0], own[7, 1] = -1e25, 5e3  # the latter is not so far that the loss tells
    with told(ps.OutlierWarning, "X has values", "validation: 1 of 100 rows, such as row 7"):
        warnings.simplefilter("ignore", ps.TrainingWarning)
        later = flow.copy().fit(x, validation=own, **arguments)
    assert abs(later.history.start_loss - good.history.start_loss) < 0.05
    assert later.history.best_epoch == 0


def test_a_later_fit_leaves_out_absurd_contexts_too_once_it_looks() -> None:
    x = gaussian(1000, "later context")
    flow = ps.nsf(1, context_dim=1, layers=2, hidden=(8,), rng=0).fit(x[:, :1], x[:, 1:], **QUICK)
    x[[5, 9], 1], x[7, 0] = (1e35, 2e35), 1e30
    words = ("X has values more than 1000 scales of the first fit", "context has values more than 1000 scales")
    with told(ps.OutlierWarning, *words[:1]) as caught:
        warnings.simplefilter("ignore", ps.TrainingWarning)
        flow.copy().fit(x[:, :1], x[:, 1:], epochs=2, batch_size=100, validation=0, rng=0)  # two of 1000 are meant
    x[5, 1] = 0
    with told(ps.OutlierWarning, *words) as caught:
        warnings.simplefilter("ignore", ps.TrainingWarning)
        flow.fit(x[:, :1], {"u": x[:, 1]}, epochs=2, batch_size=100, validation=0, rng=0)
    assert "column 'u': 1 of 1000 values, the farthest 2e+35 in row 9" in str(caught[1].message)


def test_a_later_fit_leaves_out_few_rows_and_none_that_are_meant() -> None:
    x = gaussian(1000, "later few")
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 100, "rng": 0, "clip_norm": 1.0}
    flow = small().fit(x, **arguments)
    many = x.copy()
    many[::200, 0] = 1e30
    one = x.copy()
    one[1, 0] = 1e30
    for rows, options in ((many, {}), (one, {"standardize": "robust"}), (one, {"standardize": False})):
        with pytest.raises(ps.TrainingError, match="an extreme value: X"):
            flow.copy().fit(rows, **arguments, **options)
    plain = small().fit(x, standardize=False, **arguments)
    with pytest.raises(ps.TrainingError, match="an extreme value: X"):  # nothing was measured that could tell
        plain.fit(one, **arguments)


def test_a_later_fit_whose_rows_change_beneath_it_is_told_so() -> None:
    x = gaussian(400, "beneath")
    flow = small().fit(x, **QUICK)

    def spoil(state: ps.TrainingState) -> None:
        x[5, 0] = np.inf

    with pytest.raises(ps.TrainingError, match="something has changed the array"):
        flow.fit(x, epochs=3, batch_size=100, validation=0, rng=0, callbacks=spoil)
