// The CUDA backend's kernels, run by the emulator, against the CPU backend, on shapes that reach every path. Built once
// more with ThreadSanitizer, for which every CUDA thread is a thread of its own (cuda-emulator/emulator.cc).
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "../block-formats.h"
#include "../cpu/backend.h"
#include "../cuda/device.h"
#include "check.h"

extern "C" const PagodaBackend* pagodaBackend(void);

namespace pagoda::test {
namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}

  uint32_t integer(uint32_t below) {
    state_ = state_ * 6364136223846793005u + 1442695040888963407u;
    return static_cast<uint32_t>(state_ >> 33) % below;
  }
  /// Sums of uniform numbers: about normal, of variance 1.
  float normal() {
    float sum = 0;
    for (int i = 0; i < 12; ++i) sum += static_cast<float>(integer(1 << 20)) / (1 << 20) - 0.5f;
    return sum;
  }
  std::vector<float> normals(size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = normal();
    return values;
  }

 private:
  uint64_t state_;
};

/// One open device of a backend, and memory on it that is freed with it.
class Machine {
 public:
  explicit Machine(const PagodaBackend* backend, int32_t index = 0) : api(backend) {
    const PagodaDeviceOptions options = {.device = index, .threads = 1, .isa = nullptr};
    CHECK(api->openDevice(&options, &device, &error) == PAGODA_OK, "%s", error.message);
  }
  ~Machine() {
    for (void* address : memory_) api->release(device, address);
    api->closeDevice(device);
  }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  /// Full of NaN.
  void* allocate(uint64_t bytes) {
    void* address = nullptr;
    CHECK(api->allocate(device, bytes, &address, &error) == PAGODA_OK, "%s", error.message);
    CHECK(api->fill(device, address, 0xff, bytes, &error) == PAGODA_OK, "%s", error.message);
    memory_.push_back(address);
    return address;
  }

  template <class T>
  T* upload(const std::vector<T>& values) {
    void* address = allocate(std::max<size_t>(values.size(), 1) * sizeof(T));
    api->copyToDevice(device, address, values.data(), values.size() * sizeof(T), &error);
    return static_cast<T*>(address);
  }

  template <class T>
  std::vector<T> download(const void* address, size_t count) {
    std::vector<T> values(count);
    api->copyToHost(device, values.data(), address, count * sizeof(T), &error);
    CHECK(api->synchronize(device, &error) == PAGODA_OK, "%s", error.message);
    return values;
  }

  /// An array in the host's memory that lives as long as the machine.
  const int32_t* keep(const std::vector<int32_t>& values) {
    kept_.push_back(std::make_unique<std::vector<int32_t>>(values));
    return kept_.back()->data();
  }

  PagodaTensor tensor(const std::vector<float>& values, int32_t width) {
    const auto rows = static_cast<int32_t>(values.size() / width);
    return {upload(values), rows, width, width, PAGODA_F32};
  }
  PagodaTensor output(int32_t rows, int32_t width) {
    return {allocate(sizeof(float) * rows * width), rows, width, width, PAGODA_F32};
  }

  PagodaWeight weight(PagodaWeightKind kind, PagodaDtype dtype, const std::vector<float>& values, int32_t cols) {
    PagodaWeight weight = {nullptr, kind, static_cast<int32_t>(values.size() / cols), cols, dtype};
    uint64_t bytes = 0;
    CHECK(api->weightBytes(device, &weight, &bytes, &error) == PAGODA_OK, "%s", error.message);
    weight.data = allocate(bytes);
    CHECK(api->prepareWeight(device, &weight, 0, weight.rows, values.data(), PAGODA_F32, &error) == PAGODA_OK, "%s",
          error.message);
    return weight;
  }

  PagodaKvCache cache(PagodaKvCache shape) {
    uint64_t bytes = 0;
    CHECK(api->kvBlockBytes(device, &shape, &bytes, &error) == PAGODA_OK, "%s", error.message);
    shape.data = allocate(bytes * shape.numBlocks);
    return shape;
  }

  template <class Op>
  void run(PagodaStatus (*op)(PagodaDevice*, const Op*, PagodaError*), const Op& parameters) {
    CHECK(op(device, &parameters, &error) == PAGODA_OK, "%s", error.message);
  }

  const PagodaBackend* api;
  PagodaDevice* device = nullptr;
  PagodaError error = {};

