// An opened plan: its memory on one device, and the loop that runs its steps.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "device.h"
#include "plan.h"
#include "step-buckets.h"
#include "step.h"

namespace pagoda {

struct MemoryNeed {
  uint64_t weights;  // bytes, packed
  uint64_t arena;    // bytes
  uint64_t kvBlock;  // bytes of one block over all slots
};

MemoryNeed measure(Device& device, const PlanSpec& plan, const KvOptions& kv);

struct StepResult {
  std::vector<int32_t> tokens;  // [S]
  std::vector<int32_t> finite;  // [S]
  /// Empty where no row wants any: logprob [S], rank [S], topIds [S, K], topLogprobs [S, K]; integers by their bits.
  std::vector<float> logprobs;
};

/// Owns arena, KV cache and packed weights. Belongs to the engine thread.
class Runner {
 public:
  /// Throws: PAGODA_INVALID (bad plan), PAGODA_UNSUPPORTED (lists the ops that the backend lacks),
  /// PAGODA_OUT_OF_MEMORY. `enforceEager`: ops are always queued one by one, never as a recorded graph.
  Runner(Device& device, PlanSpec plan, KvOptions kv, int32_t maxRequests, bool enforceEager = false);
  ~Runner();

  const PlanSpec& plan() const { return plan_; }
  /// The weight at its place in device memory.
  const PagodaWeight& weight(int32_t index) const;
  Device& device() { return device_; }
  const KvOptions& kvOptions() const { return kv_; }
  /// What the physical blocks lie in: each memory holds its part of all `numBlocks` blocks, one after the other.
  const std::vector<DeviceMemory>& kvMemory() const { return kvMemory_; }

  /// Runs every step of the plan and draws a token for each output row.
  StepResult run(const StepInput& step);
  /// Runs every step but `sample`; returns float32 [S, vocabSize].
  std::vector<float> runLogits(const StepInput& step);
  // Block copies, then one step of the plan, by its index.
  void runOne(const StepInput& step, size_t index);
  /// Runs `sample` alone, on logits [S, vocabSize] that may have come from `runLogits`.
  StepResult sampleRows(const std::vector<float>& logits, const SamplingInput& sampling);

  void writeArena(uint64_t offset, const std::vector<float>& data);
  std::vector<float> readArena(uint64_t offset, uint64_t length);
  /// Fills arena and KV cache with NaN, so that a read of anything unwritten shows.
  void poison();

  /// Switches profiling; returns the nanoseconds of each plan step in the last run that was profiled.
  std::vector<float> profile(bool on);

 private:
  struct Uploaded;  // device addresses of one step's inputs
  struct Graph;     // the steps of the plan but `sample`, for all decode steps of a bucket

  void allocateWeights();
  uint64_t readyBlocks() const;
  void allocateKv();
  Uploaded upload(const StepInput& step, DeviceMemory& memory);
  StepResult download(const Uploaded& uploaded, size_t outputs);
  void copyBlocks(const StepInput& step, const Uploaded& uploaded);
  /// All steps of the plan but `sample`, by a graph where there is one for such steps.
  void runModel(const StepInput& step, const Uploaded& uploaded);
  /// The same, op by op.
  void runSteps(const StepInput& step, const Uploaded& uploaded);
  void runSample(const StepInput& step, const Uploaded& uploaded);
  void runTimed(const PlanStep& planStep, const StepInput& step, const Uploaded& uploaded);
  Graph& graphOf(const StepBucket& bucket);
  void runStep(const PlanStep& step, const StepInput& input, const Uploaded& uploaded);
  PagodaTensor tensor(const Operand& operand, const StepInput& input) const;
  PagodaWeight weightOf(const PlanStep& step, int i) const;
  const KvLayer& layerOf(const PlanStep& step) const;
  PagodaCacheWrite cacheWrite(const PlanStep& step, const StepInput& input, const Uploaded& at) const;
  PagodaLatentWrite latentWrite(const PlanStep& step, const StepInput& input, const Uploaded& at) const;
  PagodaBatch batch(const PlanStep& step, const StepInput& input, const Uploaded& at) const;
  PagodaAttention attention(const PlanStep& step, const StepInput& input, const Uploaded& at) const;
  PagodaMlaAttention mlaAttention(const PlanStep& step, const StepInput& input, const Uploaded& at) const;

  Device& device_;
  const PlanSpec plan_;
  const KvOptions kv_;
  const int32_t maxRequests_;
  const bool enforceEager_;
  DeviceMemory arena_;
  DeviceMemory weightMemory_;  // of all weights, so that small ones share large pages
  std::vector<PagodaWeight> weights_;
  std::vector<DeviceMemory> kvMemory_;  // one a slot
  std::vector<PagodaKvCache> caches_;   // by slot
  DeviceMemory inputs_;                 // grows with the largest step
  std::map<StepBucket, std::unique_ptr<Graph>> graphs_;
  std::vector<int32_t> staging_;  // the step's inputs, packed for one copy
  std::vector<float> times_;
  bool profiling_ = false;
};

}  // namespace pagoda
