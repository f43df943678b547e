"""Flows on dask: the bits of one process in any chunks on any workers, flows that travel once, threads that are shared."""

from __future__ import annotations

import doctest
import hashlib
import os
import pickle
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, BY_NAME, CASES, SUPPORTED, bare, built, contexts, points, rng
from helpers import assert_same_bits, both_dtypes, door, python

dask = door("dask")
da, dd, db = door("dask.array"), door("dask.dataframe"), door("dask.bag")
distributed = door("distributed")
pandas = door("pandas")

from penstock import dask as door_of_dask  # noqa: E402
from penstock.dask import graph, tasks  # noqa: E402

Array = np.ndarray[Any, Any]

# What a cluster that ends says of its own sockets and threads.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler:UserWarning"),
]

RECIPES = tuple(case for case in (*CASES, *SUPPORTED) if case.kind == "recipe")
CHUNKINGS = {
    "one": (100,),
    "rows": (1,) * 100,
    "uneven": (1, 64, 7, 28),
    "empty": (0, 65, 0, 0, 35, 0),
}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Two workers, each a process with one thread."""
    options: Any = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as found:
        yield found


@pytest.fixture(autouse=True)
def local() -> Iterator[None]:
    """Without a client, tasks run in the threads of this process."""
    with dask.config.set(scheduler="threads"):
        yield


def flow_of(name: str = "realnvp", dtype: str = "float32") -> Any:
    """A flow of one's own."""
    return bare(built(BY_NAME[name], BACKENDS[0], dtype)).copy()


def rows_of(name: str, flow: Any, rows: int = 100) -> tuple[Array, Array]:
    return points(BY_NAME[name], rows, flow), contexts(BY_NAME[name], rows, flow)


def chunked(values: Array, sizes: tuple[int, ...]) -> Any:
    return da.from_array(values, chunks=(sizes, *values.shape[1:]))


def unknown(values: Any) -> Any:
    """The same array, whose chunks have sizes that nobody has told."""
    return da.Array(values.dask, values.name, ((np.nan,) * values.numblocks[0], *values.chunks[1:]), meta=values)


# -- bits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", RECIPES, ids=lambda case: case.name)
@both_dtypes
def test_two_processes_give_the_bits_of_one(case: Any, dtype: str, client: Any) -> None:
    flow = bare(built(case, BACKENDS[0], dtype))
    x = points(case, 300, flow)
    given = contexts(case, 300, flow) if flow.context_dim else None
    X, C = chunked(x, (1, 130, 0, 64, 105)), None if given is None else chunked(given, (200, 100))
    one = None if given is None else given[0]
    lazy = [
        door_of_dask.log_prob(flow, X, C),
        door_of_dask.score(flow, X, C),
        *door_of_dask.to_latent(flow, X, C),
        *door_of_dask.to_data(flow, X, C),
        door_of_dask.sample(flow, 300, one, chunks=110, rng=5),
        *door_of_dask.sample_and_log_prob(flow, 300, one, chunks=110, rng=5),
    ]
    wanted = [
        flow.log_prob(x, given),
        flow.score(x, given),
        *flow.to_latent(x, given),
        *flow.to_data(x, given),
        flow.sample(300, one, rng=5),
        *flow.sample_and_log_prob(300, one, rng=5),
    ]
    for array, found, right in zip(lazy, client.gather(client.compute(lazy)), wanted, strict=True):
        assert_same_bits(found, right)
        assert (array.dtype, array.shape) == (np.asarray(right).dtype, np.shape(right))


