"""Random flows with ordinary to absurd parameters and rows, evaluated by both backends and on every vector width.

    python tests/fuzz/differential.py --seed 1 --seconds 60
    python tests/fuzz/differential.py --seed 1 --rows 10000000

Laws: every instruction set of the compiled core gives the same bits (NaN counts as NaN, whatever its payload); the Numba
backend gives the same numbers up to the rounding that the flow itself makes of its inputs; neither lets a row of ordinary
parameters become NaN. The size of the rounding is measured: the compiled core evaluates the flow again with parameters and rows
changed by a few units in the last place, and what these runs differ by is what the backends may differ by, times ``SLACK``.
A row whose numbers come near the root of the largest float may overflow in one backend alone.

A failure is printed with the seed and the number of the flow; ``--seed S --first N --flows 1`` runs it alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

import penstock as ps
from penstock import _backend

Array = np.ndarray[Any, Any]

ROWS = 1500  # of one flow, in each direction
DRAWS = 12  # of parameters and rows for one structure
SHIFTS = 6  # evaluations with changed last places
SLACK = 64.0
FLOOR_ULPS = 64.0  # and at least so many units of the numbers' size,
SCALE = 10.0  # or of this: bounds of splines and standardised rows
QUANTITIES = ("log_prob", "z", "log_det", "x", "x_log_det", "grad")


def structure(rng: np.random.Generator) -> dict[str, Any]:
    """Arguments of a random flow."""
    dim = int(rng.integers(1, 9))
    context_dim = int(rng.choice([0, 0, 0, 1, 3]))
    layers = [_layer(rng, dim, context_dim) for _ in range(int(rng.integers(1, 5)))]
    if context_dim and not any(getattr(layer, "conditioner", None) for layer in layers):
        layers.append(ps.Elementwise(_transform(rng), _network(rng)))
    embedding = _network(rng) if context_dim and rng.random() < 0.3 else None
    return {"base": ps.StandardNormal(dim), "layers": layers, "context_dim": context_dim, "embedding": embedding,
            "dtype": str(rng.choice(["float32", "float64"])), "rng": int(rng.integers(1 << 31))}  # fmt: skip


def _layer(rng: np.random.Generator, dim: int, context_dim: int) -> Any:
    explicit = str(rng.choice(["to_latent", "to_data"]))
    kinds = ["elementwise", "lu", "permutation", "actnorm", "autoregressive", *(["coupling"] * 3 if dim > 1 else [])]
    kind = str(rng.choice(kinds))
    if kind == "coupling":
        split = str(rng.choice(["half", "half_swapped", "alternating", "alternating_swapped", "random"]))
        return ps.Coupling(_transform(rng), _network(rng), split, explicit)
    if kind == "autoregressive":
        return ps.Autoregressive(_transform(rng), _network(rng), str(rng.choice(["identity", "random"])), explicit)
    if kind == "elementwise":
        network = _network(rng) if context_dim and rng.random() < 0.5 else None
        return ps.Elementwise(_transform(rng), network, explicit)
    if kind == "lu":
        return ps.LULinear(explicit=explicit)
    return ps.Permutation("random") if kind == "permutation" else ps.ActNorm()


def _transform(rng: np.random.Generator) -> Any:
    kind = int(rng.integers(3))
    if kind == 0:
        return ps.Affine(scale_bound=float(rng.choice([0.5, 2.0, 5.0])))
    return ps.Additive() if kind == 1 else ps.RationalQuadratic(int(rng.integers(2, 17)), float(rng.choice([1.0, 5.0])))


def _network(rng: np.random.Generator) -> Any:
    residual = rng.random() < 0.25
    depth = int(rng.integers(0, 4))
    width = int(rng.integers(1, 40))
    hidden = (width,) * depth if residual else tuple(int(n) for n in rng.integers(1, 40, depth))
    return ps.MLP(hidden, str(rng.choice(["relu", "tanh", "silu", "gelu", "leaky_relu"])), residual)


def numbers(rng: np.random.Generator, flow: ps.Flow, draw: int) -> tuple[dict[str, Array], bool]:
    """Parameters, rows on both sides and contexts, and whether all of them are ordinary."""
    gain = float(rng.choice([0.0, 0.1, 0.3, 0.3, 1.0, 10.0, 1e3, 1e10, 1e30]))
    reach = float(rng.choice([0.0, 0.0, 0.5, 2.0, 10.0, 30.0]))
    params = gain * rng.standard_normal(flow.n_params)
    dim, c = flow.dim, flow.context_dim

    def rows(n: int) -> Array:
        values = rng.standard_normal((ROWS, n)) * 10.0 ** rng.uniform(-reach, reach, (ROWS, 1))
        if reach:
            odd = rng.random((ROWS, n)) < 0.02
            values[odd] = rng.choice([0.0, -0.0, 1e-40, -1e-310, 1.0, 5.0, -5.0, 1e30, -1e30], int(odd.sum()))
        return values.astype(flow.dtype)

    given = {"params": params.astype(flow.dtype), "x": rows(dim), "z": rows(dim), "context": rows(c)}
    return given, gain <= 0.3 and reach == 0


def evaluate(flow: ps.Flow, given: dict[str, Array]) -> dict[str, Array]:
    """Every quantity of one flow."""
    flow.params = given["params"]
    context = (given["context"],) if flow.context_dim else ()
    z, log_det = flow.to_latent(given["x"], *context)
    x, x_log_det = flow.to_data(given["z"], *context)
    log_prob, grad = flow.log_prob_and_grad(given["x"], *context)
    return dict(zip(QUANTITIES, (log_prob, z, log_det, x, x_log_det, grad), strict=True))


class Shifted:
    """A flow whose parameters, rows and states between layers are changed in their last places, anew at every evaluation.

    The state is scaled and shifted by an affine layer between every two layers. What happens inside of a layer shows in the
    difference between the two precisions.
    """

    def __init__(self, arguments: dict[str, Any], flow: ps.Flow) -> None:
        between = ps.Elementwise(ps.Affine())
        layers = [part for layer in flow.spec.layers for part in (layer, between)]
        self.flow = ps.Flow(**{**arguments, "layers": layers}, backend="cpp")
        self.plain = {
            dtype: ps.Flow(**{**arguments, "dtype": dtype}, backend="cpp") for dtype in ("float32", "float64")
        }
        self.twin = ps.Flow(**{**arguments, "dtype": "float64"}, backend="numba")
        # where the numbers of the plain flow lie among those of this one
        self.own = np.ones(self.flow.n_params, bool)
        offset = 0
        for name, array in self.flow.named_params().items():
            self.own[offset : offset + array.size] = not (name.startswith("layers.") and int(name.split(".")[1]) % 2)
            offset += array.size
        assert self.own.sum() == flow.n_params

    def evaluate(self, rng: np.random.Generator, given: dict[str, Array], ulps: int = 4) -> dict[str, Array]:
        changed = {}
        for name, array in given.items():
            eps = np.finfo(array.dtype).eps
            with np.errstate(over="ignore"):
                moved = array * (1 + eps * rng.integers(-ulps, ulps + 1, array.shape)).astype(array.dtype)
                if name != "params":
                    moved = moved + eps * rng.integers(-ulps, ulps + 1, array.shape).astype(array.dtype)
            changed[name] = np.where(np.isfinite(moved), moved, array).astype(array.dtype)
        theta = np.finfo(self.flow.dtype).eps * rng.uniform(-ulps, ulps, (len(self.own), 2)) * [1, SCALE / 4]
        params = theta.ravel()[: len(self.own)]
        params[self.own] = changed["params"]
        return evaluate(self.flow, changed | {"params": params.astype(self.flow.dtype)})

    def rounding(self, given: dict[str, Array]) -> dict[str, Array]:
        """How far float32 and float64 differ, in units of the flow's own precision."""
        narrow = {name: array.astype(np.float32) for name, array in given.items()}
        wide = {name: array.astype(np.float64) for name, array in narrow.items()}
        low, high = evaluate(self.plain["float32"], narrow), evaluate(self.plain["float64"], wide)
        unit = np.finfo(self.flow.dtype).eps / np.finfo(np.float32).eps
        return {name: unit * np.nan_to_num(np.abs(low[name] - high[name]), posinf=0.0) for name in QUANTITIES}

    def is_rounding(self, given: dict[str, Array], name: str, row: int, difference: float) -> bool:
        """Whether a difference between the backends in float32 shrinks in float64 as rounding does.

        Weights of thousands magnify what rounding leaves of a theta's gradient that should be zero, in one backend and not in
        the other.
        """
        if self.flow.dtype != np.float32:
            return False
        wide = {key: array.astype(np.float64) for key, array in given.items()}
        with np.errstate(all="ignore"):
            ours, theirs = (
                evaluate(flow, wide)[name].reshape(ROWS, -1)[row] for flow in (self.plain["float64"], self.twin)
            )
            eps = np.finfo(np.float64).eps
            floor = FLOOR_ULPS * eps * max(SCALE, np.abs(ours).max())
            return bool(np.abs(ours - theirs).max() <= 64 * eps / np.finfo(np.float32).eps * difference + floor)


