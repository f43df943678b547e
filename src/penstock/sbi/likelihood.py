"""The likelihood: a conditional flow of data given parameters, and samplers of the posterior that it makes with a prior."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, Rng, RowsLike
from penstock.columns import Names
from penstock.sbi.priors import Prior
from penstock.sbi.simulations import Observed

if TYPE_CHECKING:
    from penstock.ensemble import Ensemble
    from penstock.flow import Flow


class Likelihood:
    """``p(x | theta)``, as :func:`penstock.sbi.nle` learns it.

    Attributes
    ----------
    flow : Flow or Ensemble
        Of the columns of x that differ between simulations, with the parameters as its context.
    prior : Prior
    observed : Observed

    Examples
    --------
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
    >>> theta = prior.sample(300, rng=0)
    >>> likelihood = ps.nle(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
    >>> likelihood.dim, likelihood.observed.dim
    (1, 1)
    """

    def __init__(self, flow: Flow | Ensemble, prior: Prior, observed: Observed) -> None:
        self.flow, self.prior, self.observed = flow, prior, observed

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.prior.dim

    @property
    def columns(self) -> Names | None:
        """Names of the parameters, or None."""
        return self.flow.context_columns or None

    @property
    def history(self) -> Any:
        """The record of the fit."""
        return self.flow.history

    def __repr__(self) -> str:
        lines = [f"Likelihood of {self.observed.dim} of x given {self.dim} parameter{'' if self.dim == 1 else 's'}"]
        return "\n".join([*lines, f"  prior     {self.prior!r}", *(f"  {one}" for one in repr(self.flow).splitlines())])

    def log_likelihood(self, theta: RowsLike, x: RowsLike) -> Any:
        """``log p(x | theta)``; of a discrete x that was trained with noise, the density of x with noise.

        Parameters
        ----------
        theta : array of shape (dim,) or (rows, dim), or a table
        x : array of shape (c,) for all, or (rows, c), or a table

        Returns
        -------
        scalar, or array of shape (rows,), in the dtype of the flow

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> likelihood = ps.nle(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> likelihood.log_likelihood([[0.5], [0.1]], [0.25]).shape
        (2,)
        """
        return self.flow.log_prob(self.observed.read(x), theta)

    def potential(self, x: RowsLike) -> Potential:
        """The unnormalised posterior at one observation, as samplers want it: ``log p(x | theta) + log prior(theta)``.

        Parameters
        ----------
        x : array of shape (c,), or (k, c) of k independent measurements with the same parameters, or a table

        Returns
        -------
        Potential
            A callable of theta, (rows, dim) or (dim,), that gives float64 numbers, -inf outside the prior:
            ``emcee.EnsembleSampler(walkers, likelihood.dim, likelihood.potential(x), vectorize=True)``.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> likelihood = ps.nle(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> likelihood.potential([0.25])([[2.0]])
        array([-inf])
        """
        return Potential(self, np.atleast_2d(self.observed.read(x)))

    def sample(
        self,
        n: int,
        x: RowsLike,
        *,
        walkers: int | None = None,
        max_steps: int = 10_000,
        rng: Rng = None,
    ) -> Array:
        """Draw from the posterior at one observation by emcee, with moves of differential evolution and stretch moves.

        Walkers begin at draws of the prior, resampled by their likelihood. The first half of the steps is left out, and there
        are so many of them that the rest is 20 autocorrelation times long and worth n independent draws.

        Parameters
        ----------
        n : int
        x : array of shape (c,), or (k, c) of k independent measurements, or a table
        walkers : int, optional
            By default 500, or 20 for each parameter where that is more.
        max_steps : int, default 10 000
            Of each walker; a warning says when they were too few.
        rng : seed or numpy Generator, optional

        Returns
        -------
        float64 array of shape (n, dim)

        Raises
        ------
        ImportError
            When emcee is not installed.

        References
        ----------
        Foreman-Mackey, Hogg, Lang, Goodman, "emcee: The MCMC Hammer" (2013); ter Braak, "A Markov Chain Monte Carlo version of
        the genetic algorithm Differential Evolution" (2006).

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> likelihood = ps.nle(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> likelihood.sample(50, [0.25], walkers=50, rng=0).shape
        (50, 1)
        """
        from penstock.sbi.walkers import drawn

        count = max(500, 20 * self.dim) if walkers is None else _validate.positive_int(walkers, name="walkers")
        if count < 2 * self.dim or count % 2:
            raise ValueError(f"walkers must be an even number of at least {2 * self.dim}, got {count}")
        return drawn(
            self.potential(x), _validate.positive_int(n, name="n"), walkers=count,
            max_steps=_validate.positive_int(max_steps, name="max_steps"), rng=rng,
        )  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the likelihood to a file, as ``Posterior.save`` does.

        Parameters
        ----------
        path : str or path

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
        >>> theta = prior.sample(300, rng=0)
        >>> likelihood = ps.nle(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
        >>> import os, tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "likelihood.zip")
        >>> likelihood.save(path)
        >>> ps.sbi.load(path).dim
        1
        """
        from penstock.sbi.files import save

        save(self, path)


class Potential:
    """``log p(x | theta) + log prior(theta)`` at one x, as a function of theta.

    Attributes
    ----------
    likelihood : Likelihood
    x : array of shape (k, kept)
        Measurements, the columns that the flow reads.

    Examples
    --------
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
    >>> theta = prior.sample(300, rng=0)
    >>> potential = ps.nle(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0).potential([0.25])
    >>> potential([0.5]) > potential([2.0])
    True
    """

    def __init__(self, likelihood: Likelihood, x: Array) -> None:
        self.likelihood, self.x = likelihood, x

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.likelihood.dim

    def __call__(self, theta: RowsLike) -> Any:
        """The potential of parameters, of shape (dim,) or (rows, dim)."""
        names = self.likelihood.columns or ()
        rows, shape = _validate.as_batch(
            columns.matched(theta, names, self.dim, name="theta").values, self.dim, name="theta"
        )
        found = np.array(self.likelihood.prior.log_prob(rows), np.float64)
        inside = np.flatnonzero(found > -np.inf)
        if len(inside):
            flow, within = self.likelihood.flow, rows[inside]
            for x in self.x:
                found[inside] += flow.log_prob(x, within).astype(np.float64)
        found[np.isnan(found)] = -np.inf  # a sampler turns back there
        return found.reshape(shape) if shape else float(found[0])
