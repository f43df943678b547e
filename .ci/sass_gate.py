"""What a compiler makes of the kernels for GPUs, read from machine code without a GPU, and held against what it was.

Compiles the kernels of recipes and those of sums with the definitions and flags of cmake/cuda.cmake, disassembles them, and
prints for each kernel registers, spilled bytes, stack, barriers and size; for each width of strips the largest loop that
multiplies: instructions, fused products and their share, loads; and how many blocks fit on a multiprocessor.
``benchmarks/cuda_static.json`` has the figures of the last ``--record``. Fails where a bar is missed that was met, or where a
figure got worse.

Usage: ``python .ci/sass_gate.py [--keep FOLDER] [--only NAME ...] [--all] [--record]``. Needs nvcc (``NVCC``, or on the path),
and nvdisasm (``NVDISASM``, on the path, or in a package of this Python: ``pip install nvidia-cuda-nvdisasm``).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "benchmarks" / "cuda_static.json"
EVERY, SUMS = "device_every", "device_sums"
LANE_ROWS = 4  # rows a thread multiplies, each by the outputs of a strip: cpp/cuda/linear.hpp
STRIPS = 4, 8, 16  # outputs
STRIPS_FROM, OTHER = 0.5, "other"  # loops with a lower share multiply by the way: no strip of outputs
# Kernels of which a multiplying loop is expected.
MULTIPLYING = "evaluate", "vjp", "train", "linear_sums"
BARS = {"registers": 168, "spill_bytes": 0, "stack_bytes": 0, "share": {"16": 0.87, "8": 0.75, "4": 0.75}}
SLACK = {"registers": 4, "share": 0.02}  # what a figure may lose against the record while it keeps the bar


# --- how the kernels are built -----------------------------------------------------------------------------------


@dataclass
class Build:
    """A file, what it is compiled with, and the name of what comes out."""

    name: str
    source: Path
    options: list[str]


def builds(arch: str) -> list[Build]:
    """As cmake/cuda.cmake has them."""
    text = (ROOT / "cmake" / "cuda.cmake").read_text()

    def one(pattern: str) -> str:
        found = re.search(pattern, text, re.DOTALL)
        if found is None:
            raise SystemExit(
                f"cmake/cuda.cmake has nothing like {pattern!r}: this script reads kernels and flags there"
            )
        return found[1]

    flags = one(r'penstock_kernels\(0 "([^"]*)"').replace("\\\n", "").split(";")
    flags = [flag for flag in flags if not flag.startswith("-Xcompiler")]
    defines = one(r"PRIVATE (PENSTOCK_CUDA_EMULATED=\$\{emulated\}[^)]*PENSTOCK_ISA=\$\{name\})\)")
    parts = dict(re.findall(r'set\(PENSTOCK_PARTS_(\w+) "([^"]*)"\)', text))
    made = []
    for name in [*one(r"set\(PENSTOCK_VARIANTS ([^)]*)\)").split(), SUMS]:
        words = defines.replace("${emulated}", "0").replace("${name}", name).split()
        if name in parts:
            words.append(f"PENSTOCK_PARTS=({parts[name]})")
        source = ROOT / "cpp" / "cuda" / ("sums.cu" if name == SUMS else "kernels.cu")
        made.append(
            Build(name, source, [*flags, f"-arch={arch}", f"-I{ROOT / 'cpp'}", *(f"-D{word}" for word in words)])
        )
    return made


def tool(variable: str, name: str) -> str:
    """Where a program is: named by a variable, on the path, or in a package of this Python."""
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        spec = importlib.util.find_spec("nvidia")
        places = list(spec.submodule_search_locations or []) if spec else []
        found = next((str(own) for place in places for own in Path(place).glob(f"cu*/bin/{name}")), "")
    if not found:
        raise SystemExit(f"{name} is missing: name it by {variable}, or pip install nvidia-cuda-{name}")
    return found


def digest(build: Build, compiler: str) -> str:
    """Of all that decides what comes out."""
    own = hashlib.sha256("\n".join([compiler, *build.options, build.source.name]).encode())
    for path in sorted((ROOT / "cpp").rglob("*.[hc][pu]*")):
        own.update(path.read_bytes())
    return own.hexdigest()


def compiled(build: Build, folder: Path, nvcc: str, version: str, limit: float) -> tuple[Path, str]:
    """The machine code and what the assembler says of it; as they lie in the folder where nothing has changed."""
    cubin, log, key = (folder / f"{build.name}.{suffix}" for suffix in ("cubin", "log", "key"))
    now = digest(build, version)
    if not (cubin.is_file() and key.is_file() and key.read_text() == now):
        key.unlink(missing_ok=True)
        command = [nvcc, *build.options, "-cubin", "-Xptxas", "-v", str(build.source), "-o", str(cubin)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{build.name}: not compiled within {limit:.0f} s") from None
        if done.returncode:
            raise SystemExit(f"{build.name}: nvcc fails\n{done.stderr}")
        log.write_text(done.stderr + done.stdout)
        key.write_text(now)
    return cubin, log.read_text()


# --- what machine code says --------------------------------------------------------------------------------------


def kernel_name(symbol: str) -> str:
    """``evaluate float32`` of a mangled name; empty for what is no kernel."""
    found = re.match(r"_ZN(?:\d+[a-z]\w*?)?\d+kernel_(.*)", symbol)
    if found is None:
        return ""
    length = re.search(r"(\d+)kernel_", symbol)
    assert length is not None
    digits = length[1]
    rest = found[1]
    for skip in range(len(digits)):  # the length may follow a name that ends in a digit
        n = int(digits[skip:]) - len("kernel_")
        if 0 < n <= len(rest) and re.fullmatch(r"[a-z_]+", rest[:n]) and rest[n : n + 1] in "IE":
            dtype = {"If": " float32", "Id": " float64"}.get(rest[n : n + 2], "")
            return rest[:n] + dtype
    return ""


def resources(log: str) -> dict[str, dict[str, int]]:
    """What the assembler says of each kernel, with the functions that it calls."""
    found: dict[str, dict[str, int]] = {}
    for part in log.split("Compiling entry function '")[1:]:
        used = re.search(r"Used (\d+) registers, used (\d+) barriers(?:, (\d+) bytes cumulative stack)?", part)
        assert used is not None, part
        spills = [int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", part)]
        frames = [int(n) for n in re.findall(r"(\d+) bytes stack frame", part)]
        found[kernel_name(part.split("'")[0])] = {
            "registers": int(used[1]),
            "spill_bytes": sum(spills),
            "stack_bytes": max(int(used[3] or 0), *frames),
            "barriers": int(used[2]),
        }
    return found


@dataclass
class Instruction:
    """One line: FFMA, FFMA.FTZ, its operands, and the label it may jump to."""

    op: str
    operands: str

    @property
    def base(self) -> str:
        """Without modifiers."""
        return self.op.partition(".")[0]


def instructions(section: str) -> tuple[list[Instruction], dict[str, int]]:
    """Lines of a section, and what number each label stands before."""
    lines: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in section.splitlines():
        if label := re.match(r"(\.L_x?_?\w+):", line):
            labels[label[1]] = len(lines)
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*)", line):
            lines.append(Instruction(found[1], found[2]))
    return lines, labels


def product_loops(lines: list[Instruction], labels: dict[str, int], fma: str) -> list[dict[str, Any]]:
    """The innermost loops that multiply: bodies of backward branches, in which no smaller one multiplies."""
    ends = []
    for i, line in enumerate(lines):
        target = re.search(r"\.L_x?_?\w+", line.operands) if line.base == "BRA" else None
        if target is not None and labels.get(target[0], len(lines)) <= i:
            ends.append((labels[target[0]], i))
    multiply = []
    for first, last in ends:
        body = lines[first : last + 1]
        count = Counter(line.base for line in body)
        if count[fma] >= 16 and count[fma] >= 0.3 * len(body):
            multiply.append((first, last, count))
    loops = []
    for first, last, count in multiply:
        if any(
            other != (first, last) and first <= other[0] and other[1] <= last for other in (m[:2] for m in multiply)
        ):
            continue
        n = last - first + 1
        # Each input brings the rows of a lane, by loads of 16 bytes from a memory that the compiler does not know, and its
        # product with a row is one instruction for each output. Registers tell only where a sum stays in its own.
        inputs = count["LD"] / (1 if fma == "FFMA" else 2)
        sums = {line.operands.split(",")[0].strip() for line in lines[first : last + 1] if line.base == fma}
        products = count[fma] / inputs if inputs else len(sums)
        strip = min(STRIPS, key=lambda strip: abs(strip * LANE_ROWS - products))
        within = [(a, b) for a, b in ends if first <= a and b <= last and (a, b) != (first, last)]
        own = n - len({i for a, b in within for i in range(a, b + 1)})
        loops.append(
            {
                "strip": str(strip) if count[fma] >= STRIPS_FROM * own else OTHER,
                "instructions": own,  # without those of loops within, which bring weights
                "all_instructions": n,
                "fma": count[fma],
                "share": round(count[fma] / own, 4),
                "lds": count["LDS"],
                "ldg": count["LDG"],
                "ld_generic": count["LD"],
                "local": count["LDL"] + count["STL"],
                "calls": count["CALL"],
                "loops_within": len(within),
            }
        )
    return loops


def kernels(sass: str, log: str) -> dict[str, dict[str, Any]]:
    """What there is to say of each kernel of a file."""
    said = resources(log)
    found: dict[str, dict[str, Any]] = {}
    parts = re.split(r"\n\s*\.section\s+\.text\.([^,]+),.*\n", sass)
    for symbol, section in zip(parts[1::2], parts[2::2], strict=True):
        name = kernel_name(symbol.strip('"'))
        if not name:
            continue
        lines, labels = instructions(section)
        fma = "DFMA" if name.endswith("float64") else "FFMA"
        own: dict[str, Any] = {**said[name], "code_bytes": 16 * len(lines)}
        own["calls"] = sum(line.base == "CALL" for line in lines)
        if name.split()[0] in MULTIPLYING:
            own["loops"] = {}
            for loop in product_loops(lines, labels, fma):
                kept = own["loops"].setdefault(loop.pop("strip"), loop)
                if (loop["fma"], loop["share"]) > (kept["fma"], kept["share"]):
                    kept.update(loop)
        found[name] = own
    assert found.keys() == said.keys(), (sorted(found), sorted(said))
    return dict(sorted(found.items()))


# --- blocks on a multiprocessor ----------------------------------------------------------------------------------

# Shared memory of a multiprocessor and of a block that asks for it, warps and blocks of a multiprocessor.
CARDS = {
    "H100": (233472, 232448, 64, 32),
    "A100": (167936, 166912, 64, 32),
    "RTX 4090": (102400, 101376, 48, 24),
    "L40S": (102400, 101376, 48, 24),
}


def blocks_at_once(registers: int, threads: int, shared: int, card: str = "H100") -> int:
    """By the rules of cuda_occupancy.h: 64 K registers, 256 at a time, four partitions; 1 KB of each block is reserved."""
    of_all, of_block, warps, blocks = CARDS[card]
    if shared > of_block:
        return 0
    block_warps = -(-threads // 32)
    by_registers = 65536 // 4 // (-(-registers * 32 // 256) * 256) * 4 // block_warps
    by_shared = of_all // (-(-(shared + 1024) // 128) * 128)
    return min(by_registers, by_shared, warps // block_warps, blocks)


FLOWS = {
    "realnvp D16, 8 of 64x64": (
        "device_affine",
        "ps.realnvp(16, layers=8, hidden=(64, 64), activation='relu', mixing='none', backend='cuda', rng=0)",
    ),
    "nsf D8, 5 of 64x64, 8 bins": (
        "device_spline",
        "ps.nsf(8, layers=5, hidden=(64, 64), activation='relu', mixing='random', bins=8, backend='cuda', rng=0)",
    ),
}
SHARED = """
import importlib, json, sys
import penstock as ps
module = importlib.import_module("penstock._cuda_emulated")
flow = eval(sys.argv[1])
engine = flow._runner().engine
print(json.dumps({"evaluate": module.shared_bytes(engine, False), "train": module.shared_bytes(engine, True)}))
"""


def shared_memory(expression: str, of_block: int) -> dict[str, int] | None:
    """What blocks take of it on a device that gives them so much, as the code computes it: None without emulated devices."""
    done = subprocess.run(
        [sys.executable, "-c", SHARED, expression],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PENSTOCK_CUDA_EMULATE": "1",
            "PENSTOCK_CUDA_EMULATE_LIMITS": f"shared_per_block={of_block}",
        },
    )
    if done.returncode:
        print(
            f"note: no shared memory from a flow: {(done.stderr.strip() or f'status {done.returncode}').splitlines()[-1]}"
        )
        return None
    found: dict[str, int] = json.loads(done.stdout)
    return found


# --- what is held against the record -----------------------------------------------------------------------------


NO_STRIPS = "share of strips of any width"


def figures(kernel: dict[str, Any], name: str) -> dict[str, float]:
    """Those of a kernel that have a bar, flat. One that should multiply and has no strips has a share of 0 of them."""
    found: dict[str, float] = {key: kernel[key] for key in ("registers", "spill_bytes", "stack_bytes")}
    if name.endswith("float32") and name.split()[0] in MULTIPLYING:  # in float64 a product takes two issues
        for strip, loop in kernel["loops"].items():
            found[f"share of {strip}" if strip == OTHER else f"share of strips of {strip}"] = loop["share"]
        if not kernel["loops"].keys() - {OTHER}:
            found[NO_STRIPS] = 0.0
    return found


def bar(figure: str) -> float:
    """Of a figure."""
    if figure.startswith("share"):
        last = figure.split()[-1]
        return 0.0 if last == OTHER else float(BARS["share"].get(last, 0.75))  # type: ignore[attr-defined]
    return float(BARS[figure])  # type: ignore[arg-type]


def met(figure: str, value: float) -> bool:
    """Whether a figure keeps its bar."""
    return value >= bar(figure) if figure.startswith("share") else value <= bar(figure)


def unmet(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Bars that are not met, with the present values."""
    every = {
        f"{file} {name}": {figure: value for figure, value in figures(kernel, name).items() if not met(figure, value)}
        for file, own in found.items()
        for name, kernel in own.items()
    }
    return {name: own for name, own in every.items() if own}


