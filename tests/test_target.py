"""Targets instead of data: gradients of the lower bound, the pilot, and the promises of ``fit_to_target``."""

from __future__ import annotations

import math
import re
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, rng
from helpers import assert_same_bits, derivative, each_backend, each_backend_numba_in_ci, each_dtype
from penstock.training.contexts import as_contexts
from penstock.training.divergence import shares
from penstock.training.options import Options, TargetOptions
from penstock.training.pilot import DENSE, pilot
from penstock.training.target import TargetTraining

Array = np.ndarray[Any, Any]

LOG_2PI = math.log(2 * math.pi)


class Gaussian:
    """A normal density of random correlations and widths over decades, times e^3, and how often it was asked."""

    def __init__(self, dim: int, key: str, *, decades: float = 1.0) -> None:
        generator = rng("target", key)
        root = generator.normal(size=(dim, dim)) / math.sqrt(dim) + np.eye(dim)
        widths = 10 ** generator.uniform(-decades, decades, dim)
        self.mean = generator.normal(0, 3, dim) * widths
        self.covariance = widths[:, None] * (root @ root.T) * widths
        self.precision = np.linalg.inv(self.covariance)
        self.log_constant = 3 - 0.5 * (dim * LOG_2PI + np.linalg.slogdet(self.covariance)[1])
        self.rows = 0

    def __call__(self, x: Array) -> tuple[Array, Array]:
        self.rows += len(x)
        u = x - self.mean
        slope = -u @ self.precision
        return 0.5 * (u * slope).sum(axis=1) + self.log_constant, slope


def banana(x: Array) -> tuple[Array, Array]:
    """A bent density in two dimensions, whose integral is 1."""
    a, b = x[:, 0], x[:, 1] - 0.5 * x[:, 0] ** 2
    slope = np.stack([-a + x[:, 0] * b / 0.25, -b / 0.25], axis=1)
    return -0.5 * a**2 - 0.5 * b**2 / 0.25 - LOG_2PI - math.log(0.5), slope


# A few steps leave weights of any kind.
uneven = pytest.mark.filterwarnings("ignore::penstock.TargetWarning")

SHORT: dict[str, Any] = {"epochs": 3, "epoch_steps": 10, "batch_size": 32, "validation": 64}


def small(dim: int = 2, **options: Any) -> ps.Flow:
    return ps.realnvp(dim, layers=2, hidden=(8,), **{"rng": 0, **options})


def training_of(flow: ps.Flow, target: Any, estimator: str, size: int = 40, context: Any = None) -> TargetTraining:
    """A run as ``fit_to_target`` begins it, on the numbers of a flow that an earlier fit has left."""
    fit = Options(
        epochs=1, batch_size=size, learning_rate=1e-3, schedule=None, warmup=None, weight_decay=0.0, clip_norm=None,
        patience=None, standardize=True, freeze=(),
    )  # fmt: skip
    options = TargetOptions(fit=fit, epoch_steps=1, estimator=estimator, validation=64)
    contexts = as_contexts(context, flow.context_dim)
    return TargetTraining(flow._runner(), flow._snapshot, target, options, flow._design(), 5, contexts)


def _bumps(dim: int) -> Callable[..., tuple[Array, Array]]:
    """A smooth function of rows, and of contexts if they come, which need not be a density."""

    def target(x: Array, *context: Array) -> tuple[Array, Array]:
        a = np.linspace(0.3, 0.8, dim)
        shift = context[0].sum(axis=1, keepdims=True) if context else 0.0
        return (-np.log1p(a * x**2) + np.sin(a * x + shift)).sum(axis=1), -2 * a * x / (1 + a * x**2) + a * np.cos(
            a * x + shift
        )

    return target


