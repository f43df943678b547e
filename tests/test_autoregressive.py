"""The autoregressive layer: who depends on whom, the same bits in both directions, and masks that nothing gets around."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference
from cases import rng, standardisation
from helpers import (
    assert_close,
    assert_same_bits,
    backend_of,
    both_dtypes,
    each_backend,
    engine_evaluate,
    engine_of,
    engine_vjp,
    inside,
    sealed,
    table_of,
    tensors_of,
)
from penstock import plan_table

Array = np.ndarray[Any, Any]

# dim, hidden, residual, order: deeper and flatter, wider and narrower than the dimensions, and register blocks of 6 apart
SHAPES = [
    (2, (3,), False, "identity"),
    (3, (), False, "reverse"),
    (5, (16, 8), False, (3, 1, 4, 0, 2)),
    (6, (4, 4, 4), True, "reverse"),
    (8, (65, 33), False, "random"),
    (13, (5,), False, "random"),
    (17, (40, 40, 40), True, "random"),
    (40, (7, 90, 24), False, "identity"),
]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, (shape[0], *shape[1]))))


def layer_flow(
    shape: Any, backend: str, dtype: str, explicit: str = "to_latent", activation: str = "tanh", transform: Any = None
) -> ps.Flow:
    """One layer with random parameters of moderate size."""
    dim, hidden, residual, order = shape
    layer = ps.Autoregressive(transform or ps.Affine(), ps.MLP(hidden, activation, residual), order, explicit)
    flow = ps.Flow(ps.StandardNormal(dim), [layer], dtype=dtype, rng=5, backend=backend)
    source = rng("autoregressive", shape)
    flow.params = np.concatenate(
        [
            0.7 * source.standard_normal(value.size) / np.sqrt(value.shape[0] if value.ndim == 2 and len(value) else 4)
            for value in flow.named_params().values()
        ]
    )
    return flow


def order_of(flow: ps.Flow) -> list[int]:
    """The dimensions in the layer's order."""
    return list(flow.spec.layers[0].dimensions(flow.dim))  # type: ignore[attr-defined]


# -- who depends on whom ------------------------------------------------------------------------


@each_shape
@each_backend
@inside("explicit", ["to_latent", "to_data"])
def test_the_jacobian_is_triangular_in_the_order_of_the_layer(shape: Any, backend: str, explicit: str) -> None:
    flow = layer_flow(shape, backend, "float64", explicit)
    dim, order, h = flow.dim, order_of(flow), 1e-5
    x = rng("jacobian").standard_normal(dim)
    for function in (flow.to_latent, flow.to_data):
        moved = np.concatenate([x + h * np.eye(dim), x - h * np.eye(dim)])
        y = function(moved)[0]
        jacobian = ((y[:dim] - y[dim:]) / (2 * h)).T[np.ix_(order, order)]
        assert (np.triu(jacobian, 1) == 0).all()
        assert (np.diag(jacobian) > 0).all()
        np.testing.assert_allclose(function(x)[1], np.log(np.diag(jacobian)).sum(), atol=1e-7)
        below = jacobian[np.tril_indices(dim, -1)]
        # A layer of fewer units than dimensions leaves some pairs unconnected; nothing else does.
        assert (below != 0).mean() > (0.99 if min(flow.spec.layers[0].conditioner.hidden, default=99) >= dim else 0.4)  # type: ignore[attr-defined]


