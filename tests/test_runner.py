"""The one door to the engine: what it asks of an engine, and what it makes of the answer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, CONDITIONAL, Case, bare, built, contexts, points
from helpers import assert_same_bits, each_backend, each_dtype, each_engine_case
from penstock.runner import Runner


class Recorder:
    """An engine of protocol 2 that keeps what it was asked and computes nothing."""

    externals = ()

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []

    def Engine(self, table: Any) -> Recorder:  # noqa: N802
        return self

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, arguments))


def test_a_log_density_and_its_gradient_are_one_call() -> None:
    flow, recorder = ps.realnvp(3, rng=0), Recorder()
    runner = Runner(flow._plan, recorder)
    runner.log_prob_and_grad("packed", np.zeros((5, 3)), None, contexts=False)
    assert [name for name, _ in recorder.calls] == ["vjp"]


@each_engine_case
@each_dtype
@pytest.mark.parametrize("rows", [0, 1, 65, 300])
def test_the_log_density_beside_a_gradient_has_the_bits_of_log_prob(
    case: Case, backend: str, dtype: str, rows: int
) -> None:
    flow = built(case, backend, dtype)
    x = points(case, rows, flow)
    log_prob, grad = flow.log_prob_and_grad(x)
    assert_same_bits(log_prob, flow.log_prob(x))
    assert_same_bits(grad, flow.log_prob_vjp(x, np.ones(rows, dtype))[0])


@each_backend
@each_dtype
@pytest.mark.parametrize("case", CONDITIONAL[:2], ids=lambda case: case.name)
def test_the_rows_of_an_index_are_those_rows(case: Case, backend: str, dtype: str) -> None:
    flow = bare(built(case, backend, dtype))
    x, c = points(case, 60, flow), contexts(case, 60, flow)
    runner = flow._runner()
    packed = flow._snapshot.pack(runner)
    for index in (np.arange(60)[::-1].copy(), np.array([3, 3, 59, 0]), np.array([7]), np.zeros(0, np.int64)):
        for given, own in ((c, c[index]), (c[0], c[0]), (c[:6], c[index // 10])):
            if len(index) == 0 and own.ndim == 2:
                own = c[:0]
            assert_same_bits(runner.log_prob(packed, x, given, index=index), runner.log_prob(packed, x[index], own))
    for wrong in ([60], [-1], [0, 5, 10**12]):
        with pytest.raises(ValueError, match="index"):
            runner.log_prob(packed, x, c, index=np.array(wrong))


@each_backend
def test_a_range_of_steps_is_a_part_of_the_flow(backend: str) -> None:
    flow = built(BY_NAME["mixed_layers"], backend, "float64")
    x = points(BY_NAME["mixed_layers"], 20, flow)
    runner = flow._runner()
    packed, last = flow._snapshot.pack(runner), flow._plan.n_steps
    middle, first_part = runner.transform(packed, False, x, first=3)
    z, second_part = runner.transform(packed, False, middle, last=3)
    whole, log_det = flow.to_latent(x)
    assert_same_bits(z, whole)
    np.testing.assert_allclose(first_part + second_part, log_det, rtol=1e-12)
    assert_same_bits(runner.transform(packed, False, x, first=0, last=last)[0], whole)


@each_backend
def test_the_order_of_rows_is_given_at_a_range_and_at_positions(backend: str) -> None:
    runner = built(BY_NAME["coupling"], backend, "float32")._runner()
    for n in (5, 64, 65, 1000):
        order = runner.row_order(7, 3, n, range(n))
        assert sorted(order) == list(range(n))
        assert_same_bits(runner.row_order(7, 3, n, range(2, n)), order[2:])
        assert_same_bits(runner.row_order(7, 3, n, order), order[order])
