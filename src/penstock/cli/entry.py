"""One run of the command ``penstock``: its standard streams, its signals and its exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import penstock as ps
from penstock.cli.args import parser

if TYPE_CHECKING:
    from penstock.cli.ranks import Job


class _Terminated(BaseException):
    """SIGTERM has come: what a block has begun is cleaned up on the way out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with _streams(), ExitStack() as stack:
        ranks: Job | None = None
        try:
            if "--mpi" in (sys.argv[1:] if argv is None else argv):  # before wrong usage is told, once
                ranks = stack.enter_context(_job())
            arguments = parser().parse_args(argv)
            with _terminable(ranks):
                code = _run(arguments, ranks)
            sys.stdout.flush()
            return code
        except SystemExit:  # of the parser, on each rank
            raise
        except BaseException as error:
            ended, words = _end(error)
            if ranks is not None:
                ended, words = ranks.agreed(error, ended, words)
            if ended is None:
                raise
            if words:
                print(words, file=sys.stderr)
            return ended


def _end(error: BaseException) -> tuple[int | None, str]:
    """The exit code after an error, None where it is a bug, and what is said of it."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "\npenstock: interrupted"
    if isinstance(error, _Terminated):
        return 128 + signal.SIGTERM, "penstock: terminated"
    if isinstance(error, BrokenPipeError):
        # The reader has ended, as in ``penstock info | head -1``. What is still to be flushed goes nowhere.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1, ""
    if isinstance(error, (OSError, ValueError, RuntimeError, ImportError, MemoryError)):
        return 1, f"penstock: {_message(error)}"
    return None, f"penstock: {type(error).__name__}: {error}"


def _job() -> AbstractContextManager[Job]:
    from penstock.cli import ranks

    return ranks.job()


def _run(arguments: argparse.Namespace, ranks: Job | None) -> int:
    number = getattr(arguments, "threads", None)
    with warnings.catch_warnings(), nullcontext() if number is None else ps.threads(number), ranks or nullcontext():
        warnings.showwarning = _show_warning
        arguments.ranks = ranks
        if ranks is not None:
            ranks.check(arguments)
        return int(arguments.run(arguments))


@contextmanager
def _streams() -> Iterator[None]:
    """Standard output and error that take every text: closed ones, as after ``2>&-``, become the null device.

    Characters that their encoding lacks are written as escapes.
    """
    before = sys.stdout, sys.stderr
    errors = [getattr(stream, "errors", None) for stream in before]
    with ExitStack() as stack:
        for name, stream in zip(("stdout", "stderr"), before, strict=True):
            if stream is None or stream.closed:
                setattr(sys, name, stack.enter_context(open(os.devnull, "w", encoding="utf-8")))
            elif isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for stream, handling in zip(before, errors, strict=True):
                if isinstance(stream, io.TextIOWrapper) and not stream.closed:
                    with suppress(OSError):  # a pipe whose reader has ended cannot be flushed
                        stream.reconfigure(errors=handling)


@contextmanager
def _terminable(ranks: Job | None) -> Iterator[None]:
    """Within the block SIGTERM raises, unless somebody else handles it; with ranks, when all meet."""

    def terminate(number: int, frame: object) -> None:
        if ranks is None or not ranks.terminate():
            raise _Terminated

    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if own:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _message(error: Exception) -> str:
    """The error on one line, without a number that says nothing."""
    text = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(text.split())


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    print(f"penstock: warning: {' '.join(str(message).split())}", file=sys.stderr)
