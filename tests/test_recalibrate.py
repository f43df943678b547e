"""Recalibration: one more layer at the latent end, which is found where it is known, and a flow with it is one like any other."""

from __future__ import annotations

import copy
import logging
import math
import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import assign
from helpers import assert_same_bits, derivative, each_backend_numba_in_ci
from penstock import _validate
from penstock.lattice import Lattice
from penstock.recalibrate import LatentEnd, Rows
from penstock.training.dequantize import as_seen

Array = np.ndarray[Any, Any]

ROWS = 600
HOW = ("temperature", "pit")


def learned(flow: ps.Flow, seed: int = 1, size: float = 0.15) -> ps.Flow:
    """The flow with random numbers in all its places, and its columns and contexts scaled."""
    generator = np.random.default_rng(seed)
    flow.params = flow.params + size * generator.normal(size=flow.n_params)
    buffers = np.array(flow._snapshot.buffers)
    d, c = flow.dim, flow.context_dim
    buffers[:d], buffers[d : 2 * d] = 0.3, 1.7
    buffers[2 * d : 2 * d + c], buffers[2 * d + c : 2 * (d + c)] = -0.2, 0.8
    assign(flow, buffers=buffers, initialised=True)
    return flow


def bases() -> dict[str, ps.Flow]:
    """Flows of each kind of latent side."""
    small: dict[str, Any] = {"layers": 2, "hidden": (6,), "dtype": "float64", "rng": 0}
    mixed = [ps.periodic(-1, 1), "positive", ps.interval(0, 2)]
    return {
        "lines": ps.nsf(3, **small),
        "permuted": ps.realnvp(3, mixing="reverse", **small),
        "mixed by LU": ps.glow(3, **small),
        "given": ps.nsf_ar(2, context_dim=2, **small),
        "circle, line, box": ps.nsf_ar(3, support=mixed, context_dim=1, **small),
        "circle, box": ps.nsf(2, support=mixed[::2], **small),
        "student t": ps.maf(2, base=ps.StudentT(2, df=3.0), **small),
        "base of a context": ps.nsf(
            2, base=ps.Normal(2, conditioner=ps.MLP((4,))), context_dim=2, embedding=ps.MLP((5,)), **small
        ),
        "mixture": ps.nsf(2, base=ps.GaussianMixture(2, components=2), **small),
        "float32": ps.nsf(2, **{**small, "dtype": "float32"}),
    }  # fmt: skip


BASES = tuple(bases())


@pytest.fixture(scope="module")
def flows() -> dict[tuple[str, str], tuple[ps.Flow, ps.Flow, Array, Any]]:
    """Each flow and the same recalibrated on rows that it is too narrow for, with these rows and contexts."""
    found = {}
    for name, flow in bases().items():
        learned(flow)
        context = np.random.default_rng(3).normal(size=(ROWS, flow.context_dim)) if flow.context_dim else None
        n = None if flow.context_dim else ROWS
        # Latents that are wider than the base has them, on lines.
        z, _ = flow.to_latent(flow.sample(n, context, rng=4), context)
        lines = [k == "line" for k in latent_kinds(flow)]
        X, _ = flow.to_data(np.where(lines, 1.25 * z, np.sign(z) * abs(z) ** 1.2), context)
        for how in HOW:
            if how == "temperature" and not any(lines):
                continue
            found[name, how] = flow, flow.recalibrate(X, context, how=how, rng=0), X, context
    return found


def latent_kinds(flow: ps.Flow) -> tuple[str, ...]:
    from penstock.spec import latent_kinds

    return latent_kinds(flow.spec)


CASES = [(name, how) for name in BASES for how in HOW if (name, how) != ("circle, box", "temperature")]


