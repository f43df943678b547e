"""One training run: begun or resumed, and what is left of it. It gives a new snapshot, or raises."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from penstock import _validate
from penstock.files import model
from penstock.history import History
from penstock.lattice import Lattice
from penstock.runner import Runner
from penstock.state import Snapshot
from penstock.support import Support
from penstock.training.across import Spread
from penstock.training.checkpoint import Checkpoint, facts
from penstock.training.data import Data
from penstock.training.loop import Training, Watch
from penstock.training.options import Options
from penstock.training.progress import Progress
from penstock.training.sharded import ShardedTraining


def run(
    runner: Runner,
    snapshot: Snapshot,
    data: Data,
    options: Options,
    *,
    seed: int | None,
    support: Sequence[Support] = (),
    context_support: Sequence[Support] = (),
    lattice: Lattice | None = None,
    actnorms: Sequence[int] = (),
    progress: bool | Progress | None = None,
    watch: Watch | None = None,
    checkpoint: Checkpoint | None = None,
    contents: model.Contents | None = None,
) -> tuple[Snapshot, History]:
    """Train from a snapshot on the rows of ``data``, or go on with a run that a checkpoint holds.

    Parameters
    ----------
    runner : Runner
    snapshot : Snapshot
        Where training begins. If it is not initialised, standardisation and ActNorm are measured first.
    data : Data
        Rows that are finite where they count.
    options : Options
    seed : int or None
        Decides the split and the order of rows. None takes that of the run that is resumed, or a new one.
    support : sequence of Support
        Of the columns, or none where all are real.
    context_support : sequence of Support
        Of the conditioning variables.
    lattice : Lattice, optional
        Of the columns that noise is added to.
    actnorms : sequence of int
        Numbers of the ActNorm layers.
    progress : bool or Progress, optional
        As for ``Flow.fit``, or what shows it.
    watch : callable, optional
        Called after each epoch with the epoch, the present parameters and the history so far, which are its own; training
        stops if it returns True.
    checkpoint : Checkpoint, optional
        Where the state of the run is kept. A run that has ended leaves its snapshot there.
    contents : model.Contents, optional
        The model where training begins, for the checkpoint.

    Returns
    -------
    snapshot : Snapshot
    history : History

    Raises
    ------
    Exception
        Whatever is raised, a TrainingError or an error of ``watch`` or of the checkpoint, has two attributes more:
        ``history``, and ``best``, the snapshot that would have been kept, or None.
    """
    caller = np.geterr()
    # Underflow and overflow are part of the arithmetic here, whatever the caller's NumPy does about them.
    with np.errstate(all="ignore"):
        found = None if checkpoint is None else checkpoint.find()
        if seed is None:
            seed = _validate.seed(None) if found is None else found.seed
        kind = Training
        if isinstance(data, Spread):
            kind, seed = ShardedTraining, data.ranks.of_first(seed)
        training = kind(runner, snapshot, data, options, seed, checkpoint, (support, context_support), lattice)
        try:
            if checkpoint is not None and contents is not None:
                told = facts(contents, runner, data, options, training.budget)
                checkpoint.begin(found, contents, told, training.budget, seed)
            if found is not None and found.ended:
                return found.contents.snapshot, found.contents.history or History()
            if found is None:
                training.prepare(actnorms, options.standardize)
            else:
                training.restore(*found.resumed(runner.plan, training.budget))
            training.train(progress, _in_state(caller, watch))
            outcome = training.outcome() or snapshot
            if checkpoint is not None and training.history.stopped != "interrupted":
                checkpoint.finish(outcome, training.history)
        except BaseException as error:
            training.settle("failed")
            training.rescue(error)
            with suppress(Exception):  # an error that takes no attributes
                error.best, error.history = training.outcome(), training.history  # type: ignore[attr-defined]
            raise
        return outcome, training.history


def _in_state(state: Any, call: Any) -> Any:
    """``call`` under an error state of NumPy."""
    return call and np.errstate(**state)(call)
