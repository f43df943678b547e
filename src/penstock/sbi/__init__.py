"""Simulation-based inference: from a simulator and a prior to a posterior that was checked.

``npe`` learns ``p(theta | x)`` from simulations, ``nle`` learns ``p(x | theta)``. Priors are :class:`BoxUniform`,
:class:`Normal`, :class:`Independent`, frozen distributions of SciPy, and those of one's own.
"""

from __future__ import annotations

from penstock.sbi.at import PosteriorAt
from penstock.sbi.checks import Check
from penstock.sbi.files import load
from penstock.sbi.inference import nle, npe
from penstock.sbi.likelihood import Likelihood, Potential
from penstock.sbi.posterior import Posterior
from penstock.sbi.priors import BoxUniform, Independent, Normal, Prior
from penstock.sbi.truncation import TruncatedPrior

__all__ = [
    "BoxUniform",
    "Check",
    "Independent",
    "Likelihood",
    "Normal",
    "Posterior",
    "PosteriorAt",
    "Potential",
    "Prior",
    "TruncatedPrior",
    "load",
    "nle",
    "npe",
]
