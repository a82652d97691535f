// The layout of one block of the KV cache: a part for the K of each head, then a part for the V of each head. K is
// [headDim][blockSize], so that a tile of keys is the right operand of Q K^T as it stands, V is [blockSize][headDim].
//
// A block of a latent cache is [blockSize][headDim], a token's row [latent | rope key] stored once for K and V. In int8
// it begins with its scales, f32 [blockSize][2], of the latent and of the rope key of a token.
//
// In int8 a part begins with its scales, f32 [blockSize], one a token: an element is its code, -127 to 127, times the
// scale of its token. The scale is the largest |x| / 127, a code x / scale rounded to nearest even. A NaN or infinity
// among the elements of a token makes the scale NaN, and so all of them.
#ifndef PAGODA_CPU_KV_LAYOUT_H
#define PAGODA_CPU_KV_LAYOUT_H

#include <stdint.h>

#include "../backend.h"

namespace pagoda {

static inline int64_t kvElementBytes(const PagodaKvCache& cache) {
  if (cache.dtype == PAGODA_INT8) return 1;
  return cache.dtype == PAGODA_BF16 ? 2 : 4;
}

// Columns of V a head.
static inline int32_t valueDim(const PagodaKvCache& cache) {
  return cache.latentDim > 0 ? cache.latentDim : cache.headDim;
}

// Of the scales before the elements of a part.
static inline int64_t kvScaleBytes(const PagodaKvCache& cache) {
  return cache.dtype == PAGODA_INT8 ? static_cast<int64_t>(sizeof(float)) * cache.blockSize : 0;
}

static inline int64_t kvPartBytes(const PagodaKvCache& cache) {
  const int64_t elements = static_cast<int64_t>(cache.headDim) * cache.blockSize * kvElementBytes(cache);
  const int64_t align = cache.dtype == PAGODA_INT8 ? sizeof(float) : 1;
  return (kvScaleBytes(cache) + elements + align - 1) / align * align;
}

// Of the scales before the rows of a block of a latent cache.
static inline int64_t latentScaleBytes(const PagodaKvCache& cache) { return 2 * kvScaleBytes(cache); }

static inline int64_t latentBlockBytes(const PagodaKvCache& cache) {
  const int64_t elements = static_cast<int64_t>(cache.headDim) * cache.blockSize * kvElementBytes(cache);
  const int64_t align = sizeof(float);
  return latentScaleBytes(cache) + (elements + align - 1) / align * align;
}

static inline int64_t kvBlockBytes(const PagodaKvCache& cache) {
  return cache.latentDim > 0 ? latentBlockBytes(cache) : 2 * cache.numKvHeads * kvPartBytes(cache);
}

static inline char* latentBlock(const PagodaKvCache& cache, int64_t block) {
  return static_cast<char*>(cache.data) + block * latentBlockBytes(cache);
}

// [2], of one token, in int8 only.
static inline float* latentScales(const PagodaKvCache& cache, int64_t block, int64_t offset) {
  return reinterpret_cast<float*>(latentBlock(cache, block)) + 2 * offset;
}

// [headDim], of one token; the next offset is headDim elements on.
template <class Element>
static inline Element* latentRow(const PagodaKvCache& cache, int64_t block, int64_t offset) {
  return reinterpret_cast<Element*>(latentBlock(cache, block) + latentScaleBytes(cache)) + offset * cache.headDim;
}

static inline char* keyPart(const PagodaKvCache& cache, int64_t block, int64_t head) {
  return static_cast<char*>(cache.data) + block * kvBlockBytes(cache) + head * kvPartBytes(cache);
}

static inline char* valuePart(const PagodaKvCache& cache, int64_t block, int64_t head) {
  return keyPart(cache, block, cache.numKvHeads + head);
}

// [blockSize], in int8 only.
static inline float* kvScales(char* part) { return reinterpret_cast<float*>(part); }

template <class Element>
static inline Element* kvElements(const PagodaKvCache& cache, char* part) {
  return reinterpret_cast<Element*>(part + kvScaleBytes(cache));
}

}  // namespace pagoda

#endif
