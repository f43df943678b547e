"""The report says what is wrong with a model that is wrong in a known way, and its picture can be read."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import assign
from penstock.diagnostics import page

Array = np.ndarray[Any, Any]

ROWS = 3000


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier takes most of the time, and has its own test."""
    monkeypatch.setattr(page, "CLASSIFIED", 200)


def normal(dim: int, scale: float = 1.0, context_dim: int = 0, **options: Any) -> ps.Flow:
    """A flow that is a normal density of this width, whatever the context."""
    flow = ps.nsf_ar(
        dim, context_dim=context_dim, layers=1, hidden=(4,), mixing="none", dtype="float64", rng=0, **options
    )
    buffers = np.array(flow._snapshot.buffers)
    buffers[dim : 2 * dim] = scale
    assign(flow, buffers=buffers, initialised=True)
    return flow


def rows(seed: int = 0, dim: int = 2) -> Array:
    return np.random.default_rng(seed).normal(size=(ROWS, dim))


def exponential() -> Array:
    x = rows()
    x[:, 1] = np.random.default_rng(1).exponential(size=ROWS)
    return x


def correlated() -> Array:
    x = rows()
    x[:, 1] = 0.6 * x[:, 0] + 0.8 * x[:, 1]
    return x


WRONG = {
    "narrow": (lambda: normal(2, 0.8), rows, "the model is too narrow", "ps.Ensemble"),
    "wide": (lambda: normal(2, 1.25), rows, "the model is too wide", "train longer"),
    "end": (lambda: normal(2), exponential, "of x1 below", 'support={1: "positive"'),
    "lattice": (lambda: normal(2), lambda: np.round(rows() * [1, 4]) / [1, 4], "few values", "dequantize"),
    "shift": (lambda: normal(2), lambda: rows() + 0.2 * np.array([0, 1]), "x1 0.2", "train on both"),
    "pairs": (lambda: normal(2), correlated, "x0 and x1 have correlation", "mixing"),
    "tails": (
        lambda: normal(2),
        lambda: np.random.default_rng(0).standard_t(3, size=(ROWS, 2)) / 1.4,
        "heavier tails",
        "StudentT",
    ),
    "support": (lambda: normal(2, support={0: (-2.0, None)}), rows, "have density 0", "widen the support"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said_with_a_cure(name: str) -> None:
    make, data, fault, cure = WRONG[name]
    report = ps.report(make(), data())
    found = [finding for finding in report.findings if fault in finding.fault]
    assert found, str(report)
    assert cure in found[0].cure
    assert not report.passed
    assert found[0].fault.split()[0] in str(report)
    assert max(map(len, str(report).splitlines())) <= page.WIDTH


@pytest.mark.parametrize("kind", ["flow", "contexts", "one context", "given", "circle, box", "one column"])
def test_a_right_model_is_told_so(kind: str) -> None:
    X, context = rows(3), np.random.default_rng(1).normal(size=(ROWS, 2))
    if kind == "flow":
        report = ps.report(normal(2), X)
    elif kind == "contexts":
        report = ps.report(normal(2, context_dim=2), X, context)
    elif kind == "one context":
        report = ps.report(normal(2, context_dim=2), X, context[0])
    elif kind == "given":
        report = ps.report(normal(2, context_dim=2).given(context[0]), X)
    elif kind == "one column":
        report = ps.report(normal(1), X[:, :1])
    else:
        flow = ps.nsf_ar(2, support=[ps.periodic(0, 360), (0, 1)], layers=1, hidden=(4,), rng=0)
        report = ps.report(flow, np.random.default_rng(0).uniform(size=(ROWS, 2)) * [360, 1])
    assert report.passed, str(report)
    assert "nothing is wrong" in str(report)
    assert "nothing is wrong" in repr(report)
    names = [name for name, _, _ in report.lines()]
    assert ("pairs" in names) == (kind != "one column")
    assert {"regions", "PIT", "TARP", "CRPS", "marginals", "latents", "C2ST"} <= set(names)
    assert report.score == pytest.approx(-1.419 * (2 if kind != "one column" else 1), abs=0.1) or kind == "circle, box"


def test_a_report_is_the_same_twice_and_weights_count() -> None:
    flow, X = normal(2), 1.3 * rows()
    weight = np.exp(-0.5 * ((X**2).sum(axis=1) * (1 - 1 / 1.69)))
    weighted = ps.report(flow, X, sample_weight=weight)
    assert weighted.passed, str(weighted)
    assert weighted.omitted == {"C2ST": "the classifier takes no weights"}
    assert not ps.report(flow, X).passed
    again = ps.report(flow, X, sample_weight=weight)
    assert again.lines() == weighted.lines()


@pytest.mark.parametrize("dim", [1, 2, 7, 12])
def test_no_words_of_the_picture_overlap(dim: int, tmp_path: Path) -> None:
    flow = normal(dim, 0.9)
    flow.columns = [f"column <{j}>" for j in range(dim)]
    report = ps.report(flow, rows(dim=dim), path=tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 20_000
    figure = report.plot()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure).draw()
    texts = [*figure.texts, *figure.legends[0].get_texts()]
    for ax in figure.axes:
        texts += [ax.title, ax._left_title, *(ax.get_legend().get_texts() if ax.get_legend() else ())]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
            texts += [axis.label, *(label for place, label in ticks if low <= place <= high)]
    shown = [
        (text.get_text(), text.get_window_extent()) for text in texts if text.get_visible() and text.get_text().strip()
    ]
    assert len(shown) > 40
    for (a, first), (b, second) in itertools.combinations(shown, 2):
        # A pixel of touch is no overlap.
        apart = first.x1 <= second.x0 + 1.5 or second.x1 <= first.x0 + 1.5
        apart = apart or first.y1 <= second.y0 + 1.5 or second.y1 <= first.y0 + 1.5
        assert apart or first.count_overlaps([second]) == 0 or (first.bounds == second.bounds and a == b), (a, b)
    width, height = figure.canvas.get_width_height()
    for words, box in shown:
        assert box.x0 > -1, words
        assert box.x1 < width + 1, words
        assert box.y0 > -1, words
        assert box.y1 < height + 1, words


def test_a_report_goes_into_files_and_notebooks(tmp_path: Path) -> None:
    flow = normal(2)
    flow.columns = ["a<b", "c"]
    report = ps.report(flow, exponential())
    for name in ("page.txt", "page.pdf", "page.svg"):
        report.save(tmp_path / name)
    assert (tmp_path / "page.txt").read_text(encoding="utf-8") == f"{report}\n"
    assert (tmp_path / "page.pdf").read_bytes()[:4] == b"%PDF"
    html = report._repr_html_()
    assert "a&lt;b" in html
    assert "a<b" not in html
    assert "data:image/png;base64," in html
    with pytest.raises(ValueError, match=r"path must end in \.txt"):
        report.save(tmp_path / "page.doc")
    with pytest.raises(ValueError, match=r"path must end in \.txt"):
        ps.report(flow, exponential(), path=tmp_path / "page.doc")


def test_the_command_line_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from penstock.cli import main

    flow = normal(1, 0.8, context_dim=1)
    flow.columns, flow.context_columns = ["x"], ["c"]
    flow.save(tmp_path / "flow.safetensors")
    X, weight = rows(), np.ones(ROWS)
    table = np.column_stack([X, weight])
    lines = ["c,x,w", *(",".join(map(repr, row.tolist())) for row in table), "1.0,,1.0"]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    model, data, page = (str(tmp_path / name) for name in ("flow.safetensors", "table.csv", "page.txt"))
    assert main(["report", model, data, "--plot", page, "--seed", "0", "--missing", ""]) == 0
    out, err = capsys.readouterr()
    expected = ps.report(flow, X[:, 1:], X[:, :1])
    assert [line for line in str(expected).splitlines() if " s" not in line] == [
        line for line in (tmp_path / "page.txt").read_text().splitlines() if " s" not in line
    ]
    assert "too narrow" in out
    assert "1 rows with missing values left out" in err
    assert main(["report", model, data, "--weights", "w", "--missing", ""]) == 0
    assert "takes no weights" in capsys.readouterr().out
    assert main(["report", model, data, "--plot", model]) == 1


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    report = ps.report(normal(2), rows())
    assert "scikit-learn" in report.omitted["C2ST"]
    assert "not made" in str(report)
    monkeypatch.setitem(sys.modules, "penstock.diagnostics.picture", None)
    with pytest.raises(ImportError, match="matplotlib"):
        report.plot()
    assert "all checks" in report._repr_html_()
    for X, words in ((rows()[:49], "at least 50 rows"), (-np.abs(rows()) - 3, "all rows of X have density 0")):
        with pytest.raises(ValueError, match=words):
            ps.report(normal(2, support="positive"), X)