@pytest.mark.parametrize(("name", "how"), CASES, ids=[f"{name}-{how}" for name, how in CASES])
def test_a_recalibrated_flow_is_a_flow(flows: Any, name: str, how: str, tmp_path: Path) -> None:
    flow, new, X, context = flows[name, how]
    tolerance = 1e-9 if flow.dtype == np.float64 else 3e-4
    x, c = X[:7], None if context is None else context[:7]
    # One more ordinary layer, at the latent end; all others as they were.
    assert new.spec.layers[1:] == flow.spec.layers
    assert type(new.spec.layers[0]) is ps.Elementwise
    assert new.spec.base == flow.spec.base
    assert new.columns == flow.columns
    # It changes each latent by itself, and rising.
    z, log_det = flow.to_latent(x, c)
    w, new_log_det = new.to_latent(x, c)
    back, _ = new.to_data(w, c)
    np.testing.assert_allclose(back, x, rtol=100 * tolerance, atol=100 * tolerance)
    every, other = (part.to_latent(X, context)[0] for part in (flow, new))
    kinds = latent_kinds(flow)
    for j, kind in enumerate(kinds):
        if kind != "circle":
            order = np.argsort(every[:, j])
            assert (np.diff(other[order, j]) > -1e-5).all()
        if how == "temperature" and kind != "line":
            np.testing.assert_allclose(other[:, j], every[:, j], atol=tolerance)
    # Its log-determinant is that of the layer and of the rest.
    h = 1e-5
    scale = np.log(abs((every_shifted(new, z, h, x, c, flow) - every_shifted(new, z, -h, x, c, flow)) / (2 * h)))
    if flow.dtype == np.float64:
        np.testing.assert_allclose(new_log_det, log_det + scale.sum(axis=1), atol=1e-5)
    # Gradients, files, copies, pickles.
    value, grad = new.log_prob_and_grad(x, c)
    np.testing.assert_allclose(value, new.log_prob(x, c), atol=tolerance)
    if flow.dtype == np.float64:
        direction = np.random.default_rng(0).normal(size=x.shape)
        numeric = derivative(lambda t: new.log_prob(x + t * direction, c), 1e-5)
        np.testing.assert_allclose((grad * direction).sum(axis=1), numeric, rtol=2e-5, atol=2e-5)
    new.save(tmp_path / "flow.safetensors")
    for twin in (
        ps.load(tmp_path / "flow.safetensors"),
        new.copy(),
        copy.deepcopy(new),
        pickle.loads(pickle.dumps(new)),
    ):
        assert_same_bits(twin.log_prob(x, c), new.log_prob(x, c))
        assert twin.spec == new.spec
    assert str(pickle.loads(pickle.dumps(new)).recalibration) == str(new.recalibration)
    # What it was for.
    told = new.recalibration
    assert told.rows == ROWS
    assert told.before == pytest.approx(flow.score(X, context), abs=1e-3)
    assert new.score(X, context) > told.before
    if "line" in kinds:
        assert told.gain > told.gain_error
        k = list(told.levels).index(0.9)
        assert told.coverage_before[k] + 0.015 < told.coverage_after[k] or how == "pit"
        assert abs(told.coverage_after[k] - 0.9) < 4.2 * told.coverage_error[k]


def every_shifted(new: ps.Flow, z: Array, h: float, x: Array, c: Any, flow: ps.Flow) -> Array:
    """Each latent of the new flow where all latents of the old one are moved a bit: they do not read each other."""
    moved, _ = flow.to_data(z + h, c)
    return np.asarray(new.to_latent(moved, c)[0])


def test_the_temperature_of_a_normal_base_is_the_mean_square_of_latents() -> None:
    flow = learned(ps.nsf(3, layers=2, hidden=(6,), dtype="float64", rng=0))
    z = 0.8 * np.random.default_rng(0).normal(size=(1000, 3))
    X, _ = flow.to_data(z)
    new = flow.recalibrate(X, rng=0)
    exact = 1 / math.sqrt((z**2).mean())
    assert new.recalibration.scale == pytest.approx(exact, rel=1e-5)
    assert "too wide" in str(new.recalibration)
    theta = new.named_params()["layers.0.theta"]
    np.testing.assert_allclose(theta, np.tile([math.log(exact), 0.0], (3, 1)), atol=2e-5)
    # What it gains is known: E[(1 - s^2) |z|^2] / 2 + 3 log s with s = 1 / 0.8, less half a number's share of four fifths.
    gain = 3 * (math.log(1.25) + 0.5 * (0.64 - 1))
    assert abs(new.recalibration.gain - gain) < 4 * new.recalibration.gain_error
    # Weights: rows of weight 0 say nothing, and a weight of 2 is a row twice.
    weight = np.ones(1000)
    weight[:300], weight[300:400] = 0.0, 2.0
    exact = math.sqrt(weight.sum() / (weight @ (z**2).mean(axis=1)))
    assert flow.recalibrate(X, sample_weight=weight, rng=0).recalibration.scale == pytest.approx(exact, rel=1e-5)


