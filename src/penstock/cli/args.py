"""The words of the command ``penstock``, and how they are read."""

from __future__ import annotations

import argparse
import csv
import inspect
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import penstock as ps
from penstock import _backend
from penstock.cli import config, supports
from penstock.cli.tables import READ, WRITTEN, is_stream
from penstock.conditioners import ACTIVATIONS
from penstock.recipes import MIXINGS, RECIPES
from penstock.training.schedule import SCHEDULES

EXAMPLE = """\
examples:
  penstock fit galaxies.csv -o galaxies.safetensors --columns redshift,u,g,r --missing 99
  penstock score galaxies.safetensors others.csv -o log_prob.csv
  penstock sample galaxies.safetensors -n 1e6 -o new.csv

"""

ENGINES = f"engine: {', '.join(_backend.NAMES)}, or cuda:1 for the second GPU (default: %(default)s)"


class _Command(argparse.ArgumentParser):
    """A command: no option may be shortened, and one that it has not is an error with its own usage."""

    def __init__(self, **keywords: Any) -> None:
        super().__init__(allow_abbrev=False, **keywords)
        # negative numbers, with which no option begins; argparse by itself takes -1e-3 for one
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.IGNORECASE)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As ever, but nothing may be left."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            known = [name for name in self._option_string_actions if name.startswith("--")]
            close = get_close_matches(rest[0].partition("=")[0], known, 1, 0.5)
            self.error(f"unrecognized arguments: {' '.join(rest)}" + (f" (is it {close[0]}?)" if close else ""))
        return found, rest


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(
        prog="penstock",
        description="Normalizing flows as a compiled engine for NumPy arrays.",
        epilog=EXAMPLE + "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"penstock {ps.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Command)
    for add in (
        _demo_parser,
        _fit_parser,
        _sample_parser,
        _score_parser,
        _report_parser,
        _info_parser,
        _upgrade_parser,
        _config_parser,
    ):
        add(commands)
    return top


# --- fit, sample, score -----------------------------------------------------------------------------------------

DATA = (
    "a table: text (.csv, .tsv, .txt, .dat; with commas, semicolons, tabs or blanks between columns, # before comments, and "
    "names in the first line if there are any), .npy (read where it lies, however large), .npz, .parquet (with pyarrow), .h5 or "
    ".hdf5 (with h5py), .fits (with astropy); - reads text from standard input"
)
KEPT = " (default: what fit was told; --missing= for no number and no word)"
WRITES = "by its ending .csv, .tsv, .npy, .npz, .parquet, .h5 or .fits, or - for .csv on standard output"


def _fit_parser(commands: Any) -> None:
    fit = commands.add_parser(
        "fit",
        help="train a flow on a table and write it to a file",
        description="Trains a flow on the rows of DATA and writes it, with the names of the columns if the table has any: score "
        "and sample then need none. Only the columns that are used must hold numbers. Ctrl-C ends training early: the best "
        "parameters so far are written if an epoch was done, and the exit code is 130. With a checkpoint the same command goes "
        "on from there, also after SIGTERM or a crash, and ends with the same bits.",
    )
    fit.add_argument("data", type=_input, metavar="DATA", help=DATA)
    fit.add_argument("-o", "--output", required=True, metavar="MODEL", help="the file to write, .safetensors")
    _data_options(fit, "all that have a name, or all", "none", "left out. The model keeps it for score and sample")
    fit.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="weights of the rows: the name or index of a column of DATA, which then is not a data column, "
        "or a file with one column. Only their ratios matter",
    )
    fit.add_argument(
        "--negative-weights",
        action="store_true",
        default=argparse.SUPPRESS,
        help="take negative weights, which otherwise are an error; the loss then has no lower bound",
    )
    fit.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of split, start and order (default: %(default)s)"
    )
    _common_options(fit)
    _mpi_option(fit)
    group = fit.add_argument_group("the flow")
    supports.add_options(group, _words)
    group.add_argument(
        "--dequantize",
        type=_words,
        metavar="A,B=STEP,...",
        help="data columns whose values lie on a lattice, such as counts, by name or by index, each perhaps with its step: "
        "trained with noise as wide as a step, and rounded to the lattice in samples; auto alone takes those that have one",
    )
    group.add_argument(
        "--ensemble",
        type=_positive,
        metavar="N",
        help="train N flows, each with its own start, permutations and split, and write their mean as one model",
    )
    group.add_argument(
        "--bootstrap",
        action="store_true",
        default=argparse.SUPPRESS,
        help="each flow of an ensemble has rows of its own, drawn with replacement",
    )
    group.add_argument("--recipe", choices=list(RECIPES), default="nsf_ar", help="(default: %(default)s)")
    _add(group, RECIPE_OPTIONS, {})
    group = fit.add_argument_group("training, as Flow.fit describes it")
    _add(group, FIT_OPTIONS, {name: p.default for name, p in inspect.signature(ps.Flow.fit).parameters.items()})
    group.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help="go on with the training that --checkpoint holds, or begin one; --no-resume begins anew (default: --resume)",
    )
    fit.set_defaults(run=_fit)


