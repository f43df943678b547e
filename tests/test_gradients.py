"""Laws of gradients: every hand-written one against fourth-order central differences.

In both directions, for arbitrary cotangents, in float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases import BY_NAME, ROWS, Case, built, fresh, points, rng
from helpers import (
    assert_same_bits,
    both_dtypes,
    derivative,
    each_backend,
    each_case,
    each_engine_case,
    each_small_case,
    engine_evaluate,
    engine_loss_and_grad,
    engine_of,
    engine_vjp,
    inside,
)

Array = np.ndarray[Any, Any]

# Smooth cases: h^4 f^(5) / 30 is below 1e-9 and eps f / h below 1e-12. Where a relu bends, h is so small that no unit
# of the fixed rows changes sides, and what is left is eps f / h.
STEP = {False: 2e-3, True: 1e-6}
ALLOWED = {False: 1e-7, True: 1e-6}


each_direction = inside("direction", ["to_latent", "to_data"])


def assert_gradient(actual: Array, expected: Array, case: Case) -> None:
    """Agreement relative to the largest entry: differences of a sum share its rounding."""
    assert np.shape(actual) == np.shape(expected)
    error = np.abs(actual - expected).max(initial=0.0)
    assert error <= ALLOWED[case.kinks] * max(1.0, np.abs(expected).max(initial=0.0)), f"off by {error:.3g}"


def directions(n: int, *key: Any) -> Array:
    """Unit vectors for some parameters, and a few random directions that reach all of them."""
    if n == 0:
        return np.zeros((0, 0))
    source = rng("directions", *key)
    chosen = np.eye(n)[source.choice(n, min(n, 12), replace=False)] if n < 2000 else np.zeros((0, n))
    mixed = source.standard_normal((6, n))
    return np.concatenate([chosen, mixed / np.linalg.norm(mixed, axis=1, keepdims=True)])


def maps(flow: Any) -> dict[str, Any]:
    """Each map with its vjp; a scalar function of the cotangents ties them."""
    return {
        "to_latent": (flow.to_latent, flow.to_latent_vjp),
        "to_data": (flow.to_data, flow.to_data_vjp),
    }


@each_case
@each_direction
def test_input_gradients_match_differences(case: Case, backend: str, direction: str) -> None:
    flow = built(case, backend, "float64")
    rows, source = 9, rng("gradient", case.name, direction)
    x = points(case, rows, flow, "gradient")
    dy, dl = source.standard_normal(x.shape), source.standard_normal(rows)
    function, vjp = maps(flow)[direction]
    dx = vjp(x, dy, dl)[0]

    def scalar(moved: Array) -> Array:
        y, log_det = function(moved)
        return (y * dy).sum(axis=1) + log_det * dl

    # Rows are independent, so one difference moves a column of all of them.
    expected = np.stack(
        [derivative(lambda h, j=j: scalar(x + h * np.eye(flow.dim)[j]), STEP[case.kinks]) for j in range(flow.dim)], 1
    )
    assert_gradient(dx, expected, case)


@each_case
@each_direction
def test_parameter_gradients_match_differences(case: Case, backend: str, direction: str) -> None:
    flow = fresh(case, backend, "float64")
    rows, source = 9, rng("gradient", case.name, direction)
    x = points(case, rows, flow, "gradient")
    dy, dl = source.standard_normal(x.shape), source.standard_normal(rows)
    d_params = maps(flow)[direction][1](x, dy, dl)[1]
    assert d_params.shape == (flow.n_params,)
    start = flow.params.copy()

    def scalar(params: Array) -> Array:
        flow.params = params
        y, log_det = maps(flow)[direction][0](x)
        return np.asarray((y * dy).sum() + (log_det * dl).sum())

    for v in directions(flow.n_params, case.name):
        expected = derivative(lambda h, v=v: scalar(start + h * v), STEP[case.kinks])
        assert_gradient(d_params @ v, expected, case)


@each_case
def test_log_prob_gradients_match_differences(case: Case, backend: str) -> None:
    flow = fresh(case, backend, "float64")
    x = points(case, 9, flow, "gradient")
    cotangent = rng("log_prob", case.name).standard_normal(9)
    dx, d_params = flow.log_prob_vjp(x, cotangent)[:2]
    expected = np.stack(
        [
            derivative(lambda h, j=j: cotangent * flow.log_prob(x + h * np.eye(flow.dim)[j]), STEP[case.kinks])
            for j in range(flow.dim)
        ],
        1,
    )
    assert_gradient(dx, expected, case)
    start = flow.params.copy()

    def scalar(params: Array) -> Array:
        flow.params = params
        return np.asarray((cotangent * flow.log_prob(x)).sum())

    for v in directions(flow.n_params, case.name):
        assert_gradient(d_params @ v, derivative(lambda h, v=v: scalar(start + h * v), STEP[case.kinks]), case)


@each_case
def test_loss_and_grad_is_minus_the_weighted_log_prob(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    x = points(case, 130, flow)
    weight = rng("weight", case.name).uniform(0, 2, 130)
    weight[::7] = 0
    for w in (None, weight):
        full = np.ones(130) if w is None else w
        loss, total, grad = flow.loss_and_grad(x, sample_weight=w)
        np.testing.assert_allclose(loss, -(full * flow.log_prob(x)).sum(), rtol=1e-13)
        np.testing.assert_allclose(total, full.sum(), rtol=1e-15)
        expected = -flow.log_prob_vjp(x, full)[1]
        np.testing.assert_allclose(grad, expected, rtol=1e-10, atol=1e-12 * np.abs(expected).max(initial=1.0))
        assert np.asarray(grad).dtype == np.float64


@each_engine_case
@both_dtypes
def test_log_prob_and_grad_is_the_vjp_of_ones(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 70, flow)
    log_prob, grad = flow.log_prob_and_grad(x)
    assert_same_bits(log_prob, flow.log_prob(x))
    assert_same_bits(grad, flow.log_prob_vjp(x, np.ones(70, dtype))[0])


@each_case
def test_float32_gradients_agree_with_float64(case: Case, backend: str) -> None:
    narrow, wide = built(case, backend, "float32"), built(case, backend, "float64")
    assert_same_bits(np.asarray(narrow.params, np.float64), np.asarray(wide.params))
    x = points(case, 130, narrow)
    source = rng("narrow", case.name)
    dy = source.standard_normal(x.shape).astype(np.float32)
    dl = source.standard_normal(130).astype(np.float32)
    for direction in ("to_latent", "to_data"):
        got = maps(narrow)[direction][1](x, dy, dl)
        want = maps(wide)[direction][1](x.astype(float), dy.astype(float), dl.astype(float))
        # A kink may fall on the other side in the other dtype; one such row must not hide a wrong formula in the rest.
        size = np.abs(want[0]).max(axis=1, keepdims=True)
        error = np.abs(got[0] - want[0]).max(axis=1) / (np.finfo("float32").eps * np.maximum(1, size[:, 0]))
        assert np.sort(error)[-3 if case.kinks else -1] <= 8 * case.ulps
        norm = np.linalg.norm(want[1])
        assert np.linalg.norm(got[1] - want[1]) <= (1e-3 if case.kinks else 8 * case.ulps * 1.2e-7) * max(norm, 1)


@each_small_case
@both_dtypes
def test_input_gradients_of_rows_do_not_know_each_other(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, max(ROWS), flow)
    source = rng("rows", case.name)
    dy, dl = source.standard_normal(x.shape).astype(dtype), source.standard_normal(len(x)).astype(dtype)
    for function, vjp in maps(flow).values():
        del function
        many = vjp(x, dy, dl)[0]
        for n in ROWS:
            assert_same_bits(vjp(x[:n], dy[:n], dl[:n])[0], many[:n])


@each_small_case
def test_parameter_gradients_add_up_over_batches(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    x = points(case, 1000, flow)
    loss, weight, grad = flow.loss_and_grad(x)
    for cut in ROWS:
        parts = [flow.loss_and_grad(x[:cut]), flow.loss_and_grad(x[cut:])]
        np.testing.assert_allclose(sum(p[0] for p in parts), loss, rtol=1e-12)
        assert sum(p[1] for p in parts) == weight
        np.testing.assert_allclose(
            sum(p[2] for p in parts), grad, rtol=1e-9, atol=1e-11 * np.abs(grad).max(initial=1.0)
        )


@each_engine_case
@both_dtypes
def test_parameter_gradients_accumulate_and_the_others_are_overwritten(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 130, flow)
    dy, dl = np.ones_like(x), np.ones(130, dtype)
    for to_data in (False, True):
        results = []
        for start in (0.0, 1000.0):
            d_x, d_params = np.full(x.shape, start, dtype), np.full(flow.n_params, start)
            engine_vjp(flow, to_data, x, dy, dl, d_x=d_x, d_params=d_params)
            results.append((d_x, d_params))
        assert_same_bits(results[0][0], results[1][0])
        np.testing.assert_allclose(results[1][1] - 1000, results[0][1], rtol=1e-9, atol=1e-9)
        assert np.abs(results[0][1]).max() > 0
    zero, started = np.zeros(flow.n_params), np.full(flow.n_params, 1000.0)
    engine_loss_and_grad(flow, x, zero)
    engine_loss_and_grad(flow, x, started)
    np.testing.assert_allclose(started - 1000, zero, rtol=1e-9, atol=1e-9)


@each_engine_case
@both_dtypes
def test_a_missing_cotangent_is_zero(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 70, flow)
    dy, dl = rng("missing").standard_normal(x.shape).astype(dtype), np.ones(70, dtype)
    for to_data in (False, True):
        for given, zeros in (((None, dl), (np.zeros_like(dy), dl)), ((dy, None), (dy, np.zeros_like(dl)))):
            got = []
            for pair in (given, zeros):
                d_x, d_params = np.empty_like(x), np.zeros(flow.n_params)
                engine_vjp(flow, to_data, x, *pair, d_x=d_x, d_params=d_params)
                got.append((d_x, d_params))
            np.testing.assert_array_equal(got[0][0], got[1][0])
            np.testing.assert_array_equal(got[0][1], got[1][1])


@each_engine_case
@both_dtypes
def test_the_log_det_of_a_vjp_has_the_bits_of_the_forward_pass(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 130, flow)
    for to_data, base in ((False, False), (True, False), (False, True)):
        for kind in (dtype, "float64"):
            forward, back = np.empty(130, kind), np.empty(130, kind)
            engine_evaluate(flow, to_data, x, base=base, log_det=forward)
            engine_vjp(flow, to_data, x, None, np.ones(130, dtype), base=base, log_det=back, d_x=np.empty_like(x))
            assert_same_bits(back, forward)


@each_engine_case
@both_dtypes
def test_rows_of_weight_zero_are_left_out_even_where_they_are_nan(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 200, flow)
    weight = np.ones(200)
    weight[[0, 5, 63, 64, 199]] = 0
    poisoned = x.copy()
    poisoned[weight == 0] = np.nan
    clean, bad = flow.loss_and_grad(x, sample_weight=weight), flow.loss_and_grad(poisoned, sample_weight=weight)
    assert clean[0] == bad[0]
    assert clean[1] == bad[1] == 195
    assert_same_bits(bad[2], clean[2])


@each_engine_case
def test_a_slice_that_starts_elsewhere_reads_the_same_rows(case: Case, backend: str) -> None:
    flow = built(case, backend, "float32")
    x = points(case, 1100, flow)
    whole = flow.log_prob_and_grad(x)[1]
    for start in (1, 63, 64, 500):
        assert_same_bits(flow.log_prob_and_grad(x[start:])[1], whole[start:])


@each_engine_case
@both_dtypes
def test_recomputing_the_activations_changes_no_bit(case: Case, backend: str, dtype: str) -> None:
    flow = fresh(case, backend, dtype)
    engine = engine_of(flow)
    if not hasattr(engine, "recompute"):
        pytest.skip("this backend has one way back")
    x = points(case, 300, flow)
    dz = rng("recompute").standard_normal(x.shape).astype(dtype)
    results = []
    before = engine.recompute
    try:
        for engine.recompute in (False, True):
            results.append(
                [*flow.to_latent_vjp(x, dz, None)[:2], *flow.to_data_vjp(x, dz, None)[:2], flow.loss_and_grad(x)[2]]
            )
    finally:
        engine.recompute = before
    for one, two in zip(*results, strict=True):
        assert_same_bits(one, two)


@pytest.mark.parametrize("name", ["coupling", "mixed_layers"])
@each_backend
def test_reparametrised_samples_have_the_gradient_of_to_data(name: str, backend: str) -> None:
    """d E[sum x] / d params by hand, through draws whose latents are known."""
    flow = fresh(BY_NAME[name], backend, "float64")
    x = flow.sample(50, rng=3)
    z = flow.to_latent(x)[0]
    d_params = flow.to_data_vjp(z, np.ones_like(x), np.zeros(50))[1]
    start = flow.params.copy()

    def total(params: Array) -> Array:
        flow.params = params
        return np.asarray(flow.sample(50, rng=3).sum())

    for v in directions(flow.n_params, name):
        expected = derivative(lambda h, v=v: total(start + h * v), 1e-3)
        np.testing.assert_allclose(d_params @ v, expected, rtol=1e-7, atol=1e-7)
