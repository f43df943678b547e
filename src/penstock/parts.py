"""The verbs that take a joint density apart: marginals of some columns, and conditionals given some."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from penstock import _validate, columns
from penstock._typing import Array, ArrayLike, Rng
from penstock.base import Uniform, blocks
from penstock.columns import worded
from penstock.conditionals import Conditional
from penstock.groups import LINE
from penstock.marginals import Marginal, Proposed
from penstock.montecarlo import MonteCarlo
from penstock.plan import Plan
from penstock.restricted import closure, restricted
from penstock.sections import TOLERANCES
from penstock.spec import FlowSpec, latent_kinds
from penstock.state import Snapshot

MOST = 2  # columns that quadrature takes

Column = str | int


class Proposal(Protocol):
    """What importance sampling draws from: a flow, or a distribution of somebody else."""

    @property
    def sample(self) -> Callable[..., ArrayLike]:
        """Draws by number, ``sample(n, rng=)``, of shape (n, columns)."""
        ...

    @property
    def log_prob(self) -> Callable[..., ArrayLike]:
        """The log-density of such draws, (n,)."""
        ...


class Parts(MonteCarlo):
    """Verbs that give densities of fewer columns."""

    def marginal(
        self,
        columns: Column | Iterable[Column],
        *,
        proposal: Proposal | None = None,
        n: float = 10_000,
        tolerance: float | None = None,
        rng: Rng = None,
    ) -> Self | Marginal:
        """The density of some columns, the others integrated out.

        It is exact, and a flow by itself, where all layers are autoregressive in one order or elementwise (``mixing="none"``,
        ``order=`` of the autoregressive recipes) and the columns are the first of that order: ``p(x_1 ... x_k)`` is the part of
        the flow that reads nothing else, behind the same dimensions of the base, and a column of a group reads those that move
        its ends. Otherwise one or two columns are integrated out numerically, with an error: a circle over a turn, a column of a
        group between the ends that the others leave it. More of them need a proposal. Columns that can be left out exactly
        are, in any case.

        Parameters
        ----------
        columns : str, int, or sequence of these
            By name or position, in the order in which the result has them.
        proposal : object with ``sample(n, rng=)`` and ``log_prob(x)``, optional
            A density q of the columns that have to be integrated out, in the order of the flow, which the message of the error
            lists: a flow, or anything else. The integral is then the mean of ``p / q`` over n draws of it, which are the same for
            all rows. Where the marginal is exact, it is not used.
        n : int, default 10 000
            Draws of the proposal, at least 2.
        tolerance : float, optional
            Largest error of a log-density by quadrature: by default 1e-4 over one column, which takes about a thousand
            evaluations of the flow a row, and 1e-3 over two, which take about a million.
        rng : seed or numpy Generator, optional
            Of the draws of the proposal.

        Returns
        -------
        Flow
            Where it is exact, to rounding: with every verb, to be saved and loaded; of the parameters as they are now.
        Marginal
            Elsewhere: a view with ``log_prob``, ``estimate`` (the same with errors), ``sample``, and for one column ``cdf``,
            ``quantile`` and ``interval``.

        Raises
        ------
        ValueError
            Where more than two columns would have to be integrated out, or any with a ``Uniform`` base on lines, whose pieces
            quadrature may miss, and there is no proposal; for columns that the flow has
            not; where none would be left out. For a flow with a context, unless exact: ``flow.given(context).marginal``.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.nsf_ar(4, mixing="none", order=(2, 0, 1, 3), layers=2, hidden=(8,), rng=0)
        >>> flow.marginal([0, 2]).spec.base
        StandardNormal(dim=2)
        >>> flow.marginal([2, 1])
        Marginal of columns 2, 1: quadrature over column 0
        """
        return self._marginal(columns, None, proposal, n, tolerance, rng)

    def conditional(
        self,
        given: Mapping[Any, float],
        *,
        proposal: Proposal | None = None,
        n: float = 10_000,
        tolerance: float | None = None,
        rng: Rng = None,
    ) -> Conditional:
        """The density of the other columns where some are known: ``p(rest | given) = p(rest, given) / p(given)``.

        The density of what is given is :meth:`marginal`'s: exact where the given columns come first in the one order of all
        autoregressive layers without mixing, and the draws are then exact, too (where the base is a mixture, with its components
        weighed anew); else by quadrature over one or two columns, or by importance sampling. A column of a group lies
        between the ends that the given ones leave it.

        Parameters
        ----------
        given : mapping of columns, by name or position, to numbers
            All but one of the columns at most.
        proposal, n, tolerance, rng
            As for :meth:`marginal`: q is a density of the columns over which p(given) has to be integrated, which need not be all
            that are left.

        Returns
        -------
        Conditional
            A view with ``log_prob``, ``sample``, ``log_evidence`` and its ``error``, and for one column ``cdf``, ``quantile``
            and ``interval``.

        Raises
        ------
        ValueError
            As for :meth:`marginal`, and for values at which the density is 0.
        RuntimeError
            Where quadrature does not reach its tolerance.

        Examples
        --------
        >>> import penstock as ps
        >>> flow = ps.nsf_ar(3, mixing="none", order=(2, 0, 1), layers=2, hidden=(8,), rng=0)
        >>> rest = flow.conditional({2: 0.5})
        >>> rest.method, rest.error, rest.sample(10, rng=0).shape
        ('exact', 0.0, (10, 2))
        """
        return self._conditional(given, None, proposal, n, tolerance, rng)

    # --- inside -------------------------------------------------------------------------------------------------

    def _like(self, spec: FlowSpec, plan: Plan, snapshot: Snapshot) -> Self:
        """A flow of the same class with another plan and other numbers."""
        raise NotImplementedError

    def _marginal(
        self, asked: Any, context: Array | None, proposal: Any, n: Any, tolerance: Any, rng: Any
    ) -> Self | Marginal:
        kept = columns.places(asked, self._columns, self.dim, name="columns")
        tolerance = None if tolerance is None else _validate.positive_number(tolerance, name="tolerance")
        if len(kept) == self.dim:
            raise ValueError("columns must leave some out; those of all are the flow itself")
        closed = self._closure(kept)
        hidden = tuple(i for i in closed if i not in kept)
        if not hidden:
            return self._part(kept)
        self._need(context, "marginal")
        proposed = self._proposed(hidden, proposal, n, rng, "these columns")
        flow = self._part(closed)
        own = [closed.index(i) for i in kept]
        tolerance = tolerance or TOLERANCES[min(len(hidden), MOST) - 1]
        return Marginal(flow, own, context=context, tolerance=tolerance, proposed=proposed)

    def _conditional(
        self, given: Any, context: Array | None, proposal: Any, n: Any, tolerance: Any, rng: Any
    ) -> Conditional:
        if not isinstance(given, Mapping):
            raise TypeError(f"given must be a mapping of columns to numbers, got {type(given).__name__}")
        asked = columns.places(list(given), self._columns, self.dim, name="given")
        known = {
            i: _validate.finite(value, name=f"given[{key!r}]")
            for i, (key, value) in zip(asked, given.items(), strict=True)
        }
        tolerance = None if tolerance is None else _validate.positive_number(tolerance, name="tolerance")
        if len(known) == self.dim:
            raise ValueError("given must leave at least one column, got all of them; flow.log_prob has their density")
        self._need(context, "conditional")
        closed = self._closure(asked)
        hidden = tuple(i for i in closed if i not in known)
        proposed = self._proposed(hidden, proposal, n, rng, "what is given") if hidden else None
        tolerance = tolerance or TOLERANCES[min(len(hidden), MOST) - 1]
        return Conditional(
            self._as_it_is(),
            (self._part(closed), closed),
            known,
            context=context,
            tolerance=tolerance,
            proposed=proposed,
        )

    def _as_it_is(self) -> Self:
        """The whole flow, whatever becomes of this one."""
        twin = self._like(self._spec, self._plan, self._snapshot)
        twin._made = self._made
        return twin

    def _closure(self, kept: Sequence[int]) -> tuple[int, ...]:
        """The smallest closed set that holds some columns, in ascending order."""
        return closure(self._plan, kept)

    def _part(self, places: Sequence[int]) -> Self:
        """The flow of a closed set of columns, in this order."""
        if tuple(places) == tuple(range(self.dim)):
            return self._as_it_is()
        twin = self._like(*restricted(self._spec, self._plan, self._snapshot, places))
        twin._columns = tuple(self._columns[i] for i in places) if self._columns else ()
        twin._lattice = None if self._lattice is None else self._lattice.of(places, twin._spec.support)
        vars(twin).pop("recalibration", None)  # which is of all columns
        return twin

    def _need(self, context: Array | None, verb: str) -> None:
        if self.context_dim and context is None:
            raise ValueError(f"{verb} of a flow with a context is at one context: flow.given(context).{verb}(...)")

    def _ends_abruptly(self) -> bool:
        """Whether the base ends where no support does: a uniform one on lines."""
        kinds, parts = latent_kinds(self._spec), blocks(self._spec.base)
        return any(isinstance(base, Uniform) and kinds[slot] == LINE for base, dims in parts for slot in dims)

    def _proposed(self, hidden: Sequence[int], proposal: Any, n: Any, rng: Any, of: str) -> Proposed | None:
        """Draws of the proposal, with their log-densities; None where quadrature does without."""
        if proposal is None:
            if hidden and self._ends_abruptly():
                raise ValueError(
                    f"the density of {of} needs an integral over {worded(hidden, self._columns)}, and quadrature may miss pieces "
                    "of a density with a ps.Uniform base on lines, which ends abruptly. Give proposal=, a density of these with "
                    "sample(n, rng=) and log_prob, or declare the ends of columns as their support"
                )
            if len(hidden) <= MOST:
                return None
            raise ValueError(
                f"the density of {of} needs an integral over {len(hidden)} others, {worded(hidden, self._columns)}, and "
                f"quadrature takes {MOST} at most. Give proposal=, a density of these with sample(n, rng=) and log_prob, or "
                'train a flow in which the columns come first, ps.nsf_ar(dim, mixing="none", order=...), where it is exact'
            )
        for verb in ("sample", "log_prob"):
            if not callable(getattr(proposal, verb, None)):
                raise TypeError(f"proposal must have sample(n, rng=) and log_prob, got {type(proposal).__name__}")
        count = _validate.draws(n, name="n")
        if len(count) != 1 or count[0] < 2:
            raise ValueError(f"n must be an integer of at least 2, got {n!r}")
        double = np.dtype(np.float64)
        own = proposal.sample(count[0], rng=rng)
        draws = _validate.as_shaped(own, (count[0], len(hidden)), double, name="proposal.sample(n)")
        _validate.all_finite(draws, name="proposal.sample(n)")
        log_q = _validate.as_shaped(proposal.log_prob(own), count, double, name="proposal.log_prob(x)")
        _validate.all_finite(log_q, name="proposal.log_prob(x)")
        order = self._order(hidden, proposal)
        return draws[:, order], log_q

    def _order(self, hidden: Sequence[int], proposal: Any) -> list[int]:
        """The columns of draws in the order of the hidden ones: by name where both have names."""
        names = getattr(proposal, "columns", None)
        if not self._columns or not isinstance(names, tuple):
            return list(range(len(hidden)))
        wanted = [self._columns[i] for i in hidden]
        if set(names) != set(wanted):
            raise ValueError(
                f"proposal must have the columns {columns.listed(wanted)}, and has {columns.listed(names)}"
            )
        return [names.index(name) for name in wanted]
