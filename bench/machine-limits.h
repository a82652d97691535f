// What this machine can do at most, measured in well under a second: the read bandwidth of an array that is larger than
// the caches, and the rates of float and int8 multiply-adds on registers.
#ifndef PAGODA_BENCH_LIMITS_H
#define PAGODA_BENCH_LIMITS_H

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

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

uint32_t* newWords(size_t bytes) {
  constexpr size_t kLargePage = 2u << 20;
  auto* words = static_cast<uint32_t*>(std::aligned_alloc(kLargePage, bytes));
#if defined(__linux__)
  madvise(words, bytes, MADV_HUGEPAGE);
#endif
  std::fill_n(words, bytes / sizeof(uint32_t), 1u);
  return words;
}

// Bytes a second, of an array larger than the caches, on large pages, where the system grants them.
double readBandwidth(int threads) {
  constexpr size_t kBytes = 256u << 20, kWords = kBytes / sizeof(uint32_t);
  static const std::unique_ptr<uint32_t, void (*)(void*)> words(newWords(kBytes), std::free);
  const size_t share = kWords / threads / (8 * kLanes) * (8 * kLanes);
  const double time = bestTime(threads, 4, [&](int worker) {
    u32v sums[8] = {};
    const uint32_t* from = words.get() + worker * share;
    for (size_t i = 0; i < share; i += 8 * kLanes) {
      for (int v = 0; v < 8; ++v) sums[v] += loadWords(from + i + v * kLanes);
    }
    volatile uint32_t sink = (sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7])[0];
    (void)sink;
  });
  return static_cast<double>(share) * threads * sizeof(uint32_t) / time;
}

// Operations a second of step(sum, a, b), which has `operations` of them.
template <class Sum, class Operand, class Step>
double peak(int threads, int operations, Step step) {
  constexpr int kRepeats = 200'000, kSums = 12;
  const double time = bestTime(threads, 8, [&](int worker) {
    Sum sums[kSums] = {};  // different ones, else the compiler computes one for all
    for (int s = 0; s < kSums; ++s) sums[s][0] = static_cast<decltype(+sums[s][0])>(s + worker);
    Operand a = {}, b = {};
    a[0] = b[0] = static_cast<decltype(+a[0])>(worker);
    for (int i = 0; i < kRepeats; ++i) {
#pragma GCC unroll 12
      for (int s = 0; s < kSums; ++s) sums[s] = step(sums[s], a, b);
    }
    Sum total = {};
    for (const Sum& sum : sums) total += sum;
    volatile auto sink = total[0];
    (void)sink;
  });
  return static_cast<double>(threads) * kRepeats * kSums * operations / time;
}

struct Limits {
  explicit Limits(int threads) : bandwidth(readBandwidth(threads)) {
    integers = peak<i32v, u32v>(threads, 8 * kLanes, [](i32v c, u32v a, u32v b) { return dot<8>(c, a, b); });
    f32 = peak<f32v, f32v>(threads, 2 * kLanes, [](f32v c, f32v a, f32v b) { return fma(a, b, c); });
    bf16 = kBf16Dot ? 2 * f32 : f32;  // a dot instruction of pairs at the same rate, where there is one
  }
  double bandwidth;  // bytes a second
  double integers;   // int8 operations a second; a multiply-add is two
  double f32;        // operations a second
  double bf16;
};

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
