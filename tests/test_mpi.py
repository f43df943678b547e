"""``fit(comm=...)`` under ``mpirun``: bits do not depend on the number of ranks, and what happens to one is told to all."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from mpi_runs import command, environment

PROGRAM = Path(__file__).parent / "mpi" / "train.py"


def ranks(n: int, what: str, folder: Path, *words: str | Path, timeout: float = 300) -> Any:
    """What rank 0 has found."""
    out = folder / f"{what}-{n}.json"
    done = subprocess.run(
        command(n, PROGRAM, what, out, *words),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one rank finds."""
    return ranks(1, "bits", tmp_path_factory.mktemp("mpi"))


@pytest.mark.parametrize("n", [2, 3])
def test_trainings_have_the_same_bits_on_any_number_of_ranks(n: int, alone: Any, tmp_path: Path) -> None:
    found = ranks(n, "bits", tmp_path)
    assert len(found) == len(alone) > 25
    assert {name for name in alone if found[name] != alone[name]} == set()
    assert alone["weights, in rounds"] == alone["weights"]
    assert len(set(alone.values())) == len(alone) - 1


def test_a_file_that_all_ranks_map_is_not_sent(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2003, 3))
    np.save(tmp_path / "x.npy", x)
    one, two = (ranks(n, "memmap", tmp_path, tmp_path / "x.npy") for n in (1, 2))
    assert one["mapped"] == one["in memory"] == two["mapped"] == two["in memory"]
    assert two["mapped"] == two["columns of a wider one"]
    assert two["sent"] == 0
    assert two["sent then"] == 1
    assert one["changed in memory"] == two["changed in memory"] == one["as it should be"] == two["as it should be"]
    assert one["one row"] == two["one row"]


def test_what_one_rank_raises_all_raise(tmp_path: Path) -> None:
    found = ranks(2, "errors", tmp_path)
    expected = {
        "dtype": "the dtype of X must be the same on all ranks, but rank 1 has another one",
        "columns": "the names of columns must be the same on all ranks",
        "NaN": "X must be finite, but 1 row",
        "flow": "the flow must be the same on all ranks",
        "backend": "an argument of fit, or the backend, must be the same on all ranks",
        "epochs": "an argument of fit, or the backend, must be the same on all ranks",
        "callbacks": "an argument of fit, or the backend, must be the same on all ranks",
        "checkpoint of one": "an argument of fit, or the backend, must be the same on all ranks",
        "seed": "rng must be the same on all ranks",
        "no rows": "fit needs rows, got none on any rank",
        "more ranks than slices": "comm has 2 ranks, but a batch of 64 rows has only 1 of its slices",
        "callback": "enough",
        "weights": "the sum of sample_weight over the training rows must be positive",
        "learning rate": "likely cause: a learning rate that is too high",
        "support": "X must lie within the supports of the flow",
        "checkpoint": "no",
    }
    assert set(found) == set(expected)
    for name, words in expected.items():
        assert all(words in told for told in found[name]), (name, found[name])
    told = found["callback"]
    assert told[1].startswith("LookupError")
    assert told[0] == "RankError: rank 1 of 2 has failed: LookupError: enough"


@pytest.mark.parametrize("who", ["0", "1", "0,1", "0,late"])
def test_ctrl_c_of_a_rank_ends_training_on_all(who: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    found = ranks(2, "interrupted", tmp_path, model, who)
    assert found["stopped"] == "interrupted"
    assert len(set(found["steps"])) == 1
    assert found["late"] == [0, int(who == "0,late")]
    assert ps.load(str(model)).history.stopped == "interrupted"


def killed(n: int, seconds: float, folder: Path, model: Path, epochs: int) -> int | None:
    """The status of a training of which one rank was killed after some seconds; None where it had ended before."""
    out = folder / "out.json"
    numbers = [Path(f"{out}.{rank}") for rank in range(n)]
    for number in numbers:
        number.unlink(missing_ok=True)
    job = subprocess.Popen(
        command(n, PROGRAM, "resumable", out, model, str(epochs)), env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not all(number.exists() and number.read_text() for number in numbers):
            time.sleep(0.02)
        time.sleep(seconds)
        if job.poll() is not None:
            return None
        with suppress(ProcessLookupError):
            os.kill(int(random.choice(numbers).read_text()), signal.SIGKILL)
        return job.wait(timeout=10)  # and no later
    finally:
        if job.poll() is None:
            os.killpg(job.pid, signal.SIGKILL)
            job.wait()


def test_a_training_whose_ranks_are_killed_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    kills = int(os.environ.get("KILLS", "3"))
    epochs, model = 130 * kills, tmp_path / "model"  # enough that each kill finds something to do
    whole = ranks(1, "resumable", tmp_path, tmp_path / "whole", str(epochs))
    random.seed(4)
    statuses = [killed((2, 3)[i % 2], random.uniform(0.1, 0.6), tmp_path, model, epochs) for i in range(kills)]
    assert all(statuses), statuses
    assert ranks(2, "resumable", tmp_path, model, str(epochs)) == whole
