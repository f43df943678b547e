"""Trainings by several ranks, for ``tests/test_mpi.py``: ``mpirun -n N python train.py WHAT OUT [ARGUMENT ...]``.

Every rank runs this. Rank 0 writes what was found into a JSON file.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from mpi4py import MPI

import penstock as ps
from penstock.recipes import RECIPES
from penstock.runner import Runner
from penstock.training import across
from penstock.training import ranks as ranks_module
from penstock.training.ranks import Ranks

COMM = MPI.COMM_WORLD
ROWS, DIM = 2003, 3


def table(n: int = ROWS, dtype: Any = np.float64) -> Any:
    """Rows with something to learn, the same on every rank."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, DIM))
    x[:, 1] += 0.5 * x[:, 0] ** 2
    x[:, 2] *= 1 + 0.3 * np.tanh(x[:, 1])
    return x.astype(dtype)


def part(array: Any, how: str = "uneven") -> Any:
    """The part of an array that this rank has."""
    n, size, rank = len(array), COMM.size, COMM.rank
    ends = [round(n * (i / size) ** 1.7) for i in range(size + 1)]
    if how == "last":  # all but the last have none
        ends = [0] * size + [n]
    return array[ends[rank] : ends[rank + 1]]


def told(flow: Any) -> str:
    """A hash of the numbers of a flow and of its history, which all ranks must agree on."""
    history = flow.history
    digest = hashlib.blake2b(flow.params.tobytes() + flow._snapshot.buffers.tobytes(), digest_size=12)
    for name in ("train_loss", "validation_loss", "step"):
        digest.update(np.array(getattr(history, name), np.float64).tobytes())
    digest.update(repr((history.stopped, history.best_epoch, flow.columns)).encode())
    own = digest.hexdigest()
    assert COMM.allgather(own) == [own] * COMM.size
    return own


def small(name: str, **options: Any) -> Any:
    """A small flow of a recipe."""
    sizes = {} if name == "linear" else {"layers": 2}
    if "hidden" in RECIPES[name].__kwdefaults__:
        sizes["hidden"] = (8,)
    return RECIPES[name](DIM, rng=3, **sizes, **options)


def fit(flow: Any, x: Any, how: str = "uneven", **options: Any) -> Any:
    """A training of about 520 steps, long enough for a running mean, of batches with five slices."""
    given = {"epochs": 104, "batch_size": 320, "rng": 11, **options}
    for name in ("context", "sample_weight"):
        if name in given:
            given[name] = part(given[name], how)
    return flow.fit(part(x, how), comm=COMM, **given)


def in_a_thread(call: Callable[[], Any]) -> Any:
    """What a call gives in a thread that hears of no signal."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def patched(module: Any, name: str, value: int, call: Callable[[], Any]) -> Any:
    """What a call gives while a constant of a module is another one."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        return call()
    finally:
        setattr(module, name, before)


def beyond_the_sample(x: Any, spoil: Callable[[Any], Any]) -> Any:
    """A training whose first rows to be looked at are few; ``spoil`` has the numbers of the others."""
    return patched(across, "SAMPLE", 300, lambda: spoil(np.setdiff1d(range(ROWS), sample_of(x))))


def sample_of(x: Any) -> Any:
    return across.sampled(small("nsf")._runner(), len(x))


def lattice_that_ends(x: Any) -> Any:
    """Steps of a quarter in all columns; in one of them a row beside them, which is not looked at first."""

    def run(others: Any) -> Any:
        given = np.round(x * 4) / 4
        given[others[-1], 1] += 0.1
        flow = fit(small("nsf"), given, dequantize="auto", epochs=4)
        assert list(flow._lattice.columns) == [0, 2], flow._lattice
        return flow

    return beyond_the_sample(x, run)


def few_weights(x: Any, weight: Any) -> Any:
    """All rows that are looked at first, and most others, have none."""

    def run(others: Any) -> Any:
        given = np.zeros(len(x))
        given[others[::3]] = weight[others[::3]]
        return fit(small("nsf"), x, sample_weight=given, epochs=4)

    return beyond_the_sample(x, run)


