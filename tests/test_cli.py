"""The command line: each verb does what the library does on the same rows, and a failure leaves nothing behind."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from helpers import HERE, assert_same_bits, python
from penstock.cli import main
from penstock.cli import tables as _tables
from penstock.cli.args import FIT_OPTIONS
from penstock.recipes import RECIPES

Array = np.ndarray[Any, Any]

SMALL = ("--epochs", "2", "--layers", "2", "--hidden", "8", "-q")
NAMES = ("a", "b", "c", "w")


def table(rows: int = 400) -> Array:
    """Three columns and a positive fourth, in float64."""
    x = np.random.default_rng(1).normal(size=(rows, 4))
    x[:, 3] = np.abs(x[:, 3]) + 0.1
    return x


def write(path: Path, x: Array, header: tuple[str, ...] = ()) -> Path:
    """A table in the format that the name of the file asks for."""
    if path.suffix == ".npy":
        np.save(path, x)
    elif path.suffix == ".npz":
        np.savez(path, rows=x)
    else:
        np.savetxt(path, x, "%.17g", delimiter=",", header=",".join(header), comments="")
        if not header:  # savetxt writes an empty line for an empty header
            path.write_text(path.read_text().lstrip("\n"))
    return path


def read(path: Path) -> Array:
    """The numbers of a table that the command line wrote."""
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return archive[archive.files[0]]
    return np.loadtxt(path, delimiter=",", skiprows=1).astype(np.float32)


def run(*words: str | Path) -> int:
    """The exit code of a command line in this process."""
    return main([str(word) for word in words])


def fitted(x: Array, weight: Array | None = None, names: Sequence[str] = ()) -> ps.Flow:
    """What the library makes of the options ``SMALL``, with the names of columns that the command line gives."""
    return named(ps.nsf_ar(x.shape[1], layers=2, hidden=8, rng=0).fit(x, sample_weight=weight, epochs=2, rng=0), names)


def named(flow: ps.Flow, columns: Sequence[str], context: Sequence[str] = ()) -> ps.Flow:
    """The flow, with names."""
    flow._columns, flow._context_columns = tuple(columns), tuple(context)
    return flow


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The file of a small flow of three dimensions."""
    path = tmp_path / "model.safetensors"
    fitted(table()[:, :3]).save(path)
    return path


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 4096 rows, so that ten thousand need several."""
    monkeypatch.setattr(_tables, "CHUNK", 1)


# -- fit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv"])
def test_fit_gives_what_the_library_gives_on_the_same_rows(name: str, tmp_path: Path) -> None:
    x = table()
    out = tmp_path / "flow.safetensors"
    assert run("fit", write(tmp_path / name, x), "-o", out, *SMALL) == 0
    assert out.read_bytes() == fitted(x).to_bytes()


def test_fit_does_not_depend_on_how_an_array_lies_in_its_file(tmp_path: Path) -> None:
    x = table()
    for order in "CF":
        data = write(tmp_path / f"{order}.npy", np.array(x, order=order))
        assert run("fit", data, "-o", tmp_path / order, *SMALL) == 0
        assert (tmp_path / order).read_bytes() == fitted(x).to_bytes()


def test_fit_tells_rows_flow_score_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "flow.safetensors"
    assert run("fit", write(tmp_path / "x.csv", table(), NAMES), "-o", out, *SMALL[:-1], "--weights", "w") == 0
    told = capsys.readouterr().out
    for words in ("400 rows, 3 columns (a, b, c)", "weights from w", "Flow of 3", "held-out score", str(out)):
        assert words in told
    assert run("fit", tmp_path / "x.csv", "-o", out, *SMALL) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("columns", [(2, 0), (0, 2), (1,), (0, 1, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv"])
def test_columns_are_chosen_by_index_and_in_a_csv_file_by_name(
    name: str, columns: tuple[int, ...], tmp_path: Path
) -> None:
    x = table()
    opened = _tables.read_table(str(write(tmp_path / name, x, NAMES)))
    assert_same_bits(opened.array(columns), x[:, list(columns)])
    assert [opened.index(str(i), option="--columns") for i in columns] == list(columns)
    for i in columns if name.endswith(".csv") else ():
        assert opened.index(NAMES[i], option="--columns") == i


def test_a_column_whose_name_stands_twice_is_chosen_by_index(tmp_path: Path) -> None:
    opened = _tables.read_table(str(write(tmp_path / "x.csv", table(), ("a", "b", "a", "d"))))
    with pytest.raises(ValueError, match="2 columns 'a'; give an index"):
        opened.index("a", option="--columns")
    assert opened.index("2", option="--columns") == 2


def test_fit_on_chosen_columns_is_fit_on_those_rows(tmp_path: Path) -> None:
    x = table()
    out = tmp_path / "flow.safetensors"
    for path, columns, names in (
        (write(tmp_path / "x.npy", x), "2,0", ()),
        (write(tmp_path / "x.csv", x, NAMES), "c,a", ("c", "a")),
    ):
        assert run("fit", path, "-o", out, *SMALL, "--columns", columns) == 0
        assert out.read_bytes() == fitted(x.take([2, 0], axis=1), names=names).to_bytes()


@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_column_of_weights_is_not_a_data_column(place: int, tmp_path: Path) -> None:
    x = np.roll(table(), place + 1, axis=1)
    rest = np.delete(x, place, axis=1)
    out = tmp_path / "flow.safetensors"
    names = tuple(map(str, np.roll(NAMES, place + 1)))
    weights = write(tmp_path / "weights.npy", x[:, place])
    for data, given, kept in (
        (write(tmp_path / "x.npy", x), str(place), ()),
        (write(tmp_path / "x.csv", x, names), "w", [name for name in names if name != "w"]),
        (write(tmp_path / "rest.npy", rest), str(weights), ()),
    ):
        assert run("fit", data, "-o", out, *SMALL, "--weights", given) == 0
        assert out.read_bytes() == fitted(rest, x[:, place], kept).to_bytes()


def test_a_mapped_file_stays_mapped_whatever_the_columns(tmp_path: Path) -> None:
    opened = _tables.read_table(str(write(tmp_path / "x.npy", table())))
    for columns in ([0, 1, 2, 3], [1, 2], [0, 2], [3], [2, 0], [0, 1, 3]):
        rows = opened.array(columns)
        assert isinstance(rows, np.memmap)
        assert_same_bits(np.asarray(rows), table()[:, columns])


def test_the_options_of_fit_reach_the_library(tmp_path: Path) -> None:
    x = table()[:, :3]
    out, kept = tmp_path / "flow.safetensors", tmp_path / "kept.safetensors"
    assert run(
        "fit", write(tmp_path / "x.npy", x), "-o", out, "--seed", "5", "-q",
        "--recipe", "nice", "--layers", "3", "--hidden", "8,4", "--activation", "silu", "--mixing", "reverse",
        "--dtype", "float64", "--epochs", "4", "--batch-size", "50", "--learning-rate", "2e-3", "--schedule", "plateau",
        "--warmup", "3", "--weight-decay", "0.1", "--clip-norm", "none", "--patience", "3", "--standardize", "robust",
        "--validation", "0.2", "--checkpoint", kept,
    ) == 0  # fmt: skip
    flow = ps.nice(3, layers=3, hidden=(8, 4), activation="silu", mixing="reverse", dtype="float64", rng=5)
    flow.fit(
        x, epochs=4, batch_size=50, learning_rate=2e-3, schedule="plateau", warmup=3, weight_decay=0.1, clip_norm=None,
        patience=3, standardize="robust", validation=0.2, rng=5,
    )  # fmt: skip
    assert out.read_bytes() == flow.to_bytes()
    assert_same_bits(ps.load(kept).params, flow.params)


def test_every_option_of_fit_and_every_recipe_is_on_the_command_line() -> None:
    # What is not a word or a number has no place there, three have options of another name, and a new flow has nothing that
    # one would want to freeze.
    elsewhere = {
        "self", "X", "context", "callbacks", "sample_weight", "rng", "progress", "freeze", "validation_context",
        "validation_weight", "resume", "negative_weights", "dequantize", "comm",
    }  # fmt: skip
    assert set(FIT_OPTIONS) == set(inspect.signature(ps.Flow.fit).parameters) - elsewhere
    exported = {name for name in ps.__all__ if getattr(getattr(ps, name), "__module__", "") == "penstock.recipes"}
    assert set(RECIPES) == exported
    assert all(RECIPES[name] is getattr(ps, name) for name in exported)


def test_threads_change_no_bit_and_stay_within_the_command(tmp_path: Path) -> None:
    data, before = write(tmp_path / "x.npy", table()), ps.num_threads()
    for n in ("1", "3"):
        assert run("fit", data, "-o", tmp_path / n, *SMALL, "--threads", n) == 0
    assert (tmp_path / "1").read_bytes() == (tmp_path / "3").read_bytes()
    assert ps.num_threads() == before


# -- sample -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["s.npy", "s.npz", "s.csv"])
@pytest.mark.usefixtures("small_chunks")
def test_sample_gives_the_draws_of_the_library(name: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    assert run("sample", model, "-n", "1e4", "-o", out, "--seed", "3") == 0
    rows, log_prob = ps.load(model).sample_and_log_prob(10_000, rng=3)
    assert_same_bits(read(out), rows)
    first = out.read_bytes()
    assert run("sample", model, "-n", "10000", "-o", out, "--seed", "3", "--threads", "1") == 0
    assert out.read_bytes() == first
    assert run("sample", model, "-n", "10000", "-o", out, "--seed", "3", "--log-prob") == 0
    assert_same_bits(read(out), np.column_stack([rows, log_prob]))


def test_a_sample_without_a_seed_tells_the_one_that_repeats_it(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sample", model, "-n", "10", "-o", tmp_path / "a.npy") == 0
    seed = capsys.readouterr().out.split("seed ")[1].split()[0]
    assert run("sample", model, "-n", "10", "-o", tmp_path / "b.npy", "--seed", seed) == 0
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()


def test_no_rows_can_be_drawn_and_scored(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "s.npy"
    assert run("sample", model, "-n", "0", "-o", out) == 0
    assert np.load(out).shape == (0, 3)
    assert run("score", model, out, "-o", tmp_path / "p.npy") == 0
    assert np.load(tmp_path / "p.npy").shape == (0,)
    assert "rows: 0" in capsys.readouterr().out


# -- score --------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", ["p.npy", "p.npz", "p.csv"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.csv"])
@pytest.mark.usefixtures("small_chunks")
def test_score_in_a_stream_is_log_prob_bit_for_bit(
    name: str, result: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = table(10_000)[:, :3]
    x[[5, 4096, 9999], 1] = np.nan
    expected = ps.load(model).log_prob(x)
    assert run("score", model, write(tmp_path / name, x), "-o", tmp_path / result) == 0
    assert_same_bits(read(tmp_path / result), expected)
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "rows: 10000"
    assert told[1].startswith("rows with log-density NaN: 3")
    mean = float(told[2].removeprefix("mean log-density: "))
    assert mean == pytest.approx(np.nanmean(expected.astype(np.float64)), rel=1e-12)
    assert run("score", model, tmp_path / name) == 0
    assert capsys.readouterr().out.splitlines() == told[:3]


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "<i4", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_score_reads_every_real_dtype_and_order(dtype: str, order: Any, model: Path, tmp_path: Path) -> None:
    x = np.array(np.abs(table()[:, :3]) * 3, dtype=dtype, order=order)
    assert run("score", model, write(tmp_path / "x.npy", x), "-o", tmp_path / "p.npy") == 0
    assert_same_bits(np.load(tmp_path / "p.npy"), ps.load(model).log_prob(x))


def test_score_of_chosen_columns(model: Path, tmp_path: Path) -> None:
    x = table()
    for path, columns in ((write(tmp_path / "x.npy", x), "3,0,1"), (write(tmp_path / "x.csv", x, NAMES), "w,a,b")):
        assert run("score", model, path, "-o", tmp_path / "p.npy", "--columns", columns) == 0
        assert_same_bits(np.load(tmp_path / "p.npy"), ps.load(model).log_prob(x[:, [3, 0, 1]]))


def test_a_wrong_number_of_columns_names_both(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "x.npy", table())
    assert run("score", model, data) == 1
    error = capsys.readouterr().err
    assert "has 4 columns" in error
    assert "has 3; choose with --columns" in error
    assert run("score", model, data, "--columns", "0,1") == 1
    assert "--columns names 2 columns" in capsys.readouterr().err


def test_an_array_of_an_archive_is_chosen_by_key(model: Path, tmp_path: Path) -> None:
    x = table()[:, :3]
    np.savez_compressed(tmp_path / "x.npz", one=x, two=2 * x)
    assert run("score", model, tmp_path / "x.npz") == 1
    assert run("score", model, tmp_path / "x.npz", "--key", "two", "-o", tmp_path / "p.npy") == 0
    assert_same_bits(np.load(tmp_path / "p.npy"), ps.load(model).log_prob(2 * x))


# -- what a .csv file may look like ------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "1,2\n3,4\n",
        "1,2\n3,4",
        "p,q\n1,2\n3,4\n",
        '"p","q"\r\n1,2\r\n3,4\r\n',
        "\ufeffp,q\n 1 , 2\n\n3,4e0\n\n",
        '"1","2"\n3,4\n',
    ],
)
def test_a_csv_file_may_have_a_header_blank_lines_and_quotes(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode())
    opened = _tables.read_table(str(path))
    assert opened.names in ((), ("p", "q"))
    assert_same_bits(opened.array([0, 1]), np.array([[1.0, 2.0], [3.0, 4.0]]))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("p,q\n1,2\n\n3,oops\n", "line 4, column 'q': 'oops' is not a number"),
        ("1,2\n3,\n", "line 2, column 1 (the first is 0): is blank; --missing nan drops such rows"),
        ("1,p\n3,4\n", "line 1, column 1 (the first is 0): 'p' is not a number"),
        ("1,2\n3,4,5\n", "line 2: expected 2 columns, as in the first line, got 3"),
        ("1,2\n1_0,4\n", "line 2, column 0 (the first is 0): '1_0' is not a number"),
        ("", "is empty"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_named_with_its_place(text: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        _tables.read_table(str(path)).array([0, 1])
    assert place in str(error.value)
    assert "x.csv" in str(error.value)


@pytest.mark.usefixtures("small_chunks")
def test_lines_are_counted_over_chunks(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", table(10_000), NAMES)
    lines = path.read_text().splitlines()
    lines[9000] = "1,2,x,4"
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match="line 9001, column 'c'"):
        _tables.read_table(str(path)).array([2, 0])
    assert len(_tables.read_table(str(path)).array([3, 0])) == 10_000


# -- streams ------------------------------------------------------------------------------------

COMMAND = "import sys; from penstock.cli import main; sys.exit(main(sys.argv[1:]))"


def shell(line: str, folder: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of a shell in a folder, where the function ``penstock`` is this command."""
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    command = f'penstock() {{ "{sys.executable}" -c "{COMMAND}" "$@"; }}\n{line}'
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **env},
        capture_output=True,
        timeout=120,
    )


