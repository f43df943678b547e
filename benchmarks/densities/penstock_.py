"""penstock's flows with the default ``fit``: as the recipes make them, in the size that the peers have, and on circles."""

from __future__ import annotations

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
    "penstock realnvp, 5 layers": fit(ps.realnvp, SIZE),
    "penstock glow, 5 layers": fit(ps.glow, SIZE),
    "penstock nsf, 5 layers": fit(ps.nsf, {**SIZE, "bins": BINS}),
    "penstock maf, 5 layers": fit(ps.maf, SIZE),
    "penstock nsf_ar, 5 layers": fit(ps.nsf_ar, {**SIZE, "bins": BINS}),
}

CIRCLES = {"penstock nsf_circles": on_circles(ps.nsf), "penstock nsf_ar_circles": on_circles(ps.nsf_ar)}

if __name__ == "__main__":
    serve(MODELS, lambda: {"penstock": ps.__version__}, some_circles=CIRCLES)
