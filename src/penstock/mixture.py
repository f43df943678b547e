"""A mixture of flows as a runner: ``p(x) = sum_k w_k p_k(x)``. What verbs ask of a ``Runner`` is answered for all members.

Logarithms of sums are taken in float64 about the largest term, ``log p = m + log sum_k exp(log w_k + log p_k - m)``, whatever the
dtype of the members, and the gradients of ``log p`` are those of the members, each times its share ``w_k p_k / p``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array
from penstock.runner import Gradients, Runner
from penstock.state import Packer, Snapshot

MEMBER = 7  # the stream of the counters that choose members
# Multipliers and increments of keys of Philox4x32.
M0, M1, W0, W1 = (np.uint64(word) for word in (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85))
LOW, HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


class Packed(NamedTuple):
    """Numbers of all members in the form of their engines, and the weights."""

    members: tuple[Any, ...]
    weights: Array


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

    def pack(self, runner: Packer) -> Packed:
        """The packed form, made at its first use."""
        if self.packed is None:
            assert isinstance(runner, Mixture)
            each = zip(self.members, runner.members, strict=True)
            self.packed = Packed(tuple(member.pack(own) for member, own in each), self.weights)
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
        return Packed(tuple(own.with_context(numbers, context) for own, numbers in each), packed.weights)

    # --- evaluating ---------------------------------------------------------------------------------------------

    def log_prob_row(self, packed: Packed, row: Array, context: Array | None) -> Array:
        """The log-density of one row, of shape (1, dim), without any check."""
        return self.log_prob(packed, row, context)

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
        """The log-density of every row, or of the rows of an index, (rows,), into ``out`` if given."""
        values, _ = _mixed(self.each(packed, x, context, index=index), packed.weights)
        if out is None:
            return values.astype(dtype or self._dtype)
        out[:] = values
        return out

    def each(self, packed: Packed, x: Array, context: Array | None = None, *, index: Array | None = None) -> Array:
        """The log-densities of all members, float64 of shape (members, rows)."""
        double = np.dtype(np.float64)
        pairs = zip(self.members, packed.members, strict=True)
        return np.stack([own.log_prob(numbers, x, context, dtype=double, index=index) for own, numbers in pairs])

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
        chosen = _chosen(packed.weights, n, seed, 1 if context is None or context.ndim == 1 else len(context), numbers)
        if out is None:
            out = np.zeros((n, self.plan.dim), self._dtype)
        for k, own in enumerate(self.members):
            mine = chosen == k
            if mine.any():
                out[mine] = own.sample(packed.members[k], n, seed, context, numbers=numbers)[0][mine]
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
        values, shares = _mixed(self.each(packed, x, context), packed.weights)
        d_x, d_params, d_context = np.zeros(x.shape), [], None
        for own, numbers, share in zip(self.members, packed.members, shares, strict=True):
            d_value = (share * d_log_det).astype(self._dtype)
            found = own.vjp(numbers, False, x, None, d_value, context, base=True, params=params, contexts=contexts)
            d_x += _counting(found.x, share)
            if found.params is not None:
                d_params.append(found.params)
            if found.context is not None:
                part = found.context if found.context.dtype != self._dtype else found.context.astype(np.float64)
                rows = found.context.shape[:1] == x.shape[:1]
                d_context = (0 if d_context is None else d_context) + (_counting(part, share) if rows else part)
        if d_context is not None and context is not None and context.ndim == 2 and len(context) == len(x):
            d_context = d_context.astype(self._dtype)
        return Gradients(
            d_x.astype(self._dtype), np.concatenate(d_params) if params else None, d_context, [],
            values.astype(self._dtype) if log_det else None,
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


def _mixed(values: Array, weights: Array) -> tuple[Array, Array]:
    """The log-densities (rows,) of a mixture whose members have the given ones, (members, rows), and the members' shares."""
    with np.errstate(all="ignore"):
        terms = values + np.log(weights)[:, None]
        terms[weights == 0] = -np.inf
        most = terms.max(axis=0)
        sound = np.isfinite(most)
        parts = np.exp(terms - np.where(sound, most, 0.0))
        total = parts.sum(axis=0)
        mixed = np.where(sound, most + np.log(total), most)
        shares = np.where(most == -np.inf, 0.0, parts / total)
    return mixed, shares


def _counting(gradient: Array, share: Array) -> Array:
    """Gradients of rows as float64, 0 where the share of the member is: it may lie where its own are no numbers."""
    counted = gradient.astype(np.float64)
    counted[share == 0] = 0
    return counted


def _chosen(weights: Array, n: int, seed: int, contexts: int, numbers: tuple[int, int]) -> Array:
    """The member of each of n draws, shared out evenly to rows of context: where its uniform number lies among the weights."""
    each = n // max(contexts, 1)
    first, first_context = numbers
    draw = np.tile(np.arange(first, first + each, dtype=np.uint64), contexts)
    row = np.repeat(np.arange(first_context, first_context + contexts, dtype=np.uint64), each)
    ends = np.cumsum(weights)
    ends[np.flatnonzero(weights)[-1] :] = 1.0
    return np.searchsorted(ends, _uniform(seed, draw, row), side="right")


def _uniform(seed: int, draw: Array, row: Array) -> Array:
    """Numbers in [0, 1) of 53 bits, by Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011)."""
    k0, k1 = np.uint64(seed) & LOW, np.uint64(seed) >> HALF
    c0, c1, c2 = draw & LOW, row & LOW, (row >> HALF) << np.uint64(24)
    c3 = np.uint64(MEMBER) | (draw >> HALF) << np.uint64(8)
    for _ in range(10):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return ((c0 << np.uint64(21)) | (c1 >> np.uint64(11))).astype(np.float64) * 2.0**-53
