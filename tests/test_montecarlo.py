"""Estimates from draws, draws that a condition accepts, importance weights and the tail that tells whether to trust them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, assign, bare, built, contexts, rng
from helpers import assert_same_bits, each_backend
from penstock import accepting, montecarlo
from penstock.weights import pareto_k, summary

Array = np.ndarray[Any, Any]

LOG_2PI = math.log(2 * math.pi)


def gaussian_flow(scale: Any = (2.0, 0.5), loc: Any = (1.0, -3.0), dtype: str = "float64") -> ps.Flow:
    """A flow that is a normal density of these widths."""
    flow = ps.realnvp(len(scale), layers=2, hidden=(4,), dtype=dtype, rng=0)
    assign(flow, buffers=np.concatenate([loc, scale]).astype(np.float64), initialised=True)
    return flow


# -- entropy and acceptance -------------------------------------------------------------------------


def test_the_entropy_of_a_normal_density_is_known() -> None:
    flow = gaussian_flow()
    exact = 1 + LOG_2PI + math.log(2 * 0.5)
    value, error = flow.entropy(40_000, rng=0)
    assert abs(value - exact) < 4 * error
    # The variance of -log p is dim / 2.
    assert error == pytest.approx(1 / math.sqrt(40_000), rel=0.03)
    assert type(value) is type(error) is float
    log_prob = flow.sample_and_log_prob(500, rng=3)[1]
    small = flow.entropy(500, rng=3)
    np.testing.assert_allclose(small, [-log_prob.mean(), log_prob.std(ddof=1) / math.sqrt(500)], rtol=1e-12)


def test_estimates_do_not_depend_on_how_draws_are_batched(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["coupling_given"]
    flow = bare(built(case, "numba" if "numba" in case.name else "auto", "float64"))
    c = contexts(case, 3, flow)
    middle = float(np.median(flow.sample(100, c[0], rng=0)[:, 0]))

    def where(x: Array) -> Array:
        return np.asarray(x[:, 0] > middle)

    def both() -> tuple[Any, ...]:
        return flow.entropy(1000, c, rng=1), flow.acceptance(where, 1000, c, rng=1)

    entropy, rate = both()
    monkeypatch.setattr(montecarlo, "CHUNK", 91)
    for got, expected in zip(both(), (entropy, rate), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-10)
    assert entropy.value.shape == entropy.error.shape == rate.value.shape == (3,)
    np.testing.assert_allclose(flow.given(c[0]).entropy(1000, rng=1), [entropy.value[0], entropy.error[0]], rtol=1e-10)
    draws = flow.sample(1000, c, rng=1)
    np.testing.assert_allclose(rate.value, (draws[..., 0] > middle).mean(axis=1))


def test_an_acceptance_of_none_or_all_has_an_error() -> None:
    flow = gaussian_flow()
    rate, error = flow.acceptance(lambda x: np.zeros(len(x), bool), 1000, rng=0)
    assert rate == 0
    assert 0 < error < 0.002
    assert flow.acceptance(lambda x: np.ones(len(x), bool), 1000, rng=0).value == 1
    half = flow.acceptance(lambda x: x[:, 0] > 1, 10_000, rng=0)
    assert half.error == pytest.approx(0.005, rel=0.01)
    for n in (1, 0, (3, 4), None):
        with pytest.raises(ValueError, match="n must be an integer of at least 2"):
            flow.acceptance(lambda x: x[:, 0] > 1, n)  # type: ignore[arg-type]


# -- a condition --------------------------------------------------------------------------------------


@each_backend
def test_accepted_draws_are_the_first_of_all(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = built(BY_NAME["coupling"], backend, "float32")
    every = flow.sample(4000, rng=7)
    low = float(np.quantile(every[:, 0], 0.7))
    seen: list[Any] = []

    def where(x: Array) -> Array:
        seen.append(x.shape)
        assert not x.flags.writeable
        return np.asarray(x[:, 0] > low)

    expected = every[every[:, 0] > low]
    for chunk in (1 << 16, 128, 7):
        monkeypatch.setattr(accepting, "CHUNK", chunk)
        for n in (0, 1, 100, 900):
            assert_same_bits(flow.sample(n, rng=7, where=where), expected[:n])
    assert_same_bits(flow.sample((3, 5), rng=7, where=where), expected[:15].reshape(3, 5, -1))
    assert_same_bits(flow.sample(rng=7, where=where), expected[0])
    out = np.zeros((9, flow.dim), np.float32)
    assert flow.sample(9, rng=7, where=where, out=out) is out
    assert_same_bits(out, expected[:9])


@each_backend
def test_each_context_has_its_own_accepted_draws(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = BY_NAME["coupling_given"]
    flow = bare(built(case, backend, "float64"))
    c = contexts(case, 5, flow)
    every = flow.sample(600, c, rng=2)
    low = float(np.quantile(every[..., 0], 0.6))

    def where(x: Array) -> Array:
        return np.asarray(x[:, 0] > low)

    for chunk in (1 << 16, 10):
        monkeypatch.setattr(accepting, "CHUNK", chunk)
        got = flow.sample(8, c, rng=2, where=where)
        assert got.shape == (5, 8, flow.dim)
        for j in range(5):
            expected = every[j][every[j][:, 0] > low][:8]
            assert_same_bits(got[j][: len(expected)], expected)
        assert_same_bits(flow.sample(8, c[2:4], rng=2, first_context=2, where=where), got[2:4])
        assert_same_bits(flow.sample(8, c[3], rng=2, first_context=3, where=where), got[3])
        assert_same_bits(flow.sample(None, c, rng=2, where=where), got[:, 0])
    assert_same_bits(flow.given(c[0]).sample(8, rng=2, where=where), got[0])


def test_a_condition_that_nothing_meets_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = gaussian_flow()
    asked = 0

    def never(x: Array) -> Array:
        nonlocal asked
        asked += len(x)
        return np.zeros(len(x), bool)

    with pytest.raises(RuntimeError, match="none of 1000000 draws in a row"):
        flow.sample(3, rng=0, where=never)
    assert 10**6 < asked < 1.1e6
    monkeypatch.setattr(accepting, "LIMIT", 50)
    number = -1

    def one_in(gap: int) -> Any:
        def where(x: Array) -> Array:
            nonlocal number
            numbers = number + 1 + np.arange(len(x))
            number += len(x)
            return (numbers + 1) % gap == 0

        return where

    assert flow.sample(5, rng=0, where=one_in(50)).shape == (5, 2)
    number = -1
    with pytest.raises(RuntimeError, match="none of 50 draws"):
        flow.sample(5, rng=0, where=one_in(52))


def test_a_condition_must_give_booleans() -> None:
    flow = gaussian_flow()
    for where, kind, words in (
        (lambda x: x[:, 0], TypeError, "where must return booleans"),
        (lambda x: x > 0, ValueError, r"where must return an array of shape \(5,\)"),
        (lambda x: True, ValueError, r"shape \(5,\), got \(\)"),
        (3, TypeError, "where must be a function"),
    ):  # fmt: skip
        with pytest.raises(kind, match=words):
            flow.sample(5, where=where)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="first=2 does not go with where"):
        flow.sample(5, first=2, where=lambda x: x[:, 0] > 0)


# -- importance weights -------------------------------------------------------------------------------


def narrow(x: Array) -> Array:
    """The normal density of width (1, 0.3) around the flow's own location, times e^2, without its gradient."""
    u = (x - [1.0, -3.0]) / [1.0, 0.3]
    return np.asarray(2 - 0.5 * (u**2).sum(axis=1) - math.log(0.3) - LOG_2PI)


