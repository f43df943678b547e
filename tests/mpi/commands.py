"""Command lines run by several ranks, for ``tests/test_mpi_cli.py``: ``mpirun -n N python commands.py COMMANDS OUT``.

COMMANDS is a JSON file with a list of objects: the ``words`` of a command line, and what shall happen to one ``rank`` of it. Rank
0 writes into OUT what each rank has returned and printed.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

from mpi4py import MPI

from penstock.cli import commands, main, ranks, tables, text

tables.CHUNK = 1  # chunks of 4096 rows
text.BLOCK = 50_000  # a few hundred lines of text at a time
ranks.FEW = 2  # meetings although there are few chunks


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow beyond a size: it fails in the middle of a write."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def other(module: Any, name: str, value: Any) -> Iterator[None]:
    """Something in the place of what a module has."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def forbidden(path: str) -> None:
    """As ``check_writable``, where nothing is."""
    raise PermissionError(13, f"cannot write {path!r}: Permission denied")


def broken(*_: Any) -> None:
    """A bug."""
    raise LookupError("a bug")


@contextmanager
def signalled(number: int) -> Iterator[None]:
    """This process gets a signal once it is at work."""
    timer = threading.Timer(0.5, os.kill, (os.getpid(), number))
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def happening(what: str | None) -> Any:
    """What happens to this rank meanwhile."""
    joining = ranks.joining
    return {
        None: nullcontext,
        "full disk": full_disk,
        "forbidden": lambda: other(commands, "check_writable", forbidden),
        "another file system": lambda: other(ranks, "joining", lambda path, name: joining(path, name + "x")),
        "bug": lambda: other(commands, "given_contexts", broken),
        "SIGINT": lambda: signalled(signal.SIGINT),
        "SIGTERM": lambda: signalled(signal.SIGTERM),
    }[what]()


def run(words: list[str], what: str | None) -> dict[str, Any]:
    """Exit code and words of this rank."""
    out, err = io.StringIO(), io.StringIO()
    code: Any
    with redirect_stdout(out), redirect_stderr(err), happening(what):
        try:
            code = main(words)
        except SystemExit as error:
            code = error.code
        except LookupError as error:
            code = repr(error)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background starts without
    comm = MPI.COMM_WORLD
    with open(sys.argv[1]) as file:
        given = json.load(file)
    found = []
    for command in given:
        own = run(command["words"], command.get("what") if command.get("rank") == comm.rank else None)
        found.append(comm.allgather(own))
    if comm.rank == 0:
        with open(sys.argv[2], "w") as file:
            json.dump(found, file)
