"""Columns have names: whatever a table is of, its columns find their places, and what does not fit is named."""

from __future__ import annotations

import copy
import pickle
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, rng
from helpers import assert_same_bits, python

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")
pa = pytest.importorskip("pyarrow")

Array = np.ndarray[Any, Any]

NAMES, GIVEN = ("mag", "z", "size"), ("epoch", "band")
X = rng("columns").standard_normal((300, 3)) * [1.0, 3.0, 0.1] + [5.0, 0.0, -2.0]
C = rng("columns given").standard_normal((300, 2))
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 60, "rng": 0}
backend = BACKENDS[0]


def new(dim: int = 3, context_dim: int = 0) -> ps.Flow:
    return ps.realnvp(dim, context_dim=context_dim, layers=2, hidden=(8,), rng=0, backend=backend)


class OnlyArrow:
    """A table that has nothing but its stream."""

    def __init__(self, table: Any) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._table.__arrow_c_stream__(requested_schema)


def _records(columns: dict[str, Array], order: str = "=") -> Array:
    out = np.zeros(len(next(iter(columns.values()))), [(name, f"{order}f8") for name in columns])
    for name, column in columns.items():
        out[name] = column
    return out


TABLES: dict[str, Callable[[dict[str, Array]], Any]] = {
    "pandas": pd.DataFrame,
    "pandas, in pieces": lambda columns: pd.concat([pd.Series(c, name=name) for name, c in columns.items()], axis=1),
    "pandas of pyarrow": lambda columns: pd.DataFrame(columns).astype("double[pyarrow]"),
    "pandas, nullable": lambda columns: pd.DataFrame(columns).astype("Float64"),
    "pandas, objects": lambda columns: pd.DataFrame(columns).astype(object),
    "polars": pl.DataFrame,
    "polars, lazy": lambda columns: pl.DataFrame(columns).lazy(),
    "pyarrow": pa.table,
    "a batch of pyarrow": pa.record_batch,
    "a stream of Arrow": lambda columns: OnlyArrow(pa.table(columns)),
    "records": _records,
    "records, big-endian": lambda columns: _records(columns, ">"),
    "a recarray": lambda columns: _records(columns).view(np.recarray),
    "a mapping": lambda columns: {name: list(column) for name, column in columns.items()},
    "a mapping of Series": lambda columns: {name: pl.Series(column) for name, column in columns.items()},
}
each_table = pytest.mark.parametrize("table", list(TABLES))


def of(table: str, names: tuple[str, ...], rows: Array) -> Any:
    """Columns of these names as a table of some kind."""
    return TABLES[table](dict(zip(names, np.ascontiguousarray(rows.T), strict=True)))


def shuffled(table: str) -> Any:
    return of(table, ("size", "mag", "z"), X[:, [2, 0, 1]])


@each_table
def test_a_table_in_another_order_gives_the_bits_of_the_first_order(table: str) -> None:
    plain = new().fit(X, **QUICK)
    flow = new().fit(of(table, NAMES, X), **QUICK)
    assert flow.columns == NAMES
    assert_same_bits(flow.params, plain.params)
    assert plain.columns is None
    for verb in ("log_prob", "score", "to_latent", "log_prob_and_grad", "loss_and_grad"):
        for got, expected in zip(
            np.atleast_1d(getattr(flow, verb)(shuffled(table))) if verb == "score" else _parts(flow, verb, table),
            np.atleast_1d(plain.score(X)) if verb == "score" else _parts(plain, verb, None),
            strict=True,
        ):
            assert_same_bits(got, expected)
    ones = np.ones(len(X))
    assert_same_bits(flow.log_prob_vjp(shuffled(table), ones)[0], plain.log_prob_vjp(X, ones)[0])
    assert_same_bits(flow.to_latent_vjp(shuffled(table), X, ones)[0], plain.to_latent_vjp(X, X, ones)[0])
    # The gradient of rows of data has their names, too.
    assert_same_bits(flow.to_data_vjp(X, shuffled(table), None)[0], plain.to_data_vjp(X, X, None)[0])
    again = flow.copy().fit(shuffled(table), **QUICK)
    assert_same_bits(again.params, plain.copy().fit(X, **QUICK).params)


def _parts(flow: ps.Flow, verb: str, table: str | None) -> tuple[Any, ...]:
    found = getattr(flow, verb)(X if table is None else shuffled(table))
    return found if isinstance(found, tuple) else (found,)


