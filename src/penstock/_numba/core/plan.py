"""A plan as the kernels see it: rows of integers that engine/layout.py makes from a table."""

from __future__ import annotations

from typing import Any, NamedTuple

from penstock import plan_table as codes
from penstock._numba.core.jit import jit
from penstock._numba.core.pointers import beyond

PERMUTATION, ELEMENTWISE, COUPLING, COLUMNS, LU_LINEAR, AUTOREGRESSIVE = range(len(codes.STEP_KINDS))
FREE, MLP, RESIDUAL_MLP, EXTERNAL = range(4)  # where theta comes from
RELU, TANH, SILU, GELU, LEAKY_RELU = range(1, 6)  # activations that are computed

# Columns of Plan.steps. Positions in the kept store: KEPT of the old values of B, (n_b, tile); INPUT of the conditioner's
# input, (n_u, tile); THETA of theta, (n_b n_theta, tile); in an LU layer, of x and of v, (n_b, tile), before c. ORDER and
# SIGNS, of an LU layer, point into Plan.slots. N_CONTEXT of the N_U inputs are features of the context, START is a position
# in Tile.context_part. EXTERNAL_AT is the position of external theta, (n_b n_theta, tile), in Tile.theta and its gradient.
# The last six are addresses of kernels, 0 where there is nothing to do: of the layer, its transform, its activation.
(
    KIND, EXPLICIT_TO_DATA, TRANSFORM, N_THETA, CONDITIONER, ACTIVATION, N_LINEAR, N_A, N_B, N_U, A, B, LINEAR,
    OPTIONS, N_OPTIONS, PARAMS, GRAD, KEPT, INPUT, THETA, ORDER, SIGNS, N_CONTEXT, START, EXTERNAL_AT,
    FORWARD, BACKWARD, TRANSFORM_FORWARD, TRANSFORM_BACKWARD, ACTIVATE, SCALE_BY_DERIVATIVE,
) = range(31)  # fmt: skip
STEP_SIZE = 31
# Columns of Plan.linear, one row a linear layer: offsets into the parameters, into a padded gradient with rows of
# GRAD_STRIDE, and of output and derivative, (n_out, tile) each, in the kept store; DERIVATIVE < 0: not kept. Of a masked
# layer: GRADIENT of its outputs, (n_out, tile), in TileGradient.hidden; IN_START and OUT_START point into Plan.slots, where
# the numbers of the first input and output of each degree stand, degrees + 1 each.
(
    N_IN, N_OUT, WEIGHT, BIAS, GRAD_WEIGHT, GRAD_BIAS, GRAD_STRIDE, OUTPUT, DERIVATIVE, GRADIENT, IN_START, OUT_START,
) = range(12)  # fmt: skip
LINEAR_SIZE = 12
# Rows of Plan.mapped: column, map, whether it is a half-line below its end; of Packed.mapped: the ends, infinite where there is
# none; s of a half-line or hi - lo; the least and the largest number of the plan's type within.
MAPPED_SIZE, NUMBERS_SIZE = 3, 5


class Plan(NamedTuple):
    """What is known of a flow but its parameters."""

    dim: int
    context_dim: int
    n_steps: int
    n_external: int  # numbers of external theta a row
    n_context: int  # features of the context that conditioners read
    # (n_steps + 1, STEP_SIZE); the last row is the embedding, between the context and what conditioners read of it:
    # N_LINEAR 0 if there is none, and THETA its output
    steps: Any
    linear: Any  # (layers, LINEAR_SIZE)
    boundary: Any  # (n_steps + 1, dim): slot of each dimension
    slots: Any  # the slots that A and B of the steps point to; orders and signs; starts of degrees
    options: Any  # of the transforms, in the dtype of the plan
    n_mapped: int  # columns of the data whose support is not the whole line: see isa/supports.py
    mapped: Any  # (n_mapped, MAPPED_SIZE)


@jit
def step_of(plan: Any, k: int) -> Any:
    """Row k of Plan.steps."""
    return beyond(plan.steps, k * STEP_SIZE)


@jit
def linear_of(linears: Any, i: int) -> Any:
    """Row i of Plan.linear."""
    return beyond(linears, i * LINEAR_SIZE)
