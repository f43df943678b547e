"""Laws of splines at the places where splines fail: knots, edges, tails, numbers without measure, theta of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import rng
from helpers import assert_close, assert_same_bits, both_dtypes, each_backend, inside

Array = np.ndarray[Any, Any]

SPLINES = (
    ps.RationalQuadratic(2, 1.0),
    ps.RationalQuadratic(8, 5.0),
    ps.RationalQuadratic(64, 3.0),
    ps.RationalQuadratic(5, 4.0, bin_width_min=1e-6, bin_height_min=1e-6, slope_min=1e-6),
    ps.RationalQuadratic(10, 0.5, bin_width_min=0.05, bin_height_min=0.09, slope_min=0.4),
)
# Sizes of theta: the usual, the saturated, and what overflows where nobody watches.
SIZES = (0.0, 1.0, 10.0, 50.0, 1e4, 1e30)

each_spline = pytest.mark.parametrize("spline", SPLINES, ids=lambda s: f"{s.bins}_bins_{s.bin_width_min:g}")
any_size = inside("size", SIZES)


def hard_numbers(spline: ps.RationalQuadratic, theta: Array, dtype: str) -> Array:
    """For each element: its knots on both axes, their neighbours, the edges, tails and their neighbours, (n, dim)."""
    x_k, y_k, _ = reference.knots(spline, theta.astype(np.float64))
    bound = np.asarray(spline.bound, dtype)
    own = np.concatenate([x_k, y_k, (x_k[:, 1:] + x_k[:, :-1]) / 2], axis=1).astype(dtype)
    tails = np.asarray([0.0, 1e-40, 1.5 * spline.bound, 10 * spline.bound, 1e9, 1e30, np.finfo(dtype).max], dtype)
    fixed = np.concatenate([[bound, -bound, np.nextafter(bound, np.inf), np.nextafter(bound, 0)], tails, -tails])
    own = np.concatenate([own, np.broadcast_to(fixed.astype(dtype), (len(own), len(fixed)))], axis=1)
    return np.concatenate([own, np.nextafter(own, 1e30), np.nextafter(own, -1e30)], axis=1).T.astype(dtype)


def thetas(spline: ps.RationalQuadratic, size: float, dtype: str, dim: int = 6) -> Array:
    """Random theta of a size, (dim, n_theta); two rows hold it with equal and with opposite signs."""
    theta = size * rng("splines", str(spline), size).standard_normal((dim, len(spline.theta_names)))
    theta[0] = size
    theta[1] = size * np.where(np.arange(theta.shape[1]) % 2, 1, -1)
    return theta.astype(np.float32).astype(dtype)


@each_spline
@each_backend
@both_dtypes
@any_size
def test_everything_is_finite_for_any_finite_input(
    spline: ps.RationalQuadratic, size: float, backend: str, dtype: str
) -> None:
    theta = thetas(spline, size, dtype)
    x = hard_numbers(spline, theta, dtype)
    dy, dl = np.ones_like(x), np.ones(len(x), dtype)
    for function, vjp in ((ps.ops.forward, ps.ops.backward), (ps.ops.inverse, ps.ops.inverse_backward)):
        y, log_det = function(spline, x, theta, backend=backend)
        assert np.isfinite(y).all()
        assert np.isfinite(log_det).all()
        outside = np.abs(x) > spline.bound
        assert_same_bits(y[outside], x[outside])
        assert (np.abs(y[~outside]) <= spline.bound * (1 + 8 * np.finfo(dtype).eps)).all()
        by_row = np.broadcast_to(theta, (len(x), *theta.shape))
        dx, dtheta = vjp(spline, x, by_row, dy, dl, backend=backend)
        assert np.isfinite(dx).all()
        assert np.isfinite(dtheta).all()
        assert (dx[outside] == 1).all()
        assert (dtheta[outside] == 0).all()


@each_spline
@each_backend
@any_size
def test_a_spline_is_the_one_of_the_paper_at_its_knots_and_between(
    spline: ps.RationalQuadratic, size: float, backend: str
) -> None:
    theta = thetas(spline, size, "float64")
    x = hard_numbers(spline, theta, "float64")
    y, _ = ps.ops.forward(spline, x, theta, backend=backend)
    expected, slope = reference.spline(spline, theta, x)
    # A number beside a knot may be counted to either side of it: the value is the same to rounding times the slope.
    assert_close(y, expected, 256, "float64", scale=np.exp(np.abs(slope)) * spline.bound)


@each_spline
@each_backend
@both_dtypes
@inside("size", [0.0, 1.0, 10.0])
def test_a_spline_rises_and_its_inverse_undoes_it(
    spline: ps.RationalQuadratic, size: float, backend: str, dtype: str
) -> None:
    theta = thetas(spline, size, dtype)
    x = np.linspace(-1.2 * spline.bound, 1.2 * spline.bound, 2001).astype(dtype)[:, None] * np.ones(len(theta), dtype)
    y, _ = ps.ops.forward(spline, x, theta, backend=backend)
    eps = np.finfo(dtype).eps * spline.bound
    assert (np.diff(y, axis=0) >= -64 * eps).all()
    back, _ = ps.ops.inverse(spline, y, theta, backend=backend)
    # What rounding y costs is divided by the slope, which rounds x too.
    slope = np.exp(reference.spline(spline, theta.astype(np.float64), back.astype(np.float64))[1])
    again = reference.spline(spline, theta.astype(np.float64), back.astype(np.float64))[0]
    assert (np.abs(again - y) <= 128 * eps * (1 + slope)).all()


@each_backend
@both_dtypes
def test_a_nan_of_theta_reaches_its_element_inside_the_box_and_outside(backend: str, dtype: str) -> None:
    spline = ps.RationalQuadratic(4, 1.0)
    x = np.asarray([[0.3, 0.3], [5.0, 5.0]], dtype)
    for j in (0, 5):
        theta = np.zeros((2, 2, len(spline.theta_names)), dtype)
        theta[:, 1, j] = np.nan
        for function in (ps.ops.forward, ps.ops.inverse):
            y, log_det = function(spline, x, theta, backend=backend)
            assert np.isnan(y[:, 1]).all()
            assert np.isfinite(y[:, 0]).all()
            assert np.isnan(log_det).all()
    y, _ = ps.ops.forward(spline, np.full((1, 2), np.nan, dtype), np.zeros_like(theta[:1]), backend=backend)
    assert np.isnan(y).all()


@each_backend
@both_dtypes
def test_a_whole_batch_in_the_tails_trains(backend: str, dtype: str) -> None:
    flow = ps.nsf(2, layers=2, hidden=(8,), bins=4, bound=0.5, dtype=dtype, rng=0, backend=backend)
    x = 10 + rng("tails").standard_normal((70, 2))
    loss, weight, grad = flow.loss_and_grad(x)
    assert np.isfinite(loss / weight)
    assert (grad == 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bins": 1}, "bins must lie between 2 and 64, got 1"),
        ({"bins": 65}, "bins must lie between 2 and 64, got 65"),
        ({"bound": 0}, "bound"),
        ({"bound": float("inf")}, "bound must be at most"),
        ({"bins": 4, "bin_width_min": 0.25}, "bin_width_min must be below 0.25, got 0.25"),
        ({"bin_height_min": 0.0}, "bin_height_min"),
        ({"slope_min": 0.5}, "slope_min must be below 0.5"),
    ],
)
def test_a_spline_that_cannot_be_says_why(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ps.RationalQuadratic(**wrong)


# -- the circle ---------------------------------------------------------------------------------

CIRCLE = ps.CircularRationalQuadratic(6)


@each_backend
@both_dtypes
@any_size
def test_a_circle_maps_any_finite_number_into_itself(size: float, backend: str, dtype: str) -> None:
    theta = thetas(CIRCLE, size, dtype)
    x = hard_numbers(CIRCLE, theta[:, :-1], dtype)
    dy, dl = np.ones_like(x), np.ones(len(x), dtype)
    by_row = np.broadcast_to(theta, (len(x), *theta.shape))
    for function, vjp in ((ps.ops.forward, ps.ops.backward), (ps.ops.inverse, ps.ops.inverse_backward)):
        y, log_det = function(CIRCLE, x, theta, backend=backend)
        assert np.isfinite(log_det).all()
        assert (np.abs(y) <= CIRCLE.bound * (1 + 8 * np.finfo(dtype).eps)).all()
        for gradient in vjp(CIRCLE, x, by_row, dy, dl, backend=backend):
            assert np.isfinite(gradient).all()


@each_backend
def test_whole_turns_change_nothing_and_the_seam_is_smooth(backend: str) -> None:
    theta = thetas(CIRCLE, 1.0, "float64")
    turn = 2 * CIRCLE.bound
    x = np.linspace(-3, 3, 50)[:, None] * np.ones(len(theta))
    y, log_det = ps.ops.forward(CIRCLE, x, theta, backend=backend)
    for turns in (-3, 1, 1000):
        other, other_log_det = ps.ops.forward(CIRCLE, x + turns * turn, theta, backend=backend)
        # Far away an angle has fewer digits.
        np.testing.assert_allclose(np.exp(1j * other), np.exp(1j * y), atol=1e-10)
        np.testing.assert_allclose(other_log_det, log_det, atol=1e-9)
    h = 1e-7
    seam = np.full((1, len(theta)), CIRCLE.bound)
    (before, slope_before), (after, slope_after) = (
        ps.ops.forward(CIRCLE, seam + side * h, theta, backend=backend) for side in (-1, 1)
    )
    np.testing.assert_allclose(np.exp(1j * before), np.exp(1j * after), atol=1e-5)
    np.testing.assert_allclose(slope_before, slope_after, atol=1e-5)
