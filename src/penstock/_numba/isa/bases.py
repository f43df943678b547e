"""Densities of the latent side that are learned or have heavy tails, in float64; ends.py has the others and goes through all
blocks. Numbers x of a block are free, or a tile's own from a network of the context, or fixed.

    mixture     l_k = log w_k - sum_d (s_kd + u_kd^2 / 2 + log(2 pi) / 2),  u = (z - m) e^-s,  log w = c - log sum e^c
                log p = log sum_k e^l_k               r_k = e^(l_k - log p)
                dz_d = -sum_k r_k u_kd e^-s_kd        dm_kd = r_k u_kd e^-s_kd,  ds_kd = r_k (u_kd^2 - 1),  dc_k = r_k - w_k
                x = (c (K), m (K, n), s (K, n));  a normal is K = 1 without c
    student_t   t = z / nu^1/2,  nu = e^x within [nu_min, nu_max]
                log p = D(nu / 2) - log(pi nu) / 2 - (nu + 1) / 2 log(1 + t^2)
                dz = -(nu + 1) / nu^1/2 t / (1 + t^2)
                dx = nu / 2 (D'(nu / 2) - 1 / nu - log(1 + t^2) + (nu + 1) / nu t^2 / (1 + t^2)), 0 beyond the bounds
    D(a)        log Gamma(a + 1/2) - log Gamma(a) = D(a + 8) + log prod_k<8 (a + k) / (a + k + 1/2)
                D(a) ~ log a / 2 + sum_i b_i a^(1 - 2 i),  b_i = -(1 - 4^-i) B_2i / (i (2 i - 1)), B the Bernoulli numbers
    draws       student_t  z = (nu (u^(-2 / nu) - 1))^1/2 cos(2 pi v)
                           dx = z / 2 (1 - 2 w / (e^2w - 1)) dz,  w = log u / nu, 0 beyond the bounds
                mixture    z = m_k + e^s_k n,  k the first with w_0 + ... + w_k above u, or given
                           dm_k = dz,  ds_k = (z - m_k) dz,  dc_j = ([j = k] - w_j) dlog w_k

Bailey, "Polar generation of random variates with the t-distribution" (1994).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import (
    bits_of_words,
    fma,
    lanes,
    lanes_type,
    load,
    narrow,
    number,
    polynomial,
    select,
    sign_extended,
    splat,
    sqrt,
    store,
    widened,
)
from penstock._numba.core.layout import TILE
from penstock._numba.core.math import absolute, clamp, exp, expm1, log, log1p, sincos_turn
from penstock._numba.core.philox import STREAM_MIXTURE, STREAM_PAIRS, philox
from penstock._numba.core.plan import (
    BLOCK_COMPONENTS,
    BLOCK_DIMS,
    BLOCK_FIXED,
    BLOCK_HI,
    BLOCK_KIND,
    BLOCK_LO,
    BLOCK_N,
    BLOCK_NUMBERS,
    BLOCK_STEP,
    MOST_COMPONENTS,
    NORMAL,
    STUDENT_T,
    THETA,
    step_of,
)
from penstock._numba.core.pointers import beyond
from penstock._numba.isa.supports import hypotenuse

HALF_LOG_2PI = 0.91893853320467274178
LOG_PI = 1.14472988584940017414


class Numbers(NamedTuple):
    """The numbers of a block for the rows of a vector, as a tile has them."""

    kept: Any
    at: int


@jit
def read(x: Numbers, i: int) -> Any:
    """Number i, in float64."""
    return widened(x.kept, x.at + i * TILE)


@jit
def numbers_at(block: Any, plan: Any, tile: Any, r: int) -> Any:
    """Those of the rows from r on, which the block's step has put into the kept store."""
    return Numbers(tile.kept, (step_of(plan, block[BLOCK_STEP])[THETA] if block[BLOCK_STEP] >= 0 else 0) + r)


# --- mixtures of normals


@jit
def log_sum(top: Any, total: Any, term: Any) -> Any:
    """The sum of exponentials, term by term, by the largest so far: the next one."""
    higher = select(term > top, term, top)
    return higher, total * exp(top - higher) + exp(term - higher)


