"""The report: one page that says, in words and in a picture, how far a model agrees with rows that it has not seen."""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock import _files, _html, _validate
from penstock._typing import ArrayLike, Rng, RowsLike
from penstock.diagnostics.advice import Finding, findings
from penstock.diagnostics.latents import has_latents, latents_of
from penstock.diagnostics.marginal import marginals_of, pairs_of
from penstock.diagnostics.ranks import pit_of
from penstock.diagnostics.regions import hdr_of, tarp_of
from penstock.diagnostics.scores import crps_of
from penstock.diagnostics.statistics import effective_size, mean_with_error, pm
from penstock.diagnostics.subject import Model, Subject
from penstock.diagnostics.twosample import c2st_of

WIDTH = 110
FEWEST = 50
# Rows that each check takes at most, and draws for each: some 15 s on two cores for a flow of ten columns.
PLAIN, GIVEN = 20_000, 2000
TARP_ROWS, SCORED, CLASSIFIED, DRAWS = 2000, 2000, 4000, 50
PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Report:
    """What :func:`penstock.report` finds. ``print`` gives a page of text, ``plot`` the picture.

    Attributes
    ----------
    model : str
        What was examined.
    rows : int
    score, score_error : float
        Mean log-density of the rows inside the support, in nats, and its standard error.
    outside : int
        Rows of density 0.
    checks : dict of str to results
        What :mod:`penstock.diagnostics` gives, by the names of the lines of the page.
    findings : tuple
        What is wrong, each with ``fault`` and ``cure``; empty if nothing is.
    omitted : dict of str to str
        Checks that were not made, and why.
    seconds : float
    """

    model: str
    rows: int
    score: float
    score_error: float
    outside: int
    checks: Mapping[str, Any]
    findings: tuple[Finding, ...]
    omitted: Mapping[str, str]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong, as far as the rows tell."""
        return not self.findings

    @property
    def headline(self) -> str:
        """The page in one line."""
        if self.passed:
            return f"nothing is wrong as far as {self.rows} rows tell"
        first = self.findings[0].fault
        more = len(self.findings) - 1
        return first + (f"; and {more} more finding{'s' if more > 1 else ''}" if more else "")

    def lines(self) -> list[tuple[str, str, str]]:
        """Of each check its name, a mark ("ok", "!!" or "--" for one that was not made), and what it says."""
        found = [(name, "ok" if check.passed else "!!", str(check)) for name, check in self._results()]
        return found + [(name, "--", f"not made: {why}") for name, why in self.omitted.items()]

    def _results(self) -> list[tuple[str, Any]]:
        return [(name, check) for name, check in self.checks.items() if hasattr(check, "passed")]

    def __str__(self) -> str:
        score = f"log-density {pm(self.score, self.score_error)} nats a row"
        if self.outside:
            score += f", and {self.outside} rows of density 0"
        out = [f"report on {self.model}", f"{self.rows} rows; {score}; {self.seconds:.1f} s", ""]
        for _, mark, text in self.lines():
            out += textwrap.wrap(text, WIDTH, initial_indent=f" {mark}  ", subsequent_indent="       ")
        out += ["", "What is wrong, and what to try" if self.findings else f"In short: {self.headline}."]
        for number, finding in enumerate(self.findings, 1):
            out += textwrap.wrap(finding.fault, WIDTH, initial_indent=f" {number}. ", subsequent_indent="    ")
            out += textwrap.wrap(f"try: {finding.cure}", WIDTH, initial_indent="    ", subsequent_indent="         ")
        return "\n".join(out)

    def __repr__(self) -> str:
        return f"Report({self.rows} rows, {self.headline})"

    def plot(self) -> Any:
        """The page as a figure; needs matplotlib.

        Returns
        -------
        matplotlib Figure

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        try:
            from penstock.diagnostics.picture import drawn
        except ImportError:
            raise ImportError("plotting needs matplotlib: pip install 'penstock[diagnostics]'") from None
        return drawn(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the page: the text into a .txt, the picture into a .png, .pdf or .svg.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        ValueError
            For another ending.
        """
        name = _checked_path(path)
        if name.lower().endswith(".txt"):
            with _files.replacing(name) as file:
                file.write(f"{self}\n".encode())
        else:
            self.plot().savefig(name, dpi=150)

    def _repr_html_(self) -> str:
        """The findings, the picture where matplotlib is installed, and the whole text behind a click."""
        lines = [self.headline, *(f"{finding.fault} — try: {finding.cure}" for finding in self.findings)]
        text = _html.block(f"Report on {self.model}:", lines, "all checks", str(self))
        try:
            figure = self.plot()
        except ImportError:
            return text
        import base64
        import io

        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=90)
        code = base64.b64encode(data.getvalue()).decode()
        return f'{text}<img alt="report" style="max-width:100%" src="data:image/png;base64,{code}">'


def _checked_path(path: Any) -> str:
    name = _validate.path(path)
    if not name.lower().endswith((".txt", *PICTURES)):
        raise ValueError(f"path must end in .txt, {', '.join(PICTURES)}, got {name!r}")
    return name


def report(
    model: Model,
    X: RowsLike,
    context: RowsLike | None = None,
    *,
    sample_weight: ArrayLike | None = None,
    path: str | os.PathLike[str] | None = None,
    rng: Rng = 0,
) -> Report:
    """Hold a density against rows that it has not seen: one page that says in words what is wrong, and what to try.

    Parameters
    ----------
    model : Flow, Ensemble, what ``flow.given(context)`` gives, or anything with log_prob and sample
        As for the functions of :mod:`penstock.diagnostics`, which make the checks.
    X : array of shape (rows, dim), or a table
        At least 50 rows, neither of training nor of validation.
    context : array of shape (rows, c) or (c,), or a table, optional
        For a model with a context.
    sample_weight : array of shape (rows,), optional
        Weights of the rows, at least 0. The classifier does without.
    path : str or path, optional
        Where to write the page, too: ``Report.save(path)``.
    rng : seed or numpy Generator, default 0
        Of draws and of chosen rows: the report on the same rows is the same.

    Returns
    -------
    Report
        ``print(report)``, ``report.plot()``, ``report.save(path)``, ``report.findings``; notebooks show it.

    Raises
    ------
    ValueError, TypeError
        When rows, contexts or weights do not fit the model.
    ImportError
        When SciPy is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = 1.2 * np.random.default_rng(0).normal(size=(2000, 2))
    >>> found = ps.report(ps.realnvp(2, rng=0), X)  # a fresh flow is the standard normal
    >>> found.findings[0].fault.startswith("the model is too narrow (overconfident)")
    True
    """
    began = time.perf_counter()
    if path is not None:
        _checked_path(path)
    subject = Subject(model, X, context, sample_weight=sample_weight, rng=rng, fewest=FEWEST)
    log_prob = subject.log_prob()
    inside = log_prob > -np.inf
    outside = int((~inside).sum())
    if not inside.any():
        raise ValueError("all rows of X have density 0: they are not of the kind that the model was trained on")
    weight = None if subject.weight is None else subject.weight[inside]
    score, error = mean_with_error(log_prob[inside], weight, effective_size(weight, int(inside.sum())))
    checks, omitted = _checks(subject, outside)
    found = Report(
        _described(subject), subject.rows, float(score), float(error), outside, checks, findings(checks, subject, outside),
        omitted, time.perf_counter() - began,
    )  # fmt: skip
    if path is not None:
        found.save(path)
    return found


def _checks(subject: Subject, outside: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The results, by name, and which were left out and why."""
    some = subject.subset(GIVEN if subject.conditional else PLAIN)
    plan: dict[str, Callable[[], Any]] = {
        "regions": lambda: hdr_of(some),
        "PIT": lambda: pit_of(some),
        "TARP": lambda: tarp_of(some.subset(TARP_ROWS)),
        "CRPS": lambda: crps_of(some.subset(SCORED), DRAWS),
        "marginals": lambda: marginals_of(subject.subset(PLAIN)),
    }
    if subject.dim > 1:
        plan["pairs"] = lambda: pairs_of(subject.subset(PLAIN))
    omitted: dict[str, str] = {}
    if has_latents(subject.model) and not outside:
        plan["latents"] = lambda: latents_of(subject.subset(PLAIN))
    if subject.weight is None:
        plan["C2ST"] = lambda: c2st_of(subject.subset(CLASSIFIED), "trees")
    else:
        omitted["C2ST"] = "the classifier takes no weights"
    found: dict[str, Any] = {"conditional": subject.conditional}
    for name, check in plan.items():
        try:
            found[name] = check()
        except ImportError as missing:
            if name != "C2ST":
                raise
            omitted[name] = str(missing)
    return found, omitted


def _described(subject: Subject) -> str:
    """The model in a few words."""
    owner: Any = subject.model
    kind = type(owner).__name__
    members = getattr(owner, "members", None)
    what = f"{kind} of {len(members)} flows" if members else kind
    names = ", ".join(subject.names[:8]) + (", ..." if subject.dim > 8 else "")
    contexts = getattr(owner, "context_columns", None)
    given = ""
    if subject.contexts is not None:
        width = subject.contexts.shape[1]
        own = ", ".join(contexts[:8]) if contexts else f"{width} variable{'s' if width > 1 else ''}"
        given = f" given {own}"
    elif subject._fixed or hasattr(owner, "flow"):
        given = " at one context"
    return f"a {what} of {subject.dim} column{'s' if subject.dim > 1 else ''} ({names}){given}"