@each_table
def test_the_columns_of_a_context_find_their_places(table: str) -> None:
    plain = new(3, 2).fit(X, C, validation=X[:50], validation_context=C[:50], **QUICK)
    turned = of(table, GIVEN[::-1], C[:, ::-1])
    flow = new(3, 2).fit(
        shuffled(table), turned, validation=of(table, NAMES, X[:50]),
        validation_context=of(table, GIVEN, C[:50]), **QUICK,
    )  # fmt: skip
    assert flow.columns == ("size", "mag", "z")
    assert flow.context_columns == GIVEN[::-1]
    first = new(3, 2).fit(of(table, NAMES, X), of(table, GIVEN, C), validation=of(table, NAMES[::-1], X[:50, ::-1]),
                          validation_context=of(table, GIVEN[::-1], C[:50, ::-1]), **QUICK)  # fmt: skip
    assert_same_bits(first.params, plain.params)
    assert_same_bits(first.log_prob(shuffled(table), turned), plain.log_prob(X, C))
    assert_same_bits(first.sample(2, turned, rng=0), plain.sample(2, C, rng=0))
    assert_same_bits(first.given(of(table, GIVEN[::-1], C[:1, ::-1])).log_prob(X), plain.log_prob(X, C[0]))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (pd.DataFrame(X[:, :2], columns=["mag", "z"]), r"X lacks 'size'$"),
        (pd.DataFrame(np.hstack([X, X[:, :1]]), columns=[*NAMES, "w"]), r"has 'w'.*X\[list\(flow.columns\)\]"),
        (pl.DataFrame(X, ["mag", "Z", "size"]), "lacks 'z' and has 'Z'"),
        (pd.DataFrame(X, columns=["mag", "z", "z"]), "of the same name: 'z' 2 times"),
        (pd.DataFrame(X, columns=["mag", "z", ""]), "without a name"),
        (pa.Table.from_arrays(list(map(pa.array, X.T)), names=["mag", "z", "z"]), "of the same name: 'z' 2 times"),
        ({"mag": X[:, 0], "z": X[:, 1], "": X[:, 2]}, "without a name"),
        (_records({"mag": X[:, 0]}), "lacks 'z', 'size'"),
        ({"mag": [1.0], "z": [1.0, 2.0], "size": [1.0]}, "'mag' has shape .1,., 'z' .2,."),
    ],
)
def test_columns_that_are_not_those_of_the_flow_are_named(frame: Any, words: str) -> None:
    flow = new().fit(pd.DataFrame(X, columns=NAMES), **QUICK)
    before = flow.to_bytes()
    for verb in (flow.log_prob, flow.score, flow.to_latent, flow.log_prob_and_grad):
        with pytest.raises(ValueError, match=words):
            verb(frame)
    with pytest.raises(ValueError, match=words.rstrip("$")):
        flow.fit(frame, **QUICK)
    with pytest.raises(
        ValueError, match=words.rstrip("$").replace(r"X\[", r"validation\[").replace("X lacks", "lacks")
    ):
        flow.fit(X, validation=frame, **QUICK)
    assert flow.to_bytes() == before
    with pytest.raises(ValueError, match=r"lacks 'mag' and has 'q'.*flow\.reset\(\) first"):
        flow.fit(pd.DataFrame(X, columns=["q", "z", "size"]), **QUICK)
    other = flow.copy().reset()
    assert other.columns is None
    assert other.fit(pd.DataFrame(X, columns=["q", "r", "s"]), **QUICK).columns == ("q", "r", "s")


def test_a_frame_of_the_wrong_width_is_described_by_its_columns() -> None:
    with pytest.raises(ValueError, match="X must have 3 columns, got 2: 'mag', 'z'"):
        new().fit(pd.DataFrame(X[:, :2], columns=["mag", "z"]), **QUICK)


def test_arrays_go_by_position_and_a_flow_without_names_takes_any() -> None:
    flow = new().fit(pl.DataFrame(X, list(NAMES)), **QUICK)
    assert_same_bits(flow.log_prob(X), flow.log_prob(pl.DataFrame(X, list(NAMES))))
    plain = new().fit(X, **QUICK)
    assert_same_bits(plain.log_prob(pl.DataFrame(X, ["p", "q", "r"])), plain.log_prob(X))
    # The first table with names gives them.
    assert plain.fit(pl.DataFrame(X, ["p", "q", "r"]), **QUICK).columns == ("p", "q", "r")


