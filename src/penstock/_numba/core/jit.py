"""How the twins are compiled: one decorator for functions, one for entry points, and the folder of the disk cache.

An *entry* is called from Python and kept on disk; everything else is compiled into the entries that use it.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
import numpy as np
from numba.core import config

Array = np.ndarray[Any, Any]
F = TypeVar("F", bound=Callable[..., Any])

ROOM = Path(__file__).resolve().parent.parent


def jit(function: F) -> F:
    """Compile a function of the kernels: no GIL, IEEE arithmetic in the order that is written."""
    return cast(F, numba.njit(nogil=True, error_model="numpy")(function))


def entry(function: F) -> F:
    """Compile a function that Python calls, and keep it on disk.

    Numba's cache does not notice an edit in a called module, so its folder carries a digest of all twins. The
    setting is changed while the function is decorated, which is when Numba reads it, and put back.
    """
    user, config.CACHE_DIR = config.CACHE_DIR, cache_folder(config.CACHE_DIR)
    try:
        return cast(F, numba.njit(nogil=True, error_model="numpy", cache=True)(function))
    finally:
        config.CACHE_DIR = user


def dispatch(functions: Sequence[Any]) -> Any:
    """A compiled function of ``(code, *args)`` that calls ``functions[code]``; they all return nothing.

    The chain of cases is written out as source, since a loop or a recursion over functions would compile for each.
    """
    cases = [f"    if code == {i}:\n        f{i}(*args)\n        return\n" for i in range(len(functions))]
    names: dict[str, Any] = {f"f{i}": function for i, function in enumerate(functions)}
    exec("def call(code, *args):\n" + "".join(cases), names)
    return jit(names["call"])


@cache
def cache_folder(user: str) -> str:
    """A folder for compiled entries: in the user's ``NUMBA_CACHE_DIR``, else beside the twins, else in a cache of one's own."""
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
    for folder in [Path(user) / "penstock"] if user else [ROOM / "__pycache__", system / "penstock"]:
        if _writable(folder / name):
            return str(folder / name)
    # A predictable name in a shared folder could be filled with somebody else's code.
    return tempfile.mkdtemp(prefix="penstock-")


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
