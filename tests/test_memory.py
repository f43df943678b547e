"""Laws of memory: threads change no bit, outputs are the caller's, and input may lie as it likes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, Case, assign, built, points, rng
from helpers import (
    LAYOUTS,
    assert_same_bits,
    both_dtypes,
    each_backend,
    each_engine_case,
    engine_evaluate,
    engine_loss_and_grad,
    engine_sample,
    engine_vjp,
    inside,
)

Array = np.ndarray[Any, Any]

# -- threads and memory -------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the flow has .* parameters:UserWarning")
@each_engine_case
@both_dtypes
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
@both_dtypes
@inside("rows", [1, 63, 65, 200])
def test_nothing_is_written_outside_the_outputs(case: Case, backend: str, dtype: str, rows: int) -> None:
    flow = built(case, backend, dtype)
    x, dim, guard = points(case, rows, flow), flow.dim, 64
    bands: list[tuple[Array, int]] = []

    def lent(shape: tuple[int, ...], kind: Any) -> Array:
        size = int(np.prod(shape))
        band = np.full(size + 2 * guard, 12345.0, kind)
        bands.append((band, size))
        return band[guard : guard + size].reshape(shape)

    for to_data in (False, True):
        out, log_det = lent((rows, dim), dtype), lent((rows,), dtype)
        engine_evaluate(flow, to_data, x, out=out, log_det=log_det)
        assert (out != 12345).all()
        assert (log_det != 12345).all()
        engine_evaluate(flow, to_data, x, base=True, log_det=lent((rows,), "float64"))
        d_x, d_params, log_det = lent((rows, dim), dtype), lent((flow.n_params,), "float64"), lent((rows,), dtype)
        engine_vjp(flow, to_data, x, x, None, log_det=log_det, d_x=d_x, d_params=d_params)
        assert (d_x != 12345).all()
        assert (log_det != 12345).all()
    out, log_prob = lent((rows, dim), dtype), lent((rows,), dtype)
    engine_sample(flow, 1, out, log_prob)
    assert (out != 12345).all()
    assert (log_prob != 12345).all()
    engine_loss_and_grad(flow, x, lent((flow.n_params,), "float64"))
    for band, size in bands:
        assert (band[:guard] == 12345).all()
        assert (band[guard + size :] == 12345).all()


@each_engine_case
@both_dtypes
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
@both_dtypes
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


@each_engine_case
@both_dtypes
@inside("layout", LAYOUTS)
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
@both_dtypes
@inside("layout", ["C", "every_second_row", "every_second_column", "other_width", "unaligned"])
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
@both_dtypes
def test_a_row_repeated_by_a_zero_stride_works(backend: str, dtype: str) -> None:
    case = BY_NAME["mixed_layers"]
    flow = built(case, backend, dtype)
    x = np.broadcast_to(points(case, 1, flow), (100, flow.dim))
    assert_same_bits(flow.log_prob(x), np.repeat(flow.log_prob(x[:1]), 100))


@each_backend
@both_dtypes
@inside("kind", ["int8", "uint16", "int64", "bool", "float16"])
def test_integers_and_halves_are_read_as_the_numbers_they_are(backend: str, dtype: str, kind: str) -> None:
    case = BY_NAME["mixed_layers"]
    flow = built(case, backend, dtype)
    x = rng("integers").integers(0, 5, (70, flow.dim)).astype(kind)
    assert_same_bits(flow.log_prob(x), flow.log_prob(x.astype(dtype)))


@each_backend
@both_dtypes
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
