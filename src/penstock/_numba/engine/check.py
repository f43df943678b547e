"""Checks the records of a plan table, in the order in which they claim parameters, lists and each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core.plan import MOST_COMPONENTS
from penstock._numba.engine.check_groups import check_groups
from penstock._numba.engine.check_networks import COUNT_MAX, OUTPUT_MAX, WIDTH_MAX, check_linears
from penstock._numba.engine.record import Record, covers, fail, is_permutation
from penstock._numba.transforms import TRANSFORMS
from penstock.plan_table import FIELDS, NONE

Array = np.ndarray[Any, Any]

DIM_MAX = 2**24
CONTEXT_DIM_MAX = 2**20
OPTIONS_MAX = 8
BINS_MAX = 64

CONDITIONER, EMBEDDING, BASE = range(len(codes.ROLES))
PERMUTATION, ELEMENTWISE, COUPLING, COLUMNS, LU_LINEAR, AUTOREGRESSIVE = range(len(codes.STEP_KINDS))
FREE, NETWORK, EXTERNAL, FIXED = range(len(codes.SOURCES))
LINE, CIRCLE, BOX = range(len(codes.COLUMN_KINDS))


class Checker:
    """Goes through the sections of a table in the order in which they claim parameters, lists and each other."""

    def __init__(self, found: dict[str, Array]) -> None:
        self.found = found
        self.ints = found["INTS"].ravel()
        self.n_reals = len(found["REALS"])
        self.reals = np.ascontiguousarray(found["REALS"].ravel()).view(np.float64)
        self.params = self.n_parts = self.n_networks = self.n_linears = 0  # claimed so far
        self.externals: dict[int, tuple[list[int], list[int]]] = {}  # starts and sizes of what parts claim of each

    def records(self, section: str) -> list[Record]:
        """All of a section."""
        names = FIELDS[section]
        rows = self.found[section][:, : len(names)].tolist()
        return [Record(section, i, dict(zip(names, row, strict=True))) for i, row in enumerate(rows)]

    def claim(self, record: Record, n: int) -> None:
        """The next ``n`` parameters are those of a record."""
        record.need(record["params"] == self.params, "params", f"is {record['params']}, not {self.params}")
        record.need(record["n_params"] == n, "n_params", f"is {record['n_params']}, not {n}")
        self.params += n
        record.need(self.params <= self.n_params, "n_params", "goes beyond those of the flow")

    def check(self) -> None:
        """All of it."""
        self.flow()
        self.boundary()
        self.parts, self.networks = self.records("PARTS"), self.records("NETWORKS")
        self.linears = self.records("LINEARS")
        self.columns()
        # features of what lies in each slot
        self.features = np.ones(self.dim, np.int64)
        self.features[self.found["BOUNDARY"][-1]] = [
            column["features"] + 1 for column in self.records("COLUMNS")[: self.dim]
        ]
        steps = self.records("STEPS")
        for step in steps:
            self.step(step, step.number == len(steps) - 1)
        for number, (starts, sizes) in self.externals.items():
            if not covers(starts, sizes, sum(sizes)):
                fail(f"PARTS: theta of external array {number} overlaps or leaves a gap")
        if self.embedding != NONE:
            network = self.network(self.flow_record, "embedding", EMBEDDING, np.zeros(0, np.int64), self.n_context)
            self.claim(network, network["n_params"])
        self.base()
        for name, count in (("PARTS", self.n_parts), ("NETWORKS", self.n_networks), ("LINEARS", self.n_linears)):
            if count != len(self.found[name]):
                fail(f"{name}: {len(self.found[name])} records, of which {count} are used")
        if self.params != self.n_params:
            fail(f"FLOW 0: n_params is {self.n_params}, the records claim {self.params}")
        self.ranges()

    def flow(self) -> None:
        """FLOW: sizes and dtypes."""
        flows = self.records("FLOW")
        if len(flows) != 1:
            fail(f"FLOW: {len(flows)} records, expected 1")
        self.flow_record = flow = flows[0]
        self.dim = flow.within("dim", 1, DIM_MAX)
        self.context_dim = flow.within("context_dim", 0, CONTEXT_DIM_MAX)
        self.n_params = flow.within("n_params", 0, COUNT_MAX - 1)
        self.n_buffers = flow.within("n_buffers", 0, COUNT_MAX - 1)
        flow.within("dtype", 0, 1)
        flow.code("conditioner_dtype", codes.DTYPES)
        self.embedding = flow.within("embedding", NONE, len(self.found["NETWORKS"]) - 1)

    def boundary(self) -> None:
        """BOUNDARY: a permutation of the slots between any two steps."""
        rows, n_steps = self.found["BOUNDARY"], len(self.found["STEPS"])
        if n_steps < 1:
            fail("STEPS: no records")
        if rows.shape != (n_steps + 1, self.dim):
            fail(f"BOUNDARY: {rows.shape[0]} records of {rows.shape[1]} words, expected {n_steps + 1} of {self.dim}")
        for k, row in enumerate(rows):
            if not is_permutation(row, self.dim):
                fail(f"BOUNDARY {k}: not a permutation of the slots")

    def columns(self) -> None:
        """COLUMNS: sides, ends, and the buffers, each of which belongs to one column."""
        columns = self.records("COLUMNS")
        if len(columns) != self.dim + self.context_dim:
            fail(f"COLUMNS: {len(columns)} records, expected {self.dim + self.context_dim}")
        starts, counts = [], []
        self.n_features = 0  # of the context
        for column in columns:
            column.within("side", *[int(column.number >= self.dim)] * 2)
            kind = column.code("kind", codes.COLUMN_KINDS)
            column.code("map", codes.COLUMN_MAPS)
            features = column.code("features", codes.FEATURES)
            self.n_features += (features + 1) * column["side"]
            ends = column.within("ends", 0, codes.LOWER | codes.UPPER)
            closed = column.within("closed", 0, codes.LOWER | codes.UPPER)
            column.need(closed & ~ends == 0, "closed", "names an end that the column does not have")
            column.need(kind == LINE or ends == codes.LOWER | codes.UPPER, "ends", "must be both")
            for field, bit in (("lo", codes.LOWER), ("hi", codes.UPPER)):
                if ends & bit:
                    column.within(field, 0, self.n_reals - 1)
                else:
                    column.within(field, NONE, NONE)
            column.within("lattice", NONE, self.n_reals - 1)
            column.within("group", NONE, len(columns) - 1)
            for field in ("loc", "scale"):
                column.within(field, NONE, self.n_buffers - 1)
            column.need((column["loc"] == NONE) == (column["scale"] == NONE), "scale", "must be there with loc alone")
            own = column.within("n_buffers", 0, self.n_buffers)
            self.map(column)
            starts += [column["loc"], column["scale"], column.span("buffers", own, self.n_buffers, "the buffers")]
            counts += [int(column["loc"] != NONE), int(column["scale"] != NONE), own]
        check_groups(columns, self.reals)
        if not covers(starts, counts, self.n_buffers):
            fail("COLUMNS: buffers are claimed twice, or not at all")
        # what conditioners read of the context
        self.n_context = self.n_features
        if self.embedding != NONE:
            self.n_context = self.networks[self.embedding].within("n_out", 1, WIDTH_MAX)

    def map(self, column: Record) -> None:
        """A half-line has one end and a scale, an interval both ends and no buffer.

        A circle is wrapped and read by its cosine and sine, and a box has two numbers of its own.
        """
        of_map, ends, both = codes.COLUMN_MAPS[column["map"]], column["ends"], codes.LOWER | codes.UPPER
        kind = column["kind"]
        if of_map in ("positive", "logit"):
            column.within("kind", LINE, LINE)
            fine = ends == both if of_map == "logit" else ends in (codes.LOWER, codes.UPPER)
            column.need(fine, "ends", "are not those of its map")
            column.within("n_buffers", *[int(of_map == "positive")] * 2)
        fine = (of_map == "wrap") == (kind == CIRCLE) and (of_map == "box") == (kind == BOX)
        column.need(fine, "map", "is not of its kind")
        column.within("features", *[int(kind == CIRCLE)] * 2)
        if kind != LINE:
            column.within("n_buffers", *[2 if kind == BOX else 0] * 2)
        if kind == CIRCLE:
            column.within("closed", 0, 0)
        found = [-1.0, 1.0]
        for i, (field, bit) in enumerate((("lo", codes.LOWER), ("hi", codes.UPPER))):
            if ends & bit:
                found[i] = float(self.reals[column[field]])
                column.need(bool(np.isfinite(found[i])), field, "is not finite")
        with np.errstate(over="ignore"):
            fine = found[0] < found[1] and bool(np.isfinite(np.float64(found[1]) - found[0]))
        column.need(ends != both or fine, "hi", "is not above lo")

    def step(self, step: Record, last: bool) -> None:
        """STEPS: what a step reads, changes, and owns."""
        kind = step.code("kind", codes.STEP_KINDS)
        step.need((kind == COLUMNS) == last, "kind", "must be columns in the last step and there alone")
        step.code("explicit", codes.DIRECTIONS)
        n_a, n_b = step.within("n_a", 0, self.dim), step.within("n_b", 0, self.dim)
        slots = np.concatenate([step.ints(self.ints, "a", n_a), step.ints(self.ints, "b", n_b)])
        fine = np.all((slots >= 0) & (slots < self.dim)) and np.unique(slots).size == slots.size
        step.need(bool(fine), "b", "and a must hold different slots")
        n_parts = step.within("n_parts", 0, len(self.parts))
        if kind != LU_LINEAR:
            for field in ("order", "signs"):
                step.within(field, 0, 0)
        if kind in (PERMUTATION, COLUMNS):
            for field in ("explicit", "a", "n_a", "b", "n_b", "part", "n_parts"):
                step.within(field, 0, 0)
            step.within("network", NONE, NONE)
            self.claim(step, 0)
            return
        step.need(n_b > 0, "n_b", "is 0")
        if kind == LU_LINEAR:
            for field in ("a", "n_a", "part", "n_parts"):
                step.within(field, 0, 0)
            step.within("network", NONE, NONE)
            step.need(is_permutation(step.ints(self.ints, "order", n_b), n_b), "order", "is not a permutation")
            signs = step.ints(self.ints, "signs", n_b)
            step.need(bool(np.all((signs == 1) | (signs == -1))), "signs", "must be 1 or -1")
            self.claim(step, n_b * (n_b + 1))
            return
        step.need(n_a > 0 if kind == COUPLING else n_a == 0, "n_a", f"is {n_a}")
        step.need(n_parts > 0, "n_parts", "is 0")
        step.within("part", self.n_parts, self.n_parts)
        step.need(n_parts <= len(self.parts) - self.n_parts, "n_parts", "goes beyond PARTS")
        self.theta(step, kind, self.parts[self.n_parts : self.n_parts + n_parts])

    def theta(self, step: Record, kind: int, parts: list[Record]) -> None:
        """The parts and the network of a step, and its parameters."""
        n_b = step["n_b"]
        self.n_parts += len(parts)
        network_starts: list[Array] = []
        network_counts: list[int] = []
        met = np.zeros(n_b, np.bool_)  # positions in B
        networked: list[tuple[Record, Array]] = []
        owned: list[tuple[int, int]] = []
        for part in parts:
            n_theta = self.part(part)
            n_members = part.within("n_members", 1, n_b)
            own = part.ints(self.ints, "members", n_members)
            starts = part.ints(self.ints, "theta", n_members)
            fine = bool(np.all((own >= 0) & (own < n_b))) and np.unique(own).size == own.size and not met[own].any()
            part.need(fine, "members", "must lie within B, each once")
            met[own] = True
            source, size = part.code("source", codes.SOURCES[:3]), n_members * n_theta
            part.need(
                bool(np.all((starts >= 0) & (starts <= COUNT_MAX))), "theta", "begins before or beyond its source"
            )
            if source == FREE:
                part.need(covers(starts.tolist(), [n_theta] * n_members, size), "theta", "must fill its parameters")
                part.within("n_params", size, size)
                owned.append((part["params"], size))
            else:
                part.within("params", 0, 0)
                part.within("n_params", 0, 0)
            if source == NETWORK:
                network_starts.append(starts)
                network_counts += [n_theta] * n_members
                networked.append((part, own))
            if source == EXTERNAL:
                number = part.within("external", 0, len(self.externals))
                known = self.externals.setdefault(number, ([], []))
                known[0].extend(starts.tolist())
                known[1].extend([n_theta] * n_members)
            else:
                part.within("external", NONE, NONE)
            allowed = kind == ELEMENTWISE or source == NETWORK
            part.need(allowed or kind == COUPLING, "source", "must be the network in an autoregressive step")
        step.need(bool(met.all()), "b", "must be shared out to the parts")
        read = step.ints(self.ints, "b", n_b)[:-1] if kind == AUTOREGRESSIVE else step.ints(self.ints, "a", step["n_a"])
        features = self.features[read]
        if network_starts:
            starts, size = np.concatenate(network_starts), sum(network_counts)
            step.need(size <= OUTPUT_MAX, "network", f"has {size} outputs")
            step.need(covers(starts.tolist(), network_counts, size), "network", "has an output that parts do not fill")
            degrees = None
            if kind == AUTOREGRESSIVE:
                parts[0].need(size <= self.ints.size, "theta", "has no degrees in INTS")
                degrees = np.zeros(size, np.int64)
                for part, own in networked:
                    for member, start in zip(own, part.ints(self.ints, "theta", own.size), strict=True):
                        degrees[start : start + part["n_theta"]] = member
            step.within("network", self.n_networks, self.n_networks)
            network = self.network(step, "network", CONDITIONER, features, size, degrees)
            owned.append((network["params"], network["n_params"]))
        else:
            step.need(kind == ELEMENTWISE, "network", "is missing")
            step.within("network", NONE, NONE)
        total = sum(count for _, count in owned)
        fine = covers([start - self.params for start, _ in owned], [count for _, count in owned], total)
        step.need(fine, "params", "are not those of its parts and its network")
        self.claim(step, total)

    def part(self, part: Record) -> int:
        """PARTS: transform and options; n_theta."""
        transform = TRANSFORMS[part.code("transform", TRANSFORMS)]
        n_options = part.within("n_options", transform.n_options, transform.n_options)
        at = part.span("options", n_options, self.n_reals, "REALS")
        n_theta = transform.fixed
        if transform.a_bin:
            bins = float(self.reals[at])
            part.need(
                2 <= bins <= BINS_MAX and bins == int(bins), "options", f"begin with {bins} bins, not 2 to {BINS_MAX}"
            )
            n_theta += transform.a_bin * int(bins)
        return part.within("n_theta", n_theta, n_theta)

    def network(
        self, owner: Record, field: str, role: int, read: Array, n_out: int, degrees: Array | None = None
    ) -> Record:
        """NETWORKS: the next one, which reads the context and dimensions of a row, each with so many features."""
        owner.within(field, self.n_networks, self.n_networks)
        owner.need(self.n_networks < len(self.networks), field, "goes beyond NETWORKS")
        network = self.networks[self.n_networks]
        self.n_networks += 1
        network.within("role", role, role)
        network.within("masked", *[int(degrees is not None)] * 2)
        features = self.n_features if role == EMBEDDING else self.n_context
        n_context, n_read = network["n_context"], int(read.sum())
        network.need(n_context in (0, features), "n_context", f"is {n_context}, expected 0 or {features}")
        network.within("n_in", n_context + n_read, n_context + n_read)
        network.need(n_context + n_read > 0 or degrees is not None, "n_in", "is 0")
        network.within("n_out", n_out, n_out)
        network.need(n_out <= OUTPUT_MAX, "n_out", f"is {n_out}")
        n_linears = network.within("n_linears", 1, len(self.linears))
        network.within("linear", self.n_linears, self.n_linears)
        network.need(n_linears <= len(self.linears) - self.n_linears, "n_linears", "goes beyond LINEARS")
        linears = self.linears[self.n_linears : self.n_linears + n_linears]
        self.n_linears += n_linears
        check_linears(self.ints, network, linears, read, degrees)
        return network

    def base(self) -> None:
        """BASE: blocks that together hold every dimension of the latent."""
        held = []
        for block in self.records("BASE"):
            kind = block.code("kind", codes.BASES)
            n_dims = block.within("n_dims", 1, self.dim)
            held.append(block.ints(self.ints, "dims", n_dims))
            n_options = block.within("n_options", 0, self.n_reals)
            block.span("options", n_options, self.n_reals, "REALS")
            source = block.code("source", codes.SOURCES)
            block.need(source != EXTERNAL, "source", "cannot be external")
            n_params = block.within("n_params", 0, COUNT_MAX)
            n_numbers = self.numbers(block)
            if codes.BASES[kind] == "uniform":
                lo, hi = self.reals[block["options"] : block["options"] + 2].tolist()
                fine = bool(np.isfinite([lo, hi, hi - lo]).all()) and lo < hi
                block.need(fine, "options", "are not two ends in order")
            if source == FREE:
                block.within("n_params", n_numbers, n_numbers)
                self.claim(block, n_params)
            else:
                for field in ("params", "n_params"):
                    block.within(field, 0, 0)
            if source == NETWORK:
                number = block.within("network", 0, len(self.networks) - 1)
                self.networks[number].within("n_out", 1, OUTPUT_MAX)
                network = self.network(block, "network", BASE, np.zeros(0, np.int64), n_numbers)
                self.claim(network, network["n_params"])
            else:
                block.within("network", NONE, NONE)
        if not held or not is_permutation(np.concatenate(held), self.dim):
            fail("BASE: blocks must hold every dimension once")

    def numbers(self, block: Record) -> int:
        """Source and options of a block of the base; how many numbers it has that are learned."""
        name, source, n = codes.BASES[block["kind"]], block["source"], block["n_dims"]
        start = block["options"]
        fixed = (source == FIXED and name == "student_t") or name in ("standard_normal", "uniform")
        fits = source == FIXED if fixed else source in (FREE, NETWORK)
        block.need(fits, "source", "is not one that its kind may have")
        n_options = {"uniform": 2, "student_t": 2 + n * fixed, "gaussian_mixture": 1}.get(name, 0)
        block.within("n_options", n_options, n_options)
        options = self.reals[start : start + n_options].tolist()
        if name == "gaussian_mixture":
            components = options[0]
            fine = 2 <= components <= MOST_COMPONENTS and components == int(components)
            block.need(fine, "options", "are not a number of components")
            return int(components) * (1 + 2 * n)
        if name == "student_t":
            fine = 0.5 <= options[0] < options[1] <= 1e6
            block.need(fine, "options", "are not bounds of degrees of freedom")
            block.need(bool(np.isfinite(options).all()), "options", "are not finite")
            return 0 if fixed else n
        return 2 * n * (name == "normal")

    def ranges(self) -> None:
        """RANGES: they cover the flat vector in order."""
        used = 0
        for piece in self.records("RANGES"):
            piece.within("offset", used, used)
            used += piece.within("count", 0, self.n_params - used)
            piece.within("flags", 0, codes.DECAYS | codes.FROZEN)
        if used != self.n_params:
            fail(f"RANGES: they end at {used}, the parameters at {self.n_params}")
