#include "validate.h"

#include <cstdarg>
#include <cstdio>

#include "../block-formats.h"
#include "kv-layout.h"
#include "status.h"

namespace pagoda {

PagodaStatus fail(PagodaError* error, PagodaStatus status, const char* format, ...) {
  if (error != nullptr) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
  }
  return status;
}

namespace {

constexpr int32_t kMaxHeadDim = 512;
constexpr int32_t kMaxExperts = 4096;
constexpr int32_t kMaxLatentRow = 1024;
constexpr int32_t kMaxSide = 1 << 30;  // of a weight, so that int32 arithmetic on rows and columns cannot overflow

// Collects the first complaint about an op; later checks then do nothing.
class Checker {
 public:
  explicit Checker(PagodaError* error) : error_(error) {}

  PagodaStatus status() const { return status_; }
  bool ok() const { return status_ == PAGODA_OK; }

  void notNull(const char* name, const void* pointer) {
    if (ok() && pointer == nullptr)
      status_ = fail(error_, PAGODA_INVALID, "Expected data for `%s` but received NULL", name);
  }

  void equal(const char* name, int64_t received, int64_t expected) {
    if (!ok() || received == expected) return;
    status_ = fail(error_, PAGODA_INVALID, "Expected %lld for `%s` but received %lld", static_cast<long long>(expected),
                   name, static_cast<long long>(received));
  }

  void between(const char* name, int64_t received, int64_t least, int64_t most) {
    if (!ok() || (received >= least && received <= most)) return;
    status_ = fail(error_, PAGODA_INVALID, "Expected %lld to %lld for `%s` but received %lld",
                   static_cast<long long>(least), static_cast<long long>(most), name, static_cast<long long>(received));
  }

  void supported(bool condition, const char* sentence) {
    if (ok() && !condition) status_ = fail(error_, PAGODA_UNSUPPORTED, "%s", sentence);
  }

  void expect(bool condition, const char* sentence) {
    if (ok() && !condition) status_ = fail(error_, PAGODA_INVALID, "%s", sentence);
  }

  void tensor(const char* name, const PagodaTensor& tensor) {
    between(name, tensor.rows, 0, INT32_MAX - 1);
    between(name, tensor.width, 1, kMaxSide);
    expect(tensor.rowStride >= tensor.width, "Expected a row stride of at least the width of a tensor");
    supported(tensor.dtype == PAGODA_F32, "The CPU backend computes with f32 activations only");
    if (tensor.rows > 0) notNull(name, tensor.data);
  }

  void sameShape(const char* name, const PagodaTensor& received, const PagodaTensor& expected) {
    tensor(name, received);
    equal(name, received.rows, expected.rows);
    equal(name, received.width, expected.width);
  }

  void weight(const char* name, const PagodaWeight& weight) {
    if (ok()) status_ = validateWeight(weight, error_);
    notNull(name, weight.data);
  }

  void vector(const char* name, const PagodaWeight& vector, int32_t width) {
    weight(name, vector);
    expect(vector.kind == PAGODA_VECTOR, "Expected a vector where a matrix or table was received");
    equal(name, vector.cols, width);
  }

  void matrix(const char* name, const PagodaWeight& matrix, int64_t rows, int32_t cols) {
    weight(name, matrix);
    expect(matrix.kind == PAGODA_MATRIX, "Expected a matrix where a vector or table was received");
    equal(name, matrix.rows, rows);
    equal(name, matrix.cols, cols);
  }

  void kvDtype(PagodaDtype dtype) {
    supported(dtype == PAGODA_F32 || dtype == PAGODA_BF16 || dtype == PAGODA_INT8,
              "The CPU backend keeps the KV cache as f32, bf16 or int8");
  }

  void cache(const PagodaKvCache& cache) {
    if (ok()) status_ = validateCache(cache, error_);
    between("cache.numBlocks", cache.numBlocks, 0, INT32_MAX);
    if (cache.numBlocks > 0) notNull("cache", cache.data);
  }

  void separateCache(const PagodaKvCache& received) {
    cache(received);
    expect(received.latentDim == 0, "Expected a cache of K and V apart for `cache` but received a latent one");
  }

  void latentCache(const PagodaKvCache& received) {
    cache(received);
    expect(received.latentDim > 0, "Expected a latent cache for `cache` but received one of K and V apart");
  }

  // Each of `values` in [least, bound).
  void indices(const char* name, const int32_t* values, int64_t count, int64_t least, int64_t bound) {
    if (count > 0) notNull(name, values);
    for (int64_t i = 0; ok() && i < count; ++i) between(name, values[i], least, bound - 1);
  }

