"""Laws of maps and densities: every case, on every backend, in both dtypes. What a case is stands in ``cases.py``.

How rows lie in memory, threads and outputs are the matter of ``test_memory.py``.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, ROWS, Case, assign, built, data_scale, latents, points, randomise, rng
from helpers import (
    assert_close,
    assert_integrates_to_one,
    assert_same_bits,
    both_dtypes,
    each_backend,
    each_backend_numba_in_ci,
    each_case,
    each_engine_case,
    each_small_case,
    engine_evaluate,
    inside,
    n_steps,
    row_size,
)
from penstock.recipes import RECIPES

Array = np.ndarray[Any, Any]

# -- the two directions -------------------------------------------------------------------------


@each_case
@both_dtypes
def test_to_data_undoes_to_latent(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 130, flow)
    z, log_det = flow.to_latent(x)
    back, log_det_back = flow.to_data(z)
    size = np.maximum(row_size(z), row_size(x))
    assert_close(back, x, case.ulps, dtype, scale=size)
    assert_close(-log_det_back, log_det, case.ulps, dtype, scale=size[:, 0])


@each_case
@both_dtypes
def test_to_latent_undoes_to_data(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    z = latents(case, 130, flow.dim, dtype)
    x, log_det = flow.to_data(z)
    back, log_det_back = flow.to_latent(x)
    size = np.maximum(row_size(z), row_size(x / data_scale(flow)[1]))
    assert_close(back, z, case.ulps, dtype, scale=size)
    assert_close(-log_det_back, log_det, case.ulps, dtype, scale=size[:, 0])


@each_small_case
def test_log_det_is_that_of_a_numerical_jacobian(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    rows, dim, h = 5, flow.dim, 1e-4 if not case.kinks else 1e-6
    x = points(case, rows, flow)
    steps = np.array([-2, -1, 1, 2]) * h
    # Row r of block (j, s) is row r with column j moved by steps[s].
    moved = np.tile(x, (dim, 4, 1, 1)) + np.einsum("jk,s->jsk", np.eye(dim), steps)[:, :, None, :]
    for function, log_det in ((flow.to_latent, flow.to_latent(x)[1]), (flow.to_data, flow.to_data(x)[1])):
        y = function(moved.reshape(-1, dim))[0].reshape(dim, 4, rows, dim)
        jacobian = np.einsum("s,jsri->rij", np.array([1, -8, 8, -1]) / (12 * h), y)
        sign, expected = np.linalg.slogdet(jacobian)
        assert (sign != 0).all()
        # Fourth-order differences leave h^4 and eps / h; both are below 1e-8 of the slopes here.
        np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-7 if not case.kinks else 1e-5)


@each_case
@both_dtypes
def test_log_prob_is_base_density_plus_log_det(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 65, flow)
    z, log_det = flow.to_latent(x)
    wide = np.asarray(z, np.float64)
    expected = -0.5 * (wide**2).sum(axis=1) - 0.5 * flow.dim * math.log(2 * math.pi) + np.asarray(log_det, np.float64)
    assert_close(flow.log_prob(x), expected, 8, dtype, scale=np.abs(log_det))


@each_case
@both_dtypes
def test_a_fresh_flow_is_the_identity(case: Case, backend: str, dtype: str) -> None:
    flow = case.build(dtype=dtype, backend=backend)
    x = latents(case, 67, flow.dim, dtype)
    z, log_det = flow.to_latent(x)
    if case.identity:
        order = np.array(_columns(flow))
        for moved in (z[:, order], flow.to_data(z)[0]):
            if case.fresh_ulps:
                assert_close(moved, x, case.fresh_ulps, dtype)
            else:
                assert_same_bits(moved, x)
    assert np.abs(log_det).max() <= case.fresh_ulps * np.finfo(dtype).eps
    assert not flow.initialised


def _columns(flow: ps.Flow) -> list[int]:
    """Where each data column sits in the latent of a flow that only permutes."""
    order = list(range(flow.dim))
    for layer in flow.spec.layers:
        if isinstance(layer, ps.Permutation):
            own = list(reversed(range(flow.dim))) if layer.order == "reverse" else list(layer.order)
            order = [order[i] for i in own]
    return order


@each_engine_case
@both_dtypes
def test_ranges_of_steps_compose(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, n = points(case, 130, flow), n_steps(flow)
    whole, log_det = flow.to_latent(x)
    for cut in range(n + 1):
        middle, first = _evaluate(flow, False, cut, n, x)
        z, second = _evaluate(flow, False, 0, cut, middle)
        assert_same_bits(z, whole)
        np.testing.assert_allclose(
            first + second, log_det, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps * flow.dim
        )
    for cut in range(n):
        middle, first = _evaluate(flow, True, 0, cut, whole)
        x2, second = _evaluate(flow, True, cut, n, middle)
        assert_same_bits(x2, flow.to_data(whole)[0])


def _evaluate(flow: ps.Flow, to_data: bool, first: int, last: int, x: Array) -> tuple[Array, Array]:
    out, log_det = np.full((len(x), flow.dim), np.nan, flow.dtype), np.full(len(x), np.nan)
    engine_evaluate(flow, to_data, x, first=first, last=last, out=out, log_det=log_det)
    return out, log_det


# -- densities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elementwise_one_dim", "no_layers", "realnvp_relu", "nsf_one_dim", "nsf_relu"])
@each_backend
@both_dtypes
def test_the_density_integrates_to_one(name: str, backend: str, dtype: str) -> None:
    assert_integrates_to_one(built(BY_NAME[name], backend, dtype))


@pytest.mark.filterwarnings("ignore:.* at dim=1:UserWarning")
@pytest.mark.parametrize("dim", [1, 2])
@pytest.mark.parametrize("recipe", RECIPES)
@each_backend_numba_in_ci
def test_the_density_of_every_recipe_integrates_to_one(recipe: str, backend: str, dim: int) -> None:
    flow = getattr(ps, recipe)(dim, layers=2, hidden=(8,), activation="silu", dtype="float64", rng=1, backend=backend)
    randomise(flow, 0.3, "integral", recipe, dim)
    # Splines bend at their knots, where a sum over cells converges slowly.
    assert_integrates_to_one(flow, 3e-5 if recipe.startswith("nsf") else 3e-6)


@inside("seed", range(3))
@each_backend
def test_the_density_of_couplings_in_both_directions_integrates_to_one(seed: int, backend: str) -> None:
    layers = [
        ps.Coupling(ps.Affine(), ps.MLP((8,), "tanh"), split="half"),
        ps.Coupling(ps.Affine(), ps.MLP((8,), "silu"), split="half_swapped", explicit="to_data"),
        ps.ActNorm(),
    ]
    flow = ps.Flow(ps.StandardNormal(2), layers, dtype="float64", rng=seed, backend=backend)
    flow.params = 0.6 * rng("integral", seed).standard_normal(flow.n_params)
    assert_integrates_to_one(flow)


@each_small_case
@both_dtypes
def test_samples_carry_their_own_density(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, log_prob = flow.sample_and_log_prob(130, rng=11)
    assert_same_bits(flow.sample(130, rng=11), x)
    assert_close(flow.log_prob(x), log_prob, case.ulps, dtype, scale=row_size(x)[:, 0])


@each_backend
def test_samples_have_the_moments_of_the_density(backend: str) -> None:
    flow = built(BY_NAME["elementwise_to_data"], backend, "float64")
    n = 200_000
    z = flow.to_latent(flow.sample(n, rng=5))[0]
    # Five standard errors of a mean, a variance and a correlation of n normal draws.
    assert np.abs(z.mean(axis=0)).max() < 5 / math.sqrt(n)
    assert np.abs(np.cov(z.T) - np.eye(flow.dim)).max() < 5 * math.sqrt(2 / n)
    assert np.abs((z**3).mean(axis=0)).max() < 5 * math.sqrt(15 / n)
    assert np.abs((z**4).mean(axis=0) - 3).max() < 5 * math.sqrt(96 / n)


@each_engine_case
@both_dtypes
def test_more_draws_change_no_other_draw(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    many = flow.sample(1000, rng=9)
    for n in ROWS:
        assert_same_bits(flow.sample(n, rng=9), many[:n])
    assert not np.array_equal(flow.sample(10, rng=10), many[:10])


@each_backend
def test_a_generator_is_advanced_once_a_call(backend: str) -> None:
    flow = built(BY_NAME["mixed_layers"], backend, "float32")
    source = np.random.default_rng(3)
    first, second = flow.sample(5, rng=source), flow.sample(5, rng=source)
    assert not np.array_equal(first, second)
    again = np.random.default_rng(3)
    assert_same_bits(flow.sample(7, rng=again)[:5], first)
    assert_same_bits(flow.sample(2, rng=again), second[:2])


@each_backend
def test_no_call_touches_the_global_random_state(backend: str) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    flow = built(BY_NAME["coupling"], backend, "float32")
    flow.sample(10)
    flow.copy().fit(points(BY_NAME["coupling"], 100, flow), epochs=1, batch_size=50, validation=0.1)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[union-attr]  # noqa: NPY002


# -- rows do not know each other ----------------------------------------------------------------


@each_case
@both_dtypes
def test_a_row_has_the_same_bits_in_a_batch_of_any_size(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, max(ROWS), flow)
    for function in (flow.to_latent, flow.to_data):
        many, log_det = function(x)
        for rows in ROWS:
            few, log_det_few = function(x[:rows])
            assert few.shape == (rows, flow.dim)
            assert few.dtype == flow.dtype
            assert_same_bits(few, many[:rows])
            assert_same_bits(log_det_few, log_det[:rows])
            # The same rows at another place within their tile.
            last, log_det_last = function(x[len(x) - rows :])
            assert_same_bits(last, many[len(x) - rows :])
            assert_same_bits(log_det_last, log_det[len(x) - rows :])
    density = flow.log_prob(x)
    for rows in ROWS:
        assert_same_bits(flow.log_prob(x[:rows]), density[:rows])


@each_small_case
@both_dtypes
def test_a_single_row_has_the_bits_it_has_in_a_batch(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 70, flow)
    together, z = flow.log_prob(x), flow.to_latent(x)[0]
    grad = flow.log_prob_and_grad(x)[1]
    for i in (0, 3, 69):
        one = flow.log_prob(x[i])
        assert np.shape(one) == ()
        assert_same_bits(one, together[i])
        assert_same_bits(flow.to_latent(x[i])[0], z[i])
        assert_same_bits(flow.log_prob_and_grad(x[i])[1], grad[i])


@each_small_case
@both_dtypes
def test_permuting_the_rows_permutes_the_results(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 150, flow)
    order = rng("order").permutation(len(x))
    cotangent = rng("cotangent").standard_normal(len(x)).astype(dtype)
    assert_same_bits(flow.log_prob(x[order]), flow.log_prob(x)[order])
    assert_same_bits(flow.log_prob_vjp(x[order], cotangent[order])[0], flow.log_prob_vjp(x, cotangent)[0][order])


@each_engine_case
@both_dtypes
def test_three_axes_are_blocks_of_rows(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 60, flow)
    blocks = x.reshape(5, 12, flow.dim)
    assert_same_bits(flow.log_prob(blocks), flow.log_prob(x).reshape(5, 12))
    z, log_det = flow.to_latent(blocks)
    assert_same_bits(z.reshape(60, -1), flow.to_latent(x)[0])
    assert log_det.shape == (5, 12)


@each_case
@both_dtypes
def test_nan_stays_in_its_row(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    clean = points(case, 130, flow)
    bad = [0, 17, 63, 64, 129]
    keep = np.setdiff1d(np.arange(130), bad)
    grad = flow.log_prob_and_grad(clean)[1]
    for column in range(min(flow.dim, 6)):
        x = clean.copy()
        x[bad, column] = np.nan
        log_prob = flow.log_prob(x)
        assert np.isnan(log_prob[bad]).all()
        assert_same_bits(log_prob[keep], flow.log_prob(clean)[keep])
        for function in (flow.to_latent, flow.to_data):
            y, log_det = function(x)
            assert np.isnan(y[bad]).any(axis=1).all()
            assert_same_bits(y[keep], function(clean)[0][keep])
            assert_same_bits(log_det[keep], function(clean)[1][keep])
        moved = flow.log_prob_and_grad(x)[1]
        assert_same_bits(moved[keep], grad[keep])
        assert np.isnan(moved[bad]).any(axis=1).all()
        loss, _, d_params = flow.loss_and_grad(x)
        assert math.isnan(loss)
        assert not np.isfinite(d_params).all() or not flow.n_params


# -- numbers of any size -------------------------------------------------------------------------


@each_case
@both_dtypes
def test_a_finite_row_has_a_density_that_is_finite_or_zero(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    top = float(np.finfo(dtype).max)
    signs = rng("signs", case.name).choice([-1.0, 1.0], (20, flow.dim))
    for value in (0.0, -0.0, float(np.finfo(dtype).smallest_subnormal), 1e-30, 1e4, -1e4, 1e9):
        assert np.isfinite(flow.log_prob((signs * value).astype(dtype))).all()
    # Squares overflow here, and log p is the -inf that mathematics has too, unless a layer made the row smaller.
    for value in (1e4 * math.sqrt(top), 1e-6 * top):
        log_prob = flow.log_prob((signs * value).astype(dtype))
        assert not np.isnan(log_prob).any()
        assert not np.isposinf(log_prob).any()
        assert np.isneginf(log_prob).mean() > 0.5


@each_backend
def test_a_large_offset_costs_a_float32_flow_nothing(backend: str) -> None:
    flow = built(BY_NAME["coupling"], backend, "float32").copy()
    dim = flow.dim
    plain = np.concatenate([np.zeros(dim), np.ones(dim)])
    u = rng("offset").standard_normal((100, dim)).astype(np.float32).astype(np.float64)
    assign(flow, buffers=plain)
    expected = flow.log_prob(u)
    # 2^33 + u is exact to 2^-20 in float64, and far beyond float32.
    offset = 2.0**33
    u = np.round(u * 2**18) / 2**18
    expected = flow.log_prob(u)
    assign(flow, buffers=np.concatenate([np.full(dim, offset), np.ones(dim)]))
    assert_same_bits(flow.log_prob(u + offset), expected)


@each_backend
def test_a_float64_number_beyond_float32_is_not_turned_into_nan(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [ps.Elementwise(), ps.ActNorm()], backend=backend)
    far = flow.log_prob(np.array([[1e300, 0, 0], [-1e300, 1, 1], [0, 0, 0]]))
    assert (far[:2] == -np.inf).all()
    assert np.isfinite(far[2])


@each_backend
def test_the_gradient_beyond_the_clamp_of_the_scale_is_that_of_the_clamped_map(backend: str) -> None:
    theta = np.array([[3e30, 0.5], [-3e30, 0.5], [0.7, 0.5]])
    x = np.array([1e30, 1e30, 2.0])
    dx, dtheta = ps.ops.backward(ps.Affine(), x, theta, np.ones(3), 1.0, backend=backend)
    assert (dtheta[:2, 0] == 0).all()
    assert dtheta[2, 0] != 0
    np.testing.assert_allclose(dx[:2], np.exp([3.0, -3.0]), rtol=1e-12)
