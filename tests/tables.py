"""Plan tables written by hand, of what engines compute and of what they do not compute yet. Data for ``test_plan.py`` and
for the corpus of the fuzzer; nothing here asks an engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock import plan_table
from penstock.plan_table import CONTEXT, DECAYS, FROZEN, INPUT, LOWER, NONE, UPPER, Record, Table

Array = np.ndarray[Any, Any]

# Code, numbers of theta and options of transforms.
TRANSFORMS: dict[str, tuple[int, int, tuple[float, ...]]] = {
    "affine": (0, 2, (3.0,)),
    "additive": (1, 1, ()),
    "spline": (2, 11, (4.0, 5.0, 1e-3, 1e-3, 1e-3, 0.5408)),
    "circular": (3, 13, (4.0, math.pi, 1e-3, 1e-3, 1e-3, 0.5408)),
    "box": (4, 13, (4.0, 1.0, 1e-3, 1e-3, 1e-3, 0.5408)),
    "short circular": (3, 13, (4.0, 3.0, 1e-3, 1e-3, 1e-3, 0.5408)),
    "wide box": (4, 13, (4.0, 2.0, 1e-3, 1e-3, 1e-3, 0.5408)),
}


class Maker:
    """Writes tables step by step: claims parameters and lists in order, and knows nothing of what is allowed."""

    def __init__(
        self, dim: int = 3, context_dim: int = 0, dtype: str = "float64", n_context: int | None = None
    ) -> None:
        self.table = Table()
        self.dim, self.context_dim, self.dtype = dim, context_dim, plan_table.DTYPES.index(dtype)
        self.n_features = context_dim  # of the columns of the context
        self.n_context = context_dim if n_context is None else n_context  # what networks read of the context
        self.n_params = self.n_buffers = 0
        self.flags = 0  # of all parameters claimed from now on
        for i in range(dim + context_dim):
            self.column(i, loc=self.buffers(), scale=self.buffers())
        self.boundary(range(dim))

    def claim(self, n: int, flags: int = 0) -> int:
        """The next ``n`` parameters."""
        self.table.ranges.append({"offset": self.n_params, "count": n, "flags": flags | self.flags})
        self.n_params += n
        return self.n_params - n

    def buffers(self, n: int = 1) -> int:
        """The next ``n`` buffers."""
        self.n_buffers += n
        return self.n_buffers - n

    def column(self, i: int, **fields: int) -> None:
        """Another column, or other fields of column ``i``."""
        if i == len(self.table.columns):
            absent = dict.fromkeys(("lo", "hi", "lattice", "group", "loc", "scale"), NONE)
            self.table.columns.append({"side": int(i >= self.dim), **absent})
        self.table.columns[i] |= fields

    def ends(self, i: int, lo: float, hi: float, **fields: int) -> None:
        """A column with two ends."""
        at = self.table.put_reals((lo, hi))
        self.column(i, ends=LOWER | UPPER, lo=at, hi=at + 1, **fields)

    def boundary(self, slots: Sequence[int]) -> None:
        """The next boundary."""
        self.slots = tuple(slots)
        self.table.boundary.append(self.slots)

    def part(self, transform: str, members: Sequence[int], source: str = "free", start: int = 0, **fields: int) -> None:
        """A part of the next step, whose theta begins at ``start`` of its source."""
        code, n_theta, options = TRANSFORMS[transform]
        size = len(members) * n_theta
        self.table.parts.append(
            {
                "transform": code,
                "n_theta": n_theta,
                "options": self.table.put_reals(options),
                "n_options": len(options),
                "members": self.table.put(members),
                "n_members": len(members),
                "source": plan_table.SOURCES.index(source),
                "theta": self.table.put(range(start, start + size, n_theta)),
                "external": NONE,
                **({"params": self.claim(size), "n_params": size} if source == "free" else {}),
                **fields,
            }
        )

    def parts(self, transforms: Sequence[str], source: str = "free", **fields: int) -> int:
        """Parts of the next step from a transform for each member of B, theta in the order of B; how many."""
        starts = np.cumsum([0, *(TRANSFORMS[name][1] for name in transforms)]).tolist()
        for name in dict.fromkeys(transforms):
            members = [j for j, own in enumerate(transforms) if own == name]
            theta = {} if source == "free" else {"theta": self.table.put([starts[j] for j in members])}
            self.part(name, members, source, **theta, **fields)
        return len(set(transforms))

    def network(
        self, role: str, n_read: int, linears: Sequence[Record], degrees: Sequence[Sequence[int]] = (), **fields: int
    ) -> int:
        """A network; ``linears`` need no more than widths ``n_out`` and what is unlike a plain chain of relu layers."""
        table, start, first = self.table, self.n_params, len(self.table.linears)
        n_context = fields.pop("n_context", self.n_features if role == "embedding" else self.n_context)
        widths = {INPUT: n_context + n_read, CONTEXT: n_context}
        lists = [table.put(layer) for layer in degrees] or [NONE] * (len(linears) + 1)
        places = {INPUT: lists[0], **dict(enumerate(lists[1:]))}
        for i, linear in enumerate(linears):
            source = linear.get("source", i - 1 if i else INPUT)
            n_in, n_out = widths[source], linear["n_out"]
            widths[i] = n_out
            table.linears.append(
                {
                    "n_in": n_in,
                    "weight": self.claim(n_in * n_out, DECAYS),
                    "bias": NONE if "bias" in linear else self.claim(n_out),
                    "source": source,
                    "activation": plan_table.ACTIVATIONS.index("relu") if i + 1 < len(linears) else 0,
                    "skip_source": NONE,
                    "gate": NONE,
                    "in_degrees": places.get(source, NONE),
                    "out_degrees": lists[i + 1],
                    **linear,
                }
            )
        table.networks.append(
            {
                "role": plan_table.ROLES.index(role), "linear": first, "n_linears": len(linears), "n_in": n_context + n_read,
                "n_out": linears[-1]["n_out"], "n_context": n_context, "masked": int(bool(degrees)), "params": start,
                "n_params": self.n_params - start, **fields,
            }
        )  # fmt: skip
        return len(table.networks) - 1

    def step(
        self, kind: str, b: Sequence[int] = (), n_parts: int = 0, params: int | None = None, **fields: Any
    ) -> None:
        """A step that owns all parameters since ``params``, and the last ``n_parts`` parts."""
        start = self.n_params if params is None else params
        lists = {key: self.table.put(fields.pop(key)) for key in ("a", "order", "signs") if key in fields}
        self.table.steps.append(
            {
                "kind": plan_table.STEP_KINDS.index(kind),
                "params": start,
                "n_params": self.n_params - start,
                "b": self.table.put(b) if b else 0,
                "n_b": len(b),
                "part": len(self.table.parts) - n_parts if n_parts else 0,
                "n_parts": n_parts,
                "network": NONE,
                **lists,
                **fields,
            }
        )
        self.boundary(self.slots)

    def elementwise(self, transform: str = "affine", source: str = "free", **fields: int) -> None:
        """A step with one transform of all dimensions."""
        start = self.n_params
        self.part(transform, range(self.dim), source, **fields)
        self.step("elementwise", range(self.dim), 1, start)

    def coupling(self, linears: Sequence[Record] = (), transform: str = "affine", **fields: int) -> None:
        """A step in which slot 0 decides on all others."""
        start, n_b = self.n_params, self.dim - 1
        n_out = n_b * TRANSFORMS[transform][1]
        number = self.network("conditioner", 1, [*(linears or [{"n_out": 4}]), {"n_out": n_out}], **fields)
        self.part(transform, range(n_b), "network")
        self.step("coupling", range(1, self.dim), 1, start, network=number, a=[0], n_a=1)

    def autoregressive(
        self, b: Sequence[int], hidden: Sequence[int], output: Sequence[int] = (), **linear: int
    ) -> None:
        """A masked step on the slots ``b`` with two hidden layers of the same degrees."""
        start, n_b = self.n_params, len(b)
        inputs = [*[0] * self.n_context, *range(1, n_b)]
        theta = [*output] or [j for j in range(n_b) for _ in range(2)]
        linears = [{"n_out": len(hidden)}, {"n_out": len(hidden), **linear}, {"n_out": 2 * n_b}]
        number = self.network("conditioner", n_b - 1, linears, [inputs, hidden, hidden, theta])
        self.part("affine", range(n_b), "network")
        self.step("autoregressive", b, 1, start, network=number)

    def lu(self, b: Sequence[int], order: Sequence[int]) -> None:
        """An LU layer."""
        start = self.claim(len(b) * (len(b) + 1))
        self.step("lu_linear", b, params=start, order=order, signs=[1, -1, 1][: len(b)])

    def block(
        self, kind: str, dims: Sequence[int], source: str = "fixed", options: Sequence[float] = (), **fields: Any
    ) -> None:
        """A block of the base."""
        self.table.base.append(
            {
                "kind": plan_table.BASES.index(kind), "dims": self.table.put(dims), "n_dims": len(dims),
                "options": self.table.put_reals(options), "n_options": len(options),
                "source": plan_table.SOURCES.index(source), "network": NONE, **fields,
            }
        )  # fmt: skip

    def finish(
        self, embedding: Sequence[Record] = (), base: Callable[[Maker], None] | None = None, **flow: int
    ) -> Table:
        """The columns' step, the embedding, the base and the sizes."""
        self.step("columns")
        number = self.network("embedding", 0, embedding) if embedding else NONE
        if base is None:
            self.block("standard_normal", range(self.dim))
        else:
            base(self)
        self.table.flow = {
            "dim": self.dim, "context_dim": self.context_dim, "n_params": self.n_params, "n_buffers": self.n_buffers,
            "dtype": self.dtype, "conditioner_dtype": self.dtype, "embedding": number, **flow,
        }  # fmt: skip
        return self.table


