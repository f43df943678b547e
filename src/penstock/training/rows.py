"""Rows of a table with their context and weights, and the ways to walk through them. Nothing here computes on rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from penstock._typing import Array

SMALL = 1e-200  # a sum of squares of scaled weights that has lost digits
CHUNK = 1 << 18  # numbers looked at together, so that a table larger than memory stays where it is


@dataclass(frozen=True)
class Rows:
    """Rows of a table.

    Attributes
    ----------
    x : array of shape (rows, dim)
    context : array of shape (rows, context_dim), or None
    weight : array of shape (rows,), or None
        As given. Sums use ``scaled_weights``, which neither overflow nor vanish, whatever the unit of the weights.
    """

    x: Array
    context: Array | None = None
    weight: Array | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: Any) -> Rows:
        """The rows of an index: row numbers, a mask or a slice."""
        context = None if self.context is None else self.context[index]
        return Rows(self.x[index], context, None if self.weight is None else self.weight[index])

    def without(self, index: Array) -> Rows:
        """The same rows, those of an index with weight 0."""
        weight = np.ones(len(self)) if self.weight is None else self.weight.copy()
        weight[index] = 0
        return Rows(self.x, self.context, weight)

    def chunks(self, width: int) -> Iterator[slice]:
        """Consecutive slices of rows, each of about ``CHUNK`` numbers where a row has ``width`` of them."""
        size = max(1, CHUNK // max(width, 1))
        for first in range(0, len(self), size):
            yield slice(first, min(first + size, len(self)))

    @cached_property
    def weight_least(self) -> float:
        """The least weight."""
        assert self.weight is not None
        return float(self.weight.min())

    @cached_property
    def weight_exponent(self) -> int:
        """The power of two that brings the largest absolute weight to between 1/2 and 1; 0 without weights."""
        if self.weight is None or len(self) == 0:
            return 0
        return -math.frexp(max(float(self.weight.max()), -self.weight_least))[1]

    @cached_property
    def weight_sums(self) -> tuple[float, float]:
        """Sum of the scaled weights of all rows, and their effective size."""
        return Part(self, 0, len(self)).weight_sums()

    def scaled_weights(self, index: Any = slice(None)) -> Array:
        """The weights of some rows times ``2 ** weight_exponent``, in float64."""
        assert self.weight is not None
        scaled: Array = np.ldexp(self.weight[index].astype(np.float64), self.weight_exponent)
        return scaled


def sides(x: Array, context: Array | None, buffers: Array) -> tuple[Array, Array]:
    """The buffers ``[loc, scale]`` of the data, and of the context, without those behind them."""
    dim, context_dim = x.shape[1], 0 if context is None else context.shape[1]
    return buffers[: 2 * dim], buffers[2 * dim : 2 * (dim + context_dim)]


@dataclass(frozen=True)
class Part:
    """Some rows of a table: those at positions ``first`` to ``last - 1`` of an order.

    Attributes
    ----------
    rows : Rows
    first, last : int
    order : callable, or None
        ``order(first, last)`` gives the row numbers at some positions; None is the order of the table.
    """

    rows: Rows
    first: int
    last: int
    order: Callable[[int, int], Array] | None = None

    def __len__(self) -> int:
        return self.last - self.first

    def index(self, first: int, last: int) -> Any:
        """What picks the rows at positions ``first`` to ``last - 1``: row numbers, or a slice."""
        return slice(first, last) if self.order is None else self.order(first, last)

    def chunks(self, size: int) -> Iterator[Any]:
        """An index of each ``size`` rows in turn."""
        for first in range(self.first, self.last, size):
            yield self.index(first, min(first + size, self.last))

    def n_counting(self) -> int:
        """How many have another weight than 0."""
        assert self.rows.weight is not None
        return sum(int(np.count_nonzero(self.rows.weight[index])) for index in self.chunks(CHUNK))

    def weight_squares(self, exponent: int) -> float:
        """Sum of the squares of the weights times ``2 ** exponent``."""
        assert self.rows.weight is not None
        return sum(
            float(np.square(np.ldexp(self.rows.weight[index], exponent), dtype=np.float64).sum())
            for index in self.chunks(CHUNK)
        )

    def weight_sums(self, exponent: int | None = None) -> tuple[float, float]:
        """Sum of the scaled weights, and how many rows of equal weight tell as much as these: (sum w)^2 / sum w^2."""
        assert self.rows.weight is not None
        scale = self.rows.weight_exponent if exponent is None else exponent
        total = squares = 0.0
        for index in self.chunks(CHUNK):
            scaled = np.ldexp(self.rows.weight[index], scale)
            total += float(scaled.sum(dtype=np.float64))
            squares += float(np.square(scaled, dtype=np.float64).sum())
        if squares < SMALL and exponent is None:  # they vanish, in these units
            top = max(
                (float(np.abs(self.rows.weight[index]).max(initial=0.0)) for index in self.chunks(CHUNK)), default=0.0
            )
            return total, self.weight_sums(-math.frexp(top)[1])[1] if top else 0.0
        return total, total * total / squares if squares else 0.0
