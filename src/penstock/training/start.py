"""Where a target lies and how wide it is, as ``fit_to_target`` is told; and a linear layer that begins with correlations."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from penstock import _validate
from penstock._typing import Array
from penstock.layers import LULinear
from penstock.runner import Runner
from penstock.targets import shown
from penstock.training.scale import SCALE_MIN


class Start(NamedTuple):
    """Location and scale of the standardisation, the words for it, and rows or a root of a covariance, if there are any."""

    loc: Array
    scale: Array
    words: str
    rows: Array | None = None
    root: Array | None = None


def as_start(init: Any, dim: int) -> Start | None:
    """``init`` as the standardisation that it means: rows, or a tuple of mean and scale."""
    if init is None:
        return None
    rows = None
    if isinstance(init, tuple):
        if len(init) != 2:
            raise ValueError(f"init must be rows, or a tuple (mean, scale), got a tuple of {len(init)}")
        loc, scale = (_one_each(part, dim, f"init[{i}]") for i, part in enumerate(init))
        words = "init"
    else:
        rows = _validate.as_rows(init, dim, name="init").astype(np.float64)
        if len(rows) < 2:
            raise ValueError(f"init must have at least 2 rows, which have a spread, got {len(rows)}")
        with np.errstate(all="ignore"):
            loc, scale, words = rows.mean(axis=0), rows.std(axis=0), f"{len(rows)} rows of init"
    if not (np.isfinite(loc).all() and np.isfinite(scale).all() and (scale > SCALE_MIN).all()):
        raise ValueError(
            "init must give every dimension a finite mean and a positive finite scale, got mean "
            f"{shown(loc)} and scale {shown(scale)}"
        )
    return Start(loc, scale, words, rows)


def _one_each(value: Any, dim: int, name: str) -> Array:
    """A number for each dimension, from one for all or an array of them."""
    array = _validate.reals(value, name=name)
    return (
        np.full(dim, float(array))
        if array.ndim == 0
        else _validate.as_shaped(array, (dim,), _validate.FLOAT64, name=name)
    )


def start_linear(
    runner: Runner, k: int, layer: LULinear, params: Array, buffers: Array, start: Start, frozen: Array | None
) -> None:
    """Set a fresh LU layer, number ``k``, in ``params`` so that what it makes of a normal density of this covariance is white.

    The layers outside of it, towards the data, are taken as the affine maps that fresh ones are. ``W = P U`` to the latent
    side with ``U^T U`` the inverse covariance C of what arrives, or ``W = P L D`` to the data with ``L D^2 L^T = P^T C P``.
    """
    tensor = next(tensor for tensor in runner.plan.tensors if tensor.name == f"layers.{k}.lu")
    numbers, dim = params[tensor.offset : tensor.offset + tensor.size], runner.plan.dim
    held = frozen is not None and any(first <= tensor.offset < first + count for first, count in frozen)
    if start.root is None or numbers.any() or held or not isinstance(layer.signs, str):
        return
    units = start.loc + np.concatenate([np.zeros((1, dim)), np.diag(start.scale)])
    images, _ = runner.transform(runner.pack(params, buffers), False, units, first=k + 1, last=runner.plan.n_steps)
    images = images.astype(np.float64)
    root = (images[1:] - images[0]).T @ (start.root / start.scale[:, None])
    covariance = root @ root.T
    try:
        if layer.explicit == "to_latent":
            factor = np.linalg.cholesky(np.linalg.inv(covariance)).T
        else:
            back = np.argsort(layer.order)
            factor = np.linalg.cholesky(covariance[back][:, back])
            factor = factor / np.diag(factor) + np.diag(np.diag(factor) - 1)
    except np.linalg.LinAlgError:  # correlations of 1, to rounding: training may find better ones
        return
    np.fill_diagonal(factor, [math.log(number) for number in np.diag(factor).tolist()])
    numbers[:] = factor.ravel()
