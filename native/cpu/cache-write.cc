// Writes K and V of each token into its slot of the paged cache (layout: kv-layout.h).
#include "bf16.h"
#include "isa-kernels.h"
#include "kv-layout.h"

namespace pagoda::PAGODA_ISA {
namespace {

void put(float* to, float value) { *to = value; }
void put(uint16_t* to, float value) { *to = floatToBf16(value); }

template <class Element>
void writeToken(const PagodaCacheWrite& op, int32_t token, Element* elements) {
  const PagodaKvCache& cache = op.cache;
  const int32_t slot = op.slotMapping[token];
  if (slot < 0) return;
  const int64_t offset = slot % cache.blockSize;
  for (int32_t head = 0; head < cache.numKvHeads; ++head) {
    const float* key = rowOf(op.key, token) + static_cast<int64_t>(head) * cache.headDim;
    const float* value = rowOf(op.value, token) + static_cast<int64_t>(head) * cache.headDim;
    Element* keys = elements + keyOffset(cache, slot / cache.blockSize, head) + offset;
    Element* values = elements + valueOffset(cache, slot / cache.blockSize, head) + offset * cache.headDim;
    for (int64_t d = 0; d < cache.headDim; ++d) put(keys + d * cache.blockSize, key[d]);
    for (int64_t d = 0; d < cache.headDim; ++d) put(values + d, value[d]);
  }
}

}  // namespace

void cacheWrite(const KernelContext& context, const PagodaCacheWrite& op) {
  parallelRows(context.pool, op.key.rows, op.key.width, [&](int32_t token) {
    if (op.cache.dtype == PAGODA_BF16) {
      writeToken(op, token, static_cast<uint16_t*>(op.cache.data));
    } else {
      writeToken(op, token, static_cast<float*>(op.cache.data));
    }
  });
}

}  // namespace pagoda::PAGODA_ISA
