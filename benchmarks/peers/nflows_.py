"""The LU layer of nflows."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import torch
from nflows.transforms import LULinear

sys.path.insert(0, str(Path(__file__).parent.parent))
from tasks import Lu, Task
from worker import Work, serve


def prepare(layer: Lu, task: Task, threads: int) -> Work:
    """The work of a task as a function of the number of repetitions."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = LULinear(layer.dim, identity_init=False).eval()
    x = torch.randn(layer.rows, layer.dim)
    apply = module if task.verb == "forward" else module.inverse

    @torch.no_grad()
    def work(repeats: int) -> None:
        for _ in range(repeats):
            apply(x)

    return work


def versions() -> dict[str, str]:
    """What was timed."""
    return {"nflows": importlib.metadata.version("nflows")}


if __name__ == "__main__":
    serve(prepare, versions)
