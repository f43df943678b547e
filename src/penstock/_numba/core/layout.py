"""What engine and kernels agree on about where things lie."""

from __future__ import annotations

TILE = 64  # rows of a tile, and of the smallest slice of a batch
PAD = 16  # gradients of weights are stored with rows padded to this many numbers


def padded(n: int) -> int:
    """The length of a row of n numbers with its padding."""
    return -(-n // PAD) * PAD
