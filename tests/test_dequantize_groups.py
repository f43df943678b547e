"""Laws of lattices in groups of columns: rising counts that tie, and rounded parts of a whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import rng
from helpers import assert_same_bits, inside
from penstock.lattice import Lattice, cells
from penstock.training import dequantize
from penstock.training.rows import Rows

Array = np.ndarray[Any, Any]


def ties(rows: int = 3000) -> Array:
    """Three rising counts, of which many tie, in the order 2, 0, 1."""
    n = np.sort(rng("ties").poisson(1.5, (rows, 3)), axis=1).astype(np.float64)
    return n[:, [1, 2, 0]]


def shares(rows: int = 3000) -> Array:
    """Three of four parts of twenty, some of them zero, and some rows without a rest."""
    return rng("shares").multinomial(20, [0.4, 0.3, 0.25, 0.05], rows)[:, :3] / 20


def mixed(rows: int = 3000) -> Array:
    """A number between two counts, and the whole column before them."""
    source = rng("mixed")
    low = source.poisson(2.0, rows) * 1.0
    y = low + source.uniform(0.2, 2.7, rows)
    return np.stack([low, y, np.ceil(y)], axis=1)


def wholes(rows: int = 3000) -> Array:
    """Rounded parts of which one is not rounded."""
    x = rng("wholes").dirichlet([1.0, 2.0, 0.5, 1.0], rows)[:, :3]
    x[:, 1] = np.floor(x[:, 1] * 10) / 10
    return x


# Data, support and steps.
GROUPS: dict[str, tuple[Any, Any, tuple[float, ...]]] = {
    "ties": (ties, ps.Ordered((2, 0, 1)), (1.0, 1.0, 1.0)),
    "ties above an end": (ties, ps.Ordered((2, 0, 1), lo=0.0), (1.0, 1.0, 1.0)),
    "a number between counts": (mixed, ps.Ordered((0, 1, 2)), (1.0, 0.0, 1.0)),
    "parts": (shares, ps.Simplex((1, 0, 2)), (0.05, 0.05, 0.05)),
    "one rounded part": (wholes, ps.Simplex((0, 1, 2)), (0.0, 0.1, 0.0)),
}


def noisy(name: str, seed: int = 3, epoch: int = 0) -> tuple[Array, Array, Any, Lattice]:
    make, group, steps = GROUPS[name]
    x = make()
    own = Lattice.within(np.array(steps), np.zeros(3), (group,) * 3)
    return x, dequantize.noised(Rows(x), own, seed, 0).x.fresh(epoch), group, own


@pytest.mark.parametrize("name", list(GROUPS))
def test_noise_keeps_rows_in_their_group_and_in_their_cells(name: str) -> None:
    x, found, group, own = noisy(name)
    y = found[:]
    flow = ps.Flow(ps.StandardNormal(3), [], support=group, dtype="float64")
    assert np.isfinite(flow.log_prob(y)).all()
    assert (np.abs(y - x) <= own.steps / 2 * (1 + 1e-9)).all()
    assert (y == x).all(axis=0).tolist() == (own.steps == 0).tolist()
    again = y.copy()
    own.round(again)
    np.testing.assert_allclose(again, x, atol=1e-12)
    # Noise is that of the rows, however they are looked at.
    some = np.array([5, 17, 2, 2999])
    assert_same_bits(found[some], y[some])
    assert_same_bits(found[some, 1], y[some, 1])
    assert_same_bits(found[10:20, 1:3], y[10:20, 1:3])
    assert_same_bits(found[7], y[7])
    other = found.fresh(1)[:]
    assert ((other != y) == (own.steps > 0)).mean() > 0.99


@inside("name", ("ties", "ties above an end"))
def test_noise_of_ties_is_uniform_where_it_is_in_order(name: str) -> None:
    """Each of m that tie has the distribution of an order statistic of m uniform numbers, a Beta(k, m + 1 - k)."""
    stats = pytest.importorskip("scipy.stats")
    x, found, group, own = noisy(name)
    rows, y = x[:, list(group.columns)], found[:][:, list(group.columns)]
    low, high = cells(rows, own.steps, group)
    u = (y - low) / (high - low)
    for first, m in ((0, 2), (1, 2), (0, 3)):
        run = (rows[:, first] == rows[:, first + m - 1]) & ((m == 3) | (rows[:, 0] < rows[:, 2]))
        if name == "ties above an end":
            run &= rows[:, first] > 0
        assert run.sum() > 100
        for k in range(m):
            assert stats.kstest(u[run, first + k], stats.beta(k + 1, m - k).cdf).pvalue > 1e-3
    alone = (rows[:, 0] < rows[:, 1]) & (rows[:, 1] < rows[:, 2])
    assert stats.kstest(u[alone, 1], "uniform").pvalue > 1e-3


def test_noise_of_parts_is_uniform_where_the_rest_leaves_room() -> None:
    stats = pytest.importorskip("scipy.stats")
    x, found, _, _ = noisy("parts")
    y, low = found[:], np.maximum(x - 0.025, 0)
    room = x.sum(axis=1) < 0.9
    for j in range(3):
        assert stats.kstest(((y - low) / (x + 0.025 - low))[room, j], "uniform").pvalue > 1e-3
    full = np.abs(x.sum(axis=1) - 1) < 1e-9
    assert full.sum() > 500
    assert (y[full].sum(axis=1) > x[full].sum(axis=1) - 0.075).all()
    # No value of the sum is crowded: of those close to 1 there are about as many as there is room.
    rest = 1 - y[full].sum(axis=1)
    assert 0.2 < (rest < 0.01).sum() / (rest < 0.02).sum() < 0.8


@pytest.mark.parametrize("name", ["ties", "parts"])
def test_a_flow_has_the_frequencies_of_the_values(name: str, tmp_path: Any) -> None:
    make, group, steps = GROUPS[name]
    x = make(6000)
    flow = ps.nsf_ar(3, support=group, layers=2, hidden=(24, 24), rng=0)
    flow.fit(x, dequantize=dict(enumerate(steps)), epochs=25, rng=0)
    assert flow.lattice == {0: steps[0], 1: steps[1], 2: steps[2]}
    draws = flow.sample(20_000, rng=1).astype(np.float64)
    rising = draws[:, list(group.columns)]
    if name == "ties":
        assert (np.diff(rising, axis=1) >= 0).all()
        figures = (lambda t: t[:, 2] == t[:, 0], lambda t: t[:, 1] == t[:, 0], lambda t: t.sum(axis=1) <= 3)
    else:
        assert (draws.sum(axis=1) <= 1 + 1e-5).all()
        assert (draws >= 0).all()
        figures = (lambda t: t.sum(axis=1) > 0.99, lambda t: t[:, 0] < 0.31, lambda t: t[:, 2] > 0.28)
    for figure in figures:  # a flow is smooth, and smears what ends within a cell
        assert figure(draws).mean() == pytest.approx(figure(x).mean(), abs=0.08)
    np.testing.assert_allclose(draws / steps[0], np.rint(draws / steps[0]), atol=1e-4)
    raw = flow.sample(2000, rng=1, raw=True)
    assert np.isfinite(flow.log_prob(raw)).all()
    flow.save(tmp_path / "flow.safetensors")
    assert_same_bits(ps.load(tmp_path / "flow.safetensors").sample(2000, rng=1), flow.sample(2000, rng=1))
    part = ps.nsf_ar(3, support=group, layers=1, hidden=(4,), mixing="none", order=group.columns, rng=0)
    part.fit(x, dequantize=dict(enumerate(steps)), epochs=1, rng=0)
    kept = part.marginal(group.columns[:2])
    two = kept.sample(500, rng=0).astype(np.float64)
    assert (np.diff(two, axis=1) >= 0).all() if name == "ties" else (two.sum(axis=1) <= 1 + 1e-5).all()


def test_parts_that_rounding_makes_more_than_the_whole_go_down() -> None:
    own = Lattice.within(np.array([0.1, 0.1, 0.0]), np.zeros(3), (ps.Simplex((0, 1, 2)),) * 3)
    rows = np.array([[0.46, 0.47, 0.06], [0.26, 0.47, 0.2], [0.04, 0.04, 0.9], [0.36, 0.36, 0.27]])
    own.round(rows)
    np.testing.assert_allclose(rows, [[0.4, 0.5, 0.06], [0.3, 0.5, 0.2], [0.0, 0.0, 0.9], [0.3, 0.4, 0.27]])
    block = np.array([[[0.46, 0.47, 0.06]], [[0.2, 0.2, 0.1]]], np.float32)
    own.round(block)
    np.testing.assert_allclose(block[:, 0], [[0.4, 0.5, 0.06], [0.2, 0.2, 0.1]], rtol=1e-6)


def test_what_has_no_noise_within_a_group_is_refused_by_name() -> None:
    def fit(x: Any, support: Any, steps: Any, **options: Any) -> None:
        ps.nsf_ar(3, support=support, layers=1, hidden=(4,), rng=0).fit(x, dequantize=steps, epochs=1, rng=0, **options)

    rising, whole = ps.Ordered((0, 1, 2)), ps.Simplex((0, 1, 2))
    x = np.sort(ties(300), axis=1)
    wrong, over, inverted = x.copy(), shares(300), np.stack([x[:, 0], x[:, 0] + 0.7, x[:, 0]], axis=1)
    wrong[40] = [3, 2, 4]
    over[50] = [0.5, 0.5, 0.05]
    cases = [
        (
            x * [1, 1, 2],
            rising,
            {0: 1, 1: 1, 2: 2},
            r"one lattice for all .* got 0 1, 1 1, 2 2: cells of different lattices",
        ),
        (wrong, rising, {0: 1, 1: 1, 2: 1}, r"row 40 is not ordered 0 < 1 < 2: column 0 holds 3"),
        (x - 2, ps.Ordered((0, 1, 2), lo=0), {0: 1, 1: 1, 2: 1}, r"is not ordered 0 < 1 < 2, above 0"),
        (inverted, rising, {0: 1, 2: 1}, r"row 0 is not ordered"),
        (over, whole, {0: 0.05, 1: 0.05, 2: 0.05}, r"row 50 is not simplex 0 \+ 1 \+ 2 < 1"),
        (over - 0.05, whole, {0: 0.05, 1: 0.05, 2: 0.05}, r"is not simplex"),
    ]
    for rows, support, steps, words in cases:
        with pytest.raises(ValueError, match=words):
            fit(rows, support, steps)
    fit(wrong, rising, {0: 1, 1: 1, 2: 1}, sample_weight=(np.arange(300) != 40) * 1.0)  # rows of weight 0 do not count
