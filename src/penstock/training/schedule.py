"""The learning rates of a whole training run."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from penstock._typing import Array

SCHEDULES = ("cosine", "onecycle", "constant", "plateau")
# These fall to zero over the whole run, so that they must not be stopped early.
FALLING = ("cosine", "onecycle")
# The part of a run over which the rate rises.
WARMUP = {"cosine": 0.1, "onecycle": 0.3, "constant": 0.1, "plateau": 0.1}


@dataclass(frozen=True)
class Patience:
    """What a schedule has seen of a run.

    Attributes
    ----------
    factor : float
        By which plateaus have multiplied the rate.
    since_best, since_drop : int
        Epochs since the validation loss was best, and since then or since the rate last fell.
    """

    factor: float = 1.0
    since_best: int = 0
    since_drop: int = 0


class Schedule:
    """Learning rates of a whole training run of ``n_steps``, of which the first ``warmup`` rise to ``peak``.

    ============  =================================================  ===========================================
    kind          step ``t`` of the warm-up                          afterwards, ``u = (t - warmup) / (n_steps - warmup)``
    ============  =================================================  ===========================================
    ``cosine``    ``peak (t + 1) / warmup``                          ``peak (1 + cos(pi u)) / 2``
    ``onecycle``  ``low + (peak - low) (1 - cos(pi t / warmup)) / 2``  the same
    ``constant``  as cosine                                          ``peak``
    ``plateau``   as cosine                                          ``peak``, less after each plateau
    ============  =================================================  ===========================================

    with ``low = peak / 25``. ``rates`` gives the rates of some steps; ``observe`` says what an epoch means for a plateau
    schedule. What a run has seen so far is not kept here: it is part of its state.

    References
    ----------
    Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (2017), for the half cosine.
    Smith, "A disciplined approach to neural network hyper-parameters: Part 1" (2018), and Smith, Topin,
    "Super-Convergence" (2019), for one cycle: up and then down over the whole budget. Their momentum, which goes the
    other way, is left alone here: Adam's is constant.
    """

    # A plateau schedule multiplies its rate by this after half of its patience without improvement.
    FACTOR = 0.3
    # One cycle begins at this part of its highest rate.
    LOW = 1 / 25

    def __init__(self, kind: str, learning_rate: float, warmup: int, n_steps: int, patience: int | None) -> None:
        self.kind = kind
        self.learning_rate = learning_rate
        self.warmup = warmup
        self.n_steps = n_steps
        self.patience = patience

    def rates(self, first: int, count: int, factor: float = 1.0) -> Array:
        """Learning rates of steps ``first`` to ``first + count - 1``, counted from 0, times ``factor``."""
        step = np.arange(first, first + count, dtype=np.float64)
        rates = np.full(count, self.learning_rate * factor)
        if self.kind in FALLING:
            progress = (step - self.warmup) / max(self.n_steps - self.warmup, 1)
            rates *= 0.5 * (1.0 + _cos(np.pi * np.clip(progress, 0.0, 1.0)))
        if self.warmup:
            if self.kind == "onecycle":
                rise = 0.5 * (1.0 - _cos(np.pi * np.minimum(1.0, step / self.warmup)))
                rates *= self.LOW + (1.0 - self.LOW) * rise
            else:
                rates *= np.minimum(1.0, (step + 1.0) / self.warmup)
        return rates

    def observe(self, seen: Patience, improved: bool) -> tuple[Patience, bool]:
        """What has been seen with one epoch more; True means that patience has run out."""
        factor, since_best, since_drop = seen.factor, seen.since_best + 1, seen.since_drop + 1
        if improved:
            since_best = since_drop = 0
        if self.kind == "plateau" and self.patience is not None and since_drop >= max(1, self.patience // 2):
            factor, since_drop = factor * self.FACTOR, 0
        return Patience(factor, since_best, since_drop), self.patience is not None and since_best >= self.patience


def _cos(x: Array) -> Array:
    """The cosine, number by number: NumPy's own has other last bits on processors with wider vectors."""
    return np.array([math.cos(number) for number in x.tolist()])


def warmup_steps(warmup: float | None, schedule: str, n_steps: int) -> int:
    """``warmup`` in steps: an int counts them, a float is a fraction of the run, None is the schedule's own."""
    if warmup is None:
        warmup = WARMUP[schedule]
    return warmup if isinstance(warmup, int) else round(warmup * n_steps)
