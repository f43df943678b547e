"""Hashes of what the C++ backend computes for every case, to tell whether a change of the code changed any bit.

``python tests/golden/bits.py`` compares with ``bits.json`` and lists the names that differ; the exit status is then 1.
``--only PATTERN`` restricts it to the names that match, as in ``--only 'nsf/float32/*'``; ``--write`` rewrites the file.

A name is ``case/dtype/quantity``, with ``/row`` after it for one row by itself, ``/many`` for a batch whose slices hold
several tiles, ``/contexts`` where each row has a context of its own, and ``/blocks`` where each block of rows has one.
Neither the number of threads nor the instruction set changes a hash, on machines with a fused multiply-add. The Numba
backend agrees to rounding only, so it has no hashes.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))

import penstock as ps  # noqa: E402
from cases import (  # noqa: E402
    BY_NAME,
    CASES,
    DTYPES,
    ENGINE,
    Case,
    bare,
    built,
    contexts,
    latents,
    points,
    rng,
    standardisation,
)

Array = np.ndarray[Any, Any]
# Names of quantities, and the function that gives their values, in that order.
Group = tuple[tuple[str, ...], Callable[[], tuple[Any, ...]]]

FILE = HERE / "bits.json"
BACKEND = "cpp"
ROWS = 130  # two tiles and a remainder
MANY = 1100  # more tiles than slices
BLOCKS, DRAWS = 7, 18  # contexts, and rows or draws for each of them

# Every argument of ``fit`` that is not a table, so that another default changes no hash.
FIT: dict[str, Any] = {
    "validation": 0.1,
    "epochs": 40,
    "batch_size": 100,
    "learning_rate": 3e-3,
    "schedule": "cosine",
    "warmup": 0.1,
    "weight_decay": 1e-3,
    "clip_norm": 1.0,
    "patience": None,
    "standardize": True,
    "rng": 11,
    "progress": False,
    "callbacks": (),
    "checkpoint": None,
}
TRAINING_ROWS = 600
# 540 training rows are 5 steps an epoch: 200 steps, or 505, enough for the running mean of the parameters (500).
AVERAGED = {"epochs": 101, "schedule": "constant"}
RECORDED = ("params", "standardisation", "train_loss", "validation_loss")
# What else is trained, and by which cases.
RECIPES = tuple(case for case in CASES if case.kind == "recipe")
FEW = (*ENGINE, BY_NAME["embedding"])
TRAINED: dict[str, tuple[tuple[Case, ...], dict[str, Any]]] = {
    "fit": (CASES, {}),
    "fit_averaged": ((*RECIPES, *FEW, BY_NAME["affine"]), AVERAGED),
    "fit_weighted": ((*FEW, BY_NAME["rational_quadratic"], BY_NAME["nsf"], BY_NAME["nsf_ar_given"]), {}),
    "fit_without_validation": (FEW, {"validation": None}),
    "fit_validation_rows": (FEW, {}),
    "fit_validation_rows_weighted": (FEW, {}),
    "fit_plateau": (FEW, {"schedule": "plateau", "patience": 4, "learning_rate": 0.02}),
    "fit_onecycle": (FEW, {"schedule": "onecycle", "warmup": 0.3}),
    "fit_robust": (FEW, {"standardize": "robust"}),
}


def digest(value: Any) -> str:
    """A hash of dtype, shape and bytes; a Python float counts as float64."""
    array = np.asarray(value)
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    state = blake2b(f"{little.dtype.str} {array.shape}".encode(), digest_size=16)
    state.update(little.tobytes())
    return state.hexdigest()


def evaluated(case: Case, dtype: str) -> Iterator[Group]:
    """What a flow with random parameters computes of many rows, and of one."""
    flow = built(case, BACKEND, dtype)
    x, z = points(case, ROWS, flow, "bits"), latents(case, ROWS, flow.dim, dtype, "bits")
    d_rows, d_one, weight = cotangents(case, flow)
    yield from verbs(flow, "", case.conditional, x, z, d_rows, d_one, weight, {})
    yield from verbs(flow, "/row", case.conditional, x[0], z[0], d_rows[0], d_one[0], weight[1], {})
    many = points(case, MANY, flow, "bits", "many")
    ones = np.ones(MANY, flow.dtype)
    yield ("log_prob/many",), lambda: (flow.log_prob(many),)
    yield ("sample/many",), lambda: (flow.sample(MANY, rng=5),)
    yield ("log_prob_vjp/dparams/many",), lambda: (flow.log_prob_vjp(many, ones)[1],)
    yield ("loss_and_grad/grad/many",), lambda: (flow.loss_and_grad(many)[2],)
    if case.conditional:
        own, c = bare(flow), contexts(case, ROWS, flow, "bits")
        few, blocks = c[:BLOCKS], x[: BLOCKS * DRAWS].reshape(BLOCKS, -1, flow.dim)
        yield from verbs(own, "/contexts", True, x, z, d_rows, d_one, weight, {"context": c})
        yield ("log_prob/blocks",), lambda: (own.log_prob(blocks, few),)
        yield ("sample/blocks",), lambda: (own.sample(DRAWS, few, rng=5),)
        yield ("sample_and_log_prob/blocks",), lambda: (own.sample_and_log_prob(DRAWS, few, rng=5)[1],)


def cotangents(case: Case, flow: Any) -> tuple[Array, Array, Array]:
    """Gradients of an objective with respect to rows and to one number a row, and weights, every fourth of them 0."""
    source = rng("bits", case.name)
    d_rows, d_one = source.standard_normal((ROWS, flow.dim)), source.standard_normal(ROWS)
    weight = source.uniform(0.2, 3.0, ROWS)
    weight[::4] = 0
    return tuple(a.astype(np.float32).astype(flow.dtype) for a in (d_rows, d_one, weight))  # type: ignore[return-value]


def verbs(
    flow: Any, end: str, conditional: bool, x: Array, z: Array, d_rows: Array, d_one: Array, weight: Array, given: Any
) -> Iterator[Group]:
    """Every verb of a flow, called with the same rows; ``given`` holds a context for each row, or nothing."""
    draws = None if given else ROWS if x.ndim == 2 else 1
    back = ("dparams", "dcontext") if conditional else ("dparams",)

    def names(verb: str, *parts: str) -> tuple[str, ...]:
        return tuple(f"{verb}/{part}{end}" for part in parts) if parts else (verb + end,)

    def vjp(method: str, *arrays: Any) -> Callable[[], tuple[Any, ...]]:
        return lambda: getattr(flow, method)(*arrays, **given)[: 1 + len(back)]

    yield names("log_prob"), lambda: (flow.log_prob(x, **given),)
    yield names("to_latent", "z", "log_det"), lambda: flow.to_latent(x, **given)
    yield names("to_data", "x", "log_det"), lambda: flow.to_data(z, **given)
    yield names("sample"), lambda: (flow.sample(draws, rng=5, **given),)
    yield names("sample_and_log_prob"), lambda: (flow.sample_and_log_prob(draws, rng=5, **given)[1],)
    yield names("log_prob_and_grad"), lambda: (flow.log_prob_and_grad(x, **given)[1],)
    if conditional:
        yield names("log_prob_and_grad", "context"), lambda: (flow.log_prob_and_grad(x, wrt="context", **given)[1],)
    yield names("log_prob_vjp", "dX", *back), vjp("log_prob_vjp", x, d_one)
    yield names("to_latent_vjp", "dX", *back), vjp("to_latent_vjp", x, d_rows, d_one)
    yield names("to_data_vjp", "dz", *back), vjp("to_data_vjp", z, d_rows, d_one)
    yield (
        names("loss_and_grad", "loss_sum", "weight_sum", "grad"),
        lambda: flow.loss_and_grad(x, sample_weight=weight, **given),
    )


def trained(case: Case, dtype: str) -> Iterator[Group]:
    """The outcome of training: parameters, standardisation, and the losses of every epoch."""
    for name, (cases, options) in TRAINED.items():
        if case in cases:
            parts = tuple(f"{name}/{part}" for part in RECORDED)
            yield parts, lambda name=name, options=options: fitted(case, dtype, name, options)


def fitted(case: Case, dtype: str, name: str, options: dict[str, Any]) -> tuple[Any, ...]:
    """Train the flow of a case; ``name`` says whether with weights, and with validation rows of its own."""
    model = built(case, BACKEND, dtype)
    flow = bare(case.build(dtype=dtype, backend=BACKEND))
    if dtype == "float64" and any(isinstance(layer, ps.ActNorm) for layer in flow.spec.layers):
        # ActNorm starts from NumPy's log, whose last bit depends on the instruction set: train what has started.
        flow = bare(model).copy()
    tables = []
    for part, rows in (("train", TRAINING_ROWS), ("validation", 150)):
        context = contexts(case, rows, model, "bits", part) if case.conditional else None
        weight = None
        if "weighted" in name:
            weight = rng("bits", "weights", part).uniform(0.2, 3.0, rows).astype(np.float32)
            weight[::5] = 0
        tables.append((training_rows(case, rows, flow, part), context, weight))
    (x, context, weight), validation = tables
    own = {}
    if "validation_rows" in name:
        own = dict(zip(("validation", "validation_context", "validation_weight"), validation, strict=True))
    flow.fit(x, **{**FIT, **options, **own, "context": context, "sample_weight": weight})
    return flow.params, standardisation(flow), np.array(flow.history.train_loss), np.array(flow.history.validation_loss)


def training_rows(case: Case, rows: int, flow: Any, part: str) -> Array:
    """Skewed columns, each bent over the one before it: a density that keeps a flow learning for longer than an epoch."""
    u = rng("bits", case.name, part).standard_normal((rows, flow.dim))
    x = u + 0.4 * u * u
    x[:, 1:] += 0.7 * u[:, :-1] * u[:, :-1]
    return (2 * x - 3).astype(np.float32).astype(flow.dtype)


def compute(wanted: Callable[[str], bool]) -> dict[str, str]:
    """The hashes whose names are wanted, by name."""
    hashes = {}
    with warnings.catch_warnings():
        # Few rows for the parameters, and flows that warn of themselves.
        warnings.simplefilter("ignore", UserWarning)
        for case in CASES:
            for dtype in DTYPES:
                for source in (evaluated, trained):
                    for quantities, values in source(case, dtype):
                        names = [f"{case.name}/{dtype}/{quantity}" for quantity in quantities]
                        if any(map(wanted, names)):
                            both = zip(names, values(), strict=True)
                            hashes.update({name: digest(value) for name, value in both if wanted(name)})
    return hashes


def read() -> dict[str, str]:
    """The committed hashes."""
    return dict(json.loads(FILE.read_text()))


def differences(hashes: dict[str, str], expected: dict[str, str]) -> dict[str, list[str]]:
    """Names by what is wrong with them."""
    common = hashes.keys() & expected.keys()
    return {
        "differ": [name for name in expected if name in common and hashes[name] != expected[name]],
        "are in the file only": [name for name in expected if name not in hashes],
        "are not in the file": [name for name in hashes if name not in expected],
    }


def main() -> int:
    """Compare, or write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", metavar="PATTERN", default="*", help="names to look at, with * and ? (default: all)")
    parser.add_argument("--write", action="store_true", help="rewrite these names in bits.json")
    args = parser.parse_args()

    def wanted(name: str) -> bool:
        return fnmatchcase(name, args.only)

    hashes = compute(wanted)
    expected = read() if FILE.exists() else {}
    kept = {name: value for name, value in expected.items() if not wanted(name)}
    if args.write:
        FILE.write_text(json.dumps({**kept, **hashes}, indent=0, sort_keys=True) + "\n")
        print(f"{len(hashes)} hashes written by penstock {ps.__version__}")
        return 0
    found = differences(hashes, {name: value for name, value in expected.items() if wanted(name)})
    for what, names in found.items():
        if names:
            print(f"{len(names)} of {len(hashes)} {what}:")
        groups: dict[str, list[str]] = {}
        for name in names:
            case, dtype, quantity = name.split("/", 2)
            groups.setdefault(f"{case}/{dtype}", []).append(quantity)
        for group, quantities in groups.items():
            print(f"  {group}: {' '.join(quantities)}")
    if not hashes:
        print(f"no name matches {args.only!r}")
        return 1
    if not any(found.values()):
        print(f"{len(hashes)} hashes agree")
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