needs_bash = pytest.mark.skipif(os.name != "posix" or not shutil.which("bash"), reason="needs bash")


@needs_bash
@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("penstock fit - -o m {} < x.csv", ()),
        ("penstock fit - -o m {} < x.csv", NAMES),
        ("cat x.csv | penstock fit - -o m {}", NAMES),
        ("cat x.csv | penstock fit /dev/stdin -o m {}", ()),
        ("penstock fit <(cat x.csv) -o m {}", NAMES),
        ("mkfifo pipe.csv; cat x.csv > pipe.csv & penstock fit pipe.csv -o m {}", NAMES),
        ("(printf '\n\n'; cat x.csv) | penstock fit - -o m {}", ()),
        ("(printf '\n\n'; cat x.csv) | penstock fit - -o m {}", NAMES),
    ],
)
def test_fit_reads_a_stream_once(line: str, header: tuple[str, ...], tmp_path: Path) -> None:
    x = table()
    write(tmp_path / "x.csv", x, header)
    done = shell(line.format(" ".join([*SMALL, "--columns", "2,0", "--weights", "3"])), tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    kept = [header[i] for i in (2, 0)] if header else []
    assert (tmp_path / "m").read_bytes() == fitted(x.take([2, 0], axis=1), x[:, 3], kept).to_bytes()


@needs_bash
def test_rows_go_through_sample_and_score_as_streams(model: Path, tmp_path: Path) -> None:
    done = shell(f"penstock sample {model} -n 5000 -o - --seed 3 | penstock score {model} - -o - > p.csv", tmp_path)
    assert done.returncode == 0
    x = ps.load(model).sample(5000, rng=3)
    as_read = np.array([[float(str(number)) for number in row] for row in x])
    assert_same_bits(read(tmp_path / "p.csv"), ps.load(model).log_prob(as_read))
    assert b"5000 rows, 3 columns, seed 3" in done.stderr
    assert b"rows: 5000" in done.stderr
    done = shell(f"mkfifo pipe; cat pipe > s.csv & penstock sample {model} -n 10 --seed 3 -o pipe -q; wait", tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert_same_bits(read(tmp_path / "s.csv"), x[:10])


@needs_bash
def test_what_a_stream_cannot_carry_is_said(model: Path, tmp_path: Path) -> None:
    for line, message in (
        (f"mkfifo a.npy; penstock score {model} a.npy", b"only lines of .csv can be read"),
        (f"mkfifo b.npy; penstock sample {model} -n 1 -o b.npy", b"can be written as .csv only"),
        (f"penstock score {model} - <&-", b"standard input"),
        (f"printf '' | penstock score {model} -", b"standard input is empty"),
        (f"printf '1,2,x' | penstock score {model} -", b"standard input, line 1, column 2"),
        ("mkfifo c; penstock fit - -o c < /dev/null", b"not an ordinary file"),
    ):
        done = shell(line, tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert done.stderr.count(b"\n") == 1


@needs_bash
@pytest.mark.parametrize(
    ("words", "closed"),
    [
        ("fit x.csv -o m --epochs 2 --hidden 8", "2>&-"),
        ("fit x.csv -o m --epochs 2 --hidden 8", "<&- >&- 2>&-"),
        ("sample model.safetensors -n 5 -o m.npy", ">&- 2>&-"),
        ("info", ">&-"),
        ("info", "<&- >&- 2>&-"),
    ],
)
def test_closed_standard_streams_are_no_error(words: str, closed: str, model: Path, tmp_path: Path) -> None:
    write(tmp_path / "x.csv", table())
    done = shell(f"penstock {words} {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, b"")
    assert words == "info" or any(path.name.startswith("m") for path in set(tmp_path.iterdir()) - {model})


@needs_bash
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-"])
def test_an_error_is_one_whatever_streams_are_closed(closed: str, model: Path, tmp_path: Path) -> None:
    assert shell(f"penstock score {model} missing.npy {closed}", tmp_path).returncode == 1


@needs_bash
def test_names_outside_of_the_encoding_are_written_as_escapes(tmp_path: Path) -> None:
    write(tmp_path / "x.csv", table(), ("ä", "b", "c", "d"))
    ascii_only = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    line = "penstock fit x.csv -o ж.safetensors --epochs 2 --hidden 8 --layers 2 --columns 0,1"
    done = shell(line, tmp_path, **ascii_only)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"written: " in done.stdout
    assert b"(\\xe4, b)" in done.stdout
    assert ps.load(tmp_path / "ж.safetensors").initialised
    done = shell("penstock info ы", tmp_path, **ascii_only)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


# -- errors -------------------------------------------------------------------------------------

BAD_DATA = {
    "missing.npy": None,
    "empty.npy": b"",
    "noise.npz": b"noise",
    "noise.npy": b"noise noise noise",
    "text.csv": b"a,b,c,d\n",
}


@pytest.mark.parametrize("name", list(BAD_DATA))
def test_unreadable_data_is_one_line_and_exit_code_1(
    name: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / name, tmp_path / "out.safetensors"
    if BAD_DATA[name] is not None:
        path.write_bytes(BAD_DATA[name])
    before = set(os.listdir(tmp_path))
    assert run("fit", path, "-o", out, *SMALL) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("penstock: ")
    assert said.err.count("\n") == 1
    assert set(os.listdir(tmp_path)) == before
    if name != "text.csv":
        assert name in said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--columns", "0,9"), "has no column '9'; it has 4 columns (0, 1, 2, 3)"),
        (("--columns", "1,1"), "twice"),
        (("--columns", "0,1", "--weights", "1"), "also one of --columns"),
        (("--weights", "w"), "no file and no column"),
        (("--weights", "none.npy"), "none.npy: No such file"),
        (("--key", "rows"), "--key"),
        (("-o", "nowhere/flow.safetensors"), "nowhere"),
        (("--patience", "3", "--schedule", "cosine"), "patience"),
        (("--learning-rate", "-1"), "learning_rate"),
    ],
)
def test_a_bad_option_is_named(
    words: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "x.npy", table())
    assert run("fit", data, "-o", tmp_path / "flow.safetensors", *SMALL, *words) == 1
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("fit",),
        ("fit", "x.doc", "-o", "m"),
        ("fit", "x.npy"),
        ("fit", "x.npy", "-o", "m", "--recipe", "none"),
        ("fit", "x.npy", "-o", "m", "--epochs", "0"),
        ("fit", "x.npy", "-o", "m", "--standardize", "maybe"),
        ("sample", "m", "-o", "s.npy"),
        ("sample", "m", "-n", "1.5", "-o", "s.npy"),
        ("score", "m", "x.npy", "-o", "p.txt"),
    ],
)
def test_wrong_usage_is_exit_code_2(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        run(*words)
    assert end.value.code == 2
    assert "usage: penstock" in capsys.readouterr().err


def test_the_output_is_never_the_input(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "x.npy", table()[:, :3])
    (tmp_path / "link.npy").symlink_to(data)
    before = data.read_bytes()
    assert run("score", model, data, "-o", tmp_path / "link.npy") == 1
    assert run("fit", data, "-o", data, *SMALL) == 1
    assert run("fit", data, "-o", tmp_path / "m", "--checkpoint", data, *SMALL) == 1
    assert capsys.readouterr().err.count("is also the input") == 3
    assert data.read_bytes() == before


def test_what_is_no_ordinary_file_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "x.npy", table())
    assert run("fit", data, "-o", os.devnull, *SMALL) == 1
    assert "not an ordinary file" in capsys.readouterr().err
    with pytest.raises(OSError, match="ordinary"):
        ps.realnvp(2).save(os.devnull)
    assert not os.path.isfile(os.devnull)


@pytest.mark.filterwarnings("default")
def test_a_warning_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        run("fit", write(tmp_path / "x.npy", table()[:, 0]), "-o", tmp_path / "m", "--recipe", "realnvp", *SMALL) == 0
    )
    said = capsys.readouterr().err
    assert said.startswith("penstock: warning: ")
    assert said.count("\n") == 1


