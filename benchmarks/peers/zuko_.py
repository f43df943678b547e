"""The spline flows of zuko, eager."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import torch
import zuko

sys.path.insert(0, str(Path(__file__).parent.parent))
from tasks import Flow, Task
from worker import Work, serve


def prepare(flow: Flow, task: Task, threads: int) -> Work:
    """The work of a task as a function of the number of repetitions."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    passes = 2 if flow.recipe == "nsf" else None  # two: a coupling; as many as dimensions: autoregressive
    model = zuko.flows.NSF(
        flow.dim, bins=8, transforms=flow.layers, hidden_features=(flow.width, flow.width), passes=passes
    )
    x = torch.randn(task.rows, flow.dim)
    if task.verb == "step":
        optimiser = torch.optim.Adam(model.parameters(), 1e-5)

        def step(repeats: int) -> None:
            for _ in range(repeats):
                optimiser.zero_grad()
                (-model().log_prob(x).mean()).backward()
                optimiser.step()

        return step

    @torch.no_grad()
    def work(repeats: int) -> None:
        for _ in range(repeats):
            if task.verb == "sample":
                model().sample((task.rows,))
            else:
                model().log_prob(x)

    return work


def versions() -> dict[str, str]:
    """What was timed."""
    return {"zuko": importlib.metadata.version("zuko")}


if __name__ == "__main__":
    serve(prepare, versions)