HIDDEN = (0, 0, 1, 1)  # degrees of hidden units
SKIP = plan_table.SKIPS.index("after_activation")
BEFORE = plan_table.SKIPS.index("before_activation")


def everything(dtype: str = "float64") -> Table:
    """All that engines compute, in one flow of three dimensions and a context of two."""
    maker = Maker(3, 2, dtype, n_context=4)
    maker.elementwise("affine")
    maker.step("permutation")
    maker.table.boundary[-1] = maker.slots = (2, 0, 1)
    maker.coupling([{"n_out": 5}, {"n_out": 5, "skip": SKIP, "skip_source": 0}], "spline")
    maker.lu((2, 0, 1), (1, 0, 2))
    maker.elementwise("additive", "external", external=0)
    maker.flags = FROZEN
    maker.autoregressive((1, 0, 2), HIDDEN, skip=SKIP, skip_source=0)
    maker.flags = 0
    start = maker.n_params
    number = maker.network("conditioner", 0, [{"n_out": 3}, {"n_out": 6}])
    maker.part("affine", range(3), "network")
    maker.step("elementwise", (0, 1, 2), 1, start, network=number, explicit=1)
    maker.elementwise("affine", "external", external=1)
    return maker.finish(embedding=[{"n_out": 6}, {"n_out": 4}])


