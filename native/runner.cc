#include "runner.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "failure.h"

namespace pagoda {

namespace {

bool hasOp(const PagodaBackend& backend, Op op) {
  switch (op) {
    case Op::embed:
      return backend.embed;
    case Op::rmsNorm:
      return backend.rmsNorm;
    case Op::linear:
      return backend.linear;
    case Op::ropeTable:
      return backend.ropeTable;
    case Op::rope:
      return backend.rope;
    case Op::cacheWrite:
      return backend.cacheWrite;
    case Op::attention:
      return backend.attention;
    case Op::gatedActivation:
      return backend.gatedActivation;
    case Op::add:
      return backend.add;
    case Op::takeRows:
      return backend.takeRows;
    case Op::sample:
      return backend.sample;
  }
  return false;
}

void checkOps(const PagodaBackend& backend, const PlanSpec& plan) {
  std::string missing;
  for (const OpSpec& spec : opSpecs()) {
    const auto uses = [&](const PlanStep& step) { return step.op == spec.op; };
    if (hasOp(backend, spec.op) || std::none_of(plan.steps.begin(), plan.steps.end(), uses)) continue;
    missing += (missing.empty() ? "" : ", ") + std::string(spec.name);
  }
  if (!missing.empty())
    throw Failure(PAGODA_UNSUPPORTED,
                  std::string("Backend ") + backend.name + " lacks these ops of the model: " + missing);
}

PagodaKvCache describeCache(const KvLayer& layer, const KvOptions& kv) {
  return {nullptr, kv.numBlocks, kv.blockSize, layer.numKvHeads, layer.headDim, kv.dtype};
}

PagodaWeight describeWeight(const WeightSpec& spec) { return {nullptr, spec.kind, spec.rows, spec.cols, spec.dtype}; }

/// a + b, throwing where the sum would pass 2^63.
uint64_t addBytes(uint64_t a, uint64_t b) {
  require(a <= INT64_MAX - b && b <= INT64_MAX, "Memory size overflows");
  return a + b;
}

float nanosecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<float, std::nano>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

MemoryNeed measure(Device& device, const PlanSpec& plan, const KvOptions& kv) {
  checkPlan(plan);
  MemoryNeed need{0, plan.arenaBytes, 0};
  for (const WeightSpec& spec : plan.weights)
    need.weights = addBytes(need.weights, device.weightBytes(describeWeight(spec)));
  for (const KvLayer& layer : plan.kvLayers)
    need.kvBlock = addBytes(need.kvBlock, device.kvBlockBytes(describeCache(layer, kv)));
  return need;
}

/// Device addresses of one step's inputs and results.
struct Runner::Uploaded {
  const int32_t *tokenIds, *positions, *slotMapping, *queryStartLoc, *seqLens, *blockTable, *blockCopies, *outputRows,
      *topK, *position;
  const float *temperature, *topP, *minP;
  const uint32_t* seed;
  int32_t *tokens, *finite;  // results, [S] each
};

Runner::Runner(Device& device, PlanSpec plan, KvOptions kv, int32_t maxRequests)
    : device_(device), plan_(std::move(plan)), kv_(kv), maxRequests_(maxRequests) {
  checkPlan(plan_);
  checkKvOptions(kv_);
  require(maxRequests_ >= 1 && maxRequests_ <= (1 << 20), "maxRequests is out of range");
  checkOps(device_.backend(), plan_);
  arena_ = DeviceMemory(device_, "arena", plan_.arenaBytes);
  allocateWeights();
  allocateKv();
}

void Runner::allocateWeights() {
  for (const WeightSpec& spec : plan_.weights) {
    PagodaWeight weight = describeWeight(spec);
    weightMemory_.emplace_back(device_, spec.name, device_.weightBytes(weight));
    weight.data = weightMemory_.back().at(0);
    weights_.push_back(weight);
  }
}

void Runner::allocateKv() {
  for (const KvLayer& layer : plan_.kvLayers) {
    PagodaKvCache cache = describeCache(layer, kv_);
    const uint64_t blockBytes = device_.kvBlockBytes(cache);
    require(blockBytes <= INT64_MAX / static_cast<uint64_t>(kv_.numBlocks), "KV cache size overflows");
    kvMemory_.emplace_back(device_, "KV cache", blockBytes * kv_.numBlocks);
    cache.data = kvMemory_.back().at(0);
    caches_.push_back(cache);
  }
}

const PagodaWeight& Runner::weight(int32_t index) const {
  require(index >= 0 && static_cast<size_t>(index) < weights_.size(), "Weight index is out of range");
  return weights_[index];
}

// One packed copy: arrays one after the other, 4 bytes an element, results at the end.
Runner::Uploaded Runner::upload(const StepInput& step) {
  staging_.clear();
  const auto append = [&](const auto& values) {
    const size_t at = staging_.size();
    staging_.resize(at + values.size());
    if (!values.empty()) std::memcpy(&staging_[at], values.data(), values.size() * sizeof(int32_t));
    return at * sizeof(int32_t);
  };
  const size_t tokenIds = append(step.tokenIds), positions = append(step.positions),
               slotMapping = append(step.slotMapping), queryStartLoc = append(step.queryStartLoc),
               seqLens = append(step.seqLens), blockTable = append(step.blockTable),
               blockCopies = append(step.blockCopies), outputRows = append(step.outputRows), topK = append(step.topK),
               position = append(step.position), temperature = append(step.temperature), topP = append(step.topP),
               minP = append(step.minP), seed = append(step.seed);
  const size_t inputBytes = staging_.size() * sizeof(int32_t);
  const size_t resultBytes = 2 * step.outputRows.size() * sizeof(int32_t);
  if (inputs_.bytes() < inputBytes + resultBytes)
    inputs_ = DeviceMemory(device_, "step inputs", 2 * (inputBytes + resultBytes));
  device_.copyToDevice(inputs_.at(0), staging_.data(), inputBytes);

  const auto ints = [&](size_t offset) { return static_cast<int32_t*>(inputs_.at(offset)); };
  const auto floats = [&](size_t offset) { return static_cast<float*>(inputs_.at(offset)); };
  Uploaded at;
  at.tokenIds = ints(tokenIds), at.positions = ints(positions), at.slotMapping = ints(slotMapping);
  at.queryStartLoc = ints(queryStartLoc), at.seqLens = ints(seqLens), at.blockTable = ints(blockTable);
  at.blockCopies = ints(blockCopies), at.outputRows = ints(outputRows);
  at.topK = ints(topK), at.position = ints(position);
  at.temperature = floats(temperature), at.topP = floats(topP), at.minP = floats(minP);
  at.seed = static_cast<const uint32_t*>(inputs_.at(seed));
  at.tokens = ints(inputBytes), at.finite = at.tokens + step.outputRows.size();
  return at;
}

StepResult Runner::run(const StepInput& step) {
  checkStep(step, plan_, kv_, maxRequests_);
  const Uploaded uploaded = upload(step);
  copyBlocks(step, uploaded);
  runSteps(step, uploaded, true);
  StepResult result;
  result.tokens.resize(step.outputRows.size());
  result.finite.resize(step.outputRows.size());
  device_.copyToHost(result.tokens.data(), uploaded.tokens, result.tokens.size() * sizeof(int32_t));
  device_.copyToHost(result.finite.data(), uploaded.finite, result.finite.size() * sizeof(int32_t));
  device_.synchronize();
  return result;
}

std::vector<float> Runner::runLogits(const StepInput& step) {
  checkStep(step, plan_, kv_, maxRequests_);
  const Uploaded uploaded = upload(step);
  copyBlocks(step, uploaded);
  runSteps(step, uploaded, false);
  const size_t width = plan_.vocabSize;
  std::vector<float> logits(step.outputRows.size() * width);
  for (size_t row = 0; row < step.outputRows.size(); ++row) {
    const uint64_t offset = plan_.logits.offset + row * plan_.logits.rowStride * sizeof(float);
    device_.copyToHost(&logits[row * width], arena_.at(offset), width * sizeof(float));
  }
  device_.synchronize();
  return logits;
}

void Runner::copyBlocks(const StepInput& step, const Uploaded& uploaded) {
  const auto numPairs = static_cast<int32_t>(step.blockCopies.size() / 2);
  if (numPairs == 0) return;
  if (!device_.backend().copyBlocks) throw Failure(PAGODA_UNSUPPORTED, "The backend lacks copyBlocks");
  for (const PagodaKvCache& cache : caches_)
    device_.run("copyBlocks", device_.backend().copyBlocks, PagodaCopyBlocks{cache, uploaded.blockCopies, numPairs});
}

void Runner::runSteps(const StepInput& step, const Uploaded& uploaded, bool sample) {
  if (profiling_) times_.clear();
  for (const PlanStep& planStep : plan_.steps) {
    if (planStep.op == Op::sample && !sample) continue;
    const auto start = std::chrono::steady_clock::now();
    runStep(planStep, step, uploaded);
    if (!profiling_) continue;
    device_.synchronize();
    times_.push_back(nanosecondsSince(start));
  }
}

PagodaTensor Runner::tensor(const Operand& operand, const StepInput& input) const {
  const int32_t rows = operand.rows == Rows::tokens ? input.numTokens() : input.numOutputs();
  return {arena_.at(operand.offset), rows, operand.width, operand.rowStride, PAGODA_F32};
}

PagodaWeight Runner::weightOf(const PlanStep& step, int i) const {
  const int32_t index = step.weights[i];
  return index == PlanStep::kAbsent ? PagodaWeight{} : weights_[index];
}

PagodaKvCache Runner::cacheOf(const PlanStep& step) const { return caches_[static_cast<size_t>(step.attributes[0])]; }

void Runner::runStep(const PlanStep& step, const StepInput& input, const Uploaded& at) {
  const PagodaBackend& backend = device_.backend();
  const bool perOutput =
      specOf(step.op).hasOutput ? step.output.rows == Rows::outputs : step.inputs[0].rows == Rows::outputs;
  if (perOutput && input.numOutputs() == 0) return;
  const auto in = [&](int i) { return tensor(step.inputs[i], input); };
  const auto out = [&] { return tensor(step.output, input); };
  const auto real = [&](int i) { return static_cast<float>(step.attributes[i]); };
  const auto integer = [&](int i) { return static_cast<int32_t>(step.attributes[i]); };
  const auto run = [&](auto function, const auto& parameters) { device_.run(step.name, function, parameters); };
  switch (step.op) {
    case Op::embed:
      return run(backend.embed, PagodaEmbed{out(), at.tokenIds, weightOf(step, 0), real(0)});
    case Op::rmsNorm:
      return run(backend.rmsNorm, PagodaRmsNorm{out(), in(0), weightOf(step, 0), integer(0), real(1), real(2)});
    case Op::linear:
      return run(backend.linear, PagodaLinear{out(), in(0), weightOf(step, 0), weightOf(step, 1)});
    case Op::ropeTable:
      return run(backend.ropeTable, PagodaRopeTable{out(), at.positions, weightOf(step, 0), real(0)});
    case Op::rope:
      return run(backend.rope, PagodaRope{out(), in(0), in(1), integer(0), integer(1), integer(2)});
    case Op::cacheWrite:
      return run(backend.cacheWrite, PagodaCacheWrite{in(0), in(1), cacheOf(step), at.slotMapping});
    case Op::attention: {
      const auto longest = std::max_element(input.seqLens.begin(), input.seqLens.end());
      int32_t maxQueryLen = 0;
      for (int32_t r = 0; r < input.numRequests(); ++r)
        maxQueryLen = std::max(maxQueryLen, input.queryStartLoc[r + 1] - input.queryStartLoc[r]);
      const PagodaBatch batch{input.numRequests(), input.numTokens(), input.maxBlocks, maxQueryLen, *longest,
                              at.queryStartLoc,    at.seqLens,        at.blockTable};
      return run(backend.attention,
                 PagodaAttention{out(), in(0), cacheOf(step), batch, integer(1), real(2), integer(3), real(4)});
    }
    case Op::gatedActivation:
      return run(backend.gatedActivation,
                 PagodaGatedActivation{out(), in(0), in(1), static_cast<PagodaActivation>(integer(0))});
    case Op::add:
      return run(backend.add, PagodaAdd{out(), in(0), in(1)});
    case Op::takeRows:
      return run(backend.takeRows, PagodaTakeRows{out(), in(0), at.outputRows});
    case Op::sample:
      return run(backend.sample, PagodaSample{in(0), at.temperature, at.topK, at.topP, at.minP, at.seed, at.position,
                                              at.tokens, at.finite});
  }
}

void Runner::writeArena(uint64_t offset, const std::vector<float>& data) {
  const uint64_t bytes = data.size() * sizeof(float);
  require(offset <= plan_.arenaBytes && bytes <= plan_.arenaBytes - offset, "The data lies outside the arena");
  device_.copyToDevice(arena_.at(offset), data.data(), bytes);
}

std::vector<float> Runner::readArena(uint64_t offset, uint64_t length) {
  require(offset <= plan_.arenaBytes && length <= (plan_.arenaBytes - offset) / sizeof(float),
          "The range lies outside the arena");
  std::vector<float> data(length);
  device_.copyToHost(data.data(), arena_.at(offset), length * sizeof(float));
  device_.synchronize();
  return data;
}

void Runner::poison() {
  constexpr uint8_t kNan = 0xff;  // NaN in f32 and bf16
  device_.fill(arena_.at(0), kNan, arena_.bytes());
  for (const DeviceMemory& memory : kvMemory_) device_.fill(memory.at(0), kNan, memory.bytes());
  device_.synchronize();
}

std::vector<float> Runner::profile(bool on) {
  profiling_ = on;
  return times_;
}

}  // namespace pagoda