@pytest.mark.parametrize("sizes", CHUNKINGS.values(), ids=CHUNKINGS)
@both_dtypes
def test_chunks_of_any_sizes_give_the_same_bits(sizes: tuple[int, ...], dtype: str) -> None:
    for name in ("nsf", "realnvp_given"):
        flow = flow_of(name, dtype)
        x, c = rows_of(name, flow)
        given = c if flow.context_dim else None
        X, C = chunked(x, sizes), None if given is None else chunked(given, sizes)
        for rows, context in ((X, C), (X.rechunk((-1, 1)), given), (unknown(X), None if C is None else unknown(C))):
            found = door_of_dask.log_prob(flow, rows, context)
            assert found.numblocks == rows.numblocks[:1]
            assert_same_bits(found, flow.log_prob(x, given))
            z, log_det = dask.compute(*door_of_dask.to_latent(flow, rows, context))
            assert_same_bits(z, flow.to_latent(x, given)[0])
            assert_same_bits(log_det, flow.to_latent(x, given)[1])
        one = None if given is None else given[3]
        draws = door_of_dask.sample(flow, 100, one, chunks=(sizes,), rng=2)
        assert draws.chunks == (sizes, (flow.dim,))
        assert_same_bits(draws, flow.sample(100, one, rng=2))
        if given is not None:
            assert_same_bits(door_of_dask.log_prob(flow, X, one), flow.log_prob(x, one))
            for n in (None, 5):
                for context in (given, C):
                    many = door_of_dask.sample(flow, n, context, chunks=(sizes, 2)[: 1 if n is None else 2], key=7)
                    assert_same_bits(many, flow.sample(n, given, key=7))
                x_, log_prob = door_of_dask.sample_and_log_prob(flow, n, C, key=7, first=3, first_context=2)
                right = flow.sample_and_log_prob(n, given, key=7, first=3, first_context=2)
                assert_same_bits(x_, right[0])
                assert_same_bits(log_prob, right[1])


def test_an_ensemble_is_a_flow_without_a_latent_side(client: Any) -> None:
    ensemble = ps.Ensemble([flow_of("nsf"), flow_of("nsf")])
    ensemble.weights = [1, 3]
    x, _ = rows_of("nsf", flow_of("nsf"))
    X = chunked(x, (60, 40))
    lazy = (
        door_of_dask.log_prob(ensemble, X),
        door_of_dask.score(ensemble, X),
        door_of_dask.sample(ensemble, 50, chunks=7, rng=1),
    )
    wanted = ensemble.log_prob(x), ensemble.score(x), ensemble.sample(50, rng=1)
    for found, right in zip(client.gather(client.compute(lazy)), wanted, strict=True):
        assert_same_bits(found, right)
    with pytest.raises(AttributeError, match="no to_latent"):
        door_of_dask.to_latent(ensemble, X)


def test_numbers_of_rows_may_exceed_31_bits() -> None:
    flow, n = flow_of("nsf"), 2**33 + 5
    draws = door_of_dask.sample(flow, float(n), chunks=2**22, rng=0)
    assert draws.shape == (n, flow.dim)
    assert_same_bits(draws[-3:], flow.sample(3, rng=0, first=n - 3))
    first = 2**55
    assert_same_bits(
        door_of_dask.sample(flow, 9, chunks=4, rng=0, first=first)[5:], flow.sample(4, rng=0, first=first + 5)
    )
    X = da.zeros((n, flow.dim), chunks=(2**31 + 9, flow.dim))
    assert door_of_dask.log_prob(flow, X).chunks == ((2**31 + 9,) * 3 + (n - 3 * (2**31 + 9),),)
    assert door_of_dask.score(flow, X).shape == ()
    sizes = graph.whole_blocks(X.chunks[0], graph.BLOCK)
    assert sum(sizes) == n
    assert [size % graph.BLOCK for size in sizes[:-1]] == [0] * (len(sizes) - 1)
    given = flow_of("realnvp_given")
    c = rows_of("realnvp_given", given, 4)[1]
    many = door_of_dask.sample(given, 2**31 + 1, c, chunks=(3, 2**20), rng=0, first_context=2**39)
    assert_same_bits(many[3, -2:], given.sample(2, c[3:], rng=0, first=2**31 - 1, first_context=2**39 + 3)[0])


def test_what_happens_to_the_flow_later_changes_nothing() -> None:
    flow = flow_of("nsf")
    x, _ = rows_of("nsf", flow)
    right = flow.log_prob(x), flow.sample(5, rng=0)
    lazy = door_of_dask.log_prob(flow, chunked(x, (50, 50))), door_of_dask.sample(flow, 5, rng=0)
    flow.params = 0 * flow.params
    for found, value in zip(dask.compute(*lazy), right, strict=True):
        assert_same_bits(found, value)
    unseeded = door_of_dask.sample(flow, 5, chunks=2)
    assert_same_bits(unseeded, unseeded.compute())


# -- scores -------------------------------------------------------------------------------------


def tree(values: list[float]) -> float:
    """Neighbours added up, level by level."""
    while len(values) > 1:
        values = [sum(values[i : i + 2]) for i in range(0, len(values), 2)]
    return values[0]


