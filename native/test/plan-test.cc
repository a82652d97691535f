// Plans and steps: a small model runs, and every single corruption of its plan or of a step's inputs is refused.
#include "../plan.h"

#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>

#include "../cpu/backend.h"
#include "../loader.h"
#include "../runner.h"
#include "check.h"

namespace pagoda::test {
namespace {

constexpr int32_t kVocab = 11, kHidden = 8, kTokens = 6, kOutputs = 3;

// embed -> rmsNorm -> takeRows -> linear (tied) -> sample, over an arena of two alternating slots.
PlanSpec smallPlan() {
  const uint64_t slot = kTokens * 16 * sizeof(float);
  const Operand hidden{0, Rows::tokens, kHidden, kHidden}, normed{slot, Rows::tokens, kHidden, kHidden};
  const Operand taken{0, Rows::outputs, kHidden, kHidden}, logits{slot, Rows::outputs, kVocab, 16};
  PlanSpec plan;
  plan.arenaBytes = 2 * slot;
  plan.maxTokens = kTokens;
  plan.maxOutputs = kOutputs;
  plan.vocabSize = kVocab;
  plan.logits = logits;
  plan.weights = {{"embed_tokens", PAGODA_MATRIX, kVocab, kHidden, PAGODA_F32},
                  {"norm", PAGODA_VECTOR, 1, kHidden, PAGODA_F32}};
  plan.steps = {
      {Op::embed, "embed_tokens", {}, hidden, {0}, {1.0}},
      {Op::rmsNorm, "norm", {hidden}, normed, {1}, {kHidden, 1e-6, 0.0}},
      {Op::takeRows, "take_rows", {normed}, taken, {}, {}},
      {Op::linear, "lm_head", {taken}, logits, {0, PlanStep::kAbsent}, {}},
      {Op::sample, "sample", {logits}, {}, {}, {}},
  };
  return plan;
}

constexpr KvOptions kKv{4, 4, PAGODA_F32};

StepInput smallStep() {
  StepInput step;
  step.maxBlocks = 2;
  step.tokenIds = {1, 5, 10, 3};
  step.positions = {0, 1, 2, 4};
  step.queryStartLoc = {0, 3, 4};
  step.seqLens = {3, 5};
  step.blockTable = {1, 0, 2, 3};
  step.slotMapping = {4, 5, 6, 12};
  step.outputRows = {2, 3};
  step.temperature = {0, 1};
  step.topK = {0, 5};
  step.topP = {1, 0.5f};
  step.minP = {0, 0.1f};
  step.seed = {1, 2, 3, 4};
  step.position = {3, 5};
  return step;
}

bool refused(const std::function<void()>& call) {
  try {
    call();
  } catch (const Failure& failure) {
    return failure.status() == PAGODA_INVALID && failure.what()[0] != '\0';
  }
  return false;
}

Device openCpu() { return Device(pagodaCpuBackend(), {0, 2, nullptr}); }

std::vector<float> testWeight(int32_t elements) {
  std::vector<float> data(elements);
  for (int32_t i = 0; i < elements; ++i) data[i] = std::sin(static_cast<float>(i));
  return data;
}

void testRun() {
  section("a small plan runs, and the tied embedding is its own best match");
  Device device = openCpu();
  Runner runner(device, smallPlan(), kKv, 4);
  setWeight(runner, 0, testWeight(kVocab * kHidden));
  setWeight(runner, 1, std::vector<float>(kHidden, 1.0f));
  runner.poison();
  const StepInput step = smallStep();
  const std::vector<float> logits = runner.runLogits(step);
  CHECK(logits.size() == 2 * kVocab);
  for (float value : logits) CHECK(std::isfinite(value));
  const StepResult result = runner.run(step);
  int32_t best = 0;
  for (int32_t i = 1; i < kVocab; ++i)
    if (logits[i] > logits[best]) best = i;
  CHECK(result.tokens[0] == best && result.finite[0] == 1 && result.finite[1] == 1);
  CHECK(runner.run(step).tokens == result.tokens, "the same step gives the same tokens");
}

void testCorruptPlans() {
  section("corrupt plans");
  const std::vector<std::function<void(PlanSpec&)>> corruptions = {
      [](PlanSpec& p) { p.maxTokens = 0; },
      [](PlanSpec& p) { p.maxTokens = 1 << 25; },
      [](PlanSpec& p) { p.maxTokens *= 100; },  // operands leave the arena
      [](PlanSpec& p) { p.maxOutputs = -1; },
      [](PlanSpec& p) { p.vocabSize = kVocab + 1; },
      [](PlanSpec& p) { p.arenaBytes = UINT64_MAX; },
      [](PlanSpec& p) { p.logits.width = 3; },
      [](PlanSpec& p) { p.weights[0].rows = 0; },
      [](PlanSpec& p) { p.weights[0].rows = kVocab - 1; },
      [](PlanSpec& p) { p.weights[0].cols = kHidden + 1; },
      [](PlanSpec& p) { p.weights[0].dtype = PAGODA_F16; },
      [](PlanSpec& p) { p.weights[1].dtype = PAGODA_BF16; },
      [](PlanSpec& p) { p.weights[1].kind = PAGODA_MATRIX; },
      [](PlanSpec& p) {
        p.kvLayers.push_back({0, 64});
      },
      [](PlanSpec& p) {
        p.kvLayers.push_back({1, 4096});
      },
      [](PlanSpec& p) { p.steps[0].weights[0] = 2; },
      [](PlanSpec& p) { p.steps[0].weights[0] = -1; },
      [](PlanSpec& p) { p.steps[0].weights.clear(); },
      [](PlanSpec& p) { p.steps[0].output.offset = p.arenaBytes; },
      [](PlanSpec& p) { p.steps[0].output.offset = 2; },
      [](PlanSpec& p) { p.steps[0].output.offset = UINT64_MAX - 3; },
      [](PlanSpec& p) { p.steps[1].inputs[0].rowStride = 1; },
      [](PlanSpec& p) { p.steps[1].inputs[0].rowStride = INT64_MAX; },
      [](PlanSpec& p) { p.steps[1].inputs[0].width = -8; },
      [](PlanSpec& p) { p.steps[1].attributes[0] = 3; },
      [](PlanSpec& p) { p.steps[1].attributes[0] = NAN; },
      [](PlanSpec& p) { p.steps[1].attributes[1] = 0; },
      [](PlanSpec& p) { p.steps[1].attributes.pop_back(); },
      [](PlanSpec& p) { p.steps[2].inputs[0].rows = Rows::outputs; },
      [](PlanSpec& p) { p.steps[2].inputs.clear(); },
      [](PlanSpec& p) { p.steps[3].output.width = 8; },
      [](PlanSpec& p) {
        p.steps.push_back({Op::attention, "a", {p.steps[1].output}, p.steps[0].output, {}, {0, 1, 1, 0, 0}});
      },
      [](PlanSpec& p) {
        p.steps.push_back({Op::cacheWrite, "c", {p.steps[1].output, p.steps[1].output}, {}, {}, {-1}});
      },
  };
  CHECK(!refused([] { checkPlan(smallPlan()); }), "the plan itself is accepted");
  for (size_t i = 0; i < corruptions.size(); ++i) {
    PlanSpec plan = smallPlan();
    corruptions[i](plan);
    CHECK(refused([&] { checkPlan(plan); }), "corruption %zu", i);
  }
}

void testCorruptSteps() {
  section("corrupt steps");
  const std::vector<std::function<void(StepInput&)>> corruptions = {
      [](StepInput& s) { s = StepInput(); },
      [](StepInput& s) { s.tokenIds[0] = kVocab; },
      [](StepInput& s) { s.tokenIds[0] = -1; },
      [](StepInput& s) { s.tokenIds.push_back(0); },
      [](StepInput& s) { s.positions[1] = -1; },
      [](StepInput& s) { s.positions.pop_back(); },
      [](StepInput& s) { s.queryStartLoc[0] = 1; },
      [](StepInput& s) { s.queryStartLoc[1] = 4; },
      [](StepInput& s) { s.queryStartLoc[1] = -3; },
      [](StepInput& s) { s.queryStartLoc[2] = 5; },
      [](StepInput& s) { s.queryStartLoc.push_back(4); },
      [](StepInput& s) { s.seqLens[0] = 2; },
      [](StepInput& s) { s.seqLens[1] = 9; },
      [](StepInput& s) { s.seqLens[1] = INT32_MAX; },
      [](StepInput& s) { s.blockTable[0] = 4; },
      [](StepInput& s) { s.blockTable[3] = -1; },
      [](StepInput& s) { s.blockTable.pop_back(); },
      [](StepInput& s) { s.maxBlocks = 0; },
      [](StepInput& s) { s.maxBlocks = INT32_MAX; },
      [](StepInput& s) { s.slotMapping[0] = 16; },
      [](StepInput& s) { s.slotMapping[0] = -2; },
      [](StepInput& s) { s.blockCopies = {1}; },
      [](StepInput& s) {
        s.blockCopies = {1, 4};
      },
      [](StepInput& s) { s.outputRows[0] = 4; },
      [](StepInput& s) {
        s.outputRows = {0, 1, 2, 3};
      },
      [](StepInput& s) { s.temperature[0] = -1; },
      [](StepInput& s) { s.temperature[0] = NAN; },
      [](StepInput& s) { s.temperature[0] = INFINITY; },
      [](StepInput& s) { s.topK[0] = -1; },
      [](StepInput& s) { s.topP[0] = 0; },
      [](StepInput& s) { s.topP[0] = 1.5f; },
      [](StepInput& s) { s.minP[0] = -0.5f; },
      [](StepInput& s) { s.seed.pop_back(); },
      [](StepInput& s) { s.position[0] = -1; },
  };
  const PlanSpec plan = smallPlan();
  CHECK(!refused([&] { checkStep(smallStep(), plan, kKv, 4); }), "the step itself is accepted");
  CHECK(refused([&] { checkStep(smallStep(), plan, kKv, 1); }), "more requests than allowed");
  for (size_t i = 0; i < corruptions.size(); ++i) {
    StepInput step = smallStep();
    corruptions[i](step);
    CHECK(refused([&] { checkStep(step, plan, kKv, 4); }), "corruption %zu", i);
  }
}

void testLoader() {
  section("weights from files");
  Device device = openCpu();
  Runner runner(device, smallPlan(), kKv, 4);
  const std::string path = "plan-test.tmp";
  const std::vector<float> data = testWeight(kVocab * kHidden);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float));
  const std::atomic<bool> open{false}, closing{true};
  const uint64_t rowBytes = kHidden * sizeof(float);
  const auto status = [&](const std::vector<WeightPart>& parts, const std::atomic<bool>& cancelled) {
    try {
      loadWeight(runner, 0, parts, cancelled);
    } catch (const Failure& failure) {
      return failure.status();
    }
    return PAGODA_OK;
  };
  const std::vector<WeightPart> halves = {{path, 0, PAGODA_F32, 0, 5}, {path, 5 * rowBytes, PAGODA_F32, 5, kVocab - 5}};
  CHECK(status(halves, open) == PAGODA_OK);
  CHECK(status(halves, closing) == PAGODA_IO, "gives up when the engine closes");
  CHECK(status({{path, 4, PAGODA_F32, 0, kVocab}}, open) == PAGODA_IO, "beyond the end of the file");
  CHECK(status({{path, 1ull << 62, PAGODA_F32, 0, kVocab}}, open) == PAGODA_IO, "an absurd offset");
  CHECK(status({{"no-such-file", 0, PAGODA_F32, 0, kVocab}}, open) == PAGODA_IO);
  CHECK(status({{path, 0, PAGODA_F32, 1, kVocab}}, open) == PAGODA_INVALID, "rows outside the weight");
  CHECK(status({{path, 0, PAGODA_F32, 0, 5}}, open) == PAGODA_INVALID, "too few rows");
  CHECK(status({}, open) == PAGODA_INVALID);
  std::remove(path.c_str());
}

void testMissingOps() {
  section("a backend that lacks ops is refused, by their names");
  PagodaBackend partial = *pagodaCpuBackend();
  partial.rmsNorm = nullptr;
  partial.sample = nullptr;
  Device device(&partial, {0, 1, nullptr});
  try {
    Runner runner(device, smallPlan(), kKv, 4);
    CHECK(false, "it was accepted");
  } catch (const Failure& failure) {
    CHECK(failure.status() == PAGODA_UNSUPPORTED);
    CHECK(std::string(failure.what()).find("rmsNorm, sample") != std::string::npos, "%s", failure.what());
  }
}

}  // namespace
}  // namespace pagoda::test

int main() {
  pagoda::test::testRun();
  pagoda::test::testCorruptPlans();
  pagoda::test::testCorruptSteps();
  pagoda::test::testLoader();
  pagoda::test::testMissingOps();
  return pagoda::test::finish();
}
