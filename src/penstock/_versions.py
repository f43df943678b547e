"""What a report of a bug needs: versions, backend, instruction set, threads and settings of this installation."""

from __future__ import annotations

import os
import platform

from penstock import _backend

PACKAGES = (
    "numpy", "narwhals", "tqdm", "numba", "penstock-cuda13", "pandas", "polars", "pyarrow", "matplotlib", "scikit-learn", "h5py",
    "astropy",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Names and values; no package is imported for them."""
    from importlib import metadata  # dear, and nobody else needs it

    found = {
        "penstock": _backend.package_version() or "not installed",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
    }
    try:
        backend = _backend.choose()
        found["backend"] = backend.name + (f" ({backend.reason})" if backend.reason else "")
        if backend.name == "cpp":
            found["instruction sets"] = f"{', '.join(backend.isas())}; used: {backend.isa()}"
        found["threads"] = str(_backend.num_threads())
    except (ImportError, RuntimeError, ValueError) as error:
        found["backend"] = f"none ({error})"
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found | {name: value for name, value in sorted(os.environ.items()) if name.startswith("PENSTOCK_")}


def show_versions() -> None:
    """Print the versions of penstock and of what it uses, its backend, instruction set, threads and settings.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.show_versions()
    penstock  ...
    Python    ...
    """
    found = versions()
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value}")
