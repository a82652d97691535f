// The inputs of one step: R requests, T scheduled tokens, S output rows, C block copies. Fields as in
// lib/engine/step.ts.
#pragma once

#include <cstdint>
#include <vector>

#include "plan.h"

namespace pagoda {

struct StepInput {
  int32_t maxBlocks = 0;
  std::vector<int32_t> tokenIds;       // [T]
  std::vector<int32_t> positions;      // [T]
  std::vector<int32_t> queryStartLoc;  // [R + 1]
  std::vector<int32_t> seqLens;        // [R]
  std::vector<int32_t> blockTable;     // [R, maxBlocks]
  std::vector<int32_t> slotMapping;    // [T]
  std::vector<int32_t> blockCopies;    // [C, 2]
  std::vector<int32_t> outputRows;     // [S]
  std::vector<float> temperature;      // [S]
  std::vector<int32_t> topK;           // [S]
  std::vector<float> topP;             // [S]
  std::vector<float> minP;             // [S]
  std::vector<uint32_t> seed;          // [S, 2]
  std::vector<int32_t> position;       // [S]

  int32_t numTokens() const { return static_cast<int32_t>(tokenIds.size()); }
  int32_t numRequests() const { return static_cast<int32_t>(seqLens.size()); }
  int32_t numOutputs() const { return static_cast<int32_t>(outputRows.size()); }
};

/// Throws PAGODA_INVALID, naming the array, unless the step can run on this plan without touching foreign memory.
void checkStep(const StepInput& step, const PlanSpec& plan, const KvOptions& kv, int32_t maxRequests);

}  // namespace pagoda