def test_splines_mend_what_no_temperature_can() -> None:
    flow = ps.nsf(2, layers=2, hidden=(4,), dtype="float64", rng=0)
    rng = np.random.default_rng(0)
    X = np.column_stack([rng.exponential(size=3000) - 1, rng.normal(size=3000)])
    spline, scale = (flow.recalibrate(X, how=how, rng=0).recalibration if how == "pit" else None for how in ("pit", ""))
    assert scale is None
    assert spline is not None
    # The entropy of an exponential is 1, and that of the normal with its variance is 1.419.
    assert 0.3 < spline.gain < 0.42
    assert spline.gain > 20 * spline.gain_error


@pytest.mark.parametrize("how", HOW)
def test_a_flow_that_is_right_is_told_to_stay(how: str) -> None:
    flow = ps.nsf(2, layers=1, hidden=(4,), rng=0)
    X = np.random.default_rng(5).normal(size=(1500, 2))
    with pytest.warns(ps.TrainingWarning, match="did not help"):
        new = flow.recalibrate(X, how=how, rng=0)
    told = new.recalibration
    assert told is not None
    assert abs(told.gain) < 0.02
    assert (abs(told.coverage_before - told.levels) < 4 * told.coverage_error).all()


def test_members_of_an_ensemble_have_one_temperature() -> None:
    members = [learned(ps.nsf(2, layers=2, hidden=(6,), dtype="float64", rng=k), k + 1) for k in range(3)]
    ensemble = ps.Ensemble(members)
    ensemble.weights = [0.5, 0.3, 0.2]
    X = 1.4 * members[0].sample(1500, rng=0)
    new = ensemble.recalibrate(X, rng=0)
    told = new.recalibration
    assert told is not None
    assert told.scale < 1
    assert told.gain > 2 * told.gain_error
    assert len({float(member.named_params()["layers.0.theta"][0, 0]) for member in new.members}) == 1
    assert_same_bits(new.weights, ensemble.weights)
    assert ensemble.recalibration is None
    assert ensemble.members[0].spec.layers == members[0].spec.layers

    def score(log_scale: float) -> float:
        ends = [LatentEnd(member, Rows(X, None, None), "temperature") for member in members]
        return ensemble._rebuilt([end.parts(end.scaled(log_scale)) for end in ends]).score(X)

    at = math.log(told.scale)
    assert new.score(X) == pytest.approx(score(at), abs=1e-12)
    assert score(at) > max(score(at - 0.02), score(at + 0.02))
    with pytest.raises(ValueError, match="no latents in common"):
        ensemble.recalibrate(X, how="pit")


def test_rows_on_a_lattice_have_the_noise_of_the_training() -> None:
    flow = ps.nsf(2, layers=1, hidden=(4,), dtype="float64", rng=0)
    flow._lattice = own = Lattice(np.array([1.0, 0.0]), np.zeros(2))
    # With noise, the first column has variance 1: rounding and noise add a twelfth each.
    X = np.random.default_rng(3).normal(size=(3000, 2)) * [math.sqrt(5 / 6), 1.0]
    X[:, 0] = np.rint(X[:, 0])
    noised = as_seen(X, own, _validate.seed(0), ())
    exact = 1 / math.sqrt((noised**2).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.TrainingWarning)  # it is right already
        for model in (flow, ps.Ensemble([flow, flow])):
            told = model.recalibrate(X, rng=0).recalibration
            assert told is not None
            assert told.scale == pytest.approx(exact, rel=1e-5)
            assert told.before == pytest.approx(flow.score(noised), abs=1e-9)
            assert (abs(told.coverage_before - told.levels) < 4 * told.coverage_error).all()
        # Splines put nothing on the values of the lattice.
        new = flow.recalibrate(X, how="pit", rng=0)
        assert new.recalibration is not None
        assert abs(new.recalibration.gain) < 0.06
        other = X + np.random.default_rng(4).uniform(-0.5, 0.5, X.shape) * [1, 0]
        assert new.score(other) > flow.score(other) - 0.01
        # Rows that have noise already get no more.
        assert flow.recalibrate(other, rng=0).recalibration.before == pytest.approx(flow.score(other), abs=1e-9)  # type: ignore[union-attr]


def test_a_member_without_weight_says_nothing() -> None:
    members = [learned(ps.nsf(2, layers=1, hidden=(4,), dtype="float64", rng=k), k + 1) for k in range(2)]
    ensemble = ps.Ensemble(members)
    ensemble.weights = [1.0, 0.0]
    X = 1.4 * members[0].sample(500, rng=0)
    told, alone = (model.recalibrate(X, rng=0).recalibration for model in (ensemble, members[0]))
    assert told is not None
    assert alone is not None
    assert told.scale == pytest.approx(alone.scale, rel=1e-9)


