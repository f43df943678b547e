"""Laws of rows so far out that the arithmetic overflows, up to infinite ones: what has no density, and gradients all the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS
from helpers import assert_same_bits, both_dtypes, inside

Array = np.ndarray[Any, Any]

RECIPES = (ps.nice, ps.realnvp, ps.glow, ps.nsf, ps.maf, ps.iaf, ps.nsf_ar)
QUICK = (ps.realnvp, ps.nsf_ar)
# From where a square is no number to the largest number.
SIZES = {"float32": (1e13, 3e19, 1e25, 1e30, 1e36, 3e38), "float64": (1e100, 1e154, 1e200, 1e300, 1.7e308)}

each_recipe = pytest.mark.parametrize(
    ("recipe", "backend"),
    [
        pytest.param(
            recipe, backend, id=f"{recipe.__name__}-{backend}",
            marks=pytest.mark.slow if backend == "numba" and recipe not in QUICK else (),
        )
        for recipe in RECIPES
        for backend in BACKENDS
    ],
)  # fmt: skip
both_activations = inside("activation", ("tanh", "relu"))


def trained(recipe: Any, backend: str, dtype: str, activation: str = "tanh", dim: int = 3, **options: Any) -> ps.Flow:
    """A flow whose numbers are those that training leaves: of order one."""
    flow: ps.Flow = recipe(
        dim, dtype="float64", backend=backend, rng=0, layers=2, hidden=8, activation=activation, **options
    )
    noise = np.random.default_rng(1).normal(0, 0.3, flow.n_params)
    flow.params = flow.params + noise * (flow.params != 0)
    return flow.astype(dtype)


def far_rows(dtype: str, dim: int = 3) -> Array:
    """Rows with one, two or all numbers far out, of each size and sign, each beside an ordinary one."""
    rows = []
    for size in (*SIZES[dtype], np.inf):
        rows += [[size, 0, 0], [0, -size, 0.5], [size, -size, size], [0.1, -0.2, 0.3]]
    return np.array(rows)[:, :dim]


@each_recipe
@both_dtypes
@both_activations
def test_far_rows_have_a_density_below_all_numbers(recipe: Any, backend: str, dtype: str, activation: str) -> None:
    flow, x = trained(recipe, backend, dtype, activation), far_rows(dtype)
    log_prob = flow.log_prob(x)
    assert not np.isnan(log_prob).any()
    infinite = np.isinf(x).any(axis=1)
    assert np.isneginf(log_prob[infinite]).all()
    ordinary = np.abs(x).max(axis=1) < 1
    assert np.isfinite(log_prob[ordinary]).all()
    assert (log_prob[~ordinary] < log_prob[ordinary][0] - 10).all()
    for i in (0, 9, 12, len(x) - 2):
        assert_same_bits(flow.log_prob(x[i]), log_prob[i])
    index = np.arange(len(x))[::-1].copy()
    chosen = flow._runner().log_prob(flow._snapshot.pack(flow._runner()), x, index=index)
    assert_same_bits(chosen[::-1], log_prob)


@each_recipe
@both_dtypes
@both_activations
def test_far_rows_have_gradients(recipe: Any, backend: str, dtype: str, activation: str) -> None:
    flow, x = trained(recipe, backend, dtype, activation), far_rows(dtype)
    log_prob, gradient = flow.log_prob_and_grad(x)
    assert_same_bits(log_prob, flow.log_prob(x))
    assert not np.isnan(gradient).any()
    ordinary = np.abs(x).max(axis=1) < 1
    assert_same_bits(gradient[ordinary], np.tile(flow.log_prob_and_grad(x[ordinary][0])[1], (ordinary.sum(), 1)))
    assert (np.abs(gradient[:4]).max(axis=1)[~ordinary[:4]] > 1e12).all()


@each_recipe
@both_activations
def test_gradients_of_far_rows_are_those_of_a_wider_type(recipe: Any, backend: str, activation: str) -> None:
    wide = trained(recipe, backend, "float64", activation)
    x = far_rows("float32")[:16]  # up to 1e30
    x = np.concatenate([x, 16 * x[-4:]])
    narrow = trained(recipe, backend, "float32", activation)
    wide.params = narrow.params.astype(np.float64)
    _, found = narrow.log_prob_and_grad(x)
    _, expected = wide.log_prob_and_grad(x)
    assert np.isfinite(expected).all()
    scale = np.abs(expected).max(axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        in_range = np.isfinite(expected.astype(np.float32)).all(axis=1)
    assert in_range.sum() >= 6
    assert (np.abs(found - expected) / scale)[in_range].max() < 2e-4


@each_recipe
@both_dtypes
def test_what_is_no_number_stays_none(recipe: Any, backend: str, dtype: str) -> None:
    flow, x = trained(recipe, backend, dtype), far_rows(dtype)
    x[1, 2] = np.nan
    log_prob, gradient = flow.log_prob_and_grad(x)
    assert np.flatnonzero(np.isnan(log_prob)).tolist() == [1]
    assert np.isnan(gradient[1]).any()
    assert not np.isnan(np.delete(gradient, 1, axis=0)).any()


@pytest.mark.parametrize("backend", BACKENDS)
@both_dtypes
def test_a_context_that_is_no_number_takes_its_far_rows_with_it(backend: str, dtype: str) -> None:
    flow, x = trained(ps.realnvp, backend, dtype, context_dim=2), far_rows(dtype)
    context = np.zeros((len(x), 2))
    context[2, 1] = np.nan
    log_prob, (gradient, d_context) = flow.log_prob_and_grad(x, context, wrt=("x", "context"))
    assert np.flatnonzero(np.isnan(log_prob)).tolist() == [2]
    assert not np.isnan(np.delete(gradient, 2, axis=0)).any()
    assert not np.isnan(np.delete(d_context, 2, axis=0)).any()
    assert np.isnan(flow.log_prob(x[:4], context[2])).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_beyond_the_type_of_the_flow_has_no_density(backend: str) -> None:
    flow = trained(ps.glow, backend, "float32")
    assert np.isneginf(flow.log_prob(np.array([[1e39, 0, 0], [0, -1e200, 0]]))).all()


@pytest.mark.parametrize("backend", BACKENDS)
@both_dtypes
def test_far_out_counts_from_the_data(backend: str, dtype: str) -> None:
    """Rows of a large unit are not far out, and those of a tiny one are."""
    flow = ps.realnvp(2, dtype=dtype, backend=backend, rng=0, layers=2, hidden=8)
    x = np.random.default_rng(0).normal(size=(200, 2)) * [1e100, 1e-100]
    flow.fit(x, epochs=1, rng=0)
    assert np.isfinite(flow.log_prob(x)).all()
    assert np.isneginf(flow.log_prob(np.array([0.0, 1e90])))
