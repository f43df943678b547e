"""Chooser of the backend, once a flow, and of the number of threads.

It decides by what is installed, never by what fails.

A missing extension selects Numba, and so does a processor that cannot run it; the reason stays with the
choice. A broken or stale extension raises. ``PENSTOCK_BACKEND`` and ``PENSTOCK_ISA`` force. A GPU is used where it is named.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from penstock import _validate

NAMES = ("auto", "cpp", "numba", "cuda")
CUDA, DISTRIBUTION = "penstock_cuda13", "penstock-cuda13"
EMULATED = "penstock._cuda_emulated"  # the processor's imitation, for tests
EMULATE = "PENSTOCK_CUDA_EMULATE"
INSTALL = "install a wheel with the compiled core (pip install penstock), or Numba (pip install 'penstock[numba]')"


class Backend:
    """A backend and why it was chosen. Every name of the backend protocol is an attribute.

    Attributes
    ----------
    name : str
        ``"cpp"``, ``"numba"``, ``"cuda"`` or ``"cuda:1"``, or ``"none"`` where neither of the first two is installed.
    reason : str
        Why it was chosen over the compiled core; empty for the core itself.
    """

    def __init__(self, name: str, reason: str = "", module: ModuleType | None = None) -> None:
        self.name = name
        self.reason = reason
        self._module = module

    def load(self) -> Any:
        """The module behind the protocol, imported at the first computation."""
        if self._module is None:
            if self.name == "none":
                raise ImportError(f"penstock has nothing to compute with ({self.reason}): {INSTALL}")
            self._module = _import("penstock._numba")
        return self._module

    def isa(self) -> str:
        """The instruction set that it runs on."""
        return str(self.load().isa()) if self.name == "cpp" else self.name

    def described(self) -> str:
        """Name and instruction set, and why these."""
        if self.name != "cpp":
            return f"the {self.name} backend" + (f" ({self.reason})" if self.reason else "")
        forced = "PENSTOCK_ISA says so" if os.environ.get("PENSTOCK_ISA") else "the best that this processor has"
        return f"the cpp backend on {self.isa()} ({forced})"

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self.load(), attribute)

    def __repr__(self) -> str:
        isa = f" ({self.isa()})" if self.name == "cpp" else ""
        return f"{self.name}{isa}" + (f", because {self.reason}" if self.reason else "")


class CudaBackend(Backend):
    """A backend on a GPU, or on an emulated one.

    Attributes
    ----------
    device : int
        Its number.
    """

    def __init__(self, name: str, module: ModuleType, device: int) -> None:
        super().__init__(name, "", module)
        self.device = device
        self.Engine = self._engine

    def _engine(self, table: Any) -> Any:
        """An engine of that device: it belongs to the one that is in use where it is made."""
        module = self.load()
        before = module.device()
        module.set_device(self.device)
        try:
            return module.Engine(table)
        finally:
            module.set_device(before)

    def isa(self) -> str:
        """The name of the device."""
        return str(self.load().device_name(self.device))

    def described(self) -> str:
        """Name and device."""
        return f"the {self.name} backend on {self.isa()}"

    def __repr__(self) -> str:
        return f"{self.name} ({self.isa()})"


def choose(name: str = "auto") -> Backend:
    """The backend of that name; for ``"auto"`` the one that ``PENSTOCK_BACKEND`` names, or the best processor that can run here.

    Parameters
    ----------
    name : {"auto", "cpp", "numba", "cuda"}
        A name other than ``"auto"`` is a demand: if that backend cannot run, this raises. ``"cuda:1"`` is the second GPU.
    """
    source = "backend"
    family = _family(name, source)
    if name == "auto":
        source = "PENSTOCK_BACKEND"
        name = os.environ.get(source) or "auto"
        family = _family(name, source)
    demand = f"{source}={name}"
    if family == "cuda":
        return _cuda(name, f"{source}={name!r}" if source == "backend" else demand)
    if name == "numba":
        missing = _numba_missing()
        if missing:
            raise ImportError(f"{demand}: {missing}; pip install 'penstock[numba]'")
        return Backend("numba", "" if source == "backend" else demand)
    if not _installed("penstock._core"):
        if name == "cpp":
            raise ImportError(f"{demand}: the compiled extension penstock._core is not installed")
        return _without_core("the compiled extension is not installed")
    module = _core()
    reason = str(module.usable()) if hasattr(module, "usable") else ""
    if reason:
        if name == "cpp":
            raise ImportError(f"{demand}: {reason}")
        return _without_core(reason)
    forced = os.environ.get("PENSTOCK_ISA")
    if forced and module.isa() != forced:
        raise ValueError(f"PENSTOCK_ISA={forced}: not available here; this processor has: {', '.join(module.isas())}")
    return Backend("cpp", "", _import("penstock._core"))


def checked(name: str) -> str:
    """``name`` if it is that of a backend, whether or not it can run here."""
    _family(name, "backend")
    return name


def _family(name: Any, source: str) -> str:
    """The name without the number of a device."""
    family = name
    if isinstance(name, str) and name.startswith("cuda:"):
        number = name.removeprefix("cuda:")
        if not (number.isascii() and number.isdecimal()):
            raise ValueError(f"{source} must be 'cuda:' and the number of a device, counted from 0, got {name!r}")
        family = "cuda"
    return str(_validate.choice(family, NAMES, name=source))


def _cuda(name: str, demand: str) -> Backend:
    """That of a CUDA device, which can be used."""
    device = int(name.partition(":")[2] or 0)
    if os.environ.get(EMULATE) == "1":
        place = EMULATED
        if not _installed(place):
            raise ImportError(f"{demand}: {EMULATE}=1 asks for emulated devices, which this build has not")
    else:
        place = f"{CUDA}._cuda"
        if not _installed(CUDA):
            raise ImportError(f"{demand}: the module for NVIDIA GPUs is not installed; pip install {DISTRIBUTION}")
    module = importlib.import_module(place)
    _same_version(module, f"{demand}: {place} is of penstock", f"pip install {DISTRIBUTION}=={package_version()}")
    reason = str(module.unavailable(device))
    if reason:
        raise ImportError(f"{demand}: {reason}")
    return CudaBackend(f"cuda:{device}" if device else "cuda", _import(place), device)


def _without_core(reason: str) -> Backend:
    forced = os.environ.get("PENSTOCK_ISA")
    if forced:
        raise ValueError(f"PENSTOCK_ISA={forced}: instruction sets belong to the compiled core, but {reason}")
    missing = _numba_missing()
    return Backend("none", f"{reason}, and {missing}") if missing else Backend("numba", reason)


def _numba_missing() -> str:
    if not _installed("penstock._numba"):
        return "this build has no Numba backend"
    return "" if _installed("numba") else "Numba is not installed"


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _core() -> ModuleType:
    """The extension, refused if it was built from another version of the package."""
    module = importlib.import_module("penstock._core")
    _same_version(module, "the compiled extension is of penstock", "a stale build; install penstock again")
    return module


def _same_version(module: ModuleType, what: str, cure: str) -> None:
    version = package_version()
    if version and module.version != version:
        raise ImportError(f"{what} {module.version}, but the package is {version}: {cure}")


@cache
def package_version() -> str:
    """The version of the installed package, as pyproject.toml states it; empty when run from a source tree."""
    import importlib.metadata

    try:
        return importlib.metadata.version("penstock")
    except importlib.metadata.PackageNotFoundError:
        return ""


# --- threads ----------------------------------------------------------------------------------------------------

_modules: dict[str, ModuleType] = {}  # loaded backends; each is told about every change
_threads: int | None = None  # of the process, once known
_threads_why = ""
_local = threading.local()  # .n: what ``threads`` set for the calling thread
_lock = threading.Lock()


def _after_fork() -> None:
    """A lock that another thread held at the fork would never be released in the child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _import(name: str) -> ModuleType:
    module = importlib.import_module(name)
    with _lock:
        if name not in _modules:
            _modules[name] = module
            _apply()
            if len(_modules) == 1:
                _register_threadpoolctl(name)
    return module


