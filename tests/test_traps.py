"""The traps of real tables, each of which a fit tells of or survives: what is missing, codes for it, repeats, lattices, tails.

Weights have a file of their own, ``test_fit_weights.py``, and so have hard edges, ``test_supports.py``.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import penstock as ps
from cases import BACKENDS, rng
from helpers import each_backend
from penstock.demo import NOT_DETECTED, galaxies

Array = np.ndarray[Any, Any]

NAMES = ("redshift", *"ugrizy")
QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 500, "rng": 0, "learning_rate": 1e-6}


def flow_of(dim: int, context_dim: int = 0, columns: Sequence[str] = ()) -> ps.Flow:
    flow = ps.realnvp(dim, context_dim=context_dim, layers=2, hidden=(4,), rng=0, backend=BACKENDS[0])
    flow.columns = columns or None
    return flow


def told(flow: ps.Flow, x: Array, context: Array | None = None, **arguments: Any) -> list[tuple[type[Warning], str]]:
    """What a fit warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow.fit(x, context, **{**QUICK, **arguments})
    return [(warning.category, str(warning.message)) for warning in caught]


@pytest.mark.parametrize("named", [True, False])
def test_missing_values_of_galaxies_are_refused_with_counts_by_column(named: bool) -> None:
    x = galaxies()[:3000]
    x[x == NOT_DETECTED] = np.nan
    x[[7, 70, 700], 4] = np.nan, np.inf, -np.inf
    missing = np.isnan(x).sum(axis=0)
    assert missing[1] > 100
    u, i = ("'u'", "'i'") if named else (1, 4)
    words = (
        f"column {u}: {missing[1]} of 3000 values are missing; column {i}: 1 of 3000 values is missing; "
        f"column {i}: 2 of 3000 values are infinite"
    )
    with pytest.raises(ValueError, match=re.escape(words)):
        flow_of(7, 0, NAMES if named else ()).fit(x)
    with pytest.raises(ValueError, match=f"context.*column 0: {missing[1]} of 3000 values are missing"):
        flow_of(2, 1).fit(x[:, 2:4], x[:, 1:2])


def test_the_code_of_galaxies_without_detection_is_told() -> None:
    ((category, message),) = told(flow_of(7, 0, NAMES), galaxies())
    assert category is ps.DiscreteWarning
    assert "column 'u' is 99 in 7.1 % of the rows" in message
    assert "--missing" in message


@pytest.mark.parametrize(("code", "support"), [(99.0, "real"), (-99.0, "real"), (-999.0, "real"), (99.0, "positive")])
@pytest.mark.parametrize("count", [10, 40])
def test_a_code_that_repeats_at_an_extreme_is_told(code: float, count: int, support: str) -> None:
    x = galaxies()
    x = x[(x != NOT_DETECTED).all(axis=1)][:2000].astype(np.float64)
    rows = rng("code").permutation(2000)[:count]
    flow = ps.realnvp(7, layers=2, hidden=(4,), support=support, rng=0, backend=BACKENDS[0])
    flow.columns = NAMES
    assert told(flow.copy(), x) == []
    spoilt = x.copy()
    spoilt[rows, 3] = code
    ((category, message),) = told(flow.copy(), spoilt)
    assert category is ps.OutlierWarning
    trained = np.isin(flow_rows(2000), rows).sum()
    assert f"X: column 'r' is {code:g} in {100 * trained / 1800:.2g} % of the rows, beyond all others" in message
    assert "--missing" in message
    ((category, message),) = told(flow_of(2, 5), x[:, :2], spoilt[:, 2:])
    assert category is ps.OutlierWarning
    assert f"context: column 1 is {code:g} in" in message
    # Once, or a few times and different, or no farther out than others: no code.
    for values in (code, code + np.arange(count), x[:, 3].max() if code > 0 else x[:, 3].min()):
        spoilt[:, 3] = x[:, 3]
        spoilt[rows[:4] if np.isscalar(values) and values == code else rows, 3] = values
        assert told(flow.copy(), spoilt) == []


def flow_rows(n: int) -> Array:
    """The rows of a table that train, where a tenth of them validates."""
    from penstock import _validate

    order: Array = flow_of(2)._runner().row_order(_validate.seed(0), 0, n, range(n - n // 10))
    return order


def test_codes_at_both_ends_are_told_and_those_that_are_absurdly_far_once() -> None:
    x = rng("both").standard_normal((2000, 2))
    x[::100, 0], x[1::100, 0] = 99.0, -99.0
    ((category, message),) = told(flow_of(2), x)
    assert category is ps.OutlierWarning
    assert "column 0 is -99 in" in message
    assert "column 0 is 99 in" in message
    x = rng("both").standard_normal((2000, 2))
    x[::50, 0] = -9999.0  # more than a thousand scales
    ((category, message),) = told(flow_of(2), x)
    assert "perhaps a code for what is missing" in message


def test_repeated_galaxies_are_told() -> None:
    x = galaxies()
    x = x[(x != NOT_DETECTED).all(axis=1)][:2000]
    ((category, message),) = told(flow_of(7), np.concatenate([x, x[:500]]))
    assert category is ps.RepeatedRowsWarning
    assert "of the 2250 rows repeat another one" in message


def test_magnitudes_that_are_rounded_to_a_lattice_are_told() -> None:
    x = galaxies()
    x = x[(x != NOT_DETECTED).all(axis=1)][:3000]
    x[:, 2] = x[:, 2].round()
    ((category, message),) = told(flow_of(7, 0, NAMES), x)
    assert category is ps.DiscreteWarning
    assert re.search(r"column 'g' takes only \d+ values in 2700 rows", message)


@each_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_columns_of_infinite_variance_train_with_robust_scales(backend: str, dtype: str) -> None:
    """Cauchy columns: no mean, no variance; the least and largest of 20 000 rows lie about 1e4 scales out."""
    source = rng("tails")
    x = source.standard_cauchy((24_000, 2)) * [1e-3, 50.0] + [3.0, -20.0]

    def log_p(rows: Array) -> Array:
        u = (rows - [3.0, -20.0]) / [1e-3, 50.0]
        return -np.log(np.pi * (1 + u * u)).sum(axis=1) - np.log(1e-3 * 50)

    test, table = x[:4000], x[4000:]
    assert np.abs((table - [3.0, -20.0]) / [1e-3, 50.0]).max() > 5e3
    flow = ps.nsf(2, layers=4, hidden=(16,), dtype=dtype, rng=0, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ps.OutlierWarning)
        flow.fit(table, standardize="robust", epochs=15, rng=0)
    assert np.isfinite(flow.history.train_loss).all()
    # Quartiles of a Cauchy density lie at -1 and 1: a scale of 2 / 1.349.
    np.testing.assert_allclose(flow.scale, np.array([1e-3, 50.0]) * 2 / 1.349, rtol=0.05)
    np.testing.assert_allclose(flow.loc, [3.0, -20.0], atol=1, rtol=1e-3)
    central = np.abs((test - flow.loc) / flow.scale).max(axis=1) < 5  # nine of ten, beside the tails of a normal base
    assert central.mean() > 0.7
    assert np.mean(log_p(test[central]) - flow.log_prob(test[central])) < 0.25
    assert np.isfinite(flow.log_prob(test)).mean() > 0.999
