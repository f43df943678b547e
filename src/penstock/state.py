"""The numbers of a flow: their first values, names and present state. One flat vector of parameters, one of buffers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from penstock._typing import Array
from penstock.base import blocks
from penstock.conditioners import MLP
from penstock.groups import LINE
from penstock.plan import BASE, EMBEDDING, Plan
from penstock.spec import FlowSpec, latent_kinds


class Packer(Protocol):
    """What brings numbers into the form of an engine: a ``Runner``."""

    def pack(self, params: Array, buffers: Array) -> Any:
        """The engine's own copy of the numbers."""
        ...


class Snapshot:
    """The numbers of a flow at one moment. Nothing in it ever changes: an assignment makes a new one.

    Attributes
    ----------
    params : array of shape (n_params,), read-only
    buffers : float64 array of shape (n_buffers,), read-only
        ``loc`` and ``scale`` of the standardisation, then those of the context, then the numbers that supports have of their own.
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

    def pack(self, runner: Packer) -> Any:
        """The packed form, made at its first use."""
        if self.packed is None:
            self.packed = runner.pack(self.params, self.buffers)
        return self.packed


def initial(plan: Plan, spec: FlowSpec, rng: np.random.Generator) -> Snapshot:
    """Fresh parameters, drawn in float64 whatever the dtype: networks as their spec says, everything else at zero."""
    params = np.zeros(plan.n_params)
    for number, layer in enumerate(spec.layers):
        if layer.conditioner is not None:
            _draw(params, plan, number, layer.conditioner, rng, last=0.0)
    if spec.embedding is not None:
        _draw(params, plan, EMBEDDING, spec.embedding, rng, last=1.0)
    latent = latent_kinds(spec)
    for number, (base, dims) in enumerate(blocks(spec.base)):
        places = [i for i, slot in enumerate(dims) if latent[slot] == LINE]
        tensors = plan.tensors_of(BASE - number)
        if not tensors:
            continue
        first = base.initial(places, rng)
        if base.conditioner is None:
            params[tensors[0].offset : tensors[-1].stop] = first
        else:  # the bias of the last layer, whose weights are zero
            _draw(params, plan, BASE - number, base.conditioner, rng, last=0.0)
            params[tensors[-1].offset : tensors[-1].stop] = first
    with np.errstate(all="ignore"):
        return Snapshot(params.astype(plan.dtype), identity(plan), False)


def _draw(params: Array, plan: Plan, layer: int, network: MLP, rng: np.random.Generator, *, last: float) -> None:
    """Draw the weights and biases of the network of a layer into ``params``."""
    tensors = plan.tensors_of(layer)
    masks = [tensor.mask for tensor in tensors if tensor.role == "weight"]
    for tensor, array in zip(tensors, network.initial(plan.widths(layer), rng, last, masks), strict=True):
        params[tensor.offset : tensor.stop] = array.ravel()


def identity(plan: Plan) -> Array:
    """Buffers of a standardisation that does nothing, of rows and of context."""
    ends = [end(n) for n in (plan.dim, plan.context_dim) for end in (np.zeros, np.ones)]
    return np.concatenate([*ends, plan.support_numbers])


def named(plan: Plan, params: Array) -> dict[str, Array]:
    """The parameters by name, as views into the flat vector."""
    return {t.name: params[t.offset : t.stop].reshape(t.shape) for t in plan.tensors}
