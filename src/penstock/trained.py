"""What a flow and an ensemble have in common besides verbs: names of columns, files, the view at a context, one fit at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from penstock import _validate, columns
from penstock._typing import RowsLike
from penstock.given import Given
from penstock.parts import Parts


class Trained(Parts):
    """A density that ``fit`` trains, whatever keeps its numbers."""

    _fit_lock: tuple[int, threading.Lock]

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the dimensions, or None. The first ``fit`` on a table with names sets them, and so does assigning.

        Every verb then puts the columns of a table into this order, by name; arrays without names are taken as they lie.
        Gradients with respect to rows have this order. Assigning a sequence of ``dim`` different strings renames the
        columns; None forgets the names.
        """
        return self._columns or None

    @columns.setter
    def columns(self, names: Iterable[str] | None) -> None:
        self._columns = columns.checked(names, self.dim, name="columns")

    @property
    def context_columns(self) -> tuple[str, ...] | None:
        """Names of the conditioning variables, or None; as :attr:`columns`."""
        return self._context_columns or None

    @context_columns.setter
    def context_columns(self, names: Iterable[str] | None) -> None:
        self._context_columns = columns.checked(names, self.context_dim, name="context_columns")

    @property
    def lattice(self) -> dict[int | str, float] | None:
        """Steps of the columns that ``fit(dequantize=...)`` took for lattices, by name or position; None without any."""
        own = self._lattice
        return (
            None if own is None else {(self._columns or range(self.dim))[j]: float(own.steps[j]) for j in own.columns}
        )

    # --- conditioning -------------------------------------------------------------------------------------------

    def given(self, context: RowsLike) -> Given:
        """What it is at one context: a view with every verb, without the argument.

        Parameters
        ----------
        context : array of shape (context_dim,), or a table of one row
            A mapping, ``{"mass": 1.0, "age": 3.0}``, is one.

        Returns
        -------
        Given
            It gives the bits that :meth:`log_prob` and the others give with that context.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, context_dim=1, rng=0)
        >>> flow.given([0.5]).sample(3).shape
        (3, 2)
        """
        return Given(self, _validate.as_one_context(self._named_context(context), self.context_dim))

    # --- copies and files ---------------------------------------------------------------------------------------

    def copy(self) -> Self:
        """Another one with the same numbers."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The bytes of its file."""
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file (safetensors), replacing it at once; :func:`load` reads it.

        Parameters
        ----------
        path : str or path

        Examples
        --------
        >>> import os, tempfile
        >>> import penstock as ps
        >>> path = os.path.join(tempfile.mkdtemp(), "flow.safetensors")
        >>> ps.realnvp(2, rng=0).save(path)
        >>> ps.load(path).dim
        2
        """
        files_of_models().save(_validate.path(path), self.to_bytes())

    def __copy__(self) -> Self:
        return self.copy()

    # --- inside -------------------------------------------------------------------------------------------------

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """At most one ``fit`` runs at a time."""
        pid, lock = self._fit_lock
        if pid != os.getpid():  # the child of a fork has no part in a fit that its parent runs
            self._fit_lock = _, lock = free_lock()
        if not lock.acquire(blocking=False):
            raise RuntimeError(
                f"another fit of this {self._word} is running, in another thread or around this callback; "
                f"wait for its end, or fit a copy: {self._word}.copy().fit(...)"
            )
        try:
            yield
        finally:
            lock.release()


def free_lock() -> tuple[int, threading.Lock]:
    """What says whether a fit is running, and the process that it is of."""
    return os.getpid(), threading.Lock()


def files_of_models() -> Any:
    """The module that reads and writes models. It is as much to import as all the rest, and not everybody needs it."""
    from penstock.files import model

    return model