# Of the flow ``kinded``: kinds of columns, the slot of each at the data, and of slots kinds, features, transforms.
KINDS = ("line", "circle", "box", "line", "circle")
SLOTS = (0, 2, 1, 4, 3)
N_FEATURES = (1, 1, 2, 2, 1)
OWN = ("spline", "box", "circular", "circular", "spline")


def kinds_alone(maker: Maker, kinds: Sequence[str] = KINDS) -> None:
    """Columns of these kinds; what is no line lies within (-1, 1), and boxes have two numbers of their own."""
    for i, kind in enumerate(kinds):
        code = plan_table.COLUMN_KINDS.index(kind)
        if kind == "circle":
            maker.ends(i, -1.0, 1.0, kind=code, map=plan_table.COLUMN_MAPS.index("wrap"), features=1)
        elif kind == "box":
            own = {"buffers": maker.buffers(2), "n_buffers": 2}
            maker.ends(i, -1.0, 1.0, kind=code, map=plan_table.COLUMN_MAPS.index("box"), closed=LOWER | UPPER, **own)


def blocks(maker: Maker, kinds: Sequence[str], slots: Sequence[int]) -> None:
    """The base of these columns, in these slots."""
    for kind, name, options in (
        ("line", "standard_normal", ()),
        ("circle", "uniform", (-math.pi, math.pi)),
        ("box", "uniform", (-1.0, 1.0)),
    ):
        dims = sorted(slot for slot, own in zip(slots, kinds, strict=True) if own == kind)
        if dims:
            maker.block(name, dims, options=options)


