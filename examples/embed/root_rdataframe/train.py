"""Writes two flows p(x | truth): a response with tails and a resolution that depends on the truth, and one a little wider.

python train.py FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import penstock as ps


def main(folder: Path) -> None:
    rng = np.random.default_rng(11)
    truth = rng.uniform(1.0, 10.0, (20_000, 1))
    for name, width in (("nominal", 1.0), ("varied", 1.1)):
        x = truth + width * 0.3 * np.sqrt(truth) * rng.normal(size=(len(truth), 2))
        x[:, 1] -= 0.1 * (x[:, 0] - truth[:, 0]) ** 2
        flow = ps.nsf(2, context_dim=1, layers=3, hidden=(32, 32), dtype="float64", rng=0).fit(
            x, truth, epochs=5, rng=0
        )
        flow.save(folder / f"{name}.safetensors")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go; it exists")
    main(parser.parse_args().folder)
