"""A flow at one context: every verb, without the argument."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from penstock import device_verbs
from penstock._typing import Array, ArrayLike, Rng, RowsLike
from penstock.accepting import Condition
from penstock.conditionals import Conditional
from penstock.marginals import Marginal
from penstock.montecarlo import Estimate
from penstock.parts import Column, Parts, Proposal
from penstock.runner import Runner
from penstock.state import Snapshot
from penstock.verbs import Verbs


class Given:
    """A view of a flow at one context, which ``flow.given(context)`` makes.

    It has the verbs of the flow without their ``context``, and gives the same bits. A view sees what becomes of its flow: after
    a ``fit`` it speaks of the new parameters.

    Attributes
    ----------
    flow : Flow
    context : array of shape (context_dim,), read-only
        In the order of ``flow.context_columns``.

    Examples
    --------
    >>> import numpy as np
    >>> import penstock as ps
    >>> flow = ps.realnvp(2, context_dim=1, rng=0)
    >>> posterior = flow.given([0.5])
    >>> posterior.sample(3, rng=0).shape
    (3, 2)
    >>> X = np.ones((4, 2))
    >>> bool((posterior.log_prob(X) == flow.log_prob(X, [0.5])).all())
    True
    """

    def __init__(self, flow: Parts, context: Array) -> None:
        self.flow = flow
        self.context = np.array(context)
        self.context.flags.writeable = False
        self._verbs = _Conditioned(flow, self.context)

    def __reduce__(self) -> tuple[Any, ...]:
        return Given, (self.flow, self.context)

    def __repr__(self) -> str:
        flow = self.flow
        names = flow._context_columns or [str(i) for i in range(flow.context_dim)]
        words = ", ".join(f"{name}={value:g}" for name, value in zip(names, self.context, strict=True))
        return f"{flow._word.capitalize()} of {flow.dim} dimension{'' if flow.dim == 1 else 's'} given {words}"

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.flow.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of results."""
        return self.flow.dtype

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the dimensions, or None."""
        return self.flow._columns or None

    @property
    def lattice(self) -> dict[int | str, float] | None:
        """Steps of the columns that have a lattice, as ``Flow.lattice``."""
        found: dict[int | str, float] | None = getattr(self.flow, "lattice", None)
        return found

    def log_prob(self, X: RowsLike, *, out: Array | None = None, stream: int | None = None) -> Any:
        """The log-density of rows given the context, as ``Flow.log_prob``."""
        return self._verbs.log_prob(X, out=out, stream=stream)

    def score(self, X: RowsLike, *, sample_weight: ArrayLike | None = None, stream: int | None = None) -> float:
        """The mean log-density of rows given the context, as ``Flow.score``."""
        return self._verbs.score(X, sample_weight=sample_weight, stream=stream)

    def to_latent(self, X: RowsLike, *, stream: int | None = None) -> tuple[Array, Any]:
        """Map rows to the latent side, as ``Flow.to_latent``."""
        return self._verbs.to_latent(X, stream=stream)

    def to_data(self, z: ArrayLike, *, stream: int | None = None) -> tuple[Array, Any]:
        """Map rows to the data side, as ``Flow.to_data``."""
        return self._verbs.to_data(z, stream=stream)

    def sample(
        self,
        n: float | tuple[int, ...] | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        out: Array | None = None,
        first: int = 0,
        first_context: int = 0,
        raw: bool = False,
        where: Condition | None = None,
        stream: int | None = None,
    ) -> Array:
        """Draw rows given the context, as ``Flow.sample``."""
        return self._verbs.sample(
            n, rng=rng, key=key, out=out, first=first, first_context=first_context, raw=raw, where=where, stream=stream
        )

    def sample_and_log_prob(
        self,
        n: float | tuple[int, ...] | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        first: int = 0,
        first_context: int = 0,
        raw: bool = False,
        stream: int | None = None,
    ) -> tuple[Array, Any]:
        """Draw rows given the context, with their log-density, as ``Flow.sample_and_log_prob``."""
        return self._verbs.sample_and_log_prob(
            n, rng=rng, key=key, first=first, first_context=first_context, raw=raw, stream=stream
        )

    def sample_frame(
        self,
        n: float | None = None,
        *,
        rng: Rng = None,
        key: int | None = None,
        raw: bool = False,
        library: str | None = None,
    ) -> Any:
        """Draw rows given the context into a DataFrame, as ``Flow.sample_frame``."""
        return self.flow.sample_frame(n, self.context, rng=rng, key=key, raw=raw, library=library)

    def log_prob_and_grad(
        self, X: RowsLike, wrt: str | Sequence[str] = "x", *, stream: int | None = None
    ) -> tuple[Any, Any]:
        """The log-density of rows given the context, and its gradient, as ``Flow.log_prob_and_grad``."""
        if isinstance(wrt, str) and wrt == "x":
            return self._verbs.log_prob_and_grad(X, stream=stream)
        return self.flow.log_prob_and_grad(X, self._beside(X), wrt, stream=stream)

    def log_prob_vjp(
        self, X: RowsLike, dlogp: ArrayLike, *, stream: int | None = None
    ) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``log_prob``, as ``Flow.log_prob_vjp``."""
        return self.flow.log_prob_vjp(X, dlogp, self._beside(X), stream=stream)

    def to_latent_vjp(
        self, X: RowsLike, dz: ArrayLike | None, dlog_det: ArrayLike | None, *, stream: int | None = None
    ) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``to_latent``, as ``Flow.to_latent_vjp``."""
        return self.flow.to_latent_vjp(X, dz, dlog_det, self._beside(X), stream=stream)

    def to_data_vjp(
        self, z: ArrayLike, dX: RowsLike | None, dlog_det: ArrayLike | None, *, stream: int | None = None
    ) -> tuple[Array, Array, Array | None]:
        """Vector-Jacobian product of ``to_data``, as ``Flow.to_data_vjp``."""
        return self.flow.to_data_vjp(z, dX, dlog_det, self._beside(z), stream=stream)

    def loss_and_grad(
        self, X: RowsLike, sample_weight: ArrayLike | None = None, *, stream: int | None = None
    ) -> tuple[float, float, Array]:
        """Sum of weighted negative log-densities, and its gradient, as ``Flow.loss_and_grad``."""
        return self.flow.loss_and_grad(X, self._beside(X), sample_weight, stream=stream)

    def _beside(self, rows: Any) -> Any:
        """The context on the side of some rows: of the host, or of the flow's device."""
        if not device_verbs.concerned(None, rows):
            return self.context
        return device_verbs.DeviceVerbs(self.flow).uploaded(self.context)

    def cdf(self, x: RowsLike) -> Any:
        """The distribution function given the context, as ``Flow.cdf``."""
        return self.flow.cdf(x, self.context)

    def quantile(self, u: ArrayLike) -> Array:
        """Its inverse, as ``Flow.quantile``."""
        return self.flow.quantile(u, self.context)

    def interval(self, level: float, *, shortest: bool = False) -> Array:
        """An interval of a share of the mass given the context, as ``Flow.interval``."""
        return self.flow.interval(level, self.context, shortest=shortest)

    def prior_transform(self, u: ArrayLike) -> Array:
        """Map the unit cube to data given the context, as ``Flow.prior_transform``."""
        return self.flow.prior_transform(u, self.context)

    def entropy(self, n: float = 10_000, *, rng: Rng = None) -> Estimate:
        """The entropy given the context, as ``Flow.entropy``."""
        return self.flow.entropy(n, self.context, rng=rng)

    def marginal(
        self,
        columns: Column | Iterable[Column],
        *,
        proposal: Proposal | None = None,
        n: float = 10_000,
        tolerance: float | None = None,
        rng: Rng = None,
    ) -> Given | Marginal:
        """The density of some columns given the context, as ``Flow.marginal``; a flow is then one at the context."""
        part = self.flow._marginal(columns, self.context, proposal, n, tolerance, rng)
        return part if isinstance(part, Marginal) else Given(part, self.context)

    def conditional(
        self,
        given: Mapping[Any, float],
        *,
        proposal: Proposal | None = None,
        n: float = 10_000,
        tolerance: float | None = None,
        rng: Rng = None,
    ) -> Conditional:
        """The other columns where some are known, too, as ``Flow.conditional``."""
        return self.flow._conditional(given, self.context, proposal, n, tolerance, rng)

    def acceptance(self, where: Condition, n: float = 10_000, *, rng: Rng = None) -> Estimate:
        """The share of draws given the context that a condition accepts, as ``Flow.acceptance``."""
        return self.flow.acceptance(where, n, self.context, rng=rng)


