"""What the command line reads: text of every shape, typed tables, missing values; each cell is the float that Python reads."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers import assert_same_bits, python
from penstock.cli import main, tables, text
from penstock.cli.tables import Missing, read_table

Array = np.ndarray[Any, Any]
NAN = float("nan")


def put(folder: Path, content: str, name: str = "x.csv") -> str:
    """The path of a file with this text."""
    path = folder / name
    path.write_bytes(content.encode())
    return str(path)


# -- text ---------------------------------------------------------------------------------------

SHAPES = {
    "commas": "a,b\n1,2\n3,4\n",
    "semicolons": "a;b\n1;2\n3;4\n",
    "tabs": "a\tb\n1\t2\n3\t4\n",
    "blanks": "a b\n1 2\n3 4\n",
    "runs of blanks": "  a    b  \n 1  2\n\t3 \t 4 \n",
    "blanks behind commas": "a, b\n 1, 2\n3 ,\t4\n",
    "quoted names": '"a","b"\n1,2\n3,4\n',
    "quoted numbers": 'a,b\n"1","2"\n"3",4\n',
    "a mark of the byte order": "\ufeffa,b\n1,2\n3,4\n",
    "carriage returns": "a,b\r\n1,2\r\n3,4\r\n",
    "carriage returns alone": "a,b\r1,2\r3,4\r",
    "no end": "a,b\n1,2\n3,4",
    "blank lines": "\n\na,b\n\n1,2\n   \n3,4\n\n",
    "comments": "# made by\n#\na,b\n# of two\n1,2\n #, in between\n3,4\n# end",
    "a header behind #": "# made by\n# a,b\n1,2\n3,4\n",
    "a header of words behind #": "#a b\n1 2\n3 4\n",
    "comments behind rows": "a b # names\n1 2 # one, or two\n3 4#\n",
}


@pytest.mark.parametrize("shape", list(SHAPES))
def test_lines_of_every_shape_are_read(shape: str, tmp_path: Path) -> None:
    table = read_table(put(tmp_path, SHAPES[shape], "x.txt"))
    assert table.names == ("a", "b")
    assert_same_bits(table.array([0, 1]), np.array([[1.0, 2.0], [3.0, 4.0]]))
    assert_same_bits(table.array([1]), np.array([[2.0], [4.0]]))


@pytest.mark.parametrize("columns", [(2,), (3, 1), (4, 2, 0)])
@pytest.mark.parametrize(
    "row",
    ["{},a,{},,{}", "{},,{},#,{}", '{},"a, b",{},x y,{}', "{},NA,{},-;-,{}", "{},é,{},1_0,{}"],
)
def test_columns_that_are_not_chosen_may_hold_anything(row: str, columns: tuple[int, ...], tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(50, 3))
    lines = [row.format(*map(repr, values)) for values in numbers.tolist()]
    table = read_table(put(tmp_path, "\n".join(["p,q,r,s,t", *lines])))
    chosen = [place for place in (0, 2, 4) if place in columns] or [4]
    assert_same_bits(table.array(chosen), numbers[:, [place // 2 for place in chosen]])
    other = {1: "a", 3: "s"}
    if set(columns) & set(other) and row.split(",")[1] != "NA":
        with pytest.raises(ValueError, match="line 2, column"):
            table.array(columns)


@pytest.mark.parametrize(
    ("content", "names", "rows"),
    [
        # As pandas writes frames whose columns have numbers for names, with its index and without.
        ("0,1\n0.5,1.5\n", ("0", "1"), 1),
        (",0,1\n0,0.5,1.5\n1,2.5,3.5\n", ("Unnamed: 0", "0", "1"), 2),
        ("0\n0.5\n", ("0",), 1),
        # Rows: numbers that do not count, or that integers follow.
        ("1,0\n0.5,1.5\n", (), 2),
        ("0,1\n1,2\n", (), 2),
        ("0,1\n", (), 1),
        # A first row without values is no header.
        (",,\n1,2,3\n", (), 2),
        ("nan,nan\n1,2\n", (), 2),
        (",a,b\n0,1,2\n", ("Unnamed: 0", "a", "b"), 1),
        ("a,b\n", ("a", "b"), 0),
        # Comments that are none.
        ("# one two three\n1,2\n", (), 1),
        ("# a,a\n1,2\n", (), 1),
        ("# a,1\n1,2\n", (), 1),
        ("# a,b\nc,d\n1,2\n", ("c", "d"), 1),
    ],
)
def test_the_header_is_told_from_the_first_lines(
    content: str, names: tuple[str, ...], rows: int, tmp_path: Path
) -> None:
    warned = names[-1:] in (("0",), ("1",))
    with pytest.warns(UserWarning, match="taken for names") if warned else _nothing():
        table = read_table(put(tmp_path, content), missing=Missing(given=True))
    assert table.names == names
    assert sum(map(len, table.chunks([0]))) == rows
    assert table.unnamed == ((0,) if names[:1] == ("Unnamed: 0",) else ())


class _nothing:  # noqa: N801
    """A context without expectations."""

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def test_header_yes_and_no_overrule_what_is_seen(tmp_path: Path) -> None:
    path = put(tmp_path, "1,x\n3,4\n")
    assert read_table(path, header=True).names == ("1", "x")
    assert_same_bits(read_table(path, header=True).array([1]), np.array([[4.0]]))
    with pytest.raises(ValueError, match=r"line 1, column 1 .*--header yes"):
        read_table(path).array([1])
    path = put(tmp_path, "0,1\n0.5,1.5\n")
    assert len(read_table(path, header=False).array([0])) == 2
    # The names that a flow keeps make a header of any line.
    assert read_table(put(tmp_path, "7,5\n1,2\n"), expected=("5", "7")).names == ("7", "5")


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("p,q\n1,2\n\n#\n3,oops\n", [1], "line 5, column 'q': 'oops' is not a number"),
        ("p,q\n1,2\n3,\n", [1], "line 3, column 'q': is blank; --missing nan drops such rows"),
        ("p,q\n1,NA\n", [1], "'NA' is not a number; --missing=NA drops such rows"),
        ("p;q\n1,5;2\n", [0], "'1,5' is not a number; a number has a point and no comma"),
        ("p,q\nM31,2\n", [0], "'M31' is not a number; --columns chooses columns of numbers"),
        ("1,2\n3,4,5\n", [0], "line 2: expected 2 columns, as in the first line, got 3"),
        ("1,2\n3,4\n5\n6,7,8\n", [1], "line 3: expected 2 columns, as in the first line, got 1"),
        ("1 2\n3\n4 5 6\n", [1], "line 2: expected 2 columns, as in the first line, got 1"),
        ("1 2\n3 4 5\n6\n", [1], "line 2: expected 2 columns, as in the first line, got 3"),
        ('1,2\n"3,4\n5",6\n', [0], "line 2: expected 2 columns"),
        ('p,q\n"1\n2",3\n', [1], "line 2: expected 2 columns, as in the first line, got 1"),
        ('p,q\nx"1,9",5\n', [1], "line 2: expected 2 columns, as in the first line, got 3"),
        ('p,q\n"a",5\nx"1,9",5\n', [1], "line 3: expected 2 columns, as in the first line, got 3"),
        ("# only\n\n", [0], "is empty"),
    ],
)
def test_what_is_wrong_in_text_is_named_with_its_place(
    content: str, columns: list[int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as error:
        read_table(put(tmp_path, content)).array(columns)
    assert message in str(error.value)
    assert "x.csv" in str(error.value)


def test_utf_16_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("a,b\n1,2\n".encode("utf-16"))
    with pytest.raises(ValueError, match="is UTF-16"):
        read_table(str(path))


def test_every_cell_is_correctly_rounded(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [repr(x) for x in np.frombuffer(rng.bytes(80_000), dtype=np.float64).tolist()]
    words += [f"{x:.{digits}e}" for x, digits in zip(rng.normal(size=2000), rng.integers(0, 40, 2000), strict=True)]
    # Halfway between two floats, a little more, a little less; the largest and smallest; longer than any float.
    words += ["9007199254740993", "9007199254740993.00000000000000000001", "9007199254740992.9999999999999999999"]
    words += ["1.7976931348623158e308", "1.7976931348623159e308", "2.4703282292062328e-324", "1e-400", "0" * 30 + "1"]
    words += ["+4", ".5", "5.", "-0.0", "1E5", "Infinity", "-inf", "NaN"]
    expected = np.array([[float(word)] for word in words])
    for separator in ",;\t ":
        lines = "\n".join(f"1{separator}{word}" for word in words)
        found = read_table(put(tmp_path, lines), header=False).array([1])
        finite = ~np.isnan(expected)
        assert_same_bits(found[finite], expected[finite])
        assert (np.isnan(found) == np.isnan(expected)).all()


PLAIN = "1 2.5 -3e5 nan NaN inf -inf +4 .5 5. 1e400 NA x 1_0 nan(a) infinity + - . 1e 0x1 1;2 #q --1 ١ 1,5 99 -99"
CELLS = [*PLAIN.split(" "), "", "  ", "1 2", " 7 ", "8 ", "a b", "1\0", "\t6", "1e5\t", "1" * 25]
CELLS += ['"3"', '"a,b"', '" 4 "', '"a""b"', '"x', 'a"b', '"1;2"', '"NA"', '""', '"1" ', ' "2"', '"1 2"', '"']


def test_the_quick_way_reads_what_the_careful_one_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    quick, read = text.TextTable._quick, 0

    def outcome(path: str, columns: list[int], missing: Missing) -> Any:
        try:
            table = text.TextTable(path, missing, header=False)
            there = [i for i in columns if i < table.n_columns]
            rows = np.concatenate([np.zeros((0, len(there))), *table.chunks(there)])
        except ValueError as error:
            return str(error)
        return rows.tobytes()

    for _ in range(2000):
        count, separator, odd = draw.randint(1, 4), draw.choice([",", ";", "\t", " ", "  "]), draw.random() / 3
        lines = []
        for _ in range(draw.randint(1, 6)):
            cells = [draw.choice(CELLS) if draw.random() < odd else repr(draw.gauss(0, 1)) for _ in range(count)]
            lines.append(separator.join(cells))
            if draw.random() < 0.1:
                lines.append(draw.choice(["", " ", "# c", "#", " # d, 1", "\t"]))
        path = put(tmp_path, draw.choice(["\n", "\r\n"]).join(lines) + draw.choice(["", "\n"]))
        columns = draw.sample(range(count), draw.randint(1, count))
        missing = draw.choice([Missing(), Missing(nan=False), Missing((99.0,), ("NA",), True), Missing(given=True)])
        monkeypatch.setattr(text, "BLOCK", draw.choice([7, 40, 1 << 20]))
        monkeypatch.setattr(text.TextTable, "_quick", quick)
        one = outcome(path, columns, missing)
        monkeypatch.setattr(text.TextTable, "_quick", lambda *arguments: None)
        assert outcome(path, columns, missing) == one, Path(path).read_text()
        read += isinstance(one, bytes)
    assert read > 300


@pytest.mark.parametrize("separator", [",", ";", "\t", "  "])
def test_plain_numbers_go_the_quick_way(separator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def careful(*arguments: Any) -> Array:
        raise AssertionError("the slow way")

    monkeypatch.setattr(text.TextTable, "_careful", careful)
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    lines = [separator.join(["a", "b", "c"]), *(separator.join(map(repr, row)) for row in x.tolist())]
    table = read_table(put(tmp_path, "\n".join(lines)))
    assert_same_bits(table.array([0, 1, 2]), x)
    assert_same_bits(table.array([2, 0]), x[:, [2, 0]])


def test_chunks_have_the_same_rows_whatever_the_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK", 1)
    monkeypatch.setattr(text, "BLOCK", 1000)
    x = np.random.default_rng(0).normal(size=(10_000, 2))
    np.save(tmp_path / "x.npy", x)
    path = put(tmp_path, "\n".join(f"{a!r},{b!r}" for a, b in x.tolist()))
    for name in (path, str(tmp_path / "x.npy")):
        assert [len(rows) for rows in read_table(name).chunks([0, 1])] == [4096, 4096, 1808]


def parts_of(table: Any, path: str, parts: int) -> Any:
    """The table with a known number of rows: of text, each part is counted by itself."""
    if isinstance(table, text.TextTable):
        assert table.n_rows is None
        table.know([table.look(Path(path).stat().st_size, part, parts) for part in range(parts)])
    return table


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("parts", [1, 2, 3, 7, 60])
def test_text_is_read_from_any_row_on(shape: str, parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path, SHAPES[shape], "x.txt")
    whole = read_table(path).array([0, 1])
    for block in (4, 7, 1 << 20):
        monkeypatch.setattr(text, "BLOCK", block)
        table = parts_of(read_table(path), path, parts)
        assert table.n_rows == len(whole)
        for first in range(3):
            for last in range(first, 3):
                assert_same_bits(table.array([0, 1], first, last).reshape(-1, 2), whole[first:last])


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "dat", "parquet", "h5", "fits"])
def test_a_part_of_the_rows_has_the_chunks_of_the_whole(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK", 1)
    monkeypatch.setattr(text, "BLOCK", 9000)
    rows = np.random.default_rng(0).normal(size=(10_000, 3))
    path = str(tmp_path / f"x.{kind}")
    write_rows(path, rows)
    table = parts_of(read_table(path), path, 3)
    assert table.n_rows == len(rows)
    whole = list(table.chunks([2, 0]))
    assert [len(chunk) for chunk in whole] == [4096, 4096, 1808]
    for first, last in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (1, 1)):
        found = list(table.chunks([2, 0], min(first * 4096, 10_000), min(last * 4096, 10_000)))
        assert len(found) == last - first
        for own, expected in zip(found, whole[first:last], strict=True):
            assert_same_bits(own, expected)
    for first, last in ((0, 10_000), (1, 9999), (2999, 3001), (5000, 5000), (9999, 10_000)):
        assert_same_bits(table.array([2, 0], first, last), rows[first:last, [2, 0]])
        for own, expected in zip(
            table.arrays([1], [0], first=first, last=last), (rows[:, [1]], rows[:, [0]]), strict=True
        ):
            assert_same_bits(np.array(own), expected[first:last])
    with pytest.raises(ValueError, match=r"has changed while it was read: there is no row 10000|mmap length"):
        list(table.chunks([0], 9000, 10_001))


def write_rows(path: str, rows: Array) -> None:
    """A table with columns a, b and c."""
    if path.endswith(".npy"):
        np.save(path, rows)
    elif path.endswith(".npz"):
        np.savez(path, rows)
    elif path.endswith(".parquet"):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table(dict(zip("abc", rows.T, strict=True))), path, row_group_size=3000)
    elif path.endswith(".h5"):
        with pytest.importorskip("h5py").File(path, "w") as file:
            file["x"] = rows
    elif path.endswith(".fits"):
        pytest.importorskip("astropy.table").Table(rows, names=list("abc")).write(path)
    else:
        separator = "," if path.endswith(".csv") else " "
        lines = [separator.join(map(repr, row)) for row in rows.tolist()]
        lines[4000] += "\n\n# a comment"
        Path(path).write_text("\n".join([separator.join("abc"), *lines]) + "\n")


def test_errors_in_a_part_of_text_have_the_numbers_of_their_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "# first\na,b\n" + "1,2\n\n" * 500 + "1,x\n" + "1,2\n" * 300)
    table = parts_of(read_table(path), path, 4)
    with pytest.raises(ValueError, match="line 1003, column 'b': 'x' is not a number"):
        table.array([0, 1], 490, 600)


def test_chunks_that_are_made_ahead_are_the_same_and_so_are_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "CHUNK", 1)
    path = put(tmp_path, "1,2\n" * 9000)
    table = read_table(path)
    for one, two in zip(tables.ahead(table.chunks([1, 0])), table.chunks([1, 0]), strict=True):
        assert_same_bits(one, two)
    assert list(tables.ahead(iter([]))) == []
    put(tmp_path, "1,2\n" * 9000 + "x,2\n")
    with pytest.raises(ValueError, match="line 9001"):
        list(tables.ahead(read_table(path).chunks([0])))
    # Whoever stops early waits for the chunk that is being made, and for no other.
    made = []
    for _ in tables.ahead(made.append(i) or np.zeros((1, 1)) for i in range(100)):
        break
    assert len(made) <= 3


# -- missing values -----------------------------------------------------------------------------

HOLES = "a,b,c\n1,2,x\n,3,y\n4,99,z\nNA,5,\n6,7.5,w\n8,nan,v\n99.0,-1,u\n"


def test_rows_with_missing_values_are_dropped_and_counted(tmp_path: Path) -> None:
    path = put(tmp_path, HOLES)
    for missing, kept in (
        (Missing((99.0,), ("NA",), True), [[1, 2], [6, 7.5]]),
        (Missing((), ("NA",), True), [[1, 2], [4, 99], [6, 7.5], [99, -1]]),
    ):
        table = read_table(path, missing=missing)
        assert_same_bits(table.array([0, 1]), np.array(kept, dtype=float))
        assert table.dropped == 7 - len(kept)
        # In chunks they stay where they are.
        (rows,) = table.chunks([1])
        assert list(np.isnan(rows[:, 0])) == [False, False, 99.0 in missing.values, False, False, True, False]


def test_missing_values_are_counted_over_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "CHUNK", 1)
    lines = ["1,2", *["3,"] * 3, *["1,2"] * 9000, ","]
    table = read_table(put(tmp_path, "\n".join(lines)), missing=Missing(given=True))
    assert table.array([1]).shape == (9001, 1)
    assert table.dropped == 4


def test_arrays_have_missing_values_too(tmp_path: Path) -> None:
    x = np.array([[1, 2], [99, 3], [4, NAN], [5, 6]])
    for name, array in (("x.npy", x), ("f.npy", np.asfortranarray(x)), ("i.npy", np.array([[1, 99], [2, 3], [99, 4]]))):
        np.save(tmp_path / name, array)
        table = read_table(str(tmp_path / name), missing=Missing((99.0,), (), True))
        kept = ~(np.isnan(array) | (array == 99)).any(axis=1)
        assert_same_bits(np.asarray(table.array([1, 0])), array[kept][:, [1, 0]].astype(float))
        assert table.dropped == int((~kept).sum())


@pytest.mark.parametrize(
    ("name", "place"), [("x.csv", "line 7, column 'b': is NaN"), ("x.npy", "row 2, column 1 .*: is NaN")]
)
def test_nan_where_none_may_be_is_named_with_its_place(name: str, place: str, tmp_path: Path) -> None:
    if name == "x.csv":
        put(tmp_path, HOLES)
    else:
        np.save(tmp_path / name, np.array([[1, 2], [3, 4], [5, NAN]]))
    with pytest.raises(ValueError, match=f"{place}; --missing nan drops such rows"):
        read_table(str(tmp_path / name), missing=Missing(nan=False)).array([1, 0] if name == "x.npy" else [1])


# -- Parquet, HDF5, FITS ------------------------------------------------------------------------


def parquet(path: Path, columns: dict[str, Any]) -> None:
    pytest.importorskip("pyarrow")
    arrow, pq = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    pq.write_table(arrow.table({name: arrow.array(values) for name, values in columns.items()}), path, row_group_size=3)


def hdf5_group(path: Path, columns: dict[str, Any]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w", track_order=True) as file:
        for name, values in columns.items():
            file[name] = values


def hdf5_compound(path: Path, columns: dict[str, Any]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        kinds = {name: "S8" if isinstance(values, list) else values.dtype for name, values in columns.items()}
        records = np.zeros(len(columns["a"]), list(kinds.items()))
        for name, values in columns.items():
            records[name] = values
        file["one/table"] = records


def fits(path: Path, columns: dict[str, Any]) -> None:
    module = pytest.importorskip("astropy.io.fits")
    formats = {"f8": "D", "f4": "E", "i8": "K", "b1": "L"}
    module.BinTableHDU.from_columns(
        [
            module.Column(name, "8A" if isinstance(values, list) else formats[values.dtype.str[1:]], array=values)
            for name, values in columns.items()
        ]
    ).writeto(path)


KINDS: dict[str, tuple[str, Callable[[Path, dict[str, Any]], None]]] = {
    "parquet": ("x.parquet", parquet),
    "hdf5 group": ("x.h5", hdf5_group),
    "hdf5 compound": ("x.hdf5", hdf5_compound),
    "fits": ("x.fits", fits),
}
each_kind = pytest.mark.parametrize("kind", list(KINDS))


def typed(kind: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """A table of ten rows with a column of text, one of each type of numbers, and a NaN."""
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "name": [f"M{i}" for i in range(10)],
        "a": rng.normal(size=10),
        "b": rng.normal(size=10).astype(np.float32),
        "c": rng.integers(0, 1 << 40, 10),
        "flag": rng.normal(size=10) > 0,
    }
    columns["a"][4] = NAN
    name, write = KINDS[kind]
    if kind == "hdf5 group":
        columns["name"] = np.array(columns["name"], dtype="S8")
    write(folder / name, columns)
    return str(folder / name), columns


@each_kind
def test_typed_tables_give_their_columns(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, columns = typed(kind, tmp_path)
    table = read_table(path)
    assert sorted(table.names) == sorted(columns)
    assert table.n_rows == 10
    for chosen in (["a", "c"], ["flag", "b", "a"], ["c"]):
        rows = table.array([table.names.index(name) for name in chosen])
        assert_same_bits(rows, np.column_stack([columns[name].astype(np.float64) for name in chosen]))
    assert_same_bits(table.array([table.names.index("b")]), columns["b"][:, None])
    with pytest.raises(ValueError, match="column 'name': must hold numbers"):
        table.array([table.names.index("name"), table.names.index("a")])
    table = read_table(path, missing=Missing(given=True))
    assert len(table.array([table.names.index("a")])) == 9
    assert table.dropped == 1
    with pytest.raises(ValueError, match="row 4, column 'a': is NaN; --missing nan"):
        read_table(path, missing=Missing(nan=False)).array([table.names.index("a")])


@each_kind
def test_a_package_that_is_missing_is_named(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package, extra = {"p": ("pyarrow", "parquet"), "h": ("h5py", "hdf5"), "f": ("astropy", "fits")}[kind[0]]
    name = KINDS[kind][0]
    (tmp_path / name).write_bytes(b"")
    for module in [module for module in sys.modules if module.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    real = importlib.import_module

    def missing(module: str, *rest: Any) -> Any:
        if module.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        return real(module, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=rf"{package} is not installed.*penstock\[{extra}\]"):
        read_table(str(tmp_path / name))


@each_kind
def test_what_is_no_such_file_is_said(kind: str, tmp_path: Path) -> None:
    pytest.importorskip({"p": "pyarrow", "h": "h5py", "f": "astropy"}[kind[0]])
    path = tmp_path / KINDS[kind][0]
    with pytest.raises(FileNotFoundError):
        read_table(str(path))
    path.write_bytes(b"noise" * 1000)
    with pytest.raises(ValueError, match=path.name):
        read_table(str(path))


def test_nulls_categories_and_the_index_of_pandas_in_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    pq = importlib.import_module("pyarrow.parquet")
    path = str(tmp_path / "x.parquet")
    columns = {
        "i": arrow.array([1, None, 3]),
        "d": arrow.array([1, 2, 1]).dictionary_encode(),
        "f": arrow.array([True, None, False]),
        "v": arrow.array([[1.0], [2.0], [3.0]]),
        "n": arrow.nulls(3),
        "e": arrow.array([1, 2, 3]).cast(arrow.decimal128(25, 1)),
        "h": arrow.array(np.array([0.5, 1.5, 2.5], dtype=np.float16)),
        "u": arrow.array([2**64 - 1, 1, None], arrow.uint64()),
        "__index_level_0__": arrow.array([0, 1, 2]),
    }
    pq.write_table(arrow.table(columns), path)
    table = read_table(path)
    assert table.unnamed == (8,)
    assert_same_bits(table.array([0, 1, 2]), np.array([[1, 1, 1], [NAN, 2, NAN], [3, 1, 0]]))
    assert_same_bits(table.array([5, 6, 7]), np.array([[1, 0.5, 2.0**64], [2, 1.5, 1], [3, 2.5, NAN]]))
    assert np.isnan(table.array([4])).all()
    with pytest.raises(ValueError, match=r"column 'v': must hold numbers, got list"):
        table.array([3])


LIGHT = """if True:
    import sys
    from penstock.cli import main
    folder = sys.argv[1]
    import penstock as ps
    ps.realnvp(2, rng=0).save(f"{folder}/m")
    def done(*words):
        assert main([*words, "-q"]) == 0
        return {"pyarrow", "pandas", "h5py", "astropy", "tqdm"} & set(sys.modules)
    assert not done("sample", f"{folder}/m", "-n", "9", "-o", f"{folder}/s.csv")
    assert not done("score", f"{folder}/m", f"{folder}/s.csv")
    if sys.argv[2] == "True":
        assert done("sample", f"{folder}/m", "-n", "9", "-o", f"{folder}/s.parquet") == {"pyarrow"}
        assert done("score", f"{folder}/m", f"{folder}/s.parquet") == {"pyarrow"}
