"""Ensembles as densities: their numbers follow from those of their members, in one call, on every backend."""

from __future__ import annotations

import copy
import functools
import math
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS
from helpers import LAYOUTS, assert_close, assert_same_bits, derivative, each_backend, inside, python, sealed
from penstock.files import members as member_files
from penstock.files import model, safetensors

Array = np.ndarray[Any, Any]

SMALL: Any = {"layers": 2, "hidden": (6,)}
# What members have in common; weights; whether permutations differ, too.
KINDS: dict[str, tuple[Callable[..., ps.Flow], tuple[float, ...]]] = {
    "one spec": (lambda rng, backend: ps.realnvp(3, mixing="reverse", **SMALL, rng=rng, backend=backend), (1, 1, 1)),
    "other permutations": (
        lambda rng, backend: ps.nsf(3, mixing="random", **SMALL, rng=rng, backend=backend),
        (1, 0, 3, 2),
    ),
    "given": (lambda rng, backend: ps.nsf(3, **SMALL, context_dim=2, rng=rng, backend=backend), (1, 2)),
    "supports": (
        lambda rng, backend: ps.nsf(
            3, **SMALL, support=["positive", (-1.0, 2.0), ps.periodic(0, 360)], rng=rng, backend=backend
        ),
        (2, 1, 1),
    ),
    "float64": (lambda rng, backend: ps.maf(3, **SMALL, dtype="float64", rng=rng, backend=backend), (0.3, 0.7)),
}

each_kind = pytest.mark.parametrize(
    ("kind", "backend"),
    [
        pytest.param(kind, backend, marks=pytest.mark.slow if backend == "numba" and kind != "given" else ())
        for kind in KINDS
        for backend in BACKENDS
    ],
)


@functools.cache
def ensemble_of(kind: str, backend: str) -> ps.Ensemble:
    """An ensemble whose members have random parameters."""
    build, weights = KINDS[kind]
    members = list(ps.Ensemble(functools.partial(build, backend=backend), len(weights), rng=1).members)
    for k, member in enumerate(members):
        member.params = member.params + 0.4 * np.random.default_rng([7, k]).normal(size=member.n_params)
    ensemble = ps.Ensemble(members)
    ensemble.weights = weights
    return ensemble


def rows_of(ensemble: ps.Ensemble, n: int = 200) -> tuple[Array, Array | None]:
    """Draws of the ensemble, with some that have density 0 or none among them."""
    context = np.random.default_rng(3).normal(size=(n, 2)) if ensemble.context_dim else None
    rows = ensemble.sample(None if ensemble.context_dim else n, context, rng=2).astype(np.float64)
    rows[5], rows[6], rows[7], rows[8] = np.nan, np.inf, -1e30, -5.0
    return rows, context


def mixed(ensemble: ps.Ensemble, rows: Array, context: Array | None) -> tuple[Array, Array]:
    """The log-density and the members' shares, number by number."""
    values = np.stack([log_prob_of(member, rows, context) for member in ensemble.members], axis=1)
    log_prob, shares = np.zeros(len(rows)), np.zeros((len(rows), ensemble.n))
    for r, own in enumerate(values):
        terms = {
            k: value + math.log(w) for k, (value, w) in enumerate(zip(own, ensemble.weights, strict=True)) if w > 0
        }
        top = max(terms.values())
        if any(math.isnan(term) for term in terms.values()):
            log_prob[r], shares[r] = np.nan, np.nan
        elif top == -math.inf:
            log_prob[r] = top
        else:
            total = math.fsum(math.exp(term - top) for term in terms.values())
            log_prob[r] = top + math.log(total)
            for k, term in terms.items():
                shares[r, k] = math.exp(term - top) / total
    return log_prob, shares


def log_prob_of(flow: ps.Flow, rows: Array, context: Array | None) -> Array:
    """What the flow's engine gives in float64."""
    runner = flow._runner()
    return runner.log_prob(flow._snapshot.pack(runner), rows, context, dtype=np.dtype(np.float64))


@each_kind
def test_the_density_is_the_weighted_mean_of_the_members(kind: str, backend: str) -> None:
    ensemble = ensemble_of(kind, backend)
    rows, context = rows_of(ensemble)
    expected, shares = mixed(ensemble, rows, context)
    assert np.isnan(expected[5])
    assert (expected == -np.inf).any()
    runner = ensemble._runner()
    packed = ensemble._snapshot.pack(runner)
    found, its = runner.shared(packed, rows, context, np.float64)  # type: ignore[attr-defined]
    finite = np.isfinite(expected)
    assert_close(found[finite], expected[finite], 4, "float64", scale=np.abs(expected[finite]))
    assert np.array_equal(found[~finite], expected[~finite], equal_nan=True)
    sound = ~np.isnan(expected)
    assert_close(its.T[sound], shares[sound], 64, "float64", scale=1.0)
    assert np.isnan(its.T[5][ensemble.weights > 0]).all()
    with np.errstate(all="ignore"):
        assert_same_bits(ensemble.log_prob(rows, context), found.astype(ensemble.dtype))
    assert ensemble.score(rows, context, sample_weight=finite.astype(float)) == pytest.approx(found[finite].mean())


