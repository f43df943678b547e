"""A table that lies on several ranks: the rows of a fit, cut into shards, one for each slice of a batch.

Shard j is a run of consecutive rows of the whole table, and slice j of every batch is drawn from it, by a permutation of its own.
A rank has whole shards, so that what is computed of them does not depend on how many ranks there are.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.lattice import Lattice
from penstock.runner import Runner
from penstock.support import Support
from penstock.training.data import Data, training_rows
from penstock.training.dequantize import beside, check_on
from penstock.training.options import Options
from penstock.training.ranks import Ranks
from penstock.training.rows import Rows

SAMPLE = 1 << 17  # rows that all ranks see: where a first fit begins is measured on these
GOLDEN = 0x9E3779B97F4A7C15


class Across:
    """An array whose rows lie on the ranks of a communicator. Asking for some by number is a call that all ranks make."""

    def __init__(self, ranks: Ranks, own: Array, ends: Sequence[int]) -> None:
        self._ranks, self.own, self._ends = ranks, own, np.asarray(ends)
        self.shape: tuple[int, ...] = (int(ends[-1]), *own.shape[1:])
        self.dtype = own.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        numbers = np.arange(*index.indices(len(self))) if isinstance(index, slice) else np.asarray(index)
        home = np.searchsorted(self._ends, numbers, side="right") - 1
        here = numbers[home == self._ranks.rank] - self._ends[self._ranks.rank]
        heard = self._ranks.gathered(self.own[here], np.bincount(home, minlength=self._ranks.size).tolist())
        out = np.empty_like(heard)
        out[np.argsort(home, kind="stable")] = heard
        return out


@dataclass(frozen=True)
class Shards:
    """How a table is cut.

    Attributes
    ----------
    slices : tuple of int
        The first row of each slice of a batch, and its end.
    n_train, n_other : int
        Rows of the table that train, and that do not.
    """

    slices: tuple[int, ...]
    n_train: int
    n_other: int

    def __len__(self) -> int:
        return len(self.slices) - 1

    def train(self, j: int) -> int:
        """Training rows of shard j: enough for all batches of an epoch."""
        return self._cut(self.n_train, j + 1) - self._cut(self.n_train, j)

    def first(self, j: int) -> int:
        """The first row of shard j; behind the last one, the end of the table."""
        return self._cut(self.n_train, j) + self._cut(self.n_other, j)

    def rows(self, j: int) -> int:
        """Rows of shard j."""
        return self.first(j + 1) - self.first(j)

    def size(self, j: int) -> int:
        """Rows of slice j of a batch."""
        return self.slices[j + 1] - self.slices[j]

    def _cut(self, rows: int, j: int) -> int:
        return rows * self.slices[j] // self.slices[-1]

    def of(self, rank: int, size: int) -> range:
        """The shards of a rank."""
        return range(len(self) * rank // size, len(self) * (rank + 1) // size)

    def ends(self, size: int) -> list[int]:
        """Where the rows of each of so many ranks begin, and the end of the table."""
        return [self.first(self.of(rank, size).start) for rank in range(size)] + [self.first(len(self))]


@dataclass(frozen=True)
class Spread(Data):
    """The rows of a fit that lie on several ranks; ``rows`` and ``held_out`` are arrays across them.

    Attributes
    ----------
    ranks : Ranks
    shards, shards_held_out : Shards
        How both tables are cut.
    own, own_held_out : Rows
        Those of this rank.
    part : Data
        What this rank has given.
    """

    ranks: Ranks = field(kw_only=True)
    shards: Shards = field(kw_only=True)
    shards_held_out: Shards | None = None
    own: Rows = field(kw_only=True)
    part: Data = field(kw_only=True)
    own_held_out: Rows | None = None

    def more_facts(self) -> dict[str, str]:
        """That each slice of a batch is drawn from a part of the table."""
        return {"comm": f"rows in {len(self.shards)} shards"}

    def sampled(self, runner: Runner) -> Data:
        """The same with rows that all ranks have: at most ``SAMPLE`` of them."""
        return Data(
            self.rows.take(sampled(runner, len(self.rows))),
            self.n_train,
            None,
            self.columns,
            self.context_columns,
            self.library,
        )

    def check_inside(
        self, support: Sequence[Support], lattice: Lattice | None = None, context_support: Sequence[Support] = ()
    ) -> None:
        """Raise, on all ranks, if a row that counts lies outside."""
        with self.ranks.apart():
            self.part.check_inside(support, lattice, context_support)

    def on_lattice(self, lattice: Lattice | None, support: Sequence[Support], *, every: bool) -> Lattice | None:
        """A lattice that was found in a sample, held against all rows.

        Of ``every`` column that may have one, those that lie beside theirs have none; otherwise that is an error.
        """
        if lattice is None:
            return None
        rows, steps = self.part.rows, lattice.steps.copy()
        for j in lattice.columns:
            step, origin = float(steps[j]), float(lattice.origins[j])
            if not every:
                with self.ranks.apart():
                    check_on(rows, j, step, origin, self.columns)
            elif self.ranks.any(beside(rows, j, step, origin) is not None):
                steps[j] = 0.0
        whole = Lattice.within(steps, lattice.origins, support)
        return whole if whole.columns else None


def sampled(runner: Runner, n: int) -> Array:
    """Numbers of the rows of a table that all ranks see, in order."""
    found: Array = np.sort(runner.row_order(GOLDEN, 0, n, range(min(n, SAMPLE))))
    return found


def spread(ranks: Ranks, part: Data, runner: Runner, options: Options, validation: Any) -> Spread:
    """The table whose parts, in the order of ranks, all of them give, with rows moved to where they are needed.

    ``part`` is that of this rank, checked by itself; ``validation`` a fraction where it has no validation rows of its own.
    """
    ranks.same("validation", "rows" if part.held_out is not None else validation, "call fit alike")
    for name, value in _layout(part).items():
        ranks.same(name, value, "give parts of one table")
    counts = np.array([len(part.rows), 0 if part.held_out is None else len(part.held_out)], np.float64)
    heard = ranks.meet(counts).astype(np.int64)
    total, held_out = (int(n) for n in heard.sum(axis=0))
    n_train = total
    if total == 0:
        raise ValueError("fit needs rows, got none on any rank")
    if part.held_out is None:
        n_train = training_rows(total, validation)
    elif held_out == 0:
        raise ValueError("validation holds no rows on any rank; give validation=0 to train without")
    slices = tuple(runner.slices(options.budget(n_train, validated=n_train < total or held_out > 0).batch_size))
    shards = Shards(slices, n_train, total - n_train)
    if ranks.size > len(shards):
        raise ValueError(
            f"comm has {ranks.size} ranks, but a batch of {slices[-1]} rows has only {len(shards)} of its slices for them; give "
            "fewer ranks, or a larger batch_size (a slice for each 64 rows up to 16, then for each 256 rows up to 64)"
        )
    own = _moved(ranks, part.rows, heard[:, 0], shards)
    rows, names = _across(ranks, own, shards), (part.columns, part.context_columns, part.library)
    whole = Spread(rows, n_train, None, *names, ranks=ranks, shards=shards, own=own, part=part)
    if part.held_out is not None:
        cut = Shards(slices, held_out, 0)
        other = _moved(ranks, part.held_out, heard[:, 1], cut)
        whole = replace(whole, held_out=_across(ranks, other, cut), shards_held_out=cut, own_held_out=other)
    return whole


def _layout(part: Data) -> dict[str, Any]:
    """What all parts of a table have in common."""
    told: dict[str, Any] = {"the names of columns": (part.columns, part.context_columns)}
    for rows, names in (
        (part.rows, ("X", "context", "sample_weight")),
        (part.held_out, ("validation", "validation_context", "validation_weight")),
    ):  # fmt: skip
        for name, array in zip(
            names, (None,) * 3 if rows is None else (rows.x, rows.context, rows.weight), strict=True
        ):
            told[f"the dtype of {name}"] = None if array is None else array.dtype.str
    return told


def _moved(ranks: Ranks, rows: Rows, counts: Array, shards: Shards) -> Rows:
    """The rows of this rank's shards."""
    ends, new = [0, *np.cumsum(counts).tolist()], shards.ends(ranks.size)
    moved = [
        None if array is None else shared(ranks, array, ends, new)
        for array in (rows.x, rows.context, rows.weight)
    ]  # fmt: skip
    assert moved[0] is not None
    return _with_unit(ranks, Rows(moved[0], moved[1], moved[2]))


