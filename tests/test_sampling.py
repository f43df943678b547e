"""Numbers of draws: what is drawn in parts is what is drawn at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, bare, built, contexts
from helpers import assert_same_bits, each_backend


@each_backend
def test_draws_in_parts_are_those_of_one_call(backend: str) -> None:
    flow = built(BY_NAME["coupling"], backend, "float32")
    x, log_prob = flow.sample_and_log_prob(300, rng=4)
    for first, n in ((0, 300), (1, 70), (257, 43), (300, 0)):
        assert_same_bits(flow.sample(n, rng=4, first=first), x[first : first + n])
        part, density = flow.sample_and_log_prob(n, rng=4, first=first)
        assert_same_bits(part, x[first : first + n])
        assert_same_bits(density, log_prob[first : first + n])
    out = np.zeros((5, flow.dim), np.float32)
    flow.sample(5, rng=4, out=out, first=100)
    assert_same_bits(out, x[100:105])


@each_backend
def test_contexts_in_parts_are_those_of_one_call(backend: str) -> None:
    case = BY_NAME["coupling_given"]
    flow = bare(built(case, backend, "float64"))
    c = contexts(case, 9, flow)
    x, log_prob = flow.sample_and_log_prob(20, c, rng=4)
    assert_same_bits(flow.sample(5, c[3:7], rng=4, first=11, first_context=3), x[3:7, 11:16])
    part = flow.sample_and_log_prob(5, c[3:7], rng=4, first=11, first_context=3)
    assert_same_bits(part[0], x[3:7, 11:16])
    assert_same_bits(part[1], log_prob[3:7, 11:16])
    assert_same_bits(flow.sample(5, c[8], rng=4, first_context=8), x[8, :5])
    assert_same_bits(flow.sample(None, c[2:], rng=4, first=1, first_context=2), x[2:, 1])


@pytest.mark.parametrize(
    ("numbers", "kind", "message"),
    [
        ({"first": -1}, ValueError, "first must be at least 0"),
        ({"first": 2**56 - 4}, ValueError, r"first .* below 2\*\*56"),
        ({"first": 1.5}, TypeError, "first must be an integer"),
        ({"first_context": -1}, ValueError, "first_context must be at least 0"),
        ({"first_context": 2**40}, ValueError, r"first_context .* below 2\*\*40"),
        ({"first_context": "a"}, TypeError, "first_context must be an integer"),
    ],
)
def test_numbers_out_of_range_are_refused_by_name(numbers: dict[str, Any], kind: Any, message: str) -> None:
    flow = ps.realnvp(2, layers=1, hidden=(4,), rng=0)
    for verb in (flow.sample, flow.sample_and_log_prob):
        with pytest.raises(kind, match=message):
            verb(5, rng=0, **numbers)
    assert flow.sample(4, rng=0, first=2**56 - 4, first_context=2**40 - 1).shape == (4, 2)