@each_backend
def test_an_ensemble_of_one_has_the_bits_of_its_member(backend: str) -> None:
    member = ensemble_of("supports", backend).members[1]
    alone = ps.Ensemble([member])
    rows, _ = rows_of(alone)
    assert_same_bits(alone.log_prob(rows), member.log_prob(rows))
    assert_same_bits(alone.log_prob(rows[0]), member.log_prob(rows[0]))
    assert_same_bits(alone.sample(70, rng=3), member.sample(70, rng=3))
    assert_same_bits(alone.sample(rng=3), member.sample(rng=3))
    # A member of weight 0 is not there.
    two = ps.Ensemble([ensemble_of("supports", backend).members[0], member])
    two.weights = [0, 5]
    assert_same_bits(two.log_prob(rows), member.log_prob(rows))
    assert_same_bits(two.sample(70, rng=3), member.sample(70, rng=3))
    assert_same_bits(two.log_prob_and_grad(rows)[1], member.log_prob_and_grad(rows)[1])


@each_kind
def test_the_bits_depend_on_neither_threads_nor_batches_nor_strides(kind: str, backend: str) -> None:
    ensemble = ensemble_of(kind, backend)
    rows, context = rows_of(ensemble, 1500)
    rows = rows.astype(np.float32).astype(np.float64)  # so that it may lie in either
    with ps.threads(1):
        log_prob, draws = ensemble.log_prob(rows, context), ensemble.sample(700, rng=4, context=_first(context))
    with ps.threads(3):
        assert_same_bits(ensemble.log_prob(rows, context), log_prob)
        assert_same_bits(ensemble.sample(700, rng=4, context=_first(context)), draws)
        for r in (0, 5, 8, 1499):
            assert_same_bits(ensemble.log_prob(rows[r], None if context is None else context[r]), log_prob[r])
        for part in (slice(3, 4), slice(10, 75), slice(700, 1500)):
            own = None if context is None else context[part]
            assert_same_bits(ensemble.log_prob(rows[part], own), log_prob[part])
        for change in LAYOUTS.values():
            assert_same_bits(ensemble.log_prob(change(rows), context), log_prob)
        out = np.zeros(1500, ensemble.dtype)
        assert ensemble.log_prob(rows, context, out=out) is out
        assert_same_bits(out, log_prob)
    assert ensemble.log_prob(rows[:0], None if context is None else context[:0]).shape == (0,)


def test_more_than_is_held_at_once_goes_through_in_parts() -> None:
    """The engine holds 2^20 log-densities of members together."""
    flows = [ps.realnvp(2, layers=1, hidden=(2,), context_dim=1, rng=0, backend=BACKENDS[0]) for _ in range(80)]
    for k, flow in enumerate(flows):
        flow.params = flow.params + 0.3 * np.random.default_rng(k).normal(size=flow.n_params).astype(np.float32)
    ensemble = ps.Ensemble(flows)
    rows = np.random.default_rng(0).normal(size=(4, 7001, 2))
    context = np.random.default_rng(1).normal(size=(4, 1))
    assert ensemble.n * rows.size / 2 > 2 << 20
    found = ensemble.log_prob(rows, context)
    for block in range(4):
        assert_same_bits(found[block, 6900:], ensemble.log_prob(rows[block, 6900:], context[block]))
        assert_same_bits(found[block, :40], ensemble.log_prob(rows[block, :40], context[block]))
    each = ensemble.spread(rows[0], context[0])
    assert_same_bits(each[5000:5010], ensemble.spread(rows[0, 5000:5010], context[0]))


def _first(context: Array | None) -> Array | None:
    return None if context is None else context[0]


@each_backend
def test_contexts_are_shared_or_by_block_or_by_row(backend: str) -> None:
    ensemble = ensemble_of("given", backend)
    rows, context = rows_of(ensemble, 120)
    assert context is not None
    blocks = rows.reshape(3, 40, 3)
    for given in (context[0], context[:3], context.reshape(3, 40, 2)):
        each = np.broadcast_to(given if given.ndim != 2 else given[:, None], (3, 40, 2)).reshape(-1, 2)
        expected = ensemble.log_prob(rows, each)
        assert_same_bits(ensemble.log_prob(blocks, given).ravel(), expected)
    alone = ensemble.given(context[1])
    assert_same_bits(alone.log_prob(rows), ensemble.log_prob(rows, context[1]))
    assert_same_bits(alone.log_prob_and_grad(rows)[1], ensemble.log_prob_and_grad(rows, context[1])[1])
    assert_same_bits(alone.sample(9, rng=1), ensemble.sample(9, context[1], rng=1))
    assert_same_bits(ensemble.log_prob(rows[0], context[:4]), ensemble.log_prob(np.repeat(rows[:1], 4, 0), context[:4]))
    draws = ensemble.sample(40, context[:3], rng=5)
    assert_same_bits(ensemble.sample(7, context[1:3], rng=5, first=30, first_context=1), draws[1:3, 30:37])


