"""Laws of sample weights in ``fit``: their unit means nothing, and rows of weight 0 are not there."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import rng
from helpers import assert_same_bits, each_backend, each_dtype

Array = np.ndarray[Any, Any]

SMALL = ps.Coupling(ps.Affine(), ps.MLP((8,)))


def gaussian(rows: int, key: str, dim: int = 3) -> Array:
    return rng(key).standard_normal((rows, dim))


# -- weights ------------------------------------------------------------------------------------


@each_backend
@each_dtype
@pytest.mark.parametrize("how", [True, "robust"])
def test_the_unit_of_the_weights_changes_no_bit(backend: str, dtype: str, how: Any) -> None:
    start = ps.Flow(ps.StandardNormal(3), [ps.ActNorm(), SMALL], dtype=dtype, rng=0, backend=backend)
    x, weight = gaussian(400, "unit"), rng("unit weights").uniform(-0.1, 2, 400)
    own = {"validation": gaussian(100, "unit validation"), "validation_weight": weight[:100]}
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 50, "rng": 0, "standardize": how}
    for validation in ({"validation": 0.2}, own):
        plain = start.copy().fit(x, sample_weight=weight, **validation, **arguments)
        for exponent in (-1000, -160, -130, 90, 127, 1000):
            scaled = np.ldexp(weight, exponent)
            other = {"validation_weight": np.ldexp(weight[:100], 3 - exponent)} if validation is own else {}
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                flow = start.copy().fit(x, sample_weight=scaled, **(validation | other), **arguments)
            assert_same_bits(flow.params, plain.params)
            assert_same_bits(np.array(flow._snapshot.buffers), np.array(plain._snapshot.buffers))
            assert flow.history.validation_loss == plain.history.validation_loss
            assert flow.history.train_loss == plain.history.train_loss


@each_backend
@pytest.mark.parametrize("size", [1e-320, 1e-50, 1e37, 1e307])
def test_weights_of_any_size_give_the_same_fit(backend: str, size: float) -> None:
    start = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend=backend)
    x, weight = gaussian(400, "size", 2), rng("size weights").uniform(0.5, 1.5, 400)
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 50, "rng": 0}
    plain = start.copy().fit(x, sample_weight=weight, **arguments)
    flow = start.copy().fit(x, sample_weight=weight * size, **arguments)
    # A subnormal weight has few digits.
    np.testing.assert_allclose(flow.params, plain.params, atol=2e-2 if size < 1e-300 else 1e-4)
    equal = start.copy().fit(x, sample_weight=np.full(400, size), **arguments)
    none = start.copy().fit(x, **arguments)
    np.testing.assert_allclose(equal.params, none.params, atol=1e-5)


@pytest.mark.parametrize("unit", [1e-300, 1.0, 1e300])
def test_a_heavy_row_is_blamed_in_any_unit(unit: float) -> None:
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0)
    x, weight = gaussian(20_000, "heavy", 2), np.full(20_000, unit)
    weight[5] = 1e5 * unit
    x[5] = 900  # not so extreme that it is blamed
    with pytest.raises(ps.TrainingError, match="sample_weight above 10,000 times the mean"):
        flow.fit(
            x, sample_weight=weight, epochs=3, batch_size=20_000, learning_rate=1e20, warmup=0, schedule="constant",
            clip_norm=None, validation=0, standardize=False, rng=0,
        )  # fmt: skip


@each_backend
def test_batches_that_weigh_nothing_are_passed_over_cheaply(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend=backend)
    x, weight = rng("passed over").standard_normal((4000, 2)), np.zeros(4000)
    weight[::500] = 1.0
    calls = 0
    row_order = flow._backend.row_order

    def count(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        return row_order(*arguments)

    monkeypatch.setattr(flow._backend, "row_order", count)
    flow.fit(x, sample_weight=weight, validation=0, epochs=2, batch_size=100, rng=0)
    assert np.isfinite(flow.history.train_loss).all()
    # Eighty batches of a hundred rows.
    assert calls < 300


@each_backend
@pytest.mark.parametrize("how", [True, False, "robust"])
def test_what_rows_of_weight_zero_hold_changes_no_bit(backend: str, how: Any) -> None:
    start = ps.Flow(ps.StandardNormal(3), [ps.ActNorm(), SMALL, ps.ActNorm()], rng=0, backend=backend)
    x = rng("weightless").standard_normal((500, 3))
    weight = np.where(np.arange(500) % 5 < 2, 0.0, 1.5)
    own, own_weight = x[:50] + 0.1, weight[:50]
    trained = []
    for value in (0.5, np.nan, np.inf):
        x[weight == 0] = value
        own[own_weight == 0] = value
        for validation in ({"validation": 0.2}, {"validation": own, "validation_weight": own_weight}):
            flow = start.copy()
            flow.fit(x, sample_weight=weight, epochs=3, batch_size=50, rng=0, standardize=how, **validation)
            assert np.isfinite(flow.history.validation_loss).all()
            trained.append(flow)
    for i, flow in enumerate(trained):
        twin = trained[i % 2]
        assert_same_bits(flow.params, twin.params)
        assert_same_bits(np.array(flow._snapshot.buffers), np.array(twin._snapshot.buffers))


@each_backend
def test_weights_are_as_good_as_copies_of_rows(backend: str) -> None:
    """A density learnt from weighted rows is that of the table in which each row stands as often as it weighs."""
    source = rng("weights")
    x = np.concatenate([source.normal(-2, 0.5, (2000, 1)), source.normal(2, 0.5, (2000, 1))])
    weight = np.repeat([3.0, 0.0], 2000)
    flow = ps.Flow(ps.StandardNormal(1), [ps.Elementwise()], rng=0, backend=backend)
    flow.fit(x, sample_weight=weight, epochs=20, batch_size=500, learning_rate=1e-2, rng=0)
    draws = flow.sample(10_000, rng=0)
    assert abs(draws.mean() + 2) < 0.05
    assert abs(draws.std() - 0.5) < 0.05
