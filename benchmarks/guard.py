"""Did anything get slower between two commits?

    python benchmarks/guard.py BASE HEAD [--rounds N] [--tasks PATTERN] [--threads N] [--json FILE]

BASE and HEAD are commits; HEAD may be ``.``, the working tree. Each is built once into ``build/guard``. Both builds then stand
ready in a process of their own, and in every round each task is timed in both, in an order that alternates (A B, then B A), the
best of three each time. A task's figure is the mean over rounds of the logarithm of HEAD's time over BASE's; its standard error
comes from the scatter of the rounds, whose tenth at either end is left out (trimmed mean and winsorised variance; Tukey,
McLaughlin 1963), since other programs disturb single rounds. A task is slower when its ratio exceeds 1.02 by more than three
standard errors; the exit status is then 1. What changed by more than three standard errors is named, in either direction.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILDS = ROOT / "build" / "guard"
TOLERANCE = 0.02
ERRORS = 3.0
INNER = 3  # readings of one task in one round, of which the least counts


def build(commit: str) -> tuple[Path, str]:
    """The folder of a build, and the name of what was built."""
    if commit == ".":
        dirty = bool(_git("status", "--porcelain"))
        name, source = _git("rev-parse", "--short", "HEAD") + ("+changes" if dirty else ""), ROOT
        folder = BUILDS / "tree"
        shutil.rmtree(folder / "site", ignore_errors=True)
    else:
        name = _git("rev-parse", "--short", f"{commit}^{{commit}}")
        folder = BUILDS / name
        source = folder / "source"
        if (folder / "site").is_dir():
            return folder / "site", name
        shutil.rmtree(folder, ignore_errors=True)
        source.mkdir(parents=True)
        archive = subprocess.run(["git", "archive", name], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "x"], cwd=source, input=archive.stdout, check=True)
    print(f"building {name}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"),
               f"-Cbuild-dir={folder / 'build'}", str(source)]  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.endswith("FLAGS")}
    subprocess.run(command, check=True, env=environment)
    return folder / "site", name


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


class Side:
    """One build in a process of its own, which works when it is told to."""

    def __init__(self, site: Path, threads: int) -> None:
        environment = {**os.environ, "PYTHONPATH": str(site), "PENSTOCK_NUM_THREADS": str(threads)}
        for name in ("PENSTOCK_BACKEND", "PENSTOCK_ISA"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__)), "--serve", str(site)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, **order: Any) -> dict[str, Any]:
        """The answer to one order."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("a build's process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve(site: str) -> None:
    """Answer orders until the input ends; in the process of one build."""
    sys.path.insert(1, str(Path(__file__).parent))
    # an editable install in this environment would come before the build
    sys.meta_path[:] = [finder for finder in sys.meta_path if not type(finder).__name__.startswith("ScikitBuild")]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no answer
    import penstock
    from guard_tasks import TASKS

    assert Path(penstock.__file__).is_relative_to(site), f"{penstock.__file__} is not in {site}"
    work: dict[str, Any] = {}
    for line in sys.stdin:
        name = json.loads(line)["task"]
        answer: dict[str, Any] = {}
        try:
            if name not in work:
                work[name] = TASKS[name]()
                work[name]()
            readings = []
            for _ in range(INNER):
                began = time.perf_counter()
                work[name]()
                readings.append(time.perf_counter() - began)
            answer["seconds"] = min(readings)
        except Exception as error:  # what one build lacks is reported, and the others go on
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


def summary(ratios: list[float]) -> tuple[float, float]:
    """Trimmed mean and standard error."""
    values, cut = sorted(ratios), len(ratios) // 10
    inner = values[cut : len(values) - cut]
    clipped = [min(max(value, inner[0]), inner[-1]) for value in values]
    centre = sum(clipped) / len(clipped)
    variance = sum((value - centre) ** 2 for value in clipped) / (len(clipped) - 1)
    share = len(inner) / len(values)
    return sum(inner) / len(inner), math.sqrt(variance / len(values)) / share


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", nargs="?")
    parser.add_argument("head", nargs="?")
    parser.add_argument("--rounds", type=int, default=30, help="at least 4 (default: %(default)s)")
    parser.add_argument("--tasks", default="*", help="a pattern of names")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to write the readings")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return 0
    if not options.base or not options.head:
        parser.error("BASE and HEAD are needed")
    if options.rounds < 4:
        parser.error("--rounds must be at least 4")
    (base_site, base), (head_site, head) = build(options.base), build(options.head)
    # The names alone, from the file: this interpreter may have no penstock.
    text = (Path(__file__).parent / "guard_tasks.py").read_text()
    block = text[text.index("TASKS: dict") :]
    names = [line.split('"')[1] for line in block.splitlines() if line.startswith('    "')]
    names = [name for name in names if fnmatch.fnmatch(name, options.tasks)]
    exempt = {line.split('"')[1] for line in block.splitlines() if line.startswith("EXEMPT")}
    sides = Side(base_site, options.threads), Side(head_site, options.threads)
    readings: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    errors: dict[str, str] = {}
    for turn in range(options.rounds):
        for name in names:
            if name in errors:
                continue
            order = (0, 1) if turn % 2 == 0 else (1, 0)
            found = {side: sides[side].ask(task=name) for side in order}
            broken = [f"{(base, head)[side]}: {found[side]['error']}" for side in (0, 1) if "error" in found[side]]
            if broken:
                errors[name] = "; ".join(broken)
            else:
                readings[name].append((found[0]["seconds"], found[1]["seconds"]))
    for side in sides:
        side.close()

    print(f"{'task':28}{base + ' ms':>14}{head + ' ms':>18}{'ratio':>9}{'s.e.':>8}")
    slower = []
    for name in names:
        if name in errors:
            print(f"{name:28}not measured: {errors[name]}")
            continue
        pairs = readings[name]
        mean, error = summary([math.log(b / a) for a, b in pairs])
        ratio = math.exp(mean)
        verdict = "" if abs(mean) <= ERRORS * error else "faster" if mean < 0 else "changed"
        if ratio - 1 > TOLERANCE + ERRORS * error:
            verdict = "slower, exempt" if name in exempt else "SLOWER"
            slower += [] if name in exempt else [name]
        medians = [1e3 * sorted(pair[side] for pair in pairs)[len(pairs) // 2] for side in (0, 1)]
        print(f"{name:28}{medians[0]:14.2f}{medians[1]:18.2f}{ratio:9.3f}{error:8.3f}  {verdict}")
    print(
        f"{options.rounds} rounds, {options.threads} threads; "
        + (f"slower: {', '.join(slower)}" if slower else "none slower")
    )
    if options.json:
        options.json.write_text(
            json.dumps({"base": base, "head": head, "readings": readings, "errors": errors}, indent=1)
        )
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