SMOOTH = ps.RationalQuadratic(4), ps.MLP((8,), "tanh")
FLOWS: dict[str, Any] = {
    "coupling": lambda **k: ps.realnvp(2, layers=2, hidden=(8,), activation="tanh", rng=0, **k),
    "lu_splines": lambda **k: ps.nsf_ar(2, layers=2, hidden=(8,), activation="tanh", mixing="lu", rng=0, **k),
    "maf_actnorm": lambda **k: ps.Flow(
        ps.StandardNormal(2), [ps.ActNorm(), ps.Autoregressive(ps.Affine(), ps.MLP((8,), "tanh"))], rng=0, **k
    ),
    "half_lines": lambda **k: ps.Flow(
        ps.StandardNormal(3), [ps.Coupling(*SMOOTH), ps.Autoregressive(*SMOOTH)], rng=0,
        support=["positive", ps.interval(None, 2), ps.interval(-1, None)], **k
    ),
    "intervals": lambda **k: ps.Flow(
        ps.Normal(4), [ps.Autoregressive(*SMOOTH), ps.LULinear()], rng=0,
        support=[ps.interval(-1, 2, map="logit"), (0, 3), ps.periodic(-2, 5), "real"], **k
    ),
    "groups": lambda **k: ps.Flow(
        ps.GaussianMixture(6, 3), [ps.Coupling(*SMOOTH), ps.Permutation("reverse")], rng=0,
        support=[ps.ordered([0, 2], lo=-1), ps.simplex([1, 3]), {4: "positive", 5: (0, 1)}], **k
    ),
    "normal": lambda **k: ps.Flow(ps.Normal(3), [ps.Coupling(*SMOOTH)], rng=0, **k),
    "uniform": lambda **k: ps.Flow(ps.Uniform(2, -2.0, 3.0), [ps.Coupling(ps.Affine(), SMOOTH[1])], rng=0, **k),
    "student": lambda **k: ps.Flow(ps.StudentT(3, df=[2.0, 3.0, 50.0]), [ps.Coupling(*SMOOTH)], rng=0, **k),
    "mixture": lambda **k: ps.Flow(ps.GaussianMixture(2, components=3), [ps.Coupling(*SMOOTH)], rng=0, **k),
    "product": lambda **k: ps.Flow(
        ps.Product([ps.GaussianMixture(1, 2), ps.StudentT(1, 4.0), ps.GaussianMixture(2, 4)]), [ps.Coupling(*SMOOTH)], rng=0, **k
    ),
    "context": lambda **k: ps.Flow(
        ps.Product([ps.GaussianMixture(1, 2, ps.MLP((6,), "tanh")), ps.Normal(1, ps.MLP((6,), "tanh"))]),
        [ps.Coupling(*SMOOTH)], context_dim=2, embedding=ps.MLP((5,), "tanh"), rng=0, support=["positive", "real"], **k
    ),
}  # fmt: skip


def moved(name: str, backend: str, dtype: str = "float64") -> ps.Flow:
    """A flow of some kind with parameters away from their start."""
    flow: ps.Flow = FLOWS[name](dtype=dtype, backend=backend)
    flow.params = flow.params + rng("moved", name).normal(0, 0.2, flow.n_params)
    return flow


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=pytest.mark.slow if backend == "numba" else ())
        for backend in BACKENDS
        for name in (FLOWS if backend == "cpp" else ("lu_splines", "context"))
    ],
)
def test_both_estimators_are_gradients_with_what_decides_draws_held_fixed(name: str, backend: str) -> None:
    flow = moved(name, backend)
    target = _bumps(flow.dim)
    context = rng("contexts", name).normal(size=(13, 2)) if flow.context_dim else None
    run = training_of(flow, target, "reparameterised", context=context)
    frozen, start, buffers = flow._snapshot.pack(flow._runner()), flow.params.copy(), run.buffers
    direction = rng("direction", name).normal(size=flow.n_params) * (start != 0)

    def bound(h: float) -> Array:
        return np.asarray(run.divergence.estimate(start + h * direction, buffers, 3, 40).loss)

    def path(h: float) -> Array:  # the parameters inside log q do not move, those by which draws are made and weigh do
        packed = run.runner.pack(start + h * direction, buffers)
        batch = run.divergence.batch(packed, 3, 40)
        x, _ = run.runner.transform(packed, True, batch.z, batch.context)
        given = () if batch.context is None else (batch.context,)
        losses = run.runner.log_prob(frozen, x, batch.context) - target(x, *given)[0]
        return np.asarray(shares(np.ones(40, bool), batch.log_weight) @ losses)

    loss, grad = run.loss_and_grad(3)
    assert loss == pytest.approx(float(path(0.0)), rel=1e-9)
    expected = float(derivative(bound, 1e-6))
    assert float(grad @ direction) == pytest.approx(expected, rel=1e-6, abs=1e-7)
    loss, grad = training_of(flow, target, "path", context=context).loss_and_grad(3)
    assert loss == pytest.approx(float(bound(0.0)), rel=1e-12)
    assert float(grad @ direction) == pytest.approx(float(derivative(path, 1e-6)), rel=1e-6, abs=1e-7)
    assert abs(float(grad @ direction) - expected) > 1e-4  # the score, which the one leaves out