def complaints(found: dict[str, dict[str, Any]], record: dict[str, Any]) -> list[str]:
    """What got worse than the record allows."""
    wrong = []
    for file, kernels_of in found.items():
        for name, kernel in kernels_of.items():
            before = record["kernels"].get(file, {}).get(name)
            known = record["unmet"].get(f"{file} {name}", {})
            old = figures(before, name) if before else {}
            for figure, value in figures(kernel, name).items():
                share = figure.startswith("share")
                if not met(figure, value):
                    if figure not in known:
                        wrong.append(f"{file} {name}: {figure} is {value:g}, and the bar is {bar(figure):g}")
                    elif value < known[figure] if share else value > known[figure]:
                        wrong.append(
                            f"{file} {name}: {figure} is {value:g}, and was {known[figure]:g} (bar: {bar(figure):g})"
                        )
                elif figure in old:
                    slack = SLACK["share" if share else "registers"] if share or figure == "registers" else 0
                    if value < old[figure] - slack if share else value > max(old[figure], 0) + slack:
                        wrong.append(f"{file} {name}: {figure} is {value:g}, and was {old[figure]:g}")
            wrong += [
                f"{file} {name}: {figure} is gone"
                for figure in old
                if figure not in figures(kernel, name) and figure != NO_STRIPS
            ]
    return wrong


