"""flowjax's flows, which have random permutations between their layers: with a constant rate, and with a cosine."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from fitting import BATCH, BINS, BOUND, HIDDEN, LAYERS, Array, Fitted, Model, rates, serve, train_by_epochs
from flowjax.bijections import RationalQuadraticSpline
from flowjax.distributions import Normal
from flowjax.flows import coupling_flow, masked_autoregressive_flow
from paramax import NonTrainable, unwrap


def fit(make: Callable[..., Any], spline: bool, cosine: bool = False) -> Model:
    """A flow of flowjax in the budget of all peers."""

    def model(train: Array, validation: Array, seed: int) -> Fitted:
        transformer = RationalQuadraticSpline(knots=BINS, interval=BOUND) if spline else None
        flow = make(
            jr.key(seed), base_dist=Normal(jnp.zeros(train.shape[1])), transformer=transformer, flow_layers=LAYERS,
            nn_width=HIDDEN[0], nn_depth=len(HIDDEN),
        )  # fmt: skip
        params, static = eqx.partition(flow, eqx.is_inexact_array, is_leaf=lambda leaf: isinstance(leaf, NonTrainable))
        every = rates(cosine, len(train))
        optimiser = optax.adam(lambda step: jnp.array(every.ravel(), jnp.float32)[step])
        state = optimiser.init(params)
        x, held_out = (jnp.array(part, jnp.float32) for part in (train, validation))
        order = np.random.default_rng(seed)

        @jax.jit
        def log_prob(params: Any, rows: Any) -> Any:
            return unwrap(eqx.combine(params, static)).log_prob(rows)

        @jax.jit
        def step(params: Any, state: Any, rows: Any) -> Any:
            gradient = jax.grad(lambda params: -log_prob(params, x[rows]).mean())(params)
            updates, state = optimiser.update(gradient, state)
            return optax.apply_updates(params, updates), state

        def one_epoch(epoch: int) -> None:
            nonlocal params, state
            rows = order.permutation(len(x))
            for first in range(0, len(x), BATCH):
                params, state = step(params, state, rows[first : first + BATCH])

        def score(params: Any, rows: Array) -> Array:
            return np.array(log_prob(params, jnp.array(rows, jnp.float32)))

        fitted = train_by_epochs(
            one_epoch, lambda: float(log_prob(params, held_out).mean()), lambda: params, score, cosine
        )
        fitted.about["n_params"] = sum(leaf.size for leaf in jax.tree.leaves(params))
        return fitted

    return model


MODELS: dict[str, Model] = {}
for name, make, spline in (
    ("affine coupling", coupling_flow, False),
    ("RQS coupling", coupling_flow, True),
    ("RQS autoregressive", masked_autoregressive_flow, True),
):
    MODELS[f"flowjax {name}"] = fit(make, spline)
    MODELS[f"flowjax {name}, cosine"] = fit(make, spline, cosine=True)

if __name__ == "__main__":
    serve(MODELS, lambda: {name: importlib.metadata.version(name) for name in ("flowjax", "jax")})
