// The inputs of a step: from typed arrays (lib/engine/step.ts) to a copy that the engine thread owns.
#pragma once

#include <napi.h>

#include "step.h"

namespace pagoda {

StepInput readStepInput(const Napi::Value& value);
SamplingInput readSamplingInput(const Napi::Value& value);

}  // namespace pagoda