 private:
  std::vector<void*> memory_;
  std::vector<std::unique_ptr<std::vector<int32_t>>> kept_;
};

void expectClose(const std::vector<float>& actual, const std::vector<float>& expected, double tolerance) {
  CHECK(actual.size() == expected.size(), "%zu and %zu elements", actual.size(), expected.size());
  for (size_t i = 0; i < actual.size(); ++i) {
    const double allowed = tolerance * (1 + std::fabs(expected[i]));
    CHECK(std::fabs(actual[i] - expected[i]) <= allowed, "[%zu] %g but %g", i, actual[i], expected[i]);
  }
}

constexpr int32_t kSm90 = 0, kSm80 = 1;  // emulated devices

/// Calls build(machine), which returns what an op wrote, for both backends, and compares.
template <class Build>
void compare(double tolerance, Build build, int32_t device = kSm90) {
  Machine cpu(pagodaCpuBackend()), cuda(pagodaBackend(), device);
  const std::vector<float> expected = build(cpu);
  expectClose(build(cuda), expected, tolerance);
}

std::vector<float> read(Machine& machine, const PagodaTensor& tensor) {
  return machine.download<float>(tensor.data, static_cast<size_t>(tensor.rows) * tensor.width);
}

struct LinearCase {
  PagodaDtype dtype;
  int32_t rows, inputs, outputs;
};

/// The first rows of a product that has the same x and the same weight however many there are.
std::vector<float> runLinear(Machine& m, const LinearCase& c) {
  Random random(c.inputs + c.outputs);
  const auto bias = random.normals(c.outputs);
  auto weights = random.normals(static_cast<size_t>(c.outputs) * c.inputs);
  for (float& value : weights) value /= std::sqrt(static_cast<float>(c.inputs));
  const auto x = random.normals(static_cast<size_t>(c.rows) * c.inputs);
  const PagodaLinear op = {m.output(c.rows, c.outputs), m.tensor(x, c.inputs),
                           m.weight(PAGODA_MATRIX, c.dtype, weights, c.inputs),
                           m.weight(PAGODA_VECTOR, PAGODA_F32, bias, c.outputs)};
  m.run(m.api->linear, op);
  return read(m, op.out);
}

void testLinear(const LinearCase& c, double tolerance, int32_t device = kSm90) {
  section(text("linear, dtype %d, [%d, %d] x [%d], device %d", c.dtype, c.rows, c.inputs, c.outputs, device));
  compare(
      tolerance, [&](Machine& m) { return runLinear(m, c); }, device);
}

bool haveSameBits(const std::vector<float>& few, const std::vector<float>& many) {
  return std::memcmp(few.data(), many.data(), few.size() * sizeof(float)) == 0;
}

/// Row counts that reach every kernel of the device, for a weight with so many columns that blocks fill every stage
/// again, and so many outputs that there are two blocks, to which the emulator makes copies early and late.
void testRowBits(int32_t device, PagodaDtype dtype, int32_t inputs, int32_t outputs,
                 const std::vector<int32_t>& counts) {
  section(text("the bits of a row of [%d] x [%d] do not depend on its batch, dtype %d, device %d", inputs, outputs,
               dtype, device));
  Machine cuda(pagodaBackend(), device);
  const auto all = runLinear(cuda, {dtype, counts.back(), inputs, outputs});
  for (const int32_t rows : counts)
    CHECK(haveSameBits(runLinear(cuda, {dtype, rows, inputs, outputs}), all), "%d rows", rows);
}

/// Or the test above could not tell the instructions apart.
void testRoundings() {
  section("mma and wgmma round differently");
  Machine hopper(pagodaBackend(), kSm90), ampere(pagodaBackend(), kSm80);
  const LinearCase c = {PAGODA_BF16, 2, 96, 70};
  CHECK(!haveSameBits(runLinear(hopper, c), runLinear(ampere, c)), "the same bits");
}

