"""The picture of a report: calibration above, columns below, findings in words at the foot."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from penstock.diagnostics import drawing
from penstock.diagnostics.statistics import pm

if TYPE_CHECKING:
    from penstock.diagnostics.page import Report

ACROSS = 4  # panels in a row
COLUMNS = 8  # that have a histogram
TITLES = {
    "regions": "regions of highest density",
    "PIT": "each column by itself (PIT)",
    "TARP": "balls around points (TARP)",
    "latents": "latents against the base",
    "pairs": "correlations",
    "CRPS": "score against expectation",
    "C2ST": "classifier",
}
PREFERRED = ("regions", "PIT", "latents", "TARP", "pairs", "CRPS", "C2ST")
WRAPPED, SHOWN = 150, 6
SIDE, HEAD, UPPER, LOWER, LINE = 13.5, 1.1, 3.6, 2.3, 0.19  # inches


def drawn(report: Report) -> Any:
    """The figure of a report. All lengths are in inches, from the top."""
    checks = report.checks
    every = [name for name in PREFERRED if name in checks]
    above, marginals = every[:ACROSS], checks["marginals"]
    order = sorted(np.argsort(marginals.p_values, kind="stable")[:COLUMNS].tolist())
    rows = -(-len(order) // ACROSS)
    # What is left of the last row shows more checks.
    more = every[ACROSS:][: rows * ACROSS - len(order)]
    words = _words(report)
    foot = LINE * (len(words) + 1)
    height = HEAD + UPPER + rows * LOWER + foot
    figure = Figure(figsize=(SIDE, height))
    _heading(figure, report, height)

    def grid(n: int, top: float, tall: float, gap: float) -> Any:
        return figure.add_gridspec(
            n, ACROSS, left=0.75 / SIDE, right=1 - 0.2 / SIDE, wspace=0.34, hspace=gap, top=1 - top / height,
            bottom=1 - (top + tall) / height,
        )  # fmt: skip

    cells = grid(1, HEAD, UPPER - 0.75, 0.0)
    for k, name in enumerate(above):
        _panel(figure.add_subplot(cells[0, k]), name, checks[name])
    cells = grid(rows, HEAD + UPPER + 0.15, rows * LOWER - 0.75, 0.52)
    places = [cells[k // ACROSS, k % ACROSS] for k in range(rows * ACROSS)]
    limit = 0.01 / len(marginals.columns)
    for place, j in zip(places, order, strict=False):
        ax = figure.add_subplot(place)
        marginals.plot(ax, column=j)
        failed = marginals.p_values[j] < limit
        ax.set_xlabel("")
        _title(ax, marginals.columns[j], not failed)
        ax.tick_params(labelsize=8)
    for place, name in zip(places[len(order) :], more, strict=False):
        _panel(figure.add_subplot(place), name, checks[name])
    handles = [
        Patch(facecolor="0.8", edgecolor=drawing.DATA, label="rows"),
        Line2D([], [], color=drawing.MODEL, lw=1.4, label="draws of the model"),
    ]
    figure.legend(
        handles=handles, frameon=False, fontsize=9, ncols=2, loc="center left", borderaxespad=0,
        bbox_to_anchor=(0.75 / SIDE, 1 - (HEAD + UPPER - 0.22) / height),
    )  # fmt: skip
    for line, (text, colour, weight) in enumerate(words):
        y = foot - LINE * (line + 0.6)
        figure.text(0.2 / SIDE, y / height, text, fontsize=9, color=colour, weight=weight, va="center")
    return figure


def _panel(ax: Any, name: str, check: Any) -> None:
    check.plot(ax)
    _title(ax, TITLES[name], check.passed)
    ax.tick_params(labelsize=8)
    ax.xaxis.label.set_size(9)
    ax.yaxis.label.set_size(9)
    if name == "pairs":  # the title and the colours say it
        ax.figure.axes[-1].tick_params(labelsize=8)
        ax.figure.axes[-1].yaxis.label.set_size(8)


def _heading(figure: Any, report: Report, height: float) -> None:
    title = textwrap.shorten(report.model, 110, placeholder=" ...")
    count = len(report.findings)
    state = "nothing is wrong, as far as they tell" if report.passed else f"{count} finding{'s' if count > 1 else ''}"
    score = f"{report.rows} rows, {pm(report.score, report.score_error)} nats a row"
    lines = (
        (0.28, title[0].upper() + title[1:], 13, "k"),
        (0.56, f"{score}: {state}. Grey: what chance alone does.", 10, "0.3"),
    )
    for top, text, size, colour in lines:
        figure.text(0.2 / SIDE, 1 - top / height, text, fontsize=size, color=colour, va="center")


def _title(ax: Any, text: str, passed: bool) -> None:
    """What a panel shows, in the colour of its outcome, which a sign says, too."""
    sign = "\N{CHECK MARK}" if passed else "\N{MULTIPLICATION X}"
    ax.set_title(f"{sign} {text}", fontsize=10, color=drawing.RIGHT if passed else drawing.WRONG, loc="left")


def _words(report: Report) -> list[tuple[str, str, str]]:
    """Lines of the foot: text, colour, weight."""
    if report.passed:
        return [(report.headline[0].upper() + report.headline[1:] + ".", drawing.RIGHT, "bold")]
    out = []
    for number, finding in enumerate(report.findings[:SHOWN], 1):
        fault = textwrap.wrap(finding.fault, WRAPPED, initial_indent=f"{number}. ", subsequent_indent="    ")
        cure = textwrap.wrap(f"try: {finding.cure}", WRAPPED, initial_indent="    ", subsequent_indent="          ")
        out += [(line, drawing.WRONG, "bold") for line in fault] + [(line, "0.2", "normal") for line in cure]
    if len(report.findings) > SHOWN:
        out.append((f"and {len(report.findings) - SHOWN} more: print the report", "0.2", "normal"))
    return out
