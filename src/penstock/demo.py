"""``penstock demo``: an autoregressive spline flow learns the joint density of redshift and six magnitudes of real galaxies."""

from __future__ import annotations

import hashlib
import shlex
import time
from functools import partial
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import penstock as ps
from penstock._files import check_writable, replacing
from penstock._typing import Array

NOT_DETECTED = 99.0
COLUMNS = ("redshift", "u", "g", "r", "i", "z", "y")
NAME, LAYERS, HIDDEN, BINS = "spline flow", 5, (64, 64), 8
MANY = 1_000_000
SHORT = 2  # epochs of the trainings with one and with two threads
CLEAR = 2.0  # standard errors from which one density is said to be ahead of another


def galaxies() -> Array:
    """Load the whole table, (10225, 7) float32: redshift and the magnitudes u g r i z y; 99.0 marks a non-detection.

    Simulated galaxies of the LSST Dark Energy Science Collaboration's second data challenge, MIT licence.
    """
    with (files("penstock") / "data" / "galaxies.npz").open("rb") as file, np.load(file) as table:
        columns: Array = table["data"]
    return columns.T.copy()


def demo(
    output: str | Path,
    *,
    seed: int = 0,
    backend: str = "auto",
    epochs: int | None = None,
    ensemble: int | None = None,
    progress: bool | None = None,
) -> int:
    """Train, compare, sample, check, draw and save; returns the exit code."""
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

    flow = (
        new_flow(seed, backend)
        if ensemble is None
        else ps.Ensemble(partial(new_flow, backend=backend), ensemble, rng=seed)
    )
    networks = "x".join(map(str, HIDDEN))
    say(f"Autoregressive spline flow: {LAYERS} layers of {BINS} bins, networks {networks}, LU layers between them,")
    if isinstance(flow, ps.Ensemble):
        say(f"an ensemble of {flow.n} of them, which differ in start, permutations and order of rows,")
    say(f"{flow.n_free} parameters, backend {flow.backend}. Its support: redshift positive.")
    start = time.perf_counter()
    flow.fit(train, validation=validation, epochs=epochs, rng=seed, progress=progress)
    seconds = time.perf_counter() - start
    runs = list(flow.history) if isinstance(flow, ps.Ensemble) else [flow.history]
    steps = sum(own.step[-1] for own in runs if len(own))
    kept = ", ".join(str(own.best_epoch) for own in runs)
    say(f"{sum(map(len, runs))} epochs, {steps} steps in {seconds:.1f} s; kept: epoch {kept}.")
    if isinstance(flow, ps.Ensemble):
        say(f"Weights by the galaxies that choose: {', '.join(f'{weight:.3f}' for weight in flow.weights)}.")
    say("")
    flow.save(model)
    if "interrupted" in flow.history.stopped:
        say(f"Training was interrupted. The model so far is in {model}.")
        return 130

    compare(flow, train, validation, test, seed)
    sampled = flow.sample(len(rows), rng=seed)
    say(
        f"Sampled {len(sampled)} galaxies. Their redshifts are positive, as declared: the least is {sampled[:, 0].min():.2g}."
    )
    check_speed(flow, seed)
    check_round_trip(flow.members[0] if isinstance(flow, ps.Ensemble) else flow, rows)
    check_threads(train, validation, seed, backend)
    pictures(flow, rows, sampled, corner, loss)
    say(f"Model: {model}\n{time.perf_counter() - began:.0f} s in all.\n")
    say(next_steps(model, test[0]))
    return 0


def new_flow(rng: int, backend: str) -> ps.Flow:
    """Build the flow of the demo, untrained."""
    return ps.nsf_ar(
        len(COLUMNS), layers=LAYERS, hidden=HIDDEN, bins=BINS, support={0: "positive"}, rng=rng, backend=backend
    )  # fmt: skip


def say(text: str) -> None:
    """Print now, so that what is written to a pipe appears as it happens."""
    print(text, flush=True)


def installed(package: str, name: str, without: str) -> bool:
    """Whether a package is there; if not, say what is left out, and what to install."""
    if find_spec(package) is not None:
        return True
    say(f"{name} is not installed, so {without}: pip install 'penstock[demo]'")
    return False


def compare(flow: ps.Flow | ps.Ensemble, train: Array, validation: Array, test: Array, seed: int) -> None:
    """Hold the flow against other densities: by likelihood, and by a classifier that looks at samples."""
    # Densities are told in units in which every training column has standard deviation 1.
    units = float(np.log(train.std(axis=0, dtype=np.float64)).sum())
    scores = {NAME: flow.log_prob(test).astype(np.float64) + units}
    if not installed("sklearn", "scikit-learn", "there is nothing to compare with, and no classifier"):
        report(scores, units)
        return
    from penstock._compare import FOLDS, MIXTURE_SIZES, rivals, two_sample

    say(f"Fitting mixtures of {MIXTURE_SIZES[0]} to {MIXTURE_SIZES[-1]} normals and kernel estimates to compare with,")
    say("each tuned on the galaxies that choose ...")
    others = rivals(train, validation, test, seed)
    report(scores | {other.name: other.log_prob + units for other in others}, units)

    say(f"A classifier (boosted trees, {FOLDS}-fold cross-validation) tells test galaxies from as many sampled ones.")
    say("How often it is right, +- its standard error; 0.5 is guessing, so indistinguishable to it:")
    samples = {NAME: flow.sample(len(test), rng=seed)} | {other.name: other.sampled for other in others}
    for name, rows in (samples | {"(real galaxies, as a check)": validation}).items():
        accuracy, error = two_sample(test, rows, seed)
        say(f"  {name:36s} {accuracy:7.3f} +- {error:.3f}")
    say("")


