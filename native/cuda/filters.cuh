// Which tokens of a row may be drawn. A filter is a threshold: nothing is stored for a token, whether it is left is
// decided anew whenever it is looked at.
#pragma once

#include "sample.cuh"

namespace pagoda::cuda {

struct Filters {
  const float* logits;  // [vocab]
  int32_t vocab;
  double largest;      // of the logits
  double temperature;  // > 0
  double minP;
  unsigned long long unitsOfOne;  // what a weight of 1 counts in selections: the sum over the vocabulary fits 63 bits

  Place topKEnd, typicalEnd, topPEnd;  // of the orders below
  bool hasTypical = false;
  double mean = 0;       // of the logarithms of the weights, for `typical`
  double xtcLeast = -1;  // weights of at least this are top choices, of which `xtcToken` alone stays; -1: no XTC
  int32_t xtcToken = -1;

  __device__ double scaled(int32_t token) const { return (static_cast<double>(logits[token]) - largest) / temperature; }

  // Orders: by logit, by |mean - scaled|, by weight; see PagodaSample.
  __device__ Place byLogit(int32_t token) const {
    return {static_cast<uint64_t>(~orderedBits(logits[token])) << 32, static_cast<uint32_t>(token)};
  }
  __device__ Place byTypicality(int32_t token) const {
    return {orderedBits(fabs(mean - scaled(token))), static_cast<uint32_t>(token)};
  }
  static __device__ Place byWeight(int32_t token, double weight) {
    return {~orderedBits(weight), static_cast<uint32_t>(token)};
  }

  /// 0 for a token that is dropped.
  __device__ double weight(int32_t token) const {
    const double weight = exp(scaled(token));
    if (!(weight > 0) || weight < minP || !(byLogit(token) <= topKEnd)) return 0;
    if (hasTypical && !(byTypicality(token) <= typicalEnd)) return 0;
    if (!(byWeight(token, weight) <= topPEnd)) return 0;
    return xtcLeast >= 0 && weight >= xtcLeast && token != xtcToken ? 0 : weight;
  }

  /// Calls visit(token, weight) for this thread's tokens that are left.
  template <typename Visit>
  __device__ void forEach(Visit visit) const {
    forTokens(vocab, [&](int32_t token) {
      const double left = weight(token);
      if (left > 0) visit(token, left);
    });
  }
};

__device__ inline Filters makeFilters(const float* logits, int32_t vocab, float largest, double temperature,
                                      double minP) {
  int bits = 0;
  while (vocab >> bits != 0) ++bits;
  constexpr Place kAll = {~uint64_t{0}, 0xffffffffu};
  Filters filters = {logits, vocab, largest, temperature, minP < 1 ? minP : 1, 1ull << (62 - bits), kAll, kAll, kAll};
  return filters;
}

__device__ inline void keepTopK(Filters& filters, int32_t k, SampleShared& shared) {
  if (k <= 0 || k >= filters.vocab) return;
  filters.topKEnd = selectPlace(k, 32, false, shared, [&](auto add) {
    filters.forEach([&](int32_t token, double) { add(filters.byLogit(token), 1ull); });
  });
}

/// Units of all that is left. Integers: the sum is the same in any order.
__device__ inline unsigned long long unitsOf(const Filters& filters, SampleShared& shared) {
  unsigned long long own = 0;
  filters.forEach([&](int32_t, double weight) {
    own += static_cast<unsigned long long>(weight * static_cast<double>(filters.unitsOfOne));
  });
  if (threadIdx.x == 0) shared.missing = 0;
  __syncthreads();
  atomicAdd(&shared.missing, own);
  __syncthreads();
  const unsigned long long units = shared.missing;
  __syncthreads();
  return units;
}

/// The last place of the fewest tokens, first ones first, whose share of all weight reaches `share`.
template <typename PlaceOf>
__device__ Place endOfShare(const Filters& filters, double share, SampleShared& shared, PlaceOf placeOf) {
  const auto units = static_cast<double>(unitsOf(filters, shared));
  const auto missing = static_cast<unsigned long long>(ceil(units * share));
  return selectPlace(missing > 0 ? missing : 1, 0, true, shared, [&](auto add) {
    filters.forEach([&](int32_t token, double weight) {
      add(placeOf(token, weight), static_cast<unsigned long long>(weight * static_cast<double>(filters.unitsOfOne)));
    });
  });
}

__device__ inline void keepTopP(Filters& filters, double topP, SampleShared& shared) {
  if (!(topP < 1.0)) return;
  filters.topPEnd =
      endOfShare(filters, topP, shared, [](int32_t token, double weight) { return Filters::byWeight(token, weight); });
}

/// |ln p + entropy| is |mean of the scaled logits - the token's|: the logarithm of the sum of weights cancels out.
__device__ inline void keepTypicalP(Filters& filters, double typicalP, SampleShared& shared) {
  if (!(typicalP < 1.0)) return;
  double weights = 0, products = 0;
  filters.forEach([&](int32_t token, double weight) {
    weights += weight;
    products += weight * filters.scaled(token);
  });
  weights = blockSum(weights, shared);
  filters.mean = blockSum(products, shared) / weights;
  const Place end =
      endOfShare(filters, typicalP, shared, [&](int32_t token, double) { return filters.byTypicality(token); });
  filters.typicalEnd = end;
  filters.hasTypical = true;
}

/// XTC, once it was decided that it happens.
__device__ inline void dropTopChoices(Filters& filters, double threshold, SampleShared& shared) {
  double weights = 0;
  filters.forEach([&](int32_t, double weight) { weights += weight; });
  const double least = threshold * blockSum(weights, shared);
  Candidate last = {0, -1};  // in the order of `isHeavier`
  double count = 0;
  const auto isLighter = [](const Candidate& a, const Candidate& b) {
    return a.token >= 0 && (b.token < 0 || isHeavier(b, a));
  };
  filters.forEach([&](int32_t token, double weight) {
    if (weight < least) return;
    const Candidate candidate = {weight, token};
    if (isLighter(candidate, last)) last = candidate;
    count += 1;
  });
  count = blockSum(count, shared);
  last = blockBest(last, shared, isLighter);
  if (count < 2) return;
  filters.xtcToken = last.token;
  filters.xtcLeast = least;
}

}  // namespace pagoda::cuda