@pytest.mark.filterwarnings("default")
def test_what_fit_warns_of_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = table()[:, :3] + [0, 1e6, 0]
    assert run("fit", write(tmp_path / "x.npy", x), "-o", tmp_path / "m", "--epochs", "1", "-q") == 0
    (far,) = capsys.readouterr().err.splitlines()
    assert re.match(r"penstock: warning: column 1 \(\d\.\d+e\+0\d\) of X lies", far)


# -- nothing half-written -----------------------------------------------------------------------


@pytest.mark.parametrize("result", ["p.npy", "p.npz", "p.csv"])
@pytest.mark.usefixtures("small_chunks")
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(result: str, model: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "x.csv", table(10_000)[:, :3])
    data.write_text(data.read_text() + "1,2,x\n")
    out = tmp_path / result
    out.write_text("the old one")
    before = sorted(os.listdir(tmp_path))
    assert run("score", model, data, "-o", out) == 1
    assert out.read_text() == "the old one"
    assert sorted(os.listdir(tmp_path)) == before


LIMITED = """if True:
    import resource, sys
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as a full disk does, it fails in the middle of a write
    from penstock.cli import main
    sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("result", ["s.npy", "s.npz", "s.csv", "s.tsv", "s.parquet", "s.h5", "s.fits"])
def test_a_full_disk_is_one_line_and_leaves_nothing(result: str, model: Path, tmp_path: Path) -> None:
    pytest.importorskip("resource")
    for suffix, package in ((".parquet", "pyarrow"), (".h5", "h5py"), (".fits", "astropy")):
        if result.endswith(suffix):
            pytest.importorskip(package)
    done = python(LIMITED, "sample", str(model), "-n", "10000", "-o", str(tmp_path / result), check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("penstock: cannot write")
    assert done.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == [model.name]


INTERRUPTIBLE = """if True:
    import signal, sys
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without
    from penstock.cli import main
    sys.exit(main(sys.argv[1:]))
