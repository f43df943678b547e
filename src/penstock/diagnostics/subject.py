"""What is examined: a model with the rows, contexts and weights that it is held against, and its draws, in blocks, by key."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from copy import copy
from typing import Any, Protocol

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.diagnostics.statistics import effective_size
from penstock.given import Given
from penstock.lattice import Lattice
from penstock.support import Support, ends_of, kinds

BLOCK = 1 << 20  # numbers of draws together


class Model(Protocol):
    """A density: a ``Flow``, what ``flow.given(context)`` gives, an ensemble, a posterior, or anything else with two verbs."""

    @property
    def log_prob(self) -> Any:
        """``log_prob(X, context)`` of rows (rows, dim) and contexts (rows, c), or of rows alone: (rows,)."""
        ...

    @property
    def sample(self) -> Any:
        """``sample(n, context, rng=)``: (m, n, dim) for contexts (m, c), or (n, dim) without."""
        ...


class Subject:
    """A model and the rows that it is held against, checked once.

    Parameters
    ----------
    model, X, context, sample_weight, rng
        As the functions of the package take them. A context of shape (c,) is one for all rows.
    fewest : int
        Rows that it takes.

    Attributes
    ----------
    X : float64 array of shape (rows, dim)
        As numbers of the dtype of the model, angles within their period.
    contexts : array of shape (rows, c), or None
        None too where all rows share one.
    weight : float64 array of shape (rows,), or None
    size : float
        The effective number of rows.
    names : tuple of str
        Of the columns, or x0, x1 ... as in tables of draws.
    periods : array of shape (dim,)
        Of columns that are circles; infinite for others.
    key : int
    lattice : Lattice, or None
        Of the columns to which the model rounds its draws. Draws are compared with rows where both lie on it, densities,
        distribution functions and latents where both have noise.
    raw : bool
        Whether there is one, and the model gives draws that are not rounded, too.
    """

    def __init__(
        self,
        model: Model,
        X: RowsLike,
        context: RowsLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        rng: Rng = None,
        fewest: int = 2,
    ) -> None:
        for verb in ("log_prob", "sample"):
            if not callable(getattr(model, verb, None)):
                raise TypeError(
                    f"model must have log_prob(X, context) and sample(n, context, rng=), got {type(model).__name__}"
                )
        self.model = model
        known = tuple(getattr(model, "columns", None) or ())
        dim = getattr(model, "dim", None)
        table = columns.matched(X, known, dim or -1, name="X")
        rows = _validate.reals(table.values, name="X")
        dim = dim or (rows.shape[-1] if rows.ndim == 2 else 1)
        rows = _validate.as_rows(rows, dim, name="X")
        self.dim: int = dim
        if len(rows) < fewest:
            raise ValueError(f"X must hold at least {fewest} rows, got {len(rows)}")
        _validate.all_finite(rows, name="X")
        self.names: tuple[str, ...] = known or table.names or tuple(f"x{j}" for j in range(dim))
        self.spec = spec_of(model)
        support: tuple[Support, ...] = getattr(self.spec, "support", ())
        self.support = support
        self.kinds = kinds(support, dim)
        self.periods = np.full(dim, np.inf)
        self.X = rows.astype(getattr(model, "dtype", np.float64)).astype(np.float64)
        for j, kind in enumerate(self.kinds):
            if kind == "circle":
                lo, hi = ends_of(support[j])
                self.periods[j] = hi - lo
                self.X[:, j] = lo + (self.X[:, j] - lo) % (hi - lo)
        self._context(context)
        self.weight: Array | None = None
        if sample_weight is not None:
            self._weigh(sample_weight)
        self.size = effective_size(self.weight, self.rows)
        self.key = _validate.seed(rng)
        known_arguments = inspect.signature(model.sample).parameters
        self._keyed = {"key", "first", "first_context"} <= set(known_arguments)
        self._common: dict[bool, Array] = {}
        self.lattice = lattice_of(model)
        # Densities of draws are compared with those of rows: either have noise, or neither.
        self.raw = self.lattice is not None and "raw" in known_arguments

    def _context(self, context: Any) -> None:
        """The contexts of the rows, or the one that all share."""
        model, expected = self.model, getattr(self.model, "context_dim", None)
        self.contexts: Array | None = None
        self._fixed: tuple[Array, ...] = ()
        if context is None:
            if expected:
                raise ValueError(f"the model has a context of {expected} variables: give context")
            return
        if expected == 0 or isinstance(model, Given) or (expected is None and hasattr(model, "flow")):
            raise ValueError("context was given, but the model takes none")
        names = tuple(getattr(model, "context_columns", None) or ())
        values = columns.matched(context, names, expected or -1, name="context", attribute="context_columns").values
        given = _validate.reals(values, name="context")
        if given.ndim == 1 and (expected is None or len(given) == expected):
            self._fixed = (given,)
        else:
            width = expected or (given.shape[1] if given.ndim == 2 else -1)
            if given.ndim != 2 or given.shape != (self.rows, width):
                raise ValueError(
                    f"context must have shape ({self.rows}, {width if width > 0 else 'c'}), a row for each of X, or be one for "
                    f"all of them, got {given.shape}"
                )
            self.contexts = given
        _validate.all_finite(given, name="context")

    def _weigh(self, sample_weight: Any) -> None:
        """Weights; rows that have none are left out."""
        weight = _validate.as_positive_weights(sample_weight, self.rows, name="sample_weight")
        counts = weight > 0
        self.X, self.weight = self.X[counts], weight[counts] / weight.max()
        self.contexts = None if self.contexts is None else self.contexts[counts]

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.X)

    def subset(self, most: int) -> Subject:
        """So many of the rows, chosen at random by the key; all, if there are no more."""
        if self.rows <= most:
            return self
        chosen = np.sort(self.generator(7).permutation(self.rows)[:most])
        part = copy(self)
        part.X = self.X[chosen]
        part.contexts = None if self.contexts is None else self.contexts[chosen]
        part.weight = None if self.weight is None else self.weight[chosen]
        part.size = effective_size(part.weight, most)
        return part

    @property
    def conditional(self) -> bool:
        """Whether each row has a context of its own, and draws of its own with it."""
        return self.contexts is not None

    def generator(self, purpose: int) -> np.random.Generator:
        """Random numbers for something beside draws, which the key decides."""
        return np.random.default_rng([self.key, purpose])

    def blocks(self, n: int) -> Iterator[slice]:
        """The rows in parts of which n draws each fit into memory."""
        size = max(1, BLOCK // (n * self.dim))
        for first in range(0, self.rows, size):
            yield slice(first, min(first + size, self.rows))

    # --- asking the model -------------------------------------------------------------------------------------------

    def noised(self) -> Array:
        """The rows, (rows, dim), in columns on a lattice with noise, as they are seen in training."""
        if self.lattice is None:
            return self.X
        from penstock.training.dequantize import as_seen

        return as_seen(self.X, self.lattice, self.key, self.support)

    def log_prob(self) -> Array:
        """The log-density of the rows, (rows,), those of a lattice with noise."""
        x = self.noised() if self.raw else self.X
        found = [self._log_prob(x[part], self._own(part)) for part in self.blocks(1)]
        return np.concatenate(found)

    def draws(self, n: int, part: slice, *, raw: bool = False) -> Array:
        """n draws for each of some rows, and for no other: (part, n, dim); on demand the same before they are rounded."""
        count = part.stop - part.start
        how: dict[str, Any] = {"raw": True} if raw and self.raw else {}
        if self.contexts is not None:
            given = self.contexts[part]
            if self._keyed:
                x = self.model.sample(n, given, key=self.key, first_context=part.start, **how)
            else:
                x = self.model.sample(n, given, rng=np.random.default_rng([self.key, part.start]), **how)
            return self._drawn(x, (count, n, self.dim))
        total = count * n
        if self._keyed:
            x = self.model.sample(total, *self._fixed, key=self.key, first=part.start * n, **how)
        else:
            x = self.model.sample(total, *self._fixed, rng=np.random.default_rng([self.key, part.start]), **how)
        return self._drawn(x, (total, self.dim)).reshape(count, n, self.dim)

    def common(self, n: int, *, raw: bool = False) -> Array:
        """n draws that all rows share, (n, dim), of a model without contexts; on demand the same before they are rounded."""
        raw = raw and self.raw
        if raw not in self._common or len(self._common[raw]) != n:
            # Others than those of ``draws``, so that checks do not share their chance.
            key = int(self.generator(1).integers(1 << 63))
            how: dict[str, Any] = {"key": key} if self._keyed else {"rng": np.random.default_rng(key)}
            if raw:
                how["raw"] = True
            self._common[raw] = self._drawn(self.model.sample(n, *self._fixed, **how), (n, self.dim))
        return self._common[raw]

    def paired(self) -> Array:
        """One draw for each row, given its context: (rows, dim)."""
        return np.concatenate([self.draws(1, part)[:, 0] for part in self.blocks(1)])

    def log_prob_of_draws(self, x: Array, part: slice | None = None) -> Array:
        """The log-density of draws for some rows, (part, n, dim), or of draws that all share, (n, dim)."""
        if part is None:
            size = max(1, BLOCK // self.dim)
            return np.concatenate([self._log_prob(x[i : i + size], None) for i in range(0, len(x), size)])
        m, n, _ = x.shape
        given = self._own(part)
        if given is not None and self._keyed:
            return self._checked(self.model.log_prob(x, given), (m, n))
        given = None if given is None else np.repeat(given, n, axis=0)
        return self._log_prob(x.reshape(m * n, self.dim), given).reshape(m, n)

    def _own(self, part: slice) -> Array | None:
        return None if self.contexts is None else self.contexts[part]

    def _log_prob(self, x: Array, given: Array | None) -> Array:
        arguments = self._fixed if given is None else (given,)
        return self._checked(self.model.log_prob(x, *arguments), (len(x),))

    def _checked(self, values: Any, shape: tuple[int, ...]) -> Array:
        found = _validate.as_shaped(values, shape, np.dtype(np.float64), name="model.log_prob(X)")
        if np.isnan(found).any():
            raise ValueError("model.log_prob gives NaN for rows that hold none")
        return found

    def _drawn(self, x: Any, shape: tuple[int, ...]) -> Array:
        found = _validate.as_shaped(x, shape, np.dtype(np.float64), name="model.sample(n)")
        _validate.all_finite(found, name="model.sample(n)")
        return found


def around(difference: Array, periods: Array) -> Array:
    """Differences (..., dim), which are changed: the shorter way around on columns that are circles."""
    for j in np.flatnonzero(np.isfinite(periods)):
        half = periods[j] / 2
        difference[..., j] = (difference[..., j] + half) % periods[j] - half
    return difference


def spec_of(model: Any) -> Any:
    """The specification of the flow behind a model; None where there is none."""
    # An ensemble has no spec of its own: members first.
    for owner in (*tuple(getattr(model, "members", ()) or ())[:1], model, getattr(model, "flow", None)):
        spec = getattr(owner, "spec", None)
        if spec is not None and hasattr(spec, "kinds"):
            return spec
    return None


def lattice_of(model: Any) -> Lattice | None:
    """The lattice of the columns of a model: its own, that of the flow behind it, or of the columns of a view."""
    for owner, name in ((model, "_lattice"), (getattr(model, "flow", None), "_lattice"), (model, "_steps")):
        found = getattr(owner, name, None)
        if isinstance(found, Lattice):
            return found
    return None


def number(n: Any, *, name: str, least: int = 2) -> int:
    """``n`` as a number of draws."""
    wanted = _validate.draws(n, name=name)
    if len(wanted) != 1 or wanted[0] < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {n!r}")
    return wanted[0]
