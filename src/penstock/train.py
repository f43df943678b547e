"""``fit``: maximum likelihood by mini-batches. It plans, watches and remembers; every step on rows is the engine's."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock import _prepare, _validate
from penstock.history import History
from penstock.optim import FALLING, Schedule, non_negative, warmup_steps

if TYPE_CHECKING:
    from penstock.flow import Flow

Array = np.ndarray[Any, Any]
Callback = Callable[["TrainingState"], Any]

BETAS = (0.9, 0.999)
EPSILON = 1e-8
STEPS = 16000  # the budget when epochs is not given,
EPOCHS = 200  # and the most epochs it may become: a small table is learnt by then
PATIENCE = 20
AVERAGED = 0.05  # the running mean of the parameters looks back over this part of the run,
AVERAGED_STEPS = 500  # and needs a run of at least so many steps
SOUND_ROWS = 4096  # rows that tell whether parameters are of use
ROWS_PER_PARAMETER = 0.1  # fewer training rows a parameter are warned about
EVALUATION = 1 << 17  # numbers of X in one chunk of validation rows


class TrainingError(RuntimeError):
    """Training cannot go on: a loss or gradient is NaN or infinite. The flow keeps its last good parameters."""


@dataclass(frozen=True)
class TrainingState:
    """What a callback of ``fit`` sees after each epoch.

    Attributes
    ----------
    epoch, step : int
        Epochs and optimiser steps done.
    train_loss, validation_loss : float
        Mean negative log-likelihood in nats a row; ``validation_loss`` is NaN without validation rows.
    learning_rate : float
        Rate of the last step.
    flow : Flow
        The flow with its present parameters, for evaluation and sampling.
    """

    epoch: int
    step: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    flow: Flow


@dataclass(frozen=True)
class _Validation:
    """Rows that judge: either an array of its own, or the tail of the split permutation of the training array."""

    x: Array
    context: Array | None
    weight: Array | None
    first: int | None  # first position in the split permutation; None: the rows of x in order


def fit(
    flow: Flow,
    X: Any,
    *,
    context: Any = None,
    sample_weight: Any = None,
    validation: Any = 0.1,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float = 3e-3,
    schedule: str = "cosine",
    warmup: float | None = None,
    weight_decay: float = 0.0,
    clip_norm: float | None = 1.0,
    patience: int | None = None,
    standardize: bool | str = True,
    rng: Any = None,
    progress: bool | None = None,
    callbacks: Callback | Iterable[Callback] = (),
    checkpoint: str | os.PathLike[str] | None = None,
) -> Flow:
    """Train ``flow`` on the rows of ``X`` by maximum likelihood, and keep the parameters that validate best.

    The first ``fit`` of a flow also sets what depends on data: the standardisation and every ActNorm.
    A later one keeps those, goes on from the present parameters, and starts a new optimiser,
    schedule and split. ``flow.reset()`` forgets everything.

    Parameters
    ----------
    flow : Flow
        The flow to train, in place.
    X : array of shape (rows, dim)
        Any strides; float32 and float64 arrays, memory-mapped ones included, are read as they are. Rows that
        count must be finite; those of weight 0 may hold anything.
    context : array of shape (rows, context_dim), optional
        For a flow with a context, a row for each row of ``X``, read and standardised in the same way.
    sample_weight : array of shape (rows,), optional
        Weights of the rows. Their sum must be positive, in the training and in the validation part.
    validation : float, array or tuple, default 0.1
        A fraction of the rows, drawn at random, or rows of one's own: ``X_val``, ``(X_val,)`` or
        ``(X_val, weight)``, with a context ``(X_val, context)`` or ``(X_val, context, weight)``. 0 or None trains
        without; the last parameters are then kept.
    epochs : int, optional
        Passes over the training rows. By default as many as make about 16 000 steps, at least 1 and at most 200.
    batch_size : int, optional
        Rows a step. By default about a hundredth of the training rows, within 256 and 4096. An
        incomplete last batch is left out; the order changes every epoch.
    learning_rate : float, default 3e-3
        The highest rate of Adam.
    schedule : {"cosine", "onecycle", "constant", "plateau"}, default "cosine"
        Cosine falls to zero over the whole run, ``rate (1 + cos(pi u)) / 2`` with ``u`` from 0 to 1. One cycle rises
        first, ``rate (1/25 + 24/25 (1 - cos(pi v)) / 2)`` with ``v`` from 0 to 1 over the warm-up, and
        then falls as cosine does. Plateau multiplies the rate by 0.3 when half of ``patience`` has gone by
        without a better validation loss, and stops when all of it has.
    warmup : int or float, optional
        Steps (int) or fraction of all steps (float) over which the rate rises: linearly, except in one cycle. By
        default 0.1, and 0.3 for one cycle.
    weight_decay : float, default 0.0
        Decoupled decay (AdamW) of the weight matrices of conditioners.
    clip_norm : float, optional, default 1.0
        Gradients longer than this are shortened to it; None or infinity leaves them.
    patience : int, optional
        Epochs without a better validation loss before training stops: 20 for the plateau schedule,
        never for the constant one unless given. A cosine or one cycle must run to its end and takes none.
    standardize : bool or "robust", default True
        At the first ``fit``: shift and scale every column by its mean and standard deviation, or
        ("robust", for heavy tails) by median and interquartile range, measured on a sample of 10 000 rows.
    rng : seed or numpy Generator, optional
        What ``numpy.random.default_rng`` takes; decides the split and the order of rows.
    progress : bool, optional
        A progress bar on standard error. By default only where that is a terminal.
    callbacks : callable or list of callables
        Called with a :class:`TrainingState` after each epoch; training stops when one returns True.
    checkpoint : path, optional
        A model file, replaced atomically whenever the validation loss improves (without validation,
        after every epoch).

    Returns
    -------
    Flow
        ``flow`` itself; ``flow.history`` holds the record.

    Raises
    ------
    TrainingError
        When the loss or gradient of a step, or the outcome of the last one, is NaN or infinite. The flow
        keeps its last good parameters: the best validated ones, without validation those of the end of an epoch.

    Warns
    -----
    UserWarning
        When a column is constant; when one lies more than 10 000 standard deviations from zero, where float32 is
        coarse; when there are fewer training rows than a tenth of the flow's parameters; when training was interrupted.

    Notes
    -----
    Ctrl-C ends training early: ``fit`` warns and returns normally, and the flow has the best parameters
    so far; ``flow.history.stopped`` is then ``"interrupted"``.

    After each epoch both the present parameters and their running mean over the last twentieth of the
    run are validated, and the better of the two counts; runs of under 500 steps have no such mean.

    When anything fails before the first epoch is complete, a callback's own error included, the flow is as it
    was before the call: parameters, standardisation and all.

    With the same rows, arguments and seed the parameters come out the same, bit for bit, whatever the
    number of threads.
    """
    # Everything that can be wrong with the call is found before anything is computed.
    x = _validate.as_rows(X, flow.dim, name="X")
    n_rows = len(x)
    context = _validate.as_context_rows(context, flow.context_dim, n_rows)
    if n_rows == 0:
        raise ValueError(f"fit needs rows, got X of shape {x.shape}")
    weight = None if sample_weight is None else _validate.as_weights(sample_weight, n_rows, name="sample_weight")
    n_train, held_out = _validation(flow, x, context, weight, validation)
    wanted = _batch_size(n_train) if batch_size is None else _validate.positive_int(batch_size, name="batch_size")
    batch_size = min(wanted, n_train)
    steps_per_epoch = n_train // batch_size
    if epochs is None:
        epochs = min(-(-STEPS // steps_per_epoch), EPOCHS)
    n_steps = _validate.positive_int(epochs, name="epochs") * steps_per_epoch
    learning_rate = _validate.positive_number(learning_rate, name="learning_rate")
    weight_decay = non_negative(weight_decay, name="weight_decay")
    clip = np.inf if clip_norm is None else _validate.positive_number(clip_norm, name="clip_norm", allow_inf=True)
    patience = _patience(patience, schedule, held_out)
    rates = Schedule(schedule, learning_rate, warmup_steps(warmup, schedule, n_steps), n_steps, patience)
    if standardize is not True and standardize is not False and standardize != "robust":
        raise ValueError(f'standardize must be True, False or "robust", got {standardize!r}')
    calls = _validate.callables(callbacks, name="callbacks")
    seed = _validate.seed(rng)
    if checkpoint is not None:
        checkpoint = _validate.path(checkpoint, name="checkpoint")
        check_writable(checkpoint)
    _prepare.check_finite(x, weight, name="X")
    if context is not None:
        _prepare.check_finite(context, weight, name="context")
    if held_out is not None and held_out.first is None:
        _prepare.check_finite(held_out.x, held_out.weight, name="validation")
        if held_out.context is not None:
            _prepare.check_finite(held_out.context, held_out.weight, name="validation context")

    if n_train < ROWS_PER_PARAMETER * flow.n_params:
        warnings.warn(
            f"the flow has {flow.n_params} parameters, more than ten times the training rows ({n_train}): it may learn these "
            "by heart instead of their density; use fewer layers, narrower hidden layers, or more rows",
            UserWarning,
            stacklevel=3,
        )
    run = _Run(flow, x, context, weight, n_train, held_out, batch_size, seed, rates, checkpoint)
    if not flow.initialised:
        run.initialise(standardize)
    shown = sys.stderr.isatty() if progress is None else bool(progress)
    run.train(epochs, steps_per_epoch, weight_decay, clip, calls, shown)
    return flow


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise OSError if a file at ``path`` could not be created or replaced; leaves no trace."""
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {str(path)!r}: it is a folder")
    if target.exists() and not target.is_file():
        raise OSError(f"cannot write {str(path)!r}: it is not an ordinary file")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {str(path)!r}: the folder {str(target.parent)!r} does not exist")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise type(error)(error.errno, f"cannot write {str(path)!r}: {error.strerror}") from None
    os.close(handle)
    os.unlink(name)


