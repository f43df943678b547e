"""The loop of a training run, on numbers of its own. Every step is the engine's."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock._warn import TrainingWarning, warn
from penstock.history import Epoch, History
from penstock.lattice import Lattice
from penstock.runner import Runner
from penstock.state import Snapshot
from penstock.support import Support
from penstock.training import checks, dequantize, diagnosis, outliers
from penstock.training.checkpoint import Checkpoint
from penstock.training.data import Data
from penstock.training.diagnosis import TrainingError
from penstock.training.evaluation import differs, finite_on, mean_loss
from penstock.training.log import Log, tell
from penstock.training.mean import running_mean
from penstock.training.options import DECAY, Options, frozen_ranges
from penstock.training.progress import Progress
from penstock.training.scale import MOVED_ROWS, SAMPLE_ROWS, standardisation, start_actnorms, warn_moved
from penstock.training.schedule import Patience
from penstock.training.shares import Shares
from penstock.training.state import Attempt, Best, Moment, State
from penstock.training.supports import lines_alone, measured, on_line

BETAS = (0.9, 0.999)
EPSILON = 1e-8
CALL_SECONDS = 0.1  # how long one call of the engine should last
PAST, WAIT = 0.75, 0.1  # parts of a run: no attempt is given up later, nor sooner after its best epoch
RISEN = 0.02  # nats, or by chance half the standard error of a normal distribution


UNTOUCHED = -1.0  # the norm of a batch that the engine has not come to

Watch = Callable[[Epoch, Snapshot, History], bool]


class Training(Shares):
    """One training run: what is fixed, and the state, which goes from one consistent state to the next at once."""

    def __init__(
        self, runner: Runner, snapshot: Snapshot, data: Data, options: Options, seed: int, checkpoint: Checkpoint | None,
        supports: tuple[Sequence[Support], Sequence[Support]] = ((), ()), lattice: Lattice | None = None,
    ) -> None:  # fmt: skip
        self.runner, self.before, self.data, self.seed = runner, snapshot, data, seed
        self.n_train, self.names = data.n_train, (data.columns, data.context_columns)
        self.options, self.checkpoint, self.supports = options, checkpoint, supports
        self.budget = options.budget(data.n_train, validated=data.validated)
        self.frozen = frozen_ranges(runner.plan.tensors, options.freeze)
        self.params, self.buffers = snapshot.params.copy(), snapshot.buffers
        self.history = History()
        self.state = State(attempt=Attempt(weight_decay=options.weight_decay or 0.0))
        self.start: Array | None = None  # of the parameters, as long as the run may begin again
        # Of the batches of the present epoch, as far as the state says that they are done.
        self.losses = np.zeros(self.budget.steps_per_epoch)
        self.norms = np.full(self.budget.steps_per_epoch, UNTOUCHED)
        self.kept: Array | None = None  # what is left where nothing was validated
        self.looked = False  # for absurd rows, in a later fit
        self.share_out(data, lattice)
        self.mean = running_mean(self.budget.schedule.n_steps) if self.validation is not None else None

    @property
    def taken(self) -> int:
        """Batches done in the present attempt."""
        return (self.state.epoch - 1 - self.state.attempt.epoch) * self.budget.steps_per_epoch + self.state.first

    @property
    def begun(self) -> bool:
        """Whether a batch of the run is done."""
        return self.state.epoch > 1 or self.state.first > 0

    # --- before the first step ----------------------------------------------------------------------------------

    def prepare(self, actnorms: Sequence[int], standardize: bool | str) -> None:
        """Measure standardisation and ActNorm on the training rows, unless an earlier fit did; make the trainer."""
        diagnosis.warn_of_weights(self.worth)
        if self.before.initialised:
            warn_moved(self.on_line(self.sample(MOVED_ROWS)), self.buffers, *self.names)
        else:
            sample = self.sample(SAMPLE_ROWS)
            numbers = self.buffers[len(self.buffers) - len(self.runner.plan.support_numbers) :]
            if standardize is not False:
                numbers = measured(sample, *self.supports)
            rows, some = (on_line(part, numbers, *self.supports) for part in (self.measured_rows(), sample))
            self.buffers = np.concatenate([standardisation(rows, standardize, some, *self.names), numbers])
            self.buffers = lines_alone(self.buffers, self.runner.plan, *self.supports)
            checks.warn_of_rows(sample, some, self.n_train, *self.names)
            if standardize is True and self.leave_out("first"):
                self.state = replace(self.state, left_out="first")
                sample = self.sample(SAMPLE_ROWS)
            start_actnorms(self.runner, actnorms, self.params, self.buffers, sample, self.frozen)
        if self.validation is None:
            diagnosis.warn_few_rows(self.runner.plan, self.frozen, self.n_train)
        elif self.options.decays_later:
            self.start = self.params.copy()
        self._make_trainer(self.state.attempt.weight_decay)

    def restore(self, moment: Moment, buffers: Array) -> None:
        """Stand where a checkpoint was written."""
        self.params, self.buffers = moment.params, buffers
        diagnosis.warn_of_weights(self.worth)
        if moment.state.left_out or (not self.before.initialised and self.options.standardize is True):
            self.looked = self.leave_out(moment.state.left_out or "first")
        attempt = moment.state.attempt if moment.state.attempt.epoch else self.state.attempt
        self.history, self.state, self.start = moment.history, replace(moment.state, attempt=attempt), moment.start
        self._make_trainer(attempt.weight_decay)
        self.trainer.resume(moment.m, moment.v, moment.state.step)
        self.losses[: len(moment.losses)] = moment.losses
        self._note_best()

    def _look(self) -> bool:
        """Once a loss is absurd: leave out the rows of a later fit that have made it so; whether there are any.

        A later fit walks through its rows no earlier. That losses are absurd is asked where steps end for good and at ends of
        epochs, so that the answer does not depend on how steps are grouped into calls.
        """
        later = self.before.initialised and self.options.standardize is True and not self.looked
        self.looked = True
        if not later or not self.leave_out("later"):
            return False
        self.state = replace(self.state, left_out="later")
        best = self.state.best
        if best is not None:  # is judged by the rows that are left
            loss = self.validation_loss(self.runner.pack(best.params, self.buffers))
            start, lowest = (self.state.start_loss, loss) if best.epoch else (loss, np.inf)
            self.state = replace(self.state, start_loss=start, lowest=lowest, best=replace(best, loss=loss))
            self._note_best()
        return True

    def _make_trainer(self, weight_decay: float) -> None:
        self.trainer = self.runner.trainer(
            self.params, self.buffers, betas=BETAS, epsilon=EPSILON, weight_decay=weight_decay,
            clip_norm=self.options.clip_norm or np.inf, frozen=self.frozen,
        )  # fmt: skip

    # --- training -----------------------------------------------------------------------------------------------

    def train(self, progress: bool | Progress | None, watch: Watch | None) -> None:
        """All epochs, and what remains of them."""
        size = self.budget.batch_size
        bar = Progress.of(progress, self.budget.schedule.n_steps * size, self.taken * size)
        try:
            self.history.stopped = self._epochs(bar, Log(self.runner, self.budget, self.taken), watch)
            # No step has seen the loss of the last parameters, and without validation nothing else has.
            if self.state.best is None:
                if not self.usable(self.params, self.trainer.packed()):
                    raise TrainingError(diagnosis.blown_up("the loss", self.history.epoch[-1], self.budget.schedule))
                self.kept = self.params
        except KeyboardInterrupt:
            self.settle("interrupted")
            self._interrupted()
        finally:
            bar.close()
        worth, _ = self.worth.get("validation", (np.inf, 0))
        diagnosis.warn_of_outcome(self.validation, worth, self.history, self._differs)

    def _differs(self) -> bool:
        """Whether the kept parameters are better on training than on validation rows, by more than chance explains."""
        assert self.state.best is not None
        assert self.validation is not None
        packed = self.runner.pack(self.state.best.params, self.buffers)
        return differs(self.runner, packed, self.train_part, self.validation)

    def _epochs(self, bar: Progress, log: Log, watch: Watch | None) -> str:
        """All epochs that are left; why they ended."""
        start = time.perf_counter()
        if self.before.initialised and self.validation is not None and not self.begun:
            self._start()
        while True:
            began, first = time.perf_counter(), self.state.first
            self._train_epoch(bar, log)
            if self.state.closed < self.state.epoch:
                now = time.perf_counter()
                rows = (self.state.first - first) * self.budget.batch_size
                self._close(now - start, rows / max(now - began, 1e-9))
            epoch = self.history.last()
            attempt = self.state.attempt
            bar.epoch(f"epoch {epoch.epoch}/{attempt.epoch + self.budget.epochs}", self._losses(epoch))
            log.epoch(self.taken, self.history)
            stopped = self._report(epoch, watch)
            if stopped:
                return stopped
            if self.state.attempt != attempt:
                bar.extend(epoch.epoch * self.budget.steps_per_epoch * self.budget.batch_size)
                log = Log(self.runner, self.budget, 0)

    def _start(self) -> None:
        """The parameters that an earlier fit has left take part in the choice of the best."""
        loss = self.validation_loss(self.before.pack(self.runner))
        if not loss < outliers.ABSURD and self._look():
            loss = self.validation_loss(self.before.pack(self.runner))
        self.state = replace(self.state, start_loss=loss, best=self._better(loss, self.params, 0))
        self._note_best()
        if self.state.best is not None:
            self.save()

    def _train_epoch(self, bar: Progress, log: Log) -> None:
        """The batches of the present epoch that are left."""
        steps, count = self.budget.steps_per_epoch, 16
        self._add_to_mean()
        while self.state.first < steps:
            count = min(count, steps - self.state.first)
            if isinstance(self.rows.x, dequantize.Noised):
                count = min(count, dequantize.together(self.rows, self.budget.batch_size))
            for interval in (self.mean and self.mean.interval, self.checkpoint and self.checkpoint.every):
                count = min(count, interval - self.taken % interval) if interval else count
            began = time.perf_counter()
            done = self._advance(count)
            self._add_to_mean()
            bar.update(done * self.budget.batch_size)
            if self.state.first < steps:
                log.step(self.taken, self.losses[: self.state.first], self.history)
            # How steps are grouped into calls changes no bit.
            seconds = max(time.perf_counter() - began, 1e-6)
            count = int(np.clip(done * CALL_SECONDS / seconds, 1, min(4096, 2 * count)))
            if self.checkpoint is not None and self.checkpoint.every and self.taken % self.checkpoint.every == 0:
                self.save()

    def _advance(self, count: int) -> int:
        """The next batches of the epoch, in one call of the engine."""
        state = self.state
        first, here = state.first, slice(state.first, state.first + count)
        rates = self.budget.schedule.rates(self.taken, count, state.patience.factor)
        losses, norms = self.losses[here], self.norms[here]
        rows, n_train, first_step, size = self.rows, self.n_train, first, self.budget.batch_size
        if isinstance(rows.x, dequantize.Noised):
            positions = range(first * size, min((first + count) * size, n_train))
            rows = dequantize.batches(rows, self.runner, self.seed, state.epoch, n_train, positions)
            n_train, first_step = len(rows), 0
        done = self.trainer.run(
            rows.x, rows.context, rows.weight, weight_exponent=self.rows.weight_exponent, weight_scale=self.weight_scale,
            seed=self.seed, epoch=state.epoch, n_train=n_train, first_step=first_step, batch_size=size, learning_rates=rates,
            losses=losses, norms=norms,
        )  # fmt: skip
        self.state = replace(state, first=first + done, step=self.trainer.step)
        if done < count and not self._look():
            what = diagnosis.quantity(losses[done], norms[done])
            batch = self.batch_rows(state.epoch, first + done)
            worst = diagnosis.worst(self.on_line(self.rows), batch, self.buffers, self.weight_scale, self.names)
            cause = diagnosis.cause(*worst, rates[done])
            where = f"step {state.attempt.step + self.state.step + 1} (epoch {state.epoch})"
            raise TrainingError(f"{what} at {where}; likely cause: {cause}. The flow is as it was before")
        return done

    def _add_to_mean(self) -> None:
        """Add the present parameters to their running mean, if that is due."""
        if self.mean is None:
            return
        mean = self.state.mean
        if (0 if mean is None else mean.count) < self.taken // self.mean.interval:
            self.state = replace(self.state, mean=self.mean.add(mean, self.trainer.params(self.params)))

    def _close(self, seconds: float, rows_per_second: float) -> None:
        """The results of an epoch whose batches are done."""
        state, schedule = self.state, self.budget.schedule
        self.trainer.params(self.params)
        if not np.isfinite(self.params).all():
            raise TrainingError(diagnosis.blown_up("a parameter", state.epoch, schedule))
        counted = self.losses[np.isfinite(self.losses)]  # a batch that weighs nothing has no loss
        train_loss = float(counted.sum() / len(counted)) if len(counted) else float("nan")
        loss, candidate = self.validate()
        if ((counted > outliers.ABSURD).any() or loss > outliers.ABSURD) and self._look():
            loss, candidate = self.validate()
        state = self.state
        best = self._better(loss, candidate, state.epoch)
        rate = float(schedule.rates(self.taken - 1, 1, state.patience.factor)[0])
        self.history.add(
            Epoch(state.epoch, state.attempt.step + state.step, train_loss, loss, rate), seconds=seconds,
            rows_per_second=rows_per_second,
            validated=self.validation is not None,
        )  # fmt: skip
        self.state = replace(
            state, closed=state.epoch, best=best, ends=(*state.ends[-1:], self.params.copy())
        )  # fmt: skip
        self._note_best()
        if self.validation is None or best is not state.best:
            self.save()

    def _report(self, epoch: Epoch, watch: Watch | None) -> str:
        """Tell callbacks of an epoch and go on to the next one, or say why training ends.

        An epoch is over when all of them have returned: one that an exception or the end of the process has cut short is
        reported again when training is resumed.
        """
        state = self.state
        if watch is not None and watch(epoch, self.snapshot(self.params), self.history.copy()):
            return "callback"
        # By the losses of this run alone: that its first epochs are worse than its start is in the nature of a schedule.
        improved = bool(np.isfinite(epoch.validation_loss) and epoch.validation_loss < state.lowest)
        patience, exhausted = self.budget.schedule.observe(state.patience, improved)
        if exhausted:
            return "patience"
        if state.epoch - state.attempt.epoch == self.budget.epochs:
            return "completed"
        lowest = epoch.validation_loss if improved else state.lowest
        following = replace(state, epoch=state.epoch + 1, first=0, lowest=lowest, patience=patience)
        if self.options.decays_later and self.validation is not None and self._overfits(patience.since_best, lowest):
            if state.attempt.epoch:
                return "overfits"
            following = self._begin_again(following)
        self.norms.fill(UNTOUCHED)
        self.state = following
        self._note_best()
        return ""

    def _overfits(self, back: int, lowest: float) -> bool:
        """Whether the attempt is past its best, while so much of it is left that what ends it now saves time.

        Its best epoch lies so many epochs ``back``, and since then the validation loss has risen from the ``lowest`` and the
        training loss fallen.
        """
        told, epochs = self.history, self.budget.epochs
        done = len(told) - self.state.attempt.epoch
        if done > PAST * epochs or not max(3, WAIT * epochs) <= back < done:
            return False
        assert self.validation is not None
        risen = max(RISEN, 0.5 * math.sqrt(self.rows.x.shape[1] / (2 * len(self.validation))))
        return (
            told.validation_loss[-1] - lowest > risen
            and told.validation_loss[-1] - told.train_loss[-1] > 2 * risen
            and told.train_loss[-1] < told.train_loss[-1 - back]
        )

    def _begin_again(self, state: State) -> State:
        """Train once more from the start, with weight decay: the state to go on with. The best so far remains the one to beat.

        Until that state is taken the epoch is one that has yet to be reported, after which the run begins again, too: an
        interruption in between changes no bit.
        """
        assert self.start is not None
        attempt = Attempt(len(self.history), state.attempt.step + state.step, DECAY)
        tell(
            "the validation loss has risen since epoch %d, while the training loss fell: begins again, with weight_decay=%g",
            self.history.best_epoch, DECAY,
        )  # fmt: skip
        self.params = self.start.copy()
        self._make_trainer(DECAY)
        return replace(state, attempt=attempt, step=0, lowest=np.inf, patience=Patience(), mean=None)

    def _better(self, loss: float, params: Array, epoch: int) -> Best | None:
        """The best parameters, these ones included."""
        best = self.state.best
        if not (np.isfinite(loss) and loss < (best.loss if best else np.inf)):
            return best
        return Best(loss, params.copy(), epoch)

    def _note_best(self) -> None:
        """Bring the history up to the state."""
        self.history.restarted = self.state.attempt.epoch
        self.history.best_epoch = None if self.state.best is None else self.state.best.epoch
        self.history.start_loss = self.state.start_loss

    def _losses(self, epoch: Epoch) -> str:
        text, best = f"train {epoch.train_loss:.3f}", self.state.best
        return f"{text}, validation {epoch.validation_loss:.3f}, best {best.loss:.3f}" if best else text

    def validation_loss(self, packed: Any) -> float:
        """Mean negative log-likelihood of the validation rows."""
        assert self.validation is not None
        return mean_loss(self.runner, packed, self.validation)

    def validate(self) -> tuple[float, Array]:
        """Validate the present parameters and their running mean: the lower loss, and what reached it."""
        if self.validation is None:
            return float("nan"), self.params
        loss = self.validation_loss(self.trainer.packed())
        if self.state.mean is None:
            return loss, self.params
        mean = self.state.mean.params.astype(self.params.dtype)
        its_loss = self.validation_loss(self.runner.pack(mean, self.buffers))
        return (its_loss, mean) if its_loss < loss or np.isnan(loss) else (loss, self.params)

    # --- what remains -------------------------------------------------------------------------------------------

    def usable(self, params: Array, packed: Any = None) -> bool:
        """Whether parameters are finite and give finite log-densities to a sample of the training rows that count."""
        if not np.isfinite(params).all():
            return False
        return finite_on(self.runner, packed or self.runner.pack(params, self.buffers), self.train_part)

    def _interrupted(self) -> None:
        """Keep the best, or the present parameters, and say which."""
        kept = "its last good parameters"
        best = self.state.best
        if best is not None:
            kept = f"those of epoch {best.epoch}" if best.epoch else "its starting parameters"
        else:
            present = self.trainer.params(self.params)
            if self.usable(present):
                self.kept, kept = present, "the present parameters"
        taken = self.state.attempt.step + self.trainer.step
        warn(
            f"training was interrupted after {taken} steps; the flow keeps {kept}{self.rescue(None)}",
            TrainingWarning,
        )

    def snapshot(self, params: Array) -> Snapshot:
        """A snapshot of some parameters."""
        return Snapshot(self.runner.plan.clear_masked(params.copy()), self.buffers.copy(), True)

    def outcome(self) -> Snapshot | None:
        """The best snapshot, or without validation the newest usable one; None if there is none."""
        if self.state.best is not None:
            return self.snapshot(self.state.best.params)
        if self.kept is not None:
            return self.snapshot(self.kept)
        ends = self.state.ends
        if ends and self.usable(ends[-1]):
            return self.snapshot(ends[-1])
        return self.snapshot(ends[0]) if len(ends) > 1 else None

    # --- the checkpoint -----------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the state of the run, in the file of the flow that it would leave if it ended here."""
        if self.checkpoint is None:
            return
        present = self.trainer.params(self.params)
        outcome = None
        if self.state.best is None and self.usable(present):
            outcome = self.snapshot(present)
        state = self.state
        m, v = self.trainer.moments()
        start = None if state.attempt.epoch else self.start
        moment = Moment(state, self.history, self.losses[: state.first], present, m, v, start)
        outcome = outcome or self.outcome() or self.snapshot(self.before.params)
        self.checkpoint.write(outcome, moment)

    def settle(self, stopped: str) -> None:
        """Bring state and history to where an exception has stopped them, perhaps in the midst of a call of the engine."""
        state = self.state
        reached = int(np.argmin(np.append(self.norms[state.first :] != UNTOUCHED, False)))
        if reached:
            here = slice(state.first, state.first + reached)
            empty = np.isnan(self.losses[here]) & (self.norms[here] == 0)
            # The last one may have its loss, but not its step.
            done = np.cumsum(~empty) <= self.trainer.step - state.step
            self.state = replace(state, first=state.first + int(done.sum()), step=self.trainer.step)
        self.history.trim(state.closed)
        self._note_best()
        self.history.stopped = stopped

    def rescue(self, error: BaseException | None) -> str:
        """Save what was done before an exception, if anything was; in words what came of it, to go on with a sentence."""
        if self.checkpoint is None or not self.begun:
            return ""
        try:
            self.save()
        except Exception as failure:
            if error is not None:
                error.add_note(f"the checkpoint could not be brought up to date: {failure}")
            return f". The checkpoint could not be brought up to date: {failure}"
        return f". The same call goes on from {self.checkpoint.path!r}"
