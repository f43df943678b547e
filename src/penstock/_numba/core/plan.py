"""A plan as the kernels see it: rows of integers that engine/layout.py makes from a table."""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock import plan_table as codes

PERMUTATION, ELEMENTWISE, COUPLING, COLUMNS, LU_LINEAR, AUTOREGRESSIVE = range(len(codes.STEP_KINDS))
FREE, MLP, RESIDUAL_MLP, EXTERNAL = range(4)  # where theta comes from
RELU, TANH, SILU, GELU, LEAKY_RELU, KEPT_DERIVATIVE = range(1, 7)  # activations that are computed; the last is no code

# Columns of Plan.steps. Positions in the kept store: KEPT of the old values of B, (n_b, tile); INPUT of the conditioner's
# input, (n_u, tile); THETA of theta, (n_b n_theta, tile); in an LU layer, of x and of v, (n_b, tile), before c. ORDER and
# SIGNS, of an LU layer, point into Plan.slots. N_CONTEXT of the N_U inputs are features of the context, START is a position
# in Tile.starts. EXTERNAL_AT is the position of external theta, (n_b n_theta, tile), in Tile.theta and in Tile.d_external.
# FORWARD, BACKWARD and the same of the transform are the addresses of kernels, 0 where there is nothing to do.
(
    KIND, EXPLICIT_TO_DATA, TRANSFORM, N_THETA, CONDITIONER, ACTIVATION, N_LINEAR, N_A, N_B, N_U, A, B, LINEAR,
    OPTIONS, N_OPTIONS, PARAMS, GRAD, KEPT, INPUT, THETA, ORDER, SIGNS, N_CONTEXT, START, EXTERNAL_AT,
    FORWARD, BACKWARD, TRANSFORM_FORWARD, TRANSFORM_BACKWARD,
) = range(29)  # fmt: skip
STEP_SIZE = 29
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
    """A tile on its way through a flow: flat arrays, 64 numbers a feature."""

    rows: int  # 1 .. 64
    state: Any  # (dim, tile) by slot
    log_det: Any  # (tile) of float64
    theta: Any  # external theta, one step after the other, (n_b n_theta, tile) each
    # what conditioners read of the context, (n_context, tile); empty where all rows share one and no gradient needs it
    context: Any
    # Of a context that all rows share: for each conditioner its part of the first layer, b + c W_c, where the products then
    # begin; for one that reads nothing else, theta. Empty where rows have contexts of their own.
    starts: Any
    kept: Any  # the kept store
    # the way back only
    gradient: Any  # (dim, tile) by slot: cotangents of the state
    log_det_bar: Any  # (tile): cotangent of the log-determinant
    d_theta: Any  # (widest theta, tile)
    d_external: Any  # as theta: its gradient, which outlives the step
    d_context: Any  # (n_context, tile), added to; empty if unwanted
    d_hidden: Any  # (2, widest layer, tile), or input and all layers of a masked network
    transposed: Any  # (tile, widest layer padded)
    partial: Any  # 16 numbers
    params_gradient: Any  # padded gradient of this slice
