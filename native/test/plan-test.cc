// Plans and steps: a small model runs, and every single corruption of its plan or of a step's inputs is refused.
#include "../plan.h"

#include <cmath>
#include <cstdio>
#include <cstring>
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
  plan.kvGroups = {{0}};
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
  step.sampling.temperature = {0, 1};
  step.sampling.topK = {0, 5};
  step.sampling.topP = {1, 0.5f};
  step.sampling.minP = {0, 0.1f};
  step.sampling.seed = {1, 2, 3, 4};
  step.sampling.position = {3, 5};
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
      [](PlanSpec& p) { p.weights[0].dtype = PAGODA_INT8; },
      [](PlanSpec& p) { p.weights[1].dtype = PAGODA_BF16; },
      [](PlanSpec& p) { p.weights[1].kind = PAGODA_MATRIX; },
      [](PlanSpec& p) {
        p.kvLayers.push_back({0, 64, 0, 0});
      },
      [](PlanSpec& p) {
        p.kvLayers.push_back({1, 4096, 0, 0});
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
        p.steps.push_back(
            {Op::attention, "a", {p.steps[1].output}, p.steps[0].output, {PlanStep::kAbsent}, {0, 1, 1, 0, 0}});
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

// A router of four experts, of which each token asks two, and the experts.
PlanSpec mixturePlan() {
  constexpr int32_t kExperts = 4, kTopK = 2, kWidth = 3, kAbsent = PlanStep::kAbsent;
  PlanSpec plan = smallPlan();
  const Operand x = plan.steps[0].output;
  const uint64_t end = plan.arenaBytes;
  const uint64_t bytes = kTokens * kHidden * sizeof(float);
  const Operand logits{end, Rows::tokens, kExperts, kExperts};
  const Operand route{end + bytes, Rows::tokens, 2 * kTopK, 2 * kTopK};
  const Operand out{end + 2 * bytes, Rows::tokens, kHidden, kHidden};
  plan.arenaBytes += 3 * bytes;
  const auto matrix = [&](const char* name, int32_t rows, int32_t cols) {
    plan.weights.push_back({name, PAGODA_MATRIX, rows, cols, PAGODA_F32});
    return static_cast<int32_t>(plan.weights.size()) - 1;
  };
  const int32_t router = matrix("router", kExperts, kHidden), gate = matrix("gate", kExperts * kWidth, kHidden);
  const int32_t up = matrix("up", kExperts * kWidth, kHidden), down = matrix("down", kExperts * kHidden, kWidth);
  plan.steps = {
      plan.steps[0],
      {Op::linear, "router", {x}, logits, {router, kAbsent}, {}},
      {Op::route, "route", {logits}, route, {kAbsent}, {kTopK, PAGODA_SOFTMAX, 1, 1, 2, 2, PAGODA_GROUP_TOP2_SUM}},
      {Op::experts, "experts", {x, route}, out, {gate, up, down, kAbsent, kAbsent, kAbsent}, {kExperts, PAGODA_SILU}},
  };
  return plan;
}

void testCorruptMixtures() {
  section("corrupt mixtures of experts");
  constexpr size_t kRoute = 2, kExperts = 3;
  std::vector<std::function<void(PlanSpec&)>> corruptions = {
      [](PlanSpec& p) { p.steps[kRoute].output.width = 3; },
      [](PlanSpec& p) { p.steps[kRoute].output.rows = Rows::outputs; },
      [](PlanSpec& p) { p.steps[kRoute].weights[0] = 1; },
      [](PlanSpec& p) { p.steps[kRoute].weights.clear(); },
      [](PlanSpec& p) { p.steps[kExperts].inputs[1].width = 3; },
      [](PlanSpec& p) { p.steps[kExperts].inputs[1].rows = Rows::outputs; },
      [](PlanSpec& p) { p.steps[kExperts].output.width = kHidden - 1; },
      [](PlanSpec& p) { p.steps[kExperts].weights[2] = PlanStep::kAbsent; },
      [](PlanSpec& p) { p.steps[kExperts].weights[3] = 1; },
      [](PlanSpec& p) { std::swap(p.steps[kExperts].weights[0], p.steps[kExperts].weights[2]); },
      [](PlanSpec& p) { p.weights.back().rows -= 1; },
      [](PlanSpec& p) { p.weights.back().cols += 1; },
      [](PlanSpec& p) { p.weights.back().kind = PAGODA_TABLE; },
  };
  const auto attribute = [&](size_t step, size_t index, std::vector<double> values) {
    for (const double value : values)
      corruptions.push_back([=](PlanSpec& p) { p.steps[step].attributes[index] = value; });
  };
  attribute(kRoute, 0, {0, 1, 5, NAN});         // topK
  attribute(kRoute, 1, {-1, 2, 0.5});           // scoring
  attribute(kRoute, 2, {2, NAN});               // normalize
  attribute(kRoute, 3, {NAN, INFINITY});        // scale
  attribute(kRoute, 4, {0, 3, 4, 1e9});         // numGroups
  attribute(kRoute, 5, {0, 3});                 // topGroups
  attribute(kRoute, 6, {-1, 2});                // groupScore
  attribute(kExperts, 0, {0, 1, 3, 1e9, NAN});  // numExperts
  attribute(kExperts, 1, {-1, 4});              // activation
  CHECK(!refused([] { checkPlan(mixturePlan()); }), "the plan itself is accepted");
  for (size_t i = 0; i < corruptions.size(); ++i) {
    PlanSpec plan = mixturePlan();
    corruptions[i](plan);
    CHECK(refused([&] { checkPlan(plan); }), "corruption %zu", i);
  }
}

SamplingControls smallControls() {
  SamplingControls c;
  c.allowed = {{1, 4, 9}, {0, 3, 3}};
  c.banned = {{4, 4}, {0, 0, 2}};
  c.biased = {{0, 10}, {0, 1, 2}};
  c.biases = {1.5f, -2};
  c.history = {{1, 5, 10, 3, 3}, {0, 0, 5}};
  c.numPromptTokens = {0, 2};
  c.repetitionPenalty = {1, 1.2f};
  c.frequencyPenalty = {0, 0.5f};
  c.presencePenalty = {0, -0.5f};
  c.dryMultiplier = {0, 0.8f};
  c.dryBase = {1, 1.75f};
  c.dryAllowedLength = {1, 2};
  c.dryRange = {0, 1000};
  c.dryBreakers = {{2, 7}, {0, 0, 2}};
  c.typicalP = {1, 0.9f};
  c.xtcProbability = {0, 0.5f};
  c.xtcThreshold = {0, 0.1f};
  return c;
}

// As smallStep, with everything that sampling knows.
StepInput controlledStep() {
  StepInput step = smallStep();
  step.sampling.targets = {-1, 3};
  step.sampling.numLogprobs = {2, -1};
  step.sampling.hasControls = true;
  step.sampling.controls = smallControls();
  return step;
}

void testControlledRun() {
  section("a step with controls and log-probabilities; sampleRows gives the same from the same logits");
  Device device = openCpu();
  Runner runner(device, smallPlan(), kKv, 4);
  setWeight(runner, 0, testWeight(kVocab * kHidden));
  setWeight(runner, 1, std::vector<float>(kHidden, 1.0f));
  const StepInput step = controlledStep();
  const StepResult result = runner.run(step);
  CHECK(result.tokens[0] == 1 || result.tokens[0] == 4 || result.tokens[0] == 9, "%d is not allowed", result.tokens[0]);
  CHECK(result.tokens[1] == 3, "the target");
  CHECK(result.logprobs.size() == 2 * (2 + 2 * 2));
  CHECK(result.logprobs[0] < 0 && result.logprobs[0] > -100);
  const StepResult again = runner.sampleRows(runner.runLogits(step), step.sampling);
  CHECK(again.tokens == result.tokens && again.finite == result.finite);
  // Of row 0 only: row 1 wants none.
  const auto same = [&](size_t word) {
    return std::memcmp(&again.logprobs[word], &result.logprobs[word], sizeof(float)) == 0;
  };
  for (const size_t word : {0, 2, 4, 5, 8, 9}) CHECK(same(word), "word %zu", word);
  CHECK(refused([&] { runner.sampleRows(std::vector<float>(5), step.sampling); }), "too few logits");
  SamplingInput many;
  many.temperature.resize(kOutputs + 1);
  CHECK(refused([&] { runner.sampleRows(std::vector<float>((kOutputs + 1) * kVocab), many); }), "too many rows");
}

// Two attention layers behind the embedding: one sees all, one has a window of 2 tokens. Both use slot 0.
PlanSpec hybridPlan() {
  PlanSpec plan = smallPlan();
  plan.kvGroups = {{0}, {2}};
  plan.kvLayers = {{1, kHidden, 0, 0}, {1, kHidden, 1, 0}};
  const Operand a = plan.steps[0].output, b = plan.steps[1].output;
  const std::vector<PlanStep> layers = {
      {Op::cacheWrite, "0.write", {a, a}, {}, {}, {0}},
      {Op::attention, "0.attention", {a}, b, {PlanStep::kAbsent}, {0, 1, 1, 0, 0}},
      {Op::cacheWrite, "1.write", {b, b}, {}, {}, {1}},
      {Op::attention, "1.attention", {b}, a, {PlanStep::kAbsent}, {1, 1, 1, 2, 0}},
  };
  plan.steps.insert(plan.steps.begin() + 1, layers.begin(), layers.end());
  return plan;
}

constexpr KvOptions kHybridKv{5, 4, PAGODA_F32};

// 3 tokens of one request and 1 of another: blocks 1 and 2 in the first group, 3 and 4 in the second.
StepInput hybridStep() {
  StepInput step = smallStep();
  step.maxBlocks = 1;
  step.positions = {0, 1, 2, 0};
  step.seqLens = {3, 1};
  step.blockTable = {1, 2, 3, 4};
  step.slotMapping = {4, 5, 6, 8, 12, 13, 14, 16};
  return step;
}

std::vector<float> runPoisoned(const PlanSpec& plan, const StepInput& step) {
  Device device = openCpu();
  Runner runner(device, plan, kHybridKv, 4);
  setWeight(runner, 0, testWeight(kVocab * kHidden));
  setWeight(runner, 1, std::vector<float>(kHidden, 1.0f));
  runner.poison();
  return runner.runLogits(step);
}

void testGroups() {
  section("groups that share a slot compute what layers with a slot each do");
  const std::vector<float> shared = runPoisoned(hybridPlan(), hybridStep());
  PlanSpec apart = hybridPlan();
  apart.kvGroups = {{0}};
  apart.kvLayers = {{1, kHidden, 0, 0}, {1, kHidden, 0, 1}};
  StepInput step = hybridStep();
  step.blockTable.resize(2);
  step.slotMapping.resize(4);
  const std::vector<float> expected = runPoisoned(apart, step);
  CHECK(shared.size() == 2 * kVocab && shared == expected);
  for (float value : shared) CHECK(std::isfinite(value));
  Device device = openCpu();
  CHECK(2 * measure(device, hybridPlan(), kHybridKv).kvBlock == measure(device, apart, kHybridKv).kvBlock,
        "a block has memory in each slot once");
}

void testCorruptGroups() {
  section("corrupt KV groups and slots");
  const std::vector<std::function<void(PlanSpec&)>> corruptPlans = {
      [](PlanSpec& p) { p.kvGroups.clear(); },
      [](PlanSpec& p) { p.kvGroups.resize(1); },
      [](PlanSpec& p) { p.kvGroups.resize(1 << 20); },
      [](PlanSpec& p) { p.kvGroups[1].slidingWindow = -1; },
      [](PlanSpec& p) { p.kvGroups[1].slidingWindow = 1; },  // its layer sees 2 tokens
      [](PlanSpec& p) { p.steps[4].attributes[3] = 3; },     // its group keeps 2 tokens
      [](PlanSpec& p) { p.steps[4].attributes[3] = 0; },     // its group does not keep all
      [](PlanSpec& p) { p.kvLayers[0].group = 1; },          // two layers in one place
      [](PlanSpec& p) { p.kvLayers[1].group = 0; },
      [](PlanSpec& p) { p.kvLayers[1].group = -1; },
      [](PlanSpec& p) { p.kvLayers[1].group = 2; },
      [](PlanSpec& p) { p.kvLayers[1].group = INT32_MAX; },
      [](PlanSpec& p) { p.kvLayers[1].slot = -1; },
      [](PlanSpec& p) { p.kvLayers[1].slot = 2; },
      [](PlanSpec& p) { p.kvLayers[1].slot = INT32_MAX; },
      [](PlanSpec& p) { p.kvLayers[0].slot = p.kvLayers[1].slot = 1; },  // nothing in slot 0
      [](PlanSpec& p) {
        p.kvLayers[1] = {2, kHidden / 2, 1, 0};
      },  // as wide, but another shape
      [](PlanSpec& p) { p.steps[3].attributes[0] = 2; },
  };
  CHECK(!refused([] { checkPlan(hybridPlan()); }), "the plan itself is accepted");
  for (size_t i = 0; i < corruptPlans.size(); ++i) {
    PlanSpec plan = hybridPlan();
    corruptPlans[i](plan);
    CHECK(refused([&] { checkPlan(plan); }), "plan %zu", i);
  }
  const std::vector<std::function<void(StepInput&)>> corruptSteps = {
      [](StepInput& s) { s.blockTable.resize(2); },  // of the first group alone
      [](StepInput& s) { s.blockTable.resize(6); },   [](StepInput& s) { s.slotMapping.resize(4); },
      [](StepInput& s) { s.slotMapping.resize(12); }, [](StepInput& s) { s.blockTable[3] = 5; },
      [](StepInput& s) { s.blockTable[2] = -1; },     [](StepInput& s) { s.slotMapping[7] = 20; },
      [](StepInput& s) { s.slotMapping[4] = -2; },    [](StepInput& s) { s.seqLens[0] = 5; },
  };
  const PlanSpec plan = hybridPlan();
  CHECK(!refused([&] { checkStep(hybridStep(), plan, kHybridKv, 4); }), "the step itself is accepted");
  for (size_t i = 0; i < corruptSteps.size(); ++i) {
    StepInput step = hybridStep();
    corruptSteps[i](step);
    CHECK(refused([&] { checkStep(step, plan, kHybridKv, 4); }), "step %zu", i);
  }
}

void testCorruptControls() {
  section("corrupt sampling controls");
  using Corruption = std::function<void(SamplingInput&)>;
  const auto onControls = [](std::function<void(SamplingControls&)> change) -> Corruption {
    return [change](SamplingInput& s) { change(s.controls); };
  };
  std::vector<Corruption> corruptions = {
      [](SamplingInput& s) { s.targets[0] = -2; },
      [](SamplingInput& s) { s.targets[0] = kVocab; },
      [](SamplingInput& s) { s.targets.pop_back(); },
      [](SamplingInput& s) { s.numLogprobs[0] = -2; },
      [](SamplingInput& s) { s.numLogprobs[0] = kMaxLogprobs + 1; },
      [](SamplingInput& s) { s.numLogprobs.push_back(0); },
      [](SamplingInput& s) { s.controls = SamplingControls(); },
      onControls([](SamplingControls& c) {
        c.allowed.values = {4, 4, 9};
      }),
      onControls([](SamplingControls& c) {
        c.allowed.values = {4, 1, 9};
      }),
      onControls([](SamplingControls& c) {
        c.biased.offsets = {0, 2, 2}, c.biased.values = {3, 3};
      }),
      onControls([](SamplingControls& c) { c.biases.pop_back(); }),
      onControls([](SamplingControls& c) { c.biases[0] = NAN; }),
      onControls([](SamplingControls& c) { c.biases[0] = INFINITY; }),
      onControls([](SamplingControls& c) { c.numPromptTokens[1] = 6; }),
      onControls([](SamplingControls& c) { c.numPromptTokens[0] = 1; }),
      onControls([](SamplingControls& c) { c.numPromptTokens[0] = -1; }),
      onControls([](SamplingControls& c) { c.numPromptTokens.pop_back(); }),
      onControls([](SamplingControls& c) { c.dryAllowedLength[0] = 0; }),
      onControls([](SamplingControls& c) { c.dryRange[1] = -1; }),
      onControls([](SamplingControls& c) {
        c.dryBreakers.values = {7, 2};
      }),
  };
  Lists SamplingControls::*const lists[] = {&SamplingControls::allowed, &SamplingControls::banned,
                                            &SamplingControls::biased, &SamplingControls::history,
                                            &SamplingControls::dryBreakers};
  for (const auto list : lists) {
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).values[0] = -1; }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).values.back() = kVocab; }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).values.push_back(0); }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).offsets[0] = 1; }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).offsets[1] = -1; }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).offsets[1] = INT32_MAX; }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).offsets[2] = 1000; }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).offsets.pop_back(); }));
    corruptions.push_back(onControls([list](SamplingControls& c) { (c.*list).offsets.clear(); }));
  }
  std::vector<float> SamplingControls::*const reals[] = {
      &SamplingControls::repetitionPenalty, &SamplingControls::frequencyPenalty, &SamplingControls::presencePenalty,
      &SamplingControls::dryMultiplier,     &SamplingControls::dryBase,          &SamplingControls::typicalP,
      &SamplingControls::xtcProbability,    &SamplingControls::xtcThreshold};
  for (const auto real : reals) {
    for (const float value : {NAN, INFINITY, -INFINITY, -1e9f})
      corruptions.push_back(onControls([real, value](SamplingControls& c) { (c.*real)[1] = value; }));
    corruptions.push_back(onControls([real](SamplingControls& c) { (c.*real).pop_back(); }));
  }
  const PlanSpec plan = smallPlan();
  CHECK(!refused([&] { checkStep(controlledStep(), plan, kKv, 4); }), "the step itself is accepted");
  for (size_t i = 0; i < corruptions.size(); ++i) {
    StepInput step = controlledStep();
    corruptions[i](step.sampling);
    CHECK(refused([&] { checkStep(step, plan, kKv, 4); }), "corruption %zu", i);
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
      [](StepInput& s) { s.sampling.temperature[0] = -1; },
      [](StepInput& s) { s.sampling.temperature[0] = NAN; },
      [](StepInput& s) { s.sampling.temperature[0] = INFINITY; },
      [](StepInput& s) { s.sampling.topK[0] = -1; },
      [](StepInput& s) { s.sampling.topP[0] = 0; },
      [](StepInput& s) { s.sampling.topP[0] = 1.5f; },
      [](StepInput& s) { s.sampling.minP[0] = -0.5f; },
      [](StepInput& s) { s.sampling.seed.pop_back(); },
      [](StepInput& s) { s.sampling.position[0] = -1; },
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
      loadWeights(runner, {{0, parts}}, cancelled);
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

void testLoaderChunks() {
  section("a weight that is read in several chunks");
  PlanSpec plan = smallPlan();
  const int32_t rows = 150001;  // of 32 bytes: 4.8 MB; the last panel is not full
  plan.weights.push_back({"large", PAGODA_MATRIX, rows, kHidden, PAGODA_F32});
  Device device = openCpu();
  Runner loaded(device, plan, kKv, 4), expected(device, plan, kKv, 4);
  const std::string path = "plan-test-chunks.tmp";
  std::vector<float> data(static_cast<size_t>(rows) * kHidden);
  for (size_t i = 0; i < data.size(); ++i) data[i] = static_cast<float>(i % 1000003);
  std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(data.data()), data.size() * sizeof(float));
  loadWeights(loaded, {{2, {{path, 0, PAGODA_F32, 0, rows}}}}, false);
  setWeight(expected, 2, data);
  const uint64_t bytes = device.weightBytes(loaded.weight(2));
  CHECK(std::memcmp(loaded.weight(2).data, expected.weight(2).data, bytes) == 0);
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

// Writes, attends to and reads a latent cache of rows [6 | 2].
PlanSpec latentPlan() {
  PlanSpec plan = smallPlan();
  const auto columns = [&](int32_t start, int32_t width) {
    return Operand{start * sizeof(float), Rows::tokens, width, kHidden};
  };
  plan.kvLayers = {{.numKvHeads = 1, .headDim = kHidden, .group = 0, .slot = 0, .latentDim = 6}};
  const Operand out{plan.steps[1].output.offset, Rows::tokens, 6, kHidden};
  const auto first = static_cast<int32_t>(plan.weights.size());
  plan.weights.push_back({"keyUp", PAGODA_MATRIX, 6, 5, PAGODA_F32});
  plan.weights.push_back({"valueUp", PAGODA_MATRIX, 6, 6, PAGODA_F32});
  plan.weights.push_back({"keyExpand", PAGODA_MATRIX, 5, 6, PAGODA_F32});
  plan.steps.insert(
      plan.steps.begin() + 1,
      {{Op::latentWrite, "write", {columns(0, 6), columns(6, 2)}, {}, {}, {0}},
       {Op::mlaAttention, "attend", {columns(0, 5), columns(6, 2)}, out, {first, first + 1, first + 2}, {0, 1, 1, 2}},
       {Op::gatherKv, "gather", {}, plan.steps[1].output, {}, {0}}});
  return plan;
}

void testLatentPlan() {
  section("latent caches: a plan and its corruptions");
  Device device = openCpu();
  Runner runner(device, latentPlan(), kKv, 4);
  setWeight(runner, 0, testWeight(kVocab * kHidden));
  setWeight(runner, 1, std::vector<float>(kHidden, 1.0f));
  for (size_t i = runner.plan().weights.size() - 3; i < runner.plan().weights.size(); ++i) {
    const WeightSpec& spec = runner.plan().weights[i];
    setWeight(runner, static_cast<int32_t>(i), testWeight(spec.rows * spec.cols));
  }
  runner.poison();
  for (float value : runner.runLogits(smallStep())) CHECK(std::isfinite(value));
  const std::vector<std::function<void(PlanSpec&)>> corruptions = {
      [](PlanSpec& p) { p.kvLayers[0].latentDim = 0; },
      [](PlanSpec& p) { p.kvLayers[0].latentDim = -6; },
      [](PlanSpec& p) { p.kvLayers[0].latentDim = 5; },
      [](PlanSpec& p) { p.kvLayers[0].latentDim = 8; },
      [](PlanSpec& p) { p.kvLayers[0].headDim = 7; },
      [](PlanSpec& p) { p.kvLayers[0].headDim = 2048; },
      [](PlanSpec& p) { p.kvLayers[0].numKvHeads = 2; },
      [](PlanSpec& p) { p.kvGroups[0].slidingWindow = 4; },
      [](PlanSpec& p) { p.steps[1].op = Op::cacheWrite; },
      [](PlanSpec& p) { p.steps[1].inputs[0].width = 4; },
      [](PlanSpec& p) { p.steps[1].inputs[1].width = 1; },
      [](PlanSpec& p) { p.steps[1].attributes[0] = 1; },
      [](PlanSpec& p) { p.steps[2].attributes[1] = 2; },
      [](PlanSpec& p) { p.steps[2].attributes[1] = 0.5; },
      [](PlanSpec& p) { p.steps[2].attributes[2] = NAN; },
      [](PlanSpec& p) { p.steps[2].inputs[1].width = 1; },
      [](PlanSpec& p) { p.steps[2].attributes[3] = -1; },
      [](PlanSpec& p) { p.steps[2].attributes[3] = 0.5; },
      [](PlanSpec& p) { p.steps[2].weights[0] = PlanStep::kAbsent; },
      [](PlanSpec& p) { p.steps[2].weights[1] = PlanStep::kAbsent; },
      [](PlanSpec& p) { p.steps[2].weights[2] = PlanStep::kAbsent; },
      [](PlanSpec& p) { p.steps[2].weights[2] = p.steps[2].weights[1]; },
      [](PlanSpec& p) { p.steps[2].inputs[0].width = 4; },
      [](PlanSpec& p) { p.steps[2].output.width = 5; },
      [](PlanSpec& p) { p.steps[2].inputs[0].rows = Rows::outputs; },
      [](PlanSpec& p) { p.steps[3].output.width = 6; },
      [](PlanSpec& p) { p.steps[3].output.rows = Rows::outputs; },
      [](PlanSpec& p) { p.steps[3].attributes[0] = -1; },
  };
  CHECK(!refused([] { checkPlan(latentPlan()); }), "the plan itself is accepted");
  for (size_t i = 0; i < corruptions.size(); ++i) {
    PlanSpec plan = latentPlan();
    corruptions[i](plan);
    CHECK(refused([&] { checkPlan(plan); }), "corruption %zu", i);
  }
}

}  // namespace
}  // namespace pagoda::test

int main() {
  pagoda::test::testRun();
  pagoda::test::testCorruptPlans();
  pagoda::test::testCorruptMixtures();
  pagoda::test::testCorruptSteps();
  pagoda::test::testGroups();
  pagoda::test::testCorruptGroups();
  pagoda::test::testLatentPlan();
  pagoda::test::testControlledRun();
  pagoda::test::testCorruptControls();
  pagoda::test::testLoader();
  pagoda::test::testLoaderChunks();
  pagoda::test::testMissingOps();
  return pagoda::test::finish();
}
