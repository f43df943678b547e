"""What changes in the course of a run, and what a checkpoint holds of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from penstock._typing import Array
from penstock.history import History
from penstock.training.mean import Mean
from penstock.training.schedule import Patience


@dataclass(frozen=True)
class Best:
    """The parameters that validate best so far."""

    loss: float
    params: Array
    epoch: int


@dataclass(frozen=True)
class Attempt:
    """Where the present attempt of a run began: a run that overfits begins again.

    Attributes
    ----------
    epoch, step : int
        Epochs and optimiser steps before it.
    weight_decay : float
    """

    epoch: int = 0
    step: int = 0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class State:
    """Where a run stands. It is replaced as a whole, so that whatever is raised, and when, leaves one that is consistent.

    Attributes
    ----------
    epoch : int
        Number of the epoch that is being trained.
    first : int
        Batches of that epoch that are done: with the seed, the position in the shuffle.
    step : int
        Optimiser steps until there. A batch that weighs nothing takes none.
    closed : int
        Epochs whose results are in the history. If the present one is among them, callbacks have yet to be told.
    lowest : float
        Lowest validation loss of an epoch of this run.
    start_loss : float
        Validation loss of the starting parameters of a later fit.
    patience : Patience
    mean : Mean or None
    best : Best or None
    ends : tuple of arrays
        Parameters at the ends of the last two epochs: the older ones have carried a whole epoch of finite losses.
    left_out : {"", "first", "later"}
        Whether rows are left out that lie absurdly far out: as a first fit does from the start, or a later one once it meets
        them.
    attempt : Attempt
        ``epoch`` counts on from one to the next, ``step``, which is Adam's, does not.
    """

    epoch: int = 1
    first: int = 0
    step: int = 0
    closed: int = 0
    lowest: float = np.inf
    start_loss: float = np.nan
    patience: Patience = field(default_factory=Patience)
    mean: Mean | None = None
    best: Best | None = None
    ends: tuple[Array, ...] = ()
    left_out: str = ""
    attempt: Attempt = Attempt()


@dataclass(frozen=True)
class Moment:
    """The whole state of a run at one moment: the state, and what stays in its place while training runs.

    Attributes
    ----------
    state : State
    history : History
        Its first ``state.closed`` epochs.
    losses : float64 array of shape (state.first,)
        Mean losses of the batches of the present epoch.
    params, m, v : arrays of shape (n_params,)
        The present parameters, and Adam's moments.
    start : array of shape (n_params,), optional
        Where the first attempt began, as long as a second one may begin there.
    """

    state: State
    history: History
    losses: Array
    params: Array
    m: Array
    v: Array
    start: Array | None = None
