"""The part of a flow that is a flow by itself: some columns on which no other one has any influence.

A set of columns is *closed* if every layer maps them by themselves. Of layers that are autoregressive in one order these are
the first columns of that order; an LU layer mixes everything. The density of a closed set, all others integrated out, is that
of the flow whose networks keep only what those columns read: no approximation.

Slots never move, so all of it is told by the lists of slots in the plan table: a closed set is one of slots, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from penstock import plan_table
from penstock._typing import Array
from penstock.base import StandardNormal
from penstock.conditioners import MLP
from penstock.layers import Autoregressive, Coupling, Elementwise, Layer, LULinear, Permutation
from penstock.plan import EMBEDDING, Plan, Tensor, compile_plan
from penstock.plan_table import NONE, Record, Table
from penstock.spec import FlowSpec
from penstock.state import Snapshot, identity
from penstock.transforms import Additive

# Where a number of one flow is in the other one: places in the part, and places in the whole.
Places = tuple[Array, Array]


def closure(plan: Plan, columns: Sequence[int]) -> tuple[int, ...]:
    """The smallest closed set that holds some columns, in ascending order."""
    table = plan_table.read(plan.table)
    slots = set(slots_of(plan, columns))
    size = 0
    while size < len(slots):
        size = len(slots)
        for step in table.steps:
            slots |= _needed(table, step, slots)
    return tuple(i for i, slot in enumerate(table.boundary[-1]) if slot in slots)


def slots_of(plan: Plan, columns: Sequence[int]) -> list[int]:
    """The slots of columns, which are also their numbers on the latent side."""
    last = plan_table.read(plan.table).boundary[-1]
    return [int(last[i]) for i in columns]


def _needed(table: Table, step: Record, slots: set[int]) -> set[int]:
    """What a step reads to map some slots, beyond themselves."""
    kind, a, b = plan_table.STEP_KINDS[step["kind"]], _list(table, step, "a"), _list(table, step, "b")
    changed = [position for position, slot in enumerate(b) if slot in slots]
    if not changed or kind in ("permutation", "elementwise", "columns"):
        return set()
    if kind == "coupling":
        return set(a)
    return set(b[: changed[-1]] if kind == "autoregressive" else table.boundary[-1])


def _list(table: Table, record: Record, name: str) -> list[int]:
    return table.ints[record[name] : record[name] + record[f"n_{name}"]]


def restricted(
    spec: FlowSpec, plan: Plan, snapshot: Snapshot, columns: Sequence[int]
) -> tuple[FlowSpec, Plan, Snapshot]:
    """The flow of a closed set of columns, in the order given, with the numbers of the whole one.

    Its slot p is that of column ``columns[p]``, so that permutations vanish. Hidden units that only other columns read are
    left out, and where the degrees of the narrower network are spread otherwise, units that nobody reads fill it up.
    """
    table = plan_table.read(plan.table)
    slots = slots_of(plan, columns)
    layers: list[Layer] = []
    origin: list[int] = []
    for number, layer in enumerate(spec.layers):
        own = _layer(layer, table, number, plan, slots)
        if own is not None:
            layers.append(own)
            origin.append(number)
    if spec.context_dim and all(layer.conditioner is None for layer in layers):
        layers.append(Elementwise(Additive(), MLP(())))  # the identity, but a flow with a context has to read it
    support = tuple(spec.support[i] for i in columns) if spec.support else ()
    part = replace(spec, base=StandardNormal(len(columns)), layers=tuple(layers), support=support)
    compiled = compile_plan(part)
    params = np.zeros(compiled.n_params, compiled.dtype)
    for number, source in enumerate(origin):
        _copy_layer(params, snapshot.params, compiled, plan, (number, source), slots)
    for own_tensor, tensor in zip(compiled.tensors_of(EMBEDDING), plan.tensors_of(EMBEDDING), strict=True):
        params[own_tensor.offset : own_tensor.stop] = snapshot.params[tensor.offset : tensor.stop]
    buffers = _buffers(compiled, table, snapshot.buffers, columns)
    return part, compiled, Snapshot(params, buffers, snapshot.initialised)


def ends(spec: FlowSpec, plan: Plan, snapshot: Snapshot, columns: Sequence[int]) -> tuple[FlowSpec, Plan, Snapshot]:
    """The supports and the standardisation of some columns, closed or not, and nothing else: a flow without layers."""
    support = tuple(spec.support[i] for i in columns) if spec.support else ()
    part = FlowSpec(StandardNormal(len(columns)), (), 0, spec.dtype, support=support)
    compiled = compile_plan(part)
    buffers = _buffers(compiled, plan_table.read(plan.table), snapshot.buffers, columns)
    return part, compiled, Snapshot(np.zeros(0, compiled.dtype), buffers, snapshot.initialised)


# --- layers -------------------------------------------------------------------------------------------------------


def _layer(layer: Layer, table: Table, number: int, plan: Plan, slots: list[int]) -> Layer | None:
    """A layer as the slots of a closed set see it; None if it does nothing to them."""
    step = table.steps[number]
    b = [slots.index(slot) for slot in _list(table, step, "b") if slot in slots]
    if isinstance(layer, Permutation) or not b:
        return None
    if isinstance(layer, LULinear):
        raise AssertionError("no closed set but all columns has an LU layer")
    if isinstance(layer, Coupling):
        return replace(layer, split=tuple(slots.index(slot) for slot in _list(table, step, "a")))
    if not isinstance(layer, Autoregressive):
        return layer
    n_context = _n_context(table, step)
    if len(b) > 1:
        return replace(layer, order=tuple(b), conditioner=_narrower(layer.conditioner, plan, number, n_context, len(b)))
    if not n_context:  # nothing is read any more
        return Elementwise(layer.transform, None, layer.explicit)
    hidden = tuple(max(1, counts[0]) for counts in _hidden_degrees(plan, number))
    return Elementwise(layer.transform, replace(layer.conditioner, hidden=hidden), layer.explicit)


def _n_context(table: Table, step: Record) -> int:
    """How many numbers of the context the network of a step reads."""
    return table.networks[step["network"]]["n_context"] if step["network"] != NONE else 0


def _hidden_degrees(plan: Plan, number: int) -> list[Counter[int]]:
    """How many units of each degree the hidden layers of a masked network have."""
    weights = [tensor for tensor in plan.tensors_of(number) if tensor.degrees is not None]
    return [Counter(tensor.degrees[1]) for tensor in weights[:-1] if tensor.degrees is not None]


def _narrower(network: MLP, plan: Plan, number: int, n_context: int, dim: int) -> MLP:
    """The masked network over so many dimensions whose layers have room for all units that these read."""
    hidden = []
    for counts in _hidden_degrees(plan, number):
        needed = Counter({degree: count for degree, count in counts.items() if degree < dim})
        width = max(1, needed.total())
        while needed - Counter(MLP((width,)).degrees(n_context, (1,) * dim, (1,) * dim)[1]):
            width += 1
        hidden.append(width)
    return replace(network, hidden=tuple(hidden))


# --- numbers ------------------------------------------------------------------------------------------------------


def _copy_layer(
    params: Array, source: Array, part: Plan, whole: Plan, numbers: tuple[int, int], slots: list[int]
) -> None:
    """Bring the numbers of a layer over. ``numbers`` are those of the layer in the part and in the whole."""
    tables = plan_table.read(part.table), plan_table.read(whole.table)
    steps = tables[0].steps[numbers[0]], tables[1].steps[numbers[1]]
    theta = [_theta(table, step) for table, step in zip(tables, steps, strict=True)]
    outputs = (
        np.array([i for slot in range(len(slots)) for i in theta[0].get(slot, ())], np.int64),
        np.array([i for slot in slots for i in theta[1].get(slot, ())], np.int64),
    )
    networks = steps[0]["network"] != NONE, steps[1]["network"] != NONE
    if not any(networks):
        params[outputs[0]] = source[outputs[1]]
        return
    # Weight and bias of each linear layer in turn.
    own, other = part.tensors_of(numbers[0]), whole.tensors_of(numbers[1])
    if not networks[0]:  # what is left of the network is the last bias
        params[outputs[0]] = source[other[-1].offset + outputs[1]]
        return
    units = np.arange(own[0].shape[0]), np.arange(own[0].shape[0])  # the context, and then the first dimensions
    for i in range(0, len(own), 2):
        last = i == len(own) - 2
        following = outputs if last else _units(own[i], other[i])
        matrix, old = (_view(vector, t) for vector, t in ((params, own[i]), (source, other[i])))
        matrix[np.ix_(units[0], following[0])] = old[np.ix_(units[1], following[1])]
        params[own[i + 1].offset + following[0]] = source[other[i + 1].offset + following[1]]
        units = following


def _view(vector: Array, tensor: Tensor) -> Array:
    return vector[tensor.offset : tensor.stop].reshape(tensor.shape)


def _theta(table: Table, step: Record) -> dict[int, range]:
    """Where the theta of each slot lies: among the outputs of the network, or in the flat vector where it is free."""
    b = _list(table, step, "b")
    places = {}
    for part in table.parts[step["part"] : step["part"] + step["n_parts"]]:
        first = part["params"] if plan_table.SOURCES[part["source"]] == "free" else 0
        starts = table.ints[part["theta"] : part["theta"] + part["n_members"]]
        for member, start in zip(_list(table, part, "members"), starts, strict=True):
            places[b[member]] = range(first + start, first + start + part["n_theta"])
    return places


def _units(own: Tensor, other: Tensor) -> Places:
    """Hidden units behind a weight: of a masked network, each of a degree stands for the one of the same place among them."""
    if other.degrees is None:
        return np.arange(own.shape[1]), np.arange(own.shape[1])
    theirs = np.array(other.degrees[1])
    if own.degrees is None:  # of one dimension, whose units have degree 0
        kept = np.flatnonzero(theirs == 0)
        return np.arange(len(kept)), kept
    mine = np.array(own.degrees[1])
    pairs = [
        (place, unit)
        for degree in sorted(set(theirs.tolist()) & set(mine.tolist()))
        for place, unit in zip(np.flatnonzero(mine == degree), np.flatnonzero(theirs == degree), strict=False)
    ]
    return np.array([place for place, _ in pairs], np.int64), np.array([unit for _, unit in pairs], np.int64)


def _buffers(part: Plan, whole: Table, source: Array, columns: Sequence[int]) -> Array:
    """The buffers of some columns, and those of the context."""
    buffers = identity(part)
    own = plan_table.read(part.table)
    sides = [[column for column in table.columns if column["side"] == 0] for table in (own, whole)]
    pairs = list(zip(sides[0], (sides[1][i] for i in columns), strict=True))
    context = [[column for column in table.columns if column["side"] == 1] for table in (own, whole)]
    pairs += zip(*context, strict=False)
    for mine, theirs in pairs:
        buffers[mine["loc"]], buffers[mine["scale"]] = source[theirs["loc"]], source[theirs["scale"]]
        first, n = theirs["buffers"], theirs["n_buffers"]
        buffers[mine["buffers"] : mine["buffers"] + n] = source[first : first + n]
    return buffers
