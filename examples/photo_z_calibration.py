"""Are the densities of redshifts calibrated? A report on a conditional flow, and what recalibration changes.

python examples/photo_z_calibration.py [-o FOLDER]          needs penstock[diagnostics]

A flow learns p(redshift | six magnitudes) from few galaxies and for too long, as happens: its densities come out too narrow.
The page of ``ps.report`` says so; one number, the temperature, fitted to galaxies that it was not trained on, mends most of it.
The picture has the share of test galaxies in regions of highest density, before and after.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

import penstock as ps
from penstock.demo import COLUMNS, NOT_DETECTED, galaxies


def main() -> None:
    """Train, report, recalibrate, report again, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the pictures")
    parser.add_argument(
        "--epochs", type=int, default=400, help="passes over the training galaxies (default: %(default)s)"
    )
    parser.add_argument("--train", type=int, default=1500, help="galaxies to train on (default: %(default)s)")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    table = galaxies()
    table = table[(table != NOT_DETECTED).all(axis=1)]
    table = table[np.random.default_rng(0).permutation(len(table))]
    z, magnitudes = table[:, :1], table[:, 1:]
    train, held_out, test = (
        slice(0, given.train),
        slice(given.train, given.train + 1500),
        slice(given.train + 1500, None),
    )

    flow = ps.nsf_ar(1, context_dim=6, layers=3, hidden=(64, 64), support="positive", rng=0)
    flow.columns, flow.context_columns = ["redshift"], list(COLUMNS[1:])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.PenstockWarning)  # that it overfits is what this example is about
        # Without validation rows nothing stops it.
        flow.fit(z[train], magnitudes[train], validation=None, epochs=given.epochs, rng=0)
        better = flow.recalibrate(z[held_out], magnitudes[held_out], rng=0)
    print(better.recalibration)
    for name, model in (("before", flow), ("after", better)):
        report = ps.report(model, z[test], magnitudes[test], path=given.output / f"photo-z-report-{name}.png")
        print(f"\n{name}: {report}")

    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.2), layout="constrained", sharey=True)
    for ax, (name, model) in zip(axes, (("trained for too long", flow), ("recalibrated", better)), strict=True):
        found = ps.diagnostics.hdr_coverage(model, z[test], magnitudes[test], rng=0)
        found.plot(ax)
        share, error = found.at(0.9)
        ax.set_title(f"{name}: regions of 90 % hold {100 * share[0]:.1f} ± {100 * error[0]:.1f} %", fontsize=10)
    limit = max(abs(y) for ax in axes for y in ax.get_ylim())
    axes[0].set_ylim(-limit, limit)
    path = given.output / "photo-z-calibration.png"
    figure.savefig(path, dpi=150)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
