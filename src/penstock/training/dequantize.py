"""Lattice columns in a fit: which they are, their noise, and batches of rows that have it.

Noise follows from the seed, the epoch, the column and the number of a row alone, so that neither threads, nor how rows are
grouped, nor a resume changes a bit of it; and it is made where rows are looked at, so that no table is copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.columns import Names, called
from penstock.groups import Group, Ordered
from penstock.lattice import AUTO, Lattice, as_steps, away, cells, found, origin_of, slack
from penstock.runner import Runner
from penstock.support import Support
from penstock.training.data import Data
from penstock.training.rows import Rows

SAMPLE = 10_000  # rows in which a step is sought
DISTINCT = 0.5  # part of them that may differ in a column that "auto" takes for a lattice
CELL = 1e-4  # steps by which a value may lie beside its lattice
GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
HELD = 2  # the number of a table that is held against a density: those of a fit are 0 and 1
BUFFER = 1 << 20  # numbers of rows with noise that are held together


# --- which columns ----------------------------------------------------------------------------------------------


def lattice_of(
    data: Data, value: Any, kept: Lattice | None, support: Sequence[Support], *, fitted: bool
) -> Lattice | None:
    """The lattices of a fit: what ``dequantize`` says of its rows, or for a later fit that of the first one.

    ``kept`` is that of the flow, if it has one. A ``value`` that is a lattice was found before, for all members of an ensemble.
    """
    if value is None:
        return kept
    if isinstance(value, Lattice):
        return value
    rows, names = data.rows, data.columns
    dim = rows.x.shape[1]
    every = isinstance(value, str) and value == AUTO
    steps = dict.fromkeys(range(dim)) if every else as_steps(value, dim, names)
    if fitted:
        own = {} if kept is None else {j: float(kept.steps[j]) for j in kept.columns}
        if not every and ({*steps} != {*own} or any(step not in (None, own[j]) for j, step in steps.items())):
            had = f"which has {kept.described(names)}" if kept is not None else "which has none"
            raise ValueError(
                f"dequantize is decided by the first fit of a flow, {had}; a later one goes on with it, flow.reset() begins anew"
            )
        return kept
    lattice = Lattice(np.zeros(dim), np.zeros(dim))
    for j, step in steps.items():
        _measure(lattice, rows, j, step, names, every=every)
    lattice = Lattice.within(lattice.steps, lattice.origins, support)
    for group in lattice.groups:
        _check_group(lattice, group, names)
    return lattice if lattice.columns else None


def _check_group(lattice: Lattice, group: Group, names: Names) -> None:
    """Raise if the cells of rising columns are not the same, or one above the other."""
    own = {(float(lattice.steps[j]), float(lattice.origins[j])) for j in group.chain if lattice.steps[j]}
    if isinstance(group, Ordered) and len(own) > 1:
        steps = ", ".join(f"{called(j, names)} {lattice.steps[j]:.9g}" for j in group.chain if lattice.steps[j])
        raise ValueError(
            f"dequantize of rising columns needs one lattice for all of them that have one, got {steps}: cells of different "
            "lattices overlap in parts, and there is no noise within them that is both uniform and in order"
        )


def _measure(lattice: Lattice, rows: Rows, j: int, step: float | None, names: Names, *, every: bool) -> None:
    """Find the lattice of a column, or only its origin where the step is given; raise if its values lie on none."""
    column = rows.x[:, j] if rows.weight is None else rows.x[np.flatnonzero(rows.weight), j]
    sample = column[:: max(1, len(column) // SAMPLE)]
    off = slack(sample)
    if step is None:
        own = None if every and len(np.unique(sample)) > DISTINCT * len(sample) else found(sample)
        if own is None and not every:
            raise ValueError(
                f"dequantize of column {called(j, names)} is 'auto', but there is no step of which its values are multiples"
            )
        if own is None:
            return
        step, origin = own
    else:
        origin = origin_of(sample, step, off)
    if every and beside(rows, j, step, origin) is not None:
        return
    check_on(rows, j, step, origin, names)
    lattice.steps[j], lattice.origins[j] = step, origin


def check_on(rows: Rows, j: int, step: float, origin: float, names: Names) -> None:
    """Raise if a value of a column lies beside its lattice, in a row that counts."""
    i = beside(rows, j, step, origin)
    if i is not None:
        raise ValueError(
            f"X must lie on the lattice that dequantize names, but row {i}, column {called(j, names)}, holds {rows.x[i, j]}, "
            f"which is not {origin:g} plus a multiple of {step:g}"
        )


def beside(rows: Rows, j: int, step: float, origin: float) -> int | None:
    """The first row that counts whose value lies beside a lattice."""
    for part in rows.chunks(1):
        x = rows.x[part, j]
        off = away(x, step, origin) > 2 * slack(x) + CELL * step
        if rows.weight is not None:
            off &= rows.weight[part] != 0
        if off.any():
            return int(part.start) + int(np.argmax(off))
    return None


# --- noise ------------------------------------------------------------------------------------------------------


def stream(seed: int, *numbers: int) -> int:
    """64 bits for a column in an epoch."""
    words = ":".join(map(str, (seed, *numbers)))
    return int.from_bytes(hashlib.blake2b(words.encode(), digest_size=8).digest(), "little")


def uniform(key: int, numbers: Array) -> Array:
    """Numbers above 0 and below 1, one for each row number: the upper 32 bits of SplitMix64 (Steele, Lea, Flood 2014)."""
    z = numbers.astype(np.uint64) * np.uint64(GOLDEN) + np.uint64(key)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(SECOND)
    z ^= z >> np.uint64(31)
    result: Array = ((z >> np.uint64(32)).astype(np.float64) + 0.5) * 2.0**-32
    return result


class Noised:
    """A table whose lattice columns are seen with noise, in float64, as far as they are looked at.

    It is indexed as an array of shape (rows, dim) is: rows by an index, and then columns by a slice or a number.
    """

    def __init__(
        self, x: Array, lattice: Lattice, seed: int, table: int, epoch: int = 0, first: int = 0
    ) -> None:  # fmt: skip
        self._x, self._lattice, self._seed, self._table, self._epoch = x, lattice, seed, table, epoch
        self._first = first  # number of its first row in the whole table
        self.shape = x.shape

    def fresh(self, epoch: int) -> Noised:
        """The same table with the noise of an epoch. That of epoch 0 measures and validates."""
        return Noised(self._x, self._lattice, self._seed, self._table, epoch, self._first)

    def __len__(self) -> int:
        return len(self._x)

    def astype(self, dtype: Any) -> Array:
        """All of it as an array."""
        array: Array = self[:].astype(dtype)
        return array

    def __getitem__(self, index: Any) -> Any:
        rows: Any
        some: Any
        rows, some = index if isinstance(index, tuple) else (index, slice(None))
        listed = isinstance(rows, np.ndarray) and rows.dtype != bool
        if isinstance(rows, slice):
            numbers = np.arange(*rows.indices(len(self))) + self._first
        else:
            numbers = (rows if listed else np.arange(len(self))[rows]) + self._first
        one = not isinstance(some, slice)
        columns: range = range(some, some + 1) if one else range(self.shape[1])[some]
        x: Any = self._x[rows]
        x = x[..., columns.start : columns.stop : columns.step].astype(np.float64)
        for place, j in enumerate(columns):
            step = float(self._lattice.steps[j])
            if step:
                x[..., place] += step * (self._uniform(numbers, j) - 0.5)
        for group in self._lattice.groups:
            if any(j in columns for j in group.chain):
                found = self._within(group, self._x[rows], numbers)
                for member, values in zip(group.columns, np.moveaxis(found, -1, 0), strict=True):
                    if member in columns:
                        x[..., columns.index(int(member))] = values
        return x[..., 0] if one else x

    def _uniform(self, numbers: Any, *streams: int) -> Array:
        """Uniform numbers, one for each row."""
        found = uniform(stream(self._seed, self._table, self._epoch, *streams), np.atleast_1d(numbers))
        result: Array = found.reshape(np.shape(numbers))
        return result

    def _within(self, group: Group, x: Array, numbers: Any) -> Array:
        """The columns of a group with noise, in its order, such that they are within it."""
        members = [int(j) for j in group.columns]
        x, steps = x[..., members].astype(np.float64), self._lattice.steps[members]
        u = np.stack([self._uniform(numbers, j) for j in members], axis=-1)
        if isinstance(group, Ordered):
            return rising(x, steps, u, group)
        more = np.stack([self._uniform(numbers, j, 1) for j in members], axis=-1)
        return parts_of_whole(x, steps, u, np.where(steps > 0, more, 0.0).max(axis=-1), group)


def rising(x: Array, steps: Array, u: Array, group: Group) -> Array:
    """Rising columns with noise: uniform where the cells of a row are in order, since those that tie are put in order."""
    low, high = cells(x, steps, group)
    found: Array = low + (high - low) * u
    first = 0
    for k in range(len(steps) + 1):  # between columns that have no lattice
        if k == len(steps) or not steps[k]:
            found[..., first:k] = np.sort(found[..., first:k], axis=-1)
            first = k + 1
    for k in range(1, len(steps)):  # noise is of 32 bits
        if steps[k]:
            found[..., k] = np.maximum(found[..., k], np.nextafter(found[..., k - 1], np.inf))
    return found


def parts_of_whole(x: Array, steps: Array, u: Array, radius: Array, group: Group) -> Array:
    """Positive columns whose sum is below 1, with noise: uniform in the cells of a row, or where that is too much, drawn
    towards their lowest corner, ``radius`` of the way to where the sum is 1.

    As the radius is the largest of as many uniform numbers as there are columns, the density is finite in the corner.
    """
    low, high = cells(x, steps, group)
    way = (high - low) * u
    least, total = low.sum(axis=-1), way.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        part = np.where(least + total < 1, 1.0, radius * (1 - least) / total)
    found: Array = low + way * part[..., None]
    return found


def noised(rows: Rows, lattice: Lattice | None, seed: int, table: int, first: int = 0) -> Rows:
    """Rows as training sees them; ``table`` tells those that train from validation rows of one's own.

    ``first`` is the number of the first one in the whole table.
    """
    if lattice is None:
        return rows
    x: Any = Noised(rows.x, lattice, seed, table, first=first)
    return replace(rows, x=x)


def as_seen(
    x: Array, lattice: Lattice | None, seed: int, support: Sequence[Support], weight: Array | None = None
) -> Array:
    """Rows (rows, dim) that are held against a density, with the noise that it was trained on, in float64.

    A column of which a row that counts lies beside the lattice has its noise already, and stays as it is.
    """
    if lattice is None:
        return x
    steps = lattice.steps.copy()
    for j in lattice.columns:
        column = x[:, j] if weight is None else x[weight != 0, j]
        step = float(steps[j])
        # Float32 has rounded rows, or those that they are made of; noise goes beyond a quarter of a step.
        off = min(2 * slack(column.astype(np.float32)) + CELL * step, step / 4)
        if (away(column, step, float(lattice.origins[j])) > off).any():
            steps[j] = 0.0
    found: Array = Noised(x, Lattice.within(steps, lattice.origins, support), seed, HELD)[:]
    return found


# --- batches ----------------------------------------------------------------------------------------------------


def together(rows: Rows, batch_size: int) -> int:
    """How many batches are held at once."""
    return max(1, BUFFER // (int(rows.x.shape[1]) * batch_size))


def batches(rows: Rows, runner: Runner, seed: int, epoch: int, n_train: int, positions: range) -> Rows:
    """Rows at some positions of an epoch, with its noise, so placed that the engine takes them in the same order.

    The engine looks for position p of a table of m rows at place ``split[shuffle[p]]``, and here m are all that there are.
    """
    x: Any = rows.x
    numbers = runner.row_order(seed, 0, len(rows), runner.row_order(seed, epoch, n_train, positions))
    m = len(numbers)
    place = np.argsort(runner.row_order(seed, 0, m, runner.row_order(seed, epoch, m, range(m))))
    chosen = numbers[place]
    context = None if rows.context is None else rows.context[chosen]
    return Rows(x.fresh(epoch)[chosen], context, None if rows.weight is None else rows.weight[chosen])
