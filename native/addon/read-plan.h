// Plans, KV options and weight parts: from JavaScript objects (lib/graph/plan.ts, lib/native.ts) to C++ structs.
#pragma once

#include <napi.h>

#include <vector>

#include "loader.h"
#include "plan.h"

namespace pagoda {

PlanSpec readPlan(const Napi::Value& value);
/// numBlocks is optional where only sizes are asked.
KvOptions readKvOptions(const Napi::Value& value, bool needsBlocks);
std::vector<WeightSource> readWeightSources(const Napi::Value& value);

}  // namespace pagoda
