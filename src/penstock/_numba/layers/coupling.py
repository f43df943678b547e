"""The coupling layer over a tile: a conditioner reads the dimensions of A, its theta transforms those of B."""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.mlp import mlp_backward, mlp_forward
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import lanes, load, store
from penstock._numba.core.plan import INPUT, N_A, N_B, THETA, TILE, TRANSFORM, A
from penstock._numba.layers.elementwise import transform_backward, transform_forward


@jit
def gather_features(step: Any, slots: Any, n_vectors: int, state: Any, kept: Any) -> None:
    """Fill the conditioner's input (n_u, tile) from the state: the feature map."""
    for i in range(step[N_A]):
        for lane in range(0, n_vectors * lanes(state), lanes(state)):
            store(kept, step[INPUT] + i * TILE + lane, load(state, slots[step[A] + i] * TILE + lane))


@jit
def coupling_forward(
    step: Any, slots: Any, options: Any, linears: Any, params: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool
) -> None:
    """Changes the state, adds to log_det."""
    gather_features(step, slots, n_vectors, tile.state, tile.kept)
    mlp_forward(step, linears, params, n_vectors, keep, tile.kept)
    transform_forward(
        step[TRANSFORM], step, slots, options, 0, step[N_B], inverse, n_vectors, tile.kept, step[THETA], tile, keep
    )  # fmt: skip


@jit
def coupling_backward(
    step: Any, slots: Any, options: Any, linears: Any, params: Any, inverse: bool, n_vectors: int, tile: Any,
    want_params: bool,
) -> None:  # fmt: skip
    """Puts the state back; gradients of parameters are added to the slice's."""
    transform_backward(
        step[TRANSFORM], step, slots, options, 0, step[N_B], inverse, n_vectors, tile.kept, step[THETA], tile
    )  # fmt: skip
    du = mlp_backward(step, linears, params, n_vectors, want_params, tile)
    for i in range(step[N_A]):
        gradient = slots[step[A] + i] * TILE
        for lane in range(0, n_vectors * lanes(tile.state), lanes(tile.state)):
            summed = load(tile.gradient, gradient + lane) + load(tile.d_hidden, du + i * TILE + lane)
            store(tile.gradient, gradient + lane, summed)
