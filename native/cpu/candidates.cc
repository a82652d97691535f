#include "candidates.h"

#include <algorithm>
#include <cmath>

namespace pagoda {
namespace {

double sumOf(const Candidate* begin, const Candidate* end) {
  double sum = 0;
  for (; begin != end; ++begin) sum += begin->weight;
  return sum;
}

// The fewest candidates, first ones first, whose share of all weight reaches `share`: halves the open range by
// selection, so the whole is never sorted.
template <typename Before>
int32_t keepShare(Candidate* candidates, int32_t count, double share, Before before) {
  double missing = share * sumOf(candidates, candidates + count);
  int32_t low = 0;
  int32_t high = count;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    std::nth_element(candidates + low, candidates + middle, candidates + high, before);
    const double upper = sumOf(candidates + low, candidates + middle);
    if (upper >= missing) {
      high = middle;
    } else {
      missing -= upper;
      low = middle;
    }
  }
  return high;
}

}  // namespace

int32_t collect(const DrawnLogits& logits, int32_t vocab, double minP, Candidate* into) {
  const double least = minP < 1 ? minP : 1;
  int32_t count = 0;
  for (int32_t i = 0; i < vocab; ++i) {
    const double weight = std::exp(logits.scaled(i));
    if (weight > 0 && weight >= least) into[count++] = {weight, i};
  }
  return count;
}

int32_t keepTopK(Candidate* candidates, int32_t count, int32_t k, const DrawnLogits& logits) {
  if (k <= 0 || k >= count) return count;
  const float* values = logits.values;
  std::nth_element(candidates, candidates + (k - 1), candidates + count,
                   [values](const Candidate& a, const Candidate& b) { return values[a.token] > values[b.token]; });
  const float least = values[candidates[k - 1].token];
  Candidate* end =
      std::partition(candidates + k, candidates + count, [&](const Candidate& c) { return values[c.token] == least; });
  return static_cast<int32_t>(end - candidates);
}

int32_t keepTopP(Candidate* candidates, int32_t count, double topP) {
  return topP < 1.0 ? keepShare(candidates, count, topP, heavier) : count;
}

// |ln p + entropy| is |mean of the scaled logits - the token's|: the logarithm of the sum of weights cancels out.
int32_t keepTypicalP(Candidate* candidates, int32_t count, double typicalP, const DrawnLogits& logits) {
  if (!(typicalP < 1.0)) return count;
  double mean = 0;
  for (int32_t i = 0; i < count; ++i) mean += candidates[i].weight * logits.scaled(candidates[i].token);
  mean /= sumOf(candidates, candidates + count);
  const auto moreTypical = [&](const Candidate& a, const Candidate& b) {
    const double distanceA = std::fabs(mean - logits.scaled(a.token));
    const double distanceB = std::fabs(mean - logits.scaled(b.token));
    return distanceA != distanceB ? distanceA < distanceB : a.token < b.token;
  };
  return keepShare(candidates, count, typicalP, moreTypical);
}

int32_t dropTopChoices(Candidate* candidates, int32_t count, double threshold) {
  const double least = threshold * sumOf(candidates, candidates + count);
  const auto isTopChoice = [least](const Candidate& c) { return c.weight >= least; };
  Candidate* end = std::partition(candidates, candidates + count, isTopChoice);
  if (end - candidates < 2) return count;
  std::swap(candidates[0], *std::max_element(candidates, end, heavier));  // the last one in the order of `heavier`
  return static_cast<int32_t>(std::move(end, candidates + count, candidates + 1) - candidates);
}

}  // namespace pagoda
