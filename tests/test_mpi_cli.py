"""``penstock sample``, ``score`` and ``fit`` under ``mpirun``: the bytes and words of one process, and one end for all ranks."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from helpers import python
from mpi_runs import command, environment
from penstock.cli import main
from penstock.cli.ranks import Job, _copy
from penstock.training.ranks import Ranks

PROGRAM = Path(__file__).parent / "mpi" / "commands.py"
ROWS = 20_003  # five chunks
SMALL = ("--layers", "2", "--hidden", "8", "--epochs", "2", "--batch-size", "320", "-q")


def ranks(n: int, folder: Path, *commands: dict[str, Any], timeout: float = 240) -> list[list[dict[str, Any]]]:
    """What each rank has returned and printed for each command."""
    given, out = folder / f"commands-{n}.json", folder / f"found-{n}.json"
    given.write_text(json.dumps(commands))
    done = subprocess.run(
        command(n, PROGRAM, given, out), env=environment(), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[list[dict[str, Any]]] = json.loads(out.read_text())
    out.unlink()
    given.unlink()
    return found


def write_tables(folder: Path) -> None:
    """One table in files of several kinds, and models for it."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(ROWS, 4))
    x[:, 2] = np.tanh(x[:, 2]) + 0.3 * x[:, 0]
    x[:, 3] = np.exp(8 * np.arange(ROWS) / ROWS) * rng.uniform(0.1, 1, size=ROWS)  # weights that grow by powers of two
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x)
    np.savetxt(folder / "w.csv", x[:, 3], "%.17g")
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    lines[7000] += "\n# a comment\n\n   \n"
    lines[15_000] = " " + lines[15_000]
    (folder / "x.csv").write_text("# made for a test\n\na,b,c,w\n" + "\n".join(lines) + "\n")
    (folder / "plain.dat").write_text("\r\n".join(line.replace(",", " ") for line in lines if "#" not in line))
    holes = x.copy()
    holes[::7, 0] = 99
    holes[16_000:, 1] = np.nan  # all of the last rank
    np.save(folder / "holes.npy", holes)
    whole = np.round(x * 20)
    whole[:9000:7, 0] = 99  # none on the last rank, where numbers stay whole
    np.savez(folder / "whole.npz", whole.astype(np.int64))
    cells = [",".join("" if v == 99 else "NA" if v != v else repr(v) for v in row) for row in holes.tolist()]
    (folder / "holes.csv").write_text("a,b,c,w\n" + "\n".join(cells) + "\n")
    contexts = x[:5000, :1].copy()
    contexts[1000:3000] = np.nan
    (folder / "contexts.csv").write_text("a\n" + "\n".join(map(repr, contexts[:, 0].tolist())) + "\n")
    train = {name: x[:2000, i] for i, name in enumerate("abc")}
    ps.nsf_ar(3, layers=2, hidden=(8,), rng=0).fit(train, epochs=1, rng=0).save(folder / "m")
    given = ps.nsf(2, context_dim=1, layers=2, hidden=(8,), rng=0)
    given.fit({k: train[k] for k in "bc"}, {"a": train["a"]}, epochs=1, rng=0).save(folder / "given")
    try:
        from pyarrow import parquet, table
    except ImportError:
        return
    parquet.write_table(table(dict(zip("abcw", x.T, strict=True))), folder / "x.parquet", row_group_size=3000)