@pytest.mark.parametrize("sizes", CHUNKINGS.values(), ids=CHUNKINGS)
@pytest.mark.parametrize("block", [1, 8, 100, 1 << 16])
def test_a_score_adds_up_blocks_of_rows_along_a_tree(
    sizes: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "BLOCK", block)
    flow = flow_of("nsf", "float64")
    x, _ = rows_of("nsf", flow)
    log_prob = flow.log_prob(x)
    right = tree([log_prob[i : i + block].sum() for i in range(0, len(x), block)]) / len(x)
    assert float(door_of_dask.score(flow, chunked(x, sizes))) == right
    weight = rng("weights").normal(1, 1, len(x))
    weight[[0, 50]] = 0
    x[50] = np.nan
    found = set()
    for factor in (1.0, 2.0**1020, 2.0**-1000):  # sums of such weights would overflow
        for own in (weight * factor, chunked(weight * factor, sizes)):
            found.add(float(door_of_dask.score(flow, chunked(x, sizes), sample_weight=own)))
    one = float(door_of_dask.score(flow, da.from_array(x), sample_weight=weight))
    assert found == {one}
    assert one == pytest.approx(flow.score(x, sample_weight=weight), rel=1e-13)


def test_a_score_of_many_blocks_depends_on_the_rows_alone(client: Any) -> None:
    flow = flow_of("realnvp_relu")
    x = points(BY_NAME["realnvp_relu"], 5 * 2**16 + 77, flow)
    scores = [
        door_of_dask.score(flow, chunked(x, sizes))
        for sizes in ((len(x),), (1, 65534, 3, 0, 131071, len(x) - 196609), (10_000,) * 32 + (len(x) - 320_000,))
    ]
    found = [float(value) for value in (*client.gather(client.compute(scores)), *dask.compute(*scores))]
    assert len(set(found)) == 1
    assert found[0] == pytest.approx(flow.score(x), rel=1e-13)


def test_scores_of_odd_rows_are_those_of_a_flow() -> None:
    flow = flow_of("nsf", "float64")
    x, _ = rows_of("nsf", flow, 10)
    assert np.isnan(float(door_of_dask.score(flow, chunked(x[:0], (0,)))))
    X = chunked(x, (4, 6))
    assert np.isnan(float(door_of_dask.score(flow, X, sample_weight=np.zeros(10))))
    with pytest.raises(ValueError, match="the sum of sample_weight must be positive"):
        door_of_dask.score(flow, X, sample_weight=-np.ones(10)).compute()
    with pytest.raises(ValueError, match="sample_weight"):
        door_of_dask.score(flow, X, sample_weight=np.full(10, np.inf)).compute()
    x[3] = np.inf
    assert float(door_of_dask.score(flow, chunked(x, (4, 6)))) == -np.inf == flow.score(x)


def test_a_score_computes_sizes_that_are_unknown_and_says_so() -> None:
    flow = flow_of("nsf")
    x, _ = rows_of("nsf", flow)
    X = unknown(chunked(x, (30, 0, 70)))
    with pytest.warns(ps.PenstockWarning, match="score computes these first"):
        found = door_of_dask.score(flow, X)
    assert float(found) == flow.score(x)
    assert np.isnan(X.chunks[0]).all()  # the caller's own array stays as it was


# -- DataFrames and files -----------------------------------------------------------------------


@pytest.fixture
def named() -> tuple[Any, Any, Any]:
    """A flow with names of columns, rows in another order of columns, and their contexts."""
    flow = flow_of("realnvp_given")
    flow.columns, flow.context_columns = ["a", "b", "c"], ["z", "y"]
    x, c = rows_of("realnvp_given", flow)
    index = np.arange(100) * 3
    return flow, pandas.DataFrame(x, index, flow.columns), pandas.DataFrame(c, index, flow.context_columns)


