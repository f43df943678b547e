"""Specs of conditioners: the networks that choose a transform's theta."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from penstock import _validate

# The codes of plan tables are those of plan_table.ACTIVATIONS.
ACTIVATIONS = ("relu", "tanh", "silu", "gelu", "leaky_relu")


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

    Examples
    --------
    >>> import penstock as ps
    >>> ps.Coupling(ps.Affine(), ps.MLP((32, 32), activation="tanh")).conditioner
    MLP(hidden=(32, 32), activation='tanh', residual=False)
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

    def widths(self, n_in: int, n_out: int) -> tuple[int, ...]:
        """Widths of input, hidden layers and output."""
        return (n_in, *self.hidden, n_out)

    gain: ClassVar[dict[str, float]] = {"relu": 2.0, "leaky_relu": 2.0, "gelu": 2.0, "silu": 2.0}

    def degrees(self, n_context: int, features: Sequence[int], thetas: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """The degrees of inputs, hidden units and outputs, each rising, of a masked network over ordered dimensions.

        ``features`` and ``thetas`` count the inputs that each dimension has and the numbers of its theta. A unit reads those
        below it whose degree is not above its own. The context has degree 0, dimension ``i`` of the order, as an input,
        ``i + 1``, and its theta ``i``. Hidden units share the degrees between evenly, the last dimension's excluded, since
        nobody reads it; without context nobody needs degree 0 either.
        """
        dim = len(thetas)
        low = 0 if n_context or dim == 1 else 1
        inputs = (0,) * n_context + tuple(i + 1 for i in range(dim - 1) for _ in range(features[i]))
        hidden = (tuple(low + (2 * j + 1) * (dim - low) // (2 * n) for j in range(n)) for n in self.hidden)
        return (inputs, *hidden, tuple(i for i in range(dim) for _ in range(thetas[i])))

    def initial(
        self,
        widths: tuple[int, ...],
        rng: np.random.Generator,
        last: float = 0.0,
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> list[np.ndarray]:
        """Initial weights and biases, ``W_0, b_0, W_1, ...`` with W of shape (in, out), float64.

        Hidden weights are normal with variance ``gain / n_in`` (He et al. 2015), hidden biases
        uniform within ``1 / sqrt(n_in)``, counting the inputs that a unit reads; the last layer is zero, or with ``last``
        its weights have the variance ``last / n_in``.
        """
        arrays: list[np.ndarray] = []
        for i, (n_in, n_out) in enumerate(zip(widths[:-1], widths[1:], strict=True)):
            mask = None if masks is None else masks[i]
            fan = np.maximum(n_in if mask is None else mask.sum(axis=0), 1)
            if i == len(widths) - 2:
                weight = np.sqrt(last / fan) * rng.standard_normal((n_in, n_out)) if last else np.zeros((n_in, n_out))
                arrays += [weight, np.zeros(n_out)]
                continue
            scale = np.sqrt(self.gain.get(self.activation, 1.0) / fan)
            weight = scale * rng.standard_normal((n_in, n_out))
            bias = rng.uniform(-1, 1, n_out) / np.sqrt(fan)
            arrays += [weight if mask is None else weight * mask, bias]
        return arrays
