#!/usr/bin/env bash
# All that only a GPU can show, in one command of less than ten minutes: build for the card at hand, the tests on the real module
# with three grids, bits at sizes that tests do not have, compute-sanitizer, round trips with CuPy and torch on a stream of their own,
# fork, threads, times by events beside torch.compile and JAX, counters of ncu; last a table, and benchmarks/results/cuda_<card>.json.
#
#   .ci/gpu_gate.sh                                  builds and installs into build/gpu_gate/venv
#   PYTHON=.venv/bin/python .ci/gpu_gate.sh          takes what is installed there
#   PENSTOCK_CUDA_EMULATE=1 PYTHON=… .ci/gpu_gate.sh   the same commands on emulated devices, at tiny sizes: a rehearsal
#
# GATE_FOLDER: where it works. GATE_SECONDS: after these (600) the parts that are left are skipped. GATE_PEERS=0: installs no other
# libraries. GATE_TESTS: arguments of pytest instead of its own.
# A part that cannot run is skipped and says why; one that fails does not keep the others from running. Fails if one has failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
emulated=${PENSTOCK_CUDA_EMULATE:-}
deadline=${GATE_SECONDS:-600}
mkdir -p "${GATE_FOLDER:-build/gpu_gate}"
folder=$(cd "${GATE_FOLDER:-build/gpu_gate}" && pwd)
: >"$folder/steps.tsv"
rm -f "$folder"/{times,peers}.json "$folder/ncu.csv"

note() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$4" >>"$folder/steps.tsv"; }
skip() {
  printf '\n=== %s   skipped: %s\n' "$1" "$2"
  note "$1" skipped 0 "$2"
}
# part NAME SECONDS COMMAND…: its output to the screen and to NAME.log; status 77 is a skip that says why in its last lines.
part() {
  local name=$1 limit=$2 begin=$SECONDS status=0 why
  shift 2
  if [ "$SECONDS" -ge "$deadline" ]; then
    skip "$name" "no time is left of $deadline s"
    return 77
  fi
  [ "$limit" -le $((deadline - SECONDS)) ] || limit=$((deadline - SECONDS))
  printf '\n=== %s   [%d s]\n' "$name" "$SECONDS"
  timeout --kill-after=10 "$limit" "$@" 2>&1 | tee "$folder/$name.log" || status=${PIPESTATUS[0]}
  why=$(grep -v '^ *$' "$folder/$name.log" | tail -1 | tr '\t' ' ' | cut -c1-110)
  case $status in
    0) note "$name" ok $((SECONDS - begin)) '' ;;
    77) note "$name" skipped $((SECONDS - begin)) "${why#skipped: }" ;;
    124 | 137) note "$name" FAILED $((SECONDS - begin)) "not done within $limit s" ;;
    *) note "$name" FAILED $((SECONDS - begin)) "${why:-status $status}" ;;
  esac
  return "$status"
}
# A program on the path, in a toolkit's folder, or in a package of the Python in use.
find_tool() {
  local at
  for at in "$(command -v "$1")" /usr/local/cuda*/bin/"$1" /opt/nvidia/nsight-compute/*/"$1" \
    "$("${python:-python3}" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"/nvidia/cu13/bin/"$1"; do
    if [ -x "$at" ]; then
      echo "$at"
      return
    fi
  done
  return 1
}

printf '=== the card\n'
if [ -n "$emulated" ]; then
  echo 'emulated devices: a rehearsal, whose times are not times of a GPU'
  capability=90
elif card=$(nvidia-smi --query-gpu=name,driver_version,compute_cap,power.limit,clocks.max.sm --format=csv,noheader 2>&1); then
  echo "$card" | tee "$folder/card.txt"
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d '.')
else
  echo "no GPU here (${card:-nvidia-smi is missing}): PENSTOCK_CUDA_EMULATE=1 rehearses"
  exit 1
fi

build() {
  set -e
  python3 -m venv "$folder/venv"
  local pip=$folder/venv/bin/pip nvcc
  if [ -n "$emulated" ]; then
    "$pip" install --quiet '.[test]'
    return
  fi
  # Wheels of the core and of the module for the card, at the same time.
  "$pip" wheel --quiet --no-deps --wheel-dir "$folder/core" . &
  local core=$!
  nvcc=$(find_tool nvcc || true)
  if [ -n "$nvcc" ] && "$nvcc" --version | grep -q 'release 1[3-9]'; then
    echo "compiler: $nvcc"
    "$pip" install --quiet scikit-build-core 'pybind11>=3' cmake ninja
    PATH=$folder/venv/bin:$PATH CUDACXX=$nvcc SKBUILD_CMAKE_DEFINE=CMAKE_CUDA_ARCHITECTURES=$capability-real \
      "$pip" wheel --quiet --no-deps --no-build-isolation --wheel-dir "$folder/cuda" ./cuda
  else
    echo 'compiler: that of the package index'
    .ci/build_cuda.sh "$folder/cuda" "$capability-real"
  fi
  wait "$core"
  "$pip" install --quiet --force-reinstall "$(ls "$folder"/core/penstock-*.whl)[test]" "$folder"/cuda/penstock_cuda13-*.whl
}
export folder capability emulated
export -f build find_tool
if [ -n "${PYTHON:-}" ]; then
  python=$PYTHON
  skip build "what $PYTHON has is taken"
else
  part build 420 bash -c build
  python=$folder/venv/bin/python
fi
gate=("$python" benchmarks/cuda_gate.py)
if ! part device 60 "${gate[@]}" device; then
  echo 'the backend has no device: nothing else can run'
  cat "$folder/steps.tsv"
  exit 1
fi

# Other libraries come while tests run, where they are missing and there is a GPU that they could use.
peers=
if [ -n "$emulated" ]; then
  echo 'emulated: other libraries are not installed, since they could not use such a device'
elif [ "${GATE_PEERS:-1}" = 1 ]; then
  {
    for package in cupy-cuda13x torch 'jax[cuda13]' nvidia-cuda-sanitizer-api; do
      timeout 150 "$python" -m pip install --quiet --no-input "$package" >"$folder/install.log" 2>&1 ||
        echo "cannot be installed: $package: $(tail -1 "$folder/install.log" | cut -c1-200)"
    done
  } >"$folder/installs.txt" &
  peers=$!
fi

# The whole suite; then, all at the same time, its first file again, and with the grids that chunks of 128 and of 1024 rows make.
first=(-p no:cacheprovider -q)
if [ -n "${GATE_TESTS:-}" ]; then
  read -ra more <<<"$GATE_TESTS"
  first+=("${more[@]}")
  again=("${first[@]}")
elif [ -n "$emulated" ]; then
  first+=(tests/test_cuda.py -k 'draws and realnvp_relu')
  again=("${first[@]}")
else
  again=("${first[@]}" tests/test_cuda.py)
  first+=(tests/test_cuda.py tests/test_cuda_arrays.py tests/test_cuda_backend.py)
fi
part tests 180 "$python" -m pytest "${first[@]}"
together=()
for chunk in own 128 1024; do
  chunks=${chunk#own}
  (part "tests_chunk_$chunk" 150 env PENSTOCK_CUDA_CHUNK="$chunks" "$python" -m pytest "${again[@]}" >/dev/null) &
  together+=($!)
done
wait "${together[@]}"
for name in tests tests_chunk_own tests_chunk_128 tests_chunk_1024; do
  tail -1 "$folder/$name.log"
  if ! grep -q '[1-9][0-9]* passed' "$folder/$name.log"; then  # all of them skipped, for want of a device that they see
    sed -i "s/^$name\tok\t\([0-9]*\)\t.*/$name\tFAILED\t\1\tno test has run/" "$folder/steps.tsv"
  fi
done

part bits 120 "${gate[@]}" bits
part fork 60 "${gate[@]}" fork
part threads 60 "${gate[@]}" threads

[ -z "$peers" ] || { wait "$peers"; cat "$folder/installs.txt"; }
part torch 90 "${gate[@]}" torch
part cupy 90 "${gate[@]}" cupy

if sanitizer=$(find_tool compute-sanitizer); then
  for tool in memcheck racecheck initcheck synccheck; do
    part "sanitizer_$tool" 120 "$sanitizer" --tool "$tool" --error-exitcode 9 "${gate[@]}" once
    # What it cannot look at (a container, a card that it does not know) is no fault of the kernels.
    if grep -q -i 'not supported\|unable to\|failed to initialize' "$folder/sanitizer_$tool.log"; then
      sed -i "s/^sanitizer_$tool\tFAILED/sanitizer_$tool\trefused/" "$folder/steps.tsv"
    fi
  done
else
  skip sanitizer 'compute-sanitizer is missing'
  part once 90 "${gate[@]}" once # what it would have looked at
fi

part times 150 "${gate[@]}" times --out "$folder/times.json"
part peers 150 "${gate[@]}" peers --out "$folder/peers.json"

if ncu=$(find_tool ncu); then
  metrics=gpu__time_duration.sum,sm__inst_executed_pipe_fma.avg.pct_of_peak_sustained_active
  metrics+=,smsp__issue_active.avg.pct_of_peak_sustained_active,sm__warps_active.avg.pct_of_peak_sustained_active
  metrics+=,l1tex__data_pipe_lsu_wavefronts_mem_shared.sum,l1tex__data_bank_conflicts_pipe_lsu_mem_shared.sum,dram__bytes.sum
  metrics+=,launch__registers_per_thread,launch__occupancy_limit_registers,launch__occupancy_limit_shared_mem
  part ncu 120 "$ncu" --csv --metrics "$metrics" --kernel-name 'regex:kernel_' --launch-count 40 "${gate[@]}" large &&
    cp "$folder/ncu.log" "$folder/ncu.csv"
  if grep -q ERR_NVGPUCTRPERM "$folder/ncu.log"; then
    sed -i "s/^ncu\t[^\t]*\t\([0-9]*\)\t.*/ncu\trefused\t\1\tthe driver lets no one but root read counters/" "$folder/steps.tsv"
    rm -f "$folder/ncu.csv"
  fi
else
  skip ncu 'ncu is missing'
  part large 90 "${gate[@]}" large # what it would have looked at
fi

printf '\n=== what came of it   [%d s]\n' "$SECONDS"
"${gate[@]}" report "$folder"
