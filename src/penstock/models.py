"""Models in files and bytes: a flow or an ensemble, whichever it is."""

from __future__ import annotations

import os
from typing import Any

from penstock import _validate
from penstock.ensemble import Ensemble, ensemble_of
from penstock.flow import Flow, flow_of


def load(path: str | os.PathLike[str], *, backend: str = "auto") -> Flow | Ensemble:
    """Read a flow or an ensemble from a file. Everything in it is checked before anything is built.

    Parameters
    ----------
    path : str or path
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"

    Raises
    ------
    FileFormatError
        If the file is not one of penstock, truncated, from a newer version or damaged; the message says which.

    Returns
    -------
    Flow or Ensemble
        With its names of columns and its history; a flow is always a plain :class:`Flow`.

    Examples
    --------
    >>> import os, tempfile
    >>> import penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "flow.safetensors")
    >>> ps.save(ps.realnvp(2, rng=0), path)
    >>> ps.load(path).dim
    2
    """
    return _from_contents(_files().load(_validate.path(path)), backend)


def save(flow: Flow | Ensemble, path: str | os.PathLike[str]) -> None:
    """Write a flow or an ensemble to a file, as ``flow.save(path)`` does.

    Parameters
    ----------
    flow : Flow or Ensemble
    path : str or path

    Examples
    --------
    >>> import os, tempfile
    >>> import penstock as ps
    >>> path = os.path.join(tempfile.mkdtemp(), "flow.safetensors")
    >>> ps.save(ps.realnvp(2, rng=0), path)
    >>> ps.load(path).dim
    2
    """
    if not isinstance(flow, (Flow, Ensemble)):
        raise TypeError(f"flow must be a Flow or an Ensemble, got {type(flow).__name__}")
    flow.save(path)


def from_bytes(data: bytes | bytearray | memoryview, *, backend: str = "auto") -> Flow | Ensemble:
    """Read a flow or an ensemble from the bytes that ``flow.to_bytes()`` gave.

    Parameters
    ----------
    data : bytes
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"

    Returns
    -------
    Flow or Ensemble

    Raises
    ------
    FileFormatError
        As for :func:`load`.

    Examples
    --------
    >>> import penstock as ps
    >>> ps.from_bytes(ps.realnvp(2, rng=0).to_bytes()).dim
    2
    """
    return _from_contents(_files().from_bytes(_validate.bytes_like(data, name="data")), backend)


def _files() -> Any:
    from penstock.files import members

    return members


def _from_contents(contents: Any, backend: str) -> Flow | Ensemble:
    """What a file holds."""
    return ensemble_of(contents, backend) if hasattr(contents, "members") else flow_of(contents, backend)
