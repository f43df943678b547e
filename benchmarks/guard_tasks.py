"""What the guard measures: a dozen tasks, kernels and whole flows, in words that every build since 0.1.0 understands.

A task prepares its work and returns a function that does it once. Every argument is spelt out, so that later defaults change
nothing. ``python benchmarks/guard.py`` runs them in two builds in turns, ``pytest benchmarks`` in the installed one.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

Work = Callable[[], Any]
Array = np.ndarray[Any, Any]
FIT: dict[str, Any] = {
    "validation": 0, "learning_rate": 1e-5, "schedule": "cosine", "warmup": 0.1, "weight_decay": 0.0, "clip_norm": 1.0,
    "standardize": True, "rng": 0, "progress": False,
}  # fmt: skip


def _affine(dim: int, layers: int, width: int) -> ps.Flow:
    return _moved(ps.realnvp(dim, layers=layers, hidden=(width, width), activation="relu", mixing="none", rng=0))


def _spline(recipe: str) -> ps.Flow:
    build = getattr(ps, recipe)
    return _moved(build(8, layers=5, hidden=(64, 64), activation="relu", mixing="reverse", bins=8, bound=5.0, rng=0))


def _moved(flow: ps.Flow) -> ps.Flow:
    """Away from the identity."""
    flow.params = flow.params + 0.02 * np.random.default_rng(0).standard_normal(flow.n_params)
    return flow


def _rows(n: int, dim: int) -> Array:
    return np.random.default_rng(1).standard_normal((n, dim), dtype=np.float32)


def _log_prob(flow: ps.Flow, rows: int) -> Work:
    x = _rows(rows, flow.dim)
    return lambda: flow.log_prob(x)


def _sample(flow: ps.Flow, rows: int) -> Work:
    return lambda: flow.sample(rows, rng=0)


def spline_there_and_back() -> Work:
    transform, source = ps.RationalQuadratic(8, 5.0), np.random.default_rng(2)
    x = source.standard_normal((50_000, 2), dtype=np.float32)
    theta = source.standard_normal((2, len(transform.theta_names)), dtype=np.float32)

    def work() -> None:
        y, _ = ps.ops.forward(transform, x, theta)
        ps.ops.inverse(transform, y, theta)

    return work


def lu_there_and_back() -> Work:
    flow = ps.Flow(ps.StandardNormal(64), [ps.LULinear("identity")], rng=0)
    flow.params = 0.1 * np.random.default_rng(0).standard_normal(flow.n_params) / 8
    x = _rows(50_000, 64)

    def work() -> None:
        flow.to_data(flow.to_latent(x)[0])

    return work


def one_row() -> Work:
    flow, row = _affine(16, 8, 64), _rows(1, 16)

    def work() -> None:
        for _ in range(2000):
            flow.log_prob(row)

    return work


def gradient_of_rows() -> Work:
    flow, x = _affine(16, 8, 64), _rows(4096, 16)

    def work() -> None:
        for _ in range(20):
            flow.log_prob_and_grad(x)

    return work


def _steps(flow: ps.Flow, batch: int, steps: int) -> Work:
    x = _rows(batch * steps, flow.dim)
    flow.fit(x[:batch], epochs=1, batch_size=batch, **FIT)
    return lambda: flow.fit(x, epochs=1, batch_size=batch, **FIT)


def load_a_file() -> Work:
    path = Path(tempfile.mkdtemp()) / "flow.safetensors"
    _spline("nsf").save(path)

    def work() -> None:
        for _ in range(20):
            ps.load(path)

    return work


def steps_of_a_given_flow() -> Work:
    flow = _moved(
        ps.nsf(4, context_dim=3, layers=4, hidden=(32, 32), activation="tanh", mixing="lu", bins=8, bound=5.0, rng=0)
    )
    x, context = _rows(256 * 100, 4), _rows(256 * 100, 3)
    flow.fit(x[:256], context=context[:256], epochs=1, batch_size=256, **FIT)
    return lambda: flow.fit(x, context=context, epochs=1, batch_size=256, **FIT)


TASKS: dict[str, Callable[[], Work]] = {
    "spline forward and inverse": spline_there_and_back,
    "LU D64 forward and inverse": lu_there_and_back,
    "affine D16 log_prob": lambda: _log_prob(_affine(16, 8, 64), 100_000),
    "affine D64 log_prob": lambda: _log_prob(_affine(64, 8, 128), 30_000),
    "affine D6 sample": lambda: _sample(_affine(6, 10, 256), 20_000),
    "nsf D8 log_prob": lambda: _log_prob(_spline("nsf"), 50_000),
    "nsf D8 sample": lambda: _sample(_spline("nsf"), 50_000),
    "nsf_ar D8 log_prob": lambda: _log_prob(_spline("nsf_ar"), 50_000),
    "nsf_ar D8 sample": lambda: _sample(_spline("nsf_ar"), 50_000),
    "2000 single rows": one_row,
    "log_prob_and_grad D16": gradient_of_rows,
    "200 steps of 256 rows": lambda: _steps(_affine(16, 8, 64), 256, 200),
    "20 steps of 4096 rows": lambda: _steps(_affine(16, 8, 64), 4096, 20),
    "100 conditional steps": steps_of_a_given_flow,
    "loading a file": load_a_file,
}
# It gains a hash of its contents.
EXEMPT = {"loading a file"}


def fixed_cost(batch: int, rounds: int = 15) -> float:
    """Seconds of a fit of no steps: of the second fit of one flow on 10 000 rows, at 8 and at 40 steps, extrapolated to 0."""
    rows = 10_000
    flow, x = _affine(16, 8, 64), _rows(rows, 16)
    per_epoch = rows // batch

    def fit(steps: int) -> float:
        # whole epochs of as many rows as the steps need, at most all
        epochs = max(1, steps // per_epoch)
        part = x[: steps // epochs * batch]
        began = time.perf_counter()
        flow.fit(part, epochs=epochs, batch_size=batch, **FIT)
        return time.perf_counter() - began

    fit(8), fit(40)
    short, long = (np.median([fit(n) for _ in range(rounds)]) for n in (8, 40))
    return float(short - 8 * (long - short) / 32)