@pytest.mark.parametrize("n", [12, 13])
def test_every_batch_has_draws_of_every_component_and_shares_go_by_the_weights(n: int) -> None:
    flow = moved("product", "auto")
    run = training_of(flow, _bumps(4), "path")
    packed = flow._snapshot.pack(flow._runner())
    weights = [np.exp(named - np.logaddexp.reduce(named)) for named in
               (flow.named_params()["base.0.logit"], flow.named_params()["base.2.logit"])]  # fmt: skip
    pairs = np.zeros((2, 4))
    for step in range(1000):
        batch = run.divergence.batch(packed, step, n)
        assert batch.components is not None
        assert batch.log_weight is not None
        for own, count in zip(batch.components, (2, 4), strict=True):
            assert (abs(np.bincount(own, minlength=count) - n / count) < 1).all()
        np.add.at(pairs, tuple(batch.components), np.exp(batch.log_weight) / n / 1000)
    np.testing.assert_allclose(pairs, np.outer(*weights), atol=0.01)


@pytest.mark.parametrize("name", ["coupling", "mixture"])
def test_both_estimators_have_one_mean(name: str) -> None:
    flow, target = moved(name, "auto"), banana
    grads = {}
    for estimator in ("path", "reparameterised"):
        run = training_of(flow, target, estimator, 256)
        grads[estimator] = np.array([run.loss_and_grad(i)[1] for i in range(300)])
    mean = [grads[e].mean(axis=0) for e in grads]
    # The draws are the same, so that the difference has an error of its own.
    error = (grads["path"] - grads["reparameterised"]).std(axis=0) / math.sqrt(300)
    moving = error > 0
    pulls = (mean[0] - mean[1])[moving] / error[moving]
    assert moving.sum() > 30
    assert abs(pulls).max() < 5
    assert 0.7 < pulls.std() < 1.4
    assert abs(mean[0] / (error + 1e-12)).max() > 20  # there is something to agree on


@pytest.mark.parametrize("name", ["lu_splines", "half_lines", "intervals", "groups", "student", "product"])
def test_the_path_estimator_has_no_variance_at_the_target(name: str) -> None:
    flow = moved(name, "auto")

    def itself(x: Array) -> Any:
        return flow.log_prob_and_grad(x)

    sizes = []
    for estimator in ("path", "reparameterised"):
        run = training_of(flow, itself, estimator, 64)
        sizes.append(abs(run.loss_and_grad(0)[1]).max())
    assert sizes[0] < 1e-8 < 1e-3 < sizes[1]


@each_dtype
def test_the_latents_of_a_run_are_those_of_the_flow(dtype: str) -> None:
    flow = moved("coupling", "auto", dtype)
    run = training_of(flow, banana, "path")
    batch = run.divergence.batch(flow._snapshot.pack(flow._runner()), 2, 30)
    assert_same_bits(flow.to_data(batch.z)[0], flow.sample(30, key=run.seed, first=60))


# -- the pilot ------------------------------------------------------------------------------------


def keyed(dim: int) -> Any:
    return lambda first, n: rng("pilot", first).standard_normal((n, dim))


@pytest.mark.parametrize("decades", [0.0, 3.0])
def test_the_pilot_finds_means_and_marginal_widths(decades: float) -> None:
    target = Gaussian(12, "pilot", decades=decades)
    found = pilot(target, keyed(12), 12)
    assert found is not None
    widths = np.sqrt(np.diag(target.covariance))
    np.testing.assert_allclose(found.scale, widths, rtol=1e-3)
    assert (abs(found.loc - target.mean) < 1e-3 * widths).all()
    assert found.evaluations == target.rows
    assert found.root is not None
    relative = found.root @ found.root.T / np.outer(widths, widths)
    np.testing.assert_allclose(relative, target.covariance / np.outer(widths, widths), atol=1e-3)


