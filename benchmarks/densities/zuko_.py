"""zuko's flows: as they come, and stronger, with random masks or orders, or LU layers, and a cosine schedule.

Its circular flows are for tables of angles alone.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable
from typing import Any

import torch
import zuko
from fitting import (
    BATCH,
    BINS,
    HIDDEN,
    LAYERS,
    RATE,
    Array,
    CircleModel,
    Fitted,
    Model,
    angles,
    log_slope,
    rates,
    serve,
    train_by_epochs,
)
from zuko.lazy import Flow, UnconditionalTransform
from zuko.transforms import LULinearTransform


def with_lu(flow: Flow) -> Flow:
    """An LU layer, which starts as the identity, after each layer of the flow."""
    dim = flow.base().event_shape[0]
    layers = []
    for layer in flow.transform.transforms:
        layers += [layer, UnconditionalTransform(LULinearTransform, torch.eye(dim))]
    return Flow(layers, flow.base)


def fit(make: Callable[[int], Any], cosine: bool = False) -> Model:
    """The flow that ``make`` gives for a number of columns, in the budget of all peers."""

    def model(train: Array, validation: Array, seed: int) -> Fitted:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
        torch.manual_seed(seed)
        flow = make(train.shape[1])
        optimiser = torch.optim.Adam(flow.parameters(), RATE)
        x, held_out = (torch.tensor(part, dtype=torch.float32) for part in (train, validation))
        every = rates(cosine, len(x))

        def one_epoch(epoch: int) -> None:
            for rate, rows in zip(every[epoch], torch.randperm(len(x)).split(BATCH), strict=True):
                for group in optimiser.param_groups:
                    group["lr"] = float(rate)
                optimiser.zero_grad()
                (-flow().log_prob(x[rows]).mean()).backward()
                optimiser.step()

        @torch.no_grad()
        def validate() -> float:
            return float(flow().log_prob(held_out).mean())

        @torch.no_grad()
        def score(state: Any, rows: Array) -> Array:
            flow.load_state_dict(state)
            return flow().log_prob(torch.tensor(rows, dtype=torch.float32)).numpy()

        def keep() -> Any:
            return {name: value.clone() for name, value in flow.state_dict().items()}

        fitted = train_by_epochs(one_epoch, validate, keep, score, cosine)
        fitted.about["n_params"] = sum(value.numel() for value in flow.parameters())
        return fitted

    return model


def on_circles(make: Callable[[int], Any], cosine: bool = False) -> CircleModel:
    """The flow of angles in [-pi, pi) that ``make`` gives, as a density of the columns."""

    def model(train: Array, validation: Array, seed: int, circles: Array) -> Fitted:
        slope = log_slope(circles)
        fitted = fit(make, cosine)(angles(train, circles), angles(validation, circles), seed)
        return Fitted(
            lambda rows: fitted.score(angles(rows, circles)) + slope,
            fitted.validation + slope,
            fitted.seconds,
            [value + slope for value in fitted.curve],
            fitted.about,
        )

    return model


SIZE = {"transforms": LAYERS, "hidden_features": HIDDEN}
MODELS: dict[str, Model] = {}
for name, make, mix in (
    ("RealNVP", lambda dim, **mixed: zuko.flows.RealNVP(dim, **SIZE, **mixed), "randmask"),
    ("MAF", lambda dim, **mixed: zuko.flows.MAF(dim, **SIZE, **mixed), "randperm"),
    ("NSF coupling", lambda dim, **mixed: zuko.flows.NSF(dim, bins=BINS, passes=2, **SIZE, **mixed), "randperm"),
    ("NSF autoregressive", lambda dim, **mixed: zuko.flows.NSF(dim, bins=BINS, **SIZE, **mixed), "randperm"),
):
    MODELS[f"zuko {name}"] = fit(make)
    MODELS[f"zuko {name}, cosine"] = fit(make, cosine=True)
    MODELS[f"zuko {name}, random, cosine"] = fit(lambda dim, make=make, mix=mix: make(dim, **{mix: True}), cosine=True)
    MODELS[f"zuko {name}, LU, cosine"] = fit(lambda dim, make=make: with_lu(make(dim)), cosine=True)

CIRCLES: dict[str, CircleModel] = {}
for name, passes in (("NCSF autoregressive", None), ("NCSF coupling", 2)):

    def circular(dim: int, passes: int | None = passes, **mixed: bool) -> Any:
        return zuko.flows.NCSF(dim, bins=BINS, passes=passes, **SIZE, **mixed)

    CIRCLES[f"zuko {name}"] = on_circles(circular)
    CIRCLES[f"zuko {name}, cosine"] = on_circles(circular, cosine=True)
    CIRCLES[f"zuko {name}, random, cosine"] = on_circles(
        lambda dim, make=circular: make(dim, randperm=True), cosine=True
    )

if __name__ == "__main__":
    serve(MODELS, lambda: {name: importlib.metadata.version(name) for name in ("zuko", "torch")}, all_circles=CIRCLES)
