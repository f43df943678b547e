"""Which columns of a table a command takes: by the names that a flow keeps, by options, or by position."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import penstock as ps
from penstock._warn import DataWarning, warn
from penstock.cli.tables import Missing, Table
from penstock.cli.text import is_number
from penstock.cli.weights import weight_column


def indices(words: Sequence[str], table: Table, option: str) -> list[int]:
    """The columns that the words of an option choose."""
    found = [table.index(word, option=option) for word in words]
    if len(set(found)) < len(found):
        raise ValueError(f"{option} names a column twice: {','.join(words)}")
    return found


def chosen_or_rest(words: Sequence[str] | None, table: Table, taken: Mapping[str, Sequence[int]]) -> list[int]:
    """The columns that ``--columns`` chooses, or all with a name that no other option has ``taken``."""
    if words is None:
        others = {i for places in taken.values() for i in places}
        columns = [i for i in range(table.n_columns) if i not in others and i not in table.unnamed]
        left = [i for i in table.unnamed if i not in others]
        if left:
            which = ", ".join(map(str, left))
            warn(
                f"{table.path}: column {which} has no name, as an index that was written with a table; "
                f"it is left out (--columns takes it, too)",
                DataWarning,
            )
    else:
        columns = indices(words, table, "--columns")
        for option, places in taken.items():
            both = [place for place in places if place in columns]
            if both:
                raise ValueError(f"{option}: {words[columns.index(both[0])]!r} is also one of --columns")
    if not columns:
        raise ValueError(f"{table.path} has no data columns: {table.describe()}")
    return columns


def matched(names: Sequence[str], words: Sequence[str] | None, table: Table, option: str, of: str) -> list[int] | None:
    """The columns that stand for those of a flow, in the order of the flow; None where only their position can tell.

    Parameters
    ----------
    names : sequence of str
        The names that the flow keeps; empty if it has none.
    words : sequence of str, optional
        What the option says.
    table : Table
    option : str
    of : str
        The flow, for messages.
    """
    if words is not None:
        columns = indices(words, table, option)
        return _in_order(names, columns, table, option, of) if names and table.names else columns
    if not names or not table.names:
        return None
    for name in names:
        count = table.names.count(name)
        if count != 1:
            has = f"{count} columns {name!r}" if count else f"no column {name!r}"
            need = "" if count else f", which {of} was trained on; it has {table.describe()}"
            raise ValueError(f"{table.path} has {has}{need}; {option} says which columns stand for {', '.join(names)}")
    return [table.names.index(name) for name in names]


def _in_order(names: Sequence[str], columns: list[int], table: Table, option: str, of: str) -> list[int]:
    """Chosen columns that have the names of the flow, in its order; others, which stand for them, as they were given."""
    given = [table.names[i] for i in columns]
    if sorted(given) == sorted(names):
        return [columns[given.index(name)] for name in names]
    for place, name in enumerate(given):
        if name in names and place != names.index(name):
            raise ValueError(
                f"{option}: {name!r} is number {names.index(name)} of the columns of {of} ({', '.join(names)}), "
                f"but number {place} here; those that stand for others must come in the order of the flow"
            )
    return columns


def keep_names(flow: ps.Flow | ps.Ensemble, table: Table, columns: Sequence[int], context: Sequence[int]) -> None:
    """Give a flow the names of the columns that it is about to be trained on."""
    if table.names:
        names, given = ([table.names[i] for i in places] for places in (columns, context))
        for name in (*names, *given):
            if "\0" in name:
                raise ValueError(f"{table.path}: the name {name!r} holds a NUL, which a model file cannot keep")
            if (*names, *given).count(name) > 1:
                raise ValueError(
                    f"{table.path} has two columns {name!r} among those chosen; a flow needs different names"
                )
        flow.columns, flow.context_columns = names, given or None


def positive_columns(arguments: argparse.Namespace, table: Table, columns: Sequence[int]) -> list[int]:
    """Which of the data columns ``--positive`` names, by their place among them."""
    named = indices(arguments.positive or (), table, "--positive")
    for number in named:
        if number not in columns:
            which = repr(table.names[number]) if table.names else number
            raise ValueError(f"--positive: column {which} is no data column")
    return [list(columns).index(number) for number in named]


def lattice_columns(arguments: argparse.Namespace, table: Table, columns: Sequence[int]) -> Any:
    """What ``--dequantize`` says, as ``fit`` takes it: "auto", or steps by place among the data columns."""
    words = arguments.dequantize
    if words is None:
        return None
    if words == ["auto"] and not table.has("auto"):
        return "auto"
    steps: dict[int, float | str] = {}
    for word in words:
        name, _, step = (word, "", "") if table.has(word) else word.rpartition("=") if "=" in word else (word, "", "")
        number = table.index(name, option="--dequantize")
        if number not in columns:
            raise ValueError(f"--dequantize: {name!r} is no data column")
        if step and not is_number(step):
            raise ValueError(f"--dequantize: the step of {name!r} must be a number, got {step!r}")
        steps[list(columns).index(number)] = float(step) if step else "auto"
    return steps


def unused(name: str, taken: Iterable[str]) -> str:
    """A name for a further column, which none of the others has."""
    others = set(taken)
    while name in others:
        name += "_"
    return name


def score_columns(
    arguments: argparse.Namespace, table: Table, flow: ps.Flow | ps.Ensemble
) -> tuple[list[int], list[int], list[int], Table | None]:
    """The data columns, the context columns and the column of weights of a table whose rows a flow is to judge.

    Weights may have a table of their own, which then is the last.
    """
    of = f"the flow in {arguments.model}"
    given = matched(flow._context_columns, arguments.context_columns, table, "--context-columns", of) or []
    if len(given) != flow.context_dim:
        if arguments.context_columns is None:
            raise ValueError(
                f"{of} has a context of {flow.context_dim}, and {table.path} has no names by which to find it: say which columns "
                "it is with --context-columns, by index from 0 or by name"
                if not table.names
                else f"{of} has a context of {flow.context_dim} without names; say with --context-columns which columns of "
                f"{table.path} it is"
            )
        raise ValueError(
            f"--context-columns names {len(given)} column{'' if len(given) == 1 else 's'}, but {of} has "
            f"context_dim={flow.context_dim}"
        )
    place, weights = weight_column(arguments, table, given)
    taken = {"--context-columns": given, "--weights": place}
    columns = matched(flow._columns, arguments.columns, table, "--columns", of)
    if columns is None and arguments.columns is None and bool(flow._columns) != bool(table.names):
        who = table.path if flow._columns else of
        warn(f"{who} has no names: columns are taken by their position", DataWarning)
    if place and columns is not None and place[0] in columns:
        raise ValueError(f"--weights: {arguments.weights!r} is a data column of {of}")
    if columns is None or arguments.columns is not None:
        chosen = chosen_or_rest(arguments.columns, table, taken)
        columns = chosen if columns is None else columns
    if len(columns) != flow.dim:
        has = f"{table.path} has" if arguments.columns is None else "--columns names"
        raise ValueError(
            f"{has} {len(columns)} column{'' if len(columns) == 1 else 's'}, but {of} has "
            f"{flow.dim}" + ("; choose with --columns" if len(columns) > flow.dim else "")
        )
    return columns, given, place, weights


def missing_cells(words: Sequence[str] | None, *, nan: bool, kept: Sequence[str] | None = None) -> Missing:
    """What ``--missing`` says, or else what it said where the flow was fitted."""
    words = kept if words is None else words
    if words is None:
        return Missing(nan=nan)
    numbers = [float(word) for word in words if is_number(word)]
    texts = tuple(word for word in words if word and not is_number(word))
    return Missing(tuple(number for number in numbers if number == number), texts, given=True)


def header(arguments: argparse.Namespace) -> bool | None:
    """What ``--header`` says."""
    return None if arguments.header is None else bool(arguments.header == "yes")