def _batch_size(n_train: int) -> int:
    """Return the power of two nearest to a hundredth of the rows, within 256 and 4096."""
    return int(2 ** np.clip(np.round(np.log2(n_train / 100)), 8, 12))


def _patience(patience: int | None, schedule: str, held_out: _Validation | None) -> int | None:
    if schedule in FALLING and patience is not None:
        raise ValueError(
            f'patience does not go with schedule="{schedule}", which does its best work in its last epochs; '
            'use schedule="plateau", or fewer epochs'
        )
    if held_out is None and (schedule == "plateau" or patience is not None):
        raise ValueError('schedule="plateau" and patience judge by validation rows, but validation is off')
    if patience is None:
        return PATIENCE if schedule == "plateau" else None
    return _validate.positive_int(patience, name="patience")


def _validation(
    flow: Flow, x: Array, context: Array | None, weight: Array | None, validation: Any
) -> tuple[int, _Validation | None]:
    """How many rows of ``x`` train, and the rows that validate."""
    if weight is not None:
        _prepare.check_weights(weight, name="sample_weight")
    if validation is None or isinstance(validation, (bool, int, float, np.number)):
        fraction = 0.0 if validation is None else float(validation)
        if not 0 <= fraction < 1:
            raise ValueError(f"validation must be a fraction of at least 0 and below 1, or rows, got {validation}")
        if fraction == 0:
            return len(x), None
        if len(x) < 2:
            raise ValueError("X has 1 row, and at least 2 are needed to set some aside; or give validation=0")
        n_train = len(x) - min(max(1, round(fraction * len(x))), len(x) - 1)
        return n_train, _Validation(x, context, weight, n_train)
    parts = validation if isinstance(validation, tuple) else (validation,)
    if len(parts) == 2 and context is None:
        parts = (parts[0], None, parts[1])
    wanted = "X, (X,) or (X, weight)" if context is None else "(X, context) or (X, context, weight)"
    if not (1 if context is None else 2) <= len(parts) <= 3 or (context is None and (*parts, None)[1] is not None):
        got = f"a tuple of {len(parts)}" if isinstance(validation, tuple) else "rows without a context"
        raise ValueError(f"validation must be {wanted}, got {got}")
    rows = _validate.as_rows(parts[0], flow.dim, name="validation")
    if len(rows) == 0:
        raise ValueError("validation holds no rows; give validation=0 to train without")
    if context is not None:
        context = _validate.as_context_rows(parts[1], flow.context_dim, len(rows), name="validation context")
    own = None
    if len(parts) == 3 and parts[2] is not None:
        own = _validate.as_weights(parts[2], len(rows), name="validation weight")
        _prepare.check_weights(own, name="validation weight")
    return len(x), _Validation(rows, context, own, None)


