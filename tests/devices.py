"""What tests of the CUDA backend share: a device, real or emulated, and a library with arrays on it, as CuPy is one, which lends
them by both protocols.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

import numpy as np
import pytest

Array = np.ndarray[Any, Any]
EMULATE = "PENSTOCK_CUDA_EMULATE"


def _found() -> str:
    """The module whose devices are to be tested; empty where there is none."""
    real = os.environ.get(EMULATE) != "1" and importlib.util.find_spec("penstock_cuda13") is not None
    if real and not importlib.import_module("penstock_cuda13._cuda").unavailable(0):
        return "penstock_cuda13._cuda"
    return "penstock._cuda_emulated" if importlib.util.find_spec("penstock._cuda_emulated") is not None else ""


MODULE = _found()
EMULATED = MODULE == "penstock._cuda_emulated"
ENV = {EMULATE: "1" if EMULATED else ""}  # of subprocesses
needs_device = pytest.mark.skipif(
    not MODULE,
    reason="no GPU here, and this build has no emulated one (PENSTOCK_CUDA_EMULATE=1 pip install . builds it)",
)
needs_emulation = pytest.mark.skipif(not EMULATED, reason="is about emulated devices")


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``backend="cuda"`` be the device that is tested. A test file imports this."""
    if EMULATED:
        monkeypatch.setenv(EMULATE, "1")


def module() -> Any:
    """The module of that device."""
    return importlib.import_module(MODULE)


def assert_same(actual: Any, expected: Any) -> None:
    """The same structure with the same dtypes, shapes and bits; a NaN is any NaN."""
    if isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
        return
    if expected is None:
        assert actual is None
        return
    one, other = np.asarray(actual), np.asarray(expected)
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    if other.dtype.kind == "f":
        with np.errstate(all="ignore"):
            bits = f"u{other.itemsize}"
            same = (_whole(one).view(bits) == _whole(other).view(bits)) | (
                np.isnan(_whole(one)) & np.isnan(_whole(other))
            )
        wrong = np.flatnonzero(~same)
        assert not len(wrong), f"bits differ in {len(wrong)} of {other.size} numbers, first at {wrong[:5]}"
    else:
        assert one.tobytes() == other.tobytes()


def _whole(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1)


class Lender:
    """Memory of a device with the numbers of an array of the host, strides included; ``protocols`` are those it speaks."""

    def __init__(
        self, module: Any, array: Array, *, device: int = 0, stream: int | None = None, read_only: bool = False
    ) -> None:
        self.module, self.device, self.stream, self.read_only = module, device, stream, read_only
        self.shape, self.strides, self.dtype = array.shape, array.strides, array.dtype
        steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides, strict=True)]
        self.before = -sum(step for step in steps if step < 0)
        self.nbytes = self.before + sum(step for step in steps if step > 0) + array.itemsize if array.size else 0
        before = module.device()
        module.set_device(device)
        self.address = module.allocate(self.nbytes)
        module.copy(self.address, _address(array) - self.before, self.nbytes)
        module.synchronise()
        module.set_device(before)
        self.lent = 0

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self.module.release(self.address)

    def numpy(self) -> Array:
        """The numbers as they are now."""
        whole = np.zeros(self.nbytes, np.uint8)
        self.module.synchronise()
        self.module.copy(_address(whole), self.address, self.nbytes)
        found: Array = np.ndarray(self.shape, self.dtype, whole.data, self.before, self.strides).copy()
        return found


class ByInterface(Lender):
    """By the CUDA array interface."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3, "shape": self.shape, "strides": self.strides, "typestr": self.dtype.str, "stream": self.stream,
            "data": (self.address + self.before, self.read_only),
        }  # fmt: skip


class ByDLPack(Lender):
    """By DLPack; arrays in C order alone, since what makes capsules here knows no other."""

    versioned = False

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        if self.stream is not None and stream is not None:
            self.module.order(self.stream, stream)
        self.lent += 1
        return self.module.to_dlpack(
            self.address, self.shape, self.dtype.kind, self.dtype.itemsize, self.device, self.read_only, self, self.versioned
        )  # fmt: skip


class ByVersionedDLPack(ByDLPack):
    """By DLPack of version 1, which says what is read-only."""

    versioned = True


LENDERS = (ByInterface, ByDLPack, ByVersionedDLPack)


def _address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])
