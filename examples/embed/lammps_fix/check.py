"""Compares what in.flow wrote with what is known beforehand; prints a line for each, and fails if one is wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import penstock as ps

T = 1.5  # as in in.flow, where kB = 1


def main(folder: Path) -> None:
    flow = ps.load(folder / "flow.safetensors")

    dump = np.loadtxt(folder / "forces.txt", skiprows=9)
    log_p, grad = flow.log_prob_and_grad(dump[:, 1:4])
    same = np.array_equal(dump[:, 4:7], T * grad)
    print(f"forces of {len(dump)} atoms, against Python's: {'the same bits' if same else 'DIFFERENT'}")
    energy, expected = float((folder / "energy.txt").read_text()), -T * log_p.sum()
    print(f"energy {energy:.12g}, expected {expected:.12g}")

    kinetic, total = np.loadtxt(folder / "nve.txt").T
    drift, exchanged = np.ptp(total), np.ptp(kinetic)
    print(f"without a thermostat: {exchanged:.4g} goes from one energy to the other, their sum moves by {drift:.2g}")

    x, y = np.loadtxt(folder / "stationary.txt", skiprows=9)[:, 1:], flow.sample(200_000, rng=1)
    off = (x.mean(axis=0) - y.mean(axis=0)) / (y.std(axis=0) / np.sqrt(len(x)))
    distance = max(largest_step(x[:, k], y[:, k]) for k in range(3)) * np.sqrt(len(x))
    print(f"with a thermostat: means off by {np.round(off, 1)} standard errors, Kolmogorov's statistic {distance:.2f}")

    assert same
    assert abs(energy / expected - 1) < 1e-12
    assert drift < 1e-4 * exchanged
    assert np.abs(off).max() < 4  # beyond by chance: 1 in 5000
    assert distance < 2  # and here 1 in 500


def largest_step(x: np.ndarray, y: np.ndarray) -> float:
    """The largest distance between two empirical distribution functions."""
    at = np.concatenate([x, y])
    below = [np.searchsorted(np.sort(sample), at, side="right") / len(sample) for sample in (x, y)]
    return float(np.abs(below[0] - below[1]).max())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
