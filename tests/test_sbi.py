"""Simulation-based inference: priors, posteriors within them, likelihoods, and their files."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
import warnings
import zipfile
from collections.abc import Callable
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import penstock as ps
from penstock import _warn
from penstock.sbi import inference
from penstock.sbi.simulations import Observed
from penstock.sbi.wrapped import as_prior

Array = np.ndarray[Any, Any]


class HalfPlane:
    """A prior of one's own: uniform above a diagonal of the square [-4, 4]^2."""

    dim = 2

    def log_prob(self, theta: Array) -> Array:
        inside = (np.abs(theta) <= 4).all(axis=1) & (theta.sum(axis=1) > 0)
        return np.where(inside, -math.log(32), -np.inf)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        theta = rng.uniform(-4, 4, (n, 2))
        return np.where(theta.sum(axis=1, keepdims=True) > 0, theta, -theta)


class Disc(HalfPlane):
    """Uniform on the disc of radius 1, without an argument for random numbers."""

    def log_prob(self, theta: Array) -> Array:
        return np.where((theta**2).sum(axis=1) < 1, -math.log(math.pi), -np.inf)

    def sample(self, n: int) -> Array:  # type: ignore[override]
        rng = np.random.default_rng(0)
        angle, radius = rng.uniform(0, 2 * math.pi, n), np.sqrt(rng.uniform(size=n))
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


class RightHalf(HalfPlane):
    """Where the first parameter is above -1, of no unit mass."""

    def log_prob(self, theta: Array) -> Array:
        return np.where(theta[:, 0] > -1, 0.0, -np.inf)


def everything(columns: int = 1) -> Observed:
    """Of x that lies anywhere."""
    return Observed(columns, (), tuple(range(columns)), (-1e3,) * columns, (1e3,) * columns)


def normal_posterior(prior: Any) -> ps.sbi.Posterior:
    """A posterior whose flow is the standard normal in the plane, whatever x is."""
    return ps.sbi.Posterior(ps.realnvp(2, context_dim=1, rng=0), as_prior(prior), everything())


def affine(dim: int, **options: Any) -> ps.Flow:
    """A recipe that holds linear Gaussian posteriors."""
    return ps.maf(dim, layers=1, hidden=(16,), **options)


def linear(dim: int, **options: Any) -> ps.Flow:
    """One that holds nothing else."""
    return ps.maf(dim, layers=1, hidden=(), **options)


# --- priors ---------------------------------------------------------------------------------------------------------

