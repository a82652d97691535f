// The emulated twin of native/cuda/machine/ptx.cuh: the same functions in C++.
#pragma once

#include "../../cpu/bf16.h"
#include "../../cpu/half.h"
#include "cuda_runtime.h"

namespace pagoda::cuda {

inline uint16_t toBf16(float x) { return floatToBf16(x); }
inline uint16_t toHalf(float x) { return floatToHalf(x); }
inline float fromHalf(uint16_t bits) { return halfToFloat(bits); }

inline uint32_t packBf16(float low, float high) {
  return floatToBf16(low) | static_cast<uint32_t>(floatToBf16(high)) << 16;
}

inline float exp2Approximate(float x) { return std::exp2(x); }

inline void barrierSync(int id, int threads) { emulator::waitAtBarrier(id, threads); }
inline void barrierArrive(int id, int threads) { emulator::arriveAtBarrier(id, threads); }

inline void copyAsync16(void* shared, const void* global, int bytes) {
  emulator::queueCopy(shared, global, bytes, 16 - bytes);
}
inline void commitCopies() { emulator::commitCopies(); }
template <int kNewest>
void waitForCopies() {
  emulator::waitForCopies(kNewest);
}

/// Fragments of a warp: what each lane gives, then an element of a lane's registers.
struct MmaOperands {
  uint32_t a[4];
  uint32_t b[2];
};

inline uint16_t halfWord(const uint32_t* registers, int index) {
  return static_cast<uint16_t>(registers[index / 2] >> (16 * (index % 2)));
}

/// d += a * b, one k16 step of f32 sums in the order of k.
template <typename ToFloat>
void emulateMma16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], ToFloat toFloat) {
  MmaOperands own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  emulator::give(&own, sizeof own);
  const int lane = emulator::laneIndex();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    for (int k = 0; k < 16; ++k) {
      const auto& left = *static_cast<const MmaOperands*>(emulator::taken(row % 8 * 4 + k % 8 / 2));
      const auto& right = *static_cast<const MmaOperands*>(emulator::taken(column * 4 + k % 8 / 2));
      const float x = toFloat(halfWord(left.a, 4 * (k / 8) + 2 * (row / 8) + k % 2));
      const float y = toFloat(halfWord(right.b, 2 * (k / 8) + k % 2));
      d[i] += x * y;
    }
  }
}

inline void mmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulateMma16(d, a, b, bf16ToFloat);
}

inline void mmaHalf(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulateMma16(d, a, b, halfToFloat);
}

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8.
template <bool kTransposed>
void emulateLdmatrix(uint32_t (&d)[4], const void* row) {
  emulator::give(&row, sizeof row);
  const int lane = emulator::laneIndex();
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t pair[2];
    for (int i = 0; i < 2; ++i) {
      const int outer = lane / 4, inner = 2 * (lane % 4) + i;
      const int source = kTransposed ? inner : outer, element = kTransposed ? outer : inner;
      const void* address;
      std::memcpy(&address, emulator::taken(8 * matrix + source), sizeof address);
      pair[i] = static_cast<const uint16_t*>(address)[element];
    }
    d[matrix] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

inline void ldmatrix(uint32_t (&d)[4], const void* row) { emulateLdmatrix<false>(d, row); }
inline void ldmatrixTransposed(uint32_t (&d)[4], const void* row) { emulateLdmatrix<true>(d, row); }

}  // namespace pagoda::cuda
