"""What ``fit`` tells: warnings that are true, the history, the progress bar."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, BY_NAME, fresh, points, rng
from helpers import each_backend, python
from penstock import cli
from penstock.training.loop import Training

Array = np.ndarray[Any, Any]

CASE = BY_NAME["mixed_layers"]


def gaussian(rows: int, key: str, dim: int = 3) -> Array:
    return rng(key).standard_normal((rows, dim))


# -- warnings -----------------------------------------------------------------------------------


@each_backend
def test_overfitting_is_told_after_the_fit(backend: str) -> None:
    flow = ps.realnvp(4, layers=4, hidden=(64, 64), rng=0, backend=backend)
    x = gaussian(300, "overfit", 4)
    with pytest.warns(ps.OverfitWarning, match="the flow overfits: from epoch") as caught:
        flow.fit(x, validation=gaussian(1000, "overfit validation", 4), epochs=60, batch_size=60, weight_decay=0, rng=0)
    assert [warning.filename for warning in caught] == [__file__]
    best = flow.history.best_epoch
    assert f"from epoch {best} to 60" in str(caught[0].message)
    assert best is not None
    assert best < 30
    assert flow.history.validation_loss[-1] > flow.history.validation_loss[best - 1] + 0.1
    told = str(flow.history)
    assert f"Epoch {best} was kept" in told
    assert f"It overfits: from epoch {best} to 60 the training loss fell" in told


def test_a_second_attempt_counts_on_wherever_it_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Training, "_overfits", lambda self, back, lowest: len(self.history) == 3)
    path = tmp_path / "run.safetensors"

    def fit(**more: Any) -> ps.History:
        flow = ps.realnvp(2, layers=2, hidden=(4,), rng=0)
        return flow.fit(gaussian(500, "again", 2), epochs=6, batch_size=45, rng=0, checkpoint=path, **more).history

    def stop(state: ps.TrainingState) -> None:
        if state.epoch == 5:
            raise KeyboardInterrupt

    with caplog.at_level(logging.INFO, "penstock"):
        with pytest.warns(ps.TrainingWarning, match="interrupted after 50 steps"):
            history = fit(callbacks=stop)
        assert (history.restarted, history.step) == (3, [10, 20, 30, 40, 50])
        assert cli.main(["info", str(path)]) == 0
        assert "training: not ended, in epoch 5 of 9, 50 steps done" in capsys.readouterr().out
        history = fit()
    assert history.step == list(range(10, 91, 10))
    assert "epoch 5 of 9, batch 10 of 10" in caplog.text
    told = [tuple(map(int, own)) for own in re.findall(r"epoch (\d+)/(\d+), step (\d+)/(\d+) \((\d+) %", caplog.text)]
    first = [own for own in told if own[1] == 6]
    assert first == told[: len(first)]
    assert max(first)[:4] == (3, 6, 30, 60)
    second = told[len(first) :]
    assert second == sorted(second)
    assert min(second)[0] == 4
    assert max(second) == (9, 9, 90, 90, 100)
    assert {(own[1], own[3]) for own in second} == {(9, 90)}
    assert all(own[0] == -(-own[2] // 10) and own[4] == 100 * own[2] // own[3] for own in told)


@each_backend
def test_a_run_that_learns_its_rows_by_heart_begins_again_with_weight_decay(backend: str) -> None:
    x, held_out = gaussian(300, "overfit", 4), gaussian(1000, "overfit validation", 4)

    def run(**arguments: Any) -> ps.History:
        flow = ps.realnvp(4, layers=4, hidden=(64, 64), rng=0, backend=backend)
        return flow.fit(x, validation=held_out, epochs=60, batch_size=60, rng=0, **arguments).history

    history = run()
    first, second = history.restarted, slice(history.restarted, None)
    assert 6 <= first < 45
    assert history.epoch == list(range(1, len(history) + 1))
    assert history.step == [5 * epoch for epoch in history.epoch]
    # The first attempt is that of a run without decay, the second one that of a run with it, until it is past its best.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.OverfitWarning)
        plain, decayed = run(weight_decay=0), run(weight_decay=0.1)
    assert plain.restarted == decayed.restarted == 0
    assert history.train_loss[:first] == plain.train_loss[:first]
    assert history.validation_loss[:first] == plain.validation_loss[:first]
    assert history.learning_rate[second] == decayed.learning_rate[: len(history) - first]
    assert history.validation_loss[second] != plain.validation_loss[: len(history) - first]
    assert history.stopped == "overfits"
    assert len(history) < first + 60
    # The better of both is kept, and the words say so.
    assert history.best_loss == min(history.validation_loss)
    assert f"After {first} epochs training began again, with weight decay" in str(history)


def test_what_is_learnt_by_heart_is_told_of_runs_that_end_in_time() -> None:
    def ring(rows: int, key: str) -> Array:
        angle, radius = rng(key).uniform(0, 2 * np.pi, rows), 1 + 0.03 * rng(key, "r").standard_normal(rows)
        return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)

    x = ring(60, "by heart")
    flow = ps.nsf_ar(2, hidden=(32, 32), rng=0)
    words = "which is kept, the training loss is .* nats higher. Its density is too narrow"
    with pytest.warns(ps.OverfitWarning, match=words):
        flow.fit(x, validation=ring(1000, "by heart, validation"), epochs=40, batch_size=10, weight_decay=0, rng=0)
    assert flow.history.best_epoch is not None
    gap = flow.history.best_loss - flow.history.train_loss[flow.history.best_epoch - 1]
    assert flow.history.gap == pytest.approx(gap)
    assert gap > 0.3
    assert not flow.history.overfits
    quiet = (
        ps.realnvp(2, layers=2, hidden=(4,), rng=0).fit(gaussian(2000, "by heart, many", 2), epochs=8, rng=0).history
    )
    assert abs(quiet.gap) < 0.2
    assert "overfits" not in str(quiet)
    unvalidated = ps.realnvp(2, layers=2, hidden=(4,), rng=0).fit(x, validation=0, epochs=2, rng=0).history
    assert np.isnan(unvalidated.gap)
    assert "nothing was validated" in str(unvalidated)


@each_backend
def test_few_rows_are_told_by_the_number_of_free_parameters_where_nothing_is_validated(backend: str) -> None:
    flow = ps.maf(3, layers=2, hidden=(30,), rng=0, backend=backend)
    weights = [value for name, value in flow.named_params().items() if name.endswith("conditioner.0.weight")]
    masked = sum(int((value == 0).sum()) for value in weights)
    assert masked > 0
    x = gaussian(flow.n_params, "few")
    free = sum(tensor.size if tensor.mask is None else int(tensor.mask.sum()) for tensor in flow._plan.tensors)
    assert free <= flow.n_params - masked
    least = -(-free // 10)
    flow.copy().fit(x[:least], validation=0, epochs=1, batch_size=4)  # silent
    flow.copy().fit(x[: least // 2], validation=x, epochs=1, batch_size=4)  # silent
    with pytest.warns(UserWarning, match=rf"{free} free parameters.*training rows \({least - 1}\)") as caught:
        flow.copy().fit(x[: least - 1], validation=0, epochs=1, batch_size=4)
    assert [warning.filename for warning in caught] == [__file__]
    size = flow.named_params()["layers.0.conditioner.0.bias"].size
    few = (free - size) // 10
    flow.copy().fit(x[: few + 1], validation=0, epochs=1, batch_size=4, freeze="layers.0.conditioner.0.bias")  # silent


@each_backend
def test_a_later_fit_on_rows_that_lie_elsewhere_says_that_it_goes_on_from_the_first(backend: str) -> None:
    x, c = gaussian(500, "moved"), gaussian(500, "moved context", 2)
    flow = ps.realnvp(3, context_dim=2, layers=2, hidden=(8,), rng=0, backend=backend)
    arguments: dict[str, Any] = {"epochs": 1, "validation": 0, "rng": 0}
    flow.fit(x, context=c, **arguments)
    flow.copy().fit(2.5 * x + 2, context=c - 2.5, **arguments)  # silent
    for rows, given, words in (
        (x + np.array([0, 1e3, 0]), c, r"column 1 of X has moved .*from .* to 1e\+03 .*reset"),
        (30 * x, c, r"columns 0, 1, 2 of X have moved"),
        (x, c + np.array([20, 0]), r"column 0 of context has moved"),
    ):
        with pytest.warns(UserWarning, match=words) as caught:
            flow.copy().fit(rows, context=given, **arguments)
        assert [warning.filename for warning in caught] == [__file__]
        flow.copy().reset().fit(rows, context=given, **arguments)  # silent
    outlier = x.copy()
    outlier[3, 1] = 1e15
    with pytest.warns(ps.OutlierWarning, match="column 1: 1 of 500 values, the farthest 1e"):  # which is no move
        flow.copy().fit(outlier, context=c, **arguments)
    plain = flow.copy().reset().fit(x, context=c, standardize=False, **arguments)
    plain.fit(x + 100, context=c, **arguments)  # silent: nothing was measured


@each_backend
@pytest.mark.parametrize("how", [True, False, "robust"])
def test_a_column_far_from_zero_is_named_with_its_distance(backend: str, how: Any) -> None:
    flow = ps.realnvp(4, layers=2, hidden=(8,), rng=0, backend=backend)
    u = rng("far").standard_normal((2000, 4))
    u -= u.mean(axis=0)
    x = u / u.std(axis=0)
    x[:, 1] += 0.95e4
    flow.copy().fit(x, epochs=1, batch_size=500, validation=0, standardize=how, learning_rate=1e-9)  # silent
    x[:, 1] += 0.15e4
    x[:, 3] = 7  # constant, and so not far
    with pytest.warns(UserWarning) as caught:  # noqa: PT030
        flow.fit(x, epochs=1, batch_size=500, validation=0, standardize=how, learning_rate=1e-9)
    far = [str(warning.message) for warning in caught if "standard deviations from zero" in str(warning.message)]
    assert len(far) == 1
    assert "float32" in far[0]
    assert "subtract" in far[0]
    named = re.match(r"column (\d) \((\d\.\d+e\+04)\) of X", far[0])
    assert named is not None
    assert named[1] == "1"
    assert float(named[2]) == pytest.approx(1.1e4, rel=0.1)
    assert all(warning.filename == __file__ for warning in caught)
    assert len(caught) == (1 if how is False else 2)


# -- history ------------------------------------------------------------------------------------


@each_backend
def test_history_has_one_entry_an_epoch(backend: str) -> None:
    flow = fresh(CASE, backend, "float32")
    x = points(CASE, 300, flow)
    flow.fit(x, epochs=4, batch_size=90)
    history = flow.history
    for name in ("epoch", "step", "train_loss", "validation_loss", "learning_rate", "seconds", "rows_per_second"):
        assert len(getattr(history, name)) == 4
    assert history.step == [3, 6, 9, 12]
    assert "4 epochs" in repr(history)


def test_history_plots_both_losses_and_marks_the_epoch_that_was_kept() -> None:
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0).fit(gaussian(300, "plot", 2), epochs=4, batch_size=90, rng=0)
    history = flow.history
    axes = history.plot()
    training, validation, kept = axes.lines
    for line, losses in ((training, history.train_loss), (validation, history.validation_loss)):
        np.testing.assert_array_equal(line.get_xdata(), history.epoch)
        np.testing.assert_array_equal(line.get_ydata(), losses)
    assert list(kept.get_xdata()) == [history.best_epoch]
    assert list(kept.get_ydata()) == [min(history.validation_loss)]
    assert "nats" in axes.get_ylabel()
    right = next(other for other in axes.figure.axes if other is not axes)
    np.testing.assert_array_equal(right.lines[0].get_xdata(), history.epoch)
    np.testing.assert_array_equal(right.lines[0].get_ydata(), history.learning_rate)
    assert right.get_ylim()[0] == 0
    assert "learning rate" in right.get_ylabel()
    told = [text.get_text() for text in axes.get_legend().get_texts()]
    assert told == [
        "training",
        "validation",
        f"kept: {history.best_loss:.3f} of epoch {history.best_epoch}",
        "learning rate",
    ]
    own = plt.figure().add_subplot()
    assert history.plot(ax=own) is own
    assert len(own.lines) == 3
    unvalidated = ps.History(epoch=[1], step=[2], train_loss=[3.0], learning_rate=[0.1])
    assert len(unvalidated.plot(ax=plt.figure().add_subplot()).lines) == 1
    with pytest.raises(ValueError, match="no epoch"):
        ps.History().plot()
    # One that was loaded has no times, and losses that are infinite or NaN have no place.
    loaded = ps.from_bytes(flow.to_bytes()).history
    assert np.isnan(loaded.seconds).all()
    assert np.isnan(loaded.rows_per_second).all()
    again = loaded.plot()
    np.testing.assert_array_equal(again.lines[1].get_ydata(), history.validation_loss)
    wild = ps.History([1, 2], [1, 2], [np.nan, np.inf], [np.inf, np.nan], [np.nan, 0.0])
    for each in (again.figure, wild.plot().figure):
        each.canvas.draw()
    plt.close("all")


# -- notebooks and batch jobs -------------------------------------------------------------------


@pytest.mark.parametrize("fitted", [False, True])
def test_a_notebook_shows_a_few_lines_and_escapes_what_is_in_them(
    fitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = ps.realnvp(3, layers=6, hidden=(8,), rng=0)
    if fitted:
        flow.fit(gaussian(100, "html"), epochs=3, batch_size=50, rng=0)
    shown = flow._repr_html_()
    outside, folded = shown.split("<details>")
    assert len(re.findall("<br>", outside)) == (1 if fitted else 0)
    assert len(outside) < 400
    assert "layer 0" not in outside
    assert "layer 0" in folded
    assert ("3 epochs" in outside) is fitted
    evil = "<script>alert('&')</script>"
    monkeypatch.setattr("penstock.flow.describe", lambda *_, **__: f"Flow {evil}\n{evil}")
    flow.history.stopped = evil
    for html in (flow._repr_html_(), flow.history._repr_html_()):
        assert "<script" not in html
        assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in html


def test_a_history_in_a_notebook_has_its_first_best_and_last_epoch() -> None:
    history = ps.History([1, 2, 3], [5, 10, 15], [3.0, 2.0, 1.0], [4.0, 3.5, 3.75], [0.3, 0.2, 0.1], best_epoch=2)
    history.seconds = history.rows_per_second = [float("nan")] * 3
    rows = re.findall("<tr>(.*?)</tr>", history._repr_html_())
    assert [re.findall("<td>(.*?)</td>", row) for row in rows[1:]] == [
        ["1", "3", "4", "0.3", ""],
        ["2", "2", "3.5", "0.2", "kept"],
        ["3", "1", "3.75", "0.1", ""],
    ]
    assert "<table>" not in ps.History()._repr_html_()


LOGGED = """if True:
    import logging, sys
    import numpy as np, penstock as ps
    heard = []
    class Keep(logging.Handler):
        def emit(self, record):
            heard.append((record.name, record.levelname, record.getMessage()))
    logger = logging.getLogger("penstock")
    x = np.random.default_rng(0).standard_normal((1000, 2))
    fit = lambda **arguments: ps.realnvp(2, layers=2, hidden=(8,), rng=0).fit(x, batch_size=90, rng=0, **arguments)
    silent = fit(epochs=3)
    assert [type(handler) for handler in logger.handlers] == [logging.NullHandler]
    logging.getLogger().addHandler(Keep())
    fit(epochs=3)
    assert heard == []
    logger.setLevel("INFO")
    told = fit(epochs=3, callbacks=lambda state: heard.append(("callback", "", str(state.epoch))))
    assert told.to_bytes() == silent.to_bytes()
    ps.set_num_threads(2)
    fit(epochs=100, validation=0)
    for line in heard:
        print(*line, sep="|")
