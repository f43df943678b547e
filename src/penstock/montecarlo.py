"""Estimates from draws of a flow, each with its error: entropy, acceptance, and what importance weights tell of a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from penstock import _validate
from penstock._typing import Array, Rng, RowsLike
from penstock._warn import TargetWarning, warn
from penstock.accepting import Condition, judged
from penstock.quantiles import Quantiles
from penstock.targets import LogDensity, evaluated, shown
from penstock.weights import RELIABLE, summary

CHUNK = 1 << 18  # numbers of draws together


class Flowlike(Protocol):
    """What draws and knows its density: a ``Flow`` without a context, or what ``flow.given(context)`` gives."""

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of draws."""
        ...

    @property
    def sample_and_log_prob(self) -> Callable[..., tuple[Array, Any]]:
        """Draws by number, with their log-density."""
        ...


class Estimate(NamedTuple):
    """An estimate with its standard error.

    Attributes
    ----------
    value, error : float, or arrays of one for each context
    """

    value: Any
    error: Any


class Importance(NamedTuple):
    """Draws of a flow, weighted so that they stand for a target.

    Attributes
    ----------
    samples : array of shape (n, dim)
        Draws of the flow, in its dtype.
    log_weights : float64 array of shape (n,)
        ``log p - log q``, with the unnormalised target p and the flow's density q; -inf where p is 0.
    log_evidence : float
        Logarithm of the mean weight: of the integral of p.
    log_evidence_error : float
        Its standard error; what it says is true as far as ``pareto_k`` is small.
    ess : float
        Effective sample size, ``(sum w)^2 / sum w^2``.
    pareto_k : float
        Shape of the tail of the weights: estimates are reliable up to about 0.7.
    """

    samples: Array
    log_weights: Array
    log_evidence: float
    log_evidence_error: float
    ess: float
    pareto_k: float


class MonteCarlo(Quantiles):
    """Verbs that estimate from draws."""

    def entropy(self, n: float = 10_000, context: RowsLike | None = None, *, rng: Rng = None) -> Estimate:
        """The differential entropy of the flow, ``H = -E[log q(x)]`` in nats, from n draws.

        Parameters
        ----------
        n : int, default 10 000
            Draws, at least 2, for each context.
        context : array of shape (c,) or (m, c), or a table, optional
            For a flow with a context.
        rng : seed or numpy Generator, optional
            As for :meth:`sample`: the draws are those of ``sample(n, context, rng=rng)``.

        Returns
        -------
        named tuple (value, error)
            The mean of ``-log q`` over the draws, and its standard error, the standard deviation over the root of n. Floats,
            or float64 arrays of shape (m,).

        Examples
        --------
        >>> import penstock as ps
        >>> value, error = ps.realnvp(2, rng=0).entropy(10_000, rng=0)  # the standard normal: 1 + log(2 pi) = 2.8379
        >>> abs(value - 2.8379) < 4 * error < 0.05
        True
        """
        n, total = _at_least_two(n), Moments()
        seed = _validate.seed(rng)
        for first, count in self._parts(n, context):
            total.add(-self.sample_and_log_prob(count, context, key=seed, first=first, raw=True)[1].astype(np.float64))
        return Estimate(_plain(total.mean), _plain(np.sqrt(total.squares / (n - 1) / n)))

    def acceptance(
        self, where: Condition, n: float = 10_000, context: RowsLike | None = None, *, rng: Rng = None
    ) -> Estimate:
        """The share of draws that a condition accepts: the mass of the flow where it holds.

        Parameters
        ----------
        where : callable
            As for :meth:`sample`: a function of rows, (rows, dim), that returns a boolean for each.
        n : int, default 10 000
            Draws, at least 2, for each context.
        context : array of shape (c,) or (m, c), or a table, optional
            For a flow with a context.
        rng : seed or numpy Generator, optional
            As for :meth:`sample`.

        Returns
        -------
        named tuple (value, error)
            The share ``k / n`` of k accepted draws, and the standard deviation of the rate after them under a uniform prior,
            ``sqrt(r (1 - r) / (n + 3))`` with ``r = (k + 1) / (n + 2)``, which is not 0 where all or none were accepted.
            Floats, or float64 arrays of shape (m,).

        Examples
        --------
        >>> import penstock as ps
        >>> rate, error = ps.realnvp(2, rng=0).acceptance(lambda x: x[:, 0] > 0, 10_000, rng=0)
        >>> abs(rate - 0.5) < 4 * error < 0.03
        True
        """
        _validate.function(where, name="where")
        n, seed = _at_least_two(n), _validate.seed(rng)
        count: Any = 0
        for first, size in self._parts(n, context):
            x = self.sample(size, context, key=seed, first=first)
            kept = judged(where, x.reshape(-1, self.dim)).reshape(x.shape[:-1])
            count = count + kept.sum(axis=-1)
        rate = (count + 1) / (n + 2)
        return Estimate(_plain(count / n), _plain(np.sqrt(rate * (1 - rate) / (n + 3))))

    def _parts(self, n: int, context: Any) -> list[tuple[int, int]]:
        """Numbers and sizes of the parts in which n draws for each context fit into memory."""
        given, *_ = self._draws(n, context, 0, 0)
        contexts = len(given) if given is not None and given.ndim == 2 else 1
        size = max(1, CHUNK // (self.dim * max(contexts, 1)))
        return [(first, min(size, n - first)) for first in range(0, n, size)]


class Moments:
    """Mean and sum of squared deviations along the last axis, in parts (Chan, Golub, LeVeque 1979).

    Examples
    --------
    >>> import numpy as np
    >>> from penstock.montecarlo import Moments
    >>> total = Moments()
    >>> total.add(np.array([1.0, 2.0])), total.add(np.array([6.0]))
    (None, None)
    >>> float(total.mean), float(total.squares)
    (3.0, 14.0)
    """

    def __init__(self) -> None:
        self._count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, values: Array) -> None:
        """Values more."""
        count = values.shape[-1]
        mean = values.mean(axis=-1)
        squares = ((values - mean[..., None]) ** 2).sum(axis=-1)
        both, change = self._count + count, mean - self.mean
        self.mean = self.mean + change * (count / both)
        self.squares = self.squares + squares + change**2 * (self._count * count / both)
        self._count = both


