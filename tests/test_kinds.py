"""What circles and boxes alone have to obey; the laws of all supports are in ``test_supports.py``."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import ALL_KINDS, BOX, KINDED, OPEN, PHASE, TURN, Case, assign, built
from helpers import assert_close, assert_same_bits, both_dtypes, each_backend, each_backend_numba_in_ci
from penstock.training.supports import box_numbers, image
from supports_table import BY_NAME, apart, each_of, points, supports, twin

Array = np.ndarray[Any, Any]


# -- the two directions -------------------------------------------------------------------------


# -- circles ------------------------------------------------------------------------------------


@each_of(KINDED)
@both_dtypes
def test_whole_turns_change_nothing(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 130, flow).astype(np.float64)
    circles = [j for j, own in enumerate(supports(flow)) if own.kind == "circle"]
    for turns in (-3, 1, 1000):
        moved = x.copy()
        for j in circles:
            moved[:, j] += turns * (supports(flow)[j].hi - supports(flow)[j].lo)
        density, wanted = flow.log_prob(moved), flow.log_prob(x)
        _, slope = twin(flow).log_prob_and_grad(x)
        size = 1 + np.abs(wanted) + 1e3 * np.abs(turns * slope[:, circles]).sum(axis=1)
        assert (np.abs(density - wanted) <= case.ulps * np.finfo(dtype).eps * size).all()


@pytest.mark.parametrize("name", ["circle", "circle_to_data", "two_circles", "coupling_kinds", "autoregressive_kinds"])
@each_backend_numba_in_ci
def test_nothing_jumps_at_the_seam(name: str, backend: str) -> None:
    case = BY_NAME[name]
    flow = built(case, backend, "float64")
    x = points(case, 20, flow)
    for j, own in enumerate(supports(flow)):
        if own.kind != "circle":
            continue
        left, right, end = x.copy(), x.copy(), x.copy()
        near = 1e-7 * (own.hi - own.lo)
        left[:, j], right[:, j], end[:, j] = own.hi - near, own.lo + near, own.hi
        assert_same_bits(flow.log_prob(end), flow.log_prob(np.where(np.arange(flow.dim) == j, own.lo, x)))
        steepest = np.abs(flow.log_prob_and_grad(x)[1][:, j]).max() + 1
        assert (np.abs(flow.log_prob(left) - flow.log_prob(right)) <= 100 * near * steepest).all()
        assert (apart(flow, flow.to_latent(left)[0], flow.to_latent(right)[0], latent=True) < 1e-4).all()


# -- densities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["circle", "circle_to_data", "box", "box_open"])
@each_backend_numba_in_ci
def test_the_density_integrates_to_one(name: str, backend: str) -> None:
    flow = built(BY_NAME[name], backend, "float64")
    (own,) = flow.spec.support
    x = np.linspace(own.lo, own.hi, 400_001)[1:] - 0.5 * (own.hi - own.lo) / 400_000
    density = np.exp(flow.log_prob(x[:, None]))
    assert np.isfinite(density).all()
    assert abs(density.mean() * (own.hi - own.lo) - 1) < 1e-6


@pytest.mark.parametrize("name", ["two_circles", "circle_and_box", "box_and_line"])
@each_backend_numba_in_ci
def test_the_density_integrates_to_one_in_two_dimensions(name: str, backend: str) -> None:
    flow = built(BY_NAME[name], backend, "float64")
    axes, area = [], 1.0
    for own, (loc, scale) in zip(flow.spec.support, zip(flow.loc, flow.scale, strict=True), strict=True):
        lo, hi = (own.lo, own.hi) if own.kind != "line" else (loc - 14 * scale, loc + 14 * scale)
        axes.append(lo + (hi - lo) * (np.arange(1500) + 0.5) / 1500)
        area *= (hi - lo) / 1500
    total = np.exp(flow.log_prob(np.stack(np.meshgrid(*axes), -1).reshape(-1, 2))).sum() * area
    assert abs(total - 1) < 2e-4


@each_of(KINDED)
@both_dtypes
def test_samples_lie_within_and_carry_the_density_of_the_row_as_stored(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, density = flow.sample_and_log_prob(4000, rng=3)
    assert_same_bits(x, flow.sample(4000, rng=3))
    for j, own in enumerate(supports(flow)):
        column = x[:, j].astype(np.float64)
        if own.kind == "circle":
            assert ((column >= own.lo) & (column < own.hi)).all()
        elif own.kind == "box":
            low, high = ps.support.CLOSED[own.closed]
            assert ((column >= own.lo) if low else (column > own.lo)).all()
            assert ((column <= own.hi) if high else (column < own.hi)).all()
    again = flow.log_prob(x)
    assert np.isfinite(again).all()
    # the derivative times half a spacing of x, and the rounding of the map
    _, slope = twin(flow).log_prob_and_grad(x.astype(np.float64))
    moved = (np.abs(slope) * 0.5 * np.spacing(np.abs(x)).astype(np.float64)).sum(axis=1)
    z = flow.to_latent(x)[0].astype(np.float64)
    size = 1 + (z**2).sum(axis=1)
    assert (np.abs(density - again) <= 4 * moved + case.ulps * np.finfo(dtype).eps * size).mean() > 0.999
    assert (np.abs(density - again) <= 64 * moved + 64 * case.ulps * np.finfo(dtype).eps * size).all()


@each_backend
@both_dtypes
def test_draws_fill_circles_and_boxes_evenly(backend: str, dtype: str) -> None:
    flow = ps.Flow(ps.StandardNormal(5), [], support=ALL_KINDS, dtype=dtype, backend=backend)
    x = flow.sample(100_000, rng=1)
    for j, own in enumerate(flow.spec.support):
        if own.kind != "line":
            u = np.sort((x[:, j].astype(np.float64) - own.lo) / (own.hi - own.lo))
            assert np.abs(u - (np.arange(len(u)) + 0.5) / len(u)).max() < 1.63 / math.sqrt(len(u))  # Kolmogorov, 1 %
            assert len(np.unique(u)) > (99_000 if dtype == "float64" else 95_000)
    shares = np.corrcoef(x, rowvar=False) - np.eye(5)
    assert np.abs(shares).max() < 0.02
    assert_same_bits(flow.sample(10, rng=1), x[:10])
    same = ps.Flow(ps.StandardNormal(5), [], support=["real"] * 5, dtype=dtype, backend=backend)
    assert_same_bits(same.sample(10, rng=1)[:, 0], x[:10, 0])  # a line has the draws that it has among lines


@each_backend
@both_dtypes
def test_a_fresh_flow_is_uniform(backend: str, dtype: str) -> None:
    flow = ps.nsf_ar(3, layers=2, hidden=(8,), support=[TURN, BOX, OPEN], dtype=dtype, backend=backend, rng=0)
    x = np.random.default_rng(0).uniform([-180, -1, 10.01], [180, 3, 10.99], (100, 3)).astype(dtype)
    wanted = -math.log(360 * 4 * 1)
    np.testing.assert_allclose(flow.log_prob(x), wanted, rtol=0, atol=2e-5 if dtype == "float32" else 1e-7)


@each_backend
@both_dtypes
def test_any_latent_of_a_circle_is_an_angle(backend: str, dtype: str) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support=TURN, dtype=dtype, backend=backend)
    z = np.array([[5.0], [-4.0], [20.0], [1.0]], dtype)
    x = flow.to_data(z)[0]
    assert ((x >= TURN.lo) & (x < TURN.hi)).all()
    turned = np.angle(np.exp(1j * z.astype(np.float64)))
    wanted = 0.5 * (TURN.lo + TURN.hi) + turned / (2 * math.pi) * (TURN.hi - TURN.lo)
    assert (apart(flow, x, wanted) <= 2e3 * np.finfo(dtype).eps).all()


# -- boxes --------------------------------------------------------------------------------------


@each_backend
@both_dtypes
def test_ends_belong_to_a_box_or_do_not(backend: str, dtype: str) -> None:
    ends = np.array([[-1.0], [3.0]], dtype)
    for closed, inside in ps.support.CLOSED.items():
        support = ps.interval(-1, 3, closed=closed)
        flow = ps.Flow(
            ps.StandardNormal(1),
            [ps.Elementwise(ps.RationalQuadratic())],
            support=support,
            dtype=dtype,
            backend=backend,
        )
        assert (np.isfinite(flow.log_prob(ends)) == inside).all()
        assert (flow.log_prob(ends)[~np.array(inside)] == -np.inf).all()
        just = np.nextafter(ends, np.dtype(dtype).type(1.0))
        assert np.isfinite(flow.log_prob(just)).all()
        assert (flow.log_prob(np.nextafter(ends, np.array([[-9.0], [9.0]], dtype))) == -np.inf).all()
        # towards the ends nothing ends before them, or goes beyond
        latent = np.array(
            [[-1.0], [1.0], [-1.5], [np.nextafter(np.dtype(dtype).type(-1), np.dtype(dtype).type(0))]], dtype
        )
        x = flow.to_data(latent)[0]
        assert (np.isfinite(flow.log_prob(x))).all()
        for end, closes, got in zip((-1.0, 3.0), inside, x[:2, 0], strict=True):
            assert (got == end) == closes


@each_backend
def test_an_end_of_a_box_is_what_the_rows_can_hold_of_it(backend: str) -> None:
    end = np.array([[math.pi / 2]], np.float32)
    assert float(end[0, 0]) > math.pi / 2
    for dtype in ("float32", "float64"):
        flow = ps.Flow(ps.StandardNormal(1), [], support=(0, math.pi / 2), dtype=dtype, backend=backend)
        assert np.isfinite(flow.log_prob(end)).all()
        assert np.isfinite(flow.log_prob([[math.pi / 2]])).all()
        assert (flow.log_prob(np.nextafter(end, np.float32(2))) == -np.inf).all()
        assert (flow.log_prob(end.astype(np.float64)) == -np.inf).all()
        assert np.isfinite(flow.log_prob_and_grad(end)[1]).all()


@each_backend
def test_a_row_of_a_narrow_box_that_rounding_has_moved_has_its_own_density(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support=(0, 1e5), dtype="float32", backend=backend)
    buffers = np.array(flow._snapshot.buffers)
    buffers[-2:] = 5000.0, 0.01  # where single numbers are 1 / 2048 apart
    assign(flow, buffers=buffers)
    x, density = flow.sample_and_log_prob(1000, rng=0)
    assert len(np.unique(x)) < 900
    again = flow.log_prob(x)
    assert (density == again).mean() > 0.98  # but for rows that it has hardly moved
    assert_close(density, again, 64, "float32", scale=1 + np.abs(again))


@each_backend
def test_a_narrow_column_in_a_wide_box_keeps_its_resolution(backend: str) -> None:
    source = np.random.default_rng(0)
    x = source.normal(5000, 0.1, (4000, 1))
    flow = ps.nsf_ar(1, support=(0, 1e5), backend=backend, rng=0)
    flow.fit(x, epochs=100, rng=0, progress=False)
    truth = float(np.mean(-0.5 * ((x - 5000) / 0.1) ** 2 - math.log(0.1 * math.sqrt(2 * math.pi))))
    assert flow.score(x) > truth - 0.05
    drawn = flow.astype("float64").sample(20_000, rng=0)
    quartiles = np.quantile(drawn, [0.25, 0.75])
    assert 0.09 < (quartiles[1] - quartiles[0]) / 1.349 < 0.11
    assert (np.abs(drawn - 5000) > 1).mean() < 0.01
    m, s = flow._snapshot.buffers[-2:]
    assert abs(m - 5000) < 0.02
    assert 0.1 < s < 1
    assert (flow.loc[0], flow.scale[0]) == (0.0, 1.0)


def test_the_numbers_of_a_box_follow_the_half_of_the_rows_in_the_middle() -> None:
    source = np.random.default_rng(0)
    assert box_numbers(source.uniform(size=10_000), 0, 1)[1] == 4096
    assert box_numbers(source.beta(2, 5, 10_000), 0, 1)[1] == 4096
    narrow = source.normal(0, 1e-3, 10_000)
    m, s = box_numbers(narrow, -1, 1)
    assert abs(m) < 1e-4
    assert 1e-3 < s < 8e-3
    for factor in (1e-100, 1e100):
        scaled = box_numbers(factor * narrow, -factor, factor)
        np.testing.assert_allclose(scaled, [factor * m, factor * s], rtol=1e-6)
    assert box_numbers(np.full(100, 0.5), 0, 1) == [0.5, 4096.0]
    weight = np.where(np.arange(20_000) < 10_000, 1.0, 1e-12)
    both = np.concatenate([narrow, source.uniform(-1, 1, 10_000)])
    assert box_numbers(both, -1, 1, weight)[1] == pytest.approx(s, rel=1.1)


# -- gradients ----------------------------------------------------------------------------------


# -- what a user writes -------------------------------------------------------------------------


RECIPES = ("nice", "realnvp", "glow", "nsf", "maf", "iaf", "nsf_ar")
MIXTURES: tuple[Any, ...] = (
    TURN,
    BOX,
    ALL_KINDS[:3],
    [TURN, BOX, OPEN],
    ["real", "real", TURN],
    [BOX, "positive", "real"],
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_builds_with_every_mixture_of_kinds(recipe: str) -> None:
    build = getattr(ps, recipe)
    for support in MIXTURES:
        for options in ({}, {"mixing": "none"}, {"mixing": "random"}, {"mixing": "reverse"}, {"context_dim": 2}):
            flow = build(3, layers=2, hidden=(4,), support=support, rng=0, **options)
            context = np.zeros(2) if flow.context_dim else None
            x = flow.sample(5, context, rng=0)
            assert np.isfinite(flow.log_prob(x, context)).all()
    for support in (TURN, BOX):
        for context_dim in (0, 1):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                flow = build(1, hidden=(4,), support=support, rng=0, context_dim=context_dim)
            assert flow.n_free > 0
            with pytest.raises(ValueError, match="base_context"):
                build(1, hidden=(4,), support=support, context_dim=1, base_context=(4,), rng=0)


def test_layers_that_act_on_lines_leave_others_alone() -> None:
    layers = [ps.LULinear(), ps.ActNorm(), ps.Elementwise(ps.Affine()), ps.Coupling()]
    assert len(ps.Flow(ps.StandardNormal(2), layers, support=TURN, rng=0).spec.layers) == 1
    flow = ps.Flow(ps.StandardNormal(3), layers, support=["real", TURN, "real"], rng=0)
    assert {name: part.shape for name, part in flow.named_params().items() if "conditioner" not in name} == {
        "layers.0.lu": (2, 2), "layers.0.bias": (2,), "layers.1.theta": (2, 2), "layers.2.theta": (2, 2),
    }  # fmt: skip
    free = ps.Flow(
        ps.StandardNormal(3), [ps.Elementwise(ps.RationalQuadratic(bins=4))], support=["real", TURN, BOX], rng=0
    )
    assert {name: part.shape for name, part in free.named_params().items()} == {
        "layers.0.theta": (1, 11), "layers.0.theta_circular_rational_quadratic": (1, 13),
        "layers.0.theta_box_rational_quadratic": (1, 13),
    }  # fmt: skip
    for wrong, support in (
        (ps.CircularRationalQuadratic(), ["real", TURN]),
        (ps.BoxRationalQuadratic(), ["real", BOX]),
        (ps.CircularRationalQuadratic(), BOX),
        (ps.CircularRationalQuadratic(bound=2.0), TURN),
        (ps.BoxRationalQuadratic(), TURN),
        (ps.BoxRationalQuadratic(bound=2.0), BOX),
    ):
        with pytest.raises(ValueError, match=r"does not map a dimension of kind '(line|box|circle)' to itself"):
            ps.Flow(ps.StandardNormal(2), [ps.Elementwise(wrong)], support=support, rng=0)
    fine = ps.CircularRationalQuadratic(bins=3)
    assert ps.Flow(ps.StandardNormal(2), [ps.Elementwise(fine)], support=TURN, rng=0).n_free == 20


def test_a_context_that_nothing_reads_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer that acts on circles or boxes reads the context"):
        ps.Flow(ps.StandardNormal(1), [ps.Elementwise(ps.Affine(), ps.MLP())], 1, support=TURN)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ps.periodic(1, 1), ValueError, "lo must be below hi"),
        (lambda: ps.periodic(0, math.inf), ValueError, "hi must be a finite number"),
        (lambda: ps.periodic("a", 1), TypeError, "lo must be a number"),
        (lambda: ps.interval(0, 1, closed="left"), ValueError, "closed must be one of"),
        (lambda: ps.interval(0, None, closed="lo"), ValueError, "do not belong to it"),
        (lambda: ps.nsf(2, support="periodic"), ValueError, "needs its ends"),
    ],
)
def test_a_support_that_is_none_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


# -- files and training -------------------------------------------------------------------------


@each_backend_numba_in_ci
def test_a_fit_learns_on_circles_and_boxes(backend: str) -> None:
    source = np.random.default_rng(0)
    n = 6000
    angle = source.vonmises(0, 4, n)
    second = angle + source.vonmises(math.pi, 8, n)  # across the seam
    part = source.beta(0.5, 0.5, n)
    size = np.exp(np.cos(angle) + 0.1 * source.normal(size=n))
    wrap = np.degrees((second + math.pi) % (2 * math.pi) - math.pi)
    x = {"phi": np.degrees(angle), "psi": wrap, "share": part, "size": size}
    support = {"phi": TURN, "psi": TURN, "share": (0, 1), "size": "positive"}
    flow = ps.nsf_ar(4, layers=3, hidden=(32,), support=support, rng=0, backend=backend)
    flow.fit(x, epochs=60, rng=0, progress=False)
    kappa = lambda k, a: k * np.cos(a) - math.log(2 * math.pi * np.i0(k))  # noqa: E731
    log_beta = -math.log(math.pi) - 0.5 * np.log(part * (1 - part))
    log_size = (
        -0.5 * ((np.log(size) - np.cos(angle)) / 0.1) ** 2 - math.log(0.1 * math.sqrt(2 * math.pi)) - np.log(size)
    )
    truth = kappa(4, angle) + kappa(8, second - angle - math.pi) - 2 * math.log(180 / math.pi) + log_beta + log_size
    assert flow.score(x) > truth.mean() - 0.2
    assert flow.loc.tolist()[:3] == [0, 0, 0]
    assert flow.scale.tolist()[:3] == [1, 1, 1]
    drawn = flow.sample(5000, rng=0)
    assert np.abs(drawn[:, :2]).max() <= 180
    assert ((drawn[:, 2] >= 0) & (drawn[:, 2] <= 1)).all()
    assert "phi periodic over [-180, 180)" in repr(flow)
    flow.fit(x, epochs=1, progress=False)  # without a word of columns that have moved


def test_the_representation_says_on_which_latent_dimensions_the_base_is_uniform() -> None:
    lines = lambda flow: [line.split(maxsplit=1)[1] for line in repr(flow).splitlines() if line.startswith("  base")]  # noqa: E731
    assert lines(ps.nsf(2, layers=1, rng=0)) == ["StandardNormal(dim=2)"]
    # Column 0, the line, becomes latent dimension 2.
    turned = [ps.Permutation([2, 0, 1]), ps.Elementwise()]
    flow = ps.Flow(ps.StandardNormal(3), turned, support=["real", (0, 1), ps.periodic(0, 1)], rng=0)
    assert lines(flow) == ["StandardNormal(dim=3), uniform on latent 0, 1"]
    assert np.argmax(np.abs(flow.to_latent([[10, 0.5, 0.5]])[0])) == 2


def test_a_fit_refuses_rows_outside_a_box_and_wraps_those_of_a_circle() -> None:
    x = np.random.default_rng(0).uniform(0, 1, (300, 2))
    options: dict[str, Any] = {"epochs": 1, "progress": False, "validation": 0}

    def fresh() -> ps.Flow:
        return ps.nsf(2, layers=1, hidden=(4,), support=[(0, 1), ps.periodic(0, 1)], rng=0)

    flow = fresh().fit(x, rng=0, **options)
    turned = x + np.array([0, 5])
    same = fresh().fit(turned, rng=0, **options)
    np.testing.assert_allclose(same.params, flow.params, atol=1e-4)
    x[[3, 4], 0] = 0, 1  # ends
    fresh().fit(x, **options)
    x[17, 0] = 1.5
    with pytest.raises(ValueError, match=r"row 17, column 0, which is within \[0, 1\], holds 1.5"):
        fresh().fit(x, **options)


@pytest.mark.parametrize("support", [TURN, PHASE, BOX, OPEN])
@each_backend
def test_what_measures_a_column_is_the_map_of_the_engine(support: Any, backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [], support=support, dtype="float64", backend=backend)
    if support.kind == "box":
        assign(flow, buffers=np.array([0.0, 1.0, support.lo + 0.3 * (support.hi - support.lo), 0.01]))
    numbers = flow._snapshot.buffers[2:].tolist()
    x = np.linspace(support.lo, support.hi, 5001)[1:-1]
    np.testing.assert_allclose(
        image(x, support, numbers), flow.to_latent(x[:, None])[0][:, 0], rtol=0, atol=1e-14 * 180
    )


# -- one dimension ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["circle", "circle_to_data", "box", "box_open"])
@each_backend
def test_distribution_function_and_quantiles(name: str, backend: str) -> None:
    flow = built(BY_NAME[name], backend, "float64")
    (own,) = flow.spec.support
    x = own.lo + (own.hi - own.lo) * (np.arange(20_001) / 20_000)
    below = flow.cdf(x[:, None])
    density = np.exp(flow.log_prob((0.5 * (x[1:] + x[:-1]))[:, None]))
    np.testing.assert_allclose(np.diff(below), density * np.diff(x), rtol=2e-2, atol=1e-7)
    assert below[0] == pytest.approx(0, abs=1e-12)
    assert below[-1] == pytest.approx(1, abs=1e-12)
    assert (np.diff(below) >= 0).all()
    assert flow.cdf([[own.lo - 1], [own.hi + 1], [math.nan]])[:2].tolist() == [0, 1]
    assert math.isnan(flow.cdf([math.nan]))
    u = np.linspace(0.01, 0.99, 99)
    np.testing.assert_allclose(flow.cdf(flow.quantile(u)), u, rtol=0, atol=1e-9)
    cube = flow.prior_transform(np.array([[0.0], [0.5], [1.0]]))
    assert np.isfinite(flow.log_prob(cube)).all()


@each_backend
def test_the_distribution_function_outside_a_half_line(backend: str) -> None:
    flow = ps.nsf_ar(1, layers=1, support="positive", rng=0, backend=backend)
    assert flow.cdf([[-1.0], [0.0], [math.inf], [math.nan]])[:3].tolist() == [0, 0, 1]
    given = ps.nsf_ar(1, layers=1, context_dim=1, support="positive", rng=0, backend=backend)
    assert np.isnan(given.cdf([-1.0], [math.nan]))