void testGpusWithoutWgmma() {
  section("wgmma is for compute capability 9.0 and drivers that encode tensor maps");
  const LinearCase c = {PAGODA_BF16, 2, 96, 70};
  const auto productsOf = [&c](const char* setup) {
    setenv("PAGODA_CUDA_EMULATOR", setup, 1);
    Machine machine(pagodaBackend());
    return runLinear(machine, c);
  };
  const auto expected = productsOf("gpus=8.0");
  for (const char* setup : {"gpus=8.9", "gpus=10.0", "gpus=12.0", "gpus=9.0 tensormaps=0"})
    CHECK(haveSameBits(productsOf(setup), expected), "%s", setup);
  setenv("PAGODA_CUDA_EMULATOR", "", 1);
}

struct Request {
  int32_t tokens;   // of this step
  int32_t context;  // before them
};

/// Tokens of a step: [first, end) of one request.
struct Tokens {
  int32_t first, end;
};

/// A batch whose blocks are scattered over the cache.
struct Batch {
  std::vector<int32_t> queryStartLoc = {0}, seqLens, blockTable;
  int32_t maxBlocks = 0, numBlocks = 1;
  std::vector<int32_t> slots;  // of all positions, request after request

  Batch(const std::vector<Request>& requests, int32_t blockSize) {
    for (const Request& r : requests) {
      queryStartLoc.push_back(queryStartLoc.back() + r.tokens);
      seqLens.push_back(r.tokens + r.context);
      maxBlocks = std::max(maxBlocks, (seqLens.back() + blockSize - 1) / blockSize);
    }
    numBlocks += static_cast<int32_t>(requests.size()) * maxBlocks;
    for (int32_t i = 0; i < numBlocks - 1; ++i) blockTable.push_back(numBlocks - 1 - i);
    for (size_t r = 0; r < requests.size(); ++r) {
      for (int32_t p = 0; p < seqLens[r]; ++p)
        slots.push_back(blockTable[r * maxBlocks + p / blockSize] * blockSize + p % blockSize);
    }
  }

  /// Some tokens of the first request.
  PagodaBatch only(Machine& m, const Tokens& tokens) const {
    const int32_t count = tokens.end - tokens.first;
    const std::vector<int32_t> starts = {0, count}, lengths = {tokens.end};
    return {1,
            count,
            maxBlocks,
            count,
            tokens.end,
            m.upload(starts),
            m.upload(lengths),
            m.upload(blockTable),
            m.keep(starts),
            m.keep(lengths)};
  }

  PagodaBatch on(Machine& m) const {
    int32_t longest = 0;
    for (size_t r = 0; r < seqLens.size(); ++r) longest = std::max(longest, queryStartLoc[r + 1] - queryStartLoc[r]);
    return {static_cast<int32_t>(seqLens.size()),
            queryStartLoc.back(),
            maxBlocks,
            longest,
            *std::max_element(seqLens.begin(), seqLens.end()),
            m.upload(queryStartLoc),
            m.upload(seqLens),
            m.upload(blockTable),
            queryStartLoc.data(),
            seqLens.data()};
  }
};

struct AttentionShape {
  int32_t heads, kvHeads, dim;
  PagodaDtype dtype;
  int32_t window;
  float softcap;
  bool sinks;
  int32_t blockSize = 16;
};

void testAttention(const std::vector<Request>& requests, const AttentionShape& s, double tolerance,
                   int32_t device = kSm90) {
  section(text("attention, %d/%d heads of %d, dtype %d, window %d, device %d", s.heads, s.kvHeads, s.dim, s.dtype,
               s.window, device));
  Random random(s.heads * 100 + s.dim);
  const Batch batch(requests, s.blockSize);
  const int32_t tokens = batch.queryStartLoc.back(), width = s.kvHeads * s.dim;
  const auto query = random.normals(static_cast<size_t>(tokens) * s.heads * s.dim);
  const auto key = random.normals(batch.slots.size() * width), value = random.normals(batch.slots.size() * width);
  const auto sinks = random.normals(s.heads);
  const auto build = [&](Machine& m) {
    const PagodaKvCache cache = m.cache({nullptr, batch.numBlocks, s.blockSize, s.kvHeads, s.dim, s.dtype, 0});
    m.run(m.api->cacheWrite,
          PagodaCacheWrite{m.tensor(key, width), m.tensor(value, width), cache, m.upload(batch.slots)});
    const PagodaAttention op = {m.output(tokens, s.heads * s.dim),
                                m.tensor(query, s.heads * s.dim),
                                cache,
                                batch.on(m),
                                s.heads,
                                1 / std::sqrt(static_cast<float>(s.dim)),
                                s.window,
                                s.softcap,
                                s.sinks ? m.weight(PAGODA_VECTOR, PAGODA_F32, sinks, s.heads) : PagodaWeight{}};
    m.run(m.api->attention, op);
    return read(m, op.out);
  };
  compare(tolerance, build, device);
}

