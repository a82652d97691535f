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

// One row of out, as it lies in layout ND.
template <class Element>
void gatherRow(const PagodaGatherKv& op, int32_t row, float* to) {
  const PagodaBatch& batch = op.batch;
  const int32_t r = sequenceOf(batch, row);
  const int32_t position = batch.seqLens[r] - (batch.queryStartLoc[r + 1] - row);
  const int32_t* blocks = batch.blockTable + static_cast<int64_t>(r) * batch.maxBlocks;
  const int32_t block = blocks[position / op.cache.blockSize];
  const int64_t offset = position % op.cache.blockSize;
  const auto gather = op.cache.latentDim > 0 ? readLatentRow<Element> : gatherHeads<Element>;
  gather(op.cache, block, offset, to);
}

// Lays a row out in layout NZ.
void storeColumns(const PagodaTensor& out, int32_t row, const float* from) {
  float* to = rowOf(out, 0) + static_cast<int64_t>(row) * PAGODA_NZ_COLUMNS;
  for (int64_t column = 0; column < out.width; column += PAGODA_NZ_COLUMNS) {
    for (int32_t i = 0; i < PAGODA_NZ_COLUMNS; ++i) to[column * out.rows + i] = from[column + i];
  }
}

}  // namespace

void gatherKv(const KernelContext& context, const PagodaGatherKv& op) {
  withElement(op.cache.dtype, [&](auto element) {
    using Element = decltype(element);
    if (op.layout == PAGODA_ND) {
      return parallelRows(context.pool, op.out.rows, op.out.width,
                          [&](int32_t row) { gatherRow<Element>(op, row, rowOf(op.out, row)); });
    }
    auto rows = [&](int32_t begin, int32_t end, int32_t worker) {
      float* own = static_cast<float*>(context.scratch) + static_cast<int64_t>(worker) * op.out.width;
      for (int32_t row = begin; row < end; ++row) {
        gatherRow<Element>(op, row, own);
        storeColumns(op.out, row, own);
      }
    };
    parallel(context.pool, op.out.rows, 16, rows);
  });
}

}  // namespace pagoda::PAGODA_ISA
