#!/usr/bin/env bash
# The kernels of the CUDA backend as nvcc makes them, in C++ and on an emulated device: the bits of the core. Usage: ptx.sh FOLDER
# [VARIANTS], by default those of the recipes; "all" for all of them, and every test. Needs a checkout whose .venv has the package of
# the same sources, its test extra and the dev group, as .ci/run leaves it; nvcc comes from the package index where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p "$1"
folder=$(cd "$1" && pwd)
recipes='device_affine;device_spline;device_affine_lu;device_spline_lu;device_maf;device_spline_ar;device_sums'
variants=${2:-$recipes}
PATH=$PWD/.venv/bin:$PATH

if ! nvcc=$(command -v nvcc); then
  python3 -m venv "$folder/nvcc"
  "$folder/nvcc/bin/pip" install --quiet \
    nvidia-cuda-nvcc==13.0.* nvidia-nvvm==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-runtime==13.0.* nvidia-cuda-cccl==13.0.*
  nvcc=$("$folder/nvcc/bin/python" -c 'import nvidia, pathlib; print(pathlib.Path(list(nvidia.__path__)[0]) / "cu13/bin/nvcc")')
fi

# The module alone, which has the core in itself, for one instruction set; beside the package that is installed.
isa=avx2
if [ "$(uname -m)" = aarch64 ]; then isa=neon; fi
pybind=$(python -m pybind11 --cmakedir)
cmake -S . -B "$folder/ptx" -G Ninja -DCMAKE_BUILD_TYPE=Release -DPENSTOCK_MODULE=OFF -DPENSTOCK_ISAS="$isa" -DPENSTOCK_CUDA_EMULATE=ON \
  -DPENSTOCK_CUDA_PTX="$variants" -DPENSTOCK_NVCC="$nvcc" -DPython_EXECUTABLE="$(command -v python)" \
  -Dpybind11_DIR="$pybind"
cmake --build "$folder/ptx" --target _cuda_emulated
package=$(cd / && python -c 'import pathlib, penstock; print(pathlib.Path(penstock.__file__).parent)')
rm -rf "$folder/site"
mkdir "$folder/site"
cp -r "$package" "$folder/site/penstock"
cp "$folder"/ptx/_cuda_emulated*.so "$folder/site/penstock/"

export PENSTOCK_CUDA_EMULATE=1 PYTHONPATH=$folder/site
if [ "$variants" = all ]; then
  pytest -p no:cacheprovider tests/test_cuda.py
  PENSTOCK_BUILD=$folder pytest -p no:cacheprovider -m slow tests/cuda/test_broken_kernels.py
else
  pytest -p no:cacheprovider tests/test_cuda.py -k rectified
fi
