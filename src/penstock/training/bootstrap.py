"""The bootstrap of a table: how often a row is drawn becomes its weight, so that its copies stay on one side of a split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from penstock.training.data import Data


def bootstrapped(data: Data, seed: int) -> Data:
    """The rows of a fit, each with its weight times how often ``rows`` draws with replacement take it.

    ``numpy.random.default_rng(seed).integers(rows, size=rows)`` are the draws. Rows that are never drawn have weight 0.
    """
    rows = data.rows
    n = len(rows)
    counts = np.bincount(np.random.default_rng(seed).integers(n, size=n), minlength=n).astype(np.float64)
    weight = counts if rows.weight is None else counts * rows.weight
    return replace(data, rows=replace(rows, weight=weight), drawn=True)
