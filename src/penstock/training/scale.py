"""What a first fit measures on its rows: location and scale of the standardisation, and the start of ActNorm.

Everything is done in chunks, so that a table larger than memory stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from penstock._typing import Array
from penstock._warn import DataWarning, RefitWarning, warn
from penstock.columns import Names, called
from penstock.runner import Runner
from penstock.training.moments import QUARTILES, extremes, moments, quantiles
from penstock.training.outliers import survive, warn_kept
from penstock.training.rows import Rows, sides
from penstock.training.supports import Line

SCALE_MIN = 1e-300  # what is below has no reciprocal
FAR = 1e4  # standard deviations from zero: beyond them float32 becomes coarse
MOVED = 3.0  # scales of the first fit by which the median of a later one has moved, or times which it has spread
MOVED_ROWS = 256  # rows that show it
MOVED_WORTH = 30  # rows of equal weight that they must be worth
SAMPLE_ROWS = 10_000  # rows that start ActNorm and give the robust location and scale


def standardisation(rows: Rows, how: bool | str, sample: Rows, names: Names = (), context_names: Names = ()) -> Array:
    """The buffers ``[loc, scale]`` of the rows, then those of their context; ``sample`` is a random part of them.

    ``names`` and ``context_names`` are those of the columns, for messages.
    """
    buffers = [loc_and_scale(Rows(rows.x, None, rows.weight), how, sample, "X", names)]
    if rows.context is not None and sample.context is not None:
        given = Rows(rows.context, None, rows.weight)
        part = Rows(sample.context, None, sample.weight)
        buffers.append(loc_and_scale(given, how, part, "context", context_names))
    return np.concatenate(buffers)


def loc_and_scale(rows: Rows, how: bool | str, sample: Rows, name: str, names: Names) -> Array:
    """``[loc, scale]`` of the columns of the data or of the context."""
    dim = rows.x.shape[1]
    if how is not True:
        warn_kept(sample, name, names)
    if how is False:
        warn_far(*moments(sample), name, names)
        return np.concatenate([np.zeros(dim), np.ones(dim)])
    if how == "robust":
        loc, scale = quantiles(sample)
    else:
        loc, scale, ends = extremes(rows)
        survive(rows, sample, loc, scale, ends, name, names)
    if how == "robust" and not scale.all():  # what is constant in a sample need not be so in the table
        scale = np.where(scale == 0, moments(rows)[1], scale)
    wild = np.flatnonzero(~(np.isfinite(loc) & np.isfinite(scale)))
    if len(wild):
        j = called(wild[0], names)
        raise ValueError(f"the mean or standard deviation of column {j} of {name} overflows; rescale {name}")
    narrow = np.flatnonzero((scale > 0) & (scale < SCALE_MIN))
    if len(narrow):
        j = narrow[0]
        raise ValueError(
            f"the spread of column {called(j, names)} of {name}, {scale[j]:.3g}, is too small to be divided by; rescale {name}"
        )
    warn_far(loc, scale, name, names)
    constant = np.flatnonzero(scale == 0)
    if len(constant):
        which = f"column {_listed(constant, names)} of {name} is"
        if len(constant) > 1:
            which = f"columns {_listed(constant, names)} of {name} are"
        trouble = "cannot have a density" if name == "X" else "carries no information"
        warn(f"{which} constant and {trouble}; the scale is set to 1, better leave it out", DataWarning, about=name)
        scale[constant] = 1.0
    return np.concatenate([loc, scale])


def warn_far(loc: Array, scale: Array, name: str, names: Names) -> None:
    """Warn about columns that lie so far from zero that float32 tells their values apart badly."""
    distance = np.where(scale > 0, np.abs(loc) / scale, 0.0)
    far = np.flatnonzero(distance > FAR)
    if len(far):
        listed = _listed(far, names, [f"{called(j, names)} ({distance[j]:.3g})" for j in far[:10]])
        which = f"column {listed} of {name} lies" if len(far) == 1 else f"columns {listed} of {name} lie"
        step = distance[far].max() * np.finfo(np.float32).eps
        warn(
            f"{which} more than {FAR:g} standard deviations from zero (in brackets: |mean| / std). In float32 its "
            f"neighbouring values are up to {step:.2g} standard deviations apart, and what lies between is lost; "
            f"subtract an offset first, or keep both {name} and the flow in float64",
            DataWarning,
            about=name,
        )


def warn_moved(sample: Rows, buffers: Array, columns: Names = (), context_columns: Names = ()) -> None:
    """Warn of columns of a later fit that lie elsewhere than those of the first, whose standardisation is kept."""
    weight, whole = None, sample
    if sample.weight is not None:
        sample = sample.take(sample.weight != 0)
        weight = np.abs(sample.scaled_weights())
        if weight.sum() ** 2 < MOVED_WORTH * (weight * weight).sum():
            return
    data, given = sides(sample.x, sample.context, buffers)
    for name, names, of, array, loc_and_scale in (
        ("X", columns, whole.x, sample.x, data), ("context", context_columns, whole.context, sample.context, given),
    ):  # fmt: skip
        half = len(loc_and_scale) // 2
        loc, scale = loc_and_scale[:half], loc_and_scale[half:]
        if array is None or ((loc == 0).all() and (scale == 1).all()):  # standardize=False measured nothing
            continue
        # By quartiles, since an outlier is no move.
        low, middle, high = _quartiles(array.astype(np.float64), weight)
        spread = (high - low) / QUARTILES
        has_moved = (np.abs(middle - loc) > MOVED * scale) | (spread > MOVED * scale)
        moved = np.flatnonzero(has_moved & (of.standardised if isinstance(of, Line) else True))
        if len(moved):
            j = moved[0]
            listed = _listed(moved, names)
            which = f"column {listed} of {name} has" if len(moved) == 1 else f"columns {listed} of {name} have"
            change = f"from {loc[j]:.3g} +- {scale[j]:.3g} to {middle[j]:.3g} +- {spread[j]:.3g}"
            warn(
                f"{which} moved since the first fit (column {called(j, names)}: {change}). This fit goes on from the earlier one "
                "and keeps its standardisation; flow.reset() first begins anew",
                RefitWarning,
                about=name,
            )


def _quartiles(array: Array, weight: Array | None) -> Array:
    """First quartile, median and third quartile of columns, of shape (3, columns)."""
    parts = (0.25, 0.5, 0.75)
    if weight is None:
        places = [int(part * (len(array) - 1)) for part in parts]
        found: Array = np.partition(array.T, places)[:, places].T
        return found
    order = np.argsort(array, axis=0)
    mass = np.cumsum(weight[order], axis=0)
    rows = [(mass < part * mass[-1]).sum(axis=0) for part in parts]
    return np.take_along_axis(array, np.take_along_axis(order, np.array(rows), axis=0), axis=0)


def _listed(columns: Array, names: Names, words: Sequence[str] | None = None) -> str:
    """The first ten of some columns."""
    return ", ".join(words or [called(j, names) for j in columns[:10]]) + (", ..." if len(columns) > 10 else "")


def start_actnorms(
    runner: Runner, layers: Sequence[int], params: Array, buffers: Array, sample: Rows, frozen: Array | None
) -> None:
    """Set ActNorm layers in ``params`` so that the sample leaves each with mean 0 and standard deviation 1.

    It walks from the data side, since each layer sees what the ones outside it make of the data. A frozen layer keeps its
    numbers.
    """
    plan = runner.plan
    tensors = {tensor.name: tensor for tensor in plan.tensors}
    x, last = sample.x, plan.n_steps
    for k in sorted(layers, reverse=True):
        tensor = tensors[f"layers.{k}.theta"]
        if frozen is not None and any(first <= tensor.offset < first + count for first, count in frozen):
            continue
        packed = runner.pack(params, buffers)
        x, _ = runner.transform(packed, False, x, sample.context, first=k + 1, last=last)
        last = k + 1
        mean, std = moments(Rows(x[:, list(tensor.dims)], None, sample.weight))
        # A spread whose reciprocal may overflow in the flow's dtype counts as none.
        tiny = float(np.finfo(plan.dtype).tiny)
        # Number by number: NumPy's logarithm has other last bits on processors with wider vectors.
        log_scale = [-math.log(s) if s > tiny else 0.0 for s in std.tolist()]
        theta = [(r, -m * math.exp(r)) for r, m in zip(log_scale, mean.tolist(), strict=True)]
        params[tensor.offset : tensor.offset + tensor.size] = np.ravel(theta)
