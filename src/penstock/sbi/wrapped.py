"""Priors that others have made: frozen distributions of SciPy, and objects with ``log_prob`` and ``sample``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.sbi.priors import Independent, Prior
from penstock.support import Interval, Periodic, Real, Support, SupportLike, resolved


class Drawn(Protocol):
    """A prior of one's own."""

    @property
    def log_prob(self) -> Callable[[Any], Any]:
        """``log_prob(theta)``: a number for each row of theta, (rows, dim)."""
        ...

    @property
    def sample(self) -> Callable[..., Any]:
        """``sample(n)`` or ``sample(n, rng=generator)``: rows, (n, dim)."""
        ...


class Frozen(Protocol):
    """A frozen distribution of SciPy."""

    @property
    def logpdf(self) -> Callable[[Any], Any]:
        """The log-density."""
        ...


PriorLike: TypeAlias = Prior | Drawn | Frozen | Sequence[Any] | Mapping[str, Any]

# Of one parameter, those with one mode, at the median: for these a bound of the density is known.
SYMMETRIC = ("uniform", "norm", "laplace", "logistic", "cauchy", "t", "Uniform", "Normal", "Logistic", "Laplace")
# Frozen distributions of several parameters whose support is the whole space. (Of the others there is none that has a density
# with respect to all of its columns.)
JOINT = ("multivariate_normal_frozen", "multivariate_t_frozen")


def as_prior(prior: Any, support: SupportLike | None = None, dim: int | None = None, *, name: str = "prior") -> Prior:
    """What a user gives as a prior, as one.

    Parameters
    ----------
    prior : anything
    support : support, optional
        Where a prior of one's own lies.
    dim : int, optional
        Number of parameters, if it is known.
    name : str
        Of the argument, for messages.
    """
    found: Prior
    module = type(prior).__module__
    if support is not None and not _is_own(prior):
        raise ValueError(f"support= is that of a prior of one's own, and {name} ({type(prior).__name__}) has one")
    if isinstance(prior, Prior):
        found = prior
    elif isinstance(prior, (list, tuple, Mapping)):
        found = Independent(prior)
    elif module.startswith("scipy."):
        found = _from_scipy(prior, name)
    elif module.startswith(("torch.", "sbi.", "jax", "numpyro.")):
        raise TypeError(
            f"{name} is a {type(prior).__name__} of {module.partition('.')[0]}, which works on tensors: write it as "
            "ps.sbi.BoxUniform(lo, hi), ps.sbi.Normal(mean, std), or a frozen distribution of scipy.stats"
        )
    elif _is_own(prior):
        found = Own(prior, support, dim, name=name)
    else:
        raise TypeError(
            f"{name} must be one of penstock.sbi, a frozen distribution of scipy.stats, a list of these, or an object with "
            f"log_prob(theta) and sample(n), got {type(prior).__name__}"
        )
    if dim is not None and found.dim != dim:
        raise ValueError(f"{name} has {found.dim} parameters, but theta has {dim} columns")
    return found


def _is_own(prior: Any) -> bool:
    if isinstance(prior, (Prior, list, tuple, Mapping, type)) or type(prior).__module__.startswith("scipy."):
        return False
    return callable(getattr(prior, "log_prob", None)) and callable(getattr(prior, "sample", None))


class Own(Prior):
    """A prior of one's own: an object with ``log_prob(theta)`` and ``sample(n)`` or ``sample(n, rng=generator)``.

    Parameters
    ----------
    own : object
    support : support, optional
        Where its density is positive. Without it that is everywhere but where ``log_prob`` is -inf, which takes rejection.
    dim : int, optional
        Number of parameters; by default it is seen from a draw.
    """

    def __init__(self, own: Any, support: SupportLike | None, dim: int | None, *, name: str = "prior") -> None:
        self.own, self._name = own, name
        self._takes_rng = takes(own.sample, "rng")
        if dim is None:
            shape = _validate.reals(self._drawn(2, np.random.default_rng(0)), name=f"{name}.sample(2)").shape
            if len(shape) != 2:
                raise ValueError(f"{name}.sample(2) must have shape (2, dim), got {shape}")
            dim = shape[1]
        self.dim = dim
        self.support, self.names = resolved(support, dim)
        self.exact = support is not None

    def __repr__(self) -> str:
        return repr(self.own)

    def _drawn(self, n: int, rng: np.random.Generator) -> Any:
        return self.own.sample(n, rng=rng) if self._takes_rng else self.own.sample(n)

    def _log_prob(self, theta: Array) -> Array:
        name = f"{self._name}.log_prob(theta)"
        found = _validate.reals(self.own.log_prob(theta), name=name)
        if found.shape != (len(theta),):
            raise ValueError(f"{name} must have shape ({len(theta)},), a number for each row, got {found.shape}")
        return found.astype(np.float64)

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        name = f"{self._name}.sample({n})"
        found = _validate.as_rows(self._drawn(n, rng), self.dim, name=name)
        if len(found) != n:
            raise ValueError(f"{name} must have {n} rows, got {len(found)}")
        return found.astype(np.float64)


