"""The tasks that ``guard.py`` compares between two commits, and that ``pytest benchmarks`` times.

The same code runs against an old build and a new one: only public names that both have, and every argument that
decides the work is given. A task prepares its flow and its rows, and returns a function that does the work once.
"""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

Work = Callable[[], Any]
BACKEND = "cpp"


@dataclass(frozen=True)
class Task:
    """One kind of work; ``prepare`` returns the function that is timed."""

    name: str
    group: str
    prepare: Callable[[], Work]
    exempt: str = ""  # why it may become slower


@dataclass(frozen=True)
class Extrapolation:
    """What remains of two tasks at zero steps, if time is linear in steps."""

    name: str
    parts: tuple[str, str]
    steps: tuple[int, int]

    def seconds(self, few: float, many: float) -> float:
        """The intercept of the line through both."""
        n, m = self.steps
        return (m * few - n * many) / (m - n)


def normal(*shape: int, dtype: str = "float32") -> np.ndarray:
    """The same numbers at every call."""
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def away_from_identity(flow: ps.Flow) -> ps.Flow:
    """Fresh flows are the identity, and in them a kernel might meet only zeros."""
    flow.params = flow.params + 0.02 * normal(flow.n_params, dtype="float64")
    return flow


def realnvp(dim: int, width: int, layers: int = 8, context_dim: int = 0) -> ps.Flow:
    """Affine couplings of halves, in turns."""
    return away_from_identity(
        ps.realnvp(
            dim, context_dim=context_dim, embedding=None, layers=layers, hidden=(width, width), activation="relu", mixing="none",
            scale_bound=3.0, residual=False, dtype="float32", rng=0, backend=BACKEND,
        )
    )  # fmt: skip


def spline_flow(recipe: Callable[..., ps.Flow]) -> ps.Flow:
    """Eight dimensions, five layers of eight bins."""
    return away_from_identity(
        recipe(
            8, context_dim=0, layers=5, hidden=(64, 64), activation="relu", mixing="random", bins=8, bound=5.0,
            residual=False, dtype="float32", rng=0, backend=BACKEND,
        )
    )  # fmt: skip


# -- kernels by themselves ----------------------------------------------------------------------


def spline(verb: Callable[..., Any]) -> Work:
    """Splines whose theta differs from row to row."""
    transform = ps.RationalQuadratic(bins=8, bound=5.0)
    x, theta = normal(50_000, 8), normal(50_000, 8, 3 * 8 - 1)
    return lambda: verb(transform, x, theta, backend=BACKEND)


def coupling() -> Work:
    """One affine coupling of 16 dimensions with its network, and the base."""
    layer = ps.Coupling(ps.Affine(scale_bound=3.0), ps.MLP((64, 64), "relu"), split="half", explicit="to_latent")
    return log_prob(away_from_identity(ps.Flow(ps.StandardNormal(16), [layer], rng=0, backend=BACKEND)), 100_000)


def linear(verb: Callable[..., Any]) -> Work:
    """A linear map of 64 dimensions, or its two triangular solves."""
    lu, x = 0.1 * normal(64, 64) / np.float32(8), normal(50_000, 64)
    return lambda: verb(x, lu, backend=BACKEND)


# -- whole flows --------------------------------------------------------------------------------


def log_prob(flow: ps.Flow, rows: int) -> Work:
    """Densities of rows."""
    x = normal(rows, flow.dim)
    return lambda: flow.log_prob(x)


def log_prob_given(rows: int) -> Work:
    """Densities of rows, each with its own context."""
    flow = realnvp(16, 64, context_dim=8)
    x, context = normal(rows, 16), normal(rows, 8)
    return lambda: flow.log_prob(x, context=context)


def sample(flow: ps.Flow, rows: int) -> Work:
    """Draws with one seed."""
    return lambda: flow.sample(rows, rng=0)


def gradient(rows: int) -> Work:
    """Densities and their gradients with respect to the rows."""
    flow, x = realnvp(16, 64), normal(rows, 16)
    return lambda: flow.log_prob_and_grad(x, wrt="x")


