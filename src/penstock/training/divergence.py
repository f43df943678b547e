"""The reverse Kullback-Leibler divergence of a batch of draws, and its gradient; every gradient of the flow is the engine's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from penstock._typing import Array
from penstock.runner import Runner
from penstock.targets import LogDensity, evaluated
from penstock.training.contexts import GOLDEN, Contexts

# Seeds of draws that must not be those of the batches.
VALIDATION, PILOT, STRATA, CONTEXTS = 1, 2, 3, 4


def seed_of(seed: int, purpose: int) -> int:
    """The seed of what is drawn for a purpose."""
    return (seed + purpose * GOLDEN) % 2**64


class Batch(NamedTuple):
    """Draws of the base.

    Attributes
    ----------
    z : array of shape (n, dim)
        Latents.
    numbers : (int, int)
        Numbers of the first draw and of the first row of context.
    context : float64 array of shape (n, context_dim), or None
    components : int64 array of shape (mixtures, n), or None
        Of the mixtures of the base.
    log_weight : float64 array of shape (n,), or None
        The logarithm of ``w_k n / n_k`` of each draw, a product over mixtures, with the weight ``w_k`` of its component and the
        ``n_k`` draws that it has.
    """

    z: Array
    numbers: tuple[int, int]
    context: Array | None
    components: Array | None
    log_weight: Array | None


class Estimate(NamedTuple):
    """What a batch tells.

    Attributes
    ----------
    loss : float
        Mean of ``log q - log p``, weighted, over the draws that count; NaN where none does.
    grad : float64 array of shape (n_params,)
    x : array of shape (n, dim)
        Images of the draws.
    good : boolean array of shape (n,)
        Which draws count: those where log p and the gradient are finite.
    """

    loss: float
    grad: Array
    x: Array
    good: Array


class Divergence:
    """Draws of a flow, and estimates of its divergence from a target.

    Parameters
    ----------
    runner : Runner
    target : callable
    seed : int
    path : bool
        Whether the score of the flow is left out of the gradient.
    contexts : Contexts or None
    mixtures : sequence of int
        How many components each mixture of the base has.
    """

    def __init__(
        self,
        runner: Runner,
        target: LogDensity,
        seed: int,
        *,
        path: bool,
        contexts: Contexts | None,
        mixtures: Sequence[int],
    ) -> None:
        self.runner, self.target, self.seed, self._path = runner, target, seed, path
        self.contexts, self._mixtures = contexts, tuple(mixtures)
        self._learned = any(tensor.name.startswith("base.") for tensor in runner.plan.tensors)

    def batch(self, packed: object, step: int, n: int) -> Batch:
        """The draws of a step: of every component of a mixture as many as of another, up to one."""
        context, numbers = None, (step * n, 0)
        if self.contexts is not None:
            context, numbers = self.contexts.take(self.runner, seed_of(self.seed, CONTEXTS), step * n, n), (0, step * n)
        components, log_share = self._strata(step, n)
        z, log_weight = self.runner.latents(packed, n, self.seed, context, components, numbers=numbers)
        return Batch(z, numbers, context, components, None if components is None else log_weight - log_share)

    def _strata(self, step: int, n: int) -> tuple[Array | None, Array]:
        """Components of the draws of a step, (mixtures, n), and the logarithms of the parts that they have of these.

        Those of one mixture are dealt out in turn; those of further ones too, in a random order of the draws of its own, so that
        every combination has its part of them in the mean.
        """
        if not self._mixtures:
            return None, np.zeros(0)
        chosen, log_share = np.zeros((len(self._mixtures), n), np.int64), np.zeros(n)
        for i, count in enumerate(self._mixtures):
            dealt = (np.arange(n) + step * n) % count
            if i:
                dealt = dealt[self.runner.row_order(seed_of(self.seed, STRATA + GOLDEN * i), step, n, range(n))]
            chosen[i] = dealt
            parts = np.bincount(dealt, minlength=count) / n
            log_share += np.array([math.log(part) for part in parts.tolist()])[dealt]
        return chosen, log_share

    def estimate(self, params: Array, buffers: Array, step: int, n: int) -> Estimate:
        """The divergence of some parameters, up to the logarithm of the evidence, by the draws of a step; and its gradient.

        With shares s of the draws, which are equal or, where a base has mixtures, go as the weights of their components, the
        loss is ``L = sum s l`` of ``l = log q(x) - log p(x)`` at ``x = f^-1(z)``.

        Path ("sticking the landing"): ``(d log q / dx - d log p / dx)^T dx / dparams``, with the parameters inside log q held
        fixed, those of the base and its weights included. What is left out is the gradient of log q with respect to them, the
        score, which has mean zero; at the target every draw's gradient is zero. Reparameterised: of
        ``log base(z) - log |det dx/dz| - log p(x)``. Both move the latents with the base that they are drawn from, and both
        have the gradient ``s (l - L)`` of the logarithm of a draw's weight.

        References
        ----------
        Roeder, Wu, Duvenaud, "Sticking the Landing: Simple, Lower-Variance Gradient Estimators for Variational Inference"
        (2017), mixtures included.
        """
        runner, dtype = self.runner, self.runner.plan.dtype
        packed = runner.pack(params, buffers)
        batch = self.batch(packed, step, n)
        z, context = batch.z, batch.context
        x, log_det = runner.transform(packed, True, z, context)
        log_p, slope = evaluated(self.target, x, context, gradient=True)
        assert slope is not None
        d_x = -slope
        if self._path:
            d_x += runner.log_prob_and_grad(packed, x, context, contexts=False).x
        losses = runner.log_base(packed, z, context) - log_det - log_p
        good = np.isfinite(losses) & np.isfinite(d_x.astype(dtype)).all(axis=1)
        if not good.any():
            return Estimate(np.nan, np.zeros(runner.plan.n_params), x, good)
        share = shares(good, batch.log_weight)
        loss = float(share[good] @ losses[good])
        d_x = np.where(good[:, None], d_x, 0.0) * share[:, None]
        d_log_det = None if self._path else -share.astype(dtype)
        found = runner.vjp(packed, True, z, d_x.astype(dtype), d_log_det, context, contexts=False)
        assert found.params is not None
        grad, d_z = found.params, found.x
        if self._learned:
            if not self._path:
                d_base, explicit = runner.log_base_vjp(packed, z, share.astype(dtype), context)
                grad, d_z = grad + explicit, d_z + d_base
            # Rows that do not count may have gradients that are no numbers, times zero.
            d_z = np.where(good[:, None], d_z, 0.0).astype(dtype)
            pull = None
            if batch.components is not None:
                pull = (share * (np.where(good, losses, loss) - loss)).astype(dtype)
            grad = grad + runner.latents_vjp(
                packed, self.seed, d_z, pull, context, batch.components, numbers=batch.numbers
            )  # fmt: skip
        return Estimate(loss, grad, x, good)


def exp(x: Array) -> Array:
    """Exponentials, number by number: NumPy's have other last bits on processors with wider vectors."""
    return np.array([math.exp(number) for number in x.tolist()])


def shares(good: Array, log_weight: Array | None) -> Array:
    """What part of a sum each row has; those that do not count have none."""
    if log_weight is None:
        alike: Array = good / good.sum()
        return alike
    top = log_weight[good].max()
    weight = np.where(good, exp(np.minimum(log_weight - top, 0.0)), 0.0)
    result: Array = weight / weight.sum()
    return result
