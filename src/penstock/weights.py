"""What importance weights tell: their mean, its error, the effective sample size, and how heavy their tail is."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from penstock._typing import Array

FEWEST = 5  # weights of a tail to which a distribution can be fitted
RELIABLE = 0.7  # a pareto_k above which estimates are not to be trusted, whatever their error says
PRIOR, PRIOR_K = 10, 0.5  # the weak prior of pareto_k: so many weights of a tail with that k


class Summary(NamedTuple):
    """What a set of weights tells.

    Attributes
    ----------
    log_mean : float
        Logarithm of their mean: of the evidence, where they are ``p / q`` of draws of q.
    log_mean_error : float
        Its standard error, the relative one of the mean; NaN for fewer than two weights.
    ess : float
        Effective sample size.
    pareto_k : float
    """

    log_mean: float
    log_mean_error: float
    ess: float
    pareto_k: float


def summary(log_weights: Array) -> Summary:
    """What weights tell, from their logarithms, of which none is NaN or +inf; those of -inf weigh nothing.

    With ``w = exp(log_weights)`` and n of them: ``ess = (sum w)^2 / sum w^2`` (Kong 1992), and by the delta method the
    variance of ``log mean w`` is ``var(w) / (n mean(w)^2) = (n / ess - 1) / (n - 1)``.

    References
    ----------
    Kong, "A note on importance sampling using standardized weights" (1992).

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.weights import summary
    >>> told = summary(np.array([0.0, np.log(2), np.log(3), -np.inf]))
    >>> round(told.log_mean, 4), round(told.ess, 4)
    (0.4055, 2.5714)
    """
    n = len(log_weights)
    top = float(log_weights.max(initial=-math.inf))
    if top == -math.inf:
        return Summary(-math.inf, math.nan, 0.0, math.nan)
    w = np.exp(log_weights - top)
    total, squares = float(w.sum()), float((w * w).sum())
    ess = total * total / squares
    error = math.sqrt(max(n / ess - 1, 0.0) / (n - 1)) if n > 1 else math.nan
    return Summary(top + math.log(total / n), error, ess, pareto_k(log_weights))


def pareto_k(log_weights: Array) -> float:
    """The shape of the generalised Pareto distribution that fits the largest weights.

    The ``ceil(min(n / 5, 3 sqrt(n)))`` largest of n weights are taken, less the largest of the others, the cut-off, and
    the shape that ``_shape`` finds is drawn towards 1/2 as by 10 weights more: ``(M k + 10 / 2) / (M + 10)``. The weights
    have finite moments up to order 1 / k: above 1/2 no variance, above 1 no mean; up to 0.7 estimates are good in practice.

    Parameters
    ----------
    log_weights : float64 array of shape (n,)

    Returns
    -------
    float
        NaN for n too small for a tail of 5, or all of weight 0; inf where fewer than 5 stand out above all others by so much
        that these count nothing; -inf where none stands out, as where all are equal.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling" (2024), Journal of Machine Learning Research
    25(72), sections 2 and 3, appendix for the prior.

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.weights import pareto_k
    >>> u = (np.arange(10_000) + 0.5) / 10_000
    >>> abs(pareto_k(-0.3 * np.log(u)) - 0.3) < 0.03  # Pareto's own weights, u^-k
    True
    """
    n = len(log_weights)
    size = math.ceil(min(n / 5, 3 * math.sqrt(n)))
    if size < FEWEST:
        return math.nan
    ordered = np.sort(log_weights)
    top, cut, tail = ordered[-1], ordered[-size - 1], ordered[-size:]
    if top == -math.inf:
        return math.nan
    if top == cut:
        return -math.inf
    excess = np.exp(tail - top) - math.exp(cut - top)
    excess = excess[excess > 0]
    if len(excess) < FEWEST:
        return math.inf
    return (len(excess) * _shape(excess) + PRIOR * PRIOR_K) / (len(excess) + PRIOR)


def _shape(x: Array) -> float:
    """The shape k of a generalised Pareto distribution with the density ``(1 + k x / s)^(-1 / k - 1) / s`` from rising ``x >
    0``.

    With ``theta = -k / s`` the likelihood is greatest over k at ``k(theta) = mean(log(1 - theta x))``, where its logarithm is
    ``l(theta) = n (log(-theta / k) - k - 1)``. The estimate of theta is its posterior mean on the grid
    ``theta_j = 1 / x_n + (1 - sqrt(m / (j - 1/2))) / (3 x*)`` for j = 1 ... m, ``m = 30 + floor(sqrt(n))``, with the first
    quartile ``x*``, and that of k is ``k(theta)``.

    References
    ----------
    Zhang, Stephens, "A new and efficient estimation method for the generalized Pareto distribution" (2009), Technometrics
    51(3), whose k has the other sign.
    """
    n = len(x)
    m = 30 + int(math.sqrt(n))
    quartile = x[int(n / 4 + 0.5) - 1]
    theta = 1 / x[-1] + (1 - np.sqrt(m / (np.arange(1, m + 1) - 0.5))) / (3 * quartile)
    theta = theta[theta != 0]  # the exponential distribution, which its neighbours stand for
    k = np.array([np.log1p(-number * x).mean() for number in theta])
    log_likelihood = n * (np.log(-theta / k) - k - 1)
    weight = np.exp(log_likelihood - log_likelihood.max())
    return float(np.log1p(-float(theta @ weight / weight.sum()) * x).mean())
