"""An independent evaluator in plain NumPy, float64: what every backend has to agree with.

It shares no line with the engines. Layers and networks are those of the evaluator in docs/file-format.md; the transforms stand
here, written from the papers, their inverses by bisection. Philox, normals and permutations are those of the standard library's
integers and the C library's functions.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

import penstock as ps
from cases import context_scale, data_scale, support_scale
from helpers import HERE
from penstock.files import specs
from penstock.transforms import TRANSFORMS

Array = np.ndarray[Any, Any]


def named(flow: ps.Flow) -> dict[str, Array]:
    """The parameters of a flow by name, float64."""
    return {name: np.array(value, np.float64) for name, value in dict(flow.named_params()).items()}


def transform_forward(transform: Any, theta: Array, x: Array) -> tuple[Array, Array]:
    """``y`` and the elementwise log slope."""
    if transform.name == "additive":
        return x + theta[..., 0], np.zeros_like(x)
    if transform.name == "rational_quadratic":
        return spline(transform, theta, x)
    if transform.name == "box_rational_quadratic":
        return spline(transform, theta, np.clip(x, -transform.bound, transform.bound))
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
    if transform.name in ("rational_quadratic", "box_rational_quadratic"):
        if transform.name == "box_rational_quadratic":
            y = np.clip(y, -transform.bound, transform.bound)
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
    ends = {"circular_rational_quadratic": [inner, inner[..., :1]], "box_rational_quadratic": [inner]}
    slopes = np.concatenate(ends.get(transform.name, [one, inner, one]), axis=-1)
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
    x0, x1, y0, y1, d0, d1 = bin_of(x, x_k, x_k, y_k, slope)
    s, xi = (y1 - y0) / (x1 - x0), np.clip((x - x0) / (x1 - x0), 0, 1)
    below = s + (d1 + d0 - 2 * s) * xi * (1 - xi)
    y = y0 + (y1 - y0) * (s * xi**2 + d0 * xi * (1 - xi)) / below
    log_slope = 2 * np.log(s) + np.log(d1 * xi**2 + 2 * s * xi * (1 - xi) + d0 * (1 - xi) ** 2) - 2 * np.log(below)
    return np.where(inside, y, outer), np.where(inside, log_slope, 0.0)


def bin_of(v: Array, along: Array, *arrays: Array) -> list[Array]:
    """Of each array, its numbers at both ends of the bin where v lies along one of them."""
    k = np.clip((v[..., None] >= along).sum(axis=-1) - 1, 0, along.shape[-1] - 2)[..., None]
    return [np.take_along_axis(a, k + i, axis=-1)[..., 0] for a in arrays for i in (0, 1)]


def bisect(transform: ps.RationalQuadratic, theta: Array, y: Array) -> Array:
    """The x whose image is y, by halving its bin until nothing changes: the inverse of eq. 4 without eq. 6 and its roots."""
    x_k, y_k, slope = (np.broadcast_to(k, (*y.shape, k.shape[-1])) for k in knots(transform, theta))
    low, high, y0, y1, d0, d1 = bin_of(y, y_k, x_k, y_k, slope)
    x0, width, rise = low, high - low, y1 - y0
    s = rise / width
    for _ in range(64):
        middle = 0.5 * (low + high)
        xi = (middle - x0) / width
        both = xi * (1 - xi)
        above = y0 + rise * (s * xi * xi + d0 * both) / (s + (d1 + d0 - 2 * s) * both) > y
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.where(np.abs(y) <= transform.bound, 0.5 * (low + high), y)


def log_scale(r: Array, bound: float) -> Array:
    """The bounded log-scale of the affine transform."""
    return r if math.isinf(bound) else r / np.sqrt(1 + (r / bound) ** 2)


def reader() -> dict[str, Any]:
    """The evaluator of docs/file-format.md, with the transforms of this page in the place of its own."""
    text = (HERE.parent / "docs" / "file-format.md").read_text()
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", text, flags=re.S)[0], names)
    names["transform"] = _moved
    return names


def _moved(record: dict[str, Any], theta: Array, x: Array, inverse: bool) -> tuple[Array, Array]:
    options = {name: math.inf if value == "inf" else value for name, value in record.items() if name != "type"}
    transform = TRANSFORMS[record["type"]](**options)
    y, slope = (transform_inverse if inverse else transform_forward)(transform, np.asarray(theta, np.float64), x)
    return y, np.broadcast_to(slope, x.shape).sum(axis=1)


_reader = reader()


def _model(flow: ps.Flow) -> tuple[dict[str, Any], dict[str, Array]]:
    """The spec of a flow as its file has it, and the tensors, float64."""
    names = ("standardize.loc", "standardize.scale", "context.loc", "context.scale")
    buffers = dict(zip(names, (*data_scale(flow), *context_scale(flow)), strict=True))
    buffers["support.numbers"] = support_scale(flow)
    return json.loads(json.dumps(specs.encode(flow.spec))), {**named(flow), **buffers}


def _run(verb: str, flow: ps.Flow, rows: Array, context: Array | None) -> Any:
    if flow.context_dim and context is None:
        context = flow.context  # type: ignore[attr-defined]
    x = np.array(rows, np.float64)
    if len(x) == 0:  # a shape of none is not to be inferred
        given = np.zeros((1, flow.context_dim)) if np.ndim(context) == 2 else context
        result = _reader[verb](*_model(flow), np.zeros((1, flow.dim)), given)
        return result[:0] if verb == "log_prob" else tuple(part[:0] for part in result)
    return _reader[verb](*_model(flow), x, context)


def to_latent(flow: ps.Flow, x: Array, context: Array | None = None) -> tuple[Array, Array]:
    """``z`` and ``log|det dz/dx|``."""
    z, log_det = _run("to_latent", flow, x, context)
    return z, log_det


def to_data(flow: ps.Flow, z: Array, context: Array | None = None) -> tuple[Array, Array]:
    """``x`` and ``log|det dx/dz|``."""
    x, log_det = _run("to_data", flow, z, context)
    return x, log_det


def log_prob(flow: ps.Flow, x: Array, context: Array | None = None) -> Array:
    """The log-density of rows."""
    density: Array = _run("log_prob", flow, x, context)
    return density


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
