"""What a flow is asked, and nothing that changes it: densities, maps, samples and gradients. No arithmetic on rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from penstock import _validate, accepting, columns, device_verbs, frames
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.lattice import Lattice
from penstock.plan import Plan
from penstock.runner import Runner
from penstock.state import Snapshot

# One seed has so many draws for each of so many rows of context.
DRAWS, CONTEXTS = 1 << 56, 1 << 40


class Verbs:
    """The verbs of a flow, on numbers that somebody else keeps.

    Tables with names of columns (DataFrames, structured arrays, mappings) are brought into the order of the flow's own
    columns; an array is taken as it lies. Missing values of a table become NaN. Float32 and float64 arrays of any strides are
    read where they lie; other real dtypes are converted. What has the wrong shape, the wrong columns, or no numbers raises
    ValueError or TypeError, with the name of the argument.
    """

    _word = "flow"  # what messages call it
    _plan: Plan
    _snapshot: Snapshot
    _made: Runner | None
    _columns: tuple[str, ...]
    _context_columns: tuple[str, ...]
    _library: str
    _lattice: Lattice | None
    _row_shapes: tuple[tuple[int, ...], ...]
    _context_shape: tuple[int, ...]

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

    # --- evaluating ---------------------------------------------------------------------------------------------

    def log_prob(
        self, X: RowsLike, context: RowsLike | None = None, *, out: Array | None = None, stream: int | None = None
    ) -> Any:
        """The log-density of rows, in units of the data: ``log p(x) = log base(z) + log |det dz/dx|``.

        ===============  =========================================  =========
        X                context                                    result
        ===============  =========================================  =========
        ``(dim,)``       none or ``(c,)``                           a scalar
        ``(dim,)``       ``(m, c)``, each for the one row           ``(m,)``
        ``(rows, dim)``  none, ``(c,)`` for all, or ``(rows, c)``   ``(rows,)``
        ``(m, n, dim)``  none, ``(c,)``, ``(m, c)`` for the m       ``(m, n)``
                         blocks, or ``(m, n, c)``
        ===============  =========================================  =========

        Parameters
        ----------
        X : array of shape (dim,), (rows, dim) or (m, n, dim), or a table
        context : array or table, optional
            For a flow with a context, of c variables, and only for one.
        out : array, optional
            Where to write the result: of its shape, in the dtype of the flow and in C order.
        stream : int, optional
            For a flow with ``backend="cuda"`` and arrays in the memory of its GPU: the CUDA stream that is to compute, 1 the
            legacy default stream, 2 that of the thread, or a handle. The call then returns at once, and results are ready in
            the order of that stream. Without one they are ready when it returns.

        Returns
        -------
        scalar, or array of shape (rows,), (m, n) or (m,), in the dtype of the flow
            For arrays in the memory of a GPU, which libraries lend by DLPack or the CUDA array interface, a
            :class:`DeviceArray` there; all arrays of a call then lie there.
            A row that holds NaN, or whose context does or lies outside its support, has log-density NaN. One that is
            infinite, outside the support of a column, or so far out that the arithmetic overflows, has -inf.

        Raises
        ------
        ValueError, TypeError
            When shapes, columns or dtypes do not fit; the message names the argument.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, rng=0)
        >>> flow.log_prob([[0.0, 0.0], [1.0, 1.0]]).round(3)
        array([-1.838, -2.838], dtype=float32)
        """
        # A sampler asks for one row at a time: a row that is plainly in order passes straight through.
        if type(X) is np.ndarray and out is None and stream is None and self._made is not None and self._plain(context):
            shape = X.shape
            if shape in self._row_shapes and (X.dtype is _validate.FLOAT32 or X.dtype is _validate.FLOAT64):
                snapshot = self._snapshot
                packed = snapshot.packed or snapshot.pack(self._made)
                if len(shape) == 1:
                    return self._made.log_prob_row(packed, X[None], context)[0]
                return self._made.log_prob_row(packed, X, context)
        if device_verbs.concerned(stream, X, context, out):
            return device_verbs.DeviceVerbs(self).log_prob(X, context, out, stream)
        x, given, shape, *_ = self._batch(X, context, "X")
        into = None if out is None else _validate.as_out(out, shape, self.dtype, avoid=(x, given)).reshape(-1)
        runner = self._runner()
        result = runner.log_prob(self._snapshot.pack(runner), x, given, into)
        return _shaped(result, shape) if out is None else out

    def score(
        self, X: RowsLike, context: RowsLike | None = None, *, sample_weight: ArrayLike | None = None,
        stream: int | None = None,
    ) -> float:  # fmt: skip
        """The mean log-density of rows, ``sum(w log_prob(X, context)) / sum(w)`` in float64; NaN for no rows.

        Parameters
        ----------
        X, context
            As for :meth:`log_prob`.
        sample_weight : array of shape (rows,) or (m, n), optional
            Weights, by default all 1; only their ratios matter. Rows of weight 0 do not count, whatever they hold. They may
            be negative, if their sum is positive.
        stream : int, optional
            For arrays on the flow's GPU, see :meth:`log_prob`.

        Returns
        -------
        float
            In nats a row; higher is better.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> round(ps.realnvp(2, rng=0).score(np.zeros((3, 2))), 4)
        -1.8379
        """
        if device_verbs.concerned(stream, X, context, sample_weight):
            log_prob, weight = device_verbs.DeviceVerbs(self).score(X, context, sample_weight, stream)
        else:
            batch = self._batch(X, context, "X")
            weight = None
            if sample_weight is not None:
                weight = _validate.as_shaped(sample_weight, batch.shape, _validate.FLOAT64, name="sample_weight")
                weight = _validate.as_weights(weight.reshape(-1), len(batch.x), name="sample_weight")
            runner = self._runner()
            log_prob = runner.log_prob(self._snapshot.pack(runner), batch.x, batch.context, dtype=_validate.FLOAT64)
        with np.errstate(all="ignore"):
            if weight is None:
                return float(log_prob.mean()) if len(log_prob) else float("nan")
            counts = weight != 0
            weight = weight[counts] / np.abs(weight).max(initial=0.0)
            mass = weight.sum()
            if len(weight) and not mass > 0:
                raise ValueError("the sum of sample_weight must be positive")
            return float((weight * log_prob[counts]).sum() / mass) if len(weight) else float("nan")

    def to_latent(
        self, X: RowsLike, context: RowsLike | None = None, *, stream: int | None = None
    ) -> tuple[Array, Any]:
        """Map rows from the data side to the latent side.

        Parameters
        ----------
        X, context, stream
            As for :meth:`log_prob`.

        Returns
        -------
        z : array of the shape of X, (m, dim) for one row with m contexts
            A row outside the support of a column has no latent: NaN.
        log_det : scalar, or array of the shape of log_prob(X)
            ``log |det dz/dx|``.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, rng=0)
        >>> z, log_det = flow.to_latent([[1.0, 2.0]])
        >>> bool((abs(flow.to_data(z)[0] - [[1.0, 2.0]]) < 1e-5).all())
        True
        """
        return self._map(False, X, context, stream, "X")

    def to_data(self, z: ArrayLike, context: RowsLike | None = None, *, stream: int | None = None) -> tuple[Array, Any]:
        """Map rows from the latent side to the data side.

        Parameters
        ----------
        z : array of shape (dim,), (rows, dim) or (m, n, dim)
            A table is taken by position: latent variables have no names.
        context : array or table, optional
        stream : int, optional
            As for :meth:`log_prob`.

        Returns
        -------
        x : array of the shape of z, (m, dim) for one row with m contexts
        log_det : scalar, or array of one number a row
            ``log |det dx/dz|``.

        Examples
        --------
        >>> import penstock as ps
        >>> x, log_det = ps.realnvp(2, rng=0).to_data([0.0, 1.0])
        >>> x.shape, float(log_det)
        ((2,), 0.0)
        """
        return self._map(True, z, context, stream, "z")

    def _map(self, to_data: bool, rows: Any, context: Any, stream: Any, name: str) -> tuple[Array, Any]:
        if device_verbs.concerned(stream, rows, context):
            return device_verbs.DeviceVerbs(self).map(to_data, rows, context, stream, name)
        x, given, shape, *_ = self._batch(rows, context, name)
        runner = self._runner()
        out, log_det = runner.transform(self._snapshot.pack(runner), to_data, x, given)
        return out.reshape(*shape, self.dim), _shaped(log_det, shape)

    # --- sampling -----------------------------------------------------------------------------------------------

    def sample(
        self,
        n: float | tuple[int, ...] | None = None,
        context: RowsLike | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        out: Array | None = None,
        first: int = 0,
        first_context: int = 0,
        raw: bool = False,
        where: accepting.Condition | None = None,
        stream: int | None = None,
    ) -> Array:
        """Draw rows.

        ==========  ==============================  ==================
        n           context                         result
        ==========  ==============================  ==================
        none        none or ``(c,)``                ``(dim,)``
        none        ``(m, c)`` or ``(m, n, c)``     ``(m, dim)`` or ``(m, n, dim)``: one draw a row
        ``n``       none or ``(c,)``                ``(n, dim)``
        ``n``       ``(m, c)``                      ``(m, n, dim)``: n draws for each
        ``(m, n)``  none or ``(c,)``                ``(m, n, dim)``
        ==========  ==============================  ==================

        Parameters
        ----------
        n : int or tuple of int, optional
            How many; ``1e6`` is read as an integer.
        context : array or table, optional
            For a flow with a context, of c variables.
        rng : seed or numpy Generator, optional
            What ``numpy.random.default_rng`` takes; a Generator is advanced once. With one seed, draw
            ``i`` of context row ``j`` is the same however many are drawn and however many rows there are.
        key : int, optional
            In the place of ``rng``: the 64 bits that decide the draws, as :func:`penstock.key` gives them and the C
            interface takes them.
        out : array of the shape of the result, optional
            Where to write them: in the dtype of the flow and in C order.
        first, first_context : int, default 0
            Numbers of the first draw and of the first row of context: with one seed, ``sample(n, first=i)`` gives draws
            ``i`` to ``i + n - 1`` of those of ``sample(i + n)``.
        raw : bool, default False
            For a flow with a lattice (``fit(dequantize=...)``): whether to give its columns as they are drawn, and not rounded to
            the nearest of their values.
        where : callable, optional
            A condition: a function of rows, an array of shape (rows, dim), that returns a boolean for each, which follows
            from that row alone. The result has as many rows as without: the first accepted ones, in the order of their
            numbers, for each context. With one seed, the accepted draw ``i`` is the same however many are drawn. It goes
            with ``first=0`` only.
        stream : int, optional
            As for :meth:`log_prob`. Draws lie in the memory of the flow's GPU where ``out`` or the context does, and where
            there is a stream.

        Returns
        -------
        array in the dtype of the flow, in the order of its columns; :meth:`sample_frame` gives a DataFrame

        Raises
        ------
        RuntimeError
            When ``where`` accepts none of 10^6 draws in a row.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, rng=0)
        >>> flow.sample().shape, flow.sample(3).shape, flow.sample((4, 5), rng=0).shape
        ((2,), (3, 2), (4, 5, 2))
        >>> bool((flow.sample(9, rng=0)[6:] == flow.sample(3, rng=0, first=6)).all())
        True
        >>> bool((flow.sample(100, rng=0, where=lambda x: x[:, 0] > 1) > 1)[:, 0].all())
        True
        """
        if device_verbs.concerned(stream, context, out):
            if where is not None:
                raise TypeError("where does not go with arrays on a CUDA device: a condition reads rows of the host")
            seed = _validate.key(rng, key)
            own = device_verbs.DeviceVerbs(self)
            return own.sample(n, context, seed, out, (first, first_context), raw, stream)[0]  # type: ignore[no-any-return]
        given, shape, numbers = self._draws(n, context, first, first_context)
        into = None
        if out is not None:
            into = _validate.as_out(out, (*shape, self.dim), self.dtype, avoid=(given,)).reshape(-1, self.dim)
        seed = _validate.key(rng, key)
        runner = self._runner()
        if where is not None:
            _validate.function(where, name="where")
            if first:
                raise ValueError(
                    f"first={first} does not go with where: which draws it accepts is known from draw 0 on alone"
                )
            into = np.zeros((math.prod(shape), self.dim), self.dtype) if into is None else into
            contexts = len(given) if given is not None and given.ndim == 2 else 1
            rows = into.reshape(contexts, math.prod(shape) // max(contexts, 1), self.dim)
            lattice = None if raw else self._lattice
            accepting.accepted(runner, self._snapshot.pack(runner), where, seed, given, rows, numbers[1], lattice)
            return into.reshape(*shape, self.dim) if out is None else out
        x, _ = runner.sample(self._snapshot.pack(runner), math.prod(shape), seed, given, into, numbers=numbers)
        if self._lattice is not None and not raw:
            self._lattice.round(x)
        return x.reshape(*shape, self.dim) if out is None else out

    def sample_and_log_prob(
        self,
        n: float | tuple[int, ...] | None = None,
        context: RowsLike | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        first: int = 0,
        first_context: int = 0,
        raw: bool = False,
        stream: int | None = None,
    ) -> tuple[Array, Any]:
        """Draw rows, and give their log-density, which costs next to nothing here.

        Parameters
        ----------
        n, context, rng, key, first, first_context, raw, stream
            As for :meth:`sample`. Rows that are rounded to a lattice are evaluated where they come to lie.

        Returns
        -------
        x : array
            As :meth:`sample` gives it.
        log_prob : scalar, or array of one number a draw

        Examples
        --------
        >>> import penstock as ps
        >>> x, log_prob = ps.realnvp(2, rng=0).sample_and_log_prob(3, rng=0)
        >>> x.shape, log_prob.shape
        ((3, 2), (3,))
        """
        if device_verbs.concerned(stream, context):
            seed, own = _validate.key(rng, key), device_verbs.DeviceVerbs(self)
            return own.sample(n, context, seed, None, (first, first_context), raw, stream, log_prob=True)
        given, shape, numbers = self._draws(n, context, first, first_context)
        seed = _validate.key(rng, key)
        runner = self._runner()
        x, log_prob = runner.sample(
            self._snapshot.pack(runner), math.prod(shape), seed, given, log_prob=True, numbers=numbers
        )
        assert log_prob is not None
        if self._lattice is not None and not raw:
            self._lattice.round(x)
            given = (
                given if given is None or given.ndim == 1 else np.repeat(given, len(x) // max(len(given), 1), axis=0)
            )
            log_prob = runner.log_prob(self._snapshot.pack(runner), x, given)
        return x.reshape(*shape, self.dim), _shaped(log_prob, shape)

    def sample_frame(
        self,
        n: float | None = None,
        context: RowsLike | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        raw: bool = False,
        library: str | None = None,
    ) -> Any:
        """Draw rows into a DataFrame, a column for each dimension, and behind them the context that each was drawn for.

        Parameters
        ----------
        n : int, optional
            How many, for each row of context; by default one.
        context : array of shape (c,) or (m, c), or a table, optional
            For a flow with a context.
        rng, key, raw
            As for :meth:`sample`: the numbers are the same.
        library : {"pandas", "polars", "pyarrow"}, optional
            What gives the DataFrame. By default that of the table which the flow was fitted on, otherwise the first of the
            three that is installed.

        Returns
        -------
        DataFrame of pandas or polars, or Table of pyarrow
            Of n rows, or of m times n: all draws for the first row of context, then those for the second. Columns
            without names are called ``x0``, ``x1`` … and ``c0``, ``c1`` …; a context whose name a dimension has, too, gets
            ``context_`` before it.

        Raises
        ------
        ImportError
            When none of the three is installed, or not the one that was asked for.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.realnvp(2, rng=0)
        >>> flow.columns = ["mass", "age"]
        >>> list(flow.sample_frame(3, rng=0, library="pandas").columns)
        ['mass', 'age']
        """
        if isinstance(n, tuple):
            raise TypeError(f"n must be an integer for a table, got {n!r}")
        library = frames.chosen(library, self._library)
        given, shape, numbers = self._draws(n, context, 0, 0)
        seed = _validate.key(rng, key)
        runner = self._runner()
        rows, _ = runner.sample(self._snapshot.pack(runner), math.prod(shape), seed, given, numbers=numbers)
        if self._lattice is not None and not raw:
            self._lattice.round(rows)
        if given is not None:
            given = np.repeat(
                given.reshape(-1, self.context_dim), len(rows) // max(given.size // self.context_dim, 1), 0
            )
        return frames.frame(rows, self._columns, given, self._context_columns, library)

    def _draws(
        self, n: Any, context: Any, first: int, first_context: int
    ) -> tuple[Array | None, tuple[int, ...], tuple[int, int]]:
        """The context of draws, the shape of a result with one number a draw, and the numbers of the first ones."""
        given = _validate.as_contexts(self._named_context(context), self.context_dim)
        wanted = _validate.draws(n, name="n")
        many = () if given is None else given.shape[:-1]
        if given is not None and ((many and len(wanted) > 1) or (len(many) == 2 and wanted)):
            raise ValueError(
                f"n={n} does not go with a context of shape {given.shape}: several numbers take none or one of shape "
                f"({self.context_dim},), one number takes one of shape (m, {self.context_dim}) too, n=None takes any"
            )
        numbers = (
            _validate.number_of_first(first, math.prod(wanted), DRAWS, name="first"),
            _validate.number_of_first(first_context, math.prod(many), CONTEXTS, name="first_context"),
        )
        if len(many) == 2 and given is not None:
            given = given.reshape(-1, self.context_dim)
        return given, (*many, *wanted), numbers

    # --- gradients ----------------------------------------------------------------------------------------------

    def log_prob_and_grad(
        self, X: RowsLike, context: RowsLike | None = None, wrt: str | Sequence[str] = "x", *, stream: int | None = None
    ) -> tuple[Any, Any]:
        """The log-density of rows, and its gradient with respect to each row, or to the context.

        Parameters
        ----------
        X, context
            As for :meth:`log_prob`.
        wrt : "x", "context", or a sequence of these, default "x"
            What the gradient is with respect to; a sequence gives a tuple of gradients. Where the log-density is -inf the
            gradient is that of the formula as far as it can be represented, and 0 where it cannot.
        stream : int, optional
            For arrays on the flow's GPU, see :meth:`log_prob`.

        Returns
        -------
        log_prob : scalar, or array of shape (rows,), (m, n) or (m,)
        grad : array of the shape of X or of context, or a tuple of these
            ``d log p / d x``, in the dtype of the flow, and in the order of the flow's own columns whatever the order in a
            table was. That of a context which rows share, or of a row which contexts share, is the gradient of the sum of
            their log-densities, in float64.

        Examples
        --------
        >>> import penstock as ps
        >>> log_prob, grad = ps.realnvp(2, rng=0).log_prob_and_grad([[1.0, -2.0]])
        >>> grad.tolist()
        [[-1.0, 2.0]]
        """
        words = (wrt,) if isinstance(wrt, str) else _validate.sequence(wrt, name="wrt")
        for word in words:
            _validate.choice(word, ("x", "context") if self.context_dim else ("x",), name="wrt")
        if device_verbs.concerned(stream, X, context):
            log_prob, chosen = device_verbs.DeviceVerbs(self).log_prob_and_grad(X, context, words, stream)
            return log_prob, chosen[0] if isinstance(wrt, str) else chosen
        batch = self._batch(X, context, "X")
        runner = self._runner()
        packed = self._snapshot.pack(runner)
        found = runner.log_prob_and_grad(packed, batch.x, batch.context, contexts="context" in words)
        assert found.log_det is not None
        grads = {"x": batch.d_rows(found.x), "context": batch.d_context(found.context)}
        chosen = tuple(grads[word] for word in words)
        return _shaped(found.log_det, batch.shape), chosen[0] if isinstance(wrt, str) else chosen

    def log_prob_vjp(
        self, X: RowsLike, dlogp: ArrayLike, context: RowsLike | None = None, *, stream: int | None = None
    ) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``log_prob``: gradients of ``sum(dlogp * log_prob(X, context))``.

        Parameters
        ----------
        X, context, stream
            As for :meth:`log_prob`.
        dlogp : array of the shape of log_prob(X)
            Gradient of the objective with respect to each log-density: (rows,), (m, n), or a number for one row by itself.

        Returns
        -------
        dX : array of the shape of X
            In the order of the flow's own columns; for one row with many contexts a sum over these, in float64.
        dparams : float64 array of shape (n_params,)
            Summed over rows.
        dcontext : array of the shape of context, or None
            In the dtype of the flow where each row has a context of its own; a sum over rows, in float64, where rows
            share one. None for a flow without a context.

        Examples
        --------
        >>> import penstock as ps
        >>> dX, dparams, dcontext = ps.realnvp(2, rng=0).log_prob_vjp([[1.0, -2.0]], [2.0])
        >>> dX.tolist(), dcontext
        ([[-2.0, 4.0]], None)
        """
        return self._vjp(False, True, X, None, dlogp, context, stream, ("X", "", "dlogp"))

    def to_latent_vjp(
        self, X: RowsLike, dz: ArrayLike | None, dlog_det: ArrayLike | None, context: RowsLike | None = None, *,
        stream: int | None = None,
    ) -> tuple[Array, Array, Array | None]:  # fmt: skip
        """Vector-Jacobian product of ``to_latent``: gradients of ``sum(dz * z) + sum(dlog_det * log_det)``.

        Parameters
        ----------
        X, context, stream
            As for :meth:`log_prob`.
        dz : array of the shape of z, or None for zeros
            Gradient of the objective with respect to ``z``.
        dlog_det : array of the shape of log_det, or None for zeros
            Gradient of the objective with respect to ``log_det``: (rows,), (m, n), or a number for one row by itself.

        Returns
        -------
        dX, dparams, dcontext
            As for :meth:`log_prob_vjp`.

        Examples
        --------
        >>> import penstock as ps
        >>> dX, dparams, dcontext = ps.realnvp(2, rng=0).to_latent_vjp([1.0, -2.0], [1.0, 0.0], None)
        >>> dX.tolist()
        [1.0, 0.0]
        """
        return self._vjp(False, False, X, dz, dlog_det, context, stream, ("X", "dz", "dlog_det"))

    def to_data_vjp(
        self, z: ArrayLike, dX: RowsLike | None, dlog_det: ArrayLike | None, context: RowsLike | None = None, *,
        stream: int | None = None,
    ) -> tuple[Array, Array, Array | None]:  # fmt: skip
        """Vector-Jacobian product of ``to_data``: gradients of ``sum(dX * x) + sum(dlog_det * log_det)``.

        Parameters
        ----------
        z, context, stream
            As for :meth:`to_data`.
        dX : array of the shape of x, or None for zeros
            Gradient of the objective with respect to ``x``, in the order of the flow's own columns, or a table with their
            names.
        dlog_det : array of the shape of log_det, or None for zeros
            Gradient of the objective with respect to ``log_det``: (rows,), (m, n), or a number for one row by itself.

        Returns
        -------
        dz : array of the shape of z
        dparams, dcontext
            As for :meth:`log_prob_vjp`.

        Examples
        --------
        >>> import penstock as ps
        >>> dz, dparams, dcontext = ps.realnvp(2, rng=0).to_data_vjp([1.0, -2.0], [1.0, 0.0], None)
        >>> dz.tolist()
        [1.0, 0.0]
        """
        return self._vjp(True, False, z, dX, dlog_det, context, stream, ("z", "dX", "dlog_det"))

    def _vjp(
        self,
        to_data: bool,
        base: bool,
        rows: Any,
        d_rows: Any,
        d_log_det: Any,
        context: Any,
        stream: Any,
        names: tuple[str, str, str],
    ) -> tuple[Array, Array, Array | None]:
        if device_verbs.concerned(stream, rows, d_rows, d_log_det, context):
            own = device_verbs.DeviceVerbs(self)
            return own.vjp(to_data, base, rows, d_rows, d_log_det, context, stream, names)
        batch = self._batch(rows, context, names[0])
        x, given, shape, *_ = batch
        if d_rows is not None:
            if to_data:  # the gradient of rows of data has their columns
                d_rows = self._named(d_rows, names[1])
            d_rows = _validate.as_shaped(d_rows, (*shape, self.dim), self.dtype, name=names[1]).reshape(x.shape)
        if d_log_det is not None or base:
            d_log_det = _validate.as_shaped(d_log_det, shape, self.dtype, name=names[2]).reshape(len(x))
        runner = self._runner()
        found = runner.vjp(self._snapshot.pack(runner), to_data, x, d_rows, d_log_det, given, base=base)
        assert found.params is not None
        return batch.d_rows(found.x), found.params, batch.d_context(found.context)

    def loss_and_grad(
        self, X: RowsLike, context: RowsLike | None = None, sample_weight: ArrayLike | None = None, *,
        stream: int | None = None,
    ) -> tuple[float, float, Array]:  # fmt: skip
        """Sum over rows of weighted negative log-density, and its gradient with respect to the parameters.

        ``loss_sum = -sum(w log p(x))``: sums, not means, so that those of several processes can be added.

        Parameters
        ----------
        X, context
            As for :meth:`log_prob`.
        sample_weight : array of the shape of log_prob(X), optional
            (rows,), (m, n), or a number for one row by itself, of any sign: what is added up here needs no lower bound.
            Rows of weight 0 are left out, NaN or not.
        stream : int, optional
            For arrays on the flow's GPU, see :meth:`log_prob`.

        Returns
        -------
        loss_sum, weight_sum : float
        grad : float64 array of shape (n_params,)

        Examples
        --------
        >>> import penstock as ps
        >>> loss_sum, weight_sum, grad = ps.realnvp(2, rng=0).loss_and_grad([[0.0, 0.0], [1.0, 1.0]])
        >>> round(loss_sum, 3), weight_sum
        (4.676, 2.0)
        """
        if device_verbs.concerned(stream, X, context, sample_weight):
            return device_verbs.DeviceVerbs(self).loss_and_grad(X, context, sample_weight, stream)
        x, given, shape, *_ = self._batch(X, context, "X")
        weight = None
        if sample_weight is not None:
            weight = _validate.as_shaped(sample_weight, shape, None, name="sample_weight").reshape(len(x))
            _validate.as_weights(weight, len(x), name="sample_weight")
        runner = self._runner()
        return runner.loss_and_grad(self._snapshot.pack(runner), x, given, weight)

    # --- inside -------------------------------------------------------------------------------------------------

    def _batch(self, rows: Any, context: Any, name: str) -> Batch:
        """Rows and their context, ready for the runner. Latent rows, ``z``, have no names."""
        if name != "z":
            rows = self._named(rows, name)
        x, shape = _validate.as_batch(rows, self._plan.dim, name=name)
        given = _validate.as_context(self._named_context(context), self.context_dim, shape)
        if given is None:
            return Batch(x, None, shape, shape, None)
        asked, own = given.shape, shape
        if not shape and given.ndim == 2:  # one row with many contexts
            shape = given.shape[:1]
            x = np.broadcast_to(x, (len(given), self._plan.dim))
        elif given.ndim == 3 or not shape:
            given = given.reshape(-1, self.context_dim)
        return Batch(x, given, shape, own, asked)

    def _named(self, rows: Any, name: str) -> Any:
        """Rows with their columns in the order of the flow."""
        return columns.matched(rows, self._columns, self._plan.dim, name=name).values

    def _named_context(self, context: Any) -> Any:
        """A context with its columns in the order of the flow."""
        return columns.matched(
            context, self._context_columns, self.context_dim, name="context", attribute="context_columns"
        ).values

    def _plain(self, context: Any) -> TypeGuard[Array | None]:
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
        raise NotImplementedError


