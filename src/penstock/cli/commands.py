"""What the commands ``fit``, ``sample``, ``score`` and ``upgrade`` do once the command line is read."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TextIO

import numpy as np

import penstock as ps
from penstock._files import check_writable
from penstock._typing import Array
from penstock.cli.columns import (
    chosen_or_rest,
    header,
    indices,
    keep_names,
    lattice_columns,
    missing_cells,
    score_columns,
)
from penstock.cli.draws import Draws, Pieces, given_contexts
from penstock.cli.ranks import Job, shared_table
from penstock.cli.sinks import check_library
from penstock.cli.supports import CONTEXT, supports
from penstock.cli.tables import READ, TEXT, Table, ahead, chunk_rows, is_stream, read_table, suffix
from penstock.cli.weights import Mean, Part, beside, part_of_mean, weight_column
from penstock.files import members, model
from penstock.history import History
from penstock.recipes import RECIPES
from penstock.training.progress import is_terminal


def fit(arguments: argparse.Namespace) -> int:
    """Train a flow on a table, and write it. After Ctrl-C the best so far is written, if an epoch was done."""
    say: Callable[[str], object] = (lambda text: None) if arguments.quiet else print
    check_writable(arguments.output)
    _check_output(arguments.output, arguments.data, arguments.weights)
    _check_model_name(arguments.output)
    if "checkpoint" in arguments.fit_options:
        check_writable(arguments.fit_options["checkpoint"])
        _check_output(arguments.fit_options["checkpoint"], arguments.data, arguments.weights)
    table = _opened(arguments, nan=arguments.weights is not None)
    given = indices(arguments.context_columns or (), table, "--context-columns")
    columns, place, weights = _fit_columns(arguments, table, given)
    ranks: Job | None = arguments.ranks
    first, last = (0, None) if ranks is None else ranks.rows(table, weights)
    rows, context, column = table.arrays(columns, given, place, first=first, last=last)
    weight = weights.array([0], first, last)[:, 0] if weights else column[:, 0] if place else None
    n_rows = len(rows)
    if ranks is not None:
        n_rows, table.dropped = (sum(own) for own in zip(*ranks.told((n_rows, table.dropped)), strict=True))
    support = supports(arguments, table, columns)
    flow = _new_flow(arguments, len(columns), len(given), support, supports(arguments, table, given, CONTEXT))
    keep_names(flow, table, columns, given)
    flow._missing = None if arguments.missing is None else tuple(arguments.missing)
    weighted = "" if arguments.weights is None else f", weights from {arguments.weights}"
    conditional = f", given {table.describe(given)}" if given else ""
    say(f"{table.path}: {n_rows} rows, {table.describe(columns)}{conditional}{weighted}")
    _tell_dropped(table, sys.stdout)
    say(repr(flow))
    began = time.perf_counter()
    with _log_lines(shown=not arguments.quiet and not arguments.progress):
        flow.fit(
            rows, context=context if given else None, sample_weight=weight, rng=arguments.seed,
            dequantize=lattice_columns(arguments, table, columns), progress=_progress(arguments), **arguments.fit_options,
            **({} if ranks is None else {"comm": ranks.comm}),
        )  # fmt: skip
    seconds = time.perf_counter() - began
    interrupted = "interrupted" in flow.history.stopped
    if interrupted and (not len(flow.history) or (ranks is not None and ranks.any(ranks.terminated))):
        raise KeyboardInterrupt
    say(_outcome(flow.history))
    say(f"trained for {seconds:.1f} s")
    kept = arguments.fit_options.get("checkpoint")
    if interrupted and kept is not None and os.path.realpath(kept) == os.path.realpath(arguments.output):
        say(f"kept: {kept}, the best flow so far; the same command goes on from it")
        return 130
    if ranks is None or ranks.rank == 0:
        flow.save(arguments.output)
    say(f"written: {arguments.output}")
    return 130 if interrupted else 0


@contextmanager
def _log_lines(*, shown: bool) -> Iterator[None]:
    """Within the block the log of the library goes to standard output, unless a progress bar is shown."""
    if not shown or is_terminal(sys.stderr):
        yield
        return
    logger, handler = logging.getLogger("penstock"), logging.StreamHandler(sys.stdout)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _new_flow(
    arguments: argparse.Namespace, dim: int, context_dim: int, support: Any, context_support: Any
) -> ps.Flow | ps.Ensemble:  # fmt: skip
    recipe = RECIPES[arguments.recipe]
    known = inspect.signature(recipe).parameters
    for name in arguments.recipe_options:
        if name not in known:
            raise ValueError(f"--{name}: the recipe {arguments.recipe} has no such option")
    build = partial(
        recipe, dim, context_dim=context_dim, support=support, context_support=context_support or None,
        backend=arguments.backend, **arguments.recipe_options,
    )  # fmt: skip
    if arguments.ensemble is None:
        return build(rng=arguments.seed)
    return ps.Ensemble(build, arguments.ensemble, rng=arguments.seed)


def _fit_columns(
    arguments: argparse.Namespace, table: Table, context: Sequence[int]
) -> tuple[list[int], list[int], Table | None]:
    """The data columns, and where the weights are: in a column, in a table of their own, or nowhere."""
    place, own = weight_column(arguments, table, context)
    if own is not None and arguments.missing is not None:
        raise ValueError(
            f"--missing drops rows of {table.path}, so that weights must be one of its columns, got {arguments.weights!r}"
        )
    columns = chosen_or_rest(arguments.columns, table, {"--context-columns": context, "--weights": place})
    return columns, place, own


def _outcome(history: History | ps.EnsembleHistory) -> str:
    if isinstance(history, ps.EnsembleHistory):
        return "\n".join(f"member {k}: {_outcome(own)}" for k, own in enumerate(history))
    epochs = f"{len(history)} epoch{'' if len(history) == 1 else 's'}, {history.stopped}"
    if history.best_epoch is None:
        return f"no held-out score; training score {-history.train_loss[-1]:.4f} nats a row ({epochs})"
    return f"held-out score {-history.best_loss:.4f} nats a row, of epoch {history.best_epoch} ({epochs})"


def sample(arguments: argparse.Namespace) -> int:
    """Draw rows into a file. They are those of ``flow.sample(n, context, rng=seed)``, whatever the chunks."""
    flow = ps.load(arguments.model, backend=arguments.backend)
    given = given_contexts(arguments, flow)
    _check_output(arguments.output, arguments.model, given.path)
    check_library(arguments.output)
    table = Draws(arguments, flow, given)
    n, ranks = arguments.n, arguments.ranks
    if arguments.first and arguments.seed is None:
        raise ValueError("--first counts the draws of one --seed, which must be given, too")
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    pieces = Pieces(given, n, chunk_rows(flow.dim))
    own = range(len(pieces))
    if ranks is not None:
        seed, own = ranks.of_first(seed), ranks.run_of(len(pieces))
    begin, end = pieces.before(own.start), pieces.before(own.stop)
    with (
        shared_table(
            ranks, arguments.output, table.columns, name="samples", first=begin, count=given.count * n
        ) as write,
        _bar(arguments, end - begin) as update,
    ):  # fmt: skip
        for k in own if ranks is None else ranks.meeting(own, len(pieces)):
            places, first, count = pieces[k]
            blocks = table.draw(count, places, rng=seed, first=arguments.first + first)
            write(*blocks)
            update(len(blocks[0]))
    say = _say(arguments.output)
    if given.table is not None:
        stream = sys.stderr if arguments.output == "-" else sys.stdout
        _tell_dropped(given.table, stream, _as_in_fit(arguments, flow))
    if not arguments.quiet:
        say(f"{given.count * n} rows, {len(table.columns)} columns, seed {seed}")
        say(f"written: {_named(arguments.output)}")
    return 0


def _named(output: str) -> str:
    return "standard output" if output == "-" else output


def _say(output: str | None) -> Callable[[str], object]:
    """What prints the results of a command: on standard error where rows go to standard output."""
    return partial(print, file=sys.stderr if output == "-" else sys.stdout)


def score(arguments: argparse.Namespace) -> int:
    """The log-density of each row of a table into a file, and their mean on standard output."""
    if arguments.output is not None:
        _check_output(arguments.output, arguments.data, arguments.model, arguments.weights)
        check_library(arguments.output)
    flow = ps.load(arguments.model, backend=arguments.backend)
    table = _opened(arguments, expected=(*flow._columns, *flow._context_columns), kept=flow._missing)
    columns, given, place, weights = score_columns(arguments, table, flow)
    chosen = [*columns, *given, *place]
    ranks: Job | None = arguments.ranks
    size = chunk_rows(len(chosen))
    first, last = (0, None) if ranks is None else ranks.rows(table, weights, size=size)
    chunks = table.chunks(chosen, first, last)
    if weights is not None:
        chunks = beside(chunks, weights, table.path, first, last)
    if suffix(arguments.data) in TEXT and not is_stream(arguments.data):  # whose wait for data nothing could end
        chunks = ahead(chunks)
    if ranks is not None:
        chunks = ranks.meeting(chunks, -(-(table.n_rows or 0) // size))
    weighted, width = arguments.weights is not None, flow.dim + flow.context_dim
    parts: list[tuple[tuple[int, int, int], float, Part | None]] = []
    with (
        nullcontext(_nowhere)
        if arguments.output is None
        else shared_table(
            ranks, arguments.output, [("log_prob", flow.dtype)], name="log_prob", flat=True, first=first, count=table.n_rows or 0
        ) as write,
        _bar(arguments, table.n_rows if last is None else last - first) as update,
    ):  # fmt: skip
        for chunk in chunks:
            rows = chunk[:, : flow.dim]
            log_prob = flow.log_prob(rows, chunk[:, flow.dim : width] if given else None)
            write(log_prob)
            nan = np.isnan(log_prob)
            empty = np.isnan(chunk).any(axis=1) if table.missing.given else nan
            own, sums = 0.0, None
            if weighted:
                weight = np.where(nan | empty, 0, chunk[:, width])
                _check_weights(weight, first, arguments.weights)
                sums = part_of_mean(log_prob, weight)
            else:
                own = float((log_prob[~nan] if nan.any() else log_prob).sum(dtype=np.float64))
            parts.append(((len(rows), nan.sum(), empty.sum() if table.missing.given else 0), own, sums))
            first += len(rows)
            update(len(rows))
    # In the order of the file, whoever has read a chunk: so no bit of the mean depends on who did.
    counts, total, mean = np.zeros(3, np.int64), 0.0, Mean()
    for count, own, sums in parts if ranks is None else ranks.all_of(parts):
        counts += count
        total += own
        mean.add(sums)
    n_rows, n_nan, n_missing = counts.tolist()
    say = _say(arguments.output)
    say(f"rows: {n_rows}")
    if table.missing.given:
        say(f"rows with missing values: {n_missing}{_as_in_fit(arguments, flow)}")
    say(f"rows with log-density NaN: {n_nan}" + (", left out of the mean" if n_nan else ""))
    if weighted:
        say(f"weights from {arguments.weights}: worth {mean.effective_size:.6g} rows of equal weight")
    unweighted = total / (n_rows - n_nan) if n_rows > n_nan else float("nan")
    say(f"mean log-density: {mean.value if weighted else unweighted!r}")
    if arguments.output is not None and not arguments.quiet:
        say(f"written: {_named(arguments.output)}")
    return 0


def _check_weights(weight: Array, first: int, source: str) -> None:
    """Raise if a weight is no number; ``first`` is the number of the row where they begin."""
    finite = np.isfinite(weight)
    if not finite.all():
        row = int(np.argmin(finite))
        raise ValueError(f"--weights: {source} must be finite, but holds {weight[row]} in row {first + row}")


def _as_in_fit(arguments: argparse.Namespace, flow: ps.Flow | ps.Ensemble) -> str:
    """What to add where the model, and no option, has said what stands for no value."""
    if arguments.missing is not None or flow._missing is None:
        return ""
    return f" (--missing={','.join(flow._missing)}, as in the fit)"


def _nowhere(*blocks: Array) -> None:
    """Where log-densities go that nobody asked for."""


def _opened(
    arguments: argparse.Namespace, *, nan: bool = True, expected: Sequence[str] = (), kept: Sequence[str] | None = None
) -> Table:
    """The table that DATA names; ``nan`` tells whether it may hold NaN where ``--missing`` was not given.

    ``kept`` is what ``--missing`` said where the flow was fitted.
    """
    missing = missing_cells(arguments.missing, nan=nan, kept=kept)
    return read_table(arguments.data, key=arguments.key, missing=missing, header=header(arguments), expected=expected)


def _tell_dropped(table: Table, stream: TextIO, why: str = "") -> None:
    """Say it in any case: rows that are gone change the result."""
    if table.missing.given:
        rows = f"{table.dropped} row{'' if table.dropped == 1 else 's'}"
        print(f"{table.path}: {rows} with missing values left out{why}", file=stream)


def upgrade(paths: Sequence[str]) -> int:
    """Rewrite model files of older formats in the present one."""
    for path in paths:
        contents = members.load(path)
        version = (contents.members[0] if isinstance(contents, members.Several) else contents).format_version
        if version == model.FORMAT_VERSION:
            print(f"{path}: is of format {version}")
            continue
        ps.load(path).save(path)
        print(f"{path}: from format {version} to {model.FORMAT_VERSION}")
    return 0


def _check_model_name(path: str) -> None:
    """Before any work: the file to write has not the name of a table, and replaces nothing but a model."""
    if os.path.splitext(path)[1].lower() in READ:
        raise ValueError(
            f"--output: {path!r} is the name of a table, and MODEL is a model; its name ends in .safetensors"
        )
    model.check_replaceable(path)


def _check_output(output: str, *inputs: str | None) -> None:
    """Before any work: the table can be written, and takes the place of nothing that is read."""
    if is_stream(output):
        return
    check_writable(output)
    for path in inputs:
        if path is not None and os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise ValueError(f"cannot write {output!r}: it is also the input")


def _progress(arguments: argparse.Namespace) -> bool | None:
    return True if arguments.progress else False if arguments.quiet else None


@contextmanager
def _bar(arguments: argparse.Namespace, total: int | None) -> Iterator[Callable[[int], object]]:
    """A function to tell about rows that are done."""
    asked = _progress(arguments)
    if not (is_terminal(sys.stderr) if asked is None else asked):
        yield lambda rows: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit="rows", unit_scale=True, dynamic_ncols=True, file=sys.stderr) as bar:
        yield bar.update
