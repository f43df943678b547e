"""The highest density: gradient ascent from good draws, within the support."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._typing import Array
from penstock.sbi.ends import open_ends
from penstock.support import CLOSED, Interval, Periodic, Support

if TYPE_CHECKING:
    from penstock.sbi.posterior import Posterior

STEPS = 200  # of one ascent
LOW = 1e10  # in the place of an infinite objective, which a line search turns back from


def highest(posterior: Posterior, x: Array, n: int, starts: int, seed: int) -> Array:
    """The best parameters that ascents from the best of n draws reach, at one x as the flow reads it."""
    try:
        from scipy.optimize import minimize
    except ImportError:
        raise ImportError("map needs SciPy: pip install 'penstock[stats]'") from None
    flow, rejection = posterior.flow, posterior._rejection
    draws = posterior._within(flow.sample(n, x, rng=seed, where=rejection.where).astype(np.float64))
    double = flow.astype("float64")
    density = double.log_prob(draws, x)
    best = np.argsort(density)[::-1][:starts]
    scale = draws.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    supports = posterior.spec.support or posterior.prior.support

    def objective(u: Array) -> tuple[float, Array]:
        theta = (u * scale)[None]
        value, grad = double.log_prob_and_grad(theta, x)
        if not np.isfinite(value[0]) or not np.isfinite(grad).all():
            return LOW, np.zeros_like(u)
        if rejection.needed and not rejection.inside(theta)[0]:
            return LOW, np.zeros_like(u)
        return -float(value[0]), -grad[0] * scale

    ends = open_ends(supports, posterior.dtype)
    bounds = [_bounds(*column) for column in zip(supports, scale, *ends, strict=False)] or None
    tops = [draws[best[0]]]
    values = [float(density[best[0]])]
    for start in draws[best]:
        found: Any = minimize(
            objective, start / scale, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}
        )
        tops.append(_wrapped(found.x * scale, supports))
        values.append(-float(found.fun))
    top: Array = tops[int(np.argmax(values))]
    return top


def _bounds(support: Support, scale: float, low: float, high: float) -> tuple[float | None, float | None]:
    """The ends of a column in its unit; those that do not belong to it are not reached, nor what is beyond low and high."""
    if not isinstance(support, Interval):
        return None, None
    lo, hi = support.lo, support.hi
    belongs = CLOSED[str(support.closed)]
    room = 1e-9 * (hi - lo if lo is not None and hi is not None else scale)
    lower = None if lo is None else max(low, lo if belongs[0] else lo + room) / scale
    upper = None if hi is None else min(high, hi if belongs[1] else hi - room) / scale
    return lower, upper


def _wrapped(theta: Array, supports: tuple[Support, ...]) -> Array:
    """Angles within their turn, boxes without the rounding of a unit."""
    found = theta.copy()
    for i, one in enumerate(supports):
        if isinstance(one, Periodic):
            found[i] = one.lo + (found[i] - one.lo) % (one.hi - one.lo)
        elif isinstance(one, Interval):
            found[i] = min(max(found[i], one.ends[0]), one.ends[1])
    return found
