"""Laws of contexts with supports of their own: half-lines, intervals, boxes and circles among conditioning variables.

That they belong to their rows, gradients and agreement with NumPy are laws of ``test_context.py``, which the cases
``contexts`` and ``realnvp_contexts`` meet as others do.
"""

from __future__ import annotations

import math
import pickle
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BY_NAME, CONTEXTS, _within, assign, bare, built, contexts, points, rng, standardisation
from helpers import assert_same_bits, both_dtypes, each_backend
from penstock.support import resolved_context
from penstock.training.rows import Rows
from penstock.training.supports import image, measured

Array = np.ndarray[Any, Any]
SUPPORT = resolved_context(CONTEXTS, 6)[0]
CIRCLE, ABOVE, LINE, BOX, LOGIT, BELOW = range(6)
# A place outside of each, beside ends that do not belong to it; a circle has none but those that are no angle.
OUTSIDE = {CIRCLE: math.inf, ABOVE: 0.0, BOX: 9.999, LOGIT: 3.0, BELOW: 2.5000001}
INSIDE = np.array([170.0, 0.3, -0.7, 10.2, 2.9, -4.0])


def small(dtype: str = "float64", backend: str = "auto", support: Any = CONTEXTS, context_dim: int = 6) -> ps.Flow:
    """A flow with random parameters that is quick to compile."""
    flow = ps.realnvp(
        2, layers=2, hidden=(8,), mixing="none", embedding=None, context_dim=context_dim, context_support=support, rng=1,
        dtype=dtype, backend=backend,
    )  # fmt: skip
    flow.params = 0.5 * rng("small").standard_normal(flow.n_params)
    return flow


def features(c: Array) -> Array:
    """What conditioners read of rows of the context of ``small``, in float64 and by hand."""
    c = np.asarray(c, np.float64)
    t, q = c[:, ABOVE], 2.5 - c[:, BELOW]
    angle = 2 * math.pi * (c[:, CIRCLE] + 180) / 360 - math.pi
    m, s = 10.5, 4096.0
    place = lambda x: (x - m) / np.hypot(s, x - m)  # noqa: E731
    return np.stack(
        [
            np.cos(angle), np.sin(angle), np.log(np.expm1(t)), c[:, LINE],
            2 * (place(c[:, BOX]) - place(10.0)) / (place(11.0) - place(10.0)) - 1,
            np.log((c[:, LOGIT] + 1) / (3 - c[:, LOGIT])), -np.log(np.expm1(q)),
        ],
        axis=1,
    )  # fmt: skip


def some(rows: int, dtype: str = "float64") -> Array:
    u = rng("some", rows).standard_normal((rows, 6))
    return _within(SUPPORT, iter([1.0] * 9), u).astype(np.float32).astype(dtype)


