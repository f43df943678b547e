"""The kernels by themselves, on plain arrays: for those who bring their own network, and theta with it.

Every function works in float32 if all arrays it is given are float32, and in float64 otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from penstock import _backend, _validate
from penstock._typing import Array, ArrayLike
from penstock.base import BASES, AnyBase, StandardNormal, blocks
from penstock.layers import LULinear
from penstock.plan import Plan, compile_plan, theta_plan
from penstock.runner import Runner
from penstock.spec import FlowSpec
from penstock.state import identity, initial
from penstock.transforms import TRANSFORMS, Transform

__all__ = [
    "backward",
    "forward",
    "inverse",
    "inverse_backward",
    "log_prob",
    "log_prob_backward",
    "lu_backward",
    "lu_forward",
    "lu_inverse",
    "lu_inverse_backward",
    "lu_log_det",
]


def forward(
    transform: Transform, x: ArrayLike, theta: ArrayLike, log_det: Array | None = None, *, backend: str = "auto"
) -> tuple[Array, Any]:
    """``y = g(x; theta)``, element by element.

    Parameters
    ----------
    transform : Transform
        Such as ``ps.Affine()``.
    x : array of shape (dim,), (rows, dim) or (m, n, dim)
    theta : array of the shape of x and one axis more, or of shape (dim, n_theta) for all rows
        The last axis holds the numbers that ``transform.theta_names`` names.
    log_det : float array with one number a row, optional
        A running sum, to which this map's is added in place.
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"

    Returns
    -------
    y : array of the shape of x
    log_det : scalar, or array with one number a row
        Log abs det of the Jacobian of this map; the running sum if one was given.

    Examples
    --------
    >>> import penstock as ps
    >>> y, log_det = ps.ops.forward(ps.Affine(), [[1.0, 2.0]], [[0.0, 10.0], [0.0, 20.0]])
    >>> y.tolist()
    [[11.0, 22.0]]
    """
    return _apply(True, transform, x, theta, log_det, backend, "x")


def inverse(
    transform: Transform, y: ArrayLike, theta: ArrayLike, log_det: Array | None = None, *, backend: str = "auto"
) -> tuple[Array, Any]:
    """``x`` such that ``y = g(x; theta)``, and the log_det of that inverse map.

    Parameters
    ----------
    transform, theta, log_det, backend
        As for :func:`forward`.
    y : array of shape (dim,), (rows, dim) or (m, n, dim)

    Returns
    -------
    x : array of the shape of y
    log_det : scalar, or array with one number a row

    Examples
    --------
    >>> import penstock as ps
    >>> x, log_det = ps.ops.inverse(ps.Affine(), [[11.0, 22.0]], [[0.0, 10.0], [0.0, 20.0]])
    >>> x.tolist()
    [[1.0, 2.0]]
    """
    return _apply(False, transform, y, theta, log_det, backend, "y")


def backward(
    transform: Transform,
    x: ArrayLike,
    theta: ArrayLike,
    dy: ArrayLike | None,
    dlog_det: ArrayLike | None,
    *,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Vector-Jacobian product of :func:`forward`.

    Parameters
    ----------
    transform, x, theta, backend
        As for :func:`forward`.
    dy : array of the shape of x, or None for zeros
    dlog_det : array with one number a row, or None for zeros
        A number for one row by itself.

    Returns
    -------
    dx : array of the shape of x
    dtheta : array of the shape of theta
        A theta that all rows share has the sum of their gradients, in float64.

    Examples
    --------
    >>> import penstock as ps
    >>> dx, dtheta = ps.ops.backward(ps.Additive(), [[1.0]], [[10.0]], [[3.0]], None)
    >>> dx.tolist(), dtheta.tolist()
    ([[3.0]], [[3.0]])
    """
    return _backward(True, transform, x, theta, dy, dlog_det, backend, ("x", "dy"))


