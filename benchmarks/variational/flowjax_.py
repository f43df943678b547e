"""Reverse KL by flowjax's spline couplings, jitted, with its own loss, plain or sticking the landing."""

from __future__ import annotations

import os
import time
from importlib.metadata import version
from typing import Any

if hasattr(os, "sched_setaffinity"):  # XLA sizes its pool by the processors it may use, once
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[: int(os.environ.get("BENCH_THREADS", len(usable)))])

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import paramax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow
from flowjax.train.losses import ElboLoss
from problems import BINS, HIDDEN, LAYERS, Answer, Mixture, Work, measured, serve


def train(work: Work, target: Mixture) -> Answer:
    """A coupling flow on a standard normal, in steps that are compiled before the clock starts."""
    means, precisions = jnp.array(target.means), jnp.array(target.precisions)
    constants = jnp.array(target.constants)

    def log_density(x: Any) -> Any:
        away = x[..., None, :] - means
        return jax.nn.logsumexp(constants - 0.5 * jnp.einsum("...ki,kij,...kj->...k", away, precisions, away), axis=-1)

    key = jax.random.key(work.seed)
    flow = coupling_flow(
        key, base_dist=Normal(jnp.zeros(target.dim)), transformer=RationalQuadraticSpline(knots=BINS, interval=5),
        flow_layers=LAYERS, nn_width=HIDDEN, nn_depth=2, invert=False,
    )  # fmt: skip
    params, static = eqx.partition(
        flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
    )
    loss = ElboLoss(log_density, num_samples=work.batch, stick_the_landing=work.estimator == "path")
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(work.rate, work.steps))
    )

    @eqx.filter_jit
    def step(params: Any, state: Any, key: Any) -> Any:
        gradient = eqx.filter_grad(loss)(params, static, key)
        update, state = optimiser.update(gradient, state, params)
        return eqx.apply_updates(params, update), state

    keys = jax.random.split(key, work.steps)
    start = time.perf_counter()
    jax.block_until_ready(eqx.filter(step(params, optimiser.init(params), keys[0]), eqx.is_array))
    compiled = time.perf_counter()
    state = optimiser.init(params)
    for one in keys:
        params, state = step(params, state, one)
    jax.block_until_ready(eqx.filter(params, eqx.is_array))
    seconds = time.perf_counter() - compiled
    flow = paramax.unwrap(eqx.combine(params, static))
    x, log_q = flow.sample_and_log_prob(jax.random.key(work.seed + 1), (work.draws,))
    log_weights = np.array(log_density(x) - log_q, np.float64)
    return measured(
        log_weights, np.array(x), seconds, compiled - start, {name: version(name) for name in ("flowjax", "jax")}
    )


if __name__ == "__main__":
    serve(train)