@each_kind
def test_each_draw_is_that_of_a_member_by_the_same_number(kind: str, backend: str) -> None:
    ensemble = ensemble_of(kind, backend)
    context = None if not ensemble.context_dim else np.array([0.3, -1.0])
    n = 3000
    draws, log_prob = ensemble.sample_and_log_prob(n, context, rng=8)
    assert_same_bits(log_prob, ensemble.log_prob(draws, context))
    assert_same_bits(ensemble.sample(5, context, rng=8, first=77), draws[77:82])
    assert_same_bits(ensemble.sample(1, context, rng=8, first=99), draws[99:100])
    each = np.stack([member.sample(n, context, rng=8) for member in ensemble.members])
    match = (each == draws).all(axis=2)
    assert (match.sum(axis=0) == 1).all()
    counts = match.sum(axis=1)
    spread = np.sqrt(n * ensemble.weights * (1 - ensemble.weights))
    assert (np.abs(counts - n * ensemble.weights) <= 4 * spread).all()
    # The member does not go with the draw itself: its latents are those of the base.
    assert np.abs(np.corrcoef(match[0], each[0][:, 0].astype(float))[0, 1]) < 0.1


def test_the_number_that_chooses_a_member_is_philox_of_a_stream_of_its_own() -> None:
    """Salmon et al. (2011): written out once more, for numbers that do not fit into 32 bits either."""
    seed, first, row = 0x0123456789ABCDEF, (1 << 40) + 3, (1 << 33) + 5

    def chance(draw: int, context_row: int) -> float:
        key = [seed & 0xFFFFFFFF, seed >> 32]
        c = [draw & 0xFFFFFFFF, context_row & 0xFFFFFFFF, (context_row >> 32) << 24, 7 | (draw >> 32) << 8]
        for _ in range(10):
            p, q = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [(q >> 32) ^ c[1] ^ key[0], q & 0xFFFFFFFF, (p >> 32) ^ c[3] ^ key[1], p & 0xFFFFFFFF]
            key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
        return ((c[0] << 21) | (c[1] >> 11)) / 2**53

    for backend in BACKENDS:
        ensemble = ensemble_of("given", backend)
        context = np.array([[0.0, 1.0], [1.0, 0.0]])
        draws = ensemble.sample(50, context, key=seed, first=first, first_context=row)
        own = [m.sample(50, context, key=seed, first=first, first_context=row) for m in ensemble.members]
        for j in range(2):
            for i in range(50):
                k = int(chance(first + i, row + j) >= ensemble.weights[0])
                assert_same_bits(draws[j, i], own[k][j, i])


@each_kind
@inside("wrt", ["x", "context"])
def test_gradients_are_those_of_the_members_by_their_shares(kind: str, backend: str, wrt: str) -> None:
    ensemble = ensemble_of(kind, backend)
    if wrt == "context" and not ensemble.context_dim:
        return
    rows, context = rows_of(ensemble, 60)
    log_prob, grad = ensemble.log_prob_and_grad(rows, context, wrt=wrt)
    assert_same_bits(log_prob, ensemble.log_prob(rows, context))
    assert grad.dtype == ensemble.dtype
    _, shares = mixed(ensemble, rows, context)
    each = np.stack([member.log_prob_and_grad(rows, context, wrt=wrt)[1].astype(float) for member in ensemble.members])
    with np.errstate(all="ignore"):
        expected = np.where(shares.T[..., None] == 0, 0, shares.T[..., None] * each).sum(axis=0)
    sound = np.isfinite(expected).all(axis=1)
    with np.errstate(all="ignore"):
        scale = np.nanmax(np.abs(shares.T[..., None] * each)[:, sound])
    assert_close(grad[sound], expected[sound], 64, str(ensemble.dtype), scale=scale)
    assert np.isnan(grad[5]).all()
    empty = (log_prob == -np.inf) & (shares == 0).all(axis=1)
    assert empty.any()
    assert not grad[empty].any()


@each_backend
def test_gradients_of_parameters_and_shared_contexts_match_differences(backend: str) -> None:
    _, weights = KINDS["given"]
    members = [member.astype("float64") for member in ensemble_of("given", backend).members]
    ensemble = ps.Ensemble(members)
    ensemble.weights = weights
    rows, context = ensemble.sample(6, [0.3, -0.2], rng=1), np.array([0.3, -0.2])
    d = np.random.default_rng(2).normal(size=6)
    _, d_params, d_context = ensemble.log_prob_vjp(rows, d, context)
    assert d_params.shape == (ensemble.n_params,)
    assert d_context is not None
    direction = np.random.default_rng(3).normal(size=ensemble.n_params)
    starts = np.cumsum([0] + [member.n_params for member in members])

    def along(h: float) -> Array:
        moved = []
        for k, member in enumerate(members):
            twin = member.copy()
            twin.params = member.params + h * direction[starts[k] : starts[k + 1]]
            moved.append(twin)
        other = ps.Ensemble(moved)
        other.weights = weights
        return np.array([d @ other.log_prob(rows, context)])

    assert derivative(along, 1e-4)[0] == pytest.approx(d_params @ direction, rel=1e-6)
    for j in range(2):
        step = np.eye(2)[j]
        moved = derivative(lambda h, step=step: np.array([d @ ensemble.log_prob(rows, context + h * step)]), 1e-4)
        assert moved[0] == pytest.approx(d_context[j], rel=1e-6)
    weight = np.array([1e-300, 0, 2e-300, 3e-300, 1e-300, 5e-300])
    rows[1] = np.nan
    loss, total, grad = ensemble.loss_and_grad(rows, context, weight)
    counts = weight > 0
    assert total == pytest.approx(weight.sum())
    assert loss == pytest.approx(-(weight[counts] * ensemble.log_prob(rows[counts], context)).sum())
    _, expected, _ = ensemble.log_prob_vjp(rows[counts], -weight[counts] * 1e300, context)
    assert_close(grad * 1e300, expected, 1e4, "float64", scale=np.abs(expected).max())


