"""Specs become a plan: the table of integers that every backend reads. Outputs are allocated here and nowhere else.

The table (version 1), all int64
--------------------------------
Header, 16 numbers::

    0 magic      1 version     2 length      3 bytes a number (4 or 8)
    4 dim        5 context_dim 6 n_params    7 n_buffers (float64)
    8 n_steps    9 step size  10 base code  11 offset of the boundary table
   12 conditioner code of the embedding, or 0   13 its activation code
   14 its n_linear            15 offset of its n_linear + 1 widths

then ``n_steps`` records of 32 numbers, from latent to data::

    0 kind (STEP_KINDS)        1 explicit (0 to_latent, 1 to_data)
    2 params offset            3 params count
    4 buffers offset           5 buffers count
    6 n_a    7 offset of the slots of A (what the conditioner reads)
    8 n_b    9 offset of the slots of B (what the transform changes)
   10 transform code          11 n_theta, numbers of theta a dimension
   12 n_options               13 offset of the options (float64 bit patterns)
   14 conditioner code        15 activation code
   16 n_linear                17 offset of the n_linear + 1 widths (input, hidden, output)
   18 offset of the order     19 offset of the signs (lu_linear only)
   20-31 zero

then the pool: index lists, options, widths, and the boundary table of ``(n_steps + 1) * dim`` numbers.

A *slot* is where a dimension lives while a tile walks through the flow; it never moves. Entry ``i`` of row ``k``
of the boundary table is the slot of logical dimension ``i`` between steps ``k - 1`` and ``k``; a permutation
is a step that does nothing but rename the slots of the next boundary. Slots equal dimensions on the latent side.

Parameters of a step: ``W`` (in, out) then ``b`` (out) of each linear layer; theta (n_b, n_theta) where it is free; ``M``
(dim, dim) then ``b`` (dim) of an LU layer, whose B are the slots of its input, and whose outputs are other names for the
same slots. The conditioner's input is the context, then the dimensions of A; its output is (n_b, n_theta). An elementwise
step may have a conditioner too, of the context alone. The last step is the standardisation, ``x = loc + scale u``, whose
buffers are ``loc`` (dim) and ``scale`` (dim).

The embedding is a network between the context and all conditioners, whose parameters come after those of the steps: where
there is one, conditioners read its output instead. The last buffers are ``loc`` and ``scale`` of the context
(context_dim each); what is read is ``(context - loc) / scale``.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.base import BASES, StandardNormal
from penstock.conditioners import ACTIVATIONS, CONDITIONERS, MLP
from penstock.transforms import TRANSFORMS, Transform

if TYPE_CHECKING:
    from penstock.layers import Layer

MAGIC = 0x504E53544B
VERSION = 1
HEADER_SIZE = 16
STEP_SIZE = 32
STEP_KINDS = ("permutation", "elementwise", "coupling", "standardize", "lu_linear")

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tensor:
    """A named piece of the flat parameter vector.

    ``decay`` marks the weight matrices of conditioners, the only numbers that weight decay touches.
    """

    name: str
    shape: tuple[int, ...]
    offset: int
    decay: bool = False

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return int(np.prod(self.shape, dtype=np.int64))


class PlanBuilder:
    """Collects steps from the layers, from latent to data, and writes the table."""

    def __init__(self, dim: int, context_dim: int, embedding: MLP | None = None, embedding_dim: int = 0) -> None:
        self.dim = dim
        self.context_dim = context_dim
        self.steps: list[dict[str, Any]] = []
        self.tensors: list[Tensor] = []
        self.n_params = 0
        self.n_buffers = 0
        self.boundaries: list[tuple[int, ...]] = [tuple(range(dim))]
        self.layer = 0  # number of the layer being compiled, for the names of its tensors
        self.n_context = context_dim if embedding is None else embedding_dim  # what conditioners read of the context
        self.embedding = embedding
        self.embedding_widths: tuple[int, ...] = ()

    def add_tensor(self, name: str, shape: tuple[int, ...], *, decay: bool = False) -> None:
        """Claim the next numbers of the flat vector for the layer being compiled."""
        self._claim(f"layers.{self.layer}.{name}", shape, decay)

    def _claim(self, name: str, shape: tuple[int, ...], decay: bool) -> None:
        tensor = Tensor(name, shape, self.n_params, decay)
        self.tensors.append(tensor)
        self.n_params += tensor.size

    def add_step(self, **fields: Any) -> None:
        """Append a step; fields that it does not name are zero or empty."""
        self.steps.append(fields)

    def permutation_step(self, order: tuple[int, ...]) -> None:
        """Rename the slots: ``x[i] = z[order[i]]``."""
        self.add_step(kind="permutation", params_offset=self.n_params)
        self.boundaries.append(tuple(self.boundaries[-1][i] for i in order))

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
        """Transform the dimensions ``b`` with theta that is free, external, or a function of the dimensions ``a``."""
        slots = self.boundaries[-1]
        n_theta = len(transform.theta_names)
        start = self.n_params
        widths: tuple[int, ...] = ()
        if conditioner is not None:
            widths = conditioner.widths(self.n_context + len(a), len(b) * n_theta)
            for i, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
                self.add_tensor(f"conditioner.{i}.weight", (n_in, n_out), decay=True)
                self.add_tensor(f"conditioner.{i}.bias", (n_out,))
        elif not external:
            self.add_tensor("theta", (len(b), n_theta))
        self.add_step(
            kind=kind,
            explicit=int(explicit == "to_data"),
            params_offset=start,
            params_count=self.n_params - start,
            a=[slots[i] for i in a],
            b=[slots[i] for i in b],
            transform=list(TRANSFORMS).index(transform.name),
            n_theta=n_theta,
            options=transform.options,
            conditioner=CONDITIONERS.index(
                "external" if external else "free" if conditioner is None else conditioner.kind
            ),
            activation=0 if conditioner is None else ACTIVATIONS.index(conditioner.activation),
            widths=widths,
        )
        self.boundaries.append(slots)

    def lu_step(self, order: Sequence[int], signs: Sequence[int], explicit: str) -> None:
        """``y = P L U x + b``: the triangles work slot by slot, and ``P`` renames the slots of the next boundary."""
        before = self.boundaries[-1]
        start = self.n_params
        self.add_tensor("lu", (self.dim, self.dim))
        self.add_tensor("bias", (self.dim,))
        after = [0] * self.dim
        for j, i in enumerate(order):
            if explicit == "to_data":
                after[j] = before[i]
            else:
                after[i] = before[j]
        self.boundaries.append(tuple(after))
        self.add_step(
            kind="lu_linear",
            explicit=int(explicit == "to_data"),
            params_offset=start,
            params_count=self.n_params - start,
            b=before if explicit == "to_data" else after,
            order=order,
            signs=signs,
        )

    def add_embedding(self) -> None:
        """Claim the parameters of the network between the context and the conditioners, if there is one."""
        if self.embedding is None:
            return
        self.embedding_widths = self.embedding.widths(self.context_dim, self.n_context)
        for i, (n_in, n_out) in enumerate(itertools.pairwise(self.embedding_widths)):
            self._claim(f"embedding.{i}.weight", (n_in, n_out), True)
            self._claim(f"embedding.{i}.bias", (n_out,), False)

    def standardize_step(self) -> None:
        """``x = loc + scale u``, applied in float64 where rows are loaded and stored."""
        self.add_step(
            kind="standardize", params_offset=self.n_params, buffers_offset=self.n_buffers, buffers_count=2 * self.dim
        )
        self.n_buffers += 2 * self.dim
        self.boundaries.append(self.boundaries[-1])

    def table(self, dtype: np.dtype[Any], base: str) -> Array:
        """The finished table."""
        start = HEADER_SIZE + STEP_SIZE * len(self.steps)
        pool: list[int] = []

        def put(values: Sequence[int]) -> int:
            pool.extend(int(v) for v in values)
            return start + len(pool) - len(values)

        records: list[int] = []
        for step in self.steps:
            a, b, widths = step.get("a", ()), step.get("b", ()), step.get("widths", ())
            options = [struct.unpack("<q", struct.pack("<d", v))[0] for v in step.get("options", ())]
            record = [
                STEP_KINDS.index(step["kind"]), step.get("explicit", 0),
                step["params_offset"], step.get("params_count", 0),
                step.get("buffers_offset", 0), step.get("buffers_count", 0),
                len(a), put(a), len(b), put(b),
                step.get("transform", 0), step.get("n_theta", 0), len(options), put(options),
                step.get("conditioner", 0), step.get("activation", 0), max(len(widths) - 1, 0), put(widths),
            ]  # fmt: skip
            if step["kind"] == "lu_linear":
                record += [put(step["order"]), put(step["signs"])]
            records += record + [0] * (STEP_SIZE - len(record))
        boundary = put([slot for row in self.boundaries for slot in row])
        embedding = [0, 0, 0, 0]
        if self.embedding is not None:
            codes = CONDITIONERS.index(self.embedding.kind), ACTIVATIONS.index(self.embedding.activation)
            embedding = [*codes, len(self.embedding_widths) - 1, put(self.embedding_widths)]
        header = [
            MAGIC, VERSION, start + len(pool), dtype.itemsize, self.dim, self.context_dim, self.n_params,
            self.n_buffers + 2 * self.context_dim, len(self.steps), STEP_SIZE, BASES.index(base), boundary, *embedding,
        ]  # fmt: skip
        return np.array(header + records + pool, dtype=np.int64)


@dataclass(frozen=True)
class Plan:
    """A compiled spec: the table, the names of its parameters, and the layer that each step came from."""

    table: Array
    tensors: tuple[Tensor, ...]
    dtype: np.dtype[Any]
    dim: int
    context_dim: int
    n_params: int
    n_buffers: int
    n_steps: int


def compile_plan(
    base: StandardNormal,
    layers: Sequence[Layer],
    context_dim: int,
    dtype: np.dtype[Any],
    embedding: MLP | None = None,
    embedding_dim: int = 0,
) -> Plan:
    """Compile resolved layers, latent to data, and the flow's own standardisation. Step ``k`` is layer ``k``."""
    builder = PlanBuilder(base.dim, context_dim, embedding, embedding_dim)
    for builder.layer, layer in enumerate(layers):
        layer.compile(builder)
    builder.standardize_step()
    builder.add_embedding()
    return _finish(builder, dtype, base.name)


