"""A transform over a tile: theta free, external, or from a conditioner; forward, and the gradient of either direction.

The elementwise layer is this with free or external theta; coupling.py puts a network in front of it.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.inputs import copy_features
from penstock._numba.core.jit import call, jit, specialise
from penstock._numba.core.lanes import accumulate, broadcast, lanes, load, splat, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import (
    CONDITIONER,
    EXTERNAL,
    EXTERNAL_AT,
    GRAD,
    KEPT,
    N_B,
    N_RUNS,
    N_THETA,
    PARAMS,
    RUN_BACKWARD,
    RUN_FORWARD,
    RUN_FROM,
    RUN_N_THETA,
    RUN_OPTIONS,
    RUN_THETA,
    RUN_TO,
    RUNS,
    THETA,
    B,
    run_of,
)
from penstock._numba.core.pointers import beyond
from penstock._numba.core.rowsum import sum_rows
from penstock._numba.core.tile import IGNORE
from penstock._numba.transforms import TRANSFORMS

# In the templates of kernels below these are those of a transform.
forward_of = inverse_of = backward_of = None


@jit
def theta_of(run: Any, d: int) -> int:
    """Where theta of dimension d of B, one of a run, begins in that of the step."""
    return (run[RUN_THETA] + (d - run[RUN_FROM]) * run[RUN_N_THETA]) * TILE


def run_forward(
    run: Any, step: Any, plan: Any, first: int, last: int, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """Dimensions [first, last) of B, all of one run, with theta from the kept store: changes the state, adds to log_det.

    Old values of B go to the kept store if asked for.
    """
    options = beyond(plan.options, run[RUN_OPTIONS])
    state, log_det, kept = tile.state, tile.log_det, tile.kept
    for d in range(first, last):
        x = plan.slots[step[B] + d] * TILE
        theta_at = step[THETA] + theta_of(run, d)
        for lane in range(0, n_vectors * lanes(state), lanes(state)):
            old = load(state, x + lane)
            if inverse:
                now, log_slope = inverse_of(old, kept, theta_at + lane, options)
            else:
                now, log_slope, _ = forward_of(old, kept, theta_at + lane, options)
            if keep:
                store(kept, step[KEPT] + d * TILE + lane, old)
            store(state, x + lane, now)
            accumulate(log_det, lane, log_slope)


def run_backward(
    run: Any, step: Any, plan: Any, first: int, last: int, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """The way back through either direction.

    tile.state holds what came out and is put back to what went in; gradient.state is overwritten for B; gradient.theta
    (n_theta, tile) is overwritten. The gradient of the inverse direction comes from the pair (x, y), y = g(x):  with
    upstream dx and l,  a = backward(dy = 0, dlog_det = -l).dx,  v = (dx + a) / g',  dy = v,
    dtheta = backward(dy = -v, dlog_det = -l).dtheta.
    """
    options = beyond(plan.options, run[RUN_OPTIONS])
    state, d_state, kept, d_theta = tile.state, gradient.state, tile.kept, gradient.theta
    for d in range(first, last):
        x_at = plan.slots[step[B] + d] * TILE
        values = theta_of(run, d)
        for lane in range(0, n_vectors * lanes(state), lanes(state)):
            old = load(kept, step[KEPT] + d * TILE + lane)
            upstream = load(d_state, x_at + lane)
            bar = load(gradient.log_det, lane)
            theta_at, write_at = step[THETA] + values + lane, values + lane
            if inverse:
                x = load(state, x_at + lane)
                _, _, slope = forward_of(x, kept, theta_at, options)
                a = backward_of(x, kept, theta_at, options, splat(x, 0.0), -bar, d_theta, write_at)
                down = (upstream + a) / slope
                backward_of(x, kept, theta_at, options, -down, -bar, d_theta, write_at)
            else:
                down = backward_of(old, kept, theta_at, options, upstream, bar, d_theta, write_at)
            store(d_state, x_at + lane, down)
            store(state, x_at + lane, old)


# Kernels by the transform's code.
TRANSFORM_FORWARDS = [
    specialise(run_forward, f"{t.name}_forward", forward_of=t.twin.forward, inverse_of=t.twin.inverse)
    for t in TRANSFORMS
]
TRANSFORM_BACKWARDS = [
    specialise(run_backward, f"{t.name}_backward", forward_of=t.twin.forward, backward_of=t.twin.backward)
    for t in TRANSFORMS
]


@jit
def first_run(step: Any, plan: Any, d: int) -> int:
    """The first run that reaches beyond dimension d of B; by bisection: an autoregressive step asks for one after the other."""
    first, end = 0, step[N_RUNS] - 1
    while first < end:
        middle = (first + end) // 2
        if run_of(plan, step[RUNS] + middle)[RUN_TO] > d:
            end = middle
        else:
            first = middle + 1
    return int(first)


@jit
def transform_forward(
    step: Any, plan: Any, first: int, last: int, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """Dimensions [first, last) of B, by the transforms of their runs."""
    for k in range(first_run(step, plan, first), step[N_RUNS]):
        run = run_of(plan, step[RUNS] + k)
        start, end = max(first, run[RUN_FROM]), min(last, run[RUN_TO])
        if start >= end:
            return
        call(run[RUN_FORWARD], (run, step, plan, start, end, inverse, n_vectors, tile, keep))


@jit
def transform_backward(
    step: Any, plan: Any, first: int, last: int, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """Their way back."""
    for k in range(first_run(step, plan, first), step[N_RUNS]):
        run = run_of(plan, step[RUNS] + k)
        start, end = max(first, run[RUN_FROM]), min(last, run[RUN_TO])
        if start >= end:
            return
        call(run[RUN_BACKWARD], (run, step, plan, start, end, inverse, n_vectors, tile, gradient))


@jit
def gather_theta(step: Any, params: Any, n_vectors: int, theta: Any, kept: Any) -> None:
    """Theta into the kept store: external as the tile brings it, or free, the same number for every row."""
    n = step[N_THETA]
    if step[CONDITIONER] == EXTERNAL:
        copy_features(n, n_vectors, theta, step[EXTERNAL_AT], kept, step[THETA])
        return
    for i in range(n):
        for lane in range(0, n_vectors * lanes(kept), lanes(kept)):
            store(kept, step[THETA] + i * TILE + lane, broadcast(params, step[PARAMS] + i))


def elementwise_forward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """The elementwise layer: theta free, or external where the tile brings one."""
    gather_theta(step, packed.params, n_vectors, tile.theta, tile.kept)
    transform_forward(step, plan, 0, step[N_B], inverse, n_vectors, tile, keep)


def elementwise_backward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """Its way back; gradients of free theta are added to the slice's, those of external theta go to the tile's."""
    transform_backward(step, plan, 0, step[N_B], inverse, n_vectors, tile, gradient)
    n = step[N_THETA]
    if step[CONDITIONER] == EXTERNAL:
        copy_features(n, n_vectors, gradient.theta, 0, gradient.external, step[EXTERNAL_AT])
    elif gradient.of_params != IGNORE:
        for i in range(n):
            gradient.params[step[GRAD] + i] += sum_rows(gradient.theta, i * TILE, tile.rows, gradient.partial)
