"""Eight schools: a posterior and its evidence from an unnormalised density alone, no data and no sampler.

python examples/eight_schools.py [-o FOLDER] [--epochs N]          needs matplotlib

Eight schools have measured how much coaching raised the results of a test, each with its own uncertainty. How much of the
differences is chance? A flow is trained on the density of the posterior, given as a function; its draws, weighted, give the
evidence, which here two integrals by hand confirm.

Data: D. B. Rubin, "Estimation in parallel randomized experiments", Journal of Educational Statistics 6 (1981), 377-401,
table 5; model: Gelman et al., "Bayesian Data Analysis", 3rd edition (2013), section 5.5, with a half-Cauchy prior of scale 5
for tau.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]

EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
SCHOOLS = "ABCDEFGH"
MU_WIDTH = TAU_SCALE = 5.0
LOG_2PI = float(np.log(2 * np.pi))


def log_density(u: Array) -> tuple[Array, Array]:
    """Likelihood times prior at rows ``(eta_1 ... eta_8, mu, log tau)``, all constants kept, and its gradient.

    ``effect_j ~ normal(mu + tau eta_j, error_j)``, ``eta_j ~ normal(0, 1)``, ``mu ~ normal(0, 5)``, ``tau ~ half-Cauchy(5)``.
    """
    eta, mu, tau = u[:, :8], u[:, 8], np.exp(u[:, 9])
    pull = (EFFECT - mu[:, None] - tau[:, None] * eta) / ERROR
    log_p = -0.5 * (pull**2 + eta**2 + 2 * LOG_2PI).sum(axis=1) - np.log(ERROR).sum()
    log_p = log_p - 0.5 * (mu / MU_WIDTH) ** 2 - 0.5 * LOG_2PI - np.log(MU_WIDTH)
    square = (tau / TAU_SCALE) ** 2
    log_p = log_p + np.log(2 / (np.pi * TAU_SCALE)) - np.log1p(square) + u[:, 9]  # the last one is d tau / d log tau
    d_theta = pull / ERROR
    d_tau = (d_theta * eta).sum(axis=1) * tau - 2 * square / (1 + square) + 1
    return log_p, np.column_stack([d_theta * tau[:, None] - eta, d_theta.sum(axis=1) - mu / MU_WIDTH**2, d_tau])


def by_hand(n: int = 1500) -> tuple[float, Array, Array]:
    """The evidence, and tau with its posterior density: eta integrated by pencil, mu and tau on a grid."""
    mu = np.linspace(-30, 30, n)[:, None, None]
    t = np.linspace(np.log(1e-5), np.log(1e4), n)[:, None]  # log tau
    width = np.sqrt(ERROR**2 + np.exp(2 * t))
    log_p = (-0.5 * ((EFFECT - mu) / width) ** 2 - np.log(width) - 0.5 * LOG_2PI).sum(axis=2)
    log_p += -0.5 * (mu[..., 0] / MU_WIDTH) ** 2 - np.log(MU_WIDTH) - 0.5 * LOG_2PI
    log_p += (t - np.log1p((np.exp(t) / TAU_SCALE) ** 2) + np.log(2 / (np.pi * TAU_SCALE)))[:, 0]
    cells = np.exp(log_p) * (mu[1, 0, 0] - mu[0, 0, 0])
    density = cells.sum(axis=0)
    step = t[1, 0] - t[0, 0]
    evidence = float(density.sum() * step)
    return float(np.log(evidence)), t[:, 0], density / evidence


def draw(theta: Array, log_tau: Array, weights: Array, grid: tuple[Array, Array], path: Path) -> None:
    """How the schools move towards each other, and how much they differ."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", width_ratios=(3, 2))
    place = np.arange(8)
    mean = np.average(theta, axis=0, weights=weights)
    std = np.sqrt(np.average((theta - mean) ** 2, axis=0, weights=weights))
    left.errorbar(place - 0.1, EFFECT, ERROR, fmt="o", color="0.6", label="measured, 1 $\\sigma$")
    left.errorbar(place + 0.1, mean, std, fmt="o", color="C0", label="posterior, from the flow")
    left.axhline(np.average(mean), color="C0", lw=0.8, ls=":")
    left.set(xticks=place, xticklabels=list(SCHOOLS), xlabel="school", ylabel="effect of coaching [points]")
    left.legend(frameon=False)
    edges = np.linspace(-3, 4.5, 76)
    right.hist(log_tau, edges, weights=weights, density=True, color="C0", alpha=0.4, label="flow, weighted")
    right.plot(*grid, color="k", lw=1, label="integral by hand")
    right.set(
        xlim=(edges[0], edges[-1]),
        ylim=(0, 1.3 * grid[1].max()),
        xlabel="log of the spread between schools, log $\\tau$",
        ylabel="density",
    )
    right.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train on the density, weight the draws, compare with integrals, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--epochs", type=int, default=30, help="of 100 steps each")
    parser.add_argument("--draws", type=int, default=50_000)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)

    start = time.perf_counter()
    flow = ps.nsf_ar(10, layers=3, hidden=(64, 64), mixing="lu", rng=0)
    flow.columns = [*(f"eta {school}" for school in SCHOOLS), "mu", "log tau"]
    flow.fit_to_target(log_density, epochs=given.epochs, rng=0)
    history = flow.history
    print(f"trained on the density alone in {time.perf_counter() - start:.0f} s; location and scale by {history.start}")
    print(f"lower bound of the log evidence: {history.elbo[-1]:.3f} ± {history.elbo_error[-1]:.3f}")

    found = ps.importance(flow, log_density, given.draws, rng=1)
    exact, *grid = by_hand()
    print(f"log evidence: {found.log_evidence:.4f} ± {found.log_evidence_error:.4f} (by hand: {exact:.4f})")
    print(
        f"{given.draws} draws are worth {found.ess:.0f} of the posterior; Pareto k {found.pareto_k:.2f}, reliable up to 0.7"
    )

    u = found.samples.astype(np.float64)
    weights = np.exp(found.log_weights - found.log_weights.max())
    theta = u[:, 8:9] + np.exp(u[:, 9:]) * u[:, :8]
    path = given.output / "eight-schools.png"
    draw(theta, u[:, 9], weights, (grid[0], grid[1]), path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