class Univariate(Prior):
    """Frozen distributions of SciPy of one parameter, or of several independent ones where its arguments are vectors."""

    def __init__(self, frozen: Any, support: tuple[Support, ...]) -> None:
        self.frozen = frozen
        self.dim = len(support)
        self.support = () if all(isinstance(one, Real) for one in support) else support

    def __repr__(self) -> str:
        if not hasattr(self.frozen, "dist"):
            return repr(self.frozen)
        words = [*map(str, self.frozen.args), *(f"{key}={value}" for key, value in self.frozen.kwds.items())]
        return f"{self.frozen.dist.name}({', '.join(words)})"

    def log_prob_max(self) -> float | None:
        """The log-density at the median, where the distribution is known to be highest there."""
        name = getattr(getattr(self.frozen, "dist", None), "name", type(self.frozen).__name__)
        if name not in SYMMETRIC:
            return None
        return math.fsum(np.ravel(self.frozen.logpdf(self.frozen.median())))

    def _log_prob(self, theta: Array) -> Array:
        wrapped = [
            np.where(np.isinf(x), np.nan, one.lo + (x - one.lo) % (one.hi - one.lo)) if isinstance(one, Periodic) else x
            for one, x in zip(self.support, theta.T, strict=False)
        ]
        x = np.stack(wrapped, axis=1) if wrapped else theta
        found = self.frozen.logpdf(x).astype(np.float64)
        total: Array = np.where(np.isnan(found), -np.inf, found).sum(axis=1)
        return total

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        shape = (n, self.dim)
        if hasattr(self.frozen, "rvs"):
            found = self.frozen.rvs(size=shape, random_state=rng)
        else:
            found = self.frozen.sample(n if np.ndim(self.frozen.support()[0]) else shape, rng=rng)
        return _validate.reals(found, name="prior.sample(n)").astype(np.float64).reshape(shape)


class Joint(Prior):
    """A frozen normal or t distribution of SciPy of several parameters."""

    def __init__(self, frozen: Any) -> None:
        self.frozen = frozen
        self.dim = int(frozen.dim)

    def __repr__(self) -> str:
        return f"{type(self.frozen).__name__.removesuffix('_frozen')}(dim={self.dim})"

    def log_prob_max(self) -> float:
        """The log-density at the centre."""
        centre = self.frozen.mean if hasattr(self.frozen, "mean") else self.frozen.loc
        return float(self.frozen.logpdf(centre))

    def _log_prob(self, theta: Array) -> Array:
        found: Array = _validate.reals(self.frozen.logpdf(theta), name="prior.log_prob(theta)").reshape(len(theta))
        return np.where(np.isinf(theta).any(axis=1), -np.inf, found)

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        if not n:
            return np.zeros((0, self.dim))
        found: Array = self.frozen.rvs(size=n, random_state=rng)
        return found.reshape(n, self.dim)


def _from_scipy(frozen: Any, name: str) -> Prior:
    kind = type(frozen).__name__
    if kind in JOINT:
        return Joint(frozen)
    older = hasattr(frozen, "rvs")
    if not hasattr(frozen, "support") or not (older or hasattr(frozen, "sample")):
        raise TypeError(
            f"{name}: {kind} of SciPy is no prior: those of one parameter are, and of several parameters "
            "multivariate_normal and multivariate_t, which have a density with respect to each column"
        )
    if older and not hasattr(frozen, "args"):
        raise TypeError(
            f"{name} must be a frozen distribution, as scipy.stats.norm(0, 1) is, got {kind} without arguments"
        )
    if hasattr(frozen, "logpmf") if older else any(c.__name__ == "DiscreteDistribution" for c in type(frozen).__mro__):
        raise TypeError(f"{name} must be continuous: {kind} of SciPy is discrete, and has no density")
    dist = getattr(frozen, "dist", None)
    lo, hi = np.broadcast_arrays(*frozen.support())
    if lo.ndim > 1:
        raise ValueError(f"{name} must be of one parameter or a vector of them, got an array of shape {lo.shape}")
    if dist is not None and dist.name == "vonmises":
        if dist._parse_args(*frozen.args, **frozen.kwds)[2] != 1:
            raise ValueError(f"{name}: vonmises must have scale=1, for which its circle is (-pi, pi)")
        return Univariate(frozen, (Periodic(-math.pi, math.pi),) * lo.size)
    ends = np.stack([lo.ravel(), hi.ravel()], axis=1)
    with np.errstate(all="ignore"):
        at_ends = np.stack([frozen.logpdf(end) for end in (lo, hi)], axis=-1).reshape(-1, 2)
    return Univariate(frozen, tuple(_support(*pair) for pair in zip(ends.tolist(), at_ends.tolist(), strict=True)))


def _support(ends: list[float], heights: list[float]) -> Support:
    """The support between two ends; those of a box belong to it where the density is positive."""
    lo, hi = (end if math.isfinite(end) else None for end in ends)
    if lo is None and hi is None:
        return Real()
    if lo is None or hi is None:
        return Interval(lo, hi)
    belongs = tuple(height > -math.inf for height in heights)
    words = {(True, True): "both", (True, False): "lo", (False, True): "hi", (False, False): "neither"}
    return Interval(lo, hi, closed=words[belongs[0], belongs[1]])


def takes(function: Any, name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        return name in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
