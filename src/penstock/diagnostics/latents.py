"""The latents of a flow: whether they have the distribution of its base, by themselves and together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _normal, latent
from penstock._typing import Array, ArrayLike, RowsLike
from penstock.diagnostics import drawing
from penstock.diagnostics.statistics import (
    LEVEL,
    bonferroni,
    distance_to_uniform,
    kolmogorov,
    listed,
    mean_with_error,
    pm,
    shown_p,
    special,
)
from penstock.diagnostics.subject import Model, Subject

TINY = 2.0**-54


@dataclass(frozen=True)
class Latents:
    """Latents of rows as normal scores, ``Phi^-1(F(z))`` with the distribution function F of the base.

    They are standard normal, if the flow is right. For a standard normal base they are the latents themselves.

    Attributes
    ----------
    values : float64 array of shape (rows, dim)
    dimensions : tuple of str
        ``z0``, ``z1`` ..., from the latent side.
    mean, mean_error, std, std_error, skew, skew_error, tail, tail_error : arrays of shape (dim,)
        Mean, standard deviation, third moment and fourth moment less 3 of each, and standard errors: 0, 1, 0 and 0, if the flow
        is right.
    p_values : array of shape (dim,)
        That a normal sample is as far from the normal distribution (Kolmogorov).
    correlation, correlation_error : float
        Of the two that are correlated most, and the standard error of one correlation.
    pair : tuple of int
        Which these are.
    radius, radius_error : float
        The mean of ``|z|^2 / dim``: 1 if the flow is right, above it where the flow is too narrow.
    size : float
    weight : array of shape (rows,), or None
    """

    values: Array
    dimensions: tuple[str, ...]
    mean: Array
    mean_error: Array
    std: Array
    std_error: Array
    skew: Array
    skew_error: Array
    tail: Array
    tail_error: Array
    p_values: Array
    correlation: float
    correlation_error: float
    pair: tuple[int, int]
    radius: float
    radius_error: float
    size: float
    weight: Array | None = None

    @property
    def p_value(self) -> float:
        """Of all dimensions, their correlations and their mean square together (Bonferroni)."""
        dim = len(self.dimensions)
        pairs = dim * (dim - 1) // 2
        z = np.array([self.correlation / self.correlation_error, (self.radius - 1) / self.radius_error])
        more = 2 * special().ndtr(-abs(z)) * np.array([max(pairs, 1), 1])
        return float(min(1.0, 3 * min(bonferroni(self.p_values), *more)))

    @property
    def passed(self) -> bool:
        """Whether chance may well have left it so: the p-value is at least 0.01."""
        return self.p_value >= LEVEL

    def __str__(self) -> str:
        size = f"mean |z|²/dim {pm(self.radius, self.radius_error)}"
        if self.passed:
            return (
                f"latents: as the base has them, as far as {self.size:.0f} rows tell ({size}, {shown_p(self.p_value)})"
            )
        words = []
        if abs(self.radius - 1) > 3 * self.radius_error:
            words.append(f"{size}: the flow is too {'narrow' if self.radius > 1 else 'wide'}")
        failing = np.flatnonzero(self.p_values * len(self.dimensions) < LEVEL)
        if len(failing):
            words.append(
                listed([f"{self.dimensions[j]} with mean {self.mean[j]:.2f}, sigma {self.std[j]:.2f}" for j in failing])
            )
        if abs(self.correlation) > 4.5 * self.correlation_error:
            i, j = self.pair
            words.append(
                f"{self.dimensions[i]} and {self.dimensions[j]} correlated, {pm(self.correlation, self.correlation_error)}"
            )
        return f"latents: not those of the base ({shown_p(self.p_value)}): {'; '.join(words)}"

    def plot(self, ax: Any = None) -> Any:
        """Quantiles of the normal scores against those of the standard normal; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            By default those of a new figure.

        Returns
        -------
        matplotlib Axes
        """
        ax = drawing.axes(ax)
        n = min(len(self.values), 400)
        share = (np.arange(n) + 0.5) / n
        expected = _normal.quantile(share)
        density = np.exp(-(expected**2) / 2) / np.sqrt(2 * np.pi)
        error = 2 * np.sqrt(share * (1 - share) / self.size) / density
        ax.fill_between(expected, -error, error, color=drawing.BAND, lw=0, label="2 standard errors")
        ax.axhline(0, color=drawing.DATA, lw=0.8)
        far = np.argsort(self.p_values)
        for colour, j in zip(drawing.LINES, sorted(far[: drawing.SHOWN].tolist()), strict=False):
            found = np.quantile(self.values[:, j], share)
            ax.plot(expected, found - expected, color=colour, lw=1.2, label=self.dimensions[j])
        ax.set(xlabel="quantile of the standard normal", ylabel="that of the latents, less it", xlim=(-3, 3))
        limit = max(0.15, 1.1 * max(abs(line.get_ydata()[abs(expected) < 2.6]).max() for line in ax.lines[1:]))
        ax.set_ylim(-limit, limit * 1.5)
        drawing.legend(ax, len(ax.lines), loc="upper center")
        return ax


def latents(
    model: Model, X: RowsLike, context: RowsLike | None = None, *, sample_weight: ArrayLike | None = None
) -> Latents:
    """Map rows to the latent side, and compare them with the base: each dimension, their correlations, and their mean square.

    Parameters
    ----------
    model : Flow, or what ``flow.given(context)`` gives
        With any base; of a mixture each dimension counts given those before it.
    X, context, sample_weight
        As for :func:`pit`.

    Returns
    -------
    Latents

    Raises
    ------
    TypeError
        For a model without a map to latents, as an ensemble, whose ``members`` have one each.
    ValueError
        For rows outside the support of the flow, and for a base without distribution functions.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = 1.2 * np.random.default_rng(0).normal(size=(4000, 2))
    >>> found = ps.diagnostics.latents(ps.realnvp(2, rng=0), X)
    >>> bool(abs(found.radius - 1.44) < 4 * found.radius_error), found.passed
    (True, False)
    """
    return latents_of(Subject(model, X, context, sample_weight=sample_weight, rng=0))


def has_latents(model: Any) -> bool:
    """Whether a model is a flow whose latents can be compared with its base."""
    flow = getattr(model, "flow", model)
    if not hasattr(flow, "_plan") or not hasattr(model, "to_latent") or hasattr(flow, "members"):
        return False
    try:
        latent.cdf(flow._side(np.zeros(flow.context_dim), 1), np.zeros((1, flow.dim)))
    except (ValueError, ImportError):
        return False
    return True


def latents_of(subject: Subject) -> Latents:
    """``latents`` of what is checked already."""
    model: Any = subject.model
    flow = getattr(model, "flow", model)
    if not hasattr(flow, "_plan") or hasattr(flow, "members"):
        hint = ": those of each of its members" if hasattr(model, "members") else ""
        raise TypeError(f"latents are those of a Flow, and a {type(model).__name__} has no single map to latents{hint}")
    given = subject._fixed if subject.contexts is None else (subject.contexts,)
    z, _ = model.to_latent(subject.noised(), *given)
    z = z.astype(np.float64)
    lost = np.isnan(z).any(axis=1)
    if lost.any():
        raise ValueError(
            f"{int(lost.sum())} rows of X lie outside the support of the flow, and have no latents, "
            f"first row {int(np.argmax(lost))}"
        )
    scores = np.where(z <= 0, *(_scores(flow, z, given[0] if given else None, upper) for upper in (False, True)))
    weight, size = subject.weight, subject.size
    mean, mean_error = mean_with_error(scores, weight)
    variance, variance_error = mean_with_error((scores - mean) ** 2, weight)
    std = np.sqrt(variance)
    u = (scores - mean) / std
    skew, _ = mean_with_error(u**3, weight)
    tail, _ = mean_with_error(u**4, weight)
    correlations = np.atleast_2d(np.cov(u.T, aweights=weight)) - np.eye(subject.dim)
    i, j = np.unravel_index(int(np.argmax(abs(np.triu(correlations, 1)))), correlations.shape)
    radius, radius_error = mean_with_error((scores**2).mean(axis=1), weight)
    below = special().ndtr(scores)
    p_values = np.array([kolmogorov(distance_to_uniform(column, weight), size) for column in below.T])
    return Latents(
        scores, tuple(f"z{k}" for k in range(subject.dim)), mean, mean_error, std, variance_error / (2 * std), skew,
        np.full(subject.dim, np.sqrt(6 / size)), tail - 3, np.full(subject.dim, np.sqrt(24 / size)), p_values,
        float(correlations[i, j]) if subject.dim > 1 else 0.0, float(1 / np.sqrt(size)), (int(i), int(j)), float(radius),
        float(radius_error), size, weight,
    )  # fmt: skip


def _scores(flow: Any, z: Array, context: Any, upper: bool) -> Array:
    """Normal scores by the probability on one side, which is exact where it is small."""
    share = latent.cdf(flow._side(context, len(z)), z, upper=upper)
    scores = special().ndtri(np.clip(share, TINY, 1.0))
    found: Array = np.clip(-scores if upper else scores, -8.3, 8.3)
    return found
