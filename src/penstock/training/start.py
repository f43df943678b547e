"""Where a target lies and how wide it is, as ``fit_to_target`` is told or finds out, and what a first fit sets by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.columns import Names
from penstock.layers import LULinear
from penstock.runner import Runner
from penstock.state import identity
from penstock.support import Real, Support
from penstock.targets import LogDensity, evaluated, shown
from penstock.training.contexts import SAMPLE, Contexts
from penstock.training.coordinates import Coordinates
from penstock.training.diagnosis import TrainingError
from penstock.training.divergence import CONTEXTS, PILOT, exp, seed_of
from penstock.training.mixtures import Mixture, spread
from penstock.training.moments import moments
from penstock.training.pilot import DENSE, Pilot, pilot
from penstock.training.rows import Rows
from penstock.training.scale import SCALE_MIN, loc_and_scale, start_actnorms, warn_far
from penstock.training.supports import check_inside, lines_alone, measured, on_line

START_ROWS = 4096  # rows that start ActNorm, and on which supports are measured
PILOTS = 6  # contexts at which a pilot looks
WORTH = 200  # rows of equal weight that weighted ones must be worth to count by their weights


class Design(NamedTuple):
    """What training needs to know of a flow besides its plan.

    Attributes
    ----------
    support, context_support : sequence of Support
        One for each column; empty where all are real.
    columns, context_columns : tuple of str
        Names, for messages.
    actnorms : tuple of int
        Numbers of the ActNorm layers.
    linear : (int, LULinear, tuple of int), or None
        Number and spec of a layer that begins with the correlations of the target, and the dimensions that it mixes.
    mixtures : tuple of Mixture
        Of the base.
    normals : Runner
        Of a standard normal, which draws.
    unconstrained : Runner or None
        Of a flow in float64 with these supports and no layer; None where all columns are real.
    """

    normals: Runner
    support: Sequence[Support] = ()
    columns: Names = ()
    context_columns: Names = ()
    actnorms: tuple[int, ...] = ()
    linear: tuple[int, LULinear, tuple[int, ...]] | None = None
    mixtures: tuple[Mixture, ...] = ()
    unconstrained: Runner | None = None
    context_support: Sequence[Support] = ()


class Start(NamedTuple):
    """Location and scale of the standardisation, the words for it, and rows or a root of a covariance, if there are any.

    Rows are those of the data; the others, and the numbers that supports have of their own, of the coordinates in which columns
    are standardised. As ``as_start`` gives them, location and scale are those of the data, too.
    """

    loc: Array
    scale: Array
    words: str
    rows: Array | None = None
    root: Array | None = None
    numbers: Array = np.zeros(0)
    given: bool = False  # whether the rows are the caller's


def as_start(init: Any, dim: int) -> Start | None:
    """``init`` as the standardisation that it means: rows, or a tuple of mean and scale."""
    if init is None:
        return None
    rows = None
    if isinstance(init, tuple):
        if len(init) != 2:
            raise ValueError(f"init must be rows, or a tuple (mean, scale), got a tuple of {len(init)}")
        loc, scale = (_one_each(part, dim, f"init[{i}]") for i, part in enumerate(init))
        words = "init"
    else:
        rows = _validate.as_rows(init, dim, name="init").astype(np.float64)
        if len(rows) < 2:
            raise ValueError(f"init must have at least 2 rows, which have a spread, got {len(rows)}")
        with np.errstate(all="ignore"):
            loc, scale, words = rows.mean(axis=0), rows.std(axis=0), f"{len(rows)} rows of init"
    if not (np.isfinite(loc).all() and np.isfinite(scale).all() and (scale > SCALE_MIN).all()):
        raise ValueError(
            "init must give every dimension a finite mean and a positive finite scale, got mean "
            f"{shown(loc)} and scale {shown(scale)}"
        )
    return Start(loc, scale, words, rows, given=rows is not None)


def check_start(start: Start | None, support: Sequence[Support], names: Names) -> None:
    """Raise unless what ``as_start`` gave lies within the supports."""
    if start is not None and support:
        rows, name = (start.loc[None], "the mean of init") if start.rows is None else (start.rows, "init")
        check_inside(Rows(rows), support, names, name=name)


def _one_each(value: Any, dim: int, name: str) -> Array:
    """A number for each dimension, from one for all or an array of them."""
    array = _validate.reals(value, name=name)
    return (
        np.full(dim, float(array))
        if array.ndim == 0
        else _validate.as_shaped(array, (dim,), _validate.FLOAT64, name=name)
    )


# --- what is not told is found ----------------------------------------------------------------------------------


def settled(start: Start | None, target: LogDensity, design: Design, contexts: Contexts | None, seed: int) -> Start:
    """The standardisation of a first fit: by what was told, or by a pilot of the target.

    The pilot fits a Gaussian in unconstrained coordinates, with contexts one at each of some. Its draws, by their importance
    weights where these are worth something, are the rows that supports are measured on, as a fit to data measures its rows.
    """
    dim, normals = design.normals.plan.dim, design.normals
    packed = normals.pack(np.zeros(0, normals.plan.dtype), identity(normals.plan))

    def draw(first: int, n: int) -> Array:
        return normals.sample(packed, n, seed_of(seed, PILOT), numbers=(first, 0))[0].astype(np.float64)

    if design.unconstrained is None and contexts is None:
        return start if start is not None else _plain(pilot(target, draw, dim), draw)
    if design.unconstrained is None:
        if start is not None:
            return start
        return _of_contexts(target, _given(contexts, normals, seed), dim, draw)
    if start is not None and start.rows is not None:
        return measured_start(start.rows, None, design.support, start.words)._replace(given=True)
    coordinates = Coordinates(design.unconstrained, design.support)
    if start is not None:
        loc, scale = coordinates.around(start.loc, start.scale)
        found = measured_start(
            coordinates.to_data(loc + scale * draw(0, START_ROWS)), None, design.support, start.words
        )
        exact = np.array([isinstance(own, Real) for own in design.support])
        return found._replace(
            loc=np.where(exact, start.loc, found.loc), scale=np.where(exact, start.scale, found.scale), root=None
        )
    given = [None] if contexts is None else list(_given(contexts, normals, seed))
    return _by_coordinates(target, given, coordinates, design, draw)


def _given(contexts: Contexts | None, runner: Runner, seed: int) -> Array:
    """The contexts at which a pilot looks."""
    assert contexts is not None
    return contexts.take(runner, seed_of(seed, PILOT + CONTEXTS), 0, contexts.distinct(PILOTS))


def _need(found: Sequence[Pilot | None]) -> list[Pilot]:
    """The pilots that found something, of which there must be one."""
    usable = [one for one in found if one is not None]
    if not usable:
        raise TrainingError(
            "log_density and its gradient are finite nowhere around 0, where the search for its location begins; give init=: "
            "rows (prior draws), or (mean, scale). The flow is as it was before"
        )
    return usable


def _root(found: Pilot) -> Array:
    return np.diag(found.scale) if found.root is None else found.root


def _plain(found: Pilot | None, draw: Any) -> Start:
    """What a pilot of real columns has found."""
    (one,) = _need([found])
    rows = one.loc + draw(0, START_ROWS) @ _root(one).T
    return Start(one.loc, one.scale, f"a pilot of {one.evaluations} evaluations", rows, one.root)


def _of_contexts(target: LogDensity, contexts: Array, dim: int, draw: Any) -> Start:
    """What pilots at some contexts have found, as one distribution: the mean of their covariances and that of their means."""

    def at(context: Array) -> LogDensity:
        return lambda x: target(x, np.repeat(context[None], len(x), axis=0))

    found = _need([pilot(at(context), draw, dim) for context in contexts])
    n = len(found)
    loc = np.mean([one.loc for one in found], axis=0)
    root = np.concatenate(
        [*(_root(one) for one in found), *((one.loc - loc)[:, None] for one in found)], axis=1
    ) / math.sqrt(n)
    rows = np.concatenate(
        [one.loc + draw(i * START_ROWS, START_ROWS // n) @ _root(one).T for i, one in enumerate(found)]
    )  # fmt: skip
    scale = np.sqrt((root**2).sum(axis=1))
    words = f"pilots at {n} contexts, of {sum(one.evaluations for one in found)} evaluations"
    return Start(loc, scale, words, rows, root if dim <= DENSE else None)


def _by_coordinates(
    target: LogDensity, contexts: Sequence[Array | None], coordinates: Coordinates, design: Design, draw: Any
) -> Start:
    """What pilots have found in unconstrained coordinates."""
    dim, rows, weights, asked = len(design.support), [], [], 0
    pulled = [coordinates.pulled(target, context) for context in contexts]
    pilots = [pilot(one, draw, dim, coordinates.widest) for one in pulled]
    n = START_ROWS // len(_need(pilots))
    for i, (one, found) in enumerate(zip(pulled, pilots, strict=True)):
        if found is None:
            continue
        e = draw(i * START_ROWS, n)
        v = found.loc + e @ _root(found).T
        log_p, _ = evaluated(one, v, gradient=False)
        rows.append(coordinates.to_data(v))
        weights.append(_weights(log_p + 0.5 * (e**2).sum(axis=1)))
        asked += found.evaluations + n
    words = (
        f"a pilot of {asked} evaluations"
        if contexts[0] is None
        else f"pilots at {len(rows)} contexts, of {asked} evaluations"
    )
    return measured_start(np.concatenate(rows), np.concatenate(weights), design.support, words)


def _weights(log_weights: Array) -> Array:
    """Importance weights, cut off where few would outweigh the others, with mean 1; all alike where they are worth too little.

    References
    ----------
    Ionides, "Truncated importance sampling" (2008).
    """
    good = np.isfinite(log_weights)
    if not good.any():
        return np.ones(len(log_weights))
    weights = np.where(good, exp(np.where(good, log_weights - log_weights[good].max(), 0.0)), 0.0)
    weights = np.minimum(weights, weights.mean() * math.sqrt(len(weights)))
    worth = weights.sum() ** 2 / (weights**2).sum()
    return weights / weights.mean() if worth >= WORTH else good.astype(np.float64)


def measured_start(rows: Array, weight: Array | None, support: Sequence[Support], words: str) -> Start:
    """The standardisation of rows within supports, as a first fit to data would measure it."""
    keep = np.isfinite(rows).all(axis=1)
    sample = Rows(rows[keep], None, None if weight is None else weight[keep])
    numbers = measured(sample, support)
    line = on_line(sample, numbers, support)
    x = line.x[:]
    mapped = np.isfinite(x).all(axis=1)  # a row that rounding has put on an end has no image
    sample, line = sample.take(mapped), Rows(x[mapped], None, None if sample.weight is None else sample.weight[mapped])
    loc, scale = moments(line)
    scale = np.where(scale > SCALE_MIN, scale, 1.0)
    root = None
    if rows.shape[1] <= DENSE:
        away = line.x - loc
        w = np.ones(len(away)) if line.weight is None else line.weight
        value, vector = np.linalg.eigh((away * w[:, None]).T @ away / w.sum() / np.outer(scale, scale))
        root = scale[:, None] * vector * np.sqrt(np.maximum(value, 1e-12))
    some = sample.x if sample.weight is None else _resampled(sample.x, sample.weight)
    return Start(loc, scale, f"{words}, of unconstrained columns", some, root, numbers)


def _resampled(rows: Array, weight: Array) -> Array:
    """As many rows, in proportion to their weights."""
    mass = np.cumsum(weight)
    chosen: Array = rows[np.searchsorted(mass, (np.arange(len(rows)) + 0.5) / len(rows) * mass[-1])]
    return chosen


# --- and sets the flow ------------------------------------------------------------------------------------------


def begin(
    runner: Runner,
    params: Array,
    start: Start,
    design: Design,
    contexts: Contexts | None,
    seed: int,
    frozen: Array | None,
) -> Array:
    """Set the linear layer, mixtures and ActNorms in ``params``; the buffers."""
    dim = runner.plan.dim
    parts, last = [start.loc, start.scale], [start.numbers]
    given = None
    if contexts is not None:
        some = contexts.take(runner, seed_of(seed, CONTEXTS), 0, contexts.distinct(SAMPLE))
        own = design.context_support
        numbers = measured(Rows(some), own) if own else np.zeros(0)
        table, sample = (
            on_line(Rows(x), numbers, own) for x in (some if contexts.rows is None else contexts.rows, some)
        )
        parts.append(loc_and_scale(table, True, sample, "context", design.context_columns))
        last.append(numbers)
        given = contexts.take(runner, seed_of(seed, PILOT + CONTEXTS), 0, START_ROWS)
    buffers = np.concatenate([*parts, *last])
    buffers = lines_alone(buffers, runner.plan, design.support, design.context_support)
    if runner.plan.dtype == np.float32:  # what the target is asked for are its numbers
        warn_far(buffers[:dim], buffers[dim : 2 * dim], "the target", design.columns)
    if design.linear is not None:
        start_linear(runner, *design.linear, params, buffers, start, frozen, None if given is None else given[0])
    rows = start.rows
    if rows is None:
        normals = design.normals
        packed = normals.pack(np.zeros(0, normals.plan.dtype), identity(normals.plan))
        rows = start.loc + normals.sample(packed, START_ROWS, seed_of(seed, PILOT))[0] * start.scale
    rows = rows[:START_ROWS]
    sample = Rows(rows, None if given is None else given[: len(rows)])
    if design.actnorms:
        start_actnorms(runner, design.actnorms, params, buffers, sample, frozen)
    if design.mixtures and start.given:
        z, _ = runner.transform(runner.pack(params, buffers), False, sample.x, sample.context)
        spread(runner.plan, design.mixtures, params, z, seed, frozen)
    return buffers


def start_linear(
    runner: Runner, k: int, layer: LULinear, dims: tuple[int, ...], params: Array, buffers: Array, start: Start,
    frozen: Array | None, context: Array | None = None,
) -> None:  # fmt: skip
    """Set a fresh LU layer, number ``k``, in ``params`` so that what it makes of a normal density of this covariance is white.

    The layers outside of it, towards the data, are taken as the affine maps that fresh ones are. ``W = P U`` to the latent
    side with ``U^T U`` the inverse covariance C of what arrives, or ``W = P L D`` to the data with ``L D^2 L^T = P^T C P``.
    """
    tensor = next(tensor for tensor in runner.plan.tensors if tensor.name == f"layers.{k}.lu")
    numbers, dim = params[tensor.offset : tensor.offset + tensor.size], runner.plan.dim
    held = frozen is not None and any(first <= tensor.offset < first + count for first, count in frozen)
    if start.root is None or numbers.any() or held or not isinstance(layer.signs, str):
        return
    units = np.concatenate([np.zeros((1, dim)), np.eye(dim)])  # of standardised columns, between the ends of the flow
    packed, last = runner.pack(params, buffers), runner.plan.n_steps - 1
    images, _ = runner.transform(packed, False, units, context, first=k + 1, last=last)
    images = images.astype(np.float64)
    root = (images[1:] - images[0]).T[list(dims)] @ (start.root / start.scale[:, None])
    covariance = root @ root.T
    try:
        if layer.explicit == "to_latent":
            factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
        else:
            back = np.argsort(layer.order)
            factor = np.linalg.cholesky(covariance[back][:, back])
            factor = factor / np.diag(factor) + np.diag(np.diag(factor) - 1)
    except np.linalg.LinAlgError:  # correlations of 1, to rounding: training may find better ones
        return
    np.fill_diagonal(factor, [math.log(number) for number in np.diag(factor).tolist()])
    numbers[:] = factor.ravel()
