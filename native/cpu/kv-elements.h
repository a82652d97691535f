// Elements of the KV cache written from floats and read back (layout: kv-layout.h). Included by files compiled per
// instruction set.
#ifndef PAGODA_CPU_KV_ELEMENTS_H
#define PAGODA_CPU_KV_ELEMENTS_H

#include "bf16.h"
#include "isa-kernels.h"
#include "kv-layout.h"

namespace pagoda::PAGODA_ISA {
namespace {

inline void put(float* to, float value) { *to = value; }
inline void put(uint16_t* to, float value) { *to = floatToBf16(value); }

// Writes n numbers as elements `stride` apart. `scale` is for types that have one.
template <class Element>
void writeRow(const float* from, int64_t n, Element* to, int64_t stride, float*) {
  for (int64_t i = 0; i < n; ++i) put(to + i * stride, from[i]);
}

// The largest |x|; NaN if there is a NaN or an infinity.
inline float largestOf(const float* from, int64_t n) {
  float largest = 0.0f;
  float zeros = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float size = __builtin_fabsf(from[i]);
    largest = size > largest ? size : largest;
    zeros += size * 0.0f;
  }
  return largest + zeros;
}

inline void writeRow(const float* from, int64_t n, int8_t* to, int64_t stride, float* scale) {
  constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, nearest even
  constexpr float kMost = 127.0f;
  *scale = largestOf(from, n) / kMost;
  const bool isScaled = *scale > 0.0f;  // neither zero nor NaN
  for (int64_t i = 0; i < n; ++i) {
    float code = isScaled ? from[i] / *scale : 0.0f;
    code = code > kMost ? kMost : code < -kMost ? -kMost : code;  // a subnormal scale may be too small
    to[i * stride] = static_cast<int8_t>((code + kMagic) - kMagic);
  }
}

// An element as attention sees it. `scale` is for types that have one.
inline float valueOf(float x, float) { return x; }
inline float valueOf(uint16_t x, float) { return bf16ToFloat(x); }
inline float valueOf(int8_t x, float scale) { return static_cast<float>(x) * scale; }

template <class Element>
constexpr bool kHasScale = sizeof(Element) == 1;

// Reads n elements `stride` apart. `scale` is for types that have one.
template <class Element>
void readRow(const Element* from, int64_t stride, int64_t n, float scale, float* to) {
  for (int64_t i = 0; i < n; ++i) to[i] = valueOf(from[i * stride], scale);
}

// [latent | rope key] of one token of a latent cache.
template <class Element>
void readLatentRow(const PagodaKvCache& cache, int32_t block, int64_t offset, float* to) {
  const Element* row = latentRow<Element>(cache, block, offset);
  const float* scales = latentScales(cache, block, offset);
  const int32_t latentDim = cache.latentDim;
  readRow(row, 1, latentDim, kHasScale<Element> ? scales[0] : 1.0f, to);
  readRow(row + latentDim, 1, cache.headDim - latentDim, kHasScale<Element> ? scales[1] : 1.0f, to + latentDim);
}

// Calls body(Element()) with the type of the cache's elements.
template <class Body>
void withElement(PagodaDtype dtype, Body body) {
  if (dtype == PAGODA_BF16) return body(uint16_t());
  if (dtype == PAGODA_INT8) return body(int8_t());
  body(float());
}

}  // namespace
}  // namespace pagoda::PAGODA_ISA

#endif
