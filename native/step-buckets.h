// Decode steps, whose requests have one token each, are padded to a few shapes, so that one recorded graph serves many
// of them.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>

#include "step.h"

namespace pagoda {

/// Upper bounds of a decode step.
struct StepBucket {
  int32_t numRequests;
  int32_t maxSeqLen;
  int32_t maxBlocks;

  auto operator<=>(const StepBucket&) const = default;
};

/// Nothing unless every request has one token and one output. `mostRequests`: what the plan and its arena allow.
std::optional<StepBucket> bucketOf(const StepInput& step, int32_t blockSize, int32_t mostRequests);

/// The step without sampling and block copies, filled up with requests of one token that is not written to the cache
/// and sees the null block: what is computed for them means nothing, and no row of another request depends on it.
StepInput padStep(const StepInput& step, const StepBucket& bucket);

}  // namespace pagoda
