"""What ``penstock info`` prints: about this installation, or about a model file."""

from __future__ import annotations

import importlib.util
import os
import platform

import penstock as ps
from penstock import _backend
from penstock.files import members

OPTIONAL = (
    ("numba", "the pure-Python engine"),
    ("penstock_cuda13", "NVIDIA GPUs"),
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
    contents = members.load(path)
    several = contents.members if isinstance(contents, members.Several) else (contents,)
    if not any(own.training for own in several):
        return ""
    from penstock.training.checkpoint import progress_of

    told = []
    for k, own in enumerate(several):
        where = progress_of(own) if own.training else None
        words = "not begun" if where is None else f"in epoch {where[0]} of {where[1]}, {where[2]} steps done"
        if where is not None and not where[0]:
            words = "ended"
        told.append(words if len(several) == 1 else f"member {k} {words}")
    return f"training: not ended, {'; '.join(told)}; the call that began it goes on from here"


def model_file(path: str) -> int:
    """Print what the model in a file is."""
    flow = ps.load(path)
    print(f"{path}: {os.path.getsize(path)} bytes")
    several = isinstance(flow, ps.Ensemble)
    hidden = flow.n_params - flow.n_free
    masked = f" ({hidden} more numbers of the file are masked)" if hidden else ""
    number = f"ensemble of {flow.n} flows, " if isinstance(flow, ps.Ensemble) else ""
    print(f"{number}dim {flow.dim}, context_dim {flow.context_dim}, {flow.dtype}, {flow.n_free} parameters{masked}")
    unfinished = training_of(path)
    if unfinished:
        print(unfinished)
    print(f"fitted: {'yes' if flow.fitted else 'no (standardisation and ActNorm are not set)'}")
    for what, names in (("columns", flow._columns), ("context columns", flow._context_columns)):
        if names:
            print(f"{what}: {', '.join(names)}")
    if flow._lattice is not None:
        print(f"lattices (column, step): {flow._lattice.described(flow._columns)}")
    if flow._missing is not None:
        words = ", ".join(flow._missing) or "blank cells and NaN alone"
        print(f"missing values, as --missing of the fit said: {words}; score and sample take this, too")
    print(flow)
    for k, own in enumerate(flow.members if isinstance(flow, ps.Ensemble) else (flow,)):
        print(f"parameters of member {k}:" if several else "parameters:")
        for name, array in own.named_params().items():
            print(f"  {name:32s} {'x'.join(map(str, array.shape))}")
    return 0
