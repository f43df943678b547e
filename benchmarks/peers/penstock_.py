"""penstock itself; training steps go through ``fit``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
import penstock as ps
from tasks import Flow, Lu, Task
from worker import Work, serve

BACKEND = os.environ.get("BENCH_BACKEND", "cpp")


def prepare_lu(layer: Lu, task: Task) -> Work:
    """One LU layer with random triangles."""
    model = ps.Flow(ps.StandardNormal(layer.dim), [ps.LULinear()], rng=0, backend=BACKEND)
    rng = np.random.default_rng(0)
    model.params = 0.1 * rng.standard_normal(model.n_params) / np.sqrt(layer.dim)
    x = rng.standard_normal((layer.rows, layer.dim), dtype=np.float32)
    apply = model.to_latent if task.verb == "forward" else model.to_data

    def work(repeats: int) -> None:
        for _ in range(repeats):
            apply(x)

    return work


def prepare(flow: Flow | Lu, task: Task, threads: int) -> Work:
    """The work of a task as a function of the number of repetitions."""
    ps.set_num_threads(threads)
    if isinstance(flow, Lu):
        return prepare_lu(flow, task)
    hidden = (flow.width, flow.width)
    if flow.recipe == "net":
        n_theta = len(ps.RationalQuadratic(8).theta_names)
        half = flow.dim // 2
        layer = ps.Coupling(ps.Additive(), ps.MLP(hidden), split=tuple(range(half)))
        model = ps.Flow(ps.StandardNormal(half + half * n_theta), [layer] * flow.layers, rng=0, backend=BACKEND)
    elif not flow.layers:
        model = ps.Flow(ps.StandardNormal(flow.dim), [], rng=0, backend=BACKEND)
    else:
        recipe, double = flow.recipe.removesuffix("_float64"), flow.recipe.endswith("_float64")
        mixing = {"glow": "lu", "realnvp": "none", "nsf": "random"}.get(recipe, "reverse")
        # Relu networks, as the peers have.
        model = getattr(ps, recipe)(
            flow.dim, layers=flow.layers, hidden=hidden, activation="relu", mixing=mixing, rng=0, backend=BACKEND,
            dtype="float64" if double else "float32",
        )  # fmt: skip
    rng = np.random.default_rng(0)
    model.params = model.params + 0.02 * rng.standard_normal(model.n_params)
    if task.verb == "step":
        # One epoch of ``repeats`` batches, from a table of random rows.
        x = rng.standard_normal((task.rows * task.inner, flow.dim), dtype=np.float32)
        model.fit(x[: task.rows], epochs=1, batch_size=task.rows, validation=0, learning_rate=1e-5, progress=False)

        def step(repeats: int) -> None:
            rows = x[: task.rows * repeats]
            model.fit(rows, epochs=1, batch_size=task.rows, validation=0, learning_rate=1e-5, progress=False)

        return step
    x = rng.standard_normal((task.rows, model.dim), dtype=np.float32).astype(model.dtype)

    def log_prob(repeats: int) -> None:
        for _ in range(repeats):
            model.log_prob(x)

    def sample(repeats: int) -> None:
        for seed in range(repeats):
            model.sample(task.rows, rng=seed)

    return sample if task.verb == "sample" else log_prob


def versions() -> dict[str, str]:
    """What was timed."""
    from penstock import _backend

    return {"penstock": ps.__version__, "numpy": np.__version__, "isa": _backend.choose(BACKEND).isa()}


if __name__ == "__main__":
    serve(prepare, versions)
