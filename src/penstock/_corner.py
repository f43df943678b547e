"""The picture of the demo: real galaxies against sampled ones, in every pair of columns and in colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from penstock._typing import Array

LABELS = ("redshift", "$u$", "$g$", "$r$", "$i$", "$z$", "$y$")
REAL, SAMPLED = "0.35", "#d95f02"
GREYS = ("0.88", "0.72", "0.5")
MASSES = (0.95, 0.68, 0.39)  # what the contours enclose
BINS = 56


def corner_plot(real: Array, sampled: Array) -> Figure:
    """Seven by seven panels below the diagonal, colours above it."""
    dim = real.shape[1]
    figure = Figure(figsize=(13, 13))
    grid = figure.add_gridspec(dim, dim, left=0.06, right=0.985, bottom=0.055, top=0.985, wspace=0.06, hspace=0.06)
    spans = [_span(real[:, j]) for j in range(dim)]
    for row in range(dim):
        for column in range(row + 1):
            axes = figure.add_subplot(grid[row, column])
            if row == column:
                _marginal(axes, real[:, row], sampled[:, row], spans[row])
            else:
                _pair(axes, real[:, [column, row]], sampled[:, [column, row]], (spans[column], spans[row]))
            axes.xaxis.set_major_locator(MaxNLocator(4, prune="both"))
            axes.tick_params(labelsize=8, labelbottom=row == dim - 1, labelleft=column == 0 and row > 0, direction="in")
            if row == dim - 1:
                axes.set_xlabel(LABELS[column])
            if column == 0 and row > 0:
                axes.set_ylabel(LABELS[row])
    _colours(figure, real, sampled)
    handles = [
        Patch(facecolor=GREYS[1], edgecolor=REAL, label=f"{len(real)} real galaxies"),
        Line2D([], [], color=SAMPLED, lw=1.5, label=f"{len(sampled)} sampled from the flow"),
    ]
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.2, 0.985), frameon=False, fontsize=13)
    enclosed = ", ".join(f"{100 * mass:.0f}" for mass in reversed(MASSES))
    figure.text(
        0.205,
        0.925,
        f"contours enclose {enclosed} %;\npoints are galaxies outside of them",
        fontsize=9,
        color="0.3",
        va="top",
    )
    return figure


def _span(column: Array) -> tuple[float, float]:
    low, high = np.quantile(column, (0.002, 0.998))
    pad = 0.06 * (high - low)
    return float(low - pad), float(high + pad)


def _marginal(axes: Any, real: Array, sampled: Array, span: tuple[float, float]) -> None:
    edges = np.linspace(*span, 45)
    axes.hist(real, edges, density=True, histtype="stepfilled", facecolor=GREYS[1], edgecolor=REAL, lw=0.8)
    axes.hist(sampled, edges, density=True, histtype="step", color=SAMPLED, lw=1.3)
    axes.set_xlim(span)
    axes.set_yticks([])


def _pair(axes: Any, real: Array, sampled: Array, spans: Sequence[tuple[float, float]]) -> None:
    for rows, colour, filled in ((real, REAL, True), (sampled, SAMPLED, False)):
        x, y, density, levels = _density(rows, spans)
        outside = density[_bin(rows[:, 0], spans[0]), _bin(rows[:, 1], spans[1])] < levels[0]
        axes.plot(*rows[outside].T, ".", color=colour, ms=1.3, alpha=0.6, mew=0, rasterized=True, zorder=1)
        if filled:
            axes.contourf(x, y, density.T, [*levels, np.inf], colors=GREYS, zorder=2)
        else:
            axes.contour(x, y, density.T, levels, colors=colour, linewidths=0.9, zorder=3)
    axes.set_xlim(spans[0])
    axes.set_ylim(spans[1])


def _bin(values: Array, span: tuple[float, float]) -> Array:
    low, high = span
    index: Array = np.clip(((values - low) / (high - low) * BINS).astype(int), 0, BINS - 1)
    return index


def _density(rows: Array, spans: Sequence[tuple[float, float]]) -> tuple[Array, Array, Array, list[float]]:
    """Centres of the bins, a lightly smoothed histogram, and the levels that enclose ``MASSES``, rising."""
    counts, *edges = np.histogram2d(rows[:, 0], rows[:, 1], bins=BINS, range=spans)
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / 0.9) ** 2)
    kernel /= kernel.sum()
    for axis in (0, 1):
        counts = np.apply_along_axis(np.convolve, axis, counts, kernel, mode="same")
    falling = np.sort(counts.ravel())[::-1]
    enclosed = np.cumsum(falling) / falling.sum()
    levels = [float(falling[np.searchsorted(enclosed, mass)]) for mass in MASSES]
    x, y = (0.5 * (edge[1:] + edge[:-1]) for edge in edges)
    return x, y, counts, levels


def _colours(figure: Figure, real: Array, sampled: Array) -> None:
    """Colours, which are small differences of large magnitudes: the sharpest test that there is by eye."""
    panels = (
        ("$r - i$", "$g - r$", (-0.45, 1.45), (-0.5, 2.0)),
        ("redshift", "$g - i$", (-0.1, 2.9), (-0.6, 3.4)),
    )
    for row, (x_label, y_label, x_span, y_span) in enumerate(panels):
        for column, (rows, colour, name) in enumerate(((real, REAL, "real"), (sampled, SAMPLED, "sampled"))):
            axes = figure.add_axes((0.545 + 0.225 * column, 0.825 - 0.205 * row, 0.21, 0.16))
            x, y = (
                (rows[:, 3] - rows[:, 4], rows[:, 2] - rows[:, 3])
                if row == 0
                else (rows[:, 0], rows[:, 2] - rows[:, 4])
            )
            axes.plot(x, y, ".", color=colour, ms=1.6, alpha=0.45, mew=0, rasterized=True)
            axes.set_xlim(x_span)
            axes.set_ylim(y_span)
            axes.set_xlabel(x_label)
            axes.tick_params(labelsize=8, direction="in", labelleft=column == 0)
            axes.text(
                0.96,
                0.06 if row == 0 else 0.94,
                name,
                transform=axes.transAxes,
                ha="right",
                va="bottom" if row == 0 else "top",
                color=colour,
                fontsize=12,
            )
            if column == 0:
                axes.set_ylabel(y_label)
