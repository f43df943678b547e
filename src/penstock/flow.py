"""The flow: verbs on rows, and nothing that computes on them. Numbers live in a snapshot, arithmetic in the backend."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from penstock import _backend, _validate, params
from penstock.base import StandardNormal
from penstock.conditioners import MLP
from penstock.files import model
from penstock.history import History
from penstock.layers import LAYERS, Elementwise, Layer
from penstock.params import Snapshot
from penstock.plan import Plan, Runner, compile_plan
from penstock.spec import FlowSpec, circular_layers
from penstock.transforms import TRANSFORMS

if TYPE_CHECKING:
    from penstock._backend import Backend

Array = np.ndarray[Any, Any]


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
        _validate.instance(base, (StandardNormal,), name="base")
        given = _validate.sequence(layers, name="layers")
        for i, layer in enumerate(given):
            _check_layer(layer, f"layers[{i}]")
        context_dim = _validate.count(context_dim, name="context_dim")
        if context_dim and not any(getattr(layer, "conditioner", None) for layer in given):
            raise ValueError(f"context_dim={context_dim}, but no layer has a conditioner, which would read the context")
        width = _embedding_width(embedding, embedding_dim, context_dim)
        number_type = _validate.float_dtype(dtype)
        structure, numbers = _generators(rng)
        resolved = tuple(layer.resolve(base.dim, structure) for layer in given)
        spec = FlowSpec(base, resolved, context_dim, number_type.name, embedding, width)
        circular = circular_layers(spec)
        if circular:
            raise ValueError(
                f"layers[{circular[0]}] wraps around a circle, and the base {base} lies on the whole line: the map would not be "
                "a bijection. penstock.ops has the transform by itself"
            )
        plan = _compiled(spec)
        snapshot = params.initial(plan, resolved, embedding, numbers)
        self._setup(spec, plan, snapshot, _backend.choose(backend), backend)

    def _setup(self, spec: FlowSpec, plan: Plan, snapshot: Snapshot, backend: Backend, asked: str) -> Flow:
        self._spec = spec
        self._layers = spec.layers
        self._plan = plan
        self._snapshot = snapshot
        self._backend = backend
        self._asked = asked  # the backend as it was asked for, which is what travels with a pickle
        self._made: Runner | None = None
        self._columns: tuple[str, ...] = ()
        self._context_columns: tuple[str, ...] = ()
        self._row_shapes = ((1, plan.dim), (plan.dim,))
        self._context_shape = (plan.context_dim,)
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
        self._replace(params=self._plan.clear_masked(_validate.as_params(values, self.n_params, self.dtype)))

    def named_params(self) -> dict[str, Array]:
        """The parameters by name, as read-only views into ``params``."""
        return params.named(self._plan, self._snapshot.params)

    @property
    def engine(self) -> Any:
        """The backend's engine, for loops of one's own."""
        return self._runner().engine

    def __repr__(self) -> str:
        state = "fitted" if self.initialised else "not fitted"
        context = f" given {self.context_dim}" if self.context_dim else ""
        lines = [f"Flow of {self.dim} dimensions{context}, {self.n_params:,} parameters, {self.dtype.name}, {state}"]
        lines.append(f"  base      {self._spec.base}")
        lines += [f"  layer {number:<3} {self._describe(number)}" for number in range(len(self._layers))]
        if self._spec.embedding is not None:
            tensors = [t for t in self._plan.tensors if t.name.startswith("embedding.")]
            network, size = _network_words(self._spec.embedding, tensors), sum(t.size for t in tensors)
            lines.append(f"  embedding {network}, {size:,} parameters")
        return "\n".join([*lines, f"  backend   {self._backend!r}"])

    def _describe(self, number: int) -> str:
        """A layer in a few words, with the sizes that it has in this flow."""
        layer: Any = self._layers[number]
        tensors = [t for t in self._plan.tensors if t.name.startswith(f"layers.{number}.")]
        words = [type(layer).__name__]
        if hasattr(layer, "transform"):
            words.append(repr(layer.transform))
        if getattr(layer, "conditioner", None) is not None:
            words.append(_network_words(layer.conditioner, tensors))
        words += [str(getattr(layer, field)) for field in ("split", "order") if hasattr(layer, field)]
        if getattr(layer, "explicit", "to_latent") != "to_latent":
            words.append(f"explicit {layer.explicit}")
        size = sum(t.size for t in tensors)
        return ", ".join([*words, f"{size:,} parameters"] if size else words)

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

    def sample(self, n: int | None, context: Any = None, *, rng: Any = None, out: Array | None = None) -> Array:
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

        Returns
        -------
        array of shape (n, dim), (m, n, dim), or for ``n=None`` (m, dim)
        """
        given, shape = self._draws(n, context)
        into = None
        if out is not None:
            into = _validate.as_out(out, (*shape, self.dim), self.dtype, avoid=(given,)).reshape(-1, self.dim)
        seed = _validate.seed(rng)
        runner = self._runner()
        x, _ = runner.sample(self._snapshot.pack(runner), math.prod(shape), seed, given, into)
        return x.reshape(*shape, self.dim) if out is None else out

    def sample_and_log_prob(self, n: int | None, context: Any = None, *, rng: Any = None) -> tuple[Array, Array]:
        """Draw rows, and give their log-density, which costs next to nothing here.

        Parameters
        ----------
        n, context, rng
            As for :meth:`sample`.

        Returns
        -------
        x : array of shape (n, dim), (m, n, dim) or (m, dim)
        log_prob : array of shape (n,), (m, n) or (m,)
        """
        given, shape = self._draws(n, context)
        seed = _validate.seed(rng)
        runner = self._runner()
        x, log_prob = runner.sample(self._snapshot.pack(runner), math.prod(shape), seed, given, log_prob=True)
        assert log_prob is not None
        return x.reshape(*shape, self.dim), log_prob.reshape(shape)

    def _draws(self, n: int | None, context: Any) -> tuple[Array | None, tuple[int, ...]]:
        """The context of draws, and the shape of a result with one number a draw."""
        given = _validate.as_contexts(context, self.context_dim)
        many = given.shape[:1] if given is not None and given.ndim == 2 else ()
        if n is not None:
            return given, (*many, _validate.count(n, name="n"))
        if not many:
            has = "this flow has none" if given is None else f"context has shape {given.shape}"
            raise ValueError(f"n=None draws once for each row of context, and {has}; say how many")
        return given, many

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
        packed = self._snapshot.pack(runner)
        log_prob = runner.log_prob(packed, x, given)
        grad, _, d_context, _ = runner.vjp(
            packed, False, x, None, runner.ones(len(x)), given, base=True, params=False, contexts="context" in words
        )
        grads = {"x": grad.reshape(*shape, self.dim), "context": _context_shaped(d_context, shape)}
        chosen = tuple(grads[word] for word in words)
        return _shaped(log_prob, shape), chosen[0] if isinstance(wrt, str) else chosen

    def log_prob_vjp(self, X: Any, dlogp: Any, context: Any = None) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``log_prob``.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        dlogp : scalar, or array of shape (rows,) or (m, n)
            Gradient of the objective with respect to each log-density.
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
        dlog_det : scalar, or array of shape (rows,) or (m, n), or None for zeros
            Gradient of the objective with respect to ``log_det``.
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
        dlog_det : scalar, or array of shape (rows,) or (m, n), or None for zeros
            Gradient of the objective with respect to ``log_det``.
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
        packed = self._snapshot.pack(runner)
        d_x, d_params, d_context, _ = runner.vjp(packed, to_data, x, d_rows, d_log_det, given, base=base)
        assert d_params is not None
        return d_x.reshape(*shape, self.dim), d_params, _context_shaped(d_context, shape)

    def loss_and_grad(self, X: Any, context: Any = None, sample_weight: Any = None) -> tuple[float, float, Array]:
        """Sum over rows of weighted negative log-density, and its gradient with respect to the parameters.

        Sums, not means, so that those of several processes can be added.

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim)
        context : array, optional
            As for :meth:`log_prob`.
        sample_weight : scalar, or array of shape (rows,) or (m, n), optional
            Rows of weight 0 are left out, NaN or not.

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
        standardize: bool | str = True,
        rng: Any = None,
        progress: bool | None = None,
        callbacks: Any = (),
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> Flow:
        """Train by maximum likelihood on the rows of ``X``, and return the flow itself.

        The options are described at :func:`penstock.train.fit`.
        """
        from penstock.train import fit

        return fit(
            self,
            X,
            context=context,
            sample_weight=sample_weight,
            validation=validation,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=schedule,
            warmup=warmup,
            weight_decay=weight_decay,
            clip_norm=clip_norm,
            patience=patience,
            standardize=standardize,
            rng=rng,
            progress=progress,
            callbacks=callbacks,
            checkpoint=checkpoint,
        )

    # --- copies and files ---------------------------------------------------------------------------------------

    def copy(self) -> Flow:
        """A flow with the same numbers, and a life of its own."""
        twin = self._like(self._spec, self._plan, self._snapshot)
        twin._made = self._made
        twin.history = self.history
        return twin

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
        self._snapshot = params.initial(self._plan, self._layers, self._spec.embedding, _generators(rng)[1])
        self.history = History()
        return self

    def astype(self, dtype: Any) -> Flow:
        """A copy in another precision.

        Parameters
        ----------
        dtype : {"float32", "float64"}
        """
        spec = replace(self._spec, dtype=_validate.float_dtype(dtype).name)
        plan = _compiled(spec)
        numbers = _validate.as_params(self._snapshot.params, self.n_params, plan.dtype)
        twin = self._like(spec, plan, Snapshot(numbers, self._snapshot.buffers, self._snapshot.initialised))
        twin.history = self.history
        return twin

    def to_bytes(self) -> bytes:
        """The flow as the bytes of its file; :func:`from_bytes` reads them."""
        contents = model.Contents(
            self._spec, self._plan, self._snapshot, self._columns, self._context_columns, self.history
        )
        return model.to_bytes(contents)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the flow to a file (safetensors), replacing it at once; :func:`load` reads it.

        Parameters
        ----------
        path : str or path
        """
        model.save(_validate.path(path), self.to_bytes())

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self.to_bytes(), self._asked)

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
            self._made = Runner(self._plan, self._backend.Engine(self._plan.table))
        return self._made

    def _like(self, spec: FlowSpec, plan: Plan, snapshot: Snapshot) -> Flow:
        twin = object.__new__(Flow)._setup(spec, plan, snapshot, self._backend, self._asked)
        twin._columns, twin._context_columns = self._columns, self._context_columns
        return twin

    def _replace(
        self, params: Array | None = None, buffers: Array | None = None, initialised: bool | None = None
    ) -> None:
        """A new snapshot, of arrays that are given away."""
        old = self._snapshot
        self._snapshot = Snapshot(
            old.params if params is None else params,
            old.buffers if buffers is None else buffers,
            old.initialised if initialised is None else initialised,
        )

    def _assign(
        self, params: Array | None = None, buffers: Array | None = None, initialised: bool | None = None
    ) -> None:
        """A new snapshot, of copies; for ``fit``, whose numbers are in order."""
        self._replace(
            None if params is None else self._plan.clear_masked(params.astype(self.dtype)),
            None if buffers is None else buffers.astype(np.float64),
            initialised,
        )


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
        warnings.warn(
            f"layers {circular} wrap around a circle, but the base is {contents.spec.base}, which lies on the whole line: the "
            "density of this flow is wrong (it integrates to less than 1). Build and train it again",
            UserWarning,
            stacklevel=3,
        )
    flow = object.__new__(Flow)._setup(
        contents.spec, contents.plan, contents.snapshot, _backend.choose(backend), backend
    )
    flow._columns, flow._context_columns = contents.columns, contents.context_columns
    if contents.history is not None:
        flow.history = contents.history
    return flow


