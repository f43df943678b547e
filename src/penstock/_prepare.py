"""What ``fit`` does with rows before the first step: look for NaN, measure location and scale, start ActNorm.

Everything is done in chunks, so that a table larger than memory stays where it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.layers import ActNorm

if TYPE_CHECKING:
    from penstock.flow import Flow

Array = np.ndarray[Any, Any]

CHUNK = 1 << 18  # numbers of X looked at together
SCALE_MIN = 1e-300  # what is below has no reciprocal
FAR = 1e4  # standard deviations from zero: beyond them float32 becomes coarse
SAMPLE_ROWS = 10_000  # rows that start ActNorm and give the robust location and scale


def chunks(n_rows: int, dim: int) -> Iterator[slice]:
    """Consecutive slices of rows, each of about ``CHUNK`` numbers."""
    size = max(1, CHUNK // max(dim, 1))
    for first in range(0, n_rows, size):
        yield slice(first, min(first + size, n_rows))


def check_finite(x: Array, weight: Array | None = None, *, name: str) -> None:
    """Raise if a row of ``x`` that counts holds NaN or infinity, saying how many do, and where the first one is."""
    count, where = 0, None
    for part in chunks(*x.shape):
        finite = np.isfinite(x[part])
        if weight is not None:
            finite |= (weight[part] == 0)[:, None]
        if finite.all():
            continue
        bad = np.flatnonzero(~finite.all(axis=1))
        count += len(bad)
        if where is None:
            where = (part.start + int(bad[0]), int(np.flatnonzero(~finite[bad[0]])[0]))
    if where is not None:
        rows = "1 row" if count == 1 else f"{count} rows"
        drop = "X = X[numpy.isfinite(X).all(axis=1)]"
        if "context" in name:
            drop = "keep = numpy.isfinite(context).all(axis=1); X, context = X[keep], context[keep]"
        raise ValueError(
            f"{name} must be finite, but {rows} of {len(x)} hold NaN or infinity; the first is row {where[0]}, "
            f"column {where[1]}: {x[where]}. To drop them: {drop}"
        )


def check_weights(weight: Array, *, name: str) -> None:
    """Raise unless the sum of the weights is above zero."""
    total = float(weight.sum(dtype=np.float64))
    if not 0 < total < np.inf:
        raise ValueError(f"the sum of {name} must be positive and finite, got {total:g}")


def split_rows(backend: Any, n_rows: int, seed: int, first: int, last: int) -> Array:
    """Row numbers at positions ``first`` to ``last - 1`` of the split permutation."""
    index = np.zeros(last - first, dtype=np.int64)
    backend.row_order(seed, 0, n_rows, first, index)
    return index


def gather(backend: Any, x: Array, seed: int, first: int, last: int) -> Array:
    """Return the rows at positions ``first`` to ``last - 1`` of the split permutation."""
    rows: Array = x[split_rows(backend, len(x), seed, first, last)]
    return rows


def moments(x: Array, weight: Array | None) -> tuple[Array, Array]:
    """Mean and standard deviation of every column in two float64 passes; a constant column has exactly 0.

    Weights count by their absolute value, and rows of weight 0 not at all.
    """
    dim = x.shape[1]
    total, low, high = np.zeros(dim), np.full(dim, np.inf), np.full(dim, -np.inf)
    mass = 0.0
    for rows, w in _weighted(x, weight):
        total += (rows * w).sum(axis=0)
        mass += float(w.sum())
        if len(rows):
            np.minimum(low, rows.min(axis=0), out=low)
            np.maximum(high, rows.max(axis=0), out=high)
    mean = total / mass
    squares, rest = np.zeros(dim), np.zeros(dim)
    # The squares of a very narrow column would underflow: a power of two, which rounds nothing, widens it.
    _, exponent = np.frexp(np.where(high > low, high - low, 1.0))
    widened = np.where(exponent < -400, -exponent, 0)
    for rows, w in _weighted(x, weight):
        rows -= mean
        if widened.any():
            np.ldexp(rows, widened, out=rows)
        rest += (rows * w).sum(axis=0)
        rows *= rows
        squares += (rows * w).sum(axis=0)
    std = np.ldexp(np.sqrt(np.maximum(squares - rest * rest / mass, 0.0) / mass), -widened)
    # Rounding alone may give a constant column a tiny spread.
    return mean, np.where(low == high, 0.0, std)


def _weighted(x: Array, weight: Array | None) -> Iterator[tuple[Array, Array]]:
    """Chunks of rows in float64 with their weights as a column."""
    for part in chunks(*x.shape):
        rows = x[part].astype(np.float64, order="C")  # sums over rows then round alike, however x lies in memory
        if weight is None:
            yield rows, np.ones((len(rows), 1))
        else:
            w = np.abs(weight[part].astype(np.float64))
            yield rows[w != 0], w[w != 0][:, None]


def quantiles(x: Array, weight: Array | None) -> tuple[Array, Array]:
    """Median and robust standard deviation of every column of a sample.

    The scale is the interquartile range over that of a normal. Where half of the values agree it is
    the 2.5 to 97.5 % range, and where nearly all do, the standard deviation.
    """
    if weight is not None:  # rows of weight 0 may hold anything
        x, weight = x[weight != 0], weight[weight != 0]
    w = np.ones(len(x)) if weight is None else np.abs(weight.astype(np.float64))
    levels = np.array([0.5, 0.25, 0.75, 0.025, 0.975])
    loc, scale = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for j in range(x.shape[1]):
        column = x[:, j].astype(np.float64)
        order = np.argsort(column, kind="stable")
        mass = np.cumsum(w[order])
        middle = (mass - 0.5 * w[order]) / mass[-1]
        median, q25, q75, low, high = np.interp(levels, middle, column[order])
        loc[j] = median
        scale[j] = (q75 - q25) / 1.3489795003921634 or (high - low) / 3.919927969080108
    return loc, np.where(scale > 0, scale, moments(x, weight)[1])


def standardisation(
    x: Array, weight: Array | None, how: bool | str, sample: tuple[Array, Array | None], *, name: str = "X"
) -> Array:
    """Return ``[loc, scale]`` for the rows ``x``, of the data or of the context; ``sample`` is a random part of them."""
    dim = x.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):
        if how is False:
            _warn_far(*moments(*sample), name)
            return np.concatenate([np.zeros(dim), np.ones(dim)])
        loc, scale = quantiles(*sample) if how == "robust" else moments(x, weight)
        if how == "robust" and not scale.all():  # what is constant in a sample need not be so in the table
            scale = np.where(scale == 0, moments(x, weight)[1], scale)
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
        names = ", ".join(map(str, constant[:10])) + (", ..." if len(constant) > 10 else "")
        which = f"column {names} of {name} is" if len(constant) == 1 else f"columns {names} of {name} are"
        trouble = "cannot have a density" if name == "X" else "tells nothing"
        warnings.warn(
            f"{which} constant and {trouble}; the scale is set to 1, better leave it out",
            UserWarning,
            stacklevel=5,
        )
        scale[constant] = 1.0
    return np.concatenate([loc, scale])


def _warn_far(loc: Array, scale: Array, name: str) -> None:
    """Warn about columns that lie so far from zero that float32 tells their values apart badly."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        distance = np.where(scale > 0, np.abs(loc) / scale, 0.0)
    far = np.flatnonzero(distance > FAR)
    if len(far):
        names = ", ".join(f"{j} ({distance[j]:.3g})" for j in far[:10]) + (", ..." if len(far) > 10 else "")
        which = f"column {names} of {name} lies" if len(far) == 1 else f"columns {names} of {name} lie"
        step = distance[far].max() * np.finfo(np.float32).eps
        warnings.warn(
            f"{which} more than {FAR:g} standard deviations from zero (in brackets: |mean| / std). In float32 its "
            f"neighbouring values are up to {step:.2g} standard deviations apart, and what lies between is lost; "
            f"subtract an offset first, or keep both {name} and the flow in float64",
            UserWarning,
            stacklevel=6,
        )


