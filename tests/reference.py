"""An independent evaluator in plain NumPy, float64, written from the specs: what every backend has to agree with.

It shares no line with the engines: rows are rows, layers run one after the other, and the mathematical functions are
those of the C library.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import penstock as ps

Array = np.ndarray[Any, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])

ACTIVATIONS = {
    "relu": lambda h: np.where(h < 0, 0.0, h),
    "leaky_relu": lambda h: np.where(h < 0, 0.01 * h, h),
    "tanh": np.tanh,
    "silu": lambda h: h / (1 + np.exp(-h)),
    "gelu": lambda h: 0.5 * h * (1 + _erf(h / math.sqrt(2))) if h.size else h,
}


def named(flow: ps.Flow) -> dict[str, Array]:
    """The parameters of a flow by name, float64."""
    return {name: np.array(value, np.float64) for name, value in dict(flow.named_params()).items()}


def network(params: dict[str, Array], prefix: str, conditioner: ps.MLP, u: Array) -> Array:
    """The conditioner's output, ``(rows, n_out)``."""
    act = ACTIVATIONS[conditioner.activation]
    depth = len(conditioner.hidden)
    h = u
    for i in range(depth + 1):
        a = h @ params[f"{prefix}.{i}.weight"] + params[f"{prefix}.{i}.bias"]
        if i == depth:
            return a
        h = h + act(a) if conditioner.residual and i > 0 else act(a)
    raise AssertionError


def transform_forward(transform: Any, theta: Array, x: Array) -> tuple[Array, Array]:
    """``y`` and the elementwise log slope."""
    if transform.name == "additive":
        return x + theta[..., 0], np.zeros_like(x)
    if transform.name == "rational_quadratic":
        return spline(transform, theta, x)
    if transform.name == "circular_rational_quadratic":
        y, slope = spline(transform, theta[..., :-1], wrap(transform, x))
        return wrap(transform, y + theta[..., -1]), slope
    assert transform.name == "affine"
    s = log_scale(theta[..., 0], transform.scale_bound)
    return np.exp(s) * x + theta[..., 1], s


def transform_inverse(transform: Any, theta: Array, y: Array) -> tuple[Array, Array]:
    """``x`` and the elementwise log slope of the inverse."""
    if transform.name == "additive":
        return y - theta[..., 0], np.zeros_like(y)
    if transform.name == "circular_rational_quadratic":
        x = bisect(transform, theta[..., :-1], wrap(transform, y - theta[..., -1]))
        return x, -spline(transform, theta[..., :-1], x)[1]
    if transform.name == "rational_quadratic":
        x = bisect(transform, theta, y)
        return x, -spline(transform, theta, x)[1]
    assert transform.name == "affine"
    s = log_scale(theta[..., 0], transform.scale_bound)
    return (y - theta[..., 1]) * np.exp(-s), -s


def knots(transform: ps.RationalQuadratic, theta: Array) -> tuple[Array, Array, Array]:
    """x, y and slope of the bins + 1 knots of each element."""
    bins, bound = transform.bins, transform.bound

    def along(raw: Array, least: float) -> Array:
        share = np.exp(raw - raw.max(axis=-1, keepdims=True))
        share = least + (1 - bins * least) * share / share.sum(axis=-1, keepdims=True)
        ends = np.cumsum(np.concatenate([np.zeros((*share.shape[:-1], 1)), share], axis=-1), axis=-1)
        return bound * (2 * ends - 1)

    raw = theta[..., 2 * bins :] + math.log(math.expm1(1 - transform.slope_min))
    inner = transform.slope_min + np.minimum(np.logaddexp(0, raw), 1e6)
    one = np.ones((*inner.shape[:-1], 1))
    circle = transform.name == "circular_rational_quadratic"
    slopes = np.concatenate([inner, inner[..., :1]] if circle else [one, inner, one], axis=-1)
    x, y = (
        along(theta[..., :bins], transform.bin_width_min),
        along(theta[..., bins : 2 * bins], transform.bin_height_min),
    )
    return x, y, slopes


def wrap(transform: ps.CircularRationalQuadratic, x: Array) -> Array:
    """x on the circle."""
    return np.clip(x - 2 * transform.bound * np.round(x / (2 * transform.bound)), -transform.bound, transform.bound)


def spline(transform: ps.RationalQuadratic, theta: Array, x: Array) -> tuple[Array, Array]:
    """Durkan et al. (2019), eqs. 4 and 5, literally."""
    x_k, y_k, slope = (np.broadcast_to(k, (*x.shape, k.shape[-1])) for k in knots(transform, theta))
    inside, outer, x = np.abs(x) <= transform.bound, x, np.clip(x, -transform.bound, transform.bound)
    k = np.clip((x[..., None] >= x_k).sum(axis=-1) - 1, 0, transform.bins - 1)[..., None]
    x0, x1, y0, y1, d0, d1 = (np.take_along_axis(a, k + i, axis=-1)[..., 0] for a in (x_k, y_k, slope) for i in (0, 1))
    s, xi = (y1 - y0) / (x1 - x0), np.clip((x - x0) / (x1 - x0), 0, 1)
    below = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
    y = y0 + (y1 - y0) * (s * xi**2 + d0 * xi * (1 - xi)) / below
    log_slope = 2 * np.log(s) + np.log(d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) - 2 * np.log(below)
    return np.where(inside, y, outer), np.where(inside, log_slope, 0.0)


