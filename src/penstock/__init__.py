"""penstock: normalizing flows as a compiled core. NumPy arrays go in and come out.

Importing costs little more than NumPy: the backend, training and all optional packages are imported at first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from penstock import ops
from penstock._backend import num_threads, set_num_threads, threads
from penstock._device_arrays import DeviceArray
from penstock._versions import show_versions
from penstock._warn import (
    DataWarning,
    DiscreteWarning,
    ModelWarning,
    OutlierWarning,
    OverfitWarning,
    PenstockWarning,
    RefitWarning,
    RepeatedRowsWarning,
    TargetWarning,
    TrainingWarning,
)
from penstock.base import GaussianMixture, Normal, Product, StandardNormal, StudentT, Uniform
from penstock.conditionals import Conditional
from penstock.conditioners import MLP
from penstock.ensemble import Ensemble
from penstock.flow import Flow, TrainingState
from penstock.given import Given
from penstock.groups import Ordered, Simplex, ordered, simplex
from penstock.histories import EnsembleHistory
from penstock.history import History
from penstock.layers import ActNorm, Autoregressive, Coupling, Elementwise, LULinear, Permutation
from penstock.marginals import Marginal
from penstock.models import from_bytes, load, save
from penstock.montecarlo import importance
from penstock.recipes import glow, iaf, maf, nice, nsf, nsf_ar, realnvp
from penstock.spec import FlowSpec
from penstock.support import Interval, Periodic, Real, interval, periodic
from penstock.transforms import Additive, Affine, BoxRationalQuadratic, CircularRationalQuadratic, RationalQuadratic
from penstock.verbs import key

if TYPE_CHECKING:
    from penstock.diagnostics.page import report
    from penstock.files.model import FileFormatError
    from penstock.infer import infer_support
    from penstock.sbi import nle, npe
    from penstock.selection import select
    from penstock.training.diagnosis import TrainingError
    from penstock.training.optim import Adam, AdamW

    __version__: str

__all__ = [
    "MLP",
    "ActNorm",
    "Adam",
    "AdamW",
    "Additive",
    "Affine",
    "Autoregressive",
    "BoxRationalQuadratic",
    "CircularRationalQuadratic",
    "Conditional",
    "Coupling",
    "DataWarning",
    "DeviceArray",
    "DiscreteWarning",
    "Elementwise",
    "Ensemble",
    "EnsembleHistory",
    "FileFormatError",
    "Flow",
    "FlowSpec",
    "GaussianMixture",
    "Given",
    "History",
    "Interval",
    "LULinear",
    "Marginal",
    "ModelWarning",
    "Normal",
    "Ordered",
    "OutlierWarning",
    "OverfitWarning",
    "PenstockWarning",
    "Periodic",
    "Permutation",
    "Product",
    "RationalQuadratic",
    "Real",
    "RefitWarning",
    "RepeatedRowsWarning",
    "Simplex",
    "StandardNormal",
    "StudentT",
    "TargetWarning",
    "TrainingError",
    "TrainingState",
    "TrainingWarning",
    "Uniform",
    "__version__",
    "from_bytes",
    "glow",
    "iaf",
    "importance",
    "infer_support",
    "interval",
    "key",
    "load",
    "maf",
    "nice",
    "nle",
    "npe",
    "nsf",
    "nsf_ar",
    "num_threads",
    "ops",
    "ordered",
    "periodic",
    "realnvp",
    "report",
    "save",
    "select",
    "set_num_threads",
    "show_versions",
    "simplex",
    "threads",
]

_LAZY = {
    "Adam": "penstock.training.optim",
    "AdamW": "penstock.training.optim",
    "FileFormatError": "penstock.files.model",
    "TrainingError": "penstock.training.diagnosis",
    "infer_support": "penstock.infer",
    "nle": "penstock.sbi",
    "npe": "penstock.sbi",
    "report": "penstock.diagnostics.page",
    "select": "penstock.selection",
}
# Modules that are imported when somebody asks for them.
_MODULES = ("cli", "dask", "demo", "diagnostics", "sbi", "training")


def __getattr__(name: str) -> Any:
    """Names that are looked up at first use."""
    if name == "__version__":
        from penstock._backend import package_version

        # A source tree that was never installed has no version of its own.
        value: Any = package_version() or "0+unknown"
    elif name in _LAZY or name in _MODULES:
        from importlib import import_module

        value = getattr(import_module(_LAZY[name]), name) if name in _LAZY else import_module(f"penstock.{name}")
    else:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
