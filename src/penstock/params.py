"""The numbers of a flow: their first values, names and present state. One flat vector of parameters, one of buffers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.conditioners import MLP

if TYPE_CHECKING:
    from penstock.layers import Layer
    from penstock.plan import Plan, Runner

Array = np.ndarray[Any, Any]


class Snapshot:
    """The numbers of a flow at one moment. Nothing in it ever changes: an assignment makes a new one.

    Attributes
    ----------
    params : array of shape (n_params,), read-only
    buffers : float64 array of shape (n_buffers,), read-only
        ``loc`` and ``scale`` of the standardisation, then those of the context.
    initialised : bool
        Whether the data-dependent parts were set by a ``fit``.
    packed : object or None
        The engine's form of the numbers, once it was needed.
    """

    __slots__ = ("buffers", "initialised", "packed", "params")

    def __init__(self, params: Array, buffers: Array, initialised: bool) -> None:
        # The arrays become ours: callers pass copies.
        params.flags.writeable = False
        buffers.flags.writeable = False
        self.params = params
        self.buffers = buffers
        self.initialised = initialised
        self.packed: Any = None

    def pack(self, runner: Runner) -> Any:
        """The packed form, made at its first use."""
        if self.packed is None:
            self.packed = runner.pack(self.params, self.buffers)
        return self.packed


def initial(plan: Plan, layers: Sequence[Layer], embedding: MLP | None, rng: np.random.Generator) -> Snapshot:
    """Fresh parameters, drawn in float64 whatever the dtype: free theta at zero, networks as their spec says."""
    parts: list[Array] = [np.zeros(0)]
    for number, layer in enumerate(layers):
        conditioner = getattr(layer, "conditioner", None)
        shapes = [t.shape for t in plan.tensors if t.name.startswith(f"layers.{number}.")]
        if isinstance(conditioner, MLP):
            parts += [array.ravel() for array in conditioner.initial(_widths(shapes), rng)]
        else:
            parts += [np.zeros(shape).ravel() for shape in shapes]
    if embedding is not None:
        widths = _widths([t.shape for t in plan.tensors if t.name.startswith("embedding.")])
        parts += [array.ravel() for array in embedding.initial(widths, rng, last=1.0)]
    buffers = np.concatenate([f(n) for n in (plan.dim, plan.context_dim) for f in (np.zeros, np.ones)])
    return Snapshot(np.concatenate(parts).astype(plan.dtype), buffers, False)


def _widths(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Widths of a network, from the shapes of its weights and biases in turn."""
    return (shapes[0][0], *(shape[0] for shape in shapes[1::2]))


def named(plan: Plan, params: Array) -> dict[str, Array]:
    """The parameters by name, as views into the flat vector."""
    return {t.name: params[t.offset : t.offset + t.size].reshape(t.shape) for t in plan.tensors}
