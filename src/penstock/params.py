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
        ``loc`` and ``scale`` of the standardisation.
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


def initial(plan: Plan, layers: Sequence[Layer], rng: np.random.Generator) -> Snapshot:
    """Fresh parameters, drawn in float64 whatever the dtype: free theta at zero, networks as their spec says."""
    parts: list[Array] = [np.zeros(0)]
    for number, layer in enumerate(layers):
        conditioner = getattr(layer, "conditioner", None)
        tensors = [t for t in plan.tensors if t.name.startswith(f"layers.{number}.")]
        if isinstance(conditioner, MLP):
            widths = (tensors[0].shape[0], *(t.shape[0] for t in tensors[1::2]))
            masks = [t.mask for t in tensors[::2]]
            parts += [array.ravel() for array in conditioner.initial(widths, rng, masks)]
        else:
            parts += [np.zeros(t.size) for t in tensors]
    buffers = np.concatenate([np.zeros(plan.dim), np.ones(plan.dim)])
    return Snapshot(np.concatenate(parts).astype(plan.dtype), buffers, False)


def named(plan: Plan, params: Array) -> dict[str, Array]:
    """The parameters by name, as views into the flat vector."""
    return {t.name: params[t.offset : t.offset + t.size].reshape(t.shape) for t in plan.tensors}
