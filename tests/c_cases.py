"""What programs in C, C++ and Fortran are asked to compute, and what Python computes: the exchange of ``tests/c/agree.c``."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from penstock import verbs
from penstock.ensemble import Ensemble

Array = np.ndarray[Any, Any]

LOG_PROB, LOG_PROB_AND_GRAD, SAMPLE, TO_LATENT, TO_DATA, TRAIN, DESCRIBE, SAVE = range(8)
VALUES, ROWS, GRAD_CONTEXT, WEIGHTS = 1, 2, 4, 1
GAP = -12345.5  # between rows of results
TYPES = {"float32": 32, "float64": 64}

Answers = list[Array]


@dataclass
class Call:
    """One call: its words and arrays, and what the program has to answer, in its order."""

    words: list[int]
    arrays: list[Array]
    dtype: str
    label: str
    expected: Callable[[], Answers]  # made when it is compared
    rounded: bool = False  # log_prob is known in the type of the flow alone

    def written(self) -> bytes:
        """As calls.bin has it."""
        return struct.pack("<16q", *self.words) + b"".join(_padded(array.tobytes()) for array in self.arrays)


@dataclass
class Calls:
    """The calls of a folder, and its models."""

    folder: Path
    calls: list[Call] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)

    def add_model(self, flow: Any) -> int:
        """Save a flow or an ensemble under the next number."""
        self.models.append(flow)
        flow.save(self.folder / f"model_{len(self.models) - 1}.safetensors")
        return len(self.models) - 1

    def _add(
        self,
        verb: int,
        dtype: str,
        label: str,
        expected: Callable[[], Answers],
        arrays: Sequence[Array] = (),
        **words: int,
    ) -> None:
        names = (
            "n", "stride", "numbers", "context_stride", "context_numbers", "out_stride", "grad_context_stride", "wanted",
            "key", "context_row", "draw",
        )  # fmt: skip
        assert set(words) <= set(names)
        numbers = [words.get(name, 0) for name in names]
        numbers[8] -= (numbers[8] >> 63) << 64  # the bits of a key
        whole = [len(self.models) - 1, verb, TYPES[dtype], *numbers, 0, 0]
        self.calls.append(Call(whole, list(arrays), dtype, f"{label}, called in {dtype}", expected))

    # --- calls on the model that was added last ---------------------------------------------------------------------

    def rows(
        self, verb: int, x: Array, context: Array | None, *, wanted: int, label: str, pad: int = 0, out_pad: int = 0
    ) -> None:
        """log_prob, log_prob_and_grad or a latent map of rows, in their type; so many numbers lie between rows."""
        flow, dtype, (n, dim) = self.models[-1], str(x.dtype), x.shape
        arrays = [spread(x, pad)] if n else []
        words = {"n": n, "stride": dim + pad, "numbers": n * (dim + pad), "wanted": wanted}
        if context is not None:
            shared = context.ndim == 1
            arrays.append(context if shared else spread(context, pad))
            words |= {"context_numbers": arrays[-1].size}
            words |= {} if shared else {"context_stride": context.shape[1] + pad}
            words |= {"grad_context_stride": context.shape[-1] + out_pad}
        words |= {"out_stride": dim + out_pad}

        def expected() -> Answers:
            values, rows, grad = computed(flow, verb, x, context, grad_context=bool(wanted & GRAD_CONTEXT))
            found = [values] if wanted & VALUES else []
            found += [spread(rows, out_pad)] if wanted & ROWS else []
            if wanted & GRAD_CONTEXT:
                found += [grad if grad.ndim == 1 else spread(grad, out_pad)]
            return found

        self._add(verb, dtype, label, expected, arrays, **words)

    def sample(
        self, n: int, context: Array | None, dtype: str, *, seed: int, first: int, first_context: int, label: str,
        out_pad: int = 0, log_prob: bool = True,
    ) -> None:  # fmt: skip
        """Draws, with a context a row one for each."""
        flow = self.models[-1]
        dim, key = flow.dim, verbs.key(seed)
        words = {"n": n, "out_stride": dim + out_pad, "wanted": ROWS | VALUES * log_prob, "key": key}
        words |= {"context_row": first_context, "draw": first}
        arrays = []
        if context is not None:
            arrays = [context.astype(dtype)]
            words |= {"context_numbers": context.size, "context_stride": context.shape[1] if context.ndim == 2 else 0}

        def expected() -> Answers:
            own = arrays[0] if arrays else None
            many = None if context is not None and context.ndim == 2 else n
            numbers = {"key": key, "first": first, "first_context": first_context}
            x, log_p = flow.sample_and_log_prob(many, own, **numbers)
            found = [log_p.astype(dtype)] if log_prob else []
            return [*found, spread(x.astype(dtype), out_pad)]

        self._add(SAMPLE, dtype, label, expected, arrays, **words)
        self.calls[-1].rounded = log_prob

    def describe(self, label: str) -> None:
        """Dimensions, type and members."""
        flow = self.models[-1]
        members = flow.n if isinstance(flow, Ensemble) else 1
        told = np.array([flow.dim, flow.context_dim, TYPES[str(flow.dtype)], members])
        self._add(DESCRIBE, "float64", label, lambda: [told])

    def save(self, label: str) -> None:
        """The model, written again."""
        self._add(SAVE, "float64", label, list)

    def train(
        self, x: Array, context: Array | None, weight: Array | None, options: dict[str, float], *, batch: int, number: int,
        expected: Callable[[], Answers], label: str,
    ) -> None:  # fmt: skip
        """Steps on consecutive batches; options: learning_rate, weight_decay, clip_norm, weight_scale."""
        n, dim = x.shape
        arrays = [x]
        words = {"n": n, "stride": dim, "numbers": x.size, "key": batch, "context_row": number}
        if context is not None:
            arrays.append(context)
            words |= {"context_stride": context.shape[1], "context_numbers": context.size}
        names = ("learning_rate", "weight_decay", "clip_norm", "weight_scale")
        arrays.append(np.array([options[name] for name in names]))
        if weight is not None:
            arrays.append(weight)
            words |= {"wanted": WEIGHTS}
        self._add(TRAIN, str(x.dtype), label, expected, arrays, **words)

    # --- both ways --------------------------------------------------------------------------------------------------

    def write(self) -> None:
        """The file of calls."""
        with open(self.folder / "calls.bin", "wb") as file:
            for call in self.calls:
                file.write(call.written())

    def compare(self) -> int:
        """Hold the results against Python's, bit by bit, and count numbers; a NaN is a NaN."""
        data, at, numbers = (self.folder / "results.bin").read_bytes(), 0, 0
        for call in self.calls:
            status = int.from_bytes(data[at : at + 8], "little")
            at += 8
            assert status == 0, f"{call.label}: status {status}"
            with np.errstate(all="ignore"):
                answers = call.expected()
            for part, wanted in enumerate(answers):
                found = np.frombuffer(data, wanted.dtype, wanted.size, at).reshape(wanted.shape)
                at += -(-wanted.nbytes // 8) * 8
                numbers += wanted.size
                if call.rounded and part == 0:
                    flow_type = self.models[call.words[0]].dtype
                    found, wanted = found.astype(flow_type), wanted.astype(flow_type)
                assert_bits(found, wanted, f"{call.label}, answer {part}")
        assert at == len(data)
        return numbers


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 8)


