"""Processes that train one flow together: what they tell each other, and how they stop together.

``comm`` is a communicator of mpi4py, of which only methods are used: nothing here imports it. All ranks make the same calls in
the same order. Each bulk transfer follows a meeting, a few numbers of fixed size from each rank to all, in which a rank that has
failed says so: then all of them raise, and nobody waits for it.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np

from penstock._typing import Array
from penstock._warn import Told, told_to
from penstock.runner import Runner

MOST_SLICES = 64  # of a batch
FINE, INTERRUPTED, FAILED = 0.0, 1.0, 2.0
ROUND = 1 << 30  # bytes that a rank sends or gets at once: MPI counts with 32 bits
AGAIN = 1.0  # seconds after a Ctrl-C, from which on another one is meant


class RankError(RuntimeError):
    """Another rank has failed; its error is told."""


@contextmanager
def together(comm: Any) -> Iterator[Ranks | None]:
    """The ranks of a communicator for the length of a fit, of which the first one warns; None without a communicator."""
    if comm is None:
        yield None
        return
    if not all(callable(getattr(comm, name, None)) for name in ("Get_rank", "Allgather", "Alltoallv", "allgather")):
        raise TypeError(f"comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, got {type(comm).__name__}")
    ranks = Ranks(comm)
    with told_to(_nobody) if ranks.rank else nullcontext(), ranks:
        yield ranks


def check_divides(runner: Runner) -> None:
    """Raise if what computes gives no gradients of parts of a batch."""
    if not runner.divides_batches:
        raise ValueError(
            f"comm needs the backend cpp or numba, got {runner.backend}: a GPU makes whole batches alone yet"
        )


def _nobody(told: Told) -> None:
    """Takes the warnings of ranks that others repeat."""


class Ranks:
    """The ranks of a communicator, from within a call that all of them make.

    Used as a context: what a rank raises within, the others raise as a ``RankError``; the first Ctrl-C of any of them is a
    KeyboardInterrupt of all, at the same meeting.
    """

    def __init__(self, comm: Any) -> None:
        self.comm = comm
        self.rank, self.size = int(comm.Get_rank()), int(comm.Get_size())
        self.over = self.interrupted = False  # whether all have been told that a rank has failed, or of Ctrl-C
        self._width = 1 + 2 * -(-MOST_SLICES // self.size)
        self._interrupted = self._handles = False
        self._noted = 0.0
        self._handler: Any = None

    # --- together until the end ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._handler = signal.getsignal(signal.SIGINT)
        outer = self._outer()  # a command hears of Ctrl-C, but for the length of its fit
        if self._handler is signal.default_int_handler or outer is not None:
            with suppress(ValueError):  # not in the main thread, which alone hears of signals
                signal.signal(signal.SIGINT, self._note)
                self._handles = True
                if outer is not None:
                    self._interrupted, outer._interrupted = outer._interrupted, False
        return self

    def _outer(self) -> Ranks | None:
        """The ranks that heard of Ctrl-C before these."""
        found = getattr(self._handler, "__self__", None)
        return found if isinstance(found, Ranks) else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and not self.over:
                self._fail(error)
            elif error is None:
                self.meet()
        finally:
            if self._handles:
                signal.signal(signal.SIGINT, self._handler)
                outer = self._outer()
                if outer is not None:
                    outer.interrupted |= self.interrupted

    def _note(self, *_: Any) -> None:
        """Handle Ctrl-C: the first one waits for the next meeting, and one that comes later than the others' is the same.

        A second one on purpose ends this process, wherever it is.
        """
        now = time.monotonic()
        if self._interrupted and now - self._noted > AGAIN:
            signal.default_int_handler(signal.SIGINT, None)
        if not self._interrupted:
            self._interrupted, self._noted = True, now

    # --- meetings -----------------------------------------------------------------------------------------------

    def meet(self, numbers: Sequence[float] | Array = ()) -> Array:
        """Numbers of each rank, as many of all, (ranks, n) in float64; raise if a rank has failed or was interrupted."""
        n = len(numbers)
        told, heard = np.zeros(self._width), np.empty((self.size, self._width))
        told[0] = INTERRUPTED if self._interrupted and not self.interrupted else FINE
        told[1 : 1 + n] = numbers
        self.comm.Allgather(told, heard)
        status = float(heard[:, 0].max())
        if status == FAILED:
            self._hear(None)
        if status == INTERRUPTED:
            self._interrupted = self.interrupted = True
            self._noted = time.monotonic()  # where the signal may be still to come
            raise KeyboardInterrupt
        return heard[:, 1 : 1 + n]

    def any(self, flag: bool) -> bool:
        """Whether it is so on one of the ranks."""
        return bool(self.meet([float(flag)]).any())

    def told(self, value: Any) -> list[Any]:
        """What each rank says, whatever can be pickled."""
        self.meet()
        heard: list[Any] = self.comm.allgather(value)
        return heard

    def of_first(self, value: Any) -> Any:
        """What rank 0 says."""
        self.meet()
        return self.comm.bcast(value, root=0)

    def same(self, name: str, value: Any, cure: str) -> None:
        """Raise, on all ranks, unless all say the same."""
        heard = self.told(value)
        other = next((rank for rank, own in enumerate(heard) if own != heard[0]), None)
        if other is not None:
            raise ValueError(
                f"{name} must be the same on all ranks, but rank {other} has another one than rank 0; {cure}"
            )

    @contextmanager
    def apart(self) -> Iterator[None]:
        """What each rank does for itself; the end is a meeting."""
        yield
        self.meet()

    def _fail(self, error: BaseException) -> None:
        """Tell the others, at their next meeting, why this rank comes no more."""
        told, heard = np.zeros(self._width), np.empty((self.size, self._width))
        told[0] = FAILED
        self.comm.Allgather(told, heard)
        with suppress(RankError):
            self._hear(error)

    def _hear(self, error: BaseException | None) -> NoReturn:
        """Say and hear who has failed, and of what."""
        self.over = True
        heard = self.comm.allgather(None if error is None else f"{type(error).__name__}: {error}")
        rank, words = next((rank, words) for rank, words in enumerate(heard) if words is not None)
        raise RankError(f"rank {rank} of {self.size} has failed: {words}")

    # --- bulk ---------------------------------------------------------------------------------------------------

    def moved(self, array: Array, ends: Sequence[int], new_ends: Sequence[int]) -> Array:
        """The rows of this rank, where a table that lies in parts of ``ends`` rows is cut anew at ``new_ends``.

        Both begin with 0 and have one number more than there are ranks.
        """
        row = int(np.prod(array.shape[1:], dtype=np.int64)) * array.itemsize
        low, high = new_ends[self.rank], new_ends[self.rank + 1]
        out = np.empty((high - low, *array.shape[1:]), array.dtype)
        give = [_common(ends, self.rank, new_ends, other) for other in range(self.size)]
        take = [_common(ends, other, new_ends, self.rank) for other in range(self.size)]
        most = max(
            max(b - a for a, b in (_common(ends, i, new_ends, j) for j in range(self.size))) for i in range(self.size)
        )
        step = max(1, ROUND // (max(row, 1) * self.size))
        for first in range(0, most, step):
            sent = [_piece(part, first, step) for part in give]
            got = [_piece(part, first, step) for part in take]
            rows = [array[a - ends[self.rank] : b - ends[self.rank]] for a, b in sent]
            message = np.concatenate([np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in rows])
            counts = [(b - a) * row for a, b in got]
            heard = np.empty(sum(counts), np.uint8)
            self.meet()
            self.comm.Alltoallv(
                [message, ([(b - a) * row for a, b in sent], _starts([(b - a) * row for a, b in sent]))],
                [heard, (counts, _starts(counts))],
            )
            at = 0
            for (a, b), count in zip(got, counts, strict=True):
                out[a - low : b - low].reshape(-1).view(np.uint8)[:] = heard[at : at + count]
                at += count
        return out

    def gathered(self, array: Array, counts: Sequence[int]) -> Array:
        """Rows of all ranks one behind the other, of which each has so many."""
        row = int(np.prod(array.shape[1:], dtype=np.int64)) * array.itemsize
        out, own = np.empty((sum(counts), *array.shape[1:]), array.dtype), np.ascontiguousarray(array)
        starts, step = _starts(counts), max(1, ROUND // (max(row, 1) * self.size))
        for first in range(0, max(counts), step):
            some = [min(max(count - first, 0), step) for count in counts]
            sizes = [n * row for n in some]
            heard = np.empty(sum(sizes), np.uint8)
            self.meet()
            self.comm.Allgatherv(
                own[first : first + step].reshape(-1).view(np.uint8), [heard, (sizes, _starts(sizes))]
            )  # fmt: skip
            for start, n, at in zip(starts, some, _starts(sizes), strict=True):
                out[start + first : start + first + n].reshape(-1).view(np.uint8)[:] = heard[at : at + n * row]
        return out


def _common(ends: Sequence[int], i: int, new_ends: Sequence[int], j: int) -> tuple[int, int]:
    """The rows that part i of a table and part j of another cut have in common."""
    low, high = max(ends[i], new_ends[j]), min(ends[i + 1], new_ends[j + 1])
    return low, max(low, high)


def _piece(part: tuple[int, int], first: int, n: int) -> tuple[int, int]:
    low, high = part
    return min(low + first, high), min(low + first + n, high)


def _starts(counts: Sequence[int]) -> list[int]:
    return [0, *np.cumsum(counts[:-1]).tolist()]


# --- sums that do not depend on who makes them -------------------------------------------------------------------


def combined(parts: Array) -> Any:
    """The sum over the first axis by the engine's binary tree; ``parts`` is used up."""
    stride = 1
    while stride < len(parts):
        parts[: len(parts) - stride : 2 * stride] += parts[stride :: 2 * stride]
        stride *= 2
    return parts[0]


