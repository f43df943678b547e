"""A prior cut to where a posterior has its mass, for sequential rounds (TSNPE, Deistler et al. 2022)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from penstock import _validate
from penstock._typing import Array, Rng
from penstock.accepting import CHUNK, LIMIT
from penstock.montecarlo import Estimate
from penstock.sbi.priors import Prior

if TYPE_CHECKING:
    from penstock.sbi.at import PosteriorAt

PILOT = 10_000  # draws of the prior that estimate its mass in the region


class TruncatedPrior(Prior):
    """The prior where a posterior's log-density at one observation is above a threshold, and 0 elsewhere.

    ``p(theta) = prior(theta) / mass`` where ``log q(theta | x) >= threshold``. It is drawn by rejection: from the prior, or where
    fewer are lost from the posterior, whose draws are kept with probability ``prior(theta) / q(theta)`` over its bound
    ``max prior / exp(threshold)``; both are exact.

    Attributes
    ----------
    prior : Prior
        The one that is cut.
    posterior : PosteriorAt
    threshold : float
        The ``epsilon`` quantile of ``log q`` of the posterior's draws.
    epsilon : float
        The share of the posterior outside.
    mass : Estimate
        Of the prior inside, with its standard error.

    Examples
    --------
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
    >>> theta = prior.sample(300, rng=0)
    >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
    >>> cut = posterior.truncated_prior([0.25], epsilon=0.1, rng=0)
    >>> bool((cut.log_prob(cut.sample(100, rng=0)) >= prior.log_prob([0.0])).all())
    True
    """

    exact = False

    def __init__(self, posterior: PosteriorAt, threshold: float, epsilon: float, mass: Estimate) -> None:
        self.posterior, self.threshold, self.epsilon, self.mass = posterior, threshold, epsilon, mass
        self.prior = posterior.posterior.prior
        self.dim, self.support, self.names = self.prior.dim, self.prior.support, self.prior.names

    def __repr__(self) -> str:
        return (
            f"TruncatedPrior({self.prior!r}, to {100 * self.mass.value:.3g} % of its mass: log q >= {self.threshold:.4g}, "
            f"epsilon={self.epsilon:g})"
        )

    def log_prob_max(self) -> float | None:
        """That of the whole prior, over the mass: a bound."""
        top = self.prior.log_prob_max()
        return None if top is None else top - math.log(self.mass.value)

    def _log_prob(self, theta: Array) -> Array:
        base = self.prior.log_prob(theta)
        inside = (base > -np.inf) & (self._density(theta) >= self.threshold)
        return np.where(inside, base - math.log(self.mass.value), -np.inf)

    def _density(self, theta: Array) -> Array:
        """The posterior's log-density, without the constant of a rejection."""
        whole = self.posterior.posterior
        found: Array = whole.flow.log_prob(whole._within(theta), self.posterior._read)
        return found

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        top = self.prior.log_prob_max()
        # Of the prior's draws the mass is kept, of the posterior's draws mass * exp(threshold - top).
        narrow = top is not None and self.threshold > top
        rows: list[Array] = []
        found = refused = 0
        size = max(min(2 * n, CHUNK), 256)
        while found < n:
            theta = self._from_posterior(size, rng) if narrow else self._from_prior(size, rng)
            rows.append(theta)
            found += len(theta)
            refused = 0 if len(theta) else refused + size
            size = CHUNK if found < n // 2 else size
            if refused >= LIMIT:
                raise RuntimeError(
                    f"none of {refused} draws in a row lies in the truncated prior, which has {self.mass.value:.3g} of the mass "
                    "of the prior: a larger epsilon, or fewer rounds"
                )
        return np.concatenate(rows)[:n] if rows else np.zeros((0, self.dim))

    def _from_prior(self, n: int, rng: np.random.Generator) -> Array:
        theta = self.prior.sample(n, rng)
        inside: Array = theta[self._density(theta) >= self.threshold]
        return inside

    def _from_posterior(self, n: int, rng: np.random.Generator) -> Array:
        top = self.prior.log_prob_max()
        assert top is not None
        at = self.posterior
        drawn, density = at.posterior.flow.sample_and_log_prob(n, at._read, rng=rng)
        theta = drawn.astype(np.float64)
        ratio = self.prior.log_prob(theta) - top + self.threshold - density.astype(np.float64)
        kept: Array = theta[(density >= self.threshold) & (np.log(rng.uniform(size=n)) < ratio)]
        return kept


def truncated(posterior: PosteriorAt, epsilon: float, n: int | None, rng: Rng) -> TruncatedPrior:
    """Find the threshold from draws of the posterior, and the mass of the prior above it."""
    n = min(max(round(10 / epsilon), 10**4), 10**6) if n is None else _validate.positive_int(n, name="n")
    generator = np.random.default_rng(_validate.seed(rng))
    whole, x = posterior.posterior, posterior._read
    prior, rejection = whole.prior, whole._rejection
    if rejection.needed:
        draws = whole.flow.sample(n, x, rng=generator, where=rejection.inside)
        density = whole.flow.log_prob(whole._within(draws), x).astype(np.float64)
        share = whole.acceptance(posterior.x).value
    else:
        draws, drawn = whole.flow.sample_and_log_prob(n, x, rng=generator)
        density, share = drawn.astype(np.float64), 1.0
    threshold = float(np.quantile(density, epsilon, method="lower"))
    # By weights of the posterior's draws, and by the prior's own draws: the mass is that of the smaller error.
    weights = share * np.where(density >= threshold, np.exp(prior.log_prob(draws.astype(np.float64)) - density), 0.0)
    first = Estimate(float(weights.mean()), float(weights.std() / math.sqrt(n)))
    inside = whole.flow.log_prob(whole._within(prior.sample(PILOT, generator)), x) >= threshold
    count = int(inside.sum())
    rate = (count + 1) / (PILOT + 2)
    second = Estimate(count / PILOT, math.sqrt(rate * (1 - rate) / (PILOT + 3)))
    usable = math.isfinite(first.value) and first.value > 0 and math.isfinite(first.error)
    better = usable and (not count or first.error / first.value < second.error / second.value)
    mass = first if better else second
    if not mass.value > 0:
        raise RuntimeError(f"none of {PILOT} draws of the prior lies where the posterior has its mass at this x")
    return TruncatedPrior(posterior, threshold, epsilon, Estimate(min(mass.value, 1.0), mass.error))
