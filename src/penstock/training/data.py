"""The rows that a fit reads: the door through which they come, and how they are split into training and validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.columns import Names, called, matched
from penstock.lattice import Lattice
from penstock.support import Support
from penstock.training.rows import Rows
from penstock.training.supports import check_inside

# For a table whose columns are not those of an earlier fit.
WARM = "; a later fit goes on from the earlier one, and flow.reset() first begins anew"


@dataclass(frozen=True)
class Data:
    """The rows of a fit. Which of them train is decided by a random order of the whole table, the split.

    Attributes
    ----------
    rows : Rows
    n_train : int
        The first so many of the split train. The others validate, if there are others.
    held_out : Rows or None
        Validation rows that were given by themselves.
    columns, context_columns : tuple of str
        Their names; empty where they have none.
    library : str
        Which the table was of: "pandas", "polars", "pyarrow", or "".
    drawn : bool
        Whether rows were drawn from the table, so that those of weight 0 are none.
    """

    rows: Rows
    n_train: int
    held_out: Rows | None = None
    columns: Names = ()
    context_columns: Names = ()
    library: str = ""
    drawn: bool = False

    @property
    def validated(self) -> bool:
        """Whether there are validation rows."""
        return self.held_out is not None or self.n_train < len(self.rows)

    def more_facts(self) -> dict[str, str]:
        """What else decides the bits of a fit, in words."""
        return {"bootstrap": "True"} if self.drawn else {}

    def check_finite(self) -> None:
        """Raise if a row that counts holds NaN or infinity; a pass over everything."""
        for rows, x, context in ((self.rows, "X", "context"), (self.held_out, "validation", "validation_context")):
            if rows is not None:
                check_finite(rows.x, rows, self.columns, name=x, library=self.library)
                if rows.context is not None:
                    check_finite(
                        rows.context, rows, self.context_columns, name=context, library=self.library, rows_of=x
                    )

    def check_inside(
        self, support: Sequence[Support], lattice: Lattice | None = None, context_support: Sequence[Support] = ()
    ) -> None:
        """Raise if a row that counts lies outside the support of a column, or its cell where columns have lattices.

        The same of its context.
        """
        for rows, name, given in (
            (self.rows, "X", "context"), (self.held_out, "validation", "validation_context"),
        ):  # fmt: skip
            if rows is not None:
                check_inside(rows, support, self.columns, name=name, lattice=lattice)
                if context_support and rows.context is not None:
                    context = Rows(rows.context, None, rows.weight)
                    check_inside(context, context_support, self.context_columns, name=given)


@np.errstate(all="ignore")  # sums of scaled weights may underflow
def training_data(
    X: Any,
    context: Any,
    sample_weight: Any,
    validation: Any,
    validation_context: Any = None,
    validation_weight: Any = None,
    *,
    dim: int,
    context_dim: int,
    columns: Names = (),
    context_columns: Names = (),
    negative_weights: bool = False,
    part: bool = False,
) -> Data:
    """Check what a fit was given, as ``Flow.fit`` describes it; that numbers are finite is checked apart.

    ``columns`` and ``context_columns`` are those of the flow, if it has names. A ``part`` of a table may be empty, and what its
    weights add up to is a matter of the whole.
    """
    if not isinstance(negative_weights, (bool, np.bool_)):
        raise TypeError(f"negative_weights must be True or False, got {negative_weights!r}")
    table = matched(X, columns, dim, name="X", cure=WARM)
    given = matched(context, context_columns, context_dim, name="context", attribute="context_columns", cure=WARM)
    x = _validate.as_rows(table.values, dim, name="X")
    context = _validate.as_context_rows(given.values, context_dim, len(x))
    if len(x) == 0 and not part:
        raise ValueError(f"fit needs rows, got X of shape {x.shape}")
    weight = None if sample_weight is None else _validate.as_weights(sample_weight, len(x), name="sample_weight")
    rows = Rows(x, context, weight)
    check_weights(rows, name="sample_weight", negative=negative_weights, part=part)
    columns, context_columns = columns or table.names, context_columns or given.names
    if validation is not None and not isinstance(validation, (bool, int, float, np.number)):
        held_out = _held_out(
            validation,
            validation_context,
            validation_weight,
            dim,
            context_dim,
            columns,
            context_columns,
            negative_weights,
            part,
        )
        return Data(rows, len(x), held_out, columns, context_columns, table.library)
    for name, value in (("validation_context", validation_context), ("validation_weight", validation_weight)):
        if value is not None:
            raise ValueError(f"{name} belongs to validation rows of your own, but validation is {validation!r}")
    n_train = len(x) if part else training_rows(len(x), validation)
    return Data(rows, n_train, None, columns, context_columns, table.library)


def training_rows(n_rows: int, validation: Any) -> int:
    """How many rows train where a fraction of them validates."""
    fraction = 0.0 if validation is None else float(validation)
    if not 0 <= fraction < 1:
        raise ValueError(f"validation must be a fraction of at least 0 and below 1, or rows, got {validation}")
    if fraction == 0:
        return n_rows
    if n_rows < 2:
        raise ValueError("X has 1 row, and at least 2 are needed to set some aside; or give validation=0")
    return n_rows - min(max(1, round(fraction * n_rows)), n_rows - 1)


def _held_out(
    validation: Any,
    given: Any,
    weight: Any,
    dim: int,
    context_dim: int,
    columns: Names,
    context_columns: Names,
    negative: bool,
    part: bool,
) -> Rows:
    """Validation rows that were given by themselves."""
    if isinstance(validation, tuple):
        parts = ["X_val"] + ["validation_context=context_val"] * (context_dim > 0)
        parts += ["validation_weight=weight_val"] * (len(validation) > len(parts))
        raise TypeError(
            f"validation must be a fraction or rows, got a tuple of {len(validation)}; "
            f"write validation={', '.join(parts)}"
        )
    x = matched(validation, columns, dim, name="validation").values
    x = _validate.as_rows(x, dim, name="validation")
    if len(x) == 0 and not part:
        raise ValueError("validation holds no rows; give validation=0 to train without")
    name = "validation_context"
    context = matched(given, context_columns, context_dim, name=name, attribute="context_columns").values
    context = _validate.as_context_rows(context, context_dim, len(x), name=name, of="validation")
    if weight is not None:
        weight = _validate.as_weights(weight, len(x), name="validation_weight")
    rows = Rows(x, context, weight)
    check_weights(rows, name="validation_weight", negative=negative, part=part)
    return rows


def check_weights(rows: Rows, *, name: str, negative: bool, part: bool = False) -> None:
    """Raise unless the sum of the weights is above zero, and none of them below it where they must not be ``negative``.

    The sum is that of a whole table; a ``part`` of one has none of its own.
    """
    weight = rows.weight
    if weight is None or len(weight) == 0:
        return
    if not negative and rows.weight_least < 0:
        below = np.flatnonzero(weight < 0)
        n = f"{len(below)} of the {len(weight)} weights {'is' if len(below) == 1 else 'are'} negative"
        raise ValueError(
            f"{name} must be at least 0, but {n}, the first {weight[below[0]]:g} in row {below[0]}; negative_weights=True "
            "(--negative-weights on the command line) takes them, and the loss then has no lower bound"
        )
    if not part:
        check_sum(rows.weight_sums[0], rows, name)


def check_sum(total: float, rows: Rows, name: str) -> None:
    """Raise unless a sum of scaled weights is above zero."""
    if not total > 0:
        given = float(np.ldexp(total, -rows.weight_exponent))
        raise ValueError(f"the sum of {name} must be positive, got {given:g}")


def check_finite(
    array: Array, rows: Rows, names: Names = (), *, name: str, library: str = "", rows_of: str = ""
) -> None:
    """Raise if a row of ``array`` that counts holds NaN or infinity, saying how many do, and where the first one is."""
    count, where = 0, None
    missing, infinite = np.zeros(array.shape[1], np.int64), np.zeros(array.shape[1], np.int64)
    for part in rows.chunks(array.shape[1]):
        finite = np.isfinite(array[part])
        if finite.all():
            continue
        if rows.weight is not None:
            finite |= (rows.weight[part] == 0)[:, None]
        bad = np.flatnonzero(~finite.all(axis=1))
        count += len(bad)
        missing += (~finite & np.isnan(array[part])).sum(axis=0)
        infinite += (~finite & np.isinf(array[part])).sum(axis=0)
        if where is None and len(bad):
            where = (part.start + int(bad[0]), int(np.flatnonzero(~finite[bad[0]])[0]))
    if where is None:
        return
    row, column = where
    first = f"the first is row {row}, column {called(column, names)}: {array[where]}"
    drop = _drop(name, rows_of, "" if infinite.any() else library)
    words = [
        f"column {called(j, names)}: {number[j]} of {len(array)} values {'is' if number[j] == 1 else 'are'} {what}"
        for j in range(array.shape[1])
        for number, what in ((missing, "missing"), (infinite, "infinite"))
        if number[j]
    ]
    listed = "; ".join(words[:5]) + ("; ..." if len(words) > 5 else "")
    if names:
        raise ValueError(f"{name} {listed}; {first}. To drop those rows: {drop}")
    n = "1 row" if count == 1 else f"{count} rows"
    raise ValueError(
        f"{name} must be finite, but {n} of {len(array)} hold NaN or infinity ({listed}); {first}. To drop them: {drop}"
    )


def _drop(name: str, rows_of: str, library: str) -> str:
    """What to write to drop rows with values that are missing, in terms of the library of a table."""
    if rows_of:
        keep = {"pandas": f"{name}.notna().all(axis=1)"}.get(library, f"numpy.isfinite({name}).all(axis=1)")
        return f"keep = {keep}; {rows_of}, {name} = {rows_of}[keep], {name}[keep]"
    alone = {"pandas": f"{name}.dropna()", "polars": f"{name}.drop_nulls().drop_nans()"}
    return f"{name} = {alone.get(library, f'{name}[numpy.isfinite({name}).all(axis=1)]')}"