def spread(rows: Array, pad: int) -> Array:
    """Rows with numbers between them that nobody reads or writes."""
    return np.pad(rows, ((0, 0), (0, pad)), constant_values=GAP)


def assert_bits(found: Array, wanted: Array, label: str) -> None:
    """The same numbers, -0 and 0 told apart."""
    word = f"u{found.dtype.itemsize}"
    same = (
        (found.view(word) == wanted.view(word)) | (np.isnan(found) & np.isnan(wanted))
        if found.dtype.kind == "f"
        else found == wanted
    )
    if not same.all():
        where = tuple(int(i) for i in np.argwhere(~same)[0])
        raise AssertionError(
            f"{label}: {(~same).sum()} of {same.size} differ, the first at {where}: {found[where]!r}, not {wanted[where]!r}"
        )


# --- what Python computes -------------------------------------------------------------------------------------------


def computed(flow: Any, verb: int, x: Array, context: Array | None, *, grad_context: bool) -> tuple[Array, Array, Any]:
    """Values, rows and the gradient of the context of a call in the type of the rows, rounded once from the flow's."""
    runner = flow._runner()
    packed, dtype, n = flow._snapshot.pack(runner), x.dtype, len(x)
    wide = np.dtype(max(dtype, flow.dtype, key=lambda own: own.itemsize))  # log-densities are computed in float64
    if verb == LOG_PROB:
        return runner.log_prob(packed, x, context, dtype=wide).astype(dtype), x, None
    if verb == LOG_PROB_AND_GRAD:
        values = runner.log_prob(packed, x, context, dtype=wide).astype(dtype)
        found = runner.log_prob_and_grad(packed, x, context, contexts=grad_context)
        own = None if found.context is None else found.context.astype(dtype)
        return values, found.x.astype(dtype), own
    rows, values = np.empty(x.shape, flow.dtype), np.empty(n, wide)
    runner.engine.evaluate(
        packed, verb == TO_DATA, 0, flow._plan.n_steps, x, None, context, None, False, rows, values
    )  # fmt: skip
    return values.astype(dtype), rows.astype(dtype), None


def far(rows: Array) -> Array:
    """The same rows, with numbers in some that no data has."""
    rows = rows.copy()
    values = [1e30, -1e30, math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-30, 3e38, -1e12, 1e-45]
    values += [1e300, -1e300, 5e-324] if rows.dtype == np.float64 else []
    for k, value in enumerate(values):
        rows[k % len(rows), k % rows.shape[1]] = value
        rows[(k + len(values)) % len(rows)] = value
    return rows


def in_both(rows: Array) -> Iterator[Array]:
    """Rows in both types."""
    with np.errstate(all="ignore"):
        for dtype in TYPES:
            yield rows.astype(dtype)
