"""What a conditioner reads: the context, then the dimensions of A.

Its inputs in a tile, the part of a context that all rows share, and the way back of gradients.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.microkernel import START_BIAS, product
from penstock._numba.conditioners.mlp import mlp_forward
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import broadcast, lanes, load, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import (
    AUTOREGRESSIVE,
    BIAS,
    INPUT,
    KIND,
    LINEAR,
    N_A,
    N_B,
    N_CONTEXT,
    N_OUT,
    N_THETA,
    N_U,
    OUTPUT,
    START,
    THETA,
    WEIGHT,
    A,
    linear_of,
)
from penstock._numba.core.tile import CONTEXT_PART, IGNORE, has_part, has_rows


@jit
def reads_dimensions(step: Any) -> bool:
    """Whether a conditioner reads more than the context."""
    return step[N_A] > 0 or step[KIND] == AUTOREGRESSIVE


@jit
def context_part(step: Any, tile: Any) -> int:
    """Where in tile.context_part the first products of a conditioner begin, for mlp_forward; -1 for the bias."""
    if has_part(tile.context_kind) and step[N_CONTEXT] > 0 and reads_dimensions(step):
        return int(step[START])
    return -1


@jit
def shares_theta(step: Any, tile: Any) -> bool:
    """Whether a step reads nothing but a context that all rows share, and theta is at hand."""
    return tile.context_kind == CONTEXT_PART and not reads_dimensions(step)


@jit
def copy_features(n: int, n_vectors: int, source: Any, at: int, to: Any, to_at: int) -> None:
    """(n, tile) from one place to another."""
    for i in range(0, n * TILE, TILE):
        for lane in range(0, n_vectors * lanes(to), lanes(to)):
            store(to, to_at + i + lane, load(source, at + i + lane))


@jit
def add_features(n: int, n_vectors: int, source: Any, at: int, to: Any, to_at: int) -> None:
    """(n, tile) added to another."""
    for i in range(0, n * TILE, TILE):
        for lane in range(0, n_vectors * lanes(to), lanes(to)):
            store(to, to_at + i + lane, load(to, to_at + i + lane) + load(source, at + i + lane))


@jit
def gather_features(step: Any, slots: Any, n_vectors: int, tile: Any) -> None:
    """Fill the conditioner's input (n_u, tile): the feature map."""
    u = step[INPUT]
    if has_rows(tile.context_kind):
        copy_features(step[N_CONTEXT], n_vectors, tile.context, 0, tile.kept, u)
    for i in range(step[N_A]):
        at = u + (step[N_CONTEXT] + i) * TILE
        copy_features(1, n_vectors, tile.state, slots[step[A] + i] * TILE, tile.kept, at)


@jit
def first_wanted(step: Any, gradient: Any) -> int:
    """The first input whose gradient is wanted; n_u if none is."""
    return 0 if gradient.of_context != IGNORE else step[N_CONTEXT]


@jit
def scatter_gradient(step: Any, slots: Any, n_vectors: int, du: int, gradient: Any) -> None:
    """Add the gradient of the conditioner's input, in gradient.hidden, to those of the context and of the state."""
    if gradient.of_context != IGNORE:
        add_features(step[N_CONTEXT], n_vectors, gradient.hidden, du, gradient.context, 0)
    for i in range(step[N_A]):
        at = du + (step[N_CONTEXT] + i) * TILE
        add_features(1, n_vectors, gradient.hidden, at, gradient.state, slots[step[A] + i] * TILE)


@jit
def gather_shared_theta(step: Any, n_vectors: int, tile: Any) -> None:
    """Theta of a shared context into the kept store, the same number for every row."""
    for i in range(step[N_B] * step[N_THETA]):
        for lane in range(0, n_vectors * lanes(tile.kept), lanes(tile.kept)):
            store(tile.kept, step[THETA] + i * TILE + lane, broadcast(tile.context_part, step[START] + i))


@jit
def make_step_part(step: Any, linears: Any, params: Any, context: Any, tile: Any, part: Any) -> None:
    """What a context contributes to the conditioner of a step, from the first row of a tile.

    The context comes first in the order of the sum, so a product that begins with it gives the bits of one over all inputs.
    """
    kept = tile.kept
    if reads_dimensions(step):
        linear = linear_of(linears, step[LINEAR])
        n, at = linear[N_OUT], linear[OUTPUT]
        product(
            START_BIAS, n, 1, step[N_CONTEXT], params, linear[WEIGHT], 1, n,
            context, 0, TILE, kept, at, TILE, params, linear[BIAS],
        )  # fmt: skip
    else:
        n, at = step[N_B] * step[N_THETA], step[THETA]
        copy_features(step[N_U], 1, context, 0, kept, step[INPUT])
        mlp_forward(step, linears, params, -1, 1, False, tile)
    for i in range(n):
        part[step[START] + i] = kept[at + i * TILE]