class _Conditioned(Verbs):
    """The verbs that need no context any more: what it contributes to the first layers is part of the packed numbers."""

    _context_columns = ()
    _context_shape = (0,)

    def __init__(self, flow: Verbs, context: Array) -> None:
        self._flow, self._plan, self._row_shapes = flow, flow._plan, flow._row_shapes
        self._numbers = _Numbers(flow, context)

    @property
    def context_dim(self) -> int:
        """None is left."""
        return 0

    @property
    def _snapshot(self) -> Any:  # type: ignore[override]
        return self._numbers

    @property
    def _made(self) -> Any:  # type: ignore[override]
        return self._flow._made

    @property
    def _columns(self) -> Any:  # type: ignore[override]
        return self._flow._columns

    @property
    def _lattice(self) -> Any:  # type: ignore[override]
        return self._flow._lattice

    @property
    def _library(self) -> Any:  # type: ignore[override]
        return self._flow._library

    def _runner(self) -> Runner:
        return self._flow._runner()


class _Numbers:
    """The packed numbers of a flow at one context, of the flow's present snapshot."""

    def __init__(self, flow: Verbs, context: Array) -> None:
        self._flow, self._context = flow, context
        self._kept: tuple[Snapshot, Any] | None = None

    @property
    def packed(self) -> Any:
        """What ``pack`` gave, while it is of the present snapshot; else None."""
        kept = self._kept
        return kept[1] if kept is not None and kept[0] is self._flow._snapshot else None

    def pack(self, runner: Runner) -> Any:
        """The packed form, made at its first use for each snapshot."""
        snapshot, kept = self._flow._snapshot, self._kept
        if kept is None or kept[0] is not snapshot:
            kept = self._kept = snapshot, runner.with_context(snapshot.pack(runner), self._context)
        return kept[1]
