"""The thread pool: a caller and its helpers share the jobs of one task.

Threads are daemons, started when first needed and started anew after a fork. A caller works on its own task, so it
finishes even if every helper is busy elsewhere: concurrent and nested callers cannot deadlock.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

POLL_SECONDS = 0.1


class Task:
    """Jobs 0 .. n_jobs - 1 of one call."""

    def __init__(self, job: Callable[[int], None], n_jobs: int) -> None:
        self.job = job
        self.n_jobs = n_jobs
        self.next = 0
        self.running = 0
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def work(self) -> None:
        """Do jobs until none is left or one has failed."""
        while True:
            with self.changed:
                if self.error is not None or self.next >= self.n_jobs:
                    return
                i = self.next
                self.next += 1
                self.running += 1
            try:
                self.job(i)
            except BaseException as error:
                self.stop(error)
            finally:
                with self.changed:
                    self.running -= 1
                    self.changed.notify_all()

    def stop(self, error: BaseException) -> None:
        """Start no further job; the caller will raise ``error``."""
        with self.changed:
            self.error = self.error or error

    def wait(self) -> None:
        """Until no job is running; an interrupt stops the task first."""
        while True:
            try:
                with self.changed:
                    while self.running:
                        self.changed.wait(POLL_SECONDS)
                    return
            except KeyboardInterrupt as error:
                self.stop(error)


class Pool:
    """Helpers that take tasks from one queue."""

    def __init__(self) -> None:
        self.n_helpers = 0
        self.lock = threading.Lock()
        self.tasks: SimpleQueue[Task] = SimpleQueue()

    def run(self, job: Callable[[int], None], n_jobs: int, n_threads: int) -> None:
        """``job(i)`` for every i below ``n_jobs``, in any order, on at most so many threads, the caller's included."""
        task = Task(job, n_jobs)
        helpers = min(n_threads, n_jobs) - 1
        if helpers > 0:
            self.start(helpers)
        try:
            for _ in range(helpers):
                self.tasks.put(task)
            task.work()
        except KeyboardInterrupt as error:
            task.stop(error)
        task.wait()
        if task.error is not None:
            raise task.error

    def start(self, n: int) -> None:
        """At least ``n`` helpers."""
        with self.lock:
            while self.n_helpers < n:
                threading.Thread(target=self.help, name=f"penstock-{self.n_helpers + 1}", daemon=True).start()
                self.n_helpers += 1

    def help(self) -> None:
        """What a helper does all its life."""
        while True:
            self.tasks.get().work()


_pool = Pool()
_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _after_fork() -> None:
    global _pool
    _pool = Pool()  # the threads and the state of the locks stayed with the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def parallel(job: Callable[[int], None], n_jobs: int, n_threads: int) -> None:
    """``job(i)`` for every i below ``n_jobs`` on the shared pool."""
    if n_jobs <= 1 or n_threads <= 1:
        for i in range(n_jobs):
            job(i)
    else:
        _pool.run(job, n_jobs, n_threads)


def set_num_threads(n: int) -> None:
    """How many threads a call may use, the caller's included."""
    global _threads
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    _threads = int(n)


def num_threads() -> int:
    """How many threads a call may use."""
    return _threads
