"""Laws of base distributions: normals, uniforms, Student t, mixtures and their products, free and chosen by a context."""

from __future__ import annotations

import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import penstock as ps
import reference as file_format
from cases import BACKENDS, rng
from helpers import assert_close, assert_same_bits, both_dtypes, each_backend, each_backend_numba_in_ci, inside

Array = np.ndarray[Any, Any]
stats = pytest.importorskip("scipy.stats")

NETWORK = ps.MLP((7,), "tanh")
BASES: dict[str, Any] = {
    "normal": ps.Normal(3),
    "uniform": ps.Uniform(3, -2.0, 3.0),
    "student_t": ps.StudentT(3, df=(1.0, 3.0, 30.0)),
    "student_t_fixed": ps.StudentT(3, df=2.5, learned=False),
    "mixture": ps.GaussianMixture(3, components=5),
    "product": ps.Product([ps.StudentT(2), ps.GaussianMixture(3, 2), ps.StandardNormal(1), ps.Normal(1)]),
}
GIVEN: dict[str, Any] = {
    "normal": ps.Normal(2, NETWORK),
    "student_t": ps.StudentT(2, conditioner=NETWORK),
    "mixture": ps.GaussianMixture(2, 3, NETWORK),
    "product": ps.Product([ps.GaussianMixture(1, 2, NETWORK), ps.StudentT(1), ps.Normal(2, NETWORK)]),
}
each_base = pytest.mark.parametrize("name", BASES)
each_given = pytest.mark.parametrize("name", GIVEN)


def flow_of(base: Any, backend: str, dtype: str, *layers: Any, **options: Any) -> ps.Flow:
    flow = ps.Flow(base, list(layers), rng=0, backend=backend, dtype=dtype, **options)
    source = rng("numbers of a base", repr(base))
    params = np.array(flow.params, np.float64)
    flow.params = (params + 0.7 * source.standard_normal(len(params))).astype(np.float32)
    return flow


def expected(part: Any, numbers: dict[str, Array], z: Array) -> Array:
    """The log-density by SciPy, for one set of numbers."""
    if part.name == "standard_normal":
        return stats.norm.logpdf(z).sum(axis=1)
    if part.name == "normal":
        return stats.norm.logpdf(z, numbers["mean"], np.exp(numbers["log_scale"])).sum(axis=1)
    if part.name == "uniform":
        return stats.uniform.logpdf(z, part.lo, part.hi - part.lo).sum(axis=1)
    if part.name == "student_t":
        df = np.exp(numbers["log_df"]) if part.learned else part.df
        return stats.t.logpdf(z, df).sum(axis=1)
    log_w = numbers["logit"] - np.logaddexp.reduce(numbers["logit"])
    parts = [
        w + stats.norm.logpdf(z, m, np.exp(s)).sum(axis=1)
        for w, m, s in zip(log_w, numbers["mean"], numbers["log_scale"], strict=True)
    ]
    return np.logaddexp.reduce(parts, axis=0)


def reference(flow: ps.Flow, z: Array) -> Array:
    named = {name: np.array(value, np.float64) for name, value in flow.named_params().items()}
    total, first = np.zeros(len(z)), 0
    for i, part in enumerate(flow.spec.base.parts if flow.spec.base.name == "product" else (flow.spec.base,)):
        prefix = f"base.{i}."
        numbers = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
        total += expected(part, numbers, z[:, first : first + part.dim])
        first += part.dim
    return total


def points(base: Any, n: int, dtype: str) -> Array:
    z = rng("points of a base", repr(base)).standard_t(2, (n, base.dim))
    return z.astype(np.float32).astype(dtype)


@each_base
@each_backend
@both_dtypes
def test_log_prob_is_that_of_scipy(name: str, backend: str, dtype: str) -> None:
    flow = flow_of(BASES[name], backend, dtype)
    z = points(BASES[name], 200, dtype)
    z[:3] = [1e-30] * flow.dim, [50.0] * flow.dim, [-300.0] * flow.dim
    wanted = reference(flow, z.astype(np.float64))
    found = flow.log_prob(z)
    np.testing.assert_allclose(
        found, wanted, rtol=3e-6 if dtype == "float32" else 1e-12, atol=3e-6 if dtype == "float32" else 1e-12
    )
    assert_same_bits(found[5], flow.log_prob(z[5]))
    assert np.isnan(flow.log_prob(np.full(flow.dim, np.nan)))