def nodes_of(first: int, last: int) -> list[int]:
    """How many slices each node of the tree sums that slices ``first`` to ``last - 1`` make alone."""
    found: list[tuple[int, int]] = []
    for at in range(first, last):
        begin, n = at, 1
        while found and found[-1][1] == n and found[-1][0] % (2 * n) == 0:
            begin, n = found.pop()[0], 2 * n
        found.append((begin, n))
    return [n for _, n in found]


def summed(nodes: Sequence[tuple[int, Array]]) -> Array:
    """The sum of nodes of the tree, which follow each other from the first slice to the last. They may be used up.

    Parameters
    ----------
    nodes : sequence of (int, array)
        How many slices a node sums, and its numbers.
    """
    found: list[tuple[int, Array]] = []

    def add_last() -> None:
        n, right = found.pop()
        before, left = found.pop()
        found.append((before + n, np.add(left, right, out=left)))

    for node in nodes:
        found.append(node)
        while len(found) > 1 and found[-2][0] == found[-1][0]:
            add_last()
    while len(found) > 1:
        add_last()
    return found[0][1]


class Sums:
    """The sum of gradients over all slices of a batch, of which each rank has some.

    A gradient is cut into as many pieces as there are ranks; each rank gets the nodes of all of its own piece, adds them up in
    the order of the tree, and all get the sums: two transfers, each of about a gradient.
    """

    def __init__(self, ranks: Ranks, n_numbers: int, dtype: Any, slices: Callable[[int], range]) -> None:
        self._ranks = ranks
        self._cuts = [n_numbers * i // ranks.size for i in range(ranks.size + 1)]
        self._nodes = [nodes_of(own.start, own.stop) for own in map(slices, range(ranks.size))]
        me, lengths = ranks.rank, np.diff(self._cuts)
        self._sent = (len(self._nodes[me]) * lengths).tolist()
        self._got = [len(nodes) * int(lengths[me]) for nodes in self._nodes]
        self._length, self._lengths = int(lengths[me]), lengths.tolist()
        self._heard, self._sum = np.empty(sum(self._got), dtype), np.empty(n_numbers, dtype)
        self._message = np.empty(sum(self._sent), dtype)

    def of(self, nodes: Array) -> Array:
        """The sum; ``nodes`` are those of this rank, (nodes, numbers), and may be used up. It is good until the next call."""
        ranks = self._ranks
        if ranks.size == 1:
            return summed(list(zip(self._nodes[0], nodes, strict=True)))
        message = nodes[0] if len(nodes) == 1 else self._message
        if len(nodes) != 1:
            at = 0
            for a, b in zip(self._cuts[:-1], self._cuts[1:], strict=True):
                for node in nodes:
                    message[at : at + b - a] = node[a:b]
                    at += b - a
        ranks.comm.Alltoallv(
            [message, (self._sent, _starts(self._sent))], [self._heard, (self._got, _starts(self._got))]
        )
        found, at = [], 0
        for sizes in self._nodes:
            for n in sizes:
                found.append((n, self._heard[at : at + self._length]))
                at += self._length
        piece = summed(found)
        ranks.comm.Allgatherv(piece, [self._sum, (self._lengths, _starts(self._lengths))])
        return self._sum
