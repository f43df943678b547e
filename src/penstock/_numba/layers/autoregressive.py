"""The autoregressive layer over a tile: theta of each dimension comes from those before it in the layer's order.

    parallel    y_i = g(x_i; h(x_<i))       all of x is known: a pass through the network, then all transforms
    sequential  x_i = g^-1(y_i; h(x_<i))    when x_i is known, the units of degree i + 1 are, in every hidden layer, then
                theta of the next dimension, then that dimension: every unit once, the arithmetic of the parallel way

B holds the dimensions in the layer's order. The conditioner reads the context, of degree 0, then x_0, x_1, ..., of degrees
1, 2, ..., but for the last, which nobody reads.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.masked_mlp import masked_backward, masked_forward, masked_gradient
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import lanes, load, store
from penstock._numba.core.plan import INPUT, N_B, N_U, THETA, TILE, TRANSFORM, B
from penstock._numba.layers.elementwise import transform_backward, transform_forward


@jit
def first_feature(step: Any) -> int:
    """The input of the conditioner that dimension 0 of the order is."""
    return step[N_U] - (step[N_B] - 1)


@jit
def features_from_state(step: Any, slots: Any, first: int, last: int, n_vectors: int, state: Any, kept: Any) -> None:
    """Dimensions [first, last) of the order, as they are in the state, become inputs of the conditioner."""
    u = step[INPUT] + first_feature(step) * TILE
    for i in range(first, last):
        for lane in range(0, n_vectors * lanes(state), lanes(state)):
            store(kept, u + i * TILE + lane, load(state, slots[step[B] + i] * TILE + lane))


@jit
def autoregressive_forward(
    step: Any, slots: Any, options: Any, linears: Any, params: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """Changes the state, adds to log_det."""
    n, theta = step[N_B], step[THETA]
    span = 1 if inverse else n
    if not inverse:
        features_from_state(step, slots, 0, n - 1, n_vectors, tile.state, tile.kept)
    for i in range(0, n, span):
        masked_forward(step, linears, slots, i, i + span, params, n_vectors, keep, tile.kept)
        transform_forward(
            step[TRANSFORM], step, slots, options, i, i + span, inverse, n_vectors, tile.kept, theta, tile, keep
        )  # fmt: skip
        if inverse and i + 1 < n:
            features_from_state(step, slots, i, i + 1, n_vectors, tile.state, tile.kept)


@jit
def add_input_gradient(step: Any, slots: Any, i: int, n_vectors: int, tile: Any) -> None:
    """The gradient of dimension i gets what comes through the network."""
    gradient, du = slots[step[B] + i] * TILE, (first_feature(step) + i) * TILE
    for lane in range(0, n_vectors * lanes(tile.state), lanes(tile.state)):
        store(tile.gradient, gradient + lane, load(tile.gradient, gradient + lane) + load(tile.d_hidden, du + lane))


@jit
def autoregressive_backward(
    step: Any, slots: Any, options: Any, linears: Any, params: Any, inverse: bool, n_vectors: int, tile: Any,
    want_params: bool,
) -> None:  # fmt: skip
    """Puts the state back; gradients of parameters are added to the slice's.

    In the sequential direction the degrees are walked downwards: the gradient of a dimension is complete once all units that
    read it are done.
    """
    n, theta = step[N_B], step[THETA]
    span = 1 if inverse else n
    for i in range(n - span, -1, -span):
        if inverse and i + 1 < n:
            add_input_gradient(step, slots, i, n_vectors, tile)
        transform_backward(
            step[TRANSFORM], step, slots, options, i, i + span, inverse, n_vectors, tile.kept, theta, tile
        )  # fmt: skip
        masked_backward(step, linears, slots, i, i + span, params, n_vectors, tile)
    if not inverse:
        for i in range(n - 1):
            add_input_gradient(step, slots, i, n_vectors, tile)
    if want_params:
        masked_gradient(step, linears, slots, tile)
