#include "read-step.h"

#include "js.h"

namespace pagoda {

StepInput readStepInput(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "input");
  const Napi::Object sampling = readObject(property(object, "sampling"), "sampling");
  const auto ints = [](const Napi::Object& from, const char* name) {
    return copyTypedArray<int32_t>(property(from, name), name);
  };
  const auto floats = [&](const char* name) { return copyTypedArray<float>(property(sampling, name), name); };
  StepInput step;
  step.maxBlocks = readInt32(object, "maxBlocks");
  step.tokenIds = ints(object, "tokenIds");
  step.positions = ints(object, "positions");
  step.queryStartLoc = ints(object, "queryStartLoc");
  step.seqLens = ints(object, "seqLens");
  step.blockTable = ints(object, "blockTable");
  step.slotMapping = ints(object, "slotMapping");
  step.blockCopies = ints(object, "blockCopies");
  step.outputRows = ints(object, "outputRows");
  step.temperature = floats("temperature");
  step.topK = ints(sampling, "topK");
  step.topP = floats("topP");
  step.minP = floats("minP");
  step.seed = copyTypedArray<uint32_t>(property(sampling, "seed"), "seed");
  step.position = ints(sampling, "position");
  return step;
}

}  // namespace pagoda
