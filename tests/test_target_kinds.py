"""Targets on supports, with mixtures in the base, over contexts, and with a checkpoint."""

from __future__ import annotations

import math
import os
import signal
import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import penstock as ps
from cases import rng
from helpers import assert_same_bits, each_backend_numba_in_ci, python
from penstock.training.coordinates import Coordinates

Array = np.ndarray[Any, Any]

uneven = pytest.mark.filterwarnings("ignore::penstock.TargetWarning")
SHORT: dict[str, Any] = {"epochs": 3, "epoch_steps": 10, "batch_size": 32, "validation": 64}


# -- supports ---------------------------------------------------------------------------------------


class Kinds:
    """Independent columns of every kind: log-normal, gamma mirrored below 5, beta, normal, von Mises, and two groups."""

    support: ClassVar = [
        ps.ordered([6, 7]), ps.simplex([8, 9]),
        {0: "positive", 1: ps.interval(None, 5.0), 2: (-1.0, 3.0), 3: "real", 4: ps.periodic(0, 360),
         5: ps.interval(0, 10, map="logit")},
    ]  # fmt: skip
    log_evidence = (
        math.log(2 * math.pi) / 2 + math.log(0.5)  # log-normal, of logarithm 7 +- 0.5
        + math.lgamma(3)  # gamma 3
        + math.log(4) + 2 * math.lgamma(2) - math.lgamma(4)  # beta (2, 2) on 4
        + math.log(2 * math.pi) / 2 + math.log(1e-3)  # normal
        + math.log(360) + math.log(float(np.i0(4.0)))  # von Mises
        + math.log(10) + 2 * math.lgamma(3) - math.lgamma(6)  # beta (3, 3) on 10
        + math.log(2 * math.pi) / 2 + 0.0  # normal, and above it
        + math.lgamma(2)  # gamma (2) of the difference
        + math.lgamma(2) + math.lgamma(3) + math.lgamma(4) - math.lgamma(9)  # Dirichlet (2, 3, 4)
    )  # fmt: skip

    def __call__(self, x: Array) -> tuple[Array, Array]:
        with np.errstate(all="ignore"):  # on the ends of the box
            return self.of(x)

    def of(self, x: Array) -> tuple[Array, Array]:
        c = x.T
        u = (np.log(c[0]) - 7) / 0.5
        y, part, t = 5 - c[1], (c[2] + 1) / 4, np.radians(c[4] - 350)
        share, gap, rest = c[5] / 10, c[7] - c[6], 1 - c[8] - c[9]
        e = (c[3] + 400) / 1e-3
        log_p = (
            -0.5 * u**2 - np.log(c[0]) + 2 * np.log(y) - y + np.log(part) + np.log1p(-part) - 0.5 * e**2 + 4 * np.cos(t)
            + 2 * np.log(share) + 2 * np.log1p(-share) - 0.5 * c[6] ** 2 + np.log(gap) - gap
            + np.log(c[8]) + 2 * np.log(c[9]) + 3 * np.log(rest)
        )  # fmt: skip
        slope = [
            -(u / 0.5 + 1) / c[0], 1 - 2 / y, (1 / part - 1 / (1 - part)) / 4, -e / 1e-3, -4 * np.sin(t) * math.pi / 180,
            (2 / share - 2 / (1 - share)) / 10, -c[6] - 1 / gap + 1, 1 / gap - 1, 1 / c[8] - 3 / rest, 2 / c[9] - 3 / rest,
        ]  # fmt: skip
        return log_p, np.stack(slope, axis=1)


def test_a_target_in_unconstrained_coordinates_is_the_same_density_and_has_its_gradient() -> None:
    flow = ps.nsf(10, layers=1, hidden=(4,), dtype="float64", support=Kinds.support, rng=0)
    runner = flow._design().unconstrained
    assert runner is not None
    coordinates, target = Coordinates(runner, flow.spec.support), Kinds()
    v = rng("coordinates").normal(0, 0.7, (20, 10))
    v[:, 3] = -400 + 1e-3 * v[:, 3]  # where the target is narrow
    pulled = coordinates.pulled(target)
    log_p, slope = pulled(v)  # type: ignore[misc]
    x, h = coordinates.to_data(v), 1e-5
    np.testing.assert_allclose(coordinates.of_data(x), v, atol=1e-9)
    jacobian = np.zeros((20, 10, 10))
    for j, move in enumerate(h * np.eye(10)):
        ahead, behind = pulled(v + move)[0], pulled(v - move)[0]
        np.testing.assert_allclose(slope[:, j], (np.asarray(ahead) - behind) / (2 * h), rtol=1e-5, atol=1e-4)
        moved = (coordinates.to_data(v + move) - coordinates.to_data(v - move) + 180) % 360 - 180
        near = coordinates.to_data(v + move) - coordinates.to_data(v - move)
        near[:, 4] = moved[:, 4]  # the angle, which may have come around
        jacobian[:, :, j] = near / (2 * h)
    np.testing.assert_allclose(log_p, target(x)[0] + np.linalg.slogdet(jacobian)[1], atol=1e-5)
    assert log_p.std() > 1