def _sample_parser(commands: Any) -> None:
    sample = commands.add_parser(
        "sample",
        help="draw rows from a flow into a file",
        description="Draws rows from the flow in MODEL into a file, in the precision of the flow, a chunk at a time. The columns "
        "have the names of those that the flow was trained on.",
    )
    sample.add_argument("model", metavar="MODEL", help="a model file, as written by fit")
    sample.add_argument("-n", type=_many, required=True, metavar="N", help="how many rows; 1e6 is read as well")
    sample.add_argument(
        "-o",
        "--output",
        type=_output,
        required=True,
        metavar="FILE",
        help=f"the table to write: {WRITES}",
    )
    sample.add_argument(
        "--context",
        metavar="CONTEXT",
        help="for a conditional flow: its context, numbers with commas between them (--context=-1,2), or a table (as DATA of "
        "fit, or -) with a row for each context, whose columns are found by their names; N rows are drawn for each",
    )
    sample.add_argument("--log-prob", action="store_true", help="a further column at the end: the log-density")
    sample.add_argument(
        "--raw",
        action="store_true",
        help="columns that have a lattice (--dequantize of fit) as they are drawn, not rounded to it",
    )
    sample.add_argument("--seed", type=_seed, metavar="N", help="seed of the draws (default: a new one, which is told)")
    sample.add_argument(
        "--first",
        type=_many,
        default=0,
        metavar="I",
        help="number of the first draw (default: 0): with one seed, rows I to I + N - 1 of a larger sample, for jobs that "
        "share it",
    )
    group = sample.add_argument_group("the columns of CONTEXT and FILE")
    group.add_argument(
        "--context-columns",
        type=_words,
        metavar="A,B,...",
        help="columns of that table that stand for those of the flow, in its order, by name or by index from 0",
    )
    group.add_argument(
        "--row-ids",
        action=argparse.BooleanOptionalAction,
        help="a first column, row, that tells which row of CONTEXT a draw is for, from 0 (default: if CONTEXT is a table and "
        "FILE no array)",
    )
    group.add_argument("--keep-context", action="store_true", help="further columns: the context of each draw")
    _reading_options(group, f"get no draws{KEPT}")
    _common_options(sample)
    _mpi_option(sample)
    sample.set_defaults(run=_sample)


def _score_parser(commands: Any) -> None:
    score = commands.add_parser(
        "score",
        help="the log-density of the rows of a table, and their mean",
        description="Prints the mean log-density of the rows of DATA, in nats, and writes that of each row to a file "
        "if one is named. Columns that have the names that the flow was trained on are found by them, in any order and among any "
        "others. Rows go through a chunk at a time: DATA may be larger than memory.",
    )
    score.add_argument("model", metavar="MODEL", help="a model file, as written by fit")
    score.add_argument("data", type=_input, metavar="DATA", help=DATA)
    score.add_argument(
        "-o",
        "--output",
        type=_output,
        metavar="FILE",
        help=f"where log-densities go, one a row: {WRITES}",
    )
    _data_options(
        score,
        "those with the names that the flow was trained on, or all",
        "those with the names that the flow was trained on",
        f"have the log-density NaN{KEPT}",
    )
    score.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="weights of the rows in the mean: the name or index of a column of DATA, which then is not a data column, or a file "
        "with one column. Only their ratios matter; rows of weight 0 do not count",
    )
    _common_options(score)
    _mpi_option(score)
    score.set_defaults(run=_score)