def test_the_evidence_of_a_known_density() -> None:
    flow = gaussian_flow()
    found = ps.importance(flow, narrow, 20_000, rng=0)
    assert abs(found.log_evidence - 2) < 4 * found.log_evidence_error < 0.1
    assert_same_bits(found.samples, flow.sample(20_000, rng=0))
    np.testing.assert_allclose(
        found.log_weights, narrow(found.samples) - flow.log_prob(found.samples), rtol=1e-9, atol=1e-9
    )
    w = np.exp(found.log_weights)
    assert found.ess == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert found.log_evidence == pytest.approx(math.log(w.mean()))
    assert found.log_evidence_error == pytest.approx(w.std(ddof=1) / w.mean() / math.sqrt(len(w)), rel=1e-9)
    assert found.pareto_k < 0.5
    assert found._fields == ("samples", "log_weights", "log_evidence", "log_evidence_error", "ess", "pareto_k")


def test_the_error_of_the_evidence_is_one() -> None:
    flow = gaussian_flow()
    found = [ps.importance(flow, narrow, 400, rng=seed) for seed in range(200)]
    pulls = np.array([(f.log_evidence - 2) / f.log_evidence_error for f in found])
    assert 0.8 < pulls.std() < 1.2
    assert abs(pulls.mean()) < 0.3


def test_parts_and_gradients_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = gaussian_flow(dtype="float32")
    whole, sizes = ps.importance(flow, narrow, 1000, rng=0), []

    def in_parts(x: Array) -> Any:
        sizes.append(len(x))
        assert x.dtype == np.float64
        value = narrow(x)
        x[:] = 0  # it is the function's own
        return value, x

    monkeypatch.setattr(montecarlo, "CHUNK", 101)
    parts = ps.importance(flow, in_parts, 1000, rng=0)
    assert max(sizes) == 50
    assert_same_bits(parts.samples, whole.samples)
    assert_same_bits(parts.log_weights, whole.log_weights)


