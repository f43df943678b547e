"""Diagnostics agree with models that are right, and measure what is wrong with those that are wrong by a known amount."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

import penstock as ps
from cases import assign
from penstock import diagnostics
from penstock.diagnostics import subject as subjects
from penstock.lattice import Lattice

Array = np.ndarray[Any, Any]

ROWS = 2500
LEVELS = np.array([0.5, 0.68, 0.9, 0.95])
# Of the model, in units of the rows': right, a normal whose scale is 1.2 times too small, and one that is too wide.
SCALES = (1.0, 1 / 1.2, 1.25)


def scaled(scale: float, dim: int = 2, context_dim: int = 0) -> ps.Flow:
    """A flow that is a normal density of this width, whatever the context."""
    flow = ps.nsf_ar(dim, context_dim=context_dim, layers=1, hidden=(4,), mixing="none", dtype="float64", rng=0)
    ends = [np.zeros(dim), np.full(dim, scale), np.zeros(context_dim), np.ones(context_dim)]
    assign(flow, buffers=np.concatenate(ends), initialised=True)
    return flow


class Shifted:
    """A normal density of any width around the first columns of a context: a model with two verbs and nothing else."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def log_prob(self, X: Array, context: Array) -> Array:
        z = (X - context[:, :2]) / self.scale
        return np.asarray(-0.5 * (z**2).sum(axis=1) - 2 * math.log(self.scale * math.sqrt(2 * math.pi)))

    def sample(self, n: int, context: Array, rng: Any) -> Array:
        return np.asarray(context[:, None, :2] + self.scale * rng.normal(size=(len(context), n, 2)))


def subject(kind: str, scale: float, seed: int = 0) -> tuple[Any, ...]:
    """A model of a kind, rows that have scale 1, and contexts."""
    generator = np.random.default_rng(seed)
    X, context = generator.normal(size=(ROWS, 2)), generator.normal(size=(ROWS, 3))
    if kind == "flow":
        return scaled(scale), X
    if kind == "given":
        return scaled(scale, context_dim=3).given(context[0]), X
    if kind == "flow, one context":
        return scaled(scale, context_dim=3), X, context[0]
    if kind == "flow, contexts":
        return scaled(scale, context_dim=3), X, context
    return Shifted(scale), X + context[:, :2], context


Measured = list[tuple[Any, Any, Any]]


