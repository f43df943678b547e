"""Photometric redshifts by five-fold cross-fitting: held-out log-likelihood, and the share of redshifts in intervals.

Intervals are central ones, of 68 and 95 %.

python benchmarks/photo_z.py [--members 4] [--seeds 0 1 2]

The model and the rows of ``examples/photo_z.py``, with the defaults of ``fit``: five models, each scored on the fifth of the
galaxies that it was not trained on, so that every row counts once. With ``--members`` a ``ps.Ensemble`` of so many. It runs with
penstock 0.1.0 too (for one member), for a comparison row by row: ``--save`` writes log-densities and PIT values, ``--beside``
reads them. ``ps.report`` on a flow of all seven columns is timed at the end.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps
from penstock.demo import NOT_DETECTED, galaxies

Array = np.ndarray[Any, Any]
FOLDS, LEVELS = 5, (0.68, 0.95)


def rows() -> tuple[Array, Array]:
    """Redshifts (n, 1), and a magnitude with five colours (n, 6)."""
    table = galaxies()
    table = table[(table != NOT_DETECTED).all(axis=1)]
    table = table[np.random.default_rng(0).permutation(len(table))]
    z, magnitudes = table[:, :1], table[:, 1:]
    return z, np.concatenate([magnitudes[:, 3:4], -np.diff(magnitudes, axis=1)], axis=1)


def model(members: int, seed: int) -> Any:
    """The flow of the example, or an ensemble of such flows."""
    flow = ps.nsf_ar(1, context_dim=6, layers=3, hidden=(64, 64), rng=seed)
    return flow if members == 1 else ps.Ensemble(flow, members, rng=seed)


def crossed(members: int, seed: int) -> tuple[Array, Array, float]:
    """Log-density and PIT of each row, by the model that has not seen it; seconds of training."""
    z, given = rows()
    log_prob, pit, seconds = np.zeros(len(z)), np.zeros(len(z)), 0.0
    for fold in range(FOLDS):
        out = np.arange(len(z)) % FOLDS == fold
        flow = model(members, seed + fold)
        start = time.perf_counter()
        flow.fit(z[~out], given[~out], rng=seed + fold, progress=False)
        seconds += time.perf_counter() - start
        log_prob[out] = flow.log_prob(z[out], given[out])
        pit[out] = flow.cdf(z[out], given[out]).ravel()
    return log_prob, pit, seconds


def held(pit: Array, level: float) -> float:
    """The share of rows in the central interval of a probability."""
    return float(np.mean(np.abs(pit - 0.5) < level / 2))


def main() -> None:
    """Run all seeds, print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--save", type=Path, help="an .npz of log-densities and PIT values, (seeds, rows)")
    parser.add_argument("--beside", type=Path, help="such a file of another run, with the same seeds")
    options = parser.parse_args()
    found = []
    for seed in options.seeds:
        log_prob, pit, seconds = crossed(options.members, seed)
        found.append((log_prob, pit))
        shares = ", ".join(f"{100 * held(pit, level):.1f} % in those of {100 * level:.0f} %" for level in LEVELS)
        print(
            f"seed {seed}, {options.members} a model: log p {log_prob.mean():.4f} +- "
            f"{log_prob.std() / len(log_prob) ** 0.5:.4f} of {len(log_prob)} rows; {shares}; trained in {seconds:.1f} s",
            flush=True,
        )
    densities, pits = (np.array(part) for part in zip(*found, strict=True))
    if options.save:
        np.savez(options.save, log_prob=densities, pit=pits)
    if options.beside:
        with np.load(options.beside) as other:
            gain = (densities - other["log_prob"]).mean(axis=0)
        print(
            f"beside {options.beside.name}: {gain.mean():+.4f} +- {gain.std() / len(gain) ** 0.5:.4f} nats, paired by rows"
        )
    if hasattr(ps, "report"):
        z, given = rows()
        out = np.arange(len(z)) % FOLDS == FOLDS - 1
        joint = ps.nsf(7, rng=0)
        both = np.concatenate([z, given], axis=1)
        joint.fit(both[~out], epochs=20, rng=0, progress=False)
        start = time.perf_counter()
        report = ps.report(joint, both[out])
        print(f"ps.report of seven columns, {out.sum()} rows: {time.perf_counter() - start:.1f} s\n{report}")


if __name__ == "__main__":
    main()
