"""Priors: each has a log-density, draws, and supports of its columns, which become those of a flow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.columns import Names
from penstock.support import Interval, Real, Support

LOG_2PI = math.log(2 * math.pi)


class Prior:
    """What all priors have; a subclass says what its density is (``_log_prob``), and how it draws (``_sample``).

    Attributes
    ----------
    dim : int
        Number of parameters.
    support : tuple of supports
        Where each parameter lies; empty where all are real.
    names : tuple of str
        Of the parameters; empty where they have none.
    exact : bool
        Whether the density is positive everywhere within the support: then a flow with that support needs no rejection.

    Examples
    --------
    >>> import penstock as ps
    >>> prior = ps.sbi.Independent([ps.sbi.BoxUniform(0, 1), ps.sbi.Normal(0, 2)])
    >>> isinstance(prior, ps.sbi.Prior), prior.dim, prior.exact
    (True, 2, True)
    """

    dim: int
    support: tuple[Support, ...] = ()
    names: Names = ()
    exact: bool = True

    def log_prob(self, theta: RowsLike) -> Any:
        """The log-density of parameters, -inf outside the support.

        Parameters
        ----------
        theta : array of shape (dim,), (rows, dim) or (m, n, dim), or a table

        Returns
        -------
        float, or float64 array of shape (rows,) or (m, n)
            NaN where a parameter is NaN.

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.Normal(0, 1)
        >>> round(prior.log_prob([0.0]), 4), prior.log_prob([[0.0], [1.0]]).shape
        (-0.9189, (2,))
        """
        given = columns.matched(theta, self.names, self.dim, name="theta").values
        rows, shape = _validate.as_batch(given, self.dim, name="theta")
        with np.errstate(all="ignore"):
            found = self._log_prob(rows.astype(np.float64))
        found = np.where(np.isnan(rows).any(axis=1), np.nan, found)
        return found.reshape(shape) if shape else float(found[0])

    def sample(self, n: float | tuple[int, ...] | None = None, rng: Rng = None) -> Array:
        """Draw parameters.

        Parameters
        ----------
        n : int or tuple of int, optional
            How many; None for one by itself.
        rng : seed or numpy Generator, optional
            What ``numpy.random.default_rng`` takes; a Generator is advanced once.

        Returns
        -------
        float64 array of shape (n, dim), or (dim,) without n

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.Normal(0, 1)
        >>> prior.sample(3, rng=0).shape, prior.sample().shape
        ((3, 1), (1,))
        """
        shape = _validate.draws(n, name="n")
        rows = self._sample(math.prod(shape), np.random.default_rng(_validate.seed(rng)))
        return rows.reshape(*shape, self.dim)

    def log_prob_max(self) -> float | None:
        """The highest log-density, None where nobody knows it.

        Returns
        -------
        float or None

        Examples
        --------
        >>> import penstock as ps
        >>> prior = ps.sbi.Normal(0, 1)
        >>> round(prior.log_prob_max(), 4)
        -0.9189
        """
        return None

    def _log_prob(self, theta: Array) -> Array:
        raise NotImplementedError

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        raise NotImplementedError


class BoxUniform(Prior):
    """The uniform density between two ends in each parameter.

    Parameters
    ----------
    lo, hi : float or array of shape (dim,)
        The ends, which belong to the box.
    dim : int, optional
        Number of parameters, where the ends are numbers; by default 1.

    Raises
    ------
    ValueError
        If ends are not finite or not in order, or do not go with dim.

    Examples
    --------
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=2)
    >>> round(prior.log_prob([0.5, -0.5]), 4), prior.log_prob([0.5, 1.5])
    (-1.3863, -inf)
    >>> prior.sample(3, rng=0).shape, str(prior.support[0])
    ((3, 2), 'within [-1, 1]')
    """

    def __init__(self, lo: ArrayLike, hi: ArrayLike, dim: int | None = None) -> None:
        self.lo, self.hi = _vectors({"lo": lo, "hi": hi}, dim)
        self.dim = len(self.lo)
        for i, (low, high) in enumerate(zip(self.lo, self.hi, strict=True)):
            if not low < high:
                raise ValueError(f"hi must lie above lo, got lo[{i}]={low:g} and hi[{i}]={high:g}")
        self.support = tuple(Interval(low, high) for low, high in zip(self.lo.tolist(), self.hi.tolist(), strict=True))
        self._height = -float(np.log(self.hi - self.lo).sum())

    def __repr__(self) -> str:
        return f"BoxUniform(lo={_shown(self.lo)}, hi={_shown(self.hi)})"

    def log_prob_max(self) -> float:
        """The log-density within the box."""
        return self._height

    def _log_prob(self, theta: Array) -> Array:
        return np.where(((theta >= self.lo) & (theta <= self.hi)).all(axis=1), self._height, -np.inf)

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        return np.clip(rng.uniform(self.lo, self.hi, (n, self.dim)), self.lo, self.hi)


class Normal(Prior):
    """A normal density, with independent parameters or a covariance.

    Parameters
    ----------
    mean : float or array of shape (dim,), default 0
    std : float or array of shape (dim,), optional
        Standard deviations; 1 where neither std nor cov is given.
    cov : array of shape (dim, dim), optional
        The covariance, in the place of std.
    dim : int, optional
        Number of parameters, where mean and std are numbers; by default 1.

    Raises
    ------
    ValueError
        If std is not positive, cov not symmetric and positive definite, or shapes do not go together.

    Examples
    --------
    >>> import penstock as ps
    >>> round(ps.sbi.Normal(0, 2, dim=3).log_prob([0.0, 0.0, 0.0]), 4)
    -4.8363
    >>> ps.sbi.Normal([0.0, 1.0], cov=[[1.0, 0.5], [0.5, 2.0]]).sample(4, rng=0).shape
    (4, 2)
    """

    def __init__(
        self,
        mean: ArrayLike = 0.0,
        std: ArrayLike | None = None,
        *,
        cov: ArrayLike | None = None,
        dim: int | None = None,
    ) -> None:
        if cov is None:
            self.mean, scale = _vectors({"mean": mean, "std": 1.0 if std is None else std}, dim)
            if not (scale > 0).all():
                raise ValueError(f"std must be positive, got {_shown(scale)}")
            self._factor = np.diag(scale)
        elif std is not None:
            raise ValueError("std and cov both say how wide the prior is; give one of them")
        else:
            matrix = _validate.reals(cov, name="cov").astype(np.float64)
            if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) != (dim or len(matrix)):
                raise ValueError(f"cov must have shape ({dim or 'dim'}, {dim or 'dim'}), got {matrix.shape}")
            (self.mean,) = _vectors({"mean": mean}, len(matrix))
            self._factor = _cholesky(matrix)
        self.dim = len(self.mean)
        self._height = -float(np.log(np.diag(self._factor)).sum()) - 0.5 * self.dim * LOG_2PI

    @property
    def cov(self) -> Array:
        """The covariance, of shape (dim, dim)."""
        found: Array = self._factor @ self._factor.T
        return found

    def __repr__(self) -> str:
        return f"Normal(mean={_shown(self.mean)}, std={_shown(np.sqrt(np.diag(self.cov)))}, dim={self.dim})"

    def log_prob_max(self) -> float:
        """The log-density at the mean."""
        return self._height

    def _log_prob(self, theta: Array) -> Array:
        z = np.linalg.solve(self._factor, (theta - self.mean).T)
        found: Array = self._height - 0.5 * (z**2).sum(axis=0)
        return np.where(np.isinf(theta).any(axis=1), -np.inf, found)

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        found: Array = self.mean + rng.standard_normal((n, self.dim)) @ self._factor.T
        return found


class Independent(Prior):
    """Priors side by side, each of one parameter or several.

    Parameters
    ----------
    parts : sequence, or mapping of names
        Priors, or what :func:`penstock.sbi.npe` takes as one: frozen distributions of SciPy, and objects with ``log_prob`` and
        ``sample``. A mapping gives the parameters names, and has one-dimensional parts.

    Examples
    --------
    >>> import penstock as ps
    >>> from scipy import stats
    >>> prior = ps.sbi.Independent({"mass": stats.gamma(2.0), "angle": ps.sbi.BoxUniform(0, 1)})
    >>> prior.names, [str(support) for support in prior.support]
    (('mass', 'angle'), ['positive', 'within [0, 1]'])
    """

    def __init__(self, parts: Iterable[Any] | Mapping[str, Any]) -> None:
        from penstock.sbi.wrapped import as_prior

        names: tuple[str, ...] = ()
        if isinstance(parts, Mapping):
            names, parts = tuple(parts), parts.values()
        given = _validate.sequence(parts, name="parts")
        if not given:
            raise ValueError("parts must be at least one prior, got none")
        self.parts: tuple[Prior, ...] = tuple(
            as_prior(part, name=f"parts[{names[i]!r}]" if names else f"parts[{i}]") for i, part in enumerate(given)
        )
        for name, part in zip(names, self.parts, strict=False):
            if part.dim != 1:
                raise ValueError(f"parts[{name!r}] must have one dimension, as it has one name, got {part.dim}")
        self.dim = sum(part.dim for part in self.parts)
        self.names = columns.checked(names, self.dim, name="parts")
        self.exact = all(part.exact for part in self.parts)
        every = [one for part in self.parts for one in part.support or (Real(),) * part.dim]
        self.support = () if all(isinstance(one, Real) for one in every) else tuple(every)
        self._ends = np.cumsum([0, *(part.dim for part in self.parts)])

    def __repr__(self) -> str:
        shown = [f"{name}={part!r}" for name, part in zip(self.names, self.parts, strict=False)]
        return f"Independent({', '.join(shown or map(repr, self.parts))})"

    def log_prob_max(self) -> float | None:
        """The sum of those of the parts."""
        found = [part.log_prob_max() for part in self.parts]
        return None if None in found else math.fsum(value for value in found if value is not None)

    def _log_prob(self, theta: Array) -> Array:
        total = np.zeros(len(theta))
        for part, first in zip(self.parts, self._ends, strict=False):
            total = total + part.log_prob(theta[:, first : first + part.dim])
        return np.where(np.isnan(total) & ~np.isnan(theta).any(axis=1), -np.inf, total)  # +inf beside -inf

    def _sample(self, n: int, rng: np.random.Generator) -> Array:
        return np.concatenate([part.sample(n, rng) for part in self.parts], axis=1)


# --- inside -------------------------------------------------------------------------------------------------------


def _vectors(given: Mapping[str, Any], dim: int | None) -> list[Array]:
    """Numbers or vectors as finite float64 vectors of one length."""
    length = None if dim is None else _validate.positive_int(dim, name="dim")
    arrays = {name: _validate.reals(value, name=name).astype(np.float64) for name, value in given.items()}
    for name, array in arrays.items():
        if array.ndim > 1 or (array.ndim == 1 and length not in (None, len(array))) or not array.size:
            raise ValueError(f"{name} must be a number, or of shape ({length or 'dim'},), got shape {array.shape}")
        if array.ndim == 1:
            length = len(array)
        _validate.all_finite(array, name=name)
    return [np.broadcast_to(array, (length or 1,)).copy() for array in arrays.values()]


def _cholesky(cov: Array) -> Array:
    _validate.all_finite(cov, name="cov")
    if not np.allclose(cov, cov.T, rtol=1e-8, atol=1e-12 * np.abs(cov).max()):
        raise ValueError("cov must be symmetric")
    try:
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        raise ValueError("cov must be positive definite") from None


def _shown(values: Sequence[float] | Array) -> str:
    """A vector in few words: one number where all are equal."""
    words = [f"{value:g}" for value in values]
    if len(set(words)) == 1:
        return words[0] if len(words) == 1 else f"[{words[0]}] * {len(words)}"
    return f"[{', '.join(words if len(words) <= 6 else [*words[:5], '...'])}]"
