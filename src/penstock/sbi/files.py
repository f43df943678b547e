"""The file of a posterior or a likelihood: a zip archive of a JSON record and the file of its flow. Nothing in it is a pickle."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from penstock import _validate
from penstock._files import replacing
from penstock.models import from_bytes
from penstock.sbi.likelihood import Likelihood
from penstock.sbi.posterior import Posterior
from penstock.sbi.priors import BoxUniform, Independent, Normal, Prior
from penstock.sbi.simulations import Observed
from penstock.sbi.wrapped import Joint, PriorLike, Univariate, as_prior
from penstock.support import SupportLike

FORMAT, VERSION = "penstock sbi", 1
RECORD, MODEL = "record.json", "flow.safetensors"
# One time for all members, so that the same posterior gives the same bytes.
TIME = (1980, 1, 1, 0, 0, 0)
KINDS: dict[str, type] = {"posterior": Posterior, "likelihood": Likelihood}


def save(what: Posterior | Likelihood, path: str | os.PathLike[str]) -> None:
    """Write a posterior or likelihood, replacing the file at once."""
    name = _validate.path(path)
    kind = "posterior" if isinstance(what, Posterior) else "likelihood"
    record: dict[str, Any] = {"format": FORMAT, "version": VERSION, "kind": kind, "observed": asdict(what.observed)}
    record["prior"] = _written(what.prior)
    if isinstance(what, Posterior):
        record["seed"] = what._rejection.seed
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for member, data in ((RECORD, json.dumps(record, indent=1).encode()), (MODEL, what.flow.to_bytes())):
            archive.writestr(zipfile.ZipInfo(member, TIME), data)
    with replacing(name) as file:
        file.write(buffer.getvalue())


def load(
    path: str | os.PathLike[str],
    *,
    prior: PriorLike | None = None,
    support: SupportLike | None = None,
    backend: str = "auto",
) -> Any:
    """Read a posterior or a likelihood.

    Parameters
    ----------
    path : str or path
    prior, support : optional
        As for :func:`npe`, for a file whose prior could not be written; otherwise the file has it.
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"

    Returns
    -------
    Posterior or Likelihood

    Raises
    ------
    FileFormatError
        If the file is none of these, or damaged.
    ValueError
        If the file has no prior, and none is given.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> import penstock as ps
    >>> prior = ps.sbi.BoxUniform(-1, 1, dim=1)
    >>> theta = prior.sample(300, rng=0)
    >>> posterior = ps.npe(theta, theta**2, prior=prior, ensemble=1, epochs=1, rng=0)
    >>> path = os.path.join(tempfile.mkdtemp(), "posterior.zip")
    >>> posterior.save(path)
    >>> bool((ps.sbi.load(path).sample(9, [0.25], rng=0) == posterior.sample(9, [0.25], rng=0)).all())
    True
    """
    from penstock.files.model import FileFormatError

    name = _validate.path(path)
    try:
        with zipfile.ZipFile(name) as archive:
            members = {member: archive.read(member) for member in (RECORD, MODEL)}
        record = json.loads(members[RECORD])
        if record["format"] != FORMAT or record["kind"] not in KINDS:
            raise ValueError("its record is of another format")
        if record["version"] > VERSION:
            raise ValueError(f"it was written by a newer penstock, in format {record['version']}")
        observed = _observed(record["observed"])
        known = None if record["prior"] is None else _read(record["prior"])
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, AttributeError) as error:
        raise FileFormatError(f"cannot load {name!r} as a posterior: {error}") from error
    flow = from_bytes(members[MODEL], backend=backend)
    dim = flow.dim if record["kind"] == "posterior" else flow.context_dim
    if prior is not None:
        known = as_prior(prior, support, dim)
    if known is None:
        raise ValueError(f"{name!r} has no prior, as it was one's own: load(path, prior=...) gives it again")
    if known.dim != dim or len(observed.kept) != (flow.context_dim if record["kind"] == "posterior" else flow.dim):
        raise FileFormatError(f"cannot load {name!r} as a posterior: its flow does not go with its prior and x")
    if record["kind"] == "likelihood":
        return Likelihood(flow, known, observed)
    return Posterior(flow, known, observed, seed=int(record["seed"]))


def _observed(record: dict[str, Any]) -> Observed:
    dim, names, kept = int(record["dim"]), tuple(map(str, record["names"])), tuple(map(int, record["kept"]))
    lo, hi = (tuple(map(float, record[end])) for end in ("lo", "hi"))
    fits = len(lo) == len(hi) == dim and len(names) in (0, dim) and sorted(set(kept)) == list(kept)
    if not fits or not kept or not 0 <= kept[0] <= kept[-1] < dim:
        raise ValueError("its record of x is not consistent")
    return Observed(dim, names, kept, lo, hi)


# --- priors -------------------------------------------------------------------------------------------------------


def _written(prior: Prior) -> Any:
    """A prior as JSON, None where one cannot be written."""
    if isinstance(prior, BoxUniform):
        return {"kind": "box", "lo": prior.lo.tolist(), "hi": prior.hi.tolist()}
    if isinstance(prior, Normal):
        diagonal = np.array_equal(prior._factor, np.diag(np.diag(prior._factor)))
        width = {"std": np.diag(prior._factor).tolist()} if diagonal else {"cov": prior.cov.tolist()}
        return {"kind": "normal", "mean": prior.mean.tolist(), **width}
    if isinstance(prior, Independent):
        parts = [_written(part) for part in prior.parts]
        return None if None in parts else {"kind": "independent", "parts": parts, "names": list(prior.names)}
    if isinstance(prior, (Univariate, Joint)):
        return _of_scipy(prior.frozen)
    return None


def _of_scipy(frozen: Any) -> Any:
    """The name and the arguments of a frozen distribution; None for one whose arguments are no numbers."""
    from scipy import stats

    kind = type(frozen).__name__
    if kind == "multivariate_normal_frozen":
        return {
            "kind": "scipy",
            "name": "multivariate_normal",
            "args": [frozen.mean.tolist(), frozen.cov.tolist()],
            "kwds": {},
        }
    if kind == "multivariate_t_frozen":
        kwds = {"loc": frozen.loc.tolist(), "shape": frozen.shape.tolist(), "df": float(frozen.df)}
        return {"kind": "scipy", "name": "multivariate_t", "args": [], "kwds": kwds}
    dist: Any = getattr(frozen, "dist", None)
    name: Any = getattr(dist, "name", None)
    if name is None or type(dist) is not type(getattr(stats, name, None)):
        return None
    try:
        args = [_validate.reals(value, name="").tolist() for value in frozen.args]
        kwds = {key: _validate.reals(value, name="").tolist() for key, value in frozen.kwds.items()}
    except (TypeError, ValueError):
        return None
    return {"kind": "scipy", "name": name, "args": args, "kwds": kwds}


def _read(record: dict[str, Any]) -> Prior:
    """A prior from its record."""
    readers: dict[str, Callable[[], Prior]] = {
        "box": lambda: BoxUniform(record["lo"], record["hi"]),
        "normal": lambda: Normal(record["mean"], record.get("std"), cov=record.get("cov")),
        "independent": lambda: Independent(_named([_read(part) for part in record["parts"]], record["names"])),
        "scipy": lambda: as_prior(_frozen(record)),
    }
    if record.get("kind") not in readers:
        raise ValueError(f"its prior is of a kind that this version does not know: {record.get('kind')!r}")
    return readers[record["kind"]]()


def _named(parts: list[Prior], names: list[str]) -> Any:
    return dict(zip(names, parts, strict=True)) if names else parts


def _frozen(record: dict[str, Any]) -> Any:
    try:
        from scipy import stats
    except ImportError:
        raise ImportError("the prior of this file is one of SciPy: pip install 'penstock[stats]'") from None
    name = record["name"]
    made = getattr(stats, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not isinstance(made, (stats.rv_continuous, type(stats.multivariate_normal), type(stats.multivariate_t))):
        raise ValueError(f"its prior is no distribution of SciPy: {name!r}")
    return made(*record["args"], **record["kwds"])
