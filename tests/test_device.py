"""The headers that a CUDA backend will share compile for a device, and need no stack there. Needs nvcc, but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_transforms_and_draws_compile_for_a_device_and_stay_in_registers(tmp_path: Path) -> None:
    ptx = tmp_path / "device.ptx"
    command = ["nvcc", "-std=c++20", "-arch=sm_90", "-ptx", "-fmad=false", "-Werror", "all-warnings"]
    source = ["-DPENSTOCK_ISA=device", f"-I{ROOT / 'cpp'}", ROOT / "tests" / "cpp" / "device.cu", "-o", ptx]
    subprocess.run([*command, *source], check=True)
    text = ptx.read_text()
    names = re.findall(
        r"#define PENSTOCK_TRANSFORMS.*?\n\n", (ROOT / "cpp/transforms/list.hpp").read_text() + "\n", re.DOTALL
    )
    transforms = re.findall(r"X\((\w+),", names[0])
    assert len(transforms) >= 4
    for name in transforms:
        for way in ("forward", "inverse", "backward"):
            assert len(re.findall(rf"\.entry \w*{len(way)}{way}I\w*{len(name)}{name}E\w", text)) == 2, (name, way)
    assert ".local" not in text  # arrays that are indexed by a variable, or spills
    assert ".approx" not in text  # divisions and roots with one rounding, as on the processor