class _Run:
    """One training run: the private copy of the parameters, and the best of them so far."""

    def __init__(
        self,
        flow: Flow,
        x: Array,
        context: Array | None,
        weight: Array | None,
        n_train: int,
        held_out: _Validation | None,
        batch_size: int,
        seed: int,
        rates: Schedule,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self.flow, self.x, self.context, self.weight, self.n_train = flow, x, context, weight, n_train
        self.held_out, self.batch_size, self.seed, self.rates = held_out, batch_size, seed, rates
        self.checkpoint = checkpoint
        self.backend, self.engine, self.n_steps = flow._backend, flow.engine, flow._plan.n_steps
        self.before = flow._snapshot
        self.params = flow.params.copy()
        self.split_weight: Array | None = None  # weights of the training rows in the order of the split, once needed
        self.weight_scale = 1.0
        if weight is not None:
            self.weight_scale = n_train / self.weight_sum(0, n_train, "training")
            if n_train < len(x):
                self.weight_sum(n_train, len(x), "validation")
        self.history = History()
        self.best: tuple[float, Array] | None = None
        # Parameters at the ends of epochs, each with its last batch: the newest, and the newest but one. The former
        # is judged only when it is needed; the latter has carried a whole epoch of finite losses.
        self.ends: list[tuple[Array, int]] = []
        self.completed = 0  # epochs whose callbacks have returned, too
        self.mean = _Mean(rates.n_steps) if held_out is not None and rates.n_steps >= AVERAGED_STEPS else None

    def weight_sum(self, first: int, last: int, part: str) -> float:
        """Sum of the weights at some positions of the split permutation."""
        assert self.weight is not None
        total = 0.0
        for start in range(first, last, _prepare.CHUNK):
            stop = min(start + _prepare.CHUNK, last)
            total += float(_prepare.gather(self.backend, self.weight, self.seed, start, stop).sum(dtype=np.float64))
        if not 0 < total < np.inf:
            raise ValueError(f"the sum of sample_weight over the {part} rows must be positive, got {total:g}")
        return total

    def initialise(self, standardize: bool | str) -> None:
        """Standardisation and ActNorm, from the training rows."""
        count = min(self.n_train, _prepare.SAMPLE_ROWS)
        index = _prepare.split_rows(self.backend, len(self.x), self.seed, 0, count)
        if self.weight is not None and not self.weight[index].any():  # nearly all rows have weight 0
            index = np.flatnonzero(self.weight)[: _prepare.SAMPLE_ROWS]
        rows, weight = self.x[index], None if self.weight is None else self.weight[index]
        buffers = _prepare.standardisation(self.x, self.weight, standardize, (rows, weight))
        context = None
        if self.context is not None:
            context = self.context[index]
            own = _prepare.standardisation(self.context, self.weight, standardize, (context, weight), name="context")
            buffers = np.concatenate([buffers, own])
        _prepare.start_actnorms(self.flow, self.params, buffers, (rows, weight), context)
        self.flow._assign(params=self.params, buffers=buffers, initialised=True)

    def train(
        self,
        epochs: int,
        steps_per_epoch: int,
        weight_decay: float,
        clip: float,
        calls: tuple[Callback, ...],
        progress: bool,
    ) -> None:
        """All epochs. Whatever ends them, the flow is left with the best parameters so far, and if there are none, as it was."""
        self.history.stopped = "failed"
        bar, trainer, last_step = None, None, steps_per_epoch - 1
        start = time.perf_counter()
        kept = None
        try:
            trainer = self.backend.Trainer(
                self.engine, self.params, self.flow._snapshot.buffers, *BETAS, EPSILON, weight_decay, True, clip
            )  # fmt: skip
            bar = _bar(epochs * steps_per_epoch * self.batch_size) if progress else None
            for epoch in range(1, epochs + 1):
                began = time.perf_counter()
                train_loss, rate = self.epoch(trainer, epoch, steps_per_epoch, bar)
                trained = time.perf_counter() - began
                trainer.get_params(self.params)
                if not np.isfinite(self.params).all():
                    raise TrainingError(self.blown_up("the parameters became NaN or infinite", epoch))
                self.ends = [*self.ends[-1:], (self.params.copy(), epoch)]
                loss, candidate = self.judge(trainer)
                improved = self.held_out is None or (
                    np.isfinite(loss) and loss < (self.best[0] if self.best else np.inf)
                )
                if improved and self.held_out is not None:
                    self.best = (loss, candidate.copy())
                    self.history.best_epoch = epoch
                self.record(epoch, trainer.step, train_loss, loss, rate, time.perf_counter() - start, trained)
                if bar is not None:
                    bar.set_description_str(f"epoch {epoch}/{epochs}", refresh=False)
                    bar.set_postfix_str(_losses(train_loss, loss, self.best), refresh=False)
                if improved and self.checkpoint is not None:
                    self.save()
                wants_to_stop = bool(calls) and self.ask(calls, epoch, trainer.step, train_loss, loss, rate)
                self.completed = epoch
                if wants_to_stop:
                    stopped = "callback"
                    break
                if self.rates.observe(improved):
                    stopped = "patience"
                    break
            else:
                stopped = "completed"
            # No step has seen the loss of the last parameters, and without validation nothing else has.
            if self.best is None and not self.sound(self.params, epoch, last_step):
                raise TrainingError(self.blown_up("the loss became NaN or infinite after the last step", epoch))
            self.history.stopped = stopped
        except KeyboardInterrupt:
            self.history.stopped = "interrupted"
            if self.best is None and trainer is not None:
                trainer.get_params(self.params)
                if self.sound(self.params, self.completed + 1, 0):
                    kept = self.params
        finally:
            if bar is not None:
                bar.close()
            if self.best is not None:
                kept = self.best[1]
            elif kept is None:
                kept = self.last_sound(last_step)
            # A fit that failed in its first epoch, or kept nothing of the others, has not happened: the next one
            # is again the one that standardises.
            if kept is None or (self.history.stopped == "failed" and not self.completed):
                before = self.before
                self.flow._replace(before.params, before.buffers, before.initialised)
            else:
                self.flow._assign(params=kept)
            self.flow.history = self.history
        if self.held_out is not None and self.best is None and len(self.history):
            warnings.warn("the validation loss was never finite; the flow keeps its last parameters", stacklevel=4)
        if self.history.stopped == "interrupted":
            steps = 0 if trainer is None else trainer.step
            if self.best is not None:
                what = f"those of epoch {self.history.best_epoch}"
            else:
                what = "the present parameters" if kept is self.params else "its last good parameters"
            warnings.warn(f"training was interrupted after {steps} steps; the flow keeps {what}", stacklevel=4)

    def sound(self, params: Array, epoch: int, step: int) -> bool:
        """Whether parameters are finite and give finite log-densities to the rows of a batch that count."""
        if not np.isfinite(params).all():
            return False
        index = self.batch_rows(epoch, step, at_most=SOUND_ROWS)
        if self.weight is not None:
            index = index[self.weight[index] != 0]
        log_p = np.zeros(len(index))
        packed = self.engine.pack(params, self.flow._snapshot.buffers)
        context = None if self.context is None else self.context[index]
        self.engine.evaluate(packed, False, 0, self.n_steps, self.x[index], None, context, None, True, None, log_p)
        return bool(np.isfinite(log_p).all())

    def last_sound(self, last_step: int) -> Array | None:
        """The newest good parameters of an epoch's end, if there are any."""
        if self.ends and self.sound(*self.ends[-1], last_step):
            return self.ends[-1][0]
        return self.ends[0][0] if len(self.ends) > 1 else None

    def blown_up(self, what: str, epoch: int) -> str:
        """Say that finite losses have led to parameters that are of no use."""
        return (
            f"{what} in epoch {epoch}; likely cause: a learning rate that is too high "
            f"(at most {self.rates.learning_rate:.3g}); lower learning_rate. The flow keeps its last good parameters"
        )

    def epoch(self, trainer: Any, epoch: int, steps_per_epoch: int, bar: Any) -> tuple[float, float]:
        """One pass over the training rows: mean loss, and the rate of the last step."""
        total, counted, first, count = 0.0, 0, 0, 16
        rates = np.zeros(0)
        while first < steps_per_epoch:
            taken = (epoch - 1) * steps_per_epoch + first
            count = min(count, steps_per_epoch - first)
            if self.mean is not None:
                count = min(count, self.mean.interval - taken % self.mean.interval)
            rates = self.rates.rates(taken, count)
            losses, norms = np.zeros(count), np.zeros(count)
            began = time.perf_counter()
            done = trainer.run(
                self.x, self.context, self.weight, 0, self.weight_scale, self.seed, epoch, self.n_train, first,
                self.batch_size, rates, losses, norms,
            )  # fmt: skip
            counts = ~np.isnan(losses[:done])
            total += float(losses[:done][counts].sum())
            counted += int(counts.sum())
            if done < count:
                raise TrainingError(self.diagnose(trainer, epoch, first + done, losses[done], norms[done]))
            first += done
            if self.mean is not None and (taken + done) % self.mean.interval == 0:
                trainer.get_params(self.params)
                self.mean.add(self.params)
            if bar is not None:
                bar.update(done * self.batch_size)
            # How steps are grouped into calls changes no bit; each call should last about a tenth of a second.
            seconds = max(time.perf_counter() - began, 1e-6)
            count = int(np.clip(done * 0.1 / seconds, 1, min(4096, 2 * count)))
        return (total / counted if counted else float("nan")), float(rates[-1])

    def judge(self, trainer: Any) -> tuple[float, Array]:
        """Validate the present parameters and their running mean: the better loss, and what reached it."""
        if self.held_out is None:
            return float("nan"), self.params
        loss = self.validate(self.held_out, trainer.packed())
        if self.mean is None or self.mean.count == 0:
            return loss, self.params
        mean = self.mean.params.astype(self.params.dtype)
        mean_loss = self.validate(self.held_out, self.engine.pack(mean, self.flow._snapshot.buffers))
        return (mean_loss, mean) if mean_loss < loss or np.isnan(loss) else (loss, self.params)

    def validate(self, held_out: _Validation, packed: Any) -> float:
        """Mean negative log-likelihood of the validation rows."""
        x, context, weight, first = held_out.x, held_out.context, held_out.weight, held_out.first
        size = max(64, EVALUATION // x.shape[1])
        log_p = np.zeros(min(size, len(x) - (first or 0)))
        total = mass = 0.0
        for start in range(first or 0, len(x), size):
            stop = min(start + size, len(x))
            part: Any = slice(start, stop)
            if first is not None:
                part = _prepare.split_rows(self.backend, len(x), self.seed, start, stop)
            rows, c, w = x[part], None if context is None else context[part], None if weight is None else weight[part]
            out = log_p[: stop - start]
            self.engine.evaluate(packed, False, 0, self.n_steps, rows, None, c, None, True, None, out)
            if w is None:
                total += float(out.sum())
                mass += len(out)
            else:
                w = w.astype(np.float64)
                total += float((w * np.where(w == 0, 0.0, out)).sum())
                mass += float(w.sum())
        return -total / mass

    def record(
        self, epoch: int, step: int, train_loss: float, loss: float, rate: float, seconds: float, trained: float
    ) -> None:
        """Append an epoch to the history."""
        h = self.history
        h.epoch.append(epoch)
        h.step.append(step)
        h.train_loss.append(train_loss)
        if self.held_out is not None:
            h.validation_loss.append(loss)
        h.learning_rate.append(rate)
        h.seconds.append(seconds)
        h.rows_per_second.append((self.n_train // self.batch_size) * self.batch_size / max(trained, 1e-9))

    def ask(
        self, calls: tuple[Callback, ...], epoch: int, step: int, train_loss: float, loss: float, rate: float
    ) -> bool:
        """Call the callbacks with the flow at its present parameters; True if one wants to stop."""
        self.flow._assign(params=self.params)
        self.flow.history = self.history
        state = TrainingState(epoch, step, train_loss, loss, rate, self.flow)
        # Every callback is called, also after one has asked to stop.
        answers = [call(state) for call in calls]
        return any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)

    def save(self) -> None:
        """Write the best parameters, or without validation the present ones."""
        assert self.checkpoint is not None
        self.flow._assign(params=self.params if self.best is None else self.best[1])
        self.flow.save(self.checkpoint)

    def batch_rows(self, epoch: int, step: int, at_most: int | None = None) -> Array:
        """Row numbers of X in one batch, or in the beginning of it."""
        positions = np.zeros(min(self.batch_size, at_most or self.batch_size), dtype=np.int64)
        self.backend.row_order(self.seed, epoch, self.n_train, step * self.batch_size, positions)
        rows, one = np.zeros_like(positions), np.zeros(1, dtype=np.int64)
        for i, position in enumerate(positions):
            self.backend.row_order(self.seed, 0, len(self.x), int(position), one)
            rows[i] = one[0]
        return rows

    def batch_is_weightless(self, epoch: int, step: int) -> bool:
        """Whether the weights of a batch sum to 0, so that it has no mean loss: such a batch is passed over."""
        if self.weight is None:
            return False
        if self.split_weight is None:  # where one such batch is, many are
            self.split_weight = np.concatenate(
                [
                    _prepare.gather(self.backend, self.weight, self.seed, part.start, part.stop)
                    for part in _prepare.chunks(self.n_train, 1)
                ]
            )
        positions = np.zeros(self.batch_size, dtype=np.int64)
        self.backend.row_order(self.seed, epoch, self.n_train, step * self.batch_size, positions)
        return bool(self.split_weight[positions].sum(dtype=np.float64) == 0)

    def extreme(self, rows: Array) -> tuple[float, str]:
        """How many scales out the farthest number of some rows lies, and which it is."""
        dim = self.x.shape[1]
        data, given = np.split(self.flow._snapshot.buffers, [2 * dim])
        worst = (0.0, "")
        for name, array, buffers in (("X", self.x, data), ("context", self.context, given)):
            if array is None:
                continue
            loc, scale = np.split(buffers, 2)
            u = np.abs((array[rows].astype(np.float64) - loc) / scale)
            i, j = np.unravel_index(int(np.argmax(u)), u.shape)
            if u[i, j] > worst[0]:
                worst = float(u[i, j]), f"{name}[{rows[i]}, {j}] = {array[rows[i], j]}"
        return worst

    def diagnose(self, trainer: Any, epoch: int, step: int, loss: float, norm: float) -> str:
        """Say what went wrong in a step whose loss or gradient is not finite, and the likely cause."""
        rows = self.batch_rows(epoch, step)
        if self.weight is not None:
            rows = rows[self.weight[rows] != 0]
        what = f"the gradient became {norm}" if np.isfinite(loss) else f"the loss became {loss}"
        far, value = self.extreme(rows)
        if far > 1e3:
            cause = (
                f"an extreme value: {value} lies {far:.3g} scales out; "
                'remove or clip such rows, or use standardize="robust"'
            )
        elif self.weight is not None and np.abs(self.weight[rows].astype(np.float64)).max() * self.weight_scale > 1e4:
            cause = "a sample_weight above 10 000 times the mean weight; clip the weights or use larger batches"
        else:
            rate = float(self.rates.rates(trainer.step, 1)[0])
            cause = f"a learning rate that is too high (it was {rate:.3g}); lower learning_rate or clip_norm"
        where = f"at step {trainer.step + 1} (epoch {epoch})"
        return f"{what} {where}; likely cause: {cause}. The flow keeps its last good parameters"


class _Mean:
    """A running mean of the parameters, which forgets exponentially."""

    def __init__(self, n_steps: int) -> None:
        # Often enough for a smooth mean, seldom enough to cost nothing.
        self.interval = max(16, n_steps // 500)
        self.window = max(1, round(AVERAGED * n_steps / self.interval))
        self.count = 0
        self.params = np.zeros(0)

    def add(self, params: Array) -> None:
        """Take in the present parameters; the first few count alike, so that the start leaves no trace."""
        self.count += 1
        if self.count == 1:
            self.params = params.astype(np.float64)
        else:
            self.params += (params - self.params) / min(self.count, self.window)


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, unit="rows", unit_scale=True, dynamic_ncols=True, file=sys.stderr, desc="epoch 1")


def _losses(train_loss: float, loss: float, best: tuple[float, Array] | None) -> str:
    text = f"train {train_loss:.3f}"
    return text if best is None else f"{text}, validation {loss:.3f}, best {best[0]:.3f}"
