"""Laws of sample weights in ``fit``: their unit means nothing, and rows of weight 0 are not there."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, rng
from helpers import assert_same_bits, each_backend, each_dtype
from penstock.training.evaluation import differs, finite_on
from penstock.training.rows import Part, Rows

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
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 50, "rng": 0, "standardize": how, "negative_weights": True}
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


@pytest.mark.filterwarnings("ignore:by their weights")
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


@pytest.mark.filterwarnings("ignore:by their weights")
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


@pytest.mark.filterwarnings("ignore:by their weights")
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


@pytest.mark.parametrize(
    "order", [None, lambda first, last: np.arange(3999 - first, 3999 - last, -1)], ids=["table", "split"]
)
def test_whether_rows_are_learnt_by_heart_is_told_by_those_that_count(order: Any) -> None:
    flow = ps.Flow(ps.StandardNormal(2), [SMALL], dtype="float64", rng=0)
    flow.params = 0 * flow.params
    runner, packed = flow._in_double()
    x = rng("by heart").standard_normal((4000, 2))
    held_out = Part(Rows(x[:1000].copy()), 0, 1000)

    def told(x: Array, weight: Array | None) -> bool:
        return differs(runner, packed, Part(Rows(x, None, weight), 0, len(x), order), held_out)

    counts = np.arange(4000) % 8 == 0
    near = np.where(counts[:, None], 0.8 * x, x)  # as if learnt
    assert not told(x, None)
    assert not told(x, 1.0 * counts)
    assert told(near, 1e-300 * counts)
    assert told(near, np.where(counts, 60.0, 1.0))
    assert not told(near, None)
    for value in (np.nan, 0.0):  # what rows of weight 0 hold
        assert told(np.where(counts[:, None], 0.8 * x, value), 1.0 * counts)
        assert not told(np.where(counts[:, None], x, value), 1.0 * counts)
        assert finite_on(
            runner, packed, Part(Rows(np.where(counts[:, None], x, value), None, 1.0 * counts), 0, 4000, order)
        )
    assert not told(near, 0.0 * counts)


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


@each_backend
def test_weights_over_a_hundred_decades_count_by_their_ratios(backend: str) -> None:
    """Rows that weigh nothing beside others are as good as absent, wherever they lie, and no unit makes a difference."""
    source = rng("decades")
    x, weight = source.standard_normal((2000, 2)), source.uniform(0.5, 1, 2000)
    weight[::2] = 10.0 ** source.uniform(-99, -20, 1000)
    x[::2] = source.normal(8, 3, (1000, 2))
    arguments: dict[str, Any] = {"epochs": 5, "batch_size": 200, "rng": 0, "learning_rate": 1e-2}
    start = ps.nsf(2, layers=2, hidden=(8,), rng=0, backend=backend)
    flow = start.copy().fit(x, sample_weight=weight, **arguments)
    alone = start.copy().fit(x, sample_weight=np.where(weight < 1e-15, 0, weight), **arguments)
    np.testing.assert_allclose(flow.loc, np.average(x, axis=0, weights=weight), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(flow.loc, alone.loc, rtol=1e-12, atol=1e-14)
    # Without them the batches weigh alike, and in float32 rounding alone differs.
    np.testing.assert_allclose(flow.history.train_loss, alone.history.train_loss, rtol=1e-3)
    np.testing.assert_allclose(flow.history.validation_loss, alone.history.validation_loss, rtol=1e-3)
    np.testing.assert_allclose(flow.params, alone.params, atol=2e-3)
    assert flow.score(x, sample_weight=weight) == pytest.approx(alone.score(x, sample_weight=weight), rel=1e-3)
    expected = np.average(flow.log_prob(x).astype(np.float64), weights=weight)
    for exponent in (-900, -300, 0, 300, 900):
        scaled = np.ldexp(weight, exponent)
        assert flow.score(x, sample_weight=scaled) == pytest.approx(expected, rel=1e-6)
        loss, mass, grad = flow.loss_and_grad(x, sample_weight=scaled)
        one, unit, other = flow.loss_and_grad(x, sample_weight=weight)
        assert (loss / mass, -one / unit) == pytest.approx((one / unit, expected), rel=1e-6)
        np.testing.assert_allclose(grad / mass, other / unit, rtol=1e-6, atol=1e-9)


def test_a_later_fit_on_rows_of_uneven_weight_is_on_the_same_rows() -> None:
    """Where the columns of a refit lie is measured with the weights, as it was at first."""
    source = rng("uneven refit")
    x, weight = source.standard_normal((4000, 2)), np.ones(4000)
    x[::2] = source.normal(20, 5, (2000, 2))
    weight[::2] = 10.0 ** source.uniform(-50, -20, 2000)
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0)
    arguments: dict[str, Any] = {"epochs": 1, "batch_size": 500, "rng": 0, "validation": 0}
    flow.fit(x, sample_weight=weight, **arguments)
    flow.copy().fit(x, sample_weight=weight, **arguments)  # silent
    with pytest.warns(ps.RefitWarning, match="columns 0, 1 of X have moved"):
        flow.copy().fit(x, **arguments)
    with pytest.warns(ps.RefitWarning, match="columns 0, 1 of X have moved"):
        flow.copy().fit(x, sample_weight=weight[::-1].copy(), **arguments)


# -- how much weighted rows are worth -----------------------------------------------------------


def size(weight: Array) -> float:
    """The effective sample size."""
    w = weight / np.abs(weight).max()
    return float(w.sum() ** 2 / (w * w).sum())


def told_worth(flow: ps.Flow, x: Array, **arguments: Any) -> str:
    """The one warning of a fit, which points at this line."""
    with pytest.warns(ps.DataWarning, match="by their weights") as caught:
        flow.fit(x, **{"epochs": 2, "batch_size": 100, "rng": 0, **arguments})
    assert [(warning.category, warning.filename) for warning in caught] == [(ps.DataWarning, __file__)]
    return str(caught[0].message)


@pytest.mark.parametrize("unit", [1e-300, 1.0, 1e300])
def test_rows_that_their_weights_make_worth_little_are_told_once_a_fit(unit: float, tmp_path: Path) -> None:
    x, weight = gaussian(1500, "worth"), np.exp(rng("worth weights").normal(0, 2.2, 1500)) * unit
    start = ps.realnvp(3, layers=2, hidden=(8,), rng=0)
    own: dict[str, Any] = {"validation": x[:1000], "validation_weight": weight[:1000] / unit}
    for arguments, parts in (
        ({"validation": 0}, {"training": weight}),
        (own, {"training": weight, "validation": weight[:1000]}),
        ({**own, "validation_weight": None}, {"training": weight}),
    ):
        flow, message = start.copy(), ""
        for _ in range(2):  # a later fit says it, too
            message = told_worth(flow, x, sample_weight=weight, **arguments)
            assert re.findall(r"the (\d+) (\w+) rows are worth ([0-9.]+)", message) == [
                (str(len(part)), name, f"{size(part):.3g}") for name, part in parts.items()
            ]
        assert ("chance chooses the epoch" in message) == ("validation" in parts)
    drawn = told_worth(start.copy(), x, sample_weight=weight, validation=0.3)
    assert "1050 training rows" in drawn
    assert "450 validation rows" in drawn

    def stop(state: ps.TrainingState) -> None:
        raise KeyError

    with pytest.raises(KeyError), pytest.warns(ps.DataWarning, match="by their weights"):
        start.copy().fit(x, sample_weight=weight, epochs=2, rng=0, callbacks=stop, checkpoint=tmp_path / "m")
    resumed = told_worth(start.copy(), x, sample_weight=weight, batch_size=None, checkpoint=tmp_path / "m")
    assert "1350 training rows" in resumed


def test_rows_that_are_worth_a_hundred_or_are_few_by_themselves_are_no_matter() -> None:
    start = ps.realnvp(3, layers=2, hidden=(8,), rng=0)
    arguments: dict[str, Any] = {"epochs": 2, "batch_size": 20, "rng": 0}
    x, weight = gaussian(3000, "worth enough"), np.zeros(3000)
    weight[:101] = 1.0
    start.copy().fit(x, sample_weight=weight, validation=0, **arguments)
    start.copy().fit(x, sample_weight=weight, validation=x, validation_weight=weight, **arguments)
    weight[99:] = 1e-9
    told_worth(start.copy(), x, sample_weight=weight, validation=x, validation_weight=weight[::-1] + 1)
    for rows in (40, 90):
        few = rng("few rows").uniform(0.5, 1.5, rows)
        start.copy().fit(x[:rows], sample_weight=few, **arguments)
    # Squares of weights that vanish beside those of the validation part.
    weight = np.full(3000, 1e-200)
    start.copy().fit(x, sample_weight=weight, validation=x, validation_weight=np.ones(3000), **arguments)


@pytest.mark.filterwarnings("ignore:no epoch validated better")
def test_the_size_of_a_part_does_not_vanish_beside_the_largest_weight() -> None:
    from penstock.training.rows import Part, Rows

    weight = np.concatenate([np.full(500, 1e-250), [1.0], np.full(10, -3e-250)])
    rows = Rows(gaussian(511, "beside"), None, weight)
    assert Part(rows, 0, 500).weight_sums()[1] == pytest.approx(500)
    assert Part(rows, 480, 500).weight_sums()[1] == pytest.approx(20)
    assert Part(rows, 490, 500).weight_sums()[0] == pytest.approx(10e-250 / 2)  # scaled: the largest is 1/2
    assert rows.weight_sums == pytest.approx((0.5, 1.0))


# -- negative weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sample_weight", "validation_weight"])
def test_negative_weights_are_counted_and_refused_unless_they_are_meant(name: str) -> None:
    x, weight = gaussian(200, "negative"), np.ones(200)
    weight[[5, 77, 100]] = -0.25, -1e-30, -2
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0)
    other = "validation_weight" if name == "sample_weight" else "sample_weight"
    arguments: dict[str, Any] = {"validation": x, name: weight, other: np.ones(200), "epochs": 1, "batch_size": 50}
    words = f"{name} must be at least 0, but 3 of the 200 weights are negative, the first -0.25 in row 5; negative_weights=True"
    for options in ({}, {"negative_weights": False}):
        with pytest.raises(ValueError, match=re.escape(words)):
            flow.fit(x, **arguments, **options)
    assert not flow.fitted
    flow.copy().fit(x, **arguments, negative_weights=True)
    for wrong in (None, "yes", 1):
        with pytest.raises(TypeError, match="negative_weights must be True or False"):
            flow.fit(x, **arguments, negative_weights=wrong)
    arguments[name] = np.where(np.arange(200) < 60, 1.0, -1.0)
    with pytest.raises(ValueError, match=f"the sum of {name} must be positive, got -80"):
        flow.fit(x, **arguments, negative_weights=True)
    plain = flow.fit(x, epochs=1, rng=0)
    with pytest.raises(ValueError, match="the sum of sample_weight must be positive"):
        plain.score(x, sample_weight=arguments[name])
    assert plain.loss_and_grad(x, sample_weight=arguments[name])[1] == -80  # sums of a batch may be of any sign


@each_backend
def test_rows_of_negative_weight_cancel_others(backend: str) -> None:
    """Of a mixture, less as many draws of one of its parts, the other part is left."""
    source = rng("cancel")
    kept, gone, minus = source.normal(-1, 0.5, 6000), source.normal(1, 0.5, 6000), source.normal(1, 0.5, 6000)
    x, weight = np.concatenate([kept, gone, minus])[:, None], np.repeat([1.0, 1.0, -1.0], 6000)
    flow = ps.Flow(ps.StandardNormal(1), [ps.Elementwise()], rng=0, backend=backend)
    flow.fit(
        x,
        sample_weight=weight,
        negative_weights=True,
        epochs=60,
        batch_size=1000,
        learning_rate=2e-2,
        validation=0,
        rng=0,
    )
    draws = flow.sample(20_000, rng=0)
    assert abs(draws.mean() + 1) < 0.05
    assert abs(draws.std() - 0.5) < 0.05


# -- all at once ----------------------------------------------------------------------------------


def weighted_rows(n: int, key: str) -> tuple[Array, Array, Array, Array]:
    """Rows of a target that depends on a context, or of a proposal with weights; for both, log p of the target.

    The target: a positive column x0 = exp(c + z0 / 2), and x1 within (0, 1), the logistic function of c z0 + z1. The
    proposal draws seven rows of ten with z0 and z1 of other centres, so far out that weights spread over decades.
    """
    source = rng(key)
    c = source.uniform(-1, 1, n)
    z = source.standard_normal((n, 2))
    other = source.random(n) < 0.7
    z[other] = source.normal(2.5, 2.0, (int(other.sum()), 2))
    log_p = -0.5 * (z * z).sum(axis=1)
    log_other = -0.5 * (((z - 2.5) / 2) ** 2).sum(axis=1) - 2 * math.log(2)
    weight = 1 / (0.3 + 0.7 * np.exp(log_other - log_p))
    u = c * z[:, 0] + z[:, 1]
    x = np.stack([np.exp(c + z[:, 0] / 2), 1 / (1 + np.exp(-u))], axis=1)
    log_p = log_p - math.log(2 * math.pi) - np.log(x[:, 0] / 2) - np.log(x[:, 1] * (1 - x[:, 1]))
    return x, c[:, None], weight, log_p


def test_weights_context_supports_and_early_stopping_go_together() -> None:
    x, c, weight, log_p = weighted_rows(20_000, "together")
    assert weight.max() / weight.min() > 1e9
    assert size(weight) > 5000
    start = ps.nsf_ar(
        2, context_dim=1, layers=2, hidden=(32, 32), support=["positive", ps.interval(0, 1, map="logit")], rng=0,
        backend=BACKENDS[0],
    )  # fmt: skip
    arguments: dict[str, Any] = {"patience": 4, "schedule": "plateau", "epochs": 60, "batch_size": 500, "rng": 0}
    own: dict[str, Any] = {"validation": x[:5000], "validation_context": c[:5000]}
    flow = start.copy().fit(
        x[5000:], c[5000:], sample_weight=weight[5000:], validation_weight=1e50 * weight[:5000], **own, **arguments
    )
    assert flow.history.stopped == "patience"
    assert flow.history.best_loss == pytest.approx(
        -flow.score(x[:5000], c[:5000], sample_weight=weight[:5000]), rel=1e-5
    )
    unweighted = start.copy().fit(x[5000:], c[5000:], **own, **arguments)
    # The target itself, by the same weights.
    lost = [
        np.average(log_p[:5000] - model.log_prob(x[:5000], c[:5000]), weights=weight[:5000])
        for model in (flow, unweighted)
    ]
    assert lost[0] < 0.06
    assert lost[1] > 0.3
