"""What is timed: flows of three sizes, and the work done with them. Standard library only: every peer's worker reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flow:
    """A Real NVP: ``layers`` affine couplings of halves, in turns, each with a relu network of two hidden layers."""

    dim: int
    layers: int
    width: int
    recipe: str = "realnvp"

    @property
    def flops(self) -> int:
        """Floating-point operations a row: two for each weight."""
        half = self.dim // 2
        return 2 * self.layers * (half * self.width + self.width * self.width + self.width * 2 * half)


# One pass through the network in either direction, or nearly; penstock only.
AUTOREGRESSIVE = {"MAF64": Flow(64, 5, 128, "maf"), "NSF_AR8": Flow(8, 5, 64, "nsf_ar")}
# Spline flows of 8 bins beside those of other libraries. "net": what networks and all else cost without the splines, as
# the same networks in additive couplings of as many dimensions as there were numbers of theta. Without layers: what it
# costs to read so many dimensions, and the base.
SPLINES = {"NSF8": Flow(8, 5, 64, "nsf"), "NSF_AR8": AUTOREGRESSIVE["NSF_AR8"]}
SPLINES_DOUBLE = {"NSF8x6": Flow(8, 6, 64, "nsf_float64")}
WITHOUT_SPLINES = {
    "NET8": Flow(8, 5, 64, "net"),
    "NET8_rows": Flow(8, 0, 64, "net"),
    "NSF8_rows": Flow(8, 0, 64, "nsf"),
}
GLOW = {"glow16": Flow(16, 8, 64, "glow")}  # with ActNorm and LU in every step; penstock only
FLOWS = {"D16": Flow(16, 8, 64), "D64": Flow(64, 8, 128), "D6": Flow(6, 10, 256)}


@dataclass(frozen=True)
class Lu:
    """One linear layer ``W = P L U`` of ``dim`` dimensions by itself, over ``rows`` rows."""

    dim: int
    rows: int


LU_LAYERS = {"LU64": Lu(64, 100_000), "LU256": Lu(256, 20_000)}


@dataclass(frozen=True)
class Task:
    """One kind of work: ``rows`` at a call, ``inner`` calls (or training steps) between two readings of the clock."""

    verb: (
        str  # "log_prob", "sample", "step" (loss, gradient and Adam on a batch); "forward" and "inverse" of an LU layer
    )
    rows: int
    inner: int


TASKS = {
    "log_prob": Task("log_prob", 100_000, 1),
    "sample": Task("sample", 100_000, 1),
    "step_256": Task("step", 256, 200),
    "step_4096": Task("step", 4096, 25),
    "one_row": Task("log_prob", 1, 2000),
}
LU_TASKS = {"lu_forward": Task("forward", 0, 5), "lu_inverse": Task("inverse", 0, 5)}  # the layer says how many rows
