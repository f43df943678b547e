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
from helpers import assert_close, assert_same_bits, each_backend, engine_sample, row_size

Array = np.ndarray[Any, Any]

# Derandomised: a red run is red for everybody.
LAWS = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def transforms(draw: st.DrawFn) -> Any:
    """Any transform."""
    kind = draw(st.sampled_from(["affine", "additive", "spline"]))
    if kind == "additive":
        return ps.Additive()
    if kind == "spline":
        return ps.RationalQuadratic(draw(st.integers(2, 12)), draw(st.sampled_from([1.0, 3.0, 8.0])), slope_min=0.05)
    return ps.Affine(scale_bound=draw(st.sampled_from([0.3, 1.0, 3.0, math.inf])))


@st.composite
def layers(draw: st.DrawFn, dim: int) -> Any:
    """Any layer of this width."""
    kind = draw(
        st.sampled_from(
            ["coupling", "elementwise", "permutation", "actnorm", "lu"] if dim > 1 else ["elementwise", "actnorm", "lu"]
        )
    )
    explicit = draw(st.sampled_from(["to_latent", "to_data"]))
    if kind == "elementwise":
        return ps.Elementwise(draw(transforms()), explicit=explicit)
    if kind == "actnorm":
        return ps.ActNorm()
    if kind == "permutation":
        return ps.Permutation(
            draw(st.one_of(st.sampled_from(["reverse", "random"]), st.permutations(range(dim)).map(tuple)))
        )
    if kind == "lu":
        order = draw(st.one_of(st.sampled_from(["identity", "random"]), st.permutations(range(dim)).map(tuple)))
        signs = draw(st.one_of(st.just("positive"), st.tuples(*[st.sampled_from([1, -1])] * dim)))
        return ps.LULinear(order, signs, explicit)
    residual = draw(st.booleans())
    depth = draw(st.integers(0, 3))
    width = draw(st.integers(1, 9))
    hidden = (width,) * depth if residual else tuple(draw(st.lists(st.integers(1, 20), min_size=depth, max_size=depth)))
    activation = draw(st.sampled_from(["relu", "tanh", "silu", "gelu", "leaky_relu"]))
    chosen = st.lists(st.integers(0, dim - 1), min_size=1, max_size=dim - 1, unique=True).map(tuple)
    split = draw(
        st.one_of(st.sampled_from(["half", "half_swapped", "alternating", "alternating_swapped", "random"]), chosen)
    )
    return ps.Coupling(draw(transforms()), ps.MLP(hidden, activation, residual), split=split, explicit=explicit)


@st.composite
def specs(draw: st.DrawFn) -> tuple[int, list[Any]]:
    """Any small flow."""
    dim = draw(st.integers(1, 7))
    return dim, draw(st.lists(layers(dim), max_size=4))


def _build(spec: tuple[int, list[Any]], backend: str, dtype: str, seed: int) -> ps.Flow:
    flow = ps.Flow(ps.StandardNormal(spec[0]), spec[1], dtype=dtype, rng=seed, backend=backend)
    source = np.random.default_rng(seed)
    flow.params = (0.3 * source.standard_normal(flow.n_params)).astype(np.float32).astype(dtype)
    return flow


@each_backend
@given(spec=specs(), rows=st.integers(0, 140), seed=st.integers(0, 2**32))
@LAWS
def test_any_flow_agrees_with_numpy_and_undoes_itself(
    backend: str, spec: tuple[int, list[Any]], rows: int, seed: int
) -> None:
    flow = _build(spec, backend, "float64", seed)
    z = np.random.default_rng(seed + 1).standard_normal((rows, flow.dim))
    x, log_det = flow.to_data(z)
    want, want_log_det = reference.to_data(flow, z)
    size = np.maximum(row_size(want), np.exp(3.0))
    # Scales up to e^3 a layer, four layers: 1e5 spacings at the worst, and in practice a few hundred.
    assert_close(x, want, 1e4, "float64", scale=size)
    assert_close(log_det, want_log_det, 1e4, "float64", scale=size[:, 0])
    back, log_det_back = flow.to_latent(x)
    assert_close(back, z, 1e5, "float64", scale=size)
    assert_close(log_det_back, -log_det, 1e5, "float64", scale=size[:, 0])


@each_backend
@given(spec=specs(), rows=st.integers(1, 140), cut=st.integers(0, 140), seed=st.integers(0, 2**32))
@LAWS
def test_rows_of_any_flow_do_not_know_each_other(
    backend: str, spec: tuple[int, list[Any]], rows: int, cut: int, seed: int
) -> None:
    flow = _build(spec, backend, "float32", seed)
    x = np.random.default_rng(seed).standard_normal((rows, flow.dim)).astype(np.float32)
    whole = flow.log_prob(x)
    assert_same_bits(np.concatenate([flow.log_prob(x[:cut]), flow.log_prob(x[cut:])]), whole)


@each_backend
@given(spec=specs(), seed=st.integers(0, 2**32))
@LAWS
def test_the_gradient_of_any_flow_is_the_slope_along_it(backend: str, spec: tuple[int, list[Any]], seed: int) -> None:
    flow = _build(spec, backend, "float64", seed)
    source = np.random.default_rng(seed)
    x, v = source.standard_normal((5, flow.dim)), source.standard_normal((5, flow.dim))
    h = 1e-6
    grad = flow.log_prob_and_grad(x)[1]
    slope = (flow.log_prob(x + h * v) - flow.log_prob(x - h * v)) / (2 * h)
    # The difference loses eps |log_prob| / h; a relu that bends within h would show, in one row of many thousands.
    bound = 1e-7 * (1 + np.abs(flow.log_prob(x)) + np.abs(grad * v).sum(axis=1))
    assert (np.abs((grad * v).sum(axis=1) - slope) <= bound).all()


@each_backend
@given(spec=specs(), dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 2**32))
@LAWS
def test_any_flow_survives_its_bytes(backend: str, spec: tuple[int, list[Any]], dtype: str, seed: int) -> None:
    flow = _build(spec, backend, dtype, seed)
    again = ps.from_bytes(flow.to_bytes(), backend=backend)
    assert again.spec == flow.spec
    assert_same_bits(again.params, flow.params)
    assert_same_bits(again.sample(5, rng=1), flow.sample(5, rng=1))


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
    module = built(BY_NAME["coupling"], backend, "float32")._backend
    out = np.full(n, -1, np.int64)
    module.row_order(seed, epoch, n, 0, out)
    assert (np.sort(out) == np.arange(n)).all()
    assert (out == reference.permutation(seed, epoch, n)).all()


@each_backend
@given(seed=st.integers(0, 2**64 - 1), first=st.integers(0, 2**31), rows=st.integers(0, 70))
@LAWS
def test_draws_depend_on_seed_and_index_alone(backend: str, seed: int, first: int, rows: int) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [], dtype="float64", rng=0, backend=backend)
    out = np.empty((rows, 3))
    engine_sample(flow, seed, out, first=first)
    assert np.isfinite(out).all()
    assert_close(out, reference.normals(seed, first, rows, 3), 16, "float64", scale=4.0)


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