def test_columns_of_a_dataframe_go_by_their_names(named: Any, client: Any) -> None:
    flow, x, c = named
    X, C = dd.from_pandas(x[["c", "a", "b"]], npartitions=3), dd.from_pandas(c[["y", "z"]], npartitions=3)
    right = flow.log_prob(x, c)
    for given, value in ((C, right), (c.iloc[0].to_numpy(), flow.log_prob(x, c.iloc[0].to_numpy()))):
        found = door_of_dask.log_prob(flow, X, given)
        assert (found.name, found.dtype) == ("log_prob", np.float32)
        found = client.compute(found).result()
        assert found.index.equals(x.index)
        assert_same_bits(found.to_numpy(), value)
    z, log_det = dask.compute(*door_of_dask.to_latent(flow, X, C))
    assert list(z.columns) == ["z0", "z1", "z2"]
    assert_same_bits(z.to_numpy(), flow.to_latent(x, c)[0])
    assert_same_bits(log_det.to_numpy(), flow.to_latent(x, c)[1])
    back, _ = door_of_dask.to_data(flow, dd.from_pandas(z, npartitions=3), C)
    assert list(back.columns) == ["a", "b", "c"]
    assert_same_bits(back.compute().to_numpy(), flow.to_data(z.to_numpy(), c)[0])
    weight = dd.from_pandas(pandas.Series(np.arange(100.0), x.index), npartitions=3)
    with pytest.warns(ps.PenstockWarning, match="unknown sizes"):
        assert float(door_of_dask.score(flow, X, C)) == flow.score(x, c)
    with pytest.warns(ps.PenstockWarning, match="unknown sizes"):
        found = float(door_of_dask.score(flow, X, C, sample_weight=weight))
    assert found == pytest.approx(flow.score(x, c, sample_weight=np.arange(100.0)), rel=1e-13)


def test_parquet_files_are_read_by_names_of_columns(named: Any, tmp_path: Path, client: Any) -> None:
    door("pyarrow")
    flow, x, c = named
    table = pandas.concat([x, c], axis=1)[["y", "c", "z", "a", "b"]].assign(other="text")
    paths = [str(tmp_path / f"{i}.parquet") for i in range(3)]
    for path, part in zip(paths, (table[:50], table[50:50], table[50:]), strict=True):
        part.to_parquet(path)
    bag = db.from_sequence(paths, npartitions=2)
    found = door_of_dask.log_prob(flow, bag)
    assert_same_bits(client.compute(found).result(), flow.log_prob(x, c))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # footers tell how many rows there are
        assert float(door_of_dask.score(flow, bag)) == flow.score(x, c)
    one = c.iloc[0].to_numpy()
    assert_same_bits(door_of_dask.log_prob(flow, bag, one), flow.log_prob(x, one))
    flow.columns = ["a", "b", "d"]
    with pytest.raises(ValueError, match="X lacks 'd'"):
        door_of_dask.log_prob(flow, bag).compute()
    flow.columns = None
    with pytest.raises(ValueError, match=r"set flow\.columns"):
        door_of_dask.log_prob(flow, bag)


# -- workers ------------------------------------------------------------------------------------


def count_arrivals() -> None:
    """On a worker: count from now on how often a flow arrives, and forget those that are unpacked."""
    begin = getattr(tasks.Carried.__init__, "begin", tasks.Carried.__init__)

    def counted(self: Any, *arguments: Any) -> None:
        tasks.arrived += 1  # type: ignore[attr-defined]
        begin(self, *arguments)

    counted.begin = begin  # type: ignore[attr-defined]
    tasks.arrived = 0  # type: ignore[attr-defined]
    tasks.Carried.__init__ = counted  # type: ignore[method-assign]
    tasks._unpacked.cache_clear()


def arrivals() -> tuple[int, int]:
    return tasks.arrived, tasks._unpacked.cache_info().misses  # type: ignore[attr-defined]


def test_a_flow_travels_once_to_a_worker_and_is_unpacked_once(client: Any) -> None:
    flow = flow_of("nsf")
    flow.columns = ["a", "b", "c"]
    x, _ = rows_of("nsf", flow)
    X = chunked(x, (5,) * 20)
    frame = dd.from_pandas(pandas.DataFrame(x, columns=flow.columns), npartitions=20)
    for lazy in (
        [door_of_dask.log_prob(flow, X), *door_of_dask.to_latent(flow, X), door_of_dask.score(flow, X)],
        [door_of_dask.sample(flow, 100, chunks=5)],
        [door_of_dask.log_prob(flow, frame)],
    ):
        client.run(count_arrivals)
        client.gather(client.compute(lazy))
        counts = list(client.run(arrivals).values())
        print(counts)
        assert max(arrived for arrived, _ in counts) == 1
        assert all(unpacked == arrived for arrived, unpacked in counts)
        assert client.run_on_scheduler(lambda: tasks._unpacked.cache_info().misses) == 0


