#include "plan.h"

#include <cmath>
#include <set>
#include <utility>

#include "block-formats.h"
#include "failure.h"

namespace pagoda {

namespace {

constexpr int32_t kMaxDimension = 1 << 24;  // rows and columns of any tensor
constexpr uint64_t kMaxBytes = 1ull << 46;
constexpr int32_t kMaxHeadDim = 512;
constexpr int32_t kMaxExperts = 4096;
constexpr int32_t kMaxLatentRow = 1024;
constexpr size_t kMaxGroups = 4096;

bool isInteger(double value, double low, double high) {
  return std::floor(value) == value && value >= low && value <= high;
}

/// Checks one step; every message begins with the step's name.
class StepCheck {
 public:
  StepCheck(const PlanSpec& plan, const PlanStep& step) : plan_(plan), step_(step) {}

  void run() {
    const OpSpec& spec = specOf(step_.op);
    require(step_.inputs.size() == static_cast<size_t>(spec.inputs), text("wrong number of inputs"));
    require(step_.weights.size() == static_cast<size_t>(spec.weights), text("wrong number of weights"));
    require(step_.attributes.size() == spec.attributes.size(), text("wrong number of attributes"));
    for (const Operand& input : step_.inputs) checkOperand(input);
    if (spec.hasOutput) checkOperand(step_.output);
    checkShapes();
  }

 private:
  std::string text(const std::string& what) const {
    return "[" + step_.name + "] " + specOf(step_.op).name + ": " + what;
  }
  void need(bool condition, const std::string& what) const { require(condition, text(what)); }

  void checkOperand(const Operand& operand) const {
    need(operand.width > 0 && operand.width <= kMaxDimension, "an operand's width is out of range");
    need(operand.rowStride >= operand.width && operand.rowStride <= kMaxDimension,
         "an operand's row stride is out of range");
    need(operand.offset % sizeof(float) == 0, "an operand is not aligned");
    const uint64_t rows = operand.rows == Rows::tokens ? plan_.maxTokens : plan_.maxOutputs;
    const uint64_t elements = (rows - 1) * static_cast<uint64_t>(operand.rowStride) + operand.width;
    need(operand.offset <= plan_.arenaBytes && elements * sizeof(float) <= plan_.arenaBytes - operand.offset,
         "an operand lies outside the arena");
  }

  const Operand& input(int i) const { return step_.inputs[i]; }
  const Operand& output() const { return step_.output; }
  double attribute(int i) const { return step_.attributes[i]; }

  const WeightSpec& weight(int i) const {
    const int32_t index = step_.weights[i];
    need(index >= 0 && static_cast<size_t>(index) < plan_.weights.size(), "a weight index is out of range");
    return plan_.weights[index];
  }
  const WeightSpec& vector(int i, int32_t cols) const {
    const WeightSpec& spec = weight(i);
    need(spec.kind == PAGODA_VECTOR && spec.cols == cols,
         "vector " + spec.name + " must have " + std::to_string(cols) + " elements");
    return spec;
  }
  const KvLayer& layer(double index) const {
    need(isInteger(index, 0, static_cast<double>(plan_.kvLayers.size()) - 1), "the layer is out of range");
    return plan_.kvLayers[static_cast<size_t>(index)];
  }

  void sameShape(const Operand& a, const Operand& b) const {
    need(a.width == b.width && a.rows == b.rows, "operands of different shapes");
  }
  void optionalVector(int i, int32_t cols) const {
    if (step_.weights[i] != PlanStep::kAbsent) vector(i, cols);
  }
  const WeightSpec& matrix(int i, int64_t rows, int32_t cols) const {
    const WeightSpec& spec = weight(i);
    need(spec.kind == PAGODA_MATRIX && spec.cols == cols && spec.rows == rows,
         "weight " + spec.name + " does not fit the operands");
    return spec;
  }
  void allTokens() const {
    for (const Operand& operand : step_.inputs) need(operand.rows == Rows::tokens, "an input must have token rows");
    if (specOf(step_.op).hasOutput) need(output().rows == Rows::tokens, "the output must have token rows");
  }

