"""Writes the figures of README and docs/benchmarks.md from benchmark results; with ``--check`` only compares."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from tasks import AUTOREGRESSIVE, FLOWS, LU_LAYERS, SPLINES, SPLINES_DOUBLE, TASKS

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"  # a few of them
PAGE = HERE.parent / "docs" / "benchmarks.md"  # all
RESULTS = HERE / "results" / "latest.json"
MARK = "<!-- figures -->"

COLUMNS = {
    "penstock": "penstock",
    "jax": "plain JAX, jitted",
    "torch_compiled": "plain torch, compiled",
    "torch_eager": "plain torch, eager",
}
WORK = {
    "log_prob": "log_prob of 1e5 rows",
    "sample": "sample 1e5 rows",
    "step_256": "training step of 256 rows",
    "step_4096": "training step of 4096 rows",
    "one_row": "log_prob of one row",
}


def time(seconds: float) -> str:
    """Three digits, in the unit that suits."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.3g} µs"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def tables(results: dict[str, Any]) -> str:
    """All figures."""
    place = results["machine"]
    names = [name for name in COLUMNS if name in results["versions"]]
    versions = {k: v for peer in results["versions"].values() for k, v in peer.items()}
    isa = versions.pop("isa")
    lines = [
        f"{place['processor']}, {results['threads']} threads, {isa}, float32; medians of {results['rounds']} rounds in turns; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + ". A peer's ratio to penstock stands in brackets.",
        "",
    ]
    if "tasks" in results:
        lines.append("| Real NVP | " + " | ".join(COLUMNS[name] for name in names) + " | share of FMA peak |")
        lines.append("|---|" + "---|" * (len(names) + 1))
        for flow, tasks in results["tasks"].items():
            shape = FLOWS[flow]
            for task, readings in tasks.items():
                own = readings["penstock"]["median"]
                cells = [time(own)]
                for name in names[1:]:
                    median = readings.get(name, {}).get("median")
                    cells.append("–" if median is None else f"{time(median)} ({median / own:.2g})")
                peaks = readings.get("fma_peak_gflops")
                share = f"{shape.flops * TASKS[task].rows / own / 1e9 / max(peaks):.2f}" if peaks else ""
                work = f"D{shape.dim}, {shape.layers} layers, {shape.width}×{shape.width}: {WORK[task]}"
                lines.append(f"| {work} | " + " | ".join(cells) + f" | {share} |")
        lines.append("")
    if "splines" in results:
        lines += splines(results["splines"])
    rows = other(results)
    if rows:
        lines += ["| besides | |", "|---|---|", *(f"| {what} | {value} |" for what, value in rows), ""]
    return "\n".join(lines)


def few(results: dict[str, Any]) -> str:
    """The figures of the README: the recipe that comes first, and what it costs to have it installed."""
    timed = results["splines"]["NSF_AR8"]
    peers = {"flowjax": "flowjax, jitted", "zuko": "zuko"}
    lines = ["| `nsf_ar`, 8 dimensions | penstock | " + " | ".join(peers.values()) + " |", "|---|---|---|---|"]
    for task in ("log_prob", "sample", "step_256", "one_row"):
        own, *others = (timed[task][name]["median"] for name in ("penstock", *peers))
        lines.append(
            f"| {WORK[task]} | {time(own)} | " + " | ".join(f"{x / own:.0f} times that" for x in others) + " |"
        )
    f = results["footprint"]
    lines.append(
        f"| installed, beside NumPy; import, after NumPy's | {sum(f['installed_bytes'].values()) / 1e6:.1f} MB; "
        f"{1e3 * f['import_penstock_after_numpy']:.0f} ms | | |"
    )
    place = results["machine"]
    where = (
        f"{place['processor']}, {results['threads']} threads, float32, medians of {results['rounds']} rounds in turns."
    )
    return "\n".join([*lines, "", where, ""])


