"""Draws of an unnormalised posterior by emcee."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock import _validate
from penstock._typing import Array, Rng
from penstock._warn import TargetWarning, warn

if TYPE_CHECKING:
    from penstock.sbi.likelihood import Potential

STARTS = 50_000  # draws of the prior among which walkers begin
BLOCK = 200  # steps between looks at the autocorrelation
LONG = 20  # autocorrelation times that a chain should have at least


def drawn(potential: Potential, n: int, *, walkers: int, max_steps: int, rng: Rng) -> Array:
    """Run emcee until the second half of the chains is long enough, and draw from that."""
    try:
        import emcee
    except ImportError:
        raise ImportError(
            "sampling a likelihood needs emcee: pip install 'penstock[sbi]'; other samplers take likelihood.potential(x)"
        ) from None
    generator = np.random.default_rng(_validate.seed(rng))
    # Steps of full length go from mode to mode. (emcee 3.1.6 has a snooker move, too, whose draws are too narrow: of a standard
    # normal in five dimensions their standard deviation is 0.83.)
    moves = [(emcee.moves.DEMove(), 0.5), (emcee.moves.DEMove(gamma0=1.0), 0.25), (emcee.moves.StretchMove(), 0.25)]
    sampler: Any = emcee.EnsembleSampler(walkers, potential.dim, potential, moves=moves, vectorize=True)
    sampler.random_state = np.random.RandomState(int(generator.integers(2**32))).get_state()
    state: Any = _starts(potential, walkers, generator)
    steps, enough, times = 0, False, float("inf")
    while steps < max_steps and not enough:
        block = min(max(BLOCK, steps // 2), max_steps - steps)
        state = sampler.run_mcmc(state, block, skip_initial_state_check=True)
        steps += block
        chain = sampler.get_chain(discard=steps // 2)
        with np.errstate(all="ignore"):
            found = float(np.max(emcee.autocorr.integrated_time(chain, tol=0, quiet=True)))
        times = found if found > 0 else float("inf")  # NaN where walkers have not moved
        worth = walkers * len(chain) / times
        enough = len(chain) >= LONG * times and worth >= n
    if not enough:
        warn(
            f"after {steps} steps the chains are {len(chain) / times:.0f} autocorrelation times long ({LONG} are wanted), "
            f"and the draws are worth {worth:.0f} independent ones: more steps (max_steps=), or a sampler of your own, which "
            "takes likelihood.potential(x)",
            TargetWarning,
        )
    flat = chain.reshape(-1, potential.dim)
    draws: Array = flat[generator.choice(len(flat), n, replace=len(flat) < n)]
    return draws


def _starts(potential: Potential, walkers: int, rng: np.random.Generator) -> Array:
    """Draws of the prior, resampled by their likelihood without replacement (Gumbel's largest of log-weights with noise)."""
    prior = potential.likelihood.prior
    theta = prior.sample(STARTS, rng)
    log_weight = potential(theta) - prior.log_prob(theta)
    usable = np.flatnonzero(log_weight > -np.inf)
    if len(usable) < walkers:
        raise RuntimeError(
            f"{len(usable)} of {STARTS} draws of the prior have a likelihood above 0 at this x, fewer than {walkers} walkers"
        )
    order = np.argsort(log_weight[usable] + rng.gumbel(size=len(usable)))
    found: Array = theta[usable[order[-walkers:]]]
    return found