  void checkShapes() const {
    switch (step_.op) {
      case Op::embed:
        return checkEmbed();
      case Op::rmsNorm:
        return checkRmsNorm();
      case Op::linear:
        return checkLinear();
      case Op::ropeTable:
        return checkRopeTable();
      case Op::rope:
        return checkRope();
      case Op::cacheWrite:
        return checkCacheWrite();
      case Op::attention:
        return checkAttention();
      case Op::latentWrite:
        return checkLatentWrite();
      case Op::mlaAttention:
        return checkMlaAttention();
      case Op::gatherKv:
        return checkGatherKv();
      case Op::gatedActivation:
        return checkGatedActivation();
      case Op::add:
        return checkAdd();
      case Op::route:
        return checkRoute();
      case Op::experts:
        return checkExperts();
      case Op::takeRows:
        return checkTakeRows();
      case Op::sample:
        return checkSample();
    }
  }

  void checkEmbed() const {
    allTokens();
    const WeightSpec& table = weight(0);
    need(table.kind != PAGODA_VECTOR && table.cols == output().width, "the table does not fit the output");
    need(table.rows >= plan_.vocabSize, "the table has fewer rows than the vocabulary");
  }
  void checkRmsNorm() const {
    sameShape(input(0), output());
    need(isInteger(attribute(0), 1, output().width) && output().width % static_cast<int32_t>(attribute(0)) == 0,
         "groupWidth must divide the width");
    need(attribute(1) > 0 && std::isfinite(attribute(1)), "eps must be positive and finite");
    vector(0, static_cast<int32_t>(attribute(0)));
  }
  void checkLinear() const {
    matrix(0, output().width, input(0).width);
    need(input(0).rows == output().rows, "operands of different shapes");
    optionalVector(1, output().width);
  }
  void checkRopeTable() const {
    allTokens();
    need(output().width % 2 == 0, "the rotary dimension must be even");
    vector(0, output().width / 2);
  }
  void checkRope() const {
    allTokens();
    sameShape(input(0), output());
    const double headDim = attribute(0), rotaryDim = attribute(1);
    need(isInteger(headDim, 1, kMaxHeadDim) && output().width % static_cast<int32_t>(headDim) == 0,
         "headDim must divide the width");
    need(isInteger(rotaryDim, 2, headDim) && static_cast<int32_t>(rotaryDim) % 2 == 0 &&
             input(1).width == static_cast<int32_t>(rotaryDim),
         "rotaryDim must be even, at most headDim, and the table's width");
  }
  const KvLayer& latentLayer() const {
    const KvLayer& kv = layer(attribute(0));
    need(kv.latentDim > 0, "the layer has no latent cache");
    return kv;
  }
  const KvLayer& separateLayer() const {
    const KvLayer& kv = layer(attribute(0));
    need(kv.latentDim == 0, "the layer has a latent cache");
    return kv;
  }
  void checkCacheWrite() const {
    allTokens();
    const KvLayer& kv = separateLayer();
    for (const Operand& operand : step_.inputs)
      need(operand.width == kv.numKvHeads * kv.headDim, "key and value must be as wide as the cache");
  }
  void checkAttention() const {
    allTokens();
    sameShape(input(0), output());
    const KvLayer& kv = separateLayer();
    need(isInteger(attribute(1), 1, 4096) && static_cast<int32_t>(attribute(1)) % kv.numKvHeads == 0,
         "numHeads must be a multiple of the KV heads");
    need(input(0).width == static_cast<int32_t>(attribute(1)) * kv.headDim,
         "the query must be numHeads * headDim wide");
    need(std::isfinite(attribute(2)), "scale must be finite");
    need(isInteger(attribute(3), 0, INT32_MAX), "slidingWindow is out of range");
    const int32_t groupWindow = plan_.kvGroups[kv.group].slidingWindow;
    need(groupWindow == 0 || (attribute(3) > 0 && attribute(3) <= groupWindow),
         "slidingWindow is larger than that of the layer's group");
    need(std::isfinite(attribute(4)) && attribute(4) >= 0, "softcap must be finite and not negative");
    optionalVector(0, static_cast<int32_t>(attribute(1)));
  }
  void checkLatentWrite() const {
    allTokens();
    const KvLayer& kv = latentLayer();
    need(input(0).width == kv.latentDim && input(1).width == kv.headDim - kv.latentDim,
         "latent and ropeKey must be as wide as the cache");
  }
  void checkMlaAttention() const {
    allTokens();
    const KvLayer& kv = latentLayer();
    need(isInteger(attribute(1), 1, 4096), "numHeads is out of range");
    const auto numHeads = static_cast<int32_t>(attribute(1));
    need(input(0).width % numHeads == 0 && output().width % numHeads == 0, "numHeads must divide query and output");
    need(input(1).width == numHeads * (kv.headDim - kv.latentDim), "queryRope must be numHeads * ropeDim wide");
    matrix(0, int64_t{numHeads} * kv.latentDim, input(0).width / numHeads);
    matrix(1, output().width, kv.latentDim);
    need(std::isfinite(attribute(2)), "scale must be finite");
    need(isInteger(attribute(3), 0, INT32_MAX), "expandFrom is out of range");
    const bool expands = step_.weights[2] != PlanStep::kAbsent;
    need(expands || attribute(3) == 0, "expandFrom needs keyExpand");
    if (expands) matrix(2, input(0).width, kv.latentDim);
    need(plan_.kvGroups[kv.group].slidingWindow == 0, "the layer's group has a window");
  }
  void checkGatherKv() const {
    allTokens();
    const KvLayer& kv = layer(attribute(0));
    need(output().width == (kv.latentDim > 0 ? 1 : 2 * kv.numKvHeads) * kv.headDim, "the output must hold K and V");
    need(isInteger(attribute(1), PAGODA_ND, PAGODA_NZ), "unknown layout");
    const bool isDense = output().width % PAGODA_NZ_COLUMNS == 0 && output().rowStride == output().width;
    need(attribute(1) == static_cast<int>(PAGODA_ND) || isDense,
         "layout NZ needs columns of 8 and no gaps between rows");
  }
  void checkGatedActivation() const {
    sameShape(input(0), input(1));
    sameShape(input(0), output());
    need(isInteger(attribute(0), PAGODA_SILU, PAGODA_CLAMPED_SWIGLU), "unknown activation");
  }
  void checkAdd() const {
    sameShape(input(0), input(1));
    sameShape(input(0), output());
  }
  void checkRoute() const {
    const int32_t numExperts = input(0).width;
    need(input(0).rows == output().rows, "operands of different shapes");
    need(numExperts <= kMaxExperts, "too many experts");
    need(isInteger(attribute(0), 1, numExperts) && output().width == 2 * static_cast<int32_t>(attribute(0)),
         "the output must be 2 * topK wide, and topK at most the number of experts");
    need(isInteger(attribute(1), PAGODA_SOFTMAX, PAGODA_SIGMOID), "unknown scoring");
    need(isInteger(attribute(2), 0, 1), "normalize must be 0 or 1");
    need(std::isfinite(attribute(3)), "scale must be finite");
    checkExpertGroups(numExperts);
    optionalVector(0, numExperts);
  }
  void checkExpertGroups(int32_t numExperts) const {
    const double numGroups = attribute(4), topGroups = attribute(5);
    need(isInteger(numGroups, 1, numExperts) && numExperts % static_cast<int32_t>(numGroups) == 0,
         "numGroups must divide the experts");
    need(isInteger(topGroups, 1, numGroups), "topGroups must be at most numGroups");
    const double groupSize = numExperts / numGroups;
    need(attribute(0) <= topGroups * groupSize, "topK experts are more than the groups have");
    need(isInteger(attribute(6), PAGODA_GROUP_MAX, PAGODA_GROUP_TOP2_SUM), "unknown groupScore");
    need(attribute(6) == static_cast<int>(PAGODA_GROUP_MAX) || numGroups == 1 || groupSize >= 2,
         "groups must have two experts");
  }
  void checkExperts() const {
    const Operand &x = input(0), &route = input(1);
    need(x.rows == output().rows && route.rows == output().rows, "operands of different shapes");
    need(isInteger(attribute(0), 1, kMaxExperts), "numExperts is out of range");
    const auto numExperts = static_cast<int32_t>(attribute(0));
    need(route.width % 2 == 0 && route.width / 2 <= numExperts, "the route must be 2 * topK wide");
    need(isInteger(attribute(1), PAGODA_SILU, PAGODA_CLAMPED_SWIGLU), "unknown activation");
    const int32_t width = weight(2).cols;
    const int64_t rows = static_cast<int64_t>(numExperts) * width;
    const int64_t outputs = static_cast<int64_t>(numExperts) * output().width;
    matrix(0, rows, x.width);
    matrix(1, rows, x.width);
    matrix(2, outputs, width);
    const int absent = (step_.weights[3] == PlanStep::kAbsent) + (step_.weights[4] == PlanStep::kAbsent) +
                       (step_.weights[5] == PlanStep::kAbsent);
    need(absent == 0 || absent == 3, "either all biases or none");
    if (absent == 3) return;
    vector(3, static_cast<int32_t>(rows));
    vector(4, static_cast<int32_t>(rows));
    vector(5, static_cast<int32_t>(outputs));
  }
  void checkTakeRows() const {
    need(input(0).rows == Rows::tokens && output().rows == Rows::outputs, "it turns token rows into output rows");
    need(input(0).width == output().width, "operands of different widths");
  }
  void checkSample() const {
    need(input(0).rows == Rows::outputs && input(0).width == plan_.vocabSize,
         "the logits must be [outputs, vocabSize]");
  }

