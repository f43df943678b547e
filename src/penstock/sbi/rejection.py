"""Draws of a flow that leave a prior's support: their share, once for each observation, with its error."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.montecarlo import Estimate
from penstock.sbi.priors import Prior

DRAWS = 10_000  # for an estimate
KEPT = 1 << 16  # estimates that are remembered


class Rejection:
    """The condition that a draw lies within the prior, and the share of draws that meet it.

    Parameters
    ----------
    prior : Prior
    seed : int
        Decides the draws of the estimates, so that one observation has one estimate.
    """

    def __init__(self, prior: Prior, seed: int) -> None:
        self.prior, self.seed = prior, seed
        self.needed = not prior.exact
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        return Rejection, (self.prior, self.seed)

    @property
    def where(self) -> Callable[[Array], Array] | None:
        """The condition of ``Flow.sample``; None where every draw meets it."""
        return self.inside if self.needed else None

    def inside(self, theta: Array) -> Array:
        """Whether rows have a positive prior density."""
        found: Array = self.prior.log_prob(theta) > -np.inf
        return found

    def share(self, flow: Any, x: Array) -> Estimate:
        """The share of draws inside, for one observation, (c,), or each of several, (m, c)."""
        rows = x.reshape(-1, x.shape[-1])
        found = np.ones((len(rows), 2)) * [1.0, 0.0]
        if self.needed:
            # As float64: the same observation in another precision has the same estimate where the numbers are the same.
            keys = [row.tobytes() for row in rows.astype(np.float64)]
            for i, key in enumerate(keys):
                found[i] = self._of_one(flow, rows[i], key)
        values = found.reshape(*x.shape[:-1], 2)
        if x.ndim == 1:
            return Estimate(float(values[0]), float(values[1]))
        return Estimate(values[..., 0], values[..., 1])

    def _of_one(self, flow: Any, x: Array, key: bytes) -> tuple[float, float]:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        value, error = flow.acceptance(self.inside, DRAWS, x, rng=self.seed)
        with self._lock:
            self._kept[key] = float(value), float(error)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return float(value), float(error)