@uneven
@pytest.mark.parametrize("init", ["pilot", pytest.param("rows", marks=pytest.mark.slow), "numbers"])
def test_a_target_on_every_kind_of_support_is_found_and_learned(init: str) -> None:
    target = Kinds()
    g = rng("kinds")
    gap = g.normal(0, 1, 3000)
    shares = g.dirichlet([2, 3, 4], 3000)
    rows = np.column_stack([
        np.exp(g.normal(7, 0.5, 3000)), 5 - g.gamma(3, 1, 3000), 4 * g.beta(2, 2, 3000) - 1, g.normal(-400, 1e-3, 3000),
        (350 + np.degrees(g.vonmises(0, 4, 3000))) % 360, 10 * g.beta(3, 3, 3000), gap, gap + g.gamma(2, 1, 3000), *shares.T[:2],
    ])  # fmt: skip
    given = {"pilot": None, "rows": rows, "numbers": (rows.mean(axis=0), rows.std(axis=0))}[init]
    flow = ps.nsf(10, layers=3, hidden=(32,), mixing="lu", dtype="float64", support=Kinds.support, rng=0)
    flow.fit_to_target(target, init=given, epochs=8, epoch_steps=60, rng=0)
    line = flow.to_latent(rows)[0]
    assert np.isfinite(line).all()
    told = [flow.loc[[2, 4]], flow.scale[[2, 4]]]
    assert [part.tolist() for part in told] == [[0.0, 0.0], [1.0, 1.0]]  # no data standardise boxes and circles
    assert flow.loc[3] == pytest.approx(-400, abs=1e-3)
    assert flow.scale[3] == pytest.approx(1e-3, rel=0.1)
    assert abs(flow.history.elbo[-1] - target.log_evidence) < 0.2
    found = ps.importance(flow, target, 20_000, rng=1)
    assert abs(found.log_evidence - target.log_evidence) < 0.03
    assert found.ess > 10_000


@uneven
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_the_scale_of_a_half_line_is_measured_whatever_its_unit(scale: float) -> None:
    def gamma(x: Array) -> tuple[Array, Array]:
        y = x / scale
        return (2 * np.log(y) - y).sum(axis=1), (2 / y - 1) / scale

    flow = ps.nsf_ar(2, layers=1, hidden=(8,), dtype="float64", support="positive", rng=0)
    flow.fit_to_target(gamma, rng=0, epochs=2, epoch_steps=50)
    numbers = flow._snapshot.buffers[-2:] / scale
    data = rng("gamma").gamma(3, 1, (4000, 2))
    fitted = ps.nsf_ar(2, layers=1, hidden=(8,), dtype="float64", support="positive", rng=0).fit(data, epochs=1)
    assert (abs(np.log2(numbers / fitted._snapshot.buffers[-2:])) < 1.1).all()  # the powers of two beside count as well
    assert abs(flow.history.elbo[-1] - 2 * (math.log(2) + math.log(scale))) < 0.05


def test_rows_of_init_must_lie_within_the_supports() -> None:
    flow = ps.nsf(2, layers=1, hidden=(4,), support=["positive", (0, 1)], rng=0)
    for init, words in (
        ([[1.0, 0.5], [-2.0, 0.6]], r"init must lie within the supports of the flow, but row 1, column 0.*holds -2"),
        (([1.0, 2.0], 1.0), r"the mean of init must lie within the supports of the flow, but row 0, column 1.*holds 2"),
    ):
        with pytest.raises(ValueError, match=words):
            flow.fit_to_target(lambda x: (x[:, 0], x), init=init, **SHORT)  # type: ignore[arg-type]


# -- mixtures of the base ------------------------------------------------------------------------------


