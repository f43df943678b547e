"""How well the two directions of a deep trained spline flow undo each other.

python benchmarks/round_trip.py [--layers 20] [--epochs 30]

Trains `nsf` on the galaxies of the demo, in float32 and float64, and prints abs(x - to_data(to_latent(x))) in units of each
column's standard deviation: the 99.9 % quantile and the largest, over all galaxies.
"""

from __future__ import annotations

import argparse

import numpy as np

import penstock as ps
from penstock.demo import NOT_DETECTED, galaxies


def main() -> None:
    """Both dtypes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=30)
    given = parser.parse_args()
    table = galaxies()
    table = table[(table != NOT_DETECTED).all(axis=1)].astype(np.float64)
    for dtype in ("float32", "float64"):
        flow = ps.nsf(table.shape[1], layers=given.layers, dtype=dtype, rng=0)
        flow.fit(table, epochs=given.epochs, rng=0, progress=False)
        back = flow.to_data(flow.to_latent(table)[0])[0].astype(np.float64)
        error = np.abs(back - table) / table.std(axis=0)
        print(
            f"{dtype}, {given.layers} layers, score {flow.score(table):.3f}: 99.9 % within {np.quantile(error, 0.999):.2g}, "
            f"largest {error.max():.2g}",
            flush=True,
        )


if __name__ == "__main__":
    main()
