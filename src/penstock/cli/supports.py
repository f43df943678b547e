"""What ``penstock fit`` says of where columns lie: its options, and the supports that they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import penstock as ps
from penstock.cli.tables import Table
from penstock.cli.text import is_number

CONTEXT = "context-"  # before options that speak of context columns


def add_options(group: Any, words: Callable[[str], list[str]]) -> None:
    """The options; ``words`` reads names with commas between them."""
    several: Any = {"type": words, "metavar": "A,B,..."}
    ends: Any = {"nargs": 3, "action": "append", "metavar": ("NAME", "LO", "HI")}
    group.add_argument(
        "--positive",
        help="data columns whose values are above 0, by name or by index from 0; no sample will be below",
        **several,
    )
    group.add_argument(
        "--interval",
        help="a data column whose values lie from LO to HI; none in the place of LO or HI: there is no end on that side. Once "
        "for each such column",
        **ends,
    )
    group.add_argument(
        "--periodic",
        help="a data column of angles, phases or times of the day: HI is LO, and values outside are taken as ones within. Once "
        "for each such column",
        **ends,
    )
    group.add_argument(
        "--ordered",
        action="append",
        help="data columns that rise strictly in this order; once for each group",
        **several,
    )
    group.add_argument(
        "--simplex",
        action="append",
        help="data columns above 0 whose sum is below 1, such as all parts of a whole but one; once for each group",
        **several,
    )
    group.add_argument("--context-positive", help="the same as --positive of context columns", **several)
    group.add_argument("--context-interval", help="the same as --interval of a context column", **ends)
    group.add_argument("--context-periodic", help="the same as --periodic of a context column", **ends)


def supports(arguments: argparse.Namespace, table: Table, columns: Sequence[int], side: str = "") -> Any:
    """What a recipe takes as ``support=``, by place among these columns of a table; ``side`` is CONTEXT, or empty."""
    given = vars(arguments)
    said: dict[int, str] = {}

    def place(word: str, option: str) -> int:
        number = table.index(word, option=option)
        label = repr(table.names[number]) if table.names else str(number)
        if number not in columns:
            raise ValueError(f"{option}: column {label} is no {'context' if side else 'data'} column")
        found = list(columns).index(number)
        if found in said:
            also = "twice" if said[found] == option else f"that {said[found]} names, too"
            raise ValueError(f"{option} names column {label} {also}")
        said[found] = option
        return found

    def said_by(kind: str) -> tuple[str, Any]:
        return f"--{side}{kind}", given.get(f"{side}{kind}".replace("-", "_")) or ()

    option, names = said_by("positive")
    alone: dict[int, Any] = {place(name, option): "positive" for name in names}
    for kind, make in (("interval", ps.interval), ("periodic", ps.periodic)):
        option, entries = said_by(kind)
        for name, *ends in entries:
            alone[place(name, option)] = _between(make, option, name, ends)
    groups = []
    for kind, group in (("ordered", ps.ordered), ("simplex", ps.simplex)):
        option, entries = said_by(kind)
        for members in entries:
            try:
                groups.append(group([place(name, option) for name in members]))
            except ValueError as error:
                raise (
                    error if str(error).startswith("--") else ValueError(f"{option} {','.join(members)}: {error}")
                ) from None
    return [alone, *groups] if groups else alone


def _between(make: Callable[..., Any], option: str, name: str, ends: Sequence[str]) -> Any:
    """The support that three words of an option mean."""
    numbers: list[float | None] = []
    for end, word in zip(("LO", "HI"), ends, strict=True):
        absent = word.lower() == "none" and make is ps.interval
        if not absent and not is_number(word):
            or_none = " or none" if make is ps.interval else ""
            raise ValueError(f"{option}: {end} of column {name!r} must be a number{or_none}, got {word!r}")
        numbers.append(None if absent else float(word))
    try:
        return make(*numbers)
    except ValueError as error:
        raise ValueError(f"{option} {name} {' '.join(ends)}: {error}") from None