def test_spread_is_the_standard_deviation_of_the_members() -> None:
    ensemble = ensemble_of("supports", BACKENDS[0])
    rows, _ = rows_of(ensemble)
    values = np.stack([log_prob_of(member, rows, None) for member in ensemble.members])
    with np.errstate(all="ignore"):
        mean = ensemble.weights @ values
        expected = np.sqrt(ensemble.weights @ (values - mean) ** 2)
    finite = np.isfinite(values).all(axis=0)
    assert_close(ensemble.spread(rows)[finite], expected[finite], 1e3, "float64")
    assert (ensemble.spread(rows)[(values == -np.inf).all(axis=0)] == 0).all()
    assert np.isnan(ensemble.spread(rows)[5])
    lone = ps.nsf(1, support=(0.0, 1.0), **SMALL, rng=0)
    lone.params = lone.params + 3
    far = ps.Ensemble([ps.nsf(1, **SMALL, rng=0), ps.nsf(1, **SMALL, rng=1)])
    assert far.spread([0.5]) == 0
    assert far.spread([[0.5], [np.inf]]).tolist() == [0, 0]


@pytest.mark.parametrize("support", [None, "positive", ps.periodic(-1, 3)], ids=str)
def test_one_dimension_has_probabilities_and_quantiles(support: Any) -> None:
    members = [ps.nsf_ar(1, **SMALL, context_dim=1, support=support, rng=k) for k in range(3)]
    for k, member in enumerate(members):
        member.params = member.params + np.random.default_rng([1, k]).normal(size=member.n_params)
    ensemble = ps.Ensemble(members)
    ensemble.weights = [1, 2, 3]
    c = [0.4]
    x = np.sort(ensemble.sample(50, c, rng=1), axis=0)
    u = ensemble.cdf(x, c)
    assert_close(u, sum(w * m.cdf(x, c) for w, m in zip(ensemble.weights, ensemble.members, strict=True)), 8, "float64")
    assert (np.diff(u) >= 0).all()
    assert_close(ensemble.cdf(ensemble.quantile(u, c), c), u, 1e4, "float64")
    assert ensemble.quantile(0.3, [[0.1], [0.2]]).shape == (2, 1)
    assert ensemble.quantile([[0.2, 0.4]], c).shape == (1, 2, 1)
    ends = [member.quantile([0.0, 1.0], c) for member in ensemble.members]
    if not isinstance(support, ps.Periodic):  # whose members begin at the same place up to rounding
        assert_same_bits(ensemble.quantile([0.0, 1.0], c), ends[0])
    low, high = ensemble.given(c).interval(0.8)
    assert ensemble.cdf([[high]], c)[0] - ensemble.cdf([[low]], c)[0] == pytest.approx(0.8)
    short = ensemble.given(c).interval(0.8, shortest=True)
    assert short[1] - short[0] <= high - low + 1e-6
    shares = (ensemble.sample(4000, c, rng=3) <= ensemble.quantile(0.25, c)[0]).mean()
    assert shares == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))


def parted(order: Any, **more: Any) -> ps.Ensemble:
    """Members in which columns come first or do not, with random parameters."""
    members = []
    for k in range(3):
        build = ps.nsf if order is None else functools.partial(ps.nsf_ar, mixing="none", order=order[k % len(order)])
        member = build(3 if order else 2, **SMALL, rng=k, **more)
        member.params = member.params + 0.4 * np.random.default_rng([3, k]).normal(size=member.n_params)
        members.append(member)
    ensemble = ps.Ensemble(members)
    ensemble.weights = [3, 1, 2]
    return ensemble