def external_plan(transform: Transform, dim: int, dtype: np.dtype[Any], explicit: str) -> Plan:
    """A plan of one transform whose theta comes from an array of the caller's, for ``penstock.ops``."""
    builder = PlanBuilder(dim, 0)
    builder.transform_step("elementwise", (), tuple(range(dim)), transform, None, explicit, external=True)
    return _finish(builder, dtype, "standard_normal")


def _finish(builder: PlanBuilder, dtype: np.dtype[Any], base: str) -> Plan:
    return Plan(
        builder.table(dtype, base), tuple(builder.tensors), dtype, builder.dim, builder.context_dim,
        builder.n_params, builder.n_buffers + 2 * builder.context_dim, len(builder.steps),
    )  # fmt: skip


def theta_plan(transform: Transform, dim: int, dtype: np.dtype[Any]) -> Plan:
    """``external_plan`` with the standardisation that every table ends with; towards the data it runs the transform."""
    builder = PlanBuilder(dim, 0)
    builder.transform_step("elementwise", (), tuple(range(dim)), transform, None, "to_data", external=True)
    builder.standardize_step()
    return _finish(builder, dtype, "standard_normal")


class Runner:
    """A plan on one backend: every method allocates its outputs and calls the engine once.

    Rows come as the front door leaves them, two-dimensional; ``packed`` is what ``pack`` returned. A context is None, one
    row for all, of shape (context_dim,), or of shape (m, context_dim), a row for each ``rows / m`` rows in turn.
    """

    def __init__(self, plan: Plan, engine: Any) -> None:
        self.plan = plan
        self.engine = engine
        # Bound once: one row at a time is a common call, and an attribute look-up a visible part of it.
        self._evaluate = engine.evaluate
        self._dtype = plan.dtype
        self._n_steps = plan.n_steps

    def pack(self, params: Array, buffers: Array) -> Any:
        """The engine's own copy of the numbers, immutable."""
        return self.engine.pack(params, buffers)

    def log_prob_row(self, packed: Any, row: Array, context: Array | None) -> Array:
        """The log-density of one row, of shape (1, dim), without any check."""
        out = np.empty(1, self._dtype)
        self._evaluate(packed, False, 0, self._n_steps, row, context, None, True, None, out)
        return out

    def log_prob(
        self,
        packed: Any,
        x: Array,
        context: Array | None = None,
        out: Array | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> Array:
        """The log-density of every row, (rows,), into ``out`` if given."""
        if out is None:
            out = np.empty(len(x), dtype or self._dtype)
        self._evaluate(packed, False, 0, self._n_steps, x, context, None, True, None, out)
        return out

    def transform(
        self, packed: Any, to_data: bool, x: Array, context: Array | None = None, theta: Array | None = None
    ) -> tuple[Array, Array]:
        """All steps in one direction: the image of every row, and its log_det."""
        out = np.empty(x.shape, self._dtype)
        log_det = np.empty(len(x), self._dtype)
        self._evaluate(packed, to_data, 0, self._n_steps, x, context, theta, False, out, log_det)
        return out, log_det

    def sample(
        self,
        packed: Any,
        n: int,
        seed: int,
        context: Array | None = None,
        out: Array | None = None,
        *,
        log_prob: bool = False,
        first: int = 0,
        context_row: int = 0,
    ) -> tuple[Array, Array | None]:
        """``n`` draws in all, (n, dim), into ``out`` if given, and on demand their log-density.

        They are shared out evenly to the rows of the context, whose numbers begin at ``context_row``; the draws of each
        begin at number ``first``.
        """
        if out is None:
            out = np.empty((n, self.plan.dim), self._dtype)
        density = np.empty(n, self._dtype) if log_prob else None
        self.engine.sample(packed, seed, context_row, first, context, out, density)
        return out, density

    def vjp(
        self,
        packed: Any,
        to_data: bool,
        x: Array,
        d_out: Array | None,
        d_log_det: Array | None,
        context: Array | None = None,
        *,
        base: bool = False,
        params: bool = True,
        contexts: bool = True,
        theta: Array | None = None,
    ) -> tuple[Array, Array | None, Array | None, Array | None]:
        """Gradients of rows, of parameters (float64) and of the context, if asked for, and of an external theta.

        That of a context is a sum, in float64, unless each row has one of its own.
        """
        d_x = np.empty(x.shape, self._dtype)
        d_params = np.zeros(self.plan.n_params) if params else None
        d_context = None
        if contexts and context is not None:
            own = context.ndim == 2 and len(context) == len(x)
            d_context = np.empty(context.shape, self._dtype) if own else np.zeros(context.shape)
        d_theta = None
        if theta is not None:  # shared by all rows it is a sum, in float64
            d_theta = np.empty(theta.shape, self._dtype) if theta.ndim == 2 else np.zeros(theta.shape)
        self.engine.vjp(
            packed, to_data, 0, self._n_steps, x, context, theta, base, d_out, d_log_det, d_x, d_params, d_context,
            d_theta,
        )  # fmt: skip
        return d_x, d_params, d_context, d_theta

    def ones(self, rows: int) -> Array:
        """The cotangent of a sum over rows."""
        return np.ones(rows, self._dtype)

    def loss_and_grad(
        self, packed: Any, x: Array, context: Array | None, weight: Array | None
    ) -> tuple[float, float, Array]:
        """Weighted sum of the negative log-density, sum of the weights, and the gradient of the former."""
        d_params = np.zeros(self.plan.n_params)
        loss_sum, weight_sum = self.engine.loss_and_grad(packed, x, context, weight, d_params)
        return float(loss_sum), float(weight_sum), d_params
