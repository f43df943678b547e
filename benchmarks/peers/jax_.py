"""A Real NVP written directly in JAX, jitted; Adam by hand, in the same jitted step."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
from tasks import Flow, Task
from worker import Work, serve

if hasattr(os, "sched_setaffinity"):  # XLA sizes its pool by the processors it may use, once
    usable = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, usable[: int(os.environ.get("BENCH_THREADS", len(usable)))])

import jax
import jax.numpy as jnp

Params = list[list[tuple[jax.Array, jax.Array]]]


def initial(flow: Flow) -> Params:
    """Random networks."""
    half = flow.dim // 2
    keys = iter(jax.random.split(jax.random.key(0), 3 * flow.layers))

    def linear(n_in: int, n_out: int) -> tuple[jax.Array, jax.Array]:
        return 0.5 * jax.random.normal(next(keys), (n_in, n_out)) / math.sqrt(n_in), jnp.zeros(n_out)

    return [
        [linear(half, flow.width), linear(flow.width, flow.width), linear(flow.width, 2 * half)]
        for _ in range(flow.layers)
    ]


def network(layers: list[tuple[jax.Array, jax.Array]], u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Log-scale, bounded by tanh, and shift."""
    for w, b in layers[:-1]:
        u = jax.nn.relu(u @ w + b)
    w, b = layers[-1]
    s, t = jnp.split(u @ w + b, 2, axis=1)
    return jnp.tanh(s), t


def log_prob(params: Params, x: jax.Array) -> jax.Array:
    halves = jnp.split(x, 2, axis=1)
    log_det = jnp.zeros(len(x))
    for i, layers in enumerate(params):
        s, t = network(layers, halves[i % 2])
        halves[1 - i % 2] = (halves[1 - i % 2] - t) * jnp.exp(-s)
        log_det = log_det - s.sum(1)
    squares = sum((h * h).sum(1) for h in halves)
    return log_det - 0.5 * squares - 0.5 * x.shape[1] * math.log(2 * math.pi)


def sample(params: Params, key: jax.Array, rows: int, dim: int) -> jax.Array:
    halves = jnp.split(jax.random.normal(key, (rows, dim)), 2, axis=1)
    for i in reversed(range(len(params))):
        s, t = network(params[i], halves[i % 2])
        halves[1 - i % 2] = halves[1 - i % 2] * jnp.exp(s) + t
    return jnp.concatenate(halves, axis=1)


def adam_step(state: Any, x: jax.Array) -> Any:
    params, m, v, k = state
    gradient = jax.grad(lambda p: -log_prob(p, x).mean())(params)
    k = k + 1
    m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
    v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
    scale = 1e-5 / (1 - 0.9**k)
    root = jnp.sqrt(1 - 0.999**k)
    params = jax.tree.map(lambda p, m, v: p - scale * m / (jnp.sqrt(v) / root + 1e-8), params, m, v)
    return params, m, v, k


def prepare(flow: Flow, task: Task, threads: int) -> Work:
    """The work of a task as a function of the number of repetitions."""
    params = initial(flow)
    x = jax.random.normal(jax.random.key(1), (task.rows, flow.dim))
    zeros = jax.tree.map(jnp.zeros_like, params)
    density = jax.jit(log_prob)
    draw = jax.jit(sample, static_argnums=(2, 3))
    step = jax.jit(adam_step, donate_argnums=0)
    state = [(params, zeros, jax.tree.map(jnp.zeros_like, params), jnp.zeros(()))]

    def train(repeats: int) -> None:
        for _ in range(repeats):
            state[0] = step(state[0], x)
        jax.block_until_ready(state[0])

    def evaluate(repeats: int) -> None:
        for _ in range(repeats):
            density(params, x).block_until_ready()

    def draws(repeats: int) -> None:
        for seed in range(repeats):
            draw(params, jax.random.key(seed), task.rows, flow.dim).block_until_ready()

    return {"step": train, "log_prob": evaluate, "sample": draws}[task.verb]


def versions() -> dict[str, str]:
    """What was timed."""
    return {"jax": jax.__version__}


if __name__ == "__main__":
    serve(prepare, versions)
