#include "runner.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "failure.h"
#include "runner-steps.h"
#include "step-arrays.h"

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
    case Op::latentWrite:
      return backend.latentWrite;
    case Op::mlaAttention:
      return backend.mlaAttention;
    case Op::gatherKv:
      return backend.gatherKv;
    case Op::gatedActivation:
      return backend.gatedActivation;
    case Op::add:
      return backend.add;
    case Op::route:
      return backend.route;
    case Op::experts:
      return backend.experts;
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

PagodaKvCache describeCache(const KvLayer& slot, const KvOptions& kv) {
  return {nullptr, kv.numBlocks, kv.blockSize, slot.numKvHeads, slot.headDim, kv.dtype, slot.latentDim};
}

PagodaWeight describeWeight(const WeightSpec& spec) { return {nullptr, spec.kind, spec.rows, spec.cols, spec.dtype}; }

/// a + b, throwing where the sum would pass 2^63.
uint64_t addBytes(uint64_t a, uint64_t b) {
  require(a <= INT64_MAX - b && b <= INT64_MAX, "Memory size overflows");
  return a + b;
}

/// As far as the next weight begins behind it.
uint64_t alignedWeightBytes(Device& device, const PagodaWeight& weight) {
  constexpr uint64_t kAlignment = 256;  // as backend.h promises for an allocation
  return addBytes(device.weightBytes(weight), kAlignment - 1) / kAlignment * kAlignment;
}

float nanosecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<float, std::nano>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

MemoryNeed measure(Device& device, const PlanSpec& plan, const KvOptions& kv) {
  checkPlan(plan);
  MemoryNeed need{0, plan.arenaBytes, 0};
  for (const WeightSpec& spec : plan.weights)
    need.weights = addBytes(need.weights, alignedWeightBytes(device, describeWeight(spec)));
  for (const KvLayer& slot : kvSlots(plan))
    need.kvBlock = addBytes(need.kvBlock, device.kvBlockBytes(describeCache(slot, kv)));
  return need;
}

namespace {

int32_t longestList(const Lists& lists) {
  int32_t longest = 0;
  for (size_t row = 0; row + 1 < lists.offsets.size(); ++row)
    longest = std::max(longest, lists.offsets[row + 1] - lists.offsets[row]);
  return longest;
}

}  // namespace

Runner::Runner(Device& device, PlanSpec plan, KvOptions kv, int32_t maxRequests, bool enforceEager)
    : device_(device), plan_(std::move(plan)), kv_(kv), maxRequests_(maxRequests), enforceEager_(enforceEager) {
  checkPlan(plan_);
  checkKvOptions(kv_);
  require(maxRequests_ >= 1 && maxRequests_ <= (1 << 20), "maxRequests is out of range");
  checkOps(device_.backend(), plan_);
  arena_ = DeviceMemory(device_, "arena", plan_.arenaBytes);
  allocateWeights();
  allocateKv();
}

Runner::~Runner() = default;

void Runner::allocateWeights() {
  uint64_t bytes = 0;
  std::vector<uint64_t> offsets;
  for (const WeightSpec& spec : plan_.weights) {
    weights_.push_back(describeWeight(spec));
    offsets.push_back(bytes);
    bytes = addBytes(bytes, alignedWeightBytes(device_, weights_.back()));
  }
  weightMemory_ = DeviceMemory(device_, "weights", bytes);
  for (size_t i = 0; i < weights_.size(); ++i) weights_[i].data = weightMemory_.at(offsets[i]);
}

// Blocks are handed out in order. The pages of the first ones are made ready here, so that the first requests need not
// wait for them, and the device learns which pages come quickly.
uint64_t Runner::readyBlocks() const {
  constexpr uint64_t kReadyBytes = 32u << 20;
  uint64_t blockBytes = 0;
  for (const KvLayer& slot : kvSlots(plan_)) blockBytes += device_.kvBlockBytes(describeCache(slot, kv_));
  return std::min<uint64_t>(kv_.numBlocks, kReadyBytes / std::max<uint64_t>(blockBytes, 1));
}