# -- training -----------------------------------------------------------------------------------


def fit(rows: int, batch_size: int, epochs: int, validation: float) -> Work:
    """Another fit of a flow that was fitted before, so small a learning rate that the work stays the same."""
    flow, x = realnvp(16, 64), normal(rows, 16)

    def work(epochs: int = epochs) -> None:
        flow.fit(
            x, validation=validation, epochs=epochs, batch_size=batch_size, learning_rate=1e-7, schedule="constant",
            warmup=0, weight_decay=0.0, clip_norm=1.0, patience=None, standardize=True, rng=0, progress=False,
        )  # fmt: skip

    work(1)
    return work


# -- files --------------------------------------------------------------------------------------


def load() -> Work:
    """A file that the same build wrote."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "flow.safetensors"
    spline_flow(ps.nsf).save(path)
    return lambda: ps.load(path, backend=BACKEND)


TASKS = (
    Task("spline_forward", "kernels", lambda: spline(ps.ops.forward)),
    Task("spline_inverse", "kernels", lambda: spline(ps.ops.inverse)),
    Task("coupling_log_prob", "kernels", coupling),
    Task("lu_forward", "kernels", lambda: linear(ps.ops.lu_forward)),
    Task("lu_inverse", "kernels", lambda: linear(ps.ops.lu_inverse)),
    Task("realnvp16_log_prob", "flows", lambda: log_prob(realnvp(16, 64), 100_000)),
    Task("realnvp64_log_prob", "flows", lambda: log_prob(realnvp(64, 128), 20_000)),
    Task("realnvp16_given_log_prob", "flows", lambda: log_prob_given(50_000)),
    Task("nsf8_log_prob", "flows", lambda: log_prob(spline_flow(ps.nsf), 20_000)),
    Task("nsf8_sample", "flows", lambda: sample(spline_flow(ps.nsf), 20_000)),
    Task("nsf_ar8_log_prob", "flows", lambda: log_prob(spline_flow(ps.nsf_ar), 20_000)),
    Task("nsf_ar8_sample", "flows", lambda: sample(spline_flow(ps.nsf_ar), 20_000)),
    Task("one_row_log_prob", "one row", lambda: log_prob(realnvp(16, 64), 1)),
    Task("gradient_4096", "flows", lambda: gradient(4096)),
    Task("fit_100_steps_of_256", "training", lambda: fit(25_600, 256, 1, 0.0)),
    Task("fit_10_steps_of_4096", "training", lambda: fit(40_960, 4096, 1, 0.0)),
    Task("fit_8_steps", "training", lambda: fit(10_000, 1250, 1, 0.0)),
    Task("fit_40_steps", "training", lambda: fit(10_000, 1250, 5, 0.0)),
    # The same with a validation after each epoch; 9000 rows are left to train on.
    Task("fit_8_steps_validated", "training", lambda: fit(10_000, 1125, 1, 0.1)),
    Task("fit_40_steps_validated", "training", lambda: fit(10_000, 1125, 5, 0.1)),
    Task("load", "files", load, exempt="checks a hash since file format 2"),
)
EXTRAPOLATIONS = (
    Extrapolation("fit_fixed_cost", ("fit_8_steps", "fit_40_steps"), (8, 40)),
    Extrapolation("fit_fixed_cost_validated", ("fit_8_steps_validated", "fit_40_steps_validated"), (8, 40)),
)
BY_NAME = {task.name: task for task in TASKS}


def chosen(pattern: str) -> tuple[list[Task], list[Extrapolation]]:
    """The tasks whose names match a shell pattern, with those that an extrapolation needs."""
    lines = [line for line in EXTRAPOLATIONS if fnmatchcase(line.name, pattern)]
    needed = {part for line in lines for part in line.parts}
    return [task for task in TASKS if fnmatchcase(task.name, pattern) or task.name in needed], lines
