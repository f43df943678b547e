"""Laws on inputs nobody chose: Hypothesis draws specs, shapes, seeds and numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import penstock as ps
import reference
from cases import BACKENDS, BY_NAME, built
from helpers import (
    assert_close,
    assert_same_bits,
    each_backend,
    each_backend_numba_in_ci,
    engine_sample,
    row_order,
    row_size,
)

Array = np.ndarray[Any, Any]

# Derandomised: a red run is red for everybody.
LAWS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def transforms(draw: st.DrawFn) -> Any:
    """Any transform of the line."""
    kind = draw(st.sampled_from(["affine", "additive", "spline"]))
    if kind == "additive":
        return ps.Additive()
    if kind == "spline":
        return ps.RationalQuadratic(draw(st.integers(2, 12)), draw(st.sampled_from([1.0, 3.0, 8.0])), slope_min=0.05)
    return ps.Affine(scale_bound=draw(st.sampled_from([0.3, 1.0, 3.0, math.inf])))


@st.composite
def networks(draw: st.DrawFn) -> ps.MLP:
    """Any small network."""
    residual = draw(st.booleans())
    depth = draw(st.integers(0, 3))
    width = draw(st.integers(1, 9))
    hidden = (width,) * depth if residual else tuple(draw(st.lists(st.integers(1, 20), min_size=depth, max_size=depth)))
    return ps.MLP(hidden, draw(st.sampled_from(["relu", "tanh", "silu", "gelu", "leaky_relu"])), residual)


@st.composite
def layers(draw: st.DrawFn, dim: int, context_dim: int) -> Any:
    """Any layer of this width."""
    kinds = ["elementwise", "actnorm", "lu", "autoregressive", *(["coupling", "permutation"] if dim > 1 else [])]
    kind = draw(st.sampled_from(kinds))
    explicit = draw(st.sampled_from(["to_latent", "to_data"]))
    order = st.permutations(range(dim)).map(tuple)
    if kind == "elementwise":
        network = draw(st.none() | networks()) if context_dim else None
        return ps.Elementwise(draw(transforms()), network, explicit)
    if kind == "actnorm":
        return ps.ActNorm()
    if kind == "permutation":
        return ps.Permutation(draw(st.sampled_from(["reverse", "random"]) | order))
    if kind == "lu":
        signs = draw(st.just("positive") | st.tuples(*[st.sampled_from([1, -1])] * dim))
        return ps.LULinear(draw(st.sampled_from(["identity", "random"]) | order), signs, explicit)
    if kind == "autoregressive":
        named = st.sampled_from(["identity", "reverse", "random"])
        return ps.Autoregressive(draw(transforms()), draw(networks()), draw(named | order), explicit)
    chosen = st.lists(st.integers(0, dim - 1), min_size=1, max_size=dim - 1, unique=True).map(tuple)
    named = st.sampled_from(["half", "half_swapped", "alternating", "alternating_swapped", "random"])
    return ps.Coupling(draw(transforms()), draw(networks()), split=draw(named | chosen), explicit=explicit)


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Arguments of any small flow, with a context and without."""
    dim, context_dim = draw(st.integers(1, 7)), draw(st.sampled_from([0, 0, 1, 3]))
    stack = draw(st.lists(layers(dim, context_dim), max_size=4))
    embedding = None
    if context_dim:
        if not any(getattr(layer, "conditioner", None) for layer in stack):  # somebody has to read the context
            stack.append(ps.Elementwise(draw(transforms()), draw(networks())))
        embedding = draw(st.none() | networks())
    return {"base": ps.StandardNormal(dim), "layers": stack, "context_dim": context_dim, "embedding": embedding}


def _build(spec: dict[str, Any], backend: str, dtype: str, seed: int) -> ps.Flow:
    flow = ps.Flow(**spec, dtype=dtype, rng=seed, backend=backend)
    source = np.random.default_rng(seed)
    flow.params = (0.3 * source.standard_normal(flow.n_params)).astype(np.float32).astype(dtype)
    return flow


def _rows(flow: ps.Flow, rows: int, seed: int) -> tuple[Array, ...]:
    """Rows, and a context for each if the flow has one."""
    source = np.random.default_rng([seed, 1])
    x, c = (
        source.standard_normal((rows, n)).astype(np.float32).astype(flow.dtype) for n in (flow.dim, flow.context_dim)
    )
    return (x, c) if flow.context_dim else (x,)


@each_backend_numba_in_ci
@given(spec=specs(), rows=st.integers(0, 140), seed=st.integers(0, 2**32))
@LAWS
def test_any_flow_agrees_with_numpy_and_undoes_itself(backend: str, spec: Any, rows: int, seed: int) -> None:
    flow = _build(spec, backend, "float64", seed)
    z, *context = _rows(flow, rows, seed)
    x, log_det = flow.to_data(z, *context)
    want, want_log_det = reference.to_data(flow, z, *context)
    size = np.maximum(row_size(want), np.exp(3.0))
    # Scales up to e^3 a layer, four layers: 1e5 spacings at the worst, and in practice a few hundred.
    assert_close(x, want, 1e4, "float64", scale=size)
    assert_close(log_det, want_log_det, 1e4, "float64", scale=size[:, 0])
    back, log_det_back = flow.to_latent(x, *context)
    assert_close(back, z, 1e5, "float64", scale=size)
    assert_close(log_det_back, -log_det, 1e5, "float64", scale=size[:, 0])


