"""A Real NVP written directly in PyTorch, eager or compiled."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))
from tasks import Flow, Lu, Task
from worker import Work, serve

COMPILED = os.environ.get("BENCH_COMPILED") == "1"


class RealNVP(nn.Module):
    """Affine couplings of the two halves in turns, log-scale bounded by tanh."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.half = flow.dim // 2
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(self.half, flow.width), nn.ReLU(),
                nn.Linear(flow.width, flow.width), nn.ReLU(),
                nn.Linear(flow.width, 2 * self.half),
            )
            for _ in range(flow.layers)
        )  # fmt: skip

    def log_prob(self, x: Tensor) -> Tensor:
        halves = list(x.split(self.half, dim=1))
        log_det = x.new_zeros(len(x))
        for i, network in enumerate(self.networks):
            s, t = network(halves[i % 2]).split(self.half, dim=1)
            s = torch.tanh(s)
            halves[1 - i % 2] = (halves[1 - i % 2] - t) * torch.exp(-s)
            log_det = log_det - s.sum(1)
        z = torch.cat(halves, 1)
        return log_det - 0.5 * z.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)

    def to_data(self, z: Tensor) -> Tensor:
        halves = list(z.split(self.half, dim=1))
        for i in reversed(range(len(self.networks))):
            s, t = self.networks[i](halves[i % 2]).split(self.half, dim=1)
            halves[1 - i % 2] = halves[1 - i % 2] * torch.exp(torch.tanh(s)) + t
        return torch.cat(halves, 1)


def prepare_lu(layer: Lu, task: Task) -> Work:
    """What the layer comes down to: a bare product, or two triangular solves."""
    lower = torch.tril(torch.randn(layer.dim, layer.dim), -1) * 0.1 / math.sqrt(layer.dim) + torch.eye(layer.dim)
    upper = torch.triu(torch.randn(layer.dim, layer.dim), 1) * 0.1 / math.sqrt(layer.dim) + torch.eye(layer.dim)
    weight, x = lower @ upper, torch.randn(layer.rows, layer.dim)

    @torch.no_grad()
    def product(repeats: int) -> None:
        for _ in range(repeats):
            x @ weight.T

    @torch.no_grad()
    def solves(repeats: int) -> None:
        for _ in range(repeats):
            half = torch.linalg.solve_triangular(lower, x.T, upper=False, unitriangular=True)
            torch.linalg.solve_triangular(upper, half, upper=True)

    return product if task.verb == "forward" else solves


def prepare(flow: Flow | Lu, task: Task, threads: int) -> Work:
    """The work of a task as a function of the number of repetitions."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch._dynamo.reset()
    if isinstance(flow, Lu):
        return prepare_lu(flow, task)
    model = RealNVP(flow)
    log_prob = torch.compile(model.log_prob, dynamic=False) if COMPILED else model.log_prob
    to_data = torch.compile(model.to_data, dynamic=False) if COMPILED else model.to_data
    x = torch.randn(task.rows, flow.dim)
    optimiser = torch.optim.Adam(model.parameters(), 1e-5, foreach=True)

    def step(repeats: int) -> None:
        for _ in range(repeats):
            optimiser.zero_grad(set_to_none=True)
            loss = -log_prob(x).mean()
            loss.backward()
            optimiser.step()

    @torch.no_grad()
    def density(repeats: int) -> None:
        for _ in range(repeats):
            log_prob(x)

    @torch.no_grad()
    def sample(repeats: int) -> None:
        for _ in range(repeats):
            to_data(torch.randn(task.rows, flow.dim))

    return {"step": step, "log_prob": density, "sample": sample}[task.verb]


def versions() -> dict[str, str]:
    """What was timed."""
    return {"torch": torch.__version__}


if __name__ == "__main__":
    serve(prepare, versions)
