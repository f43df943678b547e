"""A checked table turned into the rows that kernels read, and the sizes of workspaces and gradients.

Whatever the table says and this engine does not compute is refused here, by its name.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core import plan as columns
from penstock._numba.core.layout import TILE, padded
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
    LEAKY_RELU,
    LINEAR,
    LINEAR_SIZE,
    LU_LINEAR,
    MLP,
    N_LINEAR,
    N_OUT,
    OUTPUT,
    PERMUTATION,
    RESIDUAL_MLP,
    SILU,
    STEP_SIZE,
    THETA,
)
from penstock._numba.engine.layout_ends import BOX, CIRCLE, LINE, Ends, refuse
from penstock._numba.engine.table import decode
from penstock._numba.transforms import TRANSFORMS
from penstock.plan_table import NONE, Record

Array = np.ndarray[Any, Any]


# What masks may take: so much, and so much for each word of the table. The bytes of a layer are those of the compiled core.
MASK_BYTES_MAX, MASK_BYTES_A_WORD = 2**26, 128
DEGREE_BYTES, INPUT_BYTES, PIECE_BYTES = 16, 4, 32


class Layout:
    """Everything that engine and kernels need of a table."""

    def __init__(self, array: Any) -> None:
        self.table = table = decode(array)
        self.digest = hashlib.sha256(np.ascontiguousarray(array)).digest()
        flow = table.flow
        self.dtype = np.dtype(codes.DTYPES[flow["dtype"]])
        conditioner_dtype = codes.DTYPES[flow["conditioner_dtype"]]
        refuse(conditioner_dtype == self.dtype, f"conditioners in {conditioner_dtype}")
        self.dim, self.context_dim = flow["dim"], flow["context_dim"]
        self.n_params, self.n_buffers, self.n_steps = flow["n_params"], flow["n_buffers"], len(table.steps)
        self.ends = Ends(table, self.dtype)
        self._slots = list(self.ends.slots)
        self.n_context = self.ends.n_features  # features of the context that conditioners read
        if flow["embedding"] != NONE:
            self.n_context = table.networks[flow["embedding"]]["n_out"]
        self.context_part_size = 0
        self.external = [0] * self.n_steps  # numbers of external theta a row, by step
        self.n_external = 0  # of all steps
        self.widest_theta = self.widest = max(1, self.n_context)
        self.widest_masked = 0  # input and all layers of a masked network
        self.flops = 2 * self.dim  # a row
        self.decay, self.frozen = np.zeros(self.n_params, np.bool_), np.zeros(self.n_params, np.bool_)
        self.flags()
        self.mask_bytes = 0
        self.mask_bytes_max = MASK_BYTES_MAX + MASK_BYTES_A_WORD * len(array)
        self.index = np.zeros(self.n_params, np.int64)  # of each parameter in a padded gradient
        self.n_gradient = 0
        self._linear: list[list[int]] = []
        self._run_rows: list[list[int]] = []
        steps, sizes = [], []
        for k, record in enumerate(table.steps):
            step, size = self._step(k, record)
            steps.append(step)
            sizes.append(size)
        for step, size in (self._embedding(), *self._base_steps()):
            steps.append(step)
            sizes.append(size)
        self._place(np.array(steps, np.int64), sizes)
        self.boundary = np.array(table.boundary, np.int64).reshape(-1, self.dim)
        self.slots = np.array([*self._slots, 0], np.int64)
        self.runs = np.array(self._run_rows, np.int64).reshape(-1, columns.RUN_SIZE)
        self.options = np.array([*table.reals, 0.0]).astype(self.dtype)

    @property
    def externals(self) -> list[int]:
        """Numbers of theta a row of each external theta, in order."""
        return [n for n in self.external if n]

    def flags(self) -> None:
        """What decays and what is frozen."""
        for piece in self.table.ranges:
            numbers = slice(piece["offset"], piece["offset"] + piece["count"])
            self.decay[numbers] = piece["flags"] & codes.DECAYS
            self.frozen[numbers] = piece["flags"] & codes.FROZEN

    def _step(self, k: int, record: Record) -> tuple[list[int], int]:
        """One row of Plan.steps, and the numbers that it takes of the kept store; positions count from its own start."""
        table, kind = self.table, record["kind"]
        explicit = int(codes.DIRECTIONS[record["explicit"]] == "to_data")
        if kind in (PERMUTATION, columns.COLUMNS):
            return self._row(KIND=kind), 0
        if kind == LU_LINEAR:
            return self._lu_step(record, explicit)
        n_a, n_b = record["n_a"], record["n_b"]
        refuse(kind != AUTOREGRESSIVE or n_b == self.dim, "an autoregressive layer on some of the dimensions")
        parts = table.parts[record["part"] : record["part"] + record["n_parts"]]
        slots_a, slots_b = self._ints(record["a"], n_a), self._ints(record["b"], n_b)
        a, b = self._put(slots_a), self._put(slots_b)
        runs = self._runs(parts, n_b, slots_b, record["params"])
        n_values = sum(part["n_theta"] * part["n_members"] for part in parts)
        self.widest_theta = max(self.widest_theta, n_values)
        self.widest = max(self.widest, n_values)
        self.flops += 32 * n_b
        fields = {
            "EXPLICIT_TO_DATA": explicit, "N_THETA": n_values, "N_A": n_a, "N_B": n_b, "A": a, "B": b,
            "LINEAR": len(self._linear), "RUNS": len(self._run_rows), "N_RUNS": len(runs), "PARAMS": record["params"],
            "INPUT": n_b * TILE, "FEATURES": self._features(slots_b[:-1] if kind == AUTOREGRESSIVE else slots_a),
        }  # fmt: skip
        self._run_rows += runs
        if record["network"] != NONE:
            return self._conditioned_step(record, fields)
        external = parts[0]["external"]
        if external != NONE:
            refuse(external == len(self.externals), "an external theta that several steps share")
            self.external[k] = n_values
            fields |= {"CONDITIONER": EXTERNAL, "EXTERNAL_AT": self.n_external * TILE}
            self.n_external += n_values
        else:
            fields |= {"CONDITIONER": FREE, "GRAD": self.n_gradient}
            self._claim(record["params"], 1, n_values)
        return self._row(KIND=ELEMENTWISE, THETA=n_b * TILE, **fields), (n_b + n_values) * TILE

    def _runs(self, parts: list[Record], n_b: int, slots: list[int], params: int) -> list[list[int]]:
        """Rows of Plan.runs: members of B that follow each other and belong to one part."""
        part_of, place_of = np.zeros(n_b, np.int64), np.zeros(n_b, np.int64)  # and where theta of each member begins
        for p, part in enumerate(parts):
            refuse(part["source"] == parts[0]["source"], "several sources of theta in one step")
            refuse(part["external"] == parts[0]["external"], "several external thetas in one step")
            start = part["params"] - params if codes.SOURCES[part["source"]] == "free" else 0
            members = self._ints(part["members"], part["n_members"])
            part_of[members] = p
            place_of[members] = np.array(self._ints(part["theta"], part["n_members"])) + start
        runs: list[list[int]] = []
        for j, (p, place) in enumerate(zip(part_of.tolist(), place_of.tolist(), strict=True)):
            part = parts[p]
            self._check_transform(part, slots[j])
            if j and part_of[j - 1] == p and place == place_of[j - 1] + part["n_theta"]:
                runs[-1][columns.RUN_TO] = j + 1
                continue
            run = [0] * columns.RUN_SIZE
            run[columns.RUN_FROM], run[columns.RUN_TO], run[columns.RUN_TRANSFORM] = j, j + 1, part["transform"]
            run[columns.RUN_N_THETA], run[columns.RUN_OPTIONS] = part["n_theta"], part["options"]
            run[columns.RUN_THETA] = place
            runs.append(run)
        return runs

    def _check_transform(self, part: Record, slot: int) -> None:
        """A circle and a box have the splines that map them to themselves."""
        kind = int(self.ends.kinds[slot])
        if kind == LINE:
            return
        name, wanted, bound, shown = {
            CIRCLE: ("circle", "circular_rational_quadratic", math.pi, "pi"),
            BOX: ("box", "box_rational_quadratic", 1.0, "1"),
        }[kind]
        known = TRANSFORMS[part["transform"]].name
        refuse(known == wanted, f"on a {name} transform {known}")
        fine = self.table.reals[part["options"] + 1] == bound
        refuse(fine, f"on a {name} splines of another bound than {shown}")

    def _features(self, read: list[int]) -> int:
        """Features of the dimensions that a conditioner reads, where there are circles among them; else -1."""
        features = np.where(self.ends.kinds[read] == CIRCLE, 2, 1)
        return self._put([0, *np.cumsum(features).tolist()]) if (features > 1).any() else NONE

    def _conditioned_step(self, record: Record, fields: dict[str, int]) -> tuple[list[int], int]:
        """The same of a step with a network. An elementwise one is a coupling whose A is empty."""
        network, n_a, n_b = self.table.networks[record["network"]], record["n_a"], record["n_b"]
        masked = network["masked"]
        refuse(network["n_context"] == self.n_context, "conditioners that ignore the context")
        n_u, first = network["n_in"], len(self._linear)
        conditioner, activation, size = self._network(network, (n_b + n_u) * TILE, n_b)
        start = self.context_part_size
        self.context_part_size += self._linear[first][N_OUT] if n_a or masked else network["n_out"]
        row = self._row(
            KIND=AUTOREGRESSIVE if masked else COUPLING, CONDITIONER=conditioner, ACTIVATION=activation,
            N_LINEAR=network["n_linears"], N_U=n_u, THETA=self._linear[-1][OUTPUT], N_CONTEXT=network["n_context"],
            START=start, **fields,
        )  # fmt: skip
        return row, size

    def _lu_step(self, record: Record, explicit: int) -> tuple[list[int], int]:
        """The same for an LU layer. Its gradient: M above the diagonal, M below it, (n, stride) each, the diagonal, b."""
        n, params, grad, b = record["n_b"], record["params"], self.n_gradient, len(self._slots)
        for kind in self.ends.kinds[self._ints(record["b"], n)].tolist():
            refuse(kind == LINE, f"an LU layer on dimensions of kind {codes.COLUMN_KINDS[kind]}")
        for field in ("b", "order", "signs"):
            self._slots += self._ints(record[field], n)
        stride = padded(n)
        row, column = np.indices((n, n))
        beside = grad + row * stride + column + np.where(column < row, n * stride, 0)
        diagonal = grad + 2 * n * stride + column
        self.index[params : params + n * n] = np.where(row == column, diagonal, beside).ravel()
        self.index[params + n * n : params + n * n + n] = grad + (2 * n + 1) * stride + np.arange(n)
        self.n_gradient += (2 * n + 2) * stride
        self.widest = max(self.widest, n)
        self.flops += 2 * n * n
        step = self._row(
            KIND=LU_LINEAR, EXPLICIT_TO_DATA=explicit, N_B=n, A=b, B=b, LINEAR=len(self._linear), PARAMS=params, GRAD=grad,
            INPUT=n * TILE, THETA=2 * n * TILE, ORDER=b + n, SIGNS=b + 2 * n,
        )  # fmt: skip
        return step, 4 * n * TILE

    def _embedding(self) -> tuple[list[int], int]:
        """The same for the embedding: nothing if there is none."""
        number, first = self.table.flow["embedding"], len(self._linear)
        if number == NONE:
            return self._row(KIND=PERMUTATION, N_U=self.ends.n_features, LINEAR=first), 0
        network = self.table.networks[number]
        conditioner, activation, size = self._network(network, self.ends.n_features * TILE, 0)
        row = self._row(
            KIND=PERMUTATION, N_THETA=self.n_context, CONDITIONER=conditioner, ACTIVATION=activation,
            N_LINEAR=network["n_linears"], N_U=self.ends.n_features, LINEAR=first, PARAMS=network["params"],
            THETA=self._linear[-1][OUTPUT],
        )  # fmt: skip
        return row, size

    def _base_steps(self) -> list[tuple[list[int], int]]:
        """The same for each block of the base that has learned something."""
        found = []
        for i, (record, n) in enumerate(zip(self.table.base, self.ends.n_numbers, strict=True)):
            if n == 0:
                continue
            self.ends.base[i, columns.BLOCK_STEP] = self.n_steps + 1 + len(found)
            self.widest_theta, self.widest = max(self.widest_theta, n), max(self.widest, n)
            self.flops += 60 * n
            fields = {
                "KIND": columns.NUMBERS_OF_BASE, "N_THETA": n, "PARAMS": record["params"], "LINEAR": len(self._linear),
            }  # fmt: skip
            if record["network"] == NONE:
                grad = self._claim(record["params"], 1, n)
                found.append((self._row(CONDITIONER=FREE, GRAD=grad, **fields), n * TILE))
                continue
            network = self.table.networks[record["network"]]
            refuse(network["n_context"] == self.n_context, "conditioners that ignore the context")
            conditioner, activation, size = self._network(network, network["n_in"] * TILE, 0)
            row = self._row(
                CONDITIONER=conditioner, ACTIVATION=activation, N_LINEAR=network["n_linears"], N_U=network["n_in"],
                THETA=self._linear[-1][OUTPUT], N_CONTEXT=network["n_context"], START=self.context_part_size, **fields,
            )  # fmt: skip
            self.context_part_size += n
            found.append((row, size))
        return found

    def _network(self, network: Record, at: int, n_degrees: int) -> tuple[int, int, int]:
        """Rows of Plan.linear, with places from ``at`` on; kind and activation, and the end of the places."""
        linears = self.table.linears[network["linear"] : network["linear"] + network["n_linears"]]
        conditioner, activation = self._kind(linears)
        starts = self._degree_starts(linears, network, n_degrees) if network["masked"] else []
        gradient = network["n_in"] * TILE
        for i, linear in enumerate(linears):
            n_in, n_out, last = linear["n_in"], linear["n_out"], i + 1 == len(linears)
            for marks in (self.decay, self.frozen):
                rows = marks[linear["weight"] : linear["weight"] + n_in * n_out].reshape(-1, n_out)
                refuse(bool((rows == rows[:, :1]).all()), "flags that change within a row of weights")
            grad_weight = self._claim(linear["weight"], n_in, n_out)
            grad_bias = self._claim(linear["bias"], 1, n_out)
            keeps = not last and (conditioner == RESIDUAL_MLP or activation in (SILU, GELU))
            derivative = at + n_out * TILE if keeps else -1
            tied = starts[i : i + 2] or [-1, -1]
            self._linear.append([
                n_in, n_out, linear["weight"], linear["bias"], grad_weight, grad_bias, padded(n_out), at, derivative,
                gradient, *tied,
            ])  # fmt: skip
            if not last:
                gradient += n_out * TILE
            at += n_out * TILE * (2 if keeps else 1)
            self.widest = max(self.widest, n_in, n_out)
            self.flops += 2 * n_in * n_out
        if starts:
            self.widest_masked = max(self.widest_masked, gradient // TILE)
        return conditioner, activation, at

    def _kind(self, linears: list[Record]) -> tuple[int, int]:
        """Whether a network is plain or residual, and the activation of its hidden layers."""
        last = len(linears) - 1
        residual = last > 1 and linears[1]["skip"] != 0
        activation = linears[0]["activation"] if last else columns.RELU
        for i, linear in enumerate(linears):
            skip = codes.SKIPS[linear["skip"]]
            refuse(linear["gate"] == NONE, "gates")
            refuse(skip != "before_activation", "skips before the activation")
            refuse(linear["activation_before"] == 0, "activations before a linear layer")
            refuse(linear["bias"] != NONE, "linear layers without a bias")
            refuse(linear["source"] == (i - 1 if i else codes.INPUT), "networks that are no chain of linear layers")
            skips = residual and 0 < i < last
            refuse((skip != "none") == skips, "skips in some of the hidden layers")
            refuse(not skips or linear["skip_source"] == i - 1, "skips over more than one layer")
            if i < last:
                code = linear["activation"]
                refuse(columns.RELU <= code <= LEAKY_RELU, f"activation {codes.ACTIVATIONS[code]}")
                refuse(code == activation, "networks with several activations")
            if linear["out_degrees"] != NONE:
                inputs = self._ints(linear["in_degrees"], linear["n_in"])
                outputs = self._ints(linear["out_degrees"], linear["n_out"])
                refuse(outputs == sorted(outputs), "degrees that do not rise")
                refuse(not skips or outputs == inputs, "degrees of a residual network that differ")
        return RESIDUAL_MLP if residual else MLP, activation

    def _degree_starts(self, linears: list[Record], network: Record, n_degrees: int) -> list[int]:
        """Where in the slots stand the numbers of the first feature of each degree: of the input, hidden layers, theta."""
        for linear in linears:
            numbers = INPUT_BYTES * linear["n_in"] + PIECE_BYTES * (linear["n_in"] + linear["n_out"])
            self.mask_bytes += DEGREE_BYTES * (n_degrees + 1) + numbers
        refuse(self.mask_bytes <= self.mask_bytes_max, "masks of this size")
        layers = [self._ints(linears[0]["in_degrees"], network["n_in"])]
        layers += [self._ints(linear["out_degrees"], linear["n_out"]) for linear in linears]
        starts = []
        for degrees in layers:
            starts.append(len(self._slots))
            self._slots += np.searchsorted(degrees, np.arange(n_degrees + 1)).tolist()
        return starts

    def _claim(self, params: int, rows: int, n: int) -> int:
        """Room in a padded gradient for (rows, n) parameters."""
        at, stride = self.n_gradient, padded(n)
        self.index[params : params + rows * n] = (at + np.arange(rows)[:, None] * stride + np.arange(n)).ravel()
        self.n_gradient += rows * stride
        return at

    def _put(self, values: list[int]) -> int:
        """Integers into the slots; where they begin."""
        self._slots += values
        return len(self._slots) - len(values)

    def _ints(self, at: int, n: int) -> list[int]:
        return self.table.ints[at : at + n]

    def _row(self, **fields: int) -> list[int]:
        row = [0] * STEP_SIZE
        row[columns.FEATURES] = NONE
        for name, value in fields.items():
            row[getattr(columns, name)] = value
        return row

    def _place(self, steps: Array, sizes: list[int]) -> None:
        """Every step its own area of the kept store for the way back, and one area for all where nothing is kept.

        That of the embedding comes last: every conditioner reads what it holds.
        """
        linear = np.array(self._linear, np.int64).reshape(-1, LINEAR_SIZE)
        self.steps, self.linear = steps.copy(), linear.copy()
        self.training_steps, self.training_linear = steps.copy(), linear.copy()
        starts = np.cumsum([0, *sizes]).tolist()
        for step, start in zip(self.training_steps, starts[:-1], strict=True):
            _move(step, self.training_linear, start)
        self.n_training_kept = starts[-1]
        embedding_size = sizes.pop(self.n_steps)
        _move(self.steps[self.n_steps], self.linear, max(sizes))
        self.n_kept = max(sizes) + embedding_size


def _move(step: Array, linear: Array, start: int) -> None:
    """Let the places of a step count from the beginning of the kept store."""
    step[[KEPT, INPUT, THETA]] += start
    layers = linear[step[LINEAR] : step[LINEAR] + step[N_LINEAR]]
    layers[:, OUTPUT] += start
    layers[:, DERIVATIVE] += np.where(layers[:, DERIVATIVE] >= 0, start, 0)
