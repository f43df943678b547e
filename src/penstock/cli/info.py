"""What ``penstock info`` prints: about this installation, or about a model file."""

from __future__ import annotations

import importlib.util
import os
import platform

import penstock as ps
from penstock import _backend
from penstock.files import model

OPTIONAL = (
    ("numba", "the pure-Python engine"),
    ("matplotlib", "pictures of the demo, history.plot()"),
    ("sklearn", "mixture, kernel estimate and classifier of the demo"),
    ("pyarrow", "Parquet tables of the command line"),
    ("h5py", "HDF5 tables of the command line"),
    ("astropy", "FITS tables of the command line"),
)


def installation() -> int:
    """Print versions, backend, instruction sets, threads and optional packages."""
    print(f"penstock {ps.__version__}, Python {platform.python_version()}, {platform.machine()}")
    try:
        backend = _backend.choose()
        print(f"backend: {backend.name}" + (f" ({backend.reason})" if backend.reason else ""))
        if backend.name == "cpp":
            print(f"instruction sets: {', '.join(backend.isas())}; used: {backend.isa()}")
        elif backend.name == "numba":
            print("instruction sets: those that Numba finds")
        print(f"threads: {ps.num_threads()}")
    except (ImportError, RuntimeError, ValueError) as error:
        print(f"backend: none ({error})")
    for package, use in OPTIONAL:
        found = importlib.util.find_spec(package) is not None
        print(f"{package}: {'yes' if found else 'no'} ({use})")
    return 0


def training_of(path: str) -> str:
    """What a file says of a training that has not ended; empty if it holds none."""
    contents = model.load(path)
    if not contents.training:
        return ""
    from penstock.training.checkpoint import progress_of

    epoch, epochs, step = progress_of(contents)
    return f"training: not ended, in epoch {epoch} of {epochs}, {step} steps done; the call that began it goes on from here"


def model_file(path: str) -> int:
    """Print what the model in a file is."""
    flow = ps.load(path)
    print(f"{path}: {os.path.getsize(path)} bytes")
    hidden = flow.n_params - flow.n_free
    masked = f" ({hidden} more numbers of the file are masked)" if hidden else ""
    print(f"dim {flow.dim}, context_dim {flow.context_dim}, {flow.dtype}, {flow.n_free} parameters{masked}")
    unfinished = training_of(path)
    if unfinished:
        print(unfinished)
    print(f"fitted: {'yes' if flow.initialised else 'no (standardisation and ActNorm are not set)'}")
    for what, names in (("columns", flow._columns), ("context columns", flow._context_columns)):
        if names:
            print(f"{what}: {', '.join(names)}")
    if flow._lattice is not None:
        print(f"lattices (column, step): {flow._lattice.described(flow._columns)}")
    if flow._missing is not None:
        words = ", ".join(flow._missing) or "blank cells and NaN alone"
        print(f"missing values, as --missing of the fit said: {words}; score and sample take this, too")
    print(flow)
    print("parameters:")
    for name, array in flow.named_params().items():
        print(f"  {name:32s} {'x'.join(map(str, array.shape))}")
    return 0
