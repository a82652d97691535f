// The layout of one block of the KV cache: K as [numKvHeads][headDim][blockSize], so that a tile of keys is the right
// operand of Q K^T as it stands, then V as [numKvHeads][blockSize][headDim]. Offsets are in elements.
#ifndef PAGODA_CPU_KV_LAYOUT_H
#define PAGODA_CPU_KV_LAYOUT_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

static inline int64_t kvElementBytes(const PagodaKvCache& cache) { return cache.dtype == PAGODA_BF16 ? 2 : 4; }

// Elements of K, or of V, of one head in one block.
static inline int64_t kvHeadElements(const PagodaKvCache& cache) {
  return static_cast<int64_t>(cache.headDim) * cache.blockSize;
}

static inline int64_t kvBlockElements(const PagodaKvCache& cache) {
  return 2 * cache.numKvHeads * kvHeadElements(cache);
}

// K of (head, offset 0, dimension 0); dimensions are blockSize apart.
static inline int64_t keyOffset(const PagodaKvCache& cache, int64_t block, int64_t head) {
  return block * kvBlockElements(cache) + head * kvHeadElements(cache);
}

// V of (head, offset 0, dimension 0); offsets are headDim apart.
static inline int64_t valueOffset(const PagodaKvCache& cache, int64_t block, int64_t head) {
  return keyOffset(cache, block, cache.numKvHeads + head);
}

}  // namespace pagoda

#endif
