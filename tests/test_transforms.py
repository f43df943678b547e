"""Laws of transforms by themselves, through ``penstock.ops``: in a flow or in none, with theta for each row or for all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import BACKENDS, Case, rng
from helpers import assert_close, assert_same_bits, both_dtypes, derivative, each_backend, each_kernel, inside

Array = np.ndarray[Any, Any]

any_theta = inside("shared", [False, True])
WAYS = ((ps.ops.forward, ps.ops.backward), (ps.ops.inverse, ps.ops.inverse_backward))


def drawn(case: Case, rows: int, shared: bool, dtype: str) -> tuple[Array, Array]:
    """Rows of three dimensions, and a random theta for each row or for all."""
    source = rng("transforms", case.name, rows, shared)
    x = case.spread * source.standard_normal((rows, 3))
    theta = source.standard_normal(((3,) if shared else (rows, 3)) + (len(case.transform.theta_names),))
    return x.astype(np.float32).astype(dtype), theta.astype(np.float32).astype(dtype)


@each_kernel
@each_backend
@both_dtypes
@any_theta
def test_a_transform_agrees_with_numpy(case: Case, backend: str, dtype: str, shared: bool) -> None:
    x, theta = drawn(case, 70, shared, dtype)
    wide = np.broadcast_to(theta.astype(np.float64), (70, *theta.shape[-2:]))
    ways = ((ps.ops.forward, reference.transform_forward), (ps.ops.inverse, reference.transform_inverse))
    for function, expected in ways:
        y, log_det = function(case.transform, x, theta, backend=backend)
        want, slope = expected(case.transform, wide, x.astype(np.float64))
        assert y.dtype == dtype
        assert_close(y, want, case.ulps, dtype, scale=np.exp(np.abs(slope)))
        assert_close(log_det, slope.sum(axis=1), case.ulps, dtype)
        running = np.full(70, 5.0)
        assert function(case.transform, x, theta, running, backend=backend)[1] is running
        assert_close(running, 5 + slope.sum(axis=1), case.ulps, dtype)


@each_kernel
@each_backend
@both_dtypes
def test_the_inverse_undoes_the_forward_map_both_ways(case: Case, backend: str, dtype: str) -> None:
    x, theta = drawn(case, 130, False, dtype)
    for one, other in ((ps.ops.forward, ps.ops.inverse), (ps.ops.inverse, ps.ops.forward)):
        y, log_det = one(case.transform, x, theta, backend=backend)
        back, log_det_back = other(case.transform, y, theta, backend=backend)
        # What y rounded is divided by the slope, which is e^log_det in every dimension at most.
        size = np.maximum(np.abs(x), np.abs(y)) * np.exp(np.abs(_slopes(case, one, x, theta, backend)))
        assert_close(back, x, case.ulps, dtype, scale=size)
        assert_close(-log_det_back, log_det, case.ulps, dtype, scale=size.max(axis=1))


def _slopes(case: Case, function: Any, x: Array, theta: Array, backend: str) -> Array:
    """The log-slope of each number."""
    columns = [function(case.transform, x[:, [j]], theta[:, [j]], backend=backend)[1] for j in range(x.shape[1])]
    return np.stack(columns, axis=1).astype(np.float64)


@each_kernel
@each_backend
def test_log_det_is_the_sum_of_numerical_log_slopes(case: Case, backend: str) -> None:
    x, theta = drawn(case, 70, False, "float64")
    h = 1e-6 if case.kinks else 1e-4
    for function in (ps.ops.forward, ps.ops.inverse):
        slopes = derivative(lambda t, f=function: f(case.transform, x + t, theta, backend=backend)[0], h)
        assert (slopes > 0).all()
        log_det = function(case.transform, x, theta, backend=backend)[1]
        np.testing.assert_allclose(log_det, np.log(slopes).sum(axis=1), rtol=0, atol=1e-5 if case.kinks else 1e-8)


@each_kernel
@each_backend
@any_theta
def test_gradients_match_differences(case: Case, backend: str, shared: bool) -> None:
    x, theta = drawn(case, 9, shared, "float64")
    source = rng("cotangents", case.name)
    dy, dl = source.standard_normal((9, 3)), source.standard_normal(9)
    # Where the slope bends, at the knots of a spline, differences take smaller steps and lose as many digits.
    step, allowed = (1e-6, 1e-6) if case.kinks else (1e-3, 1e-8)
    for function, vjp in WAYS:
        dx, dtheta = vjp(case.transform, x, theta, dy, dl, backend=backend)
        assert dtheta.shape == theta.shape

        def scalar(x: Array, theta: Array, function: Any = function) -> Array:
            y, log_det = function(case.transform, x, theta, backend=backend)
            return (y * dy).sum(axis=1) + log_det * dl

        for j in range(3):
            unit = np.eye(3)[j]
            expected = derivative(lambda h, unit=unit, f=scalar: f(x + h * unit, theta), step)
            np.testing.assert_allclose(dx[:, j], expected, rtol=allowed, atol=allowed)
            for k in range(theta.shape[-1]):
                unit = np.zeros((3, theta.shape[-1]))
                unit[j, k] = 1
                expected = derivative(lambda h, unit=unit, f=scalar: f(x, theta + h * unit), step)
                got = dtheta[..., j, k]
                np.testing.assert_allclose(got, expected.sum() if shared else expected, rtol=allowed, atol=allowed)


def _everything(case: Case, backend: str, dtype: str) -> list[Array]:
    """Values and gradients of both directions."""
    x, theta = drawn(case, 130, False, dtype)
    source = rng("cotangents", case.name)
    dy, dl = (source.standard_normal(n).astype(np.float32).astype(dtype) for n in ((130, 3), 130))
    results: list[Array] = []
    for function, vjp in WAYS:
        results += function(case.transform, x, theta, backend=backend)
        results += vjp(case.transform, x, theta, dy, dl, backend=backend)
    return results


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed; it is held against NumPy above")
@each_kernel
@both_dtypes
def test_backends_agree(case: Case, dtype: str) -> None:
    for one, two in zip(_everything(case, "cpp", dtype), _everything(case, "numba", dtype), strict=True):
        assert_close(one, two, case.ulps, dtype, scale=np.abs(two).max())


@each_kernel
@each_backend
def test_float32_agrees_with_float64(case: Case, backend: str) -> None:
    narrow, wide = _everything(case, backend, "float32"), _everything(case, backend, "float64")
    for one, two in zip(narrow, wide, strict=True):
        assert one.dtype == np.float32
        assert_close(one, two, case.ulps, "float32", scale=np.abs(two).max())


@each_kernel
@each_backend
@both_dtypes
@any_theta
def test_theta_of_zero_is_the_identity(case: Case, backend: str, dtype: str, shared: bool) -> None:
    x, theta = drawn(case, 70, shared, dtype)
    for function in (ps.ops.forward, ps.ops.inverse):
        y, log_det = function(case.transform, x, np.zeros_like(theta), backend=backend)
        # The knots of a spline are sums.
        ulps = 128 if case.kinks else 0
        assert_close(y, x, ulps, dtype)
        assert_close(log_det, np.zeros(70), ulps, dtype)


@each_kernel
@each_backend
@both_dtypes
def test_nan_of_a_number_or_of_its_theta_stays_in_its_row(case: Case, backend: str, dtype: str) -> None:
    x, theta = drawn(case, 130, False, dtype)
    dy, dl = np.ones_like(x), np.ones(130, dtype)
    bad = [0, 17, 63, 64, 129]
    keep = np.setdiff1d(np.arange(130), bad)
    for number in range(-1, theta.shape[-1]):
        other_x, other_theta = x.copy(), theta.copy()
        if number < 0:
            other_x[bad, 1] = np.nan
        else:
            other_theta[bad, 1, number] = np.nan
        for function, vjp in WAYS:
            y, log_det = function(case.transform, other_x, other_theta, backend=backend)
            clean, clean_log_det = function(case.transform, x, theta, backend=backend)
            if number < 0 or not case.kinks:  # of a spline's theta, an element reads its own bin's alone
                assert np.isnan(y[bad, 1]).all()
            assert_same_bits(y[:, [0, 2]], clean[:, [0, 2]])
            assert_same_bits(y[keep], clean[keep])
            assert_same_bits(log_det[keep], clean_log_det[keep])
            grads = vjp(case.transform, other_x, other_theta, dy, dl, backend=backend)
            for one, two in zip(grads, vjp(case.transform, x, theta, dy, dl, backend=backend), strict=True):
                assert_same_bits(one[keep], two[keep])


@each_backend
def test_the_base_density_agrees_with_its_formula(backend: str) -> None:
    z, d = rng("base").standard_normal((70, 3)), rng("cotangent").standard_normal(70)
    base = ps.StandardNormal(3)
    want = -0.5 * (z**2).sum(1) - 1.5 * np.log(2 * np.pi)
    assert_close(ps.ops.log_prob(base, z, backend=backend), want, 8, "float64")
    assert_close(ps.ops.log_prob_backward(base, z, d, backend=backend), -z * d[:, None], 4, "float64")
