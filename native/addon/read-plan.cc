#include "read-plan.h"

#include "js.h"

namespace pagoda {

namespace {

/// In capitals as in files, in small letters in memory.
PagodaDtype readDtype(const Napi::Value& value) {
  static constexpr struct {
    const char* file;
    const char* memory;
    PagodaDtype dtype;
  } names[] = {
      {"F32", "f32", PAGODA_F32},       {"BF16", "bf16", PAGODA_BF16}, {"F16", "f16", PAGODA_F16},
      {"Q8_0", "q8_0", PAGODA_Q8_0},    {"Q4_0", "q4_0", PAGODA_Q4_0}, {"Q4_1", "q4_1", PAGODA_Q4_1},
      {"Q5_0", "q5_0", PAGODA_Q5_0},    {"Q5_1", "q5_1", PAGODA_Q5_1}, {"Q4_K", "q4_k", PAGODA_Q4_K},
      {"Q5_K", "q5_k", PAGODA_Q5_K},    {"Q6_K", "q6_k", PAGODA_Q6_K}, {"INT8", "int8", PAGODA_INT8},
      {"MXFP4", "mxfp4", PAGODA_MXFP4},
  };
  const std::string name = readString(value, "dtype");
  for (const auto& known : names)
    if (name == known.file || name == known.memory) return known.dtype;
  throw Failure(PAGODA_INVALID, "Unknown dtype " + name);
}

PagodaWeightKind readKind(const Napi::Value& value) {
  const std::string name = readString(value, "kind");
  if (name == "matrix") return PAGODA_MATRIX;
  if (name == "table") return PAGODA_TABLE;
  if (name == "vector") return PAGODA_VECTOR;
  throw Failure(PAGODA_INVALID, "Unknown weight kind " + name);
}

Operand readOperand(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "operand");
  const std::string rows = readString(property(object, "rows"), "rows");
  require(rows == "tokens" || rows == "outputs", "rows must be tokens or outputs");
  Operand operand;
  operand.offset = readBytes(object, "offset");
  operand.rows = rows == "tokens" ? Rows::tokens : Rows::outputs;
  operand.width = readInt32(object, "width");
  operand.rowStride = readInt32(object, "rowStride");
  return operand;
}

int32_t readWeightIndex(const Napi::Value& value) {
  if (value.IsUndefined() || value.IsNull()) return PlanStep::kAbsent;
  return static_cast<int32_t>(readInteger(value, "weight", 0, INT32_MAX));
}

PlanStep readStep(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "step");
  const std::string opName = readString(property(object, "op"), "op");
  const OpSpec* spec = findOp(opName);
  require(spec != nullptr, "Unknown op " + opName);
  PlanStep step{spec->op, readString(property(object, "name"), "name"), {}, {}, {}, {}};
  const Napi::Array inputs = readArray(property(object, "inputs"), "inputs");
  for (uint32_t i = 0; i < inputs.Length(); ++i) step.inputs.push_back(readOperand(inputs[i]));
  if (spec->hasOutput) step.output = readOperand(property(object, "output"));
  const Napi::Array weights = readArray(property(object, "weights"), "weights");
  for (uint32_t i = 0; i < weights.Length(); ++i) step.weights.push_back(readWeightIndex(weights[i]));
  const Napi::Object attributes = readObject(property(object, "attributes"), "attributes");
  for (const char* name : spec->attributes) step.attributes.push_back(readNumber(property(attributes, name), name));
  return step;
}

WeightSpec readWeight(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "weight");
  return {readString(property(object, "name"), "name"), readKind(property(object, "kind")), readInt32(object, "rows"),
          readInt32(object, "cols"), readDtype(property(object, "dtype"))};
}

KvLayer readKvLayer(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "kvLayer");
  const bool isLatent = !object.Get("latentDim").IsUndefined();
  return {readInt32(object, "numKvHeads"), readInt32(object, "headDim"), readInt32(object, "group"),
          readInt32(object, "slot"), isLatent ? readInt32(object, "latentDim") : 0};
}

KvGroup readKvGroup(const Napi::Value& value) { return {readInt32(readObject(value, "kvGroup"), "slidingWindow")}; }

CodeStorage readStorage(const Napi::Value& value) {
  const std::string name = readString(value, "storage");
  if (name == "gptq") return CodeStorage::gptq;
  if (name == "awq") return CodeStorage::awq;
  if (name == "packed") return CodeStorage::packed;
  require(name == "bytes", "Unknown storage " + name);
  return CodeStorage::bytes;
}

