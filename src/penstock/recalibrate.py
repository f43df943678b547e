"""Recalibration: one more layer at the latent end of a fitted flow, chosen on rows that it was not trained on.

The layer is an ordinary elementwise one, so that every backend and every reader of the file has it. What it does is judged by
cross-validation within those rows.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np

from penstock import _validate
from penstock._backend import Backend
from penstock._typing import Array
from penstock._warn import TrainingWarning, warn
from penstock.base import StandardNormal, Uniform, blocks
from penstock.diagnostics.regions import LEVELS, density_levels
from penstock.diagnostics.statistics import effective_size, mean_with_error, pm, share_with_error
from penstock.diagnostics.subject import Model, Subject
from penstock.lattice import Lattice
from penstock.layers import Elementwise
from penstock.plan import BASE, EMBEDDING, Plan, compile_plan
from penstock.runner import Runner
from penstock.spec import FlowSpec, latent_kinds
from penstock.state import Snapshot, identity
from penstock.support import BOX, CIRCLE, Interval, Periodic, Real, Support, n_numbers
from penstock.training.dequantize import as_seen
from penstock.transforms import Affine, RationalQuadratic

FEWEST = {"temperature": 100, "pit": 500}  # rows, or their effective size
GRID, REACH = 25, 1.5  # log-scales looked at, and the largest
BINS, BOUND = 10, 5.0  # of a spline
PRIOR = 0.3  # width of the normal prior of its numbers
COVERED, DRAWS = 2000, 200  # rows and draws for coverage
FOLDS = 5

Parts = tuple[FlowSpec, Plan, Snapshot]


class Member(Protocol):
    """What is needed of a flow."""

    _spec: FlowSpec
    _plan: Plan
    _snapshot: Snapshot
    _backend: Backend
    _lattice: Lattice | None

    def _in_double(self) -> tuple[Runner, Any]: ...


@dataclass(frozen=True)
class Recalibration:
    """What a recalibration did, by cross-validation within the rows that it was given.

    Attributes
    ----------
    how : {"temperature", "pit"}
    rows : int
    scale : float
        Of ``how="temperature"``: what latents are multiplied by, below 1 where the flow was too narrow. NaN otherwise.
    before, after : float
        Mean log-density of the rows, in nats.
    gain, gain_error : float
        Their difference, and its standard error.
    levels : array of shape (levels,)
    coverage_before, coverage_after, coverage_error : arrays of shape (levels,)
        The share of rows in highest-density regions of these levels, with the standard error of either.
    left_alone : int
        How many latent dimensions the layer does not change: circles and boxes have no temperature.
    """

    how: str
    rows: int
    scale: float
    before: float
    after: float
    gain: float
    gain_error: float
    levels: Array
    coverage_before: Array
    coverage_after: Array
    coverage_error: Array
    left_alone: int = 0

    def __str__(self) -> str:
        what = f"latents times {self.scale:.3f}" if self.how == "temperature" else "a spline for each latent"
        if self.how == "temperature":
            narrow = "narrow" if self.scale < 1 else "wide"
            what += f" (the flow was too {narrow})" if abs(math.log(self.scale)) > 0.01 else ""
        k = int(np.argmin(abs(self.levels - 0.9)))
        alone = f"; {self.left_alone} circles and boxes left as they are" if self.left_alone else ""
        return (
            f"recalibration by {self.how} on {self.rows} rows: {what}; held out {pm(self.gain, self.gain_error)} nats a row "
            f"better ({self.before:.3f} to {self.after:.3f}); the regions of {100 * self.levels[k]:.3g} % hold "
            f"{100 * self.coverage_before[k]:.1f} % of the rows before and "
            f"{pm(self.coverage_after[k], self.coverage_error[k], percent=True)} after{alone}"
        )


class Rows(NamedTuple):
    """Checked rows: with their contexts and weights."""

    x: Array
    context: Array | None
    weight: Array | None


def recalibrated(
    members: Sequence[Member],
    log_weights: Array,
    rows: Rows,
    how: Any,
    rebuilt: Callable[[list[Parts]], Model],
    rng: Any,
) -> tuple[list[Parts], Recalibration]:
    """Each member with one more layer, and what that does for their mixture.

    Parameters
    ----------
    members : sequence of flows
    log_weights : array of shape (members,)
        Of the mixture; [0.0] for one flow.
    rows : Rows
    how : {"temperature", "pit"}
    rebuilt : callable
        Makes a model of the parts of new members.
    rng : seed or numpy Generator
        Of the folds, and of the draws for coverage.
    """
    _validate.choice(how, tuple(FEWEST), name="how")
    size = effective_size(rows.weight, len(rows.x)) if len(rows.x) else 0.0
    if size < FEWEST[how]:
        worth = "" if rows.weight is None else f", by their weights {size:.0f}"
        raise ValueError(
            f"how={how!r} needs at least {FEWEST[how]} rows that the flow was not trained on, got {len(rows.x)}{worth}"
        )
    if how == "pit" and len(members) > 1:
        raise ValueError(
            "how='pit' is of one flow: the members of an ensemble have no latents in common. Use how='temperature', or "
            "recalibrate a flow"
        )
    seed = _validate.seed(rng)
    seen = rows._replace(x=as_seen(rows.x, members[0]._lattice, seed, members[0]._spec.support, rows.weight))
    ends = [LatentEnd(member, seen, how) for member in members]
    order = np.random.default_rng(seed).permutation(len(rows.x))
    folds = np.array_split(order, FOLDS)
    fit = _temperatures if how == "temperature" else _splines
    thetas, before, after = fit(ends, log_weights, rows.weight, folds)
    parts = [[end.parts(theta) for end in ends] for theta in thetas]
    gain, gain_error = mean_with_error(after - before, rows.weight)
    covered, covered_after, covered_error = _coverage(members, rows, folds, parts, rebuilt, seed)
    scale = math.exp(float(thetas[-1][0])) if how == "temperature" else math.nan
    means = [float(mean_with_error(values, rows.weight)[0]) for values in (before, after)]
    record = Recalibration(
        how, len(rows.x), scale, means[0], means[1], float(gain), float(gain_error), np.array(LEVELS), covered, covered_after,
        covered_error, ends[0].left_alone,
    )  # fmt: skip
    logging.getLogger("penstock").info("%s", record)
    if not gain > gain_error:
        warn(f"recalibrating did not help, and the flow may stay as it is: {record}", TrainingWarning)
    return parts[-1], record


class LatentEnd:
    """The latent end of a flow with one more layer: a small flow by itself, whose data are the latents.

    Parameters
    ----------
    flow : Member
    rows : Rows
    how : {"temperature", "pit"}

    Attributes
    ----------
    theta : list of slice
        Where the numbers of the layer are in the parameters of the small flow.
    """

    def __init__(self, flow: Member, rows: Rows, how: str) -> None:
        spec, plan = flow._spec, flow._plan
        self._flow, self._kinds = flow, latent_kinds(spec)
        lines = [slot for slot, kind in enumerate(self._kinds) if kind == "line"]
        self.left_alone = len(self._kinds) - len(lines) if how == "temperature" else 0
        if how == "temperature" and not lines:
            raise ValueError(
                "how='temperature' scales latents on lines, and all of this flow are circles or boxes: use how='pit'"
            )
        if any(isinstance(base, Uniform) and set(dims) & set(lines) for base, dims in blocks(spec.base)):
            raise ValueError(f"the latents of a uniform base have ends, and cannot be moved: got {spec.base}")
        runner, packed = flow._in_double()
        self.z, self.log_det = runner.transform(packed, False, rows.x, rows.context)
        self.log_det = self.log_det.astype(np.float64)
        lost = ~np.isfinite(self.z).all(axis=1) | ~np.isfinite(self.log_det)
        if lost.any():
            raise ValueError(
                f"{int(lost.sum())} rows of X have no latents, as where they lie outside the support: first row "
                f"{int(np.argmax(lost))}"
            )
        bound = BOUND
        if lines and not isinstance(spec.base, StandardNormal):
            bound = max(bound, 1.2 * float(np.quantile(abs(self.z[:, lines]), 0.995)))
        self.layer = Elementwise(Affine(math.inf) if how == "temperature" else RationalQuadratic(BINS, bound=bound))
        ends: dict[str, Support] = {CIRCLE: Periodic(-math.pi, math.pi), BOX: Interval(-1.0, 1.0)}
        support = tuple(ends.get(kind, Real()) for kind in self._kinds)
        reads = any(base.conditioner is not None for base, _ in blocks(spec.base))
        self._context = rows.context if reads else None
        small = replace(
            spec, layers=(self.layer,), dtype="float64", support=support if set(self._kinds) != {"line"} else ()
        )  # fmt: skip
        if not reads:
            small = replace(small, context_dim=0, embedding=None, embedding_dim=0, context_support=())
        self._plan = compile_plan(small)
        self._runner = Runner(self._plan, flow._backend)
        self._buffers = identity(self._plan)
        if reads:
            own = slice(2 * plan.dim, 2 * plan.dim + 2 * plan.context_dim)
            self._buffers[own] = flow._snapshot.buffers[own]
            if spec.context_support:  # whose numbers stand last
                mapped = sum(n_numbers(own_support, j) for j, own_support in enumerate(spec.context_support))
                self._buffers[len(self._buffers) - mapped :] = flow._snapshot.buffers[
                    len(flow._snapshot.buffers) - mapped :
                ]
        self._params = np.zeros(self._plan.n_params)
        for kind in (EMBEDDING, *(BASE - number for number, _ in enumerate(blocks(spec.base)))):
            if kind == EMBEDDING and not reads:
                continue
            for mine, theirs in zip(self._plan.tensors_of(kind), plan.tensors_of(kind), strict=True):
                self._params[mine.offset : mine.stop] = flow._snapshot.params[theirs.offset : theirs.stop]
        tensors = self._plan.tensors_of(0)
        self.theta = slice(tensors[0].offset, tensors[-1].stop)
        self._n_lines = len(lines)

    def scaled(self, log_scale: float) -> Array:
        """The numbers of an affine layer that scales all lines alike."""
        return np.tile([log_scale, 0.0], self._n_lines)

    def _pack(self, theta: Array) -> Any:
        params = self._params.copy()
        params[self.theta] = theta
        return self._runner.pack(params, self._buffers.copy())

    def log_prob(self, theta: Array) -> Array:
        """The log-density of the rows with these numbers of the layer, (rows,)."""
        values = self._runner.log_prob(self._pack(theta), self.z, self._context)
        found: Array = self.log_det + values
        return found

    def loss_and_grad(self, theta: Array, places: Array, weight: Array) -> tuple[float, Array]:
        """The weighted negative log-density of some rows but for a constant, and its gradient."""
        given = None if self._context is None else self._context[places] if self._context.ndim == 2 else self._context
        loss, _, grad = self._runner.loss_and_grad(self._pack(theta), self.z[places], given, weight)
        return float(loss), grad[self.theta]

    def parts(self, theta: Array) -> Parts:
        """The whole flow with the layer."""
        flow = self._flow
        spec = replace(flow._spec, layers=(self.layer, *flow._spec.layers))
        plan = compile_plan(spec)
        params = np.zeros(plan.n_params, plan.dtype)
        own = plan.tensors_of(0)
        params[own[0].offset : own[-1].stop] = theta
        # All others follow in their order, with other names.
        others = [tensor for tensor in plan.tensors if tensor.layer != 0]
        for mine, theirs in zip(others, flow._plan.tensors, strict=True):
            params[mine.offset : mine.stop] = flow._snapshot.params[theirs.offset : theirs.stop]
        return spec, plan, Snapshot(params, flow._snapshot.buffers.copy(), flow._snapshot.initialised)


Fitted = tuple[list[Array], Array, Array]


def _temperatures(
    ends: Sequence[LatentEnd], log_weights: Array, weight: Array | None, folds: Sequence[Array]
) -> Fitted:
    """Numbers of the layer for the rows without each fold, and for all of them; log-densities before, and after, held out."""

    def mixture(log_scale: float) -> Array:
        each = [w + end.log_prob(end.scaled(log_scale)) for w, end in zip(log_weights, ends, strict=True)]
        found: Array = np.logaddexp.reduce(each, axis=0)
        return found

    w = np.ones(len(ends[0].z)) if weight is None else weight
    before = mixture(0.0)
    middle, step = 0.0, 2 * REACH / (GRID - 1)
    for reach in (REACH, step, 2 * step / (GRID - 1)):
        grid = middle + np.linspace(-reach, reach, GRID)
        values = np.array([mixture(s) for s in grid])
        middle = float(grid[int(np.argmax(values @ w))])
    if abs(middle) > REACH - step:
        raise ValueError(
            f"the latents are off by a factor of {math.exp(abs(middle)):.1f} or more: X is not of the distribution that the flow "
            "was trained on, or in other units, or the flow is not trained for long enough to describe even its own rows"
        )
    after = before.copy()
    thetas = []
    for held in (*folds, np.zeros(0, np.int64)):
        rest = w.copy()
        rest[held] = 0.0
        best, row = _vertex(grid, values, rest)
        thetas.append(best)
        after[held] = row[held]
    return [ends[0].scaled(s) for s in thetas], before, after


def _vertex(grid: Array, values: Array, weight: Array) -> tuple[float, Array]:
    """Where the weighted sum of values (grid, rows) is greatest, and each row's value there, by parabolas."""
    total = values @ weight
    k = min(max(int(np.argmax(total)), 1), len(grid) - 2)
    step = grid[1] - grid[0]

    def parabola(y: Array) -> tuple[Any, Any]:
        return (y[2] - y[0]) / 2, y[2] - 2 * y[1] + y[0]

    slope, bend = parabola(total[k - 1 : k + 2])
    t = min(max(-float(slope / bend), -1.0), 1.0) if bend < 0 else 0.0
    slopes, bends = parabola(values[k - 1 : k + 2])
    row: Array = values[k] + t * slopes + 0.5 * t * t * bends
    return float(grid[k] + t * step), row


