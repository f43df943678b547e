"""A conditional flow for the subgrid terms of model.f90, trained on synthetic data whose law is known.

python train.py [--epochs N] MODEL.safetensors

Given the temperature T of a cell and its moisture m, with g a standardised gamma variable of shape 4 and e a normal one:

    heating  = -0.1 T + 0.2 m + s(m) g          s(m) = 0.2 + 0.3 m
    wetting  = 0.5 s(m) g + 0.2 e
"""

from __future__ import annotations

import argparse

import numpy as np

import penstock as ps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--epochs", type=int, default=15)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    n = 200_000
    moisture = rng.uniform(0, 1, n)
    temperature = rng.normal(2 / 3 * moisture, 1.2)  # wider than what the model visits
    s = 0.2 + 0.3 * moisture
    g = (rng.gamma(4, size=n) - 4) / 2
    terms = {
        "heating": -0.1 * temperature + 0.2 * moisture + s * g,
        "wetting": 0.5 * s * g + 0.2 * rng.normal(size=n),
    }
    context = {"temperature": temperature, "moisture": moisture}
    flow = ps.nsf_ar(2, context_dim=2, layers=2, rng=0)
    flow.fit(terms, context, epochs=options.epochs, batch_size=512, rng=0, progress=False)
    flow.save(options.model)


if __name__ == "__main__":
    main()
