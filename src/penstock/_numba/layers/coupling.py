"""The coupling layer over a tile: a conditioner reads the context and the dimensions of A, its theta transforms those of B.

Where A is empty theta is a function of the context alone.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.inputs import (
    context_part,
    first_wanted,
    gather_features,
    gather_shared_theta,
    scatter_gradient,
    shares_theta,
)
from penstock._numba.conditioners.mlp import mlp_backward, mlp_forward
from penstock._numba.core.plan import N_B, N_U
from penstock._numba.layers.elementwise import transform_backward, transform_forward


def coupling_forward(step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool) -> None:
    """Changes the state, adds to log_det."""
    if shares_theta(step, tile):
        gather_shared_theta(step, n_vectors, tile)
    else:
        gather_features(step, plan.slots, n_vectors, tile)
        start = context_part(step, tile)
        mlp_forward(step, plan.linear, packed.params, start, n_vectors, keep, tile)
    transform_forward(step, plan, 0, step[N_B], inverse, n_vectors, tile, keep)


def coupling_backward(
    step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any
) -> None:
    """Puts the state back; gradients of parameters are added to the slice's."""
    transform_backward(step, plan, 0, step[N_B], inverse, n_vectors, tile, gradient)
    if shares_theta(step, tile):
        return
    first = first_wanted(step, gradient)
    du = mlp_backward(step, plan.linear, packed.params, n_vectors, first, tile, gradient)
    if first < step[N_U]:
        scatter_gradient(step, plan.slots, n_vectors, du, tile, gradient)
