#!/usr/bin/env bash
# On a machine with a GPU, Node, dist/ and the addon (npm run build): the whole engine on the GPU beside the CPU. The plug-in is
# the one that bench/gpu/run.sh has built, or is built now. Arguments are those of engine.mjs.
#
#   bench/gpu/run-engine.sh [options of engine.mjs]
set -euo pipefail
cd "$(dirname "$0")/../.."
library=build/gpu/out/pagoda_backend_cuda.so
if [ ! -f "$library" ] && [ -z "${PAGODA_CUDA_PLUGIN:-}" ]; then
  cmake -S . -B build/gpu -DCMAKE_BUILD_TYPE=Release -DPAGODA_BUILD_ADDON=OFF -DPAGODA_CUDA=ON \
    "-DPAGODA_OUTPUT_DIR=$(realpath -m build/gpu)/out"
  cmake --build build/gpu --parallel --target pagoda_backend_cuda
fi
export PAGODA_CUDA_PLUGIN=${PAGODA_CUDA_PLUGIN:-$library}
node dist/cli/main.js devices
exec node bench/gpu/engine.mjs "$@"