def inverse_backward(
    transform: Transform,
    y: ArrayLike,
    theta: ArrayLike,
    dx: ArrayLike | None,
    dlog_det: ArrayLike | None,
    *,
    backend: str = "auto",
) -> tuple[Array, Array]:
    """Vector-Jacobian product of :func:`inverse`.

    Parameters
    ----------
    transform, y, theta, backend
        As for :func:`inverse`.
    dx : array of the shape of y, or None for zeros
    dlog_det : array with one number a row, or None for zeros
        A number for one row by itself.

    Returns
    -------
    dy : array of the shape of y
    dtheta : array of the shape of theta
        A theta that all rows share has the sum of their gradients, in float64.

    Examples
    --------
    >>> import penstock as ps
    >>> dy, dtheta = ps.ops.inverse_backward(ps.Additive(), [[1.0]], [[10.0]], [[3.0]], None)
    >>> dy.tolist(), dtheta.tolist()
    ([[3.0]], [[-3.0]])
    """
    return _backward(False, transform, y, theta, dx, dlog_det, backend, ("y", "dx"))


def log_prob(base: AnyBase, z: ArrayLike, *, numbers: ArrayLike | None = None, backend: str = "auto") -> Any:
    """The log-density of a base distribution.

    Parameters
    ----------
    base : StandardNormal, Normal, Uniform, StudentT, GaussianMixture or Product
        Without a network of a context. What it has learned is what it begins with, unless ``numbers`` says otherwise.
    z : array of shape (dim,), (rows, dim) or (m, n, dim)
    numbers : array, optional
        All that the base has learned, in the order of :attr:`Flow.params` of a flow without layers.
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"

    Returns
    -------
    scalar, or array with one number a row

    Examples
    --------
    >>> import penstock as ps
    >>> ps.ops.log_prob(ps.StandardNormal(1), [[0.0], [1.0]]).round(4).tolist()
    [-0.9189, -1.4189]
    """
    rows, shape, runner, packed = _base(base, z, numbers, backend)
    return _shaped(runner.log_prob(packed, rows), shape)


def log_prob_backward(
    base: AnyBase, z: ArrayLike, dlog_prob: ArrayLike, *, numbers: ArrayLike | None = None, backend: str = "auto"
) -> Array:
    """Vector-Jacobian product of :func:`log_prob`.

    Parameters
    ----------
    base, z, numbers, backend
        As for :func:`log_prob`.
    dlog_prob : array with one number a row
        A number for one row by itself.

    Returns
    -------
    dz : array of the shape of z

    Examples
    --------
    >>> import penstock as ps
    >>> ps.ops.log_prob_backward(ps.StandardNormal(2), [1.0, -2.0], 1.0).tolist()
    [-1.0, 2.0]
    """
    rows, shape, runner, packed = _base(base, z, numbers, backend)
    cotangent = _validate.as_shaped(dlog_prob, shape, rows.dtype, name="dlog_prob").reshape(len(rows))
    found = runner.vjp(packed, False, rows, None, cotangent, base=True, params=False)
    return found.x.reshape(*shape, base.dim)


def lu_forward(
    x: ArrayLike,
    lu: ArrayLike,
    bias: ArrayLike | None = None,
    order: str | Sequence[int] = "identity",
    signs: str | Sequence[int] = "positive",
    *,
    backend: str = "auto",
) -> tuple[Array, Any]:
    """``y = P L U x + b``.

    Parameters
    ----------
    x : array of shape (dim,), (rows, dim) or (m, n, dim)
    lu : array of shape (dim, dim)
        ``L`` below the diagonal (its own diagonal is 1), ``U`` above it, and on it the logarithms of the
        absolute diagonal of ``U``.
    bias : array of shape (dim,), optional
        ``b``; zero by default.
    order : "identity" or sequence of int, default "identity"
        ``P``: output ``j`` takes row ``order[j]`` of ``L U x``.
    signs : "positive" or sequence of int, default "positive"
        The signs of the diagonal of ``U``.
    backend : {"auto", "cpp", "numba", "cuda"}, default "auto"

    Returns
    -------
    y : array of the shape of x
    log_det : scalar, or array with one number a row
        The trace of ``lu``, for every row.

    Examples
    --------
    >>> import penstock as ps
    >>> y, log_det = ps.ops.lu_forward([1.0, 2.0], [[0.0, 3.0], [0.5, 0.0]])
    >>> y.tolist(), float(log_det)
    ([7.0, 5.5], 0.0)
    """
    return _lu_map(True, x, _Map(lu, bias, order, signs, backend), "x")


