// Sequences, paged caches and batches for the tests of attention.
#ifndef PAGODA_TEST_ATTENTION_FIXTURE_H
#define PAGODA_TEST_ATTENTION_FIXTURE_H

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cpu-fixture.h"

namespace pagoda::test {

struct Shape {
  int32_t numHeads;
  int32_t numKvHeads;
  int32_t headDim;
  PagodaDtype dtype = PAGODA_F32;
  int32_t slidingWindow = 0;
  float softcap = 0;
};

// What a request has computed: q, k, v of all its tokens, [tokens, heads * headDim].
struct Sequence {
  int32_t tokens;
  std::vector<float> q, k, v;
};

inline Sequence randomSequence(const Shape& shape, int32_t tokens, uint64_t seed) {
  Random random(seed);
  const size_t queryWidth = static_cast<size_t>(shape.numHeads) * shape.headDim;
  const size_t kvWidth = static_cast<size_t>(shape.numKvHeads) * shape.headDim;
  Sequence s = {tokens, random.floats(tokens * queryWidth), random.floats(tokens * kvWidth),
                random.floats(tokens * kvWidth)};
  for (float& value : s.q) value *= 3;
  return s;
}

// One chunk of a request in one step.
struct Chunk {
  const Sequence* sequence;
  int32_t start;   // first token of this step
  int32_t length;  // tokens of this step
};

// Of the K, or the V, of one head in one block. Parts of int8 begin with their scales and end on whole floats.
inline uint64_t partBytes(const Shape& shape, int32_t blockSize) {
  const uint64_t elements = static_cast<uint64_t>(shape.headDim) * blockSize;
  if (shape.dtype == PAGODA_INT8) return 4ull * blockSize + (elements + 3) / 4 * 4;
  return elements * (shape.dtype == PAGODA_BF16 ? 2 : 4);
}

// A KV cache full of NaN, with blocks handed out in a scattered order.
class Cache {
 public:
  Cache(Device& device, const Shape& shape, int32_t blockSize, int32_t numBlocks)
      : cache{.data = nullptr,
              .numBlocks = numBlocks,
              .blockSize = blockSize,
              .numKvHeads = shape.numKvHeads,
              .headDim = shape.headDim,
              .dtype = shape.dtype,
              .latentDim = 0} {
    CHECK(device.api->kvBlockBytes(device.handle, &cache, &blockBytes, &device.error) == PAGODA_OK);
    CHECK(blockBytes == 2ull * shape.numKvHeads * partBytes(shape, blockSize));
    memory.assign(numBlocks * blockBytes, 0xff);  // NaN in all types, scales of int8 included
    cache.data = memory.data();
    free_.resize(numBlocks);
    std::iota(free_.begin(), free_.end(), 0);
    Random random(blockSize);
    for (size_t i = free_.size() - 1; i > 0; --i) std::swap(free_[i], free_[random.below(static_cast<int32_t>(i) + 1)]);
  }

  std::vector<int32_t> take(int32_t tokens) {
    std::vector<int32_t> blocks;
    for (int32_t t = 0; t < tokens; t += cache.blockSize) {
      blocks.push_back(free_.back());
      free_.pop_back();
    }
    return blocks;
  }

  PagodaKvCache cache;
  uint64_t blockBytes = 0;
  std::vector<uint8_t> memory;

 private:
  std::vector<int32_t> free_;
};

// Writes tokens [start, start + length) of a sequence into its blocks.
inline void writeCache(Device& device, const Shape& shape, Cache& cache, const Chunk& chunk,
                       const std::vector<int32_t>& blocks) {
  const int32_t width = shape.numKvHeads * shape.headDim;
  const int32_t blockSize = cache.cache.blockSize;
  std::vector<int32_t> slots;
  for (int32_t t = chunk.start; t < chunk.start + chunk.length; ++t) {
    slots.push_back(blocks[t / blockSize] * blockSize + t % blockSize);
  }
  const size_t offset = static_cast<size_t>(chunk.start) * width;
  device.run<PagodaCacheWrite>(
      device.api->cacheWrite,
      {.key = tensorAt(const_cast<float*>(chunk.sequence->k.data()) + offset, chunk.length, width),
       .value = tensorAt(const_cast<float*>(chunk.sequence->v.data()) + offset, chunk.length, width),
       .cache = cache.cache,
       .slotMapping = slots.data()});
}

// Runs the chunks as one batch; result [tokens of all chunks, numHeads * headDim].
inline std::vector<float> attend(Device& device, const Shape& shape, Cache& cache, const std::vector<Chunk>& chunks,
                                 const std::vector<std::vector<int32_t>>& blocks) {
  const int32_t width = shape.numHeads * shape.headDim;
  int32_t maxBlocks = 1;
  for (const auto& table : blocks) maxBlocks = std::max(maxBlocks, static_cast<int32_t>(table.size()));
  std::vector<int32_t> starts = {0};
  std::vector<int32_t> lengths;
  std::vector<int32_t> table(chunks.size() * maxBlocks, -1);
  std::vector<float> queries;
  for (size_t r = 0; r < chunks.size(); ++r) {
    const auto begin = chunks[r].sequence->q.begin() + static_cast<int64_t>(chunks[r].start) * width;
    queries.insert(queries.end(), begin, begin + static_cast<int64_t>(chunks[r].length) * width);
    starts.push_back(starts.back() + chunks[r].length);
    lengths.push_back(chunks[r].start + chunks[r].length);
    std::copy(blocks[r].begin(), blocks[r].end(), table.begin() + r * maxBlocks);
  }
  Guarded query(queries);
  Guarded out(queries.size());
  const int32_t tokens = starts.back();
  device.run<PagodaAttention>(device.api->attention,
                              {.out = tensorOf(out, tokens, width),
                               .query = tensorOf(query, tokens, width),
                               .cache = cache.cache,
                               .batch = {.numRequests = static_cast<int32_t>(chunks.size()),
                                         .numTokens = tokens,
                                         .maxBlocks = maxBlocks,
                                         .maxQueryLen = tokens,
                                         .maxSeqLen = *std::max_element(lengths.begin(), lengths.end()),
                                         .queryStartLoc = starts.data(),
                                         .seqLens = lengths.data(),
                                         .blockTable = table.data()},
                               .numHeads = shape.numHeads,
                               .scale = 1 / std::sqrt(static_cast<float>(shape.headDim)),
                               .slidingWindow = shape.slidingWindow,
                               .softcap = shape.softcap});
  CHECK(out.intact());
  return {out.data(), out.data() + out.size()};
}

inline std::string describe(const std::string& isa, const Shape& s) {
  return text("%s attention heads %d/%d of %d %s window %d softcap %g", isa.c_str(), s.numHeads, s.numKvHeads,
              s.headDim,
              s.dtype == PAGODA_F32    ? "f32"
              : s.dtype == PAGODA_BF16 ? "bf16"
                                       : "int8",
              s.slidingWindow, static_cast<double>(s.softcap));
}

}  // namespace pagoda::test

#endif
