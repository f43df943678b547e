"""The far end of ``guard.py``: one build of penstock in a process of its own, which works when it is told to.

Orders come as lines of JSON on standard input, answers go to standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import guard_tasks
import penstock as ps


def timed(work: guard_tasks.Work, calls: int) -> float:
    """Seconds a call."""
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return (time.perf_counter() - started) / calls


def main() -> None:
    """Answer orders until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    prepared: dict[str, guard_tasks.Work] = {}
    for line in sys.stdin:
        order = json.loads(line)
        answer: dict[str, Any] = {}
        try:
            if order["do"] == "start":
                ps.set_num_threads(order["threads"])
                answer["file"] = ps.__file__
            elif order["do"] == "prepare":
                work = guard_tasks.BY_NAME[order["task"]].prepare()
                timed(work, 1)
                answer["seconds"] = timed(work, 1)
                prepared[order["task"]] = work
            else:
                answer["seconds"] = timed(prepared[order["task"]], order["calls"])
        except Exception as error:  # what one build cannot do is part of the comparison
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
