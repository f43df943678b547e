"""Arrays in the memory of a CUDA device: the one place that knows how libraries lend them to each other.

Other libraries' come by DLPack or by the CUDA array interface; ours go by both. Inside, such an array is a NumPy array over an
address of the device: it has shape, strides and dtype, and is handed to an engine, but nothing here may read its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from penstock._typing import Array

CPU, CUDA, CUDA_MANAGED = 1, 2, 13  # kinds of devices, as DLPack counts them
LEGACY, PER_THREAD = 1, 2  # streams, as the CUDA array interface counts them
WHERE = "log_prob, score, to_latent, to_data, sample, sample_and_log_prob, loss_and_grad and gradients take such arrays"


def on_device(values: Any) -> bool:
    """Whether something lies in the memory of a CUDA device."""
    if values is None or isinstance(values, (np.ndarray, list, tuple, dict, int, float, str)):
        return False
    place = getattr(values, "__dlpack_device__", None)
    if place is not None:
        try:
            return int(place()[0]) in (CUDA, CUDA_MANAGED)
        except Exception:  # it has no memory of one kind
            return False
    return getattr(values, "__cuda_array_interface__", None) is not None


def refuse(values: Any, name: str) -> None:
    """Raise for what only some verbs take."""
    if on_device(values):
        raise TypeError(
            f"{name} lies on a CUDA device: {WHERE}, for a flow on a device; copy it to the host for everything else"
        )


class Block:
    """Memory of a device, released when nobody has it any more."""

    __slots__ = ("__array_interface__", "__weakref__", "_release", "address")

    def __init__(self, module: Any, nbytes: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self._release = module.release
        self.address = int(module.allocate(nbytes))
        self.__array_interface__ = _interface(self.address, shape, None, dtype.str, False)

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._release(self.address)


class _Lent:
    """Memory that somebody else keeps, as NumPy is told of it."""

    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def _interface(
    address: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: str, read_only: bool
) -> dict[str, Any]:
    return {"version": 3, "data": (address, read_only), "shape": shape, "strides": strides, "typestr": dtype}


class DeviceArray:
    """Numbers in the memory of a CUDA device: what a flow on a device gives for arrays that lie there.

    CuPy, PyTorch, JAX, Numba and what else speaks DLPack or the CUDA array interface take it as it lies:
    ``cupy.asarray(result)``, ``torch.from_dlpack(result)``. Numbers are in C order.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    device : int
        The number of the device.
    stream : int or None
        What has been told to compute the numbers may still be at it, on this stream; None where they are there.

    Examples
    --------
    >>> import penstock as ps
    >>> flow = ps.realnvp(2, rng=0)
    >>> flow.to("cuda").log_prob(rows_on_the_device)  # doctest: +SKIP
    DeviceArray of shape (1000,), float32, on cuda:0
    """

    def __init__(self, block: Block, module: ModuleType, array: Array, device: int, stream: int | None) -> None:
        self._block, self._module = block, module  # the block is what keeps the memory
        self._array = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        self.device = device
        self.stream = stream

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes these take."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a single number has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        emulated = "emulated " if self._module.is_emulated() else ""
        return f"DeviceArray of shape {self.shape}, {self.dtype.name}, on {emulated}cuda:{self.device}"

    def numpy(self) -> Array:
        """The numbers in memory of the host.

        Returns
        -------
        array of the same shape and dtype
        """
        with in_use(self._module, self.device, self.stream):
            return downloaded(self._module, self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("numbers on a CUDA device cannot be had without a copy")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __float__(self) -> float:
        return float(self.numpy())

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        address = address_of(self._array) if self.size else 0
        return _interface(address, self.shape, None, self.dtype.str, False) | {"stream": self.stream}

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(
        self, *, stream: int | None = None, max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None, copy: bool | None = None,
    ) -> Any:  # fmt: skip
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            if int(dl_device[0]) != CPU or copy is False:
                raise BufferError(f"the numbers lie on cuda:{self.device}, and not where they were asked for")
            return self.numpy().__dlpack__()
        if copy:
            raise BufferError("a copy on the device is for the library that asks to make")
        if self.stream is not None and stream != -1:
            with in_use(self._module, self.device, None):
                self._module.order(self.stream, LEGACY if stream is None else stream)
        return self._module.to_dlpack(
            address_of(self._array), self.shape, self.dtype.kind, self.dtype.itemsize, self.device,
            False, self, max_version is not None and max_version[0] >= 1,
        )  # fmt: skip


# --- using a device ---------------------------------------------------------------------------------------------


def as_stream(stream: Any) -> int | None:
    """``stream`` as the CUDA array interface has it; None for one of the calling thread's own."""
    if stream is None:
        return None
    if isinstance(stream, bool) or not isinstance(stream, (int, np.integer)):
        raise TypeError(f"stream must be the handle of a CUDA stream, an integer, got {type(stream).__name__}")
    if stream < 1:
        raise ValueError(
            f"stream must be 1 (the legacy default stream), 2 (that of the calling thread) or the handle of one, got {stream}"
        )
    return int(stream)


