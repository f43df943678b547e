"""The far end of the harness: a process of its own for each library, which works when it is told to and otherwise sleeps.

A library's file in ``peers/`` defines ``prepare(flow, task, threads)``, which returns a function that does the work so
many times, and ``versions()``. Orders come as lines of JSON on standard input, answers go to standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from tasks import (
    AUTOREGRESSIVE,
    FLOWS,
    GLOW,
    LU_LAYERS,
    LU_TASKS,
    SPLINES,
    SPLINES_DOUBLE,
    TASKS,
    WITHOUT_SPLINES,
    Task,
)

Work = Callable[[int], None]
SUBJECTS = {**FLOWS, **AUTOREGRESSIVE, **GLOW, **LU_LAYERS, **SPLINES, **SPLINES_DOUBLE, **WITHOUT_SPLINES}
WORK = {**TASKS, **LU_TASKS}


def serve(prepare: Callable[[Any, Task, int], Work], versions: Callable[[], dict[str, Any]]) -> None:
    """Answer orders until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    work: Work | None = None
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if order["do"] == "prepare":
                work = None
                started = time.perf_counter()
                work = prepare(SUBJECTS[order["flow"]], WORK[order["task"]], order["threads"])
                work(1)
                answer["first"] = time.perf_counter() - started
                work(1)
            elif order["do"] == "time":
                assert work is not None
                started = time.perf_counter()
                work(order["inner"])
                answer["seconds"] = (time.perf_counter() - started) / order["inner"]
            elif order["do"] == "versions":
                answer["versions"] = versions()
        except Exception as error:  # the harness reports it beside the other libraries' results
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)
