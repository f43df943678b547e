"""``penstock demo``, in its shortest form: what it prints, leaves, and hands on to whoever goes on from it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import penstock as ps
from helpers import python
from penstock import demo

RUN = """if True:
    import os, sys
    os.chdir(sys.argv[1])
    # A third of the galaxies, and less of what only takes time.
    from penstock import demo
    whole = demo.galaxies
    demo.galaxies, demo.MANY, demo.SHORT = (lambda: whole()[::3].copy()), 20_000, 1
    if sys.argv[2] == "nothing":
        import penstock._compare as compare
        compare.MIXTURE_SIZES, compare.BANDWIDTHS, compare.FOLDS = (4, 8), (0.13, 0.19), 2
    else:
        for package in sys.argv[2].split(","):
            sys.modules[package] = None  # as if it were not installed
    from penstock.cli import main
    sys.exit(main(sys.argv[3:]))
"""


def run(folder: Path, *arguments: str, without: str = "nothing") -> str:
    """What a command prints that runs in a folder, as if some packages were not installed."""
    return python(RUN, str(folder), without, *arguments).stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder where the demo ran, with a name that a shell would split, and what it printed."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("demo")
    return folder, run(folder, "demo", "-q", "--epochs", "1", "-o", "it's here")


def test_the_demo_tells_everything_that_lets_one_judge_it(whole: tuple[Path, str]) -> None:
    _, out = whole
    number = r"[+-]?\d+\.\d+"
    for name in ("Gaussian mixture, .*", "kernel estimate, .*"):
        lines = re.findall(rf"^  {name} +({number}) \+- ({number})(.*)$", out, re.M)
        likelihood, paired, classified = lines
        assert likelihood[2] == classified[2] == ""
        assert re.search(r"spline flow is (better|worse)|no difference beyond", paired[2])
        assert 0.4 < float(classified[0]) <= 1
    # Real galaxies cannot be told from real ones: the classifier is not fooled by how it is asked.
    accuracy, error = map(float, re.search(rf"^  \(real .*\) +({number}) \+- ({number})$", out, re.M).groups())  # type: ignore[union-attr]
    assert abs(accuracy - 0.5) < 4 * error
    assert re.search(rf"^10\^6 galaxies in {number} s", out, re.M)
    within, most = map(float, re.findall(r"within (\d\.\de[+-]\d+)", out))
    assert within <= most < 1e-2
    one, two = re.findall(r"threads? ([0-9a-f]{12})\b", out)
    assert one == two
    assert "identical" in out
    assert "DIFFERENT" not in out
    assert "pip install" not in out


def test_the_demo_leaves_the_model_and_two_pictures(whole: tuple[Path, str]) -> None:
    folder = whole[0] / "it's here"
    assert {path.name for path in folder.iterdir()} - {"sampled.npy"} == {
        "galaxies.safetensors",
        "galaxies-corner.png",
        "galaxies-loss.png",
    }
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in folder.glob("*.png"))
    assert ps.load(folder / "galaxies.safetensors").initialised


def last_blocks(out: str) -> tuple[str, str]:
    """The shell command and the Python at the end of the demo."""
    shell, _, code = out.rstrip("\n").split("\n\n")[-3:]
    return shell, code


def test_the_printed_python_runs_as_printed(whole: tuple[Path, str]) -> None:
    folder, out = whole
    _, code = last_blocks(out)
    assert len(code.splitlines()) == 5
    told = python(f"import os, sys\nos.chdir(sys.argv[1])\n{code}", str(folder)).stdout
    assert 0 <= float(re.fullmatch(r"most likely redshift: (\d\.\d\d)\n", told)[1]) <= 3  # type: ignore[index]


def test_the_printed_command_runs_as_printed(whole: tuple[Path, str]) -> None:
    folder, out = whole
    command, *arguments = shlex.split(last_blocks(out)[0])
    assert command == "penstock"
    run(folder, *arguments)
    assert np.load(folder / "it's here" / "sampled.npy").shape == (100000, 7)


def test_without_optional_packages_the_demo_does_the_rest_and_says_what_to_install(tmp_path: Path) -> None:
    out = run(tmp_path, "demo", "-q", "--epochs", "1", "-o", "here", without="sklearn,matplotlib")
    said = [line for line in out.splitlines() if line.endswith("pip install 'penstock[demo]'")]
    assert len(said) == 2
    assert said[0].startswith("scikit-learn is not installed")
    assert said[1].startswith("matplotlib is not installed")
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["galaxies.safetensors"]
    for text in ("spline flow  ", "10^6 galaxies in", "identical", "most likely redshift"):
        assert text in out
    assert "paired" not in out


def test_the_report_is_as_plain_when_the_flow_loses(capsys: pytest.CaptureFixture[str]) -> None:
    ours = np.random.default_rng(0).standard_normal(400)
    noise = 0.1 * np.random.default_rng(1).standard_normal(400)
    demo.report(
        {"spline flow": ours, "stronger": ours + 0.1 + noise, "weaker": ours - 0.1 + noise, "as good": ours}, 0.0
    )
    out = capsys.readouterr().out
    verdicts = dict(re.findall(r"^  (\w.*?) +[+-]\d\.\d{3} \+- \d\.\d{3}   (.*)$", out, re.M))
    assert verdicts == {
        "stronger": "spline flow is worse",
        "weaker": "spline flow is better",
        "as good": "no difference beyond 2 standard errors",
    }


def test_training_that_depends_on_threads_would_be_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = demo.galaxies()[:6000]
    rows = rows[(rows != demo.NOT_DETECTED).all(axis=1)]
    demo.check_threads(rows, rows[:50], 0, "auto")
    assert "identical" in capsys.readouterr().out
    original = demo.new_flow
    monkeypatch.setattr(demo, "new_flow", lambda seed, backend: original(seed + ps.num_threads(), backend))
    demo.check_threads(rows, rows[:50], 0, "auto")
    assert "DIFFERENT" in capsys.readouterr().out


def test_the_classifier_tells_what_differs_and_guesses_where_nothing_does() -> None:
    pytest.importorskip("sklearn")
    from penstock._compare import two_sample

    table = demo.galaxies()
    rows = table[~(table == demo.NOT_DETECTED).any(axis=1)]
    one, two = rows[0:4000:2], rows[1:4000:2]
    accuracy, error = two_sample(one, two, seed=0)
    assert abs(accuracy - 0.5) < 3 * error
    assert error == pytest.approx(0.5 / np.sqrt(4000), rel=0.01)
    # Colours that are a little too wide, which no single magnitude shows.
    blurred = two.copy()
    blurred[:, 1:] += np.random.default_rng(0).normal(0, 0.1, (len(two), 6)).astype(np.float32)
    accuracy, error = two_sample(one, blurred, seed=0)
    assert accuracy > 0.5 + 6 * error


def test_the_picture_has_colours_against_redshift() -> None:
    pytest.importorskip("matplotlib")
    from penstock._corner import corner_plot

    rows = demo.galaxies()[:300]
    axes = corner_plot(rows, rows).axes
    assert [panel.get_ylabel() for panel in axes if panel.get_xlabel() == "redshift"].count("$g - i$") == 1
