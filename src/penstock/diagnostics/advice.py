"""From checks to words: what is wrong with a model, and what to try."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.diagnostics.latents import Latents
from penstock.diagnostics.marginal import Marginals, Pairs
from penstock.diagnostics.ranks import PIT
from penstock.diagnostics.regions import Coverage
from penstock.diagnostics.statistics import listed, pm
from penstock.diagnostics.subject import Subject
from penstock.diagnostics.twosample import C2ST
from penstock.support import ends_of

SLIGHT = 0.015  # of a share that is off
OUTSIDE = 12  # draws beyond all rows for each that chance puts there
SHARE, ZERO = 0.002, 0.05  # of draws, and of a standard deviation
FEW = 0.2  # values for each row, below which a column is on a lattice
HEAVY = 3.0  # a fourth moment of latents that no normal base has


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, and what to try.

    Attributes
    ----------
    fault, cure : str
    """

    fault: str
    cure: str


def findings(checks: Mapping[str, Any], subject: Subject, outside: int) -> tuple[Finding, ...]:
    """What the checks say, the most serious first."""
    found: list[Finding] = []
    if outside:
        found.append(
            Finding(
                f"{outside} of {subject.rows} rows have density 0: they lie outside the support of the model",
                "widen the support of their columns, or leave these rows out",
            )
        )
    found += _coverage(checks)
    if "marginals" in checks:
        found += _edges(checks["marginals"], subject)
    found += _lattices(subject)
    found += _columns(checks, {word for finding in found for word in finding.fault.split()})
    found += _shape(checks)
    return tuple(found)


def _coverage(checks: Mapping[str, Any]) -> list[Finding]:
    hdr: Coverage = checks["regions"]
    if hdr.passed:
        return []
    share, error = (float(values[0]) for values in hdr.at(0.9))
    little = "slightly " if abs(share - 0.9) < SLIGHT else ""
    hold = f"its regions of 90 % hold {pm(share, error, percent=True)} of the rows"
    if hdr.fault() == "too narrow":
        return [
            Finding(
                f"the model is {little}too narrow (overconfident): {hold}",
                "mix several flows, ps.Ensemble(flow, 4); give flow.recalibrate(X, ...) rows that no flow was trained on; more "
                "rows, or a smaller network",
            )
        ]
    return [
        Finding(
            f"the model is {little}too wide (it has not learned all there is): {hold}",
            "train longer, or with a larger network: hidden=, layers=, bins=; ps.nsf_ar is the recipe that resolves most",
        )
    ]


def _edges(marginals: Marginals, subject: Subject) -> list[Finding]:
    """Columns whose draws pass an end that no row passes."""
    words, cures = [], []
    for j, name in enumerate(subject.names):
        ends = ends_of(subject.support[j]) if subject.support else (-np.inf, np.inf)
        column, draws = subject.X[:, j], marginals.draws[:, j]
        sides = []
        for end, known, beyond, word in (
            (column.min(), ends[0], draws < column.min(), "below"),
            (column.max(), ends[1], draws > column.max(), "above"),
        ):
            share = float(beyond.mean())
            # Numbers near zero that are never negative have an end there, even where few draws pass it.
            zero = word == "below" and 0 <= end < ZERO * float(np.std(column)) and bool((draws < 0).any())
            sure = share * subject.rows >= OUTSIDE and beyond.sum() >= OUTSIDE and (zero or share >= SHARE)
            if sure and not np.isfinite(known):
                words.append(f"{100 * share:.2g} % of {name} {word} {end:.4g}")
                sides.append(
                    '"positive"' if zero else f"({end:.4g}, None)" if word == "below" else f"(None, {end:.4g})"
                )
        if sides:
            both = len(sides) == 2
            cures.append(
                f"{_key(name, j, subject)}: {f'({column.min():.4g}, {column.max():.4g})' if both else sides[0]}"
            )
    if not words:
        return []
    return [
        Finding(
            f"draws too wide at an end, where there are no rows: {listed(words, 5)}",
            f"if no value can lie there, say so: support={{{listed(cures, 5)}}}, with a round number a little beyond; "
            "ps.infer_support(X) proposes",
        )
    ]


def _key(name: str, j: int, subject: Subject) -> str:
    return repr(name) if getattr(subject.model, "columns", None) else str(j)


