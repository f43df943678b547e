"""The distribution of the latent side: the base on lines, uniform on circles and boxes. In float64.

Dimensions are independent of each other, but for those of a mixture: the distribution of one of these depends on the ones that
are given, through the weights of the components.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from penstock._backend import Backend
from penstock._typing import Array
from penstock.base import GaussianMixture, StandardNormal, Uniform, blocks
from penstock.conditioners import MLP
from penstock.layers import Elementwise
from penstock.plan import BASE, EMBEDDING, Plan, compile_plan
from penstock.runner import Runner
from penstock.spec import FlowSpec, latent_kinds
from penstock.state import Snapshot, identity
from penstock.transforms import Additive

ENDS = {"circle": math.pi, "box": 1.0}  # of the interval [-end, end] that latents of a kind fill
TURN = 2 * math.pi
ROWS = 1 << 13  # together, each with all components of a mixture
SMALLEST = 2.0**-53  # of a share, and of what is left of 1


class Block(NamedTuple):
    """A block of the base: what it is, its dimensions, and its numbers, (size,) or of each row, (rows, size)."""

    base: Any
    slots: list[int]
    numbers: Array

    def turns(self, given: Sequence[int]) -> Iterator[tuple[list[int], Callable[[Array], Array]]]:
        """Dimensions that depend on none but those before them, the given ones first, and their numbers, from latents."""
        n = len(self.slots)
        if n == 1 or not isinstance(self.base, GaussianMixture):
            yield self.slots, lambda z: self.numbers
            return
        order = sorted(range(n), key=lambda place: self.slots[place] not in given)
        for turn, place in enumerate(order):
            before = order[:turn]

            def numbers(z: Array, place: int = place, before: list[int] = before) -> Array:
                found: Array = self.base.one(self.numbers, place, before, z[:, [self.slots[i] for i in before]])
                return found

            yield [self.slots[place]], numbers


Side = list[Block]


def side(
    spec: FlowSpec, plan: Plan, snapshot: Snapshot, backend: Backend, context: Array | None = None, rows: int = 1
) -> Side:
    """The blocks of a flow with their numbers: of a base that reads the context, for so many rows that share its rows evenly."""
    kinds, found = latent_kinds(spec), []
    for number, (base, dims) in enumerate(blocks(spec.base)):
        places = [i for i, slot in enumerate(dims) if kinds[slot] == "line"]
        if not places:
            continue
        tensors = plan.tensors_of(BASE - number)
        numbers = np.array(base.fixed(places), np.float64)
        if tensors:
            numbers = snapshot.params[tensors[0].offset : tensors[-1].stop].astype(np.float64)
        if base.conditioner is not None:
            assert context is not None
            numbers = _of_network(spec, plan, snapshot, number, base.conditioner, backend, np.atleast_2d(context))
            numbers = numbers[0] if len(numbers) == 1 else np.repeat(numbers, rows // len(numbers), axis=0)
        found.append(Block(base, [dims[i] for i in places], numbers))
    for kind, end in ENDS.items():
        slots = [slot for slot, own in enumerate(kinds) if own == kind]
        if slots:
            found.append(Block(Uniform(len(slots), -end, end), slots, np.zeros(0)))
    return found


def _of_network(
    spec: FlowSpec, plan: Plan, snapshot: Snapshot, number: int, network: MLP, backend: Backend, context: Array
) -> Array:
    """What the network of a block gives for contexts, (rows, size): the shift of a flow that does nothing else."""
    source = plan.tensors_of(BASE - number)
    part = replace(
        spec, base=StandardNormal(source[-1].size), layers=(Elementwise(Additive(), network, "to_data"),), dtype="float64",
        support=(),
    )  # fmt: skip
    compiled = compile_plan(part)
    params = np.zeros(compiled.n_params)
    for layer, own in ((0, source), (EMBEDDING, plan.tensors_of(EMBEDDING))):
        for mine, theirs in zip(compiled.tensors_of(layer), own, strict=True):
            params[mine.offset : mine.stop] = snapshot.params[theirs.offset : theirs.stop]
    buffers = identity(compiled)
    given, mapped = 2 * (compiled.dim + plan.context_dim), len(compiled.support_numbers)
    buffers[2 * compiled.dim : given] = snapshot.buffers[2 * plan.dim : 2 * (plan.dim + plan.context_dim)]
    buffers[given:] = snapshot.buffers[len(snapshot.buffers) - mapped :]  # those of the context stand last
    runner = Runner(compiled, backend)
    start = np.zeros((len(context), compiled.dim))
    shift: Array = runner.transform(runner.pack(params, buffers), True, start, context)[0]
    return shift


# --- distribution functions ---------------------------------------------------------------------------------------


def cdf(side: Side, z: Array, *, given: Sequence[int] = (), upper: bool = False) -> Array:
    """The distribution function of each dimension at latents ``z``, (rows, dim); ``upper`` gives 1 minus it, without
    cancellation. NaN passes.

    Of a mixture it is that of each dimension where those ``given`` are known, and then those before it (Rosenblatt 1952): of
    draws, independent uniform numbers.
    """
    found = np.full(z.shape, np.nan)
    for part in _pieces(side, len(z)):
        rows, shares = z[part], found[part]
        for block in side:
            for slots, numbers in block.turns(given):
                shares[:, slots] = block.base.cdf(rows[:, slots], numbers(rows), upper=upper)
    return found


def quantile(side: Side, u: Array, *, z: Array | None = None, given: Sequence[int] = (), upper: bool = False) -> Array:
    """The inverse of ``cdf`` for numbers in [0, 1], (rows, dim), with the dimensions ``given`` as ``z`` has them; infinite at
    the ends of a line.
    """
    found = np.full(u.shape, np.nan) if z is None else z.copy()
    for part in _pieces(side, len(u)):
        shares, rows = u[part], found[part]
        for block in side:
            for slots, numbers in block.turns(given):
                own = [slot for slot in slots if slot not in given]
                if own:
                    values = block.base.quantile(shares[:, slots], numbers(rows), upper=upper)
                    rows[:, own] = values[:, [slots.index(slot) for slot in own]]
    return found


def _pieces(side: Side, n: int) -> list[slice]:
    """Rows together: all of them where each has numbers of its own."""
    size = n if any(block.numbers.ndim > 1 for block in side) else ROWS
    return [slice(first, first + size) for first in range(0, n, max(size, 1))]


def redrawn(side: Side, z: Array, own: Array, given: Sequence[int]) -> Array:
    """Draws ``z``, (rows, dim), of the base, as draws of it where the dimensions ``given`` are those of ``own``."""
    found = z.copy()
    found[:, list(given)] = own[:, list(given)]
    mixed = [block for block in side if len(block.slots) > 1 and isinstance(block.base, GaussianMixture)]
    if mixed:
        shares = np.clip(cdf(mixed, z, given=given), SMALLEST, 1 - SMALLEST)
        found = quantile(mixed, shares, z=found, given=given)
    return found


def need_quantiles(spec: FlowSpec) -> None:
    """Raise if the base has no quantiles, dimension by dimension."""
    kinds = latent_kinds(spec)
    for base, dims in blocks(spec.base):
        if isinstance(base, GaussianMixture) and sum(kinds[slot] == "line" for slot in dims) > 1:
            raise ValueError(
                "a base that is a mixture of more than one dimension has no quantiles, dimension by dimension: prior_transform "
                "needs another one"
            )


# --- circles ------------------------------------------------------------------------------------------------------


def turn(z: Array, start: Array) -> Array:
    """The share of a turn from one angle to another."""
    share: Array = (z - start) % TURN / TURN
    return share


def turned(share: Array, start: Array) -> Array:
    """The angle after a share of a turn, within [-pi, pi]."""
    angle: Array = (share * TURN + start + math.pi) % TURN - math.pi
    return angle
