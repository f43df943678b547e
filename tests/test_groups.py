"""What ordered columns and those of a simplex alone have to obey; the laws of all supports are in ``test_supports.py``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import GROUPED, TURN, Case, assign, bare, built, support_scale
from helpers import assert_close, assert_same_bits, both_dtypes, each_backend, each_backend_numba_in_ci
from penstock.training.supports import Line, half_line_scale, numbers_of
from supports_table import BY_NAME, each_of, groups, lies_within, points

Array = np.ndarray[Any, Any]


# -- the two directions -------------------------------------------------------------------------


# -- densities ----------------------------------------------------------------------------------


def above(lo: Any, t: Array) -> Array:
    return lo + np.logaddexp(0, t)


def between(lo: Any, hi: Any, t: Array) -> Array:
    return lo + (hi - lo) / (1 + np.exp(-t))


# Nodes of the column that is first in the chain, and of the other one for each of them.
NODES: dict[str, Any] = {
    "ordered_two": lambda t: (t, above(t[:, None], t)),
    "ordered_above": lambda t: (above(1.5, t), above(above(1.5, t)[:, None], t)),
    "ordered_below": lambda t: (2.5 - above(0, -t), 2.5 - above(0, -t)[:, None] - above(0, -t)),
    "ordered_within": lambda t: (between(-1, 3, t), between(between(-1, 3, t)[:, None], 3, t)),
    "simplex": lambda t: (between(0, 1, t), between(0, 1 - between(0, 1, t)[:, None], t)),
}


@pytest.mark.parametrize("name", NODES)
@each_backend_numba_in_ci
def test_the_density_integrates_to_one(name: str, backend: str) -> None:
    flow = built(BY_NAME[name], backend, "float64")
    first, second = NODES[name](np.linspace(-36, 36, 1201))
    grid = np.zeros((*second.shape, 2))
    grid[..., flow.spec.support[0].chain[0]], grid[..., flow.spec.support[0].chain[1]] = first[:, None], second
    density = np.exp(flow.log_prob(grid.reshape(-1, 2))).reshape(second.shape)
    total = np.trapezoid(np.trapezoid(density, second, axis=1), first)
    assert abs(total - 1) < 1e-3
    finer, more = NODES[name](np.linspace(-36, 36, 2401))
    grid = np.zeros((*more.shape, 2))
    grid[..., flow.spec.support[0].chain[0]], grid[..., flow.spec.support[0].chain[1]] = finer[:, None], more
    density = np.exp(flow.log_prob(grid.reshape(-1, 2))).reshape(more.shape)
    finer_total = np.trapezoid(np.trapezoid(density, more, axis=1), finer)
    # the trapezoidal rule is of the second order
    assert abs(finer_total + (finer_total - total) / 3 - 1) < 2e-6


@each_backend
@both_dtypes
def test_a_member_that_rounds_onto_its_neighbour_is_the_next_number(backend: str, dtype: str) -> None:
    """Gaps far below the spacing of the numbers: each is stored as one spacing."""
    up, down = np.dtype(dtype).type(math.inf), np.dtype(dtype).type(-math.inf)
    for support, way in (
        (ps.ordered([0, 1, 2]), up),
        (ps.ordered([0, 1, 2], hi=1e6), down),
        (ps.ordered([0, 1, 2], lo=0.1), up),
    ):
        flow = ps.Flow(ps.StandardNormal(3), [], support=support, dtype=dtype, backend=backend)
        buffers = flow._snapshot.buffers.copy()
        first = support.chain[0]
        buffers[:3], buffers[first] = -60.0 if way > 0 else 60.0, 3.0
        assign(flow, buffers=buffers)
        x, density = flow.sample_and_log_prob(200, rng=0)
        assert lies_within(flow, x)
        for before, own in zip(support.chain, support.chain[1:], strict=False):
            assert_same_bits(x[:, own], np.nextafter(x[:, before], way))
        assert_same_bits(density, flow.log_prob(x))
        for i in (0, 77):
            alone = flow.to_data(flow.to_latent(x[i : i + 1])[0])[0]
            assert (np.abs(alone - x[i]) <= 4 * np.spacing(np.abs(x[i]))).all()


@each_backend
@both_dtypes
def test_members_leave_room_for_those_behind_them(backend: str, dtype: str) -> None:
    """Draws that all want the same end: each stops where the others still find a number."""
    eps = np.finfo(dtype).eps
    for support, loc in (
        (ps.ordered(range(5), 1, 1 + 8 * float(eps)), 700.0),
        (ps.ordered(range(5), 1, 1 + 8 * float(eps)), -700.0),
        (ps.ordered(range(5), 0.1, 0.1 * (1 + 16 * float(eps))), 700.0),
        (ps.ordered(range(5)), float(np.finfo(dtype).max)),
        (ps.ordered(range(5), hi=0), -float(np.finfo(dtype).max)),
        (ps.simplex(range(5)), 700.0),
        (ps.simplex(range(5)), -800.0),
        (ps.simplex(range(40)), 80.0),
    ):
        flow = ps.Flow(ps.StandardNormal(len(support.columns)), [], support=support, dtype=dtype, backend=backend)
        buffers = flow._snapshot.buffers.copy()
        buffers[: flow.dim] = loc
        assign(flow, buffers=buffers)
        x = flow.sample(20, rng=0)
        assert np.isfinite(x).all()
        assert lies_within(flow, x)
        assert np.isfinite(flow.log_prob(x)).all() or abs(loc) > 1e30
        assert (flow.log_prob(x) > -math.inf).all() or abs(loc) > 1e30


# -- outside ------------------------------------------------------------------------------------


@each_backend
@both_dtypes
def test_rows_far_out_have_no_density_and_no_nan(backend: str, dtype: str) -> None:
    big, least = float(np.finfo(dtype).max) / 8, float(np.finfo(dtype).smallest_subnormal)
    for support, rows in (
        (ps.ordered([0, 1, 2]), [[-big, 0, 1], [0, 1, big], [-big, 0, big], [big, 2 * big, 3 * big]]),
        (ps.ordered([0, 1, 2], lo=0), [[1, 2, big], [big, 2 * big, 3 * big]]),
        (ps.ordered([0, 1, 2], hi=5), [[-big, 0, 1], [-3 * big, -2 * big, -big]]),
    ):
        flow = ps.realnvp(3, layers=2, hidden=(8,), support=support, rng=0, dtype=dtype, backend=backend)
        x = np.array(rows, dtype)
        assert (flow.log_prob(x) == -math.inf).all()
        assert not np.isnan(flow.log_prob_and_grad(x)[1]).any()
        for i in range(len(x)):
            assert flow.log_prob(x[i]) == -math.inf
    for support, row in (
        (ps.ordered([0, 1, 2]), [0, least, 2 * least]),
        (ps.ordered([0, 1, 2], 0, 1), [least, 2 * least, 3 * least]),
        (ps.simplex([0, 1, 2]), [least, 1 - float(np.finfo(dtype).eps), least]),
    ):
        flow = ps.Flow(ps.StandardNormal(3), [], support=support, dtype=dtype, backend=backend)
        assert np.isfinite(flow.log_prob(row))
        assert not np.isnan(flow.log_prob_and_grad(row)[1]).any()


# -- gradients ----------------------------------------------------------------------------------


# -- what a user writes -------------------------------------------------------------------------


def of(support: Any, dim: int) -> ps.Flow:
    return ps.nsf(dim, layers=1, hidden=(4,), support=support, rng=0)


def test_a_group_is_given_alone_or_in_a_list() -> None:
    real, positive, pair = ps.Real(), ps.interval(0, None), ps.ordered([1, 2])
    assert of(ps.ordered([2, 0, 1], lo=0), 3).spec.support == (ps.ordered([2, 0, 1], lo=0),) * 3
    assert of([{0: "positive"}, pair], 3).spec.support == (positive, pair, pair)
    assert of([pair, {0: "positive"}], 3).spec.support == (positive, pair, pair)
    assert of([pair], 4).spec.support == (real, pair, pair, real)
    assert of(pair, 4).spec.support == (real, pair, pair, real)
    both = of([ps.simplex([3, 0]), pair], 4).spec.support
    assert both == (ps.simplex([3, 0]), pair, pair, ps.simplex([3, 0]))
    assert of(both, 4).spec.support == both
    assert of(["positive", pair, pair], 3).spec.support == (positive, pair, pair)
    assert of([{0: "positive", 1: (0, 1)}], 3).spec.support == of({0: "positive", 1: (0, 1)}, 3).spec.support
    assert ps.ordered(np.array([1, 2])) == pair
    assert ps.ordered([0, 1], -0.0).lo == 0


def test_groups_by_name_name_the_columns() -> None:
    flow = of([{"age": "positive"}, ps.ordered(["m2", "m1"], hi=3)], 3)
    assert flow.columns == ("age", "m2", "m1")
    assert flow.spec.support[1:] == (ps.ordered([1, 2], hi=3),) * 2
    flow = of([{"m1": "real", "age": "positive", "m2": ps.Real()}, ps.ordered(["m2", "m1"])], 3)
    assert flow.columns == ("m1", "age", "m2")
    assert flow.spec.support == (ps.ordered([2, 0]), ps.interval(0, None), ps.ordered([2, 0]))
    flow = of([ps.simplex(["a", "b"]), ps.ordered(["c", "d"])], 4)
    assert flow.columns == ("a", "b", "c", "d")
    assert of(ps.simplex(["u", "v"]), 2).columns == ("u", "v")
    assert "simplex a + b < 1" in repr(of([ps.simplex(["a", "b"]), ps.ordered(["c", "d"])], 4))


def test_the_representation_shows_a_group_once_with_its_scales() -> None:
    flow = of([{1: "positive"}, ps.ordered([3, 0], lo=2), ps.simplex([4, 2])], 5)
    (line,) = [line for line in repr(flow).splitlines() if line.startswith("  support")]
    assert line.split(maxsplit=1)[1] == "ordered 3 < 0, above 2 (s=1, 1), 1 positive (s=1), simplex 4 + 2 < 1"
    assert str(flow.spec).count("ordered 3 < 0, above 2") == 2
    assert str(ps.ordered([0, 1], 1, 4)) == "ordered 0 < 1, within (1, 4)"


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        ([ps.ordered([1, 2]), ps.simplex([2, 3])], ValueError, "column 2 is in two places"),
        ([{1: "positive"}, ps.ordered([1, 2])], ValueError, "column 1 is in two places"),
        ([{1: "real"}, ps.ordered([1, 2])], ValueError, "column 1 is in two places"),
        (ps.ordered([1, 4]), ValueError, "names column 4 of a flow whose columns are 0 to 3"),
        ([{7: "positive"}, ps.ordered([1, 2])], ValueError, "names column 7"),
        ([{"a": "positive"}, ps.ordered([1, 2])], TypeError, "all names or all positions"),
        ([{True: "positive"}, ps.ordered([1, 2])], TypeError, "all names or all positions"),
        ([{"a": "positive"}, ps.ordered(["b", "c"])], ValueError, "must name every column .* 4, got 3 .'a', 'b', 'c'"),
        (
            [{"a": "positive", "b": "real", "c": "real", "d": "real"}, ps.ordered(["b", "x"])],
            ValueError,
            "names column 'x' of a flow whose columns are 'a', 'b', 'c', 'd'",
        ),
        (
            [{"a": "positive", "b": "real", "c": (0, 1), "d": "real"}, ps.ordered(["b", "c"])],
            ValueError,
            "column 'c' is in two places",
        ),
        ([{0: "positive"}, {3: "positive"}, ps.ordered([1, 2])], TypeError, "one mapping .*, got 2"),
        (["positive", ps.ordered([1, 2])], TypeError, r"support\[0\]: a list with groups"),
        (["real", ps.ordered([1, 2]), "real", "real"], TypeError, r"support\[0\]: a list with groups"),
        ([{0: "positve"}, ps.ordered([1, 2])], ValueError, r"support\[0\] must be 'real'"),
        ({0: ps.ordered([1, 2])}, ValueError, r"support\[0\]: ordered 1 < 2 is a support of several columns"),
        ("ordered", ValueError, "'?ordered'? is a support of several columns"),
        (ps.ordered([0, 1], 1, 1 + 2e-7), ValueError, "no 2 numbers of float32 strictly between"),
    ],
)
def test_groups_that_are_none_are_refused(support: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        of(support, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ps.ordered([1]), ValueError, "needs two columns or more, got .1,."),
        (lambda: ps.simplex([]), ValueError, "needs two columns or more"),
        (lambda: ps.simplex([1, 2, 1]), ValueError, "must be different ones"),
        (lambda: ps.simplex("ab"), TypeError, "a sequence of positions or names, got 'ab'"),
        (lambda: ps.simplex(3), TypeError, "a sequence of positions or names, got 3"),
        (lambda: ps.ordered([0, "b"]), TypeError, "all names or all positions"),
        (lambda: ps.ordered([0, -1]), TypeError, "from 0 on, or a name, got -1"),
        (lambda: ps.ordered([0, 1.5]), TypeError, "from 0 on, or a name, got 1.5"),
        (lambda: ps.ordered([False, True]), TypeError, "from 0 on, or a name, got False"),
        (lambda: ps.ordered([0, 1], 2, 1), ValueError, "lo must be below hi"),
        (lambda: ps.ordered([0, 1], "a"), TypeError, "lo must be a number"),
        (lambda: ps.ordered([0, 1], hi=math.inf), ValueError, "hi must be a finite number"),
    ],
)
def test_a_group_that_is_none_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("recipe", ["nice", "realnvp", "glow", "nsf", "maf", "iaf", "nsf_ar"])
def test_every_recipe_builds_with_groups(recipe: str) -> None:
    for options in ({}, {"mixing": "none"}, {"mixing": "random"}, {"context_dim": 2}):
        support = [{3: TURN}, ps.ordered([0, 2]), ps.simplex([4, 1])]
        flow = getattr(ps, recipe)(5, layers=2, hidden=(4,), support=support, rng=0, **options)
        context = np.zeros(2) if flow.context_dim else None
        x = flow.sample(50, context, rng=0)
        assert lies_within(flow, x)
        assert np.isfinite(flow.log_prob(x, context)).all()


# -- files and training -------------------------------------------------------------------------


def test_a_file_whose_groups_are_damaged_is_refused() -> None:
    from penstock.files import specs

    spec = ps.Flow(ps.StandardNormal(3), [], support=[{0: "positive"}, ps.ordered([2, 1], lo=0)]).spec
    record = specs.encode(spec)
    assert specs.decode(record, 10**6, 10**6) == spec
    first, one, two = record["support"]
    assert one == two == {"type": "ordered", "columns": [2, 1], "lo": 0.0}
    for broken, message in (
        ([first, one, {"type": "real"}], "does not stand in the places"),
        ([first, one, {**one, "lo": 1.0}], "does not stand in the places"),
        ([one, one, one], "does not stand in the places"),
        ([first, {**one, "columns": [2, 3]}, two], "does not stand in the places"),
        ([first, {**one, "columns": [1, 2]}, two], "does not stand in the places"),
        ([first, {**one, "columns": [1]}, two], "two columns or more"),
        ([first, {**one, "columns": [1, -2]}, two], "from 0 on"),
        ([first, {**one, "columns": ["a", "b"]}, two], "list of numbers"),
        ([first, {"type": "ordered"}, two], "lacks columns"),
        ([first, {"type": "simplex", "columns": [2, 1], "lo": 0.0}, two], "lo"),
        ([first, {**one, "lo": 1.0, "hi": 0.0}, two], "below hi"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            specs.decode({**record, "support": broken}, 10**6, 10**6)


SOURCE = np.random.default_rng(11)
PARTS = SOURCE.dirichlet([4.0, 2.0, 3.0, 1.5], 4000)
SORTED = np.sort(SOURCE.uniform(0, 1, (4000, 4)), axis=1)


def fit(x: Any, support: Any, dim: int, backend: str = "auto", **options: Any) -> ps.Flow:
    settings = {"epochs": 40, "rng": 0, "progress": False, **options}
    return ps.nsf(dim, layers=3, hidden=(32,), support=support, rng=0, backend=backend).fit(x, **settings)


@each_backend_numba_in_ci
def test_a_fit_learns_a_dirichlet_density(backend: str) -> None:
    a = np.array([4.0, 2.0, 3.0, 1.5])
    flow = fit(PARTS[:, :3], ps.simplex([2, 0, 1]), 3, backend)
    constant = math.lgamma(a.sum()) - sum(math.lgamma(k) for k in a)
    truth = constant + ((a - 1) * np.log(PARTS)).sum(axis=1)
    assert flow.score(PARTS[:, :3]) > truth.mean() - 0.05
    drawn = flow.sample(20_000, rng=0)
    assert lies_within(flow, drawn)
    np.testing.assert_allclose(drawn.mean(axis=0), a[:3] / a.sum(), atol=0.01)
    assert flow._snapshot.buffers.shape == (6,)
    # each is the part that it takes of what is left
    left, u = np.ones(4000), np.zeros((4000, 3))
    for j in (2, 0, 1):
        u[:, j] = np.log(PARTS[:, j]) - np.log(left - PARTS[:, j])
        left = left - PARTS[:, j]
    assert (np.abs(flow.loc - u.mean(axis=0)) < 0.1 * u.std(axis=0)).all()
    np.testing.assert_allclose(flow.scale, u.std(axis=0), rtol=0.1)


@pytest.mark.parametrize(
    "support", [ps.ordered(range(4), 0, 1), ps.ordered(range(4), lo=0), ps.ordered(range(4), hi=1)], ids=str
)
@each_backend_numba_in_ci
def test_a_fit_learns_order_statistics(support: Any, backend: str) -> None:
    flow = fit(SORTED, support, 4, backend)
    truth = math.log(24)
    # where an end is not told, the density has to fall to zero there
    assert flow.score(SORTED) > truth - (0.1 if support.lo is not None and support.hi is not None else 0.35)
    drawn = flow.sample(20_000, rng=0)
    assert lies_within(flow, drawn)
    np.testing.assert_allclose(drawn.mean(axis=0), np.arange(1, 5) / 5, atol=0.03)


@each_backend_numba_in_ci
def test_a_fit_learns_gaps_of_a_heavy_tail(backend: str) -> None:
    source = np.random.default_rng(2)
    gaps = np.exp(source.normal(0, [[1.0, 1.5]], (4000, 2)))
    first = source.normal(3, 2, 4000)
    x = np.stack([first + gaps[:, 0], first, first + gaps.sum(axis=1)], axis=1)
    flow = fit(x, [ps.ordered([1, 0, 2])], 3, backend)
    normal = -0.5 * ((first - 3) / 2) ** 2 - math.log(2 * math.sqrt(2 * math.pi))
    lognormal = -0.5 * (np.log(gaps) / [1.0, 1.5]) ** 2 - np.log(gaps * [1.0, 1.5] * math.sqrt(2 * math.pi))
    assert flow.score(x) > (normal + lognormal.sum(axis=1)).mean() - 0.1
    scales = flow._snapshot.buffers[-2:]
    for s, distance in zip(
        scales, gaps.T, strict=True
    ):  # of columns 0 and 2, from a sample without the rows that validate
        assert 0.2 < s / half_line_scale(distance) < 5
    assert f"ordered 1 < 0 < 2 (s={scales[0]:.4g}, {scales[1]:.4g})" in repr(flow)
    buffers = flow._snapshot.buffers.copy()
    flow.fit(x, epochs=1, progress=False, validation=0)  # without a word of columns that have moved
    assert_same_bits(flow._snapshot.buffers, buffers)


def test_a_fit_refuses_rows_outside() -> None:
    x = {"a": SORTED[:, 0].copy(), "b": SORTED[:, 1].copy(), "c": SORTED[:, 3].copy()}
    support = [{"b": "positive"}, ps.ordered(["a", "c"], hi=1)]

    def run(**options: Any) -> ps.Flow:
        return fit(x, support, 3, epochs=1, **options)

    run()
    held = x["c"][17]
    x["c"][17] = x["a"][17]
    with pytest.raises(
        ValueError, match=r"X must lie .* row 17 is not ordered a < c, below 1: column 'a' holds .*, column 'c' holds"
    ):
        run()
    weight = np.ones(4000)
    weight[17] = 0
    run(sample_weight=weight)
    x["c"][17] = held
    bad = {"a": [0.1, 0.5], "b": [0.2, 0.2], "c": [0.3, 1.0]}
    with pytest.raises(ValueError, match=r"validation must lie .* row 1 is not ordered a < c, below 1"):
        run(validation=bad)
    parts = PARTS[:, [0, 1]].copy()
    parts[5] = 0.5, 0.5
    with pytest.raises(ValueError, match=r"row 5 is not simplex 1 \+ 0 < 1: column 1 holds 0.5, column 0 holds 0.5"):
        fit(parts, ps.simplex([1, 0]), 2, epochs=1)
    parts[5] = 0.5, 0.0
    with pytest.raises(ValueError, match="row 5 is not simplex"):
        fit(parts, ps.simplex([1, 0]), 2, epochs=1)
    parts[5] = np.nan, 0.1
    with pytest.raises(ValueError, match=r"NaN|missing|finite"):
        fit(parts, ps.simplex([1, 0]), 2, epochs=1)


@each_of(GROUPED)
def test_what_measures_columns_is_the_map_of_the_engine(case: Case, backend: str) -> None:
    flow = bare(built(case, backend, "float64"))
    x = points(case, 130, flow)
    plain = ps.Flow(flow.spec.base, [], support=flow.spec.support, dtype="float64", backend=backend)
    buffers = plain._snapshot.buffers.copy()
    buffers[2 * flow.dim :] = support_scale(flow)
    assign(plain, buffers=buffers)
    wanted = plain.to_latent(x)[0]
    line = Line(x, flow.spec.support, numbers_of(flow.spec.support, buffers))
    assert_close(line[:], wanted, 64, "float64", scale=np.abs(wanted))
    index = np.array([3, 77, 5])
    assert_same_bits(line[index, 1], line[:][index, 1])
    assert_same_bits(line[index, 1:2], line[:][index, 1:2])
    assert_same_bits(line[index], line[:][index])
    for group in groups(flow):
        x[0, group.chain[-1]] = x[0, group.chain[0]] if group.name == "ordered" else 2.0
        assert np.isnan(Line(x, flow.spec.support, numbers_of(flow.spec.support, buffers))[:][0]).any()


@each_backend_numba_in_ci
def test_a_killed_fit_resumes_with_the_bits_of_a_whole_one(backend: str, tmp_path: Path) -> None:
    path = tmp_path / "run"

    class StopError(Exception):
        pass

    def stop(state: Any) -> None:
        if state.epoch == 2:
            raise StopError

    options: dict[str, Any] = {"epochs": 4, "backend": backend, "dim": 4}
    whole = fit(SORTED, ps.ordered(range(4), 0), **options)
    with pytest.raises(StopError):
        fit(SORTED, ps.ordered(range(4), 0), **options, checkpoint=path, callbacks=stop)
    with pytest.raises(ValueError, match="support was ordered 0 < 1 < 2 < 3, above 0"):
        fit(SORTED, ps.ordered(range(4), 0, 1), **options, checkpoint=path)
    resumed = fit(SORTED, ps.ordered(range(4), 0), **options, checkpoint=path)
    assert_same_bits(resumed.params, whole.params)
    assert_same_bits(resumed._snapshot.buffers, whole._snapshot.buffers)