def cases() -> dict[str, Callable[[], Any]]:
    """What is trained, by name."""
    x = table()
    rng = np.random.default_rng(8)
    weight = rng.uniform(0, 2, size=ROWS)
    zeros = np.where(np.arange(ROWS) < 900, 0.0, weight)
    context = np.concatenate([x[:, :1] + rng.normal(size=(ROWS, 1)), rng.normal(size=(ROWS, 1))], axis=1)
    far = x.copy()
    far[[7, -5]] = 1e9
    kinds = np.stack([np.exp(x[:, 0]), np.tanh(x[:, 1]), np.arctan(x[:, 2])], axis=1)
    support = ["positive", ps.interval(-1, 1), ps.periodic(-np.pi, np.pi)]
    some: dict[str, Callable[[], Any]] = {
        f"recipe {name}": lambda name=name, dtype=dtype: fit(small(name, dtype=dtype), x)
        for name, dtype in zip(RECIPES, ["float32", "float64"] * len(RECIPES), strict=False)
    }
    short = {"epochs": 4}
    return some | {
        "rows on the last rank": lambda: fit(small("nsf"), x, "last", **short),
        "float32 rows of a float64 flow": lambda: fit(small("nsf", dtype="float64"), x.astype(np.float32), **short),
        "context": lambda: fit(small("maf", context_dim=2), x, context=context, **short),
        "embedding": lambda: fit(
            small("nsf", context_dim=2, embedding=ps.MLP((6,)), embedding_dim=4), x, context=context, **short
        ),
        "weights": lambda: fit(small("nsf"), x, sample_weight=weight, **short),
        "a part of weight zero": lambda: fit(small("nsf"), x, sample_weight=zeros, **short),
        "weights that grow": lambda: fit(
            small("nsf"), x, sample_weight=weight * np.geomspace(1e-3, 1e3, ROWS), **short
        ),
        "tiny weights": lambda: fit(small("nsf"), x, sample_weight=weight * 1e-200, **short),
        "validation rows": lambda: fit(small("nsf"), x, validation=part(table(501) + 0.1), **short),
        "no validation": lambda: fit(small("nsf"), x, validation=0, **short),
        "weights, in rounds": lambda: patched(
            ranks_module, "ROUND", 4096, lambda: fit(small("nsf"), x, sample_weight=weight, **short)
        ),
        "weights beyond the sample": lambda: few_weights(x, weight),
        "a lattice that ends beyond the sample": lambda: lattice_that_ends(x),
        "supports": lambda: fit(small("nsf", support=support), kinds, **short),
        "lattice": lambda: fit(small("nsf"), np.round(x * 4) / 4, dequantize="auto", **short),
        "a row far out": lambda: fit(small("nsf"), far, **short),
        "robust": lambda: fit(small("nsf"), far, standardize="robust", validation=0, **short),
        "a later fit": lambda: fit(fit(small("nsf"), x, **short), x + 0.1, **short),
        "a later fit with a row far out": lambda: fit(fit(small("nsf"), x, **short), far, **short),
        "in a thread": lambda: in_a_thread(lambda: fit(small("nsf"), x + 0.5, **short)),
        "plateau": lambda: fit(small("nsf"), x, patience=3, learning_rate=0.05, epochs=40),
        "freeze": lambda: fit(small("nsf"), x, freeze="layers.0", **short),
        "a mixture in the base": lambda: fit(small("nsf", base=ps.GaussianMixture(DIM, 3)), x, **short),
        "64 slices": lambda: fit(small("nsf"), table(20_000, np.float32), batch_size=16_384, epochs=3),
        "27 slices": lambda: fit(small("nsf"), table(20_000, np.float32), batch_size=27 * 256, epochs=3),
        "callbacks that stop": lambda: fit(
            small("nsf"), x, epochs=9, callbacks=lambda state: COMM.rank == COMM.size - 1 and state.epoch == 3
        ),
    }


def bits(out: str, *only: str) -> None:
    """Hashes of all cases."""
    found = {}
    for name, run in cases().items():
        if not only or name in only:
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                found[name] = told(run())
            assert COMM.rank == 0 or not heard, heard
    write(out, found)


def memmap(out: str, path: str) -> None:
    """A file that all ranks map is read where it lies: nothing is sent."""
    x = np.load(path, mmap_mode="r")
    moved = []
    plain = Ranks.moved
    Ranks.moved = lambda self, *given: moved.append(1) or plain(self, *given)  # type: ignore[assignment,func-returns-value,method-assign,misc]
    found = {"mapped": told(fit(small("nsf"), x, epochs=4)), "sent": len(moved)}
    found["in memory"] = told(fit(small("nsf"), np.array(x), epochs=4))
    found["columns of a wider one"] = told(fit(small("nsf"), np.load(path, mmap_mode="r")[:, ::-1][:, ::-1], epochs=4))
    found["sent then"] = len(moved)
    given = np.load(path, mmap_mode="c")
    given += 1  # which the file does not know
    found["changed in memory"] = told(fit(small("nsf"), given, epochs=4))
    found["as it should be"] = told(fit(small("nsf"), np.load(path) + 1, epochs=4))
    few = np.load(path, mmap_mode="r")[: 1 - min(COMM.rank, 1)]  # a validation row of rank 0, which the last one needs
    found["one row"] = told(fit(small("nsf"), x, epochs=4, validation=few))
    write(out, found)


