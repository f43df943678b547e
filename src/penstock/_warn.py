"""Warnings: their classes, and the way out, which points at the caller's line and says a thing once for each of these."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


class PenstockWarning(UserWarning):
    """Whatever penstock warns of.

    Examples
    --------
    >>> import warnings
    >>> import penstock as ps
    >>> warnings.filterwarnings("ignore", category=ps.DiscreteWarning)  # these columns are meant to be discrete
    >>> issubclass(ps.DiscreteWarning, ps.DataWarning) and issubclass(ps.DataWarning, ps.PenstockWarning)
    True
    """


class ModelWarning(PenstockWarning):
    """The flow as it is built cannot do what it seems to be for."""


class DataWarning(PenstockWarning):
    """The rows of a ``fit`` hold something that spoils a density."""


class OutlierWarning(DataWarning):
    """A value lies so far from the others that it cannot be meant."""


class DiscreteWarning(DataWarning):
    """A column takes few values, or one of them very often, and has no density."""


class RepeatedRowsWarning(DataWarning):
    """Rows repeat others, so that training and validation share them."""


class RefitWarning(DataWarning):
    """The rows of a later ``fit`` lie elsewhere than those of the first, whose standardisation it keeps."""


class TrainingWarning(PenstockWarning):
    """A training run has ended otherwise than one hopes: it overfits, was interrupted, or found nothing better."""


class OverfitWarning(TrainingWarning):
    """A flow overfits: its density is too narrow for rows that it was not trained on."""


class TargetWarning(PenstockWarning):
    """A flow and an unnormalised target do not go together: the target is NaN, or the weights of draws are too uneven."""


class Told(NamedTuple):
    """A warning, the place in penstock that has it, and which member of an ensemble it is about, if of one."""

    message: str
    category: type[PenstockWarning]
    source: tuple[str, int, str]
    member: int | None = None

    def about_member(self, k: int) -> Told:
        """The same, of a member of an ensemble."""
        return self._replace(message=f"{self.message} (member {k} of the ensemble)", member=k)


_local = threading.local()  # .sink: what takes the warnings of the calling thread


@contextmanager
def told_to(sink: Callable[[Told], None]) -> Iterator[None]:
    """Within the block, warnings of this thread go to a function, which lets the thread issue them that they are for."""
    outer = getattr(_local, "sink", None)
    _local.sink = sink
    try:
        yield
    finally:
        _local.sink = outer


def warn(message: str, category: type[PenstockWarning], *, about: str = "") -> None:
    """Warn at the line that called into penstock: once for each such line and each place in penstock that warns.

    That the numbers in two messages differ makes them no two warnings; that they are ``about`` different arguments does.
    Filters count as ever, those that ask for every warning too.
    """
    frame = sys._getframe(1)
    issue(Told(message, category, (frame.f_code.co_filename, frame.f_lineno, about)))


def issue(told: Told) -> None:
    """Show a warning at the line that called into penstock, from this thread, or give it to what takes those of the thread."""
    sink = getattr(_local, "sink", None)
    if sink is not None:
        sink(told)
        return
    message, category, source, _ = told
    frame = sys._getframe(1)
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(PACKAGE):
        frame = frame.f_back
    name, line = frame.f_code.co_filename, frame.f_lineno
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    # Python notes the text of what it has shown, and forgets it when a filter changes; beside it stands where it is from.
    shown, known = (message, category, line), (*source, name, line)
    again = known in registry
    if again:
        registry[shown] = True
    warnings.warn_explicit(message, category, name, line, frame.f_globals.get("__name__"), registry)
    if registry.get(shown):
        registry[known] = True
        if again:
            del registry[shown]
