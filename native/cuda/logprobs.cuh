// Log-probabilities of a row's token and of its most probable ones, from the logits as they came.
#pragma once

#include "sample.cuh"

namespace pagoda::cuda {

__device__ inline double logSumExp(const float* logits, int32_t vocab, double largest, SampleShared& shared) {
  double sum = 0;
  forTokens(vocab, [&](int32_t token) { sum += exp(static_cast<double>(logits[token]) - largest); });
  return largest + log(blockSum(sum, shared));
}

__device__ inline Place placeOf(const float* logits, int32_t token) {
  return {static_cast<uint64_t>(~orderedBits(logits[token])) << 32, static_cast<uint32_t>(token)};
}

/// The `count` tokens of the largest logits into `ids`, in any order.
__device__ inline void collectTop(const float* logits, int32_t vocab, int32_t count, int32_t* ids,
                                  SampleShared& shared) {
  const Place last = selectPlace(count, 32, true, shared, [&](auto add) {
    forTokens(vocab, [&](int32_t token) { add(placeOf(logits, token), 1ull); });
  });
  if (threadIdx.x == 0) shared.counter = 0;
  __syncthreads();
  forTokens(vocab, [&](int32_t token) {
    if (placeOf(logits, token) <= last) ids[atomicAdd(&shared.counter, 1)] = token;
  });
  __syncthreads();
}

__device__ inline void writeLogprobs(const PagodaLogprobs& result, int32_t row, const float* logits, int32_t vocab,
                                     float largest, int32_t token, int32_t* ids, SampleShared& shared) {
  const int32_t wanted = result.wanted[row];
  if (wanted < 0) return;
  const double normalizer = logSumExp(logits, vocab, largest, shared);
  const auto logprob = [&](int32_t id) { return static_cast<float>(static_cast<double>(logits[id]) - normalizer); };
  double above = 0;
  forTokens(vocab, [&](int32_t other) { above += logits[other] > logits[token] ? 1 : 0; });
  above = blockSum(above, shared);
  if (threadIdx.x == 0) {
    result.logprob[row] = logprob(token);
    result.rank[row] = 1 + static_cast<int32_t>(above);
  }
  const int32_t count = min(wanted, vocab);
  if (count > 0) collectTop(logits, vocab, count, ids, shared);
  int32_t* topIds = result.topIds + static_cast<int64_t>(row) * result.maxWanted;
  float* topLogprobs = result.topLogprobs + static_cast<int64_t>(row) * result.maxWanted;
  for (int32_t i = threadIdx.x; i < result.maxWanted; i += kSampleThreads) {
    if (i >= count) {
      topIds[i] = -1;
      topLogprobs[i] = -kInfinity;
      continue;
    }
    const Place own = placeOf(logits, ids[i]);
    int32_t at = -1;  // it is itself before or at its own place
    for (int32_t j = 0; j < count; ++j) at += placeOf(logits, ids[j]) <= own ? 1 : 0;
    topIds[at] = ids[i];
    topLogprobs[at] = logprob(ids[i]);
  }
}

}  // namespace pagoda::cuda
