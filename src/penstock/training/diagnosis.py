"""Why training failed, and what a user should know of a run that did not: causes in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock._warn import DataWarning, OverfitWarning, TrainingWarning, warn
from penstock.columns import Names, called
from penstock.history import History
from penstock.plan import Plan
from penstock.training.outliers import EXTREME
from penstock.training.rows import Part, Rows, sides
from penstock.training.schedule import Schedule
from penstock.training.supports import Line

HEAVY = 1e4  # mean weights, beyond which a weight is
ROWS_PER_PARAMETER = 0.1  # fewer training rows a parameter are warned about
GAP = 0.1  # nats a dimension by which the losses of the kept epoch differ, where the density is far too narrow
FEW = 100  # rows, of equal weight, that others whose weights differ should at least be worth,
PART = 0.5  # or this part of them: where rows are few, it is not for their weights
FEW_VALIDATED = 30  # validation rows whose mean tells epochs apart badly


class TrainingError(RuntimeError):
    """Training cannot go on: a loss, gradient or parameter is NaN or infinite. The flow is as it was before ``fit``.

    Attributes
    ----------
    best : Flow or None
        A flow with the best validated parameters, without validation with the last good ones of the end of an epoch; None
        if there are none.
    history : History
        The record up to the failure.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> try:
    ...     ps.realnvp(2, rng=0).fit(X, epochs=9, learning_rate=1e39, warmup=0)
    ... except ps.TrainingError as error:
    ...     print(error.history.stopped)
    failed
    """

    best: Any = None
    history: History


def quantity(loss: float, norm: float) -> str:
    """Say which quantity of a step is not finite."""
    return f"the gradient became {norm}" if np.isfinite(loss) else f"the loss became {loss}"


def worst(
    rows: Rows, batch: Array, buffers: Array, weight_scale: float, names: tuple[Names, Names] = ((), ()), first: int = 0
) -> tuple[float, str, float]:
    """How many scales out the farthest number of a batch lies, which it is, and the largest weight in units of the mean one.

    ``first`` is the number of the first of the rows in the whole table.
    """
    heaviest = 1.0
    if rows.weight is not None:
        batch = batch[rows.weight[batch] != 0]
        heaviest = float(np.abs(rows.scaled_weights(batch)).max(initial=0.0)) * weight_scale
    return *extreme(rows, batch, buffers, names, first), heaviest


def cause(far: float, value: str, heaviest: float, rate: float) -> str:
    """The likely cause of a loss or gradient that is not finite, from the ``worst`` of its batch."""
    if not np.isfinite(far):
        return (
            f"{value}, although every value was finite when fit began: something has changed the array, which fit reads "
            "where it lies; a callback that works on it must take a copy"
        )
    if far > EXTREME:
        return (
            f"an extreme value: {value} lies {far:.3g} scales out; "
            "drop or clip such rows, or take the logarithm of the column"
        )
    if heaviest > HEAVY:
        return f"a sample_weight above {HEAVY:,.0f} times the mean weight; clip the weights or use larger batches"
    return f"a learning rate that is too high (it was {rate:.3g}); lower learning_rate or clip_norm"


def blown_up(what: str, epoch: int, schedule: Schedule) -> str:
    """Say that steps of finite losses have led to numbers that are not."""
    return (
        f"{what} became NaN or infinite in epoch {epoch}; likely cause: a learning rate that is too high "
        f"(at most {schedule.learning_rate:.3g}); lower learning_rate. The flow is as it was before"
    )


def extreme(
    rows: Rows, batch: Array, buffers: Array, names: tuple[Names, Names] = ((), ()), first: int = 0
) -> tuple[float, str]:
    """How many scales out the farthest number of some rows lies, infinite for NaN too, and which it is."""
    worst = (0.0, "")
    data, given = sides(rows.x, rows.context, buffers)
    for name, columns, array, loc_and_scale in (
        ("X", names[0], rows.x, data), ("context", names[1], rows.context, given),
    ):  # fmt: skip
        if array is None or len(batch) == 0:
            continue
        loc, scale = np.split(loc_and_scale, 2)
        u = np.abs((array[batch].astype(np.float64) - loc) / scale)
        u[np.isnan(u)] = np.inf
        i, j = np.unravel_index(int(np.argmax(u)), u.shape)
        if u[i, j] > worst[0]:
            value = array.given(int(batch[i]), int(j)) if isinstance(array, Line) else array[batch[i], j]
            worst = float(u[i, j]), f"{name}[{batch[i] + first}, {called(int(j), columns)}] = {value}"
    return worst


def warn_few_rows(plan: Plan, frozen: Array | None, n_train: int) -> None:
    """Warn of far more parameters than training rows: for a run without validation rows, which would show overfitting."""
    if n_train >= ROWS_PER_PARAMETER * plan.n_params:
        return
    free = plan.n_free - (0 if frozen is None else int(frozen[:, 1].sum()))
    if n_train < ROWS_PER_PARAMETER * free:
        warn(
            f"the flow has {free} free parameters, more than ten times the training rows ({n_train}), and without "
            "validation rows nothing shows whether it overfits; give some, use fewer layers or narrower hidden layers",
            TrainingWarning,
        )


def warn_of_weights(worth: Mapping[str, tuple[float, int]]) -> None:
    """Warn of rows that are worth few of equal weight: of effective sizes and numbers of rows, by what the rows are for."""
    few = {name: (size, n) for name, (size, n) in worth.items() if size < min(FEW, PART * n)}
    if not few:
        return
    told = " and ".join(f"the {n} {name} rows are worth {size:.3g}" for name, (size, n) in few.items())
    trouble = {
        "training": "the flow learns little more than the few rows of large weight",
        "validation": "chance chooses the epoch (validation=0 keeps the last one)",
    }
    so = ", and ".join(trouble[name] for name in few)
    warn(
        f"by their weights {told} rows of equal weight, (sum w)^2 / sum w^2, so that {so}; "
        "give more rows, or draw them from a density closer to the one that the weights aim at",
        DataWarning,
    )


def warn_of_outcome(
    validation: Part | None, size: float, history: History, beyond_chance: Callable[[], bool]
) -> None:  # fmt: skip
    """Warn of what the losses of a whole run on the validation rows say, which are worth ``size`` rows of equal weight.

    ``beyond_chance()`` looks again whether the flow that is kept is better on training rows than on these.
    """
    if validation is None or not len(history):
        return
    if history.best_epoch is None:
        warn("the validation loss was never finite; the flow keeps its last parameters", TrainingWarning)
        return
    if history.best_epoch == 0:
        lowest = min(history.validation_loss)
        if lowest > history.start_loss:
            warn(
                f"no epoch validated better than the starting parameters (lowest validation loss {lowest:.4g}, at the start "
                f"{history.start_loss:.4g}), and the flow keeps those; a lower learning_rate or more epochs may help, and "
                "flow.reset() forgets the earlier fit",
                TrainingWarning,
            )
        return
    if size < min(FEW_VALIDATED, PART * len(validation)):  # which do not tell whether it overfits
        return
    if history.overfits or (history.gap > GAP * validation.rows.x.shape[1] and beyond_chance()):
        cure = (
            "The parameters of that epoch are kept"
            if history.overfits
            else "Its density is too narrow for rows it has not seen"
        )
        warn(
            f"the flow overfits: {history.overfitting()}. {cure}; an ensemble (ps.Ensemble), more rows, "
            f"{'more weight_decay' if history.restarted else 'weight_decay=0.1'} or a smaller network help",
            OverfitWarning,
        )