PARTS: dict[str, tuple[Callable[[], Any], Any, Any, dict[Any, float]]] = {
    "exact": (lambda: parted([(2, 0, 1)]), ps.Ensemble, [2, 0], {2: 0.3}),
    "orders that differ": (lambda: parted([(2, 0, 1), (0, 2, 1)]), ps.Marginal, [2], {2: 0.3, 0: -0.5}),
    "quadrature": (lambda: parted(None, support=["positive", "real"]), ps.Marginal, [0], {0: 0.7}),
    "given": (lambda: parted(None, context_dim=1).given([0.4]), ps.Marginal, [1], {1: 0.2}),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow if case == "orders that differ" else ()) for case in PARTS]
)
def test_marginals_and_conditionals_are_those_of_the_members(case: str) -> None:
    build, kind, columns, known = PARTS[case]
    whole = build()
    ensemble = getattr(whole, "flow", whole)
    each = [member if whole is ensemble else member.given(whole.context) for member in ensemble.members]
    marginal = whole.marginal(columns)
    assert isinstance(marginal, kind)
    rows = np.abs(np.random.default_rng(0).normal(size=(5, len(columns)))) + 0.1
    own = np.stack([member.marginal(columns).log_prob(rows) for member in each]).astype(float)
    expected = np.log(ensemble.weights @ np.exp(own))
    assert marginal.log_prob(rows) == pytest.approx(expected, abs=1e-5 if kind is ps.Ensemble else 3e-4)
    if kind is ps.Marginal:
        if case != "orders that differ":  # where a column is left out exactly, and with it its draws
            assert_same_bits(marginal.sample(6, rng=2), whole.sample(6, rng=2)[:, columns])
        assert marginal.cdf(marginal.quantile([0.2, 0.7])) == pytest.approx([0.2, 0.7], abs=1e-6)
    view = whole.conditional(known)
    evidence = np.array([member.conditional(known).log_evidence for member in each])
    assert view.log_evidence == pytest.approx(np.log(ensemble.weights @ np.exp(evidence)), abs=1e-9)
    full = np.abs(np.random.default_rng(1).normal(size=(5, ensemble.dim))) + 0.1
    for i, value in known.items():
        full[:, i] = value
    rest = np.delete(full, list(known), axis=1)
    twin = whole.log_prob(full).astype(float) - view.log_evidence
    assert view.log_prob(rest) == pytest.approx(twin, abs=1e-5)
    draws, log_prob = view.sample_and_log_prob(2000, rng=4)
    assert_same_bits(log_prob, view.log_prob(draws))
    assert_same_bits(view.sample(5, rng=4, first=50), draws[50:55])
    assert_same_bits(pickle.loads(pickle.dumps(view)).sample(3, rng=4), draws[:3])
    # The mean of 1 / p over draws, of a box, is its volume.
    low, high = np.quantile(draws, [0.2, 0.8], axis=0)
    inside = ((draws > low) & (draws < high)).all(axis=1)
    volumes = np.where(inside, np.exp(-log_prob), 0)
    assert volumes.mean() == pytest.approx(np.prod(high - low), abs=5 * volumes.std() / math.sqrt(2000))
    if rest.shape[1] == 1:
        assert view.cdf(view.quantile([0.1, 0.6])) == pytest.approx([0.1, 0.6], abs=1e-9)
        assert (draws <= view.quantile(0.3)).mean() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / 2000))


@pytest.mark.filterwarnings("ignore::penstock.DataWarning")
def test_a_conditional_of_an_ensemble_has_the_lattice_and_method_of_one_of_a_flow() -> None:
    x = np.random.default_rng(0).normal(size=(300, 3))
    x[:, 1] = np.random.default_rng(1).poisson(3, 300)
    ensemble = parted([(0, 1, 2)]).reset(0).fit(x, epochs=1, rng=0, dequantize={1: 1.0})
    view = ensemble.conditional({0: 0.3})
    assert view.lattice == ensemble.members[0].conditional({0: 0.3}).lattice == {0: 1.0}
    rounded, raw = view.sample(50, rng=1), view.sample(50, rng=1, raw=True)
    assert (rounded[:, 0] % 1 == 0).all()
    assert (raw[:, 0] % 1 != 0).any()
    assert np.abs(raw - rounded)[:, 0].max() <= 0.5
    draws, log_prob = view.sample_and_log_prob(50, rng=1, raw=True)
    assert_same_bits(draws, raw)
    assert_same_bits(log_prob, view.log_prob(raw))
    assert ensemble.conditional({1: 2.0}).lattice is None
    names = {name for name in dir(ps.Conditional) if not name.startswith("_")} | set(vars(view.members[0]))
    assert all(hasattr(type(view), name) or hasattr(view, name) for name in names if not name.startswith("_"))
    assert view.method == "exact"
    assert math.isnan(view.ess)
    assert math.isnan(view.pareto_k)
    with pytest.raises(ValueError, match="there are no weights: the method is 'exact'"):
        _ = view.importance