COV = [[1.0, 0.6], [0.6, 2.0]]
LINE, WITHIN = "real", "within [0, 2]"
# What a user gives, the same in SciPy (log-density of rows, distribution function of each column), and the supports.
PRIORS: dict[str, tuple[Any, Callable[[Array], Array], list[Any], list[str]]] = {
    "box": (
        ps.sbi.BoxUniform([0, -1], [2, 3]),
        lambda t: stats.uniform([0, -1], [2, 4]).logpdf(t).sum(axis=1),
        [stats.uniform(0, 2), stats.uniform(-1, 4)],
        [WITHIN, "within [-1, 3]"],
    ),
    "box of equal sides": (
        ps.sbi.BoxUniform(0, 2, dim=2),
        lambda t: stats.uniform(0, 2).logpdf(t).sum(axis=1),
        [stats.uniform(0, 2)] * 2,
        [WITHIN] * 2,
    ),
    "normal": (
        ps.sbi.Normal([1.0, 2.0], 0.5),
        lambda t: stats.norm([1.0, 2.0], 0.5).logpdf(t).sum(axis=1),
        [stats.norm(1, 0.5), stats.norm(2, 0.5)],
        [],
    ),
    "normal with a covariance": (
        ps.sbi.Normal([1.0, 2.0], cov=COV),
        stats.multivariate_normal([1.0, 2.0], COV).logpdf,
        [stats.norm(1, 1), stats.norm(2, math.sqrt(2))],
        [],
    ),
    "side by side": (
        [ps.sbi.Normal(0, 1), stats.expon(), stats.beta(2, 0.7)],
        lambda t: stats.norm.logpdf(t[:, 0]) + stats.expon.logpdf(t[:, 1]) + stats.beta(2, 0.7).logpdf(t[:, 2]),
        [stats.norm(), stats.expon(), stats.beta(2, 0.7)],
        [LINE, "positive", "within (0, 1]"],
    ),
    "scipy, vectors": (
        stats.norm([0.0, 1.0], [1.0, 2.0]),
        lambda t: stats.norm([0.0, 1.0], [1.0, 2.0]).logpdf(t).sum(axis=1),
        [stats.norm(), stats.norm(1, 2)],
        [],
    ),
    "scipy, below": (
        stats.weibull_max(1.5, loc=3.0),
        lambda t: stats.weibull_max(1.5, loc=3.0).logpdf(t[:, 0]),
        [stats.weibull_max(1.5, loc=3.0)],
        ["below 3"],
    ),
    "scipy, an angle": (
        stats.vonmises(2.0, loc=1.0),
        lambda t: stats.vonmises(2.0, loc=1.0).logpdf(t[:, 0]),
        [],
        ["periodic over [-3.14159, 3.14159)"],
    ),
    "scipy, joint normal": (
        stats.multivariate_normal([1.0, 2.0], COV),
        ps.sbi.Normal([1.0, 2.0], cov=COV).log_prob,
        [stats.norm(1, 1), stats.norm(2, math.sqrt(2))],
        [],
    ),
    "scipy, joint t": (
        stats.multivariate_t([1.0, 2.0], COV, df=5),
        stats.multivariate_t([1.0, 2.0], COV, df=5).logpdf,
        [stats.t(5, 1, 1), stats.t(5, 2, math.sqrt(2))],
        [],
    ),
    "scipy of 1.15": (
        [stats.truncate(stats.Normal(mu=0.0, sigma=1.0), lb=0.0), stats.Uniform(a=0.0, b=2.0)],
        lambda t: stats.halfnorm.logpdf(t[:, 0]) + stats.uniform(0, 2).logpdf(t[:, 1]),
        [stats.halfnorm(), stats.uniform(0, 2)],
        ["positive", WITHIN],
    ),
    "one's own": (HalfPlane(), lambda t: HalfPlane().log_prob(t), [], []),
}  # fmt: skip


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_is_that_of_scipy_and_its_supports_hold_its_draws(name: str) -> None:
    given, log_prob, cdfs, supports = PRIORS[name]
    prior = as_prior(given)
    assert [str(one) for one in prior.support] == supports
    theta = prior.sample(4000, rng=0)
    assert theta.shape == (4000, prior.dim)
    assert (prior.sample(4000, np.random.default_rng(0)) == theta).all()
    assert (prior.sample(10, rng=1) != theta[:10]).any()
    everywhere = np.concatenate([theta[:200], 3 * np.random.default_rng(1).normal(size=(200, prior.dim))])
    np.testing.assert_allclose(prior.log_prob(everywhere), log_prob(everywhere), rtol=1e-9, atol=1e-9)
    assert prior.log_prob(everywhere.reshape(4, 100, -1)).shape == (4, 100)
    assert prior.log_prob(theta[0]) == prior.log_prob(theta[:1])[0] > -np.inf
    assert np.isnan(prior.log_prob(theta[:1] * np.nan)[0])
    for column, own in zip(theta.T, cdfs, strict=False):
        assert stats.kstest(column, own.cdf).pvalue > 1e-3
    if len(cdfs) == 2 and "cov" in name:
        np.testing.assert_allclose(np.cov(theta.T), COV, atol=0.15)
    top = prior.log_prob_max()
    assert (top is not None) == any(word in name for word in ("box", "normal", "vectors", "joint"))
    if top is not None:
        assert 0 <= top - prior.log_prob(theta).max() + 1e-12 < 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ps.sbi.BoxUniform(1, 0), r"hi must lie above lo, got lo\[0\]=1 and hi\[0\]=0"),
        (lambda: ps.sbi.BoxUniform([0, 0], [1, 1], dim=3), r"lo must be a number, or of shape \(3,\)"),
        (lambda: ps.sbi.BoxUniform(0, math.inf), r"hi must be finite"),
        (lambda: ps.sbi.Normal(0, -1), "std must be positive"),
        (lambda: ps.sbi.Normal([0, 0], cov=[[1, 2], [2, 1]]), "cov must be positive definite"),
        (lambda: ps.sbi.Normal([0, 0], cov=[[1, 2], [0, 1]]), "cov must be symmetric"),
        (lambda: ps.sbi.Independent([]), "parts must be at least one prior"),
        (lambda: ps.sbi.Independent([stats.norm(), "uniform"]), r"parts\[1\] must be one of penstock.sbi"),
        (lambda: as_prior(stats.poisson(3)), "discrete"),
        (lambda: as_prior(stats.norm), "must be a frozen distribution"),
        (lambda: as_prior(stats.dirichlet([1.0, 2.0])), "is no prior"),
        (lambda: as_prior(stats.norm(), dim=2), "prior has 1 parameters, but theta has 2 columns"),
        (lambda: as_prior(ps.sbi.Normal(), support="positive"), "support= is that of a prior of one's own"),
        (lambda: as_prior(HalfPlane).dim, "must be one of"),
    ],
)
def test_what_is_no_prior_is_refused_by_name(make: Callable[[], Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        make()


# --- simulations ----------------------------------------------------------------------------------------------------


def pairs(n: int = 300, noise: float = 0.3, dim: int = 2) -> tuple[Array, Array]:
    """Parameters within [-1, 1], and themselves with noise."""
    theta = ps.sbi.BoxUniform(-1, 1, dim=dim).sample(n, rng=0)
    return theta, theta + noise * np.random.default_rng(1).normal(size=theta.shape)


def quick(theta: Any, x: Any, prior: Any = None, **options: Any) -> ps.sbi.Posterior:
    """A posterior that was hardly trained."""
    prior = ps.sbi.BoxUniform(-1, 1, dim=2) if prior is None else prior
    options = {"ensemble": 1, "recipe": affine, "epochs": 1, "rng": 0, "progress": False, **options}
    return ps.npe(theta, x, prior=prior, **options)


def test_simulations_that_are_not_finite_and_constant_columns_are_left_out_aloud() -> None:
    theta, x = pairs()
    x = np.concatenate([x, np.ones((300, 1))], axis=1)
    x[7, 0], x[9, 1], theta[9, 0], theta[11, 1] = np.nan, np.inf, np.nan, np.nan
    weight = np.ones(300)
    with pytest.warns(ps.DataWarning) as said:
        posterior = quick(theta, x, sample_weight=weight)
    words = [str(one.message) for one in said]
    assert any(
        "3 of 300 simulations hold NaN or infinity (2 in theta, 2 in x; the first is row 7)" in one for one in words
    )
    assert any("column 2 of x is constant in all simulations and left out" in one for one in words)
    kept = np.delete(np.arange(300), [7, 9, 11])
    clean = quick(theta[kept], x[kept, :2])
    assert (clean.flow.params == posterior.flow.params).all()
    assert posterior.context_dim == 3
    lines = repr(posterior).splitlines()
    assert lines[0] == "Posterior of 2 parameters given 3 of x"
    assert "  constant  1 column of x, left out" in lines
    assert "  rejects   draws with prior density 0" in repr(normal_posterior(HalfPlane())).splitlines()
    assert "<pre>" in posterior._repr_html_()
    assert (posterior.sample(5, [0.1, 0.2, 1.0], rng=0) == clean.sample(5, [0.1, 0.2], rng=0)).all()
    with pytest.warns(ps.DataWarning, match="column 2 of x is 2, and all simulations are 1"):
        posterior.sample(5, [0.1, 0.2, 2.0])
    with pytest.warns(ps.DataWarning, match="column 0 of x is 99, and all simulations lie in"):
        posterior.log_prob([0.0, 0.0], [99.0, 0.2, 1.0])


@pytest.mark.parametrize(("ensemble", "epochs"), [(1, 100), (3, 60)])
def test_of_each_flow_the_better_of_a_fit_and_a_longer_one_counts(
    ensemble: int, epochs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "LEARNING", -1.0)  # a longer one follows in any case
    theta, x = pairs(1500)
    own = {"recipe": linear, "ensemble": ensemble, "learning_rate": 0.05, "rng": 0, "progress": False}
    theta, prior = {"a": theta[:, 0], "b": theta[:, 1]}, {name: ps.sbi.BoxUniform(-1, 1) for name in "ab"}
    posterior, *both = (
        ps.npe(theta, x, prior=prior, **own, **said)
        for said in ({}, {"epochs": epochs}, {"epochs": round(2.5 * epochs)})
    )
    flows, *others = ([model.flow] if ensemble == 1 else model.flow.members for model in (posterior, *both))
    assert any(flow.history.stopped == "completed" for flow in others[0])
    longer = 0
    for flow, *fits in zip(flows, *others, strict=True):
        want = min(fits, key=lambda fit: fit.history.best_loss)
        assert (flow.params == want.params).all()
        assert flow.history.best_loss == want.history.best_loss
        longer += want is fits[1]
    assert ensemble == 1 or 0 < longer < ensemble, longer  # of both
    assert posterior.flow.columns == both[0].flow.columns
    posterior.save(tmp_path / "posterior")
    again = ps.sbi.load(tmp_path / "posterior")
    assert (again.sample(5, x[0], rng=0) == posterior.sample(5, x[0], rng=0)).all()


class Fits:
    """Builds models whose fits end with given losses, and warn by their number; ``asked`` has the options of each."""

    def __init__(self, *losses: list[float], stopped: Any = "completed", common: Any = (), error: Any = None) -> None:
        self.losses, self.stopped, self.common, self.error = losses, stopped, common, error
        self.asked: list[dict[str, Any]] = []

    def __call__(self) -> Any:
        n = len(self.losses[0])
        model: Any = ps.realnvp(2, layers=2, hidden=(2,), rng=0)
        model = model if n == 1 else ps.Ensemble(model, n, rng=0)
        model.fit = lambda rows, given, rng, **options: self.fit(model, options)
        return model

    def fit(self, model: Any, options: dict[str, Any]) -> Any:
        number = len(self.asked)
        self.asked.append(options)
        if self.error is not None and number == 1:
            raise self.error
        losses = self.losses[number]
        histories = [model.history] if len(losses) == 1 else model.history.members
        stopped = self.stopped if isinstance(self.stopped, str) else self.stopped[number]
        words = stopped.split() if len(losses) > 1 and " " in stopped else [stopped] * len(losses)
        for k, (history, loss, word) in enumerate(zip(histories, losses, words, strict=True)):
            history.epoch, history.best_epoch, history.restarted = list(range(1, 13)), 12, 2
            history.validation_loss, history.train_loss = [*[loss + 0.025] * 10, loss + 0.02, loss], [loss] * 12
            history.stopped = "completed" if word in ("flat", "badly") else word
            if word == "flat":  # but for what lies before its last quarter, and before it began again
                history.validation_loss = [loss + 2] * 2 + [loss + 1] * 7 + [loss + 0.015, loss + 0.01, loss]
            if word == "badly":
                history.best_epoch = 3
                history.validation_loss = [*[loss] * 3, *[loss + 1] * 9]
                history.train_loss = [*[loss] * 3, *[loss - 1] * 9]
            for kind in (ps.OverfitWarning, ps.DiscreteWarning):
                told = _warn.Told(f"{kind.__name__[0]} of fit {number}", kind, (__file__, k, kind.__name__))
                _warn.issue(told if len(losses) == 1 else told.about_member(k))
        if self.common:
            model.history.validation_loss = self.common[number]
        return model


def trained(build: Any, **options: Any) -> tuple[list[float], list[str], int]:
    """Losses of what comes out, the warnings by kind, fit and member, and how often it was fitted."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = inference._trained(build, None, None, 7, {"batch_size": 8, **options})
    histories = [found.history] if isinstance(found, ps.Flow) else found.history.members
    assert build.asked[1:] in ([], [{"epochs": 25, "batch_size": 8}])
    words = [re.sub(r"(\w) of fit (\d)( \(member (\d).*)?", r"\1\2\4", str(one.message)) for one in said]
    return [history.best_loss for history in histories], words, len(build.asked)


@pytest.mark.parametrize(
    ("build", "want", "told"),
    [
        (Fits([3.0], [2.0]), [2.0], ["D0", "O1"]),
        (Fits([2.0], [3.0]), [2.0], ["D0", "O0"]),
        (Fits([2.0], [2.0]), [2.0], ["D0", "O0"]),
        (Fits([3.0, 1.0], [2.0, 2.0]), [2.0, 1.0], ["D00", "D01", "O01", "O10"]),
        (Fits([3.0, 1.0], [2.0, 2.0], common=(1.5, 1.4)), [2.0, 2.0], ["D00", "D01", "O10", "O11"]),
        (Fits([3.0, 1.0], [2.0, 0.0], common=(1.5, 1.6)), [3.0, 1.0], ["D00", "D01", "O00", "O01"]),
        (
            Fits([3.0, 1.0], [2.0, 2.0], stopped=["completed overfits", "completed"]),
            [2.0, 1.0],
            ["D00", "D01", "O01", "O10"],
        ),
        (Fits([3.0, 1.0], [2.0, 2.0], stopped=["flat completed", "flat"]), [2.0, 1.0], ["D00", "D01", "O01", "O10"]),
    ],
)
def test_a_longer_fit_follows_and_each_warning_is_of_a_flow_that_is_kept(
    build: Any, want: Any, told: list[str]
) -> None:
    assert trained(build) == (want, told, 2)


@pytest.mark.parametrize(
    "build",
    [
        Fits([3.0], [2.0], stopped="overfits"),
        Fits([3.0], [2.0], stopped="badly"),
        Fits([3.0], [2.0], stopped="flat"),
        Fits([3.0, 3.0], [2.0, 2.0], stopped="flat overfits"),
        Fits([3.0], [2.0], stopped="interrupted"),
        Fits([3.0, 3.0], [2.0, 2.0], stopped="completed interrupted"),
        Fits([math.nan], [2.0]),
    ],
)
def test_no_longer_fit_follows_what_has_learned_was_interrupted_or_not_validated(build: Any) -> None:
    losses, told, fits = trained(build)
    np.testing.assert_equal(losses, build.losses[0])
    assert (sorted(told), fits) == (
        sorted(f"{kind}0{k}" for k in ([""] if len(losses) == 1 else [0, 1]) for kind in "DO"),
        1,
    )


@pytest.mark.parametrize("name", ["epochs", "schedule", "patience", "callbacks", "checkpoint", "comm"])
def test_options_of_one_fit_get_one_fit(name: str) -> None:
    build = Fits([3.0], [2.0])
    with pytest.warns(ps.OverfitWarning), pytest.warns(ps.DiscreteWarning):
        inference._trained(build, None, None, 7, {name: 1})
    assert build.asked == [{name: 1}]


def test_a_recipe_that_gives_the_same_flow_each_time_gets_one_fit() -> None:
    build = Fits([3.0], [2.0])
    flow = build()
    build.__class__ = type("Same", (Fits,), {"__call__": lambda self: flow})
    assert trained(build) == ([3.0], ["O0", "D0"], 1)


@pytest.mark.parametrize("error", [ps.TrainingError("the loss became NaN"), KeyboardInterrupt()])
def test_a_longer_fit_that_fails_leaves_the_first(error: BaseException) -> None:
    losses, told, fits = trained(Fits([3.0], [2.0], error=error))
    assert (losses, told[0], fits) == ([3.0], "D0", 2)
    assert "a second fit, of 25 epochs, came to nothing" in told[1]
    assert type(error).__name__ in told[1]
    assert told[2:] == ["O0"]


def test_a_longer_fit_that_is_interrupted_says_so_where_the_first_is_kept() -> None:
    _, told, _ = trained(Fits([2.0], [math.nan], stopped=["completed", "interrupted"]))
    assert told == ["D0", "O0", "a second, longer fit was interrupted: each flow keeps the better of both"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda theta, x: (theta, x[:, 0]), r"x must have shape \(rows, numbers\), got \(300,\); .*write x\[:, None\]"),
        (lambda theta, x: (theta, x[:, :, None]), r"write x.reshape\(len\(x\), -1\)"),
        (lambda theta, x: (theta[:, 0], x), r"theta must have shape \(rows, 2\)"),
        (lambda theta, x: (theta[:, :1], x), "prior has 2 parameters, but theta has 1 columns"),
        (lambda theta, x: (theta[:, :1].tolist(), x), r"theta must have shape \(rows, 2\), got \(300, 1\)"),
        (lambda theta, x: (theta[:9], x), "a row for each simulation, got 9 and 300 rows"),
        (lambda theta, x: (3 * theta, x), r"theta must come from the prior, but \d+ of 300 rows"),
        (lambda theta, x: (theta, x * np.nan), "none of the 300 simulations is finite"),
        (lambda theta, x: (theta, 0 * x), "all columns of x are constant"),
        (lambda theta, x: (theta[:0], x[:0]), "must have rows, got none"),
    ],
)
def test_what_are_no_simulations_is_refused_by_name(change: Callable[[Array, Array], Any], words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        quick(*change(*pairs()))


@pytest.mark.parametrize("end", ["low", "high", "half-line"])
def test_a_row_on_an_end_of_the_prior_leaves_the_scale_of_the_others(end: str) -> None:
    theta = ps.sbi.BoxUniform(0, 1, dim=2).sample(2000, rng=0)
    prior: Any = ps.sbi.BoxUniform(0, 1, dim=2)
    if end == "half-line":
        prior, theta = [stats.expon(), stats.expon()], -np.log1p(-theta)
    clean = quick(theta, theta + 0.1, prior).flow
    theta[0, 0] = 1.0 if end == "high" else 0.0
    found = quick(theta, theta + 0.1, prior).flow
    assert found.scale == pytest.approx(clean.scale, rel=0.05)
    assert [one.map for one in found.spec.support] == ["positive" if end == "half-line" else "logit"] * 2


def test_a_grid_with_many_rows_on_an_end_keeps_the_box() -> None:
    theta, x = pairs(600)
    theta[:30, 0] = np.where(np.arange(30) % 2, 1.0, -1.0)
    theta[:6, 1] = 1.0  # one in a hundred is not many
    spline = {"recipe": lambda dim, **options: ps.nsf_ar(dim, layers=1, hidden=(4,), **options)}
    assert [one.map for one in quick(theta, x, **spline).spec.support] == ["box", "logit"]
    theta[6, 1] = -1.0
    assert [one.map for one in quick(theta, x, **spline).spec.support] == ["box", "box"]


def test_validation_rows_on_an_end_of_the_prior_are_taken_and_those_outside_are_not() -> None:
    theta, x = pairs()
    prior = ps.sbi.Independent({"a": ps.sbi.BoxUniform(-1, 1), "b": ps.sbi.BoxUniform(-1, 1)})
    held = theta[:50].copy()
    held[0], held[1, 1] = [-1.0, 1.0], 1.0
    for validation in (held, {"b": held[:, 1], "a": held[:, 0]}, pd.DataFrame(held, columns=["a", "b"])):
        posterior = quick(theta, x, prior, validation=validation, validation_context=x[:50])
        assert 0 < posterior.history.best_loss < 10
    held[2, 0] = 1.001
    with pytest.raises(ValueError, match="validation must lie within the supports"):
        quick(theta, x, prior, validation=held, validation_context=x[:50])
    assert quick(theta, x, prior, validation=0.2).flow.fitted


@pytest.mark.parametrize("lo", [0.0, 1000.0])
def test_ends_of_a_closed_prior_have_a_density_in_every_verb(lo: float) -> None:
    prior = ps.sbi.BoxUniform(lo, lo + 1, dim=2)
    theta = prior.sample(1000, rng=0)
    posterior = quick(theta, theta - lo, prior)
    x = [0.5, 0.5]
    ends = np.array(
        [[lo, lo + 0.5], [lo + 1, lo + 1], [lo + 0.5, lo + 1 - 1e-9], [lo + 0.5, np.float32(lo + 1 - 1e-6)]]
    )
    log_prob, grad = posterior.log_prob_and_grad(ends, x)
    assert np.isfinite(log_prob).all()
    assert np.isfinite(grad).all()
    at = posterior.given(x)
    for same in (posterior.log_prob(ends, x), at.log_prob(ends.tolist()), posterior.log_prob(ends[None], [x])[0]):
        assert (same == log_prob).all()
    assert posterior.log_prob(ends[0], x) == log_prob[0]
    assert (log_prob < posterior.log_prob([lo + 0.5, lo + 0.5], x)).all()
    beyond = np.array([[lo - 0.001, lo + 0.5], [lo, lo + 1.001], [np.inf, lo]])
    log_prob_beyond, zero = posterior.log_prob_and_grad(beyond, x)
    assert (log_prob_beyond == -np.inf).all()
    assert (zero == 0).all()
    assert np.isnan(posterior.log_prob([np.nan, lo], x))
    cut = at.truncated_prior(1e-4, n=1000, rng=0)
    cut.threshold = float(log_prob.min()) - 1
    assert np.isfinite(cut.log_prob(ends)).all()
    assert (cut.log_prob(beyond) == -np.inf).all()


def test_names_of_tables_go_through_and_sort_columns() -> None:
    theta, x = pairs()
    prior = {"mass": stats.uniform(-1, 2), "age": stats.uniform(-1, 2)}
    frame, data = pd.DataFrame(theta, columns=["mass", "age"]), pd.DataFrame(x, columns=["u", "g"])
    posterior = quick(frame[["age", "mass"]], data, prior)
    plain = quick(theta, x, list(prior.values()))
    assert posterior.columns == ("mass", "age")
    assert posterior.context_columns == ("u", "g")
    want = plain.sample(5, [0.1, 0.2], rng=0)
    assert (posterior.sample(5, {"g": 0.2, "u": 0.1}, rng=0) == want).all()
    got = posterior.log_prob({"age": want[:, 1], "mass": want[:, 0]}, {"g": [0.2] * 5, "u": [0.1] * 5})
    assert (got == plain.log_prob(want, [0.1, 0.2])).all()
    assert (posterior.given(data[["g", "u"]][:1]).x == x[0]).all()
    own = quick(frame, data, RightHalf())
    turned = {"age": [-1.5, 0.0], "mass": [0.0, -1.5]}
    assert (np.isfinite(own.log_prob(turned, [0.1, 0.2])) == [True, False]).all()
    with pytest.raises(ValueError, match="the columns of theta are not those of the flow"):
        quick(frame.rename(columns={"age": "z"}), data, prior)


def test_few_simulations_of_some_numbers_are_read_by_a_small_network(monkeypatch: pytest.MonkeyPatch) -> None:
    theta, x = pairs()
    x = np.concatenate([x, np.random.default_rng(2).normal(size=(len(x), 60))], axis=1)

    def network(n: int, **options: Any) -> tuple[Any, int]:
        options = {"recipe": "nsf_ar", "batch_size": 100, **options}
        spec = quick(theta, x[:, :n], **options).flow.spec
        return spec.embedding, spec.embedding_dim

    assert network(3) == network(4, embedding=None) == (None, 0)
    assert network(4) == network(50) == (ps.MLP((64,)), 16)
    assert network(51) == (ps.MLP((128, 64)), 32)
    assert network(4, embedding_dim=5) == (ps.MLP((64,)), 5)
    assert network(3, embedding=ps.MLP((8,))) == (ps.MLP((8,)), 8)
    assert network(4, recipe=affine) == (ps.MLP((128,)), 32)  # a callable decides for itself,
    assert network(4, recipe=affine, embedding=None) == (None, 0)  # unless it is told
    monkeypatch.setattr(inference, "FEW", len(theta) - 1)
    assert network(4) == network(50) == (ps.MLP((128,)), 32)
    with pytest.raises(ValueError, match="embedding must be one of 'auto'"):
        network(4, embedding="small")


def test_a_wide_x_is_embedded_and_options_reach_recipe_and_fit() -> None:
    theta, x = pairs()
    wide = np.concatenate([x, np.random.default_rng(2).normal(size=(300, 60))], axis=1)
    posterior = quick(theta, wide)
    assert posterior.flow.spec.embedding == ps.MLP((128, 64))
    assert quick(theta, x).flow.spec.embedding is None
    assert quick(theta, x, embedding=ps.MLP((8,)), embedding_dim=3).flow.spec.embedding == ps.MLP((8,))
    assert quick(theta, wide, embedding=None).flow.spec.embedding is None
    assert type(quick(theta, x, recipe="nsf").flow.spec.layers[0]) is ps.Coupling
    assert len(quick(theta, x, epochs=3).history) == 3
    for wrong, words in (
        ({"recipe": "nfs"}, "recipe must be one of"),
        ({"embedding_dim": 3}, "needs an embedding"),
        ({"X": x}, "have no argument X"),
        ({"ensemble": 0}, "ensemble must be at least 1"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            quick(theta, x, **wrong)


# --- the posterior --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def conjugate() -> tuple[ps.sbi.Posterior, Array, Array, Array]:
    """A linear Gaussian problem: its posterior as learnt, an x, and the analytic mean and covariance."""
    prior = ps.sbi.Normal(0, cov=COV)
    theta = prior.sample(10_000, rng=0)
    x = theta + 0.5 * np.random.default_rng(1).normal(size=theta.shape)
    posterior = quick(theta, x, prior, epochs=30, learning_rate=1e-2, recipe=linear)
    observed = np.array([0.8, -0.5])
    cov = np.linalg.inv(np.linalg.inv(COV) + 4 * np.eye(2))
    return posterior, observed, cov @ (4 * observed), cov


def test_a_conjugate_posterior_is_the_analytic_one(conjugate: Any) -> None:
    posterior, x, mean, cov = conjugate
    draws = posterior.sample(20_000, x, rng=0)
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(draws.T), cov, atol=0.02)
    want = stats.multivariate_normal(mean, cov).logpdf(draws[:2000])
    assert np.mean(np.abs(posterior.log_prob(draws[:2000], x) - want)) < 0.1
    assert posterior.acceptance(x) == (1, 0)
    many = posterior.sample(100, [x, x + 1], rng=0)
    assert many.shape == (2, 100, 2)
    assert (many[0] == draws[:100]).all()
    assert posterior.log_prob(many, [x, x + 1]).shape == (2, 100)
    at = posterior.given(x)
    assert (at.sample(100, rng=0) == draws[:100]).all()
    assert (at.log_prob(draws[:9]) == posterior.log_prob(draws[:9], x)).all()
    assert at.sample_and_log_prob(9, rng=0)[0].shape == (9, 2)


def test_the_map_is_the_mode_within_the_support(conjugate: Any) -> None:
    posterior, x, mean, _ = conjugate
    np.testing.assert_allclose(posterior.map(x, rng=0), mean, atol=0.05)
    both = posterior.map([x, 2 * x], rng=0)
    assert (both[0] == posterior.given(x).map(rng=0)).all()
    grad = posterior.log_prob_and_grad(both, [x, 2 * x])[1]
    assert np.abs(grad).max() < 0.05
    # Where likelihoods rise beyond the edge of a box, no point of a grid within is better.
    theta, data = pairs(2000)
    edge = quick(theta, data, epochs=20, recipe=lambda dim, **k: ps.nsf(dim, layers=2, hidden=(16,), **k), ensemble=2)
    side = np.linspace(-1, 1, 201)
    grid = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    for at in ([1.4, 0.0], [1.9, -1.9]):
        found = edge.map(at, rng=0)
        assert (np.abs(found) <= 1).all()
        assert edge.log_prob(found, at) >= edge.log_prob(grid, at).max() - 1e-3
        assert edge.given(at).log_prob(found) == edge.log_prob(found, at)
    own = normal_posterior(HalfPlane())
    found = own.map([0.0], rng=0)
    assert own.prior.log_prob(found) > -np.inf
    assert np.abs(found).max() < 0.3


SHARES = {"half of the plane": (HalfPlane(), 0.5), "a disc": (Disc(), 1 - math.exp(-0.5))}


@pytest.mark.parametrize("name", SHARES)
def test_draws_outside_a_prior_of_ones_own_are_rejected_and_counted(name: str) -> None:
    prior, share = SHARES[name]
    posterior = normal_posterior(prior)
    value, error = posterior.acceptance([0.0])
    assert abs(value - share) < 4 * error < 0.03
    draws = posterior.sample(2000, [0.0], rng=0)
    assert (prior.log_prob(draws) > -np.inf).all()
    want = stats.norm.logpdf(draws).sum(axis=1) - math.log(share)
    np.testing.assert_allclose(posterior.log_prob(draws, [0.0]), want, atol=4 * error / value)
    assert posterior.log_prob([-1.0, -1.0], [0.0]) == -np.inf
    many = posterior.acceptance([[0.0], [1.0]])
    assert many.value.shape == many.error.shape == (2,)
    assert posterior.log_prob(np.zeros((2, 3, 2)) + 0.1, [[0.0], [1.0]]).shape == (2, 3)
    value, grad = posterior.log_prob_and_grad([[0.5, 0.1], [-3.0, 0.0]], [0.0])
    np.testing.assert_allclose(grad, [[-0.5, -0.1], [0.0, 0.0]], atol=1e-5)


@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("own", [False, True])
def test_a_posterior_integrates_to_one_within_its_prior(dim: int, own: bool) -> None:
    """Of one flow in one dimension, of two in two."""
    theta, x = pairs(1000, dim=dim)
    box = ps.sbi.BoxUniform(-1, 1, dim=dim)

    class Own:
        log_prob, sample = staticmethod(box.log_prob), staticmethod(box.sample)

    options = {"recipe": lambda d, **k: ps.nsf(d, layers=2, hidden=(16,), **k), "epochs": 10, "ensemble": dim}
    posterior = quick(theta, x, Own() if own else box, **options)
    side = (np.arange(401) + 0.5) / 200.5 - 1
    grid = np.stack(np.meshgrid(*[side] * dim), axis=-1).reshape(-1, dim)
    for at in ([0.1] * dim, [0.9] * dim):
        total = np.exp(posterior.log_prob(grid, at).astype(np.float64)).sum() * (2 / 401) ** dim
        value, error = posterior.acceptance(at)
        assert abs(total - 1) < 2e-3 + 4 * error / value
        assert own == (value < 0.999)
        assert (np.abs(posterior.sample(1000, at, rng=0)) <= 1).all()
        assert posterior.log_prob([1.01] * dim, at) == -np.inf


def test_a_prior_of_ones_own_with_a_support_needs_no_rejection() -> None:
    theta, x = pairs()
    box = ps.sbi.BoxUniform(-1, 1, dim=2)

    class Own:
        log_prob, sample = staticmethod(box.log_prob), staticmethod(box.sample)

    posterior = quick(theta, x, Own(), support=ps.interval(-1, 1, map="logit"))
    assert posterior.acceptance([0.9, 0.9]) == (1, 0)
    assert (posterior.flow.params == quick(theta, x).flow.params).all()


# --- truncated priors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [2.2, 40.0], ids=["drawn from the prior", "drawn from the posterior"])
def test_a_truncated_prior_is_the_prior_where_the_posterior_has_its_mass(side: float) -> None:
    prior = ps.sbi.BoxUniform(-side, side, dim=2)
    cut = normal_posterior(prior).truncated_prior([0.0], epsilon=0.1, rng=0)
    radius2 = 2 * math.log(10)  # of the disc that holds 90 % of a standard normal
    assert abs(cut.threshold + math.log(2 * math.pi) + radius2 / 2) < 0.1
    radius2 = -2 * (cut.threshold + math.log(2 * math.pi))
    mass = math.pi * radius2 / (4 * side**2)
    assert abs(cut.mass.value - mass) < 4 * cut.mass.error < 0.1 * mass
    theta = cut.sample(3000, rng=0)
    assert theta.shape == (3000, 2)
    assert stats.kstest((theta**2).sum(axis=1) / radius2, "uniform").pvalue > 1e-3
    np.testing.assert_allclose(cut.log_prob(theta), -math.log(4 * side**2 * cut.mass.value), rtol=1e-6)
    assert cut.log_prob([2.19, 2.19]) == -np.inf
    assert cut.support == prior.support


def test_a_truncated_prior_is_a_prior_for_a_further_round() -> None:
    theta, x = pairs()
    first = quick(theta, x, epochs=5)
    cut = first.truncated_prior([0.2, 0.1], epsilon=0.01, rng=0)
    more = cut.sample(200, rng=1)
    again = quick(more, more + 0.3 * np.random.default_rng(2).normal(size=more.shape), cut)
    assert 0 < again.acceptance([0.2, 0.1]).value < 1
    assert (cut.log_prob(again.sample(50, [0.2, 0.1], rng=0)) > -np.inf).all()
    assert (pickle.loads(pickle.dumps(cut)).sample(5, rng=0) == cut.sample(5, rng=0)).all()


# --- likelihoods ----------------------------------------------------------------------------------------------------


class Gauss:
    """What stands for a flow of x given theta: ``x ~ N(theta, 0.5^2)`` in each of two columns."""

    context_columns = columns = None

    def log_prob(self, x: Array, theta: Array) -> Array:
        return -2 * ((np.asarray(x) - theta) ** 2).sum(axis=-1) - math.log(0.5 * math.pi)


@pytest.mark.parametrize("measurements", [1, 4])
def test_emcee_draws_the_posterior_of_a_likelihood_within_its_prior(measurements: int) -> None:
    likelihood = ps.sbi.Likelihood(Gauss(), ps.sbi.BoxUniform(-1, 1, dim=2), everything(2))
    x = np.tile([0.9, 0.0], (measurements, 1))
    draws = likelihood.sample(2000, x if measurements > 1 else x[0], walkers=40, rng=0)
    assert (np.abs(draws) <= 1).all()
    sigma = 0.5 / math.sqrt(measurements)
    for column, mean in zip(draws.T, x[0], strict=True):
        want = stats.truncnorm((-1 - mean) / sigma, (1 - mean) / sigma, mean, sigma)
        assert abs(column.mean() - want.mean()) < 0.03
        assert abs(column.std() - want.std()) < 0.03
    potential = likelihood.potential(x)
    assert potential([0.0, 1.5]) == -np.inf
    want = measurements * stats.norm(0, 0.5).logpdf([0.9, 0.0]).sum() - math.log(4)
    np.testing.assert_allclose(potential([[0.0, 0.0], [np.nan, 0.0]]), [want, -np.inf])


def test_nle_learns_a_likelihood() -> None:
    theta, _ = pairs(3000)
    mean = theta @ [[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]]
    x = mean + 0.3 * np.random.default_rng(1).normal(size=mean.shape)
    prior = ps.sbi.BoxUniform(-1, 1, dim=2)
    options = {"recipe": linear, "epochs": 40, "learning_rate": 3e-2, "rng": 0, "progress": False}
    likelihood = ps.nle(theta, x, prior=prior, ensemble=1, **options)
    want = stats.norm(0, 0.3).logpdf(x[:200] - mean[:200]).sum(axis=1)
    assert np.mean(np.abs(likelihood.log_likelihood(theta[:200], x[:200]) - want)) < 0.15
    assert likelihood.log_likelihood(theta[:7], x[0]).shape == (7,)
    positive = ps.nle(theta, np.exp(x), prior=prior, ensemble=1, x_support="positive", **{**options, "epochs": 1})
    assert np.isneginf(positive.log_likelihood(theta[0], [-1.0, 1.0, 1.0]))
    draws = []
    for number, seed in enumerate((0, 0, 1)):
        np.random.seed(number)  # noqa: NPY002 (from which emcee begins where it is told nothing)
        with pytest.warns(ps.PenstockWarning, match="autocorrelation times long"):
            draws.append(likelihood.sample(10, x[0], max_steps=20, rng=seed))
    assert draws[0].shape == (10, 2)
    assert (draws[0] == draws[1]).all()
    assert (draws[0] != draws[2]).any()


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
def test_a_posterior_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    given = PRIORS[name][0]
    prior = as_prior(given)
    flow = ps.nsf(prior.dim, context_dim=2, layers=2, hidden=(4,), rng=0, support=prior.support or None)
    flow = ps.Ensemble(flow, 2, rng=0) if name.startswith("scipy") else flow
    posterior = ps.sbi.Posterior(flow, prior, everything(2), seed=5)
    path = tmp_path / "posterior.zip"
    posterior.save(path)
    if name in ("one's own", "scipy of 1.15"):
        with pytest.raises(ValueError, match="has no prior"):
            ps.sbi.load(path)
        again = ps.sbi.load(path, prior=given)
    else:
        again = ps.sbi.load(path)
    for twin in (again, pickle.loads(pickle.dumps(posterior))):
        theta = twin.sample(20, [0.1, 0.2], rng=0)
        assert (theta == posterior.sample(20, [0.1, 0.2], rng=0)).all()
        assert (twin.log_prob(theta, [0.1, 0.2]) == posterior.log_prob(theta, [0.1, 0.2])).all()
        np.testing.assert_allclose(twin.prior.log_prob(theta), prior.log_prob(theta), rtol=1e-12)
    again.save(tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == path.read_bytes()


def test_a_likelihood_comes_back_and_other_files_are_refused(tmp_path: Path) -> None:
    prior = ps.sbi.Normal(0, 1, dim=2)
    likelihood = ps.sbi.Likelihood(ps.realnvp(3, context_dim=2, rng=0), prior, everything(3))
    path = tmp_path / "likelihood.zip"
    likelihood.save(path)
    again = ps.sbi.load(path)
    assert again.potential([0.1, 0.2, 0.3])([0.5, 0.5]) == likelihood.potential([0.1, 0.2, 0.3])([0.5, 0.5])
    with zipfile.ZipFile(path) as archive:
        assert ps.from_bytes(archive.read("flow.safetensors")).spec == likelihood.flow.spec
        assert json.loads(archive.read("record.json"))["prior"] == {"kind": "normal", "mean": [0, 0], "std": [1, 1]}
    whole = path.read_bytes()
    for wrong in (b"", b"nothing", whole[:200], whole.replace(b"penstock sbi", b"penstock sbj")):
        path.write_bytes(wrong)
        with pytest.raises(ps.FileFormatError, match="cannot load"):
            ps.sbi.load(path)


@pytest.mark.parametrize(
    ("library", "call", "extra"),
    [
        ("scipy.optimize", lambda: normal_posterior(HalfPlane()).map([0.0]), "stats"),
        ("emcee", lambda: ps.sbi.Likelihood(Gauss(), ps.sbi.Normal(dim=2), everything(2)).sample(9, [0.0, 0.0]), "sbi"),
    ],
)
def test_what_needs_a_library_says_which_extra_has_it(
    library: str, call: Callable[[], Any], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"pip install 'penstock\[{extra}\]'"):
        call()


# --- checks ---------------------------------------------------------------------------------------------------------


def noisy(theta: Array, rng: np.random.Generator, noise: float = 0.5) -> Array:
    """The simulator of the conjugate problem."""
    return theta + noise * rng.normal(size=theta.shape)


def noisier(theta: Array, rng: np.random.Generator) -> Array:
    """With half as much noise again."""
    return noisy(theta, rng, 0.75)


def shifted(theta: Array, rng: np.random.Generator) -> Array:
    """With an offset in the second number."""
    return noisy(theta, rng) + np.array([0.0, 0.3])


def test_a_check_passes_the_right_simulator_and_finds_wrong_ones(conjugate: Any) -> None:
    posterior = conjugate[0]
    right = posterior.check(noisy, 400, draws=199, rng=3)
    assert right.passed
    assert str(right).startswith("400 simulations: the posterior is calibrated as far as they tell\n")
    assert right.sbc.draws == 199
    assert len(right.sbc.quantities) == 3
    for wrong in (noisier, shifted):
        found = posterior.check(wrong, 400, draws=199, rng=3)
        assert not found.passed
        assert not found.coverage.passed or wrong is shifted
        assert "is not calibrated" in str(found)
    with futures.ThreadPoolExecutor(2) as pool:
        pooled = posterior.check(noisy, 400, draws=199, rng=3, pool=pool)
    assert (pooled.x == right.x).all()
    assert (pooled.sbc.ranks == right.sbc.ranks).all()
    pictures = pytest.importorskip("matplotlib.pyplot")
    figure = right.plot()
    assert len(figure.axes) == 3
    pictures.close(figure)


@pytest.mark.parametrize(
    ("simulator", "options", "words"),
    [
        (lambda theta: theta[:, :1], {}, r"simulator\(theta\) must have shape \(rows, 2\)"),
        (lambda theta: theta[:1], {}, r"simulator\(theta\) must have \d+ rows, one for each of theta, got 1"),
        (lambda theta: theta, {"n": 39}, "n must be at least 40"),
        (lambda theta: theta, {"pool": 3}, "pool must have a method map, got int"),
        (3, {}, "simulator must be a function"),
    ],
)
def test_what_cannot_be_checked_is_refused_by_name(
    conjugate: Any, simulator: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        conjugate[0].check(simulator, **{"n": 40, **options})


def test_a_check_leaves_out_simulations_that_are_not_finite(conjugate: Any) -> None:
    def simulator(theta: Array) -> Array:
        x = noisy(theta, np.random.default_rng(0))
        return np.where(x > 2.5, np.nan, x)

    with pytest.warns(ps.DataWarning, match="of 60 simulations hold NaN or infinity"):
        found = conjugate[0].check(simulator, 60, draws=59, rng=0)
    assert len(found.theta) == len(found.x) < 60
