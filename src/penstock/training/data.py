"""The rows that a fit reads: the door through which they come, and how they are split into training and validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.training.rows import Part, Rows


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
    """

    rows: Rows
    n_train: int
    held_out: Rows | None = None

    @property
    def validated(self) -> bool:
        """Whether there are validation rows."""
        return self.held_out is not None or self.n_train < len(self.rows)

    def check_finite(self) -> None:
        """Raise if a row that counts holds NaN or infinity; a pass over everything."""
        for rows, prefix in ((self.rows, ""), (self.held_out, "validation")):
            if rows is not None:
                check_finite(rows.x, rows, name=prefix or "X")
                if rows.context is not None:
                    check_finite(rows.context, rows, name=f"{prefix} context".strip())


@np.errstate(all="ignore")  # sums of scaled weights may underflow
def training_data(
    X: Any, context: Any, sample_weight: Any, validation: Any, *, dim: int, context_dim: int
) -> Data:  # fmt: skip
    """Check the arrays that a fit was given, as ``Flow.fit`` describes them; that they are finite is checked apart."""
    x = _validate.as_rows(X, dim, name="X")
    given = _validate.as_context_rows(context, context_dim, len(x))
    if len(x) == 0:
        raise ValueError(f"fit needs rows, got X of shape {x.shape}")
    weight = None if sample_weight is None else _validate.as_weights(sample_weight, len(x), name="sample_weight")
    rows = Rows(x, given, weight)
    check_weights(rows, name="sample_weight")
    if validation is None or isinstance(validation, (bool, int, float, np.number)):
        return Data(rows, _n_train(len(x), validation))
    return Data(rows, len(x), _held_out(validation, dim, context_dim))


def _n_train(n_rows: int, validation: Any) -> int:
    """How many rows train where a fraction of them validates."""
    fraction = 0.0 if validation is None else float(validation)
    if not 0 <= fraction < 1:
        raise ValueError(f"validation must be a fraction of at least 0 and below 1, or rows, got {validation}")
    if fraction == 0:
        return n_rows
    if n_rows < 2:
        raise ValueError("X has 1 row, and at least 2 are needed to set some aside; or give validation=0")
    return n_rows - min(max(1, round(fraction * n_rows)), n_rows - 1)


def _held_out(validation: Any, dim: int, context_dim: int) -> Rows:
    """Validation rows that were given by themselves."""
    parts = validation if isinstance(validation, tuple) else (validation,)
    if len(parts) == 2 and context_dim == 0:
        parts = (parts[0], None, parts[1])
    wanted = "(X, context) or (X, context, weight)" if context_dim else "X, (X,) or (X, weight)"
    surplus = context_dim == 0 and len(parts) > 1 and parts[1] is not None
    if not (2 if context_dim else 1) <= len(parts) <= 3 or surplus:
        got = f"a tuple of {len(parts)}" if isinstance(validation, tuple) else "rows without a context"
        raise ValueError(f"validation must be {wanted}, got {got}")
    x = _validate.as_rows(parts[0], dim, name="validation")
    if len(x) == 0:
        raise ValueError("validation holds no rows; give validation=0 to train without")
    context = None
    if context_dim:
        context = _validate.as_context_rows(parts[1], context_dim, len(x), name="validation context")
    weight = None
    if len(parts) == 3 and parts[2] is not None:
        weight = _validate.as_weights(parts[2], len(x), name="validation weight")
    rows = Rows(x, context, weight)
    check_weights(rows, name="validation weight")
    return rows


def check_weights(rows: Rows, *, name: str) -> None:
    """Raise unless the sum of the weights is above zero."""
    if rows.weight is not None:
        check_sum(Part(rows, 0, len(rows)).weight_sum(), rows, name)


def check_sum(total: float, rows: Rows, name: str) -> None:
    """Raise unless a sum of scaled weights is above zero."""
    if not total > 0:
        given = float(np.ldexp(total, -rows.weight_exponent))
        raise ValueError(f"the sum of {name} must be positive, got {given:g}")


def check_finite(array: Array, rows: Rows, *, name: str) -> None:
    """Raise if a row of ``array`` that counts holds NaN or infinity, saying how many do, and where the first one is."""
    count, where = 0, None
    for part in rows.chunks(array.shape[1]):
        finite = np.isfinite(array[part])
        if finite.all():
            continue
        if rows.weight is not None:
            finite |= (rows.weight[part] == 0)[:, None]
        bad = np.flatnonzero(~finite.all(axis=1))
        count += len(bad)
        if where is None and len(bad):
            where = (part.start + int(bad[0]), int(np.flatnonzero(~finite[bad[0]])[0]))
    if where is not None:
        n = "1 row" if count == 1 else f"{count} rows"
        drop = "X = X[numpy.isfinite(X).all(axis=1)]"
        if "context" in name:
            drop = "keep = numpy.isfinite(context).all(axis=1); X, context = X[keep], context[keep]"
        raise ValueError(
            f"{name} must be finite, but {n} of {len(array)} hold NaN or infinity; the first is row {where[0]}, "
            f"column {where[1]}: {array[where]}. To drop them: {drop}"
        )
