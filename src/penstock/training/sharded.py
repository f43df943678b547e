"""A training run of several ranks: the loop of one, with what differs where rows lie apart.

Every rank has all of the state, and comes to the same numbers; only the gradient of a batch, the validation loss and the rows
themselves are divided. Sums go by shards and by the engine's tree, so that no bit depends on how many ranks there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from penstock._typing import Array
from penstock.files import members
from penstock.files import model as files
from penstock.history import Epoch, History
from penstock.lattice import Lattice
from penstock.state import Snapshot
from penstock.training import dequantize, diagnosis, outliers
from penstock.training.across import GOLDEN, Shards, Spread, reweighted, sampled
from penstock.training.checkpoint import Checkpoint, Found
from penstock.training.data import Data, check_sum
from penstock.training.diagnosis import TrainingError
from penstock.training.evaluation import COMPARED_ROWS, loss_sums
from penstock.training.loop import Training, Watch
from penstock.training.progress import Progress
from penstock.training.ranks import Sums, combined
from penstock.training.rows import Part, Rows
from penstock.training.scale import SAMPLE_ROWS
from penstock.training.supports import on_line

CANDIDATES = 8  # times as many rows as may be left out: where more are so far out, they are meant


class Sample(Part):
    """Some rows of a part, which stand for all of them."""

    def __init__(self, rows: Rows, whole: int) -> None:
        super().__init__(rows, 0, len(rows))
        object.__setattr__(self, "whole", whole)

    whole: int

    def __len__(self) -> int:
        return self.whole

    def index(self, first: int, last: int) -> Any:
        """What picks the rows at some positions."""
        return slice(first, min(last, self.last))


class ShardedTraining(Training):
    """A run of ``Spread`` rows."""

    data: Spread

    # --- rows ---------------------------------------------------------------------------------------------------

    def share_out(self, data: Data, lattice: Lattice | None) -> None:
        """Tell the rows that train from those that validate; columns with lattices have noise from here on."""
        assert isinstance(data, Spread)
        self.data, self.lattice, self.ranks = data, lattice, data.ranks
        self.validated, self.drawn, self.shards = data.validated, data.drawn, data.shards
        self.mine = data.shards.of(self.ranks.rank, self.ranks.size)
        first = data.shards.first(self.mine.start)
        self.own = dequantize.noised(data.own, lattice, self.seed, 0, first)
        self.rows = dequantize.noised(data.rows, lattice, self.seed, 0)
        vars(self.rows)["weight_exponent"] = vars(self.own)["weight_exponent"] = data.own.weight_exponent
        self.held_out = self.own_held_out = None
        if data.held_out is not None:
            assert data.own_held_out is not None
            assert data.shards_held_out is not None
            first = data.shards_held_out.first(self.mine.start)
            self.own_held_out = dequantize.noised(data.own_held_out, lattice, self.seed, 1, first)
            self.held_out = dequantize.noised(data.held_out, lattice, self.seed, 1)
            vars(self.own_held_out)["weight_exponent"] = data.own_held_out.weight_exponent
        self._count()
        m = min(self.n_train, SAMPLE_ROWS)
        sample = self._weighted(self.rows.take(self._some(self._trains, self.n_train, m)))
        self.train_part = Sample(sample, self.n_train)
        self.validation = None
        if self.validated:
            self.validation = Sample(*self._validating_sample())

    def _validating_sample(self) -> tuple[Rows, int]:
        if self.held_out is not None:
            n = len(self.held_out)
            return self.held_out.take(np.arange(min(n, COMPARED_ROWS)) * n // min(n, COMPARED_ROWS)), n
        n = len(self.rows) - self.n_train
        return self.rows.take(self._some(self._validates, n, min(n, COMPARED_ROWS))), n

    def _some(self, of: Callable[[Shards, int], tuple[int, int]], n: int, m: int) -> Array:
        """Numbers of about m of n rows, from all shards in proportion."""
        found = []
        for j in range(len(self.shards)):
            first, count = of(self.shards, j)
            take = -(-count * m // n)
            found.append(self.shards.first(j) + self._split(j, range(first, first + min(count, take))))
        numbers = np.concatenate(found)  # in any order, so that a few of the first are some of all
        return numbers[self.runner.row_order(GOLDEN, 0, len(numbers), range(len(numbers)))]

    def _weighted(self, rows: Rows) -> Rows:
        """Some rows; where none of them has a weight, the first ones of the table that have."""
        if rows.weight is None or self.own.weight is None or rows.weight.any():
            return rows
        own = np.flatnonzero(self.own.weight)[:SAMPLE_ROWS] + self.shards.first(self.mine.start)
        counts = self.ranks.meet([float(len(own))])[:, 0].astype(np.int64).tolist()
        return self.rows.take(self.ranks.gathered(own, counts)[:SAMPLE_ROWS])

    @staticmethod
    def _trains(shards: Shards, j: int) -> tuple[int, int]:
        return 0, shards.train(j)

    @staticmethod
    def _validates(shards: Shards, j: int) -> tuple[int, int]:
        return shards.train(j), shards.rows(j) - shards.train(j)

    def _key(self, j: int) -> int:
        return (self.seed + (j + 1) * GOLDEN) % 2**64

    def _split(self, j: int, positions: Array | range) -> Array:
        """Row numbers of shard j, within it, at some positions of its split."""
        return self.runner.row_order(self._key(j), 0, self.shards.rows(j), positions)

    def _start_of(self, j: int) -> int:
        """Where shard j begins among the rows of this rank."""
        return self.shards.first(j) - self.shards.first(self.mine.start)

    def _part(self, j: int, kind: Callable[[Shards, int], tuple[int, int]]) -> Part:
        """The rows of a shard of this rank that train, or that validate."""
        first, count = kind(self.shards, j)
        at = self._start_of(j)
        return Part(self.own, first, first + count, lambda a, b: at + self._split(j, range(a, b)))

    def _validating(self, j: int) -> Part:
        """The validation rows of a shard of this rank."""
        if self.own_held_out is None:
            return self._part(j, self._validates)
        cut = self.data.shards_held_out
        assert cut is not None
        first = cut.first(j) - cut.first(self.mine.start)
        return Part(self.own_held_out, first, first + cut.rows(j))

    def _by_shard(self, number: Callable[[int], tuple[float, float]]) -> tuple[float, float]:
        """The sums of two numbers of every shard, by the tree."""
        most = max(len(self.shards.of(rank, self.ranks.size)) for rank in range(self.ranks.size))
        told = np.zeros((most, 2))
        for k, j in enumerate(self.mine):
            told[k] = number(j)
        heard = self.ranks.meet(told.ravel()).reshape(self.ranks.size, most, 2)
        rows = [heard[rank, : len(self.shards.of(rank, self.ranks.size))] for rank in range(self.ranks.size)]
        one, other = combined(np.concatenate(rows)).tolist()
        return one, other

    def _count(self) -> None:
        """Weights of the training and validation rows."""
        self.weight_scale, self.worth = 1.0, {}
        if self.own.weight is not None:
            total = self._weights(lambda j: self._part(j, self._trains), self.own, "training", self.n_train)
            self.weight_scale = self.n_train / total
            if self.validated and self.own_held_out is None:
                n = len(self.rows) - self.n_train
                self._weights(lambda j: self._part(j, self._validates), self.own, "validation", n)
        if self.own_held_out is not None and self.own_held_out.weight is not None:
            assert self.held_out is not None
            self._weights(self._validating, self.own_held_out, "validation", len(self.held_out))

    def _weights(self, part: Callable[[int], Part], rows: Rows, name: str, n: int) -> float:
        exponent = rows.weight_exponent
        total, _ = self._by_shard(lambda j: (part(j).weight_sums(exponent)[0], 0.0))
        check_sum(total, rows, f"sample_weight over the {name} rows")
        squares, _ = self._by_shard(lambda j: (part(j).weight_squares(exponent), 0.0))
        self.worth[name] = total * total / squares if squares > 0 else np.inf, n
        return total

    def sample(self, most: int) -> Rows:
        """Some of the training rows, at random."""
        rows = self.train_part.rows
        return rows.take(slice(0, most)) if most < SAMPLE_ROWS else rows

    def measured_rows(self) -> Rows:
        """The rows on which a first fit measures its standardisation."""
        return self._weighted(self.rows.take(sampled(self.runner, len(self.rows))))

    def leave_out(self, fit: str) -> bool:
        """Give weight 0 to rows that lie absurdly far out by the present standardisation; whether there are any."""
        own = on_line(self.own, self.buffers, *self.supports)
        far = outliers.far_rows(own, self.buffers)
        if fit == "later":
            far = self._far_of_later_fit(far)
        held_out, far_held_out = self.own_held_out, far[:0]
        if held_out is not None:
            far_held_out = outliers.far_rows(on_line(held_out, self.buffers, *self.supports), self.buffers)
        heard = self.ranks.meet([len(far), len(far_held_out)]).sum(axis=0)
        if held_out is not None and heard[1]:
            assert self.held_out is not None
            assert self.data.shards_held_out is not None
            n = len(self.held_out)
            if heard[1] > max(1, outliers.PART * n):  # they are meant
                far_held_out, heard[1] = far_held_out[:0], 0
            else:
                first = self.data.shards_held_out.first(self.mine.start) + far_held_out[:1]
                outliers.warn_held_out(int(heard[1]), n, int(self.ranks.meet(first if len(first) else [np.inf]).min()))
        if not heard.any():
            return False
        others = self.data.own_held_out
        self.share_out(
            reweighted(
                self.data, self.data.own.without(far), None if others is None else others.without(far_held_out)
            ),
            self.lattice,
        )  # fmt: skip
        return True

    def _far_of_later_fit(self, far: Array) -> Array:
        """Those of the rows of this rank that a later fit leaves out."""
        counts = self.ranks.meet([len(far)])[:, 0].astype(np.int64)
        if not 0 < counts.sum() <= CANDIDATES * max(1, outliers.PART * len(self.rows)):
            return far[:0]
        first = self.shards.first(self.mine.start)
        numbers = self.ranks.gathered(far + first, counts.tolist())
        counted = len(self.rows)
        if self.own.weight is not None:
            counted = int(self.ranks.meet([float(np.count_nonzero(self.own.weight))]).sum())
        rows = self.on_line(self.rows.take(numbers))
        found = numbers[
            outliers.far_rows_of_later_fit(rows, self.buffers, *self.names, numbers=numbers, counted=counted)
        ]
        return found[(found >= first) & (found < first + len(self.own))] - first

    # --- steps --------------------------------------------------------------------------------------------------

    def _make_trainer(self, weight_decay: float) -> None:
        super()._make_trainer(weight_decay)
        n, size = len(self.shards), self.ranks.size
        self.sums = Sums(
            self.ranks, self.trainer.n_gradient, self.params.dtype, lambda rank: self.shards.of(rank, size)
        )  # fmt: skip
        self.losses_of, self.weights_of = np.zeros(n), np.zeros(n)

    def _numbers(self, epoch: int, first: int, count: int) -> Array:
        """Rows of this rank in each of ``count`` batches of an epoch, (count, rows)."""
        found = []
        for j in self.mine:
            n = self.shards.size(j)
            positions = self.runner.row_order(
                self._key(j), epoch, self.shards.train(j), range(first * n, (first + count) * n)
            )
            found.append((self._start_of(j) + self._split(j, positions)).reshape(count, n))
        return np.concatenate(found, axis=1)

    def _batch(self, epoch: int, index: Array) -> tuple[Rows, Array]:
        """Rows with the noise of an epoch, where columns have lattices, and the numbers of those of a batch."""
        x: Any = self.own.x
        if not isinstance(x, dequantize.Noised):
            return self.own, index
        own = self.own
        context = None if own.context is None else own.context[index]
        return Rows(x.fresh(epoch)[index], context, None if own.weight is None else own.weight[index]), np.arange(
            len(index)
        )

    def _advance(self, count: int) -> int:
        """The next batches of the epoch: of each, this rank has the gradients of its slices."""
        state, size = self.state, self.budget.batch_size
        first = state.first
        rates = self.budget.schedule.rates(self.taken, count, state.patience.factor)
        losses, norms = self.losses[first : first + count], self.norms[first : first + count]
        ends = [(own.start, own.stop) for own in (self.shards.of(r, self.ranks.size) for r in range(self.ranks.size))]
        most = max(b - a for a, b in ends)
        done = count
        told = np.zeros((2, most))
        mine = len(self.mine)
        for i, index in enumerate(self._numbers(state.epoch, first, count)):
            rows, index = self._batch(state.epoch, index)
            nodes = self.trainer.part(
                rows.x, rows.context, rows.weight, weight_exponent=self.own.weight_exponent, index=index, batch_size=size,
                slices=self.mine, losses=self.losses_of, weights=self.weights_of,
            )  # fmt: skip
            told[0, :mine] = self.losses_of[self.mine.start : self.mine.stop]
            told[1, :mine] = self.weights_of[self.mine.start : self.mine.stop]
            heard = self.ranks.meet(told.ravel()).reshape(-1, 2, most)
            for (a, b), (own_losses, own_weights) in zip(ends, heard, strict=True):
                self.losses_of[a:b], self.weights_of[a:b] = own_losses[: b - a], own_weights[: b - a]
            taken, losses[i], norms[i] = self.trainer.finish(
                self.sums.of(nodes), float(combined(self.losses_of)), float(combined(self.weights_of)), size,
                self.weight_scale, float(rates[i]),
            )  # fmt: skip
            if not taken:
                done = i
                break
        self.state = replace(state, first=first + done, step=self.trainer.step)
        if done < count and not self._look():
            what = diagnosis.quantity(losses[done], norms[done])
            cause = self._cause(state.epoch, first + done, rates[done])
            where = f"step {state.attempt.step + self.state.step + 1} (epoch {state.epoch})"
            raise TrainingError(f"{what} at {where}; likely cause: {cause}. The flow is as it was before")
        return done

    def _cause(self, epoch: int, step: int, rate: float) -> str:
        """The likely cause of a loss or gradient that is not finite, from the rows of all ranks in its batch."""
        (index,) = self._numbers(epoch, step, 1)
        own = on_line(self.own, self.buffers, *self.supports)
        vars(own)["weight_exponent"] = self.own.weight_exponent
        first = self.shards.first(self.mine.start)
        heard = self.ranks.told(diagnosis.worst(own, index, self.buffers, self.weight_scale, self.names, first))
        far, value = max((one[:2] for one in heard), key=lambda one: one[0])
        return diagnosis.cause(far, value, max(one[2] for one in heard), rate)

    def validation_loss(self, packed: Any) -> float:
        """Mean negative log-likelihood of the validation rows."""
        total, mass = self._by_shard(lambda j: loss_sums(self.runner, packed, self._validating(j)))
        return -total / mass

    # --- what one of the ranks does, or all together ---------------------------------------------------------------

    def train(self, progress: bool | Progress | None, watch: Watch | None) -> None:
        """All epochs. One rank shows progress; training stops if the callbacks of one want to."""
        together: Watch | None = None
        if watch is not None:
            asked = watch

            def together(epoch: Epoch, snapshot: Snapshot, history: History) -> bool:
                return self.ranks.any(asked(epoch, snapshot, history))

        super().train(progress if self.ranks.rank == 0 else False, together)

    def _interrupted(self) -> None:
        if not self.ranks.interrupted:  # of this rank alone, which the others will hear of as an error
            raise
        super()._interrupted()


class FirstWrites(Checkpoint):
    """A checkpoint that rank 0 reads and writes."""

    def __init__(self, checkpoint: Checkpoint, ranks: Any) -> None:
        super().__init__(checkpoint.path, every=checkpoint.every, resume=checkpoint.resume)
        self._ranks = ranks

    def check_writable(self) -> None:
        """Raise unless the file can be written, before any work."""
        with self._ranks.apart():
            if self._ranks.rank == 0:
                super().check_writable()

    def find(self) -> Found | None:
        """The run that the file holds, if it holds one that has not ended."""
        found, data = None, None
        with self._ranks.apart():
            if self._ranks.rank == 0:
                found = super().find()
                if found is not None:
                    with open(self.path, "rb") as file:
                        data = file.read()
        data = self._ranks.of_first(data)
        if self._ranks.rank and data is not None:
            contents = members.from_bytes(memoryview(data))
            assert isinstance(contents, files.Contents)
            found = Found.of(contents)
        return found

    def _save(self, contents: files.Contents) -> None:
        if self._ranks.rank == 0:
            super()._save(contents)

    def _remove_stale(self) -> None:
        if self._ranks.rank == 0:
            super()._remove_stale()
