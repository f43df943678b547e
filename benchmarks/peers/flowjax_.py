"""The spline flows of flowjax, jitted."""

from __future__ import annotations

import importlib.metadata
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

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import paramax
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow, masked_autoregressive_flow


def prepare(flow: Flow, task: Task, threads: int) -> Work:
    """The work of a task as a function of the number of repetitions; threads were set when the process began."""
    make = coupling_flow if flow.recipe == "nsf" else masked_autoregressive_flow
    key = jax.random.key(0)
    model = make(
        key, base_dist=Normal(jnp.zeros(flow.dim)), transformer=RationalQuadraticSpline(knots=8, interval=5),
        flow_layers=flow.layers, nn_width=flow.width, nn_depth=2,
    )  # fmt: skip
    x = jax.random.normal(key, (task.rows, flow.dim))
    if task.verb == "step":
        params, static = eqx.partition(
            model, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, paramax.NonTrainable)
        )
        optimiser = optax.adam(1e-5)
        state: list[Any] = [params, optimiser.init(params)]

        @eqx.filter_jit
        def one(params: Any, moments: Any) -> Any:
            def loss(p: Any) -> Any:
                return -paramax.unwrap(eqx.combine(p, static)).log_prob(x).mean()

            gradient = eqx.filter_grad(loss)(params)
            update, moments = optimiser.update(gradient, moments)
            return eqx.apply_updates(params, update), moments

        def step(repeats: int) -> None:
            for _ in range(repeats):
                state[:] = one(*state)
            jax.block_until_ready(eqx.filter(state, eqx.is_array))

        return step
    log_prob = eqx.filter_jit(lambda model, x: model.log_prob(x))
    sample = eqx.filter_jit(lambda model, key: model.sample(key, (task.rows,)))

    def work(repeats: int) -> None:
        for _ in range(repeats):
            (sample(model, key) if task.verb == "sample" else log_prob(model, x)).block_until_ready()

    return work


def versions() -> dict[str, str]:
    """What was timed."""
    return {name: importlib.metadata.version(name) for name in ("flowjax", "jax")}


if __name__ == "__main__":
    serve(prepare, versions)
