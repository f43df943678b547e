"""A transform over a tile: theta free, external, or from a conditioner; forward, and the gradient of either direction.

The elementwise layer is this with free or external theta; coupling.py puts a network in front of it.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import dispatch, jit
from penstock._numba.core.lanes import accumulate, broadcast, lanes, load, splat, store
from penstock._numba.core.plan import (
    CONDITIONER,
    EXTERNAL,
    GRAD,
    KEPT,
    N_B,
    N_OPTIONS,
    N_THETA,
    OPTIONS,
    PARAMS,
    THETA,
    TILE,
    TRANSFORM,
    B,
)
from penstock._numba.core.rowsum import sum_rows
from penstock._numba.transforms import TRANSFORMS


def _transform_forward(transform: Any) -> Any:
    forward_of, inverse_of = transform.forward, transform.inverse

    @jit
    def transform_forward(
        step: Any,
        slots: Any,
        all_options: Any,
        first: int,
        last: int,
        inverse: bool,
        n_vectors: int,
        theta: Any,
        at: int,
        tile: Any,
        keep: bool,
    ) -> None:
        options = all_options[step[OPTIONS] : step[OPTIONS] + step[N_OPTIONS]]
        state, log_det, kept = tile.state, tile.log_det, tile.kept
        for d in range(first, last):
            x = slots[step[B] + d] * TILE
            theta_at = at + d * step[N_THETA] * TILE
            for lane in range(0, n_vectors * lanes(state), lanes(state)):
                old = load(state, x + lane)
                if inverse:
                    now, log_slope = inverse_of(old, theta, theta_at + lane, options)
                else:
                    now, log_slope, _ = forward_of(old, theta, theta_at + lane, options)
                if keep:
                    store(kept, step[KEPT] + d * TILE + lane, old)
                store(state, x + lane, now)
                accumulate(log_det, lane, log_slope)

    return transform_forward


def _transform_backward(transform: Any) -> Any:
    forward_of, backward_of = transform.forward, transform.backward

    @jit
    def transform_backward(
        step: Any, slots: Any, all_options: Any, first: int, last: int, inverse: bool, n_vectors: int, theta: Any, at: int,
        tile: Any,
    ) -> None:  # fmt: skip
        options = all_options[step[OPTIONS] : step[OPTIONS] + step[N_OPTIONS]]
        state, gradient, kept, d_theta = tile.state, tile.gradient, tile.kept, tile.d_theta
        for d in range(first, last):
            x_at = slots[step[B] + d] * TILE
            values = d * step[N_THETA] * TILE
            for lane in range(0, n_vectors * lanes(state), lanes(state)):
                old = load(kept, step[KEPT] + d * TILE + lane)
                upstream = load(gradient, x_at + lane)
                bar = load(tile.log_det_bar, lane)
                theta_at, write_at = at + values + lane, values + lane
                if inverse:
                    x = load(state, x_at + lane)
                    _, _, slope = forward_of(x, theta, theta_at, options)
                    a = backward_of(x, theta, theta_at, options, splat(x, 0.0), -bar, d_theta, write_at)
                    down = (upstream + a) / slope
                    backward_of(x, theta, theta_at, options, -down, -bar, d_theta, write_at)
                else:
                    down = backward_of(old, theta, theta_at, options, upstream, bar, d_theta, write_at)
                store(gradient, x_at + lane, down)
                store(state, x_at + lane, old)

    return transform_backward


# By the transform's code, then: step, slots, options, dimensions [first, last) of B, inverse, n_vectors, theta and its
# position, tile.
# forward: changes the state, adds to log_det; old values of B go to the kept store if asked for.
transform_forward = dispatch([_transform_forward(t) for t in TRANSFORMS])

# The way back through either direction. tile.state holds what came out and is put back to what went in; tile.gradient is
# overwritten for B; tile.d_theta (n_b n_theta, tile) is overwritten. The gradient of the inverse direction comes from the
# pair (x, y), y = g(x):  with upstream dx and l,  a = backward(dy = 0, dlog_det = -l).dx,  v = (dx + a) / g',
# dy = v,  dtheta = backward(dy = -v, dlog_det = -l).dtheta.
transform_backward = dispatch([_transform_backward(t) for t in TRANSFORMS])


@jit
def gather_theta(step: Any, params: Any, n_vectors: int, theta: Any, kept: Any) -> None:
    """Theta into the kept store: external as the tile brings it, or free, the same number for every row."""
    external = step[CONDITIONER] == EXTERNAL
    for i in range(step[N_B] * step[N_THETA]):
        for lane in range(0, n_vectors * lanes(kept), lanes(kept)):
            value = load(theta, i * TILE + lane) if external else broadcast(params, step[PARAMS] + i)
            store(kept, step[THETA] + i * TILE + lane, value)


@jit
def elementwise_forward(
    step: Any, slots: Any, options: Any, params: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """The elementwise layer: theta free, or external where the tile brings one."""
    gather_theta(step, params, n_vectors, tile.theta, tile.kept)
    transform_forward(
        step[TRANSFORM], step, slots, options, 0, step[N_B], inverse, n_vectors, tile.kept, step[THETA], tile, keep
    )  # fmt: skip


@jit
def elementwise_backward(
    step: Any, slots: Any, options: Any, inverse: bool, n_vectors: int, tile: Any, want_params: bool
) -> None:
    """Its way back; gradients of free theta are added to the slice's."""
    transform_backward(
        step[TRANSFORM], step, slots, options, 0, step[N_B], inverse, n_vectors, tile.kept, step[THETA], tile
    )  # fmt: skip
    if want_params and step[CONDITIONER] != EXTERNAL:
        for i in range(step[N_B] * step[N_THETA]):
            tile.params_gradient[step[GRAD] + i] += sum_rows(tile.d_theta, i * TILE, tile.rows, tile.partial)
