"""Neural posterior estimation: 10 000 simulations become the posterior p(theta | x), checked, and drawn beside reference draws.

python examples/two_moons.py [-o FOLDER] [--simulations N]          needs SciPy, matplotlib and scikit-learn

Two moons (Greenberg et al. 2019) is a simulator of two parameters and two measured numbers, whose posterior is a pair of
thin crescents. Conditional flows learn it from pairs (theta, x) alone; no likelihood is ever evaluated. Whether their regions
hold as much as they say is checked with new simulations; how close draws are to the reference is told by a classifier that
tries to tell them apart (C2ST, 0.5 is perfect).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]
DATA = Path(__file__).resolve().parent / "data" / "two_moons.npz"


def simulate(theta: Array, rng: np.random.Generator) -> Array:
    """One measurement for each row of parameters: a point of a crescent, moved by theta."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(0.1, 0.01, len(theta))
    moon = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
    first, second = theta.T
    return moon + np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)


def job(simulations: int, fresh: int, **options: Any) -> ps.sbi.Posterior:
    """All that a user writes."""
    prior = ps.sbi.BoxUniform(-1, 1, dim=2)
    theta = prior.sample(simulations, rng=0)
    x = simulate(theta, np.random.default_rng(1))
    posterior = ps.npe(theta, x, prior=prior, rng=2, **options)
    print(posterior.check(simulate, fresh, rng=3))
    return posterior


def draw(reference: Array, draws: Array, best: Array, path: Path) -> None:
    """The two sets of draws side by side."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
    for axis, sample, title in zip(axes, (reference, draws), ("reference posterior", "conditional flows"), strict=True):
        axis.plot(*sample[:5000].T, ",", alpha=0.7)
        axis.set(title=title, xlabel="$\\theta_1$", aspect="equal")
    axes[1].plot(*best, "x", color="C3", label="highest density")
    axes[1].legend(loc="lower right")
    axes[0].set_ylabel("$\\theta_2$")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Simulate, train, check, sample, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--check", type=int, default=500, help="new simulations that the posterior is checked with")
    parser.add_argument("--draws", type=int, default=10_000, help="from the posterior; at most 10 000 are compared")
    parser.add_argument("--epochs", type=int, help="passes over the simulations; by default as many as fit thinks best")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    posterior = job(given.simulations, given.check, epochs=given.epochs)
    print(f"{given.simulations} simulations, trained and checked in {time.perf_counter() - start:.0f} s")

    with np.load(DATA) as table:
        observed, reference = table["observation"][0], table["reference_posterior"][0][: given.draws]
    draws = posterior.sample(len(reference), observed, rng=4)
    print(f"observed x = {observed}; no draw lies outside the prior: {bool((np.abs(draws) <= 1).all())}")
    found = ps.diagnostics.c2st_samples(reference, draws, rng=0)
    print(f"C2ST against {len(reference)} reference draws: {found.accuracy:.3f} (0.5: cannot be told apart)")
    path = given.output / "two-moons.png"
    draw(reference, draws, posterior.map(observed, rng=5), path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
