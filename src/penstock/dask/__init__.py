"""Flows on dask: densities, maps, draws and scores of arrays, DataFrames and Parquet files that many processes hold.

Everything is lazy and computed by the verbs of the flow itself, so that the numbers are those of one process, bit for bit,
however the rows are cut and however many workers there are. ``graph.py`` lays out tasks, ``tasks.py`` is what workers run. dask
is imported when a verb is called.
"""

from __future__ import annotations

from typing import Any

from penstock import _validate
from penstock._typing import Rng
from penstock.dask import graph, tasks
from penstock.ensemble import Ensemble
from penstock.flow import Flow

__all__ = ["log_prob", "sample", "sample_and_log_prob", "score", "to_data", "to_latent"]


def log_prob(flow: Flow | Ensemble, X: Any, context: Any = None) -> Any:
    """The log-density of rows, as :meth:`penstock.Flow.log_prob` gives it.

    Parameters
    ----------
    flow : Flow or Ensemble
        As it is now: what happens to it later does not change the result.
    X : dask array of shape (rows, dim), dask DataFrame, or bag of paths of Parquet files
        Chunks of rows may have unknown sizes. A DataFrame has the columns of the flow, in any order. Of Parquet files the
        columns of the flow are read, and those of its context where ``context`` is None.
    context : array of shape (c,), or rows of the kind of ``X``, optional
        For a flow with a context: one for all rows, or one for each. Rows of context are brought into the chunks of ``X``;
        where sizes are unknown, both must have the same number of chunks.

    Returns
    -------
    dask array of shape (rows,), or Series for a DataFrame
        In the dtype of the flow, in the chunks or partitions of ``X``.

    Raises
    ------
    ImportError
        Without dask.
    ValueError, TypeError
        When shapes, columns, dtypes or chunks do not fit; the message names the argument. What only the rows tell raises when
        they are computed.

    Examples
    --------
    >>> import dask.array as da
    >>> import penstock as ps
    >>> flow = ps.realnvp(2, rng=0)
    >>> ps.dask.log_prob(flow, da.zeros((3, 2), chunks=(2, 2))).compute().round(3)
    array([-1.838, -1.838, -1.838], dtype=float32)
    """
    return graph.mapped(tasks.log_prob, flow, *graph.taken(flow, X, context))


def to_latent(flow: Flow, X: Any, context: Any = None) -> tuple[Any, Any]:
    """Map rows from the data side to the latent side, as :meth:`penstock.Flow.to_latent` does.

    Parameters
    ----------
    flow : Flow
    X, context
        As for :func:`log_prob`.

    Returns
    -------
    z : dask array of shape (rows, dim), or DataFrame with columns ``z0``, ``z1`` …
    log_det : dask array of shape (rows,), or Series

    Raises
    ------
    ImportError, ValueError, TypeError
        As for :func:`log_prob`; an ensemble has no latent side.

    Examples
    --------
    >>> import dask.array as da
    >>> import penstock as ps
    >>> z, log_det = ps.dask.to_latent(ps.realnvp(2, rng=0), da.ones((3, 2), chunks=(2, 2)))
    >>> z.chunks, log_det.chunks
    (((2, 1), (2,)), ((2, 1),))
    """
    return graph.pair(graph.mapped(tasks.to_latent, flow, *graph.taken(flow, X, context)), flow)


def to_data(flow: Flow, z: Any, context: Any = None) -> tuple[Any, Any]:
    """Map rows from the latent side to the data side, as :meth:`penstock.Flow.to_data` does.

    Parameters
    ----------
    flow : Flow
    z : dask array of shape (rows, dim), or dask DataFrame, whose columns are taken by position
    context
        As for :func:`log_prob`.

    Returns
    -------
    x : dask array of shape (rows, dim), or DataFrame with the columns of the flow
    log_det : dask array of shape (rows,), or Series

    Raises
    ------
    ImportError, ValueError, TypeError
        As for :func:`to_latent`.

    Examples
    --------
    >>> import dask.array as da
    >>> import penstock as ps
    >>> x, log_det = ps.dask.to_data(ps.realnvp(2, rng=0), da.ones((3, 2), chunks=(2, 2)))
    >>> x.compute().shape
    (3, 2)
    """
    if graph.is_bag(z):
        raise TypeError("z must be a dask array or a dask DataFrame, got a bag: latent rows have no names of columns")
    return graph.pair(graph.mapped(tasks.to_data, flow, *graph.taken(flow, z, context, "z")), flow)


