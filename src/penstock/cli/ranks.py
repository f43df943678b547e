"""Commands that the processes of an MPI job run together: who prints, how an error ends all, and one file that all write.

Only ``--mpi`` imports mpi4py. Whatever all ranks do in turn is dealt to them in contiguous runs, so that what they write and add
up, in the order of ranks, is what one process writes and adds up.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np

from penstock._files import joining, remove_stale, replacing
from penstock._typing import Array
from penstock.cli.sinks import Columns, Write, npy_header, npy_rows, table_file, text_rows
from penstock.cli.tables import Table, is_stream, suffix
from penstock.cli.text import TextTable
from penstock.training.ranks import RankError, Ranks

WRITTEN = (".npy", ".csv", ".tsv")
FEW = 8  # chunks between two meetings: ranks need not keep step, and hear within a second or so that one has failed

Item = TypeVar("Item")


class Job(Ranks):
    """The ranks that run a command. What one of them raises, or a signal that it gets, ends all with one exit code."""

    def __init__(self, comm: Any) -> None:
        super().__init__(comm)
        self.terminated = self.done = False

    def __enter__(self) -> Self:
        with suppress(ValueError):  # not in the main thread
            # As in the background of a script, to which a scheduler may send it all the same.
            if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.done = error is None

    # --- ends -------------------------------------------------------------------------------------------------------

    def terminate(self) -> bool:
        """Note SIGTERM for the next meeting, which ends as with Ctrl-C; False where there is none to come."""
        ranks = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
        if not isinstance(ranks, Ranks):
            return False
        self.terminated = ranks._interrupted = True
        return True

    def agreed(self, error: BaseException, code: int | None, words: str) -> tuple[int | None, str]:
        """The exit code of all ranks and the words of the first that failed, where this one would say ``code`` and ``words``."""
        if self.done:  # a reader of standard output that has ended, say; the others know nothing of it
            return code, words
        if not (self.over or self.interrupted):  # before the first meeting, at which the others wait
            self.comm.Abort(1 if code is None else code)
        heard = self.comm.allgather((not isinstance(error, RankError), code, words, self.terminated))
        if any(terminated for *_, terminated in heard):
            return 128 + signal.SIGTERM, "penstock: terminated"
        rank, (_, first, told, _) = next((rank, own) for rank, own in enumerate(heard) if own[0])
        if first in (None, 1) and rank:
            told += f" (rank {rank} of {self.size})"
        if first is None and code is not None:  # a bug of another rank, whose traceback Python shows there
            return 1, told
        return first, told

    def check(self, arguments: argparse.Namespace) -> None:
        """Before any work: what is read are files that each rank can read a part of, and what is written is one that it can."""
        given = vars(arguments)
        if given.get("ensemble") is not None:
            raise ValueError("--ensemble: with --mpi all ranks train one flow; give each member a job of its own")
        for name in ("data", "context", "weights"):
            path = given.get(name)
            if path is not None and is_stream(path):
                raise ValueError(f"--mpi: {path} is no ordinary file, of which each rank could read a part")
        path = given.get("output")
        if "ensemble" not in given and path is not None and (is_stream(path) or suffix(path) not in WRITTEN):
            kinds = f"{', '.join(WRITTEN[:-1])} or {WRITTEN[-1]}"
            raise ValueError(f"--mpi: ranks can write {kinds} together, got {path!r}")

    # --- parts ------------------------------------------------------------------------------------------------------

    def run_of(self, n: int) -> range:
        """Which of ``n`` things in order are this rank's."""
        return range(n * self.rank // self.size, n * (self.rank + 1) // self.size)

    def rows(self, table: Table, beside: Table | None = None, *, size: int = 1) -> tuple[int, int]:
        """The rows of a table that are this rank's, whole chunks of a size; ``beside`` is one with as many rows."""
        n = self._count(table)
        if beside is not None and (other := self._count(beside)) != n:
            raise ValueError(
                f"--weights: {beside.path} has {other} rows, and {table.path} has {'more' if other < n else f'fewer: {n}'}"
            )
        own = self.run_of(-(-n // size))
        return min(own.start * size, n), min(own.stop * size, n)

    def _count(self, table: Table) -> int:
        """How many rows there are; in text each rank counts those of a part of the file."""
        if isinstance(table, TextTable):
            size = self.of_first(os.path.getsize(table.path))
            table.know(self.told(table.look(size, self.rank, self.size)))
        assert table.n_rows is not None
        return table.n_rows

    def meeting(self, items: Iterable[Item], n: int) -> Iterator[Item]:
        """Those of this rank's run of ``n`` items; after every few of them all ranks meet."""
        done, most = 0, -(-n // self.size)
        for item in items:
            yield item
            done += 1
            if done % FEW == 0:
                self.meet()
        for _ in range(done // FEW, most // FEW):
            self.meet()

    def all_of(self, items: Sequence[Item]) -> list[Item]:
        """Those of all ranks in order."""
        return [item for own in self.told(items) for item in own]


@contextmanager
def job() -> Iterator[Job]:
    """The ranks of all processes that ``mpirun`` has started, of which the first one prints."""
    try:
        from mpi4py import MPI
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "--mpi: mpi4py is not installed: pip install mpi4py, or pip install 'penstock[mpi]'"
        ) from None
    ranks = Job(MPI.COMM_WORLD)
    if ranks.rank == 0:
        yield ranks
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield ranks


@contextmanager
def shared_table(
    ranks: Job | None, path: str, columns: Columns, *, name: str, flat: bool = False, first: int = 0, count: int = 0
) -> Iterator[Write]:
    """As ``table_file``, into which each rank writes its part; it appears when the blocks of all ranks end well.

    Parameters
    ----------
    ranks : Job, optional
    path, columns, name, flat
        As there.
    first, count : int
        How many rows stand before those of this rank, and in the whole file.
    """
    if ranks is None:
        with table_file(path, columns, name=name, flat=flat) as write:
            yield write
        return
    with ExitStack() as stack:
        file = None
        if ranks.rank == 0:
            remove_stale(path)
            file = stack.enter_context(replacing(path, named=True))
        there = ranks.of_first(None if file is None else file.name)
        file = file or stack.enter_context(joining(path, there))
        if suffix(path) == ".npy":
            dtype, tail = np.result_type(*(dtype for _, dtype in columns)), () if flat else (len(columns),)
            head = npy_header(dtype, (count, *tail))
            if ranks.rank == 0:
                file.write(head)
            file.seek(len(head) + first * dtype.itemsize * int(np.prod(tail)))

            def write_rows(*blocks: Array) -> None:
                file.write(npy_rows(blocks, dtype))

            yield write_rows
        else:
            # Where lines belong in the file is known when those before them are written.
            own = file if ranks.rank == 0 else stack.enter_context(_beside(there))
            yield text_rows(own, columns, suffix(path), header=ranks.rank == 0)
            own.flush()
            sizes = ranks.told(own.tell())
            if ranks.rank:
                _copy(own, file, sum(sizes[: ranks.rank]))
        file.flush()
        os.fsync(file.fileno())
        ranks.meet()


def _beside(path: str) -> Any:
    """A file without a name in the folder of another."""
    return tempfile.TemporaryFile(dir=os.path.dirname(path))


def _copy(source: BinaryIO, target: BinaryIO, at: int) -> None:
    """Put all that was written into a file at a place of another one."""
    size, done = source.tell(), 0
    if sys.platform == "linux":
        with suppress(OSError):  # some file systems cannot, and what else is wrong is wrong below, too
            while n := os.copy_file_range(source.fileno(), target.fileno(), size - done, done, at + done):
                done += n
    source.seek(done)
    target.seek(at + done)
    shutil.copyfileobj(source, target, 1 << 20)
