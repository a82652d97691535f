// Decode steps by recorded graphs: the processor queues one instead of some hundred kernels.
#include <algorithm>

#include "runner-steps.h"

namespace pagoda {

Runner::Graph& Runner::graphOf(const StepBucket& bucket) {
  constexpr size_t kMostGraphs = 64;
  if (graphs_.size() >= kMostGraphs && graphs_.count(bucket) == 0) {
    device_.synchronize();  // their inputs are in use as long as they run
    graphs_.clear();
  }
  std::unique_ptr<Graph>& graph = graphs_[bucket];
  if (!graph) graph = std::make_unique<Graph>();
  return *graph;
}

// The first step of a bucket runs op by op, so that ops have taken what memory they need for themselves when the second
// one is recorded.
void Runner::runModel(const StepInput& step, const Uploaded& uploaded) {
  const int32_t mostRequests = std::min({maxRequests_, plan_.maxTokens, plan_.maxOutputs});
  const bool mayRecord = device_.hasGraphs() && !enforceEager_ && !profiling_;
  const auto bucket = mayRecord ? bucketOf(step, kv_.blockSize, mostRequests) : std::nullopt;
  if (!bucket) return runSteps(step, uploaded);
  Graph& graph = graphOf(*bucket);
  const StepInput padded = padStep(step, *bucket);
  Uploaded at = upload(padded, graph.inputs);
  at.maxSeqLen = bucket->maxSeqLen;
  at.mayBeRecorded = true;
  const auto queueOps = [&] { runSteps(padded, at); };
  if (graph.recorded.run()) return;
  graph.recorded = graph.hasRun ? DeviceGraph(device_, queueOps) : DeviceGraph();
  graph.hasRun = true;
  if (!graph.recorded.run()) queueOps();
}

}  // namespace pagoda