def splines(timed: dict[str, Any]) -> list[str]:
    """The table of spline flows."""
    peers = {"flowjax": "flowjax, jitted", "zuko": "zuko", "madspace": "MadSpace"}
    names = {"NSF8": "`nsf`, 5 layers", "NSF_AR8": "`nsf_ar`, 5 layers", "NSF8x6": "`nsf`, 6 layers, float64"}
    lines = ["| rational-quadratic splines, D8, 64×64, 8 bins | penstock | " + " | ".join(peers.values()) + " |"]
    lines.append("|---|---|" + "---|" * len(peers))
    for flow in [*SPLINES, *SPLINES_DOUBLE]:
        for task, readings in timed.get(flow, {}).items():
            own = readings["penstock"]["median"]
            cells = [time(own)]
            for peer in peers:
                median = readings.get(peer, {}).get("median")
                cells.append("–" if median is None else f"{time(median)} ({median / own:.2g})")
            lines.append(f"| {names[flow]}: {WORK[task]} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def other(results: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures that have no peer."""
    rows = []
    for name, timed in results.get("lu", {}).items():
        layer = LU_LAYERS[name]
        there, back = timed["lu_forward"], timed["lu_inverse"]
        own = f"{time(there['penstock']['median'])} / {time(back['penstock']['median'])}"
        against = [
            f"{label} {time(there[peer]['median'])} / {time(back[peer]['median'])}"
            for peer, label in (("torch_eager", "torch's bare product / two solves"), ("nflows", "nflows"))
            if "median" in there.get(peer, {})
        ]
        rows.append((f"LU layer, D{layer.dim}, {layer.rows} rows: forward / inverse", "; ".join([own, *against])))
    if "glow" in results:
        rows.append(
            ("`glow` over `realnvp` of the same size, D16, log_prob of 1e5 rows", f"{results['glow']['ratio']:.2f}")
        )
    for name, timed in results.get("autoregressive", {}).items():
        flow = AUTOREGRESSIVE[name]
        medians = [time(statistics.median(timed[task])) for task in ("log_prob", "sample")]
        what = f"`{flow.recipe}`, D{flow.dim}, {flow.layers} layers, {flow.width}×{flow.width}: log_prob / sample of 1e5 rows"
        rows.append((what, f"{medians[0]} / {medians[1]}, a ratio of {timed['ratio']:.2f}"))
    if "share" in results:
        rows.append(("share of the splines in log_prob of `nsf`", f"{results['share']['share']:.2f}"))
    if "scaling" in results:
        ratios = ", ".join(f"{flow} {value['ratio']:.2f}" for flow, value in results["scaling"].items())
        rows.append(("two threads over one, log_prob of 1e5 rows", ratios))
    if "footprint" in results:
        f = results["footprint"]
        if "fit_memory" in f:
            megabytes = f["fit_memory"]["above_import"] / 1e6
            rows.append(
                ("memory of `fit` on 1e6 × 16 rows from a memmap, batch 1e5", f"{megabytes:.0f} MB above the import")
            )
        more, numpy = 1e3 * f["import_penstock_after_numpy"], 1e3 * f["import_numpy"]
        rows.append(("`import penstock`", f"{more:.0f} ms after NumPy's own {numpy:.0f} ms"))
        sizes = f["installed_bytes"]
        rows.append(
            (
                "installed size without NumPy",
                f"{sum(sizes.values()) / 1e6:.1f} MB, of which penstock {sizes['penstock'] / 1e6:.1f}",
            )
        )
    if "score" in results:
        f = results["score"]
        rows.append(
            (
                f"`penstock score` of a {f['rows']:.0e} × 7 float32 file".replace("e+07", "e7"),
                f"{f['anonymous'] / 1e6:.0f} MB anonymous memory; {f['ratio']:.2f} times the time of log_prob in memory",
            )
        )
    if "numba" in results:
        n = results["numba"]
        timed = n["D16 log_prob"]
        against = f", eager torch {time(timed['torch_eager']['median'])}" if "torch_eager" in timed else ""
        rows.append(("Numba backend, D16, log_prob of 1e5 rows", time(timed["penstock_numba"]["median"]) + against))
        rows.append(
            (
                "Numba backend, first log_prob / first `fit`, cold",
                f"{n['cold']['log_prob']:.1f} s / {n['cold']['fit']:.1f} s",
            )
        )
        rows.append(("… with a filled cache", f"{n['cached']['log_prob']:.2f} s / {n['cached']['fit']:.2f} s"))
    return rows


def main() -> int:
    """Write or compare; 1 if a page says something else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page differs")
    check = parser.parse_args().check
    results = json.loads(RESULTS.read_text())
    failed = 0
    for path, figures in ((README, few), (PAGE, tables)):
        before, present, after = path.read_text().split(MARK)
        section = "\n" + figures(results)
        if not check:
            path.write_text(MARK.join([before, section, after]))
        elif present != section:
            print(f"{path.name} does not show {RESULTS.name}: run python benchmarks/report.py", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