def test_the_pilot_of_many_dimensions_has_no_correlations() -> None:
    dim = DENSE + 40
    widths, mean = 10 ** rng("many").uniform(-2, 2, dim), rng("means").normal(0, 3, dim)

    def target(x: Array) -> tuple[Array, Array]:
        slope = -(x - mean) / widths**2
        return 0.5 * (slope * (x - mean)).sum(axis=1), slope

    found = pilot(target, keyed(dim), dim)
    assert found is not None
    np.testing.assert_allclose(found.scale, widths, rtol=1e-2)
    assert (abs(found.loc - mean) < 1e-2 * widths).all()


def test_the_pilot_finds_its_way_along_a_ridge() -> None:
    # A line through points far away from 0, whose width is unknown: from afar the scores of the width hide all else.
    x = 4000 + np.linspace(-30, 30, 60)
    y = 9 + 0.02 * (x - 4000) + rng("ridge").normal(0, 1, 60)

    def target(u: Array) -> tuple[Array, Array]:
        residual = y - u[:, :1] - u[:, 1:2] * x
        precision = np.exp(-2 * u[:, 2])
        squares = (residual**2).sum(axis=1) * precision
        slopes = [residual.sum(axis=1) * precision, (residual * x).sum(axis=1) * precision, squares - 60]
        return -0.5 * squares - 60 * u[:, 2], np.stack(slopes, axis=1)

    found = pilot(target, keyed(3), 3)
    assert found is not None
    design = np.stack([np.ones(60), x], axis=1)
    (offset, slope), (rest,), *_ = np.linalg.lstsq(design, y)
    width = math.sqrt(rest / 60)
    expected = np.sqrt(np.diag(np.linalg.inv(design.T @ design))) * width
    np.testing.assert_allclose(found.scale[:2], expected, rtol=0.1)
    assert abs(found.loc[0] - offset) < 0.2 * expected[0]
    assert abs(found.loc[1] - slope) < 0.2 * expected[1]
    assert abs(found.loc[2] - math.log(width)) < 0.05