"""


def test_the_log_has_a_line_for_each_tenth_of_a_run_and_says_once_what_computes() -> None:
    done = python(LOGGED, env={"PENSTOCK_NUM_THREADS": "1", "PENSTOCK_BACKEND": "", "PENSTOCK_ISA": ""})
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert all(line.startswith(("penstock|INFO|", "callback|")) for line in lines)
    texts = [line.split("|")[2] for line in lines]
    computes = [number for number, text in enumerate(texts) if text.startswith("computes with the ")]
    assert computes[0] == 0
    assert len(computes) == 2  # again, since the number of threads has changed
    backend = ps.realnvp(2)._backend
    assert re.fullmatch(r"computes with the \w+ backend.*, 1 thread \(PENSTOCK_NUM_THREADS\)", texts[0])
    assert backend.isa() in texts[0]
    assert backend.name != "cpp" or "the best that this processor has" in texts[0]
    assert "2 threads (penstock.set_num_threads)" in texts[computes[1]]
    short, long = lines[1 : computes[1]], texts[computes[1] + 1 :]
    # 10 steps an epoch; a line at the end of an epoch comes before its callbacks and knows its validation loss.
    at_ends = [line for line in short if re.search(r"step [123]0/30", line)]
    assert len(at_ends) == 3
    assert all("validation" in line and "best" in line for line in at_ends)
    assert [line.split("|")[0] for line in short][-2:] == ["penstock", "callback"]
    assert 3 <= sum(line.startswith("penstock") for line in short) <= 10
    percent = [int(re.search(r"\((\d+) %\)", text)[1]) for text in long]  # type: ignore[index]
    assert len(percent) == 10
    assert [p // 10 for p in percent] == list(range(1, 11))
    assert re.fullmatch(
        r"epoch 100/100, step 1100/1100 \(100 %\): training loss \d\.\d{4}, \d+\.\d s, .* rows/s", long[-1]
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OMP_NUM_THREADS": "2", "PENSTOCK_NUM_THREADS": ""}, "2 threads (OMP_NUM_THREADS)"),
        ({"OMP_NUM_THREADS": "", "PENSTOCK_NUM_THREADS": ""}, "processors that"),
        ({"PENSTOCK_BACKEND": "numba"}, "numba backend (PENSTOCK_BACKEND=numba)"),
        ({"PENSTOCK_ISA": "avx2"}, "cpp backend on avx2 (PENSTOCK_ISA says so)"),
    ],
)
def test_the_log_says_why(variables: dict[str, str], words: str) -> None:
    if "PENSTOCK_ISA" in variables and ("cpp" not in BACKENDS or "avx2" not in ps.realnvp(2)._backend.isas()):
        pytest.skip("this processor has no AVX2")
    if variables.get("PENSTOCK_BACKEND", BACKENDS[0]) not in BACKENDS:
        pytest.skip("no such backend")
    code = """if True:
        import logging, sys
        import numpy as np, penstock as ps
        logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
        ps.realnvp(2, layers=1, hidden=(4,)).fit(np.random.default_rng(0).standard_normal((100, 2)), epochs=1)
    """
    assert words in python(code, env=variables).stdout.splitlines()[0]


NOTEBOOK = """if True:
    import io, sys, types
    import numpy as np, penstock as ps
    words = sys.argv[1:]
    shell = types.ModuleType("IPython")
    shell.get_ipython = lambda: None if "script" in words else types.SimpleNamespace(config={})
    if "bare" not in words:
        sys.modules["IPython"] = shell
    flow, x = ps.realnvp(2, layers=2, hidden=(8,)), np.random.default_rng(0).standard_normal((100, 2))
    flow.fit(x, epochs=2, **({"progress": False} if "off" in words else {}))
    print("tqdm.auto" in sys.modules)
