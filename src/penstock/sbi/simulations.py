"""Simulations as a flow is trained on them: rows that are finite, and columns of x that say something."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, RowsLike
from penstock._warn import DataWarning, warn
from penstock.columns import Names
from penstock.sbi.priors import Prior

FAR = 1.0  # ranges of the simulations beyond which an observation is another thing than they are


@dataclass(frozen=True)
class Observed:
    """How x comes: how many numbers, their names, and which of them a flow reads.

    Attributes
    ----------
    dim : int
        Numbers of an observation.
    names : tuple of str
        Of its columns; empty where they have none.
    kept : tuple of int
        The columns that differ between simulations.
    lo, hi : tuple of float
        The ends of every column in the simulations.
    """

    dim: int
    names: Names
    kept: tuple[int, ...]
    lo: tuple[float, ...]
    hi: tuple[float, ...]

    @property
    def kept_names(self) -> Names:
        """Names of the columns that a flow reads."""
        return tuple(self.names[i] for i in self.kept) if self.names else ()

    def read(self, x: RowsLike, *, name: str = "x", axes: tuple[int, ...] = (1, 2)) -> Array:
        """Observations as a flow reads them, of shape (..., kept); what the simulator never gives is said aloud."""
        return self.select(self.whole(x, name=name, axes=axes))

    def one(self, x: RowsLike, *, name: str = "x") -> Array:
        """One observation, all of its columns, of shape (dim,); a table of one row is one, too."""
        array = self.whole(x, name=name)
        if array.size != self.dim:
            raise ValueError(f"{name} must be one observation, of shape ({self.dim},), got shape {array.shape}")
        return array.reshape(self.dim)

    def whole(self, x: RowsLike, *, name: str = "x", axes: tuple[int, ...] = (1, 2)) -> Array:
        """Observations, all of their columns, in order, of shape (..., dim)."""
        given = columns.matched(x, self.names, self.dim, name=name, attribute="context_columns").values
        array = _validate.reals(given, name=name)
        if array.ndim not in axes or array.shape[-1] != self.dim:
            shapes = {1: f"({self.dim},)", 2: f"(m, {self.dim})", 3: f"(m, n, {self.dim})"}
            words = " or ".join(shapes[count] for count in axes)
            hint = f"; for one number write {name}[:, None]" if self.dim == 1 and array.ndim == 1 else ""
            raise ValueError(f"{name} must have shape {words}, got {array.shape}{hint}")
        flat = array.reshape(-1, self.dim)
        finite = np.isfinite(flat)
        if not finite.all():
            row, column = (int(i) for i in np.argwhere(~finite)[0])
            raise ValueError(
                f"{name} must be finite, but column {columns.called(column, self.names)} of row {row} is {flat[row, column]}: "
                "simulations that are not finite were left out of the training"
            )
        self._tell_of_far(flat, name)
        return array

    def select(self, x: Array) -> Array:
        """The columns that a flow reads."""
        return x if len(self.kept) == self.dim else x[..., list(self.kept)]

    def _tell_of_far(self, x: Array, name: str) -> None:
        """Warn of columns in which an observation lies far from all simulations."""
        lo, hi = np.array(self.lo), np.array(self.hi)
        room = FAR * (hi - lo)
        low, high = x.min(axis=0, initial=np.inf), x.max(axis=0, initial=-np.inf)
        for column in np.flatnonzero((low < lo - room) | (high > hi + room))[:1]:
            value = low[column] if low[column] < lo[column] - room[column] else high[column]
            where = f"lie in [{lo[column]:g}, {hi[column]:g}]" if room[column] else f"are {lo[column]:g}"
            warn(
                f"column {columns.called(column, self.names)} of {name} is {value:g}, and all simulations {where}: "
                "a posterior there is extrapolated; look at units and order of the columns, or widen the prior",
                DataWarning,
                about=name,
            )


class Simulations(NamedTuple):
    """Pairs of parameters and what was simulated with them.

    Attributes
    ----------
    theta, x : arrays of shape (rows, dim) and (rows, dim of x)
        Finite; all columns of x.
    names : tuple of str
        Of the parameters.
    observed : Observed
    used : array of bool, or None
        Which of the rows given these are; None for all.
    """

    theta: Array
    x: Array
    names: Names
    observed: Observed
    used: Array | None


def simulations(theta: RowsLike, x: RowsLike, prior: Prior) -> Simulations:
    """Check pairs and leave out those that are not finite, aloud."""
    known = prior.names
    read = columns.read(theta, known, prior.dim, name="theta")
    if read.names:
        read = columns.matched(theta, known, prior.dim, name="theta", attribute="names")
    parameters = _validate.as_rows(read.values, prior.dim, name="theta")
    observed = columns.read(x, (), 0, name="x")
    data = _validate.reals(observed.values, name="x")
    if data.ndim != 2 or not data.shape[1]:
        hint = {1: "; for one number a simulation write x[:, None]"}.get(
            data.ndim, "; write x.reshape(len(x), -1)" if data.ndim > 2 else ""
        )
        raise ValueError(f"x must have shape (rows, numbers), got {data.shape}{hint}")
    if len(parameters) != len(data):
        raise ValueError(f"theta and x must have a row for each simulation, got {len(parameters)} and {len(data)} rows")
    used = _finite(parameters, data)
    if used is not None:
        parameters, data = parameters[used], data[used]
    outside = prior.log_prob(parameters) == -np.inf
    if outside.any():
        raise ValueError(
            f"theta must come from the prior, but {int(outside.sum())} of {len(outside)} rows, the first "
            f"{_shown(parameters[int(np.argmax(outside))])}, have prior density 0"
        )
    lo, hi = data.min(axis=0), data.max(axis=0)
    kept = tuple(int(i) for i in np.flatnonzero(lo < hi))
    names = observed.names
    if not kept:
        raise ValueError("all columns of x are constant: the simulations say nothing of the parameters")
    if len(kept) < len(lo):
        constant = [i for i in range(len(lo)) if i not in kept]
        verb = "is" if len(constant) == 1 else "are"
        warn(
            f"{columns.worded(constant[: columns.SHOWN], names)} of x {verb} constant in all simulations and left out",
            DataWarning,
        )
    ends = tuple(map(float, lo)), tuple(map(float, hi))
    return Simulations(parameters, data, known or read.names, Observed(len(lo), names, kept, *ends), used)


def _finite(theta: Array, x: Array) -> Array | None:
    """Which simulations are finite, None if all are; how many are not is said aloud."""
    bad: dict[str, Array] = {
        name: np.logical_not(np.isfinite(rows).all(axis=1)) for name, rows in (("theta", theta), ("x", x))
    }
    either: Array = bad["theta"] | bad["x"]
    count = int(either.sum())
    if not count:
        if not len(theta):
            raise ValueError("theta and x must have rows, got none")
        return None
    if count == len(either):
        raise ValueError(f"none of the {count} simulations is finite")
    each = ", ".join(f"{int(rows.sum())} in {name}" for name, rows in bad.items() if rows.any())
    warn(
        f"{count} of {len(either)} simulations hold NaN or infinity ({each}; the first is row {int(np.argmax(either))}) and are "
        "left out: the posterior is that given a simulation which is finite",
        DataWarning,
    )
    finite: Array = ~either
    return finite


def _shown(row: Array) -> str:
    return f"[{', '.join(f'{value:g}' for value in row[:6])}{', ...' if len(row) > 6 else ''}]"
