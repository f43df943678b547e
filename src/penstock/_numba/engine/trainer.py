"""Adam over mini-batches gathered by row number."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from penstock._numba.engine import adam as _adam
from penstock._numba.engine.engine import Array, Engine
from penstock._numba.engine.gradient import batch_gradient, fill_weight, slices_gradient, slices_of
from penstock._numba.engine.order import order
from penstock._numba.engine.packed import Packed
from penstock._numba.engine.workspace import Workspace

MOST_NODES = 12  # of the tree over the slices of a batch, that some neighbouring ones make


class Trainer:
    """Owns its parameters. A step that is not finite is not taken, and an interrupted one never half taken."""

    def __init__(
        self, engine: Engine, params: Array, buffers: Array, beta1: float, beta2: float, epsilon: float,
        weight_decay: float, decoupled: bool, clip_norm: float, frozen: Array | None = None,
    ) -> None:  # fmt: skip
        engine.need_no_external("Trainer")
        self._engine, self._layout = engine, engine.layout
        self._settings = float(beta1), float(beta2), float(epsilon), float(weight_decay), bool(decoupled)
        self._clip_norm = float(clip_norm)
        self._frozen = self._layout.frozen.copy()
        for offset, count in self._ranges(frozen):
            self._frozen[offset : offset + count] = True
        self._busy = threading.Lock()
        packed = engine.pack(params, buffers)
        zero = np.zeros_like(packed.params)
        self._state = packed, zero, zero.copy(), 0  # parameters, Adam's moments, steps: replaced together

    def _ranges(self, frozen: Array | None) -> list[list[int]]:
        """Ranges of the flat vector."""
        if frozen is None:
            return []
        if frozen.ndim != 2 or frozen.shape[1] != 2 or frozen.dtype != np.int64:
            raise ValueError(f"frozen must be int64 of shape (k, 2), got {frozen.dtype} of {frozen.shape}")
        n = self._engine.n_params
        if not all(0 <= offset <= n and 0 <= count <= n - offset for offset, count in frozen.tolist()):
            raise ValueError(f"frozen must lie within the {n} parameters")
        ranges: list[list[int]] = frozen.tolist()
        return ranges

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Two calls at once would each undo what the other did."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError("this trainer is at work in another call")
        try:
            yield
        finally:
            self._busy.release()

    @property
    def step(self) -> int:
        """Adam steps so far."""
        return self._state[3]

    def packed(self) -> Packed:
        """A snapshot of the present parameters."""
        with self._alone():
            return self._state[0]

    def get_params(self, out: Array) -> None:
        """Copy the present parameters into ``out``."""
        self._engine.need("out", out, (self._engine.n_params,))
        with self._alone():
            out[...] = self._state[0].params

    def set_params(self, params: Array) -> None:
        """Replace the parameters; moments and step count stay."""
        self._engine.need("params", params, (self._engine.n_params,))
        with self._alone():
            packed, m, v, step = self._state
            self._state = packed.with_params(np.array(params)), m, v, step

    def get_state(self, m: Array, v: Array) -> int:
        """Copy Adam's moments into ``m`` and ``v``; how many steps they have seen."""
        for name, out in (("m", m), ("v", v)):
            self._engine.need(name, out, (self._engine.n_params,))
        with self._alone():
            m[...], v[...] = self._state[1:3]
            return self._state[3]

    def set_state(self, m: Array, v: Array, step: int) -> None:
        """Replace Adam's moments and the count of steps; those of frozen parameters stay 0."""
        for name, given in (("m", m), ("v", v)):
            self._engine.need(name, given, (self._engine.n_params,))
        if step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        with self._alone():
            m, v = (np.where(self._frozen, 0, given).astype(self._layout.dtype) for given in (m, v))
            self._state = self._state[0], m, v, int(step)

    def run(
        self, x: Array, context: Array | None, weight: Array | None, weight_exponent: int, weight_scale: float, seed: int,
        epoch: int, n_train: int, first_step: int, batch_size: int, learning_rates: Array, losses: Array, norms: Array,
    ) -> int:  # fmt: skip
        """Mini-batches first_step .. of an epoch; how many were done before one whose loss or gradient was not finite.

        Weights are those given times 2^weight_exponent. A batch whose weights sum to 0 takes no step and counts as done.
        """
        engine = self._engine
        n_rows = engine.need_rows(x)
        given = engine.context(context, n_rows)
        if context is not None and np.shape(context) != (n_rows, self._layout.context_dim):
            raise ValueError(f"context must have shape ({n_rows}, {self._layout.context_dim})")
        engine.need_weight(weight, n_rows)
        if not 0 < n_train <= n_rows:
            raise ValueError(f"n_train must be within 1..{n_rows}, got {n_train}")
        for name, array in (("learning_rates", learning_rates), ("losses", losses), ("norms", norms)):
            if array.shape != learning_rates.shape or array.ndim != 1 or array.dtype != np.float64:
                raise ValueError(f"{name} must be float64 of shape {learning_rates.shape}")
        steps = len(learning_rates)
        fine = 1 <= batch_size <= n_train and first_step >= 0
        if not fine or (steps and (first_step + steps - 1) * batch_size >= n_train):
            raise ValueError(f"first_step and batch_size must stay within the {n_train} rows of an epoch")
        with self._alone():
            for i, learning_rate in enumerate(learning_rates.tolist()):
                begin = (first_step + i) * batch_size
                rows = min(batch_size, n_train - begin)

                def fill(first: int, last: int, space: Workspace, begin: int = begin) -> None:
                    index = np.arange(begin + first, begin + last)
                    order(np.uint64(seed), np.uint64(epoch), int(n_train), index, index)
                    order(np.uint64(seed), np.uint64(0), n_rows, index, index)
                    space.x[: last - first] = x[index]
                    given.fill(index, space)
                    fill_weight(space, None if weight is None else weight[index], last - first, int(weight_exponent))

                gradient, sums = batch_gradient(engine, self._state[0], x.itemsize, rows, given, fill)
                loss, weights = sums.tolist()
                if not self._step(gradient, loss, weights, weight_scale / rows, learning_rate, losses, norms, i):
                    return i
        return steps

    @property
    def n_gradient(self) -> int:
        """Numbers of a padded gradient."""
        return self._layout.n_gradient

    def part(
        self, x: Array, context: Array | None, weight: Array | None, weight_exponent: int, index: Array, batch_size: int,
        first: int, last: int, nodes: Array, losses: Array, weights: Array,
    ) -> int:  # fmt: skip
        """The gradient of slices first to last - 1 of a batch, of the rows of ``index``, into ``nodes``, of which it is so many.

        Sums over the rows of each slice go into ``losses`` and ``weights``, which have room for all slices.
        """
        engine, slices = self._engine, slices_of(batch_size)
        n_rows = engine.need_rows(x)
        given = engine.context(context, n_rows)
        if context is not None and np.shape(context) != (n_rows, self._layout.context_dim):
            raise ValueError(f"context must have shape ({n_rows}, {self._layout.context_dim})")
        engine.need_weight(weight, n_rows)
        if batch_size < 1 or not 0 <= first <= last <= len(slices):
            raise ValueError(f"first and last must lie within the {len(slices)} slices of a batch")
        starts = [begin for begin, _ in slices] + [batch_size]
        origin = starts[first]
        if index.dtype != np.int64 or index.shape != (starts[last] - origin,):
            raise ValueError(f"index must be int64 of shape ({starts[last] - origin},)")
        if ((index < 0) | (index >= n_rows)).any():
            raise ValueError("index must lie within the rows")
        for name, array in (("losses", losses), ("weights", weights)):
            if array.shape != (len(slices),) or array.dtype != np.float64:
                raise ValueError(f"{name} must be float64 of shape ({len(slices)},)")
        if nodes.shape != (MOST_NODES, self.n_gradient) or nodes.dtype != self._layout.dtype:
            raise ValueError(f"nodes must be {self._layout.dtype} of shape ({MOST_NODES}, {self.n_gradient})")

        def fill(begin: int, end: int, space: Workspace) -> None:
            rows = index[begin - origin : end - origin]
            space.x[: end - begin] = x[rows]
            given.fill(rows, space)
            fill_weight(space, None if weight is None else weight[rows], end - begin, int(weight_exponent))

        with self._alone():
            tree, sums = slices_gradient(
                engine, self._state[0], x.itemsize, batch_size, first, last, given, fill
            )  # fmt: skip
        losses[first:last], weights[first:last] = sums[first:last].T
        found = tree.nodes()
        for to, node in zip(nodes, found, strict=False):
            to[...] = node
        return len(found)

    def finish(
        self, gradient: Array, loss: float, weight: float, rows: int, weight_scale: float, learning_rate: float, told: Array
    ) -> bool:  # fmt: skip
        """The step of a batch of so many rows by the sum of all gradients, unless that or the loss is not finite.

        ``told`` gets the mean loss and the norm. A batch whose weights sum to 0 takes no step, and yet is none that fails.
        """
        if gradient.shape != (self.n_gradient,) or gradient.dtype != self._layout.dtype:
            raise ValueError(f"gradient must be {self._layout.dtype} of shape ({self.n_gradient},)")
        if told.shape != (2,) or told.dtype != np.float64:
            raise ValueError("told must be float64 of shape (2,)")
        with self._alone():
            return self._step(gradient, loss, weight, weight_scale / rows, learning_rate, told[:1], told[1:], 0)

    def _step(
        self, gradient: Array, loss: float, weight: float, scale: float, learning_rate: float, losses: Array, norms: Array,
        i: int,
    ) -> bool:  # fmt: skip
        """One step of Adam from a padded gradient and the sums of a batch, unless loss or gradient are not finite."""
        if weight == 0:
            losses[i], norms[i] = math.nan, 0.0
            return True
        losses[i] = loss / weight
        packed, m, v, step = self._state
        gradient = np.where(self._frozen, 0, gradient[self._layout.index])
        with np.errstate(all="ignore"):
            norms[i] = norm = math.sqrt(float(np.sum(np.square(gradient, dtype=np.float64)))) * scale
        if not (math.isfinite(losses[i]) and math.isfinite(norm)):
            return False
        if norm > self._clip_norm:
            scale *= self._clip_norm / norm
        params, m, v = packed.params.copy(), m.copy(), v.copy()
        _adam.adam(
            params, gradient, scale, m, v, self._layout.decay, self._frozen, step + 1, learning_rate, *self._settings
        )
        self._state = packed.with_params(params), m, v, step + 1
        return True