def _splines(ends: Sequence[LatentEnd], log_weights: Array, weight: Array | None, folds: Sequence[Array]) -> Fitted:
    """The same for splines, whose numbers have the greatest posterior density, under a normal prior around the identity."""
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise ImportError("how='pit' needs SciPy: pip install 'penstock[diagnostics]'") from None
    (end,) = ends
    n = len(end.z)
    w = np.ones(n) if weight is None else weight * (effective_size(weight, n) / weight.sum())
    start = np.zeros(end.theta.stop - end.theta.start)
    before = end.log_prob(start)
    after, thetas = before.copy(), []
    for held in (np.zeros(0, np.int64), *folds):  # each fold begins where all rows together have ended
        places = np.setdiff1d(np.arange(n), held)

        def loss(theta: Array, places: Array = places) -> tuple[float, Array]:
            value, grad = end.loss_and_grad(theta, places, w[places])
            return value + 0.5 * float(theta @ theta) / PRIOR**2, grad + theta / PRIOR**2

        # Not L-BFGS-B, whose calls of LAPACK for a handful of numbers wait for the threads of BLAS.
        theta = minimize(loss, start, jac=True, method="BFGS", options={"maxiter": 100, "gtol": 0.02}).x
        thetas.append(theta)
        start = thetas[0]
        if len(held):
            after[held] = end.log_prob(theta)[held]
    return [*thetas[1:], thetas[0]], before, after


