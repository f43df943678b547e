"""Ensembles: several flows as one density, their weighted mean.

Every verb is ``Verbs``', ``Quantiles``' and ``MonteCarlo``'s, which ask a runner and hand it numbers: an ensemble gives them the
runner of a mixture (``mixture.py``) and the numbers of all members. ``Trained`` has names of columns, ``given`` and files, as for
a flow. What is written here is what a mixture has that a flow has not: members, weights and their spread; the fit of all
members; and the numbers of one dimension that do not go through a runner. What needs a latent side is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from penstock import _backend, _validate
from penstock._typing import Array, ArrayLike, DTypeLike, Rng, RowsLike
from penstock.columns import Names
from penstock.flow import Flow, flow_of
from penstock.histories import EnsembleHistory
from penstock.history import History
from penstock.members_fit import MembersFit, seeds
from penstock.mixed_conditional import MixedConditional
from penstock.mixture import Mixture, Numbers
from penstock.quantiles import bisected
from penstock.runner import Runner
from penstock.trained import free_lock
from penstock.verbs import Batch, _shaped

if TYPE_CHECKING:
    pass

Recipe = Callable[..., Flow]


# Attributes that every ensemble has.
OWN = frozenset(
    ("_flows", "_plan", "_spec", "_backend", "_columns", "_context_columns", "_lattice", "_library", "_missing",
     "_row_shapes", "_context_shape", "_made", "_fit_lock", "_doubled", "_snapshot", "history")
)  # fmt: skip
# What a flow has and an ensemble has not.
REFUSED = ("params", "named_params", "loc", "scale", "spec", "layers", "fit_to_target")


class RefusedError(AttributeError, TypeError):
    """An ensemble was asked for what only flows have. As an AttributeError it is an answer to ``hasattr``, too."""


def _refused(name: str) -> NoReturn:
    raise RefusedError(
        f"an ensemble has no {name}: its members have latent sides and parameters of their own; ensemble.members are flows"
    )


def _refusing(name: str) -> Any:
    """A verb that is refused."""

    def verb(self: Ensemble, *_: Any, **__: Any) -> NoReturn:
        _refused(name)

    verb.__name__, verb.__qualname__ = name, f"Ensemble.{name}"
    verb.__doc__ = "Refused: an ensemble has no latent side; ``ensemble.members`` are flows."
    return verb


class Ensemble(MembersFit):
    """Several flows as one density: ``p(x | c) = sum_k w_k p_k(x | c)``, with weights that are equal or fitted.

    Members that were trained from different starts and on different splits differ most where the data say little. Their mean is
    wider there than each of them, and so closer to what is known.

    Parameters
    ----------
    flow_or_recipe : Flow, callable, or sequence of Flow
        An unfitted flow: all members have its spec, each with first parameters of its own. A recipe, called as
        ``recipe(rng=seed)``, which returns an unfitted flow: permutations and orders then differ between members, too. Or the
        members themselves, which are copied.
    n : int, default 4
        Number of members, 4096 at most; with a sequence it is its length.
    rng : seed or numpy Generator, optional
        What ``numpy.random.default_rng`` takes; decides the members' first parameters. That of member ``k`` is the ``k``-th
        number of ``numpy.random.SeedSequence(penstock.key(rng)).generate_state(n, "uint64")``.

    Raises
    ------
    ValueError, TypeError
        When members do not agree in dimensions, dtype, supports, names of columns and lattice, there are too many of them, or the
        flow is fitted.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> X = np.random.default_rng(0).normal(size=(500, 2))
    >>> ensemble = ps.Ensemble(ps.realnvp(2, layers=2, hidden=(8,), rng=0), 3, rng=0)
    >>> ensemble.fit(X, epochs=2, rng=0).log_prob(X[:5]).shape
    (5,)
    >>> ensemble.n, ensemble.weights.round(3).tolist()
    (3, [0.333, 0.333, 0.333])
    >>> ps.Ensemble(lambda rng: ps.nsf(2, layers=2, hidden=(8,), rng=rng), 2, rng=0).sample(4).shape
    (4, 2)

    Notes
    -----
    One ensemble may be used from many threads at once, as a :class:`Flow`.
    """

    _word = "ensemble"

    def __init__(self, flow_or_recipe: Flow | Recipe | Sequence[Flow], n: int = 4, *, rng: Rng = None) -> None:
        self._setup(_built(flow_or_recipe, n, rng))

    def _setup(self, flows: Sequence[Flow], weights: Array | None = None) -> Self:
        """``flows`` become the ensemble's own."""
        _check_number(len(flows))
        told = [_differences(flows[0], flow) for flow in flows]
        for k, words in enumerate(told):
            if words:
                raise ValueError(f"members 0 and {k} do not belong together: they have {'; '.join(words)}")
        first = flows[0]
        self._flows = tuple(flows)  # specs and runners; what the numbers are says the snapshot
        self._plan, self._spec, self._backend = first._plan, first._spec, first._backend
        self._columns, self._context_columns, self._lattice = first._columns, first._context_columns, first._lattice
        self._library, self._missing = first._library, first._missing
        self._row_shapes, self._context_shape = first._row_shapes, first._context_shape
        self._made: Runner | None = None
        self._fit_lock = free_lock()
        self._doubled: tuple[Numbers, tuple[Flow, ...]] | None = None
        self.history = EnsembleHistory([flow.history.copy() for flow in flows])
        if weights is None:
            weights = np.full(len(flows), 1 / len(flows))
        self._snapshot: Any = Numbers([flow._snapshot for flow in flows], weights)
        return self

    # --- inspecting ---------------------------------------------------------------------------------------------

    @property
    def members(self) -> tuple[Flow, ...]:
        """The flows, as copies: what is done to one of them does not touch the ensemble."""
        return self._members(self._snapshot, self.history.members)

    @property
    def weights(self) -> Array:
        """The weights of the members, a read-only float64 array of shape (n,) whose sum is 1.

        Assigning numbers of at least 0, of which only ratios matter, replaces them; ``fit`` sets them anew.
        """
        weights: Array = self._snapshot.weights[:]
        return weights

    @weights.setter
    def weights(self, values: ArrayLike) -> None:
        found = _validate.as_shaped(values, (self.n,), np.dtype(np.float64), name="weights")
        _validate.all_finite(found, name="weights")
        if (found < 0).any() or not found.sum() > 0:
            raise ValueError(f"weights must be at least 0, with a positive sum, got {found.tolist()}")
        scaled = found / found.max()
        self._snapshot = Numbers(self._snapshot.members, scaled / scaled.sum())

    @property
    def n(self) -> int:
        """Number of members."""
        return len(self._flows)

    @property
    def backend(self) -> str:
        """What computes, as :attr:`Flow.backend`."""
        return self._flows[0].backend

    @property
    def n_params(self) -> int:
        """Sum over members of the lengths of their ``params``: what gradients of parameters are long, member after member."""
        return sum(flow.n_params for flow in self._flows)

    @property
    def n_free(self) -> int:
        """Sum over members of their trainable numbers."""
        return sum(flow.n_free for flow in self._flows)

    @property
    def fitted(self) -> bool:
        """Whether all members are fitted; a further fit goes on from there."""
        fitted: bool = self._snapshot.initialised
        return fitted

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        dim = f"{self.dim} dimension{'' if self.dim == 1 else 's'}"
        given = f" given {self.context_dim}" if self.context_dim else ""
        state = "fitted (a further fit is a warm start)" if self.fitted else "not fitted"
        weights = ", ".join(f"{weight:.3g}" for weight in self._snapshot.weights)
        first = f"Ensemble of {self.n} flows of {dim}{given}, {self.n_free:,} parameters, {self.dtype.name}, {state}"
        _, *rest = repr(self.members[0]).split("\n")
        return "\n".join([first, f"  weights   {weights}", *(["  member 0"] + ["  " + line for line in rest])])

    def _repr_html_(self) -> str:
        """A few lines for notebooks, whose cells often end with a fit; the whole of ``repr`` is folded."""
        from penstock import _html

        whole = repr(self)
        first, second, *_ = whole.split("\n")
        lines = [first.removeprefix("Ensemble "), second.strip()]
        if any(len(own) for own in self.history):
            lines.append(f"last fit: {self.history}")
        return _html.block("Ensemble", lines, "members and backend", whole)

    # --- what members say ---------------------------------------------------------------------------------------

    def spread(self, X: RowsLike, context: RowsLike | None = None) -> Any:
        """How much the members differ, a row: the standard deviation over members of their log-densities.

        ``sqrt(sum_k w_k (log p_k(x) - m)^2)`` with ``m = sum_k w_k log p_k(x)``. It is small where the data
        have decided, and large where a single flow should not be trusted.

        Parameters
        ----------
        X, context
            As for :meth:`log_prob`.

        Returns
        -------
        float64 scalar, or array of shape (rows,), (m, n) or (m,)
            In nats. 0 where all members have density 0, infinity where some have; NaN for a row that holds NaN.

        Examples
        --------
        >>> import penstock as ps
        >>> fresh = ps.Ensemble(ps.realnvp(2, rng=0), 2, rng=0)  # all members are the standard normal
        >>> fresh.spread([[0.0, 0.0], [1.0, 2.0]]).tolist()
        [0.0, 0.0]
        """
        batch = self._batch(X, context, "X")
        runner = self._runner()
        assert isinstance(runner, Mixture)
        packed = self._snapshot.pack(runner)
        values, weights = runner.each(packed, batch.x, batch.context), packed.weights[:, None]
        counted = weights[:, 0] > 0
        values, weights = values[counted], weights[counted]
        with np.errstate(all="ignore"):
            mean = (weights * values).sum(axis=0)
            spread = np.sqrt((weights * (values - mean) ** 2).sum(axis=0))
        empty = values == -np.inf
        spread[empty.all(axis=0)] = 0
        spread[empty.any(axis=0) & ~empty.all(axis=0)] = np.inf
        spread[np.isnan(values).any(axis=0)] = np.nan
        return _shaped(spread, batch.shape)

    # --- copies and files ---------------------------------------------------------------------------------------

    def copy(self) -> Self:
        """An ensemble with the same numbers; what happens to one of the two does not touch the other.

        Returns
        -------
        Ensemble

        Examples
        --------
        >>> import penstock as ps
        >>> ensemble = ps.Ensemble(ps.realnvp(2, rng=0), 2, rng=0)
        >>> twin = ensemble.copy()
        >>> twin.weights = [3, 1]
        >>> ensemble.weights.tolist(), twin.weights.tolist()
        ([0.5, 0.5], [0.75, 0.25])
        """
        return self._with(self.members)

    def to(self, backend: str) -> Self:
        """A copy that another backend computes, as :meth:`Flow.to`.

        Parameters
        ----------
        backend : {"auto", "cpp", "numba", "cuda"}

        Returns
        -------
        Ensemble

        Examples
        --------
        >>> import penstock as ps
        >>> ensemble = ps.Ensemble(ps.realnvp(2, rng=0), 2, rng=0)
        >>> ensemble.to("auto").backend == ensemble.backend
        True
        """
        chosen = _backend.choose(backend)
        return self._with([member._on(chosen, backend) for member in self.members])

    def reset(self, rng: Rng = None) -> Self:
        """Forget all training, as :meth:`Flow.reset` does for each member; weights are equal then.

        Parameters
        ----------
        rng : seed or numpy Generator, optional
            With the seed that the ensemble was built with, the parameters are those it had then.

        Returns
        -------
        Ensemble
            The ensemble itself.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> ensemble = ps.Ensemble(ps.realnvp(2, layers=2, hidden=(8,), rng=0), 2, rng=0)
        >>> X = np.random.default_rng(0).normal(size=(200, 2))
        >>> ensemble.fit(X, epochs=1).reset(0).fitted
        False
        """
        members = [
            member.reset(seed) for member, seed in zip(self.members, seeds(_validate.seed(rng), self.n), strict=True)
        ]
        self._take(members)
        self._missing = None
        return self

    def astype(self, dtype: DTypeLike) -> Self:
        """A copy in another precision, as :meth:`Flow.astype`.

        Parameters
        ----------
        dtype : {"float32", "float64"}

        Returns
        -------
        Ensemble

        Examples
        --------
        >>> import penstock as ps
        >>> ps.Ensemble(ps.realnvp(2, rng=0), 2).astype("float64").dtype
        dtype('float64')
        """
        return self._with([member.astype(dtype) for member in self.members])

    def to_bytes(self) -> bytes:
        """The ensemble as the bytes of its file; :func:`from_bytes` reads them.

        Returns
        -------
        bytes

        Examples
        --------
        >>> import penstock as ps
        >>> ensemble = ps.Ensemble(ps.realnvp(2, rng=0), 3, rng=0)
        >>> ps.from_bytes(ensemble.to_bytes()).n
        3
        """
        return self._bytes(self.history.members)

    def _bytes(self, histories: Sequence[History | None]) -> bytes:
        from penstock.files import members

        names = self._columns, self._context_columns
        contents = [member._contents(history, names) for member, history in zip(self.members, histories, strict=True)]
        return members.to_bytes(members.Several(tuple(contents), self._snapshot.weights, self.history.validation_loss))

    def __reduce__(self) -> tuple[Any, ...]:
        state = {"history": self.history, "_library": self._library, **self._attributes()}
        return _unpickle, (type(self), self._bytes([None] * self.n), self._flows[0]._asked), state

    # --- inside -------------------------------------------------------------------------------------------------

    def _take(self, members: Sequence[Flow], weights: Array | None = None) -> None:
        """Go on with the numbers of fitted members."""
        first = members[0]
        if weights is None:
            weights = np.full(self.n, 1 / self.n)
        self._columns, self._context_columns, self._lattice = first._columns, first._context_columns, first._lattice
        self._library = first._library or self._library
        self._snapshot = Numbers([member._snapshot for member in members], weights)
        self.history = EnsembleHistory([member.history for member in members])
        self._forget_recalibration()

    def _members(self, snapshot: Numbers, histories: Sequence[History]) -> tuple[Flow, ...]:
        """Flows of their own with some numbers."""
        names: tuple[Names, Names] = self._columns, self._context_columns
        each = zip(self._flows, snapshot.members, histories, strict=True)
        flows = tuple(flow._with(own, history.copy(), names, self._lattice) for flow, own, history in each)
        for flow in flows:
            flow._missing, flow._library = self._missing, self._library
        return flows

    def _flows_and_weights(self) -> tuple[Sequence[Flow], Array]:
        return self.members, self.weights

    def _rebuilt(self, parts: Sequence[Any]) -> Self:
        return self._with([flow._rebuilt([own]) for flow, own in zip(self.members, parts, strict=True)])

    def _with(self, members: Sequence[Flow]) -> Self:
        """A copy with other members, and the same weights."""
        twin: Self = object.__new__(type(self))
        twin._setup(members, self._snapshot.weights)
        twin.history.validation_loss = self.history.validation_loss
        vars(twin).update(self._attributes())
        return twin

    def _attributes(self) -> dict[str, Any]:
        """Attributes that a subclass or a user has added."""
        return {name: value for name, value in vars(self).items() if name not in OWN}

    def _runner(self) -> Runner:
        if self._made is None:
            self._made = Mixture([flow._runner() for flow in self._flows])
        return self._made

    def _own(self, *, double: bool) -> tuple[Flow, ...]:
        """The members as flows that nobody else has, on demand in float64; kept while the numbers stay."""
        snapshot: Numbers = self._snapshot
        kept = self._doubled
        if kept is None or kept[0] is not snapshot:
            kept = self._doubled = snapshot, self._members(snapshot, [History()] * self.n)
        if double and self.dtype != np.float64:
            return tuple(flow._double() for flow in kept[1])
        return kept[1]

    def _in_double(self) -> tuple[Runner, Any]:
        flows, snapshot = self._own(double=True), self._snapshot
        runner = Mixture([flow._runner() for flow in flows])
        return runner, Numbers([flow._snapshot for flow in flows], snapshot.weights).pack(runner)

    def _below(self, batch: Batch) -> Array:
        parts = zip(self._snapshot.weights, self._own(double=False), strict=True)
        total: Array = np.zeros(len(batch.x))
        for weight, flow in parts:
            total += weight * flow._below(batch)
        return total

    def _rows_below(self, u: Array, context: Any) -> Array:
        """Rows below which shares of the mass lie: by bisection between the least and the greatest of the members."""
        given = self._named_context(context)
        flows = [
            flow for flow, weight in zip(self._own(double=False), self._snapshot.weights, strict=True) if weight > 0
        ]
        ends = np.stack([flow._rows_below(u, given) for flow in flows])

        def below(x: Array) -> Array:
            return self._below(self._batch(x, given, "z")).reshape(x.shape)

        return bisected(below, ends.min(axis=0), ends.max(axis=0), np.broadcast_to(u, ends.shape[1:-1])[..., None])

    # --- fewer columns ------------------------------------------------------------------------------------------

    def _closure(self, kept: Sequence[int]) -> tuple[int, ...]:
        """The smallest set of columns that is closed for every member."""
        closed = tuple(kept)
        for _ in range(self.dim):
            for flow in self._flows:
                closed = flow._closure(closed)
        return closed

    def _conditional(self, given: Any, context: Array | None, proposal: Any, n: Any, tolerance: Any, rng: Any) -> Any:
        seed = _validate.seed(rng)
        each = zip(self.members, self._snapshot.weights, strict=True)
        own = [(member, weight) for member, weight in each if weight > 0]
        views = [member._conditional(given, context, proposal, n, tolerance, seed) for member, _ in own]
        return MixedConditional(views, np.array([weight for _, weight in own]))

    def _part(self, places: Sequence[int]) -> Self:
        twin = self._with([member._part(places) for member in self.members])
        if tuple(places) != tuple(range(self.dim)):
            twin._forget_recalibration()
        return twin

    def _as_it_is(self) -> Self:
        return self.copy()

    def _ends_abruptly(self) -> bool:
        return any(flow._ends_abruptly() for flow in self._flows)

    # --- what an ensemble has not -------------------------------------------------------------------------------

    to_latent = _refusing("to_latent")
    to_data = _refusing("to_data")
    to_latent_vjp = _refusing("to_latent_vjp")
    to_data_vjp = _refusing("to_data_vjp")
    prior_transform = _refusing("prior_transform")

    def __getattr__(self, name: str) -> Any:
        if name in REFUSED:
            _refused(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _built(source: Any, n: Any, rng: Rng) -> list[Flow]:
    """The members that an ensemble begins with."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise ValueError("an ensemble needs members, got none")
        for k, flow in enumerate(source):
            _validate.instance(flow, (Flow,), name=f"flow_or_recipe[{k}]")
        return list(source)
    n = _validate.positive_int(n, name="n")
    _check_number(n)
    children = seeds(_validate.seed(rng), n)
    if isinstance(source, Flow):
        if source.fitted:
            raise ValueError(
                "flow_or_recipe must be an unfitted flow, whose spec all members share; members that are fitted go in a list"
            )
        return [source.copy().reset(child) for child in children]
    if not callable(source):
        raise TypeError(
            f"flow_or_recipe must be an unfitted Flow, a recipe(rng=seed) or a list of flows, got {type(source).__name__}"
        )
    flows = [source(rng=child) for child in children]
    for flow in flows:
        if not isinstance(flow, Flow):
            raise TypeError(f"flow_or_recipe(rng=seed) must return a Flow, got {type(flow).__name__}")
    return flows


def _check_number(n: int) -> None:
    from penstock.files import members

    members.check_number(n)


def _differences(first: Flow, other: Flow) -> list[str]:
    from penstock.files import members

    return members.differences(first._contents(None), other._contents(None))


def ensemble_of(contents: Any, backend: str, cls: type[Ensemble] = Ensemble) -> Ensemble:
    """An ensemble from what a file holds."""
    ensemble = object.__new__(cls)
    ensemble._setup([flow_of(own, backend) for own in contents.members], contents.weights)
    ensemble.history.validation_loss = contents.validation_loss
    return ensemble


def _unpickle(cls: type[Ensemble], data: bytes, backend: str) -> Ensemble:
    """An ensemble from its pickle."""
    from penstock.files import members

    return ensemble_of(members.from_bytes(memoryview(data)), backend, cls)
