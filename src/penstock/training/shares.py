"""Which rows of a run train, which validate, and which are left out of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from penstock._typing import Array
from penstock.columns import Names
from penstock.lattice import Lattice
from penstock.runner import Runner
from penstock.support import Support
from penstock.training import dequantize, outliers
from penstock.training.data import Data, check_sum
from penstock.training.options import Budget
from penstock.training.rows import Part, Rows
from penstock.training.supports import on_line


class Shares:
    """The rows of a run. What they are measured by is somebody else's.

    Attributes
    ----------
    supports : pair of sequences
        Of the columns, and of the conditioning variables.
    rows : Rows
        Of which ``n_train``, in the order of ``split``, train.
    held_out : Rows or None
        Validation rows of one's own.
    train_part, validation : Part
        The latter is None without any.
    weight_scale : float
        What brings the mean scaled weight of the training rows to 1.
    worth : dict
        Effective sizes, where rows have weights, and numbers of rows, by what the rows are for.
    """

    runner: Runner
    seed: int
    n_train: int
    names: tuple[Names, Names]
    supports: tuple[Sequence[Support], Sequence[Support]]
    buffers: Array
    budget: Budget
    validated: bool
    drawn: bool
    rows: Rows
    held_out: Rows | None
    split: Callable[[int, int], Array]
    train_part: Part
    validation: Part | None
    weight_scale: float
    worth: dict[str, tuple[float, int]]

    def share_out(self, data: Data, lattice: Lattice | None) -> None:
        """Tell the rows that train from those that validate; columns with lattices have noise from here on."""
        self.validated, self.drawn = data.validated, data.drawn
        held_out = None if data.held_out is None else dequantize.noised(data.held_out, lattice, self.seed, 1)
        self._share_out(dequantize.noised(data.rows, lattice, self.seed, 0), held_out)

    def _share_out(self, rows: Rows, held_out: Rows | None) -> None:
        """Tell the rows that train from those that validate."""
        runner, seed, n = self.runner, self.seed, len(rows)
        self.held_out = held_out

        def split(first: int, last: int) -> Array:  # no method: parts that hold one would keep this run alive
            return runner.row_order(seed, 0, n, range(first, last))

        self.rows, self.split = rows, split
        self.train_part = Part(rows, 0, self.n_train, split)
        self.validation = None
        if held_out is not None:
            self.validation = Part(held_out, 0, len(held_out))
        elif self.validated:
            self.validation = Part(rows, self.n_train, n, split)
        self.weight_scale = 1.0
        self.worth = {}
        if rows.weight is not None:
            self.weight_scale = self.n_train / self._weight_sum(self.train_part, "training")
            if self.validation is not None and held_out is None:
                self._weight_sum(self.validation, "validation")
        if held_out is not None and held_out.weight is not None:
            self.worth["validation"] = held_out.weight_sums[1], len(held_out)

    def _weight_sum(self, part: Part, name: str) -> float:
        total, size = part.weight_sums()
        check_sum(total, self.rows, f"sample_weight over the {name} rows")
        self.worth[name] = size, part.n_counting() if self.drawn else len(part)
        return total

    def leave_out(self, fit: str) -> bool:
        """Give weight 0 to rows that lie absurdly far out by the present standardisation; whether there are any.

        What a first or a later ``fit`` leaves out follows from its standardisation and its rows alone, so that a resumed one
        leaves out the same.
        """
        rows, held_out, line = self.rows, self.held_out, self.on_line(self.rows)
        if fit == "first":
            far = outliers.far_rows(line, self.buffers)
        else:
            far = outliers.far_rows_of_later_fit(line, self.buffers, *self.names)
        far_held_out = far[:0] if held_out is None else outliers.far_held_out(self.on_line(held_out), self.buffers)
        if held_out is not None and len(far_held_out):
            outliers.warn_held_out(len(far_held_out), len(held_out), int(far_held_out[0]))
        if len(far) == len(far_held_out) == 0:
            return False
        self._share_out(
            rows.without(far) if len(far) else rows,
            held_out.without(far_held_out) if held_out is not None and len(far_held_out) else held_out,
        )
        return True

    def on_line(self, rows: Rows) -> Rows:
        """Rows as the standardisation sees them."""
        return on_line(rows, self.buffers, *self.supports)

    def sample(self, most: int) -> Rows:
        """Some of the training rows, at random."""
        index = self.split(0, min(self.n_train, most))
        if self.rows.weight is not None and not self.rows.weight[index].any():  # nearly all rows have weight 0
            index = np.flatnonzero(self.rows.weight)[:most]
        return self.rows.take(index)

    def measured_rows(self) -> Rows:
        """The rows on which a first fit measures its standardisation."""
        return self.rows

    def batch_rows(self, epoch: int, step: int) -> Array:
        """Row numbers of one batch."""
        first = step * self.budget.batch_size
        positions = self.runner.row_order(
            self.seed, epoch, self.n_train, range(first, first + self.budget.batch_size)
        )  # fmt: skip
        return self.runner.row_order(self.seed, 0, len(self.rows), positions)
