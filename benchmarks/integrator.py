"""The integrator of examples/embed/cpp_integrator beside vegas and plain sampling, at the same number of calls of the integrand.

python benchmarks/integrator.py --program build/integrate --model model.safetensors --peer-python-vegas .venv-vegas/bin/python

All calls count, those that only adapt included; where a method took fewer or more than it was allowed, its error is scaled by the
square root of their ratio. The integral is 1; errors and deviations are root mean squares over seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

PEER = Path(__file__).parent / "peers" / "vegas_.py"
# Iterations of vegas that adapt and that count: the one with the least error is compared.
ARRANGEMENTS = [(5, 5), (10, 10), (5, 15), (20, 20), (15, 5)]


def told(command: list[str]) -> tuple[float, float, int, float]:
    """Integral, error and calls of the last line that a program prints, and seconds of all."""
    start = time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = printed.splitlines()[-1].split()
    value = dict(zip(words, words[1:], strict=False))
    return float(value["integral"]), float(value["error"]), int(value["calls"]), time.perf_counter() - start


def measured(name: str, commands: list[list[str]], allowed: int) -> float:
    """Run a method with each seed, print a line, and give its error at the calls that are allowed."""
    found = [told(command) for command in commands]
    n = len(found)
    error = (sum(e**2 for _, e, _, _ in found) / n) ** 0.5
    deviation = (sum((m - 1) ** 2 for m, _, _, _ in found) / n) ** 0.5
    pulls = " ".join(f"{(m - 1) / e:+.1f}" for m, e, _, _ in found)
    calls, seconds = sum(c for _, _, c, _ in found) / n, sum(s for *_, s in found) / n
    print(f"{name:<16} {error:>10.2e} {deviation:>10.2e} {calls:>10.0f} {seconds:>8.1f}   {pulls}", flush=True)
    return float(error * (calls / allowed) ** 0.5)


def main() -> None:
    """Run all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--peer-python-vegas", required=True)
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    calls, seeds = str(arguments.calls), [str(seed) for seed in range(1, arguments.seeds + 1)]
    peer = [arguments.peer_python_vegas, str(PEER)]
    print(f"{'':<16} {'error':>10} {'deviation':>10} {'calls':>10} {'seconds':>8}   (value - 1) / error")
    commands = {
        "penstock": [[arguments.program, arguments.model, calls, s, str(arguments.threads)] for s in seeds],
        "plain sampling": [[*peer, "plain", calls, s] for s in seeds],
    }
    for warm, counted in ARRANGEMENTS:
        commands[f"vegas, {warm} + {counted}"] = [[*peer, "vegas", calls, s, str(warm), str(counted)] for s in seeds]
    own, plain, *errors = [measured(name, runs, arguments.calls) for name, runs in commands.items()]
    print(f"error beside the best of vegas: {own / min(errors):.3f}, beside plain sampling: {own / plain:.4f}")


if __name__ == "__main__":
    main()
