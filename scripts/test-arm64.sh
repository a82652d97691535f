#!/usr/bin/env bash
# Cross-compiles the core for arm64 and runs the native tests (NEON kernels) under emulation.
# Needs Debian's g++-aarch64-linux-gnu and qemu-user. Emulation says nothing about speed.
set -euo pipefail
cd "$(dirname "$0")/.."
work=build/cmake-arm64
cmake -S . -B "$work" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ \
  "-DCMAKE_CROSSCOMPILING_EMULATOR=qemu-aarch64;-L;/usr/aarch64-linux-gnu" \
  -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_TESTS=ON
cmake --build "$work" --parallel "$(nproc)"
ctest --test-dir "$work" --verbose --no-tests=error --parallel "$(nproc)"
