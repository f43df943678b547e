"""The contexts that a target is trained over: rows of a table in keyed orders, or what a function draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.columns import Names
from penstock.runner import Runner
from penstock.support import Support
from penstock.training.rows import Rows
from penstock.training.supports import check_inside

GOLDEN = 0x9E3779B97F4A7C15  # an odd number, whose multiples are seeds of their own
SAMPLE = 4096  # contexts that are measured where a function gives them


class Contexts:
    """Where contexts come from.

    Parameters
    ----------
    source : array of shape (rows, context_dim), or callable
        Rows, of which every one comes once in each pass through them, in another order each time; or a function
        ``context(n, rng)`` of a number and a NumPy generator that draws n rows.
    dim : int
    support : sequence of Support
        Where each of them lies; empty where all are real.
    names : tuple of str
    """

    def __init__(
        self, source: Array | Callable[..., Any], dim: int, support: Sequence[Support] = (), names: Names = ()
    ) -> None:
        self._source, self.dim, self._support, self._names = source, dim, support, names

    @property
    def rows(self) -> Array | None:
        """The table, if it is one."""
        return self._source if isinstance(self._source, np.ndarray) else None

    def take(self, runner: Runner, seed: int, first: int, n: int) -> Array:
        """Contexts number ``first`` to ``first + n - 1`` of the stream of a seed, (n, context_dim) in float64."""
        rows = self.rows
        if rows is None:
            drawn = self._source(n, np.random.default_rng([seed, first]))  # type: ignore[operator]
            array = _validate.as_context_rows(drawn, self.dim, n, name="context(n, rng)", of="n")
            assert array is not None
            _validate.all_finite(array, name="context(n, rng)")
            check_inside(Rows(array), self._support, self._names, name="context(n, rng)")
            return array.astype(np.float64)
        found, at = [], first
        while at < first + n:
            turn, place = divmod(at, len(rows))
            count = min(first + n - at, len(rows) - place)
            found.append(runner.row_order(seed, turn, len(rows), range(place, place + count)))
            at += count
        chosen: Array = rows[np.concatenate(found)].astype(np.float64)
        return chosen

    def distinct(self, n: int) -> int:
        """How many of n contexts differ at most."""
        return n if self.rows is None else min(n, len(self.rows))


def as_contexts(source: Any, dim: int, support: Sequence[Support] = (), names: Names = ()) -> Contexts | None:
    """``context`` as ``fit_to_target`` takes it."""
    if dim == 0:
        _validate.no_context(source, name="context")
        return None
    if callable(source):
        return Contexts(source, dim, support, names)
    if source is None:
        raise ValueError(
            f"context must be given, since this flow has context_dim={dim}: the rows to train over, or a function "
            "context(n, rng) that draws n of them"
        )
    rows = _validate.as_rows(source, dim, name="context")
    if not len(rows):
        raise ValueError("context must have at least 1 row, got 0")
    _validate.all_finite(rows, name="context")
    check_inside(Rows(rows), support, names, name="context")
    return Contexts(rows, dim)