def pit(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.pit(*args, rng=1)
    exact = 6 / math.pi * math.asin(1 / (1 + s * s))
    return found, [(found.spread, found.spread_error, exact), (found.mean, found.mean_error, 0.5)]


def quantile_coverage(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.quantile_coverage(*args, levels=LEVELS, rng=1)
    return found, [(found.observed, found.error, (2 * ndtr(s * ndtri((1 + LEVELS) / 2)) - 1)[:, None])]


def hdr_coverage(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.hdr_coverage(*args, levels=LEVELS, rng=1)
    exact = 1 - (1 - LEVELS) ** (s * s)  # the region of two dimensions is a circle
    share, error = found.at(0.9)
    return found, [(found.observed, found.error, exact[:, None]), (share, error, exact[2])]


def tarp(args: Any, s: float) -> tuple[Any, Measured]:
    # Around points far away a ball ends in a plane, and around the centre it is a region of highest density.
    found = diagnostics.tarp(*args, references=[1e6, 0.0], levels=LEVELS, rng=1)
    measured = [(found.observed, found.error, ndtr(s * ndtri(LEVELS))[:, None])]
    middle = args[2][:, :2] if isinstance(args[0], Shifted) else [0.0, 0.0]
    other = diagnostics.tarp(*args, references=middle, levels=LEVELS, rng=1)
    measured += [(other.observed, other.error, 1 - (1 - LEVELS[:, None]) ** (s * s))]
    near = diagnostics.tarp(*args, rng=1)
    return other if near.passed == other.passed else near, measured


def sbc(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.sbc(*args, draws=49, quantities={"sum": lambda x, context: x.sum(axis=1)}, rng=1)
    assert found.quantities == ("x0", "x1", "log_prob", "sum")
    # A draw is less dense than the row where it lies farther out, by two exponential variates.
    return found, [(found.mean, found.mean_error, np.array([0.5, 0.5, s * s / (1 + s * s), 0.5]))]


def crps(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.crps(*args, draws=40, rng=1)
    exact, expected = math.sqrt(2 * (1 + s * s) / math.pi) - s / math.sqrt(math.pi), s / math.sqrt(math.pi)
    return found, [(found.value, found.error, exact), (found.ratio, found.ratio_error, exact / expected)]


def energy_score(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.energy_score(*args, draws=40, rng=1)
    return found, [(found.ratio, found.ratio_error, math.sqrt(2 * (1 + s * s)) / s - 1)]


def marginals(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.marginals(*args, rng=1)
    if isinstance(args[0], Shifted):  # the centres are part of the width
        s = math.sqrt((1 + s * s) / 2)
    grid = np.linspace(-6, 6, 10_001)
    distance = abs(ndtr(grid) - ndtr(grid / s)).max()
    energy = (2 * math.sqrt(2 * (1 + s * s)) - 2 - 2 * s) / math.sqrt(math.pi)
    measured = [(found.width, found.width_error, s), (found.shift, found.shift_error, 0.0)]
    if s != 1:  # where it is 1 both distances are above zero by chance
        measured += [(found.distance, found.distance_error, distance), (found.energy, 2 * found.energy_error, energy)]
    return found, measured


def latents(args: Any, s: float) -> tuple[Any, Measured]:
    found = diagnostics.latents(*args)
    measured = [(found.radius, found.radius_error, 1 / (s * s)), (found.std, found.std_error, 1 / s)]
    return found, [*measured, (found.tail, found.tail_error, 0.0), (found.correlation, found.correlation_error, 0.0)]


CHECKS = (pit, quantile_coverage, hdr_coverage, tarp, sbc, crps, energy_score, marginals, latents)
KINDS = ("flow", "given", "flow, one context", "flow, contexts", "plain")


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_what_is_right_passes_and_what_is_wrong_is_measured(check: Callable[..., tuple[Any, Measured]]) -> None:
    for kind in KINDS:
        if check is latents and kind == "plain":
            continue
        for s in SCALES if kind in ("flow", "plain") else SCALES[:2]:
            found, measured = check(subject(kind, s), s)
            text = str(found)
            assert "\n" not in text
            # One draw for each context says little of widths that the context makes.
            assert found.passed == (s == 1) or (check is marginals and kind == "plain"), (kind, s, text)
            for value, error, exact in measured:
                value, error, exact = np.broadcast_arrays(value, error, exact)
                far = abs(value - exact) / error
                assert (far < 4.2).all(), (kind, s, far, value, exact, text)
                assert (error < 0.2).all()
            if s != 1 and check is not sbc and not (check is marginals and kind == "plain"):
                wanted = "narrow" if s < 1 else "wide"
                assert wanted in text, (kind, s, text)


def test_the_distance_of_cramer_and_von_mises_is_that_of_its_definition() -> None:
    from scipy.stats import cramervonmises_2samp

    X = 1.3 * np.random.default_rng(0).normal(size=(300, 1))
    found = diagnostics.marginals(scaled(1.0, 1), X, draws=500, rng=0)
    n, m = 300, 500
    T = cramervonmises_2samp(X[:, 0], found.draws[:, 0]).statistic
    assert found.cramer[0] == pytest.approx(6 * T * (n + m) / (n * m), rel=1e-9)
    assert 0.2 < found.cramer_error[0] / found.cramer[0] < 2


def test_the_energy_distance_is_that_of_its_definition() -> None:
    from scipy.stats import energy_distance

    X = np.random.default_rng(0).normal(size=(150, 2)) * [1.0, 7.0] + [0.0, 3.0]
    weight = np.random.default_rng(1).uniform(size=150)
    found = diagnostics.marginals(scaled(1.0), X, draws=400, sample_weight=weight, rng=0)
    for j in range(2):
        sigma = math.sqrt(np.cov(X[:, j], aweights=weight, bias=True))
        exact = energy_distance(X[:, j] / sigma, found.draws[:, j] / sigma, weight) ** 2
        assert found.energy[j] == pytest.approx(exact, rel=0.02)  # sigma has one degree of freedom less


@pytest.mark.parametrize(
    ("kind", "classifier", "rows"),
    [
        ("flow", "trees", 1000),
        pytest.param("flow", "mlp", 200, marks=pytest.mark.slow),
        pytest.param("flow, contexts", "trees", 1000, marks=pytest.mark.slow),
    ],
)
def test_c2st_finds_the_accuracy_that_is_possible(kind: str, classifier: str, rows: int) -> None:
    shift = 1.0  # the best answer is right with Phi(shift / 2)
    model, X, *context = subject(kind, 1.0)
    args = [values[:rows] for values in context]
    right = diagnostics.c2st(model, X[:rows], *args, classifier=classifier, rng=1)
    far = X[:rows].copy()
    far[:, 0] += shift
    wrong = diagnostics.c2st(model, far, *args, classifier=classifier, rng=1)
    assert right.passed
    assert not wrong.passed
    assert "tells draws from rows" in str(wrong)
    # A classifier that had to learn is a little below.
    assert -0.035 - 3 * wrong.error < wrong.accuracy - ndtr(shift / 2) < 3 * wrong.error
    assert 0.4 * wrong.error < math.sqrt(0.25 / (2 * rows)) < 1.5 * wrong.error


def test_c2st_of_samples_takes_any_classifier() -> None:
    from sklearn.linear_model import LogisticRegression

    P, Q = np.random.default_rng(0).normal(size=(2, 800, 1))
    same = diagnostics.c2st_samples(P, Q, classifier=LogisticRegression(), rng=0)
    assert same.classifier == "LogisticRegression"
    assert same.passed
    found = diagnostics.c2st_samples(P, Q + 3, classifier=LogisticRegression(), rng=0)
    assert abs(found.accuracy - ndtr(1.5)) < 3 * found.error  # which is the best for normals of one width


def test_rows_of_one_context_are_in_one_fold() -> None:
    """Were they not, a classifier that remembers would know that the other row of a context is of the other kind."""
    from sklearn.neighbors import KNeighborsClassifier

    generator = np.random.default_rng(0)
    context = 100 * generator.normal(size=(400, 2))
    found = diagnostics.c2st(
        Shifted(1.0),
        context + generator.normal(size=(400, 2)),
        context,
        classifier=KNeighborsClassifier(1),
        rng=0,
    )
    assert abs(found.accuracy - 0.5) < 3 * found.error


def test_correlations_that_a_model_lacks_are_measured() -> None:
    X = np.random.default_rng(0).multivariate_normal([0, 0], [[1, 0.5], [0.5, 1]], size=ROWS)
    exact = 6 / math.pi * math.asin(0.5 / 2)
    found = diagnostics.pairs(scaled(1.0), X, rng=0)
    assert not found.passed
    assert "x0 and x1" in str(found)
    assert abs(found.difference[0, 1] + math.atanh(exact)) < 4 * found.error[0, 1]
    right = diagnostics.pairs(scaled(1.0), np.random.default_rng(0).normal(size=(ROWS, 2)), rng=0)
    assert right.passed


@pytest.mark.parametrize(("precision", "reliable"), [(1.0, True), (1.5, True), (0.05, False)])
def test_importance_weights_of_a_normal_target_have_a_known_efficiency(precision: float, reliable: bool) -> None:
    found = diagnostics.importance(scaled(1.0, 1), lambda x: -0.5 * precision * x[:, 0] ** 2, draws=4000, rng=0)
    assert found.passed == reliable
    if precision > 0.5:  # where the weights have a variance
        exact = math.sqrt(2 * precision - 1) / precision
        assert abs(found.efficiency - exact) <= 4 * found.efficiency_error + 1e-9
    if not reliable:
        assert abs(found.pareto_k - (1 - precision)) < 4 * found.pareto_k_error
        assert "narrower" in str(found)


def test_weighted_rows_stand_for_what_they_are_weighted_to() -> None:
    model, X = subject("flow", 1.0)
    wide = 1.4 * X
    weight = np.exp(-0.5 * (wide**2 - X**2).sum(axis=1))
    weight[::50] = 0.0
    for check in (
        diagnostics.pit,
        diagnostics.quantile_coverage,
        diagnostics.hdr_coverage,
        diagnostics.tarp,
        diagnostics.crps,
        diagnostics.marginals,
        diagnostics.pairs,
    ):
        wrong, right = check(model, wide, rng=0), check(model, wide, sample_weight=weight, rng=0)
        assert right.passed, str(right)
        assert wrong.passed == (check is diagnostics.pairs), str(wrong)
    found = diagnostics.latents(model, wide, sample_weight=weight)
    assert found.passed
    assert found.size == pytest.approx(weight.sum() ** 2 / (weight**2).sum())


def test_angles_have_no_seam() -> None:
    """A fresh flow of circles is uniform. Rows a turn further are the same, and rows on half of the circle are found out."""
    flow = ps.nsf_ar(2, support=ps.periodic(-180, 180), layers=1, hidden=(4,), rng=0)
    X = np.random.default_rng(0).uniform((180, -900), (540, -540), size=(ROWS, 2))
    for check in (
        diagnostics.pit,
        diagnostics.tarp,
        diagnostics.sbc,
        diagnostics.crps,
        diagnostics.marginals,
        diagnostics.pairs,
    ):
        found = check(flow, X, rng=0)
        assert found.passed, str(found)
    score = diagnostics.crps(flow, X, rng=0)  # a quarter of a half turn, for every row
    np.testing.assert_allclose(score.value, 45, atol=4 * score.error.max())
    half = np.abs(X % 360) / 2
    assert diagnostics.pit(flow, half, rng=0).distance == pytest.approx([0.5, 0.5], abs=0.03)
    for check in (diagnostics.pit, diagnostics.marginals):
        assert not check(flow, half, rng=0).passed
    assert "of another shape" in str(diagnostics.pit(flow, half, rng=0))
    beside = diagnostics.tarp(flow, half, references=[90.0, 90.0], rng=0)
    across = diagnostics.tarp(flow, half, references=[-90.0, 270.0], rng=0)
    assert beside.at(0.5)[0] > 0.7 > 0.3 > across.at(0.5)[0]


def test_draws_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    def values() -> list[Array]:
        out = []
        for kind in ("flow", "flow, contexts"):
            model, X, *context = subject(kind, 1.0)
            args = (model, X[:300], *[rows[:300] for rows in context])
            out += [
                diagnostics.pit(*args, draws=20, rng=3).values,
                diagnostics.hdr_coverage(*args, draws=20, rng=3).values,
            ]
            out += [diagnostics.tarp(*args, draws=20, rng=3).values, diagnostics.sbc(*args, draws=19, rng=3).ranks]
            out += [diagnostics.crps(*args, draws=20, rng=3).value]
        return out

    every = values()
    monkeypatch.setattr(subjects, "BLOCK", 777)
    for got, expected in zip(values(), every, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_names_of_columns_are_found_in_tables_and_told() -> None:
    flow = scaled(1.0)
    flow.columns = ["mass", "age"]
    X = np.random.default_rng(0).normal(size=(ROWS, 2))
    table = {"age": 2 * X[:, 1], "mass": X[:, 0]}
    found = diagnostics.pit(flow, table, rng=0)
    assert found.columns == ("mass", "age")
    assert found.faults() == ["age too narrow"]


@pytest.mark.parametrize("check", [*CHECKS, "importance", "c2st", "pairs"], ids=str)
def test_every_result_has_a_picture(check: Any) -> None:
    import matplotlib.pyplot as plt

    model, X, *context = subject("flow, contexts", 1.0)
    args = (model, X[:200], *[rows[:200] for rows in context])
    if check == "importance":
        found: Any = diagnostics.importance(scaled(1.0, 1), lambda x: -0.4 * x[:, 0] ** 2, draws=200, rng=0)
    elif check == "c2st":
        found = diagnostics.c2st(*args, classifier="trees", rng=0)
    elif check == "pairs":
        found = diagnostics.pairs(*args, rng=0)
    else:
        found = check(args, 1.0)[0]
    ax = plt.figure().subplots()
    assert found.plot(ax) is ax
    assert ax.has_data()
    assert ax.get_xlabel() or check in (energy_score, crps, "pairs")
    ax.figure.canvas.draw()
    plt.close(ax.figure)


def spoilt(values: Array, row: int, column: int) -> Array:
    """The same with a NaN."""
    values = values.copy()
    values[row, column] = np.nan
    return values


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda f, X, c: diagnostics.pit(3, X), TypeError, "model must have log_prob"),
        (lambda f, X, c: diagnostics.pit(f, X), ValueError, "context of 3 variables: give context"),
        (lambda f, X, c: diagnostics.pit(f, X, c[:5]), ValueError, r"context must have shape \(40, 3\)"),
        (lambda f, X, c: diagnostics.pit(f.given(c[0]), X, c), ValueError, "takes none"),
        (lambda f, X, c: diagnostics.pit(f, X[:, :1], c), ValueError, "X must have"),
        (lambda f, X, c: diagnostics.pit(f, X * np.nan, c), ValueError, "X"),
        (lambda f, X, c: diagnostics.pit(f, spoilt(X, 30, 1), c), ValueError, r"X\[30, 1\] is nan"),
        (lambda f, X, c: diagnostics.pit(f, X, spoilt(c, 25, 2)), ValueError, r"context\[25, 2\] is nan"),
        (lambda f, X, c: f.recalibrate(spoilt(X, 30, 0), c), ValueError, r"X\[30, 0\] is nan"),
        (lambda f, X, c: diagnostics.tarp(f, X, c, references=spoilt(X, 7, 1)), ValueError, r"references\[7, 1\] is nan"),
        (lambda f, X, c: diagnostics.c2st_samples(X, spoilt(X, 9, 1)), ValueError, r"Q\[9, 1\] is nan"),
        (lambda f, X, c: diagnostics.pit(f, X[:1], c[:1]), ValueError, "at least 2 rows"),
        (lambda f, X, c: diagnostics.pit(f, X, c, draws=1), ValueError, "draws must be an integer of at least 2"),
        (lambda f, X, c: diagnostics.pit(f, X, c, sample_weight=-np.ones(40)), ValueError, "not be negative"),
        (lambda f, X, c: diagnostics.hdr_coverage(f, X, c, levels=[2]), ValueError, "levels"),
        (lambda f, X, c: diagnostics.tarp(f, X, c, references=np.zeros((3, 2))), ValueError, "references must have shape"),
        (lambda f, X, c: diagnostics.sbc(f, X[:30], c[:30]), ValueError, "at least 40 rows"),
        (lambda f, X, c: diagnostics.sbc(f, X, c, bins=7), ValueError, r"divisor of draws \+ 1 = 100"),
        (lambda f, X, c: diagnostics.c2st(f, X, c, folds=30), ValueError, "folds must lie between 2 and 20"),
        (lambda f, X, c: diagnostics.c2st(f, X, c, classifier="svm"), ValueError, "classifier"),
        (lambda f, X, c: diagnostics.c2st_samples(X, X[:, :1]), ValueError, "Q must"),
        (lambda f, X, c: diagnostics.latents(Shifted(1.0), X, c), TypeError, "no single map to latents"),
        (lambda f, X, c: diagnostics.importance(f.given(c[0]), lambda x: x[:, 0] - np.inf, rng=0), ValueError, "-inf for all"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call: Any, error: type[Exception], words: str) -> None:
    X, context = np.random.default_rng(0).normal(size=(40, 2)), np.zeros((40, 3))
    with pytest.raises(error, match=words):
        call(scaled(1.0, context_dim=3), X, context)


def test_latents_are_compared_with_any_base_that_has_distribution_functions() -> None:
    base = ps.Product([ps.StudentT(1, df=3.0), ps.Uniform(1, 0.0, 2.0)])
    flow = ps.Flow(base, [ps.Permutation((0, 1))], dtype="float64", rng=0)
    X = flow.sample(ROWS, rng=1)
    assert diagnostics.latents(flow, X).passed
    wrong = diagnostics.latents(flow, X * [1.5, 1.0])
    assert wrong.dimensions[int(np.argmin(wrong.p_values))] == "z0"
    with pytest.raises(ValueError, match="outside the support"):
        diagnostics.latents(ps.nsf(2, support="positive", rng=0), X)
    mixture = ps.Flow(ps.GaussianMixture(2, components=2), [ps.Permutation((0, 1))], dtype="float64", rng=0)
    X = mixture.sample(ROWS, rng=2)  # one dimension by the components, the other given it
    assert diagnostics.latents(mixture, X).passed
    assert not diagnostics.latents(mixture, X * [1.0, 1.5]).passed


def on_a_lattice(kind: str) -> tuple[ps.Flow, Array]:
    """A flow that is right, and rows on the lattice that it rounds to: with noise they have its very distribution."""
    base: Any = ps.Uniform(1, 0.0, 3.0)
    steps = np.array([1.0])
    if kind != "one column":
        base, steps = ps.Product([base, ps.Normal(1)]), np.array([1.0, 0.0])
    flow = ps.Flow(base, [ps.Permutation(tuple(range(len(steps))))], dtype="float64", rng=0)
    flow._lattice = Lattice(steps, 0.5 * steps)
    return flow, flow.sample(ROWS, rng=5)


@pytest.mark.parametrize("kind", ["one column", "two columns"])
def test_rows_on_a_lattice_are_seen_with_noise(kind: str) -> None:
    flow, X = on_a_lattice(kind)
    assert set(np.unique(X[:, 0])) == {0.5, 1.5, 2.5}
    checks: tuple[Any, ...] = (
        diagnostics.latents,
        diagnostics.pit,
        diagnostics.quantile_coverage,
        diagnostics.hdr_coverage,
        diagnostics.sbc,
    )
    for check in checks:
        options = {} if check is diagnostics.latents else {"rng": 0}
        assert check(flow, X, **options).passed, check
    assert diagnostics.latents(flow, flow.sample(ROWS, rng=6, raw=True)).passed  # these have it already
    assert not diagnostics.latents(flow, X[X[:, 0] < 2]).passed


def test_ties_of_rising_counts_are_no_fault() -> None:
    flow = ps.nsf_ar(2, support=ps.Ordered((0, 1), lo=0.0), layers=1, hidden=(4,), dtype="float64", rng=0)
    flow._lattice = Lattice.within(np.array([0.25, 0.25]), np.zeros(2), flow.spec.support)
    X = flow.sample(ROWS, rng=5)
    assert (X[:, 0] == X[:, 1]).any()
    subject = subjects.Subject(flow, X, rng=0)
    assert np.isfinite(subject.log_prob()).all()
    plain = subjects.Subject(flow, X * 1.0 + 0.1, rng=0)  # beside the lattice
    assert plain.noised() is not plain.X
    np.testing.assert_array_equal(plain.noised(), plain.X)
    # The same draws, before they are rounded.
    raw = subject.draws(2, slice(0, 50), raw=True)
    assert (raw != subject.draws(2, slice(0, 50))).any(axis=2).all()
    assert abs(raw - subject.draws(2, slice(0, 50))).max() <= 0.125 + 1e-12
    assert diagnostics.hdr_coverage(flow, X, rng=0).at(0.95)[0] > 0.9