def start_actnorms(
    flow: Flow, params: Array, buffers: Array, sample: tuple[Array, Array | None], context: Array | None
) -> None:
    """Set every ActNorm in ``params`` so that the sample leaves it with mean 0 and standard deviation 1.

    It walks from the data side, since each layer sees what the ones outside it make of the data. ``context`` has the rows
    of the sample.
    """
    tensors = {tensor.name: tensor for tensor in flow._plan.tensors}
    rows, weight = sample
    last = flow._plan.n_steps
    for k in reversed(range(len(flow.spec.layers))):
        if not isinstance(flow.spec.layers[k], ActNorm):
            continue
        inner = np.zeros((len(rows), flow.dim), dtype=flow.dtype)
        packed = flow.engine.pack(params, buffers)
        flow.engine.evaluate(packed, False, k + 1, last, rows, None, context, None, False, inner, None)
        rows, last = inner, k + 1
        mean, std = moments(rows, weight)
        # A spread whose reciprocal may overflow in the flow's dtype counts as none.
        log_scale = -np.log(np.where(std > np.finfo(flow.dtype).tiny, std, 1.0))
        tensor = tensors[f"layers.{k}.theta"]
        theta = np.stack([log_scale, -mean * np.exp(log_scale)], axis=1)
        params[tensor.offset : tensor.offset + tensor.size] = theta.ravel()
