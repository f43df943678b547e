"""What the LU layer promises beyond the laws that it shares with every layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import rng
from helpers import assert_close, both_dtypes, derivative, each_backend, inside

Array = np.ndarray[Any, Any]


def triangles(dim: int, *key: Any) -> tuple[Array, Array, tuple[int, ...], tuple[int, ...], Array]:
    """Random M and b, an order and signs, and the matrix W that they stand for."""
    source = rng("lu", dim, *key)
    m = source.standard_normal((dim, dim)) * 0.4 / np.sqrt(dim)
    order = tuple(int(i) for i in source.permutation(dim))
    signs = tuple(int(s) for s in source.choice([1, -1], dim))
    lower = np.tril(m, -1) + np.eye(dim)
    upper = np.triu(m, 1) + np.diag(np.array(signs) * np.exp(np.diag(m)))
    return m, source.standard_normal(dim), order, signs, (lower @ upper)[list(order)]


@each_backend
@both_dtypes
@inside("dim", [1, 2, 6, 7, 37, 130])
def test_lu_ops_agree_with_a_dense_matrix(dim: int, backend: str, dtype: str) -> None:
    m, b, order, signs, w = triangles(dim)
    x = rng("x", dim).standard_normal((70, dim))
    args = (m.astype(dtype), b.astype(dtype), order, signs)
    y, log_det = ps.ops.lu_forward(x.astype(dtype), *args, backend=backend)
    assert y.dtype == dtype
    size = np.abs(x) @ np.abs(w.T) + np.abs(b)
    assert_close(y, x @ w.T + b, 16 * np.sqrt(dim), dtype, scale=size)
    assert_close(log_det, np.full(70, np.linalg.slogdet(w)[1]), 64, dtype)
    assert ps.ops.lu_log_det(m) == pytest.approx(np.linalg.slogdet(w)[1], abs=1e-12 * dim)
    back, log_det_back = ps.ops.lu_inverse(y, *args, backend=backend)
    assert_close(back, x, 64 * np.sqrt(dim), dtype, scale=np.linalg.cond(w) * (1 + np.abs(x)))
    assert (log_det_back == -log_det).all()


@each_backend
@inside("dim", [1, 5, 19])
def test_lu_ops_gradients_match_differences(dim: int, backend: str) -> None:
    m, b, order, signs, _ = triangles(dim)
    source = rng("cotangents", dim)
    x, dy, dl = source.standard_normal((9, dim)), source.standard_normal((9, dim)), source.standard_normal(9)
    ways = ((ps.ops.lu_forward, ps.ops.lu_backward), (ps.ops.lu_inverse, ps.ops.lu_inverse_backward))
    for function, vjp in ways:
        dx, dm, db = vjp(x, m, dy, dl, b, order, signs, backend=backend)

        def scalar(x: Array, m: Array, b: Array, function: Any = function) -> Array:
            y, log_det = function(x, m, b, order, signs, backend=backend)
            return np.asarray((y * dy).sum() + (log_det * dl).sum())

        for _ in range(4):
            ex, em, eb = (source.standard_normal(a.shape) for a in (x, m, b))
            want = derivative(lambda h, e=ex, f=scalar: f(x + h * e, m, b), 1e-3)
            np.testing.assert_allclose((dx * ex).sum(), want, rtol=1e-8, atol=1e-8)
            want = derivative(lambda h, e=em, f=scalar: f(x, m + h * e, b), 1e-3)
            np.testing.assert_allclose((dm * em).sum(), want, rtol=1e-8, atol=1e-8)
            want = derivative(lambda h, e=eb, f=scalar: f(x, m, b + h * e), 1e-3)
            np.testing.assert_allclose((db * eb).sum(), want, rtol=1e-8, atol=1e-8)


def test_a_fresh_layer_is_its_permutation() -> None:
    flow = ps.Flow(ps.StandardNormal(4), [ps.LULinear((2, 0, 3, 1))], dtype="float64")
    x = rng("fresh").standard_normal((5, 4))
    z, log_det = flow.to_latent(x)
    assert (z == x[:, [2, 0, 3, 1]]).all()
    assert (log_det == 0).all()


@pytest.mark.filterwarnings("ignore:the flow has .* parameters:UserWarning")
def test_a_thousand_dimensions_work_in_both_directions_and_train() -> None:
    flow = ps.Flow(ps.StandardNormal(1024), [ps.LULinear()], rng=0)
    x = rng("wide").standard_normal((128, 1024)).astype(np.float32)
    flow.fit(x, epochs=1, batch_size=64, validation=0, progress=False)
    z, log_det = flow.to_latent(x)
    back, log_det_back = flow.to_data(z)
    np.testing.assert_allclose(back, x, atol=2e-4)
    np.testing.assert_allclose(log_det_back, -log_det, rtol=1e-6)


def test_training_learns_a_covariance() -> None:
    source = rng("covariance")
    root = np.linalg.qr(source.standard_normal((6, 6)))[0] * np.array([3, 1, 0.5, 2, 0.2, 1])
    x = source.standard_normal((20000, 6)) @ root.T
    flow = ps.Flow(ps.StandardNormal(6), [ps.LULinear()], rng=0)
    flow.fit(x, rng=0, epochs=40, batch_size=256, learning_rate=1e-2, validation=0, progress=False)
    fresh = source.standard_normal((50000, 6)) @ root.T
    log_q = flow.log_prob(fresh).astype(np.float64)
    white = fresh @ np.linalg.inv(root).T
    log_p = -0.5 * (white**2).sum(1) - 3 * np.log(2 * np.pi) - np.linalg.slogdet(root)[1]
    assert 0 <= (log_p - log_q).mean() < 5e-3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ps.LULinear("shuffled"), "order"),
        (lambda: ps.LULinear(signs=(1, 2)), "signs must hold 1 and -1"),
        (lambda: ps.LULinear(explicit="forward"), "explicit"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.LULinear((0, 1))]), r"order must hold each of 0\.\.2"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.LULinear(signs=(1, 1))]), "one sign for each of 3"),
        (lambda: ps.ops.lu_forward(np.zeros((2, 3)), np.zeros((3, 2))), r"lu must have shape \(dim, dim\)"),
        (lambda: ps.ops.lu_forward(np.zeros((2, 4)), np.zeros((3, 3))), r"x must have shape \(rows, 3\)"),
        (lambda: ps.ops.lu_forward(np.zeros((2, 3)), np.zeros((3, 3)), np.zeros(2)), r"bias must have shape \(3,\)"),
        (lambda: ps.ops.lu_inverse(np.zeros((2, 3)), np.full((3, 3), np.nan)), "must be finite"),
        (lambda: ps.ops.lu_forward(np.zeros((2, 3)), np.zeros((3, 3)), order="random"), "the permutation itself"),
    ],
)
def test_bad_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("recipe", ["realnvp", "nice", "glow"])
def test_recipes_mix_by_lu(recipe: str) -> None:
    flow = getattr(ps, recipe)(4, layers=4, mixing="lu", rng=0)
    assert any(isinstance(layer, ps.LULinear) for layer in flow.spec.layers)
    assert "LULinear" in repr(flow)
