"""Names of columns on the command line: kept by fit, matched by score, written by sample; rows of context and their numbers."""

from __future__ import annotations

import importlib
import json
import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from helpers import assert_same_bits
from penstock.cli import digits, main, tables
from penstock.cli.tables import read_table
from penstock.files.model import content_hash

Array = np.ndarray[Any, Any]

SMALL = ("--epochs", "1", "--layers", "2", "--hidden", "8", "-q")
NAMES = ("mag", "z", "size", "w")


def run(*words: str | Path) -> int:
    """The exit code of a command line in this process."""
    return main([str(word) for word in words])


def rows(count: int = 300) -> Array:
    """Four columns of numbers, no two alike."""
    return np.random.default_rng(1).normal(size=(count, 4)) + np.arange(4)


def write(path: Path, x: Array, names: Sequence[str] = ()) -> Path:
    """A file of text."""
    separator = "\t" if path.suffix == ".tsv" else ","
    header = separator.join(names).encode() + b"\n" if names else b""
    path.write_bytes(header + digits.lines([x], separator.encode()))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A table with the four names."""
    return write(tmp_path / "x.csv", rows(), NAMES)


@pytest.fixture
def model(data: Path, tmp_path: Path) -> Path:
    """A flow of magnitude and redshift."""
    assert run("fit", data, "-o", tmp_path / "m", "--columns", "mag,z", *SMALL) == 0
    return tmp_path / "m"


@pytest.fixture
def conditional(data: Path, tmp_path: Path) -> Path:
    """A flow of the redshift given magnitude and size."""
    assert run("fit", data, "-o", tmp_path / "c", "--columns", "z", "--context-columns", "mag,size", *SMALL) == 0
    return tmp_path / "c"


def test_fit_knows_positive_columns_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = rows()
    x[:, [1, 3]] = np.exp(x[:, [1, 3]])
    data = write(tmp_path / "x.csv", x, NAMES)
    chosen = ("fit", data, "-o", tmp_path / "p", "--columns", "w,mag,z", *SMALL)
    assert run(*chosen, "--positive", "z,w") == 0
    flow = ps.load(tmp_path / "p")
    assert [str(own) for own in flow.spec.support] == ["positive", "real", "positive"]
    assert run("sample", tmp_path / "p", "-n", "500", "-o", tmp_path / "s.npy", "--seed", "1") == 0
    assert (np.load(tmp_path / "s.npy")[:, [0, 2]] > 0).all()
    capsys.readouterr()
    for words, message in (
        ("size", "'size'.* is no data column"),
        ("none", "has no column 'none'"),
        ("mag", "must lie within"),
    ):
        assert run(*chosen, "--positive", words) == 1
        assert re.search(message, capsys.readouterr().err)


SAID = ("--interval", "w", "-1e-3", "none", "--periodic", "z", "-180", "180", "--simplex", "0,size")
GIVEN = ("--context-positive", "load", "--context-interval", "part", "0", "1", "--context-periodic", "hour", "0", "24")


def test_fit_knows_supports_of_columns_and_of_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    u = np.random.default_rng(4).uniform(0.01, 0.49, (300, 7))
    names = ["mag", "z", "size", "w", "hour", "load", "part"]
    data = write(tmp_path / "x.csv", u, names)
    chosen = ("fit", data, "-o", tmp_path / "p", "--context-columns", "hour,load,part", *SMALL)
    assert run(*chosen, *SAID, *GIVEN) == 0
    spec = ps.load(tmp_path / "p").spec
    simplex = ps.simplex([0, 2])
    assert spec.support == (simplex, ps.periodic(-180, 180), simplex, ps.interval(-1e-3, None))
    assert spec.context_support == (ps.periodic(0, 24), ps.interval(0, None), ps.interval(0, 1))
    capsys.readouterr()
    assert run("info", tmp_path / "p") == 0
    told = capsys.readouterr().out
    assert re.search("support .*z periodic over .*w above -0.001", told)
    assert re.search("given in .*hour periodic over .*load positive .*part within", told)
    draws = ("sample", tmp_path / "p", "-n", "3", "-o", tmp_path / "s.csv")
    assert run(*draws, "--context", "25,1,0.5") == 0
    assert run(*draws, "--context", "1,-2,0.5") == 1
    contexts = write(tmp_path / "c.csv", np.array([[1, 1, 0.5], [1, 1, 1.5]]), names[4:])
    assert run(*draws, "--context", contexts) == 1
    told = capsys.readouterr().err
    for message in ("row 0, column 'load', which is positive, holds -2.0", "row 1, column 'part', .* holds 1.5"):
        assert re.search(f"--context must lie within .*{message}", told)


WRONG_SUPPORTS = [
    ("--interval w 0 much", "--interval: HI of column 'w' must be a number or none, got 'much'"),
    ("--periodic w none 1", "--periodic: LO of column 'w' must be a number, got 'none'"),
    ("--interval w 2 -1", "--interval w 2 -1: .*lo.*hi"),
    ("--interval w none none", "--interval w none none: an interval without ends"),
    ("--positive w --interval w 0 1", "--interval names column 'w' that --positive names, too"),
    ("--periodic w 0 1 --periodic 3 0 1", "--periodic names column 'w' twice"),
    ("--ordered mag,w --simplex w,z", "--simplex names column 'w' that --ordered names, too"),
    ("--ordered mag", "--ordered mag: a group needs two columns or more"),
    ("--interval size 0 1", "--interval: column 'size' is no data column"),
    ("--context-interval z 0 1", "--context-interval: column 'z' is no context column"),
    ("--context-periodic none 0 1", "has no column 'none'"),
    ("--interval w 0 1", "X must lie within .*column 'w', which is within .0, 1., holds"),
    ("--context-interval size 0 1", "context must lie within .*column 'size', which is within .0, 1., holds"),
]


@pytest.mark.parametrize(("words", "message"), WRONG_SUPPORTS)
def test_a_wrong_support_is_an_error_that_names_option_column_and_value(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    assert run("fit", data, "-o", tmp_path / "p", "--context-columns", "size", *words.split(), *SMALL) == 1
    assert re.search(message, capsys.readouterr().err)


def names_of(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names in a model file."""
    flow = ps.load(path)
    return flow._columns, flow._context_columns


