"""What the commands ``fit``, ``sample``, ``score`` and ``upgrade`` do once the command line is read."""

from __future__ import annotations

import argparse
import inspect
import itertools
import logging
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np

import penstock as ps
from penstock import _validate
from penstock._files import check_writable
from penstock._typing import Array
from penstock.cli.sinks import table_file
from penstock.cli.tables import SUFFIXES, Table, chunk_rows, is_stream, read_table
from penstock.files import model
from penstock.history import History
from penstock.recipes import RECIPES
from penstock.training.progress import is_terminal


def fit(arguments: argparse.Namespace) -> int:
    """Train a flow on a table, and write it. After Ctrl-C the best so far is written, if an epoch was done."""
    say: Callable[[str], object] = (lambda text: None) if arguments.quiet else print
    check_writable(arguments.output)
    _check_output(arguments.output, arguments.data, arguments.weights)
    if "checkpoint" in arguments.fit_options:
        check_writable(arguments.fit_options["checkpoint"])
        _check_output(arguments.fit_options["checkpoint"], arguments.data, arguments.weights)
    table = read_table(arguments.data, key=arguments.key)
    given = _context_columns(arguments, table)
    columns, place, weights = _fit_columns(arguments, table, given)
    rows, context, column = table.arrays(columns, given, place)
    weight = weights.array([0])[:, 0] if weights else column[:, 0] if place else None
    flow = _new_flow(arguments, len(columns), len(given))
    weighted = "" if arguments.weights is None else f", weights from {arguments.weights}"
    conditional = f", given {table.describe(given)}" if given else ""
    say(f"{table.path}: {len(rows)} rows, {table.describe(columns)}{conditional}{weighted}")
    say(repr(flow))
    began = time.perf_counter()
    with _log_lines(shown=not arguments.quiet and not arguments.progress):
        flow.fit(
            rows, context=context if given else None, sample_weight=weight, rng=arguments.seed,
            progress=_progress(arguments), **arguments.fit_options,
        )  # fmt: skip
    seconds = time.perf_counter() - began
    interrupted = flow.history.stopped == "interrupted"
    if interrupted and not len(flow.history):
        raise KeyboardInterrupt
    say(_outcome(flow.history))
    say(f"trained for {seconds:.1f} s")
    kept = arguments.fit_options.get("checkpoint")
    if interrupted and kept is not None and os.path.realpath(kept) == os.path.realpath(arguments.output):
        say(f"kept: {kept}, the best flow so far; the same command goes on from it")
        return 130
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


def _new_flow(arguments: argparse.Namespace, dim: int, context_dim: int) -> ps.Flow:
    recipe = RECIPES[arguments.recipe]
    known = inspect.signature(recipe).parameters
    for name in arguments.recipe_options:
        if name not in known:
            raise ValueError(f"--{name}: the recipe {arguments.recipe} has no such option")
    return recipe(
        dim, context_dim=context_dim, rng=arguments.seed, backend=arguments.backend, **arguments.recipe_options
    )


def _fit_columns(
    arguments: argparse.Namespace, table: Table, context: Sequence[int]
) -> tuple[list[int], list[int], Table | None]:
    """The data columns, and where the weights are: in a column, in a table of their own, or nowhere."""
    taken = {"--context-columns": context}
    given = arguments.weights
    if given is None:
        return _columns(arguments, table, taken), [], None
    if table.has(given):
        place = table.index(given, option="--weights")
        if place in context:
            raise ValueError(f"--weights: {given!r} is also one of --context-columns")
        columns = _columns(arguments, table, {**taken, "--weights": [place]})
        return columns, [place], None
    if os.path.splitext(given)[1].lower() not in SUFFIXES:
        raise ValueError(f"--weights: {given!r} is no file and no column of {table.path}, which has {table.describe()}")
    own = read_table(given)
    if own.n_columns != 1:
        raise ValueError(f"--weights: {given} must have 1 column, got {own.describe()}")
    return _columns(arguments, table, taken), [], own


def _columns(arguments: argparse.Namespace, table: Table, taken: dict[str, Sequence[int]]) -> list[int]:
    """The indices of the columns that ``--columns`` names, or of all; those ``taken`` by other options are no data."""
    if arguments.columns is None:
        others = {i for places in taken.values() for i in places}
        columns = [i for i in range(table.n_columns) if i not in others]
    else:
        columns = _indices(arguments.columns, table, "--columns")
        for option, places in taken.items():
            both = [place for place in places if place in columns]
            if both:
                name = arguments.columns[columns.index(both[0])]
                raise ValueError(f"{option}: {name!r} is also one of --columns")
    if not columns:
        raise ValueError(f"{table.path} has no data columns: {table.describe()}")
    return columns


def _context_columns(arguments: argparse.Namespace, table: Table) -> list[int]:
    names = arguments.context_columns
    return [] if names is None else _indices(names, table, "--context-columns")


def _indices(names: Sequence[str], table: Table, option: str) -> list[int]:
    indices = [table.index(name, option=option) for name in names]
    if len(set(indices)) < len(indices):
        raise ValueError(f"{option} names a column twice: {','.join(names)}")
    return indices


def _outcome(history: History) -> str:
    epochs = f"{len(history)} epoch{'' if len(history) == 1 else 's'}, {history.stopped}"
    if history.best_epoch is None:
        return f"no held-out score; training score {-history.train_loss[-1]:.4f} nats a row ({epochs})"
    return f"held-out score {-history.best_loss:.4f} nats a row, of epoch {history.best_epoch} ({epochs})"