"""


@pytest.mark.parametrize(
    ("words", "shown"), [(["notebook"], True), (["bare"], False), (["script"], False), (["notebook", "off"], False)]
)
def test_under_ipython_there_is_a_bar_where_no_terminal_is(words: list[str], shown: bool) -> None:
    done = python(NOTEBOOK, *words)
    assert done.stdout == f"{shown}\n"
    assert ("rows/s" in done.stderr) is shown
    assert shown or done.stderr == ""


def test_without_a_terminal_fit_is_silent_and_on_request_it_is_not() -> None:
    code = """if True:
        import sys
        import numpy as np, penstock as ps
        flow = ps.realnvp(2, layers=2, hidden=(8,))
        x = np.random.default_rng(0).standard_normal((100, 2))
        flow.fit(x, epochs=2, progress=None if len(sys.argv) < 2 else True)
    """
    for extra, expected in (((), False), (("bar",), True)):
        done = subprocess.run(
            [sys.executable, "-c", code, *extra], capture_output=True, text=True, timeout=300, check=True
        )
        assert done.stdout == ""
        assert ("rows/s" in done.stderr) is expected
        assert expected or done.stderr == ""


def test_the_warning_filter_sees_no_warning_of_ours() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flow = fresh(CASE, BACKENDS[0], "float32")
        flow.fit(points(CASE, 150, flow), epochs=1, batch_size=30)
