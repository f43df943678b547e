"""Draws of the base alone and their way back: what reverse KL takes gradients of learned bases by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, rng
from helpers import assert_same_bits, derivative

Array = np.ndarray[Any, Any]

ROWS = 150  # two tiles and a part
MIXED = ["real", (0, 1), "positive", "real", ps.periodic(0, 360), "real"]
LAYERS = [ps.Permutation((3, 1, 4, 0, 5, 2)), ps.Coupling(ps.RationalQuadratic(4), ps.MLP((8,), "tanh"))]


def network() -> ps.MLP:
    return ps.MLP((6,), "tanh")


BASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "normal": (ps.Normal(6), {}),
    "student": (ps.StudentT(6, df=[0.6, 1.0, 3.0, 10.0, 1e3, 1e5]), {}),
    "mixture": (ps.GaussianMixture(6, components=3), {}),
    "product": (
        ps.Product([ps.GaussianMixture(2, components=2), ps.StudentT(1), ps.StudentT(1, 4.0, False), ps.GaussianMixture(2, 5)]),
        {},
    ),
    "kinds": (ps.GaussianMixture(6, components=3), {"support": MIXED}),
    "given normal": (ps.Normal(6, network()), {"context_dim": 2}),
    "given student": (ps.StudentT(6, 3.0, conditioner=network()), {"context_dim": 2}),
    "given mixture": (
        ps.Product([ps.GaussianMixture(4, 3, conditioner=network()), ps.GaussianMixture(2, 2)]),
        {"context_dim": 2, "embedding": ps.MLP((5,), "tanh"), "support": MIXED},
    ),
}  # fmt: skip

# Numba compiles kernels for seconds: it has every kind once, in CI.
IN_CI = "student", "given mixture"
each_base = pytest.mark.parametrize(
    ("name", "backend"),
    [
        pytest.param(name, backend, marks=pytest.mark.slow if backend == "numba" else ())
        for backend in BACKENDS
        for name in (BASES if backend == "cpp" else IN_CI)
    ],
)


def flow_of(name: str, backend: str = "auto", dtype: str = "float64") -> ps.Flow:
    base, options = BASES[name]
    flow = ps.Flow(base, LAYERS, dtype=dtype, backend=backend, rng=0, **options)
    flow.params = flow.params + rng("latents", name).normal(0, 0.3, flow.n_params)
    return flow


def inputs_of(flow: ps.Flow) -> tuple[Any, Array | None, Array]:
    """A runner, a context for each two rows, and components of the mixtures of the base."""
    from penstock.base import blocks

    counts = [base.components for base, _ in blocks(flow.spec.base) if isinstance(base, ps.GaussianMixture)]
    chosen = np.array([np.arange(ROWS) * (i + 1) % count for i, count in enumerate(counts)], np.int64)
    context = rng("context").normal(size=(ROWS // 2, 2)) if flow.context_dim else None
    return flow._runner(), context, chosen.reshape(len(counts), ROWS)


@each_base
def test_latents_are_what_samples_are_made_of(name: str, backend: str) -> None:
    flow = flow_of(name, backend)
    runner, context, chosen = inputs_of(flow)
    packed = flow._snapshot.pack(runner)
    z, log_weight = runner.latents(packed, ROWS, 7, context, numbers=(3, 4))
    x, log_p = runner.sample(packed, ROWS, 7, context, log_prob=True, numbers=(3, 4))
    found, log_det = runner.transform(packed, True, z, context)
    assert_same_bits(found, x)
    assert not log_weight.any()
    np.testing.assert_allclose(runner.log_base(packed, z, context) - log_det, log_p, rtol=1e-9, atol=1e-7)
    if len(chosen):
        picked, log_weight = runner.latents(packed, ROWS, 7, context, chosen, numbers=(3, 4))
        assert (log_weight < 0).all()
        assert (picked != z).any()
        parts = [runner.latents(packed, 2, 7, c, chosen[:, 2 * i : 2 * i + 2].copy(), numbers=(3, 4 + i)) for i, c in
                 enumerate(context if context is not None else [])]  # fmt: skip
        if parts:
            assert_same_bits(np.concatenate([part for part, _ in parts]), picked)
        with pytest.raises(ValueError, match="components must"):
            runner.latents(packed, ROWS, 7, context, chosen + 9)


@each_base
def test_gradients_of_draws_match_differences(name: str, backend: str) -> None:
    flow = flow_of(name, backend)
    runner, context, chosen = inputs_of(flow)
    given = chosen if len(chosen) else None
    start, buffers = flow._snapshot.params, flow._snapshot.buffers
    d_z = rng("d_z").normal(size=(ROWS, 6))
    d_weight = rng("d_weight").normal(size=ROWS)
    direction = rng("direction", name).normal(size=flow.n_params) * (start != 0)

    def along(h: float) -> Array:
        z, weight = runner.latents(runner.pack(start + h * direction, buffers), ROWS, 7, context, given, numbers=(3, 4))
        return np.asarray((d_z * z).sum() + (d_weight * weight).sum())

    packed = runner.pack(start, buffers)
    grad = runner.latents_vjp(packed, 7, d_z, d_weight, context, given, numbers=(3, 4))
    expected = float(derivative(along, 1e-5))
    assert float(grad @ direction) == pytest.approx(expected, rel=2e-7)
    assert abs(expected) > 1e-3
    z, _ = runner.latents(packed, ROWS, 7, context, given, numbers=(3, 4))
    d_base, d_params = runner.log_base_vjp(packed, z, d_weight, context)

    def density(h: float) -> Array:
        moved = runner.pack(start + h * direction, buffers)
        return np.asarray((d_weight * runner.log_base(moved, z + h * d_z, context)).sum())

    expected = float(derivative(density, 1e-5))
    assert float(d_params @ direction + (d_base * d_z).sum()) == pytest.approx(expected, rel=2e-7)


@pytest.mark.parametrize("name", ["product", "given mixture"])
def test_gradients_of_draws_are_the_same_bits_on_any_threads(name: str) -> None:
    flow = flow_of(name, dtype="float32")
    runner, context, chosen = inputs_of(flow)
    packed, found = flow._snapshot.pack(runner), []
    for threads in (1, 2):
        with ps.threads(threads):
            d_z = np.ones((ROWS, 6), np.float32)
            found.append(runner.latents_vjp(packed, 7, d_z, None, context, chosen))
    assert_same_bits(*found)
    assert np.abs(found[0]).max() > 0
