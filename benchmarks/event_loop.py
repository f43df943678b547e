"""Events a second of examples/embed/cpp_event_loop, beside the same loop in Python: one row drawn, its density, its weight.

python benchmarks/event_loop.py --program build/event_loop --model model.safetensors --peer-python-zuko .venv-torch/bin/python
    --peer-python-nflows .venv-torch/bin/python

Loops take turns. Peers are flows of the same sizes: six couplings of two hidden layers of 64 units, eight bins, float32. They are
not trained, which does not change how long an event takes. Python's penstock has the model of the program.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

DIM, LAYERS, HIDDEN, BINS = 6, 6, (64, 64), 8
Event = Callable[[int], tuple[Sequence[float], float]]  # a row and the logarithm of its density


def density(x: Sequence[float]) -> float:
    """That of event_loop.cpp."""
    product = 1.0
    for i in range(0, DIM, 2):
        product *= 1 + 0.9 * math.cos(2 * math.pi * (x[i] + x[i + 1]))
    return product


def penstock_(model: str) -> Event:
    """The model of the program."""
    import penstock as ps

    flow = ps.load(model)
    ps.set_num_threads(1)
    key = ps.key(0)

    def event(number: int) -> tuple[Sequence[float], float]:
        x, log_q = flow.sample_and_log_prob(1, key=key, first=number)
        return x[0].tolist(), float(log_q[0])

    return event


def zuko_(model: str) -> Event:
    """Couplings of zuko, on the unit cube by a logistic map of its box, which costs next to nothing beside them."""
    import torch
    import zuko

    torch.set_num_threads(1)
    torch.manual_seed(0)
    flow = zuko.flows.NSF(DIM, transforms=LAYERS, bins=BINS, hidden_features=HIDDEN, passes=2).eval()
    distribution = flow()

    @torch.no_grad()
    def event(number: int) -> tuple[Sequence[float], float]:
        z, log_q = distribution.rsample_and_log_prob((1,))
        return torch.sigmoid(z[0]).tolist(), float(log_q[0])

    return event


def nflows_(model: str) -> Event:
    """Couplings of nflows, likewise."""
    import torch
    from nflows.distributions.normal import StandardNormal
    from nflows.flows.base import Flow
    from nflows.nn.nets import ResidualNet
    from nflows.transforms.base import CompositeTransform
    from nflows.transforms.coupling import PiecewiseRationalQuadraticCouplingTransform
    from nflows.utils.torchutils import create_alternating_binary_mask

    def network(n_in: int, n_out: int) -> Any:
        return ResidualNet(n_in, n_out, hidden_features=HIDDEN[0], num_blocks=1)  # of two layers

    torch.set_num_threads(1)
    torch.manual_seed(0)
    layers = [
        PiecewiseRationalQuadraticCouplingTransform(
            create_alternating_binary_mask(DIM, even=bool(i % 2)),
            network,
            num_bins=BINS,
            tails="linear",
            tail_bound=5.0,
        )
        for i in range(LAYERS)
    ]
    flow = Flow(CompositeTransform(layers), StandardNormal([DIM])).eval()

    @torch.no_grad()
    def event(number: int) -> tuple[Sequence[float], float]:
        z, log_q = flow.sample_and_log_prob(1)
        return torch.sigmoid(z[0]).tolist(), float(log_q[0])

    return event


LOOPS = {"penstock": penstock_, "zuko": zuko_, "nflows": nflows_}


def microseconds(event: Event, events: int) -> float:
    """Of one event, warm."""
    total = sum(density(event(i)[0]) for i in range(20))
    start = time.perf_counter()
    for i in range(events):
        x, log_q = event(i)
        total += density(x) / math.exp(log_q)
    return (time.perf_counter() - start) / events * 1e6


def asked(command: list[str]) -> float:
    """What a loop prints last."""
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(printed.split()[-1])


def main() -> None:
    """Time them in turns, and print medians; or, asked for a loop, be it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    parser.add_argument("--program")
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer-python-zuko")
    parser.add_argument("--peer-python-nflows")
    parser.add_argument(
        "--events", type=int, default=200_000, help="of the program; the loops in Python do a hundredth"
    )
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    few = str(max(arguments.events // 100, 50))
    if arguments.loop:
        print(microseconds(LOOPS[arguments.loop](arguments.model), arguments.events))
        return
    here = [str(Path(__file__).resolve()), "--model", arguments.model, "--events", few, "--loop"]
    commands = {"C++": [arguments.program, arguments.model, str(arguments.events)]}
    pythons = {"penstock": sys.executable, "zuko": arguments.peer_python_zuko, "nflows": arguments.peer_python_nflows}
    commands |= {name: [python, *here, name] for name, python in pythons.items() if python}
    readings: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.rounds):
        for name, command in commands.items():
            readings[name].append(asked(command))
    first = statistics.median(readings["C++"])
    for name, times in readings.items():
        middle = statistics.median(times)
        label = name if name == "C++" else f"{name}, Python"
        print(
            f"{label:<17} {middle:>9.2f} us an event, {1e6 / middle:>9.0f} a second, {middle / first:>7.1f} times as long"
        )
    print(json.dumps(readings))


if __name__ == "__main__":
    main()