def _with_unit(ranks: Ranks, rows: Rows) -> Rows:
    """Rows whose weights are scaled by the unit of the whole table."""
    if rows.weight is None:
        return rows
    most = float(np.abs(rows.weight).max(initial=0.0))
    largest = float(ranks.meet([most]).max())
    vars(rows)["weight_exponent"] = -int(np.frexp(largest)[1])
    return rows


def _across(ranks: Ranks, own: Rows, shards: Shards) -> Rows:
    """The table that the rows of all ranks make."""
    ends = shards.ends(ranks.size)
    arrays: list[Any] = [
        None if array is None else Across(ranks, array, ends) for array in (own.x, own.context, own.weight)
    ]
    rows = Rows(*arrays)
    vars(rows)["weight_exponent"] = own.weight_exponent
    return rows


def reweighted(spread: Spread, own: Rows, held_out: Rows | None) -> Spread:
    """The same table with other weights of the rows of this rank."""
    vars(own)["weight_exponent"] = spread.own.weight_exponent
    other = None
    if held_out is not None:
        assert spread.shards_held_out is not None
        assert spread.own_held_out is not None
        vars(held_out)["weight_exponent"] = spread.own_held_out.weight_exponent
        other = _across(spread.ranks, held_out, spread.shards_held_out)
    return replace(
        spread, rows=_across(spread.ranks, own, spread.shards), held_out=other, own=own, own_held_out=held_out
    )  # fmt: skip


