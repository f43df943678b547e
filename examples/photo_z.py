"""Photometric redshifts: the density p(z | six magnitudes) of a galaxy, and whether it is calibrated.

python examples/photo_z.py [-o FOLDER]          needs matplotlib

A camera measures brightness in six bands; the distance has to be guessed from them, and the guess may well have two
peaks. A conditional spline flow in one dimension learns the whole density. Beside it stands what a network with a mean and
a width would give, a conditional Gaussian: the same library with an affine map in place of the splines. If the densities
are right, the probability that they put below the true redshift (PIT) is uniform.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from penstock.demo import NOT_DETECTED, galaxies

Array = np.ndarray[Any, Any]


def pit(flow: ps.Flow, z: Array, magnitudes: Array) -> Array:
    """The probability below each true redshift: the map to the latent normal rises, so it is Phi of its image."""
    latent, _ = flow.to_latent(z[:, None], magnitudes)
    return np.array([0.5 * math.erfc(-u / math.sqrt(2)) for u in latent[:, 0]])


def unevenness(values: Array, bins: int = 20) -> float:
    """Chi-squared over degrees of freedom of a histogram against a flat one: 1 is what chance gives."""
    counts = np.histogram(values, bins, (0, 1))[0]
    expected = len(values) / bins
    return float(((counts - expected) ** 2 / expected).sum() / (bins - 1))


def draw(models: dict[str, ps.Flow], z: Array, magnitudes: Array, path: Path) -> None:
    """PIT histograms, and the densities of a few galaxies."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained")
    for flow in models.values():
        axes[0, 0].hist(pit(flow, z, magnitudes), bins=20, range=(0, 1), histtype="step", density=True)
    axes[0, 0].axhline(1, color="0.6", lw=0.8)
    axes[0, 0].set(xlabel="PIT", ylabel="density", title="calibration: flat is right", xlim=(0, 1))
    # Galaxies from where the Gaussian does better to where it does worst.
    gain = models["spline flow"].log_prob(z[:, None], magnitudes) - models["Gaussian"].log_prob(z[:, None], magnitudes)
    chosen = np.argsort(gain)[(np.linspace(0.05, 0.995, 5) * (len(gain) - 1)).astype(int)]
    for axis, i in zip(axes.ravel()[1:], chosen, strict=True):
        # As far as the densities go, and to where the galaxy is.
        ends = [flow.quantile([0.005, 0.995], magnitudes[i]) for flow in models.values()]
        low, high = min(z[i], np.min(ends)), max(z[i], np.max(ends))
        margin = 0.05 * (high - low)
        grid = np.linspace(max(0, low - margin), high + margin, 600)
        for name, flow in models.items():
            density = np.exp(flow.log_prob(grid[:, None], magnitudes[i]))
            axis.plot(grid, density, label=name)
            axis.fill_between(grid, density, alpha=0.15, lw=0)
        axis.axvline(z[i], color="k", lw=0.8, ls=":", label="its redshift")
        axis.set(xlabel="redshift", ylabel="density", title=f"a galaxy at z = {z[i]:.2f}")
        axis.set(xlim=(grid[0], grid[-1]), ylim=(0, None))
    figure.legend(*axes[0, 1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train both, compare on galaxies that neither has seen, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--epochs", type=int, help="passes over the galaxies; by default as many as fit thinks best")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    table = galaxies()
    table = table[(table != NOT_DETECTED).all(axis=1)]
    table = table[np.random.default_rng(0).permutation(len(table))]
    z, magnitudes = table[:, 0], table[:, 1:]
    # Colours say more than magnitudes; any invertible mixture of them carries the same information.
    magnitudes = np.concatenate([magnitudes[:, 3:4], -np.diff(magnitudes, axis=1)], axis=1)
    n = int(0.8 * len(z))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an affine map of one dimension is a Gaussian, and is meant to be
        models = {
            "spline flow": ps.nsf_ar(1, context_dim=6, layers=3, hidden=(64, 64), rng=0),
            "Gaussian": ps.realnvp(1, context_dim=6, hidden=(64, 64), rng=0),
        }
    for name, flow in models.items():
        start = time.perf_counter()
        flow.fit(z[:n, None], magnitudes[:n], epochs=given.epochs, rng=0)
        seconds = time.perf_counter() - start
        log_prob = flow.log_prob(z[n:, None], magnitudes[n:])
        print(
            f"{name:12s} trained in {seconds:4.0f} s; mean log p(z | magnitudes) of {len(log_prob)} test galaxies "
            f"{log_prob.mean():.3f} +- {log_prob.std() / math.sqrt(len(log_prob)):.3f}; unevenness of the PIT "
            f"{unevenness(pit(flow, z[n:], magnitudes[n:])):.1f} (1: calibrated)"
        )
    path = given.output / "photo-z.png"
    draw(models, z[n:], magnitudes[n:], path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
