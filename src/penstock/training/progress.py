"""The progress bar of ``fit`` on standard error. A stream that cannot be written to costs the bar, never the training."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# What a stream that is closed, gone or no stream at all raises.
BROKEN = (AttributeError, OSError, TypeError, ValueError)


class Progress:
    """A progress bar over ``total`` rows, or nothing.

    Parameters
    ----------
    shown : bool or None
        None shows it where standard error is a terminal.
    total : int
    """

    def __init__(self, shown: bool | None, total: int) -> None:
        self._bar: Any = None
        if is_terminal(sys.stderr) if shown is None else shown:
            from tqdm import tqdm

            if sys.stderr is not None:
                self._draw(lambda: self._start(tqdm, total))

    def _start(self, tqdm: Any, total: int) -> None:
        self._bar = tqdm(total=total, unit="rows", unit_scale=True, dynamic_ncols=True, file=sys.stderr, desc="epoch 1")

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
