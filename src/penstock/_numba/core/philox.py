"""Philox4x32-10 over rows, and standard normals and uniform numbers from its words.

Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
key = (seed low, seed high). Of draw d < 2^56, context row c < 2^40, block b < 2^24 and stream s < 2^8 the counter is

    word 0 = d mod 2^32    word 1 = c mod 2^32    word 2 = b + 2^24 floor(c / 2^32)    word 3 = s + 2^8 floor(d / 2^32)
"""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import (
    BYTES,
    bits_of_words,
    constant,
    fma,
    lanes,
    number,
    select,
    sign_extended,
    sqrt,
    store,
)
from penstock._numba.core.layout import TILE
from penstock._numba.core.math import clamp, log, sincos_turn

STREAM_BASE, STREAM_MIXTURE, STREAM_GAMMA, STREAM_DEQUANTISE = (np.uint64(i) for i in range(4))
STREAM_SHUFFLE, STREAM_INIT, STREAM_PAIRS, STREAM_MEMBER = (np.uint64(i) for i in range(4, 8))
LOW, HALF, BLOCK_BITS, STREAM_BITS = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(24), np.uint64(8)
M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


@jit
def philox(seed: Any, draw: Any, context_row: Any, block: Any, stream: Any) -> Any:
    """The four 32-bit words of one counter, each in 64 bits; ten rounds."""
    k0, k1 = seed & LOW, seed >> HALF
    c0, c1 = draw & LOW, context_row & LOW
    c2, c3 = block | ((context_row >> HALF) << BLOCK_BITS), stream | ((draw >> HALF) << STREAM_BITS)
    for _ in range(10):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


@jit
def normal_pair(like: Any, words: Any, w0: int, w1: int) -> Any:
    """Two standard normals from two words: r = sqrt(-2 log u), u = (w0 / 2 + 1/2) / 2^31, at the angle 2 pi w1 / 2^32.

    Box, Muller, "A note on the generation of random normal deviates" (1958).
    """
    high = (bits_of_words(like, words, w0) >> 1) & 0x7FFFFFFF
    u = (number(high) + 0.5) * (1.0 / 2147483648.0)
    r = sqrt(-2.0 * log(u))
    word = bits_of_words(like, words, w1)
    quarter = ((word + (1 << 29)) >> 30) & 3  # nearest quarter turn
    # the rest of the angle as a signed 32-bit number
    rest = sign_extended(word - (quarter << 30))
    sine, cosine = sincos_turn(quarter, number(rest) * (6.28318530717958647692 / 4294967296.0))
    return r * cosine, r * sine


@jit
def normals(seed: Any, context_row: Any, draw: Any, rows: int, dim: int, words: Any, state: Any) -> None:
    """Fill state (dim, tile) with normals: dimension f of lane i is decided by (seed, context_row[i], draw[i], f) alone.

    Counters are read up to a whole vector; ``words`` is scratch, (4, tile) of uint32.
    """
    width = lanes(state)
    for block in range((dim + 3) // 4):
        for i in range((rows + width - 1) // width * width):
            w = philox(seed, draw[i], context_row[i], np.uint64(block), STREAM_BASE)
            words[i], words[TILE + i], words[2 * TILE + i], words[3 * TILE + i] = w
        for lane in range(0, rows, width):
            for pair in range(2):
                even, odd = normal_pair(state, words, 2 * pair * TILE + lane, (2 * pair + 1) * TILE + lane)
                f = 4 * block + 2 * pair
                if f < dim:
                    store(state, f * TILE + lane, even)
                if f + 1 < dim:
                    store(state, (f + 1) * TILE + lane, odd)


@jit
def uniform(like: Any, words: Any, w0: int, w1: int) -> Any:
    """A number strictly between 0 and 1, of the 53 bits of two words or, in float, of the 24 upper ones of the first."""
    if lanes(like) == BYTES // 4:
        k = number((bits_of_words(like, words, w0) >> 8) & 0xFFFFFF)
    else:
        k = fma(number(bits_of_words(like, words, w0)), 2097152.0, number(bits_of_words(like, words, w1) >> 11))
    return select(k < 0.5, 0.5, k) * constant(k, (2.0**-24, 2.0**-53))


@jit
def uniforms(
    seed: Any, context_row: Any, draw: Any, rows: int, n: int, dims: Any, lo: float, width: float, least: float,
    most: float, words: Any, state: Any,
) -> None:  # fmt: skip
    """The n dimensions of a list, rising, uniform between lo and lo + width, and then clamped; decided as normals are."""
    vector, block = lanes(state), -1
    for i in range(n):
        f = dims[i]
        if f // 2 != block:
            block = f // 2
            for r in range((rows + vector - 1) // vector * vector):
                w = philox(seed, draw[r], context_row[r], np.uint64(block), STREAM_PAIRS)
                words[r], words[TILE + r], words[2 * TILE + r], words[3 * TILE + r] = w
        first = 2 * (f % 2) * TILE
        for lane in range(0, rows, vector):
            u = uniform(state, words, first + lane, first + TILE + lane)
            store(state, f * TILE + lane, clamp(fma(u, width, lo), least, most))