@each_base
@each_backend
def test_gradients_match_differences(name: str, backend: str) -> None:
    base = BASES[name]
    layers = () if name == "uniform" else (ps.Coupling(ps.Affine(), ps.MLP((5,), "tanh")),)
    flow = flow_of(base, backend, "float64", *layers)
    x = points(base, 6, "float64") * (0.1 if name == "uniform" else 1)
    along = rng("along").standard_normal(6)
    dx, dparams, _ = flow.log_prob_vjp(x, along)
    for place in np.ndindex(*x.shape):
        unit = np.zeros(x.shape)
        unit[place] = 1e-5
        wanted = (along @ flow.log_prob(x + unit) - along @ flow.log_prob(x - unit)) / 2e-5
        assert abs(dx[place] - wanted) <= 1e-7 * (1 + abs(wanted))
    start = np.array(flow.params)
    for k in range(len(start)):
        values = []
        for way in (-1, 1):
            moved = start.copy()
            moved[k] += way * 1e-5
            flow.params = moved
            values.append(along @ flow.log_prob(x))
        assert abs(dparams[k] - (values[1] - values[0]) / 2e-5) <= 1e-7 * (1 + np.abs(dparams).max())


@each_given
@each_backend_numba_in_ci
def test_a_context_chooses_the_base(name: str, backend: str) -> None:
    base = GIVEN[name]
    layer = ps.Coupling(ps.Affine(), ps.MLP((5,), "tanh"))
    flow = flow_of(base, backend, "float64", layer, context_dim=2)
    x, context = points(base, 9, "float64"), rng("context").standard_normal((9, 2))
    density = flow.log_prob(x, context)
    for i in range(9):  # as one row, and as a context that all share
        assert_same_bits(flow.log_prob(x[i], context[i]), density[i])
        assert_same_bits(flow.log_prob(np.repeat(x[i : i + 1], 70, axis=0), context[i]), np.full(70, density[i]))
    blocks = flow.log_prob(np.repeat(x[:, None], 64, axis=1), context)
    assert_same_bits(blocks, np.repeat(density[:, None], 64, axis=1))
    along = rng("along").standard_normal(9)
    dx, dparams, dcontext = flow.log_prob_vjp(x, along, context)
    assert dcontext is not None
    for array, found in ((x, dx), (context, dcontext)):
        for place in np.ndindex(*array.shape):
            old, values = array[place], []
            for way in (-1, 1):
                array[place] = old + way * 1e-5
                values.append(along @ flow.log_prob(x, context))
            array[place] = old
            assert abs(found[place] - (values[1] - values[0]) / 2e-5) <= 1e-7 * (1 + np.abs(found).max())
    start = np.array(flow.params)
    for k in rng("chosen", name).choice(len(start), 30, replace=False):
        values = []
        for way in (-1, 1):
            moved = start.copy()
            moved[k] += way * 1e-5
            flow.params = moved
            values.append(along @ flow.log_prob(x, context))
        assert abs(dparams[k] - (values[1] - values[0]) / 2e-5) <= 1e-7 * (1 + np.abs(dparams).max())


@each_base
@each_backend
@both_dtypes
def test_draws_follow_the_density(name: str, backend: str, dtype: str) -> None:
    flow = flow_of(BASES[name], backend, dtype)
    n = 40_000
    z, density = flow.sample_and_log_prob(n, rng=4)
    np.testing.assert_allclose(density, reference(flow, z.astype(np.float64)), rtol=1e-4, atol=1e-4)
    assert_same_bits(flow.sample(50, rng=4), z[:50])
    assert_same_bits(flow.sample(10, rng=4, first=33), z[33:43])
    assert_same_bits(flow.sample(1, rng=4)[0], z[0])
    limit = 1.95 / math.sqrt(n)  # Kolmogorov, 0.1 %
    for i in range(flow.dim):
        column = np.sort(z[:, i].astype(np.float64))
        below = marginal_cdf(flow, i, column)
        assert np.abs(below - (np.arange(n) + 0.5) / n).max() < limit
    if name != "mixture":
        ranks = np.argsort(np.argsort(z, axis=0), axis=0)
        rest = np.corrcoef(ranks, rowvar=False) - np.eye(flow.dim)
        mixed = {1: (2, 3, 4)} if name == "product" else {}
        for i in range(flow.dim):
            for j in range(i):
                if not any(i in group and j in group for group in mixed.values()):
                    assert abs(rest[i, j]) < 0.02


