"""The posterior of the neutron-star merger GW170817: a density with sharp edges, declared as supports.

python examples/neutron_stars.py [-o FOLDER]          needs matplotlib

The heavier star comes first, m1 >= m2, and tidal deformabilities are positive; the posterior is high right up to these
edges. A flow on the whole line has to put some mass beyond them: stars that deform the wrong way round, or are in the wrong
order. In the columns m1 - m2, m2, Lambda1, Lambda2 every edge is one of a single column, so that ``support="positive"``
declares all of them; the map to the original columns has determinant 1, and the density needs no further factor.

The picture has the chirp mass in the place of m2: the signal measures it so well that m1 and m2 lie on a line.

The data are public samples of the LIGO Scientific and Virgo Collaborations (examples/data/CITATION-gw170817).
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
LABELS = (r"$m_1 - m_2$ [M$_\odot$]", r"chirp mass [M$_\odot$]", r"$\Lambda_1$", r"$\Lambda_2$")
POSTERIOR, LEARNED, LEAKED = "0.45", "C0", "C3"
EDGES = (0, 2, 3)  # columns of the picture that end at 0
BINS = 40


def with_edges(x: Array) -> Array:
    """(m1, m2, Lambda1, Lambda2) as columns that are positive by themselves."""
    return np.column_stack([x[:, 0] - x[:, 1], x[:, 1:]])


def shown(y: Array) -> Array:
    """The columns of the picture: m1 - m2, the chirp mass, and both deformabilities."""
    m1, m2 = y[:, 0] + y[:, 1], y[:, 1]
    return np.column_stack([y[:, 0], (m1 * m2) ** 0.6 / (m1 + m2) ** 0.2, y[:, 2:]])


def inside(y: Array) -> Array:
    """Whether rows are neutron stars that can be."""
    good: Array = (y > 0).all(axis=1)
    return good


def levels(counts: Array) -> list[float]:
    """The densities above which 90 and 50 % of the mass lie."""
    falling = np.sort(counts.ravel())[::-1]
    mass = np.cumsum(falling) / falling.sum()
    return [float(falling[np.searchsorted(mass, share)]) for share in (0.9, 0.5)]


def contours(
    axes: Any, x: Array, y: Array, spans: tuple[tuple[float, float], tuple[float, float]], colour: str
) -> None:
    """Contours that enclose 50 and 90 % of draws."""
    counts, x_edges, y_edges = np.histogram2d(x, y, bins=BINS, range=spans)
    kernel = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    padded = np.pad(counts, 2, mode="symmetric")  # nothing is smoothed away over an edge
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, kernel / kernel.sum(), mode="same")
    counts = padded[2:-2, 2:-2]
    centres = [0.5 * (edges[1:] + edges[:-1]) for edges in (x_edges, y_edges)]
    axes.contour(*centres, counts.T, levels(counts), colors=colour, linewidths=1.2)


def draw(posterior: Array, learned: Array, leaky: Array, path: Path) -> None:
    """Below the diagonal posterior and learned draws, above it those of the flow without supports, in red where it leaks."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(4, 4, figsize=(10, 10), layout="constrained")
    wrong = ~inside(leaky)
    posterior, learned, leaky = shown(posterior), shown(learned), shown(leaky)
    spans = [(float(np.quantile(column, 0.002)), float(np.quantile(column, 0.998))) for column in posterior.T]
    spans = [(0.0 if i in EDGES else low, high) for i, (low, high) in enumerate(spans)]
    wide = [(low - 0.12 * (high - low), high + 0.05 * (high - low)) for low, high in spans]
    for i in range(4):
        for j in range(4):
            axis = axes[i, j]
            if i == j:
                edges = np.linspace(*(spans if i in EDGES else wide)[i], 45)
                axis.hist(posterior[:, i], edges, density=True, color=POSTERIOR, alpha=0.5)
                axis.hist(learned[:, i], edges, density=True, histtype="step", color=LEARNED, lw=1.3)
                axis.set(xlim=wide[i], yticks=[])
            elif i > j:
                axis.plot(posterior[:, j], posterior[:, i], ".", color=POSTERIOR, ms=1.5, alpha=0.5, mew=0)
                contours(axis, learned[:, j], learned[:, i], (spans[j], spans[i]), LEARNED)
                axis.set(xlim=wide[j], ylim=wide[i])
            else:
                axis.plot(leaky[~wrong, j], leaky[~wrong, i], ".", color=POSTERIOR, ms=1.5, alpha=0.3, mew=0)
                axis.plot(leaky[wrong, j], leaky[wrong, i], ".", color=LEAKED, ms=3, mew=0)
                axis.set(xlim=wide[j], ylim=wide[i])
            for edge, line in ((j, axis.axvline), (i, axis.axhline)):
                if edge in EDGES and not (i == j and line == axis.axhline):
                    line(0, color="k", lw=0.6)
            axis.tick_params(labelsize=7)
            if i == 3:
                axis.set_xlabel(LABELS[j])
            if j == 0:
                axis.set_ylabel(LABELS[i])
    axes[0, 0].set_ylabel("")
    figure.suptitle(
        "GW170817. Grey: posterior samples; blue: the flow with supports (50, 90 %).\n"
        "Above the diagonal: draws of a flow without; red: those that cannot be."
    )
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train with and without supports, compare on samples that neither has seen, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--epochs", type=int, help="passes over the samples; by default as many as fit thinks best")
    parser.add_argument("--draws", type=int, default=200_000)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with np.load(HERE / "data" / "gw170817.npz") as table:
        x = table["data"].astype(np.float64)
    x = x[np.random.default_rng(0).permutation(len(x))]
    train, test = np.split(with_edges(x), [int(0.8 * len(x))])

    drawn = {}
    for name, support in (("with supports", "positive"), ("without", None)):
        start = time.perf_counter()
        flow = ps.nsf_ar(4, support=support, rng=0).fit(train, epochs=given.epochs, rng=0)
        seconds = time.perf_counter() - start
        log_prob = flow.log_prob(test)
        share, error = flow.acceptance(lambda y: ~inside(y), given.draws, rng=1)
        leak = f"{100 * share:.2f} ± {100 * error:.2f} % of the mass" if share else f"none of {given.draws} draws"
        print(
            f"{name:13s} trained in {seconds:3.0f} s; mean log p of {len(test)} test samples {log_prob.mean():.3f} ± "
            f"{log_prob.std() / math.sqrt(len(test)):.3f}; beyond the edges: {leak}"
        )
        drawn[name] = flow.sample(given.draws, rng=2).astype(np.float64)
    path = given.output / "neutron-stars.png"
    draw(with_edges(x), drawn["with supports"], drawn["without"][: len(x)], path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
