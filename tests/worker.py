"""Prints one hash a result of every case, for the tests that compare whole processes."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

import penstock as ps
from cases import BACKENDS, CASES, DTYPES, ENGINE, KINDED, bare, built, contexts, points, rng


def digest(*arrays: Any) -> str:
    """A short hash of the arrays' bytes."""
    state = hashlib.sha256()
    for array in arrays:
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()[:16]


def main() -> None:
    """Everything that has to be the same, bit for bit."""
    backend = BACKENDS[0]
    hashes = {}
    isa = ""
    for dtype in DTYPES:
        for case in (*CASES, *KINDED):
            flow = built(case, backend, dtype)
            isa = flow._backend.isa()
            x = points(case, 333, flow) if case in CASES else flow.sample(333, rng=2)
            source = rng("worker", case.name)
            dy, dl = source.standard_normal(x.shape).astype(dtype), source.standard_normal(len(x)).astype(dtype)
            key = f"{case.name}-{dtype}"
            hashes[f"{key}-log_prob"] = digest(flow.log_prob(x), *[flow.log_prob(row) for row in x[:3]])
            hashes[f"{key}-sample"] = digest(*flow.sample_and_log_prob(333, rng=1))
            hashes[f"{key}-maps"] = digest(*flow.to_latent(x), *flow.to_data(x))
            hashes[f"{key}-gradients"] = digest(*flow.to_latent_vjp(x, dy, dl)[:2], *flow.to_data_vjp(x, dy, dl)[:2])
            hashes[f"{key}-loss"] = digest(*flow.loss_and_grad(x))
            if case.conditional:
                own, c = bare(flow), contexts(case, 333, flow)
                hashes[f"{key}-contexts"] = digest(
                    own.log_prob(x, c), own.sample(3, c[:100], rng=1), *own.to_data_vjp(x, dy, dl, c)
                )
        for case in ENGINE:
            flow = built(case, backend, dtype).copy()
            # 50 steps: 10 epochs of 5 batches that are no multiple of tile or slice.
            flow.fit(points(case, 1000, flow), epochs=10, batch_size=180, validation=0.1, rng=4)
            hashes[f"{case.name}-{dtype}-trained"] = digest(flow.params)
    print(json.dumps({"isa": isa, "version": ps.__version__, "hashes": hashes}))


if __name__ == "__main__":
    main()
