// Merges what the splits of each row found, in order. A warp takes a token and head.
#include "attention.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) combineSplitsKernel(const Combining c) {
  const int64_t rows = static_cast<int64_t>(c.out.rows) * c.numHeads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warpOf();
  if (row >= rows) return;
  const int head = static_cast<int>(row % c.numHeads);
  float* out = rowOf(c.out, row / c.numHeads) + static_cast<int64_t>(head) * c.dim;
  combineRow(c.partials, row, rows, c.splits, c.dim, sinkOf(c.sinks, head), out);
}

}  // namespace

PagodaStatus reservePartials(PagodaDevice* device, int32_t splits, int64_t rows, int32_t dim, Partials* partials,
                             PagodaError* error) {
  const uint64_t count = static_cast<uint64_t>(splits) * rows;
  void* memory = nullptr;
  const uint64_t bytes = count * (dim * sizeof(float) + sizeof(SoftmaxState));
  if (const PagodaStatus status = device->scratch.reserve(device->stream, bytes, &memory, error)) return status;
  auto* sums = static_cast<float*>(memory);
  *partials = {sums, reinterpret_cast<SoftmaxState*>(sums + count * dim)};
  return PAGODA_OK;
}

PagodaStatus combineSplits(PagodaDevice* device, const Combining& combining, PagodaError* error) {
  const int64_t rows = static_cast<int64_t>(combining.out.rows) * combining.numHeads;
  const LaunchShape shape = {dim3(static_cast<unsigned>(ceilDivide(rows, kThreads / kWarp))), dim3(kThreads)};
  return check(launch(combineSplitsKernel, shape, device->stream, combining), "attention", error);
}

}  // namespace pagoda::cuda
