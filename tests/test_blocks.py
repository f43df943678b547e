"""Engines on tables written by hand: several transforms in one step, blocks of the base; and laws of the way there and back of
flows with circles and boxes, which users never see.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import BACKENDS, KINDED, Case, bare, built, contexts, fresh, rng
from helpers import assert_same_bits, both_dtypes, engine_of, inside
from penstock.plan_table import Table
from supports_table import points
from tables import TRANSFORMS, Maker

Array = np.ndarray[Any, Any]

MODULES = {"cpp": "penstock._core", "numba": "penstock._numba"}
MIXED = ("affine", "spline", "additive", "additive", "spline", "affine")
N_THETA = {name: own[1] for name, own in TRANSFORMS.items()}


@pytest.fixture(params=[backend for backend in BACKENDS if backend in MODULES])
def engines(request: pytest.FixtureRequest) -> Any:
    """The module of a backend."""
    return importlib.import_module(MODULES[request.param])


def step_of(transforms: tuple[str, ...], source: str, dtype: str) -> Table:
    """A flow of one elementwise step."""
    maker = Maker(len(transforms), dtype=dtype)
    maker.step(
        "elementwise",
        range(maker.dim),
        maker.parts(transforms, source, **({"external": 0} if source == "external" else {})),
        0,
    )
    return maker.finish()


class Calls:
    """The engine of a table, with numbers, and what it makes of rows with the first step alone."""

    def __init__(self, engines: Any, table: Table, params: Array, dtype: str) -> None:
        self.engine, self.dtype = engines.Engine(table.write()), np.dtype(dtype)
        buffers = np.tile([0.0, 1.0], table.flow["dim"])
        self.packed = self.engine.pack(params.astype(dtype), buffers)
        self.n_params = len(params)

    def evaluate(self, x: Array, to_data: bool, theta: Array | None) -> tuple[Array, Array]:
        """Images and log_det."""
        out, log_det = np.empty_like(x), np.empty(len(x), self.dtype)
        thetas = None if theta is None else [theta]
        self.engine.evaluate(self.packed, to_data, 0, 1, x, None, None, thetas, False, out, log_det)
        return out, log_det

    def vjp(self, x: Array, to_data: bool, theta: Array | None, over: Array, along: Array) -> tuple[Array, Array, Any]:
        """Gradients of x, of the parameters and of theta."""
        d_x, d_params = np.empty_like(x), np.zeros(self.n_params)
        d_theta = None if theta is None else np.empty_like(theta)
        thetas, d_thetas = (None, None) if theta is None else ([theta], [d_theta])
        self.engine.vjp(
            self.packed, to_data, 0, 1, x, None, thetas, False, over, along, None, d_x, d_params, None, d_thetas
        )
        return d_x, d_params, d_theta


def free_places(transforms: tuple[str, ...]) -> list[slice]:
    """Where theta of each member lies among the parameters: part by part."""
    places, at = {}, 0
    for name in dict.fromkeys(transforms):
        for j, own in enumerate(transforms):
            if own == name:
                places[j] = slice(at, at + N_THETA[name])
                at += N_THETA[name]
    return [places[j] for j in range(len(transforms))]


def given_places(transforms: tuple[str, ...]) -> list[slice]:
    """The same in the order of the members."""
    ends = np.cumsum([N_THETA[name] for name in transforms]).tolist()
    return [slice(end - N_THETA[name], end) for end, name in zip(ends, transforms, strict=True)]


@pytest.mark.parametrize("source", ["free", "external"])
@both_dtypes
@inside("rows", [1, 3, 130])
def test_each_transform_of_a_step_does_what_it_does_alone(engines: Any, source: str, dtype: str, rows: int) -> None:
    free = source == "free"
    table, places = step_of(MIXED, source, dtype), free_places(MIXED) if free else given_places(MIXED)
    n = sum(N_THETA[name] for name in MIXED)
    source_of = rng("parts", source, rows)
    numbers = source_of.standard_normal((1 if free else rows, n)).astype(dtype)
    x, over = (source_of.standard_normal((rows, len(MIXED))).astype(dtype) for _ in range(2))
    along = source_of.standard_normal(rows).astype(dtype)
    mixed = Calls(engines, table, numbers[0] if free else np.zeros(0), dtype)
    total: dict[bool, Any] = {}
    for name in dict.fromkeys(MIXED):
        alone = (name,) * len(MIXED)
        own_places = free_places(alone) if free else given_places(alone)
        own = np.zeros((len(numbers), N_THETA[name] * len(MIXED)), dtype)
        members = [j for j, other in enumerate(MIXED) if other == name]
        for j in members:
            own[:, own_places[j]] = numbers[:, places[j]]
        single = Calls(engines, step_of(alone, source, dtype), own[0] if free else np.zeros(0), dtype)
        for to_data in (False, True):
            args = (x, to_data, None if free else numbers), (x, to_data, None if free else own)
            assert_same_bits(mixed.evaluate(*args[0])[0][:, members], single.evaluate(*args[1])[0][:, members])
            got, want = mixed.vjp(*args[0], over, along), single.vjp(*args[1], over, along)
            assert_same_bits(got[0][:, members], want[0][:, members])
            for j in members:
                if free:
                    assert_same_bits(got[1][places[j]], want[1][own_places[j]])
                else:
                    assert_same_bits(got[2][:, places[j]], want[2][:, own_places[j]])
            # theta zero is the identity, beyond 5 to the last bit, and adds nothing
            lonely = np.full_like(x, 10)
            lonely[:, members] = x[:, members]
            log_det = single.evaluate(lonely, *args[1][1:])[1]
            total[to_data] = total.get(to_data, 0.0) + log_det.astype(np.float64)
    for to_data, log_det in total.items():
        found = mixed.evaluate(x, to_data, None if free else numbers)[1]
        np.testing.assert_allclose(found, log_det, rtol=0, atol=100 * np.finfo(dtype).eps)


# -- the base ---------------------------------------------------------------------------------------------------------

LO, HI = -2.0, 3.0


def based(dtype: str, *blocks: tuple[str, tuple[int, ...], tuple[float, ...]], dim: int = 5) -> Table:
    """A flow that maps nothing, with a base in these blocks."""
    maker = Maker(dim, dtype=dtype)
    maker.elementwise("additive")

    def write(maker: Maker) -> None:
        for kind, dims, options in blocks:
            maker.block(kind, dims, options=options)

    return maker.finish(base=write)


def density(calls: Calls, x: Array) -> tuple[Array, Array]:
    """log p of rows, and its gradient."""
    values, d_x = np.empty(len(x), calls.dtype), np.empty_like(x)
    calls.engine.evaluate(calls.packed, False, 0, 2, x, None, None, None, True, None, values)
    ones = np.ones(len(x), calls.dtype)
    calls.engine.vjp(calls.packed, False, 0, 2, x, None, None, True, None, ones, None, d_x, None, None, None)
    return values, d_x


def draws(calls: Calls, rows: int, first: int = 0) -> Array:
    """Draws of the base."""
    out = np.empty((rows, calls.engine.dim), calls.dtype)
    calls.engine.sample(calls.packed, 7, 0, first, None, out, None)
    return out


@both_dtypes
def test_a_uniform_base_of_lines(engines: Any, dtype: str) -> None:
    table = based(dtype, ("uniform", (3, 0, 4), (LO, HI)), ("standard_normal", (2, 1), ()))
    calls = Calls(engines, table, np.zeros(5), dtype)
    x = rng("uniform").uniform(LO, HI, (133, 5)).astype(dtype)
    x[0, 0], x[1, 3] = LO, HI  # of a closed interval
    x[2, 0], x[3, 3], x[4, 4], x[5, 4] = (
        np.nextafter(x.dtype.type(LO), -9),
        np.nextafter(x.dtype.type(HI), 9),
        1e30,
        -math.inf,
    )
    x[6, 0], x[7, 1] = math.nan, math.nan
    wanted = -0.5 * (x[:, 1:3].astype(np.float64) ** 2).sum(axis=1) - math.log(2 * math.pi) - 3 * math.log(HI - LO)
    wanted[2:6] = -math.inf
    wanted[6] = math.nan
    found, gradient = density(calls, x)
    np.testing.assert_allclose(found, wanted, rtol=4 * np.finfo(dtype).eps, atol=0)
    for r in (0, 2, 50, 7):
        assert_same_bits(density(calls, x[r : r + 1])[0], found[r : r + 1])
    keep = np.setdiff1d(np.arange(133), (6, 7))
    assert (gradient[keep][:, [0, 3, 4]] == 0).all()
    assert_same_bits(gradient[keep][:, 1:3], -x[keep][:, 1:3])


@both_dtypes
def test_draws_of_a_uniform_base(engines: Any, dtype: str) -> None:
    block = ("standard_normal", (2, 1), ())
    calls = Calls(engines, based(dtype, ("uniform", (3, 0, 4), (LO, HI)), block), np.zeros(5), dtype)
    normal = Calls(engines, based(dtype, ("standard_normal", tuple(range(5)), ())), np.zeros(5), dtype)
    found = draws(calls, 20_000)
    assert_same_bits(found[:, 1:3], draws(normal, 20_000)[:, 1:3])  # other blocks do not move them
    for j in (0, 3, 4):
        u = np.sort((found[:, j].astype(np.float64) - LO) / (HI - LO))
        assert u[0] > 0
        assert u[-1] < 1
        steps = np.arange(20_001) / 20_000
        assert max(np.abs(u - steps[1:]).max(), np.abs(u - steps[:-1]).max()) < 1.95 / math.sqrt(20_000)  # at 0.1 %
    assert np.abs(np.corrcoef(found.T) - np.eye(5)).max() < 0.03
    for r in (0, 1, 777):
        assert_same_bits(draws(calls, 1, r), found[r : r + 1])
    # the words of a dimension are its own: another list of them, and another width, change nothing else
    other = Calls(
        engines, based(dtype, ("uniform", (0, 1), (LO, HI)), ("uniform", (2, 3, 4), (0.0, 1.0))), np.zeros(5), dtype
    )
    assert_same_bits(draws(other, 500)[:, 0], found[:500, 0])
    np.testing.assert_allclose(
        LO + (HI - LO) * draws(other, 500)[:, 3:].astype(np.float64), found[:500, 3:], atol=4 * np.finfo(dtype).eps
    )


@both_dtypes
def test_uniform_draws_are_the_documented_words(engines: Any, dtype: str) -> None:
    calls = Calls(engines, based(dtype, ("uniform", tuple(range(5)), (-1.0, 1.0))), np.zeros(5), dtype)
    first = 2**33 + 5
    found = draws(calls, 40, first)
    draw = np.arange(first, first + 40, dtype=np.uint64)
    low, high = draw & np.uint64(0xFFFFFFFF), draw >> np.uint64(32)
    for f in range(5):
        counter = low, np.uint64(0), np.uint64(f // 2), np.uint64(6) | high << np.uint64(8)
        w0, w1 = (word.astype(np.uint64) for word in reference.philox(7, counter)[2 * (f % 2) :][:2])
        u = (
            (w0 >> np.uint64(8)) / 2**24
            if dtype == "float32"
            else (w0 * np.uint64(2**21) + (w1 >> np.uint64(11))) / 2**53
        )
        assert (found[:, f] == 2 * u - 1).all()


@both_dtypes
def test_draws_of_a_uniform_base_of_few_numbers_lie_within(engines: Any, dtype: str) -> None:
    lo, hi = 1.0, 1.0 + 4 * float(np.finfo(dtype).eps)
    calls = Calls(engines, based(dtype, ("uniform", (0, 1), (lo, hi)), dim=2), np.zeros(2), dtype)
    found = draws(calls, 4000).astype(np.float64)
    assert set(np.unique((found - 1) / np.finfo(dtype).eps)) == {1.0, 2.0, 3.0}


@both_dtypes
def test_several_normal_blocks_are_one(engines: Any, dtype: str) -> None:
    several = Calls(
        engines, based(dtype, ("standard_normal", (4, 1), ()), ("standard_normal", (0, 3, 2), ())), np.zeros(5), dtype
    )
    one = Calls(engines, based(dtype, ("standard_normal", tuple(range(5)), ())), np.zeros(5), dtype)
    x = rng("blocks").standard_normal((70, 5)).astype(dtype)
    np.testing.assert_allclose(density(several, x)[0], density(one, x)[0], rtol=4 * np.finfo(dtype).eps)
    assert_same_bits(density(several, x)[1], density(one, x)[1])
    assert_same_bits(draws(several, 70), draws(one, 70))


# -- there and back ----------------------------------------------------------------------------------------------------

each_kinded_of_cpp = pytest.mark.parametrize("case", KINDED, ids=lambda case: case.name)


@pytest.mark.skipif("cpp" not in BACKENDS, reason="the other backend has one way back")
@each_kinded_of_cpp
@both_dtypes
def test_recomputing_the_activations_changes_no_bit(case: Case, dtype: str) -> None:
    flow = fresh(case, "cpp", dtype)
    engine = engine_of(flow)
    x = points(case, 300, flow)
    dz = rng("recompute").standard_normal(x.shape).astype(dtype)
    results = []
    for engine.recompute in (False, True):
        results.append(
            [*flow.to_latent_vjp(x, dz, None)[:2], *flow.to_data_vjp(x, dz, None)[:2], flow.loss_and_grad(x)[2]]
        )
    for one, two in zip(*results, strict=True):
        assert_same_bits(one, two)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", [case for case in KINDED if case.conditional], ids=lambda case: case.name)
@both_dtypes
def test_a_context_given_in_any_way_gives_the_same_bits(case: Case, backend: str, dtype: str) -> None:
    flow = bare(built(case, backend, dtype))
    x, one = points(case, 130, flow), contexts(case, 2, flow)
    for context in (one[:1], one):
        each = np.repeat(context, 130 // len(context), axis=0)
        given = context[0] if len(context) == 1 else context
        shaped = x if len(context) == 1 else x.reshape(2, 65, flow.dim)
        assert_same_bits(flow.log_prob(shaped, given).ravel(), flow.log_prob(x, each))
        for one_way, other in zip(flow.to_latent(shaped, given), flow.to_latent(x, each), strict=True):
            assert_same_bits(one_way.ravel(), other.ravel())
        z = flow.to_latent(x, each)[0]
        for one_way, other in zip(flow.to_data(z.reshape(shaped.shape), given), flow.to_data(z, each), strict=True):
            assert_same_bits(one_way.ravel(), other.ravel())
        assert_same_bits(flow.log_prob(x[0], context[0]), flow.log_prob(x[:1], context[:1])[0])


@pytest.mark.parametrize("backend", BACKENDS)
@both_dtypes
def test_an_end_of_a_box_belongs_to_it_as_the_type_of_the_rows_rounds_it(backend: str, dtype: str) -> None:
    hi, lo = math.pi / 2, -0.1  # of which float32 is above, and below
    ends = {rows: (np.array(lo, rows), np.array(hi, rows)) for rows in ("float32", "float64")}
    assert float(ends["float32"][0]) < lo
    assert float(ends["float32"][1]) > hi
    for closed in ("both", "neither", "lo", "hi"):
        flow = ps.Flow(
            ps.StandardNormal(1), [ps.Elementwise(ps.RationalQuadratic())], support=[ps.interval(lo, hi, closed=closed)],
            dtype=dtype, backend=backend, rng=0,
        )  # fmt: skip
        for rows, (low, high) in ends.items():
            beyond = np.array([np.nextafter(low, low - 1), low, high, np.nextafter(high, high + 1)])[:, None]
            assert beyond.dtype == rows
            inside = [False, closed in ("both", "lo"), closed in ("both", "hi"), False]
            assert np.isfinite(flow.log_prob(beyond)).tolist() == inside
            assert np.isfinite(flow.to_latent(beyond)[1]).tolist() == inside
            within = np.nextafter(low, high), np.nextafter(high, low)
            assert np.isfinite(flow.log_prob(np.array(within)[:, None])).all()
        drawn = flow.sample(2000, rng=0)
        assert (drawn >= lo).all()
        assert (drawn <= hi).all()
        corners = flow.to_data(np.array([[-1.0], [1.0]]))[0].astype(dtype)[:, 0]
        assert lo <= corners[0] < corners[1] <= hi
        assert np.isfinite(flow.log_prob(corners[:, None])).all()


@pytest.mark.parametrize("backend", BACKENDS)
@both_dtypes
def test_any_latent_number_of_a_circle_is_an_angle(backend: str, dtype: str) -> None:
    for layer in (
        ps.Elementwise(ps.Affine()),
        ps.Elementwise(ps.RationalQuadratic()),
    ):  # that leave circles alone, and turn them
        flow = ps.Flow(
            ps.StandardNormal(2), [layer], support=[ps.periodic(-180, 180), "real"], dtype=dtype, backend=backend, rng=0
        )
        z = rng("angles").uniform(-math.pi, math.pi, (70, 2))
        x = flow.to_data(z)[0]
        for turns in (-3, 1, 2):
            moved = z + np.array([2 * math.pi * turns, 0.0])
            found, log_det = flow.to_data(moved)
            assert (found[:, 0] >= -180).all()
            assert (found[:, 0] < 180).all()
            apart = np.abs(found.astype(np.float64) - x)
            np.testing.assert_allclose(np.minimum(apart, np.abs(360 - apart))[:, 0], 0, atol=2e4 * np.finfo(dtype).eps)
            np.testing.assert_allclose(log_det, flow.to_data(z)[1], atol=1e3 * np.finfo(dtype).eps)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_draw_in_a_box_of_few_numbers_has_the_density_of_the_row_as_stored(backend: str) -> None:
    support = [ps.interval(1000.0, 1000.01), "real"]  # with 164 numbers in float32
    layer = ps.Autoregressive(ps.RationalQuadratic(), ps.MLP((8,), "tanh"))
    flow = ps.Flow(ps.StandardNormal(2), [layer], support=support, backend=backend, rng=0)
    flow.params = rng("few").standard_normal(len(flow.params))
    x, density = flow.sample_and_log_prob(3000, rng=1)
    assert len(np.unique(x[:, 0])) < 170
    np.testing.assert_allclose(density, flow.log_prob(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@both_dtypes
def test_infinity_is_no_angle_however_far_a_row_lies(backend: str, dtype: str) -> None:
    flow = ps.Flow(
        ps.StandardNormal(2), [ps.Elementwise(ps.Affine())], support=[ps.periodic(-180, 180), "real"], dtype=dtype,
        backend=backend, rng=0,
    )  # fmt: skip
    huge = float(np.finfo(dtype).max)
    x = np.array([[10.0, huge], [math.inf, huge], [-math.inf, 1.0], [math.nan, huge], [10.0, 1.0]])
    density = flow.log_prob(x)
    assert np.isnan(density).tolist() == [False, True, True, True, False]
    assert density[0] < -1e30
    assert math.isfinite(density[4])
