"""Laws of conditions: a context belongs to its row and to no other, shared or not, in both directions, forth and back."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import (
    BACKENDS,
    BY_NAME,
    ROWS,
    Case,
    assign,
    bare,
    built,
    context_scale,
    contexts,
    fresh,
    latents,
    points,
    rng,
    standardisation,
)
from helpers import (
    LAYOUTS,
    assert_close,
    assert_integrates_to_one,
    assert_same_bits,
    both_dtypes,
    derivative,
    each_backend,
    each_conditional_case,
    engine_evaluate,
    engine_of,
    engine_vjp,
    inside,
    packed_of,
    row_size,
    sealed,
)
from penstock.cli import main
from penstock.recipes import RECIPES

Array = np.ndarray[Any, Any]

ENGINE = pytest.mark.parametrize(
    "case", [BY_NAME["coupling_given_odd_widths"], BY_NAME["embedding"]], ids=lambda c: c.name
)


def prepared(case: Case, backend: str, dtype: str, rows: int) -> tuple[ps.Flow, Array, Array]:
    """A flow that takes its context, with rows and a context for each."""
    flow = bare(built(case, backend, dtype))
    return flow, points(case, rows, flow), contexts(case, rows, flow)


# -- values -------------------------------------------------------------------------------------


@each_conditional_case
@both_dtypes
def test_rows_with_contexts_of_their_own_agree_with_numpy(case: Case, backend: str, dtype: str) -> None:
    flow, x, c = prepared(case, backend, dtype, 200)
    z = latents(case, 200, flow.dim, dtype)
    for rows, function, expected in ((x, flow.to_latent, reference.to_latent), (z, flow.to_data, reference.to_data)):
        out, log_det = function(rows, c)
        want, want_log_det = expected(flow, rows, c)
        size = np.maximum(row_size(want), row_size(rows))
        assert_close(out, want, case.ulps, dtype, scale=size)
        assert_close(log_det, want_log_det, case.ulps, dtype, scale=size[:, 0])
    assert_close(flow.log_prob(x, c), reference.log_prob(flow, x, c), case.ulps, dtype, scale=row_size(x)[:, 0])
    assert flow.score(x, c) == pytest.approx(reference.log_prob(flow, x, c).mean(), rel=1e-4)
    back, _ = flow.to_data(flow.to_latent(x, c)[0], c)
    assert_close(back, x, case.ulps, dtype, scale=np.maximum(row_size(flow.to_latent(x, c)[0]), row_size(x)))


@each_conditional_case
@both_dtypes
def test_swapping_rows_of_context_swaps_results(case: Case, backend: str, dtype: str) -> None:
    flow, x, c = prepared(case, backend, dtype, 150)
    same = np.repeat(x[:1], len(c), axis=0)
    order = rng("order").permutation(len(c))
    results = flow.log_prob(same, c)
    assert len(np.unique(results)) > 140
    assert_same_bits(flow.log_prob(same, c[order]), results[order])
    assert_same_bits(flow.log_prob(x[order], c[order]), flow.log_prob(x, c)[order])
    for function in (flow.to_latent, flow.to_data):
        y, log_det = function(same, c)
        moved, log_det_moved = function(same, c[order])
        assert_same_bits(moved, y[order])
        assert_same_bits(log_det_moved, log_det[order])
    grads = flow.log_prob_and_grad(same, c, wrt=("x", "context"))[1]
    for one, two in zip(flow.log_prob_and_grad(same, c[order], wrt=("x", "context"))[1], grads, strict=True):
        assert_same_bits(one, two[order])


@each_conditional_case
@both_dtypes
@inside("rows", [1, 2, 63, 130])
def test_a_shared_context_gives_the_bits_of_the_repeated_one(case: Case, backend: str, dtype: str, rows: int) -> None:
    flow, x, c = prepared(case, backend, dtype, rows)
    shared, repeated = c[0], np.repeat(c[:1], rows, axis=0)
    source = rng("shared", case.name)
    dy, dl = source.standard_normal(x.shape).astype(dtype), source.standard_normal(rows).astype(dtype)
    assert_same_bits(flow.log_prob(x, shared), flow.log_prob(x, repeated))
    assert flow.score(x, shared) == flow.score(x, repeated)
    assert_same_bits(flow.log_prob_and_grad(x, shared)[1], flow.log_prob_and_grad(x, repeated)[1])
    for name in ("to_latent", "to_data"):
        for one, two in zip(getattr(flow, name)(x, shared), getattr(flow, name)(x, repeated), strict=True):
            assert_same_bits(one, two)
        vjp = getattr(flow, f"{name}_vjp")
        (dx, dp, dc), (dx2, dp2, dc2) = vjp(x, dy, dl, shared), vjp(x, dy, dl, repeated)
        assert_same_bits(dx, dx2)
        assert_same_bits(dp, dp2)
        assert dc.dtype == np.float64
        assert dc2.dtype == dtype
        np.testing.assert_allclose(dc, dc2.sum(axis=0, dtype=np.float64), rtol=1e-12, atol=1e-12 * np.abs(dc2).sum())
    one, two = flow.loss_and_grad(x, shared), flow.loss_and_grad(x, repeated)
    assert one[:2] == two[:2]
    assert_same_bits(one[2], two[2])


@each_conditional_case
@both_dtypes
@inside("blocks_of", [(5, 13), (3, 70), (13, 1), (1, 65)])
def test_blocks_have_a_context_each(case: Case, backend: str, dtype: str, blocks_of: tuple[int, int]) -> None:
    m, n = blocks_of
    flow, x, _ = prepared(case, backend, dtype, m * n)
    c, blocks = contexts(case, m, flow, "blocks"), x.reshape(m, n, flow.dim)
    repeated = np.repeat(c, n, axis=0)
    assert_same_bits(flow.log_prob(blocks, c), flow.log_prob(x, repeated).reshape(m, n))
    assert_same_bits(flow.log_prob(blocks, c[0]), flow.log_prob(x, c[0]).reshape(m, n))
    z, log_det = flow.to_latent(blocks, c)
    assert_same_bits(z, flow.to_latent(x, repeated)[0].reshape(blocks.shape))
    assert log_det.shape == (m, n)
    log_prob, (dx, dc) = flow.log_prob_and_grad(blocks, c, wrt=("x", "context"))
    _, (dx2, dc2) = flow.log_prob_and_grad(x, repeated, wrt=("x", "context"))
    assert log_prob.shape == (m, n)
    assert_same_bits(dx, dx2.reshape(blocks.shape))
    assert dc.shape == c.shape
    assert dc.dtype == (np.float64 if n > 1 else dtype)
    wanted = dc2.reshape(m, n, -1).sum(axis=1, dtype=np.float64)
    np.testing.assert_allclose(dc, wanted, rtol=1e-12, atol=1e-12 * np.abs(dc2).sum())
    assert_same_bits(flow.loss_and_grad(blocks, c)[2], flow.loss_and_grad(x, repeated)[2])


@each_conditional_case
@both_dtypes
def test_a_row_and_its_context_have_the_same_bits_in_a_batch_of_any_size(case: Case, backend: str, dtype: str) -> None:
    flow, x, c = prepared(case, backend, dtype, max(ROWS))
    log_prob, (z, log_det) = flow.log_prob(x, c), flow.to_latent(x, c)
    grads = flow.log_prob_and_grad(x[:200], c[:200], wrt=("context", "x"))[1]
    for rows in ROWS:
        assert_same_bits(flow.log_prob(x[:rows], c[:rows]), log_prob[:rows])
        assert_same_bits(flow.to_latent(x[-rows or 1000 :], c[-rows or 1000 :])[0], z[-rows or 1000 :])
    for i in (0, 3, 69):
        assert_same_bits(flow.log_prob(x[i], c[i]), log_prob[i])
        assert_same_bits(flow.log_prob(x[i : i + 1], c[i]), log_prob[i : i + 1])
        assert_same_bits(flow.to_latent(x[i], c[i])[1], log_det[i])
        for one, many in zip(flow.log_prob_and_grad(x[i], c[i], wrt=("context", "x"))[1], grads, strict=True):
            assert_same_bits(one, many[i])


@each_conditional_case
@both_dtypes
def test_nan_in_a_context_stays_in_its_row(case: Case, backend: str, dtype: str) -> None:
    flow, x, clean = prepared(case, backend, dtype, 130)
    bad = [0, 17, 63, 64, 129]
    keep = np.setdiff1d(np.arange(130), bad)
    grads = flow.log_prob_and_grad(x, clean, wrt=("x", "context"))[1]
    for column in range(flow.context_dim):
        c = clean.copy()
        c[bad, column] = np.nan
        log_prob = flow.log_prob(x, c)
        assert np.isnan(log_prob[bad]).all()
        assert_same_bits(log_prob[keep], flow.log_prob(x, clean)[keep])
        for function in (flow.to_latent, flow.to_data):
            y, log_det = function(x, c)
            assert np.isnan(y[bad]).any(axis=1).all()
            assert_same_bits(y[keep], function(x, clean)[0][keep])
            assert_same_bits(log_det[keep], function(x, clean)[1][keep])
        for one, two in zip(flow.log_prob_and_grad(x, c, wrt=("x", "context"))[1], grads, strict=True):
            assert_same_bits(one[keep], two[keep])
    assert np.isnan(flow.log_prob(x, np.full(flow.context_dim, np.nan))).all()


@ENGINE
@each_backend
@both_dtypes
def test_the_number_of_threads_changes_no_bit_of_a_conditional_flow(case: Case, backend: str, dtype: str) -> None:
    flow, x, c = prepared(case, backend, dtype, 1500)
    source = rng("threads")
    dz, dl = source.standard_normal(x.shape).astype(dtype), source.standard_normal(len(x)).astype(dtype)

    def everything() -> list[Array]:
        out = [flow.log_prob(x, c), flow.log_prob(x, c[0]), flow.sample(100, c[:15], rng=1), *flow.to_data(x, c)]
        for given in (c, c[0]):
            out += [*flow.to_latent_vjp(x, dz, dl, given), *flow.to_data_vjp(x, dz, dl, given)]
            out += [np.asarray(v) for v in flow.loss_and_grad(x, given)]
        return [*out, flow.copy().fit(x, context=c, epochs=1, batch_size=200, rng=2).params]

    results = []
    for n in (1, 2, 5):
        with ps.threads(n):
            results.append(everything())
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_same_bits(one, two)


@ENGINE
@each_backend
@both_dtypes
@inside("layout", LAYOUTS)
def test_the_layout_of_the_context_changes_no_bit(case: Case, backend: str, dtype: str, layout: str) -> None:
    flow, x, c = prepared(case, backend, dtype, 130)
    laid = LAYOUTS[layout](c)
    assert_same_bits(flow.log_prob(x, laid), flow.log_prob(x, c))
    assert_same_bits(flow.log_prob(x, laid[3]), flow.log_prob(x, c[3]))
    assert_same_bits(flow.log_prob(x[3], laid[3]), flow.log_prob(x[3], c[3]))
    assert_same_bits(flow.loss_and_grad(x, laid)[2], flow.loss_and_grad(x, c)[2])


@ENGINE
@each_backend
@both_dtypes
def test_a_large_offset_of_the_context_costs_nothing(case: Case, backend: str, dtype: str) -> None:
    flow, x, c = prepared(case, backend, dtype, 70)
    flow = flow.copy()
    buffers = standardisation(flow)
    n, at = flow.context_dim, 2 * flow.dim
    buffers[at : at + n], buffers[at + n :] = 0, 1
    assign(flow, buffers=buffers)
    c = np.round(c.astype(np.float64) * 2**10) / 2**10
    expected = flow.log_prob(x, c)
    buffers[at : at + n] = 2.0**33
    assign(flow, buffers=buffers)
    assert_same_bits(flow.log_prob(x, c + 2.0**33), expected)


@ENGINE
@each_backend
@both_dtypes
@inside("rows", [1, 65])
def test_nothing_is_written_outside_the_gradient_of_the_context(
    case: Case, backend: str, dtype: str, rows: int
) -> None:
    flow, x, c = prepared(case, backend, dtype, rows)
    for given, kind in ((c, dtype), (c[0], "float64")):
        band = np.full(given.size + 128, 12345.0, kind)
        d_context = band[64 : 64 + given.size].reshape(given.shape)
        d_context[...] = 0
        engine_vjp(flow, False, x, x, None, context=given, d_context=d_context)
        assert (band[:64] == 12345).all()
        assert (band[64 + given.size :] == 12345).all()
        assert (d_context != 0).all()


@each_backend
@both_dtypes
def test_every_verb_of_a_conditional_flow_works_on_zero_rows(backend: str, dtype: str) -> None:
    flow, x, c = prepared(BY_NAME["embedding"], backend, dtype, 0)
    none, one = np.zeros(0, dtype), np.zeros(flow.context_dim, dtype)
    for given in (c, one):
        assert flow.log_prob(x, given).shape == (0,)
        assert flow.to_latent(x, given)[0].shape == x.shape
        dx, dp, dc = flow.to_data_vjp(x, x, none, given)
        assert dx.shape == x.shape
        assert dc is not None
        assert dc.shape == given.shape
        assert (dp == 0).all()
        assert (dc == 0).all()
        assert flow.loss_and_grad(x, given)[0] == 0
    assert flow.sample(0, one).shape == (0, flow.dim)
    assert flow.sample(3, c).shape == (0, 3, flow.dim)
    assert flow.sample(None, c).shape == (0, flow.dim)
    assert flow.sample(0, np.zeros((4, flow.context_dim))).shape == (4, 0, flow.dim)
    assert flow.log_prob(np.zeros((4, 0, flow.dim)), np.zeros((4, flow.context_dim))).shape == (4, 0)
    assert flow.log_prob(np.zeros((0, 3, flow.dim)), c).shape == (0, 3)


# -- gradients ----------------------------------------------------------------------------------


def _difference(f: Callable[[Array], Array], c: Array, case: Case) -> Array:
    """Derivatives of one number a row with respect to each column of its context."""
    h = 1e-6 if case.kinks else 2e-3
    columns = [derivative(lambda t, j=j: f(c + t * np.eye(c.shape[-1])[j]), h) for j in range(c.shape[-1])]
    return np.stack(columns, axis=-1)


def _assert_gradient(actual: Array, expected: Array, case: Case) -> None:
    allowed = (1e-6 if case.kinks else 1e-7) * max(1.0, np.abs(expected).max(initial=0.0))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= allowed


@each_conditional_case
@inside("recompute", [0, 1])
def test_context_gradients_match_differences(case: Case, backend: str, recompute: int) -> None:
    flow = bare(fresh(case, backend, "float64"))
    if backend == "cpp":
        engine_of(flow).recompute = recompute
    elif recompute:
        return  # the twin keeps all activations
    x, c = points(case, 9, flow, "gradient"), contexts(case, 9, flow, "gradient")
    source = rng("context gradient", case.name)
    dy, dl = source.standard_normal(x.shape), source.standard_normal(9)
    for name in ("to_latent", "to_data"):
        function, vjp = getattr(flow, name), getattr(flow, f"{name}_vjp")

        def scalar(given: Array, function: Any = function) -> Array:
            y, log_det = function(x, given)
            return (y * dy).sum(axis=1) + log_det * dl

        _assert_gradient(vjp(x, dy, dl, c)[2], _difference(scalar, c, case), case)
        _assert_gradient(vjp(x, dy, dl, c[0])[2], _difference(lambda given, f=scalar: f(given).sum(), c[0], case), case)
        only = vjp(x, None, dl, c)[2]
        _assert_gradient(only, _difference(lambda given, f=function: f(x, given)[1] * dl, c, case), case)
    _assert_gradient(flow.log_prob_vjp(x, dl, c)[2], _difference(lambda g: dl * flow.log_prob(x, g), c, case), case)
    expected = _difference(lambda g: flow.log_prob(x, g), c, case)
    for row in (x[4], x[4:5]):
        given = c[4] if row.ndim == 1 else c[4:5]
        want = expected[4] if row.ndim == 1 else expected[4:5]
        _assert_gradient(flow.log_prob_and_grad(row, given, wrt="context")[1], want, case)
    engine_of(flow).recompute = -1


@each_conditional_case
def test_parameter_gradients_of_rows_with_contexts_match_differences(case: Case, backend: str) -> None:
    flow = bare(fresh(case, backend, "float64"))
    x, c = points(case, 70, flow, "gradient"), contexts(case, 70, flow, "gradient")
    grad, start = flow.loss_and_grad(x, c)[2], flow.params.copy()
    source = rng("directions", case.name)

    def loss(params: Array) -> Array:
        flow.params = params
        return np.asarray(-flow.log_prob(x, c).sum())

    for _ in range(12):
        v = source.standard_normal(flow.n_params) / np.sqrt(flow.n_params)
        expected = derivative(lambda h, v=v: loss(start + h * v), 1e-6 if case.kinks else 2e-3)
        assert abs(grad @ v - expected) <= (1e-5 if case.kinks else 1e-7) * max(1.0, float(np.abs(grad).max()))


# -- draws --------------------------------------------------------------------------------------


@each_conditional_case
@both_dtypes
def test_draws_are_keyed_by_the_row_of_context_and_their_number(case: Case, backend: str, dtype: str) -> None:
    flow, _, c = prepared(case, backend, dtype, 9)
    many = flow.sample(70, c, rng=3)
    assert many.shape == (9, 70, flow.dim)
    assert many.dtype == dtype
    for m, n in ((1, 70), (4, 3), (9, 1), (5, 65), (2, 64)):
        assert_same_bits(flow.sample(n, c[:m], rng=3), many[:m, :n])
    assert_same_bits(flow.sample(None, c, rng=3), many[:, 0])
    assert_same_bits(flow.sample(70, c[0], rng=3), many[0])
    assert_same_bits(flow.sample(1, c[0], rng=3), many[0, :1])
    changed = c.copy()
    changed[4] += 1
    other = flow.sample(70, changed, rng=3)
    assert_same_bits(np.delete(other, 4, axis=0), np.delete(many, 4, axis=0))
    assert not np.array_equal(other[4], many[4])
    assert not np.array_equal(flow.sample(70, np.repeat(c[:1], 2, axis=0), rng=3)[1], many[0])
    out = np.full(many.shape, np.nan, dtype)
    assert flow.sample(70, c, rng=3, out=out) is out
    assert_same_bits(out, many)


@each_conditional_case
@both_dtypes
def test_conditional_samples_carry_their_own_density(case: Case, backend: str, dtype: str) -> None:
    flow, _, c = prepared(case, backend, dtype, 5)
    for n, given, shape in ((70, c, (5, 70)), (70, c[0], (70,)), (None, c, (5,)), (1, c[2], (1,))):
        x, log_prob = flow.sample_and_log_prob(n, given, rng=11)
        assert log_prob.shape == shape
        assert_same_bits(flow.sample(n, given, rng=11), x)
        assert_close(flow.log_prob(x, given), log_prob, case.ulps, dtype, scale=row_size(x)[..., 0])


@each_backend
def test_draws_of_a_context_follow_its_density(backend: str) -> None:
    flow, _, c = prepared(BY_NAME["embedding"], backend, "float64", 3)
    n = 100_000
    z = flow.to_latent(flow.sample(n, c, rng=5), c)[0]
    for block in z:
        assert np.abs(block.mean(axis=0)).max() < 5 / np.sqrt(n)
        assert np.abs(np.cov(block.T) - np.eye(flow.dim)).max() < 5 * np.sqrt(2 / n)
    assert np.abs(np.corrcoef(z[0, :, 0], z[1, :, 0])[0, 1]) < 5 / np.sqrt(n)


@each_backend
@both_dtypes
@inside("number", range(3))
def test_the_density_of_each_context_integrates_to_one(backend: str, dtype: str, number: int) -> None:
    flow, _, c = prepared(BY_NAME["elementwise_given_one_dim"], backend, dtype, 3)
    assert_integrates_to_one(flow.given(c[number]))


@each_backend
@inside("number", range(3))
def test_the_density_of_each_context_in_two_dimensions_integrates_to_one(backend: str, number: int) -> None:
    flow = ps.realnvp(
        2, context_dim=3, layers=4, hidden=(8,), activation="tanh", base_context=(4,), dtype="float64", rng=0,
        backend=backend,
    )  # fmt: skip
    flow.params = 0.5 * rng("integral").standard_normal(flow.n_params)
    assert_integrates_to_one(flow.given(rng("integral", number).standard_normal(3)))


# -- what is refused ----------------------------------------------------------------------------

FLOW = ps.realnvp(3, context_dim=2, layers=2, hidden=(4,), rng=0, backend=BACKENDS[0])
X, BLOCKS = np.zeros((7, 3)), np.zeros((4, 5, 3))
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no context": (lambda: FLOW.log_prob(X), ValueError, "context must be given.*context_dim=2"),
    "no context for a row": (lambda: FLOW.log_prob(X[0]), ValueError, "context must be given.*context_dim=2"),
    "no context of draws": (lambda: FLOW.sample(3), ValueError, "context must be given.*context_dim=2"),
    "too few rows": (lambda: FLOW.log_prob(X, np.zeros((6, 2))), ValueError, r"context.*\(2,\) or \(7, 2\).*\(6, 2\)"),
    "one row for many": (lambda: FLOW.log_prob(X, np.zeros((1, 2))), ValueError, r"context.*\(7, 2\).*\(1, 2\)"),
    "a divisor of the rows": (lambda: FLOW.log_prob(X[:6], np.zeros((3, 2))), ValueError, r"\(6, 2\).*\(3, 2\)"),
    "too wide": (lambda: FLOW.to_latent(X, np.zeros((7, 3))), ValueError, r"context.*\(7, 2\).*\(7, 3\)"),
    "blocks of other rows": (lambda: FLOW.log_prob(BLOCKS, np.zeros((4, 6, 2))), ValueError, r"\(4, 2\).*\(4, 6, 2\)"),
    "rows of blocks": (lambda: FLOW.to_data(BLOCKS, np.zeros((20, 2))), ValueError, r"\(4, 2\) or \(4, 5, 2\).*\(20, 2\)"),
    "blocks for one row": (lambda: FLOW.log_prob(X[0], np.zeros((1, 1, 2))), ValueError, r"\(m, 2\).*\(1, 1, 2\)"),
    "a scalar": (lambda: FLOW.score(X, 3.0), ValueError, r"context.*\(2,\).*\(\)"),
    "complex": (lambda: FLOW.log_prob(X, np.zeros(2, complex)), TypeError, "context.*complex"),
    "words": (lambda: FLOW.sample(2, "ab"), TypeError, "context"),
    "a wide draw": (lambda: FLOW.sample(2, np.zeros((3, 4))), ValueError, r"context.*\(2,\), \(m, 2\).*\(3, 4\)"),
    "three axes of draws": (lambda: FLOW.sample(2, np.zeros((3, 1, 2))), ValueError, r"context.*\(3, 1, 2\)"),
    "a shape of draws for many": (lambda: FLOW.sample((2, 3), np.zeros((4, 2))), ValueError, r"n=\(2, 3\).*\(4, 2\)"),
    "out": (lambda: FLOW.sample(4, np.zeros((3, 2)), out=np.zeros((12, 3), "f4")), ValueError, r"out.*\(3, 4, 3\)"),
    "wrt": (lambda: FLOW.log_prob_and_grad(X, np.zeros(2), wrt="z"), ValueError, "wrt.*'context'.*'z'"),
    "wrt of a flow without": (
        lambda: ps.realnvp(3, rng=0).log_prob_and_grad(X, wrt="context"), ValueError, "wrt.*'x', got 'context'",
    ),
    "fit without": (lambda: FLOW.copy().fit(X), ValueError, "context must be given.*context_dim=2"),
    "fit with a shared one": (lambda: FLOW.copy().fit(X, context=np.zeros(2)), ValueError, r"context.*\(7, 2\).*\(2,\)"),
    "fit with too few": (lambda: FLOW.copy().fit(X, context=X[:6, :2]), ValueError, r"context.*\(7, 2\).*\(6, 2\)"),
    "fit without a context": (lambda: ps.realnvp(3, rng=0).fit(X, context=X), ValueError, "context.*context_dim=0"),
    "NaN in fit": (
        lambda: FLOW.copy().fit(X, context=np.where(np.arange(14).reshape(7, 2) == 5, np.nan, 0)),
        ValueError, "context must be finite, but 1 row of 7.*row 2, column 1: nan.*context = X",
    ),
    "validation rows": (
        lambda: FLOW.copy().fit(X, context=X[:, :2], validation=X), ValueError, "validation_context must be given",
    ),
    "validation context": (
        lambda: FLOW.copy().fit(X, X[:, :2], validation=X, validation_context=X),
        ValueError, r"validation_context.*\(7, 2\), one row for each of validation",
    ),
    "a tuple of validation": (
        lambda: FLOW.copy().fit(X, X[:, :2], validation=(X, X, X[:, 0])),
        TypeError, "write validation=X_val, validation_context=context_val, validation_weight=weight_val",
    ),
    "a context of a fraction": (
        lambda: FLOW.copy().fit(X, X[:, :2], validation_context=X[:, :2]), ValueError, "validation_context belongs to.*0.1",
    ),
    "negative": (lambda: ps.realnvp(3, context_dim=-1), ValueError, "context_dim.*-1"),
    "no reader": (lambda: ps.Flow(ps.StandardNormal(2), [ps.ActNorm()], 3), ValueError, "context_dim=3, but no layer"),
    "nothing to read": (
        lambda: ps.Flow(ps.StandardNormal(2), [ps.Elementwise(conditioner=ps.MLP())]), ValueError, "context_dim is 0",
    ),
    "a conditioner": (
        lambda: ps.Flow(ps.StandardNormal(2), [ps.Elementwise(conditioner=(8,))], 1),  # type: ignore[arg-type]
        TypeError, "conditioner.*MLP.*tuple",
    ),
    "embedding of nothing": (lambda: ps.realnvp(3, embedding=ps.MLP()), ValueError, "embedding.*context_dim is 0"),
    "embedding": (lambda: ps.realnvp(3, context_dim=1, embedding=8), TypeError, "embedding.*MLP.*int"),  # type: ignore[arg-type]
    "embedding_dim": (
        lambda: ps.realnvp(3, context_dim=1, embedding=ps.MLP(), embedding_dim=0), ValueError, "embedding_dim.*0",
    ),
    "embedding_dim alone": (lambda: ps.realnvp(3, context_dim=1, embedding_dim=4), ValueError, "embedding_dim=4 needs"),
    "base_context": (lambda: ps.nice(3, base_context=(4,)), ValueError, "base_context.*context_dim is 0"),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_a_context_that_does_not_fit_is_refused_by_name(bad: str) -> None:
    call, kind, what = BAD[bad]
    with pytest.raises(kind, match=what):
        call()


@each_backend
def test_the_engines_refuse_a_context_that_does_not_divide_the_rows(backend: str) -> None:
    flow, x, c = prepared(BY_NAME["coupling_given"], backend, "float32", 6)
    out = np.zeros(6, np.float32)
    for wrong in (None, c[:4], c[:, :2], c.astype(int), c[0, :2], c[None]):
        with pytest.raises(ValueError, match="context"):
            engine_evaluate(flow, False, x, context=wrong, base=True, log_det=out)
    unconditional = built(BY_NAME["coupling"], backend, "float32")
    with pytest.raises(ValueError, match="context must be None"):
        engine_evaluate(unconditional, False, np.zeros((6, 5), np.float32), context=c, base=True, log_det=out)


# -- fit ----------------------------------------------------------------------------------------


def wave(rows: int, *key: Any) -> tuple[Array, Array]:
    """Rows whose place and spread depend on the context, far from the origin and in other units."""
    source = rng("wave", *key)
    c = source.uniform(-2, 2, (rows, 2)) * [1.0, 50.0] + [0.0, 1e4]
    u = (c[:, 1] - 1e4) / 50
    x = np.stack([np.sin(2 * c[:, 0]), c[:, 0] * u], axis=1)
    return 100 * (x + np.exp(0.5 * u[:, None] - 1.5) * source.standard_normal((rows, 2))), c


def wave_log_prob(x: Array, c: Array) -> Array:
    """Their density."""
    u = (c[:, 1] - 1e4) / 50
    mean = np.stack([np.sin(2 * c[:, 0]), c[:, 0] * u], axis=1)
    log_scale = (0.5 * u - 1.5)[:, None]
    z = (x / 100 - mean) / np.exp(log_scale)
    return (-0.5 * z**2 - log_scale - 0.5 * np.log(2 * np.pi) - np.log(100)).sum(axis=1)


@pytest.mark.parametrize("embedding", [None, ps.MLP((32,), "silu")], ids=["plain", "embedding"])
@each_backend
def test_a_conditional_fit_learns_the_density_of_each_context(backend: str, embedding: Any) -> None:
    x, c = wave(6000)
    flow = ps.realnvp(
        2, context_dim=2, layers=4, hidden=(32, 32), activation="silu", base_context=(16,), embedding=embedding, rng=0,
        backend=backend,
    )  # fmt: skip
    flow.fit(x, context=c, epochs=25, batch_size=128, learning_rate=3e-3, rng=1)
    test, given = wave(4000, "test")
    best = wave_log_prob(test, given).mean()
    # A flow that ignores the context stays about two nats below; the noise of the mean is 0.02.
    assert best - 0.25 < flow.score(test, given) < best + 0.1
    # The loss that was validated is that of the data's units.
    assert flow.history.validation_loss[-1] == pytest.approx(-best, abs=0.35)
    draws = flow.sample(None, given, rng=2)
    assert wave_log_prob(draws, given).mean() > best - 0.7


@each_backend
def test_a_conditional_flow_of_one_dimension_learns(backend: str) -> None:
    x, c = wave(3000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = ps.realnvp(1, context_dim=2, hidden=(32, 32), activation="silu", rng=0, backend=backend)
    flow.fit(x[:, :1], context=c, epochs=30, batch_size=128, learning_rate=3e-3, rng=1)
    mean = flow.to_data(np.zeros((3000, 1)), c)[0][:, 0]
    assert np.abs(mean - 100 * np.sin(2 * c[:, 0])).mean() < 12


@pytest.mark.parametrize("name", ["nice", "realnvp", "glow"])
def test_a_conditional_recipe_of_one_dimension_is_a_gaussian_for_each_context(name: str) -> None:
    with pytest.warns(UserWarning, match="a Gaussian for each context"):
        flow = getattr(ps, name)(1, context_dim=2, hidden=(4,), rng=0)
    assert flow.log_prob(np.zeros((3, 1)), np.zeros((3, 2))).shape == (3,)


@each_backend
def test_the_context_is_standardised_with_the_data(backend: str) -> None:
    x, c = wave(1000)
    for standardize in (True, "robust", False):
        flow = ps.glow(2, context_dim=2, layers=2, hidden=(8,), rng=0, backend=backend)
        assert (standardisation(flow) == [0, 0, 1, 1] * 2).all()
        flow.fit(x, context=c, epochs=1, validation=0, standardize=standardize, rng=1)
        loc, scale = context_scale(flow)
        if standardize is True:
            np.testing.assert_allclose(loc, c.mean(axis=0), rtol=1e-12)
            np.testing.assert_allclose(scale, c.std(axis=0), rtol=1e-12)
        elif standardize == "robust":
            np.testing.assert_allclose(loc, np.median(c, axis=0), rtol=1e-3, atol=0.01)
            assert (scale > 0.5 * c.std(axis=0)).all()
        else:
            assert (loc == 0).all()
            assert (scale == 1).all()
        buffers = standardisation(flow)
        flow.fit(2 * x, context=c + 0.1, epochs=1, rng=1)
        assert_same_bits(standardisation(flow), buffers)
        flow.reset(0)
        assert (standardisation(flow) == [0, 0, 1, 1] * 2).all()


@each_backend
def test_actnorm_starts_from_rows_at_their_contexts(backend: str) -> None:
    x, c = wave(2000)
    layers = [ps.ActNorm(), ps.Elementwise(ps.Affine(), ps.MLP((8,), "tanh"))]
    flow = ps.Flow(ps.StandardNormal(2), layers, 2, "float64", rng=0, backend=backend)
    flow.params = rng("actnorm").standard_normal(flow.n_params)
    flow.fit(x, context=c, epochs=1, validation=0, learning_rate=1e-12, rng=1)
    z = flow.to_latent(x, c)[0]
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-6)


@pytest.mark.filterwarnings("ignore:by their weights")
@each_backend
def test_fit_takes_validation_rows_weights_checkpoints_and_what_holds_nan_at_weight_zero(
    backend: str, tmp_path: Path
) -> None:
    x, c = wave(600)
    weight = np.ones(600)
    weight[::3] = 0
    kept: dict[str, Any] = {"epochs": 3, "batch_size": 64, "rng": 1, "schedule": "constant"}
    own = {"validation": x[:90].copy(), "validation_context": c[:90].copy(), "validation_weight": np.arange(90.0)}
    flow = ps.realnvp(2, context_dim=2, layers=2, hidden=(8,), rng=0, backend=backend)
    one = flow.copy().fit(x, context=c, sample_weight=weight, checkpoint=tmp_path / "kept", **own, **kept)
    c[::3], x[::3] = np.nan, np.inf
    own["validation"], own["validation_context"] = wave(600)
    own["validation_weight"] = np.where(np.arange(600) < 90, np.arange(600.0), 0)
    two = flow.copy().fit(x, context=c, sample_weight=weight, **own, **kept)
    assert_same_bits(one.params, two.params)
    test, given = wave(50, "test")
    assert_same_bits(ps.load(tmp_path / "kept", backend=backend).log_prob(test, given), one.log_prob(test, given))
    x, c = wave(600)
    loss = one.loss_and_grad(x[:90], c[:90], np.arange(90.0))
    assert min(one.history.validation_loss) == pytest.approx(loss[0] / loss[1], rel=1e-5)


@each_backend
def test_training_reads_a_mapped_context_as_it_lies(backend: str, tmp_path: Path) -> None:
    x, c = wave(500)
    flow = ps.realnvp(2, context_dim=2, layers=2, hidden=(8,), rng=0, backend=backend)
    expected = flow.copy().fit(x, context=c, epochs=2, rng=1).params
    np.save(tmp_path / "c.npy", np.concatenate([c, x], axis=1))
    mapped = np.load(tmp_path / "c.npy", mmap_mode="r")
    assert_same_bits(flow.copy().fit(mapped[:, 2:], context=mapped[:, :2], epochs=2, rng=1).params, expected)


@each_backend
def test_a_loop_of_ones_own_gives_the_step_of_fit(backend: str) -> None:
    x, c = wave(64)
    flow = ps.realnvp(
        2, context_dim=2, layers=2, hidden=(8,), embedding=ps.MLP((8,)), dtype="float64", rng=0, backend=backend
    )
    flow.params = 0.3 * rng("loop").standard_normal(flow.n_params)
    own = flow.copy()
    flow.fit(
        x, context=c, epochs=1, batch_size=64, validation=0, rng=1, learning_rate=1e-3, schedule="constant", warmup=0,
        clip_norm=None,
    )  # fmt: skip
    assign(own, buffers=standardisation(flow))
    _, total, grad = own.loss_and_grad(x, c)
    ps.Adam(1e-3).step(own, grad / total)
    np.testing.assert_allclose(own.params, flow.params, rtol=0, atol=1e-9)
    assert (grad[-own.named_params()["embedding.1.weight"].size :] != 0).any()


def test_a_constant_column_of_the_context_is_told() -> None:
    x, c = wave(100)
    c[:, 1] = 3
    flow = ps.realnvp(2, context_dim=2, layers=2, hidden=(8,), rng=0)
    with pytest.warns(UserWarning, match="column 1 of context is constant and carries no information"):
        flow.fit(x, context=c, epochs=1)


def test_an_extreme_context_is_named_when_training_fails() -> None:
    x, c = wave(300)
    c[7, 1] = 1e200
    flow = ps.realnvp(2, context_dim=2, layers=2, hidden=(8,), activation="relu", rng=0)
    with (
        pytest.warns(ps.OutlierWarning, match=r"context has values.*column 1: 1 of 300.*such as 1e\+200"),
        pytest.raises(ps.TrainingError, match=r"context\[7, 1\] = 1e\+200"),
    ):
        flow.fit(x, context=c, epochs=30, standardize="robust", clip_norm=None, validation=0)


# -- inspecting and keeping ---------------------------------------------------------------------


def test_a_conditional_flow_tells_its_context_and_its_embedding() -> None:
    flow = ps.realnvp(3, context_dim=5, layers=2, hidden=(4,), embedding=ps.MLP((7,)), embedding_dim=6, rng=0)
    assert flow.context_dim == 5
    assert flow.spec.embedding == ps.MLP((7,))
    assert flow.spec.embedding_dim == 6
    assert "3 dimensions given 5" in repr(flow)
    assert "embedding MLP 5-7-6 relu, 90 parameters" in repr(flow)
    assert "MLP 7-4-4" in repr(flow)
    assert "context_dim=5" in str(flow.spec)
    spec = flow.spec
    again = ps.Flow(
        spec.base, spec.layers, spec.context_dim, spec.dtype, 0, embedding=spec.embedding,
        embedding_dim=spec.embedding_dim,
    )  # fmt: skip
    assert again.spec == spec
    wide = flow.astype("float64")
    assert wide.spec.embedding == spec.embedding
    x, c = np.ones((3, 3)), np.ones(5)
    np.testing.assert_allclose(wide.log_prob(x, c), flow.log_prob(x, c), rtol=1e-5)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_reads_many_numbers_by_a_network_unless_told_otherwise(recipe: str) -> None:
    def network(n: int, **options: Any) -> tuple[Any, int]:
        spec = RECIPES[recipe](2, context_dim=n, hidden=(4,), rng=0, **options).spec
        return spec.embedding, spec.embedding_dim

    assert network(0) == network(3) == network(4, embedding=None) == (None, 0)
    assert network(4) == network(50) == network(4, embedding="auto") == (ps.MLP((128,)), 32)
    assert network(51) == (ps.MLP((128, 64)), 32)
    assert network(4, embedding_dim=7) == (ps.MLP((128,)), 7)
    assert network(3, embedding=ps.MLP((5,))) == (ps.MLP((5,)), 5)
    for wrong, words in (
        ({"embedding": "wide"}, "embedding must be one of 'auto', got 'wide'"),
        ({"embedding": (64,)}, "embedding must be one of MLP, got tuple"),
        ({"embedding_dim": 0}, "embedding_dim must be at least 1, got 0"),
        ({"embedding": None, "embedding_dim": 3}, "embedding_dim=3 needs an embedding"),
    ):
        with pytest.raises((TypeError, ValueError), match=words):
            network(4, **wrong)
    with pytest.raises(ValueError, match="embedding_dim=3 needs an embedding"):
        network(3, embedding_dim=3)
    with pytest.raises(ValueError, match="context_dim must be at least 0, got -1"):
        network(-1)


def test_a_flow_without_a_context_is_kept_in_the_bytes_that_older_versions_read() -> None:
    layers = [ps.Elementwise(), ps.Coupling()]
    data = ps.Flow(ps.StandardNormal(2), layers, rng=0).to_bytes()
    for word in (b'"conditioner":null', b"embedding", b"context."):
        assert word not in data


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"embedding_dim":6', b'"embedding_dim":7', "its plan table does not belong to its spec"),
        (b'"embedding_dim":6', b'"embedding_dim":0', "embedding_dim"),
        (b'"context_dim":5', b'"context_dim":0', "embedding.*no context"),
        (b'"context_dim":5', b'"context_dim":6', "its plan table does not belong to its spec"),
        (b'"context.scale"', b'"context.scald"', "missing.*context.scale"),
        (b'"hidden":[7]', b'"hidden":[9]', "its plan table does not belong to its spec"),
    ],
)
def test_a_damaged_conditional_file_is_refused(old: bytes, new: bytes, what: str) -> None:
    flow = ps.realnvp(3, context_dim=5, layers=2, hidden=(4,), embedding=ps.MLP((7,)), embedding_dim=6, rng=0)
    data = flow.to_bytes()
    escaped = (old.replace(b'"', b'\\"'), new.replace(b'"', b'\\"'))
    pair = escaped if escaped[0] in data else (old, new)
    assert data.count(pair[0]) == 1
    with pytest.raises(ValueError, match=what):
        ps.from_bytes(sealed(data.replace(*pair)))


# -- the command line ---------------------------------------------------------------------------


def test_the_commands_fit_score_and_sample_with_a_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x, c = wave(400)
    np.savetxt(tmp_path / "t.csv", np.concatenate([c, x], axis=1), delimiter=",", header="a,b,x,y", comments="")
    table, model = str(tmp_path / "t.csv"), str(tmp_path / "m.safetensors")
    small = ["--epochs", "2", "--layers", "2", "--hidden", "8", "-q"]
    assert main(["fit", table, "-o", model, *small, "--context-columns", "a,b"]) == 0
    x, c = np.loadtxt(table, delimiter=",", skiprows=1)[:, 2:], np.loadtxt(table, delimiter=",", skiprows=1)[:, :2]
    flow = ps.nsf_ar(2, context_dim=2, layers=2, hidden=(8,), rng=0).fit(x, context=c, epochs=2, rng=0)
    flow._columns, flow._context_columns = ("x", "y"), ("a", "b")  # as the header has them
    assert Path(model).read_bytes() == flow.to_bytes()
    out = str(tmp_path / "out.npy")
    assert main(["score", model, table, "--context-columns", "a,b", "-o", out, "-q"]) == 0
    assert_same_bits(np.load(out), flow.log_prob(x, c))
    assert f"mean log-density: {float(flow.log_prob(x, c).sum(dtype=np.float64)) / 400!r}" in capsys.readouterr().out
    assert main(["sample", model, "-n", "5", "-o", out, "--seed", "3", "--context=-1.5,1e4", "-q"]) == 0
    assert_same_bits(np.load(out), flow.sample(5, [-1.5, 1e4], rng=3))
    np.save(tmp_path / "c.npy", c[:7])
    assert main(["sample", model, "-n", "5", "-o", out, "--seed", "3", "--context", str(tmp_path / "c.npy"), "-q"]) == 0
    assert_same_bits(np.load(out), flow.sample(5, c[:7], rng=3).reshape(35, 2))


def test_chunks_of_the_command_change_no_draw_of_a_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = bare(built(BY_NAME["coupling_given"], BACKENDS[0], "float32"))
    flow.save(tmp_path / "m")
    c = contexts(BY_NAME["coupling_given"], 5, flow)
    np.save(tmp_path / "c.npy", c)
    words = ["sample", str(tmp_path / "m"), "-o", str(tmp_path / "o.npy"), "--seed", "3", "--context"]
    for size in (1, 7, 30):
        monkeypatch.setattr("penstock.cli.commands.chunk_rows", lambda columns, size=size: size)
        assert main([*words, str(tmp_path / "c.npy"), "-n", "12", "-q"]) == 0
        assert_same_bits(np.load(tmp_path / "o.npy"), flow.sample(12, c, rng=3).reshape(60, 5))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["fit", "T", "-o", "O", "--context-columns", "z"], "--context-columns.*no column 'z'"),
        (["fit", "T", "-o", "O", "--context-columns", "a,a"], "--context-columns names a column twice"),
        (
            ["fit", "T", "-o", "O", "--context-columns", "a", "--columns", "a,b"],
            "--context-columns: 'a' is also one of",
        ),
        (["fit", "T", "-o", "O", "--context-columns", "a", "--weights", "a"], "--weights: 'a' is also one of"),
        (["fit", "T", "-o", "O", "--context-columns", "a,b,x,y"], "no data columns"),
        (
            ["score", "M", "T"],
            "the flow in .* has a context of 3 without names; say with --context-columns which columns",
        ),
        (["sample", "M", "-n", "2", "-o", "O.npy"], "--context must be given.*context_dim=3"),
        (["sample", "M", "-n", "2", "-o", "O.npy", "--context", "1,2"], "--context has 2 numbers.*context_dim=3"),
        (["sample", "M", "-n", "2", "-o", "O.npy", "--context", "1,b,2"], "--context must be numbers"),
        (["sample", "M", "-n", "2", "-o", "O.npy", "--context", "T"], "--context has 4 columns.*context_dim=3"),
        (["sample", "P", "-n", "2", "-o", "O.npy", "--context", "1"], "--context was given.*context_dim=0"),
    ],
)
def test_the_commands_refuse_a_context_that_does_not_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], what: str
) -> None:
    (tmp_path / "t.csv").write_text("a,b,x,y\n1,2,3,4\n5,6,7,8\n")
    bare(built(BY_NAME["coupling_given"], BACKENDS[0], "float32")).save(tmp_path / "m")
    built(BY_NAME["coupling"], BACKENDS[0], "float32").save(tmp_path / "p")
    places = {"T": "t.csv", "M": "m", "P": "p", "O": "o", "O.npy": "o.npy"}
    assert main([str(tmp_path / places[word]) if word in places else word for word in words]) == 1
    import re

    assert re.search(what, capsys.readouterr().err)


@each_conditional_case
@both_dtypes
@inside("rows", (1, 2, 70))
def test_numbers_with_a_context_of_their_own_give_its_bits(case: Case, backend: str, dtype: str, rows: int) -> None:
    flow, x, c = prepared(case, backend, dtype, rows)
    runner, packed, z = flow._runner(), packed_of(flow), latents(case, rows, flow.dim, dtype)
    given = runner.engine.with_context(packed, c[0])
    assert_same_bits(runner.log_prob(given, x), runner.log_prob(packed, x, c[0]))
    for to_data in (True, False):
        pairs = zip(
            runner.transform(given, to_data, z), runner.transform(packed, to_data, z, c[0]), strict=True
        )  # fmt: skip
        for mine, theirs in pairs:
            assert_same_bits(mine, theirs)
    assert_same_bits(runner.sample(given, rows, 5)[0], runner.sample(packed, rows, 5, c[0])[0])
    ones = np.ones(rows, dtype)
    mine = runner.vjp(given, False, x, None, ones, base=True)
    theirs = runner.vjp(packed, False, x, None, ones, c[0], base=True)
    assert_same_bits(mine.x, theirs.x)
    assert_same_bits(mine.params, theirs.params)
    assert_same_bits(runner.loss_and_grad(given, x, None, None)[2], runner.loss_and_grad(packed, x, c[0], None)[2])
    with pytest.raises(ValueError, match=r"context must be None: packed has one of its own"):
        runner.log_prob(given, x, c[0])
