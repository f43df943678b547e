"""Compares what event_weights.C wrote with Python's draws for the same numbers, and the mean weight with 1."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import penstock as ps

RUN = 42  # as in event_weights.C


def main(folder: Path) -> None:
    nominal, varied = (ps.load(folder / f"{name}.safetensors") for name in ("nominal", "varied"))
    event, truth, x0, x1, log_ratio = np.fromfile(folder / "rows.bin").reshape(-1, 5).T
    context, x = truth[:, None], np.stack([x0, x1], axis=1)

    drawn = nominal.sample(context=context, rng=RUN, first_context=int(event[0]))
    same = np.array_equal(x, drawn)
    expected = varied.log_prob(x, context).astype(float) - nominal.log_prob(x, context).astype(float)
    same_ratio = np.array_equal(log_ratio, expected)
    print(f"draws of {len(x)} events, against Python's: {'the same bits' if same else 'DIFFERENT'}")
    print(f"log ratios, against Python's: {'the same bits' if same_ratio else 'DIFFERENT'}")
    weight = np.exp(log_ratio)
    error = weight.std() / np.sqrt(len(weight))
    print(f"mean weight {weight.mean():.4f}, standard error {error:.4f}")
    assert same
    assert same_ratio
    assert abs(weight.mean() - 1) < 4 * error


if __name__ == "__main__":
    main(Path(sys.argv[1]))
