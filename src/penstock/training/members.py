"""Several trainings side by side: each on a Python thread of its own, so many computing at a time as there are threads.

Members take turns: one that has computed for a while lets the next one go on, so that all are about as far whenever they are
stopped. What one of them computes does not depend on when its turns come. Whatever belongs to the caller's thread is done there:
warnings, callbacks, and Ctrl-C, which is noticed by the main thread alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from penstock import _backend, _warn
from penstock.training.progress import Progress

WAIT = 0.1  # seconds between two looks at what is left, where nothing else wakes the caller


class GivenUp(BaseException):
    """Raised in a member because another one has failed."""


class Turns:
    """So many may go on at a time; who waits longest is next."""

    def __init__(self, n: int) -> None:
        self._free = n
        self._changed = threading.Condition()
        self._waiting: deque[int] = deque()

    def take(self, member: int) -> None:
        """Wait for a turn."""
        with self._changed:
            self._waiting.append(member)
            self._changed.wait_for(lambda: self._free > 0 and self._waiting[0] == member)
            self._waiting.popleft()
            self._free -= 1
            self._changed.notify_all()

    def give(self) -> None:
        """End a turn."""
        with self._changed:
            self._free += 1
            self._changed.notify_all()

    def wanted(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)


class Team:
    """Members that train side by side, and what they share.

    Parameters
    ----------
    n : int
        Number of members.
    progress : bool or None
        Whether one progress bar of all is shown, as for ``Flow.fit``.
    """

    def __init__(self, n: int, progress: bool | None) -> None:
        self.n, self._shown = n, progress
        threads = _backend.num_threads()
        self.turns = Turns(min(n, threads))
        self.threads = max(1, threads // n)
        self.stop: type[BaseException] | None = None
        self.errors: list[BaseException | None] = [None] * n
        self._work: deque[Callable[[], Any]] = deque()  # for the caller's thread
        self._news = threading.Event()
        self._lock = threading.Lock()
        self._bar: Progress | None = None
        self._failed: BaseException | None = None

    # --- in the threads of members ------------------------------------------------------------------------------

    def bar(self, total: int) -> Progress:
        """The one progress bar, for members of so many rows each."""
        with self._lock:
            if self._bar is None:
                self._bar = Progress(self._shown, total * self.n)
            return self._bar

    def draw(self, action: Callable[[Progress], Any]) -> None:
        """Draw the progress bar, one member at a time."""
        with self._lock:
            if self._bar is not None:
                action(self._bar)

    def ask(self, action: Callable[[], Any]) -> Any:
        """What the caller's thread makes of an action, which may raise."""
        answer: list[Any] = []
        came = threading.Event()

        def work() -> None:
            if came.is_set():  # done before an interrupt has come in between
                return
            try:
                answer.append((action(), None))
            except BaseException as error:
                answer.append((None, error))
                if isinstance(error, KeyboardInterrupt):
                    raise
            finally:
                came.set()

        self._post(work)
        came.wait()
        found, error = answer[0]
        if error is not None:
            raise error
        return found

    def _post(self, work: Callable[[], Any]) -> None:
        self._work.append(work)
        self._news.set()

    def _run(self, k: int, job: Callable[[Turn], Any], errors: Any) -> None:
        """One member, from its first turn to its last."""
        self.turns.take(k)
        try:
            if self.stop is not None:
                raise self.stop
            with np.errstate(**errors), _backend.threads(self.threads), _warn.told_to(self._warner(k)):
                job(Turn(self, k))
        except BaseException as error:
            self.errors[k] = error
            if not isinstance(error, (KeyboardInterrupt, GivenUp)):
                self.stop = self.stop or GivenUp
        finally:
            self.turns.give()
            self._news.set()

    def _warner(self, k: int) -> Callable[[_warn.Told], None]:
        def issue(told: _warn.Told) -> None:
            try:
                _warn.issue(told.about_member(k))
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # where warnings are errors
                self._fail(error)

        return lambda told: self._post(lambda: issue(told))

    # --- in the caller's thread ---------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """Give all members up because of what has happened here."""
        self._failed, self.stop = self._failed or error, GivenUp

    def train(self, jobs: Sequence[Callable[[Turn], Any]]) -> None:
        """Run a job for each member. Raises the error of the first that failed, once all have ended."""
        caller = np.geterr()
        threads = [
            threading.Thread(target=self._run, args=(k, job, caller), name=f"penstock-member-{k}", daemon=True)
            for k, job in enumerate(jobs)
        ]
        try:
            for thread in threads:
                thread.start()
        except BaseException as error:
            self._fail(error)
        while any(thread.is_alive() for thread in threads) or self._work:
            try:
                self._news.wait(WAIT)
                self._news.clear()
                while self._work:  # what a signal cuts short is done again
                    self._work[0]()
                    self._work.popleft()
            except KeyboardInterrupt:
                self.stop = self.stop or KeyboardInterrupt
            except BaseException as error:
                self._fail(error)
        with suppress(BaseException):
            self.draw(lambda bar: bar.close())
        own = [error for error in self.errors if error is not None]
        own.sort(key=lambda error: isinstance(error, (KeyboardInterrupt, GivenUp)))
        if self._failed is not None:
            raise self._failed
        if own:
            raise own[0]


class Turn(Progress):
    """The progress of one member, as its training tells of it: between two calls of the engine it lets others go on."""

    def __init__(self, team: Team, member: int) -> None:
        self.team, self.member = team, member

    def begun(self, total: int, done: int) -> Turn:
        """The bar of a run over so many rows, of which an earlier process has done some."""
        self.team.bar(total)
        self.team.draw(lambda bar: bar.update(done))
        return self

    def update(self, rows: int) -> None:
        """Note that so many rows were trained on; stop here where the training is to end, otherwise wait for the next turn."""
        self.team.draw(lambda bar: bar.update(rows))
        if self.team.stop is None and self.team.turns.wanted():
            self.team.turns.give()
            self.team.turns.take(self.member)
        if self.team.stop is not None:
            raise self.team.stop

    def epoch(self, title: str, losses: str) -> None:
        """Show how far this member is."""
        self.team.draw(lambda bar: bar.epoch(f"member {self.member}, {title}", losses))

    def close(self) -> None:
        """The bar is that of all."""
