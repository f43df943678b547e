"""Writes the models of the C tests, ``python tests/c/write_models.py``: once, and then they stay, for later versions to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import penstock as ps
from penstock.lattice import Lattice


def main() -> None:
    """A flow, a conditional one in float64 with names, an ensemble, and one with a lattice."""
    folder = Path(__file__).resolve().parent / "models"
    folder.mkdir(exist_ok=True)
    source = np.random.default_rng(0)
    x, c = source.standard_normal((200, 3)), source.standard_normal((200, 2))
    options = {"layers": 2, "hidden": (6,), "backend": "cpp"}
    quick = {"epochs": 1, "validation": 0, "rng": 0, "progress": False}
    ps.realnvp(2, rng=0, **options).fit(x[:, :2], **quick).save(folder / "flow.safetensors")
    given = ps.nsf(3, context_dim=2, dtype="float64", rng=0, **options).fit(x, c, **quick)
    given.columns, given.context_columns = ["mass", "charge", "énergie"], ["z", "age"]
    given.save(folder / "given.safetensors")
    members = [ps.realnvp(3, context_dim=2, rng=k, **options).fit(x, c, **quick) for k in range(2)]
    ps.Ensemble(members).save(folder / "ensemble.safetensors")
    flow = ps.realnvp(3, support=[{1: "real"}, ps.simplex([0, 2])], rng=0, **options)
    flow._lattice = Lattice.within(np.array([0.25, 1.0, 0.0]), np.array([0.0, 0.5, 0.0]), flow.spec.support)
    flow.save(folder / "lattice.safetensors")


if __name__ == "__main__":
    main()
