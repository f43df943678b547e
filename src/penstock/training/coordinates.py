"""Unconstrained coordinates of columns with supports, in which a Gaussian can be fitted to a target.

Half-lines are seen by their logarithm, whatever their unit, intervals and groups by their own maps, a box by v with
``v / sqrt(1 + v^2)`` in [-1, 1], a circle by the angle, which goes on beyond its ends. The maps and their gradients are the
engine's, of a flow without layers, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from penstock._typing import Array
from penstock.groups import Ordered
from penstock.runner import Runner
from penstock.support import Interval, Support, default_numbers, kinds, n_numbers
from penstock.targets import LogDensity, evaluated
from penstock.training.supports import log, sigmoid_of

LOGARITHM = 2.0**100  # s of a half-line in which its map is the logarithm, at all distances that matter
WIDEST = math.pi / math.sqrt(3)  # of an angle: the standard deviation of one that is uniform


class Coordinates:
    """The coordinates of the columns of a flow.

    Parameters
    ----------
    runner : Runner
        Of a flow in float64 with these supports and no layer.
    support : sequence of Support
        One for each column; empty where all are real.
    """

    def __init__(self, runner: Runner, support: Sequence[Support]) -> None:
        dim = runner.plan.dim
        self._runner = runner
        found = kinds(support, dim)
        self.lines, self._boxes, self._circles = (
            np.array([k == kind for k in found]) for kind in ("line", "box", "circle")
        )
        self.half_lines = np.zeros(dim, bool)  # whether the coordinate is plus or minus a logarithm
        self._mirrored = np.zeros(dim, bool)
        numbers, loc = np.array(default_numbers(support)), np.zeros(dim)
        at = 0
        for j, own in enumerate(support):
            count = n_numbers(own, j)
            if count == 1:
                numbers[at], self.half_lines[j] = LOGARITHM, True
                self._mirrored[j] = (
                    own.falls if isinstance(own, Ordered) else isinstance(own, Interval) and own.lo is None
                )
                loc[j] = math.log(LOGARITHM) * (1 if self._mirrored[j] else -1)
            at += count
        self._packed = runner.pack(np.zeros(0, runner.plan.dtype), np.concatenate([loc, np.ones(dim), numbers]))

    @property
    def widest(self) -> Array:
        """The largest standard deviation that makes sense in each coordinate."""
        return np.where(self._circles, WIDEST, np.inf)

    def _inward(self, v: Array) -> tuple[Array, Array, Array]:
        """Coordinates as the engine has them, the derivative of each, and that of its logarithm."""
        z, slope, bend = v.copy(), np.ones_like(v), np.zeros_like(v)
        turned = v[:, self._circles]
        z[:, self._circles] = turned - 2 * math.pi * np.round(turned / (2 * math.pi))
        inner = v[:, self._boxes]
        square = 1 + inner * inner
        z[:, self._boxes] = sigmoid_of(inner)
        slope[:, self._boxes] = 1 / (square * np.sqrt(square))
        bend[:, self._boxes] = -3 * inner / square
        return z, slope, bend

    def to_data(self, v: Array) -> Array:
        """Rows of data at coordinates."""
        return self._runner.transform(self._packed, True, self._inward(v)[0])[0]

    def of_data(self, x: Array) -> Array:
        """Coordinates of rows of data."""
        v, _ = self._runner.transform(self._packed, False, x)
        z = np.clip(v[:, self._boxes], -1 + 1e-12, 1 - 1e-12)
        v[:, self._boxes] = z / np.sqrt((1 - z) * (1 + z))
        return v

    def slopes(self, x: Array) -> Array:
        """The derivative of each coordinate with respect to its own column, at one row of data, (dim,)."""
        dim = len(x)
        rows, ones = np.repeat(x[None], dim, axis=0), np.eye(dim)
        found: Array = np.diag(self._runner.vjp(self._packed, False, rows, ones, None, params=False).x).copy()
        inner = self.of_data(x[None])
        result: Array = found / self._inward(inner)[1][0]
        return result

    def pulled(self, log_density: LogDensity, context: Array | None = None) -> LogDensity:
        """A target as a density of the coordinates, with its gradient, at one context."""

        def of_coordinates(v: Array) -> tuple[Array, Array]:
            z, slope, bend = self._inward(v)
            x, log_det = self._runner.transform(self._packed, True, z)
            given = None if context is None else np.repeat(context[None], len(x), axis=0)
            log_p, d_x = evaluated(log_density, x, given, gradient=True)
            assert d_x is not None
            found = self._runner.vjp(self._packed, True, z, d_x, np.ones(len(z)), params=False)
            log_p = log_p + log_det + log(slope).sum(axis=1)
            # +inf is no density, and where x has left what can be represented nothing is known of it.
            return np.where(log_p == math.inf, np.nan, log_p), found.x * slope + bend

        return of_coordinates

    def around(self, mean: Array, scale: Array) -> tuple[Array, Array]:
        """Location and scale in the coordinates of columns with these means and standard deviations.

        By the slope of each coordinate at the mean; a half-line has the normal distribution of the logarithm that has them.
        """
        loc, spread = self.of_data(mean[None])[0], scale * np.abs(self.slopes(mean))
        wide = np.array([math.sqrt(math.log1p(s * s)) for s in spread.tolist()])
        shift = np.where(self._mirrored, 0.5, -0.5) * wide**2
        loc = np.where(self.half_lines, loc + shift, loc)
        spread = np.where(self.half_lines, wide, spread)
        # Within two ends no width says more than that of a uniform distribution, which is about WIDEST.
        return loc, np.where(self._boxes | self._circles, np.minimum(spread, WIDEST), spread)
