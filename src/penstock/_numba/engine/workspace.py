"""What one thread needs to evaluate a plan, or to walk it there and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.layout import TILE, padded
from penstock._numba.engine.layout import Layout
from penstock._numba.engine.pool import NEVER
from penstock._numba.engine.walk import Space

Array = np.ndarray[Any, Any]


class Workspace:
    """The arrays of a tile, and those through which a chunk of rows comes and goes."""

    def __init__(self, layout: Layout, chunk: int, training: bool) -> None:
        dtype, dim, n_external = layout.dtype, layout.dim, layout.n_external
        widest = padded(max(layout.widest, layout.widest_theta)) if training else 0
        once, back = TILE, TILE * training  # numbers of a feature: always, and on the way back alone
        sizes = {
            "state": dim * once,
            "kept": layout.n_training_kept if training else layout.n_kept,
            "theta": n_external * once,
            "context": layout.n_context * once,
            "d_state": dim * back,
            "d_value": back,
            "d_log_det": back,
            "partial": back,
            "d_theta": widest * back,
            "d_external": n_external * back,
            "d_hidden": max(2 * widest, layout.widest_masked) * back,
            "transposed": widest * back,
            "d_context": layout.n_context * back,
        }
        work = _aligned(sum(sizes.values()), dtype)
        ends = np.cumsum([0, *sizes.values()]).tolist()
        areas = {name: work[ends[i] : ends[i + 1]] for i, name in enumerate(sizes)}
        doubles = [np.zeros(TILE) for _ in range(4)]
        self.space = Space(
            *areas.values(), *doubles, np.zeros(4 * TILE, np.uint32), np.zeros(TILE, np.int64), np.zeros(TILE),
            np.zeros(TILE), areas["d_hidden"].size // 2,
        )  # fmt: skip
        self.stop = NEVER.flag  # of the call that it is lent to
        self.x = np.zeros((chunk, dim))
        self.context = np.zeros((chunk, layout.context_dim))
        self.counters = np.zeros((2, chunk + TILE), np.uint64)
        self.theta = np.zeros((chunk if n_external else 1, n_external), dtype)
        self.out = np.zeros((chunk, dim), dtype)
        self.log_det = np.zeros(chunk)
        self.weight = np.zeros(chunk)
        self.d_out = np.zeros((chunk, dim), dtype)
        self.d_log_det = np.zeros(chunk, dtype)
        self.d_theta = np.zeros_like(self.theta)
        self.sums = np.zeros(2)
        self.d_context = np.zeros((chunk, layout.context_dim), dtype)


def _aligned(n: int, dtype: Any) -> Array:
    memory = np.zeros(n + 64, dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize
    return memory[start : start + n]
