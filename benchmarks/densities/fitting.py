"""What the scripts of this folder share: each fits one density of its library to one table with one seed.

A script has ``MODELS``, a function a name, which takes the training and validation rows and a seed, and gives a
:class:`Fitted`; a model of angles also takes where the turn of each column begins and ends. ``serve`` runs one of them for
``quality.py``. The flows of all peers get the same budget: Adam with rate 1e-3, batches of 256 rows, at most 200 epochs, and
the epoch is kept that has the best validation likelihood. Some have a constant rate and stop after 20 epochs without a
better one; the others ("cosine") fall to zero over all 200.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

LAYERS, HIDDEN, BINS, BOUND = 5, (64, 64), 8, 5.0
RATE, BATCH, EPOCHS, PATIENCE = 1e-3, 256, 200, 20


@dataclass
class Fitted:
    """A density after training.

    ``score`` gives log-densities of rows; ``validation`` is the mean of the kept one over the validation rows;
    ``seconds`` and ``curve`` are time since the start and validation likelihood, an entry an epoch.
    """

    score: Callable[[Array], Array]
    validation: float
    seconds: list[float] = field(default_factory=list)
    curve: list[float] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)


Model = Callable[[Array, Array, int], Fitted]
CircleModel = Callable[[Array, Array, int, Array], Fitted]  # the last one: circles, (columns, 2), NaN for lines


def rates(cosine: bool, n_rows: int) -> Array:
    """The learning rate of every step of all epochs, (epochs, steps)."""
    steps = -(-n_rows // BATCH)
    progress = np.arange(EPOCHS * steps) / (EPOCHS * steps)
    rate = RATE * 0.5 * (1 + np.cos(np.pi * progress)) if cosine else np.full(len(progress), RATE)
    return rate.reshape(EPOCHS, steps)


def angles(rows: Array, circles: Array) -> Array:
    """Rows whose columns are all on circles as angles in [-pi, pi), the beginning of the turn at -pi."""
    lo, hi = circles.T
    turns = (rows - lo) / (hi - lo)
    return np.pi * (2 * (turns - np.floor(turns)) - 1)


def log_slope(circles: Array) -> float:
    """What a log-density of ``angles`` lacks to be one of the rows."""
    return float(np.log(2 * np.pi / (circles[:, 1] - circles[:, 0])).sum())


def train_by_epochs(
    one_epoch: Callable[[int], None],
    validate: Callable[[], float],
    keep: Callable[[], Any],
    score: Callable[[Any, Array], Array],
    cosine: bool,
) -> Fitted:
    """Run epochs and validate after each. ``keep`` gives the present model, ``score`` its log-densities."""
    best, kept, since = -np.inf, keep(), 0
    seconds: list[float] = []
    curve: list[float] = []
    start = time.perf_counter()
    for epoch in range(EPOCHS):
        one_epoch(epoch)
        value = validate()
        seconds.append(time.perf_counter() - start)
        curve.append(value)
        if value > best:
            best, kept, since = value, keep(), 0
        else:
            since += 1
            if since >= PATIENCE and not cosine:
                break
    return Fitted(lambda rows: score(kept, rows), best, seconds, curve)


def serve(
    models: dict[str, Model],
    versions: Callable[[], dict[str, str]],
    some_circles: dict[str, CircleModel] | None = None,
    all_circles: dict[str, CircleModel] | None = None,
) -> None:
    """With TABLE alone list the models that fit it; with TABLE MODEL SEED OUTPUT fit that one, and write what came of it.

    The table is an .npz file with ``train``, ``validation``, ``circles``, and ``test`` where test rows are to be scored.
    Models in ``some_circles`` want a table of which a column is an angle, those in ``all_circles`` one that has no other columns.
    """
    table, *rest = sys.argv[1:]
    parts = np.load(table)
    circles = parts["circles"]
    given = np.isfinite(circles).all(axis=1)
    for known, wanted in ((some_circles, given.any()), (all_circles, given.all())):
        if wanted:
            models = models | {name: partial(model, circles=circles) for name, model in (known or {}).items()}
    if not rest:
        print("\n".join(models))
        return
    name, seed, output = rest
    start = time.perf_counter()
    fitted = models[name](parts["train"], parts["validation"], int(seed))
    total = time.perf_counter() - start
    scores = {"test": np.array(fitted.score(parts["test"]), np.float64)} if "test" in parts.files else {}
    about = {"validation": fitted.validation, "total": total, **fitted.about, "versions": versions()}
    np.savez(output, seconds=fitted.seconds, curve=fitted.curve, about=json.dumps(about), **scores)
    print(f"validation {fitted.validation:.4f}, {len(fitted.curve)} epochs, {total:.1f} s")
