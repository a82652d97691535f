// The online softmax of attention on the tensor cores (arXiv:1805.02867, arXiv:2205.14135). A thread has parts of two
// rows, `0` and `1` below, that it shares with the other lanes of its quad: of an array of scores or sums, elements 4 t
// + {0, 1} are of the first and 4 t + {2, 3} of the second, as PTX lays out results of mma and wgmma.
#pragma once

#include "attention.cuh"

namespace pagoda::cuda {

constexpr float kLog2e = 1.4426950408889634f;

/// The row, 0 or 1, that element i belongs to.
__host__ __device__ constexpr int rowOfElement(int i) { return i / 2 % 2; }

__device__ __forceinline__ float quadSum(float x) {
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}

__device__ __forceinline__ float quadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

/// Scores of a tile of keys become weights, 2^(unit * (score - largest)), and `factors` by how much the sums so far
/// count. The states are in units of the scores, and count the weights of the lane's own columns: `finishStates` adds
/// those of the quad. Keys that no row sees, at -Inf, change nothing, to the bit.
template <int kCount>
__device__ __forceinline__ void weighScores(float (&scores)[kCount], float unit, SoftmaxState (&states)[2],
                                            float (&factors)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = -kInfinity;
#pragma unroll
    for (int i = 2 * r; i < kCount; i += 4) largest = fmaxf(largest, fmaxf(scores[i], scores[i + 1]));
    largest = fmaxf(states[r].largest, quadMax(largest));
    const float shift = largest == -kInfinity ? 0.0f : largest * unit;
    factors[r] = states[r].largest == largest ? 1.0f : exp2Approximate(fmaf(states[r].largest, unit, -shift));
    float sum = 0.0f;
#pragma unroll
    for (int i = 2 * r; i < kCount; i += 4) {
#pragma unroll
      for (int j = i; j < i + 2; ++j) {
        scores[j] = exp2Approximate(fmaf(scores[j], unit, -shift));
        sum += scores[j];
      }
    }
    states[r] = {largest, fmaf(states[r].sum, factors[r], sum)};
  }
}

template <int kCount>
__device__ __forceinline__ void scaleSums(float (&sums)[kCount], const float (&factors)[2]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) sums[i] *= factors[rowOfElement(i)];
}

/// Ends a split: the weights of the whole row are summed, and a score counts `scale`.
__device__ __forceinline__ void finishStates(SoftmaxState (&states)[2], float scale = 1.0f) {
#pragma unroll
  for (int i = 0; i < 2; ++i) states[i] = {states[i].largest * scale, quadSum(states[i].sum)};
}

/// The weights of 16 keys as the first operand of a product, for step k.
template <int kCount>
__device__ __forceinline__ void packWeights(const float (&weights)[kCount], int k, uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = packBf16(weights[8 * k + 2 * i], weights[8 * k + 2 * i + 1]);
}

__device__ __forceinline__ bool isSeen(const Visible& seen, int position) {
  return position >= seen.first && position < seen.end;
}

/// The score of a key after its scale and cap; -Inf where the row does not see it.
__device__ __forceinline__ float finishScore(float dot, const PagodaAttention& op, const Visible& seen, int position) {
  float score = dot * op.scale;
  if (op.softcap > 0.0f) score = op.softcap * tanhf(score / op.softcap);
  return isSeen(seen, position) ? score : -kInfinity;
}

}  // namespace pagoda::cuda
