"""A flow for the events of event_loop.cpp, trained on points that are accepted by their density.

python train.py [--epochs N] MODEL.safetensors
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]


def density(x: Array) -> Array:
    """That of event_loop.cpp, for each row."""
    result: Array = (1 + 0.9 * np.cos(2 * np.pi * (x[:, ::2] + x[:, 1::2]))).prod(axis=1)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.random((200_000, 6))
    rows = x[rng.random(len(x)) * 1.9**3 < density(x)]
    flow = ps.nsf(6, layers=6, mixing="random", support=(0, 1), rng=0)
    flow.fit(rows, epochs=options.epochs, batch_size=256, rng=0, progress=False).save(options.model)


if __name__ == "__main__":
    main()