def test_few_flows_are_kept() -> None:
    tasks._unpacked.cache_clear()
    for seed in range(9):
        one = graph.carried(ps.realnvp(2, rng=seed)).compute()
        other, same = (pickle.loads(pickle.dumps(one)) for _ in range(2))
        assert other.flow is same.flow
    assert tasks._unpacked.cache_info()[1:] == (9, 4, 4)
    flow = ps.realnvp(2, rng=0)
    assert graph.carried(flow).key == graph.carried(flow.copy()).key != graph.carried(ps.realnvp(2, rng=1)).key


def test_threads_that_begin_together_unpack_a_flow_once(monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[Any] = []

    def slow(carried: Any) -> Any:
        time.sleep(0.05)
        unpacked.append(pickle.loads(carried.data))
        return unpacked[-1]

    monkeypatch.setattr(tasks, "_unpacked", slow)
    carried = pickle.loads(pickle.dumps(graph.carried(ps.realnvp(2, rng=0)).compute()))
    with ThreadPoolExecutor(4) as pool:
        flows = list(pool.map(lambda _: carried.flow, range(4)))
    assert len(unpacked) == 1
    assert all(flow is unpacked[0] for flow in flows)


def digest(rows: Array) -> Array:
    """The hash of a chunk, as an array of its own."""
    return np.array([[hashlib.sha256(rows.tobytes()).hexdigest()]])


def test_a_worker_that_is_killed_changes_nothing(client: Any) -> None:
    flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0)
    n, chunk = 10_000_000, 250_000
    draws = door_of_dask.sample(flow, n, chunks=chunk, rng=3)
    hashes = draws.map_blocks(
        digest, dtype="U64", chunks=((1,) * draws.numblocks[0], (1,)), meta=np.zeros((0, 0), "U64")
    )
    kept, found = client.persist([draws, hashes])
    parts = distributed.futures_of(kept)
    while sum(part.status == "finished" for part in parts) < len(parts) // 3:
        time.sleep(0.002)
    assert any(part.status != "finished" for part in parts)
    pids = client.run(os.getpid)
    os.kill(next(iter(pids.values())), signal.SIGKILL)
    found = client.compute(found).result().ravel()
    assert set(client.run(os.getpid).values()) != set(pids.values())
    right = [digest(flow.sample(chunk, rng=3, first=first))[0, 0] for first in range(0, n, chunk)]
    assert list(found) == right
    client.wait_for_workers(2)


