"""The keyed permutation behind splits and epochs: row p of an order is computed, not stored.

A balanced Feistel network on the smallest even power of two that holds n, walked until it lands below n.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import entry, jit
from penstock._numba.core.philox import HALF, LOW, STREAM_SHUFFLE, philox

ONE, ZERO = np.uint64(1), np.uint64(0)


@jit
def mix(r: Any, k: Any) -> Any:
    h = ((r ^ k) * np.uint64(0x9E3779B1)) & LOW
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(0x85EBCA77)) & LOW
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE3D)) & LOW
    return h ^ (h >> np.uint64(16))


@entry
def order(seed: Any, epoch: Any, n: Any, position: Any, out: Any) -> None:
    """``out[j] = P(position[j])`` with the permutation P of 0..n-1; ``out`` may be ``position``."""
    if n <= 1:
        out[:] = position
        return
    bits, top = 0, n - 1
    while top > 0:
        bits, top = bits + 1, top >> 1
    half = np.uint64(max(1, (bits + 1) // 2))
    mask = (ONE << half) - ONE
    a0, a1, a2, a3 = philox(seed, epoch & LOW, epoch >> HALF, ZERO, STREAM_SHUFFLE)
    b0, b1, _, _ = philox(seed, epoch & LOW, epoch >> HALF, ONE, STREAM_SHUFFLE)
    for j in range(position.size):
        v = np.uint64(position[j])
        while True:
            left, right = v >> half, v & mask
            for k in (a0, a1, a2, a3, b0, b1):
                left, right = right, left ^ (mix(right, k) & mask)
            v = (left << half) | right
            if v < np.uint64(n):
                break
        out[j] = np.int64(v)
