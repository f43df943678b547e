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
# input, (n_u, tile); THETA of theta, (n_theta, tile); in an LU layer, of x and of v, (n_b, tile), before c. ORDER and
# SIGNS, of an LU layer, point into Plan.slots. N_CONTEXT of the N_U inputs are features of the context, START is a position
# in Tile.context_part. FEATURES points into Plan.slots, where the first feature of each dimension that the conditioner reads
# stands, and their number; below zero: one each. EXTERNAL_AT is the position of external
# theta, (n_theta, tile), in Tile.theta and its gradient. RUNS is the first of N_RUNS rows of Plan.runs. The last four are
# addresses of kernels, 0 where there is nothing to do: of the layer, and of its activation.
(
    KIND, EXPLICIT_TO_DATA, N_THETA, CONDITIONER, ACTIVATION, N_LINEAR, N_A, N_B, N_U, A, B, LINEAR, RUNS, N_RUNS,
    FEATURES, PARAMS, GRAD, KEPT, INPUT, THETA, ORDER, SIGNS, N_CONTEXT, START, EXTERNAL_AT,
    FORWARD, BACKWARD, ACTIVATE, SCALE_BY_DERIVATIVE,
) = range(29)  # fmt: skip
STEP_SIZE = 29
# Columns of Plan.runs, one row for each run of members of B that one part transforms: [FROM, TO) of B, the transform, the
# numbers of theta of a member, its options in Plan.options, where theta of the first member begins in that of the step, which
# lies as its source does; addresses of the transform's kernels.
(
    RUN_FROM, RUN_TO, RUN_TRANSFORM, RUN_N_THETA, RUN_OPTIONS, RUN_THETA, RUN_FORWARD, RUN_BACKWARD,
) = range(8)  # fmt: skip
RUN_SIZE = 8
# Columns of Plan.linear, one row a linear layer: offsets into the parameters, into a padded gradient with rows of
# GRAD_STRIDE, and of output and derivative, (n_out, tile) each, in the kept store; DERIVATIVE < 0: not kept. Of a masked
# layer: GRADIENT of its outputs, (n_out, tile), in TileGradient.hidden; IN_START and OUT_START point into Plan.slots, where
# the numbers of the first input and output of each degree stand, degrees + 1 each.
(
    N_IN, N_OUT, WEIGHT, BIAS, GRAD_WEIGHT, GRAD_BIAS, GRAD_STRIDE, OUTPUT, DERIVATIVE, GRADIENT, IN_START, OUT_START,
) = range(12)  # fmt: skip
LINEAR_SIZE = 12
# Columns of Plan.mapped: the column, its map, whether it is a half-line below hi; of a member of a group, which moves its upper
# end if it is mirrored and its lower one if not: whether it is the first, the column before it, or NONE, and its shape.
COLUMN, MAP, MIRRORED, OPENS, BEFORE, SHAPE = range(6)
MAPPED_SIZE = 6
REAL, HALF_LINE, INTERVAL = range(3)  # shapes: what its bijection is between its ends (isa/groups.py)
# Columns of Packed.mapped: the ends, infinite where there is none; s of a half-line, hi - lo of an interval, 1 / h of a circle,
# s W / 2 of a box; the least and the largest number of the plan's type within; the first and last of those that count as
# within, in rows of float and, one further, of double; the middle of a circle and of a box, there m; of a box s, V_lo, V_hi,
# 1 - |V_lo|, 1 - |V_hi|; what a member of a simplex has to leave to those behind it.
LO, HI, SCALE, LEAST, MOST, FIRST, _, LAST, _, MIDDLE, UNIT, LOWER, UPPER, LOWER_GAP, UPPER_GAP, ROOM = range(16)
NUMBERS_SIZE = 16
# Columns of Plan.base, one row a block of the base: its kind, whether its numbers are all angles, how many slots it has and
# where these stand, rising, in Plan.slots; components of a mixture, 1 of a normal; the row of Plan.steps that brings the
# numbers that are learned, where logarithms of degrees of freedom that nothing learns stand in Plan.base_numbers, both -1 if
# there are none, and where the block's own numbers do; addresses of its kernels, 0 where ends.py does it itself. The
# block's own numbers are what each row gets of it in log p, and of a uniform one the ends, hi - lo, and the ends of draws; of
# a Student t the ends are bounds of its degrees of freedom.
(
    BLOCK_KIND, BLOCK_CIRCLE, BLOCK_N, BLOCK_DIMS, BLOCK_COMPONENTS, BLOCK_STEP, BLOCK_FIXED, BLOCK_NUMBERS, BLOCK_DENSITY,
    BLOCK_BACKWARD, BLOCK_DRAW, BLOCK_DRAW_BACKWARD,
) = range(12)  # fmt: skip
BLOCK_SIZE = 12
BLOCK_CONSTANT, BLOCK_LO, BLOCK_HI, BLOCK_WIDTH, BLOCK_LEAST, BLOCK_MOST = range(6)
BLOCK_NUMBERS_SIZE = 6
STANDARD_NORMAL, NORMAL, UNIFORM, STUDENT_T, GAUSSIAN_MIXTURE = range(len(codes.BASES))
MOST_COMPONENTS = 256  # of a mixture
# KIND of a row of Plan.steps that brings the numbers of a block of the base.
NUMBERS_OF_BASE = len(codes.STEP_KINDS)


class Plan(NamedTuple):
    """What is known of a flow but its parameters."""

    dim: int
    context_dim: int
    n_steps: int
    n_external: int  # numbers of external theta a row
    n_context: int  # features of the context that conditioners read
    # (n_all_steps, STEP_SIZE); row n_steps is the embedding, between the context and what conditioners read of it:
    # N_LINEAR 0 if there is none, and THETA its output; behind it those of blocks of the base
    steps: Any
    runs: Any  # (all runs, RUN_SIZE)
    linear: Any  # (layers, LINEAR_SIZE)
    boundary: Any  # (n_steps + 1, dim): slot of each dimension
    slots: Any  # the slots that A and B of the steps point to; orders and signs; starts of degrees
    options: Any  # of the transforms, in the dtype of the plan
    n_mapped: int  # columns of the data whose support is not the whole line: see isa/supports.py
    n_alone: int  # those behind are members of groups, each behind the one before it
    mapped: Any  # (n_mapped, MAPPED_SIZE)
    n_context_mapped: int  # the same of columns of the context
    context_mapped: Any
    context_slots: Any  # of each column of the context its first feature: a circle has two
    n_base: int
    base: Any  # (n_base, BLOCK_SIZE)
    base_numbers: Any  # (n_base, BLOCK_NUMBERS_SIZE), and what is fixed
    n_normals: int  # slots up to the last one that begins as a normal draw
    n_all_steps: int


@jit
def step_of(plan: Any, k: int) -> Any:
    """Row k of Plan.steps."""
    return beyond(plan.steps, k * STEP_SIZE)


@jit
def run_of(plan: Any, k: int) -> Any:
    """Row k of Plan.runs."""
    return beyond(plan.runs, k * RUN_SIZE)


@jit
def linear_of(linears: Any, i: int) -> Any:
    """Row i of Plan.linear."""
    return beyond(linears, i * LINEAR_SIZE)
