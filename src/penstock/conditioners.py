"""Specs of conditioners: the networks that choose a transform's theta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock import _validate

# Append only: the position is the code in plan tables and files.
ACTIVATIONS = ("relu", "tanh", "silu", "gelu", "leaky_relu")
CONDITIONERS = ("free", "mlp", "residual_mlp", "external")


@dataclass(frozen=True)
class MLP:
    """A multilayer perceptron ``u -> theta``.

    Layer ``i`` computes ``h_i = act(h_{i-1} W_i + b_i)``; with ``residual=True`` every hidden layer
    after the first computes ``h_i = h_{i-1} + act(h_{i-1} W_i + b_i)`` and all widths are equal. The
    last layer is linear and starts at zero, so that a fresh flow is the identity.

    Parameters
    ----------
    hidden : tuple of int, default (64, 64)
        Widths of the hidden layers; ``()`` gives a linear conditioner.
    activation : {"relu", "tanh", "silu", "gelu", "leaky_relu"}, default "relu"
        ``gelu`` is the exact one, ``x Phi(x)``; ``leaky_relu`` has slope 0.01 below zero.
    residual : bool, default False
        Add skip connections.
    """

    hidden: tuple[int, ...] = (64, 64)
    activation: str = "relu"
    residual: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", _validate.widths(self.hidden, name="hidden"))
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {ACTIVATIONS}, got {self.activation!r}")
        if self.residual and len(set(self.hidden)) > 1:
            raise ValueError(f"hidden must have equal widths when residual=True, got {self.hidden}")

    @property
    def kind(self) -> str:
        """The name of its code in a plan."""
        return "residual_mlp" if self.residual else "mlp"

    def widths(self, n_in: int, n_out: int) -> tuple[int, ...]:
        """Widths of input, hidden layers and output."""
        return (n_in, *self.hidden, n_out)

    gain: ClassVar[dict[str, float]] = {"relu": 2.0, "leaky_relu": 2.0, "gelu": 2.0, "silu": 2.0}

    def initial(self, widths: tuple[int, ...], rng: np.random.Generator, last: float = 0.0) -> list[np.ndarray]:
        """Initial weights and biases, ``W_0, b_0, W_1, ...`` with W of shape (in, out), float64.

        Hidden weights are normal with variance ``gain / n_in`` (He et al. 2015), hidden biases
        uniform within ``1 / sqrt(n_in)``; the last layer is zero, or with ``last`` its weights have the variance
        ``last / n_in``.
        """
        arrays: list[np.ndarray] = []
        for i, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            fan = max(n_in, 1)
            if i == len(widths) - 2:
                weight = np.sqrt(last / fan) * rng.standard_normal((n_in, n_out)) if last else np.zeros((n_in, n_out))
                arrays += [weight, np.zeros(n_out)]
                continue
            scale = np.sqrt(self.gain.get(self.activation, 1.0) / fan)
            arrays += [scale * rng.standard_normal((n_in, n_out)), rng.uniform(-1, 1, n_out) / np.sqrt(fan)]
        return arrays