def test_a_task_has_its_share_of_the_threads(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert client.submit(tasks.share).result() == 1

    def told(self: Any, X: Any, context: Any = None) -> Any:
        return np.full(len(X), ps.num_threads(), self.dtype)

    monkeypatch.setattr(ps.Flow, "log_prob", told)
    lazy = door_of_dask.log_prob(flow_of("nsf"), da.zeros((8, 3), chunks=(2, 3)))
    before = ps.num_threads()
    ps.set_num_threads(6)
    try:
        assert set(lazy.compute(scheduler="threads")) == {1}
        assert set(lazy.compute(scheduler="synchronous")) == {6}
        assert ps.num_threads() == 6
        for slots, given, share in ((1, "6", 6), (2, "6", 3), (4, "6", 1), (8, "6", 1), (1, "", 1), (2, "", 1)):
            monkeypatch.setenv("PENSTOCK_NUM_THREADS", given)
            options: Any = {"n_workers": 1, "threads_per_worker": slots, "processes": False, "dashboard_address": ":0"}
            with (
                distributed.LocalCluster(**options) as cluster,
                distributed.Client(cluster, set_as_default=False) as own,
            ):
                assert set(own.compute(lazy).result()) == {share}
    finally:
        ps.set_num_threads(before)


# -- what does not fit --------------------------------------------------------------------------


def test_errors_name_the_argument_what_was_expected_and_what_came(named: Any) -> None:
    flow, x, c = named
    X, C = da.from_array(x.to_numpy(), chunks=(40, 3)), da.from_array(c.to_numpy(), chunks=(40, 2))
    frame, given = dd.from_pandas(x, npartitions=3), dd.from_pandas(c, npartitions=3)
    for arguments, kind, words in (
        ((None, X), TypeError, "flow must be .*got NoneType"),
        ((flow, x.to_numpy(), C), TypeError, "X must be a dask array, a dask DataFrame or a bag .*got ndarray"),
        ((flow, X[:, :2], C), ValueError, r"X must have shape \(rows, 3\), got \(100, 2\)"),
        ((flow, X[0], C), ValueError, r"X must have shape \(rows, 3\), got \(3,\)"),
        ((flow, X.astype(complex), C), TypeError, "X must .*real"),
        ((flow, X), ValueError, "context must be given"),
        ((flow, X, C[:99]), ValueError, "context must have the 100 rows of X, got 99"),
        ((flow, X, C[:, :1]), ValueError, r"context must have shape \(rows, 2\), got \(100, 1\)"),
        ((flow, X, C[0]), ValueError, r"context must have shape \(rows, 2\), got \(2,\)"),
        ((flow, X, c.to_numpy()[:7]), ValueError, "context must have the 100 rows of X, got 7"),
        ((flow, X, np.zeros((2, 3, 2))), ValueError, "context must have shape"),
        ((flow, unknown(X), C.rechunk((50, 2))), ValueError, "context must have the chunks of X.*3, got 2"),
        ((flow, X, given), TypeError, "context must be an array, as X is, got a dask DataFrame"),
        ((flow, frame, C), TypeError, "context must be a dask DataFrame or Series, as X is, got Array"),
        ((flow, frame, dd.from_pandas(c, npartitions=2)), ValueError, "context must have the 3 partitions of X, got 2"),
        ((flow, frame[["a", "b"]], given), ValueError, "X lacks 'c'"),
        ((flow, frame, given[["z"]]), ValueError, "context lacks 'y'"),
        ((flow_of("nsf"), X, C), ValueError, "context was given, but this flow has none"),
    ):
        for verb in (door_of_dask.log_prob, door_of_dask.score, door_of_dask.to_latent):
            with pytest.raises(kind, match=words):
                verb(*arguments)
    for late in (
        (flow, unknown(X), unknown(C[::-1].rechunk((30, 2))[:90])),
        (flow, frame, dd.from_pandas(c.set_index(c.index + 1), npartitions=3)),
    ):
        with pytest.raises(ValueError, match="context must have"):
            door_of_dask.log_prob(*late).compute()
    with pytest.raises(TypeError, match="got a bag: latent rows have no names"):
        door_of_dask.to_data(flow, db.from_sequence(["a"]))
    with pytest.raises(ValueError, match="sample_weight must have the 100 rows of X, got 3"):
        door_of_dask.score(flow, X, C, sample_weight=np.ones(3))
    for options, kind, words in (
        ({"n": (2, 3), "context": C[:1]}, TypeError, "n must be an integer"),
        ({"n": 2.5, "context": C}, TypeError, "n must be an integer, got float"),
        ({"n": 3}, ValueError, "context must be given"),
        ({"context": c.to_numpy()[0]}, ValueError, "n must be given"),
        ({"n": 3, "context": unknown(C)}, ValueError, "context must have chunks of known sizes"),
        ({"n": 3, "context": np.zeros((1, 2, 2))}, ValueError, "context must have shape"),
        ({"n": 3, "context": C, "first": 2**56}, ValueError, "first must be at least 0"),
        ({"n": 3, "context": C, "first_context": 2**40}, ValueError, "first_context must be"),
        ({"n": 3, "context": C, "rng": "seed"}, TypeError, "rng must be"),
        ({"n": 3, "context": C, "chunks": ((1, 1), 3)}, ValueError, "[Cc]hunks"),
    ):
        for verb in (door_of_dask.sample, door_of_dask.sample_and_log_prob):
            with pytest.raises(kind, match=words):
                verb(flow, **options)


def test_a_module_that_another_thread_is_importing_hinders_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask.array", "dask.dataframe", "dask.bag", "distributed"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert not graph.is_frame(np.zeros(3))
    assert not graph.is_bag(np.zeros(3))
    assert tasks._worker() is None


def test_importing_the_door_imports_no_dask() -> None:
    code = "import sys, penstock as ps; ps.dask.log_prob; print([m for m in sys.modules if m.split('.')[0] == 'dask'])"
    assert python(code).stdout.strip() == "[]"


def test_the_examples_of_the_door_give_what_they_print() -> None:
    found = doctest.testmod(door_of_dask)
    assert found.failed == 0
    assert found.attempted > 10
