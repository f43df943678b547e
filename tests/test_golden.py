"""Golden numbers: files that an earlier release wrote still load and give what they gave, and so does the code.

``python tests/golden/bits.py`` compares all hashes; here stand a few of them, which take seconds.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS
from golden import bits
from helpers import HERE, assert_close, assert_same_bits, each_backend

Array = np.ndarray[Any, Any]

FORMAT_1 = HERE / "golden" / "format1"
EXPECTED: dict[str, Any] = json.loads((FORMAT_1 / "expected.json").read_text())
# Backends agree to rounding: ten times the worst that was seen, 0.8.
ULPS = 8

# Every kind of layer and network, and every way of training that has hashes.
SUBSET = (
    "affine/*",
    "rational_quadratic/*",
    "coupling_residual/float32/*",
    "autoregressive_given/float32/*",
    "embedding/float64/*",
    "mixed_layers/*",
    "nsf/float64/*",
    "nsf_ar/float32/*",
    "glow/float32/*",
    "realnvp_wide/float32/fit/*",
)


def _rows(rows: list[list[str]], dtype: str) -> Array:
    return np.array([[float.fromhex(value) for value in row] for row in rows], dtype)


def _numbers(text: str, dtype: str) -> Array:
    return np.frombuffer(bytes.fromhex(text), np.dtype(dtype).newbyteorder("<")).astype(dtype)


def test_every_file_of_format_1_is_tested() -> None:
    assert {path.stem for path in Path(FORMAT_1).glob("*.safetensors")} == EXPECTED.keys()


@each_backend
@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_format_1_gives_the_log_densities_it_gave(name: str, backend: str) -> None:
    record = EXPECTED[name]
    dtype = record["dtype"]
    # A circle under a normal base: the density is wrong, and the numbers are kept.
    warns = pytest.warns(UserWarning, match="density of this flow is wrong") if name == "circular" else nullcontext()
    with warns:
        flow = ps.load(FORMAT_1 / f"{name}.safetensors", backend=backend)
    assert flow.dtype == dtype
    assert flow.initialised == record["initialised"]
    x, context = _rows(record["X"], dtype), None
    if flow.context_dim:
        context = _rows(record["context"], dtype)
    log_prob = flow.log_prob(x, context)
    one = np.atleast_1d(flow.log_prob(x[0], None if context is None else context[0]))
    expected, expected_one = _numbers(record["log_prob"], dtype), _numbers(record["log_prob_of_row_0"], dtype)
    if backend == "cpp":
        assert_same_bits(log_prob, expected)
        assert_same_bits(one, expected_one)
    else:
        assert_close(log_prob, expected, ULPS, dtype)
        assert_close(one, expected_one, ULPS, dtype)


@pytest.mark.skipif("cpp" not in BACKENDS, reason="the hashes are those of the compiled backend")
@pytest.mark.parametrize("pattern", SUBSET)
def test_the_bits_are_those_of_the_committed_hashes(pattern: str) -> None:
    expected = {name: value for name, value in bits.read().items() if fnmatchcase(name, pattern)}
    assert expected
    found = bits.differences(bits.compute(lambda name: fnmatchcase(name, pattern)), expected)
    assert not any(found.values()), found
