"""Ensembles on the command line: fit writes one model, which the other commands read as any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from helpers import assert_same_bits
from penstock import demo
from penstock.cli import main

SMALL = ("--layers", "2", "--hidden", "6", "--epochs", "2", "--recipe", "nsf")


def run(*words: Any) -> int:
    """The exit code of a command."""
    return main([str(word) for word in words])


@pytest.mark.filterwarnings("ignore::penstock.DataWarning")
def test_a_model_of_several_flows_is_fitted_scored_sampled_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.random.default_rng(0).normal(size=(400, 3))
    data, out, scores, draws = (tmp_path / name for name in ("x.csv", "m.safetensors", "p.npy", "s.csv"))
    np.savetxt(data, rows, delimiter=",", header="a,b,c", comments="")
    words = ("fit", data, "-o", out, "--context-columns", "c", *SMALL, "--ensemble", "3", "--bootstrap", "--seed", "4")
    assert run(*words, "--checkpoint", tmp_path / "kept") == 0
    said = capsys.readouterr().out
    assert "Ensemble of 3 flows of 2 dimensions given 1" in said
    assert "member 2: held-out score " in said
    ensemble = ps.load(out)
    assert isinstance(ensemble, ps.Ensemble)
    assert ensemble.columns == ("a", "b")
    table = {name: rows[:, j] for j, name in enumerate("abc")}
    own = ps.Ensemble(lambda rng: ps.nsf(2, context_dim=1, layers=2, hidden=(6,), rng=rng), 3, rng=4)
    own.fit({"a": rows[:, 0], "b": rows[:, 1]}, {"c": rows[:, 2]}, epochs=2, rng=4, bootstrap=True)
    assert out.read_bytes() == own.to_bytes() == (tmp_path / "kept").read_bytes()
    assert run("score", out, data, "-o", scores) == 0
    assert_same_bits(np.load(scores).ravel(), own.log_prob(rows[:, :2], rows[:, 2:]))
    assert table.keys() == {"a", "b", "c"}
    assert run("sample", out, "-n", "5", "--context=0.5", "--seed", "3", "--log-prob", "-o", draws) == 0
    found = np.loadtxt(draws, delimiter=",", skiprows=1, dtype=np.float32)
    x, log_prob = own.sample_and_log_prob(5, [0.5], rng=3)
    assert_same_bits(found, np.column_stack([x, log_prob]))
    capsys.readouterr()
    assert run("info", out) == 0
    said = capsys.readouterr().out
    assert "ensemble of 3 flows, dim 2, context_dim 1" in said
    assert "weights   0.333, 0.333, 0.333" in said
    assert "parameters of member 2:" in said
    assert run("upgrade", out) == 0
    assert "is of format 2" in capsys.readouterr().out


def test_a_fit_that_was_cut_short_is_told_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    kept = tmp_path / "m.safetensors"

    def stop(state: ps.TrainingState) -> None:
        if state.epoch == 2:
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        ps.Ensemble(lambda rng: ps.nsf(2, layers=2, hidden=(6,), rng=rng), 2, rng=0).fit(
            rows, epochs=4, rng=0, checkpoint=kept, callbacks=stop
        )
    assert run("info", kept) == 0
    assert "training: not ended, member 0 in epoch 2 of 4" in capsys.readouterr().out
    words = ("fit", tmp_path / "x.npy", "-o", kept, *SMALL[:4], "--recipe", "nsf", "--epochs", "4", "--ensemble", "2")
    assert run(*words, "--resume") == 0
    whole = ps.Ensemble(lambda rng: ps.nsf(2, layers=2, hidden=(6,), rng=rng), 2, rng=0).fit(rows, epochs=4, rng=0)
    assert kept.read_bytes() == whole.to_bytes()
    assert run("fit", tmp_path / "x.npy", "-o", kept, *SMALL, "--bootstrap") != 0
    assert "--ensemble" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_trains_an_ensemble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.demo(tmp_path, epochs=1, ensemble=2, progress=False) == 0
    said = capsys.readouterr().out
    assert "an ensemble of 2 of them" in said
    assert "Weights by the galaxies that choose: 0." in said
    assert isinstance(ps.load(tmp_path / "galaxies.safetensors"), ps.Ensemble)
