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
inline void copyAsync4(void* shared, const void* global, int bytes) {
  emulator::queueCopy(shared, global, bytes, 4 - bytes);
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

/// Element k of a row of a (`low`: rows 0 to 7) or of a column of b, from what the four lanes that hold it gave.
inline void readLine(float (&line)[16], int group, bool ofA, int low) {
  for (int quad = 0; quad < 4; ++quad) {
    MmaOperands operands;
    std::memcpy(&operands, emulator::taken(4 * group + quad), sizeof operands);
    for (int half = 0; half < 2; ++half) {
      const uint32_t word = ofA ? operands.a[2 * half + low] : operands.b[half];
      line[8 * half + 2 * quad] = bf16ToFloat(static_cast<uint16_t>(word));
      line[8 * half + 2 * quad + 1] = bf16ToFloat(static_cast<uint16_t>(word >> 16));
    }
  }
}

/// d += a * b, one k16 step of f32 sums in the order of k.
inline void mmaBf16(float* d, const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  MmaOperands own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  emulator::give(&own, sizeof own);
  const int lane = emulator::laneIndex();
  float rows[2][16], columns[2][16];
  for (int i = 0; i < 2; ++i) {
    readLine(rows[i], lane / 4, true, i);
    readLine(columns[i], 2 * (lane % 4) + i, false, 0);
  }
  for (int i = 0; i < 4; ++i) {
    for (int k = 0; k < 16; ++k) d[i] += rows[i / 2][k] * columns[i % 2][k];
  }
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
