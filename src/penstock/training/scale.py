"""What a first fit measures on its rows: location and scale of the standardisation, and the start of ActNorm.

Everything is done in chunks, so that a table larger than memory stays where it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from penstock._typing import Array
from penstock._warn import warn
from penstock.runner import Runner
from penstock.training.rows import Rows

SCALE_MIN = 1e-300  # what is below has no reciprocal
FAR = 1e4  # standard deviations from zero: beyond them float32 becomes coarse
MOVED = 10.0  # scales of the first fit by which a column of a later one has moved, or times which it has spread
MOVED_ROWS = 200  # rows that show it
QUARTILES = 1.3489795003921634  # interquartile range of a standard normal
SAMPLE_ROWS = 10_000  # rows that start ActNorm and give the robust location and scale


def standardisation(rows: Rows, how: bool | str, sample: Rows) -> Array:
    """The buffers ``[loc, scale]`` of the rows, then those of their context; ``sample`` is a random part of them."""
    buffers = [_loc_and_scale(Rows(rows.x, None, rows.weight), how, sample, "X")]
    if rows.context is not None and sample.context is not None:
        given = Rows(rows.context, None, rows.weight)
        buffers.append(_loc_and_scale(given, how, Rows(sample.context, None, sample.weight), "context"))
    return np.concatenate(buffers)


def _loc_and_scale(rows: Rows, how: bool | str, sample: Rows, name: str) -> Array:
    """``[loc, scale]`` of the columns of the data or of the context."""
    dim = rows.x.shape[1]
    if how is False:
        _warn_far(*moments(sample), name)
        return np.concatenate([np.zeros(dim), np.ones(dim)])
    loc, scale = quantiles(sample) if how == "robust" else moments(rows)
    if how == "robust" and not scale.all():  # what is constant in a sample need not be so in the table
        scale = np.where(scale == 0, moments(rows)[1], scale)
    wild = np.flatnonzero(~(np.isfinite(loc) & np.isfinite(scale)))
    if len(wild):
        raise ValueError(f"the mean or standard deviation of column {wild[0]} of {name} overflows; rescale {name}")
    narrow = np.flatnonzero((scale > 0) & (scale < SCALE_MIN))
    if len(narrow):
        j = narrow[0]
        raise ValueError(
            f"the spread of column {j} of {name}, {scale[j]:.3g}, is too small to be divided by; rescale {name}"
        )
    _warn_far(loc, scale, name)
    constant = np.flatnonzero(scale == 0)
    if len(constant):
        which = f"column {_listed(constant)} of {name} is"
        if len(constant) > 1:
            which = f"columns {_listed(constant)} of {name} are"
        trouble = "cannot have a density" if name == "X" else "carries no information"
        warn(f"{which} constant and {trouble}; the scale is set to 1, better leave it out")
        scale[constant] = 1.0
    return np.concatenate([loc, scale])


def moments(rows: Rows) -> tuple[Array, Array]:
    """Mean and standard deviation of every column of x in two float64 passes; a constant column has exactly 0.

    Weights count by their absolute value, and rows of weight 0 not at all.
    """
    dim = rows.x.shape[1]
    total, low, high = np.zeros(dim), np.full(dim, np.inf), np.full(dim, -np.inf)
    mass = 0.0
    for x, w in _weighted(rows):
        total += (x * w).sum(axis=0)
        mass += float(w.sum())
        if len(x):
            np.minimum(low, x.min(axis=0), out=low)
            np.maximum(high, x.max(axis=0), out=high)
    mean = total / mass
    squares, rest = np.zeros(dim), np.zeros(dim)
    # The squares of a very narrow column would underflow: a power of two, which rounds nothing, widens it.
    _, exponent = np.frexp(np.where(high > low, high - low, 1.0))
    widened = np.where(exponent < -400, -exponent, 0)
    for x, w in _weighted(rows):
        x -= mean
        if widened.any():
            np.ldexp(x, widened, out=x)
        rest += (x * w).sum(axis=0)
        x *= x
        squares += (x * w).sum(axis=0)
    std = np.ldexp(np.sqrt(np.maximum(squares - rest * rest / mass, 0.0) / mass), -widened)
    # Rounding alone may give a constant column a tiny spread.
    return mean, np.where(low == high, 0.0, std)


def _weighted(rows: Rows) -> Iterator[tuple[Array, Array]]:
    """Chunks of x in float64 with their scaled weights as a column."""
    for part in rows.chunks(rows.x.shape[1]):
        x = rows.x[part].astype(np.float64, order="C")  # sums over rows then round alike, however x lies in memory
        if rows.weight is None:
            yield x, np.ones((len(x), 1))
        else:
            w = np.abs(rows.scaled_weights(part))
            yield x[w != 0], w[w != 0][:, None]


def quantiles(rows: Rows) -> tuple[Array, Array]:
    """Median and robust standard deviation of every column of x of a sample.

    The scale is the interquartile range over that of a normal. Where half of the values agree it is
    the 2.5 to 97.5 % range, and where nearly all do, the standard deviation.
    """
    if rows.weight is not None:  # rows of weight 0 may hold anything
        rows = rows.take(rows.weight != 0)
    x = rows.x
    w = np.ones(len(x)) if rows.weight is None else np.abs(rows.scaled_weights())
    levels = np.array([0.5, 0.25, 0.75, 0.025, 0.975])
    loc, scale = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        column = x[:, j].astype(np.float64)
        order = np.argsort(column, kind="stable")
        mass = np.cumsum(w[order])
        middle = (mass - 0.5 * w[order]) / mass[-1]
        median, q25, q75, low, high = np.interp(levels, middle, column[order])
        loc[j] = median
        scale[j] = (q75 - q25) / QUARTILES or (high - low) / 3.919927969080108
    return loc, np.where(scale > 0, scale, moments(rows)[1])


def _warn_far(loc: Array, scale: Array, name: str) -> None:
    """Warn about columns that lie so far from zero that float32 tells their values apart badly."""
    distance = np.where(scale > 0, np.abs(loc) / scale, 0.0)
    far = np.flatnonzero(distance > FAR)
    if len(far):
        listed = _listed(far, [f"{j} ({distance[j]:.3g})" for j in far[:10]])
        which = f"column {listed} of {name} lies" if len(far) == 1 else f"columns {listed} of {name} lie"
        step = distance[far].max() * np.finfo(np.float32).eps
        warn(
            f"{which} more than {FAR:g} standard deviations from zero (in brackets: |mean| / std). In float32 its "
            f"neighbouring values are up to {step:.2g} standard deviations apart, and what lies between is lost; "
            f"subtract an offset first, or keep both {name} and the flow in float64"
        )


def warn_moved(sample: Rows, buffers: Array) -> None:
    """Warn of columns of a later fit that lie elsewhere than those of the first, whose standardisation is kept."""
    if sample.weight is not None:
        sample = sample.take(sample.weight != 0)
    data, given = np.split(buffers, [2 * sample.x.shape[1]])
    for name, array, loc_and_scale in (("X", sample.x, data), ("context", sample.context, given)):
        loc, scale = np.split(loc_and_scale, 2)
        if array is None or ((loc == 0).all() and (scale == 1).all()):  # standardize=False measured nothing
            continue
        # By quartiles, since an outlier is no move.
        ordered = np.sort(array.astype(np.float64), axis=0)
        low, middle, high = (ordered[int(part * (len(ordered) - 1))] for part in (0.25, 0.5, 0.75))
        spread = (high - low) / QUARTILES
        moved = np.flatnonzero((np.abs(middle - loc) > MOVED * scale) | (spread > MOVED * scale))
        if len(moved):
            j = moved[0]
            which = f"column {j} of {name} has" if len(moved) == 1 else f"columns {_listed(moved)} of {name} have"
            warn(
                f"{which} moved since the first fit (column {j}: from {loc[j]:.3g} +- {scale[j]:.3g} to {middle[j]:.3g} +- "
                f"{spread[j]:.3g}). This fit goes on from the earlier one and keeps its standardisation; flow.reset() first "
                "begins anew"
            )


def _listed(columns: Array, words: Sequence[str] | None = None) -> str:
    """The first ten of some columns."""
    return ", ".join(words or map(str, columns[:10])) + (", ..." if len(columns) > 10 else "")


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
        mean, std = moments(Rows(x, None, sample.weight))
        # A spread whose reciprocal may overflow in the flow's dtype counts as none.
        tiny = float(np.finfo(plan.dtype).tiny)
        # Number by number: NumPy's logarithm has other last bits on processors with wider vectors.
        log_scale = [-math.log(s) if s > tiny else 0.0 for s in std.tolist()]
        theta = [(r, -m * math.exp(r)) for r, m in zip(log_scale, mean.tolist(), strict=True)]
        params[tensor.offset : tensor.offset + tensor.size] = np.ravel(theta)
