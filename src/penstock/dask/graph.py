"""Tasks on dask collections, laid out: what goes to which task, in chunks of which sizes.

What can be checked before there are rows is checked here, by a call of the verb on no rows.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import pickle
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from operator import itemgetter
from typing import Any

import numpy as np

from penstock import _validate
from penstock._warn import PenstockWarning, warn
from penstock.dask import tasks
from penstock.ensemble import Ensemble
from penstock.flow import Flow
from penstock.verbs import CONTEXTS, DRAWS

BLOCK = 1 << 16  # rows whose log-densities are added up as one


def module(name: str) -> Any:
    """A module of dask, or an error that says how to install it."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"penstock.dask needs dask, which is not installed ({error}): pip install 'penstock[dask]'"
        ) from None


def carried(flow: Any) -> Any:
    """The flow as it is now, as a node of a graph: its key is a hash of the content, so that a worker gets it once."""
    own = flow.copy()
    data = pickle.dumps(own, pickle.HIGHEST_PROTOCOL)
    digest = hashlib.sha256(data).hexdigest()
    node = tasks.Carried(data, digest, own)
    return module("dask").delayed(node, name=f"penstock-flow-{digest}", traverse=False)


# --- collections --------------------------------------------------------------------------------------------------


def is_array(values: Any) -> bool:
    """Whether something is a dask array."""
    return _is(values, "dask.array", ("Array",))


def is_frame(values: Any) -> bool:
    """Whether something is a DataFrame of dask, or a Series."""
    return _is(values, "dask.dataframe", ("DataFrame", "Series"))


def is_bag(values: Any) -> bool:
    """Whether something is a bag of dask."""
    return _is(values, "dask.bag", ("Bag",))


def _is(values: Any, name: str, kinds: Sequence[str]) -> bool:
    found = sys.modules.get(name)  # whoever has made one has imported it; another thread may be doing so just now
    return isinstance(values, tuple(getattr(found, kind, ()) for kind in kinds))


def _known(sizes: Sequence[float]) -> bool:
    return not any(math.isnan(size) for size in sizes)


def _typed(dtype: Any, ndim: int) -> dict[str, Any]:
    return {"dtype": np.dtype(dtype), "meta": np.zeros((0,) * ndim, dtype)}


def taken(flow: Any, X: Any, context: Any, name: str = "X") -> tuple[Any, Any]:
    """Rows as an array whose rows are whole or as a DataFrame, and their context beside them: one for all, or such rows."""
    module("dask.array")
    _validate.instance(flow, (Flow, Ensemble), name="flow")
    if is_bag(X):
        X, context = _parquet(flow, X, context)
    elif not is_array(X) and not is_frame(X):
        raise TypeError(
            f"{name} must be a dask array, a dask DataFrame or a bag of paths of Parquet files, got {type(X).__name__}"
        )
    if is_array(X):
        X = _array(X, (flow.dim,), name)
    if not is_array(context) and not is_frame(context):
        context = _validate.as_contexts(flow._named_context(context), flow.context_dim)
        if context is None or context.ndim == 1:
            return X, context
    _validate.no_context(None if flow.context_dim else context)
    return X, beside(context, X, (flow.context_dim,), "context", name)


def beside(values: Any, X: Any, width: tuple[int, ...], name: str, of: str = "X") -> Any:
    """Values that go with the rows of X, one by one, of the same kind and in the same chunks."""
    if is_frame(X):
        if not is_frame(values):
            raise TypeError(f"{name} must be a dask DataFrame or Series, as {of} is, got {type(values).__name__}")
        if values.npartitions != X.npartitions:
            raise ValueError(f"{name} must have the {X.npartitions} partitions of {of}, got {values.npartitions}")
        return values
    if is_frame(values):
        raise TypeError(f"{name} must be an array, as {of} is, got a dask {type(values).__name__}")
    if not is_array(values):
        values = module("dask.array").from_array(_validate.reals(values, name=name))
    values, whole = _array(values, width, name), (-1,) * len(width)
    if _known(X.chunks[0]) and _known(values.chunks[0]):
        if len(values) != len(X):
            raise ValueError(f"{name} must have the {len(X)} rows of {of}, got {len(values)}")
        return values.rechunk((X.chunks[0], *whole))
    if values.numblocks[0] != X.numblocks[0]:
        raise ValueError(
            f"{name} must have the chunks of {of}: where their sizes are unknown so many, {X.numblocks[0]}, "
            f"got {values.numblocks[0]}; compute_chunk_sizes() of both lets rows be moved"
        )
    return values