def test_numbers_as_labels_of_pandas_are_positions() -> None:
    frame = pd.DataFrame(X)
    flow = new().fit(frame, **QUICK)
    assert flow.columns is None
    assert_same_bits(flow.log_prob(frame[[2, 0, 1]]), flow.log_prob(X))
    assert_same_bits(flow.log_prob(frame.astype(object)[[2, 0, 1]]), flow.log_prob(X))
    flow.columns = NAMES
    assert_same_bits(flow.log_prob(frame[[2, 0, 1]]), flow.log_prob(X))
    with pytest.raises(ValueError, match="has '5', '6', '7'"):
        flow.log_prob(pd.DataFrame(X, columns=[5, 6, 7]))


def test_rows_by_themselves_are_matched_too() -> None:
    flow = new(3, 2).fit(pd.DataFrame(X, columns=NAMES), pd.DataFrame(C, columns=GIVEN), **QUICK)
    expected = flow.log_prob(X[7], C[7])
    row, given = pd.DataFrame(X, columns=NAMES).iloc[7], pd.DataFrame(C, columns=GIVEN).iloc[7]
    for x in (row, row[list(NAMES[::-1])], row.to_dict(), _records(dict(zip(NAMES, X.T, strict=True)))[7]):
        for c in (given, given[list(GIVEN[::-1])], {"band": C[7, 1], "epoch": C[7, 0]}):
            assert_same_bits(flow.log_prob(x, c), expected)
    with pytest.raises(ValueError, match="lacks 'z'"):
        flow.log_prob(row.drop("z"), given)
    assert_same_bits(flow.log_prob(row.to_numpy(), given), expected)


@pytest.mark.parametrize("series", [pd.Series, pl.Series])
def test_a_series_is_the_one_column_of_a_flow(series: Any) -> None:
    flow, plain = ps.nsf(1, layers=2, hidden=(8,), rng=0, backend=backend), X[:, :1]
    mag = series(name="mag", **{("data" if series is pd.Series else "values"): X[:, 0]})
    flow.fit(mag, sample_weight=series(np.ones(300)), validation=mag[:30], **QUICK)
    assert flow.columns == ("mag",)
    assert_same_bits(flow.log_prob(mag), flow.log_prob(plain))
    with pytest.raises(ValueError, match="lacks 'mag' and has 'z'"):
        flow.log_prob(mag.rename("z"))
    assert_same_bits(flow.log_prob(mag.rename(None if series is pd.Series else "")), flow.log_prob(plain))
    assert flow.log_prob(pd.DataFrame({"mag": X[:, 0]}).iloc[3]) == flow.log_prob(plain[3])
    with pytest.raises(ValueError, match=r"\(300,\); for one column write X\[:, None\]"):
        flow.log_prob(X[:, 0])
    with pytest.raises(ValueError, match=r"\(300,\); for one column write X\[:, None\]"):
        flow.fit(X[:, 0])


# -- what the cells hold ------------------------------------------------------------------------

CELLS: dict[str, Any] = {
    "nullable integers": (pd.array([1, None, 3], dtype="Int64"), [1, np.nan, 3]),
    "nullable booleans": (pd.array([True, None, False], dtype="boolean"), [1, np.nan, 0]),
    "booleans": (np.array([True, False, True]), [1, 0, 1]),
    "decimals": (pd.Series([Decimal("1.5"), None, 2], dtype=object), [1.5, np.nan, 2]),
    "objects": (pd.Series([1, pd.NA, np.float32(2.5)], dtype=object), [1, np.nan, 2.5]),
    "categories of numbers": (pd.Categorical([4, 5, 4]), [4, 5, 4]),
    "floats of pyarrow in pandas": (pd.array([1.5, None, 3.0], dtype="double[pyarrow]"), [1.5, np.nan, 3]),
    "nullable floats": (pd.array([1.5, None, 3.0], dtype="Float64"), [1.5, np.nan, 3]),
    "polars integers": (pl.Series([1, None, 3]), [1, np.nan, 3]),
    "polars booleans": (pl.Series([True, None, False]), [1, np.nan, 0]),
    "pyarrow integers": (pa.array([1, None, 3]), [1, np.nan, 3]),
    "half precision": (np.array([1, 2, 3], np.float16), [1, 2, 3]),
}


