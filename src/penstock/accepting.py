"""Draws that a condition accepts: which they are follows from the seed and the condition, not from how they are batched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.lattice import Lattice
from penstock.runner import Runner

LIMIT = 10**6  # draws in a row of which none is accepted
CHUNK = 1 << 16  # draws together
FEWEST = 64

Condition = Callable[[Array], Any]


def judged(where: Condition, x: Array) -> Array:
    """What a condition says of rows."""
    x = x.view()
    x.flags.writeable = False  # they are what becomes the result
    return _validate.as_booleans(where(x), len(x), name="where")


def accepted(
    runner: Runner,
    packed: Any,
    where: Condition,
    seed: int,
    context: Array | None,
    out: Array,
    first_context: int,
    lattice: Lattice | None = None,
) -> None:
    """Fill ``out`` of shape (contexts, n, dim) with the first draws for each context, by number, that ``where`` accepts.

    ``context`` is None, one row, or a row for each. Draws are rounded to the lattice, if there is one.

    Raises RuntimeError where ``LIMIT`` draws in a row are refused.
    """
    m, each, dim = out.shape
    several = context is not None and context.ndim == 2

    def draw(row: int, rows: int, first: int, count: int) -> tuple[Array, Array]:
        given = context[row : row + rows] if several and context is not None else context
        x, _ = runner.sample(packed, rows * count, seed, given, numbers=(first, first_context + row))
        if lattice is not None:
            lattice.round(x)
        return x.reshape(rows, count, dim), judged(where, x).reshape(rows, count)

    if each == 0:
        return
    together = max(1, CHUNK // each)
    for begin in range(0, m, together):
        block = out[begin : begin + together]
        # All contexts together as far as one draw for each that is wanted leads, then one after the other.
        x, kept = draw(begin, len(block), 0, min(each, CHUNK))
        for row, rows in enumerate(block):
            wanted = _Wanted(rows)
            wanted.take(x[row], kept[row])
            while wanted.found < each:
                more, fit = draw(begin + row, 1, wanted.seen, wanted.next_count())
                wanted.take(more[0], fit[0])


class _Wanted:
    """Places for accepted draws, and how many of those seen were accepted."""

    def __init__(self, rows: Array) -> None:
        self._rows = rows
        self.found = self.seen = 0
        self._last = -1  # number of the last one that was accepted

    def take(self, x: Array, kept: Array) -> None:
        """Look at the next draws."""
        places = np.flatnonzero(kept)[: len(self._rows) - self.found]
        enough = self.found + len(places) == len(self._rows)
        numbers = self.seen + places
        ends = np.concatenate([[self._last], numbers, [] if enough else [self.seen + len(x)]])
        if len(ends) > 1 and np.diff(ends).max() > LIMIT:
            raise RuntimeError(
                f"where has accepted none of {LIMIT} draws in a row ({self.found} of {self.seen + len(x)} in all, "
                f"{len(self._rows)} are wanted): what it asks for is hardly found under this flow"
            )
        self._rows[self.found : self.found + len(places)] = x[places]
        self.found += len(places)
        self.seen += len(x)
        self._last = int(numbers[-1]) if len(numbers) else self._last

    def next_count(self) -> int:
        """How many draws to look at next."""
        missing, rate = len(self._rows) - self.found, (self.found + 1) / (self.seen + 1)
        return int(min(max(1.1 * missing / rate, FEWEST), CHUNK))