def kinded(dtype: str = "float64") -> Table:
    """Circles, boxes and lines in every layer that acts on them or leaves them alone, and a context of two."""
    maker = Maker(5, 2, dtype)
    kinds_alone(maker)
    maker.step("elementwise", range(5), maker.parts(OWN), 0)
    maker.step("elementwise", (4, 0), maker.parts(("affine", "affine"), "external", external=0))
    start, b = maker.n_params, (4, 1, 2)
    own = [OWN[slot] for slot in b]
    n_out = sum(TRANSFORMS[name][1] for name in own)
    number = maker.network("conditioner", 3, [{"n_out": 4}, {"n_out": n_out}])
    maker.step("coupling", b, maker.parts(own, "network"), start, network=number, a=(0, 3), n_a=2)
    maker.step("permutation")
    maker.table.boundary[-1] = maker.slots = SLOTS
    maker.lu((4, 0), (1, 0))
    start, b = maker.n_params, (3, 1, 0, 2, 4)
    own = [OWN[slot] for slot in b]
    inputs = [0, 0, *(i + 1 for i, slot in enumerate(b[:-1]) for _ in range(N_FEATURES[slot]))]
    theta = [i for i, name in enumerate(own) for _ in range(TRANSFORMS[name][1])]
    hidden = (0, 1, 2, 3, 4, 4)
    number = maker.network(
        "conditioner", len(inputs) - 2, [{"n_out": 6}, {"n_out": len(theta)}], [inputs, hidden, theta]
    )
    maker.step("autoregressive", b, maker.parts(own, "network"), start, network=number)
    maker.step("elementwise", range(5), maker.parts(OWN, "external", external=1))
    return maker.finish(base=lambda maker: blocks(maker, KINDS, SLOTS))


def _kind(
    kind: str, transform: str, base: Callable[[Maker], None] | None = None, between: Sequence[float] = (-1.0, 1.0),
    lu: bool = False, dtype: str = "float64",
) -> Table:  # fmt: skip
    """A column of a kind between two lines, in a flow of one step."""
    kinds = ("line", kind, "line")
    maker = Maker(3, dtype=dtype)
    kinds_alone(maker, kinds)
    column = maker.table.columns[1]
    maker.table.reals[column["lo"] : column["lo"] + 2] = between
    if lu:
        maker.lu((1, 0), (0, 1))
    else:
        maker.step("elementwise", range(3), maker.parts(("affine", transform, "affine")), 0)
    return maker.finish(base=base or (lambda maker: blocks(maker, kinds, range(3))))


def _uniform(dims: Sequence[int], lo: float, hi: float) -> Callable[[Maker], None]:
    """A uniform block, and a normal one of all other dimensions of three."""

    def write(maker: Maker) -> None:
        maker.block("uniform", dims, options=(lo, hi))
        maker.block("standard_normal", [i for i in range(3) if i not in dims])

    return write


def _other_splines() -> Table:
    maker = Maker()
    maker.step("elementwise", range(3), maker.parts(("short circular", "wide box", "affine")), 0)
    return maker.finish()


def _normals(maker: Maker) -> None:
    maker.block("standard_normal", (1,))
    maker.block("standard_normal", (0, 2))


def _two_parts() -> Table:
    maker = Maker()
    maker.part("affine", (0, 2))
    maker.part("spline", (1,))
    maker.step("elementwise", range(3), 2, 0)
    return maker.finish()


