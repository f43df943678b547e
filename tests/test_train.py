"""Laws of training: it learns what it can represent, keeps the best, stops when told, repeats itself to the bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import BY_NAME, built, fresh, points, rng
from helpers import assert_same_bits, each_backend, each_dtype
from penstock import _validate
from penstock.training.schedule import Schedule

Array = np.ndarray[Any, Any]

CASE = BY_NAME["mixed_layers"]
SMALL = ps.Coupling(ps.Affine(), ps.MLP((8,)))

# -- what is learnt -----------------------------------------------------------------------------


def gaussian(rows: int, key: str) -> tuple[Array, Array]:
    """Rows of a correlated Gaussian in 4-D, far from the origin, and their log-density."""
    mixing = rng("mixing").standard_normal((4, 4)) * 0.6 + 2 * np.eye(4)
    mean = np.array([100.0, -3.0, 0.0, 7.0])
    u = rng("gaussian", key).standard_normal((rows, 4))
    log_det = np.linalg.slogdet(mixing)[1]
    return u @ mixing.T + mean, -0.5 * (u**2).sum(axis=1) - 2 * math.log(2 * math.pi) - log_det


@each_backend
@each_dtype
def test_a_known_gaussian_is_learnt_to_a_hundredth_of_a_nat(backend: str, dtype: str) -> None:
    # Additive couplings with linear conditioners are triangular matrices: together with scales they hold any Gaussian.
    layers: list[Any] = []
    for _ in range(2):
        splits = ("half", "half_swapped", "alternating", "alternating_swapped")
        layers += [ps.Coupling(ps.Additive(), ps.MLP(()), split=split) for split in splits]
        layers.append(ps.Elementwise(ps.Affine()))
    flow = ps.Flow(ps.StandardNormal(4), layers, dtype=dtype, rng=0, backend=backend)
    x, _ = gaussian(40_000, "training")
    flow.fit(x, epochs=30, batch_size=1000, learning_rate=2e-2, rng=0)
    fresh_rows, log_p = gaussian(100_000, "fresh")
    divergence = float(np.mean(log_p - flow.log_prob(fresh_rows)))
    # Its standard error is below 1e-3 once the densities are this close; it cannot be far below zero.
    assert -2e-3 < divergence < 1e-2


@each_backend
def test_defaults_learn_a_curved_density(backend: str) -> None:
    source = rng("banana")

    def banana(rows: int) -> tuple[Array, Array]:
        u = source.standard_normal((rows, 2))
        x = np.stack([u[:, 0], 0.5 * u[:, 1] + u[:, 0] ** 2], 1)
        return x, -0.5 * (u**2).sum(axis=1) - math.log(2 * math.pi) - math.log(0.5)

    flow = ps.realnvp(2, layers=4, hidden=(32, 32), rng=0, backend=backend).fit(banana(5000)[0], epochs=60, rng=0)
    x, log_p = banana(50_000)
    # A Gaussian of the same moments is 1.0 nats away.
    assert np.mean(log_p - flow.log_prob(x)) < 0.1


@each_backend
def test_one_step_of_fit_is_adam_on_the_documented_rows(backend: str) -> None:
    """The first batch, its gradient, and Adam written out in NumPy."""
    flow = fresh(CASE, backend, "float64")
    x = points(CASE, 300, flow)
    weight = rng("one step").uniform(0.1, 2, 300)
    n_train, batch, rate = 270, 100, 1e-3
    before, trained = flow.params.copy(), flow.copy()
    trained.fit(
        x, sample_weight=weight, validation=0.1, epochs=1, batch_size=batch, learning_rate=rate,
        schedule="constant", warmup=0, clip_norm=0.5, weight_decay=0.1, rng=3,
    )  # fmt: skip
    seed = _validate.seed(3)
    split, order = reference.permutation(seed, 0, 300), reference.permutation(seed, 1, n_train)
    scale = n_train / weight[split[:n_train]].sum()
    params, m, v = before.copy(), np.zeros(flow.n_params), np.zeros(flow.n_params)
    decay = np.zeros(flow.n_params)
    for tensor in flow._plan.tensors:
        if tensor.role == "weight":
            assert len(tensor.shape) == 2
            assert "weight" in tensor.name
            decay[tensor.offset : tensor.offset + tensor.size] = 0.1
    assert 0 < (decay > 0).sum() < flow.n_params
    probe = flow.copy()
    candidates = []
    for step in range(n_train // batch):
        rows = split[order[step * batch : (step + 1) * batch]]
        probe.params = params
        loss, total, grad = probe.loss_and_grad(x[rows], sample_weight=weight[rows])
        grad = grad * scale / batch
        grad = grad * min(1.0, 0.5 / np.linalg.norm(grad))
        m, v = 0.9 * m + 0.1 * grad, 0.999 * v + 0.001 * grad**2
        params = params * (1 - rate * decay)
        params = params - rate * (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        candidates.append(loss / total)
    # Validated after the epoch: the parameters of its end are the only candidates.
    np.testing.assert_allclose(trained.params, params, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(trained.history.train_loss, [np.mean(candidates)], rtol=1e-10)
    held_out = split[n_train:]
    probe.params = params
    expected = -(weight[held_out] * probe.log_prob(x[held_out])).sum() / weight[held_out].sum()
    np.testing.assert_allclose(trained.history.validation_loss, [expected], rtol=1e-10)


@each_backend
@each_dtype
@pytest.mark.parametrize("kind", [ps.Adam, ps.AdamW])
def test_an_optimiser_of_ones_own_is_adam_as_published(backend: str, dtype: str, kind: Any) -> None:
    flow = fresh(CASE, backend, dtype)
    optimiser = kind(learning_rate=0.01, betas=(0.8, 0.99), epsilon=1e-6, weight_decay=0.3)
    source = rng("adam")
    decay = np.zeros(flow.n_params)
    for tensor in flow._plan.tensors:
        decay[tensor.offset : tensor.offset + tensor.size] = 0.3 if tensor.role == "weight" else 0.0
    params = np.asarray(flow.params, np.float64)
    m, v = np.zeros(flow.n_params), np.zeros(flow.n_params)
    for step in range(1, 6):
        grad = source.standard_normal(flow.n_params)
        given = grad.copy()
        optimiser.step(flow, given)
        assert_same_bits(given, grad)
        if kind is ps.Adam:
            grad = grad + decay * params
        else:
            params = params * (1 - 0.01 * decay)
        m, v = 0.8 * m + 0.2 * grad, 0.99 * v + 0.01 * grad**2
        params = params - 0.01 * (m / (1 - 0.8**step)) / (np.sqrt(v / (1 - 0.99**step)) + 1e-6)
        params = flow._plan.clear_masked(params)  # whatever a gradient says of them
    np.testing.assert_allclose(
        flow.params, params, rtol=0, atol=100 * np.finfo(dtype).eps * max(1, np.abs(params).max())
    )


@each_backend
@pytest.mark.parametrize("kind", [ps.Adam, ps.AdamW])
def test_a_step_of_ones_own_that_fails_changes_nothing(backend: str, kind: Any) -> None:
    flows = [fresh(CASE, backend, "float32") for _ in range(2)]
    optimisers = [kind(learning_rate=0.01) for _ in range(2)]
    grads = rng("atomic").standard_normal((3, flows[0].n_params))
    for grad in grads:
        before = flows[0].params.copy()
        optimisers[0].learning_rate = 1e39  # beyond float32
        with pytest.raises(ValueError, match=r"params.*was changed"):
            optimisers[0].step(flows[0], grad * 1e3)
        assert_same_bits(flows[0].params, before)
        optimisers[0].learning_rate = 0.01
        for flow, optimiser in zip(flows, optimisers, strict=True):
            optimiser.step(flow, grad)
        assert_same_bits(flows[0].params, flows[1].params)
    assert optimisers[0].steps == 3


@each_backend
def test_a_loop_of_ones_own_learns(backend: str) -> None:
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend=backend)
    x = rng("loop").normal(1.0, 0.3, (500, 2))
    optimiser = ps.Adam(learning_rate=0.05)
    first = flow.score(x)
    for _ in range(60):
        _, weight, grad = flow.loss_and_grad(x)
        optimiser.step(flow, grad / weight)
    assert flow.score(x) > first + 1


# -- the same bits ------------------------------------------------------------------------------


@each_backend
@each_dtype
def test_the_same_seed_gives_the_same_parameters_and_another_seed_does_not(backend: str, dtype: str) -> None:
    flow = built(CASE, backend, dtype)
    x = points(CASE, 400, flow)
    one, two, other = (flow.copy().fit(x, epochs=3, batch_size=70, rng=seed) for seed in (1, 1, 2))
    assert_same_bits(one.params, two.params)
    assert one.history.validation_loss == two.history.validation_loss
    assert not np.array_equal(one.params, other.params)


@each_backend
def test_how_the_table_lies_in_memory_changes_no_bit(backend: str, tmp_path: Path) -> None:
    start = CASE.build(dtype="float32", backend=backend)
    x = points(CASE, 400, built(CASE, backend, "float32"))
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    trained = start.copy().fit(x, epochs=2, batch_size=70, rng=1).params
    for same in (mapped, np.asfortranarray(x), x.astype(np.float64), x.astype(">f4"), np.repeat(x, 2, axis=0)[::2]):
        assert_same_bits(start.copy().fit(same, epochs=2, batch_size=70, rng=1).params, trained)


@each_backend
def test_callbacks_progress_and_checkpoints_change_no_bit(backend: str, tmp_path: Path) -> None:
    start = CASE.build(dtype="float32", backend=backend)
    x = points(CASE, 400, built(CASE, backend, "float32"))
    plain = start.copy().fit(x, epochs=3, batch_size=70, rng=1)
    seen: list[int] = []

    def watch(state: Any) -> None:
        seen.append(state.step)
        assert state.flow.sample(3).shape == (3, 6)

    busy = start.copy().fit(
        x, epochs=3, batch_size=70, rng=1, callbacks=[watch], progress=True, checkpoint=tmp_path / "c.safetensors"
    )
    assert_same_bits(busy.params, plain.params)
    assert seen == [5, 10, 15]
    stored = ps.load(tmp_path / "c.safetensors")
    assert_same_bits(stored.params, plain.params)
    assert stored.history.best_epoch == plain.history.best_epoch
    assert stored.history.validation_loss == plain.history.validation_loss[: len(stored.history)]


@each_backend
@pytest.mark.parametrize("n", [1, 2, 3, 5, 64, 100])
def test_an_epoch_visits_every_training_row_once(backend: str, n: int) -> None:
    module = built(CASE, backend, "float32")._backend
    seen = set()
    for epoch in range(4):
        out = np.full(n, -1, np.int64)
        module.row_order(12345, epoch, n, 0, out)
        assert sorted(out) == list(range(n))
        seen.add(out.tobytes())
    assert n < 5 or len(seen) == 4


# -- what is kept, and when it ends -------------------------------------------------------------


@each_backend
def test_the_parameters_that_validate_best_are_kept(backend: str) -> None:
    flow = fresh(CASE, backend, "float64")
    x = points(CASE, 200, flow)
    own = points(CASE, 50, flow, "validation")
    snapshots: list[Array] = []

    def keep(state: Any) -> None:
        snapshots.append(state.flow.params.copy())

    # A rate far too high, so that the last epoch is not the best one.
    flow.fit(x, validation=own, epochs=12, batch_size=50, learning_rate=0.1, schedule="constant", callbacks=keep, rng=0)
    history = flow.history
    best = int(np.argmin(history.validation_loss))
    assert best < 11, "the last epoch was the best: the test shows nothing"
    assert history.best_epoch == best + 1
    assert_same_bits(flow.params, snapshots[best])
    np.testing.assert_allclose(-flow.score(own), history.validation_loss[best], rtol=1e-12)


@each_backend
def test_losses_are_in_the_units_of_the_data(backend: str) -> None:
    x = 1000 * rng("units").standard_normal((500, 3)) + 5e4
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, backend=backend).fit(x, validation=x, epochs=2, batch_size=100)
    np.testing.assert_allclose(min(flow.history.validation_loss), -flow.score(x), rtol=1e-6)
    # Three normals of width 1000.
    assert abs(flow.history.validation_loss[-1] - 3 * (math.log(1000) + 0.5 * math.log(2 * math.pi * math.e))) < 0.3


@each_backend
def test_a_callback_that_returns_true_stops(backend: str) -> None:
    flow = fresh(CASE, backend, "float32")
    flow.fit(points(CASE, 200, flow), epochs=50, batch_size=50, callbacks=lambda state: state.epoch == 3)
    assert flow.history.epoch == [1, 2, 3]
    assert flow.history.stopped == "callback"


@each_backend
def test_a_plateau_stops_when_its_patience_is_out(backend: str) -> None:
    flow = fresh(CASE, backend, "float32")
    x = points(CASE, 120, flow)
    flow.fit(x, epochs=500, batch_size=20, learning_rate=0.03, schedule="plateau", patience=4, rng=0)
    history = flow.history
    assert history.stopped == "patience"
    assert len(history) == history.best_epoch + 4
    assert history.learning_rate[-1] < 0.03


@each_backend
def test_a_cosine_ends_at_zero_and_a_warm_up_rises(backend: str) -> None:
    flow = fresh(CASE, backend, "float32")
    x = points(CASE, 200, flow)
    flow.fit(x, epochs=20, batch_size=90, learning_rate=0.01, schedule="cosine", warmup=10, weight_decay=0)
    rates = flow.history.learning_rate
    # Two steps an epoch: after five epochs the warm-up is over.
    assert all(np.diff(rates[:5]) > 0)
    assert all(np.diff(rates[5:]) < 0)
    assert rates[-1] < 2e-4
    assert max(rates) <= 0.01
    constant = flow.copy().fit(
        x, validation=0, epochs=3, batch_size=100, learning_rate=0.01, schedule="constant", warmup=0
    )
    assert constant.history.learning_rate == [0.01] * 3


def test_one_cycle_rises_and_falls_like_a_cosine_over_the_whole_run() -> None:
    rates = Schedule("onecycle", 0.5, warmup=40, n_steps=100, patience=None).rates
    every = rates(0, 100)
    low = 0.5 / 25
    # A quarter of the way up and down a half cosine is (1 - 1/sqrt 2) / 2.
    quarter = 0.5 * (1 - math.sqrt(0.5))
    for step, expected in ((0, low), (10, low + (0.5 - low) * quarter), (20, (low + 0.5) / 2), (40, 0.5), (70, 0.25)):
        np.testing.assert_allclose(every[step], expected, rtol=1e-12)
    np.testing.assert_allclose(every[55], 0.5 * (1 - quarter), rtol=1e-12)
    assert (np.diff(every[:41]) > 0).all()
    assert (np.diff(every[40:]) < 0).all()
    assert 0 < every[99] < 5e-4
    assert_same_bits(np.concatenate([rates(0, 7), rates(7, 93)]), every)
    assert Schedule("onecycle", 0.5, warmup=0, n_steps=100, patience=None).rates(0, 1)[0] == 0.5


@each_backend
def test_one_cycle_warms_up_over_three_tenths_unless_told(backend: str) -> None:
    start = fresh(CASE, backend, "float32")
    x = points(CASE, 400, start)
    for given, top in (({}, 6), ({"warmup": 4}, 2), ({"warmup": 0.5}, 10)):
        flow = start.copy().fit(x, epochs=20, batch_size=180, learning_rate=0.01, schedule="onecycle", **given)
        assert flow.history.stopped == "completed"
        rates = np.array(flow.history.learning_rate)  # of the last of two steps an epoch
        assert int(rates.argmax()) in (top - 1, top)
        assert rates[-1] < 1e-4


@each_backend
@pytest.mark.parametrize("schedule", ["cosine", "onecycle"])
def test_what_falls_over_the_whole_run_takes_no_patience(backend: str, schedule: str) -> None:
    flow = fresh(CASE, backend, "float32")
    with pytest.raises(ValueError, match=f'patience.*schedule="{schedule}"'):
        flow.fit(points(CASE, 200, flow), schedule=schedule, patience=3)


@each_backend
@pytest.mark.filterwarnings("ignore::penstock.RefitWarning")
def test_a_refit_goes_on_from_the_parameters_alone_and_a_reset_forgets(backend: str) -> None:
    start = ps.Flow(ps.StandardNormal(3), [ps.ActNorm(), SMALL, ps.ActNorm()], rng=0, backend=backend)
    first = rng("first fit").normal([5, 0, -2], [2, 1, 3], (400, 3))
    second = rng("second fit").normal([-5, 3, 0], [1, 4, 2], (400, 3))
    arguments: dict[str, Any] = {"epochs": 3, "batch_size": 50, "rng": 1}
    flow = start.copy().fit(first, **arguments)
    # Nothing of the first fit but what a file holds has a part in the second: no moments, no step count.
    stored = ps.from_bytes(flow.to_bytes(), backend=backend).fit(second, **arguments)
    trained = flow.copy()
    flow.fit(second, **arguments)
    assert_same_bits(flow.params, stored.params)
    assert len(flow.history) == 3
    assert flow.history.step[-1] == 3 * (360 // 50)
    # What was measured on the first rows stays, ActNorm included: these start far from its zero.
    trained.fit(second, **{**arguments, "learning_rate": 1e-12})
    assert np.abs(trained.to_latent(second)[0].mean(axis=0)).max() > 0.5
    # After a reset the second rows are as the first ones of a new flow.
    fresh_start = start.copy().reset(3).fit(second, **arguments)
    assert_same_bits(flow.reset(3).fit(second, **arguments).params, fresh_start.params)
    assert_same_bits(np.array(flow._snapshot.buffers), np.array(fresh_start._snapshot.buffers))


@each_backend
def test_the_first_fit_standardises_and_later_ones_keep_it(backend: str) -> None:
    flow = ps.realnvp(3, layers=2, hidden=(8,), rng=0, backend=backend)
    x = rng("standardise").normal([1e6, 0, -5], [200, 1e-3, 2], (500, 3))
    flow.fit(x, epochs=1, batch_size=100, validation=0)
    loc, scale = np.split(np.array(flow._snapshot.buffers), 2)
    np.testing.assert_allclose(loc, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale, x.std(axis=0), rtol=1e-9)
    with pytest.warns(UserWarning, match="columns 0, 1 of X have moved"):
        flow.fit(x * 2 + 1, epochs=1, batch_size=100)
    assert_same_bits(np.array(flow._snapshot.buffers), np.concatenate([loc, scale]))


@each_backend
def test_robust_standardisation_does_not_see_outliers(backend: str) -> None:
    x = rng("robust").standard_normal((1000, 2))
    x[:10] = 1e8
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend=backend).fit(x[10:], epochs=1, batch_size=100)
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend=backend)
    with pytest.warns(ps.OutlierWarning, match=r"column 0: 10 of 1000 rows of a sample.*column 1: 10 of 1000"):
        flow.fit(x, epochs=1, batch_size=100, standardize="robust", validation=0, clip_norm=1.0)
    loc, scale = np.split(np.array(flow._snapshot.buffers), 2)
    assert (np.abs(loc) < 0.2).all()
    assert (np.abs(scale - 1) < 0.2).all()


@each_backend
@each_dtype
def test_actnorm_starts_with_mean_zero_and_unit_variance(backend: str, dtype: str) -> None:
    layers = [ps.ActNorm(), ps.Coupling(ps.Affine(), ps.MLP((8,))), ps.ActNorm()]
    flow = ps.Flow(ps.StandardNormal(3), layers, dtype=dtype, rng=0, backend=backend)
    flow.params = 0.5 * rng("actnorm").standard_normal(flow.n_params)
    x = rng("actnorm rows").normal([5, 0, -2], [0.1, 3, 1], (2000, 3)).astype(dtype)
    z_before = flow.to_latent(x)[0]
    assert np.abs(z_before.mean(axis=0)).max() > 0.1
    # A rate so small that training moves nothing.
    flow.fit(x, epochs=1, batch_size=2000, validation=0, learning_rate=1e-12, standardize=False)
    z = flow.to_latent(x)[0].astype(np.float64)
    assert np.abs(z.mean(axis=0)).max() < 1e-5
    assert np.abs(z.std(axis=0) - 1).max() < 1e-5


@each_backend
def test_weight_decay_touches_matrices_and_nothing_else(backend: str) -> None:
    flow = fresh(CASE, backend, "float64")
    optimiser = ps.AdamW(learning_rate=0.1, weight_decay=0.5)
    before = {name: np.array(value) for name, value in dict(flow.named_params()).items()}
    optimiser.step(flow, np.zeros(flow.n_params))
    for name, value in dict(flow.named_params()).items():
        expected = before[name] * 0.95 if name.endswith("weight") else before[name]
        np.testing.assert_allclose(value, expected, rtol=1e-12)
