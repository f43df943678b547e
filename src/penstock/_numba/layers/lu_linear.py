"""The LU layer over a tile.

y = P L U x + b        params = (M, b)
U upper, U_ii = sign_i e^(M_ii), U_ij = M_ij;  L unit lower, L_ij = M_ij;  P: y_j = (L U x)_order[j] + b_j
forward    v = U x,  c = L v,  y = P c + b                    log_det = sum_i M_ii
inverse    c = P'(y - b),  v = L^-1 c,  x = U^-1 v            log_det = -sum_i M_ii
backward   dc = P' dy,  dv = L' dc,  dx = U' dv
db = dy,  dL = dc v',  dU = dv x',  dM_ii = U_ii dU_ii + dlog_det

Triangles are solved by substitution, a row at a time, where the compiled core inverts the blocks on the diagonal when it packs
them: the same numbers but for rounding.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.inputs import copy_features
from penstock._numba.conditioners.microkernel import LOAD, product, transpose_tile
from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import broadcast, fma, lanes, load, splat, store
from penstock._numba.core.layout import PAD, TILE
from penstock._numba.core.math import exp
from penstock._numba.core.plan import GRAD, INPUT, KEPT, N_B, ORDER, PARAMS, SIGNS, THETA, B
from penstock._numba.core.rowsum import sum_rows
from penstock._numba.core.tile import IGNORE


@jit
def diagonal(step: Any, slots: Any, params: Any, i: int) -> Any:
    """U_ii in every lane."""
    u = exp(broadcast(params, step[PARAMS] + i * (step[N_B] + 1)))
    return splat(u, slots[step[SIGNS] + i]) * u


@jit
def triangle_product(
    upper: bool, transposed: bool, step: Any, slots: Any, params: Any, n_vectors: int,
    source: Any, source_at: int, out: Any, out_at: int,
) -> None:  # fmt: skip
    """out = U in or L in, or the transpose of the other one; in place if need be."""
    n = step[N_B]
    w_n, w_k = (1, n) if transposed else (n, 1)
    scaled = upper != transposed
    for s in range(n):
        i = s if upper else n - 1 - s
        first, last = (i + 1, n) if upper else (0, i)
        for lane in range(0, n_vectors * lanes(out), lanes(out)):
            total = load(source, source_at + i * TILE + lane)
            if scaled:
                total = diagonal(step, slots, params, i) * total
            for k in range(first, last):
                w = broadcast(params, step[PARAMS] + i * w_n + k * w_k)
                total = fma(w, load(source, source_at + k * TILE + lane), total)
            store(out, out_at + i * TILE + lane, total)


@jit
def triangle_solve(
    upper: bool, transposed: bool, step: Any, slots: Any, params: Any, n_vectors: int, out: Any, out_at: int
) -> None:
    """The inverse of the same, in place."""
    n = step[N_B]
    w_n, w_k = (1, n) if transposed else (n, 1)
    scaled = upper != transposed
    for s in range(n):
        i = n - 1 - s if upper else s
        first, last = (i + 1, n) if upper else (0, i)
        for lane in range(0, n_vectors * lanes(out), lanes(out)):
            total = load(out, out_at + i * TILE + lane)
            for k in range(first, last):
                w = broadcast(params, step[PARAMS] + i * w_n + k * w_k)
                total = fma(-w, load(out, out_at + k * TILE + lane), total)
            if scaled:
                total = total / diagonal(step, slots, params, i)
            store(out, out_at + i * TILE + lane, total)


@jit
def gather_slots(step: Any, slots: Any, n_vectors: int, state: Any, out: Any, at: int) -> None:
    """state (dim, tile) by slot into (n, tile) in order."""
    for i in range(step[N_B]):
        for lane in range(0, n_vectors * lanes(out), lanes(out)):
            store(out, at + i * TILE + lane, load(state, slots[step[B] + i] * TILE + lane))


@jit
def scatter_slots(step: Any, slots: Any, n_vectors: int, source: Any, at: int, state: Any) -> None:
    """And back."""
    for i in range(step[N_B]):
        for lane in range(0, n_vectors * lanes(state), lanes(state)):
            store(state, slots[step[B] + i] * TILE + lane, load(source, at + i * TILE + lane))


@jit
def shift(step: Any, slots: Any, params: Any, n_vectors: int, sign: float, kept: Any, source: int, out: int) -> None:
    """P' b added to, or taken from, (n, tile)."""
    for j in range(step[N_B]):
        i = slots[step[ORDER] + j]
        b = broadcast(params, step[PARAMS] + step[N_B] * step[N_B] + j)
        for lane in range(0, n_vectors * lanes(kept), lanes(kept)):
            value = load(kept, source + i * TILE + lane)
            store(kept, out + i * TILE + lane, value + splat(b, sign) * b)


@jit
def lu_log_det(step: Any, params: Any) -> float:
    """sum_i M_ii in float64, in order."""
    total = 0.0
    for i in range(step[N_B]):
        total += params[step[PARAMS] + i * (step[N_B] + 1)]
    return total


