#include "read-step.h"

#include "js.h"

namespace pagoda {

namespace {

std::vector<int32_t> ints(const Napi::Object& from, const char* name) {
  return copyTypedArray<int32_t>(property(from, name), name);
}

std::vector<float> floats(const Napi::Object& from, const char* name) {
  return copyTypedArray<float>(property(from, name), name);
}

std::vector<int32_t> optionalInts(const Napi::Object& from, const char* name) {
  return from.Get(name).IsUndefined() ? std::vector<int32_t>() : ints(from, name);
}

Lists lists(const Napi::Object& from, const char* name) {
  const Napi::Object object = readObject(property(from, name), name);
  return {ints(object, "values"), ints(object, "offsets")};
}

SamplingControls readControls(const Napi::Object& from) {
  SamplingControls controls;
  controls.allowed = lists(from, "allowed");
  controls.banned = lists(from, "banned");
  controls.biased = lists(from, "biased");
  controls.biases = floats(from, "biases");
  controls.history = lists(from, "history");
  controls.numPromptTokens = ints(from, "numPromptTokens");
  controls.repetitionPenalty = floats(from, "repetitionPenalty");
  controls.frequencyPenalty = floats(from, "frequencyPenalty");
  controls.presencePenalty = floats(from, "presencePenalty");
  controls.dryMultiplier = floats(from, "dryMultiplier");
  controls.dryBase = floats(from, "dryBase");
  controls.dryAllowedLength = ints(from, "dryAllowedLength");
  controls.dryRange = ints(from, "dryRange");
  controls.dryBreakers = lists(from, "dryBreakers");
  controls.typicalP = floats(from, "typicalP");
  controls.xtcProbability = floats(from, "xtcProbability");
  controls.xtcThreshold = floats(from, "xtcThreshold");
  return controls;
}

}  // namespace

SamplingInput readSamplingInput(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "sampling");
  SamplingInput sampling;
  sampling.temperature = floats(object, "temperature");
  sampling.topK = ints(object, "topK");
  sampling.topP = floats(object, "topP");
  sampling.minP = floats(object, "minP");
  sampling.seed = copyTypedArray<uint32_t>(property(object, "seed"), "seed");
  sampling.position = ints(object, "position");
  sampling.targets = optionalInts(object, "targets");
  sampling.numLogprobs = optionalInts(object, "numLogprobs");
  const Napi::Value controls = object.Get("controls");
  sampling.hasControls = !controls.IsUndefined();
  if (sampling.hasControls) sampling.controls = readControls(readObject(controls, "controls"));
  return sampling;
}

StepInput readStepInput(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "input");
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
  step.sampling = readSamplingInput(property(object, "sampling"));
  return step;
}

}  // namespace pagoda
