// Copies tokens out of the paged cache into contiguous rows, by block table (layout: kv-layout.h). Block ids are
// trusted.
#include "kv-elements.h"

namespace pagoda::PAGODA_ISA {
namespace {

// A row of `out`, or what is behind some columns of it.
struct OutRow {
  float* data;

  float& at(int64_t column) const { return data[column]; }
};

// The same in columns of kNzColumns elements, `rows` of which follow each other.
struct NzOutRow {
  float* data;
  int64_t rows;

  float& at(int64_t column) const { return data[column / kNzColumns * rows * kNzColumns + column % kNzColumns]; }
};

// Reads n elements `stride` apart. `scale` is for types that have one.
template <class Element, class Row>
void readRow(const Element* from, int64_t stride, int64_t n, float scale, const Row& to, int64_t column) {
  for (int64_t i = 0; i < n; ++i) to.at(column + i) = valueOf(from[i * stride], scale);
}

template <class Element>
constexpr bool kHasScale = sizeof(Element) == 1;

// [K of all heads | V of all heads]
template <class Element, class Row>
void gatherHeads(const PagodaKvCache& cache, int32_t block, int64_t offset, const Row& to) {
  const int64_t width = static_cast<int64_t>(cache.numKvHeads) * cache.headDim;
  for (int32_t head = 0; head < cache.numKvHeads; ++head) {
    char* keys = keyPart(cache, block, head);
    char* values = valuePart(cache, block, head);
    const float keyScale = kHasScale<Element> ? kvScales(keys)[offset] : 1.0f;
    const float valueScale = kHasScale<Element> ? kvScales(values)[offset] : 1.0f;
    const int64_t column = static_cast<int64_t>(head) * cache.headDim;
    const Element* value = kvElements<Element>(cache, values) + offset * cache.headDim;
    readRow(kvElements<Element>(cache, keys) + offset, cache.blockSize, cache.headDim, keyScale, to, column);
    readRow(value, 1, cache.headDim, valueScale, to, width + column);
  }
}

// [latent | rope key]
template <class Element, class Row>
void gatherLatent(const PagodaKvCache& cache, int32_t block, int64_t offset, const Row& to) {
  const Element* row = latentRow<Element>(cache, block, offset);
  const float* scales = latentScales(cache, block, offset);
  const int32_t latentDim = cache.latentDim;
  readRow(row, 1, latentDim, kHasScale<Element> ? scales[0] : 1.0f, to, 0);
  readRow(row + latentDim, 1, cache.headDim - latentDim, kHasScale<Element> ? scales[1] : 1.0f, to, latentDim);
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

// Calls body(row of out, block, offset) for each row.
template <class Body>
void forTokens(const KernelContext& context, const PagodaGatherKv& op, Body body) {
  const PagodaBatch& batch = op.batch;
  parallelRows(context.pool, op.out.rows, op.out.width, [&](int32_t row) {
    const int32_t r = sequenceOf(batch, row);
    const int32_t position = batch.seqLens[r] - (batch.queryStartLoc[r + 1] - row);
    const int32_t* blocks = batch.blockTable + static_cast<int64_t>(r) * batch.maxBlocks;
    body(row, blocks[position / op.cache.blockSize], position % op.cache.blockSize);
  });
}

template <class Element, class RowAt>
void gatherRows(const KernelContext& context, const PagodaGatherKv& op, RowAt rowAt) {
  using Row = decltype(rowAt(0));
  const auto gather = op.cache.latentDim > 0 ? gatherLatent<Element, Row> : gatherHeads<Element, Row>;
  forTokens(context, op,
            [&](int32_t row, int32_t block, int64_t offset) { gather(op.cache, block, offset, rowAt(row)); });
}

}  // namespace

void gatherKv(const KernelContext& context, const PagodaGatherKv& op) {
  withElement(op.cache.dtype, [&](auto element) {
    using Element = decltype(element);
    if (op.layout == PAGODA_ND) {
      return gatherRows<Element>(context, op, [&](int32_t row) { return OutRow{rowOf(op.out, row)}; });
    }
    float* out = rowOf(op.out, 0);
    gatherRows<Element>(context, op, [&](int32_t row) { return NzOutRow{out + row * kNzColumns, op.out.rows}; });
  });
}

}  // namespace pagoda::PAGODA_ISA
