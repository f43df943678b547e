"""A checked plan: the table of penstock/plan.py turned into the rows that kernels read, and the sizes of workspaces."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from penstock._numba.core.plan import (
    AUTOREGRESSIVE,
    COUPLING,
    DERIVATIVE,
    ELEMENTWISE,
    EXTERNAL,
    FREE,
    GELU,
    INPUT,
    KEPT,
    KEPT_DERIVATIVE,
    LINEAR,
    LU_LINEAR,
    MLP,
    N_LINEAR,
    N_OUT,
    OUTPUT,
    PAD,
    PERMUTATION,
    RESIDUAL_MLP,
    SILU,
    STANDARDIZE,
    THETA,
    TILE,
)
from penstock._numba.transforms import TRANSFORMS

Array = np.ndarray[Any, Any]

MAGIC, VERSION, HEADER_SIZE, STEP_SIZE, MAX_OPTIONS = 0x504E53544B, 1, 16, 32, 8


class Layout:
    """Checks a table and works out everything that engine and kernels need of it."""

    def __init__(self, table: Any) -> None:
        table = _checked(table)
        self.dtype = np.dtype(np.float32 if table[3] == 4 else np.float64)
        self.dim, self.context_dim = int(table[4]), int(table[5])
        self.n_params, self.n_buffers, self.n_steps = (int(table[i]) for i in (6, 7, 8))
        embedding = table[12:16].tolist()  # conditioner, activation, n_linear, offset of widths
        self.n_context = int(table[embedding[3] + embedding[2]]) if embedding[2] else self.context_dim
        self.n_starts = 0
        self.n_external = 0  # numbers of theta a row in an external step
        self.widest_theta = self.widest = max(1, self.n_context)
        self.widest_masked = 0  # input and all layers of a masked network
        self.flops = 2 * self.dim  # a row
        self.decay = np.zeros(self.n_params, np.bool_)
        self.index = np.zeros(self.n_params, np.int64)  # of each parameter in a padded gradient
        self.n_gradient = 0
        self._linear: list[list[int]] = []
        self._slots: list[int] = []
        self._options: list[float] = []
        records = table[HEADER_SIZE : HEADER_SIZE + self.n_steps * STEP_SIZE].reshape(-1, STEP_SIZE).tolist()
        steps, sizes = [], []
        for record in records:
            step, size = self._step(table, record)
            steps.append(step)
            sizes.append(size)
        step, embedding_size = self._embedding(table, *embedding)
        steps.append(step)
        # every step its own area of the kept store for the way back; one area for all where nothing is kept
        self.steps = np.array(steps, np.int64)
        self.linear = np.array(self._linear, np.int64).reshape(-1, 12)
        self.training_steps, self.training_linear = self.steps.copy(), self.linear.copy()
        start = 0
        for step, size in zip(self.training_steps, [*sizes, embedding_size], strict=True):
            step[[KEPT, INPUT, THETA]] += start
            layers = self.training_linear[step[LINEAR] : step[LINEAR] + step[N_LINEAR]]
            layers[:, OUTPUT] += start
            layers[:, DERIVATIVE] += np.where(layers[:, DERIVATIVE] >= 0, start, 0)
            start += size
        self.n_kept, self.n_training_kept = max(sizes) + embedding_size, start
        if step[N_LINEAR]:  # its area comes last: every conditioner reads what it holds
            self.steps[-1, [INPUT, THETA]] += max(sizes)
            layers = self.linear[step[LINEAR] :]
            layers[:, OUTPUT] += max(sizes)
            layers[:, DERIVATIVE] += np.where(layers[:, DERIVATIVE] >= 0, max(sizes), 0)
        boundary = int(table[11])
        self.boundary = table[boundary : boundary + (self.n_steps + 1) * self.dim].reshape(-1, self.dim).copy()
        self.slots = np.array([*self._slots, 0], np.int64)
        self.options = np.array([*self._options, 0.0], self.dtype)
        kinds = [record[0] for record in records]
        self.standardize = kinds.index(STANDARDIZE) if STANDARDIZE in kinds else -1
        self.external = [record[0] == ELEMENTWISE and record[14] == EXTERNAL for record in records]
        self.buffers = records[self.standardize][4]

    def _step(self, table: Array, r: list[int]) -> tuple[list[int], int]:
        """One row of Plan.steps, and the numbers that it takes of the kept store; positions count from its own start."""
        kind, explicit, params, n_a, n_b, n_theta, conditioner, activation = (r[i] for i in (0, 1, 2, 6, 8, 11, 14, 15))
        n_linear, n_values = r[16], n_b * n_theta
        if kind == LU_LINEAR:
            return self._lu_step(table, r)
        a, b = len(self._slots), len(self._slots) + n_a
        first_linear, options, grad = len(self._linear), len(self._options), self.n_gradient
        self._slots += [*table[r[7] : r[7] + n_a].tolist(), *table[r[9] : r[9] + n_b].tolist()]
        self._options += table[r[13] : r[13] + r[12]].view(np.float64).tolist()
        self.widest_theta = max(self.widest_theta, n_values)
        self.flops += 32 * n_b
        if kind == ELEMENTWISE and conditioner == EXTERNAL:
            self.n_external = max(self.n_external, n_values)
        elif conditioner == FREE:
            self.index[params : params + n_values] = np.arange(grad, grad + n_values)
            self.n_gradient += -(-n_values // PAD) * PAD
        n_context = self.n_context if n_linear else 0
        masked = kind == AUTOREGRESSIVE
        n_u, start = n_context + (n_b - 1 if masked else n_a), self.n_starts
        starts = self._degree_starts(table, r, n_context) if masked else []
        at = self._network(table, r[17], n_linear, conditioner, activation, params, (n_b + n_u) * TILE, starts)
        self.widest = max(self.widest, n_values)
        if n_linear:
            kind = kind if masked else COUPLING  # an elementwise step with a network is a coupling whose A is empty
            self.n_starts += self._linear[first_linear][N_OUT] if n_a or masked else n_values
        theta = self._linear[-1][OUTPUT] if n_linear else at
        size = at if n_linear else at + n_values * TILE
        step = [
            kind, explicit, r[10], n_theta, conditioner, activation, n_linear, n_a, n_b, n_u, a, b, first_linear,
            options, r[12], params, grad, 0, n_b * TILE, theta, 0, 0, n_context, start,
        ]  # fmt: skip
        return step, size

    def _embedding(
        self, table: Array, conditioner: int, activation: int, n_linear: int, at_widths: int
    ) -> tuple[list[int], int]:
        """The same for the embedding: nothing if there is none."""
        first_linear = len(self._linear)
        params = self.n_params - _n_params(table[at_widths : at_widths + n_linear + 1].tolist() if n_linear else [])
        size = self._network(table, at_widths, n_linear, conditioner, activation, params, self.context_dim * TILE)
        theta = self._linear[-1][OUTPUT] if n_linear else 0
        step = [PERMUTATION, 0, 0, self.n_context, conditioner, activation, n_linear, 0, 0, self.context_dim, 0, 0,
                first_linear, 0, 0, params, 0, 0, 0, theta, 0, 0, 0, 0]  # fmt: skip
        return step, size if n_linear else 0

    def _network(
        self, table: Array, at_widths: int, n_linear: int, conditioner: int, activation: int, params: int, at: int,
        starts: Sequence[int] = (),
    ) -> int:  # fmt: skip
        """Rows of Plan.linear, with parameters from ``params`` on and places from ``at`` on; the end of these.

        A masked network has ``starts``, where those of the degrees of each layer stand in the slots.
        """
        widths = table[at_widths : at_widths + n_linear + 1].tolist() if n_linear else []
        self.widest = max([self.widest, *widths])
        tied = starts or [-1] * (n_linear + 1)
        gradient = widths[0] * TILE if starts else 0
        offset = params
        for i in range(n_linear):
            n_in, n_out = widths[i], widths[i + 1]
            stride = -(-n_out // PAD) * PAD
            bias, grad_weight, grad_bias = offset + n_in * n_out, self.n_gradient, self.n_gradient + n_in * stride
            keeps = i + 1 < n_linear and (conditioner == RESIDUAL_MLP or activation in (SILU, GELU))
            derivative = at + n_out * TILE if keeps else -1
            self._linear.append([
                n_in, n_out, offset, bias, grad_weight, grad_bias, stride, at, derivative, gradient, *tied[i : i + 2],
            ])  # fmt: skip
            gradient += n_out * TILE
            at += n_out * TILE * (2 if keeps else 1)
            self.index[offset:bias] = (grad_weight + np.arange(n_in)[:, None] * stride + np.arange(n_out)).ravel()
            self.index[bias : bias + n_out] = grad_bias + np.arange(n_out)
            self.decay[offset:bias] = True
            offset, self.n_gradient = bias + n_out, grad_bias + stride
            self.flops += 2 * n_in * n_out
        if starts:
            self.widest_masked = max(self.widest_masked, sum(widths[:-1]))
        return at

    def _degree_starts(self, table: Array, r: list[int], n_context: int) -> list[int]:
        """Where in the slots stand the numbers of the first feature of each degree: of the input, hidden layers, theta."""
        n_b, n_theta = r[8], r[11]
        widths = table[r[17] : r[17] + r[16] + 1].tolist()
        degrees = [*[0] * n_context, *range(1, n_b), *_hidden_degrees(table, r).tolist()]
        degrees += [j // n_theta for j in range(widths[-1])]
        starts = []
        for end, width in zip(np.cumsum(widths).tolist(), widths, strict=True):
            starts.append(len(self._slots))
            self._slots += np.searchsorted(degrees[end - width : end], np.arange(n_b + 1)).tolist()
        return starts

    def _lu_step(self, table: Array, r: list[int]) -> tuple[list[int], int]:
        """The same for an LU layer. Its gradient: M above the diagonal, M below it, (n, stride) each, the diagonal, b."""
        n, params, grad = r[8], r[2], self.n_gradient
        b = len(self._slots)
        for at in (r[9], r[18], r[19]):
            self._slots += table[at : at + n].tolist()
        stride = -(-n // PAD) * PAD
        row, column = np.indices((n, n))
        beside = grad + row * stride + column + np.where(column < row, n * stride, 0)
        diagonal = grad + 2 * n * stride + column
        self.index[params : params + n * n] = np.where(row == column, diagonal, beside).ravel()
        self.index[params + n * n : params + n * n + n] = grad + (2 * n + 1) * stride + np.arange(n)
        self.n_gradient += (2 * n + 2) * stride
        self.widest = max(self.widest, n)
        self.flops += 2 * n * n
        step = [LU_LINEAR, r[1], 0, 0, 0, 0, 0, 0, n, 0, b, b, len(self._linear), len(self._options), 0, params, grad,
                0, n * TILE, 2 * n * TILE, b + n, b + 2 * n, 0, 0]  # fmt: skip
        return step, 4 * n * TILE


def _hidden_degrees(table: Array, r: list[int]) -> Array:
    """The degrees of all hidden units of an autoregressive step."""
    degrees: Array = table[r[18] : r[18] + int(np.sum(table[r[17] + 1 : r[17] + r[16]]))]
    return degrees


def _n_params(widths: list[int]) -> int:
    """Of a network with these widths."""
    return sum((n_in + 1) * n_out for n_in, n_out in itertools.pairwise(widths))


def _checked(table: Any) -> Array:
    """The table as an array of int64, once everything that the kernels rely on holds."""
    if not isinstance(table, np.ndarray) or table.dtype != np.int64 or table.ndim != 1:
        raise ValueError("table must be a one-dimensional array of int64")
    table = np.ascontiguousarray(table)

    def need(fine: bool, what: str) -> None:
        if not fine:
            raise ValueError(f"plan table: {what}")

    need(table.size >= HEADER_SIZE and table[0] == MAGIC, "not a plan")
    need(table[1] == VERSION, f"version {table[1]}, this engine reads version {VERSION}")
    need(table[2] == table.size, f"length {table.size}, its header says {table[2]}")
    item_size, dim, context_dim, n_params, n_buffers, n_steps, step_size, base, boundary = table[3:12].tolist()
    need(item_size in (4, 8), f"{item_size} bytes a number")
    need(0 < dim < 2**31, f"dim {dim}")
    need(0 <= context_dim < 2**20, f"context_dim {context_dim}")
    need(0 <= n_params < 2**40 and 0 <= n_buffers < 2**40, "sizes of parameters and buffers")
    need(n_steps > 0 and step_size == STEP_SIZE, "number or size of steps")
    need(HEADER_SIZE + n_steps * STEP_SIZE <= table.size, "steps beyond its end")
    need(base == 0, f"unknown base {base}")

    def inside(at: int, count: int) -> bool:
        return at >= HEADER_SIZE and count >= 0 and at + count <= table.size

    def are_slots(values: Array) -> bool:
        return bool(np.all((values >= 0) & (values < dim)) and np.unique(values).size == values.size)

    need(inside(boundary, (n_steps + 1) * dim), "boundaries beyond its end")
    rows = table[boundary : boundary + (n_steps + 1) * dim].reshape(-1, dim)
    need(all(are_slots(row) for row in rows), "a boundary is not a permutation of the slots")

    def are_widths(at: int, n_linear: int, n_in: int, conditioner: int, activation: int) -> bool:
        if not (0 < n_linear < 2**16 and inside(at, n_linear + 1) and activation in range(KEPT_DERIVATIVE)):
            return False
        widths = table[at : at + n_linear + 1].tolist()
        fine = widths[0] == n_in and all(0 < w < 2**31 for w in widths[1:])
        return fine and (conditioner == MLP or len(set(widths[1:-1])) <= 1)

    embedding, activation, n_linear, at_widths = table[12:16].tolist()
    n_context = context_dim
    if embedding or n_linear:
        need(embedding in (MLP, RESIDUAL_MLP), "kind of the embedding")
        fine = context_dim > 0 and are_widths(at_widths, n_linear, context_dim, embedding, activation)
        need(fine, "widths of the embedding")
        n_context = int(table[at_widths + n_linear])
    used = 0
    for s in range(n_steps):
        r = table[HEADER_SIZE + s * STEP_SIZE : HEADER_SIZE + (s + 1) * STEP_SIZE].tolist()
        kind, explicit, params, count, buffers, n_in_buffers, n_a, a, n_b, b = r[:10]
        transform, n_theta, n_options, at_options, conditioner, activation, n_linear, at_widths = r[10:18]
        name = f"step {s}: "
        need(kind in range(6) and explicit in (0, 1), name + "unknown kind")
        need(params == used and count >= 0 and params + count <= n_params, name + "parameters out of range")
        used += count
        need(buffers >= 0 and n_in_buffers >= 0 and buffers + n_in_buffers <= n_buffers, name + "buffers out of range")
        if kind == STANDARDIZE:
            need(s == n_steps - 1 and n_in_buffers == 2 * dim, name + "standardisation must come last")
        if kind in (PERMUTATION, STANDARDIZE):
            need(
                n_a == n_b == n_theta == n_linear == count == n_options == 0,
                name + "sizes of a step without parameters",
            )
            continue
        need(inside(a, n_a) and inside(b, n_b), name + "slots beyond the table's end")
        need(are_slots(table[a : a + n_a]) and are_slots(table[b : b + n_b]), name + "slots")
        need(not set(table[a : a + n_a].tolist()) & set(table[b : b + n_b].tolist()), name + "A and B overlap")
        if kind == LU_LINEAR:
            order, signs = r[18], r[19]
            need(n_a == 0 and n_b == dim and count == dim * (dim + 1), name + "sizes of an LU layer")
            need(inside(order, dim) and are_slots(table[order : order + dim]), name + "order")
            need(inside(signs, dim) and bool(np.all(np.abs(table[signs : signs + dim]) == 1)), name + "signs")
            continue
        need(transform in range(len(TRANSFORMS)) and 0 < n_theta < 2**20, name + "transform")
        need(0 <= n_options <= MAX_OPTIONS and inside(at_options, n_options), name + "options")
        need(conditioner in range(4) and activation in range(KEPT_DERIVATIVE), name + "conditioner")
        if conditioner in (FREE, EXTERNAL):
            need(kind == ELEMENTWISE and n_a == n_linear == 0, name + "free or external theta belongs to elementwise")
            need(count == (n_b * n_theta if conditioner == FREE else 0), name + "number of parameters")
            continue
        masked = kind == AUTOREGRESSIVE
        need((kind == COUPLING and n_a > 0) or (kind in (ELEMENTWISE, AUTOREGRESSIVE) and n_a == 0), name + "A")
        need(not masked or n_b == dim, name + "an autoregressive step moves every dimension")
        n_read = n_context + (n_b - 1 if masked else n_a)
        need(masked or n_read > 0, name + "a network with nothing to read")
        need(are_widths(at_widths, n_linear, n_read, conditioner, activation), name + "widths")
        widths = table[at_widths : at_widths + n_linear + 1].tolist()
        need(widths[-1] == n_b * n_theta, name + "width of the output")
        need(count == _n_params(widths), name + "number of parameters")
        if masked:
            need(inside(r[18], sum(widths[1:-1])), name + "degrees beyond the table's end")
            layers = np.split(_hidden_degrees(table, r), np.cumsum(widths[1:-1])[:-1]) if n_linear > 1 else []
            for degrees in layers:
                rises = np.all(np.diff(degrees, prepend=0) >= 0) and np.all(degrees < n_b)
                need(bool(rises), name + "degrees must rise and be less than dim")
                need(conditioner == MLP or np.array_equal(degrees, layers[0]), name + "degrees of a residual network")
    if embedding:
        _, _, n_linear, at_widths = table[12:16].tolist()
        used += _n_params(table[at_widths : at_widths + n_linear + 1].tolist())
    need(used == n_params, f"n_params {n_params}, its steps use {used}")
    return table
