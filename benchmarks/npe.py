"""Neural posterior estimation on tasks of the sbi benchmark: C2ST of a conditional spline flow against reference posteriors.

python benchmarks/npe.py --data FOLDER          needs scikit-learn; FOLDER holds two_moons.npz, gaussian_linear.npz, slcp.npz

Tasks, metric and the published numbers: Lueckmann, Boelts, Greenberg, Goncalves, Macke, "Benchmarking Simulation-Based
Inference" (2021). 10 000 simulations; draws outside the prior are dropped, as the published runs did.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "examples"))
import two_moons  # noqa: E402

Array = np.ndarray[Any, Any]
Draw = Callable[[int, np.random.Generator], Array]
Simulate = Callable[[Array, np.random.Generator], Array]


@dataclass(frozen=True)
class Task:
    """A prior, a simulator, and what the paper reports for NPE: mean C2ST over observations and its standard deviation."""

    dim: int
    context_dim: int
    prior: Draw
    simulate: Simulate
    bound: float  # of the prior's box, infinite if there is none
    mean: float
    std: float


def slcp(theta: Array, rng: np.random.Generator) -> Array:
    """Four draws of a normal distribution in the plane, whose covariance theta gives in a roundabout way."""
    first, second, rho = theta[:, 2] ** 2, theta[:, 3] ** 2, np.tanh(theta[:, 4])
    noise = rng.standard_normal((len(theta), 4, 2))
    # Cholesky factor of [[s1^2, rho s1 s2], [rho s1 s2, s2^2]] + 1e-6 I
    a = np.sqrt(first**2 + 1e-6)
    b = rho * first * second / a
    c = np.sqrt(second**2 + 1e-6 - b**2)
    x = theta[:, None, 0] + a[:, None] * noise[..., 0]
    y = theta[:, None, 1] + b[:, None] * noise[..., 0] + c[:, None] * noise[..., 1]
    return np.stack([x, y], axis=-1).reshape(len(theta), 8)


TASKS = {
    "two_moons": Task(2, 2, two_moons.prior, two_moons.simulate, 1.0, 0.606, 0.037),
    "gaussian_linear": Task(
        10,
        10,
        lambda n, rng: rng.normal(0, np.sqrt(0.1), (n, 10)),
        lambda theta, rng: rng.normal(theta, np.sqrt(0.1)),
        np.inf,
        0.552,
        0.030,
    ),
    "slcp": Task(5, 8, lambda n, rng: rng.uniform(-3, 3, (n, 5)), slcp, 3.0, 0.901, 0.045),
}


def run(name: str, folder: Path, simulations: int, seed: int) -> dict[str, Any]:
    """Simulate, train, and compare the posterior of every stored observation with its reference."""
    task = TASKS[name]
    rng = np.random.default_rng(seed)
    theta = task.prior(simulations, rng)
    x = task.simulate(theta, rng)
    start = time.perf_counter()
    flow = ps.nsf(task.dim, context_dim=task.context_dim, rng=seed)
    flow.fit(theta, context=x, rng=seed, progress=False)
    seconds = time.perf_counter() - start
    scores, outside = [], []
    with np.load(folder / f"{name}.npz") as table:
        for observed, reference in zip(table["observation"], table["reference_posterior"], strict=True):
            draws = flow.sample(2 * len(reference), observed, rng=seed)
            inside = draws[(np.abs(draws) <= task.bound).all(axis=1)]
            outside.append(1 - len(inside) / len(draws))
            scores.append(two_moons.c2st(reference, inside[: len(reference)]))
            print(f"  {name}: C2ST {scores[-1]:.3f}, {100 * outside[-1]:.1f} % outside the prior", flush=True)
    bar = task.mean + task.std / np.sqrt(5)
    result = {
        "c2st": scores,
        "mean": float(np.mean(scores)),
        "published": task.mean,
        "bar": bar,
        "outside": outside,
        "training_minutes": seconds / 60,
    }
    print(
        f"{name}: mean C2ST {result['mean']:.3f}; published NPE {task.mean:.3f} + {task.std:.3f} / sqrt(5) = {bar:.3f}; "
        f"trained in {result['training_minutes']:.2f} min",
        flush=True,
    )
    return result


def main() -> None:
    """All tasks, or those that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--simulations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "npe.json")
    given = parser.parse_args()
    results = json.loads(given.output.read_text()) if given.output.exists() else {}
    for name in given.tasks:
        results[name] = run(name, given.data, given.simulations, given.seed)
        given.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