GroupQuantized readQuantized(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "quantized");
  GroupQuantized source = {};
  source.storage = readStorage(property(object, "storage"));
  source.bits = readInt32(object, "bits");
  source.groupSize = readInt32(object, "groupSize");
  source.isSymmetric = readInt32(object, "isSymmetric") != 0;
  const Napi::Value columnGroups = object.Get("columnGroups");
  if (!columnGroups.IsUndefined()) source.columnGroups = copyTypedArray<int32_t>(columnGroups, "columnGroups");
  source.tensorRows = readInt32(object, "tensorRows");
  source.firstRow = readInt32(object, "firstRow");
  const Napi::Object scales = readObject(property(object, "scales"), "scales");
  source.scaleFile = readString(property(scales, "file"), "file");
  source.scaleOffset = readBytes(scales, "offset");
  source.scaleDtype = readDtype(property(scales, "dtype"));
  source.isSingleScale = readInt32(object, "scaleCount") == 1;
  const Napi::Value zeros = object.Get("zeros");
  if (zeros.IsUndefined()) return source;
  source.zeroFile = readString(property(readObject(zeros, "zeros"), "file"), "file");
  source.zeroOffset = readBytes(zeros.As<Napi::Object>(), "offset");
  source.zeroShift = readInt32(object, "zeroShift");
  return source;
}

Strides readStrides(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "strides");
  return {readBytes(object, "row"), readBytes(object, "col")};
}

SplitMxfp4 readMxfp4(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "mxfp4");
  const Napi::Object scales = readObject(property(object, "scales"), "scales");
  return {readString(property(scales, "file"), "file"), readBytes(scales, "offset"), readBytes(object, "firstRow"),
          readBytes(object, "rowStep")};
}

WeightPart readPart(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "part");
  WeightPart part = {readString(property(object, "file"), "file"), readBytes(object, "offset"),
                     readDtype(property(object, "dtype")), readInt32(object, "rowStart"), readInt32(object, "rows")};
  const Napi::Value quantized = object.Get("quantized");
  if (!quantized.IsUndefined()) part.quantized = readQuantized(quantized);
  const Napi::Value strides = object.Get("strides");
  if (!strides.IsUndefined()) part.strides = readStrides(strides);
  const Napi::Value mxfp4 = object.Get("mxfp4");
  if (!mxfp4.IsUndefined()) part.mxfp4 = readMxfp4(mxfp4);
  return part;
}

template <typename T>
std::vector<T> readList(const Napi::Object& object, const char* name, T (*read)(const Napi::Value&)) {
  const Napi::Array array = readArray(property(object, name), name);
  std::vector<T> list;
  list.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i) list.push_back(read(array[i]));
  return list;
}

}  // namespace

PlanSpec readPlan(const Napi::Value& value) {
  const Napi::Object object = readObject(value, "plan");
  PlanSpec plan;
  plan.steps = readList(object, "steps", readStep);
  plan.weights = readList(object, "weights", readWeight);
  plan.kvLayers = readList(object, "kvLayers", readKvLayer);
  plan.kvGroups = readList(object, "kvGroups", readKvGroup);
  plan.arenaBytes = readBytes(object, "arenaBytes");
  plan.maxTokens = readInt32(object, "maxTokens");
  plan.maxOutputs = readInt32(object, "maxOutputs");
  plan.vocabSize = readInt32(object, "vocabSize");
  plan.logits = readOperand(property(object, "logits"));
  return plan;
}

KvOptions readKvOptions(const Napi::Value& value, bool needsBlocks) {
  const Napi::Object object = readObject(value, "kv");
  const int32_t numBlocks = needsBlocks ? readInt32(object, "numBlocks") : 0;
  return {numBlocks, readInt32(object, "blockSize"), readDtype(property(object, "dtype"))};
}

std::vector<WeightSource> readWeightSources(const Napi::Value& value) {
  const Napi::Array array = readArray(value, "weights");
  std::vector<WeightSource> sources;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const Napi::Object object = readObject(array[i], "weight");
    const auto index = static_cast<int32_t>(readInteger(property(object, "index"), "index", 0, INT32_MAX));
    sources.push_back({index, readList(object, "parts", readPart)});
  }
  return sources;
}

}  // namespace pagoda