void Runner::allocateKv() {
  const uint64_t ready = readyBlocks();
  for (const KvLayer& slot : kvSlots(plan_)) {
    PagodaKvCache cache = describeCache(slot, kv_);
    const uint64_t blockBytes = device_.kvBlockBytes(cache);
    require(blockBytes <= INT64_MAX / static_cast<uint64_t>(kv_.numBlocks), "KV cache size overflows");
    kvMemory_.emplace_back(device_, "KV cache", blockBytes * kv_.numBlocks);
    cache.data = kvMemory_.back().at(0);
    device_.fill(cache.data, 0, ready * blockBytes);
    caches_.push_back(cache);
  }
}

const PagodaWeight& Runner::weight(int32_t index) const {
  require(index >= 0 && static_cast<size_t>(index) < weights_.size(), "Weight index is out of range");
  return weights_[index];
}

// One packed copy: arrays one after the other, 4 bytes an element, results at the end.
Runner::Uploaded Runner::upload(const StepInput& step, DeviceMemory& memory) {
  const size_t outputs = step.sampling.temperature.size();
  const int32_t maxLogprobs = step.sampling.maxLogprobs();
  Uploaded at = {};
  for (const int32_t length : step.seqLens) at.maxSeqLen = std::max(at.maxSeqLen, length);
  at.numLogprobs = step.sampling.numLogprobs.empty() ? 0 : 2 * outputs * (1 + static_cast<size_t>(maxLogprobs));
  size_t words = 2 * outputs + at.numLogprobs;
  visitStep(step, at, [&](const auto& values, const auto*&) { words += values.size(); });
  if (memory.bytes() < words * sizeof(int32_t))
    memory = DeviceMemory(device_, "step inputs", 2 * words * sizeof(int32_t));

  staging_.clear();
  const auto append = [&]<typename T>(const std::vector<T>& values, const T*& address) {
    if (values.empty()) return;
    const size_t start = staging_.size();
    address = static_cast<const T*>(memory.at(start * sizeof(int32_t)));
    staging_.resize(start + values.size());
    std::memcpy(&staging_[start], values.data(), values.size() * sizeof(int32_t));
  };
  visitStep(step, at, append);
  device_.copyToDevice(memory.at(0), staging_.data(), staging_.size() * sizeof(int32_t));

  PagodaSample& sample = at.sample;
  sample.controls.maxHistory = longestList(step.sampling.controls.history);
  sample.tokens = static_cast<int32_t*>(memory.at(staging_.size() * sizeof(int32_t)));
  sample.finite = sample.tokens + outputs;
  if (at.numLogprobs == 0) return at;
  PagodaLogprobs& logprobs = sample.logprobs;
  logprobs.maxWanted = maxLogprobs;
  logprobs.logprob = reinterpret_cast<float*>(sample.finite + outputs);
  logprobs.rank = reinterpret_cast<int32_t*>(logprobs.logprob + outputs);
  logprobs.topIds = logprobs.rank + outputs;
  logprobs.topLogprobs = reinterpret_cast<float*>(logprobs.topIds + outputs * maxLogprobs);
  return at;
}

StepResult Runner::download(const Uploaded& uploaded, size_t outputs) {
  StepResult result;
  result.tokens.resize(outputs);
  result.finite.resize(outputs);
  result.logprobs.resize(uploaded.numLogprobs);
  device_.copyToHost(result.tokens.data(), uploaded.sample.tokens, outputs * sizeof(int32_t));
  device_.copyToHost(result.finite.data(), uploaded.sample.finite, outputs * sizeof(int32_t));
  device_.copyToHost(result.logprobs.data(), uploaded.sample.logprobs.logprob, uploaded.numLogprobs * sizeof(float));
  device_.synchronize();
  return result;
}

StepResult Runner::run(const StepInput& step) {
  checkStep(step, plan_, kv_, maxRequests_);
  const Uploaded uploaded = upload(step, inputs_);
  copyBlocks(step, uploaded);
  runModel(step, uploaded);
  runSample(step, uploaded);
  return download(uploaded, step.outputRows.size());
}