def bisect(transform: ps.RationalQuadratic, theta: Array, y: Array) -> Array:
    """The x whose image is y, by halving the box until nothing changes."""
    low, high = np.full(y.shape, -transform.bound), np.full(y.shape, transform.bound)
    for _ in range(80):
        middle = 0.5 * (low + high)
        above = spline(transform, theta, middle)[0] > y
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(np.abs(y) <= transform.bound, 0.5 * (low + high), y)


def log_scale(r: Array, bound: float) -> Array:
    """The bounded log-scale of the affine transform."""
    return r if math.isinf(bound) else r / np.sqrt(1 + (r / bound) ** 2)


def features(flow: ps.Flow, rows: int, context: Array | None) -> Array:
    """What conditioners read of the context, a row for each of so many; without one that of the flow itself, if any."""
    if flow.context_dim == 0:
        return np.zeros((rows, 0))
    loc, scale = np.split(np.array(flow._snapshot.buffers, np.float64)[2 * flow.dim :], 2)
    given = np.asarray(flow.context if context is None else context, np.float64)  # type: ignore[attr-defined]
    u = np.broadcast_to((given - loc) / scale, (rows, flow.context_dim))
    embedding = flow.spec.embedding
    return u if embedding is None else network(named(flow), "embedding", embedding, u)


