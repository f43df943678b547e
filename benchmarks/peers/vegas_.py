"""vegas, and plain sampling, on the integrand of examples/embed/cpp_integrator: a line for a run, as that program prints.

python vegas_.py plain|vegas CALLS SEED [WARM MEASURED]

WARM iterations adapt and are left out, MEASURED ones count; each has its share of the calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Of integrand.hpp: share, centre, v and width of each peak.
PEAKS = [
    (0.6, [0.38, 0.62, 0.35, 0.60, 0.40, 0.55], [1, 2, -1, 1, -2, 1], [0.02, 0.03, 0.04, 0.05, 0.06, 0.08]),
    (0.4, [0.62, 0.40, 0.63, 0.38, 0.65, 0.42], [2, -1, 1, 1, 1, -2], [0.08, 0.06, 0.04, 0.04, 0.03, 0.02]),
]


def integrand(x: Array) -> Array:
    """That of integrand.hpp, for each row."""
    total = np.zeros(len(x))
    for share, centre, v, width in PEAKS:
        normal, scale = np.array(v, float), np.array(width)
        axes = np.eye(len(normal)) - 2 * np.outer(normal, normal) / (normal @ normal)
        u = (x - np.array(centre)) @ axes / scale
        total += share * np.exp(-0.5 * (u**2).sum(axis=1)) / np.prod(scale * np.sqrt(2 * np.pi))
    return total


class Counted:
    """A function of rows that counts them."""

    def __init__(self, function: Callable[[Array], Array]) -> None:
        self.function, self.calls = function, 0

    def __call__(self, x: Array) -> Array:
        self.calls += len(x)
        return self.function(np.asarray(x))


def plain(f: Counted, calls: int, seed: int) -> tuple[float, float, float]:
    """Mean and error of uniform points, and no chi^2."""
    rng = np.random.default_rng(seed)
    values = np.concatenate([f(rng.random((min(100_000, calls - i), 6))) for i in range(0, calls, 100_000)])
    return float(values.mean()), float(values.std(ddof=1)) / calls**0.5, 0.0


def vegas(f: Counted, calls: int, seed: int, warm: int, measured: int) -> tuple[float, float, float]:
    """What vegas says, after so many iterations of adaptation."""
    import gvar
    import vegas as peer

    gvar.ranseed(seed)
    integrator, batch = peer.Integrator([[0, 1]] * 6), peer.lbatchintegrand(f)
    each = calls // (warm + measured)
    if warm:
        integrator(batch, nitn=warm, neval=each)
    result = integrator(batch, nitn=measured, neval=each)
    return float(result.mean), float(result.sdev), float(result.chi2)


def main() -> None:
    name, calls, seed, *iterations = sys.argv[1], *map(int, sys.argv[2:])
    f = Counted(integrand)
    mean, error, chi2 = plain(f, calls, seed) if name == "plain" else vegas(f, calls, seed, *iterations)
    print(f"integral {mean:.8f} error {error:.8f} chi2 {chi2:.2f} of {max(sum(iterations[1:]) - 1, 0)} calls {f.calls}")


if __name__ == "__main__":
    main()
