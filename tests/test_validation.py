"""Bad input: a clear error that names the argument, what was expected and what came, and nothing lost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, BY_NAME, built, fresh, points, rng
from helpers import assert_same_bits, each_backend, python

Array = np.ndarray[Any, Any]

CASE = BY_NAME["coupling"]  # dim 5


@pytest.fixture(params=BACKENDS)
def flow(request: pytest.FixtureRequest) -> ps.Flow:
    return built(CASE, request.param, "float32")


ROWS_VERBS: dict[str, Callable[[ps.Flow, Any], Any]] = {
    "log_prob": lambda flow, x: flow.log_prob(x),
    "score": lambda flow, x: flow.score(x),
    "to_latent": lambda flow, x: flow.to_latent(x),
    "to_data": lambda flow, x: flow.to_data(x),
    "log_prob_and_grad": lambda flow, x: flow.log_prob_and_grad(x),
    "loss_and_grad": lambda flow, x: flow.loss_and_grad(x),
    "fit": lambda flow, x: flow.copy().fit(x, epochs=1),
}

BAD_ROWS: dict[str, tuple[Any, type[Exception], str]] = {
    "too narrow": (np.zeros((17, 2)), ValueError, r"5.*\(17, 2\)"),
    "too wide": (np.zeros((17, 6)), ValueError, r"5.*\(17, 6\)"),
    "a scalar": (np.float64(3), ValueError, r"5.*\(\)"),
    "four axes": (np.zeros((2, 2, 2, 5)), ValueError, r"5.*\(2, 2, 2, 5\)"),
    "rows as columns": (np.zeros((5, 17)), ValueError, r"5.*\(5, 17\)"),
    "complex": (np.zeros((3, 5), complex), TypeError, "complex"),
    "object": (np.full((3, 5), None), TypeError, "object"),
    "strings": (np.full((3, 5), "1.0"), TypeError, "str|<U"),
    "bytes": (np.full((3, 5), b"1.0"), TypeError, r"bytes|\|S"),
    "dates": (np.zeros((3, 5), "datetime64[s]"), TypeError, "datetime"),
    "records": (np.zeros((3, 5), [("a", "f4")]), ValueError, "."),
    "ragged list": ([[1.0] * 5, [1.0] * 4], (ValueError, TypeError), "."),  # type: ignore[dict-item]
    "a word": ("hello", TypeError, "."),
    "None": (None, TypeError, "."),
    "a dict": ({"a": 1}, ValueError, "."),
}


@pytest.mark.parametrize("verb", ROWS_VERBS)
@pytest.mark.parametrize("bad", BAD_ROWS)
def test_bad_rows_are_refused_by_name(flow: ps.Flow, verb: str, bad: str) -> None:
    value, kind, what = BAD_ROWS[bad]
    with pytest.raises(kind, match=rf"(?s)\b[Xxz]\b.*({what})"):
        ROWS_VERBS[verb](flow, value)


@pytest.mark.parametrize("verb", ROWS_VERBS)
def test_a_context_for_a_flow_without_one_is_refused(flow: ps.Flow, verb: str) -> None:
    x = np.zeros((4, 5), np.float32)
    with pytest.raises(ValueError, match="context"):
        getattr(flow.copy(), verb)(x, context=np.zeros(2))
    with pytest.raises(ValueError, match="context"):
        flow.sample(3, context=np.zeros(2))


@pytest.mark.parametrize(
    ("arguments", "kind", "what"),
    [
        ({"dim": 0}, ValueError, "dim.*0"),
        ({"dim": -1}, ValueError, "dim.*-1"),
        ({"dim": 2.5}, TypeError, "dim.*float"),
        ({"dim": "3"}, TypeError, "dim.*str"),
        ({"dim": 3, "layers": 0}, ValueError, "layers"),
        ({"dim": 3, "layers": "two"}, TypeError, "layers"),
        ({"dim": 3, "hidden": (0,)}, ValueError, "hidden.*0"),
        ({"dim": 3, "hidden": (8.5,)}, TypeError, "hidden.*float"),
        ({"dim": 3, "hidden": 8.5}, TypeError, "hidden must be an integer or a sequence.*8.5"),
        ({"dim": 3, "hidden": None}, TypeError, "hidden must be an integer or a sequence.*None"),
        ({"dim": 3, "hidden": "64"}, TypeError, "hidden must be an integer or a sequence.*'64'"),
        ({"dim": 3, "activation": "sine"}, ValueError, "activation.*sine"),
        ({"dim": 3, "dtype": "float16"}, (ValueError, TypeError), "dtype.*float16"),
        ({"dim": 3, "dtype": "int"}, (ValueError, TypeError), "dtype.*int"),
        ({"dim": 3, "backend": "gpu"}, ValueError, "backend.*gpu"),
        ({"dim": 3, "scale_bound": 0.0}, ValueError, "scale_bound.*0"),
        ({"dim": 3, "scale_bound": float("nan")}, ValueError, "scale_bound.*nan"),
        ({"dim": 3, "scale_bound": 1e-39}, ValueError, "scale_bound must be at least 1e-06, got 1e-39"),
        ({"dim": 3, "scale_bound": True}, TypeError, "scale_bound must be a number, got True"),
        ({"dim": 3, "scale_bound": np.True_}, TypeError, "scale_bound must be a number"),
        ({"dim": 3, "rng": "seed"}, (TypeError, ValueError), "."),
    ],
)
def test_bad_recipe_arguments_are_refused_by_name(arguments: dict[str, Any], kind: Any, what: str) -> None:
    with pytest.raises(kind, match=what):
        ps.realnvp(**arguments)


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda: ps.Coupling(split="middle"), "split.*middle"),
        (lambda: ps.Coupling(explicit="sideways"), "explicit.*sideways"),
        (lambda: ps.Coupling(split=(0, -1)), "split.*-1"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.Coupling(split=(0, 1, 2))]), "split"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.Coupling(split=(0, 3))]), "split"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.Coupling(split=(0, 0))]), "split"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.Permutation((0, 1))]), "order"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.Permutation((0, 1, 1))]), "order"),
        (lambda: ps.Flow(ps.StandardNormal(1), [ps.Coupling()]), "dim=1"),
        (lambda: ps.MLP((8, 16), residual=True), "hidden.*equal"),
    ],
)
def test_bad_specs_are_refused_by_name(build: Callable[[], Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        build()


@pytest.mark.parametrize("hidden", [None, 3.5, "64"])
def test_hidden_widths_of_another_kind_are_refused_by_name(hidden: Any) -> None:
    with pytest.raises(TypeError, match=r"hidden must be an integer or a sequence of integers"):
        ps.MLP(hidden)


@pytest.mark.parametrize("hidden", [8, np.int64(8), [8], np.array([8]), (np.int32(8),)], ids=repr)
def test_hidden_widths_are_any_integers(hidden: Any) -> None:
    assert ps.MLP(hidden) == ps.MLP((8,))
    for recipe in (ps.realnvp, ps.nice, ps.glow):
        assert recipe(3, layers=2, hidden=hidden, rng=0).spec == recipe(3, layers=2, hidden=(8,), rng=0).spec


@each_backend
def test_the_smallest_scale_bound_gives_densities(backend: str) -> None:
    flow = ps.realnvp(3, layers=2, hidden=(8,), scale_bound=1e-6, rng=0, backend=backend)
    flow.params = rng("bound").standard_normal(flow.n_params)
    assert np.isfinite(flow.log_prob(rng("bound rows").standard_normal((100, 3)))).all()


@pytest.mark.parametrize("n", [-1, 2.5, "3"])
def test_a_bad_number_of_samples_is_refused(flow: ps.Flow, n: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"\bn\b"):
        flow.sample(n)


@pytest.mark.parametrize(
    "out",
    [np.zeros(3, np.float32), np.zeros(4, np.float64), np.zeros(8, np.float32)[::2], np.zeros(4, np.int32), [0.0] * 4],
    ids=["too short", "another dtype", "strided", "integers", "a list"],
)
def test_an_unfit_out_is_refused(flow: ps.Flow, out: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="out"):
        flow.log_prob(np.zeros((4, 5), np.float32), out=out)


def test_a_read_only_out_is_refused(flow: ps.Flow) -> None:
    out = np.zeros(4, np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        flow.log_prob(np.zeros((4, 5), np.float32), out=out)
    assert (out == 0).all()


@pytest.mark.parametrize(
    "value",
    [
        lambda n: np.zeros(n - 1),
        lambda n: np.zeros((n, 1)),
        lambda n: np.full(n, np.nan),
        lambda n: np.zeros(n, complex),
    ],
    ids=["too short", "two axes", "NaN", "complex"],
)
def test_bad_parameters_are_refused_and_the_flow_keeps_its_own(flow: ps.Flow, value: Callable[[int], Array]) -> None:
    own = flow.copy()
    x = points(CASE, 10, own)
    before, log_prob = own.params.copy(), own.log_prob(x)
    with pytest.raises((ValueError, TypeError), match="params"):
        own.params = value(own.n_params)
    assert_same_bits(own.params, before)
    assert_same_bits(own.log_prob(x), log_prob)


def test_the_parameters_one_reads_cannot_be_written(flow: ps.Flow) -> None:
    with pytest.raises(ValueError, match="read-only"):
        flow.params[0] = 1.0
    for value in dict(flow.named_params()).values():
        assert not value.flags.writeable


# -- fit ----------------------------------------------------------------------------------------


def _unchanged(flow: ps.Flow, call: Callable[[ps.Flow], Any], kind: Any, what: str) -> None:
    """``call`` raises, and the flow is what it was."""
    own = fresh(CASE, flow._backend.name, "float32")
    before, buffers = own.params.copy(), np.array(own._snapshot.buffers)
    with pytest.raises(kind, match=what):
        call(own)
    assert_same_bits(own.params, before)
    assert_same_bits(np.array(own._snapshot.buffers), buffers)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_fit_says_how_many_rows_are_not_finite_and_where_the_first_is(flow: ps.Flow, value: float) -> None:
    x = points(CASE, 100, flow)
    x[17, 3] = x[17, 4] = x[60, 0] = value
    _unchanged(flow, lambda own: own.fit(x), ValueError, r"2 rows.*row 17.*column 3")


@pytest.mark.parametrize(
    ("arguments", "kind", "what"),
    [
        ({"epochs": 0}, ValueError, "epochs"),
        ({"epochs": 1.5}, TypeError, "epochs"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate"),
        ({"schedule": "linear"}, ValueError, "schedule.*linear"),
        ({"weight_decay": -1.0}, ValueError, "weight_decay"),
        ({"clip_norm": 0.0}, ValueError, "clip_norm"),
        ({"patience": 0, "schedule": "plateau"}, ValueError, "patience"),
        ({"validation": 1.0}, ValueError, "validation"),
        ({"validation": -0.1}, ValueError, "validation"),
        ({"validation": np.zeros((3, 4))}, ValueError, r"validation.*\(3, 4\)"),
        ({"validation": np.full((3, 5), np.nan)}, ValueError, "validation.*3 rows"),
        ({"validation": np.zeros((0, 5))}, ValueError, "validation"),
        ({"standardize": "median"}, ValueError, "standardize.*median"),
        ({"sample_weight": np.ones(99)}, ValueError, "sample_weight.*99"),
        ({"sample_weight": np.ones((100, 1))}, ValueError, "sample_weight"),
        ({"sample_weight": np.zeros(100)}, ValueError, "sum.*sample_weight"),
        ({"sample_weight": -np.ones(100)}, ValueError, "sample_weight"),
        ({"sample_weight": np.full(100, np.nan)}, ValueError, "sample_weight"),
        ({"sample_weight": np.full(100, np.inf)}, ValueError, "sample_weight"),
        ({"sample_weight": np.full(100, "1")}, TypeError, "sample_weight"),
        ({"checkpoint": "no/such/folder/model.safetensors"}, OSError, "no/such/folder"),
        ({"checkpoint": "."}, OSError, "folder|directory"),
        ({"callbacks": 3}, TypeError, "callbacks must be a callable.*got 3"),
        ({"callbacks": [print, 3]}, TypeError, r"callbacks\[1\] must be a callable, got 3"),
        ({"callbacks": "stop"}, TypeError, "callbacks.*'stop'"),
    ],
)
def test_bad_fit_arguments_are_refused_before_anything_is_trained(
    flow: ps.Flow, arguments: dict[str, Any], kind: Any, what: str
) -> None:
    x = points(CASE, 100, flow)
    _unchanged(flow, lambda own: own.fit(x, **{"epochs": 1, **arguments}), kind, what)


def test_fit_refuses_zero_rows(flow: ps.Flow) -> None:
    _unchanged(flow, lambda own: own.fit(np.zeros((0, 5))), ValueError, r"rows.*\(0, 5\)")


def test_fit_on_one_row_says_what_to_do_and_works_without_validation(flow: ps.Flow) -> None:
    _unchanged(flow, lambda own: own.fit(np.zeros((1, 5))), ValueError, "1 row.*validation")
    own = flow.copy().reset(0)
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        own.fit(np.ones((1, 5)), validation=0, epochs=3)
    assert any("training rows (1)" in str(warning.message) for warning in caught)
    assert np.isfinite(own.log_prob(np.ones((1, 5)))).all()


def test_fewer_rows_than_a_batch_are_one_batch(flow: ps.Flow) -> None:
    x = points(CASE, 30, flow)
    own = flow.copy().fit(x, batch_size=1000, epochs=3, validation=0)
    assert own.history.step[-1] == 3
    assert not np.array_equal(own.params, flow.params)


@each_backend
@pytest.mark.parametrize("how", [True, "robust"])
def test_constant_columns_are_named_and_survived(backend: str, how: Any) -> None:
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, backend=backend)
    x = rng("constant").standard_normal((100, 3))
    x[:, 1] = 7
    with pytest.warns(UserWarning, match="column 1.*constant"):
        flow.fit(x, epochs=2, batch_size=50, standardize=how)
    assert np.isfinite(flow.log_prob(x)).all()
    assert np.isfinite(flow.sample(100, rng=0)).all()


@each_backend
@pytest.mark.parametrize("how", [True, "robust"])
@pytest.mark.parametrize("spread", [1e-200, 1e-290])
def test_a_very_narrow_column_is_not_called_constant(backend: str, how: Any, spread: float) -> None:
    x = rng("narrow").standard_normal((200, 2))
    small, flows = ps.Coupling(ps.Affine(), ps.MLP((8,))), []
    for width in (1.0, spread):
        flow = ps.Flow(ps.StandardNormal(2), [small], dtype="float64", rng=0, backend=backend)
        flows.append(flow.fit(x * [1, width], epochs=2, batch_size=50, standardize=how, rng=0))
    # The flow cannot tell: only the scale and the density have another unit.
    np.testing.assert_allclose(
        flows[1]._snapshot.buffers, flows[0]._snapshot.buffers * np.tile([1, spread], 2), rtol=1e-12
    )
    np.testing.assert_allclose(flows[1].params, flows[0].params, rtol=1e-6, atol=1e-9)
    shifted = flows[1].log_prob(x * [1, spread]) + np.log(spread)
    np.testing.assert_allclose(shifted, flows[0].log_prob(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("how", [True, "robust"])
def test_a_column_too_narrow_to_divide_by_is_named(flow: ps.Flow, how: Any) -> None:
    x = rng("too narrow").standard_normal((200, 5))
    x[:, 3] *= 1e-310
    own = flow.copy().reset(0)
    before = own.params.copy()
    with pytest.raises(ValueError, match=r"column 3 of X.*too small"):
        own.fit(x, standardize=how)
    assert not own.initialised
    assert_same_bits(own.params, before)


@pytest.mark.parametrize("how", [True, "robust"])
def test_a_column_of_one_odd_value_is_not_constant(flow: ps.Flow, how: Any) -> None:
    x = rng("one odd").standard_normal((30_000, 5))
    x[:, 2] = 1.0
    x[17, 2] = 1.5  # "robust" sees a sample, with this row or without
    own = flow.copy().reset().fit(x, epochs=1, batch_size=5000, validation=0, standardize=how, rng=1)
    assert np.isfinite(own.log_prob(x)).all()


@each_backend
def test_a_column_of_zeros_and_an_actnorm_do_not_divide_by_zero(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(2), [ps.ActNorm()], rng=0, backend=backend)
    x = np.stack([rng("zeros").standard_normal(50), np.zeros(50)], 1)
    flow.fit(x, epochs=1, batch_size=10, standardize=False)
    assert np.isfinite(flow.params).all()


# -- choosers -----------------------------------------------------------------------------------


def test_an_unknown_forced_backend_is_an_error_that_names_it() -> None:
    done = python("import penstock as ps; ps.realnvp(2)", env={"PENSTOCK_BACKEND": "abacus"}, check=False)
    assert done.returncode != 0
    assert "abacus" in done.stderr
    assert "PENSTOCK_BACKEND" in done.stderr


@pytest.mark.skipif("cpp" not in BACKENDS, reason="instruction sets are a choice of the compiled backend")
@pytest.mark.parametrize("isa", ["z80", "AVX2", "neon", "avx512"])
def test_an_absent_forced_instruction_set_is_an_error_that_lists_the_present_ones(isa: str) -> None:
    from penstock import _core

    if isa in _core.isas():
        done = python(
            "import penstock as ps; print(ps.realnvp(2)._backend.isa())",
            env={"PENSTOCK_ISA": isa, "PENSTOCK_BACKEND": "cpp"},
        )
        assert done.stdout.strip() == isa
        return
    done = python(
        "import penstock as ps; ps.realnvp(2)", env={"PENSTOCK_ISA": isa, "PENSTOCK_BACKEND": "cpp"}, check=False
    )
    assert done.returncode != 0
    assert f"PENSTOCK_ISA={isa}" in done.stderr
    assert all(present in done.stderr for present in _core.isas())


@pytest.mark.parametrize("n", [0, -1, 2.5, "two"])
def test_a_bad_number_of_threads_is_refused(n: Any) -> None:
    before = ps.num_threads()
    with pytest.raises((ValueError, TypeError), match=r"thread|\bn\b"):
        ps.set_num_threads(n)
    with pytest.raises((ValueError, TypeError), match=r"thread|\bn\b"), ps.threads(n):
        pass
    assert ps.num_threads() == before


def test_the_context_manager_restores_the_threads_after_an_error() -> None:
    before = ps.num_threads()

    def fail() -> None:
        with ps.threads(before + 1):
            assert ps.num_threads() == before + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert ps.num_threads() == before


@pytest.mark.parametrize("name", ["no/such/file.safetensors", "."])
def test_a_file_that_is_not_there_is_an_os_error_with_its_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"such|irectory|folder"):
        ps.load(tmp_path / name)


# -- one number for many rows -------------------------------------------------------------------

COTANGENTS: dict[str, tuple[Any, Callable[[Any, Any, Any], Any]]] = {
    "dlogp": (ps.Flow.log_prob_vjp, lambda flow, x, one: flow.log_prob_vjp(x, one)),
    "dlog_det": (ps.Flow.to_latent_vjp, lambda flow, x, one: flow.to_latent_vjp(x, None, one)),
    "dlog_det ": (ps.Flow.to_data_vjp, lambda flow, x, one: flow.to_data_vjp(x, None, one)),
    "sample_weight": (ps.Flow.loss_and_grad, lambda flow, x, one: flow.loss_and_grad(x, sample_weight=one)),
    "dlog_det  ": (ps.ops.backward, lambda _, x, one: ps.ops.backward(ps.Additive(), x, x[..., None], None, one)),
    "dlog_prob": (ps.ops.log_prob_backward, lambda _, x, one: ps.ops.log_prob_backward(ps.StandardNormal(5), x, one)),
}


@pytest.mark.parametrize("name", COTANGENTS)
def test_a_number_is_for_one_row_alone_and_the_docstring_says_so(name: str) -> None:
    verb, call = COTANGENTS[name]
    flow = built(CASE, BACKENDS[0], "float64")
    x = points(CASE, 3, flow)
    call(flow, x[0], 0.5)
    call(flow, x, np.full(3, 0.5))
    with pytest.raises(ValueError, match=name.strip()):
        call(flow, x, 0.5)
    given = verb.__doc__.split("Returns")[0]
    assert f"{name.strip()} : array" in given
    assert "number for one row by itself" in " ".join(given.split())
    assert f"{name.strip()} : scalar" not in given


# -- NumPy's error state ------------------------------------------------------------------------


@each_backend
def test_the_callers_error_state_of_numpy_raises_nothing(backend: str) -> None:
    """What overflows or vanishes in the arithmetic of a flow is part of it, whatever NumPy does about its own."""
    for dtype in ("float32", "float64"):
        flow = fresh(CASE, backend, dtype)
        x = points(CASE, 6, flow).astype(np.float64)
        wild = x.copy()
        wild[0], wild[1], wild[2, 1] = 1e300, -1e-300, np.nan
        tiny = np.full(6, 1e-60)
        with np.errstate(all="ignore"):
            narrow = wild.astype(dtype)
        with np.errstate(all="raise"):
            for rows in (x, wild, x.astype(np.longdouble)):
                flow.log_prob(rows)
                flow.score(rows)
                flow.to_latent(rows)
                flow.to_data(rows)
                flow.log_prob_and_grad(rows)
                flow.log_prob_vjp(rows, tiny)
                flow.to_latent_vjp(rows, np.full(rows.shape, 1e-60), tiny)
                flow.loss_and_grad(rows, sample_weight=np.full(6, 1e-305))
            flow.params = np.full(flow.n_params, 1e-60)
            assert flow.copy().astype("float32").dtype == np.float32
            flow.sample(5, rng=0)
            ps.from_bytes(flow.to_bytes())
            ps.realnvp(3, rng=0, dtype=dtype, backend=backend)
            running = np.full(6, -np.inf, dtype)
            ps.ops.forward(ps.Affine(), x, np.full((5, 2), 1e-60), backend=backend)
            ps.ops.forward(ps.Affine(), narrow, np.full((5, 2), 700.0, dtype), running, backend=backend)
            ps.ops.backward(ps.Affine(), wild, np.full((5, 2), 1e-60), None, tiny, backend=backend)
            ps.ops.log_prob(ps.StandardNormal(5), wild, backend=backend)
            ps.ops.lu_log_det(np.diag([1e308, 1e308, -1e308]))


def test_a_module_that_another_thread_is_importing_hinders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ps.realnvp(2, layers=2, hidden=(4,), rng=0)
    x = rng("importing").standard_normal((3, flow.dim))
    with pytest.raises(TypeError, match="X has masked entries"):
        flow.log_prob(np.ma.masked_less(x, x.min() + 1e-9))
    wanted = flow.log_prob(x)
    monkeypatch.setitem(sys.modules, "numpy.ma", ModuleType("numpy.ma"))
    assert_same_bits(flow.log_prob(x), wanted)