@each_shape
@each_backend
@both_dtypes
@inside("value", [np.nan, np.inf, 1e30])
def test_a_dimension_changes_no_bit_of_those_before_it(shape: Any, backend: str, dtype: str, value: float) -> None:
    flow = layer_flow(shape, backend, dtype, activation="relu")
    order = order_of(flow)
    x = rng("before").standard_normal((70, flow.dim)).astype(dtype)
    for function in (flow.to_latent, flow.to_data):
        plain, one = function(x)[0], function(x[0])[0]
        for i in {0, 1, flow.dim // 2, flow.dim - 1}:
            moved = x.copy()
            moved[:, order[i]] = value
            with np.errstate(all="ignore"):
                assert_same_bits(function(moved)[0][:, order[:i]], plain[:, order[:i]])
                assert_same_bits(function(moved[0])[0][order[:i]], one[order[:i]])


@pytest.mark.parametrize(
    ("n_context", "dim", "hidden"), [(0, 5, (4, 16)), (0, 64, (8,)), (3, 5, (4, 16)), (0, 1, (3,)), (2, 1, (3,))]
)
def test_degrees_rise_reach_everybody_and_are_shared_evenly(n_context: int, dim: int, hidden: tuple[int, ...]) -> None:
    inputs, *layers, outputs = ps.MLP(hidden).degrees(n_context, (1,) * dim, (2,) * dim)
    assert inputs == (*[0] * n_context, *range(1, dim))
    assert outputs == tuple(i for i in range(dim) for _ in range(2))
    for degrees, width in zip(layers, hidden, strict=True):
        assert list(degrees) == sorted(degrees)
        assert len(degrees) == width
        assert (degrees[0] >= 1) == (n_context == 0 and dim > 1)
        assert degrees[-1] <= dim - 1
        counts = np.bincount(degrees, minlength=dim)[0 if n_context or dim == 1 else 1 :]
        assert counts.max() - counts.min() <= 1


# -- the two directions -------------------------------------------------------------------------


@each_shape
@each_backend
@both_dtypes
@inside("explicit", ["to_latent", "to_data"])
def test_the_sequential_direction_is_the_loop_over_dimensions(
    shape: Any, backend: str, dtype: str, explicit: str
) -> None:
    flow = layer_flow(shape, backend, dtype, explicit)
    y = rng("loop").standard_normal((150, flow.dim)).astype(dtype)
    function, naive = (
        (flow.to_data, reference.to_data) if explicit == "to_latent" else (flow.to_latent, reference.to_latent)
    )
    want, want_log_det = naive(flow, y)
    size = np.abs(want).max(axis=1, keepdims=True)
    x, log_det = function(y)
    # A dimension carries what the ones before it rounded, times the slopes of the network.
    assert_close(x, want, 512, dtype, scale=size)
    assert_close(log_det, want_log_det, 512, dtype, scale=size[:, 0])


@each_shape
@each_backend
@both_dtypes
@inside("activation", ["relu", "silu"])
def test_both_directions_give_every_unit_the_same_bits(shape: Any, backend: str, dtype: str, activation: str) -> None:
    """Where theta is zero the map is exactly the identity; where x is zero, y is exactly the shift.

    So x comes back from y bit for bit if, and only if, all shifts are the same bits in both directions; and then the
    log-determinants, which add up the scales, are too.
    """
    flow = layer_flow(shape, backend, dtype, activation=activation)
    order, last = order_of(flow), len(flow.spec.layers[0].conditioner.hidden)  # type: ignore[attr-defined]
    params = {name: value.copy() for name, value in flow.named_params().items()}
    weight, bias = (params[f"layers.0.conditioner.{last}.{kind}"] for kind in ("weight", "bias"))
    plain = np.arange(flow.dim) % 2 == 0  # positions in the order
    weight[:, np.repeat(plain, 2)] = 0
    bias[np.repeat(plain, 2)] = 0
    flow.params = np.concatenate([value.ravel() for value in params.values()])
    x = rng("bits").standard_normal((150, flow.dim)).astype(dtype)
    x[:, [d for i, d in enumerate(order) if not plain[i]]] = 0
    y, log_det = flow.to_latent(x)
    back, log_det_back = flow.to_data(y)
    assert (np.abs(log_det) > 0).all()
    assert_same_bits(back, x)
    assert_same_bits(-log_det_back, log_det)
    for row in (0, 149):
        assert_same_bits(flow.to_latent(x[row])[0], y[row])
        assert_same_bits(flow.to_data(y[row])[0], x[row])


@each_backend
def test_theta_of_one_dimension_is_free(backend: str) -> None:
    flow = ps.Flow(ps.StandardNormal(1), [ps.Autoregressive(ps.Affine(), ps.MLP((4,)))], rng=0, backend=backend)
    flow.params = rng("one").standard_normal(flow.n_params)
    x = np.linspace(-3, 3, 50)[:, None]
    z, log_det = flow.to_latent(x)
    assert np.ptp(log_det) == 0
    assert log_det[0] != 0
    np.testing.assert_allclose(np.diff(z[:, 0]) / np.diff(x[:, 0]), np.exp(log_det[1:]), rtol=1e-4)


# -- masks --------------------------------------------------------------------------------------


def hidden_numbers(flow: ps.Flow) -> Array:
    """What the masks hide."""
    named = flow.named_params()
    return np.concatenate([named[t.name][~t.mask] for t in tensors_of(flow) if t.mask is not None])


@each_backend
def test_what_masks_hide_is_zero_whatever_is_assigned(backend: str) -> None:
    flow = ps.maf(5, layers=2, hidden=(16, 8), rng=0, backend=backend)
    assert (hidden_numbers(flow) == 0).all()
    x = rng("masked").standard_normal((70, 5))
    values = rng("assigned").standard_normal(flow.n_params)
    flow.params = values
    assert (hidden_numbers(flow) == 0).all()
    kept = flow.params.copy()
    assert (kept != 0).sum() == flow.n_params - hidden_numbers(flow).size
    density = flow.log_prob(x)
    flow.params = kept
    assert_same_bits(flow.log_prob(x), density)


@each_backend
@both_dtypes
def test_the_engine_never_reads_what_masks_hide(backend: str, dtype: str) -> None:
    flow = ps.maf(9, layers=2, hidden=(16, 24), rng=0, backend=backend, dtype=dtype)
    flow.params = rng("engine").standard_normal(flow.n_params) / 4
    dirty = flow.params.copy()
    for t in tensors_of(flow):
        if t.mask is not None:
            dirty[t.offset : t.offset + t.size].reshape(t.shape)[~t.mask] = np.nan
    x = rng("dirty").standard_normal((130, 9)).astype(dtype)
    results = []
    for params in (np.ascontiguousarray(flow.params), dirty):
        packed, arrays = engine_of(flow).pack(params, standardisation(flow)), []
        for to_data in (False, True):
            for rows in (130, 1):
                out, log_det = np.empty((rows, 9), dtype), np.empty(rows, dtype)
                engine_evaluate(flow, to_data, x[:rows], out=out, log_det=log_det, packed=packed)
                arrays += [out, log_det]
            d_x, d_params = np.empty_like(x), np.zeros(flow.n_params)
            engine_vjp(flow, to_data, x, x, np.ones(130, dtype), d_x=d_x, d_params=d_params, packed=packed)
            arrays += [d_x, d_params]
        results.append(arrays)
    for clean, other in zip(*results, strict=True):
        assert np.isfinite(clean).all()
        assert_same_bits(other, clean)


@pytest.mark.parametrize("optimizer", [ps.Adam, ps.AdamW])
@each_backend
def test_training_leaves_zero_what_masks_hide(backend: str, optimizer: Any) -> None:
    flow = ps.iaf(5, layers=2, hidden=(16, 8), rng=0, backend=backend)
    x = rng("train").standard_normal((500, 5)) @ rng("mix").standard_normal((5, 5))
    before = flow.score(x)
    flow.fit(x, epochs=5, batch_size=50, weight_decay=0.01, learning_rate=1e-2, rng=0, progress=False)
    assert flow.score(x) > before
    assert (hidden_numbers(flow) == 0).all()
    loss, weight, grad = flow.loss_and_grad(x)
    shown = {t.name: grad[t.offset : t.offset + t.size].reshape(t.shape) for t in tensors_of(flow)}
    assert all((shown[t.name][~t.mask] == 0).all() for t in tensors_of(flow) if t.mask is not None)
    optimizer(1e-2, weight_decay=0.1).step(flow, grad / weight + 1)
    assert (hidden_numbers(flow) == 0).all()
    assert np.isfinite(loss)


def test_a_file_with_numbers_behind_a_mask_is_refused() -> None:
    flow = ps.maf(3, layers=1, hidden=(4,), rng=0)
    data = bytearray(flow.to_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    name = "layers.0.conditioner.0.weight"
    offset = json.loads(data[8:start])[name]["data_offsets"][0]
    masked = int(np.flatnonzero(~tensors_of(flow)[0].mask)[0])  # type: ignore[operator]
    assert ps.from_bytes(bytes(data)).dim == 3
    at = start + offset + 4 * masked
    data[at : at + 4] = np.float32(0.5).tobytes()
    with pytest.raises(ValueError, match=f"{name} holds numbers where its mask has none"):
        ps.from_bytes(sealed(bytes(data)))


def test_a_fresh_unit_has_the_variance_of_what_it_reads() -> None:
    flow = ps.maf(33, layers=1, hidden=(2048, 2048), activation="relu", rng=0)
    x = rng("variance").standard_normal((2000, 33))
    named = {name: np.asarray(value, np.float64) for name, value in flow.named_params().items()}
    first = x[:, :32] @ named["layers.0.conditioner.0.weight"]
    second = np.maximum(first, 0) @ named["layers.0.conditioner.1.weight"]
    for level in (first, second):
        variance = (level**2).mean(axis=0).reshape(32, -1).mean(axis=1)  # a degree
        assert (np.abs(variance - 2) < 0.7).all()


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda: ps.Autoregressive(order="sorted"), ValueError, "order must be one of"),
        (lambda: ps.Autoregressive(order=(0, -1)), ValueError, "order must hold indices"),
        (lambda: ps.Autoregressive(explicit="forward"), ValueError, "explicit must be one of"),
        (lambda: ps.Flow(ps.StandardNormal(3), [ps.Autoregressive(order=(0, 1))]), ValueError, r"each of 0\.\.2 once"),
        (
            lambda: ps.Flow(ps.StandardNormal(3), [ps.Autoregressive(order=(0, 1, 1))]),
            ValueError,
            r"each of 0\.\.2 once",
        ),
        (lambda: ps.maf(3, mixing="shuffle"), ValueError, "mixing must be one of"),
        (lambda: ps.maf(3, layers=0), ValueError, "layers must be at least 1"),
        (lambda: ps.nsf_ar(3, bins=1), ValueError, "bins"),
    ],
)
def test_bad_input_is_named(make: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        make()


@pytest.mark.parametrize("wrong", [[1, 0], [0, -1], [3, 3], [-1, 0]])
@each_backend
def test_a_plan_with_degrees_that_do_not_rise_is_refused(backend: str, wrong: list[int]) -> None:
    flow = ps.Flow(ps.StandardNormal(3), [ps.Autoregressive(conditioner=ps.MLP((2,)))], rng=0, backend=backend)
    table = plan_table.read(table_of(flow))
    at = table.linears[0]["out_degrees"]
    table.ints[at : at + 2] = wrong
    with pytest.raises(ValueError, match="degree"):
        backend_of(flow).Engine(table.write())


@pytest.mark.parametrize("recipe", ["maf", "iaf", "nsf_ar"])
@pytest.mark.parametrize("mixing", ["reverse", "random", "lu", "none", None])
def test_recipes_change_the_order_from_layer_to_layer(recipe: str, mixing: str | None) -> None:
    flow = getattr(ps, recipe)(4, layers=3, mixing=mixing, rng=0)
    orders = [layer.dimensions(4) for layer in flow.spec.layers if isinstance(layer, ps.Autoregressive)]
    assert len(orders) == 3
    assert orders[0] == (0, 1, 2, 3)
    assert (orders[1] == orders[0]) == (mixing in ("lu", "none", None))
    assert sum(isinstance(layer, ps.LULinear) for layer in flow.spec.layers) == (2 if mixing == "lu" else 0)


@pytest.mark.parametrize("recipe", ["maf", "iaf"])
def test_recipes_of_one_dimension_warn_that_they_are_gaussians(recipe: str) -> None:
    with pytest.warns(UserWarning, match="Gaussian"):
        assert getattr(ps, recipe)(1).dim == 1