def _array(values: Any, width: tuple[int, ...], name: str) -> Any:
    """An array of shape (rows, *width), each row in one chunk."""
    if values.shape[1:] != width or values.ndim == 0:
        shape = ", ".join(["rows", *map(str, width)]) if width else "rows,"
        raise ValueError(f"{name} must have shape ({shape}), got {values.shape}")
    return values.rechunk({1: -1}) if width else values


def _parquet(flow: Any, paths: Any, context: Any) -> tuple[Any, Any]:
    """Arrays of the columns of Parquet files; those of the context, unless one is given, from the same files."""
    da, delayed = module("dask.array"), module("dask").delayed
    wanted = {"X": flow._columns, "context": flow._context_columns if flow.context_dim and context is None else ()}
    if not flow._columns or (flow.context_dim and context is None and not flow._context_columns):
        raise ValueError(
            "Parquet files are read by names of columns, and the flow has none: set flow.columns (and context_columns)"
        )
    read = delayed(tasks.parquet, pure=True)
    arrays = {
        name: da.concatenate(
            [da.from_delayed(read(part, names, name), (math.nan, len(names)), float) for part in paths.to_delayed()]
        )
        for name, names in wanted.items()
        if names
    }
    return arrays["X"], arrays.get("context", context)


# --- rows ---------------------------------------------------------------------------------------------------------


def mapped(verb: tasks.Verb, flow: Any, X: Any, context: Any, weight: Any = None) -> Any:
    """A verb on rows, chunk by chunk: an array of one number a row (pairs for a map, several terms of a score), or a frame."""
    one, given = (context, None) if isinstance(context, np.ndarray) else (None, context)
    options: dict[str, Any] = {"verb": verb, "one": one}
    x, c, w = _empty(X, flow.dim), _empty(given, flow.context_dim), _empty(weight, 0)
    none = tasks.rows(x, c, w, tasks.Carried(b"", "", flow), **options)
    node = carried(flow)
    if is_frame(X):
        return X.map_partitions(tasks.rows, given, weight, node, meta=none, align_dataframes=False, **options)
    terms = verb is tasks.terms
    # Pairs of an argument and its axes, of which a task gets those that the result has not in a list of one chunk.
    arguments = [
        (X, "ij"),
        (given, None if given is None else "ik"),
        (weight, None if weight is None else "i"),
        (node, None),
    ]
    return module("dask.array").blockwise(
        tasks.rows, "in" if terms else "i", *itertools.chain.from_iterable(arguments), concatenate=False, align_arrays=False,
        adjust_chunks={"i": X.chunks[0]}, new_axes={"n": none.shape[1]} if terms else None, token=f"penstock-{verb.__name__}",
        **_typed(np.float64 if terms else flow.dtype, 2 if terms else 1), **options,
    )  # fmt: skip


def _empty(values: Any, width: int) -> Any:
    """No rows of a collection."""
    if values is None:
        return None
    if is_frame(values):
        return values._meta
    return np.zeros((0, width) if width else 0, values.dtype)


def pair(found: Any, flow: Any) -> tuple[Any, Any]:
    """Rows and one number a row, of chunks or partitions that hold both."""
    if is_frame(found):
        *names, last = found.columns
        return found[names], found[last]
    axis = found.ndim
    chunks = (*found.chunks, (flow.dim,))
    rows = found.map_blocks(itemgetter(0), new_axis=axis, chunks=chunks, **_typed(flow.dtype, axis + 1))
    return rows, found.map_blocks(itemgetter(1), **_typed(flow.dtype, axis))


# --- draws --------------------------------------------------------------------------------------------------------


