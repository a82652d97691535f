// Reads tokens back from the cache as f32: the inverse of cacheWrite and latentWrite. A warp takes a vector.
#include "kv-cache.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;

__device__ float* elementAt(const PagodaGatherKv& op, int row, int column) {
  if (op.layout == PAGODA_ND) return rowOf(op.out, row) + column;
  const int64_t before = static_cast<int64_t>(column / PAGODA_NZ_COLUMNS) * op.out.rows + row;
  return rowOf(op.out, 0) + before * PAGODA_NZ_COLUMNS + column % PAGODA_NZ_COLUMNS;
}

template <PagodaDtype kDtype>
__global__ void __launch_bounds__(kThreads) gatherKvKernel(const PagodaGatherKv op) {
  const int row = blockIdx.x, request = requestOf(op.batch, row);
  const int32_t position = op.batch.seqLens[request] - (op.batch.queryStartLoc[request + 1] - row);
  const int32_t* blocks = op.batch.blockTable + static_cast<int64_t>(request) * op.batch.maxBlocks;
  const int64_t slot = slotOf(blocks, position, op.cache.blockSize);
  const KvLayout layout(op.cache);
  const int heads = op.cache.numKvHeads, dim = op.cache.headDim;
  for (int vector = warpOf(); vector < layout.parts * heads; vector += kThreads / kWarp) {
    const KvVector from = kvVector(op.cache, layout, slot, vector / heads, vector % heads);
    const int latentDim = op.cache.latentDim;
    const float scale = kvScale<kDtype>(from), ropeScale = latentDim > 0 ? kvScale<kDtype>(from, 1) : 0.0f;
    for (int i = laneOf(); i < dim; i += kWarp)
      *elementAt(op, row, vector * dim + i) =
          kvElement<kDtype>(from, i, latentDim > 0 && i >= latentDim ? ropeScale : scale);
  }
}

}  // namespace

PagodaStatus gatherKv(PagodaDevice* device, const PagodaGatherKv* op, PagodaError* error) {
  if (const PagodaStatus status = requireF32(error, op->out)) return status;
  if (op->out.rows == 0) return PAGODA_OK;
  return withKvDtype(op->cache.dtype, [&](auto dtype) {
    const LaunchShape shape = {dim3(op->out.rows), dim3(kThreads)};
    return check(launch(gatherKvKernel<decltype(dtype)::value>, shape, device->stream, *op), "gatherKv", error);
  });
}

}  // namespace pagoda::cuda