def step(flow: ps.Flow, index: int, v: Array, to_data: bool, c: Array) -> tuple[Array, Array]:
    """One layer of the flow in one direction: the moved rows and the log-determinant of each."""
    layer, dim = flow.spec.layers[index], flow.dim
    params = named(flow)
    zero = np.zeros(len(v))
    if isinstance(layer, ps.Permutation):
        order = list(range(dim))[::-1] if layer.order == "reverse" else [int(i) for i in layer.order]
        if to_data:
            return v[:, order], zero
        out = np.empty_like(v)
        out[:, order] = v
        return out, zero
    if isinstance(layer, ps.LULinear):
        lower, upper, bias = lu(layer, dim, params, index)
        order = list(range(dim)) if isinstance(layer.order, str) else list(layer.order)
        log_det = zero + np.trace(params[f"layers.{index}.lu"])
        if (layer.explicit == "to_data") == to_data:
            return (v @ upper.T @ lower.T)[:, order] + bias, log_det
        c = np.empty_like(v)
        c[:, order] = v - bias
        return np.linalg.solve(upper, np.linalg.solve(lower, c.T)).T, -log_det
    if isinstance(layer, ps.Autoregressive):
        return autoregressive(
            layer, params, f"layers.{index}.conditioner", v, c, (layer.explicit == "to_data") == to_data
        )
    if isinstance(layer, ps.Coupling):
        a, b = layer.split_sets(dim)
        transform, explicit = layer.transform, layer.explicit
        u = np.concatenate([c, v[:, list(a)]], axis=1)
        theta = network(params, f"layers.{index}.conditioner", layer.conditioner, u)
        theta = theta.reshape(len(v), len(b), theta.shape[1] // len(b))
    else:
        b = tuple(range(dim))
        if isinstance(layer, ps.ActNorm):
            transform, explicit = ps.Affine(scale_bound=math.inf), "to_latent"
        else:
            transform, explicit = layer.transform, layer.explicit
        if getattr(layer, "conditioner", None) is not None:
            theta = network(params, f"layers.{index}.conditioner", layer.conditioner, c).reshape(len(v), dim, -1)
        else:
            theta = params[f"layers.{index}.theta"][None]
    move = transform_forward if (explicit == "to_data") == to_data else transform_inverse
    out = v.copy()
    out[:, list(b)], slope = move(transform, theta, v[:, list(b)])
    return out, np.broadcast_to(slope, (len(v), len(b))).sum(axis=1)


def autoregressive(
    layer: ps.Autoregressive, params: dict[str, Array], prefix: str, v: Array, c: Array, parallel: bool
) -> tuple[Array, Array]:
    """One autoregressive layer; the sequential direction runs the whole network anew for each dimension."""
    rows, dim = v.shape
    orders = {"identity": list(range(dim)), "reverse": list(range(dim))[::-1]}
    order = orders[layer.order] if isinstance(layer.order, str) else list(layer.order)

    def theta(x: Array) -> Array:
        u = np.concatenate([c, x[:, order[:-1]]], axis=1)
        return network(params, prefix, layer.conditioner, u).reshape(rows, dim, -1)

    out, slope = v.copy(), np.zeros((rows, dim))
    if parallel:
        out[:, order], slope = transform_forward(layer.transform, theta(v), v[:, order])
    else:
        for p, i in enumerate(order):
            out[:, i], slope[:, p] = transform_inverse(layer.transform, theta(out)[:, p], v[:, i])
    return out, slope.sum(axis=1)


def lu(layer: ps.LULinear, dim: int, params: dict[str, Array], index: int) -> tuple[Array, Array, Array]:
    """L, U and b of an LU layer."""
    matrix = params[f"layers.{index}.lu"]
    signs = np.ones(dim) if isinstance(layer.signs, str) else np.array(layer.signs)
    upper = np.triu(matrix, 1) + np.diag(signs * np.exp(np.diag(matrix)))
    return np.tril(matrix, -1) + np.eye(dim), upper, params[f"layers.{index}.bias"]


def loc_scale(flow: ps.Flow) -> tuple[Array, Array]:
    """The standardisation."""
    buffers = np.array(flow._snapshot.buffers, np.float64)
    return buffers[: flow.dim], buffers[flow.dim : 2 * flow.dim]


def to_latent(flow: ps.Flow, x: Array, context: Array | None = None) -> tuple[Array, Array]:
    """``z`` and ``log|det dz/dx|``."""
    loc, scale = loc_scale(flow)
    v, c = (np.array(x, np.float64) - loc) / scale, features(flow, len(x), context)
    log_det = np.full(len(v), -np.log(scale).sum())
    for index in reversed(range(len(flow.spec.layers))):
        v, change = step(flow, index, v, False, c)
        log_det = log_det + change
    return v, log_det


def to_data(flow: ps.Flow, z: Array, context: Array | None = None) -> tuple[Array, Array]:
    """``x`` and ``log|det dx/dz|``."""
    loc, scale = loc_scale(flow)
    v, c = np.array(z, np.float64), features(flow, len(z), context)
    log_det = np.full(len(v), np.log(scale).sum())
    for index in range(len(flow.spec.layers)):
        v, change = step(flow, index, v, True, c)
        log_det = log_det + change
    return v * scale + loc, log_det


def log_prob(flow: ps.Flow, x: Array, context: Array | None = None) -> Array:
    """The log-density of rows."""
    z, log_det = to_latent(flow, x, context)
    return log_det - 0.5 * (z**2).sum(axis=1) - 0.5 * flow.dim * math.log(2 * math.pi)


def philox(seed: int, counter: tuple[Any, Any, Any, Any]) -> list[Array]:
    """Philox4x32-10 (Salmon et al. 2011) on arrays of counters: four words."""
    mask = np.uint64(0xFFFFFFFF)
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    c = [np.asarray(word, np.uint64) & mask for word in counter]
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        shift = np.uint64(32)
        c = [(p1 >> shift) ^ c[1] ^ k0, p1 & mask, (p0 >> shift) ^ c[3] ^ k1, p0 & mask]
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return c


def normals(seed: int, first: int, rows: int, dim: int, context_row: int = 0) -> Array:
    """Draws ``first ..`` of the base density, ``(rows, dim)``."""
    out = np.empty((rows, dim))
    draws = np.arange(first, first + rows, dtype=np.uint64)
    high = (draws >> np.uint64(32)) << np.uint64(8)  # above the stream, which is 0
    for f in range(dim):
        words = philox(seed, (draws, context_row, f // 4 | context_row >> 32 << 24, high))
        pair = (f % 4) // 2
        w0, w1 = words[2 * pair], words[2 * pair + 1]
        r = np.sqrt(-2 * np.log(((w0 >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-31))
        # Only the last bits of the angle depend on how it is split into a quarter turn and a rest.
        angle = 2 * math.pi * w1.astype(np.float64) * 2.0**-32
        out[:, f] = r * (np.cos(angle) if f % 2 == 0 else np.sin(angle))
    return out


def permutation(seed: int, epoch: int, n: int) -> Array:
    """The keyed permutation of ``range(n)``."""
    if n <= 1:
        return np.arange(n)
    blocks = [philox(seed, (epoch & 0xFFFFFFFF, epoch >> 32, block, 4)) for block in range(16)]
    words = [int(w) for block in blocks for w in block]
    if n <= 64:
        drawn = list(range(n))
        for i in range(n - 1, 0, -1):
            j = (words[i - 1] * (i + 1)) >> 32
            drawn[i], drawn[j] = drawn[j], drawn[i]
        return np.array(drawn)
    half = ((n - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    keys, swap = words[:6], words[6] & 1 if n == 1 << 2 * half else 0

    def mix(r: int, key: int) -> int:
        h = ((r ^ key) * 0x9E3779B1) & 0xFFFFFFFF
        h ^= h >> 15
        h = (h * 0x85EBCA77) & 0xFFFFFFFF
        h ^= h >> 13
        h = (h * 0xC2B2AE3D) & 0xFFFFFFFF
        return h ^ (h >> 16)

    out = []
    for v in range(n):
        while True:
            left, right = v >> half, v & mask
            for key in keys:
                left, right = right, left ^ (mix(right, key) & mask)
            v = (left << half) | right
            if v < n:
                break
        out.append(v ^ swap if v < 2 else v)
    return np.array(out)
