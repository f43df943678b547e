"""A tile of rows on its way through a flow, as engine and kernels see it: 64 numbers a feature, behind pointers."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from penstock._numba.core.jit import KNOWN, jit
from penstock._numba.core.plan import Plan

IGNORE, ACCUMULATE = range(2)  # what becomes of a gradient

# What conditioners see of the context: none; the rows; or where all rows share one and no gradient needs them, only the part
# that it contributes to each conditioner; or both.
NO_CONTEXT, CONTEXT_ROWS, CONTEXT_PART, CONTEXT_ROWS_AND_PART = range(4)


@jit
def has_rows(kind: int) -> bool:
    """Whether there are rows of context."""
    return kind in (CONTEXT_ROWS, CONTEXT_ROWS_AND_PART)


@jit
def has_part(kind: int) -> bool:
    """Whether there is the part of a shared context."""
    return kind in (CONTEXT_PART, CONTEXT_ROWS_AND_PART)


class Packed(NamedTuple):
    """An immutable snapshot of parameters."""

    params: Any  # flat
    loc: Any  # standardisation in float64, its scale, and 1 / scale
    scale: Any
    inverse: Any
    log_scale: float  # sum of log scale, those of mapped columns included
    context_loc: Any  # of the context in float64, and 1 / scale
    context_inverse: Any
    mapped: Any  # (n_mapped, NUMBERS_SIZE)
    context_mapped: Any  # the same of the context


class Pass(NamedTuple):
    """Which part of a flow, in which direction, and whether old values and derivatives are kept for the way back."""

    first: int
    last: int
    to_data: bool
    keep: bool
    columns: bool  # whether the columns of the data, which are standardised, are part of it
    base: bool  # whether the density of the latents is asked for


class Tile(NamedTuple):
    """The way forward."""

    rows: int  # 1 .. 64
    stop: Any  # not 0 once the call was given up: then what the tile holds has no meaning
    state: Any  # (dim, tile) by slot
    log_det: Any  # (tile) of float64
    theta: Any  # external theta, one step after the other, (n_b n_theta, tile) each
    context_kind: int
    context: Any  # what conditioners read of it, (n_context, tile)
    # For each conditioner, at START, the part of a shared context in its first layer, b + c W_c, where the products then
    # begin; for one that reads nothing else, theta.
    context_part: Any
    kept: Any  # the kept store


class TileGradient(NamedTuple):
    """The way back: cotangents, and room for those within a step."""

    state: Any  # (dim, tile) by slot
    log_det: Any  # (tile)
    theta: Any  # (widest theta, tile), of the step at work
    external: Any  # of external theta, as it lies in the tile
    context: Any  # (n_context, tile)
    hidden: Any  # (2, widest layer, tile), or input and all layers of a masked network
    hidden_half: int  # position of the second half
    transposed: Any  # (tile, widest layer padded)
    partial: Any  # 16 numbers
    params: Any  # padded gradient of this slice
    of_params: int
    of_context: int


class KernelTypes(NamedTuple):
    """The arguments of kernels in the numbers of a plan."""

    forward: Any  # step, plan, packed, inverse, n_vectors, tile, keep
    backward: Any  # step, plan, packed, inverse, n_vectors, tile, gradient
    transform_forward: Any  # run, step, plan, first, last, inverse, n_vectors, tile, keep
    transform_backward: Any  # run, step, plan, first, last, inverse, n_vectors, tile, gradient
    activate: Any  # see conditioners/activations.py
    scale: Any
    base_density: Any  # block, plan, n_vectors, tile, log_p
    base_backward: Any  # block, plan, n_vectors, tile, d_log_p, gradient
    base_draw: Any  # block, plan, n_vectors, tile, own, seed, context_row, draw, words, is_given, given, log_weight
    base_draw_backward: (
        Any  # block, plan, n_vectors, tile, own, seed, context_row, draw, words, is_given, given, gradient
    )


def _kernel_types(number: Any) -> KernelTypes:
    integer, flag = types.int64, types.boolean
    numbers, doubles, integers = (types.CPointer(kind) for kind in (number, types.float64, integer))
    counters = types.CPointer(types.uint64)

    def tuple_type(kind: Any, **fields: Any) -> Any:
        return types.BaseTuple.from_types([fields.get(field, numbers) for field in kind._fields], kind)

    counts = [name for name in Plan._fields if name.startswith("n_")] + ["dim", "context_dim"]
    lists = dict.fromkeys(
        ("steps", "runs", "linear", "boundary", "slots", "mapped", "context_mapped", "context_slots", "base"), integers
    )
    plan = tuple_type(Plan, **dict.fromkeys(counts, integer), **lists, base_numbers=doubles)
    floats = dict.fromkeys(
        ("loc", "scale", "inverse", "context_loc", "context_inverse", "mapped", "context_mapped"), doubles
    )
    packed = tuple_type(Packed, log_scale=types.float64, **floats)
    tile = tuple_type(Tile, rows=integer, stop=integers, log_det=doubles, context_kind=integer)
    gradient = tuple_type(TileGradient, hidden_half=integer, of_params=integer, of_context=integer)
    words = types.CPointer(types.uint32)
    draws = (integers, plan, integer, tile, integer, types.uint64, counters, counters, words, flag, doubles)
    return KernelTypes(
        (integers, plan, packed, flag, integer, tile, flag),
        (integers, plan, packed, flag, integer, tile, gradient),
        (integers, integers, plan, integer, integer, flag, integer, tile, flag),
        (integers, integers, plan, integer, integer, flag, integer, tile, gradient),
        (integer, numbers, integer, integer, integer),
        (integer, numbers, integer, numbers, integer, numbers, integer),
        (integers, plan, integer, tile, doubles),
        (integers, plan, integer, tile, numbers, gradient),
        (*draws, doubles),
        (*draws, gradient),
    )


KERNEL_TYPES = {number.name: _kernel_types(number) for number in (types.float32, types.float64)}
for of_kernels in KERNEL_TYPES.values():
    KNOWN.update(of_kernels)