"""


def written(folder: Path, process: int) -> bool:
    """Whether a process has written into a file of a folder, one without a name included."""
    sizes = []
    for path in folder.iterdir():
        with suppress(OSError):  # it may lose its name meanwhile
            sizes.append(path.stat().st_size)
    for link in Path(f"/proc/{process}/fd").glob("*") if sys.platform == "linux" else ():
        with suppress(OSError):
            if os.readlink(link).startswith(str(folder)):
                sizes.append(link.stat().st_size)
    return any(size > 1000 for size in sizes)


def interrupted(
    ready: Callable[[int], bool], *words: str | Path, sign: signal.Signals = signal.SIGINT
) -> tuple[int, str, str]:
    """Exit code and words of a command that got Ctrl-C, or another signal, once it was ready, as its number tells."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}
    command = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *map(str, words)],
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        # With numbers in the file, the command is in the midst of its work.
        while not ready(command.pid):
            assert command.poll() is None, command.communicate()
            time.sleep(0.02)
        command.send_signal(sign)
        out, err = command.communicate(timeout=120)
    finally:
        command.kill()
    return command.returncode, out, err


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_in_score_is_130_and_leaves_nothing(tmp_path: Path) -> None:
    model, data, out = tmp_path / "m", tmp_path / "x.npy", tmp_path / "out"
    out.mkdir()
    ps.realnvp(16, layers=8, hidden=(128, 128), rng=0).save(model)
    np.lib.format.open_memmap(
        data, "w+", np.float32, (10_000_000, 16)
    )  # takes minutes, and no room: nothing is written
    code, told, error = interrupted(partial(written, out), "score", model, data, "-o", out / "p.npy")
    assert code == 130
    assert (told, error.strip()) == ("", "penstock: interrupted")
    assert os.listdir(out) == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("name", ["s.csv", "s.npz", "s.h5", "s.fits"])
