"""The command ``penstock``: ``demo`` trains on real galaxies, ``info`` tells about this installation or about a file.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import sys
from collections.abc import Sequence

import penstock as ps


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader went away (``penstock info | head -1``): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"penstock: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Build the command line."""
    top = argparse.ArgumentParser(
        prog="penstock", description="Normalizing flows as a compiled engine for NumPy arrays."
    )
    top.add_argument("--version", action="version", version=f"penstock {ps.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="train a Real NVP on the joint density of 9509 galaxies, compare, sample, draw and save",
        description="Trains a Real NVP on redshift and six magnitudes of 9509 galaxies, prints its held-out "
        "log-likelihood beside a Gaussian mixture and a kernel density estimate, and writes pictures and the model.",
    )
    demo.add_argument(
        "-o", "--output", metavar="DIR", default="penstock-demo", help="folder to write to (default: %(default)s)"
    )
    demo.add_argument(
        "--seed", type=_seed, default=0, metavar="N", help="seed of split, start and samples (default: %(default)s)"
    )
    demo.add_argument(
        "--backend", choices=("auto", "cpp", "numba"), default="auto", help="engine (default: %(default)s)"
    )
    demo.add_argument(
        "--epochs", type=_positive, default=None, metavar="N", help="train for N epochs (default: as fit decides)"
    )
    demo.add_argument("-q", "--quiet", action="store_true", help="no progress bar")
    demo.set_defaults(run=_demo)

    info = commands.add_parser(
        "info",
        help="tell about this installation, or about a model file",
        description="Without FILE: version, engine, threads and optional packages. With FILE: what the model in it is.",
    )
    info.add_argument("file", nargs="?", metavar="FILE", help="a model file, as written by flow.save")
    info.set_defaults(run=_info)
    return top


def _demo(arguments: argparse.Namespace) -> int:
    from penstock.demo import demo

    return demo(
        arguments.output,
        seed=arguments.seed,
        backend=arguments.backend,
        epochs=arguments.epochs,
        progress=False if arguments.quiet else None,
    )


def _info(arguments: argparse.Namespace) -> int:
    if arguments.file is not None:
        return _info_file(arguments.file)
    print(f"penstock {ps.__version__}, Python {platform.python_version()}, {platform.machine()}")
    try:
        flow = ps.realnvp(2)
        print(f"backend: {flow.backend}")
        print(f"threads: {ps.num_threads()}")
    except (ImportError, RuntimeError, ValueError) as error:
        print(f"backend: none ({error})")
    for package, use in OPTIONAL:
        found = importlib.util.find_spec(package) is not None
        print(f"{package}: {'yes' if found else 'no'} ({use})")
    return 0


OPTIONAL = (
    ("numba", "the pure-Python engine"),
    ("matplotlib", "pictures of the demo, history.plot()"),
    ("sklearn", "mixture and kernel estimate of the demo"),
)


def _info_file(path: str) -> int:
    flow = ps.load(path)
    print(f"{path}: {os.path.getsize(path)} bytes")
    print(f"dim {flow.dim}, context_dim {flow.context_dim}, {flow.dtype}, {flow.n_params} parameters")
    print(f"fitted: {'yes' if flow.initialised else 'no (standardisation and ActNorm are not set)'}")
    print(flow)
    print("parameters:")
    for name, array in flow.named_params().items():
        print(f"  {name:32s} {'x'.join(map(str, array.shape))}")
    return 0


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
