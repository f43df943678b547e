"""Six posteriors of posteriordb, trained on their densities alone, against their reference draws.

python benchmarks/posteriordb.py FOLDER [-m MODEL ...] [--epochs N] [--seed N]

FOLDER holds the data (``data/NAME.json.zip``) and the reference draws (``draws/NAME-MODEL.npz``: arrays ``draws`` and
``columns``) of https://github.com/stan-dev/posteriordb. The models are written by hand from their Stan text: the density of
the unconstrained parameters, with the Jacobian of Stan's own maps (log of a positive number, logit of an interval), and its
gradient. Means are compared in units of the reference's standard deviation, standard deviations as a part of it; the worst
parameter counts.
"""

from __future__ import annotations

import argparse
import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]


class Model(NamedTuple):
    """A posterior: dimensions, the density of the unconstrained parameters with its gradient, and the way to those of Stan."""

    dim: int
    log_density: Callable[[Array], tuple[Array, Array]]
    constrained: Callable[[Array], Array]


def linear(
    design: Array, y: Array, mean: Array, width: Array, sigma_prior: Callable[[Array], tuple[Array, Array]]
) -> Model:
    """``y ~ normal(design @ b, sigma)``, ``b ~ normal(mean, width)``, with log sigma as the last parameter.

    ``sigma_prior`` gives the logarithm of the prior of sigma and its derivative with respect to log sigma.
    """
    n, k = design.shape

    def log_density(u: Array) -> tuple[Array, Array]:
        b, s = u[:, :k], u[:, k]
        precision = np.exp(-2 * s)
        residual, away = y - b @ design.T, (b - mean) / width
        squares = (residual**2).sum(axis=1) * precision
        prior, slope = sigma_prior(np.exp(s))
        log_p = -0.5 * squares - n * s - 0.5 * (away**2).sum(axis=1) + prior + s
        d_b = (residual @ design) * precision[:, None] - away / width
        return log_p, np.column_stack([d_b, squares - n + slope + 1])

    return Model(k + 1, log_density, lambda u: np.column_stack([u[:, :k], np.exp(u[:, k])]))


def half_cauchy(scale: float) -> Callable[[Array], tuple[Array, Array]]:
    """The logarithm of the half-Cauchy density, without its constant, and its derivative with respect to the logarithm."""

    def prior(sigma: Array) -> tuple[Array, Array]:
        square = (sigma / scale) ** 2
        return -np.log1p(square), -2 / (1 + 1 / square)

    return prior


def half_normal(scale: float) -> Callable[[Array], tuple[Array, Array]]:
    """The same of the half-normal density."""

    def prior(sigma: Array) -> tuple[Array, Array]:
        square = (sigma / scale) ** 2
        return -0.5 * square, -square

    return prior


def ar_k(data: dict[str, Any]) -> Model:
    """arK: an autoregressive model of order K."""
    y, k = np.array(data["y"]), data["K"]
    lagged = [y[k - lag : len(y) - lag] for lag in range(1, k + 1)]
    design = np.column_stack([np.ones(len(y) - k), *lagged])
    return linear(design, y[k:], np.zeros(k + 1), np.full(k + 1, 10.0), half_cauchy(2.5))


def blr(data: dict[str, Any]) -> Model:
    """sblrc-blr: Bayesian linear regression."""
    design = np.array(data["X"])
    dim = design.shape[1]
    return linear(design, np.array(data["y"]), np.zeros(dim), np.full(dim, 10.0), half_normal(10.0))


def kilpisjarvi(data: dict[str, Any]) -> Model:
    """kilpisjarvi: a line through temperatures, whose offset lies 4000 years away from the data."""
    design = np.column_stack([np.ones(data["N"]), data["x"]])
    mean, width = np.array([data["pmualpha"], data["pmubeta"]]), np.array([data["psalpha"], data["psbeta"]])
    return linear(design, np.array(data["y"]), mean, width, lambda sigma: (0 * sigma, 0 * sigma))


