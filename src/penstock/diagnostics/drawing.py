"""What the pictures share: axes, colours, and the band in which chance alone stays. matplotlib is imported when one is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._typing import Array

DATA, MODEL, BAND = "0.35", "#d95f02", "0.88"
RIGHT, WRONG = "#1b7f5c", "#b2182b"
SHOWN = 8  # columns that have a line of their own
LINES = ("#d95f02", "#1f78b4", "#1b7f5c", "#7b3294", "#a6761d", "#e7298a", "#666666", "#17a2b8")


def axes(ax: Any, figsize: tuple[float, float] = (4.8, 4.2)) -> Any:
    """The axes given, or those of a new figure."""
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("plotting needs matplotlib: pip install 'penstock[diagnostics]'") from None
    return plt.subplots(figsize=figsize, layout="constrained")[1]


def difference_of_steps(ax: Any, values: Array, heights: Array, **style: Any) -> None:
    """The distribution function less that of uniform numbers."""
    at = np.concatenate([[0.0], np.repeat(values, 2), [1.0]])
    above = np.concatenate([[0.0], np.repeat(np.concatenate([[0.0], heights]), 2)[1:-1], [1.0]])
    if len(at) > 4000:
        kept = np.unique(np.linspace(0, len(at) - 1, 4000).astype(int))
        at, above = at[kept], above[kept]
    ax.plot(at, above - at, **style)


def legend(ax: Any, count: int, **how: Any) -> None:
    """A legend where there is more than one line."""
    if count > 1:
        ax.legend(frameon=False, fontsize="small", ncols=2 if count > 4 else 1, **how)
