// A plan as data: what lib/graph compiled, checked here once more before anything runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "backend.h"

namespace pagoda {

enum class Op {
  embed,
  rmsNorm,
  linear,
  ropeTable,
  rope,
  cacheWrite,
  attention,
  latentWrite,
  mlaAttention,
  gatherKv,
  gatedActivation,
  add,
  route,
  experts,
  takeRows,
  sample,
};

/// What an op takes. The same table as lib/graph/ops.ts; a test compares the two.
struct OpSpec {
  Op op;
  const char* name;
  int inputs;   // tensors
  int weights;  // weights, absent ones included
  bool hasOutput;
  std::vector<const char*> attributes;
};

const std::vector<OpSpec>& opSpecs();
const OpSpec& specOf(Op op);
/// nullptr if there is no such op.
const OpSpec* findOp(const std::string& name);

enum class Rows { tokens, outputs };

/// A column range of an arena tensor [rows, width].
struct Operand {
  uint64_t offset = 0;  // bytes from the start of the arena
  Rows rows = Rows::tokens;
  int32_t width = 0;      // columns
  int64_t rowStride = 0;  // elements
};

struct PlanStep {
  Op op;
  std::string name;
  std::vector<Operand> inputs;
  Operand output;                  // unused where the op has none
  std::vector<int32_t> weights;    // indices into PlanSpec::weights, kAbsent where optional and absent
  std::vector<double> attributes;  // in the order of OpSpec::attributes

  static constexpr int32_t kAbsent = -1;
};

struct WeightSpec {
  std::string name;
  PagodaWeightKind kind;
  int32_t rows;
  int32_t cols;
  PagodaDtype dtype;
};

/// Layers with the same window, which share a block table.
struct KvGroup {
  int32_t slidingWindow;  // tokens, 0: none
};

/// One attention layer: the memory of its slot, read and written by the block table of its group.
struct KvLayer {
  int32_t numKvHeads;
  int32_t headDim;
  int32_t group;
  int32_t slot;
  int32_t latentDim = 0;  // of a latent cache, see PagodaKvCache
};

struct PlanSpec {
  std::vector<PlanStep> steps;
  std::vector<WeightSpec> weights;
  std::vector<KvLayer> kvLayers;  // by the attribute `layer`
  std::vector<KvGroup> kvGroups;  // at least one
  uint64_t arenaBytes;
  int32_t maxTokens;
  int32_t maxOutputs;
  int32_t vocabSize;
  Operand logits;  // [outputs, vocabSize]

  size_t numGroups() const { return kvGroups.size(); }
};

struct KvOptions {
  int32_t numBlocks;  // the null block included
  int32_t blockSize;  // tokens
  PagodaDtype dtype;
};

/// Throws PAGODA_INVALID, naming the step, unless every operand lies inside the arena and every index, width and
/// attribute fits. Afterwards no step input that passes `checkStep` can make an op touch foreign memory.
void checkPlan(const PlanSpec& plan);
void checkKvOptions(const KvOptions& kv);

/// For each slot a layer that uses it: what the slot's memory holds. Of a plan that passes `checkPlan`.
std::vector<KvLayer> kvSlots(const PlanSpec& plan);

}  // namespace pagoda