 private:
  PagodaError* error_;
  PagodaStatus status_ = PAGODA_OK;
};

void checkBatch(Checker& check, const PagodaBatch& batch, int32_t blockSize) {
  check.between("batch.numRequests", batch.numRequests, 0, INT32_MAX - 16);
  check.between("batch.maxBlocks", batch.maxBlocks, 0, INT32_MAX);
  check.notNull("batch.queryStartLoc", batch.queryStartLoc);
  if (batch.numRequests > 0) check.notNull("batch.seqLens", batch.seqLens);
  if (batch.numRequests > 0) check.notNull("batch.blockTable", batch.blockTable);
  if (!check.ok()) return;
  const int64_t room = static_cast<int64_t>(batch.maxBlocks) * blockSize;
  check.equal("batch.queryStartLoc[0]", batch.queryStartLoc[0], 0);
  check.equal("batch.queryStartLoc[R]", batch.queryStartLoc[batch.numRequests], batch.numTokens);
  for (int32_t r = 0; check.ok() && r < batch.numRequests; ++r) {
    const int64_t length = static_cast<int64_t>(batch.queryStartLoc[r + 1]) - batch.queryStartLoc[r];
    check.between("batch.seqLens", batch.seqLens[r], 0, room < INT32_MAX ? room : INT32_MAX - 64);
    check.between("batch.queryStartLoc", length, 0, batch.seqLens[r]);
  }
}

PagodaStatus validateLatentCache(const PagodaKvCache& cache, Checker& check) {
  check.equal("cache.numKvHeads", cache.numKvHeads, 1);
  check.between("cache.latentDim", cache.latentDim, 2, static_cast<int64_t>(cache.headDim) - 2);
  check.expect(cache.latentDim % 2 == 0 && cache.headDim % 2 == 0, "Expected even `latentDim` and `headDim`");
  check.supported(cache.headDim <= kMaxLatentRow, "The CPU backend supports latent rows of at most 1024 columns");
  check.kvDtype(cache.dtype);
  return check.status();
}

void checkLogprobs(Checker& check, const PagodaLogprobs& logprobs, int32_t rows) {
  check.between("logprobs.maxWanted", logprobs.maxWanted, 0, 1 << 16);
  check.indices("logprobs.wanted", logprobs.wanted, rows, INT32_MIN, static_cast<int64_t>(logprobs.maxWanted) + 1);
  check.notNull("logprobs.logprob", logprobs.logprob);
  check.notNull("logprobs.rank", logprobs.rank);
  if (logprobs.maxWanted == 0) return;
  check.notNull("logprobs.topIds", logprobs.topIds);
  check.notNull("logprobs.topLogprobs", logprobs.topLogprobs);
}

// The second half of each row of the route.
void checkExpertNumbers(Checker& check, const PagodaExperts& op) {
  const int32_t topK = op.route.width / 2;
  for (int32_t row = 0; check.ok() && row < op.route.rows; ++row) {
    const float* experts = static_cast<const float*>(op.route.data) + row * op.route.rowStride + topK;
    for (int32_t slot = 0; slot < topK; ++slot) {
      const float expert = experts[slot];
      const bool isNumber = expert >= 0 && expert < static_cast<float>(op.numExperts);
      check.expect(isNumber && static_cast<float>(static_cast<int32_t>(expert)) == expert,
                   "Expected numbers of experts in `route`");
    }
  }
}

// Pointers only: what lists hold was checked with the step (step.h).
void checkControls(Checker& check, const PagodaSampleControls& controls) {
  check.notNull("allowed", controls.allowed.offsets);
  check.notNull("banned", controls.banned.offsets);
  check.notNull("biased", controls.biased.offsets);
  check.notNull("history", controls.history.offsets);
  check.notNull("numPromptTokens", controls.numPromptTokens);
  check.notNull("repetitionPenalty", controls.repetitionPenalty);
  check.notNull("frequencyPenalty", controls.frequencyPenalty);
  check.notNull("presencePenalty", controls.presencePenalty);
  check.notNull("dryMultiplier", controls.dryMultiplier);
  check.notNull("dryBase", controls.dryBase);
  check.notNull("dryAllowedLength", controls.dryAllowedLength);
  check.notNull("dryRange", controls.dryRange);
  check.notNull("dryBreakers", controls.dryBreakers.offsets);
  check.notNull("xtcProbability", controls.xtcProbability);
  check.notNull("xtcThreshold", controls.xtcThreshold);
  check.between("maxHistory", controls.maxHistory, 0, INT32_MAX);
}

}  // namespace