def test_a_density_that_is_zero_nan_or_infinite_is_told() -> None:
    flow = gaussian_flow()

    def half(x: Array) -> Array:
        return np.where(x[:, 0] > 1, narrow(x), -np.inf)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = ps.importance(flow, half, 20_000, rng=0)
    assert abs(found.log_evidence - (2 - math.log(2))) < 4 * found.log_evidence_error
    with pytest.warns(ps.TargetWarning, match=r"NaN for \d+ of 1000 draws, first at x = \["):
        lost = ps.importance(flow, lambda x: np.where(x[:, 0] > 1, narrow(x), np.nan), 1000, rng=0)
    assert_same_bits(lost.log_weights, ps.importance(flow, half, 1000, rng=0).log_weights)
    with pytest.warns(ps.TargetWarning, match="-inf for all of 1000 draws"):
        none = ps.importance(flow, lambda x: np.full(len(x), -np.inf), 1000, rng=0)
    assert none.log_evidence == -math.inf
    assert none.ess == 0
    assert math.isnan(none.log_evidence_error)
    assert math.isnan(none.pareto_k)
    with pytest.raises(ValueError, match=r"log_density\(x\) is inf at x = \["):
        ps.importance(flow, lambda x: np.full(len(x), np.inf), 1000, rng=0)


def test_a_heavy_tail_warns() -> None:
    flow = gaussian_flow((1.0, 1.0), (0.0, 0.0))
    with pytest.warns(ps.TargetWarning, match="heavy tail, pareto_k"):
        found = ps.importance(flow, lambda x: -0.5 * (x[:, 0] / 30) ** 2 - 0.5 * x[:, 1] ** 2, 20_000, rng=0)
    assert 0.7 < found.pareto_k < 1.5


@pytest.mark.parametrize(
    ("density", "kind", "words"),
    [
        (lambda x: np.zeros(len(x) + 1), ValueError, r"log_density\(x\) must have shape \(10,\), got \(11,\)"),
        (lambda x: "no", TypeError, r"log_density\(x\) must hold real numbers"),
        (lambda x: (1, 2, 3), ValueError, "got a tuple of 3"),
        ("no", TypeError, "log_density must be a function"),
    ],
)
def test_what_a_density_must_return(density: Any, kind: Any, words: str) -> None:
    with pytest.raises(kind, match=words):
        ps.importance(gaussian_flow(), density, 10)


def test_importance_takes_a_view_and_no_open_context() -> None:
    flow = ps.realnvp(2, context_dim=1, rng=0)
    with pytest.raises(ValueError, match=r"flow\.given\(context\)"):
        ps.importance(flow, narrow, 10)
    assert ps.importance(flow.given([0.0]), lambda x: -0.4 * (x**2).sum(axis=1), 100, rng=0).samples.shape == (100, 2)
    with pytest.raises(TypeError, match="flow must be a Flow, got str"):
        ps.importance("flow", narrow, 10)


# -- the tail ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [-0.3, 0.1, 0.4, 0.7, 1.0, 1.6])
def test_the_shape_of_generalised_pareto_weights_is_found(k: float) -> None:
    u = (np.arange(200_000) + 0.5) / 200_000
    w = (u**-k - 1) / k + 1  # all of it is tail
    assert pareto_k(np.log(rng("tail").permutation(w))) == pytest.approx(k, abs=0.06)
    # Units do not count, and e^1000 is no number.
    assert pareto_k(np.log(w) + 1000) == pytest.approx(pareto_k(np.log(w)), abs=1e-9)


def test_the_shape_is_that_of_the_published_recipe() -> None:
    # Zhang and Stephens (2009), one number at a time, and the prior of Vehtari et al. (2024).
    log_w = np.log(rng("recipe").pareto(1.5, 200) + 0.1)
    ordered = sorted(np.exp(log_w - log_w.max()).tolist())
    tail = [w - ordered[-41] for w in ordered[-40:]]
    m = 30 + math.floor(math.sqrt(40))
    theta = [
        1 / tail[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * tail[math.floor(40 / 4 + 0.5) - 1])
        for j in range(1, m + 1)
    ]

    def k_of(t: float) -> float:
        return sum(math.log1p(-t * x) for x in tail) / 40

    likelihood = [40 * (math.log(-t / k_of(t)) - k_of(t) - 1) for t in theta]
    weight = [1 / sum(math.exp(other - own) for other in likelihood) for own in likelihood]
    k = k_of(sum(t * w for t, w in zip(theta, weight, strict=True)))
    assert pareto_k(log_w) == pytest.approx((40 * k + 5) / 50, rel=1e-9)


def test_the_shape_agrees_with_maximum_likelihood() -> None:
    stats = pytest.importorskip("scipy.stats")
    w = rng("likelihood").lognormal(0, 1.2, 50_000)
    size = math.ceil(3 * math.sqrt(len(w)))
    ordered = np.sort(w)
    k, *_ = stats.genpareto.fit(ordered[-size:] - ordered[-size - 1], floc=0)
    assert pareto_k(np.log(w)) == pytest.approx((size * k + 5) / (size + 10), abs=0.03)


def test_tails_that_are_none() -> None:
    assert math.isnan(pareto_k(np.zeros(20)))
    assert pareto_k(np.zeros(1000)) == -math.inf
    assert pareto_k(np.where(np.arange(1000) < 3, 0.0, -np.inf)) == math.inf
    assert pareto_k(np.where(np.arange(1000) < 3, 0.0, -2000.0)) == math.inf
    assert math.isnan(pareto_k(np.full(1000, -np.inf)))
    assert summary(np.zeros(1000)).log_mean_error == 0
    assert math.isnan(summary(np.zeros(1)).log_mean_error)
