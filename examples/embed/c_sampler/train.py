"""A flow for the target of sampler.c, trained on rough samples of it: points of short random walks.

The walks run at a temperature of 1.7, so that the flow is wider than the target: a proposal that is narrower anywhere makes
chains stay there.

python train.py [--epochs N] MODEL.safetensors
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]
TEMPERATURE = 1.7


def log_target(x: Array) -> Array:
    """The density of sampler.c, up to a constant, for each row."""
    a, b, c, d = x.T
    u = np.stack([a, (b - 0.5 * a**2 + 0.5) / 0.5, (c - 0.8 * a) / 0.6, (d - 0.5 * c**2 + 0.5) / 0.5])
    result: Array = -0.5 * (u**2).sum(axis=0)
    return result


def random_walks(walks: int, steps: int, rng: np.random.Generator) -> Array:
    """Where random-walk Metropolis is after some steps, and half-way, of many walks."""
    x = rng.normal(size=(walks, 4))
    log_p = log_target(x) / TEMPERATURE
    kept = []
    for step in range(steps):
        moved = x + 0.35 * rng.normal(size=x.shape)
        log_moved = log_target(moved) / TEMPERATURE
        accepted = np.log(rng.uniform(size=walks)) < log_moved - log_p
        x = np.where(accepted[:, None], moved, x)
        log_p = np.where(accepted, log_moved, log_p)
        if 2 * step + 2 in (steps, 2 * steps):
            kept.append(x)
    return np.concatenate(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()
    rows = random_walks(20_000, 300, np.random.default_rng(0))
    flow = ps.nsf_ar(4, layers=4, rng=0).fit(rows, epochs=options.epochs, batch_size=256, rng=0, progress=False)
    flow.save(options.model)


if __name__ == "__main__":
    main()
