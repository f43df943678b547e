"""
The compiled backend of penstock. Internal: penstock/runner.py is its only caller.
"""

from __future__ import annotations

import collections.abc
import typing

import numpy

__all__: list[str] = [
    "Engine",
    "Mixture",
    "Packed",
    "Trainer",
    "check_table",
    "isa",
    "isas",
    "name",
    "num_threads",
    "row_order",
    "set_local_num_threads",
    "set_num_threads",
    "slices",
    "transform_names",
    "usable",
    "version",
]

class Packed:
    pass

class Engine:
    def __init__(self, table: numpy.ndarray) -> None: ...
    def adam(
        self,
        params: typing.Any,
        grad: typing.Any,
        m: typing.Any,
        v: typing.Any,
        step: typing.SupportsInt | typing.SupportsIndex,
        learning_rate: typing.SupportsFloat | typing.SupportsIndex,
        beta1: typing.SupportsFloat | typing.SupportsIndex,
        beta2: typing.SupportsFloat | typing.SupportsIndex,
        epsilon: typing.SupportsFloat | typing.SupportsIndex,
        weight_decay: typing.SupportsFloat | typing.SupportsIndex,
        decoupled: bool,
    ) -> None: ...
    def evaluate(
        self,
        packed: Packed,
        to_data: bool,
        first: typing.SupportsInt | typing.SupportsIndex,
        last: typing.SupportsInt | typing.SupportsIndex,
        x: numpy.ndarray,
        index: typing.Any,
        context: typing.Any,
        thetas: typing.Any,
        base: bool,
        out: typing.Any,
        log_det: typing.Any,
    ) -> None: ...
    def latents(
        self,
        packed: Packed,
        seed: typing.SupportsInt | typing.SupportsIndex,
        context_row: typing.SupportsInt | typing.SupportsIndex,
        first_draw: typing.SupportsInt | typing.SupportsIndex,
        context: typing.Any,
        components: typing.Any,
        out: numpy.ndarray,
        log_weight: typing.Any,
    ) -> None: ...
    def latents_vjp(
        self,
        packed: Packed,
        seed: typing.SupportsInt | typing.SupportsIndex,
        context_row: typing.SupportsInt | typing.SupportsIndex,
        first_draw: typing.SupportsInt | typing.SupportsIndex,
        context: typing.Any,
        components: typing.Any,
        d_out: numpy.ndarray,
        d_log_weight: typing.Any,
        d_params: typing.Any,
    ) -> None: ...
    def loss_and_grad(
        self, packed: Packed, x: numpy.ndarray, context: typing.Any, weight: typing.Any, d_params: typing.Any
    ) -> tuple[float, float]: ...
    def pack(self, params: typing.Any, buffers: typing.Any) -> Packed: ...
    def sample(
        self,
        packed: Packed,
        seed: typing.SupportsInt | typing.SupportsIndex,
        context_row: typing.SupportsInt | typing.SupportsIndex,
        first_draw: typing.SupportsInt | typing.SupportsIndex,
        context: typing.Any,
        out: numpy.ndarray,
        log_prob: typing.Any,
    ) -> None: ...
    def vjp(
        self,
        packed: Packed,
        to_data: bool,
        first: typing.SupportsInt | typing.SupportsIndex,
        last: typing.SupportsInt | typing.SupportsIndex,
        x: numpy.ndarray,
        context: typing.Any,
        thetas: typing.Any,
        base: bool,
        d_out: typing.Any,
        d_log_det: typing.Any,
        log_det: typing.Any,
        d_x: typing.Any,
        d_params: typing.Any,
        d_context: typing.Any,
        d_thetas: typing.Any,
    ) -> None: ...
    def with_context(self, packed: Packed, context: typing.Any) -> Packed: ...
    @property
    def dim(self) -> int: ...
    @property
    def externals(self) -> list[int]: ...
    @property
    def flops(self) -> float: ...
    @property
    def n_buffers(self) -> int: ...
    @property
    def n_params(self) -> int: ...
    @property
    def recompute(self) -> int: ...
    @recompute.setter
    def recompute(self, arg1: typing.SupportsInt | typing.SupportsIndex) -> None: ...

