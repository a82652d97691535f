// Writes K and V of each token into its slot of the paged cache (layout: kv-layout.h).
#include "bf16.h"
#include "isa-kernels.h"
#include "kv-layout.h"

namespace pagoda::PAGODA_ISA {
namespace {

void put(float* to, float value) { *to = value; }
void put(uint16_t* to, float value) { *to = floatToBf16(value); }

// Writes n numbers as elements `stride` apart. `scale` is for types that have one.
template <class Element>
void writeRow(const float* from, int64_t n, Element* to, int64_t stride, float*) {
  for (int64_t i = 0; i < n; ++i) put(to + i * stride, from[i]);
}

// The largest |x|; NaN if there is a NaN or an infinity.
float largestOf(const float* from, int64_t n) {
  float largest = 0.0f;
  float zeros = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float size = __builtin_fabsf(from[i]);
    largest = size > largest ? size : largest;
    zeros += size * 0.0f;
  }
  return largest + zeros;
}

void writeRow(const float* from, int64_t n, int8_t* to, int64_t stride, float* scale) {
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

template <class Element>
void writeToken(const PagodaCacheWrite& op, int32_t token) {
  const PagodaKvCache& cache = op.cache;
  const int32_t slot = op.slotMapping[token];
  if (slot < 0) return;
  const int64_t offset = slot % cache.blockSize;
  for (int32_t head = 0; head < cache.numKvHeads; ++head) {
    const int64_t column = static_cast<int64_t>(head) * cache.headDim;
    char* keys = keyPart(cache, slot / cache.blockSize, head);
    char* values = valuePart(cache, slot / cache.blockSize, head);
    writeRow(rowOf(op.key, token) + column, cache.headDim, kvElements<Element>(cache, keys) + offset, cache.blockSize,
             kvScales(keys) + offset);
    writeRow(rowOf(op.value, token) + column, cache.headDim,
             kvElements<Element>(cache, values) + offset * cache.headDim, 1, kvScales(values) + offset);
  }
}

}  // namespace

void cacheWrite(const KernelContext& context, const PagodaCacheWrite& op) {
  parallelRows(context.pool, op.key.rows, op.key.width, [&](int32_t token) {
    switch (op.cache.dtype) {
      case PAGODA_BF16:
        return writeToken<uint16_t>(op, token);
      case PAGODA_INT8:
        return writeToken<int8_t>(op, token);
      default:
        return writeToken<float>(op, token);
    }
  });
}

}  // namespace pagoda::PAGODA_ISA
