"""A mixture of flows as a runner: ``p(x) = sum_k w_k p_k(x)``. What verbs ask of a ``Runner`` is answered for all members.

The engine evaluates all members in one call and sums in float64 about the largest term, whatever the dtype of the members,
``log p = m + log sum_k exp(log w_k + log p_k - m)``. The gradients of ``log p`` are those of the members, each times its share,
``w_k p_k / p``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array, DTypeLike
from penstock.runner import Gradients, Runner
from penstock.state import Packer, Snapshot

# The stream of the counters that choose members; multipliers and increments of keys of Philox4x32.
MEMBER, M0, M1, W0, W1 = (np.uint64(word) for word in (7, 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85))
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


class Packed(NamedTuple):
    """Numbers of all members in the form of their engines, and what evaluates all of them in one call."""

    members: tuple[Any, ...]
    weights: Array
    together: Any


class Numbers:
    """The numbers of a mixture at one moment, as ``Snapshot`` has those of a flow. Nothing in it ever changes.

    Attributes
    ----------
    members : tuple of Snapshot
    weights : float64 array of shape (members,), read-only
        At least 0; their sum is 1.
    packed : Packed or None
        The form of the engines, once it was needed.
    """

    __slots__ = ("members", "packed", "weights")

    def __init__(self, members: Sequence[Snapshot], weights: Array) -> None:
        weights.flags.writeable = False
        self.members = tuple(members)
        self.weights = weights
        self.packed: Packed | None = None

    @property
    def buffers(self) -> Array:
        """Those of the first member, as far as they tell where columns lie."""
        return self.members[0].buffers

    @property
    def initialised(self) -> bool:
        """Whether all members are."""
        return all(own.initialised for own in self.members)

    def pack(self, runner: Packer) -> Packed:
        """The packed form, made at its first use."""
        if self.packed is None:
            assert isinstance(runner, Mixture)
            each = zip(self.members, runner.members, strict=True)
            self.packed = runner.joined([member.pack(own) for member, own in each], self.weights)
        return self.packed


class Mixture(Runner):
    """The runners of the members, which agree in dimensions and dtype, as one. It has a density and draws, and no latent side.

    Attributes
    ----------
    members : tuple of Runner
    """

    def __init__(self, members: Sequence[Runner]) -> None:
        self.members = tuple(members)
        self.plan = members[0].plan
        self._dtype = self.plan.dtype
        self._backend = members[0]._backend
        self._memory = np

    @property
    def backend(self) -> str:
        """The name of the backend."""
        return self.members[0].backend

    def described(self) -> str:
        """The backend and its instruction set, and why these."""
        return self.members[0].described()

    def with_context(self, packed: Packed, context: Array) -> Packed:
        """The same numbers for calls that all have this context, (context_dim,), and pass none."""
        each = zip(self.members, packed.members, strict=True)
        return self.joined([own.with_context(numbers, context) for own, numbers in each], packed.weights)

    def joined(self, packed: Sequence[Any], weights: Array) -> Packed:
        """Numbers of all members as one."""
        each = weights.tolist()
        logs = [math.log(weight) if weight > 0 else -math.inf for weight in each]
        engines = [own.engine for own in self.members]
        return Packed(tuple(packed), weights, self._backend.Mixture(engines, list(packed), each, logs))

    # --- evaluating ---------------------------------------------------------------------------------------------

    def log_prob_row(self, packed: Packed, row: Array, context: Array | None) -> Array:
        """The log-density of one row, of shape (1, dim), without any check."""
        out = np.empty(1, self._dtype)
        packed.together.evaluate(row, context, out, None, None)
        return out

    def log_prob(
        self,
        packed: Packed,
        x: Array,
        context: Array | None = None,
        out: Array | None = None,
        dtype: np.dtype[Any] | None = None,
        *,
        index: Array | None = None,
    ) -> Array:
        """The log-density of every row, (rows,), into ``out`` if given."""
        assert index is None
        if out is None:
            out = self._memory.empty(len(x), dtype or self._dtype)
        packed.together.evaluate(x, context, out, None, None)
        return out

    def each(self, packed: Packed, x: Array, context: Array | None = None) -> Array:
        """The log-densities of all members, float64 of shape (members, rows)."""
        values = np.empty((len(self.members), len(x)))
        packed.together.evaluate(x, context, None, values, None)
        return values

    def shared(self, packed: Packed, x: Array, context: Array | None, dtype: DTypeLike) -> tuple[Array, Array]:
        """The log-density of every row, and of each member its share of the density, float64 of shape (members, rows)."""
        log_prob, shares = np.empty(len(x), dtype), np.empty((len(self.members), len(x)))
        packed.together.evaluate(x, context, log_prob, None, shares)
        return log_prob, shares

    def transform(self, packed: Any, to_data: bool, x: Array, *_: Any, **__: Any) -> tuple[Array, Array]:
        """A mixture has no map to a latent side."""
        raise TypeError("an ensemble has no latent side; each of ensemble.members has one")

    def sample(
        self,
        packed: Packed,
        n: int,
        seed: int,
        context: Array | None = None,
        out: Array | None = None,
        *,
        log_prob: bool = False,
        numbers: tuple[int, int] = (0, 0),
    ) -> tuple[Array, Array | None]:
        """``n`` draws in all, (n, dim), into ``out`` if given, and on demand their log-density.

        Draw ``i`` for row ``j`` of context is that of one member; which one follows from the seed, ``i`` and ``j``.
        """
        if out is None:
            out = self._memory.empty((n, self.plan.dim), self._dtype)
        first, first_context = numbers
        packed.together.sample(seed, first_context, first, context, out)
        return out, self.log_prob(packed, out, context) if log_prob else None

    # --- gradients ----------------------------------------------------------------------------------------------

    def vjp(
        self,
        packed: Packed,
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
        """The vector-Jacobian product of the log-density; parameters are those of all members, one member after the other."""
        assert base
        assert not to_data
        assert d_log_det is not None
        with np.errstate(all="ignore"):
            return self._vjp(packed, x, d_log_det, context, params=params, contexts=contexts, log_det=log_det)

    def _vjp(
        self, packed: Packed, x: Array, d_log_det: Array, context: Array | None, *, params: bool, contexts: bool, log_det: bool
    ) -> Gradients:  # fmt: skip
        values, shares = self.shared(packed, x, context, self._dtype)
        d_x, d_params, d_context = np.zeros(x.shape), [], None
        for own, numbers, share in zip(self.members, packed.members, shares, strict=True):
            d_value = (share * d_log_det).astype(self._dtype)
            found = own.vjp(numbers, False, x, None, d_value, context, base=True, params=params, contexts=contexts)
            d_x += found.x
            if found.params is not None:
                d_params.append(found.params)
            if found.context is not None:
                d_context = found.context.astype(np.float64) + (0 if d_context is None else d_context)
        if d_context is not None and context is not None and context.ndim == 2 and len(context) == len(x):
            d_context = d_context.astype(self._dtype)
        return Gradients(
            d_x.astype(self._dtype), np.concatenate(d_params) if params else None, d_context, [],
            values if log_det else None,
        )  # fmt: skip

    def loss_and_grad(
        self, packed: Packed, x: Array, context: Array | None, weight: Array | None
    ) -> tuple[float, float, Array]:
        """The sum of weighted negative log-densities, the sum of weights, and the gradient (float64) of the former."""
        if weight is None:
            weight = np.ones(len(x))
        if context is not None and context.ndim == 2:
            context = np.repeat(context, len(x) // max(len(context), 1), axis=0)
        counts = weight != 0  # other rows may hold anything
        if not counts.all():
            x, weight = x[counts], weight[counts]
            context = context if context is None or context.ndim == 1 else context[counts]
        # Weights come in any unit: they are brought to about 1 before they are narrowed to the dtype.
        unit = math.ldexp(1.0, math.frexp(float(np.abs(weight).max(initial=0.0)) or 1.0)[1])
        scaled = weight.astype(np.float64) / unit
        found = self.vjp(packed, False, x, None, -scaled, context, base=True, contexts=False)
        values = self.log_prob(packed, x, context, dtype=np.dtype(np.float64))
        assert found.params is not None
        return float(-(scaled * values).sum() * unit), float(scaled.sum() * unit), found.params * unit


def chances(seed: int, first: int, n: int) -> Array:
    """The numbers in [0, 1) that choose the members of n draws, as the engine has them for the first row of a context.

    Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), whose counters ``docs/file-format.md`` tells.
    """
    draw = np.arange(n, dtype=np.uint64) + np.uint64(first)
    k0, k1 = np.uint64(seed) & LOW, np.uint64(seed) >> HALF
    c0, c1, c2 = draw & LOW, np.zeros(n, np.uint64), np.zeros(n, np.uint64)
    c3 = MEMBER | (draw >> HALF) << np.uint64(8)
    for _ in range(10):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return ((c0 << np.uint64(21)) | (c1 >> np.uint64(11))).astype(np.float64) * 2.0**-53