def marginal_cdf(flow: ps.Flow, i: int, z: Array) -> Array:
    named = {name: np.array(value, np.float64) for name, value in flow.named_params().items()}
    first = 0
    for b, part in enumerate(flow.spec.base.parts if flow.spec.base.name == "product" else (flow.spec.base,)):
        j = i - first
        first += part.dim
        if not 0 <= j < part.dim:
            continue
        get = {name.removeprefix(f"base.{b}."): value for name, value in named.items() if name.startswith(f"base.{b}.")}
        if part.name == "standard_normal":
            return stats.norm.cdf(z)
        if part.name == "normal":
            return stats.norm.cdf(z, get["mean"][j], np.exp(get["log_scale"][j]))
        if part.name == "uniform":
            return stats.uniform.cdf(z, part.lo, part.hi - part.lo)
        if part.name == "student_t":
            return stats.t.cdf(z, np.exp(get["log_df"][j]) if part.learned else part.df)
        w = np.exp(get["logit"] - np.logaddexp.reduce(get["logit"]))
        return sum(
            a * stats.norm.cdf(z, m, np.exp(s))
            for a, m, s in zip(w, get["mean"][:, j], get["log_scale"][:, j], strict=True)
        )
    raise AssertionError


@each_backend
@both_dtypes
def test_degrees_of_freedom_far_out(backend: str, dtype: str) -> None:
    for df in (0.5, 1.0, 7.0, 1e3, 1e6):
        flow = ps.Flow(ps.StudentT(1, df=df, learned=False), [], dtype=dtype, backend=backend)
        z = np.array([[0.0], [1.0], [-30.0], [1e10], [1e30]], dtype)
        wanted = stats.t.logpdf(z[:, 0].astype(np.float64), df)
        good = np.isfinite(wanted)
        np.testing.assert_allclose(flow.log_prob(z)[good], wanted[good], rtol=2e-6 if dtype == "float32" else 1e-10)
        assert np.isfinite(flow.log_prob(z)).all() or df > 1e3
        assert np.isfinite(flow.sample(10_000, rng=0)).all()
        assert np.isfinite(flow.log_prob_and_grad(z[:4])[1]).all()


@each_base
@each_backend_numba_in_ci
def test_a_fit_learns_the_base(name: str, backend: str) -> None:
    base = BASES[name]
    truth = flow_of(base, backend, "float64")
    x = truth.sample(4000, rng=1)
    flow = ps.Flow(base, [], backend=backend, rng=0)
    n = flow.n_params
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.OutlierWarning)  # as they are meant
        flow.fit(x, standardize=False, epochs=100, learning_rate=0.03, rng=0, progress=False)
    assert flow.n_params == n
    assert flow.score(x) > truth.score(x) - (0.15 if name in ("mixture", "product") else 0.03)


@each_backend
def test_heavy_tails_are_learned_by_a_student_t(backend: str) -> None:
    x = np.random.default_rng(0).standard_t(1.5, (5000, 2))
    truth = float(stats.t.logpdf(x, 1.5).sum(axis=1).mean())
    heavy = ps.realnvp(2, layers=2, hidden=(8,), base=ps.StudentT(2), rng=0, backend=backend)
    light = ps.realnvp(2, layers=2, hidden=(8,), rng=0, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.OutlierWarning)  # as they are meant
        for flow in (heavy, light):
            flow.fit(x, standardize="robust", epochs=60, rng=0, progress=False)
    assert heavy.score(x) > truth - 0.1
    assert heavy.score(x) > light.score(x) + 0.2
    df = np.exp(heavy.named_params()["base.0.log_df"])
    assert ((df > 0.8) & (df < 3)).all()


@each_base
@each_backend
@both_dtypes
def test_a_file_keeps_the_base(name: str, backend: str, dtype: str) -> None:
    flow = flow_of(BASES[name], backend, dtype, ps.Elementwise(ps.Affine()))
    z = points(BASES[name], 10, dtype)
    for other in (ps.from_bytes(flow.to_bytes(), backend=backend), pickle.loads(pickle.dumps(flow)), flow.copy()):
        assert other.spec == flow.spec
        assert_same_bits(other.log_prob(z), flow.log_prob(z))
    assert str(BASES[name]) in repr(flow)


