"""Reverse KL by zuko's spline couplings, eager, as its tutorial on energies does it: the plain reparameterised estimator."""

from __future__ import annotations

import math
import time
from importlib.metadata import version

import torch
import zuko
from problems import BINS, HIDDEN, LAYERS, Answer, Mixture, Work, measured, serve


def train(work: Work, target: Mixture) -> Answer:
    """A coupling flow on a standard normal."""
    torch.set_num_threads(work.threads)
    torch.manual_seed(work.seed)
    means, precisions = torch.tensor(target.means), torch.tensor(target.precisions)
    constants = torch.tensor(target.constants)

    def log_density(x: torch.Tensor) -> torch.Tensor:
        away = x[:, None] - means
        return torch.logsumexp(constants - 0.5 * torch.einsum("nki,kij,nkj->nk", away, precisions, away), dim=1)

    flow = zuko.flows.NSF(
        target.dim, bins=BINS, transforms=LAYERS, hidden_features=(HIDDEN, HIDDEN), passes=2, randperm=target.dim > 2
    )
    optimiser = torch.optim.Adam(flow.parameters(), work.rate)

    def step(rate: float) -> None:
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.zero_grad()
        x, log_q = flow().rsample_and_log_prob((work.batch,))
        (log_q - log_density(x)).mean().backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimiser.step()

    step(0.0)
    start = time.perf_counter()
    for i in range(work.steps):
        step(work.rate * 0.5 * (1 + math.cos(math.pi * i / work.steps)))
    seconds = time.perf_counter() - start
    with torch.no_grad():
        x, log_q = flow().rsample_and_log_prob((work.draws,))
        log_weights = log_density(x) - log_q
    return measured(
        log_weights.double().numpy(), x.numpy(), seconds, 0.0, {"zuko": version("zuko"), "torch": version("torch")}
    )


if __name__ == "__main__":
    serve(train)
