"""Verbs that rest on the distribution function of the base: probabilities and quantiles of one dimension, and the unit cube.

What the base has to say is asked of its spec: ``cdf`` and ``quantile``, of each dimension by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from penstock import _validate, latent
from penstock._backend import Backend
from penstock._typing import Array, ArrayLike, RowsLike
from penstock.layers import LULinear
from penstock.runner import Runner
from penstock.spec import FlowSpec
from penstock.support import ends_of
from penstock.verbs import Batch, Verbs, _shaped

# Half of the step of uniform numbers of 53 bits: what a number in the outermost half step is taken for.
CUBE_END = 2.0**-54
# The shortest interval: lower ends looked at first, and then around the best, so many times.
GRID, FINER, ROUNDS = 257, 17, 4
BLOCK = 256  # contexts together
BISECTIONS = 1100  # more than float64 numbers have room for


class Quantiles(Verbs):
    """Verbs of flows whose base has a distribution function."""

    _spec: FlowSpec
    _backend: Backend

    def cdf(self, x: RowsLike, context: RowsLike | None = None) -> Any:
        """The distribution function of a flow of one dimension: ``P(X <= x | context) = Phi(f(x))``, or ``Phi(-f(x))`` where
        f falls.

        It is 0 below the support and 1 above; on a circle it begins at the lower end of the period. In one dimension f, the map
        to the latent side, is monotone, and ``Phi`` is the distribution function of the base. Everything is computed in
        float64, also for a float32 flow, and the lower tail keeps its relative accuracy down to about 1e-300.

        Parameters
        ----------
        x, context
            As for :meth:`log_prob`, with ``dim`` = 1: x has shape (1,), (rows, 1) or (m, n, 1). Infinite x are allowed.

        Returns
        -------
        scalar, or float64 array of shape (rows,), (m, n) or (m,)
            Rising in x, to rounding. NaN where x or the context is NaN.

        Raises
        ------
        ValueError
            For a flow of more dimensions.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.nsf_ar(1, rng=0)
        >>> flow.cdf([[0.0], [-1.0]]).round(4)
        array([0.5   , 0.1587])
        """
        self._need_one_dimension("cdf")
        batch = self._batch(x, context, "x")
        return _shaped(self._below(batch), batch.shape)

    def quantile(self, u: ArrayLike, context: RowsLike | None = None) -> Array:
        """The inverse of :meth:`cdf`: the rows below which a share ``u`` of the mass lies.

        Parameters
        ----------
        u : a number in [0, 1], or an array of them of shape (rows,) or (m, n)
        context : array or table, optional
            As for :meth:`log_prob`.

        Returns
        -------
        float64 array of shape (1,), (rows, 1) or (m, n, 1); (m, 1) for one number with m contexts
            Rows of data. -inf at 0 and inf at 1, which :meth:`prior_transform` avoids.

        Raises
        ------
        ValueError
            For a flow of more dimensions, or numbers outside [0, 1].

        Examples
        --------
        >>> import penstock as ps
        >>> ps.nsf_ar(1, rng=0).quantile([0.5, 0.975]).round(2).tolist()
        [[0.0], [1.96]]
        """
        self._need_one_dimension("quantile")
        return self._rows_below(_validate.as_probabilities(u, name="u"), context)

    def interval(self, level: float, context: RowsLike | None = None, *, shortest: bool = False) -> Array:
        """An interval that holds a share ``level`` of the mass of a flow of one dimension.

        ``[q((1 - level) / 2), q((1 + level) / 2)]`` with the quantiles q, or the shortest ``[q(a), q(a + level)]``. Where
        the density has one peak, the latter is the region of highest density; where it has several that region may be in
        pieces, and this is the shortest interval still.

        Parameters
        ----------
        level : float between 0 and 1
        context : array of shape (c,), (m, c) or (m, n, c), or a table, optional
        shortest : bool, default False
            By a search over 257 lower ends and finer ones around the best.

        Returns
        -------
        float64 array of shape (2,), (m, 2) or (m, n, 2)
            Lower and upper ends.

        Raises
        ------
        ValueError
            For a flow of more dimensions, or a level outside (0, 1).

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.nsf_ar(1, rng=0)
        >>> flow.interval(0.95).round(2)
        array([-1.96,  1.96])
        >>> flow.interval(0.95, shortest=True).round(2)
        array([-1.96,  1.96])
        """
        self._need_one_dimension("interval")
        level = _validate.fraction(level, name="level")
        given = _validate.as_contexts(self._named_context(context), self.context_dim)
        many = () if given is None else given.shape[:-1]
        blocks: list[Array | None] = [given]
        if given is not None:
            given = given.reshape(-1, self.context_dim)
            blocks = [given[first : first + BLOCK] for first in range(0, len(given), BLOCK)]
        find = self._shortest if shortest else self._central
        ends = [find(level, block) for block in blocks]
        return np.concatenate(ends).reshape(*many, 2) if ends else np.zeros((*many, 2))

    def prior_transform(self, u: ArrayLike, context: RowsLike | None = None) -> Array:
        """Map the unit cube to data, so that uniform ``u`` become draws of the flow: for nested samplers.

        ``x = f^-1(Phi^-1(u))``, with the quantile function ``Phi^-1`` of the base in each dimension. Numbers below 2^-54, 0
        among them, are taken for 2^-54, half of the step of uniform numbers of 53 bits, and those above 1 - 2^-54, 1 among
        them, for the mirror image, so that every row is finite: a standard normal base is cut at 8.29.

        Parameters
        ----------
        u : array of shape (dim,), (rows, dim) or (m, n, dim)
            Numbers in [0, 1]; dimension by position.
        context : array or table, optional
            As for :meth:`log_prob`.

        Returns
        -------
        array of the shape of u, (m, dim) for one row with m contexts
            In the dtype of the flow.

        Raises
        ------
        ValueError
            For numbers outside [0, 1], or a shape that does not fit.

        Examples
        --------
        >>> import penstock as ps
        >>> ps.realnvp(2, rng=0).prior_transform([0.5, 1.0]).round(2)
        array([0.  , 8.29], dtype=float32)
        """
        cube = _validate.as_probabilities(u, name="u")
        _validate.as_batch(cube, self.dim, name="u")
        latent.need_quantiles(self._spec)
        batch = self._batch(cube, context, "z")
        side, cube = self._side(batch.context, len(batch.x)), batch.x
        # The upper end has no such number: it is reached from the other side.
        lower = cube <= 0.5
        z = latent.quantile(side, np.maximum(np.where(lower, cube, 0.5), CUBE_END))
        high = latent.quantile(side, np.maximum(np.where(lower, 0.5, 1.0 - cube), CUBE_END), upper=True)
        runner = self._runner()
        z = np.where(lower, z, high)
        x, _ = runner.transform(self._snapshot.pack(runner), True, z, batch.context)
        return x.reshape(*batch.shape, self.dim)

    # --- inside -------------------------------------------------------------------------------------------------

    def _in_double(self) -> tuple[Runner, Any]:
        """What computes in float64, and the numbers of the flow in its form."""
        raise NotImplementedError

    def _need_one_dimension(self, verb: str) -> None:
        if self.dim != 1:
            raise ValueError(f"{verb} needs a flow of one dimension, and this one has {self.dim}")

    def _side(self, context: Any, rows: int) -> latent.Side:
        """The distribution of the latents of so many rows."""
        return latent.side(self._spec, self._plan, self._snapshot, self._backend, context, rows)

    def _below(self, batch: Batch) -> Array:
        """The share of the mass below the rows of a batch."""
        runner, packed = self._in_double()
        z, _ = runner.transform(packed, False, batch.x, batch.context)
        if self._spec.kinds == ("circle",):
            below = latent.turn(z, self._seam(len(z), batch.context))
        else:
            below = latent.cdf(self._side(batch.context, len(z)), z, upper=not self._rises())
        if not self._spec.support:
            return below[:, 0]
        lo, hi = ends_of(self._spec.support[0])
        nowhere = runner.log_prob(packed, batch.x, batch.context)[:, None] == -np.inf  # no latent: NaN
        outside = np.where(np.isnan(below), nowhere, (batch.x <= lo) | (batch.x >= hi))
        below[outside] = batch.x[outside] >= hi
        return below[:, 0]

    def _seam(self, rows: int, context: Any) -> Array:
        """Latents of the lower end of a circle, where its distribution function begins, for each row of a batch."""
        runner, packed = self._in_double()
        lo, _ = ends_of(self._spec.support[0])
        z, _ = runner.transform(packed, False, np.full((rows, 1), lo), context)
        return z

    def _rises(self) -> bool:
        """Whether the map of one dimension to its latent rises: only an LU layer can turn it around."""
        falls = [layer.signs == (-1,) for layer in self._spec.layers if isinstance(layer, LULinear)]
        return sum(falls) % 2 == 0

    def _rows_below(self, u: Array, context: Any) -> Array:
        """Rows below which shares of the mass lie."""
        batch = self._batch(u[..., None], context, "z")
        runner, packed = self._in_double()
        if self._spec.kinds == ("circle",):
            z = latent.turned(batch.x, self._seam(len(batch.x), batch.context))
        else:
            z = latent.quantile(self._side(batch.context, len(batch.x)), batch.x, upper=not self._rises())
        x, _ = runner.transform(packed, True, z, batch.context)
        return x.reshape(*batch.shape, 1)

    def _central(self, level: float, contexts: Array | None) -> Array:
        """Central intervals, (contexts, 2)."""
        return self._ends(np.array([(1 - level) / 2, (1 + level) / 2]), contexts)

    def _ends(self, u: Array, contexts: Array | None) -> Array:
        """Quantiles of each context: those of ``u`` of shape (k,), or of its own row of (contexts, k)."""
        m = 1 if contexts is None else len(contexts)
        u = np.broadcast_to(u, (m, u.shape[-1]))
        return self._rows_below(u, contexts)[..., 0]

    def _shortest(self, level: float, contexts: Array | None) -> Array:
        """Shortest intervals, (contexts, 2)."""
        return shortest(lambda u: self._ends(u, contexts), level, 1 if contexts is None else len(contexts))


def bisected(below: Callable[[Array], Array], low: Array, high: Array, u: Array) -> Array:
    """Where shares u of a mass lie below, between numbers low and high, by bisection to the last bit.

    ``below`` gives the shares below numbers of their shape.
    """
    for _ in range(BISECTIONS):
        with np.errstate(invalid="ignore"):  # infinite ends
            middle = low + (high - low) / 2
        inside = (low < middle) & (middle < high)
        if not inside.any():
            break
        too_low = inside & (below(np.where(inside, middle, high)) < u)
        low, high = np.where(too_low, middle, low), np.where(inside & ~too_low, middle, high)
    return high


def shortest(ends: Callable[[Array], Array], level: float, m: int) -> Array:
    """The shortest intervals of a share of the mass, (m, 2), by the quantiles (m, k) that ``ends`` gives for shares (m, k)."""
    best, step = np.full((m, 1), 0.5), 1.0 / GRID
    for turn in range(ROUNDS + 1):
        # Lower ends, as parts of the mass that an interval leaves out.
        if turn == 0:
            part = np.broadcast_to((np.arange(GRID) + 0.5) / GRID, (m, GRID))
        else:
            part = best + step * np.linspace(-1, 1, FINER)
            step *= 2 / (FINER - 1)
        low = np.clip(part * (1 - level), 0.0, 1 - level)
        both = ends(np.concatenate([low, np.minimum(low + level, 1.0)], axis=1))
        width = both[:, part.shape[1] :] - both[:, : part.shape[1]]
        place = np.argmin(width, axis=1)[:, None]
        best = np.take_along_axis(part, place, axis=1)
    return np.take_along_axis(both, np.concatenate([place, place + part.shape[1]], axis=1), axis=1)
