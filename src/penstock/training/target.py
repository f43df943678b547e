"""Training towards an unnormalised density, by reverse Kullback-Leibler divergence: the loop, on numbers of its own. It
knows no Flow.

``KL(q | p) = E_q[log q - log p]`` up to the logarithm of the evidence, over draws ``x = f^-1(z)`` of the flow q from latents
z, which are keyed. Each step asks the target once for a batch; every gradient of the flow is the engine's.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock._warn import TargetWarning, TrainingWarning, warn
from penstock.files import model
from penstock.history import Epoch, History
from penstock.runner import Runner
from penstock.state import Snapshot
from penstock.targets import LogDensity, shown
from penstock.training.bound import Validation, lower_bound
from penstock.training.checkpoint import Checkpoint
from penstock.training.contexts import Contexts
from penstock.training.diagnosis import TrainingError
from penstock.training.divergence import Divergence
from penstock.training.log import Log
from penstock.training.loop import BETAS, EPSILON, Watch
from penstock.training.mean import running_mean
from penstock.training.options import TargetOptions, frozen_ranges
from penstock.training.progress import Progress
from penstock.training.start import Design, Start, begin, settled
from penstock.training.state import Best, Moment, State
from penstock.training.target_state import Probe, Tally, facts_of, history_of, tensors_of
from penstock.weights import RELIABLE


def run(
    runner: Runner,
    snapshot: Snapshot,
    log_density: LogDensity,
    start: Start | None,
    options: TargetOptions,
    design: Design,
    *,
    seed: int | None,
    contexts: Contexts | None = None,
    progress: bool | None = None,
    watch: Watch | None = None,
    checkpoint: Checkpoint | None = None,
    contents: model.Contents | None = None,
) -> tuple[Snapshot, History]:
    """Train from a snapshot towards a target, or go on with a run that a checkpoint holds.

    Parameters
    ----------
    runner : Runner
    snapshot : Snapshot
        Where training begins. If it is not initialised, ``start`` or a pilot sets the standardisation and ActNorm first.
    log_density : callable
    start : Start or None
    options : TargetOptions
    design : Design
        What else there is to know of the flow.
    seed : int or None
        Decides all draws. None takes that of the run that is resumed, or a new one.
    contexts : Contexts, optional
        Of a flow with a context.
    progress, watch, checkpoint, contents
        As for ``training.run``.

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

    def target(*arguments: Array) -> Any:
        with np.errstate(**caller):
            return log_density(*arguments)

    with np.errstate(all="ignore"):
        found = None if checkpoint is None else checkpoint.find()
        if found is None and start is not None and snapshot.initialised:
            raise ValueError(
                "init was given, but a later fit keeps the standardisation of the first; flow.reset() forgets it"
            )
        if seed is None:
            seed = _validate.seed(None) if found is None else found.seed
        training = TargetTraining(runner, snapshot, target, options, design, seed, contexts, checkpoint)
        try:
            if checkpoint is not None and contents is not None:
                told = facts_of(contents, runner, options, training.budget, start, contexts)
                checkpoint.begin(found, contents, told, training.budget, seed)
            if found is None:
                training.prepare(start)
            else:
                training.restore(*found.resumed(runner.plan, training.budget), found.contents)
            training.train(progress, watch and np.errstate(**caller)(watch))
            outcome = training.outcome() or snapshot
            if checkpoint is not None and training.history.stopped != "interrupted":
                checkpoint.finish(outcome, training.history)
        except BaseException as error:
            training.settle("failed")
            training.rescue(error)
            with suppress(Exception):  # an error that takes no attributes
                error.best, error.history = training.outcome(), training.history  # type: ignore[attr-defined]
            raise
        return outcome, training.history


