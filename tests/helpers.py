"""What the laws share: parametrisation, comparisons, and Python subprocesses."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases import BACKENDS, CASES, CONDITIONAL, DTYPES, ENGINE, KERNELS, QUICK, ROWS, SMALL, Case
from penstock.files.model import HASH_SIZE, content_hash

Array = np.ndarray[Any, Any]

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

each_backend = pytest.mark.parametrize("backend", BACKENDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
# Laws of so many kinds of flows that Numba's compiler would take most of the time of the quick suite.
each_backend_numba_in_ci = pytest.mark.parametrize(
    "backend", [pytest.param(name, marks=pytest.mark.slow if name == "numba" else ()) for name in BACKENDS]
)


def _on_each_backend(cases: Sequence[Case]) -> Any:
    """A pair of arguments, case and backend. On Numba only the quick cases are for everybody, the others for CI."""
    pairs = [
        pytest.param(case, backend, id=f"{case.name}-{backend}", marks=_of_ci(case) if backend == "numba" else ())
        for case in cases
        for backend in BACKENDS
    ]
    return pytest.mark.parametrize(("case", "backend"), pairs)


def _of_ci(case: Case) -> Any:
    return () if case in QUICK else pytest.mark.slow


each_case = _on_each_backend(CASES)
each_small_case = _on_each_backend(SMALL)
each_engine_case = _on_each_backend(ENGINE)
each_conditional_case = _on_each_backend(CONDITIONAL)
each_case_of_two_backends = pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name, marks=_of_ci(case)) for case in CASES]
)
each_kernel = pytest.mark.parametrize("case", KERNELS, ids=lambda case: case.name)


def door(name: str) -> Any:
    """A package that not everybody has, without which a file of tests is skipped; with ``PENSTOCK_DOORS=1`` that is a failure."""
    return importlib.import_module(name) if os.environ.get("PENSTOCK_DOORS") == "1" else pytest.importorskip(name)


def inside(name: str, values: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let one item of the suite hold a law for each value of an argument: an item costs more than most laws do.

    A failure names the value.
    """
    values = tuple(values)

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def run(*args: Any, **kwargs: Any) -> None:
            for value in values:
                try:
                    test(*args, **{**kwargs, name: value})
                except BaseException as error:
                    error.add_note(f"where {name} = {value!r}")
                    raise

        signature = inspect.signature(test)
        rest = [argument for key, argument in signature.parameters.items() if key != name]
        run.__signature__ = signature.replace(parameters=rest)  # type: ignore[attr-defined]
        return run

    return decorate


both_dtypes = inside("dtype", DTYPES)
any_rows = inside("rows", ROWS)


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


# -- below the shell: only these functions know the protocol of the engines and the private parts of a flow ----------


def engine_of(flow: Any) -> Any:
    """The engine that runs a flow."""
    return flow._runner().engine


def backend_of(flow: Any) -> Any:
    """The backend of a flow, with the functions of its module."""
    return flow._backend


def packed_of(flow: Any) -> Any:
    """The numbers of a flow as its engine keeps them."""
    return flow._snapshot.pack(flow._runner())


def n_steps(flow: Any) -> int:
    """How many steps the plan of a flow has."""
    return int(flow._plan.n_steps)


def tensors_of(flow: Any) -> Any:
    """The parameter tensors of a flow: name, shape, offset in the flat vector, mask."""
    return flow._plan.tensors


def table_of(flow: Any) -> Array:
    """The plan table of a flow."""
    return np.asarray(flow._plan.table)


def engine_evaluate(
    flow: Any, to_data: bool, x: Any, *, first: int = 0, last: int | None = None, index: Any = None, context: Any = None,
    thetas: Any = None, base: bool = False, out: Any = None, log_det: Any = None, packed: Any = None,
) -> None:  # fmt: skip
    """``evaluate`` of the engine, by default over all steps and with the numbers of the flow."""
    last, packed = n_steps(flow) if last is None else last, packed_of(flow) if packed is None else packed
    engine_of(flow).evaluate(packed, to_data, first, last, x, index, context, thetas, base, out, log_det)


def engine_vjp(
    flow: Any, to_data: bool, x: Any, d_out: Any, d_log_det: Any, *, first: int = 0, last: int | None = None,
    context: Any = None, thetas: Any = None, base: bool = False, log_det: Any = None, d_x: Any = None,
    d_params: Any = None, d_context: Any = None, d_thetas: Any = None, packed: Any = None,
) -> None:  # fmt: skip
    """``vjp`` of the engine, by default over all steps and with the numbers of the flow."""
    last, packed = n_steps(flow) if last is None else last, packed_of(flow) if packed is None else packed
    engine_of(flow).vjp(
        packed, to_data, first, last, x, context, thetas, base, d_out, d_log_det, log_det, d_x, d_params, d_context, d_thetas
    )  # fmt: skip