StepResult Runner::sampleRows(const std::vector<float>& logits, const SamplingInput& sampling) {
  const size_t outputs = sampling.temperature.size(), width = plan_.vocabSize;
  require(outputs <= static_cast<size_t>(plan_.maxOutputs), "temperature: too many rows");
  require(logits.size() == outputs * width, "logits must have vocabSize elements a row");
  checkSampling(sampling, outputs, plan_.vocabSize);
  StepInput step;
  step.sampling = sampling;
  Uploaded uploaded = upload(step, inputs_);
  if (outputs == 0) return {};
  for (size_t row = 0; row < outputs; ++row) {
    const uint64_t offset = plan_.logits.offset + row * plan_.logits.rowStride * sizeof(float);
    device_.copyToDevice(arena_.at(offset), &logits[row * width], width * sizeof(float));
  }
  uploaded.sample.logits = {arena_.at(plan_.logits.offset), static_cast<int32_t>(outputs), plan_.logits.width,
                            plan_.logits.rowStride, PAGODA_F32};
  device_.run("sample", device_.backend().sample, uploaded.sample);
  return download(uploaded, outputs);
}

std::vector<float> Runner::runLogits(const StepInput& step) {
  checkStep(step, plan_, kv_, maxRequests_);
  const Uploaded uploaded = upload(step, inputs_);
  copyBlocks(step, uploaded);
  runSteps(step, uploaded);
  const size_t width = plan_.vocabSize;
  std::vector<float> logits(step.outputRows.size() * width);
  for (size_t row = 0; row < step.outputRows.size(); ++row) {
    const uint64_t offset = plan_.logits.offset + row * plan_.logits.rowStride * sizeof(float);
    device_.copyToHost(&logits[row * width], arena_.at(offset), width * sizeof(float));
  }
  device_.synchronize();
  return logits;
}

void Runner::runOne(const StepInput& step, size_t index) {
  require(index < plan_.steps.size() && plan_.steps[index].op != Op::sample, "There is no such step of the plan");
  checkStep(step, plan_, kv_, maxRequests_);
  const Uploaded uploaded = upload(step, inputs_);
  copyBlocks(step, uploaded);
  runStep(plan_.steps[index], step, uploaded);
  device_.synchronize();
}

void Runner::copyBlocks(const StepInput& step, const Uploaded& uploaded) {
  const auto numPairs = static_cast<int32_t>(step.blockCopies.size() / 2);
  if (numPairs == 0) return;
  if (!device_.backend().copyBlocks) throw Failure(PAGODA_UNSUPPORTED, "The backend lacks copyBlocks");
  for (const PagodaKvCache& cache : caches_)
    device_.run("copyBlocks", device_.backend().copyBlocks, PagodaCopyBlocks{cache, uploaded.blockCopies, numPairs});
}

void Runner::runSteps(const StepInput& step, const Uploaded& uploaded) {
  if (profiling_) times_.clear();
  for (const PlanStep& planStep : plan_.steps)
    if (planStep.op != Op::sample) runTimed(planStep, step, uploaded);
}

void Runner::runSample(const StepInput& step, const Uploaded& uploaded) {
  for (const PlanStep& planStep : plan_.steps)
    if (planStep.op == Op::sample) runTimed(planStep, step, uploaded);
}

void Runner::runTimed(const PlanStep& planStep, const StepInput& step, const Uploaded& uploaded) {
  const auto start = std::chrono::steady_clock::now();
  runStep(planStep, step, uploaded);
  if (!profiling_) return;
  device_.synchronize();
  times_.push_back(nanosecondsSince(start));
}

PagodaTensor Runner::tensor(const Operand& operand, const StepInput& input) const {
  const int32_t rows = operand.rows == Rows::tokens ? input.numTokens() : input.numOutputs();
  return {arena_.at(operand.offset), rows, operand.width, operand.rowStride, PAGODA_F32};
}

PagodaWeight Runner::weightOf(const PlanStep& step, int i) const {
  const int32_t index = step.weights[i];
  return index == PlanStep::kAbsent ? PagodaWeight{} : weights_[index];
}

const KvLayer& Runner::layerOf(const PlanStep& step) const {
  return plan_.kvLayers[static_cast<size_t>(step.attributes[0])];
}

PagodaCacheWrite Runner::cacheWrite(const PlanStep& step, const StepInput& input, const Uploaded& at) const {
  const KvLayer& layer = layerOf(step);
  const int32_t* slotMapping = at.slotMapping + static_cast<size_t>(layer.group) * input.numTokens();
  return {tensor(step.inputs[0], input), tensor(step.inputs[1], input), caches_[layer.slot], slotMapping};
}

