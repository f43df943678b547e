"""Training on the command line: what stops it, how it goes on, and what it says where no terminal is."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from helpers import python
from penstock.cli import main

Array = np.ndarray[Any, Any]

SMALL = ("--layers", "2", "--hidden", "8")


def run(*words: str | Path) -> int:
    """The exit code of a command."""
    return main([str(word) for word in words])


def table(rows: int = 400) -> Array:
    """Four columns."""
    return np.random.default_rng(1).normal(size=(rows, 4))


def write(path: Path, x: Array) -> Path:
    """A table in a file."""
    np.save(path, x)
    return path


STOPPED = """if True:
    import os, signal, sys, threading
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from penstock.cli import main
    from penstock.training.checkpoint import Checkpoint
    real, calls = Checkpoint.write, 0
    def write(*arguments):
        global calls
        real(*arguments)
        calls += 1
        if calls == 3:  # from another thread and later, so that it arrives anywhere
            threading.Timer(0.01, os.kill, (os.getpid(), getattr(signal, sys.argv[1]))).start()
    Checkpoint.write = write
    sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("own", [False, True], ids=["the checkpoint is the model", "a checkpoint of its own"])
@pytest.mark.parametrize(("sign", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGKILL", -9)])
def test_a_command_that_was_stopped_goes_on_to_the_same_bytes(
    sign: str, code: int, own: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out, plain = write(tmp_path / "x.npy", table(4000)), tmp_path / "m", tmp_path / "plain"
    fit = ["fit", str(data), *SMALL, "--epochs", "40", "--batch-size", "50"]
    assert run(*fit, "-o", plain) == 0
    expected = plain.read_bytes()
    plain.unlink()
    kept = tmp_path / "kept" if own else out
    words = [*fit, "-o", str(out), "--checkpoint-every", "100", *(["--checkpoint", str(kept)] if own else ["--resume"])]
    done = python(STOPPED, sign, *words, check=False)
    assert done.returncode == code, done.stderr
    files = {"x.npy", kept.name} | ({"m"} if own and sign == "SIGINT" else set())
    assert set(os.listdir(tmp_path)) == files
    assert b"training.record" in kept.read_bytes()
    assert ps.load(kept).initialised
    assert "Traceback" not in done.stderr
    capsys.readouterr()
    assert run(*words) == 0
    assert "resumes the run in" in capsys.readouterr().out
    assert out.read_bytes() == kept.read_bytes() == expected
    # And once more: it has ended, and begins anew.
    assert run(*words) == 0
    assert "resumes" not in capsys.readouterr().out
    assert out.read_bytes() == expected


def test_the_command_line_refuses_and_forgets_the_run_of_another_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = write(tmp_path / "x.npy", table()), tmp_path / "m"
    x, flow = np.load(data), ps.realnvp(4, layers=2, hidden=(8,), rng=0)

    def stop(state: Any) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        flow.fit(x, epochs=3, checkpoint=out, callbacks=stop, rng=0)
    words = ["fit", data, "-o", out, "--recipe", "realnvp", "--layers", "2", "--hidden", "8"]
    assert run(*words, "--epochs", "4", "--resume") == 1
    error = capsys.readouterr().err
    assert "epochs was 3 and is 4" in error
    assert run(*words, "--epochs", "4", "--resume", "--no-resume", "--checkpoint", out) == 0
    assert out.read_bytes() == flow.copy().fit(x, epochs=4, rng=0).to_bytes()


def test_without_a_terminal_fit_prints_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = write(tmp_path / "x.npy", table()), tmp_path / "m"
    logger = logging.getLogger("penstock")
    before = (list(logger.handlers), logger.level)
    assert run("fit", data, "-o", out, *SMALL, "--epochs", "40", "--weight-decay", "0") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if re.match(r"epoch \d+/40, step", line)]
    assert len(lines) == 10
    assert (logger.handlers, logger.level) == before
    assert run("fit", data, "-o", out, *SMALL, "--epochs", "40", "-q") == 0
    assert capsys.readouterr() == ("", "")
