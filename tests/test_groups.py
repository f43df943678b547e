"""Laws of groups of columns, ordered ones and those of a simplex: alone, mixed with other supports, and with a context."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import BACKENDS, GROUPED, TURN, Case, assign, bare, built, contexts, data_scale, rng, support_scale
from helpers import assert_close, assert_same_bits, both_dtypes, each_backend, each_backend_numba_in_ci
from penstock.spec import latent_kinds
from penstock.training.supports import Line, half_line_scale, numbers_of

Array = np.ndarray[Any, Any]
QUICK = ("ordered_within", "simplex", "mixed_groups")  # whose kernels Numba compiles in the quick suite
BY_NAME = {case.name: case for case in GROUPED}


def of_ci(case: Case, backend: str = "numba") -> Any:
    return pytest.mark.slow if backend == "numba" and case.name not in QUICK else ()


each_grouped = pytest.mark.parametrize(
    ("case", "backend"),
    [
        pytest.param(case, backend, id=f"{case.name}-{backend}", marks=of_ci(case, backend))
        for case in GROUPED
        for backend in BACKENDS
    ],
)
each_of_two_backends = pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=of_ci(c)) for c in GROUPED])


def supports(flow: Any) -> tuple[Any, ...]:
    return bare(flow).spec.support


def groups(flow: Any) -> list[Any]:
    return list(dict.fromkeys(own for own in supports(flow) if own.name in ("ordered", "simplex")))


def latents(case: Case, rows: int, flow: Any, dtype: str, *key: Any) -> Array:
    """Points on the latent side, which fill circles and boxes."""
    source = rng("grouped latents", case.name, *key)
    z = 1.5 * source.standard_normal((rows, flow.dim))
    for i, kind in enumerate(latent_kinds(bare(flow).spec)):
        if kind != "line":
            z[:, i] = {"circle": math.pi, "box": 1.0}[kind] * source.uniform(-0.999, 0.999, rows)
    return z.astype(np.float32).astype(dtype)


def points(case: Case, rows: int, flow: Any, *key: Any) -> Array:
    """Points on the data side: what the reader of the file format makes of points on the line."""
    loc, scale = data_scale(flow)
    source = rng("grouped points", case.name, *key)
    u = loc + scale * 1.5 * source.standard_normal((rows, flow.dim))
    for j, own in enumerate(supports(flow)):
        if own.kind != "line":
            u[:, j] = {"circle": math.pi, "box": 1.0}[own.kind] * source.uniform(-0.999, 0.999, rows)
    x = reference.reader()["outwards"](*reference._model(flow), u)[0]
    return x.astype(np.float32).astype(flow.dtype)


def ends(flow: Any, x: Array) -> tuple[Array, Array]:
    """Both ends of every number of rows, by the words that describe groups; infinite where there is none."""
    low, high = np.full(x.shape, -math.inf), np.full(x.shape, math.inf)
    for j, own in enumerate(supports(flow)):
        if own.name == "interval":
            low[:, j], high[:, j] = own.ends
    for own in groups(flow):
        if own.name == "simplex":
            rest = np.ones(len(x))
            for j in own.columns:
                low[:, j], high[:, j] = 0.0, rest
                rest = rest - x[:, j].astype(np.float64)
            continue
        for place, j in enumerate(own.columns):
            low[:, j] = x[:, own.columns[place - 1]] if place else -math.inf if own.lo is None else own.lo
            last = place + 1 == len(own.columns)
            high[:, j] = x[:, own.columns[place + 1]] if not last else math.inf if own.hi is None else own.hi
    return low, high


def gap(flow: Any, x: Array) -> Array:
    """The distance of every number from the nearer end, in an ordered group also from both neighbours; at most 1."""
    low, high = ends(flow, x)
    found = np.minimum(np.minimum(x - low, high - x), 1.0)
    for own in groups(flow):
        if own.name == "simplex":
            rest = 1 - x[:, list(own.columns)].astype(np.float64).sum(axis=1)
            for j in own.columns:
                found[:, j] = np.minimum(found[:, j], rest)
    return found


def lies_within(flow: Any, x: Array) -> bool:
    """Whether all numbers of all rows lie strictly between their ends."""
    low, high = ends(flow, x)
    open_ones = [j for j, own in enumerate(supports(flow)) if own.kind == "line"]
    wide = x.astype(np.float64)
    fine = bool(((wide > low) & (wide < high))[:, open_ones].all())
    for own in groups(flow):
        rows = x[:, list(own.columns)]
        if own.name == "simplex":
            fine &= all(math.fsum(row) <= 1 for row in rows.astype(np.float64).tolist())
        else:
            fine &= bool((np.diff(rows, axis=1) > 0).all())
    return fine


def apart(flow: Any, a: Array, b: Array, *, latent: bool = False) -> Array:
    """The distance of numbers, which on a circle is that of angles."""
    d = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    kinds = latent_kinds(bare(flow).spec) if latent else bare(flow).spec.kinds
    for i, kind in enumerate(kinds):
        if kind == "circle":
            period = 2 * math.pi if latent else supports(flow)[i].hi - supports(flow)[i].lo
            d[..., i] -= period * np.round(d[..., i] / period)
    return np.abs(d)


def jacobian(flow: Any, function: Any, at: Array, step: Array, *, latent: bool) -> Array:
    """Derivatives of images, rows by images by inputs, by differences of the fourth order."""
    found = np.zeros((len(at), flow.dim, flow.dim))
    for j in range(flow.dim):
        unit = np.zeros(at.shape)
        unit[:, j] = step[:, j]
        y = [function(at + k * unit)[0] for k in (-2, -1, 1, 2)]
        kinds = latent_kinds(bare(flow).spec) if latent else bare(flow).spec.kinds
        for i, kind in enumerate(kinds):
            if kind == "circle":
                period = 2 * math.pi if latent else supports(flow)[i].hi - supports(flow)[i].lo
                for part in y[1:]:
                    part[:, i] -= period * np.round((part[:, i] - y[0][:, i]) / period)
        found[:, :, j] = (y[0] - 8 * y[1] + 8 * y[2] - y[3]) / (12 * step[:, j : j + 1])
    return found


def twin(flow: Any) -> Any:
    """The same flow in float64."""
    other = bare(flow).astype("float64")
    return other if not flow.context_dim else type(flow)(other, flow.context)


# -- the two directions -------------------------------------------------------------------------


@each_grouped
@both_dtypes
def test_to_latent_undoes_to_data(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    z = latents(case, 130, flow, dtype)
    x, log_det = flow.to_data(z)
    back, log_det_back = flow.to_latent(x)
    wide = np.asarray(x, np.float64)
    slopes = np.abs(jacobian(flow, twin(flow).to_latent, wide, 1e-4 * gap(flow, wide), latent=True))
    scale = 1 + np.abs(z) + (slopes * np.abs(wide)[:, None, :]).sum(axis=2)
    eps = np.finfo(dtype).eps
    assert (apart(flow, back, z, latent=True) <= case.ulps * eps * scale).all()
    # a relative change of a gap changes its logarithm
    scale = scale.sum(axis=1) + (np.abs(wide) / gap(flow, wide)).sum(axis=1) + np.abs(log_det)
    assert (np.abs(log_det + log_det_back) <= case.ulps * eps * scale).all()


@each_grouped
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


@each_grouped
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
    # what is stored moves the ends of others: a gap has the rounding of the numbers beside it
    coarse = (np.abs(wanted) / gap(flow, wanted)).sum(axis=1)
    assert (np.abs(log_det_found - log_det) <= eps * (1 + np.abs(z).max(axis=1) + np.abs(log_det)) + eps * coarse).all()


@each_grouped
def test_log_det_is_that_of_a_numerical_jacobian(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    x, z = points(case, 5, flow), latents(case, 5, flow, "float64")
    small = 1e-6 if case.kinks else 1e-3
    for function, at, latent, step in (
        (flow.to_latent, x, True, small * gap(flow, x)),
        (flow.to_data, z, False, np.full(z.shape, small)),
    ):
        expected = np.linalg.slogdet(jacobian(flow, function, at, step, latent=latent))[1]
        np.testing.assert_allclose(function(at)[1], expected, rtol=0, atol=2e-6 * flow.dim)


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
            assert_close(a, b, 8 * case.ulps, dtype, scale=size)
    drawn = apart(one, one.sample(100, rng=1), other.sample(100, rng=1))
    assert drawn.max() < 180 * case.ulps * np.finfo(dtype).eps


def _parts(result: Any) -> list[Array]:
    return [part for part in (result if isinstance(result, tuple) else (result,)) if part is not None]


@each_grouped
@both_dtypes
def test_a_row_has_the_same_bits_alone_and_in_a_batch_of_any_size(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, z = points(case, 131, flow), latents(case, 131, flow, dtype)
    x[70, groups(flow)[0].chain[-1]] = (
        -9.0 if groups(flow)[0].name == "simplex" else x[70, groups(flow)[0].chain[0]]
    )  # outside
    over = rng("cotangent").standard_normal((131, flow.dim)).astype(dtype)
    density, image_of, grad = flow.log_prob(x), flow.to_latent(x), flow.log_prob_and_grad(x)[1]
    back, drawn = flow.to_data(z), flow.sample_and_log_prob(131, rng=5)
    d_z = flow.to_data_vjp(z, over, over[:, 0])[0]
    assert density[70] == -math.inf
    for rows in (1, 2, 7, 63, 64, 65, 130):
        for some in (slice(rows), slice(131 - rows, None)):
            assert_same_bits(flow.log_prob(x[some]), density[some])
            assert_same_bits(flow.log_prob_and_grad(x[some])[1], grad[some])
            assert_same_bits(flow.to_data_vjp(z[some], over[some], over[some, 0])[0], d_z[some])
            for a, b in zip((*flow.to_latent(x[some]), *flow.to_data(z[some])), (*image_of, *back), strict=True):
                assert_same_bits(a, b[some])
        for a, b in zip(flow.sample_and_log_prob(rows, rng=5), drawn, strict=True):
            assert_same_bits(a, b[:rows])
    for i in (0, 63, 70, 130):
        assert_same_bits(flow.log_prob(x[i]), density[i])
        for a, b in zip((*flow.to_latent(x[i]), *flow.to_data(z[i])), (*image_of, *back), strict=True):
            assert_same_bits(a, b[i])
    for order in (np.asfortranarray(x), x[::-1].copy()[::-1], x.astype(np.float64)):
        assert_same_bits(flow.log_prob(order), density)


# -- densities ----------------------------------------------------------------------------------


def above(lo: Any, t: Array) -> Array:
    return lo + np.logaddexp(0, t)


def between(lo: Any, hi: Any, t: Array) -> Array:
    return lo + (hi - lo) / (1 + np.exp(-t))


# Nodes of the column that is first in the chain, and of the other one for each of them.
NODES: dict[str, Any] = {
    "ordered_two": lambda t: (t, above(t[:, None], t)),
    "ordered_above": lambda t: (above(1.5, t), above(above(1.5, t)[:, None], t)),
    "ordered_below": lambda t: (2.5 - above(0, -t), 2.5 - above(0, -t)[:, None] - above(0, -t)),
    "ordered_within": lambda t: (between(-1, 3, t), between(between(-1, 3, t)[:, None], 3, t)),
    "simplex": lambda t: (between(0, 1, t), between(0, 1 - between(0, 1, t)[:, None], t)),
}


@pytest.mark.parametrize("name", NODES)
@each_backend_numba_in_ci
def test_the_density_integrates_to_one(name: str, backend: str) -> None:
    flow = built(BY_NAME[name], backend, "float64")
    first, second = NODES[name](np.linspace(-36, 36, 1201))
    grid = np.zeros((*second.shape, 2))
    grid[..., flow.spec.support[0].chain[0]], grid[..., flow.spec.support[0].chain[1]] = first[:, None], second
    density = np.exp(flow.log_prob(grid.reshape(-1, 2))).reshape(second.shape)
    total = np.trapezoid(np.trapezoid(density, second, axis=1), first)
    assert abs(total - 1) < 1e-3
    finer, more = NODES[name](np.linspace(-36, 36, 2401))
    grid = np.zeros((*more.shape, 2))
    grid[..., flow.spec.support[0].chain[0]], grid[..., flow.spec.support[0].chain[1]] = finer[:, None], more
    density = np.exp(flow.log_prob(grid.reshape(-1, 2))).reshape(more.shape)
    finer_total = np.trapezoid(np.trapezoid(density, more, axis=1), finer)
    # the trapezoidal rule is of the second order
    assert abs(finer_total + (finer_total - total) / 3 - 1) < 2e-6


EXTREMES = ((0, 1), (-20, 5), (20, 5), (-100, 40), (100, 40), (-700, 300), (700, 300), (0, 3000))


@each_grouped
@both_dtypes
def test_draws_lie_within_and_carry_the_density_of_the_row_as_stored(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype).copy()
    members = [j for j, own in enumerate(supports(flow)) if own.name in ("ordered", "simplex")]
    before = np.array(flow._snapshot.buffers)
    for loc, scale in EXTREMES:
        buffers = before.copy()
        buffers[members], buffers[flow.dim + np.array(members)] = loc, scale
        assign(bare(flow), buffers=buffers)
        x, density = flow.sample_and_log_prob(300, rng=3)
        assert_same_bits(x, flow.sample(300, rng=3))
        assert lies_within(flow, x)
        again = flow.log_prob(x)
        assert np.isfinite(again).all()
        z = flow.to_latent(x)[0].astype(np.float64)
        size = 1 + np.abs(z).sum(axis=1) * (1 + np.abs(z).max(axis=1)) + np.abs(again)
        assert (np.abs(density - again) <= 256 * case.ulps * np.finfo(dtype).eps * size).all()
        grad = flow.log_prob_and_grad(x)[1]
        assert not np.isnan(grad).any()
        assert not np.isnan(flow.to_data_vjp(z, np.ones(z.shape), np.ones(300))[0]).any()


@each_backend
@both_dtypes
def test_a_member_that_rounds_onto_its_neighbour_is_the_next_number(backend: str, dtype: str) -> None:
    """Gaps far below the spacing of the numbers: each is stored as one spacing."""
    up, down = np.dtype(dtype).type(math.inf), np.dtype(dtype).type(-math.inf)
    for support, way in (
        (ps.ordered([0, 1, 2]), up),
        (ps.ordered([0, 1, 2], hi=1e6), down),
        (ps.ordered([0, 1, 2], lo=0.1), up),
    ):
        flow = ps.Flow(ps.StandardNormal(3), [], support=support, dtype=dtype, backend=backend)
        buffers = flow._snapshot.buffers.copy()
        first = support.chain[0]
        buffers[:3], buffers[first] = -60.0 if way > 0 else 60.0, 3.0
        assign(flow, buffers=buffers)
        x, density = flow.sample_and_log_prob(200, rng=0)
        assert lies_within(flow, x)
        for before, own in zip(support.chain, support.chain[1:], strict=False):
            assert_same_bits(x[:, own], np.nextafter(x[:, before], way))
        assert_same_bits(density, flow.log_prob(x))
        for i in (0, 77):
            alone = flow.to_data(flow.to_latent(x[i : i + 1])[0])[0]
            assert (np.abs(alone - x[i]) <= 4 * np.spacing(np.abs(x[i]))).all()


@each_backend
@both_dtypes
def test_members_leave_room_for_those_behind_them(backend: str, dtype: str) -> None:
    """Draws that all want the same end: each stops where the others still find a number."""
    eps = np.finfo(dtype).eps
    for support, loc in (
        (ps.ordered(range(5), 1, 1 + 8 * float(eps)), 700.0),
        (ps.ordered(range(5), 1, 1 + 8 * float(eps)), -700.0),
        (ps.ordered(range(5), 0.1, 0.1 * (1 + 16 * float(eps))), 700.0),
        (ps.ordered(range(5)), float(np.finfo(dtype).max)),
        (ps.ordered(range(5), hi=0), -float(np.finfo(dtype).max)),
        (ps.simplex(range(5)), 700.0),
        (ps.simplex(range(5)), -800.0),
        (ps.simplex(range(40)), 80.0),
    ):
        flow = ps.Flow(ps.StandardNormal(len(support.columns)), [], support=support, dtype=dtype, backend=backend)
        buffers = flow._snapshot.buffers.copy()
        buffers[: flow.dim] = loc
        assign(flow, buffers=buffers)
        x = flow.sample(20, rng=0)
        assert np.isfinite(x).all()
        assert lies_within(flow, x)
        assert np.isfinite(flow.log_prob(x)).all() or abs(loc) > 1e30
        assert (flow.log_prob(x) > -math.inf).all() or abs(loc) > 1e30


# -- outside ------------------------------------------------------------------------------------


def outside_of(group: Any, x: Array) -> list[tuple[int, Any]]:
    """Columns of a group and values with which a row lies outside."""
    if group.name == "simplex":
        rest = 1 - x[:, list(group.columns[:-1])].astype(np.float64).sum(axis=1)
        some: list[Any] = [0.0, -0.5, 1.0, math.inf, -math.inf]
        return [(j, value) for j in group.columns[:2] for value in some] + [(group.columns[-1], rest * (1 + 1e-3))]
    first, last = group.columns[0], group.columns[-1]
    found: list[tuple[int, Any]] = [(last, x[:, group.columns[-2]]), (first, x[:, group.columns[1]])]
    found += [(last, -math.inf), (first, math.inf), (first, -math.inf), (last, math.inf)]
    return found + [(j, end) for j, end in ((first, group.lo), (last, group.hi)) if end is not None]


@each_grouped
@both_dtypes
def test_outside_there_is_no_density_and_no_gradient(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    clean = points(case, 130, flow)
    context = {} if not flow.context_dim else {"context": contexts(case, 130, flow)}
    subject = bare(flow)
    ones = np.ones(130, dtype)
    wanted, (d_x, d_params, _) = subject.log_prob(clean, **context), subject.log_prob_vjp(clean, ones, **context)
    bad = [0, 63, 64, 129]
    keep = np.setdiff1d(np.arange(130), bad)
    some = {key: rows[keep] for key, rows in context.items()}
    of_others = subject.log_prob_vjp(clean[keep], ones[keep], **some)[1]
    for group in groups(flow):
        for j, value in outside_of(group, clean):
            x = clean.copy()
            x[bad, j] = value if np.ndim(value) == 0 else value[bad]
            density = subject.log_prob(x, **context)
            assert (density[bad] == -math.inf).all(), (j, value)
            assert_same_bits(density[keep], wanted[keep])
            grad, of_params, _ = subject.log_prob_vjp(x, ones, **context)
            assert (grad[bad] == 0).all()
            assert_same_bits(grad[keep], d_x[keep])
            np.testing.assert_allclose(of_params, of_others, rtol=1e-4, atol=1e-4 * np.abs(d_params).max(initial=1.0))
            z, log_det = subject.to_latent(x, **context)
            assert np.isnan(z[bad]).all()
            assert np.isnan(log_det[bad]).all()
            assert np.isfinite(z[keep]).all()
            back = subject.to_latent_vjp(x, np.ones((130, flow.dim), dtype), ones, **context)
            assert (back[0][bad] == 0).all()
            assert np.isfinite(back[1]).all()


@each_grouped
@both_dtypes
def test_nan_stays_nan_in_its_row(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    clean = points(case, 66, flow)
    z = latents(case, 66, flow, dtype)
    for j in range(0, flow.dim, 1 if flow.dim < 10 else 7):
        x, u = clean.copy(), z.copy()
        x[[0, 64], j] = u[[0, 64], j] = np.nan
        assert np.isnan(flow.log_prob(x)[[0, 64]]).all()
        assert_same_bits(np.delete(flow.log_prob(x), [0, 64]), np.delete(flow.log_prob(clean), [0, 64]))
        assert np.isnan(flow.to_latent(x)[0][[0, 64]]).any(axis=1).all()
        assert np.isnan(flow.to_data(u)[0][[0, 64]]).any(axis=1).all()
        assert np.isfinite(np.delete(flow.to_data(u)[0], [0, 64], axis=0)).all()


@each_backend
@both_dtypes
def test_rows_far_out_have_no_density_and_no_nan(backend: str, dtype: str) -> None:
    big, least = float(np.finfo(dtype).max) / 8, float(np.finfo(dtype).smallest_subnormal)
    for support, rows in (
        (ps.ordered([0, 1, 2]), [[-big, 0, 1], [0, 1, big], [-big, 0, big], [big, 2 * big, 3 * big]]),
        (ps.ordered([0, 1, 2], lo=0), [[1, 2, big], [big, 2 * big, 3 * big]]),
        (ps.ordered([0, 1, 2], hi=5), [[-big, 0, 1], [-3 * big, -2 * big, -big]]),
    ):
        flow = ps.realnvp(3, layers=2, hidden=(8,), support=support, rng=0, dtype=dtype, backend=backend)
        x = np.array(rows, dtype)
        assert (flow.log_prob(x) == -math.inf).all()
        assert not np.isnan(flow.log_prob_and_grad(x)[1]).any()
        for i in range(len(x)):
            assert flow.log_prob(x[i]) == -math.inf
    for support, row in (
        (ps.ordered([0, 1, 2]), [0, least, 2 * least]),
        (ps.ordered([0, 1, 2], 0, 1), [least, 2 * least, 3 * least]),
        (ps.simplex([0, 1, 2]), [least, 1 - float(np.finfo(dtype).eps), least]),
    ):
        flow = ps.Flow(ps.StandardNormal(3), [], support=support, dtype=dtype, backend=backend)
        assert np.isfinite(flow.log_prob(row))
        assert not np.isnan(flow.log_prob_and_grad(row)[1]).any()


# -- gradients ----------------------------------------------------------------------------------


@each_grouped
def test_gradients_match_differences(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    x, z = points(case, 4, flow, "gradients"), latents(case, 4, flow, "float64", "gradients")
    over, along = rng("over").standard_normal((4, flow.dim)), rng("along").standard_normal(4)

    def weighed(flow: Any, which: str, at: Array) -> float:
        if which == "density":
            return float(along @ flow.log_prob(at))
        y, log_det = flow.to_latent(at) if which == "latent" else flow.to_data(at)
        return float((over * y).sum() + along @ log_det)

    small = 1e-6 if case.kinks else 1e-3
    for which, at, step, vjp in (
        ("density", x, small * gap(flow, x), flow.log_prob_vjp(x, along)),
        ("latent", x, small * gap(flow, x), flow.to_latent_vjp(x, over, along)),
        ("data", z, np.full(z.shape, 1e-6 if case.kinks else 1e-4), flow.to_data_vjp(z, over, along)),
    ):
        expected = np.zeros(at.shape)
        for place in np.ndindex(*at.shape):
            unit = np.zeros(at.shape)
            unit[place] = step[place]
            values = [weighed(flow, which, at + k * unit) for k in (-2, -1, 1, 2)]
            expected[place] = (values[0] - 8 * values[1] + 8 * values[2] - values[3]) / (12 * step[place])
        size = 1 + np.abs(expected).max(axis=0, keepdims=True)
        np.testing.assert_allclose(vjp[0] / size, expected / size, rtol=0, atol=2e-5)
        found, start, other = vjp[1], np.array(flow.params), flow.copy()
        for k in rng("chosen", case.name).choice(len(start), min(len(start), 12), replace=False):
            values = []
            for way in (-1, 1):
                moved = start.copy()
                moved[k] += way * 1e-6
                other.params = moved
                values.append(weighed(other, which, at))
            assert abs(found[k] - (values[1] - values[0]) / 2e-6) <= 2e-5 * (1 + np.abs(found).max())


@each_backend_numba_in_ci
def test_gradients_of_the_context_match_differences(backend: str) -> None:
    case = BY_NAME["groups_given"]
    flow = built(case, backend, "float64").flow
    x, context = points(case, 6, flow), contexts(case, 6, flow)
    found = flow.log_prob_and_grad(x, context, wrt="context")[1]
    for place in np.ndindex(*context.shape):
        unit = np.zeros(context.shape)
        unit[place] = 1e-6
        expected = (flow.log_prob(x, context + unit).sum() - flow.log_prob(x, context - unit).sum()) / 2e-6
        assert abs(found[place] - expected) < 1e-5 * (1 + np.abs(found).max())


@each_grouped
def test_a_training_step_has_the_gradient_of_the_loss(case: Case, backend: str) -> None:
    flow = bare(built(case, backend, "float32"))
    x = points(case, 200, flow)
    context = contexts(case, 200, flow) if flow.context_dim else None
    weight = rng("weights").uniform(0, 2, 200)
    loss, _, grad = flow.loss_and_grad(x, context, weight)
    wanted = flow.log_prob_vjp(x, -weight.astype(np.float32), context)[1]
    assert loss == pytest.approx(float(-(weight * flow.log_prob(x, context)).sum()), rel=1e-5)
    np.testing.assert_allclose(grad, wanted, rtol=0, atol=2e-4 * np.abs(wanted).max())


# -- what a user writes -------------------------------------------------------------------------


def of(support: Any, dim: int) -> ps.Flow:
    return ps.nsf(dim, layers=1, hidden=(4,), support=support, rng=0)


def test_a_group_is_given_alone_or_in_a_list() -> None:
    real, positive, pair = ps.Real(), ps.interval(0, None), ps.ordered([1, 2])
    assert of(ps.ordered([2, 0, 1], lo=0), 3).spec.support == (ps.ordered([2, 0, 1], lo=0),) * 3
    assert of([{0: "positive"}, pair], 3).spec.support == (positive, pair, pair)
    assert of([pair, {0: "positive"}], 3).spec.support == (positive, pair, pair)
    assert of([pair], 4).spec.support == (real, pair, pair, real)
    assert of(pair, 4).spec.support == (real, pair, pair, real)
    both = of([ps.simplex([3, 0]), pair], 4).spec.support
    assert both == (ps.simplex([3, 0]), pair, pair, ps.simplex([3, 0]))
    assert of(both, 4).spec.support == both
    assert of(["positive", pair, pair], 3).spec.support == (positive, pair, pair)
    assert of([{0: "positive", 1: (0, 1)}], 3).spec.support == of({0: "positive", 1: (0, 1)}, 3).spec.support
    assert ps.ordered(np.array([1, 2])) == pair
    assert ps.ordered([0, 1], -0.0).lo == 0


def test_groups_by_name_name_the_columns() -> None:
    flow = of([{"age": "positive"}, ps.ordered(["m2", "m1"], hi=3)], 3)
    assert flow.columns == ("age", "m2", "m1")
    assert flow.spec.support[1:] == (ps.ordered([1, 2], hi=3),) * 2
    flow = of([{"m1": "real", "age": "positive", "m2": ps.Real()}, ps.ordered(["m2", "m1"])], 3)
    assert flow.columns == ("m1", "age", "m2")
    assert flow.spec.support == (ps.ordered([2, 0]), ps.interval(0, None), ps.ordered([2, 0]))
    flow = of([ps.simplex(["a", "b"]), ps.ordered(["c", "d"])], 4)
    assert flow.columns == ("a", "b", "c", "d")
    assert of(ps.simplex(["u", "v"]), 2).columns == ("u", "v")
    assert "simplex a + b < 1" in repr(of([ps.simplex(["a", "b"]), ps.ordered(["c", "d"])], 4))


def test_the_representation_shows_a_group_once_with_its_scales() -> None:
    flow = of([{1: "positive"}, ps.ordered([3, 0], lo=2), ps.simplex([4, 2])], 5)
    (line,) = [line for line in repr(flow).splitlines() if line.startswith("  support")]
    assert line.split(maxsplit=1)[1] == "ordered 3 < 0, above 2 (s=1, 1), 1 positive (s=1), simplex 4 + 2 < 1"
    assert str(flow.spec).count("ordered 3 < 0, above 2") == 2
    assert str(ps.ordered([0, 1], 1, 4)) == "ordered 0 < 1, within (1, 4)"


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        ([ps.ordered([1, 2]), ps.simplex([2, 3])], ValueError, "column 2 is in two places"),
        ([{1: "positive"}, ps.ordered([1, 2])], ValueError, "column 1 is in two places"),
        ([{1: "real"}, ps.ordered([1, 2])], ValueError, "column 1 is in two places"),
        (ps.ordered([1, 4]), ValueError, "names column 4 of a flow whose columns are 0 to 3"),
        ([{7: "positive"}, ps.ordered([1, 2])], ValueError, "names column 7"),
        ([{"a": "positive"}, ps.ordered([1, 2])], TypeError, "all names or all positions"),
        ([{True: "positive"}, ps.ordered([1, 2])], TypeError, "all names or all positions"),
        ([{"a": "positive"}, ps.ordered(["b", "c"])], ValueError, "must name every column .* 4, got 3 .'a', 'b', 'c'"),
        (
            [{"a": "positive", "b": "real", "c": "real", "d": "real"}, ps.ordered(["b", "x"])],
            ValueError,
            "names column 'x' of a flow whose columns are 'a', 'b', 'c', 'd'",
        ),
        (
            [{"a": "positive", "b": "real", "c": (0, 1), "d": "real"}, ps.ordered(["b", "c"])],
            ValueError,
            "column 'c' is in two places",
        ),
        ([{0: "positive"}, {3: "positive"}, ps.ordered([1, 2])], TypeError, "one mapping .*, got 2"),
        (["positive", ps.ordered([1, 2])], TypeError, r"support\[0\]: a list with groups"),
        (["real", ps.ordered([1, 2]), "real", "real"], TypeError, r"support\[0\]: a list with groups"),
        ([{0: "positve"}, ps.ordered([1, 2])], ValueError, r"support\[0\] must be 'real'"),
        ({0: ps.ordered([1, 2])}, ValueError, r"support\[0\]: ordered 1 < 2 is a support of several columns"),
        ("ordered", ValueError, "'?ordered'? is a support of several columns"),
        (ps.ordered([0, 1], 1, 1 + 2e-7), ValueError, "no 2 numbers of float32 strictly between"),
    ],
)
def test_groups_that_are_none_are_refused(support: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        of(support, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ps.ordered([1]), ValueError, "needs two columns or more, got .1,."),
        (lambda: ps.simplex([]), ValueError, "needs two columns or more"),
        (lambda: ps.simplex([1, 2, 1]), ValueError, "must be different ones"),
        (lambda: ps.simplex("ab"), TypeError, "a sequence of positions or names, got 'ab'"),
        (lambda: ps.simplex(3), TypeError, "a sequence of positions or names, got 3"),
        (lambda: ps.ordered([0, "b"]), TypeError, "all names or all positions"),
        (lambda: ps.ordered([0, -1]), TypeError, "from 0 on, or a name, got -1"),
        (lambda: ps.ordered([0, 1.5]), TypeError, "from 0 on, or a name, got 1.5"),
        (lambda: ps.ordered([False, True]), TypeError, "from 0 on, or a name, got False"),
        (lambda: ps.ordered([0, 1], 2, 1), ValueError, "lo must be below hi"),
        (lambda: ps.ordered([0, 1], "a"), TypeError, "lo must be a number"),
        (lambda: ps.ordered([0, 1], hi=math.inf), ValueError, "hi must be a finite number"),
    ],
)
def test_a_group_that_is_none_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("recipe", ["nice", "realnvp", "glow", "nsf", "maf", "iaf", "nsf_ar"])
def test_every_recipe_builds_with_groups(recipe: str) -> None:
    for options in ({}, {"mixing": "none"}, {"mixing": "random"}, {"context_dim": 2}):
        support = [{3: TURN}, ps.ordered([0, 2]), ps.simplex([4, 1])]
        flow = getattr(ps, recipe)(5, layers=2, hidden=(4,), support=support, rng=0, **options)
        context = np.zeros(2) if flow.context_dim else None
        x = flow.sample(50, context, rng=0)
        assert lies_within(flow, x)
        assert np.isfinite(flow.log_prob(x, context)).all()


# -- files and training -------------------------------------------------------------------------


@each_grouped
@both_dtypes
def test_a_file_keeps_groups(case: Case, backend: str, dtype: str, tmp_path: Path) -> None:
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


def test_a_file_whose_groups_are_damaged_is_refused() -> None:
    from penstock.files import specs

    spec = ps.Flow(ps.StandardNormal(3), [], support=[{0: "positive"}, ps.ordered([2, 1], lo=0)]).spec
    record = specs.encode(spec)
    assert specs.decode(record, 10**6, 10**6) == spec
    first, one, two = record["support"]
    assert one == two == {"type": "ordered", "columns": [2, 1], "lo": 0.0}
    for broken, message in (
        ([first, one, {"type": "real"}], "does not stand in the places"),
        ([first, one, {**one, "lo": 1.0}], "does not stand in the places"),
        ([one, one, one], "does not stand in the places"),
        ([first, {**one, "columns": [2, 3]}, two], "does not stand in the places"),
        ([first, {**one, "columns": [1, 2]}, two], "does not stand in the places"),
        ([first, {**one, "columns": [1]}, two], "two columns or more"),
        ([first, {**one, "columns": [1, -2]}, two], "from 0 on"),
        ([first, {**one, "columns": ["a", "b"]}, two], "list of numbers"),
        ([first, {"type": "ordered"}, two], "lacks columns"),
        ([first, {"type": "simplex", "columns": [2, 1], "lo": 0.0}, two], "lo"),
        ([first, {**one, "lo": 1.0, "hi": 0.0}, two], "below hi"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            specs.decode({**record, "support": broken}, 10**6, 10**6)


SOURCE = np.random.default_rng(11)
PARTS = SOURCE.dirichlet([4.0, 2.0, 3.0, 1.5], 4000)
SORTED = np.sort(SOURCE.uniform(0, 1, (4000, 4)), axis=1)


def fit(x: Any, support: Any, dim: int, backend: str = "auto", **options: Any) -> ps.Flow:
    settings = {"epochs": 40, "rng": 0, "progress": False, **options}
    return ps.nsf(dim, layers=3, hidden=(32,), support=support, rng=0, backend=backend).fit(x, **settings)


@each_backend_numba_in_ci
def test_a_fit_learns_a_dirichlet_density(backend: str) -> None:
    a = np.array([4.0, 2.0, 3.0, 1.5])
    flow = fit(PARTS[:, :3], ps.simplex([2, 0, 1]), 3, backend)
    constant = math.lgamma(a.sum()) - sum(math.lgamma(k) for k in a)
    truth = constant + ((a - 1) * np.log(PARTS)).sum(axis=1)
    assert flow.score(PARTS[:, :3]) > truth.mean() - 0.05
    drawn = flow.sample(20_000, rng=0)
    assert lies_within(flow, drawn)
    np.testing.assert_allclose(drawn.mean(axis=0), a[:3] / a.sum(), atol=0.01)
    assert flow._snapshot.buffers.shape == (6,)
    # each is the part that it takes of what is left
    left, u = np.ones(4000), np.zeros((4000, 3))
    for j in (2, 0, 1):
        u[:, j] = np.log(PARTS[:, j]) - np.log(left - PARTS[:, j])
        left = left - PARTS[:, j]
    assert (np.abs(flow.loc - u.mean(axis=0)) < 0.1 * u.std(axis=0)).all()
    np.testing.assert_allclose(flow.scale, u.std(axis=0), rtol=0.1)


@pytest.mark.parametrize(
    "support", [ps.ordered(range(4), 0, 1), ps.ordered(range(4), lo=0), ps.ordered(range(4), hi=1)], ids=str
)
@each_backend_numba_in_ci
def test_a_fit_learns_order_statistics(support: Any, backend: str) -> None:
    flow = fit(SORTED, support, 4, backend)
    truth = math.log(24)
    # where an end is not told, the density has to fall to zero there
    assert flow.score(SORTED) > truth - (0.1 if support.lo is not None and support.hi is not None else 0.35)
    drawn = flow.sample(20_000, rng=0)
    assert lies_within(flow, drawn)
    np.testing.assert_allclose(drawn.mean(axis=0), np.arange(1, 5) / 5, atol=0.03)


@each_backend_numba_in_ci
def test_a_fit_learns_gaps_of_a_heavy_tail(backend: str) -> None:
    source = np.random.default_rng(2)
    gaps = np.exp(source.normal(0, [[1.0, 1.5]], (4000, 2)))
    first = source.normal(3, 2, 4000)
    x = np.stack([first + gaps[:, 0], first, first + gaps.sum(axis=1)], axis=1)
    flow = fit(x, [ps.ordered([1, 0, 2])], 3, backend)
    normal = -0.5 * ((first - 3) / 2) ** 2 - math.log(2 * math.sqrt(2 * math.pi))
    lognormal = -0.5 * (np.log(gaps) / [1.0, 1.5]) ** 2 - np.log(gaps * [1.0, 1.5] * math.sqrt(2 * math.pi))
    assert flow.score(x) > (normal + lognormal.sum(axis=1)).mean() - 0.1
    scales = flow._snapshot.buffers[-2:]
    for s, distance in zip(
        scales, gaps.T, strict=True
    ):  # of columns 0 and 2, from a sample without the rows that validate
        assert 0.2 < s / half_line_scale(distance) < 5
    assert f"ordered 1 < 0 < 2 (s={scales[0]:.4g}, {scales[1]:.4g})" in repr(flow)
    buffers = flow._snapshot.buffers.copy()
    flow.fit(x, epochs=1, progress=False, validation=0)  # without a word of columns that have moved
    assert_same_bits(flow._snapshot.buffers, buffers)


def test_a_fit_refuses_rows_outside() -> None:
    x = {"a": SORTED[:, 0].copy(), "b": SORTED[:, 1].copy(), "c": SORTED[:, 3].copy()}
    support = [{"b": "positive"}, ps.ordered(["a", "c"], hi=1)]

    def run(**options: Any) -> ps.Flow:
        return fit(x, support, 3, epochs=1, **options)

    run()
    held = x["c"][17]
    x["c"][17] = x["a"][17]
    with pytest.raises(
        ValueError, match=r"X must lie .* row 17 is not ordered a < c, below 1: column 'a' holds .*, column 'c' holds"
    ):
        run()
    weight = np.ones(4000)
    weight[17] = 0
    run(sample_weight=weight)
    x["c"][17] = held
    bad = {"a": [0.1, 0.5], "b": [0.2, 0.2], "c": [0.3, 1.0]}
    with pytest.raises(ValueError, match=r"validation must lie .* row 1 is not ordered a < c, below 1"):
        run(validation=bad)
    parts = PARTS[:, [0, 1]].copy()
    parts[5] = 0.5, 0.5
    with pytest.raises(ValueError, match=r"row 5 is not simplex 1 \+ 0 < 1: column 1 holds 0.5, column 0 holds 0.5"):
        fit(parts, ps.simplex([1, 0]), 2, epochs=1)
    parts[5] = 0.5, 0.0
    with pytest.raises(ValueError, match="row 5 is not simplex"):
        fit(parts, ps.simplex([1, 0]), 2, epochs=1)
    parts[5] = np.nan, 0.1
    with pytest.raises(ValueError, match=r"NaN|missing|finite"):
        fit(parts, ps.simplex([1, 0]), 2, epochs=1)


@each_grouped
def test_what_measures_columns_is_the_map_of_the_engine(case: Case, backend: str) -> None:
    flow = bare(built(case, backend, "float64"))
    x = points(case, 130, flow)
    plain = ps.Flow(flow.spec.base, [], support=flow.spec.support, dtype="float64", backend=backend)
    buffers = plain._snapshot.buffers.copy()
    buffers[2 * flow.dim :] = support_scale(flow)
    assign(plain, buffers=buffers)
    wanted = plain.to_latent(x)[0]
    line = Line(x, flow.spec.support, numbers_of(flow.spec.support, buffers))
    assert_close(line[:], wanted, 64, "float64", scale=np.abs(wanted))
    index = np.array([3, 77, 5])
    assert_same_bits(line[index, 1], line[:][index, 1])
    assert_same_bits(line[index, 1:2], line[:][index, 1:2])
    assert_same_bits(line[index], line[:][index])
    for group in groups(flow):
        x[0, group.chain[-1]] = x[0, group.chain[0]] if group.name == "ordered" else 2.0
        assert np.isnan(Line(x, flow.spec.support, numbers_of(flow.spec.support, buffers))[:][0]).any()


@each_backend_numba_in_ci
def test_a_killed_fit_resumes_with_the_bits_of_a_whole_one(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "run"

    class StopError(Exception):
        pass

    def stop(state: Any) -> None:
        if state.epoch == 2:
            raise StopError

    options: dict[str, Any] = {"epochs": 4, "backend": backend, "dim": 4}
    whole = fit(SORTED, ps.ordered(range(4), 0), **options)
    with pytest.raises(StopError):
        fit(SORTED, ps.ordered(range(4), 0), **options, checkpoint=path, callbacks=stop)
    with pytest.raises(ValueError, match="support was ordered 0 < 1 < 2 < 3, above 0"):
        fit(SORTED, ps.ordered(range(4), 0, 1), **options, checkpoint=path)
    resumed = fit(SORTED, ps.ordered(range(4), 0), **options, checkpoint=path)
    assert_same_bits(resumed.params, whole.params)
    assert_same_bits(resumed._snapshot.buffers, whole._snapshot.buffers)
