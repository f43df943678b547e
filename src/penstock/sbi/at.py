"""A posterior at one observation: every verb, without the argument."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._typing import Array, Rng, RowsLike
from penstock.columns import Names
from penstock.montecarlo import Estimate

if TYPE_CHECKING:
    from penstock.sbi.posterior import Posterior
    from penstock.sbi.truncation import TruncatedPrior


class PosteriorAt:
    """A posterior at one observation, which ``posterior.given(x)`` makes: its verbs without the argument x.

    Attributes
    ----------
    posterior : Posterior
    x : array of shape (c,)

    Examples
    --------
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
    >>> theta = prior.sample(300, rng=0)
    >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0).given([0.25])
    >>> posterior.sample(5, rng=0).shape, posterior.log_prob([[0.1], [2.0]])[1]
    ((5, 1), np.float32(-inf))
    """

    def __init__(self, posterior: Posterior, x: Array) -> None:
        self.posterior, self.x, self._read = posterior, x, posterior.observed.select(x)
        self._view = posterior.flow.given(self._read)  # faster where x has many numbers

    @property
    def dim(self) -> int:
        """Number of parameters."""
        return self.posterior.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of draws."""
        return self.posterior.dtype

    @property
    def columns(self) -> Names | None:
        """Names of the parameters, or None."""
        return self.posterior.columns

    def __repr__(self) -> str:
        words = ", ".join(f"{value:g}" for value in self.x[:6])
        return f"{repr(self.posterior).splitlines()[0]}, at x = [{words}{', ...' if len(self.x) > 6 else ''}]"

    def log_prob(self, theta: RowsLike) -> Any:
        """As ``Posterior.log_prob``."""
        return self.posterior._normalised(self._view.log_prob(self.posterior._within(theta)), theta, self._read)

    def sample(self, n: float | None = None, *, rng: Rng = None) -> Array:
        """As ``Posterior.sample``."""
        return self.posterior.sample(n, self.x, rng=rng)

    def sample_and_log_prob(self, n: float | None = None, *, rng: Rng = None) -> tuple[Array, Any]:
        """As ``Posterior.sample_and_log_prob``."""
        return self.posterior.sample_and_log_prob(n, self.x, rng=rng)

    def log_prob_and_grad(self, theta: RowsLike) -> tuple[Any, Array]:
        """As ``Posterior.log_prob_and_grad``."""
        return self.posterior.log_prob_and_grad(theta, self.x)

    def acceptance(self) -> Estimate:
        """As ``Posterior.acceptance``."""
        return self.posterior.acceptance(self.x)

    def map(self, *, n: int = 1000, starts: int = 10, rng: Rng = None) -> Array:
        """As ``Posterior.map``."""
        return self.posterior.map(self.x, n=n, starts=starts, rng=rng)

    def truncated_prior(self, epsilon: float = 1e-4, *, n: int | None = None, rng: Rng = None) -> TruncatedPrior:
        """As ``Posterior.truncated_prior``."""
        return self.posterior.truncated_prior(self.x, epsilon, n=n, rng=rng)
