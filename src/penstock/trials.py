"""Trial fits of candidates on the same rows, within a budget of time, and what they say of rows that none of them has seen."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from penstock import _warn
from penstock._typing import Array
from penstock.columns import Names
from penstock.diagnostics.statistics import mean, mean_with_error
from penstock.ensemble import Ensemble
from penstock.flow import Flow
from penstock.lattice import Lattice
from penstock.members_fit import seeds
from penstock.training import TrainingError, default_epochs
from penstock.training.dequantize import noised
from penstock.training.options import default_batch_size
from penstock.training.rows import Rows

Recipe = Callable[..., Flow]

INNER = 0.1  # of the rows of a fit, by which it chooses its epoch
PILOT_STEPS, PILOT_PASSES = 4, 4  # by which the speed of a candidate is measured
PLANNED, ENDED = 0.9, 1.2  # parts of its share of time that a run is planned for, and at which it is stopped


@dataclass(frozen=True)
class Candidate:
    """What is tried: a name, ``recipe(rng=seed)``, the seed of its runs, and the number of its members if it is an ensemble."""

    name: str
    recipe: Recipe
    seed: int
    members: int = 1

    def built(self, names: tuple[Names, Names]) -> Flow | Ensemble:
        """An unfitted model, whose columns have these names."""

        def named(rng: Any) -> Flow:
            flow = self.recipe(rng=rng)
            flow._columns, flow._context_columns = names
            return flow

        return named(self.seed) if self.members == 1 else Ensemble(named, self.members, rng=self.seed)


@dataclass(eq=False)
class Run:
    """One fit of a candidate.

    Attributes
    ----------
    candidate : Candidate
    model : Flow, Ensemble or None
        None where training failed before there was any.
    seconds : float
    epochs, rows : int
        Passes that were planned, and rows of the table that were there to train and to choose the epoch.
    cut_short : bool
        Whether time has made it shorter than the options say.
    stopped : str
        ``history.stopped``.
    error : TrainingError or None
    log_prob : array
        Of the rows that are held out.
    told : list
        Warnings.
    """

    candidate: Candidate
    model: Flow | Ensemble | None
    seconds: float
    epochs: int
    rows: int
    cut_short: bool
    stopped: str = ""
    error: TrainingError | None = None
    log_prob: Array = field(default_factory=lambda: np.full(0, np.nan))
    told: list[_warn.Told] = field(default_factory=list)
    score: float = math.nan
    score_error: float = math.nan

    @property
    def rate(self) -> float:
        """Seconds for each row and pass."""
        return self.seconds / (self.epochs * self.rows)


@dataclass
class Trials:
    """Runs on the rows of one table, and the time that they may take.

    Attributes
    ----------
    rows, held_out : Rows
        What candidates are trained on, in random order, and what they are compared on.
    names, library
        Of the columns of the table.
    lattice : Lattice or None
    seed : int
        Of the noise of lattices.
    options : dict
        Of every fit.
    epochs : int or None
        The most that a run may have, where the caller has said so.
    timed : bool
        Whether there is a budget of time.
    """

    rows: Rows
    held_out: Rows
    names: tuple[Names, Names]
    library: str
    lattice: Lattice | None
    seed: int
    options: dict[str, Any]
    epochs: int | None
    timed: bool
    runs: list[Run] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)

    def full_epochs(self, rows: int, members: int) -> int:
        """Passes over so many rows that nothing cuts short."""
        if self.epochs is not None:
            return self.epochs
        return default_epochs(_n_train(rows), self.options.get("batch_size"), member=members > 1)

    def planned(self, candidate: Candidate, seconds: float, rows: int) -> tuple[int, int, bool]:
        """Passes, and over how many rows, that take so many seconds; and whether that is less than the options say."""
        full = self.full_epochs(rows, candidate.members)
        if not self.timed:
            return full, rows, False
        visits = PLANNED * max(seconds, 0.0) / self._rate(candidate)
        if visits >= full * rows:
            return full, rows, False
        if visits >= rows:
            return int(visits // rows), rows, True
        least = min(rows, 4 * self._batch_size())
        return 1, max(least, int(visits)), True

    def run(self, candidate: Candidate, seconds: float) -> Run:
        """Fit a candidate for about so many seconds, and score it."""
        epochs, rows, cut = self.planned(candidate, seconds, len(self.rows))
        run = self.fitted(candidate, self.rows, epochs, rows, seconds, cut)
        self.rates[candidate.name] = run.rate
        if run.model is not None:
            run.log_prob = self.scores(run.model)
            run.score, run.score_error = compared(run.log_prob, None, self.held_out.weight)
        self.runs.append(run)
        return run

    def fitted(
        self, candidate: Candidate, table: Rows, epochs: int, rows: int, seconds: float, cut: bool
    ) -> Run:  # fmt: skip
        """Fit a candidate on the first so many rows of a table. It is stopped when it has taken much longer than ``seconds``."""
        told: list[_warn.Told] = []
        begun = time.perf_counter()
        model: Flow | Ensemble | None = candidate.built(self.names)
        assert model is not None
        part = table if rows == len(table) else table.take(slice(0, rows))
        options = self.options | {"epochs": epochs, "validation": INNER, "sample_weight": part.weight}
        if rows < len(table) and options.get("batch_size") is None:
            options["batch_size"] = self._batch_size()
        if self.timed:
            options["callbacks"] = lambda state: time.perf_counter() - begun > ENDED * seconds
        if self.lattice is not None:
            options["dequantize"] = [float(step) or None for step in self.lattice.steps]
        stopped, failed = "failed", None
        with _warn.told_to(told.append):
            try:
                model.fit(part.x, part.context, rng=candidate.seed, **options)
                stopped = model.history.stopped
            except TrainingError as error:
                failed, model = error, None
        if model is not None:
            model._library = self.library
        late = "callback" in stopped
        seconds = time.perf_counter() - begun
        return Run(candidate, model, seconds, epochs, rows, cut or late, stopped, failed, told=told)

    def scores(self, model: Flow | Ensemble) -> Array:
        """Log-densities of the held-out rows, lattices with the same noise for every model."""
        rows = noised(self.held_out, self.lattice, self.seed, 1)
        log_prob: Array = model.log_prob(rows.x[:], rows.context).astype(np.float64)
        return log_prob

    def _rate(self, candidate: Candidate) -> float:
        """Seconds for each row and pass: of an earlier run, or of a few steps."""
        found = self.rates.get(candidate.name)
        if found is not None:
            return found
        rows = min(len(self.rows), math.ceil(PILOT_STEPS * self._batch_size() / (1 - INNER)))
        short = self.fitted(candidate, self.rows, 1, rows, math.inf, True)
        if short.model is not None and short.model.backend != "cpp":  # the first one compiles
            short = self.fitted(candidate, self.rows, 1, rows, math.inf, True)
        longer = self.fitted(candidate, self.rows, 1 + PILOT_PASSES, rows, math.inf, True)
        # What every fit takes, however short, is in both.
        seconds = max(longer.seconds - short.seconds, 0.2 * longer.seconds)
        self.rates[candidate.name] = rate = seconds / (PILOT_PASSES * rows)
        return rate

    def _batch_size(self) -> int:
        """Rows a step of a fit on all rows."""
        n_train = _n_train(len(self.rows))
        return min(self.options.get("batch_size") or default_batch_size(n_train), n_train)


def compared(log_prob: Array, other: Array | None, weight: Array | None) -> tuple[float, float]:
    """Mean of the differences of log-densities of the same rows, and its standard error; without others of one alone.

    With weights, and the effective size ``n = (sum w)^2 / sum w^2``: ``m = sum w d / sum w``, and the error
    ``sqrt(sum w (d - m)^2 / sum w / (n - 1))``.
    """
    with np.errstate(all="ignore"):
        values = log_prob if other is None else log_prob - other
        if other is not None:
            values = np.where(log_prob == other, 0.0, values)  # of rows that both call impossible
        if not np.isfinite(values).all():
            return float(mean(values, weight)), math.nan
        if len(values) < 2:
            return float(mean(values, weight)), math.nan
        middle, error = mean_with_error(values, weight)
    return float(middle), float(error)


def best_of(runs: Sequence[Run]) -> list[Run]:
    """Runs, the best score first; those without a score last."""
    return sorted(runs, key=lambda run: -math.inf if math.isnan(run.score) else run.score, reverse=True)


def ensemble_of(candidate: Candidate, n: int) -> Candidate:
    """So many members of a candidate, as one."""
    return Candidate(f"{n} x {candidate.name}", candidate.recipe, seeds(candidate.seed, n + 1)[-1], n)


def _n_train(rows: int) -> int:
    return max(1, rows - max(1, round(INNER * rows)))
