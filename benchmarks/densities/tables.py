"""The tables whose densities are learnt, from a folder of data; one protocol for all.

Rows are permuted by ``default_rng(0)`` and split 80/10/10 into training, validation and test rows; columns are
standardised by the training rows. Log-likelihoods are nats a row in those units. Columns that are angles are standardised
like the others, and ``circles`` says where their turns begin and end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def _galaxies(data: Path) -> Array:
    x = np.load(data / "galaxies_dc2/dc2_galaxies.npz")["data"][:, :7]  # redshift and six magnitudes
    return x[(x < 90).all(axis=1)]  # 99 marks a non-detection


def _pulsars(data: Path) -> Array:
    return np.load(data / "pulsars_htru2/htru2.npz")["data"][:, :8]


def _gw170817(data: Path) -> Array:
    return np.load(data / "gw170817/xp_nrtv3.npz")["samples"]


def _power50k(data: Path) -> Array:
    return np.load(data / "uci_power/power.npz")["train"][:50_000]


def _torsions(data: Path) -> Array:
    return np.load(data / "protein_torsions/gln.npz")["data"][:, :5]


def _sky(data: Path) -> Array:
    return np.load(data / "sky_sdss/sdss.npz")["data"]


def _protein(data: Path) -> Array:
    return np.load(data / "uci_tables/protein.npz")["data"]


def _miniboone(data: Path) -> Array:
    parts = ("val.npy", "train_head1523_std_approx.npy")
    return np.concatenate([np.load(data / "uci_miniboone" / part) for part in parts])


def _cms(data: Path) -> Array:
    table = np.load(data / "cms_zmumu/zmumu.npz")
    names = [f"{name}{muon}" for muon in (1, 2) for name in ("pt", "eta", "phi", "dxy")]
    return table["data"][:, [list(table["columns"]).index(name) for name in names]]


def _cities(data: Path) -> Array:
    return np.load(data / "cities/cities.npz")["data"][:, 1:3]  # latitude and longitude


# Models are compared on these; nothing is chosen on them.
PROTOCOL = {
    "galaxies": _galaxies,
    "pulsars": _pulsars,
    "gw170817": _gw170817,
    "power50k": _power50k,
    "torsions": _torsions,
}
# Defaults are chosen on these, by their validation rows.
TUNING = {"sky": _sky, "protein": _protein, "miniboone": _miniboone, "cms": _cms, "cities": _cities}
TABLES = {**PROTOCOL, **TUNING}
# Columns that are angles, and the turn in which they are recorded. Few rows have chi1 or chi2 near 0, but a seam at 180 would
# cut through rotamers, to the disadvantage of flows whose networks see where it is.
CIRCLES = {
    "torsions": {0: (-180.0, 180.0), 1: (-180.0, 180.0), 2: (0.0, 360.0), 3: (0.0, 360.0), 4: (-180.0, 180.0)},
}


def load(name: str, data: Path) -> tuple[Array, Array, Array]:
    """Training, validation and test rows in float64."""
    parts = _parts(name, data)
    mean, std = _units(parts)
    train, validation, test = ((part - mean) / std for part in parts)
    return train, validation, test


def circles(name: str, data: Path) -> Array:
    """Where the turn of each column begins and ends in the units of ``load``, (columns, 2); NaN where it is no angle."""
    mean, std = _units(_parts(name, data))
    ends = np.full((len(mean), 2), np.nan)
    for column, turn in CIRCLES.get(name, {}).items():
        ends[column] = (np.array(turn) - mean[column]) / std[column]
    return ends


def _parts(name: str, data: Path) -> list[Array]:
    x = TABLES[name](data).astype(np.float64)
    return list(raw(x[np.isfinite(x).all(axis=1)]))


def split(x: Array) -> tuple[Array, Array, Array]:
    """Training, validation and test rows of a table, in units of the training rows."""
    train, validation, test = raw(x)
    mean, std = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / std, (validation - mean) / std, (test - mean) / std


def raw(x: Array) -> tuple[Array, Array, Array]:
    """The same rows in the units of the table."""
    x = x[np.random.default_rng(0).permutation(len(x))]
    train, validation, test = np.split(x, [int(0.8 * len(x)), int(0.9 * len(x))])
    return train, validation, test


def _units(parts: list[Array]) -> tuple[Array, Array]:
    return parts[0].mean(axis=0), parts[0].std(axis=0)
