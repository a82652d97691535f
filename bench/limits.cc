// Prints the limits of the machine in this minute as JSON, in bytes and operations a second. bench/cpu.mjs runs it.
//
//   cmake -S . -B build/bench -DPAGODA_BUILD_ADDON=OFF -DPAGODA_BUILD_BENCH=ON
//   cmake --build build/bench --target machine-limits && build/bench/machine-limits [threads]
#include <cstdio>
#include <cstdlib>

#include "machine-limits.h"

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::max(1, std::atoi(argv[1])) : 2;
  const pagoda::PAGODA_ISA::Limits limits(threads);
  std::printf("{\"bandwidth\": %.4g, \"f32\": %.4g, \"bf16\": %.4g, \"int8\": %.4g}\n", limits.bandwidth, limits.f32,
              limits.bf16, limits.integers);
  return 0;
}
