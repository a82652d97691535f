// cacheWrite, copyBlocks and attention: against double precision, and by bits where the result must not depend on
// batching, chunking, block size or threads.
#include "attention-fixture.h"

namespace pagoda::test {
namespace {

// The whole sequence, `chunk` tokens a step, alone on its device.
std::vector<float> runChunked(const std::string& isa, int32_t threads, const Shape& shape, const Sequence& sequence,
                              int32_t chunk, int32_t blockSize) {
  Device device(isa.c_str(), threads);
  Cache cache(device, shape, blockSize, sequence.tokens / blockSize + 3);
  const std::vector<int32_t> blocks = cache.take(sequence.tokens);
  std::vector<float> all;
  for (int32_t start = 0; start < sequence.tokens; start += chunk) {
    const Chunk step = {&sequence, start, std::min(chunk, sequence.tokens - start)};
    writeCache(device, shape, cache, step, blocks);
    const std::vector<float> out = attend(device, shape, cache, {step}, {blocks});
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

// ---- against double precision ----------------------------------------------------------------------

// What the cache gives back of element d of the headDim elements `x`.
double stored(const Shape& shape, const float* x, int32_t d) {
  if (shape.dtype == PAGODA_F32) return x[d];
  if (shape.dtype == PAGODA_BF16) return roundBf16(x[d]);
  float largest = 0;
  for (int32_t i = 0; i < shape.headDim; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127;
  return static_cast<double>(std::nearbyint(x[d] / scale)) * scale;
}

// Whether queries and softmax weights are rounded to bf16.
bool hasBf16Products(const std::string& isa, const Shape& shape) {
  return isa == "avx512" && shape.dtype != PAGODA_F32;
}

// Values are below 1: rounded weights move a result by less than 2^-8.
double tolerance(const std::string& isa, const Shape& shape) {
  return 3e-6 + (hasBf16Products(isa, shape) ? 1.0 / 256 : 0.0);
}

std::vector<double> reference(const std::string& isa, const Shape& shape, const Sequence& s, int32_t token,
                              int32_t head) {
  const bool rounded = hasBf16Products(isa, shape);
  const int32_t kvHead = head / (shape.numHeads / shape.numKvHeads);
  const int32_t first = shape.slidingWindow > 0 ? std::max(0, token - shape.slidingWindow + 1) : 0;
  const float* q = s.q.data() + (static_cast<int64_t>(token) * shape.numHeads + head) * shape.headDim;
  std::vector<double> scores;
  for (int32_t p = first; p <= token; ++p) {
    const float* k = s.k.data() + (static_cast<int64_t>(p) * shape.numKvHeads + kvHead) * shape.headDim;
    double score = 0;
    for (int32_t d = 0; d < shape.headDim; ++d) {
      score += static_cast<double>(rounded ? roundBf16(q[d]) : q[d]) * stored(shape, k, d);
    }
    score /= std::sqrt(static_cast<double>(shape.headDim));
    scores.push_back(shape.softcap > 0 ? shape.softcap * std::tanh(score / shape.softcap) : score);
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double total = 0;
  for (double& score : scores) total += score = std::exp(score - largest);
  std::vector<double> out(shape.headDim, 0.0);
  for (int32_t p = first; p <= token; ++p) {
    const float* v = s.v.data() + (static_cast<int64_t>(p) * shape.numKvHeads + kvHead) * shape.headDim;
    for (int32_t d = 0; d < shape.headDim; ++d) out[d] += scores[p - first] / total * stored(shape, v, d);
  }
  return out;
}

// A batch of prefill, chunk and decode against the definition.
void testShape(const std::string& isa, const Shape& shape, int32_t blockSize,
               const std::vector<std::pair<int32_t, int32_t>>& requests) {
  section(describe(isa, shape) + text(" blocks of %d", blockSize));
  Device device(isa.c_str(), 2);
  int32_t numBlocks = 4;
  for (const auto& request : requests) numBlocks += (request.first + request.second) / blockSize + 1;
  Cache cache(device, shape, blockSize, numBlocks);
  std::vector<Sequence> sequences;
  std::vector<std::vector<int32_t>> blocks;
  std::vector<Chunk> chunks;
  sequences.reserve(requests.size());
  for (const auto& [cached, fresh] : requests) {
    sequences.push_back(randomSequence(shape, cached + fresh, cached * 7 + fresh));
    blocks.push_back(cache.take(cached + fresh));
    writeCache(device, shape, cache, {&sequences.back(), 0, cached + fresh}, blocks.back());
    chunks.push_back({&sequences.back(), cached, fresh});
  }
  const std::vector<float> out = attend(device, shape, cache, chunks, blocks);
  size_t at = 0;
  for (const Chunk& chunk : chunks) {
    for (int32_t t = chunk.start; t < chunk.start + chunk.length; ++t) {
      for (int32_t head = 0; head < shape.numHeads; ++head) {
        for (double expected : reference(isa, shape, *chunk.sequence, t, head)) {
          CHECK_CLOSE(out[at++], expected, tolerance(isa, shape), text("token %d head %d", t, head));
        }
      }
    }
  }
}

void testDefinition(const std::string& isa) {
  const std::vector<std::pair<int32_t, int32_t>> mixed = {{0, 5}, {70, 1}, {13, 9}, {3, 0}, {0, 1}, {127, 2}, {0, 67}};
  for (int32_t headDim : {1, 8, 16, 31, 64, 80, 128, 256, 512}) {
    testShape(isa, {2, 1, headDim}, 16, mixed);
    testShape(isa, {2, 2, headDim, PAGODA_BF16}, 3, mixed);
    testShape(isa, {2, 2, headDim, PAGODA_INT8}, 3, mixed);
    testShape(isa, {4, 1, headDim, PAGODA_INT8}, 16, mixed);
  }
  for (int32_t group : {1, 3, 4, 5, 6, 7, 8, 71}) {
    testShape(isa, {group, 1, 16}, 16, mixed);
    testShape(isa, {2 * group, 2, 16, PAGODA_BF16, 20, 30.0f}, 5, mixed);
  }
  for (int32_t window : {1, 2, 63, 64, 65, 100, 1000}) testShape(isa, {4, 2, 16, PAGODA_F32, window}, 16, mixed);
  for (float softcap : {0.5f, 50.0f}) testShape(isa, {4, 2, 16, PAGODA_F32, 0, softcap}, 64, mixed);
  testShape(isa, {2, 1, 32}, 16, {{1100, 2}, {511, 1}, {512, 1}, {500, 30}});
  testShape(isa, {2, 1, 32, PAGODA_BF16, 600}, 256, {{1100, 2}, {511, 1}, {1536, 1}});
  testShape(isa, {2, 1, 32, PAGODA_INT8, 600, 20.0f}, 256, {{1100, 2}, {511, 1}, {1536, 1}});
}

// ---- by bits ---------------------------------------------------------------------------------------

void testInvariance(const std::string& isa, const Shape& shape, int32_t tokens) {
  section(describe(isa, shape) + " invariance");
  const Sequence sequence = randomSequence(shape, tokens, 99);
  const std::vector<float> whole = runChunked(isa, 1, shape, sequence, tokens, 16);
  const struct {
    int32_t threads, chunk, blockSize;
  } ways[] = {{2, tokens, 16}, {3, 1, 16}, {2, 7, 1}, {1, 64, 3}, {2, 100, 64}, {1, 65, 256}};
  for (const auto& way : ways) {
    const std::vector<float> out = runChunked(isa, way.threads, shape, sequence, way.chunk, way.blockSize);
    CHECK(out.size() == whole.size() && sameBits(out.data(), whole.data(), out.size()),
          "threads %d chunk %d blocks of %d", way.threads, way.chunk, way.blockSize);
  }
}

// A request's rows are the same beside other requests.
void testNeighbours(const std::string& isa) {
  section(isa + " attention neighbours");
  const Shape shape = {6, 2, 24};
  Device device(isa.c_str(), 2);
  Cache cache(device, shape, 8, 100);
  std::vector<Sequence> sequences;
  std::vector<Chunk> chunks;
  std::vector<std::vector<int32_t>> blocks;
  const int32_t lengths[] = {90, 33, 1, 140};
  const int32_t fresh[] = {1, 33, 1, 50};
  sequences.reserve(4);
  for (int i = 0; i < 4; ++i) {
    sequences.push_back(randomSequence(shape, lengths[i], i));
    blocks.push_back(cache.take(lengths[i]));
    writeCache(device, shape, cache, {&sequences[i], 0, lengths[i]}, blocks[i]);
    chunks.push_back({&sequences[i], lengths[i] - fresh[i], fresh[i]});
  }
  const std::vector<float> together = attend(device, shape, cache, chunks, blocks);
  size_t at = 0;
  for (int i = 0; i < 4; ++i) {
    const std::vector<float> alone = attend(device, shape, cache, {chunks[i]}, {blocks[i]});
    CHECK(sameBits(alone.data(), together.data() + at, alone.size()), "request %d", i);
    at += alone.size();
  }
}

// NaN and infinities of one token reach the tokens after it, but not those before it.
void testCausality(const std::string& isa, PagodaDtype dtype, float poison, int32_t at) {
  section(text("%s attention causality, dtype %d, %g at %d", isa.c_str(), dtype, static_cast<double>(poison), at));
  const Shape shape = {4, 2, 16, dtype};
  Sequence sequence = randomSequence(shape, 150, 5);
  const std::vector<float> clean = runChunked(isa, 1, shape, sequence, 150, 16);
  for (int32_t i = 0; i < 32; ++i) sequence.k[at * 32 + i] = sequence.v[at * 32 + i] = poison;
  const std::vector<float> poisoned = runChunked(isa, 2, shape, sequence, 150, 16);
  CHECK(sameBits(clean.data(), poisoned.data(), static_cast<size_t>(at) * 64), "tokens before");
  bool finite = true;
  for (size_t i = static_cast<size_t>(at) * 64; i < static_cast<size_t>(at + 1) * 64; ++i)
    finite &= std::isfinite(poisoned[i]);
  CHECK(!finite, "the token itself");
}

// ---- cache -----------------------------------------------------------------------------------------

// Blocks are copied in order and nothing else is touched; negative slots are skipped.
void testCache(const std::string& isa, PagodaDtype dtype) {
  section(text("%s cache dtype %d", isa.c_str(), dtype));
  const Shape shape = {2, 2, 5, dtype};
  Device device(isa.c_str(), 2);
  Cache cache(device, shape, 3, 8);
  Random random(1);
  std::vector<float> rows = random.floats(2 * 10);
  const std::vector<uint8_t> before = cache.memory;
  const int32_t none[] = {-1, INT32_MIN};
  PagodaCacheWrite write = {.key = tensorAt(rows.data(), 2, 10),
                            .value = tensorAt(rows.data(), 2, 10),
                            .cache = cache.cache,
                            .slotMapping = none};
  device.run<PagodaCacheWrite>(device.api->cacheWrite, write);
  CHECK(cache.memory == before, "negative slots");
  const int32_t slots[] = {7 * 3 + 2, 0};
  write.slotMapping = slots;
  device.run<PagodaCacheWrite>(device.api->cacheWrite, write);
  size_t changed = 0;
  const size_t element = dtype == PAGODA_INT8 ? 1 : dtype == PAGODA_BF16 ? 2 : 4;
  for (size_t i = 0; i < before.size(); i += element) {
    changed += std::memcmp(&before[i], &cache.memory[i], element) != 0 ? 1 : 0;
  }
  const size_t scales = dtype == PAGODA_INT8 ? 8 * 4 : 0;
  CHECK(changed <= 40 + scales && changed >= 36 + scales / 2, "%zu elements changed", changed);
  const int32_t pairs[] = {0, 3, 3, 4, 7, 7, 7, 0};
  device.run<PagodaCopyBlocks>(device.api->copyBlocks, {.cache = cache.cache, .pairs = pairs, .numPairs = 4});
  auto block = [&](int32_t i) {
    return std::vector<uint8_t>(cache.memory.begin() + i * cache.blockBytes,
                                cache.memory.begin() + (i + 1) * cache.blockBytes);
  };
  CHECK(block(3) == block(4) && block(0) == block(7) && block(3) != block(0) && block(1) == block(2));
}

// Codes are rounded to nearest even and never beyond 127; what is not finite makes its whole head NaN.
void testInt8(const std::string& isa) {
  section(isa + " int8 codes");
  const Shape shape = {1, 1, 4, PAGODA_INT8};
  const float tiny = std::numeric_limits<float>::denorm_min();
  const struct {
    std::vector<float> x;
    std::vector<int> codes;
    float scale;
  } cases[] = {
      {{127, -2.5f, 3.5f, 0.5f}, {127, -2, 4, 0}, 1},
      {{-254, 254, 1, 3}, {-127, 127, 0, 2}, 2},
      {{0, -0.0f, 0, 0}, {0, 0, 0, 0}, 0},
      {{190 * tiny, -tiny, 0, 0}, {127, -1, 0, 0}, tiny},
      {{tiny, tiny, 0, 0}, {0, 0, 0, 0}, 0},
      {{1, kNaN, 2, 3}, {0, 0, 0, 0}, kNaN},
      {{1, -std::numeric_limits<float>::infinity(), 2, 3}, {0, 0, 0, 0}, kNaN},
  };
  for (const auto& c : cases) {
    Device device(isa.c_str(), 1);
    Cache cache(device, shape, 1, 1);
    std::vector<float> row = c.x;
    const int32_t slot = 0;
    device.run<PagodaCacheWrite>(device.api->cacheWrite, {.key = tensorAt(row.data(), 1, 4),
                                                          .value = tensorAt(row.data(), 1, 4),
                                                          .cache = cache.cache,
                                                          .slotMapping = &slot});
    for (const uint8_t* part : {cache.memory.data(), cache.memory.data() + 8}) {
      float scale = 0;
      std::memcpy(&scale, part, sizeof scale);
      CHECK(scale == c.scale || (std::isnan(scale) && std::isnan(c.scale)), "scale %g", static_cast<double>(scale));
      for (int i = 0; i < 4; ++i) {
        CHECK(static_cast<int8_t>(part[4 + i]) == c.codes[i], "%g: code %d", static_cast<double>(c.x[i]),
              static_cast<int8_t>(part[4 + i]));
      }
    }
  }
}

void testIsa(const std::string& isa) {
  testDefinition(isa);
  testInvariance(isa, {6, 2, 20}, 150);
  testInvariance(isa, {3, 1, 64, PAGODA_BF16, 70, 20.0f}, 200);
  testInvariance(isa, {2, 2, 16, PAGODA_BF16}, 1100);
  testInvariance(isa, {1, 1, 8, PAGODA_F32, 600}, 1300);
  testInvariance(isa, {2, 1, 17, PAGODA_INT8}, 1100);
  testInvariance(isa, {4, 2, 16, PAGODA_INT8, 70, 20.0f}, 200);
  testNeighbours(isa);
  for (float poison : {kNaN, std::numeric_limits<float>::infinity()}) {
    for (PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16, PAGODA_INT8}) {
      for (int32_t at : {0, 40, 63, 64, 100, 149}) testCausality(isa, dtype, poison, at);
    }
  }
  testCache(isa, PAGODA_F32);
  testCache(isa, PAGODA_BF16);
  testCache(isa, PAGODA_INT8);
  testInt8(isa);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  for (const std::string& isa : pagoda::test::isas()) pagoda::test::testIsa(isa);
  return pagoda::test::finish();
}
