"""A density on the globe: where cities are.

python examples/cities.py [-o FOLDER]          needs matplotlib

Longitude is a circle, and the sine of the latitude an interval: equal steps of it are equal areas of the globe, so that the
density per unit of both is one per unit of area, and it ends at the poles. With ``ps.periodic(-180, 180)`` and ``(-1, 1)``
as supports nothing happens at the date line, and nothing lies beyond a pole.

The data are the positions of 47 966 cities (examples/data/README.md).
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]

HERE = Path(__file__).resolve().parent
UNIFORM = -math.log(360 * 2)  # log p of a city anywhere


def draw(flow: ps.Flow, cities: Array, path: Path) -> None:
    """The cities, and the learned density, in longitude and the sine of latitude: an equal-area map."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    longitude, height = np.linspace(-180, 180, 721), np.linspace(-0.999, 0.999, 401)
    grid = np.stack(np.meshgrid(longitude, height), axis=-1)
    density = flow.log_prob(grid) - UNIFORM
    figure, axes = plt.subplots(2, 1, figsize=(9, 8.5), sharex=True, layout="constrained")
    axes[0].plot(cities[:, 0], cities[:, 1], ",", color="k", alpha=0.5)
    axes[0].set_title(f"{len(cities)} cities")
    image = axes[1].imshow(
        density / math.log(10), origin="lower", extent=(-180, 180, -0.999, 0.999), aspect="auto", vmin=-3, vmax=2
    )
    axes[1].set_title("learned density")
    figure.colorbar(
        image, ax=axes[1], label="log10 of the density over that of the whole globe", location="bottom", shrink=0.6
    )
    degrees = (-60, -30, 0, 30, 60)
    for axis in axes:
        axis.set(
            ylim=(-1, 1), yticks=[math.sin(math.radians(d)) for d in degrees], yticklabels=[f"{d}°" for d in degrees]
        )
        axis.set(xlim=(-180, 180), xticks=range(-180, 181, 60), ylabel="latitude")
    axes[1].set_xlabel("longitude [degrees]")
    figure.savefig(path, dpi=130)


def main() -> None:
    """Train, compare with a flow on the line, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="folder of the picture")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the cities")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    with np.load(HERE / "data" / "cities.npz") as table:
        latitude, longitude = table["data"].astype(np.float64).T
    x = np.column_stack([longitude, np.sin(np.radians(latitude))])
    x = x[np.random.default_rng(0).permutation(len(x))]
    train, test = np.split(x, [int(0.9 * len(x))])

    flows = {}
    for name, support in (("on the globe", [ps.periodic(-180, 180), (-1, 1)]), ("on the line", None)):
        start = time.perf_counter()
        flows[name] = ps.nsf_ar(2, support=support, bins=16, rng=0).fit(train, epochs=given.epochs, rng=0)
        log_prob = flows[name].log_prob(test)
        drawn = flows[name].sample(100_000, rng=1)
        beyond = ((np.abs(drawn[:, 0]) > 180) | (np.abs(drawn[:, 1]) > 1)).mean()
        print(
            f"{name:12s} trained in {time.perf_counter() - start:3.0f} s; mean log p of {len(test)} cities "
            f"{log_prob.mean():.3f} ± {log_prob.std() / math.sqrt(len(test)):.3f}; draws off the map: {100 * beyond:.2f} %"
        )
    path = given.output / "cities.png"
    draw(flows["on the globe"], x, path)
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