def importance(flow: Flowlike, log_density: LogDensity, n: float, rng: Rng = None) -> Importance:
    """Weight draws of a flow so that they stand for an unnormalised target: its evidence, and how far to trust it.

    ``log w = log p(x) - log q(x)`` for draws x of the flow's density q; the mean of w estimates the evidence, the integral
    of p.

    Parameters
    ----------
    flow : Flow, or what ``flow.given(context)`` gives
    log_density : callable
        A function of rows, a float64 array of shape (rows, dim) in the order of the flow's columns, that returns
        log p of shape (rows,), or a tuple of that and its gradient, which is not used. -inf means that p is 0. It is called
        with parts of the draws.
    n : int
        Draws, at least 2.
    rng : seed or numpy Generator, optional
        As for ``flow.sample``, whose draws they are, with ``raw=True`` for a flow with a lattice.

    Returns
    -------
    named tuple (samples, log_weights, log_evidence, log_evidence_error, ess, pareto_k)
        Draws of the flow, (n, dim), and the logarithms of their weights, (n,); the logarithm of the evidence with its
        standard error, the effective sample size ``(sum w)^2 / sum w^2``, and the shape of the generalised Pareto
        distribution that fits the largest weights (Vehtari et al. 2024), which should not be above 0.7. Draws after the
        target are picked by ``exp(log_weights - log_weights.max())``.

    Raises
    ------
    ValueError, TypeError
        When ``log_density`` returns what it must not: another shape, no real numbers, +inf. For a flow with a context.

    Warns
    -----
    TargetWarning
        When ``log_density`` is NaN somewhere (such draws weigh nothing), when all draws weigh nothing (the evidence is then
        0), and when ``pareto_k`` is above 0.7.

    References
    ----------
    Vehtari, Simpson, Gelman, Yao, Gabry, "Pareto Smoothed Importance Sampling" (2024).

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.nsf_ar(1, rng=0)  # a fresh flow is the standard normal
    >>> found = ps.importance(flow, lambda x: -0.6 * x[:, 0] ** 2, 4000, rng=0)
    >>> abs(found.log_evidence - 0.828) < 4 * found.log_evidence_error < 0.03
    True
    """
    if getattr(flow, "context_dim", 0):
        raise ValueError("a target goes with a flow without a context; give flow.given(context)")
    if not hasattr(flow, "sample_and_log_prob"):
        raise TypeError(f"flow must be a Flow, got {type(flow).__name__}")
    _validate.function(log_density, name="log_density")
    n, seed = _at_least_two(n), _validate.seed(rng)
    samples, log_weights = np.zeros((n, flow.dim), flow.dtype), np.zeros(n)
    missing, where = 0, ""
    size = max(1, CHUNK // flow.dim)
    raw = {} if getattr(flow, "lattice", None) is None else {"raw": True}
    for first in range(0, n, size):
        part = slice(first, min(first + size, n))
        x, log_q = flow.sample_and_log_prob(part.stop - first, key=seed, first=first, **raw)
        samples[part] = x
        log_p, _ = evaluated(log_density, x, gradient=False)
        lost = np.isnan(log_p)
        if lost.any():
            where = where or shown(x[np.argmax(lost)])
            missing += int(lost.sum())
            log_p = np.where(lost, -math.inf, log_p)
        log_weights[part] = log_p - log_q.astype(np.float64)
    if missing:
        warn(f"log_density is NaN for {missing} of {n} draws, first at x = {where}; they weigh nothing", TargetWarning)
    told = summary(log_weights)
    if told.ess == 0:
        warn(f"log_density is -inf for all of {n} draws: the flow is nowhere near the target", TargetWarning)
    elif told.pareto_k > RELIABLE:
        warn(
            f"the importance weights have a heavy tail, pareto_k = {told.pareto_k:.2f} (reliable up to {RELIABLE}): the flow is "
            "narrower than the target somewhere, and evidence and error are not to be trusted",
            TargetWarning,
        )
    return Importance(samples, log_weights, *told)


def _at_least_two(n: Any) -> int:
    """``n`` as a number of draws that have a spread."""
    wanted = _validate.draws(n, name="n")
    if len(wanted) != 1 or wanted[0] < 2:
        raise ValueError(f"n must be an integer of at least 2, got {n!r}")
    return wanted[0]


def _plain(value: Any) -> Any:
    """A float in the place of a scalar of NumPy."""
    return float(value) if np.ndim(value) == 0 else value