def _report_parser(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="hold a flow against rows that it has not seen: what is wrong, and what to try",
        description="Checks the flow in MODEL against the rows of DATA, which it should not have been trained on, and prints a "
        "page that says in words what is wrong and what to try: coverage, PIT, marginals, correlations, a classifier. Columns "
        "are found as score finds them. Needs SciPy, a classifier scikit-learn, pictures matplotlib.",
    )
    report.add_argument("model", metavar="MODEL", help="a model file, as written by fit")
    report.add_argument("data", type=_input, metavar="DATA", help=DATA)
    report.add_argument(
        "--plot", metavar="FILE", help="write the page as a picture, too: .png, .pdf or .svg, or as text: .txt"
    )
    _data_options(
        report,
        "those with the names that the flow was trained on, or all",
        "those with the names that the flow was trained on",
        f"left out{KEPT}",
    )
    report.add_argument(
        "--weights",
        metavar="WEIGHTS",
        help="weights of the rows, at least 0: the name or index of a column of DATA, or a file with one column",
    )
    report.add_argument("--seed", type=_seed, default=0, metavar="N", help="seed of draws (default: %(default)s)")
    _common_options(report)
    report.set_defaults(run=_report)


def _fit(arguments: argparse.Namespace) -> int:
    from penstock.cli import commands

    given = vars(arguments)
    arguments.recipe_options = {name: given[name] for name in RECIPE_OPTIONS if name in given}
    arguments.fit_options = {
        name: given[name] for name in (*FIT_OPTIONS, "resume", "negative_weights", "bootstrap") if name in given
    }
    if given.get("resume") or "checkpoint_every" in given:
        arguments.fit_options.setdefault("checkpoint", arguments.output)
    if "bootstrap" in given and arguments.ensemble is None:
        raise ValueError("--bootstrap is for the flows of an ensemble: give --ensemble N, too")
    return commands.fit(arguments)


def _sample(arguments: argparse.Namespace) -> int:
    from penstock.cli import commands

    return commands.sample(arguments)


def _report(arguments: argparse.Namespace) -> int:
    from penstock.cli import reports

    return reports.report(arguments)


def _score(arguments: argparse.Namespace) -> int:
    from penstock.cli import commands

    return commands.score(arguments)


def _data_options(parser: Any, default: str, context_default: str, missing: str) -> None:
    group = parser.add_argument_group("the columns of DATA")
    group.add_argument(
        "--columns",
        type=_words,
        metavar="A,B,...",
        help=f"columns to use, by name or by index from 0 (default: {default}); the others may hold anything",
    )
    group.add_argument(
        "--context-columns",
        type=_words,
        metavar="A,B,...",
        help=f"columns that the flow is conditioned on, which then are no data columns (default: {context_default})",
    )
    _reading_options(group, missing)


def _reading_options(group: Any, missing: str) -> None:
    group.add_argument(
        "--missing",
        type=_words,
        metavar="A,B,...",
        help="numbers and words that stand for no value, such as 99 or NA (--missing=-99,NA), as blank cells and NaN then do "
        f"too; rows where a value is missing are counted, and {missing}. Without it a blank cell is an error",
    )
    group.add_argument(
        "--header",
        choices=("yes", "no"),
        help="whether the first line of text names the columns (default: if it has words and no number)",
    )
    group.add_argument(
        "--key",
        metavar="NAME",
        help="which of several: array of an .npz file, dataset or group of an HDF5 file, extension of a FITS file",
    )


