"""Specs become a plan: the table of integers that every backend reads, and the names of the numbers that it lays out.

``plan_table.py`` says what a table is made of. Here the layers, in turn from latent to data, claim parameters and add steps.

A *slot* is where a dimension lives while a tile walks through the flow; it never moves. Entry ``i`` of row ``k`` of the
boundary is the slot of logical dimension ``i`` between steps ``k - 1`` and ``k``; a permutation is a step that does nothing
but rename the slots of the next boundary. Slots equal dimensions on the latent side.

A slot has the *kind* of the column that it becomes: line, circle or box. On a line a step applies the transform of its layer,
on a circle or a box the spline of that kind; the dimensions of a step that share a transform are a *part* of it.

Parameters of a step: ``W`` (in, out) then ``b`` (out) of each linear layer; theta (members, n_theta) of each part where it is
free; ``M`` (n, n) then ``b`` (n) of an LU layer, whose B are the n line slots of its input, and whose outputs are other names
for the same slots. The conditioner's input is the context, then the dimensions of A, of a circle the cosine and the sine in
both; its output is theta of each dimension of B in turn. An elementwise step may have a conditioner too, of the context alone.
The last step is the columns: a bijection and a standardisation, ``x = loc + scale u``, of each.

An autoregressive step has no A; its B are all dimensions, in its order, of which the conditioner reads all but the last. The
degree of the context is 0, of dimension ``i`` as an input, or two, ``i + 1``, of its theta ``i``; those of hidden units rise in a
layer and are less than ``dim``. An entry of ``W`` whose input has a higher degree than its output is masked: it is zero, and
no engine reads it.

The embedding is a network between the context and all conditioners, whose parameters come after those of the steps: where
there is one, conditioners read its output instead. Buffers are ``loc`` (dim) and ``scale`` (dim), then those of the context,
then the numbers that supports have of their own, of the context behind those of the data: ``s`` of a half-line, also one that
other columns move, ``m`` and ``s`` of a box. A column of a group names the one before it, which moves its end.

The base has blocks, each on some of the line slots, and uniform blocks on circles, [-pi, pi], and boxes, [-1, 1]. The numbers
of a block are free parameters, behind those of the embedding, or come from a network of the context, or are fixed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import plan_table
from penstock._typing import Array
from penstock.base import AnyBase, Base, StandardNormal, Uniform, blocks
from penstock.conditioners import MLP
from penstock.groups import LINE, Group
from penstock.plan_table import NONE, Record, Table
from penstock.spec import FlowSpec, latent_kinds
from penstock.support import (
    BOX,
    CIRCLE,
    CLOSED,
    Interval,
    Periodic,
    Real,
    Support,
    check_dtype,
    default_numbers,
    n_numbers,
)
from penstock.transforms import TRANSFORMS, Transform, of_kind

Degrees = tuple[tuple[int, ...], ...]
# In the place of the number of a layer: the tensor belongs to the embedding.
EMBEDDING = -1
BASE = -2  # of its first block; the next one has the number below


@dataclass(frozen=True)
class Tensor:
    """A named piece of the flat parameter vector.

    Attributes
    ----------
    name : str
    shape : tuple of int
    offset : int
        Of its first number in the flat vector.
    layer : int
        Number of the layer that it belongs to, ``EMBEDDING``, or ``BASE`` less the number of a block of the base.
    role : {"weight", "bias", "theta", "lu", "base"}
        Weight decay touches the weights, which are those of networks, and nothing else.
    degrees : pair of tuples of int, or None
        Degrees of the inputs and outputs of a masked weight.
    dims : tuple of int
        Of free theta, the dimensions that it transforms.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    layer: int
    role: str
    degrees: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    dims: tuple[int, ...] = ()

    @property
    def mask(self) -> Array | None:
        """Of the shape of the tensor, whether each number is one at all; the others are zero. None: all of them are."""
        if self.degrees is None:
            return None
        inputs, outputs = (np.array(degrees, np.int64) for degrees in self.degrees)
        mask: Array = inputs[:, None] <= outputs
        return mask

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def stop(self) -> int:
        """One past its last number in the flat vector."""
        return self.offset + self.size