@jit
def first_mean(block: Any) -> int:
    """Where the means begin."""
    return 0 if block[BLOCK_KIND] == NORMAL else int(block[BLOCK_COMPONENTS])


@jit
def log_of_weights(block: Any, x: Numbers) -> Any:
    """log sum e^c."""
    top = read(x, 0)
    if block[BLOCK_KIND] == NORMAL:
        return splat(top, 0.0)
    total = splat(top, 1.0)
    for k in range(1, block[BLOCK_COMPONENTS]):
        top, total = log_sum(top, total, read(x, k))
    return top + log(total)


@jit
def log_weight(block: Any, x: Numbers, every: Any, k: int) -> Any:
    """log w_k; ``every``: log sum e^c."""
    return splat(every, 0.0) if block[BLOCK_KIND] == NORMAL else read(x, k) - every


@jit
def mean(block: Any, x: Numbers, k: int, d: int) -> Any:
    """m_kd."""
    return read(x, first_mean(block) + k * block[BLOCK_N] + d)


@jit
def log_scale(block: Any, x: Numbers, k: int, d: int) -> Any:
    """s_kd."""
    return read(x, first_mean(block) + (block[BLOCK_COMPONENTS] + k) * block[BLOCK_N] + d)


@jit
def component(block: Any, dims: Any, x: Numbers, every: Any, k: int, state: Any, r: int) -> Any:
    """l_k at the latents of the rows from r on."""
    term = log_weight(block, x, every, k)
    for d in range(block[BLOCK_N]):
        s = log_scale(block, x, k, d)
        u = (widened(state, dims[d] * TILE + r) - mean(block, x, k, d)) * exp(-s)
        term = term - (s + 0.5 * (u * u) + HALF_LOG_2PI)
    return select(term < -1e300, -1e300, term)  # so far out that a square overflows


@jit
def mixture_log_density(block: Any, dims: Any, x: Numbers, every: Any, state: Any, r: int) -> Any:
    """log p there."""
    top = component(block, dims, x, every, 0, state, r)
    if block[BLOCK_COMPONENTS] == 1:
        return top
    total = splat(top, 1.0)
    for k in range(1, block[BLOCK_COMPONENTS]):
        top, total = log_sum(top, total, component(block, dims, x, every, k, state, r))
    return top + log(total)


# --- Student t

HALF_STEP = (-1 / 8, 1 / 192, -1 / 640, 17 / 14336, -31 / 18432, 691 / 180224, -5461 / 425984)
HALF_STEP_SLOPE = tuple(b * (-1.0 - 2.0 * i) for i, b in enumerate(HALF_STEP))


@jit
def half_step(a: Any) -> Any:
    """D(a) and D'(a) for a of at least 1/4; absolute error 1e-15 and 4e-15."""
    above, below, total = splat(a, 1.0), splat(a, 1.0), splat(a, 0.0)
    for k in range(8):
        low = a + float(k)
        high = low + 0.5
        above = above * low
        below = below * high
        total = total + 0.5 / (low * high)
    x = a + 8.0
    over = 1.0 / x
    square = over * over
    value = 0.5 * log(x) + polynomial(square, HALF_STEP) * over + log(above / below)
    return value, 0.5 * over + polynomial(square, HALF_STEP_SLOPE) * square + total


@jit
def degrees(numbers: Any, x: Any) -> Any:
    """Degrees of freedom e^x within the bounds, and 1, or 0 beyond these."""
    free = exp(x)
    inside = select((free >= numbers[BLOCK_LO]) & (free <= numbers[BLOCK_HI]), splat(x, 1.0), 0.0)
    return clamp(free, numbers[BLOCK_LO], numbers[BLOCK_HI]), inside


@jit
def log_of(t: Any) -> Any:
    """log(1 + t^2)."""
    a = absolute(t)
    near = select(a > 1.0, 1.0, a)
    return select(a > 1.0, 2.0 * log(hypotenuse(t)), log1p(near * near))


@jit
def student_log_density(nu: Any, z: Any) -> Any:
    """log p of one number of a dimension."""
    value, _ = half_step(0.5 * nu)
    return value - 0.5 * (LOG_PI + log(nu)) - 0.5 * (nu + 1.0) * log_of(z / sqrt(nu)) + (z - z)