  const PlanSpec& plan_;
  const PlanStep& step_;
};

void checkWeight(const WeightSpec& weight) {
  const bool sized = weight.rows > 0 && weight.cols > 0 && weight.rows <= kMaxDimension && weight.cols <= kMaxDimension;
  require(sized, "Weight " + weight.name + ": its shape is out of range");
  if (weight.kind == PAGODA_VECTOR) {
    require(weight.rows == 1 && weight.dtype == PAGODA_F32, "Weight " + weight.name + ": a vector is one row of f32");
    return;
  }
  const BlockFormat format = blockFormat(weight.dtype);
  require(format.bytes > 0, "Weight " + weight.name + ": a matrix is f32, bf16, f16 or quantised");
  require(weight.cols % format.columns == 0,
          "Weight " + weight.name + ": its columns are not a multiple of " + std::to_string(format.columns));
}

void checkLatentLayer(const KvLayer& layer) {
  require(layer.numKvHeads == 1, "A latent cache has one head");
  require(layer.latentDim > 0 && layer.latentDim < layer.headDim, "latentDim is out of range");
  require(layer.latentDim % 2 == 0 && layer.headDim % 2 == 0, "latentDim and headDim must be even");
}

void checkKvLayer(const KvLayer& layer, const PlanSpec& plan) {
  require(layer.numKvHeads > 0 && layer.numKvHeads <= 4096, "numKvHeads is out of range");
  require(layer.headDim > 0 && layer.headDim <= (layer.latentDim != 0 ? kMaxLatentRow : kMaxHeadDim),
          "headDim is out of range");
  if (layer.latentDim != 0) checkLatentLayer(layer);
  require(layer.group >= 0 && static_cast<size_t>(layer.group) < plan.numGroups(),
          "A KV layer's group is out of range");
  require(layer.slot >= 0 && static_cast<size_t>(layer.slot) < plan.kvLayers.size(),
          "A KV layer's slot is out of range");
}

/// Slots are numbered from 0 without a gap, layers of a slot are alike, and no two of one group share a slot.
void checkKvLayers(const PlanSpec& plan) {
  require(!plan.kvGroups.empty() && plan.kvGroups.size() <= kMaxGroups, "kvGroups: too few or too many");
  for (const KvGroup& group : plan.kvGroups) require(group.slidingWindow >= 0, "A KV group's window is out of range");
  for (const KvLayer& layer : plan.kvLayers) checkKvLayer(layer, plan);
  const std::vector<KvLayer> slots = kvSlots(plan);
  for (const KvLayer& slot : slots) require(slot.headDim > 0, "A KV slot has no layer");
  std::set<std::pair<int32_t, int32_t>> places;
  for (const KvLayer& layer : plan.kvLayers) {
    const KvLayer& slot = slots[layer.slot];
    require(layer.numKvHeads == slot.numKvHeads && layer.headDim == slot.headDim && layer.latentDim == slot.latentDim,
            "Layers of a KV slot differ");
    require(places.insert({layer.group, layer.slot}).second, "Two KV layers have one place");
  }
}

}  // namespace

std::vector<KvLayer> kvSlots(const PlanSpec& plan) {
  std::vector<KvLayer> slots;
  for (const KvLayer& layer : plan.kvLayers) {
    const auto slot = static_cast<size_t>(layer.slot);
    if (slot >= slots.size()) slots.resize(slot + 1, KvLayer{});
    slots[slot] = layer;
  }
  return slots;
}

const std::vector<OpSpec>& opSpecs() {
  static const std::vector<OpSpec> specs = {
      {Op::embed, "embed", 0, 1, true, {"scale"}},
      {Op::rmsNorm, "rmsNorm", 1, 1, true, {"groupWidth", "eps", "weightOffset"}},
      {Op::linear, "linear", 1, 2, true, {}},
      {Op::ropeTable, "ropeTable", 0, 1, true, {"scaling"}},
      {Op::rope, "rope", 2, 0, true, {"headDim", "rotaryDim", "interleaved"}},
      {Op::cacheWrite, "cacheWrite", 2, 0, false, {"layer"}},
      {Op::attention, "attention", 1, 1, true, {"layer", "numHeads", "scale", "slidingWindow", "softcap"}},
      {Op::latentWrite, "latentWrite", 2, 0, false, {"layer"}},
      {Op::mlaAttention, "mlaAttention", 2, 3, true, {"layer", "numHeads", "scale", "expandFrom"}},
      {Op::gatherKv, "gatherKv", 0, 0, true, {"layer", "layout"}},
      {Op::gatedActivation, "gatedActivation", 2, 0, true, {"activation"}},
      {Op::add, "add", 2, 0, true, {}},
      {Op::route,
       "route",
       1,
       1,
       true,
       {"topK", "scoring", "normalize", "scale", "numGroups", "topGroups", "groupScore"}},
      {Op::experts, "experts", 2, 6, true, {"numExperts", "activation"}},
      {Op::takeRows, "takeRows", 1, 0, true, {}},
      {Op::sample, "sample", 1, 0, false, {}},
  };
  return specs;
}

const OpSpec& specOf(Op op) { return opSpecs()[static_cast<size_t>(op)]; }

const OpSpec* findOp(const std::string& name) {
  for (const OpSpec& spec : opSpecs())
    if (name == spec.name) return &spec;
  return nullptr;
}

void checkPlan(const PlanSpec& plan) {
  require(plan.maxTokens > 0 && plan.maxTokens <= kMaxDimension, "maxTokens is out of range");
  require(plan.maxOutputs > 0 && plan.maxOutputs <= kMaxDimension, "maxOutputs is out of range");
  require(plan.vocabSize > 0 && plan.vocabSize <= kMaxDimension, "vocabSize is out of range");
  require(plan.arenaBytes <= kMaxBytes, "arenaBytes is out of range");
  for (const WeightSpec& weight : plan.weights) checkWeight(weight);
  checkKvLayers(plan);
  for (const PlanStep& step : plan.steps) StepCheck(plan, step).run();
  PlanStep logits{Op::sample, "logits", {plan.logits}, {}, {}, {}};
  StepCheck(plan, logits).run();
}

void checkKvOptions(const KvOptions& kv) {
  require(kv.blockSize >= 1 && kv.blockSize <= 256, "blockSize must be in [1, 256]");
  require(kv.numBlocks >= 2 && kv.numBlocks <= INT32_MAX / kv.blockSize, "numBlocks is out of range");
  const bool isKnown = kv.dtype == PAGODA_F32 || kv.dtype == PAGODA_BF16 || kv.dtype == PAGODA_INT8;
  require(isKnown, "the KV cache must be f32, bf16 or int8");
}

}  // namespace pagoda
