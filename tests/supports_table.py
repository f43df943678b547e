"""Every flow whose columns have supports, and what the laws of ``test_supports.py`` and its neighbours need to know of columns.

Data and geometry alone: where points lie, how far from an end, how far from each other. The flows are rows of ``cases.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import BACKENDS, GROUPED, KINDED, SUPPORTED, Case, bare, data_scale, rng
from penstock.spec import latent_kinds

Array = np.ndarray[Any, Any]

COLUMNED = (*SUPPORTED, *KINDED, *GROUPED)
BY_NAME = {case.name: case for case in COLUMNED}
# Whose kernels Numba compiles in the quick suite of the pure-Python wheel.
QUICK = (
    "positive", "mixed_supports", "circle", "free_kinds", "autoregressive_kinds", "kinds_given", "ordered_within", "simplex",
    "mixed_groups",
)  # fmt: skip


def _of_ci(case: Case, backend: str = "numba") -> Any:
    return pytest.mark.slow if backend == "numba" and case.name not in QUICK else ()


def each_of(cases: Sequence[Case]) -> Any:
    """A pair of arguments, case and backend."""
    pairs = [(case, backend) for case in cases for backend in BACKENDS]
    return pytest.mark.parametrize(
        ("case", "backend"), [pytest.param(c, b, id=f"{c.name}-{b}", marks=_of_ci(c, b)) for c, b in pairs]
    )


each_columned = each_of(COLUMNED)
each_of_two_backends = pytest.mark.parametrize("case", [pytest.param(c, id=c.name, marks=_of_ci(c)) for c in COLUMNED])


def supports(flow: Any) -> tuple[Any, ...]:
    """The support of every column."""
    return bare(flow).spec.support


def groups(flow: Any) -> list[Any]:
    """The supports of several columns."""
    return list(dict.fromkeys(own for own in supports(flow) if own.name in ("ordered", "simplex")))


def twin(flow: Any) -> Any:
    """The same flow in float64."""
    other = bare(flow).astype("float64")
    return other if not flow.context_dim else type(flow)(other, flow.context)


# -- points -------------------------------------------------------------------------------------


def latents(case: Case, rows: int, flow: Any, dtype: str, *key: Any) -> Array:
    """Points on the latent side, which fill circles and boxes."""
    source = rng("columned latents", case.name, *key)
    z = (1.5 if groups(flow) else case.spread) * source.standard_normal((rows, flow.dim))
    for i, kind in enumerate(latent_kinds(bare(flow).spec)):
        if kind != "line":
            z[:, i] = {"circle": math.pi, "box": 1.0}[kind] * source.uniform(-0.999, 0.999, rows)
    return z.astype(np.float32).astype(dtype)


def points(case: Case, rows: int, flow: Any, *key: Any) -> Array:
    """Points on the data side, which fill circles and boxes: elsewhere what the reader of files makes of points on the line."""
    loc, scale = data_scale(flow)
    source = rng("columned points", case.name, *key)
    u = loc + scale * (1.5 if groups(flow) else case.spread) * source.standard_normal((rows, flow.dim))
    x = reference.reader()["outwards"](*reference._model(flow), u)[0]
    for j, own in enumerate(supports(flow)):
        if own.kind != "line":
            x[:, j] = own.lo + (own.hi - own.lo) * source.uniform(0.001, 0.999, rows)
    return x.astype(np.float32).astype(flow.dtype)


# -- ends and distances ---------------------------------------------------------------------------


def ends(flow: Any, x: Array) -> tuple[Array, Array]:
    """Both ends of every number of rows, by the words that describe supports; infinite where there is none."""
    low, high = np.full(x.shape, -math.inf), np.full(x.shape, math.inf)
    for j, own in enumerate(supports(flow)):
        if own.name == "interval":
            low[:, j], high[:, j] = own.ends
    for own in groups(flow):
        if own.name == "simplex":
            rest = np.ones(len(x))
            for j in own.columns:
                low[:, j], high[:, j] = 0.0, rest
                rest = rest - x[:, j].astype(np.float64)
            continue
        for place, j in enumerate(own.columns):
            low[:, j] = x[:, own.columns[place - 1]] if place else -math.inf if own.lo is None else own.lo
            last = place + 1 == len(own.columns)
            high[:, j] = x[:, own.columns[place + 1]] if not last else math.inf if own.hi is None else own.hi
    return low, high


def gap(flow: Any, x: Array) -> Array:
    """The distance of every number from the nearer end, in an ordered group also from both neighbours; at most 1."""
    low, high = ends(flow, x)
    found = np.minimum(np.minimum(x - low, high - x), 1.0)
    for own in groups(flow):
        if own.name == "simplex":
            rest = 1 - x[:, list(own.columns)].astype(np.float64).sum(axis=1)
            for j in own.columns:
                found[:, j] = np.minimum(found[:, j], rest)
    return found


def lies_within(flow: Any, x: Array) -> bool:
    """Whether all numbers of all rows lie between their ends, and strictly where the end is not of the support."""
    low, high = ends(flow, x)
    wide, fine = x.astype(np.float64), True
    for j, own in enumerate(supports(flow)):
        column = wide[:, j]
        if own.kind == "circle":
            fine &= bool(((column >= own.lo) & (column < own.hi)).all())
            continue
        of_low, of_high = ps.support.CLOSED[own.closed] if own.kind == "box" else (False, False)
        fine &= bool(((column >= low[:, j]) if of_low else (column > low[:, j])).all())
        fine &= bool(((column <= high[:, j]) if of_high else (column < high[:, j])).all())
    for own in groups(flow):
        rows = x[:, list(own.columns)]
        if own.name == "simplex":
            fine &= all(math.fsum(row) <= 1 for row in rows.astype(np.float64).tolist())
        else:
            fine &= bool((np.diff(rows, axis=1) > 0).all())
    return fine


def outside(flow: Any, x: Array) -> list[tuple[int, Any]]:
    """Columns, and values with which rows lie outside: one for all rows, or one for each."""
    found: list[tuple[int, Any]] = []
    for j, own in enumerate(supports(flow)):
        if own.name == "interval":
            lo, hi = own.ends
            values = {lo - 1, hi + 1, -math.inf, math.inf}
            values |= {np.nextafter(np.float32(hi), np.float32(1e9))} if own.kind == "box" else {lo, hi}
            found += [(j, value) for value in sorted(values)]
    for own in groups(flow):
        first, last = own.columns[0], own.columns[-1]
        if own.name == "simplex":
            rest = 1 - x[:, list(own.columns[:-1])].astype(np.float64).sum(axis=1)
            some = [0.0, -0.5, 1.0, math.inf, -math.inf]
            found += [(j, value) for j in own.columns[:2] for value in some] + [(last, rest * (1 + 1e-3))]
            continue
        found += [(last, x[:, own.columns[-2]]), (first, x[:, own.columns[1]])]
        found += [(j, value) for j in (first, last) for value in (-math.inf, math.inf)]
        found += [(j, end) for j, end in ((first, own.lo), (last, own.hi)) if end is not None]
    return found


def apart(flow: Any, a: Array, b: Array, *, latent: bool = False) -> Array:
    """The distance of numbers, which on a circle is that of angles."""
    return np.abs(turned(flow, np.asarray(a, np.float64) - np.asarray(b, np.float64), latent=latent))


def turned(flow: Any, d: Array, *, latent: bool) -> Array:
    """Differences of numbers, on circles less whole turns."""
    kinds = latent_kinds(bare(flow).spec) if latent else bare(flow).spec.kinds
    for i, kind in enumerate(kinds):
        if kind == "circle":
            period = 2 * math.pi if latent else supports(flow)[i].hi - supports(flow)[i].lo
            d[..., i] -= period * np.round(d[..., i] / period)
    return d


# -- differences ----------------------------------------------------------------------------------


def jacobian(flow: Any, function: Callable[[Array], Any], at: Array, step: Array, *, latent: bool) -> Array:
    """Derivatives of images, rows by images by inputs, by differences of the fourth order."""
    found = np.zeros((len(at), flow.dim, flow.dim))
    for j in range(flow.dim):
        unit = np.zeros(at.shape)
        unit[:, j] = step[:, j]
        y = [function(at + k * unit)[0] for k in (-2, -1, 1, 2)]
        y = [y[0] + turned(flow, part - y[0], latent=latent) for part in y]
        found[:, :, j] = (y[0] - 8 * y[1] + 8 * y[2] - y[3]) / (12 * step[:, j : j + 1])
    return found


def differences(function: Callable[[Array], float], at: Array, step: Array) -> Array:
    """The gradient of a function of an array, by differences of the fourth order."""
    found = np.zeros(at.shape)
    for place in np.ndindex(*at.shape):
        unit = np.zeros(at.shape)
        unit[place] = step[place]
        y = [function(at + k * unit) for k in (-2, -1, 1, 2)]
        found[place] = (y[0] - 8 * y[1] + 8 * y[2] - y[3]) / (12 * step[place])
    return found
