"""A posterior that is too sure of itself, and what an ensemble does about it: SBC and TARP before and after, on slcp.

python examples/overconfidence.py [-o FOLDER] [--simulations N]          needs penstock[diagnostics]

slcp ("simple likelihood, complex posterior", Papamakarios et al. 2019) draws four points of a normal in the plane, whose mean
and covariance five parameters give, three of them through squares and a tanh: the posterior has four modes and curved edges.
With few simulations one flow overfits. Its densities are then too narrow, and its log-density ranks the
true parameters too low; balls around random points (TARP) notice less of it. The mean of four flows is wider where
the flows differ, which is where simulations say little. Both are checked on the same new simulations.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]
MEMBERS = (1, 4)


def simulate(theta: Array, rng: np.random.Generator) -> Array:
    """Four points of a normal in the plane for each row of parameters: two of the mean, two of the widths, one of the tilt."""
    first, second, tilt = theta[:, 2, None] ** 2, theta[:, 3, None] ** 2, np.tanh(theta[:, 4, None])
    a, b = rng.standard_normal((2, len(theta), 4))
    x = theta[:, 0, None] + first * a
    y = theta[:, 1, None] + second * (tilt * a + np.sqrt(1 - tilt**2) * b)
    return np.stack([x, y], axis=-1).reshape(len(theta), 8)


def draw(checks: list[ps.sbi.Check], titles: list[str], path: Path) -> None:
    """Ranks on the left and balls on the right, before above after."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(10, 7.6), layout="constrained", sharex="col")
    for row, found, title in zip(axes, checks, titles, strict=True):
        found.sbc.plot(row[0])
        found.tarp.plot(row[1])
        share, error = found.coverage.at(0.9)
        row[0].set_title(
            f"{title}, SBC: regions of 90 % hold {100 * share[0]:.1f} ± {100 * error[0]:.1f} %", fontsize=10
        )
        row[1].set_title(f"{title}, TARP", fontsize=10)
    for column in axes.T:  # on the same scale
        ends = [ax.get_ylim() for ax in column]
        for ax in column:
            ax.set_ylim(min(low for low, _ in ends), max(high for _, high in ends))
    axes[0, 0].get_legend().remove()  # below there is room for it
    for k, text in enumerate(axes[1, 0].get_legend().get_texts()[:5]):
        text.set_text(f"$\\theta_{k + 1}$")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Simulate, train one flow and four, check both, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--simulations", type=int, default=3000, help="to learn from (default: %(default)s)")
    parser.add_argument("--check", type=int, default=1000, help="new ones, to check with (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="passes over the simulations; by default as many as fit thinks best")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)

    prior = ps.sbi.BoxUniform(-3, 3, dim=5)
    theta = prior.sample(given.simulations, rng=0)
    x = simulate(theta, np.random.default_rng(1))
    checks, titles = [], []
    for members in MEMBERS:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ps.OverfitWarning)  # that it overfits is what this example is about
            posterior = ps.npe(theta, x, prior=prior, ensemble=members, epochs=given.epochs, rng=2)
        found = posterior.check(simulate, given.check, draws=199, rng=3)
        titles.append("one flow" if members == 1 else f"{members} flows")
        checks.append(found)
        print(f"{titles[-1]}, {given.simulations} simulations, {time.perf_counter() - start:.0f} s with the check")
        print(found)
    path = given.output / "overconfidence.png"
    draw(checks, titles, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
