"""What a flow and an ensemble have in common besides verbs: names of columns, files, the view at a context, one fit at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.given import Given
from penstock.parts import Parts

if TYPE_CHECKING:
    from penstock.recalibrate import Recalibration


class Trained(Parts):
    """A density that ``fit`` trains, whatever keeps its numbers."""

    recalibration: Recalibration | None = None
    """What :meth:`recalibrate` did to it. Copies and pickles have it, files do not; ``fit`` and ``reset`` forget it."""

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

    # --- calibration ---------------------------------------------------------------------------------------------

    def recalibrate(
        self,
        X: RowsLike,
        context: RowsLike | None = None,
        *,
        how: str = "temperature",
        sample_weight: ArrayLike | None = None,
        rng: Rng = None,
    ) -> Self:
        """A copy whose latents are made to fit its base, by one more layer, on rows that it was not trained on.

        ``"temperature"`` multiplies all latents on lines by one number: the cure for a flow that is too narrow, or too wide,
        everywhere. Circles and boxes are left as they are. ``"pit"`` gives each latent dimension a monotone rational-quadratic
        spline that makes its distribution that of the base, as far as the rows tell. Both have the greatest likelihood for the
        rows, that of the splines with a normal prior of their numbers. The layer is an :class:`penstock.Elementwise`, the first
        of ``spec.layers``. The members of an ensemble share one temperature, that of their mixture, and take no splines.

        Parameters
        ----------
        X, context
            As for :meth:`log_prob`, at least 100 rows for a temperature and 500 for splines: neither training nor validation
            rows. Columns that lie on the lattice of ``fit(dequantize=...)`` get its noise.
        how : {"temperature", "pit"}, default "temperature"
        sample_weight : array of shape (rows,), optional
            Weights of the rows, at least 0.
        rng : seed or numpy Generator, optional
            Of the folds by which the effect is judged.

        Returns
        -------
        Flow or Ensemble
            A new one, with ``recalibration``: log-density and coverage of rows before and after, by cross-validation within X,
            which ``print`` tells, and the logger ``"penstock"``. What it is made of stays as it is.

        Raises
        ------
        ValueError
            For too few rows, rows outside the support, splines of an ensemble, or a base that nothing can be scaled to: a
            uniform one.

        Warns
        -----
        TrainingWarning
            When held-out rows are not described better by it, by more than a standard error.

        References
        ----------
        Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks" (2017), section 4.2, for temperatures; Dey,
        Zhao, Newman, et al., "Conditionally Calibrated Predictive Distributions by Probability-Probability Map" (2022), for
        recalibration by PIT.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> X = 1.25 * np.random.default_rng(0).normal(size=(2000, 2))
        >>> better = ps.realnvp(2, rng=0).recalibrate(X, rng=0)  # a fresh flow is the standard normal
        >>> better.spec.layers[0].transform, abs(better.recalibration.scale - 0.8) < 0.03
        (Affine(scale_bound=inf), True)
        """
        from penstock.recalibrate import Rows, recalibrated

        batch = self._batch(X, context, "X")
        x = _validate.as_rows(batch.x if len(batch.shape) == 1 else X, self.dim, name="X")
        for values, name in ((x, "X"), (batch.context, "context")):
            if values is not None:
                _validate.all_finite(values, name=name)
        weight = None
        if sample_weight is not None:
            weight = _validate.as_shaped(sample_weight, batch.shape, _validate.FLOAT64, name="sample_weight")
            weight = _validate.as_positive_weights(weight, len(x), name="sample_weight")
        flows, weights = self._flows_and_weights()
        with np.errstate(divide="ignore"):  # a member may have no weight
            log_weights = np.log(weights)
        parts, record = recalibrated(flows, log_weights, Rows(x, batch.context, weight), how, self._rebuilt, rng)
        twin = self._rebuilt(parts)
        twin.recalibration = record
        return twin

    def _flows_and_weights(self) -> tuple[Sequence[Any], Array]:
        """The flows that it is made of, and their weights."""
        return [self], np.ones(1)

    def _forget_recalibration(self) -> None:
        """Its numbers are others now: what was told of earlier ones is not true of them."""
        vars(self).pop("recalibration", None)

    def _rebuilt(self, parts: Sequence[Any]) -> Self:
        """A copy whose flows have other specs, plans and snapshots."""
        raise NotImplementedError

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

    def to(self, backend: str) -> Self:
        """Another one with the same numbers, which another backend computes."""
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
