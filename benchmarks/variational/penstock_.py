"""Reverse KL by penstock: a whole ``fit_to_target``, pilot, validation and checks included."""

from __future__ import annotations

import time
from importlib.metadata import version

import numpy as np
from problems import BINS, HIDDEN, LAYERS, Answer, Mixture, Work, measured, serve

import penstock as ps


def train(work: Work, target: Mixture) -> Answer:
    """A flow whose base has a component for each mode; rows over both start it."""
    options, init = {}, None
    if len(target.weights) > 1:
        options["base"] = ps.GaussianMixture(target.dim, components=len(target.weights))
        g = np.random.default_rng(work.seed)
        modes = [np.array(mean) + 0.3 * g.standard_normal((100, target.dim)) for mean in target.means]
        init = np.concatenate(modes)
    with ps.threads(work.threads):
        flow = ps.nsf(
            target.dim, layers=LAYERS, hidden=(HIDDEN, HIDDEN), bins=BINS, mixing="lu", rng=work.seed, **options
        )
        # What the first use of a process costs is none of the training.
        flow.copy().fit_to_target(
            target, init=(0, 1), epochs=1, epoch_steps=1, validation=25, batch_size=work.batch, rng=0
        )
        start = time.perf_counter()
        flow.fit_to_target(
            target, init=init, estimator=work.estimator, epochs=5, epoch_steps=work.steps // 5, batch_size=work.batch,
            learning_rate=work.rate, rng=work.seed, progress=False,
        )  # fmt: skip
        seconds = time.perf_counter() - start
        found = ps.importance(flow, target, work.draws, rng=work.seed + 1)
    return measured(found.log_weights, found.samples, seconds, 0.0, {"penstock": version("penstock")})


if __name__ == "__main__":
    serve(train)
