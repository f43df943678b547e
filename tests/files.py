"""Model files of every kind for the reader in C++: those of all cases, of ensembles, with names, lattices, histories and the
state of a training. Data for ``test_read_file.py`` and for the corpus of the fuzzer.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

import penstock as ps
from cases import CASES, DTYPES, bare, built
from penstock.files import members, model
from penstock.files.members import Several
from penstock.files.model import Contents
from penstock.history import History
from penstock.lattice import Lattice

SMALL: Any = {"layers": 1, "hidden": (3,)}
HISTORY = History(
    [1, 2], [9, 18], [2.5, float("nan")], [], [1e-3, 1e-4], [0.1, 0.2], [10.0, 9.0], None, 3.0, "completed"
)


def contents(flow: ps.Flow, **more: Any) -> Contents:
    """What a file of a flow holds."""
    return Contents(flow.spec, flow._plan, flow._snapshot, **more)


def small(dtype: str = "float32", **more: Any) -> ps.Flow:
    """A flow of few numbers, all columns of which are of another kind."""
    support = ["real", ps.periodic(-1, 3), ps.interval(0, 1), "positive", ps.interval(-2, 2, map="logit")]
    return ps.nsf(5, context_dim=2, context_support=["positive", ps.periodic(0, 1)], support=support, bins=2, dtype=dtype,
                  rng=0, **SMALL, **more)  # fmt: skip


def special() -> Iterator[tuple[str, bytes]]:
    """Small files of what no case has."""
    for dtype in DTYPES:
        flow = small(dtype)
        yield f"kinds-{dtype}", flow.to_bytes()
        named = contents(
            flow, columns=("a", "b", "größe", "d\t", "e"), context_columns=("c", "日"), missing=("NA", "-99", "ÿ"),
            lattice=Lattice.within(np.array([1, 0, 0, 0.5, 0]), np.array([0.5, 0, 0, 0, 0]), flow.spec.support),
        )  # fmt: skip
        yield f"named-{dtype}", model.to_bytes(named)
        pair = [contents(ps.realnvp(2, dtype=dtype, rng=seed, **SMALL)) for seed in (0, 1)]
        yield f"ensemble-{dtype}", members.to_bytes(Several(tuple(pair), np.array([0.25, 0.75])))
    flow = ps.realnvp(2, rng=0, **SMALL)
    yield "plain", flow.to_bytes()
    yield "history", model.to_bytes(contents(flow, history=HISTORY))
    own = [
        contents(flow, history=HISTORY, columns=("x", "y"), missing=()),
        contents(flow, columns=("x", "y"), missing=()),
    ]
    yield "histories", members.to_bytes(Several(tuple(own), np.array([1.0, 0.0]), 1.25))
    yield "one member", members.to_bytes(Several((contents(flow),), np.ones(1)))
    base = ps.Product([ps.Normal(2), ps.Uniform(1, -1, 1), ps.GaussianMixture(1, components=2)])
    yield "product", ps.Flow(base, [ps.ActNorm()], rng=0).to_bytes()
    circles = ps.Product([ps.Normal(1), ps.Normal(1)])
    support = [ps.periodic(0, 1), "real"]
    yield "block of a circle", ps.Flow(circles, [ps.ActNorm()], support=support).to_bytes()
    kinds = [ps.periodic(0, 1), "real", ps.interval(0, 1), "real"]
    yield (
        "elementwise",
        ps.Flow(ps.StandardNormal(4), [ps.Elementwise(ps.RationalQuadratic(2))], support=kinds).to_bytes(),
    )
    yield "masked", ps.maf(3, rng=0, **SMALL).to_bytes()
    yield (
        "embedding",
        ps.Flow(
            ps.StandardNormal(2),
            [ps.Coupling(conditioner=ps.MLP((2,)))],
            context_dim=1,
            embedding=ps.MLP((2,)),
            embedding_dim=2,
            rng=0,
        ).to_bytes(),
    )
    yield "nothing learned", ps.Flow(ps.StandardNormal(1), [ps.Permutation((0,))]).to_bytes()


def checkpoint() -> bytes:
    """A file with the state of a training, as no library writes it otherwise."""
    state = {"m": np.arange(3.0), "record": np.frombuffer(b"{}", np.uint8)}
    return model.to_bytes(contents(ps.realnvp(2, rng=0, **SMALL), training=state, columns=("x", "y")))


def every() -> Iterator[tuple[str, bytes]]:
    """Those of all cases, too."""
    yield from special()
    for case, dtype in itertools.product(CASES, DTYPES):
        if "circular" not in case.name:  # a flow of circles cannot be built as yet
            yield f"{case.name}-{dtype}", bare(built(case, "cpp", dtype)).to_bytes()
