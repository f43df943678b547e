"""penstock's flows with the default ``fit``: as the recipes make them, in the size that the peers have, and on circles."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from fitting import BINS, HIDDEN, LAYERS, Array, CircleModel, Fitted, Model, serve

import penstock as ps

SIZE = {"layers": LAYERS, "hidden": HIDDEN}


def fit(make: Callable[..., ps.Flow], options: dict[str, Any], **arguments: Any) -> Model:
    """The recipe ``make`` with some options, trained with the arguments of ``fit`` that are given."""

    def model(train: Array, validation: Array, seed: int) -> Fitted:
        flow = make(train.shape[1], rng=seed, **options)
        flow.fit(train, validation=validation, rng=seed, progress=False, **arguments)
        curve = [-loss for loss in flow.history.validation_loss]
        about = {"n_params": flow.n_params, "steps": flow.history.step[-1]}
        return Fitted(flow.log_prob, max(curve), flow.history.seconds, curve, about)

    return model


def before(n: int) -> dict[str, Any]:
    """What ``fit`` of 0.1.0 took by default for so many training rows."""
    batch_size = 1 << min(max(round(math.log2(n / 100)), 8), 12)
    epochs = min(-(-16_000 // (n // batch_size)), 200)
    return {"batch_size": batch_size, "epochs": epochs, "weight_decay": 0.0}


def as_before(make: Callable[..., ps.Flow]) -> Model:
    """The recipe ``make`` trained as 0.1.0 did by default."""

    def model(train: Array, validation: Array, seed: int) -> Fitted:
        return fit(make, {}, **before(len(train)))(train, validation, seed)

    return model


def several(make: Callable[..., ps.Flow], options: dict[str, Any]) -> Model:
    """An ensemble of four, by default."""

    def model(train: Array, validation: Array, seed: int) -> Fitted:
        ensemble = ps.Ensemble(lambda rng: make(train.shape[1], rng=rng, **options), 4, rng=seed)
        start = time.perf_counter()
        ensemble.fit(train, validation=validation, rng=seed, progress=False)
        seconds, best = time.perf_counter() - start, -ensemble.history.validation_loss
        restarted = [own.restarted for own in ensemble.history]
        about = {"n_params": sum(flow.n_params for flow in ensemble.members), "restarted": restarted}
        return Fitted(ensemble.log_prob, best, [seconds], [best], about)

    return model


def several_on_circles(make: Callable[..., ps.Flow]) -> CircleModel:
    """The same, with the circles of the table as supports and silu in its networks."""

    def model(train: Array, validation: Array, seed: int, circles: Array) -> Fitted:
        support = ["real" if np.isnan(lo) else ps.periodic(float(lo), float(hi)) for lo, hi in circles]
        return several(make, {"support": support, "activation": "silu"})(train, validation, seed)

    return model


def on_circles(make: Callable[..., ps.Flow]) -> CircleModel:
    """The recipe ``make`` with the circles of the table as supports, and silu in its networks: NOTES.md says why."""

    def model(train: Array, validation: Array, seed: int, circles: Array) -> Fitted:
        support = ["real" if np.isnan(lo) else ps.periodic(float(lo), float(hi)) for lo, hi in circles]
        return fit(make, {"support": support, "activation": "silu"})(train, validation, seed)

    return model


MODELS = {
    "penstock realnvp": fit(ps.realnvp, {}),
    "penstock glow": fit(ps.glow, {}),
    "penstock nsf": fit(ps.nsf, {}),
    "penstock maf": fit(ps.maf, {}),
    "penstock nsf_ar": fit(ps.nsf_ar, {}),
    "penstock nsf_ar as in 0.1.0": as_before(ps.nsf_ar),
    "penstock nsf_ar ensemble": several(ps.nsf_ar, {}),
    "penstock nsf ensemble": several(ps.nsf, {}),
    "penstock realnvp, 5 layers": fit(ps.realnvp, SIZE),
    "penstock glow, 5 layers": fit(ps.glow, SIZE),
    "penstock nsf, 5 layers": fit(ps.nsf, {**SIZE, "bins": BINS}),
    "penstock maf, 5 layers": fit(ps.maf, SIZE),
    "penstock nsf_ar, 5 layers": fit(ps.nsf_ar, {**SIZE, "bins": BINS}),
}

CIRCLES = {
    "penstock nsf_circles": on_circles(ps.nsf),
    "penstock nsf_ar_circles": on_circles(ps.nsf_ar),
    "penstock nsf_ar_circles ensemble": several_on_circles(ps.nsf_ar),
}

if __name__ == "__main__":
    serve(MODELS, lambda: {"penstock": ps.__version__}, some_circles=CIRCLES)
