"""The choice of a model that needs no expert: a few recipes, sizes and an ensemble, tried within a budget of time."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _validate, _warn, columns, training
from penstock._typing import ArrayLike, Rng, RowsLike
from penstock._warn import TrainingWarning
from penstock.candidates import candidates_of, checked
from penstock.ensemble import Ensemble
from penstock.flow import Flow
from penstock.members_fit import seeds
from penstock.support import SupportLike
from penstock.training.log import tell
from penstock.training.rows import Rows
from penstock.trials import Candidate, Run, Trials, best_of, compared, ensemble_of

# Parts of the time by whose end all candidates have run, the better half of them again, and the better half of those.
ROUNDS = (0.3, 0.45, 0.6)
LONGER = 1.5  # times as many passes make it worth while to run again
OPTIONS = (
    "batch_size", "clip_norm", "freeze", "learning_rate", "negative_weights", "patience", "schedule", "standardize", "warmup",
    "weight_decay",
)  # fmt: skip


@dataclass(frozen=True)
class Tried:
    """A row of the table of a selection.

    Attributes
    ----------
    what : str
        Name of the candidate; ``"4 x ..."`` is an ensemble.
    parameters : int
        Trainable numbers.
    seconds : float
        What the run took, by the clock on the wall.
    epochs, rows : int
        Passes that it was given, and the number of rows that it had, to train and to choose its epoch.
    log_prob, log_prob_error : float
        Mean over the rows that are held out, and its standard error; NaN where none are left (the last fit) or training failed.
    difference, error : float
        The same of ``log_prob`` less that of the best run, row by row. 0 for the best run itself.
    cut_short : bool
        Whether time left it fewer passes or rows than its options say.
    note : str
        "best", "the best, on all rows", why training failed, or "".
    """

    what: str
    parameters: int
    seconds: float
    epochs: int
    rows: int
    log_prob: float
    log_prob_error: float
    difference: float
    error: float
    cut_short: bool
    note: str = ""


@dataclass(frozen=True)
class Selection:
    """What :func:`select` has found; ``print`` gives a page.

    Attributes
    ----------
    best : Flow or Ensemble
        Of the run with the greatest likelihood of the held-out rows; trained again on all rows if ``refitted``.
    table : list of Tried
        All runs, the best first; behind them the last fit, of the best on all rows.
    refitted : bool
    seconds : float
        What everything took.
    budget : float or None
        What it was allowed to.
    held_out : int
        Number of rows on which runs are compared.
    """

    best: Flow | Ensemble
    table: list[Tried]
    refitted: bool
    seconds: float
    budget: float | None
    held_out: int

    def __str__(self) -> str:
        allowed = "" if self.budget is None else f" of {self.budget:.3g}"
        runs = [row for row in self.table if row.note != REFIT]
        first = runs[0]
        width = max(len("what"), *(len(row.what) for row in self.table))
        head = f"  {'what':{width}}  parameters  seconds  epochs     rows  log_prob   less the best"
        lines = [
            f"{first.what}, found in {self.seconds:.3g}{allowed} seconds; runs are compared on {self.held_out} rows that no fit "
            "has seen, row by row",
            "",
            head,
            *(_line(row, width) for row in self.table),
        ]
        told = []
        level = [row.what for row in runs[1:] if row.difference > -2 * row.error and row.what != first.what]
        if level:
            level = list(dict.fromkeys(level))
            told.append(f"Within two standard errors of the best: {', '.join(level)}.")
        if any(row.cut_short for row in self.table):
            told.append("* cut short: with more seconds it might do better.")
        if self.refitted:
            told.append("The best was trained again on all rows; no rows are left that could say what that gained.")
        else:
            told.append("The best is as it was compared: the rows of the comparison are not in it.")
        return "\n".join([*lines, "", *told])


REFIT = "the best, on all rows"


def _line(row: Tried, width: int) -> str:
    if math.isnan(row.log_prob):
        score, difference = "", row.note
    else:
        score = f"{row.log_prob:.4f}"
        difference = row.note or f"{row.difference:+.4f} ± {row.error:.4f}"
    star = "*" if row.cut_short else " "
    return (
        f"{star} {row.what:{width}}  {row.parameters:>10,}  {row.seconds:7.1f}  {row.epochs:6d}  {row.rows:7d}  {score:>8}   "
        f"{difference}"
    ).rstrip()


def select(
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    seconds: float | None = 60.0,
    recipes: Sequence[Any] | Mapping[str, Any] | None = None,
    ensemble: int = 4,
    support: SupportLike | None = None,
    context_support: SupportLike | None = None,
    sample_weight: ArrayLike | None = None,
    dequantize: str | Mapping[Any, Any] | Sequence[Any] | None = None,
    validation: float | RowsLike = 0.1,
    validation_context: RowsLike | None = None,
    validation_weight: ArrayLike | None = None,
    epochs: int | None = None,
    rng: Rng = None,
    progress: bool | None = None,
    **options: Any,
) -> Selection:
    """Try a few recipes, sizes and an ensemble within a budget of time, and return the one that describes held-out rows best.

    Some rows are set aside, the same for all: no fit sees them, neither to train nor to choose its epoch. Runs are compared by
    their log-densities of these rows, row by row, which tells much smaller differences than the errors of the means do.

    Parameters
    ----------
    X, context
        As for :meth:`Flow.fit`, tables included. What fits read are copies.
    seconds : float or None, default 60
        The budget, by the clock on the wall. None sets none: every candidate is fitted once, to its end.
    recipes : sequence or mapping, optional
        What is tried. Names of recipes, such as ``"nsf"``, which are built at their default size; unfitted flows; and
        callables, ``recipe(rng=seed)``, that return one. A mapping names them. By default ``nsf_ar`` at its default size,
        with ``layers=3, hidden=(32, 32)`` and with ``hidden=(128, 128)``, and where there are several columns ``nsf``, ``maf``
        and ``realnvp``.
    ensemble : int, default 4
        Members of an ensemble of the best candidate, which is tried last; 1 tries none.
    support, context_support
        As for every recipe, of candidates that are given by name; others have theirs.
    sample_weight, dequantize
        As for :meth:`Flow.fit`. Weights count in the comparison, too, and values of lattices get the same noise in all.
    validation : float, array or table, default 0.1
        The rows that are compared on: a fraction, above 0, or rows of one's own. Of the other rows every fit sets a tenth aside
        to choose its epoch.
    validation_context, validation_weight
        Of validation rows of one's own, as for :meth:`Flow.fit`.
    epochs : int, optional
        Passes that a run is given where time allows it; by default what :meth:`Flow.fit` would do.
    rng : seed or numpy Generator, optional
        Decides what is held out, and the seeds of all runs.
    progress : bool, optional
        A progress bar for each run, as for :meth:`Flow.fit`.
    **options
        Of every fit: ``batch_size``, ``clip_norm``, ``freeze``, ``learning_rate``, ``negative_weights``, ``patience``,
        ``schedule``, ``standardize``, ``warmup``, ``weight_decay``.

    Returns
    -------
    Selection
        ``best``, a Flow or an Ensemble; ``table``, what was tried; and a page of text.

    Raises
    ------
    ValueError, TypeError
        When an argument does not fit; the message names it. Of the rows as :meth:`Flow.fit`.
    TrainingError
        When every candidate fails.

    Warns
    -----
    DataWarning, TrainingWarning
        What the fit of the returned model has to say, and when Ctrl-C has ended the search: the best so far is then returned.

    Notes
    -----
    Time is shared by successive halving. In the first 0.3 of it every candidate runs once, with equal shares of what is left;
    a fit that ends sooner leaves the rest to those after it. Until 0.45 the better half of them runs again, from the start and
    for longer, as far as they were cut short, and until 0.6 the better half of those. Half of the remainder is for the ensemble
    of the best, and the rest for a last fit of the winner on all rows, those of the comparison included, which only happens if
    it gets at least as many passes as the winner had. A share becomes a number of passes, or where it is less than one a number
    of rows, by the speed of a few steps, so that the learning rate falls to zero in time; a run that takes a fifth longer than
    its share is stopped at the end of its epoch and keeps the best that it has, and such a last fit is dropped. Candidates run
    one after another, each with all threads. So how long everything takes is close to ``seconds`` or less, not bounded by them.

    The outcome depends on how fast the machine is and what else it does, and is not the same bit for bit in another run,
    unless ``seconds`` is None: then ``epochs``, or the default of ``fit``, alone decide how long runs are.

    The score of the best is the greatest of several, and so slightly too good; judge what is returned on rows of their own.

    References
    ----------
    Jamieson, Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization" (2016), algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> a, b = np.random.default_rng(0).normal(size=(2, 600))
    >>> X = {"a": a, "b": np.sin(3 * a) + 0.1 * b}
    >>> small = {"wavy": ps.nsf_ar(2, layers=2, hidden=(8,)), "rigid": ps.nice(2, layers=2, hidden=(2,))}
    >>> found = ps.select(X, seconds=None, epochs=20, recipes=small, ensemble=1, rng=0)
    >>> found.table[0].what, found.best.columns, found.refitted
    ('wavy', ('a', 'b'), True)
    """
    begun = time.perf_counter()
    if seconds is not None:
        seconds = _validate.positive_number(seconds, name="seconds")
    ensemble = _validate.positive_int(ensemble, name="ensemble")
    settings = _settings(epochs, options)
    split, noise, first = seeds(_validate.seed(rng), 3)
    dim, context_dim = _width(X, "X"), 0 if context is None else _width(context, "context")
    supports = {"support": support, "context_support": context_support}
    candidates = candidates_of(recipes, dim, context_dim, supports, first)
    flow = checked(candidates, dim, context_dim)
    if validation is None or (isinstance(validation, (bool, int, float, np.number)) and not 0 < float(validation) < 1):
        raise ValueError(f"validation must be a fraction above 0 and below 1, or rows, got {validation!r}")
    data = training.training_data(
        X, context, sample_weight, validation, validation_context, validation_weight, dim=dim, context_dim=context_dim,
        columns=flow._columns, context_columns=flow._context_columns,
        negative_weights=settings.get("negative_weights", False),
    )  # fmt: skip
    data.check_finite()
    lattice = training.lattice_of(data, dequantize, None, flow.spec.support, fitted=False)
    data.check_inside(flow.spec.support, lattice, flow.spec.context_support)
    rows, held_out = _parts(data, split)
    names = data.columns, data.context_columns
    trials = Trials(
        rows,
        held_out,
        names,
        data.library,
        lattice,
        noise,
        settings | {"progress": progress},
        epochs,
        seconds is not None,
    )
    search = _Search(trials, begun, math.inf if seconds is None else seconds)
    search.through(candidates, ensemble)
    run = search.best()
    again = search.again(run)
    for told in (again or run).told:
        _warn.issue(told)
    model = (again or run).model
    assert model is not None
    return Selection(
        model, _table(trials, again), again is not None, time.perf_counter() - begun, seconds, len(held_out)
    )


class _Search:
    """The order of the runs, and the clock."""

    def __init__(self, trials: Trials, begun: float, seconds: float) -> None:
        self.trials, self._begun, self._seconds = trials, begun, seconds
        self.interrupted = False

    def through(self, candidates: Sequence[Candidate], ensemble: int) -> None:
        """Run candidates, the better ones again, and an ensemble of the best."""
        left = list(candidates)
        for until in ROUNDS if self._seconds < math.inf else (1.0,):
            self._round(left, until)
            # By the best run of each.
            order = list(dict.fromkeys(run.candidate for run in best_of(self.trials.runs) if run.model is not None))
            left = [own for own in order if own in left][: (len(left) + 1) // 2]
        if ensemble > 1 and not self.interrupted:
            winner = self.best().candidate
            several = ensemble_of(winner, ensemble)
            self._round([several], (1 + self._spent()) / 2)

    def _round(self, candidates: Sequence[Candidate], until: float) -> None:
        """Run each of them, with equal shares of the time that is left until a part of all of it has gone.

        One whose run was not cut short, or that would not have much longer now, does not run again.
        """
        for k, candidate in enumerate(candidates):
            if self.interrupted:
                return
            share = self._seconds
            if share < math.inf:
                share = (until - self._spent()) * self._seconds / (len(candidates) - k)
            before = [run for run in self.trials.runs if run.candidate is candidate]
            if before:
                epochs, rows, _ = self.trials.planned(candidate, share, len(self.trials.rows))
                if not before[-1].cut_short or epochs * rows < LONGER * before[-1].epochs * before[-1].rows:
                    continue
            try:
                run = self.trials.run(candidate, share)
            except KeyboardInterrupt:
                if not any(run.model is not None for run in self.trials.runs):
                    raise
                self.interrupted = True
                return
            self.interrupted = "interrupted" in run.stopped
            tell("select: %s, %.1f s, log_prob %.4f", candidate.name, run.seconds, run.score)

    def best(self) -> Run:
        """The run with the best score."""
        run = best_of(self.trials.runs)[0]
        if run.model is None:
            assert run.error is not None
            raise run.error
        return run

    def again(self, run: Run) -> Run | None:
        """The winner once more, on all rows; None where time does not allow it, or it fails."""
        found = None
        if not self.interrupted:
            try:
                found = self._last(run)
            except KeyboardInterrupt:  # before its first step
                self.interrupted = True
        if found is not None:
            self.interrupted = "interrupted" in found.stopped
        if self.interrupted:
            _warn.warn("select was interrupted, and returns the best that it has found so far", TrainingWarning)
            return None
        return None if found is None or found.model is None or "callback" in found.stopped else found

    def _last(self, run: Run) -> Run | None:
        trials = self.trials
        table = _joined(trials.rows, trials.held_out)
        left = (1 - self._spent()) * self._seconds if self._seconds < math.inf else math.inf
        epochs, rows, cut = trials.planned(run.candidate, left, len(table))
        if epochs < run.epochs or rows < run.rows:
            return None
        longer = [own for own in trials.runs if own.candidate is run.candidate and own.epochs > run.epochs]
        if longer:  # which did worse
            epochs, cut = run.epochs, run.cut_short
        return trials.fitted(run.candidate, table, epochs, rows, left, cut)

    def _spent(self) -> float:
        """The part of the time that has gone."""
        return (time.perf_counter() - self._begun) / self._seconds


def _settings(epochs: int | None, options: dict[str, Any]) -> dict[str, Any]:
    """Options of every fit, checked."""
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f"select takes no argument {name!r}; of those of fit it takes {', '.join(OPTIONS)}")
    known = {name: value.default for name, value in inspect.signature(Flow.fit).parameters.items()}
    checked = {name: options.get(name, known[name]) for name in OPTIONS if name != "negative_weights"}
    training.Options(epochs=epochs, **checked)
    return dict(options)


def _width(table: Any, name: str) -> int:
    """How many columns a table has."""
    values = _validate.reals(columns.read(table, (), 0, name=name).values, name=name)
    if values.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (rows, dim), got {values.shape}")
    return int(values.shape[1]) if values.ndim == 2 else 1


def _parts(data: training.Data, seed: int) -> tuple[Rows, Rows]:
    """Rows to train on in random order, and those that are held out; without those of weight 0."""
    rows = data.rows
    order = np.random.default_rng(seed).permutation(len(rows))
    if data.held_out is not None:
        return _counted(rows, order), _counted(data.held_out, np.arange(len(data.held_out)))
    order = order if rows.weight is None else order[rows.weight[order] != 0]
    n_train = len(order) - max(1, round((1 - data.n_train / len(rows)) * len(order)))
    if n_train < 2:
        raise ValueError(f"select needs at least 2 rows to train on, beside those of validation, got {max(n_train, 0)}")
    return rows.take(order[:n_train]), rows.take(order[n_train:])


def _counted(rows: Rows, order: Any) -> Rows:
    return rows.take(order if rows.weight is None else order[rows.weight[order] != 0])


def _joined(first: Rows, other: Rows) -> Rows:
    """The rows of both."""
    context = None if first.context is None or other.context is None else np.concatenate([first.context, other.context])
    weight = None
    if first.weight is not None or other.weight is not None:
        weight = np.concatenate([np.ones(len(own)) if own.weight is None else own.weight for own in (first, other)])
    return Rows(np.concatenate([first.x, other.x]), context, weight)


def _table(trials: Trials, again: Run | None) -> list[Tried]:
    """All runs against the best."""
    runs = best_of(trials.runs)
    best, weight = runs[0], trials.held_out.weight
    found = []
    for run in [*runs, *([again] if again else [])]:
        difference, error = math.nan, math.nan
        if run is best:
            difference, error = 0.0, 0.0
        elif run.model is not None and run is not again:
            difference, error = compared(run.log_prob, best.log_prob, weight)
        note = "best" if run is best else REFIT if run is again else ""
        if run.error is not None:
            note = f"failed: {run.error}"
        parameters = 0 if run.model is None else run.model.n_free
        found.append(
            Tried(
                run.candidate.name, parameters, run.seconds, run.epochs, run.rows, run.score, run.score_error, difference, error,
                run.cut_short, note,
            )
        )  # fmt: skip
    return found
