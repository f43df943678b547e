"""The checkpoint of an ensemble: one file, in which each member has the state of its own run."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from penstock._files import check_writable
from penstock.files import members, model
from penstock.history import History
from penstock.state import Snapshot
from penstock.training.checkpoint import Checkpoint, Found, _record


class Shelf:
    """The file, and what of it each member has.

    Parameters
    ----------
    path : str
    every : int, optional
    resume : bool
        As for :class:`Checkpoint`.
    starts : sequence of model.Contents
        The flows that the members begin with.
    """

    def __init__(self, path: str, *, every: int | None, resume: bool, starts: Sequence[model.Contents]) -> None:
        self.path, self.every, self.resume = path, every, resume
        self._held = list(starts)
        self._lock = threading.Lock()
        self.seed: int | None = None  # of the ensemble, in the run that was found
        self.found: list[Found | None] = [None] * len(starts)
        check_writable(path)
        self._find()

    def _find(self) -> None:
        if not self.resume or not os.path.exists(self.path) or os.path.getsize(self.path) == 0:
            return
        try:
            contents = members.load(self.path)
            if isinstance(contents, model.Contents):
                if contents.training:
                    raise ValueError(f"the checkpoint {self.path!r} holds the run of one flow, and this is an ensemble")
                return
            if not any(own.training for own in contents.members):
                return
            if len(contents.members) != len(self._held):
                raise ValueError(
                    f"the checkpoint {self.path!r} holds the run of {len(contents.members)} members, and this ensemble has "
                    f"{len(self._held)}"
                )
            self.found = [Found(own, _record(own)) if own.training else None for own in contents.members]
            self._held = [
                own if found is not None else start
                for own, found, start in zip(contents.members, self.found, self._held, strict=True)
            ]
            (self.seed,) = {found.record["seed_of_all"] for found in self.found if found is not None}
        except ValueError as error:
            error.add_note("fit(checkpoint=...) goes on with the run in that file; resume=False replaces it")
            raise

    def checkpoint(self, number: int, seed: int) -> MemberCheckpoint:
        """That of one member, in an ensemble of this seed."""
        return MemberCheckpoint(self, number, seed)

    def put(self, number: int, contents: model.Contents) -> None:
        """Replace the file by one that holds this of a member, and of the others what it had."""
        with self._lock:
            self._held[number] = contents
            # Those that have not begun have no names yet.
            alike = [
                replace(
                    own, columns=contents.columns, context_columns=contents.context_columns, lattice=contents.lattice,
                    missing=contents.missing,
                )
                for own in self._held
            ]  # fmt: skip
            n = len(alike)
            self.save(members.to_bytes(members.Several(tuple(alike), np.full(n, 1 / n))))

    def save(self, data: bytes) -> None:
        """Replace the file."""
        model.save(self.path, data, anything=not self.resume)


class MemberCheckpoint(Checkpoint):
    """The state of one member's run."""

    def __init__(self, shelf: Shelf, number: int, seed: int) -> None:
        super().__init__(shelf.path, every=shelf.every, resume=shelf.resume)
        self._shelf, self._number = shelf, number
        self._more = {"seed_of_all": seed}

    def check_writable(self) -> None:
        """The shelf has done it."""

    def find(self) -> Found | None:
        """The run of this member that the file holds, if it does."""
        return self._shelf.found[self._number]

    def finish(self, snapshot: Snapshot, history: History) -> None:
        """Note that this run is over."""
        self._more |= {"ended": True}
        self._save(replace(self._template, snapshot=snapshot, history=history, training={"record": self._record({})}))

    def _save(self, contents: model.Contents) -> None:
        self._shelf.put(self._number, contents)
