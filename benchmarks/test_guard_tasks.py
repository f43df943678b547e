"""The tasks of ``guard.py`` as pytest-benchmark cases, and what ``guard.py`` concludes from readings made up here.

python -m pytest benchmarks
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from guard import judge, judge_extrapolation
from guard_tasks import BY_NAME, EXTRAPOLATIONS, TASKS, Extrapolation, Task

PARTS = {part: line for line in EXTRAPOLATIONS for part in line.parts}


@pytest.mark.benchmark(min_rounds=5, max_time=2.0, warmup=False)
@pytest.mark.parametrize("task", [task for task in TASKS if task.name not in PARTS], ids=lambda task: task.name)
def test_time_of(task: Task, benchmark: Any) -> None:
    benchmark.group = task.group
    work = task.prepare()
    work()
    benchmark(work)


@pytest.mark.parametrize("line", EXTRAPOLATIONS, ids=lambda line: line.name)
def test_time_at_zero_steps_of(line: Extrapolation, benchmark: Any, capsys: Any) -> None:
    """The table shows the fewer steps; ``extra_info`` has the others, and both extrapolated to none."""
    benchmark.group = "training"
    few, many = (BY_NAME[part].prepare() for part in line.parts)
    few()
    fewer: list[float] = []
    several: list[float] = []

    def setup() -> None:  # in turns, and outside of what the table shows
        started = time.perf_counter()
        many()
        several.append(time.perf_counter() - started)

    def timed() -> None:
        started = time.perf_counter()
        few()
        fewer.append(time.perf_counter() - started)

    benchmark.pedantic(timed, setup=setup, rounds=15)
    fixed = 1e3 * line.seconds(min(fewer), min(several))
    benchmark.extra_info.update(
        {
            f"{line.parts[0]}_ms": 1e3 * min(fewer),
            f"{line.parts[1]}_ms": 1e3 * min(several),
            f"{line.name}_ms": fixed,
        }
    )
    with capsys.disabled():
        print(f"\n{line.name}: {fixed:.3f} ms")


def pairs(ratio: float, noise: float, rounds: int = 15) -> list[tuple[float, float]]:
    rng = np.random.default_rng(0)
    base = np.exp(noise * rng.standard_normal(rounds))
    return [
        (float(b), float(b * ratio * np.exp(noise * e))) for b, e in zip(base, rng.standard_normal(rounds), strict=True)
    ]


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [
        (1.0, 0.02, "same"),
        (1.0, 0.2, "same"),
        (1.015, 0.001, "within margin"),
        (1.05, 0.005, "slower"),
        (1.05, 0.1, "same"),
        (1.3, 0.02, "slower"),
        (0.97, 0.005, "faster"),
    ],
)
def test_a_verdict_depends_on_the_ratio_and_on_the_noise(ratio: float, noise: float, verdict: str) -> None:
    assert judge("task", pairs(ratio, noise)).verdict == verdict


def test_an_exempt_task_is_never_slower() -> None:
    assert judge("task", pairs(1.3, 0.01), exempt="because").verdict == "exempt"
    assert judge("task", pairs(0.7, 0.01), exempt="because").verdict == "faster"


def test_the_standard_error_is_that_of_a_median() -> None:
    rng = np.random.default_rng(0)
    tables = [[(1.0, float(np.exp(r))) for r in rng.normal(0, 0.01, 25)] for _ in range(400)]
    found = [judge("task", table) for table in tables]
    spread = np.std([np.log(result.ratio) for result in found])
    np.testing.assert_allclose(np.mean([result.error for result in found]), spread, rtol=0.1)


def test_an_extrapolation_of_noise_has_no_ratio() -> None:
    assert judge_extrapolation("task", [(-0.1, 0.2), (-0.1, 0.1), (0.1, 0.1)]).verdict == "unknown"


def test_an_extrapolation_is_compared_by_differences() -> None:
    rng = np.random.default_rng(0)
    base, head = 1 + 0.5 * rng.standard_normal(15), 2 + 0.5 * rng.standard_normal(15)
    result = judge_extrapolation("task", list(zip(base.tolist(), head.tolist(), strict=True)))
    assert result.verdict == "slower"
    assert abs(result.ratio - 2) < 3 * result.error