@pytest.mark.parametrize("explicit", ["to_latent", "to_data"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_linear_layer_begins_with_the_correlations(explicit: str, dtype: str) -> None:
    target = Gaussian(5, "linear", decades=2.0)
    layers = [
        ps.ActNorm(),
        ps.LULinear(explicit=explicit),
        ps.Permutation("random"),
        ps.Coupling(ps.Affine(), ps.MLP((8,))),
    ]
    flow = ps.Flow(ps.StandardNormal(5), layers, dtype=dtype, rng=0)
    flow.fit_to_target(target, learning_rate=1e-12, rng=0, **SHORT)
    assert abs(flow.history.elbo[-1] - 3) < 0.05  # ActNorm is started by 4096 rows, and 64 are validated
    frozen = ps.Flow(ps.StandardNormal(5), layers, dtype=dtype, rng=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.TargetWarning)
        frozen.fit_to_target(target, learning_rate=1e-12, freeze="layers.1", rng=0, **SHORT)
    assert frozen.history.elbo[-1] < 2.5
    assert not frozen.named_params()["layers.1.lu"].any()


def test_the_pilot_lives_with_a_target_that_is_zero_or_overflows_in_parts() -> None:
    def target(x: Array) -> tuple[Array, Array]:  # log-normal, on the positive half, which overflows far out
        with np.errstate(all="ignore"):
            u = np.log(x[:, 0])
            return np.where(x[:, 0] > 0, -0.5 * (u / 0.2) ** 2 - u, -np.inf), (-(u / 0.04) / x[:, 0] - 1 / x[:, 0])[
                :, None
            ]

    found = pilot(target, keyed(1), 1)
    assert found is not None
    assert 0.7 < found.loc[0] < 1.2
    assert 0.1 < found.scale[0] < 0.4
    assert pilot(lambda x: (np.full(len(x), np.nan), x), keyed(1), 1) is None


# -- training --------------------------------------------------------------------------------------


def test_the_lower_bound_of_ten_correlated_dimensions_is_within_a_hundredth_of_the_truth() -> None:
    target = Gaussian(10, "ten", decades=2.0)
    flow = ps.realnvp(10, layers=4, hidden=(32,), mixing="lu", rng=0)
    flow.fit_to_target(target, epochs=20, rng=0)
    history = flow.history
    assert abs(history.elbo[-1] - 3) < 1e-2
    found = ps.importance(flow, target, 5000, rng=1)
    assert abs(found.log_evidence - 3) < 1e-2
    assert found.ess > 4900
    assert re.match(r"a pilot of \d+ evaluations: mean \[", history.start)
    assert len(history.elbo) == len(history.elbo_error) == len(history.ess) == len(history.pareto_k) == 20
    assert history.stopped == "completed"
    assert history.step[-1] == 2000
    np.testing.assert_allclose(history.validation_loss, -np.array(history.elbo))


@uneven
@pytest.mark.parametrize("estimator", ["path", "reparameterised"])
def test_a_bent_density_is_learned(estimator: str) -> None:
    flow = ps.nsf_ar(2, layers=3, hidden=(64,), rng=0).fit_to_target(banana, estimator=estimator, epochs=20, rng=0)
    assert -0.05 < flow.history.elbo[-1] < 0.01
    found = ps.importance(flow, banana, 20_000, rng=1)
    assert abs(found.log_evidence) < 0.05
    assert found.ess > 14_000


@each_backend_numba_in_ci
@each_dtype
def test_the_seed_decides_every_bit_whatever_the_threads(backend: str, dtype: str) -> None:
    target = Gaussian(3, "bits")
    flows = []
    for threads, seed in ((1, 0), (2, 0), (1, 1)):
        flow = small(3, dtype=dtype, backend=backend)
        with ps.threads(threads):
            flows.append(flow.fit_to_target(target, rng=seed, init=(target.mean, 1.0), **{**SHORT, "batch_size": 300}))
    assert_same_bits(flows[0].params, flows[1].params)
    assert flows[0].history.elbo == flows[1].history.elbo
    assert (flows[0].params != flows[2].params).any()


@uneven
def test_init_is_rows_or_numbers() -> None:
    target = Gaussian(2, "init")
    rows = rng("init").normal([5, -2], [2, 0.1], (300, 2))
    flow = small().fit_to_target(target, init=rows, rng=0, **SHORT)
    np.testing.assert_allclose(flow.loc, rows.mean(axis=0))
    np.testing.assert_allclose(flow.scale, rows.std(axis=0))
    assert flow.history.start.startswith("300 rows of init: mean [")
    flow = small().fit_to_target(target, init=(1.5, [2, 3]), rng=0, **SHORT)
    assert flow.loc.tolist() == [1.5, 1.5]
    assert flow.scale.tolist() == [2, 3]
    before = target.rows
    later = flow.copy().fit_to_target(target, rng=0, **SHORT)
    assert target.rows - before == 3 * 10 * 32 + 4 * 64  # no pilot, and the start was measured
    assert_same_bits(later.loc, flow.loc)
    assert later.history.start == "an earlier fit"
    assert later.history.start_loss == -flow.history.elbo[-1]
    with pytest.raises(ValueError, match=r"init was given, but a later fit keeps.*flow\.reset"):
        flow.fit_to_target(target, init=rows, **SHORT)
    for init, words in (
        ((1.0, 0.0), "positive finite scale"), ((1.0, [1.0, 2.0, 3.0]), r"init\[1\] must have shape \(2,\)"),
        ((1, 2, 3), "tuple of 3"), (rows[:1], "at least 2 rows"), (np.zeros((9, 2)), "positive finite scale"),
        (rows[:, :1], r"init must have shape \(rows, 2\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            small().fit_to_target(target, init=init, **SHORT)  # type: ignore[arg-type]


@uneven
def test_actnorm_starts_from_what_was_found() -> None:
    target = Gaussian(3, "actnorm")
    flow = ps.glow(3, layers=2, hidden=(8,), rng=0)
    names = [name for name in flow.named_params() if name.endswith("theta")]
    flow.fit_to_target(target, freeze=(), learning_rate=1e-12, rng=0, **SHORT)
    rows = rng("wide").normal(flow.loc, 3 * flow.scale, (500, 3))
    wide = ps.glow(3, layers=2, hidden=(8,), rng=0)
    wide.fit_to_target(target, init=rows, learning_rate=1e-12, rng=0, **SHORT)
    z = wide.to_latent(rows)[0]
    assert names
    np.testing.assert_allclose(z.std(axis=0), 1, atol=0.1)


@uneven
def test_what_is_frozen_keeps_every_bit() -> None:
    flow = small()
    before = flow.params.copy()
    flow.fit_to_target(banana, freeze=["layers.0"], weight_decay=0.1, rng=0, **SHORT)
    named, old = flow.named_params(), small().named_params()
    assert (flow.params != before).any()
    for name in named:
        if name.startswith("layers.0"):
            assert_same_bits(named[name], old[name])


# -- promises of fit ---------------------------------------------------------------------------------


def state_of(flow: Any) -> tuple[bytes, bool, str]:
    return flow.to_bytes(), flow.initialised, repr(vars(flow.history))


class FailureError(Exception):
    """What a target raises."""


def test_a_target_that_raises_leaves_the_flow_and_hands_over_the_best() -> None:
    flow = small()
    before = state_of(flow)
    calls = 0

    def target(x: Array) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 * 11 + 3:
            raise FailureError("no licence")
        return banana(x)

    with pytest.raises(FailureError, match="no licence") as caught:
        flow.fit_to_target(target, init=(0, 1), rng=0, **SHORT)
    assert state_of(flow) == before
    error: Any = caught.value
    assert isinstance(error.best, ps.Flow)
    assert error.best.initialised
    assert np.isfinite(error.best.log_prob([[0.0, 0.0]])).all()
    assert len(error.history) == error.history.epoch[-1] == 2
    assert error.history.stopped == "failed"
    flow.fit_to_target(banana, rng=0, **SHORT)  # and may be fitted again

    with pytest.raises(FailureError) as early:
        small().fit_to_target(_raises)
    assert early.value.best is None  # type: ignore[attr-defined]


def _raises(x: Array) -> Any:
    raise FailureError


def test_an_epoch_of_which_a_part_was_noted_is_forgotten() -> None:
    run = training_of(moved("coupling", "auto"), banana, "path")
    run.history.epoch.append(1)
    run.history.elbo.append(0.0)
    run.settle("interrupted")
    assert run.history.epoch == run.history.elbo == []


@each_backend
def test_until_it_ends_the_flow_is_as_it_was_and_callbacks_see_copies(backend: str) -> None:
    flow = small(backend=backend)
    before, seen = state_of(flow), []

    def watch(state: ps.TrainingState) -> bool:
        assert state_of(flow) == before
        assert len(state.flow.history.elbo) == state.epoch
        assert state.validation_loss == -state.flow.history.elbo[-1]
        with pytest.raises(RuntimeError, match="another fit of this flow"):
            flow.fit_to_target(banana, **SHORT)
        state.flow.params = np.zeros(flow.n_params)
        seen.append(state.epoch)
        return state.epoch == 2

    flow.fit_to_target(banana, callbacks=watch, rng=0, **SHORT)
    assert seen == [1, 2]
    assert flow.history.stopped == "callback"
    plain = small(backend=backend).fit_to_target(banana, callbacks=lambda state: state.epoch == 2, rng=0, **SHORT)
    assert_same_bits(flow.params, plain.params)


def test_ctrl_c_keeps_the_best_so_far() -> None:
    flow, calls = small(), 0

    def target(x: Array) -> Any:
        nonlocal calls
        calls += 1
        if calls == 15:  # an epoch has 11
            signal.raise_signal(signal.SIGINT)
        return banana(x)

    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.warns(ps.TrainingWarning, match="interrupted after 13 steps; the flow keeps those of epoch 1"):
            flow.fit_to_target(target, init=(0, 1), rng=0, **SHORT)
        assert flow.history.stopped == "interrupted"
        assert flow.history.best_epoch == 1
        assert flow.fitted
        calls, fresh = 0, small()  # in the pilot
        with pytest.raises(KeyboardInterrupt):
            fresh.fit_to_target(target, rng=0, **SHORT)
        assert not fresh.fitted
    finally:
        signal.signal(signal.SIGINT, previous)


def test_the_best_epoch_is_kept() -> None:
    wild: dict[str, Any] = {"learning_rate": 0.3, "clip_norm": None, "schedule": "constant", "validation": 400}
    flow = small().fit_to_target(banana, rng=0, epochs=12, epoch_steps=5, batch_size=16, **wild)
    history = flow.history
    assert history.best_epoch == 1 + int(np.argmax(history.elbo))
    assert history.best_epoch < 12
    assert history.best_loss == -max(history.elbo)
    again = flow.copy().fit_to_target(banana, rng=0, epochs=1, epoch_steps=1, learning_rate=1e-9, validation=400)
    assert -again.history.start_loss == pytest.approx(max(history.elbo), rel=1e-6)


def test_patience_watches_the_lower_bound() -> None:
    flow = small().fit_to_target(banana, patience=2, learning_rate=1e-12, rng=0, **{**SHORT, "epochs": 30})
    assert flow.history.stopped == "patience"
    assert len(flow.history) < 10


# -- targets that are not finite everywhere ------------------------------------------------------------


def test_rows_where_the_target_is_nothing_are_left_out_and_told() -> None:
    def half(x: Array) -> tuple[Array, Array]:
        log_p, slope = banana(x)
        return np.where(x[:, 0] > -1.5, log_p, -np.inf), np.where(x[:, :1] > -1.5, slope, np.nan)

    flow = small()
    with pytest.warns(ps.TargetWarning) as told:
        flow.fit_to_target(half, init=(0, 1), rng=0, **SHORT)
    texts = [str(warning.message) for warning in told]
    assert sum("draws, first at x = [" in text for text in texts) == 1
    assert np.isfinite(flow.params).all()
    assert any("never finite" in text for text in texts) == (flow.history.best_epoch is None)

    def nowhere(x: Array) -> tuple[Array, Array]:
        return np.full(len(x), np.nan), x

    with pytest.raises(ps.TrainingError, match=r"finite nowhere around 0.*give init="):
        small().fit_to_target(nowhere, rng=0, **SHORT)
    before = small()
    with pytest.raises(ps.TrainingError, match=r"infinite for all 32 draws of step 1, first at x = \[") as caught:
        before.fit_to_target(nowhere, init=(0, 1), rng=0, **SHORT)
    assert not before.fitted
    assert caught.value.best is None


@uneven
def test_arrays_of_the_target_stay_its_own() -> None:
    given = []

    def target(x: Array) -> tuple[Array, Array]:
        log_p, slope = banana(x)
        log_p[x[:, 0] > 1] = np.nan
        for array in (log_p, slope):
            given.append((array, array.copy()))
            array.flags.writeable = False
        return log_p, slope

    small().fit_to_target(target, rng=0, **SHORT)
    for array, before in given:
        assert_same_bits(array, before)


def test_the_pilot_survives_slopes_that_overflow() -> None:
    def steep(x: Array) -> tuple[Array, Array]:
        return -1e200 * x[:, 0] ** 2, -2e200 * x

    with np.errstate(all="ignore"):  # as a run has it
        found = pilot(steep, keyed(1), 1)
    assert found is None or (np.isfinite(found.scale).all() and (found.scale > 0).all())


def test_a_target_that_is_in_order_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ps.nsf_ar(2, layers=2, hidden=(16,), rng=0).fit_to_target(Gaussian(2, "quiet"), epochs=10, rng=0)


@uneven
def test_a_target_far_from_zero_warns_in_float32() -> None:
    def far(x: Array) -> tuple[Array, Array]:
        u = (x - 1e6) / 1e-3
        return -0.5 * (u**2).sum(axis=1), -u / 1e-3

    with pytest.warns(
        ps.DataWarning, match=r"columns 0 .*, 1 .* of the target lie more than 10000 standard deviations"
    ):
        small().fit_to_target(far, rng=0, **SHORT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ps.DataWarning)
        exact = small(dtype="float64").fit_to_target(far, rng=0, **SHORT)
    assert abs(exact.history.elbo[-1] - (LOG_2PI - 6 * math.log(10))) < 0.1


def test_a_tail_that_the_flow_lacks_warns() -> None:
    def heavy(x: Array) -> tuple[Array, Array]:  # Student's t of 1.5 degrees of freedom
        return -1.25 * np.log1p(x[:, 0] ** 2 / 1.5), -2.5 * x / (1.5 + x**2)

    with pytest.warns(ps.TargetWarning, match="heavy tail, pareto_k"):
        ps.Flow(ps.StandardNormal(1), [ps.Elementwise(ps.Affine())], rng=0).fit_to_target(
            heavy, rng=0, epochs=5, validation=8000
        )


def test_a_rate_that_is_too_high_is_an_error() -> None:
    flow = small()
    with pytest.raises(ps.TrainingError, match="learning rate that is too high"):
        flow.fit_to_target(banana, learning_rate=1e38, warmup=0, rng=0, **SHORT)
    assert not flow.fitted


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"log_density": 3}, TypeError, "log_density must be a function"),
        ({"log_density": lambda x: banana(x)[0]}, TypeError, r"must return a tuple \(log p, gradient\)"),
        (
            {"log_density": lambda x: (banana(x)[0], x[:, 0])},
            ValueError,
            r"the gradient of log_density\(x\) must have shape",
        ),
        ({"estimator": "score"}, ValueError, "estimator must be one of 'path', 'reparameterised'"),
        ({"epochs": 0}, ValueError, "epochs must be at least 1"),
        ({"epoch_steps": 0}, ValueError, "epoch_steps must be at least 1"),
        ({"validation": 10}, ValueError, "validation must be at least 25"),
        ({"batch_size": 2.5}, TypeError, "batch_size must be an integer"),
        ({"freeze": "layers.9"}, ValueError, "freeze"),
        ({"callbacks": 3}, TypeError, "callbacks"),
    ],
)
def test_arguments_are_checked_by_name(arguments: dict[str, Any], kind: Any, words: str) -> None:
    flow = small()
    with pytest.raises(kind, match=words):
        flow.fit_to_target(**{"log_density": banana, **SHORT, **arguments})
    assert not flow.fitted


