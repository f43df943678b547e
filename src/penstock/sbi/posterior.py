"""The posterior: a conditional flow of parameters given data, and the prior that it lies within."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock import _html, _validate, columns
from penstock._typing import Array, Rng, RowsLike
from penstock.columns import Names
from penstock.montecarlo import Estimate
from penstock.sbi.at import PosteriorAt
from penstock.sbi.ends import open_ends, within
from penstock.sbi.priors import Prior
from penstock.sbi.rejection import DRAWS, Rejection
from penstock.sbi.simulations import Observed

if TYPE_CHECKING:
    from penstock.ensemble import Ensemble
    from penstock.flow import Flow
    from penstock.sbi.checks import Check, Pool
    from penstock.sbi.truncation import TruncatedPrior
    from penstock.sbi.wrapped import PriorLike


class Posterior:
    """``p(theta | x)`` for every x, as :func:`penstock.sbi.npe` learns it.

    It lies within the prior: no draw has prior density 0, ``log_prob`` is -inf there, and integrates to 1 over the rest.

    Attributes
    ----------
    flow : Flow or Ensemble
        Of the parameters, with the columns of x that differ between simulations as its context.
    prior : Prior
    observed : Observed
        How x comes: its numbers, their names, and which of them the flow reads.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
    >>> theta = prior.sample(1000, rng=0)
    >>> x = theta + 0.1 * np.random.default_rng(1).normal(size=theta.shape)
    >>> recipe = lambda dim, **options: ps.nsf_ar(dim, layers=2, hidden=(16,), **options)
    >>> posterior = ps.npe(theta, x, prior=prior, ensemble=1, recipe=recipe, epochs=10, rng=0)
    >>> posterior.sample(5, [0.3], rng=0).shape, posterior.sample(5, [[0.3], [0.9]], rng=0).shape
    ((5, 1), (2, 5, 1))
    >>> posterior.log_prob([[0.3], [1.1]], [0.3]) > -np.inf
    array([ True, False])
    """

    def __init__(self, flow: Flow | Ensemble, prior: Prior, observed: Observed, *, seed: int = 0) -> None:
        self.flow, self.prior, self.observed = flow, prior, observed
        self._rejection = Rejection(prior, seed)

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.prior.dim

    @property
    def context_dim(self) -> int:
        """How many numbers x has."""
        return self.observed.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of draws."""
        dtype: np.dtype[Any] = self.flow.dtype
        return dtype

    @property
    def columns(self) -> Names | None:
        """Names of the parameters, or None."""
        return self.flow.columns or None

    @property
    def context_columns(self) -> Names | None:
        """Names of the columns of x, or None."""
        return self.observed.names or None

    @property
    def spec(self) -> Any:
        """The specification of the flow, of an ensemble that of its first member; all have the same supports."""
        members = getattr(self.flow, "members", None)
        return (members[0] if members else self.flow).spec

    @property
    def history(self) -> Any:
        """The record of the fit."""
        return self.flow.history

    def __repr__(self) -> str:
        lines = [f"Posterior of {self.dim} parameter{'' if self.dim == 1 else 's'} given {self.context_dim} of x"]
        lines.append(f"  prior     {self.prior!r}")
        constant = self.observed.dim - len(self.observed.kept)
        if constant:
            lines.append(f"  constant  {constant} column{'' if constant == 1 else 's'} of x, left out")
        if self._rejection.needed:
            lines.append("  rejects   draws with prior density 0")
        return "\n".join([*lines, *(f"  {line}" for line in repr(self.flow).splitlines())])

    def _repr_html_(self) -> str:
        first, *rest = repr(self).splitlines()
        title, _, line = first.partition(" ")
        return _html.block(title, [line, rest[0].strip()], "flow", "\n".join(rest))

    # --- densities and draws ------------------------------------------------------------------------------------

    def log_prob(self, theta: RowsLike, x: RowsLike) -> Any:
        """The log-density of parameters given data, normalised over the prior's support.

        Where draws have to be rejected (:meth:`acceptance`), it is ``log q(theta | x) - log(acceptance)`` with the density q of
        the flow. The flow's own density is 0 on an end that it takes as open (``map="logit"``): parameters that the prior
        accepts there, or nearer than a millionth of the width or a step of the dtype, have the density of that distance.

        Parameters
        ----------
        theta : array of shape (dim,), (rows, dim) or (m, n, dim), or a table
        x : array of shape (c,) for all, (rows, c) for each row, or (m, c) for each of m blocks, or a table

        Returns
        -------
        scalar, or array of shape (rows,), (m, n), or (m,) for one row and m data, in the dtype of the flow

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> posterior.log_prob([[0.5], [2.0]], [0.25]).shape, posterior.log_prob([2.0], [0.25])
        ((2,), np.float32(-inf))
        """
        given = self.observed.read(x, axes=(1, 2, 3))
        return self._normalised(self.flow.log_prob(self._within(theta), given), theta, given)

    def sample(
        self,
        n: float | None,
        x: RowsLike,
        *,
        rng: Rng = None,
        key: int | None = None,
        first: int = 0,
        first_context: int = 0,
    ) -> Array:
        """Draw parameters given data.

        Parameters
        ----------
        n : int or None
            How many for each x; None for one.
        x : array of shape (c,) or (m, c), or a table
        rng : seed or numpy Generator, optional
            What ``numpy.random.default_rng`` takes.
        key, first, first_context
            As for ``Flow.sample``: draw i of data row j depends on the seed, i and j alone. Where draws are rejected, first is 0.

        Returns
        -------
        array of shape (n, dim), or (m, n, dim) for m data; without n (dim,) or (m, dim)

        Raises
        ------
        RuntimeError
            When 10^6 draws in a row have prior density 0.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> posterior.sample(5, [0.25], rng=0).shape, posterior.sample(5, [[0.25], [0.5]], rng=0).shape
        ((5, 1), (2, 5, 1))
        """
        given = self.observed.read(x)
        draws: Array = self.flow.sample(
            n, given, rng=rng, key=key, first=first, first_context=first_context, where=self._rejection.where
        )
        return draws

    def sample_and_log_prob(self, n: float | None, x: RowsLike, *, rng: Rng = None) -> tuple[Array, Any]:
        """Draw parameters given data, with their log-density, as :meth:`sample` and :meth:`log_prob` give them.

        Parameters
        ----------
        n, x, rng
            As for :meth:`sample`.

        Returns
        -------
        theta, log_prob : arrays
            As the two give them.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> draws, log_prob = posterior.sample_and_log_prob(5, [0.25], rng=0)
        >>> bool((abs(log_prob - posterior.log_prob(draws, [0.25])) < 1e-4).all())
        True
        """
        if not self._rejection.needed:
            found: tuple[Array, Any] = self.flow.sample_and_log_prob(n, self.observed.read(x), rng=rng)
            return found
        draws = self.sample(n, x, rng=rng)
        return draws, self.log_prob(draws, x)

    def log_prob_and_grad(self, theta: RowsLike, x: RowsLike) -> tuple[Any, Array]:
        """The log-density, and its gradient with respect to theta; shapes as for :meth:`log_prob`.

        Parameters
        ----------
        theta, x
            As for :meth:`log_prob`.

        Returns
        -------
        log_prob : scalar or array
        grad : array of the shape of theta
            In the order of the flow's own columns; 0 where the density is. On an open end that of the parameters just within.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> posterior.log_prob_and_grad([[0.5], [2.0]], [0.25])[1].shape
        (2, 1)
        """
        given = self.observed.read(x, axes=(1, 2, 3))
        value, grad = self.flow.log_prob_and_grad(self._within(theta), given)
        value = self._normalised(value, theta, given)
        return value, np.where(np.isneginf(value)[..., None], 0, grad) if self._rejection.needed else grad

    def acceptance(self, x: RowsLike) -> Estimate:
        """The share of the flow's draws that have a positive prior density, which ``log_prob`` is divided by.

        Parameters
        ----------
        x : array of shape (c,) or (m, c), or a table

        Returns
        -------
        named tuple (value, error)
            1 and 0 where the support of the flow is that of the prior. Otherwise an estimate from 10 000 draws, made once for
            each x, with its standard error: the error of ``log_prob`` is ``error / value``.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> posterior.acceptance([0.25])  # the support of the flow is that of the prior
        Estimate(value=1.0, error=0.0)
        """
        return self._rejection.share(self.flow, self.observed.read(x))

    def given(self, x: RowsLike) -> PosteriorAt:
        """The posterior at one observation: a view with every verb, without the argument.

        Parameters
        ----------
        x : array of shape (c,), or a table of one row

        Returns
        -------
        PosteriorAt

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> posterior.given([0.25]).sample(3, rng=0).shape
        (3, 1)
        """
        return PosteriorAt(self, self.observed.one(x))

    # --- what follows from it -----------------------------------------------------------------------------------

    def map(self, x: RowsLike, *, n: int = 1000, starts: int = 10, rng: Rng = None) -> Array:
        """The parameters of the highest density: gradient ascent (L-BFGS-B) from the best of n draws; needs SciPy.

        Parameters
        ----------
        x : array of shape (c,) or (m, c), or a table
        n : int, default 1000
            Draws among which ascents begin.
        starts : int, default 10
            How many do.
        rng : seed or numpy Generator, optional

        Returns
        -------
        float64 array of shape (dim,), or (m, dim)
            Within the prior's support; never of a lower density than the best draw.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> best = posterior.map([0.25], rng=0)
        >>> bool(posterior.log_prob(best, [0.25]) >= posterior.log_prob(posterior.sample(1000, [0.25]), [0.25]).max() - 0.01)
        True
        """
        from penstock.sbi.modes import highest

        n, starts = _validate.positive_int(n, name="n"), _validate.positive_int(starts, name="starts")
        given, seed = self.observed.read(x), _validate.seed(rng)
        rows = [highest(self, row, n, min(starts, n), seed) for row in given.reshape(-1, given.shape[-1])]
        return rows[0] if given.ndim == 1 else np.array(rows).reshape(*given.shape[:-1], self.dim)

    def truncated_prior(
        self, x: RowsLike, epsilon: float = 1e-4, *, n: int | None = None, rng: Rng = None
    ) -> TruncatedPrior:
        """The prior within the region of highest posterior density at one observation, for a further round of simulations.

        Truncated sequential estimation (TSNPE): the region holds ``1 - epsilon`` of the posterior. A posterior trained on
        simulations from it needs no correction.

        Parameters
        ----------
        x : array of shape (c,), or a table of one row
        epsilon : float, default 1e-4
            The share of posterior mass that the region leaves out.
        n : int, optional
            Draws of the posterior whose ``epsilon`` quantile of log-densities is the threshold; by default ``10 / epsilon``,
            within 10^4 and 10^6.
        rng : seed or numpy Generator, optional

        Returns
        -------
        TruncatedPrior
            With ``log_prob``, ``sample`` and ``support``, as every prior.

        References
        ----------
        Deistler, Goncalves, Macke, "Truncated Proposals for Scalable and Hassle-free Simulation-based Inference" (2022).

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> cut = posterior.truncated_prior([0.25], epsilon=0.1, rng=0)
        >>> cut.sample(4, rng=0).shape, bool(0 < cut.mass.value <= 1)
        ((4, 1), True)
        """
        from penstock.sbi.truncation import truncated

        return truncated(self.given(x), _validate.fraction(epsilon, name="epsilon"), n, rng)

    def check(
        self,
        simulator: Callable[..., Any],
        n: int = 500,
        *,
        draws: int = 399,
        pool: Pool | None = None,
        chunks: int = 16,
        prior: PriorLike | None = None,
        rng: Rng = None,
    ) -> Check:
        """Simulate anew, and test whether posteriors of these data hold their parameters as often as they say.

        Simulation-based calibration (ranks of each parameter), TARP (distances to random points), and the coverage of
        regions of highest density; :mod:`penstock.diagnostics` has each by itself.

        Parameters
        ----------
        simulator : callable
            ``simulator(theta)`` with theta of shape (rows, dim) gives x of shape (rows, c); one with a parameter named rng is
            called as ``simulator(theta, rng=generator)``.
        n : int, default 500
            Simulations.
        draws : int, default 399
            Posterior draws for each; ranks take the next smaller number that is a multiple of 20 less one.
        pool : object with a method map, optional
            ``multiprocessing.Pool``, an executor of ``concurrent.futures``, MPI pools: parts of the simulations are sent there.
        chunks : int, default 16
            How many parts; they decide the numbers that a simulator with an rng draws, and the pool does not.
        prior : optional
            What parameters are drawn from; by default that of the posterior.
        rng : seed or numpy Generator, optional

        Returns
        -------
        Check
            ``str`` of it says in a few lines what holds and what does not; it has a ``plot``.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> found = posterior.check(lambda theta: theta**2, 40, draws=39, rng=0)
        >>> found.passed, found.coverage.observed.shape  # it was hardly trained
        (False, (4, 1))
        """
        from penstock.sbi.checks import checked

        return checked(
            self, _validate.function(simulator, name="simulator"), _validate.positive_int(n, name="n"),
            draws=_validate.positive_int(draws, name="draws"), pool=pool,
            chunks=_validate.positive_int(chunks, name="chunks"), prior=prior, rng=rng,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to a file, which :func:`penstock.sbi.load` reads.

        It is a zip archive of a JSON record and the file of the flow. A prior of one's own cannot be written: ``load`` is then
        given it again.

        Parameters
        ----------
        path : str or path

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "posterior.zip")
        >>> posterior.save(path)
        >>> ps.sbi.load(path).dim
        1
        """
        from penstock.sbi.files import save

        save(self, path)

    # --- inside -------------------------------------------------------------------------------------------------

    def _within(self, theta: Any) -> Any:
        """Parameters for the flow: those that the prior accepts on an end which is open in the flow, just within it."""
        ends = open_ends(self.spec.support, self.dtype)
        if not (np.isfinite(ends.low) | np.isfinite(ends.high)).any():
            return theta
        rows = _validate.reals(columns.matched(theta, self.columns or (), self.dim, name="theta").values, name="theta")
        return within(rows, ends, self.prior) if rows.ndim and rows.shape[-1] == self.dim else theta

    def _normalised(self, value: Any, theta: Any, x: Array) -> Any:
        """Log-densities of the flow, divided by the share of its draws that the prior accepts."""
        if not self._rejection.needed:
            return value
        share = self._rejection.share(self.flow, x).value
        if not np.all(share):
            raise RuntimeError(
                f"none of {DRAWS} draws of the flow has a positive prior density for this x, so that log_prob cannot be "
                "normalised; give support=, or a prior that the simulations come from"
            )
        result = np.array(value)
        scale = np.log(share)
        scale = scale[:, None] if np.ndim(scale) == 1 and result.ndim == 2 else scale
        rows = columns.matched(theta, self.columns or (), self.dim, name="theta").values  # by the names of the flow
        inside = self.prior.log_prob(rows) > -np.inf
        found = np.where(inside | np.isnan(result), result - scale, -np.inf).astype(result.dtype)
        return found if found.ndim else found[()]
