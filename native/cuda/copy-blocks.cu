// Copies blocks, pair after pair. A thread has the same 16 bytes of every block, so pairs stay in order without
// waiting.
#include "kv-cache.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) copyBlocksKernel(const PagodaCopyBlocks op) {
  const int64_t words = KvLayout(op.cache).block / 16;
  const int64_t word = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (word >= words) return;
  auto* data = static_cast<uint4*>(op.cache.data) + word;
  for (int pair = 0; pair < op.numPairs; ++pair)
    data[op.pairs[2 * pair + 1] * words] = data[op.pairs[2 * pair] * words];
}

}  // namespace

PagodaStatus copyBlocks(PagodaDevice* device, const PagodaCopyBlocks* op, PagodaError* error) {
  if (op->numPairs == 0) return PAGODA_OK;
  const auto blocks = static_cast<unsigned>(ceilDivide(KvLayout(op->cache).block / 16, kThreads));
  const LaunchShape shape = {dim3(blocks), dim3(kThreads)};
  return check(launch(copyBlocksKernel, shape, device->stream, *op), "copyBlocks", error);
}

}  // namespace pagoda::cuda
