"""The verb that trains a flow towards an unnormalised density. What is computed stands in ``training/target.py``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from penstock import _validate
from penstock._backend import Backend
from penstock._typing import ArrayLike, Rng, RowsLike
from penstock.base import GaussianMixture, StandardNormal, blocks
from penstock.history import Epoch, History
from penstock.layers import ActNorm, LULinear
from penstock.montecarlo import MonteCarlo
from penstock.plan import compile_plan
from penstock.runner import Runner
from penstock.spec import FlowSpec, latent_kinds
from penstock.state import Snapshot
from penstock.targets import LogDensity

if TYPE_CHECKING:
    from penstock.columns import Names
    from penstock.files import model
    from penstock.lattice import Lattice
    from penstock.training import Checkpoint
    from penstock.training.start import Design


class ReverseKL(MonteCarlo):
    """Training towards a target in the place of data."""

    history: History
    _backend: Backend
    _columns: Names
    _context_columns: Names
    _lattice: Lattice | None

    def fit_to_target(
        self,
        log_density: LogDensity,
        context: RowsLike | Callable[[int, np.random.Generator], ArrayLike] | None = None,
        *,
        init: RowsLike | tuple[ArrayLike, ArrayLike] | None = None,
        estimator: str = "path",
        epochs: int = 50,
        epoch_steps: int = 100,
        batch_size: int = 256,
        validation: int = 2048,
        learning_rate: float = 3e-3,
        schedule: str | None = None,
        warmup: float | None = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        patience: int | None = None,
        freeze: str | Sequence[str] = (),
        rng: Rng = None,
        progress: bool | None = None,
        callbacks: Callable[[Any], Any] | Iterable[Callable[[Any], Any]] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = True,
    ) -> Self:
        """Train towards an unnormalised density, given as a function, keep the parameters that do best, and return the flow.

        It minimises the reverse Kullback-Leibler divergence ``KL(q | p) = E_q[log q(x) - log p(x)] + log Z`` of the flow q
        from the target ``p / Z``, which is to say that it maximises the lower bound ``E_q[log p - log q]`` of the logarithm
        of the evidence Z. The draws are fresh in every step. Where the target has several modes far apart, the flow may
        settle in one of them: this divergence does not miss what no draw has met. With a :class:`GaussianMixture` as base
        each batch has draws of every component, and ``init=`` rows over all modes start them there.

        Columns lie within the supports of the flow, and so do the rows that the target is asked for. For a flow with a
        context the divergence is averaged over contexts, and the flow learns the target at each of them (amortised).

        The first fit of a flow, this one or :meth:`fit`, sets the standardisation and every ActNorm, and this one also
        begins the LU layer nearest to the data, if there is one, with the correlations that the pilot has found; a later one
        keeps them and goes on from the present parameters.

        Parameters
        ----------
        log_density : callable
            A function of rows, a float64 array of shape (rows, dim) in the order of the flow's columns, that returns a
            tuple: log p, of shape (rows,), up to a constant, and its gradient with respect to the rows, of shape (rows,
            dim). It is the density of the columns as they are, with no Jacobian for supports. Draws where either is not
            finite are left out of a step, with a warning at the end. For a flow with a context a function of rows and
            their contexts, (rows, context_dim) in float64.
        context : array of shape (m, context_dim), a table, or callable, optional
            For a flow with a context, what to average over: rows, of which each comes once in every pass through them,
            in random order, or a function ``context(n, rng)`` that draws n rows with a NumPy generator. A first fit
            standardises by them.
        init : array of shape (rows, dim), a table, or tuple (mean, scale), optional
            What sets the standardisation: rows, such as draws of the prior, by their means and standard deviations, or the
            numbers themselves, one or ``dim`` each, of the columns as they are. Rows also measure supports, as a fit to
            data does, and spread the components of a mixture in the base over their clusters (k-means). By default a pilot
            of about 14 000 evaluations finds what it can, a Gaussian with (up to 128 dimensions) a full covariance that
            matches the scores of the target, in unconstrained coordinates where columns have supports, and at six contexts
            where there are any; ``flow.history.start`` says what it found.
        estimator : {"path", "reparameterised"}, default "path"
            How the gradient is estimated. Path, or "sticking the landing", leaves the score of q out, whose mean is zero: it
            has no variance where the flow meets its target.
        epochs : int, default 50
            How often results are measured and reported.
        epoch_steps : int, default 100
            Steps of Adam between two reports.
        batch_size : int, default 256
            Draws a step.
        validation : int, default 2048
            Draws, at least 25, the same after every epoch, that measure the lower bound and the importance weights.
        learning_rate : float, default 3e-3
            The highest rate of Adam.
        schedule : {"cosine", "onecycle", "constant", "plateau"}, optional
            As for :meth:`fit`; plateau and ``patience`` watch the lower bound.
        warmup : int or float, optional
            As for :meth:`fit`.
        weight_decay : float, default 0.0
            As for :meth:`fit`.
        clip_norm : float, optional, default 1.0
            As for :meth:`fit`.
        patience : int, optional
            As for :meth:`fit`.
        freeze : str or sequence of str, default ()
            As for :meth:`fit`.
        rng : seed or numpy Generator, optional
            Decides all draws.
        progress : bool, optional
            As for :meth:`fit`.
        checkpoint, checkpoint_every, resume
            As for :meth:`fit`: the state of the run is kept in a file at the end of each epoch, and the same call goes on
            from there. Another target is told by its values at a few rows.
        callbacks : callable or list of callables
            As for :meth:`fit`: called with a :class:`TrainingState` after each epoch, whose ``validation_loss`` is minus the
            lower bound.

        Returns
        -------
        Flow
            The flow itself; ``flow.history`` holds ``elbo``, ``elbo_error``, ``ess`` (as a part of the draws) and
            ``pareto_k`` of each epoch. Over contexts the lower bound is a mean over some of them, each with 32 draws and an
            evidence of its own, ``ess`` is within contexts, and weights are compared in units of the mean of their context.

        Raises
        ------
        TrainingError
            When a gradient or parameter is NaN or infinite, when the target is for a whole batch, or when the pilot finds
            nothing.
        ValueError, TypeError
            When an argument does not fit, when ``log_density`` returns what it must not, when ``init`` or ``context`` lies
            outside a support, for ``init`` at a later fit, for a ``batch_size`` below the number of components of a mixture, and
            when ``checkpoint`` holds the run of another call.
        RuntimeError
            When another fit of this flow is running.

        Warns
        -----
        TargetWarning
            When draws were left out; when the lower bound was never finite; when the ``pareto_k`` of the parameters that are
            kept is above 0.7.
        DataWarning
            When the target lies more than 10 000 of its widths from zero, where draws in float32 are coarse.
        TrainingWarning
            When training was interrupted.

        Notes
        -----
        As in :meth:`fit`, training works on a copy. Whatever is raised, by ``log_density`` too, the flow is as it was before
        the call, and the error has two attributes: ``best``, a flow with the best parameters so far, or None, and
        ``history``. Ctrl-C keeps the best so far. The present parameters and their running mean over the last twentieth of
        the run are measured, and the better of the two counts. With one seed and one target the parameters come out the
        same, bit for bit, whatever the number of threads.

        References
        ----------
        Roeder, Wu, Duvenaud, "Sticking the Landing" (2017), for the gradient; Cai et al., "Batch and match" (2024), for the
        pilot; Vehtari et al., "Pareto Smoothed Importance Sampling" (2024), for ``pareto_k``.

        Examples
        --------
        >>> import penstock as ps
        >>> def log_density(x):  # a normal density of mean 3 and standard deviation 2, without its constant
        ...     u = (x - 3) / 2
        ...     return -0.5 * (u**2).sum(axis=1), -u / 2
        >>> flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0).fit_to_target(log_density, epochs=5, rng=0)
        >>> found = ps.importance(flow, log_density, 1000, rng=0)
        >>> abs(found.log_evidence - 3.224) < 0.01, found.ess > 990  # log(2 pi 2^2)
        (True, True)

        A gamma density on the positive half-line, for every shape between 1 and 5:

        >>> def gamma(x, shape):
        ...     return ((shape - 1) * np.log(x) - x)[:, 0], (shape - 1) / x - 1
        >>> import numpy as np
        >>> flow = ps.nsf_ar(1, layers=1, hidden=(16,), context_dim=1, support="positive", rng=0)
        >>> flow = flow.fit_to_target(gamma, lambda n, rng: rng.uniform(1, 5, (n, 1)), epochs=5, rng=0)
        >>> bool(abs(flow.sample(20_000, [4.0], rng=0).mean() - 4) < 0.2)
        True
        """
        from penstock.training import start, target
        from penstock.training.contexts import as_contexts
        from penstock.training.options import Options, TargetOptions

        try:
            _validate.function(log_density, name="log_density")
            options = TargetOptions(
                fit=Options(
                    epochs=_validate.positive_int(epochs, name="epochs"),
                    batch_size=_validate.positive_int(batch_size, name="batch_size"),
                    learning_rate=learning_rate, schedule=schedule, warmup=warmup, weight_decay=weight_decay,
                    clip_norm=clip_norm, patience=patience, standardize=True, freeze=freeze,
                ),
                epoch_steps=epoch_steps, estimator=estimator, validation=validation,
            )  # fmt: skip
            calls = _validate.callables(callbacks, name="callbacks")
            spec = self._spec
            given = context if callable(context) else self._named_context(context)
            contexts = as_contexts(given, self.context_dim, spec.context_support, self._context_columns)
            begin = start.as_start(init if isinstance(init, tuple) else self._named(init, "init"), self.dim)
            start.check_start(begin, spec.support, self._columns)
            design = self._design()
            most = max((mixture.components for mixture in design.mixtures), default=0)
            if options.fit.batch_size is not None and options.fit.batch_size < most:
                raise ValueError(
                    f"batch_size must be at least {most}, as each batch has draws of every component of the base, got "
                    f"{batch_size}"
                )
            seed = None if rng is None else _validate.seed(rng)
            kept = self._checkpoint(checkpoint, checkpoint_every, resume)
            if kept is not None:
                kept.check_writable()
            with self._fitting():
                snapshot, history = target.run(
                    self._runner(), self._snapshot, log_density, begin, options, design,
                    seed=seed,
                    contexts=contexts,
                    progress=progress,
                    watch=self._watch(calls, None, self._lattice) if calls else None,
                    checkpoint=kept,
                    contents=None if kept is None else self._contents(None),
                )  # fmt: skip
                self._snapshot, self.history = snapshot, history
                vars(self).pop("recalibration", None)  # which was of other numbers
        except BaseException as error:
            history = getattr(error, "history", None) or History(stopped="failed")
            best = getattr(error, "best", None)
            with suppress(Exception):  # an error that takes no attributes
                error.best = self._with(best, history) if isinstance(best, Snapshot) else None  # type: ignore[attr-defined]
                error.history = history  # type: ignore[attr-defined]
            raise
        return self

    def _design(self) -> Design:
        """What training towards a target needs to know of the flow."""
        from penstock.training.mixtures import Mixture
        from penstock.training.start import Design

        spec, dim = self._spec, self.dim
        layers = list(enumerate(spec.layers))
        linear = max(
            ((k, layer) for k, layer in layers if isinstance(layer, LULinear)), key=lambda pair: pair[0], default=None
        )
        lines: tuple[int, ...] = ()
        if linear is not None:  # the dimensions that it finds to be lines, on its side of the data
            outer = replace(spec, layers=spec.layers[linear[0] + 1 :])
            lines = tuple(i for i, kind in enumerate(latent_kinds(outer)) if kind == "line")
        latent = latent_kinds(spec)
        mixtures = [
            Mixture(number, tuple(i for i in dims if latent[i] == "line"), base.components)
            for number, (base, dims) in enumerate(blocks(spec.base))
            if isinstance(base, GaussianMixture)
        ]
        plain = FlowSpec(StandardNormal(dim), (), dtype=spec.dtype)
        mapped = FlowSpec(StandardNormal(dim), (), dtype="float64", support=spec.support) if spec.support else None
        return Design(
            Runner(compile_plan(plain), self._backend),
            spec.support, self._columns, self._context_columns,
            tuple(k for k, layer in layers if isinstance(layer, ActNorm)),
            None if linear is None else (*linear, lines),
            tuple(mixture for mixture in mixtures if mixture.dims),
            None if mapped is None else Runner(compile_plan(mapped), self._backend),
            spec.context_support,
        )  # fmt: skip

    # --- what the flow brings -----------------------------------------------------------------------------------

    def _fitting(self) -> AbstractContextManager[None]:
        """At most one fit of a flow runs at a time."""
        raise NotImplementedError

    def _watch(self, calls: Any, names: Any, lattice: Any = None) -> Callable[[Epoch, Snapshot, History], bool]:
        """What calls every callback."""
        raise NotImplementedError

    @staticmethod
    def _checkpoint(path: Any, every: Any, resume: Any) -> Checkpoint | None:
        """The file that keeps the state of a run, if one was asked for."""
        raise NotImplementedError

    def _contents(self, history: History | None, names: Any = None) -> model.Contents:
        """What goes into a file."""
        raise NotImplementedError

    def _with(self, snapshot: Snapshot, history: History | None = None, names: Any = None) -> Self:
        """A copy with other numbers."""
        raise NotImplementedError