@each_backend
@both_dtypes
def test_it_is_the_flow_of_a_context_that_was_mapped_by_hand(backend: str, dtype: str) -> None:
    flow = small(dtype, backend)
    plain = ps.Flow(flow.spec.base, flow.spec.layers, context_dim=7, dtype=dtype, backend=backend)
    plain.params = flow.params
    x, c = rng("rows").standard_normal((130, 2)).astype(dtype), some(130, dtype)
    size = dict(rtol=0, atol=2e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(flow.log_prob(x, c), plain.log_prob(x, features(c)), **size)
    np.testing.assert_allclose(flow.log_prob(x, c[5]), plain.log_prob(x, features(c)[5]), **size)
    np.testing.assert_allclose(flow.log_prob(x[0], c[5]), plain.log_prob(x[0], features(c)[5]), **size)
    np.testing.assert_allclose(flow.sample(40, c[:3], rng=0), plain.sample(40, features(c)[:3], rng=0), **size)
    assert flow.log_prob(x, c).std() > 0.1  # it depends on it


@each_backend
@both_dtypes
def test_on_a_circle_the_end_of_a_turn_begins_it(backend: str, dtype: str) -> None:
    flow = small(dtype, backend)
    x, c = rng("turns").standard_normal((70, 2)).astype(dtype), some(70, dtype)
    lo, hi = c.copy(), c.copy()
    lo[:, CIRCLE], hi[:, CIRCLE] = -180, 180
    for wrt in ("x", "context"):
        for one, two in zip(flow.log_prob_and_grad(x, lo, wrt), flow.log_prob_and_grad(x, hi, wrt), strict=True):
            assert_same_bits(one, two)
    c[:, CIRCLE] = np.round(c[:, CIRCLE] % 360)
    far = c.copy()
    far[:, CIRCLE] += 360 * 5
    assert_same_bits(flow.log_prob(x, c), flow.log_prob(x, far))


@each_backend
@both_dtypes
@pytest.mark.parametrize("column", [*OUTSIDE, "-inf"])
def test_given_a_context_outside_there_is_no_density(backend: str, dtype: str, column: Any) -> None:
    flow = small(dtype, backend)
    x, c = rng("outside").standard_normal((70, 2)).astype(dtype), np.tile(INSIDE, (70, 1))
    x[3] = 1e30 if dtype == "float32" else 1e200  # so far out that the arithmetic overflows, which alone would be -inf
    clean = flow.log_prob(x, c)
    assert np.isfinite(clean).sum() == 69
    value, column = (-math.inf, CIRCLE) if column == "-inf" else (OUTSIDE[column], column)
    bad = np.array([0, 3, 64])
    c[bad, column] = value
    log_prob, (dx, dc) = flow.log_prob_and_grad(x, c, wrt=("x", "context"))
    assert np.isnan(log_prob[bad]).all()
    assert np.isnan(dx[bad]).all()
    assert np.isnan(dc[bad]).any(axis=1).all()
    keep = np.setdiff1d(np.arange(70), bad)
    assert_same_bits(log_prob[keep], clean[keep])
    assert np.isfinite(dc[keep]).all()
    for out in (
        flow.log_prob(x, c[0]),
        flow.sample(5, c[0], rng=0),
        flow.log_prob(x[1], c[0]),
        flow.to_latent(x, c[0])[1],
    ):
        assert np.isnan(out).all()


@each_backend
def test_an_end_that_float32_rounds_outwards_is_within(backend: str) -> None:
    end = math.pi / 2  # which float32 rounds up
    flow = small("float32", backend, ps.interval(-end, end), 1)
    x, c = np.zeros((3, 2), np.float32), np.full((3, 1), end, np.float32)
    assert float(c[0, 0]) > end
    single, double = flow.log_prob(x, c), flow.log_prob(x, c.astype(np.float64))
    assert_same_bits(single, double)
    assert_same_bits(single, flow.log_prob(x, np.full((3, 1), end)))
    assert_same_bits(single, flow.given(c[0]).log_prob(x))
    assert np.isnan(flow.log_prob(x, [1.5708])).all()


@pytest.mark.parametrize("name", ["contexts", "realnvp_contexts"])
def test_files_pickles_and_copies_keep_it(name: str) -> None:
    flow = bare(built(BY_NAME[name], "auto", "float32"))
    x, c = points(BY_NAME[name], 20, flow), contexts(BY_NAME[name], 20, flow)
    assert flow.spec.context_support == SUPPORT
    for twin in (ps.from_bytes(flow.to_bytes()), pickle.loads(pickle.dumps(flow)), flow.copy()):
        assert twin.spec == flow.spec
        assert twin.to_bytes() == flow.to_bytes()
        assert_same_bits(twin.log_prob(x, c), flow.log_prob(x, c))
    wide = flow.astype("float64")
    assert wide.spec == replace(flow.spec, dtype="float64")
    np.testing.assert_allclose(wide.log_prob(x, c), flow.log_prob(x, c), rtol=2e-3, atol=2e-3)
    assert_same_bits(flow.given(c[0]).log_prob(x), flow.log_prob(x, c[0]))


def test_files_hold_no_support_that_a_context_cannot_have() -> None:
    flow = small()
    number = standardisation(flow)
    number[-1] = -1.0  # s of a half-line
    assign(flow, buffers=number)
    with pytest.raises(ps.FileFormatError, match=r"s of context column 5 cannot be -1\.0"):
        ps.from_bytes(flow.to_bytes())


def table(rows: int = 600) -> tuple[Array, Array]:
    """Rows, and a context within all supports."""
    source = rng("table")
    c = _within(SUPPORT, iter([2.0] * 9), source.standard_normal((rows, 6)))
    return source.standard_normal((rows, 2)) + np.cos(np.deg2rad(c[:, :1])), c


def test_fit_measures_lines_where_they_are_mapped_to_and_nothing_else() -> None:
    x, c = table()
    flow = small("float32").fit(x, c, epochs=1, validation=0, rng=0)
    given = measured(Rows(x), (), SUPPORT), measured(Rows(x, c), (), SUPPORT)
    assert given[0].size == 0
    assert_same_bits(standardisation(flow)[-4:], given[1])
    (s_above, m, s, s_below), (loc, scale) = given[1], standardisation(flow)[4:16].reshape(2, 6)
    assert 10 <= m <= 11
    assert min(s, s_above, s_below) > 0
    for j, numbers in ((ABOVE, [s_above]), (LOGIT, []), (BELOW, [s_below])):
        u = image(c[:, j], SUPPORT[j], numbers)
        np.testing.assert_allclose([loc[j], scale[j]], [u.mean(), u.std()], rtol=1e-9)
    np.testing.assert_allclose([loc[LINE], scale[LINE]], [c[:, LINE].mean(), c[:, LINE].std()], rtol=1e-9)
    assert loc[CIRCLE] == loc[BOX] == 0
    assert scale[CIRCLE] == scale[BOX] == 1
    again = flow.copy()
    with warnings.catch_warnings():  # nothing has moved
        warnings.simplefilter("error")
        again.fit(x, c, epochs=1, rng=0, sample_weight=np.ones(len(x)))
    assert_same_bits(standardisation(again), standardisation(flow))
    words = repr(flow).splitlines()[1]
    assert words.startswith("  given in  0 periodic over [-180, 180), 1 positive (s=")
    assert f"3 within [10, 11] (m={m:.4g}, s={s:.4g})" in words
    moved = c.copy()
    moved[:, ABOVE] *= 1e6
    with pytest.warns(ps.RefitWarning, match="column 1 of context has moved"):
        flow.fit(x, moved, epochs=1, rng=0)


def test_weighted_angles_beside_the_seam_have_not_moved() -> None:
    source = rng("seam")
    angles = source.uniform(177, 179, (2, 400))  # about pi, more than three scales from the 0 that nothing measured
    flow = ps.nsf(
        2, layers=1, hidden=(8,), context_dim=1, support={0: SUPPORT[CIRCLE]}, context_support=SUPPORT[CIRCLE], rng=0
    )
    rows = np.column_stack([angles[0], source.standard_normal(400)]), angles[1][:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for weight in (None, np.ones(400)):
            flow.fit(*rows, sample_weight=weight, epochs=1, rng=0)


@pytest.mark.parametrize("column", [j for j in OUTSIDE if j != CIRCLE])
def test_fit_names_row_column_and_value_of_a_context_outside(column: int) -> None:
    x, c = table(300)
    names = ("angle", "mass", "shift", "share", "logit", "rest")
    c[17, column] = OUTSIDE[column]
    flow = small(support=dict(zip(names, CONTEXTS, strict=True)))
    assert flow.context_columns == names
    message = rf"context must lie within .* row 17, column '{names[column]}', which is .*, holds {OUTSIDE[column]:g}"
    with pytest.raises(ValueError, match=message):
        flow.fit(x, c, epochs=1)
    with pytest.raises(ValueError, match=message.replace("context must", "validation_context must")):
        flow.fit(x[20:], c[20:], validation=x, validation_context=c, epochs=1)
    weight = np.ones(300)
    weight[17] = 0  # which does not count
    assert flow.fit(x, c, epochs=1, rng=0, sample_weight=weight).fitted
    assert flow.reset().context_columns == names


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"context_support": "positive"}, "context_support needs a context, and context_dim is 0"),
    ({"context_dim": 2, "context_support": ["positive"]}, "context_support must be one for all columns, or 2 of them, got 1"),
    ({"context_dim": 2, "context_support": {"a": "positive"}}, "context_support by name must name every column .* 2, got 1"),
    ({"context_dim": 1, "context_support": {1: "positive"}}, "context_support names column 1 of a flow whose columns are 0 to 0"),
    ({"context_dim": 1, "context_support": "box"}, "context_support: a support of kind 'box' needs its ends"),
    ({"context_dim": 2, "context_support": ps.ordered([0, 1])}, "context_support: conditioning variables are in no groups"),
    ({"context_dim": 2, "context_support": [ps.simplex([0, 1]), {1: "positive"}]}, "context_support: .* are in no groups"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), WRONG)
