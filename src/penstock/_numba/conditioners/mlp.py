"""Multilayer perceptron over a tile, forward and backward, plain or residual.

    plain      h_i = act(h_{i-1} W_i + b_i)
    residual   h_i = h_{i-1} + act(h_{i-1} W_i + b_i) for i > 0
    theta      h_last W + b

Activations live in the kept store; a derivative is kept only where it can't be had from the activation.
"""

from __future__ import annotations

from typing import Any

from penstock._numba.conditioners.activations import scale_by_kept
from penstock._numba.conditioners.microkernel import LOAD, START_BIAS, ZERO, product, transpose_tile
from penstock._numba.core.jit import call, jit
from penstock._numba.core.lanes import lanes, load, store
from penstock._numba.core.layout import TILE
from penstock._numba.core.plan import (
    ACTIVATE,
    BIAS,
    CONDITIONER,
    DERIVATIVE,
    GRAD_BIAS,
    GRAD_STRIDE,
    GRAD_WEIGHT,
    INPUT,
    LINEAR,
    N_CONTEXT,
    N_IN,
    N_LINEAR,
    N_OUT,
    N_U,
    OUTPUT,
    RESIDUAL_MLP,
    SCALE_BY_DERIVATIVE,
    WEIGHT,
    linear_of,
)
from penstock._numba.core.tile import IGNORE

scale_kept = jit(scale_by_kept)


@jit
def mlp_forward(step: Any, linears: Any, params: Any, start: int, n_vectors: int, keep: bool, tile: Any) -> None:
    """Read the input at step[INPUT], fill theta at step[THETA] and all that lies between.

    With start >= 0 the first layer's products begin with those of tile.context_part instead of the bias, the part of the
    context in them, which is then not read.
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
        product(
            START_BIAS, n_out, n_vectors, linear[N_IN] - skip_in, params, linear[WEIGHT] + skip_in * n_out, 1, n_out,
            kept, inputs + skip_in * TILE, TILE, kept, out, TILE, bias, bias_at,
        )  # fmt: skip
        if i + 1 < step[N_LINEAR]:
            n = n_vectors * lanes(kept)
            for j in range(0, n_out * TILE, TILE):
                skip = inputs + j if residual and i > 0 else -1
                derivative = linear[DERIVATIVE] + j if keep and linear[DERIVATIVE] >= 0 else -1
                call(step[ACTIVATE], (n, kept, out + j, skip, derivative))
        inputs = out


@jit
def weight_gradient(linear: Any, tile: Any, gradient: Any, inputs: int, first: int, last: int, column: int) -> None:
    """Gradient of the weights from inputs [first, last) to outputs from ``column``, a whole vector, on."""
    stride, n_vectors = linear[GRAD_STRIDE], (linear[N_OUT] - column + lanes(tile.state) - 1) // lanes(tile.state)
    product(
        LOAD, last - first, n_vectors, tile.rows, tile.kept, inputs + first * TILE, TILE, 1,
        gradient.transposed, column, stride, gradient.params, linear[GRAD_WEIGHT] + first * stride + column, stride,
        gradient.params, 0,
    )  # fmt: skip


@jit
def bias_gradient(linear: Any, rows: int, gradient: Any) -> None:
    """Gradient of the biases: a bias is the weight of a constant input."""
    stride, params = linear[GRAD_STRIDE], gradient.params
    for v in range(0, linear[N_OUT], lanes(params)):
        total = load(params, linear[GRAD_BIAS] + v)
        for r in range(rows):
            total = total + load(gradient.transposed, r * stride + v)
        store(params, linear[GRAD_BIAS] + v, total)


@jit
def linear_gradient(linear: Any, tile: Any, gradient: Any, inputs: int, d: Any, d_at: int) -> None:
    """Gradients of W and b of one linear layer, from the gradient d of its outputs: sums over the tile's rows, in order."""
    transpose_tile(d, d_at, linear[N_OUT], tile.rows, gradient.transposed, linear[GRAD_STRIDE])
    weight_gradient(linear, tile, gradient, inputs, 0, linear[N_IN], 0)
    bias_gradient(linear, tile.rows, gradient)


@jit
def input_gradient(
    start: int, linear: Any, params: Any, n_vectors: int, d: Any, d_at: int, first: int, out: Any, at: int
) -> None:
    """out (+)= W d: gradient of a linear layer's inputs, the ``first`` of them left out."""
    n_out = linear[N_OUT]
    product(
        start, linear[N_IN] - first, n_vectors, n_out, params, linear[WEIGHT] + first * n_out, n_out, 1,
        d, d_at, TILE, out, at + first * TILE, TILE, params, 0,
    )  # fmt: skip


@jit
def mlp_backward(step: Any, linears: Any, params: Any, n_vectors: int, first: int, tile: Any, gradient: Any) -> int:
    """From gradient.theta to the gradient of the conditioner's input, (n_u, tile), whose position in gradient.hidden it returns.

    The ``first`` inputs are left out.
    """
    residual = step[CONDITIONER] == RESIDUAL_MLP
    n = n_vectors * lanes(tile.state)
    hidden, other = 0, gradient.hidden_half  # residual: gradients of h_i, and of its pre-activation
    d, d_at = gradient.theta, 0
    for i in range(step[N_LINEAR] - 1, -1, -1):
        if tile.stop[0] != 0:
            break
        linear = linear_of(linears, step[LINEAR] + i)
        last = i + 1 == step[N_LINEAR]
        if residual and not last:
            d, d_at = gradient.hidden, other
            for j in range(0, linear[N_OUT] * TILE, TILE):
                scale_kept(n, d, hidden + j, tile.kept, linear[DERIVATIVE] + j, d, other + j)
        if gradient.of_params != IGNORE:
            inputs = linear_of(linears, step[LINEAR] + i - 1)[OUTPUT] if i > 0 else step[INPUT]
            linear_gradient(linear, tile, gradient, inputs, d, d_at)
        if i == 0 and first == step[N_U]:
            break
        out = other if not residual and not last and d_at == hidden else hidden
        # the skip connection: the gradient of h_i is part of that of h_{i-1}
        start = LOAD if residual and not last and i > 0 else ZERO
        input_gradient(start, linear, params, n_vectors, d, d_at, first if i == 0 else 0, gradient.hidden, out)
        d, d_at = gradient.hidden, out
        if i > 0 and not residual:
            below = linear_of(linears, step[LINEAR] + i - 1)
            source = below[DERIVATIVE] if below[DERIVATIVE] >= 0 else below[OUTPUT]
            for j in range(0, below[N_OUT] * TILE, TILE):
                call(step[SCALE_BY_DERIVATIVE], (n, d, out + j, tile.kept, source + j, d, out + j))
    return d_at