def lu_inverse(
    y: ArrayLike,
    lu: ArrayLike,
    bias: ArrayLike | None = None,
    order: str | Sequence[int] = "identity",
    signs: str | Sequence[int] = "positive",
    *,
    backend: str = "auto",
) -> tuple[Array, Any]:
    """``x`` such that ``y = P L U x + b``, by two triangular solves, and the log_det of that inverse map.

    Parameters
    ----------
    y : array of shape (dim,), (rows, dim) or (m, n, dim)
    lu, bias, order, signs, backend
        As for :func:`lu_forward`.

    Returns
    -------
    x : array of the shape of y
    log_det : scalar, or array with one number a row

    Examples
    --------
    >>> import penstock as ps
    >>> x, log_det = ps.ops.lu_inverse([7.0, 5.5], [[0.0, 3.0], [0.5, 0.0]])
    >>> x.tolist()
    [1.0, 2.0]
    """
    return _lu_map(False, y, _Map(lu, bias, order, signs, backend), "y")


def lu_log_det(lu: ArrayLike) -> float:
    """``log|det P L U|``, the trace of ``lu``, summed in float64.

    Parameters
    ----------
    lu : array of shape (dim, dim)
        As for :func:`lu_forward`.

    Returns
    -------
    float

    Examples
    --------
    >>> import penstock as ps
    >>> ps.ops.lu_log_det([[0.5, 3.0], [0.5, 0.25]])
    0.75
    """
    matrix = _validate.reals(lu, name="lu")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"lu must have shape (dim, dim), got {matrix.shape}")
    with np.errstate(all="ignore"):
        return float(matrix.trace(dtype=np.float64))


def lu_backward(
    x: ArrayLike,
    lu: ArrayLike,
    dy: ArrayLike | None,
    dlog_det: ArrayLike | None,
    bias: ArrayLike | None = None,
    order: str | Sequence[int] = "identity",
    signs: str | Sequence[int] = "positive",
    *,
    backend: str = "auto",
) -> tuple[Array, Array, Array]:
    """Vector-Jacobian product of :func:`lu_forward`.

    Parameters
    ----------
    x, lu, bias, order, signs, backend
        As for :func:`lu_forward`.
    dy : array of the shape of x, or None for zeros
    dlog_det : array with one number a row, or None for zeros
        A number for one row by itself.

    Returns
    -------
    dx : array of the shape of x
    dlu : float64 array of shape (dim, dim)
    dbias : float64 array of shape (dim,)
        Both summed over rows.

    Examples
    --------
    >>> import penstock as ps
    >>> dx, dlu, dbias = ps.ops.lu_backward([1.0, 2.0], [[0.0, 3.0], [0.5, 0.0]], [1.0, 0.0], None)
    >>> dx.tolist(), dbias.tolist()
    ([1.0, 3.0], [1.0, 0.0])
    """
    return _lu_vjp(True, x, dy, dlog_det, _Map(lu, bias, order, signs, backend), ("x", "dy"))


def lu_inverse_backward(
    y: ArrayLike,
    lu: ArrayLike,
    dx: ArrayLike | None,
    dlog_det: ArrayLike | None,
    bias: ArrayLike | None = None,
    order: str | Sequence[int] = "identity",
    signs: str | Sequence[int] = "positive",
    *,
    backend: str = "auto",
) -> tuple[Array, Array, Array]:
    """Vector-Jacobian product of :func:`lu_inverse`.

    Parameters
    ----------
    y, lu, bias, order, signs, backend
        As for :func:`lu_inverse`.
    dx : array of the shape of y, or None for zeros
    dlog_det : array with one number a row, or None for zeros
        A number for one row by itself.

    Returns
    -------
    dy : array of the shape of y
    dlu : float64 array of shape (dim, dim)
    dbias : float64 array of shape (dim,)
        Both summed over rows.

    Examples
    --------
    >>> import penstock as ps
    >>> dy, dlu, dbias = ps.ops.lu_inverse_backward([7.0, 5.5], [[0.0, 3.0], [0.5, 0.0]], [0.0, 1.0], None)
    >>> dy.tolist()
    [-0.5, 1.0]
    """
    return _lu_vjp(False, y, dx, dlog_det, _Map(lu, bias, order, signs, backend), ("y", "dx"))


