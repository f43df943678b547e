"""Checkpoints: the whole state of a run in a model file, and whether a call is the one that began it.

The file is a model of the best flow so far, with tensors ``training.*`` beside it; ``docs/file-format.md`` lists them. A run
that has ended leaves a plain model. What makes two calls the same run stands in ``facts``, in words.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from typing import Any

import numpy as np

from penstock._files import check_writable, remove_stale
from penstock._typing import Array
from penstock.files import members, model, safetensors
from penstock.files.safetensors import need, whole
from penstock.history import Epoch, History
from penstock.plan import Plan
from penstock.runner import Runner
from penstock.spec import FlowSpec
from penstock.state import Snapshot
from penstock.training.data import Data
from penstock.training.log import tell
from penstock.training.mean import Mean
from penstock.training.options import Budget, Options
from penstock.training.rows import Rows
from penstock.training.schedule import Patience
from penstock.training.state import Attempt, Best, Moment, State

VERSION = 1  # of the record
HASHED_ROWS = 4096  # rows of each table that tell it from another one,
HASHED_KEY = 0x9E3779B97F4A7C15  # chosen by this key, whatever the seed of the run
VALUES = "values of "  # begins the name of a fact that is a hash
START = "starting parameters"
AGAIN = "resumed from"  # in the record: the parameters of the last call that went on with other ones
MISSING = {"bootstrap": "False"}  # what facts are where they are not told, else "none"
DERIVED = ("warmup", "patience")  # facts that others may change: told where nothing else is


class Checkpoint:
    """The file that the state of a run is kept in.

    Parameters
    ----------
    path : str
    every : int, optional
        Batches between two writes, besides those at the end of an epoch.
    resume : bool
        Whether to go on with the run that the file holds.
    """

    def __init__(self, path: str, *, every: int | None, resume: bool) -> None:
        self.path, self.every = path, every
        self.resume = resume
        self._template: model.Contents
        self._facts: dict[str, str] = {}
        self._seed = 0
        self._more: dict[str, Any] = {}  # what else the record says

    def check_writable(self) -> None:
        """Raise unless the file can be written, before any work."""
        check_writable(self.path)

    def find(self) -> Found | None:
        """The run that the file holds, if it holds one that has not ended."""
        if not self.resume or not os.path.exists(self.path) or os.path.getsize(self.path) == 0:
            return None
        try:
            contents = members.load(self.path)
            if isinstance(contents, members.Several):
                what = "the run of an ensemble" if any(own.training for own in contents.members) else "an ensemble"
                raise ValueError(f"the checkpoint {self.path!r} holds {what}, and this is one flow")
            return Found.of(contents)
        except ValueError as error:
            error.add_note("fit(checkpoint=...) goes on with the run in that file; resume=False replaces it")
            raise

    def begin(
        self,
        found: Found | None,
        template: model.Contents,
        facts: dict[str, str],
        budget: Budget,
        seed: int,
    ) -> None:
        """Note what this run is; raise unless a run that was found is the same one.

        ``template`` is the model where the run begins: the file has its spec and its names.
        """
        self._remove_stale()
        self._template, self._seed, self._facts = template, seed, facts
        if found is None:
            return
        different = found.differences(template, seed, self._facts)
        if different:
            raise ValueError(
                f"the checkpoint {self.path!r} holds the run of another call: {'; '.join(different)}. Repeat that call to go on "
                "with its run, or replace it with resume=False"
            )
        self._facts = found.record["facts"]
        if found.ended:
            return
        if facts[START] != self._facts[START]:
            self._more[AGAIN] = facts[START]
        state = found.record["state"]
        began = state.get("attempt")  # not checked yet
        earlier = began["epoch"] if isinstance(began, dict) and whole(began.get("epoch")) else 0
        tell(
            "resumes the run in %r: epoch %d of %d, batch %d of %d", self.path, state["epoch"], earlier + budget.epochs,
            state["first"], budget.steps_per_epoch,
        )  # fmt: skip

    def write(self, snapshot: Snapshot, moment: Moment, more: Mapping[str, Array] | None = None) -> None:
        """Replace the file by the state of the run and the flow that it would leave if it ended here; ``more`` are tensors."""
        training = {"record": self._record(_scalars(moment.state)), **_tensors(moment), **(more or {})}
        self._save(replace(self._template, snapshot=snapshot, history=moment.history, training=training))

    def finish(self, snapshot: Snapshot, history: History) -> None:
        """Replace the file by a plain model."""
        self._save(replace(self._template, snapshot=snapshot, history=history))

    def _record(self, state: dict[str, Any]) -> Array:
        """What the run is, and where it stands, as bytes."""
        record = {"version": VERSION, "seed": self._seed, "facts": self._facts, "state": state, **self._more}
        return np.frombuffer(json.dumps(record, separators=(",", ":"), allow_nan=False).encode(), np.uint8)

    def _remove_stale(self) -> None:
        remove_stale(self.path)

    def _save(self, contents: model.Contents) -> None:
        model.save(self.path, model.to_bytes(contents), anything=not self.resume)


@dataclass(frozen=True)
class Found:
    """A run that was found in a file.

    Attributes
    ----------
    contents : model.Contents
    record : dict
        The seed, the facts of the call that began it, and the numbers of its state.
    """

    contents: model.Contents
    record: dict[str, Any]

    @classmethod
    def of(cls, contents: model.Contents) -> Found | None:
        """The run in the contents of a file, if there is one."""
        return cls(contents, _record(contents)) if contents.training else None

    @property
    def ended(self) -> bool:
        """Whether this run of an ensemble is over, while others are not."""
        return bool(self.record.get("ended", False))

    @property
    def seed(self) -> int:
        """What decides the split and the order of rows."""
        seed: int = self.record["seed"]
        return seed

    def differences(self, start: model.Contents, seed: int, now: Mapping[str, str]) -> list[str]:
        """What tells a call from the one that began this run, in words."""
        told = _other_flow(self.contents.spec, start.spec)
        if told:
            return told
        before = self.record["facts"]
        # Whether rows are drawn decides the weights, too.
        implied = ("sample_weight",) if before.get("bootstrap") != now.get("bootstrap") else ()
        # A flow that was loaded from the checkpoint, or that an interrupted fit has left, is where the run stands; or where it
        # stood when the last call went on with it, which an error has ended.
        stands = hash_of_numbers(self.contents.snapshot), self.record.get(AGAIN)
        if before[START] != now[START] and now[START] not in stands:
            told.append(
                "the flow begins with other parameters (build it with rng=seed, so that they are the same every time, or take "
                "penstock.load of the checkpoint)"
            )
        for name in before | dict(now):
            old, new = (facts.get(name, MISSING.get(name, "none")) for facts in (before, now))
            if name == START or old == new or (name in DERIVED and told) or name.removeprefix(VALUES) in implied:
                continue
            if not name.startswith(VALUES):
                told.append(f"{name} was {old} and is {new}")
            elif before.get(name.removeprefix(VALUES)) == now.get(name.removeprefix(VALUES)):
                told.append(f"the {name} are others")
        if seed != self.seed:
            told.append("rng is another one")
        return told

    def resumed(self, plan: Plan, budget: Budget) -> tuple[Moment, Array]:
        """Where the run stands, and its standardisation."""
        try:
            return _moment(self.contents, self.record["state"], plan, budget), self.contents.snapshot.buffers
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the training state of the checkpoint cannot be used: {error}") from error


# --- what makes two calls the same run --------------------------------------------------------------------------


def facts(
    start: model.Contents, runner: Runner, data: Data, options: Options, budget: Budget
) -> dict[str, str]:  # fmt: skip
    """What decides the bits of a run besides its seed, in words and hashes."""
    told = {"backend": runner.arithmetic, START: hash_of_numbers(start.snapshot)}
    for word, columns in (("columns", start.columns), ("context_columns", start.context_columns)):
        if columns:
            told[word] = ", ".join(map(repr, columns))
    told |= _of_rows(runner, data.rows, ("X", "context", "sample_weight"))
    if data.held_out is None:
        told["validation"] = f"{len(data.rows) - data.n_train} of the rows"
    else:
        told |= _of_rows(runner, data.held_out, ("validation", "validation_context", "validation_weight"))
    schedule = budget.schedule
    return told | {
        "epochs": str(budget.epochs),
        "batch_size": str(budget.batch_size),
        "learning_rate": repr(options.learning_rate),
        "schedule": repr(options.schedule),
        "weight_decay": repr(options.weight_decay),
        "clip_norm": repr(options.clip_norm),
        "standardize": repr(options.standardize),
        "freeze": repr(sorted(options.freeze)),
        "warmup": f"{schedule.warmup} steps",
        "patience": repr(schedule.patience),
        **data.more_facts(),
        **({"dequantize": start.lattice.described(start.columns)} if start.lattice is not None else {}),
    }


def _of_rows(runner: Runner, rows: Rows, names: tuple[str, str, str]) -> dict[str, str]:
    """Shapes, dtypes and a hash of some rows of a table, its context and its weights, under their names."""
    n, told = len(rows), {}
    index = runner.row_order(HASHED_KEY, 0, n, range(min(n, HASHED_ROWS)))
    for name, array in zip(names, (rows.x, rows.context, rows.weight), strict=True):
        if array is not None:
            told[name] = f"{array.dtype.name} of shape {array.shape}"
            told[VALUES + name] = hash_of(array[index])
    return told


def hash_of(*arrays: Array) -> str:
    """A hash of numbers, the same on every machine."""
    digest = blake2b(digest_size=16)
    for array in arrays:
        digest.update(array.astype(array.dtype.newbyteorder("<"), order="C", copy=False).tobytes())
    return digest.hexdigest()


def hash_of_numbers(snapshot: Snapshot) -> str:
    """A hash of the numbers of a flow."""
    return hash_of(snapshot.params, snapshot.buffers, np.array([snapshot.initialised], np.uint8))


def _other_flow(old: FlowSpec, new: FlowSpec) -> list[str]:
    """In what the specs of two flows differ."""
    if old == new:
        return []
    parts: list[tuple[str, Any, Any]] = [
        ("dtype", old.dtype, new.dtype),
        ("base", old.base, new.base),
        ("context_dim", old.context_dim, new.context_dim),
        ("embedding", (old.embedding, old.embedding_dim), (new.embedding, new.embedding_dim)),
        ("support", ", ".join(map(str, old.support)) or "real", ", ".join(map(str, new.support)) or "real"),
        (
            "context_support",
            ", ".join(map(str, old.context_support)) or "real",
            ", ".join(map(str, new.context_support)) or "real",
        ),
        ("number of layers", len(old.layers), len(new.layers)),
    ]
    told = [f"the flow is another one ({name} was {a} and is {b})" for name, a, b in parts if a != b]
    for number, (before, now) in enumerate(zip(old.layers, new.layers, strict=False)):
        if before != now and not told:
            told.append(
                f"the flow is another one (layer {number} was {before} and is {now}; what is random in it is drawn from the rng "
                "that it was built with)"
            )
    return told


# --- the state as tensors and numbers ---------------------------------------------------------------------------


def _scalars(state: State) -> dict[str, Any]:
    """The numbers of a state for JSON, which has neither NaN nor infinity: floats are written as Python writes them."""
    best, began = state.best and {"loss": repr(state.best.loss), "epoch": state.best.epoch}, state.attempt
    return {
        "epoch": state.epoch,
        "first": state.first,
        "step": state.step,
        "closed": state.closed,
        "lowest": repr(float(state.lowest)),
        "start_loss": repr(float(state.start_loss)),
        "factor": repr(state.patience.factor),
        "since_best": state.patience.since_best,
        "since_drop": state.patience.since_drop,
        "mean": state.mean and state.mean.count,
        "best": best,
        "ends": 0 if best else len(state.ends),
        **({"left_out": state.left_out} if state.left_out else {}),
        **({"attempt": {**asdict(began), "weight_decay": repr(began.weight_decay)}} if began.epoch else {}),
    }


def _tensors(moment: Moment) -> dict[str, Array]:
    """The arrays of a moment. The best parameters are those of the model, and with them nobody asks for the ends of epochs."""
    state, history = moment.state, moment.history
    tensors = {"params": moment.params, "m": moment.m, "v": moment.v}
    if state.mean is not None:
        tensors["mean"] = state.mean.params
    if moment.start is not None:
        tensors["restart"] = moment.start
    if state.best is None:
        tensors |= {f"end.{number}": params for number, params in enumerate(state.ends)}
    if state.first:
        tensors["losses"] = moment.losses
    if state.closed:
        validation = history.validation_loss or [math.nan] * state.closed
        lists = (history.step, history.train_loss, validation, history.learning_rate)
        tensors["history"] = np.array(lists, np.float64)
    return tensors


def progress_of(contents: model.Contents) -> tuple[int, int, int]:
    """The present epoch of a run that a file holds, 0 if it is over, how many there are to be, and the steps done.

    A second attempt counts on from the first one.
    """
    record = _record(contents)
    state, epochs = record["state"], int(record["facts"]["epochs"])
    if record.get("ended"):
        return 0, epochs, 0
    began = state.get("attempt", {"epoch": 0, "step": 0})
    return int(state["epoch"]), int(began["epoch"]) + epochs, int(began["step"]) + int(state["step"])


def _record(contents: model.Contents) -> dict[str, Any]:
    """The record of a file, checked as far as everybody needs it."""
    tensor = contents.training.get("record")
    need(tensor is not None and tensor.dtype == np.uint8, "it has a training state without a record")
    assert tensor is not None
    record = safetensors.parse(tensor.tobytes(), "the training record")
    need(isinstance(record, dict) and type(record.get("version")) is int, "the training record has no version")
    need(
        record["version"] == VERSION,
        f"its training state is of version {record['version']}, and this penstock resumes version {VERSION}",
    )
    fits = whole(record.get("seed")) or (type(record.get("seed")) is int and 0 <= record["seed"] < 2**64)
    told = record.get("facts")
    fits = fits and isinstance(told, dict) and START in told and all(isinstance(value, str) for value in told.values())
    need(fits and isinstance(record.get("state"), dict), "the training record lacks what it needs")
    checked: dict[str, Any] = record
    return checked


def _moment(contents: model.Contents, scalars: Mapping[str, Any], plan: Plan, budget: Budget) -> Moment:
    """The moment that a file holds, checked against the run that it is to go on with."""
    for name in ("epoch", "first", "step", "closed", "since_best", "since_drop", "ends"):
        need(whole(scalars[name]), f"{name} must be an integer of at least 0")
    epoch, first, closed = scalars["epoch"], scalars["first"], scalars["closed"]
    steps, began = budget.steps_per_epoch, scalars.get("attempt", {"epoch": 0, "step": 0, "weight_decay": "0"})
    need(whole(began["epoch"]) and whole(began["step"]), "attempt must have integers of at least 0")
    attempt = Attempt(began["epoch"], began["step"], float(began["weight_decay"]))
    fits = 1 <= epoch - attempt.epoch <= budget.epochs and first <= steps and closed in (epoch - 1, epoch)
    need(fits and (closed < epoch or first == steps), "its position does not lie in the run")

    def tensor(name: str, dtype: Any, *shape: int) -> Array:
        if 0 in shape:
            return np.zeros(shape, dtype)
        array = contents.training[name]
        need((array.dtype, array.shape) == (dtype, shape), f"training.{name} must be {dtype} of shape {shape}")
        return array

    n, dtype = plan.n_params, plan.dtype
    kept, mean = scalars["best"], scalars["mean"]
    best = None
    if kept is not None:
        need(whole(kept["epoch"]) and kept["epoch"] <= closed, "its best epoch does not lie in the run")
        best = Best(float(kept["loss"]), contents.snapshot.params.copy(), kept["epoch"])
    need(mean is None or whole(mean), "mean must be an integer of at least 0")
    left_out = scalars.get("left_out", "")
    need(left_out in ("", "first", "later"), 'left_out must be "first" or "later"')
    state = State(
        epoch, first, scalars["step"], closed, float(scalars["lowest"]), float(scalars["start_loss"]),
        Patience(float(scalars["factor"]), scalars["since_best"], scalars["since_drop"]),
        None if mean is None else Mean(mean, tensor("mean", np.float64, n)), best,
        tuple(tensor(f"end.{number}", dtype, n) for number in range(scalars["ends"])), left_out, attempt,
    )  # fmt: skip
    return Moment(
        state, _history(tensor("history", np.float64, 4, closed), contents.history),
        tensor("losses", np.float64, first), tensor("params", dtype, n), tensor("m", dtype, n), tensor("v", dtype, n),
        tensor("restart", dtype, n) if "restart" in contents.training else None,
    )  # fmt: skip


def _history(numbers: Array, told: History | None) -> History:
    """The epochs so far. The history of the file, for any reader, has lost infinities, and times are in no file."""
    history = History()
    validated = told is not None and bool(told.validation_loss)
    for number, (step, train_loss, validation_loss, rate) in enumerate(numbers.T.tolist(), 1):
        epoch = Epoch(number, int(step), train_loss, validation_loss, rate)
        history.add(epoch, seconds=math.nan, rows_per_second=math.nan, validated=validated)
    return history
