"""The one microkernel:  out[n][lanes] (+)= sum_k w[n][k] in[k][lanes], in register blocks, k ascending.

It serves the three products of a linear layer h = u W + b (W is (in, out)):

    forward          lanes are rows,    n outputs,  k inputs    w: W
    input gradient   lanes are rows,    n inputs,   k outputs   w: W transposed, by its strides
    weight gradient  lanes are outputs, n inputs,   k rows      w: the tile of inputs itself

The index that is summed over is never a lane, so a number's arithmetic does not depend on the width of the vectors.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.core.jit import jit
from penstock._numba.core.lanes import broadcast, fma, lanes, load, splat, store
from penstock._numba.core.layout import TILE

BLOCK = 4  # outputs of a register block
START_BIAS, ZERO, LOAD = range(3)  # what an accumulator holds before the sum


@jit
def _start(start: int, bias: Any, bias_at: int, out: Any, out_at: int) -> Any:
    if start == START_BIAS:
        return broadcast(bias, bias_at)
    if start == ZERO:
        return splat(out, 0.0)
    return load(out, out_at)


@jit
def product(
    start: int, n_outputs: int, n_vectors: int, n_k: int, w: Any, w_at: int, w_n: int, w_k: int,
    inputs: Any, in_at: int, in_stride: int, out: Any, out_at: int, out_stride: int, bias: Any, bias_at: int,
) -> None:  # fmt: skip
    """The product for n_vectors vectors of lanes; w element (n, k) is w[w_at + n * w_n + k * w_k]."""
    for v in range(n_vectors):
        for n in range(0, n_outputs, BLOCK):
            # a last block that is not full computes its last output again and does not store it
            last = n_outputs - n - 1
            n1, n2, n3 = min(1, last), min(2, last), min(3, last)
            o = out_at + n * out_stride + v * lanes(out)
            sum0 = _start(start, bias, bias_at + n, out, o)
            sum1 = _start(start, bias, bias_at + n + n1, out, o + n1 * out_stride)
            sum2 = _start(start, bias, bias_at + n + n2, out, o + n2 * out_stride)
            sum3 = _start(start, bias, bias_at + n + n3, out, o + n3 * out_stride)
            w0 = w_at + n * w_n
            w1, w2, w3 = w0 + n1 * w_n, w0 + n2 * w_n, w0 + n3 * w_n
            x_at = in_at + v * lanes(out)
            for _ in range(n_k):
                x = load(inputs, x_at)
                sum0 = fma(broadcast(w, w0), x, sum0)
                sum1 = fma(broadcast(w, w1), x, sum1)
                sum2 = fma(broadcast(w, w2), x, sum2)
                sum3 = fma(broadcast(w, w3), x, sum3)
                w0 += w_k
                w1 += w_k
                w2 += w_k
                w3 += w_k
                x_at += in_stride
            store(out, o, sum0)
            if last >= 1:
                store(out, o + out_stride, sum1)
            if last >= 2:
                store(out, o + 2 * out_stride, sum2)
            if last >= 3:
                store(out, o + 3 * out_stride, sum3)


@jit
def transpose_tile(tile: Any, at: int, n: int, rows: int, out: Any, stride: int) -> None:
    """(n, tile) -> out (rows, stride): each row's numbers side by side, columns filled up to the stride with zeros."""
    for r in range(rows):
        for c in range(n):
            out[r * stride + c] = tile[at + c * TILE + r]
        for c in range(n, stride):
            out[r * stride + c] = 0