class TargetTraining:
    """One run towards a target: what is fixed, and the state, which goes from one consistent state to the next at once."""

    def __init__(
        self, runner: Runner, snapshot: Snapshot, target: LogDensity, options: TargetOptions, design: Design, seed: int,
        contexts: Contexts | None = None, checkpoint: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        self.runner, self.before, self.target, self.options, self.seed = runner, snapshot, target, options, seed
        self.design, self.contexts, self.checkpoint = design, contexts, checkpoint
        size = options.fit.batch_size
        assert size is not None
        self.budget = options.fit.budget(options.epoch_steps * size, validated=True)
        self.frozen = frozen_ranges(runner.plan.tensors, options.fit.freeze)
        self.params, self.buffers = snapshot.params.copy(), snapshot.buffers
        self.m, self.v = np.zeros_like(self.params), np.zeros_like(self.params)
        self.divergence = Divergence(
            runner, target, seed, path=options.estimator == "path", contexts=contexts,
            mixtures=[mixture.components for mixture in design.mixtures],
        )  # fmt: skip
        self.history, self.state, self.tally = History(), State(), Tally()
        self.losses = np.zeros(self.budget.steps_per_epoch)
        self.mean = running_mean(self.budget.schedule.n_steps)
        self.probe: Probe | None = None

    @property
    def taken(self) -> int:
        """Steps of the whole run."""
        return self.state.step

    # --- before the first step ----------------------------------------------------------------------------------

    def prepare(self, start: Start | None) -> None:
        """Set standardisation, a linear layer, mixtures and ActNorm, unless an earlier fit did."""
        if self.before.initialised:
            self.history.start = "an earlier fit"
            return
        found = settled(start, self.target, self.design, self.contexts, self.seed)
        self.buffers = begin(self.runner, self.params, found, self.design, self.contexts, self.seed, self.frozen)
        loc, scale = self.buffers[: self.runner.plan.dim], self.buffers[self.runner.plan.dim : 2 * self.runner.plan.dim]
        self.history.start = f"{found.words}: mean {shown(loc)}, scale {shown(scale)}"

    def restore(self, moment: Moment, buffers: Array, contents: model.Contents) -> None:
        """Stand where a checkpoint was written."""
        self.probe = Probe.of(contents, self.target)  # first, as it is an error where the target is another one
        self.params, self.buffers, self.m, self.v = moment.params, buffers, moment.m, moment.v
        self.losses[: len(moment.losses)] = moment.losses
        self.state = moment.state
        self.history = history_of(contents, moment)
        self.tally = Tally.of(contents)
        self._note_best()

    # --- training -----------------------------------------------------------------------------------------------

    def train(self, progress: bool | None, watch: Watch | None) -> None:
        """All epochs, and what remains of them."""
        budget = self.budget
        bar = Progress(progress, budget.schedule.n_steps * budget.batch_size, self.taken * budget.batch_size)
        try:
            self.history.stopped = self._epochs(bar, Log(self.runner, budget, self.taken), watch)
        except KeyboardInterrupt:
            if not self.taken:
                raise
            self.settle("interrupted")
            best = self.state.best
            kept = "the present parameters" if best is None else f"those of epoch {best.epoch}"
            warn(
                f"training was interrupted after {self.taken} steps; the flow keeps {kept}{self.rescue(None)}",
                TrainingWarning,
            )
        finally:
            bar.close()
        self._warn_of_outcome()

    def _epochs(self, bar: Progress, log: Log, watch: Watch | None) -> str:
        """All epochs that are left; why they ended."""
        began, budget = time.perf_counter(), self.budget
        if self.before.initialised and self.taken == 0:
            told = self.validate(self.params)
            self.state = replace(self.state, start_loss=-told.elbo)
            self._consider(told, self.params, 0)
            self._note_best()
        while True:
            start, first = time.perf_counter(), self.state.first
            self._train_epoch(bar)
            if self.state.closed < self.state.epoch:
                now = time.perf_counter()
                rows = (self.state.first - first) * budget.batch_size
                self._close(now - began, rows / max(now - start, 1e-9))
            epoch = self.history.last()
            bar.epoch(f"epoch {epoch.epoch}/{budget.epochs}", self._words())
            log.epoch(self.taken, self.history)
            stopped = self._report(epoch, watch)
            if stopped:
                return stopped

    def _train_epoch(self, bar: Progress) -> None:
        """The steps of the present epoch that are left."""
        every = self.checkpoint and self.checkpoint.every
        while self.state.first < self.budget.steps_per_epoch:
            rate = float(self.budget.schedule.rates(self.taken, 1, self.state.patience.factor)[0])
            self.step(rate)
            bar.update(self.budget.batch_size)
            if every and self.taken % every == 0:
                self.save()

    def step(self, rate: float) -> float:
        """One step of Adam; the loss of its batch."""
        state, number = self.state, self.taken + 1
        loss, grad = self.loss_and_grad(self.taken)
        if self.frozen is not None:
            for first, count in self.frozen:
                grad[first : first + count] = 0.0
        norm = _norm(grad)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient became {norm} at step {number}; likely cause: a learning rate that is too high (it was "
                f"{rate:.3g}); lower learning_rate or clip_norm. The flow is as it was before"
            )
        if norm > (clip := self.options.fit.clip_norm or math.inf):
            grad *= clip / norm
        params, m, v = self.params.copy(), self.m.copy(), self.v.copy()
        decay = self.options.fit.weight_decay or 0.0
        self.runner.adam(params, grad, m, v, number, rate, BETAS, EPSILON, decay, True)
        if self.frozen is not None:
            for first, count in self.frozen:
                params[first : first + count] = self.params[first : first + count]
        if not np.isfinite(params).all():
            raise TrainingError(
                f"a parameter became NaN or infinite at step {number}; likely cause: a learning rate that is too high "
                f"(it was {rate:.3g}). The flow is as it was before"
            )
        mean = state.mean
        if self.mean is not None and number % self.mean.interval == 0:
            mean = self.mean.add(mean, params)
        self.losses[state.first] = loss
        # At once, so that an interruption leaves numbers of one step.
        self.params, self.m, self.v, self.state = (
            params, m, v, replace(state, first=state.first + 1, step=number, mean=mean)
        )  # fmt: skip
        return loss

    def loss_and_grad(self, step: int) -> tuple[float, Array]:
        """The loss of the batch of a step and its gradient; what the target has not answered for is noted."""
        size = self.budget.batch_size
        found = self.divergence.estimate(self.params, self.buffers, step, size)
        if not np.isfinite(found.x).all(axis=1).any():
            raise TrainingError(
                f"no draw of step {step + 1} is finite; likely cause: a learning rate that is too high. Lower "
                "learning_rate or clip_norm. The flow is as it was before"
            )
        self.tally = self.tally.add(found.x, found.good)
        if not found.good.any():
            raise TrainingError(
                f"log_density or its gradient is NaN or infinite for all {size} draws of step {step + 1}, first at "
                f"x = {self.tally.shown}: give init= where the target is finite, or lower learning_rate. The flow is as it was "
                "before"
            )
        return found.loss, found.grad

    # --- what an epoch has reached ------------------------------------------------------------------------------

    def validate(self, params: Array) -> Validation:
        """The lower bound and the importance weights of some parameters, on draws that are the same after every epoch."""
        packed = self.runner.pack(params, self.buffers)
        told, probe = lower_bound(self.runner, self.target, packed, self.contexts, self.options.validation, self.seed)
        self.probe = self.probe or probe
        return told

    def _close(self, seconds: float, rows_per_second: float) -> None:
        """The results of an epoch whose steps are done."""
        state, history = self.state, self.history
        told, params = self.validate(self.params), self.params
        if state.mean is not None:
            mean = state.mean.params.astype(self.params.dtype)
            its = self.validate(mean)
            told, params = (its, mean) if its.elbo > told.elbo else (told, params)
        rate = float(self.budget.schedule.rates(self.taken - 1, 1, state.patience.factor)[0])
        loss = float(self.losses.sum() / len(self.losses))
        history.add(
            Epoch(state.epoch, state.step, loss, -told.elbo, rate), seconds=seconds, rows_per_second=rows_per_second,
            validated=True,
        )  # fmt: skip
        history.elbo.append(told.elbo)
        history.elbo_error.append(told.error)
        history.ess.append(told.weights.ess / told.draws)
        history.pareto_k.append(told.weights.pareto_k)
        self._consider(told, params, state.epoch)
        self.state = replace(self.state, closed=state.epoch)
        self._note_best()
        self.save()

    def _report(self, epoch: Epoch, watch: Watch | None) -> str:
        """Tell callbacks of an epoch and go on to the next one, or say why training ends; as ``Training`` does."""
        state = self.state
        if watch is not None and watch(epoch, self.snapshot(self.params), self.history.copy()):
            return "callback"
        improved = epoch.validation_loss < state.lowest
        patience, exhausted = self.budget.schedule.observe(state.patience, improved)
        if exhausted:
            return "patience"
        if state.epoch == self.budget.epochs:
            return "completed"
        lowest = epoch.validation_loss if improved else state.lowest
        self.state = replace(state, epoch=state.epoch + 1, first=0, lowest=lowest, patience=patience)
        return ""

    def _words(self) -> str:
        return f"elbo {self.history.elbo[-1]:.4g}, ess {self.history.ess[-1]:.0%}"

    def _consider(self, told: Validation, params: Array, epoch: int) -> None:
        """Keep these parameters if they are the best so far."""
        best = self.state.best
        if math.isfinite(told.elbo) and -told.elbo < (math.inf if best is None else best.loss):
            self.tally = replace(self.tally, pareto_k=told.weights.pareto_k)
            self.state = replace(self.state, best=Best(-told.elbo, params.copy(), epoch))

    def _note_best(self) -> None:
        """Bring the history up to the state."""
        self.history.best_epoch = None if self.state.best is None else self.state.best.epoch
        self.history.start_loss = self.state.start_loss

    def _warn_of_outcome(self) -> None:
        """Warn of what the run says of the target."""
        tally = self.tally
        if tally.left_out:
            warn(
                f"log_density or its gradient was NaN or infinite for {tally.left_out} of {tally.asked} draws, first at "
                f"x = {tally.shown}; they were left out of the gradients. Where p is 0 inside the reach of the flow, give the "
                "flow its support",
                TargetWarning,
            )
        if self.state.best is None:
            warn(
                "the lower bound was never finite: after each epoch log_density was NaN or -inf for some draw; the flow keeps "
                "its last parameters",
                TargetWarning,
            )
        elif tally.pareto_k > RELIABLE:
            warn(
                f"the importance weights of the flow have a heavy tail, pareto_k = {tally.pareto_k:.2f} (reliable up to "
                f"{RELIABLE}): it is narrower than the target somewhere; more epochs or a more flexible flow may help",
                TargetWarning,
            )

    # --- what remains -------------------------------------------------------------------------------------------

    def snapshot(self, params: Array) -> Snapshot:
        """A snapshot of some parameters."""
        return Snapshot(self.runner.plan.clear_masked(params.copy()), self.buffers.copy(), True)

    def outcome(self) -> Snapshot | None:
        """The best snapshot, or without one the present; None before the first step."""
        if self.state.best is not None:
            return self.snapshot(self.state.best.params)
        return self.snapshot(self.params) if self.taken else None

    def save(self) -> None:
        """Write the state of the run, in the file of the flow that it would leave if it ended here."""
        if self.checkpoint is None:
            return
        state = self.state
        moment = Moment(state, self.history, self.losses[: state.first], self.params, self.m, self.v)
        outcome = self.outcome() or self.snapshot(self.before.params)
        self.checkpoint.write(outcome, moment, tensors_of(self.history, state.closed, self.tally, self.probe))

    def settle(self, stopped: str) -> None:
        """Bring the history to where an exception has stopped the run."""
        self.history.trim(self.state.closed)
        self._note_best()
        self.history.stopped = stopped

    def rescue(self, error: BaseException | None) -> str:
        """Save what was done before an exception, if anything was; in words what came of it, to go on with a sentence."""
        if self.checkpoint is None or self.taken == 0:
            return ""
        try:
            self.save()
        except Exception as failure:
            if error is not None:
                error.add_note(f"the checkpoint could not be brought up to date: {failure}")
            return f". The checkpoint could not be brought up to date: {failure}"
        return f". The same call goes on from {self.checkpoint.path!r}"


def _norm(x: Array) -> float:
    """The length of a vector, summed in an order that no number of threads changes, and without overflow."""
    top = float(np.abs(x).max(initial=0.0))
    return top * math.sqrt(float(((x / top) ** 2).sum())) if 0 < top < math.inf else top