class _Map(NamedTuple):
    """A map ``P L U x + b`` as a user gives it."""

    lu: Any
    bias: Any
    order: Any
    signs: Any
    backend: str


def _lu_map(forward: bool, x: Any, given: _Map, name: str) -> tuple[Array, Any]:
    runner, packed, rows, shape = _lu_prepare(x, given, name)
    y, log_det = runner.transform(packed, forward, rows)
    return y.reshape(*shape, y.shape[1]), _shaped(log_det, shape)


def _lu_vjp(
    forward: bool, x: Any, d_out: Any, d_log_det: Any, given: _Map, names: tuple[str, str]
) -> tuple[Array, Array, Array]:
    runner, packed, rows, shape = _lu_prepare(x, given, names[0])
    d_out, d_log_det = _cotangents(d_out, d_log_det, rows, shape, runner.plan.dtype, names[1])
    found = runner.vjp(packed, forward, rows, d_out, d_log_det)
    assert found.params is not None
    dim = rows.shape[1]
    d_lu, d_bias = np.split(found.params, [dim * dim])
    return found.x.reshape(*shape, dim), d_lu.reshape(dim, dim), d_bias


def _lu_prepare(x: Any, given: _Map, name: str) -> tuple[Runner, Any, Array, tuple[int, ...]]:
    """A runner for the map, its packed parameters, the rows, and the shape of one number a row."""
    matrix = _validate.reals(given.lu, name="lu")
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"lu must have shape (dim, dim), got {matrix.shape}")
    dim = len(matrix)
    rows, shape = _validate.as_batch(x, dim, name=name)
    vector = np.zeros(dim, matrix.dtype)
    if given.bias is not None:
        vector = _validate.as_shaped(given.bias, (dim,), None, name="bias")
    dtype = np.promote_types(np.promote_types(rows.dtype, matrix.dtype), vector.dtype)
    if isinstance(given.order, str) and given.order == "random":
        raise ValueError("order must be 'identity' or the permutation itself, got 'random'")
    layer = LULinear(given.order, given.signs, explicit="to_data").resolve(dim, dim, np.random.default_rng(0))
    runner = _lu_runner(layer, dim, dtype, _backend.choose(given.backend).name)
    numbers = np.concatenate([matrix.ravel(), vector])
    params = _validate.as_params(numbers, runner.plan.n_params, dtype, name="lu and bias")
    return runner, runner.pack(params, identity(runner.plan)), rows, shape


def _cotangents(
    d_out: Any, d_log_det: Any, rows: Array, shape: tuple[int, ...], dtype: np.dtype[Any], name: str
) -> tuple[Array | None, Array | None]:
    """Both as the engine reads them; None stays."""
    if d_out is not None:
        d_out = _validate.as_shaped(d_out, (*shape, rows.shape[1]), dtype, name=name).reshape(rows.shape)
    if d_log_det is not None:
        d_log_det = _validate.as_shaped(d_log_det, shape, dtype, name="dlog_det").reshape(len(rows))
    return d_out, d_log_det


def _apply(
    forward: bool, transform: Transform, x: Any, theta: Any, log_det: Array | None, backend: str, name: str
) -> tuple[Array, Any]:
    runner, packed, rows, shape, flat = _prepare(transform, x, theta, backend, name)
    if log_det is not None:
        # A sum over many maps may be kept in float64 whatever the maps are computed in.
        wide = getattr(log_det, "dtype", None) == _validate.FLOAT64
        _validate.as_out(log_det, shape, _validate.FLOAT64 if wide else runner.plan.dtype, name="log_det")
    y, own = runner.transform(packed, forward, rows, thetas=[flat])
    if log_det is not None:
        with np.errstate(all="ignore"):
            log_det += own.reshape(shape)
        return y.reshape(*shape, y.shape[1]), log_det
    return y.reshape(*shape, y.shape[1]), _shaped(own, shape)


