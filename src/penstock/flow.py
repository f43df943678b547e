"""The flow: verbs on rows, and nothing that computes on them. Numbers live in a snapshot, arithmetic in the backend."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from penstock import _backend, _validate
from penstock._describe import describe
from penstock._typing import Array, ArrayLike, Communicator, DTypeLike, Rng, RowsLike
from penstock._warn import ModelWarning, warn
from penstock.base import BASES, AnyBase
from penstock.columns import Names
from penstock.conditioners import MLP
from penstock.history import Epoch, History
from penstock.lattice import Lattice
from penstock.layers import ActNorm, Layer
from penstock.plan import Plan, compile_plan
from penstock.reverse import ReverseKL
from penstock.runner import Runner
from penstock.spec import FlowSpec, circular_layers, resolved_spec
from penstock.state import Snapshot, initial, named
from penstock.support import SupportLike, resolved, resolved_context
from penstock.trained import Trained, files_of_models, free_lock

if TYPE_CHECKING:
    from penstock.files import model
    from penstock.training import Checkpoint, Ranks


@dataclass(frozen=True)
class TrainingState(Epoch):
    """What a callback of ``Flow.fit`` sees after each epoch.

    Attributes
    ----------
    epoch, step : int
        Epochs and optimiser steps done.
    train_loss, validation_loss : float
        Mean negative log-likelihood in nats a row; ``validation_loss`` is NaN without validation rows.
    learning_rate : float
        Rate of the last step.
    flow : Flow
        A copy of the flow with its present parameters and the history so far, for evaluation and sampling. Nothing that is
        done to it touches the training.
    member : int or None
        Its number in an ensemble; None for a flow by itself.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(300, 2))
    >>> flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0)
    >>> flow.fit(X, epochs=9, callbacks=lambda state: state.epoch == 3).history.stopped
    'callback'
    """

    flow: Flow
    member: int | None = None


Callback = Callable[[TrainingState], Any]


# A pickle of at most so many bytes is remembered when it is read.
KEPT_BYTES = 1 << 24
# Attributes that every flow has.
OWN = frozenset(
    ("_spec", "_plan", "_snapshot", "_backend", "_asked", "_made", "_kin", "_columns", "_context_columns", "_library",
     "_missing", "_lattice", "_row_shapes", "_context_shape", "_fit_lock", "_doubled", "history")
)  # fmt: skip


class Flow(Trained, ReverseKL):
    """A normalizing flow, composed from a base density and layers.

    It maps data ``x`` to latents ``z`` by an invertible function ``f``, which layers compose, and has the density
    ``log p(x | c) = log base(f(x; c)) + log |det df/dx|`` with context ``c``, if it has one.

    Parameters
    ----------
    base : StandardNormal, Normal, Uniform, StudentT, GaussianMixture or Product
        The density of the latent side.
    layers : sequence of layers
        From latent to data. Outside of them every flow has a standardisation of its own, the
        identity until the first ``fit``.
    context_dim : int, default 0
        Number of conditioning variables. Every conditioner reads them, before the dimensions of the layer; ``fit``
        standardises them like the data.
    dtype : {"float32", "float64"}, default "float32"
        Precision of parameters and results.
    rng : seed or numpy Generator, optional
        What ``numpy.random.default_rng`` takes; decides random splits and permutations, and the first parameters.
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"
        What computes. ``"auto"`` takes the compiled core, or Numba where that is missing. ``"cuda"`` is an NVIDIA GPU, and
        ``"cuda:1"`` the second one, which need ``pip install penstock-cuda13``.
    embedding : MLP, optional
        A network between the context and the conditioners, trained with the flow: they read its output instead.
    embedding_dim : int, optional
        How many numbers that is; by default the width of its last hidden layer.
    support : str, support, sequence or mapping, optional
        Where the columns lie: ``"real"``, which is the default, ``"positive"``, or :func:`penstock.interval`, for which a
        tuple of two ends is short; one for all columns, or a list with one for each. A mapping by position, ``{0: "positive"}``,
        leaves the others real. One by name has every column in the order of the flow, and gives them these names. Columns
        that share a support are a group, :func:`penstock.ordered` or :func:`penstock.simplex`: one alone, or a list of groups
        and at most one mapping of the other columns, ``[{0: "positive"}, ps.ordered([1, 2])]``. No sample lies outside,
        ``log_prob`` there is -inf with zero gradient, and a row outside has no latent: NaN.
    context_support : str, support, sequence or mapping, optional
        The same of the conditioning variables, without groups, which say nothing of what is given. They reach the networks
        through the bijections of their supports, boxes as numbers from -1 to 1 and circles as cosine and sine, so that ``hi``
        of a circle is ``lo``. Given a context outside there is no density: all results are NaN, as for a context of NaN.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.Flow(ps.StandardNormal(2), [ps.Coupling(), ps.Permutation(), ps.Coupling()], rng=0)
    >>> flow.sample(3, rng=0).shape
    (3, 2)

    Notes
    -----
    One flow may be used from many threads at once. Evaluation works on an immutable snapshot of the
    parameters; assigning new ones replaces it.
    """

    history: History
    """The record of the last ``fit``."""

    def __init__(
        self,
        base: AnyBase,
        layers: Iterable[Layer],
        context_dim: int = 0,
        dtype: DTypeLike = "float32",
        rng: Rng = None,
        backend: str = "auto",
        embedding: MLP | None = None,
        embedding_dim: int | None = None,
        support: SupportLike | None = None,
        context_support: SupportLike | None = None,
    ) -> None:
        structure, numbers = _generators(rng)
        _validate.instance(base, BASES.values(), name="base")
        supports, names = resolved(support, base.dim)
        context_dim = _validate.count(context_dim, name="context_dim")
        given, context_names = resolved_context(context_support, context_dim)
        spec = resolved_spec(base, layers, context_dim, dtype, embedding, embedding_dim, structure, supports, given)
        plan = compile_plan(spec)
        self._setup(spec, plan, initial(plan, spec, numbers), _backend.choose(backend), backend)
        self._columns, self._context_columns = names, context_names

    def _setup(self, spec: FlowSpec, plan: Plan, snapshot: Snapshot, backend: _backend.Backend, asked: str) -> Flow:
        self._spec = spec
        self._plan = plan
        self._snapshot = snapshot
        self._backend = backend
        self._fit_lock = free_lock()
        self._asked = asked  # the backend as it was asked for, which is what travels with a pickle
        self._made: Runner | None = None
        self._kin: Flow | None = None  # a flow of the same plan and backend, which has the runner or will make it
        self._columns: tuple[str, ...] = ()
        self._context_columns: tuple[str, ...] = ()
        self._library = ""  # of the table that it was fitted on
        self._lattice: Lattice | None = None
        self._missing: tuple[str, ...] | None = None  # what stood for no value there, if the command line has been told
        self._row_shapes = ((1, plan.dim), (plan.dim,))
        self._context_shape = (plan.context_dim,)
        self._doubled: tuple[Snapshot, Flow] | None = None  # numbers, and the flow in float64 that has them
        self.history = History()
        return self

    # --- inspecting ---------------------------------------------------------------------------------------------

    @property
    def backend(self) -> str:
        """What computes: ``"cpp"``, ``"numba"``, ``"cuda"`` or ``"cuda:1"``; ``"none"`` where nothing is installed that can."""
        return self._backend.name

    @property
    def n_params(self) -> int:
        """The length of ``params``, with the places that masks hide."""
        return self._plan.n_params

    @property
    def n_free(self) -> int:
        """How many parameters there are: trainable numbers without those that masks hide."""
        return self._plan.n_free

    @property
    def fitted(self) -> bool:
        """Whether a ``fit`` has set the data-dependent parts, standardisation and ActNorm; a further one goes on from there."""
        return self._snapshot.initialised

    @property
    def initialised(self) -> bool:
        """The same as ``fitted``."""
        return self._snapshot.initialised

    @property
    def loc(self) -> Array:
        """Location of the standardisation, a read-only float64 array of shape (dim,): the layers see ``(x - loc) / scale``.

        ``x`` of a column with a support is its image on the line, as :class:`penstock.Interval` has it.
        """
        return self._snapshot.buffers[: self.dim]

    @property
    def scale(self) -> Array:
        """Scale of the standardisation, a read-only float64 array of shape (dim,); ones before the first ``fit``."""
        return self._snapshot.buffers[self.dim : 2 * self.dim]

    @property
    def spec(self) -> FlowSpec:
        """The frozen description of the flow."""
        return self._spec

    @property
    def params(self) -> Array:
        """All trainable numbers in one flat vector, a read-only view. Assigning copies finite numbers in.

        The weights that the masks of an autoregressive layer hide are part of it: they are zero and stay so, whatever
        is assigned.
        """
        return self._snapshot.params[:]

    @params.setter
    def params(self, values: ArrayLike) -> None:
        old = self._snapshot
        numbers = self._plan.clear_masked(_validate.as_params(values, self.n_params, self.dtype))
        self._snapshot = Snapshot(numbers, old.buffers, old.initialised)

    def named_params(self) -> dict[str, Array]:
        """The parameters by name, as read-only views into ``params``.

        Returns
        -------
        dict of str to array
            In the order of ``params``; weights have shape (in, out), free theta has shape (dim, n_theta).

        Examples
        --------
        >>> import penstock as ps
        >>> list(ps.nice(2, layers=1, hidden=(4,), mixing="none", rng=0).named_params())[:2]
        ['layers.0.theta', 'layers.1.conditioner.0.weight']
        """
        return named(self._plan, self._snapshot.params)

    def __repr__(self) -> str:
        names = self._columns, self._context_columns
        buffers = self._snapshot.buffers
        return describe(
            self._spec, self._plan, buffers, fitted=self.fitted, backend=repr(self._backend), names=names,
            lattice=self._lattice,
        )  # fmt: skip

    def _repr_html_(self) -> str:
        """A few lines for notebooks, whose cells often end with a fit; the whole of ``repr`` is folded."""
        from penstock import _html

        whole = repr(self)
        title, _, first = whole.partition("\n")[0].partition(" ")
        lines = [first, f"last fit: {self.history}"] if len(self.history) else [first]
        return _html.block(title, lines, "layers and backend", whole)

    # --- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X: RowsLike,
        context: RowsLike | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        negative_weights: bool = False,
        dequantize: str | Mapping[Any, Any] | Sequence[Any] | None = None,
        validation: float | RowsLike | None = 0.1,
        validation_context: RowsLike | None = None,
        validation_weight: ArrayLike | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 3e-3,
        schedule: str | None = None,
        warmup: float | None = None,
        weight_decay: float | None = None,
        clip_norm: float | None = 1.0,
        patience: int | None = None,
        freeze: str | Sequence[str] = (),
        standardize: bool | str = True,
        rng: Rng = None,
        progress: bool | None = None,
        callbacks: Callback | Iterable[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = True,
        comm: Communicator | None = None,
    ) -> Self:
        """Train by maximum likelihood on the rows of ``X``, keep the parameters that validate best, and return the flow.

        It minimises the mean of ``-log p(x)`` over the rows, weighted if they have weights.

        The first ``fit`` of a flow also sets what depends on data: the standardisation, every ActNorm, and the names of the
        columns. A later one keeps those (a warm start): it goes on from the present parameters, and starts a new optimiser,
        schedule and split; with validation rows it keeps the parameters that it began with if none validate better.
        ``flow.reset()`` forgets everything; each fold of a cross-validation needs a fresh flow.

        Parameters
        ----------
        X : array of shape (rows, dim), or a table
            Any strides; float32 and float64 arrays, memory-mapped ones included, are read as they are. Rows that
            count must be finite and within the supports of the flow; those of weight 0 may hold anything. A DataFrame
            (pandas, polars, pyarrow, and what else narwhals reads), a structured array, a mapping of columns, or for
            one dimension a Series gives the flow the names of its columns; a later one is put into their order.
        context : array of shape (rows, context_dim), or a table, optional
            For a flow with a context, a row for each row of ``X``, read, named, checked and standardised in the same way.
        sample_weight : array or Series of shape (rows,), optional
            Weights of the rows, by position, of which only ratios matter: they may spread over any number of decades, in any
            unit. Rows of weight 0 do not count. The sum must be positive, in the training and in the validation part.
        negative_weights : bool, default False
            Whether weights may be negative, as those of simulated events beyond leading order are; otherwise one is an error.
            Rows of negative weight cancel others nearby. But ``-sum(w log p)`` has then no lower bound: where they outweigh all
            others, it falls for ever as the density there goes to 0. What guards against that: the sums above;
            ``clip_norm``; that a loss or gradient which is not finite ends training; and validation, which keeps the best
            epoch, but whose loss has no lower bound either. Location and scale of columns count absolute weights.
        dequantize : "auto", mapping or sequence, optional
            At the first fit: columns whose values lie on a lattice, such as counts or rounded numbers, and so have no density. A
            mapping of columns, by name or position, to their steps, or a sequence with a step or None for each; ``"auto"`` in
            the place of a step finds it, and by itself takes all columns in which at least half of the values repeat others and
            that have a common step. Such a column is trained with uniform noise as wide as a step, centred on each value, which
            is new in every epoch, and fixed for validation; :attr:`lattice` tells the steps. ``log_prob`` then is the density
            of the variable with noise, in units of the data: step times density at a value is the probability of that value, to
            first order. ``sample`` gives values of the lattice, unless ``raw=True``. Within a support the whole cell of every
            value must lie: of counts, ``ps.interval(-0.5, None)``. The noise of columns of a group stays within it, and only part
            of a cell need lie there: rising columns may tie, in which case their noise is put in order, and positive ones may
            be zero or have the sum 1. Rising columns with different lattices are refused, for their cells overlap in parts, in
            which no noise is both uniform and in order.
        validation : float, array or table, default 0.1
            A fraction of the rows, drawn at random, or rows of one's own, of shape (rows, dim). 0 or None trains without; the
            last parameters are then kept.
        validation_context : array of shape (rows, context_dim), or a table, optional
            The context of validation rows of one's own.
        validation_weight : array or Series of shape (rows,), optional
            Their weights, to which the same applies.
        epochs : int, optional
            Passes over the training rows. By default as many as make about 40 000 steps, at least 1 and at most 100.
        batch_size : int, optional
            Rows a step. By default about a five-hundredth of the training rows, a power of two within 64 and 4096. An
            incomplete last batch is left out; the order changes every epoch.
        learning_rate : float, default 3e-3
            The highest rate of Adam.
        schedule : {"cosine", "onecycle", "constant", "plateau"}, optional
            By default cosine, or plateau where ``patience`` is given.
            Cosine falls to zero over the whole run, ``rate (1 + cos(pi u)) / 2`` with ``u`` from 0 to 1. One cycle rises
            first, ``rate (1/25 + 24/25 (1 - cos(pi v)) / 2)`` with ``v`` from 0 to 1 over the warm-up, and
            then falls as cosine does. Plateau multiplies the rate by 0.3 when half of ``patience`` has gone by
            without a better validation loss, and stops when all of it has.
        warmup : int or float, optional
            Steps (int) or fraction of all steps (float) over which the rate rises: linearly, except in one cycle. By
            default 0.1, and 0.3 for one cycle.
        weight_decay : float, optional
            Decoupled decay (AdamW) of the weight matrices of conditioners. By default none; but where validation rows show,
            before three quarters of a cosine or one cycle are over, that the flow has begun to overfit (the validation
            loss has risen by 0.02 nats, or half the standard error of a normal distribution if that is more, since an epoch that
            lies a tenth of the run back, and the training loss fallen), training begins once more from the start with 0.1, until
            it is past its best again, and the better of both is kept. ``epochs`` are those of each. Zero never does.
        clip_norm : float, optional, default 1.0
            Gradients longer than this are shortened to it; None or infinity leaves them.
        patience : int, optional
            Epochs without a better validation loss before training stops: 20 for the plateau schedule, which it selects,
            never for the constant one unless given. A cosine or one cycle must run to its end and takes none.
        freeze : str or sequence of str, default ()
            Parameters that are not trained: names of ``flow.named_params()`` or prefixes of them, such as
            ``["layers.0", "embedding"]``. Not a bit of them changes: no decay, and a frozen ActNorm is not set by data.
        standardize : bool or "robust", default True
            At the first ``fit``: shift and scale every column by its mean and standard deviation, or
            ("robust", for heavy tails) by median and interquartile range, measured on a sample of 10 000 rows. Where a few
            values (at most one in 1000) lie more than 1000 robust standard deviations from the median, True measures their
            columns robustly, too, and leaves their rows out of the fit, with a warning; "robust" keeps every row. A later fit
            does the same once such rows have made a loss absurd, by the standardisation that it keeps.
        rng : seed or numpy Generator, optional
            What ``numpy.random.default_rng`` takes; decides the split and the order of rows.
        progress : bool, optional
            A progress bar on standard error. By default only where that is a terminal, and in notebooks.
        callbacks : callable or list of callables
            Called with a :class:`TrainingState` after each epoch; training stops when one returns True.
        checkpoint : path, optional
            A model file of the best flow so far and the state of the training, replaced at once whenever the validation
            loss improves (without validation, after every epoch), and by Ctrl-C or an error. Killed and called again in the
            same way, ``fit`` goes on from there and ends with the bits of a run that was never cut short. A run that has
            ended leaves a plain model, and the next call begins anew.
        checkpoint_every : int, optional
            Also write the checkpoint every so many steps, and so within an epoch. It changes no bit of the result.
        resume : bool, default True
            Whether to go on with a run that ``checkpoint`` holds. A run of other data, arguments or seed, or of another
            flow, is an error that says what differs; False begins anew. ``rng=None`` goes on with the seed of the run.
        comm : communicator of mpi4py, optional
            Train on all of its ranks, each of which makes the same call, with its part of the rows (of any size, none
            included): the table is these parts in the order of ranks, and so are validation rows of one's own. All ranks end
            with the same flow, and its bits do not depend on how many there are. Slice j of every batch is drawn from shard j of
            the table, where a fit without ``comm`` shuffles all of it: the bits of the two differ. ``docs/clusters.md`` has more.

        Returns
        -------
        Flow
            The flow itself; ``flow.history`` holds the record.

        Raises
        ------
        TrainingError
            When the loss or gradient of a step, or the outcome of the last one, is NaN or infinite.
        ValueError
            When an argument is none that ``fit`` takes, rows hold NaN or infinity, or the checkpoint is that of another call.
        RuntimeError
            When another ``fit`` of this flow is running, in another thread or around a callback.

        ValueError, TypeError
            When an argument does not fit, is not finite, or has other columns than the flow; the message names it.

        Warns
        -----
        DataWarning
            At the first fit, when a column is constant, or lies more than 10 000 standard deviations from zero, where float32 is
            coarse. Its children: :class:`OutlierWarning` of absurd values; :class:`DiscreteWarning` of a column that takes few
            values, or one of them often; :class:`RepeatedRowsWarning` of rows that repeat others. They read a sample of
            10 000 rows. At a later fit, :class:`RefitWarning`, when 256 of the rows show that a column has moved, or spread, by
            more than three scales since the first, and :class:`OutlierWarning` of rows that have made a loss absurd. At any
            fit, when weights make the training or the validation rows worth fewer than 100 of equal weight, and less than half
            of what they are, by their effective size ``(sum w)^2 / sum w^2``.
        TrainingWarning
            When training was interrupted; when no epoch validated better than the parameters of an earlier fit. Without
            validation rows: when there are fewer training rows than a tenth of the free parameters. :class:`OverfitWarning`:
            when in the last quarter of the epochs the validation loss lies 0.1 nats or more above the best one, while the
            training loss has gone on falling; and when in the epoch that is kept it lies 0.1 nats a dimension (and what chance
            explains) above the training loss, so that the density is too narrow for rows that the flow has not seen.

        Each is said once for each line that calls ``fit``.

        Notes
        -----
        Training works on a copy, and the flow changes once, at the end. Until then evaluation sees the old parameters.
        Whatever is raised, the flow is as it was before the call: parameters, standardisation, history and all. The error,
        a callback's own included, then has two attributes: ``best``, a flow with the best validated parameters (without
        validation the last good ones of the end of an epoch), or None; and ``history``.

        Ctrl-C ends training early: ``fit`` warns and returns normally, and the flow has the best parameters
        so far; ``flow.history.stopped`` is then ``"interrupted"``. Before the first step it raises KeyboardInterrupt.
        With a checkpoint the same call then goes on, with this flow or with one built as it was. After a resume callbacks are
        called for the epochs that follow, and again for one whose callbacks had not all returned; the history is
        whole, but for the times of earlier epochs, which are NaN. ``fit`` handles no signal itself; with ``comm`` the first
        Ctrl-C of any rank is noted, and ends training on all of them after the same step.

        After each epoch both the present parameters and their running mean over the last twentieth of the
        run are validated, and the better of the two counts; runs of under 500 steps have no such mean.

        With the same rows, arguments and seed the parameters come out the same, bit for bit, whatever the
        number of threads.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> a, b = np.random.default_rng(0).normal(size=(2, 1000))
        >>> X = {"a": a, "b": a**2 + 0.3 * b}  # an array or a DataFrame would do
        >>> flow = ps.nsf_ar(2, layers=2, hidden=(16,), rng=0)
        >>> flow.fit(X, epochs=20, rng=0).columns
        ('a', 'b')
        >>> flow.score({"b": [0.25], "a": [0.5]}) > -2
        True
        """
        from penstock import training

        names, lattice = (self._columns, self._context_columns), self._lattice
        try:
            with training.together(comm) as ranks, self._fitting():
                options = training.Options(
                    epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule, warmup=warmup,
                    weight_decay=weight_decay, clip_norm=clip_norm, patience=patience, standardize=standardize, freeze=freeze,
                )  # fmt: skip
                calls = _validate.callables(callbacks, name="callbacks")
                seed = None if rng is None else _validate.seed(rng)
                kept = self._checkpoint(checkpoint, checkpoint_every, resume)
                runner = self._runner()
                if ranks is not None:
                    training.check_divides(runner)
                    kept = None if kept is None else training.FirstWrites(kept, ranks)
                data = X if isinstance(X, training.Data) else training.training_data(
                    X, context, sample_weight, validation, validation_context, validation_weight, dim=self.dim,
                    context_dim=self.context_dim, columns=self._columns, context_columns=self._context_columns,
                    negative_weights=negative_weights, part=ranks is not None,
                )  # fmt: skip
                names = data.columns, data.context_columns
                if ranks is not None:
                    given = options, bool(calls), kept and (kept.every, kept.resume), dequantize, negative_weights
                    self._check_alike(ranks, seed, repr((given, runner.arithmetic)))
                if kept is not None:
                    kept.check_writable()
                data.check_finite()
                measured = data
                if ranks is not None:
                    data = training.spread(ranks, data, runner, options, validation)
                    measured = data.sampled(runner)
                support = self._spec.support
                lattice = training.lattice_of(measured, dequantize, self._lattice, support, fitted=self.fitted)
                if isinstance(data, training.Spread) and not self.fitted:
                    lattice = data.on_lattice(lattice, support, every=isinstance(dequantize, str))
                data.check_inside(support, lattice, self._spec.context_support)
                snapshot, history = training.run(
                    runner,
                    self._snapshot,
                    data,
                    options,
                    seed=seed,
                    support=support,
                    context_support=self._spec.context_support,
                    lattice=lattice,
                    actnorms=[k for k, layer in enumerate(self._spec.layers) if isinstance(layer, ActNorm)],
                    progress=progress,
                    watch=self._watch(calls, names, lattice) if calls else None,
                    checkpoint=kept,
                    contents=None if kept is None else replace(self._contents(None, names), lattice=lattice),
                )
                if ranks is not None:
                    ranks.meet()  # all or none
                # The names first: until the numbers follow, they say of the earlier ones what is true of them, too.
                (self._columns, self._context_columns), self._library = names, data.library or self._library
                self._lattice = lattice
                self._snapshot, self.history = snapshot, history
                self._forget_recalibration()
        except BaseException as error:
            history = getattr(error, "history", None) or History(stopped="failed")
            best = getattr(error, "best", None)
            with suppress(Exception):  # an error that takes no attributes
                error.best = self._with(best, history, names, lattice) if isinstance(best, Snapshot) else None  # type: ignore[attr-defined]
                error.history = history  # type: ignore[attr-defined]
            raise
        return self

    def _check_alike(self, ranks: Ranks, seed: int | None, arguments: str) -> None:
        """Raise unless all ranks begin with the same flow, the same arguments and the same seed."""
        digest = hashlib.blake2b(self.to_bytes(), digest_size=16).digest()
        ranks.same("the flow", digest, "build it with rng=seed, or send it with comm.bcast")
        ranks.same("an argument of fit, or the backend,", arguments, "call it alike, callbacks and checkpoint included")
        ranks.same("rng", seed, "give the same seed everywhere")

    @staticmethod
    def _checkpoint(path: Any, every: Any, resume: Any) -> Checkpoint | None:
        """The file that keeps the state of a ``fit``, if one was asked for."""
        from penstock import training

        if every is not None:
            every = _validate.positive_int(every, name="checkpoint_every")
        if path is None or isinstance(path, training.Checkpoint):
            if path is None and every is not None:
                raise ValueError("checkpoint_every was given, but no checkpoint: the file to write")
            return path
        if resume is not True and resume is not False:
            raise TypeError(f"resume must be True or False, got {resume!r}")
        name = _validate.path(path, name="checkpoint")
        return training.Checkpoint(name, every=every, resume=resume)

    def _with(
        self,
        snapshot: Snapshot,
        history: History | None = None,
        names: tuple[Names, Names] | None = None,
        lattice: Lattice | None = None,
    ) -> Self:
        """A copy with other numbers, and on demand with other names and lattices of columns."""
        twin = self._like(self._spec, self._plan, snapshot)
        if snapshot is not self._snapshot:
            twin._forget_recalibration()
        if names is not None:
            twin._columns, twin._context_columns = names
            twin._lattice = lattice
        twin._made = self._made
        twin.history = history or History()
        return twin

    def _watch(
        self, calls: tuple[Callback, ...], names: tuple[Names, Names] | None, lattice: Lattice | None = None
    ) -> Callable[[Epoch, Snapshot, History], bool]:
        """What calls every callback, each with a copy of its own, and says whether one of them wants to stop."""

        def watch(epoch: Epoch, snapshot: Snapshot, history: History) -> bool:
            flows = (self._with(snapshot, history.copy(), names, lattice) for _ in calls)
            answers = [call(TrainingState(**vars(epoch), flow=flow)) for call, flow in zip(calls, flows, strict=True)]
            return any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)

        return watch

    # --- recalibrating ------------------------------------------------------------------------------------------

    def _on(self, backend: _backend.Backend, asked: str) -> Self:
        """A copy with another backend. Its numbers are packed anew: those of a snapshot are in the form of one engine."""
        old = self._snapshot
        twin = self._like(self._spec, self._plan, Snapshot(old.params, old.buffers, old.initialised))
        twin._backend, twin._asked = backend, asked
        twin.history = self.history.copy()
        return twin

    def _rebuilt(self, parts: Sequence[Any]) -> Self:
        """A copy with the spec, plan and snapshot of ``parts``, of which there is one."""
        twin = self._like(*parts[0])
        twin.history = self.history.copy()
        twin._forget_recalibration()
        return twin

    # --- copies and files ---------------------------------------------------------------------------------------

    def copy(self) -> Self:
        """A flow with the same numbers; what happens to one of the two does not touch the other.

        Returns
        -------
        Flow
            Of the same class, with the same names of columns and the same history.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, rng=0)
        >>> twin = flow.copy()
        >>> twin.params = 0 * twin.params
        >>> bool((flow.params == twin.params).all())
        False
        """
        return self._with(self._snapshot, self.history.copy())

    def to(self, backend: str) -> Self:
        """A copy that another backend computes: the same numbers, names of columns and history.

        Parameters
        ----------
        backend : {"auto", "cpp", "numba", "cuda"}
            As for the flow itself; ``"cuda:1"`` is the second GPU.

        Returns
        -------
        Flow
            Of the same class; the flow itself stays as it is. Results on ``"cuda"`` and ``"cpp"`` have the same bits.

        Raises
        ------
        ImportError
            When that backend cannot run here; the message says why.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, rng=0)
        >>> twin = flow.to("auto")
        >>> bool((twin.params == flow.params).all())
        True
        """
        return self._on(_backend.choose(backend), backend)

    def reset(self, rng: Rng = None) -> Self:
        """Forget all training: fresh parameters, no standardisation, no names of columns. Random splits and permutations stay.

        Where columns, or conditioning variables, have supports, their names stay too, since they say which is which.

        Parameters
        ----------
        rng : seed or numpy Generator, optional
            With the seed that the flow was built with, the parameters are those it had then.

        Returns
        -------
        Flow
            The flow itself.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, layers=2, hidden=(8,), rng=0)
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> flow.fit(X, epochs=1).reset(0).fitted
        False
        """
        self._snapshot = initial(self._plan, self._spec, _generators(rng)[1])
        self._columns = self._columns if self._spec.support else ()
        self._context_columns = self._context_columns if self._spec.context_support else ()
        self._missing, self._lattice = None, None
        self.history = History()
        self._forget_recalibration()
        return self

    def astype(self, dtype: DTypeLike) -> Self:
        """A copy in another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}

        Returns
        -------
        Flow
            With the same numbers, rounded if need be; the flow itself stays as it is.

        Examples
        --------
        >>> import penstock as ps
        >>> ps.realnvp(2, rng=0).astype("float64").dtype
        dtype('float64')
        """
        spec = replace(self._spec, dtype=_validate.float_dtype(dtype).name)
        plan = compile_plan(spec)
        numbers = _validate.as_params(self._snapshot.params, self.n_params, plan.dtype)
        twin = self._like(spec, plan, Snapshot(numbers, self._snapshot.buffers, self._snapshot.initialised))
        twin.history = self.history.copy()
        return twin

    def to_bytes(self) -> bytes:
        """The flow as the bytes of its file; :func:`from_bytes` reads them.

        Returns
        -------
        bytes

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, rng=0)
        >>> ps.from_bytes(flow.to_bytes()).spec == flow.spec
        True
        """
        data: bytes = files_of_models().to_bytes(self._contents(self.history))
        return data

    def _contents(self, history: History | None, names: tuple[Names, Names] | None = None) -> model.Contents:
        """What goes into a file, with the flow's names of columns or others."""
        columns, context_columns = (self._columns, self._context_columns) if names is None else names
        held: model.Contents = files_of_models().Contents(
            self._spec,
            self._plan,
            self._snapshot,
            columns,
            context_columns,
            history,
            missing=self._missing,
            lattice=self._lattice,
        )
        return held

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"history": self.history, "_library": self._library, **self._attributes()}
        return _unpickle, (type(self), files_of_models().to_bytes(self._contents(None)), self._asked), state

    def _attributes(self) -> dict[str, Any]:
        """Attributes that a subclass or a user has added."""
        return {name: value for name, value in vars(self).items() if name not in OWN}

    # --- inside -------------------------------------------------------------------------------------------------

    def _runner(self) -> Runner:
        """The plan on its backend, made at the first computation."""
        if self._made is None:
            self._made = Runner(self._plan, self._backend) if self._kin is None else self._kin._runner()
        return self._made

    def _double(self) -> Flow:
        """The flow in float64: itself, or a copy that is kept while the numbers stay."""
        if self.dtype == np.float64:
            return self
        snapshot = self._snapshot
        kept = self._doubled
        if kept is None or kept[0] is not snapshot:
            kept = self._doubled = snapshot, self._with(snapshot).astype("float64")
        return kept[1]

    def _in_double(self) -> tuple[Runner, Any]:
        """What computes in float64, and the flow's numbers in its form."""
        twin = self._double()
        runner = twin._runner()
        return runner, twin._snapshot.pack(runner)

    def _like(self, spec: FlowSpec, plan: Plan, snapshot: Snapshot, cls: type[Flow] | None = None) -> Self:
        """A flow of the same class, or of another one, with the same names and attributes."""
        twin: Any = object.__new__(cls or type(self))._setup(spec, plan, snapshot, self._backend, self._asked)
        twin._columns, twin._context_columns, twin._library = self._columns, self._context_columns, self._library
        twin._missing, twin._lattice = self._missing, self._lattice
        vars(twin).update(self._attributes())
        return twin  # type: ignore[no-any-return]


