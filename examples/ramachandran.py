"""Torsion angles of a protein's side chains: five columns that are circles.

python examples/ramachandran.py [-o FOLDER]          needs matplotlib

The backbone angles phi and psi of glutamine and the angles chi1, chi2, chi3 of its side chain are learned together. All of
them are angles: ``support=ps.periodic(-180, 180)`` says so, and the density goes on across +-180 degrees, where the beta
strands of a Ramachandran plot lie on the seam. A flow on the line sees two clusters there and bridges the gap between.

The data are those of Top8000, the Richardson laboratory's set of 8000 protein chains (examples/data/README.md).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]

HERE = Path(__file__).resolve().parent
PAIRS = ((0, 1), (2, 3), (3, 4))
NAMES = (r"$\phi$", r"$\psi$", r"$\chi_1$", r"$\chi_2$", r"$\chi_3$")
BINS = 90


def wrapped(x: Array) -> Array:
    """Degrees within [-180, 180)."""
    turned: Array = (x + 180.0) % 360.0 - 180.0
    return turned


def draw(real: Array, learned: Array, path: Path) -> None:
    """Histograms of pairs of angles, of the table above and of as many draws below, in one scale of colours."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import LogNorm

    figure, axes = plt.subplots(2, 3, figsize=(11, 7.2), sharex=True, sharey=True, layout="constrained")
    span = ((-180, 180), (-180, 180))
    for column, (i, j) in enumerate(PAIRS):
        counts = [np.histogram2d(x[:, i], x[:, j], BINS, span)[0].T for x in (real, learned)]
        norm = LogNorm(1, max(float(part.max()) for part in counts))
        for axis, part, title in zip(axes[:, column], counts, ("measured", "learned"), strict=True):
            axis.imshow(np.where(part > 0, part, np.nan), norm=norm, origin="lower", extent=(-180, 180, -180, 180))
            axis.set(title=f"{NAMES[i]}, {NAMES[j]}: {title}", xticks=range(-180, 181, 90), yticks=range(-180, 181, 90))
        axes[1, column].set_xlabel(f"{NAMES[i]} [degrees]")
        axes[0, column].set_ylabel(f"{NAMES[j]} [degrees]")
        axes[1, column].set_ylabel(f"{NAMES[j]} [degrees]")
    figure.suptitle(f"Glutamine: {len(real)} residues above, as many draws of the flow below")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train on circles and on the line, compare on residues that neither has seen, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the residues")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with np.load(HERE / "data" / "torsions.npz") as table:
        x = wrapped(table["data"].astype(np.float64))
    x = x[np.random.default_rng(0).permutation(len(x))]
    train, test = np.split(x, [int(0.9 * len(x))])

    flows = {}
    for name, support in (("on circles", ps.periodic(-180, 180)), ("on the line", None)):
        start = time.perf_counter()
        flows[name] = ps.nsf_ar(5, support=support, rng=0).fit(train, epochs=given.epochs, rng=0)
        log_prob = flows[name].log_prob(test)
        drawn = flows[name].sample(100_000, rng=1)
        beyond = (np.abs(drawn) > 180).any(axis=1).mean()
        print(
            f"{name:11s} trained in {time.perf_counter() - start:3.0f} s; mean log p of {len(test)} residues "
            f"{log_prob.mean():.3f} ± {log_prob.std() / math.sqrt(len(test)):.3f}; draws that are no angles: {100 * beyond:.2f} %"
        )
    path = given.output / "ramachandran.png"
    draw(x, flows["on circles"].sample(len(x), rng=2), path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