def explained(
    rng: np.random.Generator, flow: Shifted, given: dict[str, Array], name: str, row: int, other: Array
) -> bool:
    """Whether many evaluations of one row with changed last places scatter as far as the other backend's numbers.

    A row within rounding of a kink or of a narrow bin's edge may be on either side of it.
    """
    one = {
        key: array if key == "params" else np.repeat(array[row : row + 1], ROWS, axis=0) for key, array in given.items()
    }
    with np.errstate(all="ignore"):
        seen = np.stack([flow.evaluate(rng, one, 16)[name].astype(np.float64) for _ in range(24)]).reshape(
            24 * ROWS, -1
        )
        low, high = seen.min(axis=0), seen.max(axis=0)
        margin = (high - low).max() + FLOOR_ULPS * np.finfo(flow.flow.dtype).eps * np.maximum(np.abs(seen).max(), SCALE)
        return bool(np.isnan(margin) or ((other >= low - margin) & (other <= high + margin)).all())


def flows(seed: int, first: int, count: int) -> Iterator[tuple[int, dict[str, Any], np.random.Generator]]:
    for number in range(first, first + count):
        rng = np.random.default_rng([seed, number])
        yield number, structure(rng), rng


def digest(array: Array) -> str:
    """Of the bits, with every NaN the same one."""
    array = np.where(np.isnan(array), array.dtype.type(np.nan), array)
    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()