def command_lines() -> dict[str, str]:
    """Command lines whose last word is the file to write, if they write any."""
    lines = {
        "draws as an array": "sample m -n 20003 --seed 3 -o s.npy",
        "draws as text": "sample m -n 20003 --seed 3 -o s.csv",
        "draws with tabs": "sample m -n 9000 --seed 3 --log-prob -o s.tsv",
        "a later part of the draws": "sample m -n 9000 --seed 3 --first 5000 -o first.npy",
        "fewer draws than ranks": "sample m -n 1 --seed 3 -o few.csv",
        "no draws": "sample m -n 0 --seed 3 -o none.npy",
        "no draws as text": "sample m -n 0 --seed 3 -o none.csv",
        "draws for a table": "sample given -n 5 --context contexts.csv --missing nan --seed 4 -o c.csv",
        "an array for a table": "sample given -n 5 --context contexts.csv --missing nan --seed 4 -o c.npy",
        "many draws for some contexts": "sample given -n 9000 --context some.csv --keep-context --seed 4 -o many.csv",
        "draws for one context": "sample given -n 9000 --context=0.5 --seed 4 --log-prob -o own.npy",
    }
    for kind in ("npy", "npz", "csv", "parquet"):
        own = "" if kind in ("csv", "parquet") else "--columns 0,1,2 "
        lines[f"scores of .{kind}"] = f"score m x.{kind} {own}-o {kind}.csv"
        lines[f"the mean of .{kind}"] = f"score m x.{kind} {own}--weights {'3' if own else 'w'}"
    return lines | {
        "scores as an array": "score m x.csv -o p.npy",
        "scores of plain lines": "score m plain.dat --columns 0,1,2 -o plain.npy",
        "scores of columns in another order": "score m x.csv --columns c,a,b -o p.csv",
        "weights of their own": "score m x.npy --columns 0,1,2 --weights w.csv",
        "text with weights of its own": "score m x.csv --weights w.csv -o weighted.tsv",
        "missing values": "score m holes.npy --columns 0,1,2 --missing 99 -o holes.csv",
        "missing cells": "score m holes.csv --missing NA --weights w -o holes.npy",
        "a row that is NaN": "score m nan.csv -o nan.csv",
        "scores given a context": "score given x.csv -o given.npy",
    }


def fits() -> dict[str, str]:
    """Trainings, whose last word is the model."""
    return {
        "text": "fit x.csv --columns a,b,c -o text",
        "an array": "fit x.npy --columns 0,1,2 -o array",
        "columns in another order": "fit x.npy --columns 2,0,1 -o order",
        "weights in a column": "fit x.csv --columns a,b --weights w -o weights",
        "weights in a file": "fit x.npz --columns 0,1 --weights w.csv -o file",
        "a context": "fit x.csv --columns a,b --context-columns c -o context",
        "missing values": "fit holes.npy --columns 0,1,2 --missing 99 -o missing",
        "missing cells": "fit holes.csv --columns a,b,c --missing NA -o cells",
        "whole numbers": "fit whole.npz --columns 0,1,2 --missing 99 --dequantize 1 -o whole",
        "a checkpoint": "fit x.npy --columns 0,1,2 --checkpoint kept -o checkpoint",
    }


