"""Reverse KL: a correlated normal in ten dimensions and a target of two modes, against the truth and beside other libraries.

python benchmarks/targets.py [--peer-python-zuko PYTHON] [--peer-python-flowjax PYTHON]

Every library trains spline couplings of the same size in float32 on two threads, in as many steps of Adam with as many draws, at
a cosine rate with the same clipping; targets are in units of their own widths. Of penstock a whole ``fit_to_target`` counts, with
pilot and validation; of the others their steps alone, without compilation. Libraries take turns, and medians over rounds are
told. penstock alone has a mixture in its base: the others start at a normal one, and may lose a mode.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "variational"))
from problems import PROBLEMS, Answer, Work  # noqa: E402

CLOSE = 1e-2  # nats, by which a lower bound may miss the truth
FAST = 1 / 5  # of the time of the fastest peer
# Estimators of each library.
LIBRARIES = {
    "penstock": ("path", "reparameterised"),
    "zuko": ("reparameterised",),
    "flowjax": ("path", "reparameterised"),
}


def asked(python: str, library: str, work: Work) -> Answer:
    """The answer of a library in a process of its own."""
    threads = str(work.threads)
    found = subprocess.run(
        [python, str(HERE / "variational" / f"{library}_.py")],
        input=json.dumps(asdict(work)), capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "BENCH_THREADS": threads},
    )  # fmt: skip
    if found.returncode:
        raise RuntimeError(f"{library} failed:\n{found.stderr}")
    return Answer(**json.loads(found.stdout.splitlines()[-1]))


def row(problem: str, library: str, estimator: str, answers: list[Answer], steps: int) -> str:
    """A row of the table."""
    seconds, last = statistics.median(a.seconds for a in answers), answers[-1]
    worst = max(answers, key=lambda a: abs(a.elbo))
    cells = [problem, library, estimator, f"{seconds:.2f}", f"{1e3 * seconds / steps:.3f}", f"{last.compiling:.1f}"]
    cells += [f"{worst.elbo:.4f} ± {worst.error:.4f}", f"{last.mass:.3f}" if problem == "two_modes" else ""]
    return "| " + " | ".join(cells) + " |"


def verdict(problem: str, found: dict[tuple[str, str], list[Answer]]) -> list[str]:
    """What the bars say of a problem."""
    told = []
    worst = max(abs(a.elbo) for a in found["penstock", "path"])
    told.append(f"{problem}: the lower bound misses the truth by {worst:.4f} nats (bar {CLOSE:g})")
    if problem == "two_modes":
        mass = [a.mass for a in found["penstock", "path"]]
        told.append(f"{problem}: the first mode, of mass 0.300, has {min(mass):.3f} to {max(mass):.3f}")
    seconds = {key: statistics.median(a.seconds for a in answers) for key, answers in found.items()}
    for estimator in ("path", "reparameterised"):
        peers = {name: s for (name, how), s in seconds.items() if name != "penstock" and how == estimator}
        if peers:
            name = min(peers, key=peers.__getitem__)
            ratio = seconds["penstock", estimator] / peers[name]
            told.append(f"{problem}, {estimator}: {ratio:.3f} of the time of {name} (bar {FAST:g})")
    return told


def main() -> None:
    """Ask each in turns, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python-zuko", metavar="PYTHON", help="interpreter of an environment that has zuko")
    parser.add_argument(
        "--peer-python-flowjax", metavar="PYTHON", help="interpreter of an environment that has flowjax"
    )
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--save", type=Path, help="write all answers to this file, as JSON")
    given = parser.parse_args()
    pythons = {"penstock": sys.executable, "zuko": given.peer_python_zuko, "flowjax": given.peer_python_flowjax}
    kept, verdicts = {}, []
    print(
        "| target | library | estimator | s | ms a step | s to compile | lower bound (truth 0) | mass of the mode of 0.3 |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for problem in given.problems:
        found: dict[tuple[str, str], list[Answer]] = {}
        for seed in range(given.rounds):
            for library, estimators in LIBRARIES.items():
                for estimator in estimators if pythons[library] else ():
                    work = Work(
                        problem, estimator, given.steps, given.batch, given.rate, seed, given.threads, given.draws
                    )
                    found.setdefault((library, estimator), []).append(asked(pythons[library], library, work))
        for (library, estimator), answers in found.items():
            print(row(problem, library, estimator, answers, given.steps), flush=True)
            kept[f"{problem} {library} {estimator}"] = [asdict(answer) for answer in answers]
        verdicts += verdict(problem, found)
    print("\n" + "\n".join(verdicts))
    if given.save:
        given.save.write_text(
            json.dumps({"arguments": {k: str(v) for k, v in vars(given).items()}, "answers": kept}, indent=1)
        )


if __name__ == "__main__":
    main()
