"""Whether a posterior is right, on simulations that it has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, Rng
from penstock._warn import DataWarning, warn
from penstock.sbi.priors import Prior
from penstock.sbi.wrapped import as_prior, takes

if TYPE_CHECKING:
    from penstock.diagnostics import SBC, Coverage
    from penstock.sbi.posterior import Posterior

FEWEST = 40  # simulations, without which ranks tell nothing
BINS = 20  # of ranks: what divides the number of draws and the true one


class Pool(Protocol):
    """What shares tasks out: ``multiprocessing.Pool``, an executor of ``concurrent.futures``, a pool of MPI."""

    @property
    def map(self) -> Callable[..., Iterable[Any]]:
        """``map(function, tasks)``: the results in the order of the tasks."""
        ...


@dataclass(frozen=True)
class Check:
    """What :meth:`Posterior.check` found.

    Attributes
    ----------
    sbc : penstock.diagnostics.SBC
        Ranks of each parameter, and of the log-density.
    tarp : penstock.diagnostics.Coverage
        Of balls around random points.
    coverage : penstock.diagnostics.Coverage
        Of regions of highest density.
    theta, x : arrays of shape (n, dim) and (n, c)
        The simulations.

    Examples
    --------
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
    >>> theta = prior.sample(300, rng=0)
    >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
    >>> found = posterior.check(lambda theta: theta**2, 40, draws=39, rng=0)
    >>> len(found.theta), found.sbc.draws, str(found).splitlines()[0]
    (40, 39, '40 simulations: the posterior is not calibrated')
    """

    sbc: SBC
    tarp: Coverage
    coverage: Coverage
    theta: Array
    x: Array

    @property
    def passed(self) -> bool:
        """Whether chance may well have left all three so: each has a p-value of at least 0.01."""
        return bool(self.sbc.passed and self.tarp.passed and self.coverage.passed)

    def __str__(self) -> str:
        count = len(self.theta)
        title = f"{count} simulations: " + (
            "the posterior is calibrated as far as they tell" if self.passed else "the posterior is not calibrated"
        )
        return "\n".join([title, *(f"  {found}" for found in (self.sbc, self.tarp, self.coverage))])

    def plot(self) -> Any:
        """The three side by side; needs matplotlib.

        Returns
        -------
        matplotlib Figure
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise ImportError("plotting needs matplotlib: pip install 'penstock[plot]'") from None
        figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
        shown: tuple[Any, ...] = (self.sbc, self.tarp, self.coverage)
        for ax, found, title in zip(axes, shown, ("ranks (SBC)", "TARP", "highest density"), strict=True):
            found.plot(ax)
            ax.set_title(title)
        return figure


class Part:
    """A simulator with the part that one worker of a pool does: parameters and a seed become data."""

    def __init__(self, simulator: Callable[..., Any]) -> None:
        self.simulator = simulator
        self.takes_rng = takes(simulator, "rng")

    def __call__(self, task: tuple[Array, int]) -> Any:
        """The data of some parameters."""
        theta, seed = task
        if not self.takes_rng:
            return self.simulator(theta)
        return self.simulator(theta, rng=np.random.default_rng(seed))


def simulated(
    simulator: Callable[..., Any], theta: Array, names: tuple[str, ...], dim: int, pool: Any, chunks: int, seed: int
) -> Array:
    """Data for every row of theta, in parts that a pool may share out."""
    parts = np.array_split(theta, min(chunks, len(theta)))
    seeds = np.random.default_rng(seed).integers(2**63, size=len(parts)).tolist()
    tasks = list(zip(parts, seeds, strict=True))
    mapped = map if pool is None else getattr(pool, "map", None)
    if mapped is None:
        raise TypeError(f"pool must have a method map, got {type(pool).__name__}")
    found = []
    for part, x in zip(parts, mapped(Part(simulator), tasks), strict=True):
        rows = _validate.as_rows(
            columns.matched(x, names, dim, name="simulator(theta)").values, dim, name="simulator(theta)"
        )
        if len(rows) != len(part):
            raise ValueError(f"simulator(theta) must have {len(part)} rows, one for each of theta, got {len(rows)}")
        found.append(rows.astype(np.float64))
    return np.concatenate(found)


def checked(
    posterior: Posterior,
    simulator: Callable[..., Any],
    n: int,
    *,
    draws: int,
    pool: Any,
    chunks: int,
    prior: Any,
    rng: Rng,
) -> Check:
    """Simulate and test."""
    from penstock import diagnostics

    if n < FEWEST:
        raise ValueError(f"n must be at least {FEWEST} simulations, got {n}")
    known: Prior = posterior.prior if prior is None else as_prior(prior, None, posterior.dim)
    seed = _validate.seed(rng)
    theta = known.sample(n, np.random.default_rng([seed, 0]))
    observed = posterior.observed
    x = simulated(simulator, theta, observed.names, observed.dim, pool, chunks, seed)
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        warn(
            f"{int((~finite).sum())} of {n} simulations hold NaN or infinity and are left out, as those of the training were",
            DataWarning,
        )
        theta, x = theta[finite], x[finite]
    ranked = max((draws + 1) // BINS * BINS - 1, 2)
    return Check(
        diagnostics.sbc(posterior, theta, x, draws=ranked, rng=seed),
        diagnostics.tarp(posterior, theta, x, draws=draws, rng=seed),
        diagnostics.hdr_coverage(posterior, theta, x, draws=draws, rng=seed),
        theta,
        x,
    )