def _parts_of_a_network() -> Table:
    maker = Maker(4)
    number = maker.network("conditioner", 1, [{"n_out": 4}, {"n_out": 11 + 2 + 1}])
    maker.part("spline", (2,), "network", 0)
    maker.part("affine", (0,), "network", 12)
    maker.part("additive", (1,), "network", 11)
    maker.step("coupling", (1, 2, 3), 3, 0, network=number, a=[0], n_a=1)
    return maker.finish()


def _parts_of_all_sources() -> Table:
    maker = Maker(4)
    number = maker.network("conditioner", 1, [{"n_out": 4}, {"n_out": 2}])
    maker.part("affine", (0,), "network")
    maker.part("affine", (2,))
    maker.part("additive", (1,), "external", external=0)
    maker.step("coupling", (1, 2, 3), 3, 0, network=number, a=[0], n_a=1)
    return maker.finish()


def _externals_of_a_step() -> Table:
    maker = Maker()
    maker.part("affine", (0, 1), "external", external=0)
    maker.part("additive", (2,), "external", external=1)
    maker.step("elementwise", range(3), 2, 0)
    return maker.finish()


def _shared_external() -> Table:
    maker = Maker()
    maker.elementwise("affine", "external", external=0)
    maker.elementwise("additive", "external", external=0, start=6)
    return maker.finish()


def _several_externals() -> Table:
    maker = Maker()
    maker.elementwise("affine", "external", external=0)
    maker.elementwise("affine")
    maker.elementwise("spline", "external", external=1)
    maker.elementwise("additive", "external", external=2)
    return maker.finish()


def _frozen() -> Table:
    maker = Maker()
    maker.elementwise("affine")
    maker.flags = FROZEN
    maker.coupling()
    maker.flags = 0
    maker.lu((0, 1, 2), (2, 1, 0))
    table = maker.finish()
    offset = table.ranges[-1]["offset"]  # a part of the LU layer too
    table.ranges[-1:] = [
        {"offset": offset, "count": 4, "flags": 0},
        {"offset": offset + 4, "count": 3, "flags": FROZEN},
        {"offset": offset + 7, "count": 5, "flags": 0},
    ]
    return table


def _frozen_row() -> Table:
    maker = Maker()
    maker.coupling()
    table = maker.finish()
    count = table.ranges[0]["count"]
    table.ranges[:1] = [
        {"offset": 0, "count": 1, "flags": FROZEN | DECAYS},
        {"offset": 1, "count": count - 1, "flags": DECAYS},
    ]
    return table


def _lu_on_a_subset() -> Table:
    maker = Maker()
    maker.lu((2, 0), (1, 0))
    return maker.finish()


def _autoregressive_on_a_subset() -> Table:
    maker = Maker(4)
    maker.autoregressive((3, 1, 0), HIDDEN)
    return maker.finish()


def _autoregressive(hidden: Sequence[int], **linear: int) -> Table:
    maker = Maker()
    maker.autoregressive((0, 1, 2), hidden, **linear)
    return maker.finish()


def _column(side: int, **fields: Any) -> Table:
    """One column of rows or of the context that is unlike the others."""
    maker = Maker(3, 2)
    i = 3 * side + 1
    if "between" in fields:
        maker.ends(i, *fields.pop("between"))
    if "lattice" in fields:
        fields["lattice"] = maker.table.put_reals((fields["lattice"],))
    if own := fields.pop("own", 0):
        fields |= {"buffers": maker.buffers(own), "n_buffers": own}
    maker.column(i, **fields)
    # cos_sin gives two features
    maker.n_context += side * fields.get("features", 0)
    maker.coupling()
    return maker.finish()


def supported(dtype: str = "float64") -> Table:
    """A half-line in column 0, an interval in column 2."""
    maker = Maker(3, 2, dtype)
    maps = plan_table.COLUMN_MAPS.index
    at = maker.table.put_reals((0.5,))
    maker.column(0, map=maps("positive"), ends=LOWER, lo=at, buffers=maker.buffers(1), n_buffers=1)
    maker.ends(2, -1.0, 1.0, map=maps("logit"))
    maker.coupling()
    return maker.finish()