def _unpickle(data: bytes, backend: str) -> Flow:
    return from_bytes(data, backend=backend)


def _generators(rng: Any) -> tuple[np.random.Generator, np.random.Generator]:
    """Generators for the structure and for the numbers, so that the one does not depend on how much the other drew."""
    seed = _validate.seed(rng)
    return np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])


def _check_layer(layer: Any, name: str) -> None:
    _validate.instance(layer, LAYERS.values(), name=name)
    if hasattr(layer, "transform"):
        _validate.instance(layer.transform, TRANSFORMS.values(), name=f"{name}.transform")
    if hasattr(layer, "conditioner") and not (isinstance(layer, Elementwise) and layer.conditioner is None):
        _validate.instance(layer.conditioner, (MLP,), name=f"{name}.conditioner")


def _embedding_width(embedding: Any, embedding_dim: Any, context_dim: int) -> int:
    """How many numbers the embedding gives; 0 without one."""
    if embedding is None:
        if embedding_dim is not None:
            raise ValueError(f"embedding_dim={embedding_dim} needs an embedding")
        return 0
    _validate.instance(embedding, (MLP,), name="embedding")
    if context_dim == 0:
        raise ValueError("an embedding needs a context, and context_dim is 0")
    if embedding_dim is None:
        return int(embedding.hidden[-1]) if embedding.hidden else context_dim
    return _validate.positive_int(embedding_dim, name="embedding_dim")


def _compiled(spec: FlowSpec) -> Plan:
    return compile_plan(
        spec.base, spec.layers, spec.context_dim, np.dtype(spec.dtype), spec.embedding, spec.embedding_dim
    )


def _network_words(network: MLP, tensors: Sequence[Any]) -> str:
    widths = [tensors[0].shape[0], *(t.shape[0] for t in tensors[1::2])]
    return f"MLP {'-'.join(map(str, widths))} {network.activation}{' residual' if network.residual else ''}"


def _shaped(values: Array, shape: tuple[int, ...]) -> Any:
    """One number a row, in the shape that the rows came in; a scalar for one row by itself."""
    return values.reshape(shape) if shape else values[0]


def _context_shaped(d_context: Array | None, shape: tuple[int, ...]) -> Array | None:
    """The gradient of a context in the shape that the context came in."""
    return d_context if d_context is None or shape else d_context[0]
