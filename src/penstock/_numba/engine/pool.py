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

import numpy as np

POLL_SECONDS = 0.1


class Stop:
    """Whether a call has been given up: then its jobs return soon. Compiled code looks at the flag."""

    def __init__(self) -> None:
        self.flag = np.zeros(1, np.int64)

    def __call__(self) -> bool:
        return bool(self.flag[0])


Job = Callable[[int, Stop], None]  # the job's number, and whether to go on


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
        self.stop = Stop()
        self.finished: list[int] = []  # a number for every job that is done
        self.helping: list[int] = []  # and for every helper that may be in a job
        self.changed = threading.Event()

    def give_up(self, error: BaseException) -> None:
        """Let all jobs return."""
        self.error = error
        self.stop.flag[0] = 1

    def work(self) -> None:
        """Do jobs until none is left."""
        for i in self.numbers:
            if i >= self.n_jobs or self.stop():
                return
            self.job(i, self.stop)
            self.finished.append(i)

    def help(self) -> None:
        """The same on another thread; what goes wrong is the caller's to raise."""
        self.helping.append(1)  # before a look at what is left, so that the caller either sees this or has left nothing
        try:
            self.work()
        except BaseException as error:
            self.give_up(error)
        finally:
            self.helping.pop()
            self.changed.set()

    def wait(self) -> None:
        """Until no job is left and no helper is in one; an interrupt gives the call up first."""
        while True:
            try:
                self.changed.clear()
                if not self.helping and (self.stop() or len(self.finished) == self.n_jobs):
                    return
                self.changed.wait(POLL_SECONDS)
            except KeyboardInterrupt as error:
                self.give_up(error)


class Pool:
    """Helpers that take tasks from one queue."""

    def __init__(self) -> None:
        self.n_helpers = 0
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[Task] = SimpleQueue()

    def run(self, job: Job, n_jobs: int, n_threads: int, works: bool) -> None:
        """Every job, in any order, on at most so many threads, the caller's included unless it only waits."""
        task = Task(job, n_jobs)
        helpers = min(n_threads, n_jobs) - works
        self.start(helpers)
        try:
            for _ in range(helpers):
                self.tasks.put(task)
            if works:
                task.work()
        except BaseException as error:
            task.give_up(error)
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


NEVER = Stop()


def parallel(job: Job, n_jobs: int, n_threads: int, *, long: bool = False) -> None:
    """``job(i, stop)`` for every i below ``n_jobs`` on the shared pool.

    While a ``long`` job runs on the main thread no signal could be handled, so that one only waits.
    """
    waits = long and n_jobs > 0 and threading.current_thread() is threading.main_thread()
    if not waits and (n_jobs <= 1 or n_threads <= 1):
        for i in range(n_jobs):
            job(i, NEVER)
    else:
        _pool.run(job, n_jobs, n_threads, not waits)


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