class TwoModes:
    """Two normals of other weights, widths and correlations, far apart; the integral is e^2."""

    weights, means = np.array([0.3, 0.7]), np.array([[-6.0, 2.0], [5.0, -3.0]])
    roots = np.array([[[0.6, 0.0], [0.4, 0.5]], [[1.0, 0.0], [-0.6, 0.8]]])
    log_evidence = 2.0

    def __call__(self, x: Array) -> tuple[Array, Array]:
        logs, slopes = [], []
        for w, m, root in zip(self.weights, self.means, self.roots, strict=True):
            precision = np.linalg.inv(root @ root.T)
            slope = -(x - m) @ precision
            slopes.append(slope)
            log_norm = math.log(2 * math.pi) + math.log(np.linalg.det(root))
            logs.append(math.log(w) + 0.5 * ((x - m) * slope).sum(axis=1) - log_norm)
        log_p = np.logaddexp(*logs)
        parts = np.exp(np.stack(logs) - log_p)
        return log_p + 2, parts[0][:, None] * slopes[0] + parts[1][:, None] * slopes[1]

    def sample(self, n: int) -> Array:
        g = rng("two modes")
        which = (g.random(n) > 0.3).astype(int)
        drawn: Array = self.means[which] + np.einsum("nij,nj->ni", self.roots[which], g.standard_normal((n, 2)))
        return drawn


@uneven
@pytest.mark.parametrize(
    ("start", "estimator"),
    [("both", "path"), pytest.param("both", "reparameterised", marks=pytest.mark.slow), ("wide", "reparameterised")],
)
def test_both_modes_are_found_with_their_masses(start: str, estimator: str) -> None:
    target = TwoModes()
    rows = target.sample(500) if start == "both" else rng("prior").uniform(-12, 12, (500, 2))
    flow = ps.realnvp(2, layers=2, hidden=(16,), base=ps.GaussianMixture(2, 2 if start == "both" else 10), rng=0)
    flow.fit_to_target(target, init=rows, estimator=estimator, epochs=12, rng=0, learning_rate=1e-2)
    assert abs(flow.history.elbo[-1] - 2) < (1e-2 if start == "both" else 3e-2)
    left = flow.sample(20_000, rng=0)[:, 0] < 0
    assert abs(left.mean() - 0.3) < 0.02
    found = ps.importance(flow, target, 10_000, rng=0)
    assert abs(found.log_evidence - 2) < 0.02


@uneven
def test_a_mixture_begins_spread_over_the_rows_of_init() -> None:
    rows = TwoModes().sample(800)
    for base in (ps.GaussianMixture(2, 2), ps.GaussianMixture(2, 2, conditioner=ps.MLP((4,)))):
        options = {"context_dim": 1} if base.conditioner else {}
        context = {"context": np.arange(5.0)[:, None]} if base.conditioner else {}
        flow = ps.Flow(base, [ps.ActNorm(), ps.Coupling(ps.Affine(), ps.MLP((4,)))], dtype="float64", rng=0, **options)
        flow.fit_to_target(
            lambda x, *_: TwoModes()(x), init=rows, learning_rate=1e-12, rng=0, **context, **SHORT
        )  # fmt: skip
        drawn = flow.given([0.0]).sample(4000, rng=0) if base.conditioner else flow.sample(4000, rng=0)
        left = drawn[:, 0] < 0
        assert abs(left.mean() - (rows[:, 0] < 0).mean()) < 0.04
        for side, others in ((left, rows[:, 0] < 0), (~left, rows[:, 0] > 0)):
            np.testing.assert_allclose(drawn[side].mean(axis=0), rows[others].mean(axis=0), atol=0.1)
            np.testing.assert_allclose(drawn[side].std(axis=0), rows[others].std(axis=0), rtol=0.1)
    frozen = ps.Flow(ps.GaussianMixture(2, 2), [ps.Coupling(ps.Affine(), ps.MLP((4,)))], rng=0)
    before = frozen.named_params()["base.0.mean"].copy()
    frozen.fit_to_target(TwoModes(), init=rows, freeze="base", rng=0, **SHORT)
    assert_same_bits(frozen.named_params()["base.0.mean"], before)
    with pytest.raises(ValueError, match="batch_size must be at least 9"):
        ps.realnvp(2, base=ps.GaussianMixture(2, 9)).fit_to_target(TwoModes(), batch_size=8)