def words(line: str, folder: Path, out: Path) -> list[str]:
    """A command line on the files of a folder; what it writes goes into another one."""
    found = line.split()
    named = [str(folder / word) if (folder / word).is_file() else word for word in found]
    if "-o" in found:
        named[found.index("-o") + 1] = found[-1] if found[-1] == "-" else str(out / found[-1])
    if "--checkpoint" in found:
        named[found.index("--checkpoint") + 1] = str(out / "kept")
    return [*named[:1], *(SMALL if found[0] == "fit" else ()), *named[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables and models."""
    path = tmp_path_factory.mktemp("tables")
    write_tables(path)
    (path / "some.csv").write_text("a\n0.5\n-0.25\n1\n")
    (path / "nan.csv").write_text("a,b,c\n1,2,3\n1,nan,3\n")
    return path


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run(n: int, lines: dict[str, str], folder: Path, out: Path, *more: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What n ranks print and write, by command."""
    if not (folder / "x.parquet").exists():
        lines = {name: line for name, line in lines.items() if ".parquet" not in line}
    given = [{"words": [*words(line, folder, out), *more]} for line in lines.values()]
    found = dict(zip(lines, ranks(n, folder, *given), strict=True))
    for name, told in found.items():
        assert [own["code"] for own in told] == [0] * n, (name, told)
        assert all(own["out"] == own["err"] == "" for own in told[1:]), (name, told)
    return {name: told[0]["out"].replace(str(out), "OUT") for name, told in found.items()}, contents(out)


@pytest.fixture(scope="module")
def single(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process prints and writes without ``--mpi``."""
    return run(1, command_lines(), folder, tmp_path_factory.mktemp("single"))


@pytest.fixture(scope="module")
def models(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one rank prints and trains."""
    return run(1, fits(), folder, tmp_path_factory.mktemp("models"), "--mpi")


def assert_same(found: Any, expected: Any) -> None:
    """The same words and the same bytes."""
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    assert [name for name in found[1] if found[1][name] != expected[1][name]] == []


@pytest.mark.parametrize("n", [1, 2, 3])
def test_ranks_write_and_print_what_one_process_does(n: int, single: Any, folder: Path, tmp_path: Path) -> None:
    assert_same(run(n, command_lines(), folder, tmp_path, "--mpi"), single)


@pytest.mark.parametrize("n", [2, 3])
def test_models_are_the_same_on_any_number_of_ranks(n: int, models: Any, folder: Path, tmp_path: Path) -> None:
    assert_same(run(n, fits(), folder, tmp_path, "--mpi"), models)
    assert len(set(models[1].values())) == len(fits()) - 1  # a checkpoint of what one has already


MAIN = "import sys; from penstock.cli import main; sys.exit(main(sys.argv[1:]))"

LIBRARY = """if True:
    import sys
    import numpy as np
    import penstock as ps
    from mpi4py import MPI
    x = np.load(sys.argv[1])
    flow = ps.nsf_ar(3, layers=2, hidden=(8,), rng=0)
    flow.fit(dict(zip("abc", x.T)), epochs=2, batch_size=320, rng=0, comm=MPI.COMM_WORLD)
    weighted = ps.nsf_ar(2, layers=2, hidden=(8,), rng=0)
    weighted.fit(dict(zip("ab", x.T)), sample_weight=x[:, 3], epochs=2, batch_size=320, rng=0, comm=MPI.COMM_WORLD)
    flow.save(sys.argv[2] + "/text")
    weighted.save(sys.argv[2] + "/weights")
"""


def test_a_model_is_the_one_of_the_library(models: Any, folder: Path, tmp_path: Path) -> None:
    subprocess.run(
        command(1, "-c", LIBRARY, folder / "x.npy", tmp_path), env=environment(), timeout=120, check=True
    )  # fmt: skip
    found = contents(tmp_path)
    assert len(found) == 2
    assert all(models[1][name] == data for name, data in found.items())


def test_a_sample_without_a_seed_has_one_and_a_fit_tells_all_rows(folder: Path, tmp_path: Path) -> None:
    line = words("sample m -n 9000 -o s.npy", folder, tmp_path)
    training = [word for word in words("fit x.csv --columns a,b,c -o model", folder, tmp_path) if word != "-q"]
    (tmp_path / "s.npy").write_text("an old file")
    os.chmod(tmp_path / "s.npy", 0o440)
    (first, second), (told, _) = ranks(2, folder, {"words": [*line, "--mpi"]}, {"words": [*training, "--mpi"]})
    assert (first["code"], second["code"], told["code"]) == (0, 0, 0)
    assert told["out"].splitlines()[0] == f"{folder / 'x.csv'}: {ROWS} rows, 3 columns (a, b, c)"
    assert (tmp_path / "s.npy").stat().st_mode & 0o777 == 0o440
    seed = first["out"].split("seed ")[1].split()[0]
    assert main([*line[:-1], str(tmp_path / "again.npy"), "--seed", seed, "-q"]) == 0
    assert (tmp_path / "again.npy").read_bytes() == (tmp_path / "s.npy").read_bytes()


# -- ends -----------------------------------------------------------------------------------------------------------------

# Commands; what happens to one rank, and else to whoever meets it; the exit code; what is said.
FAILURES = [
    ("sample nothing -n 9 -o s.npy", None, 1, "nothing: No such file or directory"),
    ("sample m -n 9 -o s.parquet", None, 1, r"--mpi: ranks can write \.npy, \.csv or \.tsv together, got "),
    ("sample m -n 9 -o -", None, 1, "--mpi: ranks can write .* together, got '-'"),
    ("score m - -o s.npy", None, 1, "--mpi: - is no ordinary file, of which each rank could read a part"),
    ("fit x.csv --ensemble 2 -o s", None, 1, "--ensemble: with --mpi all ranks train one flow"),
    ("score m x.csv --weights short.csv", None, 1, "short.csv has 3 rows, and .*x.csv has more$"),
    ("fit x.csv --columns a --weights long.csv -o s", None, 1, f"long.csv has {ROWS + 1} rows, and .* has fewer: {ROWS}$"),
    ("score m bad.csv -o s.csv", None, 1, r"bad.csv, line 15001, column 'b': 'x' is not a number \(rank 1 of 2\)$"),
    ("fit bad.csv -o s", None, 1, "bad.csv, line 15001, column 'b': 'x' is not a number"),
    ("score m holes.npy --columns 0,2,3 --weights 1 -o s.npy", None, 1, "must be finite, but holds nan in row 16000"),
    ("fit holes.npy -o s", None, 1, r"X must be finite, but 4003 rows of 10002 hold NaN .* \(rank 1 of 2\)$"),
    ("fit x.npy --batch-size 64 -o s", None, 1, "comm has 2 ranks, but a batch of 64 rows has only 1 of its slices"),
    ("sample m -n 20003 -o s.npy", "full disk", 1, "cannot write '.*s.npy': File too large"),
    ("sample m -n 20003 -o s.csv", "full disk", 1, "File too large"),
    ("score m x.npy --columns 0,1,2 -o s.csv", "full disk", 1, "File too large"),
    ("sample m -n 9 -o s.csv", "forbidden", 1, "cannot write '.*s.csv': Permission denied"),
    ("fit x.csv -o s", "forbidden", 1, "cannot write '.*s': Permission denied"),
    ("sample m -n 9 -o s.npy", "another file system", 1, "cannot write '.*s.npy': .* all must see one file system"),
    ("sample m -n 9 -o s.npy", "bug", 1, "LookupError: a bug"),
    ("sample m -n 1000000000 -o s.npy", "SIGINT", 130, "interrupted$"),
    ("sample m -n 1000000000 -o s.csv", "SIGTERM", 143, "terminated$"),
    ("fit x.npy --columns 0,1,2 --epochs 100000 --patience 100000 --checkpoint kept -o s", "SIGTERM", 143, "terminated$"),
    ("sample m -n 9 --wrong -o s.npy", None, 2, "unrecognized arguments: --wrong"),
]  # fmt: skip


@pytest.mark.parametrize("who", [0, 1])
def test_what_ends_one_rank_ends_all_and_leaves_nothing(who: int, folder: Path, tmp_path: Path) -> None:
    (folder / "short.csv").write_text("1\n2\n3\n")
    (folder / "long.csv").write_text("1\n" * (ROWS + 1))
    (folder / "bad.csv").write_text("a,b,c\n" + "1,2,3\n" * 14_999 + "1,x,3\n" + "1,2,3\n" * 5000)
    expected = [row for row in FAILURES if (who == 1 if row[1] in (None, "another file system") else True)]
    given = [
        {"words": [*words(line, folder, tmp_path), "--mpi"], "what": what, "rank": who}
        for line, what, _, _ in expected
    ]  # fmt: skip
    for told, (line, what, code, sentence) in zip(ranks(2, folder, *given), expected, strict=True):
        codes, said = [own["code"] for own in told], [text for text in told[0]["err"].splitlines() if text]
        if what == "bug":  # which Python shows as it does
            assert codes.pop(who) == "LookupError('a bug')", (line, told)
        assert set(codes) == {code}, (line, told)
        assert told[1]["out"] == told[1]["err"] == told[0]["out"] == "", (line, told)
        if what == "bug" and who == 0:
            continue
        said = [text for text in said if "warning: " not in text]
        assert len(said) == 1 or code == 2, (line, told)
        assert re.search(f"^penstock.*: .*{sentence}", said[-1]), (line, told)
        if what is not None:
            assert said[-1].endswith("(rank 1 of 2)") == (who == 1 and code == 1), (line, told)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_a_training_that_was_stopped_goes_on_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    line = "fit x.npy --columns 0,1,2 --epochs 120 --patience 120 --checkpoint kept -o"
    whole, *_ = ranks(1, folder, {"words": [*words(f"{line} whole", folder, tmp_path), "--mpi"]})
    again = {"words": [*words(f"{line} again", folder, tmp_path), "--mpi"]}
    long = {
        "words": [
            *words("fit x.npy --columns 0,1,2 --epochs 100000 --patience 100000 -o best", folder, tmp_path),
            "--mpi",
        ]
    }
    stopped, end, interrupted = ranks(
        2, folder, {**again, "what": "SIGTERM", "rank": 1}, again, {**long, "what": "SIGINT", "rank": 0}
    )
    assert [own["code"] for own in (*whole, *stopped, *end, *interrupted)] == [0, 143, 143, 0, 0, 130, 130]
    assert (tmp_path / "again").read_bytes() == (tmp_path / "whole").read_bytes()
    assert ps.load(tmp_path / "best").history.stopped == "interrupted"


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_job_has_the_exit_code_of_one_process(
    sign: signal.Signals, code: int, folder: Path, tmp_path: Path
) -> None:
    said = "import os; os.write(2, b'%d\\n' % os.getpid())\n"
    line = words("sample m -n 1000000000 -o s.csv", folder, tmp_path)
    code_of_ranks = f"{said}import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{MAIN}"
    job = subprocess.Popen(
        command(2, "-c", code_of_ranks, *line, "--mpi"), env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert job.stderr is not None
        pids = [int(job.stderr.readline()) for _ in range(2)]
        while not any(path.stat().st_size > 1000 for path in tmp_path.glob(".s.csv.*")):
            assert job.poll() is None
            time.sleep(0.05)
        os.kill(pids[1], sign)
        out, err = job.communicate(timeout=60)
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()
    assert job.returncode == code, err
    assert out == ""
    assert [text for text in err.splitlines() if text.startswith("penstock: ")] == [
        f"penstock: {'interrupted' if code == 130 else 'terminated'}"
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['mpi4py'] = None; from penstock.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python(code, *words("sample m -n 9 -o s.npy", folder, tmp_path), "--mpi", check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "penstock: --mpi: mpi4py is not installed: pip install mpi4py, or pip install 'penstock[mpi]'\n",
    )


class Alone:
    """A communicator of one rank."""

    aborted: int | None = None

    def Get_rank(self) -> int:  # noqa: N802
        return 0

    def Get_size(self) -> int:  # noqa: N802
        return 1

    def Allgather(self, told: Any, heard: Any) -> None:  # noqa: N802
        heard[0] = told

    def allgather(self, told: Any) -> list[Any]:
        return [told]

    def Abort(self, code: int) -> None:  # noqa: N802
        self.aborted = code


def test_a_job_is_aborted_only_where_others_would_wait() -> None:
    for interrupted, aborted in ((True, None), (False, 130)):
        job = Job(Alone())
        if interrupted:
            with pytest.raises(KeyboardInterrupt), job:  # at the last meeting
                job._interrupted = True
        assert job.agreed(KeyboardInterrupt(), 130, "penstock: interrupted") == (130, "penstock: interrupted")
        assert job.comm.aborted == aborted
    with Job(Alone()) as job:
        pass
    assert job.agreed(BrokenPipeError(), 1, "") == (1, "")
    assert job.comm.aborted is None


@pytest.mark.parametrize("has", [True, False])
def test_lines_are_copied_to_their_place(has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cannot(*_: Any) -> int:
        raise OSError(18, "Invalid cross-device link")

    if not has:
        monkeypatch.setattr(os, "copy_file_range", cannot, raising=False)
    with open(tmp_path / "from", "w+b") as source, open(tmp_path / "to", "w+b") as target:
        source.write(b"some lines\n" * 300_000)
        source.flush()
        target.write(b"ab")
        target.flush()
        _copy(source, target, 2)
    assert (tmp_path / "to").read_bytes() == b"ab" + b"some lines\n" * 300_000


def test_a_fit_takes_over_a_ctrl_c_that_its_command_has_noted() -> None:
    trained = []

    def fit() -> None:
        with Job(Alone()) as job:
            signal.raise_signal(signal.SIGINT)
            assert job._interrupted
            with Ranks(Alone()) as inner:
                inner.meet()
                trained.append(True)

    with pytest.raises(KeyboardInterrupt):
        fit()
    assert not trained
    assert not isinstance(getattr(signal.getsignal(signal.SIGINT), "__self__", None), Ranks)
