"""The progress bar of ``fit`` on standard error. A stream that cannot be written to costs the bar, never the training."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

# What a stream that is closed, gone or no stream at all raises.
BROKEN = (AttributeError, OSError, TypeError, ValueError)


class Progress:
    """A progress bar over ``total`` rows, or nothing.

    Parameters
    ----------
    shown : bool or None
        None shows it where standard error is a terminal, and under IPython, as in a notebook.
    total, done : int
        Rows in all, and those that an earlier process has done.
    """

    def __init__(self, shown: bool | None, total: int, done: int = 0) -> None:
        self._bar: Any = None
        if is_terminal(sys.stderr) or is_interactive() if shown is None else shown:
            self._draw(lambda: self._start(total, done))

    def _start(self, total: int, done: int) -> None:
        with warnings.catch_warnings():  # of tqdm, which draws in text where a notebook has no widgets
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
        if sys.stderr is not None or is_interactive():
            self._bar = tqdm(
                total=total, initial=done, unit="rows", unit_scale=True, dynamic_ncols=True, file=sys.stderr, desc="epoch 1"
            )  # fmt: skip

    @staticmethod
    def of(shown: bool | Progress | None, total: int, done: int) -> Progress:
        """A bar of its own, or what somebody else shows progress with."""
        return shown.begun(total, done) if isinstance(shown, Progress) else Progress(shown, total, done)

    def begun(self, total: int, done: int) -> Progress:
        """The bar of a run over so many rows, of which an earlier process has done some."""
        raise NotImplementedError

    def update(self, rows: int) -> None:
        """Note that so many rows were trained on."""
        if self._bar is not None:
            self._draw(lambda: self._bar.update(rows))

    def epoch(self, title: str, losses: str) -> None:
        """Show the number of the epoch and its losses at the next update."""
        if self._bar is not None:
            self._draw(lambda: self._bar.set_description_str(title, refresh=False))
        if self._bar is not None:
            self._draw(lambda: self._bar.set_postfix_str(losses, refresh=False))

    def close(self) -> None:
        """Draw it for the last time."""
        if self._bar is not None:
            self._draw(lambda: self._bar.close())

    def _draw(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except BROKEN:
            self._bar = None


def is_terminal(stream: Any) -> bool:
    """Whether a stream is a terminal; one that is None, closed or without ``isatty`` is not."""
    try:
        return bool(stream.isatty())
    except BROKEN:
        return False


def is_interactive() -> bool:
    """Whether this is IPython, in a terminal or in a notebook, whose standard error is no terminal."""
    try:
        return sys.modules["IPython"].get_ipython() is not None
    except (KeyError, AttributeError):
        return False
