"""Neural posterior estimation: 10 000 simulations become the posterior p(theta | x), drawn beside reference draws.

python examples/two_moons.py [-o FOLDER] [--simulations N]          needs matplotlib and scikit-learn

Two moons (Greenberg et al. 2019) is a simulator of two parameters and two measured numbers, whose posterior is a pair of
thin crescents. A conditional flow learns it from pairs (theta, x) alone; no likelihood is ever evaluated. How close its
draws are to the reference is told by a classifier that tries to tell them apart (C2ST, 0.5 is perfect).
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


def prior(n: int, rng: np.random.Generator) -> Array:
    """Uniform on the square [-1, 1]^2."""
    return rng.uniform(-1, 1, (n, 2))


def simulate(theta: Array, rng: np.random.Generator) -> Array:
    """One measurement for each row of parameters: a point of a crescent, moved by theta."""
    angle = rng.uniform(-np.pi / 2, np.pi / 2, len(theta))
    radius = rng.normal(0.1, 0.01, len(theta))
    moon = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], axis=1)
    first, second = theta.T
    return moon + np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)


def posterior(flow: ps.Flow, observed: Array, n: int, seed: int) -> tuple[Array, float]:
    """``n`` draws inside the prior's square, and the share of draws that fell outside and were dropped."""
    kept: list[Array] = []
    drawn = 0
    while sum(map(len, kept)) < n:
        draws = flow.sample(n, observed, rng=seed + drawn)
        drawn += n
        kept.append(draws[(np.abs(draws) <= 1).all(axis=1)])
    inside = np.concatenate(kept)
    return inside[:n], 1 - len(inside) / drawn


def c2st(reference: Array, draws: Array) -> float:
    """How often a classifier tells two sets of draws apart, five-fold cross-validated (Lopez-Paz, Oquab 2017)."""
    from sklearn.model_selection import KFold, cross_val_score
    from sklearn.neural_network import MLPClassifier

    mean, std = reference.mean(axis=0), reference.std(axis=0)
    both = np.concatenate([(reference - mean) / std, (draws - mean) / std])
    label = np.repeat([0, 1], [len(reference), len(draws)])
    width = 10 * reference.shape[1]
    classifier = MLPClassifier((width, width), solver="adam", max_iter=10_000, random_state=1)
    return float(cross_val_score(classifier, both, label, cv=KFold(5, shuffle=True, random_state=1)).mean())


def draw(reference: Array, draws: Array, path: Path) -> None:
    """The two sets of draws side by side."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 4), sharex=True, sharey=True, layout="constrained")
    for axis, sample, title in zip(axes, (reference, draws), ("reference posterior", "conditional flow"), strict=True):
        axis.plot(*sample[:5000].T, ",", alpha=0.7)
        axis.set(title=title, xlabel="$\\theta_1$", aspect="equal")
    axes[0].set_ylabel("$\\theta_2$")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Simulate, train, sample, compare, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--draws", type=int, default=10_000, help="from the posterior; at most 10 000 are compared")
    parser.add_argument("--epochs", type=int, help="passes over the simulations; by default as many as fit thinks best")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    theta = prior(given.simulations, rng)
    x = simulate(theta, rng)

    start = time.perf_counter()
    flow = ps.nsf_ar(2, context_dim=2, layers=5, hidden=(64, 64), rng=0)
    flow.fit(theta, x, epochs=given.epochs, rng=0)
    print(f"{given.simulations} simulations, {flow.n_free} parameters, trained in {time.perf_counter() - start:.0f} s")

    with np.load(DATA) as table:
        observed, reference = table["observation"][0], table["reference_posterior"][0][: given.draws]
    draws, outside = posterior(flow, observed, len(reference), seed=1)
    print(f"observed x = {observed}; {100 * outside:.1f} % of the draws fell outside the prior and were dropped")
    print(f"C2ST against {len(reference)} reference draws: {c2st(reference, draws):.3f}   (0.5: cannot be told apart)")
    path = given.output / "two-moons.png"
    draw(reference, draws, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
