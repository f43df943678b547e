"""Weights of the rows of a table: which column of it, or of a file of their own, they are; and means with them."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator, Sequence

import numpy as np

from penstock._typing import Array
from penstock.cli.tables import READ, Table, read_table


def weight_column(
    arguments: argparse.Namespace, table: Table, context: Sequence[int]
) -> tuple[list[int], Table | None]:
    """Where the weights are that ``--weights`` names: in a column, as a list of its number, or in a table of their own."""
    given = arguments.weights
    if given is None:
        return [], None
    if table.has(given):
        place = table.index(given, option="--weights")
        if place in context:
            raise ValueError(f"--weights: {given!r} is also one of --context-columns")
        return [place], None
    if os.path.splitext(given)[1].lower() not in READ:
        raise ValueError(f"--weights: {given!r} is no file and no column of {table.path}, which has {table.describe()}")
    own = read_table(given)
    if own.n_columns != 1:
        raise ValueError(f"--weights: {given} must have 1 column, got {own.describe()}")
    return [], own


def beside(chunks: Iterator[Array], own: Table, path: str, first: int = 0, last: int | None = None) -> Iterator[Array]:
    """Chunks of rows of the table at ``path``, with the weights of a table of their own as a further column at the end.

    Perhaps of rows ``first`` to ``last - 1`` of both alone.
    """
    held, n, parts = np.zeros((0, 1)), 0, own.chunks([0], first, last)
    for rows in chunks:
        while len(held) < len(rows):
            part = next(parts, None)
            if part is None:
                raise ValueError(f"--weights: {own.path} has {n + len(held)} rows, and {path} has more")
            held = np.concatenate([held, part])
        yield np.concatenate([rows, held[: len(rows)]], axis=1)
        n, held = n + len(rows), held[len(rows) :]
    if len(held) or next(parts, None) is not None:
        raise ValueError(f"--weights: {own.path} has more rows than {path}, which has {n}")


# Of numbers: the largest weight is between 1/2 and 1 times two to this power, in which unit w x, w and w^2 are summed.
Part = tuple[int, Array]
POWERS = np.array([1, 1, 2])


def part_of_mean(values: Array, weight: Array) -> Part | None:
    """What a mean needs of some numbers; those of weight 0 do not count, whatever they are."""
    values, weight = values[weight != 0].astype(np.float64), weight[weight != 0].astype(np.float64)
    if not len(weight):
        return None
    exponent = math.frexp(float(np.abs(weight).max()))[1]
    with np.errstate(all="ignore"):
        w = np.ldexp(weight, -exponent)
        return exponent, np.array([(w * values).sum(), w.sum(), (w * w).sum()])


class Mean:
    """The weighted mean of numbers that come in parts. Only the ratios of weights matter, whatever their size."""

    def __init__(self) -> None:
        self._exponent: int | None = None  # the largest weight so far is between 1/2 and 1 times two to this power
        self._sums = np.zeros(3)

    def add(self, part: Part | None) -> None:
        """Take the sums of further numbers, in their order."""
        if part is None:
            return
        exponent, sums = part
        if self._exponent is None or exponent > self._exponent:
            self._sums = np.ldexp(self._sums, ((self._exponent or 0) - exponent) * POWERS)
            self._exponent = exponent
        self._sums += np.ldexp(sums, (exponent - self._exponent) * POWERS)

    @property
    def value(self) -> float:
        """The mean; NaN without rows that count."""
        total, mass, _ = self._sums.tolist()
        if self._exponent is None:
            return math.nan
        if not mass > 0:
            raise ValueError(f"the sum of --weights must be positive, got {math.ldexp(mass, self._exponent):g}")
        return float(total / mass)

    @property
    def effective_size(self) -> float:
        """How many rows of equal weight tell as much: (sum w)^2 / sum w^2."""
        _, mass, squares = self._sums.tolist()
        return float(mass * mass / squares) if squares else 0.0