# --- tables ------------------------------------------------------------------------------------------------------


def show(found: dict[str, dict[str, Any]], shared: dict[str, Any]) -> None:
    """Prints them."""
    head = f"{'kernel':40}{'regs':>5}{'spill':>7}{'stack':>7}{'bar':>4}{'KiB':>7}{'calls':>6}"
    print(f"{head}  strip: products/instructions = share, LDS LDG LD (share with loops within)")
    for file, own in found.items():
        for name, k in own.items():
            loops = "; ".join(
                f"{strip}: {loop['fma']}/{loop['instructions']} = {loop['share']:.3f}, "
                f"{loop['lds']} {loop['ldg']} {loop['ld_generic']} ({loop['fma'] / loop['all_instructions']:.3f})"
                for strip, loop in sorted(
                    k.get("loops", {}).items(), key=lambda item: -int(item[0].replace(OTHER, "0"))
                )
            )
            if not loops and "loops" in k:
                loops = "no loop multiplies"
            print(
                f"{file + ' ' + name:40}{k['registers']:5}{k['spill_bytes']:7}{k['stack_bytes']:7}{k['barriers']:4}"
                f"{k['code_bytes'] / 1024:7.0f}{k['calls']:6}  {loops}"
            )
    print(
        "\nblocks on a multiprocessor at once, and KiB of shared memory; *: the room of rows is in the device's memory"
    )
    print(f"{'':44}" + "".join(f"{card:>14}" for card in CARDS))
    for flow, verbs in shared.items():
        for verb, own in verbs.items():
            cells = [
                f"{card['blocks']} at {card['shared_bytes'] / 1024:.0f}{' ' if card['room_in_shared'] else '*'}"
                for card in own["cards"].values()
            ]
            print(f"{flow + ', ' + verb:44}" + "".join(f"{cell:>14}" for cell in cells))