def _common_options(parser: Any) -> None:
    parser.add_argument("--threads", type=_positive, metavar="N", help="(default: the processors one may use)")
    parser.add_argument("--backend", type=_engine, default="auto", metavar="NAME", help=ENGINES)
    loud = parser.add_mutually_exclusive_group()
    loud.add_argument("-q", "--quiet", action="store_true", help="no progress bar, and print results only")
    loud.add_argument("--progress", action="store_true", help="a progress bar also where no terminal is")


def _mpi_option(parser: Any) -> None:
    parser.add_argument(
        "--mpi",
        action="store_true",
        help="under mpirun, srun or mpiexec: all processes share the work, and the first one prints. Files are on a file system "
        "that all see; a table that is written is .npy, .csv or .tsv (needs mpi4py)",
    )


def _add(group: Any, options: dict[str, tuple[Callable[[str], Any], str, str]], defaults: dict[str, Any]) -> None:
    """Options that stay out of the namespace unless given, so that the function's own defaults hold."""
    for keyword, (read, shape, meaning) in options.items():
        default = "yes" if defaults.get(keyword) is True else defaults.get(keyword)
        shown = "" if default is None else f" (default: {default})"
        group.add_argument(
            "--" + keyword.replace("_", "-"),
            type=read,
            metavar=shape,
            default=argparse.SUPPRESS,
            help=(meaning + shown).replace("%", "%%"),
        )


# --- demo, info, upgrade -------------------------------------------------------------------------------------------------


def _demo_parser(commands: Any) -> None:
    demo = commands.add_parser(
        "demo",
        help="train a spline flow on the joint density of 9509 galaxies, compare, sample, draw and save",
        description="Trains a spline flow on redshift and six magnitudes of 9509 galaxies, compares it with a Gaussian "
        "mixture and a kernel density estimate, lets a classifier look for differences between real and sampled "
        "galaxies, checks speed, round trip and threads, and writes pictures and the model.",
    )
    demo.add_argument(
        "-o", "--output", metavar="DIR", default="penstock-demo", help="folder to write to (default: %(default)s)"
    )
    demo.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of split, start and samples (default: %(default)s)"
    )
    demo.add_argument("--backend", type=_engine, default="auto", metavar="NAME", help=ENGINES)
    demo.add_argument(
        "--epochs", type=_positive, default=None, metavar="N", help="train for N epochs (default: as fit decides)"
    )
    demo.add_argument(
        "--ensemble", type=_positive, metavar="N", help="train an ensemble of N flows (default: one flow)"
    )
    demo.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    demo.set_defaults(run=_demo)


def _info_parser(commands: Any) -> None:
    info = commands.add_parser(
        "info",
        help="tell about this installation, or about a model file",
        description="Without FILE: version, engine, threads and optional packages. With FILE: what the model in it is.",
    )
    info.add_argument("file", nargs="?", metavar="FILE", help="a model file, as written by flow.save")
    info.set_defaults(run=_info)


def _upgrade_parser(commands: Any) -> None:
    upgrade = commands.add_parser(
        "upgrade",
        help="rewrite model files in the present format",
        description="Rewrites each FILE that is of an older format in the present one, at once. The flow in it stays the "
        "same, bit for bit; versions of penstock that only know the older format can then no longer read it.",
    )
    upgrade.add_argument("files", nargs="+", metavar="FILE", help="a model file, as written by flow.save")
    upgrade.set_defaults(run=_upgrade)


def _config_parser(commands: Any) -> None:
    command = commands.add_parser(
        "config",
        help="tell where the C library is, for compilers and CMake",
        description="Prints what is asked for on one line, or everything: cc program.c $(penstock config --cflags --libs)",
    )
    for name, told in config.TOLD.items():
        command.add_argument(f"--{name}", dest="names", action="append_const", const=name, help=told)
    command.set_defaults(run=lambda arguments: config.config(arguments.names or ()))


def _demo(arguments: argparse.Namespace) -> int:
    from penstock.demo import demo

    return demo(
        arguments.output,
        seed=arguments.seed,
        backend=arguments.backend,
        epochs=arguments.epochs,
        ensemble=arguments.ensemble,
        progress=False if arguments.quiet else None,
    )