def conditioned(dtype: str = "float64") -> Table:
    """A context of a half-line, a circle, a line, a box and an interval on the line, through an embedding."""
    maker = Maker(2, 5, dtype, n_context=3)
    maps = plan_table.COLUMN_MAPS.index
    at = maker.table.put_reals((0.5,))
    maker.column(2, map=maps("positive"), ends=UPPER, hi=at, buffers=maker.buffers(1), n_buffers=1)
    maker.ends(3, -1.0, 1.0, kind=1, map=maps("wrap"), features=1)
    maker.ends(5, -1.0, 1.0, kind=2, map=maps("box"), closed=LOWER, buffers=maker.buffers(2), n_buffers=2)
    maker.ends(6, 1.0, 1.0 + 2.0**-52, map=maps("logit"))
    maker.n_features += 1  # the sine
    maker.coupling()
    return maker.finish(embedding=[{"n_out": 4}, {"n_out": 3}])


def _unscaled() -> Table:
    maker = Maker(2)
    maker.column(1, loc=NONE, scale=NONE)
    maker.n_buffers = 2
    maker.elementwise()
    return maker.finish()


def grouped(dtype: str = "float64") -> Table:
    """A half-line in column 0; groups: columns 2, 1 rising without ends, 4, 3 a simplex, 5, 6 rising within (-1, 3), and 8, 7
    falling below 3.
    """
    maker = Maker(9, 2, dtype)
    maps = plan_table.COLUMN_MAPS.index
    at = maker.table.put_reals((-1.0, 3.0))
    maker.column(0, map=maps("positive"), ends=LOWER, lo=at, buffers=maker.buffers(1), n_buffers=1)
    for i, before, ends, own in ((2, NONE, 0, 0), (1, 2, 0, 1), (8, NONE, UPPER, 1), (7, 8, UPPER, 1)):
        fields = {"hi": at + 1} if ends else {}
        fields |= {"buffers": maker.buffers(1), "n_buffers": 1} if own else {}
        maker.column(i, map=maps("ordered"), group=before, ends=ends, **fields)
    for i, before in ((4, NONE), (3, 4)):
        maker.column(i, map=maps("simplex"), group=before)
    for i, before in ((5, NONE), (6, 5)):
        maker.ends(i, -1.0, 3.0, map=maps("ordered"), group=before)
    maker.coupling()
    return maker.finish()


def _group_of_context() -> Table:
    maker = Maker(3, 3)
    for i, before in ((4, NONE), (3, 4)):
        maker.column(i, map=plan_table.COLUMN_MAPS.index("simplex"), group=before)
    maker.coupling()
    return maker.finish()


def _narrow_group(dtype: str, hi: float) -> Table:
    maker = Maker(3, 0, dtype)
    for i in range(3):
        maker.ends(i, 1.0, hi, map=plan_table.COLUMN_MAPS.index("ordered"), group=i - 1)
    maker.elementwise()
    return maker.finish()


def _base(blocks: Callable[[Maker], None], **fields: int) -> Table:
    maker = Maker(3, 2, **fields)
    maker.elementwise()
    return maker.finish(base=blocks)


def _free_block(maker: Maker) -> None:
    maker.block("student_t", (0, 2), "free", (0.5, 1e6), params=maker.claim(2), n_params=2)
    maker.block("uniform", (1,), options=(-1.0, 1.0))


def _mixture(maker: Maker) -> None:
    maker.block("gaussian_mixture", range(3), "free", (5.0,), params=maker.claim(35), n_params=35)


def _network_block(maker: Maker) -> None:
    maker.block("standard_normal", (1,))
    number = maker.network("base", 0, [{"n_out": 3}, {"n_out": 4}])
    maker.block("normal", (0, 2), "network", network=number)


def _two_normals(maker: Maker) -> None:
    maker.block("standard_normal", (1,))
    maker.block("standard_normal", (2, 0))


