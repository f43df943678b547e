"""The record of the fit of an ensemble: those of its members, and what they say together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from penstock import _html
from penstock.history import History


@dataclass
class EnsembleHistory:
    """What one ``fit`` of an ensemble did: a sequence of the histories of its members.

    Attributes
    ----------
    members : list of History
    validation_loss : float
        Mean negative log-likelihood of the ensemble in nats a row, on validation rows that all members have in common; NaN
        without.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> ensemble = ps.Ensemble(ps.realnvp(2, layers=2, hidden=(8,), rng=0), 2, rng=0).fit(X, epochs=2, rng=0)
    >>> len(ensemble.history), ensemble.history.stopped, ensemble.history[1].epoch
    (2, 'completed', [1, 2])
    """

    members: list[History] = field(default_factory=list)
    validation_loss: float = math.nan

    @property
    def stopped(self) -> str:
        """Why it ended, as :attr:`History.stopped`; several words where members differ."""
        return ", ".join(dict.fromkeys(own.stopped for own in self.members if own.stopped))

    @property
    def best_losses(self) -> list[float]:
        """Validation losses of the parameters that were kept, one a member; each on validation rows of its own."""
        return [own.best_loss for own in self.members]

    def copy(self) -> EnsembleHistory:
        """A record of its own."""
        return EnsembleHistory([own.copy() for own in self.members], self.validation_loss)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, k: int) -> History:
        return self.members[k]

    def __iter__(self) -> Iterator[History]:
        return iter(self.members)

    def __repr__(self) -> str:
        if not any(len(own) for own in self.members):
            return f"EnsembleHistory(no epoch completed{', ' + self.stopped if self.stopped else ''})"
        told = [f"{_range([len(own) for own in self.members])} epochs"]
        if not any(math.isnan(loss) for loss in self.best_losses):
            told.append(f"best validation losses {_range(self.best_losses)}")
        if not math.isnan(self.validation_loss):
            told.append(f"validation loss of the ensemble {self.validation_loss:.4g}")
        return f"EnsembleHistory({len(self)} members, {', '.join(told)}, {self.stopped})"

    def _repr_html_(self) -> str:
        """The line of ``repr``, and a row for each member, for notebooks."""
        head = ("member", "epochs", "training loss", "best validation loss", "of epoch", "ended")
        rows = [
            (
                str(k), str(len(own)), f"{own.train_loss[-1]:.4g}" if len(own) else "",
                f"{own.best_loss:.4g}" if own.best_epoch is not None else "",
                "" if own.best_epoch is None else str(own.best_epoch), own.stopped,
            )
            for k, own in enumerate(self.members)
        ]  # fmt: skip
        return _html.table("EnsembleHistory", repr(self).removeprefix("EnsembleHistory"), head, rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses of all members against the epoch, and the epochs that were kept; needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ValueError
            If no epoch was completed.
        ImportError
            If matplotlib is not installed.
        """
        drawn = [own for own in self.members if len(own)]
        if not drawn:
            raise ValueError("there is nothing to plot: no epoch was completed")
        ax = drawn[0].plot(ax)
        for own in drawn[1:]:
            ax.plot(own.epoch, own.train_loss, color="0.55", lw=0.8)
            if own.validation_loss:
                ax.plot(own.epoch, own.validation_loss, color="C1", lw=0.8)
            if own.best_epoch is not None:
                ax.plot([own.best_epoch], [own.best_loss], "o", color="C3", ms=3, zorder=3)
        return ax


def _range(values: Sequence[float]) -> str:
    """Numbers by the least and the greatest of them."""
    low, high = min(values), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
