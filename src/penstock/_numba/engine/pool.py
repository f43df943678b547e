"""The thread pool: a caller and its helpers share the jobs of one task.

Threads are daemons, started when first needed and started anew after a fork. A caller works on its own task, so it
finishes even if every helper is busy elsewhere: concurrent and nested callers cannot deadlock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import count
from queue import SimpleQueue

Stopped = Callable[[], bool]
Job = Callable[[int, Stopped], None]  # the job's number, and whether the call has been given up: then return soon

POLL_SECONDS = 0.1


class Task:
    """Jobs 0 .. n_jobs - 1 of one call.

    Only the caller can be interrupted, anywhere; so nothing here is a lock that it might keep, or a count that it might
    leave wrong.
    """

    def __init__(self, job: Job, n_jobs: int) -> None:
        self.job = job
        self.n_jobs = n_jobs
        self.numbers = count()
        self.error: BaseException | None = None
        self.helping: list[int] = []  # a number for every helper that may be in a job
        self.changed = threading.Event()

    def stopped(self) -> bool:
        """Whether the call has been given up."""
        return self.error is not None

    def work(self) -> None:
        """Do jobs until none is left."""
        for i in self.numbers:
            if i >= self.n_jobs or self.stopped():
                return
            self.job(i, self.stopped)

    def help(self) -> None:
        """The same on another thread; what goes wrong is the caller's to raise."""
        self.helping.append(1)  # before a look at what is left, so that the caller either sees this or has left nothing
        try:
            self.work()
        except BaseException as error:
            self.error = error
        finally:
            self.helping.pop()
            self.changed.set()

    def wait(self) -> None:
        """Until no helper is in a job; an interrupt gives the call up first."""
        while True:
            try:
                self.changed.clear()
                if not self.helping:
                    return
                self.changed.wait(POLL_SECONDS)
            except KeyboardInterrupt as error:
                self.error = error


class Pool:
    """Helpers that take tasks from one queue."""

    def __init__(self) -> None:
        self.n_helpers = 0
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[Task] = SimpleQueue()

    def run(self, job: Job, n_jobs: int, n_threads: int) -> None:
        """Every job, in any order, on at most so many threads, the caller's included."""
        task = Task(job, n_jobs)
        helpers = min(n_threads, n_jobs) - 1
        self.start(helpers)
        try:
            for _ in range(helpers):
                self.tasks.put(task)
            task.work()
        except BaseException as error:
            task.error = error
        task.wait()
        if task.error is not None:
            raise task.error

    def start(self, n: int) -> None:
        """At least ``n`` helpers."""
        if self.n_helpers >= n:
            return
        with self.lock:
            while self.n_helpers < n:
                threading.Thread(target=self.help, name=f"penstock-{self.n_helpers + 1}", daemon=True).start()
                self.n_helpers += 1

    def help(self) -> None:
        """What a helper does all its life."""
        while True:
            self.tasks.get().help()


_pool = Pool()
_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_local = threading.local()  # .n: what set_local_num_threads set


def _after_fork() -> None:
    global _pool
    _pool = Pool()  # the threads and the state of the locks stayed with the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _never() -> bool:
    return False


def parallel(job: Job, n_jobs: int, n_threads: int) -> None:
    """``job(i, stopped)`` for every i below ``n_jobs`` on the shared pool."""
    if n_jobs <= 1 or n_threads <= 1:
        for i in range(n_jobs):
            job(i, _never)
    else:
        _pool.run(job, n_jobs, n_threads)


def set_num_threads(n: int) -> None:
    """How many threads a call of this process may use, the caller's included."""
    global _threads
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    _threads = int(n)


def set_local_num_threads(n: int) -> None:
    """The same for calls from the calling thread alone; 0 to follow the process again."""
    _local.n = int(n)


def num_threads() -> int:
    """How many threads a call from the calling thread may use."""
    return getattr(_local, "n", 0) or _threads
