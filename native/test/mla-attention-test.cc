// latentWrite, gatherKv and mlaAttention: against double precision, against the expanded form, and by bits where the
// result must not depend on batching, chunking, block size or threads.
#include <algorithm>
#include <cmath>

#include "../cpu/mla-passes.h"
#include "cpu-fixture.h"

namespace pagoda::test {
namespace {

struct Shape {
  int32_t numHeads;
  int32_t latentDim;
  int32_t ropeDim;
  PagodaDtype dtype = PAGODA_F32;  // of the cache
  int32_t nopeDim = 12;
  int32_t valueDim = 10;
  PagodaDtype weightDtype = PAGODA_F32;

  int32_t rowDim() const { return latentDim + ropeDim; }
  int32_t outWidth() const { return numHeads * valueDim; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(nopeDim + ropeDim)); }
};

// Random ones that keep the size of what they multiply.
std::vector<float> weightsOf(int32_t rows, int32_t cols, uint64_t seed) {
  std::vector<float> values = Random(seed).floats(static_cast<size_t>(rows) * cols);
  for (float& value : values) value *= std::sqrt(3 / static_cast<float>(cols));
  return values;
}
std::vector<float> keyUpOf(const Shape& s) { return weightsOf(s.numHeads * s.latentDim, s.nopeDim, 11); }
std::vector<float> valueUpOf(const Shape& s) { return weightsOf(s.numHeads * s.valueDim, s.latentDim, 12); }

// W_UK of each head, [numHeads * nopeDim, latentDim].
std::vector<float> keyExpandOf(const Shape& s) {
  const std::vector<float> keyUp = keyUpOf(s);
  std::vector<float> values(keyUp.size());
  for (int32_t h = 0; h < s.numHeads; ++h) {
    for (int32_t l = 0; l < s.latentDim; ++l) {
      for (int32_t d = 0; d < s.nopeDim; ++d)
        values[(h * s.nopeDim + d) * s.latentDim + l] = keyUp[(h * s.latentDim + l) * s.nopeDim + d];
    }
  }
  return values;
}

// What a request has computed, [tokens, width] each.
struct Sequence {
  int32_t tokens;
  std::vector<float> query, queryRope, latent, ropeKey;
};

Sequence randomSequence(const Shape& shape, int32_t tokens, uint64_t seed) {
  Random random(seed);
  const auto floats = [&](int64_t width) { return random.floats(static_cast<size_t>(tokens * width)); };
  Sequence s = {tokens, floats(shape.numHeads * shape.nopeDim), floats(shape.numHeads * shape.ropeDim),
                floats(shape.latentDim), floats(shape.ropeDim)};
  for (float& value : s.query) value *= 3;
  return s;
}

// Tokens [start, start + length) of a sequence, in its blocks.
struct Chunk {
  const Sequence* sequence;
  int32_t start;
  int32_t length;
  std::vector<int32_t> blocks;
};

// A latent cache full of NaN, with blocks handed out from the end.
class Cache {
 public:
  Cache(Device& device, const Shape& shape, int32_t blockSize, int32_t numBlocks)
      : cache{nullptr, numBlocks, blockSize, 1, shape.rowDim(), shape.dtype, shape.latentDim}, next_(numBlocks) {
    uint64_t blockBytes = 0;
    CHECK(device.api->kvBlockBytes(device.handle, &cache, &blockBytes, &device.error) == PAGODA_OK);
    memory_.assign(numBlocks * blockBytes, 0xff);
    cache.data = memory_.data();
  }

  std::vector<int32_t> take(int32_t tokens) {
    std::vector<int32_t> blocks;
    for (int32_t t = 0; t < tokens; t += cache.blockSize) blocks.push_back(--next_);
    return blocks;
  }

  PagodaKvCache cache;