def _apply() -> None:
    """Tell every loaded backend: of the process, and of the calling thread, whose number leaves the others' alone."""
    local = getattr(_local, "n", 0)
    for module in _modules.values():
        module.set_num_threads(_process_threads())
        module.set_local_num_threads(local)


def _process_threads() -> int:
    global _threads, _threads_why
    if _threads is None:
        _threads, _threads_why = _default_threads()
    return _threads


def num_threads() -> int:
    """How many threads a call from this Python thread may use.

    Returns
    -------
    int

    Examples
    --------
    >>> import penstock as ps
    >>> ps.num_threads() >= 1
    True
    """
    return getattr(_local, "n", 0) or _process_threads()


def threads_and_why() -> str:
    """How many threads a call from this Python thread may use, and why so many."""
    number, own = num_threads(), getattr(_local, "n", 0)
    return f"{number} thread{'' if number == 1 else 's'} ({'penstock.threads' if own else _threads_why})"


def set_num_threads(n: int) -> None:
    """Let penstock use ``n`` threads in this process. Results do not depend on it, bit for bit.

    Parameters
    ----------
    n : int
        At least 1, the calling thread included.

    Examples
    --------
    >>> import penstock as ps
    >>> before = ps.num_threads()
    >>> ps.set_num_threads(1)
    >>> ps.num_threads()
    1
    >>> ps.set_num_threads(before)
    """
    global _threads, _threads_why
    number = _validate.positive_int(n, name="n")
    with _lock:
        _threads, _threads_why = number, "penstock.set_num_threads"
        _apply()


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Within the block, calls from this Python thread use ``n`` threads; other Python threads keep theirs.

    Parameters
    ----------
    n : int
        At least 1, the calling thread included.

    Examples
    --------
    >>> import penstock as ps
    >>> with ps.threads(1):
    ...     ps.num_threads()
    1
    """
    number = _validate.positive_int(n, name="n")
    before = getattr(_local, "n", 0)
    _set_local(number)
    try:
        yield
    finally:
        _set_local(before)


def _set_local(n: int) -> None:
    with _lock:
        _local.n = n
        _apply()


def default_threads() -> int:
    """``PENSTOCK_NUM_THREADS``, else ``OMP_NUM_THREADS``, else the processors that this process may use."""
    return _default_threads()[0]


def _default_threads() -> tuple[int, str]:
    """The default, and where it comes from."""
    own = os.environ.get("PENSTOCK_NUM_THREADS")
    if own:
        if not own.strip().isdecimal() or int(own) < 1:
            raise ValueError(f"PENSTOCK_NUM_THREADS must be an integer of at least 1, got {own!r}")
        return int(own), "PENSTOCK_NUM_THREADS"
    # OpenMP's variable may list one number for each level of nesting; what it cannot mean is not ours to judge.
    shared = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    if shared.isdecimal() and int(shared) > 0:
        return int(shared), "OMP_NUM_THREADS"
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota()
    if quota is not None and quota < processors:
        return max(1, quota), "the processors that its control group allows"
    return processors, "the processors that this process may use"


def cgroup_quota(root: str = "") -> int | None:
    """Processors that the control groups of this process allow, rounded up; None without a limit.

    Parameters
    ----------
    root : str
        Prefix of ``/proc`` and ``/sys``, for tests.
    """
    if not sys.platform.startswith("linux"):
        return None
    limits = []
    for line in _read(f"{root}/proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            bases, files = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], ["cpu.max"]
        elif "cpu" in controllers.split(","):
            bases, files = (
                ["/sys/fs/cgroup/cpu", f"/sys/fs/cgroup/{controllers}"],
                [
                    "cpu.cfs_quota_us",
                    "cpu.cfs_period_us",
                ],
            )
        else:
            continue
        # A limit of any parent holds too. In a container the path may be the host's: then the top of the mount counts.
        parts = [part for part in group.split("/") if part]
        for depth in range(len(parts), -1, -1):
            for base in bases:
                folder = "/".join([root + base, *parts[:depth]])
                numbers = " ".join(_read(f"{folder}/{file}") for file in files).split()
                if len(numbers) == 2 and all(number.isdecimal() for number in numbers) and int(numbers[1]) > 0:
                    limits.append(-(-int(numbers[0]) // int(numbers[1])))
    return min(limits, default=None)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _register_threadpoolctl(backend: str) -> None:
    """Let ``threadpoolctl`` see and limit the pool, where it is installed."""
    if "threadpoolctl" not in sys.modules and not _installed("threadpoolctl"):
        return
    threadpoolctl: Any = importlib.import_module("threadpoolctl")

    # It finds pools by their shared libraries. The twin has none of its own: one of Numba's stands for it.
    library = sys.modules.get({"penstock._numba": "numba._helperlib"}.get(backend, backend))
    anchor = os.path.realpath(getattr(library, "__file__", None) or "")
    if not os.path.isfile(anchor):
        return

    class Controller(threadpoolctl.LibController):  # type: ignore[misc]
        """The pool of whichever backends are loaded."""

        user_api = "penstock"
        internal_api = "penstock"
        filename_prefixes = (os.path.basename(anchor).lower(),)
        check_symbols = ("default_threads",)

        def set_additional_attributes(self) -> None:
            """Claim the library only if it is ours: the symbol that is looked for is this module's function."""
            if self.filepath == anchor:
                self.dynlib = sys.modules[__name__]

        def get_num_threads(self) -> int:
            return num_threads()

        def set_num_threads(self, num_threads: int) -> None:
            if getattr(_local, "n", 0):
                _set_local(num_threads)
            else:
                set_num_threads(num_threads)

        def get_version(self) -> str:
            return package_version()

    threadpoolctl.register(Controller)
