"""The flow: verbs on rows, and nothing that computes on them. Numbers live in a snapshot, arithmetic in the backend."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from penstock import _backend, _html, _validate
from penstock._describe import describe
from penstock._files import check_writable
from penstock._typing import Array
from penstock._warn import warn
from penstock.base import StandardNormal
from penstock.conditioners import MLP
from penstock.files import model
from penstock.history import Epoch, History
from penstock.layers import ActNorm, Layer
from penstock.plan import Plan, compile_plan
from penstock.runner import Runner
from penstock.spec import FlowSpec, circular_layers, resolved_spec
from penstock.state import Snapshot, initial, named

if TYPE_CHECKING:
    from penstock.training import Checkpoint


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
    """

    flow: Flow


Callback = Callable[[TrainingState], Any]


# One seed has so many draws for each of so many rows of context.
DRAWS, CONTEXTS = 1 << 56, 1 << 40
# A pickle of at most so many bytes is remembered when it is read.
KEPT_BYTES = 1 << 24
# Attributes that every flow has.
OWN = frozenset(
    ("_spec", "_plan", "_snapshot", "_backend", "_asked", "_made", "_kin", "_columns", "_context_columns", "_row_shapes",
     "_context_shape", "_fit_lock", "history")
)  # fmt: skip


class Flow:
    """A normalizing flow, composed from a base density and layers.

    Parameters
    ----------
    base : StandardNormal
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
    backend : {"auto", "cpp", "numba"}, default "auto"
        What computes. ``"auto"`` takes the compiled core, or Numba where that is missing.
    embedding : MLP, optional
        A network between the context and the conditioners, trained with the flow: they read its output instead.
    embedding_dim : int, optional
        How many numbers that is; by default the width of its last hidden layer.

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
        base: StandardNormal,
        layers: Iterable[Layer],
        context_dim: int = 0,
        dtype: Any = "float32",
        rng: Any = None,
        backend: str = "auto",
        embedding: MLP | None = None,
        embedding_dim: int | None = None,
    ) -> None:
        structure, numbers = _generators(rng)
        spec = resolved_spec(base, layers, context_dim, dtype, embedding, embedding_dim, structure)
        plan = compile_plan(spec)
        self._setup(spec, plan, initial(plan, spec, numbers), _backend.choose(backend), backend)

    def _setup(self, spec: FlowSpec, plan: Plan, snapshot: Snapshot, backend: _backend.Backend, asked: str) -> Flow:
        self._spec = spec
        self._plan = plan
        self._snapshot = snapshot
        self._backend = backend
        self._asked = asked  # the backend as it was asked for, which is what travels with a pickle
        self._made: Runner | None = None
        self._kin: Flow | None = None  # a flow of the same plan and backend, which has the runner or will make it
        self._columns: tuple[str, ...] = ()
        self._context_columns: tuple[str, ...] = ()
        self._row_shapes = ((1, plan.dim), (plan.dim,))
        self._context_shape = (plan.context_dim,)
        self._fit_lock = os.getpid(), threading.Lock()
        self.history = History()
        return self

    # --- inspecting ---------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self._plan.dim

    @property
    def context_dim(self) -> int:
        """Number of conditioning variables."""
        return self._plan.context_dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of parameters and results."""
        return self._plan.dtype

    @property
    def backend(self) -> str:
        """What computes: ``"cpp"``, ``"numba"``, or ``"none"`` where nothing that can is installed."""
        return self._backend.name

    @property
    def n_params(self) -> int:
        """How many trainable numbers there are, with those that masks hide."""
        return self._plan.n_params

    @property
    def initialised(self) -> bool:
        """Whether the data-dependent parts (standardisation, ActNorm) were set by a ``fit``."""
        return self._snapshot.initialised

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
    def params(self, values: Any) -> None:
        old = self._snapshot
        numbers = self._plan.clear_masked(_validate.as_params(values, self.n_params, self.dtype))
        self._snapshot = Snapshot(numbers, old.buffers, old.initialised)

    def named_params(self) -> dict[str, Array]:
        """The parameters by name, as read-only views into ``params``."""
        return named(self._plan, self._snapshot.params)

    def __repr__(self) -> str:
        return describe(self._spec, self._plan, fitted=self.initialised, backend=repr(self._backend))

    def _repr_html_(self) -> str:
        """A few lines for notebooks, whose cells often end with a fit; the whole of ``repr`` is folded."""
        whole = repr(self)
        title, _, first = whole.partition("\n")[0].partition(" ")
        lines = [first, f"last fit: {self.history}"] if len(self.history) else [first]
        return _html.block(title, lines, "layers and backend", whole)

    # --- evaluating ---------------------------------------------------------------------------------------------

    def log_prob(self, X: Any, context: Any = None, *, out: Array | None = None) -> Any:
        """The log-density of rows, in units of the data.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        context : array of shape (context_dim,), (rows, context_dim) or (m, context_dim), optional
            For a flow with a context: one for all rows, one for each row, or for ``X`` of shape (m, n, dim) one for
            each of its m blocks.
        out : array, optional
            Where to write the result: of its shape, in the dtype of the flow and in C order.

        Returns
        -------
        scalar, or array of shape (rows,) or (m, n)
            A row that holds NaN has log-density NaN.
        """
        # A sampler asks for one row at a time: a row that is plainly in order passes straight through.
        if type(X) is np.ndarray and out is None and self._made is not None and self._plain(context):
            shape = X.shape
            if shape in self._row_shapes and (X.dtype is _validate.FLOAT32 or X.dtype is _validate.FLOAT64):
                snapshot = self._snapshot
                packed = snapshot.packed or snapshot.pack(self._made)
                if len(shape) == 1:
                    return self._made.log_prob_row(packed, X[None], context)[0]
                return self._made.log_prob_row(packed, X, context)
        x, given, shape = self._batch(X, context, "X")
        into = None if out is None else _validate.as_out(out, shape, self.dtype, avoid=(x, given)).reshape(-1)
        runner = self._runner()
        result = runner.log_prob(self._snapshot.pack(runner), x, given, into)
        return _shaped(result, shape) if out is None else out

    def score(self, X: Any, context: Any = None) -> float:
        """The mean log-density of rows; NaN for none.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        context : array, optional
            As for :meth:`log_prob`.
        """
        x, given, _ = self._batch(X, context, "X")
        runner = self._runner()
        log_prob = runner.log_prob(self._snapshot.pack(runner), x, given, dtype=_validate.FLOAT64)
        with np.errstate(all="ignore"):
            return float(log_prob.mean()) if len(x) else float("nan")

    def to_latent(self, X: Any, context: Any = None) -> tuple[Array, Any]:
        """Map rows from the data side to the latent side.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        context : array, optional
            As for :meth:`log_prob`.

        Returns
        -------
        z : array of the shape of X
        log_det : scalar, or array of shape (rows,) or (m, n)
            Log abs det of the Jacobian of this map.
        """
        return self._map(False, X, context, "X")

    def to_data(self, z: Any, context: Any = None) -> tuple[Array, Any]:
        """Map rows from the latent side to the data side.

        Parameters
        ----------
        z : array of shape (dim,), (rows, dim) or (m, n, dim)
        context : array, optional
            As for :meth:`log_prob`.

        Returns
        -------
        x : array of the shape of z
        log_det : scalar, or array of shape (rows,) or (m, n)
            Log abs det of the Jacobian of this map.
        """
        return self._map(True, z, context, "z")

    def _map(self, to_data: bool, rows: Any, context: Any, name: str) -> tuple[Array, Any]:
        x, given, shape = self._batch(rows, context, name)
        runner = self._runner()
        out, log_det = runner.transform(self._snapshot.pack(runner), to_data, x, given)
        return out.reshape(*shape, self.dim), _shaped(log_det, shape)

    # --- sampling -----------------------------------------------------------------------------------------------

    def sample(
        self,
        n: int | None,
        context: Any = None,
        *,
        rng: Any = None,
        out: Array | None = None,
        first: int = 0,
        first_context: int = 0,
    ) -> Array:
        """Draw rows.

        Parameters
        ----------
        n : int or None
            How many. None draws once for each row of a context of shape (m, context_dim).
        context : array of shape (context_dim,) or (m, context_dim), optional
            For a flow with a context: one for all draws, or ``n`` draws for each of m.
        rng : seed or numpy Generator, optional
            What ``numpy.random.default_rng`` takes; a Generator is advanced once. With one seed, draw
            ``i`` of context row ``j`` is the same however many are drawn and however many rows there are.
        out : array of the shape of the result, optional
            Where to write them: in the dtype of the flow and in C order.
        first, first_context : int, default 0
            Numbers of the first draw and of the first row of context: with one seed, ``sample(n, first=i)`` gives draws
            ``i`` to ``i + n - 1`` of those of ``sample(i + n)``.

        Returns
        -------
        array of shape (n, dim), (m, n, dim), or for ``n=None`` (m, dim)
        """
        given, shape, numbers = self._draws(n, context, first, first_context)
        into = None
        if out is not None:
            into = _validate.as_out(out, (*shape, self.dim), self.dtype, avoid=(given,)).reshape(-1, self.dim)
        seed = _validate.seed(rng)
        runner = self._runner()
        x, _ = runner.sample(self._snapshot.pack(runner), math.prod(shape), seed, given, into, numbers=numbers)
        return x.reshape(*shape, self.dim) if out is None else out

    def sample_and_log_prob(
        self, n: int | None, context: Any = None, *, rng: Any = None, first: int = 0, first_context: int = 0
    ) -> tuple[Array, Array]:
        """Draw rows, and give their log-density, which costs next to nothing here.

        Parameters
        ----------
        n, context, rng, first, first_context
            As for :meth:`sample`.

        Returns
        -------
        x : array of shape (n, dim), (m, n, dim) or (m, dim)
        log_prob : array of shape (n,), (m, n) or (m,)
        """
        given, shape, numbers = self._draws(n, context, first, first_context)
        seed = _validate.seed(rng)
        runner = self._runner()
        x, log_prob = runner.sample(
            self._snapshot.pack(runner), math.prod(shape), seed, given, log_prob=True, numbers=numbers
        )
        assert log_prob is not None
        return x.reshape(*shape, self.dim), log_prob.reshape(shape)

    def _draws(
        self, n: int | None, context: Any, first: int, first_context: int
    ) -> tuple[Array | None, tuple[int, ...], tuple[int, int]]:
        """The context of draws, the shape of a result with one number a draw, and the numbers of the first ones."""
        given = _validate.as_contexts(context, self.context_dim)
        many = given.shape[:1] if given is not None and given.ndim == 2 else ()
        if n is None and not many:
            has = "this flow has none" if given is None else f"context has shape {given.shape}"
            raise ValueError(f"n=None draws once for each row of context, and {has}; say how many")
        count = 1 if n is None else _validate.count(n, name="n")
        rows = many[0] if many else 1
        numbers = (
            _validate.number_of_first(first, count, DRAWS, name="first"),
            _validate.number_of_first(first_context, rows, CONTEXTS, name="first_context"),
        )
        return given, many if n is None else (*many, count), numbers

    # --- gradients ----------------------------------------------------------------------------------------------

    def log_prob_and_grad(self, X: Any, context: Any = None, wrt: str | Sequence[str] = "x") -> tuple[Any, Any]:
        """The log-density of rows, and its gradient with respect to each row, or to the context.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        context : array, optional
            As for :meth:`log_prob`.
        wrt : "x", "context", or a sequence of these, default "x"
            What the gradient is with respect to; a sequence gives a tuple of gradients.

        Returns
        -------
        log_prob : scalar, or array of shape (rows,) or (m, n)
        grad : array of the shape of X or of context, or a tuple of these
            That of a context which rows share is the gradient of the sum of their log-densities, in float64.
        """
        x, given, shape = self._batch(X, context, "X")
        words = (wrt,) if isinstance(wrt, str) else _validate.sequence(wrt, name="wrt")
        for word in words:
            _validate.choice(word, ("x", "context") if self.context_dim else ("x",), name="wrt")
        runner = self._runner()
        found = runner.log_prob_and_grad(self._snapshot.pack(runner), x, given, contexts="context" in words)
        assert found.log_det is not None
        grads = {"x": found.x.reshape(*shape, self.dim), "context": _context_shaped(found.context, shape)}
        chosen = tuple(grads[word] for word in words)
        return _shaped(found.log_det, shape), chosen[0] if isinstance(wrt, str) else chosen

    def log_prob_vjp(self, X: Any, dlogp: Any, context: Any = None) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``log_prob``.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        dlogp : array of the shape of log_prob(X)
            Gradient of the objective with respect to each log-density: (rows,), (m, n), or a number for one row by itself.
        context : array, optional
            As for :meth:`log_prob`.

        Returns
        -------
        dX : array of the shape of X
        dparams : float64 array of shape (n_params,)
            Summed over rows.
        dcontext : array of the shape of context, or None
            In the dtype of the flow where each row has a context of its own; a sum over rows, in float64, where rows
            share one. None for a flow without a context.
        """
        return self._vjp(False, True, X, None, dlogp, context, ("X", "", "dlogp"))

    def to_latent_vjp(self, X: Any, dz: Any, dlog_det: Any, context: Any = None) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``to_latent``.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        dz : array of the shape of X, or None for zeros
            Gradient of the objective with respect to ``z``.
        dlog_det : array of the shape of log_det, or None for zeros
            Gradient of the objective with respect to ``log_det``: (rows,), (m, n), or a number for one row by itself.
        context : array, optional
            As for :meth:`log_prob`.

        Returns
        -------
        dX : array of the shape of X
        dparams : float64 array of shape (n_params,)
            Summed over rows.
        dcontext : array of the shape of context, or None
            In the dtype of the flow where each row has a context of its own; a sum over rows, in float64, where rows
            share one. None for a flow without a context.
        """
        return self._vjp(False, False, X, dz, dlog_det, context, ("X", "dz", "dlog_det"))

    def to_data_vjp(self, z: Any, dX: Any, dlog_det: Any, context: Any = None) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``to_data``.

        Parameters
        ----------
        z : array of shape (dim,), (rows, dim) or (m, n, dim)
        dX : array of the shape of z, or None for zeros
            Gradient of the objective with respect to ``x``.
        dlog_det : array of the shape of log_det, or None for zeros
            Gradient of the objective with respect to ``log_det``: (rows,), (m, n), or a number for one row by itself.
        context : array, optional
            As for :meth:`log_prob`.

        Returns
        -------
        dz : array of the shape of z
        dparams : float64 array of shape (n_params,)
            Summed over rows.
        dcontext : array of the shape of context, or None
            In the dtype of the flow where each row has a context of its own; a sum over rows, in float64, where rows
            share one. None for a flow without a context.
        """
        return self._vjp(True, False, z, dX, dlog_det, context, ("z", "dX", "dlog_det"))

    def _vjp(
        self,
        to_data: bool,
        base: bool,
        rows: Any,
        d_rows: Any,
        d_log_det: Any,
        context: Any,
        names: tuple[str, str, str],
    ) -> tuple[Array, Array, Array | None]:
        x, given, shape = self._batch(rows, context, names[0])
        if d_rows is not None:
            d_rows = _validate.as_shaped(d_rows, (*shape, self.dim), self.dtype, name=names[1]).reshape(x.shape)
        if d_log_det is not None or base:
            d_log_det = _validate.as_shaped(d_log_det, shape, self.dtype, name=names[2]).reshape(len(x))
        runner = self._runner()
        found = runner.vjp(self._snapshot.pack(runner), to_data, x, d_rows, d_log_det, given, base=base)
        assert found.params is not None
        return found.x.reshape(*shape, self.dim), found.params, _context_shaped(found.context, shape)

    def loss_and_grad(self, X: Any, context: Any = None, sample_weight: Any = None) -> tuple[float, float, Array]:
        """Sum over rows of weighted negative log-density, and its gradient with respect to the parameters.

        Sums, not means, so that those of several processes can be added.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        context : array, optional
            As for :meth:`log_prob`.
        sample_weight : array of the shape of log_prob(X), optional
            (rows,), (m, n), or a number for one row by itself. Rows of weight 0 are left out, NaN or not.

        Returns
        -------
        loss_sum, weight_sum : float
        grad : float64 array of shape (n_params,)
        """
        x, given, shape = self._batch(X, context, "X")
        weight = None
        if sample_weight is not None:
            weight = _validate.as_shaped(sample_weight, shape, None, name="sample_weight").reshape(len(x))
            _validate.as_weights(weight, len(x), name="sample_weight")
        runner = self._runner()
        return runner.loss_and_grad(self._snapshot.pack(runner), x, given, weight)

    # --- training -----------------------------------------------------------------------------------------------

    def fit(
        self,
        X: Any,
        *,
        context: Any = None,
        sample_weight: Any = None,
        validation: Any = 0.1,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float = 3e-3,
        schedule: str = "cosine",
        warmup: float | None = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = 1.0,
        patience: int | None = None,
        freeze: str | Sequence[str] = (),
        standardize: bool | str = True,
        rng: Any = None,
        progress: bool | None = None,
        callbacks: Callback | Iterable[Callback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        resume: bool = True,
    ) -> Flow:
        """Train by maximum likelihood on the rows of ``X``, keep the parameters that validate best, and return the flow.

        The first ``fit`` of a flow also sets what depends on data: the standardisation and every ActNorm.
        A later one keeps those, goes on from the present parameters, and starts a new optimiser,
        schedule and split; with validation rows it keeps the parameters that it began with if none validate better.
        ``flow.reset()`` forgets everything.

        Parameters
        ----------
        X : array of shape (rows, dim)
            Any strides; float32 and float64 arrays, memory-mapped ones included, are read as they are. Rows that
            count must be finite; those of weight 0 may hold anything.
        context : array of shape (rows, context_dim), optional
            For a flow with a context, a row for each row of ``X``, read and standardised in the same way.
        sample_weight : array of shape (rows,), optional
            Weights of the rows, in any unit; they may be negative. Their sum must be positive, in the training and in the
            validation part.
        validation : float, array or tuple, default 0.1
            A fraction of the rows, drawn at random, or rows of one's own: ``X_val``, ``(X_val,)`` or
            ``(X_val, weight)``, with a context ``(X_val, context)`` or ``(X_val, context, weight)``. 0 or None trains
            without; the last parameters are then kept.
        epochs : int, optional
            Passes over the training rows. By default as many as make about 16 000 steps, at least 1 and at most 200.
        batch_size : int, optional
            Rows a step. By default about a hundredth of the training rows, within 256 and 4096. An
            incomplete last batch is left out; the order changes every epoch.
        learning_rate : float, default 3e-3
            The highest rate of Adam.
        schedule : {"cosine", "onecycle", "constant", "plateau"}, default "cosine"
            Cosine falls to zero over the whole run, ``rate (1 + cos(pi u)) / 2`` with ``u`` from 0 to 1. One cycle rises
            first, ``rate (1/25 + 24/25 (1 - cos(pi v)) / 2)`` with ``v`` from 0 to 1 over the warm-up, and
            then falls as cosine does. Plateau multiplies the rate by 0.3 when half of ``patience`` has gone by
            without a better validation loss, and stops when all of it has.
        warmup : int or float, optional
            Steps (int) or fraction of all steps (float) over which the rate rises: linearly, except in one cycle. By
            default 0.1, and 0.3 for one cycle.
        weight_decay : float, default 0.0
            Decoupled decay (AdamW) of the weight matrices of conditioners.
        clip_norm : float, optional, default 1.0
            Gradients longer than this are shortened to it; None or infinity leaves them.
        patience : int, optional
            Epochs without a better validation loss before training stops: 20 for the plateau schedule,
            never for the constant one unless given. A cosine or one cycle must run to its end and takes none.
        freeze : str or sequence of str, default ()
            Parameters that are not trained: names of ``flow.named_params()`` or prefixes of them, such as
            ``["layers.0", "embedding"]``. Not a bit of them changes: no decay, and a frozen ActNorm is not set by data.
        standardize : bool or "robust", default True
            At the first ``fit``: shift and scale every column by its mean and standard deviation, or
            ("robust", for heavy tails) by median and interquartile range, measured on a sample of 10 000 rows.
        rng : seed or numpy Generator, optional
            What ``numpy.random.default_rng`` takes; decides the split and the order of rows.
        progress : bool, optional
            A progress bar on standard error. By default only where that is a terminal.
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

        Warns
        -----
        UserWarning
            When a column is constant; when one lies more than 10 000 standard deviations from zero, where float32 is
            coarse; when one has moved by more than ten scales since the first fit; when training was interrupted; when no
            epoch validated better than the parameters of an earlier fit. When the flow overfits: in the last quarter of the
            epochs the validation loss lies 0.1 nats or more above the best one, while the training loss has gone on falling.
            Without validation rows: when there are fewer training rows than a tenth of the free parameters. When the weights
            of the validation rows make them worth fewer than 30 rows of equal weight, and less than half of what they are.

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
        whole, but for the times of earlier epochs, which are NaN. ``fit`` handles no signal itself.

        After each epoch both the present parameters and their running mean over the last twentieth of the
        run are validated, and the better of the two counts; runs of under 500 steps have no such mean.

        With the same rows, arguments and seed the parameters come out the same, bit for bit, whatever the
        number of threads.
        """
        from penstock import training

        try:
            options = training.Options(
                epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, schedule=schedule, warmup=warmup,
                weight_decay=weight_decay, clip_norm=clip_norm, patience=patience, standardize=standardize, freeze=freeze,
            )  # fmt: skip
            calls = _validate.callables(callbacks, name="callbacks")
            seed = None if rng is None else _validate.seed(rng)
            kept = self._checkpoint(checkpoint, checkpoint_every, resume)
            data = training.training_data(
                X, context, sample_weight, validation, dim=self.dim, context_dim=self.context_dim
            )  # fmt: skip
            if kept is not None:
                check_writable(kept.path)
            data.check_finite()
            with self._fitting():
                self._snapshot, self.history = training.run(
                    self._runner(),
                    self._snapshot,
                    data,
                    options,
                    seed=seed,
                    actnorms=[k for k, layer in enumerate(self._spec.layers) if isinstance(layer, ActNorm)],
                    progress=progress,
                    watch=self._watch(calls) if calls else None,
                    checkpoint=kept,
                    contents=None if kept is None else self._contents(None),
                )
        except BaseException as error:
            history = getattr(error, "history", None) or History(stopped="failed")
            best = getattr(error, "best", None)
            with suppress(Exception):  # an error that takes no attributes
                error.best = self._with(best, history) if isinstance(best, Snapshot) else None  # type: ignore[attr-defined]
                error.history = history  # type: ignore[attr-defined]
            raise
        return self

    @staticmethod
    def _checkpoint(path: Any, every: Any, resume: Any) -> Checkpoint | None:
        """The file that keeps the state of a ``fit``, if one was asked for."""
        from penstock import training

        if every is not None:
            every = _validate.positive_int(every, name="checkpoint_every")
        if path is None:
            if every is not None:
                raise ValueError("checkpoint_every was given, but no checkpoint: the file to write")
            return None
        if resume is not True and resume is not False:
            raise TypeError(f"resume must be True or False, got {resume!r}")
        name = _validate.path(path, name="checkpoint")
        return training.Checkpoint(name, every=every, resume=resume)

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """At most one ``fit`` of a flow runs at a time."""
        pid, lock = self._fit_lock
        if pid != os.getpid():  # the child of a fork has no part in a fit that its parent runs
            self._fit_lock = _, lock = os.getpid(), threading.Lock()
        if not lock.acquire(blocking=False):
            raise RuntimeError(
                "another fit of this flow is running, in another thread or around this callback; "
                "wait for its end, or fit a copy: flow.copy().fit(...)"
            )
        try:
            yield
        finally:
            lock.release()

    def _with(self, snapshot: Snapshot, history: History | None = None) -> Self:
        """A copy with other numbers."""
        twin = self._like(self._spec, self._plan, snapshot)
        twin._made = self._made
        twin.history = history or History()
        return twin

    def _watch(self, calls: tuple[Callback, ...]) -> Callable[[Epoch, Snapshot, History], bool]:
        """What calls every callback, each with a copy of its own, and says whether one of them wants to stop."""

        def watch(epoch: Epoch, snapshot: Snapshot, history: History) -> bool:
            answers = [call(TrainingState(**vars(epoch), flow=self._with(snapshot, history.copy()))) for call in calls]
            return any(isinstance(answer, (bool, np.bool_)) and answer for answer in answers)

        return watch

    # --- copies and files ---------------------------------------------------------------------------------------

    def copy(self) -> Self:
        """A flow with the same numbers; what happens to one of the two does not touch the other."""
        return self._with(self._snapshot, self.history.copy())

    def reset(self, rng: Any = None) -> Flow:
        """Forget all training: fresh parameters, no standardisation. Random splits and permutations stay.

        Parameters
        ----------
        rng : seed or numpy Generator, optional
            With the seed that the flow was built with, the parameters are those it had then.

        Returns
        -------
        Flow
            The flow itself.
        """
        self._snapshot = initial(self._plan, self._spec, _generators(rng)[1])
        self.history = History()
        return self

    def astype(self, dtype: Any) -> Self:
        """A copy in another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}
        """
        spec = replace(self._spec, dtype=_validate.float_dtype(dtype).name)
        plan = compile_plan(spec)
        numbers = _validate.as_params(self._snapshot.params, self.n_params, plan.dtype)
        twin = self._like(spec, plan, Snapshot(numbers, self._snapshot.buffers, self._snapshot.initialised))
        twin.history = self.history.copy()
        return twin

    def to_bytes(self) -> bytes:
        """The flow as the bytes of its file; :func:`from_bytes` reads them."""
        return model.to_bytes(self._contents(self.history))

    def _contents(self, history: History | None) -> model.Contents:
        """What goes into a file."""
        return model.Contents(self._spec, self._plan, self._snapshot, self._columns, self._context_columns, history)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the flow to a file (safetensors), replacing it at once; :func:`load` reads it.

        Parameters
        ----------
        path : str or path
        """
        model.save(_validate.path(path), self.to_bytes())

    def __copy__(self) -> Self:
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"history": self.history, **self._attributes()}
        return _unpickle, (type(self), model.to_bytes(self._contents(None)), self._asked), state

    def _attributes(self) -> dict[str, Any]:
        """Attributes that a subclass or a user has added."""
        return {name: value for name, value in vars(self).items() if name not in OWN}

    # --- inside -------------------------------------------------------------------------------------------------

    def _batch(self, rows: Any, context: Any, name: str) -> tuple[Array, Array | None, tuple[int, ...]]:
        """Rows, their context, and the shape of a result with one number a row."""
        x, shape = _validate.as_batch(rows, self._plan.dim, name=name)
        return x, _validate.as_context(context, self._plan.context_dim, shape), shape

    def _plain(self, context: Any) -> bool:
        """Whether a context may pass straight through, for one row."""
        if context is None:
            return self._context_shape == (0,)
        return (
            type(context) is np.ndarray
            and context.shape == self._context_shape != (0,)
            and (context.dtype is _validate.FLOAT32 or context.dtype is _validate.FLOAT64)
        )

    def _runner(self) -> Runner:
        """The plan on its backend, made at the first computation."""
        if self._made is None:
            self._made = Runner(self._plan, self._backend) if self._kin is None else self._kin._runner()
        return self._made

    def _like(self, spec: FlowSpec, plan: Plan, snapshot: Snapshot, cls: type[Flow] | None = None) -> Self:
        """A flow of the same class, or of another one, with the same names and attributes."""
        twin: Any = object.__new__(cls or type(self))._setup(spec, plan, snapshot, self._backend, self._asked)
        twin._columns, twin._context_columns = self._columns, self._context_columns
        vars(twin).update(self._attributes())
        return twin  # type: ignore[no-any-return]