/// Attention of some of the tokens of a request, all of which has been written.
std::vector<float> attendTokens(Machine& m, const AttentionShape& s, int32_t total, const Tokens& tokens) {
  Random random(s.dim + s.kvHeads);
  const Batch whole({{total, 0}}, s.blockSize);
  const int32_t width = s.kvHeads * s.dim, queryWidth = s.heads * s.dim, count = tokens.end - tokens.first;
  const auto query = random.normals(static_cast<size_t>(total) * queryWidth),
             key = random.normals(static_cast<size_t>(total) * width),
             value = random.normals(static_cast<size_t>(total) * width);
  const PagodaKvCache cache = m.cache({nullptr, whole.numBlocks, s.blockSize, s.kvHeads, s.dim, s.dtype, 0});
  m.run(m.api->cacheWrite,
        PagodaCacheWrite{m.tensor(key, width), m.tensor(value, width), cache, m.upload(whole.slots)});
  const auto from = query.begin() + static_cast<size_t>(tokens.first) * queryWidth;
  const PagodaBatch batch = whole.only(m, tokens);
  const PagodaAttention op = {m.output(count, queryWidth),
                              m.tensor({from, from + static_cast<size_t>(count) * queryWidth}, queryWidth),
                              cache,
                              batch,
                              s.heads,
                              1 / std::sqrt(static_cast<float>(s.dim)),
                              s.window,
                              s.softcap,
                              {}};
  m.run(m.api->attention, op);
  return read(m, op.out);
}

/// The last tokens of a request in one step, in others of a few tokens or of one, whose splits are merged behind them
/// or, where there is no memory for what they leave, by the blocks themselves. `width`: of a token's result.
template <class Shape>
void expectSameBits(std::vector<float> (*attend)(Machine&, const Shape&, int32_t, const Tokens&), const Shape& s,
                    int32_t width, int32_t total, int32_t chunk, int32_t device) {
  Machine cuda(pagodaBackend(), device);
  const uint64_t memory = cuda.device->maxPartialBytes;
  const auto all = attend(cuda, s, total, {total - chunk, total});
  const auto row = static_cast<size_t>(width);
  for (const Tokens& tokens : {Tokens{total - 1, total}, Tokens{total - 5, total - 2}, Tokens{total - chunk, total}}) {
    const auto begin = all.begin() + row * (tokens.first - (total - chunk));
    const std::vector<float> expected(begin, begin + row * (tokens.end - tokens.first));
    for (const uint64_t bytes : {memory, uint64_t{0}}) {
      cuda.device->maxPartialBytes = bytes;
      CHECK(haveSameBits(expected, attend(cuda, s, total, tokens)), "[%d, %d), %llu bytes", tokens.first, tokens.end,
            static_cast<unsigned long long>(bytes));
    }
  }
}

void testAttentionBits(const AttentionShape& s, int32_t total, int32_t chunk, int32_t device) {
  section(text("the bits of attention do not depend on the step, heads of %d, window %d, device %d", s.dim, s.window,
               device));
  expectSameBits(attendTokens, s, s.heads * s.dim, total, chunk, device);
}

struct LatentShape {
  int32_t heads, latent, rope, nope, value;
  PagodaDtype dtype;
  int32_t blockSize = 64;
  int32_t expandFrom = 0;
};

/// W_UK of each head as the expanded form wants it: [heads * nope, latent].
std::vector<float> transposeHeads(const std::vector<float>& keyUp, const LatentShape& s) {
  std::vector<float> keyExpand(keyUp.size());
  for (int32_t h = 0; h < s.heads; ++h)
    for (int32_t i = 0; i < s.latent; ++i)
      for (int32_t j = 0; j < s.nope; ++j)
        keyExpand[(static_cast<size_t>(h) * s.nope + j) * s.latent + i] =
            keyUp[(static_cast<size_t>(h) * s.latent + i) * s.nope + j];
  return keyExpand;
}