def _coverage(
    members: Sequence[Member],
    rows: Rows,
    folds: Sequence[Array],
    parts: Sequence[list[Parts]],
    rebuilt: Callable[[list[Parts]], Model],
    seed: int,
) -> tuple[Array, Array, Array]:
    """The share of rows in highest-density regions before and after, of those that the layer was not fitted to, and its error.

    The rows are as given: the regions of a flow with a lattice are of rows with noise, which ``Subject`` adds.
    """
    plain = rebuilt([(member._spec, member._plan, member._snapshot) for member in members])
    levels: list[list[Array]] = [[], []]
    weights, size = [], 0.0
    for fold, own in zip(folds, parts, strict=False):
        some = fold[: COVERED // FOLDS]
        w = None if rows.weight is None else rows.weight[some]
        given = rows.context if rows.context is None or rows.context.ndim == 1 else rows.context[some]
        for k, model in enumerate((plain, rebuilt(own))):
            subject = Subject(model, rows.x[some], given, sample_weight=w, rng=seed)
            found, worth = density_levels(subject, DRAWS if subject.conditional else None)
            levels[k].append(found)
        weights.append(np.ones(len(some)) if w is None else w[w > 0])
        size += worth
    weight = np.concatenate(weights)
    shares = [[share_with_error(np.concatenate(side) <= level, weight, size) for level in LEVELS] for side in levels]
    before, after = (np.array([share for share, _ in side]) for side in shares)
    return before, after, np.array([error for _, error in shares[1]])
