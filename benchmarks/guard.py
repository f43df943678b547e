"""Compares the speed of two commits, in turns, and fails if the second is slower. ``README.md`` says how to read it.

python benchmarks/guard.py 2d0f457 .
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = ROOT / "build" / "guard"
PACKAGES = [entry for entry in sys.path if entry and Path(entry).resolve() != HERE]  # NumPy and the standard library
MARGIN = 0.02  # what a task may lose
SIGMAS = 3.0  # beyond so many standard errors
READING = 0.02  # seconds that a reading lasts at least
READINGS = 3  # of which the least counts, in each round


# -- builds -------------------------------------------------------------------------------------


def git(*words: str) -> bytes:
    """What git answers."""
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, stdout=subprocess.PIPE).stdout


def name_of(revision: str) -> str:
    """The full hash of a commit; ``working-tree`` for ``.``."""
    if revision == ".":
        return "working-tree"
    try:
        return git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    except subprocess.CalledProcessError:
        raise SystemExit(f"{revision} is no commit of this repository") from None


def export_commit(commit: str, source: Path) -> None:
    """Its files."""
    if source.exists():
        return
    partial = source.with_name("source.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with tempfile.TemporaryFile() as file:
        file.write(git("archive", "--format=tar", commit))
        file.seek(0)
        with tarfile.open(fileobj=file) as archive:
            archive.extractall(partial, filter="data")
    partial.rename(source)


def export_working_tree(source: Path) -> None:
    """All files that git does not ignore. Those that did not change keep their times, so that little is compiled again."""
    listed = git("ls-files", "-z", "--cached", "--others", "--exclude-standard").decode().split("\0")
    wanted = {name for name in listed if name and (ROOT / name).is_file()}
    for path in [path for path in source.rglob("*") if path.is_file()]:
        if path.relative_to(source).as_posix() not in wanted:
            path.unlink()
    for name in wanted:
        content, copy = (ROOT / name).read_bytes(), source / name
        if not copy.exists() or copy.read_bytes() != content:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)


def build(name: str) -> Path:
    """The folder with the installed package of a commit, built unless it is there; that of the working tree always is."""
    folder = CACHE / name
    site = folder / "site"
    if name == "working-tree":
        shutil.rmtree(site, ignore_errors=True)
        export_working_tree(folder / "source")
    elif site.exists():
        return site
    else:
        export_commit(name, folder / "source")
    print(f"building {name}", file=sys.stderr, flush=True)
    partial = folder / "site.partial"
    shutil.rmtree(partial, ignore_errors=True)
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(partial),
        f"-Cbuild-dir={folder / 'cmake'}", str(folder / "source"),
    ]  # fmt: skip
    if all(importlib.util.find_spec(module) for module in ("scikit_build_core", "pybind11")):
        command.append("--no-build-isolation")
    if subprocess.run(command, cwd=folder).returncode:
        raise SystemExit(f"{name} could not be built; the message stands above")
    partial.rename(site)
    return site


# -- workers ------------------------------------------------------------------------------------


class Worker:
    """A build in a process of its own, which sleeps unless it is asked."""

    def __init__(self, name: str, site: Path, threads: int) -> None:
        self.name = name
        # Without the site module no .pth file is read: an editable installation of penstock would come first.
        path = os.pathsep.join([str(site), *PACKAGES])
        environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-S", str(HERE / "guard_worker.py")]
        self.process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        file = self.ask(do="start", threads=threads)["file"]
        if not Path(file).is_relative_to(site):
            raise SystemExit(f"{name} imported penstock from {file}")

    def ask(self, **order: Any) -> dict[str, Any]:
        """One order and its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(order) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(
                f"{self.name} ended with status {self.process.wait()} at {order}; its message stands above"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Let it end."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


# -- readings -----------------------------------------------------------------------------------


class Readings:
    """Seconds a call: for each task one pair (base, head) a round, and what went wrong instead."""

    def __init__(self) -> None:
        self.pairs: dict[str, list[tuple[float, float]]] = {}
        self.errors: dict[str, dict[str, str]] = {}

    def fail(self, task: str, build: str, message: str) -> None:
        """A task that a build cannot do is not timed any more."""
        self.errors.setdefault(task, {}).setdefault(build, message)


def measure(sites: dict[str, Path], tasks: Sequence[str], rounds: int, starts: int, threads: int) -> Readings:
    """Every task in both builds, round by round; the rounds are shared out among ``starts`` pairs of processes."""
    readings = Readings()
    for start in range(starts):
        share = rounds * (start + 1) // starts - rounds * start // starts
        workers: list[Worker] = []
        try:
            for name, site in sites.items():
                workers.append(Worker(name, site, threads))
            calls = prepare(workers, tasks, readings)
            for number in range(share):
                for task in tasks:
                    if task not in readings.errors:
                        one_round(workers, task, calls[task], number, readings)
                done = rounds * start // starts + number + 1
                print(f"\rround {done} of {rounds}", end="", file=sys.stderr, flush=True)
        finally:
            for worker in workers:
                worker.close()
    print(file=sys.stderr)
    return readings


def prepare(workers: Sequence[Worker], tasks: Sequence[str], readings: Readings) -> dict[str, int]:
    """Both builds prepare every task; how many calls make a reading, the same in both."""
    calls = {}
    for task in tasks:
        seconds = []
        for worker in workers:
            answer = worker.ask(do="prepare", task=task)
            if "error" in answer:
                readings.fail(task, worker.name, answer["error"])
            else:
                seconds.append(answer["seconds"])
        calls[task] = max(1, math.ceil(READING / min(seconds, default=READING)))
    return calls


def one_round(workers: Sequence[Worker], task: str, calls: int, number: int, readings: Readings) -> None:
    """Readings of one task in the order A B B A A B, or B A A B B A in every second round; the least of each build."""
    least = {worker.name: math.inf for worker in workers}
    for turn in range(READINGS):
        for worker in workers if (number + turn) % 2 == 0 else workers[::-1]:
            answer = worker.ask(do="time", task=task, calls=calls)
            if "error" in answer:
                readings.fail(task, worker.name, answer["error"])
                return
            least[worker.name] = min(least[worker.name], answer["seconds"])
    base, head = least.values()
    readings.pairs.setdefault(task, []).append((base, head))


# -- judging ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """A line of the table. Times are medians over rounds, in seconds."""

    task: str
    base: float
    head: float
    ratio: float  # head over base
    error: float  # standard error of the ratio, relative to 1
    verdict: str
    note: str = ""

    @property
    def changed(self) -> bool:
        """Whether it changed by more than the noise."""
        return abs(self.ratio - 1) > SIGMAS * self.error


def judge(task: str, pairs: Sequence[tuple[float, float]], exempt: str = "") -> Result:
    """A task whose times differ by a factor: the median of the paired log-ratios over rounds, and its standard error."""
    centre, error = median([math.log(head / base) for base, head in pairs])
    base, head = (statistics.median(column) for column in zip(*pairs, strict=True))
    return verdict(Result(task, base, head, math.exp(centre), error, "", exempt and f"exempt: {exempt}"))


def judge_extrapolation(task: str, pairs: Sequence[tuple[float, float]]) -> Result:
    """The median of the paired differences over that of the base: an extrapolated time may be negative in a noisy round."""
    centre, error = median([head - base for base, head in pairs])
    base = statistics.median(base for base, _ in pairs)
    if base <= 0:
        return Result(task, base, base + centre, math.nan, math.nan, "unknown", "lost in the noise")
    return verdict(Result(task, base, base + centre, 1 + centre / base, error / base, ""))


def median(values: Sequence[float]) -> tuple[float, float]:
    """The median and its standard error.

    The spread is estimated by the mean distance from the median, which outliers widen less than they widen a standard
    deviation. For a normal distribution it takes a factor sqrt(pi / 2), and a median has as much over a mean.
    """
    centre, n = statistics.median(values), len(values)
    return centre, math.pi / 2 * sum(abs(value - centre) for value in values) / ((n - 1) * math.sqrt(n))


def verdict(result: Result) -> Result:
    """The result with its verdict."""
    if not result.changed:
        word = "same"
    elif result.ratio < 1:
        word = "faster"
    elif result.note:
        word = "exempt"
    elif result.ratio - 1 > MARGIN + SIGMAS * result.error:
        word = "slower"
    else:
        word = "within margin"
    return replace(result, verdict=word)


def table(results: Sequence[Result], errors: dict[str, dict[str, str]]) -> str:
    """The results as text."""
    rows = [("task", "base ms", "head ms", "ratio", "s.e. %", "verdict", "")]
    rows += [
        (
            r.task, f"{1e3 * r.base:.4g}", f"{1e3 * r.head:.4g}", f"{r.ratio:.4f}", f"{100 * r.error:.2f}", r.verdict,
            r.note,
        )
        for r in results
    ]  # fmt: skip
    for task, builds in errors.items():
        said = "; ".join(f"{build}: {message}" for build, message in builds.items())
        rows.append((task, "", "", "", "", "not run", said))
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    lines = []
    for row in rows:
        numbers = "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:5], widths[1:5], strict=True))
        lines.append(f"{row[0]:{widths[0]}}  {numbers}  {row[5]:{widths[5]}}  {row[6]}".rstrip())
    return "\n".join(lines)


def changes(results: Sequence[Result]) -> str:
    """What changed by more than the noise, in both directions."""
    lines = []
    for word, sign in (("slower", 1), ("faster", -1)):
        found = [r for r in results if r.changed and sign * (r.ratio - 1) > 0]
        found.sort(key=lambda r: -sign * r.ratio)
        said = ", ".join(f"{r.task} {100 * (r.ratio - 1):+.1f} %" for r in found)
        lines.append(f"{word} by more than {SIGMAS:g} standard errors: {said or 'none'}")
    return "\n".join(lines)


def main() -> int:
    """Build, measure, judge; 1 if any task is slower, or cannot be done by HEAD alone."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", metavar="BASE", help="a commit")
    parser.add_argument("head", metavar="HEAD", help="a commit, or . for the working tree with what is not committed")
    parser.add_argument("--rounds", type=int, default=15, help="at least 5 (default 15)")
    parser.add_argument("--starts", type=int, default=3, help="how often both processes start anew (default 3)")
    parser.add_argument("--tasks", metavar="PATTERN", default="*", help="a shell pattern, such as 'nsf*'")
    parser.add_argument("--threads", type=int, choices=(1, 2), default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write all readings")
    given = parser.parse_args()
    if given.rounds < 5 or not 1 <= given.starts <= given.rounds:
        parser.error("a standard error needs at least 5 rounds, and every start a round")

    names = {"base": name_of(given.base), "head": name_of(given.head)}
    sites = {"base": build(names["base"]), "head": build(names["head"])}
    # For the names of the tasks alone; this interpreter need not have penstock.
    sys.path.append(str(sites["base"]))
    from guard_tasks import chosen

    tasks, lines = chosen(given.tasks)
    if not tasks:
        parser.error(f"no task matches {given.tasks!r}")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"note: the machine is busy (load {load:.2f})", file=sys.stderr)
    if given.rounds < 15:
        print("note: with fewer than 15 rounds standard errors are rough; expect false alarms", file=sys.stderr)
    readings = measure(sites, [task.name for task in tasks], given.rounds, given.starts, given.threads)

    results = [
        judge(task.name, readings.pairs[task.name], task.exempt) for task in tasks if task.name not in readings.errors
    ]
    for line in lines:
        failed = {build: said for part in line.parts for build, said in readings.errors.get(part, {}).items()}
        if failed:
            readings.errors[line.name] = failed
            continue
        few, many = (readings.pairs[part] for part in line.parts)
        pairs = [
            (line.seconds(a[0], b[0]), line.seconds(a[1], b[1])) for a, b in zip(few, many, strict=True)
        ]  # of one round
        results.append(judge_extrapolation(line.name, pairs))
    print(f"base {names['base']}, head {names['head']}, {given.threads} threads, medians of {given.rounds} rounds")
    print(table(results, readings.errors))
    print(changes(results))
    if given.json:
        content = {
            "base": names["base"],
            "head": names["head"],
            "threads": given.threads,
            "load_average": load,
            "results": [asdict(result) for result in results],
            "seconds": readings.pairs,
            "errors": readings.errors,
        }
        given.json.write_text(json.dumps(content, indent=1) + "\n")
    lost = [task for task, builds in readings.errors.items() if "base" not in builds]
    slower = [result.task for result in results if result.verdict == "slower"]
    for word, found in (("slower", slower), ("not run by head", lost)):
        if found:
            print(f"FAILED, {word}: {', '.join(found)}")
    return 1 if slower or lost else 0


if __name__ == "__main__":
    sys.exit(main())
