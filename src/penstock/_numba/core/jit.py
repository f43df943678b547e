"""How the twins are compiled, and the folder of the disk cache.

An *entry* is called from Python. A *kernel* is compiled on its own, for one dtype, when a plan first needs it, and is called
by its address from entries and other kernels: what a plan does not use is never compiled. Both are kept on disk. Everything
else is compiled into the entries and kernels that use it.
"""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, config, types
from numba.core.errors import TypingError
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

ROOM = Path(__file__).resolve().parent.parent


def jit(function: F) -> F:
    """Compile a function of the kernels: no GIL, IEEE arithmetic in the order that is written."""
    return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


def entry(function: F) -> F:
    """Compile a function that Python calls."""
    with _cache():
        return cast(F, numba.njit(nogil=True, error_model="numpy", cache=True)(function))


# The arguments of kernels. A call with others would run into the wild, so it is not compiled.
KNOWN: set[tuple[Any, ...]] = set()


@cache
def kernel(function: Any, arguments: tuple[Any, ...]) -> int:
    """The address of a function that returns nothing, compiled for arguments of these types."""
    with _cache():
        compiled = numba.cfunc(types.void(*arguments), cache=True, error_model="numpy")(function)
    _kernels.append(compiled)
    return int(compiled.address)


_kernels: list[Any] = []  # their code lives as long as they do


@intrinsic  # type: ignore[untyped-decorator, unused-ignore]
def call(typingctx: Any, address: Any, arguments: Any) -> Any:
    """Run the kernel at an address with a tuple of arguments of the very types that it was compiled for."""
    kinds = tuple(types.unliteral(kind) for kind in arguments)
    if kinds not in KNOWN:
        raise TypingError(f"no kernel has arguments {kinds}")

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        given = cgutils.unpack_tuple(builder, args[1], len(kinds))
        kind = ir.FunctionType(context.get_value_type(types.none), [value.type for value in given])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), given)
        return context.get_dummy_value()

    return types.void(types.int64, types.Tuple(kinds)), codegen


def specialise(function: Any, name: str, **names: Any) -> Any:
    """A copy of a function under another name, where global names stand for other things.

    A closure would do the same, but Numba keeps no closure over compiled functions on disk.
    """
    copy = FunctionType(function.__code__, {**function.__globals__, **names}, name, function.__defaults__)
    copy.__qualname__, copy.__module__ = name, function.__module__
    return copy


@contextmanager
def _cache() -> Iterator[None]:
    """Numba reads the folder of its cache while a function is decorated: it is set for as long as that takes."""
    user, config.CACHE_DIR = config.CACHE_DIR, cache_folder(config.CACHE_DIR)
    try:
        yield
    finally:
        config.CACHE_DIR = user


@cache
def cache_folder(user: str) -> str:
    """A folder for compiled code: in the user's ``NUMBA_CACHE_DIR``, else in the user's cache, else until the process ends.

    Never in the package, where it would survive uninstalling. Numba's cache does not notice an edit in a called module, so
    the name carries a digest of all twins.
    """
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(ROOM.rglob("*.py")):
        digest.update(path.relative_to(ROOM).as_posix().encode() + b"\0" + path.read_bytes())
    name = f"twins-{digest.hexdigest()[:16]}"
    home = Path(os.path.expanduser("~"))
    system = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    if sys.platform == "darwin":
        system = home / "Library" / "Caches"
    elif sys.platform == "win32":
        system = Path(os.environ.get("LOCALAPPDATA") or home)
    folder = (Path(user) if user else system) / "penstock" / name
    if _writable(folder):
        return str(folder)
    # A predictable name in a shared folder could be filled with somebody else's code.
    temporary = tempfile.mkdtemp(prefix="penstock-")
    atexit.register(_remove, temporary, os.getpid())
    return temporary


def _remove(folder: str, owner: int) -> None:
    """A forked child leaves the folder to its parent."""
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