def _network(*linears: Record, context_dim: int = 0, **fields: int) -> Table:
    maker = Maker(3, context_dim)
    maker.coupling(linears, **fields)
    return maker.finish()


def _bfloat16() -> Table:
    maker = Maker(dtype="float32")
    maker.coupling()
    return maker.finish(conditioner_dtype=plan_table.DTYPES.index("bfloat16"))


def _activation(name: str) -> dict[str, int]:
    return {"n_out": 4, "activation": plan_table.ACTIVATIONS.index(name)}


PRESENT: dict[str, Callable[[], Table]] = {
    "everything": everything,
    "everything in float32": lambda: everything("float32"),
    "several external thetas": _several_externals,
    "frozen ranges": _frozen,
    "supports": supported,
    "supports in float32": lambda: supported("float32"),
    "groups": grouped,
    "groups in float32": lambda: grouped("float32"),
    "a group that fills its interval": lambda: _narrow_group("float32", 1.0 + 2.0**-21),
    "kinds of the context": conditioned,
    "kinds of the context in float32": lambda: conditioned("float32"),
    "circle of the context": lambda: _column(1, between=ENDS, kind=KIND("circle"), map=MAP("wrap"), features=1),
    "kinds": kinded,
    "kinds in float32": lambda: kinded("float32"),
    "several transforms": _two_parts,
    "several transforms of a network, in any order": _parts_of_a_network,
    "LU on a subset": _lu_on_a_subset,
    "a uniform base of lines": lambda: _base(_uniform((0, 2), -2.0, 3.0)),
    "two blocks": lambda: _base(_two_normals),
    "student": lambda: _base(_free_block),
    "mixture": lambda: _base(_mixture),
    "base of a network": lambda: _base(_network_block),
    "splines of circles and boxes on lines": _other_splines,
}

