"""The two ends of a checked table: its columns and its base.

Whatever the table says of them and this engine does not compute is refused here, by its name.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from penstock import plan_table as codes
from penstock._numba.core import plan
from penstock.plan_table import NONE, Record, Table

LINE, CIRCLE, BOX = range(len(codes.COLUMN_KINDS))
GROUPED = ("ordered", "simplex")


def refuse(fine: bool, what: str) -> None:
    """What this engine does not compute, unless ``fine``."""
    if not fine:
        raise ValueError(f"this engine does not compute {what}")


def next_to(dtype: Any, end: float, belongs: bool, may_round: bool, way: int) -> float:
    """The number of a type next to an end, upwards or (``way`` -1) downwards.

    Itself if it belongs to the support and is no number beyond the end, or may be.
    """
    most = np.finfo(dtype).max
    if np.isinf(end):
        return float(-way * most)
    near = dtype.type(np.clip(end, -most, most))
    beyond = float(near) < end if way > 0 else float(near) > end
    return float(near) if belongs and (may_round or not beyond) else float(np.nextafter(near, dtype.type(way * most)))


class Ends:
    """What kernels need of columns and base; ``slots`` are those of the blocks of the base."""

    def __init__(self, table: Table, dtype: Any) -> None:
        self.table, self.dtype = table, dtype
        self.slots: list[int] = []
        self.n_numbers: list[int] = []  # that are learned, of each block of the base
        self._columns()
        self._blocks()

    def _columns(self) -> None:
        """Columns: where each has its standardisation among the buffers, and what its map needs."""
        table, dim = self.table, self.table.flow["dim"]
        mapped: list[tuple[int, ...]] = []
        numbers: list[list[float]] = []
        own: list[int] = []
        for i, column in enumerate(table.columns):
            data, kind, of_map = column["side"] == 0, column["kind"], codes.COLUMN_MAPS[column["map"]]
            known = of_map in ("positive", "logit") or kind != LINE or (data and of_map in GROUPED)
            refuse(known or of_map == "identity", f"columns with map {of_map}")
            refuse(known or column["ends"] == 0, "columns with ends")
            refuse(kind == BOX or column["closed"] == 0, "columns with closed ends")
            refuse(column["lattice"] == NONE, "columns on a lattice")
            refuse(column["loc"] != NONE, "columns without a standardisation")
            refuse(known or column["n_buffers"] == 0, "columns with buffers of their own")
            if known and data and of_map not in GROUPED:
                mapped.append((i, column["map"], int(not column["ends"] & codes.LOWER), 0, NONE, plan.REAL))
                numbers.append(self._stored_between(column))
                own.append(column["buffers"] if column["n_buffers"] else NONE)
        self.n_alone = len(mapped)
        for members in self._groups():
            more = self._group(members)
            mapped += [of for of, _ in more]
            numbers += [row for _, row in more]
            own += [table.columns[i]["buffers"] if table.columns[i]["n_buffers"] else NONE for i in members]
        self.mapped = np.array(mapped, np.int64).reshape(-1, plan.MAPPED_SIZE)
        self.mapped_numbers = np.array(numbers, np.float64).reshape(-1, plan.NUMBERS_SIZE)
        self.mapped_buffers = np.array(own, np.int64)
        self._context(table.columns[dim:])
        places = np.array([(column["loc"], column["scale"]) for column in table.columns], np.int64)
        self.loc, self.scale = places[:dim].T.copy()
        self.context_loc, self.context_scale = places[dim:].T.copy()
        self.kinds = np.zeros(dim, np.int64)  # of the slots
        self.kinds[table.boundary[-1]] = [column["kind"] for column in table.columns[:dim]]

    def _context(self, columns: list[Record]) -> None:
        """Columns of the context: nothing is stored, and there is no density, so that an end counts as either type rounds it."""
        mapped, numbers, own, slots = [], [], [], [0]
        for i, column in enumerate(columns):
            slots.append(slots[-1] + (2 if codes.FEATURES[column["features"]] == "cos_sin" else 1))
            if codes.COLUMN_MAPS[column["map"]] != "identity":
                mapped.append((i, column["map"], int(not column["ends"] & codes.LOWER), 0, NONE, plan.REAL))
                row = self._between(column)
                row[plan.FIRST] = row[plan.FIRST + 1] = min(row[plan.FIRST : plan.FIRST + 2])
                row[plan.LAST] = row[plan.LAST + 1] = max(row[plan.LAST : plan.LAST + 2])
                numbers.append(row)
                own.append(column["buffers"] if column["n_buffers"] else NONE)
        self.n_features = slots.pop()
        self.context_slots = np.array(slots, np.int64)
        self.context_mapped = np.array(mapped, np.int64).reshape(-1, plan.MAPPED_SIZE)
        self.context_mapped_numbers = np.array(numbers, np.float64).reshape(-1, plan.NUMBERS_SIZE)
        self.context_mapped_buffers = np.array(own, np.int64)

    def _stored_between(self, column: Record) -> list[float]:
        """The same as ``_between``, of a column that is stored, too."""
        row = self._between(column)
        lo, hi, least, most = row[plan.LO], row[plan.HI], row[plan.LEAST], row[plan.MOST]
        wraps = codes.COLUMN_MAPS[column["map"]] == "wrap"
        fine = lo <= least if wraps or column["closed"] & codes.LOWER else lo < least
        fine = fine and (most <= hi if column["closed"] & codes.UPPER else most < hi)
        refuse(fine and least <= most, "columns between whose ends there is no number")
        return row

    def _between(self, column: Record) -> list[float]:
        """One row of Packed.mapped, but for what buffers decide: what is stored lies between the numbers within.

        An end that does not belong to the support counts as the type of the flow rounds it.
        """
        of_map, closed = codes.COLUMN_MAPS[column["map"]], column["closed"]
        table = self.table
        lo = table.reals[column["lo"]] if column["ends"] & codes.LOWER else -np.inf
        hi = table.reals[column["hi"]] if column["ends"] & codes.UPPER else np.inf
        belongs = of_map == "wrap" or bool(closed & codes.LOWER), bool(closed & codes.UPPER)

        def ends(dtype: Any, may_round: bool) -> tuple[float, float]:
            return next_to(dtype, lo, belongs[0], may_round, 1), next_to(dtype, hi, belongs[1], may_round, -1)

        least, most = ends(self.dtype, False)
        row = [0.0] * plan.NUMBERS_SIZE
        row[plan.LO], row[plan.HI], row[plan.LEAST], row[plan.MOST] = lo, hi, least, most
        row[plan.SCALE] = {"logit": hi - lo, "wrap": (hi - lo) / (2 * math.pi)}.get(of_map, 1.0)
        row[plan.MIDDLE] = lo + 0.5 * (hi - lo) if of_map == "wrap" else 0.0
        # which rows count as within: an end of a box belongs to it, or does not, as the type of the rows rounds it
        for item, dtype in enumerate((np.dtype(np.float32), np.dtype(np.float64))):
            first, last = ends(dtype if of_map == "box" else np.dtype(np.float64), True)
            if of_map == "wrap":
                first, last = -np.inf, np.inf
            row[plan.FIRST + item], row[plan.LAST + item] = first, last
        return row

    def _groups(self) -> list[list[int]]:
        """Members of each group, from the first on."""
        columns = self.table.columns
        after = {column["group"]: i for i, column in enumerate(columns) if column["group"] != NONE}
        found = []
        for i, column in enumerate(columns):
            if codes.COLUMN_MAPS[column["map"]] in GROUPED and column["group"] == NONE:
                members = [i]
                while members[-1] in after:
                    members.append(after[members[-1]])
                found.append(members)
        return found

    def _group(self, members: list[int]) -> list[tuple[tuple[int, ...], list[float]]]:
        """Rows of Plan.mapped and Packed.mapped of a group, from the first member on.

        Between the least and the most number of each there is room, in the type of the flow, for those before it and those
        behind.
        """
        column, n = self.table.columns[members[0]], len(members)
        simplex, both = codes.COLUMN_MAPS[column["map"]] == "simplex", codes.LOWER | codes.UPPER
        lo, hi = (0.0, 1.0) if simplex else (-np.inf, np.inf)
        lo = self.table.reals[column["lo"]] if column["ends"] & codes.LOWER else lo
        hi = self.table.reals[column["hi"]] if column["ends"] & codes.UPPER else hi
        mirrored, numbers = simplex or column["ends"] == codes.UPPER, np.finfo(self.dtype)
        least, most, room = np.zeros(n, self.dtype), np.ones(n, self.dtype), float(numbers.tiny)
        if simplex:
            least[:] = room
        else:
            low, high = next_to(self.dtype, lo, False, False, 1), next_to(self.dtype, hi, False, False, -1)
            least[0], most[-1] = low, high
            for i in range(1, n):
                least[i] = np.nextafter(least[i - 1], numbers.max)
                most[n - 1 - i] = np.nextafter(most[n - i], numbers.min)
        fine = lo < least[0] and least[-1] <= most[-1] and (simplex or most[-1] < hi)
        refuse(bool(fine), "columns between whose ends there is no number")
        found: list[tuple[tuple[int, ...], list[float]]] = []
        for j, i in enumerate(members):
            first, size = j == 0, n - 1 - j if mirrored else j
            shape = plan.INTERVAL if simplex or column["ends"] == both else plan.HALF_LINE
            shape = plan.REAL if first and not simplex and column["ends"] == 0 else shape
            row = [0.0] * plan.NUMBERS_SIZE
            row[plan.LO], row[plan.HI], row[plan.SCALE], row[plan.ROOM] = lo, hi, 1.0, (n - j) * room
            row[plan.LEAST], row[plan.MOST] = float(least[size]), float(most[size])
            before = self.table.columns[i]["group"]
            found.append(((i, column["map"], int(mirrored), int(first), before, shape), row))
        return found

    def _blocks(self) -> None:
        """Blocks of the base."""
        base: list[list[int]] = []
        numbers: list[float] = []
        fixed: list[float] = []
        self.n_normals = 0
        table = self.table
        for block in table.base:
            name = codes.BASES[block["kind"]]
            dims = sorted(table.ints[block["dims"] : block["dims"] + block["n_dims"]])
            kind = int(self.kinds[dims[0]])
            refuse(bool((self.kinds[dims] == kind).all()), "a block of the base on dimensions of several kinds")
            row = [0] * plan.BLOCK_SIZE
            row[plan.BLOCK_KIND], row[plan.BLOCK_CIRCLE] = block["kind"], int(kind == CIRCLE)
            row[plan.BLOCK_N], row[plan.BLOCK_DIMS] = len(dims), len(self.slots)
            row[plan.BLOCK_COMPONENTS], row[plan.BLOCK_STEP], row[plan.BLOCK_FIXED] = 1, NONE, NONE
            row[plan.BLOCK_NUMBERS] = len(numbers)
            n_numbers = 0
            if name == "uniform":
                numbers += self._uniform(block, kind)
            else:
                refuse(kind == LINE, f"a base other than uniform on dimensions of kind {codes.COLUMN_KINDS[kind]}")
                n_numbers, own, held = self._numbers(block, row)
                numbers += own
                if held:
                    row[plan.BLOCK_FIXED] = plan.BLOCK_NUMBERS_SIZE * len(table.base) + len(fixed)
                    fixed += held
                if name != "student_t":
                    self.n_normals = max(self.n_normals, dims[-1] + 1)
            base.append(row)
            self.n_numbers.append(n_numbers)
            self.slots += dims
        self.base = np.array(base, np.int64)
        self.base_numbers = np.array([*numbers, *fixed], np.float64)

    def _numbers(self, block: Record, row: list[int]) -> tuple[int, list[float], list[float]]:
        """Of a block other than a uniform one: how many numbers are learned, its own ones, and those that are fixed."""
        name, n = codes.BASES[block["kind"]], block["n_dims"]
        options = self.table.reals[block["options"] : block["options"] + block["n_options"]]
        own = [0.0] * plan.BLOCK_NUMBERS_SIZE
        if name == "student_t":
            own[plan.BLOCK_LO], own[plan.BLOCK_HI] = options[:2]
            fixed = list(options[2:])
            return 0 if fixed else n, own, fixed
        if name == "gaussian_mixture":
            row[plan.BLOCK_COMPONENTS] = K = int(options[0])
            return K * (1 + 2 * n), own, []
        return 2 * n * (name == "normal"), own, []

    def _uniform(self, block: Record, kind: int) -> list[float]:
        """One row of Plan.base_numbers."""
        lo, hi = self.table.reals[block["options"] : block["options"] + 2]
        side = math.pi if kind == CIRCLE else 1.0
        fine = kind == LINE or (lo, hi) == (-side, side)
        refuse(fine, f"a uniform base of another width on dimensions of kind {codes.COLUMN_KINDS[kind]}")
        with np.errstate(over="ignore"):
            low, high, width = (self.dtype.type(number) for number in (lo, hi, hi - lo))
            refuse(bool(np.isfinite([low, high, high - low]).all()), "a uniform base of this width")
        least, most = (low, high) if kind == CIRCLE else (np.nextafter(low, high), np.nextafter(high, low))
        refuse(bool(least <= most), "a uniform base between whose ends there is no number")
        return [-block["n_dims"] * math.log(hi - lo), *map(float, (low, high, width, least, most))]
