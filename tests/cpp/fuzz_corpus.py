"""Seeds for the fuzzer of plan tables: the tables of all cases, and of what is to come, one file each.

``python tests/cpp/fuzz_corpus.py FOLDER``
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import tables
from cases import CASES, DTYPES, bare, built


def main() -> None:
    """Write them."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    flows = [case for case in CASES if "circular" not in case.name]  # a flow of circles cannot be built as yet
    seeds = {f"case-{case.name}-{t}": bare(built(case, "cpp", t))._plan.table for case in flows for t in DTYPES}
    seeds |= {f"present-{name}": make().write() for name, make in tables.PRESENT.items()}
    seeds |= {f"future-{name}": make().write() for name, (make, _) in tables.FUTURE.items()}
    for name, table in seeds.items():
        table.tofile(folder / name.replace(" ", "_"))
    print(f"{len(seeds)} tables in {folder}")


if __name__ == "__main__":
    main()
