"""The parts of ``densities/`` that are written here and not taken from a library."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "densities"))

import fitting

import tables

CIRCLES = np.array([[-1.0, 3.0], [0.5, 2.5]])


@pytest.fixture
def classical():
    pytest.importorskip("sklearn")
    import classical

    return classical


def test_angles_are_those_of_the_turn_and_know_no_seam() -> None:
    rows = np.array([[-1.0, 0.5], [1.0, 1.5], [2.0, 2.0]])
    expected = np.pi * np.array([[-1.0, -1.0], [0.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(fitting.angles(rows, CIRCLES), expected, atol=1e-12)
    np.testing.assert_allclose(fitting.angles(rows + np.array([4.0, -6.0]), CIRCLES), expected, atol=1e-12)


def test_a_uniform_density_of_angles_is_uniform_over_the_turns() -> None:
    log_density = -2 * np.log(2 * np.pi) + fitting.log_slope(CIRCLES)
    assert np.exp(log_density) == pytest.approx(1 / (4 * 2))


def test_kernels_are_products_of_von_mises_densities(classical) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    points, rows = rng.uniform(-np.pi, np.pi, (7, 2)), rng.uniform(-np.pi, np.pi, (2 * classical.CHUNK + 3, 2))
    kappa = np.array([3.0, 0.5])
    kernels = [stats.vonmises(k).pdf(rows[:, None, j] - points[:, j]) for j, k in enumerate(kappa)]
    expected = np.log(np.prod(kernels, axis=0).mean(axis=1))
    np.testing.assert_allclose(classical.log_kernels(points, rows, kappa), expected, rtol=1e-12, atol=1e-12)


def test_a_kernel_estimate_integrates_to_one_in_the_units_of_the_table(classical) -> None:
    rng = np.random.default_rng(0)
    rows = [0.5, 1.0] + [0.7, 0.2] * rng.standard_normal((400, 2))
    fitted = classical.von_mises(rows[:300], rows[300:], 0, CIRCLES)
    lo, hi = CIRCLES.T
    at = np.stack(np.meshgrid(*((np.arange(200) + 0.5) / 200 for _ in range(2))), axis=-1).reshape(-1, 2)
    assert np.exp(fitted.score(lo + at * (hi - lo))).mean() * np.prod(hi - lo) == pytest.approx(1, abs=1e-6)
    assert fitted.score(rows[300:]).mean() == pytest.approx(fitted.validation)
    assert fitted.validation >= fitted.about["common"]
    # The narrower angle wants the narrower kernel, for which one concentration for both is not enough.
    assert fitted.about["kappa"][1] > fitted.about["kappa"][0]


def test_a_table_says_where_the_turns_of_its_angles_begin_in_its_units(tmp_path) -> None:
    rng = np.random.default_rng(0)
    data = np.column_stack(
        [rng.uniform(-180, 180, (500, 2)), rng.uniform(0, 360, (500, 2)), rng.uniform(-180, 180, 500)]
    )
    folder = tmp_path / "protein_torsions"
    folder.mkdir()
    np.savez(folder / "gln.npz", data=data)
    parts, circles = tables.load("torsions", tmp_path), tables.circles("torsions", tmp_path)
    order = np.random.default_rng(0).permutation(len(data))
    lo = np.array([-180.0, -180.0, 0.0, 0.0, -180.0])
    turns = (data[order] - lo) / 360
    np.testing.assert_allclose(
        (np.concatenate(parts) - circles[:, 0]) / (circles[:, 1] - circles[:, 0]), turns, atol=1e-9
    )


def test_a_model_of_circles_is_offered_only_to_a_table_that_has_them(tmp_path, monkeypatch, capsys) -> None:
    def offered(circles: list[tuple[float, float]]) -> list[str]:
        np.savez(tmp_path / "table.npz", circles=circles)
        monkeypatch.setattr(sys, "argv", ["script", str(tmp_path / "table.npz")])
        fitting.serve({"any": print}, dict, some_circles={"some": print}, all_circles={"all": print})
        return capsys.readouterr().out.split()

    nan = (np.nan, np.nan)
    assert offered([nan, nan]) == ["any"]
    assert offered([nan, (0, 1)]) == ["any", "some"]
    assert offered([(2, 3), (0, 1)]) == ["any", "some", "all"]
