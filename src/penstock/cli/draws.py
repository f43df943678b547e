"""What ``penstock sample`` draws: the rows of context that are given, and the columns of the table that is written."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import penstock as ps
from penstock import _validate
from penstock._typing import Array
from penstock.cli.columns import header, matched, missing_cells, unused
from penstock.cli.tables import READ, Table, is_stream, read_table, suffix
from penstock.training.rows import Rows
from penstock.training.supports import check_inside


@dataclass(frozen=True)
class Contexts:
    """Rows of context.

    Attributes
    ----------
    rows : array of shape (rows, context_dim), or None
        None for a flow without context.
    kept : bool array of shape (rows,), optional
        Which rows of a table are drawn for: not those in which values are missing, where zeros stand for NaN here. They keep
        their numbers, so that the draws of the others do not depend on them.
    names : tuple of str
        Of their columns; empty where nobody has named them.
    table : Table, optional
        Where they come from, if from one.
    path : str, optional
        The file of that table.
    """

    rows: Array | None
    kept: Array | None = None
    names: tuple[str, ...] = ()
    table: Table | None = None
    path: str | None = None

    @property
    def count(self) -> int:
        """How many rows are drawn for: one, if there is no context."""
        return 1 if self.rows is None else len(self.rows) if self.kept is None else int(self.kept.sum())


def given_contexts(arguments: argparse.Namespace, flow: ps.Flow | ps.Ensemble) -> Contexts:
    """The rows of context that ``--context`` gives."""
    given = arguments.context
    if given is None and flow.context_dim:
        raise ValueError(f"--context must be given: the flow has context_dim={flow.context_dim}")
    if given is not None and not flow.context_dim:
        raise ValueError("--context was given, but the flow has none (context_dim=0)")
    if given is None:
        return Contexts(None)
    if os.path.splitext(given)[1].lower() in READ or is_stream(given):
        return _from_table(arguments, flow)
    try:
        rows = np.array([[float(word) for word in given.split(",")]])
    except ValueError:
        raise ValueError(f"--context must be numbers with commas between them or a table, got {given!r}") from None
    _check_width(rows.shape[1], f"{rows.shape[1]} number{'' if rows.shape[1] == 1 else 's'}", flow)
    _check_inside(rows, None, flow)
    return Contexts(_validate.reals(rows, name="--context"), None, flow._context_columns)


def _from_table(arguments: argparse.Namespace, flow: ps.Flow | ps.Ensemble) -> Contexts:
    path, missing = arguments.context, missing_cells(arguments.missing, nan=False, kept=flow._missing)
    table = read_table(
        path, key=arguments.key, missing=missing, header=header(arguments), expected=flow._context_columns
    )
    of = f"the flow in {arguments.model}"
    columns = matched(flow._context_columns, arguments.context_columns, table, "--context-columns", of)
    if columns is None:
        columns = [i for i in range(table.n_columns) if i not in table.unnamed]
    _check_width(len(columns), table.describe(columns), flow)
    parts = list(table.chunks(columns))
    rows = np.concatenate(parts) if parts else np.zeros((0, len(columns)))
    kept = ~np.isnan(rows).any(axis=1)  # all, unless --missing was given
    _check_inside(rows, kept, flow)
    if not kept.all():
        table.dropped = int((~kept).sum())
        rows = np.where(kept[:, None], rows, 0)
    names = flow._context_columns or tuple(table.names[i] for i in columns if table.names)
    return Contexts(_validate.reals(rows, name="--context"), kept, names, table, path)


def _check_width(width: int, got: str, flow: ps.Flow | ps.Ensemble) -> None:
    if width != flow.context_dim:
        raise ValueError(f"--context has {got}, but the flow has context_dim={flow.context_dim}")


def _check_inside(rows: Array, kept: Array | None, flow: ps.Flow | ps.Ensemble) -> None:
    """Raise where there would be no draws but NaN."""
    weight = None if kept is None else kept.astype(np.float64)
    spec = getattr(flow, "members", (flow,))[0].spec
    check_inside(Rows(rows, None, weight), spec.context_support, flow._context_columns, name="--context")


class Pieces:
    """The chunks that draws are made in, by number: some neighbouring rows of context, or a part of the draws for one.

    Parameters
    ----------
    given : Contexts
    n : int
        Draws for each row of context.
    size : int
        Draws in a chunk.
    """

    def __init__(self, given: Contexts, n: int, size: int) -> None:
        self._given, self._n, self._size = given, n, size
        self._m = 1 if given.rows is None else len(given.rows)
        self._together = max(1, size // max(n, 1))  # rows of context in a chunk
        self._each = -(-n // size)  # chunks for a row of context, or for several

    def __len__(self) -> int:
        return -(-self._m // self._together) * self._each

    def __getitem__(self, k: int) -> tuple[range, int, int]:
        """The rows of context of a chunk, and for each the number of the first draw and how many there are."""
        row, first = k // self._each * self._together, k % self._each * self._size
        return range(row, min(row + self._together, self._m)), first, min(self._size, self._n - first)

    def before(self, k: int) -> int:
        """Rows of the table that is written before those of a chunk."""
        if k == len(self):
            return self._given.count * self._n
        places, first, _ = self[k]
        kept = self._given.kept
        earlier, own = (
            (places.start, len(places))
            if kept is None
            else (int(kept[: places.start].sum()), int(kept[places.start : places.stop].sum()))
        )
        return earlier * self._n + own * first


class Draws:
    """The columns of the draws: on demand the number of the row of context, the data, the context, the log-density.

    Attributes
    ----------
    columns : list of (str, dtype)
    """

    def __init__(self, arguments: argparse.Namespace, flow: ps.Flow | ps.Ensemble, given: Contexts) -> None:
        self._flow, self._given, self._log_prob, self._raw = flow, given, arguments.log_prob, arguments.raw
        self._ids, self._keep = _wants_ids(arguments, given), arguments.keep_context
        if self._keep and given.rows is None:
            raise ValueError("--keep-context: the flow has no context (context_dim=0)")
        names = list(flow._columns) or [f"x{i}" for i in range(flow.dim)]
        context = (given.names or [f"c{i}" for i in range(flow.context_dim)]) if self._keep else []
        kinds = np.dtype(np.float64) if given.rows is None else given.rows.dtype
        columns = [(name, flow.dtype) for name in names]
        for name in context:
            columns.append((unused(name, (word for word, _ in columns)), kinds))
        if self._ids:
            columns.insert(0, (unused("row", (word for word, _ in columns)), np.dtype(np.int64)))
        if self._log_prob:
            columns.append((unused("log_prob", (word for word, _ in columns)), flow.dtype))
        self.columns = columns

    def draw(self, n: int, places: Sequence[int], **options: Any) -> list[Array]:
        """``n`` draws for each of some neighbouring rows of context, as blocks of columns; one row each."""
        flow, given = self._flow, self._given
        first = places[0]
        part = None if given.rows is None else given.rows[first : first + len(places)]
        if self._log_prob:
            rows, density = flow.sample_and_log_prob(n, part, first_context=first, raw=self._raw, **options)
            blocks = [rows.reshape(-1, flow.dim), density.reshape(-1, 1)]
        else:
            blocks = [flow.sample(n, part, first_context=first, raw=self._raw, **options).reshape(-1, flow.dim)]
        if self._keep and part is not None:
            blocks.insert(1, np.repeat(part, n, axis=0))
        if self._ids:
            blocks.insert(0, np.repeat(np.arange(first, first + len(places)), n)[:, None])
        if given.kept is not None and not given.kept.all():
            kept = np.repeat(given.kept[first : first + len(places)], n)
            blocks = [block[kept] for block in blocks]
        return blocks


def _wants_ids(arguments: argparse.Namespace, given: Contexts) -> bool:
    """Draws for the rows of a table tell which row they are for, except in arrays, which hold one type and no names."""
    array = suffix(arguments.output) in (".npy", ".npz")
    if arguments.row_ids is None:
        return given.kept is not None and not array
    if arguments.row_ids and given.kept is None:
        raise ValueError("--row-ids tells the rows of a table of contexts, and --context is none")
    if arguments.row_ids and array:
        raise ValueError(
            f"--row-ids: {arguments.output} would hold an array of one type; write .csv, .parquet, .h5 or .fits"
        )
    return bool(arguments.row_ids)
