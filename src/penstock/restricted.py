"""The part of a flow that is a flow by itself: some columns on which no other one has any influence.

A set of columns is *closed* if every layer maps them by themselves. Of layers that are autoregressive in one order these are
the first columns of that order; an LU layer mixes everything. The density of a closed set, all others integrated out, is that
of the flow whose networks keep only what those columns read: no approximation.

Slots never move, so all of it is told by the lists of slots in the plan table: a closed set is one of slots, too. A column of
a group needs those before it, which move its ends. Bases are products over dimensions, or mixtures of such, so that some
dimensions of a block are a block of the same kind.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from penstock import plan_table
from penstock._typing import Array
from penstock.base import AnyBase, Base, Product, StudentT, blocks
from penstock.conditioners import MLP
from penstock.groups import LINE, Group, Simplex
from penstock.layers import Autoregressive, Coupling, Elementwise, Layer, LULinear, Permutation
from penstock.plan import BASE, EMBEDDING, Plan, Tensor, compile_plan
from penstock.plan_table import NONE, Record, Table
from penstock.spec import FlowSpec, latent_kinds
from penstock.state import Snapshot, identity
from penstock.support import Interval, Real, Support
from penstock.transforms import Additive, RationalQuadratic, of_kind

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
    if kind == "columns":  # the ends of a column of a group are moved by those before it
        last = table.boundary[-1]
        return {last[column["group"]] for column, slot in _data(table) if slot in slots and column["group"] != NONE}
    changed = [position for position, slot in enumerate(b) if slot in slots]
    if not changed or kind in ("permutation", "elementwise"):
        return set()
    if kind == "coupling":
        return set(a)
    return set(b[: changed[-1]] if kind == "autoregressive" else table.boundary[-1])


def _data(table: Table) -> list[tuple[Record, int]]:
    """The records of the columns of the data, each with its slot."""
    return list(zip((column for column in table.columns if column["side"] == 0), table.boundary[-1], strict=True))


def _list(table: Table, record: Record, name: str) -> list[int]:
    return table.ints[record[name] : record[name] + record[f"n_{name}"]]


def restricted(
    spec: FlowSpec, plan: Plan, snapshot: Snapshot, columns: Sequence[int]
) -> tuple[FlowSpec, Plan, Snapshot]:
    """The flow of a closed set of columns, in the order given, with the numbers of the whole one.

    Its slots are those of the columns, in their order as far as the blocks of the base allow, so that permutations vanish, but
    for one in the end where they do not. Hidden units that only other columns read are left out, and where the degrees of the
    narrower network are spread otherwise, units that nobody reads fill it up.
    """
    table = plan_table.read(plan.table)
    wanted = slots_of(plan, columns)
    base, slots = _base(spec.base, wanted)
    kinds = latent_kinds(spec)
    layers: list[Layer] = []
    origin: list[int] = []
    for number, layer in enumerate(spec.layers):
        own = _layer(layer, table, number, plan, slots, kinds)
        if own is not None:
            layers.append(own)
            origin.append(number)
    lines = [slot for slot in slots if kinds[slot] == LINE]
    given_base = any(part.conditioner and set(dims) & set(lines) for part, dims in blocks(spec.base))
    if spec.context_dim and not given_base and all(layer.conditioner is None for layer in layers):
        # The identity, but a flow with a context has to read it.
        layers.append(Elementwise(Additive() if lines else RationalQuadratic(), MLP(())))
    if slots != wanted:
        layers.append(Permutation(tuple(slots.index(slot) for slot in wanted)))
    part = replace(spec, base=base, layers=tuple(layers), support=_supports(spec.support, columns))
    compiled = compile_plan(part)
    params = np.zeros(compiled.n_params, compiled.dtype)
    for number, source in enumerate(origin):
        _copy_layer(params, snapshot.params, compiled, plan, (number, source), slots)
    for own_tensor, tensor in zip(compiled.tensors_of(EMBEDDING), plan.tensors_of(EMBEDDING), strict=True):
        params[own_tensor.offset : own_tensor.stop] = snapshot.params[tensor.offset : tensor.stop]
    _copy_base(params, snapshot.params, compiled, plan, spec, slots)
    buffers = _buffers(compiled, table, snapshot.buffers, columns)
    return part, compiled, Snapshot(params, buffers, snapshot.initialised)


# --- the two sides ------------------------------------------------------------------------------------------------


def _base(base: AnyBase, slots: Sequence[int]) -> tuple[AnyBase, list[int]]:
    """The base of some slots, and these in the order in which it has them: block by block, and within one as they come."""
    parts, order = [], []
    for part, dims in blocks(base):
        some = [slot for slot in slots if slot in dims]
        if some:
            parts.append(_block(part, [slot - dims[0] for slot in some]))
            order += some
    return parts[0] if len(parts) == 1 else Product(tuple(parts)), order


def _block(block: Any, places: Sequence[int]) -> Any:
    """A block of some of its dimensions."""
    own = (
        {"df": tuple(block.df[i] for i in places)}
        if isinstance(block, StudentT) and isinstance(block.df, tuple)
        else {}
    )
    return replace(block, dim=len(places), **own)


def _supports(support: Sequence[Support], columns: Sequence[int]) -> tuple[Support, ...]:
    """The supports of a closed set of columns, of which groups lose their last ones."""
    own = [support[i] for i in columns] if support else []
    found = tuple(_left(each, columns) if isinstance(each, Group) else each for each in own)
    return () if all(isinstance(each, Real) for each in found) else found


def _left(group: Group, columns: Sequence[int]) -> Support:
    """What a group is where some columns are left: one of it by itself is the first of its chain."""
    members = tuple(columns.index(i) for i in group.chain if i in columns)
    if len(members) > 1:
        return replace(group, columns=tuple(columns.index(int(i)) for i in group.columns if i in columns))
    lo, hi = (0.0, 1.0) if isinstance(group, Simplex) else (group.lo, group.hi)
    if lo is None and hi is None:
        return Real()
    return Interval(lo, hi, "positive" if lo is None or hi is None else "logit")


# --- layers -------------------------------------------------------------------------------------------------------


def _layer(layer: Layer, table: Table, number: int, plan: Plan, slots: list[int], kinds: Sequence[str]) -> Layer | None:
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
    # One dimension: an elementwise affine map would leave a circle or a box alone.
    kind = kinds[slots[b[0]]]
    transform = layer.transform if kind == LINE else of_kind(layer.transform, kind)
    if not n_context:  # nothing is read any more
        return Elementwise(transform, None, layer.explicit)
    hidden = tuple(max(1, counts[0]) for counts in _hidden_degrees(plan, number))
    return Elementwise(transform, replace(layer.conditioner, hidden=hidden), layer.explicit)


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


def _copy_base(params: Array, source: Array, part: Plan, whole: Plan, spec: FlowSpec, slots: Sequence[int]) -> None:
    """Bring the numbers of the blocks of the base over, or of the networks that give them."""
    kinds, own = latent_kinds(spec), 0
    for number, (block, dims) in enumerate(blocks(spec.base)):
        lines = [slot for slot in dims if kinds[slot] == LINE]
        some = [slot for slot in slots if slot in dims]
        kept = [lines.index(slot) for slot in some if kinds[slot] == LINE]
        if not some:
            continue
        mine, theirs = part.tensors_of(BASE - own), whole.tensors_of(BASE - number)
        own += 1
        if not kept or not theirs:
            continue
        which = _chosen_numbers(block, len(lines), kept)
        if block.conditioner is None:
            params[mine[0].offset : mine[-1].stop] = source[theirs[0].offset + which]
            continue
        params[mine[0].offset : mine[-2].offset] = source[theirs[0].offset : theirs[-2].offset]
        _view(params, mine[-2])[:] = _view(source, theirs[-2])[:, which]
        params[mine[-1].offset : mine[-1].stop] = source[theirs[-1].offset + which]


def _chosen_numbers(base: Base, n: int, places: Sequence[int]) -> Array:
    """Which of the numbers of a base of n dimensions are those of some of them: weights of a mixture belong to all."""
    found, first = [], 0
    for name, shape in base.numbers(n).items():
        whole = first + np.arange(math.prod(shape)).reshape(shape)
        first += whole.size
        found.append((whole if name in base.shared else whole[..., list(places)]).ravel())
    return np.concatenate(found)


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
