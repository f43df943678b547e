"""What the laws share: parametrisation, comparisons, and Python subprocesses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import BACKENDS, CASES, DTYPES, ENGINE, SMALL
from penstock.files.model import HASH_SIZE, content_hash

Array = np.ndarray[Any, Any]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_small_case = pytest.mark.parametrize("case", SMALL, ids=lambda case: case.name)
each_engine_case = pytest.mark.parametrize("case", ENGINE, ids=lambda case: case.name)


def assert_close(actual: Any, expected: Any, ulps: float, dtype: str, *, scale: Any = 1.0) -> None:
    """Each error is within ``ulps`` spacings of ``dtype`` at the size of the number, or of a larger ``scale``."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all(), "the expected numbers are not finite"
    size = np.maximum(np.abs(expected), np.maximum(1.0, scale))
    error = np.abs(actual - expected) / (np.finfo(dtype).eps * size)
    worst = error.max(initial=0.0)
    assert worst <= ulps, (
        f"off by {worst:.3g} ulps where {ulps:g} are allowed, at {np.unravel_index(np.argmax(error), error.shape)}"
    )


def assert_same_bits(actual: Any, expected: Any) -> None:
    """Same shape, same dtype, same bits, those of NaN included."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    if actual.tobytes() != expected.tobytes():
        with np.errstate(all="ignore"):
            differ = np.flatnonzero(~((actual == expected) | (np.isnan(actual) & np.isnan(expected))).ravel())
        raise AssertionError(f"bits differ in {len(differ)} of {actual.size} numbers, first at {differ[:5]}")


def engine_of(flow: Any) -> tuple[Any, Any, int]:
    """The engine, the packed parameters and the number of steps, for calls below the shell."""
    return flow._runner().engine, flow._snapshot.pack(flow._runner()), flow._plan.n_steps


def sealed(data: bytes) -> bytes:
    """The bytes of a file with the hash that belongs to them, as a writer would have left them."""
    return data[:-HASH_SIZE] + content_hash(data)


def row_size(rows: Array) -> Array:
    """The largest number of each row, as a column: the scale of its rounding."""
    return np.abs(np.asarray(rows, np.float64)).max(axis=-1, initial=1.0, keepdims=True)


def python(
    code: str, *args: str, env: dict[str, str] | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a fresh interpreter that sees the same penstock and the tests' helpers."""
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    full = {**os.environ, "PYTHONPATH": path, **(env or {})}
    full = {name: value for name, value in full.items() if value != ""}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code, *args],
        env=full,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if check and done.returncode:
        raise AssertionError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def python_json(code: str, *args: str, env: dict[str, str] | None = None) -> Any:
    """The JSON that a piece of Python prints last."""
    return json.loads(python(code, *args, env=env).stdout.splitlines()[-1])


def derivative(f: Callable[[float], Array], h: float) -> Array:
    """Fourth-order central difference at zero."""
    return np.asarray((f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h))