void addExpandedForm(Machine& m, const LatentShape& s, const std::vector<float>& keyUp, PagodaMlaAttention* op) {
  if (s.expandFrom == 0) return;
  op->keyExpand = m.weight(PAGODA_MATRIX, PAGODA_F32, transposeHeads(keyUp, s), s.latent);
  op->expandFrom = s.expandFrom;
}

void testMlaAttention(const std::vector<Request>& requests, const LatentShape& s, double tolerance,
                      int32_t device = kSm90) {
  section(text("mlaAttention, %d heads, %d + %d, dtype %d, blocks of %d, expanded from %d, device %d", s.heads,
               s.latent, s.rope, s.dtype, s.blockSize, s.expandFrom, device));
  Random random(s.heads + s.latent);
  const Batch batch(requests, s.blockSize);
  const int32_t tokens = batch.queryStartLoc.back();
  const auto query = random.normals(static_cast<size_t>(tokens) * s.heads * s.nope),
             queryRope = random.normals(static_cast<size_t>(tokens) * s.heads * s.rope),
             latent = random.normals(batch.slots.size() * s.latent),
             ropeKey = random.normals(batch.slots.size() * s.rope);
  auto keyUp = random.normals(static_cast<size_t>(s.heads) * s.latent * s.nope),
       valueUp = random.normals(static_cast<size_t>(s.heads) * s.value * s.latent);
  for (auto* weights : {&keyUp, &valueUp})
    for (float& w : *weights) w /= std::sqrt(static_cast<float>(s.latent));
  const auto build = [&](Machine& m) {
    const PagodaKvCache cache =
        m.cache({nullptr, batch.numBlocks, s.blockSize, 1, s.latent + s.rope, s.dtype, s.latent});
    m.run(m.api->latentWrite,
          PagodaLatentWrite{m.tensor(latent, s.latent), m.tensor(ropeKey, s.rope), cache, m.upload(batch.slots)});
    PagodaMlaAttention op = {};
    op.out = m.output(tokens, s.heads * s.value);
    op.query = m.tensor(query, s.heads * s.nope);
    op.queryRope = m.tensor(queryRope, s.heads * s.rope);
    op.cache = cache;
    op.batch = batch.on(m);
    op.keyUp = m.weight(PAGODA_MATRIX, PAGODA_F32, keyUp, s.nope);
    op.valueUp = m.weight(PAGODA_MATRIX, PAGODA_F32, valueUp, s.latent);
    op.numHeads = s.heads;
    op.scale = 1 / std::sqrt(static_cast<float>(s.nope + s.rope));
    addExpandedForm(m, s, keyUp, &op);
    m.run(m.api->mlaAttention, op);
    return read(m, op.out);
  };
  compare(tolerance, build, device);
}

/// Latent attention of some of the tokens of a request, all of which has been written.
std::vector<float> attendLatentTokens(Machine& m, const LatentShape& s, int32_t total, const Tokens& tokens) {
  Random random(s.heads);
  const Batch whole({{total, 0}}, s.blockSize);
  const int32_t count = tokens.end - tokens.first;
  const auto latent = random.normals(static_cast<size_t>(total) * s.latent),
             ropeKey = random.normals(static_cast<size_t>(total) * s.rope),
             keyUp = random.normals(static_cast<size_t>(s.heads) * s.latent * s.nope),
             valueUp = random.normals(static_cast<size_t>(s.heads) * s.value * s.latent);
  const auto queryOf = [&](int32_t width) {
    const auto all = random.normals(static_cast<size_t>(total) * width);
    const auto from = all.begin() + static_cast<size_t>(tokens.first) * width;
    return m.tensor({from, from + static_cast<size_t>(count) * width}, width);
  };
  PagodaMlaAttention op = {};
  op.out = m.output(count, s.heads * s.value);
  op.query = queryOf(s.heads * s.nope);
  op.queryRope = queryOf(s.heads * s.rope);
  op.cache = m.cache({nullptr, whole.numBlocks, s.blockSize, 1, s.latent + s.rope, s.dtype, s.latent});
  op.batch = whole.only(m, tokens);
  op.keyUp = m.weight(PAGODA_MATRIX, PAGODA_F32, keyUp, s.nope);
  op.valueUp = m.weight(PAGODA_MATRIX, PAGODA_F32, valueUp, s.latent);
  op.numHeads = s.heads;
  op.scale = 1 / std::sqrt(static_cast<float>(s.latent * (s.nope + s.rope)));
  addExpandedForm(m, s, keyUp, &op);
  m.run(m.api->latentWrite,
        PagodaLatentWrite{m.tensor(latent, s.latent), m.tensor(ropeKey, s.rope), op.cache, m.upload(whole.slots)});
  m.run(m.api->mlaAttention, op);
  return read(m, op.out);
}