def drawn(
    verb: tasks.Verb, flow: Any, n: Any, context: Any, chunks: Any, key: int, first: int, first_context: int, raw: bool
) -> Any:
    """Draws, chunk by chunk: an array of rows, or one of pairs of rows and their log-densities."""
    da = module("dask.array")
    _validate.instance(flow, (Flow, Ensemble), name="flow")
    wanted = _validate.draws(n, name="n")
    if len(wanted) > 1:
        raise TypeError(f"n must be an integer, got {n!r}")
    own = is_array(context)
    if not own:
        context = _validate.as_contexts(flow._named_context(context), flow.context_dim)
    _validate.no_context(None if flow.context_dim else context)
    if own:
        context = _array(context, (flow.context_dim,), "context")
        if not _known(context.chunks[0]):
            raise ValueError(
                "context must have chunks of known sizes here: context.compute_chunk_sizes() computes them"
            )
    if context is not None and context.ndim not in (1, 2):
        raise ValueError(
            f"context must have shape ({flow.context_dim},) or (m, {flow.context_dim}), got {context.shape}"
        )
    many = () if context is None or context.ndim == 1 else context.shape[:1]
    shape = (*many, *wanted)
    if not shape:
        raise ValueError("n must be given, unless there are rows of context")
    _validate.number_of_first(first, math.prod(wanted), DRAWS, name="first")
    _validate.number_of_first(first_context, math.prod(many), CONTEXTS, name="first_context")
    if isinstance(chunks, str) and own:
        chunks = (context.chunks[0], chunks)[: len(shape)]
    size = np.dtype((np.void, flow.dim * flow.dtype.itemsize))  # of a draw
    sizes = da.core.normalize_chunks(chunks, shape, dtype=size)
    options: dict[str, Any] = {"verb": verb, "key": key, "raw": raw}
    one = None if many else context
    tasks.draw(
        tasks.Carried(b"", "", flow), 0 if wanted else None, np.zeros((0, flow.context_dim)) if many else one, 0, 0, **options
    )  # fmt: skip

    node = carried(flow)
    sources = [node]
    if many:
        context = (context if own else da.from_array(context)).rechunk((sizes[0], -1))
        sources.append(context)
    tail = (0,) if verb is tasks.sample else ()
    name = f"penstock-{verb.__name__}-" + module("dask").base.tokenize(
        node.key, sizes, context, first, first_context, *options.values()
    )
    do = partial(tasks.draw, **options)
    graph = {}
    for i, (_, c) in enumerate(_numbered(sizes[0], first_context) if many else [(1, first_context)]):
        given = (context.name, i, 0) if many else one
        for j, (count, d) in enumerate(_numbered(sizes[-1], first) if wanted else [(None, first)]):
            place = (*((i,) if many else ()), *((j,) if wanted else ()))
            graph[(name, *place, *tail)] = (do, node.key, count, given, d, c)
    layers = module("dask.highlevelgraph").HighLevelGraph.from_collections(name, graph, sources)
    chunks = (*sizes, (flow.dim,)) if tail else sizes
    return da.Array(layers, name, chunks, **_typed(flow.dtype, len(chunks)))


def _numbered(sizes: Sequence[int], first: int) -> Iterator[tuple[int, int]]:
    """The sizes of chunks, each with the number of its first thing."""
    return zip(sizes, itertools.accumulate(sizes, initial=first), strict=False)


# --- scores -------------------------------------------------------------------------------------------------------


def sizes_of(X: Any) -> tuple[int, ...]:
    """How many rows chunks or partitions have. Where that is unknown it is computed, with a word; files tell it for nothing."""
    dask = module("dask")
    if is_array(X) and _known(X.chunks[0]):
        return tuple(X.chunks[0])
    if is_bag(X):
        return dask.compute(*map(dask.delayed(tasks.parquet_rows), X.to_delayed()))  # type: ignore[no-any-return]
    warn(
        "X has chunks of unknown sizes: score computes these first, and reads X twice; X.compute_chunk_sizes() of an array, "
        "to_dask_array(lengths=True) of a DataFrame make them known",
        PenstockWarning,
    )
    parts = X.to_delayed()
    return dask.compute(*map(dask.delayed(len), parts[:, 0] if is_array(X) else parts))  # type: ignore[no-any-return]


def whole_blocks(sizes: Sequence[int], block: int) -> tuple[int, ...]:
    """Sizes of chunks that end with blocks, the last one with the rows: each end moves up to the next end of a block."""
    n = sum(sizes)
    ends = sorted({min(-(-end // block) * block, n) for end in itertools.accumulate(sizes, initial=0)})
    return tuple(end - start for start, end in itertools.pairwise(ends)) or (0,)


def score(terms: Any, sizes: tuple[int, ...]) -> Any:
    """The mean of terms, (rows, 1 or 2) in chunks of such sizes: each chunk sums whole blocks, the last task the blocks' sums.

    Only what lies between the end of a chunk and the next end of a block moves.
    """
    da = module("dask.array")
    if is_frame(terms):
        terms = terms.to_dask_array()
    terms = da.Array(terms.dask, terms.name, (sizes, terms.chunks[1]), **_typed(np.float64, 2))
    terms = terms.rechunk((whole_blocks(sizes, BLOCK), -1), method="tasks")
    counts = tuple(-(-size // BLOCK) for size in terms.chunks[0])
    sums = terms.map_blocks(tasks.block_sums, block=BLOCK, chunks=(counts, (3,)), **_typed(np.float64, 2))
    one = sums.rechunk((-1, -1), method="tasks")
    return one.map_blocks(tasks.mean, drop_axis=[0, 1], **_typed(np.float64, 0))
