// Attention by m16n8k16 steps: a warp has 16 packed rows, of which lane l has parts of rows l / 4 and l / 4 + 8.
#pragma once

#include "attention-softmax.cuh"

namespace pagoda::cuda {

constexpr int kWarpRows = 16;

/// Where 16-byte chunk `chunk` of a row starts in shared memory, in elements: eight rows of a matrix then come from
/// different banks, the length of a row being a multiple of eight chunks.
__device__ __forceinline__ int swizzled(int row, int chunk) { return (chunk ^ (row % 8)) * 8; }

/// The 16 rows by 16 columns of step k, from rows in shared memory that are swizzled.
__device__ __forceinline__ void loadRows(const uint16_t* rows, int stride, int k, uint32_t (&a)[4]) {
  const int matrix = laneOf() / 8, row = 8 * (matrix % 2) + laneOf() % 8;
  ldmatrix(a, rows + row * stride + swizzled(row, 2 * k + matrix / 2));
}

/// Rows of int8 codes become swizzled rows of bf16, by all threads of the block: scaleOf(row, column) is what the eight
/// codes from a column on count.
template <int kThreads, int kRows, int kColumns, typename ScaleOf>
__device__ __forceinline__ void roundCodes(const int8_t (&codes)[kRows][kColumns], uint16_t (&rows)[kRows][kColumns],
                                           ScaleOf scaleOf) {
  constexpr int kChunks = kColumns / 8;
#pragma unroll 2
  for (int i = threadIdx.x; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks, chunk = i % kChunks;
    const int8_t* from = &codes[row][8 * chunk];
    uint16_t* to = &rows[row][swizzled(row, chunk)];
    const uint2 packed = *reinterpret_cast<const uint2*>(from);
    const float scale = scaleOf(row, 8 * chunk);
    const auto value = [&](int k) {
      const uint32_t word = k < 4 ? packed.x : packed.y;
      return static_cast<float>(static_cast<int8_t>(word >> 8 * (k % 4))) * scale;
    };
    *reinterpret_cast<uint4*>(to) = make_uint4(packBf16(value(0), value(1)), packBf16(value(2), value(3)),
                                               packBf16(value(4), value(5)), packBf16(value(6), value(7)));
  }
}

/// Scores become weights, and sums follow.
template <int kScores, int kSums>
__device__ __forceinline__ void takeScores(float (&scores)[kScores], SoftmaxState (&states)[2], float (&sums)[kSums]) {
  float factors[2];
  weighScores(scores, kLog2e, states, factors);
  scaleSums(sums, factors);
}

/// sums += weights * values; address(key, t) is where chunk t of a key's value lies.
template <int kWeights, int kSums, typename Address>
__device__ __forceinline__ void addValues(const float (&weights)[kWeights], float (&sums)[kSums], Address address) {
  const int matrix = laneOf() / 8, line = laneOf() % 8;  // of the four that a lane helps to load
#pragma unroll
  for (int k = 0; k < kWeights / 8; ++k) {
    uint32_t a[4];
    packWeights(weights, k, a);
#pragma unroll
    for (int t = 0; t < kSums / 4; t += 2) {
      uint32_t b[4];
      ldmatrixTransposed(b, address(16 * k + 8 * (matrix % 2) + line, t + matrix / 2));
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      mmaBf16(&sums[4 * t], a, first);
      mmaBf16(&sums[4 * t + 4], a, second);
    }
  }
}

}  // namespace pagoda::cuda