@pytest.mark.parametrize("cells", list(CELLS))
def test_cells_that_are_numbers_are_read_and_missing_ones_are_nan(cells: str) -> None:
    column, expected = CELLS[cells]
    library = pl if "polars" in cells else pa if "pyarrow" in cells else pd
    build = library.table if library is pa else library.DataFrame
    frame = build({"z": column, "mag": [0.5, 0.25, 0.125]})
    flow = new(2)
    flow.columns = ("mag", "z")
    if (
        library is pd
        and getattr(column, "dtype", None) is not None
        and str(column.dtype) in ("Float64", "double[pyarrow]")
    ):
        frame = frame.astype(column.dtype)  # columns of one dtype are read together
    expected = np.stack([[0.5, 0.25, 0.125], expected], axis=1)
    assert_same_bits(flow.log_prob(frame), flow.log_prob(expected))


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (["a", "b", "c"], "X column 'z' must hold real numbers.*text"),
        (
            pd.Series([1.0, "two", 3.0], dtype=object),
            "X column 'z' must hold real numbers, but row 1 holds text: 'two'",
        ),
        (pd.to_datetime(["2020", "2021", "2022"]), "X column 'z' must hold real numbers.*dates.*2020"),
        (pd.to_timedelta([1, 2, 3]), "X column 'z' must hold real numbers.*durations"),
        (np.array([1j, 2, 3]), "X column 'z' must hold real numbers.*complex"),
        (pd.Categorical(["a", "b", "a"]), "X column 'z' must hold real numbers.*text"),
        (pd.Series([[1], [2], [3]]), "X column 'z' must hold real numbers.*list"),
    ],
)
def test_a_column_without_numbers_is_named(column: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"(?s){words}"):
        new(2).log_prob(pd.DataFrame({"mag": [1.0, 2.0, 3.0], "z": column}))


def test_fit_counts_what_is_missing_in_each_column() -> None:
    x = X.copy()
    x[[3, 8], 0], x[5, 2] = np.nan, np.inf
    words = (
        "X column 'mag': 2 of 300 values are missing; column 'size': 1 of 300 values is infinite; "
        "the first is row 3, column 'mag': nan"
    )
    with pytest.raises(ValueError, match=words):
        new().fit(pd.DataFrame(x, columns=NAMES), **QUICK)
    x[5, 2] = 0
    for library, drop in ((pd, r"X = X\.dropna\(\)"), (pl, r"X = X\.drop_nulls\(\)\.drop_nans\(\)")):
        frame = library.DataFrame(dict(zip(NAMES, x.T, strict=True)))
        with pytest.raises(ValueError, match=f"2 of 300 values are missing.*{drop}"):
            new().fit(frame, **QUICK)
        dropped = frame.dropna() if library is pd else frame.drop_nulls().drop_nans()
        new().fit(dropped, **QUICK)
    weight = np.ones(300)
    weight[[3, 8]] = 0
    new().fit(pd.DataFrame(x, columns=NAMES), sample_weight=weight, **QUICK)  # rows that do not count may hold anything
    with pytest.raises(ValueError, match="context column 'epoch': 2 of 300 values are missing"):
        new(3, 2).fit(X, pd.DataFrame(x[:, :2], columns=GIVEN), **QUICK)
    with pytest.raises(ValueError, match="validation column 'mag': 2 of 300"):
        new().fit(pd.DataFrame(X, columns=NAMES), validation=x, **QUICK)


def test_masked_tables_have_missing_values() -> None:
    tables = pytest.importorskip("astropy.table")
    table = tables.MaskedColumn
    masked = tables.Table(
        {"z": table(X[:, 1], mask=np.arange(300) == 4), "mag": X[:, 0].astype(">f4"), "size": X[:, 2]}
    )
    flow = new().fit(pd.DataFrame(X, columns=NAMES), **QUICK)
    got = flow.log_prob(masked)
    expected = X.copy()
    expected[4, 1], expected[:, 0] = np.nan, X[:, 0].astype("f4")
    assert_same_bits(got, flow.log_prob(expected))


# -- what is kept, and what comes out -----------------------------------------------------------


def test_names_stay_with_copies_files_and_pickles(tmp_path: Any) -> None:
    flow = new(3, 2).fit(pd.DataFrame(X, columns=NAMES), pd.DataFrame(C, columns=GIVEN), **QUICK)
    ps.save(flow, tmp_path / "flow")
    seen: list[ps.Flow] = []
    twins = [
        flow.copy(), copy.copy(flow), copy.deepcopy(flow), pickle.loads(pickle.dumps(flow)), flow.astype("float64"),
        ps.from_bytes(flow.to_bytes()), ps.load(tmp_path / "flow"),
    ]  # fmt: skip
    new(3, 2).fit(
        pd.DataFrame(X, columns=NAMES), pd.DataFrame(C, columns=GIVEN), callbacks=lambda state: seen.append(state.flow),
        checkpoint=tmp_path / "kept", **QUICK,
    )  # fmt: skip
    for twin in (*twins, *seen, ps.load(tmp_path / "kept")):
        assert twin.columns == NAMES
        assert twin.context_columns == GIVEN
    assert "mag, z, size" in repr(flow)
    assert "epoch, band" in repr(flow)
    flow = new().fit(pl.DataFrame(X, list(NAMES)), **QUICK)
    for twin in (flow, flow.copy(), pickle.loads(pickle.dumps(flow)), flow.astype("float64")):
        assert isinstance(twin.sample_frame(2), pl.DataFrame)