@contextmanager
def in_use(module: Any, device: int, stream: int | None) -> Iterator[None]:
    """Within the block, calls from this thread use a device and a stream, or one of its own."""
    before = module.device()
    module.set_device(device)
    module.set_stream(stream or 0)
    try:
        yield
    finally:
        module.set_stream(0)
        module.set_device(before)


def downloaded(module: Any, array: Array) -> Array:
    """A copy in memory of the host, made in the order of the stream in use, whatever the strides."""
    if not array.size:
        return np.zeros(array.shape, array.dtype)
    steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
    before, behind = -sum(step for step in steps if step < 0), sum(step for step in steps if step > 0)
    whole = np.zeros(before + behind + array.itemsize, np.uint8)
    module.copy(address_of(whole), address_of(array) - before, whole.nbytes)
    found: Array = np.ndarray(array.shape, array.dtype, whole.data, before, array.strides)
    return found.copy()


def address_of(array: Array) -> int:
    """Where the first number of an array lies."""
    return int(array.__array_interface__["data"][0])


class Memory:
    """What gives a runner its outputs in the place of NumPy: memory of the device in use."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def empty(self, shape: int | tuple[int, ...], dtype: Any = np.float64) -> Array:
        """Numbers that are yet to be written."""
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        kind = np.dtype(dtype)
        return np.asarray(Block(self._module, math.prod(shape) * kind.itemsize, shape, kind))

    def zeros(self, shape: int | tuple[int, ...], dtype: Any = np.float64) -> Array:
        """Zeros."""
        out = self.empty(shape, dtype)
        self._module.clear(address_of(out), out.nbytes)
        return out

    def ones(self, shape: int | tuple[int, ...], dtype: Any = np.float64) -> Array:
        """Ones."""
        return self.uploaded(np.ones(shape, dtype))

    def uploaded(self, array: Array) -> Array:
        """A copy of an array of the host."""
        out = self.empty(array.shape, array.dtype)
        whole = array.copy()  # in C order
        self._module.copy(address_of(out), address_of(whole), whole.nbytes)
        return out


def block_of(array: Array) -> Block:
    """What keeps the memory of an output, or of a view of one."""
    base: Any = array
    while not isinstance(base, Block):
        base = base.base
    return base


# --- what others lend -------------------------------------------------------------------------------------------


class Loan(NamedTuple):
    """An array over memory of a device, and what keeps that memory."""

    array: Array
    owner: Any


def lent(values: Any, module: Any, stream: int | None, *, name: str) -> Loan:
    """An array of another library, or one of ours, as NumPy has it: float32 or float64, ready on the stream in use.

    ``stream`` is that of the call, None for the calling thread's own, which waits for the legacy one.
    """
    if isinstance(values, DeviceArray):
        interface = values.__cuda_array_interface__
        address, read_only, owner = interface["data"][0], False, values
        shape, strides, dtype = values.shape, None, values.dtype.str
        _wait(module, values.stream, stream)
    elif hasattr(values, "__dlpack_device__"):
        try:
            capsule = values.__dlpack__(stream=LEGACY if stream is None else stream)
        except (BufferError, RuntimeError, ValueError) as error:
            raise TypeError(f"{name} is not lent by its library: {error}") from None
        address, shape, strides, dtype, _, _, read_only, owner = module.from_dlpack(capsule)
    else:
        interface = values.__cuda_array_interface__
        if interface.get("mask") is not None:
            raise TypeError(f"{name} has masked entries; fill them first")
        address, read_only = interface["data"]
        shape, strides, dtype = interface["shape"], interface.get("strides"), interface["typestr"]
        owner = values
        _wait(module, interface.get("stream"), stream)
    kind = np.dtype(dtype) if dtype else None
    if kind not in (np.dtype(np.float32), np.dtype(np.float64)):
        held = "numbers of another kind" if kind is None else kind.name
        raise TypeError(f"{name} must hold float32 or float64 numbers, got {held}: nothing is converted on a device")
    assert kind is not None
    shape = tuple(int(n) for n in shape)
    if not math.prod(shape):
        return Loan(np.zeros(shape, kind), owner)
    return Loan(np.asarray(_Lent(_interface(int(address), shape, strides, kind.str, bool(read_only)), owner)), owner)


def _wait(module: Any, theirs: int | None, ours: int | None) -> None:
    """Let our stream wait for theirs."""
    ours = PER_THREAD if ours is None else ours
    if theirs is not None and theirs != ours:
        module.order(theirs, ours)
