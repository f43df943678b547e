"""The coupling layer over a tile: a conditioner reads the context and the dimensions of A, its theta transforms those of B.

Where A is empty theta is a function of the context alone.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.inputs import (
    first_wanted,
    gather_features,
    gather_shared_theta,
    scatter_gradient,
    shared_start,
    shares_theta,
)
from penstock._numba.conditioners.mlp import mlp_backward, mlp_forward
from penstock._numba.core.jit import jit
from penstock._numba.core.plan import N_U, THETA, TRANSFORM
from penstock._numba.layers.elementwise import transform_backward, transform_forward


@jit
def coupling_forward(
    step: Any, slots: Any, options: Any, linears: Any, params: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """Changes the state, adds to log_det."""
    if shares_theta(step, tile):
        gather_shared_theta(step, n_vectors, tile)
    else:
        gather_features(step, slots, n_vectors, tile)
        mlp_forward(step, linears, params, tile.starts, shared_start(step, tile), n_vectors, keep, tile.kept)
    transform_forward(step[TRANSFORM], step, slots, options, inverse, n_vectors, tile.kept, step[THETA], tile, keep)


@jit
def coupling_backward(
    step: Any, slots: Any, options: Any, linears: Any, params: Any, inverse: bool, n_vectors: int, tile: Any,
    want_params: bool,
) -> None:  # fmt: skip
    """Puts the state back; gradients of parameters are added to the slice's."""
    transform_backward(step[TRANSFORM], step, slots, options, inverse, n_vectors, tile.kept, step[THETA], tile)
    if shares_theta(step, tile):
        return
    first = first_wanted(step, tile)
    du = mlp_backward(step, linears, params, n_vectors, want_params, first, tile)
    if first < step[N_U]:
        scatter_gradient(step, slots, n_vectors, du, tile)
