// Transposes kLanes by kLanes words in registers: log2(kLanes) rounds, each of which exchanges half of the lanes of all
// pairs of rows that are a power of two apart (Eklundh 1972). Included by files compiled per instruction set.
#ifndef PAGODA_CPU_TRANSPOSE_H
#define PAGODA_CPU_TRANSPOSE_H

#include "simd.h"

namespace pagoda::PAGODA_ISA {
namespace {

template <int... kLane>
struct LaneList {};

template <int kCount, int... kLane>
constexpr auto lanesFrom(LaneList<kLane...>) {
  if constexpr (kCount == 0) {
    return LaneList<kLane...>{};
  } else {
    return lanesFrom<kCount - 1>(LaneList<kCount - 1, kLane...>{});
  }
}

// Lanes of a and b one behind the other, by number.
template <int... kLane>
PAGODA_INLINE u32v chooseLanes(u32v a, u32v b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, kLane...);
#else
  return __builtin_shuffle(a, b, u32v{kLane...});
#endif
}

// Lanes of a whose number has the bit kDistance change places with those of b that have it not.
template <int kDistance, int... kLane>
PAGODA_INLINE void exchange(u32v& a, u32v& b, LaneList<kLane...>) {
  const u32v first = chooseLanes<((kLane & kDistance) != 0 ? kLanes + kLane - kDistance : kLane)...>(a, b);
  b = chooseLanes<((kLane & kDistance) != 0 ? kLanes + kLane : kLane + kDistance)...>(a, b);
  a = first;
}

template <int kDistance>
PAGODA_INLINE void exchangeRows(u32v (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    if ((i & kDistance) == 0) exchange<kDistance>(rows[i], rows[i + kDistance], lanesFrom<kLanes>(LaneList<>{}));
  }
}

PAGODA_INLINE void transpose(u32v (&rows)[kLanes]) {
  exchangeRows<1>(rows);
  exchangeRows<2>(rows);
  if constexpr (kLanes > 4) exchangeRows<4>(rows);
  if constexpr (kLanes > 8) exchangeRows<8>(rows);
}

// to[lane * stride] = the words that rows of `load(row)` have in this lane.
template <class Load>
PAGODA_INLINE void storeTransposed(Load load, void* to, int64_t stride) {
  u32v rows[kLanes];
  for (int i = 0; i < kLanes; ++i) rows[i] = load(i);
  transpose(rows);
  for (int i = 0; i < kLanes; ++i) {
    __builtin_memcpy(static_cast<uint32_t*>(to) + i * stride, &rows[i], sizeof rows[i]);
  }
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
