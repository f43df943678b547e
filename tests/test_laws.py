"""Laws of maps and densities: every case, on every backend, in both dtypes. What a case is stands in ``cases.py``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, ROWS, Case, assign, built, latents, points, rng
from helpers import (
    assert_close,
    assert_same_bits,
    each_backend,
    each_case,
    each_dtype,
    each_engine_case,
    each_small_case,
    engine_of,
    row_size,
)

Array = np.ndarray[Any, Any]

# -- the two directions -------------------------------------------------------------------------


@each_case
@each_backend
@each_dtype
def test_to_data_undoes_to_latent(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 130, flow)
    z, log_det = flow.to_latent(x)
    back, log_det_back = flow.to_data(z)
    size = np.maximum(row_size(z), row_size(x))
    assert_close(back, x, case.ulps, dtype, scale=size)
    assert_close(-log_det_back, log_det, case.ulps, dtype, scale=size[:, 0])


@each_case
@each_backend
@each_dtype
def test_to_latent_undoes_to_data(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    z = latents(case, 130, flow.dim, dtype)
    x, log_det = flow.to_data(z)
    back, log_det_back = flow.to_latent(x)
    buffers = flow._snapshot.buffers
    size = np.maximum(row_size(z), row_size(x / buffers[flow.dim : 2 * flow.dim]))
    assert_close(back, z, case.ulps, dtype, scale=size)
    assert_close(-log_det_back, log_det, case.ulps, dtype, scale=size[:, 0])


@each_small_case
@each_backend
def test_log_det_is_that_of_a_numerical_jacobian(case: Case, backend: str) -> None:
    flow = built(case, backend, "float64")
    rows, dim, h = 5, flow.dim, 1e-4 if not case.kinks else 1e-6
    x = points(case, rows, flow)
    steps = np.array([-2, -1, 1, 2]) * h
    # Row r of block (j, s) is row r with column j moved by steps[s].
    moved = np.tile(x, (dim, 4, 1, 1)) + np.einsum("jk,s->jsk", np.eye(dim), steps)[:, :, None, :]
    for function, log_det in ((flow.to_latent, flow.to_latent(x)[1]), (flow.to_data, flow.to_data(x)[1])):
        y = function(moved.reshape(-1, dim))[0].reshape(dim, 4, rows, dim)
        jacobian = np.einsum("s,jsri->rij", np.array([1, -8, 8, -1]) / (12 * h), y)
        sign, expected = np.linalg.slogdet(jacobian)
        assert (sign != 0).all()
        # Fourth-order differences leave h^4 and eps / h; both are below 1e-8 of the slopes here.
        np.testing.assert_allclose(log_det, expected, rtol=0, atol=1e-7 if not case.kinks else 1e-5)


@each_case
@each_backend
@each_dtype
def test_log_prob_is_base_density_plus_log_det(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 65, flow)
    z, log_det = flow.to_latent(x)
    wide = np.asarray(z, np.float64)
    expected = -0.5 * (wide**2).sum(axis=1) - 0.5 * flow.dim * math.log(2 * math.pi) + np.asarray(log_det, np.float64)
    assert_close(flow.log_prob(x), expected, 8, dtype, scale=np.abs(log_det))


@each_case
@each_backend
@each_dtype
def test_a_fresh_flow_is_the_identity(case: Case, backend: str, dtype: str) -> None:
    flow = case.build(dtype=dtype, backend=backend)
    x = latents(case, 67, flow.dim, dtype)
    z, log_det = flow.to_latent(x)
    if case.identity:
        order = np.array(_columns(flow))
        for moved in (z[:, order], flow.to_data(z)[0]):
            if case.fresh_ulps:
                assert_close(moved, x, case.fresh_ulps, dtype)
            else:
                assert_same_bits(moved, x)
    assert np.abs(log_det).max() <= case.fresh_ulps * np.finfo(dtype).eps
    assert not flow.initialised


def _columns(flow: ps.Flow) -> list[int]:
    """Where each data column sits in the latent of a flow that only permutes."""
    order = list(range(flow.dim))
    for layer in flow.spec.layers:
        if isinstance(layer, ps.Permutation):
            own = list(reversed(range(flow.dim))) if layer.order == "reverse" else list(layer.order)
            order = [order[i] for i in own]
    return order


@each_engine_case
@each_backend
@each_dtype
def test_ranges_of_steps_compose(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, n = points(case, 130, flow), flow._plan.n_steps
    whole, log_det = flow.to_latent(x)
    for cut in range(n + 1):
        middle, first = _evaluate(flow, False, cut, n, x)
        z, second = _evaluate(flow, False, 0, cut, middle)
        assert_same_bits(z, whole)
        np.testing.assert_allclose(
            first + second, log_det, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps * flow.dim
        )
    for cut in range(n):
        middle, first = _evaluate(flow, True, 0, cut, whole)
        x2, second = _evaluate(flow, True, cut, n, middle)
        assert_same_bits(x2, flow.to_data(whole)[0])


def _evaluate(flow: ps.Flow, to_data: bool, first: int, last: int, x: Array) -> tuple[Array, Array]:
    out, log_det = np.full((len(x), flow.dim), np.nan, flow.dtype), np.full(len(x), np.nan)
    engine, packed, _ = engine_of(flow)
    engine.evaluate(packed, to_data, first, last, x, None, None, None, False, out, log_det)
    return out, log_det


# -- densities ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["elementwise_one_dim", "no_layers", "realnvp_relu", "nsf_one_dim", "nsf_relu"])
@each_backend
@each_dtype
def test_the_density_integrates_to_one(name: str, backend: str, dtype: str) -> None:
    _integrates_to_one(built(BY_NAME[name], backend, dtype))


@pytest.mark.parametrize("seed", range(3))
@each_backend
def test_the_density_of_a_two_dimensional_flow_integrates_to_one(seed: int, backend: str) -> None:
    layers = [
        ps.Coupling(ps.Affine(), ps.MLP((8,), "tanh"), split="half"),
        ps.Coupling(ps.Affine(), ps.MLP((8,), "silu"), split="half_swapped", explicit="to_data"),
        ps.ActNorm(),
    ]
    flow = ps.Flow(ps.StandardNormal(2), layers, dtype="float64", rng=seed, backend=backend)
    flow.params = 0.6 * rng("integral", seed).standard_normal(flow.n_params)
    _integrates_to_one(flow)


def _integrates_to_one(flow: ps.Flow) -> None:
    """The midpoint rule over the image of a box of latents, with nodes that spread like a sinh: tails are long."""
    n, dim = {1: 20001, 2: 801}[flow.dim], flow.dim
    box = 7 * np.stack(np.meshgrid(*[np.linspace(-1, 1, 81)] * dim, indexing="ij"), -1).reshape(-1, dim)
    image = np.asarray(flow.to_data(box)[0], np.float64)
    bulk = np.asarray(flow.sample(10_000, rng=0), np.float64)
    nodes, weights = [], []
    for j in range(dim):
        middle = np.median(bulk[:, j])
        width = np.median(np.abs(bulk[:, j] - middle))
        low, high = np.arcsinh((np.array([image[:, j].min() - 1, image[:, j].max() + 1]) - middle) / width)
        u = low + (high - low) * (np.arange(n) + 0.5) / n
        nodes.append(middle + width * np.sinh(u))
        weights.append(width * np.cosh(u) * (high - low) / n)
    grid = np.stack(np.meshgrid(*nodes, indexing="ij"), -1).reshape(-1, dim)
    cells = weights[0] if dim == 1 else np.outer(*weights).ravel()
    total = np.exp(np.asarray(flow.log_prob(grid), np.float64)) @ cells
    # The box keeps all but 1e-10 of the mass; halving the cells moves the sum by less than 1e-6.
    assert abs(total - 1) < 3e-6


@each_small_case
@each_backend
@each_dtype
def test_samples_carry_their_own_density(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, log_prob = flow.sample_and_log_prob(130, rng=11)
    assert_same_bits(flow.sample(130, rng=11), x)
    assert_close(flow.log_prob(x), log_prob, case.ulps, dtype, scale=row_size(x)[:, 0])


@each_backend
def test_samples_have_the_moments_of_the_density(backend: str) -> None:
    flow = built(BY_NAME["elementwise_to_data"], backend, "float64")
    n = 200_000
    z = flow.to_latent(flow.sample(n, rng=5))[0]
    # Five standard errors of a mean, a variance and a correlation of n normal draws.
    assert np.abs(z.mean(axis=0)).max() < 5 / math.sqrt(n)
    assert np.abs(np.cov(z.T) - np.eye(flow.dim)).max() < 5 * math.sqrt(2 / n)
    assert np.abs((z**3).mean(axis=0)).max() < 5 * math.sqrt(15 / n)
    assert np.abs((z**4).mean(axis=0) - 3).max() < 5 * math.sqrt(96 / n)


@each_engine_case
@each_backend
@each_dtype
def test_more_draws_change_no_other_draw(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    many = flow.sample(1000, rng=9)
    for n in ROWS:
        assert_same_bits(flow.sample(n, rng=9), many[:n])
    assert not np.array_equal(flow.sample(10, rng=10), many[:10])


@each_backend
def test_a_generator_is_advanced_once_a_call(backend: str) -> None:
    flow = built(BY_NAME["mixed_layers"], backend, "float32")
    source = np.random.default_rng(3)
    first, second = flow.sample(5, rng=source), flow.sample(5, rng=source)
    assert not np.array_equal(first, second)
    again = np.random.default_rng(3)
    assert_same_bits(flow.sample(7, rng=again)[:5], first)
    assert_same_bits(flow.sample(2, rng=again), second[:2])


@each_backend
def test_no_call_touches_the_global_random_state(backend: str) -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr]  # noqa: NPY002
    flow = built(BY_NAME["coupling"], backend, "float32")
    flow.sample(10)
    flow.copy().fit(points(BY_NAME["coupling"], 100, flow), epochs=1, batch_size=50, validation=0.1)
    assert (np.random.get_state()[1] == before).all()  # type: ignore[union-attr]  # noqa: NPY002


# -- rows do not know each other ----------------------------------------------------------------


@each_case
@each_backend
@each_dtype
@pytest.mark.parametrize("rows", ROWS)
def test_a_row_has_the_same_bits_in_a_batch_of_any_size(case: Case, backend: str, dtype: str, rows: int) -> None:
    flow = built(case, backend, dtype)
    x = points(case, max(ROWS), flow)
    for function in (flow.to_latent, flow.to_data):
        many, log_det = function(x)
        few, log_det_few = function(x[:rows])
        assert few.shape == (rows, flow.dim)
        assert few.dtype == flow.dtype
        assert_same_bits(few, many[:rows])
        assert_same_bits(log_det_few, log_det[:rows])
        # The same rows at another place within their tile.
        last, log_det_last = function(x[len(x) - rows :])
        assert_same_bits(last, many[len(x) - rows :])
        assert_same_bits(log_det_last, log_det[len(x) - rows :])
    assert_same_bits(flow.log_prob(x[:rows]), flow.log_prob(x)[:rows])


@each_small_case
@each_backend
@each_dtype
def test_a_single_row_has_the_bits_it_has_in_a_batch(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 70, flow)
    together, z = flow.log_prob(x), flow.to_latent(x)[0]
    grad = flow.log_prob_and_grad(x)[1]
    for i in (0, 3, 69):
        one = flow.log_prob(x[i])
        assert np.shape(one) == ()
        assert_same_bits(one, together[i])
        assert_same_bits(flow.to_latent(x[i])[0], z[i])
        assert_same_bits(flow.log_prob_and_grad(x[i])[1], grad[i])


@each_small_case
@each_backend
@each_dtype
def test_permuting_the_rows_permutes_the_results(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 150, flow)
    order = rng("order").permutation(len(x))
    cotangent = rng("cotangent").standard_normal(len(x)).astype(dtype)
    assert_same_bits(flow.log_prob(x[order]), flow.log_prob(x)[order])
    assert_same_bits(flow.log_prob_vjp(x[order], cotangent[order])[0], flow.log_prob_vjp(x, cotangent)[0][order])


@each_engine_case
@each_backend
@each_dtype
def test_three_axes_are_blocks_of_rows(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 60, flow)
    blocks = x.reshape(5, 12, flow.dim)
    assert_same_bits(flow.log_prob(blocks), flow.log_prob(x).reshape(5, 12))
    z, log_det = flow.to_latent(blocks)
    assert_same_bits(z.reshape(60, -1), flow.to_latent(x)[0])
    assert log_det.shape == (5, 12)


@each_case
@each_backend
@each_dtype
def test_nan_stays_in_its_row(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    clean = points(case, 130, flow)
    bad = [0, 17, 63, 64, 129]
    keep = np.setdiff1d(np.arange(130), bad)
    grad = flow.log_prob_and_grad(clean)[1]
    for column in range(min(flow.dim, 6)):
        x = clean.copy()
        x[bad, column] = np.nan
        log_prob = flow.log_prob(x)
        assert np.isnan(log_prob[bad]).all()
        assert_same_bits(log_prob[keep], flow.log_prob(clean)[keep])
        for function in (flow.to_latent, flow.to_data):
            y, log_det = function(x)
            assert np.isnan(y[bad]).any(axis=1).all()
            assert_same_bits(y[keep], function(clean)[0][keep])
            assert_same_bits(log_det[keep], function(clean)[1][keep])
        assert_same_bits(flow.log_prob_and_grad(x)[1][keep], grad[keep])


@each_case
@each_backend
@each_dtype
def test_finite_input_gives_finite_densities_or_minus_infinity(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    top = float(np.finfo(dtype).max)
    small = float(np.finfo(dtype).smallest_subnormal)
    for value in (0.0, -0.0, small, 1e-30, 1e4, -1e4, 1e9):
        assert np.isfinite(flow.log_prob(np.full((3, flow.dim), value, dtype))).all()
    with np.errstate(all="ignore"):
        # Squares overflow here: the mathematics' own infinity. It must not come out as NaN where nothing is subtracted.
        value = flow.log_prob(np.full((3, flow.dim), top / 4, dtype))
    if case.kind == "transform" or case.name.startswith(("permutation", "no_layers")):
        assert (value == -np.inf).all() or np.isfinite(value).all()


# -- threads and memory -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the flow has .* parameters:UserWarning")
@each_engine_case
@each_backend
@each_dtype
def test_the_number_of_threads_changes_no_bit(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 1500, flow)
    source = rng("threads")
    dz, dl = source.standard_normal(x.shape).astype(dtype), source.standard_normal(len(x)).astype(dtype)

    def everything() -> list[Array]:
        out = [flow.log_prob(x), flow.sample(1500, rng=1), *flow.to_latent(x), *flow.to_data(x)]
        out += flow.log_prob_vjp(x, dl)[:2]
        out += flow.to_latent_vjp(x, dz, dl)[:2]
        out += flow.to_data_vjp(x, dz, dl)[:2]
        out += [np.asarray(v) for v in flow.loss_and_grad(x)]
        trained = flow.copy().fit(x, epochs=1, batch_size=200, validation=0.1, rng=2)
        return [*out, trained.params]

    results = []
    for n in (1, 2, 3, 5):
        with ps.threads(n):
            assert ps.num_threads() == n
            results.append(everything())
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert_same_bits(one, two)


@each_engine_case
@each_backend
@each_dtype
@pytest.mark.parametrize("rows", [1, 63, 65, 200])
def test_nothing_is_written_outside_the_outputs(case: Case, backend: str, dtype: str, rows: int) -> None:
    flow = built(case, backend, dtype)
    engine, packed, n = engine_of(flow)
    x, dim, guard = points(case, rows, flow), flow.dim, 64
    bands: list[tuple[Array, int]] = []

    def lent(shape: tuple[int, ...], kind: Any) -> Array:
        size = int(np.prod(shape))
        band = np.full(size + 2 * guard, 12345.0, kind)
        bands.append((band, size))
        return band[guard : guard + size].reshape(shape)

    for to_data in (False, True):
        out, log_det = lent((rows, dim), dtype), lent((rows,), dtype)
        engine.evaluate(packed, to_data, 0, n, x, None, None, None, False, out, log_det)
        assert (out != 12345).all()
        assert (log_det != 12345).all()
        engine.evaluate(packed, to_data, 0, n, x, None, None, None, True, None, lent((rows,), "float64"))
        d_x, d_params = lent((rows, dim), dtype), lent((flow.n_params,), "float64")
        engine.vjp(packed, to_data, 0, n, x, None, None, False, x, None, None, d_x, d_params, None, None)
        assert (d_x != 12345).all()
    out, log_prob = lent((rows, dim), dtype), lent((rows,), dtype)
    engine.sample(packed, 1, 0, 0, None, out, log_prob)
    assert (out != 12345).all()
    assert (log_prob != 12345).all()
    engine.loss_and_grad(packed, x, None, None, lent((flow.n_params,), "float64"))
    for band, size in bands:
        assert (band[:guard] == 12345).all()
        assert (band[guard + size :] == 12345).all()


@each_engine_case
@each_backend
@each_dtype
def test_results_are_the_callers_own_and_inputs_stay_as_they_are(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 100, flow)
    kept = x.copy()
    first = flow.log_prob(x)
    saved = first.copy()
    z = flow.to_latent(x)[0]
    flow.log_prob(x + 1)
    flow.log_prob_vjp(x, first)
    flow.loss_and_grad(x)
    assert_same_bits(first, saved)
    assert_same_bits(x, kept)
    assert first.flags.writeable
    assert z.flags.writeable
    assert not np.shares_memory(z, x)


@each_engine_case
@each_backend
@each_dtype
def test_out_receives_the_result(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 70, flow)
    out = np.full(70, np.nan, dtype)
    assert flow.log_prob(x, out=out) is out
    assert_same_bits(out, flow.log_prob(x))
    out = np.full((70, flow.dim), np.nan, dtype)
    assert flow.sample(70, rng=4, out=out) is out
    assert_same_bits(out, flow.sample(70, rng=4))


# -- how input may lie in memory ----------------------------------------------------------------


def _unaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    out = raw.view(x.dtype).reshape(x.shape)
    out[:] = x
    return out


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "read_only": _read_only,
    "fortran": np.asfortranarray,
    "every_second_row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every_second_column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "slice_of_columns": lambda x: np.concatenate([x, x, x], axis=1)[:, x.shape[1] : 2 * x.shape[1]],
    "unaligned": _unaligned,
    "big_endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    # Equal to NumPy's own dtype, but another object.
    "dtype_object": lambda x: x.view(x.dtype.newbyteorder("=")),
    "list": lambda x: x.tolist(),
    "other_width": lambda x: x.astype("float64" if x.dtype == np.float32 else "float32"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@each_engine_case
@each_backend
@each_dtype
def test_the_layout_of_the_input_changes_no_bit(case: Case, backend: str, dtype: str, layout: str) -> None:
    flow = built(case, backend, dtype)
    x = points(case, 130, flow)
    laid = LAYOUTS[layout](x)
    assert_same_bits(flow.log_prob(laid), flow.log_prob(x))
    for function in (flow.to_latent, flow.to_data, flow.log_prob_and_grad):
        for one, two in zip(function(laid), function(x), strict=True):
            assert_same_bits(one, two)
    assert_same_bits(flow.loss_and_grad(laid)[2], flow.loss_and_grad(x)[2])


@each_backend
@each_dtype
@pytest.mark.parametrize("layout", ["C", "every_second_row", "every_second_column", "other_width", "unaligned"])
def test_rows_of_any_width_are_read_and_written_as_numpy_would(backend: str, dtype: str, layout: str) -> None:
    most = float(np.finfo(dtype).max)
    for dim in (*range(1, 41), 64, 100):
        order = tuple(int(i) for i in rng("order", dim).permutation(dim))
        flow = ps.Flow(ps.StandardNormal(dim), [ps.Permutation(order)], dtype=dtype, backend=backend)
        source = rng("rows", dim, layout)
        loc, scale = source.standard_normal(dim), np.exp(source.standard_normal(dim))
        assign(flow, buffers=np.concatenate([loc, scale]))
        for rows in (1, 2, 7, 63, 65):
            x = (source.standard_normal((rows, dim)) * 10.0 ** source.uniform(-44, 37, (rows, dim))).astype(dtype)
            x[source.random(x.shape) < 0.05] = source.choice([np.inf, -np.inf, np.nan, -0.0, np.finfo("float32").max])
            x = x if layout == "C" else LAYOUTS[layout](x)
            with np.errstate(all="ignore"):
                u = (x.astype(np.float64) - loc) * (1 / scale)
                u = np.where(np.isfinite(u), np.clip(u, -most, most), u).astype(dtype)
                z, z_back = flow.to_latent(x)[0], x.astype(dtype)
                assert_same_numbers(z[:, order], u)
                wanted = (loc + scale * z_back[:, order].astype(np.float64)).astype(dtype)
                assert_same_numbers(flow.to_data(x)[0], wanted)


def assert_same_numbers(actual: Array, expected: Array) -> None:
    """Same bits, but that a NaN is a NaN."""
    assert_same_bits(np.where(np.isnan(actual), np.nan, actual), np.where(np.isnan(expected), np.nan, expected))


@each_backend
@each_dtype
def test_a_row_repeated_by_a_zero_stride_works(backend: str, dtype: str) -> None:
    case = BY_NAME["mixed_layers"]
    flow = built(case, backend, dtype)
    x = np.broadcast_to(points(case, 1, flow), (100, flow.dim))
    assert_same_bits(flow.log_prob(x), np.repeat(flow.log_prob(x[:1]), 100))


@pytest.mark.parametrize("kind", ["int8", "uint16", "int64", "bool", "float16"])
@each_backend
@each_dtype
def test_integers_and_halves_are_read_as_the_numbers_they_are(backend: str, dtype: str, kind: str) -> None:
    case = BY_NAME["mixed_layers"]
    flow = built(case, backend, dtype)
    x = rng("integers").integers(0, 5, (70, flow.dim)).astype(kind)
    assert_same_bits(flow.log_prob(x), flow.log_prob(x.astype(dtype)))


@each_backend
@each_dtype
def test_every_verb_works_on_zero_rows(backend: str, dtype: str) -> None:
    flow = built(BY_NAME["mixed_layers"], backend, dtype)
    x, none = np.zeros((0, flow.dim), dtype), np.zeros(0, dtype)
    assert flow.log_prob(x).shape == (0,)
    assert flow.sample(0, rng=0).shape == (0, flow.dim)
    for function in (flow.to_latent, flow.to_data):
        y, log_det = function(x)
        assert y.shape == x.shape
        assert log_det.shape == (0,)
    log_prob, grad = flow.log_prob_and_grad(x)
    assert log_prob.shape == (0,)
    assert grad.shape == x.shape
    assert (flow.log_prob_vjp(x, none)[1] == 0).all()
    assert (flow.to_latent_vjp(x, x, none)[1] == 0).all()
    assert (flow.to_data_vjp(x, x, none)[1] == 0).all()
    loss, weight, grad = flow.loss_and_grad(x)
    assert loss == 0
    assert weight == 0
    assert (grad == 0).all()
    assert flow.log_prob(np.zeros((4, 0, flow.dim), dtype)).shape == (4, 0)


@each_backend
def test_a_large_offset_costs_a_float32_flow_nothing(backend: str) -> None:
    flow = built(BY_NAME["coupling"], backend, "float32").copy()
    dim = flow.dim
    plain = np.concatenate([np.zeros(dim), np.ones(dim)])
    u = rng("offset").standard_normal((100, dim)).astype(np.float32).astype(np.float64)
    assign(flow, buffers=plain)
    expected = flow.log_prob(u)
    # 2^33 + u is exact to 2^-20 in float64, and far beyond float32.
    offset = 2.0**33
    u = np.round(u * 2**18) / 2**18
    expected = flow.log_prob(u)
    assign(flow, buffers=np.concatenate([np.full(dim, offset), np.ones(dim)]))
    assert_same_bits(flow.log_prob(u + offset), expected)


@each_backend
def test_a_float64_number_beyond_float32_is_not_turned_into_nan(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [ps.Elementwise(), ps.ActNorm()], backend=backend)
    far = flow.log_prob(np.array([[1e300, 0, 0], [-1e300, 1, 1], [0, 0, 0]]))
    assert (far[:2] == -np.inf).all()
    assert np.isfinite(far[2])


@each_backend
def test_the_gradient_beyond_the_clamp_of_the_scale_is_that_of_the_clamped_map(backend: str) -> None:
    theta = np.array([[3e30, 0.5], [-3e30, 0.5], [0.7, 0.5]])
    x = np.array([1e30, 1e30, 2.0])
    dx, dtheta = ps.ops.backward(ps.Affine(), x, theta, np.ones(3), 1.0, backend=backend)
    assert (dtheta[:2, 0] == 0).all()
    assert dtheta[2, 0] != 0
    np.testing.assert_allclose(dx[:2], np.exp([3.0, -3.0]), rtol=1e-12)
