"""What people try first: shapes of draws and contexts, a view at one context, arguments by position, names at the top."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, Case, bare, built, contexts, points, rng
from helpers import assert_same_bits, both_dtypes, each_backend, each_conditional_case, python

Array = np.ndarray[Any, Any]


def prepared(case: Case, backend: str, dtype: str, rows: int = 7) -> tuple[ps.Flow, Array, Array]:
    """A flow with rows, and a context for each."""
    flow = bare(built(case, backend, dtype))
    return flow, points(case, rows, flow), contexts(case, rows, flow)


def gaussian(rows: int, key: str, dim: int = 2) -> Array:
    return rng(key).standard_normal((rows, dim))


# -- draws --------------------------------------------------------------------------------------


@each_backend
@both_dtypes
def test_draws_come_in_the_shape_that_was_asked_for(backend: str, dtype: str) -> None:
    flow = prepared(BY_NAME["nsf"], backend, dtype)[0]
    eight = flow.sample(8, rng=3)
    assert_same_bits(flow.sample(rng=3), eight[0])
    assert_same_bits(flow.sample((8,), rng=3), eight)
    assert_same_bits(flow.sample((2, 4), rng=3), eight.reshape(2, 4, -1))
    assert_same_bits(flow.sample((2, 2, 2), rng=3), eight.reshape(2, 2, 2, -1))
    assert_same_bits(flow.sample((), rng=3), eight[0])
    assert_same_bits(flow.sample(8.0, rng=3), eight)
    assert_same_bits(flow.sample((2.0, np.int64(4)), rng=3), eight.reshape(2, 4, -1))  # type: ignore[arg-type]
    assert flow.sample((0, 4)).shape == (0, 4, flow.dim)
    x, log_prob = flow.sample_and_log_prob((2, 4), rng=3)
    assert_same_bits(x, eight.reshape(2, 4, -1))
    assert log_prob.shape == (2, 4)
    one, density = flow.sample_and_log_prob(rng=3)
    assert_same_bits(density, log_prob[0, 0])
    assert_same_bits(one, eight[0])
    assert_same_bits(flow.sample((2, 2), rng=3, first=4), eight[4:].reshape(2, 2, -1))
    for bad, kind, words in (
        (2.5, TypeError, "n must be an integer, got float"),
        (-1, ValueError, "n must be at least 0"),
        ((2, -1), ValueError, r"n\[1\] must be at least 0, got -1"),
        (("a",), TypeError, r"n\[0\] must be an integer, got str"),
        (float("inf"), TypeError, "n must be an integer"),
        ([2, 3], TypeError, "n must be an integer, got list"),
    ):
        with pytest.raises(kind, match=words):
            flow.sample(bad)  # type: ignore[arg-type]


@each_conditional_case
def test_draws_of_contexts_come_in_their_shape(case: Case, backend: str) -> None:
    flow, _, c = prepared(case, backend, "float32", 6)
    each = flow.sample(None, c, rng=1)
    assert_same_bits(flow.sample(None, c.reshape(2, 3, -1), rng=1), each.reshape(2, 3, -1))
    assert_same_bits(flow.sample(None, c[0], rng=1), each[0])
    assert_same_bits(flow.sample((2, 4), c[1], rng=1), flow.sample(8, c[1], rng=1).reshape(2, 4, -1))
    assert_same_bits(flow.sample((4,), c, rng=1), flow.sample(4, c, rng=1))


@each_backend
def test_a_key_is_what_decides_the_draws(backend: str) -> None:
    flow = prepared(BY_NAME["nsf"], backend, "float32")[0]
    for seed in (0, 7, [1, 2], np.random.SeedSequence(5)):
        key = ps.key(seed)
        assert isinstance(key, int)
        assert 0 <= key < 2**64
        assert_same_bits(flow.sample(4, key=key), flow.sample(4, rng=seed))
        assert_same_bits(flow.sample_and_log_prob(4, key=key)[1], flow.sample_and_log_prob(4, rng=seed)[1])
    generator, other = np.random.default_rng(3), np.random.default_rng(3)
    assert [ps.key(generator), ps.key(generator)] == [ps.key(other), ps.key(other)]
    assert ps.key() != ps.key()
    assert_same_bits(flow.sample(4, key=2**64 - 1), flow.sample(4, key=np.uint64(2**64 - 1)))
    for arguments, words in (
        ({"key": 2**64}, "key must be at least 0 and below"),
        ({"key": -1}, "key must be at least 0 and below"),
        ({"key": 1, "rng": 1}, "rng and key both decide"),
    ):
        with pytest.raises(ValueError, match=words):
            flow.sample(4, **arguments)


# -- contexts -----------------------------------------------------------------------------------


@each_conditional_case
def test_one_row_with_many_contexts_is_that_row_repeated(case: Case, backend: str) -> None:
    flow, x, c = prepared(case, backend, "float32", 7)
    row, many = x[3], np.repeat(x[3:4], 7, axis=0)
    assert_same_bits(flow.log_prob(row, c), flow.log_prob(many, c))
    assert flow.log_prob(row, c[:0]).shape == (0,)
    assert flow.score(row, c) == flow.score(many, c)
    out = np.zeros(7, "f4")
    assert flow.log_prob(row, c, out=out) is out
    assert_same_bits(out, flow.log_prob(many, c))
    for verb in ("to_latent", "to_data"):
        for got, expected in zip(getattr(flow, verb)(row, c), getattr(flow, verb)(many, c), strict=True):
            assert_same_bits(got, expected)
    log_prob, (d_row, d_context) = flow.log_prob_and_grad(row, c, ("x", "context"))
    _, (d_many, d_each) = flow.log_prob_and_grad(many, c, ("x", "context"))
    assert_same_bits(log_prob, flow.log_prob(many, c))
    assert_same_bits(d_context, d_each)
    assert_same_bits(d_row, d_many.sum(axis=0, dtype=np.float64))  # what contexts share
    weight = np.linspace(-1, 1, 7)
    for got, expected in zip(flow.log_prob_vjp(row, weight, c), flow.log_prob_vjp(many, weight, c), strict=True):
        assert got is not None
        assert expected is not None
        assert_same_bits(got, expected.sum(axis=0, dtype=np.float64) if got.shape == row.shape else expected)
    assert flow.loss_and_grad(row, c, weight)[0] == flow.loss_and_grad(many, c, weight)[0]


@each_conditional_case
def test_each_row_of_blocks_may_have_its_context(case: Case, backend: str) -> None:
    flow, x, c = prepared(case, backend, "float32", 12)
    blocks, given = x.reshape(3, 4, -1), c.reshape(3, 4, -1)
    assert_same_bits(flow.log_prob(blocks, given), flow.log_prob(x, c).reshape(3, 4))
    assert_same_bits(flow.to_latent(blocks, given)[0], flow.to_latent(x, c)[0].reshape(blocks.shape))
    (d_blocks, d_given), (d_x, d_c) = (
        flow.log_prob_and_grad(rows, context, ("x", "context"))[1] for rows, context in ((blocks, given), (x, c))
    )
    assert_same_bits(d_blocks, d_x.reshape(blocks.shape))
    assert_same_bits(d_given, d_c.reshape(given.shape))
    turned = np.ascontiguousarray(given.transpose(1, 0, 2)).transpose(1, 0, 2)
    assert_same_bits(flow.log_prob(blocks, turned), flow.log_prob(blocks, given))


@each_conditional_case
def test_a_view_at_one_context_has_the_verbs_and_bits_of_the_flow(case: Case, backend: str) -> None:
    flow, x, c = prepared(case, backend, "float32", 7)
    flow = flow.copy()  # the case's own is everybody's
    view, one = flow.given(c[2]), c[2]
    ones = np.ones(7)
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("log_prob", (x,), {}), ("log_prob", (x[0],), {}), ("score", (x,), {}), ("to_latent", (x,), {}), ("to_data", (x,), {}),
        ("log_prob_and_grad", (x,), {"wrt": ("x", "context")}), ("log_prob_vjp", (x, ones), {}),
        ("to_latent_vjp", (x, x, ones), {}), ("to_data_vjp", (x, x, ones), {}),
        ("loss_and_grad", (x,), {"sample_weight": ones}), ("sample", (5,), {"rng": 1}),
        ("sample", (5,), {"rng": 1, "first": 2, "first_context": 3}), ("sample_and_log_prob", (5,), {"key": 4}),
    ]  # fmt: skip
    for verb, arguments, keywords in calls:
        got, expected = (
            getattr(view, verb)(*arguments, **keywords),
            getattr(flow, verb)(*arguments, context=one, **keywords),
        )
        for mine, theirs in zip(_leaves(got), _leaves(expected), strict=True):
            assert_same_bits(mine, theirs)
    out = np.zeros((3, flow.dim), "f4")
    assert view.sample(3, rng=0, out=out) is out
    assert (view.dim, view.dtype, view.columns) == (flow.dim, flow.dtype, None)
    # A view has every verb, and what its caller does to the array of the context changes nothing.
    context = np.array(one)
    kept = flow.given(context)
    context[:] = 9
    assert_same_bits(kept.log_prob(x), view.log_prob(x))
    flow.params = 0.5 * flow.params
    assert_same_bits(view.log_prob(x), flow.log_prob(x, one))
    assert_same_bits(view.log_prob(x[0]), flow.log_prob(x[0], one))
    assert_same_bits(pickle.loads(pickle.dumps(view)).log_prob(x), view.log_prob(x))


def _leaves(value: Any) -> list[Any]:
    return [leaf for part in value for leaf in _leaves(part)] if isinstance(value, tuple) else [value]


def test_a_view_lacks_no_verb() -> None:
    from penstock.parts import Parts

    verbs = {name for name, _ in inspect.getmembers(Parts, inspect.isfunction) if not name.startswith("_")}
    assert len(verbs) >= 19
    for verb in verbs:
        own = list(inspect.signature(getattr(ps.Given, verb)).parameters)
        assert own == [name for name in inspect.signature(getattr(Parts, verb)).parameters if name != "context"], verb


def test_a_view_needs_one_context() -> None:
    flow = ps.realnvp(2, context_dim=2, layers=2, hidden=(4,), rng=0)
    flow.context_columns = ("a", "b")
    assert repr(flow.given({"b": 2, "a": 0.5})) == "Flow of 2 dimensions given a=0.5, b=2"
    assert_same_bits(flow.given([[0.5, 2.0]]).context, np.array([0.5, 2.0]))
    for bad, words in (
        (np.zeros((3, 2)), r"one row, of shape \(2,\), got \(3, 2\)"), (None, "must be given"), ({"a": 1.0}, "lacks 'b'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            flow.given(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no context"):
        ps.realnvp(2, rng=0).given([1.0])


# -- fit ----------------------------------------------------------------------------------------


def test_a_context_goes_by_position_and_targets_are_refused() -> None:
    x, c = gaussian(200, "position"), gaussian(200, "position context")
    start = ps.realnvp(2, context_dim=2, layers=2, hidden=(4,), rng=0)
    assert_same_bits(
        start.copy().fit(x, c, epochs=1, rng=0).params, start.copy().fit(x, context=c, epochs=1, rng=0).params
    )
    plain = ps.realnvp(2, layers=2, hidden=(4,), rng=0)
    with pytest.raises(ValueError, match=r"this flow has none.*has no targets.*context_dim=1"):
        plain.fit(x, np.zeros(200))
    plain.fit(x, None, epochs=1)  # as a pipeline calls it
    with pytest.raises(TypeError, match="positional"):
        start.fit(x, c, np.ones(200))  # type: ignore[misc]


@each_backend
def test_patience_alone_means_the_plateau_schedule(backend: str) -> None:
    x = gaussian(300, "patience")
    start = ps.realnvp(2, layers=2, hidden=(4,), rng=0, backend=backend)
    arguments: dict[str, Any] = {"epochs": 30, "batch_size": 60, "rng": 0}
    alone = start.copy().fit(x, patience=3, **arguments)
    both = start.copy().fit(x, patience=3, schedule="plateau", **arguments)
    neither = start.copy().fit(x, **arguments)
    assert_same_bits(alone.params, both.params)
    assert alone.history.learning_rate == both.history.learning_rate
    assert neither.history.learning_rate == start.copy().fit(x, schedule="cosine", **arguments).history.learning_rate
    with pytest.raises(ValueError, match=r'patience.*schedule="cosine"'):
        start.copy().fit(x, schedule="cosine", patience=3, **arguments)


def test_the_docstring_of_fit_is_on_fit() -> None:
    text = inspect.getdoc(ps.Flow.fit) or ""
    for name in inspect.signature(ps.Flow.fit).parameters:
        assert name == "self" or f"\n{name} : " in text, name


@each_backend
def test_the_standardisation_is_shown(backend: str) -> None:
    x = gaussian(500, "shown", 3) * [1.0, 2.0, 3.0] + [5.0, 0.0, -5.0]
    flow = ps.realnvp(3, layers=2, hidden=(4,), rng=0, backend=backend)
    assert not flow.fitted
    assert_same_bits(flow.loc, np.zeros(3))
    assert_same_bits(flow.scale, np.ones(3))
    flow.fit(x, epochs=1, rng=0)
    assert flow.fitted
    assert flow.initialised
    np.testing.assert_allclose(flow.loc, x.mean(axis=0))
    np.testing.assert_allclose(flow.scale, x.std(axis=0))
    with pytest.raises(ValueError, match="read-only"):
        flow.loc[0] = 1
    assert "fitted" in repr(flow)
    assert "warm start" in repr(flow)


def test_masked_weights_are_no_parameters() -> None:
    flow = ps.nsf_ar(5, layers=2, hidden=(16,), rng=0)
    numbers = rng("free").uniform(1, 2, flow.n_params)
    flow.params = numbers
    assert flow.n_free == int((flow.params != 0).sum()) < flow.n_params
    assert f"{flow.n_free:,} parameters" in repr(flow)
    assert f"{flow.n_params:,}" not in repr(flow)
    layers = [int(line.rsplit(", ", 1)[1].split()[0].replace(",", "")) for line in repr(flow).splitlines() if "layer" in line
              and line.endswith("parameters")]  # fmt: skip
    assert sum(layers) == flow.n_free
    plain = ps.realnvp(3, rng=0)
    assert plain.n_free == plain.n_params


# -- the names at the top -----------------------------------------------------------------------


def test_a_flow_is_saved_by_a_function_too(tmp_path: Any) -> None:
    flow = ps.realnvp(2, rng=0)
    ps.save(flow, tmp_path / "flow")
    assert (tmp_path / "flow").read_bytes() == flow.to_bytes()
    with pytest.raises(TypeError, match="flow must be a Flow or an Ensemble, got PosixPath"):
        ps.save(tmp_path / "flow", flow)  # type: ignore[arg-type]


def test_modules_load_at_first_use_and_others_do_not_exist() -> None:
    python("""if True:
        import sys, penstock as ps
        assert "penstock.training" not in sys.modules and "penstock.demo" not in sys.modules
        assert callable(ps.training.run) and callable(ps.demo.galaxies) and callable(ps.cli.main)
        assert {"training", "demo", "cli", "Flow"} <= set(dir(ps))
        for name in ("train", "tensorflow"):
            try:
                getattr(ps, name)
            except AttributeError as error:
                assert name in str(error)
            else:
                raise AssertionError(name)
    """)


def test_versions_are_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_SETTING", "of a test")
    ps.show_versions()
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert lines["numpy"] == np.__version__
    assert lines["backend"].split()[0] == ps.realnvp(2).backend
    assert lines["threads"] == str(ps.num_threads())
    assert lines["PENSTOCK_SETTING"] == "of a test"
    assert {"penstock", "Python", "system", "narwhals", "pandas"} <= lines.keys()


class Own(ps.Flow):
    """A flow of somebody's own."""


