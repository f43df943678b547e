"""One training run: it works on numbers of its own and gives a new snapshot, or raises. Every step is the engine's."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock._warn import TrainingWarning, warn
from penstock.history import Epoch, History
from penstock.runner import Runner
from penstock.state import Snapshot
from penstock.training import checks, diagnosis, outliers
from penstock.training.data import Data, check_sum
from penstock.training.diagnosis import TrainingError
from penstock.training.mean import running_mean
from penstock.training.options import Options, frozen_ranges
from penstock.training.progress import Progress
from penstock.training.rows import Part, Rows
from penstock.training.scale import MOVED_ROWS, SAMPLE_ROWS, standardisation, start_actnorms, warn_moved

BETAS = (0.9, 0.999)
EPSILON = 1e-8
EVALUATION = 1 << 17  # numbers of X in one chunk of validation rows
CHECKED_ROWS = 256  # rows that the last parameters must give finite log-densities
CALL_SECONDS = 0.1  # how long one call of the engine should last


@dataclass(frozen=True)
class Best:
    """The parameters that validate best so far."""

    loss: float
    params: Array
    epoch: int


Watch = Callable[[Epoch, Snapshot, History], bool]
Save = Callable[[Snapshot, History], None]


def run(
    runner: Runner,
    snapshot: Snapshot,
    data: Data,
    options: Options,
    *,
    seed: int,
    actnorms: Sequence[int] = (),
    progress: bool | None = None,
    watch: Watch | None = None,
    save: Save | None = None,
) -> tuple[Snapshot, History]:
    """Train from a snapshot on the rows of ``data``.

    Parameters
    ----------
    runner : Runner
    snapshot : Snapshot
        Where training begins. If it is not initialised, standardisation and ActNorm are measured first.
    data : Data
        Rows that are finite where they count.
    options : Options
    seed : int
        Decides the split and the order of rows.
    actnorms : sequence of int
        Numbers of the ActNorm layers.
    progress : bool, optional
        As for ``Flow.fit``.
    watch : callable, optional
        Called after each epoch with the epoch, the present parameters and the history so far, which are its own; training
        stops if it returns True.
    save : callable, optional
        Called with the best snapshot and the history so far whenever there is a better one, without validation after every
        epoch.

    Returns
    -------
    snapshot : Snapshot
    history : History

    Raises
    ------
    Exception
        Whatever is raised, a TrainingError or an error of ``watch`` or ``save``, has two attributes more: ``history``, and
        ``best``, the snapshot that would have been kept, or None.
    """
    caller = np.geterr()
    # Underflow and overflow are part of the arithmetic here, whatever the caller's NumPy does about them.
    with np.errstate(all="ignore"):
        training = _Run(runner, snapshot, data, options, seed)
        try:
            training.prepare(actnorms, options.standardize)
            training.train(Progress(progress, training.n_rows), _in_state(caller, watch), _in_state(caller, save))
        except BaseException as error:
            training.history.stopped = "failed"
            with suppress(Exception):  # an error that takes no attributes
                error.best, error.history = training.outcome(), training.history  # type: ignore[attr-defined]
            raise
        return training.outcome() or snapshot, training.history


def _in_state(state: Any, call: Any) -> Any:
    """``call`` under an error state of NumPy."""
    return call and np.errstate(**state)(call)


class _Run:
    """The numbers of one training run."""

    def __init__(self, runner: Runner, snapshot: Snapshot, data: Data, options: Options, seed: int) -> None:
        self.runner, self.before, self.data, self.seed = runner, snapshot, data, seed
        self.n_train, self.names = data.n_train, (data.columns, data.context_columns)
        self.options = options
        self.budget = options.budget(data.n_train, validated=data.validated)
        self.frozen = frozen_ranges(runner.plan.tensors, options.freeze)
        self.params, self.buffers = snapshot.params.copy(), snapshot.buffers
        self.history = History()
        self.best: Best | None = None
        self.lowest = np.inf  # validation loss of an epoch of this run
        # Parameters at the ends of the last two epochs: the older ones have carried a whole epoch of finite losses.
        self.ends: list[Array] = []
        self.kept: Array | None = None  # what is left where nothing was validated
        self._share_out(data.rows, data.held_out)
        self.mean = running_mean(self.budget.schedule.n_steps) if self.validation is not None else None

    @property
    def n_rows(self) -> int:
        """Rows that all steps together train on."""
        return self.budget.schedule.n_steps * self.budget.batch_size

    def split(self, first: int, last: int) -> Array:
        """Row numbers at some positions of the split."""
        return self.runner.row_order(self.seed, 0, len(self.rows), range(first, last))

    def _share_out(self, rows: Rows, held_out: Rows | None) -> None:
        """The rows that train, and those that validate."""
        self.rows = rows
        self.train_part = Part(rows, 0, self.n_train, self.split)
        self.validation: Part | None = None
        if held_out is not None:
            self.validation = Part(held_out, 0, len(held_out))
        elif self.data.validated:
            self.validation = Part(rows, self.n_train, len(rows), self.split)
        self.weight_scale = 1.0
        if rows.weight is not None:
            self.weight_scale = self.n_train / self._weight_sum(self.train_part, "training")
            if self.validation is not None and held_out is None:
                self._weight_sum(self.validation, "validation")

    def _weight_sum(self, part: Part, name: str) -> float:
        total = part.weight_sum()
        check_sum(total, self.rows, f"sample_weight over the {name} rows")
        return total

    # --- before the first step ----------------------------------------------------------------------------------

    def prepare(self, actnorms: Sequence[int], standardize: bool | str) -> None:
        """Measure standardisation and ActNorm on the training rows, unless an earlier fit did; make the trainer."""
        if self.before.initialised:
            warn_moved(self.sample(MOVED_ROWS), self.buffers, *self.names)
        else:
            sample = self.sample(SAMPLE_ROWS)
            self.buffers = standardisation(self.rows, standardize, sample, *self.names)
            checks.warn_of_rows(sample, self.n_train, self.names[0])
            if standardize is True and self.leave_out():
                sample = self.sample(SAMPLE_ROWS)
            start_actnorms(self.runner, actnorms, self.params, self.buffers, sample, self.frozen)
        if self.validation is None:
            diagnosis.warn_few_rows(self.runner.plan, self.frozen, self.n_train)
        self.trainer = self.runner.trainer(
            self.params, self.buffers, betas=BETAS, epsilon=EPSILON, weight_decay=self.options.weight_decay,
            clip_norm=self.options.clip_norm or np.inf, frozen=self.frozen,
        )  # fmt: skip

    def leave_out(self) -> bool:
        """Give weight 0 to rows that lie absurdly far out by the present standardisation; whether there are any.

        What a first fit leaves out follows from its standardisation and its rows alone.
        """
        rows, held_out = self.rows, self.data.held_out
        far = outliers.far_rows(rows, self.buffers)
        far_held_out = far[:0] if held_out is None else outliers.far_rows(held_out, self.buffers)
        if held_out is not None and len(far_held_out) > max(1, outliers.PART * len(held_out)):
            far_held_out = far[:0]  # they are meant
        if held_out is not None and len(far_held_out):
            outliers.warn_held_out(held_out, far_held_out)
        if len(far) == len(far_held_out) == 0:
            return False
        self._share_out(
            rows.without(far) if len(far) else rows,
            held_out.without(far_held_out) if held_out is not None and len(far_held_out) else held_out,
        )
        return True

    def sample(self, most: int) -> Rows:
        """Some of the training rows, at random."""
        index = self.split(0, min(self.n_train, most))
        if self.rows.weight is not None and not self.rows.weight[index].any():  # nearly all rows have weight 0
            index = np.flatnonzero(self.rows.weight)[:most]
        return self.rows.take(index)

    # --- training -----------------------------------------------------------------------------------------------

    def train(self, progress: Progress, watch: Watch | None, save: Save | None) -> None:
        """All epochs, and what remains of them."""
        try:
            self.history.stopped = self._epochs(progress, watch, save)
            # No step has seen the loss of the last parameters, and without validation nothing else has.
            if self.best is None:
                if not self.usable(self.params):
                    raise TrainingError(diagnosis.blown_up("the loss", self.history.epoch[-1], self.budget.schedule))
                self.kept = self.params
        except KeyboardInterrupt:
            self.history.stopped = "interrupted"
            self._interrupted()
        finally:
            progress.close()
        diagnosis.warn_of_outcome(self.validation, self.history)

    def _epochs(self, progress: Progress, watch: Watch | None, save: Save | None) -> str:
        """All epochs; why they ended."""
        start, n_epochs = time.perf_counter(), self.budget.epochs
        if self.before.initialised and self.validation is not None:
            # The parameters that an earlier fit has left take part in the choice of the best.
            self.history.start_loss = self.validation_loss(self.before.pack(self.runner))
            if self._keep_if_better(self.history.start_loss, self.params, 0) and save is not None:
                save(self.snapshot(self.params), self.history)
        for number in range(1, n_epochs + 1):
            began = time.perf_counter()
            train_loss, rate = self.train_epoch(number, progress)
            seconds = time.perf_counter() - began
            self.trainer.params(self.params)
            if not np.isfinite(self.params).all():
                raise TrainingError(diagnosis.blown_up("a parameter", number, self.budget.schedule))
            self.ends = [*self.ends[-1:], self.params.copy()]
            loss, candidate = self.validate()
            better = self.validation is None or self._keep_if_better(loss, candidate, number)
            epoch = Epoch(number, self.trainer.step, train_loss, loss, rate)
            rows = self.budget.steps_per_epoch * self.budget.batch_size
            self.history.add(
                epoch, seconds=time.perf_counter() - start, rows_per_second=rows / max(seconds, 1e-9),
                validated=self.validation is not None,
            )  # fmt: skip
            progress.epoch(f"epoch {number}/{n_epochs}", self._losses(epoch))
            if better and save is not None:
                save(self.snapshot(self.params if self.best is None else self.best.params), self.history)
            if watch is not None and watch(epoch, self.snapshot(self.params), self.history.copy()):
                return "callback"
            # By the losses of this run alone: that its first epochs are worse than its start is in the nature of a schedule.
            improved = bool(np.isfinite(loss) and loss < self.lowest)
            self.lowest = loss if improved else self.lowest
            if self.budget.schedule.observe(improved):
                return "patience"
        return "completed"

    def _keep_if_better(self, loss: float, params: Array, epoch: int) -> bool:
        """Keep parameters if they validate better than the best so far."""
        if not (np.isfinite(loss) and loss < (self.best.loss if self.best else np.inf)):
            return False
        self.best = Best(loss, params.copy(), epoch)
        self.history.best_epoch = epoch
        return True

    def train_epoch(self, number: int, progress: Progress) -> tuple[float, float]:
        """One pass over the training rows: mean loss, and the rate of the last step."""
        steps, first, count = self.budget.steps_per_epoch, 0, 16
        losses: list[Array] = []
        while first < steps:
            taken = (number - 1) * steps + first
            count = min(count, steps - first)
            if self.mean is not None:
                count = min(count, self.mean.interval - taken % self.mean.interval)
            rates = self.budget.schedule.rates(taken, count)
            began = time.perf_counter()
            done, batch_losses, norms = self.trainer.run(
                self.rows.x, self.rows.context, self.rows.weight, weight_exponent=self.rows.weight_exponent,
                weight_scale=self.weight_scale, seed=self.seed, epoch=number, n_train=self.n_train, first_step=first,
                batch_size=self.budget.batch_size, learning_rates=rates,
            )  # fmt: skip
            if done < count:
                what = diagnosis.quantity(batch_losses[done], norms[done])
                cause = diagnosis.cause(
                    self.rows, self.batch_rows(number, first + done), self.buffers, self.weight_scale, rates[done],
                    self.names,
                )  # fmt: skip
                where = f"step {self.trainer.step + 1} (epoch {number})"
                raise TrainingError(f"{what} at {where}; likely cause: {cause}. The flow is as it was before")
            losses.append(batch_losses)
            first += done
            if self.mean is not None and (taken + done) % self.mean.interval == 0:
                self.mean.add(self.trainer.params(self.params))
            progress.update(done * self.budget.batch_size)
            # How steps are grouped into calls changes no bit.
            seconds = max(time.perf_counter() - began, 1e-6)
            count = int(np.clip(done * CALL_SECONDS / seconds, 1, min(4096, 2 * count)))
        every = np.concatenate(losses)
        counted = every[np.isfinite(every)]  # a batch that weighs nothing has no loss
        return float(counted.sum() / len(counted)) if len(counted) else float("nan"), float(rates[-1])

    def batch_rows(self, epoch: int, step: int) -> Array:
        """Row numbers of one batch."""
        first = step * self.budget.batch_size
        positions = self.runner.row_order(
            self.seed, epoch, self.n_train, range(first, first + self.budget.batch_size)
        )  # fmt: skip
        return self.runner.row_order(self.seed, 0, len(self.rows), positions)

    def _losses(self, epoch: Epoch) -> str:
        text = f"train {epoch.train_loss:.3f}"
        return f"{text}, validation {epoch.validation_loss:.3f}, best {self.best.loss:.3f}" if self.best else text

    # --- validation ---------------------------------------------------------------------------------------------

    def validate(self) -> tuple[float, Array]:
        """Validate the present parameters and their running mean: the lower loss, and what reached it."""
        if self.validation is None:
            return float("nan"), self.params
        loss = self.validation_loss(self.trainer.packed())
        if self.mean is None or self.mean.count == 0:
            return loss, self.params
        mean = self.mean.params.astype(self.params.dtype)
        mean_loss = self.validation_loss(self.runner.pack(mean, self.buffers))
        return (mean_loss, mean) if mean_loss < loss or np.isnan(loss) else (loss, self.params)

    def validation_loss(self, packed: Any) -> float:
        """Mean negative log-likelihood of the validation rows."""
        assert self.validation is not None
        rows = self.validation.rows
        total = mass = 0.0
        for index in self.validation.chunks(max(64, EVALUATION // rows.x.shape[1])):
            log_prob = self._log_prob(packed, index, rows)
            if rows.weight is None:
                total += float(log_prob.sum())
                mass += len(log_prob)
            else:
                weight = rows.scaled_weights(index)
                total += float((weight * np.where(weight == 0, 0.0, log_prob)).sum())
                mass += float(weight.sum())
        return -total / mass

    def _log_prob(self, packed: Any, index: Any, rows: Rows) -> Array:
        if isinstance(index, slice):
            context = None if rows.context is None else rows.context[index]
            return self.runner.log_prob(packed, rows.x[index], context, dtype=np.dtype(np.float64))
        return self.runner.log_prob(packed, rows.x, rows.context, index=index, dtype=np.dtype(np.float64))

    # --- what remains -------------------------------------------------------------------------------------------

    def usable(self, params: Array) -> bool:
        """Whether parameters are finite and give finite log-densities to a sample of the training rows that count."""
        if not np.isfinite(params).all():
            return False
        index = self.split(0, min(self.n_train, CHECKED_ROWS))
        if self.rows.weight is not None:
            index = index[self.rows.weight[index] != 0]
        log_prob = self._log_prob(self.runner.pack(params, self.buffers), index, self.rows)
        return bool(np.isfinite(log_prob).all())

    def _interrupted(self) -> None:
        """Keep the best, or the present parameters, and say which."""
        kept = "its last good parameters"
        if self.best is not None:
            kept = f"those of epoch {self.best.epoch}" if self.best.epoch else "its starting parameters"
        else:
            present = self.trainer.params(self.params)
            if self.usable(present):
                self.kept, kept = present, "the present parameters"
        warn(f"training was interrupted after {self.trainer.step} steps; the flow keeps {kept}", TrainingWarning)

    def snapshot(self, params: Array) -> Snapshot:
        """A snapshot of some parameters."""
        return Snapshot(self.runner.plan.clear_masked(params.copy()), self.buffers.copy(), True)

    def outcome(self) -> Snapshot | None:
        """The best snapshot, or without validation the newest usable one; None if there is none."""
        if self.best is not None:
            return self.snapshot(self.best.params)
        if self.kept is None and self.ends:
            if self.usable(self.ends[-1]):
                self.kept = self.ends[-1]
            elif len(self.ends) > 1:
                self.kept = self.ends[0]
        return None if self.kept is None else self.snapshot(self.kept)