PagodaLatentWrite Runner::latentWrite(const PlanStep& step, const StepInput& input, const Uploaded& at) const {
  const PagodaCacheWrite write = cacheWrite(step, input, at);
  return {write.key, write.value, write.cache, write.slotMapping};
}

PagodaBatch Runner::batch(const PlanStep& step, const StepInput& input, const Uploaded& at) const {
  int32_t maxQueryLen = 0;
  for (int32_t r = 0; r < input.numRequests(); ++r)
    maxQueryLen = std::max(maxQueryLen, input.queryStartLoc[r + 1] - input.queryStartLoc[r]);
  const size_t tableSize = static_cast<size_t>(input.numRequests()) * input.maxBlocks;
  const int32_t* blockTable = at.blockTable + layerOf(step).group * tableSize;
  const auto onHost = [&](const std::vector<int32_t>& values) { return at.mayBeRecorded ? nullptr : values.data(); };
  return {input.numRequests(),  input.numTokens(), input.maxBlocks,
          maxQueryLen,          at.maxSeqLen,      at.queryStartLoc,
          at.seqLens,           blockTable,        onHost(input.queryStartLoc),
          onHost(input.seqLens)};
}

PagodaAttention Runner::attention(const PlanStep& step, const StepInput& input, const Uploaded& at) const {
  const auto real = [&](int i) { return static_cast<float>(step.attributes[i]); };
  const auto integer = [&](int i) { return static_cast<int32_t>(step.attributes[i]); };
  return {tensor(step.output, input),
          tensor(step.inputs[0], input),
          caches_[layerOf(step).slot],
          batch(step, input, at),
          integer(1),
          real(2),
          integer(3),
          real(4),
          weightOf(step, 0)};
}

PagodaMlaAttention Runner::mlaAttention(const PlanStep& step, const StepInput& input, const Uploaded& at) const {
  return {tensor(step.output, input),
          tensor(step.inputs[0], input),
          tensor(step.inputs[1], input),
          caches_[layerOf(step).slot],
          batch(step, input, at),
          weightOf(step, 0),
          weightOf(step, 1),
          weightOf(step, 2),
          static_cast<int32_t>(step.attributes[1]),
          static_cast<float>(step.attributes[2]),
          static_cast<int32_t>(step.attributes[3])};
}

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
      return run(backend.cacheWrite, cacheWrite(step, input, at));
    case Op::attention:
      return run(backend.attention, attention(step, input, at));
    case Op::latentWrite:
      return run(backend.latentWrite, latentWrite(step, input, at));
    case Op::mlaAttention:
      return run(backend.mlaAttention, mlaAttention(step, input, at));
    case Op::gatherKv:
      return run(backend.gatherKv, PagodaGatherKv{out(), caches_[layerOf(step).slot], batch(step, input, at),
                                                  static_cast<PagodaLayout>(integer(1))});
    case Op::gatedActivation:
      return run(backend.gatedActivation,
                 PagodaGatedActivation{out(), in(0), in(1), static_cast<PagodaActivation>(integer(0))});
    case Op::add:
      return run(backend.add, PagodaAdd{out(), in(0), in(1)});
    case Op::route:
      return run(backend.route,
                 PagodaRoute{out(), in(0), weightOf(step, 0), integer(0), static_cast<PagodaScoring>(integer(1)),
                             integer(2), real(3), integer(4), integer(5), static_cast<PagodaGroupScore>(integer(6))});
    case Op::experts: {
      const auto weight = [&](int i) { return weightOf(step, i); };
      return run(backend.experts,
                 PagodaExperts{out(), in(0), in(1), weight(0), weight(1), weight(2), weight(3), weight(4), weight(5),
                               integer(0), static_cast<PagodaActivation>(integer(1))});
    }
    case Op::takeRows:
      return run(backend.takeRows, PagodaTakeRows{out(), in(0), at.outputRows});
    case Op::sample: {
      PagodaSample sample = at.sample;
      sample.logits = in(0);
      return run(backend.sample, sample);
    }
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