void testLatentBits(const LatentShape& s, int32_t total, int32_t chunk, int32_t device) {
  section(text("the bits of latent attention do not depend on the step, %d heads, device %d", s.heads, device));
  expectSameBits(attendLatentTokens, s, s.heads * s.value, total, chunk, device);
}

/// Of steps that are all computed in the expanded form, with memory for all keys and for 1,024 at a time.
void testExpandedBits(const LatentShape& s, int32_t total, int32_t chunk, int32_t device) {
  section(
      text("the bits of expanded latent attention do not depend on the step, %d heads, device %d", s.heads, device));
  Machine cuda(pagodaBackend(), device);
  const auto width = static_cast<size_t>(s.heads) * s.value;
  const auto all = attendLatentTokens(cuda, s, total, {total - chunk, total});
  LatentShape absorbed = s;
  absorbed.expandFrom = 0;
  CHECK(!haveSameBits(all, attendLatentTokens(cuda, absorbed, total, {total - chunk, total})), "the absorbed form's");
  cuda.device->maxExpandedBytes = 0;
  for (const Tokens& tokens : {Tokens{total - chunk, total}, Tokens{total - 7, total - 3}, Tokens{total - 2, total}}) {
    const auto begin = all.begin() + width * (tokens.first - (total - chunk));
    const std::vector<float> expected(begin, begin + width * (tokens.end - tokens.first));
    CHECK(haveSameBits(expected, attendLatentTokens(cuda, s, total, tokens)), "[%d, %d)", tokens.first, tokens.end);
  }
}

void testExperts(PagodaDtype dtype, int32_t rows, double tolerance, int32_t device = kSm90) {
  section(text("experts, dtype %d, %d rows, device %d", dtype, rows, device));
  constexpr int32_t kExperts = 7, kTopK = 3, kInputs = 96, kWidth = 64;
  Random random(rows);
  const auto x = random.normals(static_cast<size_t>(rows) * kInputs), logits = random.normals(rows * kExperts);
  auto gate = random.normals(kExperts * kWidth * kInputs), up = random.normals(gate.size()),
       down = random.normals(gate.size());
  for (auto* weights : {&gate, &up, &down})
    for (float& w : *weights) w /= 8;
  const auto build = [&](Machine& m) {
    const PagodaTensor chosen = m.output(rows, 2 * kTopK);
    m.run(m.api->route,
          PagodaRoute{chosen, m.tensor(logits, kExperts), {}, kTopK, PAGODA_SOFTMAX, 1, 1.0f, 1, 1, PAGODA_GROUP_MAX});
    const PagodaExperts op = {m.output(rows, kInputs),
                              m.tensor(x, kInputs),
                              chosen,
                              m.weight(PAGODA_MATRIX, dtype, gate, kInputs),
                              m.weight(PAGODA_MATRIX, dtype, up, kInputs),
                              m.weight(PAGODA_MATRIX, dtype, down, kWidth),
                              {},
                              {},
                              {},
                              kExperts,
                              PAGODA_SILU};
    m.run(m.api->experts, op);
    return read(m, op.out);
  };
  compare(tolerance, build, device);
}

void testElementwise() {
  section("rmsNorm, rope, gatedActivation, add");
  constexpr int32_t kRows = 5, kWidth = 192, kHead = 64;
  Random random(9);
  const auto x = random.normals(kRows * kWidth), y = random.normals(kRows * kWidth), weight = random.normals(kHead),
             frequency = random.normals(kHead / 2);
  const std::vector<int32_t> positions = {0, 3, 17, 1000, 50000};
  compare(1e-5, [&](Machine& m) {
    const PagodaTensor a = m.tensor(x, kWidth), b = m.tensor(y, kWidth), table = m.output(kRows, kHead);
    m.run(m.api->rmsNorm, PagodaRmsNorm{a, a, m.weight(PAGODA_VECTOR, PAGODA_F32, weight, kHead), kHead, 1e-6f, 1.0f});
    m.run(m.api->ropeTable,
          PagodaRopeTable{table, m.upload(positions), m.weight(PAGODA_VECTOR, PAGODA_F32, frequency, kHead / 2), 1.0f});
    m.run(m.api->rope, PagodaRope{a, a, table, kHead, kHead, 0});
    m.run(m.api->gatedActivation, PagodaGatedActivation{b, a, b, PAGODA_GELU});
    m.run(m.api->add, PagodaAdd{a, a, b});
    return read(m, a);
  });
}