def test_what_recalibration_did_is_forgotten_with_its_numbers() -> None:
    X = 1.3 * np.random.default_rng(0).normal(size=(300, 2))
    flow = ps.nsf_ar(2, layers=1, hidden=(4,), mixing="none", rng=0).recalibrate(X, rng=0)
    ensemble = ps.Ensemble([flow, flow]).recalibrate(1.3 * X, rng=0)
    for model in (flow, ensemble):
        told = model.recalibration
        assert told is not None
        assert model.marginal([0]).recalibration is None
        assert model.copy().reset(0).recalibration is None
        assert model.copy().recalibration is told
        seen: list[Any] = []
        fitted = model.copy().fit(X, epochs=1, rng=0, callbacks=[lambda state, seen=seen: seen.append(state.flow)])
        assert fitted.recalibration is None
        assert [own.recalibration for own in (*seen, *getattr(fitted, "members", ()))] == [None] * (
            1 if model is flow else 4
        )
        with pytest.raises(ValueError, match="X"):
            model.fit(X[:, :1])
        assert model.recalibration is told
    assert [member.recalibration for member in ensemble.members] == [None, None]
    quick: dict[str, Any] = {"epochs": 1, "epoch_steps": 2, "batch_size": 64, "validation": 64, "rng": 0}
    target = flow.copy().fit_to_target(lambda x: (-0.5 * (x**2).sum(axis=1), -x), **quick)
    assert target.recalibration is None


@each_backend_numba_in_ci
def test_backends_agree_on_a_recalibrated_flow(backend: str) -> None:
    flow = ps.realnvp(2, layers=2, hidden=(6,), dtype="float64", backend=backend, rng=0)
    X = 1.3 * np.random.default_rng(0).normal(size=(700, 2))
    other = ps.realnvp(2, layers=2, hidden=(6,), dtype="float64", rng=0)
    for how in HOW:
        a, b = (own.recalibrate(X, how=how, rng=0) for own in (flow, other))
        assert a.backend == backend
        np.testing.assert_allclose(a.params, b.params, atol=1e-6)
        np.testing.assert_allclose(a.log_prob(X), b.log_prob(X), atol=1e-6)


def test_a_recalibration_is_logged_and_names_of_columns_stay(caplog: pytest.LogCaptureFixture) -> None:
    flow = ps.nsf(2, layers=1, hidden=(4,), rng=0)
    flow.columns = ["a", "b"]
    X = 1.3 * np.random.default_rng(0).normal(size=(400, 2))
    with caplog.at_level(logging.INFO, "penstock"):
        new = flow.recalibrate({"b": X[:, 1], "a": X[:, 0]}, rng=0)
    assert str(new.recalibration) in caplog.text
    assert new.columns == ("a", "b")
    assert flow.recalibration is None
    assert flow.recalibrate(X, rng=0).recalibration.scale == new.recalibration.scale  # type: ignore[union-attr]
    again = new.fit(X, epochs=1, rng=0)  # trains like any flow
    assert len(again.history) == 1


@pytest.mark.parametrize(
    ("flow", "options", "words"),
    [
        ({}, {"rows": 99}, "at least 100 rows"),
        ({}, {"rows": 499, "how": "pit"}, "at least 500 rows"),
        ({}, {"rows": 600, "how": "pit", "sample_weight": np.r_[np.ones(10), 1e-3 * np.ones(590)]}, "by their weights"),
        ({}, {"how": "isotonic"}, "how must be"),
        ({}, {"sample_weight": -np.ones(600)}, "not be negative"),
        ({}, {"scale": 1e4}, "other units, or the flow is not trained for long enough"),
        ({}, {"scale": np.nan}, "X"),
        ({"support": "positive"}, {}, "no latents"),
        ({"support": ps.periodic(-1, 1)}, {}, "how='pit'"),
        ({"base": ps.Uniform(2)}, {"scale": 0.1}, "uniform base"),
    ],
)
def test_what_cannot_be_recalibrated_is_refused(flow: Any, options: Any, words: str) -> None:
    own = ps.nsf(2, layers=1, hidden=(4,), rng=0, **flow)
    rows, scale = options.pop("rows", 600), options.pop("scale", 1.0)
    X = scale * np.random.default_rng(0).normal(size=(rows, 2))
    with pytest.raises(ValueError, match=words):
        own.recalibrate(X, rng=0, **options)