def engine_sample(
    flow: Any, seed: int, out: Any, log_prob: Any = None, *, context: Any = None, context_row: int = 0, first: int = 0
) -> None:
    """``sample`` of the engine."""
    engine_of(flow).sample(packed_of(flow), seed, context_row, first, context, out, log_prob)


def engine_loss_and_grad(flow: Any, x: Any, d_params: Any, *, context: Any = None, weight: Any = None) -> Any:
    """``loss_and_grad`` of the engine."""
    return engine_of(flow).loss_and_grad(packed_of(flow), x, context, weight, d_params)


def row_order(flow: Any, seed: int, epoch: int, n: int, positions: Any, size: int | None = None) -> Array:
    """Where the rows at some positions of an epoch lie: an array of positions, or the first of ``size`` in a row."""
    out = np.full(len(positions) if size is None else size, -1, np.int64)
    backend_of(flow).row_order(seed, epoch, n, positions, out)
    return out


def sealed(data: bytes) -> bytes:
    """The bytes of a file with the hash that belongs to them, as a writer would have left them."""
    return data[:-HASH_SIZE] + content_hash(data)


def row_size(rows: Array) -> Array:
    """The largest number of each row, as a column: the scale of its rounding."""
    return np.abs(np.asarray(rows, np.float64)).max(axis=-1, initial=1.0, keepdims=True)


# Where a script starts the suite in the background, its children ignore SIGINT until somebody says otherwise.
INTERRUPTIBLE = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


def python(
    code: str, *args: str, env: dict[str, str] | None = None, check: bool = True, timeout: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run a piece of Python in a fresh interpreter that sees the same penstock and the tests' helpers."""
    path = os.pathsep.join([str(HERE), *filter(None, sys.path)])
    full = {**os.environ, "PYTHONPATH": path, **(env or {})}
    full = {name: value for name, value in full.items() if value != ""}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", INTERRUPTIBLE + code, *args],
        env=full,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    if check and done.returncode:
        raise AssertionError(f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def python_json(code: str, *args: str, env: dict[str, str] | None = None, timeout: float = 300) -> Any:
    """The JSON that a piece of Python prints last."""
    return json.loads(python(code, *args, env=env, timeout=timeout).stdout.splitlines()[-1])


def derivative(f: Callable[[float], Array], h: float) -> Array:
    """Fourth-order central difference at zero."""
    return np.asarray((f(-2 * h) - 8 * f(-h) + 8 * f(h) - f(2 * h)) / (12 * h))


def assert_integrates_to_one(flow: Any, allowed: float = 3e-6) -> None:
    """The midpoint rule over the image of a box of latents, with nodes that spread like a sinh: tails are long."""
    n, dim = {1: 20001, 2: 801}[flow.dim], flow.dim
    box = 7 * np.stack(np.meshgrid(*[np.linspace(-1, 1, 81)] * dim, indexing="ij"), -1).reshape(-1, dim)
    image = np.asarray(flow.to_data(box)[0], np.float64)
    bulk = np.asarray(flow.sample(10_000, rng=0), np.float64)
    nodes, weights = [], []
    for j in range(dim):
        middle = np.median(bulk[:, j])
        width = np.median(np.abs(bulk[:, j] - middle))
        low, high = np.arcsinh((np.array([image[:, j].min() - 1, image[:, j].max() + 1]) - middle) / width)
        u = low + (high - low) * (np.arange(n) + 0.5) / n
        nodes.append(middle + width * np.sinh(u))
        weights.append(width * np.cosh(u) * (high - low) / n)
    grid = np.stack(np.meshgrid(*nodes, indexing="ij"), -1).reshape(-1, dim)
    cells = weights[0] if dim == 1 else np.outer(*weights).ravel()
    total = np.exp(np.asarray(flow.log_prob(grid), np.float64)) @ cells
    # The box keeps all but 1e-10 of the mass; halving the cells moves the sum by less than 1e-6 where the density is smooth.
    assert abs(total - 1) < allowed, f"{total:.8f}"


# -- how input may lie in memory ----------------------------------------------------------------


def _unaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    out = raw.view(x.dtype).reshape(x.shape)
    out[:] = x
    return out


def _read_only(x: Array) -> Array:
    x = x.copy()
    x.flags.writeable = False
    return x


LAYOUTS = {
    "read_only": _read_only,
    "fortran": np.asfortranarray,
    "every_second_row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every_second_column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "slice_of_columns": lambda x: np.concatenate([x, x, x], axis=1)[:, x.shape[1] : 2 * x.shape[1]],
    "unaligned": _unaligned,
    "big_endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    # Equal to NumPy's own dtype, but another object.
    "dtype_object": lambda x: x.view(x.dtype.newbyteorder("=")),
    "list": lambda x: x.tolist(),
    "other_width": lambda x: x.astype("float64" if x.dtype == np.float32 else "float32"),
}
