"""Importance weights of draws for an unnormalised target: effective sample size and tail, with errors and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock._typing import Array, Rng
from penstock._warn import TargetWarning
from penstock.diagnostics import drawing
from penstock.diagnostics.statistics import jackknife, pm
from penstock.montecarlo import importance as weighted
from penstock.targets import LogDensity
from penstock.weights import RELIABLE, summary


@dataclass(frozen=True)
class Weights:
    """What importance weights ``p / q`` of draws of a model q tell of a target p.

    Attributes
    ----------
    efficiency, efficiency_error : float
        The effective sample size as a part of the number of draws, and its standard error by the jackknife.
    pareto_k : float
        Shape of the tail of the weights: estimates are reliable up to about 0.7.
    pareto_k_error : float
        Its standard error by the jackknife.
    log_evidence, log_evidence_error : float
        Logarithm of the mean weight.
    log_weights : array of shape (n,)
    """

    efficiency: float
    efficiency_error: float
    pareto_k: float
    pareto_k_error: float
    log_evidence: float
    log_evidence_error: float
    log_weights: Array

    @property
    def passed(self) -> bool:
        """Whether the tail is light enough for estimates to be trusted."""
        return bool(self.pareto_k <= RELIABLE)

    def __str__(self) -> str:
        words = (
            "can be relied on"
            if self.passed
            else "the model is narrower than the target somewhere; do not rely on them"
        )
        return (
            f"importance weights: effective sample size {pm(self.efficiency, self.efficiency_error, percent=True)} of "
            f"{len(self.log_weights)} draws, pareto_k {pm(self.pareto_k, self.pareto_k_error)} (at most {RELIABLE}): {words}"
        )

    def plot(self, ax: Any = None) -> Any:
        """How much of the total the largest weights hold; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        w = np.sort(np.exp(self.log_weights - self.log_weights.max()))[::-1]
        n = len(w)
        ax.plot(np.arange(1, n + 1) / n, np.cumsum(w) / w.sum(), color=drawing.MODEL, lw=1.5, label="of this model")
        ax.plot([1 / n, 1], [1 / n, 1], color=drawing.DATA, lw=0.8, label="of the target itself")
        ax.set(
            xlabel="share of the draws, largest weights first", ylabel="their share of the total weight", xscale="log"
        )
        ax.set(ylim=(0, 1.02), xlim=(1 / n, 1))
        ax.legend(frameon=False, fontsize="small")
        return ax


def importance(model: Any, log_density: LogDensity, *, draws: float = 4000, rng: Rng = None) -> Weights:
    """Weight draws of a model so that they stand for a target that is known up to a factor, and say how evenly it goes.

    Parameters
    ----------
    model : Flow, or what ``flow.given(context)`` gives
    log_density : callable
        As for :func:`penstock.importance`.
    draws : int, default 4000
    rng : seed or numpy Generator, optional

    Returns
    -------
    Weights

    Raises
    ------
    ValueError
        Where all draws weigh nothing.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling" (2024); Kong, "A note on importance sampling using
    standardized weights" (1992).

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf_ar(1, dtype="float64", rng=0)  # a fresh flow is the standard normal
    >>> found = ps.diagnostics.importance(flow, lambda x: -0.5 * x[:, 0] ** 2, rng=0)
    >>> round(found.efficiency, 6), round(found.log_evidence, 4)  # of exp(-x^2 / 2): sqrt(2 pi)
    (1.0, 0.9189)
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TargetWarning)  # the words of the result say it
        found = weighted(model, log_density, draws, rng)
    n = len(found.log_weights)
    if found.ess == 0:
        raise ValueError(f"log_density is -inf for all of {n} draws: the model is nowhere near the target")
    order = np.random.default_rng(0).permutation(n)

    def tail(places: Array) -> Array:
        told = summary(found.log_weights[places])
        return np.array([told.ess / len(places), told.pareto_k])

    with np.errstate(invalid="ignore"):
        _, error = jackknife(tail, n, order)
    return Weights(
        found.ess / n, float(error[0]), found.pareto_k, float(error[1]), found.log_evidence, found.log_evidence_error,
        found.log_weights,
    )  # fmt: skip
