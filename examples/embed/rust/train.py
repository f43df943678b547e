"""A flow and the numbers that Python gets from it, for main.rs to compare its own with.

python train.py [--epochs N] MODEL.safetensors

Beside the model, MODEL.txt has a line for each of five draws of seed 7: the two numbers of the row and its log-density, as the
bits of doubles.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import penstock as ps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4000))
    rows = {"a": a, "b": a**2 + 0.3 * b}
    flow = ps.nsf_ar(2, layers=3, dtype="float64", rng=0).fit(rows, epochs=options.epochs, rng=0, progress=False)
    flow.save(options.model)
    draws, _ = flow.sample_and_log_prob(5, rng=7)
    numbers = np.column_stack([draws, flow.log_prob(draws)])
    lines = [" ".join(f"{bits:016x}" for bits in row.view(np.uint64)) for row in numbers]
    Path(options.model).with_suffix(".txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