PagodaStatus validateWeight(const PagodaWeight& weight, PagodaError* error) {
  Checker check(error);
  check.between("weight.kind", weight.kind, PAGODA_MATRIX, PAGODA_VECTOR);
  check.between("weight.rows", weight.rows, 1, kMaxSide);
  check.between("weight.cols", weight.cols, 1, kMaxSide);
  const BlockFormat format = blockFormat(weight.dtype);
  check.supported(format.bytes > 0, "The CPU backend keeps weights as f32, bf16, f16 or quantised");
  check.expect(weight.cols % format.columns == 0, "Expected columns in whole blocks for a quantised weight");
  if (weight.kind != PAGODA_VECTOR) return check.status();
  check.equal("weight.rows", weight.rows, 1);
  check.supported(weight.dtype == PAGODA_F32, "Vectors are always f32");
  return check.status();
}

PagodaStatus validateCache(const PagodaKvCache& cache, PagodaError* error) {
  Checker check(error);
  check.between("cache.blockSize", cache.blockSize, 1, 1 << 20);
  check.between("cache.numKvHeads", cache.numKvHeads, 1, 1 << 16);
  check.between("cache.headDim", cache.headDim, 1, INT32_MAX);
  check.between("cache.latentDim", cache.latentDim, 0, INT32_MAX);
  if (cache.latentDim > 0) return validateLatentCache(cache, check);
  check.supported(cache.headDim <= kMaxHeadDim, "The CPU backend supports a headDim of at most 512");
  check.kvDtype(cache.dtype);
  return check.status();
}

PagodaStatus validate(const PagodaEmbed& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.weight("table", op.table);
  check.expect(op.table.kind != PAGODA_VECTOR, "Expected a matrix or table for `table` but received a vector");
  check.equal("out.width", op.out.width, op.table.cols);
  check.indices("tokenIds", op.tokenIds, op.out.rows, 0, op.table.rows);
  return check.status();
}

PagodaStatus validate(const PagodaRmsNorm& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.sameShape("x", op.x, op.out);
  check.between("groupWidth", op.groupWidth, 1, INT32_MAX);
  if (check.ok()) check.expect(op.out.width % op.groupWidth == 0, "Expected a `groupWidth` that divides the width");
  check.vector("weight", op.weight, op.groupWidth);
  check.expect(op.eps >= 0, "Expected `eps` of at least 0");
  return check.status();
}

PagodaStatus validate(const PagodaLinear& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.tensor("x", op.x);
  check.equal("x.rows", op.x.rows, op.out.rows);
  check.weight("weight", op.weight);
  check.expect(op.weight.kind == PAGODA_MATRIX, "Expected a matrix for `weight`");
  check.equal("x.width", op.x.width, op.weight.cols);
  check.equal("out.width", op.out.width, op.weight.rows);
  if (op.bias.data != nullptr) check.vector("bias", op.bias, op.weight.rows);
  return check.status();
}

PagodaStatus validate(const PagodaRopeTable& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.equal("out.width", op.out.width % 2, 0);
  check.vector("frequency", op.frequency, op.out.width / 2);
  if (op.out.rows > 0) check.notNull("positions", op.positions);
  return check.status();
}

PagodaStatus validate(const PagodaRope& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.sameShape("x", op.x, op.out);
  check.tensor("table", op.table);
  check.between("headDim", op.headDim, 1, op.out.width);
  check.between("rotaryDim", op.rotaryDim, 2, op.headDim);
  check.equal("table.rows", op.table.rows, op.out.rows);
  check.equal("table.width", op.table.width, op.rotaryDim);
  check.expect(op.rotaryDim % 2 == 0, "Expected an even `rotaryDim`");
  if (check.ok()) check.expect(op.out.width % op.headDim == 0, "Expected a `headDim` that divides the width");
  return check.status();
}

PagodaStatus validate(const PagodaCacheWrite& op, PagodaError* error) {
  Checker check(error);
  check.separateCache(op.cache);
  check.tensor("key", op.key);
  check.sameShape("value", op.value, op.key);
  check.equal("key.width", op.key.width, static_cast<int64_t>(op.cache.numKvHeads) * op.cache.headDim);
  const int64_t slots = static_cast<int64_t>(op.cache.numBlocks) * op.cache.blockSize;
  check.indices("slotMapping", op.slotMapping, op.key.rows, INT32_MIN, slots);
  return check.status();
}