def _backward(
    forward: bool,
    transform: Transform,
    x: Any,
    theta: Any,
    d_out: Any,
    d_log_det: Any,
    backend: str,
    names: tuple[str, str],
) -> tuple[Array, Array]:
    runner, packed, rows, shape, flat = _prepare(transform, x, theta, backend, names[0])
    dtype, dim = runner.plan.dtype, rows.shape[1]
    d_out, d_log_det = _cotangents(d_out, d_log_det, rows, shape, dtype, names[1])
    found = runner.vjp(packed, forward, rows, d_out, d_log_det, params=False, thetas=[flat])
    d_theta = found.thetas[0]
    lead = shape if flat.ndim == 2 else ()
    return found.x.reshape(*shape, dim), d_theta.reshape(*lead, dim, -1 if d_theta.size else len(transform.theta_names))


def _prepare(
    transform: Transform, x: Any, theta: Any, backend: str, name: str
) -> tuple[Runner, Any, Array, tuple[int, ...], Array]:
    """A runner for the transform, the rows, the shape of one number a row, and theta as the engine reads it."""
    _validate.instance(transform, TRANSFORMS.values(), name="transform")
    rows = _validate.reals(x, name=name)
    rows, shape = _validate.as_batch(rows, rows.shape[-1] if rows.ndim else 1, name=name)
    dim, n_theta = rows.shape[1], len(transform.theta_names)
    if dim == 0:
        raise ValueError(f"{name} must have at least one dimension, got shape {(*shape, dim)}")
    numbers = _validate.as_theta(theta, (*shape, dim), n_theta)
    dtype = np.promote_types(rows.dtype, numbers.dtype)
    shared = numbers.ndim == 2 and bool(shape)
    flat = _validate.as_shaped(numbers, numbers.shape, dtype, name="theta")
    flat = flat.reshape(dim * n_theta) if shared else flat.reshape(len(rows), dim * n_theta)
    key: Any = transform  # frozen, so it can be
    runner, packed = _runner(key, dim, dtype, _backend.choose(backend).name)
    return runner, packed, rows, shape, flat


@lru_cache(maxsize=64)
def _runner(transform: Any, dim: int, dtype: np.dtype[Any], backend: str) -> tuple[Runner, Any]:
    return _packed(theta_plan(transform, dim, dtype), backend)


def _base(base: AnyBase, z: ArrayLike, numbers: ArrayLike | None, backend: str) -> tuple[Array, Any, Runner, Any]:
    """Rows and their shape, and a flow that is this base alone."""
    _validate.instance(base, BASES.values(), name="base")
    if any(part.conditioner is not None for part, _ in blocks(base)):
        raise ValueError("base has a network of a context: only a flow computes that")
    rows, shape = _validate.as_batch(z, base.dim, name="z")
    runner, packed = _base_runner(base, rows.dtype, _backend.choose(backend).name)
    if numbers is not None:
        params = _validate.as_params(numbers, runner.plan.n_params, rows.dtype, name="numbers")
        packed = runner.pack(params, identity(runner.plan))
    return rows, shape, runner, packed


@lru_cache(maxsize=64)
def _base_runner(base: AnyBase, dtype: np.dtype[Any], backend: str) -> tuple[Runner, Any]:
    spec = FlowSpec(base, (), dtype=dtype.name)
    plan = compile_plan(spec)
    runner = _made(plan, backend)
    return runner, initial(plan, spec, np.random.default_rng(0)).pack(runner)


@lru_cache(maxsize=64)
def _lu_runner(layer: LULinear, dim: int, dtype: np.dtype[Any], backend: str) -> Runner:
    return _made(compile_plan(FlowSpec(StandardNormal(dim), (layer,), dtype=dtype.name)), backend)


def _made(plan: Plan, backend: str) -> Runner:
    # "none" can only come from "auto", and says at this first computation what to install.
    return Runner(plan, _backend.choose("auto" if backend == "none" else backend))


def _packed(plan: Plan, backend: str) -> tuple[Runner, Any]:
    """A runner, and what it packs: no parameters, and a standardisation that does nothing."""
    runner = _made(plan, backend)
    return runner, runner.pack(np.zeros(0, plan.dtype), identity(plan))


def _shaped(values: Array, shape: tuple[int, ...]) -> Any:
    return values.reshape(shape) if shape else values[0]
