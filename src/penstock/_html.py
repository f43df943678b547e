"""What notebooks show: a line, and more of it behind a click. Everything is escaped."""

from __future__ import annotations

from collections.abc import Sequence


def block(title: str, lines: Sequence[str], more: str, text: str) -> str:
    """HTML of a few lines, of which ``title`` is bold, and of a text that stays folded behind the word ``more``."""
    shown = "<br>".join([f"<b>{_escaped(title)}</b> {_escaped(lines[0])}", *map(_escaped, lines[1:])])
    return f"<div>{shown}<details><summary>{_escaped(more)}</summary><pre>{_escaped(text)}</pre></details></div>"


def table(title: str, line: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """HTML of a line, of which ``title`` is bold, and of a table."""
    if not rows:
        return f"<div><b>{_escaped(title)}</b> {_escaped(line)}</div>"
    cells = "".join(f"<th>{_escaped(word)}</th>" for word in head)
    body = "".join("<tr>" + "".join(f"<td>{_escaped(word)}</td>" for word in row) + "</tr>" for row in rows)
    return f"<div><b>{_escaped(title)}</b> {_escaped(line)}<table><tr>{cells}</tr>{body}</table></div>"


def _escaped(text: str) -> str:
    from html import escape

    return escape(text)