def work(seed: int, first: int, count: int) -> None:
    """Print the digests of the numbers of some flows; for a subprocess with an instruction set forced."""
    for number, arguments, rng in flows(seed, first, count):
        flow = ps.Flow(**arguments, backend="cpp")
        for draw in range(DRAWS):
            given, _ = numbers(rng, flow, draw)
            results = evaluate(flow, given)
            print(json.dumps([number, draw, [digest(results[q]) for q in QUANTITIES]]), flush=True)


def compare(
    rng: np.random.Generator, cpp: ps.Flow, twin: ps.Flow, moved: Shifted, given: dict[str, Array], ordinary: bool
) -> list[str]:
    """What the backends disagree about on one flow."""
    wrong = []
    ours, theirs = evaluate(cpp, given), evaluate(twin, given)
    with np.errstate(all="ignore"):
        runs = [moved.evaluate(rng, given) for _ in range(SHIFTS)]
        rounding = moved.rounding(given)
        tame = np.ones((ROWS, 1), bool)  # nothing of the row comes near the largest float or its root
        for run in (ours, *runs):
            for values in run.values():
                root = 0.01 * np.sqrt(np.finfo(values.dtype).max)
                tame &= (np.abs(values.reshape(ROWS, -1)) < root).all(axis=1, keepdims=True)
        for name in QUANTITIES:
            a, b = (v[name].astype(np.float64).reshape(ROWS, -1) for v in (ours, theirs))
            others = np.stack([run[name].astype(np.float64).reshape(ROWS, -1) for run in runs])
            if name == "grad" and np.abs(given["params"]).max(initial=0.0) > 1e4:
                continue  # second derivatives of saturated networks and splines leave a gradient without a digit
            if ordinary and not (np.isfinite(a).all() and np.isfinite(b).all()):
                wrong.append(f"{name}: a number of an ordinary flow is not finite")
            finite = np.isfinite(others).all(axis=0)
            size = np.abs(others).max(axis=0)
            mismatch = tame & ~np.isfinite(b)
            if mismatch.any():
                row = int(np.flatnonzero(mismatch.any(axis=1))[0])
                wrong.append(f"{name}: row {row} is {a[row]} and {b[row]}")
            # a row's numbers share their rounding: the sum over a row's columns bounds each
            known = finite & np.isfinite(a)
            spread = np.where(known, np.abs(others - a), 0.0).max(axis=0).max(axis=1, keepdims=True)
            spread = np.maximum(spread, rounding[name].reshape(ROWS, -1).max(axis=1, keepdims=True))
            floor = (
                FLOOR_ULPS * np.finfo(ours[name].dtype).eps * np.where(known, size, SCALE).max(axis=1, keepdims=True)
            )
            floor = np.maximum(floor, FLOOR_ULPS * np.finfo(ours[name].dtype).eps * SCALE)
            bad = known & np.isfinite(b) & (np.abs(a - b) > SLACK * spread + floor)
            for row in np.flatnonzero(bad.any(axis=1))[:3].tolist():
                if not ordinary and moved.is_rounding(given, name, row, np.abs(a - b)[row].max()):
                    continue
                if not explained(rng, moved, given, name, row, b[row]):
                    wrong.append(f"{name}: row {row} is {a[row]} and {b[row]}, where {spread[row]} is explained")
                    break
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60.0, help="budget of time (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=0, help="budget of rows instead of time")
    parser.add_argument("--first", type=int, default=0, help="number of the first flow")
    parser.add_argument("--flows", type=int, default=0, help="number of flows instead of a budget")
    parser.add_argument("--work", nargs=2, type=int, metavar=("FIRST", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.seed, *options.work)
        return 0

    best, *others = _backend.choose("cpp").isas()
    began, done, number, failures = time.monotonic(), 0, options.first, 0
    shown: set[int] = set()
    while True:
        if options.flows:
            stop = number >= options.first + options.flows
        elif options.rows:
            stop = done >= options.rows
        else:
            stop = time.monotonic() - began > options.seconds
        if stop:
            break
        command = [sys.executable, __file__, "--seed", str(options.seed), "--work", str(number), "1"]
        widths = {
            isa: subprocess.Popen(command, env={**os.environ, "PENSTOCK_ISA": isa}, stdout=subprocess.PIPE, text=True)
            for isa in others
        }
        expected = {}
        for _, arguments, rng in flows(options.seed, number, 1):
            cpp = ps.Flow(**arguments, backend="cpp")
            twin = ps.Flow(**arguments, backend="numba")
            moved = Shifted(arguments, cpp)
            for draw in range(DRAWS):
                given, ordinary = numbers(rng, cpp, draw)
                expected[draw] = [digest(v) for v in evaluate(cpp, given).values()]
                side = np.random.default_rng([options.seed, number, draw])
                for what in compare(side, cpp, twin, moved, given, ordinary):
                    if number not in shown:
                        print(repr(cpp))
                        shown.add(number)
                    failures += 1
                    print(f"seed {options.seed}, flow {number}, draw {draw}, {cpp.dtype}: {what}", flush=True)
                done += 2 * ROWS
        for isa, process in widths.items():
            output, _ = process.communicate()
            found = {draw: digests for _, draw, digests in map(json.loads, output.splitlines())}
            for draw, digests in expected.items():
                names = [
                    q
                    for q, mine, its in zip(QUANTITIES, digests, found.get(draw, [""] * 6), strict=True)
                    if mine != its
                ]
                if names:
                    failures += 1
                    print(
                        f"seed {options.seed}, flow {number}, draw {draw}: {isa} and {best} differ in {names}",
                        flush=True,
                    )
        number += 1
    print(f"{number - options.first} flows, {done} rows, {failures} failures, {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
