// Writes the row of each token into its slot of a latent cache (layout: kv-layout.h).
#include "kv-elements.h"

namespace pagoda::PAGODA_ISA {
namespace {

template <class Element>
void writeToken(const PagodaLatentWrite& op, int32_t token) {
  const PagodaKvCache& cache = op.cache;
  const int32_t slot = op.slotMapping[token];
  if (slot < 0) return;
  const int32_t block = slot / cache.blockSize;
  const int32_t offset = slot % cache.blockSize;
  Element* row = latentRow<Element>(cache, block, offset);
  float* scales = latentScales(cache, block, offset);
  writeRow(rowOf(op.latent, token), cache.latentDim, row, 1, scales);
  writeRow(rowOf(op.ropeKey, token), cache.headDim - cache.latentDim, row + cache.latentDim, 1, scales + 1);
}

}  // namespace

void latentWrite(const KernelContext& context, const PagodaLatentWrite& op) {
  withElement(op.cache.dtype, [&](auto element) {
    parallelRows(context.pool, op.latent.rows, op.cache.headDim,
                 [&](int32_t token) { writeToken<decltype(element)>(op, token); });
  });
}

}  // namespace pagoda::PAGODA_ISA