def test_importance_in_a_conditional_weighs_by_the_mixture() -> None:
    proposal = ps.Flow(ps.StandardNormal(2), [], rng=0)
    ensemble = parted([(0, 1, 2)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.TargetWarning)
        view = ensemble.conditional({2: 0.3}, proposal=proposal, n=500, rng=1)
        mixed = ensemble.conditional({2: 0.3, 1: 0.1})
        apart = parted([(0, 1, 2), (2, 1, 0)]).conditional({2: 0.3}, proposal=proposal, n=500, rng=1)
    assert (view.method, mixed.method, apart.method) == ("importance", "quadrature", "importance")
    told = view.importance
    full = np.column_stack([told.samples, np.full(500, 0.3)])
    expected = ensemble.log_prob(full).astype(float) - proposal.log_prob(told.samples)
    assert told.log_weights == pytest.approx(expected, abs=1e-4)
    assert told.log_evidence == pytest.approx(view.log_evidence, abs=1e-9)
    w = np.exp(told.log_weights)
    assert view.ess == told.ess == pytest.approx(w.sum() ** 2 / (w * w).sum())
    assert view.pareto_k == told.pareto_k
    assert told.log_evidence_error <= view.error + 1e-12
    # One of these members knows the column first, so that its density is exact.
    with pytest.raises(ValueError, match="no draws in common"):
        _ = apart.importance
    assert apart.ess == min(own.ess for own in apart.members if own.method == "importance")
    for one in (view, apart):
        with pytest.raises(ValueError, match="gives no draws but weighted ones"):
            one.sample(1)


# -- what an ensemble is made of --------------------------------------------------------------------------------


def _asked(name: str, *, called: bool) -> None:
    found = getattr(ps.Ensemble(ps.realnvp(2, rng=0), 2), name)
    if called:
        found([[0.0, 0.0]])


def _crowd(n: int) -> member_files.Several:
    own = ps.Flow(ps.StandardNormal(1), [], rng=0)._contents(None)
    return member_files.Several((own,) * n, np.full(n, 1 / n))


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "no members": (lambda: ps.Ensemble([]), "needs members"),
    "no flow": (lambda: ps.Ensemble(3), "flow_or_recipe must be"),  # type: ignore[arg-type]
    "a recipe of something else": (lambda: ps.Ensemble(lambda rng: 3), "must return a Flow"),  # type: ignore[arg-type, return-value]
    "n": (lambda: ps.Ensemble(ps.realnvp(2, rng=0), 0), "n must be"),
    "dims": (lambda: ps.Ensemble([ps.realnvp(2, rng=0), ps.realnvp(3, rng=0)]), "members 0 and 1.*dim 2 and 3"),
    "dtypes": (
        lambda: ps.Ensemble([ps.realnvp(2, rng=0), ps.realnvp(2, rng=0, dtype="float64")]),
        "dtype float32 and float64",
    ),
    "supports": (lambda: ps.Ensemble([ps.nsf(2, rng=0), ps.nsf(2, rng=0, support="positive")]), "support"),
    "supports of the context": (
        lambda: ps.Ensemble(
            [ps.nsf(2, rng=0, context_dim=1, context_support=own) for own in (None, {0: ps.interval(-1, 1)})]
        ),
        "members 0 and 1.*context_support real and within",
    ),
    "too many": (lambda: ps.Ensemble(ps.Flow(ps.StandardNormal(1), [], rng=0), 4097), "4096 members at most, got 4097"),
    "too many flows": (
        lambda: ps.Ensemble([ps.Flow(ps.StandardNormal(1), [], rng=0)] * 4097),
        "4096 members at most, got 4097",
    ),
    "too many in a file": (lambda: member_files.to_bytes(_crowd(4097)), "4096 members at most, got 4097"),
    "weights": (lambda: setattr(ps.Ensemble(ps.realnvp(2, rng=0), 2), "weights", [1, -1]), "weights must be at least 0"),
    "as many weights": (lambda: setattr(ps.Ensemble(ps.realnvp(2, rng=0), 2), "weights", [1, 1, 1]), "weights must have"),
    **{
        name: (functools.partial(_asked, name, called=called), f"no {name}.*members")
        for called, names in (
            (True, ("to_latent", "to_data", "to_latent_vjp", "to_data_vjp", "prior_transform")),
            (False, ("params", "layers", "spec", "loc", "fit_to_target")),
        )
        for name in names
    },
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_be_is_refused_by_name(case: str) -> None:
    action, words = REFUSALS[case]
    with pytest.raises((ValueError, TypeError), match=words):
        action()


@pytest.mark.parametrize(
    "name", ["params", "named_params", "loc", "scale", "spec", "layers", "fit_to_target", "nothing"]
)
def test_an_attribute_that_is_refused_is_one_that_is_not_there(name: str) -> None:
    ensemble = ps.Ensemble(ps.realnvp(2, rng=0), 2)
    assert not hasattr(ensemble, name)
    assert getattr(ensemble, name, 3) == 3


def test_a_fitted_flow_is_no_start_and_members_are_copies() -> None:
    flow = ps.realnvp(2, **SMALL, rng=0).fit(np.random.default_rng(0).normal(size=(300, 2)), epochs=1, rng=0)
    with pytest.raises(ValueError, match="unfitted"):
        ps.Ensemble(flow)
    ensemble = ps.Ensemble([flow, flow])
    assert ensemble.fitted
    before = ensemble.log_prob([0.0, 0.0])
    ensemble.members[0].params = 0 * flow.params
    flow.params = 0 * flow.params
    assert_same_bits(ensemble.log_prob([0.0, 0.0]), before)
    ensemble.columns = ["a", "b"]
    assert ensemble.members[1].columns == ("a", "b")
    assert ensemble.log_prob({"b": [0.0], "a": [1.0]}) == ensemble.log_prob([[1.0, 0.0]])


def test_first_parameters_follow_from_the_seed_and_the_number() -> None:
    flow = ps.nsf(2, **SMALL, rng=9)
    three, two = ps.Ensemble(flow, 3, rng=5), ps.Ensemble(flow, 2, rng=5)
    children = np.random.SeedSequence(ps.key(5)).generate_state(3, "uint64")
    for k, member in enumerate(three.members):
        assert member.spec == flow.spec
        assert_same_bits(member.params, flow.copy().reset(int(children[k])).params)
        assert k == 2 or (member.params == two.members[k].params).all()
    assert len({member.params.tobytes() for member in three.members}) == 3
    made = ps.Ensemble(lambda rng: ps.nsf(4, layers=4, hidden=(6,), mixing="random", rng=rng), 3, rng=5)
    assert len({str(member.spec) for member in made.members}) > 1
    X = np.random.default_rng(0).normal(size=(300, 2))
    again = ps.Ensemble(flow, 3, rng=5).fit(X, epochs=1).reset(5)
    assert_same_bits(again.log_prob(X), three.log_prob(X))
    assert not again.fitted


# -- copies and files -------------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[Any, Path], Any]] = {
    "copy": lambda ensemble, _: ensemble.copy(),
    "copy.copy": lambda ensemble, _: copy.copy(ensemble),
    "deepcopy": lambda ensemble, _: copy.deepcopy(ensemble),
    "pickle": lambda ensemble, _: pickle.loads(pickle.dumps(ensemble)),
    "bytes": lambda ensemble, _: ps.from_bytes(ensemble.to_bytes()),
    "file": lambda ensemble, path: (ps.save(ensemble, path), ps.load(path))[1],
}