# -- fit ----------------------------------------------------------------------------------------


def test_fit_keeps_the_names_of_the_header(model: Path, conditional: Path, tmp_path: Path) -> None:
    assert names_of(model) == (("mag", "z"), ())
    assert names_of(conditional) == (("z",), ("mag", "size"))
    kept = tmp_path / "checkpoint"
    assert run("fit", tmp_path / "x.csv", "-o", tmp_path / "all", "--checkpoint", kept, "--weights", "w", *SMALL) in (
        0,
        1,
    )
    np.save(tmp_path / "x.npy", rows())
    assert run("fit", tmp_path / "x.npy", "-o", tmp_path / "n", *SMALL) == 0
    assert names_of(tmp_path / "n") == ((), ())


def test_info_tells_the_names(conditional: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", conditional) == 0
    told = capsys.readouterr().out.splitlines()
    assert "columns: z" in told
    assert "context columns: mag, size" in told


def test_two_chosen_columns_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.csv", rows(), ("a", "b", "a", "c"))
    assert run("fit", path, "-o", tmp_path / "m", *SMALL) == 1
    assert "two columns 'a'" in capsys.readouterr().err
    assert run("fit", path, "-o", tmp_path / "m", "--columns", "0,1", *SMALL) == 0
    assert names_of(tmp_path / "m") == (("a", "b"), ())


@pytest.mark.filterwarnings("default")
def test_an_index_column_is_left_out_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "x.csv", rows(), ("", "a", "b", "c"))
    assert run("fit", path, "-o", tmp_path / "m", *SMALL) == 0
    assert "column 0 has no name" in capsys.readouterr().err
    assert names_of(tmp_path / "m") == (("a", "b", "c"), ())
    assert run("fit", path, "-o", tmp_path / "m", "--columns", "0,1", *SMALL) == 0
    assert capsys.readouterr().err == ""
    assert len(names_of(tmp_path / "m")[0]) == 2


def test_fit_drops_rows_with_missing_values_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = rows()
    x[[3, 7], 0] = np.nan
    x[5, 1] = 99
    path, out = write(tmp_path / "x.csv", x, NAMES), tmp_path / "m"
    assert run("fit", path, "-o", out, *SMALL) == 1
    assert "line 5, column 'mag': is NaN; --missing nan" in capsys.readouterr().err
    assert run("fit", path, "-o", out, *SMALL[:-1], "--missing", "99") == 0
    told = capsys.readouterr().out
    assert "297 rows, 4 columns" in told
    assert "3 rows with missing values left out" in told
    kept = np.delete(x, [3, 5, 7], axis=0)
    expected = ps.nsf_ar(4, layers=2, hidden=8, rng=0).fit(kept, epochs=1, rng=0)
    assert_same_bits(ps.load(out).params, expected.params)


# -- score --------------------------------------------------------------------------------------


def scored(model: Path, path: Path, *words: str) -> Array:
    """The log-densities that score writes."""
    assert run("score", model, path, "-o", path.with_name("p.npy"), *words) == 0
    return np.load(path.with_name("p.npy"))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0), (2, 1, 0)])
