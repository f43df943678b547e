"""Rows so far out that the arithmetic of a flow overflows.

Their density is below every number: log p is -inf where it could not be computed. Their gradients are linear in cotangents, so
that they are found from cotangents scaled down by a power of two, and scaled up again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core.plan import FIRST, HALF_LINE, LAST, REAL

if TYPE_CHECKING:
    from penstock._numba.core.tile import Pass
    from penstock._numba.engine.calls import Context
    from penstock._numba.engine.packed import Packed

Array = np.ndarray[Any, Any]
# Cotangents (of out, of log_det) of some rows to gradients (of x, of the rows' own context).
Again = Callable[[Array, "Array | None", "Array | None"], "tuple[Array, Array | None]"]

POSITIVE, WRAP = codes.COLUMN_MAPS.index("positive"), codes.COLUMN_MAPS.index("wrap")
# Below it, squares of numbers, times weights as training gives them, are numbers too.
FAR = {4: 2.0**50, 8: 2.0**400}
# Cotangents of order one that are scaled down by so many powers of two are still normal numbers, with some room below.
MOST = {4: 120, 8: 1000}


def exponents(packed: Packed, through: Pass, given: Context, x: Array, numbers: Array) -> Array:
    """The exponents of the largest numbers of rows of x that are far out; 0 for others, and for rows with a NaN.

    A NaN may also be one of the row's context; one outside its support is no number either.
    """
    view = packed.view
    u = x[numbers].astype(np.float64)
    if through.columns and not through.to_data:
        u = (on_line(packed, u) - view.loc) * view.inverse
    largest = np.abs(u).max(axis=1)
    if given.rows.size:
        largest[without_context(packed, given.rows[numbers // given.block])] = np.nan
    limit = np.finfo(view.params.dtype)
    exponent = np.where(largest <= limit.max, np.frexp(largest)[1] - 1, limit.maxexp)
    return np.where(largest >= FAR[limit.dtype.itemsize], exponent, 0)


def without_context(packed: Packed, context: Array) -> Array:
    """Whether rows of context hold a NaN, or lie outside a support."""
    none = np.array(np.isnan(context).any(axis=1))
    for (column, kind, *_), numbers in zip(packed.context_mapped, packed.view.context_mapped, strict=True):
        x = context[:, column]
        none |= (x < numbers[FIRST]) | (x > numbers[LAST]) | ((kind == WRAP) & np.isinf(x))
    return none


def on_line(packed: Packed, x: Array) -> Array:
    """About the images of rows under the bijections of their columns.

    Only a half-line has some that are far out, and what begins a group without ends.
    """
    u = x.copy()
    for (column, kind, mirrored, opens, before, shape), numbers in zip(packed.mapped, packed.view.mapped, strict=True):
        lo, hi, scale = numbers[:3]
        if kind == POSITIVE or shape == HALF_LINE:
            end = (hi if mirrored else lo) if kind == POSITIVE or opens else x[:, before]
            u[:, column] = (x[:, column] - end) / scale
        elif opens and shape == REAL:
            continue
        else:
            none = ~np.isfinite(x[:, column]) if kind == WRAP else np.isnan(x[:, column])
            u[:, column] = np.where(none, np.nan, packed.view.loc[column])
    return u


def mend_values(packed: Packed, through: Pass, given: Context, x: Array, index: Array | None, log_p: Array) -> None:
    """In place of log p that is NaN."""
    if not through.base or not np.isnan(log_p).any():
        return
    where = np.flatnonzero(np.isnan(log_p))
    with np.errstate(all="ignore"):
        far = exponents(packed, through, given, x, where if index is None else index[where]) != 0
    log_p[where[far]] = -np.inf


def mend_gradients(
    packed: Packed, through: Pass, given: Context, x: Array, d_out: Array | None, d_log_det: Array | None,
    d_x: Array | None, d_context: Array | None, again: Again,
) -> None:  # fmt: skip
    """In place of gradients of rows, and of contexts of their own, in which there is a number that is not finite."""
    bad = np.zeros(len(x), bool)
    for gradient in (d_x, d_context):
        if gradient is not None:
            bad |= ~np.isfinite(gradient).all(axis=1)
    where = np.flatnonzero(bad)
    if not len(where):
        return
    with np.errstate(all="ignore"):
        exponent = exponents(packed, through, given, x, where)
        where, exponent = where[exponent != 0], exponent[exponent != 0]
        if not len(where):
            return
        shift = np.minimum(exponent + exponent // 2, MOST[packed.view.params.itemsize])
        scaled = again(
            where,
            None if d_out is None else np.ldexp(d_out[where], -shift[:, None]),
            None if d_log_det is None else np.ldexp(d_log_det[where], -shift),
        )
        for gradient, found in zip((d_x, d_context), scaled, strict=True):
            if gradient is None or found is None:
                continue
            rows = ~np.isfinite(gradient[where]).all(axis=1)
            # a number that is none here either has no direction
            gradient[where[rows]] = np.where(np.isnan(found), 0, np.ldexp(found, shift[:, None]))[rows]