def sample(arguments: argparse.Namespace) -> int:
    """Draw rows into a file. They are those of ``flow.sample(n, context, rng=seed)``, whatever the chunks."""
    flow = ps.load(arguments.model, backend=arguments.backend)
    contexts, file = _contexts(arguments.context, flow.context_dim)
    _check_output(arguments.output, arguments.model, file)
    n, m = arguments.n, 1 if contexts is None else len(contexts)
    seed = secrets.randbits(32) if arguments.seed is None else arguments.seed
    names = [f"x{i}" for i in range(flow.dim)] + ["log_prob"] * arguments.log_prob
    with (
        table_file(arguments.output, flow.dtype, names, name="samples") as write,
        _bar(arguments, m * n) as update,
    ):
        size = chunk_rows(flow.dim)
        together = max(1, size // max(n, 1))  # rows of context in a chunk
        for row, first in itertools.product(range(0, m, together), range(0, n, size)):
            part = None if contexts is None else contexts[row : row + together]
            options = {"context": part, "rng": seed, "first": first, "first_context": row}
            rows = _draw(flow, min(size, n - first), options, log_prob=arguments.log_prob)
            write(rows)
            update(len(rows))
    if not arguments.quiet:
        say = _say(arguments.output)
        say(f"{m * n} rows, {len(names)} columns, seed {seed}")
        say(f"written: {arguments.output}")
    return 0


def _draw(flow: ps.Flow, n: int, options: dict[str, Any], *, log_prob: bool) -> Array:
    """``n`` draws for each context, a row each, on demand with their log-densities in a further column."""
    if not log_prob:
        return flow.sample(n, **options).reshape(-1, flow.dim)
    rows, density = flow.sample_and_log_prob(n, **options)
    return np.concatenate([rows.reshape(-1, flow.dim), density.reshape(-1, 1)], axis=1)


def _say(output: str | None) -> Callable[[str], object]:
    """What prints the results of a command: on standard error where rows go to standard output."""
    return partial(print, file=sys.stderr if output == "-" else sys.stdout)


def _contexts(given: str | None, context_dim: int) -> tuple[Array | None, str | None]:
    """The rows of context that ``--context`` gives, and the file that they come from, if from one."""
    if given is None or not context_dim:
        if given is None and context_dim:
            raise ValueError(f"--context must be given: the flow has context_dim={context_dim}")
        if given is not None:
            raise ValueError("--context was given, but the flow has none (context_dim=0)")
        return None, None
    if os.path.splitext(given)[1].lower() in SUFFIXES:
        table = read_table(given)
        rows, file, got = table.array(range(table.n_columns)), given, table.describe()
    else:
        try:
            rows = np.array([[float(word) for word in given.split(",")]])
        except ValueError:
            raise ValueError(f"--context must be numbers with commas between them or a table, got {given!r}") from None
        file, got = None, f"{rows.shape[1]} number{'' if rows.shape[1] == 1 else 's'}"
    if rows.shape[1] != context_dim:
        raise ValueError(f"--context has {got}, but the flow has context_dim={context_dim}")
    return _validate.reals(rows, name="--context"), file


def score(arguments: argparse.Namespace) -> int:
    """The log-density of each row of a table into a file, and their mean on standard output."""
    if arguments.output is not None:
        _check_output(arguments.output, arguments.data, arguments.model)
    flow = ps.load(arguments.model, backend=arguments.backend)
    table = read_table(arguments.data, key=arguments.key)
    given = _context_columns(arguments, table)
    if len(given) != flow.context_dim:
        raise ValueError(
            f"--context-columns names {len(given)} column{'' if len(given) == 1 else 's'}, but the flow in "
            f"{arguments.model} has context_dim={flow.context_dim}"
        )
    columns = _columns(arguments, table, {"--context-columns": given})
    if len(columns) != flow.dim:
        has = f"{table.path} has" if arguments.columns is None else "--columns names"
        raise ValueError(
            f"{has} {len(columns)} column{'' if len(columns) == 1 else 's'}, but the flow in {arguments.model} has "
            f"{flow.dim}" + ("; choose with --columns" if len(columns) > flow.dim else "")
        )
    n_rows = n_nan = 0
    total = 0.0
    with (
        nullcontext(lambda rows: None)
        if arguments.output is None
        else table_file(arguments.output, flow.dtype, ["log_prob"], name="log_prob", flat=True) as write,
        _bar(arguments, table.n_rows) as update,
    ):
        for chunk in table.chunks([*columns, *given]):
            rows = chunk[:, : flow.dim]
            log_prob = flow.log_prob(rows, chunk[:, flow.dim :] if given else None)
            write(log_prob)
            nan = np.isnan(log_prob)
            n_rows += len(rows)
            n_nan += int(nan.sum())
            total += float((log_prob[~nan] if nan.any() else log_prob).sum(dtype=np.float64))
            update(len(rows))
    say = _say(arguments.output)
    say(f"rows: {n_rows}")
    say(f"rows with log-density NaN: {n_nan}" + (", left out of the mean" if n_nan else ""))
    say(f"mean log-density: {total / (n_rows - n_nan) if n_rows > n_nan else float('nan')!r}")
    if arguments.output is not None and not arguments.quiet:
        say(f"written: {arguments.output}")
    return 0


def upgrade(paths: Sequence[str]) -> int:
    """Rewrite model files of older formats in the present one."""
    for path in paths:
        version = model.load(path).format_version
        if version == model.FORMAT_VERSION:
            print(f"{path}: is of format {version}")
            continue
        ps.load(path).save(path)
        print(f"{path}: from format {version} to {model.FORMAT_VERSION}")
    return 0


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