PagodaStatus validate(const PagodaCopyBlocks& op, PagodaError* error) {
  Checker check(error);
  check.cache(op.cache);
  check.between("numPairs", op.numPairs, 0, INT32_MAX / 2);
  check.indices("pairs", op.pairs, 2 * static_cast<int64_t>(op.numPairs), 0, op.cache.numBlocks);
  return check.status();
}

PagodaStatus validate(const PagodaLatentWrite& op, PagodaError* error) {
  Checker check(error);
  check.latentCache(op.cache);
  check.tensor("latent", op.latent);
  check.tensor("ropeKey", op.ropeKey);
  check.equal("latent.width", op.latent.width, op.cache.latentDim);
  check.equal("ropeKey.width", op.ropeKey.width, static_cast<int64_t>(op.cache.headDim) - op.cache.latentDim);
  check.equal("ropeKey.rows", op.ropeKey.rows, op.latent.rows);
  const int64_t slots = static_cast<int64_t>(op.cache.numBlocks) * op.cache.blockSize;
  check.indices("slotMapping", op.slotMapping, op.latent.rows, INT32_MIN, slots);
  return check.status();
}

PagodaStatus validate(const PagodaMlaAttention& op, PagodaError* error) {
  Checker check(error);
  check.latentCache(op.cache);
  check.tensor("out", op.out);
  check.tensor("query", op.query);
  check.tensor("queryRope", op.queryRope);
  check.equal("query.rows", op.query.rows, op.out.rows);
  check.equal("queryRope.rows", op.queryRope.rows, op.out.rows);
  check.between("numHeads", op.numHeads, 1, 1 << 16);
  if (!check.ok()) return check.status();
  const int64_t ropeDim = static_cast<int64_t>(op.cache.headDim) - op.cache.latentDim;
  check.equal("query.width", op.query.width % op.numHeads, 0);
  check.equal("out.width", op.out.width % op.numHeads, 0);
  check.equal("queryRope.width", op.queryRope.width, op.numHeads * ropeDim);
  const int64_t latents = static_cast<int64_t>(op.numHeads) * op.cache.latentDim;
  check.matrix("keyUp", op.keyUp, latents, op.query.width / op.numHeads);
  check.matrix("valueUp", op.valueUp, op.out.width, op.cache.latentDim);
  const bool expands = op.keyExpand.data != nullptr;
  if (expands) check.matrix("keyExpand", op.keyExpand, op.query.width, op.cache.latentDim);
  check.between("expandFrom", op.expandFrom, 0, expands ? INT32_MAX : 0);
  check.equal("batch.numTokens", op.batch.numTokens, op.out.rows);
  checkBatch(check, op.batch, op.cache.blockSize);
  return check.status();
}

PagodaStatus validate(const PagodaGatherKv& op, PagodaError* error) {
  Checker check(error);
  check.cache(op.cache);
  check.tensor("out", op.out);
  const int64_t width = op.cache.latentDim > 0 ? 1 : 2 * static_cast<int64_t>(op.cache.numKvHeads);
  check.equal("out.width", op.out.width, width * op.cache.headDim);
  check.between("layout", op.layout, PAGODA_ND, PAGODA_NZ);
  const bool isDense = op.out.width % PAGODA_NZ_COLUMNS == 0 && op.out.rowStride == op.out.width;
  check.expect(op.layout == PAGODA_ND || isDense, "Expected columns of 8 and no gaps between rows for layout NZ");
  check.equal("batch.numTokens", op.batch.numTokens, op.out.rows);
  checkBatch(check, op.batch, op.cache.blockSize);
  return check.status();
}

PagodaStatus validate(const PagodaAttention& op, PagodaError* error) {
  Checker check(error);
  check.separateCache(op.cache);
  check.tensor("out", op.out);
  check.sameShape("query", op.query, op.out);
  check.between("numHeads", op.numHeads, 1, 1 << 16);
  if (check.ok())
    check.expect(op.numHeads % op.cache.numKvHeads == 0, "Expected `numHeads` to be a multiple of `numKvHeads`");
  check.equal("query.width", op.query.width, static_cast<int64_t>(op.numHeads) * op.cache.headDim);
  check.equal("batch.numTokens", op.batch.numTokens, op.query.rows);
  check.between("slidingWindow", op.slidingWindow, 0, INT32_MAX);
  check.expect(op.softcap >= 0, "Expected `softcap` of at least 0");
  if (op.sinks.data != nullptr) check.vector("sinks", op.sinks, op.numHeads);
  const int64_t items = static_cast<int64_t>(op.batch.numTokens) * op.cache.numKvHeads;
  check.between("batch.numTokens * numKvHeads", items, 0, INT32_MAX);
  checkBatch(check, op.batch, op.cache.blockSize);
  return check.status();
}

