"""The running mean of the parameters (EMA), which is validated beside the parameters themselves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from penstock._typing import Array

PART = 0.05  # the mean forgets over this part of the run,
STEPS_MIN = 500  # and needs a run of at least so many steps


@dataclass(frozen=True)
class Mean:
    """A mean so far.

    Attributes
    ----------
    count : int
        Additions.
    params : float64 array of shape (n_params,)
    """

    count: int
    params: Array


class RunningMean:
    """How an exponential running mean is taken, in float64. What does not change (frozen parameters) is kept exactly.

    Attributes
    ----------
    interval : int
        Steps between two additions: few enough for a smooth mean, enough to cost nothing.
    window : int
        Additions over which it forgets.
    """

    def __init__(self, n_steps: int) -> None:
        self.interval = max(16, n_steps // 500)
        self.window = max(1, round(PART * n_steps / self.interval))

    def add(self, mean: Mean | None, params: Array) -> Mean:
        """The mean with the present parameters. The first ``window`` count alike, so that the start leaves no trace."""
        if mean is None:
            return Mean(1, params.astype(np.float64))
        count = mean.count + 1
        change = np.subtract(params, mean.params)
        change /= min(count, self.window)
        change += mean.params
        return Mean(count, change)


def running_mean(n_steps: int) -> RunningMean | None:
    """A running mean for a run of so many steps, or None if that is too short."""
    return RunningMean(n_steps) if n_steps >= STEPS_MIN else None
