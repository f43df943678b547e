#!/usr/bin/env bash
# Builds the wheel of penstock-cuda13 with a compiler by pip alone, for a list of GPUs, and looks at what came out: no need of libcuda
# or libcudart, one symbol, and without a GPU one sentence. Usage: build_cuda.sh FOLDER [ARCHITECTURES], by default those of CMake.
# With PYTHON, that interpreter, and with PENSTOCK_WHEEL a wheel of the core to try it with.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=$1
architectures=${2:-}
python=${PYTHON:-python3}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

"$python" -m venv "$folder/venv"
pip=$folder/venv/bin/pip
"$pip" install --quiet scikit-build-core 'pybind11>=3' cmake ninja \
  nvidia-cuda-nvcc==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.*
toolkit=$("$folder/venv/bin/python" -c 'import nvidia, pathlib; print(pathlib.Path(list(nvidia.__path__)[0]) / "cu13")')
defines=${SKBUILD_CMAKE_DEFINE:-}
if [ -n "$architectures" ]; then
  defines="${defines:+$defines;}CMAKE_CUDA_ARCHITECTURES=${architectures//;/\\;}"
fi
PATH=$folder/venv/bin:$PATH CUDACXX=$toolkit/bin/nvcc LIBRARY_PATH=$toolkit/lib SKBUILD_CMAKE_DEFINE=$defines \
  "$pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder" ./cuda

wheel=$(ls "$folder"/penstock_cuda13-*.whl)
"$folder/venv/bin/python" - "$wheel" "$folder/module" <<'PY'
import subprocess, sys, zipfile
from pathlib import Path

with zipfile.ZipFile(sys.argv[1]) as archive:
    archive.extractall(sys.argv[2])
    print(f"{Path(sys.argv[1]).name}: {Path(sys.argv[1]).stat().st_size} bytes")
[module] = Path(sys.argv[2]).rglob("*.so")
needed = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True).stdout
assert "libcuda" not in needed and "not found" not in needed and "libstdc++" not in needed, needed
symbols = subprocess.run(["nm", "-D", "--defined-only", str(module)], capture_output=True, text=True, check=True).stdout
assert [line.split()[-1] for line in symbols.splitlines()] == ["PyInit__cuda"], symbols
PY
if [ -n "${PENSTOCK_WHEEL:-}" ]; then
  "$pip" install --quiet "$PENSTOCK_WHEEL" "$wheel"
  "$folder/venv/bin/python" -I - <<'PY'
import time

before = time.perf_counter()
from penstock_cuda13 import _cuda

loaded = time.perf_counter()
reason = _cuda.unavailable(0)
told = time.perf_counter()
print(f"loaded in {1e3 * (loaded - before):.1f} ms, asked in {1e3 * (told - loaded):.2f} ms: {reason or _cuda.device_name(0)}")
import penstock as ps

assert ps.realnvp(2, rng=0).backend == "cpp"  # a GPU is used where it is named
if _cuda.device_count() == 0:
    assert told - before < 0.5
    try:
        ps.realnvp(2, backend="cuda")
    except ImportError as error:
        assert str(error) == "backend='cuda': no NVIDIA driver or GPU here", error
    else:
        raise AssertionError("a device was found that is not there")
PY
fi
