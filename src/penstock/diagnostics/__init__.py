"""Checks of a density against rows that it has not seen: each gives numbers with standard errors, a line of words, and a picture.

They take a model, rows, and contexts where it has any: a ``Flow``, an ensemble, ``flow.given(context)``, a posterior, or
anything else with ``log_prob(X, context)`` and ``sample(n, context, rng=)``. Tests need SciPy, ``c2st`` scikit-learn and pictures
matplotlib: the extra ``diagnostics`` has them.
"""

from __future__ import annotations

from penstock.diagnostics.latents import Latents, latents
from penstock.diagnostics.marginal import Marginals, Pairs, marginals, pairs
from penstock.diagnostics.ranks import PIT, SBC, pit, sbc
from penstock.diagnostics.regions import Coverage, hdr_coverage, quantile_coverage, tarp
from penstock.diagnostics.scores import Score, crps, energy_score
from penstock.diagnostics.subject import Model
from penstock.diagnostics.twosample import C2ST, c2st, c2st_samples
from penstock.diagnostics.weighing import Weights, importance

__all__ = [
    "C2ST",
    "PIT",
    "SBC",
    "Coverage",
    "Latents",
    "Marginals",
    "Model",
    "Pairs",
    "Score",
    "Weights",
    "c2st",
    "c2st_samples",
    "crps",
    "energy_score",
    "hdr_coverage",
    "importance",
    "latents",
    "marginals",
    "pairs",
    "pit",
    "quantile_coverage",
    "sbc",
    "tarp",
]
