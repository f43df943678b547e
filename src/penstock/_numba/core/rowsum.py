"""The one way to sum over rows: 16 partial sums (row mod 16), then a fixed tree."""

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit


@jit
def sum_rows(x: Any, at: int, rows: int, partial: Any) -> Any:
    """The sum of ``rows`` numbers from position ``at``; ``partial`` is scratch, 16 numbers of the type of ``x``."""
    for i in range(16):
        partial[i] = x[at + i] if i < rows else 0
    for r in range(16, rows):
        partial[r & 15] += x[at + r]
    stride = 1
    while stride < 16:
        for i in range(0, 16, 2 * stride):
            partial[i] += partial[i + stride]
        stride *= 2
    return partial[0]
