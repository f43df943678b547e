"""One dimension: distribution function, quantiles and intervals are those of the density; and the unit cube."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, CASES, assign, bare, built, contexts, rng
from helpers import assert_same_bits, each_backend, each_dtype, inside
from penstock import _normal

Array = np.ndarray[Any, Any]

ONE = [case for case in CASES if built(case, BACKENDS[0], "float32").dim == 1]
each_one = inside("case", ONE)


def falling(dtype: str = "float64", backend: str = "auto") -> ps.Flow:
    """A flow whose map turns the line around, with a context."""
    layers = [ps.LULinear(signs=(-1,)), ps.Elementwise(ps.Affine(), ps.MLP((5,), "tanh"))]
    flow = ps.Flow(ps.StandardNormal(1), layers, context_dim=2, dtype=dtype, rng=0, backend=backend)
    assign(flow, params=rng("falling").normal(0, 0.4, flow.n_params))
    return flow


def given(case: Any, backend: str, dtype: str) -> tuple[ps.Flow, Array | None]:
    """The flow of a case, and a context if it has one."""
    flow = bare(built(case, backend, dtype))
    return flow, contexts(case, 1, flow)[0] if flow.context_dim else None


def test_there_are_flows_of_one_dimension() -> None:
    assert len(ONE) >= 5
    assert any(case.conditional for case in ONE)


# -- the distribution function --------------------------------------------------------------------


@each_backend
@each_dtype
@each_one
def test_the_distribution_function_is_the_integral_of_the_density(case: Any, backend: str, dtype: str) -> None:
    flow, context = given(case, backend, dtype)
    # Between quantiles, with as many pieces as the kinks of a spline and the rounding of float32 need.
    ends = flow.quantile(np.array([0.02, 0.3, 0.9]), context)[:, 0]
    got = np.diff(flow.cdf(ends[:, None], context))
    for low, high, mass in zip(ends, ends[1:], got, strict=False):
        nodes = low + (high - low) * (np.arange(20_000) + 0.5) / 20_000
        density = np.exp(flow.log_prob(nodes[:, None], context).astype(np.float64))
        assert abs(density.mean() * (high - low) - mass) < (1e-7 if dtype == "float64" else 2e-5), case.name


@each_backend
@each_dtype
@each_one
def test_quantiles_invert_it_far_into_the_lower_tail(case: Any, backend: str, dtype: str) -> None:
    flow, context = given(case, backend, dtype)
    u = np.array([1e-200, 1e-30, 1e-8, 0.01, 0.3, 0.5, 0.9, 1 - 1e-9])
    x = flow.quantile(u, context)
    assert x.dtype == np.float64
    assert (np.diff(x[:, 0]) > 0).all()
    # An error of x of half an ulp moves the logarithm of u by about z^2, at 1e-200 z = 30.
    np.testing.assert_allclose(flow.cdf(x, context), u, rtol=1e-9)


@each_dtype
def test_a_map_that_turns_around_is_known_for_it(dtype: str) -> None:
    flow, c = falling(dtype), [0.3, -1.0]
    x = flow.quantile([0.1, 0.4, 0.8], c)
    z = flow.to_latent(x, c)[0]
    assert (np.diff(z[:, 0]) < 0).all()
    assert (np.diff(x[:, 0]) > 0).all()
    share = (flow.sample(20_000, c, rng=0)[:, 0] <= x).mean(axis=1)
    np.testing.assert_allclose(share, [0.1, 0.4, 0.8], atol=0.015)
    np.testing.assert_allclose(flow.cdf(x, c), [0.1, 0.4, 0.8], rtol=1e-12)
    assert flow.cdf([[-np.inf], [np.inf]], c).tolist() == [0, 1]
    assert flow.quantile([0, 1], c).tolist() == [[-np.inf], [np.inf]]
    assert flow.quantile(1e-300, c)[0] < flow.quantile(1e-3, c)[0]
    twice = ps.Flow(ps.StandardNormal(1), [ps.LULinear(signs=(-1,)), ps.LULinear(signs=(-1,))], rng=0)
    assert twice.cdf([-1.0]) == pytest.approx(0.158655, abs=1e-6)


@each_backend
@each_one
def test_it_rises_to_rounding(case: Any, backend: str) -> None:
    flow, context = given(case, backend, "float32")
    middle = flow.quantile(0.6, context)[0]
    x = middle + np.arange(4000)[:, None] * 4 * np.spacing(abs(middle) + 1)
    u = flow.cdf(x, context)
    assert np.diff(u).min() > -1e-13
    assert u[-1] > u[0]
    wide = flow.cdf(np.linspace(*flow.interval(1 - 1e-7, context), 5000)[:, None], context)
    assert np.diff(wide).min() > -1e-15


@each_backend
@each_one
@each_dtype
def test_infinite_rows_hold_nothing_or_all(case: Any, backend: str, dtype: str) -> None:
    flow, context = given(case, backend, dtype)
    assert flow.cdf([[-np.inf], [np.inf]], context).tolist() == [0, 1]
    assert flow.quantile([0, 1], context).tolist() == [[-np.inf], [np.inf]]


def test_shapes_are_those_of_the_log_density() -> None:
    flow = falling()
    c = rng("shapes").normal(size=(4, 2))
    each = c[:, None] + np.zeros((3, 1))
    blocks = [((4, 1), c), ((4, 3, 1), c), ((4, 3, 1), each)]
    for shape, context in [((1,), c[0]), ((1,), c), ((3, 1), c[0]), *blocks]:
        x = rng("x").normal(size=shape)
        u = flow.cdf(x, context)
        assert np.shape(u) == np.shape(flow.log_prob(x, context))
        assert np.asarray(u).dtype == np.float64
        back = flow.quantile(u, context)
        np.testing.assert_allclose(back, np.broadcast_to(x, back.shape), rtol=1e-9)
    for j in range(4):
        assert_same_bits(flow.given(c[j]).cdf([[0.2]]), flow.cdf([[0.2]], c[j]))
        assert_same_bits(flow.given(c[j]).quantile(0.2), flow.quantile(0.2, c)[j])
        for shortest in (False, True):
            ends = flow.interval(0.8, c, shortest=shortest)
            np.testing.assert_allclose(flow.given(c[j]).interval(0.8, shortest=shortest), ends[j])
    assert flow.interval(0.8, c[None]).shape == (1, 4, 2)
    assert flow.interval(0.8, c[:0]).shape == (0, 2)


def test_nan_stays_nan() -> None:
    flow = falling()
    u = flow.cdf([[np.nan], [0.0]], [[0.0, 0.0], [np.nan, 0.0]])
    assert np.isnan(u).all()


def test_what_is_kept_in_float64_follows_the_flow() -> None:
    flow = ps.nsf_ar(1, layers=2, hidden=(8,), rng=0)
    x = [[0.4]]
    before = flow.cdf(x)
    flow.params = flow.params + rng("follow").normal(0, 0.3, flow.n_params)
    after = flow.cdf(x)
    assert after != before
    np.testing.assert_allclose(after, flow.copy().astype("float64").cdf(x), rtol=1e-12)
    flow.columns = ["a"]
    assert_same_bits(flow.cdf({"a": [0.4]}), after)
    flow.columns = ["b"]
    assert_same_bits(flow.cdf({"b": [0.4]}), after)


def test_more_dimensions_and_bad_numbers_are_refused() -> None:
    flow = ps.realnvp(2, rng=0)
    for call in (lambda: flow.cdf([0.0, 0.0]), lambda: flow.quantile(0.5), lambda: flow.interval(0.5)):
        with pytest.raises(ValueError, match="one dimension, and this one has 2"):
            call()
    one = ps.nsf_ar(1, rng=0)
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"u must lie in \[0, 1\]"):
            one.quantile([0.5, bad])
        with pytest.raises(ValueError, match=r"u must lie in \[0, 1\]"):
            flow.prior_transform([0.5, bad])
    for bad in (0, 1, 1.5):
        with pytest.raises(ValueError, match="level must"):
            one.interval(bad)
    with pytest.raises(ValueError, match="u must have shape"):
        flow.prior_transform([0.5, 0.5, 0.5])


# -- intervals -------------------------------------------------------------------------------------


@each_one
@inside("shortest", (False, True))
def test_an_interval_holds_its_level(case: Any, shortest: bool) -> None:
    flow, context = given(case, BACKENDS[0], "float64")
    for level in (0.1, 0.683, 0.999):
        ends = flow.interval(level, context, shortest=shortest)
        u = flow.cdf(ends[:, None], context)
        assert u[1] - u[0] == pytest.approx(level, abs=1e-12)
        if not shortest:
            assert u[0] == pytest.approx((1 - level) / 2)


def test_the_shortest_interval_of_a_skewed_density_has_equal_densities_at_its_ends() -> None:
    x = rng("skewed").gamma(2.0, 1.0, (4000, 1))
    flow = ps.nsf_ar(1, layers=2, hidden=(16,), bins=8, rng=0).fit(x, epochs=30, rng=0).astype("float64")
    central, short = flow.interval(0.8), flow.interval(0.8, shortest=True)
    assert np.diff(short) < np.diff(central) - 0.1
    low, high = flow.log_prob(short[:, None])
    assert abs(low - high) < 1e-4
    widths = [np.diff(flow.quantile([a, a + 0.8])[:, 0])[0] for a in np.linspace(0.001, 0.199, 500)]
    assert np.diff(short)[0] <= min(widths) + 1e-12


# -- the normal distribution -----------------------------------------------------------------------


def test_the_normal_distribution_is_accurate_in_both_tails() -> None:
    special = pytest.importorskip("scipy.special")
    z = np.concatenate([np.linspace(-37.5, 8.2, 4001), [0.0, -np.inf, np.inf]])
    np.testing.assert_allclose(_normal.cdf(z), special.ndtr(z), rtol=5e-13)
    u = np.concatenate([10.0 ** np.linspace(-307, -1, 3000), np.linspace(0.001, 1 - 2**-53, 3000)])
    np.testing.assert_allclose(_normal.quantile(u), special.ndtri(u), rtol=2e-14, atol=1e-15)
    assert (np.diff(_normal.quantile(np.sort(u))) >= 0).all()


def test_the_normal_distribution_of_known_numbers() -> None:
    # DLMF 7.12: Phi(-10) by its asymptotic series; quartile and 97.5 % point from tables.
    assert _normal.cdf(np.array([-10.0]))[0] == pytest.approx(7.61985302416052606597e-24, rel=1e-14)
    found = _normal.quantile(np.array([0.75, 0.975, 1e-20]))
    np.testing.assert_allclose(found, [0.674489750196081743, 1.95996398454005424, -9.262340089798408], rtol=1e-14)


# -- the unit cube ---------------------------------------------------------------------------------


@each_backend
@each_dtype
def test_the_cube_becomes_draws_of_the_flow(backend: str, dtype: str) -> None:
    flow = ps.nsf_ar(3, layers=2, hidden=(8,), dtype=dtype, rng=0, backend=backend)
    flow.params = flow.params + rng("cube").normal(0, 0.2, flow.n_params).astype(dtype)
    u = rng("uniform").random((2000, 3))
    x = flow.prior_transform(u)
    assert x.dtype == flow.dtype
    z = flow.to_latent(x)[0].astype(np.float64)
    np.testing.assert_allclose(_normal.cdf(z), u, atol=1e-9 if dtype == "float64" else 3e-5)
    assert_same_bits(flow.prior_transform(u[5]), x[5])
    assert_same_bits(flow.prior_transform(u.reshape(20, 100, 3)), x.reshape(20, 100, 3))


@each_dtype
def test_the_ends_of_the_cube_are_finite_and_mirror_images(dtype: str) -> None:
    flow = ps.realnvp(2, dtype=dtype, rng=0)  # the identity
    x = flow.prior_transform([[0.0, 1.0], [2.0**-54, 1 - 2.0**-53], [1e-300, 0.5]])
    assert np.isfinite(x).all()
    assert x[0, 0] == -x[0, 1] == x[1, 0] == x[2, 0]
    assert x[0, 1] > 8.29 - 1e-3
    if dtype == "float64":
        assert x[1, 1] < x[0, 1]
    ends = falling(dtype).prior_transform([[0.0], [1.0]], [0.0, 0.0])
    assert np.isfinite(ends).all()
    assert_same_bits(falling(dtype).given([0.0, 0.0]).prior_transform([[0.0], [1.0]]), ends)