def test_sigterm_in_sample_is_143_and_leaves_nothing(name: str, model: Path, tmp_path: Path) -> None:
    for suffix, package in ((".h5", "h5py"), (".fits", "astropy")):
        if name.endswith(suffix):
            pytest.importorskip(package)
    out = tmp_path / "out"
    out.mkdir()
    code, told, error = interrupted(
        partial(written, out), "sample", model, "-n", "1e9", "-o", out / name, sign=signal.SIGTERM
    )
    assert (code, told, error.strip()) == (143, "", "penstock: terminated")
    assert os.listdir(out) == []


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
def test_ctrl_c_in_fit_is_130_and_keeps_the_best_so_far(tmp_path: Path) -> None:
    data, out, kept = write(tmp_path / "x.npy", table()), tmp_path / "m", tmp_path / "checkpoint"
    code, _, error = interrupted(
        lambda _: kept.exists(), "fit", data, "-o", out, *SMALL[2:], "--epochs", "1000000", "--checkpoint", kept
    )
    assert code == 130
    assert "interrupted" in error
    assert ps.load(out).initialised
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "m", "x.npy"]


# -- progress, info -----------------------------------------------------------------------------


def test_progress_is_shown_when_asked_for_and_tqdm_is_imported_then(model: Path, tmp_path: Path) -> None:
    pytest.importorskip("tqdm")
    code = """if True:
        import sys
        from penstock.cli import main
        words = sys.argv[1:]
        assert main(words) == 0 and "tqdm" not in sys.modules
        assert main([*words, "--progress"]) == 0 and "tqdm" in sys.modules
    """
    done = python(code, "sample", str(model), "-n", "10", "-o", str(tmp_path / "s.npy"))
    assert "rows" in done.stderr