def test_learned_tails_find_those_of_the_target() -> None:
    def heavy(x: Array) -> tuple[Array, Array]:  # Student's t of 2.5 degrees of freedom, 3 wide
        u = x / 3
        return (-1.75 * np.log1p(u**2 / 2.5)).sum(axis=1), -3.5 * u / (2.5 + u**2) / 3

    flow = ps.Flow(ps.StudentT(1, df=8.0), [ps.Elementwise(ps.Affine())], dtype="float64", rng=0)
    flow.fit_to_target(heavy, epochs=12, rng=0, batch_size=512, learning_rate=1e-2)
    assert math.exp(flow.named_params()["base.0.log_df"][0]) == pytest.approx(2.5, rel=0.1)
    assert flow.history.pareto_k[-1] < 0.5
    normal = ps.Flow(ps.Normal(1), [], dtype="float64", rng=0)
    normal.fit_to_target(
        lambda x: (-((x[:, 0] - 2) ** 2), -2 * (x - 2)), init=(0, 1), epochs=8, learning_rate=3e-2, rng=0
    )
    assert normal.named_params()["base.0.mean"][0] == pytest.approx(2, abs=1e-3)
    assert normal.named_params()["base.0.log_scale"][0] == pytest.approx(-0.5 * math.log(2), abs=1e-3)


# -- contexts --------------------------------------------------------------------------------------------


def conjugate(x: Array, context: Array) -> tuple[Array, Array]:
    """x ~ N(0, 1), context ~ N(x, 1/2): the joint density, whose integral over x is N(context; 0, sqrt(5 / 4))."""
    away = (context - x) * 2
    log_p = -0.5 * (x**2 + away**2).sum(axis=1) - math.log(2 * math.pi) + math.log(2)
    return log_p, -x + 2 * away


@uneven
@pytest.mark.parametrize(
    ("kind", "base"),
    [("rows", None), ("function", ps.GaussianMixture(1, 2, conditioner=ps.MLP((8,))))],
    ids=["rows", "function"],
)
def test_a_target_over_contexts_is_amortised(kind: str, base: Any) -> None:
    rows = rng("amortised").normal(0, math.sqrt(1.25), (700, 1))
    context: Any = rows if kind == "rows" else lambda n, g: g.normal(0, math.sqrt(1.25), (n, 1))
    flow = ps.Flow(base or ps.StandardNormal(1), [ps.Elementwise(ps.Affine(), ps.MLP((32,)))], context_dim=1, rng=0)
    flow.fit_to_target(conjugate, context=context, epochs=10, rng=0)
    for y in (-1.5, 0.0, 1.0):
        drawn = flow.given([y]).sample(20_000, rng=0)
        assert drawn.mean() == pytest.approx(0.8 * y, abs=0.02)
        assert drawn.std() == pytest.approx(math.sqrt(0.2), rel=0.03)
        evidence = -0.5 * y**2 / 1.25 - 0.5 * math.log(2 * math.pi * 1.25)
        found = ps.importance(flow.given([y]), lambda x, y=y: conjugate(x, np.full((len(x), 1), y)), 5000, rng=0)
        assert abs(found.log_evidence - evidence) < 0.01
    assert flow.history.ess[-1] > 0.98
    assert flow.history.start.startswith("pilots at 6 contexts")
    assert flow._snapshot.buffers[3] == pytest.approx(math.sqrt(1.25), rel=0.1)  # the context is standardised