def test_a_fit_that_fails_leaves_the_names_as_they_were() -> None:
    flow = new()

    def fail(state: ps.TrainingState) -> None:
        raise KeyError

    with pytest.raises(KeyError) as caught:
        flow.fit(pd.DataFrame(X, columns=NAMES), callbacks=fail, **QUICK)
    assert flow.columns is None
    assert caught.value.best.columns == NAMES  # type: ignore[attr-defined]


def test_names_can_be_assigned() -> None:
    flow = new(3, 2)
    flow.columns, flow.context_columns = list(NAMES), GIVEN  # type: ignore[assignment]
    assert (flow.columns, flow.context_columns) == (NAMES, GIVEN)
    for bad, kind, words in (
        (["a", "b"], ValueError, "columns must be 3 names, got 2: 'a', 'b'"),
        (["a", "b", "b"], ValueError, "'b' 2 times"),
        (["a", "b", ""], ValueError, "without a name"),
        (["a", "b", "c\0"], ValueError, "no file can hold"),
        (["a", "b", "\ud800"], ValueError, "no file can hold"),
        (["a", "b", 3], TypeError, r"columns\[2\] must be a string, got 3"),
        ("abc", TypeError, "columns must be a sequence of strings"),
    ):
        with pytest.raises(kind, match=words):
            flow.columns = bad  # type: ignore[assignment]
    assert flow.columns == NAMES
    flow.columns = None
    assert flow.columns is None


def test_samples_come_as_a_table_with_the_context_beside_them() -> None:
    flow = new(3, 2).fit(pl.DataFrame(X, list(NAMES)), pl.DataFrame(C, list(GIVEN)), **QUICK)
    frame = flow.sample_frame(4, C[:5], rng=0)
    assert isinstance(frame, pl.DataFrame)
    assert frame.columns == [*NAMES, *GIVEN]
    assert_same_bits(frame.select(NAMES).to_numpy(), flow.sample(4, C[:5], rng=0).reshape(20, 3))
    assert_same_bits(frame.select(GIVEN).to_numpy(), np.repeat(C[:5], 4, axis=0))
    assert_same_bits(flow.sample_frame(2, C[0], rng=0).select(GIVEN).to_numpy(), C[[0, 0]])
    assert flow.sample_frame(None, C[:5]).shape == (5, 5)
    assert flow.given(C[0]).sample_frame(2, library="pandas").shape == (2, 5)
    assert flow.sample_frame(2, C[0], library="pyarrow").column_names == [*NAMES, *GIVEN]
    plain = new(2)
    assert list(plain.sample_frame(1e1, library="pandas").columns) == ["x0", "x1"]
    assert plain.sample_frame(library="pandas").shape == (1, 2)
    flow.context_columns = ("mag", "band")
    assert flow.sample_frame(2, C[0]).columns == [*NAMES, "context_mag", "band"]
    with pytest.raises(ValueError, match="library must be one of 'pandas', 'polars', 'pyarrow', got 'excel'"):
        plain.sample_frame(2, library="excel")


def test_a_table_that_needs_a_missing_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(TypeError, match=r"X is a OnlyArrow.*pip install pyarrow"):
        new().log_prob(OnlyArrow(None))
    monkeypatch.setattr("penstock.frames.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install pandas"):
        new().sample_frame(2)
    with pytest.raises(ImportError, match="library='polars' is not installed"):
        new().sample_frame(2, library="polars")


def test_arrays_import_no_reader_of_tables() -> None:
    code = """if True:
        import sys
        import numpy as np, penstock as ps
        flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0)
        flow.fit(np.random.default_rng(0).standard_normal((100, 2)), epochs=1, validation=0)
        flow.log_prob([[0.0, 0.0]])
        flow.log_prob({"a": [0.0], "b": [1.0]})
        flow.log_prob(np.zeros(3, [("a", "f4"), ("b", "f8")]))
        read = [name for name in ("narwhals", "pandas", "polars", "pyarrow") if name in sys.modules]
        assert read == [], read
    """
    python(code)