def test_a_base_acts_on_lines_alone() -> None:
    support = ["real", ps.periodic(-1, 1), "real", (0, 1)]
    flow = ps.Flow(ps.GaussianMixture(4, 3), [], support=support, rng=0)
    assert flow.named_params()["base.0.mean"].shape == (3, 2)
    product = ps.Product([ps.StudentT(2, df=(2.0, 3.0)), ps.Normal(2)])
    flow = ps.Flow(product, [], support=support, rng=0)
    assert {name: part.shape for name, part in flow.named_params().items()} == {
        "base.0.log_df": (1,), "base.1.mean": (1,), "base.1.log_scale": (1,),
    }  # fmt: skip
    x = flow.sample(1000, rng=0)
    np.testing.assert_allclose(
        flow.log_prob(x),
        stats.t.logpdf(x[:, 0], 2.0) + stats.norm.logpdf(x[:, 2]) - math.log(2),
        atol=1e-5,
    )
    circles = ps.Flow(ps.GaussianMixture(2, 3), [], support=ps.periodic(0, 1), rng=0)
    assert circles.n_params == 0


@each_backend
def test_quantiles_of_bases(backend: str) -> None:
    u = np.array([0.001, 0.3, 0.5, 0.9, 0.9999])
    for base in (ps.Normal(1), ps.Uniform(1, -2, 3), ps.StudentT(1), ps.StudentT(1, 3.0, learned=False)):
        flow = flow_of(base, backend, "float64", ps.Elementwise(ps.RationalQuadratic(bins=4)))
        np.testing.assert_allclose(flow.cdf(flow.quantile(u)), u, rtol=1e-9)
        assert np.isfinite(flow.prior_transform(np.array([[0.0], [1.0]]))).all()
    mixture = flow_of(ps.GaussianMixture(2), backend, "float64")
    with pytest.raises(ValueError, match=r"a mixture of more than one dimension has no quantiles.* needs another one"):
        mixture.prior_transform([0.5, 0.5])


@each_backend
@inside("base", (ps.Normal(1, NETWORK), ps.StudentT(1, 3.0, conditioner=NETWORK), ps.GaussianMixture(1, 3, NETWORK)))
def test_quantiles_of_bases_that_read_the_context(base: Any, backend: str) -> None:
    flow = flow_of(base, backend, "float64", context_dim=2)
    u = np.array([0.001, 0.3, 0.5, 0.9, 0.9999])
    context = rng("contexts of a base").standard_normal((5, 2))
    every = flow.quantile(np.tile(u, (5, 1)), context)
    for c, own in zip(context, every, strict=True):
        np.testing.assert_allclose(flow.quantile(u, c), own, rtol=1e-12)
        np.testing.assert_allclose(flow.cdf(own, c), u, rtol=1e-9)
        np.testing.assert_allclose(flow.given(c).prior_transform(u[:, None]), own, rtol=1e-12)
        draws = flow.sample(2000, c, rng=0)
        assert abs((draws <= own[2]).mean() - 0.5) < 0.06
    np.testing.assert_allclose(flow.cdf(every, context), np.tile(u, (5, 1)), rtol=1e-9)
    assert np.ptp(every[:, 1]) > 0.01


RECIPES = ("nice", "realnvp", "glow", "nsf", "maf", "iaf", "nsf_ar")


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_take_every_base(recipe: str) -> None:
    build = getattr(ps, recipe)
    for base in BASES.values():
        flow = build(base.dim, layers=2, hidden=(4,), base=base, rng=0)
        assert np.isfinite(flow.log_prob(flow.sample(5, rng=0))).all()
        assert flow.spec.base == base
    for base in (
        ps.Normal(2),
        ps.GaussianMixture(2, 2),
        ps.StudentT(2),
        ps.Product([ps.StandardNormal(1), ps.Normal(1)]),
    ):
        flow = build(2, layers=1, hidden=(4,), base=base, context_dim=1, base_context=(3,), rng=0)
        assert any("base." in name and "weight" in name for name in flow.named_params())
    with pytest.raises(ValueError, match="learns nothing"):
        build(2, base=ps.Uniform(2), context_dim=1, base_context=(3,))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ps.Uniform(1, 1.0, 1.0), ValueError, "lo must be below hi"),
        (lambda: ps.StudentT(2, df=(1.0,)), ValueError, "one number or 2 of them, got 1"),
        (lambda: ps.StudentT(2, df=0.1), ValueError, "must lie within 0.5 and 1e"),
        (lambda: ps.StudentT(2, learned=False, conditioner=NETWORK), ValueError, "learned=False"),
        (lambda: ps.GaussianMixture(2, 1), ValueError, "components must lie between 2 and 256"),
        (lambda: ps.Product([]), ValueError, "at least one base"),
        (lambda: ps.Product([ps.Product([ps.Normal(1)])]), TypeError, r"parts\[0\] must be one of"),
        (lambda: ps.Flow(ps.Normal(1, NETWORK), []), ValueError, "the base has a conditioner"),
        (lambda: ps.nsf(2, base=ps.Normal(3)), ValueError, "base must have dim=2 dimensions"),
        (lambda: ps.ops.log_prob(ps.Normal(1, NETWORK), [0.0]), ValueError, "network of a context"),
    ],
)
def test_a_base_that_is_none_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@each_backend
def test_ops_have_bases(backend: str) -> None:
    z = points(ps.GaussianMixture(2, 2), 20, "float64")
    numbers = np.arange(10.0) / 10
    flow = ps.Flow(ps.GaussianMixture(2, 2), [], dtype="float64", backend=backend)
    flow.params = numbers
    assert_same_bits(ps.ops.log_prob(ps.GaussianMixture(2, 2), z, numbers=numbers, backend=backend), flow.log_prob(z))
    ones = np.ones(20)
    gradient = ps.ops.log_prob_backward(ps.GaussianMixture(2, 2), z, ones, numbers=numbers, backend=backend)
    assert_same_bits(gradient, flow.log_prob_vjp(z, ones)[0])


