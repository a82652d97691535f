// The inputs of one step: R requests, T scheduled tokens, S output rows, C block copies, G KV groups of the plan.
// Fields as in lib/engine/step.ts.
#pragma once

#include <cstdint>
#include <vector>

#include "plan.h"

namespace pagoda {

/// One list a row: row s has values[offsets[s]] to values[offsets[s + 1] - 1].
struct Lists {
  std::vector<int32_t> values;
  std::vector<int32_t> offsets;  // [S + 1]
};

/// What changes the logits before a token is drawn.
struct SamplingControls {
  Lists allowed;
  Lists banned;
  Lists biased;
  std::vector<float> biases;  // beside biased.values
  Lists history;
  std::vector<int32_t> numPromptTokens;   // [S]
  std::vector<float> repetitionPenalty;   // [S]
  std::vector<float> frequencyPenalty;    // [S]
  std::vector<float> presencePenalty;     // [S]
  std::vector<float> dryMultiplier;       // [S]
  std::vector<float> dryBase;             // [S]
  std::vector<int32_t> dryAllowedLength;  // [S]
  std::vector<int32_t> dryRange;          // [S]
  Lists dryBreakers;
  std::vector<float> typicalP;        // [S]
  std::vector<float> xtcProbability;  // [S]
  std::vector<float> xtcThreshold;    // [S]
};

struct SamplingInput {
  std::vector<float> temperature;    // [S]
  std::vector<int32_t> topK;         // [S]
  std::vector<float> topP;           // [S]
  std::vector<float> minP;           // [S]
  std::vector<uint32_t> seed;        // [S, 2]
  std::vector<int32_t> position;     // [S]
  std::vector<int32_t> targets;      // [S], or empty
  std::vector<int32_t> numLogprobs;  // [S], or empty
  bool hasControls = false;
  SamplingControls controls;

  /// K, the largest of numLogprobs; 0 without any.
  int32_t maxLogprobs() const;
};

struct StepInput {
  int32_t maxBlocks = 0;
  std::vector<int32_t> tokenIds;       // [T]
  std::vector<int32_t> positions;      // [T]
  std::vector<int32_t> queryStartLoc;  // [R + 1]
  std::vector<int32_t> seqLens;        // [R]
  std::vector<int32_t> blockTable;     // [G, R, maxBlocks]
  std::vector<int32_t> slotMapping;    // [G, T]
  std::vector<int32_t> blockCopies;    // [C, 2]
  std::vector<int32_t> outputRows;     // [S]
  SamplingInput sampling;

  int32_t numTokens() const { return static_cast<int32_t>(tokenIds.size()); }
  int32_t numRequests() const { return static_cast<int32_t>(seqLens.size()); }
  int32_t numOutputs() const { return static_cast<int32_t>(outputRows.size()); }
};

/// Log-probabilities of one token at most: what `topIds` may hold a row.
constexpr int32_t kMaxLogprobs = 128;

/// Throws PAGODA_INVALID, naming the array, unless the step can run on this plan without touching foreign memory.
void checkStep(const StepInput& step, const PlanSpec& plan, const KvOptions& kv, int32_t maxRequests);

/// The same for the sampling parameters of `outputs` rows.
void checkSampling(const SamplingInput& sampling, size_t outputs, int32_t vocabSize);

}  // namespace pagoda
