"""The keyed permutation behind splits and epochs: row p of an order is computed, not stored.

Up to 64 rows it is drawn (Fisher, Yates; Durstenfeld 1964). From there on it is a balanced Feistel network on the smallest
even power of two that holds n, walked until it lands below n; where n is that power itself all its permutations would be
even, so a bit of the key exchanges 0 and 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import entry, jit
from penstock._numba.core.philox import HALF, LOW, STREAM_SHUFFLE, philox

ONE, FOUR = np.uint64(1), np.uint64(4)
DRAWN = 64  # rows of the largest order that is drawn
ROUNDS = 6


@jit
def mix(r: Any, k: Any) -> Any:
    """32 bits of a hash of r and the key of a round."""
    h = ((r ^ k) * np.uint64(0x9E3779B1)) & LOW
    h = ((h ^ (h >> np.uint64(15))) * np.uint64(0x85EBCA77)) & LOW
    h = ((h ^ (h >> np.uint64(13))) * np.uint64(0xC2B2AE3D)) & LOW
    return h ^ (h >> np.uint64(16))


@jit
def word(seed: Any, epoch: Any, k: Any) -> Any:
    """Word k of an order."""
    words = philox(seed, epoch & LOW, epoch >> HALF, np.uint64(k) // FOUR, STREAM_SHUFFLE)
    return words[k % 4]


@jit
def drawn(seed: Any, epoch: Any, n: int, order_of: Any) -> None:
    """Fill order_of with a permutation of 0..n-1."""
    for i in range(n):
        order_of[i] = i
    for i in range(n - 1, 0, -1):
        j = np.int64((word(seed, epoch, i - 1) * np.uint64(i + 1)) >> HALF)
        order_of[i], order_of[j] = order_of[j], order_of[i]


@entry
def order(seed: Any, epoch: Any, n: int, position: Any, out: Any) -> None:
    """``out[j] = P(position[j])`` with the permutation P of 0..n-1; ``out`` may be ``position``."""
    if n <= DRAWN:
        order_of = np.zeros(DRAWN, np.int64)
        drawn(seed, epoch, n, order_of)
        for j in range(position.size):
            out[j] = order_of[position[j]]
        return
    bits, top = 0, n - 1
    while top > 0:
        bits, top = bits + 1, top >> 1
    half = np.uint64((bits + 1) // 2)
    mask = (ONE << half) - ONE
    keys = np.zeros(ROUNDS, np.uint64)
    for i in range(ROUNDS):
        keys[i] = word(seed, epoch, i)
    odd = word(seed, epoch, ROUNDS) & ONE if np.uint64(n) == ONE << (half + half) else np.uint64(0)
    for j in range(position.size):
        v = np.uint64(position[j])
        while True:
            left, right = v >> half, v & mask
            for k in keys:
                left, right = right, left ^ (mix(right, k) & mask)
            v = (left << half) | right
            if v < np.uint64(n):
                break
        out[j] = np.int64(v ^ odd if v < np.uint64(2) else v)


def row_order(seed: int, epoch: int, n: int, positions: Any, out: Any) -> None:
    """``out[j] = P(positions[j])`` with the keyed permutation of seed, epoch and n.

    ``positions`` may be ``out``, or the first of consecutive ones.
    """
    if isinstance(positions, (int, np.integer)):
        positions = np.arange(positions, positions + len(out))
    if out.dtype != np.int64 or out.ndim != 1 or positions.dtype != np.int64 or positions.shape != out.shape:
        raise ValueError("positions and out must be int64 arrays of one length")
    if n < 0 or (positions.size and not (positions.min() >= 0 and positions.max() < n)):
        raise ValueError(f"positions must lie within the {n} rows")
    order(np.uint64(seed), np.uint64(epoch), int(n), positions, out)
