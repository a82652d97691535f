// Attention by m16n8k16 steps: a warp has 16 packed rows, of which lane l has parts of rows l / 4 and l / 4 + 8, `0`
// and `1` below, and a tile of 64 keys. Scores and sums lie as PTX lays out the result of such a step.
#pragma once

#include "attention.cuh"

namespace pagoda::cuda {

constexpr int kWarpRows = 16;
constexpr int kKeys = 64;  // of a tile
constexpr int kKeyTiles = kKeys / 8;
static_assert(kSplitKeys % kKeys == 0);

/// Where 16-byte chunk `chunk` of a row starts in shared memory, in elements: eight rows of a matrix then come from
/// different banks, the length of a row being a multiple of eight chunks.
__device__ __forceinline__ int swizzled(int row, int chunk) { return (chunk ^ (row % 8)) * 8; }

__device__ __forceinline__ float quadSum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

__device__ __forceinline__ float quadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

/// The scores of a tile of keys become weights; the sums so far are scaled to the new largest score. A lane's state
/// counts the weights of its own columns: `finishStates` adds those of the four lanes of a row.
template <int kColumnTiles>
__device__ __forceinline__ void takeScores(float (&scores)[kKeyTiles][4], SoftmaxState (&states)[2],
                                           float (&sums)[kColumnTiles][4]) {
  constexpr float kLog2e = 1.4426950408889634f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = -kInfinity;
#pragma unroll
    for (int t = 0; t < kKeyTiles; ++t) largest = fmaxf(largest, fmaxf(scores[t][2 * r], scores[t][2 * r + 1]));
    largest = fmaxf(states[r].largest, quadMax(largest));
    const float shift = largest == -kInfinity ? 0.0f : largest * kLog2e;
    const float factor = states[r].largest == largest ? 1.0f : exp2Approximate(fmaf(states[r].largest, kLog2e, -shift));
    float sum = 0.0f;
#pragma unroll
    for (int t = 0; t < kKeyTiles; ++t) {
#pragma unroll
      for (int i = 2 * r; i < 2 * r + 2; ++i) {
        scores[t][i] = exp2Approximate(fmaf(scores[t][i], kLog2e, -shift));
        sum += scores[t][i];
      }
    }
    states[r] = {largest, fmaf(states[r].sum, factor, sum)};
#pragma unroll
    for (int t = 0; t < kColumnTiles; ++t) {
      sums[t][2 * r] *= factor;
      sums[t][2 * r + 1] *= factor;
    }
  }
}

__device__ __forceinline__ void finishStates(SoftmaxState (&states)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) states[i].sum = quadSum(states[i].sum);
}

/// sums += weights * values; address(key, t) is where chunk t of a key's value lies.
template <int kColumnTiles, typename Address>
__device__ __forceinline__ void addValues(const float (&weights)[kKeyTiles][4], float (&sums)[kColumnTiles][4],
                                          Address address) {
  const int matrix = laneOf() / 8, line = laneOf() % 8;  // of the four that a lane helps to load
#pragma unroll
  for (int k = 0; k < kKeyTiles / 2; ++k) {
    const auto& low = weights[2 * k];
    const auto& high = weights[2 * k + 1];
    const uint32_t a[4] = {packBf16(low[0], low[1]), packBf16(low[2], low[3]), packBf16(high[0], high[1]),
                           packBf16(high[2], high[3])};
#pragma unroll
    for (int t = 0; t < kColumnTiles; t += 2) {
      uint32_t b[4];
      ldmatrixTransposed(b, address(16 * k + 8 * (matrix % 2) + line, t + matrix / 2));
      const uint32_t first[2] = {b[0], b[1]}, second[2] = {b[2], b[3]};
      mmaBf16(sums[t], a, first);
      mmaBf16(sums[t + 1], a, second);
    }
  }
}

/// The score of a key after its scale and cap; -Inf where the row does not see it.
__device__ __forceinline__ float finishScore(float dot, const PagodaAttention& op, const Visible& seen, int position) {
  float score = dot * op.scale;
  if (op.softcap > 0.0f) score = op.softcap * tanhf(score / op.softcap);
  return position >= seen.first && position < seen.end ? score : -kInfinity;
}

}  // namespace pagoda::cuda