 private:
  std::vector<uint8_t> memory_;
  int32_t next_;
};

PagodaTensor rowsOf(const std::vector<float>& values, const Chunk& chunk, int32_t width) {
  float* data = const_cast<float*>(values.data());
  return tensorAt(data + static_cast<int64_t>(chunk.start) * width, chunk.length, width);
}

void write(Device& device, const Shape& shape, const Cache& cache, const Chunk& chunk) {
  const int32_t blockSize = cache.cache.blockSize;
  std::vector<int32_t> slots;
  for (int32_t t = chunk.start; t < chunk.start + chunk.length; ++t)
    slots.push_back(chunk.blocks[t / blockSize] * blockSize + t % blockSize);
  device.run<PagodaLatentWrite>(device.api->latentWrite,
                                {rowsOf(chunk.sequence->latent, chunk, shape.latentDim),
                                 rowsOf(chunk.sequence->ropeKey, chunk, shape.ropeDim), cache.cache, slots.data()});
}

// The arrays of a batch.
struct Batch {
  explicit Batch(const std::vector<Chunk>& chunks) {
    for (const Chunk& chunk : chunks) maxBlocks = std::max(maxBlocks, static_cast<int32_t>(chunk.blocks.size()));
    table.assign(chunks.size() * maxBlocks, -1);
    for (size_t r = 0; r < chunks.size(); ++r) {
      starts.push_back(starts.back() + chunks[r].length);
      lengths.push_back(chunks[r].start + chunks[r].length);
      std::copy(chunks[r].blocks.begin(), chunks[r].blocks.end(), table.begin() + r * maxBlocks);
    }
  }
  PagodaBatch batch() const {
    return {static_cast<int32_t>(lengths.size()),
            starts.back(),
            maxBlocks,
            starts.back(),
            *std::max_element(lengths.begin(), lengths.end()),
            starts.data(),
            lengths.data(),
            table.data()};
  }

