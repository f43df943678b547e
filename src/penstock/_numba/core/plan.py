"""A plan as the kernels see it: rows of integers that engine/layout.py makes from a table."""

from __future__ import annotations

from typing import Any, NamedTuple

from numba.core import types

from penstock import plan_table as codes
from penstock._numba.core.jit import KNOWN, jit
from penstock._numba.core.pointers import beyond

PERMUTATION, ELEMENTWISE, COUPLING, COLUMNS, LU_LINEAR, AUTOREGRESSIVE = range(len(codes.STEP_KINDS))
FREE, MLP, RESIDUAL_MLP, EXTERNAL = range(4)  # where theta comes from
RELU, TANH, SILU, GELU, LEAKY_RELU = range(1, 6)  # activations that are computed

# Columns of Plan.steps. Positions in the kept store: KEPT of the old values of B, (n_b, tile); INPUT of the conditioner's
# input, (n_u, tile); THETA of theta, (n_b n_theta, tile); in an LU layer, of x and of v, (n_b, tile), before c. ORDER and
# SIGNS, of an LU layer, point into Plan.slots. N_CONTEXT of the N_U inputs are features of the context, START is a position
# in Tile.starts. EXTERNAL_AT is the position of external theta, (n_b n_theta, tile), in Tile.theta and in Tile.d_external.
# The last six are addresses of kernels, 0 where there is nothing to do: of the layer, its transform, its activation.
(
    KIND, EXPLICIT_TO_DATA, TRANSFORM, N_THETA, CONDITIONER, ACTIVATION, N_LINEAR, N_A, N_B, N_U, A, B, LINEAR,
    OPTIONS, N_OPTIONS, PARAMS, GRAD, KEPT, INPUT, THETA, ORDER, SIGNS, N_CONTEXT, START, EXTERNAL_AT,
    FORWARD, BACKWARD, TRANSFORM_FORWARD, TRANSFORM_BACKWARD, ACTIVATE, SCALE_BY_DERIVATIVE,
) = range(31)  # fmt: skip
STEP_SIZE = 31
# Columns of Plan.linear, one row a linear layer: offsets into the parameters, into a padded gradient with rows of
# GRAD_STRIDE, and of output and derivative, (n_out, tile) each, in the kept store; DERIVATIVE < 0: not kept. Of a masked
# layer: GRADIENT of its outputs, (n_out, tile), in d_hidden; IN_START and OUT_START point into Plan.slots, where the numbers
# of the first input and output of each degree stand, degrees + 1 each.
(
    N_IN, N_OUT, WEIGHT, BIAS, GRAD_WEIGHT, GRAD_BIAS, GRAD_STRIDE, OUTPUT, DERIVATIVE, GRADIENT, IN_START, OUT_START,
) = range(12)  # fmt: skip
LINEAR_SIZE = 12


class Plan(NamedTuple):
    """What is known of a flow but its parameters."""

    dim: int
    context_dim: int
    n_steps: int
    n_external: int  # numbers of external theta a row
    # (n_steps + 1, STEP_SIZE); the last row is the embedding, between the context and what conditioners read of it:
    # N_LINEAR 0 if there is none, and THETA its output
    steps: Any
    linear: Any  # (layers, LINEAR_SIZE)
    boundary: Any  # (n_steps + 1, dim): slot of each dimension
    slots: Any  # the slots that A and B of the steps point to; orders and signs; starts of degrees
    options: Any  # of the transforms, in the dtype of the plan


class Packed(NamedTuple):
    """An immutable snapshot of parameters."""

    params: Any  # flat
    loc: Any  # standardisation in float64, its scale, and 1 / scale
    scale: Any
    inverse: Any
    log_scale: float  # sum of log scale
    context_loc: Any  # of the context in float64, and 1 / scale
    context_inverse: Any


class Pass(NamedTuple):
    """Which part of a flow, in which direction, and whether old values and derivatives are kept for the way back."""

    first: int
    last: int
    to_data: bool
    keep: bool
    standardises: bool  # whether the part holds the columns
    base: bool  # whether the density of the latents is asked for


class Tile(NamedTuple):
    """A tile on its way through a flow: 64 numbers a feature."""

    rows: int  # 1 .. 64
    state: Any  # (dim, tile) by slot
    log_det: Any  # (tile) of float64
    theta: Any  # external theta, one step after the other, (n_b n_theta, tile) each
    # what conditioners read of the context, (n_context, tile); nothing where all rows share one and no gradient needs it
    context: Any
    # Of a context that all rows share: for each conditioner its part of the first layer, b + c W_c, where the products then
    # begin; for one that reads nothing else, theta. Nothing where rows have contexts of their own.
    starts: Any
    kept: Any  # the kept store
    # the way back only
    gradient: Any  # (dim, tile) by slot: cotangents of the state
    log_det_bar: Any  # (tile): cotangent of the log-determinant
    d_theta: Any  # (widest theta, tile)
    d_external: Any  # as theta: its gradient, which outlives the step
    d_context: Any  # (n_context, tile), added to; nothing if unwanted
    d_hidden: Any  # (2, widest layer, tile), or input and all layers of a masked network
    d_hidden_half: int  # position of the second half of d_hidden
    transposed: Any  # (tile, widest layer padded)
    partial: Any  # 16 numbers
    params_gradient: Any  # padded gradient of this slice


class KernelTypes(NamedTuple):
    """The arguments of kernels in the numbers of a plan."""

    layer: Any  # step, plan, packed, inverse, n_vectors, tile, and keep or want_params
    transform: Any  # step, plan, first, last, inverse, n_vectors, tile, keep
    activate: Any  # see conditioners/activations.py
    scale: Any


def _kernel_types(number: Any) -> KernelTypes:
    integer, flag = types.int64, types.boolean
    numbers, doubles, integers = (types.CPointer(kind) for kind in (number, types.float64, integer))
    plan = types.BaseTuple.from_types([integer] * 4 + [integers] * 4 + [numbers], Plan)
    packed = types.BaseTuple.from_types([numbers, *[doubles] * 3, types.float64, *[doubles] * 2], Packed)
    fields = dict.fromkeys(Tile._fields, numbers) | {"rows": integer, "log_det": doubles, "d_hidden_half": integer}
    tile = types.BaseTuple.from_types(list(fields.values()), Tile)
    return KernelTypes(
        (integers, plan, packed, flag, integer, tile, flag),
        (integers, plan, integer, integer, flag, integer, tile, flag),
        (integer, numbers, integer, integer, integer),
        (integer, numbers, integer, numbers, integer, numbers, integer),
    )


KERNEL_TYPES = {number.name: _kernel_types(number) for number in (types.float32, types.float64)}
for of_kernels in KERNEL_TYPES.values():
    KNOWN.update(of_kernels)


@jit
def step_of(plan: Any, k: int) -> Any:
    """Row k of Plan.steps."""
    return beyond(plan.steps, k * STEP_SIZE)


@jit
def linear_of(linears: Any, i: int) -> Any:
    """Row i of Plan.linear."""
    return beyond(linears, i * LINEAR_SIZE)