@jit
def student_backward(nu: Any, inside: Any, z: Any) -> Any:
    """Its derivatives dz and dx."""
    _, derivative = half_step(0.5 * nu)
    root = sqrt(nu)
    t = z / root
    h = hypotenuse(t)
    part = t / h
    dz = -((nu + 1.0) / root) * (part / h)
    dx = inside * 0.5 * nu * (derivative - 1.0 / nu - log_of(t) + (nu + 1.0) / nu * (part * part))
    return dz, dx


@jit
def log_degrees(block: Any, plan: Any, x: Numbers, d: int, like: Any) -> Any:
    """x of dimension d, learned or fixed; ``like``: doubles."""
    if block[BLOCK_FIXED] >= 0:
        return splat(like, plan.base_numbers[block[BLOCK_FIXED] + d])
    return read(x, d)


# --- a block of a tile


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def room_of_weights(typingctx: Any, like: Any) -> Any:
    """A vector of doubles for each component, on the stack; ``like``: doubles."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        kind = ir.ArrayType(ir.DoubleType(), MOST_COMPONENTS * lanes_type(types.float64).count)
        return builder.bitcast(cgutils.alloca_once(builder, kind), ir.DoubleType().as_pointer())

    return like(like), codegen


@jit
def block_places(block: Any, plan: Any) -> Any:
    """Numbers of a block that are none of a flow's parameters, and its slots."""
    return beyond(plan.base_numbers, block[BLOCK_NUMBERS]), beyond(plan.slots, block[BLOCK_DIMS])


def learned_log_density(block: Any, plan: Any, n_vectors: int, tile: Any, log_p: Any) -> None:
    """log_p += log p of a block."""
    numbers, dims = block_places(block, plan)
    state = tile.state
    for r in range(0, n_vectors * lanes(state), lanes(log_p)):
        x, total = numbers_at(block, plan, tile, r), load(log_p, r)
        if block[BLOCK_KIND] == STUDENT_T:
            for d in range(block[BLOCK_N]):
                nu, _ = degrees(numbers, log_degrees(block, plan, x, d, log_p))
                total = total + student_log_density(nu, widened(state, dims[d] * TILE + r))
        else:
            total = total + mixture_log_density(block, dims, x, log_of_weights(block, x), state, r)
        store(log_p, r, total)


@jit
def student_block_backward(
    block: Any, plan: Any, numbers: Any, dims: Any, tile: Any, d_log_p: Any, gradient: Any, r: int
) -> None:
    """The way back of the rows from r on of a Student t."""
    x, along, d_state = numbers_at(block, plan, tile, r), widened(d_log_p, r), gradient.state
    for d in range(block[BLOCK_N]):
        at = dims[d] * TILE + r
        nu, inside = degrees(numbers, log_degrees(block, plan, x, d, tile.log_det))
        dz, dx = student_backward(nu, inside, widened(tile.state, at))
        narrow(d_state, at, widened(d_state, at) + along * dz)
        if block[BLOCK_FIXED] < 0:
            narrow(gradient.theta, d * TILE + r, along * dx)


@jit
def mixture_block_backward(
    block: Any, plan: Any, dims: Any, tile: Any, d_log_p: Any, gradient: Any, r: int, weights: Any
) -> None:
    """The same of a mixture; ``weights`` is scratch."""
    x, along, d_state, d_numbers = numbers_at(block, plan, tile, r), widened(d_log_p, r), gradient.state, gradient.theta
    state, width, n, K, first = tile.state, lanes(weights), block[BLOCK_N], block[BLOCK_COMPONENTS], first_mean(block)
    every = log_of_weights(block, x)
    log_p = mixture_log_density(block, dims, x, every, state, r)
    for k in range(K):
        if K == 1:
            store(weights, k * width, splat(log_p, 1.0))
        else:
            store(weights, k * width, exp(component(block, dims, x, every, k, state, r) - log_p))
        if first > 0:
            part = load(weights, k * width) - exp(log_weight(block, x, every, k))
            narrow(d_numbers, k * TILE + r, along * part)
    for d in range(n):
        at = dims[d] * TILE + r
        dz = splat(log_p, 0.0)
        for k in range(K):
            over = exp(-log_scale(block, x, k, d))
            u = (widened(state, at) - mean(block, x, k, d)) * over
            weight = load(weights, k * width)
            pull = weight * u * over
            dz = dz - pull
            narrow(d_numbers, (first + k * n + d) * TILE + r, along * pull)
            narrow(d_numbers, (first + (K + k) * n + d) * TILE + r, along * (weight * (u * u - 1.0)))
        narrow(d_state, at, widened(d_state, at) + along * dz)