def flow_of(contents: model.Contents, backend: str) -> Flow:
    """A flow from what a file holds."""
    circular = circular_layers(contents.spec)
    if circular:
        warn(
            f"layers {circular} wrap around a circle, but the base is {contents.spec.base}, which lies on the whole line: the "
            "density of this flow is wrong (it integrates to less than 1). Build and train it again",
            ModelWarning,
        )
    flow = object.__new__(Flow)._setup(
        contents.spec, contents.plan, contents.snapshot, _backend.choose(backend), backend
    )
    flow._columns, flow._context_columns = contents.columns, contents.context_columns
    flow._missing, flow._lattice = contents.missing, contents.lattice
    if contents.history is not None:
        flow.history = contents.history
    return flow


def _unpickle(cls: type[Flow], data: bytes, backend: str) -> Flow:
    """A flow from its pickle. A pool sends the same one with every task, so the last ones are kept."""
    read = _read_once if len(data) <= KEPT_BYTES else _read_once.__wrapped__
    flow = read(data, backend, os.environ.get("PENSTOCK_BACKEND"))
    twin = flow._like(flow._spec, flow._plan, flow._snapshot, cls)
    twin._kin = flow
    return twin


@lru_cache(maxsize=4)
def _read_once(data: bytes, backend: str, forced: str | None) -> Flow:
    """A flow whose numbers, which never change, those that are pickled alike share."""
    return flow_of(files_of_models().from_bytes(memoryview(data)), backend)


def _generators(rng: Any) -> tuple[np.random.Generator, np.random.Generator]:
    """Generators for the structure and for the numbers, so that the one does not depend on how much the other drew."""
    seed = _validate.seed(rng)
    return np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
