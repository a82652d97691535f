// Merges what the splits of each row found, in order. A warp takes a token and head.
#include "attention.cuh"

namespace pagoda::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kColumns = 4;  // of a lane at a time

__global__ void __launch_bounds__(kThreads) combineSplitsKernel(const Combining c) {
  const int64_t rows = static_cast<int64_t>(c.out.rows) * c.numHeads;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + warpOf();
  if (row >= rows) return;
  const int head = static_cast<int>(row % c.numHeads);
  float* out = rowOf(c.out, row / c.numHeads) + static_cast<int64_t>(head) * c.dim;
  for (int start = 0; start < c.dim; start += kWarp * kColumns) {
    SoftmaxState state;
    float sums[kColumns] = {};
    for (int split = 0; split < c.splits; ++split) {
      const SoftmaxState other = c.partials.states[split * rows + row];
      if (other.largest == -kInfinity) continue;  // its sums were not written
      const float* from = c.partials.sums + (split * rows + row) * c.dim;
      const MergeFactors factors = merge(state, other);
#pragma unroll
      for (int i = 0; i < kColumns; ++i) {
        const int column = start + i * kWarp + laneOf();
        if (column < c.dim) sums[i] = mergeSums(sums[i], from[column], factors);
      }
    }
    const float factor = finalFactor(state, sinkOf(c.sinks, head));
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int column = start + i * kWarp + laneOf();
      if (column < c.dim) out[column] = sums[i] * factor;
    }
  }
}

}  // namespace

PagodaStatus combineSplits(PagodaDevice* device, const Combining& combining, PagodaError* error) {
  const int64_t rows = static_cast<int64_t>(combining.out.rows) * combining.numHeads;
  const LaunchShape shape = {dim3(static_cast<unsigned>(ceilDivide(rows, kThreads / kWarp))), dim3(kThreads)};
  return check(launch(combineSplitsKernel, shape, device->stream, combining), "attention", error);
}

}  // namespace pagoda::cuda
