"""How a transform reads theta and writes its gradient: number i of an element lies one tile after number i - 1."""

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import load, store
from penstock._numba.core.layout import TILE


@jit
def read(theta: Any, at: int, i: int) -> Any:
    """Number ``i`` of the element whose first number is at ``at``."""
    return load(theta, at + i * TILE)


@jit
def write(dtheta: Any, at: int, i: int, value: Any) -> None:
    """Overwrite the gradient of number ``i``."""
    store(dtheta, at + i * TILE, value)
