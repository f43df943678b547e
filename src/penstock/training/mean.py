"""The running mean of the parameters (EMA), which is validated beside the parameters themselves."""

from __future__ import annotations

import numpy as np

from penstock._typing import Array

PART = 0.05  # the mean forgets over this part of the run,
STEPS_MIN = 500  # and needs a run of at least so many steps


class RunningMean:
    """An exponential running mean in float64. What does not change (frozen parameters) is kept exactly.

    Attributes
    ----------
    interval : int
        Steps between two additions: few enough for a smooth mean, enough to cost nothing.
    count : int
        Additions so far.
    params : float64 array of shape (n_params,)
    """

    def __init__(self, n_steps: int) -> None:
        self.interval = max(16, n_steps // 500)
        self.window = max(1, round(PART * n_steps / self.interval))
        self.count = 0
        self.params: Array = np.array([])
        self._change: Array = self.params

    def add(self, params: Array) -> None:
        """Add the present parameters. The first ``window`` of them count alike, so that the start leaves no trace."""
        self.count += 1
        if self.count == 1:
            self.params = params.astype(np.float64)
            self._change = self.params.copy()
            return
        np.subtract(params, self.params, out=self._change)
        self._change /= min(self.count, self.window)
        self.params += self._change


def running_mean(n_steps: int) -> RunningMean | None:
    """A running mean for a run of so many steps, or None if that is too short."""
    return RunningMean(n_steps) if n_steps >= STEPS_MIN else None
