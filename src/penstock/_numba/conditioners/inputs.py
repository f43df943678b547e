"""What a conditioner reads: the context, then features of the dimensions of A: x itself, or of a circle cos x and sin x.

Its inputs in a tile, the part of a context that all rows share, and the way back of gradients.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.microkernel import START_BIAS, product
from penstock._numba.conditioners.mlp import mlp_forward
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import broadcast, lanes, load, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.math import sincos
from penstock._numba.core.plan import (
    AUTOREGRESSIVE,
    BIAS,
    FEATURES,
    INPUT,
    KIND,
    LINEAR,
    N_A,
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
from penstock._numba.core.pointers import beyond
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
def feature_of(step: Any, slots: Any, i: int) -> int:
    """The first feature of a dimension that the conditioner reads."""
    return int(step[N_CONTEXT] + (slots[step[FEATURES] + i] if step[FEATURES] >= 0 else i))


@jit
def is_circle(step: Any, slots: Any, i: int) -> bool:
    """Whether there are two, cos and sin."""
    return feature_of(step, slots, i + 1) - feature_of(step, slots, i) > 1


@jit
def gather_dimensions(step: Any, slots: Any, own: Any, first: int, last: int, n_vectors: int, tile: Any) -> None:
    """Dimensions [first, last) of those that the conditioner reads, in slots ``own`` of the state, into its input."""
    for i in range(first, last):
        x, u = own[i] * TILE, step[INPUT] + feature_of(step, slots, i) * TILE
        if not is_circle(step, slots, i):
            copy_features(1, n_vectors, tile.state, x, tile.kept, u)
            continue
        for lane in range(0, n_vectors * lanes(tile.kept), lanes(tile.kept)):
            sine, cosine = sincos(load(tile.state, x + lane))
            store(tile.kept, u + lane, cosine)
            store(tile.kept, u + TILE + lane, sine)


@jit
def scatter_dimensions(
    step: Any, slots: Any, own: Any, first: int, last: int, n_vectors: int, du: int, tile: Any, gradient: Any
) -> None:
    """The gradients of those dimensions get what comes through the network, du of its input, which is still there."""
    hidden, d_state = gradient.hidden, gradient.state
    for i in range(first, last):
        at, dx = feature_of(step, slots, i) * TILE, own[i] * TILE
        if not is_circle(step, slots, i):
            add_features(1, n_vectors, hidden, du + at, d_state, dx)
            continue
        u = step[INPUT] + at
        for lane in range(0, n_vectors * lanes(hidden), lanes(hidden)):
            cosine, sine = load(tile.kept, u + lane), load(tile.kept, u + TILE + lane)
            turn = cosine * load(hidden, du + at + TILE + lane) - sine * load(hidden, du + at + lane)
            store(d_state, dx + lane, load(d_state, dx + lane) + turn)


@jit
def gather_features(step: Any, slots: Any, n_vectors: int, tile: Any) -> None:
    """Fill the conditioner's input (n_u, tile): the feature map."""
    if has_rows(tile.context_kind):
        copy_features(step[N_CONTEXT], n_vectors, tile.context, 0, tile.kept, step[INPUT])
    gather_dimensions(step, slots, beyond(slots, step[A]), 0, step[N_A], n_vectors, tile)


@jit
def first_wanted(step: Any, gradient: Any) -> int:
    """The first input whose gradient is wanted; n_u if none is."""
    return 0 if gradient.of_context != IGNORE else step[N_CONTEXT]


@jit
def scatter_gradient(step: Any, slots: Any, n_vectors: int, du: int, tile: Any, gradient: Any) -> None:
    """Add the gradient of the conditioner's input, in gradient.hidden, to those of the context and of the state."""
    if gradient.of_context != IGNORE:
        add_features(step[N_CONTEXT], n_vectors, gradient.hidden, du, gradient.context, 0)
    scatter_dimensions(step, slots, beyond(slots, step[A]), 0, step[N_A], n_vectors, du, tile, gradient)


@jit
def gather_shared_theta(step: Any, n_vectors: int, tile: Any) -> None:
    """Theta of a shared context into the kept store, the same number for every row."""
    for i in range(step[N_THETA]):
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
        n, at = step[N_THETA], step[THETA]
        copy_features(step[N_U], 1, context, 0, kept, step[INPUT])
        mlp_forward(step, linears, params, -1, 1, False, tile)
    for i in range(n):
        part[step[START] + i] = kept[at + i * TILE]