def test_a_subclass_stays_one() -> None:
    flow = Own(ps.StandardNormal(2), [ps.Coupling(conditioner=ps.MLP((4,)))], rng=0)
    flow.columns = ("a", "b")
    twins = [
        flow.copy(),
        copy.copy(flow),
        copy.deepcopy(flow),
        pickle.loads(pickle.dumps(flow)),
        flow.astype("float64"),
    ]
    twins += [flow.reset(0), flow.fit(gaussian(100, "own"), epochs=1)]
    assert [type(twin) for twin in twins] == [Own] * 7
    assert [twin.columns for twin in twins[:5]] == [("a", "b")] * 5


def test_what_people_catch_and_annotate_is_exported() -> None:
    for name in ("History", "TrainingState", "TrainingError", "Given", "Marginal", "Conditional"):
        assert name in ps.__all__
        assert isinstance(getattr(ps, name), type)
    assert set(ps.__all__) == {name for name in ps.__all__ if hasattr(ps, name)}


def test_score_weighs_rows_as_fit_does() -> None:
    flow, x = ps.nsf_ar(2, rng=0), np.random.default_rng(0).standard_normal((50, 2))
    w = np.random.default_rng(1).uniform(0, 3, 50)
    expected = np.average(flow.log_prob(x).astype(np.float64), weights=w)
    assert abs(flow.score(x, sample_weight=w) - expected) < 1e-6
    assert flow.score(x, sample_weight=1e-300 * w) == pytest.approx(expected, abs=1e-6)
    assert flow.score(x, sample_weight=1e307 * w) == pytest.approx(expected, abs=1e-6)
    assert flow.score(x, sample_weight=np.full(50, 2.0)) == pytest.approx(flow.score(x), abs=1e-12)
    loss, mass, _ = flow.loss_and_grad(x, sample_weight=w)
    assert -loss / mass == pytest.approx(expected, abs=1e-5)
    w[3], x[3] = 0.0, np.nan
    assert np.isfinite(flow.score(x, sample_weight=w))
    assert np.isnan(flow.score(x, sample_weight=np.zeros(50)))
    with pytest.raises(ValueError, match=r"sample_weight must have shape \(50,\)"):
        flow.score(x, sample_weight=w[:3])


def test_a_door_without_its_package_says_how_to_install_it() -> None:
    code = """if True:
        import sys
        sys.modules["dask"] = None
        import penstock as ps
        try:
            ps.dask.sample(ps.realnvp(2, rng=0), 3)
        except ImportError as error:
            print(error)
    """
    assert "pip install 'penstock[dask]'" in python(code).stdout