"""


def test_packages_are_imported_when_such_a_file_is_read_and_pandas_never(tmp_path: Path) -> None:
    there = importlib.util.find_spec("pyarrow") is not None
    python(LIGHT, str(tmp_path), str(there))


def test_datasets_and_groups_are_chosen_by_key(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = str(tmp_path / "x.h5")
    x = np.random.default_rng(0).normal(size=(5, 2))
    vectors = np.zeros(5, [("p", float), ("q", float, (2,))])
    vectors["q"] = x
    with h5py.File(path, "w") as file:
        file["plain"], file["deep/a"], file["deep/b"], file["vectors"] = x, x[:, 0], x[:, 1], vectors
        file["uneven/a"], file["uneven/b"], file["cube"] = x[:, 0], x[:3, 1], np.zeros((2, 2, 2))
    with pytest.raises(ValueError, match="must hold one table, or --key say which; it holds /deep, /plain, "):
        read_table(path)
    assert read_table(path, key="plain").names == ()
    assert read_table(path, key="deep").names == ("a", "b")
    assert read_table(path, key="vectors").names == ("p", "q[0]", "q[1]")
    for key, columns in (("plain", [0, 1]), ("deep", [0, 1]), ("vectors", [1, 2])):
        assert_same_bits(read_table(path, key=key).array(columns), x)
    assert_same_bits(read_table(path, key="deep/b").array([0]), x[:, 1:])
    for key, message in (("none", "no dataset or group 'none'"), ("uneven", "a: 5, b: 3"), ("cube", r"\(2, 2, 2\)")):
        with pytest.raises(ValueError, match=message):
            read_table(path, key=key)


def test_extensions_vectors_and_null_values_of_fits(tmp_path: Path) -> None:
    module = pytest.importorskip("astropy.io.fits")
    path = str(tmp_path / "x.fits")
    column, x = module.Column, np.random.default_rng(0).normal(size=(5, 2))
    one = module.BinTableHDU.from_columns([column("i", "J", null=-1, array=np.array([0, 1, -1, 3, 4]))], name="ONE")
    two = module.BinTableHDU.from_columns(
        [
            column("v", "2D", array=x),
            column("u", "I", bzero=32768, array=np.arange(5, dtype=np.uint16)),
            column("p", "PD()", array=np.array([x[0], x[0, :1], x[0], x[0], x[0]], dtype=object)),
        ],
        name="TWO",
    )
    module.HDUList([module.PrimaryHDU(), one, two]).writeto(path)
    with pytest.raises(ValueError, match="must hold one table, or --key say which; it holds ONE, TWO"):
        read_table(path)
    assert_same_bits(read_table(path, key="ONE").array([0]), np.array([[0.0], [1.0], [NAN], [3.0], [4.0]]))
    table = read_table(path, key="2")
    assert table.names == ("v[0]", "v[1]", "u", "p")
    assert_same_bits(table.array([1, 0, 2]), np.column_stack([x[:, ::-1], np.arange(5.0)]))
    with pytest.raises(ValueError, match="column 'p': must hold numbers, got arrays of varying length"):
        table.array([3])


def test_root_files_are_told_what_reads_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["fit", "x.root", "-o", "m"])
    assert "uproot" in capsys.readouterr().err