def _info(arguments: argparse.Namespace) -> int:
    from penstock.cli import info

    return info.installation() if arguments.file is None else info.model_file(arguments.file)


def _upgrade(arguments: argparse.Namespace) -> int:
    from penstock.cli import commands

    return commands.upgrade(arguments.files)


# --- how words are read -----------------------------------------------------------------------------------------


def _engine(text: str) -> str:
    try:
        return _backend.checked(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must be at least 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _many(text: str) -> int:
    """A count that may be written as 1e6."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not number.is_integer() or number < 0:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 0, got {text!r}")
    return int(number) if "e" in text.lower() else int(text)


def _steps(text: str) -> int | float:
    """Digits alone are a number of steps, anything else a fraction."""
    return int(text) if text.isdecimal() else float(text)


def _number_or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


def _words(text: str) -> list[str]:
    """Words with commas between them; one that has a comma itself is in quotes."""
    return [word.strip() for word in next(csv.reader([text], skipinitialspace=True), [])]


def _widths(text: str) -> tuple[int, ...]:
    return tuple(map(_positive, text.split(",")))


def _input(text: str) -> str:
    if text.lower().endswith(".root"):
        raise argparse.ArgumentTypeError(
            f"ROOT files are not read, got {text!r}; uproot reads them: uproot.open(FILE)[TREE].arrays(library='pd')"
            ".to_parquet('table.parquet') writes a table that is"
        )
    return _table(text, READ)


def _output(text: str) -> str:
    return _table(text, WRITTEN)


def _table(text: str, kinds: Sequence[str]) -> str:
    if not text.lower().endswith(tuple(kinds)) and not is_stream(text):
        raise argparse.ArgumentTypeError(f"must end in {', '.join(kinds[:-1])} or {kinds[-1]}, got {text!r}")
    return text


def _one_of(values: Sequence[str]) -> tuple[Callable[[str], str], str]:
    """A reader of one of some words, and how to print them."""

    def word(text: str) -> str:
        if text not in values:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(values)}, got {text!r}")
        return text

    return word, f"{{{','.join(values)}}}"


def _standardize(text: str) -> bool | str:
    return {"yes": True, "no": False}.get(text, _one_of(("yes", "no", "robust"))[0](text))


# Keyword, how to read it, its shape, what it means.
RECIPE_OPTIONS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "layers": (_positive, "N", "number of couplings"),
    "hidden": (_widths, "N,N,...", "widths of the hidden layers of each network"),
    "activation": (*_one_of(ACTIVATIONS), "of the networks"),
    "mixing": (*_one_of(MIXINGS), "what stands between the couplings"),
    "dtype": (*_one_of(("float32", "float64")), "precision of parameters and results"),
}

FIT_OPTIONS: dict[str, tuple[Callable[[str], Any], str, str]] = {
    "validation": (float, "FRACTION", "part of the rows that judges; 0 trains without"),
    "epochs": (_positive, "N", "passes over the training rows"),
    "batch_size": (_positive, "N", "rows a step"),
    "learning_rate": (float, "RATE", "the highest rate of Adam"),
    "schedule": (*_one_of(SCHEDULES), "of the rate"),
    "warmup": (
        _steps,
        "N",
        "steps, or with a point the fraction of all steps, over which the rate rises (default: 0.1; onecycle 0.3)",
    ),
    "weight_decay": (float, "DECAY", "decoupled decay of the weights of networks"),
    "clip_norm": (_number_or_none, "NORM", "gradients longer than this are shortened to it; none leaves them"),
    "patience": (_positive, "N", "epochs without a better validation loss before training stops"),
    "standardize": (
        _standardize,
        "{yes,no,robust}",
        "shift and scale columns first, by mean and deviation or by quantiles",
    ),
    "checkpoint": (
        str,
        "FILE",
        "a model file with the state of the training, replaced whenever the validation loss improves and when the command is "
        "stopped; the same command goes on from it (with --resume or --checkpoint-every alone it is MODEL)",
    ),
    "checkpoint_every": (_positive, "STEPS", "also write the checkpoint every so many steps"),
}