PagodaStatus validate(const PagodaGatedActivation& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.sameShape("gate", op.gate, op.out);
  check.sameShape("up", op.up, op.out);
  check.between("activation", op.activation, PAGODA_SILU, PAGODA_CLAMPED_SWIGLU);
  return check.status();
}

PagodaStatus validate(const PagodaAdd& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.sameShape("a", op.a, op.out);
  check.sameShape("b", op.b, op.out);
  return check.status();
}

PagodaStatus validate(const PagodaRoute& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.tensor("logits", op.logits);
  check.equal("logits.rows", op.logits.rows, op.out.rows);
  check.between("logits.width", op.logits.width, 1, kMaxExperts);
  check.between("topK", op.topK, 1, op.logits.width);
  check.equal("out.width", op.out.width, 2 * static_cast<int64_t>(op.topK));
  check.between("scoring", op.scoring, PAGODA_SOFTMAX, PAGODA_SIGMOID);
  check.between("numGroups", op.numGroups, 1, op.logits.width);
  check.between("topGroups", op.topGroups, 1, op.numGroups);
  check.between("groupScore", op.groupScore, PAGODA_GROUP_MAX, PAGODA_GROUP_TOP2_SUM);
  if (!check.ok()) return check.status();
  check.expect(op.logits.width % op.numGroups == 0, "Expected a `numGroups` that divides the experts");
  check.between("topK", op.topK, 1, op.logits.width / op.numGroups * op.topGroups);
  if (op.bias.data != nullptr) check.vector("bias", op.bias, op.logits.width);
  return check.status();
}

PagodaStatus validate(const PagodaExperts& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.tensor("x", op.x);
  check.tensor("route", op.route);
  check.equal("x.rows", op.x.rows, op.out.rows);
  check.equal("route.rows", op.route.rows, op.out.rows);
  check.between("numExperts", op.numExperts, 1, kMaxExperts);
  check.between("activation", op.activation, PAGODA_SILU, PAGODA_CLAMPED_SWIGLU);
  check.equal("route.width", op.route.width % 2, 0);
  check.between("route.width / 2", op.route.width / 2, 1, op.numExperts);
  const int64_t rows = static_cast<int64_t>(op.numExperts) * op.down.cols;
  const int64_t outputs = static_cast<int64_t>(op.numExperts) * op.out.width;
  check.matrix("down", op.down, outputs, op.down.cols);
  check.matrix("gate", op.gate, rows, op.x.width);
  check.matrix("up", op.up, rows, op.x.width);
  checkExpertNumbers(check, op);
  const bool isBiased = op.downBias.data != nullptr;
  check.expect((op.gateBias.data != nullptr) == isBiased && (op.upBias.data != nullptr) == isBiased,
               "Expected either all biases or none");
  if (!check.ok() || !isBiased) return check.status();
  check.vector("gateBias", op.gateBias, op.gate.rows);
  check.vector("upBias", op.upBias, op.up.rows);
  check.vector("downBias", op.downBias, op.down.rows);
  return check.status();
}

PagodaStatus validate(const PagodaTakeRows& op, PagodaError* error) {
  Checker check(error);
  check.tensor("out", op.out);
  check.tensor("x", op.x);
  check.equal("x.width", op.x.width, op.out.width);
  check.indices("rows", op.rows, op.out.rows, 0, op.x.rows);
  return check.status();
}

PagodaStatus validate(const PagodaSample& op, PagodaError* error) {
  Checker check(error);
  check.tensor("logits", op.logits);
  if (op.logits.rows == 0) return check.status();
  check.notNull("temperature", op.temperature);
  check.notNull("topK", op.topK);
  check.notNull("topP", op.topP);
  check.notNull("minP", op.minP);
  check.notNull("seed", op.seed);
  check.notNull("position", op.position);
  check.notNull("tokens", op.tokens);
  check.notNull("finite", op.finite);
  if (op.targets != nullptr) check.indices("targets", op.targets, op.logits.rows, INT32_MIN, op.logits.width);
  if (op.logprobs.wanted != nullptr) checkLogprobs(check, op.logprobs, op.logits.rows);
  if (op.controls.typicalP != nullptr) checkControls(check, op.controls);
  return check.status();
}

}  // namespace pagoda
