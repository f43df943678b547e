"""``penstock demo``: a Real NVP learns the joint density of redshift and six magnitudes of real galaxies."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from penstock.train import check_writable

Array = np.ndarray[Any, Any]

NOT_DETECTED = 99.0
COLUMNS = ("redshift", "u", "g", "r", "i", "z", "y")
LAYERS, HIDDEN = 8, (64, 64)
MIXTURE_SIZES = (4, 8, 16, 32, 64)
BANDWIDTHS = (0.04, 0.06, 0.09, 0.13, 0.19, 0.28, 0.4)


def galaxies() -> Array:
    """Load the whole table, (10225, 7) float32: redshift and the magnitudes u g r i z y; 99.0 marks a non-detection.

    Simulated galaxies of the LSST Dark Energy Science Collaboration's second data challenge, MIT licence.
    """
    with (files("penstock") / "data" / "galaxies.npz").open("rb") as file, np.load(file) as table:
        columns: Array = table["data"]
    return columns.T.copy()


def demo(
    output: str | Path, *, seed: int = 0, backend: str = "auto", epochs: int | None = None, progress: bool | None = None
) -> int:
    """Train, compare, sample, draw and save; returns the exit code."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    model, corner, loss = (
        folder / name for name in ("galaxies.safetensors", "galaxies-corner.png", "galaxies-loss.png")
    )
    for path in (model, corner, loss):
        check_writable(path)
    began = time.perf_counter()

    table = galaxies()
    missing = (table == NOT_DETECTED).any(axis=1)
    rows = table[~missing]
    say(f"{len(table)} galaxies: redshift and the magnitudes {' '.join(COLUMNS[1:])}.")
    say(f"{missing.sum()} have a magnitude of {NOT_DETECTED} (not detected in that band), dropped; {len(rows)} remain.")
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    train, validation, test = np.split(rows, [int(0.8 * len(rows)), int(0.9 * len(rows))])
    say(f"{len(train)} train, {len(validation)} choose, {len(test)} test.\n")

    # Smooth networks leave thinner tails between the data than relu does, and 7 columns need no further mixing.
    flow = ps.realnvp(
        len(COLUMNS), layers=LAYERS, hidden=HIDDEN, activation="silu", mixing="none", rng=seed, backend=backend
    )
    networks = "x".join(map(str, HIDDEN))
    say(
        f"Real NVP: {LAYERS} affine couplings, networks {networks}, {flow.n_params} parameters, backend {flow.backend}."
    )
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an interruption is told below
        flow.fit(train, validation=validation, epochs=epochs, rng=seed, progress=progress)
    seconds = time.perf_counter() - start
    history = flow.history
    steps = history.step[-1] if len(history) else 0
    say(f"{len(history)} epochs, {steps} steps in {seconds:.1f} s; kept: epoch {history.best_epoch}.\n")
    flow.save(model)
    if history.stopped == "interrupted":
        say(f"Training was interrupted. The model so far is in {model}.")
        return 130

    # Densities are compared in units in which every training column has standard deviation 1.
    mean, std = train.mean(axis=0, dtype=np.float64), train.std(axis=0, dtype=np.float64)
    units = float(np.log(std).sum())
    scores = {"Real NVP": flow.log_prob(test).astype(np.float64) + units}
    parts = [(part - mean) / std for part in (train, validation, test)]
    scores |= classical(parts, seed)
    report(scores, units)

    sampled = flow.sample(len(rows), rng=seed)
    below = float((sampled[:, 0] < 0).mean())
    say(f"Sampled {len(sampled)} galaxies. {100 * below:.2f} % have a redshift below 0: this flow knows no edges.")
    pictures(flow, rows, sampled, corner, loss)
    say(f"Model: {model}\n{time.perf_counter() - began:.0f} s in all.")
    return 0


def say(text: str) -> None:
    """Print now, so that what is written to a pipe appears as it happens."""
    print(text, flush=True)


def classical(parts: Sequence[Array], seed: int) -> dict[str, Array]:
    """Test log-likelihoods of a Gaussian mixture and a kernel density estimate, each tuned on the validation rows."""
    try:
        from sklearn.mixture import GaussianMixture
        from sklearn.neighbors import KernelDensity
    except ImportError:
        say("scikit-learn is not installed, so there is nothing to compare with: pip install 'penstock[demo]'\n")
        return {}

    def mixture(size: float, rows: Array) -> Any:
        return GaussianMixture(int(size), random_state=seed).fit(rows)

    def kernel(bandwidth: float, rows: Array) -> Any:
        return KernelDensity(bandwidth=float(bandwidth)).fit(rows)

    # The kernel takes the shape of the data's covariance: magnitudes are too correlated for an isotropic one.
    root = np.linalg.cholesky(np.cov(parts[0].T))
    white = [np.linalg.solve(root, part.T).T for part in parts]
    jacobian = float(np.log(np.diag(root)).sum())
    say("Fitting mixtures of 4 to 64 normals and kernel estimates, to compare with ...")
    size, mixture_scores = _tuned(mixture, MIXTURE_SIZES, parts)
    bandwidth, kernel_scores = _tuned(kernel, BANDWIDTHS, white)
    return {
        f"Gaussian mixture, {size:g} components": mixture_scores,
        f"kernel estimate, bandwidth {bandwidth:g}": kernel_scores - jacobian,
    }


def _tuned(
    make: Callable[[float, Array], Any], options: Sequence[float], parts: Sequence[Array]
) -> tuple[float, Array]:
    """Return the option that is best on validation, and its log-likelihoods on the test rows."""
    train, validation, test = parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a mixture short of convergence is judged like the others
        models = [make(option, train) for option in options]
    best = int(np.argmax([model.score_samples(validation).mean() for model in models]))
    return options[best], models[best].score_samples(test)


def report(scores: dict[str, Array], units: float) -> None:
    """Print the held-out log-likelihoods, and how far the others are from the first."""
    ours = next(iter(scores.values()))
    say(f"Held-out mean log-likelihood on the same {len(ours)} galaxies, nats a galaxy")
    say("(columns in units of their standard deviation; with its standard error):")
    for name, score in scores.items():
        line = f"  {name:36s} {score.mean():7.3f} +- {_error(score):.3f}"
        if score is not ours:
            line += f"    Real NVP minus this: {(ours - score).mean():+.3f} +- {_error(ours - score):.3f}"
        say(line)
    say(f"In the units of the table, subtract {units:.3f}: Real NVP {ours.mean() - units:.3f}.\n")


def _error(score: Array) -> float:
    return float(score.std() / np.sqrt(len(score)))


def pictures(flow: ps.Flow, rows: Array, sampled: Array, corner: Path, loss: Path) -> None:
    """Draw the corner plot and the loss curve, if matplotlib is there."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        say("matplotlib is not installed, so there are no pictures: pip install 'penstock[demo]'")
        return
    from penstock._corner import corner_plot

    corner_plot(rows, sampled).savefig(corner, dpi=130)
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    flow.history.plot(axes)
    axes.set_title("Real NVP on 7 galaxy columns", fontsize=10)
    figure.savefig(loss, dpi=130)
    say(f"Pictures: {corner} and {loss}")