def occupancy(found: dict[str, dict[str, Any]], record: dict[str, Any]) -> dict[str, Any]:
    """Shared memory of flows and blocks at once of their kernels in float32, on each card."""
    all_of_it: dict[str, Any] = {}
    for flow, (file, expression) in FLOWS.items():
        all_of_it[flow] = {}
        before = record.get("shared", {}).get(flow, {})
        whole = shared_memory(expression, 1 << 30) or {verb: own["room_and_weights"] for verb, own in before.items()}
        for verb in whole:
            all_of_it[flow][verb] = {"room_and_weights": whole[verb], "cards": {}}
        for card, (_, of_block, _, _) in CARDS.items():
            sizes = shared_memory(expression, of_block) if whole else None
            for verb, own in all_of_it[flow].items():
                size = sizes[verb] if sizes else before[verb]["cards"][card]["shared_bytes"]
                kernel = found.get(file, {}).get(f"{verb} float32")
                own["cards"][card] = {
                    "shared_bytes": size,
                    "room_in_shared": size == whole[verb],
                    "blocks": blocks_at_once(kernel["registers"], 128, size, card) if kernel else None,
                }
    return all_of_it


def main() -> int:
    """As the first lines of this file have it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--keep", type=Path, default=ROOT / "build" / "sass", help="folder for what is compiled")
    parser.add_argument("--only", nargs="+", help="names of builds, as device_affine")
    parser.add_argument("--all", action="store_true", help=f"{EVERY} too, which takes minutes")
    parser.add_argument("--arch", default="sm_90")
    parser.add_argument("--limit", type=float, default=300, help="seconds for each build")
    parser.add_argument("--record", action="store_true", help=f"writes {FIGURES.relative_to(ROOT)}")
    args = parser.parse_args()
    args.keep.mkdir(parents=True, exist_ok=True)
    nvcc, nvdisasm = tool("NVCC", "nvcc"), tool("NVDISASM", "nvdisasm")
    version = re.findall(
        r"V(\d[\d.]+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    )[-1]
    record: dict[str, Any] = json.loads(FIGURES.read_text()) if FIGURES.is_file() else {"kernels": {}, "unmet": {}}
    chosen = [b for b in builds(args.arch) if (b.name in args.only if args.only else args.all or b.name != EVERY)]
    if not chosen or (args.only and len(chosen) != len(args.only)):
        raise SystemExit(
            f"there is no {' or no '.join(args.only)}: there are {', '.join(b.name for b in builds(args.arch))}"
        )
    found: dict[str, dict[str, Any]] = {}
    for build in chosen:
        cubin, log = compiled(build, args.keep, nvcc, version, args.limit)
        sass = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
        found[build.name] = kernels(sass, log)
    shared = occupancy(found, record)
    show(found, shared)
    if args.record:
        every = {**record["kernels"], **found} if args.only else found
        now = {
            "what": "static figures of machine code, computed without a GPU: python .ci/sass_gate.py --record",
            "compiler": version,
            "architecture": args.arch,
            "bars": BARS,
            "kernels": every,
            "unmet": unmet(every),
            "shared": {**record.get("shared", {}), **{flow: own for flow, own in shared.items() if own}},
        }
        FIGURES.write_text(json.dumps(now, indent=1) + "\n")
        print(f"\nwritten: {FIGURES.relative_to(ROOT)}")
        return 0
    if record.get("compiler") not in (None, version):
        print(f"note: the record is of nvcc {record['compiler']}, and this is {version}")
    wrong = complaints(found, record)
    still = {name: own for name, own in unmet(found).items()}
    print(f"\nbars not met, as recorded: {sum(len(own) for own in still.values())} figures of {len(still)} kernels")
    for name, own in record["unmet"].items():
        file, _, kernel = name.partition(" ")
        better = [figure for figure in own if file in found and figure not in still.get(name, {})]
        if better and kernel in found[file]:
            print(f"note: {name} now meets {', '.join(better)}: --record it")
    print("\n".join(["", *wrong]) if wrong else "nothing got worse")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