def load(path: str | os.PathLike[str], *, backend: str = "auto") -> Flow:
    """Read a flow from a file. Everything in it is checked before anything is built.

    Parameters
    ----------
    path : str or path
    backend : {"auto", "cpp", "numba"}, default "auto"

    Raises
    ------
    ValueError
        If the file is not one of penstock, truncated, from a newer version or damaged; the message says which.
    """
    return _from_contents(model.load(_validate.path(path)), backend)


def from_bytes(data: Any, *, backend: str = "auto") -> Flow:
    """Read a flow from the bytes that ``flow.to_bytes()`` gave.

    Parameters
    ----------
    data : bytes
    backend : {"auto", "cpp", "numba"}, default "auto"
    """
    return _from_contents(model.from_bytes(_validate.bytes_like(data, name="data")), backend)


def _from_contents(contents: model.Contents, backend: str) -> Flow:
    circular = circular_layers(contents.spec)
    if circular:
        warn(
            f"layers {circular} wrap around a circle, but the base is {contents.spec.base}, which lies on the whole line: the "
            "density of this flow is wrong (it integrates to less than 1). Build and train it again"
        )
    flow = object.__new__(Flow)._setup(
        contents.spec, contents.plan, contents.snapshot, _backend.choose(backend), backend
    )
    flow._columns, flow._context_columns = contents.columns, contents.context_columns
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
    return from_bytes(data, backend=backend)


def _generators(rng: Any) -> tuple[np.random.Generator, np.random.Generator]:
    """Generators for the structure and for the numbers, so that the one does not depend on how much the other drew."""
    seed = _validate.seed(rng)
    return np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])


def _shaped(values: Array, shape: tuple[int, ...]) -> Any:
    """One number a row, in the shape that the rows came in; a scalar for one row by itself."""
    return values.reshape(shape) if shape else values[0]


def _context_shaped(d_context: Array | None, shape: tuple[int, ...]) -> Array | None:
    """The gradient of a context in the shape that the context came in."""
    return d_context if d_context is None or shape else d_context[0]
