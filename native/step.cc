#include "step.h"

#include <string>

#include "check-arrays.h"

namespace pagoda {

namespace {

void checkCounts(const StepInput& step, const PlanSpec& plan, int32_t maxRequests) {
  const size_t tokens = step.tokenIds.size(), requests = step.seqLens.size(), outputs = step.outputRows.size();
  require(tokens >= 1 && tokens <= static_cast<size_t>(plan.maxTokens), "tokenIds: too few or too many tokens");
  require(requests >= 1 && requests <= static_cast<size_t>(maxRequests), "seqLens: too few or too many requests");
  require(outputs <= static_cast<size_t>(plan.maxOutputs), "outputRows: too many rows");
  require(step.maxBlocks >= 1 && step.maxBlocks <= (1 << 24), "maxBlocks is out of range");
  checkLength("positions", step.positions.size(), tokens);
  checkLength("slotMapping", step.slotMapping.size(), plan.numGroups() * tokens);
  checkLength("queryStartLoc", step.queryStartLoc.size(), requests + 1);
  checkLength("blockTable", step.blockTable.size(), plan.numGroups() * requests * static_cast<size_t>(step.maxBlocks));
  require(step.blockCopies.size() % 2 == 0, "blockCopies must have an even number of elements");
}

void checkRequests(const StepInput& step, const KvOptions& kv) {
  require(step.queryStartLoc.front() == 0 && step.queryStartLoc.back() == step.numTokens(),
          "queryStartLoc must begin with 0 and end with the number of tokens");
  for (int32_t r = 0; r < step.numRequests(); ++r) {
    const int32_t length = step.queryStartLoc[r + 1] - step.queryStartLoc[r];
    require(step.queryStartLoc[r + 1] > step.queryStartLoc[r], "queryStartLoc must increase");
    require(step.seqLens[r] >= length && step.seqLens[r] <= static_cast<int64_t>(step.maxBlocks) * kv.blockSize,
            "seqLens[" + std::to_string(r) + "] does not fit the query or the block table");
  }
}

}  // namespace

void checkStep(const StepInput& step, const PlanSpec& plan, const KvOptions& kv, int32_t maxRequests) {
  checkCounts(step, plan, maxRequests);
  checkRequests(step, kv);
  checkRange<int32_t>("tokenIds", step.tokenIds, 0, plan.vocabSize - 1);
  checkRange<int32_t>("positions", step.positions, 0, INT32_MAX);
  checkRange<int32_t>("blockTable", step.blockTable, 0, kv.numBlocks - 1);
  checkRange<int32_t>("slotMapping", step.slotMapping, -1, kv.numBlocks * kv.blockSize - 1);
  checkRange<int32_t>("blockCopies", step.blockCopies, 0, kv.numBlocks - 1);
  checkRange<int32_t>("outputRows", step.outputRows, 0, step.numTokens() - 1);
  checkSampling(step.sampling, step.outputRows.size(), plan.vocabSize);
}

}  // namespace pagoda
