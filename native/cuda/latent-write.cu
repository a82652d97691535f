// Writes [latent | rope key] of each token into its slot. One warp takes the latent, the other the rope key.
#include "kv-cache.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 64;

template <PagodaDtype kDtype>
__global__ void __launch_bounds__(kThreads) latentWriteKernel(const PagodaLatentWrite op) {
  const int32_t slot = op.slotMapping[blockIdx.x];
  if (slot < 0) return;
  const KvVector to = kvVector(op.cache, KvLayout(op.cache), slot, 0, 0);
  const int part = warpOf();
  const PagodaTensor& x = part == 0 ? op.latent : op.ropeKey;
  uint8_t* data = to.data + (part == 0 ? 0 : op.cache.latentDim * kvElementBytes(kDtype));
  writeVector<kDtype>(data, to.scales + part, rowOf(x, blockIdx.x), x.width);
}

}  // namespace

PagodaStatus latentWrite(PagodaDevice* device, const PagodaLatentWrite* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->latent, op->ropeKey)) return status;
  if (op->cache.latentDim <= 0) return fail(PAGODA_INVALID, "Expected a latent cache", error);
  if (op->latent.rows == 0) return PAGODA_OK;
  return withKvDtype(op->cache.dtype, [&](auto dtype) {
    const LaunchShape shape = {dim3(op->latent.rows), dim3(kThreads)};
    return check(launch(latentWriteKernel<decltype(dtype)::value>, shape, device->stream, *op), "latentWrite", error);
  });
}

}  // namespace pagoda::cuda
