#!/usr/bin/env bash
# On a machine with a GPU, nvcc, cmake and PyTorch: builds the kernels, holds them to float64 references, looks for bad
# accesses and races where compute-sanitizer works, then times them. Stops at the first wrong result. With Node and a built
# dist/ and addon, bench/gpu/run-engine.sh goes on with the whole engine.
#
#   bench/gpu/run.sh [build folder] [python]
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build/gpu}
python=${2:-python3}
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DPAGODA_BUILD_ADDON=OFF -DPAGODA_CUDA=ON \
  "-DPAGODA_OUTPUT_DIR=$(realpath -m "$build")/out"
cmake --build "$build" --parallel --target pagoda_backend_cuda
library="$(realpath "$build")/out/pagoda_backend_cuda.so"
cd bench/gpu
"$python" conformance.py "$library"
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    timeout 120 compute-sanitizer --tool "$tool" --error-exitcode 9 "$python" conformance.py "$library" |
      tail -3 || echo "compute-sanitizer $tool: exit code $?"
  done
fi
"$python" kernels.py "$library"