def test_what_it_cannot_be_is_an_error_that_names_it(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        ps.nsf(2, **given)


@pytest.mark.parametrize("recipe", ["realnvp", "nice", "glow", "nsf", "maf", "iaf", "nsf_ar"])
@pytest.mark.parametrize("dim", [1, 3])
def test_every_recipe_takes_it(recipe: str, dim: int) -> None:
    given = {"context_dim": 2, "context_support": {0: ps.periodic(0, 24), 1: (0, None)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        flow = getattr(ps, recipe)(dim, layers=2, hidden=(8,), base_context=(4,), rng=0, **given)
    flow.params = 0.3 * rng(recipe).standard_normal(flow.n_params)
    x = rng(recipe, dim).standard_normal((9, dim))
    assert_same_bits(flow.log_prob(x, [0.0, 2.0]), flow.log_prob(x, [24.0, 2.0]))
    assert (flow.log_prob(x, [12.0, 2.0]) != flow.log_prob(x, [0.0, 2.0])).any()
    assert np.isnan(flow.log_prob(x, [0.0, 0.0])).all()


def test_a_base_that_the_context_chooses_reads_it_in_the_same_way() -> None:
    base = ps.Product([ps.StudentT(1, conditioner=ps.MLP((4,))), ps.GaussianMixture(1, 2, conditioner=ps.MLP((4,)))])
    layers = [ps.Elementwise(ps.Affine())]
    flow = ps.Flow(base, layers, context_dim=6, context_support=CONTEXTS, dtype="float64", rng=0)
    plain = ps.Flow(base, layers, context_dim=7, dtype="float64", rng=0)
    flow.params = plain.params = 0.5 * rng("base").standard_normal(flow.n_params)
    x, c = rng("base rows").standard_normal((70, 2)), some(70)
    for rows, mapped in ((c, features(c)), (c[2], features(c)[2])):
        np.testing.assert_allclose(flow.log_prob(x, rows), plain.log_prob(x, mapped), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(flow.sample(5, rows, rng=0), plain.sample(5, mapped, rng=0), rtol=1e-9, atol=1e-9)
    assert flow.log_prob(x[0], c).std() > 0.1


def test_parts_of_a_flow_keep_it() -> None:
    flow = ps.nsf_ar(
        3, layers=2, hidden=(8,), mixing="none", order=(0, 1, 2), context_dim=6, context_support=CONTEXTS, rng=0
    )
    flow.params = 0.3 * rng("parts").standard_normal(flow.n_params)
    numbers = standardisation(flow)
    numbers[-4:] = 1.7, 10.3, 0.2, 0.6  # s, m and s of the box, s
    assign(flow, buffers=numbers)
    x = rng("parts of").standard_normal((5, 3))
    first = flow.marginal([0])
    assert_same_bits(standardisation(first)[2:], numbers[6:])
    assert first.spec.context_support == SUPPORT
    rest = flow.given(INSIDE).conditional({0: 0.5})
    whole = flow.log_prob(np.column_stack([np.full(5, 0.5), x[:, 1:]]), INSIDE)
    np.testing.assert_allclose(rest.log_prob(x[:, 1:]), whole - first.log_prob([0.5], INSIDE), atol=1e-4)


def test_a_proposal_for_the_context_is_one_for_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    _, c = table(3000)
    proposed = ps.infer_support({"angle": c[:, 0] % 360, "mass": np.exp(3 * rng("mass").standard_normal(3000))})
    flow = ps.nsf(2, context_dim=2, context_support=proposed, rng=0)
    assert flow.context_columns == ("angle", "mass")
    assert capsys.readouterr().out
