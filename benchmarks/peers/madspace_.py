"""The spline flow of MadSpace, float64, in its own number of couplings."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import sys
from pathlib import Path

os.environ.setdefault("MADSPACE_SIMD_MODE", "auto")  # its own default is scalar
import madspace
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from tasks import Flow, Task
from worker import Work, serve

NUMBERS = itertools.count()  # a context keeps the parameters of every flow made in it by name


def prepare(flow: Flow, task: Task, threads: int) -> Work:
    """The work of a task as a function of the number of repetitions."""
    context = madspace.default_context()
    model = madspace.Flow(flow.dim, 0, f"flow{next(NUMBERS)}", 8, flow.width, 3)
    model.initialize_globals(context, 1)
    function = model.forward_function() if task.verb == "sample" else model.inverse_function()
    runtime = madspace.FunctionRuntime(function, context)
    x = np.random.default_rng(0).random((task.rows, flow.dim))

    def work(repeats: int) -> None:
        for _ in range(repeats):
            runtime(x)

    return work


def versions() -> dict[str, str]:
    """What was timed."""
    return {"madspace": importlib.metadata.version("madspace")}


if __name__ == "__main__":
    serve(prepare, versions)