void testSample() {
  section("sample");
  constexpr int32_t kRows = 6, kVocab = 1500;
  Random random(5);
  const auto logits = random.normals(kRows * kVocab);
  const std::vector<float> temperature = {0, 1, 2, 0.7f, 1, 3}, topP = {1, 0.5f, 0.9f, 1, 0.2f, 1},
                           minP = {0, 0, 0.01f, 0, 0, 0.1f};
  const std::vector<int32_t> topK = {0, 0, 40, 5, 0, 0}, position = {1, 2, 3, 4, 5, 6}, wanted(kRows, 7);
  const std::vector<uint32_t> seed = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  compare(1e-5, [&](Machine& m) {
    PagodaSample op = {};
    op.logits = m.tensor(logits, kVocab);
    op.temperature = m.upload(temperature), op.topP = m.upload(topP), op.minP = m.upload(minP);
    op.topK = m.upload(topK), op.seed = m.upload(seed), op.position = m.upload(position);
    op.tokens = m.upload(position), op.finite = m.upload(position);
    op.logprobs.wanted = m.upload(wanted), op.logprobs.maxWanted = 7;
    op.logprobs.logprob = m.upload(temperature), op.logprobs.rank = m.upload(position);
    op.logprobs.topIds = static_cast<int32_t*>(m.allocate(4 * 7 * kRows));
    op.logprobs.topLogprobs = static_cast<float*>(m.allocate(4 * 7 * kRows));
    m.run(m.api->sample, op);
    std::vector<float> all;
    for (const int32_t* ids : {static_cast<const int32_t*>(op.tokens), static_cast<const int32_t*>(op.logprobs.rank)})
      for (const int32_t id : m.download<int32_t>(ids, kRows)) all.push_back(static_cast<float>(id));
    for (const int32_t id : m.download<int32_t>(op.logprobs.topIds, 7 * kRows)) all.push_back(static_cast<float>(id));
    for (const float x : m.download<float>(op.logprobs.topLogprobs, 7 * kRows)) all.push_back(x);
    return all;
  });
}

