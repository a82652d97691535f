#include "logprobs.h"

#include <cmath>
#include <limits>

namespace pagoda {
namespace {

double logSumExp(const float* logits, int32_t vocab, double largest) {
  double sum = 0;
  for (int32_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - largest);
  return largest + std::log(sum);
}

int32_t rankOf(const float* logits, int32_t vocab, int32_t token) {
  const float logit = logits[token];
  int32_t rank = 1;
  for (int32_t i = 0; i < vocab; ++i) rank += logits[i] > logit ? 1 : 0;
  return rank;
}

// The k largest in order, lowest index first among equals: an insertion into a short list, rare after the first few.
int32_t findTop(const float* logits, int32_t vocab, int32_t k, int32_t* ids) {
  int32_t count = 0;
  for (int32_t i = 0; i < vocab; ++i) {
    if (count == k && !(logits[i] > logits[ids[count - 1]])) continue;
    int32_t at = count < k ? count++ : count - 1;
    for (; at > 0 && logits[i] > logits[ids[at - 1]]; --at) ids[at] = ids[at - 1];
    ids[at] = i;
  }
  return count;
}

}  // namespace

void writeLogprobs(const PagodaSample& op, int32_t row, const float* logits, float largest, int32_t token) {
  const PagodaLogprobs& result = op.logprobs;
  if (result.wanted == nullptr || result.wanted[row] < 0) return;
  const int32_t vocab = op.logits.width;
  const double normalizer = logSumExp(logits, vocab, largest);
  const auto logprob = [&](int32_t id) { return static_cast<float>(static_cast<double>(logits[id]) - normalizer); };
  result.logprob[row] = logprob(token);
  result.rank[row] = rankOf(logits, vocab, token);
  int32_t* ids = result.topIds + static_cast<int64_t>(row) * result.maxWanted;
  float* values = result.topLogprobs + static_cast<int64_t>(row) * result.maxWanted;
  const int32_t k = result.wanted[row];
  const int32_t count = k > 0 ? findTop(logits, vocab, k, ids) : 0;
  for (int32_t i = 0; i < count; ++i) values[i] = logprob(ids[i]);
  for (int32_t i = count; i < result.maxWanted; ++i) {
    ids[i] = -1;
    values[i] = -std::numeric_limits<float>::infinity();
  }
}

}  // namespace pagoda
