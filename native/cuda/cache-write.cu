// Writes K and V of each token into its slot. A warp takes a vector: one head of K or of V.
#include "kv-cache.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;

template <PagodaDtype kDtype>
__global__ void __launch_bounds__(kThreads) cacheWriteKernel(const PagodaCacheWrite op) {
  const int32_t slot = op.slotMapping[blockIdx.x];
  if (slot < 0) return;
  const KvLayout layout(op.cache);
  const int heads = op.cache.numKvHeads, dim = op.cache.headDim;
  for (int vector = warpOf(); vector < 2 * heads; vector += kThreads / kWarp) {
    const int part = vector / heads, head = vector % heads;
    const float* x = rowOf(part == 0 ? op.key : op.value, blockIdx.x) + static_cast<int64_t>(head) * dim;
    const KvVector to = kvVector(op.cache, layout, slot, part, head);
    writeVector<kDtype>(to.data, to.scales, x, dim);
  }
}

}  // namespace

PagodaStatus cacheWrite(PagodaDevice* device, const PagodaCacheWrite* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->key, op->value)) return status;
  if (op->cache.latentDim > 0) return fail(PAGODA_INVALID, "Expected a cache of K and V apart", error);
  if (op->key.rows == 0) return PAGODA_OK;
  return withKvDtype(op->cache.dtype, [&](auto dtype) {
    const LaunchShape shape = {dim3(op->key.rows), dim3(kThreads)};
    return check(launch(cacheWriteKernel<decltype(dtype)::value>, shape, device->stream, *op), "cacheWrite", error);
  });
}

}  // namespace pagoda::cuda