def test_the_target_sees_the_error_state_of_its_caller() -> None:
    states = []

    def target(x: Array) -> Any:
        states.append(np.geterr())
        return banana(x)

    with np.errstate(over="raise", under="warn"):
        expected = np.geterr()
        small().fit_to_target(target, rng=0, **SHORT)
    assert all(state == expected for state in states)


# -- the record in a file --------------------------------------------------------------------------------


def test_the_record_is_kept_in_the_file(tmp_path: Path) -> None:
    flow = small().fit_to_target(banana, rng=0, **SHORT)
    flow.save(tmp_path / "target.safetensors")
    loaded = ps.load(tmp_path / "target.safetensors")
    for name in ("elbo", "elbo_error", "ess", "pareto_k", "start", "best_epoch"):
        assert getattr(loaded.history, name) == getattr(flow.history, name), name
    assert_same_bits(loaded.params, flow.params)
    data = small().fit(rng("data").normal(size=(200, 2)), epochs=2, rng=0)
    assert b"elbo" not in data.to_bytes()
    assert ps.from_bytes(data.to_bytes()).history.elbo == []


def test_a_target_is_asked_of_finite_rows_alone() -> None:
    from penstock.targets import evaluated

    asked: list[Array] = []

    def target(x: Array) -> tuple[Array, Array]:
        asked.append(x)
        return -0.5 * (x**2).sum(axis=1), -x

    x = np.array([[1.0, 2.0], [np.inf, 0.0], [np.nan, 1.0], [3.0, 4.0]])
    log_p, slope = evaluated(target, x, gradient=True)
    assert asked[0].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert slope is not None
    assert np.isnan(log_p).tolist() == [False, True, True, False]
    assert np.isnan(slope).all(axis=1).tolist() == [False, True, True, False]
    assert slope[3].tolist() == [-3.0, -4.0]
    log_p, slope = evaluated(target, x[1:3], gradient=False)
    assert np.isnan(log_p).all()
    assert slope is None
    assert len(asked) == 1