@pytest.mark.skipif(len(BACKENDS) < 2, reason="one backend is installed; it is held against SciPy above")
@pytest.mark.parametrize("name", [*BASES, *(f"given {name}" for name in GIVEN)])
@both_dtypes
def test_backends_agree_on_bases(name: str, dtype: str) -> None:
    given = name.startswith("given ")
    base = GIVEN[name.removeprefix("given ")] if given else BASES[name]
    options = {"context_dim": 2} if given else {}
    one, two = (flow_of(base, backend, dtype, **options) for backend in ("cpp", "numba"))
    assert (one.backend, two.backend) == ("cpp", "numba")
    x = points(base, 150, dtype) * (0.1 if name == "uniform" else 1)
    along = rng("along").standard_normal(150)
    context = rng("context").standard_normal((150, 2)).astype(dtype)
    for rows, shared in ((context, context[0]), (context[0], context[0])) if given else ((None, None),):
        assert_close(one.log_prob(x, rows), two.log_prob(x, rows), 64, dtype)
        assert_close(one.sample(150, shared, rng=1), two.sample(150, shared, rng=1), 64, dtype)
        for a, b in zip(one.log_prob_vjp(x, along, rows), two.log_prob_vjp(x, along, rows), strict=True):
            if b is not None and b.size:
                assert_close(a, b, 64, dtype, scale=np.maximum(np.abs(b), np.abs(b).max()))


@each_backend
def test_what_a_walk_leaves_out_has_no_gradient(backend: str) -> None:
    layer = ps.Coupling(ps.Affine(), ps.MLP((2,), "tanh"))
    flow = flow_of(ps.Normal(2), backend, "float64", layer, ps.Elementwise(ps.Affine()))
    source = rng("left out")
    x, over, along = source.standard_normal((203, 2)), source.standard_normal((203, 2)), source.standard_normal(203)
    runner = flow._runner()
    packed = flow._snapshot.pack(runner)
    whole = runner.vjp(packed, False, x, over, along, None, base=True).params
    for _ in range(2):
        found = runner.vjp(packed, False, x, over, along, None, base=False).params
        assert found is not None
        assert whole is not None
        assert (found[-4:] == 0).all()
        assert (found[:-4] != 0).any()


def test_a_target_takes_a_base_of_fixed_tails() -> None:
    heavy = ps.realnvp(2, layers=1, hidden=(4,), base=ps.StudentT(2, learned=False), rng=0)
    heavy.fit_to_target(lambda x: (-0.5 * (x**2).sum(axis=1), -x), epochs=2, rng=0, progress=False)
    assert heavy.fitted


@pytest.mark.parametrize("name", [*BASES, *(f"given {name}" for name in GIVEN)])
def test_the_reader_of_the_file_format_reads_bases(name: str, tmp_path: Any) -> None:
    given = name.startswith("given ")
    base = GIVEN[name.removeprefix("given ")] if given else BASES[name]
    support = {0: (0, 1)} if base.dim > 2 else None
    options: dict[str, Any] = {"context_dim": 2} if given else {}
    flow = flow_of(base, "auto", "float64", ps.Autoregressive(ps.Affine(), ps.MLP((5,))), support=support, **options)
    context = rng("a context").standard_normal((40, 2)) if given else None
    x = flow.sample(40 if context is None else None, context, rng=0)
    flow.save(tmp_path / "flow.safetensors")
    names = file_format.reader()
    found = names["log_prob"](*names["read"](tmp_path / "flow.safetensors"), x, context)
    np.testing.assert_allclose(found, flow.log_prob(x, context), rtol=1e-9, atol=1e-9)
