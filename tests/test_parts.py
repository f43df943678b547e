"""Marginals and conditionals: parts of a joint density, exact where they can be, with their error elsewhere."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import assign, rng
from helpers import assert_same_bits, each_backend, each_dtype, inside
from penstock.marginals import Marginal
from penstock.quadrature import NODES, integrate

Array = np.ndarray[Any, Any]

ORDER = (2, 0, 3, 1)


def shaken(flow: ps.Flow, gain: float = 0.3) -> ps.Flow:
    """The flow with other numbers: parameters, standardisation and scales of half-lines."""
    source = rng("shaken", flow.n_params)
    buffers = flow._snapshot.buffers.copy()
    for side, n in ((0, flow.dim), (2 * flow.dim, flow.context_dim)):
        buffers[side : side + n] = source.normal(0, 0.5, n)
        buffers[side + n : side + 2 * n] = source.uniform(0.5, 2, n)
    buffers[2 * (flow.dim + flow.context_dim) :] = source.uniform(0.5, 2)
    assign(flow, params=flow.params + gain * source.standard_normal(flow.n_params), buffers=buffers)
    return flow


def ordered(dim: int = 4, order: Any = ORDER, recipe: str = "nsf_ar", **options: Any) -> ps.Flow:
    own = {"layers": 3, "hidden": (16, 10), "mixing": "none", "dtype": "float64", **options}
    return shaken(getattr(ps, recipe)(dim, order=order, rng=0, **own))


def mixed(dim: int, gain: float = 0.15, **options: Any) -> ps.Flow:
    """A flow of which no part is a flow, smooth enough for a grid."""
    own = {"layers": 2, "hidden": (8,), "dtype": "float64", "mixing": "lu", **options}
    return shaken(ps.maf(dim, rng=0, **own), gain)


def context_of(flow: ps.Flow, rows: int) -> Array | None:
    return rng("context of", rows).normal(size=(rows, flow.context_dim)) if flow.context_dim else None


# -- exact marginals ---------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "splines": {},
    "affine": {"recipe": "maf"},
    "inverse": {"recipe": "iaf"},
    "context": {"context_dim": 2},
    "base context": {"context_dim": 2, "base_context": (5,)},
    "embedding": {"context_dim": 2, "embedding": ps.MLP((5,)), "embedding_dim": 3},
    "residual": {"hidden": (16, 16), "residual": True},
    "linear": {"hidden": ()},
    "narrow": {"hidden": (2, 7)},
    "supports": {"support": {0: "positive", 2: (None, 3.0), 1: ps.interval(-9, 9, map="logit")}},
}
PREFIXES = ((2,), (0, 2), (2, 0), (3, 2, 0))


@each_backend
@each_dtype
@inside("variant", VARIANTS)
def test_the_first_columns_of_an_order_are_a_flow_by_themselves(variant: str, backend: str, dtype: str) -> None:
    flow = ordered(**VARIANTS[variant], dtype=dtype, backend=backend)
    x = flow.sample(None if flow.context_dim else 50, context_of(flow, 50), rng=1)
    z = flow.to_latent(x, context_of(flow, 50))[0]
    assert np.ptp(z, axis=0).min() > 1
    for columns in PREFIXES:
        part = flow.marginal(columns)
        assert type(part) is ps.Flow
        assert part.backend == backend
        assert part.spec.base.dim == len(columns)
        assert part.spec.support == (tuple(flow.spec.support[i] for i in columns) if flow.spec.support else ())
        own = part.to_latent(x[:, columns], context_of(flow, 50))[0]
        np.testing.assert_allclose(own, z[:, columns], rtol=2e-5 if dtype == "float32" else 1e-12, atol=1e-5)
        masked = [tensor for tensor in part._plan.tensors if tensor.degrees is not None]
        assert part.n_free < flow.n_free or not masked


@each_backend
@inside("support", (None, {0: "positive", 2: (None, 3.0)}))
def test_an_exact_marginal_is_the_integral_of_the_joint_density(support: Any, backend: str) -> None:
    flow = ordered(3, (2, 0, 1), "maf", support=support, backend=backend, layers=2)
    x = flow.sample(5, rng=2)
    part = flow.marginal([2, 0])
    for row in x:
        u = np.linspace(-60, 60, 20_001)
        grid = np.repeat(row[None], len(u), axis=0)
        grid[:, 1] = u
        integral = np.exp(flow.log_prob(grid)).sum() * (u[1] - u[0])
        assert part.log_prob(row[[2, 0]]) == pytest.approx(np.log(integral), abs=1e-6)


def test_a_part_is_saved_pickled_trained_and_keeps_names(tmp_path: Any) -> None:
    flow = ordered(support={"a": "positive", "b": "real", "c": "real", "d": "real"})
    part = flow.marginal(["a", "c"])
    assert part.columns == ("a", "c")
    x = part.sample(9, rng=0)
    assert (x[:, 0] > 0).all()
    part.save(tmp_path / "part.safetensors")
    assert_same_bits(ps.load(tmp_path / "part.safetensors").log_prob(x), part.log_prob(x))
    assert_same_bits(pickle.loads(pickle.dumps(part)).log_prob(x), part.log_prob(x))
    table = {"c": x[:, 1], "a": x[:, 0]}
    assert_same_bits(part.log_prob(table), part.log_prob(x))
    before = part.log_prob(x)
    flow.params = 0 * flow.params
    assert_same_bits(part.log_prob(x), before)
    fitted = flow.fit(flow.sample(300, rng=1), epochs=1, rng=0)
    assert fitted.marginal("c").fitted
    assert len(part.fit(part.sample(300, rng=1), epochs=1, rng=0).history) == 1


def test_couplings_elementwise_layers_and_permutations_have_parts_too() -> None:
    layers = [
        ps.ActNorm(), ps.Coupling(ps.Affine(), ps.MLP((5,)), split=(3, 0)), ps.Elementwise(ps.RationalQuadratic()),
        ps.Permutation((2, 3, 0, 1)), ps.Autoregressive(ps.Affine(), ps.MLP((7,)), order=(1, 2, 3, 0)),
    ]  # fmt: skip
    flow = shaken(ps.Flow(ps.StandardNormal(4), layers, dtype="float64", rng=0))
    x = flow.sample(40, rng=0)
    z = flow.to_latent(x)[0]
    exact = flow.marginal([1, 2])
    assert isinstance(exact, ps.Flow)
    # Data column 1 is dimension 3 on the latent side, column 2 dimension 0: they are what the coupling reads.
    assert [layer for layer in exact.spec.layers if isinstance(layer, (ps.Coupling, ps.Permutation))] == []
    np.testing.assert_allclose(exact.to_latent(x[:, [1, 2]])[0], z[:, [3, 0]], atol=1e-12)
    both = flow.marginal([3, 2, 1])
    np.testing.assert_allclose(both.to_latent(x[:, [3, 2, 1]])[0], z[:, [1, 0, 3]], atol=1e-12)
    assert any(isinstance(layer, ps.Coupling) for layer in both.spec.layers)


def test_a_part_that_reads_no_context_takes_it_still(tmp_path: Any) -> None:
    layers = [ps.Coupling(ps.Affine(), ps.MLP((5,)), split=(0,))]
    flow = shaken(ps.Flow(ps.StandardNormal(2), layers, context_dim=1, dtype="float64", rng=0))
    part = flow.marginal(0)
    assert part.log_prob([[0.3]], [2.0]) == part.log_prob([[0.3]], [-1.0])
    part.save(tmp_path / "part.safetensors")
    assert ps.load(tmp_path / "part.safetensors").sample(3, [0.0]).shape == (3, 1)
    assert ps.Flow(part.spec.base, part.spec.layers, 1).context_dim == 1
    assert flow.given([0.3]).marginal(1).hidden == (0,)  # what the coupling changes rests on what it reads


def test_the_order_of_a_recipe_is_that_of_all_layers() -> None:
    for recipe in ("maf", "iaf", "nsf_ar"):
        flow = ordered(recipe=recipe)
        assert [layer.order for layer in flow.spec.layers] == [ORDER] * 3
        for bad, words in (
            ({"mixing": "lu", "order": ORDER}, "order= is that of all layers, which goes with mixing='none', got mixing='lu'"),
            ({"mixing": "none", "order": (0, 1)}, "order must hold each of 0..3 once"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=words.replace("..", r"\.\.")):
                getattr(ps, recipe)(4, rng=0, **bad)
    assert ps.nsf_ar(1, order=[0], rng=0).dim == 1
    with pytest.raises(ValueError, match="order must hold"):
        ps.nsf_ar(1, order=[1], rng=0)


# -- quadrature --------------------------------------------------------------------------------------


def grid_integral(flow: ps.Flow, row: Array, column: int, context: Any = None) -> float:
    """The logarithm of the integral over one real column, by a fine sum."""
    u = np.linspace(-80, 80, 80_001)
    full = np.repeat(row[None], len(u), axis=0)
    full[:, column] = u
    return float(np.log(np.exp(flow.log_prob(full, context).astype(np.float64)).sum() * (u[1] - u[0])))


@each_backend
@each_dtype
def test_a_marginal_over_one_column_is_the_integral_on_a_grid(backend: str, dtype: str) -> None:
    flow = mixed(3, support={0: "positive"}, dtype=dtype, backend=backend)
    part = flow.marginal([2, 0])
    assert isinstance(part, ps.Marginal)
    assert part.method == "quadrature"
    assert part.hidden == (1,)
    x = flow.sample(20, rng=0)
    found = part.estimate(x[:, [2, 0]])
    want = [grid_integral(flow.astype("float64"), row, 1) for row in x.astype(np.float64)]
    np.testing.assert_allclose(found.log_prob, want, atol=1e-4)
    assert found.log_prob.dtype == np.float64
    assert (found.error <= part.tolerance).all()
    assert np.isnan(found.ess).all()
    assert_same_bits(part.log_prob(x[3, [2, 0]]), part.log_prob(x[:, [2, 0]])[3])
    odd = part.log_prob([[0.1, np.nan], [0.1, -1.0], [np.inf, 1.0], [0.1, 1.0]])
    assert np.isnan(odd[0])
    assert odd[1] == odd[2] == -np.inf
    assert np.isfinite(odd[3])


def test_quadrature_agrees_with_the_exact_marginal_within_its_error() -> None:
    flow = ordered(3, (0, 1, 2), support={0: "positive"})
    exact = flow.marginal([0, 1])
    x = exact.sample(50, rng=1)
    for tolerance in (1e-3, 1e-4, 1e-6):
        found = Marginal(flow, (0, 1), context=None, tolerance=tolerance).estimate(x)
        assert np.abs(found.log_prob - exact.log_prob(x)).max() < tolerance
        assert (found.error <= tolerance).all()


def test_a_marginal_over_two_columns_is_that_of_the_exact_one() -> None:
    flow = ordered(3, (0, 1, 2), "maf", layers=2, hidden=(8,), support={2: "positive"})
    exact = flow.marginal(0)
    x = exact.sample(3, rng=1)
    found = Marginal(flow, (0,), context=None, tolerance=1e-3).estimate(x)
    np.testing.assert_allclose(found.log_prob, exact.log_prob(x), atol=1e-3)
    with pytest.raises(
        ValueError, match=r"quadrature takes two columns in all: there is columns 1, 2 besides.*np\.quantile"
    ):
        Marginal(flow, (0,), context=None, tolerance=1e-3).cdf([[0.0]])


def test_columns_that_can_be_left_out_exactly_are() -> None:
    flow = ordered(4, (0, 1, 2, 3), "maf", layers=2)
    part = flow.marginal([1])
    assert repr(part) == "Marginal of column 1: quadrature over column 0"
    two = flow.marginal([0, 1])
    x = two.sample(5, rng=0)
    want = [grid_integral(two, row, 0) for row in x]
    np.testing.assert_allclose(part.log_prob(x[:, [1]]), want, atol=1e-4)
    assert flow.marginal([0, 2]).hidden == (1,)
    assert isinstance(flow.conditional({1: 0.3}), ps.Conditional)
    assert flow.conditional({1: 0.3}).log_evidence == part.log_prob([0.3])


@each_dtype
@inside("support", (None, "positive", ps.interval(-9, 9, map="logit")))
def test_probabilities_of_a_marginal_are_those_of_the_exact_one(support: Any, dtype: str) -> None:
    flow = ordered(2, (0, 1), "maf", layers=2, hidden=(8,), support=support, dtype=dtype)
    exact, part = flow.marginal(0), Marginal(flow, (0,), context=None, tolerance=1e-6)
    x = exact.sample(30, rng=1)
    np.testing.assert_allclose(part.cdf(x), exact.cdf(x), atol=2e-6)
    u = np.linspace(0.001, 0.999, 21)
    np.testing.assert_allclose(exact.cdf(part.quantile(u)), u, atol=2e-6)
    np.testing.assert_allclose(part.cdf(part.quantile(u)), u, atol=1e-12)
    for shortest in (False, True):
        np.testing.assert_allclose(
            exact.cdf(part.interval(0.8, shortest=shortest)[:, None]),
            exact.cdf(exact.interval(0.8, shortest=shortest)[:, None]), atol=1e-3,
        )  # fmt: skip
    ends = {None: (-np.inf, np.inf), "positive": (0, np.inf)}.get(support, (-9, 9))
    assert part.quantile([0.0, 1.0])[:, 0].tolist() == list(ends)
    assert part.cdf([[ends[0]], [ends[1]], [-np.inf], [np.inf]]).tolist() == [0, 1, 0, 1]
    assert np.isnan(part.cdf([np.nan]))
    assert part.quantile(0.5).shape == (1,)
    assert part.quantile(np.full((2, 3), 0.5)).shape == (2, 3, 1)


def test_quadrature_finds_peaks_that_no_node_has_met() -> None:
    """Narrow normals, of which the first panels see nothing but a slope of their logarithms."""
    places = np.array([-0.93, -0.5, -0.123, 0.0, 0.3141, 0.77])
    for width in (1e-2, 1e-4, 1e-6):

        def log_f(number: Array, w: Array, floor: Array, width: float = width) -> tuple[Array, None]:
            t = (w - places[number, None]) / width
            return -0.5 * t * t - np.log(width * np.sqrt(2 * np.pi)), None

        found = integrate(log_f, 6, np.array([-1.0, -0.3, 0.3, 1.0]), 1e-6, np.full(6, -np.inf))
        assert found.converged.all()
        np.testing.assert_allclose(found.log_integral, 0, atol=1e-6)
        which = np.repeat(np.arange(6), 3)
        t = np.tile([-1.0, 0.0, 2.0], 6)
        w = places[which] + width * t
        want = np.tile([0.158655254, 0.5, 0.977249868], 6)
        np.testing.assert_allclose(found.cdf(which, w), want, atol=2e-6)
        np.testing.assert_allclose((found.quantile(which, want) - places[which]) / width, t, atol=1e-4)


def test_a_second_peak_between_nodes_is_seen_by_its_flanks() -> None:
    """A normal, and far away a Laplace density of the same mass, of which the nodes know values below exp(-20) alone."""
    far = 0.5 + 0.25 * (NODES[9] + NODES[10])  # between two nodes of the panel (0, 1)

    def log_f(number: Array, w: Array, floor: Array) -> tuple[Array, None]:
        normal = -0.5 * ((w + 0.5) / 0.02) ** 2 - np.log(0.02 * np.sqrt(2 * np.pi))
        return np.logaddexp(normal, -np.abs(w - far) / 1e-3 - np.log(2e-3)), None

    found = integrate(log_f, 1, np.array([-1.0, 0.0, 1.0]), 1e-5, np.full(1, -np.inf))
    assert found.log_integral[0] == pytest.approx(np.log(2), abs=1e-5)


def test_the_error_of_the_density_itself_is_part_of_that_of_the_integral() -> None:
    places = np.linspace(-0.5, 0.5, 20)
    for blur, fine in ((2e-5, True), (9e-5, True), (2e-4, False)):
        evaluated = []

        def log_f(
            number: Array, w: Array, floor: Array, blur: float = blur, n: list[int] = evaluated
        ) -> tuple[Array, Array]:
            n.append(len(w))
            logs = -np.abs(w - places[number, None]) / 0.2
            return logs, logs + np.log(blur)

        found = integrate(log_f, 20, np.array([-1.0, 0.0, 1.0]), 1e-4, np.full(20, -np.inf))
        assert (found.converged == fine).all()
        assert (found.error >= blur).all()
        assert fine or sum(evaluated) == 40  # halving panels would not help


@inside("power", (1.0, 0.5))
def test_the_error_of_a_density_with_kinks_and_roots_is_hardly_less_than_the_true_one(power: float) -> None:
    source = rng("kinks")
    places = np.sort(source.uniform(-1, 1, 40))

    def log_f(number: Array, w: Array, floor: Array) -> tuple[Array, None]:
        with np.errstate(divide="ignore"):
            return power * np.log(np.abs(w - places[number, None])), None

    exact = ((1 + places) ** (1 + power) + (1 - places) ** (1 + power)) / (1 + power)
    for tolerance in (1e-2, 1e-4, 1e-6):
        found = integrate(log_f, 40, np.linspace(-1, 1, 8), tolerance, np.full(40, -np.inf))
        true = np.abs(found.log_integral - np.log(exact))
        assert found.converged.all()
        # A kink between an end of a panel and its first node is seen by none of them.
        assert true.max() <= 3 * tolerance
        assert (true <= found.error).mean() > 0.8


def test_a_density_that_does_not_converge_is_not_returned() -> None:
    flow = mixed(3)
    with pytest.raises(
        RuntimeError, match=r"over 1 column did not converge for \d of 2 integrals.*tolerance 1e-15.*proposal="
    ):
        flow.marginal([0, 1], tolerance=1e-15).log_prob(np.zeros((2, 2)))
    with pytest.raises(RuntimeError, match="did not converge"):
        flow.conditional({0: 0.3, 1: 0.0}, tolerance=1e-15)

    def jagged(number: Array, w: Array, floor: Array) -> tuple[Array, None]:
        return 5 * np.sin(1e5 * w), None

    found = integrate(jagged, 1, np.array([-1.0, 1.0]), 1e-6, np.full(1, -np.inf))
    assert not found.converged.any()


# -- conditionals ------------------------------------------------------------------------------------


@each_backend
@each_dtype
def test_an_exact_conditional_normalises_and_is_sampled(backend: str, dtype: str) -> None:
    flow = ordered(3, (2, 0, 1), "maf", layers=2, support={1: "positive"}, dtype=dtype, backend=backend)
    rest = flow.conditional({2: 0.4, 0: -0.2})
    assert (rest.method, rest.error, rest.dim, rest.dtype) == ("exact", 0.0, 1, flow.dtype)
    x = rest.sample(4000, rng=0)
    assert x.dtype == flow.dtype
    assert (x > 0).all()
    assert np.isfinite(rest.log_prob(x)).all()
    y = np.linspace(-20, 8, 40_001)
    total = np.exp(rest.log_prob(np.exp(y)[:, None]) + y).sum() * (y[1] - y[0])
    assert total == pytest.approx(1, abs=1e-6)
    u = rest.cdf(x)
    assert kolmogorov(u) < 1.63 / np.sqrt(4000)  # passed by 99 of 100 seeds
    np.testing.assert_allclose(rest.cdf(rest.quantile([0.01, 0.5, 0.9])), [0.01, 0.5, 0.9], atol=1e-9)
    low, high = rest.interval(0.9)
    assert ((x > low) & (x < high)).mean() == pytest.approx(0.9, abs=0.02)
    assert rest.quantile([0.0, 1.0])[:, 0].tolist() == [0, np.inf]
    assert rest.log_prob([[-1.0], [np.nan]]).tolist()[0] == -np.inf
    assert_same_bits(rest.sample(7, rng=0, first=30), x[30:37])
    assert_same_bits(rest.sample((2, 3), rng=0).reshape(6, 1), x[:6])
    two = flow.conditional({2: 0.4})
    both = two.sample_and_log_prob(5, rng=3)
    assert_same_bits(both[1], two.log_prob(both[0]))
    want = flow.astype("float64").log_prob(np.insert(both[0].astype(float), 2, 0.4, axis=1))
    want = want - flow.astype("float64").marginal(2).log_prob([0.4])
    np.testing.assert_allclose(both[1], want, atol=1e-12)


def kolmogorov(u: Array) -> float:
    """The largest distance of the distribution function of a sample from that of uniform numbers."""
    u = np.sort(u)
    steps = np.arange(len(u) + 1) / len(u)
    return float(max((steps[1:] - u).max(), (u - steps[:-1]).max()))


def test_draws_of_an_exact_conditional_have_their_joint_density() -> None:
    flow = ordered(3, (2, 0, 1), "maf", layers=2)
    rest = flow.conditional({2: 0.4})
    x = rest.sample(4000, rng=5)
    # One column after the other, each given those before it (Rosenblatt 1952).
    first = flow.marginal([2, 0])
    u = flow._spec.base.cdf(first.to_latent(np.insert(x[:, :1], 0, 0.4, axis=1))[0])[:, 1]
    v = np.array([flow.conditional({2: 0.4, 0: row[0]}).cdf(row[1:]) for row in x[:400]])
    assert kolmogorov(u) < 1.63 / np.sqrt(4000)
    assert kolmogorov(v) < 1.63 / np.sqrt(400)
    assert abs(np.corrcoef(u[:400], v)[0, 1]) < 0.15


@each_backend
@each_dtype
def test_a_conditional_by_quadrature_normalises_and_is_sampled(backend: str, dtype: str) -> None:
    flow = mixed(3, support={1: "positive"}, dtype=dtype, backend=backend)
    rest = flow.conditional({0: 0.3, 2: -0.1})
    assert rest.method == "quadrature"
    assert 0 < rest.error <= 1e-4
    y = np.linspace(-25, 8, 40_001)
    total = np.exp(rest.log_prob(np.exp(y)[:, None]) + y).sum() * (y[1] - y[0])
    assert total == pytest.approx(1, abs=1e-4)
    x = rest.sample(3000, rng=0)
    assert x.dtype == flow.dtype
    assert (x > 0).all()
    assert kolmogorov(rest.cdf(x)) < 1.63 / np.sqrt(3000)
    inner = np.exp(rest.log_prob(np.exp(y)[:, None]) + y).cumsum() * (y[1] - y[0])
    np.testing.assert_allclose(rest.cdf(np.exp(y[::4000])[:, None]), inner[::4000], atol=5e-3)
    assert rest.interval(0.5, shortest=True).shape == (2,)
    assert_same_bits(rest.sample(7, rng=0, first=30), x[30:37])


@each_backend
def test_draws_by_quadrature_lie_inside_their_support_in_float32_too(backend: str) -> None:
    flow = mixed(2, support={0: ps.interval(2, 3, map="logit")}, dtype="float32", backend=backend)
    spread = flow._snapshot.buffers.copy()
    spread[2] = 20.0  # most of the mass within rounding of an end
    assign(flow, buffers=spread)
    x = flow.conditional({1: 0.1}).sample(500, rng=0)
    assert (np.abs(x - 2.5) > 0.499999).mean() > 0.2
    assert (x > 2).all()
    assert (x < 3).all()


def test_a_conditional_of_two_columns_by_quadrature_is_sampled() -> None:
    flow = mixed(3, gain=0.1)
    rest = flow.conditional({1: 0.2}, tolerance=1e-3)
    x = rest.sample(1000, rng=0)
    found = flow.marginal([0, 1])
    # By conditionals of one column, whose evidence is an integral of its own.
    v = np.array([flow.conditional({1: 0.2, 0: row[0]}).cdf(row[1:]) for row in x[:150]])
    assert kolmogorov(v) < 1.63 / np.sqrt(150)
    grid = np.linspace(-15, 15, 301)
    p = np.exp(found.log_prob(np.stack([grid, np.full(301, 0.2)], axis=1)) - rest.log_evidence)
    cdf = np.cumsum(p) * (grid[1] - grid[0])
    assert cdf[-1] == pytest.approx(1, abs=2e-3)
    u = np.interp(x[:, 0], grid, cdf)
    assert kolmogorov(u) < 1.63 / np.sqrt(1000) + 0.01
    assert abs(np.corrcoef(u[:150], v)[0, 1]) < 0.3
    with pytest.raises(ValueError, match="cdf needs one column, and here are 2"):
        rest.cdf([[0.0, 0.0]])


def test_given_columns_that_come_later_are_conditioned_on_through_those_before() -> None:
    flow = ordered(3, (0, 1, 2), "maf", layers=2)
    rest = flow.conditional({1: 0.3})
    assert repr(rest) == "Conditional of columns 0, 2 given 1=0.3: quadrature over column 0"
    x = rest.sample(2000, rng=0)
    two = flow.marginal([0, 1]).conditional({1: 0.3})
    assert kolmogorov(two.cdf(x[:, :1])) < 1.63 / np.sqrt(2000)
    v = np.array([flow.conditional({0: row[0], 1: 0.3}).cdf(row[1:]) for row in x[:300]])
    assert kolmogorov(v) < 1.63 / np.sqrt(300)
    assert rest.log_prob(x[0]) == pytest.approx(flow.log_prob([x[0, 0], 0.3, x[0, 1]]) - rest.log_evidence, abs=1e-12)


def test_views_keep_names_numbers_and_their_pickles() -> None:
    names = {"a": "positive", "b": "real", "c": "real"}
    flow = mixed(3, support=names)
    x = flow.sample(5, rng=0)
    part = flow.marginal(["c", "a"])
    assert (part.columns, part.hidden, part.dim) == (("c", "a"), ("b",), 2)
    assert repr(part) == "Marginal of columns 'c', 'a': quadrature over column 'b'"
    rows = {"a": x[:, 0], "c": x[:, 2]}
    assert_same_bits(part.log_prob(rows), part.log_prob(x[:, [2, 0]]))
    assert_same_bits(part.sample(4, rng=3), flow.sample(4, rng=3)[:, [2, 0]])
    assert_same_bits(part.sample_and_log_prob(4, rng=3)[1], part.log_prob(part.sample(4, rng=3)))
    rest = flow.conditional({"c": 0.2, "a": 1.0})
    assert (rest.columns, rest.given) == (("b",), {"c": 0.2, "a": 1.0})
    assert repr(rest) == "Conditional of column 'b' given c=0.2, a=1: quadrature over column 'b'"
    kept = part.log_prob(rows), rest.log_prob([[0.3]])
    unused = flow.marginal(["c", "a"]), flow.conditional({"c": 0.2, "a": 1.0})
    for twin, value in zip(pickle.loads(pickle.dumps((part, rest))), kept, strict=True):
        assert_same_bits(twin.log_prob(rows if twin.dim == 2 else [[0.3]]), value)
    flow.params = 0 * flow.params
    assert_same_bits(part.log_prob(rows), kept[0])
    assert_same_bits(rest.log_prob([[0.3]]), kept[1])
    assert_same_bits(unused[0].log_prob(rows), kept[0])
    assert_same_bits(unused[1].log_prob([[0.3]]), kept[1])
    found = ps.importance(rest, lambda y: -0.5 * y[:, 0] ** 2, 2000, rng=0)
    assert found.log_evidence == pytest.approx(0.5 * np.log(2 * np.pi), abs=0.2)


def test_a_flow_with_a_context_has_parts_at_one() -> None:
    flow = mixed(2, context_dim=2)
    c = [0.5, -1.0]
    view = flow.given(c)
    for call in (lambda: flow.marginal(0), lambda: flow.conditional({0: 1.0})):
        with pytest.raises(ValueError, match=r"is at one context: flow\.given\(context\)"):
            call()
    x = flow.sample(3, c, rng=0)
    want = [grid_integral(flow, row, 1, c) for row in x]
    np.testing.assert_allclose(view.marginal(0).log_prob(x[:, :1]), want, atol=1e-4)
    rest = view.conditional({0: x[0, 0]})
    assert rest.log_evidence == pytest.approx(want[0], abs=1e-4)
    assert kolmogorov(rest.cdf(rest.sample(1000, rng=0))) < 1.63 / np.sqrt(1000)
    assert_same_bits(view.marginal(0).sample(4, rng=0), flow.sample(4, c, rng=0)[:, :1])
    exact = ordered(3, (2, 0, 1), context_dim=2)
    part = exact.given(c).marginal([2, 0])
    assert isinstance(part, ps.Given)
    assert_same_bits(part.log_prob([[0.1, 0.2]]), exact.marginal([2, 0]).log_prob([[0.1, 0.2]], c))
    last = exact.given(c).conditional({2: 0.1, 0: 0.2})
    assert last.method == "exact"
    assert kolmogorov(last.cdf(last.sample(1000, rng=0))) < 1.63 / np.sqrt(1000)


# -- proposals ---------------------------------------------------------------------------------------


class Normal:
    """A proposal that is no flow."""

    def __init__(self, dim: int, scale: float = 2.0) -> None:
        self.dim, self.scale = dim, scale

    def sample(self, n: int, rng: Any = None) -> Array:
        return self.scale * np.random.default_rng(rng).standard_normal((n, self.dim))

    def log_prob(self, x: Array) -> Array:
        return -0.5 * (x**2).sum(axis=1) / self.scale**2 - self.dim * np.log(self.scale * np.sqrt(2 * np.pi))


def test_a_proposal_takes_any_number_of_columns_with_an_error_and_a_sample_size() -> None:
    flow = ordered(4, (0, 1, 2, 3), "maf", layers=2)
    exact = flow.marginal(0)
    x = exact.sample(8, rng=0)
    part = Marginal(flow, (0,), context=None, tolerance=1e-3)
    joint = Normal(3, 3.0)
    draws = joint.sample(20_000, rng=1)
    part = Marginal(flow, (0,), context=None, tolerance=1e-3, proposed=(draws, joint.log_prob(draws)))
    assert part.method == "importance"
    found = part.estimate(x)
    assert (np.abs(found.log_prob - exact.log_prob(x)) < 4.5 * found.error).all()
    assert (found.error < 0.1).all()
    assert (found.error > 0).all()
    assert (found.ess > 200).all()
    assert (found.ess < 20_000).all()
    assert np.isfinite(found.pareto_k).all()
    with pytest.raises(ValueError, match="quadrature takes two columns in all"):
        part.quantile(0.5)


def test_a_conditional_with_a_proposal_tells_its_evidence() -> None:
    flow = mixed(4, gain=0.1)
    with pytest.raises(
        ValueError,
        match=r"needs an integral over 3 others, columns 0, 1, 2, and quadrature takes 2 at most.*proposal=.*"
        r'ps\.nsf_ar\(dim, mixing="none", order=\.\.\.\)',
    ):
        flow.conditional({3: 0.1})
    with pytest.raises(ValueError, match="the density of these columns needs an integral over 3 others"):
        flow.marginal(3)
    rest = flow.conditional({3: 0.1}, proposal=Normal(3), n=20_000, rng=0)
    assert repr(rest) == "Conditional of columns 0, 1, 2 given 3=0.1: importance over columns 0, 1, 2"
    assert rest.method == "importance"
    found = rest.importance
    assert (found.log_evidence, found.log_evidence_error, found.ess) == (rest.log_evidence, rest.error, rest.ess)
    assert found.samples.shape == (20_000, 3)
    assert np.log(np.exp(found.log_weights).mean()) == pytest.approx(rest.log_evidence)
    histogram = (np.abs(flow.sample(400_000, rng=1)[:, 3] - 0.1) < 0.05).mean() / 0.1
    assert rest.log_evidence == pytest.approx(np.log(histogram), abs=0.05 + 4 * rest.error)
    assert flow.marginal(3, proposal=Normal(3), n=20_000, rng=0).log_prob([0.1]) == rest.log_evidence
    for call in (lambda: rest.sample(3), lambda: rest.sample_and_log_prob(3)):
        with pytest.raises(ValueError, match=r"no draws but weighted ones: conditional\.importance.*columns 0, 1, 2"):
            call()
    assert rest.log_prob([[0.0, 0.0, 0.0]])[0] == pytest.approx(flow.log_prob([0, 0, 0, 0.1]) - rest.log_evidence)
    with pytest.raises(ValueError, match="there are no weights: the method is 'quadrature'"):
        assert mixed(2).conditional({0: 0.1}).importance
    one = mixed(2).conditional({0: 0.1}, proposal=Normal(1), rng=0)
    with pytest.raises(ValueError, match="this is importance sampling"):
        one.cdf([[0.0]])
    twin = pickle.loads(pickle.dumps(rest))
    assert (twin.log_evidence, twin.ess) == (rest.log_evidence, rest.ess)


def test_a_narrow_proposal_is_warned_of() -> None:
    flow = mixed(4, gain=0.1)
    with pytest.warns(ps.TargetWarning, match=r"heavy tail for 1 of 1 rows, pareto_k up to .*proposal is narrower"):
        flow.conditional({3: 0.1}, proposal=Normal(3, 0.2), n=2000, rng=0)


def test_a_proposal_with_names_is_matched_by_them() -> None:
    names = {"a": "real", "b": "real", "c": "real", "d": "positive"}
    flow = mixed(4, gain=0.1, support=names)
    proposal = ps.nsf_ar(3, layers=2, hidden=(8,), rng=0, dtype="float64")
    proposal.fit(3 * rng("proposal").standard_normal((3000, 3)) + [0, 4, 8], epochs=3, rng=0)
    proposal.columns = ["c", "a", "b"]
    part = flow.marginal("d", proposal=proposal, n=50, rng=0)
    assert_same_bits(part._proposed[0], proposal.sample(50, rng=0)[:, [1, 2, 0]])
    proposal.columns = ["x", "a", "b"]
    with pytest.raises(ValueError, match="proposal must have the columns 'a', 'b', 'c', and has 'x', 'a', 'b'"):
        flow.marginal("d", proposal=proposal)


# -- refusals ----------------------------------------------------------------------------------------


def test_what_is_no_part_is_refused_by_name() -> None:
    flow = mixed(3)
    named = mixed(3, support={"a": "positive", "b": "real", "c": "real"})
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: flow.marginal([]), ValueError, "columns must be one column or several, got none"),
        (lambda: flow.marginal([0, 0]), ValueError, "columns has a column twice: 0, 0"),
        (lambda: flow.marginal(3), ValueError, "columns must be positions of columns, 0 to 2, got 3"),
        (lambda: flow.marginal(-1), ValueError, "got -1"),
        (lambda: flow.marginal(1.5), ValueError, "got 1.5"),
        (lambda: flow.marginal("a"), ValueError, "names 'a', which the flow has not; its columns have no names"),
        (lambda: named.marginal("x"), ValueError, "names 'x', which the flow has not; its columns are 'a', 'b', 'c'"),
        (lambda: named.marginal(True), ValueError, "names or positions of columns, 0 to 2, got True"),
        (lambda: flow.marginal([2, 1, 0]), ValueError, "columns must leave some out"),
        (lambda: flow.marginal([0, 1], tolerance=0), ValueError, "tolerance must"),
        (lambda: flow.conditional([0]), TypeError, "given must be a mapping of columns to numbers, got list"),
        (lambda: flow.conditional({}), ValueError, "given must be one column or several, got none"),
        (lambda: flow.conditional({0: 1, 1: 1, 2: 1}), ValueError, "given must leave at least one column"),
        (lambda: flow.conditional({0: np.nan}), ValueError, r"given\[0\] must be a finite number, got nan"),
        (lambda: flow.conditional({0: "x"}), TypeError, r"given\[0\] must hold real numbers"),
        (lambda: flow.conditional({0: [1.0]}), ValueError, r"given\[0\] must be a finite number"),
        (lambda: named.conditional({"a": -1.0, "b": 0.0}), ValueError, r"got \{'a': -1, 'b': 0\}, where log p is -inf: outside"),
        (lambda: mixed(4).marginal(0, proposal=3), TypeError, "proposal must have sample"),
        (lambda: mixed(4).marginal(0, proposal=Normal(2)), ValueError, r"proposal\.sample\(n\) must have shape \(10000, 3\)"),
        (lambda: mixed(4).marginal(0, proposal=Normal(3), n=1), ValueError, "n must be an integer of at least 2"),
        (lambda: mixed(4).marginal(0, proposal=Normal(3, np.inf)), ValueError, r"sample\(n\) must be finite, but .*is -?inf"),
        (lambda: flow.marginal([0, 1]).cdf([[0.0, 0.0]]), ValueError, "cdf needs one column, and here are 2"),
        (lambda: flow.marginal([0, 1]).interval(0.5), ValueError, "interval needs one column"),
        (lambda: flow.marginal([0, 1]).log_prob(np.zeros((2, 3))), ValueError, r"X must have shape \(rows, 2\)"),
    ]  # fmt: skip
    for call, kind, words in cases:
        with pytest.raises(kind, match=words):
            call()


def test_marginals_of_circles_and_boxes_are_exact() -> None:
    support = [ps.periodic(0, 1), (0, 2), "real"]
    flow = ps.nsf_ar(3, mixing="none", layers=2, hidden=(8,), support=support, rng=0)
    flow.params = np.random.default_rng(1).normal(0, 0.3, flow.n_params)
    part = flow.marginal([0, 1])
    grid = np.linspace(-12, 12, 4001)
    rows = np.column_stack([np.full(4001, 0.3), np.full(4001, 1.2), grid])
    total = np.trapezoid(np.exp(flow.astype("float64").log_prob(rows)), grid)
    assert float(part.log_prob([0.3, 1.2])) == pytest.approx(np.log(total), abs=1e-4)