def eight_schools(data: dict[str, Any]) -> Model:
    """eight_schools_noncentered: theta_trans of each school, mu, log tau."""
    y, sigma, j = np.array(data["y"]), np.array(data["sigma"]), data["J"]
    prior = half_cauchy(5.0)

    def log_density(u: Array) -> tuple[Array, Array]:
        trans, mu, tau = u[:, :j], u[:, j], np.exp(u[:, j + 1])
        pull = (y - mu[:, None] - trans * tau[:, None]) / sigma
        prior_tau, slope = prior(tau)
        log_p = -0.5 * (pull**2 + trans**2).sum(axis=1) - 0.5 * (mu / 5) ** 2 + prior_tau + u[:, j + 1]
        d_theta = pull / sigma
        d_tau = (d_theta * trans).sum(axis=1) * tau + slope + 1
        return log_p, np.column_stack([d_theta * tau[:, None] - trans, d_theta.sum(axis=1) - mu / 25, d_tau])

    def constrained(u: Array) -> Array:  # the reference has the effects theta
        mu, tau = u[:, j : j + 1], np.exp(u[:, j + 1 :])
        return np.column_stack([mu + tau * u[:, :j], mu, tau])

    return Model(j + 2, log_density, constrained)


def logistic(a: Array) -> tuple[Array, Array, Array]:
    """``s = 1 / (1 + e^-a)``, log s and log(1 - s)."""
    return np.exp(-np.logaddexp(0, -a)), -np.logaddexp(0, -a), -np.logaddexp(0, a)


def garch(data: dict[str, Any]) -> Model:
    """garch11: mu, log alpha0, alpha1 as a logit, beta1 as the logit of its part of 1 - alpha1."""
    y, first = np.array(data["y"]), data["sigma1"] ** 2

    def constrained(u: Array) -> Array:
        alpha1 = logistic(u[:, 2])[0]
        return np.column_stack([u[:, 0], np.exp(u[:, 1]), alpha1, (1 - alpha1) * logistic(u[:, 3])[0]])

    def log_density(u: Array) -> tuple[Array, Array]:
        mu, alpha0 = u[:, 0], np.exp(u[:, 1])
        alpha1, log_a, log_rest = logistic(u[:, 2])
        share, log_b, log_other = logistic(u[:, 3])
        beta1 = (1 - alpha1) * share
        log_p = u[:, 1] + log_a + 2 * log_rest + log_b + log_other
        # The variance v of a day and its derivatives with respect to mu, alpha0, alpha1, beta1.
        v, dv = np.full(len(u), first), np.zeros((4, len(u)))
        d, e = np.zeros((4, len(u))), 0.0 * mu
        for t, value in enumerate(y):
            if t:
                inputs = np.stack([-2 * alpha1 * e, np.ones(len(u)), e**2, v])
                v, dv = alpha0 + alpha1 * e**2 + beta1 * v, inputs + beta1 * dv
            e = value - mu
            ratio = e / v
            log_p = log_p - 0.5 * (np.log(v) + e * ratio)
            d += 0.5 * (ratio**2 - 1 / v) * dv
            d[0] += ratio
        a, b = alpha1 * (1 - alpha1), (1 - alpha1) * share * (1 - share)
        return log_p, np.column_stack(
            [d[0], d[1] * alpha0 + 1, (d[2] - share * d[3]) * a + 1 - 3 * alpha1, d[3] * b + 1 - 2 * share]
        )

    return Model(4, log_density, constrained)


def gp_regr(data: dict[str, Any]) -> Model:
    """gp_regr: a Gaussian process with an exponentiated quadratic kernel; logarithms of rho, alpha and sigma, a variance
    here."""
    x, y = np.array(data["x"], float), np.array(data["y"])
    distance = (x[:, None] - x) ** 2

    def log_density(u: Array) -> tuple[Array, Array]:
        rho, alpha, sigma = np.exp(u).T
        with np.errstate(all="ignore"):
            smooth = alpha[:, None, None] ** 2 * np.exp(-0.5 * distance / rho[:, None, None] ** 2)
        fine = np.isfinite(smooth).all(axis=(1, 2)) & (rho > 0) & (sigma > 0) & np.isfinite(sigma)
        # By eigenvalues, which exist however close to singular the kernel is.
        w, q = np.linalg.eigh(np.where(fine[:, None, None], smooth, np.eye(len(x))))
        w = np.maximum(w, 0) + sigma[:, None]
        scaled = (y @ q) / w
        inverse = (q / w[:, None]) @ q.transpose(0, 2, 1)
        solved = (q @ scaled[:, :, None])[..., 0]
        d_cov = 0.5 * (solved[:, :, None] * solved[:, None] - inverse)
        log_p = -0.5 * (solved @ y) - 0.5 * np.log(w).sum(axis=1)
        log_p = log_p + 24 * u[:, 0] - 4 * rho - 0.5 * (alpha / 2) ** 2 - 0.5 * sigma**2 + u.sum(axis=1)
        d_rho = (d_cov * smooth * distance).sum(axis=(1, 2)) / rho**2 + 24 - 4 * rho + 1
        d_alpha = 2 * (d_cov * smooth).sum(axis=(1, 2)) - (alpha / 2) ** 2 + 1
        d_sigma = np.trace(d_cov, axis1=1, axis2=2) * sigma - sigma**2 + 1
        return np.where(fine, log_p, -np.inf), np.column_stack([d_rho, d_alpha, d_sigma])

    return Model(3, log_density, np.exp)


