"""The verbs of a flow on arrays in the memory of its device: results lie there, too. What ``verbs.py`` hands over to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from penstock import _device_arrays, _validate
from penstock._backend import CudaBackend
from penstock._device_arrays import DeviceArray, Memory
from penstock._typing import Array
from penstock.mixture import Mixture
from penstock.runner import Runner


def concerned(stream: Any, *given: Any) -> bool:
    """Whether a call is one for a device: by one of its arrays, or by its stream."""
    return stream is not None or any(map(_device_arrays.on_device, given))


class Call:
    """One call: its arrays, as the engine takes them, and its results, as the caller gets them."""

    def __init__(self, flow: Any, runner: Runner, backend: CudaBackend, stream: int | None) -> None:
        self.flow = flow
        self.module = backend.load()
        self.memory = Memory(self.module)
        self.runner = runner.within(self.memory)
        self._device, self._stream = backend.device, stream
        self._owners: list[Any] = []  # of what was lent, until the call is over
        self._blocks: list[_device_arrays.Block] = []

    @property
    def packed(self) -> Any:
        """The numbers of the flow as its engine keeps them."""
        return self.flow._snapshot.pack(self.runner)

    def lent(self, given: Mapping[str, Any]) -> dict[str, Array | None]:
        """The arrays of a call by their names, all of which must lie on the device of the flow; None stays."""
        here = {name: _device_arrays.on_device(values) for name, values in given.items() if values is not None}
        if any(here.values()) and not all(here.values()):
            there = [name for name, found in here.items() if found]
            host = [name for name, found in here.items() if not found]
            raise TypeError(
                f"{_listed(there)} on a CUDA device and {_listed(host)} on the host: all arrays of a call lie on one side"
            )
        if here and not any(here.values()):
            raise ValueError(f"stream was given, but {_listed(list(here))} on the host: streams order what devices do")
        found: dict[str, Array | None] = dict.fromkeys(given)
        for name in here:
            array, owner = _device_arrays.lent(given[name], self.module, self._stream, name=name)
            self._owners.append(owner)
            if array.size:
                place = self.module.device_of(_device_arrays.address_of(array))
                if place != self._device:
                    where = f"on cuda:{place}" if place >= 0 else "in no memory that this backend knows"
                    raise ValueError(f"{name} lies {where}, and the flow on cuda:{self._device}")
            found[name] = array
        return found

    def result(self, array: Array, shape: tuple[int, ...]) -> DeviceArray:
        """An output of the runner, as the caller gets it."""
        block = _device_arrays.block_of(array)
        self._blocks.append(block)
        return DeviceArray(block, self.module, array.reshape(shape), self._device, self._stream)

    def host(self, array: Array) -> Array:
        """A copy on the host."""
        return _device_arrays.downloaded(self.module, array)

    def end(self) -> None:
        """What the call gave to the stream is done, or its results are known to be at work."""
        if self._stream is None:
            self.module.synchronise()
        else:
            for block in self._blocks:
                self.module.hold(block.address)


class DeviceVerbs:
    """The verbs of a flow, or of a view at a context, for arrays on its device."""

    def __init__(self, flow: Any) -> None:
        self._flow = flow

    @contextmanager
    def _call(self, stream: Any, **given: Any) -> Iterator[Call]:
        flow = self._flow
        runner = flow._runner()
        backend = runner._backend
        if not isinstance(backend, CudaBackend):
            there = [name for name, values in given.items() if _device_arrays.on_device(values)]
            what = f"{_listed(there)} on a CUDA device" if there else "stream was given"
            raise TypeError(
                f"{what}, and this {flow._word} computes with {runner.backend}: take {flow._word}.to('cuda'), or copy to the host"
            )
        number = _device_arrays.as_stream(stream)
        with _device_arrays.in_use(backend.load(), backend.device, number):
            call = Call(flow, runner, backend, number)
            yield call
            call.end()

    def uploaded(self, array: Array) -> DeviceArray:
        """A copy of an array of the host on the device of the flow."""
        with self._call(None) as call:
            return call.result(call.memory.uploaded(array), array.shape)

    # --- evaluating ---------------------------------------------------------------------------------------------

    def log_prob(self, X: Any, context: Any, out: Any, stream: Any) -> Any:
        """The log-density of rows."""
        with self._call(stream, X=X, context=context, out=out) as call:
            held = call.lent({"X": X, "context": context, "out": out})
            batch = self._batch(held["X"], held["context"], "X")
            into = held["out"]
            if into is not None:
                into = _checked_out(into, batch.shape, self._flow.dtype).reshape(-1)
            found = call.runner.log_prob(call.packed, batch.x, batch.context, into)
            return call.result(found, batch.shape) if out is None else out

    def score(self, X: Any, context: Any, sample_weight: Any, stream: Any) -> tuple[Array, Array | None]:
        """What the mean log-density is made of, on the host: log-densities in float64, and weights."""
        with self._call(stream, X=X, context=context, sample_weight=sample_weight) as call:
            held = call.lent({"X": X, "context": context, "sample_weight": sample_weight})
            batch = self._batch(held["X"], held["context"], "X")
            weight = held["sample_weight"]
            if weight is not None:
                weight = _validate.as_shaped(call.host(weight), batch.shape, _validate.FLOAT64, name="sample_weight")
                weight = _validate.as_weights(weight.reshape(-1), len(batch.x), name="sample_weight")
            found = call.runner.log_prob(call.packed, batch.x, batch.context, dtype=_validate.FLOAT64)
            return call.host(found), weight

    def map(self, to_data: bool, rows: Any, context: Any, stream: Any, name: str) -> tuple[Any, Any]:
        """Rows from one side to the other."""
        with self._call(stream, **{name: rows}, context=context) as call:
            held = call.lent({name: rows, "context": context})
            batch = self._batch(held[name], held["context"], name)
            out, log_det = call.runner.transform(call.packed, to_data, batch.x, batch.context)
            return call.result(out, (*batch.shape, self._flow.dim)), call.result(log_det, batch.shape)

    # --- sampling -----------------------------------------------------------------------------------------------

    def sample(
        self, n: Any, context: Any, seed: int, out: Any, numbers: tuple[int, int], raw: bool, stream: Any,
        *, log_prob: bool = False,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Draws, and on demand their log-density."""
        flow = self._flow
        with self._call(stream, context=context, out=out) as call:
            held = call.lent({"context": context, "out": out})
            _check_merges(held["context"], "context")
            given, shape, firsts = flow._draws(n, held["context"], *numbers)
            into = held["out"]
            if into is not None:
                into = _checked_out(into, (*shape, flow.dim), flow.dtype).reshape(-1, flow.dim)
            rows, density = call.runner.sample(
                call.packed, math.prod(shape), seed, given, into, log_prob=log_prob, numbers=firsts
            )
            if flow._lattice is not None and not raw:
                values = call.host(rows)
                flow._lattice.round(values)
                call.module.copy(_device_arrays.address_of(rows), _device_arrays.address_of(values), values.nbytes)
                if log_prob:
                    density = call.runner.log_prob(call.packed, rows, given)
            x = call.result(rows, (*shape, flow.dim)) if out is None else out
            return x, None if density is None else call.result(density, shape)

    # --- gradients ----------------------------------------------------------------------------------------------

    def log_prob_and_grad(self, X: Any, context: Any, words: Sequence[str], stream: Any) -> tuple[Any, tuple[Any, ...]]:
        """The log-density of rows, and the gradients that were asked for."""
        with self._call(stream, X=X, context=context) as call:
            held = call.lent({"X": X, "context": context})
            batch = self._batch(held["X"], held["context"], "X")
            if isinstance(call.runner, Mixture):
                found = self._summed_on_the_host(call, "log_prob_and_grad", held, wrt=tuple(words))
                return found[0], found[1]
            own = call.runner.log_prob_and_grad(call.packed, batch.x, batch.context, contexts="context" in words)
            assert own.log_det is not None
            grads = {"x": self._d_rows(call, batch, own.x)}
            if own.context is not None:
                grads["context"] = call.result(own.context, batch.asked)
            return call.result(own.log_det, batch.shape), tuple(grads[word] for word in words)

    def vjp(
        self, to_data: bool, base: bool, rows: Any, d_rows: Any, d_log_det: Any, context: Any, stream: Any,
        names: tuple[str, str, str],
    ) -> tuple[Any, Any, Any]:  # fmt: skip
        """A vector-Jacobian product."""
        given = {names[0]: rows, names[1]: d_rows, names[2]: d_log_det, "context": context}
        if not names[1]:
            del given[""]
        with self._call(stream, **given) as call:
            held = call.lent(given)
            batch = self._batch(held[names[0]], held["context"], names[0])
            d_x, d_value = held.get(names[1]), held[names[2]]
            if d_x is not None:
                d_x = _checked(d_x, (*batch.shape, self._flow.dim), self._flow.dtype, names[1]).reshape(batch.x.shape)
            if d_value is None and base:
                raise ValueError(f"{names[2]} must be given")
            if d_value is not None:
                d_value = _checked(d_value, batch.shape, self._flow.dtype, names[2]).reshape(-1)
            if isinstance(call.runner, Mixture):
                found = self._summed_on_the_host(call, "log_prob_vjp", held)
                return found[0], found[1], found[2]
            own = call.runner.vjp(call.packed, to_data, batch.x, d_x, d_value, batch.context, base=base)
            assert own.params is not None
            d_context = None if own.context is None else call.result(own.context, batch.asked)
            return self._d_rows(call, batch, own.x), call.result(own.params, own.params.shape), d_context

    def loss_and_grad(self, X: Any, context: Any, sample_weight: Any, stream: Any) -> tuple[float, float, Any]:
        """The sum of weighted negative log-densities and that of weights, numbers of the host, and the gradient."""
        with self._call(stream, X=X, context=context, sample_weight=sample_weight) as call:
            held = call.lent({"X": X, "context": context, "sample_weight": sample_weight})
            batch = self._batch(held["X"], held["context"], "X")
            weight = held["sample_weight"]
            if weight is not None:
                weight = _checked(weight, batch.shape, weight.dtype, "sample_weight").reshape(-1)
                _validate.as_weights(call.host(weight), len(batch.x), name="sample_weight")
            if isinstance(call.runner, Mixture):
                found = self._summed_on_the_host(call, "loss_and_grad", held)
                return found[0], found[1], found[2]
            loss_sum, weight_sum, grad = call.runner.loss_and_grad(call.packed, batch.x, batch.context, weight)
            return loss_sum, weight_sum, call.result(grad, grad.shape)

    # --- inside -------------------------------------------------------------------------------------------------

    def _batch(self, rows: Any, context: Any, name: str) -> Any:
        """Rows and their context, ready for the runner."""
        if rows is None:
            raise TypeError(f"{name} must be an array, got None")
        for values, word in ((rows, name), (context, "context")):
            _check_merges(values, word)
        return self._flow._batch(rows, context, name)

    def _d_rows(self, call: Call, batch: Any, gradient: Array) -> DeviceArray:
        """A gradient of the rows in the shape in which they came; the sum of one that contexts share is made on the host."""
        if batch.own != batch.shape:
            gradient = call.memory.uploaded(call.host(gradient).sum(axis=0, dtype=np.float64))
        return call.result(gradient, (*batch.own, self._flow.dim))

    def _summed_on_the_host(self, call: Call, verb: str, held: Mapping[str, Array | None], **more: Any) -> Any:
        """A gradient of an ensemble, whose members' gradients meet on the host: its arrays go there and come back."""
        given = {name: None if array is None else call.host(array) for name, array in held.items()}

        def back(found: Any) -> Any:
            if isinstance(found, tuple):
                return tuple(map(back, found))
            if not isinstance(found, (np.ndarray, np.generic)):
                return found
            return call.result(call.memory.uploaded(np.array(found)), found.shape)

        return back(getattr(self._flow, verb)(**given, **more))


def _listed(names: Sequence[str]) -> str:
    return f"{' and '.join(names)} lie{'s' if len(names) == 1 else ''}"


def _checked(array: Array, shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Array:
    """An array of exactly this shape and dtype in C order, as engines take cotangents and weights."""
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise TypeError(
            f"{name} must be {dtype.name} in C order, got {array.dtype.name}{'' if array.flags.c_contiguous else ' in another'}: "
            "nothing is converted on a device"
        )
    return array


def _checked_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if not out.flags.writeable:
        raise ValueError("out must be writeable")
    return _checked(out, shape, dtype, "out")


def _check_merges(array: Array | None, name: str) -> None:
    """Raise for blocks of rows that cannot be seen as rows without a copy."""
    if array is None or array.ndim != 3 or min(array.shape[:2]) <= 1:
        return
    if array.strides[0] != array.shape[1] * array.strides[1]:
        raise ValueError(f"{name} has blocks that do not follow each other in memory: give it in C order")