# --- parts of one file ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where an array lies in a file that is read through a map."""

    file: str
    begin: int
    strides: tuple[int, ...]
    state: tuple[int, ...]  # of the file, by which ranks know that they see the same

    @classmethod
    def of(cls, array: Array) -> Place | None:
        """That of an array, if it lies in one."""
        own: Any = array
        while isinstance(own, np.ndarray) and not (isinstance(own, np.memmap) and isinstance(own.base, mmap.mmap)):
            own = own.base
        if not isinstance(own, np.memmap) or own.filename is None or own.mode == "c" or min(array.strides) <= 0:
            return None
        begin = array.__array_interface__["data"][0] - own.__array_interface__["data"][0]
        return cls(str(own.filename), int(own.offset + begin), tuple(array.strides), _state(str(own.filename)))


def shared(ranks: Ranks, array: Array, ends: Sequence[int], new_ends: Sequence[int]) -> Array:
    """The rows of this rank where a table is cut anew: from a file of which all parts are maps, or sent by the others."""
    if list(ends) == list(new_ends):
        return array
    heard = ranks.told(Place.of(array))
    parts = [(place, first) for place, first, end in zip(heard, ends[:-1], ends[1:], strict=True) if first < end]
    # Parts that follow each other in one file begin, each, where their first row says.
    origins = {
        place and (place.file, place.state, place.begin - first * place.strides[0], place.strides)
        for place, first in parts
    }
    whole = origins.pop() if len(origins) == 1 else None
    if whole is None or ranks.any(_state(whole[0]) != whole[1]):
        return ranks.moved(array, ends, new_ends)
    file, _, origin, strides = whole
    n = new_ends[ranks.rank + 1] - new_ends[ranks.rank]
    shape = (n, *array.shape[1:])
    span = sum((size - 1) * step for size, step in zip(shape, strides, strict=True)) + array.itemsize
    found = array[:0]
    with ranks.apart():
        if n:
            raw = np.memmap(file, np.uint8, "r", offset=origin + new_ends[ranks.rank] * strides[0], shape=(span,))
            found = np.ndarray(shape, array.dtype, raw, strides=strides)
    return found


def _state(file: str) -> tuple[int, ...]:
    """What tells a file from another one of the same name; nothing where there is none."""
    try:
        told = os.stat(file)
    except OSError:
        return ()
    return told.st_size, told.st_mtime_ns, told.st_ino
