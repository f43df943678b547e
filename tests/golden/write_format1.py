"""Wrote the files of format 1 and what they give, ``format1/``; kept as their record.

Only a build of penstock 0.1.0 writes format 1, so run by a later one it refuses. ``tests/test_golden.py`` reads the files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import penstock as ps  # noqa: E402
from cases import randomise, rng, standardisation  # noqa: E402

Array = np.ndarray[Any, Any]

FOLDER = HERE / "format1"
ROWS = 6
SMALL: dict[str, Any] = {"hidden": (6,), "rng": 3, "backend": "cpp"}
CIRCLE = ps.CircularRationalQuadratic(bins=4, bound=3.0)

FLOWS: dict[str, ps.Flow] = {
    "nice": ps.nice(3, layers=2, **SMALL),
    "realnvp": ps.realnvp(4, layers=4, **SMALL),
    "glow": ps.glow(4, layers=2, **SMALL),
    "nsf": ps.nsf(3, layers=2, bins=4, **SMALL),
    "maf": ps.maf(3, layers=2, **SMALL),
    "iaf": ps.iaf(3, layers=2, **SMALL),
    "nsf_ar": ps.nsf_ar(2, layers=2, bins=4, **SMALL),
    "conditional": ps.realnvp(
        3, context_dim=2, layers=2, base_context=(5,), embedding=ps.MLP((5,), "tanh"), embedding_dim=3, **SMALL
    ),
    "residual": ps.realnvp(
        2, layers=2, hidden=(6, 6), activation="silu", residual=True, mixing="reverse", rng=3, backend="cpp"
    ),
    "float64": ps.nsf(2, layers=2, bins=4, mixing="random", dtype="float64", **SMALL),
    "circular": ps.Flow(
        ps.StandardNormal(2),
        [ps.Coupling(CIRCLE, ps.MLP((6,), "tanh")), ps.Elementwise(CIRCLE)],
        rng=3,
        backend="cpp",
    ),
}
NOT_INITIALISED = ("maf",)


def exact(rows: Array) -> list[list[str]]:
    """Rows as hexadecimal floats."""
    return [[float(value).hex() for value in row] for row in rows]


def little_endian(values: Any) -> str:
    """The bytes of numbers, in hexadecimal."""
    array = np.asarray(values)
    return array.astype(array.dtype.newbyteorder("<")).tobytes().hex()


def rows_of(loc: Array, scale: Array, dtype: Any, *key: str) -> Array:
    """Rows where a standardisation puts them."""
    u = 1.2 * rng("format1", *key).standard_normal((ROWS, len(loc)))
    return (loc + scale * u).astype(np.float32).astype(dtype)


def main() -> None:
    """Write the files and ``expected.json``."""
    if ps.__version__ != "0.1.0":
        sys.exit(f"penstock {ps.__version__} does not write format 1; 0.1.0 did")
    FOLDER.mkdir(exist_ok=True)
    expected = {}
    for name, flow in FLOWS.items():
        randomise(flow, 0.4, "format1", name, initialised=name not in NOT_INITIALISED)
        flow.save(FOLDER / f"{name}.safetensors")
        data, given = np.split(standardisation(flow), [2 * flow.dim])
        x, context = rows_of(*np.split(data, 2), flow.dtype, name), None
        record: dict[str, Any] = {"dtype": flow.dtype.name, "initialised": flow.initialised, "X": exact(x)}
        if flow.context_dim:
            context = rows_of(*np.split(given, 2), flow.dtype, name, "context")
            record["context"] = exact(context)
        one = flow.log_prob(x[0]) if context is None else flow.log_prob(x[0], context[0])
        log_prob = flow.log_prob(x, context)
        assert np.isfinite(log_prob).all()
        record |= {"log_prob": little_endian(log_prob), "log_prob_of_row_0": little_endian(one)}
        expected[name] = record
    (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