class Elsewhere(Runner):
    """An engine whose numbers have other last bits."""

    arithmetic = property(lambda self: "of another engine")  # type: ignore[assignment]


def elsewhere(flow: Any) -> Any:
    """A flow that such an engine computes."""
    flow._runner().__class__ = Elsewhere
    return flow


def errors(out: str) -> None:
    """What every rank raises."""
    x, last = table(), COMM.rank == COMM.size - 1
    spoilt = x.copy()
    spoilt[-1, 1] = np.nan

    def stop(state: Any) -> None:
        if last and state.epoch == 2:
            raise LookupError("enough")

    calls: dict[str, Callable[[], Any]] = {
        "dtype": lambda: fit(small("nsf"), x.astype(np.float32 if last else np.float64)),
        "columns": lambda: small("nsf").fit(dict(zip("abz" if last else "abc", part(x).T, strict=True)), comm=COMM),
        "NaN": lambda: fit(small("nsf"), spoilt),
        "flow": lambda: fit(ps.nsf(DIM, layers=1, rng=COMM.rank), x),
        "backend": lambda: fit(elsewhere(small("nsf")) if last else small("nsf"), x),
        "epochs": lambda: fit(small("nsf"), x, epochs=2 + last),
        "callbacks": lambda: fit(small("nsf"), x, epochs=2, callbacks=stop if last else ()),
        "checkpoint of one": lambda: fit(small("nsf"), x, epochs=2, checkpoint=f"{out}.c" if last else None),
        "seed": lambda: fit(small("nsf"), x, rng=int(last)),
        "no rows": lambda: fit(small("nsf"), x[:0]),
        "more ranks than slices": lambda: fit(small("nsf"), x, batch_size=64),
        "callback": lambda: fit(small("nsf"), x, epochs=4, callbacks=stop),
        "weights": lambda: fit(small("nsf"), x, sample_weight=np.zeros(ROWS)),
        "learning rate": lambda: fit(small("nsf"), x, learning_rate=1e39, warmup=0, epochs=3),
        "support": lambda: fit(small("nsf", support="positive"), x),
        "checkpoint": lambda: fit(small("nsf"), x, checkpoint=os.path.join(out, "no", "file")),
    }
    found = {}
    for name, call in calls.items():
        try:
            call()
            words = "nothing"
        except Exception as error:
            words = f"{type(error).__name__}: {error}"
        found[name] = COMM.allgather(words)
    write(out, found)


def interrupted(out: str, checkpoint: str, ranks: str) -> None:
    """A Ctrl-C of one rank ends training on all of them at one step; to rank "late" it comes when all know of it."""
    meet = Ranks.meet

    def late(self: Any, numbers: Any = ()) -> Any:
        if self.interrupted and not sent:
            sent.append(True)
            os.kill(os.getpid(), signal.SIGINT)
        return meet(self, numbers)

    def soon(state: Any) -> None:  # and not before all of them train
        if state.epoch == 1 and str(COMM.rank) in ranks.split(","):
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()

    sent: list[bool] = []
    if ranks.endswith("late") and COMM.rank == COMM.size - 1:
        Ranks.meet = late  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = fit(small("nsf"), table(), epochs=100_000, checkpoint=checkpoint, callbacks=soon)
    steps, late_ones = COMM.allgather(len(flow.history)), COMM.allgather(len(sent))
    write(out, {"stopped": flow.history.stopped, "steps": steps, "told": told(flow), "late": late_ones})


def resumable(out: str, checkpoint: str, epochs: str) -> None:
    """A training that may be killed, and that goes on where it was."""
    with open(f"{out}.{COMM.rank}", "w") as file:
        file.write(str(os.getpid()))
    flow = fit(small("nsf"), table(), epochs=int(epochs), checkpoint=checkpoint, checkpoint_every=7)
    write(out, {"told": told(flow)})


def raising(out: str) -> None:
    """One rank raises while the others train: the job is over soon, and not well."""

    def stop(state: Any) -> None:
        if COMM.rank == COMM.size - 1:
            raise LookupError("enough")

    began = time.monotonic()
    try:
        fit(small("nsf"), table(), epochs=1000, callbacks=stop)
    finally:
        if COMM.rank == 0:
            write(out, {"seconds": time.monotonic() - began})


def write(out: str, found: Any) -> None:
    """Into the file, by rank 0."""
    if COMM.rank == 0:
        with open(out, "w") as file:
            json.dump(found, file)


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    globals()[what](*words)