@pytest.mark.parametrize("name", ["y.csv", "y.tsv", "y.parquet"])
def test_score_finds_columns_by_their_names_in_any_order(
    order: tuple[int, ...],
    name: str,
    model: Path,
    conditional: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    x = rows()
    names = [NAMES[i] for i in order]
    path = tmp_path / name
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        importlib.import_module("pyarrow.parquet").write_table(arrow.table({NAMES[i]: x[:, i] for i in order}), path)
    else:
        write(path, x[:, order], names)
    capsys.readouterr()
    assert_same_bits(scored(model, path), ps.load(model).log_prob(x[:, :2]))
    first = capsys.readouterr().out
    assert_same_bits(scored(model, tmp_path / "x.csv"), ps.load(model).log_prob(x[:, :2]))
    assert capsys.readouterr().out == first
    if 2 in order:
        expected = ps.load(conditional).log_prob(x[:, [1]], x[:, [0, 2]])
        assert_same_bits(scored(conditional, path), expected)
        for words in (("--context-columns", "size,mag"), ("--context-columns", "mag,size", "--columns", "z")):
            assert_same_bits(scored(conditional, path, *words), expected)


@pytest.mark.parametrize(
    ("names", "words", "message"),
    [
        (("mag", "Z", "a", "b"), (), "has no column 'z', which the flow in"),
        (("mag", "z", "z", "b"), (), "has 2 columns 'z'; --columns says"),
        (NAMES, ("--columns", "mag,none"), "--columns: .* has no column 'none'"),
        (NAMES, ("--columns", "z,w"), "--columns: 'z' is number 1 .*, but number 0 here"),
        (NAMES, ("--columns", "mag"), "--columns names 1 column, but the flow"),
        (NAMES, ("--columns", "mag,mag"), "twice"),
    ],
)
def test_columns_that_do_not_match_are_named(
    names: tuple[str, ...],
    words: tuple[str, ...],
    message: str,
    model: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run("score", model, write(tmp_path / "y.csv", rows(), names), *words) == 1
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(error)


@pytest.mark.filterwarnings("default")
def test_columns_may_stand_for_those_of_the_flow(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = rows()
    flow = ps.load(model)
    path = write(tmp_path / "y.csv", x, ("a", "b", "z", "c"))
    assert_same_bits(scored(model, path, "--columns", "b,a"), flow.log_prob(x[:, [1, 0]]))
    assert_same_bits(scored(model, path, "--columns", "a,z"), flow.log_prob(x[:, [0, 2]]))
    # Without names in one of the two, columns go by position, aloud.
    assert_same_bits(scored(model, write(tmp_path / "n.csv", x[:, :2])), flow.log_prob(x[:, :2]))
    assert "n.csv has no names: columns are taken by their position" in capsys.readouterr().err
    np.save(tmp_path / "n.npy", x)
    assert_same_bits(scored(model, tmp_path / "n.npy", "--columns", "3,0"), flow.log_prob(x[:, [3, 0]]))


@pytest.mark.filterwarnings("default")
def test_names_that_are_numbers_are_matched_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = rows()
    path = write(tmp_path / "x.csv", x, ("0", "1", "2", "3"))
    assert run("fit", path, "-o", tmp_path / "m", "--columns", "3,1", *SMALL) == 0
    assert "0,1,2,3, was taken for names; --header no" in capsys.readouterr().err
    assert names_of(tmp_path / "m") == (("3", "1"), ())
    expected = ps.load(tmp_path / "m").log_prob(x[:, [3, 1]])
    assert_same_bits(scored(tmp_path / "m", path), expected)
    # No row of this file tells that its first line is a header, but the names do.
    assert_same_bits(scored(tmp_path / "m", write(tmp_path / "y.csv", x[:, [1, 3]], ("1", "3"))), expected)


def test_score_keeps_rows_with_missing_values_in_place(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = rows()
    x[4, 0], x[6, 1] = 99, np.nan
    path = write(tmp_path / "y.csv", x, NAMES)
    expected = ps.load(model).log_prob(np.where(x == 99, np.nan, x)[:, :2])
    assert_same_bits(scored(model, path, "--missing", "99"), expected)
    told = capsys.readouterr().out.splitlines()
    assert told[:3] == [
        "rows: 300",
        "rows with missing values: 2",
        "rows with log-density NaN: 2, left out of the mean",
    ]
    path.write_text(path.read_text() + ",1,2,3\n")
    assert run("score", model, path) == 1
    assert "line 302, column 'mag': is blank; --missing" in capsys.readouterr().err


# -- sample -------------------------------------------------------------------------------------


def test_sample_writes_the_names(model: Path, tmp_path: Path) -> None:
    for name in ("s.csv", "s.tsv"):
        assert run("sample", model, "-n", "5", "-o", tmp_path / name, "--seed", "0", "--log-prob") == 0
        table = read_table(str(tmp_path / name))
        assert table.names == ("mag", "z", "log_prob")
        x, log_prob = ps.load(model).sample_and_log_prob(5, rng=0)
        assert_same_bits(table.array([0, 1, 2]).astype(np.float32), np.column_stack([x, log_prob]))
    assert (tmp_path / "s.tsv").read_text().count("\t") == 12


def test_a_context_table_is_matched_by_names(conditional: Path, tmp_path: Path) -> None:
    x, flow = rows(4), ps.load(conditional)
    expected = flow.sample(3, x[:, [0, 2]], rng=0).reshape(-1, 1)
    for name, order in (("one.csv", (0, 1, 2, 3)), ("two.csv", (3, 2, 0)), ("three.csv", (2, 0))):
        path = write(tmp_path / name, x[:, order], [NAMES[i] for i in order])
        out = tmp_path / "s.csv"
        assert run("sample", conditional, "-n", "3", "-o", out, "--seed", "0", "--context", path, "-q") == 0
        table = read_table(str(out))
        assert table.names == ("row", "z")
        assert_same_bits(table.array([0])[:, 0], np.repeat(np.arange(4.0), 3))
        assert_same_bits(table.array([1]).astype(np.float32), expected)
        # An array holds the draws alone.
        assert (
            run("sample", conditional, "-n", "3", "-o", tmp_path / "s.npy", "--seed", "0", "--context", path, "-q") == 0
        )
        assert_same_bits(np.load(tmp_path / "s.npy"), expected)
    path = write(tmp_path / "other.csv", x, ("a", "b", "c", "d"))
    words = ("sample", conditional, "-n", "3", "-o", out, "--seed", "0", "--context", path, "-q")
    assert run(*words) == 1
    assert run(*words, "--context-columns", "a,c") == 0
    assert_same_bits(read_table(str(out)).array([1]).astype(np.float32), expected)


def test_the_context_is_kept_on_demand(conditional: Path, tmp_path: Path) -> None:
    x, out = rows(3), tmp_path / "s.csv"
    path = write(tmp_path / "y.csv", x, NAMES)
    words = ("sample", conditional, "-n", "2", "-o", out, "--seed", "0", "-q", "--keep-context", "--log-prob")
    assert run(*words, "--context", path, "--no-row-ids") == 0
    table = read_table(str(out))
    assert table.names == ("z", "mag", "size", "log_prob")
    assert_same_bits(table.array([1, 2]), np.repeat(x[:, [0, 2]], 2, axis=0))
    # What was written can be judged as it is.
    draws, log_prob = ps.load(conditional).sample_and_log_prob(2, x[:, [0, 2]], rng=0)
    as_read = np.array([[float(str(value))] for value in draws.reshape(-1)])
    assert_same_bits(
        scored(conditional, out), ps.load(conditional).log_prob(as_read, np.repeat(x[:, [0, 2]], 2, axis=0))
    )
    assert_same_bits(table.array([3])[:, 0].astype(np.float32), log_prob.reshape(-1))
    assert run(*words, "--context", "0.5,1.5") == 0
    assert read_table(str(out)).names == ("z", "mag", "size", "log_prob")
    assert run(*words, "--context", "0.5,1.5", "--row-ids") == 1


def test_a_context_with_missing_values_gets_no_draws_and_changes_no_others(
    conditional: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, out = rows(5), tmp_path / "s.csv"
    words = ("sample", conditional, "-n", "2", "-o", out, "--seed", "0", "--context", tmp_path / "y.csv")
    write(tmp_path / "y.csv", x, NAMES)
    assert run(*words) == 0
    whole = read_table(str(out)).array([0, 1])
    x[2, 0], x[3, 2] = np.nan, -99
    write(tmp_path / "y.csv", x, NAMES)
    capsys.readouterr()
    assert run(*words) == 1
    assert "line 4, column 'mag': is NaN" in capsys.readouterr().err
    assert run(*words, "--missing=-99") == 0
    assert_same_bits(read_table(str(out)).array([0, 1]), np.delete(whole, slice(4, 8), axis=0))
    told = capsys.readouterr().out
    assert "2 rows with missing values left out" in told
    assert "6 rows, 2 columns" in told


def test_further_columns_find_names_of_their_own(tmp_path: Path) -> None:
    x = rows()
    path = write(tmp_path / "x.csv", x, ("row", "log_prob", "x", "y"))
    words = ("--columns", "row,log_prob", "--context-columns", "x")
    assert run("fit", path, "-o", tmp_path / "m", *words, *SMALL) == 0
    words = ("--context", path, "--keep-context", "--log-prob")
    assert run("sample", tmp_path / "m", "-n", "1", "-o", tmp_path / "s.csv", "-q", *words) == 0
    assert read_table(str(tmp_path / "s.csv")).names == ("row_", "row", "log_prob", "x", "log_prob_")
    assert_same_bits(scored(tmp_path / "m", path), ps.load(tmp_path / "m").log_prob(x[:, :2], x[:, [2]]))


# -- writing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_digits_are_the_shortest_that_read_back(dtype: str) -> None:
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype)
    special = [
        0.0,
        -0.0,
        1,
        10,
        1e15,
        1e16,
        1e22,
        123456,
        0.1,
        1e-4,
        1e-5,
        9.5e-5,
        np.nan,
        np.inf,
        -np.inf,
        1e-30,
        2**24,
    ]
    info = np.finfo(kind)
    edges = [info.max, info.tiny, info.smallest_subnormal, 3 * info.smallest_subnormal]
    with np.errstate(all="ignore"):
        x = np.concatenate(
            [
                np.array([*special, *edges], dtype=kind),
                np.frombuffer(rng.bytes(20_000 * kind.itemsize), dtype=kind),
                rng.normal(size=20_000).astype(kind),
                np.round(rng.normal(size=5000), 3).astype(kind),
                np.exp2(np.arange(info.minexp - info.nmant, info.maxexp)).astype(kind),
            ]
        )
    words = digits.lines([x[:, None]]).decode().split("\n")[:-1]
    if dtype == "float64":
        assert words == [repr(value) for value in x.tolist()]
        return
    back = np.array([float(word) for word in words])
    assert_same_bits(back[~np.isnan(x)].astype(kind), x[~np.isnan(x)])
    for word, value in zip(words, x, strict=True):
        # The double of these digits is written as Python does, and NumPy finds no fewer.
        assert word == repr(float(word))
        assert not np.isfinite(value) or float(word) == float(str(value))


def test_blocks_of_several_types_stand_beside_each_other() -> None:
    blocks = [
        np.array([[0], [1 << 60], [-3]]),
        np.array([[0.1, 2], [-1e-7, 1e20], [np.nan, 1]], dtype=np.float32),
        np.array([[0.1], [np.inf], [1e300]]),
    ]
    expected = f"0;0.1;2.0;0.1\n{1 << 60};-1e-07;1e+20;inf\n-3;nan;1.0;1e+300\n"
    assert digits.lines(blocks, b";").decode() == expected
    assert digits.lines([np.zeros((0, 2))]) == b""
    many = np.arange(20_001.0).reshape(-1, 3)
    assert digits.lines([many]).decode() == "".join(f"{a!r},{b!r},{c!r}\n" for a, b, c in many.tolist())


@pytest.mark.parametrize("name", ["s.parquet", "s.h5", "s.hdf5", "s.fits"])
def test_typed_tables_are_written_and_read_back(name: str, conditional: Path, tmp_path: Path) -> None:
    pytest.importorskip({"p": "pyarrow", "h": "h5py", "f": "astropy"}[name.split(".")[1][0]])
    x = rows(6000)
    path = write(tmp_path / "y.csv", x, NAMES)
    words = ("--context", path, "--keep-context", "--log-prob", "--seed", "0", "-q")
    assert run("sample", conditional, "-n", "3", "-o", tmp_path / name, *words) == 0
    draws, log_prob = ps.load(conditional).sample_and_log_prob(3, x[:, [0, 2]], rng=0)
    table = read_table(str(tmp_path / name))
    assert table.names == ("row", "z", "mag", "size", "log_prob")
    assert_same_bits(table.array([0])[:, 0], np.repeat(np.arange(6000.0), 3))
    assert_same_bits(table.array([1]), draws.reshape(-1, 1))
    assert_same_bits(table.array([2, 3]), np.repeat(x[:, [0, 2]], 3, axis=0))
    assert_same_bits(table.array([4])[:, 0], log_prob.reshape(-1))
    assert_same_bits(
        scored(conditional, tmp_path / name),
        ps.load(conditional).log_prob(draws.reshape(-1, 1), np.repeat(x[:, [0, 2]], 3, axis=0)),
    )
    # None at all, and a file that is replaced.
    assert run("sample", conditional, "-n", "0", "-o", tmp_path / name, *words) == 0
    assert read_table(str(tmp_path / name)).array([1]).shape == (0, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c", "p.npy", name, "x.csv", "y.csv"]


def test_other_libraries_read_what_is_written(model: Path, tmp_path: Path) -> None:
    module = pytest.importorskip("astropy.io.fits")
    assert run("sample", model, "-n", "10", "-o", tmp_path / "s.fits", "--seed", "0", "-q") == 0
    with module.open(tmp_path / "s.fits") as file:
        file.verify("exception")
        assert file[1].name == "SAMPLES"
        assert_same_bits(np.array(file[1].data["z"], dtype=np.float32), ps.load(model).sample(10, rng=0)[:, 1])
    assert (tmp_path / "s.fits").stat().st_size % 2880 == 0


def test_names_with_anything_in_them_come_back(tmp_path: Path) -> None:
    names = ("# a", 'b,"c"', "ä\tß", "d e")
    path = tmp_path / "x.csv"
    quoted = ",".join('"' + name.replace('"', '""') + '"' for name in names)
    path.write_bytes(quoted.encode() + b"\n" + digits.lines([rows()]))
    assert run("fit", path, "-o", tmp_path / "m", *SMALL) == 0
    assert names_of(tmp_path / "m") == (names, ())
    for name in ("s.csv", "s.tsv"):
        assert run("sample", tmp_path / "m", "-n", "9", "-o", tmp_path / name, "-q") == 0
        assert read_table(str(tmp_path / name)).names == names
        assert len(scored(tmp_path / "m", tmp_path / name)) == 9


def test_a_package_that_is_missing_stops_before_any_work(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def missing(name: str, *rest: Any) -> Any:
        if name.split(".")[0] in ("pyarrow", "h5py"):
            raise ModuleNotFoundError(name=name.split(".")[0])
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert run("sample", model, "-n", "9", "-o", tmp_path / "s.parquet") == 1
    assert run("score", model, tmp_path / "none.csv", "-o", tmp_path / "p.h5") == 1
    error = capsys.readouterr().err
    assert "pyarrow is not installed" in error
    assert "h5py is not installed" in error


def test_a_model_never_takes_the_place_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = rows()
    data, precious = write(tmp_path / "x.csv", x, ("a", "b", "c", "z")), write(tmp_path / "precious.csv", x)
    before = precious.read_bytes()
    assert main(["fit", str(data), "-o", str(precious), "--epochs", "1"]) == 1
    assert "is the name of a table" in capsys.readouterr().err
    other = tmp_path / "notes"
    other.write_text("a text of somebody's")
    assert main(["fit", str(data), "-o", str(other), "--epochs", "1"]) == 1
    assert "no model of penstock stands there" in capsys.readouterr().err
    flow = ps.nsf(2, rng=0)
    for path in (precious, other):
        with pytest.raises(ps.FileFormatError, match="would be lost"):
            flow.save(path)
    assert (precious.read_bytes(), other.read_text()) == (before, "a text of somebody's")
    flow.save(tmp_path / "m")
    flow.save(tmp_path / "m")


@pytest.mark.filterwarnings("default")
def test_a_table_or_a_flow_without_names_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = rows()
    flow = ps.nsf(3, layers=2, hidden=8, rng=0).fit(x[:, :3], epochs=1, rng=0)
    flow.save(tmp_path / "m")
    assert main(["score", str(tmp_path / "m"), str(write(tmp_path / "x.csv", x[:, :3], ("a", "b", "c")))]) == 0
    assert "m has no names: columns are taken by their position" in capsys.readouterr().err
    given = ps.nsf(1, context_dim=2, layers=2, hidden=8, rng=0).fit(x[:, :1], x[:, 1:3], epochs=1, rng=0)
    given.columns, given.context_columns = ["a"], ["b", "c"]
    given.save(tmp_path / "g")
    assert main(["score", str(tmp_path / "g"), str(write(tmp_path / "y.csv", x[:, :3]))]) == 1
    assert re.search("context of 2, and .*y.csv has no names .*--context-columns", capsys.readouterr().err)


def test_a_wrong_option_is_told_with_the_usage_of_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    for words, close in ((["--epoch", "3"], "--epochs"), (["--learning_rate", "3"], "--learning-rate")):
        with pytest.raises(SystemExit) as caught:
            main(["fit", "x.csv", "-o", "m", *words])
        assert caught.value.code == 2
        err = capsys.readouterr().err
        assert "usage: penstock fit" in err
        assert f"unrecognized arguments: {' '.join(words)} (is it {close}?)" in err


def test_jobs_share_a_sample_by_the_number_of_its_first_draw(model: Path, tmp_path: Path) -> None:
    for first, n in ((0, 7), (7, 5)):
        out = tmp_path / f"{first}.npy"
        words = ["-n", str(n), "--seed", "3", "--first", str(first), "-o", str(out), "-q"]
        assert main(["sample", str(model), *words]) == 0
    parts = np.concatenate([np.load(tmp_path / "0.npy"), np.load(tmp_path / "7.npy")])
    assert_same_bits(parts, ps.load(model).sample(12, rng=3))
    assert main(["sample", str(model), "-n", "2", "--first", "1", "-o", str(tmp_path / "x.npy")]) == 1


def test_info_tells_of_a_training_that_has_not_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flow, path = ps.nsf_ar(2, layers=2, hidden=8, rng=0), tmp_path / "m"

    def stop(state: ps.TrainingState) -> None:
        if state.epoch == 2:
            raise KeyError

    with pytest.raises(KeyError):
        flow.fit(rows()[:, :2], epochs=5, rng=0, checkpoint=path, callbacks=stop)
    assert main(["info", str(path)]) == 0
    out = capsys.readouterr().out
    assert "training: not ended, in epoch 2 of 5" in out
    assert f"{flow.n_free} parameters ({flow.n_params - flow.n_free} more" in out
    flow.fit(rows()[:, :2], epochs=5, rng=0, checkpoint=path)
    assert main(["info", str(path)]) == 0
    assert "not ended" not in capsys.readouterr().out


# -- what fit was told of missing values ----------------------------------------------------------


def test_what_stands_for_no_value_is_kept_with_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = rows()
    x[5, 1], x[9, 0] = 99, -999
    path, out = write(tmp_path / "x.csv", x, NAMES), tmp_path / "m"
    text = path.read_text().replace("-999.0", "no data")
    path.write_text(text)
    words = ("fit", path, "-o", out, "--columns", "mag,z", *SMALL[:-1])
    assert run(*words, "--missing", "99,no data", "--checkpoint", tmp_path / "k") == 0
    assert out.read_bytes() == (tmp_path / "k").read_bytes()
    flow = ps.load(out)
    for twin in (
        flow,
        ps.from_bytes(flow.to_bytes()),
        pickle.loads(pickle.dumps(flow)),
        flow.copy(),
        flow.astype("float64"),
    ):
        twin.save(tmp_path / "again")
        assert ps.load(tmp_path / "again")._missing == ("99", "no data")
    kept = np.delete(np.arange(300), [5, 9])
    capsys.readouterr()
    log_prob = scored(out, path)
    assert_same_bits(log_prob[kept], flow.log_prob(x[kept, :2]))
    assert np.isnan(log_prob[[5, 9]]).all()
    told = capsys.readouterr().out.splitlines()
    assert "rows with missing values: 2 (--missing=99,no data, as in the fit)" in told
    mean = float(told[3].removeprefix("mean log-density: "))
    assert abs(mean - flow.score(x[kept, :2])) < 1e-6
    # An option of its own is the last word, an empty one too.
    assert run("score", out, path, "--missing", "98,no data") == 0
    assert "rows with missing values: 1" in capsys.readouterr().out.splitlines()
    path.write_text(text.replace("no data", ""))
    assert_same_bits(scored(out, path, "--missing=")[5:6], flow.log_prob(x[5:6, :2]))
    assert run("info", out) == 0
    assert "missing values, as --missing of the fit said: 99, no data;" in capsys.readouterr().out
    flow.reset(0).save(tmp_path / "reset")
    assert ps.load(tmp_path / "reset")._missing is None


def test_a_fit_may_drop_rows_with_blank_cells_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = write(tmp_path / "x.csv", rows(), NAMES).read_text().splitlines()
    lines[5] = ",1,2,3"
    (tmp_path / "x.csv").write_text("\n".join(lines))
    assert run("fit", tmp_path / "x.csv", "-o", tmp_path / "m", "--columns", "mag,z", *SMALL, "--missing=") == 0
    assert ps.load(tmp_path / "m")._missing == ()
    capsys.readouterr()
    assert run("score", tmp_path / "m", tmp_path / "x.csv") == 0
    assert "rows with missing values: 1 (--missing=, as in the fit)" in capsys.readouterr().out.splitlines()
    assert run("info", tmp_path / "m") == 0
    assert "blank cells and NaN alone" in capsys.readouterr().out


def test_a_fit_that_was_told_nothing_leaves_its_model_as_it_was(model: Path, tmp_path: Path) -> None:
    assert b"missing" not in model.read_bytes()
    x = rows()
    x[5, 1] = 99
    path = write(tmp_path / "y.csv", x, NAMES)
    assert np.isfinite(scored(model, path)).all()


def test_contexts_with_what_stands_for_no_value_get_no_draws(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, out = rows(), tmp_path / "s.csv"
    x[5, 0] = 99
    path = write(tmp_path / "x.csv", x, NAMES)
    words = ("--columns", "z", "--context-columns", "mag,size", *SMALL)
    assert run("fit", path, "-o", tmp_path / "c", *words, "--missing", "99") == 0
    few = write(tmp_path / "y.csv", x[4:7], NAMES)
    capsys.readouterr()
    sample = ("sample", tmp_path / "c", "-n", "2", "-o", out, "--seed", "0", "--context", few)
    assert run(*sample) == 0
    assert "1 row with missing values left out (--missing=99, as in the fit)" in capsys.readouterr().out
    assert_same_bits(read_table(str(out)).array([0])[:, 0], np.array([0.0, 0.0, 2.0, 2.0]))
    assert run(*sample, "--missing=") == 0
    assert len(read_table(str(out)).array([0])) == 6


@pytest.mark.parametrize("missing", ['"99"', '{"99":1}', "[99]", "[[]]"])
def test_a_list_of_missing_values_that_is_none_is_refused(missing: str, model: Path) -> None:
    flow = ps.load(model)
    flow._missing = ("99",)
    with pytest.raises(ps.FileFormatError, match="missing of the provenance must be a list of strings"):
        ps.from_bytes(with_provenance(flow.to_bytes(), missing))


def with_provenance(data: bytes, missing: str) -> bytes:
    """The bytes of a model with something else in the place of its list of missing values."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    told = json.loads(header["__metadata__"]["provenance"])
    header["__metadata__"]["provenance"] = json.dumps({**told, "missing": json.loads(missing)})
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    whole = len(text).to_bytes(8, "little") + text + data[8 + length :]
    return whole[:-32] + content_hash(whole)


# -- weights in score -----------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1e-99, 1.0, 2.0**1000])
@pytest.mark.parametrize("name", ["y.csv", "y.npy", "y.tsv"])
def test_score_weighs_rows_as_the_library_does(
    unit: float,
    name: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tables, "CHUNK", 50)  # chunks of a tile's rows would hold them all
    monkeypatch.setattr(tables, "chunk_rows", lambda columns: 64)
    x = rows()
    weight = 10.0 ** np.random.default_rng(2).uniform(-50, 0, 300) * unit
    weight[[3, 200]] = 0, -0.01 * unit
    x[:, 3], x[3, 0], x[7, 0] = weight, np.inf, np.nan
    own = write(tmp_path / "w.csv", weight[:, None])
    path = tmp_path / name
    np.save(path, x) if name == "y.npy" else write(path, x, NAMES)
    flow, counts = ps.load(model), np.arange(300) != 7
    expected = flow.score(x[counts, :2], sample_weight=weight[counts])
    chosen = ("--columns", "0,1") if name == "y.npy" else ()
    for words in (("--weights", "3" if name == "y.npy" else "w"), ("--weights", own)):
        assert run("score", model, path, *chosen, *words) == 0
        told = capsys.readouterr().out.splitlines()
        mean = float(told[-1].removeprefix("mean log-density: "))
        assert abs(mean - expected) < 1e-6 * abs(expected)
        size = weight[counts].sum() / unit
        size = size**2 / ((weight[counts] / unit) ** 2).sum()
        assert f"worth {size:.6g} rows of equal weight" in told[-2]


def test_weights_of_score_that_are_none_are_named(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, message in (
        (("--weights", "mag"), "'mag' is a data column of the flow"),
        (("--weights", "none"), "no file and no column"),
        (("--weights", write(tmp_path / "few.csv", rows()[:299, :1])), "few.csv has 299 rows, and .*x.csv has more"),
        (("--weights", write(tmp_path / "many.csv", rows(301)[:, :1])), "has more rows than .*x.csv, which has 300"),
        (
            ("--weights", write(tmp_path / "minus.csv", -np.ones((300, 1)))),
            "sum of --weights must be positive, got -300",
        ),
        (
            ("--weights", write(tmp_path / "nan.csv", np.where(np.arange(300.0) == 8, np.nan, 1)[:, None])),
            "holds nan in row 8",
        ),
    ):
        assert run("score", model, data, *words) == 1
        assert re.search(message, capsys.readouterr().err), message
    # A value that is missing among the weights is a row with a missing value, as in fit.
    x = rows()
    x[:, 3], x[4, 3] = 2.0, 99
    path = write(tmp_path / "y.csv", x, NAMES)
    assert run("score", model, path, "--weights", "w", "--missing", "99") == 0
    told = capsys.readouterr().out.splitlines()
    assert "rows with missing values: 1" in told
    expected = ps.load(model).score(np.delete(x, 4, axis=0)[:, :2])
    assert abs(float(told[-1].removeprefix("mean log-density: ")) - expected) < 1e-6


def test_fit_takes_negative_weights_when_it_is_told_to(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = rows()
    x[:, 3] = np.where(np.arange(300) % 10 == 4, -0.5, 1)
    path = write(tmp_path / "y.csv", x, NAMES)
    words = ("fit", path, "-o", tmp_path / "m", "--columns", "mag,z", "--weights", "w", *SMALL)
    assert run(*words) == 1
    told = capsys.readouterr().err
    assert "30 of the 300 weights are negative, the first -0.5 in row 4" in told
    assert "--negative-weights on the command line" in told
    assert run(*words, "--negative-weights") == 0
    expected = ps.nsf_ar(2, layers=2, hidden=8, rng=0)
    expected.fit(x[:, :2], sample_weight=x[:, 3], negative_weights=True, epochs=1, rng=0)
    assert_same_bits(ps.load(tmp_path / "m").params, expected.params)
