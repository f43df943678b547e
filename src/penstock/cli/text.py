"""Tables that are lines of text: columns between commas, semicolons, tabs or blanks, with or without names.

The separator and the header are told from the first lines. Blocks of whole lines are then read twice over: ``_quick`` takes the
chosen cells out with NumPy and parses them at once, and gives up where anything is unusual; ``_careful``, which says what a
table means, then reads the block line by line, or names the place of what is wrong.
"""

from __future__ import annotations

import csv
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import BinaryIO, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock._warn import DataWarning, warn
from penstock.cli.tables import Missing, Table, is_stream

BLOCK = 1 << 20  # bytes that are parsed at a time
SAMPLE = 20  # rows that the separator is told from
SEPARATORS = ("\t", ";", ",")
BLANKS = ""  # the separator of columns with runs of spaces or tabs between them
NUMERIC = b"0123456789+-.eEnaftiyNAFTIY"  # all that is in numbers, NaN and infinity
PLAIN = NUMERIC + b";"


class Mark(NamedTuple):
    """A place in a file of text where a line begins: the byte, and the lines and rows before it, or in the part there."""

    begin: int
    line: int
    row: int


class TextTable(Table):
    """Lines of text.

    Lines that begin with ``#`` are comments, and where blanks separate the columns so is the rest of a line behind ``#``. The
    first other line is a header if it has names and no number; if it is a row, the comment right before it may be the header.
    A first line of 0, 1, 2, ..., as pandas writes, is a header if the next line has a cell that is no integer.
    """

    def __init__(
        self,
        path: str,
        missing: Missing | None = None,
        *,
        header: bool | None = None,
        expected: Sequence[str] = (),
    ) -> None:
        self._source, self._once = path, is_stream(path)
        called = "standard input" if path == "-" else path
        file = _open(path)
        blocks = _blocks(file)
        try:
            first, sample, comment = _until_filled(blocks, called)
        finally:
            if not self._once:  # it is opened anew for each pass, and a stream goes on after what was looked at
                file.close()
        self._rest: Iterable[bytes] | None = itertools.chain([first], blocks) if self._once else None
        if not sample:
            raise ValueError(f"{called} is empty")
        missing = missing or Missing()
        lines = [text for _, text in sample]
        self._separator = _separator(lines, tab_first=path.lower().endswith(".tsv"))
        fields = self._fields(lines[0])
        following = self._fields(lines[1]) if len(lines) > 1 else None
        named = _is_header(fields, following, expected, missing) if header is None else header
        self._skip = sample[0][0] if named else 0
        self._marks = [Mark(0, 0, 0)]
        names = fields if named else () if header is False else self._commented(comment, len(fields))
        super().__init__(called, None, len(fields), names, missing)
        if named and header is None and any(map(is_number, fields)) and not set(expected) & set(fields):
            warn(
                f"{called}: the first line, {','.join(fields)}, was taken for names; --header no reads it as a row",
                DataWarning,
            )

    def _fields(self, line: str) -> list[str]:
        """The cells of a line."""
        if self._separator == BLANKS:
            line = line.split("#")[0]
            if '"' not in line:
                return _words(line)
        return [cell.strip() for cell in next(self._cells([line]), [line])]

    def _cells(self, lines: Iterable[str]) -> Iterator[list[str]]:
        if self._separator == BLANKS:
            lines = (line.replace("\t", " ").strip() for line in lines)
        reader = csv.reader(lines, delimiter=self._separator or " ", skipinitialspace=True)
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error as error:  # a NUL, or a field of more than a hundred thousand characters
                yield [str(error)]

    def _commented(self, comment: str, count: int) -> list[str]:
        """The names in a comment, if it is plainly a header."""
        fields = self._fields(comment.strip().lstrip("#").strip())
        fits = len(fields) == count == len(set(fields)) and all(fields) and not any(map(is_number, fields))
        return fields if fits else []

    # --- blocks -----------------------------------------------------------------------------------------------------

    def look(self, size: int, part: int, parts: int) -> Mark:
        """Count the lines in one of so many parts of the first ``size`` bytes of the file, without a look at their numbers."""
        with _open(self._source) as file:
            begin, end = (_line_start(file, size * i // parts) for i in (part, part + 1))
            lines = rows = 0
            for block in _blocks(file, begin, end):
                lines += block.count(b"\n")
                rows += _count_filled(block)
        return Mark(begin, lines, rows)

    def know(self, looks: Sequence[Mark]) -> None:
        """Take what was counted in all parts: then the number of rows is known, and one may begin to read at any."""
        self._marks, line, row = [], 0, 0
        header = 1 if self._skip else 0  # it is counted, as the first that is filled
        for begin, lines, rows in looks:
            self._marks.append(Mark(begin, line, max(row - header, 0)))
            line, row = line + lines, row + rows
        self.n_rows = row - header

    def _chunks(self, columns: Sequence[int], first: int, last: int | None) -> Iterator[Array]:
        mark = max(mark for mark in self._marks if mark.row <= first)
        number, row = mark.line + 1, mark.row
        with nullcontext() if self._once else _open(self._source) as file:
            blocks = self._rest if file is None else _blocks(file, mark.begin)
            if blocks is None:
                raise RuntimeError(f"{self.path} can be read once only")
            self._rest = None
            for block in blocks:
                if last is not None and row >= last:
                    return
                lines = block.count(b"\n")
                skipped = self._skip - number + 1
                if skipped > 0:  # the header, and what stands before it
                    cut = min(skipped, lines)
                    block = block.split(b"\n", cut)[-1]
                    number, lines = number + cut, lines - cut
                if row < first and (filled := _count_filled(block)) <= first - row:
                    number, row = number + lines, row + filled
                    continue
                rows = self._quick(block, columns)
                if rows is None:
                    rows = self._careful(block.decode("utf-8", "replace"), number, columns)
                number, begin, row = number + lines, row, row + len(rows)
                rows = rows[max(first - begin, 0) : None if last is None else last - begin]
                if len(rows):
                    yield rows

    def _quick(self, block: bytes, columns: Sequence[int]) -> Array | None:
        """The chosen cells of a block without anything unusual in it; None if there is."""
        if not columns:
            return None
        if self._has_other_lines(block):
            block = b"".join(
                [line + b"\n" for line in block.split(b"\n") if line.strip() and line.lstrip()[:1] != b"#"]
            )
            if self._separator == BLANKS and b"#" in block:
                return None
        if b'"' in block:
            unquoted = _unquoted(block, self._separator)
            if unquoted is None:
                return None
            block = unquoted
        if not block:
            return np.zeros((0, len(columns)))
        chosen = sorted(set(columns))
        taken = _taken(block, self._separator, self.n_columns, chosen)
        if taken is None:
            return None
        text, count = taken
        if text.translate(None, PLAIN):
            text = self._plainer(text)
            if text.translate(None, PLAIN):
                return None
        elif self.missing.given:
            text = self._plainer(text)
        try:
            # Where NumPy stops early, it raises or, in earlier versions, warns: then the zero at the end is missing.
            numbers = np.fromstring(text + b"0", sep=";")
        except (ValueError, DeprecationWarning):
            return None
        if len(numbers) != count * len(chosen) + 1:
            return None
        rows = numbers[:-1].reshape(count, len(chosen))
        if np.isnan(rows).any() and not (self.missing.nan or self.missing.given):
            return None
        return rows if list(columns) == chosen else rows.take([chosen.index(i) for i in columns], axis=1)

    def _has_other_lines(self, block: bytes) -> bool:
        """Whether there may be comments or blank lines: with tabs between columns, or one column, also such as have blanks."""
        if b"#" in block or b"\n\n" in block or block[:1] == b"\n":
            return True
        if self._separator != "\t" and self.n_columns > 1:
            return False
        return block[:1] in (b" ", b"\t") or b"\n\t" in block or b"\n " in block

    def _plainer(self, text: bytes) -> bytes:
        """Cells without blanks around them, and with NaN for what is missing."""
        for blank in (b"\t", b"\r"):
            text = text.replace(blank, b" ")
        while b" ;" in text:
            text = text.replace(b" ;", b";")
        while b"; " in text:
            text = text.replace(b"; ", b";")
        text = b";" + text.lstrip()
        if self.missing.given:
            for word in ("", *self.missing.words):
                cell = b";%s;" % word.encode()
                for _ in range(2):  # of two neighbours, the second one needs another turn
                    text = text.replace(cell, b";nan;")
        return text[1:]

    def _careful(self, block: str, number: int, columns: Sequence[int]) -> Array:
        """The chosen cells of a block; ``number`` is that of its first line."""
        filled = [(n, line) for n, line in enumerate(block.split("\n")[:-1], number) if _is_filled(line)]
        lines = [line.split("#")[0] if self._separator == BLANKS else line for _, line in filled]
        rows = [cells for cells in self._cells(lines) if cells]
        if len(rows) != len(filled):
            rows = [self._fields(line) for line in lines]
        for (line, _), cells in zip(filled, rows, strict=True):
            if len(cells) != self.n_columns:
                raise ValueError(
                    f"{self.path}, line {line}: expected {self.n_columns} columns, as in the first line, got {len(cells)}"
                )
        out = np.zeros((len(rows), len(columns)))
        for place, index in enumerate(columns):
            cells = [row[index].strip() for row in rows]
            try:
                if any("_" in cell for cell in cells):
                    raise ValueError
                out[:, place] = list(map(float, cells))
            except ValueError:
                out[:, place] = [self._number(cell, filled[i][0], index) for i, cell in enumerate(cells)]
            if not (self.missing.nan or self.missing.given) and np.isnan(out[:, place]).any():
                line = filled[int(np.argmax(np.isnan(out[:, place])))][0]
                raise ValueError(f"{self._place(line, index)}: is NaN; --missing nan drops such rows")
        return out

    def _number(self, cell: str, line: int, column: int) -> float:
        if is_number(cell):
            return float(cell)
        if self.missing.given and (not cell or cell in self.missing.words):
            return float("nan")
        if not cell:
            raise ValueError(f"{self._place(line, column)}: is blank; --missing nan drops such rows")
        hint = ""
        if self._separator != "," and is_number(cell.replace(",", ".")):
            hint = "; a number has a point and no comma"
        elif line <= 1 + self._skip and not self.names:
            hint = "; if the line names the columns, give --header yes"
        elif cell.lower() in ("na", "n/a", "null", "none", "-", "--", "."):
            hint = f"; --missing={cell} drops such rows"
        elif line == self._skip + 1:
            hint = "; --columns chooses columns of numbers"
        raise ValueError(f"{self._place(line, column)}: {cell!r} is not a number{hint}")

    def _place(self, line: int, column: int) -> str:
        return f"{self.path}, line {line}, {self.column(column)}"


def _unquoted(block: bytes, separator: str) -> bytes | None:
    """Whole lines with numbers out of their quotes, and something that is no number for other quoted cells.

    None if quotes stand where none should, in quoted cells included.
    """
    parts = block.split(b'"')
    around = (separator.encode(), b"\n")
    if separator == BLANKS or not len(parts) % 2:
        return None
    if parts[0].rstrip(b" ")[-1:] not in (b"", *around):
        return None
    if not all(part.rstrip(b" ")[-1:] in around for part in parts[2:-1:2]):
        return None
    if not all(part.lstrip(b" ")[:1] in around for part in parts[2::2]):
        return None
    cells = parts[1::2]
    if any(b"\n" in cell for cell in cells):
        return None
    parts[1::2] = [b"@" if cell.translate(None, NUMERIC) else cell for cell in cells]
    return b"".join(parts)


def _taken(block: bytes, separator: str, count: int, columns: Sequence[int]) -> tuple[bytes, int] | None:
    """The characters of the chosen cells of whole lines, in the order of the file, each with ``;`` behind it; and how many lines.

    None if the lines have not ``count`` cells each.
    """
    chars = np.frombuffer(block, dtype=np.uint8)
    found = _ends_of_words(chars, count) if separator == BLANKS else _ends_of_cells(chars, separator, count)
    if found is None:
        return None
    starts, ends = found
    marked = chars.copy()
    marked[ends] = ord(";")
    rows = len(ends) // count
    chosen = np.zeros(count, dtype=bool)
    chosen[columns] = True
    if separator != BLANKS:
        if not chosen.all():
            marked = marked[np.repeat(np.tile(chosen, rows), ends - starts + 1)]
        return marked.tobytes(), rows
    take = np.tile(chosen, rows)
    inside = np.zeros(len(chars) + 1, dtype=np.int8)
    inside[starts[take]] = 1
    inside[ends[take] + 1] -= 1
    return marked[np.cumsum(inside[:-1], dtype=np.int8).view(bool)].tobytes(), rows


def _ends_of_cells(chars: Array, separator: str, count: int) -> tuple[Array, Array] | None:
    """Where the cells of lines begin, and the separators behind them; None if the lines have not ``count`` each."""
    (ends,) = np.nonzero((chars == ord(separator)) | (chars == ord("\n")))
    if len(ends) % count:
        return None
    at_ends = chars[ends].reshape(-1, count)
    if not ((at_ends[:, -1] == ord("\n")).all() and (at_ends[:, :-1] == ord(separator)).all()):
        return None
    return np.concatenate([[0], ends[:-1] + 1]), ends


def _ends_of_words(chars: Array, count: int) -> tuple[Array, Array] | None:
    """The same where runs of blanks stand between the cells, and perhaps around them."""
    blank = chars <= ord(" ")
    if np.count_nonzero(blank) != sum(np.count_nonzero(chars == ord(char)) for char in " \t\n"):
        return None
    (edges,) = np.nonzero(blank[1:] != blank[:-1])  # the last character before each change
    if not blank[0]:
        edges = np.concatenate([[-1], edges])
    if len(edges) % (2 * count):
        return None
    starts, ends = edges[::2] + 1, edges[1::2] + 1
    (breaks,) = np.nonzero(chars == ord("\n"))
    firsts, lasts = starts[::count], ends[count - 1 :: count]
    if len(breaks) != len(firsts) or not ((lasts <= breaks).all() and (firsts[1:] > breaks[:-1]).all()):
        return None
    return starts, ends


def is_number(text: str) -> bool:
    """Whether a cell is a number, NaN and infinity included."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


# --- the first lines ------------------------------------------------------------------------------------------------------


def _open(path: str) -> BinaryIO:
    if path != "-":
        return open(path, "rb")
    if sys.stdin is None:
        raise ValueError("there is no standard input")
    return sys.stdin.buffer


def _blocks(file: BinaryIO, begin: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Whole lines, each with its end; carriage returns are ends as well, or part of one. Perhaps of some bytes alone."""
    if begin or end is not None:  # a stream stays where it is
        file.seek(begin)
    left = sys.maxsize if end is None else end - begin
    first = file.read(min(BLOCK, left))
    left -= len(first)
    rest = bytearray(first if begin else first.removeprefix(b"\xef\xbb\xbf"))
    cut = rest.rfind(b"\n") + 1
    if cut:
        yield _lines(bytes(rest[:cut]))
        del rest[:cut]
    while data := file.read(min(BLOCK, left)):
        left -= len(data)
        looked_at = len(rest)
        rest += data
        cut = rest.rfind(b"\n", looked_at) + 1
        if cut:
            yield _lines(bytes(rest[:cut]))
            del rest[:cut]
    if rest:
        yield _lines(bytes(rest) + b"\n")


def _line_start(file: BinaryIO, at: int) -> int:
    """Where the first line begins at ``at`` or behind it."""
    if at:
        file.seek(at - 1)
        file.readline()
        return file.tell()
    return file.seek(0)


def _count_filled(block: bytes) -> int:
    """How many lines are neither blank nor a comment. As a rule their first characters tell."""
    chars = np.frombuffer(block, dtype=np.uint8)
    starts = np.concatenate([chars[:1], chars[1:][chars[:-1] == ord("\n")]])
    if ((starts > ord(" ")) & (starts < 127) & (starts != ord("#"))).all():
        return len(starts)
    return sum(map(_is_filled, block.decode("utf-8", "replace").split("\n")))


def _lines(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in block else block


def _until_filled(blocks: Iterator[bytes], path: str) -> tuple[bytes, list[tuple[int, str]], str]:
    """What was read until the first rows, these with their numbers as lines, and the comment right before them."""
    read, number, comment = b"", 0, ""
    sample: list[tuple[int, str]] = []
    for block in blocks:
        if not read and block.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise ValueError(f"{path} is UTF-16; write it as UTF-8")
        read += block
        for raw in block.split(b"\n")[:-1]:
            number += 1
            line = raw.decode("utf-8", "replace")
            if _is_filled(line):
                sample.append((number, line))
                if len(sample) == SAMPLE:
                    return read, sample, comment
            elif line.strip() and not sample:
                comment = line
        if sample:
            break
    return read, sample, comment


def _is_filled(line: str) -> bool:
    """Whether a line is neither blank nor a comment."""
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _separator(lines: Sequence[str], *, tab_first: bool) -> str:
    """The separator that gives every line as many cells, more than one, and the most numbers among them."""
    best, most = None, -1.0
    for separator in (*SEPARATORS, BLANKS):
        if separator == BLANKS:
            rows = [_words(line.split("#")[0]) for line in lines]
        else:
            rows = [_split(line, separator) for line in lines]
        if len(rows[0]) < 2 or len(set(map(len, rows))) > 1:
            continue
        if separator == "\t" and tab_first:
            return separator
        cells = [cell.strip() for row in rows for cell in row]
        share = sum(is_number(cell.replace(",", ".")) for cell in cells) / len(cells)
        if share > most:
            best, most = separator, share
    if best is not None:
        return best
    first = [separator for separator in SEPARATORS if len(_split(lines[0], separator)) > 1]
    if first:
        return first[-1] if "," in first else first[0]
    blanks = _words(lines[0].split("#")[0])
    return BLANKS if len(blanks) > 1 and all(map(is_number, blanks)) else ","


def _words(line: str) -> list[str]:
    return [word for word in line.replace("\t", " ").split(" ") if word]


def _split(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        return [line]


def _is_header(
    fields: Sequence[str], following: Sequence[str] | None, expected: Sequence[str], missing: Missing
) -> bool:
    """Whether a first line names the columns."""
    if expected and set(expected) <= set(fields):
        return True
    filled = [field for field in fields if field and field not in missing.words]
    if not filled:
        return False
    if not any(map(is_number, filled)):
        return True
    counted = fields[1:] if not fields[0] else fields
    if following is None or list(counted) != list(map(str, range(len(counted)))):
        return False
    return not fields[0] or any(cell and not re.fullmatch(r"[+-]?\d+", cell) for cell in following)
