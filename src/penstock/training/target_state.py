"""What a checkpoint of a run towards a target holds besides that of a fit to data, and what makes two calls the same run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock._typing import Array
from penstock.files import model
from penstock.files.safetensors import need
from penstock.history import History
from penstock.runner import Runner
from penstock.targets import LogDensity, evaluated, shown
from penstock.training.checkpoint import START, VALUES, hash_of, hash_of_numbers
from penstock.training.contexts import Contexts
from penstock.training.options import Budget, TargetOptions
from penstock.training.state import Moment

if TYPE_CHECKING:
    from penstock.training.start import Start

PROBED = 8  # rows at which a target is told from another one,
SAME = 1e-6  # by relative differences above this

LISTS = ("elbo", "elbo_error", "ess", "pareto_k")  # of the history


@dataclass(frozen=True)
class Tally:
    """Draws of batches that were left out, and what is to be told at the end.

    Attributes
    ----------
    left_out, asked : int
    first : array of shape (dim,), or None
        The first draw that was left out.
    pareto_k : float
        Of the parameters that are kept; NaN without any.
    """

    left_out: int = 0
    asked: int = 0
    first: Array | None = None
    pareto_k: float = math.nan

    @property
    def shown(self) -> str:
        """The first draw that was left out, in a message."""
        return "" if self.first is None else shown(self.first)

    def add(self, x: Array, good: Array) -> Tally:
        """With the draws of a batch."""
        lost = len(good) - int(good.sum())
        first = self.first
        if lost and first is None:
            first = x[np.argmin(good)].astype(np.float64)
        return replace(self, left_out=self.left_out + lost, asked=self.asked + len(good), first=first)

    @classmethod
    def of(cls, contents: model.Contents) -> Tally:
        """As a checkpoint holds it."""
        numbers = contents.training.get("tally")
        need(
            numbers is not None and numbers.dtype == np.float64 and numbers.shape == (3,),
            "training.tally must be 3 numbers",
        )
        assert numbers is not None
        left_out, asked, pareto_k = numbers.tolist()
        return cls(int(left_out), int(asked), contents.training.get("lost"), pareto_k)


@dataclass(frozen=True)
class Probe:
    """What a target is at some rows.

    Attributes
    ----------
    x : array of shape (n, dim)
    context : float64 array of shape (n, context_dim), or None
    log_p : float64 array of shape (n,)
    """

    x: Array
    context: Array | None
    log_p: Array

    @classmethod
    def at(cls, x: Array, context: Array | None, log_p: Array) -> Probe:
        """Of the first rows of some where it is finite."""
        some = np.flatnonzero(np.isfinite(log_p))[:PROBED]
        return cls(x[some].copy(), None if context is None else context[some], log_p[some])

    @classmethod
    def of(cls, contents: model.Contents, target: LogDensity) -> Probe | None:
        """As a checkpoint holds it; raise if the target of this call is another one."""
        held = contents.training
        if "probe.x" not in held:
            return None
        probe = cls(held["probe.x"], held.get("probe.context"), held["probe.log_p"])
        if len(probe.x):
            now, _ = evaluated(target, probe.x, probe.context, gradient=False)
            if not np.allclose(now, probe.log_p, rtol=SAME, atol=SAME):
                raise ValueError(
                    "the checkpoint holds the run of another call: log_density is another one. Repeat that call to go on with "
                    "its run, or replace it with resume=False"
                )
        return probe


def tensors_of(history: History, closed: int, tally: Tally, probe: Probe | None) -> dict[str, Array]:
    """The arrays of a checkpoint that a fit to data has not."""
    tensors: dict[str, Array] = {
        "tally": np.array([tally.left_out, tally.asked, tally.pareto_k], np.float64),
        "start": np.frombuffer(history.start.encode(), np.uint8),
    }
    if closed:
        tensors["target"] = np.array([getattr(history, name)[:closed] for name in LISTS], np.float64)
    if tally.first is not None:
        tensors["lost"] = tally.first
    if probe is not None and len(probe.x):
        tensors |= {"probe.x": probe.x, "probe.log_p": probe.log_p}
        if probe.context is not None:
            tensors["probe.context"] = probe.context
    return tensors


def history_of(contents: model.Contents, moment: Moment) -> History:
    """The history of a run that is resumed."""
    history, closed = moment.history, moment.state.closed
    if closed:
        numbers = contents.training.get("target")
        fits = numbers is not None and numbers.dtype == np.float64 and numbers.shape == (len(LISTS), closed)
        need(fits, f"training.target must be float64 of shape ({len(LISTS)}, {closed})")
        assert numbers is not None
        for name, values in zip(LISTS, numbers.tolist(), strict=True):
            setattr(history, name, values)
    start = contents.training.get("start")
    need(start is not None and start.dtype == np.uint8, "training.start must be text")
    assert start is not None
    history.start = start.tobytes().decode()
    return history


def facts_of(
    begins: model.Contents,
    runner: Runner,
    options: TargetOptions,
    budget: Budget,
    start: Start | None,
    contexts: Contexts | None,
) -> dict[str, str]:
    """What decides the bits of a run besides its seed and its target, in words and hashes."""
    fit, schedule = options.fit, budget.schedule
    told: dict[str, str] = {
        "backend": runner.arithmetic,
        START: hash_of_numbers(begins.snapshot),
        "target": "a log-density",
    }
    told |= _init_facts(start) | _context_facts(contexts)
    return told | {
        "estimator": repr(options.estimator),
        "epochs": str(budget.epochs),
        "epoch_steps": str(options.epoch_steps),
        "batch_size": str(budget.batch_size),
        "validation": f"{options.validation} draws",
        "learning_rate": repr(fit.learning_rate),
        "schedule": repr(fit.schedule),
        "weight_decay": repr(fit.weight_decay),
        "clip_norm": repr(fit.clip_norm),
        "freeze": repr(sorted(fit.freeze)),
        "warmup": f"{schedule.warmup} steps",
        "patience": repr(schedule.patience),
    }


def _init_facts(start: Start | None) -> dict[str, str]:
    if start is None:
        return {"init": "a pilot"}
    return {
        "init": start.words,
        VALUES + "init": hash_of(*((start.loc, start.scale) if start.rows is None else (start.rows,))),
    }


def _context_facts(contexts: Contexts | None) -> dict[str, Any]:
    if contexts is None:
        return {}
    rows = contexts.rows
    if rows is None:
        return {"context": "a function"}
    return {"context": f"{rows.dtype.name} of shape {rows.shape}", VALUES + "context": hash_of(rows)}
