"""Laws of marginals and conditionals, for every kind of column, group and base: against SciPy, each other, and draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import assign, rng
from penstock.marginals import Marginal
from penstock.quadrature import integrate
from penstock.sections import TOLERANCES

Array = np.ndarray[Any, Any]

NETWORK = ps.MLP((4,), "tanh")
CIRCLE, BOX, LOGIT = ps.periodic(-180, 180), (0, 2), ps.interval(0, 1, map="logit")
KS = 1.95  # passed by 999 of 1000 samples


@dataclass(frozen=True)
class Part:
    """A flow of which some columns are kept, or known."""

    name: str
    support: Any = None
    keep: int = 0
    dim: int = 2
    base: Any = None
    mixing: str = "lu"  # "none": the columns come in their order, so that the first ones have exact parts
    gain: float = 0.25
    context: tuple[float, ...] = ()
    recipe: str = "nsf_ar"
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, dtype: str = "float64") -> ps.Flow:
        """The flow, with other numbers than fresh ones."""
        own: dict[str, Any] = {"layers": 2, "hidden": (6,), "mixing": self.mixing, **self.options}
        if self.mixing == "none":
            own["order"] = tuple(range(self.dim))
        flow = getattr(ps, self.recipe)(
            self.dim, support=self.support, base=self.base, context_dim=len(self.context), dtype=dtype, rng=0, **own
        )
        source = rng("a part", self.name)
        buffers, d = flow._snapshot.buffers.copy(), self.dim
        lines = np.array([kind == "line" for kind in flow.spec.kinds])
        buffers[:d][lines], buffers[d : 2 * d][lines] = (
            source.normal(0, 0.3, lines.sum()),
            source.uniform(0.5, 1.5, lines.sum()),
        )
        buffers[2 * d : 2 * d + len(self.context)] = 0.4
        assign(flow, params=flow.params + self.gain * source.standard_normal(flow.n_params), buffers=buffers)
        return flow

    def view(self, flow: ps.Flow) -> Any:
        """The flow at the context of this case."""
        return flow.given(self.context) if self.context else flow


MIXTURE = ps.GaussianMixture(2, 3)
# Every kind of column is hidden behind every other one; groups lose each of their columns; bases learn or read a context.
PARTS = [
    Part("line behind circle", {0: CIRCLE}),
    Part("circle behind line", {1: CIRCLE}),
    Part("circle behind circle", CIRCLE),
    Part("box behind circle", {0: CIRCLE, 1: BOX}),
    Part("circle behind box", {1: CIRCLE, 0: BOX}),
    Part("open box behind box", {0: BOX, 1: ps.interval(0, 2, closed="neither")}),
    Part("half-line behind box", {0: BOX, 1: "positive"}),
    Part("box behind logit", {0: LOGIT, 1: BOX}),
    Part("logit behind half-line", {0: (None, 1), 1: LOGIT}),
    Part("rising, first hidden", ps.ordered([0, 1]), keep=1),
    Part("rising, last hidden", ps.ordered([0, 1])),
    Part("rising above, first hidden", ps.ordered([0, 1], lo=0), keep=1),
    Part("falling, first hidden", ps.ordered([0, 1], hi=1), keep=1),
    Part("falling, last hidden", ps.ordered([0, 1], hi=1)),
    Part("rising between, last hidden", ps.ordered([1, 0], lo=0, hi=3), keep=1),
    Part("simplex, first hidden", ps.simplex([0, 1]), keep=1),
    Part("simplex, last hidden", ps.simplex([0, 1])),
    Part("exact circle before line", {0: CIRCLE}, mixing="none"),
    Part("exact box before circle", {0: BOX, 1: CIRCLE}, mixing="none"),
    Part("exact line before box", {1: BOX}, mixing="none"),
    Part("exact rising", ps.ordered([0, 1], lo=0), mixing="none"),
    Part("exact falling", ps.ordered([1, 0], hi=0), mixing="none"),
    Part("exact simplex", ps.simplex([0, 1]), mixing="none"),
    Part("exact circle by affine layers", {0: CIRCLE}, mixing="none", recipe="maf"),
    Part("rising, against the order", ps.ordered([1, 0]), mixing="none"),
    Part("simplex, against the order", ps.simplex([1, 0]), mixing="none"),
    Part("student", base=ps.StudentT(2, df=(3.0, 6.0))),
    Part("mixture", base=MIXTURE),
    Part("exact normal", base=ps.Normal(2), mixing="none"),
    Part("exact student", base=ps.StudentT(2, df=(3.0, 6.0), learned=False), mixing="none"),
    Part("exact uniform", base=ps.Uniform(2, -2, 2), mixing="none"),
    Part("exact mixture", base=MIXTURE, mixing="none", gain=0.5),
    Part("exact product", base=ps.Product([ps.GaussianMixture(1, 2), ps.StudentT(1)]), mixing="none"),
    Part("exact mixture of a context", base=ps.GaussianMixture(2, 2, NETWORK), mixing="none", context=(0.5, -1.0)),
    Part("mixture of a context behind circle", {0: CIRCLE}, base=ps.GaussianMixture(2, 2, NETWORK), context=(0.5,)),
]
# Laws that integrate twice hold for all of them in CI, and here for some.
QUICK = ("circle behind line", "rising, first hidden", "simplex, first hidden")


def each(parts: list[Part], quick: Any) -> Any:
    """The cases of a law, slow but for the exact ones and those named."""
    marks = [() if case.name in quick or case.name.startswith("exact") else pytest.mark.slow for case in parts]
    return pytest.mark.parametrize(
        "case", [pytest.param(case, id=case.name, marks=mark) for case, mark in zip(parts, marks, strict=True)]
    )


each_part = each(PARTS, [case.name for case in PARTS])
each_part_twice = each(PARTS, QUICK)


def ends_of(flow: ps.Flow, column: int, known: dict[int, float]) -> tuple[float, float]:
    """Between which numbers a column lies where others are known, said once more: a law for each kind of support."""
    own = flow.spec.support[column] if flow.spec.support else ps.support.Real()
    if isinstance(own, ps.Simplex):
        return 0.0, 1.0 - sum(known[i] for i in own.columns if i in known)
    lo, hi = (
        (-np.inf if getattr(own, "lo", None) is None else own.lo),
        (np.inf if getattr(own, "hi", None) is None else own.hi),
    )
    if isinstance(own, ps.Ordered):
        place = own.columns.index(column)
        lo = max([lo, *(known[i] for i in own.columns[:place] if i in known)])
        hi = min([hi, *(known[i] for i in own.columns[place + 1 :] if i in known)])
    return lo, hi


def pieces(draws: Array, lo: float, hi: float, nodes: int = 16) -> tuple[Array, Array]:
    """Nodes and weights of an integral over a column, in pieces between quantiles of its draws."""
    spread = np.ptp(draws)
    low, high = max(lo, draws.min() - 2 * spread), min(hi, draws.max() + 2 * spread)
    inner = np.quantile(draws, [0, 0.01, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.99, 1])
    edges = np.unique([low, *(low + (inner[0] - low) * np.array([0.7, 0.97])), *inner,
                       *(high + (inner[-1] - high) * np.array([0.97, 0.7])), high])  # fmt: skip
    x, w = np.polynomial.legendre.leggauss(nodes)
    half = 0.5 * np.diff(edges)[:, None]
    return (edges[:-1, None] + half * (1 + x)).ravel(), (half * w).ravel()


def kolmogorov(u: Array) -> float:
    """The largest distance of the distribution function of a sample from that of uniform numbers, times the root of its size."""
    u = np.sort(u)
    steps = np.arange(len(u) + 1) / len(u)
    return float(max((steps[1:] - u).max(), (u - steps[:-1]).max())) * np.sqrt(len(u))


@each_part
def test_a_marginal_is_the_integral_of_the_joint_density(case: Part) -> None:
    integrate = pytest.importorskip("scipy.integrate")
    flow = case.build()
    view, other = case.view(flow), 1 - case.keep
    part = view.marginal(case.keep)
    exact = isinstance(part, (ps.Flow, ps.Given))
    assert exact == case.name.startswith("exact")
    x = view.sample(400, rng=1)
    found = part.log_prob(x[:4, [case.keep]])
    for row, value in zip(x[:4], found, strict=True):

        def density(y: float, row: Array = row) -> float:
            full = row.copy()
            full[other] = y
            return float(np.exp(view.log_prob(full)))

        nodes, _ = pieces(x[:, other], *ends_of(flow, other, {case.keep: row[case.keep]}), nodes=2)
        edges = np.concatenate([[ends_of(flow, other, {case.keep: row[case.keep]})[0]], nodes[::4],
                                [ends_of(flow, other, {case.keep: row[case.keep]})[1]]])  # fmt: skip
        total = sum(
            integrate.quad(density, a, b, epsrel=1e-6, limit=200)[0] for a, b in zip(edges, edges[1:], strict=False)
        )
        assert value == pytest.approx(np.log(total), abs=2e-4)


@each_part_twice
def test_parts_integrate_to_one_and_are_the_factors_of_the_joint_density(case: Part) -> None:
    flow = case.build()
    view, other = case.view(flow), 1 - case.keep
    part = view.marginal(case.keep, tolerance=1e-3)
    exact = not isinstance(part, Marginal)
    x = view.sample(3000, rng=2)
    nodes, weights = pieces(x[:, case.keep], *ends_of(flow, case.keep, {}), nodes=60 if exact else 12)
    assert np.exp(part.log_prob(nodes[:, None])) @ weights == pytest.approx(1, abs=2e-3 if exact else 6e-3)
    for row in x[:2]:
        known = {case.keep: float(row[case.keep])}
        rest = view.conditional(known)
        joint = float(view.log_prob(row))
        assert float(part.log_prob(row[[case.keep]])) + float(rest.log_prob(row[[other]])) == pytest.approx(
            joint, abs=2e-4
        )
        draws = rest.sample(400, rng=3)[:, 0]
        nodes, weights = pieces(draws, *ends_of(flow, other, known), nodes=60)
        assert np.exp(rest.log_prob(nodes[:, None])) @ weights == pytest.approx(1, abs=2e-3)


@each_part_twice
def test_draws_follow_the_distribution_functions_of_parts(case: Part) -> None:
    flow = case.build()
    view, other = case.view(flow), 1 - case.keep
    part = view.marginal(case.keep, tolerance=2e-3)
    x = view.sample(2000, rng=4)
    known = {case.keep: float(x[0, case.keep])}
    rest = view.conditional(known)
    draws = rest.sample(2000, rng=5)
    lo, hi = ends_of(flow, other, known)
    assert (draws >= lo).all()
    assert (draws <= hi).all()
    u = np.linspace(0.01, 0.99, 9)
    for own, rows, (low, high), off in (
        (part, x[:, [case.keep]], ends_of(flow, case.keep, {}), 4e-3), (rest, draws, (lo, hi), 1e-3),
    ):  # fmt: skip
        assert kolmogorov(own.cdf(rows)) < KS
        q = own.quantile(u)
        assert (np.diff(q[:, 0]) > 0).all()
        np.testing.assert_allclose(own.cdf(q), u, atol=1e-8)
        # The distribution function is the integral of the density.
        a, b = q[2, 0], q[6, 0]
        t, w = pieces(np.linspace(a, b, 100), a, b, nodes=10 if own is part else 60)
        assert np.exp(own.log_prob(t[:, None])) @ w == pytest.approx(u[6] - u[2], abs=off)
        ends = own.interval(0.5)
        assert np.diff(own.cdf(ends[:, None])) == pytest.approx(0.5, abs=1e-8)
        assert own.cdf([[low], [high]]).tolist() == [0, 1]


# -- three columns -----------------------------------------------------------------------------------

THREE = [
    Part("circle, box and half-line", {0: CIRCLE, 1: BOX, 2: "positive"}, dim=3, mixing="none"),
    Part("two circles behind a line", {1: CIRCLE, 2: CIRCLE}, dim=3, mixing="none"),
    Part("rising", ps.ordered([0, 1, 2], lo=0), dim=3, mixing="none"),
    Part("falling", ps.ordered([2, 1, 0], hi=0), dim=3, mixing="none"),
    Part("rising between, and a circle", [{1: CIRCLE}, ps.ordered([0, 2], lo=0, hi=2)], dim=3, mixing="none"),
    Part("simplex", ps.simplex([0, 1, 2]), dim=3, mixing="none"),
    Part("mixture", base=ps.GaussianMixture(3, 3), dim=3, mixing="none"),
    Part("product", {2: BOX}, base=ps.Product([ps.Normal(1), ps.GaussianMixture(2, 2)]), dim=3, mixing="none"),
]
each_of_three = each(THREE, ("rising",))


@each_of_three
def test_two_columns_are_integrated_out_within_the_error(case: Part) -> None:
    """Against the exact marginal, and where a middle column is kept against the integral of that over one column."""
    flow = case.build()
    x = flow.sample(2, rng=6)
    pair = flow.marginal([1, 0])
    for keep, exact in ((0, flow.marginal(0)), (1, pair.marginal(0))):
        found = Marginal(flow, (keep,), context=None, tolerance=1e-2).estimate(x[:, [keep]])
        assert (found.error <= 1e-2).all()
        assert (np.abs(found.log_prob - exact.log_prob(x[:, [keep]])) <= found.error + 2 * TOLERANCES[0]).all()
    # The marginal of a marginal, in another order of its columns.
    np.testing.assert_allclose(pair.marginal(1).log_prob(x[:, [0]]), flow.marginal(0).log_prob(x[:, [0]]), rtol=1e-9)


@each(THREE, ("rising",))
def test_draws_given_one_of_three_columns_are_those_of_the_chain(case: Part) -> None:
    """Each column given those before it has uniform shares (Rosenblatt 1952), whichever column is known."""
    flow = case.build()
    row = flow.sample(rng=7)
    for known in range(3):
        rest = flow.conditional({known: float(row[known])}, tolerance=1e-2)
        assert rest.method == ("exact" if known == 0 else "quadrature")
        x = rest.sample(100, rng=8)
        full = np.insert(x, known, row[known], axis=1)
        assert np.isfinite(flow.log_prob(full)).all()
        first, last = (i for i in range(3) if i != known)
        if known < 2:
            one = flow.marginal([0, 1]).conditional({known: float(row[known])})
            assert kolmogorov(one.cdf(full[:, [first]])) < KS
        u = [flow.conditional({known: r[known], first: r[first]}).cdf(r[[last]]) for r in full]
        assert kolmogorov(np.array(u)) < KS
        joint = flow.log_prob(full[0]) - rest.log_evidence
        assert rest.log_prob(x[0]) == pytest.approx(float(joint), abs=1e-9)


def test_a_hidden_column_between_two_of_its_group_lies_between_them() -> None:
    flow = Part("between", ps.ordered([0, 1, 2]), dim=3).build()
    x = flow.sample(300, rng=9)
    part = flow.marginal([2, 0])
    for row in x[:3]:
        y, w = pieces(np.linspace(row[0], row[2], 200)[1:-1], row[0], row[2], nodes=80)
        full = np.repeat(row[None], len(y), axis=0)
        full[:, 1] = y
        assert part.log_prob(row[[2, 0]]) == pytest.approx(np.log(np.exp(flow.log_prob(full)) @ w), abs=1e-3)
    rest = flow.conditional({0: x[0, 0], 2: x[0, 2]})
    draws = rest.sample(500, rng=0)
    assert (draws > x[0, 0]).all()
    assert (draws < x[0, 2]).all()
    assert rest.quantile([0.0, 1.0])[:, 0].tolist() == [x[0, 0], x[0, 2]]
    nowhere = [[1.0, 1.0], [0.0, 1.0], [np.inf, 0.0], [0.0, -np.inf], [np.inf, np.inf], [np.inf, -np.inf]]
    assert (part.log_prob(nowhere) == -np.inf).all()  # no room between, or the wrong order
    assert np.isnan(part.log_prob([np.nan, 1.0]))
    with pytest.raises(ValueError, match=r"got \{0: 1, 2: 0\}, where log p is -inf: outside a support"):
        flow.conditional({0: 1.0, 2: 0.0})
    rest = Part("rest", ps.simplex([0, 1, 2]), dim=3).build().conditional({0: 0.5, 2: 0.2})
    assert rest.quantile(1.0)[0] == pytest.approx(0.3)


def test_a_narrow_column_in_a_wide_box_is_integrated_over_where_it_lies() -> None:
    layers = [ps.Elementwise(ps.RationalQuadratic()), ps.Autoregressive(ps.Affine(), ps.MLP((4,)), order=(1, 0))]
    flow = ps.Flow(ps.StandardNormal(2), layers, support={1: (-1e6, 1e6)}, dtype="float64", rng=0)
    for m, s in ((3.0, 1e-3), (-1e6, 1e-4), (1e6, 1e-3)):
        buffers = flow._snapshot.buffers.copy()
        buffers[4:] = m, s  # of the map of the box, in which the flow is uniform
        assign(flow, params=flow.params + 0.1 * rng("narrow").standard_normal(flow.n_params), buffers=buffers)
        x = flow.sample(300, rng=0)
        nodes, weights = pieces(x[:, 0], -np.inf, np.inf, nodes=8)
        assert np.exp(flow.marginal(0, tolerance=1e-3).log_prob(nodes[:, None])) @ weights == pytest.approx(1, abs=2e-3)
        part = Marginal(flow, (1,), context=None, tolerance=1e-2)
        assert kolmogorov(part.cdf(x[:, [1]])) < KS


def test_parts_of_float32_flows_keep_to_their_supports() -> None:
    for support in (ps.ordered([0, 1, 2]), ps.simplex([0, 1, 2]), [ps.periodic(0, 1), (0, 1), "real"]):
        flow = Part("float32", support, dim=3).build("float32")
        rest = flow.conditional({1: float(flow.sample(rng=0)[1])}, tolerance=1e-1)
        x = rest.sample(50, rng=1)
        assert x.dtype == np.float32
        assert np.isfinite(rest.log_prob(x)).all()


def test_a_part_has_the_lattice_of_its_columns() -> None:
    source = rng("lattice of a part")
    x = np.stack([source.normal(size=500), source.poisson(3.0, 500)], axis=1)
    flow = ps.nsf_ar(2, layers=1, hidden=(4,), mixing="none", order=(0, 1), rng=0)
    flow.fit(x, dequantize={1: 1}, epochs=1, rng=0)
    assert flow.marginal(0).lattice is None
    rest = flow.conditional({0: 0.3})
    assert (rest.sample(50, rng=0) % 1 == 0).all()
    raw = rest.sample(50, rng=0, raw=True)
    assert (np.rint(raw) == rest.sample(50, rng=0)).all()
    assert (raw % 1 != 0).all()
    other = flow.marginal(1)
    assert isinstance(other, ps.Marginal)
    assert rest.lattice == other.lattice == {0: 1.0}
    assert flow.conditional({1: 2.0}).lattice is None
    found = ps.importance(rest, lambda y: rest.log_prob(y), 200, rng=0)
    assert found.log_evidence == pytest.approx(0, abs=1e-6)
    first = ps.nsf_ar(2, layers=1, hidden=(4,), mixing="none", order=(1, 0), rng=0).fit(
        x, dequantize={1: 1}, epochs=1, rng=0
    )
    assert first.marginal(1).lattice == {0: 1.0}
    assert (first.marginal(1).sample(50, rng=0) % 1 == 0).all()


# -- the error of quadrature -------------------------------------------------------------------------


def _normal(t: Array) -> tuple[Array, Array]:
    special = pytest.importorskip("scipy.special")
    return -0.5 * t * t - 0.5 * np.log(2 * np.pi), special.ndtr(t)


def _laplace(t: Array) -> tuple[Array, Array]:
    half = 0.5 * np.exp(-np.abs(t))
    return -np.abs(t) - np.log(2), np.where(t < 0, half, 1 - half)


@pytest.mark.parametrize("shape", [_normal, _laplace])
@pytest.mark.parametrize("where", ["inside", "edge", "seam", "pair"])
def test_a_stated_error_is_no_less_than_the_true_one(shape: Any, where: str) -> None:
    """Of modes as narrow as 1e-6, at random places, astride an end of a box, in two pieces at a seam, and in pairs."""
    n, source = 200, rng("modes", where)
    width, place = 10.0 ** source.uniform(-6, 0, n), source.uniform(-1, 1, n)
    side = np.sign(source.uniform(-1, 1, n))
    if where != "inside":
        place = side * (1 + width * source.uniform(-3, 3, n) * (1 if where == "edge" else 0.5))
    images = {"seam": (-2.0, 0.0, 2.0), "pair": (0.0, source.uniform(-1, 1, n) - place)}.get(where, (0.0,))

    def mass(centre: Array) -> Array:
        a, b = (-1 - centre) / width, (1 - centre) / width
        return np.where(a > 0, shape(-a)[1] - shape(-b)[1], shape(b)[1] - shape(a)[1])

    def log_f(number: Array, w: Array, floor: Array) -> tuple[Array, None]:
        own = [shape((w - (place + i)[number, None]) / width[number, None])[0] for i in images]
        return np.logaddexp.reduce(own, axis=0) - np.log(width[number, None]), None

    exact = sum(mass(place + i) for i in images)
    for tolerance, edges in ((1e-2, [-1.0, 1.0]), (1e-5, np.linspace(-1, 1, 9))):
        found = integrate(log_f, n, np.array(edges), tolerance, np.full(n, -np.inf))
        true = np.abs(np.expm1(found.log_integral - np.log(exact)))
        assert found.converged.all()
        assert (true <= 1.2 * found.error + 1e-12).all()


def test_quadrature_refuses_a_base_that_ends_where_no_support_does() -> None:
    base = ps.Product([ps.Uniform(1, -2, 2), ps.StandardNormal(1)])
    flow = ps.nsf_ar(2, base=base, layers=2, hidden=(8,), dtype="float64", rng=0)
    for part in (lambda **how: flow.marginal([0], **how), lambda **how: flow.conditional({0: 0.1}, **how)):
        with pytest.raises(ValueError, match="base on lines, which ends abruptly"):
            part()
        part(proposal=ps.Flow(ps.Normal(1), [], rng=0), n=100, rng=0)
    boxes = ps.nsf_ar(2, support=(-2, 2), layers=2, hidden=(8,), dtype="float64", rng=0)  # end where their support does
    assert np.isfinite(boxes.marginal([0]).log_prob([[0.5]])).all()
