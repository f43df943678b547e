"""What the command ``report`` does: a model, a table, and the page of ``penstock.report``."""

from __future__ import annotations

import argparse
import sys

import numpy as np

import penstock as ps
from penstock._files import check_writable
from penstock.cli.columns import score_columns
from penstock.cli.commands import _check_output, _opened
from penstock.cli.weights import beside


def report(arguments: argparse.Namespace) -> int:
    """Print the page, and write it to a file if one is named."""
    if arguments.plot is not None:
        check_writable(arguments.plot)
        _check_output(arguments.plot, arguments.data, arguments.model, arguments.weights)
    flow = ps.load(arguments.model, backend=arguments.backend)
    table = _opened(arguments, expected=(*flow._columns, *flow._context_columns), kept=flow._missing)
    columns, given, place, weights = score_columns(arguments, table, flow)
    chunks = table.chunks([*columns, *given, *place])
    if weights is not None:
        chunks = beside(chunks, weights, table.path)
    rows = np.concatenate(list(chunks))
    lost = np.isnan(rows).any(axis=1)
    if lost.any():
        print(f"penstock: {int(lost.sum())} rows with missing values left out", file=sys.stderr)
        rows = rows[~lost]
    width = flow.dim + flow.context_dim
    page = ps.report(
        flow,
        rows[:, : flow.dim],
        rows[:, flow.dim : width] if given else None,
        sample_weight=rows[:, width] if arguments.weights is not None else None,
        path=arguments.plot,
        rng=arguments.seed,
    )
    print(page)
    if arguments.plot is not None:
        print(f"written: {arguments.plot}")
    return 0
