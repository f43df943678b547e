"""What the rows of a table say of parameters: their mean loss, and whether their log-densities are finite."""

from __future__ import annotations

from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.runner import Runner
from penstock.training.rows import Part, Rows

EVALUATION = 1 << 17  # numbers of X in one chunk of validation rows
COMPARED_ROWS = 2000  # at most, of training and validation
LOOKED_AT = 1 << 14  # weights together, where rows that count are sought
CHECKED_ROWS = 64  # rows that the last parameters must give finite log-densities


def mean_loss(runner: Runner, packed: Any, part: Part) -> float:
    """Mean negative log-likelihood of some rows."""
    total, mass = loss_sums(runner, packed, part)
    return -total / mass


def loss_sums(runner: Runner, packed: Any, part: Part) -> tuple[float, float]:
    """Sums of the weighted log-densities of some rows, and of their weights."""
    rows = part.rows
    total = mass = 0.0
    for index in part.chunks(max(64, EVALUATION // rows.x.shape[1])):
        log_prob = _log_prob(runner, packed, index, rows)
        if rows.weight is None:
            total += float(log_prob.sum())
            mass += len(log_prob)
        else:
            weight = rows.scaled_weights(index)
            total += float((weight * np.where(weight == 0, 0.0, log_prob)).sum())
            mass += float(weight.sum())
    return total, mass


def differs(runner: Runner, packed: Any, train: Part, validation: Part) -> bool:
    """Whether training rows have higher log-densities than validation rows, by more than three standard errors.

    Means are weighted, and rows of weight 0 are not looked at.
    """
    mean, variance = [], []
    for part in (train, validation):
        index, rows = _counting(part, COMPARED_ROWS), part.rows
        log_prob = _log_prob(runner, packed, index, rows)
        weight = np.ones(len(log_prob)) if rows.weight is None else rows.scaled_weights(index)
        total = float(weight.sum())
        if not total > 0:  # nothing counts, or negative weights outweigh what was looked at
            return False
        mean.append(float((weight * log_prob).sum()) / total)
        variance.append(float(np.square(weight * (log_prob - mean[-1])).sum()) / total**2)
    return bool(mean[0] - mean[1] > 3 * np.sqrt(sum(variance)))


def finite_on(runner: Runner, packed: Any, part: Part) -> bool:
    """Whether the log-densities of the first rows that count are finite."""
    index = _counting(part, CHECKED_ROWS)
    return bool(np.isfinite(_log_prob(runner, packed, index, part.rows)).all())


def _counting(part: Part, most: int) -> Any:
    """An index of the first rows, at most so many, that have another weight than 0."""
    if part.rows.weight is None:
        return part.index(part.first, part.first + min(len(part), most))
    found: list[Array] = []
    for index in part.chunks(max(most, LOOKED_AT)):
        numbers = np.arange(index.start, index.stop) if isinstance(index, slice) else index
        found.append(numbers[part.rows.weight[numbers] != 0])
        if sum(map(len, found)) >= most:
            break
    return np.concatenate(found)[:most]


def _log_prob(runner: Runner, packed: Any, index: Any, rows: Rows) -> Array:
    if isinstance(index, slice):
        context = None if rows.context is None else rows.context[index]
        return runner.log_prob(packed, rows.x[index], context, dtype=np.dtype(np.float64))
    if not isinstance(rows.x, np.ndarray):  # a table that is seen otherwise than it lies
        context = None if rows.context is None else rows.context[index]
        return runner.log_prob(packed, rows.x[index], context, dtype=np.dtype(np.float64))
    return runner.log_prob(packed, rows.x, rows.context, index=index, dtype=np.dtype(np.float64))
