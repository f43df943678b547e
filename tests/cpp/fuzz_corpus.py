"""Seeds for the fuzzers of plan tables and of model files: those of all cases, and tables of what is to come, one file each.

``python tests/cpp/fuzz_corpus.py TABLES FILES``
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import files
import tables
from cases import CASES, DTYPES, bare, built


def main() -> None:
    """Write them."""
    folder, model_folder = map(Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    model_folder.mkdir(parents=True, exist_ok=True)
    flows = [case for case in CASES if "circular" not in case.name]  # a flow of circles cannot be built as yet
    seeds = {f"case-{case.name}-{t}": bare(built(case, "cpp", t))._plan.table for case in flows for t in DTYPES}
    seeds |= {f"present-{name}": make().write() for name, make in tables.PRESENT.items()}
    seeds |= {f"future-{name}": make().write() for name, (make, _) in tables.FUTURE.items()}
    for name, table in seeds.items():
        table.tofile(folder / name.replace(" ", "_"))
    models = dict(files.every()) | {"checkpoint": files.checkpoint()}
    for name, data in models.items():
        (model_folder / name.replace(" ", "_")).write_bytes(data)
    print(f"{len(seeds)} tables in {folder}, {len(models)} model files in {model_folder}")


if __name__ == "__main__":
    main()