POSTERIORS: dict[str, tuple[str, str, Callable[[dict[str, Any]], Model]]] = {
    "arK": ("arK", "arK-arK", ar_k),
    "blr": ("sblrc", "sblrc-blr", blr),
    "kilpisjarvi": ("kilpisjarvi_mod", "kilpisjarvi_mod-kilpisjarvi", kilpisjarvi),
    "eight_schools": ("eight_schools", "eight_schools-eight_schools_noncentered", eight_schools),
    "garch": ("garch", "garch-garch11", garch),
    "gp_regr": ("gp_pois_regr", "gp_pois_regr-gp_regr", gp_regr),
}


def loaded(folder: Path, name: str) -> tuple[Model, Array, list[str]]:
    """A model on its data, and the reference draws with the names of their columns."""
    data_name, draws_name, build = POSTERIORS[name]
    with zipfile.ZipFile(folder / "data" / f"{data_name}.json.zip") as archive:
        data = json.load(io.TextIOWrapper(archive.open(f"{data_name}.json")))
    with np.load(folder / "draws" / f"{draws_name}.npz") as table:
        return build(data), table["draws"].reshape(-1, len(table["columns"])), [str(c) for c in table["columns"]]


def gradient_error(model: Model, rows: int = 20) -> float:
    """The largest relative error of the gradient against central differences, at random rows."""
    u = 0.3 * np.random.default_rng(1).standard_normal((rows, model.dim))
    slope, h = model.log_density(u)[1], 1e-5
    moves = h * np.eye(model.dim)
    numerical = np.column_stack(
        [(model.log_density(u + move)[0] - model.log_density(u - move)[0]) / (2 * h) for move in moves]
    )
    return float((np.abs(slope - numerical) / (1 + np.abs(slope).max(axis=1, keepdims=True))).max())


def compared(draws: Array, reference: Array, weights: Array | None = None) -> tuple[float, float]:
    """The largest error of a mean, in standard deviations of the reference, and of a standard deviation, as a part of it."""
    mean = np.average(draws, axis=0, weights=weights)
    std = np.sqrt(np.average((draws - mean) ** 2, axis=0, weights=weights))
    scale = reference.std(axis=0)
    return float(np.abs((mean - reference.mean(axis=0)) / scale).max()), float(np.abs(std / scale - 1).max())


def main() -> None:
    """Train each, and print a row of a table for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-m", "--models", nargs="+", choices=POSTERIORS, default=list(POSTERIORS))
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=50_000)
    given = parser.parse_args()
    print("| posterior | dim | gradient | mean, std: trained | reweighted | ELBO | log evidence | ESS | k | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in given.models:
        model, reference, _ = loaded(given.folder, name)
        flow = ps.nsf_ar(model.dim, mixing="lu", rng=given.seed)
        start = time.perf_counter()
        flow.fit_to_target(model.log_density, epochs=given.epochs, rng=given.seed, progress=False)
        seconds = time.perf_counter() - start
        found = ps.importance(flow, model.log_density, given.draws, rng=given.seed + 1)
        draws = model.constrained(found.samples.astype(np.float64))
        plain = compared(draws, reference)
        weighted = compared(draws, reference, np.exp(found.log_weights - found.log_weights.max()))
        evidence = f"{found.log_evidence:.3f} ± {found.log_evidence_error:.3f}"
        cells = [name, model.dim, f"{gradient_error(model):.0e}", *(f"{m:.3f}, {s:.3f}" for m, s in (plain, weighted))]
        cells += [f"{found.log_weights.mean():.3f}", evidence, f"{found.ess / given.draws:.2f}"]
        cells += [f"{found.pareto_k:.2f}", f"{seconds:.0f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
        print(f"  {flow.history.start}", flush=True)


if __name__ == "__main__":
    main()
