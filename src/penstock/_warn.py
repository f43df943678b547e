"""Warnings: their classes, and the way out, which points at the caller's line and says a thing once for each of these."""

from __future__ import annotations

import os
import sys
import warnings

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
    """A flow knows its training rows by heart: its density is too narrow for others."""


class TargetWarning(PenstockWarning):
    """A flow and an unnormalised target do not go together: the target is NaN, or the weights of draws are too uneven."""


def warn(message: str, category: type[PenstockWarning], *, about: str = "") -> None:
    """Warn at the line that called into penstock: once for each such line and each place in penstock that warns.

    That the numbers in two messages differ makes them no two warnings; that they are ``about`` different arguments does.
    Filters count as ever, those that ask for every warning too.
    """
    frame = sys._getframe(1)
    source = (frame.f_code.co_filename, frame.f_lineno, about)
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
