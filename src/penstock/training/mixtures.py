"""Where a mixture of the base begins: spread over rows, by k-means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from penstock._typing import Array
from penstock.plan import BASE, Plan
from penstock.training.divergence import seed_of

ROUNDS = 25  # of Lloyd's algorithm at most
NARROWEST = 0.05  # of the standard deviation of all rows: what a component has at least
STARTS = 6  # of Lloyd's algorithm, of which the best counts
MIXTURE = 5  # the purpose of its seed


class Mixture(NamedTuple):
    """A mixture of the base: its number among the blocks, its dimensions and how many components it has."""

    number: int
    dims: tuple[int, ...]
    components: int


def spread(plan: Plan, mixtures: Sequence[Mixture], params: Array, z: Array, seed: int, frozen: Array | None) -> None:
    """Set the mixtures in ``params`` to the clusters of latent rows: weights, means and widths. What is frozen stays."""
    for mixture in mixtures:
        tensors = plan.tensors_of(BASE - mixture.number)
        # With a network of the context, the bias of its last layer holds them.
        count = mixture.components * (1 + 2 * len(mixture.dims))
        last = tensors[-1].stop
        if frozen is not None and any(first < last and last - count < first + n for first, n in frozen):
            continue
        own = z[:, list(mixture.dims)].astype(np.float64)
        own = own[np.isfinite(own).all(axis=1)]
        if len(own) < mixture.components:
            continue
        weights, means, widths = clusters(own, mixture.components, seed_of(seed, MIXTURE + mixture.number))
        # Number by number: NumPy's logarithm has other last bits on processors with wider vectors.
        numbers = [math.log(w) for w in weights.tolist()], means.ravel(), [math.log(s) for s in widths.ravel().tolist()]
        params[last - count : last] = np.concatenate(numbers)


def clusters(x: Array, k: int, seed: int) -> tuple[Array, Array, Array]:
    """Shares (k,), means and standard deviations (k, dim) of k clusters of rows, by k-means in units of their widths.

    References
    ----------
    Lloyd, "Least squares quantization in PCM" (1982); Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding"
    (2007), for where it begins.
    """
    unit = x.std(axis=0)
    unit = np.where(unit > 0, unit, 1.0)
    rows, generator = x / unit, np.random.default_rng(seed)
    best, least = np.zeros(len(rows), np.int64), math.inf
    for _ in range(STARTS):
        centres = _seeded(rows, k, generator)
        for _ in range(ROUNDS):
            distance = _distances(rows, centres)
            label = distance.argmin(axis=1)
            counts = np.bincount(label, minlength=k)
            for empty in np.flatnonzero(counts == 0):  # takes the row that lies worst
                worst = int(distance[np.arange(len(rows)), label].argmax())
                label[worst], distance[worst] = empty, 0.0
                counts = np.bincount(label, minlength=k)
            moved = np.stack([rows[label == i].mean(axis=0) if counts[i] else centres[i] for i in range(k)])
            if (moved == centres).all():
                break
            centres = moved
        total = float(_distances(rows, centres)[np.arange(len(rows)), label].sum())
        if total < least:
            best, least = label, total
    counts = np.bincount(best, minlength=k)
    means = np.stack([x[best == i].mean(axis=0) if counts[i] else x.mean(axis=0) for i in range(k)])
    widths = np.stack([x[best == i].std(axis=0) if counts[i] else unit for i in range(k)])
    return (counts + 1) / (counts + 1).sum(), means, np.maximum(widths, NARROWEST * unit)


def _distances(rows: Array, centres: Array) -> Array:
    """Squares of the distances of rows to centres, (rows, centres)."""
    result: Array = np.stack([((rows - centre) ** 2).sum(axis=1) for centre in centres], axis=1)
    return result


def _seeded(rows: Array, k: int, generator: np.random.Generator) -> Array:
    """Rows as first centres, each drawn by the squares of the distances to those before."""
    chosen = [rows[int(generator.integers(len(rows)))]]
    for _ in range(k - 1):
        nearest = _distances(rows, np.stack(chosen)).min(axis=1)
        mass = np.cumsum(nearest)
        place = int(np.searchsorted(mass, generator.random() * mass[-1], side="right"))
        chosen.append(rows[min(place, len(rows) - 1)])
    return np.stack(chosen)
