"""The autoregressive layer over a tile: theta of each dimension comes from those before it in the layer's order.

    parallel    y_i = g(x_i; h(x_<i))       all of x is known: a pass through the network, then all transforms
    sequential  x_i = g^-1(y_i; h(x_<i))    when x_i is known, the units of degree i + 1 are, in every hidden layer, then
                theta of the next dimension, then that dimension: every unit once, the arithmetic of the parallel way

B holds the dimensions in the layer's order. The conditioner reads the context, of degree 0, then x_0, x_1, ..., of degrees
1, 2, ..., but for the last, which nobody reads.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.inputs import add_features, context_part, copy_features, gather_features
from penstock._numba.conditioners.masked_mlp import masked_backward, masked_forward, masked_gradient
from penstock._numba.core.jit import call, jit
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import INPUT, N_B, N_CONTEXT, TRANSFORM_BACKWARD, TRANSFORM_FORWARD, B
from penstock._numba.core.tile import IGNORE


@jit
def gather_dimensions(step: Any, slots: Any, first: int, last: int, n_vectors: int, tile: Any) -> None:
    """Dimensions [first, last) of the order, as they are in the state, become inputs of the conditioner."""
    u = step[INPUT] + step[N_CONTEXT] * TILE
    for i in range(first, last):
        copy_features(1, n_vectors, tile.state, slots[step[B] + i] * TILE, tile.kept, u + i * TILE)


def autoregressive_forward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """Changes the state, adds to log_det."""
    n, slots, linears, params = step[N_B], plan.slots, plan.linear, packed.params
    span = 1 if inverse else n
    gather_features(step, slots, n_vectors, tile)
    if not inverse:
        gather_dimensions(step, slots, 0, n - 1, n_vectors, tile)
    start = context_part(step, tile)
    for i in range(0, n, span):
        masked_forward(step, linears, slots, i, i + span, params, start, n_vectors, keep, tile)
        call(step[TRANSFORM_FORWARD], (step, plan, i, i + span, inverse, n_vectors, tile, keep))
        if inverse and i + 1 < n:
            gather_dimensions(step, slots, i, i + 1, n_vectors, tile)


@jit
def add_input_gradient(step: Any, slots: Any, first: int, last: int, n_vectors: int, gradient: Any) -> None:
    """The gradients of dimensions [first, last) of the order get what comes through the network."""
    du = step[N_CONTEXT] * TILE
    for i in range(first, last):
        add_features(1, n_vectors, gradient.hidden, du + i * TILE, gradient.state, slots[step[B] + i] * TILE)


def autoregressive_backward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """Puts the state back; gradients of parameters are added to the slice's.

    In the sequential direction the degrees are walked downwards: the gradient of a dimension is complete once all units that
    read it are done.
    """
    n, slots, linears, params = step[N_B], plan.slots, plan.linear, packed.params
    span = 1 if inverse else n
    for i in range(n - span, -1, -span):
        if inverse and i + 1 < n:
            add_input_gradient(step, slots, i, i + 1, n_vectors, gradient)
        call(step[TRANSFORM_BACKWARD], (step, plan, i, i + span, inverse, n_vectors, tile, gradient))
        masked_backward(step, linears, slots, i, i + span, params, n_vectors, tile, gradient)
    if not inverse:
        add_input_gradient(step, slots, 0, n - 1, n_vectors, gradient)
    if gradient.of_context != IGNORE:
        add_features(step[N_CONTEXT], n_vectors, gradient.hidden, 0, gradient.context, 0)
    if gradient.of_params != IGNORE:
        masked_gradient(step, linears, slots, tile, gradient)
