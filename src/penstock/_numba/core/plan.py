"""A plan as the kernels see it: rows of integers made by engine/plan.py from the table of penstock/plan.py."""

from __future__ import annotations

from typing import Any, NamedTuple

TILE = 64  # rows of a tile, and of the smallest slice of a batch
MAX_SLICES = 16  # of a batch, whatever its size
PAD = 16  # gradients of weights are stored with rows padded to this many numbers

PERMUTATION, ELEMENTWISE, COUPLING, STANDARDIZE, LU_LINEAR = range(5)
FREE, MLP, RESIDUAL_MLP, EXTERNAL = range(4)
RELU, TANH, SILU, GELU, LEAKY_RELU, KEPT_DERIVATIVE = range(6)

# Columns of Plan.steps. Positions in the kept store: KEPT of the old values of B, (n_b, tile); INPUT of the conditioner's
# input, (n_u, tile); THETA of theta, (n_b n_theta, tile); in an LU layer, of x and of v, (n_b, tile), before c. ORDER and
# SIGNS, of an LU layer, point into Plan.slots. N_CONTEXT of the N_U inputs are features of the context, START is a position
# in Tile.starts.
(
    KIND, EXPLICIT_TO_DATA, TRANSFORM, N_THETA, CONDITIONER, ACTIVATION, N_LINEAR, N_A, N_B, N_U, A, B, LINEAR,
    OPTIONS, N_OPTIONS, PARAMS, GRAD, KEPT, INPUT, THETA, ORDER, SIGNS, N_CONTEXT, START,
) = range(24)  # fmt: skip
# Columns of Plan.linear, one row a linear layer: offsets into the parameters, into a padded gradient with rows of
# GRAD_STRIDE, and of output and derivative, (n_out, tile) each, in the kept store; DERIVATIVE < 0: not kept.
N_IN, N_OUT, WEIGHT, BIAS, GRAD_WEIGHT, GRAD_BIAS, GRAD_STRIDE, OUTPUT, DERIVATIVE = range(9)


class Plan(NamedTuple):
    """What is known of a flow but its parameters."""

    dim: int
    # (n_steps + 1, 24); the last row is the embedding, between the context and what conditioners read of it: N_LINEAR 0
    # if there is none, and THETA its output
    steps: Any
    linear: Any  # (layers, 9)
    boundary: Any  # (n_steps + 1, dim): slot of each dimension
    slots: Any  # the slots that A and B of the steps point to; orders and signs
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


class Tile(NamedTuple):
    """A tile on its way through a flow: flat arrays, 64 numbers a feature."""

    rows: int  # 1 .. 64
    state: Any  # (dim, tile) by slot
    log_det: Any  # (tile) of float64
    theta: Any  # external theta (n_b n_theta, tile)
    context: (
        Any  # what conditioners read of it, (n_context, tile); empty where all rows share one and no gradient needs it
    )
    # Of a context that all rows share: for each conditioner its part of the first layer, b + c W_c, where the products then
    # begin; for one that reads nothing else, theta. Empty where rows have contexts of their own.
    starts: Any
    kept: Any  # the kept store
    # the way back only
    gradient: Any  # (dim, tile) by slot: cotangents of the state
    log_det_bar: Any  # (tile): cotangent of the log-determinant
    d_theta: Any  # (widest theta, tile)
    d_context: Any  # (n_context, tile), added to; empty if unwanted
    d_hidden: Any  # (2, widest layer, tile)
    transposed: Any  # (tile, widest layer padded)
    partial: Any  # 16 numbers
    params_gradient: Any  # padded gradient of this slice