@uneven
def test_contexts_are_checked_by_name() -> None:
    flow = ps.realnvp(2, context_dim=1, layers=1, hidden=(4,), rng=0)

    def target(x: Array, context: Array) -> tuple[Array, Array]:
        assert x.dtype == context.dtype == np.float64
        assert len(x) == len(context)
        return -0.5 * (x**2).sum(axis=1), -x

    for context, words in (
        (None, "context must be given, since this flow has context_dim=1"), (np.zeros((0, 1)), "at least 1 row"),
        (np.zeros((5, 2)), r"context must have shape \(rows, 1\)"), ([[math.nan]], "context"),
        (lambda n, g: np.zeros((n, 2)), r"context\(n, rng\) must have shape \(\d+, 1\)"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            flow.fit_to_target(target, context=context, **SHORT)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="context"):
        ps.realnvp(2, rng=0).fit_to_target(target, context=np.zeros((3, 1)), **SHORT)
    flow.fit_to_target(target, context=np.ones((1, 1)) * [[0.5]] + [[0.0], [1.0]], init=(0, 1), rng=0, **SHORT)
    assert flow.fitted


@pytest.mark.parametrize("kind", ["rows", "function"])
def test_contexts_must_lie_within_their_supports(kind: str) -> None:
    flow = ps.realnvp(2, context_dim=2, context_support={0: "positive"}, layers=1, hidden=(4,), rng=0)
    rows = np.array([[1.0, -3.0], [0.5, 0.0], [-0.5, 1.0]])
    context: Any = rows if kind == "rows" else lambda n, g: rows[np.arange(n) % 3]
    name = "context" if kind == "rows" else r"context\(n, rng\)"
    with pytest.raises(ValueError, match=rf"^{name} must lie within .* row 2, column 0, .*positive, holds -0.5"):
        flow.fit_to_target(lambda x, c: (-0.5 * (x**2).sum(axis=1), -x), context, rng=0, **SHORT)
    rows[2, 0] = 0.25
    flow.fit_to_target(lambda x, c: (-0.5 * (x**2).sum(axis=1), -x), context, rng=0, **SHORT)
    assert flow.fitted


def test_no_weight_decay_towards_a_target_is_none_of_it() -> None:
    flows = [
        ps.realnvp(2, layers=1, hidden=(4,), rng=0).fit_to_target(
            lambda x: (-0.5 * (x**2).sum(axis=1), -x), weight_decay=decay, rng=0, **SHORT
        )
        for decay in (0.0, None, 0.5)
    ]
    assert_same_bits(flows[0].params, flows[1].params)
    assert (flows[0].params != flows[2].params).any()


def test_importance_weights_are_judged_within_contexts() -> None:
    from penstock.training.bound import validation_of

    log_weights = rng("weights").normal(0, 0.8, (12, 50))
    shift = np.linspace(-300, 300, 12)
    plain, moved = validation_of(log_weights), validation_of(log_weights + shift[:, None])
    assert moved.elbo == pytest.approx(plain.elbo, abs=1e-9)
    assert moved.error == pytest.approx(plain.error)
    assert moved.weights.ess == pytest.approx(plain.weights.ess)
    assert moved.weights.pareto_k == pytest.approx(plain.weights.pareto_k)
    assert 200 < plain.weights.ess < 500
    assert plain.draws == 600
    many = rng("many weights").normal(0, 0.8, (1500, 1, 50))
    spread = np.std([validation_of(one).elbo for one in many])
    assert spread == pytest.approx(np.mean([validation_of(one).error for one in many]), rel=0.1)


def test_every_context_comes_once_in_a_pass() -> None:
    from penstock.training.contexts import Contexts

    rows = np.arange(10.0)[:, None]
    runner, contexts = ps.realnvp(2, rng=0)._runner(), Contexts(rows, 1)
    stream = contexts.take(runner, 3, 0, 40)[:, 0]
    for turn in stream.reshape(4, 10):
        assert sorted(turn) == list(range(10))
    assert (stream[:10] != stream[10:20]).any()
    assert_same_bits(contexts.take(runner, 3, 7, 16)[:, 0], stream[7:23])


# -- checkpoints -----------------------------------------------------------------------------------------


class StopError(Exception):
    """What cuts a training short here."""


def counting(stops: set[int]) -> Any:
    """A target that raises in its calls of these numbers."""
    target, calls = TwoModes(), 0

    def call(x: Array) -> Any:
        nonlocal calls
        calls += 1
        if calls in stops:
            raise StopError
        return target(x)

    return call


RUN: dict[str, Any] = {"init": ([0.0, 0.0], 4.0), "epochs": 4, "epoch_steps": 6, "batch_size": 32, "validation": 64}


def mixture_flow(backend: str = "auto") -> ps.Flow:
    base = ps.GaussianMixture(2, 2)
    return ps.Flow(base, [ps.Coupling(ps.Affine(), ps.MLP((8,)))], support=["real", "real"], backend=backend, rng=0)


@uneven
@each_backend_numba_in_ci
@pytest.mark.parametrize("options", [{}, {"patience": 3}], ids=["cosine", "plateau"])
def test_a_run_that_is_cut_anywhere_ends_with_the_same_bits(
    tmp_path: Path, backend: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    whole = mixture_flow(backend).fit_to_target(TwoModes(), rng=0, **RUN, **options)
    for stop in (1, 2, 7, 9, 15, 20, 27):
        path = tmp_path / f"{stop}.safetensors"
        kept = {"checkpoint": path, "checkpoint_every": 2}
        with pytest.raises(StopError) as caught:
            mixture_flow(backend).fit_to_target(counting({stop}), rng=0, **RUN, **options, **kept)
        assert isinstance(caught.value.best, ps.Flow) == (stop > 1)  # type: ignore[attr-defined]
        again = mixture_flow(backend).fit_to_target(TwoModes(), rng=0, **RUN, **options, **kept)
        assert_same_bits(again.params, whole.params)
        for name in (
            "elbo",
            "elbo_error",
            "ess",
            "pareto_k",
            "train_loss",
            "start",
            "stopped",
            "best_epoch",
            "learning_rate",
        ):
            assert getattr(again.history, name) == getattr(whole.history, name), name
        kept_flow = ps.load(path, backend=backend)
        with pytest.raises(ValueError, match="init was given, but a later fit"):
            kept_flow.fit_to_target(TwoModes(), rng=0, **RUN, **options, **kept)
        assert_same_bits(kept_flow.params, whole.params)  # a run that has ended leaves a plain model
        assert (
            mixture_flow(backend).fit_to_target(TwoModes(), rng=0, **RUN, **options).params.tobytes()
            == whole.params.tobytes()
        )


@uneven
@pytest.mark.parametrize("loaded", [True, False])
def test_an_interrupted_flow_goes_on_and_so_does_one_that_was_loaded(tmp_path: Path, loaded: bool) -> None:
    path, target, calls = tmp_path / "run.safetensors", TwoModes(), 0

    def stopped(x: Array) -> Any:
        nonlocal calls
        calls += 1
        if calls == 16:
            raise KeyboardInterrupt
        return target(x)

    flow = mixture_flow()
    with pytest.warns(ps.TrainingWarning, match=r"interrupted after 13 steps.*The same call goes on from"):
        flow.fit_to_target(stopped, rng=0, checkpoint=path, **RUN)
    again = (ps.load(path) if loaded else flow).fit_to_target(target, rng=0, checkpoint=path, **RUN)
    assert_same_bits(again.params, mixture_flow().fit_to_target(target, rng=0, **RUN).params)


@uneven
def test_another_call_is_told_from_the_one_that_a_checkpoint_holds(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    with pytest.raises(StopError):
        mixture_flow().fit_to_target(counting({15}), rng=0, checkpoint=path, **RUN)
    held = path.read_bytes()
    other = TwoModes()
    for change, words in (
        ({"epochs": 5}, "epochs was 4 and is 5"), ({"estimator": "reparameterised"}, "estimator was 'path'"),
        ({"init": ([0.0, 0.0], 3.0)}, "the values of init are others"), ({"init": None}, "init was init and is a pilot"),
        ({"rng": 1}, "rng is another one"), ({"log_density": lambda x: (other(x)[0] + 1e-3, x)}, "log_density is another one"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            mixture_flow().fit_to_target(**{"log_density": TwoModes(), "rng": 0, **RUN, "checkpoint": path, **change})
        assert path.read_bytes() == held
    with pytest.raises(ValueError, match="another call"):
        mixture_flow().fit(TwoModes().sample(100), checkpoint=path, rng=0)
    mixture_flow().fit_to_target(TwoModes(), rng=1, checkpoint=path, resume=False, **RUN)
    assert "training.record" not in str(path.read_bytes()[:4000])


KILLED = """
import os, sys
import numpy as np
import penstock as ps
calls = 0
def target(x):
    global calls
    calls += 1
    if calls == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
    return -0.5 * (x**2).sum(axis=1), -x
flow = ps.nsf(2, layers=1, hidden=(4,), rng=0)
flow.fit_to_target(target, init=(1, 2), epochs=3, epoch_steps=5, batch_size=16, validation=64, rng=0, checkpoint=sys.argv[1])
print(flow.params.tobytes().hex(), flow.history.elbo)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_a_killed_process_leaves_a_run_to_go_on_with(tmp_path: Path) -> None:
    path = tmp_path / "killed.safetensors"
    killed = python(KILLED, str(path), "14", check=False)
    assert killed.returncode == -signal.SIGKILL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = python(KILLED, str(path), "0").stdout
        whole = python(KILLED, str(tmp_path / "whole.safetensors"), "0").stdout
    assert again == whole
