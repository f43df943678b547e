"""Specs become a plan: the table of integers that every backend reads, and the names of the numbers that it lays out.

``plan_table.py`` says what a table is made of. Here the layers, in turn from latent to data, claim parameters and add steps.

A *slot* is where a dimension lives while a tile walks through the flow; it never moves. Entry ``i`` of row ``k`` of the
boundary is the slot of logical dimension ``i`` between steps ``k - 1`` and ``k``; a permutation is a step that does nothing
but rename the slots of the next boundary. Slots equal dimensions on the latent side.

Parameters of a step: ``W`` (in, out) then ``b`` (out) of each linear layer; theta (n_b, n_theta) where it is free; ``M``
(dim, dim) then ``b`` (dim) of an LU layer, whose B are the slots of its input, and whose outputs are other names for the
same slots. The conditioner's input is the context, then the dimensions of A; its output is (n_b, n_theta). An elementwise
step may have a conditioner too, of the context alone. The last step is the columns: a bijection and a standardisation,
``x = loc + scale u``, of each.

An autoregressive step has no A; its B are all dimensions, in its order, of which the conditioner reads all but the last. The
degree of the context is 0, of dimension ``i`` as an input ``i + 1``, of its theta ``i``; those of hidden units rise within a
layer and are less than ``dim``. An entry of ``W`` whose input has a higher degree than its output is masked: it is zero, and
no engine reads it.

The embedding is a network between the context and all conditioners, whose parameters come after those of the steps: where
there is one, conditioners read its output instead. Buffers are ``loc`` (dim) and ``scale`` (dim), then those of the context,
then ``s`` of each column whose support is a half-line.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import plan_table
from penstock._typing import Array
from penstock.conditioners import MLP
from penstock.plan_table import NONE, Record, Table
from penstock.spec import FlowSpec
from penstock.support import Interval, Support, check_dtype
from penstock.transforms import TRANSFORMS, Transform

Degrees = tuple[tuple[int, ...], ...]
# In the place of the number of a layer: the tensor belongs to the embedding.
EMBEDDING = -1


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
        Number of the layer that it belongs to, or ``EMBEDDING``.
    role : {"weight", "bias", "theta", "lu"}
        Weight decay touches the weights, which are those of networks, and nothing else.
    degrees : pair of tuples of int, or None
        Degrees of the inputs and outputs of a masked weight.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    layer: int
    role: str
    degrees: tuple[tuple[int, ...], tuple[int, ...]] | None = None

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

    def __init__(self, dim: int, context_dim: int, embedding: MLP | None = None, embedding_dim: int = 0) -> None:
        self.dim = dim
        self.context_dim = context_dim
        self.n_context = context_dim if embedding is None else embedding_dim  # what conditioners read of the context
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

    def add_tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        role: str,
        degrees: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    ) -> int:
        """Claim the next numbers of the flat vector for the layer being compiled; where they begin."""
        prefix = "embedding" if self.layer == EMBEDDING else f"layers.{self.layer}"
        tensor = Tensor(f"{prefix}.{name}", shape, self.n_params, self.layer, role, degrees)
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
        start, n_theta = self.n_params, len(transform.theta_names)
        size = len(b) * n_theta
        part: Record = {
            "transform": list(TRANSFORMS).index(transform.name),
            "n_theta": n_theta,
            "options": self._table.put_reals(transform.options),
            "n_options": len(transform.options),
            "members": self._table.put(range(len(b))),
            "n_members": len(b),
            "theta": self._table.put(range(0, size, n_theta)),
            "external": NONE,
        }
        network = NONE
        source = "free"
        if conditioner is not None:
            source = "network"
            masked = kind == "autoregressive"
            degrees = conditioner.degrees(self.n_context, len(b), n_theta) if masked else ()
            n_read = len(b) - 1 if masked else len(a)
            network = self._add_network("conditioner", conditioner, n_read, size, degrees)
        elif external:
            source = "external"
            part["external"] = self._n_external
            self._n_external += 1
        else:
            part |= {"params": self.add_tensor("theta", (len(b), n_theta), "theta"), "n_params": size}
        part["source"] = plan_table.SOURCES.index(source)
        self._table.parts.append(part)
        self._add_step(
            kind,
            start,
            explicit=plan_table.DIRECTIONS.index(explicit),
            a=self._table.put([self._slots[i] for i in a]),
            n_a=len(a),
            b=self._table.put([self._slots[i] for i in b]),
            n_b=len(b),
            part=len(self._table.parts) - 1,
            n_parts=1,
            network=network,
        )
        self._rename(self._slots)

    def lu_step(self, order: Sequence[int], signs: Sequence[int], explicit: str) -> None:
        """``y = P L U x + b``: the triangles work slot by slot, and ``P`` renames the slots of the next boundary."""
        before, start = self._slots, self.n_params
        self.add_tensor("lu", (self.dim, self.dim), "lu")
        self.add_tensor("bias", (self.dim,), "bias")
        after = [0] * self.dim
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
            n_b=self.dim,
            order=self._table.put(order),
            signs=self._table.put(signs),
        )
        self._rename(tuple(after))

    def columns_step(self) -> None:
        """The ends of the flow, applied in float64 where rows are loaded and stored."""
        self._add_step("columns", self.n_params)
        self._rename(self._slots)

    def table(self, dtype: np.dtype[Any], base: str, support: Sequence[Support] = ()) -> Array:
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
        for column, own in zip(table.columns, support, strict=False):
            if isinstance(own, Interval):
                n_buffers += self._support(column, own, n_buffers)
        table.base.append(
            {"kind": plan_table.BASES.index(base), "dims": table.put(range(self.dim)), "n_dims": self.dim,
             "source": plan_table.SOURCES.index("fixed"), "network": NONE}
        )  # fmt: skip
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

    def _support(self, column: Record, support: Interval, buffers: int) -> int:
        """The map and the ends of a column; how many buffers of its own it has, from ``buffers`` on."""
        assert support.map is not None
        column["map"] = plan_table.COLUMN_MAPS.index(support.map)
        for field, end, bit in (("lo", support.lo, plan_table.LOWER), ("hi", support.hi, plan_table.UPPER)):
            if end is not None:
                column |= {"ends": column.get("ends", 0) | bit, field: self._table.put_reals([end])}
        scales = int(support.map == "positive")
        if scales:
            column |= {"buffers": buffers, "n_buffers": scales}
        return scales

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
        n_context = self.context_dim if role == "embedding" else self.n_context
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
    """A compiled spec: the table, and the names and sizes of its numbers. Step ``k`` is layer ``k``; the last is the columns."""

    table: Array
    tensors: tuple[Tensor, ...]
    dtype: np.dtype[Any]
    dim: int
    context_dim: int
    n_params: int
    n_buffers: int
    n_steps: int

    def tensors_of(self, layer: int) -> list[Tensor]:
        """The tensors of a layer, or of the ``EMBEDDING``, in their order."""
        return [tensor for tensor in self.tensors if tensor.layer == layer]

    def widths(self, layer: int) -> tuple[int, ...]:
        """Widths of input, hidden layers and output of the network of a layer, or of the ``EMBEDDING``."""
        shapes = [tensor.shape for tensor in self.tensors_of(layer) if tensor.role == "weight"]
        return (shapes[0][0], *(n_out for _, n_out in shapes))

    @property
    def n_scales(self) -> int:
        """How many columns have a half-line as support: the last buffers are their ``s``."""
        return self.n_buffers - 2 * (self.dim + self.context_dim)

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
    builder = PlanBuilder(spec.base.dim, spec.context_dim, spec.embedding, spec.embedding_dim)
    for builder.layer, layer in enumerate(spec.layers):
        layer.compile(builder)
    check_dtype(spec.support, np.dtype(spec.dtype))
    return _finish(builder, np.dtype(spec.dtype), spec.base.name, spec.support)


def theta_plan(transform: Transform, dim: int, dtype: np.dtype[Any]) -> Plan:
    """One transform whose theta comes from an array of the caller's, for ``penstock.ops``; towards the data it runs forward."""
    builder = PlanBuilder(dim, 0)
    builder.transform_step("elementwise", (), range(dim), transform, None, "to_data", external=True)
    return _finish(builder, dtype, "standard_normal")


def _finish(builder: PlanBuilder, dtype: np.dtype[Any], base: str, support: Sequence[Support] = ()) -> Plan:
    builder.columns_step()
    scales = sum(isinstance(own, Interval) and own.map == "positive" for own in support)
    return Plan(
        builder.table(dtype, base, support), tuple(builder.tensors), dtype, builder.dim, builder.context_dim, builder.n_params,
        2 * (builder.dim + builder.context_dim) + scales, builder.n_steps,
    )  # fmt: skip
