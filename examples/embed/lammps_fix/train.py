"""Writes what in.flow reads: a flow trained on a bent cloud in three dimensions, and atoms that do not lie as it says.

python train.py FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import penstock as ps

ATOMS = 2000


def main(folder: Path) -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(size=(20_000, 3)) * [1.5, 0.5, 0.7]
    x[:, 1] += 0.4 * x[:, 0] ** 2
    x[:, 2] -= 0.5 * x[:, 1]
    # tanh and affine transforms: forces without jumps. Rational-quadratic splines have a jump at every knot.
    flow = ps.realnvp(3, layers=4, hidden=(32, 32), activation="tanh", dtype="float64", rng=0)
    flow.fit(x, epochs=10, rng=0)
    flow.save(folder / "flow.safetensors")

    start = rng.normal(scale=0.5, size=(ATOMS, 3))
    lines = ["Atoms in a flow", "", f"{ATOMS} atoms", "1 atom types", ""]
    lines += [f"-50 50 {axis}lo {axis}hi" for axis in "xyz"]
    lines += ["", "Masses", "", "1 1.0", "", "Atoms # atomic", ""]
    lines += [f"{i + 1} 1 {' '.join(repr(float(v)) for v in row)}" for i, row in enumerate(start)]
    (folder / "atoms.data").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files go; it exists")
    main(parser.parse_args().folder)
