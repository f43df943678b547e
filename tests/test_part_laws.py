"""Laws of marginals and conditionals, for every kind of column, group and base: against SciPy, against each other, against draws."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import assign, rng
from penstock.marginals import Marginal
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
        buffers[:d][lines], buffers[d : 2 * d][lines] = source.normal(0, 0.3, lines.sum()), source.uniform(0.5, 1.5, lines.sum())
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
    Part("student", base=ps.StudentT(2, df=(3.0, 6.0))),
    Part("uniform", base=ps.Uniform(2, -2, 2)),
    Part("mixture", base=MIXTURE),
    Part("exact normal", base=ps.Normal(2), mixing="none"),
    Part("exact student", base=ps.StudentT(2, df=(3.0, 6.0), learned=False), mixing="none"),
    Part("exact uniform", base=ps.Uniform(2, -2, 2), mixing="none"),
    Part("exact mixture", base=MIXTURE, mixing="none", gain=0.5),
    Part("exact product", base=ps.Product([ps.GaussianMixture(1, 2), ps.StudentT(1)]), mixing="none"),
    Part("exact mixture of a context", base=ps.GaussianMixture(2, 2, NETWORK), mixing="none", context=(0.5, -1.0)),
    Part("mixture of a context behind circle", {0: CIRCLE}, base=ps.GaussianMixture(2, 2, NETWORK), context=(0.5,)),
]
each_part = pytest.mark.parametrize("case", PARTS, ids=lambda case: case.name)


def ends_of(flow: ps.Flow, column: int, known: dict[int, float]) -> tuple[float, float]:
    """Between which numbers a column lies where others are known, said once more: a law for each kind of support."""
    own = flow.spec.support[column] if flow.spec.support else ps.support.Real()
    if isinstance(own, ps.Simplex):
        return 0.0, 1.0 - sum(known[i] for i in own.columns if i in known)
    lo, hi = (-np.inf if getattr(own, "lo", None) is None else own.lo), (np.inf if getattr(own, "hi", None) is None else own.hi)
    if isinstance(own, ps.Ordered):
        place = own.columns.index(column)
        lo = max([lo, *(known[i] for i in own.columns[:place] if i in known)])
        hi = min([hi, *(known[i] for i in own.columns[place + 1 :] if i in known)])
    return lo, hi


def pieces(draws: Array, lo: float, hi: float, nodes: int = 40) -> tuple[Array, Array]:
    """Nodes and weights of an integral over a column, in pieces between quantiles of its draws."""
    spread = np.ptp(draws)
    low, high = max(lo, draws.min() - 2 * spread), min(hi, draws.max() + 2 * spread)
    inner = np.quantile(draws, [0, 0.003, 0.02, 0.1, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9, 0.98, 0.997, 1])
    edges = np.unique([low, *(low + (inner[0] - low) * np.array([0.5, 0.9, 0.99])), *inner,
                       *(high + (inner[-1] - high) * np.array([0.99, 0.9, 0.5])), high])  # fmt: skip
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
        total = sum(integrate.quad(density, a, b, epsrel=1e-6, limit=200)[0] for a, b in zip(edges, edges[1:], strict=False))
        assert value == pytest.approx(np.log(total), abs=2e-4)


@each_part
def test_parts_integrate_to_one_and_are_the_factors_of_the_joint_density(case: Part) -> None:
    flow = case.build()
    view, other = case.view(flow), 1 - case.keep
    part = view.marginal(case.keep)
    x = view.sample(3000, rng=2)
    nodes, weights = pieces(x[:, case.keep], *ends_of(flow, case.keep, {}))
    assert np.exp(part.log_prob(nodes[:, None])) @ weights == pytest.approx(1, abs=2e-3)
    for row in x[:2]:
        known = {case.keep: float(row[case.keep])}
        rest = view.conditional(known)
        joint = float(view.log_prob(row))
        assert float(part.log_prob(row[[case.keep]])) + float(rest.log_prob(row[[other]])) == pytest.approx(joint, abs=2e-4)
        draws = rest.sample(400, rng=3)[:, 0]
        nodes, weights = pieces(draws, *ends_of(flow, other, known))
        assert np.exp(rest.log_prob(nodes[:, None])) @ weights == pytest.approx(1, abs=2e-3)


@each_part
def test_draws_follow_the_distribution_functions_of_parts(case: Part) -> None:
    flow = case.build()
    view, other = case.view(flow), 1 - case.keep
    part = view.marginal(case.keep)
    x = view.sample(2000, rng=4)
    assert kolmogorov(part.cdf(x[:, [case.keep]])) < KS
    rest = view.conditional({case.keep: float(x[0, case.keep])})
    draws = rest.sample(2000, rng=5)
    assert kolmogorov(rest.cdf(draws)) < KS
    lo, hi = ends_of(flow, other, {case.keep: float(x[0, case.keep])})
    assert (draws >= lo).all()
    assert (draws <= hi).all()
    u = np.linspace(0.01, 0.99, 9)
    for own, (low, high) in ((part, ends_of(flow, case.keep, {})), (rest, (lo, hi))):
        q = own.quantile(u)
        assert (np.diff(q[:, 0]) > 0).all()
        np.testing.assert_allclose(own.cdf(q), u, atol=1e-8)
        # The distribution function is the integral of the density.
        a, b = q[2, 0], q[6, 0]
        t, w = pieces(np.linspace(a, b, 100), a, b)
        assert np.exp(own.log_prob(t[:, None])) @ w == pytest.approx(u[6] - u[2], abs=1e-3)
        ends = own.interval(0.5)
        assert np.diff(own.cdf(ends[:, None])) == pytest.approx(0.5, abs=1e-8)
        assert own.cdf([[low], [high]]).tolist() == [0, 1]
