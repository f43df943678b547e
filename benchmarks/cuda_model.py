"""What GPUs may come to, on paper: floors by arithmetic and by instructions, from data sheets and ``cuda_static.json``, which is
read from machine code. Nothing here was measured on a GPU, and every table says so. Times of the processor are those of
``results/latest.json``, which were.

    python benchmarks/cuda_model.py            # Markdown, for docs/gpu.md
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROWS = 1_000_000
WARPS = 4  # of a block, each with a strip of outputs: cpp/cuda/linear.hpp
USED = (0.80, 0.67)  # share of issue slots that is taken to be used, at best and at worst
BLOCK_ROWS = 128  # of a tile, which a block walks: few rows take as long as all of one
LATENCY = (8e-6, 20e-6)  # a call with arrays of the device beside its kernel, seconds
LATENCY_NUMPY = (30e-6, 80e-6)  # one with arrays of the host: two copies and a wait more


@dataclass(frozen=True)
class Card:
    """Of data sheets: multiprocessors, lanes of each, boost clock, float64 over float32; and what PCIe gives, bytes a second."""

    name: str
    multiprocessors: int
    lanes: int
    gigahertz: float
    double: float
    pcie: float

    @property
    def products(self) -> float:
        """Fused products a second, in float32."""
        return self.multiprocessors * self.lanes * self.gigahertz * 1e9

    @property
    def issues(self) -> float:
        """Instructions a second times 32 threads: four schedulers, one each in a clock."""
        return self.multiprocessors * 128 * self.gigahertz * 1e9


CARDS = (
    Card("H100 SXM", 132, 128, 1.98, 1 / 2, 50e9),
    Card("A100 SXM", 108, 64, 1.41, 1 / 2, 24e9),
    Card("RTX 4090", 128, 128, 2.52, 1 / 64, 24e9),
    Card("L40S", 142, 128, 2.52, 1 / 64, 24e9),
)


@dataclass(frozen=True)
class Flow:
    """``layers`` of a network: inputs, hidden width twice, outputs. ``kernels``: the variant that a device runs."""

    title: str
    name: str
    dim: int
    layers: int
    network: tuple[int, ...]
    kernels: str
    group: str = "tasks"

    @property
    def products(self) -> int:
        """A row."""
        return self.layers * sum(a * b for a, b in zip(self.network, self.network[1:], strict=False))

    def issues(self, shares: dict[int, float]) -> float:
        """Instructions a row in loops that multiply, with outputs that only fill a strip: cpp/cuda/linear.hpp."""
        of_all = 0.0
        for n_in, n_out in zip(self.network, self.network[1:], strict=False):
            strip = 4 if n_out <= WARPS * 4 else 8 if n_out <= WARPS * 8 else 16
            padded = -(-n_out // (WARPS * strip)) * WARPS * strip
            of_all += n_in * padded / shares[strip]
        return self.layers * of_all


FLOWS = (
    Flow("affine D16, 8 × 64×64", "D16", 16, 8, (8, 64, 64, 16), "device_affine"),
    Flow("nsf D8, 5 × 64×64, 8 bins", "NSF8", 8, 5, (4, 64, 64, 92), "device_spline", "splines"),
    Flow("affine D64, 8 × 128×128", "D64", 64, 8, (32, 128, 128, 64), "device_affine"),
    Flow("affine D6, 10 × 256×256", "D6", 6, 10, (3, 256, 256, 6), "device_affine"),
)


def known(static: dict[str, Any]) -> list[Flow]:
    """Flows whose kernels the record has."""
    return [flow for flow in FLOWS if flow.kernels in static["kernels"]]


def shares(static: dict[str, Any], kernels: str, verb: str = "evaluate float32") -> dict[int, float]:
    """Of products among the instructions of loops, for each width of strips; loops within count once."""
    loops = static["kernels"][kernels][verb]["loops"]
    return {int(strip): loop["fma"] / loop["all_instructions"] for strip, loop in loops.items() if strip.isdigit()}


def milliseconds(seconds: float) -> str:
    """Two digits or three."""
    return f"{1e3 * seconds:.3g}"


def spread(low: float, high: float) -> str:
    """A range, in milliseconds."""
    return f"{milliseconds(low)}–{milliseconds(high)}"


def floors(card: Card, flow: Flow, static: dict[str, Any]) -> tuple[float, float, float]:
    """A row, in seconds: by products, by products in float64, by instructions."""
    by_products = flow.products / card.products
    by_issues = flow.issues(shares(static, flow.kernels)) / card.issues
    return by_products, by_products / card.double, max(by_products, by_issues)


def density_table(static: dict[str, Any]) -> str:
    """log_prob of a million rows."""
    lines = [
        "**Computed, not measured**: `log_prob` of 1e6 rows whose arrays lie on the device, milliseconds. *Products*: every "
        "weight once a row at the card's peak. *Instructions*: the loops that multiply as they were compiled, padding of outputs "
        "included; transforms, reading and writing are not in it. "
        f"*Expected*: that over {USED[0]:.0%} to {USED[1]:.0%} of issue slots.",
        "",
        "| flow | kflop a row | card | products | instructions | expected | products, float64 |",
        "|---|---|---|---|---|---|---|",
    ]
    for flow in known(static):
        for card in CARDS:
            single, double, issued = (ROWS * own for own in floors(card, flow, static))
            lines.append(
                f"| {flow.title} | {2 * flow.products / 1e3:.0f} | {card.name} | {milliseconds(single)} | {milliseconds(issued)} "
                f"| {spread(issued / USED[0], issued / USED[1])} | {milliseconds(double)} |"
            )
    return "\n".join(lines)


def transfer_table() -> str:
    """What NumPy arrays cost on their way."""
    lines = [
        "**Computed, not measured**: 1e6 rows of float32 from NumPy and one number a row back, milliseconds, by PCIe alone (16 "
        "lanes: generation 5 at 50 GB/s, generation 4 at 24 GB/s); copies within the host come on top.",
        "",
        "| flow | MB there and back | " + " | ".join(card.name for card in CARDS) + " |",
        "|---|---|" + "---|" * len(CARDS),
    ]
    for flow in FLOWS:
        size = ROWS * 4 * (flow.dim + 1)
        cells = " | ".join(milliseconds(size / card.pcie) for card in CARDS)
        lines.append(f"| {flow.title} | {size / 1e6:.0f} | {cells} |")
    return "\n".join(lines)


def occupancy_table(static: dict[str, Any]) -> str:
    """Blocks at once."""
    names = [card.name.replace(" SXM", "") for card in CARDS]
    lines = [
        "**Computed, not measured**: blocks of 128 threads on a multiprocessor at once, by registers and shared memory, and what "
        "a block takes of the latter. *: the room of its rows does not fit and lies in the device's memory.",
        "",
        "| flow, verb | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for flow, verbs in static["shared"].items():
        for verb, own in verbs.items():
            cells = [
                f"{card['blocks']}, {card['shared_bytes'] / 1024:.0f} KiB{'' if card['room_in_shared'] else ' *'}"
                for card in (own["cards"][name] for name in names)
            ]
            lines.append(f"| {flow}: {verb} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def pay_table(static: dict[str, Any], latest: dict[str, Any]) -> str:
    """From how many rows on."""
    machine = f"{latest['machine']['processor']}, {latest['threads']} threads"
    lines = [
        f"**Computed, not measured**, but for the processor ({machine}, of `benchmarks/results/latest.json`): rows of a call of "
        "`log_prob` from which on a GPU is ahead. Calls are taken to cost "
        f"{1e6 * LATENCY[0]:.0f}–{1e6 * LATENCY[1]:.0f} µs with arrays of the device and "
        f"{1e6 * LATENCY_NUMPY[0]:.0f}–{1e6 * LATENCY_NUMPY[1]:.0f} µs with NumPy's, "
        f"and one tile of {BLOCK_ROWS} rows by a block. "
        "*Times as fast* is for 1e6 rows; a processor with more cores divides it, and NumPy's copies within the host are not in "
        "it.",
        "",
        "| flow | processor, µs a row | card | rows, device arrays | rows, NumPy | times as fast, device arrays | NumPy |",
        "|---|---|---|---|---|---|---|",
    ]
    for flow in known(static):
        here = latest[flow.group][flow.name]["log_prob"]["penstock"]["median"] / 1e5
        for card in CARDS:
            issued = floors(card, flow, static)[2]
            fast, slow = issued / USED[0], issued / USED[1]
            tile = issued * card.multiprocessors * BLOCK_ROWS  # one block alone on its multiprocessor
            pcie = 4 * (flow.dim + 1) / card.pcie
            there, numpy = (fast, slow), (max(fast, pcie), max(slow, pcie))
            cells = []
            for latency in (LATENCY, LATENCY_NUMPY):
                need = [(t + tile / used) / here for t, used in zip(latency, USED, strict=True)]
                cells.append(f"{need[0]:.0f}–{need[1]:.0f}")
            cells += [f"{here / each[1]:.0f}–{here / each[0]:.0f}" for each in (there, numpy)]
            lines.append(f"| {flow.title} | {1e6 * here:.2f} | {card.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """All of it."""
    static = json.loads((HERE / "cuda_static.json").read_text())
    latest = json.loads((HERE / "results" / "latest.json").read_text())
    print(f"Machine code: nvcc {static['compiler']}, {static['architecture']}, also where another card is meant.\n")
    tables = density_table(static), occupancy_table(static), transfer_table(), pay_table(static, latest)
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
