// Copies tokens out of the paged cache into contiguous rows, by block table (layout: kv-layout.h). Block ids are
// trusted.
#include "kv-elements.h"

namespace pagoda::PAGODA_ISA {
namespace {

// [K of all heads | V of all heads]
template <class Element>
void gatherHeads(const PagodaKvCache& cache, int32_t block, int64_t offset, float* to) {
  const int64_t width = static_cast<int64_t>(cache.numKvHeads) * cache.headDim;
  for (int32_t head = 0; head < cache.numKvHeads; ++head) {
    char* keys = keyPart(cache, block, head);
    char* values = valuePart(cache, block, head);
    const float keyScale = kHasScale<Element> ? kvScales(keys)[offset] : 1.0f;
    const float valueScale = kHasScale<Element> ? kvScales(values)[offset] : 1.0f;
    float* row = to + static_cast<int64_t>(head) * cache.headDim;
    readRow(kvElements<Element>(cache, keys) + offset, cache.blockSize, cache.headDim, keyScale, row);
    readRow(kvElements<Element>(cache, values) + offset * cache.headDim, 1, cache.headDim, valueScale, row + width);
  }
}

// The sequence that row `row` belongs to: the last that starts at it or before it and is not empty.
int32_t sequenceOf(const PagodaBatch& batch, int32_t row) {
  int32_t first = 0;
  int32_t end = batch.numRequests;
  while (end - first > 1) {
    const int32_t middle = first + (end - first) / 2;
    if (batch.queryStartLoc[middle] <= row) {
      first = middle;
    } else {
      end = middle;
    }
  }
  return first;
}

}  // namespace

void gatherKv(const KernelContext& context, const PagodaGatherKv& op) {
  const PagodaBatch& batch = op.batch;
  const PagodaKvCache& cache = op.cache;
  withElement(cache.dtype, [&](auto element) {
    using Element = decltype(element);
    parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
      const int32_t r = sequenceOf(batch, row);
      const int32_t position = batch.seqLens[r] - (batch.queryStartLoc[r + 1] - row);
      const int32_t* blocks = batch.blockTable + static_cast<int64_t>(r) * batch.maxBlocks;
      const int32_t block = blocks[position / cache.blockSize];
      const int64_t offset = position % cache.blockSize;
      const auto gather = cache.latentDim > 0 ? readLatentRow<Element> : gatherHeads<Element>;
      gather(cache, block, offset, rowOf(op.out, row));
    });
  });
}

}  // namespace pagoda::PAGODA_ISA
