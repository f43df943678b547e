"""The fit of an ensemble: what goes through the front door once, what each member gets of it, and what comes of all of them.

The threads on which members train, and their turns, are ``training/members.py``'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from penstock import _validate
from penstock._typing import Array, Rng, RowsLike
from penstock.flow import Callback, Flow
from penstock.histories import EnsembleHistory
from penstock.history import History
from penstock.mixture import Mixture, Numbers
from penstock.trained import Trained

if TYPE_CHECKING:
    from penstock.training import Checkpoint, Data, Shelf, Team, Turn


class MembersFit(Trained):
    """The verb that trains all members of an ensemble, which somebody else keeps."""

    history: EnsembleHistory

    @property
    def members(self) -> tuple[Flow, ...]:
        """The flows, as copies."""
        raise NotImplementedError

    @property
    def n(self) -> int:
        """Number of members."""
        raise NotImplementedError

    def _take(self, members: Sequence[Flow], weights: Array | None = None) -> None:
        """Go on with the numbers of fitted members."""
        raise NotImplementedError

    def _with(self, members: Sequence[Flow]) -> Self:
        """A copy with other members, and the same weights."""
        raise NotImplementedError

    def fit(
        self,
        X: RowsLike,
        context: RowsLike | None = None,
        *,
        bootstrap: bool = False,
        rng: Rng = None,
        **options: Any,
    ) -> Self:
        """Train every member as :meth:`Flow.fit` does, each from its own start and on its own split, and return the ensemble.

        Members train side by side on Python threads, as many at a time as :func:`num_threads` allows, and take turns where there
        are more of them. The bits are those of members that are trained one by one.

        Parameters
        ----------
        X, context
            As for :meth:`Flow.fit`.
        bootstrap : bool, default False
            Whether each member has rows of its own, as many as there are, drawn with replacement: a row that is drawn k times
            counts k times, so that no copies of it lie on both sides of a split.
        rng : seed or numpy Generator, optional
            Decides the seeds of the members, as for the ensemble itself: member ``k`` comes out as :meth:`Flow.fit` with its
            seed alone would have it, bit for bit.
        **options
            All else that :meth:`Flow.fit` takes, and means there, but that ``epochs`` is by default as many as make 38 400
            steps, at most 60. Where ``validation`` gives rows, none of which a member trains on, the weights of the members are
            those that maximise the ensemble's likelihood of them, where each member is worth two rows from the start, so that
            few rows do not leave one alone; otherwise they are equal. Of columns that ``dequantize`` takes, all members have one
            lattice. ``progress`` shows one bar of all members. ``callbacks`` are called in the caller's thread, for each epoch
            of each member, of which ``state.member`` is the number; training of that member stops when one returns True. A
            ``checkpoint`` is one file, of an ensemble.

        Returns
        -------
        Ensemble
            The ensemble itself; ``ensemble.history`` holds the record, an :class:`EnsembleHistory`.

        Raises
        ------
        TrainingError, ValueError, TypeError, RuntimeError
            As :meth:`Flow.fit` does. The error of one member stops the others. Whatever is raised, the ensemble is as it was
            before the call; ``best`` of the error is then an ensemble of what each member had reached, or None where one had
            nothing, and ``history`` an :class:`EnsembleHistory`.

        Warns
        -----
        DataWarning, TrainingWarning
            As :meth:`Flow.fit` does, with the number of the member.

        Notes
        -----
        Ctrl-C stops all members soon, and each keeps the best that it has, as in :meth:`Flow.fit`. Before all of them have taken
        their first steps it raises KeyboardInterrupt.

        Examples
        --------
        >>> import numpy as np
        >>> import penstock as ps
        >>> X = np.random.default_rng(0).normal(size=(500, 2))
        >>> ensemble = ps.Ensemble(ps.realnvp(2, layers=2, hidden=(8,), rng=0), 2, rng=0).fit(X, epochs=2, rng=1)
        >>> ensemble.score(X) > -3
        True
        """
        from penstock import training

        if not isinstance(bootstrap, (bool, np.bool_)):
            raise TypeError(f"bootstrap must be True or False, got {bootstrap!r}")
        members = self.members
        team: Team | None = None
        with self._fitting():
            try:
                data = training.training_data(
                    X, context, options.pop("sample_weight", None), options.pop("validation", 0.1),
                    options.pop("validation_context", None), options.pop("validation_weight", None), dim=self.dim,
                    context_dim=self.context_dim, columns=self._columns, context_columns=self._context_columns,
                    negative_weights=options.pop("negative_weights", False),
                )  # fmt: skip
                if options.get("dequantize") is not None:
                    # Once for all: in the rows that one member has drawn, a column may look like another lattice.
                    data.check_finite()
                    options["dequantize"] = training.lattice_of(
                        data, options["dequantize"], self._lattice, self._spec.support,
                        fitted=any(member.fitted for member in members),
                    )  # fmt: skip
                if options.get("epochs") is None:
                    batch_size = options.get("batch_size")
                    if batch_size is not None:
                        _validate.positive_int(batch_size, name="batch_size")
                    options["epochs"] = training.default_epochs(data.n_train, batch_size, member=True)
                calls = _validate.callables(options.pop("callbacks", ()), name="callbacks")
                shelf = self._shelf(members, options)
                seed = _validate.seed(rng) if rng is not None or shelf is None or shelf.seed is None else shelf.seed
                jobs = [
                    _job(
                        member,
                        data,
                        own,
                        calls,
                        options,
                        None if shelf is None else shelf.checkpoint(k, seed),
                        bootstrap,
                    )
                    for k, (member, own) in enumerate(zip(members, seeds(seed, self.n), strict=True))
                ]
                team = training.Team(self.n, options.pop("progress", None))
                team.train(jobs)
                whole = options.get("standardize", True) is not True  # no rows are left out
                weights, loss = self._fitted_weights(members, data, seed, whole)
            except BaseException as error:
                errors = [error] * self.n if team is None else team.errors
                with suppress(Exception):  # an error that takes no attributes
                    error.best, error.history = self._rescued(members, errors)  # type: ignore[attr-defined]
                raise
            self._take(members, weights)
            self.history.validation_loss = loss
            self._library = data.library or self._library
            if shelf is not None and "interrupted" not in {own.stopped for own in self.history}:
                shelf.save(self.to_bytes())
        return self

    def _shelf(self, members: Sequence[Flow], options: dict[str, Any]) -> Shelf | None:
        """The file that keeps the runs of all members, if one was asked for."""
        kept = Flow._checkpoint(
            options.pop("checkpoint", None), options.pop("checkpoint_every", None), options.pop("resume", True)
        )
        if kept is None:
            return None
        from penstock import training

        return training.Shelf(
            kept.path,
            every=kept.every,
            resume=kept.resume,
            starts=[member._contents(None) for member in members],
        )

    def _fitted_weights(
        self, members: Sequence[Flow], data: Data, seed: int, whole: bool
    ) -> tuple[Array | None, float]:
        """The weights for members that are fitted, and the loss of the ensemble on validation rows that all have in common."""
        if data.held_out is None:
            return None, math.nan
        from penstock.training import mixture_weights, outliers
        from penstock.training.dequantize import noised
        from penstock.training.supports import on_line

        runner = Mixture([member._runner() for member in members])
        snapshots = [member._snapshot for member in members]
        rows = noised(data.held_out, members[0]._lattice, seed, 1)
        for own in () if whole else snapshots:  # as members do, of which each has a standardisation of its own
            line = on_line(rows, own.buffers, self._spec.support, self._spec.context_support)
            far = outliers.far_held_out(line, own.buffers)
            rows = rows.without(far) if len(far) else rows
        x, weight = rows.x[:], rows.weight
        equal = Numbers(snapshots, np.full(self.n, 1 / self.n)).pack(runner)
        _, shares = runner.shared(equal, x, rows.context, np.float64)
        weights = mixture_weights(shares, weight)
        log_prob = runner.log_prob(
            Numbers(snapshots, weights).pack(runner), x, rows.context, dtype=np.dtype(np.float64)
        )
        with np.errstate(all="ignore"):
            counted = slice(None) if weight is None else weight != 0
            loss = -np.average(log_prob[counted], weights=None if weight is None else weight[counted])
        return weights, float(loss)

    def _rescued(
        self, members: Sequence[Flow], errors: Sequence[BaseException | None]
    ) -> tuple[Self | None, EnsembleHistory]:
        """What members had reached before an error: those that had ended well, and the best of the others."""
        best = [
            member if error is None else getattr(error, "best", None)
            for member, error in zip(members, errors, strict=True)
        ]
        histories = [
            member.history if error is None else getattr(error, "history", History(stopped="failed"))
            for member, error in zip(members, errors, strict=True)
        ]
        found = [own for own in best if isinstance(own, Flow)]
        return self._with(found) if len(found) == self.n else None, EnsembleHistory(histories)


def _job(
    member: Flow, data: Data, seed: int, calls: Sequence[Callback], options: dict[str, Any], kept: Checkpoint | None,
    bootstrap: bool,
) -> Callable[[Turn], Any]:  # fmt: skip
    """What trains a member, in a thread of its own."""
    from penstock import training

    def job(turn: Turn) -> None:
        def called(call: Callback) -> Callback:
            return lambda state: turn.team.ask(lambda: call(replace(state, member=turn.member)))

        rows: Any = training.bootstrapped(data, seed) if bootstrap else data
        own: Any = {"progress": turn, "checkpoint": kept, "callbacks": [called(call) for call in calls]}
        member.fit(rows, rng=seed, **own, **options)

    return job


def seeds(seed: int, n: int) -> list[int]:
    """The seeds of the members of an ensemble: the first of them do not depend on how many there are."""
    return [int(word) for word in np.random.SeedSequence(seed).generate_state(n, np.uint64)]
