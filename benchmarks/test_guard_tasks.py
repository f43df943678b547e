"""The guard's tasks as pytest-benchmark cases: ``pytest benchmarks``."""

from __future__ import annotations

from typing import Any

import pytest

from guard_tasks import TASKS, fixed_cost


@pytest.mark.parametrize("name", TASKS)
def test_task(name: str, benchmark: Any) -> None:
    benchmark.pedantic(TASKS[name](), rounds=15, warmup_rounds=2)


@pytest.mark.parametrize("batch", [256, 4096])
def test_fixed_cost_of_a_fit(batch: int, benchmark: Any) -> None:
    benchmark.extra_info["milliseconds"] = 1e3 * fixed_cost(batch)
    benchmark.pedantic(lambda: None, rounds=1)
    print(f"\nfixed cost of a fit, batch {batch}: {benchmark.extra_info['milliseconds']:.2f} ms")
