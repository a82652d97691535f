// Checks of sampling parameters; the same as in lib/engine/validate-sampling.ts.
#include <algorithm>
#include <string>

#include "check-arrays.h"
#include "step.h"

namespace pagoda {

namespace {

void checkLists(const std::string& name, const Lists& lists, size_t outputs, int32_t vocabSize) {
  checkLength((name + ".offsets").c_str(), lists.offsets.size(), outputs + 1);
  require(lists.offsets.front() == 0 && static_cast<size_t>(lists.offsets.back()) == lists.values.size(),
          name + ".offsets must begin with 0 and end with the number of values");
  require(std::is_sorted(lists.offsets.begin(), lists.offsets.end()), name + ".offsets must not decrease");
  checkRange<int32_t>((name + ".values").c_str(), lists.values, 0, vocabSize - 1);
}

void checkIncreasing(const std::string& name, const Lists& lists) {
  for (size_t row = 0; row + 1 < lists.offsets.size(); ++row) {
    for (int32_t i = lists.offsets[row] + 1; i < lists.offsets[row + 1]; ++i)
      require(lists.values[i - 1] < lists.values[i], name + ".values must increase within a row");
  }
}

void checkAllLists(const SamplingControls& controls, size_t outputs, int32_t vocabSize) {
  checkLists("allowed", controls.allowed, outputs, vocabSize);
  checkLists("banned", controls.banned, outputs, vocabSize);
  checkLists("biased", controls.biased, outputs, vocabSize);
  checkLists("history", controls.history, outputs, vocabSize);
  checkLists("dryBreakers", controls.dryBreakers, outputs, vocabSize);
  checkIncreasing("allowed", controls.allowed);
  checkIncreasing("biased", controls.biased);
  checkIncreasing("dryBreakers", controls.dryBreakers);
  checkLength("biases", controls.biases.size(), controls.biased.values.size());
  checkRange<float>("biases", controls.biases, -1e30f, 1e30f);
}

template <typename T>
void checkRow(const char* name, const std::vector<T>& values, size_t outputs, T low, T high) {
  checkLength(name, values.size(), outputs);
  checkRange<T>(name, values, low, high);
}

void checkControls(const SamplingControls& controls, size_t outputs, int32_t vocabSize) {
  checkAllLists(controls, outputs, vocabSize);
  checkRow<int32_t>("numPromptTokens", controls.numPromptTokens, outputs, 0, INT32_MAX);
  for (size_t row = 0; row < outputs; ++row) {
    const int32_t length = controls.history.offsets[row + 1] - controls.history.offsets[row];
    require(controls.numPromptTokens[row] <= length, "numPromptTokens must not be more than the history");
  }
  checkRow<float>("repetitionPenalty", controls.repetitionPenalty, outputs, 1e-30f, 1e30f);
  checkRow<float>("frequencyPenalty", controls.frequencyPenalty, outputs, -100.0f, 100.0f);
  checkRow<float>("presencePenalty", controls.presencePenalty, outputs, -100.0f, 100.0f);
  checkRow<float>("dryMultiplier", controls.dryMultiplier, outputs, 0.0f, 1e6f);
  checkRow<float>("dryBase", controls.dryBase, outputs, 1.0f, 1e6f);
  checkRow<int32_t>("dryAllowedLength", controls.dryAllowedLength, outputs, 1, INT32_MAX);
  checkRow<int32_t>("dryRange", controls.dryRange, outputs, 0, INT32_MAX);
  checkRow<float>("typicalP", controls.typicalP, outputs, 1e-30f, 1.0f);
  checkRow<float>("xtcProbability", controls.xtcProbability, outputs, 0.0f, 1.0f);
  checkRow<float>("xtcThreshold", controls.xtcThreshold, outputs, 0.0f, 1.0f);
}

}  // namespace

int32_t SamplingInput::maxLogprobs() const {
  return numLogprobs.empty() ? 0 : std::max(0, *std::max_element(numLogprobs.begin(), numLogprobs.end()));
}

void checkSampling(const SamplingInput& sampling, size_t outputs, int32_t vocabSize) {
  checkRow<float>("temperature", sampling.temperature, outputs, 0.0f, 1e6f);
  checkRow<int32_t>("topK", sampling.topK, outputs, 0, INT32_MAX);
  checkRow<float>("topP", sampling.topP, outputs, 1e-30f, 1.0f);
  checkRow<float>("minP", sampling.minP, outputs, 0.0f, 1.0f);
  checkRow<int32_t>("position", sampling.position, outputs, 0, INT32_MAX);
  checkLength("seed", sampling.seed.size(), 2 * outputs);
  if (!sampling.targets.empty()) checkRow<int32_t>("targets", sampling.targets, outputs, -1, vocabSize - 1);
  if (!sampling.numLogprobs.empty()) checkRow<int32_t>("numLogprobs", sampling.numLogprobs, outputs, -1, kMaxLogprobs);
  if (sampling.hasControls) checkControls(sampling.controls, outputs, vocabSize);
}

}  // namespace pagoda