def test_info_tells_the_instruction_sets(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info") == 0
    told = capsys.readouterr().out
    assert f"threads: {ps.num_threads()}" in told
    line = next(line for line in told.splitlines() if line.startswith("instruction sets: "))
    flow = ps.realnvp(2)
    if flow.backend == "cpp":
        assert all(isa in line for isa in flow._backend.isas())
        assert line.endswith(f"used: {flow._backend.isa()}")


def test_info_tells_the_layers_of_a_file_and_their_sizes(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("info", model) == 0
    told = capsys.readouterr().out
    flow = ps.load(model)
    assert repr(flow) in told
    assert all(name in told for name in flow.named_params())


# -- upgrade ------------------------------------------------------------------------------------

FORMAT1 = HERE / "golden" / "format1"


def test_upgrade_rewrites_older_formats_and_keeps_the_flow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.safetensors", tmp_path / "new.safetensors"
    shutil.copy(FORMAT1 / "nsf.safetensors", old)
    flow = ps.load(old)
    flow.save(new)
    present = new.read_bytes()
    assert run("upgrade", old, new) == 0
    assert capsys.readouterr().out.splitlines() == [f"{old}: from format 1 to 2", f"{new}: is of format 2"]
    assert (old.read_bytes(), new.read_bytes()) == (present, present)
    x = flow.sample(10, rng=0)
    assert_same_bits(ps.load(old).log_prob(x), flow.log_prob(x))
    assert sorted(os.listdir(tmp_path)) == [new.name, old.name]
    assert run("upgrade", tmp_path / "missing") == 1


@pytest.mark.filterwarnings("default")
def test_upgrade_warns_of_a_circle_on_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "circular.safetensors"
    shutil.copy(FORMAT1 / "circular.safetensors", path)
    assert run("upgrade", path) == 0
    assert "density of this flow is wrong" in capsys.readouterr().err
