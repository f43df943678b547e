"""What workers run: a flow that was sent once, its verbs on a chunk or a partition, and the sums of a score."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

from penstock import _validate, columns
from penstock._backend import num_threads, threads
from penstock._typing import Array

# The exponent of a sum of no weights: below those of all floats.
NOTHING = -10_000


class Carried:
    """A flow on its way: pickled once, and unpacked once in each process that computes. A scheduler only hands it on."""

    def __init__(self, data: bytes, digest: str, flow: Any = None) -> None:
        self.data, self.digest = data, digest
        self._flow, self._lock = flow, threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return Carried, (self.data, self.digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Carried) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    def __sizeof__(self) -> int:
        return len(self.data)

    @property
    def flow(self) -> Any:
        """The flow, which all tasks of a process share."""
        with self._lock:  # the threads of a worker begin together
            if self._flow is None:
                self._flow = _unpacked(self)
            return self._flow


@lru_cache(maxsize=4)
def _unpacked(carried: Carried) -> Any:
    """The last few flows, by their hash: pools of processes, unlike workers, get the bytes with every task."""
    return pickle.loads(carried.data)


# --- threads ------------------------------------------------------------------------------------------------------


def share() -> int:
    """How many threads the task that runs here may use, so that all tasks at once use no more than the worker has.

    A worker of t threads runs t tasks at once: each has one, or its part of ``PENSTOCK_NUM_THREADS`` where the worker's
    environment sets it. Elsewhere a task of the main thread (the synchronous scheduler) has all that the process has, one in
    a pool has one.
    """
    worker = _worker()
    if worker is not None:
        has = num_threads() if os.environ.get("PENSTOCK_NUM_THREADS") else 1
        return max(1, has // int(worker.state.nthreads))
    alone = threading.current_thread() is threading.main_thread() and multiprocessing.parent_process() is None
    return num_threads() if alone else 1


def _worker() -> Any:
    """The worker of distributed that runs this task, or None."""
    get_worker = getattr(sys.modules.get("distributed"), "get_worker", None)
    if get_worker is None:
        return None
    try:
        return get_worker()
    except ValueError:  # which it raises outside of a task
        return None


# --- rows ---------------------------------------------------------------------------------------------------------

Verb = Callable[..., Any]


def log_prob(flow: Any, X: Any, context: Any) -> Any:
    """One number a row."""
    return flow.log_prob(X, context)


def to_latent(flow: Any, X: Any, context: Any) -> Any:
    """Rows, and one number a row."""
    return flow.to_latent(X, context)


def to_data(flow: Any, X: Any, context: Any) -> Any:
    """Rows, and one number a row."""
    return flow.to_data(X, context)


def terms(flow: Any, X: Any, context: Any, weight: Any = None) -> Any:
    """What a score adds up, (rows, 1) or (rows, 2) in float64: log-densities before they are rounded, and weights."""
    batch, runner = flow._batch(X, context, "X"), flow._runner()
    density = runner.log_prob(flow._snapshot.pack(runner), batch.x, batch.context, dtype=_validate.FLOAT64)
    if weight is None:
        return density[:, None]
    name = "sample_weight"
    weight = _validate.as_shaped(columns.plain(weight, name=name), density.shape, _validate.FLOAT64, name=name)
    return np.stack([density, _validate.as_weights(weight, len(density), name=name)], axis=1)


def rows(X: Any, context: Any, weight: Any, carried: Carried, *, verb: Verb, one: Any) -> Any:
    """A verb on a chunk, which comes in a list of one, or on a partition. ``one`` is a context of all rows."""
    X, context = (part[0] if isinstance(part, list) else part for part in (X, context))
    for name, other in (("context", context), ("sample_weight", weight)):
        if hasattr(X, "index") and other is not None and not X.index.equals(other.index):
            raise ValueError(f"{name} must have the index of X in each partition")
    flow = carried.flow
    with threads(share()):
        found = verb(flow, X, one if context is None else context, *(() if weight is None else (weight,)))
    return _labelled(found, X.index, flow, verb) if hasattr(X, "index") else found


def _labelled(found: Any, index: Any, flow: Any, verb: Verb) -> Any:
    """Results of a partition as a Series or a DataFrame, the log_det of a map as its last column."""
    pandas = import_module("pandas")
    if verb is log_prob:
        return pandas.Series(found, index, name="log_prob")
    if verb is terms:
        return pandas.DataFrame(found, index)
    values, log_det = found
    names = list(flow._columns) if verb is to_data else []
    names = names or [f"{'x' if verb is to_data else 'z'}{i}" for i in range(flow.dim)]
    names.append("log_det" if "log_det" not in names else "log_det_")
    return pandas.DataFrame(dict(zip(names, [*values.T, log_det], strict=True)), index)


def parquet(paths: Iterable[Any], known: tuple[str, ...], name: str) -> Array:
    """The columns of some Parquet files, one file below the other, in the order of the flow."""
    files, parts = import_module("pyarrow.parquet"), []
    for path in paths:
        found = files.read_schema(path).names
        table = files.read_table(path, columns=[column for column in known if column in found])
        parts.append(columns.matched(table, known, len(known), name=name).values)
    return np.concatenate(parts) if parts else np.zeros((0, len(known)))


def parquet_rows(paths: Iterable[Any]) -> int:
    """How many rows some Parquet files have, by their footers."""
    return sum(import_module("pyarrow.parquet").read_metadata(path).num_rows for path in paths)


# --- draws --------------------------------------------------------------------------------------------------------


def sample(flow: Any, n: int | None, context: Any, **options: Any) -> Any:
    """Draws."""
    return flow.sample(n, context, **options)


def sample_and_log_prob(flow: Any, n: int | None, context: Any, **options: Any) -> Any:
    """Draws, and one number for each."""
    return flow.sample_and_log_prob(n, context, **options)


def draw(
    carried: Carried, n: int | None, context: Any, first: int, first_context: int, *, verb: Verb, key: int, raw: bool
) -> Any:
    """The draws of a chunk, by the numbers that they have in the whole."""
    flow = carried.flow
    with threads(share()):
        return verb(flow, n, context, key=key, first=first, first_context=first_context, raw=raw)


# --- sums ---------------------------------------------------------------------------------------------------------


def block_sums(found: Array, block: int) -> Array:
    """Sums of every ``block`` terms, (blocks, 3): exponent e, 2^-e sum w log p, 2^-e sum w; without weights e = 0, w = 1.

    The exponent is that of the largest weight, so that weights of any size neither overflow nor vanish, and two sums are put
    together without rounding more than the one addition.
    """
    sums = np.zeros((-(-len(found) // block), 3))
    with np.errstate(all="ignore"):
        for own, part in zip(sums, np.split(found, range(block, len(found), block)) if len(found) else (), strict=True):
            density = part[:, 0]
            if part.shape[1] == 1:
                own[:] = 0, density.sum(), len(density)
                continue
            counts = part[:, 1] != 0
            density, weight = density[counts], part[counts, 1]
            exponent = int(np.frexp(np.abs(weight).max())[1]) if len(weight) else NOTHING
            weight = np.ldexp(weight, -exponent)
            own[:] = exponent, (weight * density).sum(), weight.sum()
    return sums


def mean(sums: Array) -> Any:
    """The score of sums of blocks, which a binary tree over their numbers adds up."""
    with np.errstate(all="ignore"):
        while len(sums) > 1:
            left, right = sums[:-1:2], sums[1::2]
            exponent = np.maximum(left[:, :1], right[:, :1])
            scaled = [np.ldexp(part[:, 1:], (part[:, :1] - exponent).astype(np.intc)) for part in (left, right)]
            nodes = np.concatenate([exponent, scaled[0] + scaled[1]], axis=1)
            sums = np.concatenate([nodes, sums[2 * len(nodes) :]])  # an odd one goes up as it is
        if not len(sums) or sums[0, 0] == NOTHING:
            return np.float64(np.nan)
        _, total, mass = sums[0]
        if not mass > 0:
            raise ValueError("the sum of sample_weight must be positive")
        return total / mass
