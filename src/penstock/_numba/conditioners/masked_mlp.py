"""Masked multilayer perceptron over a tile: mlp.py with every feature of a degree, sorted by it, and every output reading the
inputs whose degree is not above its own. The zeros of such a matrix are never multiplied.

Whether degrees come one at a time, each when its inputs are known, or all at once: the same products, degree by degree, so
the same bits, k ascending. The way back does likewise with the outputs that an input enters, from the last degree down.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.microkernel import START_BIAS, ZERO, product, transpose_tile
from penstock._numba.conditioners.mlp import bias_gradient, scale_kept, weight_gradient
from penstock._numba.core.jit import call, jit
from penstock._numba.core.lanes import lanes, load, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import (
    ACTIVATE,
    BIAS,
    CONDITIONER,
    DERIVATIVE,
    GRAD_STRIDE,
    GRAD_WEIGHT,
    GRADIENT,
    IN_START,
    INPUT,
    LINEAR,
    N_B,
    N_CONTEXT,
    N_LINEAR,
    N_OUT,
    OUT_START,
    OUTPUT,
    RESIDUAL_MLP,
    SCALE_BY_DERIVATIVE,
    WEIGHT,
    linear_of,
)


@jit
def masked_forward(
    step: Any, linears: Any, slots: Any, first: int, last: int, params: Any, start: int, n_vectors: int, keep: bool,
    tile: Any,
) -> None:  # fmt: skip
    """What has a degree in [first, last), in every layer, once the input of those degrees stands at step[INPUT].

    ``start``: as for mlp_forward.
    """
    kept = tile.kept
    residual = step[CONDITIONER] == RESIDUAL_MLP
    inputs = step[INPUT]
    for i in range(step[N_LINEAR]):
        if tile.stop[0] != 0:
            return
        linear = linear_of(linears, step[LINEAR] + i)
        n_out, out = linear[N_OUT], linear[OUTPUT]
        started = i == 0 and start >= 0
        skip_in = step[N_CONTEXT] if started else 0
        bias, bias_at = (tile.context_part, start) if started else (params, linear[BIAS])
        for degree in range(first, last):
            n = slots[linear[OUT_START] + degree]
            product(
                START_BIAS, slots[linear[OUT_START] + degree + 1] - n, n_vectors,
                slots[linear[IN_START] + degree + 1] - skip_in, params, linear[WEIGHT] + skip_in * n_out + n, 1, n_out,
                kept, inputs + skip_in * TILE, TILE, kept, out + n * TILE, TILE, bias, bias_at + n,
            )  # fmt: skip
        if i + 1 < step[N_LINEAR]:
            n = n_vectors * lanes(kept)
            for j in range(slots[linear[OUT_START] + first] * TILE, slots[linear[OUT_START] + last] * TILE, TILE):
                skip = inputs + j if residual and i > 0 else -1
                derivative = linear[DERIVATIVE] + j if keep and linear[DERIVATIVE] >= 0 else -1
                call(step[ACTIVATE], (n, kept, out + j, skip, derivative))
        inputs = out


@jit
def output_gradient(step: Any, linears: Any, i: int, tile: Any, gradient: Any) -> Any:
    """The gradient of a layer's outputs, before the activation, and its position.

    Theta's, or that of hidden units, in gradient.hidden. A residual network needs those of h_i there, and puts these in place
    of the derivatives.
    """
    if i + 1 == step[N_LINEAR]:
        return gradient.theta, 0
    if step[CONDITIONER] == RESIDUAL_MLP:
        return tile.kept, linear_of(linears, step[LINEAR] + i)[DERIVATIVE]
    return gradient.hidden, linear_of(linears, step[LINEAR] + i)[GRADIENT]


@jit
def masked_backward(
    step: Any, linears: Any, slots: Any, first: int, last: int, params: Any, n_vectors: int, tile: Any, gradient: Any
) -> None:  # fmt: skip
    """From gradient.theta of the degrees in [first, last), when all higher ones are done.

    Gradients of the hidden units of those degrees, and of the inputs, which gradient.hidden begins with.
    """
    residual = step[CONDITIONER] == RESIDUAL_MLP
    n, hidden = n_vectors * lanes(tile.state), gradient.hidden
    for i in range(step[N_LINEAR] - 1, -1, -1):
        if tile.stop[0] != 0:
            return
        linear = linear_of(linears, step[LINEAR] + i)
        below = linear_of(linears, step[LINEAR] + max(i - 1, 0))
        d, d_at = output_gradient(step, linears, i, tile, gradient)
        out = below[GRADIENT] if i > 0 else 0
        n_out = linear[N_OUT]
        for degree in range(last - 1, first - 1, -1):
            k, read = slots[linear[IN_START] + degree], slots[linear[OUT_START] + degree]
            product(
                ZERO, slots[linear[IN_START] + degree + 1] - k, n_vectors, n_out - read,
                params, linear[WEIGHT] + k * n_out + read, n_out, 1,
                d, d_at + read * TILE, TILE, hidden, out + k * TILE, TILE, params, 0,
            )  # fmt: skip
        if i == 0:
            return
        source = below[DERIVATIVE] if below[DERIVATIVE] >= 0 else below[OUTPUT]
        for j in range(slots[linear[IN_START] + first] * TILE, slots[linear[IN_START] + last] * TILE, TILE):
            if residual and i + 1 < step[N_LINEAR]:
                for lane in range(j, j + n, lanes(hidden)):
                    summed = load(hidden, out + lane) + load(hidden, linear[GRADIENT] + lane)
                    store(hidden, out + lane, summed)
            if residual:
                scale_kept(n, hidden, out + j, tile.kept, source + j, tile.kept, source + j)
            else:
                call(step[SCALE_BY_DERIVATIVE], (n, hidden, out + j, tile.kept, source + j, hidden, out + j))


@jit
def masked_gradient(step: Any, linears: Any, slots: Any, tile: Any, gradient: Any) -> None:
    """Gradients of all weights and biases, once masked_backward is through."""
    params = gradient.params
    for i in range(step[N_LINEAR]):
        linear = linear_of(linears, step[LINEAR] + i)
        inputs = linear_of(linears, step[LINEAR] + i - 1)[OUTPUT] if i > 0 else step[INPUT]
        d, d_at = output_gradient(step, linears, i, tile, gradient)
        transpose_tile(d, d_at, linear[N_OUT], tile.rows, gradient.transposed, linear[GRAD_STRIDE])
        for degree in range(step[N_B]):
            k0, k1 = slots[linear[IN_START] + degree], slots[linear[IN_START] + degree + 1]
            read = slots[linear[OUT_START] + degree]
            column = read // lanes(params) * lanes(params)  # whole vectors; what is masked of the first becomes 0
            weight_gradient(linear, tile, gradient, inputs, k0, k1, column)
            for k in range(k0, k1):
                row = linear[GRAD_WEIGHT] + k * linear[GRAD_STRIDE]
                for masked in range(column, read):
                    params[row + masked] = 0
        bias_gradient(linear, tile.rows, gradient)
