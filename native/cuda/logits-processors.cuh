// What changes the logits of a row before a token is drawn, in the order of PagodaSampleControls. All threads of the
// block take part. Tokens that a list names more than once are changed once: the thread that takes a token's count away
// does it.
#pragma once

#include "sample.cuh"

namespace pagoda::cuda {

struct List {
  const int32_t* values;
  int32_t count;

  __device__ List(const PagodaLists& lists, int32_t row) {
    const int32_t begin = lists.offsets[row];
    values = lists.values + begin;
    count = lists.offsets[row + 1] - begin;
  }

  /// Of a list in increasing order.
  __device__ bool contains(int32_t id) const {
    int32_t low = 0, high = count;
    while (low < high) {
      const int32_t middle = (low + high) / 2;
      if (values[middle] < id)
        low = middle + 1;
      else
        high = middle;
    }
    return low < count && values[low] == id;
  }

  /// Calls visit(id, index) for this thread's share.
  template <typename Visit>
  __device__ void forEach(Visit visit) const {
    for (int32_t i = threadIdx.x; i < count; i += kSampleThreads) visit(values[i], i);
  }
};

/// Finite logits stay finite.
__device__ __forceinline__ float clampFinite(double value) {
  constexpr double kLargest = 3.4028234663852886e38;
  return static_cast<float>(value > kLargest ? kLargest : value < -kLargest ? -kLargest : value);
}

__device__ __forceinline__ float repeated(float logit, float penalty) {
  if (logit == -kInfinity) return logit;
  return clampFinite(static_cast<double>(logit > 0 ? __fdiv_rn(logit, penalty) : __fmul_rn(logit, penalty)));
}

__device__ inline void applyPenalties(const PagodaSampleControls& c, int32_t row, const SampleScratch& scratch) {
  const float repetition = c.repetitionPenalty[row], frequency = c.frequencyPenalty[row],
              presence = c.presencePenalty[row];
  if (repetition == 1 && frequency == 0 && presence == 0) return;
  const List history(c.history, row);
  const int32_t prompt = c.numPromptTokens[row];
  history.forEach([&](int32_t token, int32_t) { scratch.counts[token] = 0; });
  __syncthreads();
  history.forEach([&](int32_t token, int32_t i) {
    if (i >= prompt) atomicAdd(&scratch.counts[token], 1);
  });
  __syncthreads();
  history.forEach([&](int32_t token, int32_t) {
    const int32_t count = atomicExch(&scratch.counts[token], -1);
    if (count < 0) return;
    float logit = scratch.logits[token];
    if (repetition != 1) logit = repeated(logit, repetition);
    if (count > 0) {
      logit = __fadd_rn(logit, -__fmul_rn(frequency, static_cast<float>(count)));
      logit = __fadd_rn(logit, -presence);
    }
    scratch.logits[token] = logit;
  });
  __syncthreads();
}

/// The last tokens of a history, read from the end.
struct Tail {
  const int32_t* end;
  int32_t count;

  __device__ int32_t operator[](int32_t i) const { return end[-1 - i]; }
};

/// lengths[i], i > 0: how many of the last tokens equal those that end i tokens before the end. The Z function of the
/// tokens read backwards: linear, and one thread's work.
__device__ inline void matchLengths(const Tail& tokens, int32_t* lengths) {
  int32_t left = 0, right = 0;
  for (int32_t i = 1; i < tokens.count; ++i) {
    int32_t length = i < right ? min(right - i, lengths[i - left]) : 0;
    while (i + length < tokens.count && tokens[length] == tokens[i + length]) ++length;
    lengths[i] = length;
    if (i + length > right) left = i, right = i + length;
  }
}

/// base^exponent by squaring: the same bits on every machine.
__device__ inline double power(double base, int32_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent /= 2, base = __dmul_rn(base, base))
    if (exponent % 2 == 1) result = __dmul_rn(result, base);
  return result;
}

__device__ inline float dryPenalized(float logit, double multiplier, double base, int32_t exponent) {
  if (logit == -kInfinity) return logit;
  constexpr double kLargestPenalty = 1e30;
  const double penalty = __dmul_rn(multiplier, power(base, exponent));
  return clampFinite(__dadd_rn(logit, -(penalty < kLargestPenalty ? penalty : kLargestPenalty)));
}

__device__ inline void applyDry(const PagodaSampleControls& c, int32_t row, const SampleScratch& scratch,
                                SampleShared& shared) {
  const double multiplier = c.dryMultiplier[row];
  if (!(multiplier > 0)) return;
  const List history(c.history, row), breakers(c.dryBreakers, row);
  const Tail tokens = {history.values + history.count, min(history.count, c.dryRange[row])};
  const int32_t allowed = c.dryAllowedLength[row];
  if (threadIdx.x == 0) {
    int32_t limit = 0;  // the longest end without a breaker
    while (limit < tokens.count && !breakers.contains(tokens[limit])) ++limit;
    if (limit >= allowed) matchLengths(tokens, scratch.lengths);
    shared.counter = limit;
  }
  __syncthreads();
  const int32_t limit = shared.counter;
  __syncthreads();
  if (limit < allowed) return;
  const auto forFollowers = [&](auto visit) {  // a token that follows an end of length lengths[i]
    for (int32_t i = 1 + threadIdx.x; i < tokens.count; i += kSampleThreads) visit(tokens[i - 1], i);
  };
  forFollowers([&](int32_t token, int32_t) { scratch.counts[token] = 0; });
  __syncthreads();
  forFollowers([&](int32_t token, int32_t i) { atomicMax(&scratch.counts[token], min(scratch.lengths[i], limit)); });
  __syncthreads();
  forFollowers([&](int32_t token, int32_t) {
    const int32_t length = atomicExch(&scratch.counts[token], -1);
    if (length < allowed || breakers.contains(token)) return;
    scratch.logits[token] = dryPenalized(scratch.logits[token], multiplier, c.dryBase[row], length - allowed);
  });
  __syncthreads();
}

__device__ inline bool changesLogits(const PagodaSampleControls& c, int32_t row) {
  return List(c.allowed, row).count > 0 || List(c.banned, row).count > 0 || List(c.biased, row).count > 0 ||
         List(c.history, row).count > 0;
}

/// The row's logits after its controls: `raw` itself where there is nothing to change, else in scratch memory.
__device__ inline const float* processLogits(const PagodaSample& op, int32_t row, const float* raw,
                                             const SampleScratch& scratch, SampleShared& shared) {
  const PagodaSampleControls& c = op.controls;
  if (c.typicalP == nullptr || !changesLogits(c, row)) return raw;
  float* logits = scratch.logits;
  const List allowed(c.allowed, row);
  forTokens(op.logits.width, [&](int32_t token) {
    logits[token] = allowed.count == 0 || allowed.contains(token) ? raw[token] : -kInfinity;
  });
  __syncthreads();
  List(c.banned, row).forEach([&](int32_t id, int32_t) { logits[id] = -kInfinity; });
  __syncthreads();
  const int32_t first = c.biased.offsets[row];
  List(c.biased, row).forEach([&](int32_t id, int32_t i) { logits[id] += c.biases[first + i]; });
  __syncthreads();
  applyPenalties(c, row, scratch);
  applyDry(c, row, scratch, shared);
  return logits;
}

}  // namespace pagoda::cuda
