// Writes K and V of each token into its slot of the paged cache (layout: kv-layout.h).
#include "kv-elements.h"

namespace pagoda::PAGODA_ISA {
namespace {

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
