"""Parts of a training step: slices of a batch that are computed apart make the step that a whole batch makes, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from helpers import each_backend, each_dtype
from penstock.training.ranks import Sums, combined, nodes_of, summed

SIZES = [1, 64, 65, 320, 1000, 1250, 4096, 4097, 6912, 16_384, 20_000]


def trainer(flow: Any) -> Any:
    return flow._runner().trainer(
        flow.params.copy(), flow._snapshot.buffers, betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.01, clip_norm=1.0,
        frozen=None,
    )  # fmt: skip


@each_backend
@each_dtype
def test_slices_computed_apart_make_the_step_of_the_whole_batch(backend: str, dtype: str) -> None:
    flow = ps.realnvp(3, context_dim=2, layers=2, hidden=(8,), rng=0, dtype=dtype, backend=backend)
    runner = flow._runner()
    rng = np.random.default_rng(1)
    x, context = rng.normal(size=(21_000, 3)), rng.normal(size=(21_000, 2))
    weight = np.where(rng.uniform(size=21_000) < 0.2, 0.0, rng.uniform(1, 3, size=21_000))
    given = x, context, weight
    for size in SIZES:
        whole, apart = trainer(flow), trainer(flow)
        rate, loss, norm = np.array([1e-2]), np.zeros(1), np.zeros(1)
        assert whole.run(
            *given, weight_exponent=-2, weight_scale=0.7, seed=3, epoch=2, n_train=20_500, first_step=0, batch_size=size,
            learning_rates=rate, losses=loss, norms=norm,
        ) == 1  # fmt: skip
        rows = runner.row_order(3, 0, len(x), runner.row_order(3, 2, 20_500, range(size)))
        starts = runner.slices(size)
        n = len(starts) - 1
        assert starts[0] == 0
        assert starts[-1] == size
        losses, weights, found = np.zeros(n), np.zeros(n), []
        cuts = sorted({0, n, *rng.integers(0, n + 1, size=rng.integers(0, 5)).tolist()})
        for a, b in zip(cuts[:-1], cuts[1:], strict=True):
            nodes = apart.part(
                *given, weight_exponent=-2, index=rows[starts[a] : starts[b]], batch_size=size, slices=range(a, b),
                losses=losses, weights=weights,
            )  # fmt: skip
            found += zip(nodes_of(a, b), nodes.copy(), strict=True)
        with np.errstate(all="ignore"):  # what lies between the rows of a gradient is anything
            gradient = summed(found)
        told = apart.finish(gradient, float(combined(losses)), float(combined(weights)), size, 0.7, float(rate[0]))
        assert told == (True, loss[0], norm[0])
        one, other = (part.params(np.zeros_like(flow.params)) for part in (whole, apart))
        assert one.tobytes() == other.tobytes() != flow.params.tobytes()


@each_backend
def test_a_step_that_is_not_finite_or_weighs_nothing_changes_nothing(backend: str) -> None:
    flow = ps.realnvp(2, layers=1, hidden=(4,), rng=0, backend=backend)
    part = trainer(flow)
    gradient = np.zeros(part.n_gradient, np.float32)
    assert part.finish(gradient, np.inf, 1.0, 8, 1.0, 1e-3)[:2] == (False, np.inf)
    taken, loss, norm = part.finish(gradient, 1.0, 0.0, 8, 1.0, 1e-3)
    assert (taken, np.isnan(loss), norm) == (True, True, 0.0)
    gradient[0] = np.nan
    assert not part.finish(gradient, 1.0, 1.0, 8, 1.0, 1e-3)[0]
    assert part.step == 0
    assert part.params(np.zeros_like(flow.params)).tobytes() == flow.params.tobytes()


@each_backend
def test_parts_check_what_they_are_given(backend: str) -> None:
    flow = ps.realnvp(2, layers=1, hidden=(4,), rng=0, backend=backend)
    x = np.zeros((200, 2), np.float32)

    def part(index: Any, slices: range, size: int = 130, n: int = 3) -> Any:
        return trainer(flow).part(
            x, None, None, weight_exponent=0, index=np.asarray(index), batch_size=size, slices=slices, losses=np.zeros(n),
            weights=np.zeros(n),
        )  # fmt: skip

    assert len(part(np.arange(64, 130), range(1, 3))) == 2
    assert len(part(np.arange(130), range(3))) == 2
    assert len(part(np.arange(0), range(2, 2))) == 0
    every = np.arange(130)
    for wrong in (
        lambda: part(every, range(4)),
        lambda: part(every[:-1], range(3)),
        lambda: part(every + 71, range(3)),
        lambda: part(every - 1, range(3)),
        lambda: part(every, range(3), n=2),
        lambda: part(every[:0], range(0), 0, 0),
        lambda: part(every.astype(np.int32), range(3)),
    ):
        with pytest.raises((ValueError, TypeError)):
            wrong()


def test_a_sum_goes_by_the_tree_however_slices_are_dealt() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 65):
        values = rng.normal(size=n)
        whole = combined(values.copy())
        for _ in range(20):
            cuts = sorted({0, n, *rng.integers(0, n + 1, size=rng.integers(0, 6)).tolist()})
            found = []
            for a, b in zip(cuts[:-1], cuts[1:], strict=True):
                at = a
                for size in nodes_of(a, b):
                    found.append((size, combined(values[at : at + size].copy()[:, None])))
                    at += size
                assert at == b
                assert len(nodes_of(a, b)) <= 12
            assert summed(found)[0] == whole


def test_one_rank_sends_nothing() -> None:
    class Alone:
        rank, size, comm = 0, 1, None

    nodes = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert Sums(Alone(), 2, np.float64, lambda rank: range(3)).of(nodes).tolist() == [4.0, 6.0]  # type: ignore[arg-type]