  int32_t maxBlocks = 1;
  std::vector<int32_t> starts = {0}, lengths, table;
};

// [tokens of all chunks, numHeads * valueDim]
std::vector<float> attend(Device& device, const Shape& shape, const Cache& cache, const std::vector<Chunk>& chunks,
                          int32_t expandFrom = 0) {
  std::vector<float> query, queryRope;
  const auto append = [](std::vector<float>& to, const std::vector<float>& from, const Chunk& chunk, int64_t width) {
    to.insert(to.end(), from.begin() + chunk.start * width, from.begin() + (chunk.start + chunk.length) * width);
  };
  const int32_t width = shape.numHeads * shape.nopeDim, ropeWidth = shape.numHeads * shape.ropeDim;
  for (const Chunk& chunk : chunks) {
    append(query, chunk.sequence->query, chunk, width);
    append(queryRope, chunk.sequence->queryRope, chunk, ropeWidth);
  }
  const Batch batch(chunks);
  const int32_t tokens = batch.starts.back();
  const auto weight = [&](int32_t rows, int32_t cols) {
    return Weight(device, PAGODA_MATRIX, shape.weightDtype, rows, cols);
  };
  Weight keyUp = weight(shape.numHeads * shape.latentDim, shape.nopeDim);
  Weight valueUp = weight(shape.outWidth(), shape.latentDim);
  Weight keyExpand = weight(width, shape.latentDim);
  keyUp.fill(device, 0, keyUp.weight.rows, keyUpOf(shape).data(), PAGODA_F32);
  valueUp.fill(device, 0, valueUp.weight.rows, valueUpOf(shape).data(), PAGODA_F32);
  keyExpand.fill(device, 0, keyExpand.weight.rows, keyExpandOf(shape).data(), PAGODA_F32);
  Guarded out(static_cast<size_t>(tokens) * shape.outWidth());
  device.run<PagodaMlaAttention>(
      device.api->mlaAttention,
      {tensorOf(out, tokens, shape.outWidth()), tensorAt(query.data(), tokens, width),
       tensorAt(queryRope.data(), tokens, ropeWidth), cache.cache, batch.batch(), keyUp.weight, valueUp.weight,
       expandFrom > 0 ? keyExpand.weight : PagodaWeight{}, shape.numHeads, shape.scale(), expandFrom});
  CHECK(out.intact());
  return {out.data(), out.data() + out.size()};
}

// The rows that the cache gives back, [tokens of the chunk, rowDim].
std::vector<float> gather(Device& device, const Shape& shape, const Cache& cache, const std::vector<Chunk>& chunks) {
  const Batch batch(chunks);
  const int32_t tokens = batch.starts.back();
  Guarded out(static_cast<size_t>(tokens) * shape.rowDim());
  device.run<PagodaGatherKv>(device.api->gatherKv, {tensorOf(out, tokens, shape.rowDim()), cache.cache, batch.batch()});
  CHECK(out.intact());
  return {out.data(), out.data() + out.size()};
}

std::string describe(const std::string& isa, const Shape& s) {
  return text("%s mlaAttention %d heads of %d + %d and %d, latents of %d, dtypes %d and %d", isa.c_str(), s.numHeads,
              s.nopeDim, s.ropeDim, s.valueDim, s.latentDim, s.dtype, s.weightDtype);
}

// Whether queries, weights and rows of int8 are rounded to bf16.
bool hasBf16Products(const std::string& isa, const Shape& shape) {
  return isa == "avx512" && shape.dtype != PAGODA_F32;
}

template <class B>
double dot(const float* a, const B* b, int32_t n) {
  double sum = 0;
  for (int32_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// ---- against double precision ----------------------------------------------------------------------

// [numHeads * valueDim] of one token over gathered rows [token + 1, rowDim].
std::vector<double> definition(const std::string& isa, const Shape& shape, const Sequence& s,
                               const std::vector<float>& rows, int32_t token) {
  const bool rounded = hasBf16Products(isa, shape);
  const auto operand = [&](double x) {
    const auto number = static_cast<float>(x);
    return rounded ? static_cast<double>(roundBf16(number)) : x;
  };
  const std::vector<float> keyUp = keyUpOf(shape), valueUp = valueUpOf(shape);
  std::vector<double> out;
  for (int32_t h = 0; h < shape.numHeads; ++h) {
    const float* query = s.query.data() + (static_cast<int64_t>(token) * shape.numHeads + h) * shape.nopeDim;
    std::vector<double> row;
    for (int32_t l = 0; l < shape.latentDim; ++l) {
      const float* weights = &keyUp[static_cast<size_t>(h * shape.latentDim + l) * shape.nopeDim];
      row.push_back(operand(dot(weights, query, shape.nopeDim)));
    }
    for (int32_t d = 0; d < shape.ropeDim; ++d)
      row.push_back(operand(
          static_cast<double>(s.queryRope[(static_cast<size_t>(token) * shape.numHeads + h) * shape.ropeDim + d])));
    std::vector<double> scores;
    for (int32_t p = 0; p <= token; ++p) {
      double score = 0;
      for (int32_t d = 0; d < shape.rowDim(); ++d)
        score += row[d] * operand(static_cast<double>(rows[static_cast<size_t>(p) * shape.rowDim() + d]));
      scores.push_back(score * static_cast<double>(shape.scale()));
    }
    const double largest = *std::max_element(scores.begin(), scores.end());
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - largest);
    std::vector<double> latent(shape.latentDim, 0.0);
    for (int32_t p = 0; p <= token; ++p) {
      for (int32_t l = 0; l < shape.latentDim; ++l)
        latent[l] +=
            scores[p] / total * operand(static_cast<double>(rows[static_cast<size_t>(p) * shape.rowDim() + l]));
    }
    for (int32_t d = 0; d < shape.valueDim; ++d)
      out.push_back(
          dot(&valueUp[static_cast<size_t>(h * shape.valueDim + d) * shape.latentDim], latent.data(), shape.latentDim));
  }
  return out;
}

// A batch of prefill, chunk and decode against the definition over what gatherKv reads.
void testDefinition(const std::string& isa, const Shape& shape, int32_t blockSize, int32_t expandFrom = 0) {
  section(describe(isa, shape) + text(" blocks of %d, expanded from %d", blockSize, expandFrom));
  Device device(isa.c_str(), 2);
  const std::pair<int32_t, int32_t> requests[] = {{0, 5}, {70, 1}, {13, 9}, {0, 1}, {513, 2}};
  Cache cache(device, shape, blockSize, 700 / blockSize + 8);
  std::vector<Sequence> sequences;
  sequences.reserve(5);
  std::vector<Chunk> chunks;
  for (const auto& [cached, fresh] : requests) {
    sequences.push_back(randomSequence(shape, cached + fresh, cached * 7 + fresh));
    const Chunk whole = {&sequences.back(), 0, cached + fresh, cache.take(cached + fresh)};
    write(device, shape, cache, whole);
    chunks.push_back({&sequences.back(), cached, fresh, whole.blocks});
  }
  // Expanded keys and values are rounded to bf16, too.
  const double rounding = expandFrom > 0 ? 1.0 / 64 : 1.0 / 128;
  const double tolerance = 1e-5 + (hasBf16Products(isa, shape) ? rounding : 0.0);
  const std::vector<float> out = attend(device, shape, cache, chunks, expandFrom);
  size_t at = 0;
  for (const Chunk& chunk : chunks) {
    const int32_t end = chunk.start + chunk.length;
    const std::vector<float> rows = gather(device, shape, cache, {{chunk.sequence, 0, end, chunk.blocks}});
    for (int32_t t = chunk.start; t < end; ++t) {
      for (double expected : definition(isa, shape, *chunk.sequence, rows, t)) {
        CHECK_CLOSE(out[at], expected, tolerance, text("token %d output %zu", t, at % shape.outWidth()));
        ++at;
      }
    }
  }
}

// Rows are read back from any token to any other, alone and together.
void testGather(const std::string& isa, PagodaDtype dtype) {
  section(text("%s gatherKv dtype %d", isa.c_str(), dtype));
  const Shape shape = {1, 34, 10, dtype};
  Device device(isa.c_str(), 2);
  Cache cache(device, shape, 5, 100);
  const Sequence a = randomSequence(shape, 83, 1), b = randomSequence(shape, 40, 2);
  const Chunk wholeA = {&a, 0, 83, cache.take(83)}, wholeB = {&b, 0, 40, cache.take(40)};
  write(device, shape, cache, wholeA);
  write(device, shape, cache, wholeB);
  const std::vector<float> rows = gather(device, shape, cache, {wholeA});
  const double tolerance = dtype == PAGODA_F32 ? 0 : dtype == PAGODA_BF16 ? 1.0 / 512 : 1.0 / 254 + 1e-6;
  for (int32_t t = 0; t < 83; ++t) {
    for (int32_t d = 0; d < 44; ++d) {
      const float expected = d < 34 ? a.latent[t * 34 + d] : a.ropeKey[t * 10 + d - 34];
      CHECK_CLOSE(rows[t * 44 + d], static_cast<double>(expected), tolerance, text("token %d column %d", t, d));
    }
  }
  const std::vector<float> parts = gather(
      device, shape, cache,
      {{&a, 7, 1, wholeA.blocks}, {&b, 40, 0, wholeB.blocks}, {&b, 3, 37, wholeB.blocks}, {&a, 14, 69, wholeA.blocks}});
  const std::vector<float> rowsB = gather(device, shape, cache, {wholeB});
  CHECK(sameBits(parts.data(), rows.data() + 7 * 44, 44));
  CHECK(sameBits(parts.data() + 44, rowsB.data() + 3 * 44, 37 * 44));
  CHECK(sameBits(parts.data() + 38 * 44, rows.data() + 14 * 44, 69 * 44));
}

// Keys and values of each head are made of the latents, in double.
void testExpandedDefinition(const std::string& isa) {
  section(isa + " absorbed against expanded");
  const Shape shape = {3, 16, 8, PAGODA_F32, 6, 5};
  constexpr int32_t kTokens = 150;
  const Sequence s = randomSequence(shape, kTokens, 4);
  const std::vector<float> up = keyExpandOf(shape), down = valueUpOf(shape);
  Device device(isa.c_str(), 2);
  Cache cache(device, shape, 16, 12);
  const Chunk whole = {&s, 0, kTokens, cache.take(kTokens)};
  write(device, shape, cache, whole);
  const std::vector<float> out = attend(device, shape, cache, {whole});
  for (int32_t t = 0; t < kTokens; t += 29) {
    for (int32_t head = 0; head < 3; ++head) {
      const int32_t row = t * 3 + head;
      std::vector<double> weights;
      double total = 0;
      for (int32_t p = 0; p <= t; ++p) {
        double score = dot(&s.queryRope[row * 8], &s.ropeKey[p * 8], 8);
        for (int32_t i = 0; i < 6; ++i)
          score += static_cast<double>(s.query[row * 6 + i]) * dot(&up[(head * 6 + i) * 16], &s.latent[p * 16], 16);
        weights.push_back(std::exp(score * static_cast<double>(shape.scale())));
        total += weights.back();
      }
      for (int32_t i = 0; i < 5; ++i) {
        double expected = 0;
        for (int32_t p = 0; p <= t; ++p)
          expected += weights[p] / total * dot(&down[(head * 5 + i) * 16], &s.latent[p * 16], 16);
        CHECK_CLOSE(out[row * 5 + i], expected, 1e-5, text("token %d head %d", t, head));
      }
    }
  }
}

// ---- by bits ---------------------------------------------------------------------------------------

// The whole sequence, `chunk` tokens a step, alone on its device.
std::vector<float> runChunked(const std::string& isa, int32_t threads, const Shape& shape, const Sequence& sequence,
                              int32_t chunk, int32_t blockSize, int32_t expandFrom = 0) {
  Device device(isa.c_str(), threads);
  Cache cache(device, shape, blockSize, sequence.tokens / blockSize + 3);
  const std::vector<int32_t> blocks = cache.take(sequence.tokens);
  std::vector<float> all;
  for (int32_t start = 0; start < sequence.tokens; start += chunk) {
    const Chunk step = {&sequence, start, std::min(chunk, sequence.tokens - start), blocks};
    write(device, shape, cache, step);
    const std::vector<float> out = attend(device, shape, cache, {step}, expandFrom);
    all.insert(all.end(), out.begin(), out.end());
  }
  return all;
}

void testInvariance(const std::string& isa, const Shape& shape, int32_t tokens, int32_t expandFrom = 0) {
  section(describe(isa, shape) + text(" invariance, expanded from %d", expandFrom));
  const Sequence sequence = randomSequence(shape, tokens, 99);
  const std::vector<float> whole = runChunked(isa, 1, shape, sequence, tokens, 16, expandFrom);
  const struct {
    int32_t threads, chunk, blockSize;
  } ways[] = {{2, tokens, 16}, {3, 1, 16}, {2, 7, 1}, {1, 64, 3}, {2, 100, 64}, {1, 65, 256}};
  for (const auto& way : ways) {
    const std::vector<float> out = runChunked(isa, way.threads, shape, sequence, way.chunk, way.blockSize, expandFrom);
    CHECK(out.size() == whole.size() && sameBits(out.data(), whole.data(), out.size()),
          "threads %d chunk %d blocks of %d", way.threads, way.chunk, way.blockSize);
  }
}

// A request's rows are the same beside others, also beside one that shares all its blocks.
// Which form it is computed in depends on the number of its tokens.
void testNeighbours(const std::string& isa, PagodaDtype dtype, int32_t expandFrom) {
  section(text("%s mlaAttention neighbours, dtype %d, expanded from %d", isa.c_str(), dtype, expandFrom));
  const Shape shape = {16, 24, 8, dtype};
  Device device(isa.c_str(), 2);
  Cache cache(device, shape, 8, 300);
  const int32_t lengths[] = {90, 33, 1, 1140}, fresh[] = {1, 33, 1, 50};
  std::vector<Sequence> sequences;
  sequences.reserve(4);
  std::vector<Chunk> chunks;
  for (int i = 0; i < 4; ++i) {
    sequences.push_back(randomSequence(shape, lengths[i], i));
    const Chunk whole = {&sequences[i], 0, lengths[i], cache.take(lengths[i])};
    write(device, shape, cache, whole);
    chunks.push_back({&sequences[i], lengths[i] - fresh[i], fresh[i], whole.blocks});
  }
  chunks.push_back({&sequences[3], 1139, 1, chunks[3].blocks});
  const std::vector<float> together = attend(device, shape, cache, chunks, expandFrom);
  size_t at = 0;
  for (const Chunk& chunk : chunks) {
    const bool expands = expandFrom > 0 && chunk.length >= expandFrom;
    const std::vector<float> alone = attend(device, shape, cache, {chunk}, expands ? 1 : 0);
    CHECK(sameBits(alone.data(), together.data() + at, alone.size()), "%zu rows on", at);
    at += alone.size();
  }
}

// NaN and infinities of one token reach the tokens after it, but not those before it.
void testCausality(const std::string& isa, PagodaDtype dtype, float poison, int32_t at, int32_t expandFrom) {
  section(text("%s mlaAttention causality, dtype %d, %g at %d, expanded from %d", isa.c_str(), dtype,
               static_cast<double>(poison), at, expandFrom));
  const Shape shape = {4, 16, 8, dtype};
  Sequence sequence = randomSequence(shape, 150, 5);
  const std::vector<float> clean = runChunked(isa, 1, shape, sequence, 150, 16, expandFrom);
  std::fill_n(sequence.latent.begin() + at * 16, 16, poison);
  const std::vector<float> poisoned = runChunked(isa, 2, shape, sequence, 150, 16, expandFrom);
  const int32_t width = shape.outWidth();
  CHECK(sameBits(clean.data(), poisoned.data(), static_cast<size_t>(at) * width), "tokens before");
  CHECK(!std::isfinite(poisoned[at * width]), "the token itself");
}

// ---- malformed -------------------------------------------------------------------------------------

void testRefusals() {
  section("malformed latent caches and ops");
  Device device(nullptr, 1);
  const Shape shape = {2, 8, 4};
  Cache cache(device, shape, 4, 4);
  const auto blockStatus = [&](auto change) {
    PagodaKvCache changed = cache.cache;
    change(changed);
    uint64_t bytes = 0;
    return device.api->kvBlockBytes(device.handle, &changed, &bytes, &device.error);
  };
  CHECK(blockStatus([](PagodaKvCache&) {}) == PAGODA_OK);
  CHECK(blockStatus([](PagodaKvCache& c) { c.latentDim = -2; }) == PAGODA_INVALID);
  CHECK(blockStatus([](PagodaKvCache& c) { c.latentDim = 7; }) == PAGODA_INVALID);
  CHECK(blockStatus([](PagodaKvCache& c) { c.latentDim = 12; }) == PAGODA_INVALID);
  CHECK(blockStatus([](PagodaKvCache& c) { c.headDim = 13; }) == PAGODA_INVALID);
  CHECK(blockStatus([](PagodaKvCache& c) { c.numKvHeads = 2; }) == PAGODA_INVALID);
  CHECK(blockStatus([](PagodaKvCache& c) { c.headDim = 4096; }) == PAGODA_UNSUPPORTED);
  CHECK(blockStatus([](PagodaKvCache& c) { c.dtype = PAGODA_F16; }) == PAGODA_UNSUPPORTED);

  const Sequence s = randomSequence(shape, 4, 1);
  const Batch batch(std::vector<Chunk>{{&s, 2, 2, {1}}});
  std::vector<float> out(64), query(64), rope(64);
  const Weight keyUp(device, PAGODA_MATRIX, PAGODA_F32, 16, 6), valueUp(device, PAGODA_MATRIX, PAGODA_F32, 10, 8);
  const Weight keyExpand(device, PAGODA_MATRIX, PAGODA_F32, 12, 8);
  const PagodaMlaAttention good = {tensorAt(out.data(), 2, 10),
                                   tensorAt(query.data(), 2, 12),
                                   tensorAt(rope.data(), 2, 8),
                                   cache.cache,
                                   batch.batch(),
                                   keyUp.weight,
                                   valueUp.weight,
                                   keyExpand.weight,
                                   2,
                                   1,
                                   2};
  const auto status = [&](auto change) {
    PagodaMlaAttention changed = good;
    change(changed);
    return device.api->mlaAttention(device.handle, &changed, &device.error);
  };
  CHECK(status([](PagodaMlaAttention&) {}) == PAGODA_OK);
  CHECK(status([](PagodaMlaAttention& op) { op.numHeads = 4; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.numHeads = 0; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.query.width = 11; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.out.width = 8; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.queryRope.width = 6; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.queryRope.rows = 1; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.keyUp.cols = 4; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.keyUp.data = nullptr; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.valueUp.rows = 8; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.valueUp.kind = PAGODA_TABLE; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.keyExpand.rows = 10; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.keyExpand.data = nullptr; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.expandFrom = -1; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.cache.latentDim = 0; }) == PAGODA_INVALID);
  CHECK(status([](PagodaMlaAttention& op) { op.batch.maxBlocks = 0; }) == PAGODA_INVALID);

  PagodaGatherKv gather = {tensorAt(out.data(), 2, 12), cache.cache, batch.batch()};
  CHECK(device.api->gatherKv(device.handle, &gather, &device.error) == PAGODA_OK);
  gather.out.width = 11;
  CHECK(device.api->gatherKv(device.handle, &gather, &device.error) == PAGODA_INVALID);
  gather.out = tensorAt(out.data(), 1, 12);
  CHECK(device.api->gatherKv(device.handle, &gather, &device.error) == PAGODA_INVALID);

  const int32_t slots[] = {0, 15}, beyond[] = {0, 16};
  PagodaLatentWrite write = {tensorAt(query.data(), 2, 8), tensorAt(rope.data(), 2, 4), cache.cache, slots};
  CHECK(device.api->latentWrite(device.handle, &write, &device.error) == PAGODA_OK);
  write.slotMapping = beyond;
  CHECK(device.api->latentWrite(device.handle, &write, &device.error) == PAGODA_INVALID);
  const PagodaCacheWrite separate = {tensorAt(query.data(), 2, 12), tensorAt(rope.data(), 2, 12), cache.cache, slots};
  CHECK(device.api->cacheWrite(device.handle, &separate, &device.error) == PAGODA_INVALID);
}

// Each token is in one pass, at its position, and only those of long requests are expanded.
void testPasses() {
  section("passes of mlaAttention");
  const int32_t starts[] = {0, 300, 301, 301, 9301, 9400}, lengths[] = {300, 77, 5, 20000, 99};
  PagodaMlaAttention op = {};
  op.out.width = op.query.width = 1 << 16;
  op.cache.headDim = 8;
  op.cache.latentDim = 4;
  op.batch = {5, 9400, 1, 9000, 20000, starts, lengths, nullptr};
  op.numHeads = 1 << 16;
  op.expandFrom = 200;
  MlaPasses passes;
  for (int32_t expandFrom : {0, 200}) {
    op.expandFrom = expandFrom;
    std::vector<int32_t> seen(9400, 0);
    size_t expanded = 0;
    for (const MlaPass& pass : passes.cut(op)) {
      expanded += pass.isExpanded ? 1 : 0;
      CHECK(pass.batch.numTokens > 0 && pass.batch.numTokens <= (pass.isExpanded ? 4096 : 21));
      CHECK(pass.batch.queryStartLoc[5] == pass.batch.numTokens);
      for (int32_t r = 0; r < 5; ++r) {
        const int32_t begin = pass.batch.queryStartLoc[r], end = pass.batch.queryStartLoc[r + 1];
        for (int32_t i = begin; i < end; ++i) {
          const int32_t row = pass.rows[i];
          CHECK(row >= starts[r] && row < starts[r + 1]);
          CHECK(pass.batch.seqLens[r] - (end - i) == lengths[r] - (starts[r + 1] - row), "position of row %d", row);
          CHECK(pass.isExpanded == (expandFrom > 0 && starts[r + 1] - starts[r] >= expandFrom));
          ++seen[row];
        }
      }
    }
    CHECK(expanded == (expandFrom > 0 ? 4 : 0), "%zu expanded passes", expanded);
    CHECK(std::count(seen.begin(), seen.end(), 1) == 9400, "every row once");
  }
}

void testIsa(const std::string& isa) {
  for (PagodaDtype dtype : {PAGODA_F32, PAGODA_BF16, PAGODA_INT8}) {
    for (int32_t numHeads : {1, 5, 16}) testDefinition(isa, {numHeads, 32, 8, dtype}, 16);
    testDefinition(isa, {2, 2, 2, dtype}, 1);
    testDefinition(isa, {128, 34, 10, dtype}, 3);
    testDefinition(isa, {3, 36, 4, dtype, 7, 70}, 16);
    testDefinition(isa, {4, 512, 64, dtype, 128, 128}, 64);
    testGather(isa, dtype);
    testInvariance(isa, {6, 20, 4, dtype}, 150);
    testInvariance(isa, {2, 34, 10, dtype}, 1100);
    testDefinition(isa, {5, 32, 8, dtype}, 16, 1);
    testDefinition(isa, {3, 36, 4, dtype, 7, 70}, 1, 2);
    testDefinition(isa, {45, 34, 10, dtype, 3, 5}, 3, 1);
    testDefinition(isa, {2, 512, 64, dtype, 128, 128}, 64, 1);
    testInvariance(isa, {6, 20, 4, dtype}, 150, 1);
    testInvariance(isa, {2, 34, 10, dtype, 5, 17}, 1100, 1);
    for (PagodaDtype weights : {PAGODA_BF16, PAGODA_Q8_0})
      testInvariance(isa, {3, 64, 8, dtype, 32, 20, weights}, 150, 1);
    for (PagodaDtype weights : {PAGODA_BF16, PAGODA_Q8_0}) testInvariance(isa, {5, 32, 8, dtype, 64, 20, weights}, 150);
    for (int32_t expandFrom : {0, 20}) testNeighbours(isa, dtype, expandFrom);
    for (float poison : {kNaN, std::numeric_limits<float>::infinity()}) {
      for (int32_t at : {0, 40, 63, 64, 149}) {
        for (int32_t expandFrom : {0, 1}) testCausality(isa, dtype, poison, at, expandFrom);
      }
    }
  }
  testDefinition(isa, {140, 16, 8, PAGODA_F32, 128, 128}, 16, 1);  // heads in several groups
  testExpandedDefinition(isa);
}

}  // namespace
}  // namespace pagoda::test

int main() {
  for (const std::string& isa : pagoda::test::isas()) pagoda::test::testIsa(isa);
  pagoda::test::testPasses();
  pagoda::test::testRefusals();
  return pagoda::test::finish();
}
