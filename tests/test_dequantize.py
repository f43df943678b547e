"""Laws of columns on a lattice: how a step is found, what noise does in a fit, and what samples and densities then are."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, rng
from helpers import assert_same_bits, each_backend, each_dtype
from penstock import lattice
from penstock.cli import main
from penstock.training import dequantize
from penstock.training.rows import Rows

Array = np.ndarray[Any, Any]

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 100, "rng": 0}


def table(rows: int = 1000) -> Array:
    """A count, a real column, and one with one decimal."""
    source = rng("lattice")
    n = source.poisson(4.0, rows)
    return np.stack([n, source.normal(n, 1.0), source.normal(20, 2, rows).round(1)], axis=1)


def small(dim: int = 3, backend: str = BACKENDS[0], **options: Any) -> ps.Flow:
    return ps.nsf_ar(dim, layers=2, hidden=(8,), rng=0, backend=backend, **options)


# -- steps ----------------------------------------------------------------------------------------


def columns() -> dict[str, tuple[Array, tuple[float, float] | None]]:
    source = rng("steps")
    whole = source.integers(-40, 60, 3000).astype(np.float64)
    return {
        "counts": (source.poisson(3, 3000) * 1.0, (1, 0)),
        "counts far from zero": (1e6 + source.poisson(300, 3000), (1, 0)),
        "decimals": (source.normal(20, 2, 3000).round(2), (0.01, 0)),
        "no neighbours": (source.choice([0.0, 2.0, 5.0, 15.0], 3000), (1, 0)),
        "coarse": (whole * 6, (6, 0)),
        "beside zero": (whole + 0.5, (1, 0.5)),
        "tenths beside zero": (whole / 10 + 0.05, (0.1, 0.05)),
        "thirds": (whole / 3, (1 / 3, 0)),
        "bytes": (source.integers(0, 256, 3000) / 255, (1 / 255, 0)),
        "large": (whole * 2.5e7, (2.5e7, 0)),
        "small": (whole * 1e-7, (1e-7, 0)),
        "two values": (source.integers(0, 2, 3000) * 1.0, (1, 0)),
        "continuous": (source.normal(size=3000), None),
        "continuous, repeated": (np.repeat(source.normal(size=300), 10), None),
        "continuous in float32": (source.random(3000, dtype=np.float32).astype(np.float64), None),
        "constant": (np.ones(3000), None),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", list(columns()))
def test_a_step_and_its_origin_are_found(name: str, dtype: Any) -> None:
    x, expected = columns()[name]
    if name == "continuous in float32" and dtype is np.float64:
        return  # whole parts of 2^24, which float64 tells apart
    found = lattice.found(x.astype(dtype))
    assert (found is None) == (expected is None)
    if found is not None and expected is not None:
        assert found == pytest.approx(expected, rel=1e-12, abs=1e-12)
        again = lattice.nearest(x + found[0] * (rng("noise").random(3000) - 0.5) * 0.999, *found)
        np.testing.assert_allclose(again, x, rtol=1e-14, atol=1e-15 * found[0])


def test_a_step_of_many_digits_is_found_as_far_as_the_values_tell() -> None:
    whole = np.arange(-300, 300)
    for dtype, rel in ((np.float32, 1e-6), (np.float64, 1e-12)):
        found = lattice.found((whole * 0.123456789).astype(dtype))
        assert found == (pytest.approx(0.123456789, rel=rel), 0.0)


def test_values_that_are_written_with_decimals_come_back_as_they_were() -> None:
    for step, decimals in ((0.1, 1), (0.01, 2), (0.001, 3), (0.5, 1), (0.25, 2), (1.0, 0), (10.0, 0)):
        values = np.array([round(k * step, decimals) for k in range(-500, 500)])
        assert_same_bits(lattice.nearest(values + 0.3 * step, step, 0.0), values + 0.0)
    assert not np.signbit(lattice.nearest(np.array([-0.3]), 1.0, 0.0))[0]


# -- noise ----------------------------------------------------------------------------------------


def noised(x: Array, steps: Array, seed: int = 7) -> Any:
    return dequantize.noised(Rows(x), lattice.Lattice(steps, 0 * steps), seed, 0).x


def test_noise_follows_from_seed_epoch_column_and_row_alone() -> None:
    x, steps = table(5000), np.array([1.0, 0.0, 0.1])
    whole = noised(x, steps)
    seen = whole[:]
    assert_same_bits(seen[:, 1], x[:, 1])
    assert_same_bits(whole[np.array([4, 4000, 4])], seen[[4, 4000, 4]])
    assert_same_bits(whole[100:200:7], seen[100:200:7])
    assert_same_bits(whole[x[:, 0] > 4], seen[x[:, 0] > 4])
    assert_same_bits(whole[10:20, 2], seen[10:20, 2])
    assert_same_bits(whole[[1, 5], 1:3], seen[[1, 5], 1:3])
    assert_same_bits(whole[:, 0:1], seen[:, 0:1])
    assert whole[17, 2] == seen[17, 2]
    assert_same_bits(whole.astype(np.float32), seen.astype(np.float32))
    others = [whole.fresh(1)[:], whole.fresh(2)[:], noised(x, steps, 8)[:], noised(x, steps).fresh(1)[:]]
    assert_same_bits(others[0], others[3])
    u = [(rows[:, 0] - x[:, 0], (rows[:, 2] - x[:, 2]) * 10) for rows in (seen, *others[:3])]
    parts = np.array([part for pair in u for part in pair])
    assert (np.abs(parts) < 0.5 + 1e-9).all()
    np.testing.assert_allclose(parts.mean(axis=1), 0, atol=0.02)
    np.testing.assert_allclose(parts.std(axis=1), 12**-0.5, rtol=0.03)
    correlations = np.corrcoef(parts) - np.eye(len(parts))
    assert np.abs(correlations).max() < 0.06
    assert np.abs(np.corrcoef(parts[0][1:], parts[0][:-1])[0, 1]) < 0.06
    counts = np.histogram(parts[0], 20, (-0.5, 0.5))[0]
    assert ((counts - 250) ** 2 / 250).sum() / 19 < 2


@each_backend
@each_dtype
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_with_noise_are_those_of_the_table(backend: str, dtype: str, weighted: bool) -> None:
    """With a step so small that the noise is lost in rounding, a fit is the one without noise, bit for bit."""
    x, c = table(1030), rng("lattice context").standard_normal((1030, 2))
    weight = rng("lattice weights").uniform(0.5, 1.5, 1030) if weighted else None
    start = small(3, backend, dtype=dtype, context_dim=2)
    for arguments in (
        {"batch_size": 100},
        {"batch_size": 4096},
        {"validation": x[:200], "validation_context": c[:200]},
    ):
        options = {**QUICK, **arguments, "sample_weight": weight}
        own = fit_with_steps(start.copy(), x, c, np.array([1e-200, 0, 1e-200]), **options)
        plain = fit_with_steps(start.copy(), x, c, None, **options)
        assert_same_bits(own.params, plain.params)
        assert own.history.validation_loss == plain.history.validation_loss


def fit_with_steps(flow: ps.Flow, x: Array, c: Array, steps: Array | None, **options: Any) -> ps.Flow:
    """A fit with steps that no data would have, or with none, which does not look at its rows."""
    own = None if steps is None else lattice.Lattice(steps, 0 * steps)
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr("penstock.training.lattice_of", lambda *arguments, **others: own)
        context.setattr("penstock.training.checks.warn_of_rows", lambda *arguments: None)
        return flow.fit(x, c, **options)


def test_an_epoch_has_noise_of_its_own_and_each_row_once() -> None:
    x = table(1000)
    rows, runner = Rows(noised(x, np.array([1.0, 0.0, 0.1])), None, None), small()._runner()
    seen = []
    for epoch in (1, 2):
        whole = dequantize.batches(rows, runner, 5, epoch, 900, range(900)).x
        fresh = rows.x.fresh(epoch)[:]
        parts = np.concatenate(
            [dequantize.batches(rows, runner, 5, epoch, 900, range(first, first + 300)).x for first in (0, 300, 600)]
        )
        numbers = {row.tobytes(): i for i, row in enumerate(fresh)}
        order = [numbers[row.tobytes()] for row in whole]
        assert len(set(order)) == 900
        assert sorted(order) == sorted(numbers[row.tobytes()] for row in parts)
        assert set(order) == set(runner.row_order(5, 0, 1000, range(900)).tolist())
        seen.append(fresh)
    assert (seen[0][:, [0, 2]] != seen[1][:, [0, 2]]).all()


@each_backend
def test_neither_threads_nor_buffers_nor_layout_nor_a_resume_change_a_bit(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = table(1200)
    arguments: dict[str, Any] = {"dequantize": "auto", "epochs": 4, "batch_size": 50, "rng": 3}
    start = small(3, backend)
    plain = start.copy().fit(x, **arguments).to_bytes()
    np.save(tmp_path / "x.npy", x)
    for rows in (np.load(tmp_path / "x.npy", mmap_mode="r"), np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2]):
        assert start.copy().fit(rows, **arguments).to_bytes() == plain
    with ps.threads(1):
        assert start.copy().fit(x, **arguments).to_bytes() == plain
    true, held = dequantize.batches, []

    def watched(*given: Any) -> Rows:
        held.append(true(*given))
        return held[-1]

    for buffer, most in ((1, 50), (3 * 200, 200)):
        monkeypatch.setattr(dequantize, "BUFFER", buffer)
        monkeypatch.setattr(dequantize, "batches", watched)
        assert start.copy().fit(x, **arguments).to_bytes() == plain
        assert max(map(len, held)) == most
    monkeypatch.undo()
    for when in (1, 3):

        def stop(state: ps.TrainingState, when: int = when) -> None:
            assert state.flow.lattice == {0: 1.0, 2: 0.1}
            if state.epoch == when:
                raise KeyError

        with pytest.raises(KeyError) as caught:
            start.copy().fit(x, **arguments, callbacks=stop, checkpoint=tmp_path / "m")
        assert ps.load(tmp_path / "m").lattice == caught.value.best.lattice == {0: 1.0, 2: 0.1}  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"dequantize was 0 1, 2 0.1 and is 0 1"):
            start.copy().fit(x, **{**arguments, "dequantize": {0: 1}}, checkpoint=tmp_path / "m")
        assert start.copy().fit(x, **arguments, checkpoint=tmp_path / "m").to_bytes() == plain
        assert (tmp_path / "m").read_bytes() == plain


def test_validation_rows_have_the_noise_of_no_epoch() -> None:
    x, own = table(1000), table(300)[::-1].copy()
    flow = small()
    flow.fit(x, dequantize="auto", validation=own, **QUICK)
    from penstock import _validate

    steps = np.array([1.0, 0.0, 0.1])
    rows = dequantize.noised(Rows(own), lattice.Lattice(steps, 0 * steps), _validate.seed(0), 1).x[:]
    assert flow.history.best_loss == pytest.approx(-flow.score(rows), rel=1e-6)


# -- densities and draws --------------------------------------------------------------------------


@each_backend
def test_a_step_times_the_density_is_the_probability_of_a_value(backend: str) -> None:
    source = rng("poisson")
    n = source.poisson(3.0, 20_000) * 0.5
    flow = ps.nsf_ar(1, layers=2, hidden=(32,), support=ps.interval(-0.25, None), rng=0, backend=backend)
    flow.fit(n[:, None], dequantize={0: "auto"}, epochs=15, batch_size=500, rng=0)
    assert flow.lattice == {0: 0.5}
    k = np.arange(12)
    expected = np.exp(-3.0) * 3.0**k / np.array([float(np.prod(np.arange(1, i + 1))) for i in k])
    found = 0.5 * np.exp(flow.log_prob(0.5 * k[:, None]))
    np.testing.assert_allclose(found, expected, atol=0.02)
    drawn = flow.sample(20_000, rng=0)[:, 0]
    assert set(np.unique(drawn)) <= set(0.5 * np.arange(30))
    np.testing.assert_allclose(np.bincount((2 * drawn).astype(int), minlength=30)[:12] / 20_000, expected, atol=0.02)
    # Without noise the density would grow with training: here it is that of the noised rows.
    spread = n[:, None] + 0.5 * (source.random((20_000, 1)) - 0.5)
    entropy = flow.entropy(20_000, rng=1)
    assert abs(flow.score(spread) + entropy.value) < 0.03
    _, log_prob = flow.sample_and_log_prob(20_000, rng=1, raw=True)
    assert entropy.value == pytest.approx(-log_prob.astype(float).mean(), rel=1e-6)


@each_dtype
def test_samples_lie_on_the_lattice_unless_they_are_raw(dtype: str) -> None:
    x = table(2000)
    flow = small(3, dtype=dtype, context_dim=1)
    flow.fit(dict(zip(("n", "x", "mag"), x.T, strict=True)), x[:, :1] * 0.1, dequantize="auto", **QUICK)
    assert flow.lattice == {"n": 1.0, "mag": 0.1}
    assert flow._lattice is not None
    c = np.array([[0.1], [0.4]])
    raw, drawn = flow.sample(50, c, rng=1, raw=True), flow.sample(50, c, rng=1)
    assert raw.dtype == drawn.dtype == dtype
    assert_same_bits(drawn[..., 1], raw[..., 1])
    assert_same_bits(drawn[..., 0], np.rint(raw[..., 0]) + np.array(0.0, dtype))
    assert_same_bits(drawn[..., 2], (np.rint(raw[..., 2].astype(float) * 10) / 10).astype(dtype))
    out = np.zeros((2, 50, 3), dtype)
    assert_same_bits(flow.sample(50, c, rng=1, out=out), drawn)
    assert_same_bits(flow.sample(20, c, rng=1, first=30), drawn[:, 30:])
    assert_same_bits(flow.given(c[0]).sample(50, rng=1), drawn[0])
    assert_same_bits(flow.given(c[0]).sample(50, rng=1, raw=True), raw[0])
    assert flow.given(c[0]).lattice == flow.lattice
    for given in (c, c[0]):
        rows, log_prob = flow.sample_and_log_prob(50, given, rng=1)
        assert_same_bits(rows, drawn if given is c else drawn[0])
        assert_same_bits(log_prob, flow.log_prob(rows, given))
        rows, log_prob = flow.sample_and_log_prob(50, given, rng=1, raw=True)
        assert_same_bits(rows, raw if given is c else raw[0])
    kept = flow.sample(30, c[0], rng=1, where=lambda rows: rows[:, 0] == 4)
    assert (kept[:, 0] == 4).all()
    assert_same_bits(kept[: (drawn[0, :, 0] == 4).sum()], drawn[0][drawn[0, :, 0] == 4])
    pytest.importorskip("pandas")
    assert_same_bits(
        flow.sample_frame(50, c, rng=1, library="pandas")[["n", "x", "mag"]].to_numpy(), drawn.reshape(-1, 3)
    )
    raws = flow.sample_frame(50, c, rng=1, raw=True, library="pandas")
    assert_same_bits(raws[["n", "x", "mag"]].to_numpy(), raw.reshape(-1, 3))


def test_weights_of_draws_are_those_of_the_density() -> None:
    """Evidence is an integral over the line, and so of draws as they are."""
    n = rng("evidence").poisson(30.0, 4000)[:, None] * 1.0
    flow = ps.nsf_ar(1, layers=2, hidden=(8,), rng=0).fit(n, dequantize={0: 1}, epochs=5, rng=0)
    found = ps.importance(flow, lambda x: -0.5 * ((x[:, 0] - 30) / 4) ** 2, 4000, rng=0)
    assert abs(found.log_evidence - np.log(4 * np.sqrt(2 * np.pi))) < 5 * found.log_evidence_error
    assert (found.samples != np.rint(found.samples)).mean() > 0.99


# -- what goes with a flow ------------------------------------------------------------------------


def test_the_lattice_goes_with_the_flow(tmp_path: Path) -> None:
    x = table()
    flow = small().fit(x, dequantize=[1, None, "auto"], **QUICK)
    assert "\n  lattice   0 1, 2 0.1 (column, step)\n" in repr(flow)
    flow.save(tmp_path / "m")
    twins = [ps.load(tmp_path / "m"), ps.from_bytes(flow.to_bytes()), pickle.loads(pickle.dumps(flow)), flow.copy()]
    for twin in twins:
        assert twin.lattice == {0: 1.0, 2: 0.1}
        assert_same_bits(twin.sample(20, rng=0), flow.sample(20, rng=0))
    assert flow.astype("float64").lattice == flow.lattice
    later = flow.copy()
    later.fit(x, epochs=1, rng=1, validation=0)  # silent: its noise is that of the flow
    assert later.lattice == flow.lattice
    plain = small().fit(x[:, 1:2].repeat(3, axis=1) + rng("other").standard_normal((1000, 3)), **QUICK)
    assert plain.lattice is None
    assert "lattice" not in repr(plain)
    assert b"lattice" not in plain.to_bytes()
    for value in ("auto", {0: 1}, {2: 0.1, 0: "auto"}):
        if value != {0: 1}:
            flow.copy().fit(x, dequantize=value, epochs=1, rng=1, validation=0)
            continue
        with pytest.raises(ValueError, match=r"decided by the first fit of a flow, which has 0 1, 2 0.1; a later one"):
            flow.copy().fit(x, dequantize=value, epochs=1)
    with pytest.raises(ValueError, match="which has none"):
        plain.fit(x, dequantize={0: 1}, epochs=1)
    assert flow.reset(0).lattice is None


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        ("all", TypeError, "must be 'auto', a mapping of columns to steps"),
        (1.0, TypeError, "must be 'auto', a mapping of columns to steps"),
        ([1, None], ValueError, "an entry for each of 3 columns, got 2"),
        ({"n": 1}, ValueError, "names 'n', which is no column of X: the columns have no names"),
        ({3: 1}, ValueError, "names column 3, and X has 3"),
        ({-1: 1}, ValueError, "at least 0"),
        ({1.5: 1}, TypeError, "a key of dequantize must be an integer"),
        ({0: 0}, ValueError, "column 0 must be a positive step, got 0"),
        ({0: float("inf")}, ValueError, "column 0 must be a positive step"),
        ({0: "one"}, TypeError, "column 0 must be a step or 'auto', got 'one'"),
        ({0: True}, TypeError, "column 0 must be a step or 'auto', got True"),
        ({1: "auto"}, ValueError, "column 1 is 'auto', but there is no step of which its values are multiples"),
        ({0: 2}, ValueError, r"row \d+, column 0, holds \d+\.0, which is not \d plus a multiple of 2"),
        ({2: 0.25}, ValueError, r"row \d+, column 2, holds .*, which is not .* plus a multiple of 0.25"),
    ],
)
def test_what_is_no_lattice_is_refused_by_name(value: Any, kind: Any, words: str) -> None:
    flow = small()
    with pytest.raises(kind, match=words):
        flow.fit(table(), dequantize=value, **QUICK)
    assert not flow.fitted
    assert flow.lattice is None


def test_cells_must_lie_within_supports_and_rows_of_weight_zero_do_not_count() -> None:
    x = table()
    assert (x[:, 0] == 0).any()
    with pytest.raises(ValueError, match=r"column 0, which is above -0.4, holds 0.0, half a step of 1 from"):
        small(support=[ps.interval(-0.4, None), "real", "real"]).fit(x, dequantize={0: 1}, **QUICK)
    spoilt = x.copy()
    spoilt[11, 0] = -3
    with pytest.raises(ValueError, match=r"row 11, column 0, .* holds -3\.0$"):
        small(support=[ps.interval(-0.5, None), "real", "real"]).fit(spoilt, dequantize={0: 1}, **QUICK)
    flow = small(support=[ps.interval(-0.5, None), "real", "real"]).fit(x, dequantize="auto", **QUICK)
    drawn = flow.sample(5000, rng=0)[:, 0]
    assert (drawn >= 0).all()
    assert np.isfinite(flow.log_prob(x)).all()
    weight = np.ones(1000)
    weight[::4] = 0
    spoilt = x.copy()
    spoilt[::4] = [0.3, np.nan, 1e300]
    for value in ("auto", {0: 1, 2: 0.1}, {0: "auto", 2: "auto"}):
        assert small().fit(spoilt, sample_weight=weight, dequantize=value, **QUICK).lattice == {0: 1.0, 2: 0.1}
    # By itself "auto" leaves out what is nearly a lattice, and what hardly repeats.
    spoilt = x.copy()
    spoilt[::10, 0] += rng("beside").random(100)
    spoilt[:, 1] = spoilt[:, 1].round(6)
    with pytest.warns(ps.DiscreteWarning):
        assert small().fit(spoilt, dequantize="auto", **QUICK).lattice == {2: 0.1}


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([[1, 0, 0], [0, 0, 1]], "origins in tensor lattice"),
        ([[1, 0, 0], [1, 0, 0]], "origins in tensor lattice"),
        ([[1, 0, 0], [-0.1, 0, 0]], "origins in tensor lattice"),
        ([[-1, 0, 0], [0, 0, 0]], "steps of at least 0"),
        ([[np.nan, 0, 0], [0, 0, 0]], "steps of at least 0"),
        ([[0, 0, 0], [0, 0, 0]], "steps of at least 0"),
        ([[1, 0], [0, 0]], r"F64 of shape \(2, 3\)"),
    ],
)
def test_a_lattice_that_is_none_is_refused_in_a_file(numbers: Any, words: str) -> None:
    flow = small()
    steps, origins = np.array(numbers, np.float64)
    flow._lattice = lattice.Lattice(steps, origins)
    with pytest.raises(ps.FileFormatError, match=words):
        ps.from_bytes(flow.to_bytes())


# -- on the command line --------------------------------------------------------------------------


def run(*words: str | Path) -> int:
    return main([str(word) for word in words])


def test_the_command_line_dequantizes_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = table()
    np.savetxt(tmp_path / "x.csv", x, delimiter=",", header="n,x,mag", comments="", fmt="%.17g")
    words = ("fit", tmp_path / "x.csv", "-o", tmp_path / "m", "--layers", "2", "--hidden", "8", "--epochs", "2", "-q")
    expected = small()
    expected.columns = ("n", "x", "mag")
    expected.fit(x, dequantize="auto", epochs=2, rng=0)
    for given in ("auto", "n,mag=0.1", "2=0.1,0"):
        assert run(*words, "--dequantize", given) == 0
        assert (tmp_path / "m").read_bytes() == expected.to_bytes()
    assert run(*words, "--dequantize", "n=1", "--columns", "n,x") == 0
    assert ps.load(tmp_path / "m").lattice == {"n": 1.0}
    for given, message in (
        ("w", "has no column 'w'"),
        ("mag", "'mag' is no data column"),
        ("n=one", "must be a number, got 'one'"),
        ("n=2", "multiple of 2"),
    ):
        assert run(*words, "--dequantize", given, "--columns", "n,x") == 1
        assert re.search(message, capsys.readouterr().err)
    flow = ps.load(tmp_path / "m")
    sample = ("sample", tmp_path / "m", "-n", "50", "-o", tmp_path / "s.npy", "--seed", "3", "-q")
    assert run(*sample) == 0
    assert_same_bits(np.load(tmp_path / "s.npy"), flow.sample(50, rng=3))
    assert run(*sample, "--raw") == 0
    assert_same_bits(np.load(tmp_path / "s.npy"), flow.sample(50, rng=3, raw=True))
    assert run("info", tmp_path / "m") == 0
    assert "lattices (column, step): 'n' 1" in capsys.readouterr().out
