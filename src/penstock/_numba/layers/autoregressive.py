"""The autoregressive layer over a tile: theta of each dimension comes from those before it in the layer's order.

    parallel    y_i = g(x_i; h(x_<i))       all of x is known: a pass through the network, then all transforms
    sequential  x_i = g^-1(y_i; h(x_<i))    when x_i is known, the units of degree i + 1 are, in every hidden layer, then
                theta of the next dimension, then that dimension: every unit once, the arithmetic of the parallel way

B holds the dimensions in the layer's order. The conditioner reads the context, of degree 0, then x_0, x_1, ..., of degrees
1, 2, ..., but for the last, which nobody reads.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.inputs import (
    add_features,
    context_part,
    gather_dimensions,
    gather_features,
    scatter_dimensions,
)
from penstock._numba.conditioners.masked_mlp import masked_backward, masked_forward, masked_gradient
from penstock._numba.core.plan import N_B, N_CONTEXT, B
from penstock._numba.core.pointers import beyond
from penstock._numba.core.tile import IGNORE
from penstock._numba.layers.elementwise import transform_backward, transform_forward


def autoregressive_forward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """Changes the state, adds to log_det."""
    n, slots, linears, params = step[N_B], plan.slots, plan.linear, packed.params
    own, span = beyond(slots, step[B]), 1 if inverse else n
    gather_features(step, slots, n_vectors, tile)
    if not inverse:
        gather_dimensions(step, slots, own, 0, n - 1, n_vectors, tile)
    start = context_part(step, tile)
    for i in range(0, n, span):
        masked_forward(step, linears, slots, i, i + span, params, start, n_vectors, keep, tile)
        transform_forward(step, plan, i, i + span, inverse, n_vectors, tile, keep)
        if inverse and i + 1 < n:
            gather_dimensions(step, slots, own, i, i + 1, n_vectors, tile)


def autoregressive_backward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """Puts the state back; gradients of parameters are added to the slice's.

    In the sequential direction the degrees are walked downwards: the gradient of a dimension is complete once all units that
    read it are done.
    """
    n, slots, linears, params = step[N_B], plan.slots, plan.linear, packed.params
    own, span = beyond(slots, step[B]), 1 if inverse else n
    for i in range(n - span, -1, -span):
        if inverse and i + 1 < n:
            scatter_dimensions(step, slots, own, i, i + 1, n_vectors, 0, tile, gradient)
        transform_backward(step, plan, i, i + span, inverse, n_vectors, tile, gradient)
        masked_backward(step, linears, slots, i, i + span, params, n_vectors, tile, gradient)
    if not inverse:
        scatter_dimensions(step, slots, own, 0, n - 1, n_vectors, 0, tile, gradient)
    if gradient.of_context != IGNORE:
        add_features(step[N_CONTEXT], n_vectors, gradient.hidden, 0, gradient.context, 0)
    if gradient.of_params != IGNORE:
        masked_gradient(step, linears, slots, tile, gradient)
