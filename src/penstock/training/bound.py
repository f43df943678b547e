"""The evidence lower bound of a flow, and what its importance weights tell."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock.runner import Runner
from penstock.targets import LogDensity, evaluated
from penstock.training.contexts import Contexts
from penstock.training.divergence import CONTEXTS, VALIDATION, seed_of
from penstock.training.target_state import Probe
from penstock.weights import Summary, summary

CHUNK = 4096  # rows for which the target is asked together
DRAWS_OF_A_CONTEXT = 32


class Validation(NamedTuple):
    """The lower bound with its standard error, what the importance weights tell, and of how many draws."""

    elbo: float
    error: float
    weights: Summary
    draws: int


def lower_bound(
    runner: Runner, target: LogDensity, packed: Any, contexts: Contexts | None, n: int, seed: int
) -> tuple[Validation, Probe]:
    """The lower bound of packed parameters by n draws that a seed decides, some for each of a few contexts; and a probe."""
    given, each = None, 1
    if contexts is not None:
        count = max(1, contexts.distinct(n // DRAWS_OF_A_CONTEXT))
        given = contexts.take(runner, seed_of(seed, VALIDATION + CONTEXTS), 0, count)
        each, n = n // count, n // count * count
    log_weights, size, probe = np.zeros(n), max(1, CHUNK // each) * each, None
    for first in range(0, n, size):
        count = min(size, n - first)
        context, numbers = None, (first, 0)
        if given is not None:
            context, numbers = given[first // each : (first + count) // each], (0, first // each)
        z, _ = runner.latents(packed, count, seed_of(seed, VALIDATION), context, numbers=numbers)
        x, log_det = runner.transform(packed, True, z, context)
        by_row = None if context is None else np.repeat(context, each, axis=0)
        log_p, _ = evaluated(target, x, by_row, gradient=False)
        log_weights[first : first + count] = log_p - (runner.log_base(packed, z, context) - log_det)
        probe = probe or Probe.at(x, by_row, log_p)
    log_weights[np.isnan(log_weights) | (log_weights == math.inf)] = -math.inf
    assert probe is not None
    return validation_of(log_weights.reshape(-1, n if given is None else each)), probe


def validation_of(log_weights: Array) -> Validation:
    """What importance weights tell, from their logarithms, a row for each context.

    Each context has an evidence of its own: effective sample sizes are those of the contexts added up, and the tail is that of
    all weights, in units of the means of their contexts.
    """
    contexts, each = log_weights.shape
    elbo = float(log_weights.mean())
    error = math.sqrt(float(log_weights.var(axis=1).sum()) / max(each - 1, 1)) / contexts
    told = [summary(row) for row in log_weights]
    if contexts == 1:
        return Validation(elbo, error, told[0], each)
    means = np.array([one.log_mean for one in told])
    relative = np.where(np.isfinite(means)[:, None], log_weights - means[:, None], -math.inf)
    whole = summary(relative.ravel())
    ess = float(sum(one.ess for one in told))
    return Validation(elbo, error, whole._replace(log_mean=float(means.mean()), ess=ess), log_weights.size)
