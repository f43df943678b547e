"""Laws of columns with supports: those of every flow of ``supports_table.py``, and those of half-lines and intervals alone.

Circles and boxes have more in ``test_kinds.py``, groups of columns in ``test_groups.py``.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import (
    ABOVE,
    BACKENDS,
    BELOW,
    GROUPED,
    KINDED,
    LOGIT,
    SUPPORTED,
    Case,
    assign,
    bare,
    built,
    contexts,
    rng,
    support_scale,
)
from helpers import assert_close, assert_same_bits, both_dtypes, each_backend, each_backend_numba_in_ci, inside
from penstock.training.supports import half_line_scale, image
from supports_table import (
    COLUMNED,
    apart,
    differences,
    each_columned,
    each_of,
    each_of_two_backends,
    gap,
    jacobian,
    latents,
    lies_within,
    outside,
    points,
    supports,
    twin,
)

Array = np.ndarray[Any, Any]
ONE_DIM = tuple(case for case in SUPPORTED if case.name in ("positive", "above", "below", "logit"))


# -- the two directions -------------------------------------------------------------------------


@each_columned
@both_dtypes
def test_to_latent_undoes_to_data(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    z = latents(case, 130, flow, dtype)
    x, log_det = flow.to_data(z)
    back, log_det_back = flow.to_latent(x)
    wide = np.asarray(x, np.float64)
    room = gap(flow, wide)
    size = np.abs(wide)
    for j, own in enumerate(supports(flow)):
        if own.kind != "line":
            size[:, j] = np.minimum(max(abs(own.lo), abs(own.hi)), 1e3 * room[:, j])
    slopes = np.abs(jacobian(flow, twin(flow).to_latent, wide, 1e-4 * room, latent=True))
    scale = 1 + np.abs(z) + (slopes * size[:, None, :]).sum(axis=2)
    eps = np.finfo(dtype).eps
    assert (apart(flow, back, z, latent=True) <= case.ulps * eps * scale).all()
    # a relative change of a gap changes its logarithm
    scale = scale.sum(axis=1) * (1 if case not in KINDED else 4 * (1 + np.abs(log_det)))
    scale += np.abs(log_det) + (np.abs(wide) / room).sum(axis=1) * (case in GROUPED)
    assert (np.abs(log_det + log_det_back) <= case.ulps * eps * scale).all()


@each_of(GROUPED)
@both_dtypes
def test_to_data_undoes_to_latent(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 130, flow)
    z = flow.to_latent(x)[0]
    back = flow.to_data(z)[0]
    wide = np.asarray(z, np.float64)
    slopes = np.abs(jacobian(flow, twin(flow).to_data, wide, np.full(z.shape, 1e-5), latent=False))
    scale = 1 + np.abs(x) + (slopes * (1 + np.abs(wide))[:, None, :]).sum(axis=2)
    assert (apart(flow, back, x) <= case.ulps * np.finfo(dtype).eps * scale).all()


@each_columned
@both_dtypes
def test_a_flow_agrees_with_the_reference(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, z = points(case, 130, flow), latents(case, 130, flow, dtype)
    eps = np.finfo(dtype).eps * case.ulps * (8 if dtype == "float64" else 1)
    wanted, log_det = reference.to_latent(flow, x)
    assert np.isfinite(wanted).all()
    found, log_det_found = flow.to_latent(x)
    size = 1 + np.abs(wanted).max(axis=1, keepdims=True)
    assert (apart(flow, found, wanted, latent=True) <= eps * size).all()
    assert (np.abs(log_det_found - log_det) <= eps * (size[:, 0] + np.abs(log_det))).all()
    assert (np.abs(flow.log_prob(x) - reference.log_prob(flow, x)) <= eps * (size[:, 0] ** 2 + np.abs(log_det))).all()
    wanted, log_det = reference.to_data(flow, z)
    found, log_det_found = flow.to_data(z)
    size = 1 + np.abs(wanted).max(axis=1, keepdims=True)
    assert (apart(flow, found, wanted) <= eps * size).all()
    allowed = eps * (1 + np.abs(z).max(axis=1) + np.abs(log_det))
    if case in KINDED:
        allowed = eps * (1 + np.abs(z).max(axis=1)) ** 2
    if case in GROUPED:  # what is stored moves the ends of others: a gap has the rounding of the numbers beside it
        allowed += eps * (np.abs(wanted) / gap(flow, wanted)).sum(axis=1)
    assert (np.abs(log_det_found - log_det) <= allowed).all()


@each_columned
def test_log_det_is_that_of_a_numerical_jacobian(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    x, z = points(case, 5, flow), latents(case, 5, flow, "float64")
    small = 1e-6 if case.kinks else 1e-4
    for function, at, latent, step in (
        (flow.to_latent, x, True, small * gap(flow, x)),
        (flow.to_data, z, False, np.full(z.shape, small)),
    ):
        sign, expected = np.linalg.slogdet(jacobian(flow, function, at, step, latent=latent))
        mixed = any(isinstance(layer, ps.Permutation | ps.LULinear) for layer in bare(flow).spec.layers)
        assert mixed or case not in SUPPORTED or (sign > 0).all()
        allowed = 2e-5 if case in KINDED else 2e-6 * flow.dim
        np.testing.assert_allclose(function(at)[1], expected, rtol=0, atol=allowed)


@each_of_two_backends
@both_dtypes
def test_backends_agree(case: Case, dtype: str) -> None:
    if len(BACKENDS) < 2:
        pytest.skip("one backend alone")
    one, other = (built(case, backend, dtype) for backend in BACKENDS)
    x, z = points(case, 130, one), latents(case, 130, one, dtype)
    cotangent, along = rng("cotangent").standard_normal((130, one.dim)), rng("along").standard_normal(130)
    for call in (
        lambda flow: flow.log_prob(x),
        lambda flow: flow.to_data(z)[1],
        lambda flow: flow.log_prob_and_grad(x),
        lambda flow: flow.to_latent_vjp(x, cotangent, along),
        lambda flow: flow.to_data_vjp(z, cotangent, along),
        lambda flow: flow.sample_and_log_prob(100, rng=1)[1],
    ):
        for a, b in zip(_parts(call(one)), _parts(call(other)), strict=True):
            size = np.abs(np.asarray(b, np.float64)).max(initial=1.0)
            assert_close(a, b, (4 if case in SUPPORTED else 8) * case.ulps, dtype, scale=size)
    for a, b in ((one.to_data(z)[0], other.to_data(z)[0]), (one.sample(100, rng=1), other.sample(100, rng=1))):
        size = np.maximum(np.abs(b).max(initial=1.0), 180 if case not in SUPPORTED else 4)
        assert apart(one, a, b).max() <= size * case.ulps * np.finfo(dtype).eps


def _parts(result: Any) -> list[Array]:
    return [part for part in (result if isinstance(result, tuple) else (result,)) if part is not None]


# -- rows do not know each other ----------------------------------------------------------------


@each_columned
@both_dtypes
def test_a_row_has_the_same_bits_alone_and_in_a_batch_of_any_size(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, z = points(case, 131, flow), latents(case, 131, flow, dtype)
    places = outside(flow, x)
    if places:
        x[70, places[0][0]] = np.ravel(places[0][1])[-1 if np.ndim(places[0][1]) == 0 else 70]
        assert flow.log_prob(x)[70] == -math.inf
    over = rng("cotangent").standard_normal((131, flow.dim)).astype(dtype)

    def along_rows(some: slice) -> list[Array]:
        """Everything that there is of some rows."""
        return [
            flow.log_prob(x[some]), flow.log_prob_and_grad(x[some])[1], *flow.to_latent(x[some]), *flow.to_data(z[some]),
            flow.to_data_vjp(z[some], over[some], over[some, 0])[0],
        ]  # fmt: skip

    whole, drawn = along_rows(slice(None)), flow.sample_and_log_prob(131, rng=5)
    for rows in (1, 2, 7, 63, 64, 65, 130):
        for some in (slice(rows), slice(131 - rows, None)):
            for a, b in zip(along_rows(some), whole, strict=True):
                assert_same_bits(a, b[some])
        for a, b in zip(flow.sample_and_log_prob(rows, rng=5), drawn, strict=True):
            assert_same_bits(a, b[:rows])
    for i in (0, 63, 70, 130):
        alone = (flow.log_prob(x[i]), *flow.to_latent(x[i]), *flow.to_data(z[i]))
        for a, b in zip(alone, (whole[0], *whole[2:6]), strict=True):
            assert_same_bits(a, b[i])
    for order in (np.asfortranarray(x), x[::-1].copy()[::-1], x.astype(np.float64)):
        assert_same_bits(flow.log_prob(order), whole[0])


@each_columned
@both_dtypes
def test_outside_there_is_no_density_and_no_gradient(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    clean = points(case, 130, flow)
    context = {} if not flow.context_dim else {"context": contexts(case, 130, flow)}
    subject, ones = bare(flow), np.ones(130, dtype)
    wanted, (d_x, d_params, d_context) = (
        subject.log_prob(clean, **context),
        subject.log_prob_vjp(clean, ones, **context),
    )
    bad = [0, 63, 64, 129]
    keep = np.setdiff1d(np.arange(130), bad)
    some = {key: rows[keep] for key, rows in context.items()}
    of_others = subject.log_prob_vjp(clean[keep], ones[keep], **some)[1]
    for j, value in outside(flow, clean):
        x = clean.copy()
        x[bad, j] = value if np.ndim(value) == 0 else value[bad]
        density = subject.log_prob(x, **context)
        assert (density[bad] == -math.inf).all(), (j, value)
        assert_same_bits(density[keep], wanted[keep])
        grad, of_params, of_context = subject.log_prob_vjp(x, ones, **context)
        assert (grad[bad] == 0).all()
        assert_same_bits(grad[keep], d_x[keep])
        np.testing.assert_allclose(of_params, of_others, rtol=1e-4, atol=1e-4 * np.abs(d_params).max(initial=1.0))
        if of_context is not None and d_context is not None:
            assert (of_context[bad] == 0).all()
            assert_same_bits(of_context[keep], d_context[keep])
        z, log_det = subject.to_latent(x, **context)
        assert np.isnan(z[bad]).all()
        assert np.isnan(log_det[bad]).all()
        assert np.isfinite(z[keep]).all()
        back = subject.to_latent_vjp(x, np.ones((130, flow.dim), dtype), ones, **context)
        assert (back[0][bad] == 0).all()
        assert np.isfinite(back[1]).all()


@each_columned
@both_dtypes
def test_nan_stays_nan_in_its_row(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    clean, z = points(case, 66, flow), latents(case, 66, flow, dtype)
    density = np.delete(flow.log_prob(clean), [0, 64])
    for j in range(0, flow.dim, 1 if flow.dim < 10 else 7):
        circle = supports(flow)[j].kind == "circle"
        for value in (math.nan, math.inf) if circle else (math.nan,):
            x = clean.copy()
            x[[0, 64], j] = value
            if case in SUPPORTED and j > 0:
                x[64, 0] = -math.inf  # outside in another column, or real and infinite
            found, (latent, log_det) = flow.log_prob(x), flow.to_latent(x)
            assert np.isnan(found[[0, 64]]).all()
            assert np.isnan(latent[[0, 64]]).any(axis=1).all()
            assert np.isnan(log_det[0]) or supports(flow)[j].name != "interval" or case in KINDED
            assert_same_bits(np.delete(found, [0, 64]), density)
            assert np.isnan(flow.log_prob_and_grad(x)[1][0]).any() or circle
            assert np.isfinite(np.delete(log_det, [0, 64])).all()
        u = z.copy()
        u[[0, 64], j] = math.nan
        assert np.isnan(flow.to_data(u)[0][[0, 64]]).any(axis=1).all()
        assert np.isfinite(np.delete(flow.to_data(u)[0], [0, 64], axis=0)).all()


# -- densities ----------------------------------------------------------------------------------

EXTREMES = ((0, 1), (-20, 5), (20, 5), (-100, 40), (100, 40), (-700, 300), (700, 300), (0, 3000))


@each_of((*SUPPORTED, *GROUPED))
@both_dtypes
def test_draws_lie_within_and_carry_the_density_of_the_row_as_stored(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype).copy()
    mapped = [j for j, own in enumerate(supports(flow)) if own.name != "real" and own.kind == "line"]
    before = np.array(flow._snapshot.buffers)
    for loc, scale in EXTREMES:
        buffers = before.copy()
        buffers[mapped], buffers[flow.dim + np.array(mapped)] = loc, scale
        assign(bare(flow), buffers=buffers)
        x, density = flow.sample_and_log_prob(300, rng=3)
        assert_same_bits(x, flow.sample(300, rng=3))
        assert lies_within(flow, x)
        again = flow.log_prob(x)
        assert np.isfinite(again).all()
        # 64 spacings of the distance from an end move the latent of every column by so many spacings, of what is near 1 there.
        z = flow.to_latent(x)[0].astype(np.float64)
        size = 1 + np.abs(z).sum(axis=1) * (1 + np.abs(z).max(axis=1)) + np.abs(again) * (case in GROUPED)
        assert (np.abs(density - again) <= 256 * case.ulps * np.finfo(dtype).eps * size).all()
        if case in GROUPED:
            assert not np.isnan(flow.log_prob_and_grad(x)[1]).any()
            assert not np.isnan(flow.to_data_vjp(z, np.ones(z.shape), np.ones(300))[0]).any()


# -- gradients ----------------------------------------------------------------------------------


@each_columned
def test_gradients_match_differences(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    x, z = points(case, 4, flow, "gradients"), latents(case, 4, flow, "float64", "gradients")
    over, along = rng("over").standard_normal((4, flow.dim)), rng("along").standard_normal(4)

    def weighed(flow: Any, which: str, at: Array) -> float:
        if which == "density":
            return float(along @ flow.log_prob(at))
        y, log_det = flow.to_latent(at) if which == "latent" else flow.to_data(at)
        return float((over * y).sum() + along @ log_det)

    small = 1e-6 if case.kinks else 1e-4
    for which, at, step, vjp in (
        ("density", x, small * gap(flow, x), flow.log_prob_vjp(x, along)),
        ("latent", x, small * gap(flow, x), flow.to_latent_vjp(x, over, along)),
        ("data", z, np.full(z.shape, small), flow.to_data_vjp(z, over, along)),
    ):
        expected = differences(lambda at, which=which: weighed(flow, which, at), at, step)
        size = 1 + np.abs(expected).max(axis=0, keepdims=True)
        np.testing.assert_allclose(vjp[0] / size, expected / size, rtol=0, atol=1e-5 if case in SUPPORTED else 2e-5)
        found, start, other = vjp[1], np.array(flow.params), flow.copy()
        for k in rng("chosen", case.name).choice(len(start), min(len(start), 12), replace=False):
            values = []
            for way in (-1, 1):
                moved = start.copy()
                moved[k] += way * 1e-6
                other.params = moved
                values.append(weighed(other, which, at))
            assert abs(found[k] - (values[1] - values[0]) / 2e-6) <= 2e-5 * (1 + np.abs(found).max())


@each_of([case for case in COLUMNED if case.conditional])
def test_gradients_of_the_context_match_differences(case: Case, backend: str) -> None:
    flow = bare(built(case, backend, "float64"))
    x, context = points(case, 6, flow), contexts(case, 6, flow)
    found = flow.log_prob_and_grad(x, context, wrt="context")[1]
    step = np.full(context.shape, 1e-6 if case.kinks else 1e-4)
    expected = differences(lambda at: float(flow.log_prob(x, at).sum()), context, step)
    assert (np.abs(found - expected) <= 1e-5 * (1 + np.abs(found).max())).all()


@each_columned
def test_a_training_step_has_the_gradient_of_the_loss(case: Case, backend: str) -> None:
    flow = bare(built(case, backend, "float32"))
    x = points(case, 200, flow)
    context = contexts(case, 200, flow) if flow.context_dim else None
    weight = rng("weights").uniform(0, 2, 200)
    loss, _, grad = flow.loss_and_grad(x, context, weight)
    wanted = flow.log_prob_vjp(x, -weight.astype(np.float32), context)[1]
    assert loss == pytest.approx(float(-(weight * flow.log_prob(x, context)).sum()), rel=1e-5)
    np.testing.assert_allclose(grad, wanted, rtol=0, atol=2e-4 * np.abs(wanted).max())


# -- files and copies ---------------------------------------------------------------------------


@each_columned
@both_dtypes
def test_a_file_keeps_supports(case: Case, backend: str, dtype: str, tmp_path: Path) -> None:
    flow = built(case, backend, dtype)
    subject, context = bare(flow), flow.context if flow.context_dim else None
    x = points(case, 20, flow)
    subject.save(tmp_path / "flow.safetensors")
    for other in (
        ps.load(tmp_path / "flow.safetensors", backend=backend),
        pickle.loads(pickle.dumps(subject)),
        subject.copy(),
        subject.astype("float64").astype(dtype),
    ):
        assert other.spec == subject.spec
        assert_same_bits(other.log_prob(x, context), subject.log_prob(x, context))
        assert other.to_bytes() == subject.to_bytes()
    spec, tensors = reference.reader()["read"](tmp_path / "flow.safetensors")
    assert len(spec["support"]) == subject.dim
    assert len(tensors.get("support.numbers", ())) == len(support_scale(flow))
    n_scales = sum(getattr(own, "map", "") == "positive" for own in supports(flow))
    assert case not in SUPPORTED or len(tensors.get("support.numbers", ())) == n_scales


# -- half-lines and intervals ---------------------------------------------------------------------


@each_of(SUPPORTED)
def test_a_flow_without_supports_goes_as_ever(case: Case, backend: str) -> None:
    flow = built(case, backend, "float32")
    layers, context_dim = flow.spec.layers, flow.context_dim
    bare = ps.Flow(flow.spec.base, layers, context_dim=context_dim, support="real", backend=backend)
    assert bare.spec.support == ()
    assert len(bare._snapshot.buffers) == 2 * (bare.dim + bare.context_dim)
    assert "support" not in repr(bare)


# -- densities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ONE_DIM, ids=lambda case: case.name)
@each_backend_numba_in_ci
def test_the_density_integrates_to_one_over_a_support(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    x = np.unique(flow.to_data(np.linspace(-9, 9, 200_001)[:, None])[0])
    total = np.trapezoid(np.exp(flow.log_prob(x[:, None])), x)
    assert abs(total - 1) < 1e-6


@each_backend_numba_in_ci
def test_the_density_integrates_to_one_over_two_supports(backend: str) -> None:
    flow = built(next(case for case in SUPPORTED if case.name == "two_supports"), backend, "float64")
    drawn = flow.to_data(9 * np.stack(np.meshgrid(*[np.linspace(-1, 1, 181)] * 2), -1).reshape(-1, 2))[0]
    first, second = (_nodes(drawn[:, j], own) for j, own in enumerate(flow.spec.support))
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), -1)
    density = np.exp(flow.log_prob(grid.reshape(-1, 2))).reshape(grid.shape[:2])
    total = np.trapezoid(np.trapezoid(density, second, axis=1), first)
    assert abs(total - 1) < 1e-4


def _nodes(x: Array, support: Any) -> Array:
    """Nodes that are even on the line, from the least to the largest of some numbers."""
    u = np.linspace(*np.quantile(image(x, support, [1.0]), [0, 1]), 1201)
    return np.logaddexp(0, u) if support.hi is None else support.lo + (support.hi - support.lo) / (1 + np.exp(-u))


@each_backend
@both_dtypes
@inside("lo", [1.0e6, 0.1, -0.7])
def test_a_row_that_rounding_has_moved_has_its_own_density(backend: str, dtype: str, lo: float) -> None:
    """At an end that is far from zero a column has few numbers: rows fall onto them, and onto the end."""
    flow = ps.Flow(ps.StandardNormal(1), [], support=ps.interval(lo, None), dtype=dtype, backend=backend)
    assign(flow, buffers=np.array([math.log(abs(np.spacing(np.dtype(dtype).type(lo)))), 1.0, 1.0]))
    x, density = flow.sample_and_log_prob(1000, rng=0)
    end = np.dtype(dtype).type(lo)  # an end counts as the dtype rounds it
    assert (x > end).all()
    assert (x == np.nextafter(end, np.inf)).sum() > 300
    assert_same_bits(density, flow.log_prob(x))
    alone = flow.sample_and_log_prob(1, rng=0)
    assert_same_bits(alone[0], x[:1])
    assert_same_bits(alone[1], density[:1])


@each_backend
@inside(
    "support",
    [ps.interval(None, -1e6), ps.interval(-1e6, -1e6 + 8, map="logit"), ps.interval(1e6 - 8, 1e6, map="logit")],
)
def test_rounding_counts_against_the_nearer_end(backend: str, support: Any) -> None:
    """Rows near an end that is far from zero, where single numbers are 1 / 16 apart, and the other end is not near."""
    flow = ps.Flow(ps.StandardNormal(1), [], support=support, dtype="float32", backend=backend)
    for loc in (-5.0, 5.0):
        buffers = np.array(flow._snapshot.buffers)
        buffers[0] = loc
        assign(flow, buffers=buffers)
        x, density = flow.sample_and_log_prob(1000, rng=0)
        assert_close(density, flow.log_prob(x), 256, "float32", scale=1 + np.abs(flow.to_latent(x)[0][:, 0]) ** 2)


# -- beyond what numbers hold -------------------------------------------------------------------


@each_backend
def test_what_is_beyond_single_numbers_ends_at_the_largest(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support="positive", dtype="float32", backend=backend)
    most = np.finfo("float32").max
    x = np.array([[1e300], [1e-300]])
    z = flow.to_latent(x)[0]
    assert z[0] == most
    assert abs(z[1] / (-300 * math.log(10)) - 1) < 1e-6
    density, slope = flow.log_prob_and_grad(x)
    assert density[0] == -math.inf
    assert np.isfinite(density[1])
    assert slope.ravel().tolist() == [-most, most]
    ones = np.ones((2, 1), np.float32)
    assert flow.to_latent_vjp(x, ones, np.zeros(2, np.float32))[0].ravel().tolist() == [1.0, most]
    assign(flow, buffers=np.array([0.0, 1.0, 1e200]))
    assert (flow.to_data_vjp(ones, ones, np.zeros(2, np.float32))[0] == most).all()


@each_backend
@inside(
    "support",
    [ps.interval(0, None), ps.interval(None, 0), ps.interval(0, 1, map="logit"), ps.interval(-1, 0, map="logit")],
)
def test_a_distance_below_normal_numbers_counts_as_the_least_normal_one(backend: str, support: Any) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support=support, dtype="float64", backend=backend)
    way = 1.0 if support.ends[0] == 0 else -1.0
    least = np.finfo("float64").smallest_normal
    near, normal = flow.to_latent([[way * 5e-324]]), flow.to_latent([[way * least]])
    assert near[0] == normal[0]
    assert near[1] == normal[1]
    assert abs(way * near[0][0, 0] - math.log(least)) < 1e-9
    assert np.isfinite(flow.log_prob([[way * 5e-324]])).all()


@each_backend
@inside("support", [ps.interval(0, None), ps.interval(None, 0), ps.interval(0, 1e-4, map="logit")])
def test_there_is_no_gradient_beyond_an_end_whose_slope_has_no_number(backend: str, support: Any) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support=support, dtype="float64", backend=backend)
    if flow._snapshot.buffers.size == 3:
        assign(flow, buffers=np.array([0.0, 1.0, 1e-4]))
    lo, hi = support.ends
    x = np.array([[end + step] for end, step in ((lo, -1.0), (lo, 0.0), (hi, 0.0), (hi, 1.0)) if np.isfinite(end)])
    ones = np.ones((len(x), 1))
    assert (flow.log_prob_and_grad(x)[1] == 0).all()
    assert (flow.to_latent_vjp(x, ones, ones[:, 0])[0] == 0).all()


# -- outside ------------------------------------------------------------------------------------


# -- gradients ----------------------------------------------------------------------------------


# -- what a user writes -------------------------------------------------------------------------


def test_a_support_is_one_for_all_a_list_or_a_mapping() -> None:
    positive = ps.interval(0, None)
    real = ps.Real()

    def of(support: Any, dim: int = 3) -> tuple[Any, ...]:
        return ps.nsf(dim, layers=1, hidden=(4,), support=support, rng=0).spec.support

    assert of("positive") == (positive,) * 3
    assert of(["real", "positive", LOGIT]) == (real, positive, LOGIT)
    assert of({1: "positive"}) == (real, positive, real)
    assert of((0, None)) == (positive,) * 3
    assert of([(None, 2.5), "real", real]) == (BELOW, real, real)
    assert of(None) == of("real") == of(["real"] * 3) == of(()) == of({}) == ()
    assert of(of({1: "positive"})) == of({1: "positive"})
    flow = ps.nsf(2, layers=1, hidden=(4,), support={"mass": "positive", "age": "real"}, rng=0)
    assert flow.columns == ("mass", "age")
    assert flow.reset().columns == ("mass", "age")
    assert flow.spec.support == (positive, real)
    assert ps.Interval(-0.0, None) == positive
    assert str(flow.spec).count("support=") == 1


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        ("positve", ValueError, "support must be 'real', 'positive', ps.interval"),
        ("periodic", ValueError, "'periodic' needs its ends"),
        ("simplex", ValueError, "simplex is a support of several columns"),
        (["real"], ValueError, "2 of them, got 1"),
        (["real", 3], ValueError, r"support\[1\] must be 'real'"),
        (3, TypeError, "support"),
        ((1, 0), ValueError, "lo must be below hi"),
        ({2: "positive"}, ValueError, "column 2 of a flow whose columns are 0 to 1"),
        ({"a": "positive"}, ValueError, "must name every column"),
        ({"a": "positive", 1: "real"}, TypeError, "all names or all positions"),
        ({"a": "positive", "b": "box"}, ValueError, r"support\['b'\].*'box' needs its ends"),
        ([(1, 1 + 2e-16), "real"], ValueError, "no float32 strictly between"),
        (
            [ps.Interval(1, 1 + 1e-9, "logit"), "real"],
            ValueError,
            r"support\[0\]: there is no float32 strictly between",
        ),
    ],
)
def test_a_support_that_is_none_is_refused(support: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ps.nsf(2, layers=1, hidden=(4,), support=support, rng=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None), "whole line"),
        ((1, 0), "below hi"),
        ((0, 0), "below hi"),
        ((0, math.inf), "finite number, or None"),
        ((math.nan, None), "finite number, or None"),
        ((True, None), "finite number, or None"),
        (("a", None), "must be a number or None"),
        ((-1e308, 1e308, "logit"), "difference finite"),
        ((0, 1, "probit"), "map 'box' or 'logit', got 'probit'"),
        ((0, None, "logit"), "map 'positive', got 'logit'"),
        ((0, 1, "box", "left"), "closed must be one of"),
        ((0, 1, "logit", "both"), "do not belong to it"),
        ((0, None, None, "lo"), "do not belong to it"),
    ],
)
def test_an_interval_that_is_none_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ps.interval(*arguments)


def test_a_narrow_interval_needs_float64() -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support=ps.interval(1, 1 + 1e-9, map="logit"), dtype="float64")
    assert ((flow.sample(100) > 1) & (flow.sample(100) < 1 + 1e-9)).all()
    with pytest.raises(ValueError, match="no float32 strictly between"):
        flow.astype("float32")


# -- files and copies ---------------------------------------------------------------------------


def test_a_file_whose_support_is_damaged_is_refused() -> None:
    from penstock.files import specs

    spec = ps.Flow(ps.StandardNormal(2), [], support=["positive", LOGIT]).spec
    record = specs.encode(spec)
    assert specs.decode(record, 10**6, 10**6) == spec
    for broken, message in (
        ([{"type": "real"}] * 2, "not written"),
        ([{"type": "real"}], "list of 2"),
        ([{"type": "real"}, {"type": "ring"}], "ring"),
        ([{"type": "real"}, {"type": "interval", "lo": 2.0, "hi": 1.0, "map": "logit"}], "below hi"),
        ([{"type": "real"}, {"type": "interval", "lo": 2.0, "top": 1.0}], "top"),
        ("positive", "list of 2"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            specs.decode({**record, "support": broken}, 10**6, 10**6)


# -- training -----------------------------------------------------------------------------------

SOURCE = np.random.default_rng(5)
GAMMA = SOURCE.gamma(2.0, 3.0, 4000)


def fit(x: Any, support: Any, backend: str = "auto", dim: int = 1, **options: Any) -> ps.Flow:
    settings = {"epochs": 20, "rng": 0, "progress": False, **options}
    return ps.nsf(dim, layers=2, hidden=(16,), support=support, rng=0, backend=backend).fit(x, **settings)


@each_backend_numba_in_ci
def test_a_fit_learns_within_its_support(backend: str) -> None:
    y = np.stack([GAMMA, np.random.default_rng(1).beta(2, 3, 4000)], axis=1)
    flow = fit(y, {"size": "positive", "part": ps.interval(0, 1, map="logit")}, backend, dim=2, epochs=30)
    size, part = (float(np.log(p).mean()) for p in (GAMMA * np.exp(-GAMMA / 3) / 9, 12 * y[:, 1] * (1 - y[:, 1]) ** 2))
    assert flow.score(y) > size + part - 0.05
    drawn = flow.sample(20_000, rng=0)
    assert (drawn > 0).all()
    assert (drawn[:, 1] < 1).all()
    assert abs(drawn[:, 0].mean() - 6) < 0.3
    s = flow._snapshot.buffers[-1]
    assert f"size positive (s={s:.4g})" in repr(flow)
    assert "part within (0, 1) (logit)" in repr(flow)
    u = image(GAMMA, ps.interval(0, None), [s])
    # a tenth of the rows validate
    assert abs(flow.loc[0] - u.mean()) < 0.1 * u.std()
    assert 0.9 < flow.scale[0] / u.std() < 1.1
    buffers = flow._snapshot.buffers.copy()
    flow.fit(y, epochs=1, progress=False, validation=0)  # without a word of columns that have moved
    assert_same_bits(flow._snapshot.buffers, buffers)
    with pytest.warns(ps.RefitWarning, match="column 'size'"):
        flow.fit(np.stack([200 * y[:, 0], y[:, 1]], axis=1), epochs=1, progress=False, validation=0)


def test_a_fit_refuses_rows_outside() -> None:
    x = {"size": GAMMA.copy(), "age": SOURCE.normal(size=4000)}
    support = {"size": "positive", "age": "real"}
    for value, end in ((0.0, r" \(an end"), (-2.5, "$")):
        x["size"][17] = value
        with pytest.raises(
            ValueError, match=rf"X must lie .* row 17, column 'size', which is positive, holds {value}{end}"
        ):
            fit(x, support, dim=2)
    weight = np.ones(4000)
    weight[17] = 0
    fit(x, support, dim=2, sample_weight=weight, epochs=1)
    bad = np.array([[1.0, 0.0], [-1.0, 0.0]])
    x["size"][17] = 1.0
    with pytest.raises(ValueError, match=r"validation must lie .* row 1, column 'size'"):
        fit(x, support, dim=2, validation={"size": bad[:, 0], "age": bad[:, 1]})
    table = np.stack(list(x.values()), axis=1)
    table[5, 1] = 4.0
    with pytest.raises(ValueError, match=r"row 5, column 1, which is below 2.5, holds 4.0"):
        fit(np.where(table > 2.5, 2.0, table) + (table == 4.0) * 2.0, ["real", BELOW], dim=2)


def test_the_scale_of_a_half_line_follows_its_tail() -> None:
    source = np.random.default_rng(0)
    exponential, wide = source.exponential(size=10_000), np.exp(source.normal(0, 2.3, 10_000))
    assert 0.25 < half_line_scale(exponential) < 4
    assert half_line_scale(wide) > 100 * np.median(wide)
    power = source.pareto(1.5, 10_000)
    assert half_line_scale(power) > 100 * np.median(power)
    for factor in (1e-150, 1e-3, 1e150):
        assert half_line_scale(factor * exponential) == pytest.approx(factor * half_line_scale(exponential))
    assert half_line_scale(np.full(10, 3.0)) == 3.0
    for absurd in (1e9, 1e-9):
        assert half_line_scale(np.append(exponential, absurd)) == pytest.approx(half_line_scale(exponential), rel=1e-3)
    doubled = half_line_scale(np.concatenate([exponential, wide]))
    weighted = half_line_scale(np.concatenate([exponential, wide]), np.repeat([1.0, 1e-12], 10_000))
    assert weighted == pytest.approx(half_line_scale(exponential), rel=0.5)
    assert doubled > weighted


@inside("support", [ps.interval(0, None), ABOVE, BELOW, LOGIT])
@each_backend
def test_what_measures_a_column_is_the_map_of_the_engine(support: Any, backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support=support, dtype="float64", backend=backend)
    u = np.linspace(-30, 30, 5001)
    x = flow.to_data(u[:, None])[0]
    wanted = flow.to_latent(x)[0][:, 0]
    found = image(x[:, 0], support, [1.0])
    assert_close(found, wanted, 8, "float64", scale=np.abs(wanted))
    assert np.isnan(image(np.array([support.ends[0], support.ends[1], np.nan]), support, [1.0])).all()


@each_backend
def test_an_absurd_value_on_a_half_line_is_left_out(backend: str) -> None:
    x = np.append(GAMMA, 1e9)[:, None]
    with pytest.warns(ps.OutlierWarning, match=r"column 0 \(as its support maps it\): 1 of 4001 values.* left out"):
        flow = fit(x, "positive", backend, epochs=1)
    assert 0.5 < flow._snapshot.buffers[-1] / half_line_scale(GAMMA) < 2
    assert flow.scale[0] < 10


@each_backend
def test_standardize_false_leaves_the_scale(backend: str) -> None:
    flow = fit(GAMMA[:, None], "positive", backend, standardize=False, epochs=1)
    assert flow._snapshot.buffers.tolist() == [0.0, 1.0, 1.0]


@each_backend_numba_in_ci
def test_a_killed_fit_resumes_with_the_bits_of_a_whole_one(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "run"

    class StopError(Exception):
        pass

    def stop(state: Any) -> None:
        if state.epoch == 2:
            raise StopError

    whole = fit(GAMMA[:, None], "positive", backend, epochs=4)
    with pytest.raises(StopError):
        fit(GAMMA[:, None], "positive", backend, epochs=4, checkpoint=path, callbacks=stop)
    with pytest.raises(ValueError, match="support was positive and is above 1e-09"):
        fit(GAMMA[:, None], ps.interval(1e-9, None), backend, epochs=4, checkpoint=path)
    resumed = fit(GAMMA[:, None], "positive", backend, epochs=4, checkpoint=path)
    assert_same_bits(resumed.params, whole.params)
    assert_same_bits(resumed._snapshot.buffers, whole._snapshot.buffers)


# -- proposals ----------------------------------------------------------------------------------


def test_infer_support_proposes_and_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    source = np.random.default_rng(0)
    x = {
        "size": GAMMA, "part": source.beta(1, 1, 4000), "age": source.normal(size=4000), "magnitude": source.normal(25, 1, 4000),
        "count": source.poisson(2.0, 4000).astype(float), "share": np.clip(source.normal(0.5, 1, 4000), 0, 1),
        "angle": source.uniform(-180, 180, 4000), "phase": source.uniform(0, 2 * math.pi, 4000),
    }  # fmt: skip
    proposed = ps.infer_support(x)
    assert proposed == {
        "size": "positive", "part": ps.interval(0, 1, closed="neither"), "age": "real", "magnitude": "real", "count": "real",
        "share": ps.interval(0, 1), "angle": ps.periodic(-180, 180), "phase": ps.periodic(0, 2 * math.pi),
    }  # fmt: skip
    told = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in told] == list(x)
    assert "are 0, which 'positive' excludes" in told[4]
    assert "within [0, 1]" in told[5]
    assert "a turn" in told[6]
    assert ps.infer_support(np.stack([GAMMA, x["age"]], axis=1)) == ["positive", "real"]
    assert capsys.readouterr().out.startswith("column 0: positive, since all 4000 values are above 0")
    assert ps.nsf(8, layers=1, hidden=(4,), support=proposed, rng=0).columns == tuple(x)
