// Decode steps and their padded forms.
#include "../step-buckets.h"

#include <vector>

#include "check.h"

namespace pagoda::test {
namespace {

constexpr int32_t kBlockSize = 16, kMostRequests = 20;

/// A decode step of `count` requests and two KV groups, whose numbers tell where they belong.
StepInput decodeStep(int32_t count, int32_t seqLen, int32_t maxBlocks = 3) {
  StepInput step;
  step.maxBlocks = maxBlocks;
  for (int32_t r = 0; r < count; ++r) {
    step.tokenIds.push_back(100 + r);
    step.positions.push_back(seqLen - 1);
    step.queryStartLoc.push_back(r);
    step.seqLens.push_back(seqLen);
    step.outputRows.push_back(r);
  }
  step.queryStartLoc.push_back(count);
  for (int32_t group = 0; group < 2; ++group) {
    for (int32_t r = 0; r < count; ++r) {
      step.slotMapping.push_back(1000 * group + r);
      for (int32_t block = 0; block < maxBlocks; ++block) step.blockTable.push_back(1000 * group + 10 * r + block);
    }
  }
  return step;
}

void expectBucket(const StepInput& step, const StepBucket& expected) {
  const auto bucket = bucketOf(step, kBlockSize, kMostRequests);
  CHECK(bucket == expected, "%d requests, %d tokens, %d blocks", bucket ? bucket->numRequests : -1,
        bucket ? bucket->maxSeqLen : -1, bucket ? bucket->maxBlocks : -1);
}

void testBuckets() {
  section("sizes");
  expectBucket(decodeStep(1, 1), {1, 512, 32});
  expectBucket(decodeStep(3, 512), {4, 512, 32});
  expectBucket(decodeStep(8, 513), {8, 1024, 64});
  expectBucket(decodeStep(9, 5000), {16, 8192, 512});
  expectBucket(decodeStep(17, 5), {20, 512, 32});
  expectBucket(decodeStep(2, 5, 40), {2, 512, 64});
  expectBucket(decodeStep(1, INT32_MAX), {1, INT32_MAX, 1 << 27});
  CHECK(!bucketOf(decodeStep(21, 5), kBlockSize, kMostRequests), "more than the plan allows");
}

void testOthers() {
  section("steps that have none");
  StepInput chunk = decodeStep(2, 5);
  chunk.tokenIds.push_back(7);
  chunk.queryStartLoc = {0, 2, 3};
  CHECK(!bucketOf(chunk, kBlockSize, kMostRequests), "a chunk of two tokens");
  StepInput silent = decodeStep(2, 5);
  silent.outputRows.pop_back();
  CHECK(!bucketOf(silent, kBlockSize, kMostRequests), "a request without output");
  StepInput swapped = decodeStep(2, 5);
  swapped.outputRows = {1, 0};
  CHECK(!bucketOf(swapped, kBlockSize, kMostRequests), "outputs in another order");
  CHECK(!bucketOf(StepInput(), kBlockSize, kMostRequests), "an empty step");
}

void testPadding() {
  section("padding");
  const StepInput padded = padStep(decodeStep(3, 9), {4, 512, 5});
  CHECK((padded.tokenIds == std::vector<int32_t>{100, 101, 102, 0}), "tokenIds");
  CHECK((padded.positions == std::vector<int32_t>{8, 8, 8, 0}), "positions");
  CHECK((padded.seqLens == std::vector<int32_t>{9, 9, 9, 1}), "seqLens");
  CHECK((padded.queryStartLoc == std::vector<int32_t>{0, 1, 2, 3, 4}), "queryStartLoc");
  CHECK((padded.outputRows == std::vector<int32_t>{0, 1, 2, 3}), "outputRows");
  CHECK((padded.slotMapping == std::vector<int32_t>{0, 1, 2, -1, 1000, 1001, 1002, -1}), "slotMapping");
  CHECK(padded.maxBlocks == 5 && padded.blockTable.size() == 2u * 4 * 5, "%zu", padded.blockTable.size());
  const std::vector<int32_t> row(padded.blockTable.begin() + (4 + 2) * 5, padded.blockTable.begin() + (4 + 3) * 5);
  CHECK((row == std::vector<int32_t>{1020, 1021, 1022, 0, 0}), "blockTable");
}

}  // namespace
}  // namespace pagoda::test

int main() {
  using namespace pagoda::test;
  testBuckets();
  testOthers();
  testPadding();
  return finish();
}
