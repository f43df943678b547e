"""Every backend agrees with an independent NumPy evaluator, with the other backend, and with itself in the other dtype;
and every instruction set gives the same bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import BACKENDS, CASES, Case, built, latents, points
from helpers import (
    HERE,
    assert_close,
    assert_same_bits,
    both_dtypes,
    each_backend,
    each_case,
    each_case_of_two_backends,
    engine_evaluate,
    engine_sample,
    inside,
    python_json,
    row_order,
    row_size,
)

Array = np.ndarray[Any, Any]


@each_case
@both_dtypes
def test_a_backend_agrees_with_numpy(case: Case, backend: str, dtype: str) -> None:
    flow = built(case, backend, dtype)
    x, z = points(case, 200, flow), latents(case, 200, flow.dim, dtype)
    for rows, function, expected in ((x, flow.to_latent, reference.to_latent), (z, flow.to_data, reference.to_data)):
        out, log_det = function(rows)
        want, want_log_det = expected(flow, rows)
        size = np.maximum(row_size(want), row_size(rows))
        assert_close(out, want, case.ulps, dtype, scale=size)
        assert_close(log_det, want_log_det, case.ulps, dtype, scale=size[:, 0])
    assert_close(flow.log_prob(x), reference.log_prob(flow, x), case.ulps, dtype, scale=row_size(x)[:, 0])


@each_case
def test_float32_agrees_with_float64(case: Case, backend: str) -> None:
    narrow, wide = built(case, backend, "float32"), built(case, backend, "float64")
    x = points(case, 200, narrow)
    for name in ("to_latent", "to_data"):
        out, log_det = getattr(narrow, name)(x)
        want, want_log_det = getattr(wide, name)(x.astype(np.float64))
        size = np.maximum(row_size(want), row_size(x))
        assert_close(out, want, case.ulps, "float32", scale=size)
        assert_close(log_det, want_log_det, case.ulps, "float32", scale=size[:, 0])
    assert_close(narrow.log_prob(x), wide.log_prob(x.astype(np.float64)), case.ulps, "float32", scale=row_size(x)[:, 0])


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed; it is held against NumPy above")
@each_case_of_two_backends
@both_dtypes
def test_backends_agree(case: Case, dtype: str) -> None:
    one, two = (built(case, backend, dtype) for backend in ("cpp", "numba"))
    assert_same_bits(one.params, two.params)
    x = points(case, 200, one)
    for function in ("to_latent", "to_data"):
        a, b = getattr(one, function)(x), getattr(two, function)(x)
        size = np.maximum(row_size(a[0]), row_size(x))
        assert_close(a[0], b[0], case.ulps, dtype, scale=size)
        assert_close(a[1], b[1], case.ulps, dtype, scale=size[:, 0])
    assert_close(one.sample(200, rng=1), two.sample(200, rng=1), case.ulps, dtype, scale=row_size(x))
    loss, weight, grad = one.loss_and_grad(x)
    loss2, weight2, grad2 = two.loss_and_grad(x)
    assert weight == weight2
    assert_close(loss / 200, loss2 / 200, case.ulps, dtype)
    # A norm of sums over the rows hides what one row rounds: five times the worst that was seen, of splines.
    allowed = min(case.ulps, 256) * np.finfo(dtype).eps
    assert np.linalg.norm(grad - grad2) <= allowed * max(1.0, np.linalg.norm(grad2))


@pytest.mark.skipif(
    len(BACKENDS) < 2, reason="one backend is installed; its own messages are tested in test_validation"
)
@pytest.mark.parametrize(
    ("argument", "arguments"),
    [
        ("out", {"out": (5, 4)}),
        ("log_det", {"log_det": (4,)}),
        ("x", {"x": (5, 4)}),
        ("first", {"first": -1}),
        ("last", {"last": 99}),
    ],
)
def test_backends_raise_the_same_kind_of_error_and_name_the_same_argument(
    argument: str, arguments: dict[str, Any]
) -> None:
    kinds = []
    for backend in BACKENDS:
        flow = built(CASES[0], backend, "float64")
        values = {"x": (5, 3), "out": (5, 3), "log_det": (5,), **arguments}
        arrays = {name: np.zeros(value) if isinstance(value, tuple) else value for name, value in values.items()}
        with pytest.raises(Exception, match=argument) as caught:
            engine_evaluate(flow, False, arrays.pop("x"), **arrays)
        kinds.append(caught.type)
    assert set(kinds) == {ValueError}


@each_backend
@both_dtypes
@inside("dim", [1, 2, 3, 4, 5, 9])
def test_draws_are_the_documented_ones(backend: str, dtype: str, dim: int) -> None:
    flow = ps.Flow(ps.StandardNormal(dim), [], dtype=dtype, rng=0, backend=backend)
    for seed, context_row, first in (
        (0, 0, 0),
        (12345678901234567890, 0, 0),
        (7, 3, 2**32 - 70),
        (8, 2**40 - 1, 2**56 - 130),
    ):
        out, log_prob = np.empty((130, dim), dtype), np.empty(130, dtype)
        engine_sample(flow, seed, out, log_prob, context_row=context_row, first=first)
        want = reference.normals(seed, first, 130, dim, context_row)
        # Four ulps at the size of the largest: a logarithm, a root, a cosine and a product.
        assert_close(out, want, 8, dtype, scale=4.0)
        assert_close(log_prob, reference.log_prob(flow, out), 8, dtype)


@each_backend
def test_the_order_of_an_epoch_is_the_documented_permutation(backend: str) -> None:
    flow = built(CASES[0], backend, "float32")
    for seed, epoch, n in (
        (0, 0, 1),
        (0, 1, 2),
        (1, 3, 3),
        (5, 2, 17),
        (4, 1, 64),
        (4, 7, 65),
        (6, 6, 256),
        (9, 2**40 + 3, 1000),
        (2**63 + 11, 1, 1025),
    ):
        want = reference.permutation(seed, epoch, n)
        assert sorted(want) == list(range(n))
        assert (row_order(flow, seed, epoch, n, 0, n) == want).all()
        assert (row_order(flow, seed, epoch, n, n // 3, n - n // 3) == want[n // 3 :]).all()
        chosen = np.arange(n)[::-2].copy()
        assert (row_order(flow, seed, epoch, n, chosen) == want[chosen]).all()


def _instruction_sets() -> tuple[str, ...]:
    if "cpp" not in BACKENDS:
        return ()
    from penstock import _core

    return tuple(_core.isas())


ISAS = _instruction_sets()


@pytest.fixture(scope="module")
def hashes() -> dict[str, Any]:
    """What ``worker.py`` prints on each instruction set."""
    code = f"import runpy; runpy.run_path({str(HERE / 'worker.py')!r}, run_name='__main__')"
    return {isa: python_json(code, env={"PENSTOCK_ISA": isa, "PENSTOCK_BACKEND": "cpp"}) for isa in ISAS}


@pytest.mark.skipif("cpp" not in BACKENDS, reason="instruction sets are a choice of the compiled backend")
def test_instruction_sets_give_the_same_bits(hashes: dict[str, Any]) -> None:
    if len(ISAS) == 1:
        pytest.skip(
            f"{ISAS[0]} is alone here: a build with PENSTOCK_ISAS=all has fma128 to compare it with, see CONTRIBUTING.md"
        )
    for isa, result in hashes.items():
        assert result["isa"] == isa
        assert result["hashes"].keys() == hashes[ISAS[0]]["hashes"].keys()
        assert len(result["hashes"]) > 50
        different = [key for key, value in result["hashes"].items() if value != hashes[ISAS[0]]["hashes"][key]]
        assert not different, f"{isa} differs from {ISAS[0]} in {different}"
