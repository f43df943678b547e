"""The one door to the engine: a plan on a backend. Every output is allocated here, and nothing else calls the engine.

Rows come as the front door leaves them, two-dimensional; ``packed`` is what ``pack`` gave. A context is None, one row for all,
of shape (context_dim,), or of shape (m, context_dim), a row for each ``rows / m`` rows in turn.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from penstock._backend import CudaBackend
from penstock._typing import Array
from penstock.plan import Plan

MOST_NODES = 12  # of the tree over the slices of a batch, that some neighbouring ones make: each size twice


class Gradients(NamedTuple):
    """Gradients of a map; None for those that were not asked for.

    Attributes
    ----------
    x : array of the shape of the rows
    params : float64 array of shape (n_params,), or None
    context : array of the shape of the context, or None
        A sum over rows, in float64, unless each row has a context of its own.
    thetas : list of arrays
        For each external theta; that of one which all rows share is a sum over rows, in float64.
    log_det : array of shape (rows,), or None
        What the forward pass gave.
    """

    x: Array
    params: Array | None
    context: Array | None
    thetas: list[Array]
    log_det: Array | None


class Runner:
    """A plan on one backend.

    Attributes
    ----------
    plan : Plan
    engine : object
        The backend's engine of the plan.
    """

    def __init__(self, plan: Plan, backend: Any) -> None:
        engine = backend.Engine(plan.table)
        self.plan = plan
        self.engine = engine
        self._backend = backend
        # Bound once: one row at a time is a common call, and an attribute look-up a visible part of it.
        self._evaluate = engine.evaluate
        self._dtype = plan.dtype
        self._n_steps = plan.n_steps
        self._memory: Any = np

    def within(self, memory: Any) -> Self:
        """The same runner with outputs in other memory, which gives them as ``numpy`` does: ``empty``, ``zeros`` and ``ones``."""
        twin = copy.copy(self)
        twin._memory = memory
        return twin

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return str(self._backend.name)

    @property
    def arithmetic(self) -> str:
        """The backend whose bits the results have: a GPU's are those of the compiled core."""
        return "cpp" if isinstance(self._backend, CudaBackend) else self.backend

    @property
    def divides_batches(self) -> bool:
        """Whether its trainer gives the gradients of some slices of a batch."""
        return not isinstance(self._backend, CudaBackend)

    def described(self) -> str:
        """The backend and its instruction set, and why these."""
        return str(self._backend.described())

    def pack(self, params: Array, buffers: Array) -> Any:
        """The engine's own copy of the numbers, immutable."""
        return self.engine.pack(params, buffers)

    def with_context(self, packed: Any, context: Array) -> Any:
        """The same numbers for calls that all have this context, (context_dim,), and pass none."""
        return self.engine.with_context(packed, context)

    # --- evaluating ---------------------------------------------------------------------------------------------

    def log_prob_row(self, packed: Any, row: Array, context: Array | None) -> Array:
        """The log-density of one row, of shape (1, dim), without any check."""
        out = np.empty(1, self._dtype)
        self._evaluate(packed, False, 0, self._n_steps, row, None, context, None, True, None, out)
        return out

    def log_prob(
        self,
        packed: Any,
        x: Array,
        context: Array | None = None,
        out: Array | None = None,
        dtype: np.dtype[Any] | None = None,
        *,
        index: Array | None = None,
    ) -> Array:
        """The log-density of every row, or of the rows of an index, (rows,), into ``out`` if given."""
        if out is None:
            out = self._memory.empty(len(x) if index is None else len(index), dtype or self._dtype)
        self._evaluate(packed, False, 0, self._n_steps, x, index, context, None, True, None, out)
        return out

    def transform(
        self,
        packed: Any,
        to_data: bool,
        x: Array,
        context: Array | None = None,
        thetas: Sequence[Array | None] | None = None,
        *,
        first: int = 0,
        last: int | None = None,
    ) -> tuple[Array, Array]:
        """Steps ``first`` to ``last - 1`` in one direction, by default all: the image of every row, and its log_det."""
        out = self._memory.empty(x.shape, self._dtype)
        log_det = self._memory.empty(len(x), self._dtype)
        last = self._n_steps if last is None else last
        self._evaluate(packed, to_data, first, last, x, None, context, thetas, False, out, log_det)
        return out, log_det

    def sample(
        self,
        packed: Any,
        n: int,
        seed: int,
        context: Array | None = None,
        out: Array | None = None,
        *,
        log_prob: bool = False,
        numbers: tuple[int, int] = (0, 0),
    ) -> tuple[Array, Array | None]:
        """``n`` draws in all, (n, dim), into ``out`` if given, and on demand their log-density.

        They are shared out evenly to the rows of the context. ``numbers`` are those of the first draw for each, and of the
        first row of context.
        """
        if out is None:
            out = self._memory.empty((n, self.plan.dim), self._dtype)
        density = self._memory.empty(n, self._dtype) if log_prob else None
        first, first_context = numbers
        self.engine.sample(packed, seed, first_context, first, context, out, density)
        return out, density

    def latents(
        self,
        packed: Any,
        n: int,
        seed: int,
        context: Array | None = None,
        components: Array | None = None,
        *,
        numbers: tuple[int, int] = (0, 0),
    ) -> tuple[Array, Array]:
        """``n`` draws of the base, (n, dim), those that ``sample`` maps to the data; and the logarithm of what their components
        weigh, (n,) in float64, where these are given, an int64 array of shape (mixtures of the base, n), and 0 where drawn.
        """
        out, log_weight = np.empty((n, self.plan.dim), self._dtype), np.zeros(n)
        first, first_context = numbers
        self.engine.latents(packed, seed, first_context, first, context, components, out, log_weight)
        return out, log_weight

    def log_base(self, packed: Any, z: Array, context: Array | None = None) -> Array:
        """The log-density of the base at latents, (n,) in float64."""
        out = np.empty(len(z))
        self._evaluate(packed, False, 0, 0, z, None, context, None, True, None, out)
        return out

    # --- gradients ----------------------------------------------------------------------------------------------

    def vjp(
        self,
        packed: Any,
        to_data: bool,
        x: Array,
        d_out: Array | None,
        d_log_det: Array | None,
        context: Array | None = None,
        *,
        base: bool = False,
        params: bool = True,
        contexts: bool = True,
        thetas: Sequence[Array] | None = None,
        log_det: bool = False,
    ) -> Gradients:
        """The vector-Jacobian product of all steps in one direction, with ``base`` that of the log-density.

        ``params`` and ``contexts`` say whether their gradients are wanted, ``log_det`` whether that of the forward pass is.
        """
        d_x = self._memory.empty(x.shape, self._dtype)
        d_params = self._memory.zeros(self.plan.n_params) if params else None
        d_context = None
        if contexts and context is not None:
            own = context.ndim == 2 and len(context) == len(x)
            d_context = self._memory.empty(context.shape, self._dtype) if own else self._memory.zeros(context.shape)
        d_thetas = None
        if thetas is not None:
            d_thetas = [
                self._memory.empty(theta.shape, self._dtype) if theta.ndim == 2 else self._memory.zeros(theta.shape)
                for theta in thetas
            ]
        given = self._memory.empty(len(x), self._dtype) if log_det else None
        self.engine.vjp(
            packed, to_data, 0, self._n_steps, x, context, thetas, base, d_out, d_log_det, given, d_x, d_params, d_context,
            d_thetas,
        )  # fmt: skip
        return Gradients(d_x, d_params, d_context, d_thetas or [], given)

    def log_base_vjp(self, packed: Any, z: Array, d_log_p: Array, context: Array | None = None) -> tuple[Array, Array]:
        """The way back of ``log_base``: gradients of latents, (n, dim), and of parameters, (n_params,) in float64."""
        d_z, d_params = np.empty(z.shape, self._dtype), np.zeros(self.plan.n_params)
        self.engine.vjp(
            packed, False, 0, 0, z, context, None, True, None, d_log_p, None, d_z, d_params, None, None
        )  # fmt: skip
        return d_z, d_params

    def latents_vjp(
        self,
        packed: Any,
        seed: int,
        d_z: Array,
        d_log_weight: Array | None,
        context: Array | None = None,
        components: Array | None = None,
        *,
        numbers: tuple[int, int] = (0, 0),
    ) -> Array:
        """The way back of ``latents``: the gradient of parameters, (n_params,) in float64; what decides draws is held fixed."""
        d_params = np.zeros(self.plan.n_params)
        first, first_context = numbers
        self.engine.latents_vjp(packed, seed, first_context, first, context, components, d_z, d_log_weight, d_params)
        return d_params

    def log_prob_and_grad(self, packed: Any, x: Array, context: Array | None, *, contexts: bool) -> Gradients:
        """The log-density of every row, as ``log_det``, and its gradient, in one forward pass and one back."""
        ones = self._memory.ones(len(x), self._dtype)
        return self.vjp(packed, False, x, None, ones, context, base=True, params=False, contexts=contexts, log_det=True)

    def loss_and_grad(
        self, packed: Any, x: Array, context: Array | None, weight: Array | None
    ) -> tuple[float, float, Array]:
        """The sum of weighted negative log-densities, the sum of weights, and the gradient (float64) of the former."""
        grad = self._memory.zeros(self.plan.n_params)
        loss_sum, weight_sum = self.engine.loss_and_grad(packed, x, context, weight, grad)
        return float(loss_sum), float(weight_sum), grad

    # --- training -----------------------------------------------------------------------------------------------

    def row_order(self, seed: int, epoch: int, n: int, positions: Array | range) -> Array:
        """The rows at some positions, an int64 array or a range, of the order in which an epoch visits ``n`` rows."""
        out = np.empty(len(positions), np.int64)
        where = positions.start if isinstance(positions, range) else positions
        self._backend.row_order(seed, epoch, n, where, out)
        return out

    def slices(self, rows: int) -> list[int]:
        """The first rows of the slices that the gradient of a batch is made of, and its end."""
        return [int(first) for first in self._backend.slices(rows)]

    def trainer(
        self,
        params: Array,
        buffers: Array,
        *,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        clip_norm: float,
        frozen: Array | None,
    ) -> Trainer:
        """A trainer that begins at these numbers; ``frozen`` holds ``[offset, count]`` of parameters that stay."""
        options = (*betas, epsilon, weight_decay, True, clip_norm, frozen)
        return Trainer(self._backend.Trainer(self.engine, params, buffers, *options), self.plan)

    def adam(
        self,
        params: Array,
        grad: Array,
        m: Array,
        v: Array,
        step: int,
        learning_rate: float,
        betas: tuple[float, float],
        epsilon: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        """One step of Adam or AdamW, number ``step`` from 1, on ``params`` and the moments in place."""
        self.engine.adam(params, grad, m, v, step, learning_rate, *betas, epsilon, weight_decay, decoupled)


class Trainer:
    """The parameters of a training run and the state of their optimiser, which is AdamW."""

    def __init__(self, trainer: Any, plan: Plan) -> None:
        self._trainer = trainer
        self._n_params, self._dtype = plan.n_params, plan.dtype
        self._nodes: Array | None = None  # what ``part`` gives

    @property
    def step(self) -> int:
        """Steps taken."""
        return int(self._trainer.step)

    @property
    def n_gradient(self) -> int:
        """Numbers of a gradient as ``part`` gives it, with gaps between rows."""
        return int(self._trainer.n_gradient)

    def packed(self) -> Any:
        """The present parameters, packed."""
        return self._trainer.packed()

    def params(self, out: Array) -> Array:
        """The present parameters, into ``out``."""
        self._trainer.get_params(out)
        return out

    def moments(self) -> tuple[Array, Array]:
        """Copies of Adam's moments."""
        m, v = np.empty(self._n_params, self._dtype), np.empty(self._n_params, self._dtype)
        self._trainer.get_state(m, v)
        return m, v

    def resume(self, m: Array, v: Array, step: int) -> None:
        """Go on with these moments after so many steps."""
        self._trainer.set_state(m, v, step)

    def run(
        self,
        x: Array,
        context: Array | None,
        weight: Array | None,
        *,
        weight_exponent: int,
        weight_scale: float,
        seed: int,
        epoch: int,
        n_train: int,
        first_step: int,
        batch_size: int,
        learning_rates: Array,
        losses: Array,
        norms: Array,
    ) -> int:
        """Take a step for each learning rate, on consecutive batches of an epoch.

        Parameters
        ----------
        losses, norms : float64 arrays of shape (steps,), to be written
            Mean losses of the batches, NaN for one whose weights are all zero, and norms of the gradients before clipping.
            Those of a batch are written before its step is taken, also where an interruption follows.

        Returns
        -------
        done : int
            Steps before the first one whose loss or gradient was not finite.
        """
        done = self._trainer.run(
            x, context, weight, weight_exponent, weight_scale, seed, epoch, n_train, first_step, batch_size, learning_rates,
            losses, norms,
        )  # fmt: skip
        return int(done)

    def part(
        self,
        x: Array,
        context: Array | None,
        weight: Array | None,
        *,
        weight_exponent: int,
        index: Array,
        batch_size: int,
        slices: range,
        losses: Array,
        weights: Array,
    ) -> Array:
        """The gradients of some slices of a batch, added up as far as the tree over all of its slices does.

        Parameters
        ----------
        index : int64 array
            The rows of these slices.
        losses, weights : float64 arrays, to be written
            Sums of ``-w log p`` and of ``w``, at the numbers of the slices.

        Returns
        -------
        nodes : array of shape (nodes, numbers of a padded gradient)
            In the order of slices. They are good until the next call. What lies between rows is anything.
        """
        if self._nodes is None:
            self._nodes = np.empty((MOST_NODES, self._trainer.n_gradient), self._dtype)
        n = self._trainer.part(
            x,
            context,
            weight,
            weight_exponent,
            index,
            batch_size,
            slices.start,
            slices.stop,
            self._nodes,
            losses,
            weights,
        )
        return self._nodes[:n]

    def finish(
        self, gradient: Array, loss: float, weight: float, rows: int, weight_scale: float, learning_rate: float
    ) -> tuple[bool, float, float]:
        """The step of a batch of so many rows, by the sum of the gradients of all slices.

        Returns
        -------
        taken : bool
            Whether loss and gradient were finite; otherwise nothing has changed.
        loss, norm : float
            As ``run`` gives them.
        """
        told = np.empty(2)
        taken = self._trainer.finish(gradient, loss, weight, rows, weight_scale, learning_rate, told)
        return bool(taken), float(told[0]), float(told[1])