@each_backend_numba_in_ci
@given(spec=specs(), rows=st.integers(1, 140), cut=st.integers(0, 140), seed=st.integers(0, 2**32))
@LAWS
def test_rows_of_any_flow_do_not_know_each_other(backend: str, spec: Any, rows: int, cut: int, seed: int) -> None:
    flow = _build(spec, backend, "float32", seed)
    given = _rows(flow, rows, seed)
    parts = [flow.log_prob(*(array[part] for array in given)) for part in (slice(cut), slice(cut, None))]
    assert_same_bits(np.concatenate(parts), flow.log_prob(*given))


@each_backend_numba_in_ci
@given(spec=specs(), seed=st.integers(0, 2**32))
@LAWS
def test_the_gradient_of_any_flow_is_the_slope_along_it(backend: str, spec: Any, seed: int) -> None:
    flow = _build(spec, backend, "float64", seed)
    given, h = _rows(flow, 5, seed), 1e-6
    log_prob, grads = flow.log_prob_and_grad(*given, wrt=("x", "context")[: len(given)])
    v = [np.random.default_rng([seed, 2]).standard_normal(array.shape) for array in given]
    up, down = (flow.log_prob(*(a + s * h * w for a, w in zip(given, v, strict=True))) for s in (1, -1))
    along = sum((g * w).sum(axis=1) for g, w in zip(grads, v, strict=True))
    # The difference loses eps |log_prob| / h; a relu that bends within h would show, in one row of many thousands.
    sizes = sum(np.abs(g * w).sum(axis=1) for g, w in zip(grads, v, strict=True))
    assert (np.abs(along - (up - down) / (2 * h)) <= 1e-7 * (1 + np.abs(log_prob) + sizes)).all()


@each_backend_numba_in_ci
@given(spec=specs(), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 2**32))
@LAWS
def test_any_flow_survives_its_bytes(backend: str, spec: Any, dtype: str, seed: int) -> None:
    flow = _build(spec, backend, dtype, seed)
    again = ps.from_bytes(flow.to_bytes(), backend=backend)
    assert again.spec == flow.spec
    assert_same_bits(again.params, flow.params)
    context = _rows(flow, 1, seed)[1:]
    assert_same_bits(again.sample(1, *context, rng=1), flow.sample(1, *context, rng=1))


@each_backend
@given(
    x=hnp.arrays(np.float64, st.tuples(st.integers(0, 9), st.just(5)), elements=st.floats(-1e30, 1e30)),
    dtype=st.sampled_from(["float32", "float64"]),
)
@LAWS
def test_any_finite_row_gives_a_density_that_is_not_nan(backend: str, x: Array, dtype: str) -> None:
    flow = built(BY_NAME["coupling"], backend, dtype)
    log_prob = flow.log_prob(x)
    assert not np.isnan(log_prob).any()
    assert not (log_prob == np.inf).any()


@each_backend
@given(data=st.binary(max_size=200))
@LAWS
def test_any_bytes_are_a_flow_or_a_value_error(backend: str, data: bytes) -> None:
    for candidate in (data, built(BY_NAME["coupling"], backend, "float32").to_bytes()[: len(data) * 17]):
        with pytest.raises(ValueError, match=r"\w"):
            ps.from_bytes(candidate)


@each_backend
@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 2**40), n=st.integers(0, 300))
@LAWS
def test_the_order_of_rows_is_a_permutation_for_any_seed(backend: str, seed: int, epoch: int, n: int) -> None:
    out = row_order(built(BY_NAME["coupling"], backend, "float32"), seed, epoch, n, 0, n)
    assert (np.sort(out) == np.arange(n)).all()
    assert (out == reference.permutation(seed, epoch, n)).all()


@each_backend
@given(
    seed=st.integers(0, 2**64 - 1),
    first=st.integers(0, 2**32) | st.integers(0, 2**56 - 71),
    context_row=st.integers(0, 3) | st.integers(0, 2**40 - 1),
    rows=st.integers(0, 70),
)
@LAWS
def test_draws_depend_on_seed_and_numbers_alone(
    backend: str, seed: int, first: int, context_row: int, rows: int
) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [], dtype="float64", rng=0, backend=backend)
    out = np.empty((rows, 3))
    engine_sample(flow, seed, out, first=first, context_row=context_row)
    assert np.isfinite(out).all()
    assert_close(out, reference.normals(seed, first, rows, 3, context_row), 16, "float64", scale=4.0)


@given(bound=st.floats(1e-3, 1e3), r=st.floats(-1e30, 1e30), x=st.floats(-1e3, 1e3))
@LAWS
def test_the_log_scale_of_an_affine_map_stays_inside_its_bound(bound: float, r: float, x: float) -> None:
    flow = ps.Flow(
        ps.StandardNormal(1),
        [ps.Elementwise(ps.Affine(scale_bound=bound))],
        dtype="float64",
        rng=0,
        backend=BACKENDS[0],
    )
    flow.params = np.array([r, 0.0])
    log_det = float(flow.to_latent(np.array([[x]]))[1][0])
    assert abs(log_det) <= bound * (1 + 2**-51)
    assert math.copysign(1, log_det) == math.copysign(1, r) or log_det == 0
    assert math.isclose(log_det, r / math.hypot(1, r / bound), rel_tol=1e-9)