class Batch(NamedTuple):
    """Rows for the runner, (rows, dim), with their context; the shape of a result with one number a row; and how they came.

    ``own`` is the shape without the dimensions of the rows as they were given: () and not ``shape`` where one row has many
    contexts. ``asked`` is the shape of the context as it was given.
    """

    x: Array
    context: Array | None
    shape: tuple[int, ...]
    own: tuple[int, ...]
    asked: tuple[int, ...] | None

    def d_rows(self, gradient: Array) -> Array:
        """A gradient of the rows in the shape in which they came: that of a row which contexts share is a sum, in float64."""
        if self.own == self.shape:
            return gradient.reshape(*self.shape, self.x.shape[1])
        total: Array = gradient.sum(axis=0, dtype=np.float64)
        return total

    def d_context(self, gradient: Array | None) -> Array | None:
        """A gradient of the context in the shape in which it came."""
        return None if gradient is None or self.asked is None else gradient.reshape(self.asked)


def _shaped(values: Array, shape: tuple[int, ...]) -> Any:
    """One number a row, in the shape that the rows came in; a scalar for one row by itself."""
    return values.reshape(shape) if shape else values[0]


def key(rng: Rng = None) -> int:
    """The 64 bits that decide the draws of one call: ``flow.sample(n, key=ps.key(rng))`` is ``flow.sample(n, rng=rng)``.

    For those who keep the key of a sample, share draws out to processes by ``first=``, or draw from C.

    Parameters
    ----------
    rng : seed or numpy Generator, optional
        What ``numpy.random.default_rng`` takes; a Generator is advanced once.

    Returns
    -------
    int
        At least 0 and below ``2**64``.

    Raises
    ------
    ValueError, TypeError
        When ``rng`` is nothing that ``numpy.random.default_rng`` takes.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.realnvp(2, rng=0)
    >>> bool((flow.sample(3, key=ps.key(0)) == flow.sample(3, rng=0)).all())
    True
    """
    return _validate.seed(rng)
