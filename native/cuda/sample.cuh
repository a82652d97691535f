// What the kernels of sampling share. A block has a row of logits and goes over its tokens several times rather than
// sorting them: thread t has the tokens t, t + kThreads, ... Probabilities are in double and not normalised, so that
// the most probable token has weight 1, as in native/cpu/candidates.h.
#pragma once

#include "kernel.cuh"

namespace pagoda::cuda {

constexpr int kSampleThreads = 512;
constexpr int kBuckets = 2048;  // of one step of a selection: 11 bits
constexpr int kBucketBits = 11;

/// Memory of one row beside its logits.
struct SampleScratch {
  float* logits;     // [vocab], as changed by the controls
  int32_t* counts;   // [vocab], all 0 between its uses
  int32_t* lengths;  // [maxHistory]
  int32_t* ids;      // [maxWanted]
};

/// A token and what it is compared by.
struct Candidate {
  double weight;
  int32_t token;  // -1: none
};

/// By weight, the lowest token first among equals.
__device__ __forceinline__ bool isHeavier(const Candidate& a, const Candidate& b) {
  if (a.token < 0 || b.token < 0) return b.token < 0 && a.token >= 0;
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

struct SampleShared {
  Candidate best[kSampleThreads / kWarp];
  double sums[kSampleThreads / kWarp];
  unsigned long long bucketUnits[kBuckets];
  int32_t bucketCounts[kBuckets];
  unsigned long long warpUnits[kSampleThreads / kWarp];
  unsigned long long missing;
  int32_t chosen;
  int32_t counter;
};

/// The first of all candidates by `isBefore`; all threads get it.
template <typename IsBefore>
__device__ Candidate blockBest(Candidate own, SampleShared& shared, IsBefore isBefore) {
  for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) {
    const Candidate other = {__shfl_xor_sync(kAllLanes, own.weight, lanes),
                             __shfl_xor_sync(kAllLanes, own.token, lanes)};
    if (isBefore(other, own)) own = other;
  }
  if (laneOf() == 0) shared.best[warpOf()] = own;
  __syncthreads();
  Candidate result = shared.best[0];
  for (int warp = 1; warp < kSampleThreads / kWarp; ++warp) {
    if (isBefore(shared.best[warp], result)) result = shared.best[warp];
  }
  __syncthreads();
  return result;
}

__device__ inline double blockSum(double own, SampleShared& shared) {
  return blockReduce(own, shared.sums, [](double a, double b) { return a + b; });
}

/// Calls visit(token) for this thread's tokens.
template <typename Visit>
__device__ __forceinline__ void forTokens(int32_t vocab, Visit visit) {
  for (int32_t token = threadIdx.x; token < vocab; token += kSampleThreads) visit(token);
}

/// Index of the largest logit, the lowest among equals; -1 for a row with NaN, +Inf or nothing but -Inf. All threads
/// get it.
__device__ inline int32_t findLargest(const float* logits, int32_t vocab, SampleShared& shared) {
  Candidate best = {0.0, -1};
  bool isBroken = false;
  forTokens(vocab, [&](int32_t token) {
    isBroken = isBroken || !(logits[token] < kInfinity);
    const Candidate candidate = {static_cast<double>(logits[token]), token};
    if (logits[token] > -kInfinity && isHeavier(candidate, best)) best = candidate;
  });
  const double broken = blockSum(isBroken ? 1.0 : 0.0, shared);
  best = blockBest(best, shared, isHeavier);
  return broken > 0.0 ? -1 : best.token;
}

/// Bits that order doubles of at least 0 as the numbers do.
__device__ __forceinline__ uint64_t orderedBits(double x) { return static_cast<uint64_t>(__double_as_longlong(x)); }

/// Bits that order floats as the numbers do.
__device__ __forceinline__ uint32_t orderedBits(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/// A place in an order of tokens: by `key`, then by token. What comes first has the smallest place.
struct Place {
  uint64_t key;
  uint32_t token;

  __device__ bool operator<=(const Place& other) const {
    return key != other.key ? key < other.key : token <= other.token;
  }
};

/// Which bits of a place one step of a selection looks at.
struct Digit {
  bool ofKey;
  int shift;
  int bits;
};

/// Adds a token's units to its bucket, if it agrees with the bits that are known.
struct Buckets {
  SampleShared& shared;
  Place prefix;
  Digit digit;

  __device__ void add(const Place& place, unsigned long long units) const {
    const int known = digit.shift + digit.bits;  // bits above it
    if (digit.ofKey) {
      if (known < 64 && (place.key ^ prefix.key) >> known != 0) return;
    } else if (place.key != prefix.key || (known < 32 && (place.token ^ prefix.token) >> known != 0)) {
      return;
    }
    const uint64_t bits = digit.ofKey ? place.key : place.token;
    const auto bucket = static_cast<int>(bits >> digit.shift & ((1u << digit.bits) - 1));
    atomicAdd(&shared.bucketUnits[bucket], units);
    atomicAdd(&shared.bucketCounts[bucket], 1);
  }
};

/// The bucket in which `missing` units are reached, or the last one that has any; -1: none has. Takes what lies before
/// it from `missing`. Each thread adds up a few neighbours.
__device__ inline int chooseBucket(SampleShared& shared, unsigned long long& missing) {
  constexpr int kOwn = kBuckets / kSampleThreads;
  const int first = threadIdx.x * kOwn;
  unsigned long long own = 0;
  for (int i = 0; i < kOwn; ++i) own += shared.bucketUnits[first + i];
  unsigned long long through = own;  // of this warp, up to this lane
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const unsigned long long other = __shfl_up_sync(kAllLanes, through, lanes);
    if (laneOf() >= lanes) through += other;
  }
  if (laneOf() == kWarp - 1) shared.warpUnits[warpOf()] = through;
  if (threadIdx.x == 0) shared.chosen = -1;
  __syncthreads();
  unsigned long long before = through - own, total = 0;
  for (int warp = 0; warp < kSampleThreads / kWarp; ++warp) {
    if (warp < warpOf()) before += shared.warpUnits[warp];
    total += shared.warpUnits[warp];
  }
  const unsigned long long wanted = missing < total ? missing : total;
  for (int i = 0; i < kOwn; ++i) {
    const unsigned long long units = shared.bucketUnits[first + i];
    if (units > 0 && before < wanted && before + units >= wanted) {
      shared.chosen = first + i;
      shared.missing = wanted - before;
    }
    before += units;
  }
  __syncthreads();
  const int chosen = shared.chosen;
  missing = shared.missing;
  return chosen;
}

/// The last place of the shortest run of tokens, in the order of their places, whose units reach `missing`, or of all
/// tokens where they do not. `visit(add)` calls add(place, units) for each token of this thread that counts. Units are
/// integers, so the order in which they are added says nothing. Bits below `keyEnd` of all keys are 0; unless it is
/// `byToken`, all tokens with the last key are inside.
///
/// A radix selection: by the highest bits of the places it finds the bucket in which the sum is reached, then goes on
/// inside.
template <typename Visit>
__device__ Place selectPlace(unsigned long long missing, int keyEnd, bool byToken, SampleShared& shared, Visit visit) {
  Place prefix = {0, 0};
  Digit digit = {true, 64, 0};
  for (;;) {
    if (digit.ofKey && digit.shift == keyEnd) {
      if (!byToken) break;
      digit = {false, 32, 0};
    }
    if (!digit.ofKey && digit.shift == 0) return prefix;
    digit.bits = min(kBucketBits, digit.ofKey ? digit.shift - keyEnd : digit.shift);
    digit.shift -= digit.bits;
    for (int i = threadIdx.x; i < kBuckets; i += kSampleThreads) shared.bucketUnits[i] = 0, shared.bucketCounts[i] = 0;
    __syncthreads();
    const Buckets buckets = {shared, prefix, digit};
    visit([&](const Place& place, unsigned long long units) { buckets.add(place, units); });
    __syncthreads();
    const int chosen = chooseBucket(shared, missing);
    const int count = chosen < 0 ? 0 : shared.bucketCounts[chosen];
    __syncthreads();
    if (chosen < 0) break;  // nothing counts
    const uint64_t bits = static_cast<uint64_t>(chosen) << digit.shift;
    const uint64_t below = (uint64_t{1} << digit.shift) - 1;
    if (digit.ofKey)
      prefix.key |= bits;
    else
      prefix.token |= static_cast<uint32_t>(bits);
    if (count > 1) continue;
    // One token alone: any place that ends like this holds no other.
    if (digit.ofKey) return {prefix.key | below, 0xffffffffu};
    return {prefix.key, prefix.token | static_cast<uint32_t>(below)};
  }
  return {prefix.key, 0xffffffffu};
}

// ---- random numbers: Philox4x32-10 (Salmon et al. 2011), as in native/cpu/philox.h
// -----------------------------------------

struct PhiloxBlock {
  uint32_t x[4];
};

__device__ inline PhiloxBlock philox(PhiloxBlock counter, uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = uint64_t{0xD2511F53} * counter.x[0];
    const uint64_t b = uint64_t{0xCD9E8D57} * counter.x[2];
    counter = {{static_cast<uint32_t>(b >> 32) ^ counter.x[1] ^ key0, static_cast<uint32_t>(b),
                static_cast<uint32_t>(a >> 32) ^ counter.x[3] ^ key1, static_cast<uint32_t>(a)}};
    key0 += 0x9E3779B9;
    key1 += 0xBB67AE85;
  }
  return counter;
}

/// The uniform numbers in (0, 1) of one row: one a token, and one for the XTC filter.
struct Uniforms {
  uint32_t key0, key1, position;

  static __device__ double toUniform(uint32_t word) { return (static_cast<double>(word >> 8) + 0.5) / 16777216.0; }

  __device__ double of(int32_t token) const {
    const PhiloxBlock block = philox({{static_cast<uint32_t>(token) / 4, position, 0, 0}}, key0, key1);
    const int lane = token % 4;  // not an index, which would put the block into memory
    return toUniform(lane == 0 ? block.x[0] : lane == 1 ? block.x[1] : lane == 2 ? block.x[2] : block.x[3]);
  }

  __device__ double ofXtc() const { return toUniform(philox({{0, position, 1, 0}}, key0, key1).x[0]); }
};

}  // namespace pagoda::cuda