class Labelled(ps.Ensemble):
    """An ensemble of somebody's own."""

    label = ""


@pytest.mark.parametrize("way", [way for way in WAYS if way not in ("bytes", "file")])
def test_a_copy_is_of_the_same_class_with_the_same_attributes(way: str, tmp_path: Path) -> None:
    ensemble = Labelled(ps.realnvp(2, **SMALL, rng=0), 2, rng=0)
    before = set(vars(ensemble))
    ensemble.label = "mine"
    ensemble.log_prob([0.0, 0.0])
    twin = WAYS[way](ensemble, tmp_path)
    assert type(twin) is Labelled
    assert twin.label == "mine"
    assert set(vars(twin)) == before | {"label"}


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_has_the_same_bits(way: str, tmp_path: Path) -> None:
    ensemble = ps.Ensemble(lambda rng: ps.nsf(2, **SMALL, rng=rng), 3, rng=0)
    X = np.random.default_rng(0).normal(size=(300, 2))
    ensemble.fit({"a": np.round(X[:, 0], 1), "b": X[:, 1]}, epochs=2, rng=0, dequantize={"a": 0.1}, validation=0.2)
    ensemble.weights = [1, 2, 3]
    twin = WAYS[way](ensemble, tmp_path / "ensemble.safetensors")
    assert type(twin) is ps.Ensemble
    assert_same_bits(twin.log_prob(X), ensemble.log_prob(X))
    assert_same_bits(twin.sample(20, rng=1), ensemble.sample(20, rng=1))
    assert_same_bits(twin.weights, ensemble.weights)
    assert (twin.columns, twin.lattice, twin.fitted) == (("a", "b"), {"a": 0.1}, True)
    assert [own.best_epoch for own in twin.history] == [own.best_epoch for own in ensemble.history]
    assert twin.to_bytes() == ensemble.to_bytes()
    twin.fit(X, epochs=1, rng=0)
    assert ensemble.history.members[0].epoch == [1, 2]


def changed(change: Callable[[dict[str, Array], dict[str, str]], None]) -> bytes:
    """The bytes of an ensemble whose tensors and metadata were changed, with a hash that fits."""
    import io

    data = ps.Ensemble(ps.realnvp(2, **SMALL, rng=0), 2, rng=0).to_bytes()
    container = safetensors.read(io.BytesIO(data), len(data))
    tensors = {name: container.tensor(name) for name in container.entries}
    change(tensors, container.metadata)
    return sealed(safetensors.write(tensors, container.metadata))


