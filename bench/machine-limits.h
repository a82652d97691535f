// What this machine can do at this minute: read bandwidth and arithmetic peaks of some threads. Included by benchmarks,
// which are compiled for the processor that they run on.
#ifndef PAGODA_BENCH_LIMITS_H
#define PAGODA_BENCH_LIMITS_H

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <thread>
#include <vector>

#include "cpu/simd.h"

namespace pagoda::PAGODA_ISA {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// The shortest of `runs` runs of work(worker) on all threads.
template <class Work>
double bestTime(int threads, int runs, Work work) {
  double best = 1e9;
  for (int run = 0; run < runs; ++run) {
    const double start = seconds();
    std::vector<std::thread> workers;
    for (int worker = 1; worker < threads; ++worker) workers.emplace_back(work, worker);
    work(0);
    for (std::thread& worker : workers) worker.join();
    best = std::min(best, seconds() - start);
  }
  return best;
}

// Bytes a second, of an array larger than the caches.
double readBandwidth(int threads) {
  static const std::vector<uint32_t> words(64u << 20, 1);
  constexpr int kSums = 8;
  const size_t share = words.size() / threads / (kSums * kLanes) * (kSums * kLanes);
  const double time = bestTime(threads, 4, [&](int worker) {
    u32v sums[kSums] = {};
    const uint32_t* from = words.data() + worker * share;
    for (size_t i = 0; i < share; i += kSums * kLanes) {
      for (int v = 0; v < kSums; ++v) sums[v] += loadWords(from + i + v * kLanes);
    }
    u32v total = {};
    for (const u32v& sum : sums) total += sum;
    volatile uint32_t sink = total[0];
    (void)sink;
  });
  return static_cast<double>(share) * threads * sizeof(uint32_t) / time;
}

// Operations a second of step(sum, a, b), which has `operations` of them.
template <class Step>
double floatPeak(int threads, int operations, Step step) {
  constexpr int kRepeats = 200'000, kSums = 12;
  const double time = bestTime(threads, 8, [&](int worker) {
    f32v sums[kSums] = {};
    const f32v a = broadcast(static_cast<float>(worker));
    for (int i = 0; i < kRepeats; ++i) {
#pragma GCC unroll 12
      for (int s = 0; s < kSums; ++s) sums[s] = step(sums[s], a);
    }
    f32v total = {};
    for (const f32v& sum : sums) total = add(total, sum);
    volatile float sink = total[0];
    (void)sink;
  });
  return static_cast<double>(threads) * kRepeats * kSums * operations / time;
}

struct Limits {
  explicit Limits(int threads) : bandwidth(readBandwidth(threads)) {
    f32 = floatPeak(threads, 2 * kLanes, [](f32v sum, f32v a) { return fma(a, a, sum); });
    bf16 = f32;
#if defined(__AVX512BF16__)
    bf16 = floatPeak(threads, 4 * kLanes, [](f32v sum, f32v a) { return dotBf16(sum, 0x3f803f80u, a); });
#endif
  }
  double bandwidth;  // bytes a second
  double f32;        // operations a second; a multiply-add is two
  double bf16;       // of dot instructions where there are any, else f32
};

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