void run() {
  constexpr double kExact = 2e-5, kBf16 = 3e-2, kCodes = 4e-2;
  testElementwise();
  for (const int32_t rows : {1, 5, 17, 70}) {
    testLinear({PAGODA_F32, rows, 200, 24}, kExact);
    testLinear({PAGODA_F16, rows, 200, 24}, kBf16);
    for (const int32_t device : {kSm90, kSm80}) testLinear({PAGODA_BF16, rows, 1100, 70}, kBf16, device);
    for (const PagodaDtype dtype : {PAGODA_Q8_0, PAGODA_Q4_K}) testLinear({dtype, rows, 768, 20}, kCodes);
  }
  for (const int32_t device : {kSm90, kSm80}) {
    testLinear({PAGODA_BF16, 140, 96, 136}, kBf16, device);
    testLinear({PAGODA_BF16, 300, 72, 520}, kBf16, device);
    testRowBits(device, PAGODA_BF16, 1100, 136, {1, 40, 70});
    testRowBits(device, PAGODA_BF16, 390, 136, {2, 17, 100, 300});
  }
  testRowBits(kSm90, PAGODA_Q8_0, 1088, 20, {1, 16, 17, 70});
  testRowBits(kSm90, PAGODA_F16, 1100, 20, {2, 40, 70});
  testRoundings();
  testGpusWithoutWgmma();
  const std::vector<Request> mixed = {{9, 0}, {1, 40}, {0, 0}, {5, 33}, {1, 0}};
  const std::vector<Request> decode = {{1, 1100}, {1, 30}};
  for (const PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16, PAGODA_INT8}) {
    const double tolerance = dtype == PAGODA_F32 ? kExact : kBf16;
    for (const int32_t device : {kSm90, kSm80}) {
      if (device == kSm80 && dtype != PAGODA_BF16) continue;  // the same kernels
      testAttention(mixed, {4, 2, 64, dtype, 0, 0, false}, tolerance, device);
      testAttention(decode, {4, 1, 64, dtype, 0, 2, false}, tolerance, device);
    }
    testAttention(mixed, {6, 2, 128, dtype, 7, 0, true, 4}, tolerance);
  }
  for (const int32_t device : {kSm90, kSm80}) {
    testAttention({{70, 60}}, {2, 1, 128, PAGODA_BF16, 0, 0, false}, kBf16, device);
    testAttention({{90, 200}, {2, 300}}, {6, 2, 128, PAGODA_BF16, 100, 3, true, 24}, kBf16, device);
    testAttentionBits({3, 1, 64, PAGODA_BF16, 0, 0, false, 24}, 1290, 50, device);
    testAttentionBits({4, 1, 128, PAGODA_BF16, 1100, 0, false, 64}, 2070, 20, device);
  }
  for (const int32_t device : {kSm90, kSm80}) {
    for (const int32_t dim : {72, 80, 256}) {
      testAttention(mixed, {4, 2, dim, PAGODA_BF16, 0, 0, true}, kBf16, device);
      testAttention({{70, 60}, {1, 1100}}, {2, 1, dim, PAGODA_BF16, 0, 0, false, 8}, kBf16, device);
    }
    testAttentionBits({3, 1, 200, PAGODA_BF16, 0, 0, false, 24}, 1050, 50, device);
  }
  testAttention({{3, 600}}, {3, 3, 80, PAGODA_BF16, 300, 0, false}, kBf16);
  testMlaAttention(mixed, {3, 64, 16, 32, 32, PAGODA_F32}, kExact);
  for (const int32_t device : {kSm90, kSm80}) {
    testMlaAttention({{3, 70}, {1, 600}}, {16, 512, 64, 32, 16, PAGODA_BF16}, kBf16, device);
    testMlaAttention({{1, 1100}, {0, 5}, {2, 30}}, {70, 512, 64, 32, 16, PAGODA_BF16, 24}, kBf16, device);
    testLatentBits({5, 512, 64, 16, 16, PAGODA_BF16, 16}, 1050, 14, device);
  }
  testMlaAttention({{3, 70}, {1, 600}, {2, 5}}, {16, 512, 64, 32, 16, PAGODA_INT8, 24}, kBf16);
  testLatentBits({5, 512, 64, 16, 16, PAGODA_INT8, 16}, 600, 14, kSm90);
  testAttention({{70, 60}, {1, 600}}, {6, 2, 128, PAGODA_INT8, 0, 0, true, 24}, kBf16);
  testAttention({{70, 60}, {3, 9}}, {4, 2, 208, PAGODA_INT8, 40, 0, false}, kBf16);
  testAttention(mixed, {4, 2, 72, PAGODA_INT8, 0, 0, false}, kBf16);
  testAttentionBits({3, 1, 80, PAGODA_INT8, 0, 0, false, 24}, 1050, 50, kSm90);
  for (const int32_t device : {kSm90, kSm80}) {
    testMlaAttention({{20, 70}, {1, 60}, {3, 0}, {150, 20}, {2, 9}}, {2, 72, 64, 128, 128, PAGODA_BF16, 16, 8}, kBf16,
                     device);
    testMlaAttention({{9, 1100}, {0, 5}, {1, 3}, {4, 30}}, {2, 40, 16, 72, 64, PAGODA_BF16, 24, 1}, kBf16, device);
    testExpandedBits({2, 64, 64, 128, 128, PAGODA_BF16, 64, 2}, 1100, 140, device);
  }
  testMlaAttention({{30, 20}, {1, 9}}, {2, 64, 64, 128, 128, PAGODA_BF16, 5, 8}, kBf16);
  for (const int32_t rows : {1, 40}) {
    testExperts(PAGODA_F32, rows, kExact);
    for (const int32_t device : {kSm90, kSm80}) testExperts(PAGODA_BF16, rows, kBf16, device);
    testExperts(PAGODA_Q8_0, rows, 2 * kCodes);
  }
  testSample();
}

}  // namespace
}  // namespace pagoda::test

int main() {
  pagoda::test::run();
  return pagoda::test::finish();
}
