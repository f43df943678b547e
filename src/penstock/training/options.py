"""Options of ``fit``: checked once, then made concrete for a number of training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.training.schedule import FALLING, SCHEDULES, Schedule, warmup_steps

if TYPE_CHECKING:
    from penstock.plan import Tensor


STEPS = 40000  # the budget when epochs is not given,
EPOCHS = 100  # and the most epochs it may become: more than that overfits a small table
# The member of an ensemble has a thread of its own, and what it lacks the others make up for: this part of so many steps and
# epochs.
MEMBER, MEMBER_STEPS = 0.6, 64000
ROWS_PER_BATCH = 500  # a batch holds about one row in so many, within
BATCHES = (64, 4096)
DECAY = 0.1  # the weight decay of a second attempt, where the first overfitted
PATIENCE = 20
ESTIMATORS = ("path", "reparameterised")


@dataclass(frozen=True)
class Budget:
    """How long a run is, and at which rates.

    Attributes
    ----------
    epochs, steps_per_epoch, batch_size : int
    schedule : Schedule
    """

    epochs: int
    steps_per_epoch: int
    batch_size: int
    schedule: Schedule


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``Flow.fit`` was asked for, under the names it has there; each value is checked."""

    epochs: int | None
    batch_size: int | None
    learning_rate: float
    schedule: str | None
    warmup: float | None
    weight_decay: float | None
    clip_norm: float | None
    patience: int | None
    standardize: bool | str
    freeze: Sequence[str]

    def __post_init__(self) -> None:
        optional_ints = ("epochs", "batch_size", "patience")
        for name in optional_ints:
            if getattr(self, name) is not None:
                self._set(name, _validate.positive_int(getattr(self, name), name=name))
        if self.schedule is None:
            self._set("schedule", "cosine" if self.patience is None else "plateau")
        _validate.choice(self.schedule, SCHEDULES, name="schedule")
        self._set("learning_rate", _validate.positive_number(self.learning_rate, name="learning_rate"))
        if self.warmup is not None:
            self._set("warmup", _validate.count_or_fraction(self.warmup, name="warmup"))
        if self.weight_decay is not None:
            self._set("weight_decay", _validate.non_negative_number(self.weight_decay, name="weight_decay"))
        clip_norm = math.inf if self.clip_norm is None else self.clip_norm
        self._set("clip_norm", _validate.positive_number(clip_norm, name="clip_norm", allow_inf=True))
        if self.schedule in FALLING and self.patience is not None:
            raise ValueError(
                f'patience does not go with schedule="{self.schedule}", which does its best work in its last epochs; '
                'use schedule="plateau", or fewer epochs'
            )
        if self.standardize is not True and self.standardize is not False and self.standardize != "robust":
            raise ValueError(f'standardize must be True, False or "robust", got {self.standardize!r}')
        self._set("freeze", _validate.names(self.freeze, name="freeze"))

    @property
    def decays_later(self) -> bool:
        """Whether a run that overfits begins again, with weight decay."""
        return self.weight_decay is None and self.schedule in FALLING

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def budget(self, n_train: int, *, validated: bool) -> Budget:
        """The run that these options mean for so many training rows."""
        patience, kind = self.patience, self.schedule
        assert kind is not None
        if not validated and (self.schedule == "plateau" or patience is not None):
            raise ValueError('schedule="plateau" and patience need validation rows, but validation is off')
        if patience is None and self.schedule == "plateau":
            patience = PATIENCE
        batch_size = min(self.batch_size or default_batch_size(n_train), n_train)
        steps_per_epoch = n_train // batch_size
        epochs = self.epochs or default_epochs(n_train, self.batch_size)
        n_steps = epochs * steps_per_epoch
        warmup = warmup_steps(self.warmup, kind, n_steps)
        schedule = Schedule(kind, self.learning_rate, warmup, n_steps, patience)
        return Budget(epochs, steps_per_epoch, batch_size, schedule)


@dataclass(frozen=True, kw_only=True)
class TargetOptions:
    """What ``Flow.fit_to_target`` was asked for beyond what ``fit`` knows, under its names; each value is checked."""

    fit: Options
    epoch_steps: int
    estimator: str
    validation: int

    def __post_init__(self) -> None:
        for name in ("epoch_steps", "validation"):
            object.__setattr__(self, name, _validate.positive_int(getattr(self, name), name=name))
        if self.validation < 25:  # what a tail needs
            raise ValueError(f"validation must be at least 25 draws, got {self.validation}")
        _validate.choice(self.estimator, ESTIMATORS, name="estimator")


def default_epochs(n_train: int, batch_size: int | None = None, *, member: bool = False) -> int:
    """So many as make about ``STEPS`` steps, at most ``EPOCHS``; for the member of an ensemble a part of ``MEMBER_STEPS``."""
    steps_per_epoch = n_train // min(batch_size or default_batch_size(n_train), n_train)
    epochs = min(-(-(MEMBER_STEPS if member else STEPS) // steps_per_epoch), EPOCHS)
    return max(1, round(MEMBER * epochs)) if member else epochs


def default_batch_size(n_train: int) -> int:
    """The power of two nearest to a five-hundredth of the rows, within 64 and 4096.

    Small batches learn more from as many rows: four times as many steps of 64 rows beat those of 256 (``benchmarks/NOTES.md``).
    """
    least, most = BATCHES
    return min(max(1 << max(round(math.log2(n_train / ROWS_PER_BATCH)), 0), least), most)


def frozen_ranges(tensors: Sequence[Tensor], freeze: Sequence[str]) -> Array | None:
    """The ranges of the flat vector that names or prefixes of parameters name: rows of (offset, count); None for no name.

    Parameters
    ----------
    tensors : sequence of Tensor
    freeze : sequence of str
        ``"layers.0"`` means every parameter of that layer.
    """
    if not freeze:
        return None
    ranges: list[list[int]] = []
    for name in freeze:
        if not any(_below(tensor.name, name) for tensor in tensors):
            raise ValueError(f"freeze: there are no parameters {name!r}; there are: {', '.join(_names(tensors, name))}")
    for tensor in tensors:
        if not tensor.size or not any(_below(tensor.name, name) for name in freeze):
            continue
        if ranges and sum(ranges[-1]) == tensor.offset:
            ranges[-1][1] += tensor.size
        else:
            ranges.append([tensor.offset, tensor.size])
    if sum(count for _, count in ranges) == sum(tensor.size for tensor in tensors):
        raise ValueError("freeze names all parameters of the flow, and leaves none to train")
    return np.array(ranges, np.int64)


def _below(tensor: str, name: str) -> bool:
    return tensor == name or tensor.startswith(f"{name}.")


def _names(tensors: Sequence[Tensor], wrong: str) -> list[str]:
    """What could have been meant: the parts of the longest prefix of ``wrong`` that exists."""
    parts = wrong.split(".")
    for length in range(len(parts), -1, -1):
        prefix = ".".join(parts[:length])
        found = [t.name for t in tensors if length == 0 or _below(t.name, prefix)]
        if found:
            # "layers" alone names no choice: its numbers do.
            depth = max(length, 1) + 1
            return sorted({".".join(name.split(".")[:depth]) for name in found}, key=_natural)
    return []


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in name.split(".")]