def _lattices(subject: Subject) -> list[Finding]:
    """Columns that take few values, of a model that does not know."""
    lattice = getattr(subject.model, "lattice", None) or {}
    names = [
        name
        for j, name in enumerate(subject.names)
        if name not in lattice and j not in lattice and len(np.unique(subject.X[:, j])) < FEW * subject.rows
    ]
    if not names or subject.rows < 100:
        return []
    return [
        Finding(
            f"{listed(names)} take{'s' if len(names) == 1 else ''} few values, and a density of them is not bounded",
            'fit(dequantize="auto") takes a column for a lattice, and samples come to lie on it',
        )
    ]


def _columns(checks: Mapping[str, Any], told: set[str]) -> list[Finding]:
    """Columns whose own distribution is off."""
    pit: PIT = checks["PIT"]
    words = [fault for fault in _faults(checks) if fault.split()[0] not in told]
    if not words:
        return []
    biased = any(word in fault for fault in words for word in ("too low", "too high"))
    narrow = any("too narrow" in fault for fault in words)
    cure = "train longer, or with more layers= and bins=" if not narrow else "ps.Ensemble(flow, 4), or flow.recalibrate"
    if biased:
        cure += "; if these rows differ from those of the training in time or place, train on both"
    of = f" ({len(words)} of {len(pit.columns)})" if len(pit.columns) > 1 else ""
    return [Finding(f"columns that are off{of}: {listed(words, 6)}", cure)]


def _faults(checks: Mapping[str, Any]) -> list[str]:
    """Of columns, by what sees most: where there are contexts the PIT, otherwise the marginals, which have figures."""
    if checks.get("conditional"):
        found: list[str] = checks["PIT"].faults()
        return found
    return list(checks["marginals"].faults())


def _shape(checks: Mapping[str, Any]) -> list[Finding]:
    found = []
    latents: Latents | None = checks.get("latents")
    if latents is not None and not latents.passed:
        heavy = np.flatnonzero(latents.tail > HEAVY)
        if len(heavy):
            names = listed([latents.dimensions[j] for j in heavy])
            found.append(
                Finding(
                    f"latents have heavier tails than the base ({names}): extreme rows get too little density",
                    "base=ps.StudentT(dim), a larger bound= of splines, or a logarithm of the columns with long tails",
                )
            )
        elif checks["regions"].passed and abs(latents.radius - 1) > 3 * latents.radius_error:
            narrow = latents.radius > 1
            found.append(
                Finding(
                    f"latents have mean square {pm(latents.radius, latents.radius_error)}, and 1 in the base: in its tails the "
                    f"model is too {'narrow' if narrow else 'wide'}",
                    "flow.recalibrate(X, ...) on rows that it was not trained on"
                    + ("; ps.Ensemble(flow, 4)" if narrow else ""),
                )
            )
    pairs: Pairs | None = checks.get("pairs")
    if pairs is not None and not pairs.passed:
        i, j = pairs.worst()
        found.append(
            Finding(
                f"{pairs.features[i]} and {pairs.features[j]} have correlation {pairs.model[i, j]:.3f} in draws and "
                f"{pairs.observed[i, j]:.3f} in rows",
                'mixing="lu", an autoregressive recipe (ps.nsf_ar), or a larger network',
            )
        )
    c2st: C2ST | None = checks.get("C2ST")
    if c2st is not None and not c2st.passed:
        how = "slightly" if c2st.accuracy < 0.53 else "clearly" if c2st.accuracy > 0.6 else "somewhat"
        found.append(
            Finding(
                f"a classifier tells draws from rows, {how}: {pm(c2st.accuracy, c2st.error, percent=True)} right (perfect: 50 %)",
                "look for a feature that gives them away, in differences of columns first; a larger network, more epochs",
            )
        )
    if not found:
        found += _rest(checks)
    return found


def _rest(checks: Mapping[str, Any]) -> list[Finding]:
    """What nothing else has explained."""
    failing = [name for name in ("latents", "TARP", "CRPS") if name in checks and not checks[name].passed]
    if not failing or not all(checks[name].passed for name in ("PIT", "regions")):
        return []
    return [
        Finding(
            f"{listed(failing)} differ from what a right model gives",
            "see its line above; ps.diagnostics has the numbers",
        )
    ]