def _moved(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """Members in another order."""
    first = {name: tensors.pop(name) for name in list(tensors) if name.startswith("member.0.")}
    rest = {name: tensors.pop(name) for name in list(tensors) if not name.startswith("member.1.")}
    tensors |= first | rest


def _other_member(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """The second member of another dimension."""
    import io
    import json

    data = ps.Ensemble(ps.realnvp(3, **SMALL, rng=0), 2, rng=0).to_bytes()
    container = safetensors.read(io.BytesIO(data), len(data))
    rest = {name: tensors.pop(name) for name in list(tensors) if not name.startswith("member.")}
    for name in list(tensors):
        if name.startswith("member.1."):
            tensors[name] = container.tensor(name)
    tensors |= rest
    spec = json.loads(metadata["spec"])
    spec["members"][1] = json.loads(container.metadata["spec"])["members"][1]
    metadata["spec"] = json.dumps(spec)


def _named_apart(tensors: dict[str, Array], metadata: dict[str, str]) -> None:
    """A member with names of its own."""
    rest = {name: tensors.pop(name) for name in list(tensors)}
    tensors |= {"member.0.columns": np.frombuffer(b"a\0b\0", np.uint8)} | rest


def _spec(text: str) -> Callable[[dict[str, Array], dict[str, str]], None]:
    return lambda tensors, metadata: metadata.update(spec=metadata["spec"].replace('"members":[', text))


DAMAGES: dict[str, tuple[Callable[[dict[str, Array], dict[str, str]], None], str]] = {
    "a weight below 0": (lambda t, m: t.update(weights=np.array([1.5, -0.5])), "weights must hold"),
    "weights of another sum": (lambda t, m: t.update(weights=np.array([0.5, 0.6])), "weights must hold"),
    "as many weights": (lambda t, m: t.update(weights=np.ones(1)), "tensor weights must be F64 of shape \\(2,\\)"),
    "no weights": (lambda t, m: t.pop("weights"), "missing: weights"),  # type: ignore[arg-type, return-value]
    "a tensor less": (lambda t, m: t.pop("member.1.standardize.loc"), "member 1: tensors are missing: standardize.loc"),  # type: ignore[arg-type, return-value]
    "a member more": (_spec('"members":[{},'), "member 0"),
    "no list": (_spec('"more":['), "several flows"),
    "NaN": (lambda t, m: t.update({"member.1.layers.0.conditioner.0.bias": np.full(6, np.nan, np.float32)}), "member 1: .*NaN"),
    "another order": (_moved, "order"),
    "another dimension": (_other_member, "members 0 and 1 do not belong together: they have dim 2 and 3"),
    "names of one member": (_named_apart, "member.0.columns belongs to all members and stands once"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_names_its_fault(damage: str) -> None:
    change, words = DAMAGES[damage]
    with pytest.raises(ps.FileFormatError, match=words):
        ps.from_bytes(changed(change))


def test_every_flipped_byte_is_found_and_a_reader_of_one_flow_says_what_it_is() -> None:
    data = ps.Ensemble(ps.realnvp(2, **SMALL, rng=0), 2, rng=0).to_bytes()
    for place in np.random.default_rng(0).integers(0, len(data), 60).tolist():
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        with pytest.raises(ps.FileFormatError):
            ps.from_bytes(damaged)
    with pytest.raises(ps.FileFormatError, match="several flows"):
        model.from_bytes(memoryview(data))


@each_backend
def test_the_backend_checks_what_it_is_lent(backend: str) -> None:
    ensemble = ensemble_of("given", backend)
    runner = ensemble._runner()
    packed = ensemble._snapshot.pack(runner)
    engines = [own.engine for own in runner.members]  # type: ignore[attr-defined]
    backend_module = runner._backend
    rows = np.zeros((4, 3), np.float32)
    for arguments in (
        (engines, list(packed.members), [1.0], [0.0]),
        (engines, list(packed.members), [-1.0, 2.0], [0.0, 0.0]),
        (engines, list(packed.members), [0.0, 0.0], [0.0, 0.0]),
        (engines[:1], list(packed.members), [1.0, 1.0], [0.0, 0.0]),
        ([engines[0], ps.nsf(2, backend=backend)._runner().engine], list(packed.members), [1.0, 1.0], [0.0, 0.0]),
    ):
        with pytest.raises(ValueError):
            backend_module.Mixture(*arguments)
    good = np.zeros((4, 2), np.float32)
    for wrong in (np.zeros(3, np.float32), np.zeros(4, np.int32), np.zeros((4, 1), np.float32)):
        with pytest.raises(ValueError):
            packed.together.evaluate(rows, good, wrong, None, None)
    with pytest.raises(ValueError):
        packed.together.evaluate(rows, good, None, np.zeros((3, 4)), None)
    with pytest.raises(ValueError):
        packed.together.sample(1, 0, 1 << 56, good, rows)


def test_calls_from_many_threads_and_a_fork_see_one_state() -> None:
    code = """
import os, threading
import numpy as np
import penstock as ps
e = ps.Ensemble(ps.nsf(2, layers=2, hidden=(8,), rng=0), 3, rng=0)
x = e.sample(5000, rng=0)
want = e.log_prob(x)
found = []
threads = [threading.Thread(target=lambda: found.append(e.log_prob(x))) for _ in range(6)]
[t.start() for t in threads]; [t.join() for t in threads]
assert all((f == want).all() for f in found)
pid = os.fork()
if pid == 0:
    os._exit(0 if (e.log_prob(x) == want).all() else 1)
assert os.waitpid(pid, 0)[1] == 0
print("same")
"""
    assert python(code).stdout.strip() == "same"
