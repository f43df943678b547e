"""The front door of unnormalised densities that a user gives as functions: what they return is checked here."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from penstock import _validate
from penstock._typing import Array, ArrayLike

LogDensity: TypeAlias = "Callable[..., ArrayLike | tuple[ArrayLike, ArrayLike]]"
"""A function of rows, a float64 array of shape (rows, dim), and for a flow with a context of theirs, (rows, context_dim), that
returns log p of shape (rows,), or that and its gradient."""


def evaluated(
    log_density: LogDensity, x: Array, context: Array | None = None, *, gradient: bool
) -> tuple[Array, Array | None]:
    """``log p`` of rows, (rows,), and where one came with it or is needed its gradient, (rows, dim), both in float64.

    The function gets float64 arrays of its own, with the rows that are finite alone: both are NaN for the others. NaN and
    -inf pass; +inf is no logarithm of a density.
    """
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        log_p, slopes = np.full(len(x), np.nan), np.full(x.shape, np.nan) if gradient else None
        if finite.any():
            some = None if context is None else context[finite]
            log_p[finite], found = evaluated(log_density, x[finite], some, gradient=gradient)
            if slopes is not None and found is not None:
                slopes[finite] = found
        return log_p, slopes
    rows = np.array(x, np.float64, order="C")
    given = () if context is None else (np.array(context, np.float64, order="C"),)
    answer: Any = log_density(rows, *given)
    slope: Any = None
    if isinstance(answer, tuple):
        if len(answer) != 2:
            raise ValueError(f"log_density must return log p, or (log p, gradient), got a tuple of {len(answer)}")
        answer, slope = answer
    elif gradient:
        raise TypeError(f"log_density must return a tuple (log p, gradient), got {type(answer).__name__}")
    log_p = _validate.as_shaped(answer, (len(x),), _validate.FLOAT64, name="log_density(x)")
    high = np.flatnonzero(log_p == math.inf)
    if len(high):
        raise ValueError(f"log_density(x) is inf at x = {shown(x[high[0]])}; no density is")
    if slope is None or not gradient:
        return log_p, None
    return log_p, _validate.as_shaped(slope, x.shape, _validate.FLOAT64, name="the gradient of log_density(x)")


def shown(row: Array) -> str:
    """A row in a message."""
    numbers = ", ".join(f"{number:.6g}" for number in row[:8].tolist())
    return f"[{numbers}{', ...' if len(row) > 8 else ''}]"
