"""The record of one ``fit``: losses, rates and times by epoch, and their plot."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field, fields
from typing import Any

from penstock import _html

ENDS = {
    "patience": "patience ran out", "overfits": "it overfitted again", "callback": "a callback ended it",
    "interrupted": "it was interrupted", "failed": "it failed",
}  # fmt: skip
DIVERGED = 0.1  # nats by which a validation loss has risen for good, if training overfits


@dataclass(frozen=True)
class Epoch:
    """An epoch that has just ended.

    Attributes
    ----------
    epoch, step : int
        Epochs and optimiser steps done.
    train_loss, validation_loss : float
        Mean negative log-likelihood in nats a row; ``validation_loss`` is NaN without validation rows.
    learning_rate : float
        Rate of the last step.
    """

    epoch: int
    step: int
    train_loss: float
    validation_loss: float
    learning_rate: float


@dataclass
class History:
    """What one call of ``fit`` did, an entry an epoch.

    Losses are mean negative log-likelihoods in nats a row, in the units of the data.

    Attributes
    ----------
    epoch, step : list of int
        Number of the epoch, and optimiser steps taken by its end.
    train_loss : list of float
        Mean over the epoch's batches, each before its own step.
    validation_loss : list of float
        After the epoch, of its parameters or of their running mean, whichever is lower; empty without
        validation rows.
    learning_rate : list of float
        Rate of the epoch's last step.
    seconds : list of float
        Time since training began.
    rows_per_second : list of float
        Training rows a second, validation not counted.
    best_epoch : int or None
        The epoch whose parameters were kept; 0 for the starting parameters of a later ``fit``, None when nothing was validated.
    start_loss : float
        Validation loss of the starting parameters of a later ``fit``; NaN for a first one.
    elbo, elbo_error : list of float
        Of ``fit_to_target`` alone, like the next two: the evidence lower bound ``E[log p - log q]`` after the epoch, of the
        parameters that ``validation_loss`` is of, and its standard error.
    ess : list of float
        Effective sample size of the importance weights ``p / q``, as a part of the number of draws.
    pareto_k : list of float
        Shape of the tail of these weights; they can be relied on up to about 0.7.
    start : str
        Where location and scale came from, and what they are.
    restarted : int
        Epochs after which training began again, with weight decay, since it overfitted; 0 if it did not.
    stopped : str
        Why it ended: "completed", "patience", "overfits" (the second attempt, too, had begun to overfit),
        "callback", "interrupted", "failed", or "" while it runs.
    """

    epoch: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    train_loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    rows_per_second: list[float] = field(default_factory=list)
    best_epoch: int | None = None
    start_loss: float = float("nan")
    stopped: str = ""
    elbo: list[float] = field(default_factory=list)
    elbo_error: list[float] = field(default_factory=list)
    ess: list[float] = field(default_factory=list)
    pareto_k: list[float] = field(default_factory=list)
    start: str = ""
    restarted: int = 0

    @property
    def best_loss(self) -> float:
        """Validation loss of the parameters that were kept; NaN when nothing was validated."""
        if self.best_epoch is None:
            return float("nan")
        return self.validation_loss[self.epoch.index(self.best_epoch)] if self.best_epoch else self.start_loss

    @property
    def gap(self) -> float:
        """Validation loss less training loss of the epoch that was kept, in nats a row: the generalisation gap.

        NaN when nothing was validated, or when the starting parameters were kept.
        """
        if not self.best_epoch or not self.validation_loss:
            return float("nan")
        return self.best_loss - self.train_loss[self.epoch.index(self.best_epoch)]

    @property
    def overfits(self) -> bool:
        """Whether the run went on for longer than its best epoch took, to lower training and higher validation losses.

        In all of its last quarter the validation loss is worse by more than 0.1 nats, and the training loss better.
        """
        if self.stopped != "completed" or not self.best_epoch or not self.validation_loss:
            return False
        best, length = self.epoch.index(self.best_epoch), len(self) - self.restarted
        late = length // 4
        return (
            late > 0
            and self.best_epoch - self.restarted <= length / 2
            and min(self.validation_loss[-late:]) - self.validation_loss[best] > DIVERGED
            and max(self.train_loss[-late:]) < self.train_loss[best]
        )

    def copy(self) -> History:
        """A record of its own."""
        twin = copy(self)
        for f in fields(self):
            if isinstance(getattr(self, f.name), list):
                setattr(twin, f.name, list(getattr(self, f.name)))
        return twin

    def add(self, epoch: Epoch, *, seconds: float, rows_per_second: float, validated: bool) -> None:
        """Append an epoch."""
        self.epoch.append(epoch.epoch)
        self.step.append(epoch.step)
        self.train_loss.append(epoch.train_loss)
        if validated:
            self.validation_loss.append(epoch.validation_loss)
        self.learning_rate.append(epoch.learning_rate)
        self.seconds.append(seconds)
        self.rows_per_second.append(rows_per_second)

    def last(self) -> Epoch:
        """The newest epoch."""
        validation = self.validation_loss[-1] if self.validation_loss else float("nan")
        return Epoch(self.epoch[-1], self.step[-1], self.train_loss[-1], validation, self.learning_rate[-1])

    def trim(self, count: int) -> None:
        """Forget all but the first epochs, and any of which only a part was noted."""
        for f in fields(self):
            if isinstance(getattr(self, f.name), list):
                del getattr(self, f.name)[count:]

    def __len__(self) -> int:
        return len(self.epoch)

    def __repr__(self) -> str:
        if not self.epoch:
            return f"History(no epoch completed{', ' + self.stopped if self.stopped else ''})"
        losses = f"train loss {self.train_loss[-1]:.4g}"
        if self.validation_loss and self.best_epoch is not None:
            where = f"in epoch {self.best_epoch}" if self.best_epoch else "at the start"
            losses += f", best validation loss {self.best_loss:.4g} {where}"
        time = f", {self.seconds[-1]:.3g} s" if self.seconds[-1] == self.seconds[-1] else ""  # NaN: read from a file
        return f"History({len(self)} epochs, {self.step[-1]} steps{time}, {losses}, {self.stopped})"

    def __str__(self) -> str:
        """What happened, in sentences."""
        if not self.epoch:
            return repr(self)
        time = f" in {self.seconds[-1]:.3g} s" if self.seconds[-1] == self.seconds[-1] else ""
        ended = f", until {ENDS[self.stopped]}" if self.stopped in ENDS else ""
        told = [f"{len(self)} epochs, {self.step[-1]} steps{time}{ended}."]
        if self.best_epoch is None or not self.validation_loss:
            told.append(f"The training loss ended at {self.train_loss[-1]:.4g}; nothing was validated.")
        elif self.best_epoch == 0:
            told.append(
                f"No epoch validated better than the starting parameters ({self.start_loss:.4g}), which were kept."
            )
        else:
            told.append(
                f"Epoch {self.best_epoch} was kept: its validation loss is {self.best_loss:.4g}, its training loss "
                f"{self.best_loss - self.gap:.4g}."
            )
        if self.restarted:
            told.append(
                f"After {self.restarted} epochs training began again, with weight decay, since the flow overfitted."
            )
        told += [f"It overfits: {self.overfitting()}."] if self.overfits else []
        return " ".join(told)

    def overfitting(self) -> str:
        """Say how far training and validation losses have come apart."""
        assert self.best_epoch
        best = self.epoch.index(self.best_epoch)
        train, validation = self.train_loss, self.validation_loss
        if not self.overfits:
            return (
                f"in epoch {self.best_epoch}, which is kept, the training loss is {train[best]:.3g} and the validation loss "
                f"{validation[best]:.3g}, {self.gap:.2g} nats higher"
            )
        return (
            f"from epoch {self.best_epoch} to {self.epoch[-1]} the training loss fell from {train[best]:.3g} to {train[-1]:.3g}, "
            f"but the validation loss rose from {validation[best]:.3g} to {validation[-1]:.3g}"
        )

    def _repr_html_(self) -> str:
        """The line of ``repr``, and the first, best and last epoch, for notebooks."""
        line = repr(self).removeprefix("History")
        shown = sorted({1, self.best_epoch or 1, len(self)} & set(self.epoch))
        rows = []
        for i in (self.epoch.index(number) for number in shown):
            validation = f"{self.validation_loss[i]:.4g}" if self.validation_loss else ""
            kept = "kept" if self.epoch[i] == self.best_epoch else ""
            rows.append(
                (str(self.epoch[i]), f"{self.train_loss[i]:.4g}", validation, f"{self.learning_rate[i]:.3g}", kept)
            )
        return _html.table("History", line, ("epoch", "training loss", "validation loss", "learning rate", ""), rows)

    def plot(self, ax: Any = None) -> Any:
        """Draw the losses against the epoch, the epoch that was kept, what followed if it overfits, and the learning rate.

        Needs matplotlib.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default. The learning rate has an axis of its own on the right.

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
        if not self.epoch:
            raise ValueError("there is nothing to plot: no epoch was completed")
        if ax is None:
            try:
                import matplotlib.pyplot as plt
            except ImportError:
                raise ImportError("plotting needs matplotlib: pip install 'penstock[plot]'") from None
            ax = plt.subplots(figsize=(6.4, 4.0), layout="constrained")[1]
        marker = "." if len(self) == 1 else None  # a line needs two points
        ax.plot(self.epoch, self.train_loss, color="0.55", lw=1.2, marker=marker, label="training")
        shown = list(self.train_loss)
        if self.validation_loss:
            ax.plot(self.epoch, self.validation_loss, color="C1", lw=1.4, marker=marker, label="validation")
            shown += self.validation_loss
            if self.best_epoch is not None:
                where = f"epoch {self.best_epoch}" if self.best_epoch else "the start"
                kept = f"kept: {self.best_loss:.3f} of {where}"
                ax.plot([self.best_epoch], [self.best_loss], "o", color="C3", ms=5, zorder=3, label=kept)
            if self.restarted:
                ax.axvline(self.restarted + 0.5, color="0.3", lw=0.9, ls="--", label="begins again, with weight decay")
            if self.overfits:
                ax.axvspan(self.best_epoch or 0, self.epoch[-1], color="C3", alpha=0.08, lw=0, label="overfits")
        # The first epochs fall from far above; without them the part that matters fills the axes.
        finite = sorted(loss for loss in shown if abs(loss) < float("inf"))
        if len(finite) >= 20:
            low, high = finite[0], finite[int(0.95 * len(finite))]
            if high > low:
                ax.set_ylim(low - 0.1 * (high - low), high + 0.6 * (high - low))
        ax.set_xlabel("epoch")
        ax.set_ylabel("negative log-likelihood [nats a row]")
        ax.margins(x=0.01)
        if len(self) == 1:
            ax.set_xlim(0, 2)
        ax.xaxis.get_major_locator().set_params(integer=True)
        rate = self._plot_rate(ax, marker)
        handles = ax.get_legend_handles_labels()[0]
        ax.legend(handles=[*handles, *rate], edgecolor="none", framealpha=0.8)
        return ax

    def _plot_rate(self, ax: Any, marker: str | None) -> list[Any]:
        """Draw the learning rate on an axis to the right, behind the losses."""
        if not any(rate > 0 for rate in self.learning_rate):
            return []
        right = ax.twinx()
        # The one that was made later lies in front, and what lies in front must be transparent.
        ax.set_zorder(right.get_zorder() + 1)
        ax.patch.set_visible(False)
        lines: list[Any] = right.plot(
            self.epoch, self.learning_rate, color="C0", lw=0.9, ls=":", marker=marker, label="learning rate"
        )  # fmt: skip
        right.set_ylim(0, 1.05 * max(rate for rate in self.learning_rate if rate == rate))
        right.set_ylabel("learning rate at the end of the epoch", color="C0")
        right.tick_params(axis="y", colors="C0", which="both")
        return lines