def lu_forward(step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, keep: bool) -> None:
    """Changes the state, adds to log_det; what went in, x and v stay in the kept store."""
    slots, params, kept, x, v = plan.slots, packed.params, tile.kept, step[INPUT], step[THETA]
    c = v + step[N_B] * TILE
    gather_slots(step, slots, n_vectors, tile.state, kept, step[KEPT])
    if inverse:
        shift(step, slots, params, n_vectors, -1.0, kept, step[KEPT], v)
        triangle_solve(False, False, step, slots, params, n_vectors, kept, v)
        copy_features(step[N_B], n_vectors, kept, v, kept, x)
        triangle_solve(True, False, step, slots, params, n_vectors, kept, x)
        scatter_slots(step, slots, n_vectors, kept, x, tile.state)
    else:
        copy_features(step[N_B], n_vectors, kept, step[KEPT], kept, x)
        triangle_product(True, False, step, slots, params, n_vectors, kept, x, kept, v)
        triangle_product(False, False, step, slots, params, n_vectors, kept, v, kept, c)
        shift(step, slots, params, n_vectors, 1.0, kept, c, c)
        scatter_slots(step, slots, n_vectors, kept, c, tile.state)
    change = lu_log_det(step, params)
    for r in range(n_vectors * lanes(kept)):
        tile.log_det[r] += -change if inverse else change


@jit
def lu_side_gradient(step: Any, upper: bool, tile: Any, gradient: Any, d_at: int, x: int, grad: int) -> None:
    """Entries of dM on one side of the diagonal:  M_ij += sum_r d_i(r) x_j(r). Others are written, and never read."""
    n, d, transposed = step[N_B], gradient.hidden, gradient.transposed
    stride = (n + PAD - 1) // PAD * PAD
    transpose_tile(tile.kept, x, n, tile.rows, transposed, stride)
    for i in range(n):
        first = i // lanes(d) if upper else 0
        last = stride // lanes(d) if upper else (i + lanes(d) - 1) // lanes(d)
        at = grad + i * stride + first * lanes(d)
        product(
            LOAD, 1, last - first, tile.rows, d, d_at + i * TILE, TILE, 1,
            transposed, first * lanes(d), stride, gradient.params, at, stride, gradient.params, 0,
        )  # fmt: skip


@jit
def lu_gradient(
    step: Any, slots: Any, params: Any, tile: Any, gradient: Any, n_vectors: int, sign: float, dc: int, dv: int
) -> None:
    """dM and db from dc and dv; with sign -1 for the inverse direction, where both enter negated."""
    n, d = step[N_B], gradient.hidden
    stride = (n + PAD - 1) // PAD * PAD
    below = step[GRAD] + n * stride
    lu_side_gradient(step, True, tile, gradient, dv, step[INPUT], step[GRAD])
    lu_side_gradient(step, False, tile, gradient, dc, step[THETA], below)
    for i in range(n):
        u = diagonal(step, slots, params, i)
        for lane in range(0, n_vectors * lanes(d), lanes(d)):
            product_ = load(d, dv + i * TILE + lane) * load(tile.kept, step[INPUT] + i * TILE + lane)
            bar = load(gradient.log_det, lane)
            store(gradient.theta, lane, fma(u, product_, splat(bar, sign) * bar))
        gradient.params[below + n * stride + i] += sum_rows(gradient.theta, 0, tile.rows, gradient.partial)
        row = dc + slots[step[ORDER] + i] * TILE
        gradient.params[below + (n + 1) * stride + i] += sum_rows(d, row, tile.rows, gradient.partial)


def lu_backward(step: Any, plan: Any, packed: Any, inverse: bool, n_vectors: int, tile: Any, gradient: Any) -> None:
    """Puts the state back to what went in, and turns the gradient of what came out into that of what went in."""
    slots, params = plan.slots, packed.params
    n, d = step[N_B], gradient.hidden
    first, second, c = 0, gradient.hidden_half, step[THETA] + step[N_B] * TILE
    gather_slots(step, slots, n_vectors, gradient.state, d, first)
    if inverse:
        copy_features(n, n_vectors, d, first, d, second)
        triangle_solve(False, True, step, slots, params, n_vectors, d, second)
        copy_features(n, n_vectors, d, second, d, first)
        triangle_solve(True, True, step, slots, params, n_vectors, d, first)
        scatter_slots(step, slots, n_vectors, d, first, gradient.state)
        for start in (first, second):
            for at in range(start, start + n * TILE, lanes(d)):
                store(d, at, -load(d, at))
    else:
        triangle_product(True, True, step, slots, params, n_vectors, d, first, d, second)
        triangle_product(False, True, step, slots, params, n_vectors, d, second, tile.kept, c)
        scatter_slots(step, slots, n_vectors, tile.kept, c, gradient.state)
    if gradient.of_params != IGNORE:
        lu_gradient(step, slots, params, tile, gradient, n_vectors, -1.0 if inverse else 1.0, first, second)
    scatter_slots(step, slots, n_vectors, tile.kept, step[KEPT], tile.state)
