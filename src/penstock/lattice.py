"""Columns whose values lie on a lattice, ``origin + k step`` with whole numbers k: how one is told, found and gone back to.

A density needs values that fill the line. Training adds uniform noise as wide as a step, and draws are rounded to the lattice.
Columns of a group stay in it: rising ones rise or tie on the lattice, and parts of a whole are not more than the whole.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.columns import Names, called, listed
from penstock.groups import Group, Ordered, Simplex

AUTO = "auto"
GAPS = 1000  # between values, by which a step is found
NARROW = 4.0  # times what gaps may be off, at which a step is none
WHOLE = 1e-3  # of a step, by which the parts of a whole may be more than it, for rounding
DIGITS, PARTS = 12, 1000  # digits of a step that was meant, or parts of 1


@dataclass(frozen=True, eq=False)
class Lattice:
    """The lattices of the columns of a flow.

    Attributes
    ----------
    steps : float64 array of shape (dim,)
        0 for columns that have none.
    origins : float64 array of shape (dim,)
        A value of each lattice, at least 0 and below its step.
    groups : tuple of Ordered and Simplex
        Those in which some columns have one.
    """

    steps: Array
    origins: Array
    groups: tuple[Group, ...] = ()

    @classmethod
    def within(cls, steps: Array, origins: Array, support: Sequence[Any]) -> Lattice:
        """The lattices of columns of such supports."""
        groups = dict.fromkeys(
            own for j, own in enumerate(support) if isinstance(own, Group) and steps[list(own.chain)].any()
        )
        return cls(steps, origins, tuple(groups))

    @property
    def columns(self) -> list[int]:
        """Numbers of the columns that have one."""
        return [int(j) for j in np.flatnonzero(self.steps)]

    def of(self, places: Sequence[int], support: Sequence[Any] = ()) -> Lattice | None:
        """Those of some columns, where they have such supports; None where none of these has one."""
        found = Lattice.within(self.steps[list(places)], self.origins[list(places)], support)
        return found if found.columns else None

    def round(self, rows: Array) -> None:
        """Move rows, of shape (..., dim), to the nearest values of the lattices, in place."""
        wholes = [(group, rows[..., list(group.chain)]) for group in self.groups if isinstance(group, Simplex)]
        for j in self.columns:
            rows[..., j] = nearest(rows[..., j], float(self.steps[j]), float(self.origins[j]))
        for group, raw in wholes:
            self._keep_whole(rows, list(group.chain), raw)

    def _keep_whole(self, rows: Array, members: list[int], raw: Array) -> None:
        """Round the parts down by which rounding made more than the whole, those first that went up the most."""
        steps, origins = self.steps[members], self.origins[members]
        near, raw = rows[..., members].reshape(-1, len(members)), raw.reshape(-1, len(members))
        for _ in members:
            over = np.flatnonzero(near.sum(axis=1, dtype=np.float64) > 1 + WHOLE * steps[steps > 0].min())
            if len(over) == 0:
                break
            up = np.where(steps > 0, near[over] - raw[over], -np.inf)
            j = up.argmax(axis=1)
            value = near[over, j].astype(np.float64) - steps[j]
            for k in np.unique(j):
                near[over[j == k], k] = nearest(value[j == k], float(steps[k]), float(origins[k]))
        rows[..., members] = near.reshape(*rows.shape[:-1], len(members))

    def described(self, names: Names) -> str:
        """The steps by column."""
        return ", ".join(f"{called(j, names)} {self.steps[j]:.9g}" for j in self.columns)


def cells(x: Array, steps: Array, group: Group) -> tuple[Array, Array]:
    """Both ends of the part of the cell of each value, (..., members), that a group leaves: a point without a step.

    Of rising columns that is where those beside them that have no lattice leave it, and of parts of a whole what is positive.
    """
    low, high = x - steps / 2, x + steps / 2
    if not isinstance(group, Ordered):
        return np.where(steps > 0, np.maximum(low, 0.0), x), high
    for ends, places, best, bound in (
        (low, range(len(steps)), np.maximum, -np.inf if group.lo is None else group.lo),
        (high, range(len(steps) - 1, -1, -1), np.minimum, np.inf if group.hi is None else group.hi),
    ):
        limit: Any = bound
        for k in places:
            if steps[k]:
                ends[..., k] = best(ends[..., k], limit)
            else:
                limit = x[..., k]
    return low, high


def outside(x: Array, steps: Array, group: Group) -> Array:
    """Whether rows of the columns of a group, (rows, members), have no part of their cells in it, or are themselves beside it."""
    low, high = cells(x, steps, group)
    on = steps > 0
    wrong: list[Array] = [on & (low >= high)]
    if isinstance(group, Simplex):
        most = 1 + WHOLE * steps[on].min()
        wrong += [
            x < -WHOLE * steps,
            ~on & (x <= 0),
            low.sum(axis=1, keepdims=True) >= 1,
            x.sum(axis=1, keepdims=True) > most,
        ]
    else:
        alone = x[:, ~on]
        wrong += [np.diff(x[:, on], axis=1) < -WHOLE * steps.max(), np.diff(alone, axis=1) <= 0]
        wrong += [] if group.lo is None else [alone <= group.lo]
        wrong += [] if group.hi is None else [alone >= group.hi]
    found: Array = np.logical_or.reduce(np.concatenate(wrong, axis=1), axis=1)
    return found


def nearest(x: Array, step: float, origin: float) -> Array:
    """The nearest values of a lattice, in float64: of 0.01 and 0.1 those that are written so."""
    k = np.rint((x.astype(np.float64) - origin) / step)
    parts = round(1 / step) if step < 1 else 0
    if parts and step * parts == 1:
        return (k + origin * parts) / parts + 0.0
    return origin + k * step + 0.0  # which makes no -0


def away(x: Array, step: float, origin: float) -> Array:
    """How far values lie from the lattice."""
    found: Array = np.abs(x.astype(np.float64) - nearest(x, step, origin))
    return found


def slack(x: Array) -> float:
    """By how much the values of a column may be off, since they are rounded to their dtype: twice that."""
    largest = float(np.abs(x).max(initial=0.0))
    return float(np.finfo(x.dtype if x.dtype.kind == "f" else np.float64).eps) * largest


def as_steps(value: Any, dim: int, names: Names) -> dict[int, float | None]:
    """What ``dequantize`` says, by column: a step, or None for one that is to be found."""
    if isinstance(value, Mapping):
        given = {}
        for label, step in value.items():
            if isinstance(label, str):
                if label not in names:
                    has = f"the columns are {listed(names)}" if names else "the columns have no names"
                    raise ValueError(f"dequantize names {label!r}, which is no column of X: {has}")
                place = names.index(label)
            else:
                place = _validate.count(label, name="a key of dequantize")
                if place >= dim:
                    raise ValueError(f"dequantize names column {label}, and X has {dim}, from 0")
            given[place] = step
    elif isinstance(value, Sequence) and not isinstance(value, str):
        if len(value) != dim:
            raise ValueError(f"dequantize must have an entry for each of {dim} columns, got {len(value)}")
        given = {j: step for j, step in enumerate(value) if step is not None}
    else:
        raise TypeError(
            f"dequantize must be 'auto', a mapping of columns to steps, or a sequence with one for each, got {value!r}"
        )
    return {j: _step(step, called(j, names)) for j, step in given.items()}


def _step(step: Any, column: str) -> float | None:
    if isinstance(step, str) and step == AUTO:
        return None
    if isinstance(step, (bool, str)) or not isinstance(step, (int, float, np.number)):
        raise TypeError(f"dequantize of column {column} must be a step or 'auto', got {step!r}")
    if not (0 < step < math.inf):
        raise ValueError(f"dequantize of column {column} must be a positive step, got {step!r}")
    return float(step)


def found(x: Array) -> tuple[float, float] | None:
    """Step and origin of the lattice on which the values of a column lie; None where they lie on none."""
    off = slack(x)
    values = np.unique(x.astype(np.float64))
    gaps = np.unique(np.diff(values))
    gaps = gaps[gaps > off]
    if not len(gaps):
        return None
    step = _common(_some(gaps), _some(values - values[0]), 2 * off)
    if step is None:
        return None
    origin = origin_of(values, step, off)
    return (step, origin) if away(values, step, origin).max() <= 4 * off + 1e-9 * step else None


def origin_of(x: Array, step: float, off: float) -> float:
    """A value of the lattice of this step, on which the first of some values lies, at least 0 and below the step."""
    origin = float(x.flat[0]) - step * round(float(x.flat[0]) / step)
    for whole in (0.0, step / 2, -step / 2):
        if abs(origin - whole) <= 2 * off + 1e-9 * step:
            origin = whole
    return origin % step


def _some(values: Array) -> list[float]:
    """Not too many of some rising values, the first and the last among them."""
    places = np.unique(np.linspace(0, len(values) - 1, GAPS).astype(int))
    chosen: list[float] = values[places].tolist()
    return chosen


def _common(gaps: Sequence[float], distances: Sequence[float], off: float) -> float | None:
    """The largest number of which rising gaps are multiples (Euclid), and so are ``distances`` of any size.

    Each may be off by so much.
    """
    step, most, place = gaps[0], 1, 0
    while place < len(gaps):
        if step <= NARROW * off:
            return None
        gap = gaps[place]
        k = round(gap / step)
        rest = abs(gap - k * step)
        if rest > off + k * off / most:  # the step is known to off / most
            if rest <= NARROW * off:
                return None
            step, most, place = min(rest, step - rest) if step - rest > NARROW * off else rest, 1, 0
            continue
        if k > most:
            step, most = gap / k, k
        place += 1
    for distance in distances:
        k = round(distance / step)
        if k > most and off * k < step * most / 4:  # as far as the step is known well enough to count so many
            step, most = distance / k, k
    return _plain(step, off / most)


def _plain(step: float, off: float) -> float:
    """The part of 1, or the number of fewest digits, within so much of a step."""
    parts = round(1 / step)
    if 1 <= parts <= PARTS and abs(1 / parts - step) <= off:
        return 1 / parts
    for digits in range(DIGITS):
        number = float(f"{step:.{digits}e}")
        if abs(number - step) <= off:
            return number
    return step