def report(scores: dict[str, Array], units: float) -> None:
    """Print the held-out log-likelihoods, and how far the first is from the others."""
    name, ours = next(iter(scores.items()))
    say(f"Held-out mean log-likelihood on the same {len(ours)} galaxies, nats a galaxy")
    say("(columns in units of their standard deviation; +- standard error):")
    for other, score in scores.items():
        say(f"  {other:36s} {score.mean():7.3f} +- {_error(score):.3f}")
    say(f"In the units of the table, subtract {units:.3f}: {name} {ours.mean() - units:.3f}.")
    if len(scores) > 1:
        say(f"{name} minus the other, paired galaxy by galaxy, +- standard error:")
    for other, score in list(scores.items())[1:]:
        difference, error = float((ours - score).mean()), _error(ours - score)
        say(f"  {other:36s} {difference:+7.3f} +- {error:.3f}   {verdict(name, difference, error)}")
    say("")


def verdict(name: str, difference: float, error: float) -> str:
    """Say who is ahead, whoever that is."""
    if abs(difference) <= CLEAR * error:
        return f"no difference beyond {CLEAR:g} standard errors"
    return f"{name} is {'better' if difference > 0 else 'worse'}"


def _error(score: Array) -> float:
    return float(score.std() / np.sqrt(len(score)))


def check_speed(flow: ps.Flow | ps.Ensemble, seed: int) -> None:
    """Time a large sample, in one call."""
    start = time.perf_counter()
    flow.sample(MANY, rng=seed)
    seconds = time.perf_counter() - start
    say(f"10^6 galaxies in {seconds:.2f} s; one call, number of threads {ps.num_threads()}.")


def check_round_trip(flow: ps.Flow, rows: Array) -> None:
    """Print how well the two directions undo each other, for every number of the table."""
    back = flow.to_data(flow.to_latent(rows)[0])[0]
    error = np.abs(back.astype(np.float64) - rows) / rows.std(axis=0, dtype=np.float64)
    most, all_of_them = np.quantile(error, 0.999), error.max()
    say(f"abs(x - to_data(to_latent(x))), in standard deviations of its column, {flow.dtype}:")
    say(f"99.9 % within {most:.1e}, all within {all_of_them:.1e}.")


def check_threads(train: Array, validation: Array, seed: int, backend: str) -> None:
    """Train for a moment with one and with two threads, and compare the parameters' bits."""
    hashes = []
    for threads in (1, 2):
        with ps.threads(threads):
            flow = new_flow(seed, backend)
            flow.fit(train, validation=validation, epochs=SHORT, rng=seed, progress=False)
        if flow.history.stopped == "interrupted":
            raise KeyboardInterrupt
        hashes.append(hashlib.sha256(flow.params.tobytes()).hexdigest()[:12])
    one, two = hashes
    judged = "identical" if one == two else "DIFFERENT, which is a bug of penstock"
    say(f"Parameters after {flow.history.step[-1]} steps, by SHA-256: 1 thread {one}, 2 threads {two}: {judged}.")


def pictures(flow: ps.Flow | ps.Ensemble, rows: Array, sampled: Array, corner: Path, loss: Path) -> None:
    """Draw the corner plot and the loss curve, if matplotlib is there."""
    if not installed("matplotlib", "matplotlib", "there are no pictures"):
        return
    from matplotlib.figure import Figure

    from penstock._corner import corner_plot

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    flow.history.plot(axes)
    axes.set_title(f"{NAME} on {len(COLUMNS)} galaxy columns", fontsize=10)
    for path, picture in ((corner, corner_plot(rows, sampled)), (loss, figure)):
        with replacing(str(path)) as file:  # at once, so that nothing half-drawn is left
            picture.savefig(file, format="png", dpi=130)
    say(f"Pictures: {corner} and {loss}")


def next_steps(model: Path, galaxy: Array) -> str:
    """Write a shell command, and five lines of Python that run as printed."""
    magnitudes = [round(float(magnitude), 2) for magnitude in galaxy[1:]]
    return f"""To go on, in a shell:

penstock sample {shlex.quote(str(model))} -n 100000 -o {shlex.quote(str(model.with_name("sampled.npy")))}

or in Python, to guess the redshift of a test galaxy from its magnitudes (the true one is {galaxy[0]:.2f}):

import numpy as np
import penstock as ps
flow, redshift = ps.load({str(model)!r}), np.linspace(0, 3, 301)
rows = np.column_stack([redshift, np.tile({magnitudes}, (301, 1))])
print(f"most likely redshift: {{redshift[flow.log_prob(rows).argmax()]:.2f}}")"""