def learned_backward(block: Any, plan: Any, n_vectors: int, tile: Any, d_log_p: Any, gradient: Any) -> None:
    """Overwrites gradient.theta, (numbers, tile), and adds to the gradient of the state."""
    numbers, dims = block_places(block, plan)
    weights = room_of_weights(tile.log_det)
    for r in range(0, n_vectors * lanes(tile.state), lanes(tile.log_det)):
        if block[BLOCK_KIND] == STUDENT_T:
            student_block_backward(block, plan, numbers, dims, tile, d_log_p, gradient, r)
        else:
            mixture_block_backward(block, plan, dims, tile, d_log_p, gradient, r, weights)


@jit
def put_words(seed: Any, context_row: Any, draw: Any, own: int, stream: Any, r: int, n: int, words: Any) -> None:
    """The words of n rows from r on, at the beginning of each quarter of ``words``."""
    for i in range(n):
        w = philox(seed, draw[r + i], context_row[r + i], np.uint64(own), stream)
        words[i], words[TILE + i], words[2 * TILE + i], words[3 * TILE + i] = w


@jit
def student_exponent(like: Any, nu: Any, words: Any, first: int) -> Any:
    """w = log u / nu of the first word of a draw; ``like``: doubles."""
    u = (number((bits_of_words(like, words, first) >> 1) & 0x7FFFFFFF) + 0.5) * (1.0 / 2147483648.0)
    return log(u) / nu


@jit
def student_draw(like: Any, nu: Any, words: Any, first: int) -> Any:
    """A draw from two words; ``like``: doubles."""
    word = bits_of_words(like, words, first + TILE)
    quarter = ((word + (1 << 29)) >> 30) & 3  # nearest quarter turn
    rest = sign_extended(word - (quarter << 30))
    _, cosine = sincos_turn(quarter, number(rest) * (6.28318530717958647692 / 4294967296.0))
    w = student_exponent(like, nu, words, first)  # u^(-2 / nu) - 1 = (1 - e^2w) e^-2w
    return sqrt(-nu * expm1(w + w)) * exp(-w) * cosine


@jit
def components_of(
    like: Any, block: Any, x: Numbers, own: int, seed: Any, context_row: Any, draw: Any, words: Any, is_given: bool, given: Any,
    r: int,
) -> Any:  # fmt: skip
    """The components of the rows from r on: as given, or drawn by word 0 of block number ``own``; ``like``: doubles."""
    if is_given:
        return load(given, r)
    chosen, total = splat(load(like, 0), 0.0), splat(load(like, 0), 0.0)
    if block[BLOCK_COMPONENTS] == 1:
        return chosen
    put_words(seed, context_row, draw, own, STREAM_MIXTURE, r, lanes(like), words)
    u = (number(bits_of_words(like, words, 0)) + 0.5) * (1.0 / 4294967296.0)
    every = log_of_weights(block, x)
    for k in range(block[BLOCK_COMPONENTS] - 1):
        total = total + exp(log_weight(block, x, every, k))
        chosen = select(u >= total, float(k + 1), chosen)
    return chosen


@jit
def mixture_draw(block: Any, dims: Any, x: Numbers, chosen: Any, state: Any, r: int) -> None:
    """Draws from the normals that stand in the state."""
    for d in range(block[BLOCK_N]):
        at = dims[d] * TILE + r
        m, s = mean(block, x, 0, d), log_scale(block, x, 0, d)
        for k in range(1, block[BLOCK_COMPONENTS]):
            other = chosen != float(k)
            m, s = select(other, m, mean(block, x, k, d)), select(other, s, log_scale(block, x, k, d))
        narrow(state, at, fma(exp(s), widened(state, at), m))


