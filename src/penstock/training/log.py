"""What ``fit`` says through ``logging.getLogger("penstock")``, at INFO: what computes, and a line each tenth of a run.

No handler is installed but one that does nothing, so that nobody hears of it who has not asked: in a batch job,
``logging.basicConfig(level="INFO")``.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np

from penstock import _backend
from penstock._typing import Array
from penstock.history import History
from penstock.runner import Runner
from penstock.training.options import Budget

LINES = 10  # of a run

logger = logging.getLogger("penstock")
logger.addHandler(logging.NullHandler())
_told: set[str] = set()  # what computes, as this process was told


def tell(message: str, *values: Any) -> None:
    """A line of the log."""
    logger.info(message, *values)


class Log:
    """The lines of one attempt of a run.

    Parameters
    ----------
    runner : Runner
    budget : Budget
    taken : int
        Batches that an earlier process has done.
    """

    def __init__(self, runner: Runner, budget: Budget, taken: int) -> None:
        self._budget, self._first, self._start = budget, taken, time.perf_counter()
        self._part = LINES * taken // budget.schedule.n_steps
        if logger.isEnabledFor(logging.INFO):
            text = f"computes with {runner.described()}, {_backend.threads_and_why()}"
            if text not in _told:
                _told.add(text)
                tell("%s", text)

    def step(self, taken: int, losses: Array, history: History) -> None:
        """Say within an epoch how far the run is, if another tenth of it is done.

        Parameters
        ----------
        taken : int
            Batches done in the present attempt.
        losses : float64 array
            Of the batches of the present epoch.
        history : History
            Of the epochs before.
        """
        if self._is_due(taken):
            counted = losses[np.isfinite(losses)]
            self._line(taken, float(counted.mean()) if len(counted) else float("nan"), history)

    def epoch(self, taken: int, history: History) -> None:
        """Say so at the end of an epoch."""
        if self._is_due(taken):
            self._line(taken, history.train_loss[-1], history)

    def _is_due(self, taken: int) -> bool:
        part = LINES * taken // self._budget.schedule.n_steps
        due = part > self._part and logger.isEnabledFor(logging.INFO)
        self._part = part
        return due

    def _line(self, taken: int, train_loss: float, history: History) -> None:
        budget, earlier = self._budget, history.restarted  # epochs of an attempt before this one
        before = earlier * budget.steps_per_epoch
        done, total = before + taken, before + budget.schedule.n_steps
        seconds = time.perf_counter() - self._start
        rows = (taken - self._first) * budget.batch_size / max(seconds, 1e-9)
        validated = f", validation {history.validation_loss[-1]:.4f}" if history.validation_loss else ""
        best = f", best {history.best_loss:.4f} of epoch {history.best_epoch}" if history.best_epoch is not None else ""
        tell(
            "epoch %d/%d, step %d/%d (%d %%): training loss %.4f%s%s, %.1f s, %.3g rows/s",
            -(-done // budget.steps_per_epoch), earlier + budget.epochs, done, total, 100 * done // total, train_loss, validated,
            best, seconds, rows,
        )  # fmt: skip
