#include "step-buckets.h"

#include <algorithm>
#include <bit>

namespace pagoda {
namespace {

/// As vLLM's sizes of graphs: powers of two, then multiples of eight.
int32_t paddedRequests(int32_t count) {
  constexpr int32_t kStep = 8;
  if (count <= kStep) return static_cast<int32_t>(std::bit_ceil(static_cast<uint32_t>(count)));
  return (count + kStep - 1) / kStep * kStep;
}

int32_t powerOfTwo(int32_t atLeast, int32_t smallest) {
  constexpr uint32_t kLargest = 1u << 30;
  return static_cast<int32_t>(std::min(std::bit_ceil(static_cast<uint32_t>(std::max(atLeast, smallest))), kLargest));
}

bool isDecode(const StepInput& step) {
  const int32_t count = step.numRequests();
  if (count == 0 || step.numTokens() != count || step.numOutputs() != count) return false;
  for (int32_t r = 0; r < count; ++r)
    if (step.queryStartLoc[r] != r || step.outputRows[r] != r) return false;
  return true;
}

/// Rows of `width` elements, `rows` of them a group, as `toRows` rows of `toWidth`; what is new is `filler`.
std::vector<int32_t> widened(const std::vector<int32_t>& values, size_t rows, size_t width, size_t toRows,
                             size_t toWidth, int32_t filler) {
  const size_t groups = values.size() / (rows * width);
  std::vector<int32_t> result(groups * toRows * toWidth, filler);
  for (size_t i = 0; i < groups * rows; ++i) {
    const size_t to = (i / rows * toRows + i % rows) * toWidth;
    std::copy_n(values.begin() + i * width, width, result.begin() + to);
  }
  return result;
}

}  // namespace

std::optional<StepBucket> bucketOf(const StepInput& step, int32_t blockSize, int32_t mostRequests) {
  constexpr int32_t kShortest = 512;  // tokens: what attention splits long contexts into
  if (!isDecode(step) || step.maxBlocks < 1 || step.numRequests() > mostRequests) return std::nullopt;
  const int32_t numRequests = std::min(paddedRequests(step.numRequests()), mostRequests);
  const int32_t longest = *std::max_element(step.seqLens.begin(), step.seqLens.end());
  const int32_t maxSeqLen = std::max(powerOfTwo(longest, kShortest), longest);
  return StepBucket{numRequests, maxSeqLen, powerOfTwo(step.maxBlocks, maxSeqLen / blockSize)};
}

StepInput padStep(const StepInput& step, const StepBucket& bucket) {
  const size_t rows = step.numRequests(), toRows = bucket.numRequests;
  const auto padded = [&](const std::vector<int32_t>& values, int32_t filler) {
    return widened(values, rows, 1, toRows, 1, filler);
  };
  StepInput result;
  result.maxBlocks = bucket.maxBlocks;
  result.tokenIds = padded(step.tokenIds, 0);
  result.positions = padded(step.positions, 0);
  result.seqLens = padded(step.seqLens, 1);
  result.slotMapping = padded(step.slotMapping, -1);
  result.blockTable = widened(step.blockTable, rows, step.maxBlocks, toRows, bucket.maxBlocks, 0);
  for (int32_t r = 0; r <= bucket.numRequests; ++r) result.queryStartLoc.push_back(r);
  result.outputRows.assign(result.queryStartLoc.begin(), result.queryStartLoc.end() - 1);
  return result;
}

}  // namespace pagoda