@jit
def add_log_weight(block: Any, x: Numbers, chosen: Any, log_weights: Any, r: int) -> None:
    """What the components of the rows from r on weigh."""
    every = log_of_weights(block, x)
    weight = log_weight(block, x, every, 0)
    for k in range(1, block[BLOCK_COMPONENTS]):
        weight = select(chosen != float(k), weight, log_weight(block, x, every, k))
    store(log_weights, r, load(log_weights, r) + weight)


def learned_draw(
    block: Any, plan: Any, n_vectors: int, tile: Any, own: int, seed: Any, context_row: Any, draw: Any, words: Any,
    is_given: bool, given: Any, log_weights: Any,
) -> None:  # fmt: skip
    """Draws of block number ``own``; ``words`` is scratch, ``given`` the components of its rows, if they are."""
    numbers, dims = block_places(block, plan)
    state, like = tile.state, tile.log_det
    for r in range(0, n_vectors * lanes(state), lanes(like)):
        x = numbers_at(block, plan, tile, r)
        if block[BLOCK_KIND] == STUDENT_T:
            pair = -1
            for d in range(block[BLOCK_N]):
                f = dims[d]
                if f // 2 != pair:
                    pair = f // 2
                    put_words(seed, context_row, draw, pair, STREAM_PAIRS, r, lanes(like), words)
                nu, _ = degrees(numbers, log_degrees(block, plan, x, d, like))
                narrow(state, f * TILE + r, student_draw(like, nu, words, 2 * (f % 2) * TILE))
        else:
            chosen = components_of(like, block, x, own, seed, context_row, draw, words, is_given, given, r)
            if is_given:
                add_log_weight(block, x, chosen, log_weights, r)
            mixture_draw(block, dims, x, chosen, state, r)


@jit
def mixture_draw_backward(block: Any, dims: Any, x: Numbers, chosen: Any, tile: Any, gradient: Any, r: int) -> None:
    """The way back of the draws of a mixture from the rows r on."""
    along, d_numbers, none = widened(gradient.log_det, r), gradient.theta, splat(chosen, 0.0)
    n, K, first, every = block[BLOCK_N], block[BLOCK_COMPONENTS], first_mean(block), log_of_weights(block, x)
    for k in range(K):
        other = chosen != float(k)
        if first > 0:
            this_one = select(other, none, splat(chosen, 1.0))
            narrow(d_numbers, k * TILE + r, along * (this_one - exp(log_weight(block, x, every, k))))
        for d in range(n):
            at = dims[d] * TILE + r
            pull, away = widened(gradient.state, at), widened(tile.state, at) - mean(block, x, k, d)
            narrow(d_numbers, (first + k * n + d) * TILE + r, select(other, none, pull))
            narrow(d_numbers, (first + (K + k) * n + d) * TILE + r, select(other, none, pull * away))


def learned_draw_backward(
    block: Any, plan: Any, n_vectors: int, tile: Any, own: int, seed: Any, context_row: Any, draw: Any, words: Any,
    is_given: bool, given: Any, gradient: Any,
) -> None:  # fmt: skip
    """The way back of the draws in the state: overwrites gradient.theta, (numbers, tile). Cotangents of the weights of components
    stand in gradient.log_det.
    """
    numbers, dims = block_places(block, plan)
    state, like = tile.state, tile.log_det
    for r in range(0, n_vectors * lanes(state), lanes(like)):
        x = numbers_at(block, plan, tile, r)
        if block[BLOCK_KIND] == STUDENT_T:
            pair = -1
            for d in range(block[BLOCK_N]):
                f = dims[d]
                if f // 2 != pair:
                    pair = f // 2
                    put_words(seed, context_row, draw, pair, STREAM_PAIRS, r, lanes(like), words)
                nu, inside = degrees(numbers, log_degrees(block, plan, x, d, like))
                w = student_exponent(like, nu, words, 2 * (f % 2) * TILE)
                twice = w + w
                z, d_z = widened(state, f * TILE + r), widened(gradient.state, f * TILE + r)
                dx = d_z * inside * 0.5 * z * (1.0 - twice / expm1(twice))
                narrow(gradient.theta, d * TILE + r, dx)
        else:
            chosen = components_of(like, block, x, own, seed, context_row, draw, words, is_given, given, r)
            mixture_draw_backward(block, dims, x, chosen, tile, gradient, r)