def score(
    flow: Flow | Ensemble,
    X: Any,
    context: Any = None,
    *,
    sample_weight: Any = None,
) -> Any:
    """The mean log-density of rows, as :meth:`penstock.Flow.score` gives it up to the order of sums.

    The log-densities of every 65536 rows of the whole are added up by themselves, then these sums by a binary tree: the bits of
    the result depend on the rows alone. Up to 65536 rows without weights they are those of ``Flow.score``.

    Parameters
    ----------
    flow, X, context
        As for :func:`log_prob`. Where sizes of chunks are unknown they are computed here, with a warning because that reads
        ``X`` once more; the footers of Parquet files tell them for nothing.
    sample_weight : dask array or Series of shape (rows,), optional
        Weights, of which only ratios matter, in chunks as for ``context``.

    Returns
    -------
    dask array of shape (), float64
        ``float`` computes it. NaN for no rows.

    Raises
    ------
    ImportError, ValueError, TypeError
        As for :func:`log_prob`. A sum of weights that is not positive raises ValueError when it is computed.

    Examples
    --------
    >>> import dask.array as da
    >>> import penstock as ps
    >>> round(float(ps.dask.score(ps.realnvp(2, rng=0), da.zeros((3, 2), chunks=(2, 2)))), 4)
    -1.8379
    """
    rows, given = graph.taken(flow, X, context)
    weight = None if sample_weight is None else graph.beside(sample_weight, rows, (), "sample_weight")
    terms = graph.mapped(tasks.terms, flow, rows, given, weight)
    return graph.score(terms, graph.sizes_of(X))


def sample(
    flow: Flow | Ensemble,
    n: float | None = None,
    context: Any = None,
    *,
    chunks: Any = "auto",
    rng: Rng = None,
    key: int | None = None,
    first: int = 0,
    first_context: int = 0,
    raw: bool = False,
) -> Any:
    """Draw rows: those that :meth:`penstock.Flow.sample` draws with the same arguments, bit for bit, in any chunks.

    Parameters
    ----------
    flow : Flow or Ensemble
    n : int, optional
        How many, for each row of context; ``1e10`` is read as an integer. By default one for each row of context.
    context : array of shape (c,) or (m, c), or dask array of shape (m, c), optional
        For a flow with a context.
    chunks : int, "auto", or what else dask takes, default "auto"
        Of a result with one number a draw, of shape (n,), (m, n) or (m,); the columns of a draw stay together. By default
        chunks have the size that dask's configuration says, and those of a dask array ``context`` its own rows.
    rng, key, first, first_context, raw
        As for :meth:`penstock.Flow.sample`. A seed is drawn here, so that the result is the same each time it is computed.

    Returns
    -------
    dask array of shape (n, dim), (m, n, dim) or (m, dim), in the dtype of the flow

    Raises
    ------
    ImportError
        Without dask.
    ValueError, TypeError
        When an argument does not fit; the message names it.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.realnvp(2, rng=0)
    >>> draws = ps.dask.sample(flow, 10, chunks=4, rng=0)
    >>> draws.chunks
    ((4, 4, 2), (2,))
    >>> bool((draws.compute() == flow.sample(10, rng=0)).all())
    True
    """
    seed = _validate.key(rng, key)
    return graph.drawn(tasks.sample, flow, n, context, chunks, seed, first, first_context, raw)


def sample_and_log_prob(
    flow: Flow | Ensemble,
    n: float | None = None,
    context: Any = None,
    *,
    chunks: Any = "auto",
    rng: Rng = None,
    key: int | None = None,
    first: int = 0,
    first_context: int = 0,
    raw: bool = False,
) -> tuple[Any, Any]:
    """Draw rows, and give their log-density, as :meth:`penstock.Flow.sample_and_log_prob` does.

    Parameters
    ----------
    flow, n, context, chunks, rng, key, first, first_context, raw
        As for :func:`sample`. Compute the two results together, ``dask.compute(x, log_prob)``: one by itself draws anew.

    Returns
    -------
    x : dask array
        As :func:`sample` gives it.
    log_prob : dask array of one number a draw

    Raises
    ------
    ImportError, ValueError, TypeError
        As for :func:`sample`.

    Examples
    --------
    >>> import penstock as ps
    >>> x, log_prob = ps.dask.sample_and_log_prob(ps.realnvp(2, rng=0), 10, chunks=4, rng=0)
    >>> x.shape, log_prob.shape
    ((10, 2), (10,))
    """
    seed = _validate.key(rng, key)
    both = graph.drawn(tasks.sample_and_log_prob, flow, n, context, chunks, seed, first, first_context, raw)
    return graph.pair(both, flow)