KIND, MAP = plan_table.COLUMN_KINDS.index, plan_table.COLUMN_MAPS.index
ENDS = (-1.0, 1.0)
# Tables that say what engines do not compute, and how these call it.
FUTURE: dict[str, tuple[Callable[[], Table], str]] = {
    "several sources of theta": (_parts_of_all_sources, "several sources of theta in one step"),
    "several externals in a step": (_externals_of_a_step, "several external thetas in one step"),
    "an external of several steps": (_shared_external, "an external theta that several steps share"),
    "flags within a row": (_frozen_row, "flags that change within a row of weights"),
    "LU on a circle": (
        lambda: _kind("circle", "circular", lu=True),
        "an LU layer on dimensions of kind circle",
    ),
    "LU on a box": (lambda: _kind("box", "box", lu=True), "an LU layer on dimensions of kind box"),
    "another transform on a circle": (lambda: _kind("circle", "affine"), "on a circle transform affine"),
    "a spline of boxes on a circle": (lambda: _kind("circle", "box"), "on a circle transform box_rational_quadratic"),
    "another transform on a box": (lambda: _kind("box", "spline"), "on a box transform rational_quadratic"),
    "a spline of circles on a box": (
        lambda: _kind("box", "circular"),
        "on a box transform circular_rational_quadratic",
    ),
    "another bound on a circle": (
        lambda: _kind("circle", "short circular"),
        "on a circle splines of another bound than pi",
    ),
    "another bound on a box": (lambda: _kind("box", "wide box"), "on a box splines of another bound than 1"),
    "a normal base of a circle": (
        lambda: _kind("circle", "circular", _normals),
        "a base other than uniform on dimensions of kind circle",
    ),
    "a normal base of a box": (
        lambda: _kind("box", "box", _normals),
        "a base other than uniform on dimensions of kind box",
    ),
    "another uniform base of a circle": (
        lambda: _kind("circle", "circular", _uniform((1,), -1.0, 1.0)),
        "a uniform base of another width on dimensions of kind circle",
    ),
    "another uniform base of a box": (
        lambda: _kind("box", "box", _uniform((1,), -1.0, 2.0)),
        "a uniform base of another width on dimensions of kind box",
    ),
    "a block of lines and a box": (
        lambda: _kind("box", "box", _uniform((0, 1), -1.0, 1.0)),
        "a block of the base on dimensions of several kinds",
    ),
    "a uniform base wider than numbers": (
        lambda: _base(_uniform((0, 2), -3e38, 3e38), dtype="float32"),
        "a uniform base of this width",
    ),
    "a uniform base without a number": (
        lambda: _base(_uniform((0, 2), 1.0, 1.0 + 2.0**-52)),
        "a uniform base between whose ends there is no number",
    ),
    "no number on a circle": (
        lambda: _kind("circle", "circular", between=(1.0 + 2.0**-40, 1.0 + 2.0**-39), dtype="float32"),
        "columns between whose ends there is no number",
    ),
    "autoregressive on a subset": (_autoregressive_on_a_subset, "an autoregressive layer on some of the dimensions"),
    "degrees in any order": (lambda: _autoregressive((1, 0, 1)), "degrees that do not rise"),
    "ends": (lambda: _column(0, between=ENDS, closed=UPPER), "columns with ends"),
    "ends of the context": (lambda: _column(1, between=ENDS), "columns with ends"),
    "closed ends": (lambda: _column(0, between=ENDS, closed=UPPER, map=MAP("logit")), "columns with closed ends"),
    "no number between ends": (
        lambda: _column(0, between=(1.0, 1.0 + 2.0**-52), map=MAP("logit")),
        "columns between whose ends there is no number",
    ),
    "lattice": (lambda: _column(0, lattice=0.5), "columns on a lattice"),
    "group of the context": (_group_of_context, "columns with map simplex"),
    "more columns than numbers between two ends": (
        lambda: _narrow_group("float64", 1.0 + 3 * 2.0**-52),
        "columns between whose ends there is no number",
    ),
    "no standardisation": (_unscaled, "columns without a standardisation"),
    "own buffers": (lambda: _column(0, own=3), "columns with buffers of their own"),
    "gates": (lambda: _network({"n_out": 4}, {"n_out": 4, "gate": 0}), "gates"),
    "gated linear units": (
        lambda: _network(
            {"n_out": 4}, {"n_out": 4, "source": INPUT, "activation": 0}, {"n_out": 4, "source": 0, "gate": 1}
        ),
        "gates|networks that are no chain",
    ),
    "pre-activation": (
        lambda: _network({"n_out": 4, "activation": 0}, {"n_out": 4, "activation_before": 1}),
        "activation none",
    ),
    "activation before": (
        lambda: _network({"n_out": 4}, {"n_out": 4, "activation_before": 1}),
        "activations before a linear layer",
    ),
    "skip before": (
        lambda: _network({"n_out": 4}, {"n_out": 4, "skip": BEFORE, "skip_source": 0}),
        "skips before the activation",
    ),
    "skip from the input": (
        lambda: _network({"n_out": 4}, {"n_out": 1, "skip": SKIP, "skip_source": INPUT}, {"n_out": 4}),
        "skips over more than one layer",
    ),
    "long skip": (
        lambda: _network(
            {"n_out": 4}, {"n_out": 4, "skip": SKIP, "skip_source": 0}, {"n_out": 4, "skip": SKIP, "skip_source": 0}
        ),
        "skips over more than one layer",
    ),
    "some skips": (
        lambda: _network({"n_out": 4}, {"n_out": 4, "skip": SKIP, "skip_source": 0}, {"n_out": 4}),
        "skips in some of the hidden layers",
    ),
    "no chain": (
        lambda: _network({"n_out": 4}, {"n_out": 4, "source": CONTEXT}, context_dim=2),
        "networks that are no chain",
    ),
    "sigmoid": (lambda: _network(_activation("sigmoid")), "activation sigmoid"),
    "two activations": (
        lambda: _network(_activation("tanh"), _activation("relu")),
        "networks with several activations",
    ),
    "no bias": (lambda: _network({"n_out": 4, "bias": NONE}), "linear layers without a bias"),
    "no context": (lambda: _network(context_dim=2, n_context=0), "conditioners that ignore the context"),
    "bfloat16": (_bfloat16, "conditioners in bfloat16"),
}