class PlanBuilder:
    """Collects steps from the layers, from latent to data, and writes the table."""

    def __init__(
        self,
        dim: int,
        context_dim: int,
        embedding: MLP | None = None,
        embedding_dim: int = 0,
        kinds: Sequence[str] | None = None,
        context_kinds: Sequence[str] = (),
    ) -> None:
        self.dim = dim
        self.slot_kinds = (LINE,) * dim if kinds is None else tuple(kinds)
        self.context_dim = context_dim
        self.n_features = context_dim + list(context_kinds).count(CIRCLE)  # of the columns of the context
        self.n_context = (
            self.n_features if embedding is None else embedding_dim
        )  # what conditioners read of the context
        self.embedding = embedding
        self.tensors: list[Tensor] = []
        self.n_params = 0
        self.layer = 0  # number of the layer being compiled
        self._table = Table()
        self._slots: tuple[int, ...] = tuple(range(dim))  # of each dimension, at the present boundary
        self._table.boundary.append(self._slots)
        self._n_external = 0

    @property
    def n_steps(self) -> int:
        """Steps so far."""
        return len(self._table.steps)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each dimension at the present boundary."""
        return tuple(self.slot_kinds[slot] for slot in self._slots)

    def add_tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        role: str,
        degrees: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
        dims: tuple[int, ...] = (),
    ) -> int:
        """Claim the next numbers of the flat vector for the layer being compiled; where they begin."""
        prefix = f"base.{BASE - self.layer}" if self.layer <= BASE else f"layers.{self.layer}"
        prefix = "embedding" if self.layer == EMBEDDING else prefix
        tensor = Tensor(f"{prefix}.{name}", shape, self.n_params, self.layer, role, degrees, dims)
        self.tensors.append(tensor)
        self.n_params = tensor.stop
        return tensor.offset

    def permutation_step(self, order: tuple[int, ...]) -> None:
        """Rename the slots: ``x[i] = z[order[i]]``."""
        self._add_step("permutation", self.n_params)
        self._rename(tuple(self._slots[i] for i in order))

    def transform_step(
        self,
        kind: str,
        a: Sequence[int],
        b: Sequence[int],
        transform: Transform,
        conditioner: MLP | None,
        explicit: str,
        *,
        external: bool = False,
    ) -> None:
        """Transform the dimensions ``b`` with theta that is free, external, or a function of the dimensions ``a``.

        In an autoregressive step it is a function of those before each in ``b``.
        """
        start, kinds = self.n_params, self.kinds
        # Flows of lines alone may have any transform: penstock.ops and old files do.
        lines = set(self.slot_kinds) == {LINE}
        own = [transform if lines else of_kind(transform, kinds[i]) for i in b]
        thetas = [len(each.theta_names) for each in own]
        source = "network" if conditioner is not None else "external" if external else "free"
        first = len(self._table.parts)
        starts = list(itertools.accumulate(thetas, initial=0))
        for each in dict.fromkeys(own):
            members = [j for j, other in enumerate(own) if other == each]
            self._add_part(each, source, members, [starts[j] for j in members], [b[j] for j in members])
        network = NONE
        if conditioner is not None:
            masked = kind == "autoregressive"
            features = [2 if kinds[i] == CIRCLE else 1 for i in (b if masked else a)]
            degrees = conditioner.degrees(self.n_context, features, thetas) if masked else ()
            n_read = sum(features[:-1] if masked else features)
            network = self._add_network("conditioner", conditioner, n_read, sum(thetas), degrees)
        self._add_step(
            kind,
            start,
            explicit=plan_table.DIRECTIONS.index(explicit),
            a=self._table.put([self._slots[i] for i in a]),
            n_a=len(a),
            b=self._table.put([self._slots[i] for i in b]),
            n_b=len(b),
            part=first,
            n_parts=len(self._table.parts) - first,
            network=network,
        )
        self._n_external += source == "external"
        self._rename(self._slots)

    def _add_part(
        self, transform: Transform, source: str, members: Sequence[int], starts: Sequence[int], dims: Sequence[int]
    ) -> None:
        """The dimensions of a step that share a transform: their positions in B, where theta of each starts, and themselves."""
        n_theta = len(transform.theta_names)
        part: Record = {
            "transform": list(TRANSFORMS).index(transform.name), "n_theta": n_theta,
            "options": self._table.put_reals(transform.options), "n_options": len(transform.options),
            "members": self._table.put(members), "n_members": len(members),
            "source": plan_table.SOURCES.index(source), "external": self._n_external if source == "external" else NONE,
        }  # fmt: skip
        if source == "free":
            kind = "" if not self._has_free_theta() else f"_{transform.name}"
            part["params"] = self.add_tensor(f"theta{kind}", (len(members), n_theta), "theta", dims=tuple(dims))
            part["n_params"] = len(members) * n_theta
            starts = range(0, len(members) * n_theta, n_theta)
        part["theta"] = self._table.put(starts)
        self._table.parts.append(part)

    def _has_free_theta(self) -> bool:
        """Whether the layer being compiled has some already, which has the plain name."""
        return any(tensor.layer == self.layer and tensor.role == "theta" for tensor in self.tensors)

    def lu_step(self, order: Sequence[int], signs: Sequence[int], explicit: str) -> None:
        """``y = P L U x + b`` of the lines: the triangles work slot by slot, and ``P`` renames the slots of the next boundary."""
        lines, start = [i for i, kind in enumerate(self.kinds) if kind == LINE], self.n_params
        before, n = [self._slots[i] for i in lines], len(lines)
        self.add_tensor("lu", (n, n), "lu")
        self.add_tensor("bias", (n,), "bias")
        after = [0] * n
        for j, i in enumerate(order):
            if explicit == "to_data":
                after[j] = before[i]
            else:
                after[i] = before[j]
        self._add_step(
            "lu_linear",
            start,
            explicit=plan_table.DIRECTIONS.index(explicit),
            b=self._table.put(before if explicit == "to_data" else after),
            n_b=n,
            order=self._table.put(order),
            signs=self._table.put(signs),
        )
        slots = list(self._slots)
        for i, slot in zip(lines, after, strict=True):
            slots[i] = slot
        self._rename(tuple(slots))

    def columns_step(self) -> None:
        """The ends of the flow, applied in float64 where rows are loaded and stored."""
        self._add_step("columns", self.n_params)
        self._rename(self._slots)

    def table(
        self,
        dtype: np.dtype[Any],
        base: AnyBase,
        support: Sequence[Support] = (),
        context_support: Sequence[Support] = (),
    ) -> Array:
        """The finished table, with the embedding, columns and base."""
        table, embedding = self._table, NONE
        if self.embedding is not None:
            self.layer = EMBEDDING
            embedding = self._add_network("embedding", self.embedding, 0, self.n_context, ())
        for side, first, n in ((0, 0, self.dim), (1, 2 * self.dim, self.context_dim)):
            for i in range(n):
                table.columns.append(
                    {"side": side, "lo": NONE, "hi": NONE, "lattice": NONE, "group": NONE, "loc": first + i,
                     "scale": first + n + i}
                )  # fmt: skip
        n_buffers = 2 * (self.dim + self.context_dim)
        for first, supports in ((0, support), (self.dim, context_support)):
            for i, own in enumerate(supports):
                if not isinstance(own, Real):
                    n_buffers += self._support(i, table.columns[first + i], own, n_buffers)
        self._add_base(base)
        for tensor in self.tensors:
            flags = plan_table.DECAYS if tensor.role == "weight" else 0
            table.ranges.append({"offset": tensor.offset, "count": tensor.size, "flags": flags})
        number_type = plan_table.DTYPES.index(dtype.name)
        table.flow = {
            "dim": self.dim, "context_dim": self.context_dim, "n_params": self.n_params,
            "n_buffers": n_buffers, "dtype": number_type, "conditioner_dtype": number_type,
            "embedding": embedding,
        }  # fmt: skip
        return table.write()

    def _support(self, i: int, column: Record, support: Interval | Periodic | Group, buffers: int) -> int:
        """The kind, the map and the ends of column ``i``; how many buffers of its own it has, from ``buffers`` on."""
        column["kind"] = plan_table.COLUMN_KINDS.index(support.kind)
        circle = isinstance(support, Periodic)
        column["map"] = plan_table.COLUMN_MAPS.index("wrap" if isinstance(support, Periodic) else str(support.map))
        column["features"] = plan_table.FEATURES.index("cos_sin" if circle else "identity")
        closed = CLOSED[str(support.closed)] if isinstance(support, Interval) else (False, False)
        if isinstance(support, Group) and i != support.chain[0]:
            column["group"] = support.chain[support.chain.index(i) - 1]
        for field, end, bit, holds in (
            ("lo", support.lo, plan_table.LOWER, closed[0]), ("hi", support.hi, plan_table.UPPER, closed[1]),
        ):  # fmt: skip
            if end is not None:
                column |= {"ends": column.get("ends", 0) | bit, field: self._table.put_reals([end])}
                column["closed"] = column.get("closed", 0) | bit * holds
        numbers = n_numbers(support, i)
        if numbers:
            column |= {"buffers": buffers, "n_buffers": numbers}
        return numbers

    def _add_base(self, base: AnyBase) -> None:
        """Its blocks: the given density on the lines, uniform ones on circles and boxes."""
        for number, (part, dims) in enumerate(blocks(base)):
            places = [i for i, slot in enumerate(dims) if self.slot_kinds[slot] == LINE]
            if places:
                self._add_block(number, part, places, [dims[i] for i in places])
        for kind, end in ((CIRCLE, math.pi), (BOX, 1.0)):
            slots = [slot for slot, own in enumerate(self.slot_kinds) if own == kind]
            if slots:
                self._add_block(0, Uniform(len(slots), -end, end), range(len(slots)), slots)

    def _add_block(self, number: int, base: Base, places: Sequence[int], slots: Sequence[int]) -> None:
        """A block of the base on some of its dimensions, with its parameters or the network that gives them."""
        self.layer = BASE - number
        start, numbers, constants = self.n_params, base.numbers(len(slots)), base.constants(places)
        network = NONE
        if base.conditioner is not None:
            size = sum(math.prod(shape) for shape in numbers.values())
            network = self._add_network("base", base.conditioner, 0, size, ())
        for name, shape in numbers.items() if network == NONE else ():
            self.add_tensor(name, shape, "base")
        source = "network" if network != NONE else "free" if numbers else "fixed"
        block = {
            "kind": plan_table.BASES.index(base.name), "dims": self._table.put(slots), "n_dims": len(slots),
            "source": plan_table.SOURCES.index(source), "network": network,
        }  # fmt: skip
        if constants:
            block |= {"options": self._table.put_reals(constants), "n_options": len(constants)}
        if source == "free":
            block |= {"params": start, "n_params": self.n_params - start}
        self._table.base.append(block)

    def _add_step(self, kind: str, params: int, network: int = NONE, **fields: int) -> None:
        """Append a step with all parameters claimed since ``params``."""
        step: Record = {
            "kind": plan_table.STEP_KINDS.index(kind),
            "params": params,
            "n_params": self.n_params - params,
            "network": network,
        }
        self._table.steps.append(step | fields)

    def _rename(self, slots: tuple[int, ...]) -> None:
        """The next boundary."""
        self._slots = slots
        self._table.boundary.append(slots)

    def _add_network(self, role: str, network: MLP, n_read: int, n_out: int, degrees: Degrees) -> int:
        """A network that reads the context and ``n_read`` dimensions; its number. The embedding reads the context itself."""
        table, start = self._table, self.n_params
        n_context = self.n_features if role == "embedding" else self.n_context
        prefix = "" if role == "embedding" else "conditioner."
        widths = network.widths(n_context + n_read, n_out)
        lists = [table.put(layer) for layer in degrees] if degrees else [NONE] * len(widths)
        first, last = len(table.linears), len(widths) - 2
        for i, (n_in, n_out_i) in enumerate(itertools.pairwise(widths)):
            tied = (degrees[i], degrees[i + 1]) if degrees else None
            hidden = i < last
            skips = network.residual and hidden and i > 0
            table.linears.append(
                {
                    "n_in": n_in,
                    "n_out": n_out_i,
                    "weight": self.add_tensor(f"{prefix}{i}.weight", (n_in, n_out_i), "weight", tied),
                    "bias": self.add_tensor(f"{prefix}{i}.bias", (n_out_i,), "bias"),
                    "source": i - 1 if i else plan_table.INPUT,
                    "activation": plan_table.ACTIVATIONS.index(network.activation if hidden else "none"),
                    "skip": plan_table.SKIPS.index("after_activation" if skips else "none"),
                    "skip_source": i - 1 if skips else NONE,
                    "gate": NONE,
                    "in_degrees": lists[i],
                    "out_degrees": lists[i + 1],
                }
            )
        table.networks.append(
            {
                "role": plan_table.ROLES.index(role), "linear": first, "n_linears": last + 1, "n_in": widths[0],
                "n_out": n_out, "n_context": n_context, "masked": int(bool(degrees)), "params": start,
                "n_params": self.n_params - start,
            }
        )  # fmt: skip
        return len(table.networks) - 1


@dataclass(frozen=True)
class Plan:
    """A compiled spec: the table, and the names and sizes of its numbers. Step ``k`` is layer ``k``; the last is the columns.

    ``support_numbers`` are those that the supports of the columns, then of the context, have of their own, before any fit: the
    last buffers.
    """

    table: Array
    tensors: tuple[Tensor, ...]
    dtype: np.dtype[Any]
    dim: int
    context_dim: int
    n_params: int
    n_steps: int
    support_numbers: tuple[float, ...]

    def tensors_of(self, layer: int) -> list[Tensor]:
        """The tensors of a layer, or of the ``EMBEDDING``, in their order."""
        return [tensor for tensor in self.tensors if tensor.layer == layer]

    def widths(self, layer: int) -> tuple[int, ...]:
        """Widths of input, hidden layers and output of the network of a layer, or of the ``EMBEDDING``."""
        shapes = [tensor.shape for tensor in self.tensors_of(layer) if tensor.role == "weight"]
        return (shapes[0][0], *(n_out for _, n_out in shapes))

    @property
    def n_buffers(self) -> int:
        """How many numbers there are beside the parameters."""
        return 2 * (self.dim + self.context_dim) + len(self.support_numbers)

    @property
    def n_free(self) -> int:
        """How many parameters there are but for those that masks hide."""
        return sum(t.size if t.mask is None else int(t.mask.sum()) for t in self.tensors)

    def clear_masked(self, params: Array) -> Array:
        """``params``, with zeros put where masks are: what stands there has no meaning, and no engine reads it."""
        for tensor in self.tensors:
            if tensor.degrees is not None:
                numbers = params[tensor.offset : tensor.stop].reshape(tensor.shape)
                numbers[~tensor.mask] = 0  # type: ignore[operator]
        return params


def compile_plan(spec: FlowSpec) -> Plan:
    """Compile layers, latent to data, and the ends of the flow. Step ``k`` is layer ``k``."""
    builder = PlanBuilder(
        spec.base.dim, spec.context_dim, spec.embedding, spec.embedding_dim, latent_kinds(spec), spec.context_kinds
    )  # fmt: skip
    for builder.layer, layer in enumerate(spec.layers):
        layer.compile(builder)
    check_dtype(spec.support, np.dtype(spec.dtype))
    return _finish(builder, np.dtype(spec.dtype), spec.base, spec.support, spec.context_support)


def theta_plan(transform: Transform, dim: int, dtype: np.dtype[Any]) -> Plan:
    """One transform whose theta comes from an array of the caller's, for ``penstock.ops``; towards the data it runs forward."""
    builder = PlanBuilder(dim, 0)
    builder.transform_step("elementwise", (), range(dim), transform, None, "to_data", external=True)
    return _finish(builder, dtype, StandardNormal(dim))


def _finish(
    builder: PlanBuilder,
    dtype: np.dtype[Any],
    base: AnyBase,
    support: Sequence[Support] = (),
    context_support: Sequence[Support] = (),
) -> Plan:
    builder.columns_step()
    table = builder.table(dtype, base, support, context_support)
    return Plan(
        table, tuple(builder.tensors), dtype, builder.dim, builder.context_dim, builder.n_params, builder.n_steps,
        tuple(default_numbers(support) + default_numbers(context_support)),
    )  # fmt: skip
