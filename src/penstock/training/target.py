"""Training towards an unnormalised density, by reverse Kullback-Leibler divergence: the loop, on numbers of its own. It
knows no Flow.

``KL(q | p) = E_q[log q - log p]`` up to the logarithm of the evidence, over draws ``x = f^-1(z)`` of the flow q from latents
z, which are keyed. Each step asks the target once for a batch; every gradient of the flow is the engine's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock._warn import TargetWarning, TrainingWarning, warn
from penstock.history import Epoch, History
from penstock.layers import LULinear
from penstock.runner import Runner
from penstock.state import Snapshot, identity
from penstock.targets import LogDensity, evaluated, shown
from penstock.training.diagnosis import TrainingError
from penstock.training.log import Log
from penstock.training.loop import BETAS, EPSILON, Watch
from penstock.training.mean import Mean, running_mean
from penstock.training.options import TargetOptions, frozen_ranges
from penstock.training.pilot import pilot
from penstock.training.progress import Progress
from penstock.training.rows import Rows
from penstock.training.scale import start_actnorms, warn_far
from penstock.training.schedule import Patience
from penstock.training.start import Start, start_linear
from penstock.training.state import Best
from penstock.weights import RELIABLE, Summary, summary

START_ROWS = 4096  # rows that start ActNorm
CHUNK = 4096  # validation rows for which the target is asked together
# Seeds of draws that must not be those of the batches.
VALIDATION, PILOT = 1, 2


def run(
    runner: Runner,
    latents: Runner,
    snapshot: Snapshot,
    log_density: LogDensity,
    start: Start | None,
    options: TargetOptions,
    *,
    seed: int,
    actnorms: Sequence[int] = (),
    linear: tuple[int, LULinear] | None = None,
    progress: bool | None = None,
    watch: Watch | None = None,
) -> tuple[Snapshot, History]:
    """Train from a snapshot towards a target.

    Parameters
    ----------
    runner, latents : Runner
        Of the flow, and of its base alone, which draws.
    snapshot : Snapshot
        Where training begins. If it is not initialised, ``start`` or a pilot sets the standardisation and ActNorm first.
    log_density : callable
    start : Start or None
    options : TargetOptions
    seed : int
        Decides all draws.
    actnorms, progress, watch
        As for ``training.run``.
    linear : (int, LULinear), optional
        Number and spec of a layer that begins with the correlations that a pilot has found.

    Returns
    -------
    snapshot : Snapshot
    history : History

    Raises
    ------
    Exception
        Whatever is raised, by the target too, has two attributes more: ``history``, and ``best``, the snapshot that would
        have been kept, or None.
    """
    caller = np.geterr()

    def target(x: Array) -> Any:
        with np.errstate(**caller):
            return log_density(x)

    with np.errstate(all="ignore"):
        training = TargetTraining(runner, latents, snapshot, target, options, seed)
        try:
            training.prepare(start, actnorms, linear)
            training.train(progress, watch and np.errstate(**caller)(watch))
            return training.outcome() or snapshot, training.history
        except BaseException as error:
            training.settle("failed")
            with suppress(Exception):  # an error that takes no attributes
                error.best, error.history = training.outcome(), training.history  # type: ignore[attr-defined]
            raise


class TargetTraining:
    """One run towards a target."""

    def __init__(
        self, runner: Runner, latents: Runner, snapshot: Snapshot, target: LogDensity, options: TargetOptions, seed: int
    ) -> None:
        self.runner, self.before, self.target, self.options, self.seed = runner, snapshot, target, options, seed
        size = options.fit.batch_size
        assert size is not None
        self.budget = options.fit.budget(options.epoch_steps * size, validated=True)
        self.frozen = frozen_ranges(runner.plan.tensors, options.fit.freeze)
        self.params, self.buffers = snapshot.params.copy(), snapshot.buffers
        self.m, self.v = np.zeros_like(self.params), np.zeros_like(self.params)
        self._latents = latents
        self._base = latents.pack(np.zeros(latents.plan.n_params, latents.plan.dtype), identity(latents.plan))
        self.history = History()
        self.taken = self.epochs = 0
        self.best: Best | None = None
        self.mean: Mean | None = None
        self.patience = Patience()
        self.lowest = math.inf
        self.ready = False  # whether there is anything to keep
        self.left_out = self.asked = 0  # rows of batches
        self.shown = ""  # the first row that was left out
        self.told: Summary | None = None

    def draw(self, first: int, n: int, purpose: int = 0) -> Array:
        """Latents by number."""
        seed = (self.seed + purpose * 0x9E3779B97F4A7C15) % 2**64
        return self._latents.sample(self._base, n, seed, numbers=(first, 0))[0]

    def log_base(self, z: Array) -> Array:
        """Their log-density, in float64."""
        return self._latents.log_prob(self._base, z, dtype=np.dtype(np.float64))

    # --- before the first step ----------------------------------------------------------------------------------

    def prepare(self, start: Start | None, actnorms: Sequence[int], linear: tuple[int, LULinear] | None) -> None:
        """Set standardisation, a linear layer and ActNorm, unless an earlier fit did."""
        dim = self.runner.plan.dim
        if self.before.initialised:
            self.history.start = "an earlier fit"
        else:
            if start is None:
                found = pilot(self.target, lambda first, n: self.draw(first, n, PILOT), dim)
                if found is None:
                    raise TrainingError(
                        "log_density and its gradient are finite nowhere around 0, where the search for its location begins; "
                        "give init=: rows (prior draws), or (mean, scale). The flow is as it was before"
                    )
                start = Start(found.loc, found.scale, f"a pilot of {found.evaluations} evaluations", root=found.root)
            self.history.start = f"{start.words}: mean {shown(start.loc)}, scale {shown(start.scale)}"
            self.buffers = np.concatenate([start.loc, start.scale])
            if self.runner.plan.dtype == np.float32:  # what the target is asked for are its numbers
                warn_far(start.loc, start.scale, "the target", ())
            if linear is not None:
                start_linear(self.runner, *linear, self.params, self.buffers, start, self.frozen)
            if actnorms:
                rows = start.rows
                if rows is None:
                    root = np.diag(start.scale) if start.root is None else start.root
                    rows = start.loc + self.draw(0, START_ROWS, PILOT).astype(np.float64) @ root.T
                start_actnorms(self.runner, actnorms, self.params, self.buffers, Rows(rows[:START_ROWS]), self.frozen)

    # --- training -----------------------------------------------------------------------------------------------

    def train(self, progress: bool | None, watch: Watch | None) -> None:
        """All epochs."""
        budget = self.budget
        bar = Progress(progress, budget.schedule.n_steps * budget.batch_size)
        try:
            self.history.stopped = self._epochs(bar, Log(self.runner, budget, 0), watch)
        except KeyboardInterrupt:
            if not self.taken:
                raise
            self.settle("interrupted")
            kept = "the present parameters" if self.best is None else f"those of epoch {self.best.epoch}"
            warn(f"training was interrupted after {self.taken} steps; the flow keeps {kept}", TrainingWarning)
        finally:
            bar.close()
        self._warn_of_outcome()

    def _epochs(self, bar: Progress, log: Log, watch: Watch | None) -> str:
        """All epochs; why they ended."""
        began, budget = time.perf_counter(), self.budget
        averaged = running_mean(budget.schedule.n_steps)
        if self.before.initialised:
            told = self.validate(self.params)
            self.history.start_loss = -told.elbo
            self._consider(told, self.params, 0)
        while True:
            start, total = time.perf_counter(), 0.0
            for _ in range(budget.steps_per_epoch):
                rate = float(budget.schedule.rates(self.taken, 1, self.patience.factor)[0])
                total += self.step(rate)
                if averaged is not None and self.taken % averaged.interval == 0:
                    self.mean = averaged.add(self.mean, self.params)
                bar.update(budget.batch_size)
            seconds = time.perf_counter() - start
            self.epochs += 1
            told, candidate = self._better_of_two()
            epoch = Epoch(self.epochs, self.taken, total / budget.steps_per_epoch, -told.elbo, rate)
            self._note(epoch, told, candidate, time.perf_counter() - began, seconds)
            bar.epoch(f"epoch {self.epochs}/{budget.epochs}", self._words(told))
            log.epoch(self.taken, self.history)
            if watch is not None and watch(epoch, self.snapshot(self.params), self.history.copy()):
                return "callback"
            improved = epoch.validation_loss < self.lowest
            self.lowest = min(self.lowest, epoch.validation_loss) if improved else self.lowest
            self.patience, exhausted = budget.schedule.observe(self.patience, improved)
            if exhausted:
                return "patience"
            if self.epochs == budget.epochs:
                return "completed"

    def step(self, rate: float) -> float:
        """One step of Adam; the loss of its batch."""
        size = self.budget.batch_size
        loss, grad = self.loss_and_grad(self.draw(self.taken * size, size))
        if self.frozen is not None:
            for first, count in self.frozen:
                grad[first : first + count] = 0.0
        norm = _norm(grad)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient became {norm} at step {self.taken + 1}; likely cause: a learning rate that is too high (it was "
                f"{rate:.3g}); lower learning_rate or clip_norm. The flow is as it was before"
            )
        if norm > (clip := self.options.fit.clip_norm or math.inf):
            grad *= clip / norm
        params, m, v = self.params.copy(), self.m.copy(), self.v.copy()
        self.runner.adam(
            params, grad, m, v, self.taken + 1, rate, BETAS, EPSILON, self.options.fit.weight_decay or 0.0, True
        )
        if self.frozen is not None:
            for first, count in self.frozen:
                params[first : first + count] = self.params[first : first + count]
        if not np.isfinite(params).all():
            raise TrainingError(
                f"a parameter became NaN or infinite at step {self.taken + 1}; likely cause: a learning rate that is too high "
                f"(it was {rate:.3g}). The flow is as it was before"
            )
        # At once, so that an interruption leaves numbers of one step.
        self.params, self.m, self.v, self.taken, self.ready = params, m, v, self.taken + 1, True
        return loss

    def loss_and_grad(self, z: Array) -> tuple[float, Array]:
        """The mean of ``log q - log p`` over the images of latents, and its gradient with respect to the parameters.

        Path ("sticking the landing"): ``(d log q / dx - d log p / dx)^T dx / dparams``, with the parameters inside log q
        held fixed, whose own gradient, the score, has mean zero and a variance that is left out; at the target every draw's
        gradient is zero. Reparameterised: of ``log base(z) - log |det dx/dz| - log p(x)``. Rows where log p or its gradient
        is not finite are left out.

        References
        ----------
        Roeder, Wu, Duvenaud, "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference"
        (2017).
        """
        runner, dtype = self.runner, self.runner.plan.dtype
        packed = runner.pack(self.params, self.buffers)
        x, log_det = runner.transform(packed, True, z)
        if not np.isfinite(x).all(axis=1).any():
            raise TrainingError(
                f"no draw of step {self.taken + 1} is finite; likely cause: a learning rate that is too high. Lower "
                "learning_rate or clip_norm. The flow is as it was before"
            )
        log_p, slope = evaluated(self.target, x, gradient=True)
        assert slope is not None
        path = self.options.estimator == "path"
        d_x = -slope
        if path:
            d_x += runner.log_prob_and_grad(packed, x, None, contexts=False).x
        losses = self.log_base(z) - log_det - log_p
        good = np.isfinite(losses) & np.isfinite(d_x.astype(dtype)).all(axis=1)
        count = int(good.sum())
        self._count(x, good)
        if count == 0:
            raise TrainingError(
                f"log_density or its gradient is NaN or infinite for all {len(z)} draws of step {self.taken + 1}, first at "
                f"x = {self.shown}: give init= where the target is finite, or lower learning_rate. The flow is as it was before"
            )
        d_x = np.where(good[:, None], d_x, 0.0) / count
        d_log_det = None if path else (good * (-1.0 / count)).astype(dtype)
        found = runner.vjp(packed, True, z, d_x.astype(dtype), d_log_det)
        assert found.params is not None
        return float(losses[good].mean()), found.params

    def _count(self, x: Array, good: Array) -> None:
        """Note the rows that are left out."""
        lost = len(good) - int(good.sum())
        if lost and not self.shown:
            self.shown = shown(x[np.argmin(good)])
        self.left_out += lost
        self.asked += len(good)

    # --- what an epoch has reached ------------------------------------------------------------------------------

    def validate(self, params: Array) -> Validation:
        """The lower bound and the importance weights of some parameters, on draws that are the same after every epoch."""
        packed, n = self.runner.pack(params, self.buffers), self.options.validation
        log_weights = np.zeros(n)
        for first in range(0, n, CHUNK):
            z = self.draw(first, min(CHUNK, n - first), VALIDATION)
            x, log_det = self.runner.transform(packed, True, z)
            log_p, _ = evaluated(self.target, x, gradient=False)
            log_weights[first : first + len(z)] = log_p - (self.log_base(z) - log_det)
        log_weights[np.isnan(log_weights) | (log_weights == math.inf)] = -math.inf
        elbo, spread = float(log_weights.mean()), float(log_weights.std())
        return Validation(elbo, spread / math.sqrt(n - 1), summary(log_weights))

    def _better_of_two(self) -> tuple[Validation, Array]:
        """Validate the present parameters and their running mean: what the better of the two reached, and which these are."""
        told = self.validate(self.params)
        if self.mean is None:
            return told, self.params
        mean = self.mean.params.astype(self.params.dtype)
        its = self.validate(mean)
        return (its, mean) if its.elbo > told.elbo else (told, self.params)

    def _note(self, epoch: Epoch, told: Validation, params: Array, seconds: float, trained: float) -> None:
        history = self.history
        rows = self.budget.steps_per_epoch * self.budget.batch_size / max(trained, 1e-9)
        history.add(epoch, seconds=seconds, rows_per_second=rows, validated=True)
        history.elbo.append(told.elbo)
        history.elbo_error.append(told.error)
        history.ess.append(told.weights.ess / self.options.validation)
        history.pareto_k.append(told.weights.pareto_k)
        self._consider(told, params, epoch.epoch)

    def _words(self, told: Validation) -> str:
        return f"elbo {told.elbo:.4g}, ess {told.weights.ess / self.options.validation:.0%}"

    def _consider(self, told: Validation, params: Array, epoch: int) -> None:
        """Keep these parameters if they are the best so far."""
        if math.isfinite(told.elbo) and -told.elbo < (math.inf if self.best is None else self.best.loss):
            self.best, self.told = Best(-told.elbo, params.copy(), epoch), told.weights
            self.history.best_epoch = epoch

    def _warn_of_outcome(self) -> None:
        """Warn of what the run says of the target."""
        if self.left_out:
            warn(
                f"log_density or its gradient was NaN or infinite for {self.left_out} of {self.asked} draws, first at "
                f"x = {self.shown}; they were left out of the gradients. Where p is 0 inside the reach of the flow, map its "
                "support to the whole line",
                TargetWarning,
            )
        if self.best is None:
            warn(
                "the lower bound was never finite: after each epoch log_density was NaN or -inf for some draw; the flow keeps "
                "its last parameters",
                TargetWarning,
            )
        elif self.told is not None and self.told.pareto_k > RELIABLE:
            warn(
                f"the importance weights of the flow have a heavy tail, pareto_k = {self.told.pareto_k:.2f} (reliable up to "
                f"{RELIABLE}): it is narrower than the target somewhere; more epochs or a more flexible flow may help",
                TargetWarning,
            )

    # --- what remains -------------------------------------------------------------------------------------------

    def snapshot(self, params: Array) -> Snapshot:
        """A snapshot of some parameters."""
        return Snapshot(self.runner.plan.clear_masked(params.copy()), self.buffers.copy(), True)

    def outcome(self) -> Snapshot | None:
        """The best snapshot, or without one the present; None before the first step."""
        if self.best is not None:
            return self.snapshot(self.best.params)
        return self.snapshot(self.params) if self.ready else None

    def settle(self, stopped: str) -> None:
        """Bring the history to where an exception has stopped the run."""
        self.history.trim(min(len(self.history), len(self.history.pareto_k)))
        self.history.stopped = stopped


class Validation(NamedTuple):
    """The lower bound with its standard error, and what the importance weights tell."""

    elbo: float
    error: float
    weights: Summary


def _norm(x: Array) -> float:
    """The length of a vector, summed in an order that no number of threads changes, and without overflow."""
    top = float(np.abs(x).max(initial=0.0))
    return top * math.sqrt(float(((x / top) ** 2).sum())) if 0 < top < math.inf else top