class Mixture:
    def __init__(
        self,
        engines: collections.abc.Sequence[Engine],
        packed: collections.abc.Sequence[Packed],
        weights: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
        log_weights: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    ) -> None: ...
    def evaluate(
        self, x: numpy.ndarray, context: typing.Any, log_prob: typing.Any, each: typing.Any, shares: typing.Any
    ) -> None: ...
    def sample(
        self,
        seed: typing.SupportsInt | typing.SupportsIndex,
        context_row: typing.SupportsInt | typing.SupportsIndex,
        first_draw: typing.SupportsInt | typing.SupportsIndex,
        context: typing.Any,
        out: numpy.ndarray,
    ) -> None: ...

class Trainer:
    def __init__(
        self,
        engine: Engine,
        params: typing.Any,
        buffers: typing.Any,
        beta1: typing.SupportsFloat | typing.SupportsIndex,
        beta2: typing.SupportsFloat | typing.SupportsIndex,
        epsilon: typing.SupportsFloat | typing.SupportsIndex,
        weight_decay: typing.SupportsFloat | typing.SupportsIndex,
        decoupled: bool,
        clip_norm: typing.SupportsFloat | typing.SupportsIndex,
        frozen: typing.Any = None,
    ) -> None: ...
    def finish(
        self,
        gradient: typing.Any,
        loss: typing.SupportsFloat | typing.SupportsIndex,
        weight: typing.SupportsFloat | typing.SupportsIndex,
        rows: typing.SupportsInt | typing.SupportsIndex,
        weight_scale: typing.SupportsFloat | typing.SupportsIndex,
        learning_rate: typing.SupportsFloat | typing.SupportsIndex,
        told: typing.Any,
    ) -> bool: ...
    def get_params(self, out: typing.Any) -> None: ...
    def get_state(self, m: typing.Any, v: typing.Any) -> int: ...
    def packed(self) -> Packed: ...
    def part(
        self,
        x: numpy.ndarray,
        context: typing.Any,
        weight: typing.Any,
        weight_exponent: typing.SupportsInt | typing.SupportsIndex,
        index: typing.Any,
        batch_size: typing.SupportsInt | typing.SupportsIndex,
        first: typing.SupportsInt | typing.SupportsIndex,
        last: typing.SupportsInt | typing.SupportsIndex,
        nodes: typing.Any,
        losses: typing.Any,
        weights: typing.Any,
    ) -> int: ...
    def run(
        self,
        x: numpy.ndarray,
        context: typing.Any,
        weight: typing.Any,
        weight_exponent: typing.SupportsInt | typing.SupportsIndex,
        weight_scale: typing.SupportsFloat | typing.SupportsIndex,
        seed: typing.SupportsInt | typing.SupportsIndex,
        epoch: typing.SupportsInt | typing.SupportsIndex,
        n_train: typing.SupportsInt | typing.SupportsIndex,
        first_step: typing.SupportsInt | typing.SupportsIndex,
        batch_size: typing.SupportsInt | typing.SupportsIndex,
        learning_rates: typing.Any,
        losses: typing.Any,
        norms: typing.Any,
    ) -> int: ...
    def set_params(self, params: typing.Any) -> None: ...
    def set_state(self, m: typing.Any, v: typing.Any, step: typing.SupportsInt | typing.SupportsIndex) -> None: ...
    @property
    def n_gradient(self) -> int: ...
    @property
    def step(self) -> int: ...

def check_table(table: numpy.ndarray) -> None:
    """
    Raises ValueError if this is no valid plan table. Does not ask whether the engine can compute it.
    """

def isa() -> str:
    """
    The instruction set in use.
    """

def isas() -> list[str]:
    """
    The instruction sets that can be used here, best first.
    """

def num_threads() -> int: ...
def row_order(
    seed: typing.SupportsInt | typing.SupportsIndex,
    epoch: typing.SupportsInt | typing.SupportsIndex,
    n: typing.SupportsInt | typing.SupportsIndex,
    positions: typing.Any,
    out: numpy.ndarray,
) -> None: ...
def set_local_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None: ...
def set_num_threads(n: typing.SupportsInt | typing.SupportsIndex) -> None: ...
def slices(rows: typing.SupportsInt | typing.SupportsIndex) -> list[int]: ...
def transform_names() -> list[str]:
    """
    Names of the transforms, in the order of their codes.
    """

def usable() -> str:
    """
    Why this processor cannot run the extension; empty if it can.
    """

name: str = "cpp"
version: str = "0.2.0"
